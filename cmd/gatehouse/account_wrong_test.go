package main

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/mdm/mdmtest"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// made is what a server has of enrollments.
type made struct {
	live   int // devices that are enrolled or about to be, without user channels
	good   int // certificates that are good
	open   int // attempts that may still become something
	tokens int // authorizations
}

func (c *composed) made(t testing.TB) (m made) {
	t.Helper()
	for _, d := range c.allDevices(t) {
		if d.ParentID == "" && (d.State == "enrolled" || d.State == "pending") {
			m.live++
		}
	}
	var certificates struct{ Items []struct{ Status string } }
	c.api(t, "GET", "/certificates?limit=1000", nil, &certificates)
	for _, cert := range certificates.Items {
		if cert.Status == "active" {
			m.good++
		}
	}
	for _, a := range c.attemptsOf(t, "") {
		if a.Stage != "enrolled" && a.Stage != "failed" {
			m.open++
		}
	}
	m.tokens = strings.Count("\n"+c.dump(t), "\nenroll.authorizations ")
	return m
}

// walk is an enrollment step by step, so that a test can do something in between.
type walk struct {
	t       testing.TB
	d       *mdmtest.Device
	service *mdmtest.Service
	need    mdmtest.Challenge
	profile []byte
}

// The steps of a walk.
const (
	walkDiscover  = "discovery"
	walkChallenge = "the first POST"
	walkSignIn    = "the sign-in"
	walkProfile   = "the second POST"
	walkIdentity  = "SCEP"
	walkAuth      = "Authenticate"
	walkToken     = "TokenUpdate"
	walkPoll      = "the first poll"
)

var walkSteps = []string{walkDiscover, walkChallenge, walkSignIn, walkProfile, walkIdentity, walkAuth, walkToken, walkPoll}

func (w *walk) step(name string) (err error) {
	ctx := w.t.Context()
	switch name {
	case walkDiscover:
		w.service, err = w.d.Discover(ctx)
	case walkChallenge:
		var need *mdmtest.SignInRequired
		if _, err = w.d.PostEnrollment(ctx, w.service.BaseURL, ""); errors.As(err, &need) {
			w.need, err = need.Challenge, nil
		}
	case walkSignIn:
		var token mdmtest.Token
		if token, err = w.d.SignIn(ctx, w.need); err == nil {
			w.d.SetToken(token)
		}
	case walkProfile:
		w.profile, err = w.d.PostEnrollment(ctx, w.service.BaseURL, w.d.Token().Access)
	case walkIdentity:
		if err = w.d.InstallAccount(ctx, w.service, w.profile); err == nil {
			err = w.d.RequestIdentity(ctx)
		}
	case walkAuth:
		err = w.d.Authenticate(ctx)
	case walkToken:
		err = w.d.TokenUpdate(ctx)
	case walkPoll:
		_, err = w.d.Poll(ctx)
	}
	return err
}

// until takes the steps before one.
func (w *walk) until(step string) {
	w.t.Helper()
	for _, name := range walkSteps {
		if name == step {
			return
		}
		if err := w.step(name); err != nil {
			w.t.Fatalf("%s: %v", name, err)
		}
	}
}

// onward takes a step and those behind it, and returns the first that fails.
func (w *walk) onward(step string) (failed string, err error) {
	begun := false
	for _, name := range walkSteps {
		if begun = begun || name == step; !begun {
			continue
		}
		if err := w.step(name); err != nil {
			return name, err
		}
	}
	return "", nil
}

// outcome is how a server has refused a step, in a word.
func outcome(err error) string {
	var need *mdmtest.SignInRequired
	var refused *mdmtest.Refusal
	var answer *mdmtest.HTTPError
	var oauth *mdmtest.OAuthError
	var scep *mdmtest.SCEPFailure
	var page *mdmtest.PageError
	switch {
	case err == nil:
		return "done"
	case errors.As(err, &need):
		return "challenge"
	case errors.As(err, &refused):
		return refused.Code
	case errors.As(err, &oauth):
		return fmt.Sprintf("%d %s", oauth.Status, oauth.Code)
	case errors.As(err, &scep):
		return "SCEP failure"
	case errors.As(err, &page):
		return fmt.Sprintf("page %d", page.Visit.Status)
	case errors.As(err, &answer):
		return strings.TrimSpace(fmt.Sprintf("%d %s", answer.Status, regexp.MustCompile(`GH-E\d+|com\.apple\.[a-z.-]+`).Find(answer.Body)))
	}
	return err.Error()
}

