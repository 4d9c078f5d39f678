package enroll

import (
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base32"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/gatehouse-mdm/gatehouse/depot"
	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/enroll/machineinfo"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/event"
	"github.com/gatehouse-mdm/gatehouse/mdm/profile"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

// Paths of over-the-air deliveries.
const (
	PathOTA     = "/enroll/ota/"    // followed by a delivery's token
	PathOTASCEP = PathOTA + "scep"  // where a device gets the certificate of a delivery
	OTAName     = "Gatehouse Setup" // what such a device sends as message= with GetCACert
)

// Refusals of what a device states before it is given its enrollment profile, beside
// ErrSerialNumber, ErrDeviceOwned, ErrUserDisabled, ErrOwnershipOff, [mdm.ErrBlocked],
// [identity.ErrMayNotEnroll] and [machineinfo.ErrNotApple].
var (
	// ErrStatement means that what a device states can't be read, is not signed right, or
	// lacks something.
	ErrStatement = errors.New("what the device states of itself is not valid")
	// ErrDelivery means that the profile that asked the device is good for nothing: it is
	// unknown, expired or used, or another one has taken its place.
	ErrDelivery = errors.New("the profile that asked the device what it is, is not in force")
	// ErrOtherDevice means that the device is not the one that stated what it is.
	ErrOtherDevice = errors.New("the enrollment profile was given to another device")
)

const (
	// deliveryTemplate is what certificates of deliveries are issued by. They prove that
	// the device that has stated what it is has got the answer, and are good for nothing
	// else: they are no identities, no template of this name can be made, and what they may
	// be used for is nothing that anybody else knows.
	deliveryTemplate = "profile service"

	// deliveryLife is how long the certificate of a delivery is valid: the two messages of
	// a device are seconds apart.
	deliveryLife = time.Hour

	// repeatLife is for how long a device that has lost an answer gets it again.
	repeatLife = 10 * time.Minute
)

// forDeliveries is the extended key usage of a delivery's certificate: to sign documents
// (RFC 9336), which comes nearest. Whoever wants a client, a server or a signer of mails
// or programs refuses it, where one without the extension would pass.
var forDeliveries = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 36}

// Stated is what the device of an attempt said of itself before it was given the enrollment
// profile.
type Stated struct {
	UDID         string    `json:"udid"`
	SerialNumber string    `json:"serial_number,omitempty"`
	Product      string    `json:"product,omitempty"` // "iPhone17,2"
	Build        string    `json:"build,omitempty"`   // of its system: "23A300"
	Genuine      bool      `json:"genuine,omitempty"` // Apple vouches for the signature
	At           time.Time `json:"at"`
}

// delivery is one Profile Service payload, and how far the device has come that has it
// (Apple, "Over-the-Air Profile Delivery and Configuration"; PROTOCOL 3.6). Its secrets are
// kept as hashes; the ones that it hands out itself follow from its token and its salt, so
// that the same question has the same answer and neither device nor database knows them.
type delivery struct {
	Token     string    `json:"token"`
	Challenge string    `json:"challenge"`
	AttemptID string    `json:"attempt_id"`
	Round     int       `json:"round,omitempty"` // of the attempt
	ExpiresAt time.Time `json:"expires_at"`

	// Phase 2: the device has stated what it is.
	Salt     []byte            `json:"salt,omitempty"`
	Stated   *Stated           `json:"stated,omitempty"`
	StatedBy depot.Fingerprint `json:"stated_by,omitempty"` // of the identity that Apple built in
	SCEP     string            `json:"scep,omitempty"`      // challenge for its certificate

	// Phase 3: it has the certificate, and has signed by it.
	Certificate depot.Fingerprint `json:"certificate,omitempty"`
	DeliveredAt time.Time         `json:"delivered_at,omitzero"`
}

const deliveriesBySCEP = "scep"

var deliveries = storage.NewCollection("enroll.deliveries", 1,
	func(d delivery) string { return d.Token },
	storage.Index[delivery]{Name: byExpiry, Values: func(d delivery) []string {
		return []string{d.ExpiresAt.UTC().Format(time.RFC3339)}
	}},
	storage.Index[delivery]{Name: deliveriesBySCEP, Unique: true, Values: func(d delivery) []string {
		if d.SCEP == "" {
			return nil
		}
		return []string{d.SCEP}
	}},
)

