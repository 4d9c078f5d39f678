package enrollment

import (
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/gatehouse-mdm/gatehouse/webui/admin"
	"github.com/gatehouse-mdm/gatehouse/webui/view"
)

// invitation is some people who are sent a link each.
type invitation struct {
	ID           string         `json:"id"`
	Name         string         `json:"name"`
	Ownership    string         `json:"ownership"`
	Login        string         `json:"login"`
	Uses         int            `json:"uses"`
	Language     string         `json:"language"`
	Counts       map[string]int `json:"counts"`
	CreatedAt    time.Time      `json:"created_at"`
	CreatedBy    string         `json:"created_by"`
	ExpiresAt    time.Time      `json:"expires_at"`
	RevokedAt    *time.Time     `json:"revoked_at"`
	PausedUntil  *time.Time     `json:"paused_until"`
	PauseReason  string         `json:"pause_reason"`
	InvitedItems []invited      `json:"items"`
}

// Label is what to call it, URL its page.
func (i invitation) Label() string {
	if i.Name != "" {
		return i.Name
	}
	return "Invitation of " + i.CreatedAt.UTC().Format("2 January 2006")
}

func (i invitation) URL() string { return invitationsPath + "/" + url.PathEscape(i.ID) }

// Summary is how many people are in which state.
func (i invitation) Summary() string {
	var parts []string
	for _, state := range []string{"sent", "queued", "failed", "cancelled", "not_sent"} {
		if n := i.Counts[state]; n > 0 {
			parts = append(parts, admin.Number(n)+" "+strings.ToLower(admin.Words(state)))
		}
	}
	return strings.Join(parts, ", ")
}

// invited is one person of them.
type invited struct {
	Email      string     `json:"email"`
	User       string     `json:"user"`
	State      string     `json:"state"`
	Tries      int        `json:"tries"`
	Error      string     `json:"error"`
	NextTryAt  *time.Time `json:"next_try_at"`
	SentAt     *time.Time `json:"sent_at"`
	LinkID     string     `json:"link_id"`
	Address    string     `json:"url"` // empty for who may not hand it out
	ShortCode  string     `json:"short_code"`
	LinkState  string     `json:"link_state"`
	Stage      string     `json:"stage"`
	EnrolledAt *time.Time `json:"enrolled_at"`
	DeviceID   string     `json:"device_id"`
	ErrorCode  string     `json:"error_code"`
}

// Mail is what became of the message, Way how far the person came.
func (i invited) Mail() view.State {
	switch i.State {
	case "sent":
		return view.State{Text: "sent", Tone: view.Good}
	case "failed":
		return view.State{Text: "not sent", Tone: view.Bad, Hint: i.Error}
	case "queued", "sending":
		return view.State{Text: "on its way", Tone: view.Waiting, Hint: i.Error}
	}
	return view.State{Text: strings.ToLower(admin.Words(i.State)), Tone: view.Neutral}
}

func (i invited) Way() view.State { return stageState(i.Stage, i.ErrorCode) }

// LinkURL is the page with the person's QR code.
func (i invited) LinkURL() string { return linksPath + "/" + url.PathEscape(i.LinkID) }

// DeviceURL is the page of their device; empty before there is one.
func (i invited) DeviceURL() string { return attempt{DeviceID: i.DeviceID}.DeviceURL() }

func (s *Enrollment) invitations(w http.ResponseWriter, r *http.Request) error {
	out, err := listOf[invitation](s, r, apiInvitations, invitationsPath, "Invitations", "invitation.", admin.Empty{
		Heading: "Nobody was invited yet", Text: "Each person gets a link of their own, by mail or as a QR code to scan at your desk, and you see how far they are.",
		Actions: []view.Link{{Label: "Enroll a person", URL: peoplePath + "/new"}, {Label: "Invite people", URL: invitationsPath + "/new"}},
	})
	if err != nil {
		return err
	}
	return s.desk.Write(w, r, s.pages, "invitations.html", out)
}

type inviteForm struct {
	admin.Page
	Form       *admin.Form
	Ownerships []admin.Option
	Logins     []admin.Option
	Lives      []admin.Option
	Languages  []admin.Option
	NoMail     bool   // there is no mail server
	Why        string // it can't be sent; empty: it can
	Back       string
}

func (s *Enrollment) writeInvite(w http.ResponseWriter, r *http.Request, status int, form *admin.Form) error {
	ctx := r.Context()
	now, err := s.settings(ctx)
	if err != nil {
		return err
	}
	var list admin.List[struct{ Lang, Name string }]
	if err := s.desk.Get(ctx, "/api/v1/portal-texts", nil, &list); err != nil {
		return err
	}
	out := &inviteForm{
		Form: form, Ownerships: now.ownerships(), Logins: logins, Lives: lives, Languages: []admin.Option{{Label: "As the organisation’s"}}, NoMail: now.Mail == nil, Why: s.why(ctx, routeInvite),
	}
	out.Page, out.Back = s.below(ctx, "Invite people", apiInvitations, invitationsLink)
	for _, l := range list.Items {
		out.Languages = append(out.Languages, admin.Option{Value: l.Lang, Label: l.Name})
	}
	return s.desk.WriteStatus(w, r, status, s.pages, "invite.html", out)
}