// TestWhatChangesInTheMiddleOfAnEnrollment has a person lose the right to enrol, or the
// operator change the policy, before each step.
func TestWhatChangesInTheMiddleOfAnEnrollment(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		change func(t *testing.T, c *composed, user string)
		// ends is the step that fails and how, by the one before which it happens: it is
		// the same one unless the text says another.
		ends map[string]string
	}{
		"the user is disabled": {
			change: func(t *testing.T, c *composed, user string) {
				c.api(t, "PATCH", "/users/"+c.userNamed(t, user).ID, map[string]any{"disabled": true}, nil)
			},
			ends: map[string]string{
				walkDiscover:  walkSignIn + ": page 403", // who has an account is not told before
				walkChallenge: walkSignIn + ": page 403",
				walkSignIn:    walkSignIn + ": page 403",
				walkProfile:   walkProfile + ": 403 GH-E106",
				walkIdentity:  walkIdentity + ": SCEP failure",
				walkAuth:      walkAuth + ": 403",
				walkToken:     walkToken + ": 403 com.apple.unrecognized.device",
				walkPoll:      walkPoll + ": 403 com.apple.unrecognized.device",
			},
		},
		"the user may not enroll any more": {
			change: func(t *testing.T, c *composed, user string) {
				c.api(t, "PATCH", "/users/"+c.userNamed(t, user).ID, map[string]any{"can_enroll": false}, nil)
			},
			ends: map[string]string{
				walkDiscover:  walkSignIn + ": page 403",
				walkChallenge: walkSignIn + ": page 403",
				walkSignIn:    walkSignIn + ": page 403",
				walkProfile:   walkProfile + ": 403 GH-E106",
				walkIdentity:  walkIdentity + ": SCEP failure",
				walkAuth:      walkAuth + ": 403",
				walkToken:     ": done",
				walkPoll:      ": done",
			},
		},
		"the policy is switched off": {
			change: func(t *testing.T, c *composed, _ string) {
				_, err := c.enroll.UpdateAccountDriven(t.Context(), func(a *enroll.AccountDriven) error { a.Domains = nil; return nil })
				must(t, err)
			},
			ends: map[string]string{
				walkDiscover:  walkDiscover + ": com.apple.well-known.failed",
				walkChallenge: walkChallenge + ": 403 GH-E505",
				walkSignIn:    walkSignIn + ": page 403",
				walkProfile:   walkProfile + ": 403 GH-E505",
				walkIdentity:  ": done", // what was handed out counts
				walkAuth:      ": done",
				walkToken:     ": done",
				walkPoll:      ": done",
			},
		},
		"the method is another": {
			change: func(t *testing.T, c *composed, _ string) {
				_, err := c.enroll.UpdateAccountDriven(t.Context(), func(a *enroll.AccountDriven) error {
					a.Method = map[enroll.SignInMethod]enroll.SignInMethod{enroll.MethodWeb: enroll.MethodOAuth2, enroll.MethodOAuth2: enroll.MethodWeb}[a.Method]
					return nil
				})
				must(t, err)
			},
			ends: map[string]string{
				walkDiscover: ": done", walkChallenge: ": done", walkSignIn: ": done", walkProfile: ": done",
				walkIdentity: ": done", walkAuth: ": done", walkToken: ": done", walkPoll: ": done",
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newComposed(t, nil)
			for i, before := range walkSteps {
				method := methods[i%2]
				c.byAccount(t, method)
				user := fmt.Sprintf("user%d", i)
				var person mdmtest.Person = c.inPerson(user)
				if i > 2 {
					c.api(t, "POST", "/users", map[string]any{"username": user, "email": user + "@example.com", "managed_apple_account": user + "@apple.example.com"}, nil)
				} else {
					c.member(t, user)
					person = &mdmtest.Browser{Login: user, Password: anaPassword}
				}
				w := &walk{t: t, d: c.accountDevice(t, user+"@example.com", person, mdmtest.Options{Account: &mdmtest.Account{Manual: true}})}
				was := c.made(t)
				w.until(before)
				tt.change(t, c, user)
				failed, err := w.onward(before)
				if got, want := failed+": "+outcome(err), tt.ends[before]; got != want {
					t.Errorf("before %s, by %s: it ends at %s, want %s", before, method, got, want)
				}
				now := c.made(t)
				if err == nil {
					if now.live != was.live+1 || now.good != was.good+1 || now.open != was.open || now.tokens != was.tokens+1 {
						t.Errorf("before %s: it is enrolled, and there is %+v where there was %+v", before, now, was)
					}
					continue
				}
				if before == walkAuth {
					if again := w.step(walkAuth); outcome(again) != "403" {
						t.Errorf("%s a second time: %v", before, again)
					}
				}
				if now.live != was.live || now.good != was.good {
					t.Errorf("before %s: it is refused, and there is %+v where there was %+v", before, now, was)
				}
			}
		})
	}
}

