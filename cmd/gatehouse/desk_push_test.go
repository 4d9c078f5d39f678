package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509/pkix"
	"io"
	"math/big"
	"sync"

	"github.com/groob/plist"

	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/apns/standin"
	"github.com/gatehouse-mdm/gatehouse/enroll/business/businesstest"
	"github.com/gatehouse-mdm/gatehouse/mdm/mdmtest"
	"github.com/gatehouse-mdm/gatehouse/storage/guard"
)

// applesPortal stands for Apple's Push Certificates Portal.
type applesPortal struct {
	authority interface {
		Certify(standin.Identity, crypto.PublicKey) ([]byte, error)
	}
}

// certify makes a push certificate of a request: of a CSR, as if a vendor had signed it, or
// of the file for Apple, whose signature it checks.
func (p applesPortal) certify(t *testing.T, request []byte, topic string, until time.Time) []byte {
	t.Helper()
	block, _ := pem.Decode(request)
	if block == nil {
		block = &pem.Block{Bytes: p.vouched(t, request)}
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	must(t, err)
	must(t, csr.CheckSignature())
	certificate, err := p.authority.Certify(standin.Identity{Topic: topic, NotAfter: until}, csr.PublicKey)
	must(t, err)
	return certificate
}

// pushRequestFile is what the portal takes, in a property list in base64.
type pushRequestFile struct {
	CSR       string `plist:"PushCertRequestCSR"`
	Chain     string `plist:"PushCertCertificateChain"`
	Signature string `plist:"PushCertSignature"`
}

// vouched returns the CSR that a vendor has signed in the file for Apple, in DER.
func (p applesPortal) vouched(t *testing.T, file []byte) []byte {
	t.Helper()
	text, err := base64.StdEncoding.DecodeString(string(file))
	must(t, err)
	var in pushRequestFile
	must(t, guard.DecodePlist(text, &in, guard.PlistLimits{}))
	csr, err := base64.StdEncoding.DecodeString(in.CSR)
	must(t, err)
	signature, err := base64.StdEncoding.DecodeString(in.Signature)
	must(t, err)
	block, _ := pem.Decode([]byte(in.Chain))
	vendor, err := x509.ParseCertificate(block.Bytes)
	must(t, err)
	sum := sha256.Sum256(csr)
	must(t, rsa.VerifyPKCS1v15(vendor.PublicKey.(*rsa.PublicKey), crypto.SHA256, sum[:], signature))
	return csr
}

// pushVendor is an MDM vendor, by whose certificate Apple takes requests.
type pushVendor struct {
	chain []*x509.Certificate // its own, and those above it
	key   *rsa.PrivateKey

	mu   sync.Mutex
	mail []byte // the last that mdmcert.download sent
}

func newPushVendor(t *testing.T) *pushVendor {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	must(t, err)
	above, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	root := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Apple Root CA", Organization: []string{"Apple Inc."}},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(1, 0, 0), IsCA: true, BasicConstraintsValid: true,
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "MDM Vendor: Example"}, NotBefore: root.NotBefore, NotAfter: root.NotAfter,
	}
	v := &pushVendor{key: key}
	for _, c := range []struct {
		template *x509.Certificate
		public   crypto.PublicKey
	}{{leaf, key.Public()}, {root, above.Public()}} {
		der, err := x509.CreateCertificate(rand.Reader, c.template, root, c.public, above)
		must(t, err)
		certificate, err := x509.ParseCertificate(der)
		must(t, err)
		v.chain = append(v.chain, certificate)
	}
	return v
}

// sign makes the file for Apple of a CSR in DER.
func (v *pushVendor) sign(csr []byte) ([]byte, error) {
	sum := sha256.Sum256(csr)
	signature, err := rsa.SignPKCS1v15(rand.Reader, v.key, crypto.SHA256, sum[:])
	if err != nil {
		return nil, err
	}
	in := pushRequestFile{CSR: base64.StdEncoding.EncodeToString(csr), Signature: base64.StdEncoding.EncodeToString(signature)}
	for _, c := range v.chain {
		in.Chain += string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
	}
	text, err := plist.Marshal(in)
	return []byte(base64.StdEncoding.EncodeToString(text)), err
}

