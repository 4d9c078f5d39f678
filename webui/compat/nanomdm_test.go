package compat_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	nanolog "github.com/micromdm/nanolib/log"
	nanoapi "github.com/micromdm/nanomdm/api"
	nanohttp "github.com/micromdm/nanomdm/http/api"
	nano "github.com/micromdm/nanomdm/mdm"
	nanopush "github.com/micromdm/nanomdm/push"
	pushsvc "github.com/micromdm/nanomdm/push/service"
	"github.com/micromdm/nanomdm/storage/inmem"

	"github.com/gatehouse-mdm/gatehouse/apns/apnstest"
	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/event"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// original is NanoMDM's API by its own code.
type original struct {
	url   string
	store *inmem.InMem
}

// originalApple answers pushes of NanoMDM's as apnstest does those of ours: the token that
// begins with "dead" is known to be of no device.
type originalApple struct{}

func (originalApple) NewPushProvider(*tls.Certificate) (nanopush.PushProvider, error) {
	return originalApple{}, nil
}

func (originalApple) Push(_ context.Context, pushes []*nano.Push) (map[string]*nanopush.Response, error) {
	out := map[string]*nanopush.Response{}
	for _, p := range pushes {
		r := &nanopush.Response{Id: "6E14E52F-7F07-42C7-8367-4D81441DC85F"}
		if strings.HasPrefix(string(p.Token), "dead") {
			r.Err = errors.New("push HTTP status: 410: APNs push error: Unregistered: timestamp 1700000000000")
		}
		out[p.Token.String()] = r
	}
	return out, nil
}

func newOriginal(t *testing.T, certificate []byte, udids ...string) *original {
	t.Helper()
	o := &original{store: inmem.New()}
	for _, udid := range udids {
		r := nano.NewRequestWithContext(t.Context(), nil)
		r.EnrollID = &nano.EnrollID{ID: udid, Type: nano.Device}
		must(t, o.store.StoreTokenUpdate(r, &nano.TokenUpdate{Push: nano.Push{Topic: topic, PushMagic: "magic", Token: []byte(udid)}}))
	}
	mux := http.NewServeMux()
	nanohttp.HandleAPIv1("/v1", mux, nanolog.NopLogger, o.store, pushsvc.New(o.store, o.store, originalApple{}, nanolog.NopLogger))
	srv := httptest.NewServer(mux)
	t.Cleanup(srv.Close)
	o.url = srv.URL
	if certificate != nil {
		if got := o.call(t, "PUT", "/v1/pushcert", string(certificate)); got.status != http.StatusOK {
			t.Fatalf("NanoMDM does not take the certificate: %d %s", got.status, got.body)
		}
	}
	return o
}

func (o *original) call(t *testing.T, method, path, body string) reply {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, o.url+path, strings.NewReader(body))
	must(t, err)
	return send(t, req)
}

// varying are what two servers can't have in common: ids of pushes, and times.
var varying = regexp.MustCompile(`(?i)[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|timestamp \d+`)

// shape is an answer without what varies, its own sentences as "…".
func shape(t *testing.T, body string, sentences ...string) string {
	t.Helper()
	var v any
	if err := json.Unmarshal([]byte(body), &v); err != nil {
		t.Fatalf("%q is not JSON: %v", body, err)
	}
	b, err := json.Marshal(v) // keys sorted
	must(t, err)
	out := varying.ReplaceAllString(string(b), "·")
	for _, s := range sentences {
		out = strings.ReplaceAll(out, s, "…")
	}
	return out
}

