package issuance

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"

	"github.com/gatehouse-mdm/gatehouse/depot"
	"github.com/gatehouse-mdm/gatehouse/depot/template"
	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/guard"
)

// doorSCEP is the Door of certificates that were asked for by SCEP.
const doorSCEP = "scep"

// IssueSCEP decides on a SCEP request for a certificate of the template with a name,
// and issues it; without a name, the challenge or the certificate that is renewed tells
// the template. The right to one is
//
//   - the one-time challenge in a profile that we made for a device: the certificate
//     says what the template comes to for that device, whatever the request said;
//   - the template's static challenge: it says what the request said, as far as the
//     template leaves it open; where the template points at another server, the request
//     is passed on if it says all that the template does;
//   - the certificate that signed the request, if it is valid, was issued by the same
//     template and is due: the new one says the same. A challenge beside it must be
//     valid, and then decides.
//
// The same request again gets the same certificate. Every refusal is in the audit log.
func (s *Service) IssueSCEP(ctx context.Context, name string, r depot.Request) (*x509.Certificate, error) {
	cert, err := s.issueSCEP(ctx, name, r)
	s.auditSCEP(ctx, doorSCEP, name, r, err)
	return cert, err
}

// refused says whether err is a decision, and not a failure of ours.
func refused(err error) bool {
	var field *template.FieldError
	var wrong *depot.FieldError
	return errors.As(err, &field) || errors.As(err, &wrong) || errors.Is(err, guard.ErrCertificate) || errors.Is(err, ErrChallenge) || errors.Is(err, ErrKeyReused) || errors.Is(err, ErrRenewal) ||
		errors.Is(err, depot.ErrQuota) || errors.Is(err, ErrForbidden) || errors.Is(err, ErrExternal) || errors.Is(err, depot.ErrUpstreamRefused) || errors.Is(err, storage.ErrNotFound)
}

func (s *Service) issueSCEP(ctx context.Context, name string, r depot.Request) (*x509.Certificate, error) {
	if err := s.vet(ctx, name, r); err != nil {
		return nil, err
	}
	return s.issue(ctx, requestKey(name, r), r, func(tx storage.Tx) (grant, error) {
		return s.grantSCEP(tx, name, r)
	})
}

// vet looks at a challenge that may be a guess at a static one, and counts it if it is
// wrong. It looks at one at a time from each network, so that many at once don't slip
// through before the first is counted.
func (s *Service) vet(ctx context.Context, name string, r depot.Request) error {
	if r.Challenge == "" {
		return nil
	}
	var static bool
	err := s.db.View(ctx, func(tx storage.Tx) error {
		static = false
		_, err := s.openChallenge(tx, r.Challenge)
		if err == nil || !errors.Is(err, ErrChallenge) {
			return err
		}
		candidates, err := s.staticTemplates(tx, name)
		static = len(candidates) > 0
		return err
	})
	if err != nil || !static {
		return err
	}
	stripe := &s.guessing[digest([]byte(guessKey(name, r.Peer)))[0]%64]
	stripe.Lock()
	defer stripe.Unlock()
	err = s.db.View(ctx, func(tx storage.Tx) error {
		_, _, guessed, err := s.staticTemplate(tx, name, r)
		if err == nil && guessed {
			err = errGuess
		}
		return err
	})
	if errors.Is(err, errGuess) {
		return errors.Join(err, s.countGuess(ctx, name, r.Peer))
	}
	return err
}

// errGuess means that a challenge may have been a guess at a static one.
var errGuess = fmt.Errorf("%w, and it is not the static one", ErrChallenge)

// grantSCEP finds what gives r its right to a certificate.
func (s *Service) grantSCEP(tx storage.Tx, name string, r depot.Request) (grant, error) {
	if r.Challenge == "" {
		return s.grantRenewal(tx, name, r)
	}
	c, err := s.openChallenge(tx, r.Challenge)
	switch {
	case err == nil && name != "" && c.Template != name:
		return grant{}, fmt.Errorf("%w: it is for another template", ErrChallenge)
	case err == nil && c.Upstream != "":
		return grant{}, fmt.Errorf("%w: it is a token, which belongs into the address", ErrChallenge)
	case err == nil:
		return s.grantDevice(tx, c)
	case !errors.Is(err, ErrChallenge):
		return grant{}, err
	}
	// A device's own challenge can't be guessed, and is not held up by who tries.
	t, found, guessed, staticErr := s.staticTemplate(tx, name, r)
	switch {
	case staticErr != nil:
		return grant{}, staticErr
	case guessed:
		return grant{}, errGuess
	case !found:
		return grant{}, err
	}
	return s.grantStatic(t, r)
}

