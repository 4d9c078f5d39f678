package enroll_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"reflect"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/enroll/machineinfo"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/mdmtest"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/guard"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

func TestFromAnAccountToAnEnrolledDevice(t *testing.T) {
	for name, tt := range map[string]struct {
		mode      enroll.AccountMode
		info      mdmtest.Dict
		id        mdm.AppleID
		enrolls   mdm.EnrollmentType
		ownership mdm.Ownership
		word      string // EnrollmentMode
		rights    int
	}{
		"a phone of a person":            {enroll.ModeBYOD, anIPhone, byod, mdm.TypeUser, mdm.Personal, "BYOD", 0},
		"a Mac of the organisation":      {enroll.ModeADDE, aMac, mac, mdm.TypeAccountDevice, mdm.Institutional, "ADDE", enroll.AllRights},
		"a Mac of a person":              {enroll.ModeBYOD, aMac, byod, mdm.TypeUser, mdm.Personal, "BYOD", 0},
		"a phone of the organisation":    {enroll.ModeADDE, anIPhone, iphone, mdm.TypeAccountDevice, mdm.Institutional, "ADDE", enroll.AllRights},
		"a Vision of a person":           {enroll.ModeBYOD, aVision, byod, mdm.TypeUser, mdm.Personal, "BYOD", 0},
		"what tells nothing of itself":   {enroll.ModeBYOD, mdmtest.Dict{"PRODUCT": ""}, byod, mdm.TypeUser, mdm.Personal, "BYOD", 0},
		"a person's that tells its UDID": {enroll.ModeBYOD, with(anIPhone, mdmtest.Dict{"UDID": iphone.UDID, "SERIAL": "C02", "IMEI": "35 000000 000000 0"}), byod, mdm.TypeUser, mdm.Personal, "BYOD", 0},
	} {
		for _, method := range []enroll.SignInMethod{enroll.MethodWeb, enroll.MethodOAuth2} {
			t.Run(name+" by "+string(method), func(t *testing.T) {
				r := newReception(t, func(c *enroll.AccountDriven) { c.Method, c.RequiredAppID = method, 361309726 })
				g := r.come(t, tt.mode, r.ana, tt.info, tt.id)
				a := r.attempt(t, g.attempt)
				if stated := a.Stated != nil; a.Stage != enroll.IdentityIssued || a.User != "ana@example.com" || stated != (tt.mode == enroll.ModeADDE) {
					t.Errorf("the attempt is %+v, stated %+v", a, a.Stated)
				}
				bearer := g.access
				if g.usual(false) == "" {
					bearer = ""
				}
				must(t, g.authenticate(bearer))
				must(t, g.tokenUpdate(g.id, bearer))
				must(t, g.poll(g.id, bearer))
				d := g.device(t)
				if d.State != mdm.Enrolled || d.Type != tt.enrolls || d.Ownership != tt.ownership || d.EnrollmentMode != tt.word || d.AccessRights != tt.rights ||
					d.ManagedAppleAccount != "ana@appleid.example.com" || d.RequiredAppID != 361309726 || d.User != "ana@example.com" || d.AttemptID != g.attempt {
					t.Errorf("the device is %+v", d)
				}
				if tt.mode == enroll.ModeBYOD && (d.UDID != "" || d.SerialNumber != "" || d.IMEI != "") {
					t.Errorf("the device is known by %q, %q, %q", d.UDID, d.SerialNumber, d.IMEI)
				}
				if f := r.attempt(t, g.attempt); f.Stage != enroll.Enrolled || len(f.StageAt) != 6 || f.DeviceID != d.ID {
					t.Errorf("the attempt is %+v", f)
				}
			})
		}
	}
}

