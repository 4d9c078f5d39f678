package scep

import (
	"bytes"
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/des"
	"crypto/rand"
	"crypto/rsa"
	"crypto/subtle"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"math/big"

	"github.com/smallstep/pkcs7"
	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/gatehouse-mdm/gatehouse/storage/guard"
)

// contentCipher is a cipher in CBC mode that contents are encrypted with.
type contentCipher struct {
	oid   asn1.ObjectIdentifier
	key   int // bytes
	size  int // of a block, bytes
	block func(key []byte) (cipher.Block, error)
}

// oidAES192CBC is the one that pkcs7 does not name (RFC 3565, 4.1).
var oidAES192CBC = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 1, 22}

// contentCiphers are those that requests may be encrypted with. We answer in AES
// only. Single DES is what the common clients that are built on the same CMS
// library as this package use, whatever the capabilities say: it hides a
// challenge, which TLS hides better, and which is worth nothing a moment later.
func contentCiphers() []contentCipher {
	return []contentCipher{
		aes128(),
		{oidAES192CBC, 24, aes.BlockSize, aes.NewCipher},
		{pkcs7.OIDEncryptionAlgorithmAES256CBC, 32, aes.BlockSize, aes.NewCipher},
		des3(),
		{pkcs7.OIDEncryptionAlgorithmDESCBC, 8, des.BlockSize, des.NewCipher},
	}
}

func des3() contentCipher {
	return contentCipher{pkcs7.OIDEncryptionAlgorithmDESEDE3CBC, 24, des.BlockSize, des.NewTripleDESCipher}
}

func aes128() contentCipher {
	return contentCipher{pkcs7.OIDEncryptionAlgorithmAES128CBC, 16, aes.BlockSize, aes.NewCipher}
}

// address finds out which authority m was encrypted to: the first one if that can't
// be told, so that there is somebody to refuse it.
func (s *Service) address(m *message) {
	m.authority = s.authorities[0]
	envelope, err := guard.ParseEnvelope(m.signature.Content, maxMessage)
	if err != nil {
		return
	}
	m.envelope = envelope
	for _, a := range s.authorities {
		if encryptedKey(envelope, a.Certificate()) != nil {
			m.authority = a
			return
		}
	}
}

// open decrypts the EnvelopedData of a request.
func open(m *message) ([]byte, contentCipher) {
	return decrypt(m.envelope, m.authority.Certificate(), m.authority.Signer())
}

// decrypt opens an envelope to the owner of cert. It says nothing of why it fails:
// then it returns nil, or bytes that are no request, and its caller finds out that
// they are none, as late and in the same way in either case. A client that could
// tell a wrong padding from a wrong request could decrypt what others have sent,
// and sign with the authority's key, by asking often enough.
//
// Of the failures, only those that show on the outside of the message return
// early: its form, its recipient, its cipher and its lengths.
func decrypt(envelope guard.Envelope, cert *x509.Certificate, signer crypto.Signer) ([]byte, contentCipher) {
	encryptedKey := encryptedKey(envelope, cert)
	c, iv, ok := cipherOf(envelope)
	if encryptedKey == nil || !ok {
		return nil, contentCipher{}
	}
	decrypter, ok := signer.(crypto.Decrypter)
	if !ok {
		return nil, contentCipher{}
	}
	// With SessionKeyLen set, a wrong PKCS #1 padding is no error: the key is then
	// a random one.
	//lint:ignore SA1019 SCEP's clients know no other key transport
	key, err := decrypter.Decrypt(rand.Reader, encryptedKey, &rsa.PKCS1v15DecryptOptions{SessionKeyLen: c.key})
	if err != nil {
		return nil, contentCipher{} // not of the modulus' size
	}
	block, err := c.block(key)
	if err != nil {
		return nil, contentCipher{}
	}
	plain := make([]byte, len(envelope.Ciphertext))
	cipher.NewCBCDecrypter(block, iv).CryptBlocks(plain, envelope.Ciphertext)
	return unpad(plain, c.size), c
}

// encryptedKey returns the content key that is encrypted to the owner of ours, nil if
// there is none.
func encryptedKey(e guard.Envelope, ours *x509.Certificate) []byte {
	for _, r := range e.Recipients {
		var serial big.Int
		in := cryptobyte.String(r.Serial)
		if bytes.Equal(r.Issuer, ours.RawIssuer) && in.ReadASN1Integer(&serial) && serial.Cmp(ours.SerialNumber) == 0 &&
			r.Algorithm.Equal(pkcs7.OIDEncryptionAlgorithmRSA) {
			return r.EncryptedKey
		}
	}
	return nil
}

