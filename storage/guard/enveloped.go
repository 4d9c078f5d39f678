package guard

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/des"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

var (
	// ErrNotRecipient means that a message was encrypted to other certificates.
	ErrNotRecipient = errors.New("encrypted to another certificate")

	// ErrDecrypt means that a message was encrypted to the certificate by its own word,
	// and can't be decrypted by its key.
	ErrDecrypt = errors.New("can't be decrypted")
)

var (
	oidRSAEncryption = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 1}

	// contentCiphers are those that contents may be encrypted with, all of them in CBC
	// mode (RFC 3370, 5; RFC 3565, 4.1).
	contentCiphers = []struct {
		oid  asn1.ObjectIdentifier
		key  int // bytes
		make func(key []byte) (cipher.Block, error)
	}{
		{asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 1, 2}, 16, aes.NewCipher},
		{asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 1, 22}, 24, aes.NewCipher},
		{asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 1, 42}, 32, aes.NewCipher},
		{asn1.ObjectIdentifier{1, 2, 840, 113549, 3, 7}, 24, des.NewTripleDESCipher},
	}
)

// DecryptEnveloped returns the content of an EnvelopedData (RFC 5652, 6) in BER of at
// most maxBytes bytes, or 64 KiB if that is zero, that was encrypted to cert, whose key
// is key: the content by AES or 3DES in CBC mode, its key by RSA as PKCS #1 v1.5 has it.
//
// Errors wrap ErrTooLarge, ErrCMS, [ErrNotRecipient] or [ErrDecrypt]. The last one does
// not say what was not right, of the key's padding, the content's or its length: whoever
// can send many messages and see the answers would decrypt others by it (RFC 3218).
// Nothing proves who encrypted the content, or that it is as it was.
func DecryptEnveloped(data []byte, cert *x509.Certificate, key *rsa.PrivateKey, maxBytes int) ([]byte, error) {
	e, err := ParseEnvelope(data, maxBytes)
	if err != nil {
		return nil, err
	}
	var b cryptobyte.Builder
	b.AddASN1BigInt(cert.SerialNumber)
	serial, err := b.Bytes()
	if err != nil {
		return nil, fmt.Errorf("serial number: %w", err)
	}
	for _, r := range e.Recipients {
		if bytes.Equal(r.Issuer, cert.RawIssuer) && bytes.Equal(r.Serial, serial) {
			return e.decrypt(r, key)
		}
	}
	return nil, ErrNotRecipient
}

func (e Envelope) decrypt(r Recipient, key *rsa.PrivateKey) ([]byte, error) {
	if !r.Algorithm.Equal(oidRSAEncryption) {
		return nil, fmt.Errorf("%w: its key was encrypted by %s, which is not RSA with PKCS #1 v1.5", ErrCMS, r.Algorithm)
	}
	for _, c := range contentCiphers {
		if !c.oid.Equal(e.Algorithm) {
			continue
		}
		var (
			contentKey = make([]byte, c.key)
			params     = cryptobyte.String(e.Parameters)
			iv         cryptobyte.String
		)
		if !params.ReadASN1(&iv, cbasn1.OCTET_STRING) || !params.Empty() {
			return nil, fmt.Errorf("%w: its cipher has no start value", ErrCMS)
		}
		// A key with wrong padding is left to be a random one, in the same time: what
		// comes of it is no content either.
		if _, err := rand.Read(contentKey); err != nil {
			return nil, err
		}
		//lint:ignore SA1019 Apple chooses how the key is encrypted; no oracle is left, see above.
		if err := rsa.DecryptPKCS1v15SessionKey(nil, key, r.EncryptedKey, contentKey); err != nil {
			return nil, ErrDecrypt
		}
		block, err := c.make(contentKey)
		if err != nil {
			return nil, ErrDecrypt
		}
		return decryptCBC(block, iv, e.Ciphertext)
	}
	return nil, fmt.Errorf("%w: it is encrypted by %s, which is neither AES nor 3DES in CBC mode", ErrCMS, e.Algorithm)
}

func decryptCBC(block cipher.Block, iv, ciphertext []byte) ([]byte, error) {
	size := block.BlockSize()
	if len(iv) != size || len(ciphertext) == 0 || len(ciphertext)%size != 0 {
		return nil, ErrDecrypt
	}
	content := make([]byte, len(ciphertext))
	cipher.NewCBCDecrypter(block, iv).CryptBlocks(content, ciphertext)
	// RFC 5652, 6.3: as many bytes as are missing, each of that value.
	pad := int(content[len(content)-1])
	if pad < 1 || pad > size {
		return nil, ErrDecrypt
	}
	body, padding := content[:len(content)-pad], content[len(content)-pad:]
	if !bytes.Equal(padding, bytes.Repeat([]byte{byte(pad)}, pad)) {
		return nil, ErrDecrypt
	}
	return body, nil
}
