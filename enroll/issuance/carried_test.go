package issuance_test

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/depot"
	"github.com/gatehouse-mdm/gatehouse/depot/template"
	"github.com/gatehouse-mdm/gatehouse/enroll/issuance"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	mdmcommand "github.com/gatehouse-mdm/gatehouse/mdm/command"
	"github.com/gatehouse-mdm/gatehouse/mdm/library"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/seal"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// shelf is the house with a library of profiles.
type shelf struct {
	*house
	library *library.Service
}

func newShelf(t *testing.T) *shelf {
	t.Helper()
	h := houseOn(t, storagetest.Open(t))
	box, err := seal.New(make([]byte, seal.KeySize))
	must(t, err)
	l, err := library.New(library.Config{
		DB: h.db, Box: box, MDM: h.mdm, People: h.Service, Log: slog.New(slog.DiscardHandler), Now: h.now,
		Sign:     func(p []byte) ([]byte, error) { return p, nil },
		Reserved: func(string) bool { return false },
	})
	must(t, err)
	h.SendBy(l)
	return &shelf{h, l}
}

// placeUUID names the certificate in the profile, and where Wi-Fi refers to it.
const placeUUID = "6A0CF4B8-5C3E-4C39-9B93-6A4F3F0A8B02"

// network is a profile with Wi-Fi by a certificate of the template wifi, or by none.
func network(withCertificate bool) []byte {
	const scep = `<dict><key>PayloadType</key><string>com.apple.security.scep</string><key>PayloadVersion</key><integer>1</integer>
<key>PayloadIdentifier</key><string>com.example.net.scep</string><key>PayloadUUID</key><string>` + placeUUID + `</string>
<key>PayloadContent</key><dict><key>CertificateTemplate</key><string>wifi</string></dict></dict>`
	const wifi = `<dict><key>PayloadType</key><string>com.apple.wifi.managed</string><key>PayloadVersion</key><integer>1</integer>
<key>PayloadIdentifier</key><string>com.example.net.wifi</string><key>PayloadUUID</key><string>6A0CF4B8-5C3E-4C39-9B93-6A4F3F0A8B03</string>
<key>SSID_STR</key><string>of $USERNAME</string><key>EncryptionType</key><string>WPA2</string>%s</dict>`
	refers, place := "", ""
	if withCertificate {
		refers, place = "<key>PayloadCertificateUUID</key><string>"+placeUUID+"</string>", scep
	}
	return fmt.Appendf(nil, `<?xml version="1.0" encoding="UTF-8"?><plist version="1.0"><dict>
<key>PayloadType</key><string>Configuration</string><key>PayloadVersion</key><integer>1</integer>
<key>PayloadIdentifier</key><string>com.example.net</string><key>PayloadUUID</key><string>6A0CF4B8-5C3E-4C39-9B93-6A4F3F0A8B01</string>
<key>PayloadContent</key><array>%s%s</array></dict></plist>`, place, fmt.Sprintf(wifi, refers))
}

// requests is a profile that asks for certificates of templates.
func requests(templates ...string) []byte {
	content := ""
	for i, name := range templates {
		content += fmt.Sprintf(`<dict><key>PayloadType</key><string>com.apple.security.scep</string><key>PayloadVersion</key><integer>1</integer>
<key>PayloadIdentifier</key><string>com.example.requests.scep%d</string><key>PayloadUUID</key><string>6A0CF4B8-5C3E-4C39-9B93-6A4F3F0A8C0%d</string>
<key>PayloadContent</key><dict><key>CertificateTemplate</key><string>%s</string></dict></dict>`, i, i, name)
	}
	return fmt.Appendf(nil, `<?xml version="1.0" encoding="UTF-8"?><plist version="1.0"><dict>
<key>PayloadType</key><string>Configuration</string><key>PayloadVersion</key><integer>1</integer>
<key>PayloadIdentifier</key><string>com.example.requests</string><key>PayloadUUID</key><string>6A0CF4B8-5C3E-4C39-9B93-6A4F3F0A8B11</string>
<key>PayloadContent</key><array>%s</array></dict></plist>`, content)
}

