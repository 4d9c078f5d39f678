package enroll_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/mdmtest"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

func TestChallengesAreApplesOwn(t *testing.T) {
	storagetest.AnyEngine(t)
	r := newReception(t)
	for _, mode := range []enroll.AccountMode{enroll.ModeBYOD, enroll.ModeADDE} {
		info := anIPhone
		if mode == enroll.ModeADDE {
			info = aMac
		}
		base := "https://mdm.example.com/enroll/" + string(mode)
		r.policy(t, func(c *enroll.AccountDriven) { c.Method = enroll.MethodWeb })
		web := r.ask(t, mode, info)
		if !slices.Equal(web.order, []string{"method", "url"}) || web.params["method"] != "apple-as-web" || web.params["url"] != base+"/sign-in/"+web.ticket {
			t.Errorf("%s: the challenge has %v", mode, web.params)
		}
		r.policy(t, byOAuth)
		o := r.ask(t, mode, info)
		if !slices.Equal(o.order, []string{"method", "authorization-url", "token-url", "redirect-url", "client-id", "scope"}) {
			t.Errorf("%s: the challenge has %v", mode, o.order)
		}
		for name, want := range map[string]string{
			"method": "apple-oauth2", "authorization-url": base + "/authorize/" + o.ticket, "token-url": "https://mdm.example.com/enroll/token",
			"redirect-url": "apple-remotemanagement-user-login:/oauth2/redirection", "client-id": "gatehouse", "scope": "MDM",
		} {
			if o.params[name] != want {
				t.Errorf("%s: %s is %q, want %q", mode, name, o.params[name], want)
			}
		}
		if web.ticket == r.ask(t, mode, info).ticket || strings.Trim(web.ticket, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") != "" || web.ticket == "" {
			t.Errorf("%s: the ticket is %q", mode, web.ticket)
		}
	}
}

func TestWhatASignInIsFor(t *testing.T) {
	storagetest.AnyEngine(t)
	ctx := context.Background()
	r := newReception(t)
	ticket := r.ask(t, enroll.ModeBYOD, anIPhone).ticket
	in, err := r.AccountSignIn(ctx, ticket)
	must(t, err)
	want := enroll.AccountSignIn{Mode: enroll.ModeBYOD, Method: enroll.MethodWeb, Product: "iPhone17,2", OSVersion: "18.2", BegunAt: in.BegunAt}
	if in != want || !in.BegunAt.Equal(r.now()) {
		t.Errorf("AccountSignIn = %+v, want %+v", in, want)
	}
	for name, ticket := range map[string]string{
		"nothing": "", "no base64": "§", "noise": strings.Repeat("A", len(ticket)), "one letter changed": flip(ticket), "cut short": ticket[:len(ticket)-4], "padded": ticket + "==",
	} {
		if in, err := r.AccountSignIn(ctx, ticket); !errors.Is(err, enroll.ErrTicket) {
			t.Errorf("%s: %+v, %v; want ErrTicket", name, in, err)
		}
		if _, _, err := r.signIn(ticket, r.ana); !errors.Is(err, enroll.ErrTicket) {
			t.Errorf("%s, finished: %v, want ErrTicket", name, err)
		}
	}
	// What the time allows is the same at both ends of the sign-in.
	r.pass(time.Hour)
	_, err = r.AccountSignIn(ctx, ticket)
	must(t, err)
	r.pass(time.Second)
	if _, err := r.AccountSignIn(ctx, ticket); !errors.Is(err, enroll.ErrTicket) {
		t.Errorf("after an hour: %v, want ErrTicket", err)
	}
	if _, err := r.FinishAccountSignIn(ctx, ticket, r.ana, nil); !errors.Is(err, enroll.ErrTicket) {
		t.Errorf("finished after an hour: %v, want ErrTicket", err)
	}
	if all := r.attempts(t); len(all) > 0 || len(r.authorizations(t)) > 0 {
		t.Errorf("a sign-in that never was left %+v", all)
	}
}

// flip changes one letter in the middle.
func flip(s string) string {
	c := byte('A')
	if s[len(s)/2] == c {
		c = 'B'
	}
	return s[:len(s)/2] + string(c) + s[len(s)/2+1:]
}

