package checkin_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/mdm/checkin"
	"github.com/gatehouse-mdm/gatehouse/mdm/mdmtest"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// hostileBodies are bodies that no honest device sends, for a device's ids.
func hostileBodies(t testing.TB, d *mdmtest.Device) map[string]string {
	t.Helper()
	plain := func(keys mdmtest.Dict) string {
		body, err := mdmtest.MarshalPlist(keys)
		must(t, err)
		return string(body)
	}
	idle := plain(changed(d.IDs(), mdmtest.Dict{"Status": "Idle"}))
	inside := func(xml string) string { return strings.Replace(idle, "<dict>", "<dict>"+xml, 1) }
	kind := func(k string) string { return plain(changed(d.IDs(), mdmtest.Dict{"MessageType": k, "Topic": "t"})) }
	nested := func(n int) string {
		return inside("<key>N</key>" + strings.Repeat("<array>", n) + strings.Repeat("</array>", n))
	}
	return map[string]string{
		"nothing":                       "",
		"white space":                   " \r\n",
		"garbage":                       "garbage",
		"JSON":                          `{"Status":"Idle"}`,
		"HTML":                          "<!DOCTYPE html><p>x",
		"a binary plist":                "bplist00\xd1\x01\x02",
		"a binary plist of itself":      "bplist00\xa1\x00\x08\x00\x00\x00\x00\x00\x00\x01\x01\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x0a",
		"an array":                      plain(nil)[:0] + strings.Replace(strings.Replace(idle, "<dict>", "<array>", 1), "</dict>", "</array>", 1),
		"an empty dict":                 plain(mdmtest.Dict{}),
		"UTF-16":                        "\xff\xfe<\x00p\x00",
		"bad UTF-8":                     inside("<key>\xc3\x28</key><true/>"),
		"a control character":           inside("<key>\x07</key><true/>"),
		"a control character by number": inside("<key>&#7;</key><true/>"),
		"an entity":                     inside("<key>K</key><string>&boom;</string>"),
		"entities that multiply":        strings.Replace(idle, "<plist", `<!DOCTYPE plist [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;&a;">]><plist`, 1),
		"an external entity":            strings.Replace(idle, "<plist", `<!DOCTYPE plist [<!ENTITY a SYSTEM "file:///etc/passwd">]><plist`, 1),
		"a key twice":                   inside("<key>Status</key><string>Acknowledged</string>"),
		"a UDID twice":                  inside("<key>UDID</key><string>victim</string>"),
		"two roots":                     idle + idle,
		"text after the end":            idle + "x",
		"a depth of 65":                 nested(65),
		"a depth of a hundred thousand": nested(100_000),
		"a hundred thousand attributes": strings.Replace(idle, "<plist", "<plist "+strings.Repeat(`a="b" `, 100_000), 1),
		"cut short":                     idle[:len(idle)/2],
		"a value of no type":            inside("<key>K</key><b/>"),
		"a check-in of no kind":         kind(""),
		"a check-in of another kind":    kind("ReturnToTheShop"),
		"a kind that is a number":       plain(changed(d.IDs(), mdmtest.Dict{"MessageType": 7})),
		"declarations":                  kind("DeclarativeManagement"),
		"a token of no service":         kind("GetToken"),
		"a token":                       plain(changed(d.IDs(), mdmtest.Dict{"MessageType": "GetToken", "TokenServiceType": "com.apple.maid"})),
		"a token for a watch":           plain(changed(d.IDs(), mdmtest.Dict{"MessageType": "GetToken", "TokenServiceType": "com.apple.watch.pairing"})),
		"ReturnToService":               kind("ReturnToService"),
		"TokenUpdate without anything":  plain(mdmtest.Dict{"MessageType": "TokenUpdate"}),
		"no Status":                     plain(d.IDs()),
		"a Status of its own":           plain(changed(d.IDs(), mdmtest.Dict{"Status": "Foo"})),
	}
}

// leavesEnrolled says whether an answer makes no device remove its enrollment.
func leavesEnrolled(status int, body string) bool {
	return status >= 400 && status != http.StatusUnauthorized && status != http.StatusGone && !strings.Contains(body, "com.apple.unrecognized.device")
}