func (s *shelf) keep(t *testing.T, data []byte) (profile string) {
	t.Helper()
	a, err := s.library.Add(context.Background(), library.Upload{Data: data, By: "user:admin"})
	must(t, err)
	return a.Profile.ID
}

// put sends devices a profile.
func (s *shelf) put(t *testing.T, profile string, ids ...mdm.DeviceID) library.Sending {
	t.Helper()
	out, err := s.library.Send(context.Background(), library.Order{Profile: profile, Targets: library.Targets{Devices: ids}, By: "user:admin"})
	must(t, err)
	return out
}

// take has a device install its next command and ask for the certificate that it brings.
func (s *shelf) take(t *testing.T, id mdm.DeviceID) (*command, *x509.Certificate) {
	t.Helper()
	cmd := s.fetch(t, id)
	if cmd == nil {
		t.Fatal("nothing waits")
	}
	cert, err := s.IssueSCEP(context.Background(), "wifi", request(t, cmd.challenge(t), asking("whatever")))
	must(t, err)
	s.answer(t, id, cmd.uuid, mdm.Acknowledged)
	return cmd, cert
}

// refersTo checks that Wi-Fi refers to the certificate that stands beside it, and returns by
// which UUID.
func refersTo(t *testing.T, c *command) any {
	t.Helper()
	at := c.payloads["com.apple.security.scep"]["PayloadUUID"]
	if of := c.payloads["com.apple.wifi.managed"]["PayloadCertificateUUID"]; of != at || at == placeUUID {
		t.Errorf("Wi-Fi refers to %v, the certificate is %v; want both the same, and not the one of the library", of, at)
	}
	return at
}

func TestAProfileBringsACertificateAndRenewsIt(t *testing.T) {
	s := newShelf(t)
	s.template(t, "wifi", nil) // a year, renewed 30 days before
	s.user(t, "ana@example.com", "Ana")
	s.device(t, "d1", func(d *mdm.Device) { d.User = "ana@example.com" })
	profile := s.keep(t, network(true))
	s.put(t, profile, "d1")
	cmd, first := s.take(t, "d1")
	if ssid := cmd.payloads["com.apple.wifi.managed"]["SSID_STR"]; ssid != "of ana@example.com" {
		t.Errorf("SSID %q", ssid)
	}
	uuid := refersTo(t, cmd)
	if a := s.assignment(t, "wifi", "d1"); a.State != issuance.Installed || a.Current != depot.FingerprintOf(first) || a.Profile != profile {
		t.Errorf("assignment %+v", a)
	}

	s.pass(336 * day)
	must(t, s.Renew(t.Context()))
	must(t, s.Renew(t.Context())) // a second look changes nothing
	renewed, second := s.take(t, "d1")
	if renewed.identifier != "com.example.net" || refersTo(t, renewed) == uuid {
		t.Errorf("the renewal came as %s with the same PayloadUUID, by which no device asks again", renewed.identifier)
	}
	if a := s.assignment(t, "wifi", "d1"); a.State != issuance.Installed || a.Current != depot.FingerprintOf(second) || s.revoked(t, first) != "superseded" {
		t.Errorf("after the renewal: %+v, the old one is revoked for %q", a, s.revoked(t, first))
	}
	if again := s.fetch(t, "d1"); again != nil {
		t.Errorf("another command: %+v", again)
	}
}

