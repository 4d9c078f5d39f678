package issuance_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/depot"
	"github.com/gatehouse-mdm/gatehouse/depot/template"
	"github.com/gatehouse-mdm/gatehouse/enroll/issuance"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

const day = 24 * time.Hour

func TestADeviceGetsWhatItsTemplateComesTo(t *testing.T) {
	h := newHouse(t)
	h.user(t, "ana@example.com", "Ana Bee")
	h.device(t, "d1", func(d *mdm.Device) { d.User = "ana@example.com" })
	h.template(t, "wifi", func(tmpl *template.Template) {
		tmpl.Subject = subject(t, "/C=US/O=Example/CN=$FULLNAME/CN=$PROFILE_IDENTIFIER")
		tmpl.SANs = template.SANs{
			RFC822Names: []string{"$EMAIL"}, DNSNames: []string{"$SERIALNUMBER.example.com", "wifi.example.com"},
			URIs: []string{"mdm-device://$JSSID"}, NTPrincipalName: "$UPN",
		}
		tmpl.KeyUsage, tmpl.ExtKeyUsage = []string{"digitalSignature"}, []string{"clientAuth", "1.3.6.1.5.5.7.3.14"}
		tmpl.Validity, tmpl.IncludeRoot, tmpl.Retries, tmpl.RetryDelay = "90d", true, 5, 20*time.Second
	})
	cmd := h.send(t, "wifi", "d1")
	for key, want := range map[string]any{
		"URL": "https://mdm.example.com/scep/wifi", "Name": "wifi", "Keysize": uint64(2048), "Key Type": "RSA", "Key Usage": uint64(1),
		"Retries": uint64(5), "RetryDelay": uint64(20), "KeyIsExtractable": false, "AllowAllAppsAccess": false,
	} {
		if got := cmd.scep(key); got != want {
			t.Errorf("%s = %v (%T), want %v", key, got, got, want)
		}
	}
	fingerprint := sha256.Sum256(h.depot.Payload().Certificate().Raw)
	if got, _ := cmd.scep("CAFingerprint").([]byte); !bytes.Equal(got, fingerprint[:]) {
		t.Errorf("CAFingerprint %x, want that of the issuer", got)
	}
	if root := cmd.payloads["com.apple.security.root"]; root == nil {
		t.Error("the profile brings no root")
	}
	if cmd.identifier != "com.example.mdm.gatehouse.certificate.wifi" {
		t.Errorf("the profile is %q", cmd.identifier)
	}

	asked := asking("root") // of which nothing counts
	asked.DNSNames = []string{"www.example.com"}
	cert, err := h.IssueSCEP(t.Context(), "wifi", request(t, cmd.challenge(t), asked))
	must(t, err)
	if got := depot.SubjectOf(cert); got != "CN=com.example.mdm.gatehouse.certificate.wifi,CN=Ana Bee,O=Example,C=US" {
		t.Errorf("subject %s", got)
	}
	want := []string{"ana@example.com", "snd1.example.com", "wifi.example.com", "mdm-device://d1", "upn:ana@example.com"}
	if got := depot.AlternativeNames(cert); !slices.EqualFunc(got, want, strings.EqualFold) {
		t.Errorf("names %q, want %q", got, want)
	}
	if cert.KeyUsage != x509.KeyUsageDigitalSignature || !slices.Equal(cert.ExtKeyUsage, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}) ||
		len(cert.UnknownExtKeyUsage) != 1 || cert.IsCA {
		t.Errorf("usage %b, %v, %v, CA %v", cert.KeyUsage, cert.ExtKeyUsage, cert.UnknownExtKeyUsage, cert.IsCA)
	}
	if life := cert.NotAfter.Sub(h.now()); life != 90*day {
		t.Errorf("it lasts %v, want 90 days", life)
	}
	rec := h.record(t, cert)
	if rec.DeviceID != "d1" || rec.User != "ana@example.com" || rec.Template != "wifi" || rec.Door != "scep" || rec.Authority != "payload" {
		t.Errorf("record %+v", rec)
	}
	if a := h.assignment(t, "wifi", "d1"); a.State != issuance.Pending || a.Current != "" {
		t.Errorf("before the device has acknowledged: %+v", a)
	}
	h.answer(t, "d1", cmd.uuid, mdm.Acknowledged)
	if a := h.assignment(t, "wifi", "d1"); a.State != issuance.Installed || a.Current != depot.FingerprintOf(cert) || !a.RenewAt.Equal(cert.NotAfter.Add(-30*day)) {
		t.Errorf("after it has: %+v", a)
	}
	if events := h.events(t, "certificate.issued"); len(events) != 1 || events[0].DeviceID != "d1" || events[0].Template != "wifi" {
		t.Errorf("audit log: %+v", events)
	}
}

