package enroll_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/enroll/account"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/mdmtest"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// maker stands for the link to Apple Business Manager.
type maker struct {
	linked bool
	made   int
}

func (m *maker) Announces(storage.Tx) (bool, error) { return m.linked, nil }

func (m *maker) MAIDToken(context.Context) ([]byte, error) {
	m.made++
	return []byte("a token for Apple"), nil
}

func (h *house) decide(t testing.TB, change func(*enroll.AccountDriven)) {
	t.Helper()
	_, err := h.UpdateAccountDriven(context.Background(), func(c *enroll.AccountDriven) error {
		change(c)
		return nil
	})
	must(t, err)
}

func TestATokenIsGivenToWhoIsEnrolledWhereItIsAnnounced(t *testing.T) {
	storagetest.AnyEngine(t)
	apple := &maker{}
	h := houseOn(t, storagetest.Open(t), &clock{time: time.Now().UTC().Truncate(time.Second)}, func(c *enroll.Config) { c.Tokens = apple })
	p := h.enrolled(t, "ana@example.com", iphone)
	ask := func(service string) error {
		data, err := h.GetToken(t.Context(), enroll.Peer{Certificate: p.cert}, enroll.GetTokenMessage{ID: iphone, Service: service})
		if err == nil && string(data) != "a token for Apple" {
			t.Errorf("the token is %q", data)
		}
		return err
	}
	if err := ask(enroll.ServiceMAID); !errors.Is(err, enroll.ErrNotOffered) {
		t.Errorf("without a link to Apple: %v", err)
	}
	announced := func() bool {
		link := h.link(t, enroll.NewLink{Login: enroll.LoginNone})
		signed, _, err := h.NewEnrollment(t.Context(), link.Code)
		must(t, err)
		return strings.Contains(string(signed), "com.apple.mdm.token")
	}
	if announced() {
		t.Error("a profile announces tokens without a link to Apple")
	}
	apple.linked = true
	if !announced() {
		t.Error("a profile announces no tokens with a link to Apple")
	}
	must(t, ask(enroll.ServiceMAID))
	for service, want := range map[string]error{
		"com.apple.unknown":        enroll.ErrBadMessage,
		enroll.ServiceWatchPairing: enroll.ErrNotOffered,
	} {
		if err := ask(service); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", service, err, want)
		}
	}
	must2(h.Unenroll(t.Context(), h.device(t, iphone).ID))(t)
	if err := ask(enroll.ServiceMAID); !errors.Is(err, enroll.ErrGone) || apple.made != 1 {
		t.Errorf("after it has gone: %v, %d tokens made", err, apple.made)
	}
}

