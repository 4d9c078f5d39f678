package apns

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/gatehouse-mdm/gatehouse/storage/guard"
)

const (
	// maxFile bounds what somebody uploads, in bytes. Apple's certificate has 2 KB.
	maxFile = 256 << 10
	// maxInFile is how many certificates there may be in it.
	maxInFile = 16
	// maxSkew is how far ahead of ours the clock may be that a certificate was made by.
	maxSkew = time.Hour
)

// File is a certificate as somebody has it.
type File struct {
	// Data is the certificate, those above it and the key, in PEM or, each alone, in DER; or
	// PKCS #12 in DER.
	Data     []byte
	Key      []byte // PEM or DER; empty: it is in Data, or was made here
	Password string // of the key or the PKCS #12 file, if they are encrypted
}

// bundle is what was found in a File.
type bundle struct {
	leaf  *x509.Certificate
	chain []*x509.Certificate // leaf first, then those above it as far as they came along
	key   crypto.Signer       // nil: it did not come along
}

// found collects what is in a file.
type found struct {
	certs []*x509.Certificate
	key   crypto.Signer
	seen  Kind // what else was there; empty: nothing
}

// readFile finds certificate and key. Its errors are *Mistake.
func readFile(f File) (bundle, error) {
	var in found
	for i, data := range [][]byte{f.Data, f.Key} {
		switch {
		case len(data) > maxFile:
			return bundle{}, mistake(TooLarge)
		case len(bytes.TrimSpace(data)) == 0 && i == 0:
			return bundle{}, mistake(Empty)
		case len(data) == 0:
		default:
			if err := in.read(data, f.Password); err != nil {
				return bundle{}, err
			}
		}
	}
	if len(in.certs) == 0 {
		switch {
		case in.seen != "":
			return bundle{}, mistake(in.seen)
		case in.key != nil:
			return bundle{}, mistake(NoCertificate)
		}
		return bundle{}, mistake(NotReadable)
	}
	return in.bundle()
}

// read takes in PEM blocks, or one thing in DER.
func (in *found) read(data []byte, password string) error {
	blocks := 0
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		blocks++
		if err := in.block(block, password); err != nil {
			return err
		}
	}
	switch {
	case blocks > 0:
		return nil
	case data[0] == derSequence:
		return in.der(data, password)
	}
	if in.seen = textKind(data); in.seen == "" {
		return mistake(NotReadable)
	}
	return nil
}

func (in *found) block(block *pem.Block, password string) error {
	switch kind := block.Type; {
	case kind == "CERTIFICATE" || kind == "X509 CERTIFICATE" || kind == "TRUSTED CERTIFICATE":
		return in.certificate(block.Bytes)
	case strings.HasSuffix(kind, "PRIVATE KEY"):
		key, err := guard.PrivateKey(block, password)
		if err != nil {
			return ofKey(err)
		}
		return in.setKey(key)
	case kind == "CERTIFICATE REQUEST" || kind == "NEW CERTIFICATE REQUEST":
		in.seen = IsRequest
	case kind == "PKCS7" || kind == "CMS":
		in.seen = derKind(block.Bytes)
	}
	return nil
}

// derSequence begins all that is read in DER.
const derSequence = 0x30

// der takes in one thing in DER.
func (in *found) der(data []byte, password string) error {
	if isPKCS12(data) {
		key, certs, err := guard.DecodePKCS12(data, password)
		switch {
		case errors.Is(err, guard.ErrNoCertificate):
			return mistake(NoCertificate)
		case errors.Is(err, guard.ErrNoPrivateKey):
			return mistake(NoKey)
		case err != nil:
			return ofKey(err)
		}
		for _, cert := range certs {
			if err := in.certificate(cert.Raw); err != nil {
				return err
			}
		}
		return in.setKey(key)
	}
	if cert, err := guard.ParseCertificate(data); err == nil || errors.Is(err, guard.ErrKey) {
		if cert == nil {
			return in.certificate(data)
		}
		in.certs = append(in.certs, cert)
		return nil
	}
	for _, kind := range []string{"PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY", "ENCRYPTED PRIVATE KEY"} {
		key, err := guard.PrivateKey(&pem.Block{Type: kind, Bytes: data}, password)
		if err == nil {
			return in.setKey(key)
		}
		if kind == "ENCRYPTED PRIVATE KEY" && isEncryptedKey(data) {
			return ofKey(err)
		}
	}
	if in.seen = derKind(data); in.seen == "" {
		return mistake(NotReadable)
	}
	return nil
}

func (in *found) certificate(der []byte) error {
	cert, err := guard.ParseCertificate(der)
	switch {
	case errors.Is(err, guard.ErrKey):
		return mistake(KeyType, "it is not RSA of 2048 to 4096 bits")
	case err != nil:
		return mistake(NotReadable)
	case len(in.certs) == maxInFile:
		return mistake(TooLarge)
	}
	if !slices.ContainsFunc(in.certs, cert.Equal) {
		in.certs = append(in.certs, cert)
	}
	return nil
}

