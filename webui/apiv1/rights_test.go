package apiv1_test

import (
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/webui/apiv1"
)

var parameter = regexp.MustCompile(`\{[a-z_]+\}`)

// TestEveryRouteIsClosedToWhomItIsNotFor asks each route of the API, as everybody who has not
// the right, of a role or of a limit.
func TestEveryRouteIsClosedToWhomItIsNotFor(t *testing.T) {
	h := newHouse(t)
	for _, id := range []mdm.DeviceID{"in", "out"} {
		h.identified(t, id)
	}
	serial := ""
	for _, c := range h.certificates(t, "") {
		if c.DeviceID == "out" {
			serial = c.Serial
		}
	}
	group := h.group(t, "In", "", "in")
	roles := []identity.Scope{identity.ScopeOwner, identity.ScopeAdmin, identity.ScopeHelpdesk, identity.ScopeReadOnly, identity.ScopeCertManage, identity.ScopeCertAny, identity.ScopeCertSelf}
	token, limited := map[identity.Scope]string{}, map[identity.Scope]string{}
	for _, role := range roles {
		token[role] = h.token(t, role)
	}
	for _, role := range roles[1:4] {
		limited[role] = h.limited(t, role, group)
	}
	asked := map[string]int{}
	for _, rt := range apiv1.Routes() {
		method, path, _ := strings.Cut(rt.Pattern, " ")
		path = strings.ReplaceAll(path, "{serial}", serial)
		path = parameter.ReplaceAllString(path, "out")
		ask := func(token string) exchange {
			return h.do(t, exchange{method: method, path: path, token: token, wild: true})
		}
		for _, role := range roles {
			may := slices.ContainsFunc(rt.Scopes, func(s identity.Scope) bool { return identity.Principal{Scopes: []identity.Scope{role}}.Allows(s) })
			switch {
			case !may:
				asked["role"]++
				ask(token[role]).wantProblem(t, http.StatusForbidden, "forbidden")
				if limited[role] != "" {
					ask(limited[role]).wantProblem(t, http.StatusForbidden, "forbidden")
				}
			case limited[role] == "":
			case rt.Whole:
				asked["whole"]++
				ask(limited[role]).wantProblem(t, http.StatusForbidden, "outside_scope")
			case rt.One:
				asked["one"]++
				ask(limited[role]).wantProblem(t, http.StatusNotFound, "not_found")
			}
		}
		if t.Failed() {
			t.Fatalf("by %s", rt.Pattern)
		}
	}
	if asked["role"] < 500 || asked["whole"] < 50 || asked["one"] < 50 {
		t.Errorf("asked %v times", asked)
	}
}
