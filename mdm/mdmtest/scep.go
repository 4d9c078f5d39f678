package mdmtest

import (
	"bytes"
	"context"
	"crypto"
	"crypto/md5"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/big"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// SCEP attributes and message types (RFC 8894, 3.2).
const (
	oidMessageType    = "2.16.840.1.113733.1.9.2"
	oidPKIStatus      = "2.16.840.1.113733.1.9.3"
	oidFailInfo       = "2.16.840.1.113733.1.9.4"
	oidSenderNonce    = "2.16.840.1.113733.1.9.5"
	oidRecipientNonce = "2.16.840.1.113733.1.9.6"
	oidTransactionID  = "2.16.840.1.113733.1.9.7"

	messageCertRep        = "3"
	messageGetCertInitial = "20"

	pkiSuccess = "0"
	pkiFailure = "2"
	pkiPending = "3"
)

// Message types of requests, for [WithMessageType].
const (
	RenewalReq = "17"
	PKCSReq    = "19"
)

// SCEPFailure is a CertRep that refuses (RFC 8894, 3.2.1.3).
type SCEPFailure struct {
	FailInfo string // "0" badAlg … "4" badCertId
}

func (f *SCEPFailure) Error() string { return "SCEP: the server refuses, failInfo " + f.FailInfo }

// ErrSCEPPending means that the server still wants to be asked later, after all
// retries that the payload allows.
var ErrSCEPPending = errors.New("SCEP: still pending")

// SCEP is the client of one SCEP server as the profile installer uses it
// (PROTOCOL 7). Discover fills CA and Capabilities; set them to skip it.
type SCEP struct {
	URL         string
	Name        string // sent as message= of GetCACert and GetCACaps
	HTTP        *http.Client
	Fingerprint []byte // of the CA certificate; nothing is checked when empty
	Retries     int    // of a pending request
	RetryDelay  time.Duration
	Encoding    Encoding
	Now         func() time.Time
	Rand        io.Reader

	CA           *x509.Certificate
	Capabilities []string
}

// Can reports whether the server announced the capability, letter by letter.
func (s *SCEP) Can(keyword string) bool { return slices.Contains(s.Capabilities, keyword) }

// Discover asks for the CA certificate and the capabilities, in Apple's order,
// and refuses what Apple's client refuses.
func (s *SCEP) Discover(ctx context.Context) error {
	query := url.Values{"operation": {"GetCACert"}}
	if s.Name != "" {
		query.Set("message", s.Name)
	}
	kind, body, err := s.do(ctx, http.MethodGet, query.Encode(), nil)
	if err != nil {
		return fmt.Errorf("SCEP: GetCACert: %w", err)
	}
	// RA certificates would have to be sorted out by key usage; a server that
	// has them is not one that this device was made for.
	if kind != "application/x-x509-ca-cert" {
		return fmt.Errorf("SCEP: GetCACert: Content-Type %q, want application/x-x509-ca-cert", kind)
	}
	ca, err := x509.ParseCertificate(body)
	if err != nil {
		return fmt.Errorf("SCEP: GetCACert: not one DER certificate: %w", err)
	}
	if _, ok := ca.PublicKey.(*rsa.PublicKey); !ok {
		return fmt.Errorf("SCEP: GetCACert: the CA has a %T, want RSA", ca.PublicKey)
	}
	if err := checkFingerprint(ca.Raw, s.Fingerprint); err != nil {
		return err
	}
	query.Set("operation", "GetCACaps")
	_, body, err = s.do(ctx, http.MethodGet, query.Encode(), nil)
	if err != nil {
		return fmt.Errorf("SCEP: GetCACaps: %w", err)
	}
	s.CA, s.Capabilities = ca, strings.Split(string(body), "\n")
	if _, err := s.digest(); err != nil {
		return err
	}
	if !s.Can("AES") && !s.Can("DES3") {
		return errors.New("SCEP: GetCACaps: neither AES nor DES3")
	}
	return nil
}

// checkFingerprint compares raw digests; the length says which digest it is.
func checkFingerprint(cert, want []byte) error {
	if len(want) == 0 {
		return nil
	}
	if len(want) == md5.Size {
		if sum := md5.Sum(cert); !bytes.Equal(sum[:], want) {
			return errors.New("SCEP: CAFingerprint does not match the CA certificate")
		}
		return nil
	}
	for _, h := range []crypto.Hash{crypto.SHA1, crypto.SHA224, crypto.SHA256, crypto.SHA384, crypto.SHA512} {
		if h.Size() != len(want) {
			continue
		}
		sum := h.New()
		sum.Write(cert)
		if !bytes.Equal(sum.Sum(nil), want) {
			return errors.New("SCEP: CAFingerprint does not match the CA certificate")
		}
		return nil
	}
	return fmt.Errorf("SCEP: CAFingerprint of %d bytes is no digest", len(want))
}

// digest is the strongest that the server announced.
func (s *SCEP) digest() (crypto.Hash, error) {
	switch {
	case s.Can("SHA-512"):
		return crypto.SHA512, nil
	case s.Can("SHA-256"):
		return crypto.SHA256, nil
	case s.Can("SHA-1"):
		return crypto.SHA1, nil
	}
	return 0, errors.New("SCEP: CA does not have the required capability: no SHA keyword")
}

// SCEPRequest is a request ready to be sent, as often as wanted: a repeated Send
// is the network retry of a device that lost the answer.
type SCEPRequest struct {
	Raw           []byte // the pkiMessage
	CSR           []byte // DER
	TransactionID string
	SenderNonce   []byte

	key       crypto.Signer // of the certificate request
	signer    *x509.Certificate
	signerKey crypto.Signer
	get       GETForm
	poll      func() (*SCEPRequest, error) // the GetCertInitial that follows PENDING
}

// GETForm is how a message travels in the query of a GET.
type GETForm int

const (
	// POST is no GET: what Apple's client does when the server has POSTPKIOperation.
	POST GETForm = iota
	// GETHalfEscaped leaves + and / as they are, as macOS does.
	GETHalfEscaped
	// GETEscaped escapes all that form encoding escapes.
	GETEscaped
	// GETURLSafe uses the URL-safe base64 alphabet.
	GETURLSafe
)

// scepDraft is a request before it is encoded; options change it.
type scepDraft struct {
	csr         csr
	content     []byte // instead of the encoded csr
	messageType string
	id          string
	signer      *x509.Certificate
	signerKey   crypto.Signer
	recipient   *x509.Certificate
	cipher      string
	digest      crypto.Hash
	also        []*x509.Certificate
	get         GETForm
}

// SCEPOption changes one thing about a request. Most make it one that no honest
// device would send.
type SCEPOption func(*scepDraft)

// WithChallenge replaces the challenge password; several values make several
// attributes, none leaves it out.
func WithChallenge(challenges ...string) SCEPOption {
	return func(d *scepDraft) {
		d.csr.challenges = nil
		for _, c := range challenges {
			d.csr.challenges = append(d.csr.challenges, text(c))
		}
	}
}

// WithRawChallenge replaces the challenge password by a DER string of any type.
func WithRawChallenge(der []byte) SCEPOption {
	return func(d *scepDraft) { d.csr.challenges = [][]byte{der} }
}

// WithSubject replaces the requested subject.
func WithSubject(s Subject) SCEPOption {
	return func(d *scepDraft) { d.csr.subject, d.csr.rawSubject = s, nil }
}

// WithExtensions replaces the requested extensions.
func WithExtensions(list ...pkix.Extension) SCEPOption {
	return func(d *scepDraft) { d.csr.extensions = list }
}

// WithAttribute adds a DER attribute to the certificate request.
func WithAttribute(der []byte) SCEPOption {
	return func(d *scepDraft) { d.csr.attributes = append(d.csr.attributes, der) }
}

// WithPublicKey puts another public key into the certificate request; its
// signature remains the device's.
func WithPublicKey(key crypto.PublicKey) SCEPOption {
	return func(d *scepDraft) { d.csr.public = key }
}

// WithKey asks for a certificate of another key than a new one, as a client does
// that renews and keeps its key.
func WithKey(key crypto.Signer) SCEPOption {
	return func(d *scepDraft) {
		if d.csr.key == d.signerKey {
			d.signerKey = key
		}
		d.csr.key = key
	}
}

// WithBrokenSignature spoils the signature of the certificate request.
func WithBrokenSignature() SCEPOption { return func(d *scepDraft) { d.csr.broken = true } }

// WithContent replaces what the envelope holds, the certificate request.
func WithContent(content []byte) SCEPOption { return func(d *scepDraft) { d.content = content } }

// WithSigner signs the message by another certificate than the temporary one,
// for example by the old identity in a renewal.
func WithSigner(cert *x509.Certificate, key crypto.Signer) SCEPOption {
	return func(d *scepDraft) { d.signer, d.signerKey = cert, key }
}

// WithSignerKey signs the message by a temporary certificate of another key than
// the request's. A key that isn't RSA can't read the answer.
func WithSignerKey(key crypto.Signer) SCEPOption {
	return func(d *scepDraft) { d.signer, d.signerKey = nil, key }
}

// WithMessageType replaces [PKCSReq], for example by [RenewalReq].
func WithMessageType(t string) SCEPOption { return func(d *scepDraft) { d.messageType = t } }

// WithTransactionID replaces the digest of the public key.
func WithTransactionID(id string) SCEPOption { return func(d *scepDraft) { d.id = id } }

// WithRecipient encrypts to another certificate than the CA's.
func WithRecipient(cert *x509.Certificate) SCEPOption {
	return func(d *scepDraft) { d.recipient = cert }
}

// WithTripleDES encrypts by triple DES although the server has AES.
func WithTripleDES() SCEPOption { return func(d *scepDraft) { d.cipher = oidDES3 } }

// WithAES256 encrypts by AES-256, as clients other than Apple's do.
func WithAES256() SCEPOption { return func(d *scepDraft) { d.cipher = oidAES256 } }

// WithDigest replaces the strongest digest that the server has.
func WithDigest(h crypto.Hash) SCEPOption {
	return func(d *scepDraft) { d.digest, d.csr.digest = h, h }
}

// WithCertificates includes further certificates in the message.
func WithCertificates(certs ...*x509.Certificate) SCEPOption {
	return func(d *scepDraft) { d.also = certs }
}

// ByGET sends the message in the query, although the server takes POST.
func ByGET(form GETForm) SCEPOption { return func(d *scepDraft) { d.get = form } }

// Request makes a request for a certificate of key. The CSR carries subject,
// challenge (unless empty) and extensions.
func (s *SCEP) Request(key crypto.Signer, subject Subject, challenge string, extensions []pkix.Extension, opts ...SCEPOption) (*SCEPRequest, error) {
	hash, err := s.digest()
	if err != nil {
		return nil, err
	}
	d := scepDraft{
		csr:         csr{subject: subject, key: key, digest: hash, extensions: extensions},
		messageType: PKCSReq,
		signerKey:   key,
		recipient:   s.CA,
		cipher:      oidAES128,
		digest:      hash,
	}
	if challenge != "" {
		d.csr.challenges = [][]byte{text(challenge)}
	}
	if !s.Can("AES") {
		d.cipher = oidDES3
	}
	if !s.Can("POSTPKIOperation") {
		d.get = GETHalfEscaped
	}
	for _, opt := range opts {
		opt(&d)
	}
	if d.id == "" {
		spki, err := x509.MarshalPKIXPublicKey(d.csr.key.Public())
		if err != nil {
			return nil, fmt.Errorf("SCEP: %w", err)
		}
		sum := sha1.Sum(bitString(spki))
		d.id = strings.ToUpper(hex.EncodeToString(sum[:]))
	}
	if d.signer == nil {
		if d.signer, err = s.temporary(d.signerKey); err != nil {
			return nil, err
		}
	}
	if d.content == nil {
		if d.content, err = d.csr.der(); err != nil {
			return nil, err
		}
	}
	r, err := s.message(d)
	if err != nil {
		return nil, err
	}
	r.poll = func() (*SCEPRequest, error) {
		name, err := d.csr.name()
		if err != nil {
			return nil, err
		}
		again := d
		again.messageType = messageGetCertInitial
		again.content = der(tagSequence, s.CA.RawSubject, name) // IssuerAndSubject, RFC 8894, 3.3.3
		return s.message(again)
	}
	return r, nil
}

// bitString is the key inside a SubjectPublicKeyInfo: what Apple's client digests.
func bitString(spki []byte) []byte {
	el, err := parseBER(spki)
	if err != nil || !el.is(tagSequence, 2) || len(el.children[1].content) == 0 {
		return spki
	}
	return el.children[1].content[1:]
}

// temporary is the self-signed certificate that signs a first request.
func (s *SCEP) temporary(key crypto.Signer) (*x509.Certificate, error) {
	serial, err := readRandom(s.Rand, 16)
	if err != nil {
		return nil, err
	}
	serial[0] &= 0x7F
	name, err := newUUID(s.Rand)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(serial),
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    s.Now().Add(-time.Minute),
		NotAfter:     s.Now().AddDate(1, 0, 0),
		KeyUsage:     x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
	}
	raw, err := x509.CreateCertificate(s.Rand, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("SCEP: temporary certificate: %w", err)
	}
	return x509.ParseCertificate(raw)
}

