package checkin

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"iter"
	"strings"
	"time"

	"github.com/micromdm/nanomdm/mdm"
	nanostorage "github.com/micromdm/nanomdm/storage"

	"github.com/gatehouse-mdm/gatehouse/apns"
	gatehouse "github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

// NanoStore is NanoMDM's storage over ours, for what is built on NanoMDM's
// interfaces. Devices that it takes in are known by their names alone: it is
// package enroll that binds a device to its certificate, so nothing here may be
// mounted where devices talk.
type NanoStore struct {
	db    storage.DB
	mdm   *gatehouse.Service
	certs *apns.Certificates
	now   func() time.Time
}

var _ nanostorage.AllStorage = (*NanoStore)(nil)

// NewNanoStore returns a NanoStore; it needs all that it is given.
func NewNanoStore(db storage.DB, devices *gatehouse.Service, certs *apns.Certificates, now func() time.Time) (*NanoStore, error) {
	if db == nil || devices == nil || certs == nil || now == nil {
		return nil, errors.New("checkin: a database, devices, certificates and a clock are required")
	}
	return &NanoStore{db: db, mdm: devices, certs: certs, now: now}, nil
}

// errNotEnabled is what NanoMDM's clients of an enrollment get that is over.
var errNotEnabled = errors.New("the enrollment is not enabled")

// find returns the device that NanoMDM calls id: "UDID", or "UDID:UserID".
func find(tx storage.Tx, id string) (gatehouse.Device, error) {
	device, user, _ := strings.Cut(id, ":")
	d, err := gatehouse.FindDevice(tx, gatehouse.AppleID{UDID: device, UserID: user})
	if errors.Is(err, storage.ErrNotFound) {
		d, err = gatehouse.FindDevice(tx, gatehouse.AppleID{EnrollmentID: device, UserID: user})
	}
	return d, err
}

// appleIDOf reads NanoMDM's id of a request, whose kind is known.
func appleIDOf(e *mdm.EnrollID) gatehouse.AppleID {
	device, user, _ := strings.Cut(e.ID, ":")
	if e.Type == mdm.UserEnrollmentDevice || e.Type == mdm.UserEnrollment {
		return gatehouse.AppleID{EnrollmentID: device, UserID: user}
	}
	return gatehouse.AppleID{UDID: device, UserID: user}
}

// StoreAuthenticate implements storage.CheckinStore: the device starts afresh.
func (s *NanoStore) StoreAuthenticate(r *mdm.Request, msg *mdm.Authenticate) error {
	if r.ParentID != "" {
		return nanostorage.ErrDeviceChannelOnly
	}
	id := appleIDOf(r.EnrollID)
	if err := id.Validate(); err != nil {
		return err
	}
	fresh := gatehouse.DeviceID(strings.ToLower(rand.Text()))
	return s.db.Update(r.Context(), func(tx storage.Tx) error {
		now := s.now().UTC()
		d, err := gatehouse.FindDevice(tx, id)
		if errors.Is(err, storage.ErrNotFound) {
			d, err = gatehouse.Device{ID: fresh, CreatedAt: now}, nil
		}
		if err != nil {
			return err
		}
		if err := s.mdm.ForgetSecrets(tx, d.ID); err != nil {
			return err
		}
		d = gatehouse.Device{
			ID: d.ID, CreatedAt: d.CreatedAt, Type: gatehouse.TypeDevice, State: gatehouse.Pending, AppleID: id,
			Ownership: gatehouse.Institutional, AuthenticatedAt: now, Facts: gatehouse.Facts{SerialNumber: msg.SerialNumber},
			Push: &gatehouse.Push{Topic: msg.Topic},
		}
		if id.EnrollmentID != "" {
			d.Type = gatehouse.TypeUser
		}
		return gatehouse.PutDevice(tx, d)
	})
}

