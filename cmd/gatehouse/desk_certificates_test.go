package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"testing"
)

func TestThePagesOfCertificates(t *testing.T) {
	d := startDesk(t, "--demo", "2")
	reader := d.as(t, "read_only")
	admin := d.as(t, "admin")
	waitForDevices(t, d, 2)
	device := waitForName(t, d)

	filled := func(more url.Values) url.Values {
		form := url.Values{
			"name": {"wifi"}, "subject": {"/CN=$DEVICE_ID"}, "key_size": {"2048"}, "key_usage": {"digitalSignature"}, "ext_key_usage": {"clientAuth"},
			"validity": {"365d"}, "retries": {"3"}, "retry_delay": {"10"}, "challenge_type": {"one_time"}, "issuer": {"builtin"}, "upstream.challenge_type": {"none"},
		}
		for name, values := range more {
			form[name] = values
		}
		return form
	}

	t.Run("what was issued is found", func(t *testing.T) {
		page := d.get(t, "/admin/certificates")
		page.says(t, "Identity of Demo", "Device identity", "active")
		d.get(t, "/admin/certificates?text=nobodyhasthis").says(t, "No certificate is like this", "Show all")
		d.get(t, "/admin/certificates?status=soon").says(t, "No certificate is like this")
		one := d.get(t, page.link(t, "Identity of Demo"))
		one.says(t, "Serial number", "Gatehouse Identity CA", "Signing in as a client", "RSA, 2048 bits")
		if got := d.ask(t, "GET", one.path+"/download", nil); got.status != http.StatusOK || !strings.Contains(got.body, "BEGIN CERTIFICATE") {
			t.Errorf("download = %d", got.status)
		}
		if got := reader.get(t, one.path); len(got.all("a", "href", one.path+"/revoke")) != 0 {
			t.Error("who may not revoke is offered to")
		}
	})
	t.Run("a template that is wrong keeps what was typed", func(t *testing.T) {
		page := d.ask(t, "POST", "/admin/certificates/new-template", filled(url.Values{"validity": {"soon"}, "subject": {"/CN=$NOBODY"}, "notes": {"for the office"}}))
		if page.status != http.StatusUnprocessableEntity || len(page.all("input", "name", "validity", "value", "soon")) != 1 || len(page.all("input", "name", "validity", "aria-invalid", "true")) != 1 {
			t.Errorf("= %d\n%s", page.status, page.text())
		}
		page.says(t, "for the office")
		if got := d.ask(t, "POST", "/admin/certificates/new-template", filled(url.Values{"retries": {"some"}})); got.status != http.StatusUnprocessableEntity {
			t.Errorf("with words for a number = %d", got.status)
		}
	})
	var named struct {
		Serial string `json:"serial_number"`
	}
	d.call(t, "GET", "/api/v1/devices/"+device, nil, &named)
	serial := named.Serial // by which one of the devices is found
	t.Run("a template is looked at before it is made", func(t *testing.T) {
		const at = "/admin/certificates/new-template"
		look := func(change url.Values) deskPage {
			change.Set("step", "preview")
			if !change.Has("preview_for") {
				change.Set("preview_for", serial)
			}
			return d.ask(t, "POST", at, filled(change))
		}
		page := look(url.Values{"notes": {"for the office"}, "subject": {"/O=Office/CN=$DEVICE_ID"}, "validity": {"90d"}})
		page.says(t, "it would be", "/O=Office/CN="+device, "The profile", "com.apple.security.scep", "Nothing was saved yet.", "for the office")
		if strings.Contains(page.text(), "type them again") || page.filled().Get("validity") != "90d" {
			t.Errorf("after a look the form has %v", page.filled())
		}
		page = look(url.Values{"challenge_type": {"static"}, "challenge": {"a long challenge for all"}})
		page.says(t, "type them again before you save")
		if strings.Contains(page.body, "a long challenge for all") {
			t.Error("a look shows the challenge")
		}
		look(url.Values{"preview_for": {"nobody’s phone"}}).says(t, "No enrolled device has that")
		for field, change := range map[string]url.Values{
			"subject": {"subject": {"/CN=$EMAIL"}}, "validity": {"validity": {"soon"}}, "key_usage": {"key_usage": nil},
		} {
			page := look(change)
			if page.status != http.StatusUnprocessableEntity || len(page.all("", "aria-invalid", "true")) == 0 {
				t.Errorf("%s: %d\n%s", field, page.status, page.text())
			}
			for _, wrong := range page.all("", "aria-invalid", "true") {
				if len(page.all("", "id", attributeOf(wrong, "aria-describedby"))) == 0 && !strings.Contains(attributeOf(wrong, "aria-describedby"), " ") {
					t.Errorf("%s: an error is tied to nothing", field)
				}
			}
		}
		d.get(t, "/admin/certificates/templates").says(t, "No templates yet")
	})
	t.Run("a template is made, looked at and changed", func(t *testing.T) {
		page := d.post(t, "/admin/certificates/new-template", filled(nil))
		page.says(t, "Created.", "365 days", "/scep/wifi", "Fingerprint of the authority")
		d.get(t, "/admin/certificate-templates/wifi?device_id="+device).says(t, "For Demo", "CN="+device)
		form := d.get(t, "/admin/certificate-templates/wifi/edit")
		change := form.filled()
		change.Set("subject", "/O=Changed/CN=$DEVICE_ID")
		change.Set("preview_for", serial)
		change.Set("step", "preview")
		d.ask(t, "POST", "/admin/certificate-templates/wifi/edit", change).says(t, "it would be", "/O=Changed/CN="+device)
		if got := d.get(t, "/admin/certificate-templates/wifi"); strings.Contains(got.text(), "Changed/") {
			t.Error("a look changed the template")
		}
		if len(form.all("input", "name", "ext_key_usage", "value", "clientAuth")) != 1 {
			t.Error("the form lacks its purposes")
		}
		d.post(t, "/admin/certificate-templates/wifi/edit", filled(url.Values{"validity": {"90d"}, "notes": {"shorter"}})).says(t, "Saved.", "90 days", "shorter")
		if got := reader.ask(t, "POST", "/admin/certificate-templates/wifi/edit", filled(nil)); got.status != http.StatusForbidden {
			t.Errorf("a reader changes it: %d", got.status)
		}
	})
	t.Run("one is issued by hand", func(t *testing.T) {
		const at = "/admin/certificates/issue"
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		must(t, err)
		der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
		must(t, err)
		csr := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
		order := func(more url.Values) url.Values {
			form := url.Values{"template": {"wifi"}, "who": {"device"}, "device": {device}, "format": {"csr"}, "csr": {csr}, "step": {"issue"}}
			maps.Copy(form, more)
			return form
		}
		d.get(t, "/admin/certificates").link(t, "Issue by hand")
		if got := d.get(t, at+"?device_id="+device); len(got.all("input", "name", "device", "value", device)) != 1 {
			t.Error("the form does not know for which device it is")
		}
		for field, wrong := range map[string]url.Values{
			"template": {"template": {""}}, "user": {"who": {"user"}, "user": {"nobody@example.com"}}, "device": {"device": {"no such device"}},
			"csr": {"csr": {"no request"}}, "password": {"format": {"pkcs12"}}, "subject": {"who": {"other"}, "subject": {"no subject"}},
		} {
			got := d.ask(t, "POST", at, order(wrong))
			if got.status != http.StatusUnprocessableEntity || len(got.all("", "name", field, "aria-invalid", "true")) != 1 {
				t.Errorf("with a wrong %s = %d\n%s", field, got.status, got.text())
			}
		}
		d.ask(t, "POST", at, order(url.Values{"step": {"preview"}})).says(t, "What it would be like", "CN="+device, "Signing in as a client", "Nothing was issued yet", "BEGIN CERTIFICATE REQUEST")
		d.upload(t, at, order(url.Values{"csr": {""}, "step": {"preview"}}), map[string][]byte{"file": der}).says(t, "Nothing was issued yet", base64.StdEncoding.EncodeToString(der))
		d.post(t, at, order(nil)).says(t, "Issued.", "CN="+device, "issued by hand")
		file := d.ask(t, "POST", at, order(url.Values{"format": {"pkcs12"}, "password": {"correct horse"}}))
		if file.status != http.StatusOK || !strings.Contains(file.header.Get("Content-Disposition"), ".p12") || !strings.Contains(file.header.Get("Cache-Control"), "no-store") {
			t.Errorf("a file with the key = %d %v", file.status, file.header)
		}
		if got := d.ask(t, "POST", at, order(url.Values{"format": {"pem"}})); !strings.Contains(got.body, "BEGIN PRIVATE KEY") || strings.Count(got.body, "BEGIN CERTIFICATE") < 2 {
			t.Errorf("a PEM file = %d\n%.200s", got.status, got.body)
		}
		if got := reader.ask(t, "POST", at, order(nil)); got.status != http.StatusForbidden {
			t.Errorf("a reader issues: %d", got.status)
		}
		reader.get(t, at).says(t, "takes the role of an admin")
	})
	t.Run("a challenge for all is shown once", func(t *testing.T) {
		page := d.ask(t, "POST", "/admin/certificates/new-template", filled(url.Values{"name": {"printers"}, "challenge_type": {"static"}}))
		challenge := page.all("pre", "id", "challenge")
		if len(challenge) != 1 || len(textOf(challenge[0])) < 8 {
			t.Fatalf("= %d\n%s", page.status, page.text())
		}
		if again := d.get(t, "/admin/certificate-templates/printers"); strings.Contains(again.body, textOf(challenge[0])) {
			t.Error("it is shown again")
		}
	})
	t.Run("a template goes to devices, and is taken away", func(t *testing.T) {
		d.ask(t, "POST", "/admin/certificate-templates/wifi/send", url.Values{"who": {"all"}, "step": {"review"}}).says(t, "Send wifi to", "certificate of its own")
		d.ask(t, "POST", "/admin/certificate-templates/wifi/send", url.Values{"who": {"all"}, "step": {"send"}})
		page := d.get(t, "/admin/certificates/assigned?template=wifi")
		page.says(t, "Demo", "wifi")
		away := page.link(t, "Take away")
		d.get(t, away).says(t, "Take the certificate from")
		_, query, _ := strings.Cut(away, "?")
		values, err := url.ParseQuery(query)
		if err != nil {
			t.Fatal(err)
		}
		d.post(t, "/admin/certificates/unassign", values).says(t, "Taken from the device.")
	})
	t.Run("deleting a template needs its name", func(t *testing.T) {
		if got := d.ask(t, "POST", "/admin/certificate-templates/printers/delete", url.Values{"typed": {"print"}}); got.status != http.StatusUnprocessableEntity {
			t.Errorf("with a slip = %d", got.status)
		}
		d.post(t, "/admin/certificate-templates/printers/delete", url.Values{"typed": {"printers"}}).says(t, "Deleted.")
	})
	t.Run("authorities are an owner's", func(t *testing.T) {
		page := d.get(t, "/admin/certificates/authorities")
		page.says(t, "Device identities", "Organisation root", "in force", "SHA-256", "Roll over to the next")
		other := admin.get(t, "/admin/certificates/authorities")
		other.says(t, "take the role of an owner")
		if len(other.all("a", "href", "/admin/certificate-authorities/payload/import")) != 0 {
			t.Error("an admin is offered to import")
		}
		if got := admin.ask(t, "POST", "/admin/certificate-authorities/payload/rollover", url.Values{"typed": {"roll over"}}); got.status != http.StatusForbidden {
			t.Errorf("an admin rolls over: %d", got.status)
		}
		if got := d.ask(t, "GET", "/admin/certificate-authorities/none/rollover", nil); got.status != http.StatusNotFound {
			t.Errorf("an authority that is not there = %d", got.status)
		}
	})
	t.Run("an import says what is wrong and shows no key", func(t *testing.T) {
		page := d.ask(t, "POST", "/admin/certificate-authorities/payload/import", url.Values{"pem": {"-----BEGIN PRIVATE KEY-----\nnot-a-key-at-all\n-----END PRIVATE KEY-----"}})
		if page.status != http.StatusUnprocessableEntity || strings.Contains(page.body, "not-a-key-at-all") {
			t.Errorf("= %d\n%s", page.status, page.text())
		}
		if page = d.ask(t, "POST", "/admin/certificate-authorities/payload/import", nil); page.status != http.StatusUnprocessableEntity {
			t.Errorf("without a file = %d", page.status)
		}
	})
	t.Run("a rollover is begun, and what relies on the old one is named", func(t *testing.T) {
		if got := d.ask(t, "POST", "/admin/certificate-authorities/identity/rollover", url.Values{"typed": {"yes"}}); got.status != http.StatusUnprocessableEntity {
			t.Errorf("without the words = %d", got.status)
		}
		d.post(t, "/admin/certificate-authorities/identity/rollover", url.Values{"typed": {"roll over"}}).says(t, "The rollover has begun.", "Pace")
		page := d.get(t, "/admin/certificates/authorities")
		page.says(t, "retiring")
		retire := page.link(t, "Retire")
		d.get(t, retire).says(t, "nothing that it issued is trusted")
		u, err := url.Parse(retire)
		if err != nil {
			t.Fatal(err)
		}
		got := d.ask(t, "POST", u.Path, url.Values{"id": {u.Query().Get("id")}, "typed": {"retire"}})
		if got.status != http.StatusUnprocessableEntity {
			t.Errorf("retired while it is in use: %d\n%s", got.status, got.text())
		}
	})
	t.Run("an identity is revoked by the device's name and with a reason", func(t *testing.T) {
		path := d.get(t, "/admin/certificates?authority=identity").link(t, "Identity of Demo")
		page := d.get(t, path+"/revoke")
		page.says(t, "the device’s enrollment ends", "The key may be in other hands")
		word := attributeOf(page.all("input", "id", "typed")[0], "data-typed")
		if got := d.ask(t, "POST", path+"/revoke", url.Values{"reason": {"keyCompromise"}}); got.status != http.StatusUnprocessableEntity {
			t.Errorf("without the name = %d", got.status)
		}
		d.post(t, path+"/revoke", url.Values{"reason": {"keyCompromise"}, "typed": {word}}).says(t, "Revoked.", "revoked", "The key may be in other hands")
	})
	t.Run("names are text", func(t *testing.T) {
		page := d.post(t, "/admin/certificates/new-template", filled(url.Values{"name": {"hostile"}, "subject": {"/CN=" + strings.ReplaceAll(hostile, "/", `\/`)}, "notes": {hostile}}))
		page.escapes(t)
		for _, path := range []string{"/admin/certificates/templates", "/admin/certificate-templates/hostile/edit"} {
			d.get(t, path).escapes(t)
		}
		d.get(t, "/admin/certificates?text="+url.QueryEscape(hostile)).escapes(t)
		d.ask(t, "POST", "/admin/certificate-templates/hostile/send", url.Values{"who": {"some"}, "find": {hostile}, "step": {"find"}}).escapes(t)
	})
}

// waitForName returns an enrolled device that has told what it is called.
func waitForName(t *testing.T, d *deskClient) (id string) {
	t.Helper()
	eventually(t, "a device tells its name", func() bool {
		var found struct {
			Items []struct {
				ID   string
				Name string `json:"device_name"`
			}
		}
		d.call(t, "GET", "/api/v1/devices?state=enrolled", nil, &found)
		for _, device := range found.Items {
			if device.Name != "" {
				id = device.ID
			}
		}
		return id != ""
	})
	return id
}
