package main

import (
	"strings"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/mdmtest"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
	"github.com/gatehouse-mdm/gatehouse/webui/browsertest"
)

// TestSomebodyTakesTheirPhoneOutOfManagement is the story of a person who signs in, looks
// at what is stored about the phone, and has it remove its management, all without a
// script.
func TestSomebodyTakesTheirPhoneOutOfManagement(t *testing.T) {
	storagetest.AnyEngine(t)
	t.Parallel()
	browser := browsertest.Open(t)
	c := newComposed(t, nil)
	const password = "correct horse battery staple"
	c.api(t, "POST", "/users", map[string]any{"email": "ana@example.com", "full_name": "Ana Bee", "password": password}, nil)
	l, err := c.enroll.CreateLink(t.Context(), enroll.NewLink{Login: enroll.LoginNone, User: "ana@example.com", Ownership: mdm.Personal})
	must(t, err)
	d := c.device(t, mdmtest.Options{})
	must(t, d.Enroll(t.Context(), c.url+"/enroll/l/"+l.Code+"/profile"))
	identity, _ := d.Identity()
	var phones struct {
		Items []struct {
			ID   string
			Name string `json:"device_name"`
		}
	}
	c.api(t, "GET", "/devices", nil, &phones)
	c.api(t, "POST", "/commands", map[string]any{"request_type": "DeviceInformation", "device_ids": []string{phones.Items[0].ID}}, nil)
	_, err = d.Poll(t.Context())
	must(t, err)
	c.api(t, "GET", "/devices", nil, &phones)
	phone := phones.Items[0]
	if phone.Name == "" {
		t.Fatal("the phone did not tell its name")
	}

	browser.WithoutScripts()
	browser.Screen(390, 844, true)
	says := func(texts ...string) {
		t.Helper()
		page := browsertest.Eval[string](browser, "document.body.innerText")
		for _, text := range texts {
			if !strings.Contains(page, text) {
				t.Errorf("the page %s does not say %q: %s", browsertest.Eval[string](browser, "location.pathname"), text, page)
			}
		}
		browser.Check()
	}
	submit := func(selector string) {
		t.Helper()
		if status := browser.Submit(selector); status != 200 {
			t.Fatalf("%s led to %d: %s", selector, status, browsertest.Eval[string](browser, "document.body.innerText"))
		}
	}
	browser.Go(c.url + "/me")
	browser.Type("#email", "ana@example.com")
	browser.Type("#password", password)
	submit(`form[action="/login"] button`)
	says("My devices", phone.Name, "Managed", "Yours")
	submit(".things a")
	says(phone.Name, "What is stored about it", d.ID())
	submit(`a[href$="/remove"]`)
	says("Remove management from " + phone.Name + "?")
	submit("main form button")
	says("The device was asked to remove management.")

	if n, err := d.Poll(t.Context()); err != nil || n != 1 || d.State() != mdmtest.Removed {
		t.Fatalf("the phone polls: %d commands, %v; it is %s", n, err, d.State())
	}
	browser.Go(c.url + "/me/devices/" + phone.ID)
	says("Not managed anymore")
	must(t, c.db.View(t.Context(), func(tx storage.Tx) error {
		found, err := mdm.GetDevice(tx, mdm.DeviceID(phone.ID))
		if found.State != mdm.Unenrolled {
			t.Errorf("the record says that the phone is %s", found.State)
		}
		return err
	}))
	c.wantStatus(t, "its identity", identity.SerialNumber.Text(16), "revoked")

	submit(`a[href="/me/certificates"]`)
	says("No certificates")
	submit(`a[href="/me/certificates/new"]`)
	says("Me: Ana Bee")
	submit(`a[href="/me/security"]`)
	says("Change password", "Set it up")
	browser.Type("#factor-password", password)
	submit(`form[action="/me/security/factor/begin"] button`)
	says("Set up codes from an app")
	submit(".portal-signout button")
	browser.Go(c.url + "/me")
	if at := browsertest.Eval[string](browser, "location.pathname"); at != "/login" {
		t.Errorf("/me after signing out led to %s, want the login", at)
	}
}