// TestAnAnswerIsForTheDeviceThatGivesIt sends one command to two devices.
func TestAnAnswerIsForTheDeviceThatGivesIt(t *testing.T) {
	storagetest.AnyEngine(t)
	both := func(t *testing.T) *shelf {
		s := newShelf(t)
		s.template(t, "wifi", nil)
		s.device(t, "d1", func(d *mdm.Device) { d.User = "ana@example.com" })
		s.device(t, "d2", func(d *mdm.Device) { d.User = "ana@example.com" })
		if out := s.put(t, s.keep(t, network(true)), "d1", "d2"); len(out.Sent) != 2 {
			t.Fatalf("sent %+v, rejected %+v", out.Sent, out.Rejected)
		}
		return s
	}
	t.Run("the second is the first to acknowledge", func(t *testing.T) {
		s := both(t)
		for _, id := range []mdm.DeviceID{"d2", "d1"} {
			if a := s.assignment(t, "wifi", id); a.State != issuance.Pending || len(a.Tries) != 1 {
				t.Errorf("%s has not answered: %+v", id, a)
			}
			_, cert := s.take(t, id)
			if a := s.assignment(t, "wifi", id); a.State != issuance.Installed || a.Current != depot.FingerprintOf(cert) {
				t.Errorf("%s has acknowledged: %+v", id, a)
			}
		}
	})
	t.Run("the second refuses", func(t *testing.T) {
		s := both(t)
		inHand := s.fetch(t, "d1")
		cert, err := s.IssueSCEP(t.Context(), "wifi", request(t, inHand.challenge(t), asking("whatever")))
		must(t, err)
		s.answer(t, "d2", s.fetch(t, "d2").uuid, mdm.Failed)
		if a := s.assignment(t, "wifi", "d2"); a.State != issuance.Failing || a.Failures != 1 {
			t.Errorf("d2 has refused: %+v", a)
		}
		if why := s.revoked(t, cert); why != "" {
			t.Errorf("the certificate of d1 is revoked (%s) because d2 refused its own", why)
		}
		s.answer(t, "d1", inHand.uuid, mdm.Acknowledged)
		if a := s.assignment(t, "wifi", "d1"); a.State != issuance.Installed || a.Current != depot.FingerprintOf(cert) {
			t.Errorf("d1 has acknowledged: %+v", a)
		}
	})
}

func TestAnAnswerIsForAllCertificatesOfAProfile(t *testing.T) {
	storagetest.AnyEngine(t)
	for state, want := range map[mdm.CommandState]issuance.State{
		mdm.Acknowledged: issuance.Installed,
		mdm.Failed:       issuance.Failing,
	} {
		t.Run(string(state), func(t *testing.T) {
			s := newShelf(t)
			s.template(t, "vpn", nil)
			s.template(t, "wifi", nil)
			s.device(t, "d1", nil)
			s.put(t, s.keep(t, requests("vpn", "wifi")), "d1")
			s.answer(t, "d1", s.fetch(t, "d1").uuid, state)
			for _, name := range []string{"vpn", "wifi"} {
				if a := s.assignment(t, name, "d1"); a.State != want || len(a.Tries) != 0 {
					t.Errorf("%s is %+v, want it %s", name, a, want)
				}
			}
		})
	}
}

// TestARejectedProfileChangesNothing has a profile ask for two certificates, of which the
// second can't be had: there is no template wifi.
func TestARejectedProfileChangesNothing(t *testing.T) {
	storagetest.AnyEngine(t)
	reject := func(t *testing.T, s *shelf) {
		t.Helper()
		out := s.put(t, s.keep(t, requests("vpn", "wifi")), "d1")
		if len(out.Sent) != 0 || len(out.Rejected) != 1 || out.Rejected[0].Code != "certificate_template" {
			t.Fatalf("sent %+v, rejected %+v", out.Sent, out.Rejected)
		}
	}
	t.Run("nothing was sent before", func(t *testing.T) {
		s := newShelf(t)
		s.template(t, "vpn", nil)
		s.device(t, "d1", nil)
		reject(t, s)
		if sent := s.events(t, "certificate.sent"); len(sent) != 0 {
			t.Errorf("events %+v", sent)
		}
		s.install(t, "vpn", "d1") // by itself: the profile does not hold it
	})
	t.Run("the version before waits", func(t *testing.T) {
		s := newShelf(t)
		s.template(t, "vpn", nil)
		s.device(t, "d1", nil)
		s.put(t, s.keep(t, requests("vpn")), "d1")
		before := s.assignment(t, "vpn", "d1")
		reject(t, s)
		if a := s.assignment(t, "vpn", "d1"); a.Try != before.Try {
			t.Errorf("assignment %+v, was %+v", a, before)
		}
		cmd := s.fetch(t, "d1")
		if cmd == nil {
			t.Fatal("what waited is gone")
		}
		_, err := s.IssueSCEP(t.Context(), "vpn", request(t, cmd.challenge(t), asking("whatever")))
		must(t, err)
	})
}

