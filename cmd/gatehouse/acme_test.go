package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/mdm/profile"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest/postgrestest"
	"github.com/gatehouse-mdm/gatehouse/webui/acme/acmetest"
)

const acmeDomain = "mdm.example.com"

// acmeProcess is the built program with --tls-mode acme, as a process of its own.
type acmeProcess struct {
	addr, home string
	out        *lockedBuffer
	stop       func()
}

// startACME starts the program on addr, and returns when it is ready. The roots in the
// file trusted are those of its system.
func startACME(t *testing.T, addr, trusted string, args ...string) *acmeProcess {
	t.Helper()
	bin, err := buildBinary()
	must(t, err)
	s := &acmeProcess{addr: addr, home: t.TempDir(), out: newLockedBuffer()}
	token := filepath.Join(t.TempDir(), "token")
	must(t, os.WriteFile(token, []byte(apiToken), 0o600))
	_, port, err := net.SplitHostPort(addr)
	must(t, err)
	cmd := exec.Command(bin, append([]string{"serve", "--listen", addr, "--server-url", "https://" + acmeDomain + ":" + port,
		"--tls-mode", "acme", "--acme-email", "ana@example.com",
		"--ca-key-bits", "2048", "--bootstrap-token-file", token, "--log-format", "text"}, args...)...)
	cmd.Env = append(os.Environ(), "HOME="+s.home, "XDG_DATA_HOME="+s.home, "SSL_CERT_FILE="+trusted, "SSL_CERT_DIR="+s.home)
	stderr, err := cmd.StderrPipe()
	must(t, err)
	must(t, cmd.Start())
	go func() {
		defer s.out.end()
		for lines := bufio.NewScanner(stderr); lines.Scan(); {
			s.out.write(lines.Text())
		}
	}()
	s.stop = sync.OnceFunc(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		s.out.await("\x00", 1) // its end
		_ = cmd.Wait()
	})
	t.Cleanup(func() {
		s.stop()
		if t.Failed() {
			t.Logf("the server at %s said:\n%s", addr, s.out)
		}
	})
	if !s.out.await("ready ", 1) {
		t.Fatal("the server did not start")
	}
	return s
}

// client returns one that finds the server under its name and trusts roots only.
func (s *acmeProcess) client(t *testing.T, roots *x509.CertPool) *http.Client {
	transport := &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", s.addr)
		},
	}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 30 * time.Second}
}

func (s *acmeProcess) url(t *testing.T) string {
	_, port, err := net.SplitHostPort(s.addr)
	must(t, err)
	return "https://" + acmeDomain + ":" + port
}

// leaf returns the certificate that the server shows to who trusts roots.
func (s *acmeProcess) leaf(t *testing.T, roots *x509.CertPool) *x509.Certificate {
	t.Helper()
	conn, err := tls.Dial("tcp", s.addr, &tls.Config{RootCAs: roots, ServerName: acmeDomain})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	return conn.ConnectionState().PeerCertificates[0]
}

// issuers returns what certificates of the authority chain to, also as a file.
func issuers(t *testing.T, a *acmetest.Authority) (*x509.CertPool, string) {
	t.Helper()
	text := a.Issuers(t)
	file := filepath.Join(t.TempDir(), "roots.pem")
	must(t, os.WriteFile(file, text, 0o600))
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(text)
	return roots, file
}

