package checkin_test

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	gatehouse "github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/mdmtest"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

func TestCommandsOfOneSession(t *testing.T) {
	h := newHouse(t)
	d := h.enrolled(t, mdmtest.Options{})
	c := d.Channel()
	h.queue(t, d.IDs(), "ProfileList", "A", "B", "C", "D")

	if got := idle(t, c); got != "A" {
		t.Fatalf("the first command is %q, want A", got)
	}
	if got := idle(t, c); got != "A" {
		t.Errorf("after an Idle without an answer comes %q, want A again", got)
	}
	h.wantState(t, "A", gatehouse.Delivered)
	if got := answer(t, c, "A", mdmtest.StatusNotNow); got != "B" {
		t.Errorf("after NotNow comes %q, want B: A not in this session", got)
	}
	if got := answer(t, c, "B", mdmtest.StatusError); got != "C" {
		t.Errorf("after Error comes %q, want C", got)
	}
	if got := answer(t, c, "C", mdmtest.StatusFormat); got != "D" {
		t.Errorf("after CommandFormatError comes %q, want D", got)
	}
	if got := answer(t, c, "D", mdmtest.StatusNotNow); got != "" {
		t.Errorf("with nothing but NotNow left comes %q, want nothing", got)
	}
	if got := idle(t, c); got != "A" {
		t.Errorf("at the next Idle comes %q, want A", got)
	}
	if got := answer(t, c, "A", mdmtest.StatusNotNow); got != "" {
		t.Errorf("after NotNow for all comes %q, want nothing", got)
	}
	idle(t, c)
	if got := answer(t, c, "A", mdmtest.StatusAcknowledged); got != "" {
		t.Errorf("after A comes %q: D was NotNow and waits for an Idle", got)
	}
	if got := idle(t, c); got != "D" {
		t.Errorf("then comes %q, want D", got)
	}
	answer(t, c, "D", mdmtest.StatusAcknowledged)
	for uuid, want := range map[string]gatehouse.CommandState{
		"A": gatehouse.Acknowledged, "B": gatehouse.Failed, "C": gatehouse.Failed, "D": gatehouse.Acknowledged,
	} {
		h.wantState(t, uuid, want)
	}
	if got := h.entry(t, "A").NotNowCount; got != 2 {
		t.Errorf("A was NotNow %d times, want 2", got)
	}
}

func TestReportsThatAreOddLeaveTheQueueAlone(t *testing.T) {
	storagetest.AnyEngine(t)
	h := newHouse(t)
	d := h.enrolled(t, mdmtest.Options{})
	other := h.enrolled(t, mdmtest.Options{})
	h.queue(t, d.IDs(), "ProfileList", "DONE", "HAND", "LATER")
	h.queue(t, other.IDs(), "ProfileList", "OTHER")
	c := d.Channel()
	idle(t, c)
	answer(t, c, "DONE", mdmtest.StatusAcknowledged)
	finished := h.entry(t, "DONE")

	for name, tt := range map[string]struct {
		report mdmtest.Result
		want   int
	}{
		"a Status that there is not":        {mdmtest.Result{CommandUUID: "HAND", Status: "Foo"}, 400},
		"a Status that is markup":           {mdmtest.Result{CommandUUID: "HAND", Status: "<b>"}, 400},
		"no Status":                         {mdmtest.Result{CommandUUID: "HAND"}, 400},
		"a Status in small letters":         {mdmtest.Result{CommandUUID: "HAND", Status: "acknowledged"}, 400},
		"Idle with a UUID":                  {mdmtest.Result{CommandUUID: "HAND", Status: "Idle"}, 200},
		"an answer without a UUID":          {mdmtest.Result{Status: "Acknowledged"}, 200},
		"an answer to nothing":              {mdmtest.Result{CommandUUID: "NEVER", Status: "Acknowledged"}, 200},
		"an answer to another's command":    {mdmtest.Result{CommandUUID: "OTHER", Status: "Acknowledged"}, 200},
		"an answer before the command":      {mdmtest.Result{CommandUUID: "LATER", Status: "Acknowledged"}, 200},
		"an answer for the second time":     {mdmtest.Result{CommandUUID: "DONE", Status: "Error"}, 200},
		"NotNow after the answer":           {mdmtest.Result{CommandUUID: "DONE", Status: "NotNow"}, 200},
		"an answer to a name without end":   {mdmtest.Result{CommandUUID: strings.Repeat("x", 300), Status: "Acknowledged"}, 400},
		"an answer to a name in two lines":  {mdmtest.Result{CommandUUID: "x\nlevel=ERROR", Status: "Acknowledged"}, 200},
		"a Status that is a number":         {mdmtest.Result{CommandUUID: "HAND", Keys: mdmtest.Dict{"Status": 1}}, 400},
		"a Status beside one MessageType":   {mdmtest.Result{CommandUUID: "HAND", Status: "Acknowledged", Keys: mdmtest.Dict{"MessageType": "Foo"}}, 400},
		"a check-in at the command's place": {mdmtest.Result{Status: "Idle", Keys: mdmtest.Dict{"MessageType": "CheckIn"}}, 400},
	} {
		t.Run(name, func(t *testing.T) {
			p := reporting(t, d, tt.report)
			if tt.report.Keys["Status"] != nil {
				body, err := mdmtest.MarshalPlist(changed(d.IDs(), mdmtest.Dict{"CommandUUID": "HAND", "Status": 1}))
				must(t, err)
				p = raw(t, d, string(body))
			} else if name == "no Status" {
				body, err := mdmtest.MarshalPlist(changed(d.IDs(), mdmtest.Dict{"CommandUUID": "HAND"}))
				must(t, err)
				p = raw(t, d, string(body))
			}
			h.wantStatus(t, name, p, tt.want)
			h.wantState(t, "HAND", gatehouse.Delivered)
			if got := h.entry(t, "DONE"); got.State != finished.State || !got.FinishedAt.Equal(finished.FinishedAt) {
				t.Errorf("the finished command is %+v, want as before", got)
			}
			h.wantState(t, "OTHER", gatehouse.Queued)
			if got := h.entry(t, "LATER").State; got != gatehouse.Queued && got != gatehouse.Delivered {
				t.Errorf("the command behind is %s", got)
			}
		})
	}
	if got := answer(t, c, "HAND", mdmtest.StatusAcknowledged); got != "LATER" {
		t.Errorf("after all that comes %q, want LATER", got)
	}
	for line := range strings.Lines(h.log.String()) {
		if !strings.HasPrefix(line, "time=") || strings.HasPrefix(line, "level=") {
			t.Errorf("a line of the log was split: %q", line)
		}
		if len(line) > 2048 {
			t.Errorf("a line of the log has %d bytes: %.300q", len(line), line)
		}
	}
}

