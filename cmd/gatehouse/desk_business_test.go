package main

import (
	"net/http"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/enroll/business/businesstest"
	"github.com/gatehouse-mdm/gatehouse/webui/browsertest"
)

// TestAnOwnerConnectsAppleBusinessManager goes from the key to the discovery address and
// back, in a browser, past what Apple and people do wrong.
func TestAnOwnerConnectsAppleBusinessManager(t *testing.T) {
	apple := businesstest.New(t, time.Now)
	d := startDeskBeside(t, elsewhere{business: apple.URL})
	o := &owner{browsertest.Open(t), t, d}
	o.Screen(390, 844, true)
	d.signInBy(o.Browser, ownerEmail, ownerPassword)
	const at, answers = "/admin/enrollment/account-driven/apple", "POST /account-driven-enrollment/profile"
	o.Go(d.url + at)
	o.says("Not connected", "Make the key")
	o.sound()
	o.Submit(`form[action$="/key"] button`)
	o.says("waits for Apple’s token")
	certificate := o.Download(`main a[href$="/certificate"]`)

	o.Choose(`[name=token]`, "certificate.pem", certificate)
	o.refused("This is")
	o.sound()
	o.Choose(`[name=token]`, "server_token_smime.p7m", businesstest.File(t, certificate, apple.TokenUntil(time.Now())))
	o.refused("expired")
	o.Choose(`[name=token]`, "server_token_smime.p7m", apple.TokenFile(t, certificate))
	o.Submit(`form[action$="/token"] button`)
	o.says("Uploaded.", "connected", "Example", "364 days left", "Apple was not asked yet")
	o.sound()

	// Apple is away, and asks for something before it does more.
	apple.Next(answers, businesstest.Answer{Status: http.StatusInternalServerError}, businesstest.Answer{Status: http.StatusForbidden, Body: "T_C_NOT_SIGNED"})
	for _, why := range []string{"Apple", "T_C_NOT_SIGNED"} {
		if status := o.Submit(`button[name=step][value=set]`); status != http.StatusUnprocessableEntity {
			t.Errorf("an answer of Apple’s that is none = %d, want 422", status)
		}
		o.Await(`[...document.querySelectorAll("main [role=alert]")].some(e => e.innerText.includes(` + jsonText(t, why) + `))`)
	}
	o.sound()
	o.Submit(`button[name=step][value=set]`)
	o.says("to this server")
	if got, want := apple.DiscoveryURL(), d.url+"/.well-known/com.apple.remotemanagement"; got != want {
		t.Errorf("Apple leads devices to %s, want %s", got, want)
	}
	o.sound()
	o.Submit(`form[action$="/check"] button`)
	o.says("connected")

	o.Screen(1280, 900, false)
	apple.SetDiscoveryURL("https://elsewhere.example/")
	o.Submit(`form[action$="/check"] button`)
	o.says("to another address", "https://elsewhere.example/")
	o.sound()
	o.Submit(`button[name=step][value=remove]`)
	o.says("nowhere yet")
	o.follow("Disconnect from Apple")
	o.sound()
	o.Submit(`main form button[type=submit]`)
	o.says("Not connected")
}
