package mdmtest

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"math/big"
	"net/http"
	"strings"
	"testing"
	"time"
)

// client is the SCEP client of a device with the server's profile.
func (s *server) client(t *testing.T) *SCEP {
	t.Helper()
	return &SCEP{URL: s.http.URL + "/scep", HTTP: s.http.Client(), Retries: 3, Now: time.Now, Rand: rand.Reader}
}

func (s *server) discovered(t *testing.T) *SCEP {
	t.Helper()
	c := s.client(t)
	if err := c.Discover(t.Context()); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestAnswersThatADeviceCallsInvalid(t *testing.T) {
	s := newServer(t)
	foreignKey := rsaKey(t)
	foreign := certificateFor(t, foreignKey, "Test identity CA", nil, nil)
	other := certificateFor(t, rsaKey(t), "other", s.ca, s.key)
	for name, tt := range map[string]struct {
		caps string // the server's own when empty
		rep  func(*certRep)
		want string // part of the error; empty: a certificate
	}{
		"a good answer":                          {"", func(*certRep) {}, ""},
		"AES-256":                                {"", func(r *certRep) { r.cipher = oidAES256 }, ""},
		"triple DES although there is AES":       {"", func(r *certRep) { r.cipher = oidDES3 }, "not accepted"},
		"triple DES where there is no AES":       {"SHA-1\nDES3\nPOSTPKIOperation", func(r *certRep) { r.cipher = oidDES3 }, ""},
		"an attribute as UTF8String":             {"", func(r *certRep) { r.textTag = tagUTF8 }, "PrintableString"},
		"an attribute twice":                     {"", func(r *certRep) { r.twice = true }, "exactly one"},
		"another transaction":                    {"", func(r *certRep) { r.transaction = "00" }, "transactionID"},
		"another nonce":                          {"", func(r *certRep) { r.recipientNonce = make([]byte, 16) }, "recipientNonce"},
		"our nonce as the server's":              {"", func(r *certRep) { r.senderNonce = r.recipientNonce }, "senderNonce"},
		"a short nonce":                          {"", func(r *certRep) { r.senderNonce = make([]byte, 8) }, "senderNonce"},
		"another message type":                   {"", func(r *certRep) { r.messageType = "19" }, "messageType"},
		"an unknown status":                      {"", func(r *certRep) { r.status = "4" }, "pkiStatus"},
		"a signer that GetCACert did not return": {"", func(r *certRep) { r.signer, r.key = foreign, foreignKey }, "GetCACert"},
		"a wrong signature":                      {"", func(r *certRep) { r.key = foreignKey }, "CMS"},
		"the CA beside the certificate":          {"", func(r *certRep) { r.also = append(r.also, s.ca) }, "alone"},
		"a certificate for another key":          {"", func(r *certRep) { r.issued = other }, "mismatching"},
		"an envelope to another":                 {"", func(r *certRep) { r.recipient = other }, "not ours"},
		"content that is no SignedData":          {"", func(r *certRep) { r.contentType = oidData }, "content type"},
		"a body cut in two":                      {"", func(r *certRep) { r.spoil = func(b []byte) []byte { return b[:len(b)/2] } }, "BER"},
		"no body":                                {"", func(r *certRep) { r.spoil = func([]byte) []byte { return nil } }, "BER"},
		"a failure without a reason":             {"", func(r *certRep) { r.status = "2" }, "failInfo"},
	} {
		t.Run(name, func(t *testing.T) {
			caps := s.caps
			defer func() { s.caps, s.rep = caps, nil }()
			if s.rep = tt.rep; tt.caps != "" {
				s.caps = tt.caps
			}
			c := s.discovered(t)
			r, err := c.Request(rsaKey(t), Subject{{{"CN", "x"}}}, "secret", nil)
			if err != nil {
				t.Fatal(err)
			}
			cert, err := c.Send(t.Context(), r)
			if tt.want == "" && (err != nil || cert == nil) || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("Send = %v, want an error with %q", err, tt.want)
			}
		})
	}
}

