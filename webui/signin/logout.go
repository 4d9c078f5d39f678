package signin

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"time"

	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/webui/view"
)

// logoutPatience is how long a provider may take to say where people sign out there: it is
// only an offer.
const logoutPatience = 3 * time.Second

// logout ends the session here. Who came from a provider is told that they may still be
// signed in there.
func (s *SignIn) logout(w http.ResponseWriter, r *http.Request) error {
	provider := ""
	if p, ok := identity.PrincipalFrom(r.Context()); ok && p.Kind == identity.KindUser {
		u, err := s.People.User(r.Context(), p.ID)
		if err != nil && !errors.Is(err, storage.ErrNotFound) {
			return err
		}
		provider = u.Provider
	}
	if err := s.Sessions.End(r.Context()); err != nil {
		return err
	}
	switch {
	case provider != "" && s.logoutAt(r, provider) != "":
		return see(w, r, pathLogout+"?from="+url.QueryEscape(provider))
	case r.URL.Path != pathLogout:
		return see(w, r, pathAdminLogin+"?out=1")
	}
	return see(w, r, pathLogin+"?out=1")
}

// logoutAt is where people sign out at a provider, empty if that can't be said now. From
// there they come back to the page that says that they are signed out.
func (s *SignIn) logoutAt(r *http.Request, provider string) string {
	ctx, cancel := context.WithTimeout(r.Context(), logoutPatience)
	defer cancel()
	return s.People.LogoutURL(ctx, provider, s.address(pathLogout))
}

// signedOut says that somebody is signed out, or asks who is not.
func (s *SignIn) signedOut(w http.ResponseWriter, r *http.Request) error {
	around, _, err := s.Frame.Portal(r, "signin.out.heading")
	if err != nil {
		return err
	}
	page := view.SignedOut{Portal: around, Again: pathLogin}
	if p, ok := identity.PrincipalFrom(r.Context()); ok {
		page.User, page.Portal.User = p.Name, ""
		page.Title = page.T.Say("signin.out.ask.heading")
	} else if id := r.URL.Query().Get("from"); id != "" && len(id) <= 100 {
		if page.URL = s.logoutAt(r, id); page.URL != "" {
			page.Provider = s.nameOf(r, id)
		}
	}
	return s.Pages.Write(w, http.StatusOK, page)
}
