package enroll_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/depot"
	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// fleet enrols n devices.
func (h *house) fleet(t *testing.T, n int) (phones []phone) {
	t.Helper()
	for i := range n {
		phones = append(phones, h.enrolled(t, "ana", mdm.AppleID{UDID: fmt.Sprintf("AAAA-%04d", i)}))
	}
	return phones
}

func (h *house) round(t *testing.T) {
	t.Helper()
	must(t, h.Round(context.Background()))
}

func (h *house) rollOver(t *testing.T, name string, o enroll.StartRollover) enroll.Rollover {
	t.Helper()
	r, _, err := h.RollOver(context.Background(), name, o)
	must(t, err)
	return r
}

// stages returns how far the devices of phones are in the rollover of an authority.
func (h *house) stages(t *testing.T, name string, phones ...phone) (list []enroll.RolloverStage) {
	t.Helper()
	by := map[mdm.DeviceID]enroll.Progress{}
	for cursor, first := "", true; first || cursor != ""; first = false { // page by page
		page, next, err := h.Progress(context.Background(), name, cursor, 2)
		must(t, err)
		for _, p := range page {
			if (p.Blocker == "") != (p.Stage == enroll.RolledOver) {
				t.Errorf("%s is %s, and is blocked by %q", p.DeviceID, p.Stage, p.Blocker)
			}
			by[p.DeviceID] = p
		}
		cursor = next
	}
	for _, p := range phones {
		list = append(list, by[h.device(t, p.id).ID].Stage)
	}
	return list
}

func wantStages(t *testing.T, what string, got []enroll.RolloverStage, want ...enroll.RolloverStage) {
	t.Helper()
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%s the devices are %v, want %v", what, got, want)
	}
}

// status returns the latest rollover of an authority.
func (h *house) status(t *testing.T, name string) enroll.RolloverStatus {
	t.Helper()
	all, err := h.Rollovers(context.Background())
	must(t, err)
	for _, r := range all {
		if r.Authority == name {
			return r
		}
	}
	t.Fatalf("there is no rollover of %s", name)
	return enroll.RolloverStatus{}
}

// renews lets a device take the renewal that it was sent, and returns it with its new
// identity.
func (p phone) renews(t *testing.T) phone {
	t.Helper()
	r := p.h.fetchRenewal(t, p)
	cert, err := p.h.IssueIdentity(context.Background(), p.h.renewalRequest(t, r.signed))
	must(t, err)
	r.renewed = phone{h: p.h, id: p.id, cert: cert}
	must(t, r.renewed.authenticate())
	must(t, r.renewed.tokenUpdate("magic-2"))
	must(t, r.renewed.report(r.uuid, mdm.Acknowledged))
	return r.renewed
}

// seen lets a device poll when there is nothing for it.
func (p phone) seen(t *testing.T) {
	t.Helper()
	if plist, err := p.idle(); err != nil || plist != "" {
		t.Fatalf("poll = %q, %v, want nothing", plist, err)
	}
}

// wantInUse says that an authority can't be retired because of devices.
func (h *house) wantInUse(t *testing.T, name, id string, devices ...phone) {
	t.Helper()
	_, err := h.RetireAuthority(context.Background(), name, id, enroll.Retirement{})
	var inUse *enroll.InUseError
	if !errors.As(err, &inUse) || inUse.Total != len(devices) || len(inUse.Blockers) != len(devices) {
		t.Fatalf("RetireAuthority = %v, want it to be in use by %d", err, len(devices))
	}
	for _, p := range devices {
		id := h.device(t, p.id).ID
		if !slices.ContainsFunc(inUse.Blockers, func(b enroll.Blocker) bool {
			return b.Kind == enroll.BlockedByDevice && b.DeviceID == id && strings.Contains(b.Reason, "last heard of")
		}) {
			t.Errorf("blockers are %+v, and the device %s is not among them", inUse.Blockers, id)
		}
	}
}

// audited counts the events of an action.
func (h *house) audited(t *testing.T, action string) (n int) {
	t.Helper()
	h.view(t, func(tx storage.Tx) error {
		n = 0
		for item, err := range tx.Scan("event.log", storage.Range{}) {
			if err != nil {
				return err
			}
			if bytes.Contains(item.Value, []byte(`"action":"`+action+`"`)) {
				n++
			}
		}
		return nil
	})
	return n
}

