package apiv1

import (
	"net/http"
	"strings"
	"time"

	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/enroll/invite"
	"github.com/gatehouse-mdm/gatehouse/webui"
)

type invitationRequest struct {
	Emails        []string `json:"emails"`
	Users         []string `json:"users"`
	Name          string   `json:"name"`
	Ownership     string   `json:"ownership"` // or ownershipAsk
	Login         string   `json:"login"`
	Uses          *int     `json:"uses"`
	ExpiresIn     *string  `json:"expires_in"`
	SerialNumbers []string `json:"serial_numbers"`
	Language      string   `json:"language"`
	Subject       string   `json:"subject"`
	Message       string   `json:"message"` // Markdown
	Send          *bool    `json:"send"`    // nil: true
}

type invitationJSON struct {
	ID        string         `json:"id"`
	Name      string         `json:"name"`
	Ownership string         `json:"ownership"`
	Login     string         `json:"login"`
	Uses      int            `json:"uses"`
	Language  string         `json:"language"`
	Subject   string         `json:"subject"`
	Message   string         `json:"message"`
	Counts    map[string]int `json:"counts"` // items in each state that there is
	CreatedAt time.Time      `json:"created_at"`
	CreatedBy string         `json:"created_by"`
	ExpiresAt time.Time      `json:"expires_at"`
	RevokedAt *time.Time     `json:"revoked_at"`
}

// invitationWithItems is one invitation with all there is to say of it.
type invitationWithItems struct {
	invitationJSON
	// PausedUntil and PauseReason say why no mail is sent at all for now.
	PausedUntil *time.Time `json:"paused_until"`
	PauseReason string     `json:"pause_reason"`

	Items []invitedJSON `json:"items"`
}

type invitedJSON struct {
	Email     string     `json:"email"`
	User      string     `json:"user"` // whom the link is for
	State     string     `json:"state"`
	Tries     int        `json:"tries"`
	Error     string     `json:"error"` // of the last try
	NextTryAt *time.Time `json:"next_try_at"`
	SentAt    *time.Time `json:"sent_at"`

	LinkID    string `json:"link_id"`
	URL       string `json:"url"`
	ShortCode string `json:"short_code"`
	LinkState string `json:"link_state"`

	// What became of it: that of the attempt which came furthest.
	Stage      string     `json:"stage"` // empty: nobody has opened the link
	EnrolledAt *time.Time `json:"enrolled_at"`
	DeviceID   string     `json:"device_id"`
	ErrorCode  string     `json:"error_code"` // of an attempt that failed
}

func invitation(in invite.Invitation) invitationJSON {
	out := invitationJSON{
		ID: in.ID, Name: in.Name, Ownership: ownershipJSON(in.Ownership), Login: string(in.Login), Uses: in.Uses,
		Language: in.Language, Subject: in.Subject, Message: in.Message, Counts: make(map[string]int, len(in.Counts)),
		CreatedAt: in.CreatedAt.UTC(), CreatedBy: in.CreatedBy, ExpiresAt: in.ExpiresAt.UTC(), RevokedAt: timestamp(in.RevokedAt),
	}
	for state, n := range in.Counts {
		out.Counts[string(state)] = n
	}
	return out
}

// invited is how by sees what became of an address: see [API.link].
func (a *API) invited(by identity.Principal, p invite.Progress) invitedJSON {
	out := invitedJSON{
		Email: p.Email, State: string(p.State), Tries: p.Tries, Error: p.Error, SentAt: timestamp(p.SentAt), LinkID: p.LinkID,
	}
	if p.State == invite.Queued {
		out.NextTryAt = timestamp(p.NextAt)
	}
	if p.LinkUse == nil {
		return out
	}
	out.User, out.LinkState = p.User, string(p.Link.State(a.now()))
	if handsOut(by, p.Link) {
		out.ShortCode, out.URL = enroll.SpellCode(p.ShortCode), a.serverURL.JoinPath("enroll", "l", p.Code).String()
	}
	if p.Attempt != nil {
		out.Stage, out.DeviceID, out.ErrorCode = string(p.Attempt.Stage), string(p.Attempt.DeviceID), p.Attempt.ErrorCode
		out.EnrolledAt = timestamp(p.Attempt.StageAt[enroll.Enrolled])
	}
	return out
}

// writeInvitation answers with an invitation and its items.
func (a *API) writeInvitation(w http.ResponseWriter, r *http.Request, status int, in invite.Invitation, list []invite.Progress) error {
	rest, err := a.invitations.Rest(r.Context())
	if err != nil {
		return err
	}
	out := invitationWithItems{invitationJSON: invitation(in), Items: make([]invitedJSON, len(list))}
	if rest != nil && (in.Counts[invite.Queued] > 0 || in.Counts[invite.Sending] > 0) {
		out.PausedUntil, out.PauseReason = timestamp(rest.Until), rest.Error
	}
	for i, p := range list {
		out.Items[i] = a.invited(principal(r), p)
	}
	return webui.WriteJSON(w, status, out)
}

func (a *API) createInvitation(w http.ResponseWriter, r *http.Request) error {
	var in invitationRequest
	body, err := readJSON(r, &in)
	if err != nil {
		return err
	}
	n := invite.Request{
		Emails: in.Emails, Users: in.Users, Name: in.Name, Login: enroll.Login(in.Login), SerialNumbers: in.SerialNumbers,
		Language: strings.TrimSpace(in.Language), Subject: in.Subject, Message: in.Message,
		WithoutMail: in.Send != nil && !*in.Send, CreatedBy: principal(r).String(),
	}
	n.Ownership, n.Ask = ownershipOf(in.Ownership)
	if n.Uses, err = usesOf(in.Uses); err != nil {
		return err
	}
	if n.ExpiresIn, err = expiryOf(in.ExpiresIn); err != nil {
		return err
	}
	// A repeated request is answered with what the first one made.
	if _, n.ID, err = a.reserve(r, body, a.invitations.NewID()); err != nil {
		return err
	}
	made, list, err := a.invitations.Create(r.Context(), n)
	if err != nil {
		return err
	}
	w.Header().Set("Location", "/api/v1/enrollment-invitations/"+made.ID)
	return a.writeInvitation(w, r, http.StatusAccepted, made, list)
}

func (a *API) listInvitations(w http.ResponseWriter, r *http.Request) error {
	cursor, limit, err := pageOf(r)
	if err != nil {
		return err
	}
	list, next, err := a.invitations.List(r.Context(), cursor, limit)
	if err != nil {
		return err
	}
	return webui.WriteJSON(w, http.StatusOK, newPage(list, next, invitation))
}

func (a *API) getInvitation(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r, "id")
	if err != nil {
		return err
	}
	return a.answerInvitation(w, r, http.StatusOK, id)
}

func (a *API) answerInvitation(w http.ResponseWriter, r *http.Request, status int, id string) error {
	in, list, err := a.invitations.Get(r.Context(), id)
	if err != nil {
		return err
	}
	return a.writeInvitation(w, r, status, in, list)
}

func (a *API) retryInvitation(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r, "id")
	if err != nil {
		return err
	}
	if _, err := a.invitations.Retry(r.Context(), id); err != nil {
		return err
	}
	return a.answerInvitation(w, r, http.StatusAccepted, id)
}

func (a *API) revokeInvitation(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r, "id")
	if err != nil {
		return err
	}
	if err := a.invitations.Revoke(r.Context(), id); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}
