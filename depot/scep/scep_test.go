package scep_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/smallstep/pkcs7"
	client "github.com/smallstep/scep"

	"github.com/gatehouse-mdm/gatehouse/depot"
	"github.com/gatehouse-mdm/gatehouse/depot/depottest"
	"github.com/gatehouse-mdm/gatehouse/depot/scep"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// rsaKeys are some RSA keys for all tests: making them takes a while.
var rsaKeys = sync.OnceValue(func() []*rsa.PrivateKey {
	out := make([]*rsa.PrivateKey, 2)
	var wg sync.WaitGroup
	for i := range out {
		wg.Go(func() {
			var err error
			if out[i], err = rsa.GenerateKey(rand.Reader, 2048); err != nil {
				panic(err)
			}
		})
	}
	wg.Wait()
	return out
})

func deviceKey() *rsa.PrivateKey { return rsaKeys()[0] }
func otherKey() *rsa.PrivateKey  { return rsaKeys()[1] }

// authorityKey is the identity CA's, which no client should have.
func authorityKey(t testing.TB) *rsa.PrivateKey {
	t.Helper()
	key, err := depottest.NewKey("identity", 2048)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func openDepot(t testing.TB) *depot.Depot {
	t.Helper()
	return depottest.Open(t, depottest.Config(t, storagetest.Open(t)))
}

// issuer issues to whoever knows the challenge "open sesame", or was issued a
// certificate before. It keeps what it was asked.
type issuer struct {
	ca *depot.Authority

	mu       sync.Mutex
	requests []depot.Request
	issued   int
}

func (i *issuer) Issue(_ context.Context, _ *depot.Authority, r depot.Request) (*x509.Certificate, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.requests = append(i.requests, r)
	if ours := bytes.Equal(r.Signer.RawIssuer, i.ca.Certificate().RawSubject); r.Challenge != "open sesame" && !ours {
		return nil, errors.New("wrong challenge")
	}
	i.issued++
	return i.ca.Sign(r.CSR.PublicKey, depot.Contents{
		Name:        "identity",
		Subject:     pkix.Name{CommonName: "set by the server"},
		NotBefore:   time.Now().Add(-10 * time.Minute),
		NotAfter:    time.Now().AddDate(1, 0, 0),
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
}

func (i *issuer) last(t testing.TB) depot.Request {
	t.Helper()
	i.mu.Lock()
	defer i.mu.Unlock()
	if len(i.requests) == 0 {
		t.Fatal("the issuer was not asked")
	}
	return i.requests[len(i.requests)-1]
}

func (i *issuer) asked() int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return len(i.requests)
}

// fixture is a server over real HTTP, and its authority.
type fixture struct {
	url    string
	ca     *x509.Certificate
	depot  *depot.Depot
	issuer *issuer
	log    *lockedBuffer
}

type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func serve(t testing.TB) *fixture {
	t.Helper()
	d := openDepot(t)
	f := &fixture{depot: d, ca: d.Identity().Certificate(), issuer: &issuer{ca: d.Identity()}, log: new(lockedBuffer)}
	s, err := scep.New(scep.Config{Authorities: []*depot.Authority{d.Identity()}, Issuer: f.issuer, Log: slog.New(slog.NewTextHandler(f.log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(s)
	t.Cleanup(srv.Close)
	f.url = srv.URL
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(f.log)
		}
	})
	return f
}

func (f *fixture) post(t testing.TB, message []byte) (int, []byte) {
	t.Helper()
	resp, err := http.Post(f.url+"?operation=PKIOperation", "application/x-pki-message", bytes.NewReader(message))
	if err != nil {
		t.Fatal(err)
	}
	return read(t, resp)
}

func read(t testing.TB, resp *http.Response) (int, []byte) {
	t.Helper()
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, body
}

// enrolment says how a request is built: rightly, unless it says otherwise.
type enrolment struct {
	key       crypto.Signer // of the request; the device's by default
	challenge any           // string, or an asn1.RawValue; "open sesame" by default, nil for none
	noSecret  bool
	twice     bool // the challenge
	csr       []byte
	spoilCSR  bool

	signerKey  crypto.Signer     // key by default
	signerCert *x509.Certificate // self-signed by default
	extra      []*x509.Certificate

	messageType   any // "19" by default
	transactionID any
	nonce         any
	attrs         []pkcs7.Attribute // more signed attributes

	cipher    int // index of ciphers()
	envelope  []byte
	recipient *x509.Certificate
	digest    asn1.ObjectIdentifier
	apple     bool // indefinite lengths, chunks
}

const (
	transaction = "4E1243BD22C66E76C2BA9EDDC1F91394E57F9F83"
	nonce       = "0123456789abcdef"
)

func scepOID(n int) asn1.ObjectIdentifier {
	return asn1.ObjectIdentifier{2, 16, 840, 1, 113733, 1, 9, n}
}

func printableString(s string) asn1.RawValue { return asn1.RawValue{Tag: 19, Bytes: []byte(s)} }

func selfSigned(t testing.TB, key crypto.Signer) *x509.Certificate {
	t.Helper()
	return certificate(t, key.Public(), key, pkix.Name{CommonName: "D2B4BC47-C7A1-4BD9-B2E7-34A3BA8B6C29"}, nil)
}

func certificate(t testing.TB, pub any, signer crypto.Signer, subject pkix.Name, parent *x509.Certificate) *x509.Certificate {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: subject,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
	}
	if parent == nil {
		parent = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, pub, signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// message builds the request to ca.
func (e enrolment) message(t testing.TB, ca *x509.Certificate) []byte {
	t.Helper()
	if e.key == nil {
		e.key = deviceKey()
	}
	if e.signerKey == nil {
		e.signerKey = e.key
	}
	if e.signerCert == nil {
		e.signerCert = selfSigned(t, e.signerKey)
	}
	if e.recipient == nil {
		e.recipient = ca
	}
	if e.challenge == nil && !e.noSecret {
		e.challenge = printableString("open sesame")
	}
	if e.csr == nil {
		var attrs [][]byte
		if e.challenge != nil {
			attrs = append(attrs, attribute(t, asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 7}, e.challenge))
			if e.twice {
				attrs = append(attrs, attrs[0])
			}
		}
		e.csr = request(t, e.key, attrs...)
	}
	if e.spoilCSR {
		e.csr = bytes.Clone(e.csr)
		e.csr[len(e.csr)-1] ^= 1
	}
	if e.envelope == nil {
		e.envelope = encrypt(t, e.recipient, ciphers()[e.cipher], pad(e.csr, ciphers()[e.cipher].size))
	}
	if e.apple {
		e.envelope = asApple(t, e.envelope)
	}
	sd, err := pkcs7.NewSignedData(e.envelope)
	if err != nil {
		t.Fatal(err)
	}
	if e.digest == nil {
		e.digest = pkcs7.OIDDigestAlgorithmSHA512
	}
	sd.SetDigestAlgorithm(e.digest)
	attrs := e.attrs
	for _, a := range []struct {
		n             int
		is, otherwise any
	}{{2, e.messageType, printableString("19")}, {7, e.transactionID, printableString(transaction)}, {5, e.nonce, []byte(nonce)}} {
		if a.is == nil {
			a.is = a.otherwise
		}
		if a.is != missing {
			attrs = append(attrs, pkcs7.Attribute{Type: scepOID(a.n), Value: a.is})
		}
	}
	if err := sd.AddSigner(e.signerCert, e.signerKey, pkcs7.SignerInfoConfig{ExtraSignedAttributes: attrs}); err != nil {
		t.Fatal(err)
	}
	for _, c := range e.extra {
		sd.AddCertificate(c)
	}
	der, err := sd.Finish()
	if err != nil {
		t.Fatal(err)
	}
	if e.apple {
		return asApple(t, der)
	}
	return der
}

// missing stands for an attribute that is left out.
var missing = new(struct{ _ int })

func attribute(t testing.TB, oid asn1.ObjectIdentifier, value any) []byte {
	t.Helper()
	v, err := asn1.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	b, err := asn1.Marshal(struct {
		Type   asn1.ObjectIdentifier
		Values asn1.RawValue
	}{oid, asn1.RawValue{Tag: 17, IsCompound: true, Bytes: v}})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// request builds a PKCS #10 request by hand, so that it may have attributes that
// crypto/x509 would not write.
func request(t testing.TB, key crypto.Signer, attrs ...[]byte) []byte {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject:  pkix.Name{CommonName: "whatever the device says"},
		DNSNames: []string{"victim.example"},
	}, key)
	if err != nil {
		t.Fatal(err)
	}
	var csr struct {
		Info struct {
			Version int
			Subject asn1.RawValue
			Key     asn1.RawValue
			Attrs   asn1.RawValue `asn1:"optional,tag:0"`
		}
		Algorithm pkix.AlgorithmIdentifier
		Signature asn1.BitString
	}
	if _, err := asn1.Unmarshal(der, &csr); err != nil {
		t.Fatal(err)
	}
	csr.Info.Attrs = asn1.RawValue{Class: 2, Tag: 0, IsCompound: true, Bytes: slices.Concat(csr.Info.Attrs.Bytes, bytes.Join(attrs, nil))}
	info, err := asn1.Marshal(csr.Info)
	if err != nil {
		t.Fatal(err)
	}
	digest := crypto.SHA256.New()
	digest.Write(info)
	signature, err := key.Sign(rand.Reader, digest.Sum(nil), crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	csr.Signature = asn1.BitString{Bytes: signature, BitLength: 8 * len(signature)}
	if der, err = asn1.Marshal(csr); err != nil {
		t.Fatal(err)
	}
	return der
}

// asApple rewrites der as Apple's encoder would: indefinite lengths wherever they
// are allowed, and octet strings in pieces.
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
		chunk := func(tag byte, b []byte) {
			out = append(out, tag, 0x80)
			for len(b) > 0 {
				n := min(100, len(b))
				out = append(append(out, 0x04, byte(n)), b[:n]...)
				b = b[n:]
			}
			out = append(out, 0, 0)
		}
		switch {
		case v.IsCompound:
			out = append(append(append(out, head, 0x80), asApple(t, v.Bytes)...), 0, 0)
		case head == 0x04 && len(v.Bytes) > 100:
			chunk(0x24, v.Bytes)
		case head == 0x80 && len(v.Bytes) > 100: // the encrypted content
			chunk(0xA0, v.Bytes)
		default:
			out = append(out, v.FullBytes...)
		}
		der = rest
	}
	return out
}

// reply is a CertRep, read with a parser that forgives nothing.
type reply struct {
	attrs        map[string][]asn1.RawValue // by OID
	certificates []*x509.Certificate
	content      []byte // nil if there is none
}

func parseReply(t testing.TB, der []byte) reply {
	t.Helper()
	type algorithm struct {
		Algorithm  asn1.ObjectIdentifier
		Parameters asn1.RawValue `asn1:"optional"`
	}
	type attribute struct {
		Type   asn1.ObjectIdentifier
		Values []asn1.RawValue `asn1:"set"`
	}
	var info struct {
		Type    asn1.ObjectIdentifier
		Content struct {
			Version      int
			Digests      []algorithm `asn1:"set"`
			Encapsulated struct {
				Type    asn1.ObjectIdentifier
				Content []byte `asn1:"explicit,optional,tag:0"`
			}
			Certificates asn1.RawValue `asn1:"tag:0"`
			Signers      []struct {
				Version int
				ID      struct {
					Issuer asn1.RawValue
					Serial *big.Int
				}
				Digest    algorithm
				Attrs     []attribute `asn1:"tag:0,set"`
				Algorithm algorithm
				Signature []byte
			} `asn1:"set"`
		} `asn1:"explicit,tag:0"`
	}
	if rest, err := asn1.Unmarshal(der, &info); err != nil || len(rest) > 0 {
		t.Fatalf("the reply does not parse: %v, %d bytes left", err, len(rest))
	}
	if len(info.Content.Signers) != 1 {
		t.Fatalf("the reply has %d signers", len(info.Content.Signers))
	}
	out := reply{attrs: map[string][]asn1.RawValue{}, content: info.Content.Encapsulated.Content}
	for _, a := range info.Content.Signers[0].Attrs {
		out.attrs[a.Type.String()] = append(out.attrs[a.Type.String()], a.Values...)
	}
	var err error
	if out.certificates, err = x509.ParseCertificates(info.Content.Certificates.Bytes); err != nil {
		t.Fatal(err)
	}
	p7, err := pkcs7.Parse(der)
	if err != nil {
		t.Fatal(err)
	}
	if err := p7.Verify(); err != nil {
		t.Errorf("the reply's signature: %v", err)
	}
	return out
}

// one returns the only value of an attribute, after checking its ASN.1 tag.
func (r reply) one(t testing.TB, oid asn1.ObjectIdentifier, tag int) string {
	t.Helper()
	values := r.attrs[oid.String()]
	if len(values) != 1 {
		t.Errorf("attribute %v is there %d times", oid, len(values))
		return ""
	}
	if values[0].Class != 0 || values[0].Tag != tag {
		t.Errorf("attribute %v has class %d, tag %d, want tag %d", oid, values[0].Class, values[0].Tag, tag)
	}
	return string(values[0].Bytes)
}

// check compares what every reply must say.
func (r reply) check(t testing.TB, ca *x509.Certificate, status string) {
	t.Helper()
	for what, got := range map[string][2]string{
		"messageType":    {r.one(t, scepOID(2), 19), "3"},
		"pkiStatus":      {r.one(t, scepOID(3), 19), status},
		"transactionID":  {r.one(t, scepOID(7), 19), transaction},
		"recipientNonce": {r.one(t, scepOID(6), 4), nonce},
	} {
		if got[0] != got[1] {
			t.Errorf("%s = %q, want %q", what, got[0], got[1])
		}
	}
	if fresh := r.one(t, scepOID(5), 4); len(fresh) != 16 || fresh == nonce {
		t.Errorf("senderNonce = %x, want 16 new bytes", fresh)
	}
	if len(r.certificates) != 1 || !bytes.Equal(r.certificates[0].Raw, ca.Raw) {
		t.Errorf("the reply holds %d certificates, want the one of GetCACert alone", len(r.certificates))
	}
	if status == "2" {
		if got := r.one(t, scepOID(4), 19); got != "2" {
			t.Errorf("failInfo = %q, want 2, badRequest", got)
		}
		if r.content != nil {
			t.Errorf("a refusal has content")
		}
	} else if len(r.attrs[scepOID(4).String()]) != 0 {
		t.Errorf("a success has a failInfo")
	}
	if n := len(r.attrs); n != map[string]int{"0": 8, "2": 9}[status] {
		t.Errorf("the reply has %d signed attributes", n)
	}
	if t.Failed() {
		t.FailNow()
	}
}

// certificate decrypts and returns what was issued.
func (r reply) certificate(t testing.TB, to *x509.Certificate, key crypto.PrivateKey) *x509.Certificate {
	t.Helper()
	p7, err := pkcs7.Parse(r.content)
	if err != nil {
		t.Fatal(err)
	}
	inner, err := p7.Decrypt(to, key)
	if err != nil {
		t.Fatal(err)
	}
	certs, err := client.CACerts(inner)
	if err != nil {
		t.Fatal(err)
	}
	if len(certs) != 1 {
		t.Fatalf("the reply brings %d certificates, want the issued one alone", len(certs))
	}
	return certs[0]
}

func TestRequestsThatGetACertificate(t *testing.T) {
	latin := func(tag int, s string) asn1.RawValue { return asn1.RawValue{Tag: tag, Bytes: []byte(s)} }
	bmp := func(s string) asn1.RawValue {
		var b []byte
		for _, c := range []byte(s) {
			b = append(b, 0, c)
		}
		return asn1.RawValue{Tag: 30, Bytes: b}
	}
	for name, e := range map[string]enrolment{
		"AES-128":                                {},
		"AES-192":                                {cipher: 1},
		"AES-256":                                {cipher: 2},
		"3DES":                                   {cipher: 3},
		"DES, as clients on our CMS library use": {cipher: 4},
		"Apple's BER":                            {apple: true},
		"Apple's BER in 3DES":                    {apple: true, cipher: 3},
		"SHA-1":                                  {digest: pkcs7.OIDDigestAlgorithmSHA1},
		"SHA-256":                                {digest: pkcs7.OIDDigestAlgorithmSHA256},
		"a challenge in UTF-8":                   {challenge: latin(12, "open sesame")},
		"a challenge in IA5":                     {challenge: latin(22, "open sesame")},
		"a challenge in T61":                     {challenge: latin(20, "open sesame")},
		"a challenge in UTF-16":                  {challenge: bmp("open sesame")},
		"a transaction ID and type in UTF-8":     {messageType: latin(12, "19"), transactionID: latin(12, transaction)},
		"attributes that mean nothing to us":     {attrs: []pkcs7.Attribute{{Type: asn1.ObjectIdentifier{1, 2, 3}, Value: "x"}}},
		"a temporary certificate signed by another": {signerCert: certificate(t, deviceKey().Public(), otherKey(), pkix.Name{CommonName: "x"}, nil)},
	} {
		t.Run(name, func(t *testing.T) {
			f := serve(t)
			if e.signerCert == nil {
				e.signerCert = selfSigned(t, deviceKey())
			}
			status, body := f.post(t, e.message(t, f.ca))
			if status != http.StatusOK {
				t.Fatalf("status = %d: %s", status, body)
			}
			r := parseReply(t, body)
			r.check(t, f.ca, "0")
			cert := r.certificate(t, e.signerCert, deviceKey())
			if !deviceKey().PublicKey.Equal(cert.PublicKey) || cert.Subject.CommonName != "set by the server" {
				t.Errorf("the certificate is for %v", cert.Subject)
			}
			if err := cert.CheckSignatureFrom(f.ca); err != nil {
				t.Error(err)
			}
			got := f.issuer.last(t)
			if got.TransactionID != transaction || got.Challenge != "open sesame" || got.Renewal || !got.Signer.Equal(e.signerCert) || got.CSR == nil {
				t.Errorf("the issuer was asked %+v", got)
			}
			wantCipher := pkcs7.OIDEncryptionAlgorithmAES128CBC
			if e.cipher == 2 {
				wantCipher = pkcs7.OIDEncryptionAlgorithmAES256CBC
			}
			oid, err := asn1.Marshal(wantCipher)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Contains(r.content, oid) {
				t.Errorf("the certificate is not encrypted with %v", wantCipher)
			}
		})
	}
}

func TestRequestsThatAreRefused(t *testing.T) {
	storagetest.AnyEngine(t)
	edwards := func(curve elliptic.Curve) *ecdsa.PrivateKey {
		key, err := ecdsa.GenerateKey(curve, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return key
	}
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	ca := authorityKey(t)
	impostor := certificate(t, otherKey().Public(), otherKey(), pkix.Name{CommonName: "x"}, nil)
	claims := certificate(t, otherKey().Public(), otherKey(), pkix.Name{CommonName: "x"},
		&x509.Certificate{Subject: pkix.Name{CommonName: "Gatehouse Identity CA"}, SubjectKeyId: []byte{1}})

	for name, tt := range map[string]struct {
		e     enrolment
		asked bool // the issuer was: what is wrong is for it to find out
	}{
		"no challenge":                             {enrolment{noSecret: true}, true},
		"a wrong challenge":                        {enrolment{challenge: printableString("open barley")}, true},
		"two challenges":                           {enrolment{twice: true}, false},
		"an empty challenge":                       {enrolment{challenge: printableString("")}, false},
		"a challenge of another type":              {enrolment{challenge: 1}, false},
		"a challenge that is too long":             {enrolment{challenge: printableString(strings.Repeat("x", 256))}, false},
		"half a character of UTF-16":               {enrolment{challenge: asn1.RawValue{Tag: 30, Bytes: []byte{0, 'o', 0}}}, false},
		"bad UTF-8":                                {enrolment{challenge: asn1.RawValue{Tag: 12, Bytes: []byte{0xC3, 0x28}}}, false},
		"a broken signature in the request":        {enrolment{spoilCSR: true}, false},
		"another signer than the request's key":    {enrolment{signerKey: otherKey()}, false},
		"a signer that claims to be issued by us":  {enrolment{signerKey: otherKey(), signerCert: claims}, false},
		"a renewal that a stranger signed":         {enrolment{messageType: printableString("17"), signerKey: otherKey(), signerCert: impostor}, false},
		"a renewal that its own key signed":        {enrolment{messageType: printableString("17")}, false},
		"a request for RSA of 1024 bits":           {enrolment{csr: request(t, small)}, false},
		"a request for an EC key":                  {enrolment{csr: request(t, edwards(elliptic.P256()))}, false},
		"a request for our own key":                {enrolment{key: ca}, false},
		"an EC signer":                             {enrolment{signerKey: edwards(elliptic.P256())}, false},
		"another certificate in the message":       {enrolment{extra: []*x509.Certificate{impostor}}, false},
		"an UpdateReq":                             {enrolment{messageType: printableString("18")}, false},
		"a CertRep":                                {enrolment{messageType: printableString("3")}, false},
		"a CertPoll":                               {enrolment{messageType: printableString("20")}, false},
		"a GetCert":                                {enrolment{messageType: printableString("21")}, false},
		"a GetCRL":                                 {enrolment{messageType: printableString("22")}, false},
		"a message type that there is not":         {enrolment{messageType: printableString("99")}, false},
		"a request encrypted to somebody else":     {enrolment{recipient: impostor}, false},
		"content that is not encrypted":            {enrolment{envelope: []byte("hello")}, false},
		"content that is signed and not encrypted": {enrolment{envelope: enrolment{}.message(t, impostor)}, false},
		"an encrypted message of something else":   {enrolment{csr: []byte("hello")}, false},
		"a request with thousands of names":        {enrolment{csr: requestWithNames(t, 3000)}, false},
	} {
		t.Run(name, func(t *testing.T) {
			f := serve(t)
			status, body := f.post(t, tt.e.message(t, f.ca))
			if status != http.StatusOK {
				t.Fatalf("status = %d: %s", status, body)
			}
			parseReply(t, body).check(t, f.ca, "2")
			if f.issuer.issued != 0 || (f.issuer.asked() > 0) != tt.asked {
				t.Errorf("issued %d, asked %d times", f.issuer.issued, f.issuer.asked())
			}
			if log := f.log.String(); !strings.Contains(log, "scep request refused") || strings.Contains(log, "open ") {
				t.Errorf("log = %s, want the reason and no challenge", log)
			}
		})
	}
}

func requestWithNames(t testing.TB, n int) []byte {
	t.Helper()
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprintf("%d.example", i)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{DNSNames: names}, deviceKey())
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func TestMessagesThatCannotBeAnswered(t *testing.T) {
	f := serve(t)
	good := enrolment{}.message(t, f.ca)
	changed := bytes.Clone(good)
	changed[len(changed)-1] ^= 1
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		message []byte
		status  int
	}{
		"nothing":                          {nil, 400},
		"garbage":                          {[]byte("garbage"), 400},
		"a property list":                  {[]byte("<?xml version=\"1.0\"?><plist/>"), 400},
		"cut short":                        {good[:len(good)/2], 400},
		"something after it":               {append(bytes.Clone(good), 0), 400},
		"a broken signature":               {changed, 400},
		"a signer with RSA of 1024 bits":   {enrolment{signerKey: small}.message(t, f.ca), 400},
		"no transaction ID":                {enrolment{transactionID: missing}.message(t, f.ca), 400},
		"an empty transaction ID":          {enrolment{transactionID: printableString("")}.message(t, f.ca), 400},
		"a transaction ID of a kilobyte":   {enrolment{transactionID: printableString(strings.Repeat("A", 1024))}.message(t, f.ca), 400},
		"a transaction ID with a newline":  {enrolment{transactionID: asn1.RawValue{Tag: 12, Bytes: []byte("a\nb")}}.message(t, f.ca), 400},
		"two transaction IDs":              {enrolment{attrs: []pkcs7.Attribute{{Type: scepOID(7), Value: printableString("x")}}}.message(t, f.ca), 400},
		"no message type":                  {enrolment{messageType: missing}.message(t, f.ca), 400},
		"two message types":                {enrolment{attrs: []pkcs7.Attribute{{Type: scepOID(2), Value: printableString("17")}}}.message(t, f.ca), 400},
		"no nonce":                         {enrolment{nonce: missing}.message(t, f.ca), 400},
		"an empty nonce":                   {enrolment{nonce: []byte{}}.message(t, f.ca), 400},
		"a nonce of another type":          {enrolment{nonce: printableString(nonce)}.message(t, f.ca), 400},
		"values longer than what holds it": {bytes.Repeat([]byte{0x30, 0x7F}, 68), 400},
		"more than 64 KiB":                 {make([]byte, 64<<10+1), 413},
	} {
		t.Run(name, func(t *testing.T) {
			status, body := f.post(t, tt.message)
			if status != tt.status {
				t.Errorf("status = %d, want %d: %s", status, tt.status, body)
			}
			if status == 400 && string(body) != "malformed SCEP message\n" {
				t.Errorf("body = %q, want the same for all", body)
			}
		})
	}
	if f.issuer.asked() != 0 {
		t.Errorf("the issuer was asked %d times", f.issuer.asked())
	}
}

// Whatever damage a cipher text has, its sender learns nothing from the answer:
// not whether key, padding or content were wrong.
func TestEveryKindOfDamageIsAnsweredAlike(t *testing.T) {
	f := serve(t)
	c := ciphers()[0]
	csr := request(t, deviceKey())
	right := pad(csr, c.size)
	padding := func(n byte) []byte {
		b := bytes.Clone(right)
		b[len(b)-1] = n
		return b
	}
	oneByte := bytes.Clone(right)
	oneByte[len(oneByte)-2] ^= 1
	if oneByte[len(oneByte)-1] == 1 {
		oneByte[len(oneByte)-1] = 2
	}
	envelopes := map[string][]byte{
		"padding of zero":                   encrypt(t, f.ca, c, padding(0)),
		"padding longer than a block":       encrypt(t, f.ca, c, padding(17)),
		"padding longer than the message":   encrypt(t, f.ca, c, bytes.Repeat([]byte{0xFF}, 16)),
		"padding that is not all alike":     encrypt(t, f.ca, c, oneByte),
		"nothing but padding":               encrypt(t, f.ca, c, bytes.Repeat([]byte{16}, 16)),
		"right padding, no request":         encrypt(t, f.ca, c, pad([]byte("hello"), 16)),
		"a request with something after it": encrypt(t, f.ca, c, pad(append(bytes.Clone(csr), 0), 16)),
		"no whole blocks":                   encryptWith(t, f.ca, c, right, func(e *testEnvelope) { e.ciphertext = e.ciphertext[:len(e.ciphertext)-1] }),
		"no cipher text":                    encryptWith(t, f.ca, c, right, func(e *testEnvelope) { e.ciphertext = nil }),
		"a changed block":                   encryptWith(t, f.ca, c, right, func(e *testEnvelope) { e.ciphertext[3] ^= 1 }),
		"a changed last block":              encryptWith(t, f.ca, c, right, func(e *testEnvelope) { e.ciphertext[len(e.ciphertext)-1] ^= 1 }),
		"a changed start value":             encryptWith(t, f.ca, c, right, func(e *testEnvelope) { e.iv[0] ^= 1 }),
		"a start value that is too short":   encryptWith(t, f.ca, c, right, func(e *testEnvelope) { e.iv = e.iv[:8] }),
		"a changed content key":             encryptWith(t, f.ca, c, right, func(e *testEnvelope) { e.encryptedKey[100] ^= 1 }),
		"a content key of another size":     encryptWith(t, f.ca, c, right, func(e *testEnvelope) { e.encryptedKey = encryptKey(t, f.ca, make([]byte, 32)) }),
		"a content key of zero bytes":       encryptWith(t, f.ca, c, right, func(e *testEnvelope) { e.encryptedKey = encryptKey(t, f.ca, nil) }),
		"a content key cut short":           encryptWith(t, f.ca, c, right, func(e *testEnvelope) { e.encryptedKey = e.encryptedKey[:100] }),
		"a content key above the modulus":   encryptWith(t, f.ca, c, right, func(e *testEnvelope) { e.encryptedKey = bytes.Repeat([]byte{0xFF}, 256) }),
		"a cipher that there is not":        encryptWith(t, f.ca, c, right, func(e *testEnvelope) { e.cipher = asn1.ObjectIdentifier{1, 2, 3} }),
		"a cipher for shorter keys":         encryptWith(t, f.ca, c, right, func(e *testEnvelope) { e.cipher = pkcs7.OIDEncryptionAlgorithmAES256CBC }),
		"a key in OAEP":                     encryptWith(t, f.ca, c, right, func(e *testEnvelope) { e.keyAlgorithm = pkcs7.OIDEncryptionAlgorithmRSAESOAEP }),
		"no recipient":                      encryptWith(t, f.ca, c, right, func(e *testEnvelope) { e.noRecipient = true }),
	}
	var size int
	for name, envelope := range envelopes {
		t.Run(name, func(t *testing.T) {
			status, body := f.post(t, enrolment{envelope: envelope}.message(t, f.ca))
			if status != http.StatusOK {
				t.Fatalf("status = %d: %s", status, body)
			}
			parseReply(t, body).check(t, f.ca, "2")
			if size == 0 {
				size = len(body)
			}
			if len(body) != size {
				t.Errorf("the answer has %d bytes, others %d", len(body), size)
			}
		})
	}
	if f.issuer.asked() != 0 {
		t.Errorf("the issuer was asked %d times", f.issuer.asked())
	}
	if status, body := f.post(t, enrolment{envelope: encrypt(t, f.ca, c, pad(request(t, deviceKey(), attribute(t, asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 7}, "open sesame")), 16))}.message(t, f.ca)); status != http.StatusOK || len(body) == size {
		t.Errorf("the undamaged one is refused too: %d, %d bytes", status, len(body))
	}
}