// TestWrongTurnsOfAnEnrollmentByAccount has each end in its documented status, and leave
// nothing behind.
func TestWrongTurnsOfAnEnrollmentByAccount(t *testing.T) {
	storagetest.AnyEngine(t)
	t.Parallel()
	c := newComposed(t, nil)
	for _, name := range []string{"ana", "ben"} {
		c.member(t, name)
	}
	for _, turn := range []struct {
		name string
		take func(*testing.T, *composed)
	}{
		{"what is posted is no statement of a device", wrongStatements},
		{"a token is another's", wrongTokens},
		{"all that was sent comes again after the removal", wrongReplays},
		{"a sign-in takes too long", wrongTimes},
		{"a token expires", wrongExpiry},
		{"two people in one sign-in", wrongPeople},
		{"two devices sign in at once", wrongHaste},
		{"each step is sent twice", wrongTwice},
	} {
		t.Run(turn.name, func(t *testing.T) {
			defer c.ahead.Store(0)
			c.byAccount(t, mdmtest.MethodWeb)
			turn.take(t, c)
		})
	}
}

// wantMade fails unless a server has this more than it had.
func (c *composed) wantMade(t *testing.T, what string, was, more made) {
	t.Helper()
	want := made{was.live + more.live, was.good + more.good, was.open + more.open, was.tokens + more.tokens}
	if now := c.made(t); now != want {
		t.Errorf("%s: there is %+v, want %+v", what, now, want)
	}
}