func TestServersThatADeviceRefuses(t *testing.T) {
	s := newServer(t)
	ec := certificateFor(t, ecKey(t), "EC", nil, nil)
	sum := sha256.Sum256(s.ca.Raw)
	for name, tt := range map[string]struct {
		change      func()
		fingerprint []byte
		want        string
	}{
		"a good one":                    {func() {}, sum[:], ""},
		"an RA answer":                  {func() { s.caType = "application/x-x509-ca-ra-cert" }, nil, "Content-Type"},
		"an EC key":                     {func() { s.ca = ec }, nil, "RSA"},
		"no digest":                     {func() { s.caps = "AES\nPOSTPKIOperation" }, nil, "SHA"},
		"lines that end in CR LF":       {func() { s.caps = "SHA-256\r\nAES\r\n" }, nil, "SHA"},
		"SCEPStandard alone":            {func() { s.caps = "SCEPStandard" }, nil, "SHA"},
		"no cipher":                     {func() { s.caps = "SHA-256" }, nil, "AES"},
		"another fingerprint":           {func() {}, make([]byte, 20), "CAFingerprint"},
		"a fingerprint of no digest":    {func() {}, make([]byte, 7), "no digest"},
		"another fingerprint, of MD5's": {func() {}, make([]byte, 16), "CAFingerprint"},
	} {
		t.Run(name, func(t *testing.T) {
			ca, caps, caType := s.ca, s.caps, s.caType
			defer func() { s.ca, s.caps, s.caType = ca, caps, caType }()
			tt.change()
			c := s.client(t)
			c.Fingerprint = tt.fingerprint
			if err := c.Discover(t.Context()); (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Discover = %v, want an error with %q", err, tt.want)
			}
		})
	}
}

func TestARefusalAndAPendingRequest(t *testing.T) {
	s := newServer(t)
	c := s.discovered(t)
	send := func() error {
		r, err := c.Request(rsaKey(t), Subject{{{"CN", "x"}}}, "secret", nil)
		if err != nil {
			t.Fatal(err)
		}
		_, err = c.Send(t.Context(), r)
		return err
	}
	s.rep = func(r *certRep) { r.status, r.failInfo = "2", "2" }
	var failure *SCEPFailure
	if err := send(); !errors.As(err, &failure) || failure.FailInfo != "2" {
		t.Errorf("Send = %v, want failInfo 2", err)
	}
	s.takeEvents()
	s.rep = func(r *certRep) { r.status = "3" }
	if err := send(); !errors.Is(err, ErrSCEPPending) {
		t.Errorf("Send = %v, want pending", err)
	}
	wantEvents(t, s.takeEvents(), "POST PKIOperation", "POST PKIOperation", "GetCertInitial",
		"POST PKIOperation", "GetCertInitial", "POST PKIOperation", "GetCertInitial")
}

func TestTheIdenticalRequestCanBeSentAgain(t *testing.T) {
	s := newServer(t)
	c := s.discovered(t)
	r, err := c.Request(rsaKey(t), Subject{{{"CN", "x"}}}, "secret", nil)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := c.Send(t.Context(), r); err != nil {
			t.Error(err)
		}
	}
	if len(r.TransactionID) != 40 || strings.ToUpper(r.TransactionID) != r.TransactionID {
		t.Errorf("TransactionID = %q, want an upper-case SHA-1", r.TransactionID)
	}
}

func TestGETForms(t *testing.T) {
	s := newServer(t)
	t.Run("without POSTPKIOperation", func(t *testing.T) {
		caps := s.caps
		defer func() { s.caps = caps }()
		s.caps = "SHA-256\nAES\n"
		c := s.discovered(t)
		r, err := c.Request(rsaKey(t), Subject{{{"CN", "x"}}}, "secret", nil)
		if err != nil {
			t.Fatal(err)
		}
		s.takeEvents()
		if _, err := c.Send(t.Context(), r); err != nil {
			t.Error(err)
		}
		wantEvents(t, s.takeEvents(), "GET PKIOperation")
	})
	for name, form := range map[string]GETForm{"half escaped": GETHalfEscaped, "escaped": GETEscaped, "URL-safe": GETURLSafe} {
		t.Run(name, func(t *testing.T) {
			c := s.discovered(t)
			r, err := c.Request(rsaKey(t), Subject{{{"CN", "x"}}}, "secret", nil, ByGET(form))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := c.Send(t.Context(), r); err != nil {
				t.Error(err)
			}
		})
	}
}

