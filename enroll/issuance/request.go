package issuance

import (
	"cmp"
	"context"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/gatehouse-mdm/gatehouse/depot"
	"github.com/gatehouse-mdm/gatehouse/depot/template"
	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/event"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/guard"
)

const (
	// SelfService stands as the template of certificates that were asked for without
	// one. No template can have this name.
	SelfService = "(self-service)"

	// selfServiceLife is how long those last. They end with their user or device
	// before, if that ends.
	selfServiceLife = "365d"

	// deviceScheme is that of the URI by which a certificate names a device:
	// "mdm-device://" and its ID.
	deviceScheme = "mdm-device://"
)

// selfService is what a template would say of certificates without one.
func selfService() template.Template {
	t := template.New(SelfService)
	t.Validity = selfServiceLife
	return t
}

// IssueCSR decides on a certificate request of p, and issues what it asks for.
//
// With the scope cert:self and no template, p gets what belongs to the user that p acts
// for: a certificate for a device of the user, which the request names by the URI
// "mdm-device://ID" or by its ID as CN, or one for the user, whose CN is the full name;
// it is for client authentication. With cert:any, p gets any names. A template, which
// needs cert:any, says what it must be.
//
// Errors are a *depot.FieldError, wrap ErrForbidden, ErrKeyReused, depot.ErrQuota or
// storage.ErrNotFound, if there is no such template. Every refusal is in the audit log.
func (s *Service) IssueCSR(ctx context.Context, p identity.Principal, a depot.Application) (*x509.Certificate, error) {
	cert, err := s.issueCSR(ctx, p, a)
	return cert, s.answered(ctx, err, event.Event{Actor: p.String(), User: p.User, Template: a.Template, Peer: a.Peer, Details: details("door", a.Door)})
}

// answered records a refusal, and makes err what doors understand.
func (s *Service) answered(ctx context.Context, err error, e event.Event) error {
	if err == nil {
		return nil
	}
	var field *template.FieldError
	if errors.As(err, &field) {
		err = doorError(field)
	}
	var wrong *depot.FieldError
	if errors.As(err, &wrong) || errors.Is(err, depot.ErrQuota) || refused(err) {
		e.Action, e.Outcome, e.Reason = "certificate.refused", event.Refused, err.Error()
		s.audit.Refused(ctx, e)
	}
	return err
}

// doorError names a field of a template as a door's client knows it.
func doorError(e *template.FieldError) *depot.FieldError {
	name := e.Field
	if rest, ok := strings.CutPrefix(name, "sans"); ok {
		name = "san"
		for apples, ours := range map[string]string{
			".rfc822Name": ".email", ".dNSName": ".dns", ".uniformResourceIdentifier": ".uri", ".ntPrincipalName": ".upn",
		} {
			if strings.HasPrefix(rest, apples) {
				name += ours
			}
		}
	}
	return &depot.FieldError{Field: strings.ToLower(name), Reason: e.Reason}
}

func (s *Service) issueCSR(ctx context.Context, p identity.Principal, a depot.Application) (*x509.Certificate, error) {
	any := p.Allows(identity.ScopeCertAny)
	switch {
	case any:
		if err := s.count(ctx, counterKey("any", string(p.Kind), p.ID), maxAny, quotaWindow); err != nil {
			return nil, err
		}
	case !p.Allows(identity.ScopeCertSelf):
		return nil, fmt.Errorf("%w: that takes the scope cert:self or cert:any", ErrForbidden)
	case a.Template != "":
		return nil, fmt.Errorf("%w: a template takes the scope cert:any", ErrForbidden)
	default:
		if err := s.count(ctx, counterKey("self", strings.ToLower(p.User)), maxSelf, quotaWindow); err != nil {
			return nil, err
		}
	}
	key := hex.EncodeToString(digest(storage.Key("csr", string(p.Kind), p.ID, p.User, a.Door, a.Template), a.CSR.Raw))
	return s.issue(ctx, key, depot.Request{CSR: a.CSR}, func(tx storage.Tx) (grant, error) {
		var g grant
		var err error
		switch {
		case a.Template != "":
			g, err = s.grantTemplate(tx, a)
		case any:
			g, err = s.grantAny(tx, a)
		default:
			g, err = s.grantSelf(tx, p, a)
		}
		if err != nil {
			return grant{}, err
		}
		g.record.Door, g.record.Requester = a.Door, p.String()
		return g, nil
	})
}

// grantTemplate is the right of whoever may ask for anybody's certificate.
func (s *Service) grantTemplate(tx storage.Tx, a depot.Application) (grant, error) {
	t, err := s.templates.Get(tx, a.Template)
	if err != nil {
		return grant{}, err
	}
	if t.Issuer != template.Builtin {
		return grant{}, ErrExternal
	}
	e, err := t.Match(a.Asked)
	if err != nil {
		return grant{}, err
	}
	c := contents(t, e, s.now())
	c.KeyUsage = usageFor(a.CSR, c.KeyUsage)
	return s.belonging(tx, grant{template: t, contents: c})
}