// TestAWatchEnrollsWithItsPhone goes the way of a Watch that is paired: it is sent to its
// iPhone for a token, and comes again with that.
func TestAWatchEnrollsWithItsPhone(t *testing.T) {
	storagetest.AnyEngine(t)
	g := newGate(t, enroll.SignatureRequire)
	for pattern, door := range must2(account.New(account.Config{Enroll: g.Service, Log: slog.New(slog.DiscardHandler)}))(t).Routes() {
		g.mux.Handle(pattern, door)
	}
	p := g.enrolled(t, "ana@example.com", iphone)
	built := must2(g.apple.Issue("watch"))(t)
	watch := must2(mdmtest.NewDevice(mdmtest.Options{
		Model: mdmtest.Watch, Transport: g, PlainHTTP: true, BuiltIn: built, Keys: must2(pool())(t),
	}))(t)
	post := func(info mdmtest.Dict) ([]byte, error) {
		prepared, err := watch.PrepareEnrollment("https://mdm.example.com"+enroll.PathWatch, "", info, built)
		must(t, err)
		return watch.SendEnrollment(t.Context(), prepared)
	}
	if _, err := post(watch.MachineInfo()); err == nil || !strings.Contains(err.Error(), "403") || refusedAs(err) != "not refused" {
		t.Errorf("where the operator wants no Watch: %v", err)
	}
	g.decide(t, func(c *enroll.AccountDriven) { c.WatchPairing = true })

	// security returns what the Watch tells its iPhone.
	security := func() string {
		t.Helper()
		_, err := post(watch.MachineInfo())
		refused, ok := errors.AsType[*mdmtest.Refusal](err)
		if !ok || refused.Code != "com.apple.watch.pairing.token.missing" {
			t.Fatalf("the first POST: %v", err)
		}
		token, _ := refused.Details["security-token"].(string)
		return token
	}
	ask := func(m enroll.GetTokenMessage) ([]byte, error) {
		m.Service = enroll.ServiceWatchPairing
		if m.ID == (mdm.AppleID{}) {
			m.ID = iphone
		}
		return g.GetToken(t.Context(), enroll.Peer{Certificate: p.cert}, m)
	}
	st, udid := security(), watch.Options().UDID
	for name, m := range map[string]enroll.GetTokenMessage{
		"another iPhone":             {SecurityToken: st, PhoneUDID: "OTHER", WatchUDID: udid},
		"another Watch":              {SecurityToken: st, PhoneUDID: iphone.UDID, WatchUDID: "OTHER"},
		"no security token":          {PhoneUDID: iphone.UDID, WatchUDID: udid},
		"an unknown security token":  {SecurityToken: mdm.NewUUID(), PhoneUDID: iphone.UDID, WatchUDID: udid},
		"a user channel of a device": {ID: mdm.AppleID{UDID: iphone.UDID, UserID: "U"}, SecurityToken: st, PhoneUDID: iphone.UDID, WatchUDID: udid},
	} {
		if data, err := ask(m); err == nil {
			t.Errorf("%s: it has a token of %d bytes", name, len(data))
		}
	}
	token, err := ask(enroll.GetTokenMessage{SecurityToken: st, PhoneUDID: iphone.UDID, WatchUDID: udid})
	must(t, err)

	with := func(token []byte) mdmtest.Dict {
		info := watch.MachineInfo()
		info["PAIRING_TOKEN"] = token
		return info
	}
	other := with(token)
	other["UDID"] = "00008310-0000000000000001"
	for name, info := range map[string]mdmtest.Dict{"a token that is none": with([]byte("token")), "of another Watch": other} {
		if _, err := post(info); refusedAs(err) != "com.apple.watch.pairing.token.missing" {
			t.Errorf("%s: %v", name, err)
		}
	}
	first, err := post(with(token))
	must(t, err)
	profile, err := post(with(token)) // it has lost the answer
	must(t, err)
	if string(first) == string(profile) {
		t.Error("both profiles have one challenge")
	}
	must(t, watch.EnrollProfile(t.Context(), profile))
	if d := g.device(t, mdm.AppleID{UDID: udid}); d.State != mdm.Enrolled || d.User != "ana@example.com" || d.Type != mdm.TypeDevice || d.Ownership != g.device(t, iphone).Ownership {
		t.Errorf("the Watch is %+v", d)
	}
	if _, err := post(with(token)); refusedAs(err) != "com.apple.watch.pairing.token.missing" {
		t.Errorf("its token again: %v", err)
	}

	late := security()
	token, err = ask(enroll.GetTokenMessage{SecurityToken: late, PhoneUDID: iphone.UDID, WatchUDID: udid})
	must(t, err)
	g.pass(16 * time.Minute)
	if _, err := post(with(token)); refusedAs(err) != "com.apple.watch.pairing.token.missing" {
		t.Errorf("a token of a quarter of an hour ago: %v", err)
	}
}

// refusedAs returns the code by which a device was refused.
func refusedAs(err error) string {
	refused, ok := errors.AsType[*mdmtest.Refusal](err)
	if !ok {
		return "not refused" // as an enrollment is
	}
	return refused.Code
}