// message encodes what d describes, with a fresh nonce.
func (s *SCEP) message(d scepDraft) (*SCEPRequest, error) {
	nonce, err := readRandom(s.Rand, 16)
	if err != nil {
		return nil, err
	}
	sealed, err := envelope(d.content, d.recipient, d.cipher, s.Encoding, s.Rand)
	if err != nil {
		return nil, err
	}
	raw, err := Signature{
		Certificate: d.signer, Key: d.signerKey, Digest: d.digest, SigningTime: s.Now(), Also: d.also, Encoding: s.Encoding,
		attributes: [][]byte{
			attributeDER(oidMessageType, der(tagPrintable, []byte(d.messageType))),
			attributeDER(oidTransactionID, der(tagPrintable, []byte(d.id))),
			attributeDER(oidSenderNonce, der(tagOctets, nonce)),
		},
	}.Sign(sealed)
	if err != nil {
		return nil, err
	}
	return &SCEPRequest{
		Raw: raw, CSR: d.content, TransactionID: d.id, SenderNonce: nonce,
		key: d.csr.key, signer: d.signer, signerKey: d.signerKey, get: d.get,
	}, nil
}

// Send sends r and reads the answer as strictly as Apple's client: a
// [*SCEPFailure] when the server refuses, [ErrSCEPPending] when it goes on to
// want time, other errors when a device would call the answer invalid.
func (s *SCEP) Send(ctx context.Context, r *SCEPRequest) (*x509.Certificate, error) {
	for try := 0; ; try++ {
		cert, err := s.exchange(ctx, r)
		if !errors.Is(err, ErrSCEPPending) || try >= s.Retries {
			return cert, err
		}
		if try > 0 { // the first retry comes without delay
			if err := sleep(ctx, s.RetryDelay); err != nil {
				return nil, err
			}
		}
		poll := r.poll
		if r, err = poll(); err != nil {
			return nil, err
		}
		r.poll = poll
	}
}

