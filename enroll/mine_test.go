package enroll_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/depot"
	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/command"
	"github.com/gatehouse-mdm/gatehouse/mdm/event"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// home is a house in which ana has a device of her own and bea one of the organisation's.
type home struct {
	*house
	ana, bea           identity.Principal
	anasPhone, beasMac phone
	anas, beas         mdm.DeviceID
}

func newHome(t *testing.T) *home {
	t.Helper()
	keyring.reset()
	h := &home{house: newHouse(t)}
	h.ana = h.person(t, identity.NewUser{Username: "ana", Email: "ana@example.com"}).Principal()
	h.bea = h.person(t, identity.NewUser{Username: "bea", Email: "bea@example.com", Role: identity.RoleOwner}).Principal()
	enrolled := func(n enroll.NewLink, id mdm.AppleID) phone {
		p := h.withIdentity(t, h.link(t, n), id)
		must(t, p.authenticate())
		must(t, p.tokenUpdate("magic"))
		return p
	}
	h.anasPhone = enrolled(enroll.NewLink{User: "Ana", Ownership: mdm.Personal}, iphone) // by the username
	h.beasMac = enrolled(enroll.NewLink{User: "bea@example.com"}, mac)
	h.anas, h.beas = h.device(t, iphone).ID, h.device(t, mac).ID
	return h
}

func (h *home) mine(t *testing.T, p identity.Principal, id mdm.DeviceID) enroll.Own {
	t.Helper()
	o, err := h.MyDevice(context.Background(), p, id)
	must(t, err)
	return o
}

func (h *home) actions(t *testing.T, f event.Filter) string {
	t.Helper()
	var actions []string
	h.view(t, func(tx storage.Tx) error {
		actions = nil
		list, _, err := event.Page(tx, f, "", 100)
		for _, e := range list {
			actions = append(actions, e.Action+" by "+e.Actor)
		}
		return err
	})
	return strings.Join(actions, ", ")
}

func TestEverybodySeesTheirOwnDevicesOnly(t *testing.T) {
	storagetest.AnyEngine(t)
	ctx := context.Background()
	h := newHome(t)
	must(t, h.beasMac.tokenUpdateAs(mdm.AppleID{UDID: mac.UDID, UserID: "501"}, "magic"))
	for who, want := range map[*identity.Principal]mdm.DeviceID{&h.ana: h.anas, &h.bea: h.beas} {
		list, err := h.MyDevices(ctx, *who)
		if err != nil || len(list) != 1 || list[0].ID != want {
			t.Errorf("devices of %s are %v, %v; want %s alone", who.Name, list, err, want)
		}
	}
	if o := h.mine(t, h.bea, h.beas); len(o.Channels) != 1 || len(o.Certificates) != 1 || o.Attempt == nil || o.Attempt.Stage != enroll.Enrolled {
		t.Errorf("the Mac is %+v, want one user channel, one certificate and its attempt", o)
	}
	serial := h.record(t, h.anasPhone.cert).Serial
	channel := mdm.DeviceID("")
	for _, c := range h.mine(t, h.bea, h.beas).Channels {
		channel = c.ID
	}
	token := identity.Principal{Kind: identity.KindToken, ID: h.ana.ID, User: h.ana.User, Scopes: []identity.Scope{identity.ScopeOwner}}
	impostor := h.ana
	impostor.ID = h.bea.ID
	for name, tt := range map[string]struct {
		who  identity.Principal
		id   mdm.DeviceID
		want error
	}{
		"another's":                            {h.bea, h.anas, storage.ErrNotFound},
		"one that there is not":                {h.bea, "nothing", storage.ErrNotFound},
		"none":                                 {h.bea, "", storage.ErrNotFound},
		"an ID that is no ID":                  {h.bea, mdm.DeviceID(strings.Repeat("x", 5000)), storage.ErrNotFound},
		"a user channel by itself":             {h.bea, channel, storage.ErrNotFound},
		"by a token that acts for its user":    {token, h.anas, identity.ErrForbidden},
		"by a setup link":                      {identity.SetupPrincipal(), h.anas, identity.ErrForbidden},
		"under a name that is somebody else's": {impostor, h.anas, identity.ErrForbidden},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := h.MyDevice(ctx, tt.who, tt.id)
			wantErr(t, "MyDevice", err, tt.want)
			wantErr(t, "RemoveMine", h.RemoveMine(ctx, tt.who, tt.id), tt.want)
			wantErr(t, "EndMine", h.EndMine(ctx, tt.who, tt.id), tt.want)
			wantErr(t, "ReportLost", h.ReportLost(ctx, tt.who, tt.id, "x"), tt.want)
			wantErr(t, "WithdrawLost", h.WithdrawLost(ctx, tt.who, tt.id), tt.want)
			if tt.id == h.anas {
				_, err = h.MyCertificate(ctx, tt.who, serial)
				wantErr(t, "MyCertificate", err, tt.want)
				wantErr(t, "RevokeMine", h.RevokeMine(ctx, tt.who, serial, "keyCompromise"), tt.want)
			}
		})
	}
	if reports, err := h.LostDevices(ctx, h.anas, h.beas); err != nil || len(reports) > 0 {
		t.Errorf("reported lost: %v, %v", reports, err)
	}
	if d := h.device(t, iphone); d.State != mdm.Enrolled || !h.record(t, h.anasPhone.cert).RevokedAt.IsZero() {
		t.Errorf("what strangers tried has made the device %s", d.State)
	}
}