// secret is what the delivery hands out for a purpose.
func (d delivery) secret(token, purpose string) string {
	h := hmac.New(sha256.New, []byte(token))
	h.Write(storage.Key(purpose, string(d.Salt)))
	return base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(h.Sum(nil)[:20])
}

// newDelivery makes a delivery for an attempt, with what goes into its payload.
func (s *Service) newDelivery(attemptID string) (d delivery, token, challenge string) {
	token, challenge = rand.Text(), rand.Text()
	return delivery{
		Token: hashSecret(token), Challenge: hashSecret(challenge), AttemptID: attemptID,
		ExpiresAt: s.now().UTC().Add(challengeLife),
	}, token, challenge
}

// signedService makes the payload that asks a device what it is.
func (s *Service) signedService(token, challenge, organisation string) ([]byte, error) {
	plain, err := profile.Service{
		Identifier:   profile.ServiceIdentifier(s.serverURL.Hostname()),
		PayloadUUID:  mdm.NewUUID(),
		DisplayName:  "Device management: first step",
		Organization: organisation,
		Description:  "Tells " + s.serverURL.Hostname() + " which device this is, and gets its enrollment profile.",
		URL:          s.serverURL.JoinPath(PathOTA, token).String(),
		Challenge:    challenge,
		Attributes: []string{
			profile.AttributeUDID, profile.AttributeSerialNumber, profile.AttributeProduct, profile.AttributeVersion,
		},
	}.Encode()
	if err != nil {
		return nil, err
	}
	return s.sign(plain)
}

// signedStep makes the profile that a device gets for its first statement: one certificate.
func (s *Service) signedStep(a Attempt, challenge, organisation string) ([]byte, error) {
	authority := s.depot.Payload()
	plain, err := profile.Credential{
		Identifier:   profile.ServiceIdentifier(s.serverURL.Hostname()) + ".certificate",
		DisplayName:  "Device management: second step",
		Organization: organisation,
		Scope:        profile.ScopeUser, // as the enrollment profile that follows
		SCEP: profile.SCEP{
			PayloadUUID: mdm.NewUUID(),
			URL:         s.serverURL.JoinPath(PathOTASCEP).String(),
			Name:        SCEPName(OTAName, authority),
			Subject:     rdns(grant{attempt: a}.subject(organisation)),
			Challenge:   challenge,
			CA:          authority.Certificate(),
		},
	}.Encode()
	if err != nil {
		return nil, err
	}
	return s.sign(plain)
}

// Deliver answers what a device states to PathOTA: at first, signed by the identity that
// Apple built into it, by a profile that brings it a certificate; then, signed by that
// certificate, by the enrollment profile of its attempt. A device that has lost an answer and
// asks again has it again for some minutes. peer is the network address that it came from,
// for the audit log.
//
// What is wrong with the device stands in the attempt, too, since the person sees little
// more of an error than that there was one. Errors wrap ErrStatement, ErrDelivery,
// ErrSerialNumber, ErrDeviceOwned, [mdm.ErrBlocked], [machineinfo.ErrNotApple],
// ErrUserDisabled, ErrOwnershipOff, [identity.ErrMayNotEnroll], ErrNotReady or one of the ErrLink errors.
func (s *Service) Deliver(ctx context.Context, token, peer string, body []byte) (signed []byte, err error) {
	var d delivery
	err = s.db.View(ctx, func(tx storage.Tx) error {
		d, err = deliveries.Get(tx, hashSecret(token))
		return err
	})
	if errors.Is(err, storage.ErrNotFound) {
		err = fmt.Errorf("%w: unknown", ErrDelivery)
	}
	if err != nil {
		return nil, fmt.Errorf("over-the-air delivery: %w", err)
	}
	var m machineinfo.Message
	if m, err = machineinfo.Parse(body); err != nil {
		err = fmt.Errorf("%w: %w", ErrStatement, err)
	} else {
		signed, err = s.deliver(ctx, token, m)
	}
	if errors.Is(err, storage.ErrNotFound) {
		err = fmt.Errorf("%w: its attempt is gone", ErrDelivery)
	}
	if err != nil {
		s.refuseDelivery(ctx, d, peer, m.Info, err)
		return nil, fmt.Errorf("over-the-air delivery: %w", err)
	}
	return signed, nil
}

