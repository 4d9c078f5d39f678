package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"software.sslmate.com/src/go-pkcs12"

	"github.com/gatehouse-mdm/gatehouse/apns/apnstest"
	"github.com/gatehouse-mdm/gatehouse/mdm/mdmtest"
	"github.com/gatehouse-mdm/gatehouse/webui/browsertest"
)

// owner is a person at the desk, with a browser.
type owner struct {
	*browsertest.Browser
	t *testing.T
	d *deskClient
}

// says waits until the page says all of that.
func (o *owner) says(texts ...string) {
	o.t.Helper()
	for _, text := range texts {
		o.Await(`!!document.querySelector("main") && document.querySelector("main").innerText.toLowerCase().includes(` + jsonText(o.t, strings.ToLower(text)) + `)`) // states begin with a capital by their style
	}
}

// sound holds that there is nothing to trip over on the page.
func (o *owner) sound() {
	o.t.Helper()
	o.Check()
	o.Quiet("status of 422") // what a form that was refused is answered with
}

// follow goes where the first link of that text in the main part leads.
func (o *owner) follow(text string) {
	o.t.Helper()
	find := `[...document.querySelectorAll("main a")].find(a => a.textContent.includes(` + jsonText(o.t, text) + `))`
	o.Await("!!" + find)
	o.Go(browsertest.Eval[string](o.Browser, find+".href"))
}

// refused uploads a file that is not the right one: the page says so at the field, and
// what was typed elsewhere stays.
func (o *owner) refused(why string) {
	o.t.Helper()
	if status := o.Submit(`form[enctype] button[type=submit]`); status != http.StatusUnprocessableEntity {
		o.t.Errorf("the file that %q is said of = %d, want 422", why, status)
	}
	o.Await(`[...document.querySelectorAll(".field-error")].some(e => e.innerText.includes(` + jsonText(o.t, why) + `) && document.querySelector('[aria-describedby~="' + e.id + '"]').matches("[type=file]"))`)
	if noted := browsertest.Eval[string](o.Browser, `document.querySelector("[name=apple_account]")?.value ?? "none"`); noted != "new@example.com" && noted != "none" {
		o.t.Errorf("after %q the Apple Account is %q", why, noted)
	}
}