func TestWhatIsInTheProfile(t *testing.T) {
	storagetest.AnyEngine(t)
	for name, tt := range map[string]struct {
		mode  enroll.AccountMode
		info  mdmtest.Dict
		app   int64
		wants map[string]any // nil: must be absent
	}{
		"of a User Enrollment": {enroll.ModeBYOD, anIPhone, 361309726, map[string]any{
			"EnrollmentMode": "BYOD", "AssignedManagedAppleID": "ana@appleid.example.com", "AccessRights": nil, "ManagedAppleID": nil, "RequiredAppIDForMDM": uint64(361309726),
		}},
		"of a Device Enrollment": {enroll.ModeADDE, aMac, 0, map[string]any{
			"EnrollmentMode": "ADDE", "AssignedManagedAppleID": "ana@appleid.example.com", "AccessRights": uint64(enroll.AllRights), "ManagedAppleID": nil, "RequiredAppIDForMDM": nil,
		}},
	} {
		t.Run(name, func(t *testing.T) {
			ctx := context.Background()
			r := newReception(t, func(c *enroll.AccountDriven) { c.RequiredAppID = tt.app })
			granted, _ := r.granted(t, r.ask(t, tt.mode, tt.info).ticket, r.ana)
			signed := must2(r.post(t, tt.mode, granted.access, tt.info))(t)
			first := payloads(t, signed)["com.apple.mdm"]
			for key, want := range tt.wants {
				if got := first[key]; !reflect.DeepEqual(got, want) {
					t.Errorf("%s is %v, want %v", key, got, want)
				}
			}
			if first["CheckOutWhenRemoved"] != true || first["SignMessage"] != true {
				t.Errorf("the payload is %v", first)
			}
			if capabilities := first["ServerCapabilities"].([]any); capabilities[0] != "com.apple.mdm.per-user-connections" {
				t.Errorf("the server can do %v", capabilities)
			}

			// A renewal repeats what must not change (PROTOCOL 3.2), whatever is decided by then.
			id := byod
			if tt.mode == enroll.ModeADDE {
				id = mac
			}
			g := &guest{r: r, mode: tt.mode, info: tt.info, id: id, tokens: granted}
			g.cert = must2(r.IssueIdentity(ctx, request(t, keyring.take(t), challengeIn(t, signed))))(t)
			must(t, g.authenticate(g.usual(false)))
			must(t, g.tokenUpdate(g.id, g.usual(false)))
			other := "ana.new@appleid.example.com"
			r.change(t, r.ana, identity.UserChange{ManagedAppleAccount: &other})
			r.policy(t, func(c *enroll.AccountDriven) { c.RequiredAppID, c.Domains, c.Method = 4711, nil, enroll.MethodOAuth2 })
			r.set(t, func(s *enroll.Settings) { s.Institutional.Rights.Preset = enroll.PresetReduced })
			must(t, r.Renew(ctx, g.device(t).ID))
			plist, err := r.Connect(ctx, g.peer(g.usual(false)), enroll.ConnectMessage{ID: g.id, Idle: true})
			must(t, err)
			var cmd struct{ Command struct{ Payload []byte } }
			must(t, guard.DecodePlist(plist, &cmd, guard.PlistLimits{}))
			renewed := payloads(t, cmd.Command.Payload)["com.apple.mdm"]
			for key := range union(first, renewed) {
				if key != "IdentityCertificateUUID" && !reflect.DeepEqual(first[key], renewed[key]) {
					t.Errorf("%s was %v, and is %v with the renewal", key, first[key], renewed[key])
				}
			}
		})
	}
}

func union(a, b map[string]any) map[string]any {
	all := map[string]any{}
	for _, m := range []map[string]any{a, b} {
		for key := range m {
			all[key] = nil
		}
	}
	return all
}

