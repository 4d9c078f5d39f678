package main

import (
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"strings"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// TestNobodyElseSaysWhoWeAre asks for everything that strangers may see, under another name:
// none of it, nor what it leads to, may hold that name.
func TestNobodyElseSaysWhoWeAre(t *testing.T) {
	storagetest.AnyEngine(t)
	t.Parallel()
	const foreign = "evil.example"
	s := start(t, t.TempDir())
	s.person(t, nil)
	var link struct{ URL, Code string }
	s.call(t, "POST", "/api/v1/enrollment-links", map[string]any{"login": "none", "ownership": "personal", "uses": 5}, &link)
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: s.client.Transport, Jar: jar, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	ask := func(method, path string, form url.Values) (location string) {
		t.Helper()
		req, err := http.NewRequest(method, s.url+path, strings.NewReader(form.Encode()))
		if err != nil {
			t.Fatal(err)
		}
		req.Host = foreign
		for _, header := range []string{"X-Forwarded-Host", "X-Forwarded-Server", "X-Host", "Forwarded"} {
			req.Header.Set(header, "host="+foreign)
		}
		req.Header.Set("X-Original-Host", foreign)
		req.Header.Set("Accept", "text/html")
		req.Header.Set("User-Agent", iPhoneSafari26)
		if method == http.MethodPost {
			req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			req.Header.Set("Origin", s.url)
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode >= http.StatusInternalServerError {
			t.Errorf("%s %s = %s", method, path, resp.Status)
		}
		if strings.Contains(string(body), foreign) {
			t.Errorf("%s %s says %s", method, path, foreign)
		}
		for name, values := range resp.Header {
			if strings.Contains(strings.Join(values, " "), foreign) {
				t.Errorf("%s %s: %s: %s", method, path, name, values)
			}
		}
		return resp.Header.Get("Location")
	}
	visit := ask("POST", "/enroll/start", url.Values{"link": {link.Code}, "platform": {"iphone"}})
	if !strings.HasPrefix(visit, "/enroll/a/") {
		t.Fatalf("starting leads to %q", visit)
	}
	for _, path := range []string{
		"/", "/setup", "/login", "/login?next=/me", "/logout", "/me", "/admin", "/admin/login", "/enroll", "/enroll?platform=windows", "/enroll/l/" + link.Code,
		"/enroll/l/" + link.Code + "/profile", "/enroll/l/nosuchcode", visit, visit + "/certificate", visit + "/trust", visit + "/profile",
		visit + "/enroll.mobileconfig", visit + "/ca.mobileconfig", visit + "/status", visit + "/state", "/ca.mobileconfig", "/ca.pem", "/mdm/checkin", "/scep", "/nothing/here",
	} {
		ask("GET", path, nil)
	}
	ask("POST", "/login", url.Values{"email": {anaEmail}, "password": {"wrong horse"}, "next": {"https://" + foreign + "/me"}})
	if at := ask("POST", "/login", url.Values{"email": {anaEmail}, "password": {anaPassword}, "next": {"//" + foreign}}); strings.Contains(at, foreign) || at == "" {
		t.Errorf("signing in leads to %q", at)
	}
	ask("GET", "/me", nil)
}