// A device sends an answer until it is taken, so what it says of its command
// counts even where the rest can't be read or kept.
func TestAnswersAreTakenWhateverTheyHold(t *testing.T) {
	storagetest.AnyEngine(t)
	h := newHouse(t)
	d := h.enrolled(t, mdmtest.Options{})
	links := make([]any, 1000)
	for i := range links {
		links[i] = mdmtest.Dict{"ErrorCode": i, "ErrorDomain": "MCMDMErrorDomain"}
	}
	ids, err := mdmtest.MarshalPlist(d.IDs())
	must(t, err)
	with := func(status, keys string) string {
		return strings.Replace(string(ids), "<dict>", "<dict><key>CommandUUID</key><string>UUID</string><key>Status</key><string>"+status+"</string>"+keys, 1)
	}
	chain, err := mdmtest.MarshalPlist(mdmtest.Dict{"ErrorChain": links})
	must(t, err)
	_, inner, _ := strings.Cut(string(chain), "<dict>")
	inner = inner[:strings.LastIndex(inner, "</dict>")]

	for name, tt := range map[string]struct {
		body  string
		state gatehouse.CommandState
		chain int  // links that are kept
		keeps bool // whether a result is kept
	}{
		"a thousand errors in a chain":            {with("Error", inner), gatehouse.Failed, 32, false},
		"a chain that is no array":                {with("Error", "<key>ErrorChain</key><string>x</string>"), gatehouse.Failed, 0, false},
		"a chain of strings":                      {with("Error", "<key>ErrorChain</key><array><string>x</string></array>"), gatehouse.Failed, 0, false},
		"an error code that is a string":          {with("Error", "<key>ErrorChain</key><array><dict><key>ErrorCode</key><string>12</string></dict></array>"), gatehouse.Failed, 1, false},
		"an error code beyond 64 bits":            {with("Error", "<key>ErrorChain</key><array><dict><key>ErrorCode</key><integer>99999999999999999999999</integer></dict></array>"), gatehouse.Failed, 1, false},
		"an error text of a megabyte":             {with("Error", "<key>ErrorChain</key><array><dict><key>LocalizedDescription</key><string>"+strings.Repeat(">", 1<<20)+"</string></dict></array>"), gatehouse.Failed, 1, false},
		"a date that is none":                     {with("Acknowledged", "<key>Since</key><date>yesterday</date>"), gatehouse.Acknowledged, 0, true},
		"data that is no base64":                  {with("Acknowledged", "<key>Blob</key><data>!!</data>"), gatehouse.Acknowledged, 0, true},
		"a number beyond 64 bits":                 {with("Acknowledged", "<key>N</key><integer>99999999999999999999999</integer>"), gatehouse.Acknowledged, 0, true},
		"an undefined number":                     {with("Acknowledged", "<key>N</key><real>nan</real>"), gatehouse.Acknowledged, 0, true},
		"text that grows in JSON beyond a record": {with("Acknowledged", "<key>T</key><string>"+strings.Repeat(">", 8<<20/3)+"</string>"), gatehouse.Acknowledged, 0, false},
		"an ErrorChain with an acknowledgement":   {with("Acknowledged", "<key>ErrorChain</key><array><dict/></array>"), gatehouse.Acknowledged, 1, false},
	} {
		t.Run(name, func(t *testing.T) {
			uuid := gatehouse.NewUUID()
			h.queue(t, d.IDs(), "ProfileList", uuid)
			if got := idle(t, d.Channel()); got != uuid {
				t.Fatalf("the command is %q, want %s", got, uuid)
			}
			h.wantStatus(t, name, raw(t, d, strings.Replace(tt.body, ">UUID<", ">"+uuid+"<", 1)), 200)
			e := h.entry(t, uuid)
			if e.State != tt.state || len(e.ErrorChain) != tt.chain || (e.Result != nil) != tt.keeps {
				t.Errorf("the command is %s with %d errors and %d bytes of result, want %s, %d, kept %t",
					e.State, len(e.ErrorChain), len(e.Result), tt.state, tt.chain, tt.keeps)
			}
			for _, link := range e.ErrorChain {
				if len(link.LocalizedDescription) > 4096 {
					t.Errorf("an error text of %d bytes was kept", len(link.LocalizedDescription))
				}
			}
		})
	}
}

