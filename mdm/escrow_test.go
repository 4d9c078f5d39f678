package mdm_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"log/slog"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/command"
	"github.com/gatehouse-mdm/gatehouse/mdm/event"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/guard"
	"github.com/gatehouse-mdm/gatehouse/storage/seal"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// mac puts an enrolled Mac, which came by Automated Device Enrollment.
func (b *bench) mac(t testing.TB, id string) mdm.DeviceID {
	t.Helper()
	return b.device(t, id, func(d *mdm.Device) {
		yes := true
		d.ProductName, d.OSVersion, d.Supervised, d.EnrolledViaDEP = "Mac14,2", "15.1", &yes, &yes
	})
}

// ask queues a command with params, as JSON, for one device, and returns the code of the
// rejection, empty if there is none.
func (b *bench) ask(t testing.TB, id mdm.DeviceID, uuid, requestType, params string) (rejected string) {
	t.Helper()
	dec := json.NewDecoder(strings.NewReader(params))
	dec.UseNumber()
	var in map[string]any
	if err := dec.Decode(&in); err != nil {
		t.Fatal(err)
	}
	plist, err := command.Build(requestType, in, uuid)
	if err != nil {
		t.Fatal(err)
	}
	_, no, err := b.Enqueue(context.Background(), mdm.NewCommand{UUID: uuid, RequestType: requestType, Plist: plist, Targets: []mdm.DeviceID{id}})
	if err != nil {
		t.Fatal(err)
	}
	if len(no) == 0 {
		return ""
	}
	if !strings.HasSuffix(no[0].Reason, ".") {
		t.Errorf("the reason %q is no sentence", no[0].Reason)
	}
	return no[0].Code
}

// asked is ask for a command that the device may get.
func (b *bench) asked(t testing.TB, id mdm.DeviceID, uuid, requestType, params string) {
	t.Helper()
	if no := b.ask(t, id, uuid, requestType, params); no != "" {
		t.Fatalf("%s is rejected: %s", requestType, no)
	}
}

// sent is the Command dictionary of what the device gets next.
func (b *bench) sent(t testing.TB, id mdm.DeviceID) map[string]any {
	t.Helper()
	params, err := command.Params(b.deliver(t, id, true))
	if err != nil {
		t.Fatal(err)
	}
	return params
}

func (b *bench) text(t testing.TB, id mdm.DeviceID, key string) string {
	t.Helper()
	v, _ := b.sent(t, id)[key].(string)
	return v
}

// says records an answer with a result in JSON, and with secrets in it.
func (b *bench) says(t testing.TB, id mdm.DeviceID, uuid string, state mdm.CommandState, result string, secrets *command.Entrusted) {
	t.Helper()
	r := mdm.Report{CommandUUID: uuid, State: state, Entrusted: secrets}
	if result != "" {
		r.Result = json.RawMessage(result)
	}
	b.update(t, func(tx storage.Tx) error {
		e, err := b.Record(tx, id, r)
		if err == nil && e == nil {
			t.Errorf("the answer to %s changed nothing", uuid)
		}
		return err
	})
}

// holds are the secrets held of one kind, the newest first: "current 123456".
func (b *bench) holds(t testing.TB, id mdm.DeviceID, kind mdm.SecretKind) (all []string) {
	t.Helper()
	revealed, err := b.Reveal(context.Background(), id, kind, mdm.Viewer{Actor: "test", Reason: "test"})
	if err != nil && !errors.Is(err, storage.ErrNotFound) {
		t.Fatal(err)
	}
	for _, r := range revealed {
		all = append(all, string(r.State)+" "+string(r.Value))
	}
	return all
}

func (b *bench) wantHeld(t testing.TB, id mdm.DeviceID, kind mdm.SecretKind, want ...string) {
	t.Helper()
	if got := b.holds(t, id, kind); !slices.Equal(got, want) {
		t.Errorf("%s held for %s: %q, want %q", kind, id, got, want)
	}
}

