package ocsp

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/asn1"
	"fmt"
	"time"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/gatehouse-mdm/gatehouse/depot"
)

// OCSPResponseStatus of responses that say nothing else (RFC 6960, 4.2.1).
const (
	malformedRequest = 1
	internalError    = 2
	tryLater         = 3
	unauthorized     = 6 // we can't speak for the issuer (RFC 5019, 2.2.3)
)

// refusal is a response of nothing but a status, which nobody signs.
func refusal(status byte) []byte { return []byte{0x30, 3, 0x0a, 1, status} }

var (
	oidBasic           = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 48, 1, 1}
	oidECDSAWithSHA256 = asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 2}
)

// Tags of CertStatus, and of its revocationReason.
var (
	tagGood    = cbasn1.Tag(0).ContextSpecific()
	tagRevoked = tag1
	tagUnknown = cbasn1.Tag(2).ContextSpecific()
)

// single is what a response says of one certificate.
type single struct {
	certID string // DER
	known  bool
	depot.Certificate
}

// response is what a signed response says.
type response struct {
	at, next time.Time // thisUpdate, which is producedAt too, and nextUpdate
	singles  []single
	nonce    []byte // nil: none
}

// sign returns the OCSPResponse in DER (RFC 6960, 4.2.1).
func (r response) sign(by *depot.Responder) ([]byte, error) {
	public, ok := by.Signer().Public().(*ecdsa.PublicKey)
	if !ok {
		return nil, fmt.Errorf("sign OCSP response: the key is a %T, not ECDSA", by.Signer().Public())
	}
	key, err := public.Bytes()
	if err != nil {
		return nil, fmt.Errorf("sign OCSP response: %w", err)
	}
	data, err := r.data(sha1.Sum(key)) // KeyHash is SHA-1, whatever the signature
	if err != nil {
		return nil, fmt.Errorf("encode OCSP response: %w", err)
	}
	digest := sha256.Sum256(data)
	signature, err := by.Signer().Sign(rand.Reader, digest[:], crypto.SHA256)
	if err != nil {
		return nil, fmt.Errorf("sign OCSP response: %w", err)
	}

	b := cryptobyte.NewBuilder(make([]byte, 0, len(data)+len(signature)+len(by.Certificate().Raw)+64))
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) { // OCSPResponse
		b.AddASN1Enum(0) // successful
		b.AddASN1(tag0, func(b *cryptobyte.Builder) {
			b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) { // ResponseBytes
				b.AddASN1ObjectIdentifier(oidBasic)
				b.AddASN1(cbasn1.OCTET_STRING, func(b *cryptobyte.Builder) {
					b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) { // BasicOCSPResponse
						b.AddBytes(data)
						b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) { b.AddASN1ObjectIdentifier(oidECDSAWithSHA256) })
						b.AddASN1BitString(signature)
						b.AddASN1(tag0, func(b *cryptobyte.Builder) {
							b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) { b.AddBytes(by.Certificate().Raw) })
						})
					})
				})
			})
		})
	})
	der, err := b.Bytes()
	if err != nil {
		return nil, fmt.Errorf("encode OCSP response: %w", err)
	}
	return der, nil
}

// data is the ResponseData: what is signed.
func (r response) data(keyHash [sha1.Size]byte) ([]byte, error) {
	b := cryptobyte.NewBuilder(make([]byte, 0, 256))
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1(tag2, func(b *cryptobyte.Builder) { b.AddASN1OctetString(keyHash[:]) }) // responderID byKey
		b.AddASN1GeneralizedTime(r.at)
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
			for _, s := range r.singles {
				b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
					b.AddBytes([]byte(s.certID))
					s.addStatus(b)
					b.AddASN1GeneralizedTime(r.at)
					b.AddASN1(tag0, func(b *cryptobyte.Builder) { b.AddASN1GeneralizedTime(r.next) })
				})
			}
		})
		if r.nonce == nil {
			return
		}
		b.AddASN1(tag1, func(b *cryptobyte.Builder) { // responseExtensions
			b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
				b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
					b.AddASN1ObjectIdentifier(oidNonce)
					b.AddASN1(cbasn1.OCTET_STRING, func(b *cryptobyte.Builder) { b.AddASN1OctetString(r.nonce) })
				})
			})
		})
	})
	return b.Bytes()
}

// addStatus adds the CertStatus. That a certificate has expired makes it no worse:
// who asks sees that for himself.
func (s single) addStatus(b *cryptobyte.Builder) {
	switch {
	case !s.known:
		b.AddASN1(tagUnknown, func(*cryptobyte.Builder) {})
	case s.RevokedAt.IsZero():
		b.AddASN1(tagGood, func(*cryptobyte.Builder) {})
	default:
		b.AddASN1(tagRevoked, func(b *cryptobyte.Builder) {
			b.AddASN1GeneralizedTime(s.RevokedAt.UTC())
			// "unspecified" is said by leaving it out, as on a CRL (RFC 5280, 5.3.1).
			if code, _ := depot.ReasonCode(s.RevocationReason); code != 0 {
				b.AddASN1(tag0, func(b *cryptobyte.Builder) { b.AddASN1Enum(int64(code)) })
			}
		})
	}
}
