package apiv1_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/mdm/event"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

// sse is one server-sent event, or the end of the stream.
type sse struct {
	id, name, data string
	comment        bool
	ended          bool
}

// stream opens a stream of events. What it tells comes through the channel, which is closed
// when the stream ends.
func (h *house) stream(t testing.TB, token, query, last string) <-chan sse {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	req, err := http.NewRequestWithContext(ctx, "GET", h.url+"/api/v1/events?"+query, nil)
	if err != nil {
		t.Fatal(err)
	}
	if token == "" {
		token = h.owner
	}
	req.Header.Set("Authorization", "Bearer "+token)
	if last != "" {
		req.Header.Set("Last-Event-ID", last)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != "text/event-stream" {
		t.Fatalf("GET /events?%s: %d %s", query, resp.StatusCode, resp.Header.Get("Content-Type"))
	}
	all := make(chan sse, 1000)
	go func() {
		defer close(all)
		defer resp.Body.Close()
		var e sse
		for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
			name, value, _ := strings.Cut(lines.Text(), ": ")
			switch name {
			case "":
				if lines.Text() != "" {
					e.comment = true
				} else {
					all <- e
					e = sse{}
				}
			case "id":
				e.id = value
			case "event":
				e.name = value
			case "data":
				e.data = value
			}
		}
	}()
	return all
}

// next returns the next event that has data.
func next(t testing.TB, stream <-chan sse) sse {
	t.Helper()
	deadline := time.After(time.Minute)
	for {
		select {
		case e, ok := <-stream:
			if !ok {
				return sse{ended: true}
			}
			if e.data != "" {
				return e
			}
		case <-deadline:
			t.Fatal("the stream tells nothing")
		}
	}
}

func (h *house) happened(t testing.TB, events ...event.Event) {
	t.Helper()
	h.record(t, events...)
	if err := h.events.Sequence(context.Background()); err != nil {
		t.Fatal(err)
	}
}

