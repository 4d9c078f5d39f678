package scep_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf16"

	scepserver "github.com/micromdm/scep/v2/server"
	"github.com/smallstep/pkcs7"
	client "github.com/smallstep/scep"

	"github.com/gatehouse-mdm/gatehouse/depot"
	"github.com/gatehouse-mdm/gatehouse/depot/scep"
	"github.com/gatehouse-mdm/gatehouse/depot/template"
	"github.com/gatehouse-mdm/gatehouse/storage/guard"
)

// signerKey is that of the client's messages.
var signerKey = sync.OnceValue(func() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return key
})

func newClient(t testing.TB) *scep.Client {
	t.Helper()
	c, err := scep.NewClient(scep.ClientConfig{Log: slog.New(slog.DiscardHandler), Now: time.Now, Polls: 2, PollEvery: time.Millisecond,
		NewKey: func(int) (*rsa.PrivateKey, error) { return signerKey(), nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func upstream(url string, ca *x509.Certificate) template.Upstream {
	sum := sha256.Sum256(ca.Raw)
	return template.Upstream{URL: url, Name: "Example CA & Co", Fingerprint: sum[:], AllowPrivate: true}
}

// deviceCSR is what a device asks for, with the challenge "open sesame".
func deviceCSR(t testing.TB, challenge string) *x509.CertificateRequest {
	t.Helper()
	csr, err := guard.ParseCSR(request(t, deviceKey(), attribute(t, []int{1, 2, 840, 113549, 1, 9, 7}, printableString(challenge))), 0)
	if err != nil {
		t.Fatal(err)
	}
	return csr
}

func TestAClientAsksAServerOfOurs(t *testing.T) {
	f := serve(t)
	csr := deviceCSR(t, "open sesame")
	cert, err := newClient(t).Request(t.Context(), upstream(f.url, f.ca), csr)
	if err != nil {
		t.Fatal(err)
	}
	if !deviceKey().PublicKey.Equal(cert.PublicKey) || cert.Subject.CommonName != "set by the server" {
		t.Errorf("the certificate is for %v", cert.Subject)
	}
	got := f.issuer.last(t)
	if !slices.Equal(got.CSR.Raw, csr.Raw) || got.Challenge != "open sesame" {
		t.Error("the request is not the device's, to the byte")
	}
	if got.Signer.PublicKey.(*rsa.PublicKey).Equal(csr.PublicKey) {
		t.Error("the message is signed with the device's key, which nobody has")
	}
	if _, err := newClient(t).Request(t.Context(), upstream(f.url, f.ca), deviceCSR(t, "open barley")); !errors.Is(err, depot.ErrUpstreamRefused) || !strings.Contains(err.Error(), "badRequest") {
		t.Errorf("with a wrong challenge: %v, want badRequest", err)
	}
}

// TestAClientAsksAnIndependentServer asks the SCEP service of micromdm, whose answers
// are in single DES and SHA-1.
func TestAClientAsksAnIndependentServer(t *testing.T) {
	ca := authority(t, "Example Root", otherKey(), nil, nil)
	signer := scepserver.SignCSRAdapter(scepserver.CSRSignerFunc(func(m *client.CSRReqMessage) (*x509.Certificate, error) {
		return leaf(t, m.CSR, ca, otherKey(), nil), nil
	}))
	s, err := scepserver.NewService(ca, otherKey(), scepserver.StaticChallengeMiddleware("open sesame", signer))
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var body []byte
		var err error
		switch r.URL.Query().Get("operation") {
		case "GetCACaps":
			body, err = s.GetCACaps(r.Context())
		case "GetCACert":
			body, _, err = s.GetCACert(r.Context(), "")
		case "PKIOperation":
			if body, err = io.ReadAll(r.Body); err == nil {
				body, err = s.PKIOperation(r.Context(), body)
			}
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		_, _ = w.Write(body)
	}))
	defer srv.Close()
	cert, err := newClient(t).Request(t.Context(), upstream(srv.URL, ca), deviceCSR(t, "open sesame"))
	if err != nil {
		t.Fatal(err)
	}
	if !deviceKey().PublicKey.Equal(cert.PublicKey) {
		t.Error("the certificate is for another key")
	}
	if _, err := newClient(t).Request(t.Context(), upstream(srv.URL, ca), deviceCSR(t, "open barley")); !errors.Is(err, depot.ErrUpstreamRefused) {
		t.Errorf("with a wrong challenge: %v, want ErrUpstreamRefused", err)
	}
}

// authority is a CA of a key, below parent or by itself.
func authority(t testing.TB, name string, key crypto.Signer, parent *x509.Certificate, parentKey crypto.Signer) *x509.Certificate {
	t.Helper()
	tmpl := &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature, BasicConstraintsValid: true, IsCA: true,
	}
	if parent == nil {
		parent, parentKey = tmpl, key
	}
	return issued(t, tmpl, parent, key.Public(), parentKey)
}

// leaf is what an authority issues for a request.
func leaf(t testing.TB, csr *x509.CertificateRequest, ca *x509.Certificate, key crypto.Signer, change func(*x509.Certificate)) *x509.Certificate {
	t.Helper()
	tmpl := &x509.Certificate{
		Subject: csr.Subject, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	if change != nil {
		change(tmpl)
	}
	return issued(t, tmpl, ca, csr.PublicKey, key)
}

func issued(t testing.TB, tmpl, parent *x509.Certificate, pub any, key crypto.Signer) *x509.Certificate {
	t.Helper()
	if tmpl.SerialNumber == nil {
		tmpl.SerialNumber = big.NewInt(time.Now().UnixNano())
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, pub, key)
	if err != nil {
		t.Error(err)
		return nil
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Error(err)
	}
	return cert
}

// other is a SCEP server of somebody else: an issuing authority with an EC key, and a
// registration authority with otherKey, unless it is changed.
type other struct {
	t   testing.TB
	url string

	root, ca, ra *x509.Certificate
	caKey        *ecdsa.PrivateKey

	caps    string
	bundle  []*x509.Certificate
	alone   bool // GetCACert answers with the first of bundle alone
	pending int  // how often it says so
	status  int  // of HTTP, for PKIOperation

	change func(*answer)
	issue  func(csr *x509.CertificateRequest) []*x509.Certificate

	mu       sync.Mutex
	seen     []string // methods and operations, with the message type
	ciphers  []string
	question []byte // content of the last CertPoll
	csr      *x509.CertificateRequest
}

// answer is a CertRep in the making.
type answer struct {
	messageType, status, id any
	nonce                   []byte
	failInfo, failText      string
	signer                  *x509.Certificate
	signerKey               crypto.Signer
	content                 []byte
	cipher                  int
	to                      *x509.Certificate
}

func newOther(t testing.TB) *other {
	t.Helper()
	rootKey, caKey := ecKey(t), ecKey(t)
	o := &other{t: t, caKey: caKey, caps: "POSTPKIOperation\r\nSHA-256\r\nAES\r\n"}
	o.root = authority(t, "Example Root", rootKey, nil, nil)
	o.ca = authority(t, "Example Issuing CA", caKey, o.root, rootKey)
	o.ra = issued(t, &x509.Certificate{
		Subject: pkix.Name{CommonName: "Example RA"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
	}, o.ca, otherKey().Public(), caKey)
	o.bundle = []*x509.Certificate{o.root, o.ca, o.ra}
	o.issue = func(csr *x509.CertificateRequest) []*x509.Certificate {
		return []*x509.Certificate{leaf(t, csr, o.ca, o.caKey, nil)}
	}
	srv := httptest.NewServer(http.HandlerFunc(o.serve))
	t.Cleanup(srv.Close)
	o.url = srv.URL + "/certsrv/mscep/mscep.dll"
	return o
}

func ecKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func (o *other) serve(w http.ResponseWriter, r *http.Request) {
	o.mu.Lock()
	defer o.mu.Unlock()
	query := r.URL.Query()
	operation := query.Get("operation")
	if operation != "PKIOperation" {
		o.seen = append(o.seen, r.Method+" "+operation+" "+query.Get("message"))
	}
	switch operation {
	case "GetCACaps":
		if o.caps == "" {
			http.NotFound(w, r)
			return
		}
		_, _ = io.WriteString(w, o.caps)
	case "GetCACert":
		if o.alone {
			_, _ = w.Write(o.bundle[0].Raw)
			return
		}
		var all []byte
		for _, cert := range o.bundle {
			all = append(all, cert.Raw...)
		}
		der, err := pkcs7.DegenerateCertificate(all)
		if err != nil {
			o.t.Error(err)
		}
		_, _ = w.Write(der)
	case "PKIOperation":
		raw, err := io.ReadAll(r.Body)
		if r.Method == http.MethodGet {
			raw, err = base64.StdEncoding.DecodeString(query.Get("message"))
		}
		if err != nil {
			o.t.Error(err)
		}
		if o.status != 0 {
			w.WriteHeader(o.status)
			return
		}
		_, _ = w.Write(o.operate(r.Method, raw))
	}
}

func (o *other) operate(method string, raw []byte) []byte {
	p7, err := pkcs7.Parse(raw)
	if err == nil {
		err = p7.Verify()
	}
	var messageType, id string
	var nonce []byte
	for oid, into := range map[int]any{2: &messageType, 7: &id, 5: &nonce} {
		if err == nil {
			err = p7.UnmarshalSignedAttribute(scepOID(oid), into)
		}
	}
	if err != nil {
		o.t.Errorf("message: %v", err)
		return nil
	}
	o.seen = append(o.seen, method+" PKIOperation "+messageType)
	envelope, err := pkcs7.Parse(p7.Content)
	if err != nil {
		o.t.Error(err)
		return nil
	}
	plain, err := envelope.Decrypt(o.ra, otherKey())
	if err != nil {
		o.t.Errorf("it is not encrypted to the registration authority: %v", err)
		return nil
	}
	e, err := guard.ParseEnvelope(p7.Content, 0)
	if err != nil {
		o.t.Error(err)
		return nil
	}
	o.ciphers = append(o.ciphers, e.Algorithm.String())
	if messageType == "20" {
		o.question = plain
	} else if o.csr, err = guard.ParseCSR(plain, 0); err != nil {
		o.t.Error(err)
		return nil
	}

	a := &answer{
		messageType: printableString("3"), status: printableString("0"), id: printableString(id), nonce: nonce,
		signer: o.ra, signerKey: otherKey(), to: p7.GetOnlySigner(),
	}
	if o.pending > 0 {
		o.pending--
		a.status = printableString("3")
	} else if certs := o.issue(o.csr); len(certs) > 0 {
		var all []byte
		for _, cert := range certs {
			all = append(all, cert.Raw...)
		}
		if a.content, err = pkcs7.DegenerateCertificate(all); err != nil {
			o.t.Error(err)
		}
	}
	if o.change != nil {
		o.change(a)
	}
	return a.encode(o.t)
}

func (a *answer) encode(t testing.TB) []byte {
	var content []byte
	if a.content != nil {
		c := ciphers()[a.cipher]
		content = encrypt(t, a.to, c, pad(a.content, c.size))
	}
	sd, err := pkcs7.NewSignedData(content)
	if err != nil {
		t.Error(err)
		return nil
	}
	sd.SetDigestAlgorithm(pkcs7.OIDDigestAlgorithmSHA256)
	attrs := []pkcs7.Attribute{
		{Type: scepOID(2), Value: a.messageType}, {Type: scepOID(3), Value: a.status}, {Type: scepOID(7), Value: a.id},
		{Type: scepOID(6), Value: a.nonce}, {Type: scepOID(5), Value: []byte("their own nonce!")},
	}
	if a.failInfo != "" {
		attrs = append(attrs, pkcs7.Attribute{Type: scepOID(4), Value: printableString(a.failInfo)})
	}
	if a.failText != "" {
		attrs = append(attrs, pkcs7.Attribute{Type: []int{1, 3, 6, 1, 5, 5, 7, 24, 1}, Value: a.failText})
	}
	if err := sd.AddSigner(a.signer, a.signerKey, pkcs7.SignerInfoConfig{ExtraSignedAttributes: attrs}); err != nil {
		t.Error(err)
		return nil
	}
	if content == nil {
		sd.Detach()
	}
	der, err := sd.Finish()
	if err != nil {
		t.Error(err)
	}
	return der
}

func TestARegistrationAuthority(t *testing.T) {
	const aes128, des3 = "2.16.840.1.101.3.4.1.2", "1.2.840.113549.3.7"
	for name, tt := range map[string]struct {
		change func(*other, *template.Upstream)
		seen   []string
		cipher string
	}{
		"with all that is usual": {nil, []string{"GET GetCACert Example CA & Co", "GET GetCACaps Example CA & Co", "POST PKIOperation 19"}, aes128},
		"that knows only SCEPStandard": {
			func(o *other, _ *template.Upstream) { o.caps = "SCEPStandard" }, []string{"POST PKIOperation 19"}, aes128,
		},
		"that knows what NDES does":    {func(o *other, _ *template.Upstream) { o.caps = "POSTPKIOperation\nRenewal\nSHA-256\nDES3" }, []string{"POST PKIOperation 19"}, des3},
		"that takes GET alone":         {func(o *other, _ *template.Upstream) { o.caps = "AES" }, []string{"GET PKIOperation 19"}, aes128},
		"that does not know GetCACaps": {func(o *other, _ *template.Upstream) { o.caps = "" }, []string{"GET PKIOperation 19"}, des3},
		"without a name":               {func(_ *other, u *template.Upstream) { u.Name = "" }, []string{"GET GetCACert ", "POST PKIOperation 19"}, aes128},
		"pinned by its root":           {func(o *other, u *template.Upstream) { u.Fingerprint = digest(crypto.SHA256, o.root.Raw) }, nil, aes128},
		"pinned by SHA-1":              {func(o *other, u *template.Upstream) { s := sha1.Sum(o.ca.Raw); u.Fingerprint = s[:] }, nil, aes128},
		"pinned by SHA-512":            {func(o *other, u *template.Upstream) { s := sha512.Sum512(o.ca.Raw); u.Fingerprint = s[:] }, nil, aes128},
		"that TLS has shown":           {func(_ *other, u *template.Upstream) { u.Fingerprint = nil }, nil, aes128},
		"that wants to think once":     {func(o *other, _ *template.Upstream) { o.pending = 1 }, []string{"POST PKIOperation 19", "POST PKIOperation 20"}, aes128},
		"that wants to think twice":    {func(o *other, _ *template.Upstream) { o.pending = 2 }, []string{"POST PKIOperation 19", "POST PKIOperation 20", "POST PKIOperation 20"}, aes128},
		"that answers in 3DES":         {func(o *other, _ *template.Upstream) { o.change = func(a *answer) { a.cipher = 3 } }, nil, aes128},
		"that sends its chain, too": {func(o *other, u *template.Upstream) {
			o.issue = func(csr *x509.CertificateRequest) []*x509.Certificate {
				return []*x509.Certificate{o.root, o.ca, leaf(t, csr, o.ca, o.caKey, nil)}
			}
		}, nil, aes128},
		"whose issuer comes with what it issues": {func(o *other, u *template.Upstream) {
			key := ecKey(t)
			below := authority(t, "Example Issuing CA 2", key, o.ca, o.caKey)
			o.issue = func(csr *x509.CertificateRequest) []*x509.Certificate {
				return []*x509.Certificate{below, leaf(t, csr, below, key, nil)}
			}
		}, nil, aes128},
	} {
		t.Run(name, func(t *testing.T) {
			o := newOther(t)
			u := upstream(o.url, o.ca)
			if tt.change != nil {
				tt.change(o, &u)
			}
			csr := deviceCSR(t, "theirs")
			cert, err := newClient(t).Request(t.Context(), u, csr)
			if err != nil {
				t.Fatal(err)
			}
			if !deviceKey().PublicKey.Equal(cert.PublicKey) {
				t.Error("the certificate is for another key")
			}
			if !slices.Equal(o.csr.Raw, csr.Raw) {
				t.Error("the request is not the device's, to the byte")
			}
			for _, want := range tt.seen {
				at := slices.Index(o.seen, want)
				if at < 0 {
					t.Errorf("it was asked %q, want %q", o.seen, tt.seen)
					break
				}
				o.seen = o.seen[at+1:]
			}
			if slices.ContainsFunc(o.ciphers, func(c string) bool { return c != tt.cipher }) {
				t.Errorf("requests are in %q, want %s", o.ciphers, tt.cipher)
			}
			if o.question != nil && !slices.Equal(o.question, slices.Concat(
				[]byte{0x30, byte(len(o.ca.RawSubject) + len(csr.RawSubject))}, o.ca.RawSubject, csr.RawSubject)) {
				t.Errorf("it is asked after %x, want the issuer and the subject", o.question)
			}
		})
	}
}

func digest(h crypto.Hash, data []byte) []byte {
	d := h.New()
	d.Write(data)
	return d.Sum(nil)
}

func TestAnswersThatAreNotBelieved(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(*other, *template.Upstream)
		want   string
		later  bool // it may be granted later
	}{
		"another fingerprint": {func(o *other, u *template.Upstream) { u.Fingerprint = make([]byte, 32) }, "fingerprint", false},
		"a fingerprint of the registration authority's, which signs nothing": {func(o *other, u *template.Upstream) {
			u.Fingerprint = digest(crypto.SHA256, o.ra.Raw)
		}, "not issued by its authority", false},
		"a registration authority of somebody else": {func(o *other, _ *template.Upstream) {
			other := authority(t, "Example Issuing CA", ecKey(t), nil, nil)
			o.bundle = []*x509.Certificate{o.ca, selfSigned(t, otherKey()), other}
		}, "RSA", false},
		"an expired authority": {func(o *other, u *template.Upstream) {
			old := issued(t, &x509.Certificate{
				Subject: o.ca.Subject, NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: time.Now().Add(-time.Hour),
				KeyUsage: x509.KeyUsageCertSign, BasicConstraintsValid: true, IsCA: true,
			}, o.ca, o.caKey.Public(), o.caKey)
			o.bundle = append(o.bundle, old)
			u.Fingerprint = digest(crypto.SHA256, old.Raw)
		}, "valid from", false},

		"a refusal":              {func(o *other, _ *template.Upstream) { o.refuse("2", "") }, "badRequest", false},
		"a refusal in words":     {func(o *other, _ *template.Upstream) { o.refuse("4", "the challenge\nis used") }, `badCertId ("the challenge\nis used")`, false},
		"a refusal of no kind":   {func(o *other, _ *template.Upstream) { o.refuse("9", "") }, "it says 9", false},
		"no end of thinking":     {func(o *other, _ *template.Upstream) { o.pending = 100 }, "not decided", true},
		"an error of the server": {func(o *other, _ *template.Upstream) { o.status = 503 }, "status 503", true},
		"a redirect":             {func(o *other, _ *template.Upstream) { o.status = 302 }, "status 302", true},

		"a signer that it did not name": {func(o *other, _ *template.Upstream) {
			o.change = func(a *answer) { a.signer, a.signerKey = selfSigned(t, deviceKey()), deviceKey() }
		}, "signed by", false},
		"a signature of another key": {func(o *other, _ *template.Upstream) { o.change = func(a *answer) { a.signerKey = deviceKey() } }, "can't be read", false},
		"another transaction":        {func(o *other, _ *template.Upstream) { o.change = func(a *answer) { a.id = printableString("x") } }, "transaction", false},
		"another nonce":              {func(o *other, _ *template.Upstream) { o.change = func(a *answer) { a.nonce[0]++ } }, "nonce", false},
		"a request for an answer": {func(o *other, _ *template.Upstream) {
			o.change = func(a *answer) { a.messageType = printableString("19") }
		}, "CertRep", false},
		"a status that is none":          {func(o *other, _ *template.Upstream) { o.change = func(a *answer) { a.status = printableString("1") } }, "pkiStatus", false},
		"success without content":        {func(o *other, _ *template.Upstream) { o.change = func(a *answer) { a.content = nil } }, "nothing encrypted", false},
		"content for somebody else":      {func(o *other, _ *template.Upstream) { o.change = func(a *answer) { a.to = o.ra } }, "decrypted", false},
		"content that is no certificate": {func(o *other, _ *template.Upstream) { o.change = func(a *answer) { a.content = []byte("hello") } }, "neither", false},

		"a certificate for another key": {func(o *other, _ *template.Upstream) {
			o.issue = func(*x509.CertificateRequest) []*x509.Certificate { return []*x509.Certificate{o.ra} }
		}, "for the key", false},
		"a certificate of another authority": {func(o *other, _ *template.Upstream) {
			key := ecKey(t)
			o.issue = func(csr *x509.CertificateRequest) []*x509.Certificate {
				return []*x509.Certificate{leaf(t, csr, authority(t, "Example Issuing CA", key, nil, nil), key, nil)}
			}
		}, "not issued", false},
		"an authority":           {issuing(func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = true, true }), "authority's", false},
		"a signer of CRLs":       {issuing(func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCRLSign }), "authority's", false},
		"an expired certificate": {issuing(func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }), "expired", false},
		"one of next week": {issuing(func(c *x509.Certificate) {
			c.NotBefore, c.NotAfter = time.Now().AddDate(0, 0, 7), time.Now().AddDate(0, 0, 8)
		}), "not valid before", false},
		"an endless serial number": {issuing(func(c *x509.Certificate) { c.SerialNumber = new(big.Int).Lsh(big.NewInt(1), 161) }), "serial", false},
	} {
		t.Run(name, func(t *testing.T) {
			o := newOther(t)
			u := upstream(o.url, o.ca)
			tt.change(o, &u)
			want := depot.ErrUpstreamRefused
			if tt.later {
				want = depot.ErrUpstreamUnavailable
			}
			cert, err := newClient(t).Request(t.Context(), u, deviceCSR(t, "theirs"))
			if !errors.Is(err, want) || !strings.Contains(err.Error(), tt.want) || cert != nil {
				t.Errorf("Request = %v, %v; want %v with %q", cert, err, want, tt.want)
			}
		})
	}
}

