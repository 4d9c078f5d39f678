package mdmtest

import (
	"bytes"
	"crypto"
	"crypto/cipher"
	"crypto/ecdsa"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"unicode/utf16"
)

// Object identifiers of RFC 7292 and RFC 8018.
const (
	oidEncryptedData   = "1.2.840.113549.1.7.6"
	oidKeyBag          = "1.2.840.113549.1.12.10.1.1"
	oidShroudedKeyBag  = "1.2.840.113549.1.12.10.1.2"
	oidCertBag         = "1.2.840.113549.1.12.10.1.3"
	oidX509Certificate = "1.2.840.113549.1.9.22.1"
	oidPBEWithDES3     = "1.2.840.113549.1.12.1.3"
	oidPBES2           = "1.2.840.113549.1.5.13"
	oidPBKDF2          = "1.2.840.113549.1.5.12"
)

// maxIterations is more than any tool writes.
const maxIterations = 1_000_000

// openPKCS12 reads the one identity in a PKCS #12 file and the certificates that
// come with it.
func openPKCS12(data []byte, password string) (crypto.Signer, *x509.Certificate, []*x509.Certificate, error) {
	f := pkcs12{password: password}
	if err := f.open(data); err != nil {
		return nil, nil, nil, fmt.Errorf("PKCS #12: %w", err)
	}
	if len(f.keys) != 1 {
		return nil, nil, nil, fmt.Errorf("PKCS #12: %d private keys, want one", len(f.keys))
	}
	key := f.keys[0]
	public, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool })
	if !ok {
		return nil, nil, nil, fmt.Errorf("PKCS #12: a %T has no place in a certificate", key)
	}
	i := slices.IndexFunc(f.certificates, func(c *x509.Certificate) bool { return public.Equal(c.PublicKey) })
	if i < 0 {
		return nil, nil, nil, errors.New("PKCS #12: no certificate for the private key")
	}
	return key, f.certificates[i], slices.Delete(slices.Clone(f.certificates), i, i+1), nil
}

// pkcs12 is a file that is being read.
type pkcs12 struct {
	password     string
	keys         []crypto.Signer
	certificates []*x509.Certificate
}

func (f *pkcs12) open(data []byte) error {
	malformed := errors.New("malformed")
	pfx, err := parseBER(data)
	if err != nil {
		return err
	}
	if !pfx.is(tagSequence, 2) {
		return malformed
	}
	if len(pfx.children) < 3 {
		return errors.New("no MAC protects it")
	}
	content, err := contentOf(pfx.children[1], oidData)
	if err != nil {
		return err
	}
	authenticated, err := content.octets(tagOctets)
	if err != nil {
		return err
	}
	if err := f.checkMAC(pfx.children[2], authenticated); err != nil {
		return err
	}
	safes, err := parseBER(authenticated)
	if err != nil {
		return err
	}
	for _, safe := range safes.children {
		plain, err := f.safe(safe)
		if err != nil {
			return err
		}
		bags, err := parseBER(plain)
		if err != nil {
			return err
		}
		for _, bag := range bags.children {
			if err := f.bag(bag); err != nil {
				return err
			}
		}
	}
	return nil
}

// contentOf is the content of a ContentInfo that must have the wanted type.
func contentOf(info element, want string) (element, error) {
	if !info.is(tagSequence, 2) || !info.children[1].is(tagContext0, 1) {
		return element{}, errors.New("not a ContentInfo")
	}
	id, err := info.children[0].oid()
	if err != nil {
		return element{}, err
	}
	if id != want {
		return element{}, fmt.Errorf("content type %s, want %s", id, want)
	}
	return info.children[1].children[0], nil
}

