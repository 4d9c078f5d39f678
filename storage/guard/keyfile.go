package guard

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/des"
	"crypto/pbkdf2"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"hash"
	"strings"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
	"software.sslmate.com/src/go-pkcs12"
)

// What may be wrong with a file that holds a private key, besides its being ErrTooLarge:
// too complex, or to be decrypted only with far more work than any program asks for.
var (
	// ErrKeyFile means that a private key, or a PKCS #12 file, can't be read.
	ErrKeyFile = errors.New("unreadable private key or PKCS #12 file")

	// ErrPassphraseMissing means that it is encrypted, and there was no passphrase.
	ErrPassphraseMissing = errors.New("the passphrase is missing")

	// ErrPassphrase means that the passphrase is wrong, or what it is for is damaged.
	ErrPassphrase = errors.New("the passphrase is wrong")

	// ErrEncryption means that a private key is encrypted in a way that is not known here.
	ErrEncryption = errors.New("encryption of a private key that is not known here")

	// ErrNoPrivateKey and ErrNoCertificate mean that a PKCS #12 file has none.
	ErrNoPrivateKey  = errors.New("no private key")
	ErrNoCertificate = errors.New("no certificate")

	// ErrSeveralKeys means that a PKCS #12 file has more than one private key.
	ErrSeveralKeys = errors.New("more than one private key")
)

// PrivateKey returns the key in a PEM block, decrypted by passphrase if need be: PKCS #8,
// PKCS #1 or SEC 1, as its type says. Errors wrap those above. Its public half is
// CheckPublicKey's to judge.
func PrivateKey(block *pem.Block, passphrase string) (key any, err error) {
	der, err := decryptPEM(block, passphrase)
	if err != nil {
		return nil, err
	}
	return parseKey(block.Type, der)
}

func parseKey(kind string, der []byte) (key any, err error) {
	switch kind {
	case "RSA PRIVATE KEY":
		key, err = x509.ParsePKCS1PrivateKey(der)
	case "EC PRIVATE KEY":
		key, err = x509.ParseECPrivateKey(der)
	default:
		key, err = x509.ParsePKCS8PrivateKey(der)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: as %.40q", ErrKeyFile, kind)
	}
	return key, nil
}

// decryptPEM returns the key in a block, decrypted if need be.
func decryptPEM(block *pem.Block, passphrase string) (der []byte, err error) {
	//lint:ignore SA1019 what it protects badly is taken in, not written
	legacy := x509.IsEncryptedPEMBlock(block)
	switch {
	case !legacy && block.Type != "ENCRYPTED PRIVATE KEY":
		return block.Bytes, nil
	case passphrase == "":
		return nil, ErrPassphraseMissing
	case !legacy:
		return decryptPKCS8(block.Bytes, passphrase)
	}
	//lint:ignore SA1019 as above
	der, err = x509.DecryptPEMBlock(block, []byte(passphrase))
	if errors.Is(err, x509.IncorrectPasswordError) {
		return nil, ErrPassphrase
	}
	if err != nil {
		return nil, ErrEncryption
	}
	// About one wrong passphrase in 256 is not noticed by that.
	if _, err := parseKey(block.Type, der); err != nil {
		return nil, ErrPassphrase
	}
	return der, nil
}

// DecodePKCS12 returns what a PKCS #12 file (RFC 7292) in DER holds: one private key, and
// certificates, mostly that of the key first. Errors wrap those above.
func DecodePKCS12(der []byte, passphrase string) (key any, certs []*x509.Certificate, err error) {
	if err := checkIterations(der); err != nil {
		return nil, nil, err
	}
	defer refuse(ErrKeyFile, &err)
	key, leaf, above, err := pkcs12.DecodeChain(der, passphrase)
	switch {
	case err == nil:
		return key, append([]*x509.Certificate{leaf}, above...), nil
	case errors.Is(err, pkcs12.ErrIncorrectPassword) || errors.Is(err, pkcs12.ErrDecryption):
		if passphrase == "" {
			return nil, nil, ErrPassphraseMissing
		}
		return nil, nil, ErrPassphrase
	// The library has no errors for these.
	case strings.HasSuffix(err.Error(), "certificate missing"):
		return nil, nil, ErrNoCertificate
	case strings.HasSuffix(err.Error(), "private key missing"):
		return nil, nil, ErrNoPrivateKey
	case strings.HasSuffix(err.Error(), "exactly one key bag"):
		return nil, nil, ErrSeveralKeys
	}
	return nil, nil, fmt.Errorf("%w: as PKCS #12", ErrKeyFile)
}

// Object identifiers of encryption by passphrase (RFC 7292, appendix C; RFC 8018, appendix C).
var (
	oidPKCS12PBE = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 12, 1} // and one more
	oidPBES2     = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 5, 13}
	oidPBKDF2    = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 5, 12}
	oidDES3      = asn1.ObjectIdentifier{1, 2, 840, 113549, 3, 7}
	oidAES       = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 1} // and one more
	oidHMAC      = asn1.ObjectIdentifier{1, 2, 840, 113549, 2}        // and one more
)

// below returns the last part of oid if that is parent and one more, else -1.
func below(oid, parent asn1.ObjectIdentifier) int {
	if len(oid) == len(parent)+1 && oid[:len(parent)].Equal(parent) {
		return oid[len(parent)]
	}
	return -1
}

type algorithm struct {
	OID        asn1.ObjectIdentifier
	Parameters asn1.RawValue `asn1:"optional"`
}

type pbkdf2Parameters struct {
	Salt       []byte
	Iterations int
	KeyLength  int       `asn1:"optional"`
	PRF        algorithm `asn1:"optional"`
}

