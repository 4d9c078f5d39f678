package depot

import (
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"fmt"
	"iter"
	"strings"
	"time"

	"github.com/gatehouse-mdm/gatehouse/storage"
)

var (
	// ErrBound means that a certificate belongs to another device already.
	ErrBound = errors.New("certificate is bound to another device")

	// ErrReason means that a reason for a revocation is none of RFC 5280's, or one
	// that we don't use.
	ErrReason = errors.New("unknown revocation reason")
)

// Serial is a serial number in lower-case hexadecimal, without leading zeros. Of a
// certificate that is not ours it is what [ExternalSerial] says.
type Serial string

// SerialOf returns the serial number of cert.
func SerialOf(cert *x509.Certificate) Serial { return Serial(cert.SerialNumber.Text(16)) }

// Fingerprint is the SHA-256 of a certificate's DER in lower-case hexadecimal.
type Fingerprint string

// FingerprintOf returns the fingerprint of cert.
func FingerprintOf(cert *x509.Certificate) Fingerprint { return fingerprint(cert.Raw) }

func fingerprint(der []byte) Fingerprint {
	sum := sha256.Sum256(der)
	return Fingerprint(hex.EncodeToString(sum[:]))
}

// Certificate is the record of one issued certificate.
type Certificate struct {
	Fingerprint   Fingerprint `json:"fingerprint"`
	Serial        Serial      `json:"serial"`
	Authority     string      `json:"authority"`        // "identity", "root" or "payload"; ExternalAuthority or AdoptedAuthority if it is not ours
	Issuer        string      `json:"issuer,omitempty"` // ID of the authority; empty if it is not ours
	Subject       string      `json:"subject"`
	SANs          []string    `json:"sans,omitempty"` // as names return them
	Template      string      `json:"template"`
	PublicKeyHash string      `json:"public_key_hash"`

	// Who it was issued for. DeviceID of an identity is known at issuance in a
	// renewal, and else when the device first shows the certificate.
	AttemptID string `json:"attempt_id,omitempty"`
	DeviceID  string `json:"device_id,omitempty"`
	User      string `json:"user,omitempty"`

	Door      string `json:"door,omitempty"`      // by which it was asked for: "scep", "est", "csr", "manual", "proxy"; empty for our own
	Requester string `json:"requester,omitempty"` // who asked for it, if not the device itself
	Replaces  Serial `json:"replaces,omitempty"`  // the certificate that it renews

	// ReplacedBy is the certificate that renewed it at its holder's wish.
	ReplacedBy Fingerprint `json:"replaced_by,omitempty"`

	IssuedAt  time.Time `json:"issued_at"`
	NotBefore time.Time `json:"not_before"`
	NotAfter  time.Time `json:"not_after"`
	RenewAt   time.Time `json:"renew_at,omitzero"` // zero: not to be renewed

	RevokedAt        time.Time `json:"revoked_at,omitzero"`
	RevocationReason string    `json:"revocation_reason,omitempty"` // RFC 5280, 5.3.1, by name
}

// ExternalAuthority stands in [Certificate.Authority] of a certificate that somebody
// else's authority issued, and that came here through us.
const ExternalAuthority = "external"

// Identity says that a device speaks for itself by the certificate: it is from our identity
// CA, or was adopted.
func (c Certificate) Identity() bool {
	return c.Authority == identityName || c.Authority == AdoptedAuthority
}

// foreign says that no authority of ours issued the certificate.
func (c Certificate) foreign() bool {
	return c.Authority == ExternalAuthority || c.Authority == AdoptedAuthority
}

// derBucket holds each certificate's DER by its fingerprint, beside the records,
// which are read on every check-in.
const derBucket = "certificate_der"