// TestProfilesForGoodTokensOnly has one device ask with whatever token.
func TestProfilesForGoodTokensOnly(t *testing.T) {
	storagetest.AnyEngine(t)
	for _, method := range []enroll.SignInMethod{enroll.MethodWeb, enroll.MethodOAuth2} {
		for name, tt := range map[string]struct {
			token func(t *testing.T, r *reception) string
			mode  enroll.AccountMode
		}{
			"none":              {func(*testing.T, *reception) string { return "" }, enroll.ModeBYOD},
			"noise":             {func(*testing.T, *reception) string { return "nonsense" }, enroll.ModeBYOD},
			"a long one":        {func(*testing.T, *reception) string { return string(bytes.Repeat([]byte("A"), 48)) }, enroll.ModeBYOD},
			"one changed":       {func(t *testing.T, r *reception) string { return flip(fresh(t, r).access) }, enroll.ModeBYOD},
			"of the other mode": {func(t *testing.T, r *reception) string { return fresh(t, r).access }, enroll.ModeADDE},
			"too old": {func(t *testing.T, r *reception) string {
				defer r.pass(91 * 24 * time.Hour)
				return fresh(t, r).access
			}, enroll.ModeBYOD},
			"of a sign-in that is too long ago": {func(t *testing.T, r *reception) string {
				r.policy(t, func(c *enroll.AccountDriven) { c.TokenLife = time.Hour })
				defer r.pass(time.Hour)
				return fresh(t, r).access
			}, enroll.ModeBYOD},
			"an enrolled device's": {func(t *testing.T, r *reception) string {
				return r.enrolledBy(t, enroll.ModeBYOD, r.ana, anIPhone, byod).access
			}, enroll.ModeBYOD},
			"a device's that has gone": {func(t *testing.T, r *reception) string {
				g := r.enrolledBy(t, enroll.ModeBYOD, r.ana, anIPhone, byod)
				must(t, r.CheckOut(context.Background(), g.peer(""), g.id))
				return g.access
			}, enroll.ModeBYOD},
			"of an attempt that has failed": {func(t *testing.T, r *reception) string {
				token := fresh(t, r).access
				r.pass(25 * time.Hour)
				must(t, r.Round(context.Background()))
				return token
			}, enroll.ModeBYOD},
			"a refresh token": {func(t *testing.T, r *reception) string {
				if got := fresh(t, r).refresh; got != "" {
					return got
				}
				return "none by this method"
			}, enroll.ModeBYOD},
		} {
			t.Run(name+" by "+string(method), func(t *testing.T) {
				r := newReception(t, func(c *enroll.AccountDriven) { c.Method = method })
				info := with(anIPhone, nil)
				if tt.mode == enroll.ModeADDE {
					info["UDID"] = iphone.UDID
				}
				token := tt.token(t, r)
				before, authorized := len(r.attempts(t)), len(r.authorizations(t))
				_, err := r.post(t, tt.mode, token, info)
				if a := askedIn(t, err); a.params["method"] != string(method) {
					t.Errorf("the challenge is %v", a.params)
				}
				if n, m := len(r.attempts(t)), len(r.authorizations(t)); n != before || m != authorized {
					t.Errorf("it left %d attempts and %d authorizations, want %d and %d", n, m, before, authorized)
				}
				// Signing in helps.
				r.policy(t, func(c *enroll.AccountDriven) { c.TokenLife = 0 })
				granted, _ := r.granted(t, askedIn(t, err).ticket, r.ana)
				_, err = r.post(t, tt.mode, granted.access, info)
				must(t, err)
			})
		}
	}
}

// fresh is what a device has whose user has just signed in.
func fresh(t *testing.T, r *reception) tokens {
	t.Helper()
	granted, _ := r.granted(t, r.ask(t, enroll.ModeBYOD, anIPhone).ticket, r.ana)
	return granted
}

