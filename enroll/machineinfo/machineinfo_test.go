package machineinfo_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/enroll/machineinfo"
	"github.com/gatehouse-mdm/gatehouse/mdm/mdmtest"
	"github.com/gatehouse-mdm/gatehouse/storage/guard"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// builtin returns a device's own identity and the test's authority of such.
func builtin(t testing.TB) (*mdmtest.BuiltIn, *x509.Certificate) {
	t.Helper()
	ca, err := mdmtest.NewDeviceCA()
	if err != nil {
		t.Fatal(err)
	}
	identity, err := ca.Issue("00008140-000000000000001C")
	if err != nil {
		t.Fatal(err)
	}
	return identity, ca.Certificate
}

// statement is what a device states.
func statement() mdmtest.Dict {
	return mdmtest.Dict{
		"UDID": "00008140-000000000000001C", "SERIAL": "C02SERIAL001", "PRODUCT": "iPhone17,2", "VERSION": "23A300", "OS_VERSION": "26.0",
		"LANGUAGE": "de", "DEVICE_NAME": "Ana’s iPhone", "IMEI": "35 000000 000000 0", "CHALLENGE": "one-time",
		"MDM_CAN_REQUEST_SOFTWARE_UPDATE": true, "SOFTWARE_UPDATE_DEVICE_ID": "J617AP",
	}
}

func signed(t testing.TB, s mdmtest.Signature, content any) []byte {
	t.Helper()
	raw, ok := content.([]byte)
	if !ok {
		var err error
		if raw, err = mdmtest.MarshalPlist(content); err != nil {
			t.Fatal(err)
		}
	}
	cms, err := s.Sign(raw)
	if err != nil {
		t.Fatal(err)
	}
	return cms
}

func TestStatementsOfDevices(t *testing.T) {
	storagetest.AnyEngine(t)
	identity, ca := builtin(t)
	base := mdmtest.Signature{Certificate: identity.Certificate, Key: identity.Key}
	for name, change := range map[string]func(*mdmtest.Signature){
		"as Apple's encoder writes it": func(*mdmtest.Signature) {},
		"in DER":                       func(s *mdmtest.Signature) { s.Encoding = mdmtest.DER },
		"by SHA-1":                     func(s *mdmtest.Signature) { s.Digest = crypto.SHA1 },
		"by SHA-384":                   func(s *mdmtest.Signature) { s.Digest = crypto.SHA384 },
		"by SHA-512":                   func(s *mdmtest.Signature) { s.Digest = crypto.SHA512 },
		"without signed attributes":    func(s *mdmtest.Signature) { s.NoAttributes = true },
		"SHA-1 without attributes":     func(s *mdmtest.Signature) { s.NoAttributes, s.Digest = true, crypto.SHA1 },
		"with a signing time":          func(s *mdmtest.Signature) { s.SigningTime = time.Now() },
		"with the authority beside":    func(s *mdmtest.Signature) { s.Also = []*x509.Certificate{ca} },
	} {
		t.Run(name, func(t *testing.T) {
			s := base
			change(&s)
			m, err := machineinfo.Parse(signed(t, s, statement()))
			if err != nil {
				t.Fatal(err)
			}
			want := machineinfo.Info{
				UDID: "00008140-000000000000001C", SerialNumber: "C02SERIAL001", Product: "iPhone17,2", Build: "23A300", OSVersion: "26.0",
				Language: "de", DeviceName: "Ana’s iPhone", IMEI: "35 000000 000000 0", Challenge: "one-time",
				CanRequestSoftwareUpdate: true, SoftwareUpdateDeviceID: "J617AP",
			}
			if m.Info != want {
				t.Errorf("Info = %+v, want %+v", m.Info, want)
			}
			if !m.Signer.Equal(identity.Certificate) || m.SignedAt.IsZero() != s.SigningTime.IsZero() {
				t.Errorf("signed by %v at %v", m.Signer.Subject, m.SignedAt)
			}
		})
	}
	if m, err := machineinfo.Parse(signed(t, base, mdmtest.Dict{"CHALLENGE": []byte("one-time")})); err != nil || m.Challenge != "one-time" {
		t.Errorf("a challenge as data: %q, %v", m.Challenge, err)
	}
}

