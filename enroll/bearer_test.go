package enroll_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/mdmtest"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// saying is each kind of message of a channel, but for those that begin and end an enrollment.
var saying = map[string]func(g *guest, id mdm.AppleID, bearer string) error{
	"a poll": func(g *guest, id mdm.AppleID, bearer string) error { return g.poll(id, bearer) },
	"a report": func(g *guest, id mdm.AppleID, bearer string) error {
		_, err := g.r.Connect(context.Background(), g.peer(bearer), enroll.ConnectMessage{ID: id, Report: mdm.Report{CommandUUID: "C9", State: mdm.Acknowledged}})
		return err
	},
	"a TokenUpdate": func(g *guest, id mdm.AppleID, bearer string) error { return g.tokenUpdate(id, bearer) },
	"another message": func(g *guest, id mdm.AppleID, bearer string) error {
		return g.r.Identify(context.Background(), g.peer(bearer), id)
	},
}

// errSignIn stands for a *SignInRequired in tables.
var errSignIn = errors.New("a challenge")

// TestTokensOfMessages is who may say something with which token: PROTOCOL 2.6, by
// platform and channel.
func TestTokensOfMessages(t *testing.T) {
	storagetest.AnyEngine(t)
	ctx := context.Background()
	type outcomes map[string]error
	demanded := outcomes{
		"none": enroll.ErrNoBearer, "its own": nil, "another device's": enroll.ErrForeignBearer, "another user's": enroll.ErrForeignBearer,
		"of another user's sign-in": enroll.ErrForeignBearer, "noise": errSignIn, "none of ours": errSignIn, "expired": errSignIn, "revoked": errSignIn,
		"expired, another device's": enroll.ErrForeignBearer,
	}
	// What is not demanded may be bad, but not somebody else's.
	never := outcomes{
		"none": nil, "its own": nil, "another device's": enroll.ErrForeignBearer, "another user's": enroll.ErrForeignBearer,
		"of another user's sign-in": enroll.ErrForeignBearer, "noise": nil, "none of ours": nil, "expired": nil, "revoked": nil,
		"expired, another device's": enroll.ErrForeignBearer,
	}
	for name, tt := range map[string]struct {
		mode enroll.AccountMode
		info mdmtest.Dict
		user bool // on the channel of a user
		want outcomes
	}{
		"an iPhone of a person":             {enroll.ModeBYOD, anIPhone, false, demanded},
		"an iPhone of the organisation":     {enroll.ModeADDE, anIPhone, false, demanded},
		"an iPad":                           {enroll.ModeBYOD, anIPad, false, demanded},
		"a Vision":                          {enroll.ModeBYOD, aVision, false, demanded},
		"a Mac":                             {enroll.ModeADDE, aMac, false, never},
		"a user of a Mac":                   {enroll.ModeADDE, aMac, true, demanded},
		"a Mac of a person":                 {enroll.ModeBYOD, aMac, false, never},
		"a user of a Mac of a person":       {enroll.ModeBYOD, aMac, true, demanded},
		"a thing of which nothing is known": {enroll.ModeBYOD, mdmtest.Dict{"PRODUCT": ""}, false, never},
	} {
		t.Run(name, func(t *testing.T) {
			r := newReception(t)
			ids := func(n string) mdm.AppleID {
				if tt.mode == enroll.ModeADDE {
					return mdm.AppleID{UDID: "00008120-" + n}
				}
				return mdm.AppleID{EnrollmentID: "FB833D84-" + n}
			}
			g := r.enrolledBy(t, tt.mode, r.ana, tt.info, ids("1"))
			another := r.enrolledBy(t, tt.mode, r.ana, tt.info, ids("2"))
			bens := r.enrolledBy(t, tt.mode, r.ben, tt.info, ids("3"))
			waiting, _ := r.granted(t, r.ask(t, tt.mode, tt.info).ticket, r.ben)
			channel := g.id
			if tt.user {
				channel.UserID = "501"
				must(t, g.tokenUpdate(channel, g.access))
			}
			check := func(what, token string) {
				t.Helper()
				for message, say := range saying {
					err := say(g, channel, token)
					want := tt.want[what]
					if want == errSignIn {
						if a := askedIn(t, err); a.params["url"] != "https://mdm.example.com/enroll/"+string(tt.mode)+"/sign-in/"+a.ticket {
							t.Errorf("%s with a token that is %s: the challenge is %v", message, what, a.params)
						}
					} else if !errors.Is(err, want) {
						t.Errorf("%s with a token that is %s: %v, want %v", message, what, err, want)
					}
				}
			}
			check("none", "")
			check("its own", g.access)
			check("another device's", another.access)
			check("another user's", bens.access)
			check("of another user's sign-in", waiting.access)
			check("noise", "nonsense")
			check("none of ours", strings.Repeat("A", len(g.access)))
			r.policy(t, func(c *enroll.AccountDriven) { c.TokenLife = time.Hour })
			r.pass(time.Hour)
			check("expired", g.access)
			check("expired, another device's", another.access)
			r.policy(t, func(c *enroll.AccountDriven) { c.TokenLife = 0 })
			check("its own", g.access)
			must2(r.RequireSignIn(ctx, g.device(t).ID))(t)
			check("revoked", g.access)

			// None of it has ended anything, and who leaves needs no token for it.
			if d := g.device(t); d.State != mdm.Enrolled {
				t.Errorf("the device is %s", d.State)
			}
			must(t, another.idle())
			for _, token := range []string{"nonsense", ""} {
				must(t, r.CheckOut(ctx, g.peer(token), g.id))
			}
			if d := g.device(t); d.State != mdm.Unenrolled {
				t.Errorf("the device is %s", d.State)
			}
		})
	}
}

