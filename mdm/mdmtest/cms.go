package mdmtest

import (
	"bytes"
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/des"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	_ "crypto/sha1" // the digests that signers may choose
	_ "crypto/sha256"
	_ "crypto/sha512"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"slices"
	"time"
)

// Object identifiers of RFC 5652, RFC 3370, RFC 3565, RFC 5754 and RFC 8894.
const (
	oidData          = "1.2.840.113549.1.7.1"
	oidSignedData    = "1.2.840.113549.1.7.2"
	oidEnvelopedData = "1.2.840.113549.1.7.3"
	oidContentType   = "1.2.840.113549.1.9.3"
	oidMessageDigest = "1.2.840.113549.1.9.4"
	oidSigningTime   = "1.2.840.113549.1.9.5"
	oidRSA           = "1.2.840.113549.1.1.1"
	oidDES3          = "1.2.840.113549.3.7"
	oidAES128        = "2.16.840.1.101.3.4.1.2"
	oidAES192        = "2.16.840.1.101.3.4.1.22"
	oidAES256        = "2.16.840.1.101.3.4.1.42"
)

// digestOIDs are the identifiers that belong to one digest.
type digestOIDs struct {
	hash               crypto.Hash
	digest, rsa, ecdsa string
}

func digests() []digestOIDs {
	return []digestOIDs{
		{crypto.SHA256, "2.16.840.1.101.3.4.2.1", "1.2.840.113549.1.1.11", "1.2.840.10045.4.3.2"},
		{crypto.SHA384, "2.16.840.1.101.3.4.2.2", "1.2.840.113549.1.1.12", "1.2.840.10045.4.3.3"},
		{crypto.SHA512, "2.16.840.1.101.3.4.2.3", "1.2.840.113549.1.1.13", "1.2.840.10045.4.3.4"},
		{crypto.SHA1, "1.3.14.3.2.26", "1.2.840.113549.1.1.5", "1.2.840.10045.4.1"},
	}
}

func digestOf(hash crypto.Hash) (digestOIDs, error) {
	for _, d := range digests() {
		if d.hash == hash {
			return d, nil
		}
	}
	return digestOIDs{}, fmt.Errorf("CMS: no identifier for %v", hash)
}

// Signature says how a CMS SignedData is made (RFC 5652, 5).
type Signature struct {
	Certificate *x509.Certificate
	Key         crypto.Signer       // RSA (PKCS #1 v1.5) or ECDSA
	Digest      crypto.Hash         // SHA-256 when zero
	Detached    bool                // leave the content out, as Mdm-Signature does
	SigningTime time.Time           // no attribute when zero
	Also        []*x509.Certificate // included beside the signer's
	Encoding    Encoding

	NoAttributes bool // sign the content itself (RFC 5652, 5.3)
	Signers      int  // how often the signer signs: once when zero, never when negative

	attributes [][]byte // more signed attributes, DER
}

// Sign makes the SignedData over content.
func (s Signature) Sign(content []byte) ([]byte, error) {
	if s.Digest == 0 {
		s.Digest = crypto.SHA256
	}
	ids, err := digestOf(s.Digest)
	if err != nil {
		return nil, err
	}
	digest := der(tagSequence, oid(ids.digest), der(tagNull))
	signer, err := s.signer(content, ids, digest)
	if err != nil {
		return nil, err
	}
	signers := slices.Repeat([][]byte{signer}, max(s.Signers, 0))
	if s.Signers == 0 {
		signers = [][]byte{signer}
	}

	e := s.Encoding
	encapsulated := e.wrap(tagSequence, oid(oidData))
	if !s.Detached {
		encapsulated = e.wrap(tagSequence, oid(oidData), e.wrap(tagContext0, e.octets(tagOctets, content)))
	}
	certificates := [][]byte{s.Certificate.Raw}
	for _, c := range s.Also {
		certificates = append(certificates, c.Raw)
	}
	return e.wrap(tagSequence, oid(oidSignedData), e.wrap(tagContext0, e.wrap(tagSequence,
		integer(big.NewInt(1)),
		der(tagSet, digest),
		encapsulated,
		e.wrap(tagContext0, certificates...),
		der(tagSet, signers...)))), nil
}

