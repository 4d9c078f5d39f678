package apiv1_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/enroll/mail/mailtest"
)

const invitationsPath = "/api/v1/enrollment-invitations"

type invitation struct {
	ID, Name, Ownership string
	Counts              map[string]int
	RevokedAt           *time.Time `json:"revoked_at"`
	Items               []struct {
		Email, User, State, Error, URL, Stage string
		LinkState                             string     `json:"link_state"`
		ShortCode                             string     `json:"short_code"`
		EnrolledAt                            *time.Time `json:"enrolled_at"`
	}
}

// states are those of the items.
func (in invitation) states() string {
	var states []string
	for _, item := range in.Items {
		states = append(states, item.State)
	}
	return strings.Join(states, " ")
}

func TestPeopleAreInvitedByMail(t *testing.T) {
	h := newHouse(t)
	server := mailtest.New(t, mailtest.Config{Reply: func(verb, line string) string {
		if verb == "RCPT" && strings.Contains(line, "gone@") {
			return "550 no such person"
		}
		return ""
	}})
	body := map[string]any{
		"emails": []string{"ana@example.com", "gone@example.com"}, "name": "Berlin", "ownership": "ask", "language": "en",
		"subject": "For you", "message": "Hello *you*", "expires_in": "72h", "uses": 2,
	}
	h.do(t, exchange{method: "POST", path: invitationsPath, body: body}).wantProblem(t, 409, "mail_not_configured")
	h.do(t, exchange{method: "PATCH", path: settingsPath, body: map[string]any{"mail": map[string]any{
		"host": server.Host, "port": server.Port, "encryption": "none", "from": "it@example.com", "per_minute": 6000,
	}}}).want(t, 200, nil)

	var in invitation
	var again struct{ ID string }
	post := exchange{method: "POST", path: invitationsPath, body: body, header: map[string]string{"Idempotency-Key": "k1"}}
	made := h.do(t, post)
	made.want(t, 202, &in)
	if in.Ownership != "ask" || in.states() != "queued queued" || in.Counts["queued"] != 2 || in.Items[0].User != "ana@example.com" || len(in.Items[0].ShortCode) != 9 ||
		made.response.Get("Location") != invitationsPath+"/"+in.ID {
		t.Errorf("the invitation is %s", made.answer)
	}
	h.do(t, post).want(t, 202, &again)
	if again.ID != in.ID {
		t.Errorf("the same request once more is %s, want %s", again.ID, in.ID)
	}

	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := h.invitations.Run(ctx); err != nil {
			t.Errorf("Run = %v", err)
		}
	}()
	path := invitationsPath + "/" + in.ID
	for deadline := time.Now().Add(30 * time.Second); in.Counts["sent"] != 1 || in.Counts["failed"] != 1; {
		if time.Now().After(deadline) {
			t.Fatalf("the invitation is %+v", in)
		}
		h.pass(50 * time.Millisecond) // the rate is kept by the server's clock
		in.Counts = nil
		h.do(t, exchange{method: "GET", path: path}).want(t, 200, &in)
	}
	cancel()
	<-done
	if in.states() != "sent failed" || in.Items[1].Error != "recipient: 550 no such person" {
		t.Errorf("the invitation is %+v", in)
	}
	mail := server.Mails()[0]
	if mail.To != "ana@example.com" || !strings.Contains(mail.Data, "Subject: For you") || !strings.Contains(mail.Data, "Hello <em>you</em>") {
		t.Errorf("the mail is %+v", mail)
	}

	var list struct{ Items []invitation }
	h.do(t, exchange{method: "GET", path: invitationsPath}).want(t, 200, &list)
	if len(list.Items) != 1 || list.Items[0].ID != in.ID || list.Items[0].Counts["failed"] != 1 {
		t.Errorf("the list is %+v", list)
	}
	h.do(t, exchange{method: "POST", path: path + "/retry"}).want(t, 202, &in)
	if in.states() != "sent queued" {
		t.Errorf("the retried items are %s", in.states())
	}
	h.do(t, exchange{method: "DELETE", path: path}).want(t, 204, nil)
	h.do(t, exchange{method: "GET", path: path}).want(t, 200, &in)
	if in.states() != "sent cancelled" || in.RevokedAt == nil || in.Items[0].LinkState != "revoked" {
		t.Errorf("the revoked invitation is %+v", in)
	}
	h.do(t, exchange{method: "POST", path: path + "/retry"}).wantProblem(t, 409, "invitation_revoked")
	h.do(t, exchange{method: "GET", path: invitationsPath + "/none"}).wantProblem(t, 404, "not_found")
	h.do(t, exchange{method: "POST", path: invitationsPath, body: body, token: h.token(t, identity.ScopeReadOnly)}).wantProblem(t, 403, "forbidden")
}

func TestAnInvitationNamesAllThatIsWrongAndMakesNothing(t *testing.T) {
	h := newHouse(t)
	send := func(body map[string]any) exchange {
		body["send"] = false
		return h.do(t, exchange{method: "POST", path: invitationsPath, body: body, wild: true})
	}
	p := send(map[string]any{"emails": []string{"ana@example.com", "nobody", "ANA@example.com"}}).wantProblem(t, 400, "invalid_request")
	if len(p.Errors) != 2 || p.Errors[0].Field != "emails[1]" || p.Errors[1].Field != "emails[2]" || !strings.Contains(p.Errors[1].Detail, "emails[0]") {
		t.Errorf("the errors are %+v", p.Errors)
	}
	send(map[string]any{}).wantField(t, "emails")
	send(map[string]any{"users": []string{"nobody"}}).wantField(t, "users[0]")
	send(map[string]any{"emails": []string{"ana@example.com"}, "language": "tlh"}).wantField(t, "language")
	send(map[string]any{"emails": []string{"ana@example.com"}, "message": "{password}"}).wantField(t, "message")
	send(map[string]any{"emails": []string{"ana@example.com"}, "uses": 0}).wantField(t, "uses")
	send(map[string]any{"emails": []string{"ana@example.com"}, "expires_in": "soon"}).wantField(t, "expires_in")
	many := make([]string, 1001)
	for i := range many {
		many[i] = fmt.Sprintf("p%d@example.com", i)
	}
	send(map[string]any{"emails": many}).wantField(t, "emails")
	var links struct{ Items []any }
	h.do(t, exchange{method: "GET", path: "/api/v1/enrollment-links"}).want(t, 200, &links)
	if len(links.Items) != 0 {
		t.Errorf("there are %d links", len(links.Items))
	}

	var in invitation
	send(map[string]any{"emails": []string{"ana@example.com"}}).want(t, 202, &in)
	if in.states() != "not_sent" || !strings.HasPrefix(in.Items[0].URL, "https://mdm.example.com/enroll/l/") {
		t.Errorf("the invitation is %+v", in)
	}
}
