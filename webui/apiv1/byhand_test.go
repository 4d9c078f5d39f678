package apiv1_test

import (
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
)

type delivery struct {
	Certificate certificate
	PEM, Chain  string
	PKCS12      []byte
	Password    string
	PrivateKey  string `json:"private_key"`
}

// run runs a script in a directory with files, and returns all that it says.
func run(t testing.TB, script string, files map[string][]byte) string {
	t.Helper()
	if _, err := exec.LookPath("openssl"); err != nil {
		t.Skip("openssl is not installed")
	}
	dir := t.TempDir()
	for name, data := range files {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), "sh", "-ec", script)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v:\n%s", script, err, out)
	}
	return string(out)
}

func TestAFileWithKeyAndCertificate(t *testing.T) {
	h := newHouse(t)
	h.ana(t)
	h.template(t, map[string]any{"name": "mail", "subject": "/O=Example/CN=$FULLNAME", "sans": map[string]any{"ntPrincipalName": "$UPN"}})
	root := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: h.depot.Root().Certificate().Raw}))
	for name, tt := range map[string]struct {
		body     map[string]any
		password string // empty: that in the answer
		ciphers  []string
	}{
		"with a password of ours": {map[string]any{}, "", []string{"pbeWithSHA1And3-KeyTripleDES-CBC", "MAC: sha1"}},
		"with a password":         {map[string]any{"password": "Čekić and nail"}, "Čekić and nail", []string{"pbeWithSHA1And3-KeyTripleDES-CBC"}},
		"with modern encryption":  {map[string]any{"encryption": "modern", "password": "correct horse"}, "correct horse", []string{"PBES2", "AES-256-CBC", "MAC: sha256"}},
	} {
		t.Run(name, func(t *testing.T) {
			tt.body["template"], tt.body["user"] = "mail", "ana@example.com"
			x := h.do(t, exchange{method: "POST", path: "/api/v1/certificates", body: tt.body})
			var made delivery
			x.want(t, 201, &made)
			if at := x.response.Get("Location"); at != "/api/v1/certificates/"+made.Certificate.Serial {
				t.Errorf("Location is %q", at)
			}
			if cache := x.response.Get("Cache-Control"); cache != "no-store" {
				t.Errorf("Cache-Control is %q", cache)
			}
			switch {
			case tt.password == "" && len(made.Password) < 20:
				t.Fatalf("the password is %q, want one that can't be guessed", made.Password)
			case tt.password == "":
				tt.password = made.Password
			case made.Password != "":
				t.Error("the answer repeats the password")
			}
			if made.PrivateKey != "" {
				t.Error("the key is in the answer beside the file")
			}
			files := map[string][]byte{"x.p12": made.PKCS12, "leaf.pem": []byte(made.PEM), "chain.pem": []byte(made.Chain), "root.pem": []byte(root), "password": []byte(tt.password)}
			out := run(t, "openssl pkcs12 -info -nodes -in x.p12 -passin file:password", files)
			for _, want := range append([]string{"BEGIN PRIVATE KEY", "CN = Ana Bee"}, tt.ciphers...) {
				if !strings.Contains(out, want) {
					t.Errorf("openssl says nothing of %s:\n%s", want, out)
				}
			}
			if n := strings.Count(out, "BEGIN CERTIFICATE"); n != 3 {
				t.Errorf("the file has %d certificates, want three: the user's, the issuer's and the root's", n)
			}
			run(t, `openssl pkcs12 -nodes -in x.p12 -passin file:password -nocerts -out key.pem
				openssl pkcs12 -nodes -in x.p12 -passin file:password -clcerts -nokeys -out cert.pem
				openssl x509 -in cert.pem -noout -pubkey > a; openssl pkey -in key.pem -pubout > b; cmp a b
				openssl x509 -in cert.pem -outform DER > c; openssl x509 -in leaf.pem -outform DER > d; cmp c d
				openssl verify -CAfile root.pem -untrusted chain.pem -purpose sslclient cert.pem`, files)
		})
	}
}