// signer is the SignerInfo (RFC 5652, 5.3).
func (s Signature) signer(content []byte, ids digestOIDs, digest []byte) ([]byte, error) {
	h := s.Digest.New()
	h.Write(content)
	var signed []byte
	if !s.NoAttributes {
		attributes := append([][]byte{
			attributeDER(oidContentType, oid(oidData)),
			attributeDER(oidMessageDigest, der(tagOctets, h.Sum(nil))),
		}, s.attributes...)
		if !s.SigningTime.IsZero() {
			attributes = append(attributes, attributeDER(oidSigningTime, utcTime(s.SigningTime)))
		}
		// What is signed is the SET OF; what is sent is its [0] IMPLICIT form (5.4).
		h.Reset()
		h.Write(sortedSet(tagSet, attributes...))
		signed = sortedSet(tagContext0, attributes...)
	}
	signature, err := s.Key.Sign(rand.Reader, h.Sum(nil), s.Digest)
	if err != nil {
		return nil, fmt.Errorf("CMS: sign: %w", err)
	}
	algorithm := der(tagSequence, oid(oidRSA), der(tagNull))
	if _, ok := s.Key.Public().(*ecdsa.PublicKey); ok {
		algorithm = der(tagSequence, oid(ids.ecdsa))
	}
	return der(tagSequence,
		integer(big.NewInt(1)),
		der(tagSequence, s.Certificate.RawIssuer, integer(s.Certificate.SerialNumber)),
		digest,
		signed,
		algorithm,
		der(tagOctets, signature)), nil
}

// attributeDER is an Attribute with one value.
func attributeDER(id string, value []byte) []byte {
	return der(tagSequence, oid(id), der(tagSet, value))
}

// envelope encrypts content for an RSA recipient (RFC 5652, 6). The algorithm is
// one of the identifiers that blockCipher knows.
func envelope(content []byte, recipient *x509.Certificate, algorithm string, e Encoding, random io.Reader) ([]byte, error) {
	public, ok := recipient.PublicKey.(*rsa.PublicKey)
	if !ok {
		return nil, fmt.Errorf("CMS: recipient has a %T, SCEP needs RSA", recipient.PublicKey)
	}
	newCipher, size := blockCipher(algorithm)
	if newCipher == nil {
		return nil, fmt.Errorf("CMS: no cipher %s", algorithm)
	}
	key := make([]byte, size)
	if _, err := io.ReadFull(random, key); err != nil {
		return nil, err
	}
	block, err := newCipher(key)
	if err != nil {
		return nil, err
	}
	iv := make([]byte, block.BlockSize())
	if _, err := io.ReadFull(random, iv); err != nil {
		return nil, err
	}
	pad := block.BlockSize() - len(content)%block.BlockSize()
	secret := slices.Concat(content, bytes.Repeat([]byte{byte(pad)}, pad))
	cipher.NewCBCEncrypter(block, iv).CryptBlocks(secret, secret)
	//lint:ignore SA1019 RSA PKCS #1 v1.5 is the only key transport that Apple's SCEP client knows
	wrapped, err := rsa.EncryptPKCS1v15(rand.Reader, public, key)
	if err != nil {
		return nil, fmt.Errorf("CMS: %w", err)
	}
	info := der(tagSequence,
		integer(new(big.Int)),
		der(tagSequence, recipient.RawIssuer, integer(recipient.SerialNumber)),
		der(tagSequence, oid(oidRSA), der(tagNull)),
		der(tagOctets, wrapped))
	tag := byte(tagContext0)
	if e == DER {
		tag = 0x80 // [0] IMPLICIT OCTET STRING, primitive
	}
	return e.wrap(tagSequence, oid(oidEnvelopedData), e.wrap(tagContext0, e.wrap(tagSequence,
		integer(new(big.Int)),
		der(tagSet, info),
		e.wrap(tagSequence,
			oid(oidData),
			der(tagSequence, oid(algorithm), der(tagOctets, iv)),
			e.octets(tag, secret))))), nil
}

