package main

import (
	"crypto/rsa"
	"encoding/base64"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/mdmtest"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// TestADeviceTakesAnIdentityThatWasMadeByHand puts the PKCS #12 file of each kind into a
// profile, as for a device that speaks no SCEP.
func TestADeviceTakesAnIdentityThatWasMadeByHand(t *testing.T) {
	storagetest.AnyEngine(t)
	t.Parallel()
	c := newComposed(t, nil)
	c.wifi(t)
	c.user(t, "ana", "Ana Exámple")
	d, id := c.enrolledFor(t, "ana", mdmtest.Options{})
	for name, order := range map[string]map[string]any{
		"with a password of ours":   {},
		"with a password of theirs": {"password": "pâsswörd of ana's"},
		"by modern encryption":      {"encryption": "modern"},
	} {
		t.Run(name, func(t *testing.T) {
			order["template"], order["device_id"] = "wifi", id
			var made struct {
				Certificate certificateItem
				PKCS12      []byte `json:"pkcs12"`
				Password    string
			}
			c.api(t, "POST", "/certificates", order, &made)
			password := made.Password
			if given, ok := order["password"].(string); ok {
				password = given
			}
			payload := mdmtest.Dict{
				"PayloadType": "com.apple.security.pkcs12", "PayloadVersion": 1, "PayloadIdentifier": "com.example.byhand.identity",
				"PayloadUUID": mdm.NewUUID(), "PayloadContent": made.PKCS12, "Password": password, "KeyIsExtractable": false,
			}
			profile, err := mdmtest.MarshalPlist(mdmtest.Dict{
				"PayloadType": "Configuration", "PayloadVersion": 1, "PayloadIdentifier": "com.example.byhand",
				"PayloadUUID": mdm.NewUUID(), "PayloadDisplayName": "Wi-Fi", "PayloadContent": []any{payload},
			})
			must(t, err)
			c.api(t, "POST", "/commands", map[string]any{
				"request_type": "InstallProfile", "params": map[string]any{"Payload": base64.StdEncoding.EncodeToString(profile)},
				"device_ids": []mdm.DeviceID{id},
			}, nil)
			if n, err := d.Poll(t.Context()); n != 1 || err != nil {
				t.Fatalf("the device got %d commands, %v; want 1", n, err)
			}
			got := d.Credential("com.example.byhand.identity")
			if got == nil || got.Certificate.SerialNumber.Text(16) != made.Certificate.Serial {
				t.Fatalf("the device has %+v, want the identity %s", got, made.Certificate.Serial)
			}
			if key, ok := got.Key.Public().(*rsa.PublicKey); !ok || !key.Equal(got.Certificate.PublicKey) {
				t.Errorf("the key is a %T, and may be another one's", got.Key)
			}
			if len(got.Chain) != 2 || !got.Chain[1].Equal(c.state.depot.Root().Certificate()) {
				t.Errorf("it brings %d certificates above its own, want an issuer and the root", len(got.Chain))
			}
			if got.Certificate.Subject.CommonName != "Ana Exámple" || c.listed(t, got.Certificate).DeviceID != string(id) {
				t.Errorf("it is for %s, and listed as %+v", got.Certificate.Subject, c.listed(t, got.Certificate))
			}
		})
	}
}
