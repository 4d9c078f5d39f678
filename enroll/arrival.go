package enroll

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/gatehouse-mdm/gatehouse/depot"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/event"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

// arrival is a device that another MDM server had: what it was told of by [Service.TakeOver],
// and what the device still holds of that server. It goes on by the certificate and the profile
// that it has; when it has been heard here it is renewed, and has a certificate of ours under
// the profile's old name.
type arrival struct {
	DeviceID mdm.DeviceID `json:"device_id"`
	Source   string       `json:"source"`

	// Expected is the fingerprint of the certificate by which the other server knew the device;
	// empty: it did not tell, and the first one that may claims the device.
	Expected string        `json:"expected,omitempty"`
	Profile  FormerProfile `json:"profile"`

	TakenAt   time.Time `json:"taken_at"`
	ArrivedAt time.Time `json:"arrived_at,omitzero"` // when it was first heard here; zero: it is waited for
}

// FormerProfile is what the enrollment profile of another server says that must never change.
type FormerProfile struct {
	// Identifier is its PayloadIdentifier; empty: nobody knows, and so the device is sent no
	// other profile, and keeps the certificate that it has.
	Identifier string `json:"identifier,omitempty"`
	// DeviceOnly says that the profile lacks com.apple.mdm.per-user-connections.
	DeviceOnly bool `json:"device_only,omitempty"`
}

const (
	arrivalsExpected = "expected"
	arrivalsWaiting  = "waiting"
)

var arrivals = storage.NewCollection("enroll.arrival", 1, func(a arrival) string { return string(a.DeviceID) },
	// One certificate is never expected of two devices.
	storage.Index[arrival]{Name: arrivalsExpected, Unique: true, Values: func(a arrival) []string {
		if a.Expected == "" {
			return nil
		}
		return []string{a.Expected}
	}},
	storage.Index[arrival]{Name: arrivalsWaiting, Values: func(a arrival) []string {
		if !a.ArrivedAt.IsZero() {
			return nil
		}
		return []string{"waiting"}
	}},
)

// Why a certificate that nobody knows is not taken for that of a device from elsewhere. The
// device learns no more than of any other stranger.
var (
	errNotAwaited       = errors.New("no such device is awaited from another server")
	errOtherCertificate = errors.New("the other server knew the device by another certificate")
	errNoPredecessor    = errors.New("no authority whose devices come here has issued the certificate")
	errClaimsOver       = errors.New("the time is over in which a certificate of that authority may claim a device")
	errClaimInvalid     = errors.New("the certificate or its authority is not valid now")
	errNotForClients    = errors.New("the certificate is not for clients")
	errNamesAnother     = errors.New("the certificate names another device")
)

// Arrive looks whether the sender of a message, whose certificate is none of ours, is a device
// that another server had, and takes it in if so: from then on its certificate is known, as its
// alone. The signature of the message must have been checked. A certificate of our own
// authorities, even one that was never used, is never taken for such a one.
//
// A device of which the other server told the certificate is known by that, whatever its dates
// are, since it may be that only the renewal which follows can save it. Any other is claimed by
// the first certificate that is valid, comes from an authority whose claims are open, and names
// no other device.
func (s *Service) Arrive(ctx context.Context, p Peer, id mdm.AppleID) (arrived bool, err error) {
	id = id.Device()
	if p.Certificate == nil || id.Validate() != nil {
		return false, nil
	}
	var d mdm.Device
	var claims bool
	look := func(tx storage.Tx) (a arrival, err error) { // it costs a stranger's message no write
		a, d, arrived, err = s.arriving(tx, p, id)
		claims = a.Expected == ""
		return a, err
	}
	err = s.db.View(ctx, func(tx storage.Tx) error {
		_, err := look(tx)
		return err
	})
	if err == nil && !arrived && claims {
		err = s.namesNoOther(ctx, p.Certificate, d)
	}
	if err == nil && !arrived {
		err = s.db.Update(ctx, func(tx storage.Tx) error {
			a, err := look(tx)
			if err != nil || arrived {
				return err
			}
			return s.takeIn(tx, p, a, d)
		})
		arrived = err == nil
	}
	switch {
	case err == nil:
		if arrived {
			s.log.InfoContext(ctx, "device has arrived from another server", "device", d.ID, "fingerprint", depot.FingerprintOf(p.Certificate))
		}
		return arrived, nil
	case errors.Is(err, errNotAwaited):
		return false, nil
	}
	for _, refusal := range []error{errOtherCertificate, errNoPredecessor, errClaimsOver, errClaimInvalid, errNotForClients, errNamesAnother, depot.ErrBound, storage.ErrExists} {
		if !errors.Is(err, refusal) {
			continue
		}
		s.refusals.Refused(ctx, event.Event{
			Actor: "device:" + string(d.ID), Action: "device.migrated", Outcome: event.Refused, Reason: refusal.Error(), DeviceID: string(d.ID), Peer: p.Address,
			Details: map[string]string{"fingerprint": string(depot.FingerprintOf(p.Certificate)), "issuer": p.Certificate.Issuer.String()},
		})
		return false, nil
	}
	return false, fmt.Errorf("arrive: %w", err)
}

