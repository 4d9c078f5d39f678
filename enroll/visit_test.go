package enroll_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/event"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// person makes a user of the house.
func (h *house) person(t testing.TB, n identity.NewUser) identity.User {
	t.Helper()
	people, err := identity.New(identity.Config{DB: h.db, Log: slog.New(slog.DiscardHandler), Now: h.now, HashMemory: 64})
	if err != nil {
		t.Fatal(err)
	}
	u, err := people.CreateUser(context.Background(), identity.Local(), n)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// visit begins a visit.
func (h *house) visit(t testing.TB, n enroll.NewVisit) enroll.Attempt {
	t.Helper()
	a, err := h.BeginVisit(context.Background(), n)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// come has the device of a profile enrol: certificate, Authenticate, TokenUpdate.
func (h *house) come(t testing.TB, signed []byte, udid string) phone {
	t.Helper()
	cert, err := h.IssueIdentity(context.Background(), request(t, keyring.take(t), challengeIn(t, signed)))
	if err != nil {
		t.Fatal(err)
	}
	p := phone{h, mdm.AppleID{UDID: udid}, cert}
	if err := p.authenticate(); err != nil {
		t.Fatal(err)
	}
	if err := p.tokenUpdate("magic"); err != nil {
		t.Fatal(err)
	}
	return p
}

func TestVisitFromTheFirstPageToTheDevice(t *testing.T) {
	keyring.reset()
	ctx := context.Background()
	h := newHouse(t)
	ana := h.person(t, identity.NewUser{Email: "ana@example.com", Password: "correct horse"})

	a := h.visit(t, enroll.NewVisit{Platform: "ios", Major: 26})
	if a.Stage != enroll.Opened || !a.Visit.MayAsk || a.User != "" {
		t.Fatalf("begun: %+v", a)
	}
	if _, _, err := h.VisitProfile(ctx, a.ID); !errors.Is(err, enroll.ErrNotReady) {
		t.Fatalf("profile before sign-in: %v", err)
	}
	if _, err := h.Choose(ctx, a.ID, enroll.Choice{Ownership: mdm.Personal}); !errors.Is(err, enroll.ErrNotReady) {
		t.Fatalf("choice before sign-in: %v", err)
	}
	changed, stop := h.Watch(a.ID)
	defer stop()
	a, err := h.SignedIn(ctx, a.ID, ana)
	if err != nil || a.Stage != enroll.Authenticated || a.User != "ana@example.com" {
		t.Fatalf("signed in: %+v, %v", a, err)
	}
	<-changed // a page that shows it looks again
	o, err := h.Options(ctx, a)
	if err != nil || !slices.Equal(o.Ownerships, []mdm.Ownership{mdm.Institutional, mdm.Personal}) {
		t.Fatalf("options: %+v, %v", o, err)
	}
	if a, err = h.Choose(ctx, a.ID, enroll.Choice{Ownership: mdm.Personal, Agreed: true}); err != nil || a.Visit.AgreedAt.IsZero() {
		t.Fatalf("chosen: %+v, %v", a, err)
	}
	signed, a, err := h.VisitProfile(ctx, a.ID)
	if err != nil || a.Stage != enroll.ProfileDownloaded {
		t.Fatalf("profile: %+v, %v", a, err)
	}
	reduced := enroll.Rights{Preset: enroll.PresetReduced}.Bits()
	if got := payloads(t, signed)["com.apple.mdm"]["AccessRights"]; got != uint64(reduced) {
		t.Errorf("AccessRights = %v, want %d", got, reduced)
	}
	p := h.come(t, signed, "UDID-1")
	f, err := h.Follow(ctx, a.ID)
	if err != nil || f.Stage != enroll.Enrolled || f.Device == nil {
		t.Fatalf("followed: %+v, %v", f, err)
	}
	if f.Device.AccessRights != reduced || f.Device.Ownership != mdm.Personal || f.Device.User != "ana@example.com" {
		t.Errorf("device: %+v", f.Device.Device)
	}
	if _, err := h.Choose(ctx, a.ID, enroll.Choice{Ownership: mdm.Institutional}); !errors.Is(err, enroll.ErrAttemptOver) {
		t.Errorf("choice after enrolling: %v", err)
	}
	if _, err := h.TryAgain(ctx, a.ID); !errors.Is(err, enroll.ErrAttemptOver) {
		t.Errorf("another try after enrolling: %v", err)
	}

	// The same device again finds its record, and the person is told.
	h.clock.pass(time.Hour)
	again := h.visit(t, enroll.NewVisit{})
	if again, err = h.SignedIn(ctx, again.ID, ana); err != nil {
		t.Fatal(err)
	}
	if o, err = h.Options(ctx, again); err != nil || len(o.Devices) != 1 || o.Devices[0].AppleID != p.id {
		t.Errorf("devices of the person: %+v, %v", o.Devices, err)
	}
	if _, err = h.Choose(ctx, again.ID, enroll.Choice{Ownership: mdm.Personal}); err != nil {
		t.Fatal(err)
	}
	if signed, _, err = h.VisitProfile(ctx, again.ID); err != nil {
		t.Fatal(err)
	}
	h.come(t, signed, "UDID-1")
	g, err := h.Follow(ctx, again.ID)
	if err != nil || g.DeviceID != f.DeviceID || g.Before == nil || !g.Before.EnrolledAt.Equal(f.Device.EnrolledAt) {
		t.Errorf("enrolled again: %+v, %v", g.Attempt, err)
	}
	if f.Before != nil {
		t.Errorf("a new device was one before: %+v", f.Before)
	}
}

func TestChoiceVoidsTheProfilesBefore(t *testing.T) {
	storagetest.AnyEngine(t)
	keyring.reset()
	ctx := context.Background()
	h := newHouse(t)
	a := h.visit(t, enroll.NewVisit{LinkCode: h.link(t, enroll.NewLink{Ask: true, Uses: 1}).Code})
	if a.Stage != enroll.Authenticated {
		t.Fatalf("stage = %s: nobody asks who it is", a.Stage)
	}
	profileAs := func(c enroll.Choice) []byte {
		t.Helper()
		if _, err := h.Choose(ctx, a.ID, c); err != nil {
			t.Fatal(err)
		}
		signed, _, err := h.VisitProfile(ctx, a.ID)
		if err != nil {
			t.Fatal(err)
		}
		return signed
	}
	full := profileAs(enroll.Choice{Ownership: mdm.Institutional})
	twice := profileAs(enroll.Choice{Ownership: mdm.Institutional}) // Safari may fetch twice
	reduced := profileAs(enroll.Choice{Ownership: mdm.Personal})
	for name, old := range map[string][]byte{"first": full, "second": twice} {
		if _, err := h.IssueIdentity(ctx, request(t, keyring.take(t), challengeIn(t, old))); !errors.Is(err, enroll.ErrChallenge) {
			t.Errorf("certificate for the %s profile, which was given up: %v", name, err)
		}
	}
	h.come(t, reduced, "UDID-1")
}

func TestAProfileHasTheRightsThatAreNoted(t *testing.T) {
	storagetest.AnyEngine(t)
	for name, tt := range map[string]struct {
		then enroll.Preset // when the profile is downloaded again
		old  bool          // the first download is good for something still
	}{
		"with the same rights, both are good": {enroll.PresetReduced, true},
		"with others, the first is void":      {enroll.PresetFull, false},
	} {
		t.Run(name, func(t *testing.T) {
			keyring.reset()
			ctx := context.Background()
			h := newHouse(t)
			a := h.visit(t, enroll.NewVisit{LinkCode: h.link(t, enroll.NewLink{Ownership: mdm.Personal, Uses: 2}).Code})
			first, _, err := h.VisitProfile(ctx, a.ID)
			must(t, err)
			_, err = h.UpdateSettings(ctx, func(s *enroll.Settings) error {
				s.Personal.Rights.Preset = tt.then
				return nil
			})
			must(t, err)
			second, _, err := h.VisitProfile(ctx, a.ID)
			must(t, err)
			signed := second
			if tt.old {
				signed = first
			} else {
				_, err = h.IssueIdentity(ctx, request(t, keyring.take(t), challengeIn(t, first)))
				wantErr(t, "a certificate for the first", err, enroll.ErrChallenge)
			}
			h.come(t, signed, "UDID-1")
			rights := enroll.Rights{Preset: tt.then}.Bits()
			if got := h.device(t, mdm.AppleID{UDID: "UDID-1"}).AccessRights; got != rights || payloads(t, signed)["com.apple.mdm"]["AccessRights"] != uint64(rights) {
				t.Errorf("the device is known with %d, want %d, as its profile says", got, rights)
			}
		})
	}
}

func TestFailuresAreKeptForThoseWhoAsk(t *testing.T) {
	storagetest.AnyEngine(t)
	ctx := context.Background()
	h := newHouse(t)
	l := h.link(t, enroll.NewLink{})
	_, fetched := h.challenge(t, l)
	visited := h.visit(t, enroll.NewVisit{LinkCode: l.Code})
	_, _, err := h.VisitProfile(ctx, visited.ID)
	must(t, err)
	must(t, h.RevokeLink(ctx, l.ID))
	kept := func(id string) bool {
		_, err := h.Attempt(ctx, id)
		if err != nil && !errors.Is(err, storage.ErrNotFound) {
			t.Fatal(err)
		}
		return err == nil
	}
	for _, tt := range []struct {
		pass             time.Duration
		fetched, visited bool
	}{{23 * time.Hour, true, true}, {2 * time.Hour, false, true}, {28 * 24 * time.Hour, false, true}, {24 * time.Hour, false, false}} {
		h.pass(tt.pass)
		must(t, h.Round(ctx))
		if a, b := kept(fetched.ID), kept(visited.ID); a != tt.fetched || b != tt.visited {
			t.Errorf("at %v, what a program fetched is kept: %v, and a person's: %v; want %v, %v", h.now(), a, b, tt.fetched, tt.visited)
		}
	}
}

func TestAnotherTryTakesNoSecondUse(t *testing.T) {
	storagetest.AnyEngine(t)
	keyring.reset()
	ctx := context.Background()
	h := newHouse(t)
	l := h.link(t, enroll.NewLink{Uses: 1, Ownership: mdm.Institutional})
	a := h.visit(t, enroll.NewVisit{LinkCode: l.Code})
	waiting := h.visit(t, enroll.NewVisit{LinkCode: l.Code})
	signed, _, err := h.VisitProfile(ctx, a.ID)
	if err != nil {
		t.Fatal(err)
	}
	r := request(t, keyring.take(t), challengeIn(t, signed))
	lost, err := h.IssueIdentity(ctx, r)
	if err != nil {
		t.Fatal(err)
	}
	// The installation fails on the device. Another person's try has lost the link already.
	if f, err := h.Follow(ctx, waiting.ID); err != nil || f.ErrorCode != "link_used_up" {
		t.Errorf("the other attempt: %+v, %v", f.Attempt, err)
	}
	if a, err = h.TryAgain(ctx, a.ID); err != nil || a.Stage != enroll.Authenticated {
		t.Fatalf("another try: %+v, %v", a, err)
	}
	if signed, _, err = h.VisitProfile(ctx, a.ID); err != nil {
		t.Fatalf("another profile: %v", err)
	}
	if err := (phone{h, mdm.AppleID{UDID: "UDID-1"}, lost}).authenticate(); err == nil {
		t.Error("the certificate that was given up still enrolls")
	}
	serial := h.record(t, lost).Serial
	h.view(t, func(tx storage.Tx) error {
		revoked, _, err := event.Page(tx, event.Filter{Action: "certificate.revoked"}, "", 10)
		if len(revoked) != 1 || revoked[0].Certificate != string(serial) || revoked[0].Reason != "superseded" {
			t.Errorf("the audit log has %+v, want its revocation", revoked)
		}
		return err
	})
	if _, err := h.IssueIdentity(ctx, r); !errors.Is(err, enroll.ErrChallenge) {
		t.Errorf("the first request again: %v", err)
	}
	h.come(t, signed, "UDID-1")
	if got, err := h.Link(ctx, l.ID); err != nil || got.UsesLeft != 0 {
		t.Errorf("link: %+v, %v", got, err)
	}
}

func TestWhoMayNotVisit(t *testing.T) {
	storagetest.AnyEngine(t)
	ctx := context.Background()
	h := newHouse(t)
	ana := h.person(t, identity.NewUser{Email: "ana@example.com"})
	ben := h.person(t, identity.NewUser{Email: "ben@example.com"})
	kim := h.person(t, identity.NewUser{Email: "kim@example.com", NoEnroll: true})
	required := func(n enroll.NewLink) string {
		n.Login = enroll.LoginRequired
		return h.link(t, n).Code
	}
	for name, tt := range map[string]struct {
		code string
		as   identity.User
		want error
	}{
		"a link for somebody else":            {required(enroll.NewLink{User: "ana@example.com"}), ben, enroll.ErrLinkForeign},
		"one who may not enroll":              {required(enroll.NewLink{}), kim, enroll.ErrUserDisabled},
		"one for whom the link is":            {required(enroll.NewLink{User: "ANA@example.com"}), ana, nil},
		"anybody by a link for anybody":       {required(enroll.NewLink{}), ben, nil},
		"anybody without a link":              {"", ben, nil},
		"one who may not enroll, and no link": {"", kim, enroll.ErrUserDisabled},
	} {
		t.Run(name, func(t *testing.T) {
			a := h.visit(t, enroll.NewVisit{LinkCode: tt.code})
			got, err := h.SignedIn(ctx, a.ID, tt.as)
			if !errors.Is(err, tt.want) || tt.want == nil && (err != nil || got.User != tt.as.Login()) {
				t.Fatalf("sign-in = %+v, %v, want %v", got, err, tt.want)
			}
			if tt.want != nil {
				return
			}
			other := ana
			if tt.as.ID == ana.ID {
				other = ben
			}
			if _, err := h.SignedIn(ctx, a.ID, other); !errors.Is(err, enroll.ErrOtherPerson) {
				t.Errorf("sign-in of somebody else = %v", err)
			}
			if again, err := h.SignedIn(ctx, a.ID, tt.as); err != nil || again.Stage != enroll.Authenticated {
				t.Errorf("sign-in again = %+v, %v", again, err)
			}
		})
	}
	if _, err := h.UpdateSettings(ctx, func(s *enroll.Settings) error { s.Portal = false; return nil }); err != nil {
		t.Fatal(err)
	}
	if _, err := h.BeginVisit(ctx, enroll.NewVisit{}); !errors.Is(err, enroll.ErrPortalClosed) {
		t.Errorf("visit of a closed portal: %v", err)
	}
	h.visit(t, enroll.NewVisit{LinkCode: required(enroll.NewLink{})}) // a link opens it
}

func TestManagedAppleAccountOfAVisit(t *testing.T) {
	storagetest.AnyEngine(t)
	ctx := context.Background()
	h := newHouse(t)
	_, err := h.UpdateSettings(ctx, func(s *enroll.Settings) error { s.AccountDomains = []string{"Example.com"}; return nil })
	if err != nil {
		t.Fatal(err)
	}
	a := h.visit(t, enroll.NewVisit{LinkCode: h.link(t, enroll.NewLink{Ownership: mdm.Personal}).Code})
	for account, field := range map[string]string{
		"": "managed_apple_account", "ana": "managed_apple_account", "ana@icloud.com": "managed_apple_account",
		" ana@EXAMPLE.com ": "",
	} {
		got, err := h.Choose(ctx, a.ID, enroll.Choice{UserEnrollment: true, ManagedAppleAccount: account})
		var bad *enroll.FieldError
		switch {
		case field == "" && (err != nil || got.Visit.ManagedAppleAccount != "ana@EXAMPLE.com"):
			t.Errorf("%q = %+v, %v", account, got.Visit, err)
		case field != "" && (!errors.As(err, &bad) || bad.Field != field):
			t.Errorf("%q = %v, want an error of %s", account, err, field)
		}
	}
	declined, err := h.Choose(ctx, a.ID, enroll.Choice{Declined: true})
	if err != nil || !declined.Visit.Declined || declined.Visit.UserEnrollment || declined.Visit.ManagedAppleAccount != "" {
		t.Errorf("declined: %+v, %v", declined.Visit, err)
	}
	taken, err := h.Choose(ctx, a.ID, enroll.Choice{UserEnrollment: true, ManagedAppleAccount: "ana@example.com"})
	if err != nil || taken.Visit.Declined {
		t.Fatalf("taken after all: %+v, %v", taken.Visit, err)
	}
	signed, _, err := h.VisitProfile(ctx, a.ID)
	if err != nil {
		t.Fatal(err)
	}
	p := payloads(t, signed)["com.apple.mdm"]
	if p["ManagedAppleID"] != "ana@example.com" || p["AccessRights"] != nil || p["EnrollmentMode"] != nil {
		t.Errorf("payload: %v", p)
	}
}

func TestAManagedAppleAccountIsThePersonsOwn(t *testing.T) {
	storagetest.AnyEngine(t)
	ctx := context.Background()
	h := newHouse(t)
	ana := h.person(t, identity.NewUser{Email: "ana@example.com", ManagedAppleAccount: "ana@corp.example.com"})
	ben := h.person(t, identity.NewUser{Email: "ben@example.com"})
	for name, tt := range map[string]struct {
		as      *identity.User // nil: nobody asked who it is
		account string
		refused bool
	}{
		"her own":                             {as: &ana, account: "ana@corp.example.com"},
		"her own, in capitals":                {as: &ana, account: "ANA@corp.example.com"},
		"one that nobody has, who has one":    {as: &ana, account: "eve@corp.example.com", refused: true},
		"one that nobody has, who has none":   {as: &ben, account: "ben@corp.example.com"},
		"another person's":                    {as: &ben, account: "ana@corp.example.com", refused: true},
		"another person's, in capitals":       {as: &ben, account: "Ana@Corp.Example.com", refused: true},
		"another person's, with nobody known": {account: "ana@corp.example.com", refused: true},
		"one that nobody has, nobody known":   {account: "eve@corp.example.com"},
	} {
		t.Run(name, func(t *testing.T) {
			n := enroll.NewVisit{}
			if tt.as == nil {
				n.LinkCode = h.link(t, enroll.NewLink{Ownership: mdm.Personal}).Code
			}
			a := h.visit(t, n)
			if tt.as != nil {
				_, err := h.SignedIn(ctx, a.ID, *tt.as)
				must(t, err)
			}
			got, err := h.Choose(ctx, a.ID, enroll.Choice{Ownership: mdm.Personal, UserEnrollment: true, ManagedAppleAccount: tt.account})
			var bad *enroll.FieldError
			switch {
			case tt.refused && (!errors.As(err, &bad) || bad.Field != "managed_apple_account"):
				t.Errorf("Choose = %v, want an error of managed_apple_account", err)
			case !tt.refused && (err != nil || got.Visit.ManagedAppleAccount != tt.account):
				t.Errorf("Choose = %+v, %v", got.Visit, err)
			}
		})
	}
}

func TestUserEnrollmentByProfileKeepsItsAccount(t *testing.T) {
	storagetest.AnyEngine(t)
	keyring.reset()
	ctx := context.Background()
	h := newHouse(t)
	a := h.visit(t, enroll.NewVisit{LinkCode: h.link(t, enroll.NewLink{Ownership: mdm.Personal}).Code})
	if _, err := h.Choose(ctx, a.ID, enroll.Choice{UserEnrollment: true, ManagedAppleAccount: "ana@example.com"}); err != nil {
		t.Fatal(err)
	}
	signed, _, err := h.VisitProfile(ctx, a.ID)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := h.IssueIdentity(ctx, request(t, keyring.take(t), challengeIn(t, signed)))
	if err != nil {
		t.Fatal(err)
	}
	p := phone{h, mdm.AppleID{EnrollmentID: "E-1"}, cert}
	if err := p.authenticate(); err != nil {
		t.Fatal(err)
	}
	if err := p.tokenUpdate("magic"); err != nil {
		t.Fatal(err)
	}
	f, err := h.Follow(ctx, a.ID)
	if err != nil || f.Device.Type != mdm.TypeUser || f.Device.ManagedAppleAccount != "ana@example.com" || f.Device.SerialNumber != "" {
		t.Errorf("device: %+v, %v", f.Device, err)
	}
}

func TestShortCodes(t *testing.T) {
	storagetest.AnyEngine(t)
	ctx := context.Background()
	h := newHouse(t)
	l := h.link(t, enroll.NewLink{})
	a := h.visit(t, enroll.NewVisit{})
	spelled := enroll.SpellCode(l.ShortCode)
	for name, tt := range map[string]struct {
		typed string
		want  enroll.Found
	}{
		"a link's, as it is shown":     {spelled, enroll.Found{LinkCode: l.Code}},
		"a link's, as people type it":  {" " + strings.ToLower(l.ShortCode[:3]) + " " + strings.ToLower(l.ShortCode[3:]), enroll.Found{LinkCode: l.Code}},
		"an attempt's":                 {a.Visit.Code, enroll.Found{AttemptID: a.ID}},
		"nobody's":                     {"ZZZZ-ZZZZ", enroll.Found{}},
		"nothing":                      {"", enroll.Found{}},
		"too short":                    {l.ShortCode[:7], enroll.Found{}},
		"the link's own code, in full": {l.Code, enroll.Found{}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := h.FindCode(ctx, tt.typed)
			if got != tt.want || (tt.want == enroll.Found{}) != errors.Is(err, enroll.ErrLinkUnknown) {
				t.Errorf("FindCode(%q) = %+v, %v, want %+v", tt.typed, got, err, tt.want)
			}
		})
	}
}

func TestLinkWithoutLimit(t *testing.T) {
	storagetest.AnyEngine(t)
	keyring.reset()
	h := newHouse(t)
	l := h.link(t, enroll.NewLink{Unlimited: true})
	for range 3 {
		secret, _ := h.challenge(t, l)
		if _, err := h.IssueIdentity(context.Background(), request(t, keyring.take(t), secret)); err != nil {
			t.Fatal(err)
		}
	}
	var bad *enroll.FieldError
	if _, err := h.CreateLink(context.Background(), enroll.NewLink{Unlimited: true, Uses: 3}); !errors.As(err, &bad) || bad.Field != "uses" {
		t.Errorf("unlimited with 3 uses: %v", err)
	}
}

func TestSettingsAreChecked(t *testing.T) {
	storagetest.AnyEngine(t)
	ctx := context.Background()
	h := newHouse(t)
	for name, tt := range map[string]struct {
		change func(*enroll.Settings)
		field  string
	}{
		"nobody could enroll": {func(s *enroll.Settings) { s.Institutional.Enabled, s.Personal.Enabled = false, false }, "personal.enabled"},
		"no right to renew":   {func(s *enroll.Settings) { s.Personal.Rights = enroll.Rights{Preset: enroll.PresetCustom, Custom: 17} }, "personal.rights.custom"},
		"128 without 64":      {func(s *enroll.Settings) { s.Personal.Rights = enroll.Rights{Preset: enroll.PresetCustom, Custom: 131} }, "personal.rights.custom"},
		"bits that are none": {func(s *enroll.Settings) {
			s.Institutional.Rights = enroll.Rights{Preset: enroll.PresetCustom, Custom: 8195}
		}, "institutional.rights.custom"},
		"bits with another preset":   {func(s *enroll.Settings) { s.Institutional.Rights.Custom = 3 }, "institutional.rights.custom"},
		"no preset":                  {func(s *enroll.Settings) { s.Institutional.Rights = enroll.Rights{} }, "institutional.rights.preset"},
		"a method that is none":      {func(s *enroll.Settings) { s.PersonalMethod = "x" }, "personal_method"},
		"a check that is none":       {func(s *enroll.Settings) { s.DeviceSignature = "x" }, "device_signature"},
		"a removal that is none":     {func(s *enroll.Settings) { s.SelfRemoval = "" }, "self_removal"},
		"a domain that is none":      {func(s *enroll.Settings) { s.AccountDomains = []string{"example.com", "x y"} }, "account_domains[1]"},
		"an address that is none":    {func(s *enroll.Settings) { s.Organisation.SupportEmail = "it" }, "organisation.support_email"},
		"a page that is none":        {func(s *enroll.Settings) { s.Organisation.SupportURL = "javascript:alert(1)" }, "organisation.support_url"},
		"a name of several lines":    {func(s *enroll.Settings) { s.Organisation.Name = "a\nb" }, "organisation.name"},
		"what is all right":          {func(s *enroll.Settings) { s.Organisation.Name = " Example " }, ""},
		"rights of one's own choice": {func(s *enroll.Settings) { s.Personal.Rights = enroll.Rights{Preset: enroll.PresetCustom, Custom: 19} }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			before, err := h.Settings(ctx)
			if err != nil {
				t.Fatal(err)
			}
			_, err = h.UpdateSettings(ctx, func(s *enroll.Settings) error { tt.change(s); return nil })
			var bad *enroll.FieldError
			if tt.field == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if !errors.As(err, &bad) || bad.Field != tt.field {
				t.Errorf("error = %v, want one of %s", err, tt.field)
			}
			if after, err := h.Settings(ctx); err != nil || after.Organisation != before.Organisation || after.Personal != before.Personal {
				t.Errorf("settings were changed: %+v, %v", after, err)
			}
		})
	}
}

