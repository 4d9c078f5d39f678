package guard

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/subtle"
	"crypto/x509"
	"encoding/asn1"
	"fmt"
	"io"
	"slices"
	"time"

	// The digests that Apple's clients choose from.
	_ "crypto/sha1"
	_ "crypto/sha256"
	_ "crypto/sha512"

	"github.com/smallstep/pkcs7"
	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// defaultCMSBytes bounds a CMS message for callers that name no limit. A SCEP
// request has about 3 KB, the signature of a check-in 2 KB.
const defaultCMSBytes = 64 << 10

// Signature is one verified signature over some content.
type Signature struct {
	// Certificate is the signer's, as the message brought it. That its key made
	// the signature is all that is known of it: its dates, its issuer and its
	// revocation were not looked at.
	Certificate *x509.Certificate

	SigningTime time.Time // zero if the signer did not say; its own claim
	Content     []byte    // what was signed

	// Others is how many certificates the message holds beside the signer's.
	// They were not parsed.
	Others int

	// Attributes are the signed ones, in the order of the message (RFC 5652, 5.3).
	Attributes []Attribute
}

// Attribute is one attribute of a CMS signer or of a certificate request.
type Attribute struct {
	Type   asn1.ObjectIdentifier
	Values [][]byte // each in DER, with its tag
}

// One returns the only value of the only attribute of the type t in attrs; ok is
// false if there is no such attribute. Several attributes or several values of
// the type are an error: which of them counted would be a matter of taste.
func One(attrs []Attribute, t asn1.ObjectIdentifier) (value []byte, ok bool, err error) {
	for _, a := range attrs {
		if !a.Type.Equal(t) {
			continue
		}
		if ok || len(a.Values) != 1 {
			return nil, false, fmt.Errorf("%w: attribute %s has not exactly one value", ErrCMS, t)
		}
		value, ok = a.Values[0], true
	}
	return value, ok, nil
}

// ParseCMS parses a CMS message in BER of at most maxBytes bytes, or 64 KiB if
// that is zero, for callers that want its certificates or its content. It checks
// no signature: VerifyAttached and VerifyDetached do.
func ParseCMS(data []byte, maxBytes int) (p7 *pkcs7.PKCS7, err error) {
	der, err := boundedCMS(data, maxBytes)
	if err != nil {
		return nil, err
	}
	defer refuse(ErrCMS, &err)
	p7, err = pkcs7.Parse(der)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCMS, err)
	}
	return p7, nil
}

// VerifyDetached checks a CMS SignedData message that need not hold what it
// signs, as the header Mdm-Signature of a check-in does (Apple, "Managing
// certificates for MDM servers and devices"). cms is its BER, of at most maxBytes
// bytes or 64 KiB, and content what was signed, to the byte.
//
// The message must have exactly one signer and bring its certificate. The
// signer's key is looked at before it is used. Whether the certificate is still,
// or already, valid is not judged: a device whose identity has expired must be
// recognised to get a new one.
func VerifyDetached(cms, content []byte, maxBytes int) (Signature, error) {
	sd, err := parseSignedData(cms, maxBytes)
	if err != nil {
		return Signature{}, err
	}
	if sd.attached && !bytes.Equal(sd.content, content) {
		return Signature{}, fmt.Errorf("%w: it holds other content", ErrSignature)
	}
	return sd.verify(content)
}

// VerifyDetachedReader is VerifyDetached for content that is too large to keep: it
// is read once, to its end, and Signature.Content stays empty.
func VerifyDetachedReader(cms []byte, content io.Reader, maxBytes int) (Signature, error) {
	sd, err := parseSignedData(cms, maxBytes)
	if err != nil {
		return Signature{}, err
	}
	if sd.attached {
		return Signature{}, fmt.Errorf("%w: it holds content of its own", ErrSignature)
	}
	return sd.verifyDigest(func(hash crypto.Hash) ([]byte, error) {
		h := hash.New()
		if _, err := io.Copy(h, content); err != nil {
			return nil, fmt.Errorf("read signed content: %w", err)
		}
		return h.Sum(nil), nil
	})
}