func wrongStatements(t *testing.T, c *composed) {
	d := c.accountDevice(t, "ana@example.com", nil, mdmtest.Options{})
	builtin, err := d.BuiltIn()
	must(t, err)
	plain, err := mdmtest.MarshalPlist(d.MachineInfo())
	must(t, err)
	signed := func(plain []byte, change func(*mdmtest.Signature)) []byte {
		t.Helper()
		s := mdmtest.Signature{Certificate: builtin.Certificate, Key: builtin.Key}
		change(&s)
		cms, err := s.Sign(plain)
		must(t, err)
		return cms
	}
	as := func(*mdmtest.Signature) {}
	good := signed(plain, as)
	spoiled := bytes.Replace(slices.Clone(good), []byte("iPhone"), []byte("iPhony"), 1)
	was := c.made(t)
	for name, tt := range map[string]struct {
		body   []byte
		status int
	}{
		"a statement":                   {good, 401},
		"nothing":                       {nil, 400},
		"garbage":                       {[]byte("garbage"), 400},
		"a statement without signature": {plain, 400},
		"one that was changed":          {spoiled, 400},
		"one by two signers":            {signed(plain, func(s *mdmtest.Signature) { s.Signers = 2 }), 400},
		"one by nobody":                 {signed(plain, func(s *mdmtest.Signature) { s.Signers = -1 }), 400},
		"a signature without content":   {signed(plain, func(s *mdmtest.Signature) { s.Detached = true }), 400},
		"signed garbage":                {signed([]byte("garbage"), as), 400},
		"signed JSON":                   {signed([]byte(`{"PRODUCT":"iPhone17,2"}`), as), 400},
		"a signed binary property list": {signed([]byte("bplist00\xd0\x08\x00\x00"), as), 400},
		"a product that is a number":    {signed([]byte(`<plist version="1.0"><dict><key>PRODUCT</key><integer>1</integer></dict></plist>`), as), 400},
		"a product of 300 letters":      {signed([]byte(`<plist version="1.0"><dict><key>PRODUCT</key><string>`+strings.Repeat("x", 300)+`</string></dict></plist>`), as), 400},
		"half of it":                    {good[:len(good)/2], 400},
		"65 KB":                         {bytes.Repeat([]byte{0x30}, 65<<10), 413},
		"2 MB":                          {make([]byte, 2<<20), 413},
	} {
		for _, path := range []string{enroll.PathBYOD, enroll.PathADDE} {
			if path == enroll.PathADDE && tt.status == 401 {
				continue // it is no iPad
			}
			for _, bearer := range []string{"", "Bearer x"} {
				header := []string{}
				if bearer != "" {
					header = []string{"Authorization", bearer}
				}
				got := c.ask(t, "POST", c.url+path, tt.body, header...)
				if got.Status != tt.status || tt.status != 401 && !bytes.HasPrefix(got.Body, []byte("GH-E301")) {
					t.Errorf("%s to %s with %q: %d %.100s, want %d", name, path, bearer, got.Status, got.Body, tt.status)
				}
			}
		}
	}
	c.wantMade(t, "after all statements", was, made{})
}

func wrongTokens(t *testing.T, c *composed) {
	for _, method := range methods {
		c.byAccount(t, method)
		was := c.made(t)
		theirs := c.called(t, "ben", mdmtest.Options{})
		// Of an enrolled device, and of the other mode.
		d := c.accountDevice(t, "ana@example.com", c.inPerson("ana"), mdmtest.Options{Account: &mdmtest.Account{Manual: true}})
		w := &walk{t: t, d: d}
		w.until(walkProfile)
		mine := d.Token()
		_, err := d.PostEnrollment(t.Context(), w.service.BaseURL, theirs.Token().Access)
		wantRefused(t, "the POST with an enrolled device's token", err, 401, "")
		pad := c.accountDevice(t, "ana@example.com", nil, mdmtest.Options{Model: mdmtest.IPad})
		_, err = pad.PostEnrollment(t.Context(), c.url+enroll.PathADDE, mine.Access)
		wantRefused(t, "the POST with a User Enrollment's token", err, 401, "")
		c.wantMade(t, "after the POSTs", was, made{live: 1, good: 1, open: 1, tokens: 2})

		// With one's own certificate.
		must(t, w.step(walkProfile))
		must(t, w.step(walkIdentity))
		d.SetToken(theirs.Token())
		wantRefused(t, "Authenticate with another device's token", d.Authenticate(t.Context()), 403, "")
		other := c.accountDevice(t, "ben@example.com", c.inPerson("ben"), mdmtest.Options{})
		signedIn(t, other)
		d.SetToken(other.Token())
		wantRefused(t, "Authenticate with another attempt's token", d.Authenticate(t.Context()), 403, "")
		d.SetToken(mdmtest.Token{})
		wantRefused(t, "Authenticate without a token", d.Authenticate(t.Context()), 403, "")
		c.wantMade(t, "after Authenticate", was, made{live: 1, good: 2, open: 2, tokens: 3})
		d.SetToken(mine)
		must(t, d.Authenticate(t.Context()))
		must(t, d.TokenUpdate(t.Context()))
		must(t, d.Remove(t.Context()))
		if _, err := theirs.Poll(t.Context()); err != nil {
			t.Errorf("whose token was shown: %v", err)
		}
		must(t, theirs.Remove(t.Context()))
		c.wantMade(t, "after both have gone", was, made{open: 1, tokens: 1}) // the other's, which expire
	}
}