// TestTokensAtAuthenticate is the same for the message by which a device comes, and for
// the repetition of it.
func TestTokensAtAuthenticate(t *testing.T) {
	storagetest.AnyEngine(t)
	for name, tt := range map[string]struct {
		info     mdmtest.Dict
		token    func(t *testing.T, r *reception, g *guest) string
		first    error
		repeated error
	}{
		"an iPhone, its own": {anIPhone, func(_ *testing.T, _ *reception, g *guest) string { return g.access }, nil, nil},
		"an iPhone, none":    {anIPhone, func(*testing.T, *reception, *guest) string { return "" }, enroll.ErrNoBearer, enroll.ErrNoBearer},
		"an iPhone, noise":   {anIPhone, func(*testing.T, *reception, *guest) string { return "nonsense" }, errSignIn, errSignIn},
		"an iPhone, another's": {anIPhone, func(t *testing.T, r *reception, _ *guest) string {
			granted, _ := r.granted(t, r.ask(t, enroll.ModeADDE, anIPhone).ticket, r.ben)
			return granted.access
		}, enroll.ErrForeignBearer, enroll.ErrForeignBearer},
		"an iPhone, of another mode": {anIPhone, func(t *testing.T, r *reception, _ *guest) string {
			return fresh(t, r).access
		}, enroll.ErrForeignBearer, enroll.ErrForeignBearer},
		"a Mac, none":    {aMac, func(*testing.T, *reception, *guest) string { return "" }, nil, nil},
		"a Mac, its own": {aMac, func(_ *testing.T, _ *reception, g *guest) string { return g.access }, nil, nil},
		"a Mac, another's": {aMac, func(t *testing.T, r *reception, _ *guest) string {
			granted, _ := r.granted(t, r.ask(t, enroll.ModeADDE, aMac).ticket, r.ben)
			return granted.access
		}, enroll.ErrForeignBearer, enroll.ErrForeignBearer},
	} {
		t.Run(name, func(t *testing.T) {
			r := newReception(t)
			g := r.come(t, enroll.ModeADDE, r.ana, tt.info, mac)
			token := tt.token(t, r, g)
			check := func(when string, want error) {
				t.Helper()
				err := g.authenticate(token)
				if want == errSignIn {
					askedIn(t, err)
				} else if !errors.Is(err, want) {
					t.Errorf("%s: %v, want %v", when, err, want)
				}
			}
			check("the first", tt.first)
			if tt.first != nil {
				for _, a := range r.authorizations(t) {
					if a.DeviceID != "" {
						t.Errorf("a refused device has the authorization %+v", a)
					}
				}
				if c := r.record(t, g.cert); c.DeviceID != "" || !c.RevokedAt.IsZero() {
					t.Errorf("a refused device has the certificate %+v", c)
				}
				must(t, g.authenticate(g.usual(false))) // it may do better
			}
			check("the second", tt.repeated)
			must(t, g.tokenUpdate(g.id, g.usual(false)))
			must(t, g.idle())
			// A Mac that never showed it has it all the same: its users will.
			user := mdm.AppleID{UDID: mac.UDID, UserID: "501"}
			must(t, g.tokenUpdate(user, g.access))
		})
	}
}

