package enroll_test

import (
	"context"
	"errors"
	"log/slog"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/mdmtest"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// profile is what a person at the portal gets for a device.
func (h *house) profile(t testing.TB, n enroll.NewVisit, u identity.User, c enroll.Choice) (signed []byte, attempt string) {
	t.Helper()
	ctx := context.Background()
	a := h.visit(t, n)
	_, err := h.SignedIn(ctx, a.ID, u)
	must(t, err)
	_, err = h.Choose(ctx, a.ID, c)
	must(t, err)
	signed, _, err = h.VisitProfile(ctx, a.ID)
	must(t, err)
	return signed, a.ID
}

// people is who knows the users of the house.
func (h *house) people(t testing.TB) *identity.Service {
	t.Helper()
	return must2(identity.New(identity.Config{DB: h.db, Log: slog.New(slog.DiscardHandler), Now: h.now, HashMemory: 64}))(t)
}

// uses sets what accounts of the house are for.
func (h *house) uses(t testing.TB, uses ...identity.Use) {
	t.Helper()
	uses = append(uses, identity.UseAdmin)
	_, err := h.people(t).UpdateProvider(context.Background(), identity.Local(), identity.LocalProvider, identity.ProviderChange{Uses: &uses})
	must(t, err)
}

func (h *house) enables(t testing.TB, institutional, personal bool) {
	t.Helper()
	_, err := h.UpdateSettings(context.Background(), func(s *enroll.Settings) error {
		s.Institutional.Enabled, s.Personal.Enabled = institutional, personal
		return nil
	})
	must(t, err)
}

func TestAPersonEnrolsTheirDeviceAgainByWhicheverName(t *testing.T) {
	storagetest.AnyEngine(t)
	for name, tt := range map[string]struct {
		first, then string // whom the link is for; empty: ana signs in without one
		want        string // user of the device
		refused     bool
	}{
		"by the username, then signed in":                  {first: "ana", want: "ana@example.com"},
		"signed in, then by the username":                  {then: "ana", want: "ana@example.com"},
		"by the username, then by the address":             {first: "ana", then: "ana@example.com", want: "ana@example.com"},
		"by the address in capitals, then by the username": {first: "ANA@example.com ", then: "Ana", want: "ana@example.com"},
		"as somebody whom nobody knows, in capitals then":  {first: "eve", then: "EVE", want: "EVE"},
		"as somebody else then":                            {first: "ana", then: "ben@example.com", want: "ana@example.com", refused: true},
		"as somebody whom nobody knows, then as ana":       {first: "eve", then: "ana", want: "eve", refused: true},
		"as ana, then as somebody whom nobody knows":       {first: "ana", then: "eve", want: "ana@example.com", refused: true},
	} {
		t.Run(name, func(t *testing.T) {
			keyring.reset()
			h := newHouse(t)
			ana := h.person(t, identity.NewUser{Username: "ana", Email: "ana@example.com"})
			h.person(t, identity.NewUser{Email: "ben@example.com"})
			come := func(user string) (phone, error) {
				if user == "" {
					signed, _ := h.profile(t, enroll.NewVisit{}, ana, enroll.Choice{Ownership: mdm.Personal})
					cert, err := h.IssueIdentity(context.Background(), request(t, keyring.take(t), challengeIn(t, signed)))
					must(t, err)
					p := phone{h, iphone, cert}
					return p, p.authenticate()
				}
				p := h.withIdentity(t, h.link(t, enroll.NewLink{User: user}), iphone)
				return p, p.authenticate()
			}
			p, err := come(tt.first)
			must(t, err)
			must(t, p.tokenUpdate("magic"))
			p, err = come(tt.then)
			if !tt.refused {
				must(t, err)
				if rec := h.record(t, p.cert); rec.User != tt.want {
					t.Errorf("its certificate is %q's, want %q's", rec.User, tt.want)
				}
			} else if !errors.Is(err, enroll.ErrDeviceOwned) {
				t.Errorf("Authenticate = %v, want ErrDeviceOwned", err)
			}
			if got := h.device(t, iphone).User; got != tt.want {
				t.Errorf("the device is %q's, want %q's", got, tt.want)
			}
		})
	}
}

// TestWhatPeopleMayCountsUntilTheDeviceHasCome takes a right away at each step.
func TestWhatPeopleMayCountsUntilTheDeviceHasCome(t *testing.T) {
	storagetest.AnyEngine(t)
	ctx := context.Background()
	for name, tt := range map[string]struct {
		take func(t *testing.T, h *house, ben identity.User)
		want error
		code string
	}{
		"accounts are not for personal devices any more": {func(t *testing.T, h *house, _ identity.User) {
			h.uses(t, identity.UseInstitutional)
		}, identity.ErrMayNotEnroll, "may_not_enroll"},
		"the person may not any more": {func(t *testing.T, h *house, ben identity.User) {
			never := true
			_, err := h.people(t).UpdateUser(ctx, identity.Local(), ben.ID, identity.UserChange{NoEnroll: &never})
			must(t, err)
		}, enroll.ErrUserDisabled, "user_disabled"},
		"personal devices are switched off": {func(t *testing.T, h *house, _ identity.User) {
			h.enables(t, true, false)
		}, enroll.ErrOwnershipOff, "ownership_off"},
		"what is for other devices": {func(t *testing.T, h *house, _ identity.User) {
			h.uses(t, identity.UsePersonal)
			h.enables(t, false, true)
		}, nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			keyring.reset()
			h := newHouse(t)
			ben := h.person(t, identity.NewUser{Email: "ben@example.com"})
			l := h.link(t, enroll.NewLink{User: "ben@example.com", Ownership: mdm.Personal, Uses: 9})
			personal := enroll.Choice{Ownership: mdm.Personal}
			_, chosen := h.profile(t, enroll.NewVisit{}, ben, personal)
			downloaded, _ := h.profile(t, enroll.NewVisit{}, ben, personal)
			issued := h.withIdentity(t, l, iphone)
			attempt := h.record(t, issued.cert).AttemptID

			tt.take(t, h, ben)
			_, _, err := h.VisitProfile(ctx, chosen)
			wantErr(t, "another profile", err, tt.want)
			_, _, err = h.NewEnrollment(ctx, l.Code)
			wantErr(t, "a profile by link", err, tt.want)
			_, err = h.BeginVisit(ctx, enroll.NewVisit{LinkCode: l.Code})
			wantErr(t, "a visit by link", err, tt.want)
			_, err = h.IssueIdentity(ctx, request(t, keyring.take(t), challengeIn(t, downloaded)))
			wantErr(t, "a certificate", err, tt.want)
			if audited := len(h.refused) == 1 && h.refused[0].Action == "certificate.refused"; audited != (tt.want != nil) {
				t.Errorf("the audit log has %+v", h.refused)
			}
			h.refused = nil
			wantErr(t, "Authenticate", issued.authenticate(), tt.want)
			if a := h.attempt(t, attempt); a.ErrorCode != tt.code || (a.Stage == enroll.AttemptFailed) != (tt.want != nil) {
				t.Errorf("the attempt is %s with %q, want %q", a.Stage, a.ErrorCode, tt.code)
			}
			if tt.want != nil {
				h.wantAudited(t, "", map[string]string{"attempt": attempt, "code": tt.code})
			}
		})
	}
}