func wrongReplays(t *testing.T, c *composed) {
	for _, method := range methods {
		c.byAccount(t, method)
		seen := &exchanges{RoundTripper: c.http}
		d := c.accountDevice(t, "ana@example.com", c.inPerson("ana"), mdmtest.Options{Model: mdmtest.IPad, Transport: seen})
		must(t, d.EnrollAccount(t.Context()))
		if method == mdmtest.MethodOAuth2 {
			_, err := d.Refresh(t.Context())
			must(t, err)
		}
		must(t, d.Remove(t.Context()))
		was := c.made(t)
		sent := seen.to("/")
		for _, x := range sent {
			var header []string
			for name := range x.request.Header {
				header = append(header, name, x.request.Header.Get(name))
			}
			got := c.ask(t, x.request.Method, x.request.URL.String(), x.body, header...)
			want := 0
			switch at := x.request.URL.Path; {
			case at == enroll.PathADDE:
				want = 401
			case at == enroll.PathToken:
				want = 400
			case bytes.Contains(x.body, []byte("<string>CheckOut</string>")):
				want = 200 // who says that they have gone has
			case strings.HasPrefix(at, "/mdm/"):
				want = 403
				if !bytes.Contains(got.Body, []byte("com.apple.unrecognized.device")) {
					t.Errorf("by %s: %s is answered %s", method, at, got.Body)
				}
			default:
				continue // discovery, and SCEP, which repeats the answer that it gave
			}
			if got.Status != want {
				t.Errorf("by %s: %s %s comes again: %d, want %d", method, x.request.Method, x.request.URL.Path, got.Status, want)
			}
		}
		// Its profile buys no other certificate.
		scep, err := d.SCEP(d.Profile())
		must(t, err)
		must(t, scep.Discover(t.Context()))
		request, err := d.Request(scep, d.Profile())
		must(t, err)
		var failure *mdmtest.SCEPFailure
		if _, err := scep.Send(t.Context(), request); !errors.As(err, &failure) {
			t.Errorf("by %s: the challenge comes again: %v", method, err)
		}
		c.wantMade(t, "by "+method+", after all came again", was, made{})
	}
}

func wrongTimes(t *testing.T, c *composed) {
	for _, method := range methods {
		c.byAccount(t, method)
		was := c.made(t)
		d := c.accountDevice(t, "ana@example.com", &mdmtest.Browser{Password: anaPassword}, mdmtest.Options{})
		service, need := discovered(t, d)
		c.ahead.Store(int64(61 * time.Minute))
		var page *mdmtest.PageError
		if _, err := d.SignIn(t.Context(), need); !errors.As(err, &page) || page.Visit.Status != http.StatusGone || !bytes.Contains(page.Visit.Body, []byte("GH-E501")) {
			t.Errorf("by %s, after an hour: %v, want 410 GH-E501", method, err)
		}
		need.URL, need.AuthorizationURL = need.URL+"x", need.AuthorizationURL+"x"
		if _, err := d.SignIn(t.Context(), need); !errors.As(err, &page) || page.Visit.Status != http.StatusGone || !bytes.Contains(page.Visit.Body, []byte("GH-E501")) {
			t.Errorf("by %s, at an address that nobody made: %v, want 410 GH-E501", method, err)
		}
		c.wantMade(t, "by "+method+", after an hour", was, made{})
		c.ahead.Store(0)
		// A profile that comes late is fetched anew; the token is still good.
		quick := c.accountDevice(t, "ana@example.com", c.inPerson("ana"), mdmtest.Options{})
		_, profile := signedIn(t, quick)
		c.ahead.Store(int64(23 * time.Hour))
		if method == mdmtest.MethodOAuth2 {
			_, err := quick.Refresh(t.Context())
			must(t, err)
		}
		fresh, err := quick.PostEnrollment(t.Context(), service.BaseURL, quick.Token().Access)
		must(t, err)
		if bytes.Equal(fresh, profile) {
			t.Error("the same profile as the day before")
		}
		must(t, quick.InstallAccount(t.Context(), service, fresh))
		must(t, quick.RequestIdentity(t.Context()))
		must(t, quick.Authenticate(t.Context()))
		must(t, quick.TokenUpdate(t.Context()))
		must(t, quick.Remove(t.Context()))
		c.ahead.Store(0)
	}
	// A code is good for two minutes.
	d := c.accountDevice(t, "ana@example.com", c.inPerson("ana"), mdmtest.Options{})
	_, need := discovered(t, d)
	sign, err := d.PrepareSignIn(need)
	must(t, err)
	back, err := d.Visit(t.Context(), sign)
	must(t, err)
	c.ahead.Store(int64(2*time.Minute + time.Second))
	var refused *mdmtest.OAuthError
	if _, err := d.FinishSignIn(t.Context(), sign, back); !errors.As(err, &refused) || refused.Status != 400 || refused.Code != "invalid_grant" {
		t.Errorf("a code after two minutes: %v, want invalid_grant", err)
	}
}

