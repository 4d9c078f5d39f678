package enroll_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// atOnce is the house's, on the store itself.
func (r *reception) atOnce(t *testing.T, a, b func(*house) error) (errA, errB error) {
	t.Helper()
	storagetest.Overlap(r.db.DB,
		func(db storage.DB) { errA = a(houseOn(t, db, r.clock)) },
		func(db storage.DB) { errB = b(houseOn(t, db, r.clock)) },
	)
	return errA, errB
}

// TestTwoReplicasAtOnceByAccount has two replicas do something about one sign-in, each
// without seeing what the other does.
func TestTwoReplicasAtOnceByAccount(t *testing.T) {
	ctx := context.Background()
	redeem := func(code string, got *enroll.TokenResponse) func(*house) error {
		return func(h *house) (err error) {
			*got, err = h.IssueTokens(ctx, enroll.TokenRequest{
				GrantType: "authorization_code", Code: code, RedirectURI: enroll.OAuthRedirectURI, ClientID: enroll.OAuthClientID,
			})
			return err
		}
	}
	refresh := func(token string, got *enroll.TokenResponse) func(*house) error {
		return func(h *house) (err error) {
			*got, err = h.IssueTokens(ctx, enroll.TokenRequest{GrantType: "refresh_token", RefreshToken: token})
			return err
		}
	}
	poll := func(g *guest, token string) func(*house) error {
		return func(h *house) error {
			_, err := h.Connect(ctx, g.peer(token), enroll.ConnectMessage{ID: g.id, Idle: true})
			return err
		}
	}
	unenroll := func(id mdm.DeviceID) func(*house) error {
		return func(h *house) error {
			_, err := h.Unenroll(ctx, id)
			return err
		}
	}
	// gone says that of a device that was removed nothing is left.
	gone := func(t *testing.T, r *reception, g *guest) {
		t.Helper()
		if d := g.device(t); d.State != mdm.Unenrolled {
			t.Errorf("the device is %s", d.State)
		}
		if all := r.authorizations(t); len(all) != 0 {
			t.Errorf("the authorizations are %+v, want none", all)
		}
	}
	for name, story := range map[string]func(t *testing.T, r *reception){
		"a code is exchanged": func(t *testing.T, r *reception) {
			r.policy(t, byOAuth)
			code, _ := r.code(t, enroll.AuthorizationRequest{})
			var first, second enroll.TokenResponse
			a, b := r.atOnce(t, redeem(code, &first), redeem(code, &second))
			if (a == nil) == (b == nil) {
				t.Errorf("the two end with %v and %v, want one refused", a, b)
			}
			for _, got := range []enroll.TokenResponse{first, second} {
				if got.AccessToken != "" {
					_, err := r.post(t, enroll.ModeBYOD, got.AccessToken, anIPhone)
					askedIn(t, err)
				}
			}
		},
		"a token is refreshed": func(t *testing.T, r *reception) {
			r.policy(t, byOAuth)
			g := r.enrolledBy(t, enroll.ModeBYOD, r.ana, anIPhone, byod)
			var first, second enroll.TokenResponse
			a, b := r.atOnce(t, refresh(g.refresh, &first), refresh(g.refresh, &second))
			must(t, errors.Join(a, b))
			// It has lost neither of them, until it is known which of them it uses.
			for _, token := range []string{first.AccessToken, second.AccessToken} {
				must(t, r.Identify(ctx, g.peer(token), g.id))
			}
		},
		"a sign-in is finished": func(t *testing.T, r *reception) {
			ticket := r.ask(t, enroll.ModeBYOD, anIPhone).ticket
			finish := func(h *house) error {
				_, err := h.FinishAccountSignIn(ctx, ticket, r.ana, nil)
				return err
			}
			a, b := r.atOnce(t, finish, finish)
			must(t, errors.Join(a, b))
			if all := r.attempts(t); len(all) != 1 || len(r.authorizations(t)) != 2 {
				t.Errorf("the attempts are %+v, the authorizations %+v", all, r.authorizations(t))
			}
		},
		"two people finish one": func(t *testing.T, r *reception) {
			ticket := r.ask(t, enroll.ModeBYOD, anIPhone).ticket
			a, b := r.atOnce(t, func(h *house) error {
				_, err := h.FinishAccountSignIn(ctx, ticket, r.ana, nil)
				return err
			}, func(h *house) error {
				_, err := h.FinishAccountSignIn(ctx, ticket, r.ben, nil)
				return err
			})
			wantOne(t, a, b, enroll.ErrOtherPerson)
			if n := len(r.authorizations(t)); n != 1 {
				t.Errorf("there are %d authorizations", n)
			}
		},
		"a device is removed while its token is refreshed": func(t *testing.T, r *reception) {
			r.policy(t, byOAuth)
			g := r.enrolledBy(t, enroll.ModeBYOD, r.ana, anIPhone, byod)
			var got enroll.TokenResponse
			_, b := r.atOnce(t, refresh(g.refresh, &got), unenroll(g.device(t).ID))
			must(t, b)
			gone(t, r, g)
		},
		"a device is removed while it polls": func(t *testing.T, r *reception) {
			g := r.enrolledBy(t, enroll.ModeBYOD, r.ana, anIPhone, byod)
			r.pass(2 * time.Hour) // the poll is worth a note
			_, b := r.atOnce(t, poll(g, g.access), unenroll(g.device(t).ID))
			must(t, b)
			gone(t, r, g)
		},
		"a device is removed while its user signs in again": func(t *testing.T, r *reception) {
			g := r.enrolledBy(t, enroll.ModeBYOD, r.ana, anIPhone, byod)
			must2(r.RequireSignIn(ctx, g.device(t).ID))(t)
			ticket := askedIn(t, g.idle()).ticket
			_, b := r.atOnce(t, func(h *house) error {
				_, err := h.FinishAccountSignIn(ctx, ticket, r.ana, nil)
				return err
			}, unenroll(g.device(t).ID))
			must(t, b)
			gone(t, r, g)
		},
		"a device is removed while it comes with the token of a new sign-in": func(t *testing.T, r *reception) {
			g := r.enrolledBy(t, enroll.ModeBYOD, r.ana, anIPhone, byod)
			must2(r.RequireSignIn(ctx, g.device(t).ID))(t)
			_, b := r.atOnce(t, poll(g, fresh(t, r).access), unenroll(g.device(t).ID))
			must(t, b)
			if d := g.device(t); d.State != mdm.Unenrolled {
				t.Errorf("the device is %s", d.State)
			}
			for _, a := range r.authorizations(t) {
				if a.DeviceID != "" {
					t.Errorf("the device has %+v", a)
				}
			}
		},
		"a user must sign in while signing in again": func(t *testing.T, r *reception) {
			g := r.enrolledBy(t, enroll.ModeBYOD, r.ana, anIPhone, byod)
			must2(r.RequireSignIn(ctx, g.device(t).ID))(t)
			ticket := askedIn(t, g.idle()).ticket
			a, b := r.atOnce(t, func(h *house) error {
				_, err := h.FinishAccountSignIn(ctx, ticket, r.ana, nil)
				return err
			}, func(h *house) error {
				_, err := h.RequireSignIn(ctx, g.device(t).ID)
				return err
			})
			must(t, errors.Join(a, b)) // whichever is the later
		},
		"a fresh token fetches a profile, and is shown by a device": func(t *testing.T, r *reception) {
			g := r.enrolledBy(t, enroll.ModeBYOD, r.ana, anIPhone, byod)
			must2(r.RequireSignIn(ctx, g.device(t).ID))(t)
			token := fresh(t, r).access
			body := signedBy(t, genuine, anIPhone)
			a, b := r.atOnce(t, poll(g, token), func(h *house) error {
				_, err := h.EnrollByAccount(ctx, enroll.AccountRequest{Mode: enroll.ModeBYOD, Body: body, Bearer: token})
				return err
			})
			if (a == nil) == (b == nil) {
				t.Errorf("the two end with %v and %v, want one refused", a, b)
			}
		},
	} {
		t.Run(name, func(t *testing.T) { story(t, newReception(t)) })
	}
}