func TestAnUnlockTokenIsFilledIn(t *testing.T) {
	b := newBench(t)
	id := b.device(t, "a")
	if code := b.ask(t, id, "1", "ClearPasscode", `{}`); code != mdm.CodeUnlockTokenMissing {
		t.Errorf("without a token: %q", code)
	}
	b.update(t, func(tx storage.Tx) error { return b.SetSecret(tx, id, mdm.UnlockToken, []byte("sesame")) })
	b.asked(t, id, "2", "ClearPasscode", `{}`)
	if got := b.sent(t, id)["UnlockToken"]; !bytes.Equal(got.([]byte), []byte("sesame")) {
		t.Error("the device did not get its token")
	}
	b.says(t, id, "2", mdm.Acknowledged, "", nil)
	b.asked(t, id, "3", "ClearPasscode", `{"UnlockToken":"Z2l2ZW4="}`)
	if got := b.sent(t, id)["UnlockToken"]; !bytes.Equal(got.([]byte), []byte("given")) {
		t.Error("the device did not get the token that was given")
	}
	_, err := b.Reveal(context.Background(), id, mdm.UnlockToken, mdm.Viewer{Actor: "test", Reason: "test"})
	if !errors.Is(err, mdm.ErrNotRevealable) {
		t.Errorf("Reveal = %v, want ErrNotRevealable", err)
	}
	list, err := b.Secrets(context.Background(), id)
	if err != nil || len(list) != 1 || list[0].Kind != mdm.UnlockToken || list[0].State != mdm.SecretCurrent {
		t.Errorf("Secrets = %+v, %v", list, err)
	}
}

func TestAMacGetsAPIN(t *testing.T) {
	b := newBench(t)
	mac, phone := b.mac(t, "mac"), b.device(t, "phone")
	other := b.device(t, "other", func(d *mdm.Device) { d.ProductName = "" })
	personal := b.device(t, "personal", func(d *mdm.Device) {
		d.Type, d.AppleID, d.ProductName = mdm.TypeUser, mdm.AppleID{EnrollmentID: "E1"}, ""
	})
	digits := regexp.MustCompile(`^\d{6}$`)

	plist, err := command.Build("DeviceLock", nil, "1")
	if err != nil {
		t.Fatal(err)
	}
	if _, no, err := b.Enqueue(context.Background(), mdm.NewCommand{UUID: "1", RequestType: "DeviceLock", Plist: plist, Targets: []mdm.DeviceID{mac, phone, other, personal}}); err != nil || len(no) > 0 {
		t.Fatal(no, err)
	}
	pin, otherPIN := b.text(t, mac, "PIN"), b.text(t, other, "PIN")
	if !digits.MatchString(pin) || !digits.MatchString(otherPIN) {
		t.Errorf("the Mac's PIN is %q, that of what may be one %q", pin, otherPIN)
	}
	if got := b.text(t, mac, "PIN"); got != pin {
		t.Errorf("when it is sent again, the PIN is %q, and was %q", got, pin)
	}
	for _, id := range []mdm.DeviceID{phone, personal} {
		if _, there := b.sent(t, id)["PIN"]; there {
			t.Errorf("%s got a PIN", id)
		}
		b.wantHeld(t, id, mdm.LockPIN)
	}
	b.wantHeld(t, mac, mdm.LockPIN, "pending "+pin)
	b.says(t, mac, "1", mdm.Acknowledged, "", nil)
	b.wantHeld(t, mac, mdm.LockPIN, "current "+pin)

	b.asked(t, mac, "2", "DeviceLock", `{"PIN":"246810"}`)
	if got := b.text(t, mac, "PIN"); got != "246810" {
		t.Errorf("the Mac got %q instead of the PIN that was given", got)
	}
	b.says(t, mac, "2", mdm.Failed, "", nil)
	b.wantHeld(t, mac, mdm.LockPIN, "current "+pin)
	b.asked(t, mac, "3", "DeviceLock", `{"PIN":"135791"}`)
	b.next(t, mac, true)
	b.says(t, mac, "3", mdm.Acknowledged, "", nil)
	b.wantHeld(t, mac, mdm.LockPIN, "current 135791", "previous "+pin)
}

