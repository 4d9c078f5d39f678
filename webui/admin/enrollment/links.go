package enrollment

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/gatehouse-mdm/gatehouse/webui/admin"
	"github.com/gatehouse-mdm/gatehouse/webui/view"
)

// link is an enrollment link as the API has it.
type link struct {
	ID            string     `json:"id"`
	ShortCode     string     `json:"short_code"`
	Address       string     `json:"url"` // empty for who may not hand it out
	ProfileURL    string     `json:"profile_url"`
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

// Label is what to call the link.
func (l link) Label() string {
	if l.Name != "" {
		return l.Name
	}
	return "Link " + l.ShortCode
}

// URL is the link's page.
func (l link) URL() string { return linksPath + "/" + url.PathEscape(l.ID) }

// Standing is its state in words.
func (l link) Standing() view.State {
	switch l.State {
	case "active":
		return view.State{Text: "open", Tone: view.Good}
	case "used_up", "used":
		return view.State{Text: "used up", Tone: view.Neutral}
	case "expired":
		return view.State{Text: "expired", Tone: view.Neutral}
	case "revoked":
		return view.State{Text: "revoked", Tone: view.Bad}
	}
	return view.State{Text: admin.Words(l.State), Tone: view.Neutral}
}

// Left is how often it can be used.
func (l link) Left() string {
	if l.Unlimited {
		return "no limit"
	}
	return admin.Number(l.UsesLeft) + " of " + admin.Number(l.Uses)
}

// Signing is what people need for it.
func (l link) Signing() string {
	if l.Login == "none" {
		return "nobody signs in"
	}
	return "people sign in"
}

var ownershipWords = map[string]string{"institutional": "the organisation’s", "personal": "personal", "ask": "people say whose it is"}

// Whose is what the devices become.
func (l link) Whose() string { return ownershipWords[l.Ownership] }

func (s *Enrollment) links(w http.ResponseWriter, r *http.Request) error {
	out, err := listOf[link](s, r, apiLinks, linksPath, "Links", "link.", admin.Empty{
		Heading: "No links yet", Text: "A link, or its QR code, leads a device to its enrollment: once or many times, with or without signing in.",
		Actions: []view.Link{{Label: "New link", URL: linksPath + "/new"}},
	})
	if err != nil {
		return err
	}
	return s.desk.Write(w, r, s.pages, "links.html", out)
}

var (
	ownerships = []admin.Option{
		{Value: "institutional", Label: "The organisation’s", Hint: "Everything can be managed."},
		{Value: "personal", Label: "Personal", Hint: "It can’t be erased or locked, and its owner’s data stays out of reach."},
		{Value: "ask", Label: "The person says", Hint: "The portal asks whose device it is."},
	}
	logins = []admin.Option{
		{Value: "required", Label: "People sign in", Hint: "Their name is then known with the device."},
		{Value: "none", Label: "Nobody signs in", Hint: "Whoever has the link can enroll: keep it short-lived."},
	}
	lives = admin.Options("1h", "An hour", "24h", "A day", "168h", "A week", "720h", "30 days", "2160h", "90 days")
)

type linkForm struct {
	admin.Page
	Form       *admin.Form
	Ownerships []admin.Option
	Logins     []admin.Option
	Lives      []admin.Option
	Why        string // it can't be sent; empty: it can
	Action     string
	Back       string
}

func (s *Enrollment) writeNewLink(w http.ResponseWriter, r *http.Request, status int, form *admin.Form) error {
	now, err := s.settings(r.Context())
	if err != nil {
		return err
	}
	out := &linkForm{
		Form: form, Ownerships: now.ownerships(), Logins: logins, Lives: lives, Why: s.why(r.Context(), routeLink), Action: linksPath + "/new",
	}
	out.Page, out.Back = s.below(r.Context(), "New link", apiLinks, linksLink)
	return s.desk.WriteStatus(w, r, status, s.pages, "newlink.html", out)
}

func (s *Enrollment) newLink(w http.ResponseWriter, r *http.Request) error {
	now, err := s.settings(r.Context())
	if err != nil {
		return err
	}
	form := admin.NewForm("ownership", now.ownership(), "login", "required", "uses", "1", "expires_in", "168h", "user", r.URL.Query().Get("user"))
	return s.writeNewLink(w, r, http.StatusOK, form)
}

func (s *Enrollment) createLink(w http.ResponseWriter, r *http.Request) error {
	form, err := admin.FormOf(r)
	if err != nil {
		return err
	}
	ask := map[string]any{"name": form.Get("name"), "ownership": form.Get("ownership"), "login": form.Get("login"), "expires_in": form.Get("expires_in")}
	if user := form.Get("user"); user != "" {
		ask["user"] = user
	}
	if form.Has("unlimited", "true") {
		ask["unlimited"] = true
	} else {
		count(form, "uses", ask)
	}
	if serials := form.Lines("serial_numbers"); len(serials) > 0 {
		ask["serial_numbers"] = serials
	}
	var made link
	if form.OK() {
		if err = s.desk.Send(r.Context(), http.MethodPost, apiLinks, ask, &made); err == nil {
			return admin.Redirect(w, r, made.URL(), "created")
		}
		if !refused(form, err) {
			return err
		}
	}
	return s.writeNewLink(w, r, http.StatusUnprocessableEntity, form)
}

type linkPage struct {
	admin.Page
	Link     link
	Facts    []admin.Fact
	Attempts []attempt
	Active   bool

	PortalHost string
}

func (s *Enrollment) find(ctx context.Context, id string) (l link, err error) {
	err = s.desk.Get(ctx, apiLinks+"/"+url.PathEscape(id), nil, &l)
	return l, err
}

// link shows the QR code, and what becomes of who scans it.
func (s *Enrollment) link(w http.ResponseWriter, r *http.Request) error {
	l, err := s.find(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	var list admin.List[attempt]
	if err := s.desk.Get(r.Context(), apiAttempts, url.Values{"limit": {"20"}, "link_id": {l.ID}}, &list); err != nil {
		return err
	}
	ends, made := s.desk.Moment(&l.ExpiresAt), s.desk.Moment(&l.CreatedAt)
	out := &linkPage{
		Page: page(l.Label(), linksLink), Link: l, Attempts: list.Items, Active: l.State == "active", PortalHost: s.desk.ServerURL.Host,
		Facts: []admin.Fact{
			{Label: "Devices become", Value: l.Whose()}, {Label: "Signing in", Value: l.Signing()}, {Label: "Uses left", Value: l.Left()},
			{Label: "Ends", Moment: ends}, {Label: "Made", Moment: made, Hint: "by " + admin.Actor(l.CreatedBy)},
		},
	}
	if l.User != "" {
		out.Facts = append(out.Facts, admin.Fact{Label: "For", Value: l.User})
	}
	for _, serial := range l.SerialNumbers {
		out.Facts = append(out.Facts, admin.Fact{Label: "Only for serial number", Value: serial, Mono: true})
	}
	out.Watch, out.Every = "link. attempt. device.", 0
	if out.Active {
		out.Every = 3 // attempts are no events
	}
	return s.desk.Write(w, r, s.pages, "link.html", out)
}

func (s *Enrollment) picture(w http.ResponseWriter, r *http.Request) error {
	return s.desk.Forward(w, r, apiLinks+"/"+url.PathEscape(r.PathValue("id"))+"/qr.svg", nil)
}

func (s *Enrollment) writeEdit(w http.ResponseWriter, r *http.Request, status int, l link, form *admin.Form) error {
	return s.desk.WriteStatus(w, r, status, s.pages, "editlink.html", &linkForm{
		Page: page("Change "+l.Label(), linksLink, view.Link{Label: l.Label(), URL: l.URL()}),
		Form: form, Lives: append([]admin.Option{{Label: "As it is"}}, lives...),
		Action: l.URL() + "/edit", Back: l.URL(),
	})
}

func (s *Enrollment) editLink(w http.ResponseWriter, r *http.Request) error {
	l, err := s.find(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	form := admin.NewForm("name", l.Name)
	if !l.Unlimited {
		form.Values.Set("uses", strconv.Itoa(l.Uses))
	}
	return s.writeEdit(w, r, http.StatusOK, l, form)
}

func (s *Enrollment) changeLink(w http.ResponseWriter, r *http.Request) error {
	form, err := admin.FormOf(r)
	if err != nil {
		return err
	}
	l, err := s.find(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	change := map[string]any{"name": form.Get("name")}
	if !l.Unlimited {
		count(form, "uses", change)
	}
	if life := form.Get("expires_in"); life != "" {
		change["expires_in"] = life
	}
	if form.OK() {
		if err = s.desk.Send(r.Context(), http.MethodPatch, apiLinks+"/"+url.PathEscape(l.ID), change, nil); err == nil {
			return admin.Redirect(w, r, l.URL(), "saved")
		}
		if !refused(form, err) {
			return err
		}
	}
	return s.writeEdit(w, r, http.StatusUnprocessableEntity, l, form)
}

func (s *Enrollment) askRevoke(w http.ResponseWriter, r *http.Request) error {
	l, err := s.find(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	return s.desk.Confirm(w, r, &admin.Confirm{
		Page: page("Revoke", linksLink, view.Link{Label: l.Label(), URL: l.URL()}), Heading: "Revoke " + l.Label() + "?",
		Text:   []string{"Nobody can begin with this link any more, and who is on the way can’t go on. Devices that are enrolled stay so."},
		Button: "Revoke the link", Danger: true, Action: l.URL() + "/revoke", Back: l.URL(),
	})
}