// TestSignInsThatComeToNothing leaves nothing half-made.
func TestSignInsThatComeToNothing(t *testing.T) {
	storagetest.AnyEngine(t)
	ctx := context.Background()
	yes, none := true, ""
	for name, tt := range map[string]struct {
		before func(t *testing.T, r *reception) // after the device has asked
		who    func(r *reception) identity.User
		oauth  *enroll.AuthorizationRequest
		want   error
	}{
		"nobody knows the account": {before: func(t *testing.T, r *reception) {
			r.ana = r.change(t, r.ana, identity.UserChange{ManagedAppleAccount: &none})
		}, want: enroll.ErrAccountMissing},
		"the account is in a foreign domain": {before: func(t *testing.T, r *reception) {
			r.set(t, func(s *enroll.Settings) { s.AccountDomains = []string{"school.example"} })
		}, want: enroll.ErrAccountForeign},
		"the user is gone": {who: func(r *reception) identity.User {
			u := r.ana
			u.ID = "nobody"
			return u
		}, want: enroll.ErrUserDisabled},
		"the user is disabled": {before: func(t *testing.T, r *reception) {
			r.change(t, r.ana, identity.UserChange{Disabled: &yes})
		}, want: enroll.ErrUserDisabled},
		"the user may not enroll": {before: func(t *testing.T, r *reception) {
			r.change(t, r.ana, identity.UserChange{NoEnroll: &yes})
		}, want: enroll.ErrUserDisabled},
		"accounts are not for User Enrollment": {before: func(t *testing.T, r *reception) {
			r.uses(t, identity.UseAccountDevice, identity.UsePersonal, identity.UseInstitutional)
		}, want: identity.ErrMayNotEnroll},
		"such devices are not enrolled any more": {before: func(t *testing.T, r *reception) {
			r.policy(t, func(c *enroll.AccountDriven) { c.Domains[0].Policy["iPhone"] = enroll.ModeOff })
		}, want: enroll.ErrModeOff},
		"the domain is gone": {before: func(t *testing.T, r *reception) {
			r.policy(t, func(c *enroll.AccountDriven) { c.Domains = nil })
		}, want: enroll.ErrModeOff},
		"the ticket is of the other method": {oauth: &enroll.AuthorizationRequest{RedirectURI: enroll.OAuthRedirectURI}, want: enroll.ErrTicket},
	} {
		t.Run(name, func(t *testing.T) {
			r := newReception(t)
			ticket := r.ask(t, enroll.ModeBYOD, anIPhone).ticket
			if tt.before != nil {
				tt.before(t, r)
			}
			u := r.ana
			if tt.who != nil {
				u = tt.who(r)
			}
			attempts, authorizations := len(r.attempts(t)), len(r.authorizations(t))
			h, err := r.FinishAccountSignIn(ctx, ticket, u, tt.oauth)
			if !errors.Is(err, tt.want) || h.Location != "" {
				t.Errorf("FinishAccountSignIn = %+v, %v; want %v", h, err, tt.want)
			}
			if a, b := len(r.attempts(t)), len(r.authorizations(t)); a != attempts || b != authorizations {
				t.Errorf("it left %d attempts and %d authorizations, want %d and %d", a, b, attempts, authorizations)
			}
		})
	}
	t.Run("a ticket for a web sign-in of OAuth", func(t *testing.T) {
		r := newReception(t, byOAuth)
		if _, err := r.FinishAccountSignIn(ctx, r.ask(t, enroll.ModeBYOD, anIPhone).ticket, r.ana, nil); !errors.Is(err, enroll.ErrTicket) {
			t.Errorf("FinishAccountSignIn = %v, want ErrTicket", err)
		}
	})
}

