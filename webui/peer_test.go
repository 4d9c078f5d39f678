package webui_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/webui"
)

var proxies = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("::1/128")}

func TestRealPeer(t *testing.T) {
	for name, tt := range map[string]struct {
		remote    string
		forwarded []string
		want      string
	}{
		"without a proxy it is the connection's":            {"192.0.2.1:1", nil, "192.0.2.1"},
		"a stranger's header means nothing":                 {"192.0.2.1:1", []string{"198.51.100.1"}, "192.0.2.1"},
		"a trusted proxy names the client":                  {"10.1.1.1:1", []string{"198.51.100.1"}, "198.51.100.1"},
		"what the client said before it means nothing":      {"10.1.1.1:1", []string{"203.0.113.9, 198.51.100.1"}, "198.51.100.1"},
		"nor does it in a header of its own":                {"10.1.1.1:1", []string{"203.0.113.9", "198.51.100.1"}, "198.51.100.1"},
		"a chain of trusted proxies is walked":              {"10.1.1.1:1", []string{"198.51.100.1, 10.2.2.2"}, "198.51.100.1"},
		"with nothing but proxies it is the farthest":       {"10.1.1.1:1", []string{"10.3.3.3, 10.2.2.2"}, "10.3.3.3"},
		"a proxy that names nobody stands for itself":       {"10.1.1.1:1", nil, "10.1.1.1"},
		"what is no address ends the walk":                  {"10.1.1.1:1", []string{"198.51.100.1, unknown"}, "10.1.1.1"},
		"a port is left out":                                {"10.1.1.1:1", []string{"198.51.100.1:4711"}, "198.51.100.1"},
		"IPv6 in brackets":                                  {"[::1]:1", []string{"[2001:db8::1]:4711"}, "2001:db8::1"},
		"an IPv4 address in IPv6 is one of IPv4":            {"[::ffff:10.1.1.1]:1", []string{"198.51.100.1"}, "198.51.100.1"},
		"over the Unix socket there is none":                {"@", nil, "invalid IP"},
		"over the Unix socket a header names nobody either": {"@", []string{"198.51.100.1"}, "invalid IP"},
	} {
		t.Run(name, func(t *testing.T) {
			r := httptest.NewRequest("GET", "/", nil)
			r.RemoteAddr = tt.remote
			r.Header["X-Forwarded-For"] = tt.forwarded
			got := ""
			serve(webui.RealPeer(proxies), r, func(r *http.Request) {
				got = webui.Peer(r.Context()).String()
				if len(r.Header.Values("X-Forwarded-For")) > 0 {
					t.Error("X-Forwarded-For went further in")
				}
			})
			if got != tt.want {
				t.Errorf("peer of %s with %q = %s, want %s", tt.remote, tt.forwarded, got, tt.want)
			}
		})
	}
}

// serve sends r through m to look.
func serve(m webui.Middleware, r *http.Request, look func(*http.Request)) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	m(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { look(r) })).ServeHTTP(w, r)
	return w
}

func TestRequestIDComesFromTrustedProxiesOnly(t *testing.T) {
	for name, tt := range map[string]struct {
		remote, sent string
		kept         bool
	}{
		"from a trusted proxy":            {"10.1.1.1:1", "req-12345678", true},
		"from a stranger":                 {"192.0.2.1:1", "req-12345678", false},
		"with a line break":               {"10.1.1.1:1", "req-12345678\nlevel=error", false},
		"that is very long":               {"10.1.1.1:1", strings.Repeat("x", 65), false},
		"that is missing is made instead": {"10.1.1.1:1", "", false},
	} {
		t.Run(name, func(t *testing.T) {
			r := httptest.NewRequest("GET", "/", nil)
			r.RemoteAddr = tt.remote
			r.Header.Set("X-Request-Id", tt.sent)
			got := ""
			w := serve(func(h http.Handler) http.Handler {
				return webui.Chain(h, webui.RealPeer(proxies), webui.AssignRequestID)
			}, r, func(r *http.Request) { got = webui.RequestID(r.Context()) })
			if (got == tt.sent) != tt.kept || got == "" || w.Header().Get("X-Request-Id") != got {
				t.Errorf("ID for %q = %q in the context, %q in the answer; kept should be %v", tt.sent, got, w.Header().Get("X-Request-Id"), tt.kept)
			}
		})
	}
}

func TestClientCertificateHeader(t *testing.T) {
	der := newCertificate(t)
	rfc9440 := ":" + base64.StdEncoding.EncodeToString(der) + ":"
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	escaped := url.PathEscape(string(text)) // leaves + and = as nginx does
	key := string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))

	const proxy, stranger = "10.1.1.1:1", "192.0.2.1:1"
	for name, tt := range map[string]struct {
		remote string
		header http.Header
		want   bool
	}{
		"RFC 9440 from a trusted proxy":               {proxy, http.Header{"X-Client-Cert": {rfc9440}}, true},
		"escaped PEM from a trusted proxy":            {proxy, http.Header{"X-Client-Cert": {escaped}}, true},
		"fully escaped PEM from a trusted proxy":      {proxy, http.Header{"X-Client-Cert": {strings.ReplaceAll(url.QueryEscape(string(text)), "+", "%20")}}, true},
		"an empty one: the client had no certificate": {proxy, http.Header{"X-Client-Cert": {""}}, false},
		"from a stranger":                             {stranger, http.Header{"X-Client-Cert": {rfc9440}}, false},
		"over the Unix socket":                        {"@", http.Header{"X-Client-Cert": {rfc9440}}, false},
		"doubled":                                     {proxy, http.Header{"X-Client-Cert": {rfc9440, rfc9440}}, false},
		"in another case only":                        {proxy, http.Header{"x-client-CERT": {rfc9440}}, false},
		"with underscores only":                       {proxy, http.Header{"X_client_cert": {rfc9440}}, false},
		"that is no base64":                           {proxy, http.Header{"X-Client-Cert": {":???:"}}, false},
		"without the closing colon":                   {proxy, http.Header{"X-Client-Cert": {rfc9440[:len(rfc9440)-1]}}, false},
		"two certificates":                            {proxy, http.Header{"X-Client-Cert": {escaped + escaped}}, false},
		"a key instead":                               {proxy, http.Header{"X-Client-Cert": {url.PathEscape(key)}}, false},
		"very long":                                   {proxy, http.Header{"X-Client-Cert": {":" + strings.Repeat("A", 1<<16) + ":"}}, false},
	} {
		t.Run(name, func(t *testing.T) {
			r := httptest.NewRequest("PUT", "/mdm/connect", nil)
			r.RemoteAddr = tt.remote
			r.Header = tt.header
			m := func(h http.Handler) http.Handler {
				return webui.Chain(h, webui.RealPeer(proxies), webui.ClientCertificateHeader("x-client-cert", slog.New(slog.DiscardHandler)))
			}
			reached := false
			serve(m, r, func(r *http.Request) {
				reached = true
				if got := webui.ClientCertificate(r.Context()) != nil; got != tt.want {
					t.Errorf("certificate found: %v, want %v", got, tt.want)
				}
				if len(r.Header) > 0 {
					t.Errorf("headers went further in: %v", r.Header)
				}
			})
			if !reached {
				t.Error("the request was not passed on")
			}
		})
	}
}

func newCertificate(t *testing.T) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "device"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}