func TestTheProfileMayBeFetchedAgain(t *testing.T) {
	storagetest.AnyEngine(t)
	ctx := context.Background()
	r := newReception(t)
	granted, a := r.granted(t, r.ask(t, enroll.ModeBYOD, anIPhone).ticket, r.ana)
	fetch := func() string {
		t.Helper()
		return challengeIn(t, must2(r.post(t, enroll.ModeBYOD, granted.access, anIPhone))(t))
	}
	issue := func(challenge string) (*x509.Certificate, error) {
		return r.IssueIdentity(ctx, request(t, keyring.take(t), challenge))
	}
	first, second := fetch(), fetch()
	if first == second {
		t.Error("both profiles have one challenge")
	}
	cert, err := issue(first) // whichever answer arrived
	must(t, err)
	if _, err := issue(second); !errors.Is(err, enroll.ErrChallenge) {
		t.Errorf("the other challenge bought a second certificate: %v", err)
	}
	if _, err := issue(first); !errors.Is(err, enroll.ErrChallenge) {
		t.Errorf("a challenge bought two certificates: %v", err)
	}

	// Who asks again now has failed to install it: what was issued is good for nothing.
	third := fetch()
	if f := r.attempt(t, a.ID); f.Stage != enroll.ProfileDownloaded || r.record(t, cert).RevokedAt.IsZero() {
		t.Errorf("the attempt is %+v, and the certificate was revoked %v", f, r.record(t, cert).RevokedAt)
	}
	if _, err := issue(second); !errors.Is(err, enroll.ErrChallenge) {
		t.Errorf("a challenge of before: %v, want ErrChallenge", err)
	}
	lost := guest{r: r, mode: enroll.ModeBYOD, info: anIPhone, id: byod, cert: cert, tokens: granted}
	if err := lost.authenticate(granted.access); err == nil {
		t.Error("a device came by the certificate that was revoked")
	}
	again, err := issue(third)
	must(t, err)
	g := guest{r: r, mode: enroll.ModeBYOD, info: anIPhone, id: byod, cert: again, tokens: granted}
	must(t, g.authenticate(granted.access))
	_, err = r.post(t, enroll.ModeBYOD, granted.access, anIPhone)
	askedIn(t, err)
	must(t, g.tokenUpdate(byod, granted.access))
	_, err = r.post(t, enroll.ModeBYOD, granted.access, anIPhone)
	askedIn(t, err)
	must(t, g.idle())
	if len(r.attempts(t)) != 1 {
		t.Errorf("the attempts are %+v, want one", r.attempts(t))
	}
}

// TestWhoIsTurnedAwayWithAToken finds out at the POST what Authenticate would find out.
func TestWhoIsTurnedAwayWithAToken(t *testing.T) {
	storagetest.AnyEngine(t)
	ctx := context.Background()
	yes := true
	for name, tt := range map[string]struct {
		before func(t *testing.T, r *reception)
		want   error
		code   string
		fails  bool // the attempt with it
	}{
		"the device is blocked": {func(t *testing.T, r *reception) {
			g := r.enrolledBy(t, enroll.ModeADDE, r.ana, aMac, mac)
			_, err := r.Block(ctx, g.device(t).ID)
			must(t, err)
		}, mdm.ErrBlocked, "device_blocked", true},
		"the device is somebody else's": {func(t *testing.T, r *reception) {
			r.enrolledBy(t, enroll.ModeADDE, r.ben, aMac, mac)
		}, enroll.ErrDeviceOwned, "device_owned", true},
		"the user was disabled": {func(t *testing.T, r *reception) {
			r.change(t, r.ana, identity.UserChange{Disabled: &yes})
		}, enroll.ErrUserDisabled, "user_disabled", true},
		"accounts are for nothing any more": {func(t *testing.T, r *reception) {
			r.uses(t, identity.UsePersonal)
		}, identity.ErrMayNotEnroll, "may_not_enroll", true},
		"such devices are not enrolled any more": {func(t *testing.T, r *reception) {
			r.policy(t, func(c *enroll.AccountDriven) { c.Domains = nil })
		}, enroll.ErrModeOff, "mode_off", false},
	} {
		t.Run(name, func(t *testing.T) {
			r := newReception(t)
			info := with(aMac, mdmtest.Dict{"UDID": mac.UDID, "SERIAL": "C02MAC"})
			granted, a := r.granted(t, r.ask(t, enroll.ModeADDE, info).ticket, r.ana)
			tt.before(t, r)
			_, err := r.post(t, enroll.ModeADDE, granted.access, info)
			if !errors.Is(err, tt.want) {
				t.Errorf("the POST: %v, want %v", err, tt.want)
			}
			f := r.attempt(t, a.ID)
			if tt.fails && (f.Stage != enroll.AttemptFailed || f.ErrorCode != tt.code) || !tt.fails && f.Stage != enroll.Authenticated {
				t.Errorf("the attempt is %s with %q", f.Stage, f.ErrorCode)
			}
			r.wantAudited(t, "192.0.2.7", map[string]string{"code": tt.code, "udid": mac.UDID, "serial_number": "C02MAC"})
		})
	}
}

