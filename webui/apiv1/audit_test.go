package apiv1_test

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/mdm/event"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

// auditLog writes what happens to users and tokens into the audit log, as cmd has it.
type auditLog struct{ *event.Recorder }

func peopleEvent(f identity.Fact) event.Event {
	return event.Event{At: f.At, Actor: f.Actor, Action: f.Action, Reason: f.Reason, User: f.User, Peer: f.Peer, Details: f.Details,
		Changes: event.Changes(f.Before, f.After, f.Secret...)}
}

func (auditLog) Record(tx storage.Tx, f identity.Fact) error { return event.Record(tx, peopleEvent(f)) }
func (a auditLog) Refused(ctx context.Context, f identity.Fact) {
	a.Recorder.Refused(ctx, peopleEvent(f))
}

type auditEvent struct {
	ID, Actor, Action, Outcome, Reason, User, Certificate, Template, Peer string

	At       time.Time
	DeviceID string `json:"device_id"`
	Details  map[string]string
}

// audit reads the whole audit log in pages of two.
func (h *house) audit(t testing.TB, token, query string) (events []auditEvent) {
	t.Helper()
	cursor := ""
	for range 100 {
		var page struct {
			Items      []auditEvent
			NextCursor string `json:"next_cursor"`
		}
		h.do(t, exchange{method: "GET", path: "/api/v1/audit?limit=2&" + query + "&cursor=" + url.QueryEscape(cursor), token: token}).want(t, 200, &page)
		events = append(events, page.Items...)
		if cursor = page.NextCursor; cursor == "" {
			return events
		}
	}
	t.Fatal("the audit log has no end")
	return nil
}

func (h *house) record(t testing.TB, events ...event.Event) {
	t.Helper()
	err := h.db.Update(context.Background(), func(tx storage.Tx) error {
		for _, e := range events {
			if err := event.Record(tx, e); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestTheAuditLogIsRead(t *testing.T) {
	h := newHouse(t)
	at := func(n int) time.Time { return h.now().Add(time.Duration(n) * time.Hour) }
	h.record(t,
		event.Event{At: at(1), Actor: "scep", Action: "certificate.issued", DeviceID: "d1", User: "bea@example.com", Certificate: "ab01", Template: "wifi", Peer: "192.0.2.1"},
		event.Event{At: at(2), Action: "certificate.refused", Outcome: event.Refused, Reason: "no challenge", Template: "wifi"},
		event.Event{At: at(3), Action: "device.unenrolled", DeviceID: "d1"},
		event.Event{At: at(4), Action: "certificate.failed", Outcome: event.Failed, Details: map[string]string{"upstream": "ca.example.com"}},
	)
	manage := h.token(t, identity.ScopeCertManage)
	both := h.token(t, identity.ScopeCertManage, identity.ScopeReadOnly)
	hour := func(n int) string { return url.QueryEscape(at(n).Format(time.RFC3339)) }
	for name, tt := range map[string]struct {
		token, query string
		want         string
	}{
		"by action":                           {"", "action=certificate.", "failed refused issued"},
		"by outcome":                          {"", "outcome=refused", "refused"},
		"by device":                           {"", "device_id=d1", "unenrolled issued"},
		"by user":                             {"", "user=BEA@example.com", "issued"},
		"by certificate, as others print it":  {"", "certificate=00:AB:01", "issued"},
		"since and until":                     {"", "since=" + hour(2) + "&until=" + hour(4), "unenrolled refused"},
		"by what there is not":                {"", "device_id=d9", ""},
		"all that one may see who manages":    {manage, "", "failed refused issued"},
		"a part of that":                      {manage, "action=certificate.r", "refused"},
		"a word that begins it":               {manage, "action=cert", "failed refused issued"},
		"what they may not see":               {manage, "action=device.", ""},
		"what they may not see, by device":    {manage, "device_id=d1", "issued"},
		"all, by one who reads and manages":   {both, "device_id=d1", "unenrolled issued"},
		"with parameters that nobody knows":   {"", "device_id=d1&colour=red", "unenrolled issued"},
		"with parameters that are empty":      {"", "device_id=d1&action=&user=", "unenrolled issued"},
		"by action, which begins differently": {"", "action=ertificate", ""},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, e := range h.audit(t, tt.token, tt.query) {
				got = append(got, e.Action[strings.LastIndex(e.Action, ".")+1:])
			}
			if strings.Join(got, " ") != tt.want {
				t.Errorf("%q: %v, want %s", tt.query, got, tt.want)
			}
		})
	}
	got := h.audit(t, "", "action=certificate.issued")
	if want := (auditEvent{
		ID: got[0].ID, Actor: "scep", Action: "certificate.issued", Outcome: "ok", User: "bea@example.com", Certificate: "ab01", Template: "wifi",
		Peer: "192.0.2.1", At: at(1), DeviceID: "d1", Details: map[string]string{},
	}); fmt.Sprint(got[0]) != fmt.Sprint(want) {
		t.Errorf("the event reads %+v, want %+v", got[0], want)
	}
}

func TestTheAuditLogRefusesWhatItCantRead(t *testing.T) {
	h := newHouse(t)
	for name, tt := range map[string]struct{ query, field string }{
		"an outcome that is none": {"outcome=well", "outcome"},
		"a time that is none":     {"since=yesterday", "since"},
		"a date without a time":   {"until=2026-11-22", "until"},
		"a device twice":          {"device_id=a&device_id=b", "device_id"},
		"a time twice":            {"since=2026-11-22T09:00:00Z&since=2026-11-22T09:00:00Z", "since"},
		"a very long user":        {"user=" + strings.Repeat("x", 600), "user"},
		"a serial number of zero": {"certificate=00:00", "certificate"},
		"a limit of none":         {"limit=0", "limit"},
	} {
		t.Run(name, func(t *testing.T) {
			h.do(t, exchange{method: "GET", path: "/api/v1/audit?" + tt.query, wild: true}).wantField(t, tt.field)
		})
	}
	h.do(t, exchange{method: "GET", path: "/api/v1/audit?cursor=x"}).wantProblem(t, http.StatusBadRequest, "invalid_cursor")
}

func TestWhatTheAPIDoesIsInTheAuditLog(t *testing.T) {
	h := newHouse(t)
	var bea struct{ ID string }
	h.do(t, exchange{method: "POST", path: "/api/v1/users", body: map[string]any{"email": "bea@example.com", "password": "a good password"}}).want(t, 201, &bea)
	h.do(t, exchange{method: "PATCH", path: "/api/v1/users/" + bea.ID, body: map[string]any{"disabled": true}}).want(t, 200, nil)
	var got []string
	for _, e := range h.audit(t, "", "action=user.") {
		got = append(got, fmt.Sprint(e.Action, e.Actor, e.User, e.Peer))
		if strings.Contains(fmt.Sprint(e), "a good password") {
			t.Errorf("the audit log tells the password: %+v", e)
		}
	}
	want := []string{"user.disabledtoken:testbea@example.com127.0.0.1", "user.createdtoken:testbea@example.com127.0.0.1"}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("audit log:\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}
