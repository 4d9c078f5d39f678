package apiv1_test

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/depot"
	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/command"
	"github.com/gatehouse-mdm/gatehouse/mdm/profile"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/guard"
)

type assignment struct {
	Template, State, Serial, Reason string

	DeviceID    string `json:"device_id"`
	CommandUUID string `json:"command_uuid"`
	CreatedBy   string `json:"created_by"`
	Failures    int
	Stuck       bool
	RenewAt     *time.Time `json:"renew_at"`
	DueAt       *time.Time `json:"due_at"`
	FailedAt    *time.Time `json:"failed_at"`
}

type sent struct {
	Items    []assignment
	Rejected []struct {
		DeviceID            string `json:"device_id"`
		Code, Field, Reason string
	}
}

// ana is the user whose devices the tests make.
func (h *house) ana(t testing.TB) identity.User {
	t.Helper()
	u, err := h.identity.CreateUser(context.Background(), identity.Local(), identity.NewUser{
		Username: "ana", Email: "ana@example.com", FullName: "Ana Bee", ManagedAppleAccount: "ana@apple.example.com",
	})
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// template makes a template through the API.
func (h *house) template(t testing.TB, change map[string]any) {
	t.Helper()
	h.do(t, exchange{method: "POST", path: templatesPath, body: wifi(change)}).want(t, 201, nil)
}

func (h *house) sendTemplate(t testing.TB, name string, ids ...string) exchange {
	t.Helper()
	return h.do(t, exchange{method: "POST", path: templatesPath + "/" + name + "/send", body: map[string]any{"device_ids": ids}})
}

// installProfile hands a device its next command, and returns the profile that it is to
// install, as it is and by its payloads' types.
func (h *house) installProfile(t testing.TB, id mdm.DeviceID) (uuid string, top map[string]any, payloads map[string]map[string]any) {
	t.Helper()
	var next *mdm.Delivery
	err := h.db.Update(context.Background(), func(tx storage.Tx) error {
		e, err := h.mdm.Head(tx, id, false)
		if err != nil {
			return err
		}
		if e == nil || e.RequestType != "InstallProfile" {
			t.Fatalf("device %s is to run %+v, want an InstallProfile", id, e)
		}
		uuid = e.UUID
		next, err = h.mdm.Deliver(tx, e)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	plist, err := h.mdm.Plist(next)
	if err != nil {
		t.Fatal(err)
	}
	var cmd struct{ Command struct{ Payload []byte } }
	if err := guard.DecodePlist(plist, &cmd, guard.PlistLimits{}); err != nil {
		t.Fatal(err)
	}
	plain, signer, err := profile.Unwrap(cmd.Command.Payload)
	if err != nil {
		t.Fatal(err)
	}
	if signer == nil {
		t.Error("the profile is not signed")
	}
	top, payloads = payloadsOf(t, plain)
	return uuid, top, payloads
}

// payloadsOf reads a profile.
func payloadsOf(t testing.TB, plist []byte) (top map[string]any, byType map[string]map[string]any) {
	t.Helper()
	if err := guard.DecodePlist(plist, &top, guard.PlistLimits{}); err != nil {
		t.Fatal(err)
	}
	byType = map[string]map[string]any{}
	for _, p := range top["PayloadContent"].([]any) {
		payload := p.(map[string]any)
		byType[payload["PayloadType"].(string)] = payload
	}
	return top, byType
}

// scep asks for a certificate with a challenge, and for much that nobody grants.
func (h *house) scep(t testing.TB, name, challenge string) *x509.Certificate {
	t.Helper()
	key := newKey(t)
	self := &x509.Certificate{SerialNumber: big.NewInt(1)}
	der, err := x509.CreateCertificate(rand.Reader, self, self, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	der, err = x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "Mallory"}}, key)
	if err != nil {
		t.Fatal(err)
	}
	csr, err := guard.ParseCSR(der, 0)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := h.issuance.IssueSCEP(context.Background(), name, depot.Request{TransactionID: name + challenge, Challenge: challenge, CSR: csr, Signer: signer})
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// report is a device's answer to a command, as a poll brings it.
func (h *house) report(t testing.TB, id mdm.DeviceID, r mdm.Report) {
	t.Helper()
	err := h.db.Update(context.Background(), func(tx storage.Tx) error {
		e, err := h.mdm.Record(tx, id, r)
		if err != nil || e == nil {
			return err
		}
		return h.issuance.Answered(tx, *e)
	})
	if err != nil {
		t.Fatal(err)
	}
}

func (h *house) assignmentsOf(t testing.TB, query string) (items []assignment) {
	t.Helper()
	var got sent
	h.do(t, exchange{method: "GET", path: "/api/v1/certificate-assignments?" + query}).want(t, 200, &got)
	return got.Items
}

func TestTheLifeOfAnAssignment(t *testing.T) {
	h := newHouse(t)
	h.ana(t)
	h.device(t, "d1", nil)
	h.template(t, nil)

	var got sent
	h.sendTemplate(t, "wifi", "d1").want(t, 202, &got)
	if len(got.Items) != 1 || len(got.Rejected) != 0 {
		t.Fatalf("sent is %+v, want one assignment", got)
	}
	if a := got.Items[0]; a.State != "pending" || a.Serial != "" || a.CommandUUID == "" || a.RenewAt != nil || a.CreatedBy != "token:test" || a.Stuck {
		t.Errorf("sent is %+v, want it pending", a)
	}
	uuid, _, payloads := h.installProfile(t, "d1")
	if uuid != got.Items[0].CommandUUID {
		t.Errorf("the device got the command %s, want %s", uuid, got.Items[0].CommandUUID)
	}
	cert := h.scep(t, "wifi", payloads["com.apple.security.scep"]["PayloadContent"].(map[string]any)["Challenge"].(string))
	h.report(t, "d1", mdm.Report{CommandUUID: uuid, State: mdm.Acknowledged})

	serial := string(depot.SerialOf(cert))
	items := h.assignmentsOf(t, "device_id=d1")
	if len(items) != 1 || items[0].State != "installed" || items[0].Serial != serial || items[0].CommandUUID != "" {
		t.Fatalf("installed it is %+v, want certificate %s", items, serial)
	}
	if at := items[0].RenewAt; at == nil || !at.Equal(cert.NotAfter.Add(-30*24*time.Hour)) || !at.Equal(*items[0].DueAt) {
		t.Errorf("it is due at %v and renewed at %v, want 30 days before %v", items[0].DueAt, at, cert.NotAfter)
	}
	if c := h.certificates(t, "device_id=d1"); len(c) != 1 || c[0].Serial != serial || c[0].Door != "scep" || c[0].User != "ana@example.com" {
		t.Errorf("the device's certificates are %+v", c)
	}

	h.do(t, exchange{method: "DELETE", path: templatesPath + "/wifi"}).wantProblem(t, 409, "template_in_use")
	h.do(t, exchange{method: "DELETE", path: templatesPath + "/wifi?force=maybe", wild: true}).wantField(t, "force")
	h.do(t, exchange{method: "DELETE", path: templatesPath + "/wifi?force=false"}).wantProblem(t, 409, "template_in_use")

	h.do(t, exchange{method: "DELETE", path: "/api/v1/certificate-assignments/wifi/d2"}).wantProblem(t, 404, "not_found")
	h.do(t, exchange{method: "DELETE", path: "/api/v1/certificate-assignments/wifi/d1"}).want(t, 204, nil)
	if items := h.assignmentsOf(t, "state=ended"); len(items) != 1 || items[0].Reason == "" || items[0].DueAt != nil {
		t.Errorf("taken back it is %+v", items)
	}
	if c := h.certificates(t, "status=revoked"); len(c) != 1 || c[0].Reason != "cessationOfOperation" {
		t.Errorf("revoked are %+v, want the certificate", c)
	}
	h.do(t, exchange{method: "DELETE", path: templatesPath + "/wifi"}).want(t, 204, nil)
}

func TestWhoCannotBeSentATemplate(t *testing.T) {
	h := newHouse(t)
	h.device(t, "good", nil)
	h.device(t, "gone", func(d *mdm.Device) { d.State = mdm.Unenrolled })
	h.device(t, "nobody", func(d *mdm.Device) { d.User = "" })
	h.template(t, nil)
	var got sent
	h.sendTemplate(t, "wifi", "good", "gone", "nobody", "good", "none").want(t, 202, &got)
	if len(got.Items) != 1 || got.Items[0].DeviceID != "good" {
		t.Errorf("sent are %+v, want one", got.Items)
	}
	want := map[string][2]string{"gone": {"not_enrolled", ""}, "nobody": {"template", "subject.CN"}, "none": {"not_found", ""}}
	for _, no := range got.Rejected {
		if want[no.DeviceID] != [2]string{no.Code, no.Field} || no.Reason == "" {
			t.Errorf("rejected is %+v, want %v", no, want[no.DeviceID])
		}
		delete(want, no.DeviceID)
	}
	if len(want) > 0 {
		t.Errorf("not rejected: %v", want)
	}
	if p := h.sendTemplate(t, "wifi", "gone", "nobody").wantProblem(t, 422, "certificate_rejected"); len(p.Rejected) != 2 {
		t.Errorf("rejected are %v, want both", p.Rejected)
	}
	h.sendTemplate(t, "vpn", "good").wantProblem(t, 404, "not_found")
	for name, body := range map[string]string{"no ids": `{}`, "none": `{"device_ids":[]}`, "one alone": `{"device_ids":"good"}`, "numbers": `{"device_ids":[1]}`} {
		t.Run(name, func(t *testing.T) {
			h.do(t, exchange{method: "POST", path: templatesPath + "/wifi/send", body: body, wild: true}).wantField(t, "device_ids")
		})
	}
}

func TestAssignmentsThatFailAreSeen(t *testing.T) {
	h := newHouse(t)
	h.device(t, "d1", nil)
	h.device(t, "d2", nil)
	h.template(t, nil)
	for range 3 {
		h.sendTemplate(t, "wifi", "d1").want(t, 202, nil)
		uuid, _, _ := h.installProfile(t, "d1")
		h.report(t, "d1", mdm.Report{CommandUUID: uuid, State: mdm.Failed, ErrorChain: []command.ChainedError{{ErrorCode: 4001, ErrorDomain: "MCInstallationErrorDomain", USEnglishDescription: "Profile Failed to Install"}}})
	}
	h.sendTemplate(t, "wifi", "d2").want(t, 202, nil)
	items := h.assignmentsOf(t, "stuck=true")
	if len(items) != 1 || items[0].DeviceID != "d1" || items[0].State != "failing" || items[0].Failures != 3 || !items[0].Stuck || items[0].FailedAt == nil || !strings.Contains(items[0].Reason, "Failed to Install") {
		t.Errorf("stuck are %+v, want that of d1", items)
	}
	if items := h.assignmentsOf(t, "stuck=false&template=wifi"); len(items) != 1 || items[0].DeviceID != "d2" {
		t.Errorf("not stuck are %+v, want that of d2", items)
	}
	if items := h.assignmentsOf(t, "template=vpn"); len(items) != 0 {
		t.Errorf("of another template are %+v", items)
	}
	var n struct {
		Assignments struct{ Pending, Failing, Stuck int }
	}
	h.do(t, exchange{method: "GET", path: "/api/v1/certificates/summary"}).want(t, 200, &n)
	if n.Assignments.Pending != 1 || n.Assignments.Failing != 1 || n.Assignments.Stuck != 1 {
		t.Errorf("counted are %+v", n)
	}
	for query, field := range map[string]string{"state=lost": "state", "stuck=perhaps": "stuck", "template=a&template=b": "template"} {
		h.do(t, exchange{method: "GET", path: "/api/v1/certificate-assignments?" + query, wild: true}).wantField(t, field)
	}
	h.do(t, exchange{method: "GET", path: "/api/v1/certificate-assignments?cursor=!"}).wantProblem(t, 400, "invalid_cursor")
}

func TestAPreview(t *testing.T) {
	h := newHouse(t)
	h.ana(t)
	h.device(t, "d1", nil)
	h.device(t, "gone", func(d *mdm.Device) { d.State = mdm.Unenrolled })
	h.device(t, "nobody", func(d *mdm.Device) { d.User = "" })
	h.template(t, map[string]any{
		"subject": "/C=HR/O=Example/CN=$FULLNAME+UID=$USERNAME", "sans": map[string]any{"rfc822Name": []string{"$EMAIL"}, "ntPrincipalName": "$UPN"},
		"validity": "100d", "renew_before": "20%", "key_extractable": true,
	})
	var got map[string]any
	h.do(t, exchange{method: "GET", path: templatesPath + "/wifi/preview?device_id=d1"}).want(t, 200, &got)
	text, _ := got["profile"].(string)
	delete(got, "profile")
	want := jsonOf(t, map[string]any{
		"template": "wifi", "device_id": "d1", "subject": "/C=HR/O=Example/CN=Ana Bee+UID=ana",
		"rdns":     [][][]string{{{"C", "HR"}}, {{"O", "Example"}}, {{"CN", "Ana Bee"}, {"UID", "ana"}}},
		"sans":     map[string]any{"rfc822Name": []string{"ana@example.com"}, "dNSName": []string{}, "uniformResourceIdentifier": []string{}, "ntPrincipalName": "ana@example.com"},
		"key_type": "RSA", "key_size": 2048, "key_usage": []string{"digitalSignature", "keyEncipherment"}, "ext_key_usage": []string{"clientAuth"},
		"not_after": h.now().Add(100 * 24 * time.Hour), "renew_at": h.now().Add(80 * 24 * time.Hour),
		"warnings": []any{map[string]any{"field": "key_extractable", "detail": "lets whoever uses a Mac take the key away from it"}},
	})
	if !reflect.DeepEqual(got, want) {
		t.Errorf("the preview is %v, want %v", got, want)
	}
	_, payloads := payloadsOf(t, []byte(text))
	if payloads["com.apple.security.scep"] == nil || !strings.HasPrefix(text, "<?xml") {
		t.Errorf("the profile is %s", text)
	}
	if n := len(h.certificates(t, "")) + len(h.assignmentsOf(t, "")); n != 0 {
		t.Errorf("a preview made %d things", n)
	}

	var warned struct{ Warnings []struct{ Field string } }
	h.do(t, exchange{method: "GET", path: templatesPath + "/wifi/preview?device_id=gone"}).want(t, 200, &warned)
	if n := len(warned.Warnings); n != 2 || warned.Warnings[1].Field != "device_id" {
		t.Errorf("of a device that is gone it warns of %v", warned.Warnings)
	}
	h.do(t, exchange{method: "GET", path: templatesPath + "/wifi/preview?device_id=nobody"}).wantField(t, "subject.CN")
	h.do(t, exchange{method: "GET", path: templatesPath + "/wifi/preview", wild: true}).wantField(t, "device_id")

	// A draft comes to the same, and is stored nowhere.
	var draft struct {
		Template, Subject string
		Warnings          []struct{ Field string }
	}
	const of = "?preview=true&device_id=d1"
	h.do(t, exchange{method: "POST", path: templatesPath + of, body: map[string]any{"name": "draft", "subject": "/O=Draft/CN=$EMAIL", "key_extractable": true}}).want(t, 200, &draft)
	if draft.Template != "draft" || !strings.HasPrefix(draft.Subject, "/O=Draft/CN=") || strings.Contains(draft.Subject, "$") || len(draft.Warnings) == 0 || draft.Warnings[0].Field != "key_extractable" {
		t.Errorf("the preview of a draft is %+v", draft)
	}
	h.do(t, exchange{method: "GET", path: templatesPath + "/draft"}).want(t, 404, nil)
	before := h.do(t, exchange{method: "GET", path: templatesPath + "/wifi"}).answer
	h.do(t, exchange{method: "PUT", path: templatesPath + "/wifi" + of, body: map[string]any{"subject": "/O=Other/CN=$EMAIL"}}).want(t, 200, &draft)
	if draft.Template != "wifi" || !strings.HasPrefix(draft.Subject, "/O=Other/CN=") {
		t.Errorf("the preview of a change is %+v", draft)
	}
	if after := h.do(t, exchange{method: "GET", path: templatesPath + "/wifi"}).answer; string(after) != string(before) {
		t.Errorf("a preview changed the template:\n%s\n%s", before, after)
	}
	for path, field := range map[string]string{"?preview=true": "device_id", "?preview=maybe": "preview", of: "key_size", "?preview=true&device_id=nobody": "subject.CN"} {
		body := map[string]any{"name": "draft", "subject": "/CN=$EMAIL"}
		if field == "key_size" {
			body["key_size"] = 3
		}
		h.do(t, exchange{method: "POST", path: templatesPath + path, body: body, wild: true}).wantField(t, field)
	}
	h.do(t, exchange{method: "POST", path: templatesPath + of, body: wifi(nil)}).wantProblem(t, 409, "template_exists")
	h.do(t, exchange{method: "POST", path: templatesPath + "?preview=true&device_id=none", body: wifi(map[string]any{"name": "draft"})}).wantProblem(t, 404, "not_found")
	h.do(t, exchange{method: "PUT", path: templatesPath + "/none" + of, body: map[string]any{"subject": "/CN=$EMAIL"}}).wantProblem(t, 404, "not_found")
	h.do(t, exchange{method: "GET", path: templatesPath + "/wifi/preview?device_id=none"}).wantProblem(t, 404, "not_found")
	h.do(t, exchange{method: "GET", path: templatesPath + "/vpn/preview?device_id=d1"}).wantProblem(t, 404, "not_found")
}

func TestADevicesIdentityIsSeen(t *testing.T) {
	h := newHouse(t)
	issue := func() *x509.Certificate {
		t.Helper()
		cert, err := h.depot.Identity().Sign(newKey(t).Public(), depot.Contents{Name: "identity", NotBefore: h.now(), NotAfter: h.now().Add(90 * 24 * time.Hour)})
		if err != nil {
			t.Fatal(err)
		}
		err = h.db.Update(context.Background(), func(tx storage.Tx) error {
			return h.depot.Record(tx, cert, depot.Certificate{
				Authority: h.depot.Identity().Name(), Template: "identity", DeviceID: "d1", RenewAt: h.now().Add(60 * 24 * time.Hour),
			})
		})
		if err != nil {
			t.Fatal(err)
		}
		return cert
	}
	now, next := issue(), issue()
	h.device(t, "d1", func(d *mdm.Device) {
		d.Identity, d.Topic = string(depot.FingerprintOf(now)), "com.apple.mgmt.External.test"
	})
	h.device(t, "plain", nil)
	type device struct {
		Identity *struct {
			Serial   string
			NotAfter time.Time  `json:"not_after"`
			RenewAt  *time.Time `json:"renew_at"`
			Stuck    bool
			Renewal  *struct {
				State           string
				StartedAt       *time.Time `json:"started_at"`
				FailedAt        *time.Time `json:"failed_at"`
				CandidateSerial string     `json:"candidate_serial"`
			}
		}
	}
	look := func(id string) (d device) {
		t.Helper()
		h.do(t, exchange{method: "GET", path: "/api/v1/devices/" + id}).want(t, 200, &d)
		return d
	}
	if d := look("plain"); d.Identity != nil {
		t.Errorf("a device without one has the identity %+v", d.Identity)
	}
	i := look("d1").Identity
	if i == nil || i.Serial != string(depot.SerialOf(now)) || !i.NotAfter.Equal(now.NotAfter) || i.RenewAt == nil || i.Stuck || i.Renewal != nil {
		t.Fatalf("the identity is %+v", i)
	}
	var d device
	h.do(t, exchange{method: "POST", path: "/api/v1/devices/d1/renew-identity"}).want(t, 202, &d)
	if r := d.Identity.Renewal; r == nil || r.State != "waiting" || r.StartedAt == nil || r.CandidateSerial != "" {
		t.Errorf("the renewal is %+v, want it under way", r)
	}
	h.installProfile(t, "d1")
	h.do(t, exchange{method: "POST", path: "/api/v1/devices/d1/renew-identity"}).want(t, 202, nil)
	h.do(t, exchange{method: "POST", path: "/api/v1/devices/none/renew-identity"}).wantProblem(t, 404, "not_found")

	change := func(change func(*mdm.Device)) {
		t.Helper()
		err := h.db.Update(context.Background(), func(tx storage.Tx) error {
			d, err := mdm.GetDevice(tx, "d1")
			if err != nil {
				return err
			}
			change(&d)
			return mdm.PutDevice(tx, d)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	change(func(d *mdm.Device) { d.Renewal.Candidate = string(depot.FingerprintOf(next)) })
	if r := look("d1").Identity.Renewal; r.State != "issued" || r.CandidateSerial != string(depot.SerialOf(next)) {
		t.Errorf("the renewal is %+v, want the candidate named", r)
	}
	change(func(d *mdm.Device) { d.RenewalFailedAt, d.Renewal = d.Renewal.StartedAt, nil })
	if r := look("d1").Identity.Renewal; r.State != "failed" || r.FailedAt == nil || r.StartedAt != nil {
		t.Errorf("the renewal is %+v, want it failed", r)
	}

	h.pass(66 * 24 * time.Hour)
	if look("d1").Identity.Stuck {
		t.Error("an identity is stuck six days after it was due")
	}
	h.pass(2 * 24 * time.Hour)
	if !look("d1").Identity.Stuck {
		t.Error("an identity is not stuck eight days after it was due")
	}
	var n struct{ Identities struct{ Stuck int } }
	h.do(t, exchange{method: "GET", path: "/api/v1/certificates/summary"}).want(t, 200, &n)
	if n.Identities.Stuck != 1 { // the candidate was due as well, and is nobody's identity
		t.Errorf("stuck are %d identities, want 1", n.Identities.Stuck)
	}
	h.do(t, exchange{method: "POST", path: "/api/v1/devices/d1/unenroll"}).want(t, 202, nil)
	h.do(t, exchange{method: "POST", path: "/api/v1/devices/d1/renew-identity"}).wantProblem(t, 409, "not_enrolled")
	if look("d1").Identity.Stuck {
		t.Error("the identity of a device that has left is stuck")
	}
}