// TestTheAnswersAreNanoMDMsOwn sends the same requests to NanoMDM's code and to ours.
func TestTheAnswersAreNanoMDMsOwn(t *testing.T) {
	h := newHouse(t)
	udids := []string{"AAAA-1", "AAAA-2", "dead-3"}
	ids := map[string]mdm.DeviceID{}
	for _, udid := range udids {
		ids[udid] = h.device(t, udid)
	}
	certificate, err := h.apple.Certificate(topic)
	must(t, err)
	if got := h.call(t, "nanomdm", "PUT", "/v1/pushcert", string(certificate)); got.status != http.StatusOK {
		t.Fatalf("upload the push certificate: %d %s", got.status, got.body)
	}
	gone := apnstest.Answer{Status: http.StatusGone, Reason: "Unregistered", Timestamp: time.Now().Add(-time.Hour)}
	h.apple.Handle(func(r apnstest.Received) apnstest.Answer {
		if strings.HasPrefix(string(r.Token), "dead") {
			return gone
		}
		return apnstest.Answer{}
	})
	o := newOriginal(t, certificate, udids...)

	for _, tt := range []struct {
		name         string
		method, path string
		body         string
		status       int
	}{
		{"a push goes", "GET", "/v1/push/AAAA-1", "", 200},
		{"by PUT, too", "PUT", "/v1/push/AAAA-1", "", 200},
		{"by POST, too", "POST", "/v1/push/AAAA-1", "", 200},
		{"two go", "GET", "/v1/push/AAAA-1,AAAA-2", "", 200},
		{"one of two does not go", "GET", "/v1/push/AAAA-1,dead-3", "", 207},
		{"none goes", "GET", "/v1/push/dead-3", "", 500},
		{"nobody has the id", "GET", "/v1/push/BBBB-1", "", 500},
		{"nobody has one of them", "GET", "/v1/push/AAAA-1,BBBB-1", "", 207},
		{"no id", "GET", "/v1/push/", "", 500},
		{"an empty id", "GET", "/v1/push/AAAA-1,", "", 207},
		{"one id twice", "GET", "/v1/push/dead-3,dead-3", "", 207},

		{"a command for one", "PUT", "/v1/enqueue/AAAA-1", plist("c-1", "ProfileList"), 200},
		{"a command for two", "PUT", "/v1/enqueue/AAAA-1,AAAA-2", plist("c-2", "ProfileList"), 200},
		{"without a push", "PUT", "/v1/enqueue/AAAA-1?nopush=1", plist("c-3", "ProfileList"), 200},
		{"without a push, said otherwise", "PUT", "/v1/enqueue/AAAA-1?nopush=false", plist("c-4", "ProfileList"), 200},
		{"with a push, as the quickstart misspells it", "PUT", "/v1/enqueue/AAAA-1?no_push=1", plist("c-5", "ProfileList"), 200},
		{"one can't be pushed", "PUT", "/v1/enqueue/AAAA-1,dead-3", plist("c-6", "ProfileList"), 207},
		{"the one can't be pushed", "PUT", "/v1/enqueue/dead-3", plist("c-7", "ProfileList"), 500},
		{"the same UUID again", "PUT", "/v1/enqueue/AAAA-1", plist("c-1", "ProfileList"), 500},
		{"the same UUID for another", "PUT", "/v1/enqueue/AAAA-2", plist("c-1", "SecurityInfo"), 500},
		{"no command: a push", "PUT", "/v1/enqueue/AAAA-1", "", 200},
		{"no command and no push", "PUT", "/v1/enqueue/AAAA-1?nopush=1", "", 500},
		{"no enrollment", "PUT", "/v1/enqueue/", plist("c-8", "ProfileList"), 500},
	} {
		want := o.call(t, tt.method, tt.path, tt.body)
		got := h.call(t, "nanomdm", tt.method, tt.path, tt.body)
		if want.status != tt.status {
			t.Errorf("%s: NanoMDM answers %d %s; the test expects %d", tt.name, want.status, want.body, tt.status)
		}
		if got.status != want.status || shape(t, got.body) != shape(t, want.body) {
			t.Errorf("%s: got %d %s, want NanoMDM's %d %s", tt.name, got.status, got.body, want.status, want.body)
		}
		if g, w := got.header.Get("Content-Type"), want.header.Get("Content-Type"); g != w {
			t.Errorf("%s: Content-Type is %q, NanoMDM's %q", tt.name, g, w)
		}
	}

	for name, body := range map[string]string{
		"not a property list":        "request_type=ProfileList",
		"a command without its UUID": strings.ReplaceAll(plist("c-9", "ProfileList"), "CommandUUID", "UUID"),
		"one without a type":         strings.ReplaceAll(plist("c-9", "ProfileList"), "RequestType", "Type"),
	} {
		want := o.call(t, "PUT", "/v1/enqueue/AAAA-1", body)
		got := h.call(t, "nanomdm", "PUT", "/v1/enqueue/AAAA-1", body)
		var g, w struct {
			CommandError string `json:"command_error"`
			Status       any
			CommandUUID  string `json:"command_uuid"`
		}
		got.json(t, &g)
		want.json(t, &w)
		if got.status != want.status || !strings.HasPrefix(g.CommandError, "decoding command: ") || !strings.HasPrefix(w.CommandError, "decoding command: ") || g.Status != nil || g.CommandUUID != "" {
			t.Errorf("%s: got %d %s, NanoMDM's is %d %s", name, got.status, got.body, want.status, want.body)
		}
	}
	if h.waiting(t, ids["AAAA-1"]) != 6 {
		t.Errorf("%d commands wait, want 6", h.waiting(t, ids["AAAA-1"]))
	}
}