func (in *found) setKey(key any) error {
	signer, ok := key.(crypto.Signer)
	switch key := key.(type) {
	case *rsa.PrivateKey:
		if err := guard.CheckPublicKey(&key.PublicKey); err != nil {
			return mistake(KeyType, "it is not RSA of 2048 to 4096 bits")
		}
		if key.Validate() != nil {
			return mistake(KeyUnreadable)
		}
	case *ecdsa.PrivateKey: // no key of Apple's push certificates, but of others that proxies have
	default:
		return mistake(KeyType, "it is not RSA")
	}
	if !ok {
		return mistake(KeyUnreadable)
	}
	if in.key != nil && !signer.Public().(interface{ Equal(crypto.PublicKey) bool }).Equal(in.key.Public()) {
		return mistake(SeveralKeys)
	}
	in.key = signer
	return nil
}

// ofKey is the mistake that an error of guard's stands for.
func ofKey(err error) error {
	switch {
	case errors.Is(err, guard.ErrPassphraseMissing):
		return mistake(KeyEncrypted)
	case errors.Is(err, guard.ErrPassphrase):
		return mistake(WrongPassword)
	case errors.Is(err, guard.ErrTooLarge):
		return mistake(TooLarge)
	case errors.Is(err, guard.ErrSeveralKeys):
		return mistake(SeveralKeys)
	}
	return mistake(KeyUnreadable)
}

// bundle puts what was found in order: the certificate that issued none of the others, and
// above it those that did.
func (in found) bundle() (bundle, error) {
	issuerOf := func(c *x509.Certificate) *x509.Certificate {
		for _, other := range in.certs {
			if other != c && bytes.Equal(other.RawSubject, c.RawIssuer) && guard.CheckIssued(c, other) == nil {
				return other
			}
		}
		return nil
	}
	var leaves []*x509.Certificate
	for _, c := range in.certs {
		if !slices.ContainsFunc(in.certs, func(other *x509.Certificate) bool { return issuerOf(other) == c }) {
			leaves = append(leaves, c)
		}
	}
	// An authority that issued nothing in the file may have been added for good measure.
	if ends := slices.DeleteFunc(slices.Clone(leaves), func(c *x509.Certificate) bool { return c.IsCA }); len(ends) > 0 {
		leaves = ends
	}
	switch len(leaves) {
	case 0: // they issued each other
		leaves = in.certs[:1]
	case 1:
	default:
		names := make([]string, len(leaves))
		for i, c := range leaves {
			names[i] = nameOf(c)
		}
		return bundle{}, mistake(SeveralCertified, strings.Join(names, ", "))
	}
	b := bundle{leaf: leaves[0], key: in.key}
	for c := b.leaf; c != nil && !slices.Contains(b.chain, c); c = issuerOf(c) {
		b.chain = append(b.chain, c)
	}
	return b, nil
}

// Extensions of Apple's certificates for push (Apple: WWDR Certification Practice Statement).
var (
	oidPushDevelopment = asn1.ObjectIdentifier{1, 2, 840, 113635, 100, 6, 3, 1}
	oidPushProduction  = asn1.ObjectIdentifier{1, 2, 840, 113635, 100, 6, 3, 2}
)

func hasExtension(c *x509.Certificate, oid asn1.ObjectIdentifier) bool {
	for _, e := range c.Extensions {
		if e.Id.Equal(oid) {
			return true
		}
	}
	return false
}

// check says whether the certificate is one that devices are pushed by. known names the
// certificates of this server's own; it may be nil.
func (b bundle) check(now time.Time, known func(*x509.Certificate) string) error {
	c := b.leaf
	if known != nil {
		if name := known(c); name != "" {
			return mistake(IsOwnAuthority, name)
		}
	}
	uid := userID(c)
	switch {
	case c.IsCA:
		return mistake(IsAuthority, nameOf(c))
	case isVendor(c):
		return mistake(IsVendor, nameOf(c))
	case isTopic(uid):
	case hasExtension(c, oidPushDevelopment) && !hasExtension(c, oidPushProduction), strings.Contains(c.Subject.CommonName, "Development IOS Push"):
		return mistake(IsSandbox, nameOf(c))
	case uid != "":
		return mistake(IsApp, clip(uid))
	case hasExtension(c, oidPushProduction), strings.Contains(c.Subject.CommonName, "Push Services"):
		return mistake(IsApp, nameOf(c))
	default:
		return mistake(NoTopic, nameOf(c))
	}
	switch {
	case now.After(c.NotAfter):
		return mistake(Expired, day(c.NotAfter))
	case now.Add(maxSkew).Before(c.NotBefore):
		return mistake(NotYetValid, c.NotBefore.UTC().Format(time.RFC3339))
	case b.key != nil && !isKeyOf(b.key, c):
		return mistake(KeyMismatch)
	}
	return nil
}

