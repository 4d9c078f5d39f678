// Package portal is the pages that a person sees who enrols a device.
//
// It knows nothing of how a device is taken in: package enroll does that. What a
// person reads when an enrollment link is no use stands here.
package portal

import (
	"context"
	"errors"
	"net/http"

	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/webui"
	"github.com/gatehouse-mdm/gatehouse/webui/view"
)

// Enroller opens enrollment links. *enroll.Service is one.
type Enroller interface {
	OpenLink(ctx context.Context, code string) (enroll.Link, error)
	NewEnrollment(ctx context.Context, code string) (profile []byte, a enroll.Attempt, err error)
}

// Config says what a Portal needs. Organisation may be empty.
type Config struct {
	Enroll       Enroller
	Pages        *webui.Pages
	Organisation string
	OwnCA        bool          // devices must be told to trust our authority
	Fingerprint  func() string // SHA-256 of the organisation root, for people
}

// Portal serves /enroll.
type Portal struct{ Config }

// New returns a Portal, or says what c lacks.
func New(c Config) (*Portal, error) {
	if c.Enroll == nil || c.Pages == nil || c.Fingerprint == nil {
		return nil, errors.New("portal: Enroll, Pages and Fingerprint are required")
	}
	return &Portal{c}, nil
}

// Mount registers the routes.
func (p *Portal) Mount(r webui.Router) {
	r.Handle("GET /enroll", p.welcome)
	r.Handle("GET /enroll/l/{code}", p.link)
	r.Handle("GET /enroll/l/{code}/profile", p.profile)
	// Device protocol addresses, opened in a browser.
	r.Handle("GET "+enroll.PathCheckIn, p.notForBrowsers)
	r.Handle("GET "+enroll.PathConnect, p.notForBrowsers)
}

func (p *Portal) welcome(w http.ResponseWriter, _ *http.Request) error {
	return p.Pages.Write(w, http.StatusOK, view.Enroll{
		Layout:      view.Layout{Title: "Enrol your device"},
		OwnCA:       p.OwnCA,
		Fingerprint: p.Fingerprint(),
	})
}

func (p *Portal) link(w http.ResponseWriter, r *http.Request) error {
	link, err := p.usable(r)
	if err != nil {
		return explain(err)
	}
	return p.Pages.Write(w, http.StatusOK, view.EnrollLink{
		Layout:       view.Layout{Title: "Enrol this device"},
		Organization: p.Organisation,
		Personal:     link.Ownership == mdm.Personal,
		ProfileURL:   "/enroll/l/" + link.Code + "/profile",
		OwnCA:        p.OwnCA,
		Fingerprint:  p.Fingerprint(),
		ExpiresAt:    link.ExpiresAt,
	})
}

// usable returns the link that r names, if a device can enroll by it.
func (p *Portal) usable(r *http.Request) (enroll.Link, error) {
	link, err := p.Enroll.OpenLink(r.Context(), r.PathValue("code"))
	if err == nil && link.Login != enroll.LoginNone {
		err = enroll.ErrLoginRequired
	}
	return link, err
}

// profile answers a new attempt's enrollment profile. HEAD, which download managers
// and previews of links ask first, makes no attempt.
func (p *Portal) profile(w http.ResponseWriter, r *http.Request) error {
	if r.Method == http.MethodHead {
		if _, err := p.usable(r); err != nil {
			return explain(err)
		}
		webui.SendFile(w, "application/x-apple-aspen-config", "enroll.mobileconfig", nil)
		return nil
	}
	signed, _, err := p.Enroll.NewEnrollment(r.Context(), r.PathValue("code"))
	if err != nil {
		return explain(err)
	}
	webui.SendFile(w, "application/x-apple-aspen-config", "enroll.mobileconfig", signed)
	return nil
}

// ForDevices wraps what devices ask by GET: a person who opens its address, which
// then has no query, is told where to go.
func (p *Portal) ForDevices(next webui.HandlerFunc) webui.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) error {
		if r.URL.RawQuery != "" || !webui.WantsHTML(r) {
			return next(w, r)
		}
		p.Pages.Fail(w, r, p.notForBrowsers(w, r))
		return nil
	}
}

func (p *Portal) notForBrowsers(http.ResponseWriter, *http.Request) error {
	return &webui.Refusal{
		Problem: webui.Problem{Status: http.StatusMethodNotAllowed, Code: "method_not_allowed", Title: "This address is for devices"},
		Page: view.Message{
			Heading: "This address is for devices",
			Text:    "Enrolled devices report here by themselves. To enrol one, start with the enrollment page.",
			Action:  view.Link{Label: "Enrol your device", URL: "/enroll"},
			Code:    "GH-E002",
		},
	}
}

// askForNew is what helps with every link that is no use any more.
const askForNew = "Ask your IT department for a new one."

// refusals is the one place where what is wrong with a link becomes an answer.
var refusals = []struct {
	err     error
	refusal webui.Refusal
}{
	{enroll.ErrLinkUnknown, webui.Refusal{
		Problem: webui.Problem{Status: http.StatusNotFound, Code: "link_unknown", Title: "No enrollment link has this code"},
		Page: view.Message{
			Heading: "We don’t know this enrollment link",
			Text:    "Check that you copied all of it. If you did, ask your IT department for a new one.",
			Code:    "GH-E101",
		},
	}},
	{enroll.ErrLinkExpired, webui.Refusal{
		Problem: webui.Problem{Status: http.StatusGone, Code: "link_expired", Title: "The enrollment link has expired"},
		Page:    view.Message{Heading: "This enrollment link has expired", Text: askForNew, Code: "GH-E102"},
	}},
	{enroll.ErrLinkUsedUp, webui.Refusal{
		Problem: webui.Problem{Status: http.StatusGone, Code: "link_used_up", Title: "The enrollment link has no uses left"},
		Page:    view.Message{Heading: "This enrollment link was used already", Text: "It was good for a fixed number of devices. " + askForNew, Code: "GH-E103"},
	}},
	{enroll.ErrLinkRevoked, webui.Refusal{
		Problem: webui.Problem{Status: http.StatusGone, Code: "link_revoked", Title: "The enrollment link was revoked"},
		Page:    view.Message{Heading: "This enrollment link was withdrawn", Text: askForNew, Code: "GH-E104"},
	}},
	{enroll.ErrLoginRequired, webui.Refusal{
		Problem: webui.Problem{Status: http.StatusForbidden, Code: "login_required", Title: "The enrollment link asks for a login", Detail: "This version can't ask for one yet: make the link with \"login\": \"none\"."},
		Page: view.Message{
			Heading: "This enrollment link asks for a login",
			Text:    "This server can’t ask for one yet. Ask your IT department for a link that needs none.",
			Code:    "GH-E105",
		},
	}},
	{enroll.ErrUserDisabled, webui.Refusal{
		Problem: webui.Problem{Status: http.StatusForbidden, Code: "user_disabled", Title: "The user of the enrollment link may not enrol devices"},
		Page: view.Message{
			Heading: "You can’t enrol a device at the moment",
			Text:    "Your account may not enrol devices, or was switched off. Ask your IT department.",
			Code:    "GH-E106",
		},
	}},
}

func explain(err error) error {
	for i := range refusals {
		if errors.Is(err, refusals[i].err) {
			return &refusals[i].refusal
		}
	}
	return err
}