// grantDevice is the right by a one-time challenge.
func (s *Service) grantDevice(tx storage.Tx, c challenge) (grant, error) {
	t, err := s.templates.Get(tx, c.Template)
	if err != nil {
		return grant{}, fmt.Errorf("%w: its template is gone: %w", ErrChallenge, err)
	}
	d, err := mdm.GetDevice(tx, c.DeviceID)
	if errors.Is(err, storage.ErrNotFound) {
		return grant{}, fmt.Errorf("%w: its device was deleted", ErrChallenge)
	}
	if err != nil {
		return grant{}, err
	}
	if !d.Live() {
		return grant{}, fmt.Errorf("%w: its device is %s", ErrChallenge, d.State)
	}
	if off, err := s.suspended(tx, d); err != nil || off {
		return grant{}, cmp.Or(err, fmt.Errorf("%w: the user of its device is disabled", ErrChallenge))
	}
	a, err := assignments.Get(tx, assignmentKey(c.Template, c.DeviceID))
	if errors.Is(err, storage.ErrNotFound) || err == nil && a.try(c.Try) < 0 {
		return grant{}, fmt.Errorf("%w: another one has taken its place", ErrChallenge)
	}
	if err != nil {
		return grant{}, err
	}
	if t.Issuer == template.External || (t.Issuer == template.Proxy) != (c.Upstream != "") {
		return grant{}, ErrExternal
	}
	g, err := s.forDevice(tx, t, d)
	if err != nil {
		return grant{}, err
	}
	g.record.Door = doorSCEP
	g.challenge, g.assignment = &c, &a
	return g, nil
}

// forDevice is what t comes to for d.
func (s *Service) forDevice(tx storage.Tx, t template.Template, d mdm.Device) (grant, error) {
	f, err := s.facts(tx, d, s.profileIdentifier(t.Name))
	if err != nil {
		return grant{}, err
	}
	e, err := t.Expand(f)
	if err != nil {
		return grant{}, err
	}
	user := d.User
	if d.ParentID != "" {
		parent, err := mdm.GetDevice(tx, d.ParentID)
		if err != nil {
			return grant{}, err
		}
		user = parent.User
	}
	return grant{
		template: t, contents: contents(t, e, s.now()),
		record: depot.Certificate{DeviceID: string(d.ID), User: user},
	}, nil
}

// staticTemplate returns the template with the static challenge of r: the one with a
// name, or any. guessed says that there are static challenges and that it is none.
func (s *Service) staticTemplate(tx storage.Tx, name string, r depot.Request) (t template.Template, found, guessed bool, err error) {
	if err := s.mayGuess(tx, name, r.Peer); err != nil {
		return template.Template{}, false, false, err
	}
	candidates, err := s.staticTemplates(tx, name)
	if err != nil || len(candidates) == 0 {
		return template.Template{}, false, false, err
	}
	for _, candidate := range candidates { // all of them: the time it takes must not tell which
		if candidate.Challenge.Is(r.Challenge) && !found {
			t, found = candidate, true
		}
	}
	return t, found, !found, nil
}

func (s *Service) staticTemplates(tx storage.Tx, name string) (list []template.Template, err error) {
	if name != "" {
		t, err := s.templates.Get(tx, name)
		if err != nil || !isStatic(t) {
			return nil, err
		}
		return []template.Template{t}, nil
	}
	for cursor := ""; ; {
		var page []template.Template
		if page, cursor, err = s.templates.Page(tx, cursor, 100); err != nil {
			return nil, err
		}
		list = append(list, slices.DeleteFunc(page, func(t template.Template) bool { return !isStatic(t) })...)
		if cursor == "" {
			return list, nil
		}
	}
}

func isStatic(t template.Template) bool {
	return t.ChallengeType == template.Static && t.Issuer != template.External
}

// grantStatic is the right by a template's static challenge: whoever knows it may ask
// for any name that the template leaves open.
func (s *Service) grantStatic(t template.Template, r depot.Request) (grant, error) {
	asked, err := guard.AskedBy(r.CSR)
	if err != nil {
		return grant{}, err
	}
	e, err := t.Match(asked)
	if err != nil {
		return grant{}, err
	}
	g := grant{
		template: t, contents: contents(t, e, s.now()), record: depot.Certificate{Door: doorSCEP}, sameKey: true,
		quota: &quota{counterKey("static", t.Name, network(r.Peer)), maxStatic, quotaWindow},
	}
	if t.Issuer == template.Proxy {
		err = proxied(&g, r)
	}
	return g, err
}

