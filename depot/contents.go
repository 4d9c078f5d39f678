package depot

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"time"
	"unicode/utf8"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// Contents is what a certificate is to say, beside what Sign sets itself.
type Contents struct {
	Name string // of what it is, for errors: a template's

	Subject    pkix.Name
	RawSubject []byte // a Name in DER, instead of Subject; its lengths are the caller's to check

	NotBefore, NotAfter time.Time // cut to the authority's own
	KeyUsage            x509.KeyUsage
	ExtKeyUsage         []x509.ExtKeyUsage
	ExtKeyUsageOIDs     []asn1.ObjectIdentifier // that ExtKeyUsage has no names for

	// Subject alternative names.
	DNSNames           []string
	EmailAddresses     []string
	IPs                []net.IP
	URIs               []string
	UserPrincipalNames []string // otherName 1.3.6.1.4.1.311.20.2.3, as Windows and RADIUS servers know users

	// NoRevocationCheck leaves out where to ask about revocation, and says that there
	// is no need to: for the signer of OCSP answers (RFC 6960, 4.2.2.2.1).
	NoRevocationCheck bool
}

func (c Contents) check() error {
	if c.KeyUsage&(x509.KeyUsageCertSign|x509.KeyUsageCRLSign) != 0 {
		return errors.New("an end entity signs no certificates")
	}
	if slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageAny) {
		return errors.New("a certificate for any purpose would pass as any other")
	}
	if len(c.Subject.CommonName) > maxCommonName {
		return fmt.Errorf("common name has %d bytes, at most %d", len(c.Subject.CommonName), maxCommonName)
	}
	return nil
}

// Object identifiers of extensions and names.
var (
	oidSubjectAltName = asn1.ObjectIdentifier{2, 5, 29, 17}
	oidUPN            = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 311, 20, 2, 3}
	oidNoCheck        = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 48, 1, 5}
)

// Tags of GeneralName (RFC 5280, 4.2.1.6).
var (
	tagOtherName = cbasn1.Tag(0).ContextSpecific().Constructed()
	tagEmail     = cbasn1.Tag(1).ContextSpecific()
	tagDNS       = cbasn1.Tag(2).ContextSpecific()
	tagURI       = cbasn1.Tag(6).ContextSpecific()
	tagIP        = cbasn1.Tag(7).ContextSpecific()
)

// alternativeNames builds the extension; ok is false if there are no names. It is
// our own because crypto/x509 writes no otherName.
func (c Contents) alternativeNames() (ext pkix.Extension, ok bool, err error) {
	if len(c.DNSNames)+len(c.EmailAddresses)+len(c.IPs)+len(c.URIs)+len(c.UserPrincipalNames) == 0 {
		return pkix.Extension{}, false, nil
	}
	b := cryptobyte.NewBuilder(nil)
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		for _, names := range []struct {
			what   string
			tag    cbasn1.Tag
			values []string
		}{{"e-mail address", tagEmail, c.EmailAddresses}, {"DNS name", tagDNS, c.DNSNames}, {"URI", tagURI, c.URIs}} {
			for _, v := range names.values {
				if !isIA5(v) {
					err = errors.Join(err, fmt.Errorf("%s %q is not plain ASCII", names.what, v))
				}
				b.AddASN1(names.tag, func(b *cryptobyte.Builder) { b.AddBytes([]byte(v)) })
			}
		}
		for _, ip := range c.IPs {
			if v4 := ip.To4(); v4 != nil {
				ip = v4
			}
			b.AddASN1(tagIP, func(b *cryptobyte.Builder) { b.AddBytes(ip) })
		}
		for _, upn := range c.UserPrincipalNames {
			if upn == "" || !utf8.ValidString(upn) {
				err = errors.Join(err, errors.New("a user principal name is empty or no UTF-8"))
			}
			b.AddASN1(tagOtherName, func(b *cryptobyte.Builder) {
				b.AddASN1ObjectIdentifier(oidUPN)
				b.AddASN1(cbasn1.Tag(0).ContextSpecific().Constructed(), func(b *cryptobyte.Builder) {
					b.AddASN1(cbasn1.UTF8String, func(b *cryptobyte.Builder) { b.AddBytes([]byte(upn)) })
				})
			})
		}
	})
	der, buildErr := b.Bytes()
	if err := errors.Join(err, buildErr); err != nil {
		return pkix.Extension{}, false, fmt.Errorf("subject alternative names: %w", err)
	}
	return pkix.Extension{Id: oidSubjectAltName, Critical: c.emptySubject(), Value: der}, true, nil
}

