package wellknown_test

import (
	"crypto/tls"
	"io"
	"net/http"
	"net/url"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/enroll/wellknown"
)

func TestReachingTheServer(t *testing.T) {
	ca := newAuthority(t, "Test Root", nil, nil)
	ours := serve(t, &tls.Config{Certificates: []tls.Certificate{ca.issue(t, nil)}}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/ca.pem" {
			io.WriteString(w, "our root")
		}
	}))
	for name, tt := range map[string]struct {
		url  string
		root *authority
		mark string
		want string // code of the last finding; empty: all is well but that it is loopback
	}{
		"the server itself answers":               {"https://" + ours, ca, "our root", ""},
		"another server answers":                  {"https://" + ours, ca, "another root", "other_server"},
		"nobody knows the authority":              {"https://" + ours, newAuthority(t, "Another", nil, nil), "our root", "tls_chain_incomplete"},
		"nobody listens":                          {"https://127.0.0.1:1", ca, "our root", "connect_refused"},
		"devices accept nothing without TLS":      {"http://" + ours, ca, "our root", "not_https"},
		"the certificate is for another host":     {"https://localhost" + ours[len("127.0.0.1"):], ca, "our root", "tls_wrong_host"},
		"a path below the URL is asked for there": {"https://" + ours + "/below", ca, "our root", "other_server"},
	} {
		t.Run(name, func(t *testing.T) {
			server, err := url.Parse(tt.url)
			if err != nil {
				t.Fatal(err)
			}
			got := wellknown.Reach(t.Context(), server, "ca.pem", tt.root.pool(), func(body []byte) bool { return string(body) == tt.mark }, time.Now)
			if tt.want == "" {
				if !got.OK || len(got.Findings) != 1 || got.Findings[0].Code != "only_this_machine" || got.TLS == nil || got.TLS.Key != "ECDSA P-256" {
					t.Errorf("Reach = %+v, want it to answer, on this machine only", got)
				}
				return
			}
			if got.OK || len(got.Findings) == 0 || got.Findings[len(got.Findings)-1].Code != tt.want || got.Findings[len(got.Findings)-1].Fix == "" {
				t.Errorf("Reach = %+v, want %s", got, tt.want)
			}
		})
	}
}
