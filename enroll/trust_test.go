package enroll_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// takesRoots lets a device acknowledge the profile with the roots.
func (p phone) takesRoots(t *testing.T) {
	t.Helper()
	must(t, p.report(p.h.fetchRenewal(t, p).uuid, mdm.Acknowledged))
}

// enrolsBy lets a device that was erased enrol again, by the profile of a challenge.
func (p phone) enrolsBy(t *testing.T, secret string) phone {
	t.Helper()
	cert, err := p.h.IssueIdentity(context.Background(), request(t, keyring.take(t), secret))
	must(t, err)
	p.cert = cert
	must(t, p.authenticate())
	must(t, p.tokenUpdate("magic-again"))
	return p
}

// What a device trusts is what the profile brought that it enrolled by, and what it was
// sent since: neither outlives the enrollment.
func TestTrustInANewRootEndsWithTheEnrollment(t *testing.T) {
	storagetest.AnyEngine(t)
	for name, tt := range map[string]struct {
		early bool // the profile that it enrols by again is from before the rollover
		story func(t *testing.T, h *house, p phone)
		want  enroll.RolloverStage
	}{
		"of a device that took the roots, and enrolls by a profile without the new one": {true, func(t *testing.T, h *house, p phone) {
			p.takesRoots(t)
			wantStages(t, "first", h.stages(t, "root", p), enroll.Trusted)
		}, enroll.PendingTrust},
		"of one that says goodbye before": {true, func(t *testing.T, h *house, p phone) {
			p.takesRoots(t)
			must(t, unenroll(h, p))
		}, enroll.PendingTrust},
		"of one that took them, and enrolls by a profile with both":     {false, func(t *testing.T, h *house, p phone) { p.takesRoots(t) }, enroll.Trusted},
		"of one that was sent them, and enrolls by one with both":       {false, func(*testing.T, *house, phone) {}, enroll.Trusted},
		"of one that was sent them, left, and enrolls by one with both": {false, func(t *testing.T, h *house, p phone) { must(t, unenroll(h, p)) }, enroll.Trusted},
	} {
		t.Run(name, func(t *testing.T) {
			keyring.reset()
			h := newHouse(t)
			p := h.enrolled(t, "ana", iphone)
			other := h.enrolled(t, "ana", mdm.AppleID{UDID: "AAAA-0001"}) // which the root waits for
			l := h.link(t, enroll.NewLink{User: "ana", Uses: 5})
			var secret string
			if tt.early {
				secret, _ = h.challenge(t, l)
			}
			h.pass(time.Minute)
			h.rollOver(t, "root", enroll.StartRollover{})
			h.pass(2 * time.Minute)
			h.round(t) // both are sent the roots
			tt.story(t, h, p)
			if !tt.early {
				secret, _ = h.challenge(t, l)
			}
			p = p.enrolsBy(t, secret)
			h.pass(10 * time.Minute)
			wantStages(t, "then", h.stages(t, "root", p, other), tt.want, enroll.PendingTrust)
			if tt.want == enroll.PendingTrust { // it is sent them as any other is
				h.round(t)
				p.takesRoots(t)
				wantStages(t, "at last", h.stages(t, "root", p, other), enroll.Trusted, enroll.PendingTrust)
			}
		})
	}
}

// One replica sends the roots to a device whose new enrollment begins at another.
func TestRootsThatAreSentToAnEnrollmentThatEnds(t *testing.T) {
	keyring.reset()
	ctx := context.Background()
	h := newHouse(t)
	p := h.enrolled(t, "ana", iphone)
	h.enrolled(t, "ana", mdm.AppleID{UDID: "AAAA-0001"}) // which the root waits for
	h.rollOver(t, "root", enroll.StartRollover{})
	h.pass(2 * time.Minute)
	secret, _ := h.challenge(t, h.link(t, enroll.NewLink{User: "ana"}))
	cert, err := h.IssueIdentity(ctx, request(t, keyring.take(t), secret))
	must(t, err)
	p.cert = cert
	must(t, errors.Join(h.atOnce(t,
		func(h *house) error { return h.ContinueRollovers(ctx) },
		func(h *house) error { return p.on(h).authenticate() })))
	must(t, p.tokenUpdate("magic-again"))
	wantStages(t, "then", h.stages(t, "root", p), enroll.Trusted)
}