func (o *other) refuse(info, text string) {
	o.change = func(a *answer) {
		a.status, a.failInfo, a.failText, a.content = printableString("2"), info, text, nil
	}
}

func issuing(change func(*x509.Certificate)) func(*other, *template.Upstream) {
	return func(o *other, _ *template.Upstream) {
		o.issue = func(csr *x509.CertificateRequest) []*x509.Certificate {
			return []*x509.Certificate{leaf(o.t, csr, o.ca, o.caKey, change)}
		}
	}
}

func TestAServerThatIsNotThere(t *testing.T) {
	c := newClient(t)
	ca := authority(t, "Example CA", ecKey(t), nil, nil)
	if _, err := c.Request(t.Context(), upstream("http://127.0.0.1:1", ca), deviceCSR(t, "x")); !errors.Is(err, depot.ErrUpstreamUnavailable) {
		t.Errorf("a server that is down: %v, want ErrUpstreamUnavailable", err)
	}
	asked := false
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = true
		_, _ = w.Write(make([]byte, 65<<10))
	}))
	defer srv.Close()
	u := upstream(srv.URL, ca)
	u.AllowPrivate = false
	if _, err := c.Request(t.Context(), u, deviceCSR(t, "x")); !errors.Is(err, guard.ErrAddress) || asked {
		t.Errorf("a private address: %v, asked %v; want ErrAddress, and that it is not asked", err, asked)
	}
	u.ChallengeURL = srv.URL
	if _, err := c.Challenge(t.Context(), u); !errors.Is(err, guard.ErrAddress) || asked {
		t.Errorf("a challenge page there: %v, asked %v; want ErrAddress", err, asked)
	}
	u.AllowPrivate = true
	if _, err := c.Request(t.Context(), u, deviceCSR(t, "x")); !errors.Is(err, depot.ErrUpstreamUnavailable) || !strings.Contains(err.Error(), "more than") {
		t.Errorf("a long answer: %v, want ErrUpstreamUnavailable", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Request(ctx, u, deviceCSR(t, "x")); !errors.Is(err, depot.ErrUpstreamUnavailable) || !errors.Is(err, context.Canceled) {
		t.Errorf("a request that is given up: %v", err)
	}
}

// ndes is the page of Microsoft's server, as its documentation shows it.
const ndes = `<HTML><Head><Meta HTTP-Equiv="Content-Type" Content="text/html; charset=UTF-16">
<Title>Network Device Enrollment Service</Title></Head><Body BgColor=#FFFFFF><Font ID=locPageFont Face="Arial">
<Table Border=0><TR><TD>Network Device Enrollment Service</TD></TR></Table>
<P> Network Device Enrollment Service allows you to obtain certificates for routers or other network devices using the Simple Certificate Enrollment Protocol (SCEP). </P>
<P> To complete certificate enrollment for your network device you will need the following information:
<P> The thumbprint (hash value) for the CA certificate is: <B> 9C6B6DD0 7B6DEA47 2A7D9CB1 C7A5A0AE </B>
<P> The enrollment challenge password is: <B> 6C1FC4A1D6C0BB2F </B>
<P> This password can be used only once and will expire within 60 minutes.
<P> Each enrollment requires a new challenge password. You can refresh this web page to obtain a new challenge password.
</P></Font></Body></HTML>`

func inUTF16(text string, order binary.AppendByteOrder, mark bool) string {
	if mark {
		text = "\ufeff" + text
	}
	var out []byte
	for _, unit := range utf16.Encode([]rune(text)) {
		out = order.AppendUint16(out, unit)
	}
	return string(out)
}

func TestChallengesAreFetched(t *testing.T) {
	german := strings.Replace(ndes, "The enrollment challenge password is:", "Das Kennwort für die Registrierungsabfrage lautet:", 1)
	const none = ""
	for name, tt := range map[string]struct {
		status  int
		offer   string // WWW-Authenticate
		body    string
		want    string
		problem string
		later   bool
	}{
		"NDES in UTF-16":             {200, none, inUTF16(ndes, binary.LittleEndian, true), "6C1FC4A1D6C0BB2F", none, false},
		"NDES without a mark":        {200, none, inUTF16(ndes, binary.LittleEndian, false), "6C1FC4A1D6C0BB2F", none, false},
		"NDES the other way round":   {200, none, inUTF16(ndes, binary.BigEndian, true), "6C1FC4A1D6C0BB2F", none, false},
		"NDES in UTF-8":              {200, none, ndes, "6C1FC4A1D6C0BB2F", none, false},
		"NDES in German":             {200, none, inUTF16(german, binary.LittleEndian, true), "6C1FC4A1D6C0BB2F", none, false},
		"NDES with an entity":        {200, none, `<P>The enrollment challenge password is: <b>a&amp;b</b>`, "a&b", none, false},
		"a line of text":             {200, none, " 1234-abcd\r\n", "1234-abcd", none, false},
		"a JSON object":              {200, none, `{"challenge": "a b", "expires_in": 60}`, "a b", none, false},
		"a JSON string":              {200, none, `"secret"`, "secret", none, false},
		"nothing":                    {200, none, " ", none, "is empty", false},
		"a full cache":               {200, none, `<HTML>The password cache is full.</HTML>`, none, "cache is full", false},
		"no permission":              {200, none, `<HTML>You do not have sufficient permission to enroll with SCEP.</HTML>`, none, "permission", false},
		"any page":                   {200, none, `<HTML>Welcome to <b>deadbeef</b> and <b>cafecafe</b></HTML>`, none, "HTML without", false},
		"lines":                      {200, none, "one\ntwo", none, "several lines", false},
		"JSON of something else":     {200, none, `{"password": "x"}`, none, `"challenge"`, false},
		"JSON with a number":         {200, none, `{"challenge": 1}`, none, `"challenge"`, false},
		"JSON that breaks off":       {200, none, `{"challenge": "x`, none, "JSON", false},
		"a control character":        {200, none, `{"challenge": "a\u0000b"}`, none, "printable", false},
		"too much":                   {200, none, strings.Repeat("x", 256), none, "1 to 255", false},
		"half a character":           {200, none, "\xff\xfea", none, "half", false},
		"neither UTF-8 nor UTF-16":   {200, none, "ab\xff", none, "neither", false},
		"a server that wants NTLM":   {401, "NTLM", "", none, "NTLM", false},
		"one that wants Negotiate":   {401, "Negotiate, NTLM", "", none, "Basic", false},
		"a wrong password":           {401, `Negotiate, Basic realm="x"`, "", none, "password", false},
		"a user who may not":         {403, none, "", none, "status 403", false},
		"a page that has moved":      {302, none, "", none, "redirects", false},
		"a page that does not exist": {404, none, "", none, "404", true},
		"a server in trouble":        {500, none, "hunter2", none, "500", true},
	} {
		t.Run(name, func(t *testing.T) {
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if user, password, ok := r.BasicAuth(); !ok || user != `EXAMPLE\gatehouse` || password != "hunter2" {
					t.Errorf("%s %s with user %q", r.Method, r.URL, user)
				}
				if tt.offer != "" {
					w.Header().Set("WWW-Authenticate", tt.offer)
				}
				w.Header().Set("Location", "/elsewhere")
				w.WriteHeader(tt.status)
				_, _ = io.WriteString(w, tt.body)
			}))
			defer srv.Close()
			got, err := newClient(t).Challenge(t.Context(), template.Upstream{
				ChallengeURL: srv.URL + "/certsrv/mscep_admin/", Username: `EXAMPLE\gatehouse`, Password: "hunter2", AllowPrivate: true,
			})
			if tt.problem == "" {
				if err != nil || got != tt.want {
					t.Errorf("Challenge = %q, %v; want %q", got, err, tt.want)
				}
				return
			}
			want := depot.ErrUpstreamRefused
			if tt.later {
				want = depot.ErrUpstreamUnavailable
			}
			if !errors.Is(err, want) || !strings.Contains(err.Error(), tt.problem) || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("Challenge = %q, %v; want %v with %q, and no password", got, err, want, tt.problem)
			}
		})
	}
}
