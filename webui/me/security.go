package me

import (
	"cmp"
	"encoding/base32"
	"errors"
	"html/template"
	"math"
	"net/http"
	"strconv"
	"strings"

	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/webui/frame"
	"github.com/gatehouse-mdm/gatehouse/webui/qr"
	"github.com/gatehouse-mdm/gatehouse/webui/text"
	"github.com/gatehouse-mdm/gatehouse/webui/view"
)

// errElsewhere means that a person signs in at a provider, where password and codes are.
var errElsewhere = identity.ErrElsewhere

func (m *Me) security(w http.ResponseWriter, r *http.Request) error {
	return m.securityForm(w, r, http.StatusOK, nil)
}

// securityForm shows how a person signs in. say adds what went wrong; it may be nil.
func (m *Me) securityForm(w http.ResponseWriter, r *http.Request, status int, say func(*text.Texts, *view.MeSecurity)) error {
	u, err := m.Identity.User(r.Context(), caller(r).ID)
	if err != nil {
		return refuse(err, "")
	}
	around, err := m.page(r, "me.security.title", sectionSecurity, sectionSecurity)
	if err != nil {
		return err
	}
	done(&around, r, "password", u.Password != "")
	done(&around, r, "factor", !u.SecondFactorAt.IsZero())
	done(&around, r, "factor_removed", u.SecondFactorAt.IsZero())
	provider, codes, err := m.signsInAt(r, u)
	if err != nil {
		return err
	}
	t := around.T
	page := view.MeSecurity{Me: around, Least: identity.MinPassword, Codes: codes, Factor: codes && !u.SecondFactorAt.IsZero()}
	switch {
	case u.Password != "":
	case codes:
		page.Elsewhere = t.Say("me.security.directory", "provider", provider.Name)
	default:
		page.Elsewhere = t.Say("me.security.elsewhere", "provider", provider.Name)
	}
	switch {
	case page.Factor:
		left, err := m.Identity.RecoveryCodesLeft(r.Context(), u.ID)
		if err != nil {
			return err
		}
		page.FactorText = t.Say("me.security.factor.since", "time", day(u.SecondFactorAt)) + " " + t.Many("me.security.factor.left", left)
	case codes && provider.RequireSecondFactor && u.Role != identity.RoleUser:
		page.FactorNeeded = t.Say("me.security.factor.needed")
	}
	if say != nil {
		say(t, &page)
	}
	return m.Pages.Write(w, status, page)
}

func (m *Me) changePassword(w http.ResponseWriter, r *http.Request) error {
	if err := r.ParseForm(); err != nil {
		return unreadable(err)
	}
	p := caller(r)
	u, err := m.Identity.ChangePassword(r.Context(), p.ID, r.PostForm.Get("old"), r.PostForm.Get("new"), p.Peer)
	again := func(status int, code string, words func(*text.Texts) string) error {
		m.refused(r, code)
		return m.securityForm(w, r, status, func(t *text.Texts, page *view.MeSecurity) { page.PasswordError = words(t) })
	}
	switch {
	case errors.Is(err, identity.ErrBadLogin):
		return again(http.StatusUnprocessableEntity, codeOldPassword, func(t *text.Texts) string {
			return t.Say("me.security.password.wrong", "code", codeOldPassword)
		})
	case errors.Is(err, identity.ErrInvalid):
		return again(http.StatusUnprocessableEntity, codeNewPassword, func(t *text.Texts) string {
			if len([]rune(r.PostForm.Get("new"))) < identity.MinPassword {
				return t.Many("me.security.password.short", identity.MinPassword, "code", codeNewPassword)
			}
			if errors.Is(err, identity.ErrGuessable) {
				return t.Say("me.security.password.guessable", "code", codeNewPassword)
			}
			return t.Say("me.security.password.long", "code", codeNewPassword)
		})
	case errors.Is(err, identity.ErrThrottled):
		throttled(w, err)
		return again(http.StatusTooManyRequests, codeThrottled, func(t *text.Texts) string { return t.Say("me.security.throttled", "code", codeThrottled) })
	case err != nil:
		return refuse(err, "")
	}
	if err := m.Sessions.StartUser(r.Context(), u); err != nil { // the one before has ended with the password
		return err
	}
	return seeOther(w, r, sectionSecurity, "password")
}