func TestTheIdentityCAIsRolledOverDeviceByDevice(t *testing.T) {
	keyring.reset()
	ctx := context.Background()
	h := newHouse(t)
	phones := h.fleet(t, 3)
	old := h.depot.Identity()

	r := h.rollOver(t, "identity", enroll.StartRollover{PerHour: 60})
	if r.To == old.ID() || h.depot.Identity().ID() != r.To || r.PerHour != 60 || r.ActivatedAt.IsZero() {
		t.Fatalf("the rollover is %+v, active is %s", r, h.depot.Identity().ID())
	}
	wantStages(t, "at first", h.stages(t, "identity", phones...), enroll.PendingRenewal, enroll.PendingRenewal, enroll.PendingRenewal)
	if _, _, err := h.RollOver(ctx, "identity", enroll.StartRollover{}); !errors.Is(err, enroll.ErrRolloverUnderWay) {
		t.Errorf("another one = %v, want %v", err, enroll.ErrRolloverUnderWay)
	}
	h.pass(time.Minute)
	h.wantInUse(t, "identity", old.ID(), phones...)

	// Each has its turn, a minute after the one before.
	renewing := func() (n int) {
		for _, p := range phones {
			if h.device(t, p.id).Renewal != nil {
				n++
			}
		}
		return n
	}
	h.round(t)
	for want := 1; want <= 3; want++ {
		h.pass(time.Minute)
		h.round(t)
		if n := renewing(); n != want {
			t.Fatalf("in minute %d, %d devices were sent a profile", want, n)
		}
	}

	// Two of them are online. What they are sent is for the new CA.
	for i := range 2 {
		fetched := h.fetchRenewal(t, phones[i])
		scep := payloads(t, fetched.signed)["com.apple.security.scep"]["PayloadContent"].(map[string]any)
		sum := sha256.Sum256(h.depot.Identity().Certificate().Raw)
		if print, _ := scep["CAFingerprint"].([]byte); !bytes.Equal(print, sum[:]) || scep["Name"] != "Gatehouse "+r.To {
			t.Errorf("the profile is for %q with the fingerprint %x", scep["Name"], print)
		}
		phones[i] = phones[i].renews(t)
		if rec := h.record(t, phones[i].cert); rec.Issuer != r.To {
			t.Errorf("the new identity is from %s, want %s", rec.Issuer, r.To)
		}
	}
	wantStages(t, "with two that are online", h.stages(t, "identity", phones...), enroll.RolledOver, enroll.RolledOver, enroll.RenewalRunning)
	h.wantInUse(t, "identity", old.ID(), phones[2])
	if s := h.status(t, "identity"); s.Counts[enroll.RolledOver] != 2 || len(s.Unfinished) != 1 || s.Unfinished[0].DeviceID != h.device(t, phones[2].id).ID {
		t.Errorf("the status is %+v", s)
	}

	// The third is away for so long that its renewal runs out; nothing is sent meanwhile.
	for range 4 {
		h.pass(25 * time.Hour)
		h.round(t)
	}
	wantStages(t, "with one that is away", h.stages(t, "identity", phones...), enroll.RolledOver, enroll.RolledOver, enroll.PendingRenewal)
	h.wantInUse(t, "identity", old.ID(), phones[2])
	if !h.status(t, "identity").FinishedAt.IsZero() {
		t.Error("the rollover is finished without it")
	}

	// It comes back, and is sent the profile again.
	phones[2].seen(t)
	h.round(t)
	phones[2] = phones[2].renews(t)
	h.pass(10 * time.Minute)
	h.round(t)
	if s := h.status(t, "identity"); s.FinishedAt.IsZero() || h.audited(t, "ca.rollover_finished") != 1 {
		t.Errorf("the rollover is %+v, want it finished", s)
	}
	gone, err := h.RetireAuthority(ctx, "identity", old.ID(), enroll.Retirement{})
	must(t, err)
	if gone.State() != depot.StateRetired || h.audited(t, "ca.retired") != 1 {
		t.Errorf("it is %s", gone.State())
	}
	for _, p := range phones {
		p.seen(t)
	}
	// Later ones enrol with the new CA, and another rollover may begin.
	late := h.enrolled(t, "ana", iphone)
	if rec := h.record(t, late.cert); rec.Issuer != r.To {
		t.Errorf("a new identity is from %s, want %s", rec.Issuer, r.To)
	}
	h.rollOver(t, "identity", enroll.StartRollover{})
}

