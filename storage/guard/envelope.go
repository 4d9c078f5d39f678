package guard

import (
	"encoding/asn1"
	"fmt"

	"github.com/smallstep/pkcs7"
	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// Envelope is an EnvelopedData (RFC 5652, 6.1) as it came, before anybody tried
// to decrypt it. Nothing in it is authenticated.
type Envelope struct {
	Recipients []Recipient
	Algorithm  asn1.ObjectIdentifier // of the content's encryption
	Parameters []byte                // of the algorithm: a whole element, or nil
	Ciphertext []byte
}

// Recipient is a KeyTransRecipientInfo (RFC 5652, 6.2.1): a content key that was
// encrypted to one certificate.
type Recipient struct {
	Issuer, Serial []byte // of the certificate: whole elements in DER
	Algorithm      asn1.ObjectIdentifier
	EncryptedKey   []byte
}

// ParseEnvelope parses an EnvelopedData in BER of at most maxBytes bytes, or
// 64 KiB if that is zero.
func ParseEnvelope(data []byte, maxBytes int) (Envelope, error) {
	der, err := boundedCMS(data, maxBytes)
	if err != nil {
		return Envelope{}, err
	}
	var (
		e                      Envelope
		in                     = cryptobyte.String(der)
		info, outer, s         cryptobyte.String
		recipients, encrypted  cryptobyte.String
		algorithm              cryptobyte.String
		oid, inner             asn1.ObjectIdentifier
		version                int64
		tag                    cbasn1.Tag
		malformed              = fmt.Errorf("%w: it is not built as EnvelopedData is", ErrCMS)
		octets                 = cbasn1.Tag(0).ContextSpecific()
		ciphertext, parameters cryptobyte.String
	)
	if !in.ReadASN1(&info, cbasn1.SEQUENCE) ||
		!info.ReadASN1ObjectIdentifier(&oid) || !oid.Equal(pkcs7.OIDEnvelopedData) ||
		!info.ReadASN1(&outer, tagContext0) || !info.Empty() ||
		!outer.ReadASN1(&s, cbasn1.SEQUENCE) || !outer.Empty() {
		return Envelope{}, fmt.Errorf("%w: it is not EnvelopedData", ErrCMS)
	}
	if !s.ReadASN1Integer(&version) ||
		!s.ReadASN1(&recipients, cbasn1.SET) ||
		!s.ReadASN1(&encrypted, cbasn1.SEQUENCE) {
		return Envelope{}, malformed // what may follow, unprotected attributes, is of no use
	}
	for !recipients.Empty() {
		r, err := readRecipient(&recipients)
		if err != nil {
			return Envelope{}, err
		}
		e.Recipients = append(e.Recipients, r)
	}

	if !encrypted.ReadASN1ObjectIdentifier(&inner) ||
		!encrypted.ReadASN1(&algorithm, cbasn1.SEQUENCE) ||
		!algorithm.ReadASN1ObjectIdentifier(&e.Algorithm) {
		return Envelope{}, malformed
	}
	if !algorithm.Empty() && !algorithm.ReadAnyASN1Element(&parameters, &tag) || !algorithm.Empty() {
		return Envelope{}, malformed
	}
	e.Parameters = parameters
	// [0] IMPLICIT OCTET STRING, which BER may split as any other.
	switch {
	case encrypted.PeekASN1Tag(octets):
		if !encrypted.ReadASN1(&ciphertext, octets) {
			return Envelope{}, malformed
		}
		e.Ciphertext = ciphertext
	case encrypted.PeekASN1Tag(tagContext0):
		var pieces, piece cryptobyte.String
		if !encrypted.ReadASN1(&pieces, tagContext0) {
			return Envelope{}, malformed
		}
		for !pieces.Empty() {
			if !pieces.ReadASN1(&piece, cbasn1.OCTET_STRING) {
				return Envelope{}, malformed
			}
			e.Ciphertext = append(e.Ciphertext, piece...)
		}
	}
	if !encrypted.Empty() {
		return Envelope{}, malformed
	}
	return e, nil
}

func readRecipient(in *cryptobyte.String) (Recipient, error) {
	var r Recipient
	var info, id, algorithm, issuer, serial, key cryptobyte.String
	var version int64
	if !in.ReadASN1(&info, cbasn1.SEQUENCE) ||
		!info.ReadASN1Integer(&version) ||
		!info.ReadASN1(&id, cbasn1.SEQUENCE) ||
		!id.ReadASN1Element(&issuer, cbasn1.SEQUENCE) ||
		!id.ReadASN1Element(&serial, cbasn1.INTEGER) || !id.Empty() ||
		!info.ReadASN1(&algorithm, cbasn1.SEQUENCE) ||
		!algorithm.ReadASN1ObjectIdentifier(&r.Algorithm) ||
		!info.ReadASN1(&key, cbasn1.OCTET_STRING) || !info.Empty() {
		return Recipient{}, fmt.Errorf("%w: a recipient of a form that SCEP does not use", ErrCMS)
	}
	r.Issuer, r.Serial, r.EncryptedKey = issuer, serial, key
	return r, nil
}