func TestDevicesByProfileNeedNoToken(t *testing.T) {
	storagetest.AnyEngine(t)
	r := newReception(t)
	p := r.enrolled(t, "ana@example.com", iphone)
	g := &guest{r: r, info: anIPhone, id: iphone, cert: p.cert}
	for _, token := range []string{"", "nonsense", fresh(t, r).access} {
		for message, say := range saying {
			if err := say(g, g.id, token); err != nil {
				t.Errorf("%s with %q: %v", message, token, err)
			}
		}
		must(t, g.authenticate(token))
	}
	if all := r.authorizations(t); len(all) != 1 || all[0].DeviceID != "" {
		t.Errorf("the authorizations are %+v", all)
	}
	_, err := r.RequireSignIn(context.Background(), p.device(t).ID)
	wantErr(t, "RequireSignIn", err, enroll.ErrNotByAccount)
}

// TestSigningInAgain takes a device through it whose token was revoked.
func TestSigningInAgain(t *testing.T) {
	storagetest.AnyEngine(t)
	ctx := context.Background()
	revoked := func(t *testing.T, r *reception) (*guest, string) {
		g := r.enrolledBy(t, enroll.ModeBYOD, r.ana, anIPhone, byod)
		must2(r.RequireSignIn(ctx, g.device(t).ID))(t)
		r.enqueue(t, "C1", g.device(t).ID)
		return g, askedIn(t, g.idle()).ticket
	}
	for _, method := range []enroll.SignInMethod{enroll.MethodWeb, enroll.MethodOAuth2} {
		t.Run("by "+string(method), func(t *testing.T) {
			r := newReception(t, func(c *enroll.AccountDriven) { c.Method = method })
			g, ticket := revoked(t, r)
			in, err := r.AccountSignIn(ctx, ticket)
			must(t, err)
			if !in.Again || in.Mode != enroll.ModeBYOD || in.Method != method {
				t.Errorf("AccountSignIn = %+v", in)
			}
			before := r.attempt(t, g.attempt)
			old := g.access
			granted, a := r.granted(t, ticket, r.ana)
			if a.ID != g.attempt || a.DeviceID != g.device(t).ID || len(r.attempts(t)) != 1 || r.attempt(t, g.attempt).Stage != before.Stage {
				t.Errorf("the sign-in is of %+v, among %d", a, len(r.attempts(t)))
			}
			askedIn(t, g.poll(g.id, old))
			if r.state(t, "C1") != mdm.Queued {
				t.Errorf("the device was given a command: it is %s", r.state(t, "C1"))
			}
			g.tokens = granted
			plist, err := r.Connect(ctx, g.peer(g.access), enroll.ConnectMessage{ID: g.id, Idle: true})
			must(t, err)
			if len(plist) == 0 || r.state(t, "C1") != mdm.Delivered {
				t.Error("the device is given no command")
			}
			if all := r.authorizations(t); len(all) != 1 {
				t.Errorf("the authorizations are %+v, want one", all)
			}
			// The token does for no other enrollment.
			_, err = r.post(t, enroll.ModeBYOD, g.access, anIPhone)
			askedIn(t, err)
		})
	}
	yes := true
	for name, tt := range map[string]struct {
		before func(t *testing.T, r *reception, g *guest)
		who    func(r *reception) identity.User
		want   error
	}{
		"as another person": {who: func(r *reception) identity.User { return r.ben }, want: enroll.ErrOtherPerson},
		"as a user who was disabled": {before: func(t *testing.T, r *reception, _ *guest) {
			r.policy(t, func(c *enroll.AccountDriven) { c.UserDisabled = enroll.AfterSignIn })
			r.change(t, r.ana, identity.UserChange{Disabled: &yes})
		}, want: enroll.ErrUserDisabled},
		"of a device that was removed": {before: func(t *testing.T, r *reception, g *guest) {
			_, err := r.Unenroll(ctx, g.device(t).ID)
			must(t, err)
		}, want: enroll.ErrTicket},
		"of a device that was blocked": {before: func(t *testing.T, r *reception, g *guest) {
			_, err := r.Block(ctx, g.device(t).ID)
			must(t, err)
		}, want: enroll.ErrTicket},
		"too late": {before: func(_ *testing.T, r *reception, _ *guest) { r.pass(time.Hour + time.Second) }, want: enroll.ErrTicket},
		// It is enrolled: what holds for new ones does not matter.
		"where such devices are not enrolled any more": {before: func(t *testing.T, r *reception, _ *guest) {
			r.policy(t, func(c *enroll.AccountDriven) {
				c.Domains, c.MinimumOS = nil, map[enroll.ModelFamily]string{"iPhone": "99"}
			})
		}},
		"where the account's domain is foreign by now": {before: func(t *testing.T, r *reception, _ *guest) {
			r.set(t, func(s *enroll.Settings) { s.AccountDomains = []string{"school.example"} })
		}},
	} {
		t.Run(name, func(t *testing.T) {
			r := newReception(t)
			g, ticket := revoked(t, r)
			if tt.before != nil {
				tt.before(t, r, g)
			}
			u := r.ana
			if tt.who != nil {
				u = tt.who(r)
			}
			before := r.authorizations(t)
			values, _, err := r.signIn(ticket, u)
			if !errors.Is(err, tt.want) {
				t.Fatalf("the sign-in: %v, want %v", err, tt.want)
			}
			if tt.want == nil {
				must(t, g.poll(g.id, values.Get("access-token")))
				return
			}
			if after := r.authorizations(t); len(after) != len(before) {
				t.Errorf("the authorizations were %+v, and are %+v", before, after)
			}
		})
	}
}