func wrongExpiry(t *testing.T, c *composed) {
	for _, method := range methods {
		for _, after := range []enroll.AfterToken{enroll.AfterSignIn, enroll.AfterUnenroll} {
			what := fmt.Sprintf("by %s, then %s", method, after)
			c.ahead.Store(0)
			c.byAccount(t, method, func(a *enroll.AccountDriven) { a.TokenLife, a.TokenExpired = 48*time.Hour, after })
			was := c.made(t)
			d := c.called(t, "ana", mdmtest.Options{Account: &mdmtest.Account{Manual: true}})
			id := c.deviceItem(t, d).ID
			c.answers(t, d, id)
			if method == mdmtest.MethodOAuth2 { // silently, without the person
				c.ahead.Store(int64(9 * time.Hour))
				_, err := d.Idle(t.Context())
				wantRefused(t, what+": an access token of nine hours", err, 401, "")
				_, err = d.Refresh(t.Context())
				must(t, err)
				if _, err := d.Idle(t.Context()); err != nil {
					t.Errorf("%s: refreshed: %v", what, err)
				}
			}
			c.ahead.Store(int64(49 * time.Hour))
			if method == mdmtest.MethodOAuth2 {
				var refused *mdmtest.OAuthError
				if _, err := d.Refresh(t.Context()); !errors.As(err, &refused) || refused.Code != "invalid_grant" {
					t.Errorf("%s: a refresh after two days: %v", what, err)
				}
			}
			_, err := d.Idle(t.Context())
			if after == enroll.AfterUnenroll {
				wantRefused(t, what, err, 403, "com.apple.unrecognized.device")
				c.wantMade(t, what, was, made{})
				continue
			}
			wantRefused(t, what, err, 401, "")
			// It gets nothing to do until its user has signed in, and then all of it.
			c.api(t, "POST", "/commands", map[string]any{"request_type": "ProfileList", "device_ids": []string{id}}, nil)
			_, err = d.Idle(t.Context())
			wantRefused(t, what+": with a command", err, 401, "")
			token, err := d.SignIn(t.Context(), challenged(t, err))
			must(t, err)
			d.SetToken(token)
			if n, err := d.Poll(t.Context()); err != nil || n == 0 {
				t.Errorf("%s: signed in again: %d commands, %v", what, n, err)
			}
			c.wantMade(t, what+": signed in again", was, made{live: 1, good: 1, tokens: 1})
			must(t, d.Remove(t.Context()))
		}
	}
}

