// Package acmetest runs an ACME authority on loopback: pebble, Let's Encrypt's own for
// tests. It shares no line with this project.
package acmetest

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// Pebble is the program, at a version that go install takes.
const Pebble = "github.com/letsencrypt/pebble/v2/cmd/pebble@v2.10.1"

// Options says how an Authority validates and issues. Names resolve to 127.0.0.1,
// whatever they are.
type Options struct {
	HTTPPort, TLSPort int               // where it looks for the answers to challenges; 0: nobody is there
	Lifetime          time.Duration     // of certificates, whole seconds; 0: 90 days
	Accounts          map[string]string // external accounts, one of which is required: key ID to HMAC key, base64url
}

// Authority is a running pebble.
type Authority struct {
	Directory string         // its URL
	RootsFile string         // PEM of what to trust at Directory
	Roots     *x509.CertPool // the same

	management string
	client     *http.Client
	stop       func()
}

// build builds pebble once for all tests of a run, outside of our module, whose versions
// it must not get.
var build = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "gatehouse-pebble")
	if err != nil {
		return "", err
	}
	install := exec.Command("go", "install", Pebble)
	install.Dir = dir // in no module
	install.Env = append(os.Environ(), "GOBIN="+dir, "GOFLAGS=-mod=mod", "CGO_ENABLED=0")
	if out, err := install.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go install %s: %w\n%s", Pebble, err, out)
	}
	return filepath.Join(dir, "pebble"), nil
})

// Start starts an authority for one test. Where pebble can't be had, it skips the test; in
// CI it fails it.
func Start(t testing.TB, o Options) *Authority {
	t.Helper()
	if testing.Short() {
		t.Skip("builds another program")
	}
	bin, err := build()
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal(err)
		}
		t.Skipf("%s can't be fetched here", Pebble)
	}
	dir := t.TempDir()
	certFile, keyFile, roots := endpointCertificate(t, dir)
	listen, management := FreeAddress(t), FreeAddress(t)
	for _, port := range []*int{&o.HTTPPort, &o.TLSPort} {
		if *port == 0 {
			*port = Port(t, FreeAddress(t))
		}
	}
	pebble := map[string]any{
		"listenAddress": listen, "managementListenAddress": management,
		"certificate": certFile, "privateKey": keyFile,
		"httpPort": o.HTTPPort, "tlsPort": o.TLSPort,
		"externalAccountBindingRequired": len(o.Accounts) > 0, "externalAccountMACKeys": o.Accounts,
		"retryAfter": map[string]int{"authz": 1, "order": 1},
		"profiles": map[string]any{
			"default": map[string]any{"description": "the only one", "validityPeriod": int(o.Lifetime.Seconds())},
		},
	}
	config, err := json.Marshal(map[string]any{"pebble": pebble})
	if err != nil {
		t.Fatal(err)
	}
	configFile := filepath.Join(dir, "pebble.json")
	if err := os.WriteFile(configFile, config, 0o600); err != nil {
		t.Fatal(err)
	}

	var out bytes.Buffer
	cmd := exec.Command(bin, "-config", configFile, "-dnsserver", resolver(t))
	cmd.Env = append(os.Environ(),
		"PEBBLE_VA_NOSLEEP=1", // validate at once
		"PEBBLE_AUTHZREUSE=0", // and each time
		"PEBBLE_WFE_ORDERS_PER_PAGE=10")
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(exited)
	}()
	stop := sync.OnceFunc(func() {
		_ = cmd.Process.Kill()
		<-exited
	})
	t.Cleanup(func() {
		stop()
		if t.Failed() {
			t.Logf("pebble said:\n%s", out.Bytes())
		}
	})

	a := &Authority{
		Directory: "https://" + listen + "/dir", RootsFile: certFile, Roots: roots,
		management: "https://" + management, stop: stop,
		client: &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}, Timeout: 10 * time.Second},
	}
	t.Cleanup(a.client.CloseIdleConnections)
	// It tells nobody when it has begun to listen.
	for _, url := range []string{a.Directory, a.management + "/roots/0"} {
		for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
			_, err := a.get(url)
			if err == nil {
				break
			}
			select {
			case <-exited:
				t.Fatalf("pebble ended:\n%s", out.Bytes())
			default:
			}
			if time.Now().After(deadline) {
				t.Fatal(err)
			}
		}
	}
	return a
}

func (a *Authority) get(url string) ([]byte, error) {
	resp, err := a.client.Get(url)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", url, resp.Status)
	}
	return body, err
}

// Stop ends the authority: nobody answers at Directory any more.
func (a *Authority) Stop() { a.stop() }

// Issuers returns the PEM of the root that issued certificates chain to.
func (a *Authority) Issuers(t testing.TB) []byte {
	t.Helper()
	root, err := a.get(a.management + "/roots/0")
	if err != nil {
		t.Fatal(err)
	}
	return root
}

// endpointCertificate makes the certificate of pebble's own HTTPS.
func endpointCertificate(t testing.TB, dir string) (certFile, keyFile string, roots *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		BasicConstraintsValid: true, IsCA: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certFile, keyFile = filepath.Join(dir, "pebble.pem"), filepath.Join(dir, "pebble-key.pem")
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	for name, content := range map[string][]byte{
		certFile: certPEM,
		keyFile:  pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}),
	} {
		if err := os.WriteFile(name, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	roots = x509.NewCertPool()
	roots.AppendCertsFromPEM(certPEM)
	return certFile, keyFile, roots
}

// FreeAddress returns an address of loopback where nobody listens.
func FreeAddress(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// Port is the port of addr.
func Port(t testing.TB, addr string) int {
	t.Helper()
	tcp, err := net.ResolveTCPAddr("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	return tcp.Port
}

// resolver starts a DNS server that knows every name: all are at 127.0.0.1. Pebble asks it
// over TCP (RFC 1035, 4.2.2).
func resolver(t testing.TB) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go answer(conn)
		}
	}()
	return l.Addr().String()
}

func answer(conn net.Conn) {
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	for {
		var size [2]byte
		if _, err := io.ReadFull(conn, size[:]); err != nil {
			return
		}
		query := make([]byte, binary.BigEndian.Uint16(size[:]))
		if _, err := io.ReadFull(conn, query); err != nil {
			return
		}
		reply, err := resolve(query)
		if err != nil {
			return
		}
		if _, err := conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(reply))), reply...)); err != nil {
			return
		}
	}
}

func resolve(query []byte) ([]byte, error) {
	var m dnsmessage.Message
	if err := m.Unpack(query); err != nil {
		return nil, err
	}
	m.Response, m.RecursionAvailable, m.Additionals = true, true, nil
	for _, q := range m.Questions {
		if q.Type == dnsmessage.TypeA {
			m.Answers = append(m.Answers, dnsmessage.Resource{
				Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: 1},
				Body:   &dnsmessage.AResource{A: [4]byte{127, 0, 0, 1}},
			})
		}
	}
	return m.Pack()
}