func (s *Service) deliver(ctx context.Context, token string, m machineinfo.Message) ([]byte, error) {
	vouched := s.deviceCAs.Vouch(m.Signer) // before the transaction: it takes a while
	signer := depot.FingerprintOf(m.Signer)
	fresh := make([]byte, 16)
	_, _ = rand.Read(fresh)

	var a Attempt
	var d delivery
	var last bool // it is the statement that the enrollment profile follows
	var check SignatureCheck
	var secret, organisation string
	err := s.db.Update(ctx, func(tx storage.Tx) (err error) {
		if d, err = deliveries.Get(tx, hashSecret(token)); err != nil {
			return err
		}
		if a, err = attempts.Get(tx, d.AttemptID); err != nil {
			return err
		}
		settings, err := GetSettings(tx)
		if err != nil {
			return err
		}
		if err := s.inForce(d, a); err != nil {
			return err
		}
		if err := s.mayHaveProfile(tx, a, settings); err != nil {
			return err
		}
		// A link that has expired since the download still counts: the delivery is short-lived.
		if err := s.linkServes(tx, a); err != nil && !errors.Is(err, ErrLinkExpired) {
			return err
		}
		repeated := !d.DeliveredAt.IsZero()
		check, organisation = settings.DeviceSignature, cmp.Or(settings.Organisation.Name, s.organisation)
		rec, err := s.depot.Get(tx, signer)
		if last = err == nil; last {
			err = s.delivered(tx, &d, m, rec)
		} else if errors.Is(err, storage.ErrNotFound) {
			err = s.stated(&d, m, signer, check, vouched)
		}
		if err != nil {
			return err
		}
		if err := s.admit(tx, &a, *d.Stated); err != nil {
			return err
		}
		a.ErrorCode = ""
		if a.Stated != nil && a.Stated.UDID != d.Stated.UDID {
			a.Round++ // what was given to the other device is good for nothing now
		}
		a.Stated = d.Stated
		switch {
		case last:
			secret = d.secret(token, "enrollment")
			if !repeated { // else it is the answer of before, whatever the settings say now
				err = s.offer(tx, &a, settings, challenge{Hash: hashSecret(secret), AttemptID: a.ID, ExpiresAt: s.now().UTC().Add(challengeLife)})
			}
		case d.SCEP == "":
			d.Salt = fresh
			d.SCEP = hashSecret(d.secret(token, "scep"))
		}
		if err != nil {
			return err
		}
		d.Round = a.Round
		if err := deliveries.Put(tx, d); err != nil {
			return err
		}
		return putAttempt(tx, a)
	})
	if err != nil {
		return nil, err
	}
	if last {
		s.log.InfoContext(ctx, "enrollment profile handed out", "attempt", a.ID, "link", a.LinkID, "udid", d.Stated.UDID)
		s.warnUnwakeable(ctx, a)
		return s.signedProfile(ctx, profileFor{
			organisation: organisation, subject: grant{attempt: a}.subject(organisation), challenge: secret, topic: a.Topic, accessRights: a.AccessRights,
		})
	}
	if check != SignatureOff && vouched != nil {
		s.log.WarnContext(ctx, "nobody vouches for a device", "attempt", a.ID, "udid", d.Stated.UDID, "err", vouched)
	}
	s.log.InfoContext(ctx, "device stated what it is", "attempt", a.ID, "udid", d.Stated.UDID, "serial", d.Stated.SerialNumber, "product", d.Stated.Product, "build", d.Stated.Build, "known", a.Before != nil)
	return s.signedStep(a, d.secret(token, "scep"), organisation)
}