var certificates = storage.NewCollection("certificate", 1,
	func(c Certificate) string { return string(c.Fingerprint) },
	storage.Index[Certificate]{Name: "serial", Unique: true, Values: func(c Certificate) []string { return []string{string(c.Serial)} }},
	storage.Index[Certificate]{Name: "device", Values: func(c Certificate) []string { return some(c.DeviceID) }},
	storage.Index[Certificate]{Name: "attempt", Values: func(c Certificate) []string { return some(c.AttemptID) }},
	storage.Index[Certificate]{Name: "key", Values: func(c Certificate) []string { return []string{c.PublicKeyHash} }},
	// Two identities must not share a key, also if two requests come at once.
	storage.Index[Certificate]{Name: "identity_key", Unique: true, Values: func(c Certificate) []string {
		if c.Authority != identityName {
			return nil
		}
		return []string{c.PublicKeyHash}
	}},
	// What belongs to a user and not to a device, to end with the user.
	storage.Index[Certificate]{Name: "user", Values: func(c Certificate) []string {
		if c.DeviceID != "" || c.AttemptID != "" {
			return nil
		}
		return some(userKey(c.User))
	}},
	storage.Index[Certificate]{Name: "renew", Values: func(c Certificate) []string {
		if c.RenewAt.IsZero() || c.DeviceID == "" || !c.RevokedAt.IsZero() {
			return nil
		}
		return []string{renewKey(c.RenewAt)}
	}},
)

// userKey is what a user's logins are compared by.
func userKey(login string) string { return strings.ToLower(strings.TrimSpace(login)) }

func some(s string) []string {
	if s == "" {
		return nil
	}
	return []string{s}
}

