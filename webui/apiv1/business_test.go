package apiv1_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/enroll/business/businesstest"
	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
)

const businessPath = "/api/v1/apple-business"

type businessLink struct {
	State       string
	Certificate *struct{ PEM, SHA256 string }
	Next        *struct{ PEM string } `json:"next_certificate"`
	Token       *struct {
		DaysLeft  int       `json:"days_left"`
		ExpiresAt time.Time `json:"expires_at"`
	}
	Account *struct {
		OrgName    string `json:"org_name"`
		ServerUUID string `json:"server_uuid"`
	}
	MAIDTokens   bool          `json:"maid_tokens"`
	DiscoveryURL *discoveryURL `json:"discovery_url"`
	Trouble      *struct {
		Code      string
		AppleCode string `json:"apple_code"`
		Detail    string
		Next      string
	}
}

type discoveryURL struct {
	Registered, Expected string
	Ours                 bool
}

func (h *house) business(t *testing.T) (l businessLink) {
	t.Helper()
	h.do(t, exchange{method: "GET", path: businessPath}).want(t, 200, &l)
	return l
}

// linkBusiness links the house with Apple and returns the certificate.
func (h *house) linkBusiness(t *testing.T) []byte {
	t.Helper()
	var cert struct{ PEM string }
	h.do(t, exchange{method: "POST", path: businessPath + "/key"}).want(t, 201, &cert)
	h.do(t, exchange{method: "PUT", path: businessPath + "/token", body: h.apple.TokenFile(t, []byte(cert.PEM))}).want(t, 200, nil)
	return []byte(cert.PEM)
}

func TestTheLinkToAppleIsMadeAndEnded(t *testing.T) {
	h := newHouse(t)
	if l := h.business(t); l.State != "no_key" || l.Certificate != nil || l.Token != nil || l.Account != nil || l.DiscoveryURL != nil {
		t.Errorf("a new server's link is %+v", l)
	}
	h.do(t, exchange{method: "GET", path: businessPath + "/certificate"}).wantProblem(t, 409, "apple_business_no_key")
	for _, x := range []exchange{
		{method: "POST", path: businessPath + "/check"}, {method: "GET", path: businessPath + "/discovery-url"},
		{method: "PUT", path: businessPath + "/discovery-url"}, {method: "DELETE", path: businessPath + "/discovery-url"},
	} {
		h.do(t, x).wantProblem(t, 409, "apple_business_not_linked")
	}

	var first, again struct{ PEM string }
	h.do(t, exchange{method: "POST", path: businessPath + "/key"}).want(t, 201, &first)
	h.do(t, exchange{method: "POST", path: businessPath + "/key"}).want(t, 200, &again)
	file := h.do(t, exchange{method: "GET", path: businessPath + "/certificate"})
	if first != again || string(file.answer) != first.PEM || !strings.Contains(file.response.Get("Content-Disposition"), ".pem") {
		t.Errorf("certificates are %q, %q and %q", first.PEM, again.PEM, file.answer)
	}
	h.do(t, exchange{method: "POST", path: businessPath + "/key?replace=perhaps", wild: true}).wantField(t, "replace")

	var l businessLink
	h.do(t, exchange{method: "PUT", path: businessPath + "/token", body: h.apple.TokenFile(t, []byte(first.PEM))}).want(t, 200, &l)
	if l.State != "connected" || l.Token == nil || l.Token.DaysLeft != 365 || l.Account == nil || l.Account.OrgName != "Example" || l.Account.ServerUUID != h.apple.UUID() || !l.MAIDTokens {
		t.Errorf("the link is %+v", l)
	}
	h.do(t, exchange{method: "POST", path: businessPath + "/key?replace=true"}).want(t, 201, &again)
	if l = h.business(t); l.Certificate.PEM != first.PEM || l.Next == nil || l.Next.PEM != again.PEM {
		t.Errorf("with a key to come the link is %+v", l)
	}
	h.pass(340 * 24 * time.Hour)
	if l = h.business(t); l.State != "expiring" || l.Token.DaysLeft != 25 {
		t.Errorf("later the link is %+v, token %+v", l, l.Token)
	}
	h.do(t, exchange{method: "PUT", path: businessPath + "/token", body: json.RawMessage(h.apple.PlainToken())}).want(t, 200, &l)
	if l.State != "connected" || l.MAIDTokens {
		t.Errorf("with a decrypted token the link is %+v", l)
	}

	var d discoveryURL
	h.do(t, exchange{method: "PUT", path: businessPath + "/discovery-url"}).want(t, 200, &d)
	if !d.Ours || d.Registered != "https://mdm.example.com/.well-known/com.apple.remotemanagement" || h.apple.DiscoveryURL() != d.Registered {
		t.Errorf("registered is %+v, and at Apple %s", d, h.apple.DiscoveryURL())
	}
	h.do(t, exchange{method: "DELETE", path: businessPath}).wantProblem(t, 409, "apple_business_registered")
	h.do(t, exchange{method: "DELETE", path: businessPath + "?force=1", wild: true}).wantField(t, "force")
	h.do(t, exchange{method: "DELETE", path: businessPath + "/discovery-url"}).want(t, 204, nil)
	h.do(t, exchange{method: "GET", path: businessPath + "/discovery-url"}).want(t, 200, &d)
	if d.Registered != "" || d.Ours || d.Expected == "" {
		t.Errorf("unregistered it is %+v", d)
	}
	h.do(t, exchange{method: "DELETE", path: businessPath}).want(t, 204, nil)
	if l := h.business(t); l.State != "no_key" {
		t.Errorf("removed, the link is %+v", l)
	}
	var log struct {
		Items []struct{ Action, Actor string }
	}
	h.do(t, exchange{method: "GET", path: "/api/v1/audit?action=apple_business.removed"}).want(t, 200, &log)
	if len(log.Items) != 1 || !strings.HasPrefix(log.Items[0].Actor, "token:") {
		t.Errorf("the audit log has %+v", log.Items)
	}
}