func TestWhoOnlyLookedInIsForgotten(t *testing.T) {
	storagetest.AnyEngine(t)
	h := newHouse(t)
	ctx := context.Background()
	looked := h.visit(t, enroll.NewVisit{})
	went := h.visit(t, enroll.NewVisit{LinkCode: h.link(t, enroll.NewLink{}).Code})
	h.clock.pass(25 * time.Hour)
	if err := h.Round(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Attempt(ctx, looked.ID); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("who looked in: %v", err)
	}
	if a, err := h.Attempt(ctx, went.ID); err != nil || a.ErrorCode != "attempt_expired" {
		t.Errorf("who came further: %+v, %v", a, err)
	}
}

func TestNamesCantChangeWhatAProfileSays(t *testing.T) {
	storagetest.AnyEngine(t)
	keyring.reset()
	ctx := context.Background()
	h := newHouse(t)
	const name = `A</string><key>x</key>&"'` + "\U0001F3E0" // a house of four bytes
	if _, err := h.UpdateSettings(ctx, func(s *enroll.Settings) error { s.Organisation.Name = name; return nil }); err != nil {
		t.Fatal(err)
	}
	a := h.visit(t, enroll.NewVisit{LinkCode: h.link(t, enroll.NewLink{Ownership: mdm.Institutional, User: `"></dict>&ana`}).Code})
	signed, _, err := h.VisitProfile(ctx, a.ID)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range allPayloads(t, signed) {
		if p["PayloadOrganization"] != name || p["x"] != nil {
			t.Errorf("payload %s: %q", p["PayloadType"], p["PayloadOrganization"])
		}
	}
	subject := payloads(t, signed)["com.apple.security.scep"]["PayloadContent"].(map[string]any)["Subject"]
	if got := fmt.Sprint(subject); !strings.Contains(got, name) || !strings.Contains(got, `"></dict>&ana`) {
		t.Errorf("subject asked for: %s", got)
	}
	cert, err := h.IssueIdentity(ctx, request(t, keyring.take(t), challengeIn(t, signed)))
	if err != nil || !slices.Equal(cert.Subject.Organization, []string{name}) {
		t.Errorf("certificate of %q: %v", cert.Subject, err)
	}
}
