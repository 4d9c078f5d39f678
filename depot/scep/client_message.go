package scep

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"fmt"
	"math/big"
	"time"

	"github.com/smallstep/pkcs7"
	"github.com/smallstep/scep"
	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/gatehouse-mdm/gatehouse/storage/guard"
)

// oidFailInfoText is the attribute in which some servers say why (RFC 8894, 3.2.1.4).
var oidFailInfoText = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 24, 1}

// transaction is one request to another server, and the questions after it.
type transaction struct {
	id     string
	csr    *x509.CertificateRequest
	trust  *trust
	cipher contentCipher

	// A request of somebody else is passed on, whose key we don't have. RFC 8894, 2.3,
	// says of it that the certificate which signs SHOULD have the request's own key: the
	// request proves that key by its own signature, and the answer is encrypted to this
	// one, which is made for the transaction and forgotten with it.
	key  *rsa.PrivateKey
	cert *x509.Certificate
}

// signerLife is how long the certificate of a transaction lasts, a day before it and a
// day after: clocks differ.
const signerLife = 24 * time.Hour

func (c *Client) begin(ca *trust, caps capabilitySet, csr *x509.CertificateRequest) (*transaction, error) {
	key, err := c.newKey(2048)
	if err != nil {
		return nil, fmt.Errorf("make SCEP key: %w", err)
	}
	now := c.now()
	serial := make([]byte, 16)
	rand.Read(serial) // never fails
	serial[0] &= 0x7f
	tmpl := &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(serial),
		Subject:      pkix.Name{CommonName: throwawayName}, // by which servers know such a key
		NotBefore:    now.Add(-signerLife), NotAfter: now.Add(signerLife),
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("sign SCEP certificate: %w", err)
	}
	cert, err := guard.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("sign SCEP certificate: %w", err)
	}
	id := sha256.Sum256(csr.RawSubjectPublicKeyInfo)
	return &transaction{
		id: hex.EncodeToString(id[:]), csr: csr, trust: ca, cipher: caps.cipher(), key: key, cert: cert,
	}, nil
}

// message returns a pkiMessage (RFC 8894, 3.2) and the nonce that its answer must repeat.
func (t *transaction) message(messageType scep.MessageType, content []byte) (raw, nonce []byte, err error) {
	sealed, err := encrypt(content, t.trust.recipient, t.cipher)
	if err != nil {
		return nil, nil, err
	}
	nonce = make([]byte, 16)
	rand.Read(nonce) // never fails
	raw, err = sign(sealed, t.cert, t.key, []pkcs7.Attribute{
		{Type: oidMessageType, Value: printableString(string(messageType))},
		{Type: oidTransactionID, Value: printableString(t.id)},
		{Type: oidSenderNonce, Value: nonce},
	})
	return raw, nonce, err
}

// issuerAndSubject is what is asked with after a request (RFC 8894, 3.3.3).
func (t *transaction) issuerAndSubject() []byte {
	b := cryptobyte.NewBuilder(nil)
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddBytes(t.trust.ca.RawSubject)
		b.AddBytes(t.csr.RawSubject)
	})
	return b.BytesOrPanic()
}

// response is a CertRep whose signature is right.
type response struct {
	status  scep.PKIStatus
	failure string // of FAILURE: why, in words
	content []byte
}

// read checks an answer to the message with a nonce.
func (t *transaction) read(raw, nonce []byte) (response, error) {
	sig, err := guard.VerifyAttached(raw, maxMessage)
	if err != nil { // only success needs content
		sig, err = guard.VerifyDetached(raw, nil, maxMessage)
	}
	if err != nil {
		return response{}, refusal("its answer can't be read: %w", err)
	}
	if !t.trust.has(sig.Certificate) {
		return response{}, refusal("its answer is signed by %.200q, which is not one of the certificates that it names", sig.Certificate.Subject)
	}
	messageType, err := printable(sig.Attributes, oidMessageType)
	if err != nil || messageType != string(scep.CertRep) {
		return response{}, refusal("its answer is no CertRep")
	}
	if id, err := printable(sig.Attributes, oidTransactionID); err != nil || id != t.id {
		return response{}, refusal("its answer is to another transaction")
	}
	if echo, err := octets(sig.Attributes, oidRecipientNonce); err != nil || !bytes.Equal(echo, nonce) {
		return response{}, refusal("its answer is to another message: the nonce differs")
	}
	status, err := printable(sig.Attributes, oidPKIStatus)
	if err != nil {
		return response{}, refusal("pkiStatus: %w", err)
	}
	r := response{status: scep.PKIStatus(status), content: sig.Content}
	switch r.status {
	case scep.SUCCESS, scep.PENDING:
	case scep.FAILURE:
		r.failure = failure(sig.Attributes)
	default:
		return response{}, refusal("pkiStatus %q is none", status)
	}
	return r, nil
}

// failure is why a request was refused, as far as the answer tells.
func failure(attrs []guard.Attribute) string {
	info, err := printable(attrs, oidFailInfo)
	if err != nil {
		info = "failure"
	}
	for number, name := range []string{"badAlg", "badMessageCheck", "badRequest", "badTime", "badCertId"} {
		if info == fmt.Sprint(number) {
			info = name
		}
	}
	value, ok, err := guard.One(attrs, oidFailInfoText)
	if !ok || err != nil {
		return info
	}
	var text cryptobyte.String
	var tag cbasn1.Tag
	in := cryptobyte.String(value)
	if !in.ReadAnyASN1(&text, &tag) {
		return info
	}
	if s, err := directoryString(tag, text); err == nil {
		info += fmt.Sprintf(" (%.200q)", s)
	}
	return info
}

// certificate returns what a successful answer brings (RFC 8894, 3.3.2.1).
func (t *transaction) certificate(r response, now time.Time) (*x509.Certificate, error) {
	envelope, err := guard.ParseEnvelope(r.content, maxMessage)
	if err != nil {
		return nil, refusal("its answer holds nothing encrypted: %w", err)
	}
	plain, _ := decrypt(envelope, t.cert, t.key)
	if plain == nil {
		return nil, refusal("its answer can't be decrypted")
	}
	certs, err := bundled(plain)
	if err != nil {
		return nil, err
	}
	t.trust.extend(certs) // authorities between may be among them
	for _, cert := range certs {
		if sameKey(cert.PublicKey, t.csr.PublicKey) {
			if err := t.check(cert, now); err != nil {
				return nil, err
			}
			return cert, nil
		}
	}
	return nil, refusal("its answer has no certificate for the key of the request")
}

// check refuses a certificate that is not what was asked for, whoever says that it is.
func (t *transaction) check(cert *x509.Certificate, now time.Time) error {
	switch {
	case !t.trust.issued(cert):
		return refusal("the certificate is not issued by its authority, or signed by an algorithm that is no longer safe")
	case cert.IsCA || cert.KeyUsage&(x509.KeyUsageCertSign|x509.KeyUsageCRLSign) != 0:
		return refusal("the certificate is an authority's")
	case !now.Before(cert.NotAfter):
		return refusal("the certificate expired on %s", day(cert.NotAfter))
	case cert.NotBefore.After(now.Add(signerLife)):
		return refusal("the certificate is not valid before %s", day(cert.NotBefore))
	case cert.SerialNumber.Sign() <= 0 || cert.SerialNumber.BitLen() > 20*8: // RFC 5280, 4.1.2.2
		return refusal("the certificate has an impossible serial number")
	}
	return nil
}