// cipherOf returns what e's content is encrypted with, if it is one of ours and
// the content has whole blocks.
func cipherOf(e guard.Envelope) (c contentCipher, iv []byte, ok bool) {
	for _, c := range contentCiphers() {
		if !e.Algorithm.Equal(c.oid) {
			continue
		}
		var iv cryptobyte.String
		in := cryptobyte.String(e.Parameters)
		ok := in.ReadASN1(&iv, cbasn1.OCTET_STRING) && in.Empty() && len(iv) == c.size &&
			len(e.Ciphertext) > 0 && len(e.Ciphertext)%c.size == 0
		return c, iv, ok
	}
	return contentCipher{}, nil, false
}

// unpad takes the padding (RFC 5652, 6.3) off plain, or returns nothing if it is
// wrong, after looking at all of its last block.
func unpad(plain []byte, size int) []byte {
	last := plain[len(plain)-size:]
	n := int(last[size-1])
	ok := subtle.ConstantTimeLessOrEq(1, n) & subtle.ConstantTimeLessOrEq(n, size)
	for i, b := range last {
		inPadding := subtle.ConstantTimeLessOrEq(size-n, i)
		ok &= subtle.ConstantTimeSelect(inPadding, subtle.ConstantTimeByteEq(b, byte(n)), 1)
	}
	return plain[:subtle.ConstantTimeSelect(ok, len(plain)-n, 0)]
}

// EnvelopedData (RFC 5652, 6.1) as it is written here: to one recipient. pkcs7
// could write it too, with a cipher that a variable of that package chooses, which
// everybody in the process shares.
type (
	envelopedData struct {
		Version    int
		Recipients []recipientInfo `asn1:"set"`
		Encrypted  encryptedContentInfo
	}
	recipientInfo struct {
		Version      int
		ID           issuerAndSerial
		Algorithm    pkix.AlgorithmIdentifier
		EncryptedKey []byte
	}
	issuerAndSerial struct {
		Issuer asn1.RawValue
		Serial *big.Int
	}
	encryptedContentInfo struct {
		ContentType asn1.ObjectIdentifier
		Algorithm   pkix.AlgorithmIdentifier
		Content     []byte `asn1:"tag:0"`
	}
	contentInfo struct {
		ContentType asn1.ObjectIdentifier
		Content     envelopedData `asn1:"explicit,tag:0"`
	}
)

// seal encrypts cert to the signer of m, as the content of a CertRep: a SignedData
// that holds nothing but the certificate (RFC 8894, 3.3.2.1). Apple takes the
// first one that it finds in there.
func seal(cert *x509.Certificate, m *message) ([]byte, error) {
	alone, err := pkcs7.DegenerateCertificate(cert.Raw)
	if err != nil {
		return nil, fmt.Errorf("pack certificate: %w", err)
	}
	c := aes128()
	if m.cipher.oid.Equal(pkcs7.OIDEncryptionAlgorithmAES256CBC) {
		c = m.cipher
	}
	sealed, err := encrypt(alone, m.signature.Certificate, c)
	if err != nil {
		return nil, fmt.Errorf("encrypt certificate: %w", err)
	}
	return sealed, nil
}

// encrypt returns an EnvelopedData of content to the RSA key of recipient.
func encrypt(content []byte, recipient *x509.Certificate, c contentCipher) ([]byte, error) {
	pub, ok := recipient.PublicKey.(*rsa.PublicKey)
	if !ok {
		return nil, fmt.Errorf("%w: the recipient's is not RSA", guard.ErrKey)
	}
	key := make([]byte, c.key)
	rand.Read(key) // never fails
	block, err := c.block(key)
	if err != nil {
		return nil, err
	}
	//lint:ignore SA1019 SCEP's clients know no other key transport
	encryptedKey, err := rsa.EncryptPKCS1v15(rand.Reader, pub, key)
	if err != nil {
		return nil, err
	}
	iv := make([]byte, c.size)
	rand.Read(iv)
	parameters, err := asn1.Marshal(iv)
	if err != nil {
		return nil, err
	}
	n := c.size - len(content)%c.size
	padded := append(append([]byte(nil), content...), bytes.Repeat([]byte{byte(n)}, n)...)
	cipher.NewCBCEncrypter(block, iv).CryptBlocks(padded, padded)

	return asn1.Marshal(contentInfo{pkcs7.OIDEnvelopedData, envelopedData{
		Recipients: []recipientInfo{{
			ID:           issuerAndSerial{asn1.RawValue{FullBytes: recipient.RawIssuer}, recipient.SerialNumber},
			Algorithm:    pkix.AlgorithmIdentifier{Algorithm: pkcs7.OIDEncryptionAlgorithmRSA, Parameters: asn1.NullRawValue},
			EncryptedKey: encryptedKey,
		}},
		Encrypted: encryptedContentInfo{
			ContentType: pkcs7.OIDData,
			Algorithm:   pkix.AlgorithmIdentifier{Algorithm: c.oid, Parameters: asn1.RawValue{FullBytes: parameters}},
			Content:     padded,
		},
	}})
}
