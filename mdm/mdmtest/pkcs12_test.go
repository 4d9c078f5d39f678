package mdmtest

import (
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// pkcs12File has openssl make a PKCS #12 file of a key, its certificate and the
// issuer's.
func pkcs12File(t *testing.T, key any, cert, issuer *x509.Certificate, password string, args ...string) []byte {
	t.Helper()
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	block := func(kind string, raw []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: raw}) }
	out := filepath.Join(t.TempDir(), "out.p12")
	opensslOutput(t, append([]string{"pkcs12", "-export", "-passout", "pass:" + password, "-out", out,
		"-inkey", writeFile(t, "key.pem", block("PRIVATE KEY", raw)),
		"-in", writeFile(t, "cert.pem", block("CERTIFICATE", cert.Raw)),
		"-certfile", writeFile(t, "issuer.pem", block("CERTIFICATE", issuer.Raw))}, args...)...)
	data, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestPKCS12OfOpenSSLIsRead(t *testing.T) {
	rootKey, key, elliptic := rsaKey(t), rsaKey(t), ecKey(t)
	root := certificateFor(t, rootKey, "root", nil, nil)
	cert := certificateFor(t, key, "ana", root, rootKey)
	ofEC := certificateFor(t, elliptic, "eva", root, rootKey)
	for name, args := range map[string][]string{
		"as openssl makes it":     nil,
		"as Apple's tools do":     {"-keypbe", "PBE-SHA1-3DES", "-certpbe", "PBE-SHA1-3DES", "-macalg", "sha1"},
		"with bare certificates":  {"-certpbe", "NONE"},
		"with a bare key":         {"-keypbe", "NONE"},
		"with AES-128":            {"-keypbe", "AES-128-CBC", "-certpbe", "AES-128-CBC", "-macalg", "sha512"},
		"with a single iteration": {"-noiter", "-nomaciter"},
	} {
		t.Run(name, func(t *testing.T) {
			const password = "Straße"
			got, gotCert, others, err := openPKCS12(pkcs12File(t, key, cert, root, password, args...), password)
			if err != nil {
				t.Fatal(err)
			}
			if !key.Equal(got) || !gotCert.Equal(cert) || len(others) != 1 || !others[0].Equal(root) {
				t.Errorf("read %v with %d others, want ana with the root", gotCert.Subject, len(others))
			}
			got, gotCert, _, err = openPKCS12(pkcs12File(t, elliptic, ofEC, root, "", args...), "")
			if err != nil || !elliptic.Equal(got) || !gotCert.Equal(ofEC) {
				t.Errorf("with an EC key and no password: %v", err)
			}
		})
	}
	for name, tt := range map[string]struct {
		data     []byte
		password string
		want     string
	}{
		"a wrong password": {pkcs12File(t, key, cert, root, "right"), "wrong", "password"},
		"no MAC":           {pkcs12File(t, key, cert, root, "right", "-nomac"), "right", "MAC"},
		"no key":           {pkcs12File(t, key, cert, root, "right", "-nokeys"), "right", "0 private keys"},
		"another's key":    {pkcs12File(t, key, cert, root, "right", "-nocerts"), "right", "no certificate"},
		"nothing":          {nil, "", "unexpected end"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, _, _, err := openPKCS12(tt.data, tt.password); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("openPKCS12 = %v, want an error with %q", err, tt.want)
			}
		})
	}
}

func TestAProfileBringsAPKCS12(t *testing.T) {
	s := newServer(t)
	d := s.enrolled(Options{})
	rootKey, key := rsaKey(t), rsaKey(t)
	root := certificateFor(t, rootKey, "root", nil, nil)
	cert := certificateFor(t, key, "ana", root, rootKey)
	payload := Dict{
		"PayloadType": "com.apple.security.pkcs12", "PayloadVersion": 1, "PayloadIdentifier": "mail.1", "PayloadUUID": s.uuid(),
		"PayloadContent": pkcs12File(t, key, cert, root, "secret"), "Password": "secret",
	}
	s.takeEvents()
	wantStatus(t, s.install(t, d.Channel(), s.configuration(payload)), StatusAcknowledged)
	if events := s.takeEvents(); len(events) != 2 {
		t.Errorf("the server saw %q, want a poll and a result", events)
	}
	got := d.Credential("mail.1")
	if got == nil || !got.Certificate.Equal(cert) || !key.PublicKey.Equal(got.Key.Public().(*rsa.PublicKey)) || !got.Extractable {
		t.Fatalf("credential = %+v", got)
	}
	if len(got.Chain) != 1 || !got.Chain[0].Equal(root) {
		t.Errorf("chain = %v, want the root that was in the file", got.Chain)
	}
	list := s.ask(t, d.Channel(), "CertificateList", nil)
	if !inKeychain(list, cert, true) || !inKeychain(list, root, false) {
		t.Errorf("CertificateList = %v", list)
	}
	if _, err := d.RenewCredential(t.Context(), got); err == nil {
		t.Error("what came without SCEP was renewed by SCEP")
	}
	payload["Password"] = "wrong"
	wantStatus(t, s.install(t, d.Channel(), s.configuration(payload)), StatusError)
	if d.Credential("mail.1") == nil {
		t.Error("the old credential went although the new one failed")
	}
}

func FuzzOpenPKCS12(f *testing.F) {
	f.Add([]byte{0x30, 0x80}, "")
	f.Fuzz(func(t *testing.T, data []byte, password string) {
		key, cert, _, err := openPKCS12(data, password)
		if err == nil && (key == nil || cert == nil) {
			t.Error("no error, and no identity")
		}
	})
}