func TestRenewals(t *testing.T) {
	for name, messageType := range map[string]string{
		"as RenewalReq": "17",
		"as PKCSReq":    "19", // what Apple's clients send
	} {
		t.Run(name, func(t *testing.T) {
			f := serve(t)
			old, err := f.issuer.Issue(t.Context(), f.issuer.ca, depot.Request{
				Challenge: "open sesame", CSR: &x509.CertificateRequest{PublicKey: otherKey().Public()}, Signer: selfSigned(t, otherKey()),
			})
			if err != nil {
				t.Fatal(err)
			}
			e := enrolment{messageType: printableString(messageType), noSecret: true, signerKey: otherKey(), signerCert: old, apple: true}
			status, body := f.post(t, e.message(t, f.ca))
			if status != http.StatusOK {
				t.Fatalf("status = %d: %s", status, body)
			}
			r := parseReply(t, body)
			r.check(t, f.ca, "0")
			if cert := r.certificate(t, old, otherKey()); !deviceKey().PublicKey.Equal(cert.PublicKey) {
				t.Error("the certificate is not for the new key")
			}
			if got := f.issuer.last(t); got.Renewal != (messageType == "17") || !got.Signer.Equal(old) || got.Challenge != "" {
				t.Errorf("the issuer was asked %+v", got)
			}
		})
	}
}