func wrongPeople(t *testing.T, c *composed) {
	for _, method := range methods {
		c.byAccount(t, method)
		was := c.made(t)
		// One sign-in that two people finish makes one attempt, the first one's.
		d := c.accountDevice(t, "ana@example.com", c.inPerson("ana"), mdmtest.Options{Account: &mdmtest.Account{Manual: true}})
		service, need := discovered(t, d)
		token, err := d.SignIn(t.Context(), need)
		must(t, err)
		second := c.accountDevice(t, "ben@example.com", c.inPerson("ben"), mdmtest.Options{})
		if _, err := second.SignIn(t.Context(), need); !errors.Is(err, enroll.ErrOtherPerson) {
			t.Errorf("by %s: somebody else in the same sign-in: %v", method, err)
		}
		again, err := d.SignIn(t.Context(), need) // one who went back
		must(t, err)
		c.wantMade(t, "by "+method+": signed in twice", was, made{open: 1, tokens: 2})
		for _, token := range []mdmtest.Token{token, again} {
			if _, err := d.PostEnrollment(t.Context(), service.BaseURL, token.Access); err != nil {
				t.Errorf("by %s: %v", method, err)
			}
		}
		d.SetToken(again)
		profile, err := d.PostEnrollment(t.Context(), service.BaseURL, again.Access)
		must(t, err)
		must(t, d.InstallAccount(t.Context(), service, profile))
		must(t, d.RequestIdentity(t.Context()))
		must(t, d.Authenticate(t.Context()))
		must(t, d.TokenUpdate(t.Context()))
		c.wantMade(t, "by "+method+": enrolled", was, made{live: 1, good: 1, tokens: 1})
		if _, err := d.SignIn(t.Context(), need); !errors.Is(err, enroll.ErrAttemptOver) {
			t.Errorf("by %s: the sign-in of an enrolled device comes again: %v", method, err)
		}
		// Nor does somebody else sign in again on an enrolled device.
		c.api(t, "POST", "/devices/"+c.deviceItem(t, d).ID+"/require-sign-in", map[string]any{}, nil)
		_, err = d.Idle(t.Context())
		need = challenged(t, err)
		if _, err := second.SignIn(t.Context(), need); !errors.Is(err, enroll.ErrOtherPerson) {
			t.Errorf("by %s: somebody else signs in again: %v", method, err)
		}
		token, err = d.SignIn(t.Context(), need)
		must(t, err)
		d.SetToken(token)
		if _, err := d.Poll(t.Context()); err != nil {
			t.Errorf("by %s: signed in again: %v", method, err)
		}
		must(t, d.Remove(t.Context()))
		c.wantMade(t, "by "+method+": gone", was, made{})
	}
}

func wrongHaste(t *testing.T, c *composed) {
	for _, method := range methods {
		c.byAccount(t, method)
		was := c.made(t)
		const n = 4
		devices := make([]*mdmtest.Device, n)
		for i := range devices {
			devices[i] = c.accountDevice(t, "ana@example.com", c.inPerson("ana"), mdmtest.Options{})
		}
		inParallel(t, n, n, func(i int) error { return devices[i].EnrollAccount(t.Context()) })
		c.wantMade(t, "by "+method+": enrolled at once", was, made{live: n, good: n, tokens: n})
		inParallel(t, n, n, func(i int) error { return devices[i].Remove(t.Context()) })
		c.wantMade(t, "by "+method+": gone at once", was, made{})
		// One sign-in that is finished several times at once is one attempt.
		d := c.accountDevice(t, "ana@example.com", c.inPerson("ana"), mdmtest.Options{})
		service, need := discovered(t, d)
		tokens := make([]mdmtest.Token, n)
		inParallel(t, n, n, func(i int) (err error) {
			tokens[i], err = d.SignIn(t.Context(), need)
			return err
		})
		c.wantMade(t, "by "+method+": one sign-in at once", was, made{open: 1, tokens: n})
		inParallel(t, n, n, func(i int) error {
			_, err := d.PostEnrollment(t.Context(), service.BaseURL, tokens[i].Access)
			return err
		})
	}
}