func TestAPersonsDeviceEnrolsAgain(t *testing.T) {
	storagetest.AnyEngine(t)
	r := newReception(t)
	first := r.enrolledBy(t, enroll.ModeADDE, r.ana, aMac, mac)
	id := first.device(t).ID
	second := r.enrolledBy(t, enroll.ModeADDE, r.ana, aMac, mac)
	if d := second.device(t); d.ID != id || d.AttemptID != second.attempt || d.State != mdm.Enrolled {
		t.Errorf("the device is %+v", d)
	}
	if r.record(t, first.cert).RevokedAt.IsZero() {
		t.Error("the certificate of before is in force")
	}
	if all := r.authorizations(t); len(all) != 1 || all[0].DeviceID != id || all[0].AttemptID != second.attempt {
		t.Errorf("the authorizations are %+v, want that of the second sign-in", all)
	}
	// A person's own is another device each time: Apple gives it a new EnrollmentID.
	phone := r.enrolledBy(t, enroll.ModeBYOD, r.ana, anIPhone, byod)
	again := r.enrolledBy(t, enroll.ModeBYOD, r.ana, anIPhone, mdm.AppleID{EnrollmentID: "FB833D84-0002"})
	if phone.device(t).ID == again.device(t).ID {
		t.Error("two enrollments are one device")
	}
	must(t, errors.Join(phone.idle(), again.idle()))
}

// TestDevicesOfAnotherKindThanTheirProfile come by a profile of one mode as the other.
func TestDevicesOfAnotherKindThanTheirProfile(t *testing.T) {
	storagetest.AnyEngine(t)
	for name, tt := range map[string]struct {
		mode enroll.AccountMode
		id   mdm.AppleID
		as   mdm.AppleID
		want error
	}{
		"a User Enrollment with a UDID":            {enroll.ModeBYOD, byod, iphone, enroll.ErrOtherKind},
		"a Device Enrollment with an EnrollmentID": {enroll.ModeADDE, iphone, byod, enroll.ErrOtherDevice},
		"another device than has stated":           {enroll.ModeADDE, iphone, mdm.AppleID{UDID: "00008120-0002"}, enroll.ErrOtherDevice},
	} {
		t.Run(name, func(t *testing.T) {
			r := newReception(t)
			g := r.come(t, tt.mode, r.ana, anIPhone, tt.id)
			g.id = tt.as
			wantErr(t, "Authenticate", g.authenticate(g.access), tt.want)
			if a := r.attempt(t, g.attempt); a.Stage != enroll.AttemptFailed || a.DeviceID != "" {
				t.Errorf("the attempt is %+v", a)
			}
			if all := r.authorizations(t); len(all) != 1 || all[0].DeviceID != "" {
				t.Errorf("the authorizations are %+v", all)
			}
		})
	}
}

