package mdmtest

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"slices"
	"time"
)

// BuiltIn is an identity that Apple builds into a device: what signs the first message of an
// over-the-air delivery, and MachineInfo.
type BuiltIn struct {
	Certificate *x509.Certificate
	Key         crypto.Signer
	Chain       []*x509.Certificate // that an iPhone sends along, and a Mac does not
}

// DeviceCA plays the authority that issues such identities: like "Apple iPhone Device CA" it
// has 1024 bits, has expired long ago, and signs by SHA-1 (PROTOCOL 2.2).
type DeviceCA struct {
	Certificate *x509.Certificate
	Algorithm   x509.SignatureAlgorithm // of what it issues; SHA-1 with RSA when zero

	key *rsa.PrivateKey
}

// NewDeviceCA makes an authority.
func NewDeviceCA() (*DeviceCA, error) {
	key, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		return nil, fmt.Errorf("device CA: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), SignatureAlgorithm: x509.SHA1WithRSA,
		Subject:   pkix.Name{Country: []string{"US"}, Organization: []string{"Apple Inc."}, OrganizationalUnit: []string{"Apple iPhone"}, CommonName: "Apple iPhone Device CA"},
		NotBefore: time.Date(2007, 4, 16, 22, 54, 46, 0, time.UTC), NotAfter: time.Date(2014, 4, 16, 22, 54, 46, 0, time.UTC),
		BasicConstraintsValid: true, IsCA: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature,
	}
	ca := &DeviceCA{key: key}
	if ca.Certificate, err = issue(template, template, key.Public(), key); err != nil {
		return nil, fmt.Errorf("device CA: %w", err)
	}
	return ca, nil
}

// Issue makes the identity of a device with a name, and its key.
func (ca *DeviceCA) Issue(name string) (*BuiltIn, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("built-in identity: %w", err)
	}
	return ca.IssueFor(name, key)
}

// IssueFor is Issue for a key of the caller's, such as one of 1024 bits.
func (ca *DeviceCA) IssueFor(name string, key crypto.Signer) (*BuiltIn, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 80))
	if err != nil {
		return nil, fmt.Errorf("built-in identity: %w", err)
	}
	algorithm := ca.Algorithm
	if algorithm == 0 {
		algorithm = x509.SHA1WithRSA
	}
	template := &x509.Certificate{
		SerialNumber: serial, SignatureAlgorithm: algorithm,
		Subject:   pkix.Name{Organization: []string{"Apple Inc."}, OrganizationalUnit: []string{"iPhone"}, CommonName: name},
		NotBefore: time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC), NotAfter: time.Date(2023, 1, 1, 0, 0, 0, 0, time.UTC), // nobody renews them
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
	}
	cert, err := issue(template, ca.Certificate, key.Public(), ca.key)
	if err != nil {
		return nil, fmt.Errorf("built-in identity: %w", err)
	}
	return &BuiltIn{cert, key, []*x509.Certificate{ca.Certificate}}, nil
}

