package apiv1_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/depot"
	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

type link struct {
	ID, Code, URL, Name, Ownership, Login, User string
	ProfileURL                                  string     `json:"profile_url"`
	Uses                                        int        `json:"uses"`
	UsesLeft                                    int        `json:"uses_left"`
	ExpiresAt                                   time.Time  `json:"expires_at"`
	RevokedAt                                   *time.Time `json:"revoked_at"`
	CreatedBy                                   string     `json:"created_by"`
}

func TestTheLifeOfALink(t *testing.T) {
	h := newHouse(t)
	made := h.do(t, exchange{method: "POST", path: "/api/v1/enrollment-links", body: map[string]any{
		"name": "Berlin 📦", "ownership": "personal", "login": "none", "uses": 3, "expires_in": "24h", "user": "ana@example.com",
	}})
	var l link
	made.want(t, 201, &l)
	want := link{
		ID: l.ID, Code: l.Code, Name: "Berlin 📦", Ownership: "personal", Login: "none", User: "ana@example.com",
		URL: "https://mdm.example.com/enroll/l/" + l.Code, ProfileURL: "https://mdm.example.com/enroll/l/" + l.Code + "/profile",
		Uses: 3, UsesLeft: 3, ExpiresAt: h.now().Add(24 * time.Hour), CreatedBy: "token:test",
	}
	if l != want || l.ID == "" || l.Code == "" || l.ID == l.Code {
		t.Errorf("made %+v, want %+v", l, want)
	}
	if at := made.response.Get("Location"); at != "/api/v1/enrollment-links/"+l.ID {
		t.Errorf("Location is %q", at)
	}

	if _, _, err := h.enroll.NewEnrollment(context.Background(), l.Code); err != nil {
		t.Fatalf("the link's code opens nothing: %v", err)
	}
	var attempts struct {
		Items []struct {
			ID, User, Ownership, Stage string
			LinkID                     string               `json:"link_id"`
			StageAt                    map[string]time.Time `json:"stage_at"`
			ErrorCode                  string               `json:"error_code"`
		}
	}
	h.do(t, exchange{method: "GET", path: "/api/v1/enrollment-attempts"}).want(t, 200, &attempts)
	if len(attempts.Items) != 1 {
		t.Fatalf("attempts are %+v, want one", attempts)
	}
	a := attempts.Items[0]
	if a.LinkID != l.ID || a.User != "ana@example.com" || a.Ownership != "personal" || a.Stage != "profile_downloaded" || !a.StageAt["opened"].Equal(h.now()) {
		t.Errorf("the attempt is %+v", a)
	}

	h.do(t, exchange{method: "DELETE", path: "/api/v1/enrollment-links/" + l.ID}).want(t, 204, nil)
	h.do(t, exchange{method: "DELETE", path: "/api/v1/enrollment-links/" + l.ID}).want(t, 204, nil)
	h.do(t, exchange{method: "GET", path: "/api/v1/enrollment-links/" + l.ID}).want(t, 200, &l)
	if l.RevokedAt == nil || !l.RevokedAt.Equal(h.now()) {
		t.Errorf("revoked_at is %v, want %v", l.RevokedAt, h.now())
	}
	h.do(t, exchange{method: "GET", path: "/api/v1/enrollment-attempts/" + a.ID}).want(t, 200, &a)
	if a.Stage != "failed" || a.ErrorCode != "link_revoked" {
		t.Errorf("the open attempt is %+v, want failed with link_revoked", a)
	}
	if _, _, err := h.enroll.NewEnrollment(context.Background(), l.Code); !errors.Is(err, enroll.ErrLinkRevoked) {
		t.Errorf("the revoked link's code: %v", err)
	}
}

func TestListsComeInPages(t *testing.T) {
	h := newHouse(t)
	const all = 5
	for i := range all {
		h.do(t, exchange{method: "POST", path: "/api/v1/enrollment-links", body: map[string]any{"name": fmt.Sprint(i)}}).want(t, 201, nil)
		h.device(t, mdm.DeviceID(fmt.Sprint("d", i)), nil)
	}
	for _, path := range []string{"/api/v1/enrollment-links", "/api/v1/devices"} {
		seen, pages, next := make(map[string]bool), 0, ""
		for {
			var page struct {
				Items      []struct{ ID string }
				NextCursor string `json:"next_cursor"`
			}
			h.do(t, exchange{method: "GET", path: path + "?limit=2&cursor=" + next}).want(t, 200, &page)
			for _, item := range page.Items {
				seen[item.ID] = true
			}
			if pages++; page.NextCursor == "" || pages > all {
				break
			}
			next = page.NextCursor
		}
		if len(seen) != all || pages != 3 {
			t.Errorf("%s: %d items in %d pages, want %d in 3", path, len(seen), pages, all)
		}
	}
	var none struct{ Items []any }
	empty := h.do(t, exchange{method: "GET", path: "/api/v1/enrollment-attempts"})
	empty.want(t, 200, &none)
	if none.Items == nil {
		t.Errorf("an empty list is %s, want items to be []", empty.answer)
	}
}

