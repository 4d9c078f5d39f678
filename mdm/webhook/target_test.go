package webhook_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/event"
	"github.com/gatehouse-mdm/gatehouse/mdm/webhook"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/seal"
)

func TestTargetsThatCanNotBe(t *testing.T) {
	h := newHouse(t)
	good := func(change func(*webhook.Change)) webhook.Change {
		c := webhook.Change{Name: ptr("test"), URL: ptr("https://hooks.example.com/x")}
		change(&c)
		return c
	}
	for name, tt := range map[string]struct {
		change func(*webhook.Change)
		field  string
	}{
		"no name":                        {func(c *webhook.Change) { c.Name = nil }, "name"},
		"an empty name":                  {func(c *webhook.Change) { c.Name = ptr(" ") }, "name"},
		"a name of two lines":            {func(c *webhook.Change) { c.Name = ptr("a\nb") }, "name"},
		"no URL":                         {func(c *webhook.Change) { c.URL = nil }, "url"},
		"no URL at all":                  {func(c *webhook.Change) { c.URL = ptr("hooks") }, "url"},
		"a file":                         {func(c *webhook.Change) { c.URL = ptr("file:///etc/passwd") }, "url"},
		"gopher":                         {func(c *webhook.Change) { c.URL = ptr("gopher://example.com/") }, "url"},
		"a password in the URL":          {func(c *webhook.Change) { c.URL = ptr("https://ana:pw@example.com/") }, "url"},
		"a fragment":                     {func(c *webhook.Change) { c.URL = ptr("https://example.com/#x") }, "url"},
		"http":                           {func(c *webhook.Change) { c.URL = ptr("http://hooks.example.com/") }, "url"},
		"http to a public address":       {func(c *webhook.Change) { c.URL, c.AllowPrivate = ptr("http://17.253.144.10/"), ptr(true) }, "url"},
		"another format":                 {func(c *webhook.Change) { c.Format = ptr(webhook.Format("slack")) }, "format"},
		"a secret with a space":          {func(c *webhook.Change) { c.Secret = ptr(seal.Secret("a b")) }, "secret"},
		"a filter of events for nanomdm": {func(c *webhook.Change) { c.Events = &[]string{"device."} }, "events[0]"},
		"a filter that finds nothing":    {func(c *webhook.Change) { c.Events = &[]string{"mdm.Connect", "mdm.Nothing"} }, "events[1]"},
		"a filter with a star":           {func(c *webhook.Change) { c.Format, c.Events = ptr(webhook.CloudEvents), &[]string{"device.*"} }, "events[0]"},
		"a filter of no event":           {func(c *webhook.Change) { c.Format, c.Events = ptr(webhook.CloudEvents), &[]string{"devise."} }, "events[0]"},
		"messages without raw payloads":  {func(c *webhook.Change) { c.Format, c.Events = ptr(webhook.CloudEvents), &[]string{"mdm."} }, "events[0]"},
		"an empty device":                {func(c *webhook.Change) { c.DeviceIDs = &[]string{""} }, "device_ids[0]"},
		"a header of ours":               {func(c *webhook.Change) { c.Headers = &map[string]string{"webhook-id": "x"} }, "headers.webhook-id"},
		"the Host":                       {func(c *webhook.Change) { c.Headers = &map[string]string{"host": "x"} }, "headers.host"},
		"a header with a line end":       {func(c *webhook.Change) { c.Headers = &map[string]string{"X-A": "x\r\nY: z"} }, "headers.X-A"},
		"a header that can't be":         {func(c *webhook.Change) { c.Headers = &map[string]string{"X A": "x"} }, "headers"},
	} {
		_, err := h.Create(t.Context(), "ana", good(tt.change))
		var field *webhook.FieldError
		if !errors.As(err, &field) || field.Field != tt.field {
			t.Errorf("%s: %v, want an error of %s", name, err, tt.field)
		}
	}
	all, err := h.Targets(t.Context())
	if err != nil || len(all) != 0 {
		t.Errorf("%d targets, %v", len(all), err)
	}
	for i := range 51 {
		_, err = h.Create(t.Context(), "ana", good(func(*webhook.Change) {}))
		if want := i == 50; errors.Is(err, webhook.ErrTooMany) != want {
			t.Fatalf("webhook %d: %v", i+1, err)
		}
	}
}