// What tests of the server ask for, read by the standard library and openssl.
func TestHostileRequestsAreWhatTheySay(t *testing.T) {
	s := newServer(t)
	c := s.discovered(t)
	key, small := rsaKey(t), rsaOfSize(t, 1024)
	elliptic := ecKey(t)
	old := certificateFor(t, key, "old identity", s.ca, s.key)
	for name, tt := range map[string]struct {
		key   crypto.Signer
		opt   SCEPOption
		check func(t *testing.T, outer signedData, signer *x509.Certificate, r *SCEPRequest) bool
	}{
		"a small key": {small, func(*scepDraft) {}, func(t *testing.T, _ signedData, signer *x509.Certificate, r *SCEPRequest) bool {
			return request(t, r).PublicKey.(*rsa.PublicKey).N.BitLen() == 1024
		}},
		"an EC signer": {key, WithSignerKey(elliptic), func(t *testing.T, _ signedData, signer *x509.Certificate, _ *SCEPRequest) bool {
			return elliptic.PublicKey.Equal(signer.PublicKey)
		}},
		"the old identity as signer": {rsaKey(t), WithSigner(old, key), func(t *testing.T, _ signedData, signer *x509.Certificate, _ *SCEPRequest) bool {
			return signer.Equal(old)
		}},
		"a RenewalReq": {key, WithMessageType("17"), func(t *testing.T, outer signedData, _ *x509.Certificate, _ *SCEPRequest) bool {
			el, err := outer.signers[0].one(oidMessageType, "messageType")
			return err == nil && string(el.content) == "17"
		}},
		"another public key": {key, WithPublicKey(s.key.Public()), func(t *testing.T, _ signedData, _ *x509.Certificate, r *SCEPRequest) bool {
			return s.key.PublicKey.Equal(request(t, r).PublicKey)
		}},
		"two challenges": {key, WithChallenge("a", "b"), func(t *testing.T, _ signedData, _ *x509.Certificate, r *SCEPRequest) bool {
			return bytes.Count(r.CSR, oid(oidChallenge)) == 2
		}},
		"no challenge": {key, WithChallenge(), func(t *testing.T, _ signedData, _ *x509.Certificate, r *SCEPRequest) bool {
			return bytes.Count(r.CSR, oid(oidChallenge)) == 0
		}},
		"a BMPString": {key, WithRawChallenge(der(0x1E, []byte{0, 'a'})), func(t *testing.T, _ signedData, _ *x509.Certificate, r *SCEPRequest) bool {
			return bytes.Contains(r.CSR, []byte{0x1E, 2, 0, 'a'})
		}},
		"more certificates": {key, WithCertificates(old), func(t *testing.T, outer signedData, _ *x509.Certificate, _ *SCEPRequest) bool {
			return len(outer.certificates) == 2
		}},
		"another transaction": {key, WithTransactionID("mine"), func(t *testing.T, _ signedData, _ *x509.Certificate, r *SCEPRequest) bool {
			return r.TransactionID == "mine"
		}},
		"content of one's own": {key, WithContent([]byte("x")), func(t *testing.T, outer signedData, _ *x509.Certificate, _ *SCEPRequest) bool {
			got, err := openEnvelope(outer.content, s.ca, s.key, false)
			return err == nil && string(got) == "x"
		}},
		"another subject": {key, WithSubject(Subject{{{"CN", "boss"}}, {{"1.2.3.4", "x"}}}), func(t *testing.T, _ signedData, _ *x509.Certificate, r *SCEPRequest) bool {
			return request(t, r).Subject.CommonName == "boss"
		}},
		"CA:TRUE": {key, WithExtensions(pkix.Extension{Id: []int{2, 5, 29, 19}, Critical: true, Value: der(tagSequence, []byte{1, 1, 0xFF})}), func(t *testing.T, _ signedData, _ *x509.Certificate, r *SCEPRequest) bool {
			list := request(t, r).Extensions
			return len(list) == 1 && list[0].Id.String() == "2.5.29.19" && list[0].Critical
		}},
		"an attribute of a megabyte": {key, WithAttribute(attributeDER("1.2.3", der(tagOctets, make([]byte, 1<<20)))), func(t *testing.T, _ signedData, _ *x509.Certificate, r *SCEPRequest) bool {
			return len(request(t, r).Raw) > 1<<20
		}},
		"another recipient": {key, WithRecipient(old), func(t *testing.T, outer signedData, _ *x509.Certificate, r *SCEPRequest) bool {
			_, err := openEnvelope(outer.content, old, key, false)
			return err == nil
		}},
		"triple DES": {key, WithTripleDES(), func(t *testing.T, outer signedData, _ *x509.Certificate, r *SCEPRequest) bool {
			return bytes.Contains(outer.content, oid(oidDES3))
		}},
		"AES-256": {key, WithAES256(), func(t *testing.T, outer signedData, _ *x509.Certificate, r *SCEPRequest) bool {
			return bytes.Contains(outer.content, oid(oidAES256))
		}},
		"SHA-1": {key, WithDigest(crypto.SHA1), func(t *testing.T, outer signedData, _ *x509.Certificate, r *SCEPRequest) bool {
			return outer.signers[0].digest.hash == crypto.SHA1 && request(t, r).SignatureAlgorithm == x509.SHA1WithRSA
		}},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := c.Request(tt.key, Subject{{{"CN", "x"}}}, "secret", nil, tt.opt)
			if err != nil {
				t.Fatal(err)
			}
			outer, err := parseSignedData(r.Raw)
			if err != nil {
				t.Fatal(err)
			}
			_, signer, err := outer.verify(outer.content)
			if err != nil {
				t.Fatal(err)
			}
			if !tt.check(t, outer, signer, r) {
				t.Error("the request is not what the option says")
			}
		})
	}
	t.Run("a broken signature", func(t *testing.T) {
		r, err := c.Request(key, Subject{{{"CN", "x"}}}, "secret", nil, WithBrokenSignature())
		if err != nil {
			t.Fatal(err)
		}
		csr := request(t, r)
		sum := sha256.Sum256(csr.RawTBSCertificateRequest)
		if rsa.VerifyPKCS1v15(&key.PublicKey, crypto.SHA256, sum[:], csr.Signature) == nil {
			t.Error("the signature is good")
		}
	})
}