// checkMAC verifies MacData (RFC 7292, 4): only who knows the password can make it.
func (f *pkcs12) checkMAC(mac element, content []byte) error {
	malformed := errors.New("malformed MAC")
	if !mac.is(tagSequence, 2) || !mac.children[0].is(tagSequence, 2) || !mac.children[0].children[0].is(tagSequence, 1) {
		return malformed
	}
	id, err := mac.children[0].children[0].children[0].oid()
	if err != nil {
		return err
	}
	want, err := mac.children[0].children[1].octets(tagOctets)
	if err != nil {
		return err
	}
	salt, err := mac.children[1].octets(tagOctets)
	if err != nil {
		return err
	}
	iterations := 1
	if len(mac.children) > 2 {
		if iterations, err = count(mac.children[2]); err != nil {
			return err
		}
	}
	for _, d := range digests() {
		if d.digest != id {
			continue
		}
		h := hmac.New(d.hash.New, f.derive(d.hash, 3, salt, iterations, d.hash.Size()))
		h.Write(content)
		if !hmac.Equal(h.Sum(nil), want) {
			return errors.New("the password is wrong")
		}
		return nil
	}
	return fmt.Errorf("unknown digest %s", id)
}

// count reads a number of iterations.
func count(el element) (int, error) {
	n, err := el.integer()
	if err != nil {
		return 0, err
	}
	if !n.IsInt64() || n.Int64() < 1 || n.Int64() > maxIterations {
		return 0, fmt.Errorf("%v iterations", n)
	}
	return int(n.Int64()), nil
}

// safe returns the SafeContents of a ContentInfo, encrypted or not.
func (f *pkcs12) safe(info element) ([]byte, error) {
	if content, err := contentOf(info, oidData); err == nil {
		return content.octets(tagOctets)
	}
	content, err := contentOf(info, oidEncryptedData)
	if err != nil {
		return nil, err
	}
	if !content.is(tagSequence, 2) || !content.children[1].is(tagSequence, 3) {
		return nil, errors.New("malformed EncryptedData")
	}
	encrypted := content.children[1].children
	secret, err := encrypted[2].octets(0x80)
	if err != nil {
		return nil, err
	}
	return f.decrypt(encrypted[1], secret)
}

// bag keeps a key or a certificate.
func (f *pkcs12) bag(bag element) error {
	if !bag.is(tagSequence, 2) || !bag.children[1].is(tagContext0, 1) {
		return errors.New("malformed SafeBag")
	}
	id, err := bag.children[0].oid()
	if err != nil {
		return err
	}
	value := bag.children[1].children[0]
	switch id {
	case oidKeyBag:
		return f.key(value.raw)
	case oidShroudedKeyBag:
		if !value.is(tagSequence, 2) {
			return errors.New("malformed key")
		}
		secret, err := value.children[1].octets(tagOctets)
		if err != nil {
			return err
		}
		plain, err := f.decrypt(value.children[0], secret)
		if err != nil {
			return err
		}
		return f.key(plain)
	case oidCertBag:
		if !value.is(tagSequence, 2) || !value.children[1].is(tagContext0, 1) {
			return errors.New("malformed certificate")
		}
		if kind, err := value.children[0].oid(); err != nil || kind != oidX509Certificate {
			return fmt.Errorf("a certificate of type %s", kind)
		}
		raw, err := value.children[1].children[0].octets(tagOctets)
		if err != nil {
			return err
		}
		cert, err := x509.ParseCertificate(raw)
		if err != nil {
			return err
		}
		f.certificates = append(f.certificates, cert)
	}
	return nil // CRLs and secrets are no part of an identity
}

func (f *pkcs12) key(pkcs8 []byte) error {
	key, err := x509.ParsePKCS8PrivateKey(pkcs8)
	if err != nil {
		return err
	}
	switch key := key.(type) {
	case *rsa.PrivateKey:
		f.keys = append(f.keys, key)
	case *ecdsa.PrivateKey:
		f.keys = append(f.keys, key)
	default:
		return fmt.Errorf("a private key of type %T", key)
	}
	return nil
}

// decrypt undoes PBES2 with a CBC cipher, or PKCS #12's own scheme with triple DES.
func (f *pkcs12) decrypt(algorithm element, secret []byte) ([]byte, error) {
	if !algorithm.is(tagSequence, 2) {
		return nil, errors.New("malformed encryption algorithm")
	}
	id, err := algorithm.children[0].oid()
	if err != nil {
		return nil, err
	}
	params := algorithm.children[1]
	var block cipher.Block
	var iv []byte
	switch id {
	case oidPBES2:
		block, iv, err = f.pbes2(params)
	case oidPBEWithDES3:
		block, iv, err = f.pbeWithDES3(params)
	default:
		return nil, fmt.Errorf("encryption %s is not accepted", id)
	}
	if err != nil {
		return nil, err
	}
	return decryptCBC(block, iv, secret)
}