func TestAServerThatIssuesToEveryoneAtOnce(t *testing.T) {
	f := serve(t)
	message := enrolment{}.message(t, f.ca)
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			resp, err := http.Post(f.url+"?operation=PKIOperation", "", bytes.NewReader(message))
			if err != nil {
				t.Error(err)
				return
			}
			defer resp.Body.Close()
			if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != http.StatusOK {
				t.Errorf("status = %d, %v", resp.StatusCode, err)
			}
		})
	}
	wg.Wait()
}

func TestTheSameMessageInEveryFormThatClientsSend(t *testing.T) {
	f := serve(t)
	message := enrolment{}.message(t, f.ca)
	std := base64.StdEncoding.EncodeToString(message)
	get := func(encoded string) *http.Request {
		r, err := http.NewRequest(http.MethodGet, f.url+"?operation=PKIOperation&message=", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.URL.RawQuery += encoded
		return r
	}
	post := func(contentType string) *http.Request {
		r, err := http.NewRequest(http.MethodPost, f.url+"/any/path?operation=PKIOperation", bytes.NewReader(message))
		if err != nil {
			t.Fatal(err)
		}
		if contentType != "" {
			r.Header.Set("Content-Type", contentType)
		}
		return r
	}
	for name, r := range map[string]*http.Request{
		"POST":                               post("application/x-pki-message"),
		"POST as octets":                     post("application/octet-stream"),
		"POST as a form":                     post("application/x-www-form-urlencoded"),
		"POST as nothing":                    post(""),
		"GET, escaped":                       get(url.QueryEscape(std)),
		"GET, not escaped":                   get(std),
		"GET, half escaped as macOS does":    get(strings.ReplaceAll(std, "=", "%3D")),
		"GET, escaped twice":                 get(url.QueryEscape(url.QueryEscape(std))),
		"GET, URL-safe":                      get(base64.URLEncoding.EncodeToString(message)),
		"GET, URL-safe and not padded":       get(base64.RawURLEncoding.EncodeToString(message)),
		"GET, with lines":                    get(strings.ReplaceAll(url.QueryEscape(std[:64]+"\n"+std[64:]), "%0A", "%0D%0A")),
		"GET, with the operation at the end": reordered(t, f.url, url.QueryEscape(std)),
	} {
		t.Run(name, func(t *testing.T) {
			resp, err := http.DefaultClient.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			status, body := read(t, resp)
			if status != http.StatusOK || resp.Header.Get("Content-Type") != "application/x-pki-message" {
				t.Fatalf("status = %d, %s: %s", status, resp.Header.Get("Content-Type"), body)
			}
			parseReply(t, body).check(t, f.ca, "0")
		})
	}
}

func reordered(t *testing.T, base, encoded string) *http.Request {
	t.Helper()
	r, err := http.NewRequest(http.MethodGet, base, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.URL.RawQuery = "message=" + encoded + "&operation=PKIOperation"
	return r
}

func TestOperations(t *testing.T) {
	f := serve(t)
	for name, tt := range map[string]struct {
		method, query, accept string
		status                int
		contentType, body     string
	}{
		"GetCACaps":                    {"GET", "operation=GetCACaps&message=x", "", 200, "text/plain", "Renewal\nSHA-1\nSHA-256\nSHA-384\nSHA-512\nAES\nDES3\nSCEPStandard\nPOSTPKIOperation"},
		"GetCACert":                    {"GET", "operation=GetCACert", "*/*", 200, "application/x-x509-ca-cert", string(f.ca.Raw)},
		"GetCACert with a name":        {"GET", "operation=GetCACert&message=Gate%20house", "", 200, "application/x-x509-ca-cert", string(f.ca.Raw)},
		"GetCACert, escaped":           {"GET", "operation=%47etCACert", "", 200, "application/x-x509-ca-cert", string(f.ca.Raw)},
		"GetNextCACert":                {"GET", "operation=GetNextCACert", "", 400, "", ""},
		"an unknown operation":         {"GET", "operation=Eject", "", 400, "", ""},
		"another spelling":             {"GET", "operation=getcacert", "", 400, "", ""},
		"no operation":                 {"GET", "", "*/*", 400, "", ""},
		"a person":                     {"GET", "", "text/html,application/xhtml+xml", 200, "text/html; charset=utf-8", ""},
		"a person who posts":           {"POST", "", "text/html", 400, "", ""},
		"a message that is not base64": {"GET", "operation=PKIOperation&message=%zz", "", 400, "", ""},
		"no message":                   {"GET", "operation=PKIOperation", "", 400, "", ""},
		"a message of 64 KiB and more": {"GET", "operation=PKIOperation&message=" + strings.Repeat("A", 90_000), "", 413, "", ""},
		"a query that is far too long": {"GET", "operation=PKIOperation&message=" + strings.Repeat("A", 200_000), "", 414, "", ""},
		"PUT":                          {"PUT", "operation=PKIOperation", "", 405, "", ""},
		"DELETE":                       {"DELETE", "operation=GetCACert", "", 405, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := http.NewRequest(tt.method, f.url, nil)
			if err != nil {
				t.Fatal(err)
			}
			r.URL.RawQuery = tt.query
			r.Header.Set("Accept", tt.accept)
			resp, err := http.DefaultClient.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			status, body := read(t, resp)
			if status != tt.status {
				t.Fatalf("status = %d, want %d: %s", status, tt.status, body)
			}
			if tt.contentType != "" && resp.Header.Get("Content-Type") != tt.contentType {
				t.Errorf("content type = %q, want %q", resp.Header.Get("Content-Type"), tt.contentType)
			}
			if tt.body != "" && string(body) != tt.body {
				t.Errorf("body = %q, want %q", body, tt.body)
			}
			if name == "a person" && !strings.Contains(string(body), `href="/enroll"`) {
				t.Errorf("body = %s, want a way on", body)
			}
		})
	}
}

// The client library is the one that several third-party clients are built on. It
// encrypts with single DES, unless it is changed.
func TestAClientOnSmallstepsLibraryEnrols(t *testing.T) {
	f := serve(t)
	csrDER := request(t, deviceKey(), attribute(t, asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 7}, "open sesame"))
	csr, err := x509.ParseCertificateRequest(csrDER)
	if err != nil {
		t.Fatal(err)
	}
	signer := selfSigned(t, deviceKey())
	msg, err := client.NewCSRRequest(csr, &client.PKIMessage{
		MessageType: client.PKCSReq, Recipients: []*x509.Certificate{f.ca}, SignerKey: deviceKey(), SignerCert: signer,
	})
	if err != nil {
		t.Fatal(err)
	}
	status, body := f.post(t, msg.Raw)
	if status != http.StatusOK {
		t.Fatalf("status = %d: %s", status, body)
	}
	rep, err := client.ParsePKIMessage(body, client.WithCACerts([]*x509.Certificate{f.ca}))
	if err != nil {
		t.Fatal(err)
	}
	if rep.PKIStatus != client.SUCCESS || rep.TransactionID != msg.TransactionID || !bytes.Equal(rep.RecipientNonce, msg.SenderNonce) {
		t.Errorf("reply = %v %v", rep.PKIStatus, rep.TransactionID)
	}
	if err := rep.DecryptPKIEnvelope(signer, deviceKey()); err != nil {
		t.Fatal(err)
	}
	if !deviceKey().PublicKey.Equal(rep.CertRepMessage.Certificate.PublicKey) {
		t.Error("the certificate is for another key")
	}

	// Refused, it understands the refusal.
	bad, err := client.NewCSRRequest(mustParse(t, request(t, deviceKey())), &client.PKIMessage{
		MessageType: client.PKCSReq, Recipients: []*x509.Certificate{f.ca}, SignerKey: deviceKey(), SignerCert: signer,
	})
	if err != nil {
		t.Fatal(err)
	}
	_, body = f.post(t, bad.Raw)
	rep, err = client.ParsePKIMessage(body, client.WithCACerts([]*x509.Certificate{f.ca}))
	if err != nil || rep.PKIStatus != client.FAILURE || rep.FailInfo != client.BadRequest {
		t.Errorf("the refusal reads %+v, %v", rep, err)
	}
}

