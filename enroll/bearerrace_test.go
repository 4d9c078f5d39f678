package enroll_test

import (
	"context"
	"errors"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// TestTokensOfTwoReplicasAtOnce has two replicas do something about one authorization.
func TestTokensOfTwoReplicasAtOnce(t *testing.T) {
	ctx := context.Background()
	refresh := func(token string, refreshed *string) func(*house) error {
		return func(h *house) error {
			answer, err := h.IssueTokens(ctx, enroll.TokenRequest{GrantType: "refresh_token", RefreshToken: token, ClientID: enroll.OAuthClientID})
			*refreshed = answer.AccessToken
			return err
		}
	}
	for name, story := range map[string]func(t *testing.T, r *reception){
		"refresh a token and revoke it": func(t *testing.T, r *reception) {
			g := r.enrolledBy(t, enroll.ModeBYOD, r.ana, anIPhone, byod)
			id := g.device(t).ID
			var got string
			_, b := r.atOnce(t, refresh(g.refresh, &got), func(h *house) error {
				_, err := h.RequireSignIn(ctx, id)
				return err
			})
			must(t, b)
			if got != "" {
				askedIn(t, g.poll(g.id, got))
			}
			askedIn(t, g.idle())
		},
		"hand out the profile once more while its device comes": func(t *testing.T, r *reception) {
			g := r.come(t, enroll.ModeBYOD, r.ana, anIPhone, byod)
			a, b := r.atOnce(t,
				func(h *house) error {
					return h.Authenticate(ctx, g.peer(g.access), enroll.AuthenticateMessage{ID: g.id, Topic: "x", Facts: mdm.Facts{ProductName: anIPhone["PRODUCT"].(string)}})
				},
				func(h *house) error {
					_, err := h.EnrollByAccount(ctx, enroll.AccountRequest{Mode: enroll.ModeBYOD, Bearer: g.access, Body: signedBy(t, genuine, anIPhone)})
					return err
				})
			if (a == nil) == (b == nil) {
				t.Errorf("%v, %v; want one nil", a, b)
			}
		},
	} {
		t.Run(name, func(t *testing.T) { story(t, newReception(t, byOAuth)) })
	}
}

// TestTokensThatAreNone are of strangers, who may send any bytes.
func TestTokensThatAreNone(t *testing.T) {
	storagetest.AnyEngine(t)
	r := newReception(t, byOAuth)
	for _, token := range []string{"x", "\x00aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "\xff\xfeaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"} {
		for what, use := range map[string]func(string) (tokens, error){"code": r.exchange, "refresh token": r.refresh} {
			_, err := use(token)
			if refused, ok := errors.AsType[*enroll.OAuthError](err); !ok || refused.Code != "invalid_grant" {
				t.Errorf("%q as a %s: %v", token, what, err)
			}
		}
		_, err := r.post(t, enroll.ModeBYOD, token, anIPhone)
		askedIn(t, err)
	}
}