// TestAddressesThatAreRefused is about what is seen when a target is made; a host that leads
// elsewhere later is refused when it is connected to.
func TestAddressesThatAreRefused(t *testing.T) {
	resolver := names{"inside.example.com": "10.0.0.1", "metadata.example.com": "169.254.169.254", "outside.example.com": "17.253.144.10", "mapped.example.com": "::ffff:127.0.0.1"}
	h := newHouse(t, func(c *webhook.Config) { c.Resolver = resolver })
	const fine, private, never = "fine", "private", "never"
	for host, want := range map[string]string{
		"127.0.0.1": private, "[::1]": private, "localhost": private, "10.1.2.3": private, "[::ffff:127.0.0.1]": private, "[::ffff:7f00:1]": private,
		"inside.example.com": private, "mapped.example.com": private, "[64:ff9b::7f00:1]": private,
		"169.254.169.254": never, "metadata.example.com": never, "0.0.0.0": never, "[fe80::1]": never, "[fd00:ec2::254]": never,
		"0": never, "2130706433": never, "0x7f000001": never, "0x7f.1": never, "127.1": never, "0177.0.0.1": never, "127.0.0.1.": never,
		"outside.example.com": fine, "17.253.144.10": fine, "not-yet.example.com": fine,
	} {
		got := fine
		for _, allow := range []bool{true, false} {
			_, err := h.Create(t.Context(), "ana", webhook.Change{Name: ptr("x"), URL: ptr("https://" + host + "/"), AllowPrivate: &allow})
			var field *webhook.FieldError
			switch {
			case err == nil:
			case !errors.As(err, &field) || field.Field != "url":
				t.Errorf("%s: %v", host, err)
			case allow:
				got = never
			case got == fine:
				got = private
				if !strings.Contains(err.Error(), "allow_private") {
					t.Errorf("%s: %v does not say what would allow it", host, err)
				}
			}
		}
		if got != want {
			t.Errorf("%s: %s, want %s", host, got, want)
		}
	}
}

func TestAHostThatLeadsElsewhereLaterIsRefused(t *testing.T) {
	asked := false
	srv := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked = true }))
	defer srv.Close()
	// The name was somebody else's when the target was made.
	h := newHouse(t, func(c *webhook.Config) { c.Resolver = rebinding{} })
	url := strings.Replace(srv.URL, "127.0.0.1", "localhost", 1)
	target, err := h.Create(t.Context(), "ana", webhook.Change{Name: ptr("x"), URL: &url})
	if err != nil {
		t.Fatal(err)
	}
	tested, err := h.Test(t.Context(), target.ID)
	if err != nil || tested.OK || tested.Step != webhook.StepAddress || asked {
		t.Errorf("test: %+v, %v; asked: %v", tested, err, asked)
	}
}

func TestASecretIsReplacedWithoutAGap(t *testing.T) {
	h := newHouse(t)
	r := newReceiver(t)
	const before, after = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_c2Vjb25kLXNlY3JldC1zZWNvbmQ="
	target := h.target(t, webhook.NanoMDM, r.URL, func(c *webhook.Change) { c.Secret = ptr(seal.Secret(before)) })
	if !target.SecretSet() {
		t.Error("there is no secret")
	}
	knows := func(secret string) bool {
		t.Helper()
		if _, err := h.Test(t.Context(), target.ID); err != nil {
			t.Fatal(err)
		}
		judge, err := standardwebhooks.NewWebhook(secret)
		if err != nil {
			t.Fatal(err)
		}
		all := r.got()
		p := all[len(all)-1]
		return judge.VerifyIgnoringTimestamp(p.body, p.header) == nil
	}
	change := func(secret string) {
		t.Helper()
		if _, err := h.Update(t.Context(), "ana", target.ID, webhook.Change{Secret: ptr(seal.Secret(secret))}); err != nil {
			t.Fatal(err)
		}
	}
	if !knows(before) || knows(after) {
		t.Error("the first secret does not sign, or not alone")
	}
	change(after)
	change(after) // said again, it replaces nothing
	if !knows(before) || !knows(after) {
		t.Error("while it is replaced, both sign")
	}
	h.pass(24*time.Hour + time.Second)
	if knows(before) || !knows(after) {
		t.Error("a day later, only the new one signs")
	}
	change("")
	if knows(after) {
		t.Error("no secret still signs")
	}
}