func issue(template, parent *x509.Certificate, pub crypto.PublicKey, key crypto.Signer) (*x509.Certificate, error) {
	der, err := x509.CreateCertificate(rand.Reader, template, parent, pub, key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// Delivery says in what devices differ as they answer a Profile Service payload.
type Delivery struct {
	Digest       crypto.Hash // of its signatures; SHA-256 when zero
	NoAttributes bool        // sign without signed attributes
	NoChallenge  bool        // leave CHALLENGE out of the second message
}

// ProfileService is a payload that asks a device what it is (PROTOCOL 3.6).
type ProfileService struct {
	Identifier string
	UUID       string
	URL        string
	Challenge  string
	Attributes []string
}

// IsProfileService tells a Profile Service payload from other profiles.
func IsProfileService(raw []byte) bool {
	d, _, err := openProfile(raw)
	return err == nil && d["PayloadType"] == "Profile Service"
}

// ParseProfileService reads such a payload. Its error says why a device would not install
// it.
func ParseProfileService(raw []byte, rules Rules) (*ProfileService, error) {
	d, _, err := openProfile(raw)
	if err != nil {
		return nil, err
	}
	f := fields{dict: d}
	p := &ProfileService{}
	p.Identifier, p.UUID = f.payload("Profile Service")
	content := fields{dict: f.dictionary("PayloadContent")}
	p.URL, p.Challenge = content.required("URL"), content.string("Challenge")
	p.Attributes = content.strings("DeviceAttributes")
	if err := errors.Join(f.err, content.err); err != nil {
		return nil, fmt.Errorf("profile service: %w", err)
	}
	if err := checkURL(p.URL, rules.PlainHTTP); err != nil {
		return nil, fmt.Errorf("profile service: URL: %w", err)
	}
	for i, attribute := range p.Attributes {
		if !slices.Contains([]string{"UDID", "SERIAL", "PRODUCT", "VERSION", "IMEI", "MEID", "DEVICE_NAME"}, attribute) {
			return nil, fmt.Errorf("profile service: DeviceAttributes[%d] is %q", i, attribute)
		}
	}
	return p, nil
}

// ProfileService reads a Profile Service payload as this device would.
func (d *Device) ProfileService(raw []byte) (*ProfileService, error) {
	return ParseProfileService(raw, d.rules())
}

// Statement is what the device states to p: the attributes that it was asked and has, and
// the challenge.
func (d *Device) Statement(p *ProfileService) Dict {
	all := Dict{
		"UDID": d.opts.UDID, "SERIAL": d.opts.Serial, "PRODUCT": d.opts.Model.hardware().product,
		"VERSION": d.opts.Build, "DEVICE_NAME": d.opts.Name,
	}
	if d.opts.Model != Mac {
		all["IMEI"] = d.imei
	}
	statement := Dict{}
	for _, attribute := range p.Attributes {
		if v, ok := all[attribute]; ok {
			statement[attribute] = v
		}
	}
	if p.Challenge != "" {
		statement["CHALLENGE"] = p.Challenge
	}
	return statement
}

// PrepareStatement signs a statement for p's URL as an identity.
func (d *Device) PrepareStatement(p *ProfileService, statement Dict, as *BuiltIn) (Prepared, error) {
	plain, err := MarshalPlist(statement)
	if err != nil {
		return Prepared{}, err
	}
	body, err := d.signBuiltIn(plain, as)
	if err != nil {
		return Prepared{}, err
	}
	return Prepared{Method: http.MethodPost, URL: p.URL, Body: body, Header: http.Header{
		"Content-Type": {"application/pkcs7-signature"},
		"User-Agent":   {"Profile/1.0"},
	}}, nil
}

// signBuiltIn signs as a built-in identity, which an iPhone sends with its issuers.
func (d *Device) signBuiltIn(plain []byte, as *BuiltIn) ([]byte, error) {
	s := Signature{
		Certificate: as.Certificate, Key: as.Key, Digest: d.opts.Delivery.Digest, NoAttributes: d.opts.Delivery.NoAttributes,
		SigningTime: d.opts.Now(), Encoding: d.opts.Encoding,
	}
	if d.opts.Model != Mac {
		s.Also = as.Chain
	}
	return s.Sign(plain)
}

// BuiltIn is Apple's identity of the device.
func (d *Device) BuiltIn() (*BuiltIn, error) {
	if d.opts.BuiltIn != nil {
		return d.opts.BuiltIn, nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.builtin == nil { // its name does not give the hardware away in a User Enrollment
		ca, err := NewDeviceCA()
		if err != nil {
			return nil, err
		}
		if d.builtin, err = ca.Issue(easID(d.opts.UDID)); err != nil {
			return nil, err
		}
	}
	return d.builtin, nil
}

// Deliver installs a Profile Service payload: the device states what it is, signed by its
// built-in identity (phase 2); gets a certificate by SCEP, as the answer tells it; and states
// the same signed by that one, to be given the profile that Deliver returns (phase 3). What
// answers the first statement with that profile at once is fine, too.
func (d *Device) Deliver(ctx context.Context, raw []byte, opts ...SCEPOption) (profile []byte, err error) {
	p, err := d.ProfileService(raw)
	if err != nil {
		return nil, err
	}
	builtin, err := d.BuiltIn()
	if err != nil {
		return nil, err
	}
	answer, err := d.Tell(ctx, p, d.Statement(p), builtin)
	if err != nil {
		return nil, fmt.Errorf("phase 2: %w", err)
	}
	step, err := d.Configuration(answer)
	if err != nil {
		return nil, fmt.Errorf("phase 2: %w", err)
	}
	if len(step.ofType("com.apple.mdm")) > 0 {
		return answer, nil
	}
	delivered, err := d.DeliveryIdentity(ctx, step, opts...)
	if err != nil {
		return nil, fmt.Errorf("phase 2: %w", err)
	}
	statement := d.Statement(p)
	if d.opts.Delivery.NoChallenge {
		delete(statement, "CHALLENGE")
	}
	if profile, err = d.Tell(ctx, p, statement, delivered); err != nil {
		return nil, fmt.Errorf("phase 3: %w", err)
	}
	return profile, nil
}

// DeliveryIdentity gets the certificate that the answer to the first statement is about.
func (d *Device) DeliveryIdentity(ctx context.Context, p *Profile, opts ...SCEPOption) (*BuiltIn, error) {
	if len(p.SCEPs) != 1 || len(p.Payloads) != 1 {
		return nil, fmt.Errorf("the answer has %d payloads, %d of them for SCEP; want one", len(p.Payloads), len(p.SCEPs))
	}
	client, err := d.clientFor(nil)
	if err != nil {
		return nil, err
	}
	cert, key, err := d.certificate(ctx, client, p.SCEP, opts...)
	if err != nil {
		return nil, err
	}
	return &BuiltIn{Certificate: cert, Key: key}, nil
}

// Tell sends a statement as an identity, and returns the profile in the answer.
func (d *Device) Tell(ctx context.Context, p *ProfileService, statement Dict, as *BuiltIn) ([]byte, error) {
	prepared, err := d.PrepareStatement(p, statement, as)
	if err != nil {
		return nil, err
	}
	return d.Post(ctx, prepared)
}

// Post sends a prepared statement, and returns the profile in the answer.
func (d *Device) Post(ctx context.Context, prepared Prepared) ([]byte, error) {
	client, err := d.clientFor(nil)
	if err != nil {
		return nil, err
	}
	req, err := prepared.Request(ctx)
	if err != nil {
		return nil, err
	}
	reply, err := roundTrip(client, req)
	if err == nil {
		err = reply.err()
	}
	if err != nil {
		return nil, err
	}
	if kind := mediaType(reply.Header); kind != profileType {
		return nil, fmt.Errorf("the answer's Content-Type %q is no profile", kind)
	}
	return reply.Body, nil
}