// decryptPKCS8 decrypts an EncryptedPrivateKeyInfo (RFC 5958, 3) by PBES2 (RFC 8018, 6.2).
func decryptPKCS8(der []byte, passphrase string) ([]byte, error) {
	if err := checkIterations(der); err != nil {
		return nil, err
	}
	var info struct {
		Algorithm algorithm
		Data      []byte
	}
	var scheme struct{ KDF, Cipher algorithm }
	var kdf pbkdf2Parameters
	if rest, err := asn1.Unmarshal(der, &info); err != nil || len(rest) > 0 {
		return nil, fmt.Errorf("%w: as an encrypted one", ErrKeyFile)
	}
	if !info.Algorithm.OID.Equal(oidPBES2) {
		return nil, ErrEncryption
	}
	if _, err := asn1.Unmarshal(info.Algorithm.Parameters.FullBytes, &scheme); err != nil || !scheme.KDF.OID.Equal(oidPBKDF2) {
		return nil, ErrEncryption
	}
	if _, err := asn1.Unmarshal(scheme.KDF.Parameters.FullBytes, &kdf); err != nil || kdf.Iterations < 1 {
		return nil, ErrEncryption
	}
	prf := map[int]func() hash.Hash{8: sha256.New224, 9: sha256.New, 10: sha512.New384, 11: sha512.New}[below(kdf.PRF.OID, oidHMAC)]
	if kdf.PRF.OID == nil || below(kdf.PRF.OID, oidHMAC) == 7 {
		prf = sha1.New
	}
	size, newCipher := 0, aes.NewCipher
	switch below(scheme.Cipher.OID, oidAES) {
	case 2:
		size = 16
	case 22:
		size = 24
	case 42:
		size = 32
	}
	if scheme.Cipher.OID.Equal(oidDES3) {
		size, newCipher = 24, des.NewTripleDESCipher
	}
	if prf == nil || size == 0 {
		return nil, ErrEncryption
	}
	key, err := pbkdf2.Key(prf, passphrase, kdf.Salt, kdf.Iterations, size)
	if err != nil {
		return nil, ErrEncryption
	}
	block, err := newCipher(key)
	if err != nil {
		return nil, ErrEncryption
	}
	iv := scheme.Cipher.Parameters.Bytes
	if n := block.BlockSize(); len(iv) != n || len(info.Data) == 0 || len(info.Data)%n != 0 {
		return nil, fmt.Errorf("%w: as an encrypted one", ErrKeyFile)
	}
	plain := make([]byte, len(info.Data))
	cipher.NewCBCDecrypter(block, iv).CryptBlocks(plain, info.Data)
	// The padding needs no look: what it surrounds is DER, which has a length.
	var value asn1.RawValue
	rest, err := asn1.Unmarshal(plain, &value)
	if err != nil || len(rest) > block.BlockSize() {
		return nil, ErrPassphrase
	}
	if _, err := x509.ParsePKCS8PrivateKey(value.FullBytes); err != nil {
		return nil, ErrPassphrase
	}
	return value.FullBytes, nil
}

const (
	// maxIterations bounds how often a passphrase is hashed to read one file, in all:
	// seconds. Browsers write the most, 600,000 for each of three parts.
	maxIterations = 5_000_000

	maxKeyFileDepth  = 32
	maxKeyFileValues = 20_000
)

// checkIterations refuses a file that would keep us hashing. It looks at all that is
// not encrypted itself, which is where every program writes how a key is encrypted.
func checkIterations(der []byte) error {
	w := iterationWalk{left: maxIterations, values: maxKeyFileValues}
	if !w.walk(cryptobyte.String(der), 0) {
		return fmt.Errorf("%w: too complex, or a passphrase is to be hashed too often", ErrTooLarge)
	}
	return nil
}

type iterationWalk struct {
	left   int64
	values int
}

// walk goes through values of DER, and through the octet strings that hold some. It is
// false when a limit is exceeded.
func (w *iterationWalk) walk(in cryptobyte.String, depth int) bool {
	if depth > maxKeyFileDepth {
		return false
	}
	for !in.Empty() {
		var value cryptobyte.String
		var tag cbasn1.Tag
		if w.values--; w.values < 0 {
			return false
		}
		if !in.ReadAnyASN1(&value, &tag) {
			return true // no DER: the parser proper will say so, or it is text
		}
		if tag == cbasn1.SEQUENCE && !w.count(value) {
			return false
		}
		inside := uint8(tag)&0x20 != 0 || tag == cbasn1.OCTET_STRING || tag == cbasn1.Tag(0).ContextSpecific()
		if inside && !w.walk(value, depth+1) {
			return false
		}
	}
	return true
}

// count takes the iterations off that a sequence asks for: an algorithm's parameters, or
// a MacData, which ends with a salt and their number.
func (w *iterationWalk) count(seq cryptobyte.String) bool {
	var n int64
	var oid asn1.ObjectIdentifier
	var params, salt cryptobyte.String
	algorithm, mac := seq, seq
	switch {
	case algorithm.ReadASN1ObjectIdentifier(&oid) && (oid.Equal(oidPBKDF2) || below(oid, oidPKCS12PBE) >= 0):
		if !algorithm.ReadASN1(&params, cbasn1.SEQUENCE) || !params.ReadASN1(&salt, cbasn1.OCTET_STRING) || !params.ReadASN1Integer(&n) {
			return false
		}
	case mac.SkipASN1(cbasn1.SEQUENCE) && mac.ReadASN1(&salt, cbasn1.OCTET_STRING) && mac.PeekASN1Tag(cbasn1.INTEGER):
		if !mac.ReadASN1Integer(&n) {
			return false
		}
	}
	w.left -= n
	return n >= 0 && w.left >= 0
}
