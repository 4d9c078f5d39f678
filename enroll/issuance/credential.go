package issuance

import (
	"crypto/x509"

	"github.com/gatehouse-mdm/gatehouse/depot/template"
	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/profile"
	"github.com/gatehouse-mdm/gatehouse/storage/guard"
)

// plainProfile builds the profile that makes a device, or a user channel of one, ask
// for a certificate. payloadUUID is fresh for a fresh certificate.
func (s *Service) plainProfile(t template.Template, e template.Expanded, channel mdm.Device, payloadUUID string, show ticket) ([]byte, error) {
	c := profile.Credential{
		Identifier:   s.profileIdentifier(t.Name),
		DisplayName:  t.Name,
		Organization: s.organisation,
		Scope:        profile.ScopeSystem,
		SCEP:         s.scep(t, e, show),
	}
	c.SCEP.PayloadUUID = payloadUUID
	if channel.ParentID != "" {
		c.Scope = profile.ScopeUser
	}
	var err error
	if c.Roots, err = s.roots(t); err != nil {
		return nil, err
	}
	return c.Encode()
}

// scep returns what a device is to ask for, but for the UUID of the payload.
func (s *Service) scep(t template.Template, e template.Expanded, show ticket) profile.SCEP {
	c := profile.SCEP{
		URL:  s.serverURL.JoinPath(PathSCEP, t.Name).String(),
		Name: t.Name,
		SANs: profile.SubjectAltName{
			RFC822Names: e.SANs.RFC822Names, DNSNames: e.SANs.DNSNames, URIs: e.SANs.URIs, NTPrincipalName: e.SANs.NTPrincipalName,
		},
		Challenge:     show.secret,
		KeySize:       t.KeySize,
		Polling:       &profile.Polling{Retries: t.Retries, Delay: t.RetryDelay},
		Extractable:   t.KeyExtractable,
		AllAppsMayUse: t.AllowAllAppsAccess,
	}
	if e.KeyUsage&x509.KeyUsageDigitalSignature != 0 {
		c.KeyUsage |= profile.Signing
	}
	if e.KeyUsage&x509.KeyUsageKeyEncipherment != 0 {
		c.KeyUsage |= profile.Encryption
	}
	for _, rdn := range e.Subject.ForApple() {
		var attributes profile.RDN
		for _, a := range rdn {
			attributes = append(attributes, profile.Attribute{Type: a.Type, Value: a.Value})
		}
		c.Subject = append(c.Subject, attributes)
	}
	if t.Issuer == template.External {
		c.URL, c.Name, c.Fingerprint = t.Upstream.URL, t.Upstream.Name, t.Upstream.Fingerprint
	} else {
		issuer := s.depot.Payload()
		c.Name = enroll.SCEPName(t.Name, issuer)
		c.CA = issuer.Certificate() // which signs what is passed on from elsewhere, too
	}
	if show.token != "" {
		c.URL += PathToken + show.token
	}
	return c
}

// roots are the authorities' certificates that t puts into the profile. With ours go
// those between root and certificate, because a device has to show them to a RADIUS
// server and gets only its own by SCEP. The root is the one above the issuer, which an
// imported one brought along.
func (s *Service) roots(t template.Template) (roots []*x509.Certificate, err error) {
	if !t.IncludeRoot {
		return nil, nil
	}
	for _, der := range t.Roots {
		cert, err := guard.ParseCertificate(der)
		if err != nil {
			return nil, err
		}
		roots = append(roots, cert)
	}
	chain := s.depot.Payload().Chain()
	root, between := chain[len(chain)-1], chain[:len(chain)-1]
	if len(roots) == 0 {
		roots = append(roots, root)
	}
	if t.Issuer == template.Builtin {
		roots = append(roots, between...)
	}
	return roots, nil
}