func TestAPINOutlivesTheEnrollmentThatItEnds(t *testing.T) {
	b := newBench(t)
	ctx := context.Background()
	mac := b.mac(t, "mac")
	b.asked(t, mac, "1", "EraseDevice", `{}`)
	b.asked(t, mac, "2", "EraseDevice", `{}`)
	b.asked(t, mac, "lock", "SetRecoveryLock", `{"NewPassword":"hush"}`)
	pin := b.text(t, mac, "PIN")
	b.update(t, func(tx storage.Tx) error { return b.CancelPending(tx, mac) })
	b.wantHeld(t, mac, mdm.ErasePIN, "unconfirmed "+pin) // the other was never sent

	b.update(t, func(tx storage.Tx) error { return b.ForgetSecrets(tx, mac) })
	b.wantHeld(t, mac, mdm.ErasePIN, "unconfirmed "+pin)
	b.wantHeld(t, mac, mdm.RecoveryLock)
	list, err := b.Secrets(ctx, mac)
	if err != nil || len(list) != 1 || !list[0].KeptUntil.Equal(b.now.Add(365*24*time.Hour)) {
		t.Errorf("Secrets = %+v, %v", list, err)
	}
	b.now = b.now.Add(364 * 24 * time.Hour)
	if err := b.Sweep(ctx); err != nil {
		t.Fatal(err)
	}
	b.wantHeld(t, mac, mdm.ErasePIN, "unconfirmed "+pin)
	b.now = b.now.Add(2 * 24 * time.Hour)
	if err := b.Sweep(ctx); err != nil {
		t.Fatal(err)
	}
	b.wantHeld(t, mac, mdm.ErasePIN)
}

// Whoever enrolls as a device says itself that it is that device.
func TestNoDeviceGetsTheSecretsOfAFormerEnrollment(t *testing.T) {
	b := newBench(t)
	mac := b.mac(t, "mac")
	b.asked(t, mac, "1", "SetFirmwarePassword", `{"NewPassword":"hush"}`)
	b.next(t, mac, true)
	b.says(t, mac, "1", mdm.Acknowledged, `{"SetFirmwarePassword":{"PasswordChanged":true}}`, nil)
	b.wantHeld(t, mac, mdm.FirmwarePassword, "current hush")
	b.update(t, func(tx storage.Tx) error { return b.ForgetSecrets(tx, mac) })
	b.wantHeld(t, mac, mdm.FirmwarePassword, "previous hush")
	if code := b.ask(t, mac, "2", "VerifyFirmwarePassword", `{}`); code != mdm.CodeSecretUnknown {
		t.Errorf("VerifyFirmwarePassword: %q", code)
	}
	b.asked(t, mac, "3", "SetFirmwarePassword", `{}`)
	if got, there := b.sent(t, mac)["CurrentPassword"]; there {
		t.Errorf("the device was told %q", got)
	}
}