func TestWhatIsNoStatement(t *testing.T) {
	storagetest.AnyEngine(t)
	identity, _ := builtin(t)
	sign := mdmtest.Signature{Certificate: identity.Certificate, Key: identity.Key, Encoding: mdmtest.DER}
	plain, err := mdmtest.MarshalPlist(statement())
	if err != nil {
		t.Fatal(err)
	}
	good := signed(t, sign, statement())
	other, _ := builtin(t)
	with := func(change func(*mdmtest.Signature)) mdmtest.Signature {
		s := sign
		change(&s)
		return s
	}
	for name, tt := range map[string]struct {
		body []byte
		want error
	}{
		"nothing":                     {nil, guard.ErrCMS},
		"a plist without signature":   {plain, guard.ErrCMS},
		"no signer":                   {signed(t, with(func(s *mdmtest.Signature) { s.Signers = -1 }), statement()), guard.ErrCMS},
		"two signers":                 {signed(t, with(func(s *mdmtest.Signature) { s.Signers = 2 }), statement()), guard.ErrCMS},
		"another's certificate":       {signed(t, with(func(s *mdmtest.Signature) { s.Certificate = other.Certificate }), statement()), guard.ErrSignature},
		"tampered attributes":         {bytes.Replace(good, []byte("C02SERIAL001"), []byte("C02SERIAL002"), 1), guard.ErrSignature},
		"a detached signature":        {signed(t, with(func(s *mdmtest.Signature) { s.Detached = true }), statement()), guard.ErrCMS},
		"a binary plist":              {signed(t, sign, []byte("bplist00\xd1\x01\x02")), guard.ErrBinaryPlist},
		"no plist":                    {signed(t, sign, []byte("UDID=1")), guard.ErrPlist},
		"a plist that is an array":    {signed(t, sign, []byte(`<plist version="1.0"><array/></plist>`)), guard.ErrPlist},
		"a UDID that is a number":     {signed(t, sign, mdmtest.Dict{"UDID": 7}), guard.ErrPlist},
		"a challenge that is a list":  {signed(t, sign, mdmtest.Dict{"CHALLENGE": []string{"a"}}), machineinfo.ErrMessage},
		"a UDID of a thousand bytes":  {signed(t, sign, mdmtest.Dict{"UDID": strings.Repeat("x", 1000)}), machineinfo.ErrMessage},
		"a thousand keys":             {signed(t, sign, manyKeys(1000)), guard.ErrTooLarge},
		"more than is read":           {signed(t, sign, mdmtest.Dict{"UDID": strings.Repeat("x", machineinfo.MaxSize)}), guard.ErrTooLarge},
		"something after the message": {append(bytes.Clone(good), 0), guard.ErrCMS},
		"a message cut short":         {good[:len(good)/2], guard.ErrCMS},
	} {
		t.Run(name, func(t *testing.T) {
			m, err := machineinfo.Parse(tt.body)
			if !errors.Is(err, machineinfo.ErrMessage) || !errors.Is(err, tt.want) {
				t.Errorf("Parse = %+v, %v; want %v", m.Info, err, tt.want)
			}
			if err != nil && strings.Contains(err.Error(), "C02SERIAL") {
				t.Errorf("the error repeats the message: %v", err)
			}
		})
	}
}

func manyKeys(n int) mdmtest.Dict {
	d := mdmtest.Dict{}
	for i := range n {
		d["K"+hex.EncodeToString(big.NewInt(int64(i+1)).Bytes())] = "x"
	}
	return d
}