// VerifyAttached is VerifyDetached for a message that holds what it signs.
func VerifyAttached(cms []byte, maxBytes int) (Signature, error) {
	return verifyAttached(cms, maxBytes, minRSABits)
}

func verifyAttached(cms []byte, maxBytes, leastRSA int) (Signature, error) {
	sd, err := parseSignedData(cms, maxBytes)
	if err != nil {
		return Signature{}, err
	}
	sd.leastRSA = leastRSA
	if !sd.attached {
		return Signature{}, fmt.Errorf("%w: it holds no content", ErrCMS)
	}
	return sd.verify(sd.content)
}

func boundedCMS(data []byte, maxBytes int) ([]byte, error) {
	if err := within(len(data), maxBytes, defaultCMSBytes); err != nil {
		return nil, err
	}
	return normalize(data)
}

// signedData is a SignedData (RFC 5652, 5.1) with one signer, in pieces of the
// normalized message.
type signedData struct {
	contentType  asn1.ObjectIdentifier
	attached     bool // it holds its content
	content      []byte
	certificates [][]byte // each a whole element, unparsed

	issuer, serial []byte // of the signer's certificate: whole elements
	digest         asn1.ObjectIdentifier
	algorithm      asn1.ObjectIdentifier // of the signature
	signedAttrs    []byte                // whole element, with its implicit tag; nil if there are none
	signature      []byte

	leastRSA int // bits that an RSA key of the signer must have
}

var (
	tagContext0 = cbasn1.Tag(0).ContextSpecific().Constructed()
	tagContext1 = cbasn1.Tag(1).ContextSpecific().Constructed()

	errShape = fmt.Errorf("%w: it is not built as SignedData is", ErrCMS)
)

func parseSignedData(cms []byte, maxBytes int) (*signedData, error) {
	der, err := boundedCMS(cms, maxBytes)
	if err != nil {
		return nil, err
	}
	var (
		sd               = signedData{leastRSA: minRSABits}
		in               = cryptobyte.String(der)
		info, outer, s   cryptobyte.String
		encap, econtent  cryptobyte.String
		certs, signers   cryptobyte.String
		oid              asn1.ObjectIdentifier
		version          int64
		octets, ignored  cryptobyte.String
		hasEC, hasCerts  bool
		crls, extraneous bool
	)
	if !in.ReadASN1(&info, cbasn1.SEQUENCE) ||
		!info.ReadASN1ObjectIdentifier(&oid) || !oid.Equal(pkcs7.OIDSignedData) ||
		!info.ReadASN1(&outer, tagContext0) || !info.Empty() ||
		!outer.ReadASN1(&s, cbasn1.SEQUENCE) || !outer.Empty() {
		return nil, fmt.Errorf("%w: it is not SignedData", ErrCMS)
	}
	if !s.ReadASN1Integer(&version) ||
		!s.ReadASN1(&ignored, cbasn1.SET) || // digest algorithms: the signer names its own
		!s.ReadASN1(&encap, cbasn1.SEQUENCE) ||
		!s.ReadOptionalASN1(&certs, &hasCerts, tagContext0) ||
		!s.ReadOptionalASN1(&ignored, &crls, tagContext1) ||
		!s.ReadASN1(&signers, cbasn1.SET) || !s.Empty() {
		return nil, errShape
	}
	if !encap.ReadASN1ObjectIdentifier(&sd.contentType) ||
		!encap.ReadOptionalASN1(&econtent, &hasEC, tagContext0) || !encap.Empty() {
		return nil, errShape
	}
	if hasEC {
		if !econtent.ReadASN1(&octets, cbasn1.OCTET_STRING) || !econtent.Empty() {
			return nil, errShape
		}
		sd.attached, sd.content = true, octets
	}
	for hasCerts && !certs.Empty() {
		var cert cryptobyte.String
		var tag cbasn1.Tag
		if !certs.ReadAnyASN1Element(&cert, &tag) {
			return nil, errShape
		}
		sd.certificates = append(sd.certificates, cert)
	}

	// SignerInfo (RFC 5652, 5.3).
	var signer, sid, alg cryptobyte.String
	if !signers.ReadASN1(&signer, cbasn1.SEQUENCE) || !signers.Empty() {
		return nil, fmt.Errorf("%w: it has not exactly one signer", ErrCMS)
	}
	if !signer.ReadASN1Integer(&version) ||
		!signer.ReadASN1(&sid, cbasn1.SEQUENCE) ||
		!sid.ReadASN1Element((*cryptobyte.String)(&sd.issuer), cbasn1.SEQUENCE) ||
		!sid.ReadASN1Element((*cryptobyte.String)(&sd.serial), cbasn1.INTEGER) || !sid.Empty() ||
		!signer.ReadASN1(&alg, cbasn1.SEQUENCE) || !alg.ReadASN1ObjectIdentifier(&sd.digest) {
		return nil, errShape
	}
	if signer.PeekASN1Tag(tagContext0) && !signer.ReadASN1Element((*cryptobyte.String)(&sd.signedAttrs), tagContext0) {
		return nil, errShape
	}
	if !signer.ReadASN1(&alg, cbasn1.SEQUENCE) || !alg.ReadASN1ObjectIdentifier(&sd.algorithm) ||
		!signer.ReadASN1((*cryptobyte.String)(&sd.signature), cbasn1.OCTET_STRING) ||
		!signer.ReadOptionalASN1(&ignored, &extraneous, tagContext1) || !signer.Empty() {
		return nil, errShape
	}
	return &sd, nil
}

