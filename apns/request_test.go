package apns_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/apns"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/guard"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// vendorChain is a vendor's certificate (of key 1) and those above it, as Apple has them.
func vendorChain(t testing.TB) (vendor, intermediate, root *x509.Certificate) {
	t.Helper()
	root = made{name: "Apple Root CA", org: "Apple Inc.", ca: true, key: 2}.make(t)
	intermediate = made{name: "Apple Worldwide Developer Relations Certification Authority", org: "Apple Inc.", ca: true, key: 3, issuer: root, issuerKey: 2}.make(t)
	vendor = made{name: "MDM Vendor: Example", key: 1, issuer: intermediate, issuerKey: 3}.make(t)
	return vendor, intermediate, root
}

func TestARequestBecomesACertificateWithoutItsKeyLeaving(t *testing.T) {
	d := newDesk(t, nil)
	r, err := d.Request(t.Context(), apns.NewRequest{Way: apns.BySomebody, AppleAccount: "it@example.com", CommonName: "mdm.example.com", Organization: "Example & Söhne", Country: "de"})
	if err != nil {
		t.Fatal(err)
	}
	csr, err := guard.ParseCSR(r.CSR, 0)
	if err != nil || guard.CheckCSR(csr) != nil || csr.SignatureAlgorithm != x509.SHA256WithRSA || csr.PublicKey.(*rsa.PublicKey).N.BitLen() != 2048 {
		t.Fatalf("the request is %+v, %v", csr, err)
	}
	if s := csr.Subject; s.CommonName != "mdm.example.com" || s.Organization[0] != "Example & Söhne" || s.Country[0] != "DE" || r.State != apns.Open {
		t.Errorf("its subject is %s, its state %s", s, r.State)
	}
	d.now = d.now.Add(time.Minute)
	other, err := d.Request(t.Context(), apns.NewRequest{Way: apns.BySomebody})
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(r.SealedKey, []byte("RSA")) || bytes.Equal(other.CSR, r.CSR) {
		t.Error("two requests have one key, or it is not sealed")
	}

	// Apple makes a certificate of the first; the second stays open.
	d.now = d.now.Add(time.Minute)
	cert := made{topic: topic, public: csr.PublicKey, issuerKey: 2}.make(t)
	s, err := d.Upload(t.Context(), apns.Upload{File: apns.File{Data: asPEM(cert)}})
	if err != nil || s.AppleAccount != "it@example.com" {
		t.Fatalf("Upload = %+v, %v", s, err)
	}
	err = d.db.View(t.Context(), func(tx storage.Tx) error {
		pair, _, err := d.certs.TLS(tx, topic)
		if err == nil && !pair.PrivateKey.(*rsa.PrivateKey).PublicKey.Equal(csr.PublicKey) {
			t.Error("the key is not that of the request")
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	all, err := d.Requests(t.Context())
	if err != nil || len(all) != 2 || all[0].ID != other.ID || all[0].State != apns.Open || all[1].State != apns.Fulfilled || all[1].Topic != topic {
		t.Errorf("Requests = %+v, %v", all, err)
	}

	// The certificate keeps its key when the request is gone.
	if err := d.DeleteRequest(t.Context(), r.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := d.RequestByID(t.Context(), r.ID); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("RequestByID = %v", err)
	}
	d.now = d.now.Add(time.Minute)
	if _, err := d.Upload(t.Context(), apns.Upload{File: apns.File{Data: asPEM(cert)}}); err != nil {
		t.Errorf("the same certificate once more: %v", err)
	}

	// A request to renew is known to be one, and another topic that came of it is warned of.
	renewal, err := d.Request(t.Context(), apns.NewRequest{Way: apns.BySomebody, Renews: topic})
	if err != nil || renewal.AppleAccount != "it@example.com" {
		t.Fatalf("Request = %+v, %v", renewal, err)
	}
	d.now = d.now.Add(time.Minute)
	wrong := made{topic: otherTopic, public: mustCSR(t, renewal).PublicKey, issuerKey: 2}.make(t)
	if s, err := d.Upload(t.Context(), apns.Upload{File: apns.File{Data: asPEM(wrong)}}); err != nil || !strings.Contains(strings.Join(s.Warnings, " "), "press Renew at the certificate") {
		t.Errorf("Upload = %+v, %v", s, err)
	}
}

func mustCSR(t testing.TB, r apns.Request) *x509.CertificateRequest {
	t.Helper()
	csr, err := guard.ParseCSR(r.CSR, 0)
	if err != nil {
		t.Fatal(err)
	}
	return csr
}

func TestRequestsThatNobodyCanMeanAreRefused(t *testing.T) {
	storagetest.AnyEngine(t)
	d := newDesk(t, nil)
	for name, tt := range map[string]struct {
		n     apns.NewRequest
		field string
	}{
		"no way":                         {apns.NewRequest{}, "kind"},
		"another way":                    {apns.NewRequest{Way: "apple"}, "kind"},
		"a country of three":             {apns.NewRequest{Way: apns.BySomebody, Country: "GER"}, "country"},
		"a country of digits":            {apns.NewRequest{Way: apns.BySomebody, Country: "49"}, "country"},
		"a long name":                    {apns.NewRequest{Way: apns.BySomebody, CommonName: strings.Repeat("x", 65)}, "common_name"},
		"a name of two lines":            {apns.NewRequest{Way: apns.BySomebody, Organization: "a\nb"}, "organization"},
		"a topic that is not there":      {apns.NewRequest{Way: apns.BySomebody, Renews: topic}, "renews"},
		"mdmcert without an address":     {apns.NewRequest{Way: apns.ByMdmcert, APIKey: "x"}, "email"},
		"mdmcert without its key":        {apns.NewRequest{Way: apns.ByMdmcert, Email: "it@example.com"}, "api_key"},
		"an address for somebody else":   {apns.NewRequest{Way: apns.BySomebody, Email: "it@example.com"}, "email"},
		"an API key for somebody else":   {apns.NewRequest{Way: apns.ByVendor, APIKey: "x"}, "api_key"},
		"an account that has no end":     {apns.NewRequest{Way: apns.BySomebody, AppleAccount: strings.Repeat("x", 255)}, "apple_account"},
		"an account of several lines":    {apns.NewRequest{Way: apns.BySomebody, AppleAccount: "a\x00b"}, "apple_account"},
		"an organisation without an end": {apns.NewRequest{Way: apns.BySomebody, Organization: strings.Repeat("x", 65)}, "organization"},
	} {
		t.Run(name, func(t *testing.T) {
			var f *apns.FieldError
			if _, err := d.Request(t.Context(), tt.n); !errors.As(err, &f) || f.Field != tt.field {
				t.Errorf("Request = %v, want one of %s", err, tt.field)
			}
		})
	}
	for i := 0; ; i++ {
		_, err := d.Request(t.Context(), apns.NewRequest{Way: apns.BySomebody})
		if errors.Is(err, apns.ErrTooManyRequests) && i > 10 {
			break
		}
		if err != nil || i > 100 {
			t.Fatalf("the %d. request: %v", i+1, err)
		}
		d.now = d.now.Add(time.Second)
	}
}

func TestAVendorSignsWhatAppleTakes(t *testing.T) {
	storagetest.AnyEngine(t)
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("no openssl to verify with")
		}
		t.Skip("no openssl to verify with")
	}
	d := newDesk(t, nil)
	vendor, intermediate, root := vendorChain(t)
	key := keyPEM(keys()[1])

	var m *apns.Mistake
	if _, err := d.Request(t.Context(), apns.NewRequest{Way: apns.ByVendor}); !errors.As(err, &m) || m.Kind != apns.NoVendor {
		t.Errorf("without a vendor: %v", err)
	}
	push := made{topic: topic, key: 1}.make(t)
	for name, tt := range map[string]struct {
		data []byte
		want apns.Kind
	}{
		"a push certificate":         {join(asPEM(push), key), apns.NotVendor},
		"an authority":               {join(asPEM(made{name: "x", ca: true, key: 1}.make(t)), key), apns.NotVendor},
		"no key":                     {asPEM(vendor, intermediate, root), apns.NoKey},
		"another key":                {join(asPEM(vendor, intermediate, root), keyPEM(keys()[0])), apns.KeyMismatch},
		"no intermediate":            {join(asPEM(vendor, root), key), apns.ChainMissing},
		"no root":                    {join(asPEM(vendor, intermediate), key), apns.ChainMissing},
		"an expired one":             {join(asPEM(made{name: "MDM Vendor: Old", key: 1, to: wall.Add(-time.Hour)}.make(t)), key), apns.VendorExpired},
		"nothing":                    {nil, apns.Empty},
		"the request for a vendor's": {[]byte("-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n"), apns.IsRequest},
	} {
		if _, err := d.PutVendor(t.Context(), apns.File{Data: tt.data}); !errors.As(err, &m) || m.Kind != tt.want {
			t.Errorf("%s: PutVendor = %v, want %s", name, err, tt.want)
		}
	}
	// In any order, and with one that has nothing to do with it.
	v, err := d.PutVendor(t.Context(), apns.File{Data: join(asPEM(root, made{name: "other", ca: true}.make(t)), key, asPEM(vendor, intermediate))})
	if err != nil || len(v.Chain) != 3 || !v.Chain[0].Equal(vendor) || !v.Chain[1].Equal(intermediate) || !v.Chain[2].Equal(root) || len(v.Warnings) > 0 {
		t.Fatalf("PutVendor = %+v, %v", v, err)
	}
	d.now = d.now.Add(time.Minute)
	r, err := d.Request(t.Context(), apns.NewRequest{Way: apns.ByVendor})
	if err != nil || r.State != apns.Signed {
		t.Fatalf("Request = %+v, %v", r, err)
	}

	plist, err := base64.StdEncoding.DecodeString(string(r.File))
	if err != nil {
		t.Fatal(err)
	}
	var file map[string]string
	if err := guard.DecodePlist(plist, &file, guard.PlistLimits{}); err != nil || len(file) != 3 {
		t.Fatalf("the property list has %d keys, %v", len(file), err)
	}
	csr, err := base64.StdEncoding.DecodeString(file["PushCertRequestCSR"])
	if err != nil || !bytes.Equal(csr, r.CSR) {
		t.Errorf("its CSR is another, or %v", err)
	}
	signature, err := base64.StdEncoding.DecodeString(file["PushCertSignature"])
	if err != nil {
		t.Error(err)
	}
	sum := sha256.Sum256(csr)
	if err := rsa.VerifyPKCS1v15(vendor.PublicKey.(*rsa.PublicKey), crypto.SHA256, sum[:], signature); err != nil {
		t.Error(err)
	}
	chain := file["PushCertCertificateChain"]
	if chain != string(asPEM(vendor, intermediate, root)) {
		t.Errorf("the chain is\n%s", chain)
	}
	for line := range strings.Lines(chain) {
		if len(strings.TrimRight(line, "\n")) > 64 {
			t.Errorf("a line of %d characters: %q", len(line), line)
		}
	}

	// OpenSSL thinks so, too.
	dir := t.TempDir()
	for name, data := range map[string][]byte{
		"r.csr": r.PEM(), "csr.der": csr, "sig": signature, "vendor.pem": asPEM(vendor), "root.pem": asPEM(root), "mid.pem": asPEM(intermediate),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	run := func(args ...string) string {
		t.Helper()
		cmd := exec.Command(openssl, args...)
		cmd.Dir = dir
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("openssl %s: %v\n%s", args, err, out)
		}
		return string(out)
	}
	if out := run("req", "-in", "r.csr", "-verify", "-noout", "-text"); !strings.Contains(out, "sha256WithRSAEncryption") || !strings.Contains(out, "2048 bit") {
		t.Errorf("openssl req: %s", out)
	}
	run("x509", "-in", "vendor.pem", "-pubkey", "-noout", "-out", "vendor.pub")
	if out := run("dgst", "-sha256", "-verify", "vendor.pub", "-signature", "sig", "csr.der"); !strings.Contains(out, "Verified OK") {
		t.Errorf("openssl dgst: %s", out)
	}

	// And it makes PKCS #12 files that are read.
	cert := made{topic: topic}.make(t)
	for name, data := range map[string][]byte{"push.pem": asPEM(cert), "push.key": keyPEM(keys()[0])} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	run("pkcs12", "-export", "-in", "push.pem", "-inkey", "push.key", "-passout", "pass:secret", "-out", "push.p12")
	run("pkcs8", "-topk8", "-in", "push.key", "-passout", "pass:secret", "-out", "push.p8")
	run("rsa", "-aes128", "-in", "push.key", "-passout", "pass:secret", "-traditional", "-out", "push.enc")
	read := func(name string) []byte {
		t.Helper()
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	for _, f := range []apns.File{
		{Data: read("push.p12"), Password: "secret"},
		{Data: join(asPEM(cert), read("push.p8")), Password: "secret"},
		{Data: asPEM(cert), Key: read("push.enc"), Password: "secret"},
	} {
		d.now = d.now.Add(time.Minute)
		if s, err := d.Upload(t.Context(), apns.Upload{File: f}); err != nil || s.Active.SHA256 != sumOf(cert) {
			t.Errorf("Upload = %+v, %v", s, err)
		}
	}

	d.now = d.now.Add(time.Minute)
	if err := d.DeleteVendor(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := d.Vendor(t.Context()); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("Vendor = %v", err)
	}
}

func TestMdmcertDownloadSignsAndMails(t *testing.T) {
	storagetest.AnyEngine(t)
	type posted struct{ CSR, Email, Key, Encrypt string }
	var got posted
	answer, status := `{"result":"success"}`, http.StatusOK
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got = posted{}
		body, _ := io.ReadAll(r.Body)
		if err := json.Unmarshal(body, &got); err != nil || r.Method != http.MethodPost || r.Header.Get("Content-Type") != "application/json" {
			t.Errorf("%s %s: %v", r.Method, body, err)
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, answer)
	}))
	defer server.Close()
	at, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	d := newDesk(t, func(c *apns.KeeperConfig) { c.Mdmcert, c.AllowPrivate = at, true })
	want := apns.NewRequest{Way: apns.ByMdmcert, Email: "it@example.com", APIKey: "program-key"}
	ask := func() apns.Request {
		t.Helper()
		d.now = d.now.Add(time.Minute)
		r, err := d.Request(t.Context(), want)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	r := ask()
	unpack := func(s string) *pem.Block {
		t.Helper()
		raw, err := base64.StdEncoding.DecodeString(s)
		if err != nil {
			t.Fatal(err)
		}
		block, _ := pem.Decode(raw)
		if block == nil {
			t.Fatalf("%q is no PEM", raw)
		}
		return block
	}
	to, err := x509.ParseCertificate(unpack(got.Encrypt).Bytes)
	if err != nil || !bytes.Equal(unpack(got.CSR).Bytes, r.CSR) || got.Email != "it@example.com" || got.Key != "program-key" || r.State != apns.Mailed {
		t.Fatalf("posted %+v, %v, for %+v", got, err, r)
	}

	// The vendor behind it signs, and what it mails is for this request only.
	vendor, intermediate, root := vendorChain(t)
	signer := newDesk(t, nil)
	if _, err := signer.PutVendor(t.Context(), apns.File{Data: join(asPEM(vendor, intermediate, root), keyPEM(keys()[1]))}); err != nil {
		t.Fatal(err)
	}
	file := signer.Sign(t, r.CSR)
	second := ask()
	mail := []byte(hex.EncodeToString(enveloped(t, file, to)) + "\n")
	var m *apns.Mistake
	for name, tt := range map[string]struct {
		id   string
		data []byte
		want apns.Kind
	}{
		"another request's":       {second.ID, mail, apns.OtherRequest},
		"nothing":                 {r.ID, nil, apns.Empty},
		"the mail's text":         {r.ID, []byte("Dear customer"), apns.NotMailed},
		"something else in it":    {r.ID, []byte(hex.EncodeToString(enveloped(t, []byte("hello"), to))), apns.NotMailed},
		"another CSR in it":       {r.ID, []byte(hex.EncodeToString(enveloped(t, signer.Sign(t, second.CSR), to))), apns.OtherRequest},
		"too much":                {r.ID, make([]byte, 300<<10), apns.TooLarge},
		"the file for Apple bare": {r.ID, file, apns.NotMailed},
	} {
		if _, err := d.OpenMail(t.Context(), tt.id, tt.data); !errors.As(err, &m) || m.Kind != tt.want {
			t.Errorf("%s: OpenMail = %v, want %s", name, err, tt.want)
		}
	}
	d.now = d.now.Add(time.Minute)
	opened, err := d.OpenMail(t.Context(), r.ID, bytes.ToUpper(mail))
	if err != nil || opened.State != apns.Signed || !bytes.Equal(opened.File, file) {
		t.Errorf("OpenMail = %+v, %v", opened, err)
	}
	if _, err := d.OpenMail(t.Context(), "none", mail); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("OpenMail of none = %v", err)
	}

	// What it refuses leaves nothing behind.
	var refusal *apns.MdmcertError
	before, _ := d.Requests(t.Context())
	for _, tt := range []struct {
		status int
		answer string
		reason string
	}{
		{200, `{"result":"failure","reason":"email not registered"}`, "email not registered"},
		{500, `<html>oops`, ""},
		{302, ``, ""},
	} {
		status, answer = tt.status, tt.answer
		d.now = d.now.Add(time.Minute)
		if _, err := d.Request(t.Context(), want); !errors.As(err, &refusal) || refusal.Reason != tt.reason || strings.Contains(err.Error(), "program-key") {
			t.Errorf("%d %s: %v", tt.status, tt.answer, err)
		}
	}
	server.Close()
	d.now = d.now.Add(time.Minute)
	if _, err := d.Request(t.Context(), want); !errors.As(err, &refusal) || refusal.Status != 0 {
		t.Errorf("gone: %v", err)
	}
	if after, err := d.Requests(t.Context()); err != nil || len(after) != len(before) {
		t.Errorf("there are %d requests, %v; before it was %d", len(after), err, len(before))
	}
}

// FuzzUpload looks for what makes the reader of uploads fall.
func FuzzUpload(f *testing.F) {
	cert := made{topic: topic}.make(f)
	f.Add(join(asPEM(cert), keyPEM(keys()[0])), "")
	f.Add(cert.Raw, "")
	f.Add([]byte("<!DOCTYPE html>"), "")
	f.Add([]byte(hex.EncodeToString(cert.Raw)), "x")
	f.Add([]byte{0x30, 0x80}, "x")
	f.Add([]byte("MIIB"), "")
	f.Fuzz(func(t *testing.T, data []byte, password string) {
		err := apns.ReadFile(apns.File{Data: data, Password: password}, wall)
		var m *apns.Mistake
		if err != nil && (!errors.As(err, &m) || m.Next == "" || strings.Contains(m.Reason, "%!")) {
			t.Errorf("%q: %v", data, err)
		}
	})
}

// Sign makes the file for Apple of a CSR, by the vendor of d.
func (d *desk) Sign(t testing.TB, csr []byte) (file []byte) {
	t.Helper()
	err := d.db.View(context.Background(), func(tx storage.Tx) (err error) {
		file, err = d.SignByVendor(tx, csr)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return file
}