// TestAnOwnerRenewsThePushCertificate is a day that comes once a year, in a browser: on a
// desktop, with each mistake on the way, and on a phone, with others to sign the request.
// Devices come when they are pushed by the new certificate.
func TestAnOwnerRenewsThePushCertificate(t *testing.T) {
	service, err := apnstest.New(apnstest.Options{})
	must(t, err)
	t.Cleanup(func() { must(t, service.Close()) })
	apple, vendor := applesPortal{service}, newPushVendor(t)
	ca := filepath.Join(t.TempDir(), "apns-ca.pem")
	must(t, os.WriteFile(ca, service.CAPEM(), 0o600))
	d := startDeskBeside(t, elsewhere{mdmcert: vendor.serve(t)}, "--apns-url", service.URL(), "--apns-ca", ca)

	// Last year's certificate ends in ten days, and two devices were enrolled by it.
	const topic, other = "com.apple.mgmt.External.story", "com.apple.mgmt.External.other"
	chain, key, err := service.Issue(apnstest.Identity{Topic: topic, NotAfter: time.Now().UTC().AddDate(0, 0, 10).Add(time.Hour)})
	must(t, err)
	d.call(t, "POST", "/api/v1/push-certificates/import", map[string]any{"file": chain, "key": key, "apple_account": "it@example.com"}, &struct{}{})
	came := &woken{byToken: map[string]*mdmtest.Device{}, pushed: map[string]int{}, polled: make(chan struct{}, 1)}
	t.Cleanup(came.work.Wait)
	for _, o := range []mdmtest.Options{{}, {Model: mdmtest.Mac}} {
		device := d.phone(t, o)
		must(t, device.Enroll(t.Context(), d.newLink(t)+"/profile"))
		token, _ := device.Channel().Push()
		came.byToken[string(token)] = device
	}
	var mu sync.Mutex
	by := map[string]bool{} // fingerprints of certificates that Apple took pushes by
	service.Handle(func(r apnstest.Received) apnstest.Answer {
		mu.Lock()
		by[r.Certificate] = true
		mu.Unlock()
		return came.takes(r)
	})
	var devices struct {
		Items []struct {
			ID   string
			Name string `json:"device_name"`
		}
	}
	d.call(t, "GET", "/api/v1/devices?sort=-last_seen_at", nil, &devices)
	year := time.Now().UTC().AddDate(0, 0, 365)

	t.Run("on a desktop", func(t *testing.T) {
		o := &owner{browsertest.Open(t), t, d}
		o.Screen(1280, 900, false)
		d.signInBy(o.Browser, ownerEmail, ownerPassword)
		o.says("The push certificate")
		o.sound()
		o.follow("Look into it: The push certificate")
		o.says("10 days left", "it@example.com")
		o.sound()
		o.follow("Renew")
		o.says("Step 1 of 4", "For 2 devices")
		o.sound()
		o.Click(`input[name=kind][value=csr]`)
		o.Submit(`main form button[type=submit]`)
		o.says("Step 2 of 4", "press Renew", "it@example.com")
		o.sound()
		csr := o.Download(`main a[href$="/csr"]`)

		// What people take for the certificate.
		o.Fill(`[name=apple_account]`, "new@example.com")
		foreign, _, err := service.Issue(apnstest.Identity{Topic: topic})
		must(t, err)
		for _, wrong := range []struct {
			name    string
			content []byte
			why     string
		}{
			{"ca.pem", []byte(d.get(t, "/ca.pem").body), "by which it issues certificates (SCEP)"},
			{"gatehouse-push.csr", csr, "certificate signing request"},
			{"MDM_Certificate.pem", foreign, "The private key is missing"},
			{"pushcert.html", []byte("<!doctype html><title>Sign in</title>"), "The file is a web page"},
		} {
			o.Choose(`[name=file]`, wrong.name, wrong.content)
			o.refused(wrong.why)
		}
		o.sound()

		o.Choose(`[name=file]`, "MDM_Certificate.pem", apple.certify(t, csr, topic, year))
		o.Submit(`form[enctype] button[type=submit]`)
		o.says("Compare, then activate", "The topic is the same", "2 devices go on with it", "new@example.com")
		o.sound()
		o.Submit(`main form button[type=submit]`)
		o.says("Step 4 of 4", "364 days left", "new@example.com")
		o.sound()

		// A device that is pushed by it comes, and its page says so by itself.
		var renewed struct {
			Items []struct {
				SHA256  string
				Devices int
			}
		}
		d.call(t, "GET", "/api/v1/push-certificates", nil, &renewed)
		if len(renewed.Items) != 1 || renewed.Items[0].Devices != 2 {
			t.Fatalf("the certificates are %+v", renewed)
		}
		d.call(t, "POST", "/api/v1/commands", map[string]any{"request_type": "DeviceInformation", "device_ids": []string{devices.Items[0].ID, devices.Items[1].ID}, "no_push": true}, &struct{}{})
		o.Submit(`form[action$="/try"] button`)
		o.says("Pushed.")
		o.sound()
		o.Await(`!document.querySelector("main").innerText.includes("is pending")`)
		mu.Lock()
		if !by[renewed.Items[0].SHA256] {
			t.Errorf("Apple took pushes by %v, and none by %s", by, renewed.Items[0].SHA256)
		}
		mu.Unlock()
		o.sound()

		// Next year somebody presses Create.
		o.Go(d.url + "/admin/settings/push/new?renews=" + topic)
		o.Click(`input[name=kind][value=csr]`)
		o.Submit(`main form button[type=submit]`)
		csr = o.Download(`main a[href$="/csr"]`)
		o.Choose(`[name=file]`, "MDM_Certificate.pem", apple.certify(t, csr, other, year))
		o.Submit(`form[enctype] button[type=submit]`)
		o.says("Stop: this is another topic", "2 devices are woken by", topic, devices.Items[0].Name, devices.Items[1].Name, "new@example.com")
		o.sound()
		o.follow("Delete it")
		o.sound()
		o.Submit(`main form button[type=submit]`)
		o.says("364 days left")
		if strings.Contains(browsertest.Eval[string](o.Browser, `document.querySelector("main").innerText`), other) {
			t.Error("the certificate of another topic is still there")
		}

		// Who has a certificate with its key from elsewhere uploads both.
		o.Go(d.url + "/admin/settings/push/upload")
		chain, key, err := service.Issue(apnstest.Identity{Topic: topic, NotAfter: year})
		must(t, err)
		o.Fill(`[name=apple_account]`, "new@example.com")
		o.Choose(`[name=file]`, "push.pem", chain)
		o.Choose(`[name=key]`, "push.key", anotherKey(t))
		o.refused("does not belong to the certificate")
		p12 := protected(t, chain, key, "secret")
		o.Choose(`[name=file]`, "push.p12", p12)
		o.refused("its password is missing")
		o.sound()
		o.Choose(`[name=file]`, "push.p12", p12)
		o.Fill(`[name=password]`, "wrong")
		o.refused("The password is wrong")
		o.Choose(`[name=file]`, "push.p12", p12)
		o.Fill(`[name=password]`, "secret")
		o.Submit(`form[enctype] button[type=submit]`)
		o.says("Compare, then activate")
		o.follow("Not yet")
		o.says("Another one is ready")
		o.sound()
	})

	t.Run("on a phone", func(t *testing.T) {
		o := &owner{browsertest.Open(t), t, d}
		o.Screen(390, 844, true)
		d.signInBy(o.Browser, ownerEmail, ownerPassword)
		o.Go(d.url + "/admin/settings/push")
		o.sound()

		// By mdmcert.download, which mails the file for Apple.
		o.Go(d.url + "/admin/settings/push/new?renews=" + topic)
		o.sound()
		o.Fill(`[name=email]`, "nobody@example.com")
		o.Fill(`[name=api_key]`, "program-key")
		o.Submit(`main form button[type=submit]`)
		o.says("mdmcert.download refuses the request: the address is not registered.")
		o.sound()
		o.Fill(`[name=email]`, "it@example.com")
		o.Fill(`[name=api_key]`, "program-key")
		o.Submit(`main form button[type=submit]`)
		o.says("mdmcert.download mails a file to it@example.com")
		o.sound()
		o.Choose(`[name=mailed]`, "mail.txt", []byte("Dear customer"))
		o.refused("The file is not what mdmcert.download mails")
		o.sound()
		o.Choose(`[name=mailed]`, "mdm_signed_request.plist.b64.p7", vendor.mailed(t))
		o.Submit(`form[enctype] button[type=submit]`)
		o.says("Ready for Apple", "Step 3 of 4")
		o.sound()
		apple.vouched(t, o.Download(`main a[href$="/file"]`))
		o.follow("Give up this request…")
		o.Submit(`form[action$="/delete"] button`)

		// By the organisation's own vendor certificate.
		o.Go(d.url + "/admin/settings/push/vendor")
		o.sound()
		o.Choose(`[name=file]`, "vendor.cer", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: vendor.chain[0].Raw}))
		o.refused("The private key of the vendor certificate is missing")
		o.sound()
		file, err := pkcs12.Modern.Encode(vendor.key, vendor.chain[0], vendor.chain[1:], "secret")
		must(t, err)
		o.Choose(`[name=file]`, "vendor.p12", file)
		o.Fill(`[name=password]`, "secret")
		o.Submit(`form[enctype] button[type=submit]`)
		o.says("This server signs with", "MDM Vendor: Example")
		o.sound()
		o.Go(d.url + "/admin/settings/push/new?renews=" + topic)
		o.Submit(`main form button[type=submit]`) // the vendor certificate is chosen already
		o.says("Ready for Apple")
		o.Choose(`[name=file]`, "MDM_Certificate.pem", apple.certify(t, o.Download(`main a[href$="/file"]`), topic, year.AddDate(0, 0, 5)))
		o.Submit(`form[enctype] button[type=submit]`)
		o.says("Compare, then activate", "2 devices go on with it")
		o.sound()
		o.Submit(`main form button[type=submit]`)
		o.says("Step 4 of 4", "369 days left")
		o.sound()
		o.Submit(`form[action$="/try"] button`)
		o.says("Pushed.")
		o.sound()

		o.Go(d.url + "/admin/settings/push/new")
		o.says("To renew a certificate, press Renew instead")
		o.sound()
		o.Click(`input[name=kind][value=csr]`)
		o.Submit(`main form button[type=submit]`)
		o.Choose(`[name=file]`, "MDM_Certificate.pem", apple.certify(t, o.Download(`main a[href$="/csr"]`), other, year))
		o.Submit(`form[enctype] button[type=submit]`)
		o.says("Stop: this is another topic", devices.Items[0].Name)
		o.sound()
		o.Fill(`[name=typed]`, "second certificate")
		o.Submit(`main form button.danger`)
		o.says("Step 4 of 4", "No device is woken by it yet")
		o.sound()
		o.Go(d.url + "/admin/settings/push")
		o.says(topic, other)
		o.sound()
	})
}

// anotherKey makes a key that no certificate is for, in PEM.
func anotherKey(t *testing.T) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	must(t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

// protected makes a PKCS #12 file of a certificate and its key in PEM.
func protected(t *testing.T, chain, key []byte, password string) []byte {
	t.Helper()
	block, _ := pem.Decode(chain)
	certificate, err := x509.ParseCertificate(block.Bytes)
	must(t, err)
	block, _ = pem.Decode(key)
	private, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	must(t, err)
	file, err := pkcs12.Modern.Encode(private, certificate, nil, password)
	must(t, err)
	return file
}