// StoreTokenUpdate implements storage.CheckinStore. Only Authenticate begins an
// enrollment: after a CheckOut this is refused.
func (s *NanoStore) StoreTokenUpdate(r *mdm.Request, msg *mdm.TokenUpdate) error {
	id := appleIDOf(r.EnrollID)
	if err := id.Validate(); err != nil {
		return err
	}
	fresh := gatehouse.DeviceID(strings.ToLower(rand.Text()))
	return s.db.Update(r.Context(), func(tx storage.Tx) error {
		now := s.now().UTC()
		parent, err := gatehouse.FindDevice(tx, id.Device())
		if err != nil {
			return err
		}
		if parent.State != gatehouse.Pending && parent.State != gatehouse.Enrolled {
			return errNotEnabled
		}
		d := parent
		if id.UserID != "" {
			d, err = gatehouse.FindDevice(tx, id)
			if errors.Is(err, storage.ErrNotFound) {
				d, err = gatehouse.Device{ID: fresh, ParentID: parent.ID, Type: gatehouse.TypeUserChannel, AppleID: id, CreatedAt: now}, nil
			}
			if err != nil {
				return err
			}
			d.UserShortName, d.UserLongName = msg.UserShortName, msg.UserLongName
		}
		if d.State != gatehouse.Enrolled {
			d.State, d.EnrolledAt = gatehouse.Enrolled, now
		}
		d.TokenUpdates++
		d.Push = &gatehouse.Push{Topic: msg.Topic, Token: msg.Token, Magic: msg.PushMagic}
		if len(msg.UnlockToken) > 0 && d.EnrollmentID == "" {
			if err := s.mdm.SetSecret(tx, d.ID, gatehouse.UnlockToken, msg.UnlockToken); err != nil {
				return err
			}
		}
		return gatehouse.PutDevice(tx, d)
	})
}

// StoreUserAuthenticate implements storage.CheckinStore. There is nothing in the
// message to keep: directory users are declined.
func (s *NanoStore) StoreUserAuthenticate(*mdm.Request, *mdm.UserAuthenticate) error { return nil }

// Disable implements storage.CheckinStore: with a device go its user channels.
// NanoMDM calls it after Authenticate too, where there is nothing to disable yet
// but the channels of before.
func (s *NanoStore) Disable(r *mdm.Request) error {
	return s.db.Update(r.Context(), func(tx storage.Tx) error {
		d, err := gatehouse.FindDevice(tx, appleIDOf(r.EnrollID))
		if err != nil {
			return err
		}
		channels, err := gatehouse.WithUserChannels(tx, d)
		if err != nil {
			return err
		}
		for _, c := range channels {
			if c.State != gatehouse.Enrolled {
				continue
			}
			c.State, c.UnenrolledAt, c.TokenUpdates = gatehouse.Unenrolled, s.now().UTC(), 0
			if err := s.mdm.CancelPending(tx, c.ID); err != nil {
				return err
			}
			if err := gatehouse.PutDevice(tx, c); err != nil {
				return err
			}
		}
		return nil
	})
}

// RetrieveTokenUpdateTally implements storage.TokenUpdateTallyStore.
func (s *NanoStore) RetrieveTokenUpdateTally(ctx context.Context, id string) (tally int, err error) {
	err = s.db.View(ctx, func(tx storage.Tx) error {
		d, err := find(tx, id)
		if errors.Is(err, storage.ErrNotFound) {
			return nil
		}
		tally = d.TokenUpdates
		return err
	})
	return tally, err
}

// StoreCommandReport implements storage.CommandAndReportResultsStore.
func (s *NanoStore) StoreCommandReport(r *mdm.Request, results *mdm.CommandResults) error {
	if results.Status == statusIdle {
		return nil
	}
	rep, err := report(results)
	if err != nil && !errors.Is(err, errNotKept) {
		return err
	}
	err = s.db.Update(r.Context(), func(tx storage.Tx) error {
		d, err := gatehouse.FindDevice(tx, appleIDOf(r.EnrollID))
		if err != nil {
			return err
		}
		_, err = s.mdm.Record(tx, d.ID, rep)
		return err
	})
	return err
}