// TestNanoMDMsTypesReadTheAnswers is what a program in Go sees, and says why an enrollment
// gets no command: of that NanoMDM knows little.
func TestNanoMDMsTypesReadTheAnswers(t *testing.T) {
	h := newHouse(t)
	h.certificate(t)
	h.device(t, "MAC-1")
	h.device(t, "PHONE-1", phone)
	h.device(t, "GONE-1", func(d *mdm.Device) { d.State = mdm.Unenrolled })
	h.device(t, "USER-1", func(d *mdm.Device) {
		d.AppleID, d.Type, d.SerialNumber = mdm.AppleID{EnrollmentID: "USER-1"}, mdm.TypeUser, ""
		d.ProductName = "iPhone15,2"
	})
	h.device(t, "CHANNEL-1", func(d *mdm.Device) {
		d.AppleID, d.Type, d.ParentID = mdm.AppleID{UDID: "MAC-1", UserID: "0F0F"}, mdm.TypeUserChannel, "id-of-MAC-1"
	})

	ask := func(path, body string, status int) (r nanoapi.APIResult) {
		t.Helper()
		got := h.call(t, "nanomdm", "PUT", path, body)
		if got.status != status {
			t.Errorf("%s: status %d, want %d: %s", path, got.status, status, got.body)
		}
		got.json(t, &r)
		return r
	}
	r := ask("/v1/enqueue/MAC-1,USER-1,MAC-1:0F0F", plist("t-1", "ProfileList"), 200)
	for _, name := range []string{"MAC-1", "USER-1", "MAC-1:0F0F"} {
		if r.Status[name].PushID == "" || r.Status[name].EnqueueError != nil {
			t.Errorf("%s: %+v", name, r.Status[name])
		}
	}
	if err := r.Error(); err != nil || r.CommandUUID != "t-1" || r.RequestType != "ProfileList" || r.NoPush {
		t.Errorf("the result is %+v, error %v", r, err)
	}
	for _, id := range []mdm.DeviceID{"id-of-MAC-1", "id-of-USER-1", "id-of-CHANNEL-1"} {
		if got := h.next(t, id); got != plist("t-1", "ProfileList") {
			t.Errorf("%s gets %q", id, got)
		}
	}

	before := h.apple.Count()
	r = ask("/v1/enqueue/MAC-1,PHONE-1,GONE-1,NOBODY-1", plist("t-2", "PlayLostModeSound"), 207)
	for name, want := range map[string]struct{ command, push string }{
		"MAC-1":    {"macOS", ""},
		"GONE-1":   {"The device is not enrolled.", ""},
		"NOBODY-1": {"No enrollment has this id.", "push data missing for id"},
	} {
		e := r.Status[name]
		if e.EnqueueError == nil || !strings.Contains(e.EnqueueError.Error(), want.command) {
			t.Errorf("%s gets a command: %v", name, e.EnqueueError)
		}
		if e.PushError.Error() != want.push || e.PushID != "" {
			t.Errorf("%s: push %q, error %q, want %q", name, e.PushID, e.PushError.Error(), want.push)
		}
	}
	if e := r.Status["PHONE-1"]; e.EnqueueError != nil || e.PushID == "" {
		t.Errorf("the phone: %+v", e)
	}
	if n := h.apple.Count() - before; n != 1 {
		t.Errorf("%d pushes went, want that of the phone alone", n)
	}
	if r = ask("/v1/enqueue/NOBODY-1?nopush=1", plist("t-3", "ProfileList"), 500); !r.NoPush || r.Status["NOBODY-1"].EnqueueError == nil || r.Status["NOBODY-1"].PushError != nil {
		t.Errorf("an unknown id without a push: %+v", r)
	}
	if r = ask("/v1/push/GONE-1", "", 500); !strings.HasPrefix(r.Status["GONE-1"].PushError.Error(), "push data missing for id") {
		t.Errorf("a push to one that has gone: %+v", r)
	}
}

// TestWhatNobodyCouldPushIsStillThere has the push fail after the command was queued.
func TestWhatNobodyCouldPushIsStillThere(t *testing.T) {
	h := newHouse(t)
	id := h.device(t, "MAC-1")
	var r nanoapi.APIResult
	got := h.call(t, "nanomdm", "PUT", "/v1/enqueue/MAC-1", plist("p-1", "ProfileList"))
	got.json(t, &r)
	if e := r.Status["MAC-1"]; got.status != 500 || e.EnqueueError != nil || e.PushError == nil || !strings.Contains(e.PushError.Error(), "no push certificate") {
		t.Errorf("without a push certificate: %d %s", got.status, got.body)
	}
	if h.next(t, id) != plist("p-1", "ProfileList") {
		t.Error("the command is not there")
	}
}