func TestWhoCannotBeSentACertificate(t *testing.T) {
	storagetest.AnyEngine(t)
	h := newHouse(t)
	h.template(t, "wifi", func(tmpl *template.Template) { tmpl.Subject = subject(t, "/CN=$EMAIL") })
	h.device(t, "nobodys", nil)
	h.device(t, "gone", func(d *mdm.Device) { d.State = mdm.Unenrolled; d.User = "ana@example.com" })
	h.device(t, "ipad", func(d *mdm.Device) { d.User = "ana@example.com" })
	h.device(t, "child", func(d *mdm.Device) { d.ParentID, d.Type = "ipad", mdm.TypeUserChannel })
	h.device(t, "long", func(d *mdm.Device) { d.User = strings.Repeat("a", 60) + "@example.com" })
	sent, rejected, err := h.Send(t.Context(), "user:admin", "wifi", []mdm.DeviceID{"nobodys", "gone", "child", "none", "long", "ipad", "ipad"})
	must(t, err)
	if len(sent) != 1 || sent[0].DeviceID != "ipad" {
		t.Errorf("sent to %v, want the iPad once", sent)
	}
	got := map[mdm.DeviceID]issuance.Rejection{}
	for _, r := range rejected {
		got[r.DeviceID] = r
	}
	for id, want := range map[mdm.DeviceID]struct{ code, field, reason string }{
		"nobodys": {"template", "subject.CN", "$EMAIL is empty"},
		"gone":    {"not_enrolled", "", ""},
		"child":   {"user_channel", "", ""},
		"none":    {"not_found", "", ""},
		"long":    {"template", "subject.CN", "72 bytes"},
	} {
		if r := got[id]; r.Code != want.code || r.Field != want.field || !strings.Contains(r.Reason, want.reason) {
			t.Errorf("%s: %+v, want %+v", id, r, want)
		}
	}
	if _, _, err := h.Send(t.Context(), "user:admin", "nothing", []mdm.DeviceID{"ipad"}); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("a template that does not exist: %v", err)
	}
}