// serve starts what stands for mdmcert.download, which knows it@example.com.
func (v *pushVendor) serve(t *testing.T) *url.URL {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var in struct{ CSR, Email, Key, Encrypt string }
		if err := json.NewDecoder(r.Body).Decode(&in); err != nil || in.Email != "it@example.com" || in.Key == "" {
			_, _ = io.WriteString(w, `{"result":"failure","reason":"the address is not registered"}`)
			return
		}
		mail, err := v.answer(in.CSR, in.Encrypt)
		if err != nil {
			t.Errorf("mdmcert.download is asked for what it can’t do: %v", err)
		}
		v.mu.Lock()
		v.mail = mail
		v.mu.Unlock()
		_, _ = io.WriteString(w, `{"result":"success"}`)
	}))
	t.Cleanup(srv.Close)
	at, err := url.Parse(srv.URL)
	must(t, err)
	return at
}

// answer signs a CSR and encrypts the file for Apple: both come as PEM in base64.
func (v *pushVendor) answer(csr, to string) ([]byte, error) {
	unpack := func(text string) []byte {
		raw, _ := base64.StdEncoding.DecodeString(text) // else there is no PEM in it
		if block, _ := pem.Decode(raw); block != nil {
			return block.Bytes
		}
		return nil
	}
	certificate, err := x509.ParseCertificate(unpack(to))
	if err != nil {
		return nil, err
	}
	file, err := v.sign(unpack(csr))
	if err != nil {
		return nil, err
	}
	der, err := businesstest.Envelop(certificate, file)
	return []byte(hex.EncodeToString(der)), err
}

// mailed is the attachment of the last mail.
func (v *pushVendor) mailed(t *testing.T) []byte {
	t.Helper()
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.mail == nil {
		t.Fatal("mdmcert.download has mailed nothing")
	}
	return v.mail
}