func TestTwoHundredCommandsQueuedWhileTheDevicePolls(t *testing.T) {
	const n, writers = 200, 4
	h := newHouse(t)
	var order []string
	d := h.enrolled(t, mdmtest.Options{Handler: func(_ context.Context, _ *mdmtest.Channel, cmd *mdmtest.Command, own func() mdmtest.Result) mdmtest.Result {
		order = append(order, cmd.UUID) // Poll runs one at a time
		return own()
	}})
	id := h.record(t, d.IDs()).ID
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range n / writers {
				if err := h.enqueue(t.Context(), fmt.Sprintf("W%d-%03d", w, i), "ProfileList", id); err != nil {
					t.Error(err)
				}
			}
		})
	}
	queued := make(chan struct{})
	go func() { wg.Wait(); close(queued) }()
	for done := false; !done; {
		select {
		case <-queued:
			done = true
		default:
		}
		if _, err := d.Poll(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if len(order) != n || len(slices.Compact(slices.Sorted(slices.Values(order)))) != n {
		t.Errorf("%d commands were delivered, want %d, each once", len(order), n)
	}
	for w := range writers {
		var own []string
		for _, uuid := range order {
			if strings.HasPrefix(uuid, fmt.Sprintf("W%d-", w)) {
				own = append(own, uuid)
			}
		}
		if !slices.IsSorted(own) {
			t.Errorf("the commands of writer %d came as %v, want in order", w, own)
		}
	}
}

func TestAMacHasTwoQueues(t *testing.T) {
	storagetest.AnyEngine(t)
	h := newHouse(t)
	mac := h.enrolled(t, mdmtest.Options{Model: mdmtest.Mac})
	user := mac.User()
	if user == nil {
		t.Fatal("the profile gives its user no channel")
	}
	channel := h.record(t, user.IDs())
	if channel.Type != gatehouse.TypeUserChannel || channel.ParentID != h.record(t, mac.IDs()).ID || channel.UserShortName != "ana" {
		t.Errorf("the user channel is %+v", channel)
	}
	h.queue(t, mac.IDs(), "ProfileList", "DEVICE")
	h.queue(t, user.IDs(), "ProfileList", "USER")
	if got := idle(t, user); got != "USER" {
		t.Errorf("the user gets %q, want USER", got)
	}
	if got := idle(t, mac.Channel()); got != "DEVICE" {
		t.Errorf("the device gets %q, want DEVICE", got)
	}
	answer(t, mac.Channel(), "USER", mdmtest.StatusAcknowledged)
	h.wantState(t, "USER", gatehouse.Delivered)
	answer(t, user, "USER", mdmtest.StatusNotNow)
	answer(t, mac.Channel(), "DEVICE", mdmtest.StatusAcknowledged)
	answer(t, user, idle(t, user), mdmtest.StatusAcknowledged)
	h.wantState(t, "USER", gatehouse.Acknowledged)
	h.wantState(t, "DEVICE", gatehouse.Acknowledged)

	// A user leaves alone; with the device go all.
	h.wantStatus(t, "the user's CheckOut", saying(t, mac, "CheckOut", user.IDs()), 200)
	if got := h.record(t, user.IDs()).State; got != gatehouse.Unenrolled {
		t.Errorf("the user channel is %s", got)
	}
	if got := h.record(t, mac.IDs()).State; got != gatehouse.Enrolled {
		t.Errorf("the device is %s", got)
	}
	if got, body := h.send(t, mustPrepare(t, user)); got != 403 || strings.Contains(body, "unrecognized") {
		t.Errorf("a poll of the user that left: %d %q, want 403 that does not remove the Mac", got, body)
	}
	must(t, user.TokenUpdate(t.Context())) // the user signs in again
	h.queue(t, user.IDs(), "ProfileList", "LEFT")
	must(t, mac.CheckOut(t.Context()))
	d := h.record(t, user.IDs())
	if d.State != gatehouse.Unenrolled || d.Push != nil {
		t.Errorf("after the device's CheckOut its user is %s, push %v; want unenrolled and none", d.State, d.Push)
	}
	h.wantState(t, "LEFT", gatehouse.Cancelled)
	for name, p := range map[string]mdmtest.Prepared{
		"poll of the user":        mustPrepare(t, user),
		"TokenUpdate of the user": saying(t, mac, "TokenUpdate", user.IDs()),
	} {
		if got, _ := h.send(t, p); got != 403 {
			t.Errorf("%s after the device's CheckOut: %d, want 403", name, got)
		}
	}
	if got := h.record(t, user.IDs()).State; got != gatehouse.Unenrolled {
		t.Errorf("the user channel is %s, want unenrolled", got)
	}
}

func mustPrepare(t testing.TB, c *mdmtest.Channel) mdmtest.Prepared {
	t.Helper()
	p, err := c.Prepare(mdmtest.Result{Status: mdmtest.StatusIdle})
	must(t, err)
	return p
}

func TestABlockedUserChannelStaysBlocked(t *testing.T) {
	storagetest.AnyEngine(t)
	h := newHouse(t)
	mac := h.enrolled(t, mdmtest.Options{Model: mdmtest.Mac})
	user := mac.User()
	_, err := h.enroll.Block(t.Context(), h.record(t, user.IDs()).ID)
	must(t, err)
	want := func(what string) {
		t.Helper()
		if got := h.record(t, user.IDs()).State; got != gatehouse.Blocked {
			t.Errorf("%s the channel is %s, want blocked", what, got)
		}
	}
	p := saying(t, mac, "TokenUpdate", user.IDs())
	if got, body := h.send(t, p); got != 403 || strings.Contains(body, "unrecognized") {
		t.Errorf("TokenUpdate: %d %q, want 403 that does not remove the Mac", got, body)
	}
	want("after TokenUpdate")
	if _, err := mac.Poll(t.Context()); err != nil {
		t.Errorf("the device polls on: %v", err)
	}
	must(t, mac.Remove(t.Context()))
	want("after CheckOut of the device")
	must(t, mac.Install(must2(mac.Download(t.Context(), h.link(t, "ana@example.com")))(t)))
	must(t, mac.RequestIdentity(t.Context()))
	must(t, mac.Authenticate(t.Context()))
	want("when the device has enrolled again")
}

func must2[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		must(t, err)
		return v
	}
}