// verify checks sd's signature over content.
func (sd *signedData) verify(content []byte) (Signature, error) {
	sig, err := sd.verifyDigest(func(hash crypto.Hash) ([]byte, error) { return sum(hash, content), nil })
	if err != nil {
		return Signature{}, err
	}
	sig.Content = content
	return sig, nil
}

// verifyDigest checks sd's signature over what digestOf digests.
func (sd *signedData) verifyDigest(digestOf func(crypto.Hash) ([]byte, error)) (Signature, error) {
	cert, err := sd.signer()
	if err != nil {
		return Signature{}, err
	}
	if err := checkKeyBoundsFrom(cert.PublicKey, sd.leastRSA); err != nil {
		return Signature{}, err
	}
	hash, err := signatureHash(cert.PublicKey, sd.digest, sd.algorithm)
	if err != nil {
		return Signature{}, err
	}

	sig := Signature{Certificate: cert, Others: len(sd.certificates) - 1}
	digest, err := digestOf(hash)
	if err != nil {
		return Signature{}, err
	}
	if sd.signedAttrs == nil {
		// RFC 5652, 5.3: without attributes, the content is plain data.
		if !sd.contentType.Equal(pkcs7.OIDData) {
			return Signature{}, fmt.Errorf("%w: content that is not plain data, without signed attributes", ErrCMS)
		}
		if !rightSignature(cert.PublicKey, hash, digest, sd.signature) {
			return Signature{}, ErrSignature
		}
		return sig, nil
	}

	if sig.Attributes, err = parseAttributes(sd.signedAttrs, tagContext0); err != nil {
		return Signature{}, err
	}
	if err := sd.checkContentType(sig.Attributes); err != nil {
		return Signature{}, err
	}
	if err := checkMessageDigest(sig.Attributes, digest); err != nil {
		return Signature{}, err
	}
	if sig.SigningTime, err = signingTime(sig.Attributes); err != nil {
		return Signature{}, err
	}
	// RFC 5652, 5.4: what is signed is the DER of the SET OF that the implicit tag
	// stands for. Its members come as the signer wrote them; if that was not in
	// DER's order, the signer may nevertheless have signed that order.
	asSent := bytes.Clone(sd.signedAttrs)
	asSent[0] = tagSet
	if rightSignature(cert.PublicKey, hash, sum(hash, asSent), sd.signature) {
		return sig, nil
	}
	if sorted := sortedSet(asSent); !bytes.Equal(sorted, asSent) &&
		rightSignature(cert.PublicKey, hash, sum(hash, sorted), sd.signature) {
		return sig, nil
	}
	return Signature{}, ErrSignature
}