func TestDevicesAsTheirRecordSays(t *testing.T) {
	h := newHouse(t)
	h.device(t, "mac", nil)
	h.device(t, "user", func(d *mdm.Device) {
		d.Type, d.ParentID, d.AppleID = mdm.TypeUserChannel, "mac", mdm.AppleID{UDID: "UDID-mac", UserID: "U1"}
		d.EnrolledAt, d.State = time.Time{}, mdm.Pending
	})
	err := h.db.Update(context.Background(), func(tx storage.Tx) error {
		d, err := mdm.GetDevice(tx, "mac")
		if err != nil {
			return err
		}
		return mdm.LearnInformation(tx, &d, []byte(`{"QueryResponses":{"DeviceName":"Ana's <Mac>","BatteryLevel":-1,"IsSupervised":true}}`))
	})
	if err != nil {
		t.Fatal(err)
	}
	var d map[string]any
	h.do(t, exchange{method: "GET", path: "/api/v1/devices/mac"}).want(t, 200, &d)
	for field, want := range map[string]any{
		"id": "mac", "enrollment_type": "device", "ownership": "institutional", "state": "enrolled", "udid": "UDID-mac",
		"enrollment_id": "", "parent_id": "", "serial_number": "C02mac", "device_name": "Ana's <Mac>", "model": "Mac14,2",
		"os_version": "15.1", "user": "ana@example.com", "enrolled_at": h.now().Format(time.RFC3339), "last_seen_at": nil, "pending_commands": 0.0,
	} {
		if d[field] != want {
			t.Errorf("%s = %#v, want %#v", field, d[field], want)
		}
	}
	if facts, _ := d["attributes"].(map[string]any); facts["BatteryLevel"] != -1.0 || facts["IsSupervised"] != true {
		t.Errorf("attributes = %v", d["attributes"])
	}
	h.do(t, exchange{method: "GET", path: "/api/v1/devices/user"}).want(t, 200, &d)
	if d["parent_id"] != "mac" || d["enrollment_type"] != "user_channel" || d["state"] != "pending" || d["enrolled_at"] != nil {
		t.Errorf("the user channel is %v", d)
	}
	h.do(t, exchange{method: "GET", path: "/api/v1/devices"}).want(t, 200, nil)
}

func TestEndingAnEnrollment(t *testing.T) {
	h := newHouse(t)
	h.device(t, "gone", nil)
	h.device(t, "barred", nil)
	for id, tt := range map[string]struct{ call, state string }{
		"gone":   {"unenroll", "unenrolled"},
		"barred": {"block", "blocked"},
	} {
		t.Run(tt.call, func(t *testing.T) {
			h.do(t, exchange{method: "POST", path: "/api/v1/commands", body: map[string]any{"request_type": "ProfileList", "device_ids": []string{id}}}).want(t, 202, nil)
			for range 2 { // the second changes nothing
				var d struct {
					State   string
					Pending int `json:"pending_commands"`
				}
				h.do(t, exchange{method: "POST", path: "/api/v1/devices/" + id + "/" + tt.call}).want(t, 202, &d)
				if d.State != tt.state || d.Pending != 0 {
					t.Errorf("the device is %+v, want %s without commands", d, tt.state)
				}
			}
			p := h.do(t, exchange{method: "POST", path: "/api/v1/commands", body: map[string]any{"request_type": "ProfileList", "device_ids": []string{id}}}).
				wantProblem(t, 422, "command_rejected")
			if len(p.Rejected) != 1 || p.Rejected[0].DeviceID != id {
				t.Errorf("rejected = %+v", p.Rejected)
			}
		})
	}
	h.do(t, exchange{method: "POST", path: "/api/v1/devices/none/unenroll"}).wantProblem(t, 404, "not_found")
	var d struct{ State string }
	h.do(t, exchange{method: "DELETE", path: "/api/v1/devices/barred/block"}).want(t, 200, &d)
	if d.State != "unenrolled" {
		t.Errorf("the unblocked device is %s", d.State)
	}
	h.do(t, exchange{method: "DELETE", path: "/api/v1/devices/none/block"}).wantProblem(t, 404, "not_found")
}

