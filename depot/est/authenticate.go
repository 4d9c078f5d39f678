package est

import (
	"errors"
	"net/http"
	"strings"

	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
)

// tokenPrefix is what the API tokens that were made here begin with. A password that
// does, and is no token, is an old token: trying it on a login would count as a guess,
// and soon keep out everybody behind the same address.
const tokenPrefix = "gtk_"

// authenticate returns who sent r: by an API token, as bearer or as the password of
// basic authentication with any user name, or by the name and password of a person,
// who may then have certificates in their own name.
func (h *Handler) authenticate(r *http.Request) (identity.Principal, error) {
	ctx := r.Context()
	headers := r.Header.Values("Authorization")
	if len(headers) != 1 {
		return identity.Principal{}, errUnauthenticated
	}
	peer := h.Peer(ctx)
	token := ""
	login, password, basic := r.BasicAuth()
	switch scheme, rest, _ := strings.Cut(headers[0], " "); {
	case basic:
		token = password
	case strings.EqualFold(scheme, "Bearer"):
		token = strings.TrimLeft(rest, " ")
	default:
		return identity.Principal{}, errUnauthenticated
	}
	p, err := h.Identity.Authenticate(ctx, token)
	if !errors.Is(err, identity.ErrUnauthenticated) || !basic || login == "" || strings.HasPrefix(password, tokenPrefix) {
		p.Peer = peer
		return p, err
	}
	in, err := h.Identity.LoginWithoutCode(ctx, login, password, peer) // who has a second factor uses a token
	if err != nil {
		return identity.Principal{}, err
	}
	p = in.User.Principal()
	// Whatever their role: administrators use a token for what is not their own.
	p.Scopes, p.Peer = []identity.Scope{identity.ScopeCertSelf}, peer
	return p, nil
}