func TestAnAuthorityIsNotRetiredUnderAnEnrollment(t *testing.T) {
	storagetest.AnyEngine(t)
	keyring.reset()
	ctx := context.Background()
	h := newHouse(t)
	p := h.withIdentity(t, h.link(t, enroll.NewLink{}), iphone)
	old := h.depot.Identity()
	h.rollOver(t, "identity", enroll.StartRollover{})
	if _, err := h.RetireAuthority(ctx, "identity", old.ID(), enroll.Retirement{}); errors.Is(err, depot.ErrNotSettled) {
		t.Errorf("RetireAuthority = %v, want it to name the enrollment first", err)
	}
	h.pass(time.Minute)
	var inUse *enroll.InUseError
	if _, err := h.RetireAuthority(ctx, "identity", old.ID(), enroll.Retirement{}); !errors.As(err, &inUse) || inUse.Total != 1 || inUse.Blockers[0].Kind != enroll.BlockedByEnrollment {
		t.Errorf("RetireAuthority = %v, want an enrollment to block it", err)
	}
	must(t, p.authenticate())
	h.wantInUse(t, "identity", old.ID(), p)
	must(t, p.tokenUpdate("magic"))
	h.round(t)
	h.pass(time.Minute)
	h.round(t)
	p.renews(t)
	if _, err := h.RetireAuthority(ctx, "identity", old.ID(), enroll.Retirement{}); err != nil {
		t.Error(err)
	}
	for what, err := range map[string]error{
		"the active one":          second(h.RetireAuthority(ctx, "identity", h.depot.Identity().ID(), enroll.Retirement{})),
		"one of another name":     second(h.RetireAuthority(ctx, "identity", h.depot.Root().ID(), enroll.Retirement{})),
		"one that does not exist": second(h.RetireAuthority(ctx, "identity", "0123456789abcdef", enroll.Retirement{})),
	} {
		if !errors.Is(err, depot.ErrNotRetirable) && !errors.Is(err, storage.ErrNotFound) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func second[A any](_ A, err error) error { return err }

func TestTheRootChangesWhenEveryDeviceTrustsTheNewOne(t *testing.T) {
	storagetest.AnyEngine(t)
	keyring.reset()
	h := newHouse(t)
	phones := h.fleet(t, 2)
	old := h.depot.Root()
	r := h.rollOver(t, "root", enroll.StartRollover{})
	if !r.ActivatedAt.IsZero() || h.depot.Root() != old {
		t.Fatal("the root changed at once")
	}
	wantStages(t, "at first", h.stages(t, "root", phones...), enroll.PendingTrust, enroll.PendingTrust)
	h.pass(2 * time.Minute)
	late := h.enrolled(t, "ana", iphone) // its profile has both roots
	h.round(t)

	acknowledge := func(p phone) {
		t.Helper()
		got := h.fetchRenewal(t, p)
		roots := 0
		for _, payload := range allPayloads(t, got.signed) {
			if payload["PayloadType"] == "com.apple.security.root" {
				roots++
			}
		}
		if roots != 2 {
			t.Errorf("the profile has %d roots, want the old and the new one", roots)
		}
		must(t, p.report(got.uuid, mdm.Acknowledged))
	}
	acknowledge(phones[0])
	h.pass(6 * time.Minute)
	h.round(t)
	wantStages(t, "after the first", h.stages(t, "root", append(phones, late)...), enroll.Trusted, enroll.PendingTrust, enroll.Trusted)
	if h.depot.Root() != old {
		t.Fatal("the root changed before all trust the new one")
	}
	acknowledge(phones[1])
	h.pass(6 * time.Minute)
	h.round(t)
	if h.depot.Root().ID() != r.To || h.audited(t, "ca.activated") != 1 {
		t.Fatal("the root did not change")
	}
	h.pass(6 * time.Minute)
	h.round(t)
	if s := h.status(t, "root"); s.FinishedAt.IsZero() || s.Forced {
		t.Errorf("the rollover is %+v, want it finished", s)
	}
	late.seen(t)

	// The issuer below the old root goes first.
	ctx := context.Background()
	var inUse *enroll.InUseError
	if _, err := h.RetireAuthority(ctx, "root", old.ID(), enroll.Retirement{}); !errors.As(err, &inUse) || inUse.Total != 1 || inUse.Blockers[0].Kind != enroll.BlockedByAuthority {
		t.Errorf("RetireAuthority = %v, want the issuer to block it", err)
	}
	issuer := h.depot.Payload()
	h.rollOver(t, "payload", enroll.StartRollover{})
	h.pass(time.Minute)
	for name, id := range map[string]string{"payload": issuer.ID()} {
		if _, err := h.RetireAuthority(ctx, name, id, enroll.Retirement{}); err != nil {
			t.Error(err)
		}
	}
	if _, err := h.RetireAuthority(ctx, "root", old.ID(), enroll.Retirement{}); err != nil {
		t.Error(err)
	}
}

func TestARootThatIsForcedNamesWhoIsLost(t *testing.T) {
	storagetest.AnyEngine(t)
	keyring.reset()
	ctx := context.Background()
	h := newHouse(t)
	phones := h.fleet(t, 2)
	r := h.rollOver(t, "root", enroll.StartRollover{})
	h.pass(2 * time.Minute)
	h.round(t)
	must(t, phones[0].report(h.fetchRenewal(t, phones[0]).uuid, mdm.Acknowledged))
	refused := h.fetchRenewal(t, phones[1])
	must(t, phones[1].report(refused.uuid, mdm.Failed))
	got, lost, err := h.RollOver(ctx, "root", enroll.StartRollover{Force: true})
	must(t, err)
	if len(lost) != 1 || lost[0].DeviceID != h.device(t, phones[1].id).ID || !strings.Contains(lost[0].Blocker, "did not take") {
		t.Errorf("lost are %+v, want the second device", lost)
	}
	if got.To != r.To || !got.Forced || h.depot.Root().ID() != r.To {
		t.Errorf("the rollover is %+v", got)
	}
	// Who does not trust the new root, but was heard of, is still sent it a day later.
	phones[1].seen(t)
	h.pass(25 * time.Hour)
	phones[1].seen(t)
	h.round(t)
	must(t, phones[1].report(h.fetchRenewal(t, phones[1]).uuid, mdm.Acknowledged))
	h.pass(10 * time.Minute)
	h.round(t)
	if h.status(t, "root").FinishedAt.IsZero() {
		t.Error("the rollover is not finished")
	}
}

func TestTwoReplicasStartOneRollover(t *testing.T) {
	keyring.reset()
	h := newHouse(t)
	h.fleet(t, 2)
	start := func(h *house) error {
		_, _, err := h.RollOver(context.Background(), "identity", enroll.StartRollover{})
		return err
	}
	a, b := h.atOnce(t, start, start)
	if (a == nil) == (b == nil) {
		t.Fatalf("they end with %v and %v, want one of them to fail", a, b)
	}
	must(t, h.depot.Reload(context.Background()))
	if n := len(h.depot.Generations("identity")); n != 2 {
		t.Errorf("there are %d generations, want 2", n)
	}
	if n := h.audited(t, "ca.rollover_started"); n != 1 {
		t.Errorf("%d rollovers started, want 1", n)
	}
	// Two that give turns at once give each device one.
	a, b = h.atOnce(t, func(h *house) error { return h.ContinueRollovers(context.Background()) }, func(h *house) error { return h.ContinueRollovers(context.Background()) })
	must(t, errors.Join(a, b))
	h.round(t)
	if s := h.status(t, "identity"); s.Counts[enroll.RenewalRunning]+s.Counts[enroll.PendingRenewal] != 2 {
		t.Errorf("the status is %+v", s)
	}
}

func TestAReplicaThatDoesNotKnowYetIssuesByTheNewAuthority(t *testing.T) {
	keyring.reset()
	h := newHouse(t)
	secret, _ := h.challenge(t, h.link(t, enroll.NewLink{}))
	other := houseOn(t, h.db, h.clock)
	r := other.rollOver(t, "identity", enroll.StartRollover{})
	if h.depot.Identity().ID() == r.To {
		t.Fatal("it knows of the new authority")
	}
	cert, err := h.IssueIdentity(context.Background(), request(t, keyring.take(t), secret))
	must(t, err)
	if rec := h.record(t, cert); rec.Issuer != r.To {
		t.Errorf("the certificate is from %s, want %s", rec.Issuer, r.To)
	}
	if err := cert.CheckSignatureFrom(other.depot.Identity().Certificate()); err != nil {
		t.Error(err)
	}
}

// ownCA returns a root with its key, as somebody else's.
func ownCA(t *testing.T) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Example Root"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(10, 0, 0),
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, BasicConstraintsValid: true, IsCA: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	must(t, err)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	must(t, err)
	return append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})...)
}

