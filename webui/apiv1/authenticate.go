package apiv1

import (
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/webui"
)

// realm stands in every WWW-Authenticate header (RFC 6750, 3).
const realm = `Bearer realm="gatehouse"`

// authenticate returns who sent r: whoever its bearer token is of, or the operator
// of this machine, whom the local socket's listener has put into the context, or whom As
// serves. A
// token anywhere else, as in the query, is not looked at: URLs end up in logs.
// Neither is a browser's session, which other sites can make use of.
func (a *API) authenticate(r *http.Request) (identity.Principal, error) {
	if p, ok := r.Context().Value(actingKey{}).(identity.Principal); ok {
		return p, nil
	}
	headers := r.Header.Values("Authorization")
	if len(headers) == 0 {
		if p, ok := identity.PrincipalFrom(r.Context()); ok && p.Kind == identity.KindLocal {
			return p, nil
		}
		return identity.Principal{}, errUnauthenticated("A bearer token is needed.", realm)
	}
	scheme, token, _ := strings.Cut(headers[0], " ")
	if len(headers) > 1 || !strings.EqualFold(scheme, "Bearer") {
		return identity.Principal{}, errUnauthenticated("The Authorization header must be one, and hold a bearer token.", realm)
	}
	return a.identity.Authenticate(r.Context(), strings.TrimLeft(token, " "))
}

func allowed(p identity.Principal, scopes []identity.Scope) bool {
	return slices.ContainsFunc(scopes, p.Allows)
}

// principal returns who sent r. Only routes that are open to everybody lack one.
func principal(r *http.Request) identity.Principal {
	p, _ := identity.PrincipalFrom(r.Context())
	return p
}

func errUnauthenticated(detail, challenge string) error {
	return &problem{
		Problem: webui.Problem{
			Status: http.StatusUnauthorized, Code: "unauthenticated", Title: "Not authenticated", Detail: detail,
		},
		challenge: challenge,
	}
}

func errScope(scope identity.Scope) *problem {
	return &problem{
		Problem: webui.Problem{
			Status: http.StatusForbidden, Code: "forbidden", Title: "Not allowed",
			Detail: fmt.Sprintf("This needs the role or the scope %s.", scope),
		},
		challenge: fmt.Sprintf(`%s, error="insufficient_scope", scope="%s"`, realm, scope),
	}
}