// blockCipher returns the constructor and the key size of a CBC cipher.
func blockCipher(algorithm string) (func(key []byte) (cipher.Block, error), int) {
	switch algorithm {
	case oidAES128:
		return aes.NewCipher, 16
	case oidAES192:
		return aes.NewCipher, 24
	case oidAES256:
		return aes.NewCipher, 32
	case oidDES3:
		return des.NewTripleDESCipher, 24
	}
	return nil, 0
}

// signedData is a parsed SignedData.
type signedData struct {
	contentType  string
	content      []byte
	detached     bool // no content was there
	certificates [][]byte
	signers      []signerInfo
}

type signerInfo struct {
	issuer     []byte
	serial     *big.Int
	digest     digestOIDs
	algorithm  string // of the signature
	attributes []attribute
	signedDER  []byte // SET OF the attributes, empty without them
	signature  []byte
}

type attribute struct {
	id     string
	values []element
}

// contentInfo opens a ContentInfo of the wanted type.
func contentInfo(data []byte, want string) (element, error) {
	el, err := parseBER(data)
	if err != nil {
		return element{}, err
	}
	if !el.is(tagSequence, 2) || !el.children[1].is(tagContext0, 1) {
		return element{}, errors.New("CMS: not a ContentInfo")
	}
	id, err := el.children[0].oid()
	if err != nil {
		return element{}, err
	}
	if id != want {
		return element{}, fmt.Errorf("CMS: content type %s, want %s", id, want)
	}
	inner := el.children[1].children[0]
	if inner.tag != tagSequence {
		return element{}, errors.New("CMS: content is not a sequence")
	}
	return inner, nil
}

func parseSignedData(data []byte) (signedData, error) {
	var sd signedData
	el, err := contentInfo(data, oidSignedData)
	if err != nil {
		return sd, err
	}
	malformed := errors.New("CMS: malformed SignedData")
	parts := el.children
	if len(parts) < 4 || parts[0].tag != tagInteger || parts[1].tag != tagSet || !parts[2].is(tagSequence, 1) {
		return sd, malformed
	}
	if sd.contentType, err = parts[2].children[0].oid(); err != nil {
		return sd, err
	}
	sd.detached = len(parts[2].children) == 1
	if !sd.detached {
		explicit := parts[2].children[1]
		if !explicit.is(tagContext0, 1) {
			return sd, malformed
		}
		if sd.content, err = explicit.children[0].octets(tagOctets); err != nil {
			return sd, err
		}
	}
	for _, part := range parts[3 : len(parts)-1] {
		switch part.tag {
		case tagContext0:
			for _, c := range part.children {
				sd.certificates = append(sd.certificates, c.raw)
			}
		case 0xA1: // CRLs
		default:
			return sd, malformed
		}
	}
	last := parts[len(parts)-1]
	if last.tag != tagSet {
		return sd, malformed
	}
	for _, s := range last.children {
		info, err := parseSignerInfo(s)
		if err != nil {
			return sd, err
		}
		sd.signers = append(sd.signers, info)
	}
	return sd, nil
}

