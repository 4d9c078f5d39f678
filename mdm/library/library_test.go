package library_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/command"
	"github.com/gatehouse-mdm/gatehouse/mdm/library"
	"github.com/gatehouse-mdm/gatehouse/mdm/profile"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/guard"
	"github.com/gatehouse-mdm/gatehouse/storage/seal"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// house is a library on a store of its own, with devices that answer by hand and a clock
// that the test moves. Its signature is a text in front of the profile.
type house struct {
	*library.Service
	mdm    *mdm.Service
	db     storage.DB
	now    time.Time
	people *people
}

const signature = "<!-- signed -->"

func newHouse(t testing.TB) *house {
	t.Helper()
	box, err := seal.New(make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	h := &house{db: storagetest.Open(t), now: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC), people: &people{brings: make(map[mdm.DeviceID][]string)}}
	now := func() time.Time { return h.now }
	sign := func(p []byte) ([]byte, error) { return append(bytes.Clone(p), signature...), nil }
	if h.mdm, err = mdm.New(mdm.Config{DB: h.db, Box: box, Log: slog.New(slog.DiscardHandler), Now: now, Sign: sign}); err != nil {
		t.Fatal(err)
	}
	h.Service, err = library.New(library.Config{
		DB: h.db, Box: box, MDM: h.mdm, Sign: sign, Log: slog.New(slog.DiscardHandler), Now: now,
		People:   h.people,
		Reserved: func(identifier string) bool { return identifier == "com.example.enrollment" },
	})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// people know devices by their own records, and of certificate templates only "wifi".
type people struct {
	brings map[mdm.DeviceID][]string // what Carries said last
	before func()                    // is called once, before values are returned for good
}

func (*people) Known(name string) bool { return name == "EMAIL" || name == "SERIALNUMBER" }

func (p *people) Values(_ storage.Tx, d mdm.Device, w library.Wanted) (mdm.Values, error) {
	if f := p.before; f != nil {
		p.before = nil
		f()
	}
	v := mdm.Values{Variables: map[string]string{}}
	for _, name := range w.Variables {
		value := map[string]string{"EMAIL": d.User, "SERIALNUMBER": d.SerialNumber}[name]
		if value == "" {
			return v, &command.Refusal{Code: "value_missing", Reason: "$" + name + " is empty for this device."}
		}
		v.Variables[name] = value
	}
	for _, name := range w.Certificates {
		if name != "wifi" {
			return v, &command.Refusal{Code: "certificate_template", Reason: "There is no certificate template " + name + "."}
		}
		v.Certificates = map[string]map[string]any{name: {"URL": "https://example.com/scep"}}
	}
	return v, nil
}

func (p *people) Carries(_ storage.Tx, id mdm.DeviceID, _ string, certificates []string) error {
	p.brings[id] = certificates
	return nil
}

// device puts an enrolled iPhone of Ana's.
func (h *house) device(t testing.TB, id string, change ...func(*mdm.Device)) mdm.DeviceID {
	t.Helper()
	d := mdm.Device{
		ID: mdm.DeviceID(id), Type: mdm.TypeDevice, State: mdm.Enrolled, AppleID: mdm.AppleID{UDID: "UDID-" + id},
		AccessRights: 8191, User: "ana@example.com",
		Facts: mdm.Facts{ProductName: "iPhone17,2", OSVersion: "18.2", SerialNumber: "C02" + id, Supervised: new(bool), SharedIPad: new(bool)},
	}
	for _, c := range change {
		c(&d)
	}
	if err := h.db.Update(context.Background(), func(tx storage.Tx) error { return mdm.PutDevice(tx, d) }); err != nil {
		t.Fatal(err)
	}
	return d.ID
}

func userEnrolled(d *mdm.Device) {
	d.Type, d.AppleID, d.AccessRights = mdm.TypeUser, mdm.AppleID{EnrollmentID: "E-" + string(d.ID)}, 0
}

// sent is what a device was sent.
type sent struct {
	Command struct {
		RequestType string
		Payload     []byte
		Identifier  string
	}
	CommandUUID string
}

// profile is the profile in s, which must be signed by the house.
func (s sent) profile(t testing.TB) *profile.Profile {
	t.Helper()
	xml, ok := bytes.CutSuffix(s.Command.Payload, []byte(signature))
	if !ok {
		t.Fatalf("the profile is not signed: %s", s.Command.Payload)
	}
	p, err := profile.Parse(xml)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// next has a device fetch its next command; nil if there is none.
func (h *house) next(t testing.TB, id mdm.DeviceID) *sent {
	t.Helper()
	var d *mdm.Delivery
	err := h.db.Update(context.Background(), func(tx storage.Tx) error {
		d = nil
		e, err := h.mdm.Head(tx, id, false)
		if err != nil || e == nil {
			return err
		}
		d, err = h.mdm.Deliver(tx, e)
		return err
	})
	if err != nil || d == nil {
		if err != nil {
			t.Fatal(err)
		}
		return nil
	}
	plist, err := h.mdm.Plist(d)
	if err != nil {
		t.Fatal(err)
	}
	s := new(sent)
	if err := guard.DecodePlist(plist, s, guard.PlistLimits{Bytes: command.MaxRaw}); err != nil {
		t.Fatal(err)
	}
	return s
}

// answer has a device answer a command.
func (h *house) answer(t testing.TB, id mdm.DeviceID, uuid string, state mdm.CommandState, result string) {
	t.Helper()
	r := mdm.Report{CommandUUID: uuid, State: state}
	if result != "" {
		r.Result = json.RawMessage(result)
	}
	if state == mdm.Failed {
		r.ErrorChain = []command.ChainedError{{ErrorCode: 4001, ErrorDomain: "MCInstallationErrorDomain", USEnglishDescription: "Profile Installation Failed"}}
	}
	err := h.db.Update(context.Background(), func(tx storage.Tx) error {
		e, err := h.mdm.Record(tx, id, r)
		if err == nil && e == nil {
			err = errors.New("nobody waits for the answer")
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// does has a device fetch its next command and answer it, and returns that.
func (h *house) does(t testing.TB, id mdm.DeviceID, state mdm.CommandState) *sent {
	t.Helper()
	s := h.next(t, id)
	if s == nil {
		t.Fatalf("nothing waits for %s", id)
	}
	h.answer(t, id, s.CommandUUID, state, "")
	return s
}

// tells has a device say which profiles it has: PayloadUUIDs by PayloadIdentifiers.
func (h *house) tells(t testing.TB, id mdm.DeviceID, uuids map[string]string) {
	t.Helper()
	uuid := mdm.NewUUID()
	plist, err := command.Build("ProfileList", nil, uuid)
	if err != nil {
		t.Fatal(err)
	}
	if _, no, err := h.mdm.Enqueue(context.Background(), mdm.NewCommand{UUID: uuid, RequestType: "ProfileList", Plist: plist, Targets: []mdm.DeviceID{id}}); err != nil || len(no) > 0 {
		t.Fatal(no, err)
	}
	list := []map[string]any{}
	for identifier, uuid := range uuids {
		list = append(list, map[string]any{"PayloadIdentifier": identifier, "PayloadUUID": uuid})
	}
	b, err := json.Marshal(map[string]any{"ProfileList": list})
	if err != nil {
		t.Fatal(err)
	}
	for {
		s := h.next(t, id)
		if s == nil {
			t.Fatal("ProfileList does not arrive")
		}
		if s.CommandUUID == uuid {
			break
		}
		h.answer(t, id, s.CommandUUID, mdm.Acknowledged, "")
	}
	h.answer(t, id, uuid, mdm.Acknowledged, string(b))
}

// state returns how a profile stands on a device.
func (h *house) state(t testing.TB, id mdm.DeviceID, of string) library.Installation {
	t.Helper()
	all, err := h.OnDevice(context.Background(), id)
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range all {
		if o.ID == of {
			return o.Installation
		}
	}
	return library.Installation{}
}

const passcode = `<dict><key>PayloadType</key><string>com.apple.mobiledevice.passwordpolicy</string><key>PayloadVersion</key><integer>1</integer>
<key>PayloadIdentifier</key><string>com.example.%[1]s.passcode</string><key>PayloadUUID</key><string>6A0CF4B8-5C3E-4C39-9B93-6A4F3F0A8B01</string>
<key>forcePIN</key><true/><key>minLength</key><integer>%[2]d</integer></dict>`

const clip = `<dict><key>PayloadType</key><string>com.apple.webClip.managed</string><key>PayloadVersion</key><integer>1</integer>
<key>PayloadIdentifier</key><string>com.example.clip</string><key>PayloadUUID</key><string>6A0CF4B8-5C3E-4C39-9B93-6A4F3F0A8B02</string>
<key>Label</key><string>%[1]s</string><key>URL</key><string>https://example.com/</string></dict>`

// vpn is what iOS refuses in a User Enrollment.
const vpn = `<dict><key>PayloadType</key><string>com.apple.vpn.managed</string><key>PayloadVersion</key><integer>1</integer>
<key>PayloadIdentifier</key><string>com.example.vpn</string><key>PayloadUUID</key><string>6A0CF4B8-5C3E-4C39-9B93-6A4F3F0A8B03</string>
<key>UserDefinedName</key><string>Office</string><key>VPNType</key><string>IKEv2</string><key>IKEv2</key><dict>
<key>RemoteAddress</key><string>vpn.example.com</string><key>LocalIdentifier</key><string>a</string><key>RemoteIdentifier</key><string>b</string><key>AuthenticationMethod</key><string>None</string></dict></dict>`

func mobileconfig(identifier string, payloads ...string) []byte {
	return fmt.Appendf(nil, `<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">
<plist version="1.0"><dict><key>PayloadType</key><string>Configuration</string><key>PayloadVersion</key><integer>1</integer>
<key>PayloadIdentifier</key><string>%s</string><key>PayloadUUID</key><string>6A0CF4B8-5C3E-4C39-9B93-6A4F3F0A8B00</string>
<key>PayloadDisplayName</key><string>Name of %[1]s</string><key>PayloadContent</key><array>%s</array></dict></plist>`, identifier, strings.Join(payloads, ""))
}

// add keeps a profile and returns what came of it.
func (h *house) add(t testing.TB, identifier string, payloads ...string) library.Added {
	t.Helper()
	a, err := h.Add(context.Background(), library.Upload{Data: mobileconfig(identifier, payloads...), By: "ana"})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// send sends a profile to devices that must all get it.
func (h *house) send(t testing.TB, id string, to ...mdm.DeviceID) library.Sending {
	t.Helper()
	out, err := h.Send(context.Background(), library.Order{Profile: id, Targets: library.Targets{Devices: to}, By: "ana"})
	if err != nil || len(out.Rejected) > 0 || len(out.Sent) != len(to) {
		t.Fatalf("sent %+v, rejected %+v, %v", out.Sent, out.Rejected, err)
	}
	return out
}

func TestAProfileIsKeptWithItsVersions(t *testing.T) {
	ctx := context.Background()
	h := newHouse(t)
	first := h.add(t, "com.example.a", fmt.Sprintf(passcode, "a", 6))
	if !first.New || first.Version.Number != 1 || first.Profile.Identifier != "com.example.a" || first.Profile.Name != "Name of com.example.a" {
		t.Errorf("added %+v", first)
	}
	again := h.add(t, "com.example.a", fmt.Sprintf(passcode, "a", 6))
	if again.New || again.Version.Number != 1 || again.Profile.ID != first.Profile.ID {
		t.Errorf("the same again: %+v, want no other version", again)
	}
	second := h.add(t, "com.example.a", fmt.Sprintf(passcode, "a", 8))
	if !second.New || second.Version.Number != 2 || second.Profile.ID != first.Profile.ID || second.Version.UUID == first.Version.UUID {
		t.Errorf("another content: %+v, want version 2", second)
	}
	if _, err := h.AddVersion(ctx, first.Profile.ID, library.Upload{Data: mobileconfig("com.example.b")}); !errors.Is(err, library.ErrOtherIdentifier) {
		t.Errorf("another profile as a version: %v", err)
	}
	all, err := h.Versions(ctx, first.Profile.ID)
	if err != nil || len(all) != 2 || all[0].Number != 2 || !slices.Equal(all[0].PayloadTypes, []string{"com.apple.mobiledevice.passwordpolicy"}) {
		t.Errorf("versions %+v, %v", all, err)
	}
	for number, want := range map[int]int64{1: 6, 2: 8, 0: 8} {
		v, p, err := h.Content(ctx, first.Profile.ID, number)
		if err != nil || fmt.Sprint(p.Payloads[0].Content["minLength"]) != fmt.Sprint(want) || p.UUID != v.UUID {
			t.Errorf("version %d: %+v, %v", number, p, err)
		}
	}
	if _, _, err := h.Content(ctx, first.Profile.ID, 3); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("version 3: %v", err)
	}
}

func TestWhatIsNotKept(t *testing.T) {
	h := newHouse(t)
	var field *library.FieldError
	for name, tt := range map[string]struct {
		upload library.Upload
		is     func(error) bool
	}{
		"no profile":               {library.Upload{Data: []byte("<html>")}, func(err error) bool { return errors.Is(err, profile.ErrNotProfile) }},
		"one of the server's":      {library.Upload{Data: mobileconfig("com.example.enrollment")}, func(err error) bool { return errors.Is(err, library.ErrReserved) }},
		"one that nobody can name": {library.Upload{Data: mobileconfig("")}, func(err error) bool { return errors.As(err, &field) && field.Field == "PayloadIdentifier" }},
		"a note too long":          {library.Upload{Data: mobileconfig("a"), Note: strings.Repeat("x", 1001)}, func(err error) bool { return errors.As(err, &field) && field.Field == "note" }},
	} {
		if _, err := h.Add(context.Background(), tt.upload); !tt.is(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if page, _, err := h.Profiles(context.Background(), "", 10); err != nil || len(page) != 0 {
		t.Errorf("kept %+v, %v", page, err)
	}
}

func TestASecretInAProfileIsSealed(t *testing.T) {
	const secret = "correct-horse-battery"
	h := newHouse(t)
	id := h.device(t, "a")
	h.send(t, h.add(t, "com.example.a", fmt.Sprintf(clip, secret)).Profile.ID, id)
	err := h.db.View(context.Background(), func(tx storage.Tx) error {
		for _, bucket := range []string{"profiles", "profile_versions", "profile_contents", "profile_installations", "commands", "command_payloads", "queue", "events"} {
			for item, err := range tx.Scan(bucket, storage.Range{}) {
				if err != nil {
					return err
				}
				if bytes.Contains(item.Value, []byte(secret)) {
					t.Errorf("%s holds it in clear", bucket)
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestAProfileGoesToDevicesAndItsStateIsTheirAnswer(t *testing.T) {
	h := newHouse(t)
	a, b := h.device(t, "a"), h.device(t, "b")
	added := h.add(t, "com.example.a", fmt.Sprintf(passcode, "a", 6))
	id := added.Profile.ID
	h.send(t, id, a, b)
	if got := h.state(t, a, id); got.State != library.Sent || got.Version != 1 || got.Installed != 0 {
		t.Errorf("before its answer: %+v", got)
	}
	if p := h.does(t, a, mdm.Acknowledged).profile(t); p.UUID != added.Version.UUID {
		t.Errorf("the device got UUID %s, want that of the version, %s", p.UUID, added.Version.UUID)
	}
	h.does(t, b, mdm.Failed)
	if got := h.state(t, a, id); got.State != library.Installed || got.Installed != 1 {
		t.Errorf("acknowledged: %+v", got)
	}
	if got := h.state(t, b, id); got.State != library.Failed || !strings.Contains(got.Reason, "4001") {
		t.Errorf("refused: %+v", got)
	}
	sum, err := h.Summary(context.Background(), id)
	if err != nil || sum[library.Installed] != 1 || sum[library.Failed] != 1 {
		t.Errorf("summary %v, %v", sum, err)
	}

	h.add(t, "com.example.a", fmt.Sprintf(passcode, "a", 8))
	h.send(t, id, a)
	h.does(t, a, mdm.Failed)
	if got := h.state(t, a, id); got.State != library.Drifted || got.Installed != 1 || got.Version != 2 {
		t.Errorf("a newer version that was refused: %+v", got)
	}
}

func TestANewerVersionOvertakesOneThatWasNotDelivered(t *testing.T) {
	ctx := context.Background()
	h := newHouse(t)
	a := h.device(t, "a")
	id := h.add(t, "com.example.a", fmt.Sprintf(passcode, "a", 6)).Profile.ID
	old := h.send(t, id, a)
	h.add(t, "com.example.a", fmt.Sprintf(passcode, "a", 8))
	newer := h.send(t, id, a)
	_, entries, err := h.mdm.Command(ctx, old.Sent[0].Command)
	if err != nil || entries[0].State != mdm.Cancelled || entries[0].SupersededBy != newer.Sent[0].Command {
		t.Errorf("the older one is %+v, %v", entries, err)
	}
	if got := h.state(t, a, id); got.State != library.Sent || got.Version != 2 {
		t.Errorf("state %+v, want version 2 on its way", got)
	}
	h.does(t, a, mdm.Acknowledged)
	if got := h.state(t, a, id); got.Installed != 2 || h.next(t, a) != nil {
		t.Errorf("state %+v, want version 2 and nothing left to do", got)
	}
}

func TestEachDeviceGetsItsValues(t *testing.T) {
	ctx := context.Background()
	h := newHouse(t)
	ana := h.device(t, "a", func(d *mdm.Device) { d.User = "ana <ana@example.com> & co" })
	ben := h.device(t, "b", func(d *mdm.Device) { d.User = "ben@example.com" })
	nobody := h.device(t, "c", func(d *mdm.Device) { d.User = "" })
	id := h.add(t, "com.example.a", fmt.Sprintf(clip, "for $EMAIL, ${SERIALNUMBER}; 5$ and $$EMAIL")).Profile.ID
	out, err := h.Send(ctx, library.Order{Profile: id, Targets: library.Targets{Devices: []mdm.DeviceID{ana, ben, nobody, ana}}})
	if err != nil || len(out.Sent) != 2 || len(out.Rejected) != 1 || out.Rejected[0].DeviceID != nobody || out.Rejected[0].Code != "value_missing" {
		t.Fatalf("%+v, %v", out, err)
	}
	for device, want := range map[mdm.DeviceID]string{
		ana: "for ana <ana@example.com> & co, C02a; 5$ and $EMAIL", ben: "for ben@example.com, C02b; 5$ and $EMAIL",
	} {
		if got := h.does(t, device, mdm.Acknowledged).profile(t).Payloads[0].Content["Label"]; got != want {
			t.Errorf("%s got %q, want %q", device, got, want)
		}
	}

	unknown := h.add(t, "com.example.b", fmt.Sprintf(clip, "for $EMIAL"))
	var no *library.VariablesError
	_, err = h.Send(ctx, library.Order{Profile: unknown.Profile.ID, Targets: library.Targets{Devices: []mdm.DeviceID{ana}}})
	if !errors.As(err, &no) || len(no.Findings) != 1 || !strings.Contains(no.Findings[0].Reason, "EMIAL") || h.next(t, ana) != nil {
		t.Errorf("an unknown variable: %v, want it named and nothing sent", err)
	}
	literal, err := h.Add(ctx, library.Upload{Data: mobileconfig("com.example.b", fmt.Sprintf(clip, "for $EMIAL")), Literal: true})
	if err != nil || !literal.New {
		t.Fatalf("%+v, %v", literal, err)
	}
	h.send(t, literal.Profile.ID, ana)
	if got := h.does(t, ana, mdm.Acknowledged).profile(t).Payloads[0].Content["Label"]; got != "for $EMIAL" {
		t.Errorf("a literal profile came as %q", got)
	}
}

func TestDollarSignsComeAsTheyAreMeant(t *testing.T) {
	ctx := context.Background()
	h := newHouse(t)
	a := h.device(t, "a")
	for name, tt := range map[string]struct {
		label   string
		literal bool
		want    string
	}{
		"one that is doubled":                  {"pa$$WORD and 5$", false, "pa$WORD and 5$"},
		"one that is doubled beside variables": {"pa$$WORD of $EMAIL", false, "pa$WORD of ana@example.com"},
		"literal ones":                         {"pa$$WORD of $EMAIL", true, "pa$$WORD of $EMAIL"},
	} {
		added, err := h.Add(ctx, library.Upload{Data: mobileconfig("com.example.a", fmt.Sprintf(clip, tt.label)), Literal: tt.literal})
		if err != nil {
			t.Fatal(err)
		}
		h.send(t, added.Profile.ID, a)
		if got := h.does(t, a, mdm.Acknowledged).profile(t).Payloads[0].Content["Label"]; got != tt.want {
			t.Errorf("%s came as %q, want %q", name, got, tt.want)
		}
	}
}

func TestWhoWouldRejectIsSaidBeforeAndMayGetTheRest(t *testing.T) {
	ctx := context.Background()
	h := newHouse(t)
	office, own, other := h.device(t, "office"), h.device(t, "own", userEnrolled), h.device(t, "other", userEnrolled)
	id := h.add(t, "com.example.a", fmt.Sprintf(passcode, "a", 6), vpn, fmt.Sprintf(clip, "Home")).Profile.ID
	to := library.Targets{Devices: []mdm.DeviceID{office, own, other}}

	f, err := h.Forecast(ctx, id, 0, to)
	if err != nil || f.Total != 3 || f.Accept != 1 || f.Reduced != 2 || len(f.Verdicts) != 1 || len(f.Verdicts[0].Devices) != 2 {
		t.Fatalf("forecast %+v, %v", f, err)
	}
	if got, want := f.Sentence(), "2 of 3 devices would reject this: com.apple.vpn.managed. 2 would take a part of it."; got != want {
		t.Errorf("sentence %q, want %q", got, want)
	}
	if h.next(t, office) != nil {
		t.Error("a forecast has sent something")
	}

	out, err := h.Send(ctx, library.Order{Profile: id, Targets: to})
	if err != nil || len(out.Sent) != 1 || len(out.Rejected) != 2 || out.Rejected[0].Code != command.CodeUserEnrollment {
		t.Fatalf("sent whole: %+v, %v", out, err)
	}
	out, err = h.Send(ctx, library.Order{Profile: id, Targets: to, Reduce: true})
	if err != nil || len(out.Sent) != 3 || len(out.Batch.Commands) != 2 {
		t.Fatalf("sent reduced: %+v, %v", out, err)
	}
	for device, want := range map[mdm.DeviceID]int{office: 3, own: 2, other: 2} {
		if p := h.does(t, device, mdm.Acknowledged).profile(t); len(p.Payloads) != want {
			t.Errorf("%s got %d payloads, want %d", device, len(p.Payloads), want)
		}
		if i := h.state(t, device, id); i.State != library.Installed || i.Reduced != (want == 2) {
			t.Errorf("%s: %+v", device, i)
		}
	}
}

func TestWhatADeviceTellsIsHeldAgainstWhatWasAgreed(t *testing.T) {
	ctx := context.Background()
	h := newHouse(t)
	a := h.device(t, "a")
	first := h.add(t, "com.example.a", fmt.Sprintf(passcode, "a", 6)).Version
	second := h.add(t, "com.example.a", fmt.Sprintf(passcode, "a", 8)).Version
	id := second.ProfileID
	h.send(t, id, a)
	h.does(t, a, mdm.Acknowledged)
	for _, step := range []struct {
		name      string
		list      map[string]string
		state     library.State
		installed int
		reason    string
	}{
		{"it is there", map[string]string{"com.example.a": second.UUID, "com.example.other": "x"}, library.Installed, 2, ""},
		{"somebody removed it", nil, library.Drifted, 0, "not on the device"},
		{"it is back", map[string]string{"com.example.a": second.UUID}, library.Installed, 2, ""},
		{"an older one took its place", map[string]string{"com.example.a": first.UUID}, library.Drifted, 1, "version 1 instead of 2"},
		{"it is back again", map[string]string{"com.example.a": second.UUID}, library.Installed, 2, ""},
		{"a stranger took its place", map[string]string{"com.example.a": "x"}, library.Drifted, 0, "not of the library"},
	} {
		h.tells(t, a, step.list)
		if got := h.state(t, a, id); got.State != step.state || got.Installed != step.installed || !strings.Contains(got.Reason, step.reason) || !got.SeenAt.Equal(h.now) {
			t.Errorf("%s: %+v", step.name, got)
		}
		h.now = h.now.Add(time.Hour)
	}
	h.tells(t, a, map[string]string{"com.example.a": second.UUID})

	if out, err := h.Remove(ctx, "ana", id, library.Targets{Devices: []mdm.DeviceID{a}}); err != nil || len(out.Command.Targets) != 1 {
		t.Fatal(out, err)
	}
	if got := h.state(t, a, id); got.State != library.Removing {
		t.Errorf("to be removed: %+v", got)
	}
	if s := h.does(t, a, mdm.Acknowledged); s.Command.Identifier != "com.example.a" {
		t.Errorf("the device was sent %+v", s)
	}
	if got := h.state(t, a, id); got.State != library.Removed || got.Installed != 0 {
		t.Errorf("removed: %+v", got)
	}
	h.tells(t, a, map[string]string{"com.example.a": second.UUID})
	if got := h.state(t, a, id); got.State != library.Drifted || !strings.Contains(got.Reason, "again") {
		t.Errorf("removed and back: %+v", got)
	}
}

func TestRemovalTakesBackWhatWasNotFetched(t *testing.T) {
	ctx := context.Background()
	h := newHouse(t)
	asleep, has, never := h.device(t, "asleep"), h.device(t, "has"), h.device(t, "never")
	id := h.add(t, "com.example.a", fmt.Sprintf(passcode, "a", 6)).Profile.ID
	h.send(t, id, asleep, has)
	h.does(t, has, mdm.Acknowledged)
	if err := h.Delete(ctx, "ana", id); !errors.Is(err, library.ErrInUse) {
		t.Errorf("Delete: %v, want ErrInUse", err)
	}
	out, err := h.Remove(ctx, "ana", id, library.Targets{Devices: []mdm.DeviceID{asleep, has, never, "unknown"}})
	if err != nil || !slices.Equal(out.Command.Targets, []mdm.DeviceID{has}) || !slices.Equal(out.Unsent, []mdm.DeviceID{asleep}) {
		t.Fatalf("%+v, %v", out, err)
	}
	if len(out.Rejected) != 2 || out.Rejected[0].Code != "not_installed" || out.Rejected[1].Code != "not_found" {
		t.Errorf("rejected %+v", out.Rejected)
	}
	if h.next(t, asleep) != nil {
		t.Error("a device that had not fetched the profile is sent something")
	}
	h.does(t, has, mdm.Acknowledged)
	if err := h.Delete(ctx, "ana", id); err != nil {
		t.Errorf("Delete: %v", err)
	}
	if _, _, err := h.Profile(ctx, id); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("after it was deleted: %v", err)
	}
	if _, _, err := h.Content(ctx, id, 1); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("its content after it was deleted: %v", err)
	}
}

func TestWhatIsGoneWithTheEnrollment(t *testing.T) {
	h := newHouse(t)
	a := h.device(t, "a")
	id := h.add(t, "com.example.a", fmt.Sprintf(passcode, "a", 6)).Profile.ID
	h.send(t, id, a)
	h.does(t, a, mdm.Acknowledged)
	if err := h.db.Update(context.Background(), func(tx storage.Tx) error { return h.Gone(tx, a) }); err != nil {
		t.Fatal(err)
	}
	if got := h.state(t, a, id); got.State != library.Removed || got.Installed != 0 {
		t.Errorf("%+v", got)
	}
}

func TestInstallationsArePaged(t *testing.T) {
	ctx := context.Background()
	h := newHouse(t)
	var ids []mdm.DeviceID
	for i := range 5 {
		ids = append(ids, h.device(t, fmt.Sprint(i)))
	}
	id := h.add(t, "com.example.a", fmt.Sprintf(passcode, "a", 6)).Profile.ID
	h.send(t, id, ids...)
	h.does(t, ids[2], mdm.Failed)
	list := func(states ...library.State) (got []mdm.DeviceID) {
		cursor := ""
		for {
			page, next, err := h.Installations(ctx, id, states, cursor, 2)
			if err != nil {
				t.Fatal(err)
			}
			for _, i := range page {
				got = append(got, i.DeviceID)
			}
			if next == "" {
				return got
			}
			cursor = next
		}
	}
	if got := list(); !slices.Equal(got, ids) {
		t.Errorf("all: %v", got)
	}
	if got := list(library.Failed); !slices.Equal(got, ids[2:3]) {
		t.Errorf("failed: %v", got)
	}
	if got := list(library.Sent); !slices.Equal(got, slices.Concat(ids[:2], ids[3:])) {
		t.Errorf("sent: %v", got)
	}
}
