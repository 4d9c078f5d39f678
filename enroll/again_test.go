package enroll_test

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/mdmtest"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

func stayAndAsk(c *enroll.AccountDriven) { c.UserDisabled = enroll.AfterSignIn }

// A person who signs in again at the moment in which they are disabled must not keep a good token.
func TestDisabledBesideSignInAgain(t *testing.T) {
	ctx := context.Background()
	yes := true
	r := newReception(t, stayAndAsk)
	g := r.enrolledBy(t, enroll.ModeBYOD, r.ana, anIPhone, byod)
	must2(r.RequireSignIn(ctx, g.device(t).ID))(t)
	ticket := askedIn(t, g.idle()).ticket
	var h enroll.HandBack
	a, b := r.atOnce(t,
		func(s *house) (err error) { h, err = s.FinishAccountSignIn(ctx, ticket, r.ana, nil); return err },
		func(s *house) error {
			people := must2(identity.New(identity.Config{DB: s.db, Log: slog.New(slog.DiscardHandler), Now: s.now, HashMemory: 64,
				OnDisable: func(tx storage.Tx, u identity.User) error { return s.EndUser(tx, u.Logins()...) }}))(t)
			_, err := people.UpdateUser(ctx, identity.Local(), r.ana.ID, identity.UserChange{Disabled: &yes})
			return err
		})
	must(t, b)
	if a != nil {
		wantErr(t, "the sign-in", a, enroll.ErrUserDisabled)
		return
	}
	token := must2(tokenIn(h))(t)
	err := g.poll(g.id, token)
	if err == nil {
		t.Fatal("the device of a disabled user has a good token, and goes on")
	}
	askedIn(t, err)
}

func tokenIn(h enroll.HandBack) (string, error) {
	const mark = "access-token="
	for i := range h.Location {
		if len(h.Location)-i > len(mark) && h.Location[i:i+len(mark)] == mark {
			return h.Location[i+len(mark):], nil
		}
	}
	return "", errors.New(h.Location)
}

func TestATokenInReserveOfADisabledUser(t *testing.T) {
	storagetest.AnyEngine(t)
	yes := true
	r := newReception(t, stayAndAsk)
	g := r.enrolledBy(t, enroll.ModeBYOD, r.ana, anIPhone, byod)
	reserve, _ := r.granted(t, r.ask(t, enroll.ModeBYOD, anIPhone).ticket, r.ana)
	r.change(t, r.ana, identity.UserChange{Disabled: &yes})
	askedIn(t, g.idle())
	err := g.poll(g.id, reserve.access)
	if err == nil {
		t.Fatal("a token from before makes the device of a disabled user go on")
	}
	askedIn(t, err)
}

func TestTheWaitingAttemptIsTakenUpByTheNextTry(t *testing.T) {
	storagetest.AnyEngine(t)
	ctx := context.Background()
	for name, between := range map[string]func(r *reception, id string){
		"given up before the profile": func(*reception, string) {},
		"an hour later":               func(r *reception, _ string) { r.pass(2 * time.Hour) },
		"tried again at the portal":   func(r *reception, id string) { must2(r.TryAgain(ctx, id))(t) },
	} {
		t.Run(name, func(t *testing.T) {
			r := newReception(t)
			a := r.visit(t, enroll.NewVisit{Platform: "ios", Major: 18})
			must2(r.SignedIn(ctx, a.ID, r.ana))(t)
			must2(r.Choose(ctx, a.ID, enroll.Choice{Ownership: mdm.Personal}))(t)
			must2(r.LedToSettings(ctx, a.ID))(t)
			first, got := r.granted(t, r.ask(t, enroll.ModeBYOD, anIPhone).ticket, r.ana)
			if got.ID != a.ID {
				t.Fatal("not taken up")
			}
			if name == "tried again at the portal" {
				must2(r.post(t, enroll.ModeBYOD, first.access, anIPhone))(t) // Apple's sign-in is cancelled then
			}
			between(r, a.ID)
			second, again := r.granted(t, r.ask(t, enroll.ModeBYOD, anIPhone).ticket, r.ana)
			if again.ID != a.ID {
				t.Errorf("the next try is of %s: the page of %s waits for ever", again.ID, a.ID)
			}
			_ = second
		})
	}
}

