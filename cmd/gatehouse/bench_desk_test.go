package main

import (
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// deskPaths are the pages of administrators whose length or effort depends on how much
// there is. A device is one of those that were seeded.
var deskPaths = []string{
	"/admin", "/admin/devices", "/admin/devices?q=phone", "/admin/devices?state=enrolled&sort=name", "/admin/devices/seeded00000001",
	"/admin/commands", "/admin/commands/new?device_id=seeded00000001", "/admin/enrollment", "/admin/profiles", "/admin/certificates",
	"/admin/users", "/admin/settings", "/admin/audit",
}

// deskOf returns a browser that is signed in to a server whose data is in dir, and where
// the server is.
func deskOf(t testing.TB, dir string) (*http.Client, string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(file, []byte(ownerPassword), 0o600); err != nil {
		t.Fatal(err)
	}
	s := newProcess(t, dir, "--admin-email", ownerEmail, "--admin-password-file", file)
	s.start(t)
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Jar: jar, Transport: s.http.Transport}
	resp, err := client.PostForm(s.url+"/admin/login", url.Values{"email": {ownerEmail}, "password": {ownerPassword}})
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusOK || strings.HasSuffix(resp.Request.URL.Path, "/login") {
		t.Fatalf("signing in = %s at %s", resp.Status, resp.Request.URL)
	}
	return client, s.url
}

func pageBody(client *http.Client, at string) (body []byte, err error) {
	req, err := http.NewRequest(http.MethodGet, at, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "text/html")
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	if body, err = io.ReadAll(resp.Body); err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s = %s", at, resp.Status)
	}
	return body, err
}

// BenchmarkPagesAmong100000Devices is what an administrator waits for: 50 ms at most.
func BenchmarkPagesAmong100000Devices(b *testing.B) {
	dir := b.TempDir()
	seedDevices(b, dir, 100_000)
	client, at := deskOf(b, dir)
	for _, path := range deskPaths {
		b.Run(strings.NewReplacer("/", "_", "?", "_").Replace(path), func(b *testing.B) {
			var size int
			for b.Loop() {
				body, err := pageBody(client, at+path)
				if err != nil {
					b.Fatal(err)
				}
				size = len(body)
			}
			b.ReportMetric(float64(size)/1000, "KB/page")
		})
	}
}

// TestPagesAreLight holds each page with full lists, with all that it loads, to 100 KB.
func TestPagesAreLight(t *testing.T) {
	if testing.Short() {
		t.Skip("builds a server")
	}
	storagetest.AnyEngine(t)
	t.Parallel()
	dir := t.TempDir()
	seedDevices(t, dir, 300)
	client, at := deskOf(t, dir)
	assets := map[string]int{}
	for _, path := range deskPaths {
		body, err := pageBody(client, at+path)
		if err != nil {
			t.Error(err)
			continue
		}
		size := len(body)
		for _, quoted := range strings.Split(string(body), `"`) {
			if !strings.HasPrefix(quoted, "/assets/") {
				continue
			}
			if assets[quoted] == 0 {
				file, err := pageBody(client, at+quoted)
				if err != nil {
					t.Fatal(err)
				}
				assets[quoted] = len(file)
			}
			size += assets[quoted]
		}
		if size > 100_000 {
			t.Errorf("%s with what it loads has %d bytes, want 100,000 at most", path, size)
		}
	}
}