func (s *SCEP) exchange(ctx context.Context, r *SCEPRequest) (*x509.Certificate, error) {
	kind, body, err := s.Operate(ctx, r.Raw, r.get)
	if err != nil {
		return nil, fmt.Errorf("SCEP: PKIOperation: %w", err)
	}
	if kind != "application/x-pki-message" {
		return nil, fmt.Errorf("SCEP: PKIOperation: Content-Type %q, want application/x-pki-message", kind)
	}
	cert, err := s.certRep(body, r)
	if err != nil {
		return nil, fmt.Errorf("SCEP: CertRep: %w", err)
	}
	return cert, nil
}

// Operate sends any bytes as PKIOperation and returns the media type and body of
// a 200 answer; any other status is a [*HTTPError].
func (s *SCEP) Operate(ctx context.Context, message []byte, form GETForm) (mediaType string, body []byte, err error) {
	std := base64.StdEncoding.EncodeToString(message)
	switch form {
	case GETHalfEscaped:
		return s.do(ctx, http.MethodGet, "operation=PKIOperation&message="+strings.ReplaceAll(std, "=", "%3D"), nil)
	case GETEscaped:
		return s.do(ctx, http.MethodGet, "operation=PKIOperation&message="+url.QueryEscape(std), nil)
	case GETURLSafe:
		return s.do(ctx, http.MethodGet, "operation=PKIOperation&message="+base64.URLEncoding.EncodeToString(message), nil)
	}
	return s.do(ctx, http.MethodPost, "operation=PKIOperation", message)
}