func TestOneChallengeIsOneCertificate(t *testing.T) {
	storagetest.AnyEngine(t)
	h := newHouse(t)
	h.template(t, "wifi", nil)
	h.template(t, "vpn", nil)
	h.device(t, "d1", nil)
	secret := h.send(t, "wifi", "d1").challenge(t)
	if _, err := h.IssueSCEP(t.Context(), "vpn", request(t, secret, asking("x"))); !errors.Is(err, issuance.ErrChallenge) {
		t.Errorf("for another template: %v", err)
	}
	first := request(t, secret, asking("x"))
	cert, err := h.IssueSCEP(t.Context(), "wifi", first)
	must(t, err)
	again, err := h.IssueSCEP(t.Context(), "wifi", first)
	if err != nil || !again.Equal(cert) {
		t.Errorf("the same request again: %v, another certificate: %v", err, !again.Equal(cert))
	}
	if _, err := h.IssueSCEP(t.Context(), "wifi", request(t, secret, asking("x"))); !errors.Is(err, issuance.ErrChallenge) {
		t.Errorf("the challenge again: %v", err)
	}
	for name, secret := range map[string]string{"none": "", "a wrong one": "guess"} {
		if _, err := h.IssueSCEP(t.Context(), "wifi", request(t, secret, asking("x"))); !errors.Is(err, issuance.ErrChallenge) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if n := h.count(t, "wifi"); n != 1 {
		t.Errorf("%d certificates, want 1", n)
	}
	if n := len(h.events(t, "certificate.refused")); n != 4 {
		t.Errorf("%d refusals in the audit log, want 4", n)
	}

	expired := h.send(t, "vpn", "d1").challenge(t)
	h.pass(8 * day)
	if _, err := h.IssueSCEP(t.Context(), "vpn", request(t, expired, asking("x"))); !errors.Is(err, issuance.ErrChallenge) {
		t.Errorf("one of last week: %v", err)
	}
}

func TestRacingRequestsWithOneChallengeGiveOneCertificate(t *testing.T) {
	db := storagetest.Open(t)
	h := houseOn(t, db)
	h.template(t, "wifi", nil)
	h.device(t, "d1", nil)
	secret := h.send(t, "wifi", "d1").challenge(t)
	a, b := request(t, secret, asking("a")), request(t, secret, asking("b"))
	var errA, errB error
	storagetest.Overlap(db,
		func(db storage.DB) { _, errA = houseOn(t, db).IssueSCEP(context.Background(), "wifi", a) },
		func(db storage.DB) { _, errB = houseOn(t, db).IssueSCEP(context.Background(), "wifi", b) })
	if (errA == nil) == (errB == nil) || !errors.Is(errors.Join(errA, errB), issuance.ErrChallenge) {
		t.Errorf("two requests: %v and %v, want one of them refused", errA, errB)
	}
	if n := h.count(t, "wifi"); n != 1 {
		t.Errorf("%d certificates, want 1", n)
	}
}

func TestANewCertificateComesBeforeTheOldOneEnds(t *testing.T) {
	storagetest.AnyEngine(t)
	h := newHouse(t)
	h.template(t, "wifi", nil) // a year, renewed 30 days before
	h.device(t, "d1", nil)
	first := h.install(t, "wifi", "d1")
	h.pass(334 * day)
	must(t, h.Renew(t.Context()))
	if cmd := h.fetch(t, "d1"); cmd != nil {
		t.Fatalf("a day before it is due the device gets %+v", cmd)
	}
	h.pass(2 * day)
	must(t, h.Renew(t.Context()))
	must(t, h.Renew(t.Context())) // a second look changes nothing
	cmd := h.fetch(t, "d1")
	if cmd == nil {
		t.Fatal("nothing is sent though it is due")
	}
	second, err := h.IssueSCEP(t.Context(), "wifi", request(t, cmd.challenge(t), asking("x")))
	must(t, err)
	if a := h.assignment(t, "wifi", "d1"); a.State != issuance.Renewing || a.Current != depot.FingerprintOf(first) || h.revoked(t, first) != "" {
		t.Errorf("before the device has acknowledged: %+v, the old one revoked for %q", a, h.revoked(t, first))
	}
	h.answer(t, "d1", cmd.uuid, mdm.NotNow)
	if a := h.assignment(t, "wifi", "d1"); a.Try == "" || h.revoked(t, first) != "" {
		t.Errorf("NotNow ended the try: %+v", a)
	}
	h.answer(t, "d1", h.fetch(t, "d1").uuid, mdm.Acknowledged)
	a := h.assignment(t, "wifi", "d1")
	if a.State != issuance.Installed || a.Current != depot.FingerprintOf(second) || h.revoked(t, first) != "superseded" || h.revoked(t, second) != "" {
		t.Errorf("after it has: %+v; revoked: %q, %q", a, h.revoked(t, first), h.revoked(t, second))
	}
	if again := h.fetch(t, "d1"); again != nil {
		t.Errorf("another command: %+v", again)
	}
}

func TestATryThatFailsIsMadeAgainADayLater(t *testing.T) {
	storagetest.AnyEngine(t)
	h := newHouse(t)
	h.template(t, "wifi", nil)
	h.device(t, "d1", nil)
	first := h.install(t, "wifi", "d1")
	h.pass(336 * day)
	for try := 1; try <= 4; try++ {
		must(t, h.Renew(t.Context()))
		cmd := h.fetch(t, "d1")
		if cmd == nil {
			t.Fatalf("try %d is not made", try)
		}
		lost, err := h.IssueSCEP(t.Context(), "wifi", request(t, cmd.challenge(t), asking("x")))
		must(t, err)
		h.answer(t, "d1", cmd.uuid, mdm.Failed)
		a := h.assignment(t, "wifi", "d1")
		if a.State != issuance.Failing || a.Failures != try || a.Current != depot.FingerprintOf(first) || a.Reason == "" {
			t.Errorf("after try %d: %+v", try, a)
		}
		if a.Stuck(h.now()) != (try >= 3) {
			t.Errorf("after %d failures stuck is %v", try, a.Stuck(h.now()))
		}
		if h.revoked(t, lost) == "" || h.revoked(t, first) != "" {
			t.Errorf("after try %d its certificate is revoked for %q, the one in use for %q", try, h.revoked(t, lost), h.revoked(t, first))
		}
		h.pass(23 * time.Hour)
		must(t, h.Renew(t.Context()))
		if again := h.fetch(t, "d1"); again != nil {
			t.Errorf("within a day of try %d another one is made", try)
		}
		h.pass(2 * time.Hour)
	}
	must(t, h.Renew(t.Context()))
	cmd := h.fetch(t, "d1")
	_, err := h.IssueSCEP(t.Context(), "wifi", request(t, cmd.challenge(t), asking("x")))
	must(t, err)
	h.answer(t, "d1", cmd.uuid, mdm.Acknowledged)
	if a := h.assignment(t, "wifi", "d1"); a.State != issuance.Installed || a.Failures != 0 || a.Stuck(h.now()) {
		t.Errorf("after it worked: %+v", a)
	}
	if n := len(h.events(t, "certificate.failed")); n != 4 {
		t.Errorf("%d failures in the audit log, want 4", n)
	}
}

func TestADeviceThatIsOffForWeeksFindsOneFreshProfile(t *testing.T) {
	storagetest.AnyEngine(t)
	h := newHouse(t)
	h.template(t, "wifi", nil)
	h.device(t, "d1", nil)
	first := h.install(t, "wifi", "d1")
	h.pass(336 * day)
	for range 50 {
		must(t, h.Renew(t.Context()))
		h.pass(day)
	}
	cmd := h.fetch(t, "d1")
	if cmd == nil {
		t.Fatal("nothing waits for the device")
	}
	if a := h.assignment(t, "wifi", "d1"); !a.Stuck(h.now()) {
		t.Errorf("weeks overdue and not stuck: %+v", a)
	}
	second, err := h.IssueSCEP(t.Context(), "wifi", request(t, cmd.challenge(t), asking("x")))
	must(t, err)
	h.answer(t, "d1", cmd.uuid, mdm.Acknowledged)
	if more := h.fetch(t, "d1"); more != nil {
		t.Errorf("another command waits: %+v", more)
	}
	if a := h.assignment(t, "wifi", "d1"); a.Current != depot.FingerprintOf(second) || h.revoked(t, first) != "superseded" {
		t.Errorf("afterwards: %+v", a)
	}
}

// TestALateAnswerIsNotLost: the device installed a profile and could not say so before
// the next one was made, because its lid was closed or somebody sent another.
func TestALateAnswerIsNotLost(t *testing.T) {
	storagetest.AnyEngine(t)
	for name, again := range map[string]func(t *testing.T, h *house){
		"after a week": func(t *testing.T, h *house) {
			h.pass(8 * day)
			must(t, h.Renew(t.Context()))
		},
		"when it is sent once more": func(t *testing.T, h *house) {
			if _, _, err := h.Send(t.Context(), "user:admin", "wifi", []mdm.DeviceID{"d1"}); err != nil {
				t.Fatal(err)
			}
		},
	} {
		for second, then := range map[string]mdm.CommandState{"and the next works": mdm.Acknowledged, "and the next fails": mdm.Failed} {
			t.Run(name+" "+second, func(t *testing.T) {
				h := newHouse(t)
				h.template(t, "wifi", nil)
				h.device(t, "d1", nil)
				cmd := h.send(t, "wifi", "d1")
				early, err := h.IssueSCEP(t.Context(), "wifi", request(t, cmd.challenge(t), asking("x")))
				must(t, err)
				again(t, h)
				if h.revoked(t, early) != "" {
					t.Errorf("the next try revoked what the device may be using: %q", h.revoked(t, early))
				}
				h.answer(t, "d1", cmd.uuid, mdm.Acknowledged)
				if a := h.assignment(t, "wifi", "d1"); a.Current != depot.FingerprintOf(early) || a.State != issuance.Renewing {
					t.Errorf("after the late answer: %+v", a)
				}
				next := h.fetch(t, "d1")
				if next == nil || next.uuid == cmd.uuid {
					t.Fatal("no second try was made")
				}
				late, err := h.IssueSCEP(t.Context(), "wifi", request(t, next.challenge(t), asking("x")))
				must(t, err)
				h.answer(t, "d1", next.uuid, then)
				inUse, gone := late, early
				if then == mdm.Failed {
					inUse, gone = early, late
				}
				if h.revoked(t, inUse) != "" || h.revoked(t, gone) != "superseded" {
					t.Errorf("in use: revoked for %q; the other: %q", h.revoked(t, inUse), h.revoked(t, gone))
				}
				if a := h.assignment(t, "wifi", "d1"); a.Current != depot.FingerprintOf(inUse) || len(a.Candidates) != 0 || len(a.Tries) != 0 {
					t.Errorf("at last: %+v", a)
				}
			})
		}
	}
}

func TestWhatADeviceRenewedItselfOutlivesATryThatFails(t *testing.T) {
	storagetest.AnyEngine(t)
	h := newHouse(t)
	h.template(t, "wifi", nil)
	h.device(t, "d1", nil)
	first := h.install(t, "wifi", "d1")
	h.pass(336 * day)
	must(t, h.Renew(t.Context()))
	cmd := h.fetch(t, "d1")
	asked := x509.CertificateRequest{Subject: pkix.Name{Organization: []string{"Example"}, CommonName: "SNd1"}}
	own, err := h.IssueSCEP(t.Context(), "wifi", renewing(t, first, asked))
	must(t, err)
	brought, err := h.IssueSCEP(t.Context(), "wifi", request(t, cmd.challenge(t), asking("x")))
	must(t, err)
	h.answer(t, "d1", cmd.uuid, mdm.Failed)
	if h.revoked(t, own) != "" || h.revoked(t, brought) == "" {
		t.Errorf("its own is revoked for %q, that of the try for %q", h.revoked(t, own), h.revoked(t, brought))
	}
	again, err := h.IssueSCEP(t.Context(), "wifi", renewing(t, first, asked)) // from the old one once more
	must(t, err)
	if a := h.assignment(t, "wifi", "d1"); a.Current != depot.FingerprintOf(again) || h.revoked(t, own) == "" {
		t.Errorf("renewed twice: %+v", a)
	}
	must(t, h.Unassign(t.Context(), "user:admin", "wifi", "d1"))
	if h.revoked(t, again) == "" || h.revoked(t, first) == "" {
		t.Error("taken back, and still trusted")
	}
}

func TestACandidateThatIsRevokedNeverComesIntoForce(t *testing.T) {
	storagetest.AnyEngine(t)
	h := newHouse(t)
	h.template(t, "wifi", nil)
	h.device(t, "d1", nil)
	first := h.install(t, "wifi", "d1")
	cmd := h.send(t, "wifi", "d1")
	second, err := h.IssueSCEP(t.Context(), "wifi", request(t, cmd.challenge(t), asking("x")))
	must(t, err)
	rec := h.record(t, second)
	h.update(t, func(tx storage.Tx) error { // what package enroll does by hand
		return errors.Join(h.depot.Revoke(tx, rec.Fingerprint, "keyCompromise", h.now()), h.Revoked(tx, rec))
	})
	h.answer(t, "d1", cmd.uuid, mdm.Acknowledged)
	if h.revoked(t, first) != "" {
		t.Errorf("the good one is revoked for %q", h.revoked(t, first))
	}
	if a := h.assignment(t, "wifi", "d1"); a.State != issuance.Ended || a.Current != depot.FingerprintOf(first) {
		t.Errorf("assignment %+v", a)
	}
}

func TestManyDevicesAreSentTheirsBehind(t *testing.T) {
	h := newHouse(t)
	h.template(t, "wifi", nil)
	ids := []mdm.DeviceID{"none"}
	for i := range 120 {
		id := mdm.DeviceID(fmt.Sprintf("d%03d", i))
		h.device(t, id, nil)
		ids = append(ids, id)
	}
	sent, rejected, err := h.Send(t.Context(), "user:admin", "wifi", ids)
	must(t, err)
	if len(sent) != 120 || len(rejected) != 1 || rejected[0].Code != "not_found" {
		t.Fatalf("sent %d, rejected %+v", len(sent), rejected)
	}
	h.pass(time.Second)
	must(t, h.Renew(t.Context()))
	for _, id := range ids[1:] {
		if h.fetch(t, id) == nil {
			t.Fatalf("nothing waits for %s", id)
		}
	}
}

func TestARenewalIsNotDueWhenItIsDone(t *testing.T) {
	storagetest.AnyEngine(t)
	h := newHouse(t)
	h.template(t, "short", func(tmpl *template.Template) { tmpl.Validity, tmpl.RenewBefore = "12h", "99%" })
	h.device(t, "d1", nil)
	h.install(t, "short", "d1")
	for range 5 {
		must(t, h.Renew(t.Context()))
		if cmd := h.fetch(t, "d1"); cmd != nil {
			t.Fatal("the certificate of a moment ago is renewed")
		}
		h.pass(time.Minute)
	}
	h.pass(15 * time.Minute)
	must(t, h.Renew(t.Context()))
	if h.fetch(t, "d1") == nil {
		t.Error("it is never renewed")
	}
}

func TestAnAssignmentOfADeviceThatIsGoneEnds(t *testing.T) {
	storagetest.AnyEngine(t)
	h := newHouse(t)
	h.template(t, "wifi", nil)
	h.device(t, "d1", nil)
	h.install(t, "wifi", "d1")
	h.device(t, "d1", func(d *mdm.Device) { d.State = mdm.Unenrolled }) // by a transaction that did not see the assignment
	h.pass(340 * day)
	must(t, h.Renew(t.Context()))
	if a := h.assignment(t, "wifi", "d1"); a.State != issuance.Ended {
		t.Errorf("assignment %+v", a)
	}
}

func TestTrustFollowsTheDevice(t *testing.T) {
	storagetest.AnyEngine(t)
	h := newHouse(t)
	h.template(t, "wifi", nil)
	d := h.device(t, "d1", nil)
	cert := h.install(t, "wifi", "d1")
	h.update(t, func(tx storage.Tx) error { // what package enroll does at an end
		d.State = mdm.Unenrolled
		if err := errors.Join(mdm.PutDevice(tx, d), h.depot.RevokeDevice(tx, "d1", "cessationOfOperation", h.now())); err != nil {
			return err
		}
		return h.DeviceGone(tx, "d1")
	})
	if h.revoked(t, cert) != "cessationOfOperation" {
		t.Errorf("its certificate is revoked for %q", h.revoked(t, cert))
	}
	h.pass(400 * day)
	must(t, h.Renew(t.Context()))
	if a := h.assignment(t, "wifi", "d1"); a.State != issuance.Ended || a.Reason == "" {
		t.Errorf("its assignment: %+v", a)
	}
}

func TestACertificateThatIsTakenBack(t *testing.T) {
	storagetest.AnyEngine(t)
	h := newHouse(t)
	h.template(t, "wifi", nil)
	h.device(t, "d1", nil)
	cert := h.install(t, "wifi", "d1")
	must(t, h.Unassign(t.Context(), "user:admin", "wifi", "d1"))
	if h.revoked(t, cert) == "" || h.assignment(t, "wifi", "d1").State != issuance.Ended {
		t.Error("it is still trusted")
	}
	cmd := h.fetch(t, "d1")
	if cmd == nil || cmd.requestType != "RemoveProfile" {
		t.Fatalf("the device is to run %+v, want RemoveProfile", cmd)
	}
	h.answer(t, "d1", cmd.uuid, mdm.Acknowledged)
	if err := h.Unassign(t.Context(), "user:admin", "vpn", "d1"); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("what was never sent: %v", err)
	}
	// Sent again it is as new.
	again := h.send(t, "wifi", "d1")
	if _, err := h.IssueSCEP(t.Context(), "wifi", request(t, again.challenge(t), asking("x"))); err != nil {
		t.Error(err)
	}
}

func TestAPreviewPromisesNothing(t *testing.T) {
	storagetest.AnyEngine(t)
	h := newHouse(t)
	h.template(t, "wifi", nil)
	h.device(t, "d1", nil)
	p, err := h.Preview(t.Context(), "wifi", "d1")
	must(t, err)
	if !strings.Contains(string(p.Profile), "<string>SNd1</string>") || p.Expanded.Subject.String() != "/O=Example/CN=SNd1" {
		t.Errorf("preview: %s\n%s", p.Expanded.Subject, p.Profile)
	}
	if cmd := h.fetch(t, "d1"); cmd != nil {
		t.Error("the preview was sent")
	}
	h.device(t, "d2", func(d *mdm.Device) { d.SerialNumber = "" })
	var field *template.FieldError
	if _, err := h.Preview(t.Context(), "wifi", "d2"); !errors.As(err, &field) || field.Field != "subject.CN" {
		t.Errorf("an empty variable: %v", err)
	}
}