// signer finds and parses the signer's certificate, and no other.
func (sd *signedData) signer() (*x509.Certificate, error) {
	for _, raw := range sd.certificates {
		issuer, serial, ok := issuerAndSerial(raw)
		if !ok || !bytes.Equal(issuer, sd.issuer) || !bytes.Equal(serial, sd.serial) {
			continue
		}
		return parseCertificate(raw)
	}
	return nil, fmt.Errorf("%w: the signer's certificate is not in it", ErrCMS)
}

// issuerAndSerial returns these two elements of a certificate (RFC 5280, 4.1).
func issuerAndSerial(raw []byte) (issuer, serial []byte, ok bool) {
	var cert, tbs, skipped cryptobyte.String
	var i, n cryptobyte.String
	in := cryptobyte.String(raw)
	ok = in.ReadASN1(&cert, cbasn1.SEQUENCE) &&
		cert.ReadASN1(&tbs, cbasn1.SEQUENCE) &&
		tbs.SkipOptionalASN1(tagContext0) && // version
		tbs.ReadASN1Element(&n, cbasn1.INTEGER) &&
		tbs.ReadASN1(&skipped, cbasn1.SEQUENCE) && // signature algorithm
		tbs.ReadASN1Element(&i, cbasn1.SEQUENCE)
	return i, n, ok
}

func (sd *signedData) checkContentType(attrs []Attribute) error {
	value, ok, err := One(attrs, pkcs7.OIDAttributeContentType)
	if err != nil {
		return err
	}
	var oid asn1.ObjectIdentifier
	in := cryptobyte.String(value)
	if !ok || !in.ReadASN1ObjectIdentifier(&oid) || !in.Empty() || !oid.Equal(sd.contentType) {
		return fmt.Errorf("%w: the signed content type is not that of the content", ErrCMS)
	}
	return nil
}

func checkMessageDigest(attrs []Attribute, digest []byte) error {
	value, ok, err := One(attrs, pkcs7.OIDAttributeMessageDigest)
	if err != nil {
		return err
	}
	var signed cryptobyte.String
	in := cryptobyte.String(value)
	if !ok || !in.ReadASN1(&signed, cbasn1.OCTET_STRING) || !in.Empty() {
		return fmt.Errorf("%w: no signed digest", ErrCMS)
	}
	if subtle.ConstantTimeCompare(signed, digest) != 1 {
		return fmt.Errorf("%w: it is over other content", ErrSignature)
	}
	return nil
}

// signingTime reads the attribute of that name (RFC 5652, 11.3).
func signingTime(attrs []Attribute) (time.Time, error) {
	value, ok, err := One(attrs, pkcs7.OIDAttributeSigningTime)
	if err != nil || !ok {
		return time.Time{}, err
	}
	var t time.Time
	in := cryptobyte.String(value)
	read := in.ReadASN1UTCTime
	if in.PeekASN1Tag(cbasn1.GeneralizedTime) {
		read = in.ReadASN1GeneralizedTime
	}
	if !read(&t) || !in.Empty() {
		return time.Time{}, fmt.Errorf("%w: malformed signing time", ErrCMS)
	}
	return t.UTC(), nil
}

// parseAttributes reads a whole element that is a SET OF Attribute under tag.
func parseAttributes(raw []byte, tag cbasn1.Tag) ([]Attribute, error) {
	malformed := fmt.Errorf("%w: malformed attribute", ErrCMS)
	in := cryptobyte.String(raw)
	var set cryptobyte.String
	if !in.ReadASN1(&set, tag) || !in.Empty() {
		return nil, malformed
	}
	var attrs []Attribute
	for !set.Empty() {
		var attr, values cryptobyte.String
		var a Attribute
		if !set.ReadASN1(&attr, cbasn1.SEQUENCE) ||
			!attr.ReadASN1ObjectIdentifier(&a.Type) ||
			!attr.ReadASN1(&values, cbasn1.SET) || !attr.Empty() {
			return nil, malformed
		}
		for !values.Empty() {
			var value cryptobyte.String
			var any cbasn1.Tag
			if !values.ReadAnyASN1Element(&value, &any) {
				return nil, malformed
			}
			a.Values = append(a.Values, value)
		}
		attrs = append(attrs, a)
	}
	return attrs, nil
}