func TestHeadersGoToTheServerThatTheyWereMeantFor(t *testing.T) {
	h := newHouse(t)
	r, other := newReceiver(t), newReceiver(t)
	target := h.target(t, webhook.NanoMDM, r.URL, func(c *webhook.Change) { c.Headers = &map[string]string{"authorization": "Bearer x"} })
	if _, err := h.Test(t.Context(), target.ID); err != nil {
		t.Fatal(err)
	}
	if got := r.got()[0].header.Get("Authorization"); got != "Bearer x" || !slices.Equal(target.Names, []string{"Authorization"}) {
		t.Errorf("header %q, names %v", got, target.Names)
	}
	var field *webhook.FieldError
	if _, err := h.Update(t.Context(), "ana", target.ID, webhook.Change{URL: &other.URL}); !errors.As(err, &field) || field.Field != "headers" {
		t.Errorf("another server: %v, want an error of headers", err)
	}
	if _, err := h.Update(t.Context(), "ana", target.ID, webhook.Change{URL: ptr(r.URL + "/path")}); err != nil {
		t.Errorf("another path: %v", err)
	}
	if _, err := h.Update(t.Context(), "ana", target.ID, webhook.Change{URL: &other.URL, Headers: &map[string]string{}}); err != nil {
		t.Errorf("without headers: %v", err)
	}
}

func TestWhoHearsWhat(t *testing.T) {
	idle := mdm.Message{Topic: "mdm.Connect", Status: "Idle", Device: someDevice("mac")}
	answer := acknowledged("mac", "C-1")
	token := mdm.Message{Topic: "mdm.TokenUpdate", Device: someDevice("mac"), Raw: list("<key>MessageType</key><string>TokenUpdate</string>")}
	for name, tt := range map[string]struct {
		format  webhook.Format
		change  func(*webhook.Change)
		hears   []string
		devices []string
	}{
		"all of NanoMDM's":        {webhook.NanoMDM, nil, []string{"idle", "answer", "token"}, nil},
		"a kind of check-in":      {webhook.NanoMDM, withEvents("mdm.TokenUpdate"), []string{"token"}, nil},
		"polls, named in full":    {webhook.NanoMDM, withEvents("mdm.Connect"), []string{"idle", "answer"}, nil},
		"all but polls":           {webhook.NanoMDM, withEvents("mdm."), []string{"answer", "token"}, nil},
		"events only":             {webhook.CloudEvents, nil, nil, nil},
		"messages as CloudEvents": {webhook.CloudEvents, func(c *webhook.Change) { withRaw(c); withEvents("mdm.", "device.")(c) }, []string{"answer", "token"}, nil},
		"this device":             {webhook.NanoMDM, func(c *webhook.Change) { c.DeviceIDs = &[]string{"mac"} }, []string{"idle", "answer", "token"}, nil},
		"another device":          {webhook.NanoMDM, func(c *webhook.Change) { c.DeviceIDs = &[]string{"other"} }, nil, nil},
		"nobody: it is off":       {webhook.NanoMDM, func(c *webhook.Change) { c.Enabled = ptr(false) }, nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t)
			target := h.target(t, tt.format, "http://127.0.0.1:1", func(c *webhook.Change) {
				if tt.change != nil {
					tt.change(c)
				}
			})
			var heard []string
			for _, m := range []struct {
				name string
				mdm.Message
			}{{"idle", idle}, {"answer", answer}, {"token", token}} {
				before := len(h.deliveries(t, target.ID, ""))
				h.hear(t, m.Message)
				if len(h.deliveries(t, target.ID, "")) > before {
					heard = append(heard, m.name)
				}
			}
			if !slices.Equal(heard, tt.hears) {
				t.Errorf("heard %v, want %v", heard, tt.hears)
			}
		})
	}
}

func TestAUserChannelIsHeardWithItsDevice(t *testing.T) {
	h := newHouse(t)
	target := h.target(t, webhook.NanoMDM, "http://127.0.0.1:1", func(c *webhook.Change) { c.DeviceIDs = &[]string{"mac"} })
	m := acknowledged("mac", "C-1")
	m.Parent, m.Device = m.Device, mdm.Device{ID: "user", ParentID: "mac", Type: mdm.TypeUserChannel, AppleID: mdm.AppleID{UDID: "UDID-mac", UserID: "USER"}}
	h.hear(t, m)
	if n := len(h.deliveries(t, target.ID, "")); n != 1 {
		t.Errorf("%d deliveries, want 1", n)
	}
}