func TestADeviceSaysWhatItIsToADoorThatHasClosed(t *testing.T) {
	storagetest.AnyEngine(t)
	ctx := context.Background()
	g := newGate(t, enroll.SignatureRequire)
	id, raw := g.asked(t, enroll.NewLink{Ownership: mdm.Personal})
	g.enables(t, true, false)
	_, err := g.phone(t, mdmtest.Options{}).Deliver(ctx, raw)
	g.wantRefused(t, err, enroll.ErrOwnershipOff, id, "ownership_off", enroll.AttemptFailed)
}

func TestLinksAreForOwnershipsThatAreOn(t *testing.T) {
	storagetest.AnyEngine(t)
	ctx := context.Background()
	h := newHouse(t)
	ben := h.person(t, identity.NewUser{Email: "ben@example.com"})
	asks := h.link(t, enroll.NewLink{Ask: true})
	signIn := h.link(t, enroll.NewLink{Ownership: mdm.Institutional, Login: enroll.LoginRequired})
	waiting := h.visit(t, enroll.NewVisit{LinkCode: signIn.Code})
	h.enables(t, true, false)
	settled := h.visit(t, enroll.NewVisit{})
	h.enables(t, false, true)
	for name, tt := range map[string]struct {
		n       enroll.NewLink
		refused bool
	}{
		"one that is off":                {enroll.NewLink{Ownership: mdm.Institutional}, true},
		"none named, which is the first": {enroll.NewLink{}, true},
		"one that is on":                 {enroll.NewLink{Ownership: mdm.Personal}, false},
		"whatever the person says":       {enroll.NewLink{Ask: true}, false},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := h.CreateLink(ctx, tt.n)
			var bad *enroll.FieldError
			if tt.refused && (!errors.As(err, &bad) || bad.Field != "ownership") || !tt.refused && err != nil {
				t.Errorf("CreateLink = %v, want refused: %v", err, tt.refused)
			}
		})
	}
	_, err := h.SignedIn(ctx, waiting.ID, ben)
	wantErr(t, "a sign-in for an ownership that is off", err, enroll.ErrOwnershipOff)
	if a, err := h.SignedIn(ctx, settled.ID, ben); err != nil || a.Ownership != mdm.Personal {
		t.Errorf("who came while there was another one alone enrolls as %q, %v", a.Ownership, err)
	}
	_, a, err := h.NewEnrollment(ctx, asks.Code)
	if err != nil || a.Ownership != mdm.Personal {
		t.Errorf("a link that asks is good for %q, %v", a.Ownership, err)
	}
}
