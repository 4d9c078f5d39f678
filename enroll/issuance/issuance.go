// Package issuance decides who gets which payload certificate: one policy behind all
// doors. A right to a certificate is a challenge that was put into a device's profile,
// the static challenge of a template, the certificate that is to be replaced, or an
// API token. What the certificate says follows from the template and from what we
// know of the device and its user; of a request, at most what its template leaves
// open.
//
// It also brings certificates to devices by themselves, and again before they end:
// see [Assignment]. Identities, by which devices speak MDM, are package enroll's.
package issuance

import (
	"bytes"
	"context"
	"crypto/rsa"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"reflect"
	"sync"
	"time"

	"github.com/gatehouse-mdm/gatehouse/depot"
	"github.com/gatehouse-mdm/gatehouse/depot/template"
	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/event"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

// Errors of issuance. A SCEP client learns only that it was refused; they are for the
// log and the audit log.
var (
	ErrChallenge = errors.New("the challenge is missing, unknown, expired or used")
	ErrKeyReused = errors.New("the public key is in use by another certificate")
	ErrRenewal   = errors.New("the certificate may not be renewed")
	ErrForbidden = errors.New("the caller may not ask for this")
	ErrExternal  = errors.New("another authority issues certificates of this template")
)

// Config says what a Service needs: all of it but Organisation and Upstream.
type Config struct {
	DB        storage.DB
	Depot     *depot.Depot
	Templates *template.Service
	MDM       *mdm.Service
	Audit     *event.Recorder
	Sign      func(profile []byte) (signed []byte, err error)

	ServerURL    *url.URL // what devices reach this server by; no path, no query
	Organisation string   // shown on the device

	Upstream Upstream // nil: templates that point at other servers come to nothing

	Log *slog.Logger
	Now func() time.Time
}

// Service issues payload certificates.
type Service struct {
	db        storage.DB
	depot     *depot.Depot
	templates *template.Service
	mdm       *mdm.Service
	audit     *event.Recorder
	sign      func([]byte) ([]byte, error)
	upstream  Upstream
	library   Library

	guessing [64]sync.Mutex // by template and network: see vet

	serverURL    *url.URL
	organisation string

	log *slog.Logger
	now func() time.Time
}

// New returns a Service, or says what c lacks.
func New(c Config) (*Service, error) {
	switch {
	case c.DB == nil || c.Depot == nil || c.Templates == nil || c.MDM == nil || c.Audit == nil || c.Sign == nil:
		return nil, errors.New("issuance: DB, Depot, Templates, MDM, Audit and Sign are required")
	case c.ServerURL == nil || c.Log == nil || c.Now == nil:
		return nil, errors.New("issuance: ServerURL, Log and Now are required")
	}
	s := &Service{
		db: c.DB, depot: c.Depot, templates: c.Templates, mdm: c.MDM, audit: c.Audit, sign: c.Sign, upstream: c.Upstream,
		serverURL: c.ServerURL, organisation: c.Organisation, log: c.Log, now: c.Now,
	}
	s.mdm.OnDelete(s.forget)
	return s, nil
}

// PathSCEP is where a template's requests go, followed by its name. It stands in
// profiles.
const PathSCEP = "/scep/"

// clockSkew is how far a certificate's NotBefore lies in the past, for devices whose
// clock is slow.
const clockSkew = 10 * time.Minute

// grant is the right to one certificate: what it will say, and for whom it is.
type grant struct {
	template template.Template
	contents depot.Contents
	record   depot.Certificate // what is known before it is signed

	challenge  *challenge         // spent with it, if any
	assignment *Assignment        // that it fulfils, if any
	old        *depot.Certificate // that it replaces, if any

	quota *quota // that it counts in; nil: it has none

	// sameKey lets it have a key of which there are certificates already, if those are
	// of the same template and holder.
	sameKey bool
}

// contents returns what a certificate of t says whose variables are replaced.
func contents(t template.Template, e template.Expanded, now time.Time) depot.Contents {
	return depot.Contents{
		Name:               t.Name,
		RawSubject:         e.RawSubject,
		NotBefore:          now.Add(-clockSkew),
		NotAfter:           now.Add(t.ValidFor()),
		KeyUsage:           e.KeyUsage,
		ExtKeyUsage:        e.ExtKeyUsage,
		ExtKeyUsageOIDs:    e.ExtKeyUsageOIDs,
		EmailAddresses:     e.SANs.RFC822Names,
		DNSNames:           e.SANs.DNSNames,
		URIs:               e.SANs.URIs,
		UserPrincipalNames: some(e.SANs.NTPrincipalName),
	}
}

func some(s string) []string {
	if s == "" {
		return nil
	}
	return []string{s}
}

// issue signs and records what decide grants. decide runs at least twice: to know what
// to sign, and again in the transaction that records it, because signing takes
// milliseconds that no transaction should hold the store for. Of several requests with
// one right each may get to the signature, and one further.
//
// key names the request and its exact repetition, which gets the same certificate; an
// empty one is never repeated.
func (s *Service) issue(ctx context.Context, key string, r depot.Request, decide func(tx storage.Tx) (grant, error)) (*x509.Certificate, error) {
	for try := 0; ; try++ {
		cert, err := s.issueOnce(ctx, key, r, decide)
		switch {
		case try < 3 && errors.Is(err, depot.ErrNotActive):
			// Another replica has put another authority in force, a moment ago.
			if err := s.depot.Reload(ctx); err != nil {
				return nil, err
			}
		case try < 3 && errors.Is(err, errChanged):
		default:
			return cert, err
		}
	}
}

// errChanged means that what was signed is not what is granted any more.
var errChanged = fmt.Errorf("the template or its holder has changed meanwhile: %w", storage.ErrUnavailable)

// saysAs says whether two certificates would say the same, but for their dates.
func saysAs(a, b depot.Contents) bool {
	if life := b.NotAfter.Sub(b.NotBefore); life != a.NotAfter.Sub(a.NotBefore) {
		return false
	}
	a.NotBefore, a.NotAfter = b.NotBefore, b.NotAfter
	return reflect.DeepEqual(a, b)
}

func (s *Service) issueOnce(ctx context.Context, key string, r depot.Request, decide func(tx storage.Tx) (grant, error)) (*x509.Certificate, error) {
	var prior *x509.Certificate
	var g grant
	err := s.db.View(ctx, func(tx storage.Tx) (err error) {
		if prior, err = s.issuedBefore(tx, key); err != nil || prior != nil {
			return err
		}
		g, err = s.granted(tx, r, decide)
		return err
	})
	if err != nil || prior != nil {
		return prior, err
	}
	signed := g.contents
	var cert *x509.Certificate
	elsewhere := g.template.Issuer == template.Proxy
	if elsewhere {
		cert, err = s.forward(ctx, key, r, decide)
	} else {
		cert, err = s.depot.Payload().Sign(r.CSR.PublicKey, g.contents)
	}
	if err != nil {
		return nil, fmt.Errorf("issue certificate: %w", err)
	}
	err = s.db.Update(ctx, func(tx storage.Tx) (err error) {
		if prior, err = s.issuedBefore(tx, key); err != nil || prior != nil {
			return err
		}
		if g, err = s.granted(tx, r, decide); err == nil && elsewhere != (g.template.Issuer == template.Proxy) {
			err = ErrExternal // the template has changed meanwhile
		}
		if err == nil && !elsewhere && !saysAs(signed, g.contents) {
			err = errChanged
		}
		if err != nil {
			return err
		}
		return s.record(tx, key, g, cert)
	})
	if err != nil && elsewhere {
		return nil, fmt.Errorf("%w (the other authority has issued %s for it, which nobody gets)", err, depot.ExternalSerial(cert))
	}
	if err != nil || prior != nil {
		return prior, err
	}
	s.log.InfoContext(ctx, "certificate issued", "template", g.template.Name, "serial", depot.SerialOf(cert),
		"device", g.record.DeviceID, "user", g.record.User, "door", g.record.Door)
	return cert, nil
}

func (s *Service) granted(tx storage.Tx, r depot.Request, decide func(tx storage.Tx) (grant, error)) (grant, error) {
	g, err := decide(tx)
	if err != nil {
		return grant{}, err
	}
	// Other types of keys than RSA are as strong at their least.
	if key, ok := r.CSR.PublicKey.(*rsa.PublicKey); ok && key.N.BitLen() < g.template.KeySize {
		return grant{}, &depot.FieldError{Field: "public_key", Reason: fmt.Sprintf("has %d bits, and the template wants %d", key.N.BitLen(), g.template.KeySize)}
	}
	if err := s.within(tx, g.quota); err != nil {
		return grant{}, err
	}
	return g, s.freshKey(tx, r, g)
}

// freshKey refuses a key that any certificate was issued for: two certificates of one
// key revoke badly, and a second one for somebody else's key is a mistake at best.
// Clients other than Apple's keep theirs when they renew; where that is allowed, the
// key is still nobody else's.
func (s *Service) freshKey(tx storage.Tx, r depot.Request, g grant) error {
	hash, err := depot.PublicKeyHash(r.CSR.PublicKey)
	if err != nil {
		return err
	}
	for c, err := range s.depot.ByPublicKey(tx, hash) {
		if err != nil {
			return err
		}
		if g.sameKey && c.DeviceID == g.record.DeviceID && c.User == g.record.User && c.Template == g.template.Name &&
			c.RevocationReason != "keyCompromise" {
			continue
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

// record writes all that follows from issuing cert.
func (s *Service) record(tx storage.Tx, key string, g grant, cert *x509.Certificate) error {
	now := s.now().UTC()
	rec := g.record
	serial := depot.SerialOf(cert)
	rec.Authority, rec.Template, rec.IssuedAt = s.depot.Payload().Name(), g.template.Name, now
	if g.template.Issuer == template.Proxy {
		serial, rec.Authority = depot.ExternalSerial(cert), depot.ExternalAuthority
	}
	if g.old != nil {
		rec.Replaces = g.old.Serial
	}
	if err := s.depot.Record(tx, cert, rec); err != nil {
		return fmt.Errorf("record certificate: %w", err)
	}
	fp := depot.FingerprintOf(cert)
	if g.old != nil {
		if err := s.replaced(tx, *g.old, fp); err != nil {
			return err
		}
	}
	if err := s.spend(tx, g.quota); err != nil {
		return err
	}
	if key != "" {
		if err := answers.Put(tx, answer{Key: key, Fingerprint: fp, ExpiresAt: now.Add(answerLife)}); err != nil {
			return err
		}
	}
	if g.challenge != nil {
		c := *g.challenge
		c.ConsumedAt = now
		if err := challenges.Put(tx, c); err != nil {
			return err
		}
	}
	if g.assignment != nil {
		renewAt := g.template.RenewAt(cert.NotBefore, cert.NotAfter)
		var err error
		if g.challenge != nil {
			err = s.bought(tx, *g.assignment, g.challenge.Try, fp, renewAt)
		} else {
			err = s.renewed(tx, *g.assignment, *g.old, fp, renewAt)
		}
		if err != nil {
			return err
		}
	}
	return event.Record(tx, event.Event{
		At: now, Actor: actorOf(rec), Action: "certificate.issued",
		DeviceID: rec.DeviceID, User: rec.User, Certificate: string(serial), Template: rec.Template,
		Details: details("door", rec.Door, "subject", depot.SubjectOf(cert), "replaces", string(rec.Replaces)),
	})
}

// replaced notes which certificate replaces old, and revokes the one that was to do so
// before, and the one that old has replaced, since old is in use: its holder has two
// that are good at any time, and can't multiply them.
func (s *Service) replaced(tx storage.Tx, old depot.Certificate, by depot.Fingerprint) error {
	now := s.now().UTC()
	earlier, err := s.depot.Replace(tx, old.Fingerprint, by)
	if err != nil {
		return err
	}
	if earlier != "" {
		if err := s.depot.Revoke(tx, earlier, reasonSuperseded, now); err != nil {
			return err
		}
	}
	if old.Replaces == "" {
		return nil
	}
	before, err := s.depot.BySerial(tx, old.Replaces)
	if errors.Is(err, storage.ErrNotFound) || err == nil && before.ReplacedBy != old.Fingerprint {
		return nil
	}
	if err != nil {
		return err
	}
	return s.depot.Revoke(tx, before.Fingerprint, reasonSuperseded, now)
}

// Revocation reasons (RFC 5280, 5.3.1) as issuance uses them.
const reasonSuperseded = "superseded"

func actorOf(c depot.Certificate) string {
	switch {
	case c.Requester != "":
		return c.Requester
	case c.DeviceID != "":
		return "device:" + c.DeviceID
	}
	return c.Door
}

// details makes a map of names and values, without those that are empty.
func details(pairs ...string) map[string]string {
	m := map[string]string{}
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			m[pairs[i]] = pairs[i+1]
		}
	}
	return m
}

// facts returns what is known of a device, or a user channel of one, and its user. id
// is the identifier of the profile that brings the certificate.
func (s *Service) facts(tx storage.Tx, d mdm.Device, id string) (template.Facts, error) {
	device := d
	if d.ParentID != "" {
		var err error
		if device, err = mdm.GetDevice(tx, d.ParentID); err != nil {
			return template.Facts{}, err
		}
	}
	attributes, err := s.mdm.TextAttributes(tx, device.ID)
	if err != nil {
		return template.Facts{}, err
	}
	f := template.Facts{
		DeviceID: string(d.ID), SerialNumber: device.SerialNumber, UDID: device.UDID,
		DeviceName: device.DeviceName, Model: device.Model, OSVersion: device.OSVersion,
		ProfileIdentifier: id,
		Attributes:        attributes,
	}
	// What a Mac's own account is called says nothing of a user: it is up to whoever sits there.
	// Nor does the Managed Apple Account of the device: it is what somebody typed.
	if device.User == "" {
		return f, nil
	}
	u, err := identity.UserByLogin(tx, device.User)
	if errors.Is(err, storage.ErrNotFound) {
		u, err = identity.User{Username: device.User}, nil
		if isAddress(device.User) {
			u.Email = device.User
		}
	}
	if err != nil {
		return template.Facts{}, err
	}
	return ofUser(f, u), nil
}

// suspended says whether the user of a device, or of the device that d is a channel of, is
// disabled. One that we don't know is known elsewhere, or to an administrator.
func (s *Service) suspended(tx storage.Tx, d mdm.Device) (bool, error) {
	if d.ParentID != "" {
		var err error
		if d, err = mdm.GetDevice(tx, d.ParentID); err != nil {
			return false, err
		}
	}
	if d.User == "" {
		return false, nil
	}
	u, err := identity.UserByLogin(tx, d.User)
	if errors.Is(err, storage.ErrNotFound) {
		return false, nil
	}
	return u.Disabled, err
}

const (
	// codeUserDisabled is the Code of a Rejection of a device that is suspended.
	codeUserDisabled = "user_disabled"
	suspendedReason  = "The device’s user is disabled."
)

// requestKey is the same for a request and its exact repetition only. A client that
// keeps its key, and its request, renews by the certificate that it has: each of them
// makes the request another one.
func requestKey(where string, r depot.Request) string {
	renews := ""
	if !bytes.Equal(r.Signer.RawIssuer, r.Signer.RawSubject) { // which is new each time
		renews = string(depot.FingerprintOf(r.Signer))
	}
	return hex.EncodeToString(digest(storage.Key("scep", where, r.TransactionID, r.Challenge, renews), r.CSR.Raw))
}
