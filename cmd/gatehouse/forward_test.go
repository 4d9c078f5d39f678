package main

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/mdm/mdmtest"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// TestOtherServersHaveTheirPart has a device fetch what another server declares, and an asset
// from behind the authenticated proxy, by each way of saying who it is.
func TestOtherServersHaveTheirPart(t *testing.T) {
	storagetest.AnyEngine(t)
	t.Parallel()
	var mu sync.Mutex
	var asked []string
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		mu.Lock()
		defer mu.Unlock()
		user, password, _ := r.BasicAuth()
		asked = append(asked, fmt.Sprintf("%s %s as %s by %s:%s %s", r.Method, r.RequestURI, r.Header.Get("X-Enrollment-ID"), user, password, body))
		switch r.URL.Path {
		case "/ddm/tokens":
			_, _ = io.WriteString(w, `{"SyncTokens":{"DeclarationsToken":"T1","Timestamp":"2026-01-31T12:00:00Z"}}`)
		case "/ddm/declaration-items":
			_, _ = io.WriteString(w, `{"Declarations":{"Activations":[],"Assets":[],"Configurations":[],"Management":[]},"DeclarationsToken":"T1"}`)
		}
	}))
	t.Cleanup(other.Close)
	since := func() string {
		mu.Lock()
		defer mu.Unlock()
		got := strings.Join(asked, "\n")
		asked = nil
		return got
	}
	declared := strings.Replace(other.URL, "http://", "http://gatehouse:sentinel-password@", 1) + "/ddm"
	m := startMutual(t, "--declarative-management-url", declared, "--auth-proxy-url", other.URL+"/assets")
	pool, err := keyPool()
	must(t, err)
	enrolled := func() (*mdmtest.Device, string) {
		d := m.phone(t, mdmtest.Options{Keys: pool})
		must(t, d.Enroll(t.Context(), m.newLink(t)+"/profile"))
		var page struct{ Items []struct{ ID, UDID string } }
		m.call(t, "GET", "/api/v1/devices", nil, &page)
		for _, item := range page.Items {
			if item.UDID == d.ID() {
				return d, item.ID
			}
		}
		t.Fatal("the device is not there")
		return nil, ""
	}
	d, id := enrolled()

	m.call(t, "POST", "/api/v1/commands", map[string]any{"request_type": "DeclarativeManagement", "device_ids": []string{id}}, &struct{}{})
	_, err = d.Poll(t.Context())
	must(t, err)
	must(t, d.Channel().Declared())
	got := since()
	for _, want := range []string{
		"GET /ddm/tokens as " + d.ID() + " by gatehouse:sentinel-password", "GET /ddm/declaration-items as " + d.ID(), "PUT /ddm/status as " + d.ID(),
	} {
		if !strings.Contains(got, want) {
			t.Errorf("asked was\n%s\nwant %s", got, want)
		}
	}

	cert, key := d.Identity()
	mine := &tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key}
	csr, printerKey := printer(t, "printer")
	status, printers, text := m.est(t, m.client, m.url, "printer/simpleenroll", csr, "Authorization", "Bearer "+m.token)
	if status != http.StatusOK {
		t.Fatalf("simpleenroll: %d %s", status, text)
	}
	forged, forger := selfSigned(t, printers)
	signature := func(d *mdmtest.Device, body string) string {
		p, err := d.PrepareRaw(false, []byte(body))
		must(t, err)
		return p.Header.Get("Mdm-Signature")
	}
	blocked, blockedID := enrolled()
	m.call(t, "POST", "/api/v1/devices/"+blockedID+"/block", map[string]any{"reason": "lost"}, &struct{}{})
	fresh := m.phone(t, mdmtest.Options{Keys: pool}) // has an identity, and has not said who it is
	raw, err := fresh.Download(t.Context(), m.newLink(t)+"/profile")
	must(t, err)
	must(t, fresh.Install(raw))
	must(t, fresh.RequestIdentity(t.Context()))
	for name, tt := range map[string]struct {
		client    *http.Client
		at        string
		body      string
		signature string
		want      int
	}{
		"by its signature":                     {m.client, m.url, "", signature(d, ""), http.StatusOK},
		"by its signature over a body":         {m.client, m.url, "a report", signature(d, "a report"), http.StatusOK},
		"by its certificate":                   {m.with(t, mine), m.at, "", "", http.StatusOK},
		"by its certificate, with a body":      {m.with(t, mine), m.at, "a report", "", http.StatusOK},
		"by nothing":                           {m.client, m.url, "", "", http.StatusForbidden},
		"by a signature over something else":   {m.client, m.url, "a report", signature(d, "another"), http.StatusForbidden},
		"by no signature at all":               {m.client, m.url, "", "bm9uZQ==", http.StatusForbidden},
		"by its certificate where none asks":   {m.with(t, mine), m.url, "", "", http.StatusForbidden},
		"by a certificate that is no device's": {m.with(t, &tls.Certificate{Certificate: [][]byte{printers.Raw}, PrivateKey: printerKey}), m.at, "", "", http.StatusForbidden},
		"by a certificate of its own making":   {m.with(t, &tls.Certificate{Certificate: [][]byte{forged.Raw}, PrivateKey: forger}), m.at, "", "", http.StatusForbidden},
		"by a token":                           {m.client, m.url, "", "token", http.StatusForbidden},
		"by one that is blocked":               {m.client, m.url, "", signature(blocked, ""), http.StatusForbidden},
		"by one that has yet to enroll":        {m.client, m.url, "", signature(fresh, ""), http.StatusForbidden},
	} {
		t.Run(name, func(t *testing.T) {
			method := "GET"
			if tt.body != "" {
				method = "PUT"
			}
			req, err := http.NewRequestWithContext(t.Context(), method, tt.at+"/authproxy/logo.png?v=2", strings.NewReader(tt.body))
			must(t, err)
			req.Header.Set("X-Enrollment-ID", "ANOTHER")
			switch tt.signature {
			case "":
			case "token":
				req.Header.Set("Authorization", "Bearer "+apiToken)
			default:
				req.Header.Set("Mdm-Signature", tt.signature)
			}
			resp, err := tt.client.Do(req)
			must(t, err)
			defer resp.Body.Close()
			text, err := io.ReadAll(resp.Body)
			must(t, err)
			if resp.StatusCode != tt.want {
				t.Errorf("%s %s, want %d", resp.Status, text, tt.want)
			}
			want := ""
			if tt.want == http.StatusOK {
				want = method + " /assets/logo.png?v=2 as " + d.ID() + " by : " + tt.body
			} else if problem := (struct{ Code string }{}); json.Unmarshal(text, &problem) != nil || problem.Code != "no_device" {
				t.Errorf("the refusal is %s", text)
			}
			if got := since(); got != want {
				t.Errorf("passed on is %q, want %q", got, want)
			}
		})
	}
	if strings.Contains(m.out.String(), "sentinel-password") {
		t.Error("the log has the password of the declarative server")
	}
}
