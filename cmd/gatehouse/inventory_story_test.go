package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/mdm/mdmtest"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest/postgrestest"
)

// park is a fleet of mixed devices with the server that manages it, a process, and what the
// devices have done for it.
type park struct {
	*serverProcess                // that is asked
	victim         *serverProcess // that is killed

	fleet *mdmtest.Fleet
	way   *mortal

	devices []*mdmtest.Device // of fleet
	ids     []string          // what the server calls them
	at      map[string]int    // where they are in ids

	mu   sync.Mutex
	done []map[string]int // by device: how often each command was carried out, see carried
}

// stubborn is the conduct of devices that refuse every profile.
var stubborn = mdmtest.Conduct{Fails: []string{"InstallProfile"}}

// newPark makes n devices of all sorts: a phone in three is its user's, who has signed in on
// it, as have those of some iPads and Macs, which are the organisation's. About half of
// them do not do at once what they are asked.
func newPark(t testing.TB, n int, s, victim *serverProcess, reach string) *park {
	t.Helper()
	p := &park{serverProcess: s, victim: victim, way: &mortal{RoundTripper: s.http.Transport}, done: make([]map[string]int, n)}
	// By the clock nobody is asked anything: it would go by another one at each run.
	s.api(t, "PATCH", "/settings", map[string]any{"inventory": map[string]any{"enabled": false}}, nil)
	s.api(t, "POST", "/users", map[string]any{"email": anaEmail, "password": anaPassword, "managed_apple_account": "ana@apple.example.com"}, nil)
	s.api(t, "PUT", "/account-driven", map[string]any{
		"domains": []map[string]any{{"domain": "example.com", "policy": map[string]any{"iPhone": "byod", "iPad": "adde", "Mac": "adde"}}},
	}, nil)
	signsIn := func(i int, m mdmtest.Model) bool {
		return i%3 == 0 && (m == mdmtest.IPhone || m == mdmtest.IPad || m == mdmtest.Mac)
	}
	deal := mdmtest.MixedKinds("park")
	ana := &mdmtest.Browser{Login: anaEmail, Password: anaPassword, KeepCookies: true}
	var err error
	p.fleet, err = mdmtest.NewFleet(mdmtest.FleetOptions{
		N: n, Seed: "park", ProfileURL: s.link(t, 10*n), PlainHTTP: true, Transport: p.way, Log: slog.New(slog.DiscardHandler),
		Kind: func(i int) mdmtest.Kind {
			k := deal(i)
			if signsIn(i, k.Model) && k.Model == mdmtest.IPhone {
				k.Supervised, k.ADE = false, false // nobody's but the user's
			}
			if isStubborn(i) {
				k.Conduct = stubborn
			}
			return k
		},
		Account: func(i int, m mdmtest.Model) *mdmtest.Account {
			if !signsIn(i, m) {
				return nil
			}
			return &mdmtest.Account{Identifier: anaEmail, Person: ana, Reach: func(string) string { return reach }}
		},
		Customize: func(i int, o *mdmtest.Options) { o.Handler = p.carryOut(i) },
	})
	must(t, err)
	p.devices = p.fleet.Devices()
	t.Cleanup(p.fleet.Close)
	return p
}

// carryOut lets the i-th device do what it was asked, and keeps that it did.
func (p *park) carryOut(i int) mdmtest.Handler {
	return func(_ context.Context, c *mdmtest.Channel, cmd *mdmtest.Command, own func() mdmtest.Result) mdmtest.Result {
		r := own()
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.done[i] == nil {
			p.done[i] = make(map[string]int)
		}
		p.done[i][carried(cmd.UUID, c.User() != nil)]++
		return r
	}
}

// carried is how done names a command, which may go to a device and to the user of it.
func carried(uuid string, user bool) string {
	if user {
		return uuid + " of its user"
	}
	return uuid
}

// mortal is the way to a server that is killed when it has been asked often enough.
type mortal struct {
	http.RoundTripper
	left atomic.Int64
	die  atomic.Pointer[chan struct{}]
}

func (m *mortal) RoundTrip(r *http.Request) (*http.Response, error) {
	if m.left.Add(-1) == 0 {
		close(*m.die.Load())
	}
	return m.RoundTripper.RoundTrip(r)
}

