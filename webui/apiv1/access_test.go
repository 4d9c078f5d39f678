package apiv1_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
)

func TestWhoMayDoWhat(t *testing.T) {
	h := newHouse(t)
	h.device(t, "d1", nil)
	tokens := map[string]string{"nobody": "none", "a stranger": "gtk_" + strings.Repeat("a", 40)}
	for _, scope := range []identity.Scope{"owner", "admin", "helpdesk", "read_only", "cert:self", "cert:any", "cert:manage"} {
		tokens[string(scope)] = h.token(t, scope)
	}
	const (
		unauthenticated = http.StatusUnauthorized
		forbidden       = http.StatusForbidden
	)
	readers := []string{"owner", "admin", "helpdesk", "read_only"}
	lock := map[string]any{"request_type": "DeviceLock", "device_ids": []string{"d1"}}
	erase := map[string]any{"request_type": "EraseDevice", "device_ids": []string{"d1"}, "confirm": true}
	for name, tt := range map[string]struct {
		method, path string
		body         any
		may          []string
	}{
		"read the summary":            {"GET", "/api/v1/summary", nil, readers},
		"read devices":                {"GET", "/api/v1/devices", nil, readers},
		"read a device":               {"GET", "/api/v1/devices/d1", nil, readers},
		"read its groups":             {"GET", "/api/v1/devices/d1/groups", nil, readers},
		"make a group":                {"POST", "/api/v1/groups", map[string]any{"name": "x"}, readers[:2]},
		"read groups":                 {"GET", "/api/v1/groups", nil, readers},
		"read a group":                {"GET", "/api/v1/groups/none", nil, readers},
		"change a group":              {"PATCH", "/api/v1/groups/none", map[string]any{}, readers[:2]},
		"delete a group":              {"DELETE", "/api/v1/groups/none", nil, readers[:2]},
		"read a group's devices":      {"GET", "/api/v1/groups/none/devices", nil, readers},
		"put devices into a group":    {"PUT", "/api/v1/groups/none/devices", map[string]any{"device_ids": []string{"d1"}}, readers[:2]},
		"take devices out of a group": {"DELETE", "/api/v1/groups/none/devices", map[string]any{"device_ids": []string{"d1"}}, readers[:2]},
		"read its commands":           {"GET", "/api/v1/devices/d1/commands", nil, readers},
		"read command types":          {"GET", "/api/v1/command-types", nil, readers},
		"read what the server is":     {"GET", "/api/v1/server", nil, readers},
		"read links":                  {"GET", "/api/v1/enrollment-links", nil, readers},
		"read attempts":               {"GET", "/api/v1/enrollment-attempts", nil, readers},
		"count attempts":              {"GET", "/api/v1/enrollment-funnel", nil, readers},
		"read certificates":           {"GET", "/api/v1/certificates", nil, append([]string{"cert:manage"}, readers...)},
		"read tokens":                 {"GET", "/api/v1/tokens", nil, readers[:2]},
		"read a token":                {"GET", "/api/v1/tokens/none", nil, readers[:2]},
		"make a link":                 {"POST", "/api/v1/enrollment-links", map[string]any{}, readers[:3]},
		"make one that speaks":        {"POST", "/api/v1/enrollment-links", map[string]any{"login": "none", "user": "nobody@example.com"}, readers[:2]},
		"invite":                      {"POST", "/api/v1/enrollment-invitations", map[string]any{"login": "none", "emails": []string{"guest@example.com"}, "send": false}, readers[:3]},
		"draw a link":                 {"GET", "/api/v1/enrollment-links/none/qr.svg", nil, readers[:3]},
		"list secrets":                {"GET", "/api/v1/devices/d1/secrets", nil, readers},
		"see a secret":                {"POST", "/api/v1/devices/d1/secrets/recovery_lock/reveal", map[string]any{"reason": "x"}, readers[:2]},
		"get the escrow certificate":  {"GET", "/api/v1/escrow-certificate", nil, readers},
		"lock a device":               {"POST", "/api/v1/commands", lock, readers[:3]},
		"erase a device":              {"POST", "/api/v1/commands", erase, readers[:2]},
		"install software":            {"POST", "/api/v1/commands", map[string]any{"request_type": "RemoveApplication", "params": map[string]any{"Identifier": "com.example"}, "device_ids": []string{"d1"}}, readers[:2]},
		"read commands":               {"GET", "/api/v1/commands", nil, readers},
		"read a command":              {"GET", "/api/v1/commands/none", nil, readers},
		"read one of a device":        {"GET", "/api/v1/devices/d1/commands/none", nil, readers},
		"cancel it everywhere":        {"POST", "/api/v1/commands/none/cancel", nil, readers[:3]},
		"send it again":               {"POST", "/api/v1/commands/none/retry", map[string]any{}, readers[:3]},
		"send a batch":                {"POST", "/api/v1/batches", map[string]any{"commands": []any{map[string]any{"request_type": "ProfileList"}}, "device_ids": []string{"d1"}}, readers[:3]},
		"send a batch that erases":    {"POST", "/api/v1/batches", map[string]any{"commands": []any{map[string]any{"request_type": "EraseDevice", "confirm": true}}, "device_ids": []string{"d1"}}, readers[:2]},
		"read batches":                {"GET", "/api/v1/batches", nil, readers},
		"read a batch":                {"GET", "/api/v1/batches/none", nil, readers},
		"read a command type":         {"GET", "/api/v1/command-types/DeviceLock", nil, readers},
		"check a command":             {"POST", "/api/v1/commands/check", lock, readers[:3]},
		"check the command types":     {"POST", "/api/v1/command-types/check", map[string]any{"device_ids": []string{"d1"}}, readers},
		"send a raw command":          {"POST", "/api/v1/commands/raw?device_ids=d1", raw("r-1", "ProfileList"), readers[:2]},
		"make a token":                {"POST", "/api/v1/tokens", map[string]any{"name": "x", "scopes": []string{"read_only"}}, readers[:2]},
		"make an owner":               {"POST", "/api/v1/tokens", map[string]any{"name": "x", "scopes": []string{"owner"}}, readers[:1]},
		"delete a device":             {"DELETE", "/api/v1/devices/none", nil, readers[:2]},
		"merge devices":               {"POST", "/api/v1/devices/none/merge", map[string]any{"device_id": "other"}, readers[:2]},
		"unenroll a device":           {"POST", "/api/v1/devices/none/unenroll", nil, readers[:2]},
		"block a device":              {"POST", "/api/v1/devices/none/block", nil, readers[:2]},
		"unblock a device":            {"DELETE", "/api/v1/devices/none/block", nil, readers[:2]},
		"find a lost device":          {"DELETE", "/api/v1/devices/none/lost", nil, readers[:3]},
		"cancel a command":            {"DELETE", "/api/v1/devices/d1/commands/none", nil, readers[:3]},
		"push a device":               {"POST", "/api/v1/devices/d1/push", nil, readers[:3]},
		"revoke a certificate":        {"POST", "/api/v1/certificates/abcd/revoke", map[string]any{"reason": "keyCompromise"}, append([]string{"cert:manage"}, readers[:2]...)},
		"search certificates":         {"GET", "/api/manage/search?text=x", nil, append([]string{"cert:manage"}, readers...)},
		"revoke it elsewhere":         {"PATCH", "/api/manage/revoke/abcd", map[string]any{"reason": "keyCompromise"}, append([]string{"cert:manage"}, readers[:2]...)},
		"count certificates":          {"GET", "/api/v1/certificates/summary", nil, append([]string{"cert:manage"}, readers...)},
		"download one":                {"GET", "/api/v1/certificates/abcd/download", nil, append([]string{"cert:manage"}, readers...)},
		"make a certificate":          {"POST", "/api/v1/certificates", map[string]any{"template": "none", "user": "ana@example.com"}, append([]string{"cert:any"}, readers[:2]...)},
		"preview a template":          {"GET", "/api/v1/certificate-templates/none/preview?device_id=d1", nil, readers},
		"send a template":             {"POST", "/api/v1/certificate-templates/none/send", map[string]any{"device_ids": []string{"d1"}}, readers[:2]},
		"read assignments":            {"GET", "/api/v1/certificate-assignments", nil, readers},
		"end an assignment":           {"DELETE", "/api/v1/certificate-assignments/none/d1", nil, readers[:2]},
		"renew an identity":           {"POST", "/api/v1/devices/none/renew-identity", nil, readers[:3]},
		"read templates":              {"GET", "/api/v1/certificate-templates", nil, readers},
		"read a template":             {"GET", "/api/v1/certificate-templates/none", nil, readers},
		"make a template":             {"POST", "/api/v1/certificate-templates", map[string]any{"name": "x", "subject": "/CN=x"}, readers[:2]},
		"change a template":           {"PUT", "/api/v1/certificate-templates/none", map[string]any{"subject": "/CN=x"}, readers[:2]},
		"delete a template":           {"DELETE", "/api/v1/certificate-templates/none", nil, readers[:2]},
		"revoke a link":               {"DELETE", "/api/v1/enrollment-links/none", nil, readers[:3]},
		"revoke a token":              {"DELETE", "/api/v1/tokens/none", nil, readers[:1]},
		"read users":                  {"GET", "/api/v1/users", nil, readers[:2]},
		"read a user":                 {"GET", "/api/v1/users/none", nil, readers[:2]},
		"make a user":                 {"POST", "/api/v1/users", map[string]any{"username": "bea"}, readers[:2]},
		"make an admin":               {"POST", "/api/v1/users", map[string]any{"username": "cyd", "role": "admin"}, readers[:1]},
		"change a user":               {"PATCH", "/api/v1/users/none", map[string]any{"disabled": true}, readers[:2]},
		"see sessions":                {"GET", "/api/v1/users/none/sessions", nil, readers[:2]},
		"end a session":               {"DELETE", "/api/v1/users/none/sessions/none", nil, readers[:2]},
		"see one's own sessions":      {"GET", "/api/v1/sessions", nil, readers},
		"end an own session":          {"DELETE", "/api/v1/sessions/none", nil, readers},
		"end sessions":                {"POST", "/api/v1/users/none/end-sessions", nil, readers[:2]},
		"reset second factors":        {"POST", "/api/v1/users/none/reset-second-factor", nil, readers[:1]},
		"read providers":              {"GET", "/api/v1/identity-providers", nil, readers[:2]},
		"read a provider":             {"GET", "/api/v1/identity-providers/local", nil, readers[:2]},
		"make a provider":             {"POST", "/api/v1/identity-providers", map[string]any{"kind": "directory", "name": "x", "settings": map[string]any{}}, readers[:2]},
		"change a provider":           {"PATCH", "/api/v1/identity-providers/none", map[string]any{}, readers[:2]},
		"delete a provider":           {"DELETE", "/api/v1/identity-providers/none", nil, readers[:2]},
		"make a webhook":              {"POST", "/api/v1/webhooks", map[string]any{"name": "x", "url": "https://17.253.144.10/"}, readers[:2]},
		"read webhooks":               {"GET", "/api/v1/webhooks", nil, readers[:2]},
		"read a webhook":              {"GET", "/api/v1/webhooks/none", nil, readers[:2]},
		"change a webhook":            {"PATCH", "/api/v1/webhooks/none", map[string]any{}, readers[:2]},
		"delete a webhook":            {"DELETE", "/api/v1/webhooks/none", nil, readers[:2]},
		"try a webhook":               {"POST", "/api/v1/webhooks/none/test", nil, readers[:2]},
		"switch a webhook on":         {"POST", "/api/v1/webhooks/none/enable", nil, readers[:2]},
		"send dead ones again":        {"POST", "/api/v1/webhooks/none/redeliver?state=dead", nil, readers[:2]},
		"read deliveries":             {"GET", "/api/v1/webhooks/none/deliveries", nil, readers[:2]},
		"read a delivery":             {"GET", "/api/v1/webhooks/none/deliveries/none", nil, readers[:2]},
		"send a delivery again":       {"POST", "/api/v1/webhooks/none/deliveries/none/redeliver", nil, readers[:2]},
		"try a provider":              {"POST", "/api/v1/identity-providers/none/test", map[string]any{}, readers[:2]},
		"read account-driven":         {"GET", "/api/v1/account-driven", nil, readers},
		"decide account-driven":       {"PUT", "/api/v1/account-driven", map[string]any{}, readers[:2]},
		"read snippets":               {"GET", "/api/v1/account-driven/snippets?domain=example.com", nil, readers},
		"check a domain":              {"POST", "/api/v1/account-driven/check", map[string]any{"domain": "x"}, readers[:2]},
		"have somebody sign in":       {"POST", "/api/v1/devices/none/require-sign-in", nil, readers[:2]},
		"read the link to Apple":      {"GET", "/api/v1/apple-business", nil, readers[:2]},
		"end the link to Apple":       {"DELETE", "/api/v1/apple-business", nil, readers[:1]},
		"check the link to Apple":     {"POST", "/api/v1/apple-business/check", nil, readers[:2]},
		"make a key for Apple":        {"POST", "/api/v1/apple-business/key", nil, readers[:1]},
		"download its certificate":    {"GET", "/api/v1/apple-business/certificate", nil, readers[:2]},
		"upload Apple's token":        {"PUT", "/api/v1/apple-business/token", map[string]any{"x": "y"}, readers[:1]},
		"read the discovery URL":      {"GET", "/api/v1/apple-business/discovery-url", nil, readers[:2]},
		"register the discovery URL":  {"PUT", "/api/v1/apple-business/discovery-url", nil, readers[:2]},
		"take the discovery URL back": {"DELETE", "/api/v1/apple-business/discovery-url", nil, readers[:2]},
		"read profiles":               {"GET", "/api/v1/profiles", nil, readers},
		"read a profile":              {"GET", "/api/v1/profiles/p1", nil, readers},
		"read a profile's versions":   {"GET", "/api/v1/profiles/p1/versions", nil, readers},
		"read one version":            {"GET", "/api/v1/profiles/p1/versions/1", nil, readers},
		"read a profile's settings":   {"GET", "/api/v1/profiles/p1/versions/1/settings", nil, readers[:2]},
		"download a profile":          {"GET", "/api/v1/profiles/p1/versions/1/download", nil, readers[:2]},
		"restore a profile":           {"POST", "/api/v1/profiles/p1/versions/1/restore", nil, readers[:2]},
		"compare versions":            {"GET", "/api/v1/profiles/p1/diff", nil, readers[:2]},
		"add a profile":               {"POST", "/api/v1/profiles", map[string]any{"identifier": "com.example.x", "payloads": []any{map[string]any{"payload_type": "com.example.x"}}}, readers[:2]},
		"lint a profile":              {"POST", "/api/v1/profiles/lint", map[string]any{"identifier": "com.example.x", "payloads": []any{map[string]any{"payload_type": "com.example.x"}}}, readers},
		"replace a profile":           {"PUT", "/api/v1/profiles/p1", map[string]any{"identifier": "com.example.x", "payloads": []any{map[string]any{"payload_type": "com.example.x"}}}, readers[:2]},
		"check a profile":             {"POST", "/api/v1/profiles/p1/check", map[string]any{"device_ids": []string{"d1"}}, readers},
		"send a profile":              {"POST", "/api/v1/profiles/p1/send", map[string]any{"device_ids": []string{"d1"}}, readers[:2]},
		"remove a profile":            {"POST", "/api/v1/profiles/p1/remove", map[string]any{"device_ids": []string{"d1"}}, readers[:2]},
		"delete a profile":            {"DELETE", "/api/v1/profiles/p1", nil, readers[:2]},
		"read where a profile is":     {"GET", "/api/v1/profiles/p1/devices", nil, readers},
		"read a device's profiles":    {"GET", "/api/v1/devices/d1/profiles", nil, readers},
		"read payload types":          {"GET", "/api/v1/payload-types", nil, readers},
		"read a payload type":         {"GET", "/api/v1/payload-types/com.apple.wifi.managed", nil, readers},
		"read variables":              {"GET", "/api/v1/profile-variables", nil, readers},
		"read starters":               {"GET", "/api/v1/starter-templates", nil, readers},
		"use a starter":               {"POST", "/api/v1/starter-templates/passcode", map[string]any{"identifier": "com.example.passcode"}, readers[:2]},
		"read push certificates":      {"GET", "/api/v1/push-certificates", nil, readers},
		"upload a push certificate":   {"PUT", "/api/v1/push-certificates", []byte("x"), readers[:2]},
		"import a push certificate":   {"POST", "/api/v1/push-certificates/import", map[string]any{"file": []byte("x")}, readers[:2]},
		"choose a push topic":         {"PUT", "/api/v1/push-certificates/none", map[string]any{"default": true}, readers[:2]},
		"activate one":                {"POST", "/api/v1/push-certificates/none/activate", nil, readers[:2]},
		"delete a push certificate":   {"DELETE", "/api/v1/push-certificates/none", nil, readers[:1]},
		"read push requests":          {"GET", "/api/v1/push-certificate-requests", nil, readers[:2]},
		"read a push request":         {"GET", "/api/v1/push-certificate-requests/none", nil, readers[:2]},
		"make a push request":         {"POST", "/api/v1/push-certificate-requests", map[string]any{"kind": "vendor"}, readers[:2]},
		"download its CSR":            {"GET", "/api/v1/push-certificate-requests/none/csr", nil, readers[:2]},
		"download its file":           {"GET", "/api/v1/push-certificate-requests/none/file", nil, readers[:2]},
		"hand in a mail":              {"POST", "/api/v1/push-certificate-requests/none/mdmcert", []byte("x"), readers[:2]},
		"delete a push request":       {"DELETE", "/api/v1/push-certificate-requests/none", nil, readers[:2]},
		"read the vendor's":           {"GET", "/api/v1/push-vendor-certificate", nil, readers[:2]},
		"store the vendor's":          {"PUT", "/api/v1/push-vendor-certificate", map[string]any{"file": []byte("x")}, readers[:1]},
		"delete the vendor's":         {"DELETE", "/api/v1/push-vendor-certificate", nil, readers[:1]},
		"read the audit log":          {"GET", "/api/v1/audit", nil, append([]string{"cert:manage"}, readers...)},
		"export the audit log":        {"GET", "/api/v1/audit/export", nil, readers},
		"verify the audit log":        {"GET", "/api/v1/audit/verify", nil, readers},
		"read event types":            {"GET", "/api/v1/event-types", nil, append([]string{"cert:manage"}, readers...)},
		"read the description":        {"GET", "/api/openapi.json", nil, append([]string{"cert:self", "cert:any", "cert:manage", "nobody", "a stranger"}, readers...)},
	} {
		t.Run(name, func(t *testing.T) {
			may := make(map[string]bool)
			for _, who := range tt.may {
				may[who] = true
			}
			for who, token := range tokens {
				got := h.do(t, exchange{method: tt.method, path: tt.path, body: tt.body, token: token})
				switch {
				case may[who] && (got.status == unauthenticated || got.status == forbidden):
					t.Errorf("%s: %d %s", who, got.status, got.answer)
				case may[who]:
				case who == "nobody" || who == "a stranger":
					got.wantProblem(t, unauthenticated, "unauthenticated")
					if !strings.HasPrefix(got.response.Get("WWW-Authenticate"), "Bearer ") {
						t.Errorf("%s: WWW-Authenticate is %q", who, got.response.Get("WWW-Authenticate"))
					}
				default:
					got.wantProblem(t, forbidden, "forbidden")
				}
			}
		})
	}
}

