package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// certmonger is Debian's daemon of that name on a message bus of its own.
type certmonger struct {
	getcert string
	env     []string
}

// startCertmonger starts the bus, which starts the daemon for the first who asks.
func startCertmonger(t *testing.T) *certmonger {
	t.Helper()
	bus := tool(t, "dbus-daemon")
	tool(t, "/usr/lib/certmonger/scep-submit") // what it speaks SCEP by
	home := t.TempDir()
	c := &certmonger{getcert: tool(t, "getcert"), env: append(os.Environ(), "HOME="+home, "XDG_CONFIG_HOME="+filepath.Join(home, ".config"))}
	daemon := exec.Command(bus, "--session", "--nofork", "--print-address=1")
	daemon.Env = c.env
	daemon.WaitDelay = 30 * time.Second
	said, write := io.Pipe()
	daemon.Stdout = write
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// Whom the bus has started ends with it, and holds the same output: when that
		// has ended, nobody writes to the directory any more.
		if err := daemon.Process.Kill(); err != nil {
			t.Error(err)
		}
		_ = daemon.Wait()
		_ = write.Close()
	})
	lines := bufio.NewReader(said)
	address, err := lines.ReadString('\n')
	if err != nil {
		t.Fatalf("dbus-daemon says no address: %v", err)
	}
	go func() { _, _ = io.Copy(io.Discard, lines) }()
	c.env = append(c.env, "DBUS_SESSION_BUS_ADDRESS="+strings.TrimSpace(address))
	return c
}

// run talks to the daemon. It returns what getcert prints, whatever became of it.
func (c *certmonger) run(t *testing.T, command string, args ...string) string {
	t.Helper()
	cmd := exec.Command(c.getcert, append([]string{command, "-s"}, args...)...)
	cmd.Env = c.env
	out, err := cmd.CombinedOutput()
	return fmt.Sprintf("getcert %s: %v\n%s", command, err, out)
}

// status is how far the request of that name got, and why no farther.
func (c *certmonger) status(t *testing.T, request string) string {
	t.Helper()
	return c.run(t, "list", "-i", request)
}

// TestCertmongerEnrolsAndRenews has certmonger make keys and requests, so that what
// scep-submit sends is all its own.
func TestCertmongerEnrolsAndRenews(t *testing.T) {
	storagetest.AnyEngine(t)
	t.Parallel()
	tool(t, "getcert")
	s := startProcess(t, "")
	c := startCertmonger(t)
	// It takes no signature of an authority that it was not told of, and looks for
	// files from its own directory.
	addAuthority := func(t *testing.T, name, path string, args ...string) {
		t.Helper()
		if out := c.run(t, "add-scep-ca", append([]string{"-c", name, "-u", s.url + path}, args...)...); !strings.Contains(out, "added") {
			t.Fatal(out)
		}
	}
	request := func(t *testing.T, authority, id, challenge string, args ...string) (cert, status string) {
		t.Helper()
		dir := t.TempDir()
		cert = filepath.Join(dir, "cert.pem")
		c.run(t, "request", append([]string{"-c", authority, "-I", id, "-k", filepath.Join(dir, "key.pem"), "-f", cert,
			"-L", challenge, "-w", "--wait-timeout", "60"}, args...)...)
		return cert, c.status(t, id)
	}

	t.Run("for an identity", func(t *testing.T) {
		authority := fileOf(t, "identity.pem", fetch(t, s.http, "GET", s.url+"/ca/identity.pem", nil))
		addAuthority(t, "identities", "/scep", "-N", authority)
		challenge := challengeOf(t, fetch(t, s.http, "GET", s.link(t, 5), nil))
		file, status := request(t, "identities", "first", challenge, "-N", "CN=whoever")
		if !strings.Contains(status, "status: MONITORING") {
			t.Fatal(status)
		}
		if out, err := openssl(t, "verify", "-x509_strict", "-purpose", "sslclient", "-CAfile", authority, file); err != nil {
			t.Errorf("openssl: %v\n%s", err, out)
		}
		if got := readCertificate(t, file).Subject.CommonName; got == "whoever" || got == "" {
			t.Errorf("the certificate is for %q: it is the server that names it", got)
		}
		file, status = request(t, "identities", "second", challenge, "-N", "CN=whoever")
		if _, err := os.Stat(file); err == nil || strings.Contains(status, "status: MONITORING") {
			t.Errorf("the challenge bought a second certificate\n%s", status)
		}
	})

	t.Run("for a certificate of a template", func(t *testing.T) {
		s.staticTemplate(t, "web", "/O=Example/CN=$USERNAME", map[string]any{"dNSName": []string{"$USERNAME.example.com"}})
		root, issuing := s.authorityFiles(t, "web")
		addAuthority(t, "web", "/scep/web", "-N", root, "-I", issuing)
		names := []string{"-N", "O=Example,CN=www", "-D", "www.example.com"}
		file, status := request(t, "web", "third", staticChallenge, names...)
		if !strings.Contains(status, "status: MONITORING") {
			t.Fatal(status)
		}
		verified(t, root, issuing, file)
		cert := readCertificate(t, file)
		if got := cert.Subject.String(); got != "CN=www,O=Example" || len(cert.DNSNames) != 1 || cert.DNSNames[0] != "www.example.com" {
			t.Errorf("the certificate is for %s, %v", got, cert.DNSNames)
		}
		for _, command := range []string{"resubmit", "rekey", "resubmit"} { // the first and the last keep the key
			out := c.run(t, command, "-i", "third", "-w", "--wait-timeout", "60")
			if status := c.status(t, "third"); !strings.Contains(status, "status: MONITORING") {
				t.Fatalf("%s\n%s", out, status)
			}
			verified(t, root, issuing, file)
			renewed := readCertificate(t, file)
			renews(t, renewed, cert)
			if kept := bytes.Equal(renewed.RawSubjectPublicKeyInfo, cert.RawSubjectPublicKeyInfo); kept != (command == "resubmit") {
				t.Errorf("%s: the key was kept: %t", command, kept)
			}
			cert = renewed
		}
		file, status = request(t, "web", "fourth", "another challenge", names...)
		if _, err := os.Stat(file); err == nil || strings.Contains(status, "status: MONITORING") {
			t.Errorf("a wrong challenge bought a certificate\n%s", status)
		}
	})
}