func TestSignaturesOfEnrollingDevices(t *testing.T) {
	storagetest.AnyEngine(t)
	ctx := context.Background()
	for check, want := range map[enroll.SignatureCheck]error{
		enroll.SignatureOff: nil, enroll.SignatureLog: nil, enroll.SignatureRequire: machineinfo.ErrNotApple,
	} {
		t.Run(string(check), func(t *testing.T) {
			r := newReception(t)
			r.set(t, func(s *enroll.Settings) { s.DeviceSignature = check })
			for who, as := range map[string]func() (*mdmtest.BuiltIn, error){"Apple's": genuine, "a stranger's": pretender} {
				_, err := r.EnrollByAccount(ctx, enroll.AccountRequest{Mode: enroll.ModeBYOD, Body: signedBy(t, as, anIPhone)})
				if who == "a stranger's" && want != nil {
					wantErr(t, who, err, want)
				} else {
					askedIn(t, err)
				}
			}
			// Who has asked as one of Apple's may not go on as another.
			granted, a := r.granted(t, r.ask(t, enroll.ModeBYOD, anIPhone).ticket, r.ana)
			_, err := r.EnrollByAccount(ctx, enroll.AccountRequest{Mode: enroll.ModeBYOD, Bearer: granted.access, Body: signedBy(t, pretender, anIPhone)})
			if !errors.Is(err, want) {
				t.Errorf("with a token: %v, want %v", err, want)
			}
			if stage := r.attempt(t, a.ID).Stage; (stage == enroll.ProfileDownloaded) != (want == nil) {
				t.Errorf("the attempt is %s", stage)
			}
		})
	}
}

func TestStatementsThatCanNotBeRead(t *testing.T) {
	storagetest.AnyEngine(t)
	ctx := context.Background()
	r := newReception(t)
	granted, a := r.granted(t, r.ask(t, enroll.ModeBYOD, anIPhone).ticket, r.ana)
	inDER := func(s *mdmtest.Signature) { s.Encoding = mdmtest.DER }
	good := signedBy(t, genuine, anIPhone, inDER)
	for name, tt := range map[string]struct {
		body []byte
		want error
	}{
		"nothing":              {nil, enroll.ErrStatement},
		"no signature":         {must2(mdmtest.MarshalPlist(anIPhone))(t), enroll.ErrStatement},
		"no signer":            {signedBy(t, genuine, anIPhone, inDER, func(s *mdmtest.Signature) { s.Signers = -1 }), guard.ErrCMS},
		"two signers":          {signedBy(t, genuine, anIPhone, inDER, func(s *mdmtest.Signature) { s.Signers = 2 }), guard.ErrCMS},
		"a detached signature": {signedBy(t, genuine, anIPhone, inDER, func(s *mdmtest.Signature) { s.Detached = true }), guard.ErrCMS},
		"another digest":       {bytes.Replace(good, []byte("iPhone17,2"), []byte("iPhone17,3"), 1), guard.ErrSignature},
		"a binary plist":       {signedBy(t, genuine, []byte("bplist00\xd1\x01\x02"), inDER), guard.ErrBinaryPlist},
		"no plist":             {signedBy(t, genuine, []byte("PRODUCT=iPhone"), inDER), enroll.ErrStatement},
		"more than is read":    {signedBy(t, genuine, bytes.Repeat([]byte(" "), machineinfo.MaxSize), inDER), guard.ErrTooLarge},
		"cut short":            {good[:len(good)/2], enroll.ErrStatement},
		"something behind":     {append(bytes.Clone(good), 0), enroll.ErrStatement},
	} {
		t.Run(name, func(t *testing.T) {
			updates := r.db.updates.Load()
			for _, bearer := range []string{"", granted.access} {
				_, err := r.EnrollByAccount(ctx, enroll.AccountRequest{Mode: enroll.ModeBYOD, Body: tt.body, Bearer: bearer})
				if !errors.Is(err, tt.want) {
					t.Errorf("%v, want %v", err, tt.want)
				}
			}
			if n := r.db.updates.Load() - updates; n != 0 {
				t.Errorf("it wrote %d times", n)
			}
		})
	}
	if f := r.attempt(t, a.ID); f.Stage != enroll.Authenticated {
		t.Errorf("the attempt is %+v", f)
	}
}

func TestWhatAnybodyMayAskWritesNothing(t *testing.T) {
	storagetest.AnyEngine(t)
	r := newReception(t)
	updates := r.db.updates.Load()
	for range 3 {
		ticket := r.ask(t, enroll.ModeBYOD, anIPhone).ticket
		must2(r.AccountSignIn(context.Background(), ticket))(t)
		must2(r.Discover(context.Background(), "ana@example.com", "iPhone"))(t)
	}
	if n := r.db.updates.Load() - updates; n != 0 {
		t.Errorf("it wrote %d times", n)
	}
}