func TestACertificateOfAnACMEAuthorityIsServedAndSignsProfiles(t *testing.T) {
	storagetest.AnyEngine(t)
	t.Parallel()
	addr, plain := acmetest.FreeAddress(t), acmetest.FreeAddress(t)
	for name, options := range map[string]acmetest.Options{
		"by tls-alpn-01": {TLSPort: acmetest.Port(t, addr)},
		"by http-01":     {HTTPPort: acmetest.Port(t, plain)},
	} {
		t.Run(name, func(t *testing.T) {
			authority := acmetest.Start(t, options)
			roots, trusted := issuers(t, authority)
			dir := t.TempDir()
			args := append([]string{"--data-dir", dir, "--acme-http-listen", plain,
				"--acme-directory", authority.Directory, "--acme-ca", authority.RootsFile}, storeArgs(t, dir)...)
			s := startACME(t, addr, trusted, args...)
			if !s.out.await("TLS certificate loaded", 1) {
				t.Fatal("the server ended")
			}
			leaf := s.leaf(t, roots)
			if _, ok := leaf.PublicKey.(*rsa.PublicKey); !ok {
				t.Errorf("the certificate is for a %T, want RSA: it signs profiles", leaf.PublicKey)
			}
			client := s.client(t, roots)
			var link struct {
				ProfileURL string `json:"profile_url"`
			}
			decode(t, fetch(t, client, "POST", s.url(t)+"/api/v1/enrollment-links", []byte(`{"login":"none","uses":5}`)), &link)
			if _, signer, err := profile.Unwrap(fetch(t, client, "GET", link.ProfileURL, nil)); err != nil || !signer.Equal(leaf) {
				t.Errorf("the profile is signed by %v, %v, want the TLS certificate", signer, err)
			}

			// After a restart it is there at once, whether or not the authority is.
			s.stop()
			authority.Stop()
			s = startACME(t, addr, trusted, args...)
			if got := s.leaf(t, roots); !got.Equal(leaf) {
				t.Error("another certificate after a restart")
			}
			if !strings.Contains(s.out.String(), "✓ TLS from the ACME authority, issued for "+acmeDomain) {
				t.Error("the banner does not say so")
			}
			// All is in the database.
			for _, d := range []string{dir, s.home} {
				entries, err := os.ReadDir(d)
				must(t, err)
				for _, e := range entries {
					if !slices.Contains([]string{databaseName, "secrets.key", "gatehouse.sock", setupTokenName}, e.Name()) {
						t.Errorf("%s is in %s", e.Name(), d)
					}
				}
			}
		})
	}
}

func TestAServerStartsWithoutTheACMEAuthority(t *testing.T) {
	storagetest.AnyEngine(t)
	t.Parallel()
	dir := t.TempDir()
	nobody := filepath.Join(t.TempDir(), "roots.pem")
	must(t, os.WriteFile(nobody, nil, 0o600))
	s := startACME(t, acmetest.FreeAddress(t), nobody, append([]string{"--data-dir", dir,
		"--acme-directory", "https://" + acmetest.FreeAddress(t) + "/dir"}, storeArgs(t, dir)...)...)
	if !s.out.await("no TLS certificate from the ACME authority", 1) {
		t.Fatal("the server ended")
	}
	if !strings.Contains(s.out.String(), "check that this server may reach the authority by HTTPS") {
		t.Error("the log does not say what to do")
	}
	careless := s.client(t, nil)
	careless.Transport.(*http.Transport).TLSClientConfig.InsecureSkipVerify = true
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(fetch(t, careless, "GET", s.url(t)+"/ca.pem", nil))
	// A load balancer that waits for this would keep the challenges away.
	fetch(t, s.client(t, roots), "GET", s.url(t)+"/readyz", nil)
}

func TestReplicasShareACertificateAndAnswerEachOthersChallenges(t *testing.T) {
	storagetest.AnyEngine(t)
	t.Parallel()
	public := acmetest.NewEntrance(t)
	authority := acmetest.Start(t, acmetest.Options{TLSPort: public.Port()})
	roots, trusted := issuers(t, authority)
	key := filepath.Join(t.TempDir(), "secrets.key")
	args := []string{"--store", postgrestest.DSN(t), "--secrets-key-file", key,
		"--acme-directory", authority.Directory, "--acme-ca", authority.RootsFile}
	a := startACME(t, acmetest.FreeAddress(t), trusted, append(args, "--data-dir", t.TempDir())...)
	b := startACME(t, acmetest.FreeAddress(t), trusted, append(args, "--data-dir", t.TempDir())...)
	// The authority looks three times for each challenge, so both must have answered.
	public.LeadTo(a.addr, b.addr)
	for _, s := range []*acmeProcess{a, b} {
		if !s.out.await("TLS certificate loaded", 1) {
			t.Fatal("a server ended")
		}
		if !strings.Contains(s.out.String(), `msg="ACME challenge answered"`) {
			t.Errorf("the server at %s answered no challenge", s.addr)
		}
	}
	if !a.leaf(t, roots).Equal(b.leaf(t, roots)) {
		t.Error("the replicas have different certificates")
	}
	obtained := 0
	for _, s := range []*acmeProcess{a, b} {
		s.stop() // and all has been said
		obtained += strings.Count(s.out.String(), `msg="TLS certificate obtained"`)
	}
	if obtained != 1 {
		t.Errorf("%d certificates were obtained, want 1", obtained)
	}
}