// TestAProfileIsRenewedOnceForAllItsCertificates has two certificates due at the same time.
func TestAProfileIsRenewedOnceForAllItsCertificates(t *testing.T) {
	storagetest.AnyEngine(t)
	s := newShelf(t)
	s.template(t, "vpn", nil)
	s.template(t, "wifi", nil)
	s.device(t, "d1", nil)
	s.put(t, s.keep(t, requests("vpn", "wifi")), "d1")
	s.pass(8 * day) // the device is off
	must(t, s.Renew(t.Context()))
	if n := len(s.events(t, "profile.sent")); n != 2 {
		t.Errorf("the profile was sent %d times, want once at first and once again", n)
	}
	vpn, wifi := s.assignment(t, "vpn", "d1"), s.assignment(t, "wifi", "d1")
	if vpn.Try != wifi.Try || !vpn.DueAt.After(s.now()) || !wifi.DueAt.After(s.now()) {
		t.Errorf("vpn is %+v, wifi is %+v", vpn, wifi)
	}
}

// TestARenewalDoesNotOvertakeANewerVersion has a certificate due while a version that does
// without it waits for the device.
func TestARenewalDoesNotOvertakeANewerVersion(t *testing.T) {
	storagetest.AnyEngine(t)
	s := newShelf(t)
	s.template(t, "wifi", nil)
	s.device(t, "d1", func(d *mdm.Device) { d.User = "ana@example.com" })
	profile := s.keep(t, network(true))
	s.put(t, profile, "d1")
	s.take(t, "d1")
	s.pass(330 * day)
	s.keep(t, network(false))
	s.put(t, profile, "d1")
	s.pass(6 * day) // the device is off
	must(t, s.Renew(t.Context()))
	if a := s.assignment(t, "wifi", "d1"); !a.DueAt.After(s.now()) || a.Failures != 0 || a.State != issuance.Installed {
		t.Errorf("it is looked at again at once, or taken for a failure: %+v", a)
	}
	if _, has := s.fetch(t, "d1").payloads["com.apple.security.scep"]; has {
		t.Error("the device gets the older version")
	}
}

// TestLookingAtValuesBeginsNothing asks what a forecast asks.
func TestLookingAtValuesBeginsNothing(t *testing.T) {
	storagetest.AnyEngine(t)
	s := newShelf(t)
	s.template(t, "wifi", nil)
	d := s.device(t, "d1", nil)
	look := func(certificates ...string) (v mdm.Values, err error) {
		s.view(t, func(tx storage.Tx) error { // writing would fail
			v, err = s.Values(tx, d, library.Wanted{Profile: library.Profile{ID: "p1"}, Certificates: certificates})
			return nil
		})
		return v, err
	}
	if v, err := look("wifi"); err != nil || len(v.Certificates) != 0 {
		t.Errorf("what can be had: %+v, %v", v, err)
	}
	var no *mdmcommand.Refusal
	if _, err := look("wifi", "nosuch"); !errors.As(err, &no) || no.Code != "certificate_template" {
		t.Errorf("what can't be had: %v", err)
	}
}