// TestOneUUIDIsOneCommand has many ask for a command with the same UUID at once, as a script
// does that runs on two machines.
func TestOneUUIDIsOneCommand(t *testing.T) {
	h := newHouse(t)
	id := h.device(t, "MAC-1")
	h.device(t, "MAC-2")
	statuses := make(chan int, 8)
	var all sync.WaitGroup
	for i := range cap(statuses) {
		all.Go(func() {
			req, err := http.NewRequestWithContext(t.Context(), "PUT", fmt.Sprintf("%s/v1/enqueue/MAC-%d?nopush=1", h.url, i%2+1), strings.NewReader(plist("same", "ProfileList")))
			if err != nil {
				return
			}
			req.SetBasicAuth("nanomdm", h.owner)
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				return
			}
			resp.Body.Close()
			statuses <- resp.StatusCode
		})
	}
	all.Wait()
	close(statuses)
	count := map[int]int{}
	for s := range statuses {
		count[s]++
	}
	if count[200] != 1 || count[500] != 7 {
		t.Errorf("the statuses are %v, want one 200 and 500 else", count)
	}
	if n := h.waiting(t, id) + h.waiting(t, "id-of-MAC-2"); n != 1 {
		t.Errorf("%d devices got it", n)
	}
}

func TestOneIDOfTwoEnrollmentsIsNobodys(t *testing.T) {
	h := newHouse(t)
	h.device(t, "TWIN-1")
	h.device(t, "TWIN-1", func(d *mdm.Device) {
		d.ID, d.AppleID, d.Type = "other", mdm.AppleID{EnrollmentID: "TWIN-1"}, mdm.TypeUser
	})
	got := h.call(t, "nanomdm", "PUT", "/v1/enqueue/TWIN-1?nopush=1", plist("w-1", "ProfileList"))
	if got.status != 500 || !strings.Contains(got.body, "Two enrollments") {
		t.Errorf("got %d %s", got.status, got.body)
	}
	if h.waiting(t, "id-of-TWIN-1")+h.waiting(t, "other") != 0 {
		t.Error("one of them got the command")
	}
	must(t, h.db.Update(t.Context(), func(tx storage.Tx) error {
		d, err := mdm.GetDevice(tx, "other")
		d.State = mdm.Unenrolled
		return errors.Join(err, mdm.PutDevice(tx, d))
	}))
	if got := h.call(t, "nanomdm", "PUT", "/v1/enqueue/TWIN-1?nopush=1", plist("w-2", "ProfileList")); got.status != 200 {
		t.Errorf("with one of them gone: %d %s", got.status, got.body)
	}
}