func TestAnImportedRootComesIntoForce(t *testing.T) {
	storagetest.AnyEngine(t)
	ctx := context.Background()
	t.Run("at once where nobody relies on the one before", func(t *testing.T) {
		h := newHouse(t)
		_, _, err := h.depot.TLSCertificate(ctx, []string{"mdm.example.com"}, nil) // the server's own
		must(t, err)
		a, err := h.ImportAuthority(ctx, "root", depot.Import{Data: ownCA(t)})
		must(t, err)
		if a.State() != depot.StateActive || h.depot.Root().ID() != a.ID() || h.audited(t, "ca.imported") != 1 {
			t.Errorf("it is %s", a.State())
		}
		if err := h.depot.Payload().Certificate().CheckSignatureFrom(a.Certificate()); err != nil {
			t.Errorf("the issuer is not below it: %v", err)
		}
	})
	t.Run("by a rollover where there is a device", func(t *testing.T) {
		keyring.reset()
		h := newHouse(t)
		p := h.fleet(t, 1)[0]
		a, err := h.ImportAuthority(ctx, "root", depot.Import{Data: ownCA(t)})
		must(t, err)
		if a.State() != depot.StateNext {
			t.Fatalf("it is %s, want next", a.State())
		}
		if r := h.rollOver(t, "root", enroll.StartRollover{}); r.To != a.ID() {
			t.Errorf("the rollover is to %s, want %s", r.To, a.ID())
		}
		h.pass(2 * time.Minute)
		h.round(t)
		must(t, p.report(h.fetchRenewal(t, p).uuid, mdm.Acknowledged))
		h.pass(6 * time.Minute)
		h.round(t)
		if h.depot.Root().ID() != a.ID() {
			t.Error("it did not come into force")
		}
		warned := false
		all, err := h.Authorities(ctx)
		must(t, err)
		for _, one := range all {
			if one.Name() == "payload" && one.State() == depot.StateActive {
				warned = len(one.Warnings) == 1 && strings.Contains(one.Warnings[0], "below a root that is retiring")
			}
		}
		if !warned {
			t.Error("there is no warning that the issuer is below the root before")
		}
	})
	t.Run("a next one that is not wanted is discarded", func(t *testing.T) {
		keyring.reset()
		h := newHouse(t)
		h.fleet(t, 1)
		theirs := ownCA(t)
		a, err := h.ImportAuthority(ctx, "root", depot.Import{Data: theirs})
		must(t, err)
		h.rollOver(t, "root", enroll.StartRollover{})
		if _, err := h.RetireAuthority(ctx, "root", a.ID(), enroll.Retirement{}); err != nil {
			t.Fatal(err)
		}
		if all, err := h.Rollovers(ctx); err != nil || len(all) != 0 || h.depot.Next("root") != nil {
			t.Errorf("there is a rollover to it still: %v, %v", all, err)
		}
		h.round(t)
		again, err := h.ImportAuthority(ctx, "root", depot.Import{Data: theirs})
		must(t, err)
		if again.ID() != a.ID() || again.State() != depot.StateNext {
			t.Errorf("imported again it is %s", again.State())
		}
	})
}

