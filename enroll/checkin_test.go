package enroll_test

import (
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/depot"
	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

func TestNobodyClaimsAnothersDevice(t *testing.T) {
	storagetest.AnyEngine(t)
	for name, id := range map[string]mdm.AppleID{"by its UDID": iphone, "by its EnrollmentID": byod} {
		t.Run(name, func(t *testing.T) {
			keyring.reset()
			h := newHouse(t)
			victim := h.enrolled(t, "ana", id)
			d := h.device(t, id)
			h.enqueue(t, "C1", d.ID)

			for user, l := range map[string]enroll.Link{
				"another user": h.link(t, enroll.NewLink{User: "mallory"}),
				"nobody":       h.link(t, enroll.NewLink{}),
			} {
				thief := h.withIdentity(t, l, id)
				wantErr(t, "Authenticate by "+user, thief.authenticate(), enroll.ErrDeviceOwned)
				wantErr(t, "TokenUpdate by "+user, thief.tokenUpdate("stolen"), enroll.ErrRetired)
				_, err := thief.idle()
				wantErr(t, "a poll by "+user, err, enroll.ErrRetired)
				a := h.attempt(t, h.record(t, thief.cert).AttemptID)
				if a.Stage != enroll.AttemptFailed || a.ErrorCode != "device_owned" {
					t.Errorf("attempt of %s = %+v", user, a)
				}
			}
			if got := h.device(t, id); got.Push.Magic != "magic-1" || got.Identity != d.Identity || got.State != mdm.Enrolled {
				t.Errorf("the victim is changed: %+v", got)
			}
			if plist, err := victim.idle(); err != nil || plist == "" {
				t.Errorf("the victim's poll = %q, %v; want its command", plist, err)
			}
		})
	}
}

func TestACertificateSpeaksForItsDeviceOnly(t *testing.T) {
	storagetest.AnyEngine(t)
	keyring.reset()
	ctx := context.Background()
	h := newHouse(t)
	ana, bob := h.enrolled(t, "ana", iphone), h.enrolled(t, "bob", mdm.AppleID{UDID: "bobs"})
	bob.id = ana.id
	_, err := bob.idle()
	wantErr(t, "a poll", err, enroll.ErrForeignDevice)
	wantErr(t, "a report", bob.report("C1", mdm.Acknowledged), enroll.ErrForeignDevice)
	wantErr(t, "Authenticate", bob.authenticate(), enroll.ErrForeignDevice)
	wantErr(t, "TokenUpdate", bob.tokenUpdate("stolen"), enroll.ErrForeignDevice)
	wantErr(t, "CheckOut", bob.checkOut(), enroll.ErrForeignDevice)
	wantErr(t, "SetBootstrapToken", h.SetBootstrapToken(ctx, bob.peer(), ana.id, []byte("x")), enroll.ErrForeignDevice)
	_, err = h.GetBootstrapToken(ctx, bob.peer(), ana.id)
	wantErr(t, "GetBootstrapToken", err, enroll.ErrForeignDevice)
	wantErr(t, "a user's TokenUpdate", bob.tokenUpdateAs(mdm.AppleID{UDID: ana.id.UDID, UserID: "u"}, "stolen"), enroll.ErrForeignDevice)
	if d := h.device(t, iphone); d.State != mdm.Enrolled || d.Push.Magic != "magic-1" {
		t.Errorf("the device is changed: %+v", d)
	}
}

func TestOneCertificateWinsOneDevice(t *testing.T) {
	keyring.reset()
	h := newHouse(t)
	p := h.withIdentity(t, h.link(t, enroll.NewLink{}), iphone)
	var wg sync.WaitGroup
	var won atomic.Int32
	for i := range 16 {
		wg.Go(func() {
			racer := p
			racer.id = mdm.AppleID{UDID: fmt.Sprintf("racer-%d", i)}
			if racer.authenticate() == nil {
				won.Add(1)
			}
		})
	}
	wg.Wait()
	page, _, err := h.mdm.Devices(context.Background(), "", 100)
	if won.Load() != 1 || len(page) != 1 || err != nil {
		t.Errorf("%d of 16 ids were taken in, %d devices, %v; want 1", won.Load(), len(page), err)
	}
}

func TestWhoIsNotHeard(t *testing.T) {
	storagetest.AnyEngine(t)
	keyring.reset()
	ctx := context.Background()
	h := newHouse(t)
	l := h.link(t, enroll.NewLink{Uses: 10})
	payload, err := h.depot.Root().Sign(keyring.take(t).Public(), depot.Contents{
		Name: "wifi", Subject: pkix.Name{CommonName: "wifi"}, NotBefore: h.now(), NotAfter: h.now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := h.db.Update(ctx, func(tx storage.Tx) error {
		return h.depot.Record(tx, payload, depot.Certificate{Authority: h.depot.Root().Name(), Template: "wifi"})
	}); err != nil {
		t.Fatal(err)
	}
	neverRecorded, err := h.depot.Identity().Sign(keyring.take(t).Public(), depot.Contents{
		Name: "identity", Subject: pkix.Name{CommonName: "x"}, NotBefore: h.now(), NotAfter: h.now().Add(time.Hour),
	})
	if err != nil {
		t.Fatal(err)
	}
	fresh := h.withIdentity(t, l, iphone)

	for name, cert := range map[string]*x509.Certificate{
		"without a certificate":                       nil,
		"with a certificate of another authority":     request(t, keyring.take(t), "").Signer,
		"with the authority's own":                    h.depot.Identity().Certificate(),
		"with a payload certificate":                  payload,
		"with one of our CA that was never on record": neverRecorded,
	} {
		t.Run(name, func(t *testing.T) {
			p := phone{h: h, id: iphone, cert: cert}
			wantErr(t, "Authenticate", p.authenticate(), enroll.ErrUnidentified)
			wantErr(t, "TokenUpdate", p.tokenUpdate("m"), enroll.ErrUnidentified)
			wantErr(t, "CheckOut", p.checkOut(), enroll.ErrUnidentified)
			_, err := p.idle()
			wantErr(t, "a poll", err, enroll.ErrUnidentified)
		})
	}
	h.pass(366 * 24 * time.Hour)
	wantErr(t, "with an expired identity that is no device's", fresh.authenticate(), enroll.ErrUnidentified)
	page, _, err := h.mdm.Devices(ctx, "", 100)
	if err != nil || len(page) != 0 {
		t.Errorf("%d devices, %v; want none", len(page), err)
	}
}

func TestAnExpiredIdentityStillReachesItsDevice(t *testing.T) {
	storagetest.AnyEngine(t)
	keyring.reset()
	h := newHouse(t)
	p := h.enrolled(t, "ana", iphone)
	h.pass(2 * 366 * 24 * time.Hour)
	h.enqueue(t, "C1", h.device(t, iphone).ID)
	if plist, err := p.idle(); err != nil || plist == "" {
		t.Errorf("idle = %q, %v; want the command", plist, err)
	}
}

func TestMessagesThatBreakTheRules(t *testing.T) {
	storagetest.AnyEngine(t)
	keyring.reset()
	ctx := context.Background()
	h := newHouse(t)
	p := h.enrolled(t, "ana", iphone)
	before := h.device(t, iphone)

	user := p
	user.id.UserID = "u"
	wantErr(t, "Authenticate of a user", user.authenticate(), enroll.ErrBadMessage)
	colon := p
	colon.id.UDID = "a:b"
	wantErr(t, "Authenticate with another's user channel for a UDID", colon.authenticate(), enroll.ErrBadMessage)
	for name, push := range map[string]mdm.Push{
		"no token":     {Topic: "t", Magic: "m"},
		"no magic":     {Topic: "t", Token: []byte{1}},
		"no topic":     {Magic: "m", Token: []byte{1}},
		"a huge token": {Topic: "t", Magic: "m", Token: make([]byte, 2000)},
		"a huge topic": {Topic: string(make([]byte, 2000)), Magic: "m", Token: []byte{1}},
	} {
		wantErr(t, "TokenUpdate with "+name, h.TokenUpdate(ctx, p.peer(), enroll.TokenUpdateMessage{ID: iphone, Push: push}), enroll.ErrBadMessage)
	}
	for name, at := range map[string]time.Time{"two hours ago": h.now().Add(-2 * time.Hour), "in two hours": h.now().Add(2 * time.Hour)} {
		_, err := h.Connect(ctx, enroll.Peer{Certificate: p.cert, SignedAt: at}, enroll.ConnectMessage{ID: iphone, Idle: true})
		wantErr(t, "a poll signed "+name, err, enroll.ErrStale)
	}
	if after := h.device(t, iphone); after.Push.Magic != before.Push.Magic || after.TokenUpdates != before.TokenUpdates {
		t.Errorf("the device is changed: %+v", after)
	}
}

func TestACapturedTokenUpdateBringsNoOldTokenBack(t *testing.T) {
	storagetest.AnyEngine(t)
	keyring.reset()
	ctx := context.Background()
	h := newHouse(t)
	p := h.enrolled(t, "ana", iphone)
	send := func(magic string, at time.Time) error {
		return h.TokenUpdate(ctx, enroll.Peer{Certificate: p.cert, SignedAt: at}, enroll.TokenUpdateMessage{
			ID: iphone, Push: mdm.Push{Topic: "t", Token: []byte{1}, Magic: magic},
		})
	}
	first := h.now()
	if err := send("first", first); err != nil {
		t.Fatal(err)
	}
	if err := send("second", first.Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	wantErr(t, "the first again", send("first", first), enroll.ErrStale)
	if got := h.device(t, iphone).Push.Magic; got != "second" {
		t.Errorf("magic = %s, want second", got)
	}
}

func TestTheSameAuthenticateAgainClearsNothing(t *testing.T) {
	storagetest.AnyEngine(t)
	keyring.reset()
	h := newHouse(t)
	p := h.enrolled(t, "ana", iphone)
	h.enqueue(t, "C1", h.device(t, iphone).ID)
	if err := p.authenticate(); err != nil {
		t.Fatal(err)
	}
	if d := h.device(t, iphone); d.State != mdm.Enrolled || d.Push == nil {
		t.Errorf("device = %+v, want it enrolled as before", d)
	}
	if plist, err := p.idle(); err != nil || plist == "" {
		t.Errorf("idle = %q, %v; want the command", plist, err)
	}
}

func TestCheckOutEndsEverythingOfAnEnrollment(t *testing.T) {
	keyring.reset()
	h := newHouse(t)
	p := h.enrolled(t, "ana", mac)
	userID := mdm.AppleID{UDID: mac.UDID, UserID: "501"}
	if err := p.tokenUpdateAs(userID, "user-magic"); err != nil {
		t.Fatal(err)
	}
	h.enqueue(t, "C1", h.device(t, mac).ID)
	h.enqueue(t, "C2", h.device(t, userID).ID)

	for range 2 { // the second one changes nothing, and is no error
		if err := p.checkOut(); err != nil {
			t.Fatal(err)
		}
	}
	for _, id := range []mdm.AppleID{mac, userID} {
		if d := h.device(t, id); d.State != mdm.Unenrolled || d.Push != nil {
			t.Errorf("%v = %+v, want it unenrolled", id, d)
		}
		_, err := p.idleAs(id)
		wantErr(t, "a poll afterwards", err, enroll.ErrGone)
		wantErr(t, "TokenUpdate afterwards", p.tokenUpdateAs(id, "back"), enroll.ErrGone)
	}
	wantErr(t, "Authenticate afterwards", p.authenticate(), enroll.ErrGone)
	for _, uuid := range []string{"C1", "C2"} {
		if got := h.state(t, uuid); got != mdm.Cancelled {
			t.Errorf("command %s is %s, want cancelled", uuid, got)
		}
	}
	if rec := h.record(t, p.cert); rec.RevocationReason != "cessationOfOperation" {
		t.Errorf("certificate = %+v, want it revoked", rec)
	}
}

func TestAUserChannelIsAskedWhatItsDeviceCanAnswer(t *testing.T) {
	storagetest.AnyEngine(t)
	keyring.reset()
	h := newHouse(t)
	p := h.enrolled(t, "ana", mac)
	userID := mdm.AppleID{UDID: mac.UDID, UserID: "501"}
	must(t, p.tokenUpdateAs(userID, "m"))
	d, u := h.device(t, mac), h.device(t, userID)
	if u.ParentID != d.ID || u.ProductName != d.ProductName || u.OSVersion != d.OSVersion || u.SerialNumber != "" {
		t.Errorf("user channel = %+v, want its device's kind and OS", u)
	}
	_, rejected, err := h.mdm.Enqueue(context.Background(), mdm.NewCommand{UUID: "C1", RequestType: "EraseDevice", Plist: []byte("x"), Targets: []mdm.DeviceID{u.ID}})
	if err != nil || len(rejected) != 1 {
		t.Errorf("EraseDevice to a user: rejected %v, %v", rejected, err)
	}
}

func TestCheckOutOfAUserEndsThatUserOnly(t *testing.T) {
	storagetest.AnyEngine(t)
	keyring.reset()
	h := newHouse(t)
	p := h.enrolled(t, "ana", mac)
	one, two := mdm.AppleID{UDID: mac.UDID, UserID: "501"}, mdm.AppleID{UDID: mac.UDID, UserID: "502"}
	for _, id := range []mdm.AppleID{one, two} {
		if err := p.tokenUpdateAs(id, "m"); err != nil {
			t.Fatal(err)
		}
	}
	if err := h.CheckOut(context.Background(), p.peer(), one); err != nil {
		t.Fatal(err)
	}
	_, err := p.idleAs(one)
	wantErr(t, "the user who left", err, enroll.ErrNotAuthenticated)
	for _, id := range []mdm.AppleID{two, mac} {
		if _, err := p.idleAs(id); err != nil {
			t.Errorf("%v: %v", id, err)
		}
	}
}

func TestADeviceThatComesBackStartsAfresh(t *testing.T) {
	storagetest.AnyEngine(t)
	userID := mdm.AppleID{UDID: mac.UDID, UserID: "501"}
	for name, tt := range map[string]struct {
		leave func(*testing.T, *house, phone)
		user  string
	}{
		"after CheckOut, by anybody":           {func(t *testing.T, _ *house, p phone) { must(t, p.checkOut()) }, ""},
		"after it was unenrolled, by anybody":  {func(t *testing.T, h *house, p phone) { must(t, unenroll(h, p)) }, ""},
		"erased without a word, by its person": {func(*testing.T, *house, phone) {}, "ana"},
	} {
		t.Run(name, func(t *testing.T) {
			keyring.reset()
			ctx := context.Background()
			h := newHouse(t)
			p := h.enrolled(t, "ana", mac)
			must(t, p.tokenUpdateAs(userID, "user-magic"))
			must(t, h.SetBootstrapToken(ctx, p.peer(), mac, []byte("bootstrap")))
			before := h.device(t, mac)
			h.enqueue(t, "C1", before.ID)
			h.enqueue(t, "C2", h.device(t, userID).ID)
			tt.leave(t, h, p)

			again := h.withIdentity(t, h.link(t, enroll.NewLink{User: tt.user}), mac)
			must(t, again.authenticate())
			if u := h.device(t, userID); u.State != mdm.Pending || u.Push != nil {
				t.Errorf("user channel = %+v, want it pending", u)
			}
			_, err := again.idleAs(userID)
			wantErr(t, "a poll of the user before its TokenUpdate", err, enroll.ErrNotAuthenticated)
			must(t, again.tokenUpdate("magic-2"))
			if plist, err := again.idle(); err != nil || plist != "" {
				t.Errorf("first poll = %q, %v; want an empty queue", plist, err)
			}
			must(t, again.tokenUpdateAs(userID, "user-magic-2"))
			if plist, err := again.idleAs(userID); err != nil || plist != "" {
				t.Errorf("first poll of the user = %q, %v; want an empty queue", plist, err)
			}
			token, err := h.GetBootstrapToken(ctx, again.peer(), mac)
			if err != nil || token != nil {
				t.Errorf("bootstrap token = %q, %v; want none", token, err)
			}
			h.view(t, func(tx storage.Tx) error {
				unlock, err := h.mdm.Secret(tx, before.ID, mdm.UnlockToken)
				if string(unlock) != "unlock" { // the one that the new TokenUpdate brought
					t.Errorf("unlock token = %q", unlock)
				}
				return err
			})
			d := h.device(t, mac)
			if d.ID != before.ID || d.State != mdm.Enrolled || d.User != tt.user || d.Identity == before.Identity || d.TokenUpdates != 1 {
				t.Errorf("device = %+v, want the same id, enrolled anew", d)
			}
			_, err = p.idle()
			wantErr(t, "the old certificate", err, enroll.ErrRetired)
		})
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func unenroll(h *house, p phone) error {
	var d mdm.Device
	err := h.db.View(context.Background(), func(tx storage.Tx) (err error) {
		d, err = mdm.FindDevice(tx, p.id)
		return err
	})
	if err == nil {
		_, err = h.Unenroll(context.Background(), d.ID)
	}
	return err
}

func TestAnEnrollmentThatDidNotFinishCanBeTriedAgain(t *testing.T) {
	storagetest.AnyEngine(t)
	keyring.reset()
	h := newHouse(t)
	l := h.link(t, enroll.NewLink{Uses: 5})
	first := h.withIdentity(t, l, iphone)
	must(t, first.authenticate())
	second := h.withIdentity(t, l, iphone)
	must(t, second.authenticate())
	must(t, second.tokenUpdate("m"))
	wantErr(t, "the first try", first.tokenUpdate("late"), enroll.ErrRetired)
}

func TestCheckOutLiftsNoBlockOfAUser(t *testing.T) {
	storagetest.AnyEngine(t)
	keyring.reset()
	h := newHouse(t)
	p := h.enrolled(t, "ana", mac)
	user := mdm.AppleID{UDID: mac.UDID, UserID: "501"}
	must(t, p.tokenUpdateAs(user, "user-magic"))
	blocked, err := h.Block(context.Background(), h.device(t, user).ID)
	must(t, err)
	h.pass(time.Hour)
	must(t, h.CheckOut(context.Background(), p.peer(), user))
	if d := h.device(t, user); d.State != mdm.Blocked || !d.UnenrolledAt.Equal(blocked.UnenrolledAt) {
		t.Errorf("after CheckOut the user is %s since %v, want blocked since %v", d.State, d.UnenrolledAt, blocked.UnenrolledAt)
	}
	wantErr(t, "TokenUpdate after CheckOut", p.tokenUpdateAs(user, "back"), mdm.ErrBlocked)
}

func TestABlockedDeviceDoesNotComeBack(t *testing.T) {
	storagetest.AnyEngine(t)
	keyring.reset()
	ctx := context.Background()
	h := newHouse(t)
	p := h.enrolled(t, "ana", iphone)
	d, err := h.Block(ctx, h.device(t, iphone).ID)
	if err != nil || d.State != mdm.Blocked {
		t.Fatalf("Block = %+v, %v", d, err)
	}
	_, err = p.idle()
	wantErr(t, "a poll", err, enroll.ErrGone)
	again := h.withIdentity(t, h.link(t, enroll.NewLink{User: "ana"}), iphone)
	wantErr(t, "Authenticate", again.authenticate(), mdm.ErrBlocked)
	if a := h.attempt(t, h.record(t, again.cert).AttemptID); a.ErrorCode != "device_blocked" {
		t.Errorf("attempt = %+v", a)
	}
	if d, err := h.Unenroll(ctx, d.ID); err != nil || d.State != mdm.Blocked {
		t.Errorf("Unenroll of a blocked device = %+v, %v; want it blocked still", d, err)
	}
	if d, err := h.Unblock(ctx, d.ID); err != nil || d.State != mdm.Unenrolled {
		t.Errorf("Unblock = %+v, %v", d, err)
	}
	back := h.withIdentity(t, h.link(t, enroll.NewLink{}), iphone)
	must(t, back.authenticate())
	if d, err := h.Unblock(ctx, d.ID); err != nil || d.State != mdm.Pending {
		t.Errorf("Unblock of a device that is not blocked = %+v, %v; want it as it was", d, err)
	}
}

func TestAPersonalDeviceKeepsToItself(t *testing.T) {
	storagetest.AnyEngine(t)
	keyring.reset()
	h := newHouse(t)
	p := h.enrolled(t, "ana", byod)
	d := h.device(t, byod)
	if d.Type != mdm.TypeUser || d.SerialNumber != "" || d.AccessRights != 0 {
		t.Errorf("device = %+v, want a User Enrollment without a serial number", d)
	}
	h.view(t, func(tx storage.Tx) error {
		if unlock, err := h.mdm.Secret(tx, d.ID, mdm.UnlockToken); unlock != nil || err != nil {
			t.Errorf("unlock token = %q, %v; want none", unlock, err)
		}
		return nil
	})
	_, err := p.idleAs(mdm.AppleID{UDID: byod.EnrollmentID})
	wantErr(t, "a poll with a UDID", err, enroll.ErrForeignDevice)
	_, err = p.idleAs(mdm.AppleID{UDID: "U", EnrollmentID: byod.EnrollmentID})
	wantErr(t, "a poll with both", err, enroll.ErrBadMessage)
	must(t, p.tokenUpdateAs(mdm.AppleID{EnrollmentID: byod.EnrollmentID, UserID: "one"}, "m"))
	wantErr(t, "a second user", p.tokenUpdateAs(mdm.AppleID{EnrollmentID: byod.EnrollmentID, UserID: "two"}, "m"), enroll.ErrForeignDevice)
}

func TestBootstrapTokens(t *testing.T) {
	storagetest.AnyEngine(t)
	keyring.reset()
	ctx := context.Background()
	h := newHouse(t)
	p := h.enrolled(t, "ana", mac)
	get := func() string {
		t.Helper()
		token, err := h.GetBootstrapToken(ctx, p.peer(), mac)
		if err != nil {
			t.Fatal(err)
		}
		return string(token)
	}
	if got := get(); got != "" {
		t.Errorf("before any was set: %q", got)
	}
	must(t, h.SetBootstrapToken(ctx, p.peer(), mac, []byte("b1")))
	if got := get(); got != "b1" {
		t.Errorf("token = %q", got)
	}
	must(t, h.SetBootstrapToken(ctx, p.peer(), mac, nil))
	if got := get(); got != "" {
		t.Errorf("after an empty one: %q", got)
	}
}