func TestAPreviewByHandMakesNothing(t *testing.T) {
	h := newHouse(t)
	h.ana(t)
	h.template(t, map[string]any{"name": "mail", "subject": "/O=Example/CN=$FULLNAME", "sans": map[string]any{"rfc822Name": "$EMAIL"}})
	const path = "/api/v1/certificates?preview=true"
	var got struct {
		Subject string
		SANs    struct {
			RFC822Name []string `json:"rfc822Name"`
		}
		ExtKeyUsage []string  `json:"ext_key_usage"`
		NotAfter    time.Time `json:"not_after"`
	}
	h.do(t, exchange{method: "POST", path: path, body: map[string]any{"template": "mail", "user": "ana"}}).want(t, 200, &got)
	if got.Subject != "CN=Ana Bee,O=Example" || strings.Join(got.SANs.RFC822Name, " ") != "ana@example.com" || strings.Join(got.ExtKeyUsage, " ") != "clientAuth" || got.NotAfter.IsZero() {
		t.Errorf("the preview is %+v", got)
	}
	h.do(t, exchange{method: "POST", path: path, body: map[string]any{"template": "mail", "user": "nobody"}}).wantField(t, "user")
	h.do(t, exchange{method: "POST", path: path, body: map[string]any{"template": "mail", "user": "ana", "device_id": "d1"}}).wantField(t, "user")
	h.do(t, exchange{method: "POST", path: path, body: map[string]any{"template": "none", "user": "ana"}}).wantProblem(t, 404, "not_found")
	var all struct{ Items []certificate }
	h.do(t, exchange{method: "GET", path: "/api/v1/certificates?template=mail"}).want(t, 200, &all)
	if len(all.Items) != 0 {
		t.Errorf("previews made %d certificates", len(all.Items))
	}
}

func TestAKeyInPEM(t *testing.T) {
	h := newHouse(t)
	h.ana(t)
	h.template(t, map[string]any{"name": "mail", "subject": "/CN=$FULLNAME"})
	made := h.make(t, map[string]any{"template": "mail", "user": "ana", "format": "pem"})
	if len(made.PKCS12) != 0 || made.Password != "" {
		t.Errorf("the answer has a file of %d bytes, and a password: %t", len(made.PKCS12), made.Password != "")
	}
	run(t, `openssl x509 -in leaf.pem -noout -pubkey > a; openssl pkey -in key.pem -pubout > b; cmp a b`, map[string][]byte{"leaf.pem": []byte(made.PEM), "key.pem": []byte(made.PrivateKey)})
}