// whileItIsKilled kills the server at the n-th request from now that do causes, and starts it
// again when do has ended.
func (p *park) whileItIsKilled(t testing.TB, n int64, do func()) {
	t.Helper()
	die, over := make(chan struct{}), make(chan struct{})
	p.way.die.Store(&die)
	p.way.left.Store(n)
	go func() { defer close(over); do() }()
	select {
	case <-die:
	case <-over:
		t.Fatal("all was over before the server was killed")
	}
	p.victim.kill(t)
	<-over
	p.noErrors(t)
	p.victim.start(t)
}

// noErrors fails the test if the server has logged an error.
func (p *park) noErrors(t testing.TB) {
	t.Helper()
	if text := p.victim.out.String(); strings.Contains(text, "level=ERROR") || strings.Contains(text, `"level":"ERROR"`) {
		t.Errorf("the server has logged errors:\n%.4000s", text)
	}
}

// settle wakes the devices for which the server has something, as its pushes would, until
// there is nothing left to do. Those that have said NotNow, or were cut off, come back by
// themselves.
func (p *park) settle(t testing.TB) {
	t.Helper()
	for range 40 {
		woken := 0
		pagesOf(t, p.serverProcess, "/devices?state=enrolled", func(item apiDevice) {
			if item.PendingCommands == 0 {
				return
			}
			c := p.devices[p.at[cmp.Or(item.ParentID, item.ID)]].Channel()
			if item.ParentID != "" {
				c = p.devices[p.at[item.ParentID]].User()
			}
			if !p.fleet.Wake(c.Push()) {
				t.Errorf("%s has no device", item.ID)
			}
			woken++
		})
		did := p.step(t)
		if woken+did.Answered+did.Waiting+did.Away == 0 {
			return
		}
	}
	t.Fatal("the devices still have something to do after 40 rounds")
}

func (p *park) step(t testing.TB) mdmtest.Progress {
	t.Helper()
	did := p.fleet.StepWoken(t.Context())
	must(t, errors.Join(did.Wrong...))
	return did
}

// personal says that a device is its user's, and the server may not know all of it.
func personal(d *mdmtest.Device) bool { return d.IDs()["EnrollmentID"] != nil }

// pagesOf calls each with all elements of a list.
func pagesOf[T any](t testing.TB, s *serverProcess, path string, each func(T)) {
	t.Helper()
	mark := "?"
	if strings.Contains(path, "?") {
		mark = "&"
	}
	for cursor := ""; ; {
		var page struct {
			Items      []T
			NextCursor string `json:"next_cursor"`
		}
		s.api(t, "GET", path+mark+"limit=1000&cursor="+url.QueryEscape(cursor), nil, &page)
		for _, item := range page.Items {
			each(item)
		}
		if cursor = page.NextCursor; cursor == "" {
			return
		}
	}
}

// learnIDs asks the server what it calls the devices.
func (p *park) learnIDs(t testing.TB) {
	t.Helper()
	ids := make(map[string]string)
	pagesOf(t, p.serverProcess, "/devices?state=enrolled", func(item apiDevice) {
		apple := item.EnrollmentID + said(item.UDID)
		switch {
		case item.ParentID != "": // a user of a Mac
		case ids[apple] != "":
			t.Errorf("%s and %s are the same device", ids[apple], item.ID)
		default:
			ids[apple] = item.ID
		}
	})
	p.ids, p.at = make([]string, len(p.devices)), make(map[string]int)
	for i, d := range p.devices {
		if p.ids[i] = ids[d.ID()]; p.ids[i] == "" {
			t.Fatalf("the server does not know %s", d.Options().Name)
		}
		p.at[p.ids[i]] = i
	}
	if len(ids) != len(p.ids) {
		t.Errorf("the server knows %d devices, want %d", len(ids), len(p.ids))
	}
}

// chosen are the IDs of the devices that are wanted.
func (p *park) chosen(wanted func(i int) bool) []string {
	var ids []string
	for i, id := range p.ids {
		if wanted(i) {
			ids = append(ids, id)
		}
	}
	return ids
}

func all(int) bool { return true }

// enroll goes on until all devices are enrolled.
func (p *park) enroll(t testing.TB) {
	t.Helper()
	var err error
	for range 5 {
		if err = p.fleet.Enroll(t.Context()); err == nil {
			return
		}
	}
	t.Fatal(err)
}