// emptySubject decides whether the alternative names are critical (RFC 5280,
// 4.1.2.6).
func (c Contents) emptySubject() bool {
	if c.RawSubject != nil {
		return len(c.RawSubject) <= 2
	}
	return len(c.Subject.ToRDNSequence()) == 0
}

func isIA5(s string) bool {
	for i := range len(s) {
		if s[i] < 0x20 || s[i] > 0x7e {
			return false
		}
	}
	return s != ""
}

func noCheck() pkix.Extension { return pkix.Extension{Id: oidNoCheck, Value: asn1.NullBytes} }

// AlternativeNames returns the subject alternative names of cert as text: e-mail
// addresses, DNS names, IP addresses and URIs as they are, and user principal names,
// which crypto/x509 does not read, behind "upn:".
func AlternativeNames(cert *x509.Certificate) []string {
	names := slices.Concat(cert.EmailAddresses, cert.DNSNames)
	for _, ip := range cert.IPAddresses {
		names = append(names, ip.String())
	}
	for _, uri := range cert.URIs {
		names = append(names, uri.String())
	}
	for _, upn := range UserPrincipalNames(cert.Extensions) {
		names = append(names, "upn:"+upn)
	}
	return names
}

// UserPrincipalNames reads the user principal names among the extensions of a
// certificate, or of a request for one. What is malformed is left out.
func UserPrincipalNames(extensions []pkix.Extension) (upns []string) {
	for _, ext := range extensions {
		if !ext.Id.Equal(oidSubjectAltName) {
			continue
		}
		in := cryptobyte.String(ext.Value)
		var names cryptobyte.String
		if !in.ReadASN1(&names, cbasn1.SEQUENCE) {
			continue
		}
		for !names.Empty() {
			var name, value, text cryptobyte.String
			var tag cbasn1.Tag
			var oid asn1.ObjectIdentifier
			if !names.ReadAnyASN1(&name, &tag) {
				break
			}
			if tag != tagOtherName || !name.ReadASN1ObjectIdentifier(&oid) || !oid.Equal(oidUPN) {
				continue
			}
			if name.ReadASN1(&value, cbasn1.Tag(0).ContextSpecific().Constructed()) &&
				value.ReadAnyASN1(&text, &tag) && utf8.Valid(text) {
				upns = append(upns, string(text))
			}
		}
	}
	return upns
}

// Paths under which certificates say that the world may ask about them: a CRL at
// PathCRL + Authority.ID + ".crl", OCSP at PathOCSP, an authority's certificate at
// PathIssuer + Authority.ID + ".cer". They stand in certificates for years.
const (
	PathCRL    = "/crl/"
	PathOCSP   = "/ocsp"
	PathIssuer = "/ca/"
)

// urls is where the world may ask about certificates; all empty if it can't.
type urls struct{ crl, ocsp, issuer string }

func urlsAt(base *url.URL) urls {
	if base == nil {
		return urls{}
	}
	return urls{
		crl: base.JoinPath(PathCRL).String(), ocsp: base.JoinPath(PathOCSP).String(), issuer: base.JoinPath(PathIssuer).String(),
	}
}

// put names the URLs for the authority with an ID in a certificate of its.
func (u urls) put(cert *x509.Certificate, id string) {
	if u == (urls{}) {
		return
	}
	cert.CRLDistributionPoints = []string{u.crl + id + ".crl"}
	cert.OCSPServer = []string{u.ocsp}
	cert.IssuingCertificateURL = []string{u.issuer + id + ".cer"}
}