func TestHowManyAnHour(t *testing.T) {
	storagetest.AnyEngine(t)
	h := newHouse(t)
	for n, ok := range map[int]bool{-1: false, 1: true, enroll.MaxPerHour: true, enroll.MaxPerHour + 1: false} {
		_, _, err := h.RollOver(context.Background(), "payload", enroll.StartRollover{PerHour: n, Force: true})
		var wrong *enroll.FieldError
		if ok != (err == nil) || !ok && (!errors.As(err, &wrong) || wrong.Field != "per_hour") {
			t.Errorf("%d an hour: %v", n, err)
		}
	}
	if _, _, err := h.RollOver(context.Background(), "office", enroll.StartRollover{}); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("of no authority: %v, want %v", err, storage.ErrNotFound)
	}
}

func TestTheEndOfAnAuthorityIsTold(t *testing.T) {
	ctx := context.Background()
	h := newHouse(t)
	end := h.depot.Identity().Certificate().NotAfter
	warnings := func() int {
		all, err := h.Authorities(ctx)
		must(t, err)
		return len(all[0].Warnings)
	}
	for _, tt := range []struct {
		before time.Duration
		events int // of each authority, so far
	}{{400 * 24 * time.Hour, 0}, {364 * 24 * time.Hour, 1}, {200 * 24 * time.Hour, 1}, {89 * 24 * time.Hour, 2}, {29 * 24 * time.Hour, 3}, {time.Hour, 3}, {-time.Hour, 4}} {
		h.pass(end.Add(-tt.before).Sub(h.now()))
		for range 2 { // two days, or two replicas
			must(t, h.WarnOfExpiry(ctx))
		}
		if n := h.audited(t, "ca.expiring"); n != 3*tt.events {
			t.Errorf("%v before the end there are %d events, want %d", tt.before, n, 3*tt.events)
		}
		if n := warnings(); (n == 1) != (tt.events > 0) {
			t.Errorf("%v before the end there are %d warnings", tt.before, n)
		}
	}
	r := h.rollOver(t, "identity", enroll.StartRollover{})
	if a := h.depot.Authority(r.To); !a.Certificate().NotAfter.After(end) || warnings() != 0 {
		t.Errorf("the next one ends at %v, with %d warnings", a.Certificate().NotAfter, warnings())
	}
}