func isKeyOf(key crypto.Signer, c *x509.Certificate) bool {
	public, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool })
	return ok && public.Equal(c.PublicKey)
}

// userID returns the subject's UID; empty: it has none.
func userID(c *x509.Certificate) string {
	for _, name := range c.Subject.Names {
		if uid, ok := name.Value.(string); ok && name.Type.Equal(oidUserID) {
			return uid
		}
	}
	return ""
}

func isTopic(uid string) bool { return strings.HasPrefix(uid, topicPrefix) && len(uid) <= maxTopic }

// maxTopic bounds a topic, in bytes. Apple's have about 60.
const maxTopic = 255

func topicOf(c *x509.Certificate) (string, error) {
	uid := userID(c)
	if !isTopic(uid) {
		return "", mistake(NoTopic, nameOf(c))
	}
	return uid, nil
}

// nameOf is what a certificate is called in a sentence.
func nameOf(c *x509.Certificate) string {
	if c.Subject.CommonName != "" {
		return clip(c.Subject.CommonName)
	}
	return clip(c.Subject.String())
}

// clip makes text of a stranger's fit into a sentence.
func clip(s string) string {
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return unicode.ReplacementChar
		}
		return r
	}, s)
	const most = 120
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "…"
	}
	return s
}

// ofApple says whether a certificate names Apple as who issued it.
func ofApple(c *x509.Certificate) bool { return slices.Contains(c.Issuer.Organization, "Apple Inc.") }

// isPKCS12 says whether DER is built as a PFX is (RFC 7292, 4).
func isPKCS12(der []byte) bool {
	in := cryptobyte.String(der)
	var pfx, safe cryptobyte.String
	var version int64
	return in.ReadASN1(&pfx, cbasn1.SEQUENCE) && pfx.ReadASN1Integer(&version) && version == 3 &&
		pfx.ReadASN1(&safe, cbasn1.SEQUENCE) && safe.PeekASN1Tag(cbasn1.OBJECT_IDENTIFIER)
}

// isEncryptedKey says whether DER is built as an EncryptedPrivateKeyInfo is (RFC 5958, 3):
// what it is encrypted by, and octets.
func isEncryptedKey(der []byte) bool {
	in := cryptobyte.String(der)
	var info, algorithm, data cryptobyte.String
	var oid asn1.ObjectIdentifier
	return in.ReadASN1(&info, cbasn1.SEQUENCE) && info.ReadASN1(&algorithm, cbasn1.SEQUENCE) && algorithm.ReadASN1ObjectIdentifier(&oid) &&
		info.ReadASN1(&data, cbasn1.OCTET_STRING) && info.Empty()
}

// derKind says what something in DER is that is neither certificate nor key; empty: unknown.
func derKind(der []byte) Kind {
	if _, err := guard.ParseCSR(der, 0); err == nil {
		return IsRequest
	}
	if _, err := guard.ParseEnvelope(der, maxFile); err == nil {
		return IsMailedFile
	}
	if bytes.Contains(der, []byte("<plist")) {
		return plistKind(der)
	}
	return ""
}

// textKind says what a text is that is no PEM; empty: unknown.
func textKind(data []byte) Kind {
	text := bytes.TrimSpace(bytes.TrimPrefix(data, []byte("\ufeff")))
	start := bytes.ToLower(text[:min(len(text), 512)])
	switch {
	case bytes.HasPrefix(start, []byte("<!doctype html")), bytes.Contains(start, []byte("<html")):
		return WebPage
	case bytes.Contains(start, []byte("<plist")):
		return plistKind(text)
	}
	packed := bytes.Join(bytes.Fields(text), nil)
	if raw, err := hex.DecodeString(string(packed)); err == nil && len(raw) > 0 && raw[0] == derSequence {
		return derKind(raw)
	}
	if raw, err := base64.StdEncoding.DecodeString(string(packed)); err == nil {
		if bytes.Contains(raw, []byte("<plist")) {
			return plistKind(raw)
		}
		if len(raw) > 0 && raw[0] == derSequence {
			return derKind(raw)
		}
	}
	return ""
}

func plistKind(data []byte) Kind {
	switch {
	case bytes.Contains(data, []byte("PushCertRequestCSR")):
		return IsRequestFile
	case bytes.Contains(data, []byte("PayloadType")):
		return IsProfile
	}
	return ""
}

// inPEM returns certificates as PEM, with lines of 64 characters.
func inPEM(certs ...*x509.Certificate) []byte {
	var b bytes.Buffer
	for _, c := range certs {
		_ = pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}) // a Buffer takes all
	}
	return b.Bytes()
}

// parseChain returns certificates that were stored.
func parseChain(chain [][]byte) ([]*x509.Certificate, error) {
	certs := make([]*x509.Certificate, len(chain))
	for i, der := range chain {
		var err error
		if certs[i], err = guard.ParseCertificate(der); err != nil {
			return nil, fmt.Errorf("stored certificate: %w", err)
		}
	}
	return certs, nil
}