func TestSignInsAgainThatNobodyUsesAreSwept(t *testing.T) {
	storagetest.AnyEngine(t)
	ctx := context.Background()
	r := newReception(t)
	g := r.enrolledBy(t, enroll.ModeBYOD, r.ana, anIPhone, byod)
	must2(r.RequireSignIn(ctx, g.device(t).ID))(t)
	ticket := askedIn(t, g.idle()).ticket
	for range 20 {
		r.granted(t, ticket, r.ana)
	}
	r.pass(49 * time.Hour)
	must(t, r.Round(ctx))
	if n := len(r.authorizations(t)); n > 2 {
		t.Errorf("%d authorizations are there two days later, of one device", n)
	}
}

func TestReenrolledByProfile(t *testing.T) {
	storagetest.AnyEngine(t)
	r := newReception(t, byOAuth)
	g := r.enrolledBy(t, enroll.ModeADDE, r.ana, anIPhone, iphone)
	r.enrolled(t, "ana@example.com", iphone)
	if d := g.device(t); d.EnrollmentMode != "" || d.State != mdm.Enrolled {
		t.Fatalf("%+v", d)
	}
	if _, err := r.refresh(g.refresh); err == nil {
		t.Error("the refresh token of the earlier enrollment is good for ever")
	}
	if all := r.authorizations(t); len(all) != 0 {
		t.Errorf("the authorizations are %+v", all)
	}
}

func TestACodeThatCameTwiceEnrolsNoMac(t *testing.T) {
	storagetest.AnyEngine(t)
	r := newReception(t, byOAuth)
	info := with(aMac, mdmtest.Dict{"UDID": mac.UDID})
	values, _, err := r.signIn(r.ask(t, enroll.ModeADDE, info).ticket, r.ana)
	must(t, err)
	code := values.Get("code")
	got, err := r.exchange(code) // a thief is faster
	must(t, err)
	signed := must2(r.post(t, enroll.ModeADDE, got.access, info))(t)
	g := &guest{r: r, mode: enroll.ModeADDE, info: info, id: mac, tokens: got}
	g.cert = must2(r.IssueIdentity(context.Background(), request(t, keyring.take(t), challengeIn(t, signed))))(t)
	_, err = r.exchange(code) // now the device
	wantOAuth2(t, err)
	err = g.authenticate("")
	if err == nil {
		t.Error("a Mac enrolls whose authorization was revoked")
	}
}

func wantOAuth2(t *testing.T, err error) {
	t.Helper()
	if o, ok := errors.AsType[*enroll.OAuthError](err); !ok || o.Code != "invalid_grant" {
		t.Fatalf("%v", err)
	}
}

func TestADeviceDoesNotTurnIntoAMac(t *testing.T) {
	storagetest.AnyEngine(t)
	ctx := context.Background()
	r := newReception(t)
	g := r.enrolledBy(t, enroll.ModeBYOD, r.ana, anIPhone, byod)
	_ = r.Authenticate(ctx, g.peer(g.access), enroll.AuthenticateMessage{
		ID: g.id, Topic: "com.apple.mgmt.External.0000", Facts: mdm.Facts{ProductName: "Mac15,3"},
	})
	must2(r.RequireSignIn(ctx, g.device(t).ID))(t)
	r.enqueue(t, "CMD-1", g.device(t).ID)
	cmd, err := r.Connect(ctx, g.peer(""), enroll.ConnectMessage{ID: g.id, Idle: true})
	if err == nil {
		t.Errorf("an iPhone that calls itself a Mac gets %d bytes of command without a token", len(cmd))
	}
}

func TestEnrolsAsAnotherFamily(t *testing.T) {
	storagetest.AnyEngine(t)
	ctx := context.Background()
	r := newReception(t)
	g := r.come(t, enroll.ModeBYOD, r.ana, anIPhone, byod)
	err := r.Authenticate(ctx, g.peer(""), enroll.AuthenticateMessage{
		ID: g.id, Topic: "com.apple.mgmt.External.0000", Facts: mdm.Facts{ProductName: "Mac15,3"},
	})
	if err == nil {
		t.Error("what signed in as an iPhone enrolls as a Mac without a token; User Enrollment is not for Macs here")
	}
}