// usageFor takes away what a key can't do: only RSA encrypts keys (RFC 8813, 3).
func usageFor(csr *x509.CertificateRequest, usage x509.KeyUsage) x509.KeyUsage {
	if _, ok := csr.PublicKey.(*rsa.PublicKey); !ok {
		return x509.KeyUsageDigitalSignature
	}
	return usage
}

// belonging finds the device or the user that a certificate names, so that it ends with
// them, whoever asked for it.
func (s *Service) belonging(tx storage.Tx, g grant) (grant, error) {
	for _, uri := range g.contents.URIs {
		id, ok := strings.CutPrefix(uri, deviceScheme)
		if !ok {
			continue
		}
		d, err := mdm.GetDevice(tx, mdm.DeviceID(id))
		if errors.Is(err, storage.ErrNotFound) || err == nil && !d.Live() {
			return grant{}, &depot.FieldError{Field: "san.uri", Reason: "names a device that is not enrolled"}
		}
		if err != nil {
			return grant{}, err
		}
		if off, err := s.suspended(tx, d); err != nil || off {
			return grant{}, cmp.Or[error](err, &depot.FieldError{Field: "san.uri", Reason: "names a device whose user is disabled"})
		}
		g.record.DeviceID, g.record.User = string(d.ID), d.User
		return g, nil
	}
	for _, login := range append(slices.Clone(g.contents.UserPrincipalNames), g.contents.EmailAddresses...) {
		u, err := identity.UserByLogin(tx, login)
		if errors.Is(err, storage.ErrNotFound) {
			continue
		}
		if err != nil {
			return grant{}, err
		}
		if u.Disabled {
			return grant{}, &depot.FieldError{Field: "san", Reason: "names a user who is disabled"}
		}
		g.record.User = u.Login()
		return g, nil
	}
	return g, nil
}

// Object identifiers of what requests ask for.
var (
	oidCommonName = asn1.ObjectIdentifier{2, 5, 4, 3}
	oidClientAuth = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 2}
)

// modest refuses what no request without a template gets: anything but a certificate of
// an end entity for client authentication.
func modest(asked guard.Asked) error {
	no := func(field, reason string) error { return &depot.FieldError{Field: field, Reason: reason} }
	switch {
	case asked.CA:
		return no("basic_constraints", "must not ask for an authority")
	case asked.KeyUsage&^(x509.KeyUsageDigitalSignature|x509.KeyUsageKeyEncipherment) != 0:
		return no("key_usage", "must be digitalSignature or keyEncipherment or both")
	case len(asked.Extensions) > 0:
		return no("extensions", "asks for "+asked.Extensions[0].String()+", which is not issued")
	case len(asked.Names.Others) > 0:
		return no("san", "has a "+asked.Names.Others[0]+", which is not issued")
	}
	for _, usage := range asked.ExtKeyUsage {
		if !usage.Equal(oidClientAuth) {
			return no("ext_key_usage", "must be clientAuth (1.3.6.1.5.5.7.3.2) alone; other usages take a certificate template")
		}
	}
	return nil
}