func TestPushCertificatesAreTakenAsNanoMDMTakesThem(t *testing.T) {
	h := newHouse(t)
	o := newOriginal(t, nil)
	chain, key, err := h.apple.Issue(apnstest.Identity{Topic: topic})
	must(t, err)
	other, otherKey, err := h.apple.Issue(apnstest.Identity{Topic: topic})
	must(t, err)
	app, appKey, err := h.apple.Issue(apnstest.Identity{Topic: "com.example.app"})
	must(t, err)
	for _, tt := range []struct {
		name, body string
		status     int
	}{
		{"certificate and key", string(chain) + string(key), 200},
		{"key and certificate", string(key) + string(chain), 200},
		{"without a line between them", strings.TrimSpace(string(chain)) + string(key), 200},
		{"nothing", "", 400},
		{"no PEM", "what?", 400},
		{"no key", string(other), 400},
		{"no certificate", string(key), 400},
		{"another’s key", string(chain) + string(otherKey), 400},
		{"a certificate that can't be read", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n" + string(key), 400},
	} {
		want := o.call(t, "PUT", "/v1/pushcert", tt.body)
		got := h.call(t, "nanomdm", "PUT", "/v1/pushcert", tt.body)
		if got.status != tt.status || want.status != tt.status {
			t.Errorf("%s: got %d %s, NanoMDM %d %s", tt.name, got.status, got.body, want.status, want.body)
			continue
		}
		if tt.status == 200 && got.body != want.body {
			t.Errorf("%s: got %s, want NanoMDM's %s", tt.name, got.body, want.body)
		}
		var e struct{ Error string }
		if got.json(t, &e); tt.status == 400 && e.Error == "" {
			t.Errorf("%s: got %s, want an error", tt.name, got.body)
		}
	}
	if got := h.call(t, "nanomdm", "PUT", "/v1/pushcert", string(app)+string(appKey)); got.status != 400 {
		t.Errorf("an app’s certificate: %d %s", got.status, got.body)
	}

	// As NanoMDM has it since v0.9.
	put := h.call(t, "nanohub", "PUT", "/api/v1/nanomdm/pushcert", string(other)+string(otherKey))
	if got := h.call(t, "nanomdm", "GET", "/v1/pushcert?topic="+topic, ""); got.status != 200 || got.body != put.body {
		t.Errorf("the certificate of the topic is %d %s, want %s", got.status, got.body, put.body)
	}
	if got := h.call(t, "nanomdm", "GET", "/v1/pushcert", ""); got.status != 400 || !strings.Contains(got.body, "topic") {
		t.Errorf("without a topic: %d %s", got.status, got.body)
	}
	if got := h.call(t, "nanomdm", "GET", "/v1/pushcert?topic=com.apple.mgmt.none", ""); got.status != 500 || !strings.Contains(got.body, "com.apple.mgmt.none") {
		t.Errorf("of an unknown topic: %d %s", got.status, got.body)
	}
}

func TestNanoHUBHasTheSameUnderItsPrefix(t *testing.T) {
	h := newHouse(t)
	h.certificate(t)
	id := h.device(t, "MAC-1")
	for _, tt := range []struct{ method, path, body string }{
		{"GET", "/api/v1/nanomdm/push/MAC-1", ""},
		{"POST", "/api/v1/nanomdm/push/MAC-1", ""},
		{"PUT", "/api/v1/nanomdm/enqueue/MAC-1", plist("h-1", "ProfileList")},
	} {
		if got := h.call(t, "nanohub", tt.method, tt.path, tt.body); got.status != 200 || !strings.Contains(got.body, "push_result") {
			t.Errorf("%s %s: %d %s", tt.method, tt.path, got.status, got.body)
		}
	}
	if h.next(t, id) != plist("h-1", "ProfileList") {
		t.Error("the command is not there")
	}
}

// TestWhoMayDoWhat has tokens of all scopes ask for everything.
func TestWhoMayDoWhat(t *testing.T) {
	storagetest.AnyEngine(t)
	h := newHouse(t)
	h.certificate(t)
	h.device(t, "MAC-1")
	tokens := map[string]string{"none": "gtk_" + strings.Repeat("a", 40)}
	for _, scope := range []identity.Scope{"owner", "admin", "helpdesk", "read_only", "cert:any"} {
		tokens[string(scope)] = h.token(t, scope)
	}
	_, limited, err := h.identity.CreateToken(t.Context(), identity.Local(), identity.NewToken{Name: "limited", Scopes: []identity.Scope{identity.ScopeAdmin}, GroupIDs: []string{"g"}})
	must(t, err)
	tokens["limited to a group"] = limited.Reveal()
	everybody := []string{"owner", "admin", "helpdesk", "read_only"}
	lock := `{"udid":"MAC-1","request_type":"DeviceLock"}`
	n := 0
	for name, tt := range map[string]struct {
		user, method, path, body string
		may                      []string
	}{
		"push":                         {"nanomdm", "GET", "/v1/push/MAC-1", "", everybody[:3]},
		"lock":                         {"nanomdm", "PUT", "/v1/enqueue/MAC-1?nopush=1", plist("UUID", "DeviceLock"), everybody[:3]},
		"lock with an unknown key":     {"nanomdm", "PUT", "/v1/enqueue/MAC-1?nopush=1", plist("UUID", "DeviceLock", "<key>New</key><true/>"), everybody[:2]},
		"erase":                        {"nanomdm", "PUT", "/v1/enqueue/MAC-1?nopush=1", plist("UUID", "EraseDevice"), everybody[:2]},
		"restart":                      {"nanomdm", "PUT", "/v1/enqueue/MAC-1?nopush=1", plist("UUID", "RestartDevice"), everybody[:3]},
		"restart with kernel things":   {"nanomdm", "PUT", "/v1/enqueue/MAC-1?nopush=1", plist("UUID", "RestartDevice", "<key>RebuildKernelCache</key><true/>"), everybody[:2]},
		"read the push certificate":    {"nanomdm", "GET", "/v1/pushcert?topic=" + topic, "", everybody},
		"upload one":                   {"nanomdm", "PUT", "/v1/pushcert", "", everybody[:2]},
		"unlock Activation Lock":       {"nanomdm", "POST", "/v1/escrowkeyunlock", "", everybody[:2]},
		"list devices":                 {"micromdm", "POST", "/v1/devices", "{}", everybody},
		"lock, MicroMDM":               {"micromdm", "POST", "/v1/commands", lock, everybody[:3]},
		"erase, MicroMDM":              {"micromdm", "POST", "/v1/commands", `{"udid":"MAC-1","request_type":"EraseDevice","pin":"123456"}`, everybody[:2]},
		"erase, MicroMDM, raw":         {"micromdm", "POST", "/v1/commands/MAC-1", plist("UUID", "EraseDevice"), everybody[:2]},
		"see the queue":                {"micromdm", "GET", "/v1/commands/MAC-1", "", everybody[:2]},
		"clear it":                     {"micromdm", "DELETE", "/v1/commands/MAC-2", "", everybody[:3]},
		"push, MicroMDM":               {"micromdm", "GET", "/push/MAC-1", "", everybody[:3]},
		"push, MicroMDM, newer":        {"micromdm", "POST", "/v1/push/MAC-1", "", everybody[:3]},
		"see profiles":                 {"micromdm", "POST", "/v1/profiles", "{}", everybody[:2]},
		"add one":                      {"micromdm", "PUT", "/v1/profiles", "{}", everybody[:2]},
		"remove one":                   {"micromdm", "DELETE", "/v1/profiles", "{}", everybody[:2]},
		"block":                        {"micromdm", "POST", "/v1/devices/MAC-2/block", "", everybody[:2]},
		"unblock":                      {"micromdm", "POST", "/v1/devices/MAC-2/unblock", "", everybody[:2]},
		"see the push certificate":     {"micromdm", "GET", "/v1/config/certificate", "", everybody},
		"upload one, MicroMDM":         {"micromdm", "PUT", "/v1/config/certificate", "{}", everybody[:2]},
		"what is not there":            {"micromdm", "POST", "/v1/dep/syncnow", "", everybody},
		"list devices, by another API": {"nanomdm", "POST", "/v1/devices", "{}", everybody},
	} {
		for who, token := range tokens {
			n++
			got := h.callWith(t, tt.user, token, tt.method, tt.path, strings.ReplaceAll(tt.body, "UUID</string>", fmt.Sprintf("w-%d</string>", n)))
			want := "passes"
			if who == "none" {
				want = "unauthenticated"
			} else if !slices.Contains(tt.may, who) {
				want = "forbidden"
			}
			is := map[int]string{401: "unauthenticated", 403: "forbidden"}[got.status]
			if is == "" {
				is = "passes"
			}
			if is != want {
				t.Errorf("%s by %s: %d %s, want that it %s", name, who, got.status, got.body, want)
			}
			if challenge := got.header.Get("WWW-Authenticate"); (got.status == 401) != strings.HasPrefix(challenge, "Basic realm=") {
				t.Errorf("%s by %s: %d with the challenge %q", name, who, got.status, challenge)
			}
		}
	}
	for name, user := range map[string]string{"nobody": "", "a user of another project": "fleet", "the token’s owner": "ana@example.com"} {
		if got := h.call(t, user, "GET", "/v1/push/MAC-1", ""); got.status != 401 {
			t.Errorf("%s passes: %d %s", name, got.status, got.body)
		}
	}
	past := func() time.Time { return time.Now().Add(-time.Hour) }
	before, err := identity.New(identity.Config{DB: h.db, Log: slog.New(slog.DiscardHandler), Now: past, HashMemory: 64})
	must(t, err)
	_, expired, err := before.CreateToken(t.Context(), identity.Local(), identity.NewToken{Name: "old", Scopes: []identity.Scope{identity.ScopeOwner}, ExpiresAt: past().Add(time.Minute)})
	must(t, err)
	for user, path := range map[string]string{"nanomdm": "/v1/pushcert", "micromdm": "/v1/config/certificate"} {
		if got := h.callWith(t, user, expired.Reveal(), "GET", path, ""); got.status != 401 || !strings.Contains(got.body, "Unauthorized: the token has expired") || got.header.Get("WWW-Authenticate") == "" {
			t.Errorf("a token of before, by %s: %d %s", user, got.status, got.body)
		}
		if got := h.callWith(t, user, "gtk_none", "GET", path, ""); got.status != 401 || strings.Contains(got.body, "expired") {
			t.Errorf("no token, by %s: %d %s", user, got.status, got.body)
		}
	}
	req, err := http.NewRequestWithContext(t.Context(), "GET", h.url+"/v1/push/MAC-1", nil)
	must(t, err)
	req.Header.Set("Authorization", "Bearer "+h.owner)
	if got := send(t, req); got.status != 401 {
		t.Errorf("a bearer token passes: %d", got.status)
	}
}

// manyCmdrs runs cmdr.py, as it is, once for each list of arguments on its standard input.
const manyCmdrs = `
import base64, io, json, runpy, sys
out = []
for args in json.load(sys.stdin):
    sys.argv = ["cmdr.py"] + args
    real, sys.stdout = sys.stdout, io.TextIOWrapper(io.BytesIO())
    runpy.run_path(` + "'%s'" + `, run_name="__main__")
    sys.stdout.flush()
    out.append(base64.b64encode(sys.stdout.buffer.getvalue()).decode())
    sys.stdout = real
json.dump(out, sys.stdout)
`

// TestEveryCommandOfCmdrArrivesAsItWasMade runs NanoMDM's cmdr.py for each of its commands and
// has what it prints come out at a device to the byte.
func TestEveryCommandOfCmdrArrivesAsItWasMade(t *testing.T) {
	storagetest.AnyEngine(t)
	t.Parallel()
	python := tool(t, "python3")
	script := filepath.Join(released(t, ".", "github.com/micromdm/nanomdm"), "tools", "cmdr.py")
	h := newHouse(t)
	h.certificate(t)
	mac := h.device(t, "MAC-1", func(d *mdm.Device) { d.OSVersion = "13.6" })
	user := h.device(t, "USER-1", func(d *mdm.Device) {
		d.AppleID, d.Type, d.ParentID, d.OSVersion = mdm.AppleID{UDID: "MAC-1", UserID: "0F0F"}, mdm.TypeUserChannel, mac, "13.6"
	})
	phoneID := h.device(t, "PHONE-1", phone)
	pad := h.device(t, "PAD-1", func(d *mdm.Device) {
		shared := true
		d.ProductName, d.OSVersion, d.EnrolledViaDEP, d.SharedIPad = "iPad13,4", "17.2", nil, &shared
	})
	mobileconfig := filepath.Join(t.TempDir(), "p.mobileconfig")
	must(t, writeFile(mobileconfig, profileXML("com.example.cmdr")))
	names := map[mdm.DeviceID]string{mac: "MAC-1", user: "MAC-1:0F0F", phoneID: "PHONE-1", pad: "PAD-1"}
	commands := []struct {
		on   mdm.DeviceID
		args string
	}{
		{mac, "ProfileList"}, {mac, "ProvisioningProfileList"}, {mac, "SecurityInfo"}, {mac, "RestartDevice"}, {mac, "ShutDownDevice"},
		{phoneID, "StopMirroring"}, {phoneID, "ClearRestrictionsPassword"}, {pad, "UserList"}, {pad, "LogOutUser"},
		{phoneID, "PlayLostModeSound"}, {phoneID, "DisableLostMode"}, {phoneID, "DeviceLocation"}, {phoneID, "ManagedMediaList"},
		{mac, "DeviceConfigured"}, {mac, "AvailableOSUpdates"}, {user, "NSExtensionMappings"}, {mac, "OSUpdateStatus"},
		{mac, "EnableRemoteDesktop"}, {mac, "DisableRemoteDesktop"}, {mac, "ActivationLockBypassCode"}, {mac, "ScheduleOSUpdateScan"},
		{mac, "DeviceInformation"}, {mac, "DevInfo Model OSVersion"}, {mac, "InstallProfile " + mobileconfig}, {mac, "RemoveProfile com.example.cmdr"},
		{mac, "ScheduleOSUpdate InstallASAP --version 13.7"}, {mac, "ScheduleOSUpdate InstallLater --key MSU_1 --deferrals 3 --priority Low"},
		{mac, "AccountConfig -f Ana -u ana -l"}, {mac, "Settings --allowbst"}, {mac, "CertificateList -m"},
		{mac, "DeviceLock 123456"}, {mac, "EraseDevice 123456"}, {mac, "command SecurityInfo"}, {mac, "-r"},
	}
	var args [][]string
	for _, c := range commands {
		args = append(args, strings.Fields(c.args))
	}
	in, err := json.Marshal(args)
	must(t, err)
	run := exec.CommandContext(t.Context(), python, "-c", fmt.Sprintf(manyCmdrs, script))
	run.Stdin = bytes.NewReader(in)
	printed, err := run.Output()
	must(t, err)
	var made [][]byte
	must(t, json.Unmarshal(printed, &made))
	for i, c := range commands {
		got := h.call(t, "nanomdm", "PUT", "/v1/enqueue/"+names[c.on], string(made[i]))
		var r nanoapi.APIResult
		got.json(t, &r)
		if got.status != 200 || r.Error() != nil {
			t.Errorf("cmdr.py %s: %d %s", c.args, got.status, got.body)
			continue
		}
		if plist := h.next(t, c.on); plist != string(made[i]) {
			t.Errorf("cmdr.py %s: the device gets\n%s\nwant\n%s", c.args, plist, made[i])
		}
		h.acknowledge(t, c.on, r.CommandUUID)
	}
}

// TestUnknownKeysTravelUnchanged has a command that nobody here knows come out at a device.
func TestUnknownKeysTravelUnchanged(t *testing.T) {
	h := newHouse(t)
	id := h.device(t, "MAC-1")
	made := "<plist version=\"1.0\">\n\t<dict><key>CommandUUID</key><string>x</string>\n<key>Later</key><real>1e3</real>" +
		"<key>Command</key><dict><key>RequestType</key><string>FromTheFuture</string><!-- kept --><key>Deep</key><array><dict/><true/></array></dict></dict></plist>\n\n"
	if got := h.call(t, "nanomdm", "PUT", "/v1/enqueue/MAC-1?nopush=1", made); got.status != 200 {
		t.Fatalf("got %d %s", got.status, got.body)
	}
	if got := h.next(t, id); got != made {
		t.Errorf("the device gets %q, want %q", got, made)
	}
}

// TestEscrowKeyUnlockGoesToAppleWithThePushCertificate stands for Apple's service.
func TestEscrowKeyUnlockGoesToAppleWithThePushCertificate(t *testing.T) {
	const form = "topic=" + topic + "&serial=C8TJ500QF1MN&productType=iPad4%2C1&imei=35&escrowKey=3UM43-PUYVY-QYD1-UVCC-HEHJ-FKA4&orgName=Acme+Inc&guid=123456"
	var asked *http.Request
	var by string
	service := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		must(t, r.ParseForm())
		asked, by = r, ""
		for _, name := range r.TLS.PeerCertificates[0].Subject.Names {
			if name.Type.String() == "0.9.2342.19200300.100.1.1" {
				by, _ = name.Value.(string)
			}
		}
		w.Header().Set("Content-Type", "text/plain")
		w.WriteHeader(http.StatusNotFound)
		fmt.Fprint(w, "no such device")
	}))
	service.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert}
	service.StartTLS()
	defer service.Close()
	h := newHouse(t, unlockAt(service))

	if got := h.call(t, "nanomdm", "POST", "/v1/escrowkeyunlock", ""); got.status != 400 || !strings.Contains(got.body, "serial") {
		t.Errorf("without parameters: %d %s", got.status, got.body)
	}
	post := func(form string) reply {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), "POST", h.url+"/v1/escrowkeyunlock", strings.NewReader(form))
		must(t, err)
		req.SetBasicAuth("nanomdm", h.owner)
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		return send(t, req)
	}
	for name, tt := range map[string]struct {
		form, says string
		status     int
	}{
		"no topic":       {strings.Replace(form, "topic=", "t=", 1), "empty topic", 400},
		"no code":        {strings.Replace(form, "escrowKey=", "k=", 1), "escrowKey", 400},
		"no certificate": {form, topic, 500},
	} {
		if got := post(tt.form); got.status != tt.status || !strings.Contains(got.body, tt.says) {
			t.Errorf("%s: %d %s, want %d with %q", name, got.status, got.body, tt.status, tt.says)
		}
	}
	h.certificate(t)
	if got := post(form); got.status != 404 || got.body != "no such device" || got.header.Get("Content-Type") != "text/plain" {
		t.Errorf("Apple's answer became %d %s %v", got.status, got.body, got.header)
	}
	if asked == nil {
		t.Fatal("nobody asked Apple")
	}
	if by != topic {
		t.Errorf("the client was %q", by)
	}
	if got, want := asked.URL.Query().Encode(), "imei=35&productType=iPad4%2C1&serial=C8TJ500QF1MN"; got != want {
		t.Errorf("the query is %s, want %s", got, want)
	}
	if got, want := asked.PostForm.Encode(), "escrowKey=3UM43-PUYVY-QYD1-UVCC-HEHJ-FKA4&guid=123456&orgName=Acme+Inc"; got != want {
		t.Errorf("the body is %s, want %s", got, want)
	}
	var noted []event.Event
	must(t, h.db.View(t.Context(), func(tx storage.Tx) error {
		noted = nil
		page, _, err := event.Page(tx, event.Filter{}, "", 10)
		for _, e := range page {
			if e.Action == "activation_lock.unlock_requested" {
				noted = append(noted, e)
			}
		}
		return err
	}))
	if len(noted) != 1 || noted[0].Actor != "token:scripts" || noted[0].Details["serial_number"] != "C8TJ500QF1MN" || noted[0].Outcome != event.Failed {
		t.Errorf("the audit log has %+v", noted)
	}
	if text := fmt.Sprint(noted); strings.Contains(text, "3UM43") {
		t.Error("the code is in the audit log")
	}
}
