package apiv1

import (
	"bytes"
	"cmp"
	"net/http"
	"strings"
	"time"

	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/webui"
	"github.com/gatehouse-mdm/gatehouse/webui/qr"
)

// ownershipAsk is the ownership of a link whose user says whose device it is.
const ownershipAsk = "ask"

type linkRequest struct {
	Name          string   `json:"name"`
	Ownership     string   `json:"ownership"` // or ownershipAsk
	Login         string   `json:"login"`
	User          string   `json:"user"`
	Uses          *int     `json:"uses"`
	Unlimited     bool     `json:"unlimited"`
	ExpiresIn     *string  `json:"expires_in"`
	SerialNumbers []string `json:"serial_numbers"`
}

type linkChange struct {
	Name      *string `json:"name"`
	Uses      *int    `json:"uses"` // in all
	ExpiresIn *string `json:"expires_in"`
	ExpiresAt *string `json:"expires_at"`
}

type linkJSON struct {
	ID            string     `json:"id"`
	Code          string     `json:"code"`
	ShortCode     string     `json:"short_code"` // as it is shown; empty: an older link
	URL           string     `json:"url"`
	ProfileURL    string     `json:"profile_url"`
	QRURL         string     `json:"qr_url"`
	Name          string     `json:"name"`
	Ownership     string     `json:"ownership"`
	Login         string     `json:"login"`
	User          string     `json:"user"`
	Uses          int        `json:"uses"`
	UsesLeft      int        `json:"uses_left"`
	Unlimited     bool       `json:"unlimited"`
	SerialNumbers []string   `json:"serial_numbers"`
	State         string     `json:"state"`
	CreatedAt     time.Time  `json:"created_at"`
	CreatedBy     string     `json:"created_by"`
	ExpiresAt     time.Time  `json:"expires_at"`
	RevokedAt     *time.Time `json:"revoked_at"`
}

// createdLinkJSON is a link that was just made.
type createdLinkJSON struct {
	linkJSON
	Warnings []string `json:"warnings"`
}

// link is how p sees l: who can't hand it out does not learn its code.
func (a *API) link(p identity.Principal, l enroll.Link) linkJSON {
	out := linkJSON{
		ID: l.ID, Name: l.Name, Ownership: ownershipJSON(l.Ownership), Login: string(l.Login), User: l.User,
		Uses: l.Uses, UsesLeft: l.UsesLeft, Unlimited: l.Unlimited, SerialNumbers: list(l.SerialNumbers), State: string(l.State(a.now())),
		CreatedAt: l.CreatedAt.UTC(), CreatedBy: l.CreatedBy, ExpiresAt: l.ExpiresAt.UTC(), RevokedAt: timestamp(l.RevokedAt),
	}
	if handsOut(p, l) {
		at := a.serverURL.JoinPath("enroll", "l", l.Code)
		out.Code, out.ShortCode, out.URL, out.ProfileURL = l.Code, enroll.SpellCode(l.ShortCode), at.String(), at.JoinPath("profile").String()
		out.QRURL = a.serverURL.JoinPath("api", "v1", "enrollment-links", l.ID, "qr.svg").String()
	}
	return out
}

// handsOut says whether p learns the code of l: not who may only read, and of one that
// speaks for a user administrators alone.
func handsOut(p identity.Principal, l enroll.Link) bool {
	return p.Allows(identity.ScopeHelpdesk) && (!l.Speaks() || p.Allows(identity.ScopeAdmin))
}

func ownershipJSON(o mdm.Ownership) string { return cmp.Or(string(o), ownershipAsk) }

// ownershipOf reads the ownership of links to be made.
func ownershipOf(text string) (o mdm.Ownership, ask bool) {
	if text == ownershipAsk {
		return "", true
	}
	return mdm.Ownership(text), false
}

// usesOf reads a number of uses, which may not be 0: that stands for the default below.
func usesOf(given *int) (int, error) {
	if given == nil {
		return 0, nil
	}
	if *given == 0 {
		return 0, invalid("uses", "must be at least 1")
	}
	return *given, nil
}

// expiryOf reads a duration such as 24h, 0 if there is none.
func expiryOf(given *string) (time.Duration, error) {
	if given == nil {
		return 0, nil
	}
	d, err := time.ParseDuration(*given)
	if err != nil || d <= 0 {
		return 0, invalid("expires_in", "must be a duration such as 24h")
	}
	return d, nil
}