func mustParse(t testing.TB, der []byte) *x509.CertificateRequest {
	t.Helper()
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		t.Fatal(err)
	}
	return csr
}

// OpenSSL shares no code with either side.
func TestOpenSSLReadsOurRepliesAndWritesRequests(t *testing.T) {
	if _, err := exec.LookPath("openssl"); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("no openssl is installed, and CI skips nothing")
		}
		t.Skip("skipped: no openssl command")
	}
	f := serve(t)
	dir := t.TempDir()
	file := func(name string, content []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	openssl := func(args ...string) []byte {
		t.Helper()
		out, err := exec.Command("openssl", args...).CombinedOutput()
		if err != nil {
			t.Fatalf("openssl %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return out
	}
	caPEM := file("ca.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: f.ca.Raw}))
	signer := selfSigned(t, deviceKey())
	signerPEM := file("signer.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: signer.Raw}))
	pkcs8, err := x509.MarshalPKCS8PrivateKey(deviceKey())
	if err != nil {
		t.Fatal(err)
	}
	keyPEM := file("key.pem", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}))
	csr := file("csr.der", request(t, deviceKey(), attribute(t, asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 7}, "open sesame")))
	path := func(name string) string { return filepath.Join(dir, name) }

	for _, cipher := range []string{"-aes128", "-aes256", "-des3"} {
		t.Run(cipher, func(t *testing.T) {
			openssl("cms", "-encrypt", "-binary", cipher, "-outform", "DER", "-in", csr, "-out", path("env.der"), caPEM)
			envelope, err := os.ReadFile(path("env.der"))
			if err != nil {
				t.Fatal(err)
			}
			status, body := f.post(t, enrolment{envelope: envelope, signerCert: signer}.message(t, f.ca))
			if status != http.StatusOK {
				t.Fatalf("status = %d: %s", status, body)
			}
			parseReply(t, body).check(t, f.ca, "0")
			file("reply.der", body)
			openssl("cms", "-verify", "-binary", "-inform", "DER", "-purpose", "any", "-CAfile", caPEM, "-in", path("reply.der"), "-out", path("content.der"))
			openssl("cms", "-decrypt", "-binary", "-inform", "DER", "-recip", signerPEM, "-inkey", keyPEM, "-in", path("content.der"), "-out", path("certs.der"))
			openssl("pkcs7", "-inform", "DER", "-print_certs", "-in", path("certs.der"), "-out", path("cert.pem"))
			if out := openssl("verify", "-CAfile", caPEM, "-purpose", "sslclient", path("cert.pem")); !bytes.Contains(out, []byte(": OK")) {
				t.Errorf("openssl verify: %s", out)
			}
			if out := openssl("x509", "-in", path("cert.pem"), "-noout", "-text"); !bytes.Contains(out, []byte("CA:FALSE")) || !bytes.Contains(out, []byte("TLS Web Client Authentication")) {
				t.Errorf("openssl x509: %s", out)
			}
		})
	}
}

func TestConfigsThatLackSomething(t *testing.T) {
	full := scep.Config{Authorities: []*depot.Authority{openDepot(t).Identity()}, Issuer: &issuer{}, Log: slog.New(slog.DiscardHandler)}
	for name, spoil := range map[string]func(*scep.Config){
		"no authority": func(c *scep.Config) { c.Authorities = nil },
		"no issuer":    func(c *scep.Config) { c.Issuer = nil },
		"no log":       func(c *scep.Config) { c.Log = nil },
	} {
		t.Run(name, func(t *testing.T) {
			c := full
			spoil(&c)
			if _, err := scep.New(c); err == nil {
				t.Error("New = nil error")
			}
		})
	}
}

func FuzzPKIOperation(f *testing.F) {
	d := openDepot(f)
	s, err := scep.New(scep.Config{Authorities: []*depot.Authority{d.Identity()}, Issuer: &issuer{ca: d.Identity()}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(enrolment{}.message(f, d.Identity().Certificate()))
	f.Add(enrolment{apple: true}.message(f, d.Identity().Certificate()))
	f.Add(enrolment{messageType: printableString("3")}.message(f, d.Identity().Certificate()))
	f.Fuzz(func(t *testing.T, message []byte) {
		_, _ = s.PKIOperation(t.Context(), message)
	})
}

// FuzzContent reaches what lies behind the signature.
func FuzzContent(f *testing.F) {
	d := openDepot(f)
	ca := d.Identity().Certificate()
	s, err := scep.New(scep.Config{Authorities: []*depot.Authority{d.Identity()}, Issuer: &issuer{ca: d.Identity()}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		f.Fatal(err)
	}
	csr := request(f, deviceKey())
	f.Add(encrypt(f, ca, ciphers()[0], pad(csr, 16)), false)
	f.Add(asApple(f, encrypt(f, ca, ciphers()[3], pad(csr, 8))), false)
	f.Add(csr, true)
	f.Fuzz(func(t *testing.T, content []byte, plain bool) {
		if plain {
			content = encrypt(t, ca, ciphers()[0], pad(content, 16))
		}
		message := enrolment{envelope: content}.message(t, ca)
		if _, err := s.PKIOperation(t.Context(), message); err != nil && len(message) <= 64<<10 {
			t.Errorf("PKIOperation = %v, want a CertRep", err)
		}
	})
}

// What an issuance costs beside the RSA operations that it can't do without.
func BenchmarkPKIOperation(b *testing.B) {
	d := openDepot(b)
	ca := d.Identity().Certificate()
	s, err := scep.New(scep.Config{Authorities: []*depot.Authority{d.Identity()}, Issuer: &issuer{ca: d.Identity()}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	message := enrolment{apple: true}.message(b, ca)
	b.Run("issuance", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := s.PKIOperation(b.Context(), message); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("the RSA operations alone", func(b *testing.B) {
		device, authority := deviceKey(), authorityKey(b)
		digest := sha1.Sum([]byte("x"))
		signature, err := rsa.SignPKCS1v15(nil, device, crypto.SHA1, digest[:])
		if err != nil {
			b.Fatal(err)
		}
		encrypted := encryptKey(b, ca, make([]byte, 16))
		for b.Loop() {
			_ = rsa.VerifyPKCS1v15(&device.PublicKey, crypto.SHA1, digest[:], signature) // of the message
			_ = rsa.VerifyPKCS1v15(&device.PublicKey, crypto.SHA1, digest[:], signature) // of the request
			//lint:ignore SA1019 as SCEP's clients do
			_, _ = authority.Decrypt(rand.Reader, encrypted, &rsa.PKCS1v15DecryptOptions{SessionKeyLen: 16})
			_, _ = rsa.SignPKCS1v15(nil, authority, crypto.SHA1, digest[:]) // the certificate
			_, _ = rsa.SignPKCS1v15(nil, authority, crypto.SHA1, digest[:]) // the reply
		}
	})
}

// TestSeveralAuthoritiesAtOneAddress is a rollover, or an address that is for
// identities and templates both: a client encrypts to whichever it was told of.
func TestSeveralAuthoritiesAtOneAddress(t *testing.T) {
	d := openDepot(t)
	var mu sync.Mutex
	var asked []string
	s, err := scep.New(scep.Config{
		Authorities: []*depot.Authority{d.Payload(), d.Identity()},
		Issuer: scep.IssuerFunc(func(_ context.Context, a *depot.Authority, r depot.Request) (*x509.Certificate, error) {
			mu.Lock()
			defer mu.Unlock()
			asked = append(asked, a.Name())
			return (&issuer{ca: a}).Issue(t.Context(), a, r)
		}),
		Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	if der, _, err := s.GetCACert(t.Context(), ""); err != nil || !bytes.Equal(der, d.Payload().Certificate().Raw) {
		t.Errorf("GetCACert is not the first authority's: %v", err)
	}
	for _, a := range []*depot.Authority{d.Identity(), d.Payload()} {
		body, err := s.PKIOperation(t.Context(), enrolment{apple: true}.message(t, a.Certificate()))
		if err != nil {
			t.Fatal(err)
		}
		parseReply(t, body).check(t, a.Certificate(), "0")
	}
	if !slices.Equal(asked, []string{"identity", "payload"}) {
		t.Errorf("the issuer was asked for %v", asked)
	}
	body, err := s.PKIOperation(t.Context(), enrolment{apple: true}.message(t, d.Root().Certificate()))
	if err != nil {
		t.Fatal(err)
	}
	parseReply(t, body).check(t, d.Payload().Certificate(), "2")
}

func TestCertificatesOfARetiredAuthorityStillRenew(t *testing.T) {
	d := openDepot(t)
	old, err := (&issuer{ca: d.Identity()}).Issue(t.Context(), d.Identity(), depot.Request{
		Challenge: "open sesame", CSR: &x509.CertificateRequest{PublicKey: otherKey().Public()}, Signer: selfSigned(t, otherKey()),
	})
	if err != nil {
		t.Fatal(err)
	}
	e := enrolment{messageType: printableString("17"), noSecret: true, signerKey: otherKey(), signerCert: old, apple: true}
	for status, retired := range map[string][]*depot.Authority{"0": {d.Identity()}, "2": nil} {
		s, err := scep.New(scep.Config{
			Authorities: []*depot.Authority{d.Payload()}, Retired: retired,
			Issuer: scep.IssuerFunc(func(_ context.Context, a *depot.Authority, r depot.Request) (*x509.Certificate, error) {
				if !r.Signer.Equal(old) {
					return nil, errors.New("another signer")
				}
				return a.Sign(r.CSR.PublicKey, depot.Contents{Name: "test", NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour)})
			}),
			Log: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			t.Fatal(err)
		}
		body, err := s.PKIOperation(t.Context(), e.message(t, d.Payload().Certificate()))
		if err != nil {
			t.Fatal(err)
		}
		parseReply(t, body).check(t, d.Payload().Certificate(), status)
		if retired != nil { // it takes no messages
			body, err := s.PKIOperation(t.Context(), e.message(t, d.Identity().Certificate()))
			if err != nil {
				t.Fatal(err)
			}
			parseReply(t, body).check(t, d.Payload().Certificate(), "2")
		}
	}
}
