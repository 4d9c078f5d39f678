package acme

import (
	"crypto/tls"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/json"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"

	"github.com/mholt/acmez/v3/acme"

	"github.com/gatehouse-mdm/gatehouse/storage/seal"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// present leaves a challenge where certmagic does.
func present(t *testing.T, s *store, directory, kind string) {
	t.Helper()
	text, err := json.Marshal(acme.Challenge{
		Type: kind, Token: "token", KeyAuthorization: "token.thumbprint", Identifier: acme.Identifier{Type: "dns", Value: domain},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Store(t.Context(), "acme/"+directory+"/challenge_tokens/"+domain+".json", text); err != nil {
		t.Fatal(err)
	}
}

const (
	production = "acme-v02.api.letsencrypt.org-directory"
	staging    = "acme-staging-v02.api.letsencrypt.org-directory"
)

func TestWhoIsAnsweredOverHTTP(t *testing.T) {
	const path = "/.well-known/acme-challenge/token"
	for name, tt := range map[string]struct {
		pending, kind      string
		method, host, path string
		want               int
	}{
		"the challenge that is pending":         {production, "http-01", "GET", domain, path, 200},
		"with a port":                           {production, "http-01", "GET", domain + ":80", path, 200},
		"in any case":                           {production, "http-01", "GET", "MDM.Example.Com", path, 200},
		"one of the staging directory":          {staging, "http-01", "GET", domain, path, 200},
		"one of another authority":              {"other", "http-01", "GET", domain, path, 404},
		"when none is pending":                  {"", "", "GET", domain, path, 404},
		"when one of another type is pending":   {production, "tls-alpn-01", "GET", domain, path, 404},
		"for another token":                     {production, "http-01", "GET", domain, path + "2", 404},
		"for no token":                          {production, "http-01", "GET", domain, "/.well-known/acme-challenge/", 404},
		"under another name":                    {production, "http-01", "GET", "evil.example", path, 404},
		"by another method":                     {production, "http-01", "POST", domain, path, 404},
		"what is no challenge goes further":     {production, "http-01", "GET", domain, "/", 418},
		"and so does what begins like one only": {production, "http-01", "GET", domain, "/.well-known/acme-challenger", 418},
	} {
		t.Run(name, func(t *testing.T) {
			s := newServer(t, storagetest.Open(t), nil)
			if tt.pending != "" {
				present(t, s.store, tt.pending, tt.kind)
			}
			further := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) })
			w := httptest.NewRecorder()
			r := httptest.NewRequest(tt.method, tt.path, nil)
			r.Host = tt.host
			s.AnswerHTTP(further).ServeHTTP(w, r)
			if w.Code != tt.want || (w.Body.String() == "token.thumbprint") != (tt.want == 200) {
				t.Errorf("answer = %d %q, want %d", w.Code, w.Body, tt.want)
			}
		})
	}
}

func TestWhoIsAnsweredOverTLS(t *testing.T) {
	for name, tt := range map[string]struct {
		kind   string // of the pending challenge
		protos []string
		name   string
		want   string
	}{
		"the challenge that is pending":       {"tls-alpn-01", []string{"acme-tls/1"}, domain, "answered"},
		"in any case":                         {"tls-alpn-01", []string{"acme-tls/1"}, "MDM.example.com", "answered"},
		"when none is pending":                {"", []string{"acme-tls/1"}, domain, "refused"},
		"when one of another type is pending": {"http-01", []string{"acme-tls/1"}, domain, "refused"},
		"under another name":                  {"tls-alpn-01", []string{"acme-tls/1"}, "evil.example", "refused"},
		"under no name":                       {"tls-alpn-01", []string{"acme-tls/1"}, "", "refused"},
		"a browser is none":                   {"tls-alpn-01", []string{"h2", "http/1.1"}, domain, "served"},
		"a client without ALPN is none":       {"tls-alpn-01", nil, domain, "served"},
		"who offers more than this is none":   {"tls-alpn-01", []string{"acme-tls/1", "http/1.1"}, domain, "served"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newServer(t, storagetest.Open(t), nil)
			if tt.kind != "" {
				present(t, s.store, production, tt.kind)
			}
			web := httptest.NewUnstartedServer(http.NotFoundHandler())
			web.TLS = &tls.Config{GetConfigForClient: s.ConfigForClient}
			web.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
			web.StartTLS()
			defer web.Close()
			got := "refused"
			conn, err := tls.Dial("tcp", web.Listener.Addr().String(), &tls.Config{
				InsecureSkipVerify: true, NextProtos: tt.protos, ServerName: tt.name,
			})
			if err == nil {
				defer conn.Close()
				state := conn.ConnectionState()
				got = "served"
				// RFC 8737, 3: the proof is in an extension.
				if acmeIdentifier := (asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 31}); slices.ContainsFunc(state.PeerCertificates[0].Extensions,
					func(e pkix.Extension) bool { return e.Id.Equal(acmeIdentifier) && e.Critical }) && state.NegotiatedProtocol == "acme-tls/1" {
					got = "answered"
				}
			}
			if got != tt.want {
				t.Errorf("the client was %s, %v, want %s", got, err, tt.want)
			}
		})
	}
}