func (a *API) createLink(w http.ResponseWriter, r *http.Request) error {
	var in linkRequest
	if _, err := readJSON(r, &in); err != nil {
		return err
	}
	n := enroll.NewLink{
		Name: in.Name, Login: enroll.Login(in.Login), User: in.User, Unlimited: in.Unlimited, SerialNumbers: in.SerialNumbers,
		CreatedBy: principal(r).String(),
	}
	n.Ownership, n.Ask = ownershipOf(in.Ownership)
	var err error
	if n.Uses, err = usesOf(in.Uses); err != nil {
		return err
	}
	if n.ExpiresIn, err = expiryOf(in.ExpiresIn); err != nil {
		return err
	}
	if err := a.enroll.MayHandOut(r.Context(), principal(r), enroll.Link{Login: n.Login, User: strings.TrimSpace(n.User)}); err != nil {
		return err
	}
	l, err := a.enroll.CreateLink(r.Context(), n)
	if err != nil {
		return err
	}
	out := createdLinkJSON{linkJSON: a.link(principal(r), l), Warnings: []string{}}
	trouble, err := a.enroll.PushTrouble(r.Context())
	if err != nil {
		return err
	}
	if trouble != "" {
		out.Warnings = append(out.Warnings, trouble)
	}
	w.Header().Set("Location", "/api/v1/enrollment-links/"+l.ID)
	return webui.WriteJSON(w, http.StatusCreated, out)
}

func (a *API) listLinks(w http.ResponseWriter, r *http.Request) error {
	cursor, limit, err := pageOf(r)
	if err != nil {
		return err
	}
	var filter enroll.LinkFilter
	if filter.User, err = textOf(r.URL.Query(), "user"); err != nil {
		return err
	}
	state, err := textOf(r.URL.Query(), "state")
	if err != nil {
		return err
	}
	switch filter.State = enroll.LinkState(state); filter.State {
	case "", enroll.LinkActive, enroll.LinkExpired, enroll.LinkUsedUp, enroll.LinkRevoked:
	default:
		return invalid("state", "must be active, expired, used_up or revoked")
	}
	links, next, err := a.enroll.FindLinks(r.Context(), filter, cursor, limit)
	if err != nil {
		return err
	}
	by := principal(r)
	return webui.WriteJSON(w, http.StatusOK, newPage(links, next, func(l enroll.Link) linkJSON { return a.link(by, l) }))
}

func (a *API) getLink(w http.ResponseWriter, r *http.Request) error {
	l, err := a.linkOf(r)
	if err != nil {
		return err
	}
	return webui.WriteJSON(w, http.StatusOK, a.link(principal(r), l))
}

func (a *API) linkOf(r *http.Request) (enroll.Link, error) {
	id, err := pathID(r, "id")
	if err != nil {
		return enroll.Link{}, err
	}
	return a.enroll.Link(r.Context(), id)
}

func (a *API) updateLink(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r, "id")
	if err != nil {
		return err
	}
	var in linkChange
	if _, err := readJSON(r, &in); err != nil {
		return err
	}
	c := enroll.LinkChange{Name: in.Name, Uses: in.Uses}
	if in.ExpiresIn != nil {
		d, err := expiryOf(in.ExpiresIn)
		if err != nil {
			return err
		}
		c.ExpiresIn = &d
	}
	if in.ExpiresAt != nil {
		at, err := time.Parse(time.RFC3339, *in.ExpiresAt)
		if err != nil {
			return invalid("expires_at", "must be a time such as 2026-12-31T12:00:00Z")
		}
		c.ExpiresAt = &at
	}
	old, err := a.enroll.Link(r.Context(), id)
	if err != nil {
		return err
	}
	if err := a.enroll.MayHandOut(r.Context(), principal(r), old); err != nil {
		return err
	}
	l, err := a.enroll.UpdateLink(r.Context(), id, c)
	if err != nil {
		return err
	}
	return webui.WriteJSON(w, http.StatusOK, a.link(principal(r), l))
}

// drawLink answers a QR code of the link's page, to be printed.
func (a *API) drawLink(w http.ResponseWriter, r *http.Request) error {
	l, err := a.linkOf(r)
	if err != nil {
		return err
	}
	if !handsOut(principal(r), l) {
		return errScope(identity.ScopeAdmin)
	}
	title := "Enrollment link"
	if l.Name != "" {
		title += ": " + l.Name
	}
	picture, err := qr.SVG(a.serverURL.JoinPath("enroll", "l", l.Code).String(), title)
	if err != nil {
		return err
	}
	h := w.Header()
	h.Set("Content-Type", "image/svg+xml")
	h.Set("Content-Security-Policy", "default-src 'none'; sandbox") // a picture, opened by itself
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(picture))
	return nil
}

func (a *API) revokeLink(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r, "id")
	if err != nil {
		return err
	}
	if err := a.enroll.RevokeLink(r.Context(), id); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}