func TestNothingThatIsRefusedCostsAnEnrollment(t *testing.T) {
	storagetest.AnyEngine(t)
	h := newHouse(t)
	d := h.enrolled(t, mdmtest.Options{})
	stranger := h.device(t, mdmtest.Options{UDID: d.ID()})
	must(t, stranger.Install(must2(stranger.Download(t.Context(), h.link(t, "x")))(t)))
	stranger.SetIdentity(selfSigned(t))
	before := h.record(t, d.IDs())
	headers := map[string]func(http.Header){
		"as it should be":     func(http.Header) {},
		"unsigned":            func(h http.Header) { h.Del("Mdm-Signature") },
		"signed with garbage": func(h http.Header) { h.Set("Mdm-Signature", base64.StdEncoding.EncodeToString([]byte("garbage"))) },
		"signed twice":        func(h http.Header) { h.Add("Mdm-Signature", "x") },
		"of no type":          func(h http.Header) { h.Del("Content-Type") },
		"as JSON":             func(h http.Header) { h.Set("Content-Type", "application/json") },
		"with a bearer":       func(h http.Header) { h.Set("Authorization", "Bearer x") },
		"with a cookie":       func(h http.Header) { h.Set("Cookie", "a=b") },
		"with a client cert":  func(h http.Header) { h.Set("Client-Cert", ":AAAA:"); h.Set("X-Client-Cert", "x") },
	}
	for name, body := range hostileBodies(t, d) {
		for who, from := range map[string]*mdmtest.Device{"the device": d, "a stranger": stranger} {
			for _, checkIn := range []bool{true, false} {
				p, err := from.PrepareRaw(checkIn, []byte(body))
				must(t, err)
				for how, change := range headers {
					if from == stranger && how != "as it should be" {
						continue
					}
					q := p
					q.Header = p.Header.Clone()
					change(q.Header)
					start := time.Now()
					status, reply := h.send(t, q)
					if !leavesEnrolled(status, reply) || status == http.StatusInternalServerError {
						t.Errorf("%s from %s, %s, check-in %t: %d %.100q", name, who, how, checkIn, status, reply)
					}
					if took := time.Since(start); took > 5*time.Second {
						t.Errorf("%s took %v", name, took)
					}
				}
			}
		}
	}
	for _, method := range []string{"GET", "HEAD", "DELETE", "PATCH", "OPTIONS", "FOO"} {
		p := reporting(t, d, mdmtest.Result{Status: mdmtest.StatusIdle})
		p.Method = method
		if status, reply := h.send(t, p); !leavesEnrolled(status, reply) {
			t.Errorf("%s: %d %q", method, status, reply)
		}
	}
	if after := h.record(t, d.IDs()); fmt.Sprint(after.State, after.Push, after.Identity, after.Facts) != fmt.Sprint(before.State, before.Push, before.Identity, before.Facts) {
		t.Errorf("the device is %+v, was %+v", after, before)
	}
	if _, err := d.Poll(t.Context()); err != nil {
		t.Errorf("Poll = %v", err)
	}
	if strings.Contains(h.log.String(), "level=ERROR") {
		t.Error("something was logged as an error of the server's")
	}
}

func TestHowTheBodyIsLabelledDoesNotMatter(t *testing.T) {
	storagetest.AnyEngine(t)
	h := newHouse(t)
	d := h.enrolled(t, mdmtest.Options{})
	for name, contentType := range map[string]string{
		"none": "", "octets": "application/octet-stream", "XML": "text/xml", "the other's": "application/x-apple-aspen-mdm", "with a charset": "application/x-apple-aspen-mdm-checkin; charset=UTF-8",
	} {
		for _, url := range []string{d.Profile().MDM.CheckInURL, d.Profile().MDM.ServerURL} {
			for what, p := range map[string]mdmtest.Prepared{
				"TokenUpdate": saying(t, d, "TokenUpdate", nil), "Idle": reporting(t, d, mdmtest.Result{Status: mdmtest.StatusIdle}),
			} {
				p.URL = url
				p.Header.Del("Content-Type")
				if contentType != "" {
					p.Header.Set("Content-Type", contentType)
				}
				h.wantStatus(t, what+" with content type "+name+" to "+url, p, 200)
			}
		}
	}
	p := reporting(t, d, mdmtest.Result{Status: mdmtest.StatusIdle})
	p.Method = "POST"
	h.wantStatus(t, "POST", p, 200)
}