func TestWhatACertificateCanBeFor(t *testing.T) {
	const own = "https://ca.corp.internal/dir"
	for host, tt := range map[string]struct{ public, ours bool }{
		"mdm.example.com":            {true, true},
		"m.co":                       {true, true},
		"xn--mnchen-3ya.example.com": {true, true},
		"1and1.com":                  {true, true},
		"mdm.corp.internal":          {false, true},
		"printer.local":              {false, true},
		"router.home.arpa":           {false, true},
		"mdm.test":                   {false, true},
		"192.0.2.1":                  {false, false},
		"2001:db8::1":                {false, false},
		"localhost":                  {false, false},
		"mdm.localhost":              {false, false},
		"mdm":                        {false, false},
		"":                           {false, false},
		"mdm.example.com.":           {false, false},
		"mdm..example.com":           {false, false},
		"*.example.com":              {false, false},
		"-mdm.example.com":           {false, false},
		"mdm_1.example.com":          {false, false},
		"münchen.example.com":        {false, false},
	} {
		if err := CheckDomain(host, ""); (err == nil) != tt.public {
			t.Errorf("CheckDomain(%q) = %v, want none: %v", host, err, tt.public)
		}
		if err := CheckDomain(host, own); (err == nil) != tt.ours {
			t.Errorf("CheckDomain(%q) for one's own authority = %v, want none: %v", host, err, tt.ours)
		}
	}
}

func TestExternalAccountKeysComeInSeveralForms(t *testing.T) {
	for key, want := range map[string]string{
		"-_8A": "-_8A", "+/8A": "-_8A", "+/8=": "-_8", "": "",
	} {
		if got, err := hmacKey(seal.Secret(key)); err != nil || string(got) != want {
			t.Errorf("hmacKey(%q) = %q, %v, want %q", key, string(got), err, want)
		}
	}
	for _, key := range []string{"not base64!", "A"} {
		if err := CheckHMACKey(seal.Secret(key)); err == nil {
			t.Errorf("CheckHMACKey(%q): no error", key)
		}
	}
}

func TestAManagerNeedsAllThatItIsMadeOf(t *testing.T) {
	whole := newServer(t, storagetest.Open(t), nil).c
	if _, err := New(whole); err != nil {
		t.Fatal(err)
	}
	for name, lose := range map[string]func(*Config){
		"DB":      func(c *Config) { c.DB = nil },
		"Box":     func(c *Config) { c.Box = nil },
		"Domain":  func(c *Config) { c.Domain = "" },
		"Email":   func(c *Config) { c.Email = "" },
		"TLS":     func(c *Config) { c.TLS = net.Addr(nil) },
		"Log":     func(c *Config) { c.Log = nil },
		"Now":     func(c *Config) { c.Now = nil },
		"HMACKey": func(c *Config) { c.KeyID = "kid" },
		"KeyID":   func(c *Config) { c.HMACKey = "c2VjcmV0" },
	} {
		c := whole
		lose(&c)
		if _, err := New(c); err == nil {
			t.Errorf("New without %s: no error", name)
		}
	}
}