// TestAValueThatCannotStandInAProfileIsRefused has names as devices may give them.
func TestAValueThatCannotStandInAProfileIsRefused(t *testing.T) {
	storagetest.AnyEngine(t)
	s := newShelf(t)
	for name, tt := range map[string]struct{ value, reason string }{
		"line feed":    {"Ana's\nphone", "$DEVICENAME holds control characters for this device."},
		"tab":          {"Ana's\tphone", "$DEVICENAME holds control characters for this device."},
		"not a letter": {"Ana's\uFFFFphone", "$DEVICENAME holds control characters for this device."},
		"not UTF-8":    {"Ana\xff", "$DEVICENAME is not UTF-8 for this device."},
		"too long":     {strings.Repeat("a", 4097), "$DEVICENAME has 4097 bytes for this device, at most 4096."},
	} {
		t.Run(name, func(t *testing.T) {
			s.view(t, func(tx storage.Tx) error {
				d := mdm.Device{ID: "d1", Type: mdm.TypeDevice, State: mdm.Enrolled}
				d.DeviceName = tt.value
				_, err := s.Values(tx, d, library.Wanted{Variables: []string{"DEVICENAME"}})
				var no *mdmcommand.Refusal
				if !errors.As(err, &no) || no.Code != "value_invalid" || no.Reason != tt.reason {
					t.Errorf("%v, want %q", err, tt.reason)
				}
				return nil
			})
		})
	}
}

func TestALiteralProfileBringsACertificate(t *testing.T) {
	s := newShelf(t)
	s.template(t, "wifi", nil)
	s.device(t, "d1", nil)
	a, err := s.library.Add(context.Background(), library.Upload{Data: network(true), Literal: true})
	must(t, err)
	s.put(t, a.Profile.ID, "d1")
	cmd, _ := s.take(t, "d1")
	if ssid := cmd.payloads["com.apple.wifi.managed"]["SSID_STR"]; ssid != "of $USERNAME" {
		t.Errorf("SSID %q, want it as it was written", ssid)
	}
}

func TestACertificateEndsWithItsProfile(t *testing.T) {
	ctx := context.Background()
	for name, end := range map[string]func(t *testing.T, s *shelf, profile string){
		"the profile is removed": func(t *testing.T, s *shelf, profile string) {
			_, err := s.library.Remove(ctx, "user:admin", profile, library.Targets{Devices: []mdm.DeviceID{"d1"}})
			must(t, err)
			s.answer(t, "d1", s.fetch(t, "d1").uuid, mdm.Acknowledged)
		},
		"a newer version does without": func(t *testing.T, s *shelf, profile string) {
			s.keep(t, network(false))
			s.put(t, profile, "d1")
			s.answer(t, "d1", s.fetch(t, "d1").uuid, mdm.Acknowledged)
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newShelf(t)
			s.template(t, "wifi", nil)
			s.device(t, "d1", func(d *mdm.Device) { d.User = "ana@example.com" })
			profile := s.keep(t, network(true))
			s.put(t, profile, "d1")
			_, cert := s.take(t, "d1")
			end(t, s, profile)
			if a := s.assignment(t, "wifi", "d1"); a.State != issuance.Ended || s.revoked(t, cert) != "cessationOfOperation" {
				t.Errorf("%+v, revoked for %q", a, s.revoked(t, cert))
			}
		})
	}
}