// inForce says whether the device may go on that has d.
func (s *Service) inForce(d delivery, a Attempt) error {
	switch {
	case !s.now().Before(d.ExpiresAt):
		return fmt.Errorf("%w: expired", ErrDelivery)
	case a.Stage != ProfileDownloaded:
		return fmt.Errorf("%w: the attempt is %s", ErrDelivery, a.Stage)
	case d.Round != a.Round:
		return fmt.Errorf("%w: a newer profile took its place", ErrDelivery)
	}
	return nil
}

// stated takes the first statement of a device (phase 2).
func (s *Service) stated(d *delivery, m machineinfo.Message, signer depot.Fingerprint, check SignatureCheck, vouched error) error {
	now := s.now().UTC()
	if !d.challenges(m.Challenge) {
		return fmt.Errorf("%w: its challenge is another one", ErrDelivery)
	}
	if err := (mdm.AppleID{UDID: m.UDID}).Validate(); err != nil {
		return fmt.Errorf("%w: %w", ErrStatement, err)
	}
	if check == SignatureRequire && vouched != nil {
		return vouched
	}
	if d.Stated != nil {
		switch {
		case d.StatedBy != signer || d.Stated.UDID != m.UDID:
			return fmt.Errorf("%w: another device has used it", ErrDelivery)
		case d.Certificate != "" || now.Sub(d.Stated.At) > repeatLife:
			return fmt.Errorf("%w: used", ErrDelivery)
		}
		return nil
	}
	d.StatedBy = signer
	d.Stated = &Stated{
		UDID: m.UDID, SerialNumber: normalSerialNumber(mdm.Clamp(m.SerialNumber)), Product: mdm.Clamp(m.Product), Build: mdm.Clamp(m.Build),
		Genuine: check != SignatureOff && vouched == nil, At: now,
	}
	return nil
}

// challenges says whether secret is d's challenge.
func (d delivery) challenges(secret string) bool {
	return subtle.ConstantTimeCompare([]byte(hashSecret(secret)), []byte(d.Challenge)) == 1
}

// delivered takes the second statement, by a certificate of ours (phase 3). It says what the
// first one did, as far as the device says it again.
func (s *Service) delivered(tx storage.Tx, d *delivery, m machineinfo.Message, rec depot.Certificate) error {
	now := s.now().UTC()
	switch {
	case rec.Template != deliveryTemplate || rec.Fingerprint != d.Certificate:
		return fmt.Errorf("%w: it is signed by a certificate that was not issued for it", ErrStatement)
	case now.Before(rec.NotBefore) || now.After(rec.NotAfter):
		return fmt.Errorf("%w: its certificate is outside its validity", ErrDelivery)
	case m.Challenge != "" && !d.challenges(m.Challenge):
		return fmt.Errorf("%w: its challenge is another one", ErrDelivery)
	case m.UDID != "" && m.UDID != d.Stated.UDID,
		m.SerialNumber != "" && normalSerialNumber(m.SerialNumber) != d.Stated.SerialNumber:
		return fmt.Errorf("%w: it is another device's than the first one", ErrStatement)
	case !d.DeliveredAt.IsZero():
		if now.Sub(d.DeliveredAt) > repeatLife {
			return fmt.Errorf("%w: used", ErrDelivery)
		}
		return nil
	case !rec.RevokedAt.IsZero():
		return fmt.Errorf("%w: its certificate is revoked", ErrDelivery)
	}
	d.DeliveredAt = now
	// It has done its work.
	if err := s.tellRevoked(tx, one(rec), reasonCessation, ourselves); err != nil {
		return err
	}
	return s.depot.Revoke(tx, rec.Fingerprint, reasonCessation, now)
}