// refreshedItem is what the API says of a device that is asked about itself.
type refreshedItem struct {
	DeviceID        string `json:"device_id"`
	Code            string
	Queued, Waiting []struct{ Source string }
	LeftOut         []struct{ Source, Code, Reason string } `json:"left_out"`
}

// refresh asks devices what they have to say of themselves, and returns what of it.
func (p *park) refresh(t testing.TB, wanted func(i int) bool, sources ...string) map[int][]string {
	t.Helper()
	ids := p.chosen(wanted)
	var answer struct{ Items []refreshedItem }
	p.api(t, "POST", "/inventory/refresh", map[string]any{"device_ids": ids, "sources": sources}, &answer)
	if len(answer.Items) != len(ids) {
		t.Fatalf("%d devices are to be refreshed, and %d are", len(ids), len(answer.Items))
	}
	asked := make(map[int][]string)
	for _, o := range answer.Items {
		i := p.at[o.DeviceID]
		for _, q := range slices.Concat(o.Queued, o.Waiting) {
			asked[i] = append(asked[i], q.Source)
		}
		for _, no := range o.LeftOut {
			if no.Code == "" || no.Reason == "" {
				t.Errorf("%s is not asked for its %s, and nobody knows why", p.devices[i].Options().Name, no.Source)
			}
		}
		if o.Code != "" || len(asked[i]) == 0 {
			t.Errorf("%s is not refreshed: %+v", p.devices[i].Options().Name, o)
		}
	}
	return asked
}

// sourceItem is what the API says of one answer of a device.
type sourceItem struct {
	Source     string
	AnsweredAt *time.Time `json:"answered_at"`
	Failure    *struct{ Code, Reason string }
	Waiting    *struct{ State string }
	Facts      []struct {
		Path  string
		Value any
	}
}

// wantInventory holds what the server knows of each device against what it was asked, is, and
// may tell. Those that fail have told nothing in an answer of that source.
func (p *park) wantInventory(t testing.TB, wanted func(i int) bool, asked map[int][]string, fails func(i int, source string) bool) {
	t.Helper()
	inParallel(t, benchClients, len(p.devices), func(i int) error {
		if !wanted(i) {
			return nil
		}
		d := p.devices[i]
		o, path := d.Options(), "/devices/"+p.ids[i]
		var raw json.RawMessage
		if err := p.call("GET", path+"/inventory", nil, &raw); err != nil {
			return err
		}
		var inventory struct {
			ManagedOnly bool `json:"managed_only"`
			Sources     []sourceItem
		}
		if err := json.Unmarshal(raw, &inventory); err != nil {
			return err
		}
		facts := make(map[string]any)
		for _, s := range inventory.Sources {
			asked := slices.Contains(asked[i], s.Source)
			switch failed := fails(i, s.Source); {
			case s.Waiting != nil:
				t.Errorf("%s: its %s is still %s", o.Name, s.Source, s.Waiting.State)
			case failed != (s.Failure != nil) || failed && s.Failure.Reason == "":
				t.Errorf("%s: its %s has failed with %+v, want a failure: %t", o.Name, s.Source, s.Failure, failed)
			case asked && !failed && s.AnsweredAt == nil || !asked && s.AnsweredAt != nil:
				t.Errorf("%s: its %s was asked for: %t, and answered at %v", o.Name, s.Source, asked, s.AnsweredAt)
			}
			for _, f := range s.Facts {
				facts[f.Path] = f.Value
			}
		}
		if !personal(d) {
			if facts["SerialNumber"] != o.Serial || facts["OSVersion"] != o.OSVersion || facts["DeviceName"] != o.Name {
				t.Errorf("%s, %s with %s is %v, %v with %v", o.Name, o.Serial, o.OSVersion, facts["DeviceName"], facts["SerialNumber"], facts["OSVersion"])
			}
			return nil
		}
		if facts["OSVersion"] != o.OSVersion || !inventory.ManagedOnly {
			t.Errorf("%s, of a person, has %v, and all of its lists are known: %t", o.Name, facts["OSVersion"], !inventory.ManagedOnly)
		}
		told := string(raw)
		for _, part := range []string{"", "/apps", "/installed-profiles", "/history", "/commands"} {
			if err := p.call("GET", path+part, nil, &raw); err != nil {
				return err
			}
			told += string(raw)
		}
		for _, private := range []string{o.Serial, o.UDID, "com.apple.Pages", "com.example.notes", "IMEI", "+15555550100", "02:00:00:aa:bb"} {
			if strings.Contains(told, private) {
				t.Errorf("%s is a person's own, and the server tells of it %s", o.Name, private)
			}
		}
		return nil
	})
}