func TestMinimumOS(t *testing.T) {
	storagetest.AnyEngine(t)
	ctx := context.Background()
	r := newReception(t, func(c *enroll.AccountDriven) {
		c.MinimumOS = map[enroll.ModelFamily]string{"iPhone": "18.2", "iPad": "18", "Mac": "26.1", "RealityDevice": "2.2"}
	})
	for name, tt := range map[string]struct {
		mode enroll.AccountMode
		info mdmtest.Dict
		old  string // the version that is needed
	}{
		"just new enough":                          {enroll.ModeBYOD, anIPhone, ""},
		"a newer patch":                            {enroll.ModeBYOD, with(anIPhone, mdmtest.Dict{"OS_VERSION": "18.2.1"}), ""},
		"a later minor, not as text":               {enroll.ModeBYOD, with(anIPhone, mdmtest.Dict{"OS_VERSION": "18.10"}), ""},
		"a rapid response":                         {enroll.ModeBYOD, with(anIPhone, mdmtest.Dict{"OS_VERSION": "18.2 (a)"}), ""},
		"too old":                                  {enroll.ModeBYOD, with(anIPhone, mdmtest.Dict{"OS_VERSION": "18.1.1"}), "18.2"},
		"an older major":                           {enroll.ModeBYOD, with(anIPhone, mdmtest.Dict{"OS_VERSION": "17.7"}), "18.2"},
		"by the build, new enough":                 {enroll.ModeBYOD, mdmtest.Dict{"PRODUCT": "iPhone17,2", "VERSION": "22A300"}, ""},
		"by the build, too old":                    {enroll.ModeBYOD, mdmtest.Dict{"PRODUCT": "iPhone17,2", "VERSION": "21H16"}, "18.2"},
		"by the build, after the jump":             {enroll.ModeBYOD, mdmtest.Dict{"PRODUCT": "iPhone17,2", "VERSION": "23A300"}, ""},
		"by a build that is not known yet":         {enroll.ModeBYOD, mdmtest.Dict{"PRODUCT": "iPhone17,2", "VERSION": "99A300"}, ""},
		"by a build that is none":                  {enroll.ModeBYOD, mdmtest.Dict{"PRODUCT": "iPhone17,2", "VERSION": "A300"}, ""},
		"it says nothing of its system":            {enroll.ModeBYOD, mdmtest.Dict{"PRODUCT": "iPhone17,2"}, ""},
		"it says nothing at all":                   {enroll.ModeBYOD, mdmtest.Dict{}, ""},
		"an iPad by its build":                     {enroll.ModeBYOD, mdmtest.Dict{"PRODUCT": "iPad16,3", "VERSION": "21H16"}, "18"},
		"a Mac before the jump":                    {enroll.ModeADDE, aMac, "26.1"},
		"a Mac by its build, before the jump":      {enroll.ModeADDE, mdmtest.Dict{"PRODUCT": "Mac15,3", "VERSION": "24C101"}, "26.1"},
		"a Mac by its build, of the right major":   {enroll.ModeADDE, mdmtest.Dict{"PRODUCT": "Mac15,3", "VERSION": "25A354"}, ""},
		"a Vision":                                 {enroll.ModeBYOD, aVision, ""},
		"a Vision that is too old":                 {enroll.ModeBYOD, with(aVision, mdmtest.Dict{"OS_VERSION": "1.3"}), "2.2"},
		"a Vision that is too old by its build":    {enroll.ModeBYOD, mdmtest.Dict{"PRODUCT": "RealityDevice14,1", "VERSION": "21O123"}, "2.2"},
		"the version counts, not the build":        {enroll.ModeBYOD, with(anIPhone, mdmtest.Dict{"VERSION": "20A300"}), ""},
		"a version that is none, and an old build": {enroll.ModeBYOD, with(anIPhone, mdmtest.Dict{"OS_VERSION": "beta", "VERSION": "20A300"}), "18.2"},
	} {
		t.Run(name, func(t *testing.T) {
			// Whoever holds it is told on the page of the sign-in.
			ticket := r.ask(t, tt.mode, tt.info).ticket
			_, shown := r.AccountSignIn(ctx, ticket)
			_, finished := r.FinishAccountSignIn(ctx, ticket, r.ana, nil)
			_, posted := r.post(t, tt.mode, "nonsense", tt.info)
			_, asking := r.post(t, tt.mode, "", with(tt.info, mdmtest.Dict{"MDM_CAN_REQUEST_SOFTWARE_UPDATE": true}))
			if tt.old == "" {
				must(t, errors.Join(shown, finished))
				askedIn(t, posted)
				askedIn(t, asking)
				return
			}
			for what, err := range map[string]error{"the page": shown, "the end of the sign-in": finished, "the POST with a token": posted} {
				if tooOld, ok := errors.AsType[*enroll.MinimumOSError](err); !ok || tooOld.Needed != tt.old {
					t.Errorf("%s: %v, want %s to be needed", what, err, tt.old)
				}
			}
			if update, ok := errors.AsType[*enroll.UpdateRequired](asking); !ok || update.OSVersion != tt.old {
				t.Errorf("a device that updates when told: %v, want it told %s", asking, tt.old)
			}
		})
	}
}