func TestAnyBytesCanBeSentToSCEP(t *testing.T) {
	s := newServer(t)
	c := s.client(t)
	c.HTTP = &http.Client{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
		body, err := io.ReadAll(r.Body)
		if err != nil || string(body) != "rubbish" || r.Header.Get("Content-Type") != "application/x-pki-message" {
			t.Errorf("body %q, %v, Content-Type %q", body, err, r.Header.Get("Content-Type"))
		}
		return &http.Response{StatusCode: 400, Body: io.NopCloser(strings.NewReader("no")), Request: r}, nil
	})}
	var refused *HTTPError
	if _, _, err := c.Operate(t.Context(), []byte("rubbish"), POST); !errors.As(err, &refused) || refused.Status != 400 {
		t.Errorf("Operate = %v, want 400", err)
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func request(t *testing.T, r *SCEPRequest) *x509.CertificateRequest {
	t.Helper()
	csr, err := x509.ParseCertificateRequest(r.CSR)
	if err != nil {
		t.Fatal(err)
	}
	return csr
}

func rsaOfSize(t *testing.T, bits int) *rsa.PrivateKey {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func TestFingerprintOfEachDigest(t *testing.T) {
	data := []byte("certificate")
	for _, h := range []crypto.Hash{crypto.MD5, crypto.SHA1, crypto.SHA224, crypto.SHA256, crypto.SHA384, crypto.SHA512} {
		sum := h.New()
		sum.Write(data)
		if err := checkFingerprint(data, sum.Sum(nil)); err != nil {
			t.Errorf("%v: %v", h, err)
		}
		wrong := new(big.Int).Add(new(big.Int).SetBytes(sum.Sum(nil)), big.NewInt(1)).FillBytes(make([]byte, h.Size()))
		if checkFingerprint(data, wrong) == nil {
			t.Errorf("%v: a wrong fingerprint passes", h)
		}
	}
}