func TestAStoreThatIsGoneIsNoFaultOfTheDevice(t *testing.T) {
	h := newHouse(t)
	d := h.enrolled(t, mdmtest.Options{})
	h.queue(t, d.IDs(), "ProfileList", "A")
	idle(t, d.Channel())
	must(t, h.db.Close())
	for name, p := range map[string]mdmtest.Prepared{
		"Authenticate":      saying(t, d, "Authenticate", nil),
		"TokenUpdate":       saying(t, d, "TokenUpdate", nil),
		"CheckOut":          saying(t, d, "CheckOut", nil),
		"SetBootstrapToken": saying(t, d, "SetBootstrapToken", nil),
		"GetBootstrapToken": saying(t, d, "GetBootstrapToken", nil),
		"UserAuthenticate":  saying(t, d, "UserAuthenticate", nil),
		"Idle":              reporting(t, d, mdmtest.Result{Status: mdmtest.StatusIdle}),
		"an answer":         reporting(t, d, mdmtest.Result{CommandUUID: "A", Status: mdmtest.StatusAcknowledged}),
		"a large answer":    large(t, d, "A", 1<<20),
		"too large a one":   large(t, d, "A", 9<<20),
	} {
		h.wantStatus(t, name, p, 503)
	}
	if !strings.Contains(h.log.String(), "level=ERROR") {
		t.Error("nothing was logged as an error")
	}
}