// TestASignInAsIfToEnrolAnew is by a person whose device was asked to sign in again, and who
// begins from the start instead.
func TestASignInAsIfToEnrolAnew(t *testing.T) {
	storagetest.AnyEngine(t)
	r := newReception(t)
	g := r.enrolledBy(t, enroll.ModeBYOD, r.ana, anIPhone, byod)
	must2(r.RequireSignIn(context.Background(), g.device(t).ID))(t)
	r.pass(time.Second)
	granted, a := r.granted(t, r.ask(t, enroll.ModeBYOD, anIPhone).ticket, r.ana)
	must(t, g.poll(g.id, granted.access))
	if all := r.attempts(t); len(all) != 1 || all[0].ID == a.ID {
		t.Errorf("the attempts are %+v, want that of the device alone", all)
	}
	if all := r.authorizations(t); len(all) != 1 || all[0].DeviceID != g.device(t).ID || all[0].AttemptID != g.attempt {
		t.Errorf("the authorizations are %+v", all)
	}
	must(t, g.poll(g.id, granted.access))

	// One that has its profile already is another enrollment's.
	granted, _ = r.granted(t, r.ask(t, enroll.ModeBYOD, anIPhone).ticket, r.ana)
	_, err := r.post(t, enroll.ModeBYOD, granted.access, anIPhone)
	must(t, err)
	wantErr(t, "a poll with it", g.poll(g.id, granted.access), enroll.ErrForeignBearer)
}

