package checkin_test

import (
	"encoding/base64"
	"fmt"
	"regexp"
	"strings"
	"testing"

	gatehouse "github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/command"
	"github.com/gatehouse-mdm/gatehouse/mdm/mdmtest"
)

// asks has a device obey a command that waits for nobody to give its secrets.
func (h *house) asks(t testing.TB, d *mdmtest.Device, uuid, requestType string, params map[string]any, want gatehouse.CommandState) {
	t.Helper()
	plist, err := command.Build(requestType, params, uuid)
	must(t, err)
	id := h.record(t, d.IDs()).ID
	_, rejected, err := h.mdm.Enqueue(t.Context(), gatehouse.NewCommand{UUID: uuid, RequestType: requestType, Plist: plist, Targets: []gatehouse.DeviceID{id}})
	must(t, err)
	if len(rejected) > 0 {
		t.Fatalf("%s is rejected: %+v", requestType, rejected)
	}
	_, err = d.Poll(t.Context())
	must(t, err)
	h.wantState(t, uuid, want)
}

// held are the secrets of one kind that the server holds for a device, the newest first.
func (h *house) held(t testing.TB, d *mdmtest.Device, kind gatehouse.SecretKind) (all []string) {
	t.Helper()
	revealed, err := h.mdm.Reveal(t.Context(), h.record(t, d.IDs()).ID, kind, gatehouse.Viewer{Actor: "test", Reason: "test"})
	must(t, err)
	for _, r := range revealed {
		all = append(all, string(r.State)+" "+string(r.Value))
	}
	return all
}

// escrowProfile has a Mac encrypt its recovery key for a certificate.
func escrowProfile(certificate []byte) []byte {
	const payload = `<dict><key>PayloadType</key><string>%s</string><key>PayloadVersion</key><integer>1</integer>
		<key>PayloadIdentifier</key><string>com.example.escrow.%s</string><key>PayloadUUID</key><string>%s</string>%s</dict>`
	const here = "5D6E3C1A-0000-4000-8000-00000000000"
	return fmt.Appendf(nil, `<plist version="1.0"><dict><key>PayloadType</key><string>Configuration</string><key>PayloadVersion</key><integer>1</integer>
		<key>PayloadIdentifier</key><string>com.example.escrow</string><key>PayloadUUID</key><string>%s0</string><key>PayloadScope</key><string>System</string>
		<key>PayloadContent</key><array>%s%s</array></dict></plist>`, here,
		fmt.Sprintf(payload, "com.apple.security.pkcs1", "certificate", here+"1", "<key>PayloadContent</key><data>"+base64.StdEncoding.EncodeToString(certificate)+"</data>"),
		fmt.Sprintf(payload, "com.apple.security.FDERecoveryKeyEscrow", "key", here+"2", "<key>EncryptCertPayloadUUID</key><string>"+here+"1</string><key>Location</key><string>here</string>"))
}

// TestNobodyHasToKnowTheSecretsOfADevice is the way of each secret from the device into the
// server, and back into the commands that need it.
func TestNobodyHasToKnowTheSecretsOfADevice(t *testing.T) {
	h := newHouse(t)
	mac := h.enrolled(t, mdmtest.Options{Model: mdmtest.Mac})
	phone := h.enrolled(t, mdmtest.Options{})

	h.asks(t, phone, "CLEAR", "ClearPasscode", nil, gatehouse.Acknowledged)
	if phone.HasPasscode() {
		t.Error("the iPhone still has its passcode")
	}

	h.asks(t, mac, "LOCK", "DeviceLock", nil, gatehouse.Acknowledged)
	pin := mac.LastLock().PIN
	if got := h.held(t, mac, gatehouse.LockPIN); len(pin) != 6 || got[0] != "current "+pin {
		t.Errorf("the Mac opens with %q, held are %q", pin, got)
	}

	h.asks(t, mac, "RECOVERY-1", "SetRecoveryLock", nil, gatehouse.Acknowledged)
	first := mac.RecoveryLock()
	h.asks(t, mac, "RECOVERY-2", "SetRecoveryLock", nil, gatehouse.Acknowledged)
	second := mac.RecoveryLock()
	h.asks(t, mac, "VERIFY", "VerifyRecoveryLock", nil, gatehouse.Acknowledged)
	if got, want := fmt.Sprint(h.held(t, mac, gatehouse.RecoveryLock)), fmt.Sprintf("[current %s previous %s]", second, first); first == "" || got != want {
		t.Errorf("held are %s, want %s", got, want)
	}
	if got := string(h.entry(t, "VERIFY").Result); got != `{"PasswordVerified":true}` {
		t.Errorf("the Mac says %s of the password", got)
	}

	certificate, err := h.mdm.EscrowCertificate(t.Context())
	must(t, err)
	h.asks(t, mac, "PROFILE", "InstallProfile", map[string]any{"Payload": escrowProfile(certificate)}, gatehouse.Acknowledged)
	for _, uuid := range []string{"SECURITY-1", "SECURITY-2"} {
		h.asks(t, mac, uuid, "SecurityInfo", nil, gatehouse.Acknowledged)
		if got := h.held(t, mac, gatehouse.FileVaultKey); len(got) != 1 || got[0] != "current "+mac.RecoveryKey() {
			t.Errorf("after %s held are %q, the Mac has %q", uuid, got, mac.RecoveryKey())
		}
	}
	old := mac.RecoveryKey()
	h.asks(t, mac, "ROTATE", "RotateFileVaultKey", map[string]any{"KeyType": "personal"}, gatehouse.Acknowledged)
	h.asks(t, mac, "SECURITY-3", "SecurityInfo", nil, gatehouse.Acknowledged)
	got, want := fmt.Sprint(h.held(t, mac, gatehouse.FileVaultKey)), fmt.Sprintf("[current %s previous %s]", mac.RecoveryKey(), old)
	if old == mac.RecoveryKey() || got != want {
		t.Errorf("held are %s, want %s", got, want)
	}

	for what, secret := range map[string]string{
		"recovery lock": second, "recovery key": mac.RecoveryKey(), "former recovery key": old, "unlock token": string(phone.UnlockToken()),
	} {
		if secret == "" || strings.Contains(h.log.String(), secret) {
			t.Errorf("the %s is in the log", what)
		}
	}

	if regexp.MustCompile(`\b` + pin + `\b`).MatchString(h.log.String()) { // as a word: many a fingerprint has six digits in a row
		t.Error("the PIN is in the log")
	}

	// Erased, the Mac asks for its PIN, whatever became of its enrollment.
	h.asks(t, mac, "ERASE", "EraseDevice", nil, gatehouse.Acknowledged)
	d := h.record(t, mac.IDs())
	_, err = h.enroll.Unenroll(t.Context(), d.ID)
	must(t, err)
	if got := h.held(t, mac, gatehouse.ErasePIN); len(got) != 1 || !strings.HasPrefix(got[0], "current ") {
		t.Errorf("the PIN of the erased Mac: %q", got)
	}
}