func parseSignerInfo(el element) (signerInfo, error) {
	var info signerInfo
	malformed := errors.New("CMS: malformed SignerInfo")
	parts := el.children
	if len(parts) < 5 || !parts[1].is(tagSequence, 2) || !parts[2].is(tagSequence, 1) {
		return info, malformed // a subjectKeyIdentifier is not what Apple's peers send
	}
	var err error
	info.issuer = parts[1].children[0].raw
	if info.serial, err = parts[1].children[1].integer(); err != nil {
		return info, err
	}
	digest, err := parts[2].children[0].oid()
	if err != nil {
		return info, err
	}
	known := false
	for _, d := range digests() {
		if d.digest == digest {
			info.digest, known = d, true
		}
	}
	if !known {
		return info, fmt.Errorf("CMS: unknown digest %s", digest)
	}
	rest := parts[3:]
	if rest[0].tag == tagContext0 {
		for _, a := range rest[0].children {
			if len(a.children) != 2 || a.children[1].tag != tagSet {
				return info, malformed
			}
			id, err := a.children[0].oid()
			if err != nil {
				return info, err
			}
			info.attributes = append(info.attributes, attribute{id, a.children[1].children})
		}
		// RFC 5652, 5.3: the signed attributes are DER, also inside BER.
		if !rest[0].definite {
			return info, errors.New("CMS: signed attributes are not DER")
		}
		info.signedDER = slices.Clone(rest[0].raw)
		info.signedDER[0] = tagSet
		sorted := make([][]byte, len(rest[0].children))
		for i, a := range rest[0].children {
			sorted[i] = a.raw
		}
		if !bytes.Equal(info.signedDER, sortedSet(tagSet, sorted...)) {
			return info, errors.New("CMS: signed attributes are not in DER order")
		}
		rest = rest[1:]
	}
	if len(rest) < 2 || !rest[0].is(tagSequence, 1) {
		return info, malformed
	}
	if info.algorithm, err = rest[0].children[0].oid(); err != nil {
		return info, err
	}
	if info.signature, err = rest[1].octets(tagOctets); err != nil {
		return info, err
	}
	return info, nil
}

// one is the single value of an attribute that must be there exactly once.
func (info signerInfo) one(id, name string) (element, error) {
	var found []element
	for _, a := range info.attributes {
		if a.id == id {
			found = append(found, a.values...)
		}
	}
	if len(found) != 1 {
		return element{}, fmt.Errorf("attribute %s: %d values, want exactly one", name, len(found))
	}
	return found[0], nil
}

// certificate is the included certificate that the signer names.
func (sd signedData) certificate(info signerInfo) (*x509.Certificate, error) {
	for _, raw := range sd.certificates {
		cert, err := x509.ParseCertificate(raw)
		if err != nil {
			return nil, fmt.Errorf("CMS: %w", err)
		}
		if bytes.Equal(cert.RawIssuer, info.issuer) && cert.SerialNumber.Cmp(info.serial) == 0 {
			return cert, nil
		}
	}
	return nil, errors.New("CMS: the signer's certificate is not included")
}

// verify checks the one signature of sd over content, and returns who made it.
// It does not judge the certificate.
func (sd signedData) verify(content []byte) (signerInfo, *x509.Certificate, error) {
	if len(sd.signers) != 1 {
		return signerInfo{}, nil, fmt.Errorf("CMS: %d signers, want one", len(sd.signers))
	}
	info := sd.signers[0]
	cert, err := sd.certificate(info)
	if err != nil {
		return info, nil, err
	}
	h := info.digest.hash.New()
	h.Write(content)
	sum := h.Sum(nil)
	if info.signedDER != nil {
		digest, err := info.one(oidMessageDigest, "messageDigest")
		if err != nil {
			return info, nil, err
		}
		if digest.tag != tagOctets || !bytes.Equal(digest.content, sum) {
			return info, nil, errors.New("CMS: digest of the content differs")
		}
		kind, err := info.one(oidContentType, "contentType")
		if err != nil {
			return info, nil, err
		}
		if id, err := kind.oid(); err != nil || id != sd.contentType {
			return info, nil, errors.New("CMS: contentType attribute differs from the content's type")
		}
		h.Reset()
		h.Write(info.signedDER)
		sum = h.Sum(nil)
	}
	if err := info.check(cert, sum); err != nil {
		return info, nil, fmt.Errorf("CMS: %w", err)
	}
	return info, cert, nil
}

func (info signerInfo) check(cert *x509.Certificate, sum []byte) error {
	switch key := cert.PublicKey.(type) {
	case *rsa.PublicKey:
		if info.algorithm != oidRSA && info.algorithm != info.digest.rsa {
			return fmt.Errorf("signature algorithm %s with an RSA key", info.algorithm)
		}
		return rsa.VerifyPKCS1v15(key, info.digest.hash, sum, info.signature)
	case *ecdsa.PublicKey:
		if info.algorithm != info.digest.ecdsa {
			return fmt.Errorf("signature algorithm %s with an EC key", info.algorithm)
		}
		if !ecdsa.VerifyASN1(key, sum, info.signature) {
			return errors.New("signature is wrong")
		}
		return nil
	default:
		return fmt.Errorf("signer has a %T", key)
	}
}