func TestWithoutTargetsAPollCostsOneRead(t *testing.T) {
	h := newHouse(t)
	check := func(want bool) {
		t.Helper()
		err := h.db.View(t.Context(), func(tx storage.Tx) error {
			counting := &countingTx{Tx: tx}
			got, err := h.Wants(counting, mdm.Message{Topic: "mdm.Connect", Status: "Idle"})
			if got != want || counting.n != 1 {
				t.Errorf("wants: %v, %v after %d reads, want %v after one", got, err, counting.n, want)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	check(false)
	h.target(t, webhook.CloudEvents, "http://127.0.0.1:1")
	check(false)
	h.target(t, webhook.NanoMDM, "http://127.0.0.1:1")
	check(true)
	if reads := h.Reads(); len(reads) != 1 || reads[0].Bucket == "" || len(reads[0].Key) == 0 {
		t.Errorf("reads %+v", reads)
	}
}

type countingTx struct {
	storage.Tx
	n int
}

func (tx *countingTx) Get(bucket string, key []byte) ([]byte, error) {
	tx.n++
	return tx.Tx.Get(bucket, key)
}

func TestEventsAreToldFromNowOnAndOnce(t *testing.T) {
	h := newHouse(t)
	r := newReceiver(t)
	h.happen(t, event.Event{Action: "device.enrolled", DeviceID: "before"})
	target := h.target(t, webhook.CloudEvents, r.URL, withEvents("device."))
	for i := range 5 {
		h.happen(t, event.Event{Action: "device.enrolled", DeviceID: fmt.Sprint("mac", i)})
	}
	h.happen(t, event.Event{Action: "user.login"})
	replica := h.replica(t)
	for range 3 { // whoever follows the feed, nobody does so twice
		h.settle(t)
		if err := replica.Settle(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	var subjects []string
	for _, d := range slices.Backward(h.deliveries(t, target.ID, webhook.Delivered)) {
		subjects = append(subjects, d.DeviceID)
	}
	if !slices.Equal(subjects, []string{"mac0", "mac1", "mac2", "mac3", "mac4"}) {
		t.Errorf("told of %v", subjects)
	}

	// What happens while it is off is not told later.
	if _, err := h.Update(t.Context(), "ana", target.ID, webhook.Change{Enabled: ptr(false)}); err != nil {
		t.Fatal(err)
	}
	h.happen(t, event.Event{Action: "device.enrolled", DeviceID: "meanwhile"})
	h.settle(t)
	if _, err := h.Update(t.Context(), "ana", target.ID, webhook.Change{Enabled: ptr(true)}); err != nil {
		t.Fatal(err)
	}
	h.settle(t)
	if n := len(r.got()); n != 5 {
		t.Errorf("%d requests, want 5", n)
	}
}

func TestManyEventsAreFollowedInTurn(t *testing.T) {
	h := newHouse(t)
	target := h.target(t, webhook.CloudEvents, "http://127.0.0.1:1", withEvents("device.", "user."))
	err := h.db.Update(t.Context(), func(tx storage.Tx) error {
		for i := range 210 {
			if err := event.Record(tx, event.Event{At: noon, Action: "device.enrolled", DeviceID: fmt.Sprint("mac", i)}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	h.settle(t)
	if n := len(h.deliveries(t, target.ID, webhook.Pending)); n != 210 {
		t.Errorf("%d deliveries, want 210", n)
	}
}

func TestATargetsChangesAreRecorded(t *testing.T) {
	h := newHouse(t)
	target := h.target(t, webhook.NanoMDM, "http://127.0.0.1:1/"+sentinelText)
	if _, err := h.Update(t.Context(), "user:bo@example.com", target.ID, webhook.Change{Name: ptr("other"), Secret: ptr(seal.Secret(sentinelText))}); err != nil {
		t.Fatal(err)
	}
	if err := h.Delete(t.Context(), "user:bo@example.com", target.ID); err != nil {
		t.Fatal(err)
	}
	all, _, err := h.events.Page(t.Context(), event.Filter{Action: "webhook."}, "", 10)
	if err != nil || len(all) != 3 {
		t.Fatalf("%d events, %v", len(all), err)
	}
	if e := all[1]; e.Actor != "user:bo@example.com" || e.Details["changed"] != "name, secret" || e.Details["webhook"] != target.ID {
		t.Errorf("changed: %+v", e)
	}
	if text := fmt.Sprint(all); strings.Contains(text, sentinelText) {
		t.Errorf("a secret is in %s", text)
	}
}

func TestATestSaysWhatHappened(t *testing.T) {
	h := newHouse(t)
	r := newReceiver(t)
	r.answers(func(w http.ResponseWriter, p post) {
		if p.header.Get("X-Gatehouse-Test") != "true" {
			t.Error("a test is not marked")
		}
		w.WriteHeader(http.StatusTeapot)
		_, _ = io.WriteString(w, strings.Repeat("I am a teapot. ", 1000)+"\x00")
	})
	for _, format := range []webhook.Format{webhook.NanoMDM, webhook.CloudEvents} {
		target := h.target(t, format, r.URL, func(c *webhook.Change) { c.Enabled = ptr(false) })
		got, err := h.Test(t.Context(), target.ID)
		if err != nil || got.OK || got.Status != http.StatusTeapot || got.Step != webhook.StepStatus || len(got.Answer) != 1024 {
			t.Errorf("%s: %+v, %v", format, got, err)
		}
	}
	checkNano(t, r.got()[0].body)
}
