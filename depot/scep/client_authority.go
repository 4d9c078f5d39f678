package scep

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/gatehouse-mdm/gatehouse/depot/template"
	"github.com/gatehouse-mdm/gatehouse/storage/guard"
)

// capabilitySet is what a server's GetCACaps says, in lower case.
type capabilitySet []string

func (s capabilitySet) has(keyword string) bool { return slices.Contains(s, strings.ToLower(keyword)) }

// cipher is the best that the server knows. NDES knows 3DES only.
func (s capabilitySet) cipher() contentCipher {
	if s.has("AES") || s.has("SCEPStandard") {
		return aes128()
	}
	return des3()
}

// capabilities asks for them. A server that does not know the question has none
// (RFC 8894, 3.5.1).
func (c *Client) capabilities(ctx context.Context, u template.Upstream) (capabilitySet, error) {
	body, err := c.ask(ctx, u, "GetCACaps", u.Name, nil)
	var status *statusError
	if errors.As(err, &status) && status.status >= 400 && status.status < 500 && status.status != http.StatusTooManyRequests {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return strings.Fields(strings.ToLower(string(body))), nil
}

// maxBundle is how many certificates GetCACert may answer with.
const maxBundle = 20

// trust is what is believed of another server: an authority, and certificates that
// stand below it.
type trust struct {
	ca        *x509.Certificate
	certs     []*x509.Certificate // with ca
	recipient *x509.Certificate   // that requests are encrypted to
}

// authority asks for the certificates of a server (RFC 8894, 4.2), and finds among them
// the one that u names.
func (c *Client) authority(ctx context.Context, u template.Upstream) (*trust, error) {
	body, err := c.ask(ctx, u, "GetCACert", u.Name, nil)
	if err != nil {
		return nil, err
	}
	certs, err := readBundle(body)
	if err != nil {
		return nil, err
	}
	t := &trust{}
	if len(u.Fingerprint) > 0 {
		at := slices.IndexFunc(certs, func(cert *x509.Certificate) bool { return matches(cert, u.Fingerprint) })
		if at < 0 {
			return nil, refusal("none of its certificates has the fingerprint that is expected")
		}
		t.ca, t.certs = certs[at], certs[at:at+1:at+1]
		t.extend(certs)
	} else { // then TLS has told who answers
		t.ca, t.certs = certs[0], certs
		if at := slices.IndexFunc(certs, isAuthority); at >= 0 {
			t.ca = certs[at]
		}
	}
	now := c.now()
	if now.After(t.ca.NotAfter) || now.Before(t.ca.NotBefore) {
		return nil, refusal("its certificate is valid from %s to %s only", day(t.ca.NotBefore), day(t.ca.NotAfter))
	}
	if t.recipient = t.encryptTo(now); t.recipient == nil {
		return nil, refusal("it has no certificate that requests can be encrypted to: that takes RSA")
	}
	return t, nil
}

func day(t time.Time) string { return t.UTC().Format(time.DateOnly) }

// readBundle reads one certificate, or those in a SignedData that has nothing else.
// Content types tell less than the content.
func readBundle(body []byte) (certs []*x509.Certificate, err error) {
	if cert, err := guard.ParseCertificate(body); err == nil {
		return []*x509.Certificate{cert}, nil
	} else if errors.Is(err, guard.ErrKey) {
		return nil, refusal("its certificate: %w", err)
	}
	return bundled(body)
}

func bundled(body []byte) (certs []*x509.Certificate, err error) {
	p7, err := guard.ParseCMS(body, maxMessage)
	if err != nil {
		return nil, refusal("it sends neither a certificate nor a list of them")
	}
	if len(p7.Certificates) > maxBundle {
		return nil, refusal("it sends %d certificates, at most %d", len(p7.Certificates), maxBundle)
	}
	for _, raw := range p7.Certificates {
		// What has a key that we don't work with may stand beside what is needed.
		if cert, err := guard.ParseCertificate(raw.Raw); err == nil {
			certs = append(certs, cert)
		}
	}
	if len(certs) == 0 {
		return nil, refusal("it sends no certificate with a key that we work with")
	}
	return certs, nil
}

// matches says whether fingerprint is a digest of cert. Its length says which.
func matches(cert *x509.Certificate, fingerprint []byte) bool {
	for _, hash := range []crypto.Hash{crypto.SHA1, crypto.SHA224, crypto.SHA256, crypto.SHA384, crypto.SHA512} {
		if hash.Size() == len(fingerprint) {
			h := hash.New()
			h.Write(cert.Raw)
			return bytes.Equal(h.Sum(nil), fingerprint)
		}
	}
	return false
}

func isAuthority(cert *x509.Certificate) bool {
	return cert.BasicConstraintsValid && cert.IsCA && (cert.KeyUsage == 0 || cert.KeyUsage&x509.KeyUsageCertSign != 0)
}

// extend adds those of certs that stand below what is believed already.
func (t *trust) extend(certs []*x509.Certificate) {
	for added := true; added; {
		added = false
		for _, cert := range certs {
			if !t.has(cert) && t.issued(cert) {
				t.certs, added = append(t.certs, cert), true
			}
		}
	}
}

func (t *trust) has(cert *x509.Certificate) bool {
	return slices.ContainsFunc(t.certs, cert.Equal)
}

// issued says whether an authority that is believed has signed cert.
func (t *trust) issued(cert *x509.Certificate) bool {
	return slices.ContainsFunc(t.certs, func(issuer *x509.Certificate) bool {
		return isAuthority(issuer) && bytes.Equal(cert.RawIssuer, issuer.RawSubject) && guard.CheckIssued(cert, issuer) == nil
	})
}

// encryptTo finds the certificate that requests are encrypted to (RFC 8894, 2.1.2): that
// of a registration authority, or else that of an authority, some of which do without the
// usage that it takes; of a chain then the lowest.
func (t *trust) encryptTo(now time.Time) (best *x509.Certificate) {
	issuer := func(cert *x509.Certificate) bool {
		return slices.ContainsFunc(t.certs, func(other *x509.Certificate) bool {
			return isAuthority(other) && !other.Equal(cert) && bytes.Equal(other.RawIssuer, cert.RawSubject)
		})
	}
	rank := func(cert *x509.Certificate) int {
		_, isRSA := cert.PublicKey.(*rsa.PublicKey)
		enciphers := cert.KeyUsage&x509.KeyUsageKeyEncipherment != 0
		switch {
		case !isRSA || now.After(cert.NotAfter) || now.Before(cert.NotBefore):
			return 0
		case !cert.IsCA && (enciphers || cert.KeyUsage == 0):
			return 4
		case !cert.IsCA:
			return 0
		case enciphers:
			return 3
		case !issuer(cert):
			return 2
		}
		return 1
	}
	for _, cert := range t.certs {
		if rank(cert) > 0 && (best == nil || rank(cert) > rank(best)) {
			best = cert
		}
	}
	return best
}
