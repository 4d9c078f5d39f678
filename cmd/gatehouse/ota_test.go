package main

import (
	"bytes"
	"encoding/base64"
	"errors"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/depot/template"
	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/mdmtest"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// asked begins an enrollment at a portal that asks devices what they are, and returns its
// attempt and what the person downloads.
func (c *composed) asked(t testing.TB) (string, []byte) {
	t.Helper()
	_, err := c.enroll.UpdateSettings(t.Context(), func(s *enroll.Settings) error {
		s.ProfileService = true
		return nil
	})
	must(t, err)
	l, err := c.enroll.CreateLink(t.Context(), enroll.NewLink{Login: enroll.LoginNone, User: "ana@example.com"})
	must(t, err)
	a, err := c.enroll.BeginVisit(t.Context(), enroll.NewVisit{LinkCode: l.Code})
	must(t, err)
	raw, _, err := c.enroll.VisitProfile(t.Context(), a.ID)
	must(t, err)
	return a.ID, raw
}

// TestADeviceSaysWhatItIsBeforeItEnrolls goes the whole way, at a server that has Apple's
// authority pinned and only logs who is not by it.
func TestADeviceSaysWhatItIsBeforeItEnrolls(t *testing.T) {
	storagetest.AnyEngine(t)
	for _, model := range []mdmtest.Model{mdmtest.IPhone, mdmtest.Mac} {
		t.Run(string(model), func(t *testing.T) {
			c := newComposed(t, nil)
			id, raw := c.asked(t)
			d := c.device(t, mdmtest.Options{Model: model})
			p, err := d.ProfileService(raw)
			must(t, err)
			must(t, d.EnrollProfile(t.Context(), raw))
			a, err := c.enroll.Attempt(t.Context(), id)
			must(t, err)
			if a.Stage != enroll.Enrolled || a.Stated == nil || a.Stated.UDID != d.ID() || a.Stated.Genuine {
				t.Errorf("the attempt is %+v, stated %+v", a, a.Stated)
			}
			var got mdm.Device
			must(t, c.db.View(t.Context(), func(tx storage.Tx) (err error) {
				got, err = mdm.FindDevice(tx, mdm.AppleID{UDID: d.ID()})
				return err
			}))
			if got.State != mdm.Enrolled || got.User != "ana@example.com" {
				t.Errorf("the device is %+v", got)
			}
			log := c.log.String()
			if !strings.Contains(log, "nobody vouches for a device") || !strings.Contains(log, "Apple iPhone Device CA") {
				t.Error("the log does not say who the device's identity is by")
			}
			for what, secret := range map[string]string{"token": p.URL[strings.LastIndex(p.URL, "/")+1:], "challenge": p.Challenge} {
				if strings.Contains(log, secret) {
					t.Errorf("the %s is in the log", what)
				}
			}
		})
	}
}

func TestWhatTheAddressOfDeliveriesAnswers(t *testing.T) {
	storagetest.AnyEngine(t)
	c := newComposed(t, nil)
	_, raw := c.asked(t)
	d := c.device(t, mdmtest.Options{})
	p, err := d.ProfileService(raw)
	must(t, err)
	builtin, err := d.BuiltIn()
	must(t, err)
	good, err := d.PrepareStatement(p, d.Statement(p), builtin)
	must(t, err)
	post := func(body []byte, change func(*http.Request)) (*http.Response, string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), "POST", p.URL, bytes.NewReader(body))
		must(t, err)
		change(req)
		resp, err := c.http.RoundTrip(req)
		must(t, err)
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		must(t, err)
		return resp, string(text)
	}
	for name, tt := range map[string]struct {
		body   []byte
		change func(*http.Request)
		status int
		code   string
	}{
		"nothing":                 {nil, nil, 400, "GH-E301"},
		"garbage":                 {[]byte("garbage"), nil, 400, "GH-E301"},
		"more than is read":       {bytes.Repeat([]byte{0x30}, 100<<10), nil, 413, "GH-E301"},
		"more than is taken":      {make([]byte, 2<<20), nil, 413, "GH-E301"},
		"that, without a length":  {make([]byte, 2<<20), func(r *http.Request) { r.ContentLength = -1 }, 413, "GH-E301"},
		"a token that is another": {good.Body, func(r *http.Request) { r.URL.Path += "A" }, 410, "GH-E303"},
		"from another site":       {good.Body, func(r *http.Request) { r.Header.Set("Origin", "https://evil.example") }, 403, ""},
	} {
		t.Run(name, func(t *testing.T) {
			if tt.change == nil {
				tt.change = func(*http.Request) {}
			}
			resp, text := post(tt.body, tt.change)
			if resp.StatusCode != tt.status || !strings.HasPrefix(text, tt.code) || len(text) > 200 && tt.code != "" {
				t.Errorf("%d %.300q, want %d and %s", resp.StatusCode, text, tt.status, tt.code)
			}
			if kind := resp.Header.Get("Content-Type"); tt.code != "" && kind != "text/plain; charset=utf-8" {
				t.Errorf("Content-Type is %s", kind)
			}
		})
	}
	// Apple's article prints other media types than are seen, and a Host says nothing.
	resp, text := post(good.Body, func(r *http.Request) {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.Host = "evil.example"
	})
	if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "application/x-apple-aspen-config" || !strings.Contains(resp.Header.Get("Cache-Control"), "no-store") || resp.Header.Get("Set-Cookie") != "" {
		t.Errorf("%d with %v", resp.StatusCode, resp.Header)
	}
	if strings.Contains(text, "evil.example") || !strings.Contains(text, c.url+enroll.PathOTASCEP) {
		t.Error("the answer names another server")
	}
	get, err := http.NewRequestWithContext(t.Context(), "GET", p.URL, nil)
	must(t, err)
	if resp, err = c.http.RoundTrip(get); err != nil || resp.StatusCode != 405 {
		t.Errorf("GET = %v, %v; want 405", resp, err)
	}
	resp.Body.Close()
}

