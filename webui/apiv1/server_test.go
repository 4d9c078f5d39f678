package apiv1_test

import (
	"net/http"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
)

func TestWhatTheServerIs(t *testing.T) {
	h := newHouse(t)
	var got struct {
		Version   string
		ServerURL string `json:"server_url"`
		TLS       struct {
			Mode        string
			Certificate struct {
				Names    []string
				DaysLeft int `json:"days_left"`
				Chain    []string
			}
			Root struct {
				ProfileURL string `json:"profile_url"`
			}
		}
		Options []struct{ Flag, Value string }
	}
	h.do(t, exchange{method: "GET", path: "/api/v1/server"}).want(t, http.StatusOK, &got)
	if got.Version != "1.2.3" || got.ServerURL != "https://mdm.example.com" || got.TLS.Mode != "own-ca" || len(got.TLS.Certificate.Chain) != 1 || got.TLS.Certificate.DaysLeft < 300 {
		t.Errorf("server = %+v", got)
	}
	if got.TLS.Root.ProfileURL != "https://mdm.example.com/ca.mobileconfig" || len(got.Options) != 1 || got.Options[0].Flag != "--listen" {
		t.Errorf("server = %+v", got)
	}
	// What it finds depends on the machine: wellknown tests that.
	h.do(t, exchange{method: "POST", path: "/api/v1/server/check", token: h.token(t, identity.ScopeHelpdesk)}).wantProblem(t, http.StatusForbidden, "forbidden")
}