// renewKey is a time as text that sorts as the times do.
func renewKey(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// Record stores cert as issued, with its DER. It fills in what cert says of
// itself; the rest of c is the caller's. A certificate of that serial number that
// is there already is an error that wraps storage.ErrExists.
func (d *Depot) Record(tx storage.Tx, cert *x509.Certificate, c Certificate) error {
	hash, err := PublicKeyHash(cert.PublicKey)
	if err != nil {
		return err
	}
	c.Fingerprint = FingerprintOf(cert)
	c.Serial = SerialOf(cert)
	if c.foreign() {
		c.Serial = ExternalSerial(cert)
	}
	c.Subject = SubjectOf(cert)
	c.SANs = AlternativeNames(cert)
	if a := d.Authority(hex.EncodeToString(cert.AuthorityKeyId[:min(8, len(cert.AuthorityKeyId))])); a != nil && !c.foreign() {
		c.Issuer = a.id
		if c.Template != responderTemplate {
			tx.Prefetch(authorities.Read(a.recordKey()))
			if err := mayRecord(tx, a); err != nil {
				return fmt.Errorf("record certificate: %w", err)
			}
		}
	}
	c.PublicKeyHash = hash
	c.NotBefore = cert.NotBefore.UTC()
	c.NotAfter = cert.NotAfter.UTC()
	if c.IssuedAt.IsZero() {
		c.IssuedAt = d.now().UTC()
	}
	if err := d.meet(tx, c); err != nil {
		return err
	}
	if err := certificates.Create(tx, c); err != nil {
		return fmt.Errorf("record certificate: %w", err)
	}
	if err := tx.Put(derBucket, []byte(c.Fingerprint), cert.Raw); err != nil {
		return fmt.Errorf("record certificate: %w", err)
	}
	return nil
}

// SubjectOf returns the subject of cert as text (RFC 4514): all of it, also where a
// type is there twice, of which crypto/x509 keeps one.
func SubjectOf(cert *x509.Certificate) string {
	var rdns pkix.RDNSequence
	if rest, err := asn1.Unmarshal(cert.RawSubject, &rdns); err != nil || len(rest) > 0 {
		return cert.Subject.String()
	}
	return rdns.String()
}

// Get returns the record of fp, or an error that wraps storage.ErrNotFound.
func (d *Depot) Get(tx storage.Tx, fp Fingerprint) (Certificate, error) {
	return certificates.Get(tx, string(fp))
}

// Read is what [storage.Tx.Prefetch] takes for Get.
func (d *Depot) Read(fp Fingerprint) storage.Read { return certificates.Read(string(fp)) }

// BySerial is Get by serial number.
func (d *Depot) BySerial(tx storage.Tx, s Serial) (Certificate, error) {
	return certificates.One(tx, "serial", string(s))
}

// ByDevice yields the certificates that are bound to a device.
func (d *Depot) ByDevice(tx storage.Tx, deviceID string) iter.Seq2[Certificate, error] {
	return certificates.Lookup(tx, "device", deviceID)
}

// PayloadsByDevice yields the certificates that are bound to a device, but for its
// identities.
func (d *Depot) PayloadsByDevice(tx storage.Tx, deviceID string) iter.Seq2[Certificate, error] {
	return func(yield func(Certificate, error) bool) {
		for c, err := range d.ByDevice(tx, deviceID) {
			if err == nil && c.Identity() {
				continue
			}
			if !yield(c, err) {
				return
			}
		}
	}
}

// ByAttempt yields the certificates that were issued for an enrollment attempt.
func (d *Depot) ByAttempt(tx storage.Tx, attemptID string) iter.Seq2[Certificate, error] {
	return certificates.Lookup(tx, "attempt", attemptID)
}

// ByUser yields the certificates that belong to a user, in any case, and to no device.
func (d *Depot) ByUser(tx storage.Tx, user string) iter.Seq2[Certificate, error] {
	return certificates.Lookup(tx, "user", userKey(user))
}

// ByPublicKey yields the certificates of one key, by its PublicKeyHash.
func (d *Depot) ByPublicKey(tx storage.Tx, hash string) iter.Seq2[Certificate, error] {
	return certificates.Lookup(tx, "key", hash)
}

// DER returns the certificate itself.
func (d *Depot) DER(tx storage.Tx, fp Fingerprint) ([]byte, error) {
	der, err := tx.Get(derBucket, []byte(fp))
	if err != nil {
		return nil, fmt.Errorf("certificate %s: %w", fp, err)
	}
	return der, nil
}

// Bind makes a certificate a device's, for good. Binding it to the same device
// again changes nothing; to another is ErrBound.
func (d *Depot) Bind(tx storage.Tx, fp Fingerprint, deviceID string) error {
	if deviceID == "" {
		return errors.New("bind certificate: no device")
	}
	c, err := certificates.Get(tx, string(fp))
	if err != nil {
		return err
	}
	switch c.DeviceID {
	case deviceID:
		return nil
	case "":
		c.DeviceID = deviceID
		return certificates.Put(tx, c)
	}
	return fmt.Errorf("bind certificate %s: %w", c.Serial, ErrBound)
}

// Replace notes that a certificate was renewed at its holder's wish, and by which, and
// returns the one that was noted before, empty if there was none.
func (d *Depot) Replace(tx storage.Tx, fp, by Fingerprint) (before Fingerprint, err error) {
	c, err := certificates.Get(tx, string(fp))
	if err != nil {
		return "", err
	}
	before, c.ReplacedBy = c.ReplacedBy, by
	return before, certificates.Put(tx, c)
}

// meeting is a record that two transactions write which must not both be right: who
// issues to a holder, and who ends that; or who issues for the same key. Each sees what
// the other did, or is run again.
type meeting struct {
	Name  string `json:"name"`
	Count int    `json:"count"`
}

var meetings = storage.NewCollection("certificate_meeting", 1, func(m meeting) string { return m.Name })

func touch(tx storage.Tx, kind, name string) error {
	m, err := meetings.Get(tx, string(storage.Key(kind, name)))
	if err != nil && !errors.Is(err, storage.ErrNotFound) {
		return err
	}
	m.Name = string(storage.Key(kind, name))
	m.Count++
	return meetings.Put(tx, m)
}

// meet is what issuing c has to write beside.
func (d *Depot) meet(tx storage.Tx, c Certificate) error {
	if c.Authority != identityName { // which has a unique index for it
		if err := touch(tx, "key", c.PublicKeyHash); err != nil {
			return err
		}
	}
	switch {
	case c.DeviceID != "":
		return touch(tx, "device", c.DeviceID)
	case c.User != "":
		return MeetUser(tx, c.User)
	}
	return nil
}

// MeetUser is for a transaction that relies on a user's being allowed something, and for
// the one that ends that: they don't miss each other.
func MeetUser(tx storage.Tx, user string) error {
	return touch(tx, "user", userKey(user))
}

// Revoke revokes a certificate for a reason named as in RFC 5280. The first
// revocation counts; another one changes nothing.
func (d *Depot) Revoke(tx storage.Tx, fp Fingerprint, reason string, at time.Time) error {
	if _, ok := ReasonCode(reason); !ok {
		return fmt.Errorf("%w: %q", ErrReason, reason)
	}
	c, err := certificates.Get(tx, string(fp))
	if err != nil {
		return err
	}
	if c.Template == tlsTemplate {
		if err := tx.Notify(tlsTopic); err != nil {
			return err
		}
	}
	return d.revoke(tx, c, reason, at)
}

// RevokeDevice revokes all certificates that are bound to a device.
func (d *Depot) RevokeDevice(tx storage.Tx, deviceID, reason string, at time.Time) error {
	if _, ok := ReasonCode(reason); !ok {
		return fmt.Errorf("%w: %q", ErrReason, reason)
	}
	if err := touch(tx, "device", deviceID); err != nil {
		return err
	}
	return d.revokeAll(tx, d.ByDevice(tx, deviceID), reason, at)
}

// RevokePayloads is RevokeDevice for a device that stays: its identities go on.
func (d *Depot) RevokePayloads(tx storage.Tx, deviceID, reason string, at time.Time) error {
	if _, ok := ReasonCode(reason); !ok {
		return fmt.Errorf("%w: %q", ErrReason, reason)
	}
	if err := touch(tx, "device", deviceID); err != nil {
		return err
	}
	return d.revokeAll(tx, d.PayloadsByDevice(tx, deviceID), reason, at)
}

// RevokeUser revokes all certificates that belong to a user and to no device.
func (d *Depot) RevokeUser(tx storage.Tx, user, reason string, at time.Time) error {
	if _, ok := ReasonCode(reason); !ok {
		return fmt.Errorf("%w: %q", ErrReason, reason)
	}
	if err := MeetUser(tx, user); err != nil {
		return err
	}
	return d.revokeAll(tx, d.ByUser(tx, user), reason, at)
}

func (d *Depot) revokeAll(tx storage.Tx, which iter.Seq2[Certificate, error], reason string, at time.Time) error {
	var found []Certificate // first found, then changed
	for c, err := range which {
		if err != nil {
			return err
		}
		found = append(found, c)
	}
	for _, c := range found {
		if err := d.revoke(tx, c, reason, at); err != nil {
			return err
		}
	}
	return nil
}

func (d *Depot) revoke(tx storage.Tx, c Certificate, reason string, at time.Time) error {
	if !c.RevokedAt.IsZero() {
		return nil
	}
	c.RevokedAt, c.RevocationReason = at.UTC().Truncate(time.Second), reason
	if err := certificates.Put(tx, c); err != nil {
		return err
	}
	return d.publish(tx, c)
}

// InForce yields the certificates of the authority with an ID, or of all, that are
// neither revoked nor expired, but for those of OCSP signers. It reads all records.
func (d *Depot) InForce(tx storage.Tx, issuer string) iter.Seq2[Certificate, error] {
	now := d.now()
	return func(yield func(Certificate, error) bool) {
		for c, err := range certificates.All(tx, storage.Range{}) {
			if err == nil {
				c.Issuer = d.issuerOf(c)
				if !c.RevokedAt.IsZero() || now.After(c.NotAfter) || c.Template == responderTemplate ||
					c.Issuer == "" || issuer != "" && c.Issuer != issuer {
					continue
				}
			}
			if !yield(c, err) {
				return
			}
		}
	}
}

// IssuerOf returns the ID of the authority that issued c, empty if it is not ours.
func (d *Depot) IssuerOf(c Certificate) string { return d.issuerOf(c) }

// RenewBy makes a certificate due for renewal at a time, if that is before it would be.
func (d *Depot) RenewBy(tx storage.Tx, c Certificate, at time.Time) error {
	if c.RenewAt.IsZero() || !at.Before(c.RenewAt) {
		return nil
	}
	c.RenewAt = at.UTC()
	return certificates.Put(tx, c)
}

// DueForRenewal yields bound, unrevoked certificates whose RenewAt is before the
// given time, the longest overdue first; limit 0 means all.
func (d *Depot) DueForRenewal(tx storage.Tx, before time.Time, limit int) iter.Seq2[Certificate, error] {
	return certificates.Ascend(tx, "renew", "", renewKey(before), limit)
}

// Page returns up to limit records and the cursor of the next page, empty on the
// last one.
func (d *Depot) Page(tx storage.Tx, cursor string, limit int) ([]Certificate, string, error) {
	return storage.Page(tx, certificates, cursor, limit)
}