func TestARequestByHand(t *testing.T) {
	h := newHouse(t)
	h.ana(t)
	h.template(t, map[string]any{"name": "mail", "subject": "/CN=$FULLNAME", "sans": map[string]any{"rfc822Name": "$EMAIL"}})
	h.template(t, map[string]any{"name": "theirs", "issuer": "external", "upstream": map[string]any{"url": "https://ca.example.com/scep"}})
	key := newKey(t)
	inPEM := requestFor(t, key)
	request, _ := pem.Decode([]byte(inPEM))
	der := request.Bytes
	by := h.token(t, identity.ScopeCertAny)
	x := h.do(t, exchange{method: "POST", path: "/api/v1/certificates", body: map[string]any{"template": "mail", "user": "ana", "csr": inPEM}, token: by})
	var made delivery
	x.want(t, 201, &made)
	block, _ := pem.Decode([]byte(made.PEM))
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if !key.PublicKey.Equal(cert.PublicKey) || cert.KeyUsage != x509.KeyUsageDigitalSignature || len(made.PKCS12) > 0 || made.PrivateKey != "" || made.Password != "" {
		t.Errorf("the certificate is for %v with key usage %d, want the request's key and no other", cert.PublicKey, cert.KeyUsage)
	}
	again := map[string]any{"template": "mail", "user": "ana", "csr": base64.StdEncoding.EncodeToString(der)}
	h.do(t, exchange{method: "POST", path: "/api/v1/certificates", body: again}).wantProblem(t, 409, "key_reused")
	damaged := append([]byte(nil), der...)
	damaged[len(damaged)-1] ^= 1

	for name, tt := range map[string]struct {
		body  map[string]any
		field string
	}{
		"no template":            {map[string]any{"user": "ana"}, "template"},
		"a user who is nobody":   {map[string]any{"template": "mail", "user": "zed"}, "user"},
		"a device that is none":  {map[string]any{"template": "mail", "device_id": "d9"}, "device_id"},
		"both":                   {map[string]any{"template": "mail", "user": "ana", "device_id": "d9"}, "user"},
		"names for a user":       {map[string]any{"template": "mail", "user": "ana", "subject": "/CN=x"}, "subject"},
		"no names":               {map[string]any{"template": "mail"}, "subject"},
		"another name":           {map[string]any{"template": "mail", "subject": "/CN=x", "sans": map[string]any{"dNSName": "www.example.com"}}, "sans.dNSName[0]"},
		"a kind of name unknown": {map[string]any{"template": "mail", "subject": "/CN=x", "sans": map[string]any{"iPAddress": "192.0.2.1"}}, "sans.iPAddress"},
		"a subject that is none": {map[string]any{"template": "mail", "subject": "x"}, "subject"},
		"a request that is none": {map[string]any{"template": "mail", "user": "ana", "csr": "x"}, "csr"},
		"a request by another":   {map[string]any{"template": "mail", "user": "ana", "csr": base64.StdEncoding.EncodeToString(damaged)}, "csr.signature"},
		"a file without its key": {map[string]any{"template": "mail", "user": "ana", "csr": inPEM, "format": "pkcs12"}, "format"},
		"another form":           {map[string]any{"template": "mail", "user": "ana", "format": "jks"}, "format"},
		"a short password":       {map[string]any{"template": "mail", "user": "ana", "password": "1234567"}, "password"},
		"a long password":        {map[string]any{"template": "mail", "user": "ana", "password": strings.Repeat("x", 129)}, "password"},
		"a password with emoji":  {map[string]any{"template": "mail", "user": "ana", "password": "hammer 🔨 and nail"}, "password"},
		"a password for PEM":     {map[string]any{"template": "mail", "user": "ana", "format": "pem", "password": "correct horse"}, "password"},
		"another encryption":     {map[string]any{"template": "mail", "user": "ana", "encryption": "rot13"}, "encryption"},
		"encryption for PEM":     {map[string]any{"template": "mail", "user": "ana", "format": "pem", "encryption": "modern"}, "encryption"},
		"a field that is none":   {map[string]any{"template": "mail", "user": "ana", "validity": "1h"}, "validity"},
	} {
		t.Run(name, func(t *testing.T) {
			h.do(t, exchange{method: "POST", path: "/api/v1/certificates", body: tt.body, wild: true}).wantField(t, tt.field)
		})
	}
	h.do(t, exchange{method: "POST", path: "/api/v1/certificates", body: map[string]any{"template": "none", "user": "ana"}}).wantProblem(t, 404, "not_found")
	h.do(t, exchange{method: "POST", path: "/api/v1/certificates", body: map[string]any{"template": "theirs", "user": "ana"}}).wantProblem(t, 409, "external_issuer")
	if n := len(h.certificates(t, "")); n != 1 {
		t.Errorf("there are %d certificates, want 1", n)
	}

	// Making keys is work: who asks for very many has to wait.
	h.pass(time.Hour)
	for range 40 {
		x = h.do(t, exchange{method: "POST", path: "/api/v1/certificates", body: map[string]any{"template": "mail", "user": "zed"}, token: by})
	}
	x.wantProblem(t, 429, "too_many_requests")
	if after := x.response.Get("Retry-After"); after == "" || after == "0" {
		t.Errorf("Retry-After is %q", after)
	}
}
