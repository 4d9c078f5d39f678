package scep_test

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/des"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"testing"

	"github.com/smallstep/pkcs7"
)

// testCipher is how a client encrypts.
type testCipher struct {
	oid       asn1.ObjectIdentifier
	key, size int
	block     func([]byte) (cipher.Block, error)
}

func ciphers() []testCipher {
	return []testCipher{
		{pkcs7.OIDEncryptionAlgorithmAES128CBC, 16, 16, aes.NewCipher},
		{asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 1, 22}, 24, 16, aes.NewCipher},
		{pkcs7.OIDEncryptionAlgorithmAES256CBC, 32, 16, aes.NewCipher},
		{pkcs7.OIDEncryptionAlgorithmDESEDE3CBC, 24, 8, des.NewTripleDESCipher},
		{pkcs7.OIDEncryptionAlgorithmDESCBC, 8, 8, des.NewCipher},
	}
}

func pad(b []byte, size int) []byte {
	n := size - len(b)%size
	return append(bytes.Clone(b), bytes.Repeat([]byte{byte(n)}, n)...)
}

// testEnvelope is an EnvelopedData in parts, for tests to damage.
type testEnvelope struct {
	encryptedKey []byte
	keyAlgorithm asn1.ObjectIdentifier
	cipher       asn1.ObjectIdentifier
	iv           []byte
	ciphertext   []byte
	noRecipient  bool
}

func encryptKey(t testing.TB, to *x509.Certificate, key []byte) []byte {
	t.Helper()
	//lint:ignore SA1019 as SCEP's clients do
	out, err := rsa.EncryptPKCS1v15(rand.Reader, to.PublicKey.(*rsa.PublicKey), key)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// encrypt returns an EnvelopedData of padded, which must have whole blocks.
func encrypt(t testing.TB, to *x509.Certificate, c testCipher, padded []byte) []byte {
	t.Helper()
	return encryptWith(t, to, c, padded, func(*testEnvelope) {})
}

func encryptWith(t testing.TB, to *x509.Certificate, c testCipher, padded []byte, damage func(*testEnvelope)) []byte {
	t.Helper()
	key := make([]byte, c.key)
	rand.Read(key)
	block, err := c.block(key)
	if err != nil {
		t.Fatal(err)
	}
	e := testEnvelope{
		encryptedKey: encryptKey(t, to, key),
		keyAlgorithm: pkcs7.OIDEncryptionAlgorithmRSA,
		cipher:       c.oid,
		iv:           make([]byte, c.size),
		ciphertext:   make([]byte, len(padded)),
	}
	rand.Read(e.iv)
	cipher.NewCBCEncrypter(block, e.iv).CryptBlocks(e.ciphertext, padded)
	damage(&e)

	iv, err := asn1.Marshal(e.iv)
	if err != nil {
		t.Fatal(err)
	}
	type issuerAndSerial struct {
		Issuer asn1.RawValue
		Serial *big.Int
	}
	type recipient struct {
		Version   int
		ID        issuerAndSerial
		Algorithm pkix.AlgorithmIdentifier
		Key       []byte
	}
	type encrypted struct {
		Type      asn1.ObjectIdentifier
		Algorithm pkix.AlgorithmIdentifier
		Content   []byte `asn1:"tag:0"`
	}
	type enveloped struct {
		Version    int
		Recipients []recipient `asn1:"set"`
		Encrypted  encrypted
	}
	out := enveloped{Encrypted: encrypted{
		Type:      pkcs7.OIDData,
		Algorithm: pkix.AlgorithmIdentifier{Algorithm: e.cipher, Parameters: asn1.RawValue{FullBytes: iv}},
		Content:   e.ciphertext,
	}}
	if !e.noRecipient {
		out.Recipients = []recipient{{
			ID:        issuerAndSerial{asn1.RawValue{FullBytes: to.RawIssuer}, to.SerialNumber},
			Algorithm: pkix.AlgorithmIdentifier{Algorithm: e.keyAlgorithm, Parameters: asn1.NullRawValue},
			Key:       e.encryptedKey,
		}}
	}
	der, err := asn1.Marshal(struct {
		Type    asn1.ObjectIdentifier
		Content enveloped `asn1:"explicit,tag:0"`
	}{pkcs7.OIDEnvelopedData, out})
	if err != nil {
		t.Fatal(err)
	}
	return der
}