func TestTheLifeOfARecoveryLock(t *testing.T) {
	b := newBench(t)
	mac := b.mac(t, "mac")
	ctx := context.Background()
	if code := b.ask(t, mac, "0", "VerifyRecoveryLock", `{}`); code != mdm.CodeSecretUnknown {
		t.Errorf("verifying what is not known: %q", code)
	}
	b.asked(t, mac, "1", "SetRecoveryLock", `{}`)
	if code := b.ask(t, mac, "1b", "SetRecoveryLock", `{}`); code != mdm.CodeSecretPending {
		t.Errorf("another while one is on its way: %q", code)
	}
	b.asked(t, mac, "v", "VerifyRecoveryLock", `{}`) // after it, in the queue
	params := b.sent(t, mac)
	first, _ := params["NewPassword"].(string)
	if _, there := params["CurrentPassword"]; there || len(first) < 20 {
		t.Errorf("the first SetRecoveryLock has the keys %q and a password of %d", slices.Sorted(maps.Keys(params)), len(first))
	}
	b.says(t, mac, "1", mdm.Acknowledged, "", nil)
	if got := b.text(t, mac, "Password"); got != first {
		t.Errorf("verified is %q, want %q", got, first)
	}
	b.says(t, mac, "v", mdm.Acknowledged, `{"PasswordVerified":true}`, nil)

	// The answer to the second one gets lost: which one the Mac has, it is asked.
	b.asked(t, mac, "2", "SetRecoveryLock", `{"NewPassword":"second"}`)
	if got := b.text(t, mac, "CurrentPassword"); got != first {
		t.Errorf("CurrentPassword = %q, want %q", got, first)
	}
	b.update(t, func(tx storage.Tx) error { return b.CancelCommand(tx, mac, "2", mdm.Cancelled) })
	b.wantHeld(t, mac, mdm.RecoveryLock, "unconfirmed second", "current "+first)
	b.asked(t, mac, "3", "VerifyRecoveryLock", `{}`)
	if got := b.text(t, mac, "Password"); got != "second" {
		t.Errorf("verified is %q first, want the one that is not confirmed", got)
	}
	b.says(t, mac, "3", mdm.Acknowledged, `{"PasswordVerified":false}`, nil)
	b.asked(t, mac, "4", "VerifyRecoveryLock", `{}`)
	if got := b.text(t, mac, "Password"); got != first {
		t.Errorf("verified is %q then, want %q", got, first)
	}
	b.says(t, mac, "4", mdm.Acknowledged, `{"PasswordVerified":true}`, nil)
	b.wantHeld(t, mac, mdm.RecoveryLock, "current "+first, "previous second")

	// What a person knows is kept once the Mac says that it is right.
	b.asked(t, mac, "5", "VerifyRecoveryLock", `{"Password":"by hand"}`)
	b.next(t, mac, true)
	b.says(t, mac, "5", mdm.Acknowledged, `{"PasswordVerified":true}`, nil)
	b.wantHeld(t, mac, mdm.RecoveryLock, "current by hand", "previous "+first, "previous second")

	b.asked(t, mac, "6", "SetRecoveryLock", `{"NewPassword":""}`)
	if got := b.text(t, mac, "CurrentPassword"); got != "by hand" {
		t.Errorf("CurrentPassword = %q when it is taken away", got)
	}
	b.says(t, mac, "6", mdm.Acknowledged, "", nil)
	b.wantHeld(t, mac, mdm.RecoveryLock, "previous by hand", "previous "+first, "previous second")
	b.asked(t, mac, "7", "SetRecoveryLock", `{"NewPassword":"third"}`)
	if _, there := b.sent(t, mac)["CurrentPassword"]; there {
		t.Error("a Mac without a lock is told a password")
	}
	b.says(t, mac, "7", mdm.Failed, "", nil)
	b.wantHeld(t, mac, mdm.RecoveryLock, "previous by hand", "previous "+first, "previous second")

	if a, err := b.Again(ctx, "7", nil); err != nil || a.Params["NewPassword"] != "third" {
		t.Errorf("Again has %v, %v", a.Params["NewPassword"], err)
	}
}

func TestAFirmwarePasswordThatTheMacDidNotTakeIsDropped(t *testing.T) {
	b := newBench(t)
	mac := b.mac(t, "mac")
	b.asked(t, mac, "1", "SetFirmwarePassword", `{}`)
	b.next(t, mac, true)
	b.says(t, mac, "1", mdm.Acknowledged, `{"SetFirmwarePassword":{"PasswordChanged":false}}`, nil)
	b.wantHeld(t, mac, mdm.FirmwarePassword)
}

func TestAnAdministratorsPasswordIsHashedForTheMac(t *testing.T) {
	b := newBench(t)
	mac := b.mac(t, "mac")
	b.asked(t, mac, "1", "SetAutoAdminPassword", `{"GUID":"G1","password":"correct horse"}`)
	params := b.sent(t, mac)
	hash, _ := params["passwordHash"].([]byte)
	if keys := slices.Sorted(maps.Keys(params)); !slices.Equal(keys, []string{"GUID", "RequestType", "passwordHash"}) {
		t.Errorf("the Mac gets the keys %q", keys)
	}
	var list map[string]any
	if err := guard.DecodePlist(hash, &list, guard.PlistLimits{}); err != nil || list["SALTED-SHA512-PBKDF2"] == nil {
		t.Errorf("the hash is %d bytes, %v", len(hash), err)
	}
	b.says(t, mac, "1", mdm.Acknowledged, "", nil)
	b.asked(t, mac, "2", "SetAutoAdminPassword", `{"GUID":"G2"}`)
	b.next(t, mac, true)
	b.says(t, mac, "2", mdm.Acknowledged, "", nil)
	got := b.holds(t, mac, mdm.AdminPassword)
	if len(got) != 2 || !strings.HasPrefix(got[0], "current ") || got[1] != "current correct horse" {
		t.Errorf("held are %q, want one current for each account", got)
	}
	b.asked(t, mac, "3", "SetAutoAdminPassword", `{"GUID":"G1","passwordHash":"aGFzaA=="}`)
	if got, _ := b.sent(t, mac)["passwordHash"].([]byte); string(got) != "hash" {
		t.Errorf("the hash that was given became %q", got)
	}
	b.says(t, mac, "3", mdm.Acknowledged, "", nil)
	if got := b.holds(t, mac, mdm.AdminPassword); len(got) != 2 {
		t.Errorf("held are %q", got)
	}
}

