package enroll_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"flag"
	"math/big"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/gatehouse-mdm/gatehouse/depot"
	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/mdmtest"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// TestAuthorizationsAreDevicesThatAreHere lets people and devices do what they like, in any
// order and with each other's secrets. Whatever they do, an authorization is of one device
// that is enrolled, or coming, by account, and its tokens do for no other.
func TestAuthorizationsAreDevicesThatAreHere(t *testing.T) {
	storagetest.AnyEngine(t) // what happens at the same time is no part of it
	ctx := context.Background()
	if checks := flag.Lookup("rapid.checks"); checks.Value.String() == checks.DefValue { // a house for each takes its time
		must(t, checks.Value.Set("20"))
		defer func() { _ = checks.Value.Set(checks.DefValue) }()
	}
	body := map[string][]byte{}
	rapid.Check(t, func(rt *rapid.T) {
		r := newReception(t)
		s := &society{r: r, t: t}
		for _, kind := range []struct {
			mode enroll.AccountMode
			info mdmtest.Dict
			id   mdm.AppleID
		}{
			{enroll.ModeBYOD, anIPhone, byod},
			{enroll.ModeBYOD, anIPhone, mdm.AppleID{EnrollmentID: "FB833D84-0002"}},
			{enroll.ModeADDE, anIPhone, iphone},
			{enroll.ModeADDE, aMac, mac},
		} {
			info := kind.info
			if kind.id.UDID != "" {
				info = with(info, mdmtest.Dict{"UDID": kind.id.UDID})
			}
			if body[kind.id.UDID] == nil {
				body[kind.id.UDID] = signedBy(t, genuine, info)
			}
			s.guests = append(s.guests, &member{guest: guest{r: r, mode: kind.mode, info: info, id: kind.id}, body: body[kind.id.UDID]})
		}
		s.people = []identity.User{r.ana, r.ana, r.ana, r.ben}
		rt.Repeat(map[string]func(*rapid.T){
			"":                s.check,
			"enroll":          s.enrol,
			"ask":             s.ask,
			"sign in":         s.signIn,
			"exchange":        s.exchange,
			"refresh":         s.refresh,
			"fetch":           s.fetch,
			"get an identity": s.issue,
			"say":             s.say,
			"leave":           s.leave,
			"remove":          s.remove,
			"require sign-in": func(rt *rapid.T) {
				if d, ok := s.device(s.anybody(rt)); ok {
					_, _ = r.RequireSignIn(ctx, d.ID)
				}
			},
			"disable": func(rt *rapid.T) {
				u := rapid.SampledFrom(s.people).Draw(rt, "who")
				for _, disabled := range []bool{true, false} {
					r.change(t, u, identity.UserChange{Disabled: &disabled})
				}
			},
			"change the policy": func(rt *rapid.T) {
				r.policy(t, func(c *enroll.AccountDriven) {
					c.Method = rapid.SampledFrom([]enroll.SignInMethod{enroll.MethodWeb, enroll.MethodOAuth2}).Draw(rt, "method")
					after := rapid.SampledFrom([]enroll.AfterToken{enroll.AfterSignIn, enroll.AfterUnenroll})
					c.TokenExpired, c.TokenRevoked, c.UserDisabled = after.Draw(rt, "expired"), after.Draw(rt, "revoked"), after.Draw(rt, "disabled")
				})
			},
			"wait": func(rt *rapid.T) {
				r.pass(rapid.SampledFrom([]time.Duration{time.Second, time.Hour, 9 * time.Hour, 100 * 24 * time.Hour}).Draw(rt, "for"))
			},
		})
	})
}

// society is who takes part, and all secrets that anybody has ever had.
type society struct {
	r      *reception
	t      *testing.T
	guests []*member
	people []identity.User

	tickets, codes, access, refreshes []string
}

type member struct {
	guest
	body       []byte // what it posts
	challenges []string
}

func (s *society) anybody(rt *rapid.T) *member { return rapid.SampledFrom(s.guests).Draw(rt, "device") }

// latest is one of the latest of what there is; empty if there is nothing.
func latest(rt *rapid.T, what string, all []string) string {
	if len(all) == 0 {
		return ""
	}
	return all[len(all)-1-rapid.IntRange(0, min(len(all)-1, 5)).Draw(rt, what)]
}

// token is one that g may show: mostly its own.
func (s *society) token(rt *rapid.T, g *member) string {
	if g.access != "" && rapid.IntRange(0, 3).Draw(rt, "its own") > 0 {
		return g.access
	}
	return latest(rt, "token", s.access)
}

func (s *society) device(g *member) (d mdm.Device, ok bool) {
	s.r.view(s.t, func(tx storage.Tx) (err error) {
		d, err = mdm.FindDevice(tx, g.id)
		ok = err == nil
		return nil
	})
	return d, ok
}

// told notes what a device learns from a refusal.
func (s *society) told(err error) {
	if _, ok := errors.AsType[*enroll.SignInRequired](err); ok {
		s.tickets = append(s.tickets, askedIn(s.t, err).ticket)
	}
}

func (s *society) ask(rt *rapid.T) { s.post(s.anybody(rt), "") }

func (s *society) post(g *member, token string) {
	signed, err := s.r.EnrollByAccount(context.Background(), enroll.AccountRequest{Mode: g.mode, Body: g.body, Bearer: token})
	s.told(err)
	if err == nil {
		g.challenges = append(g.challenges, challengeIn(s.t, signed))
		g.access = token
	}
}