// TestAProfileThatTheDeviceRefusedHoldsNoTemplate has the device refuse the first one.
func TestAProfileThatTheDeviceRefusedHoldsNoTemplate(t *testing.T) {
	storagetest.AnyEngine(t)
	for name, give := range map[string]func(s *shelf, profile string) error{
		"after it is removed": func(s *shelf, profile string) error {
			_, err := s.library.Remove(context.Background(), "user:admin", profile, library.Targets{Devices: []mdm.DeviceID{"d1"}})
			return err
		},
		"after it is deleted": func(s *shelf, profile string) error {
			return s.library.Delete(context.Background(), "user:admin", profile)
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newShelf(t)
			s.template(t, "wifi", nil)
			s.device(t, "d1", func(d *mdm.Device) { d.User = "ana@example.com" })
			profile := s.keep(t, network(true))
			s.put(t, profile, "d1")
			s.answer(t, "d1", s.fetch(t, "d1").uuid, mdm.Failed)
			must(t, give(s, profile))
			if a := s.assignment(t, "wifi", "d1"); a.State != issuance.Ended {
				t.Errorf("assignment %+v", a)
			}
			if out := s.put(t, s.keep(t, requests("wifi")), "d1"); len(out.Sent) != 1 {
				t.Errorf("another profile with the certificate is rejected: %+v", out.Rejected)
			}
		})
	}
}

func TestAForecastLooksAtCertificates(t *testing.T) {
	storagetest.AnyEngine(t)
	s := newShelf(t)
	s.template(t, "wifi", nil)
	s.device(t, "d1", nil)
	all := library.Targets{Devices: []mdm.DeviceID{"d1"}}
	f, err := s.library.Forecast(t.Context(), s.keep(t, requests("wifi", "nosuch")), 0, all)
	must(t, err)
	if f.Accept != 0 || len(f.Verdicts) != 1 || f.Verdicts[0].Code != "certificate_template" {
		t.Errorf("what can't be had: %s %+v", f.Sentence(), f.Verdicts)
	}
	f, err = s.library.Forecast(t.Context(), s.keep(t, requests("wifi")), 0, all)
	must(t, err)
	if f.Accept != 1 || len(s.events(t, "certificate.sent")) != 0 {
		t.Errorf("what can be had: %s %+v", f.Sentence(), f.Verdicts)
	}
}

func TestACertificateComesByOneWayOnly(t *testing.T) {
	ctx := context.Background()
	s := newShelf(t)
	s.template(t, "wifi", nil)
	s.device(t, "d1", func(d *mdm.Device) { d.User = "ana@example.com" })
	s.device(t, "d2", func(d *mdm.Device) { d.User = "ana@example.com" })
	profile := s.keep(t, network(true))
	s.put(t, profile, "d1")
	if _, rejected, err := s.Send(ctx, "user:admin", "wifi", []mdm.DeviceID{"d1"}); err != nil || len(rejected) != 1 || rejected[0].Code != "certificate_sent_otherwise" {
		t.Errorf("sent by itself, too: %+v, %v", rejected, err)
	}
	if err := s.Unassign(ctx, "user:admin", "wifi", "d1"); !errors.Is(err, issuance.ErrCarried) {
		t.Errorf("taken back by itself: %v", err)
	}
	s.install(t, "wifi", "d2")
	out := s.put(t, profile, "d2")
	if len(out.Sent) != 0 || len(out.Rejected) != 1 || out.Rejected[0].Code != "certificate_sent_otherwise" {
		t.Errorf("sent by a profile, too: %+v", out)
	}
}

func TestWhoCannotBeSentAProfileWithACertificate(t *testing.T) {
	s := newShelf(t)
	profile := s.keep(t, network(true))
	s.device(t, "d1", func(d *mdm.Device) { d.User = "ana@example.com" })
	if out := s.put(t, profile, "d1"); len(out.Rejected) != 1 || out.Rejected[0].Code != "certificate_template" {
		t.Errorf("without the template: %+v", out)
	}
	s.template(t, "wifi", func(tm *template.Template) { tm.Subject = subject(t, "/O=Example/CN=$ASSET_TAG") })
	if out := s.put(t, profile, "d1"); len(out.Rejected) != 1 || out.Rejected[0].Code != "template" {
		t.Errorf("without what its subject needs: %+v", out)
	}
	s.device(t, "d2", nil)
	if out := s.put(t, profile, "d2"); len(out.Rejected) != 1 || out.Rejected[0].Code != "value_missing" {
		t.Errorf("without a user: %+v", out)
	}
}
