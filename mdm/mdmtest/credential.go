package mdmtest

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"slices"
)

// Credential is a certificate with its private key that a payload of an ordinary
// profile put on the device: by SCEP, or as PKCS #12. It stays readable after the
// device has lost it, for tests that go on to use it.
type Credential struct {
	Profile     string // PayloadIdentifier of the profile
	Payload     string // PayloadIdentifier of the payload
	PayloadUUID string
	User        *User // whose keychain holds it; nil: the system's

	Certificate   *x509.Certificate
	Key           crypto.Signer       // RSA from SCEP, RSA or ECDSA from PKCS #12
	Chain         []*x509.Certificate // its issuers as far as profiles brought them, the nearest first
	Extractable   bool                // the key may leave the keychain
	AllAppsAccess bool                // every application of a Mac may use the key

	scep *SCEPPayload // nil when it came as PKCS #12
}

// TLS is the credential as a client certificate, with the issuers between it and
// the root.
func (c *Credential) TLS() tls.Certificate {
	cert := tls.Certificate{Certificate: [][]byte{c.Certificate.Raw}, PrivateKey: c.Key, Leaf: c.Certificate}
	for _, issuer := range c.Chain {
		if !bytes.Equal(issuer.RawSubject, issuer.RawIssuer) {
			cert.Certificate = append(cert.Certificate, issuer.Raw)
		}
	}
	return cert
}

// Credential is what the payload of that identifier brought to the system's
// keychain, nil when there is nothing; see [Channel.Credential] for a Mac's user.
func (d *Device) Credential(payloadIdentifier string) *Credential {
	return d.channel.Credential(payloadIdentifier)
}

// Credential is what the payload of that identifier brought over this channel, nil
// when there is nothing. Of several profiles the one that came last counts.
func (c *Channel) Credential(payloadIdentifier string) *Credential {
	all := c.Credentials()
	for _, credential := range slices.Backward(all) {
		if credential.Payload == payloadIdentifier {
			return credential
		}
	}
	return nil
}

// Credentials are all that profiles brought over this channel, oldest profile first.
func (c *Channel) Credentials() []*Credential {
	d := c.dev
	d.mu.Lock()
	defer d.mu.Unlock()
	var delivered []*x509.Certificate
	if d.profile != nil {
		delivered = append(delivered, d.profile.Certificates...)
	}
	for _, p := range d.installed {
		delivered = append(delivered, p.Certificates...)
		for _, payload := range p.PKCS12s {
			delivered = append(delivered, payload.Others...)
		}
	}
	var list []*Credential
	for _, p := range d.installed {
		if p.user != c.user {
			continue
		}
		for _, credential := range p.credentials {
			copied := *credential
			copied.Chain = issuersOf(copied.Certificate, delivered)
			list = append(list, &copied)
		}
	}
	return list
}

// issuersOf is the way from cert to its root, as far as certs go.
func issuersOf(cert *x509.Certificate, certs []*x509.Certificate) []*x509.Certificate {
	var chain []*x509.Certificate
	for len(chain) < len(certs) && !bytes.Equal(cert.RawIssuer, cert.RawSubject) {
		i := slices.IndexFunc(certs, func(c *x509.Certificate) bool {
			return bytes.Equal(c.RawSubject, cert.RawIssuer) && cert.CheckSignatureFrom(c) == nil
		})
		if i < 0 {
			break
		}
		cert = certs[i]
		chain = append(chain, cert)
	}
	return chain
}

// RenewCredential asks the server of a SCEP payload for a successor of the
// certificate as clients other than Apple's do: with a new key and the same subject,
// signed by the old certificate, without a challenge (RFC 8894, 2.3). The message is
// a [RenewalReq]; give WithMessageType(PKCSReq) for what older clients send,
// [WithChallenge] for those that repeat the challenge, [WithKey] for those that keep
// their key. The device itself keeps what it has: Apple's never renew by themselves.
func (d *Device) RenewCredential(ctx context.Context, c *Credential, opts ...SCEPOption) (*Credential, error) {
	if c.scep == nil {
		return nil, errors.New("renew: the credential did not come by SCEP")
	}
	client, err := d.clientFor(nil)
	if err != nil {
		return nil, err
	}
	opts = slices.Concat([]SCEPOption{
		WithMessageType(RenewalReq), WithChallenge(), WithSigner(c.Certificate, c.Key),
		func(draft *scepDraft) { draft.csr.rawSubject = c.Certificate.RawSubject },
	}, opts)
	cert, key, err := d.certificate(ctx, client, *c.scep, opts...)
	if err != nil {
		return nil, fmt.Errorf("renew: %w", err)
	}
	renewed := *c
	renewed.Certificate, renewed.Key = cert, key
	return &renewed, nil
}

// scepProblem is a failure of SCEP and what the device shows of it (PROTOCOL 7.5).
type scepProblem struct {
	shown string
	error
}

func (p *scepProblem) Unwrap() error { return p.error }

// certificate gets a certificate that a SCEP payload describes, for a new key.
func (d *Device) certificate(ctx context.Context, client *http.Client, payload SCEPPayload, opts ...SCEPOption) (*x509.Certificate, crypto.Signer, error) {
	s := d.scepClient(client, payload)
	if err := s.Discover(ctx); err != nil {
		return nil, nil, &scepProblem{"The SCEP server configuration is not supported.", err}
	}
	r, err := d.scepRequest(s, payload, opts...)
	if err != nil {
		return nil, nil, err
	}
	if d.twice(StepSCEP) {
		_, _ = s.Send(ctx, r) // its answer is lost
	}
	cert, err := s.Send(ctx, r)
	if err != nil {
		return nil, nil, &scepProblem{"The SCEP server returned an invalid response.", err}
	}
	return cert, r.key, nil
}

func (d *Device) scepClient(client *http.Client, payload SCEPPayload) *SCEP {
	return &SCEP{
		URL: payload.URL, Name: payload.Name, HTTP: client, Fingerprint: payload.CAFingerprint,
		Retries: payload.Retries, RetryDelay: payload.RetryDelay,
		Encoding: d.opts.Encoding, Now: d.opts.Now, Rand: d.opts.Rand,
	}
}

func (d *Device) scepRequest(s *SCEP, payload SCEPPayload, opts ...SCEPOption) (*SCEPRequest, error) {
	key, err := d.newKey(int(payload.Keysize))
	if err != nil {
		return nil, err
	}
	return s.Request(key, d.subject(payload), payload.Challenge, payload.extensions(), opts...)
}

func (d *Device) newKey(bits int) (*rsa.PrivateKey, error) {
	if d.opts.Keys != nil && d.opts.Keys.bits == bits {
		return d.opts.Keys.Key()
	}
	return rsa.GenerateKey(rand.Reader, bits)
}