// RetrieveNextCommand implements storage.CommandAndReportResultsStore.
func (s *NanoStore) RetrieveNextCommand(r *mdm.Request, skipNotNow bool) (*mdm.Command, error) {
	var next *gatehouse.Delivery
	err := s.db.Update(r.Context(), func(tx storage.Tx) error {
		next = nil
		d, err := gatehouse.FindDevice(tx, appleIDOf(r.EnrollID))
		if err != nil || !d.Live() {
			return err
		}
		e, err := s.mdm.Head(tx, d.ID, skipNotNow)
		if err != nil || e == nil {
			return err
		}
		next, err = s.mdm.Deliver(tx, e)
		return err
	})
	if err != nil || next == nil {
		return nil, err
	}
	raw, err := s.mdm.Plist(next)
	if err != nil {
		return nil, err
	}
	return mdm.DecodeCommand(raw)
}

// ClearQueue implements storage.CommandAndReportResultsStore.
func (s *NanoStore) ClearQueue(r *mdm.Request) error {
	return s.db.Update(r.Context(), func(tx storage.Tx) error {
		d, err := gatehouse.FindDevice(tx, appleIDOf(r.EnrollID))
		if err != nil {
			return err
		}
		channels, err := gatehouse.WithUserChannels(tx, d)
		if err != nil {
			return err
		}
		for _, c := range channels {
			if err := s.mdm.CancelPending(tx, c.ID); err != nil {
				return err
			}
		}
		return nil
	})
}

