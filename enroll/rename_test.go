package enroll_test

import (
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/depot"
	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// rename takes the logins "ana" and "ana@example.com" from a user, who is bee from then on.
func (h *house) rename() error {
	return h.db.Update(context.Background(), func(tx storage.Tx) error {
		return h.RenameUser(tx, []string{"ana", "ana@example.com"}, "bee")
	})
}

// endUser ends what somebody has who goes by a login.
func (h *house) endUser(t *testing.T, login string) {
	t.Helper()
	must(t, h.db.Update(context.Background(), func(tx storage.Tx) error { return h.EndUser(tx, login) }))
}

// vpn signs a certificate that nothing is recorded of yet.
func (h *house) vpn(t *testing.T) *x509.Certificate {
	t.Helper()
	cert, err := h.depot.Payload().Sign(keyring.take(t).Public(), depot.Contents{
		Name: "vpn", Subject: pkix.Name{CommonName: "vpn"}, NotBefore: h.now(), NotAfter: h.now().Add(time.Hour),
	})
	must(t, err)
	return cert
}

// own gives a user a certificate that is on no device.
func (h *house) own(t *testing.T, user string) *x509.Certificate {
	t.Helper()
	cert := h.vpn(t)
	must(t, h.db.Update(context.Background(), func(tx storage.Tx) error {
		return h.depot.Record(tx, cert, depot.Certificate{Authority: "payload", Template: "vpn", User: user})
	}))
	return cert
}

func TestWhatAUserHasFollowsToAnotherLogin(t *testing.T) {
	storagetest.AnyEngine(t)
	ctx := context.Background()
	keyring.reset()
	h := newHouse(t)
	user, other := mdm.AppleID{UDID: mac.UDID, UserID: "501"}, mdm.AppleID{UDID: "00008120-0002"}
	p := h.enrolled(t, "Ana@example.com", mac)
	must(t, p.tokenUpdateAs(user, "m"))
	q := h.withIdentity(t, h.link(t, enroll.NewLink{User: "ana"}), iphone) // its device has not come yet
	theirs := h.enrolled(t, "anabel", other)
	own, theirOwn := h.own(t, "ana"), h.own(t, "anabel")
	l := h.link(t, enroll.NewLink{User: "ana@example.com"})
	secret, open := h.challenge(t, l)

	must(t, h.rename())
	for _, id := range []mdm.AppleID{mac, user} {
		if d := h.device(t, id); d.User != "bee" || d.State != mdm.Enrolled {
			t.Errorf("the enrollment %+v is %s, of %q; want it enrolled, of bee", id, d.State, d.User)
		}
	}
	for name, cert := range map[string]*x509.Certificate{"of the device": p.cert, "of a device that has not come": q.cert, "of the user": own} {
		if rec := h.record(t, cert); rec.User != "bee" || !rec.RevokedAt.IsZero() {
			t.Errorf("the certificate %s is %q's, revoked %v; want bee's in force", name, rec.User, rec.RevokedAt)
		}
	}
	if got := h.attempt(t, open.ID); got.User != "bee" {
		t.Errorf("an attempt that is under way is %q's", got.User)
	}
	if got, err := h.Link(ctx, l.ID); err != nil || got.User != "bee" {
		t.Errorf("the link is %q's, %v", got.User, err)
	}
	if got := h.device(t, other).User; got != "anabel" || h.record(t, theirs.cert).User != "anabel" || h.record(t, theirOwn).User != "anabel" {
		t.Errorf("what is another's is %q's now", got)
	}

	// It goes on under the new login.
	must(t, q.authenticate())
	must(t, q.tokenUpdate("m"))
	_, err := h.IssueIdentity(ctx, request(t, keyring.take(t), secret))
	must(t, err)
	if got := h.device(t, iphone).User; got != "bee" {
		t.Errorf("a device that came later is %q's", got)
	}
	again := h.withIdentity(t, h.link(t, enroll.NewLink{User: "bee"}), mac) // erased, by its owner
	must(t, again.authenticate())
	must(t, again.tokenUpdate("m"))

	// Whoever has the old login next has none of it.
	h.endUser(t, "ana")
	h.endUser(t, "ana@example.com")
	if !heard(again) || !heard(q) || !h.record(t, own).RevokedAt.IsZero() {
		t.Error("what was moved ends with another user of the old login")
	}
	h.endUser(t, "bee")
	if d, e := h.device(t, mac), h.device(t, iphone); d.State != mdm.Unenrolled || e.State != mdm.Unenrolled || h.record(t, own).RevokedAt.IsZero() {
		t.Errorf("the user has ended, the devices are %s and %s, and the certificate was revoked at %v", d.State, e.State, h.record(t, own).RevokedAt)
	}
	if !heard(theirs) {
		t.Error("another user's device has ended, too")
	}
}

func TestAUserIsRenamedAtOneReplicaWhile(t *testing.T) {
	ctx := context.Background()
	for name, story := range map[string]func(t *testing.T, h *house) (also func(h *house) error, enrolled mdm.AppleID){
		"a profile is handed out at another": func(t *testing.T, h *house) (func(*house) error, mdm.AppleID) {
			l := h.link(t, enroll.NewLink{User: "ana"})
			return func(h *house) error {
				signed, _, err := h.NewEnrollment(ctx, l.Code)
				if err != nil {
					return err
				}
				cert, err := h.IssueIdentity(ctx, request(t, keyring.take(t), challengeIn(t, signed)))
				if err != nil {
					return err
				}
				p := phone{h: h, id: iphone, cert: cert}
				return errors.Join(p.authenticate(), p.tokenUpdate("m"))
			}, iphone
		},
		"an identity is issued at another": func(t *testing.T, h *house) (func(*house) error, mdm.AppleID) {
			secret, _ := h.challenge(t, h.link(t, enroll.NewLink{User: "ana"}))
			return func(h *house) error {
				cert, err := h.IssueIdentity(ctx, request(t, keyring.take(t), secret))
				if err != nil {
					return err
				}
				p := phone{h: h, id: iphone, cert: cert}
				return errors.Join(p.authenticate(), p.tokenUpdate("m"))
			}, iphone
		},
		"a device checks in at another": func(t *testing.T, h *house) (func(*house) error, mdm.AppleID) {
			p := h.withIdentity(t, h.link(t, enroll.NewLink{User: "ana"}), iphone)
			return func(h *house) error { return errors.Join(p.on(h).authenticate(), p.on(h).tokenUpdate("m")) }, iphone
		},
		"a device finishes its enrollment at another": func(t *testing.T, h *house) (func(*house) error, mdm.AppleID) {
			p := h.withIdentity(t, h.link(t, enroll.NewLink{User: "ana"}), iphone)
			must(t, p.authenticate())
			return func(h *house) error { return p.on(h).tokenUpdate("m") }, iphone
		},
		"a Mac's user comes at another": func(t *testing.T, h *house) (func(*house) error, mdm.AppleID) {
			p := h.enrolled(t, "ana", mac)
			user := mdm.AppleID{UDID: mac.UDID, UserID: "501"}
			return func(h *house) error { return p.on(h).tokenUpdateAs(user, "m") }, user
		},
		"a device renews at another": func(t *testing.T, h *house) (func(*house) error, mdm.AppleID) {
			p := h.enrolled(t, "ana", iphone)
			must(t, h.Renew(ctx, h.device(t, iphone).ID))
			r := h.renewalRequest(t, h.fetchRenewal(t, p).signed)
			return issue(r), iphone
		},
		"a device is issued another certificate at another": func(t *testing.T, h *house) (func(*house) error, mdm.AppleID) {
			h.enrolled(t, "ana", iphone)
			cert := h.vpn(t)
			return func(h *house) error {
				return h.db.Update(ctx, func(tx storage.Tx) error {
					d, err := mdm.FindDevice(tx, iphone)
					if err != nil {
						return err
					}
					return h.depot.Record(tx, cert, depot.Certificate{Authority: "payload", Template: "vpn", DeviceID: string(d.ID), User: d.User})
				})
			}, iphone
		},
	} {
		t.Run(name, func(t *testing.T) {
			keyring.reset()
			h := newHouse(t)
			also, id := story(t, h)
			a, b := h.atOnce(t, also, func(h *house) error { return h.rename() })
			must(t, errors.Join(a, b))
			d := h.device(t, id)
			if d.User != "bee" || d.State != mdm.Enrolled {
				t.Errorf("the enrollment is %s, of %q; want it enrolled, of bee", d.State, d.User)
			}
			for _, c := range h.inForce(t, d.ID) {
				if c.User != "bee" {
					t.Errorf("a certificate of it is %q's", c.User)
				}
			}
		})
	}
}

// A device enrols for a user whose other login is given up in that moment.
func TestADeviceOfAUserWhoIsRenamedByAnotherName(t *testing.T) {
	ctx := context.Background()
	keyring.reset()
	h := newHouse(t)
	people := func(h *house) *identity.Service {
		s, err := identity.New(identity.Config{
			DB: h.db, Log: slog.New(slog.DiscardHandler), Now: h.now, HashMemory: 64,
			OnRename: func(tx storage.Tx, gone []string, u identity.User) error { return h.RenameUser(tx, gone, u.Login()) },
		})
		must(t, err)
		return s
	}
	ana, err := people(h).CreateUser(ctx, identity.Local(), identity.NewUser{Username: "ana", Email: "ana@example.com"})
	must(t, err)
	secret, _ := h.challenge(t, h.link(t, enroll.NewLink{User: "ana"}))
	r := request(t, keyring.take(t), secret)
	came, renamed := h.atOnce(t,
		func(h *house) error {
			cert, err := h.IssueIdentity(ctx, r)
			if err != nil {
				return err
			}
			p := phone{h: h, id: iphone, cert: cert}
			return errors.Join(p.authenticate(), p.tokenUpdate("m"))
		},
		func(h *house) error {
			bee := "bee@example.com"
			_, err := people(h).UpdateUser(ctx, identity.Local(), ana.ID, identity.UserChange{Email: &bee})
			return err
		})
	must(t, errors.Join(came, renamed))
	d := h.device(t, iphone)
	if d.User != "bee@example.com" {
		t.Errorf("the device is %q's", d.User)
	}
	for _, c := range h.inForce(t, d.ID) {
		if c.User != "bee@example.com" {
			t.Errorf("a certificate of it is %q's", c.User)
		}
	}
}

// A certificate is issued to a user who gets another login in that moment.
func TestACertificateForAUserWhoIsRenamed(t *testing.T) {
	ctx := context.Background()
	keyring.reset()
	h := newHouse(t)
	people := func(h *house) *identity.Service {
		s, err := identity.New(identity.Config{
			DB: h.db, Log: slog.New(slog.DiscardHandler), Now: h.now, HashMemory: 64,
			OnRename: func(tx storage.Tx, gone []string, u identity.User) error { return h.RenameUser(tx, gone, u.Login()) },
		})
		must(t, err)
		return s
	}
	ana, err := people(h).CreateUser(ctx, identity.Local(), identity.NewUser{Username: "ana"})
	must(t, err)
	cert := h.vpn(t)
	issued, renamed := h.atOnce(t,
		func(h *house) error {
			return h.db.Update(ctx, func(tx storage.Tx) error {
				u, err := identity.UserByLogin(tx, "ana")
				if err != nil {
					return err
				}
				return h.depot.Record(tx, cert, depot.Certificate{Authority: "payload", Template: "vpn", User: u.Login()})
			})
		},
		func(h *house) error {
			bee := "bee"
			_, err := people(h).UpdateUser(ctx, identity.Local(), ana.ID, identity.UserChange{Username: &bee})
			return err
		})
	must(t, renamed)
	if issued != nil {
		wantErr(t, "the certificate", issued, storage.ErrNotFound) // of the user who was there no more
		return
	}
	if got := h.record(t, cert).User; got != "bee" {
		t.Errorf("the certificate is %q's", got)
	}
}