// TestWhatThePolicyMakesOfBadTokens is for tokens of which the device has no better one.
func TestWhatThePolicyMakesOfBadTokens(t *testing.T) {
	storagetest.AnyEngine(t)
	ctx := context.Background()
	all := func(c *enroll.AccountDriven) {
		c.TokenExpired, c.TokenRevoked = enroll.AfterUnenroll, enroll.AfterUnenroll
	}
	expire := func(_ *testing.T, r *reception, _ *guest) { r.pass(91 * 24 * time.Hour) }
	revoke := func(t *testing.T, r *reception, g *guest) { must2(r.RequireSignIn(ctx, g.device(t).ID))(t) }
	for name, tt := range map[string]struct {
		method enroll.SignInMethod
		policy func(*enroll.AccountDriven)
		then   func(t *testing.T, r *reception, g *guest)
		token  string // empty: its own
		ends   bool
	}{
		"expired, and that ends it":       {enroll.MethodWeb, all, expire, "", true},
		"revoked, and that ends it":       {enroll.MethodWeb, all, revoke, "", true},
		"expired, while revoked ends it":  {enroll.MethodWeb, func(c *enroll.AccountDriven) { c.TokenRevoked = enroll.AfterUnenroll }, expire, "", false},
		"revoked, while expired ends it":  {enroll.MethodWeb, func(c *enroll.AccountDriven) { c.TokenExpired = enroll.AfterUnenroll }, revoke, "", false},
		"unknown never ends it":           {enroll.MethodWeb, all, func(*testing.T, *reception, *guest) {}, "nonsense", false},
		"OAuth, expired by silence":       {enroll.MethodOAuth2, all, expire, "", true},
		"OAuth, revoked":                  {enroll.MethodOAuth2, all, revoke, "", true},
		"OAuth, and only to be refreshed": {enroll.MethodOAuth2, all, func(_ *testing.T, r *reception, _ *guest) { r.pass(9 * time.Hour) }, "", false},
		"OAuth, revoked while it has lapsed": {enroll.MethodOAuth2, all, func(t *testing.T, r *reception, g *guest) {
			r.pass(9 * time.Hour)
			revoke(t, r, g)
		}, "", true},
		"its user has signed in again meanwhile": {enroll.MethodWeb, all, func(t *testing.T, r *reception, g *guest) {
			r.policy(t, func(c *enroll.AccountDriven) { c.TokenRevoked = enroll.AfterSignIn })
			revoke(t, r, g)
			ticket := askedIn(t, g.idle()).ticket
			r.granted(t, ticket, r.ana)
			r.policy(t, all)
		}, "", false},
	} {
		t.Run(name, func(t *testing.T) {
			r := newReception(t, tt.policy, func(c *enroll.AccountDriven) { c.Method = tt.method })
			g := r.enrolledBy(t, enroll.ModeBYOD, r.ana, anIPhone, byod)
			token := g.access
			if tt.token != "" {
				token = tt.token
			}
			tt.then(t, r, g)
			err := g.poll(g.id, token)
			if !tt.ends {
				askedIn(t, err)
				if d := g.device(t); d.State != mdm.Enrolled || !r.record(t, g.cert).RevokedAt.IsZero() {
					t.Errorf("the device is %s", d.State)
				}
				return
			}
			wantErr(t, "the poll", err, enroll.ErrGone)
			wantErr(t, "another poll", g.poll(g.id, token), enroll.ErrGone)
			if d := g.device(t); d.State != mdm.Unenrolled || r.record(t, g.cert).RevokedAt.IsZero() {
				t.Errorf("the device is %s", d.State)
			}
			if all := r.authorizations(t); len(all) != 0 {
				t.Errorf("the authorizations are %+v", all)
			}
		})
	}
}