func TestAContextThatEndedIsNoFaultOfTheDevice(t *testing.T) {
	storagetest.AnyEngine(t)
	h := newHouse(t)
	d := h.enrolled(t, mdmtest.Options{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	p := saying(t, d, "TokenUpdate", nil)
	req := httptest.NewRequestWithContext(ctx, p.Method, p.URL, bytes.NewReader(p.Body))
	req.Header = p.Header.Clone()
	w := httptest.NewRecorder()
	h.door.ServeHTTP(w, req)
	if w.Code != 503 {
		t.Errorf("status %d, want 503", w.Code)
	}
}

func TestWhatADeviceSaysOfItselfIsCutAndBreaksNothing(t *testing.T) {
	storagetest.AnyEngine(t)
	h := newHouse(t)
	fields := []string{"SerialNumber", "DeviceName", "Model", "ModelName", "ProductName", "OSVersion", "BuildVersion", "IMEI", "MEID"}
	for name, value := range map[string]string{
		"almost a megabyte":    strings.Repeat("x", 100_000),
		"emoji at the cut":     strings.Repeat("👩‍👩‍👧‍👦", 100),
		"right to left":        "\u202eגב\u202c",
		"line breaks":          "a\r\nlevel=ERROR msg=\"forged\"\n\u2028\u2029\u0085b",
		"terminal escapes":     "\u009b31m",
		"markup":               "<script>alert(1)</script>&\"'",
		"a template":           "{{.}}%s%n",
		"composed and not":     "é" + "e\u0301",
		"the largest of runes": "\U0010FFFD",
	} {
		t.Run(name, func(t *testing.T) {
			facts := mdmtest.Dict{}
			for _, f := range fields {
				facts[f] = value
			}
			d := h.identified(t, mdmtest.Options{})
			h.wantStatus(t, "Authenticate", saying(t, d, "Authenticate", facts), 200)
			h.wantStatus(t, "TokenUpdate", saying(t, d, "TokenUpdate", nil), 200)
			h.wantStatus(t, "a user's TokenUpdate", saying(t, d, "TokenUpdate", mdmtest.Dict{"UserID": "U", "UserShortName": value, "UserLongName": value}), 200)
			f, user := h.record(t, d.IDs()).Facts, h.record(t, changed(d.IDs(), mdmtest.Dict{"UserID": "U"}))
			for _, got := range []string{f.SerialNumber, f.DeviceName, f.Model, f.ModelName, f.ProductName, f.OSVersion, f.BuildVersion, f.IMEI, f.MEID, user.UserShortName, user.UserLongName} {
				if got == "" || len(got) > 255 || !strings.HasPrefix(strings.ReplaceAll(value, "\r\n", "\n"), got) && !strings.HasPrefix(value, got) {
					t.Errorf("kept %d bytes %.100q, want the start of what was said", len(got), got)
				}
			}
		})
	}
	t.Run("every field of a megabyte", func(t *testing.T) {
		d := h.identified(t, mdmtest.Options{})
		facts := mdmtest.Dict{}
		for _, f := range fields {
			facts[f] = strings.Repeat("x", 1<<20)
		}
		h.wantStatus(t, "Authenticate", saying(t, d, "Authenticate", facts), 413)
	})
	for line := range strings.Lines(h.log.String()) {
		if !strings.HasPrefix(line, "time=") || len(line) > 2048 {
			t.Errorf("a line of the log was split, or is long: %.200q", line)
		}
	}
}

func TestTheLogHoldsNoSecrets(t *testing.T) {
	storagetest.AnyEngine(t)
	h := newHouse(t)
	d := h.enrolled(t, mdmtest.Options{Model: mdmtest.Mac})
	phone := h.enrolled(t, mdmtest.Options{})
	must(t, d.SetBootstrapToken(t.Context(), []byte("the-bootstrap-token")))
	must2(d.GetBootstrapToken(t.Context()))(t)
	h.queue(t, d.IDs(), "ProfileList", "A", "B")
	must2(d.Poll(t.Context()))(t)

	secrets := map[string]string{
		"the challenge":           phone.Profile().SCEP.Challenge,
		"the bootstrap token":     "the-bootstrap-token",
		"its base64":              base64.StdEncoding.EncodeToString([]byte("the-bootstrap-token")),
		"the unlock token":        base64.StdEncoding.EncodeToString(phone.UnlockToken())[:40],
		"a value of a bad report": "a-value-of-a-bad-report",
	}
	for name, dev := range map[string]*mdmtest.Device{"Mac": d, "phone": phone} {
		token, magic := dev.Channel().Push()
		secrets[name+"'s push magic"] = magic
		secrets[name+"'s push token"] = base64.StdEncoding.EncodeToString(token)[:30]
		secrets[name+"'s push token in hex"] = fmt.Sprintf("%x", token)
		for _, body := range hostileBodies(t, dev) {
			p, err := dev.PrepareRaw(true, []byte(strings.Replace(body, "<dict>", "<dict><key>X</key><string>a-value-of-a-bad-report</string>", 1)))
			must(t, err)
			secrets["a signature"] = p.Header.Get("Mdm-Signature")[:60]
			h.send(t, p)
			p.Body = append(p.Body, ' ')
			h.send(t, p)
		}
	}
	h.send(t, saying(t, phone, "TokenUpdate", mdmtest.Dict{"Token": "a-value-of-a-bad-report"}))
	h.send(t, raw(t, phone, "<plist><dict><key>Status</key><integer>a-value-of-a-bad-report</integer></dict></plist>"))
	log := h.log.String()
	for name, secret := range secrets {
		if len(secret) < 8 || strings.Contains(log, secret) {
			t.Errorf("the log holds %s", name)
		}
	}
	for _, key := range []string{"<plist version", "<dict", "<key", "<string", "MIAG", "MII"} {
		if strings.Contains(log, key) {
			t.Errorf("the log holds %q, which is from a body or a signature", key)
		}
	}
	if !strings.Contains(log, "device message refused") {
		t.Error("the log says nothing of the refusals")
	}
}

func TestConfigsThatLackSomething(t *testing.T) {
	storagetest.AnyEngine(t)
	h := newHouse(t)
	for name, c := range map[string]checkin.Config{
		"no service": {Log: slog.New(slog.DiscardHandler)},
		"no log":     {Enroll: h.enroll},
	} {
		if _, err := checkin.New(c); err == nil {
			t.Errorf("New accepts %s", name)
		}
	}
}

// A transport that has proved who the client is stands for the signature; what is
// signed nevertheless is judged by its signature.
func TestACertificateThatTheTransportProved(t *testing.T) {
	storagetest.AnyEngine(t)
	h := newHouse(t)
	d := h.enrolled(t, mdmtest.Options{})
	other := h.enrolled(t, mdmtest.Options{})
	var proved *x509.Certificate
	door, err := checkin.New(checkin.Config{
		Enroll: h.enroll, Log: slog.New(slog.DiscardHandler),
		ClientCertificate: func(*http.Request) *x509.Certificate { return proved },
	})
	must(t, err)
	own, _ := d.Identity()
	foreign, _ := other.Identity()
	for name, tt := range map[string]struct {
		proved *x509.Certificate
		signed bool
		want   int
	}{
		"its own, unsigned":     {own, false, 200},
		"another's, unsigned":   {foreign, false, 403},
		"none, unsigned":        {nil, false, 403},
		"none, signed":          {nil, true, 200},
		"another's, but signed": {foreign, true, 200},
	} {
		t.Run(name, func(t *testing.T) {
			proved = tt.proved
			for what, p := range map[string]mdmtest.Prepared{"small": reporting(t, d, mdmtest.Result{Status: mdmtest.StatusIdle}), "large": large(t, d, "x", 256<<10)} {
				req := httptest.NewRequestWithContext(t.Context(), p.Method, p.URL, bytes.NewReader(p.Body))
				req.Header = p.Header.Clone()
				if !tt.signed {
					req.Header.Del("Mdm-Signature")
				}
				w := httptest.NewRecorder()
				door.ServeHTTP(w, req)
				if w.Code != tt.want {
					t.Errorf("a %s body: %d, want %d", what, w.Code, tt.want)
				}
			}
		})
	}
}
