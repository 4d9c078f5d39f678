package main

import (
	"bytes"
	"image"
	"image/png"
	"io"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

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
		got := d.ask(t, "POST", at+"/retention", url.Values{"retention.audit_days": {"7"}, "retention.commands_days": {"180"}, "retention.devices_days": {"0"}})
		if got.status != http.StatusUnprocessableEntity || len(got.all("input", "name", "retention.audit_days", "aria-invalid", "true")) != 1 {
			t.Errorf("a week = %d\n%s", got.status, got.text())
		}
		got = d.ask(t, "POST", at+"/retention", url.Values{"retention.audit_days": {"90"}, "retention.commands_days": {"180"}, "retention.devices_days": {"7"}})
		if got.status != http.StatusUnprocessableEntity || len(got.all("input", "name", "retention.devices_days", "aria-invalid", "true")) != 1 {
			t.Errorf("records for a week = %d\n%s", got.status, got.text())
		}
		d.post(t, at+"/retention", url.Values{"retention.audit_days": {"90"}, "retention.commands_days": {"180"}, "retention.devices_days": {"365"}})
		d.get(t, at).says(t, "Audit log 90 days, commands 180 days")
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
		d.ask(t, "POST", at+"/server/check", url.Values{}).says(t, "The server answers at its own address", "once they trust its own authority", "Only this machine gets to")
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
	helpdesk := d.as(t, "helpdesk")
	for _, path := range []string{at, at + "/new", page, page + "/edit"} {
		if got := helpdesk.ask(t, "GET", path, nil); got.status != http.StatusForbidden {
			t.Errorf("%s for the helpdesk = %d, want 403", path, got.status)
		}
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
	got.says(t, "Make yourself an account", "0 of 5", s.url)

	account := url.Values{"email": {"ana@example.com"}, "full_name": {hostile}, "password": {"short"}, "again": {"short"}}
	again := d.ask(t, "POST", at+"/account", account)
	if again.status != http.StatusUnprocessableEntity {
		t.Fatalf("a short password = %d, want 422", again.status)
	}
	again.says(t, "It must have at least 8 characters.")
	again.escapes(t)
	if strings.Contains(again.body, `"short"`) {
		t.Error("the password is shown again")
	}
	account.Set("password", "correct horse battery")
	d.ask(t, "POST", at+"/account", account).says(t, "The two passwords differ.")
	account.Set("again", "correct horse battery")
	d.post(t, at+"/account", account).says(t, "Your account is made", "Signed in as", "1 of 5")
	if got := d.get(t, at); !strings.Contains(textOf(got.all("header")[0]), "ana@example.com") && !strings.Contains(textOf(got.all("header")[0]), "alert(1)") {
		t.Errorf("who is signed in is %s", textOf(got.all("header")[0]))
	}
	d.post(t, at+"/organisation", url.Values{"organisation.name": {"Example"}}).says(t, "2 of 5")
	d.ask(t, "POST", at+"/check", url.Values{}).says(t, "The server answers at its own address", "Only this machine gets to", "2 of 5")

	back := &deskClient{s, s.newClient(t)}
	back.signIn(t, "ana@example.com", "correct horse battery")
	back.get(t, "/admin/settings")
}