func TestAUserEnrollmentTellsNothingOfTheDevice(t *testing.T) {
	storagetest.AnyEngine(t)
	h := newHouse(t)
	d := h.enrolled(t, mdmtest.Options{UserEnrollment: true})
	rec := h.record(t, d.IDs())
	if rec.Type != gatehouse.TypeUser || rec.UDID != "" || rec.SerialNumber != "" || rec.State != gatehouse.Enrolled {
		t.Fatalf("the device is %+v", rec)
	}
	h.queue(t, d.IDs(), "ProfileList", "P")
	must2(d.Poll(t.Context()))(t)
	h.wantState(t, "P", gatehouse.Acknowledged)
	for _, requestType := range []string{"EraseDevice", "RestartDevice"} {
		if err := h.enqueue(t.Context(), gatehouse.NewUUID(), requestType, rec.ID); err == nil {
			t.Errorf("%s was queued", requestType)
		}
	}

	h.queue(t, d.IDs(), "DeviceInformation", "I")
	idle(t, d.Channel())
	h.wantStatus(t, "an answer that tells too much", reporting(t, d, mdmtest.Result{CommandUUID: "I", Status: "Acknowledged", Keys: mdmtest.Dict{
		"QueryResponses": mdmtest.Dict{"SerialNumber": "SECRET1", "IMEI": "SECRET2", "UDID": "SECRET3", "OSVersion": "26.2", "DeviceName": strings.Repeat("n", 1<<16)},
	}}), 200)
	rec = h.record(t, d.IDs())
	if rec.SerialNumber+rec.IMEI != "" || rec.OSVersion != "26.2" || len(rec.DeviceName) > 255 {
		t.Errorf("the device is %.500s", fmt.Sprint(rec))
	}

	for name, tt := range map[string]struct {
		p    mdmtest.Prepared
		want int
	}{
		"Authenticate with a UDID beside":  {saying(t, d, "Authenticate", mdmtest.Dict{"UDID": d.Options().UDID}), 400},
		"Authenticate with a UDID instead": {saying(t, d, "Authenticate", mdmtest.Dict{"UDID": d.Options().UDID, "EnrollmentID": nil}), 403},
		"TokenUpdate with a UDID beside":   {saying(t, d, "TokenUpdate", mdmtest.Dict{"UDID": d.Options().UDID}), 400},
		"TokenUpdate with a UserID":        {saying(t, d, "TokenUpdate", mdmtest.Dict{"UserID": "U1"}), 400},
		"Authenticate with a serial":       {saying(t, d, "Authenticate", mdmtest.Dict{"SerialNumber": "SECRET4", "IMEI": "SECRET5"}), 200},
		"its user":                         {saying(t, d, "TokenUpdate", mdmtest.Dict{"EnrollmentUserID": "U1"}), 200},
	} {
		h.wantStatus(t, name, tt.p, tt.want)
	}
	h.wantStatus(t, "another user", saying(t, d, "TokenUpdate", mdmtest.Dict{"EnrollmentUserID": "U2"}), 403)
	if rec := h.record(t, d.IDs()); rec.SerialNumber+rec.IMEI != "" || rec.UDID != "" {
		t.Errorf("the server now knows %q and %q", rec.SerialNumber, rec.UDID)
	}
	if users := h.record(t, mdmtest.Dict{"EnrollmentID": d.ID(), "EnrollmentUserID": "U1"}); users.ParentID != rec.ID {
		t.Errorf("the user channel is %+v", users)
	}
}