// officeIdentifier is that of office.
const officeIdentifier = "com.example.office"

// office is a profile of which phones of their users' own may not have all, and in which each
// device has something of its own.
const office = `<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">
<plist version="1.0"><dict><key>PayloadType</key><string>Configuration</string><key>PayloadVersion</key><integer>1</integer>
<key>PayloadIdentifier</key><string>com.example.office</string><key>PayloadUUID</key><string>6A0CF4B8-5C3E-4C39-9B93-6A4F3F0A8B10</string>
<key>PayloadDisplayName</key><string>Office</string><key>PayloadContent</key><array>
<dict><key>PayloadType</key><string>com.apple.applicationaccess</string><key>PayloadVersion</key><integer>1</integer>
<key>PayloadIdentifier</key><string>com.example.office.limits</string><key>PayloadUUID</key><string>6A0CF4B8-5C3E-4C39-9B93-6A4F3F0A8B11</string>
<key>PayloadDescription</key><string>for $DEVICE_ID</string><key>allowDiagnosticSubmission</key><false/></dict>
<dict><key>PayloadType</key><string>com.apple.vpn.managed</string><key>PayloadVersion</key><integer>1</integer>
<key>PayloadIdentifier</key><string>com.example.office.vpn</string><key>PayloadUUID</key><string>6A0CF4B8-5C3E-4C39-9B93-6A4F3F0A8B12</string>
<key>UserDefinedName</key><string>Office</string><key>VPNType</key><string>IKEv2</string><key>IKEv2</key><dict>
<key>RemoteAddress</key><string>vpn.example.com</string><key>RemoteIdentifier</key><string>vpn.example.com</string>
<key>LocalIdentifier</key><string>$DEVICE_ID@example.com</string><key>AuthenticationMethod</key><string>None</string></dict></dict>
</array></dict></plist>`

// sentProfileItem is what the API says of a profile that was sent.
type sentProfileItem struct {
	BatchID      string   `json:"batch_id"`
	CommandUUIDs []string `json:"command_uuids"`
	Devices      []struct {
		DeviceID    string `json:"device_id"`
		CommandUUID string `json:"command_uuid"`
		Reduced     bool
	}
	Rejected []any
}

// sendOffice uploads the profile, sees that what the server says before it is what the devices
// would do, and sends them as much of it as each may have.
func (p *park) sendOffice(t testing.TB) (profile string, sent sentProfileItem) {
	t.Helper()
	var added struct {
		ID       string
		Findings []struct{ Severity, Reason string }
	}
	p.api(t, "POST", "/profiles", []byte(office), &added)
	for _, f := range added.Findings {
		if f.Severity == "error" {
			t.Errorf("the profile has a mistake: %s", f.Reason)
		}
	}
	refuse := p.chosen(func(i int) bool {
		_, err := p.devices[i].Configuration([]byte(office))
		if (err != nil) != personal(p.devices[i]) {
			t.Errorf("%s says to the profile: %v", p.devices[i].Options().Name, err)
		}
		return err != nil
	})
	var check struct {
		Summary  string
		Verdicts []struct {
			DeviceIDs []string `json:"device_ids"`
			LeftOut   []struct {
				PayloadType string `json:"payload_type"`
			} `json:"left_out"`
		}
	}
	p.api(t, "POST", "/profiles/"+added.ID+"/check", map[string]any{"device_ids": p.ids}, &check)
	want := fmt.Sprintf("%d of %d devices would reject this: com.apple.vpn.managed. %[1]d would take a part of it.", len(refuse), len(p.ids))
	if check.Summary != want {
		t.Errorf("the server says %q, want %q", check.Summary, want)
	}
	var named []string
	for _, v := range check.Verdicts {
		named = append(named, v.DeviceIDs...)
		if len(v.LeftOut) != 1 || v.LeftOut[0].PayloadType != "com.apple.vpn.managed" {
			t.Errorf("what %d devices would have to do without is %v", len(v.DeviceIDs), v.LeftOut)
		}
	}
	slices.Sort(named)
	if slices.Sort(refuse); !slices.Equal(named, refuse) {
		t.Errorf("the server says that %d devices would reject the profile, and %d others do", len(named), len(refuse))
	}
	p.api(t, "POST", "/profiles/"+added.ID+"/send", map[string]any{"device_ids": p.ids, "reduce": true}, &sent)
	if len(sent.Devices) != len(p.ids) || len(sent.CommandUUIDs) != 2 || len(sent.Rejected) != 0 {
		t.Fatalf("sent to %d devices by %v, rejected %v", len(sent.Devices), sent.CommandUUIDs, sent.Rejected)
	}
	return added.ID, sent
}