// pbes2 is RFC 8018, 6.2, with PBKDF2.
func (f *pkcs12) pbes2(params element) (cipher.Block, []byte, error) {
	malformed := errors.New("malformed PBES2")
	if !params.is(tagSequence, 2) || !params.children[0].is(tagSequence, 2) || !params.children[1].is(tagSequence, 2) {
		return nil, nil, malformed
	}
	if id, err := params.children[0].children[0].oid(); err != nil || id != oidPBKDF2 {
		return nil, nil, fmt.Errorf("key derivation %s", id)
	}
	kdf := params.children[0].children[1]
	if !kdf.is(tagSequence, 2) {
		return nil, nil, malformed
	}
	salt, err := kdf.children[0].octets(tagOctets)
	if err != nil {
		return nil, nil, err
	}
	iterations, err := count(kdf.children[1])
	if err != nil {
		return nil, nil, err
	}
	hash := crypto.SHA1 // the default
	for _, el := range kdf.children[2:] {
		if !el.is(tagSequence, 1) {
			continue // keyLength, which the cipher says too
		}
		id, err := el.children[0].oid()
		if err != nil {
			return nil, nil, err
		}
		switch id {
		case "1.2.840.113549.2.7":
		case "1.2.840.113549.2.9":
			hash = crypto.SHA256
		case "1.2.840.113549.2.11":
			hash = crypto.SHA512
		default:
			return nil, nil, fmt.Errorf("pseudo-random function %s", id)
		}
	}
	id, err := params.children[1].children[0].oid()
	if err != nil {
		return nil, nil, err
	}
	newCipher, size := blockCipher(id)
	if newCipher == nil {
		return nil, nil, fmt.Errorf("cipher %s", id)
	}
	iv, err := params.children[1].children[1].octets(tagOctets)
	if err != nil {
		return nil, nil, err
	}
	key, err := pbkdf2.Key(hash.New, f.password, salt, iterations, size)
	if err != nil {
		return nil, nil, err
	}
	block, err := newCipher(key)
	return block, iv, err
}

// pbeWithDES3 is RFC 7292, appendix C.
func (f *pkcs12) pbeWithDES3(params element) (cipher.Block, []byte, error) {
	if !params.is(tagSequence, 2) {
		return nil, nil, errors.New("malformed PBE parameters")
	}
	salt, err := params.children[0].octets(tagOctets)
	if err != nil {
		return nil, nil, err
	}
	iterations, err := count(params.children[1])
	if err != nil {
		return nil, nil, err
	}
	newCipher, size := blockCipher(oidDES3)
	block, err := newCipher(f.derive(crypto.SHA1, 1, salt, iterations, size))
	return block, f.derive(crypto.SHA1, 2, salt, iterations, 8), err
}

// derive makes key material of the password (RFC 7292, appendix B.2): id is 1 for
// a key, 2 for an initialization vector, 3 for a MAC key.
func (f *pkcs12) derive(hash crypto.Hash, id byte, salt []byte, iterations, size int) []byte {
	var password []byte // a BMPString that ends with a zero character
	for _, u := range append(utf16.Encode([]rune(f.password)), 0) {
		password = append(password, byte(u>>8), byte(u))
	}
	v := hash.New().BlockSize()
	fill := func(b []byte) []byte {
		if len(b) == 0 {
			return nil
		}
		n := (len(b) + v - 1) / v * v
		return bytes.Repeat(b, n/len(b)+1)[:n]
	}
	input := append(fill(salt), fill(password)...)
	diversifier := bytes.Repeat([]byte{id}, v)
	var out []byte
	for len(out) < size {
		a := append(bytes.Clone(diversifier), input...)
		for range iterations {
			h := hash.New()
			h.Write(a)
			a = h.Sum(nil)
		}
		out = append(out, a...)
		// Each block of the input grows by the digest, repeated, and one.
		b := bytes.Repeat(a, v/len(a)+1)[:v]
		for j := 0; j < len(input); j += v {
			carry := 1
			for k := v - 1; k >= 0; k-- {
				carry += int(input[j+k]) + int(b[k])
				input[j+k] = byte(carry)
				carry >>= 8
			}
		}
	}
	return out[:size]
}