// grantRenewal is the right by the certificate that signed r.
func (s *Service) grantRenewal(tx storage.Tx, name string, r depot.Request) (grant, error) {
	old, err := s.depot.Get(tx, depot.FingerprintOf(r.Signer))
	if errors.Is(err, storage.ErrNotFound) {
		if r.Renewal {
			return grant{}, fmt.Errorf("%w: it is unknown", ErrRenewal)
		}
		return grant{}, fmt.Errorf("%w: there is none", ErrChallenge)
	}
	if err != nil {
		return grant{}, err
	}
	if name != "" && old.Template != name {
		return grant{}, fmt.Errorf("%w: it is of another template", ErrRenewal)
	}
	g, err := s.renewal(tx, old, false)
	if err != nil {
		return grant{}, err
	}
	asked, err := guard.AskedBy(r.CSR)
	if err != nil {
		return grant{}, err
	}
	if err := sameNames(asked, r.Signer, false); err != nil {
		return grant{}, err
	}
	g.record.Door = doorSCEP
	g.sameKey = old.DeviceID == "" // a device of ours makes a new one
	return g, nil
}

// renewal is the right of whoever holds old to another one that says the same: once it
// is due, or at any time.
func (s *Service) renewal(tx storage.Tx, old depot.Certificate, anytime bool) (grant, error) {
	now := s.now()
	switch {
	case old.Authority != s.depot.Payload().Name():
		return grant{}, fmt.Errorf("%w: it is no payload certificate", ErrRenewal)
	case !old.RevokedAt.IsZero():
		return grant{}, fmt.Errorf("%w: it is revoked", ErrRenewal)
	case now.After(old.NotAfter) || now.Before(old.NotBefore):
		return grant{}, fmt.Errorf("%w: it is outside its validity", ErrRenewal)
	}
	t, err := s.templateOf(tx, old)
	if err != nil {
		return grant{}, err
	}
	if t.Issuer != template.Builtin {
		return grant{}, ErrExternal
	}
	if due := t.RenewAt(old.NotBefore, old.NotAfter); !anytime && now.Before(due) {
		return grant{}, fmt.Errorf("%w: it is not due before %s", ErrRenewal, until(due))
	}
	der, err := s.depot.DER(tx, old.Fingerprint)
	if err != nil {
		return grant{}, err
	}
	cert, err := guard.ParseCertificate(der)
	if err != nil {
		return grant{}, err
	}
	g := grant{template: t, old: &old, record: depot.Certificate{
		DeviceID: old.DeviceID, User: old.User, Requester: old.Requester,
	}}
	if g.contents, err = s.again(t, cert); err != nil {
		return grant{}, err
	}
	if err := s.holderStays(tx, old); err != nil || old.DeviceID == "" {
		return g, err
	}
	a, err := assignments.Get(tx, assignmentKey(t.Name, mdm.DeviceID(old.DeviceID)))
	if err == nil && a.State != Ended {
		g.assignment = &a
	}
	if errors.Is(err, storage.ErrNotFound) {
		err = nil
	}
	return g, err
}

// templateOf returns what old was issued by.
func (s *Service) templateOf(tx storage.Tx, old depot.Certificate) (template.Template, error) {
	if old.Template == SelfService {
		return selfService(), nil
	}
	t, err := s.templates.Get(tx, old.Template)
	if errors.Is(err, storage.ErrNotFound) {
		return template.Template{}, fmt.Errorf("%w: its template is gone", ErrRenewal)
	}
	return t, err
}

// holderStays says whether whom a certificate is for may still have one. Their end
// revokes it, but in a transaction that another may not have seen.
func (s *Service) holderStays(tx storage.Tx, c depot.Certificate) error {
	if c.DeviceID != "" {
		d, err := mdm.GetDevice(tx, mdm.DeviceID(c.DeviceID))
		if errors.Is(err, storage.ErrNotFound) {
			return fmt.Errorf("%w: its device was deleted", ErrRenewal)
		}
		if err == nil && !d.Live() {
			return fmt.Errorf("%w: its device is %s", ErrRenewal, d.State)
		}
		if err != nil {
			return err
		}
		off, err := s.suspended(tx, d)
		if err == nil && off {
			err = fmt.Errorf("%w: the user of its device is disabled", ErrRenewal)
		}
		return err
	}
	if c.User == "" {
		return nil
	}
	u, err := identity.UserByLogin(tx, c.User)
	if errors.Is(err, storage.ErrNotFound) || err == nil && u.Disabled {
		return fmt.Errorf("%w: its user is disabled or gone", ErrRenewal)
	}
	return err
}

// again is what cert says, for another term of t and with its usages.
func (s *Service) again(t template.Template, cert *x509.Certificate) (depot.Contents, error) {
	now := s.now()
	c := depot.Contents{
		Name: t.Name, RawSubject: cert.RawSubject,
		NotBefore: now.Add(-clockSkew), NotAfter: now.Add(t.ValidFor()),
		EmailAddresses: cert.EmailAddresses, DNSNames: cert.DNSNames, IPs: cert.IPAddresses,
		UserPrincipalNames: depot.UserPrincipalNames(cert.Extensions),
	}
	for _, u := range cert.URIs {
		c.URIs = append(c.URIs, u.String())
	}
	var err error
	c.KeyUsage, c.ExtKeyUsage, c.ExtKeyUsageOIDs, err = t.Usages()
	return c, err
}