func TestWherePlainHTTPIsListenedFor(t *testing.T) {
	storagetest.AnyEngine(t)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer taken.Close()
	for name, tt := range map[string]struct {
		mode         tlsMode
		listen, http string
		nowhere      bool // it must not listen
		fails        bool
	}{
		"where it is told":                        {tlsACME, "127.0.0.1:8443", "127.0.0.1:0", false, false},
		"nowhere if told so":                      {tlsACME, "127.0.0.1:443", noHTTP, true, false},
		"not beside another port than 443":        {tlsACME, "127.0.0.1:8443", "", true, false},
		"not without ACME":                        {tlsOwnCA, "127.0.0.1:443", "", true, false},
		"what is asked for and taken is an error": {tlsACME, "127.0.0.1:443", taken.Addr().String(), true, true},
		// Whether it may listen on port 80 depends on who runs the test.
		"beside port 443, or else without": {tlsACME, "127.0.0.1:443", "", false, false},
	} {
		t.Run(name, func(t *testing.T) {
			l, err := listenHTTP(t.Context(), config{tls: tt.mode, listen: tt.listen, acme: acmeConfig{httpListen: tt.http}}, slog.New(slog.DiscardHandler))
			if (err != nil) != tt.fails || tt.nowhere && l != nil || tt.http == "127.0.0.1:0" && l == nil {
				t.Errorf("listenHTTP = %v, %v", l, err)
			}
			if l != nil {
				if tt.http == "" && acmetest.Port(t, l.Addr().String()) != 80 {
					t.Errorf("it listens on %s, not on port 80", l.Addr())
				}
				must(t, l.Close())
			}
		})
	}
}

func TestPlainHTTPLeadsToTLS(t *testing.T) {
	storagetest.AnyEngine(t)
	to := &url.URL{Scheme: "https", Host: "mdm.example.com:8443"}
	for name, tt := range map[string]struct {
		method, target, auth string
		want                 int
		location             string
	}{
		"a page":                    {"GET", "/enroll/l/A%2FB?lang=de", "", 308, "https://mdm.example.com:8443/enroll/l/A%2FB?lang=de"},
		"the top":                   {"HEAD", "/", "", 308, "https://mdm.example.com:8443/"},
		"what looks like a host":    {"GET", "//evil.example/", "", 308, "https://mdm.example.com:8443//evil.example/"},
		"a request for elsewhere":   {"GET", "http://evil.example/x", "", 308, "https://mdm.example.com:8443/x"},
		"a form is refused":         {"POST", "/admin/login", "", 403, ""},
		"an API request is refused": {"GET", "/api/v1/devices", "Bearer x", 403, ""},
		"a device is refused":       {"PUT", "/mdm/checkin", "", 403, ""},
	} {
		t.Run(name, func(t *testing.T) {
			w := httptest.NewRecorder()
			r := httptest.NewRequest(tt.method, tt.target, bytes.NewReader(nil))
			if tt.auth != "" {
				r.Header.Set("Authorization", tt.auth)
			}
			redirect(to).ServeHTTP(w, r)
			if got := w.Header().Get("Location"); w.Code != tt.want || got != tt.location {
				t.Errorf("answer = %d, Location %q, want %d, %q", w.Code, got, tt.want, tt.location)
			}
		})
	}
}