// sortedSet returns the SET OF in set with its members in DER's order (X.690,
// 11.6).
func sortedSet(set []byte) []byte {
	in := cryptobyte.String(set)
	var members cryptobyte.String
	if !in.ReadASN1(&members, cbasn1.SET) {
		return set
	}
	head := len(set) - len(members)
	var parts [][]byte
	for !members.Empty() {
		var part cryptobyte.String
		var tag cbasn1.Tag
		if !members.ReadAnyASN1Element(&part, &tag) {
			return set
		}
		parts = append(parts, part)
	}
	slices.SortFunc(parts, bytes.Compare)
	return append(bytes.Clone(set[:head]), bytes.Join(parts, nil)...)
}

// Signature algorithms beside those that pkcs7 names.
var (
	oidECPublicKey     = asn1.ObjectIdentifier{1, 2, 840, 10045, 2, 1}
	oidECDSAWithSHA224 = asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 1}
)

// signatureHash returns the hash function that digest names, if algorithm is a
// signature with pub and, should it name a hash as well, with the same one
// (RFC 3370, 3; RFC 5754, 3).
func signatureHash(pub any, digest, algorithm asn1.ObjectIdentifier) (crypto.Hash, error) {
	for _, f := range []struct {
		hash               crypto.Hash
		digest, rsa, ecdsa asn1.ObjectIdentifier
	}{
		{crypto.SHA1, pkcs7.OIDDigestAlgorithmSHA1, pkcs7.OIDEncryptionAlgorithmRSASHA1, pkcs7.OIDDigestAlgorithmECDSASHA1},
		{crypto.SHA224, pkcs7.OIDDigestAlgorithmSHA224, pkcs7.OIDEncryptionAlgorithmRSASHA224, oidECDSAWithSHA224},
		{crypto.SHA256, pkcs7.OIDDigestAlgorithmSHA256, pkcs7.OIDEncryptionAlgorithmRSASHA256, pkcs7.OIDDigestAlgorithmECDSASHA256},
		{crypto.SHA384, pkcs7.OIDDigestAlgorithmSHA384, pkcs7.OIDEncryptionAlgorithmRSASHA384, pkcs7.OIDDigestAlgorithmECDSASHA384},
		{crypto.SHA512, pkcs7.OIDDigestAlgorithmSHA512, pkcs7.OIDEncryptionAlgorithmRSASHA512, pkcs7.OIDDigestAlgorithmECDSASHA512},
	} {
		if !digest.Equal(f.digest) {
			continue
		}
		switch pub.(type) {
		case *rsa.PublicKey:
			if algorithm.Equal(pkcs7.OIDEncryptionAlgorithmRSA) || algorithm.Equal(f.rsa) {
				return f.hash, nil
			}
		case *ecdsa.PublicKey:
			if algorithm.Equal(oidECPublicKey) || algorithm.Equal(f.ecdsa) {
				return f.hash, nil
			}
		}
		return 0, fmt.Errorf("%w: a signature algorithm that does not go with its digest and key", ErrCMS)
	}
	return 0, fmt.Errorf("%w: an unknown digest algorithm", ErrCMS)
}

// rightSignature checks a signature without crypto/x509, which refuses SHA-1:
// what a device's CMS library chooses is not ours to change, and a chosen-prefix
// collision in its own message would gain it nothing.
func rightSignature(pub any, hash crypto.Hash, digest, signature []byte) bool {
	switch key := pub.(type) {
	case *rsa.PublicKey:
		return rsa.VerifyPKCS1v15(key, hash, digest, signature) == nil
	case *ecdsa.PublicKey:
		return ecdsa.VerifyASN1(key, digest, signature)
	}
	return false
}

func sum(hash crypto.Hash, data []byte) []byte {
	h := hash.New()
	h.Write(data)
	return h.Sum(nil)
}

// parseCertificate parses one certificate of a message.
func parseCertificate(raw []byte) (cert *x509.Certificate, err error) {
	defer refuse(ErrCertificate, &err)
	cert, err = x509.ParseCertificate(raw)
	if err != nil {
		return nil, fmt.Errorf("%w: crypto/x509 can't read it", ErrCertificate)
	}
	return cert, nil
}
