package enroll

import (
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/gatehouse-mdm/gatehouse/depot"
	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/event"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

const (
	// identityLife is how long an identity certificate is valid.
	identityLife = 365 * 24 * time.Hour
	// clockSkew is how far a certificate's NotBefore lies in the past, for devices
	// whose clock is slow.
	clockSkew = 10 * time.Minute
	// issuanceLife is how long an identical request gets the identical answer.
	issuanceLife = 24 * time.Hour

	identityTemplate = "identity"
)

// issuance remembers what a request was answered with, because a client that
// lost the answer sends the same request again (RFC 8894, 4.4).
type issuance struct {
	Key         string            `json:"key"`
	Fingerprint depot.Fingerprint `json:"fingerprint"`
	ExpiresAt   time.Time         `json:"expires_at"`
}

var issuances = storage.NewCollection("issuances", 1,
	func(i issuance) string { return i.Key },
	storage.Index[issuance]{Name: byExpiry, Values: func(i issuance) []string {
		return []string{i.ExpiresAt.UTC().Format(time.RFC3339)}
	}},
)

// issuanceKey is the same for a request and its exact repetition only.
func issuanceKey(r depot.Request) string {
	h := sha256.New()
	h.Write(storage.Key(r.TransactionID, r.Challenge))
	h.Write(r.CSR.Raw)
	return hex.EncodeToString(h.Sum(nil))
}

// grant is the right to a certificate: who it will be for. It is for an attempt
// or for a device that renews.
type grant struct {
	challenge *challenge // nil when an old certificate vouches instead
	attempt   Attempt
	link      *Link
	device    *mdm.Device
}

// subject is what the certificate will say, whatever the request said. A CN has
// at most 64 bytes: macOS cuts a longer one without a word.
func (g grant) subject(organisation string) pkix.Name {
	name := pkix.Name{CommonName: g.attempt.ID}
	user := g.attempt.User
	if g.device != nil {
		name.CommonName = string(g.device.ID)
		user = g.device.User
	}
	if organisation != "" && len(organisation) <= 64 {
		name.Organization = []string{organisation}
	}
	if user != "" && len(user) <= 64 {
		name.OrganizationalUnit = []string{user}
	}
	return name
}

// IssueIdentity decides on a request for an MDM identity, and issues it. The
// right to one is a challenge that was handed out in a profile and not spent
// yet, or the valid, bound certificate that signed the request. It spends the
// challenge and the link's use, and records certificate and attempt, in one
// transaction; the same request again gets the same certificate. Its errors wrap
// ErrChallenge, ErrKeyReused, ErrRenewal, ErrUserDisabled, ErrOwnershipOff,
// [identity.ErrMayNotEnroll] or one of the ErrLink errors.
//
// Each certificate, and each refusal with its reason, is in the audit log.
func (s *Service) IssueIdentity(ctx context.Context, r depot.Request) (*x509.Certificate, error) {
	cert, err := s.issueIdentity(ctx, r)
	if errors.Is(err, depot.ErrNotActive) { // another replica has put another authority in force, a moment ago
		if err := s.depot.Reload(ctx); err != nil {
			return nil, err
		}
		cert, err = s.issueIdentity(ctx, r)
	}
	if err != nil && decided(err) {
		s.refusals.Refused(ctx, event.Event{
			Actor: doorSCEP, Action: "certificate.refused", Outcome: event.Refused, Reason: err.Error(),
			Template: identityTemplate, Peer: r.Peer, Details: map[string]string{"transaction": r.TransactionID},
		})
	}
	return cert, err
}

// doorSCEP is by what devices ask for identities.
const doorSCEP = "scep"

// decided says whether err is a decision on a request, and not a failure of ours.
func decided(err error) bool {
	for _, decision := range []error{
		ErrChallenge, ErrKeyReused, ErrRenewal, ErrLinkUnknown, ErrLinkExpired, ErrLinkUsedUp, ErrLinkRevoked, ErrUserDisabled, ErrOwnershipOff,
		identity.ErrMayNotEnroll, storage.ErrNotFound,
	} {
		if errors.Is(err, decision) {
			return true
		}
	}
	return false
}

func (s *Service) issueIdentity(ctx context.Context, r depot.Request) (*x509.Certificate, error) {
	var prior *x509.Certificate
	var g grant
	var organisation string
	err := s.db.View(ctx, func(tx storage.Tx) (err error) {
		if prior, err = s.issuedBefore(tx, r); err != nil || prior != nil {
			return err
		}
		if g, err = s.grant(tx, r); err != nil {
			return err
		}
		organisation, err = s.organisationName(tx)
		return err
	})
	if err != nil || prior != nil {
		return prior, err
	}

	// Signing takes milliseconds that no transaction should hold the store for.
	// Of several requests with one challenge each may get here, and one further.
	now := s.now()
	notBefore, notAfter := now.Add(-clockSkew), now.Add(identityLife)
	cert, err := s.depot.Identity().Sign(r.CSR.PublicKey, depot.Contents{
		Name:        identityTemplate,
		Subject:     g.subject(organisation),
		NotBefore:   notBefore,
		NotAfter:    notAfter,
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err != nil {
		return nil, fmt.Errorf("issue identity: %w", err)
	}

	err = s.db.Update(ctx, func(tx storage.Tx) (err error) {
		if prior, err = s.issuedBefore(tx, r); err != nil || prior != nil {
			return err
		}
		if g, err = s.grant(tx, r); err != nil {
			return err
		}
		return s.recordIdentity(tx, r, g, cert)
	})
	if err != nil || prior != nil {
		return prior, err
	}
	if g.link != nil && g.link.usedUp() {
		s.failLateAttempts(ctx, g.link.ID, ErrLinkUsedUp)
	}
	s.log.InfoContext(ctx, "identity issued", "attempt", g.attempt.ID, "device", g.deviceID(), "fingerprint", depot.FingerprintOf(cert), "renewal", g.device != nil)
	return cert, nil
}

func (g grant) deviceID() mdm.DeviceID {
	if g.device == nil {
		return ""
	}
	return g.device.ID
}

func (s *Service) issuedBefore(tx storage.Tx, r depot.Request) (*x509.Certificate, error) {
	i, err := issuances.Get(tx, issuanceKey(r))
	if errors.Is(err, storage.ErrNotFound) || err == nil && !s.now().Before(i.ExpiresAt) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	rec, err := s.depot.Get(tx, i.Fingerprint)
	if err != nil {
		return nil, err
	}
	if !rec.RevokedAt.IsZero() {
		return nil, fmt.Errorf("%w: its certificate is revoked", ErrChallenge)
	}
	der, err := s.depot.DER(tx, i.Fingerprint)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// grant finds what gives r its right to a certificate.
func (s *Service) grant(tx storage.Tx, r depot.Request) (grant, error) {
	if err := s.freshKey(tx, r); err != nil {
		return grant{}, err
	}
	var g grant
	if r.Challenge != "" {
		c, err := s.openChallenge(tx, r.Challenge)
		if err != nil {
			return grant{}, err
		}
		g.challenge = &c
	}
	signer, err := s.renewingDevice(tx, r)
	if err != nil {
		return grant{}, err
	}
	switch {
	case g.challenge != nil && g.challenge.DeviceID != "":
		return s.grantDevice(tx, g, g.challenge.DeviceID, signer)
	case g.challenge != nil:
		return s.grantAttempt(tx, g)
	case signer != nil:
		g.device = signer
		if rn := signer.Renewal; rn != nil && rn.CommandUUID != "" && rn.Candidate != "" {
			return grant{}, fmt.Errorf("%w: another renewal of the device is under way", ErrRenewal)
		}
		return g, nil
	}
	return grant{}, fmt.Errorf("%w: missing", ErrChallenge)
}

func (s *Service) grantDevice(tx storage.Tx, g grant, id mdm.DeviceID, signer *mdm.Device) (grant, error) {
	d, err := mdm.GetDevice(tx, id)
	if err != nil {
		return grant{}, err
	}
	if signer != nil && signer.ID != d.ID {
		return grant{}, fmt.Errorf("%w: the challenge is another device's", ErrRenewal)
	}
	if !d.Live() || d.Renewal == nil || d.Renewal.Candidate != "" {
		return grant{}, fmt.Errorf("%w: the renewal it was made for is over", ErrChallenge)
	}
	g.device = &d
	return g, nil
}

func (s *Service) grantAttempt(tx storage.Tx, g grant) (_ grant, err error) {
	if g.attempt, err = attempts.Get(tx, g.challenge.AttemptID); err != nil {
		return grant{}, err
	}
	if g.attempt.LinkID != "" {
		l, err := links.Get(tx, g.attempt.LinkID)
		if err != nil {
			return grant{}, err
		}
		// Whoever was renamed while the attempt began was renamed in the link only.
		g.link, g.attempt.User = &l, cmp.Or(l.User, g.attempt.User)
	}
	if g.attempt.User, err = loginOf(tx, g.attempt.User); err != nil {
		return grant{}, err
	}
	settings, err := GetSettings(tx)
	if err != nil {
		return grant{}, err
	}
	if err := g.attempt.mayEnroll(tx, settings); err != nil {
		return grant{}, err
	}
	switch {
	case !g.attempt.open():
		return grant{}, fmt.Errorf("%w: the attempt is %s", ErrChallenge, g.attempt.Stage)
	case g.challenge.Round != g.attempt.Round:
		return grant{}, fmt.Errorf("%w: a newer profile took the place of its profile", ErrChallenge)
	case g.link == nil:
		return g, nil
	case !g.link.RevokedAt.IsZero():
		return grant{}, ErrLinkRevoked
	case g.link.usedUp() && !g.attempt.Spent:
		return grant{}, ErrLinkUsedUp
	}
	return g, nil // a link that has expired since the download still counts: the challenge is short-lived
}

// freshKey refuses a key that any certificate was issued for: a device makes a
// new one for each request, and two certificates of one key revoke badly.
func (s *Service) freshKey(tx storage.Tx, r depot.Request) error {
	hash, err := depot.PublicKeyHash(r.CSR.PublicKey)
	if err != nil {
		return err
	}
	for _, err := range s.depot.ByPublicKey(tx, hash) {
		if err != nil {
			return err
		}
		return ErrKeyReused
	}
	for _, a := range s.depot.Authorities() {
		if h, err := depot.PublicKeyHash(a.Certificate().PublicKey); err != nil || h == hash {
			return errors.Join(ErrKeyReused, err)
		}
	}
	return nil
}

// renewingDevice returns the device whose identity signed r, nil when r was
// signed by its own new key as a first request is.
func (s *Service) renewingDevice(tx storage.Tx, r depot.Request) (*mdm.Device, error) {
	rec, err := s.depot.Get(tx, depot.FingerprintOf(r.Signer))
	if errors.Is(err, storage.ErrNotFound) {
		if r.Renewal {
			return nil, fmt.Errorf("%w: unknown certificate", ErrRenewal)
		}
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	now := s.now()
	switch {
	case !rec.Identity():
		return nil, fmt.Errorf("%w: not an identity certificate", ErrRenewal)
	case !rec.RevokedAt.IsZero():
		return nil, fmt.Errorf("%w: revoked", ErrRenewal)
	case now.After(rec.NotAfter) || now.Before(rec.NotBefore):
		return nil, fmt.Errorf("%w: outside its validity", ErrRenewal)
	case rec.DeviceID == "":
		return nil, fmt.Errorf("%w: bound to no device", ErrRenewal)
	}
	d, err := mdm.GetDevice(tx, mdm.DeviceID(rec.DeviceID))
	if errors.Is(err, storage.ErrNotFound) {
		return nil, fmt.Errorf("%w: its device was deleted", ErrRenewal)
	}
	if err != nil {
		return nil, err
	}
	if !d.Live() || d.Identity != string(rec.Fingerprint) {
		return nil, fmt.Errorf("%w: not the identity of an enrolled device", ErrRenewal)
	}
	return &d, nil
}

// recordIdentity writes all that follows from issuing cert.
func (s *Service) recordIdentity(tx storage.Tx, r depot.Request, g grant, cert *x509.Certificate) error {
	now := s.now().UTC()
	rec := depot.Certificate{
		Authority: s.depot.Identity().Name(), Template: identityTemplate,
		AttemptID: g.attempt.ID, User: g.attempt.User, IssuedAt: now, Door: doorSCEP,
		RenewAt: cert.NotBefore.Add(cert.NotAfter.Sub(cert.NotBefore) * 2 / 3).UTC(),
	}
	if g.device != nil {
		rec.DeviceID, rec.AttemptID, rec.User = string(g.device.ID), g.device.AttemptID, g.device.User
	}
	if err := s.depot.Record(tx, cert, rec); err != nil {
		return fmt.Errorf("record identity: %w", err)
	}
	fp := depot.FingerprintOf(cert)
	if err := issuances.Put(tx, issuance{Key: issuanceKey(r), Fingerprint: fp, ExpiresAt: now.Add(issuanceLife)}); err != nil {
		return err
	}
	if g.challenge != nil {
		c := *g.challenge
		c.ConsumedAt = now
		if err := challenges.Put(tx, c); err != nil {
			return err
		}
	}
	err := event.Record(tx, event.Event{
		At: now, Actor: doorSCEP, Action: "certificate.issued", DeviceID: rec.DeviceID, User: rec.User,
		Certificate: string(depot.SerialOf(cert)), Template: identityTemplate, Peer: r.Peer,
		Details: map[string]string{"attempt": rec.AttemptID, "door": doorSCEP},
	})
	if err != nil {
		return err
	}
	if g.device != nil {
		return s.stageCandidate(tx, *g.device, string(fp))
	}
	spent := g.attempt.Spent
	g.attempt.Spent, g.attempt.ErrorCode = true, ""
	g.attempt.enter(IdentityIssued, now)
	if err := putAttempt(tx, g.attempt); err != nil || spent {
		return err
	}
	return s.spendLink(tx, g.link)
}

// spendLink takes one use off l. With the last one, everyone else who has the
// link's profile in hand is told so.
func (s *Service) spendLink(tx storage.Tx, l *Link) error {
	if l == nil || l.Unlimited {
		return nil
	}
	l.UsesLeft--
	if err := links.Put(tx, *l); err != nil {
		return err
	}
	if l.UsesLeft > 0 {
		return nil
	}
	return s.failOpenAttempts(tx, l.ID, codeOf(ErrLinkUsedUp))
}
