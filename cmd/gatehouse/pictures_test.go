package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/mdm/mdmtest"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
	"github.com/gatehouse-mdm/gatehouse/webui/browsertest"
	"github.com/gatehouse-mdm/gatehouse/webui/portal"
)

// TestPictures takes the pictures of docs/ again: `make pictures`.
func TestPictures(t *testing.T) {
	dir := os.Getenv("GATEHOUSE_PICTURES")
	if dir == "" {
		t.Skip("takes pictures when GATEHOUSE_PICTURES names a directory")
	}
	storagetest.AnyEngine(t)
	password := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(password, []byte(anaPassword), 0o600); err != nil {
		t.Fatal(err)
	}
	s := start(t, t.TempDir(), "--admin-email", "admin@example.com", "--admin-password-file", password)
	var done map[string]any
	s.call(t, "PATCH", "/api/v1/settings", map[string]any{
		"organisation": map[string]any{"name": "Example School", "support_email": "it@example.com", "support_phone": "+49 30 123456"},
	}, &done)
	var link struct {
		ProfileURL string `json:"profile_url"`
	}
	s.call(t, "POST", "/api/v1/enrollment-links", map[string]any{"login": "none", "user": "admin@example.com", "ownership": "personal"}, &link)
	if err := s.phone(t, mdmtest.Options{OSVersion: "26.0"}).Enroll(t.Context(), link.ProfileURL); err != nil {
		t.Fatal(err)
	}
	v := &visitor{browsertest.Open(t), t, s}
	v.Screen(390, 844, false)
	v.Go(s.url + "/login?next=/admin")
	v.signIn("admin@example.com", anaPassword)
	take := func(url, name string, width int64) {
		for theme, dark := range map[string]bool{"light": false, "dark": true} {
			v.Screen(width, 844, dark)
			v.Go(s.url + url)
			file := filepath.Join(dir, name+"-"+theme+".png")
			if err := os.WriteFile(file, v.Picture(), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, screen := range portal.Screens {
		width := int64(390)
		if screen == "elsewhere" {
			width = 1000
		}
		take("/enroll/preview/"+screen+"?lang=en&device=iphone-17", screen, width)
	}
	take("/enroll/preview/device?lang=ar&device=iphone-26", "device-ar", 390)
	take("/enroll/preview/profile?lang=de&device=mac-26", "profile-mac-de", 1000)
	take("/me?lang=en", "me", 390)
	take("/me/certificates", "me-certificates", 390)
	take("/me/security", "me-security", 390)
	v.Go(s.url + "/me")
	take(browsertest.Eval[string](v.Browser, `document.querySelector(".thing a").getAttribute("href")`), "me-device", 390)

	// The sign-in that a device opens: the sheet of an iPhone is a little less high.
	s.call(t, "PUT", "/api/v1/account-driven", map[string]any{
		"domains": []map[string]any{{"domain": "example.com", "policy": map[string]any{"iPhone": "byod"}}},
	}, &done)
	phone := s.phone(t, mdmtest.Options{OSVersion: "26.0", Account: &mdmtest.Account{Identifier: "admin@example.com"}})
	_, err := phone.PostEnrollment(t.Context(), s.url+"/enroll/byod", "")
	challenged, ok := errors.AsType[*mdmtest.SignInRequired](err)
	if !ok {
		t.Fatal(err)
	}
	signIn := strings.TrimPrefix(challenged.Challenge.URL, s.url) + "?user-identifier=admin@example.com&lang=en"
	take(signIn, "account-confirm", 390)
	take("/enroll/byod?lang=en", "account-start", 390)
	v.Go(s.url + "/me")
	v.Submit(`form[action="/logout"] button, form.signout button`)
	take(signIn, "account-login", 390)
	take("/login?lang=en", "login", 390)
}