// A Mac with a policy that ends enrollments whose token was revoked.
func TestAMacThatMustSignInGetsNoCommand(t *testing.T) {
	storagetest.AnyEngine(t)
	ctx := context.Background()
	r := newReception(t)
	g := r.enrolledBy(t, enroll.ModeADDE, r.ana, aMac, mac)
	id := g.device(t).ID
	r.enqueue(t, "CMD-1", id)
	must2(r.RequireSignIn(ctx, id))(t)
	idle := func(bearer string) []byte {
		return must2(r.Connect(ctx, g.peer(bearer), enroll.ConnectMessage{ID: g.id, Idle: true}))(t)
	}
	if cmd := idle(""); cmd != nil {
		t.Errorf("it gets a command: %s", cmd)
	}
	must(t, g.tokenUpdate(g.id, ""))
	if cmd := idle(""); cmd != nil {
		t.Errorf("after a TokenUpdate it gets a command: %s", cmd)
	}

	r = newReception(t, func(c *enroll.AccountDriven) { c.TokenRevoked = enroll.AfterUnenroll })
	g = r.enrolledBy(t, enroll.ModeADDE, r.ana, aMac, mac)
	if d := must2(r.RequireSignIn(ctx, g.device(t).ID))(t); d.State != mdm.Unenrolled {
		t.Errorf("with a policy that ends the enrollment, it is %s", d.State)
	}
}

// Between profile and Authenticate the token lapses: the sign-in that is asked for leads nowhere.
func TestAskedAtAuthenticate(t *testing.T) {
	storagetest.AnyEngine(t)
	for name, lapse := range map[string]func(r *reception){
		"life": func(r *reception) { r.pass(2 * time.Hour) },
	} {
		t.Run(name, func(t *testing.T) {
			r := newReception(t, func(c *enroll.AccountDriven) { c.TokenLife = time.Hour })
			g := r.come(t, enroll.ModeBYOD, r.ana, anIPhone, byod)
			lapse(r)
			ticket := askedIn(t, g.authenticate(g.access)).ticket
			again, _, err := r.signIn(ticket, r.ana)
			must(t, err)
			if err := g.authenticate(again.Get("access-token")); err != nil {
				t.Errorf("after the sign-in that it was asked for: %v", err)
			}
		})
	}
}

// A reserve token outlives the administrator's order, too.
func TestATokenInReserveAfterRequireSignIn(t *testing.T) {
	storagetest.AnyEngine(t)
	r := newReception(t)
	g := r.enrolledBy(t, enroll.ModeBYOD, r.ana, anIPhone, byod)
	reserve, _ := r.granted(t, r.ask(t, enroll.ModeBYOD, anIPhone).ticket, r.ana)
	r.pass(time.Hour)
	must2(r.RequireSignIn(context.Background(), g.device(t).ID))(t)
	askedIn(t, g.idle())
	if err := g.poll(g.id, reserve.access); err == nil {
		t.Error("a sign-in from before the order fulfils it")
	}
}

func TestRightsThatChangeBetweenTwoProfiles(t *testing.T) {
	storagetest.AnyEngine(t)
	ctx := context.Background()
	r := newReception(t)
	info := with(anIPhone, mdmtest.Dict{"UDID": iphone.UDID})
	r.set(t, func(s *enroll.Settings) { s.Institutional.Rights = r1rights(false) })
	got, _ := r.granted(t, r.ask(t, enroll.ModeADDE, info).ticket, r.ana)
	first := must2(r.post(t, enroll.ModeADDE, got.access, info))(t)
	r.set(t, func(s *enroll.Settings) { s.Institutional.Rights = r1rights(true) })
	must2(r.post(t, enroll.ModeADDE, got.access, info))(t)
	cert, err := r.IssueIdentity(ctx, request(t, keyring.take(t), challengeIn(t, first)))
	if err != nil {
		return // void, as at the portal
	}
	g := &guest{r: r, mode: enroll.ModeADDE, info: info, id: iphone, tokens: got, cert: cert}
	must(t, g.authenticate(g.access))
	t.Errorf("the device with the first profile is taken for one with the rights %d of the second", g.device(t).AccessRights)
}

// The same of what must never change in a renewal: RequiredAppIDForMDM, AssignedManagedAppleID.
func TestAnAppThatChangesBetweenTwoSignIns(t *testing.T) {
	storagetest.AnyEngine(t)
	ctx := context.Background()
	r := newReception(t, func(c *enroll.AccountDriven) { c.RequiredAppID = 1 })
	ticket := r.ask(t, enroll.ModeBYOD, anIPhone).ticket
	got, _ := r.granted(t, ticket, r.ana)
	first := must2(r.post(t, enroll.ModeBYOD, got.access, anIPhone))(t)
	r.policy(t, func(c *enroll.AccountDriven) { c.RequiredAppID = 2 })
	r.granted(t, ticket, r.ana) // goes back, and once more
	cert, err := r.IssueIdentity(ctx, request(t, keyring.take(t), challengeIn(t, first)))
	if err != nil {
		return
	}
	g := &guest{r: r, mode: enroll.ModeBYOD, info: anIPhone, id: byod, tokens: got, cert: cert}
	must(t, g.authenticate(g.access))
	if d := g.device(t); d.RequiredAppID != 1 {
		t.Errorf("the profile says app 1, the record %d: every renewal will be rejected", d.RequiredAppID)
	}
}