// openEnvelope decrypts an EnvelopedData that is meant for cert. Of the ciphers
// it takes CBC, and triple DES only where allowed.
func openEnvelope(data []byte, cert *x509.Certificate, key *rsa.PrivateKey, allowDES3 bool) ([]byte, error) {
	el, err := contentInfo(data, oidEnvelopedData)
	if err != nil {
		return nil, err
	}
	malformed := errors.New("CMS: malformed EnvelopedData")
	parts := el.children
	if len(parts) < 3 || parts[1].tag != tagSet || !parts[2].is(tagSequence, 3) {
		return nil, malformed
	}
	if len(parts[1].children) != 1 {
		return nil, fmt.Errorf("CMS: %d recipients, want one", len(parts[1].children))
	}
	recipient := parts[1].children[0].children
	if len(recipient) != 4 || !recipient[1].is(tagSequence, 2) || !recipient[2].is(tagSequence, 1) {
		return nil, malformed
	}
	serial, err := recipient[1].children[1].integer()
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(recipient[1].children[0].raw, cert.RawIssuer) || serial.Cmp(cert.SerialNumber) != 0 {
		return nil, errors.New("CMS: encrypted to a certificate that is not ours")
	}
	if id, err := recipient[2].children[0].oid(); err != nil || id != oidRSA {
		return nil, fmt.Errorf("CMS: key transport %s, want RSA PKCS #1 v1.5", id)
	}
	wrapped, err := recipient[3].octets(tagOctets)
	if err != nil {
		return nil, err
	}
	encrypted := parts[2].children
	if id, err := encrypted[0].oid(); err != nil || id != oidData {
		return nil, fmt.Errorf("CMS: encrypted content has type %s, want data", id)
	}
	if !encrypted[1].is(tagSequence, 2) {
		return nil, malformed
	}
	algorithm, err := encrypted[1].children[0].oid()
	if err != nil {
		return nil, err
	}
	newCipher, size := blockCipher(algorithm)
	if newCipher == nil || algorithm == oidDES3 && !allowDES3 {
		return nil, fmt.Errorf("CMS: content encryption %s is not accepted", algorithm)
	}
	iv, err := encrypted[1].children[1].octets(tagOctets)
	if err != nil {
		return nil, err
	}
	secret, err := encrypted[2].octets(0x80)
	if err != nil {
		return nil, err
	}
	//lint:ignore SA1019 RSA PKCS #1 v1.5 is the only key transport that Apple's SCEP client knows
	session, err := rsa.DecryptPKCS1v15(nil, key, wrapped)
	if err != nil {
		return nil, errors.New("CMS: the session key can't be decrypted")
	}
	if len(session) != size {
		return nil, fmt.Errorf("CMS: session key of %d bytes, want %d", len(session), size)
	}
	block, err := newCipher(session)
	if err != nil {
		return nil, err
	}
	plain, err := decryptCBC(block, iv, secret)
	if err != nil {
		return nil, fmt.Errorf("CMS: %w", err)
	}
	return plain, nil
}

// decryptCBC decrypts and takes the padding of RFC 5652, 6.3 away.
func decryptCBC(block cipher.Block, iv, secret []byte) ([]byte, error) {
	n := block.BlockSize()
	if len(iv) != n || len(secret) == 0 || len(secret)%n != 0 {
		return nil, errors.New("encrypted content has a wrong length")
	}
	plain := make([]byte, len(secret))
	cipher.NewCBCDecrypter(block, iv).CryptBlocks(plain, secret)
	pad := int(plain[len(plain)-1])
	if pad == 0 || pad > n || !bytes.Equal(plain[len(plain)-pad:], bytes.Repeat([]byte{byte(pad)}, pad)) {
		return nil, errors.New("wrong padding")
	}
	return plain[:len(plain)-pad], nil
}