func TestRevokingACertificate(t *testing.T) {
	h := newHouse(t)
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := h.depot.Identity().Sign(key.Public(), depot.Contents{Name: "identity", NotBefore: h.now(), NotAfter: h.now().Add(time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	h.device(t, "d1", func(d *mdm.Device) { d.Identity = string(depot.FingerprintOf(cert)) })
	err = h.db.Update(context.Background(), func(tx storage.Tx) error {
		return h.depot.Record(tx, cert, depot.Certificate{Authority: h.depot.Identity().Name(), Template: "identity", DeviceID: "d1"})
	})
	if err != nil {
		t.Fatal(err)
	}
	revoke := func(serial, body string) exchange {
		return h.do(t, exchange{method: "POST", path: "/api/v1/certificates/" + serial + "/revoke", body: body, wild: true})
	}
	serial := string(depot.SerialOf(cert))
	for _, body := range []string{`{}`, `{"reason":""}`, `{"reason":"because"}`, `{"reason":"certificateHold"}`} {
		revoke(serial, body).wantField(t, "reason")
	}
	revoke("abcd", `{"reason":"keyCompromise"}`).wantProblem(t, 404, "not_found")

	var first, again struct {
		Status    string
		RevokedAt *time.Time `json:"revoked_at"`
		Reason    string     `json:"revocation_reason"`
	}
	revoke(serial, `{"reason":"keyCompromise"}`).want(t, 200, &first)
	if first.Status != "revoked" || first.Reason != "keyCompromise" || first.RevokedAt == nil {
		t.Errorf("the certificate is %+v, want it revoked", first)
	}
	h.pass(time.Minute)
	revoke(strings.ToUpper(serial), `{"reason":"superseded"}`).want(t, 200, &again)
	if again.Reason != "keyCompromise" || !again.RevokedAt.Equal(*first.RevokedAt) {
		t.Errorf("revoked again, the certificate is %+v, want %+v", again, first)
	}
	var d struct{ State string }
	h.do(t, exchange{method: "GET", path: "/api/v1/devices/d1"}).want(t, 200, &d)
	if d.State != "unenrolled" {
		t.Errorf("the device is %s, want unenrolled", d.State)
	}
}

func TestCertificatesAndTheirStatus(t *testing.T) {
	h := newHouse(t)
	issue := func(life time.Duration) depot.Serial {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		cert, err := h.depot.Root().Sign(key.Public(), depot.Contents{
			Name: "test", NotBefore: h.now(), NotAfter: h.now().Add(life), DNSNames: []string{"mdm.example.com"},
		})
		if err != nil {
			t.Fatal(err)
		}
		err = h.db.Update(context.Background(), func(tx storage.Tx) error {
			return h.depot.Record(tx, cert, depot.Certificate{Authority: "root", Template: "test", DeviceID: "d1", User: "ana@example.com"})
		})
		if err != nil {
			t.Fatal(err)
		}
		return depot.SerialOf(cert)
	}
	type certificate struct {
		Serial, Status string
		SANs           []string   `json:"sans"`
		DeviceID       string     `json:"device_id"`
		RevokedAt      *time.Time `json:"revoked_at"`
		Reason         string     `json:"revocation_reason"`
	}
	short, long, revoked := issue(time.Hour), issue(48*time.Hour), issue(48*time.Hour)
	err := h.db.Update(context.Background(), func(tx storage.Tx) error {
		c, err := h.depot.BySerial(tx, revoked)
		if err != nil {
			return err
		}
		return h.depot.Revoke(tx, c.Fingerprint, "keyCompromise", h.now())
	})
	if err != nil {
		t.Fatal(err)
	}
	h.pass(2 * time.Hour)
	for serial, want := range map[depot.Serial]string{short: "expired", long: "active", revoked: "revoked"} {
		var c certificate
		asPrinted := "00:" + strings.ToUpper(string(serial)) // as other tools print it
		h.do(t, exchange{method: "GET", path: "/api/v1/certificates/" + asPrinted}).want(t, 200, &c)
		if c.Serial != string(serial) || c.Status != want || (c.RevokedAt != nil) != (want == "revoked") || (c.Reason == "keyCompromise") != (want == "revoked") {
			t.Errorf("certificate %s is %+v, want %s", serial, c, want)
		}
		if len(c.SANs) != 1 || c.SANs[0] != "mdm.example.com" || c.DeviceID != "d1" {
			t.Errorf("certificate %s is %+v", serial, c)
		}
	}
	var list struct{ Items []certificate }
	h.do(t, exchange{method: "GET", path: "/api/v1/certificates"}).want(t, 200, &list)
	if len(list.Items) != 3 {
		t.Errorf("the list has %d certificates, want 3", len(list.Items))
	}
}