func wrongTwice(t *testing.T, c *composed) {
	for _, method := range methods {
		c.byAccount(t, method)
		for _, model := range []mdmtest.Model{mdmtest.IPhone, mdmtest.Mac} {
			what := fmt.Sprintf("%s by %s", model, method)
			was := c.made(t)
			twice := map[mdmtest.Step]int{}
			d := c.accountDevice(t, "ana@example.com", c.inPerson("ana"), mdmtest.Options{Model: model, Twice: func(s mdmtest.Step) bool {
				twice[s]++
				return s != mdmtest.StepToken
			}})
			must(t, d.EnrollAccount(t.Context()))
			if method == mdmtest.MethodOAuth2 {
				_, err := d.Refresh(t.Context())
				must(t, err)
			}
			if _, err := d.Poll(t.Context()); err != nil {
				t.Error(err)
			}
			if len(twice) < 7 {
				t.Errorf("%s: the steps are %v", what, twice)
			}
			c.wantMade(t, what, was, made{live: 1, good: 1, tokens: 1})
			must(t, d.Remove(t.Context()))
			c.wantMade(t, what+": gone", was, made{})
		}
	}
	// A code is good once: who loses the answer signs in anew.
	was := c.made(t)
	lost := true
	d := c.accountDevice(t, "ana@example.com", c.inPerson("ana"), mdmtest.Options{Twice: func(s mdmtest.Step) bool { return s == mdmtest.StepToken && lost }})
	var refused *mdmtest.OAuthError
	if err := d.EnrollAccount(t.Context()); !errors.As(err, &refused) || refused.Status != 400 || refused.Code != "invalid_grant" {
		t.Errorf("a code that is sent twice: %v, want invalid_grant", err)
	}
	c.wantMade(t, "a code that is sent twice", was, made{open: 1, tokens: 1})
	lost = false
	must(t, d.EnrollAccount(t.Context()))
	must(t, d.Remove(t.Context()))
}

// TestADisabledUserMayComeBack is about a policy that does not part with devices at once.
func TestADisabledUserMayComeBack(t *testing.T) {
	storagetest.AnyEngine(t)
	t.Parallel()
	c := newComposed(t, nil)
	user := c.member(t, "ana")
	for _, method := range methods {
		c.byAccount(t, method, func(a *enroll.AccountDriven) { a.UserDisabled = enroll.AfterSignIn })
		was := c.made(t)
		d := c.called(t, "ana", mdmtest.Options{Account: &mdmtest.Account{Manual: true}})
		id := c.deviceItem(t, d).ID
		c.api(t, "PATCH", "/users/"+user, map[string]any{"disabled": true}, nil)
		c.api(t, "POST", "/commands", map[string]any{"request_type": "ProfileList", "device_ids": []string{id}}, nil)
		var need mdmtest.Challenge
		for range 2 {
			_, err := d.Idle(t.Context())
			wantRefused(t, "by "+method+": of a disabled user", err, 401, "")
			need = challenged(t, err)
		}
		if _, err := d.SignIn(t.Context(), need); !errors.Is(err, enroll.ErrUserDisabled) {
			t.Errorf("by %s: a disabled user signs in: %v", method, err)
		}
		if method == mdmtest.MethodOAuth2 {
			var refused *mdmtest.OAuthError
			if _, err := d.Refresh(t.Context()); !errors.As(err, &refused) || refused.Code != "invalid_grant" {
				t.Errorf("a disabled user's refresh: %v", err)
			}
		}
		c.wantMade(t, "by "+method+": while the user is disabled", was, made{live: 1, good: 1, tokens: 1})

		c.api(t, "PATCH", "/users/"+user, map[string]any{"disabled": false}, nil)
		_, err := d.Idle(t.Context())
		wantRefused(t, "by "+method+": before the sign-in", err, 401, "")
		token, err := d.SignIn(t.Context(), challenged(t, err))
		must(t, err)
		d.SetToken(token)
		if n, err := d.Poll(t.Context()); err != nil || n == 0 {
			t.Errorf("by %s: back again: %d commands, %v", method, n, err)
		}
		c.answers(t, d, id)
		must(t, d.Remove(t.Context()))
		c.wantMade(t, "by "+method+": gone", was, made{})
	}
}