// installationItem is what the API says of a profile on a device.
type installationItem struct {
	DeviceID         string `json:"device_id"`
	State            string
	InstalledVersion *int `json:"installed_version"`
	Reduced          bool
	Reason           string
	CommandUUID      string `json:"command_uuid"`
}

func (p *park) installations(t testing.TB, profile, query string) map[int]installationItem {
	t.Helper()
	list := make(map[int]installationItem)
	pagesOf(t, p.serverProcess, "/profiles/"+profile+"/devices"+query, func(in installationItem) { list[p.at[in.DeviceID]] = in })
	return list
}

// isStubborn says that the i-th device refuses every profile.
func isStubborn(i int) bool { return i%25 == 7 }

// wantOffice holds what the server says of the profile, of the commands that brought it, and of
// their batch, against what the devices have.
func (p *park) wantOffice(t testing.TB, profile string, sent sentProfileItem) {
	t.Helper()
	list := p.installations(t, profile, "")
	installed := 0
	for i, d := range p.devices {
		got, on, o := list[i], d.Installed(officeIdentifier), d.Options()
		if isStubborn(i) {
			if on != nil || got.State != "failed" || got.Reason == "" || got.InstalledVersion != nil {
				t.Errorf("%s, which refuses profiles: %+v", o.Name, got)
			}
			continue
		}
		installed++
		if got.State != "installed" || got.InstalledVersion == nil || *got.InstalledVersion != 1 || got.Reduced != personal(d) {
			t.Errorf("%s: %+v, want the profile installed", o.Name, got)
		}
		payloads := 2
		if personal(d) {
			payloads = 1
		}
		if on == nil || len(on.Payloads) != payloads || on.Payloads[0]["PayloadDescription"] != "for "+p.ids[i] {
			t.Errorf("%s has %+v, want its own profile of %d payloads", o.Name, on, payloads)
		}
	}
	// A profile that came twice would have been installed twice.
	if stats := p.fleet.Stats(); stats.Installs != int64(installed) || stats.Profiles != int64(installed) {
		t.Errorf("the devices have installed %d profiles and have %d, want %d", stats.Installs, stats.Profiles, installed)
	}
	var batch struct {
		Progress struct{ Acknowledged, Error, Total int }
	}
	p.api(t, "GET", "/batches/"+sent.BatchID, nil, &batch)
	if got := batch.Progress; got.Acknowledged != installed || got.Error != len(p.ids)-installed || got.Total != len(p.ids) {
		t.Errorf("the batch is at %+v, want %d of %d acknowledged and the others failed", got, installed, len(p.ids))
	}
	states := make(map[string]int)
	for _, uuid := range sent.CommandUUIDs {
		var c struct{ Devices []struct{ State string } }
		p.api(t, "GET", "/commands/"+uuid, nil, &c)
		for _, e := range c.Devices {
			states[e.State]++
		}
	}
	if want := map[string]int{"acknowledged": installed, "error": len(p.ids) - installed}; !maps.Equal(states, want) {
		t.Errorf("the commands are %v, want %v", states, want)
	}
}

// wantNothingLostNorDoubled holds what the server says of all commands against what each device
// has carried out.
func (p *park) wantNothingLostNorDoubled(t testing.TB) {
	t.Helper()
	ofUsers := make(map[string][]string) // the channels of a Mac's users, by its ID
	pagesOf(t, p.serverProcess, "/devices?state=enrolled", func(item apiDevice) {
		if item.ParentID != "" {
			ofUsers[item.ParentID] = append(ofUsers[item.ParentID], item.ID)
		}
	})
	inParallel(t, benchClients, len(p.devices), func(i int) error {
		name, acknowledged := p.devices[i].Options().Name, make(map[string]int)
		for _, id := range append(ofUsers[p.ids[i]], p.ids[i]) {
			var page struct {
				Items []struct {
					CommandUUID string `json:"command_uuid"`
					RequestType string `json:"request_type"`
					State       string
				}
				NextCursor string `json:"next_cursor"`
			}
			if err := p.call("GET", "/devices/"+id+"/commands?limit=1000", nil, &page); err != nil {
				return err
			}
			for _, c := range page.Items {
				what := carried(c.CommandUUID, id != p.ids[i])
				switch c.State {
				case "acknowledged":
					acknowledged[what] = 1
				case "error":
					if n := p.done[i][what]; n != 0 {
						t.Errorf("%s has carried out %s, which the server holds for failed, %d times", name, c.RequestType, n)
					}
				default:
					t.Errorf("%s: %s is still %s", name, c.RequestType, c.State)
				}
			}
		}
		if !maps.Equal(p.done[i], acknowledged) {
			t.Errorf("%s has carried out %v, and the server knows of %v", name, p.done[i], acknowledged)
		}
		return nil
	})
}

