package compat

import (
	"fmt"
	"net/http"

	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/webui"
)

// Users that clients of each project call themselves. Who they are says the password: an API
// token.
const (
	userNano  = "nanomdm"
	userHub   = "nanohub"
	userMicro = "micromdm"
)

// guarded lets those pass whose token has rt's scope.
func (c *Compat) guarded(rt route) webui.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) error {
		w.Header().Set("Cache-Control", "no-store")
		p, err := c.authenticate(r)
		if err != nil {
			return err
		}
		if !p.Allows(rt.scope) {
			return errScope(rt.scope)
		}
		if p.Limited() { // these APIs know nothing of groups
			return &refusal{http.StatusForbidden, "this token is limited to groups of devices: use /api/v1"}
		}
		if peer := webui.Peer(r.Context()); peer.IsValid() {
			p.Peer = peer.String()
		}
		return rt.handle(w, r.WithContext(identity.WithPrincipal(r.Context(), p)))
	}
}

// authenticate returns who sent r (RFC 7617).
func (c *Compat) authenticate(r *http.Request) (identity.Principal, error) {
	user, token, ok := r.BasicAuth()
	if !ok || len(r.Header.Values("Authorization")) > 1 {
		return identity.Principal{}, identity.ErrUnauthenticated
	}
	switch user {
	case userNano, userHub, userMicro:
		return c.Identity.Authenticate(r.Context(), token)
	}
	return identity.Principal{}, identity.ErrUnauthenticated
}

// principal returns who sent r.
func principal(r *http.Request) identity.Principal {
	p, _ := identity.PrincipalFrom(r.Context())
	return p
}

func errScope(scope identity.Scope) error {
	return &refusal{http.StatusForbidden, fmt.Sprintf("this needs a token with the scope %s", scope)}
}
