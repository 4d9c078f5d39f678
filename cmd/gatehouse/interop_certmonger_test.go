package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
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

// TestCertmongerEnrols has certmonger make the key and the request, so that what
// scep-submit sends is all its own.
func TestCertmongerEnrols(t *testing.T) {
	t.Parallel()
	s := startProcess(t, "")
	c := startCertmonger(t)
	// It takes no signature of an authority that it was not told of, and looks for
	// files from its own directory.
	authority := fileOf(t, "identity.pem", fetch(t, s.http, "GET", s.url+"/ca/identity.pem", nil))
	if out := c.run(t, "add-scep-ca", "-c", "gatehouse", "-u", s.url+"/scep", "-N", authority); !strings.Contains(out, "added") {
		t.Fatal(out)
	}
	challenge := challengeOf(t, fetch(t, s.http, "GET", s.link(t, 5), nil))
	enroll := func(request string) (cert, status string) {
		dir := t.TempDir()
		cert = filepath.Join(dir, "cert.pem")
		c.run(t, "request", "-c", "gatehouse", "-I", request, "-k", filepath.Join(dir, "key.pem"), "-f", cert,
			"-N", "CN=whoever", "-L", challenge, "-w", "--wait-timeout", "60")
		return cert, c.status(t, request)
	}
	file, status := enroll("first")
	if !strings.Contains(status, "status: MONITORING") {
		t.Fatal(status)
	}
	if out, err := openssl(t, "verify", "-x509_strict", "-purpose", "sslclient", "-CAfile", authority, file); err != nil {
		t.Errorf("openssl: %v\n%s", err, out)
	}
	if got := readCertificate(t, file).Subject.CommonName; got == "whoever" || got == "" {
		t.Errorf("the certificate is for %q: it is the server that names it", got)
	}
	file, status = enroll("second")
	if _, err := os.Stat(file); err == nil || strings.Contains(status, "status: MONITORING") {
		t.Errorf("the challenge bought a second certificate\n%s", status)
	}
}