// TestWhoIsVouchedFor has the same name over and over: only the key counts.
func TestWhoIsVouchedFor(t *testing.T) {
	storagetest.AnyEngine(t)
	identity, ca := builtin(t)
	stranger, strangerCA := builtin(t)
	pinned := machineinfo.Pin(ca)
	if err := pinned.Vouch(identity.Certificate); err != nil {
		t.Errorf("an identity by the pinned authority: %v", err)
	}
	if time.Now().Before(ca.NotAfter) || ca.PublicKey.(*rsa.PublicKey).N.BitLen() != 1024 {
		t.Errorf("the test's authority is not like Apple's: %v, %d bits", ca.NotAfter, ca.PublicKey.(*rsa.PublicKey).N.BitLen())
	}
	if stranger.Certificate.Issuer.String() != identity.Certificate.Issuer.String() {
		t.Errorf("issuers are %v and %v, want the same name", stranger.Certificate.Issuer, identity.Certificate.Issuer)
	}
	for name, cert := range map[string]*x509.Certificate{
		"another authority of the same name": stranger.Certificate,
		"another authority itself":           strangerCA,
		"itself":                             selfSigned(t),
	} {
		if err := pinned.Vouch(cert); !errors.Is(err, machineinfo.ErrNotApple) {
			t.Errorf("%s: %v, want ErrNotApple", name, err)
		}
	}
	if err := machineinfo.Pin(strangerCA, ca).Vouch(identity.Certificate); err != nil {
		t.Errorf("one of two authorities: %v", err)
	}
	if err := (machineinfo.Authorities{}).Vouch(identity.Certificate); !errors.Is(err, machineinfo.ErrNotApple) {
		t.Errorf("no authorities: %v, want ErrNotApple", err)
	}
	for name, algorithm := range map[string]x509.SignatureAlgorithm{"SHA-256": x509.SHA256WithRSA, "SHA-384": x509.SHA384WithRSA} {
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			t.Fatal(err)
		}
		template := &x509.Certificate{SerialNumber: big.NewInt(1), SignatureAlgorithm: algorithm}
		der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
		if err != nil {
			t.Fatal(err)
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		if err := machineinfo.Pin(cert).Vouch(cert); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func selfSigned(t testing.TB) *x509.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Apple iPhone Device CA"}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// TestAppleIsPinned follows what is built in up to the root that everybody knows.
func TestAppleIsPinned(t *testing.T) {
	storagetest.AnyEngine(t)
	read := func(name string) *x509.Certificate {
		raw, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		block, _ := pem.Decode(raw)
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		return cert
	}
	root, middle, device := read("testdata/apple-root-ca.pem"), read("testdata/apple-iphone-certification-authority.pem"), read("apple-iphone-device-ca.pem")
	// As Apple publishes it at https://www.apple.com/certificateauthority/.
	const rootFingerprint = "b0b1730ecbc7ff4505142c49f1295e6eda6bcaed7e2c68c5be91b5a11001f024"
	if sum := sha256.Sum256(root.Raw); hex.EncodeToString(sum[:]) != rootFingerprint {
		t.Fatalf("the root is %x", sum)
	}
	for _, link := range []struct{ cert, issuer *x509.Certificate }{{root, root}, {middle, root}, {device, middle}} {
		if err := guard.CheckIssuedByKey(link.cert, link.issuer.PublicKey); err != nil {
			t.Errorf("%s by %s: %v", link.cert.Subject.CommonName, link.issuer.Subject.CommonName, err)
		}
	}
	apple, err := machineinfo.Apple()
	if err != nil {
		t.Fatal(err)
	}
	// Neither the root nor what is between: their other certificates are not devices'.
	for _, cert := range []*x509.Certificate{root, middle, device} {
		if err := apple.Vouch(cert); !errors.Is(err, machineinfo.ErrNotApple) {
			t.Errorf("%s: %v, want ErrNotApple", cert.Subject.CommonName, err)
		}
	}
	identity, _ := builtin(t)
	if err := apple.Vouch(identity.Certificate); !errors.Is(err, machineinfo.ErrNotApple) {
		t.Errorf("a test's identity: %v, want ErrNotApple", err)
	}
}

func FuzzParse(f *testing.F) {
	identity, _ := builtin(f)
	for _, e := range []mdmtest.Encoding{mdmtest.BER, mdmtest.DER} {
		f.Add(signed(f, mdmtest.Signature{Certificate: identity.Certificate, Key: identity.Key, Encoding: e}, statement()))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		if m, err := machineinfo.Parse(body); err == nil && m.Signer == nil {
			t.Error("a statement by nobody")
		}
	})
}