// arriving finds the device that p is by what it says, and judges whether it is. already says
// that it was taken in before, by this certificate.
func (s *Service) arriving(tx storage.Tx, p Peer, id mdm.AppleID) (a arrival, d mdm.Device, already bool, err error) {
	now := s.now()
	if !p.SignedAt.IsZero() && now.Sub(p.SignedAt).Abs() > maxSignatureAge {
		return a, d, false, errNotAwaited
	}
	fp := depot.FingerprintOf(p.Certificate)
	rec, err := s.depot.Get(tx, fp)
	known := err == nil
	if err != nil && !errors.Is(err, storage.ErrNotFound) {
		return a, d, false, err
	}
	if d, err = mdm.FindDevice(tx, id); err == nil {
		a, err = arrivals.Get(tx, string(d.ID))
	}
	switch {
	case errors.Is(err, storage.ErrNotFound):
		return a, d, false, errNotAwaited
	case err != nil:
		return a, d, false, err
	case known && rec.Authority == depot.AdoptedAuthority && rec.DeviceID == string(d.ID):
		return a, d, true, nil // the same message, or another one, was faster
	case known || !a.ArrivedAt.IsZero():
		return a, d, false, errNotAwaited
	case a.Expected != "" && a.Expected != string(fp):
		return a, d, false, errOtherCertificate
	}
	predecessor, err := s.depot.PredecessorOf(tx, p.Certificate)
	switch {
	case errors.Is(err, storage.ErrNotFound):
		return a, d, false, errNoPredecessor
	case err != nil:
		return a, d, false, err
	case a.Expected != "":
		return a, d, false, nil
	case !now.Before(predecessor.ClaimsUntil):
		return a, d, false, errClaimsOver
	case !forClients(p.Certificate):
		return a, d, false, errNotForClients
	case now.Before(p.Certificate.NotBefore) || now.After(p.Certificate.NotAfter) || now.After(predecessor.NotAfter):
		return a, d, false, errClaimInvalid
	case !d.Live() && d.State != mdm.Pending: // whoever it is, it is to leave
		return a, d, false, errNotAwaited
	}
	// A certificate that another device is known by is no other's.
	if _, err := arrivals.One(tx, arrivalsExpected, string(fp)); !errors.Is(err, storage.ErrNotFound) {
		return a, d, false, errors.Join(errNamesAnother, err)
	}
	return a, d, false, nil
}

// forClients says whether a certificate may be a client's (RFC 5280 section 4.2.1.12): one that
// says nothing of its use may, an authority's may not.
func forClients(cert *x509.Certificate) bool {
	if cert.IsCA {
		return false
	}
	return len(cert.ExtKeyUsage) == 0 && len(cert.UnknownExtKeyUsage) == 0 ||
		slices.Contains(cert.ExtKeyUsage, x509.ExtKeyUsageClientAuth) || slices.Contains(cert.ExtKeyUsage, x509.ExtKeyUsageAny)
}