func TestARecoveryKeyThatNobodyHereCanOpenIsKeptAsItCame(t *testing.T) {
	b := newBench(t)
	mac := b.mac(t, "mac")
	if code := b.ask(t, mac, "0", "RotateFileVaultKey", `{"KeyType":"personal"}`); code != mdm.CodeSecretUnknown {
		t.Errorf("without a key: %q", code)
	}
	rotate := `{"KeyType":"personal","FileVaultUnlock":{"Password":"a user's"}}`
	b.asked(t, mac, "1", "RotateFileVaultKey", rotate)
	if code := b.ask(t, mac, "1b", "RotateFileVaultKey", rotate); code != mdm.CodeSecretPending {
		t.Errorf("another while one is on its way: %q", code)
	}
	b.next(t, mac, true)
	b.says(t, mac, "1", mdm.Acknowledged, "", &command.Entrusted{RecoveryKeyCMS: []byte("sealed for another")})
	all, err := b.Reveal(context.Background(), mac, mdm.FileVaultKey, mdm.Viewer{Actor: "test", Reason: "test"})
	if err != nil || len(all) != 1 || !all[0].Envelope || string(all[0].Value) != "sealed for another" {
		t.Errorf("held are %+v, %v", all, err)
	}
	if code := b.ask(t, mac, "2", "RotateFileVaultKey", `{"KeyType":"personal"}`); code != mdm.CodeSecretUnknown {
		t.Errorf("with a key that can't be opened: %q", code)
	}
	b.asked(t, mac, "3", "SecurityInfo", `{}`)
	b.next(t, mac, true)
	b.says(t, mac, "3", mdm.Acknowledged, "", &command.Entrusted{RecoveryKeyCMS: []byte("of somebody's profile")})
	if got := b.holds(t, mac, mdm.FileVaultKey); len(got) != 1 {
		t.Errorf("held are %q: what a profile escrows with others is not ours", got)
	}
}

func TestBypassCodesAreKeptUntilTheyAreCleared(t *testing.T) {
	b := newBench(t)
	mac := b.mac(t, "mac")
	for i, tt := range []struct{ uuid, code string }{{"1", "AAA"}, {"2", "AAA"}, {"3", "BBB"}} {
		b.asked(t, mac, tt.uuid, "ActivationLockBypassCode", `{}`)
		b.next(t, mac, true)
		b.says(t, mac, tt.uuid, mdm.Acknowledged, "", &command.Entrusted{BypassCode: tt.code})
		if got := b.holds(t, mac, mdm.ActivationLockCode); got[0] != "current "+tt.code || len(got) != 1+i/2 {
			t.Errorf("after %s held are %q", tt.uuid, got)
		}
	}
	b.asked(t, mac, "4", "ClearActivationLockBypassCode", `{}`)
	b.next(t, mac, true)
	b.says(t, mac, "4", mdm.Acknowledged, "", nil)
	b.wantHeld(t, mac, mdm.ActivationLockCode, "previous BBB", "previous AAA")
}

func TestTheSecretsOfOneKindAreBounded(t *testing.T) {
	b := newBench(t)
	mac := b.mac(t, "mac")
	sent := 0
	for ; ; sent++ {
		code := b.ask(t, mac, mdm.NewUUID(), "DeviceLock", `{}`)
		if code == mdm.CodeTooManySecrets {
			break
		}
		if code != "" || sent > 100 {
			t.Fatalf("after %d: %q", sent, code)
		}
	}
	if got := len(b.holds(t, mac, mdm.LockPIN)); got != sent {
		t.Errorf("%d held of %d on their way", got, sent)
	}
	b.order(t, mac)
	for range 20 {
		b.asked(t, mac, mdm.NewUUID(), "DeviceLock", `{}`)
		b.order(t, mac)
	}
	got := b.holds(t, mac, mdm.LockPIN)
	if len(got) != sent || !strings.HasPrefix(got[0], "current ") || !strings.HasPrefix(got[1], "previous ") {
		t.Errorf("held are %q, want the newest %d", got, sent)
	}
}