// TestUsersOnTheWay changes who somebody is between the sign-in and the device's coming.
func TestUsersOnTheWay(t *testing.T) {
	storagetest.AnyEngine(t)
	ctx := context.Background()
	bee, yes := "bee", true
	mail := "bee@example.com"
	t.Run("renamed before the profile", func(t *testing.T) {
		r := newReception(t, byOAuth)
		granted, a := r.granted(t, r.ask(t, enroll.ModeBYOD, anIPhone).ticket, r.ana)
		r.change(t, r.ana, identity.UserChange{Username: &bee, Email: &mail})
		granted, err := r.refresh(granted.refresh)
		must(t, err)
		signed := must2(r.post(t, enroll.ModeBYOD, granted.access, anIPhone))(t)
		g := &guest{r: r, mode: enroll.ModeBYOD, info: anIPhone, id: byod, tokens: granted, attempt: a.ID}
		g.cert = must2(r.IssueIdentity(ctx, request(t, keyring.take(t), challengeIn(t, signed))))(t)
		must(t, g.authenticate(g.access))
		must(t, g.tokenUpdate(g.id, g.access))
		if d := g.device(t); d.User != mail {
			t.Errorf("the device is %q's", d.User)
		}
	})
	t.Run("renamed when the device is enrolled, who signs in again", func(t *testing.T) {
		r := newReception(t)
		g := r.enrolledBy(t, enroll.ModeBYOD, r.ana, anIPhone, byod)
		u := r.change(t, r.ana, identity.UserChange{Username: &bee, Email: &mail})
		must(t, g.idle())
		must2(r.RequireSignIn(ctx, g.device(t).ID))(t)
		ticket := askedIn(t, g.idle()).ticket
		g.tokens, _ = r.granted(t, ticket, u)
		must(t, g.idle())
	})
	t.Run("disabled before the device comes", func(t *testing.T) {
		r := newReception(t)
		g := r.come(t, enroll.ModeBYOD, r.ana, anIPhone, byod)
		r.change(t, r.ana, identity.UserChange{Disabled: &yes})
		wantErr(t, "Authenticate", g.authenticate(g.access), enroll.ErrUserDisabled)
		r.view(t, func(tx storage.Tx) error {
			if _, err := mdm.FindDevice(tx, byod); !errors.Is(err, storage.ErrNotFound) {
				t.Errorf("there is a device: %v", err)
			}
			return nil
		})
	})
	t.Run("disabled when the device is enrolled", func(t *testing.T) {
		r := newReception(t, byOAuth)
		g := r.enrolledBy(t, enroll.ModeBYOD, r.ana, anIPhone, byod)
		r.change(t, r.ana, identity.UserChange{Disabled: &yes})
		wantErr(t, "a poll", g.idle(), enroll.ErrGone)
		if _, err := r.refresh(g.refresh); err == nil {
			t.Error("there are new tokens for it")
		}
		if all := r.authorizations(t); len(all) != 0 {
			t.Errorf("the authorizations are %+v", all)
		}
	})
	t.Run("disabled, and the device waits", func(t *testing.T) {
		r := newReception(t, byOAuth, func(c *enroll.AccountDriven) { c.UserDisabled = enroll.AfterSignIn })
		g := r.enrolledBy(t, enroll.ModeBYOD, r.ana, anIPhone, byod)
		r.change(t, r.ana, identity.UserChange{Disabled: &yes})
		ticket := askedIn(t, g.idle()).ticket
		if _, _, err := r.signIn(ticket, r.ana); !errors.Is(err, enroll.ErrUserDisabled) {
			t.Errorf("the sign-in: %v, want ErrUserDisabled", err)
		}
		if _, err := r.refresh(g.refresh); err == nil {
			t.Error("there are new tokens for it")
		}
		no := false
		r.change(t, r.ana, identity.UserChange{Disabled: &no})
		g.tokens, _ = r.granted(t, ticket, r.ana)
		must(t, g.idle())
	})
}
