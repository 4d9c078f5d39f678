package guard_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"math/big"
	"os"
	"reflect"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/smallstep/pkcs7"

	"github.com/gatehouse-mdm/gatehouse/storage/guard"
)

// rsaKey is one RSA key for all tests: making one takes a while.
var rsaKey = sync.OnceValue(func() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return key
})

func ecKey(t testing.TB, curve elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// certify makes a certificate for pub, valid from notBefore for an hour, signed
// by signer, which need not be the key of pub.
func certify(t testing.TB, cn string, pub any, signer crypto.Signer, notBefore time.Time) *x509.Certificate {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()),
		Subject:      pkix.Name{CommonName: cn},
		NotBefore:    notBefore,
		NotAfter:     notBefore.Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, pub, signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// signing says how sign builds a message.
type signing struct {
	key      crypto.Signer
	cert     *x509.Certificate // nil: a new one for the key, valid now
	digest   asn1.ObjectIdentifier
	bare     bool // without signed attributes
	detached bool
	attrs    []pkcs7.Attribute
	extra    []*x509.Certificate
	twice    bool // two signers
	none     bool // no signer
}

func (s signing) sign(t testing.TB, content []byte) []byte {
	t.Helper()
	if s.cert == nil {
		s.cert = certify(t, "signer", s.key.Public(), s.key, time.Now().Add(-time.Minute))
	}
	sd, err := pkcs7.NewSignedData(content)
	if err != nil {
		t.Fatal(err)
	}
	if s.digest == nil {
		s.digest = pkcs7.OIDDigestAlgorithmSHA256
	}
	sd.SetDigestAlgorithm(s.digest)
	add := func() {
		var err error
		if s.bare {
			err = sd.SignWithoutAttr(s.cert, s.key, pkcs7.SignerInfoConfig{})
		} else {
			err = sd.AddSigner(s.cert, s.key, pkcs7.SignerInfoConfig{ExtraSignedAttributes: s.attrs})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if !s.none {
		add()
	}
	if s.twice {
		add()
	}
	for _, c := range s.extra {
		sd.AddCertificate(c)
	}
	if s.detached {
		sd.Detach()
	}
	cms, err := sd.Finish()
	if err != nil {
		t.Fatal(err)
	}
	return cms
}

// asApple rewrites der as Apple's encoder would: indefinite lengths wherever they
// are allowed, and octet strings in pieces of at most eight bytes.
func asApple(t testing.TB, der []byte) []byte {
	t.Helper()
	var out []byte
	for len(der) > 0 {
		var v asn1.RawValue
		rest, err := asn1.Unmarshal(der, &v)
		if err != nil {
			t.Fatal(err)
		}
		head := v.FullBytes[0]
		switch {
		case v.IsCompound:
			out = append(append(append(out, head, 0x80), asApple(t, v.Bytes)...), 0, 0)
		case head == 0x04 && len(v.Bytes) > 8:
			out = append(out, 0x24, 0x80)
			for piece := v.Bytes; len(piece) > 0; {
				n := min(8, len(piece))
				out = append(append(out, 0x04, byte(n)), piece[:n]...)
				piece = piece[n:]
			}
			out = append(out, 0, 0)
		default:
			out = append(out, v.FullBytes...)
		}
		der = rest
	}
	return out
}

func TestSignaturesThatAreRight(t *testing.T) {
	content := []byte(document("<dict><key>Status</key><string>Idle</string></dict>"))
	for name, s := range map[string]signing{
		"RSA with SHA-1":                      {key: rsaKey(), digest: pkcs7.OIDDigestAlgorithmSHA1},
		"RSA with SHA-256":                    {key: rsaKey(), digest: pkcs7.OIDDigestAlgorithmSHA256},
		"RSA with SHA-384":                    {key: rsaKey(), digest: pkcs7.OIDDigestAlgorithmSHA384},
		"RSA with SHA-512":                    {key: rsaKey(), digest: pkcs7.OIDDigestAlgorithmSHA512},
		"P-256 with SHA-256":                  {key: ecKey(t, elliptic.P256()), digest: pkcs7.OIDDigestAlgorithmSHA256},
		"P-384 with SHA-384":                  {key: ecKey(t, elliptic.P384()), digest: pkcs7.OIDDigestAlgorithmSHA384},
		"P-521 with SHA-512":                  {key: ecKey(t, elliptic.P521()), digest: pkcs7.OIDDigestAlgorithmSHA512},
		"P-256 with SHA-1":                    {key: ecKey(t, elliptic.P256()), digest: pkcs7.OIDDigestAlgorithmSHA1},
		"RSA with SHA-1 and no attributes":    {key: rsaKey(), bare: true, digest: pkcs7.OIDDigestAlgorithmSHA1},
		"ECDSA with SHA-256, no attributes":   {key: ecKey(t, elliptic.P256()), bare: true},
		"an identity that has expired":        {key: rsaKey(), cert: certify(t, "old", rsaKey().Public(), rsaKey(), time.Now().AddDate(-2, 0, 0))},
		"an identity that is not valid yet":   {key: rsaKey(), cert: certify(t, "new", rsaKey().Public(), rsaKey(), time.Now().AddDate(2, 0, 0))},
		"another certificate in the message":  {key: rsaKey(), extra: []*x509.Certificate{certify(t, "other", rsaKey().Public(), rsaKey(), time.Now())}},
		"attributes beyond the standard ones": {key: rsaKey(), attrs: []pkcs7.Attribute{{Type: asn1.ObjectIdentifier{1, 2, 3}, Value: "x"}}},
	} {
		t.Run(name, func(t *testing.T) {
			for _, detached := range []bool{true, false} {
				s.detached = detached
				der := s.sign(t, content)
				for form, cms := range map[string][]byte{"DER": der, "Apple's BER": asApple(t, der)} {
					sig, err := guard.VerifyDetached(cms, content, 0)
					if err != nil {
						t.Fatalf("VerifyDetached of %s: %v", form, err)
					}
					if sig.Certificate == nil || !sig.Certificate.PublicKey.(interface{ Equal(crypto.PublicKey) bool }).Equal(s.key.Public()) {
						t.Errorf("VerifyDetached of %s: not the signer's certificate", form)
					}
					if s.bare != sig.SigningTime.IsZero() {
						t.Errorf("VerifyDetached of %s: signing time %v", form, sig.SigningTime)
					}
					if sig.Others != len(s.extra) {
						t.Errorf("VerifyDetached of %s: %d other certificates, want %d", form, sig.Others, len(s.extra))
					}
					attached, err := guard.VerifyAttached(cms, 0)
					if detached {
						if !errors.Is(err, guard.ErrCMS) {
							t.Errorf("VerifyAttached of %s without content: %v, want ErrCMS", form, err)
						}
					} else if err != nil || !bytes.Equal(attached.Content, content) {
						t.Errorf("VerifyAttached of %s: %v, content %q", form, err, attached.Content)
					}
				}
			}
		})
	}
}

func TestContentTooLargeToKeepIsVerifiedAsItIsRead(t *testing.T) {
	content := bytes.Repeat([]byte("a result that goes on and on. "), 1000)
	for name, s := range map[string]signing{
		"signed attributes":    {key: rsaKey(), detached: true},
		"no signed attributes": {key: ecKey(t, elliptic.P256()), detached: true, bare: true},
	} {
		t.Run(name, func(t *testing.T) {
			cms := asApple(t, s.sign(t, content))
			sig, err := guard.VerifyDetachedReader(cms, bytes.NewReader(content), 0)
			if err != nil || sig.Certificate == nil || sig.Content != nil {
				t.Errorf("VerifyDetachedReader = %+v, %v", sig, err)
			}
			if _, err := guard.VerifyDetachedReader(cms, bytes.NewReader(content[1:]), 0); !errors.Is(err, guard.ErrSignature) {
				t.Errorf("VerifyDetachedReader of other content: %v, want ErrSignature", err)
			}
			broken := errors.New("connection reset")
			if _, err := guard.VerifyDetachedReader(cms, iotest.ErrReader(broken), 0); !errors.Is(err, broken) {
				t.Errorf("VerifyDetachedReader of a broken reader: %v, want its error", err)
			}
		})
	}
}

func TestSignaturesThatAreRefused(t *testing.T) {
	content := []byte("content")
	small := ecKey(t, elliptic.P224())
	_, edwards, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	edwardsCert := certify(t, "edwards", edwards.Public(), edwards, time.Now())
	fresh := certify(t, "signer", rsaKey().Public(), rsaKey(), time.Now())

	for name, tt := range map[string]struct {
		cms     []byte
		content []byte
		want    error
	}{
		"other content":                     {signing{key: rsaKey(), detached: true}.sign(t, content), []byte("other"), guard.ErrSignature},
		"other content, no attributes":      {signing{key: rsaKey(), detached: true, bare: true}.sign(t, content), []byte("other"), guard.ErrSignature},
		"other content than what it holds":  {signing{key: rsaKey()}.sign(t, content), []byte("other"), guard.ErrSignature},
		"no signer":                         {signing{key: rsaKey(), none: true}.sign(t, content), content, guard.ErrCMS},
		"two signers":                       {signing{key: rsaKey(), twice: true}.sign(t, content), content, guard.ErrCMS},
		"another's certificate":             {signing{key: rsaKey(), cert: certify(t, "other", ecKey(t, elliptic.P256()).Public(), rsaKey(), time.Now())}.sign(t, content), content, guard.ErrCMS},
		"another RSA key's certificate":     {signing{key: rsaKey(), cert: certify(t, "other", otherRSAKey().Public(), rsaKey(), time.Now())}.sign(t, content), content, guard.ErrSignature},
		"a curve that is too small":         {signing{key: small}.sign(t, content), content, guard.ErrKey},
		"an Edwards curve":                  {signing{key: rsaKey(), cert: edwardsCert}.sign(t, content), content, guard.ErrKey},
		"a second signed digest":            {signing{key: rsaKey(), attrs: []pkcs7.Attribute{{Type: pkcs7.OIDAttributeMessageDigest, Value: []byte("x")}}}.sign(t, content), content, guard.ErrCMS},
		"a second content type":             {signing{key: rsaKey(), attrs: []pkcs7.Attribute{{Type: pkcs7.OIDAttributeContentType, Value: pkcs7.OIDData}}}.sign(t, content), content, guard.ErrCMS},
		"a signature that was changed":      {flipLast(signing{key: rsaKey()}.sign(t, content)), content, guard.ErrSignature},
		"a signed attribute that changed":   {bytes.Replace(signing{key: rsaKey(), attrs: []pkcs7.Attribute{{Type: asn1.ObjectIdentifier{1, 2, 3}, Value: "before"}}}.sign(t, content), []byte("before"), []byte("behind"), 1), content, guard.ErrSignature},
		"no certificate":                    {withoutCertificates(t, signing{key: rsaKey(), cert: fresh}.sign(t, content)), content, guard.ErrCMS},
		"encrypted data":                    {envelope(t, content, fresh), content, guard.ErrCMS},
		"something after the message":       {append(signing{key: rsaKey()}.sign(t, content), 0), content, guard.ErrCMS},
		"a message cut short":               {signing{key: rsaKey()}.sign(t, content)[:700], content, guard.ErrCMS},
		"nothing":                           {nil, content, guard.ErrCMS},
		"a property list instead":           {[]byte(document("<dict/>")), content, guard.ErrCMS},
		"a message larger than the limit":   {signing{key: rsaKey()}.sign(t, make([]byte, 64<<10)), content, guard.ErrTooLarge},
		"content of another type, unsigned": {bytes.ReplaceAll(signing{key: rsaKey(), bare: true}.sign(t, content), oidBytes(t, pkcs7.OIDData), oidBytes(t, pkcs7.OIDEnvelopedData)), content, guard.ErrCMS},
	} {
		t.Run(name, func(t *testing.T) {
			refusedCheaply(t, tt.want, func() error {
				_, err := guard.VerifyDetached(tt.cms, tt.content, 0)
				return err
			})
		})
	}
}

var otherRSAKey = sync.OnceValue(func() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return key
})

func flipLast(b []byte) []byte {
	b[len(b)-1] ^= 1
	return b
}

func oidBytes(t *testing.T, oid asn1.ObjectIdentifier) []byte {
	t.Helper()
	b, err := asn1.Marshal(oid)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func envelope(t *testing.T, content []byte, to *x509.Certificate) []byte {
	t.Helper()
	b, err := pkcs7.Encrypt(content, []*x509.Certificate{to})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// withoutCertificates takes the certificates out of a message made by signing.
func withoutCertificates(t *testing.T, cms []byte) []byte {
	t.Helper()
	var info struct {
		Type    asn1.ObjectIdentifier
		Content struct {
			Version      int
			Digests      asn1.RawValue
			Encapsulated asn1.RawValue
			Certificates asn1.RawValue `asn1:"optional,tag:0"`
			Signers      asn1.RawValue
		} `asn1:"explicit,tag:0"`
	}
	if _, err := asn1.Unmarshal(cms, &info); err != nil {
		t.Fatal(err)
	}
	info.Content.Certificates = asn1.RawValue{}
	b, err := asn1.Marshal(info)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// A Mac made these messages: indefinite lengths, SHA-1, no signed attributes.
// They come from the tests of nanomdm (MIT, Copyright 2021 Jesse Peterson).
func TestTheSignatureOfARealMacIsRight(t *testing.T) {
	cms, err := os.ReadFile("testdata/apple-mac-2021-b.sig")
	if err != nil {
		t.Fatal(err)
	}
	body, err := os.ReadFile("testdata/apple-mac-2021-b.plist")
	if err != nil {
		t.Fatal(err)
	}
	sig, err := guard.VerifyDetached(cms, body, 32<<10)
	if err != nil {
		t.Fatal(err)
	}
	if got := sig.Certificate.SerialNumber.Int64(); got != 34 {
		t.Errorf("serial = %d, want 34", got)
	}
	refusedCheaply(t, guard.ErrSignature, func() error {
		_, err := guard.VerifyDetached(cms, append(body, '\n'), 32<<10)
		return err
	})
}

func TestCertificatesOfARealMacAreParsed(t *testing.T) {
	cms, err := os.ReadFile("testdata/apple-mac-2021.sig")
	if err != nil {
		t.Fatal(err)
	}
	p7, err := guard.ParseCMS(cms, 0)
	if err != nil {
		t.Fatal(err)
	}
	if len(p7.Certificates) != 1 || len(p7.Signers) != 1 {
		t.Errorf("got %d certificates, %d signers, want one each", len(p7.Certificates), len(p7.Signers))
	}
}

// The order of signed attributes is DER's for whoever follows RFC 5652; others
// sign the order that they send.
func TestSignedAttributesInAnyOrderAreAccepted(t *testing.T) {
	key := rsaKey()
	cert := certify(t, "signer", key.Public(), key, time.Now())
	content := []byte("content")
	digest := sha256.Sum256(content)
	attr := func(oid asn1.ObjectIdentifier, v any) []byte {
		value, err := asn1.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		b, err := asn1.Marshal(struct {
			Type   asn1.ObjectIdentifier
			Values asn1.RawValue
		}{oid, asn1.RawValue{Tag: 17, IsCompound: true, Bytes: value}})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	contentType := attr(pkcs7.OIDAttributeContentType, pkcs7.OIDData)
	messageDigest := attr(pkcs7.OIDAttributeMessageDigest, digest[:])
	set := func(tag byte, parts ...[]byte) []byte {
		body := bytes.Join(parts, nil)
		return append([]byte{tag, byte(len(body))}, body...)
	}
	for name, tt := range map[string]struct {
		sent, signed []byte
		want         error
	}{
		"DER's order sent and signed":          {set(0xA0, contentType, messageDigest), set(0x31, contentType, messageDigest), nil},
		"another order sent, DER's signed":     {set(0xA0, messageDigest, contentType), set(0x31, contentType, messageDigest), nil},
		"another order sent and signed":        {set(0xA0, messageDigest, contentType), set(0x31, messageDigest, contentType), nil},
		"DER's order sent, another one signed": {set(0xA0, contentType, messageDigest), set(0x31, messageDigest, contentType), guard.ErrSignature},
		"the implicit tag signed":              {set(0xA0, contentType, messageDigest), set(0xA0, contentType, messageDigest), guard.ErrSignature},
		"no content type":                      {set(0xA0, messageDigest), set(0x31, messageDigest), guard.ErrCMS},
		"no digest":                            {set(0xA0, contentType), set(0x31, contentType), guard.ErrCMS},
	} {
		t.Run(name, func(t *testing.T) {
			sum := sha256.Sum256(tt.signed)
			signature, err := rsa.SignPKCS1v15(nil, key, crypto.SHA256, sum[:])
			if err != nil {
				t.Fatal(err)
			}
			cms := handMade(t, cert, tt.sent, signature)
			if _, err := guard.VerifyDetached(cms, content, 0); !errors.Is(err, tt.want) {
				t.Errorf("VerifyDetached = %v, want %v", err, tt.want)
			}
		})
	}
}

// handMade is a detached SignedData with the given attributes and signature.
func handMade(t *testing.T, cert *x509.Certificate, attrs, signature []byte) []byte {
	t.Helper()
	type algorithm struct{ Algorithm asn1.ObjectIdentifier }
	type issuerAndSerial struct {
		Issuer asn1.RawValue
		Serial *big.Int
	}
	type signer struct {
		Version   int
		ID        issuerAndSerial
		Digest    algorithm
		Attrs     asn1.RawValue
		Algorithm algorithm
		Signature []byte
	}
	type signedData struct {
		Version      int
		Digests      []algorithm `asn1:"set"`
		Encapsulated struct{ Type asn1.ObjectIdentifier }
		Certificates asn1.RawValue
		Signers      []signer `asn1:"set"`
	}
	sd := signedData{
		Version:      1,
		Digests:      []algorithm{{pkcs7.OIDDigestAlgorithmSHA256}},
		Certificates: asn1.RawValue{Class: 2, Tag: 0, IsCompound: true, Bytes: cert.Raw},
		Signers: []signer{{
			Version:   1,
			ID:        issuerAndSerial{asn1.RawValue{FullBytes: cert.RawIssuer}, cert.SerialNumber},
			Digest:    algorithm{pkcs7.OIDDigestAlgorithmSHA256},
			Attrs:     asn1.RawValue{FullBytes: attrs},
			Algorithm: algorithm{pkcs7.OIDEncryptionAlgorithmRSA},
			Signature: signature,
		}},
	}
	sd.Encapsulated.Type = pkcs7.OIDData
	b, err := asn1.Marshal(struct {
		Type    asn1.ObjectIdentifier
		Content signedData `asn1:"explicit,tag:0"`
	}{pkcs7.OIDSignedData, sd})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestEnvelopes(t *testing.T) {
	cert := certify(t, "recipient", rsaKey().Public(), rsaKey(), time.Now())
	der := envelope(t, []byte("a request of some length"), cert)
	want, err := guard.ParseEnvelope(der, 0)
	if err != nil {
		t.Fatal(err)
	}
	if len(want.Recipients) != 1 || !bytes.Equal(want.Recipients[0].Issuer, cert.RawIssuer) ||
		len(want.Recipients[0].EncryptedKey) != 256 || len(want.Ciphertext) != 24+8 || len(want.Parameters) != 2+8 {
		t.Errorf("ParseEnvelope = %+v, want one recipient, 32 bytes in DES blocks and its start value", want)
	}
	got, err := guard.ParseEnvelope(asApple(t, der), 0)
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("ParseEnvelope of Apple's BER = %+v, %v, want %+v", got, err, want)
	}
	// The implicit tag of the cipher text hides that it is an octet string, so
	// asApple left it alone.
	plain := append([]byte{0x80, 32}, want.Ciphertext...)
	split := append([]byte{0xA0, 0x80, 0x04, 16}, want.Ciphertext[:16]...)
	split = append(append(append(split, 0x04, 16), want.Ciphertext[16:]...), 0, 0)
	ber := bytes.Replace(asApple(t, der), plain, split, 1)
	if got, err = guard.ParseEnvelope(ber, 0); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("ParseEnvelope of a cipher text in pieces = %+v, %v, want %+v", got, err, want)
	}

	for name, cms := range map[string][]byte{
		"signed data":   signing{key: rsaKey()}.sign(t, []byte("x")),
		"cut short":     der[:len(der)-1],
		"and something": append(bytes.Clone(der), 0),
		"nothing":       nil,
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := guard.ParseEnvelope(cms, 0); !errors.Is(err, guard.ErrCMS) {
				t.Errorf("ParseEnvelope = %v, want ErrCMS", err)
			}
		})
	}
}

func TestAttributesAreHandedOn(t *testing.T) {
	oid := asn1.ObjectIdentifier{2, 16, 840, 1, 113733, 1, 9, 7}
	cms := signing{key: rsaKey(), attrs: []pkcs7.Attribute{{Type: oid, Value: "transaction"}}}.sign(t, []byte("x"))
	sig, err := guard.VerifyAttached(asApple(t, cms), 0)
	if err != nil {
		t.Fatal(err)
	}
	value, ok, err := guard.One(sig.Attributes, oid)
	if err != nil || !ok {
		t.Fatalf("One = %v, %v", ok, err)
	}
	if want := "\x13\x0btransaction"; string(value) != want {
		t.Errorf("value = %q, want %q", value, want)
	}
	if _, ok, err := guard.One(sig.Attributes, asn1.ObjectIdentifier{1, 2, 3}); ok || err != nil {
		t.Errorf("One of a missing attribute = %v, %v", ok, err)
	}
}

// What is refused here made the parser behind this package run for minutes, or
// take all memory, from a few hundred bytes.
func TestMessagesThatWouldBeCostly(t *testing.T) {
	giant := new(big.Int).Lsh(big.NewInt(1), 256<<10)
	giant.Sub(giant, big.NewInt(1))
	giantCert := certify(t, "giant", &rsa.PublicKey{N: giant, E: 65537}, rsaKey(), time.Now())

	for name, tt := range map[string]struct {
		cms  []byte
		want error
	}{
		"values longer than what holds them":       {bytes.Repeat([]byte{0x30, 0x7F}, 68), guard.ErrCMS},
		"nesting without lengths":                  {bytes.Repeat([]byte{0x30, 0x80}, 32<<10), guard.ErrCMS},
		"nesting without lengths, closed":          {append(bytes.Repeat([]byte{0x30, 0x80}, 8<<10), make([]byte, 16<<10)...), guard.ErrCMS},
		"many values":                              {append([]byte{0x30, 0x80}, bytes.Repeat([]byte{0x05, 0x00}, 33_000)...), guard.ErrCMS},
		"a key of 256 kbit":                        {signing{key: rsaKey(), cert: giantCert}.sign(t, []byte("x")), guard.ErrKey},
		"a key of 256 kbit, no attributes":         {signing{key: rsaKey(), cert: giantCert, bare: true}.sign(t, []byte("x")), guard.ErrKey},
		"a length of four gigabytes":               {[]byte{0x30, 0x84, 0xFF, 0xFF, 0xFF, 0xFF, 0}, guard.ErrCMS},
		"a length of five bytes":                   {[]byte{0x30, 0x85, 0, 0, 0, 0, 1, 0}, guard.ErrCMS},
		"a tag of many bytes":                      {append([]byte{0x3F}, bytes.Repeat([]byte{0xFF}, 1000)...), guard.ErrCMS},
		"a simple value of indefinite length":      {[]byte{0x30, 0x04, 0x04, 0x80, 0, 0}, guard.ErrCMS},
		"an end mark that ends nothing":            {[]byte{0x30, 0x04, 0, 0, 0, 0}, guard.ErrCMS},
		"an octet string made of something else":   {[]byte{0x24, 0x80, 0x02, 0x01, 0x01, 0, 0}, guard.ErrCMS},
		"a string in pieces that is not of octets": {[]byte{0x2C, 0x80, 0x0C, 0x01, 'a', 0, 0}, guard.ErrCMS},
	} {
		t.Run(name, func(t *testing.T) {
			refusedCheaply(t, tt.want, func() error {
				_, err := guard.VerifyDetached(tt.cms, []byte("x"), 128<<10)
				return err
			})
			if tt.want == guard.ErrCMS {
				refusedCheaply(t, tt.want, func() error {
					_, err := guard.ParseCMS(tt.cms, 128<<10)
					return err
				})
				refusedCheaply(t, tt.want, func() error {
					_, err := guard.ParseEnvelope(tt.cms, 128<<10)
					return err
				})
			}
		})
	}
}

func TestManyValuesOfIndefiniteLengthAreReadInLinearTime(t *testing.T) {
	// As many nodes as are allowed, each of indefinite length: what a search for
	// the end mark from each of them would make slow.
	cms := append([]byte{0x30, 0x80}, bytes.Repeat([]byte{0x30, 0x80, 0, 0}, 31_000)...)
	cms = append(cms, 0, 0)
	refusedCheaply(t, guard.ErrCMS, func() error {
		_, err := guard.ParseCMS(cms, 1<<20)
		return err
	})
}

func TestCertificateRequests(t *testing.T) {
	good := request(t, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "x"}}, rsaKey())
	names := func(n int) []string {
		out := make([]string, n)
		for i := range out {
			out[i] = strings.Repeat("a", 1+i%60)
		}
		return out
	}
	giant := new(big.Int).Lsh(big.NewInt(1), 128<<10)
	giant.Sub(giant, big.NewInt(1))

	for name, tt := range map[string]struct {
		der  []byte
		want error
	}{
		"RSA of 2048 bits":         {good, nil},
		"P-256":                    {request(t, &x509.CertificateRequest{}, ecKey(t, elliptic.P256())), nil},
		"a hundred names":          {request(t, &x509.CertificateRequest{DNSNames: names(100)}, rsaKey()), nil},
		"a hundred and one names":  {request(t, &x509.CertificateRequest{DNSNames: names(101)}, rsaKey()), guard.ErrCertificate},
		"ten thousand names":       {request(t, &x509.CertificateRequest{DNSNames: names(10_000)}, rsaKey()), guard.ErrTooLarge},
		"a signature that changed": {flipLast(bytes.Clone(good)), guard.ErrSignature},
		"P-224":                    {request(t, &x509.CertificateRequest{}, ecKey(t, elliptic.P224())), guard.ErrKey},
		"a key of 128 kbit":        {withModulus(t, good, giant), guard.ErrKey},
		"an exponent of one":       {withKey(t, good, &rsa.PublicKey{N: rsaKey().N, E: 1}), guard.ErrKey},
		"an exponent of three":     {withKey(t, good, &rsa.PublicKey{N: rsaKey().N, E: 3}), guard.ErrKey},
		"something after it":       {append(bytes.Clone(good), 0), guard.ErrCertificate},
		"cut short":                {good[:100], guard.ErrCertificate},
		"nothing":                  {nil, guard.ErrCertificate},
		"a message of megabytes":   {make([]byte, 1<<20), guard.ErrTooLarge},
	} {
		t.Run(name, func(t *testing.T) {
			check := func() error {
				csr, err := guard.ParseCSR(tt.der, 0)
				if err != nil {
					return err
				}
				return guard.CheckCSR(csr)
			}
			if tt.want == nil {
				if err := check(); err != nil {
					t.Error(err)
				}
				return
			}
			refusedCheaply(t, tt.want, check)
		})
	}
}

func request(t testing.TB, template *x509.CertificateRequest, key crypto.Signer) []byte {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, template, key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func withModulus(t *testing.T, csr []byte, n *big.Int) []byte {
	return withKey(t, csr, &rsa.PublicKey{N: n, E: 65537})
}

// withKey puts another public key into a request, which breaks its signature:
// nobody may find that out by using the key.
func withKey(t *testing.T, csr []byte, pub *rsa.PublicKey) []byte {
	t.Helper()
	parsed, err := x509.ParseCertificateRequest(csr)
	if err != nil {
		t.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	var outer struct {
		Info struct {
			Version int
			Subject asn1.RawValue
			Key     asn1.RawValue
			Attrs   asn1.RawValue `asn1:"optional,tag:0"`
		}
		Algorithm pkix.AlgorithmIdentifier
		Signature asn1.BitString
	}
	if _, err := asn1.Unmarshal(parsed.Raw, &outer); err != nil {
		t.Fatal(err)
	}
	outer.Info.Key = asn1.RawValue{FullBytes: spki}
	der, err := asn1.Marshal(outer)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func TestAttributesOfACertificateRequest(t *testing.T) {
	der := request(t, &x509.CertificateRequest{DNSNames: []string{"a.example"}}, rsaKey())
	csr, err := guard.ParseCSR(der, 0)
	if err != nil {
		t.Fatal(err)
	}
	attrs, err := guard.CSRAttributes(csr)
	if err != nil {
		t.Fatal(err)
	}
	extensionRequest := asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 14}
	if len(attrs) != 1 || !attrs[0].Type.Equal(extensionRequest) || len(attrs[0].Values) != 1 {
		t.Errorf("attributes = %v, want one extension request", attrs)
	}
}

func TestPublicKeys(t *testing.T) {
	prime := func(bits int) *big.Int {
		p, err := rand.Prime(rand.Reader, bits)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	next := func(p *big.Int) *big.Int {
		q := new(big.Int).Add(p, big.NewInt(2))
		for !q.ProbablyPrime(10) {
			q.Add(q, big.NewInt(2))
		}
		return q
	}
	good := rsaKey().N
	p := prime(1025)
	for name, tt := range map[string]struct {
		key  any
		want error
	}{
		"RSA of 2048 bits":         {rsaKey().Public(), nil},
		"a large odd exponent":     {&rsa.PublicKey{N: good, E: 1<<31 - 1}, nil},
		"RSA of 2047 bits":         {&rsa.PublicKey{N: new(big.Int).Rsh(good, 1), E: 65537}, guard.ErrKey},
		"RSA of 4097 bits":         {&rsa.PublicKey{N: new(big.Int).Add(new(big.Int).Lsh(big.NewInt(1), 4096), big.NewInt(1)), E: 65537}, guard.ErrKey},
		"exponent 1":               {&rsa.PublicKey{N: good, E: 1}, guard.ErrKey},
		"exponent 3":               {&rsa.PublicKey{N: good, E: 3}, guard.ErrKey},
		"exponent 0":               {&rsa.PublicKey{N: good}, guard.ErrKey},
		"a negative exponent":      {&rsa.PublicKey{N: good, E: -65537}, guard.ErrKey},
		"an even exponent":         {&rsa.PublicKey{N: good, E: 65536}, guard.ErrKey},
		"an even modulus":          {&rsa.PublicKey{N: new(big.Int).Lsh(good, 1), E: 65537}, guard.ErrKey},
		"a modulus of one factor":  {&rsa.PublicKey{N: new(big.Int).Mul(p, p), E: 65537}, guard.ErrKey},
		"neighbouring primes":      {&rsa.PublicKey{N: new(big.Int).Mul(p, next(p)), E: 65537}, guard.ErrKey},
		"a factor of 997":          {&rsa.PublicKey{N: new(big.Int).Mul(prime(2040), big.NewInt(997)), E: 65537}, guard.ErrKey},
		"a factor of 3":            {&rsa.PublicKey{N: new(big.Int).Mul(prime(2047), big.NewInt(3)), E: 65537}, guard.ErrKey},
		"no modulus":               {&rsa.PublicKey{E: 65537}, guard.ErrKey},
		"P-256":                    {ecKey(t, elliptic.P256()).Public(), nil},
		"P-384":                    {ecKey(t, elliptic.P384()).Public(), nil},
		"P-521":                    {ecKey(t, elliptic.P521()).Public(), nil},
		"P-224":                    {ecKey(t, elliptic.P224()).Public(), guard.ErrKey},
		"Ed25519":                  {ed25519.PublicKey(make([]byte, 32)), guard.ErrKey},
		"nothing":                  {nil, guard.ErrKey},
		"a private key by mistake": {rsaKey(), guard.ErrKey},
	} {
		t.Run(name, func(t *testing.T) {
			if err := guard.CheckPublicKey(tt.key); !errors.Is(err, tt.want) {
				t.Errorf("CheckPublicKey = %v, want %v", err, tt.want)
			}
		})
	}
}

func TestCertificatesAreParsedWithTheirKeyLookedAt(t *testing.T) {
	for name, tt := range map[string]struct {
		der  []byte
		want error
	}{
		"RSA":       {certify(t, "a", rsaKey().Public(), rsaKey(), time.Now()).Raw, nil},
		"P-224":     {certify(t, "a", ecKey(t, elliptic.P224()).Public(), rsaKey(), time.Now()).Raw, guard.ErrKey},
		"garbage":   {[]byte("garbage"), guard.ErrCertificate},
		"too large": {make([]byte, 65<<10), guard.ErrTooLarge},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := guard.ParseCertificate(tt.der); !errors.Is(err, tt.want) {
				t.Errorf("ParseCertificate = %v, want %v", err, tt.want)
			}
		})
	}
}

func BenchmarkVerifyIdle(b *testing.B) {
	cms, err := os.ReadFile("testdata/apple-mac-2021-b.sig")
	if err != nil {
		b.Fatal(err)
	}
	body, err := os.ReadFile("testdata/apple-mac-2021-b.plist")
	if err != nil {
		b.Fatal(err)
	}
	b.Run("signature and plist", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := guard.VerifyDetached(cms, body, 0); err != nil {
				b.Fatal(err)
			}
			if err := guard.CheckPlist(body, guard.PlistLimits{}); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("the RSA operation alone", func(b *testing.B) {
		sig, err := guard.VerifyDetached(cms, body, 0)
		if err != nil {
			b.Fatal(err)
		}
		pub := sig.Certificate.PublicKey.(*rsa.PublicKey)
		digest := sha256.Sum256(body)
		signature := make([]byte, pub.Size())
		for b.Loop() {
			_ = rsa.VerifyPKCS1v15(pub, crypto.SHA256, digest[:], signature)
		}
	})
}

func BenchmarkCheckPublicKey(b *testing.B) {
	key := rsaKey().Public()
	for b.Loop() {
		if err := guard.CheckPublicKey(key); err != nil {
			b.Fatal(err)
		}
	}
}

func TestWhoIssuedACertificate(t *testing.T) {
	cert := certify(t, "leaf", ecKey(t, elliptic.P256()).Public(), rsaKey(), time.Now())
	for name, tt := range map[string]struct {
		issuer *x509.Certificate
		want   error
	}{
		"the issuer":            {certify(t, "issuer", rsaKey().Public(), rsaKey(), time.Now()), nil},
		"another":               {certify(t, "issuer", otherRSAKey().Public(), rsaKey(), time.Now()), guard.ErrSignature},
		"another kind of key":   {certify(t, "issuer", ecKey(t, elliptic.P256()).Public(), rsaKey(), time.Now()), guard.ErrSignature},
		"a key that is refused": {certify(t, "issuer", ecKey(t, elliptic.P224()).Public(), rsaKey(), time.Now()), guard.ErrKey},
	} {
		t.Run(name, func(t *testing.T) {
			if err := guard.CheckIssued(cert, tt.issuer); !errors.Is(err, tt.want) {
				t.Errorf("CheckIssued = %v, want %v", err, tt.want)
			}
		})
	}
}