// TestTheCertificateOfADeliveryIsGoodForNothingElse takes it to every door.
func TestTheCertificateOfADeliveryIsGoodForNothingElse(t *testing.T) {
	storagetest.AnyEngine(t)
	const header = "X-Client-Cert"
	c := newComposed(t, func(cfg *config) {
		cfg.clientCertHeader = header
		cfg.trustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32"), netip.MustParsePrefix("::1/128")}
	})
	ctx := t.Context()
	c.desk(t).template(t, "wifi", func(tmpl *template.Template) {})
	victim := c.enrolled(t, mdmtest.Options{})
	thief, s := c.installed(t)
	_, raw := c.asked(t)
	d := c.device(t, mdmtest.Options{})
	p, err := d.ProfileService(raw)
	must(t, err)
	builtin, err := d.BuiltIn()
	must(t, err)
	answer, err := d.Tell(ctx, p, d.Statement(p), builtin)
	must(t, err)
	step, err := d.Configuration(answer)
	must(t, err)
	ours, err := d.DeliveryIdentity(ctx, step)
	must(t, err)

	// MDM, by signature and by certificate.
	thief.SetIdentity(ours.Certificate, ours.Key)
	for _, ids := range []mdmtest.Dict{d.IDs(), victim.IDs()} {
		for _, kind := range []string{"Authenticate", "TokenUpdate", "CheckOut"} {
			message := mdmtest.Dict{
				"MessageType": kind, "Topic": victim.Profile().MDM.Topic, "Token": []byte("t"), "PushMagic": "m",
				"Model": "x", "ModelName": "x", "DeviceName": "x", "SerialNumber": "x",
			}
			for k, v := range ids {
				message[k] = v
			}
			prepared, err := thief.PrepareCheckIn(message)
			must(t, err)
			if got := c.status(t, prepared); got != 403 {
				t.Errorf("%s of %v: %d, want 403", kind, ids, got)
			}
			prepared.Header.Del("Mdm-Signature")
			prepared.Header.Set(header, ":"+base64.StdEncoding.EncodeToString(ours.Certificate.Raw)+":")
			if got := c.status(t, prepared); got != 403 {
				t.Errorf("%s of %v by header: %d, want 403", kind, ids, got)
			}
		}
	}

	// SCEP: as what renews an identity, a certificate of a template, or itself.
	for _, path := range []string{enroll.PathSCEP, "/scep/wifi", enroll.PathOTASCEP} {
		door := *s
		door.URL, door.Name, door.Fingerprint = c.url+path, "", nil
		must(t, door.Discover(ctx))
		for _, kind := range []string{"17", "19"} {
			renewal, err := thief.Request(&door, thief.Profile(), mdmtest.WithSigner(ours.Certificate, ours.Key), mdmtest.WithMessageType(kind), mdmtest.WithChallenge())
			must(t, err)
			var failure *mdmtest.SCEPFailure
			if _, err := door.Send(ctx, renewal); !errors.As(err, &failure) {
				t.Errorf("%s, message type %s: %v, want a refusal", path, kind, err)
			}
		}
		if path == enroll.PathOTASCEP {
			continue
		}
		// Its challenge, which is spent, buys nothing elsewhere.
		again, err := thief.Request(&door, thief.Profile(), mdmtest.WithChallenge(step.SCEP.Challenge))
		must(t, err)
		if _, err := door.Send(ctx, again); err == nil {
			t.Errorf("%s took the challenge of a delivery", path)
		}
	}

	// EST.
	csr, _ := printer(t, "printer")
	for _, path := range []string{"/.well-known/est/simplereenroll", "/.well-known/est/wifi/simplereenroll", "/.well-known/est/wifi/simpleenroll"} {
		req, err := http.NewRequestWithContext(ctx, "POST", c.url+path, strings.NewReader(base64.StdEncoding.EncodeToString(csr)))
		must(t, err)
		req.Header.Set("Content-Type", "application/pkcs10")
		req.Header.Set(header, ":"+base64.StdEncoding.EncodeToString(ours.Certificate.Raw)+":")
		resp, err := c.http.RoundTrip(req)
		must(t, err)
		resp.Body.Close()
		if resp.StatusCode < 400 || resp.StatusCode >= 500 {
			t.Errorf("%s: %d, want a refusal", path, resp.StatusCode)
		}
	}

	// And for that one thing it is good.
	final, err := d.Tell(ctx, p, d.Statement(p), ours)
	must(t, err)
	must(t, d.EnrollProfile(ctx, final))
	if _, err := victim.Idle(ctx); err != nil {
		t.Errorf("the device that was spoken for: %v", err)
	}
}

