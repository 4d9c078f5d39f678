package main

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"image"
	"image/png"
	"io"
	"math/big"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// upload sends a form with files, and returns what answers it: the page that a redirect
// leads to, where it is one.
func (d *deskClient) upload(t *testing.T, path string, form url.Values, files map[string][]byte) deskPage {
	t.Helper()
	var body bytes.Buffer
	w := multipart.NewWriter(&body)
	for name, values := range form {
		for _, v := range values {
			if err := w.WriteField(name, v); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, content := range files {
		part, err := w.CreateFormFile(name, name+".pem")
		if err != nil {
			t.Fatal(err)
		}
		_, _ = part.Write(content)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, d.url+path, &body)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", w.FormDataContentType())
	resp, err := d.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	content, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode == http.StatusSeeOther {
		return d.get(t, resp.Header.Get("Location"))
	}
	return d.parse(t, reply{resp, string(content)})
}

// applesPortal stands for Apple's Push Certificates Portal.
type applesPortal struct{ key *rsa.PrivateKey }

func (p applesPortal) certify(t *testing.T, csr []byte, topic string, until time.Time) []byte {
	t.Helper()
	block, _ := pem.Decode(csr)
	if block == nil {
		t.Fatalf("%q is no CSR", csr)
	}
	request, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), NotBefore: time.Now().Add(-time.Hour), NotAfter: until,
		Subject: pkix.Name{CommonName: "APSP:1", ExtraNames: []pkix.AttributeTypeAndValue{{Type: asn1.ObjectIdentifier{0, 9, 2342, 19200300, 100, 1, 1}, Value: topic}}},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, request.PublicKey, p.key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func TestTheDesksSettings(t *testing.T) {
	d := startDesk(t, "--demo", "1")
	const at = "/admin/settings"

	t.Run("the overview says how each group stands", func(t *testing.T) {
		d.get(t, at).says(t, "No name yet", "None: no device can be woken", "Not public", "None is sent", "API tokens")
	})
	t.Run("the organisation is named, and mistakes lose nothing", func(t *testing.T) {
		form := url.Values{"organisation.name": {hostile}, "organisation.support_email": {"no address"}, "organisation.support_phone": {"+49 1"}, "organisation.support_url": {""}}
		got := d.ask(t, "POST", at+"/organisation", form)
		if got.status != http.StatusUnprocessableEntity {
			t.Fatalf("a wrong address = %d, want 422", got.status)
		}
		if in := got.all("input", "name", "organisation.support_email"); len(in) != 1 || attributeOf(in[0], "value") != "no address" || attributeOf(in[0], "aria-invalid") != "true" {
			t.Errorf("the field does not say that it is wrong:\n%s", got.body)
		}
		got.escapes(t)
		form.Set("organisation.support_email", "it@example.com")
		d.post(t, at+"/organisation", form).says(t, "Saved.")
		d.get(t, at).escapes(t)
		form.Set("organisation.name", "Example")
		d.post(t, at+"/organisation", form)
	})
	t.Run("a picture is uploaded, shown and removed", func(t *testing.T) {
		if got := d.upload(t, at+"/organisation/logo", nil, map[string][]byte{"logo": []byte("no picture")}); got.status != http.StatusUnprocessableEntity || len(got.all("span", "class", "field-error")) != 1 {
			t.Errorf("what is no picture = %d\n%s", got.status, got.text())
		}
		var picture bytes.Buffer
		if err := png.Encode(&picture, image.NewGray(image.Rect(0, 0, 8, 8))); err != nil {
			t.Fatal(err)
		}
		got := d.upload(t, at+"/organisation/logo", nil, map[string][]byte{"logo": picture.Bytes()})
		shown := got.all("img")
		if len(shown) != 1 {
			t.Fatalf("the picture is not shown:\n%s", got.body)
		}
		if src, err := url.Parse(attributeOf(shown[0], "src")); err != nil || d.send(t, d.client, "GET", src.Path, nil).StatusCode != http.StatusOK {
			t.Errorf("the picture %s is not there", attributeOf(shown[0], "src"))
		}
		if got := d.post(t, at+"/organisation/logo/remove", nil); len(got.all("img")) != 0 {
			t.Error("the picture is still there")
		}
	})
	t.Run("rules and wakings are what the form says", func(t *testing.T) {
		d.post(t, at+"/enrollment", url.Values{
			"require_push_certificate": {"true"}, "institutional.enabled": {"true"}, "institutional.rights.preset": {"full"}, "personal.enabled": {"true"},
			"personal.rights.preset": {"reduced"}, "personal_method": {"auto"}, "device_signature": {"require"}, "self_removal": {"none"},
		})
		got := d.ask(t, "POST", at+"/devices", url.Values{
			"push.repeats": {"many"}, "push.repeat_after": {"1h0m0s"}, "push.not_now_repeats": {"3"}, "push.silent_after": {"24h0m0s"}, "inventory.every": {"24h0m0s"}, "inventory.first_after": {"1m0s"},
		})
		if got.status != http.StatusUnprocessableEntity {
			t.Errorf("many repeats = %d, want 422", got.status)
		}
		got = d.ask(t, "POST", at+"/devices", url.Values{
			"push.repeats": {"101"}, "push.repeat_after": {"1h0m0s"}, "push.not_now_repeats": {"3"}, "push.silent_after": {"24h0m0s"}, "inventory.every": {"24h0m0s"}, "inventory.first_after": {"1m0s"},
		})
		got.says(t, "It must be from 0 to 100.")
		d.post(t, at+"/devices", url.Values{
			"push.repeats": {"2"}, "push.repeat_after": {"4h0m0s"}, "push.not_now_repeats": {"3"}, "push.silent_after": {"24h0m0s"},
			"inventory.enabled": {"true"}, "inventory.every": {"12h0m0s"}, "inventory.first_after": {"1m0s"},
		})
		var now struct {
			Portal          bool
			RequirePush     bool   `json:"require_push_certificate"`
			DeviceSignature string `json:"device_signature"`
			Push            struct{ Repeats int }
			Inventory       struct{ Every string }
		}
		d.call(t, "GET", "/api/v1/settings", nil, &now)
		if now.Portal || !now.RequirePush || now.DeviceSignature != "require" || now.Push.Repeats != 2 || now.Inventory.Every != "12h0m0s" {
			t.Errorf("settings are %+v", now)
		}
	})
	t.Run("retention has bounds", func(t *testing.T) {
		got := d.ask(t, "POST", at+"/retention", url.Values{"retention.audit_days": {"7"}, "retention.commands_days": {"180"}})
		if got.status != http.StatusUnprocessableEntity || len(got.all("input", "name", "retention.audit_days", "aria-invalid", "true")) != 1 {
			t.Errorf("a week = %d\n%s", got.status, got.text())
		}
		d.post(t, at+"/retention", url.Values{"retention.audit_days": {"90"}, "retention.commands_days": {"180"}})
		d.get(t, at).says(t, "90 days, commands 180 days")
	})
	t.Run("mail is set up, tried, and switched off", func(t *testing.T) {
		form := url.Values{"mail.host": {"127.0.0.1"}, "mail.encryption": {"none"}, "mail.port": {"1"}, "mail.from": {"no address"}, "mail.timeout": {"10s"}, "mail.per_minute": {"60"}}
		if got := d.ask(t, "POST", at+"/mail", form); got.status != http.StatusUnprocessableEntity || len(got.all("input", "name", "mail.from", "aria-invalid", "true")) != 1 {
			t.Errorf("a wrong sender = %d\n%s", got.status, got.text())
		}
		form.Set("mail.from", "Example IT <it@example.com>")
		d.post(t, at+"/mail", form).says(t, "Invitations go out by 127.0.0.1")
		got := d.ask(t, "POST", at+"/mail/test", url.Values{"to": {"ana@example.com"}})
		got.says(t, "The mail was not taken")
		d.get(t, at+"/mail/remove").says(t, "Send no mail any more?")
		d.post(t, at+"/mail/remove", nil).says(t, "No mail is sent yet")
	})
	t.Run("the server says how it is reached, and asks itself", func(t *testing.T) {
		d.get(t, at+"/server").says(t, d.url, "--tls-mode", "own-ca", "options not set", "Certificate Trust Settings")
		d.ask(t, "POST", at+"/server/check", url.Values{}).says(t, "The server answers at its own address")
	})
}

func TestTheDesksPushWizard(t *testing.T) {
	d := startDesk(t)
	const at, topic, other = "/admin/settings/push", "com.apple.mgmt.External.1", "com.apple.mgmt.External.2"
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	apple := applesPortal{key}
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
	soon, later := time.Now().AddDate(0, 0, 20), time.Now().AddDate(1, 0, 0)

	t.Run("nothing yet says what to do", func(t *testing.T) {
		d.get(t, at).says(t, "No push certificate yet", "Get a push certificate")
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

func TestTheDesksWebhooks(t *testing.T) {
	d := startDesk(t)
	const at = "/admin/settings/webhooks"
	answers := http.StatusNoContent
	target := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(answers) }))
	t.Cleanup(target.Close)

	d.get(t, at).says(t, "No webhooks yet")
	got := d.ask(t, "POST", at+"/new", url.Values{"name": {hostile}, "url": {"ftp://example.com"}, "format": {"cloudevents"}, "events": {"nothing.like.it"}})
	if got.status != http.StatusUnprocessableEntity {
		t.Fatalf("a wrong address = %d, want 422\n%s", got.status, got.text())
	}
	got.escapes(t)

	got = d.ask(t, "POST", at+"/new", url.Values{
		"name": {hostile}, "url": {target.URL}, "format": {"cloudevents"}, "secret_from": {"make"}, "event": {"webhook.", "device.", "mdm.Connect"}, "events": {"command.finished"},
		"allow_private": {"true"}, "enabled": {"true"}, "headers": {"X-From: gatehouse"},
	})
	got.says(t, "The secret, shown this once", "whsec_", "command.finished, device., webhook.")
	got.escapes(t)
	here := got.all("form", "method", "post")
	page := ""
	for _, form := range here {
		if action := attributeOf(form, "action"); strings.HasSuffix(action, "/test") {
			page = strings.TrimSuffix(action, "/test")
		}
	}
	if again := d.get(t, page); strings.Contains(again.body, "whsec_") {
		t.Error("the secret is shown again")
	}
	d.get(t, at).escapes(t)
	d.ask(t, "POST", page+"/test", url.Values{}).says(t, "The target took it")
	answers = http.StatusTeapot
	d.ask(t, "POST", page+"/test", url.Values{}).says(t, "418")
	edit := d.get(t, page+"/edit")
	if len(edit.all("input", "value", "device.", "checked", "")) != 1 || !strings.Contains(edit.text(), "X-From") {
		t.Errorf("the form does not say what is so:\n%s", edit.text())
	}
	d.post(t, page+"/edit", url.Values{"name": {"Chat"}, "url": {target.URL}, "event": {"device."}, "allow_private": {"true"}, "enabled": {"true"}}).says(t, "Saved.", "Told of device.")
	d.ask(t, "POST", page+"/secret", url.Values{}).says(t, "whsec_", "And by the one before until")
	d.post(t, page+"/disable", nil).says(t, "It is switched off")
	d.post(t, page+"/enable", nil).says(t, "Switched on.")
	d.get(t, page+"?state=dead").says(t, "None.")
	if got := d.ask(t, "GET", page+"/deliveries/none", nil); got.status != http.StatusNotFound {
		t.Errorf("no delivery = %d, want 404", got.status)
	}
	if got := d.as(t, "helpdesk").ask(t, "GET", at, nil); got.status != http.StatusForbidden {
		t.Errorf("for the helpdesk = %d, want 403", got.status)
	}
	d.get(t, page+"/delete").says(t, "Delete Chat?")
	d.post(t, page+"/delete", nil).says(t, "No webhooks yet")
}

// TestTheFirstRun goes from the setup link to an account that one can come back with.
func TestTheFirstRun(t *testing.T) {
	storagetest.AnyEngine(t)
	t.Parallel()
	s := start(t, t.TempDir())
	d := &deskClient{s, s.newClient(t)}
	const at = "/admin/welcome"
	got := d.post(t, "/setup", url.Values{"token": {s.setupToken(t)}})
	if got.path != at {
		t.Fatalf("the setup link leads to %s, want %s", got.path, at)
	}
	got.says(t, "Make yourself an account", "0 of 5", s.url, "gatehouse serve --demo 5")

	account := url.Values{"email": {"ana@example.com"}, "full_name": {hostile}, "password": {"short"}, "again": {"short"}}
	again := d.ask(t, "POST", at+"/account", account)
	if again.status != http.StatusUnprocessableEntity {
		t.Fatalf("a short password = %d, want 422", again.status)
	}
	again.says(t, "Must have at least 8 characters.")
	again.escapes(t)
	if strings.Contains(again.body, `"short"`) {
		t.Error("the password is shown again")
	}
	account.Set("password", "correct horse battery")
	d.ask(t, "POST", at+"/account", account).says(t, "The two passwords differ.")
	account.Set("again", "correct horse battery")
	d.post(t, at+"/account", account).says(t, "Signed in as", "1 of 5")
	if got := d.get(t, at); !strings.Contains(textOf(got.all("header")[0]), "ana@example.com") && !strings.Contains(textOf(got.all("header")[0]), "alert(1)") {
		t.Errorf("who is signed in is %s", textOf(got.all("header")[0]))
	}
	d.post(t, at+"/organisation", url.Values{"organisation.name": {"Example"}}).says(t, "2 of 5")
	d.ask(t, "POST", at+"/check", url.Values{}).says(t, "The server answers at its own address", "3 of 5")

	back := &deskClient{s, s.newClient(t)}
	back.signIn(t, "ana@example.com", "correct horse battery")
	back.get(t, "/admin/settings")
}