func (s *SCEP) do(ctx context.Context, method, query string, body []byte) (string, []byte, error) {
	u, err := url.Parse(s.URL)
	if err != nil {
		return "", nil, err
	}
	if u.RawQuery != "" {
		query = u.RawQuery + "&" + query
	}
	u.RawQuery = query
	req, err := http.NewRequestWithContext(ctx, method, u.String(), bytes.NewReader(body))
	if err != nil {
		return "", nil, err
	}
	if method == http.MethodPost {
		req.Header.Set("Content-Type", "application/x-pki-message")
	}
	reply, err := roundTrip(s.HTTP, req)
	if err != nil {
		return "", nil, err
	}
	if reply.Status != http.StatusOK {
		return "", nil, reply.err()
	}
	return mediaType(reply.Header), reply.Body, nil
}

func mediaType(h http.Header) string {
	kind, _, err := mime.ParseMediaType(h.Get("Content-Type"))
	if err != nil {
		return h.Get("Content-Type")
	}
	return kind
}

// certRep reads the answer to r (PROTOCOL 7.4).
func (s *SCEP) certRep(body []byte, r *SCEPRequest) (*x509.Certificate, error) {
	sd, err := parseSignedData(body)
	if err != nil {
		return nil, err
	}
	info, signer, err := sd.verify(sd.content)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(signer.Raw, s.CA.Raw) {
		return nil, errors.New("not signed by the certificate that GetCACert returned")
	}
	if sd.contentType != oidData {
		return nil, fmt.Errorf("content type %s, want data", sd.contentType)
	}
	printable := func(id, name, want string) (string, error) {
		el, err := info.one(id, name)
		if err != nil {
			return "", err
		}
		if el.tag != tagPrintable {
			return "", fmt.Errorf("attribute %s has tag %#x, want PrintableString", name, el.tag)
		}
		if got := string(el.content); want != "" && got != want {
			return "", fmt.Errorf("attribute %s is %q, want %q", name, got, want)
		}
		return string(el.content), nil
	}
	if _, err := printable(oidMessageType, "messageType", messageCertRep); err != nil {
		return nil, err
	}
	if _, err := printable(oidTransactionID, "transactionID", r.TransactionID); err != nil {
		return nil, err
	}
	status, err := printable(oidPKIStatus, "pkiStatus", "")
	if err != nil {
		return nil, err
	}
	ours, err := info.one(oidRecipientNonce, "recipientNonce")
	if err != nil {
		return nil, err
	}
	if ours.tag != tagOctets || !bytes.Equal(ours.content, r.SenderNonce) {
		return nil, errors.New("attribute recipientNonce is not the nonce that was sent")
	}
	theirs, err := info.one(oidSenderNonce, "senderNonce")
	if err != nil {
		return nil, err
	}
	if theirs.tag != tagOctets || len(theirs.content) != 16 || bytes.Equal(theirs.content, r.SenderNonce) {
		return nil, errors.New("attribute senderNonce is not 16 new bytes")
	}
	switch status {
	case pkiSuccess:
		return s.issued(sd.content, r)
	case pkiFailure:
		reason, err := printable(oidFailInfo, "failInfo", "")
		if err != nil {
			return nil, err
		}
		if len(sd.content) > 0 {
			return nil, errors.New("a failure with content")
		}
		return nil, &SCEPFailure{FailInfo: reason}
	case pkiPending:
		return nil, ErrSCEPPending
	}
	return nil, fmt.Errorf("unknown pkiStatus %q", status)
}

// issued opens the envelope and takes the one certificate in it.
func (s *SCEP) issued(content []byte, r *SCEPRequest) (*x509.Certificate, error) {
	key, ok := r.signerKey.(*rsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("a signer with a %T can't open the envelope", r.signerKey)
	}
	plain, err := openEnvelope(content, r.signer, key, !s.Can("AES"))
	if err != nil {
		return nil, err
	}
	certs, err := parseSignedData(plain)
	if err != nil {
		return nil, err
	}
	if len(certs.certificates) != 1 || len(certs.signers) != 0 {
		return nil, fmt.Errorf("%d certificates and %d signers, want the issued certificate alone", len(certs.certificates), len(certs.signers))
	}
	cert, err := x509.ParseCertificate(certs.certificates[0])
	if err != nil {
		return nil, err
	}
	if public, ok := cert.PublicKey.(*rsa.PublicKey); !ok || !public.Equal(r.key.Public()) {
		return nil, errors.New("mismatching public keys")
	}
	return cert, nil
}