func r1rights(full bool) enroll.Rights {
	if full {
		return enroll.Rights{Preset: enroll.PresetFull}
	}
	return enroll.Rights{Preset: enroll.PresetReduced}
}

func TestAMacThatPollsIsNotSilent(t *testing.T) {
	storagetest.AnyEngine(t)
	r := newReception(t, func(c *enroll.AccountDriven) { c.TokenExpired = enroll.AfterUnenroll })
	g := r.enrolledBy(t, enroll.ModeADDE, r.ana, aMac, mac)
	user := mdm.AppleID{UDID: mac.UDID, UserID: "501"}
	must(t, g.tokenUpdate(user, g.access))
	for range 100 { // nobody logs in
		r.pass(24 * time.Hour)
		must(t, g.idle())
	}
	if err := g.poll(user, g.access); err != nil {
		t.Errorf("the first poll of the user after a leave: %v; the device is %s", err, g.device(t).State)
	}
}

// is enrolled goes on with apple-as-web and by profile, and must with apple-oauth2.
func TestWhoMayNotEnrolKeepsWhatIsEnrolled(t *testing.T) {
	storagetest.AnyEngine(t)
	yes := true
	for _, method := range []enroll.SignInMethod{enroll.MethodWeb, enroll.MethodOAuth2} {
		t.Run(string(method), func(t *testing.T) {
			r := newReception(t, func(c *enroll.AccountDriven) { c.Method = method })
			g := r.enrolledBy(t, enroll.ModeBYOD, r.ana, anIPhone, byod)
			r.change(t, r.ana, identity.UserChange{NoEnroll: &yes})
			r.pass(9 * time.Hour)
			if method == enroll.MethodOAuth2 {
				got, err := r.refresh(g.refresh)
				if err != nil {
					t.Fatal(err)
				}
				g.tokens = got
			}
			must(t, g.idle())
		})
	}
}

func TestThePortalsAttemptIsNotTakenAway(t *testing.T) {
	storagetest.AnyEngine(t)
	ctx := context.Background()
	r := newReception(t)
	g := r.enrolledBy(t, enroll.ModeBYOD, r.ana, anIPhone, byod)
	p := r.visit(t, enroll.NewVisit{Platform: "ios", Major: 18})
	must2(r.SignedIn(ctx, p.ID, r.ana))(t)
	must2(r.Choose(ctx, p.ID, enroll.Choice{Ownership: mdm.Personal}))(t)
	must2(r.LedToSettings(ctx, p.ID))(t)
	must2(r.RequireSignIn(ctx, g.device(t).ID))(t)
	granted, a := r.granted(t, r.ask(t, enroll.ModeBYOD, anIPhone).ticket, r.ana)
	if a.ID != p.ID {
		t.Fatal("not taken up")
	}
	must(t, g.poll(g.id, granted.access))
	if _, err := r.Attempt(ctx, p.ID); err != nil {
		t.Errorf("the page that the person looks at: %v", err)
	}
}

// TestAMacGoesOnWhenItsTokenIsGoodAgain is by an operator who allows longer silence.
func TestAMacGoesOnWhenItsTokenIsGoodAgain(t *testing.T) {
	storagetest.AnyEngine(t)
	ctx := context.Background()
	r := newReception(t, func(c *enroll.AccountDriven) { c.TokenLife = time.Hour })
	g := r.enrolledBy(t, enroll.ModeADDE, r.ana, aMac, mac)
	user := mdm.AppleID{UDID: mac.UDID, UserID: "U1"}
	must(t, g.tokenUpdate(user, g.access))
	r.enqueue(t, "CMD-1", g.device(t).ID)
	r.pass(2 * time.Hour)
	askedIn(t, g.poll(user, g.access))
	idle := func() []byte {
		return must2(r.Connect(ctx, g.peer(""), enroll.ConnectMessage{ID: g.id, Idle: true}))(t)
	}
	if cmd := idle(); cmd != nil {
		t.Errorf("it gets a command: %s", cmd)
	}
	r.policy(t, func(c *enroll.AccountDriven) { c.TokenLife = 0 })
	must(t, g.poll(user, g.access))
	if idle() == nil {
		t.Error("it gets no command")
	}
}