// TestAThousandDevices leads devices of all sorts through their enrollment, their inventory
// and a profile that not all of them may have, past a server that is killed in the midst of
// each. Then people take the profile off some.
func TestAThousandDevices(t *testing.T) {
	if testing.Short() {
		t.Skip("has many devices")
	}
	storagetest.AnyEngine(t)
	t.Parallel()
	n := 1000
	if underRaceDetector() { // which doubles what devices cost; make test runs all of them without
		n = 150
	}
	s := startProcess(t, "")
	newPark(t, n, s, s, s.url).live(t)
}

func underRaceDetector() bool {
	info, ok := debug.ReadBuildInfo()
	return ok && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"})
}

// TestManyDevicesOfTwoReplicas is the same with fewer devices, whose requests go to two
// replicas by turns. One of them is killed.
func TestManyDevicesOfTwoReplicas(t *testing.T) {
	if testing.Short() {
		t.Skip("has many devices")
	}
	storagetest.AnyEngine(t)
	t.Parallel()
	rs := startReplicas(t, postgrestest.DSN(t), 2)
	newPark(t, 150, rs.client(rs.turns(surely, nil)), rs[0], replicaURL).live(t)
}

// live is the life of the devices.
func (p *park) live(t *testing.T) {
	n := len(p.devices)
	p.whileItIsKilled(t, int64(2*n), func() { _ = p.fleet.Enroll(t.Context()) })
	p.enroll(t)
	p.learnIDs(t)

	asked := p.refresh(t, all)
	p.whileItIsKilled(t, int64(3*n), func() { p.fleet.Step(t.Context()) })
	p.settle(t)
	// Some have failed to say what their security is like, and do so when they are asked again.
	failing := func(i int) bool {
		return !isStubborn(i) && slices.Contains(p.devices[i].Options().Conduct.Fails, "SecurityInfo") && slices.Contains(asked[i], "SecurityInfo")
	}
	p.wantInventory(t, all, asked, func(i int, source string) bool { return source == "SecurityInfo" && failing(i) })
	p.refresh(t, failing, "SecurityInfo")
	p.settle(t)
	p.wantInventory(t, failing, asked, func(int, string) bool { return false })

	profile, sent := p.sendOffice(t)
	p.whileItIsKilled(t, int64(n), func() { p.fleet.Step(t.Context()) })
	delivered, unsaid := p.installations(t, profile, "?state=sent"), 0
	for _, d := range p.devices {
		unsaid += len(d.Channel().Pending())
	}
	if len(delivered) == 0 || len(delivered) == n || unsaid == 0 {
		t.Errorf("when the server died, the profile was on its way to %d devices, and %d answers were not taken", len(delivered), unsaid)
	}
	p.settle(t)
	p.wantOffice(t, profile, sent)

	removed := func(i int) bool { return i%20 == 0 && !isStubborn(i) }
	for i, d := range p.devices {
		if removed(i) {
			must(t, d.RemoveProfileByHand(t.Context(), officeIdentifier))
		}
	}
	seen := func(i int) bool { return i%10 == 0 }
	p.refresh(t, seen, "ProfileList")
	p.settle(t)
	for i, in := range p.installations(t, profile, "") {
		if drifted := in.State == "drifted"; drifted != removed(i) || drifted && in.Reason == "" {
			t.Errorf("%s, from which a person has taken the profile: %t, is %+v", p.devices[i].Options().Name, removed(i), in)
		}
	}
	p.wantNothingLostNorDoubled(t)
	p.noErrors(t)
}
