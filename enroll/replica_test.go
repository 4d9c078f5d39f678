package enroll_test

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/depot"
	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// atOnce lets two replicas do something on h's store, each without seeing what the
// other does.
func (h *house) atOnce(t *testing.T, a, b func(h *house) error) (errA, errB error) {
	t.Helper()
	storagetest.Overlap(h.db,
		func(db storage.DB) { errA = a(houseOn(t, db, h.clock)) },
		func(db storage.DB) { errB = b(houseOn(t, db, h.clock)) },
	)
	return errA, errB
}

// on is p as it talks to another replica.
func (p phone) on(h *house) phone {
	p.h = h
	return p
}

// issue asks for a certificate.
func issue(r depot.Request) func(*house) error {
	return func(h *house) error {
		_, err := h.IssueIdentity(context.Background(), r)
		return err
	}
}

// inForce returns the certificates of a device that are not revoked.
func (h *house) inForce(t *testing.T, id mdm.DeviceID) (list []depot.Certificate) {
	t.Helper()
	h.view(t, func(tx storage.Tx) error {
		list = nil
		for c, err := range h.depot.ByDevice(tx, string(id)) {
			if err != nil {
				return err
			}
			if c.RevokedAt.IsZero() {
				list = append(list, c)
			}
		}
		return nil
	})
	return list
}

// wantOne says that one of two errors must be nil, and the other want.
func wantOne(t *testing.T, a, b, want error) {
	t.Helper()
	if (a == nil) == (b == nil) || !errors.Is(errors.Join(a, b), want) {
		t.Errorf("the two end with %v and %v, want one nil and the other %v", a, b, want)
	}
}