// lastSeq is the place of the newest event.
func (h *house) lastSeq(t testing.TB) (last uint64) {
	t.Helper()
	h.happened(t)
	err := h.db.View(context.Background(), func(tx storage.Tx) (err error) {
		last, err = event.LastSeq(tx)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return last
}

func TestEventsAreFollowed(t *testing.T) {
	h := newHouse(t)
	before := h.lastSeq(t)
	h.happened(t,
		event.Event{At: h.now(), Action: "device.enrolled", DeviceID: "d1", Reason: "a\nb"},
		event.Event{At: h.now(), Action: "certificate.issued", DeviceID: "d2"},
		event.Event{At: h.now(), Action: "command.finished", DeviceID: "d1"},
	)
	id := func(n uint64) string { return fmt.Sprint(before + n) }
	manage := h.token(t, identity.ScopeCertManage)
	base := h.lastSeq(t) // with what the token has left
	for name, tt := range map[string]struct {
		token, query, last string
		want               []string // and then the one that comes later
	}{
		"from now on":                          {want: nil},
		"after an event":                       {query: "after=" + id(1), want: []string{"certificate.issued", "command.finished", "token.created"}},
		"after the last that the browser had":  {query: "after=" + id(0), last: id(2), want: []string{"command.finished", "token.created"}},
		"of some types":                        {query: "type=command.,certificate.issued&after=" + id(0), want: []string{"certificate.issued", "command.finished"}},
		"of a device":                          {query: "device_id=d2&after=" + id(0), want: []string{"certificate.issued"}},
		"of which there is none":               {query: "device_id=d9&type=command.,device.&after=" + id(0), want: nil},
		"for whom there are only certificates": {token: manage, query: "after=" + id(0), want: []string{"certificate.issued"}},
	} {
		t.Run(name, func(t *testing.T) {
			stream := h.stream(t, tt.token, tt.query, tt.last)
			for _, want := range tt.want {
				if got := next(t, stream); got.name != want {
					t.Fatalf("told is %+v, want %s", got, want)
				}
			}
		})
	}
	stream := h.stream(t, "", "", "")
	if first := <-stream; first.id != "" && first.id != fmt.Sprint(base) {
		t.Errorf("the stream begins at %s, want %d", first.id, base)
	}
	devices := h.stream(t, "", "device_id=d1", "")
	h.happened(t, event.Event{At: h.now(), Action: "user.login"}, event.Event{At: h.now(), Action: "device.blocked", DeviceID: "d1", Reason: "why"})
	if got := next(t, stream); got.name != "user.login" || got.id != fmt.Sprint(base+1) {
		t.Errorf("told is %+v, want user.login as event %d", got, base+1)
	}
	for name, s := range map[string]<-chan sse{"all": stream, "of the device": devices} {
		got := next(t, s)
		var e struct {
			Seq      uint64
			Hash     string
			Action   string
			DeviceID string `json:"device_id"`
			Reason   string
		}
		if err := json.Unmarshal([]byte(got.data), &e); err != nil {
			t.Fatal(err)
		}
		if e.Seq != base+2 || len(e.Hash) != 64 || e.Action != "device.blocked" || e.DeviceID != "d1" || e.Reason != "why" {
			t.Errorf("%s: told is %+v, want that d1 was blocked", name, got)
		}
	}
}

func TestAStreamTellsWhatIsMissing(t *testing.T) {
	h := newHouse(t)
	last := h.lastSeq(t)
	got := next(t, h.stream(t, "", fmt.Sprintf("after=%d", last+10), ""))
	if got.name != "gap" || got.data != fmt.Sprintf(`{"first":%d,"last":%d}`, last+1, last+10) {
		t.Errorf("after an event that is yet to come, told is %+v, want a gap", got)
	}
	h.pass(401 * 24 * time.Hour)
	if err := h.events.Forget(context.Background()); err != nil {
		t.Fatal(err)
	}
	h.happened(t, event.Event{At: h.now(), Action: "user.login"})
	stream := h.stream(t, "", "after=0", "")
	if got := next(t, stream); got.name != "gap" || got.data != fmt.Sprintf(`{"first":1,"last":%d}`, last) {
		t.Errorf("after events that are forgotten, told is %+v, want a gap", got)
	}
	if got := next(t, stream); got.name != "user.login" {
		t.Errorf("after the gap, told is %+v, want user.login", got)
	}
}

// Refusals beyond those that are kept are forgotten before events that are older.
func TestAStreamTellsWhatIsForgottenInTheMiddle(t *testing.T) {
	h := newHouse(t)
	h.happened(t, event.Event{At: h.now(), Action: "settings.changed"})
	last := h.lastSeq(t)
	for range 5 {
		h.happened(t, event.Event{At: h.now(), Action: "certificate.refused", Outcome: event.Refused, DeviceID: "d1"})
	}
	forgetful, err := event.New(event.Config{DB: h.db, Log: slog.New(slog.DiscardHandler), Now: h.now, MostTrouble: 1})
	if err != nil {
		t.Fatal(err)
	}
	if err := forgetful.Forget(context.Background()); err != nil {
		t.Fatal(err)
	}
	stream := h.stream(t, "", fmt.Sprintf("after=%d", last-1), "")
	if got := next(t, stream); got.name != "settings.changed" {
		t.Errorf("told first is %+v, want settings.changed", got)
	}
	if got := next(t, stream); got.name != "gap" || got.data != fmt.Sprintf(`{"first":%d,"last":%d}`, last+1, last+4) {
		t.Errorf("told of 4 events that are forgotten is %+v, want a gap", got)
	}
	if got := next(t, stream); got.name != "certificate.refused" || got.id != fmt.Sprint(last+5) {
		t.Errorf("told after the gap is %+v, want event %d", got, last+5)
	}
}

func TestAStreamEndsWithItsToken(t *testing.T) {
	h := newHouse(t)
	token, secret, err := h.identity.CreateToken(context.Background(), identity.Local(), identity.NewToken{Name: "stream", Scopes: []identity.Scope{identity.ScopeReadOnly}})
	if err != nil {
		t.Fatal(err)
	}
	stream := h.stream(t, secret.Reveal(), "", "")
	for e := range stream {
		if e.comment { // it is alive, and says where it is
			break
		}
	}
	if err := h.identity.RevokeToken(context.Background(), identity.Local(), token.ID); err != nil {
		t.Fatal(err)
	}
	for got := next(t, stream); !got.ended; got = next(t, stream) {
		t.Logf("told before the end: %+v", got)
	}
}

// A client that replays and reads slowly is asked for its token on the way, too, and not
// only when it has caught up.
func TestAStreamThatHasNotCaughtUpEndsWithItsToken(t *testing.T) {
	h := newHouse(t)
	token, secret, err := h.identity.CreateToken(context.Background(), identity.Local(), identity.NewToken{Name: "stream", Scopes: []identity.Scope{identity.ScopeReadOnly}})
	if err != nil {
		t.Fatal(err)
	}
	details := make(map[string]string)
	for i := range 15 {
		details[fmt.Sprint("k", i)] = strings.Repeat("x", 500)
	}
	many := make([]event.Event, 500) // with the others, much more than a connection takes unread
	for i := range many {
		many[i] = event.Event{At: h.now(), Action: "user.login", Details: details}
	}
	for range 4 {
		h.happened(t, many...)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, h.url+"/api/v1/events?after=0", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+secret.Reveal())
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	lines := bufio.NewReader(resp.Body)
	if _, err := lines.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	if err := h.identity.RevokeToken(context.Background(), identity.Local(), token.ID); err != nil {
		t.Fatal(err)
	}
	others, beats := h.stream(t, "", "", ""), 0
	for e := range others { // it is late for a look by then
		if e.comment {
			beats++
		}
		if beats == 4 {
			break
		}
	}
	h.happened(t, event.Event{At: h.now(), Action: "secret.revealed", DeviceID: "after-the-revocation"})
	for {
		line, err := lines.ReadString('\n')
		if strings.Contains(line, "after-the-revocation") {
			t.Error("what happened after the token was revoked is told to it")
		}
		if err != nil {
			return
		}
	}
}

func TestStreamsAreBounded(t *testing.T) {
	h := newHouse(t)
	token := h.token(t, identity.ScopeReadOnly)
	for range 10 {
		h.stream(t, token, "", "")
	}
	h.do(t, exchange{method: "GET", path: "/api/v1/events", token: token}).wantProblem(t, http.StatusTooManyRequests, "too_many_streams")
	h.stream(t, "", "", "") // of another one
}

func TestStreamsRefuseWhatTheyCantFollow(t *testing.T) {
	h := newHouse(t)
	for name, tt := range map[string]struct {
		query, last, field string
	}{
		"a place that is no number":    {"after=x", "", "after"},
		"a place before the first":     {"after=-1", "", "after"},
		"a place like no other":        {"after=18446744073709551615", "", "after"},
		"an ID of somebody else's":     {"", "abc", "after"},
		"a type of nothing":            {"type=device.,,command.", "", "type"},
		"a parameter with a slip":      {"types=device.", "", "types"},
		"a device twice":               {"device_id=a&device_id=b", "", "device_id"},
		"a place that is there twice ": {"after=1&after=2", "", "after"},
	} {
		t.Run(name, func(t *testing.T) {
			x := exchange{method: "GET", path: "/api/v1/events?" + tt.query, wild: true}
			if tt.last != "" {
				x.header = map[string]string{"Last-Event-ID": tt.last}
			}
			h.do(t, x).wantField(t, tt.field)
		})
	}
}

func TestTheAuditLogIsExportedAndVerified(t *testing.T) {
	h := newHouse(t)
	h.record(t, event.Event{At: h.now(), Action: "user.login", User: "ana"}, event.Event{At: h.now().Add(time.Hour), Action: "user.login", User: "bea"})
	all := h.do(t, exchange{method: "GET", path: "/api/v1/audit/export"})
	if all.status != 200 || all.response.Get("Content-Type") != "application/jsonl" || !strings.Contains(all.response.Get("Content-Disposition"), ".jsonl") {
		t.Fatalf("export: %d %v", all.status, all.response)
	}
	v, err := event.VerifyExport(strings.NewReader(string(all.answer)), nil)
	if err != nil || v.Last != h.lastSeq(t) {
		t.Fatalf("the export verifies as %+v, %v, want all %d events", v, err, h.lastSeq(t))
	}
	var list struct {
		Items []struct {
			Seq  uint64
			Hash string
			User string
		}
	}
	h.do(t, exchange{method: "GET", path: "/api/v1/audit?limit=1"}).want(t, 200, &list)
	if len(list.Items) != 1 || list.Items[0].Seq != v.Last || list.Items[0].Hash != v.Hash || list.Items[0].User != "bea" {
		t.Errorf("the newest event in the list is %+v, want that of %+v", list.Items, v)
	}
	late := h.do(t, exchange{method: "GET", path: "/api/v1/audit/export?since=" + h.now().Add(time.Minute).Format(time.RFC3339)})
	if got := strings.Count(string(late.answer), "\n"); got != 1 || !strings.Contains(string(late.answer), `"bea"`) {
		t.Errorf("the export of the last hour: %s, want one line", late.answer)
	}
	none := h.do(t, exchange{method: "GET", path: "/api/v1/audit/export?until=2020-01-01T00:00:00Z"})
	if none.status != 200 || len(none.answer) != 0 {
		t.Errorf("the export of 2020: %d %q, want nothing", none.status, none.answer)
	}

	var found struct {
		OK      bool
		Problem string
		Last    uint64
		Hash    string
	}
	h.do(t, exchange{method: "GET", path: fmt.Sprintf("/api/v1/audit/verify?seq=%d&hash=%s", v.Last, v.Hash)}).want(t, 200, &found)
	if !found.OK || found.Problem != "" || found.Last != v.Last || found.Hash != v.Hash {
		t.Errorf("verify: %+v, want what the export comes to, %+v", found, v)
	}
	h.do(t, exchange{method: "GET", path: fmt.Sprintf("/api/v1/audit/verify?seq=%d&hash=%s", v.Last, strings.Repeat("0", 64))}).want(t, 200, &found)
	if found.OK || !strings.Contains(found.Problem, "does not have the hash that was noted") {
		t.Errorf("verify with another hash: %+v, want a problem", found)
	}
	for query, field := range map[string]string{"seq=0&hash=" + v.Hash: "seq", "hash=" + v.Hash: "seq", "seq=1": "hash", "seq=1&hash=x": "hash"} {
		h.do(t, exchange{method: "GET", path: "/api/v1/audit/verify?" + query, wild: true}).wantField(t, field)
	}
	h.do(t, exchange{method: "GET", path: "/api/v1/audit/export?since=yesterday", wild: true}).wantField(t, "since")
}

func TestEventTypesAreListed(t *testing.T) {
	h := newHouse(t)
	var list struct {
		Items []struct {
			Action, Text    string
			Fields, Details []string
		}
	}
	h.do(t, exchange{method: "GET", path: "/api/v1/event-types"}).want(t, 200, &list)
	if len(list.Items) != len(event.Types()) || list.Items[0].Action != event.Types()[0].Action || len(list.Items[0].Fields) == 0 {
		t.Errorf("%d event types are listed, want %d", len(list.Items), len(event.Types()))
	}
}