func TestMistakesWithTheServerTokenHaveCodes(t *testing.T) {
	h := newHouse(t)
	cert := h.linkBusiness(t)
	for code, body := range map[string]any{
		"server_token_not_a_token": []byte("hello"),
		"server_token_certificate": cert,
		"server_token_expired":     businesstest.File(t, cert, h.apple.TokenUntil(h.now())),
		"server_token_incomplete":  `{"consumer_key":"CK"}`,
	} {
		p := h.do(t, exchange{method: "PUT", path: businessPath + "/token", body: body}).wantProblem(t, 400, code)
		if p.Detail == "" {
			t.Errorf("%s says %+v", code, p)
		}
	}
	old := h.apple.TokenFile(t, cert)
	h.apple.PlainToken()
	h.do(t, exchange{method: "PUT", path: businessPath + "/token", body: old}).wantProblem(t, 409, "apple_token_refused")
	if l := h.business(t); l.State != "connected" {
		t.Errorf("the link is %+v", l)
	}
}

func TestRefusalsOfAppleHaveCodes(t *testing.T) {
	h := newHouse(t)
	h.linkBusiness(t)
	const call = "POST /account-driven-enrollment/profile"
	for code, tt := range map[string]struct {
		answer businesstest.Answer
		status int
	}{
		"apple_terms_not_accepted":         {businesstest.Answer{Status: 403, Body: "T_C_NOT_SIGNED"}, 409},
		"apple_access_denied":              {businesstest.Answer{Status: 403, Body: "ACCESS_DENIED"}, 409},
		"apple_organisation_not_supported": {businesstest.Answer{Status: 400, Body: "ORG_NOT_SUPPORTED"}, 409},
		"apple_url_refused":                {businesstest.Answer{Status: 400, Body: "MDM_SERVICE_DISCOVERY_URL_NOT_VALID"}, 409},
		"apple_busy":                       {businesstest.Answer{Status: 429, Header: http.Header{"Retry-After": {"90"}}}, 503},
		"apple_unexpected_answer":          {businesstest.Answer{Status: 500, Body: "<h1>secret</h1>"}, 502},
	} {
		h.apple.Next(call, tt.answer)
		x := h.do(t, exchange{method: "PUT", path: businessPath + "/discovery-url"})
		p := x.wantProblem(t, tt.status, code)
		if p.Detail == "" || strings.Contains(string(x.answer), "secret") || x.response.Get("Retry-After") != tt.answer.Header.Get("Retry-After") {
			t.Errorf("%s says %+v, Retry-After %q", code, p, x.response.Get("Retry-After"))
		}
	}
	h.apple.ForgetSessions()
	h.apple.Next("GET /session", businesstest.Answer{Status: 403, Body: "T_C_NOT_SIGNED"})
	var l businessLink
	h.do(t, exchange{method: "POST", path: businessPath + "/check"}).want(t, 200, &l)
	if l.State != "trouble" || l.Trouble == nil || l.Trouble.Code != "apple_terms_not_accepted" || l.Trouble.AppleCode != "T_C_NOT_SIGNED" || l.Trouble.Next == "" {
		t.Errorf("the link is %+v, trouble %+v", l, l.Trouble)
	}
	h.do(t, exchange{method: "POST", path: businessPath + "/check"}).want(t, 200, &l)
	if l.State != "connected" || l.Trouble != nil {
		t.Errorf("the link is %+v", l)
	}
}

func TestOwnersLinkAndAdministratorsLook(t *testing.T) {
	h := newHouse(t)
	cert := h.linkBusiness(t)
	admin, reader := h.token(t, identity.ScopeAdmin), h.token(t, identity.ScopeReadOnly)
	h.do(t, exchange{method: "GET", path: businessPath, token: admin}).want(t, 200, nil)
	h.do(t, exchange{method: "PUT", path: businessPath + "/discovery-url", token: admin}).want(t, 200, nil)
	for _, x := range []exchange{
		{method: "POST", path: businessPath + "/key", token: admin},
		{method: "PUT", path: businessPath + "/token", body: h.apple.TokenFile(t, cert), token: admin},
		{method: "DELETE", path: businessPath, token: admin},
		{method: "GET", path: businessPath, token: reader},
		{method: "PUT", path: businessPath + "/discovery-url", token: reader},
	} {
		h.do(t, x).wantProblem(t, 403, "forbidden")
	}
}