// TestALinkForListedDevices has a link that is for some devices only.
func TestALinkForListedDevices(t *testing.T) {
	storagetest.AnyEngine(t)
	c := newComposed(t, nil)
	l, err := c.enroll.CreateLink(t.Context(), enroll.NewLink{Login: enroll.LoginNone, Uses: 2, SerialNumbers: []string{"C02LISTED001"}})
	must(t, err)
	at := c.url + "/enroll/l/" + l.Code + "/profile"
	must(t, c.device(t, mdmtest.Options{Serial: "C02LISTED001"}).Enroll(t.Context(), at))
	d := c.device(t, mdmtest.Options{Serial: "C02OTHER0001"})
	var answer *mdmtest.HTTPError
	if err := d.Enroll(t.Context(), at); !errors.As(err, &answer) || answer.Status != 403 || strings.Contains(string(answer.Body), "unrecognized") {
		t.Errorf("a device that is not listed: %v, want a plain 403", err)
	}
	var refused struct {
		Items []struct{ Outcome, Reason string }
	}
	c.api(t, "GET", "/audit?action=device.refused", nil, &refused)
	if len(refused.Items) != 1 || refused.Items[0].Outcome != "refused" || !strings.Contains(refused.Items[0].Reason, "serial number") {
		t.Errorf("the audit log has %+v", refused.Items)
	}
}