func TestTokensCountInTheirHeaderOnly(t *testing.T) {
	h := newHouse(t)
	for name, tt := range map[string]struct {
		path    string
		headers []string
		status  int
	}{
		"a bearer token":           {"/api/v1/devices", []string{"Bearer " + h.owner}, 200},
		"the scheme in other case": {"/api/v1/devices", []string{"bearer " + h.owner}, 200},
		"in the query":             {"/api/v1/devices?access_token=" + h.owner + "&token=" + h.owner, nil, 401},
		"another scheme":           {"/api/v1/devices", []string{"Basic " + h.owner}, 401},
		"without a scheme":         {"/api/v1/devices", []string{h.owner}, 401},
		"an empty header":          {"/api/v1/devices", []string{""}, 401},
		"an empty token":           {"/api/v1/devices", []string{"Bearer "}, 401},
		"two headers":              {"/api/v1/devices", []string{"Bearer " + h.owner, "Bearer " + h.owner}, 401},
		"a very long one":          {"/api/v1/devices", []string{"Bearer " + strings.Repeat("a", 4000)}, 401},
	} {
		t.Run(name, func(t *testing.T) {
			req, err := http.NewRequest("GET", h.url+tt.path, nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Header["Authorization"] = tt.headers
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			body, _ := io.ReadAll(resp.Body)
			if resp.StatusCode != tt.status {
				t.Errorf("%d %s, want %d", resp.StatusCode, body, tt.status)
			}
			if strings.Contains(string(body), h.owner) {
				t.Errorf("the answer repeats the token: %s", body)
			}
		})
	}
}

func TestARevokedTokenOpensNothing(t *testing.T) {
	h := newHouse(t)
	made := struct{ ID, Token, Name string }{}
	h.do(t, exchange{method: "POST", path: "/api/v1/tokens", body: map[string]any{"name": "ci", "scopes": []string{"read_only"}, "user": "ana@example.com"}}).want(t, 201, &made)
	h.do(t, exchange{method: "GET", path: "/api/v1/devices", token: made.Token}).want(t, 200, nil)

	h.do(t, exchange{method: "GET", path: "/api/v1/tokens/" + made.ID}).want(t, 200, &made)
	list := h.do(t, exchange{method: "GET", path: "/api/v1/tokens"})
	list.want(t, 200, nil)
	if s := string(list.answer); !strings.Contains(s, made.ID) || strings.Contains(s, made.Token) {
		t.Errorf("the list is %s, want the token's id and not its secret", s)
	}
	h.do(t, exchange{method: "DELETE", path: "/api/v1/tokens/" + made.ID}).want(t, 204, nil)
	h.do(t, exchange{method: "GET", path: "/api/v1/devices", token: made.Token}).wantProblem(t, 401, "unauthenticated")
	h.do(t, exchange{method: "DELETE", path: "/api/v1/tokens/" + made.ID}).wantProblem(t, 404, "not_found")
}

func TestAnExpiredTokenSaysSo(t *testing.T) {
	h := newHouse(t)
	end := h.now().Add(time.Hour).UTC().Truncate(time.Second)
	var made struct {
		ID, Token string
		ExpiresAt time.Time `json:"expires_at"`
	}
	h.do(t, exchange{method: "POST", path: "/api/v1/tokens", body: map[string]any{"name": "ci", "scopes": []string{"read_only"}, "expires_at": end}}).want(t, 201, &made)
	if !made.ExpiresAt.Equal(end) {
		t.Errorf("it expires at %s, want %s", made.ExpiresAt, end)
	}
	h.do(t, exchange{method: "GET", path: "/api/v1/devices", token: made.Token}).want(t, 200, nil)
	var sum struct{ Trouble []struct{ Code, Text string } }
	h.do(t, exchange{method: "GET", path: "/api/v1/summary"}).want(t, 200, &sum)
	if !strings.Contains(fmt.Sprint(sum.Trouble), "tokens_expiring 1 API token expires in the next 14 days") {
		t.Errorf("the summary warns of %v", sum.Trouble)
	}
	h.pass(time.Hour)
	p := h.do(t, exchange{method: "GET", path: "/api/v1/devices", token: made.Token}).wantProblem(t, 401, "token_expired")
	if !strings.Contains(p.Detail, "Make another") {
		t.Errorf("detail is %q", p.Detail)
	}
}

func TestTokensThatAreNotMade(t *testing.T) {
	h := newHouse(t)
	for name, body := range map[string]string{
		"without a name":        `{"scopes":["owner"]}`,
		"without scopes":        `{"name":"x"}`,
		"with unknown scopes":   `{"name":"x","scopes":["root"]}`,
		"with a scope twice":    `{"name":"x","scopes":["owner","owner"]}`,
		"cert:self for nobody":  `{"name":"x","scopes":["cert:self"]}`,
		"with a line in a name": `{"name":"a\nb","scopes":["owner"]}`,
		"with an end long ago":  `{"name":"x","scopes":["owner"],"expires_at":"2020-01-01T00:00:00Z"}`,
		"with a zero end":       `{"name":"x","scopes":["owner"],"expires_at":"0001-01-01T00:00:00Z"}`,
		"with an end far ahead": `{"name":"x","scopes":["owner"],"expires_at":"2199-01-01T00:00:00Z"}`,
		"with no time as end":   `{"name":"x","scopes":["owner"],"expires_at":"90d"}`,
	} {
		t.Run(name, func(t *testing.T) {
			p := h.do(t, exchange{method: "POST", path: "/api/v1/tokens", body: body, wild: true}).wantProblem(t, 400, "invalid_request")
			if p.Detail == "" || strings.Contains(p.Detail, "create token") {
				t.Errorf("detail is %q", p.Detail)
			}
		})
	}
}

// TestTheLocalSocketNeedsNoToken stands in for the listener on the socket, which
// puts the operator into the context.
func TestTheLocalSocketNeedsNoToken(t *testing.T) {
	h := newHouse(t)
	for name, tt := range map[string]struct {
		principal identity.Principal
		status    int
	}{
		"the operator of the machine":       {identity.Local(), 200},
		"a browser's session is no API key": {identity.SetupPrincipal(), 401},
	} {
		t.Run(name, func(t *testing.T) {
			if got := h.direct(t, identity.WithPrincipal(context.Background(), tt.principal), "/api/v1/devices"); got != tt.status {
				t.Errorf("status %d, want %d", got, tt.status)
			}
		})
	}
}

// raw is a whole command with a key that nobody knows.
func raw(uuid, requestType string) []byte {
	return fmt.Appendf(nil, `<?xml version="1.0" encoding="UTF-8"?>
<plist version="1.0"><dict><key>Command</key><dict><key>RequestType</key><string>%s</string><key>Tomorrow</key><true/></dict><key>CommandUUID</key><string>%s</string></dict></plist>`, requestType, uuid)
}