// TestTurnsAreApart checks that a large fleet is not asked for all at once.
func TestTurnsAreApart(t *testing.T) {
	storagetest.AnyEngine(t)
	keyring.reset()
	h := newHouse(t)
	h.fleet(t, 5)
	h.rollOver(t, "identity", enroll.StartRollover{PerHour: 2})
	h.round(t)
	var turns []time.Time
	h.view(t, func(tx storage.Tx) error {
		turns = nil
		for c, err := range h.depot.DueForRenewal(tx, h.now().AddDate(0, 0, 1), 0) {
			if err != nil {
				return err
			}
			turns = append(turns, c.RenewAt)
		}
		return nil
	})
	if len(turns) != 5 {
		t.Fatalf("%d devices have a turn within a day, want 5", len(turns))
	}
	for i := 1; i < len(turns); i++ {
		if d := turns[i].Sub(turns[i-1]); d != 30*time.Minute {
			t.Errorf("turn %d comes %v after the one before, want half an hour", i+1, d)
		}
	}
	// Another pass changes nothing.
	h.pass(6 * time.Minute)
	h.round(t)
	if s := h.status(t, "identity"); s.Counts[enroll.RenewalRunning] != 1 || s.Counts[enroll.PendingRenewal] != 4 {
		t.Errorf("after six minutes the counts are %v, want one renewing", s.Counts)
	}
}

// A root is given up at one replica while a rollover to it begins at another.
func TestARootIsGivenUpAsARolloverToItBegins(t *testing.T) {
	keyring.reset()
	ctx := context.Background()
	h := newHouse(t)
	h.fleet(t, 1)
	next, err := h.depot.Generate(ctx, "root", nil)
	must(t, err)
	began, retired := h.atOnce(t,
		func(h *house) error { return second3(h.RollOver(ctx, "root", enroll.StartRollover{})) },
		func(h *house) error { return second(h.RetireAuthority(ctx, "root", next.ID(), enroll.Retirement{})) })
	if retired != nil || began != nil && !errors.Is(began, storage.ErrNotFound) {
		t.Errorf("the two end with %v and %v, want the root to be given up", began, retired)
	}
	must(t, h.depot.Reload(ctx))
	all, err := h.Rollovers(ctx)
	must(t, err)
	// One that begins when it is all over makes a root of its own.
	if there := h.depot.Next("root"); len(all) != 0 && (there == nil || there.ID() != all[0].To) {
		t.Errorf("there is a rollover to a root that was given up: %+v", all[0])
	}
}

func second3[A, B any](_ A, _ B, err error) error { return err }

func TestARolloverWhoseRootIsGone(t *testing.T) {
	storagetest.AnyEngine(t)
	keyring.reset()
	ctx := context.Background()
	h := newHouse(t)
	h.fleet(t, 1)
	r := h.rollOver(t, "root", enroll.StartRollover{})
	must(t, h.db.Update(ctx, func(tx storage.Tx) error { return tx.Delete("authority", []byte("root.2")) }))
	if _, _, err := h.RollOver(ctx, "root", enroll.StartRollover{}); !errors.Is(err, enroll.ErrRolloverUnderWay) {
		t.Errorf("another one = %v, want %v", err, enroll.ErrRolloverUnderWay)
	}
	h.pass(time.Minute)
	again := h.rollOver(t, "root", enroll.StartRollover{Force: true})
	if again.StartedAt.Equal(r.StartedAt) || !again.ActivatedAt.IsZero() || h.depot.Next("root") == nil || h.depot.Next("root").ID() != again.To {
		t.Errorf("forced it is %+v, want one to a root that is there, and that waits for the devices", again)
	}
}