// TestTokensDieWithTheEnrollment ends one in each way.
func TestTokensDieWithTheEnrollment(t *testing.T) {
	storagetest.AnyEngine(t)
	ctx := context.Background()
	yes := true
	for name, end := range map[string]func(t *testing.T, r *reception, g *guest){
		"unenrolled": func(t *testing.T, r *reception, g *guest) { must2(r.Unenroll(ctx, g.device(t).ID))(t) },
		"blocked":    func(t *testing.T, r *reception, g *guest) { must2(r.Block(ctx, g.device(t).ID))(t) },
		"gone by itself": func(t *testing.T, r *reception, g *guest) {
			must(t, r.CheckOut(ctx, g.peer(""), g.id))
		},
		"enrolled anew": func(t *testing.T, r *reception, _ *guest) { r.enrolledBy(t, enroll.ModeADDE, r.ana, anIPhone, iphone) },
		"of a user who was disabled": func(t *testing.T, r *reception, _ *guest) {
			r.change(t, r.ana, identity.UserChange{Disabled: &yes})
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newReception(t, byOAuth)
			g := r.enrolledBy(t, enroll.ModeADDE, r.ana, anIPhone, iphone)
			end(t, r, g)
			if err := g.idle(); err == nil {
				t.Error("the device goes on")
			}
			_, err := r.refresh(g.refresh)
			wantOAuth(t, "its refresh token", err, "invalid_grant")
			_, err = r.post(t, enroll.ModeADDE, g.access, anIPhone)
			if _, asked := errors.AsType[*enroll.SignInRequired](err); !asked {
				t.Errorf("a profile for its access token: %v, want a challenge", err)
			}
			d := g.device(t)
			for _, a := range r.authorizations(t) {
				if a.DeviceID != d.ID || d.State != mdm.Enrolled || d.EnrollmentMode == "" || a.AttemptID == g.attempt {
					t.Errorf("it left the authorization %+v to a device that is %s by %q", a, d.State, d.EnrollmentMode)
				}
			}
		})
	}
}

func TestIdlePollsWriteOnceAnHour(t *testing.T) {
	storagetest.AnyEngine(t)
	r := newReception(t)
	g := r.enrolledBy(t, enroll.ModeBYOD, r.ana, anIPhone, byod)
	must(t, g.idle())
	updates := r.db.updates.Load()
	const every, hours = 10 * time.Minute, 12
	for range hours * int(time.Hour/every) {
		r.pass(every)
		must(t, g.idle())
	}
	if n := r.db.updates.Load() - updates; n > hours || n < hours-1 {
		t.Errorf("%d hours of polls wrote %d times", hours, n)
	}
	// So it is known well enough when the device was last heard of.
	r.pass(90*24*time.Hour - time.Hour)
	must(t, g.idle())
	r.pass(90*24*time.Hour + time.Hour)
	askedIn(t, g.idle())
}