func TestASharediPadsUsersAreToldApartByTheirAccount(t *testing.T) {
	storagetest.AnyEngine(t)
	const shared = "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF"
	h := newHouse(t)
	d := h.enrolled(t, mdmtest.Options{Model: mdmtest.IPad, Supervised: true})
	poll := func(account string) mdmtest.Prepared {
		body, err := mdmtest.MarshalPlist(changed(d.IDs(), mdmtest.Dict{"UserID": shared, "UserShortName": account, "UserLongName": "x", "Status": "Idle"}))
		must(t, err)
		return raw(t, d, string(body))
	}
	h.wantStatus(t, "a poll before the TokenUpdate", poll("ana@example.com"), 403)
	for _, account := range []string{"ana@example.com", "ben@example.com"} {
		h.wantStatus(t, account, saying(t, d, "TokenUpdate", mdmtest.Dict{"UserID": shared, "UserShortName": account, "PushMagic": "magic of " + account}), 200)
	}
	ana := mdmtest.Dict{"UDID": d.ID(), "UserID": "ana@example.com"}
	h.queue(t, ana, "ProfileList", "ANA")
	if got, body := h.send(t, poll("ben@example.com")); got != http.StatusOK || body != "" {
		t.Errorf("the other user's poll: %d %q, want nothing to do", got, body)
	}
	if got, body := h.send(t, poll("ana@example.com")); got != http.StatusOK || !strings.Contains(body, "ANA") {
		t.Errorf("the user's poll: %d %q, want the command", got, body)
	}
	h.wantStatus(t, "a user without an account", saying(t, d, "TokenUpdate", mdmtest.Dict{"UserID": shared}), 400)
	if a, b := h.record(t, ana), h.record(t, changed(ana, mdmtest.Dict{"UserID": "ben@example.com"})); a.Push.Magic == b.Push.Magic || a.ParentID != b.ParentID {
		t.Errorf("the users are %+v and %+v", a, b)
	}
	if got := idle(t, d.Channel()); got != "" {
		t.Errorf("the device gets %q, want nothing", got)
	}
}