func TestADeviceRemovesItsManagementItself(t *testing.T) {
	storagetest.AnyEngine(t)
	ctx := context.Background()
	h := newHome(t)
	must(t, h.RemoveMine(ctx, h.ana, h.anas))
	must(t, h.RemoveMine(ctx, h.ana, h.anas)) // the form was sent twice
	o := h.mine(t, h.ana, h.anas)
	if o.Removal == nil || o.State != mdm.Enrolled || o.PendingCommands != 1 {
		t.Fatalf("asked to remove its profile, the device is %+v", o)
	}
	plist, err := h.anasPhone.idle()
	if err != nil || !strings.Contains(plist, "RemoveProfile") || !strings.Contains(plist, h.ProfileIdentifier()) {
		t.Fatalf("the device is told %v: %s", err, plist)
	}
	must(t, h.anasPhone.report(o.Removal.CommandUUID, mdm.Acknowledged))
	if o = h.mine(t, h.ana, h.anas); o.State != mdm.Unenrolled || o.Removal != nil || o.MayRemove {
		t.Errorf("after its answer the device is %+v", o)
	}
	if h.record(t, h.anasPhone.cert).RevokedAt.IsZero() {
		t.Error("its identity is still good")
	}
	got := h.actions(t, event.Filter{DeviceID: string(h.anas)})
	if !strings.Contains(got, "device.unenrolled by user:ana@example.com") || strings.Count(got, "device.removal_requested by user:ana@example.com") != 1 {
		t.Errorf("the audit log says %s", got)
	}
	wantErr(t, "once more", h.RemoveMine(ctx, h.ana, h.anas), enroll.ErrEnded)
	wantErr(t, "its end", h.EndMine(ctx, h.ana, h.anas), enroll.ErrEnded)
	wantErr(t, "its loss", h.ReportLost(ctx, h.ana, h.anas, ""), enroll.ErrEnded)
}