// namesNoOther refuses a certificate that names another device than d: by UDID, EnrollmentID or
// serial number, in any part of its subject or its alternative names. One that names none says
// nothing about it.
func (s *Service) namesNoOther(ctx context.Context, cert *x509.Certificate, d mdm.Device) error {
	own := []string{d.UDID, d.EnrollmentID, d.SerialNumber}
	for _, name := range deviceNames(cert) {
		if slices.ContainsFunc(own, func(o string) bool { return strings.EqualFold(o, name) }) {
			continue
		}
		if udidShaped.MatchString(name) { // of a device that may not be here yet
			return errNamesAnother
		}
		found, err := s.mdm.Search(ctx, mdm.Query{Text: name}, "", 10)
		if err != nil {
			return err
		}
		for _, o := range found.Devices {
			if o.ID == d.ID || o.ParentID != "" {
				continue
			}
			if strings.EqualFold(o.UDID, name) || strings.EqualFold(o.EnrollmentID, name) || strings.EqualFold(o.SerialNumber, name) {
				return errNamesAnother
			}
		}
	}
	return nil
}

// udidShaped are the forms of a UDID: of old iPhones and iPads, of newer ones, and of Macs,
// which an EnrollmentID may have, too.
var udidShaped = regexp.MustCompile(`^(?i:[0-9a-f]{40}|[0-9a-f]{8}-[0-9a-f]{16}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12})$`)

// maxDeviceNames is how many words of a certificate are looked up: each of them is a search.
const maxDeviceNames = 16

// deviceNames returns what in a certificate could be an identifier or a serial number.
func deviceNames(cert *x509.Certificate) (names []string) {
	texts := slices.Concat(cert.DNSNames, cert.EmailAddresses)
	for _, a := range cert.Subject.Names {
		if text, ok := a.Value.(string); ok {
			texts = append(texts, text)
		}
	}
	for _, u := range cert.URIs {
		texts = append(texts, u.String())
	}
	for _, text := range texts {
		words := strings.FieldsFunc(text, func(r rune) bool {
			return r != '-' && (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z')
		})
		for _, w := range words {
			if len(w) >= 8 && len(w) <= 64 && strings.ContainsAny(w, "0123456789") && !slices.Contains(names, w) && len(names) < maxDeviceNames {
				names = append(names, w)
			}
		}
	}
	return names
}

// takeIn makes the certificate of p the device's own, and due for renewal. That of a device
// that was removed here before it came is known from then on, too, and tells it to leave.
func (s *Service) takeIn(tx storage.Tx, p Peer, a arrival, d mdm.Device) error {
	now := s.now().UTC()
	fp := depot.FingerprintOf(p.Certificate)
	rec := depot.Certificate{Template: identityTemplate, DeviceID: string(d.ID), User: d.User}
	if a.renewable(d) {
		rec.RenewAt = now
	}
	if err := s.depot.Adopt(tx, p.Certificate, rec); err != nil {
		return err
	}
	action := "device.migrated"
	if d.State == mdm.Unenrolled || d.State == mdm.Blocked {
		action = "device.turned_away"
		if err := s.depot.Revoke(tx, fp, reasonCessation, now); err != nil {
			return err
		}
	} else {
		d.Identity = string(fp)
		if d.Live() {
			if err := s.inventory.Enrolled(tx, d); err != nil {
				return err
			}
		}
	}
	a.ArrivedAt = now
	if err := arrivals.Put(tx, a); err != nil {
		return err
	}
	err := event.Record(tx, event.Event{
		At: now, Actor: "device:" + string(d.ID), Action: action, DeviceID: string(d.ID), User: d.User, Peer: p.Address,
		Certificate: string(depot.ExternalSerial(p.Certificate)),
		Details:     map[string]string{"source": a.Source, "fingerprint": string(fp), "issuer": p.Certificate.Issuer.String()},
	})
	if err != nil {
		return err
	}
	return mdm.PutDevice(tx, d) // whoever removes the device at the same moment meets it
}

// renewable says whether a profile of ours can take the place of the one that d has.
func (a arrival) renewable(d mdm.Device) bool {
	return a.Profile.Identifier != "" && d.Type == mdm.TypeDevice && d.AccessRights&3 == 3 && strings.HasPrefix(d.Topic, "com.apple.mgmt.")
}

// formerProfile returns what another server's profile said that a device enrolled with, or what
// ours say.
func (s *Service) formerProfile(tx storage.Tx, id mdm.DeviceID) (FormerProfile, error) {
	a, err := arrivals.Get(tx, string(id))
	if errors.Is(err, storage.ErrNotFound) {
		return FormerProfile{Identifier: s.ProfileIdentifier()}, nil
	}
	return a.Profile, err
}