func TestTheDesksPushWizard(t *testing.T) {
	d := startDesk(t)
	const at, topic, other = "/admin/settings/push", "com.apple.mgmt.External.1", "com.apple.mgmt.External.2"
	authority, err := standin.NewAuthority(time.Now())
	must(t, err)
	apple := applesPortal{authority}
	// begin makes a request, and returns its page.
	begin := func(t *testing.T, form url.Values) deskPage {
		t.Helper()
		return d.post(t, at+"/new", form)
	}
	// answer uploads what Apple makes of the request of a page.
	answer := func(t *testing.T, request deskPage, topic string, until time.Time) deskPage {
		t.Helper()
		csr := d.send(t, d.client, "GET", request.link(t, "Download the request"), nil)
		if csr.StatusCode != http.StatusOK || !strings.Contains(csr.Header.Get("Content-Disposition"), "attachment") {
			t.Fatalf("the CSR = %d %v", csr.StatusCode, csr.Header)
		}
		return d.upload(t, request.path+"/certificate", url.Values{"apple_account": {"it@example.com"}}, map[string][]byte{"file": apple.certify(t, []byte(csr.body), topic, until)})
	}
	now := time.Now().UTC()
	soon, later := now.AddDate(0, 0, 20), now.AddDate(0, 0, 365)

	t.Run("nothing yet says what to do", func(t *testing.T) {
		d.get(t, at).says(t, "No push certificate yet", "Get a push certificate")
	})
	t.Run("whoever misses it is led here", func(t *testing.T) {
		if to := d.get(t, "/admin/commands").link(t, "Push certificates"); to != at {
			t.Errorf("the empty list of commands leads to %s", to)
		}
		must(t, d.phone(t, mdmtest.Options{}).Enroll(t.Context(), d.newLink(t)+"/profile"))
		var devices struct{ Items []struct{ ID string } }
		d.call(t, "GET", "/api/v1/devices", nil, &devices)
		of := "/admin/devices/" + devices.Items[0].ID
		if got := d.ask(t, "POST", of+"/push", nil); !strings.Contains(got.text(), "There is no push certificate") {
			t.Errorf("a push = %d\n%s", got.status, got.text())
		}
		page := d.get(t, of)
		page.says(t, "What to do: add the push certificate")
		if to := page.link(t, "Push certificates"); to != at {
			t.Errorf("the device’s page leads to %s", to)
		}
	})
	t.Run("mistakes of the first step are at their fields", func(t *testing.T) {
		got := d.ask(t, "POST", at+"/new", url.Values{"kind": {"mdmcert"}, "country": {"Germany"}, "email": {"it@example.com"}, "apple_account": {hostile}})
		if got.status != http.StatusUnprocessableEntity || len(got.all("input", "name", "country", "aria-invalid", "true")) != 1 {
			t.Errorf("= %d\n%s", got.status, got.text())
		}
		got.escapes(t)
		if got := d.ask(t, "GET", at+"/new?renews=none", nil); got.status != http.StatusNotFound {
			t.Errorf("a renewal of nothing = %d, want 404", got.status)
		}
	})
	t.Run("a request is given up after a question", func(t *testing.T) {
		request := begin(t, url.Values{"kind": {"csr"}, "apple_account": {"it@example.com"}})
		ask := d.get(t, request.link(t, "Give up this request…"))
		ask.says(t, "Its key is deleted.")
		d.get(t, request.path).says(t, "Give up this request…") // a look did nothing
		d.post(t, ask.path, nil).says(t, "Deleted.")
		if got := d.ask(t, "GET", request.path, nil); got.status != http.StatusNotFound {
			t.Errorf("the request that was given up = %d, want 404", got.status)
		}
	})
	t.Run("the first certificate, by a vendor elsewhere", func(t *testing.T) {
		request := begin(t, url.Values{"kind": {"csr"}, "apple_account": {"it@example.com"}})
		request.says(t, "Create a Certificate", "it@example.com", "identity.apple.com/pushcert")
		if got := d.upload(t, request.path+"/certificate", nil, map[string][]byte{"file": []byte("<html>")}); got.status != http.StatusUnprocessableEntity || !strings.Contains(got.text(), "The file is a web page.") {
			t.Errorf("a web page = %d\n%s", got.status, got.text())
		}
		got := answer(t, request, topic, soon)
		got.says(t, "Activate the certificate", topic)
		d.get(t, at).says(t, "Waits to be activated")
		d.post(t, got.path, nil).says(t, "Activated.", "look whether it works", "19 days left")
	})
	t.Run("a renewal compares, and the old one serves until then", func(t *testing.T) {
		d.get(t, at).says(t, "Renew")
		request := begin(t, url.Values{"kind": {"csr"}, "renews": {topic}})
		request.says(t, "press Renew", "Not “Create a Certificate”", soon.UTC().Format("2 January 2006"))
		got := answer(t, request, topic, later)
		got.says(t, "Compare, then activate", "Serves now")
		d.get(t, at).says(t, "19 days left", "Look at the one that is ready")
		d.post(t, got.path, nil).says(t, "364 days left")
		if got := d.ask(t, "GET", got.path, nil); got.status != http.StatusSeeOther {
			t.Errorf("nothing to activate = %d, want a redirect", got.status)
		}
	})
	t.Run("another topic is a stop, and needs typing", func(t *testing.T) {
		request := begin(t, url.Values{"kind": {"csr"}, "renews": {topic}})
		got := answer(t, request, other, later)
		got.says(t, "Stop: this is another topic", "0 devices", topic, "Renew it")
		if again := d.ask(t, "POST", got.path, url.Values{"typed": {"yes"}}); again.status != http.StatusUnprocessableEntity {
			t.Errorf("without the words = %d, want 422", again.status)
		}
		var list struct {
			Items []struct {
				Topic, State string
				IsDefault    bool `json:"is_default"`
			}
		}
		d.call(t, "GET", "/api/v1/push-certificates", nil, &list)
		if len(list.Items) != 2 || !list.Items[0].IsDefault || list.Items[1].State != "ready" {
			t.Fatalf("a certificate that waits has changed something: %+v", list)
		}
		d.post(t, got.path, url.Values{"typed": {"Second certificate"}})
		d.call(t, "GET", "/api/v1/push-certificates", nil, &list)
		if list.Items[0].State != "active" || !list.Items[1].IsDefault || list.Items[1].State != "active" {
			t.Errorf("the second one is not for new enrollments: %+v", list)
		}
	})
	t.Run("a topic is made the default again, and the other deleted", func(t *testing.T) {
		d.post(t, at+"/topics/"+topic, url.Values{"default": {"true"}})
		d.post(t, at+"/topics/"+topic, url.Values{"apple_account": {hostile}}).escapes(t)
		d.get(t, at).escapes(t)
		d.get(t, at+"/topics/"+other+"/delete").says(t, "0 devices")
		d.post(t, at+"/topics/"+other+"/delete", nil)
		if got := d.ask(t, "GET", at+"/topics/"+other, nil); got.status != http.StatusNotFound {
			t.Errorf("a deleted topic = %d, want 404", got.status)
		}
	})
	t.Run("the audit log tells what was and is", func(t *testing.T) {
		got := d.get(t, "/admin/audit?action=push_certificate")
		got.says(t, "not_after", "ready.not_after", soon.UTC().Format(time.DateOnly), later.UTC().Format(time.DateOnly))
		got.escapes(t)
		var log struct {
			Items []struct {
				Action  string
				Changes []struct{ Field, Before, After string }
			}
		}
		d.call(t, "GET", "/api/v1/audit?limit=1000", nil, &log)
		told := map[string][]string{}
		for _, e := range log.Items {
			for _, c := range e.Changes {
				told[e.Action] = append(told[e.Action], strings.Join([]string{c.Field, c.Before, c.After}, ": "))
			}
		}
		for action, want := range map[string]string{
			"push_certificate.uploaded":  "topic: : " + topic,
			"push_certificate.activated": "not_after: " + soon.UTC().Format(time.RFC3339) + ": " + later.UTC().Format(time.RFC3339),
			"push_certificate.changed":   "apple_account: it@example.com: " + hostile,
			"push_certificate.deleted":   "topic: " + other + ": ",
		} {
			if !slices.Contains(told[action], want) {
				t.Errorf("%s tells %q, want %q among them", action, told[action], want)
			}
		}
		if want := "default: false: true"; !slices.Contains(told["push_certificate.changed"], want) {
			t.Errorf("another default is told as %q, want %q", told["push_certificate.changed"], want)
		}
	})
	t.Run("who only reads sees it, and can change nothing", func(t *testing.T) {
		reader := d.as(t, "read_only")
		got := reader.get(t, at)
		got.says(t, topic)
		for _, path := range []string{at, at + "/topics/" + topic, "/admin/settings", "/admin/settings/organisation", "/admin/settings/mail", "/admin/settings/server", "/admin/settings/retention", "/admin/settings/enrollment", "/admin/settings/devices", at + "/vendor"} {
			page := reader.ask(t, "GET", path, nil)
			if strings.HasSuffix(path, "vendor") {
				if page.status != http.StatusForbidden {
					t.Errorf("%s = %d, want 403", path, page.status)
				}
				continue
			}
			for _, form := range page.all("form", "method", "post") {
				for _, button := range page.all("button") {
					for up := button.Parent; up != nil; up = up.Parent {
						if up == form && strings.HasPrefix(attributeOf(form, "action"), "/admin/settings") {
							t.Errorf("%s has the button %q", path, textOf(button))
						}
					}
				}
			}
		}
		if got := reader.ask(t, "POST", at+"/new", url.Values{"kind": {"csr"}}); got.status != http.StatusForbidden {
			t.Errorf("a request = %d, want 403", got.status)
		}
	})
}