func TestADeviceThatWasAskedMoreThanOnceToRemoveItsManagement(t *testing.T) {
	storagetest.AnyEngine(t)
	ctx := context.Background()
	ask := func(t *testing.T, h *home) string {
		t.Helper()
		must(t, h.RemoveMine(ctx, h.ana, h.anas))
		return h.mine(t, h.ana, h.anas).Removal.CommandUUID
	}
	for name, tt := range map[string]struct {
		between func(t *testing.T, h *home, first string) // after the first command was delivered
		again   bool                                      // it is asked anew
	}{
		"a form that was sent twice": {func(*testing.T, *home, string) {}, false},
		"it was not the right moment": {func(t *testing.T, h *home, first string) {
			must(t, h.anasPhone.report(first, mdm.NotNow))
		}, false},
		"it had failed before": {func(t *testing.T, h *home, first string) {
			_, err := h.Connect(ctx, h.anasPhone.peer(), enroll.ConnectMessage{ID: iphone, Report: mdm.Report{CommandUUID: first, State: mdm.Failed}})
			must(t, err)
		}, true},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHome(t)
			first := ask(t, h)
			_, err := h.anasPhone.idle()
			must(t, err)
			tt.between(t, h, first)
			second := ask(t, h)
			if again := second != first; again != tt.again {
				t.Errorf("it is asked anew: %v, want %v", again, tt.again)
			}
			_, err = h.anasPhone.idle()
			must(t, err)
			must(t, h.anasPhone.report(second, mdm.Acknowledged))
			if o := h.mine(t, h.ana, h.anas); o.State != mdm.Unenrolled || h.record(t, h.anasPhone.cert).RevokedAt.IsZero() {
				t.Errorf("its profile is removed, and the device is %s with %+v", o.State, o.Removal)
			}
		})
	}
}

func TestADeviceThatChecksOutInsteadOfAnswering(t *testing.T) {
	storagetest.AnyEngine(t)
	h := newHome(t)
	must(t, h.RemoveMine(context.Background(), h.ana, h.anas))
	_, err := h.anasPhone.idle()
	must(t, err)
	must(t, h.anasPhone.checkOut())
	if o := h.mine(t, h.ana, h.anas); o.State != mdm.Unenrolled || o.Removal != nil || h.record(t, h.anasPhone.cert).RevokedAt.IsZero() {
		t.Errorf("after its CheckOut the device is %+v", o)
	}
}

func TestADeviceThatDoesNotRemoveItsManagement(t *testing.T) {
	storagetest.AnyEngine(t)
	ctx := context.Background()
	h := newHome(t)
	must(t, h.RemoveMine(ctx, h.ana, h.anas))
	_, err := h.anasPhone.idle()
	must(t, err)
	uuid := h.mine(t, h.ana, h.anas).Removal.CommandUUID
	must(t, h.anasPhone.report(uuid, mdm.NotNow))
	if o := h.mine(t, h.ana, h.anas); o.Removal == nil || o.Removal.Problem != "" {
		t.Errorf("after NotNow the removal is %+v", o.Removal)
	}
	_, err = h.anasPhone.idle()
	must(t, err)
	_, err = h.Connect(ctx, h.anasPhone.peer(), enroll.ConnectMessage{ID: iphone, Report: mdm.Report{
		CommandUUID: uuid, State: mdm.Failed, ErrorChain: []command.ChainedError{{LocalizedDescription: "Das Profil ist gesperrt."}},
	}})
	must(t, err)
	o := h.mine(t, h.ana, h.anas)
	if o.State != mdm.Enrolled || o.Removal == nil || o.Removal.Problem != "Das Profil ist gesperrt." {
		t.Fatalf("after its refusal the device is %s with %+v", o.State, o.Removal)
	}
	must(t, h.EndMine(ctx, h.ana, h.anas))
	if o = h.mine(t, h.ana, h.anas); o.State != mdm.Unenrolled || o.Removal != nil {
		t.Errorf("ended at once, the device is %s with %+v", o.State, o.Removal)
	}

	// Enrolled again, it was not asked for anything.
	again := h.withIdentity(t, h.link(t, enroll.NewLink{User: "ana", Ownership: mdm.Personal}), iphone)
	must(t, again.authenticate())
	if o = h.mine(t, h.ana, h.anas); o.State != mdm.Pending || o.Removal != nil {
		t.Errorf("beginning again, the device is %s with %+v", o.State, o.Removal)
	}
	wantErr(t, "a device without a push token", h.RemoveMine(ctx, h.ana, h.anas), enroll.ErrCantAsk)
	must(t, h.EndMine(ctx, h.ana, h.anas))
}

