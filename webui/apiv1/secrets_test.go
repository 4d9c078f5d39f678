package apiv1_test

import (
	"crypto/x509"
	"net/http"
	"strings"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/command"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

type secret struct {
	Kind, State, Account    string
	CommandUUID             string `json:"command_uuid"`
	CreatedAt               string `json:"created_at"`
	RevealedBy              string `json:"revealed_by"`
	Revealable              bool
	Value, Encoding, Reason string
}

func TestSecretsAreListedAndShownToWhomeverSaysWhy(t *testing.T) {
	h := newHouse(t)
	h.device(t, "mac", nil)
	if err := h.db.Update(t.Context(), func(tx storage.Tx) error {
		return h.mdm.SetSecret(tx, "mac", mdm.BootstrapToken, []byte("sentinel-bootstrap"))
	}); err != nil {
		t.Fatal(err)
	}
	const path = "/api/v1/devices/mac/secrets"
	list := func(token string) (items []secret, answer string) {
		t.Helper()
		var got struct{ Items []secret }
		x := h.do(t, exchange{method: "GET", path: path, token: token})
		x.want(t, 200, &got)
		return got.Items, string(x.answer)
	}
	reveal := func(kind string, body any) exchange {
		t.Helper()
		return h.do(t, exchange{method: "POST", path: path + "/" + kind + "/reveal", body: body, wild: true})
	}
	why := map[string]any{"reason": "the user is locked out"}
	reveal("recovery_lock", why).wantProblem(t, http.StatusNotFound, "not_found")

	q := h.send(t, map[string]any{"request_type": "SetRecoveryLock", "device_ids": []string{"mac"}, "params": map[string]any{"NewPassword": "sentinel-lock"}})
	h.deliver(t, "mac")
	h.answer(t, "mac", mdm.Report{CommandUUID: q.CommandUUID, State: mdm.Acknowledged})

	items, answer := list(h.token(t, identity.ScopeReadOnly))
	if len(items) != 2 || items[0].Kind != "bootstrap_token" || items[0].Revealable || items[1].Kind != "recovery_lock" || items[1].State != "current" ||
		!items[1].Revealable || items[1].CommandUUID != q.CommandUUID {
		t.Errorf("the list is %+v", items)
	}
	if strings.Contains(answer, "sentinel") {
		t.Errorf("the list has a secret: %s", answer)
	}

	for name, body := range map[string]any{
		"without a reason":     map[string]any{},
		"with an empty reason": map[string]any{"reason": " "},
		"with a long reason":   map[string]any{"reason": strings.Repeat("x", 501)},
	} {
		t.Run(name, func(t *testing.T) { reveal("recovery_lock", body).wantField(t, "reason") })
	}
	h.do(t, exchange{method: "POST", path: path + "/recovery_lock/reveal?reason=x", body: map[string]any{}, wild: true}).wantField(t, "reason")
	reveal("bootstrap_token", why).wantProblem(t, 422, "secret_not_revealable")
	reveal("unlock_token", why).wantProblem(t, 422, "secret_not_revealable")
	reveal("password", why).wantProblem(t, http.StatusNotFound, "not_found")
	h.do(t, exchange{method: "GET", path: "/api/v1/devices/none/secrets"}).wantProblem(t, http.StatusNotFound, "not_found")

	x := h.do(t, exchange{method: "POST", path: path + "/recovery_lock/reveal", body: why})
	var shown struct{ Secrets []secret }
	x.want(t, 200, &shown)
	if len(shown.Secrets) != 1 || shown.Secrets[0].Value != "sentinel-lock" || shown.Secrets[0].Encoding != "text" || shown.Secrets[0].State != "current" {
		t.Errorf("shown is %+v", shown)
	}
	if got := x.response.Get("Cache-Control"); got != "no-store" {
		t.Errorf("Cache-Control is %q", got)
	}
	if items, _ := list(""); items[1].RevealedBy != "token:test" {
		t.Errorf("the list says %q has seen it", items[1].RevealedBy)
	}

	var log struct{ Items []secret }
	audit := h.do(t, exchange{method: "GET", path: "/api/v1/audit?action=secret.revealed"})
	audit.want(t, 200, &log)
	if len(log.Items) != 1 || log.Items[0].Reason != "the user is locked out" || strings.Contains(string(audit.answer), "sentinel") {
		t.Errorf("the audit log has %s", audit.answer)
	}
	for _, path := range []string{"/api/v1/commands/" + q.CommandUUID, "/api/v1/devices/mac/commands", "/api/v1/devices/mac"} {
		got := h.do(t, exchange{method: "GET", path: path})
		got.want(t, 200, nil)
		if strings.Contains(string(got.answer), "sentinel") {
			t.Errorf("%s shows a secret: %s", path, got.answer)
		}
	}
}

func TestSecretsAreFilledInForTheAPI(t *testing.T) {
	h := newHouse(t)
	h.device(t, "mac", nil)
	h.device(t, "phone", func(d *mdm.Device) { d.ProductName, d.OSVersion = "iPhone17,2", "18.2" })
	lock := h.send(t, map[string]any{"request_type": "DeviceLock", "device_ids": []string{"mac", "phone"}})
	if len(lock.Devices) != 2 {
		t.Errorf("locking both: %+v", lock)
	}
	raw := []byte(`<plist version="1.0"><dict><key>Command</key><dict><key>RequestType</key><string>EraseDevice</string></dict><key>CommandUUID</key><string>R-1</string></dict></plist>`)
	h.do(t, exchange{method: "POST", path: "/api/v1/commands/raw?device_ids=mac", body: raw}).want(t, 202, nil)
	var list struct{ Items []secret }
	h.do(t, exchange{method: "GET", path: "/api/v1/devices/mac/secrets"}).want(t, 200, &list)
	if len(list.Items) != 2 || list.Items[0].Kind != "device_lock_pin" || list.Items[1].Kind != "erase_pin" || list.Items[1].State != "pending" {
		t.Errorf("held for the Mac: %+v", list.Items)
	}
	clear := map[string]any{"request_type": "ClearPasscode", "device_ids": []string{"phone"}}
	p := h.do(t, exchange{method: "POST", path: "/api/v1/commands", body: clear}).wantProblem(t, 422, "command_rejected")
	if p.Rejected[0].Code != "unlock_token_missing" {
		t.Errorf("clearing a passcode without a token: %+v", p.Rejected)
	}
}

func TestARecoveryKeyOfSomebodyElsesIsShownAsItCame(t *testing.T) {
	h := newHouse(t)
	h.device(t, "mac", nil)
	q := h.send(t, map[string]any{"request_type": "RotateFileVaultKey", "device_ids": []string{"mac"}, "params": map[string]any{
		"KeyType": "personal", "FileVaultUnlock": map[string]any{"Password": "x"}, "ReplyEncryptionCertificate": "eA==",
	}})
	h.deliver(t, "mac")
	h.answer(t, "mac", mdm.Report{CommandUUID: q.CommandUUID, State: mdm.Acknowledged, Entrusted: &command.Entrusted{RecoveryKeyCMS: []byte{0x30, 0x80}}})
	var shown struct{ Secrets []secret }
	h.do(t, exchange{method: "POST", path: "/api/v1/devices/mac/secrets/filevault_recovery_key/reveal", body: map[string]any{"reason": "x"}}).want(t, 200, &shown)
	if len(shown.Secrets) != 1 || shown.Secrets[0].Value != "MIA=" || shown.Secrets[0].Encoding != "base64" {
		t.Errorf("shown is %+v", shown)
	}
}

func TestTheEscrowCertificateStaysTheSame(t *testing.T) {
	h := newHouse(t)
	get := func() *x509.Certificate {
		t.Helper()
		x := h.do(t, exchange{method: "GET", path: "/api/v1/escrow-certificate"})
		x.want(t, 200, nil)
		cert, err := x509.ParseCertificate(x.answer)
		if err != nil {
			t.Fatal(err)
		}
		return cert
	}
	if first := get(); !first.Equal(get()) || first.KeyUsage&x509.KeyUsageKeyEncipherment == 0 {
		t.Error("it is another certificate each time, or one that nothing is encrypted for")
	}
}