func TestTwoReplicasAtOnce(t *testing.T) {
	ctx := context.Background()
	for name, story := range map[string]func(t *testing.T, h *house){
		"spend the last use of a link once": func(t *testing.T, h *house) {
			l := h.link(t, enroll.NewLink{Uses: 1})
			one, _ := h.challenge(t, l)
			two, _ := h.challenge(t, l)
			a, b := h.atOnce(t, issue(request(t, keyring.take(t), one)), issue(request(t, keyring.take(t), two)))
			// The other attempt is failed together with the last use, and its challenge with it.
			wantOne(t, a, b, enroll.ErrChallenge)
		},
		"count every use of a link": func(t *testing.T, h *house) {
			l := h.link(t, enroll.NewLink{Uses: 5})
			one, _ := h.challenge(t, l)
			two, _ := h.challenge(t, l)
			a, b := h.atOnce(t, issue(request(t, keyring.take(t), one)), issue(request(t, keyring.take(t), two)))
			must(t, errors.Join(a, b))
			l, err := h.Link(ctx, l.ID)
			if err != nil || l.UsesLeft != 3 {
				t.Errorf("%d uses left of 5, %v; want 3", l.UsesLeft, err)
			}
		},
		"honour a challenge once": func(t *testing.T, h *house) {
			secret, _ := h.challenge(t, h.link(t, enroll.NewLink{Uses: 5}))
			a, b := h.atOnce(t, issue(request(t, keyring.take(t), secret)), issue(request(t, keyring.take(t), secret)))
			wantOne(t, a, b, enroll.ErrChallenge)
		},
		"certify a key once": func(t *testing.T, h *house) {
			one, _ := h.challenge(t, h.link(t, enroll.NewLink{}))
			two, _ := h.challenge(t, h.link(t, enroll.NewLink{}))
			key := keyring.take(t)
			a, b := h.atOnce(t, issue(request(t, key, one)), issue(request(t, key, two)))
			wantOne(t, a, b, enroll.ErrKeyReused)
		},
		"answer a repeated request with one certificate": func(t *testing.T, h *house) {
			secret, _ := h.challenge(t, h.link(t, enroll.NewLink{Uses: 5}))
			r := request(t, keyring.take(t), secret)
			var certs [2][]byte
			get := func(i int) func(*house) error {
				return func(h *house) error {
					cert, err := h.IssueIdentity(ctx, r)
					if err == nil {
						certs[i] = cert.Raw
					}
					return err
				}
			}
			a, b := h.atOnce(t, get(0), get(1))
			must(t, errors.Join(a, b))
			if !slices.Equal(certs[0], certs[1]) || h.issued(t) != 1 {
				t.Errorf("%d certificates, the same for both: %v", h.issued(t), slices.Equal(certs[0], certs[1]))
			}
		},
		"bind a certificate to one device": func(t *testing.T, h *house) {
			p := h.withIdentity(t, h.link(t, enroll.NewLink{}), iphone)
			thief := p
			thief.id = mac
			a, b := h.atOnce(t,
				func(h *house) error { return p.on(h).authenticate() },
				func(h *house) error { return thief.on(h).authenticate() })
			wantOne(t, a, b, enroll.ErrForeignDevice)
		},
		"give a device to one of two attempts": func(t *testing.T, h *house) {
			ana := h.withIdentity(t, h.link(t, enroll.NewLink{User: "ana"}), iphone)
			bob := h.withIdentity(t, h.link(t, enroll.NewLink{User: "bob"}), iphone)
			a, b := h.atOnce(t,
				func(h *house) error { return ana.on(h).authenticate() },
				func(h *house) error { return bob.on(h).authenticate() })
			must(t, errors.Join(a, b)) // the later one takes it over, as it never finished
			d := h.device(t, iphone)
			if list := h.inForce(t, d.ID); len(list) != 1 || string(list[0].Fingerprint) != d.Identity || list[0].User != d.User {
				t.Errorf("the device of %s has the certificates %+v in force", d.User, list)
			}
		},
		"keep a block that comes while the device enrolls again": func(t *testing.T, h *house) {
			h.enrolled(t, "ana", iphone)
			id := h.device(t, iphone).ID
			again := h.withIdentity(t, h.link(t, enroll.NewLink{User: "ana"}), iphone)
			a, b := h.atOnce(t,
				func(h *house) error { return again.on(h).authenticate() },
				func(h *house) error { _, err := h.Block(ctx, id); return err })
			must(t, b)
			if a != nil {
				wantErr(t, "to enroll", a, mdm.ErrBlocked)
			}
			if d := h.device(t, iphone); d.State != mdm.Blocked || len(h.inForce(t, id)) > 0 {
				t.Errorf("the device is %s, with %d certificates in force", d.State, len(h.inForce(t, id)))
			}
		},
		"keep a block that comes while the device polls": func(t *testing.T, h *house) {
			p := h.enrolled(t, "ana", iphone)
			id := h.device(t, iphone).ID
			h.enqueue(t, "C1", id)
			a, b := h.atOnce(t,
				func(h *house) error { _, err := p.on(h).idle(); return err },
				func(h *house) error { _, err := h.Block(ctx, id); return err })
			must(t, b)
			if a != nil {
				wantErr(t, "to poll", a, enroll.ErrGone)
			}
			if got := h.state(t, "C1"); got != mdm.Cancelled {
				t.Errorf("its command is %s, want cancelled", got)
			}
		},
		"make no user channel of a device that leaves": func(t *testing.T, h *house) {
			p := h.enrolled(t, "ana", mac)
			user := mdm.AppleID{UDID: mac.UDID, UserID: "501"}
			a, b := h.atOnce(t,
				func(h *house) error { return p.on(h).tokenUpdateAs(user, "m") },
				func(h *house) error { return p.on(h).checkOut() })
			must(t, b)
			if a != nil {
				wantErr(t, "the user's token", a, enroll.ErrGone)
				return
			}
			if d := h.device(t, user); d.State != mdm.Unenrolled || d.Push != nil {
				t.Errorf("the user's channel is %s, want unenrolled with its device", d.State)
			}
		},
		"make no user channel of a device that starts afresh": func(t *testing.T, h *house) {
			p := h.enrolled(t, "ana", mac)
			again := h.withIdentity(t, h.link(t, enroll.NewLink{User: "ana"}), mac)
			user := mdm.AppleID{UDID: mac.UDID, UserID: "501"}
			a, b := h.atOnce(t,
				func(h *house) error { return p.on(h).tokenUpdateAs(user, "m") },
				func(h *house) error { return again.on(h).authenticate() })
			must(t, b)
			if a != nil {
				wantErr(t, "the user's token", a, enroll.ErrRetired)
				return
			}
			if d := h.device(t, user); d.State != mdm.Pending || d.Push != nil {
				t.Errorf("the user's channel is %s, want pending until its TokenUpdate", d.State)
			}
		},
		"give a User Enrollment one user": func(t *testing.T, h *house) {
			p := h.enrolled(t, "ana", byod)
			as := func(user string) func(*house) error {
				return func(h *house) error {
					return p.on(h).tokenUpdateAs(mdm.AppleID{EnrollmentID: byod.EnrollmentID, UserID: user}, "m")
				}
			}
			a, b := h.atOnce(t, as("one"), as("two"))
			wantOne(t, a, b, enroll.ErrForeignDevice)
		},
		"fail a download while its link is revoked": func(t *testing.T, h *house) {
			l := h.link(t, enroll.NewLink{Uses: 5})
			a, b := h.atOnce(t,
				func(h *house) error { _, _, err := h.NewEnrollment(ctx, l.Code); return err },
				func(h *house) error { return h.RevokeLink(ctx, l.ID) })
			must(t, b)
			if a != nil {
				wantErr(t, "the download", a, enroll.ErrLinkRevoked)
			}
			h.wantFailed(t, "link_revoked")
		},
		"fail a download while its link's last use is spent": func(t *testing.T, h *house) {
			l := h.link(t, enroll.NewLink{Uses: 1})
			secret, issued := h.challenge(t, l)
			a, b := h.atOnce(t,
				func(h *house) error { _, _, err := h.NewEnrollment(ctx, l.Code); return err },
				issue(request(t, keyring.take(t), secret)))
			must(t, b)
			if a != nil {
				wantErr(t, "the download", a, enroll.ErrLinkUsedUp)
			}
			h.wantFailed(t, "link_used_up", issued.ID)
		},
		"agree on a placeholder topic": func(t *testing.T, h *house) {
			l := h.link(t, enroll.NewLink{Uses: 5})
			download := func(h *house) error { _, _, err := h.NewEnrollment(ctx, l.Code); return err }
			a, b := h.atOnce(t, download, download)
			must(t, errors.Join(a, b))
			all, _, err := h.Attempts(ctx, "", 10)
			if err != nil || len(all) != 2 || all[0].Topic == "" || all[0].Topic != all[1].Topic {
				t.Errorf("attempts = %+v, %v; want two of one topic", all, err)
			}
		},
		"take an answer once": func(t *testing.T, h *house) {
			p := h.enrolled(t, "ana", iphone)
			id := h.device(t, iphone).ID
			h.enqueue(t, "C1", id)
			_, err := p.idle()
			must(t, err)
			report := func(state mdm.CommandState) func(*house) error {
				return func(h *house) error { return p.on(h).report("C1", state) }
			}
			a, b := h.atOnce(t, report(mdm.Acknowledged), report(mdm.Failed))
			must(t, errors.Join(a, b))
			if got := h.state(t, "C1"); got != mdm.Acknowledged && got != mdm.Failed {
				t.Errorf("the command is %s", got)
			}
			if list, _, err := h.mdm.DeviceCommands(ctx, id, "", 10); len(list) != 1 || err != nil {
				t.Errorf("it is there %d times, %v", len(list), err)
			}
		},
		"deliver a command or cancel it": func(t *testing.T, h *house) {
			p := h.enrolled(t, "ana", iphone)
			id := h.device(t, iphone).ID
			h.enqueue(t, "C1", id)
			var plist string
			a, b := h.atOnce(t,
				func(h *house) (err error) { plist, err = p.on(h).idle(); return err },
				func(h *house) error { return h.CancelCommand(ctx, id, "C1") })
			must(t, a)
			switch got := h.state(t, "C1"); {
			case b == nil && plist == "" && got == mdm.Cancelled:
			case errors.Is(b, mdm.ErrCommandDelivered) && plist != "" && got == mdm.Delivered:
			default:
				t.Errorf("cancelling ends with %v, the device gets %d bytes, and the command is %s", b, len(plist), got)
			}
		},
		"keep no bootstrap token of an enrollment that is over": func(t *testing.T, h *house) {
			p := h.enrolled(t, "ana", mac)
			again := h.withIdentity(t, h.link(t, enroll.NewLink{User: "ana"}), mac)
			a, b := h.atOnce(t,
				func(h *house) error { return h.SetBootstrapToken(ctx, p.peer(), mac, []byte("old")) },
				func(h *house) error { return again.on(h).authenticate() })
			must(t, b)
			if a != nil {
				wantErr(t, "the old token", a, enroll.ErrRetired)
			}
			token, err := h.GetBootstrapToken(ctx, again.peer(), mac)
			if len(token) > 0 || err != nil {
				t.Errorf("the new enrollment has the token %q, %v", token, err)
			}
		},
		"start one renewal": func(t *testing.T, h *house) {
			h.enrolled(t, "ana", iphone)
			id := h.device(t, iphone).ID
			renew := func(h *house) error { return h.Renew(ctx, id) }
			a, b := h.atOnce(t, renew, renew)
			must(t, errors.Join(a, b))
			if list, _, err := h.mdm.DeviceCommands(ctx, id, "", 10); len(list) != 1 || err != nil {
				t.Errorf("%d commands, %v; want one", len(list), err)
			}
		},
		"leave nothing in force of a device that is revoked while it renews": func(t *testing.T, h *house) {
			p := h.enrolled(t, "ana", iphone)
			id := h.device(t, iphone).ID
			must(t, h.Renew(ctx, id))
			r := h.renewalRequest(t, h.fetchRenewal(t, p).signed)
			a, b := h.atOnce(t, issue(r),
				func(h *house) error { return revoke(p.on(h)) })
			must(t, b)
			if a != nil {
				wantErr(t, "the renewal", a, enroll.ErrChallenge)
			}
			if list := h.inForce(t, id); len(list) > 0 || h.device(t, iphone).State != mdm.Unenrolled {
				t.Errorf("the device is %s, with %d certificates in force", h.device(t, iphone).State, len(list))
			}
		},
		"commit or drop a renewal that is revoked as it proves itself": func(t *testing.T, h *house) {
			r := h.renewing(t, h.enrolled(t, "ana", iphone))
			must(t, r.renewed.authenticate())
			must(t, r.renewed.tokenUpdate("magic-2"))
			id := h.device(t, iphone).ID
			a, b := h.atOnce(t,
				func(h *house) error { return r.renewed.on(h).report(r.uuid, mdm.Acknowledged) },
				func(h *house) error { return revoke(r.renewed.on(h)) })
			must(t, b)
			if a != nil {
				wantErr(t, "the acknowledgement", a, enroll.ErrRetired)
			}
			// Dropped, the device goes on with the old one; committed first, it has left.
			d, list := h.device(t, iphone), h.inForce(t, id)
			switch {
			case d.State == mdm.Enrolled && len(list) == 1 && string(list[0].Fingerprint) == d.Identity:
			case d.State == mdm.Unenrolled && len(list) == 0:
			default:
				t.Errorf("the device is %s, with the certificates %+v in force", d.State, list)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			keyring.reset()
			story(t, newHouse(t))
		})
	}
}

// wantFailed checks that all attempts but some have failed with a code.
func (h *house) wantFailed(t *testing.T, code string, but ...string) {
	t.Helper()
	all, _, err := h.Attempts(context.Background(), "", 100)
	must(t, err)
	for _, a := range all {
		if !slices.Contains(but, a.ID) && (a.Stage != enroll.AttemptFailed || a.ErrorCode != code) {
			t.Errorf("attempt %s is %s %q, want failed with %s", a.ID, a.Stage, a.ErrorCode, code)
		}
	}
}

func revoke(p phone) error {
	_, err := p.revoke("keyCompromise")
	return err
}
