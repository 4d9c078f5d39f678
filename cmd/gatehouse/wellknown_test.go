package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// exampleCertificate is one of example.com's web server, signed by itself.
func exampleCertificate(t *testing.T) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"example.com"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(1000 * time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// TestADomainThatLeadsToTheServer asks a domain whose web server redirects to a real server
// of ours, which says itself what its URL is.
func TestADomainThatLeadsToTheServer(t *testing.T) {
	storagetest.AnyEngine(t)
	s := start(t, t.TempDir())
	var ignored map[string]any
	s.call(t, "PUT", "/api/v1/account-driven", map[string]any{
		"domains": []any{map[string]any{"domain": "example.com", "policy": map[string]string{"iPhone": "byod", "Mac": "adde"}}}, "method": "apple-as-web",
	}, &ignored)
	var made struct{ Token string }
	s.call(t, "POST", "/api/v1/tokens", map[string]any{"name": "test", "scopes": []string{"read_only"}}, &made)

	cert := exampleCertificate(t)
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Location", s.url+r.URL.RequestURI())
		w.WriteHeader(http.StatusTemporaryRedirect)
	}))
	srv.TLS = &tls.Config{Certificates: []tls.Certificate{cert}}
	srv.StartTLS()
	defer srv.Close()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	trusted := append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Certificate[0]}), s.get(t, "/ca.pem").body...)
	if err := os.WriteFile(ca, trusted, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct{ args, env []string }{
		"asked over the socket": {[]string{"--data-dir", s.dir}, nil},
		"asked with a token":    {[]string{"--server", s.url}, []string{"GATEHOUSE_TOKEN=" + made.Token}},
	} {
		t.Run(name, func(t *testing.T) {
			call := func(want int, args ...string) string {
				t.Helper()
				var out, errs strings.Builder
				args = slices.Concat([]string{"wellknown"}, args, tt.args, []string{"--ca", ca})
				if code := run(t.Context(), args, tt.env, strings.NewReader(""), &out, &errs); code != want || strings.Contains(errs.String(), "not checked") {
					t.Errorf("%v = %d, want %d\n%s\n%s", args, code, want, &out, &errs)
				}
				return out.String()
			}
			if got := call(exitDone, "snippet", "nginx", "--domain", "example.com"); !strings.Contains(got, "return 307 "+s.url+"/.well-known/") {
				t.Errorf("snippet: %s", got)
			}
			to := []string{"--connect-to", srv.Listener.Addr().String()}
			got := call(exitDone, append([]string{"check", "example.com", "--family", "iPhone", "--family", "Mac"}, to...)...)
			for _, want := range []string{"mdm-byod) at " + s.url, "(mdm-adde)", "0 errors, 0 warnings"} {
				if !strings.Contains(got, want) {
					t.Errorf("no %q in %s", want, got)
				}
			}
			if got := call(exitUsage, append([]string{"check", "example.com", "--family", "iPhone", "--family", "Watch"}, to...)...); !strings.Contains(got, "refused  Watch") {
				t.Errorf("a family that may not: %s", got)
			}
		})
	}
}

// TestWellKnownCheckOnTheCommandLine asks a web server that plays example.com.
func TestWellKnownCheckOnTheCommandLine(t *testing.T) {
	storagetest.AnyEngine(t)
	const good = `{"Servers":[{"Version":"mdm-byod","BaseURL":"https://mdm.example.com/enroll/byod"}]}`
	cert := exampleCertificate(t)
	for name, tt := range map[string]struct {
		contentType, text string
		args              []string
		code              int
		stdout, stderr    string
	}{
		"all is well":        {"application/json", good, nil, exitDone, "OK       answer\n", ""},
		"one family":         {"application/json", good, []string{"--family", "ipad"}, exitDone, "\niPad ", ""},
		"a mistake":          {"text/plain", good, nil, exitFailed, "ERROR    content_type_wrong\n         The Content-Type of example.com is", "devices don't get through: 1 error"},
		"another server":     {"application/json", good, []string{"--server-url", "https://other.example.com"}, exitFailed, "base_url_other_server", ""},
		"a warning":          {"dot", good, nil, exitUsage, "WARNING  trailing_dot", "wellknown check: 1 warning"},
		"the server unknown": {"application/json", good, []string{"--server-url", ""}, exitDone, "OK       answer\n", "is not checked"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				kind := tt.contentType
				if kind == "dot" {
					if kind = "application/json"; strings.HasSuffix(r.URL.Path, ".") {
						kind = "text/plain"
					}
				}
				w.Header().Set("Content-Type", kind)
				io.WriteString(w, tt.text)
			}))
			srv.TLS = &tls.Config{Certificates: []tls.Certificate{cert}}
			srv.StartTLS()
			defer srv.Close()
			dir := t.TempDir()
			ca := filepath.Join(dir, "ca.pem")
			if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Certificate[0]}), 0o600); err != nil {
				t.Fatal(err)
			}
			check := func(more ...string) (code int, stdout, stderr string) {
				args := []string{"wellknown", "check", "example.com", "--ca", ca, "--connect-to", srv.Listener.Addr().String()}
				if len(tt.args) == 0 || tt.args[0] != "--server-url" {
					args = append(args, "--server-url", "https://mdm.example.com")
				}
				args = append(append(args, tt.args...), more...)
				var out, errs strings.Builder
				code = run(context.Background(), args, []string{"HOME=" + dir, "XDG_DATA_HOME=" + dir}, strings.NewReader(""), &out, &errs)
				return code, out.String(), errs.String()
			}
			code, stdout, stderr := check()
			if code != tt.code {
				t.Errorf("exit code %d, want %d", code, tt.code)
			}
			if !strings.Contains(stdout, tt.stdout) || !strings.Contains(stderr, tt.stderr) {
				t.Errorf("output\n%s\nerrors\n%s", stdout, stderr)
			}
			var report struct{ OK bool }
			_, stdout, _ = check("--json")
			if err := json.Unmarshal([]byte(stdout), &report); err != nil || report.OK != (tt.code != exitFailed) {
				t.Errorf("%v: %s", err, stdout)
			}
		})
	}
}