// throttled says for how long there is nothing to try.
func throttled(w http.ResponseWriter, err error) {
	if wait := identity.RetryAfter(err); wait > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(wait.Seconds()))))
	}
}

// signsInAt returns where u signs in, and whether codes are asked for here: beside a
// password that is typed here, also where a directory knows it.
func (m *Me) signsInAt(r *http.Request, u identity.User) (p identity.Provider, codes bool, err error) {
	p, err = m.Identity.Provider(r.Context(), cmp.Or(u.Provider, identity.LocalProvider))
	if errors.Is(err, storage.ErrNotFound) {
		return identity.Provider{}, false, nil
	}
	if p.ID == identity.LocalProvider {
		return p, u.Password != "", err
	}
	return p, err == nil && m.Identity.How(p) == identity.HowPassword, err
}

// withCodes returns who signed in, if codes are asked for here.
func (m *Me) withCodes(r *http.Request) (identity.User, error) {
	u, err := m.Identity.User(r.Context(), caller(r).ID)
	if err == nil {
		var codes bool
		if _, codes, err = m.signsInAt(r, u); err == nil && !codes {
			err = errElsewhere
		}
	}
	if err != nil {
		return identity.User{}, refuse(err, "")
	}
	return u, nil
}

// beginFactor makes a key and shows it: once, since the page is the answer to a form and
// is kept nowhere. It asks for the password: whoever finds a browser open would keep the
// owner out with a second factor of their own.
func (m *Me) beginFactor(w http.ResponseWriter, r *http.Request) error {
	if err := r.ParseForm(); err != nil {
		return unreadable(err)
	}
	u, err := m.withCodes(r)
	if err != nil {
		return err
	}
	in, err := m.Identity.Login(r.Context(), u.Login(), r.PostForm.Get("password"), caller(r).Peer)
	if err == nil && in.User.ID != u.ID {
		err = identity.ErrBadLogin
	}
	if err != nil {
		return m.factorRefused(w, r, err)
	}
	issuer, err := m.issuer(r)
	if err != nil {
		return err
	}
	setup, err := m.Identity.BeginSecondFactor(r.Context(), u.ID, issuer)
	if errors.Is(err, identity.ErrSecondFactor) {
		return seeOther(w, r, sectionSecurity, "") // another window has set one up
	}
	if err != nil {
		return err
	}
	return m.factorForm(w, r, http.StatusOK, setup.Key.Reveal(), setup.URI.Reveal(), "")
}

// issuer is what an authenticator app calls this server.
func (m *Me) issuer(r *http.Request) (string, error) {
	settings, err := m.Enroll.Settings(r.Context())
	if err != nil {
		return "", err
	}
	if settings.Organisation.Name != "" {
		return settings.Organisation.Name, nil
	}
	return "Gatehouse", nil
}

// factorForm shows a key, and its picture where there is a URI for that.
func (m *Me) factorForm(w http.ResponseWriter, r *http.Request, status int, key, uri, problem string) error {
	around, err := m.page(r, "me.factor.title", sectionSecurity, sectionSecurity)
	if err != nil {
		return err
	}
	page := view.MeFactor{Me: around, Key: inGroups(key), Raw: key, Error: problem}
	if uri != "" {
		picture, err := qr.SVG(uri, around.T.Say("me.factor.qr"))
		if err != nil {
			return err
		}
		page.QR = template.HTML(picture) // it escapes the title
	}
	return m.Pages.Write(w, status, page)
}

// inGroups spells a key in groups of four.
func inGroups(key string) string {
	var groups []string
	for len(key) > 4 {
		groups, key = append(groups, key[:4]), key[4:]
	}
	return strings.Join(append(groups, key), " ")
}