func (s *Enrollment) newInvitation(w http.ResponseWriter, r *http.Request) error {
	now, err := s.settings(r.Context())
	if err != nil {
		return err
	}
	form := admin.NewForm("ownership", now.ownership("ask"), "login", "required", "expires_in", "168h", "uses", "1")
	if now.Mail != nil {
		form.Values.Set("send", "true")
	}
	if user := r.URL.Query().Get("user"); user != "" {
		form.Values.Set("users", user)
	}
	return s.writeInvite(w, r, http.StatusOK, form)
}

// invite sends links. To one person whom nothing is mailed it leads to the QR code at once:
// they stand at the desk.
func (s *Enrollment) invite(w http.ResponseWriter, r *http.Request) error {
	form, err := admin.FormOf(r)
	if err != nil {
		return err
	}
	ask := map[string]any{
		"name": form.Get("name"), "ownership": form.Get("ownership"), "login": form.Get("login"), "expires_in": form.Get("expires_in"),
		"send": form.Has("send", "true"),
	}
	for _, name := range []string{"language", "subject", "message"} {
		if v := form.Get(name); v != "" {
			ask[name] = v
		}
	}
	for _, name := range []string{"emails", "users"} {
		if lines := form.Lines(name); len(lines) > 0 {
			ask[name] = lines
		}
	}
	count(form, "uses", ask)
	var made invitation
	if form.OK() {
		if err = s.desk.Send(form.Once(r.Context()), http.MethodPost, apiInvitations, ask, &made); err == nil {
			if len(made.InvitedItems) == 1 && !form.Has("send", "true") {
				return admin.Redirect(w, r, made.personURL(), "created")
			}
			return admin.Redirect(w, r, made.URL(), "created")
		}
		if !refused(form, err) {
			return err
		}
		for field, detail := range form.Errors { // emails[3] stands at emails
			if name, _, cut := strings.Cut(field, "["); cut && form.Errors[name] == "" {
				form.Errors[name] = "Line " + strings.Trim(strings.TrimPrefix(field, name), "[]") + ": " + detail
			}
		}
	}
	return s.writeInvite(w, r, http.StatusUnprocessableEntity, form)
}

type invitationPage struct {
	admin.Page
	Invitation invitation
	Facts      []admin.Fact
	Open       bool
	Failed     bool
}

func (s *Enrollment) invitation(w http.ResponseWriter, r *http.Request) error {
	var in invitation
	if err := s.desk.Get(r.Context(), apiInvitations+"/"+url.PathEscape(r.PathValue("id")), nil, &in); err != nil {
		return err
	}
	ends, made := s.desk.Moment(&in.ExpiresAt), s.desk.Moment(&in.CreatedAt)
	out := &invitationPage{
		Page: page(in.Label(), invitationsLink), Invitation: in, Open: in.RevokedAt == nil, Failed: in.Counts["failed"] > 0,
		Facts: []admin.Fact{
			{Label: "Devices become", Value: ownershipWords[in.Ownership]}, {Label: "Signing in", Value: link{Login: in.Login}.Signing()},
			{Label: "Ends", Moment: ends}, {Label: "Made", Moment: made, Hint: "by " + admin.Actor(in.CreatedBy)},
		},
	}
	out.Watch = "invitation. device."
	if out.Open {
		out.Every = 5
	}
	return s.desk.Write(w, r, s.pages, "invitation.html", out)
}

func (s *Enrollment) retry(w http.ResponseWriter, r *http.Request) error {
	at := url.PathEscape(r.PathValue("id"))
	if err := s.desk.Send(r.Context(), http.MethodPost, apiInvitations+"/"+at+"/retry", nil, nil); err != nil {
		return err
	}
	return admin.Redirect(w, r, invitationsPath+"/"+at, "sent")
}

func (s *Enrollment) askTakeBack(w http.ResponseWriter, r *http.Request) error {
	var in invitation
	if err := s.desk.Get(r.Context(), apiInvitations+"/"+url.PathEscape(r.PathValue("id")), nil, &in); err != nil {
		return err
	}
	return s.desk.Confirm(w, r, &admin.Confirm{
		Page: page("Take back", invitationsLink, view.Link{Label: in.Label(), URL: in.URL()}), Heading: "Take back " + in.Label() + "?",
		Text:   []string{"The links of all people in it end, and mails that have not left stay here. Devices that are enrolled stay so."},
		Button: "Take it back", Danger: true, Action: in.URL() + "/revoke", Back: in.URL(),
	})
}