func (s *society) signIn(rt *rapid.T) {
	s.finish(latest(rt, "ticket", s.tickets), rapid.SampledFrom(s.people).Draw(rt, "who"))
}

func (s *society) finish(ticket string, u identity.User) {
	values, _, err := s.r.signIn(ticket, u)
	switch {
	case err != nil:
	case values.Get("code") != "":
		s.codes = append(s.codes, values.Get("code"))
	default:
		s.access = append(s.access, values.Get("access-token"))
	}
}

func (s *society) exchange(rt *rapid.T) { s.redeem(latest(rt, "code", s.codes)) }

func (s *society) redeem(code string) {
	if got, err := s.r.exchange(code); err == nil {
		s.access, s.refreshes = append(s.access, got.access), append(s.refreshes, got.refresh)
	}
}

func (s *society) refresh(rt *rapid.T) {
	if got, err := s.r.refresh(latest(rt, "refresh token", s.refreshes)); err == nil {
		s.access, s.refreshes = append(s.access, got.access), append(s.refreshes, got.refresh)
	}
}

func (s *society) fetch(rt *rapid.T) {
	g := s.anybody(rt)
	s.post(g, s.token(rt, g))
}

func (s *society) issue(rt *rapid.T) {
	g := s.anybody(rt)
	s.issueBy(g, latest(rt, "challenge", g.challenges))
}

func (s *society) issueBy(g *member, challenge string) {
	if cert, err := s.r.IssueIdentity(context.Background(), smallRequest(s.t, challenge)); err == nil {
		g.cert = cert
	}
}

// say sends one message.
func (s *society) say(rt *rapid.T) {
	g := s.anybody(rt)
	token := s.token(rt, g)
	var err error
	switch rapid.IntRange(0, 3).Draw(rt, "message") {
	case 0:
		err = g.authenticate(token)
	case 1:
		err = g.tokenUpdate(g.id, token)
	case 2:
		err = g.poll(g.id, token)
	default:
		err = g.authenticate("")
	}
	if err == nil && token != "" {
		g.access = token
	}
	s.told(err)
}

// enrol takes a device all the way, whatever was before.
func (s *society) enrol(rt *rapid.T) {
	g := s.anybody(rt)
	known := len(s.tickets)
	s.post(g, "")
	if len(s.tickets) == known {
		return
	}
	codes, access, challenges := len(s.codes), len(s.access), len(g.challenges)
	s.finish(s.tickets[known], rapid.SampledFrom(s.people).Draw(rt, "who"))
	if len(s.codes) > codes {
		s.redeem(s.codes[codes])
	}
	if len(s.access) == access {
		return
	}
	s.post(g, s.access[access])
	if len(g.challenges) == challenges {
		return
	}
	s.issueBy(g, g.challenges[challenges])
	if g.authenticate(g.usual(false)) == nil {
		s.told(g.tokenUpdate(g.id, g.usual(false)))
	}
}

func (s *society) leave(rt *rapid.T) {
	g := s.anybody(rt)
	_ = s.r.CheckOut(context.Background(), g.peer(""), g.id)
}

func (s *society) remove(rt *rapid.T) {
	ctx := context.Background()
	d, ok := s.device(s.anybody(rt))
	switch {
	case !ok:
	case rapid.Bool().Draw(rt, "block"):
		_, _ = s.r.Block(ctx, d.ID)
		_, _ = s.r.Unblock(ctx, d.ID)
	default:
		_, _ = s.r.Unenroll(ctx, d.ID)
	}
}

func (s *society) check(rt *rapid.T) {
	holders := map[string]mdm.DeviceID{}
	devices := map[mdm.DeviceID]mdm.Device{}
	for _, g := range s.guests {
		if d, ok := s.device(g); ok {
			devices[d.ID] = d
		}
	}
	for _, a := range s.r.authorizations(s.t) {
		holders[a.ID] = a.DeviceID
		d := devices[a.DeviceID]
		if a.DeviceID == "" || d.EnrollmentMode != "" && (d.State == mdm.Enrolled || d.State == mdm.Pending) && a.AttemptID == d.AttemptID {
			continue
		}
		rt.Fatalf("the authorization %+v is of a device that is %s by %q, of the attempt %s", a, d.State, d.EnrollmentMode, d.AttemptID)
	}
	for _, token := range s.access[max(0, len(s.access)-4):] { // those before were looked at before
		holder := holders[token[:16]]
		if holder == "" {
			continue // nobody's, or anybody's of the same person
		}
		var does []mdm.DeviceID
		for _, g := range s.guests {
			user := g.id
			user.UserID = "501" // a Mac is asked for a token on this channel only
			if g.cert != nil && s.r.Identify(context.Background(), g.peer(token), user) == nil {
				d, _ := s.device(g)
				does = append(does, d.ID)
			}
		}
		if len(does) > 1 || len(does) == 1 && does[0] != holder {
			rt.Fatalf("the token of %s does for %s", holder, does)
		}
	}
}

// smallRequest is request with a key that is made at once.
func smallRequest(t testing.TB, challenge string) depot.Request {
	t.Helper()
	key := must2(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
	der := must2(x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key))(t)
	self := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour)}
	signer := must2(x509.CreateCertificate(rand.Reader, self, self, key.Public(), key))(t)
	return depot.Request{
		TransactionID: strings.Repeat("T", 8), Challenge: challenge,
		CSR: must2(x509.ParseCertificateRequest(der))(t), Signer: must2(x509.ParseCertificate(signer))(t),
	}
}