func (m *Me) confirmFactor(w http.ResponseWriter, r *http.Request) error {
	if err := r.ParseForm(); err != nil {
		return unreadable(err)
	}
	u, err := m.withCodes(r)
	if err != nil {
		return err
	}
	u, codes, err := m.Identity.ConfirmSecondFactor(r.Context(), u.ID, r.PostForm.Get("code"), caller(r).Peer)
	key := r.PostForm.Get("key")
	switch {
	case errors.Is(err, identity.ErrBadCode) && isKey(key):
		// The same key again, which the form has brought; the app has scanned it already.
		m.refused(r, codeWrongCode)
		texts, err := m.Frame.Texts.For(r)
		if err != nil {
			return err
		}
		return m.factorForm(w, r, http.StatusUnprocessableEntity, key, "", texts.Say("me.security.code.wrong", "code", codeWrongCode))
	case err != nil:
		return m.factorRefused(w, r, err)
	}
	if err := m.Sessions.StartUser(r.Context(), u); err != nil { // all of before have ended
		return err
	}
	return m.recovery(w, r, codes)
}

// isKey says whether a form brings what BeginSecondFactor has made.
func isKey(key string) bool {
	_, err := base32.StdEncoding.WithPadding(base32.NoPadding).DecodeString(key)
	return err == nil && len(key) >= 16 && len(key) <= 64
}

// factorRefused says beside the form why a code, or a password, did nothing.
func (m *Me) factorRefused(w http.ResponseWriter, r *http.Request, err error) error {
	status, key, code := http.StatusUnprocessableEntity, "me.security.code.wrong", codeWrongCode
	switch {
	case errors.Is(err, identity.ErrThrottled):
		throttled(w, err)
		status, key, code = http.StatusTooManyRequests, "me.security.throttled", codeThrottled
	case errors.Is(err, identity.ErrBadLogin), errors.Is(err, identity.ErrUnusable):
		key, code = "me.security.password.wrong", codeOldPassword
	case errors.Is(err, identity.ErrSource):
		return &frame.Refusal{
			Code: "GH-E206", Status: http.StatusServiceUnavailable, Name: "source_unavailable", Title: "The provider is not available",
			Texts: "signin.refused.source", Action: sectionSecurity, Err: err,
		}
	case errors.Is(err, identity.ErrSecondFactor):
		status, key, code = http.StatusConflict, "me.security.factor.expired", codeNoFactor
	case !errors.Is(err, identity.ErrBadCode):
		return refuse(err, "")
	}
	m.refused(r, code)
	return m.securityForm(w, r, status, func(t *text.Texts, page *view.MeSecurity) { page.FactorError = t.Say(key, "code", code) })
}

// changeFactor makes new recovery codes, or takes the second factor away, for a code.
func (m *Me) changeFactor(w http.ResponseWriter, r *http.Request) error {
	if err := r.ParseForm(); err != nil {
		return unreadable(err)
	}
	u, err := m.withCodes(r)
	if err != nil {
		return err
	}
	code, peer := r.PostForm.Get("code"), caller(r).Peer
	switch r.PostForm.Get("do") {
	case "codes":
		codes, err := m.Identity.NewRecoveryCodes(r.Context(), u.ID, code, peer)
		if err != nil {
			return m.factorRefused(w, r, err)
		}
		return m.recovery(w, r, codes)
	case "remove":
		if err := m.Identity.DisableSecondFactor(r.Context(), u.ID, code, peer); err != nil {
			return m.factorRefused(w, r, err)
		}
		return seeOther(w, r, sectionSecurity, "factor_removed")
	}
	return unreadable(nil)
}

// recovery shows recovery codes, once: the page is the answer to a form, and kept nowhere.
func (m *Me) recovery(w http.ResponseWriter, r *http.Request, codes []identity.Secret) error {
	around, err := m.page(r, "me.recovery.title", sectionSecurity, sectionSecurity)
	if err != nil {
		return err
	}
	page := view.MeRecovery{Me: around}
	for _, code := range codes {
		page.Codes = append(page.Codes, code.Reveal())
	}
	return m.Pages.Write(w, http.StatusOK, page)
}