func TestWhoEndsTheManagementOfWhichDevices(t *testing.T) {
	storagetest.AnyEngine(t)
	ctx := context.Background()
	for setting, may := range map[enroll.SelfRemoval]map[mdm.Ownership]bool{
		enroll.SelfRemovalPersonal: {mdm.Personal: true},
		enroll.SelfRemovalAll:      {mdm.Personal: true, mdm.Institutional: true},
		enroll.SelfRemovalNone:     {},
	} {
		t.Run(string(setting), func(t *testing.T) {
			h := newHome(t)
			_, err := h.UpdateSettings(ctx, func(s *enroll.Settings) error { s.SelfRemoval = setting; return nil })
			must(t, err)
			for id, who := range map[mdm.DeviceID]identity.Principal{h.anas: h.ana, h.beas: h.bea} {
				o := h.mine(t, who, id)
				if o.MayRemove != may[o.Ownership] {
					t.Errorf("MayRemove of a %s device is %v", o.Ownership, o.MayRemove)
				}
				var want error
				if !may[o.Ownership] {
					want = enroll.ErrNotYourself
				}
				wantErr(t, "RemoveMine of a device that is "+string(o.Ownership), h.RemoveMine(ctx, who, id), want)
				wantErr(t, "EndMine of a device that is "+string(o.Ownership), h.EndMine(ctx, who, id), want)
			}
		})
	}
}

func TestADeviceIsLostAndFound(t *testing.T) {
	storagetest.AnyEngine(t)
	ctx := context.Background()
	h := newHome(t)
	note := "On the train to Graz,\r\nin seat 12\x00\x1b[31m"
	must(t, h.ReportLost(ctx, h.ana, h.anas, note))
	o := h.mine(t, h.ana, h.anas)
	if o.Lost == nil || o.Lost.Note != "On the train to Graz,\nin seat 12  [31m" || !o.Lost.At.Equal(h.now()) {
		t.Errorf("the report is %+v", o.Lost)
	}
	if o.State != mdm.Enrolled || !h.record(t, h.anasPhone.cert).RevokedAt.IsZero() {
		t.Error("a report must lock nothing")
	}
	reports, err := h.LostDevices(ctx, h.anas, h.beas)
	if err != nil || len(reports) != 1 || reports[h.anas].At.IsZero() {
		t.Errorf("reported lost: %v, %v", reports, err)
	}
	must(t, h.WithdrawLost(ctx, h.ana, h.anas))
	must(t, h.WithdrawLost(ctx, h.ana, h.anas)) // changes nothing
	if o = h.mine(t, h.ana, h.anas); o.Lost != nil {
		t.Errorf("found again, it is still lost: %+v", o.Lost)
	}
	if got, want := h.actions(t, event.Filter{Action: "device.lost"}), "device.lost_withdrawn by user:ana@example.com, device.lost_reported by user:ana@example.com"; got != want {
		t.Errorf("the audit log says %s, want %s", got, want)
	}
	var bad *enroll.FieldError
	if err := h.ReportLost(ctx, h.ana, h.anas, strings.Repeat("é", enroll.MaxLostNote+1)); !errors.As(err, &bad) || bad.Field != "note" {
		t.Errorf("a note that is too long: %v", err)
	}
	must(t, h.ReportLost(ctx, h.ana, h.anas, strings.Repeat("é", enroll.MaxLostNote)))
}