func TestABootstrapTokenLetsADeviceReturnToService(t *testing.T) {
	b := newBench(t)
	ipad := b.device(t, "ipad", func(d *mdm.Device) {
		yes := true
		d.ProductName, d.OSVersion, d.Supervised, d.EnrolledViaDEP = "iPad14,1", "26.0", &yes, &yes
	})
	erase := `{"ReturnToService":{"Enabled":true,"WiFiProfileData":"d2lmaQ=="}}`
	b.asked(t, ipad, "1", "EraseDevice", erase)
	service, _ := b.sent(t, ipad)["ReturnToService"].(map[string]any)
	if service["BootstrapToken"] != nil {
		t.Errorf("ReturnToService is %v", service)
	}
	b.says(t, ipad, "1", mdm.Failed, "", nil)
	b.update(t, func(tx storage.Tx) error { return b.SetSecret(tx, ipad, mdm.BootstrapToken, []byte("boot")) })
	b.asked(t, ipad, "2", "EraseDevice", erase)
	service, _ = b.sent(t, ipad)["ReturnToService"].(map[string]any)
	if token, _ := service["BootstrapToken"].([]byte); string(token) != "boot" || service["WiFiProfileData"] == nil {
		t.Errorf("ReturnToService is %v", service)
	}
}

func TestWhoSeesASecretIsNoted(t *testing.T) {
	b := newBench(t)
	ctx := context.Background()
	mac := b.mac(t, "mac")
	b.asked(t, mac, "1", "DeviceLock", `{"PIN":"246810"}`)
	viewer := mdm.Viewer{Actor: "user:ana@example.com", Peer: "192.0.2.1", Reason: "found in a drawer"}
	for name, tt := range map[string]struct {
		id   mdm.DeviceID
		kind mdm.SecretKind
	}{
		"another device": {"none", mdm.LockPIN}, "another kind": {mac, mdm.ErasePIN},
	} {
		if _, err := b.Reveal(ctx, tt.id, tt.kind, viewer); !errors.Is(err, storage.ErrNotFound) {
			t.Errorf("of %s: %v", name, err)
		}
	}
	if _, err := b.Reveal(ctx, mac, mdm.LockPIN, viewer); err != nil {
		t.Fatal(err)
	}
	list, err := b.Secrets(ctx, mac)
	if err != nil || len(list) != 1 || list[0].RevealedBy != viewer.Actor || !list[0].RevealedAt.Equal(b.now) || list[0].CommandUUID != "1" || !list[0].CreatedAt.Equal(b.now) {
		t.Errorf("Secrets = %+v, %v", list, err)
	}
	var events []event.Event
	if err := b.db.View(ctx, func(tx storage.Tx) (err error) {
		events, _, err = event.Page(tx, event.Filter{DeviceID: string(mac), Action: "secret."}, "", 10)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if len(events) != 1 {
		t.Fatalf("events = %+v", events)
	}
	e := events[0]
	if e.Action != "secret.revealed" || e.Actor != viewer.Actor || e.Reason != viewer.Reason || e.Peer != viewer.Peer || e.Details["kind"] != "device_lock_pin" || strings.Contains(e.Details["count"], "246810") {
		t.Errorf("the event is %+v", e)
	}
}

// TestNoSecretLeaksFromTheStoreOrTheLog looks for secrets, however they came here, in every
// byte that is stored and every line that is logged.
func TestNoSecretLeaksFromTheStoreOrTheLog(t *testing.T) {
	ctx := context.Background()
	box, err := seal.New(make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	b := &bench{db: storagetest.Open(t), now: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)}
	b.Service, err = mdm.New(mdm.Config{
		DB: b.db, Box: box, Now: func() time.Time { return b.now },
		Log: slog.New(slog.NewJSONHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	if err != nil {
		t.Fatal(err)
	}
	mac := b.mac(t, "mac")
	phone := b.device(t, "phone")
	b.update(t, func(tx storage.Tx) error {
		return errors.Join(b.SetSecret(tx, phone, mdm.UnlockToken, []byte("sentinel-unlock")), b.SetSecret(tx, mac, mdm.BootstrapToken, []byte("sentinel-bootstrap")))
	})
	b.asked(t, phone, "clear", "ClearPasscode", `{}`)
	b.next(t, phone, true)
	for uuid, tt := range map[string]struct{ requestType, params string }{
		"lock":     {"DeviceLock", `{"PIN":"735911"}`},
		"erase":    {"EraseDevice", `{"PIN":"735912"}`},
		"recovery": {"SetRecoveryLock", `{"NewPassword":"sentinel-recovery","CurrentPassword":"sentinel-current"}`},
		"verify":   {"VerifyRecoveryLock", `{"Password":"sentinel-verify"}`},
		"firmware": {"SetFirmwarePassword", `{"NewPassword":"sentinel-firmware"}`},
		"rotate":   {"RotateFileVaultKey", `{"KeyType":"personal","FileVaultUnlock":{"Password":"sentinel-filevault"}}`},
		"admin":    {"SetAutoAdminPassword", `{"GUID":"G","password":"sentinel-admin"}`},
		"bypass":   {"ActivationLockBypassCode", `{}`},
	} {
		b.asked(t, mac, uuid, tt.requestType, tt.params)
	}
	for uuid := b.next(t, mac, true); uuid != ""; uuid = b.next(t, mac, false) {
		var secrets *command.Entrusted
		switch uuid {
		case "rotate":
			secrets = &command.Entrusted{RecoveryKeyCMS: []byte("sentinel-cms")}
		case "bypass":
			secrets = &command.Entrusted{BypassCode: "sentinel-bypass"}
		}
		b.says(t, mac, uuid, mdm.Acknowledged, `{"PasswordVerified":true}`, secrets)
	}
	list, err := b.Secrets(ctx, mac)
	if err != nil {
		t.Fatal(err)
	}
	shown := 0
	for _, kind := range []mdm.SecretKind{mdm.LockPIN, mdm.ErasePIN, mdm.RecoveryLock, mdm.FirmwarePassword, mdm.FileVaultKey, mdm.AdminPassword, mdm.ActivationLockCode} {
		all, err := b.Reveal(ctx, mac, kind, mdm.Viewer{Actor: "test", Reason: "test"})
		if err != nil || len(all) == 0 {
			t.Errorf("%s: %d held, %v", kind, len(all), err)
		}
		shown += len(all)
		slog.New(slog.NewJSONHandler(&log, nil)).Info("revealed", "all", all)
	}
	if shown+1 != len(list) { // and the bootstrap token
		t.Errorf("%d are listed, %d shown", len(list), shown)
	}
	// A hash of what holds six digits is as good as the digits.
	plist, err := command.Build("DeviceLock", map[string]any{"PIN": "735911"}, "lock")
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(plist)
	for _, leak := range []string{hex.EncodeToString(sum[:]), "sentinel", "c2VudGluZW", "735911", "735912", "NzM1OTEx"} {
		if strings.Contains(log.String(), leak) {
			t.Errorf("%q is in the log", leak)
		}
		for _, bucket := range buckets {
			b.update(t, func(tx storage.Tx) error {
				items := 0
				defer func() {
					if items == 0 {
						t.Errorf("bucket %s is empty", bucket)
					}
				}()
				for item, err := range tx.Scan(bucket, storage.Range{}) {
					if err != nil {
						return err
					}
					items++
					if bytes.Contains(item.Value, []byte(leak)) || bytes.Contains(item.Key, []byte(leak)) {
						t.Errorf("%q is in bucket %s", leak, bucket)
					}
				}
				return nil
			})
		}
	}
}

// buckets are those in which the secrets of a device come by.
var buckets = []string{
	"commands", "queue", "command_history", "command_payloads", "command_values", "device_secrets", "device_escrow",
	"escrow_keys", "devices", "event.log", "event.log.by",
}