func TestAMacsUsersShowItsToken(t *testing.T) {
	storagetest.AnyEngine(t)
	r := newReception(t)
	g := r.come(t, enroll.ModeADDE, r.ana, aMac, mac)
	must(t, g.authenticate(""))
	must(t, g.tokenUpdate(g.id, ""))
	ana, guestUser := mdm.AppleID{UDID: mac.UDID, UserID: "501"}, mdm.AppleID{UDID: mac.UDID, UserID: "502"}
	wantErr(t, "a user without a token", g.tokenUpdate(ana, ""), enroll.ErrNoBearer)
	askedIn(t, g.tokenUpdate(ana, "nonsense"))
	must(t, g.tokenUpdate(ana, g.access))
	must(t, g.tokenUpdate(guestUser, g.access))
	must(t, errors.Join(g.poll(ana, g.access), g.poll(guestUser, g.access), g.idle()))
	must2(r.RequireSignIn(context.Background(), g.device(t).ID))(t)
	ticket := askedIn(t, g.poll(ana, g.access)).ticket
	must(t, g.idle()) // its own channel goes on
	again, _ := r.granted(t, ticket, r.ana)
	must(t, errors.Join(g.poll(ana, again.access), g.poll(guestUser, again.access), g.idle()))
}

// TestAMacHasTheTokenThatItFetchedItsProfileWith is about sign-ins that are finished twice,
// as by a person who goes back: which of the two the Mac was given only it knows, and it
// does not say at Authenticate.
func TestAMacHasTheTokenThatItFetchedItsProfileWith(t *testing.T) {
	storagetest.AnyEngine(t)
	for name, pick := range map[string]func(first, second tokens) tokens{
		"the first":  func(first, _ tokens) tokens { return first },
		"the second": func(_, second tokens) tokens { return second },
	} {
		t.Run(name, func(t *testing.T) {
			r := newReception(t)
			info := with(aMac, mdmtest.Dict{"UDID": mac.UDID})
			ticket := r.ask(t, enroll.ModeADDE, info).ticket
			first, _ := r.granted(t, ticket, r.ana)
			r.pass(time.Minute)
			second, _ := r.granted(t, ticket, r.ana)
			g := &guest{r: r, mode: enroll.ModeADDE, info: info, id: mac, tokens: pick(first, second)}
			signed := must2(r.post(t, enroll.ModeADDE, g.access, info))(t)
			g.cert = must2(r.IssueIdentity(context.Background(), request(t, keyring.take(t), challengeIn(t, signed))))(t)
			must(t, g.authenticate(""))
			must(t, g.tokenUpdate(g.id, ""))
			must(t, g.tokenUpdate(mdm.AppleID{UDID: mac.UDID, UserID: "501"}, g.access))
		})
	}
}

// TestASecondSignInTakesThePlaceOfTheFirst also where its token was refreshed before the
// device came with it.
func TestASecondSignInTakesThePlaceOfTheFirst(t *testing.T) {
	storagetest.AnyEngine(t)
	r := newReception(t, byOAuth)
	g := r.enrolledBy(t, enroll.ModeBYOD, r.ana, anIPhone, byod)
	must2(r.RequireSignIn(context.Background(), g.device(t).ID))(t)
	g.tokens, _ = r.granted(t, askedIn(t, g.idle()).ticket, r.ana)
	r.pass(8 * time.Hour)
	askedIn(t, g.idle())
	g.tokens = must2(r.refresh(g.refresh))(t)
	must(t, g.idle())
	if all := r.authorizations(t); len(all) != 1 {
		t.Errorf("the authorizations are %+v, want one", all)
	}
}

// TestAFailureOfOursIsNoChallenge lets the store fail at each read of a poll.
func TestAFailureOfOursIsNoChallenge(t *testing.T) {
	r := newReception(t, func(c *enroll.AccountDriven) { c.TokenExpired = enroll.AfterUnenroll })
	g := r.enrolledBy(t, enroll.ModeBYOD, r.ana, anIPhone, byod)
	r.pass(91 * 24 * time.Hour)
	for n := range int64(3) {
		r.db.broken.Store(n + 1)
		err := g.idle()
		r.db.broken.Store(0)
		if _, asked := errors.AsType[*enroll.SignInRequired](err); asked || !errors.Is(err, storage.ErrUnavailable) {
			t.Errorf("with read %d failing: %v, want ErrUnavailable", n+1, err)
		}
	}
	wantErr(t, "the poll that succeeds", g.idle(), enroll.ErrGone)
}