func TestWhatWasAnothersIsNotShownToWhoHasTheDeviceNow(t *testing.T) {
	storagetest.AnyEngine(t)
	ctx := context.Background()
	h := newHome(t)
	must(t, h.ReportLost(ctx, h.ana, h.anas, "at my doctor's"))
	must(t, h.EndMine(ctx, h.ana, h.anas))
	h.pass(time.Minute)
	again := h.withIdentity(t, h.link(t, enroll.NewLink{User: "bea"}), iphone)
	must(t, again.authenticate())
	must(t, again.tokenUpdate("magic"))

	_, err := h.MyDevice(ctx, h.ana, h.anas)
	wantErr(t, "the device that ana had", err, storage.ErrNotFound)
	o := h.mine(t, h.bea, h.anas)
	if o.Lost == nil || o.Lost.Note != "" {
		t.Errorf("bea sees the report %+v, want that there is one and no more", o.Lost)
	}
	for _, e := range o.Events {
		if strings.Contains(e.Actor+e.User, "ana") {
			t.Errorf("bea sees %+v", e)
		}
	}
	for _, c := range o.Certificates {
		if c.User != h.bea.User {
			t.Errorf("bea sees the certificate of %s", c.User)
		}
	}
	for _, serial := range []depot.Serial{h.record(t, h.anasPhone.cert).Serial} {
		for _, who := range []identity.Principal{h.ana, h.bea} {
			_, err := h.MyCertificate(ctx, who, serial)
			wantErr(t, "the identity that ana's device had, for "+who.Name, err, storage.ErrNotFound)
		}
	}
}

func TestTheIdentityOfADeviceIsNotRevokedByHand(t *testing.T) {
	storagetest.AnyEngine(t)
	ctx := context.Background()
	h := newHome(t)
	list, _, err := h.MyCertificates(ctx, h.ana)
	if err != nil || len(list) > 0 {
		t.Errorf("ana's certificates are %v, %v; want none: an identity is her device's affair", list, err)
	}
	serial := h.record(t, h.anasPhone.cert).Serial
	c, err := h.MyCertificate(ctx, h.ana, serial)
	if err != nil || len(c.DER) == 0 || c.Device.ID != h.anas || c.Revocable(h.now()) {
		t.Errorf("the identity is %+v, %v", c, err)
	}
	wantErr(t, "its revocation", h.RevokeMine(ctx, h.ana, serial, "keyCompromise"), enroll.ErrIdentity)
	var bad *enroll.FieldError
	if err := h.RevokeMine(ctx, h.ana, serial, "cACompromise"); !errors.As(err, &bad) || bad.Field != "reason" {
		t.Errorf("a reason that is not for people: %v", err)
	}
	for _, none := range []depot.Serial{"", "zz", depot.Serial(strings.Repeat("a", 5000))} {
		wantErr(t, "a serial number that is none", h.RevokeMine(ctx, h.ana, none, "superseded"), storage.ErrNotFound)
	}
}

// TestCommandsCrowdNoEventsOut fills the audit log with what became of commands.
func TestCommandsCrowdNoEventsOut(t *testing.T) {
	h := newHome(t)
	must(t, h.db.Update(context.Background(), func(tx storage.Tx) error {
		for range 150 {
			e := event.Event{At: h.now().Add(time.Second), Action: "command.finished", DeviceID: string(h.anas), Details: map[string]string{"state": "acknowledged"}}
			if err := event.Record(tx, e); err != nil {
				return err
			}
		}
		return nil
	}))
	o, err := h.MyDevice(context.Background(), h.ana, h.anas)
	must(t, err)
	if !slices.ContainsFunc(o.Events, func(e event.Event) bool { return e.Action == "device.enrolled" }) {
		t.Errorf("the latest events are %+v, want the enrollment among them", o.Events)
	}
	for _, e := range o.Events {
		if e.Action == "command.finished" {
			t.Errorf("the latest events have %+v: commands have a list of their own", e)
		}
	}
}