// EnqueueCommand implements storage.CommandEnqueuer.
func (s *NanoStore) EnqueueCommand(ctx context.Context, ids []string, cmd *mdm.Command) (map[string]error, error) {
	var failed map[string]error
	err := s.db.Update(ctx, func(tx storage.Tx) error {
		failed = make(map[string]error)
		names := make(map[gatehouse.DeviceID]string, len(ids))
		var targets []gatehouse.DeviceID
		for _, id := range ids {
			d, err := find(tx, id)
			if errors.Is(err, storage.ErrNotFound) {
				failed[id] = err
				continue
			}
			if err != nil {
				return err
			}
			names[d.ID] = id
			targets = append(targets, d.ID)
		}
		_, rejected, err := s.mdm.Queue(tx, gatehouse.NewCommand{
			UUID: cmd.CommandUUID, RequestType: cmd.Command.RequestType, Plist: cmd.Raw, CreatedBy: "nanomdm", Targets: targets,
		})
		for _, r := range rejected {
			failed[names[r.DeviceID]] = errors.New(r.Reason)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return failed, nil
}

// StoreBootstrapToken implements storage.BootstrapTokenStore.
func (s *NanoStore) StoreBootstrapToken(r *mdm.Request, msg *mdm.SetBootstrapToken) error {
	return s.db.Update(r.Context(), func(tx storage.Tx) error {
		d, err := gatehouse.FindDevice(tx, appleIDOf(r.EnrollID).Device())
		if err != nil {
			return err
		}
		return s.mdm.SetSecret(tx, d.ID, gatehouse.BootstrapToken, msg.BootstrapToken.BootstrapToken)
	})
}

// RetrieveBootstrapToken implements storage.BootstrapTokenStore.
func (s *NanoStore) RetrieveBootstrapToken(r *mdm.Request, _ *mdm.GetBootstrapToken) (token *mdm.BootstrapToken, err error) {
	err = s.db.View(r.Context(), func(tx storage.Tx) error {
		d, err := gatehouse.FindDevice(tx, appleIDOf(r.EnrollID).Device())
		if err != nil {
			return err
		}
		b, err := s.mdm.Secret(tx, d.ID, gatehouse.BootstrapToken)
		if len(b) > 0 {
			token = &mdm.BootstrapToken{BootstrapToken: b}
		}
		return err
	})
	return token, err
}

// RetrievePushInfo implements storage.PushStore. Only what is enrolled is pushed to.
func (s *NanoStore) RetrievePushInfo(ctx context.Context, ids []string) (infos map[string]*mdm.Push, err error) {
	err = s.db.View(ctx, func(tx storage.Tx) error {
		infos = make(map[string]*mdm.Push, len(ids))
		for _, id := range ids {
			d, err := find(tx, id)
			if errors.Is(err, storage.ErrNotFound) || err == nil && (!d.Live() || d.Push == nil) {
				continue
			}
			if err != nil {
				return err
			}
			infos[id] = &mdm.Push{Topic: d.Push.Topic, Token: d.Push.Token, PushMagic: d.Push.Magic}
		}
		return nil
	})
	return infos, err
}

// StorePushCert implements storage.PushCertStorer.
func (s *NanoStore) StorePushCert(ctx context.Context, pemCert, pemKey []byte) error {
	return s.db.Update(ctx, func(tx storage.Tx) error {
		rec, err := s.certs.Put(tx, append(append(pemCert[:len(pemCert):len(pemCert)], '\n'), pemKey...))
		if err != nil {
			return err
		}
		n, err := storings.Get(tx, rec.Topic)
		if err != nil && !errors.Is(err, storage.ErrNotFound) {
			return err
		}
		return storings.Put(tx, storing{Topic: rec.Topic, Times: n.Times + 1})
	})
}

// storing is how often NanoMDM has stored the push certificate of a topic: to it that makes
// another one, also when it is the same, which to us changes nothing.
type storing struct {
	Topic string `json:"topic"`
	Times int    `json:"times"`
}

var storings = storage.NewCollection("nanomdm_push_certificates", 1, func(s storing) string { return s.Topic })

// staleToken names what rec is now.
func staleToken(tx storage.Tx, rec apns.Certificate) (string, error) {
	n, err := storings.Get(tx, rec.Topic)
	if err != nil && !errors.Is(err, storage.ErrNotFound) {
		return "", err
	}
	return fmt.Sprintf("%d.%d", rec.Revision, n.Times), nil
}

// RetrievePushCert implements storage.PushCertStore.
func (s *NanoStore) RetrievePushCert(ctx context.Context, topic string) (cert *tls.Certificate, token string, err error) {
	err = s.db.View(ctx, func(tx storage.Tx) error {
		c, rec, err := s.certs.TLS(tx, topic)
		if err != nil {
			return err
		}
		cert = &c
		token, err = staleToken(tx, rec)
		return err
	})
	if err != nil {
		return nil, "", err
	}
	return cert, token, nil
}

// IsPushCertStale implements storage.PushCertStore.
func (s *NanoStore) IsPushCertStale(ctx context.Context, topic, token string) (stale bool, err error) {
	err = s.db.View(ctx, func(tx storage.Tx) error {
		rec, err := s.certs.Get(tx, topic)
		if err != nil {
			return err
		}
		now, err := staleToken(tx, rec)
		stale = token != now
		return err
	})
	return stale, err
}

// association is which certificate NanoMDM's certauth saw with which enrollment.
type association struct {
	Hash string `json:"hash"`
	ID   string `json:"id"`
}

const associationsByID = "id"

var associations = storage.NewCollection("nanomdm_certificates", 1,
	func(a association) string { return a.Hash },
	storage.Index[association]{Name: associationsByID, Unique: true, Values: func(a association) []string { return []string{a.ID} }},
)

// HasCertHash implements storage.CertAuthStore.
func (s *NanoStore) HasCertHash(r *mdm.Request, hash string) (has bool, err error) {
	err = s.db.View(r.Context(), func(tx storage.Tx) error {
		has, err = associations.Has(tx, hash)
		return err
	})
	return has, err
}

// EnrollmentHasCertHash implements storage.CertAuthStore.
func (s *NanoStore) EnrollmentHasCertHash(r *mdm.Request, _ string) (has bool, err error) {
	err = s.db.View(r.Context(), func(tx storage.Tx) error {
		_, err := associations.One(tx, associationsByID, r.ID)
		has = err == nil
		if errors.Is(err, storage.ErrNotFound) {
			return nil
		}
		return err
	})
	return has, err
}

// IsCertHashAssociated implements storage.CertAuthStore.
func (s *NanoStore) IsCertHashAssociated(r *mdm.Request, hash string) (is bool, err error) {
	id, err := s.EnrollmentFromHash(r.Context(), hash)
	return id != "" && id == r.ID, err
}

// AssociateCertHash implements storage.CertAuthStore. One certificate belongs to
// one enrollment, however many ask at once: a second one is refused.
func (s *NanoStore) AssociateCertHash(r *mdm.Request, hash string) error {
	return s.db.Update(r.Context(), func(tx storage.Tx) error {
		a, err := associations.Get(tx, hash)
		switch {
		case err == nil && a.ID != r.ID:
			return fmt.Errorf("certificate of another enrollment: %w", storage.ErrExists)
		case err == nil:
			return nil
		case !errors.Is(err, storage.ErrNotFound):
			return err
		}
		old, err := associations.One(tx, associationsByID, r.ID)
		if err == nil {
			err = associations.Delete(tx, old.Hash)
		}
		if err != nil && !errors.Is(err, storage.ErrNotFound) {
			return err
		}
		return associations.Put(tx, association{Hash: hash, ID: r.ID})
	})
}

// EnrollmentFromHash implements storage.CertAuthRetriever.
func (s *NanoStore) EnrollmentFromHash(ctx context.Context, hash string) (id string, err error) {
	err = s.db.View(ctx, func(tx storage.Tx) error {
		a, err := associations.Get(tx, hash)
		if errors.Is(err, storage.ErrNotFound) {
			return nil
		}
		id = a.ID
		return err
	})
	return id, err
}

// RetrieveMigrationCheckins implements storage.StoreMigrator: what every enrolled
// device would say if it enrolled again, devices before their users.
func (s *NanoStore) RetrieveMigrationCheckins(ctx context.Context, out chan<- any) error {
	var messages []any
	for page, err := range s.pages(ctx) {
		if err != nil {
			return err
		}
		messages = messages[:0]
		err = s.db.View(ctx, func(tx storage.Tx) error {
			messages = messages[:0]
			for _, d := range page {
				if d.ParentID != "" || !d.Live() {
					continue
				}
				channels, err := gatehouse.WithUserChannels(tx, d.Device)
				if err != nil {
					return err
				}
				for _, c := range channels {
					messages = append(messages, checkins(c)...)
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		for _, m := range messages { // outside the transaction: the receiver may be slow
			select {
			case out <- m:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
	return nil
}

func (s *NanoStore) pages(ctx context.Context) iter.Seq2[[]gatehouse.Overview, error] {
	return func(yield func([]gatehouse.Overview, error) bool) {
		cursor := ""
		for {
			page, next, err := s.mdm.Devices(ctx, cursor, 500)
			if !yield(page, err) || err != nil || next == "" {
				return
			}
			cursor = next
		}
	}
}

// checkins are the messages that bring an enrollment to where d is.
func checkins(d gatehouse.Device) []any {
	if !d.Live() || d.Push == nil {
		return nil
	}
	e := mdm.Enrollment{UDID: d.UDID, EnrollmentID: d.EnrollmentID, UserShortName: d.UserShortName, UserLongName: d.UserLongName}
	if d.UDID != "" {
		e.UserID = d.UserID
	} else {
		e.EnrollmentUserID = d.UserID
	}
	token := &mdm.TokenUpdate{Enrollment: e, Push: mdm.Push{Topic: d.Push.Topic, Token: d.Push.Token, PushMagic: d.Push.Magic}}
	token.MessageType.MessageType = "TokenUpdate"
	if d.ParentID != "" {
		return []any{token}
	}
	auth := &mdm.Authenticate{Enrollment: e, Topic: d.Push.Topic, SerialNumber: d.SerialNumber}
	auth.MessageType.MessageType = "Authenticate"
	return []any{auth, token}
}