func TestATicketIsForOneAttempt(t *testing.T) {
	storagetest.AnyEngine(t)
	r := newReception(t)
	ticket := r.ask(t, enroll.ModeBYOD, anIPhone).ticket
	first, a := r.granted(t, ticket, r.ana)
	r.pass(time.Minute)
	second, again := r.granted(t, ticket, r.ana)
	if a.ID != again.ID || a.User != "ana@example.com" || a.Stage != enroll.Authenticated || a.Ownership != mdm.Personal || first.access == second.access {
		t.Errorf("the attempts are %+v and %+v, the tokens %+v and %+v", a, again, first, second)
	}
	want := enroll.AccountEnrollment{Mode: enroll.ModeBYOD, ManagedAppleAccount: "ana@appleid.example.com", Product: "iPhone17,2", OSVersion: "18.2", Ticket: a.ID}
	if *a.Account != want {
		t.Errorf("the attempt has %+v, want %+v", *a.Account, want)
	}
	if _, _, err := r.signIn(ticket, r.ben); !errors.Is(err, enroll.ErrOtherPerson) {
		t.Errorf("somebody else, then: %v, want ErrOtherPerson", err)
	}
	// Either token is good until the device has come with one of them, and then the other is none.
	for _, token := range []string{first.access, second.access} {
		_, err := r.post(t, enroll.ModeBYOD, token, anIPhone)
		must(t, err)
	}
	signed := must2(r.post(t, enroll.ModeBYOD, first.access, anIPhone))(t)
	g := &guest{r: r, mode: enroll.ModeBYOD, info: anIPhone, id: byod, tokens: first, attempt: a.ID}
	g.cert = must2(r.IssueIdentity(context.Background(), request(t, keyring.take(t), challengeIn(t, signed))))(t)
	if _, _, err := r.signIn(ticket, r.ana); !errors.Is(err, enroll.ErrAttemptOver) {
		t.Errorf("after the certificate: %v, want ErrAttemptOver", err)
	}
	must(t, g.authenticate(first.access))
	must(t, g.tokenUpdate(g.id, first.access))
	askedIn(t, g.poll(g.id, second.access))
	must(t, g.idle())
	if all := r.authorizations(t); len(all) != 1 || all[0].DeviceID != g.device(t).ID {
		t.Errorf("the authorizations are %+v, want one, of the device", all)
	}
	if _, _, err := r.signIn(ticket, r.ana); !errors.Is(err, enroll.ErrAttemptOver) {
		t.Errorf("after the enrollment: %v, want ErrAttemptOver", err)
	}
}

func TestTwoTicketsAreTwoAttempts(t *testing.T) {
	storagetest.AnyEngine(t)
	r := newReception(t)
	phone := r.enrolledBy(t, enroll.ModeBYOD, r.ana, anIPhone, byod)
	pad := r.enrolledBy(t, enroll.ModeBYOD, r.ana, anIPad, mdm.AppleID{EnrollmentID: "FB833D84-0002"})
	if phone.attempt == pad.attempt || phone.device(t).ID == pad.device(t).ID {
		t.Errorf("both are %s", phone.attempt)
	}
	must(t, errors.Join(phone.idle(), pad.idle()))
	if all := r.authorizations(t); len(all) != 2 || all[0].DeviceID == all[1].DeviceID {
		t.Errorf("the authorizations are %+v, want one of each device", all)
	}
}

// TestTheWaitingAttemptGoesOn leads somebody from the portal to the device's settings.
func TestTheWaitingAttemptGoesOn(t *testing.T) {
	storagetest.AnyEngine(t)
	ctx := context.Background()
	for name, tt := range map[string]struct {
		ownership mdm.Ownership
		led       bool
		who       func(r *reception) identity.User
		taken     bool
	}{
		"its person signs in":                  {mdm.Personal, true, func(r *reception) identity.User { return r.ana }, true},
		"somebody else signs in":               {mdm.Personal, true, func(r *reception) identity.User { return r.ben }, false},
		"it is for the organisation's devices": {mdm.Institutional, true, func(r *reception) identity.User { return r.ana }, false},
		"it was not led there":                 {mdm.Personal, false, func(r *reception) identity.User { return r.ana }, false},
	} {
		t.Run(name, func(t *testing.T) {
			r := newReception(t)
			a := r.visit(t, enroll.NewVisit{Platform: "ios", Major: 18})
			_, err := r.SignedIn(ctx, a.ID, r.ana)
			must(t, err)
			_, err = r.Choose(ctx, a.ID, enroll.Choice{Ownership: tt.ownership})
			must(t, err)
			if tt.led {
				_, err = r.LedToSettings(ctx, a.ID)
				must(t, err)
			}
			ticket := r.ask(t, enroll.ModeBYOD, anIPhone).ticket
			changed, stop := r.Watch(a.ID)
			defer stop()
			granted, got := r.granted(t, ticket, tt.who(r))
			if (got.ID == a.ID) != tt.taken {
				t.Fatalf("the sign-in is of %s, the one that waits is %s", got.ID, a.ID)
			}
			if !tt.taken {
				if f := r.attempt(t, a.ID); f.Account != nil {
					t.Errorf("the one that waits is %+v", f)
				}
				return
			}
			<-changed // the page that shows it looks again
			if _, again := r.granted(t, ticket, r.ana); again.ID != a.ID {
				t.Errorf("the same ticket again is of %s, want %s", again.ID, a.ID)
			}
			_, err = r.post(t, enroll.ModeBYOD, granted.access, anIPhone)
			must(t, err)
			if f := r.attempt(t, a.ID); f.Stage != enroll.ProfileDownloaded || f.Visit == nil || f.Account.Mode != enroll.ModeBYOD {
				t.Errorf("the attempt is %+v", f)
			}
		})
	}
}
