package main

import (
	"errors"
	"fmt"
	"regexp"

	"strings"

	"testing"

	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/mdm/mdmtest"
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
		"the user may not enrol any more": {
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
					// Of a certificate nobody knows that its device will not come. It opens nothing.
					now.good--
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