// admit says whether the device that stated st may enrol by a, as Authenticate will once
// more, and notes what it was before.
func (s *Service) admit(tx storage.Tx, a *Attempt, st Stated) error {
	if a.LinkID != "" {
		l, err := links.Get(tx, a.LinkID)
		if err != nil {
			return err
		}
		if !l.Admits(st.SerialNumber) {
			return ErrSerialNumber
		}
	}
	a.Before = nil
	d, err := mdm.FindDevice(tx, mdm.AppleID{UDID: st.UDID})
	if errors.Is(err, storage.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := mayBeginAgain(tx, d, *a); err != nil {
		return err
	}
	a.Before = before(d)
	return nil
}

// before is what d was, if it has ever been enrolled.
func before(d mdm.Device) *Before {
	if d.EnrolledAt.IsZero() {
		return nil
	}
	return &Before{DeviceName: d.DeviceName, EnrolledAt: d.EnrolledAt}
}

// sameDevice refuses a device that is not the one that stated what it is: somebody else
// has the enrollment profile.
func sameDevice(a Attempt, m AuthenticateMessage) error {
	if a.Stated != nil && !strings.EqualFold(a.Stated.UDID, m.ID.UDID) {
		return ErrOtherDevice
	}
	return nil
}

// final are the refusals that end an attempt: no other profile would help.
var final = []error{ErrSerialNumber, ErrDeviceOwned, ErrUserDisabled, ErrOwnershipOff, mdm.ErrBlocked, identity.ErrMayNotEnroll}

// refuseDelivery tells the attempt and the audit log why a device was turned away. The
// refusal itself changed nothing, so this is a transaction of its own.
func (s *Service) refuseDelivery(ctx context.Context, d delivery, peer string, stated machineinfo.Info, why error) {
	code := codeOf(why)
	if code == codeInternal {
		return // ours to repair
	}
	var user string
	err := s.db.Update(ctx, func(tx storage.Tx) error {
		a, err := attempts.Get(tx, d.AttemptID)
		if err != nil {
			return err
		}
		user = a.User
		if a.Stage != ProfileDownloaded || a.Round != d.Round {
			return nil // it has gone on without that device
		}
		if over, err := outrun(tx, a, d, why); err != nil || over {
			return err
		}
		for _, reason := range final {
			if errors.Is(why, reason) {
				return s.failAttempt(tx, a, code)
			}
		}
		a.ErrorCode = code
		return putAttempt(tx, a)
	})
	if err != nil && !errors.Is(err, storage.ErrNotFound) {
		s.log.WarnContext(ctx, "refusal not noted in its attempt", "attempt", d.AttemptID, "err", err)
	}
	s.tellRefused(ctx, event.Event{User: user, Peer: peer, Reason: why.Error()}, d.AttemptID, code, stated.UDID, stated.SerialNumber)
}

// outrun says whether the person has a later profile than d, of which it says nothing what
// is wrong with d: because a device has come with that one, or because what is wrong is that
// d is an old one.
func outrun(tx storage.Tx, a Attempt, d delivery, why error) (bool, error) {
	if a.Delivery == "" || a.Delivery == d.Token {
		return false, nil
	}
	if errors.Is(why, ErrDelivery) {
		return true, nil
	}
	latest, err := deliveries.Get(tx, a.Delivery)
	if errors.Is(err, storage.ErrNotFound) {
		return false, nil
	}
	return latest.Stated != nil, err
}

// tellRefused writes into the audit log that a device was turned away that has a profile.
func (s *Service) tellRefused(ctx context.Context, e event.Event, attemptID, code, udid, serial string) {
	e.Actor, e.Action, e.Outcome = "device", "device.refused", event.Refused
	e.Details = map[string]string{"attempt": attemptID, "code": code}
	for key, value := range map[string]string{"udid": udid, "serial_number": serial} {
		if value != "" {
			e.Details[key] = value
		}
	}
	s.refusals.Refused(ctx, e)
}

// IssueDelivery decides on a SCEP request for the certificate of a delivery, and issues it:
// short-lived, for that attempt, and for nothing but the second statement. The right to it
// is the challenge in the answer to the first. The same request again gets the same
// certificate. Its errors wrap ErrChallenge, ErrKeyReused or ErrDelivery.
func (s *Service) IssueDelivery(ctx context.Context, r depot.Request) (*x509.Certificate, error) {
	cert, err := s.issueDelivery(ctx, r)
	if errors.Is(err, depot.ErrNotActive) { // another replica has put another authority in force, a moment ago
		if err := s.depot.Reload(ctx); err != nil {
			return nil, err
		}
		cert, err = s.issueDelivery(ctx, r)
	}
	if err != nil && (decided(err) || errors.Is(err, ErrDelivery)) {
		s.refusals.Refused(ctx, event.Event{
			Actor: doorSCEP, Action: "certificate.refused", Outcome: event.Refused, Reason: err.Error(),
			Template: deliveryTemplate, Peer: r.Peer, Details: map[string]string{"transaction": r.TransactionID},
		})
	}
	return cert, err
}

func (s *Service) issueDelivery(ctx context.Context, r depot.Request) (*x509.Certificate, error) {
	var prior *x509.Certificate
	var d delivery
	var a Attempt
	var organisation string
	decide := func(tx storage.Tx) (err error) {
		if prior, err = s.issuedBefore(tx, r); err != nil || prior != nil {
			return err
		}
		if d, a, err = s.grantDelivery(tx, r); err != nil {
			return err
		}
		organisation, err = s.organisationName(tx)
		return err
	}
	r.TransactionID = deliveryTemplate + " " + r.TransactionID // the same request elsewhere is not remembered
	if err := s.db.View(ctx, decide); err != nil || prior != nil {
		return prior, err
	}
	now := s.now().UTC()
	cert, err := s.depot.Payload().Sign(r.CSR.PublicKey, depot.Contents{
		Name:            deliveryTemplate,
		Subject:         grant{attempt: a}.subject(organisation),
		NotBefore:       now.Add(-clockSkew),
		NotAfter:        now.Add(deliveryLife),
		KeyUsage:        x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
		ExtKeyUsageOIDs: []asn1.ObjectIdentifier{forDeliveries},
	})
	if err != nil {
		return nil, fmt.Errorf("issue certificate of a delivery: %w", err)
	}
	fp := depot.FingerprintOf(cert)
	err = s.db.Update(ctx, func(tx storage.Tx) error {
		if err := decide(tx); err != nil || prior != nil {
			return err
		}
		err := s.depot.Record(tx, cert, depot.Certificate{
			Authority: s.depot.Payload().Name(), Template: deliveryTemplate, AttemptID: a.ID, User: a.User, IssuedAt: now, Door: doorSCEP,
		})
		if err != nil {
			return err
		}
		if err := issuances.Put(tx, issuance{Key: issuanceKey(r), Fingerprint: fp, ExpiresAt: now.Add(deliveryLife)}); err != nil {
			return err
		}
		d.Certificate = fp
		if err := deliveries.Put(tx, d); err != nil {
			return err
		}
		return event.Record(tx, event.Event{
			At: now, Actor: doorSCEP, Action: "certificate.issued", User: a.User, Certificate: string(depot.SerialOf(cert)),
			Template: deliveryTemplate, Peer: r.Peer, Details: map[string]string{"attempt": a.ID, "door": doorSCEP},
		})
	})
	if err != nil || prior != nil {
		return prior, err
	}
	s.log.InfoContext(ctx, "certificate of a delivery issued", "attempt", a.ID, "fingerprint", fp)
	return cert, nil
}

func (s *Service) grantDelivery(tx storage.Tx, r depot.Request) (d delivery, a Attempt, err error) {
	if err := s.freshKey(tx, r); err != nil {
		return delivery{}, Attempt{}, err
	}
	if r.Challenge == "" {
		return delivery{}, Attempt{}, fmt.Errorf("%w: missing", ErrChallenge)
	}
	d, err = deliveries.One(tx, deliveriesBySCEP, hashSecret(r.Challenge))
	if errors.Is(err, storage.ErrNotFound) {
		return delivery{}, Attempt{}, fmt.Errorf("%w: unknown", ErrChallenge)
	}
	if err != nil {
		return delivery{}, Attempt{}, err
	}
	if d.Certificate != "" {
		return delivery{}, Attempt{}, fmt.Errorf("%w: used", ErrChallenge)
	}
	if a, err = attempts.Get(tx, d.AttemptID); err != nil {
		return delivery{}, Attempt{}, err
	}
	return d, a, s.inForce(d, a)
}