// plainContents is what a certificate without a template says beside its names.
func (s *Service) plainContents(a depot.Application) depot.Contents {
	t := selfService()
	now := s.now()
	return depot.Contents{
		Name: SelfService, NotBefore: now.Add(-clockSkew), NotAfter: now.Add(t.ValidFor()),
		KeyUsage:    usageFor(a.CSR, x509.KeyUsageDigitalSignature|x509.KeyUsageKeyEncipherment),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
}

// grantAny takes the names that are asked for.
func (s *Service) grantAny(tx storage.Tx, a depot.Application) (grant, error) {
	if err := modest(a.Asked); err != nil {
		return grant{}, err
	}
	subject, err := template.SubjectOf(a.Asked.Subject)
	if err != nil {
		return grant{}, err
	}
	if err := template.CheckNames(a.Asked.Names); err != nil {
		return grant{}, err
	}
	c := s.plainContents(a)
	if c.RawSubject, err = subject.DER(); err != nil {
		return grant{}, err
	}
	names := a.Asked.Names
	c.EmailAddresses, c.DNSNames, c.URIs, c.UserPrincipalNames = names.EmailAddresses, names.DNSNames, names.URIs, names.UserPrincipalNames
	for _, ip := range names.IPs {
		c.IPs = append(c.IPs, net.IP(ip.AsSlice()))
	}
	if len(subject) == 0 && names.Count() == 0 {
		return grant{}, &depot.FieldError{Field: "subject", Reason: "is empty, and there are no alternative names: the certificate would be nobody's"}
	}
	return s.belonging(tx, grant{template: selfService(), contents: c})
}

// grantSelf is the right of a user to certificates in their own name.
func (s *Service) grantSelf(tx storage.Tx, p identity.Principal, a depot.Application) (grant, error) {
	u, err := identity.UserByLogin(tx, p.User)
	if errors.Is(err, storage.ErrNotFound) || err == nil && u.Disabled {
		return grant{}, fmt.Errorf("%w: its user is unknown or disabled", ErrForbidden)
	}
	if err != nil {
		return grant{}, err
	}
	if err := modest(a.Asked); err != nil {
		return grant{}, err
	}
	for _, rdn := range a.Asked.Subject {
		for _, attribute := range rdn {
			if !attribute.Type.Equal(oidCommonName) {
				return grant{}, &depot.FieldError{Field: "subject", Reason: "must have nothing but a CN, and has " + attribute.Type.String()}
			}
		}
	}
	cns := a.Asked.Subject.Values(oidCommonName)
	if len(cns) > 1 {
		return grant{}, &depot.FieldError{Field: "subject.cn", Reason: "must be one"}
	}
	cn := ""
	if len(cns) == 1 {
		cn = cns[0]
	}
	names := a.Asked.Names
	if len(names.IPs) > 0 {
		return grant{}, &depot.FieldError{Field: "san.ip", Reason: "is not issued to users"}
	}
	if len(names.DNSNames) > 0 {
		return grant{}, &depot.FieldError{Field: "san.dns", Reason: "is not issued to users"}
	}
	id, err := s.namedDevice(tx, cn, names.URIs)
	if err != nil {
		return grant{}, err
	}
	if id != "" {
		return s.grantOwnDevice(tx, u, id, cn, a)
	}
	return s.grantOwnName(u, cn, a)
}

// namedDevice returns the device that a request is about, empty if it is about none.
func (s *Service) namedDevice(tx storage.Tx, cn string, uris []string) (id mdm.DeviceID, err error) {
	for _, uri := range uris {
		named, ok := strings.CutPrefix(uri, deviceScheme)
		if !ok {
			return "", &depot.FieldError{Field: "san.uri", Reason: `must be "` + deviceScheme + `" and the ID of a device`}
		}
		if id != "" {
			return "", &depot.FieldError{Field: "san.uri", Reason: "must be one"}
		}
		id = mdm.DeviceID(named)
	}
	if id != "" || cn == "" {
		return id, nil
	}
	if isDeviceID(cn) {
		return mdm.DeviceID(cn), nil
	}
	_, err = mdm.GetDevice(tx, mdm.DeviceID(cn))
	if errors.Is(err, storage.ErrNotFound) {
		return "", nil
	}
	return mdm.DeviceID(cn), err
}

// isDeviceID says whether a name has the form of our IDs: no user's may.
func isDeviceID(s string) bool {
	return len(s) == 26 && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz234567") == ""
}

// grantOwnDevice is for a device of the user.
func (s *Service) grantOwnDevice(tx storage.Tx, u identity.User, id mdm.DeviceID, cn string, a depot.Application) (grant, error) {
	field := "subject.cn"
	if len(a.Asked.Names.URIs) > 0 {
		field = "san.uri"
	}
	foreign := &depot.FieldError{Field: field, Reason: "must name an enrolled device of the user"} // one that does not exist looks the same
	if len(id) > 64 {
		return grant{}, foreign
	}
	d, err := mdm.GetDevice(tx, id)
	if errors.Is(err, storage.ErrNotFound) {
		return grant{}, foreign
	}
	if err != nil {
		return grant{}, err
	}
	if owns, err := s.owns(tx, u, d); err != nil || !owns {
		return grant{}, errors.Join(err, foreign)
	}
	switch {
	case cn != "" && cn != string(id) && cn != d.SerialNumber && cn != d.DeviceName:
		return grant{}, &depot.FieldError{Field: "subject.cn", Reason: "must be the device's ID, serial number or name"}
	case len(a.Asked.Names.EmailAddresses) > 0:
		return grant{}, &depot.FieldError{Field: "san.email", Reason: "is for certificates of users, not of devices"}
	case len(a.Asked.Names.UserPrincipalNames) > 0:
		return grant{}, &depot.FieldError{Field: "san.upn", Reason: "is for certificates of users, not of devices"}
	}
	c := s.plainContents(a)
	c.Subject = pkix.Name{CommonName: cmp.Or(cn, string(id))}
	c.URIs = []string{deviceScheme + string(id)}
	if len(c.Subject.CommonName) > 64 {
		return grant{}, &depot.FieldError{Field: "subject.cn", Reason: fmt.Sprintf("has %d bytes, at most 64", len(c.Subject.CommonName))}
	}
	return grant{template: selfService(), contents: c, record: depot.Certificate{DeviceID: string(d.ID), User: u.Login()}}, nil
}

// owns says whether d is an enrolled device of u.
func (s *Service) owns(tx storage.Tx, u identity.User, d mdm.Device) (bool, error) {
	if !d.Live() || d.ParentID != "" || d.User == "" {
		return false, nil
	}
	owner, err := identity.UserByLogin(tx, d.User)
	if errors.Is(err, storage.ErrNotFound) {
		return false, nil
	}
	return owner.ID == u.ID, err
}

// grantOwnName is for the user.
func (s *Service) grantOwnName(u identity.User, cn string, a depot.Application) (grant, error) {
	if u.FullName == "" {
		return grant{}, &depot.FieldError{Field: "subject.cn", Reason: "must be the full name of the user, who has none in this directory: an administrator can set it"}
	}
	if cn != u.FullName {
		return grant{}, &depot.FieldError{Field: "subject.cn", Reason: "must be the full name of the user"}
	}
	if len(cn) > 64 {
		return grant{}, &depot.FieldError{Field: "subject.cn", Reason: fmt.Sprintf("has %d bytes, at most 64: the user's full name is too long for a certificate", len(cn))}
	}
	names := a.Asked.Names
	for _, upn := range names.UserPrincipalNames {
		if len(names.UserPrincipalNames) > 1 || !strings.EqualFold(upn, u.UPN()) {
			return grant{}, &depot.FieldError{Field: "san.upn", Reason: "must be the user principal name of the user, once"}
		}
	}
	for _, email := range names.EmailAddresses {
		if len(names.EmailAddresses) > 1 || !strings.EqualFold(email, u.Email) {
			return grant{}, &depot.FieldError{Field: "san.email", Reason: "must be the e-mail address of the user, once"}
		}
	}
	c := s.plainContents(a)
	c.Subject = pkix.Name{CommonName: u.FullName}
	c.UserPrincipalNames = some(u.UPN())
	if len(names.EmailAddresses) > 0 {
		c.EmailAddresses = []string{u.Email}
	}
	return grant{template: selfService(), contents: c, record: depot.Certificate{User: u.Login()}}, nil
}

// Reissue replaces a certificate for whoever proved to hold its key, by one that says
// the same (RFC 7030, 4.2.2). It may be for the same key, and asked for at any time: EST
// knows no window. Errors are as of IssueCSR, or
// wrap ErrRenewal.
func (s *Service) Reissue(ctx context.Context, old *x509.Certificate, a depot.Application) (*x509.Certificate, error) {
	fp := depot.FingerprintOf(old)
	key := hex.EncodeToString(digest(storage.Key("est", string(fp), a.Template), a.CSR.Raw))
	cert, err := s.issue(ctx, key, depot.Request{CSR: a.CSR}, func(tx storage.Tx) (grant, error) {
		rec, err := s.depot.Get(tx, fp)
		if errors.Is(err, storage.ErrNotFound) {
			return grant{}, fmt.Errorf("%w: it is unknown", ErrRenewal)
		}
		if err != nil {
			return grant{}, err
		}
		if a.Template != "" && a.Template != rec.Template {
			return grant{}, fmt.Errorf("%w: it is of another template", ErrRenewal)
		}
		g, err := s.renewal(tx, rec, true)
		if err != nil {
			return grant{}, err
		}
		if err := sameNames(a.Asked, old, true); err != nil {
			return grant{}, err
		}
		g.contents.KeyUsage = usageFor(a.CSR, g.contents.KeyUsage)
		g.record.Door, g.sameKey = a.Door, true
		g.quota = &quota{counterKey("reissue", string(fp)), maxReissue, time.Hour}
		return g, nil
	})
	return cert, s.answered(ctx, err, event.Event{
		Actor: "certificate:" + string(depot.SerialOf(old)), Template: a.Template, Peer: a.Peer, Certificate: string(depot.SerialOf(old)), Details: details("door", a.Door),
	})
}

// sameNames refuses a renewal that asks for other names than the certificate has. One
// that asks for no alternative names gets those that it has, unless strict.
func sameNames(asked guard.Asked, old *x509.Certificate, strict bool) error {
	subject, names, err := guard.NamesOf(old)
	if err != nil {
		return err
	}
	switch {
	case asked.CA:
		return &depot.FieldError{Field: "basic_constraints", Reason: "must not ask for an authority"}
	case !asked.Subject.Equal(subject):
		return &depot.FieldError{Field: "subject", Reason: "must be that of the certificate that is renewed"}
	case asked.Names.Count() == 0 && (!strict || names.Count() == 0):
		return nil
	case !asked.Names.Equal(names):
		return &depot.FieldError{Field: "san", Reason: "must be those of the certificate that is renewed"}
	}
	return nil
}

// until is a time for people.
func until(t time.Time) string { return t.UTC().Format(time.RFC3339) }
