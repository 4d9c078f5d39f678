package mdm_test

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

func TestIdentifiersThatDevicesMaySend(t *testing.T) {
	for name, tt := range map[string]struct {
		id mdm.AppleID
		ok bool
	}{
		"a UDID":                           {mdm.AppleID{UDID: "00008120-000A1B2C3D4E5F60"}, true},
		"an EnrollmentID":                  {mdm.AppleID{EnrollmentID: "FB833D84-0000"}, true},
		"a user of a device":               {mdm.AppleID{UDID: "U", UserID: "F00"}, true},
		"a Shared iPad's user":             {mdm.AppleID{UDID: "U", UserID: "ana@example.com"}, true},
		"nothing":                          {mdm.AppleID{}, false},
		"a user of nothing":                {mdm.AppleID{UserID: "F00"}, false},
		"both kinds":                       {mdm.AppleID{UDID: "U", EnrollmentID: "E"}, false},
		"a UDID that names another's user": {mdm.AppleID{UDID: "V:U"}, false},
		"a UDID with a zero byte":          {mdm.AppleID{UDID: "V\x00U"}, false},
		"a UDID of 65 bytes":               {mdm.AppleID{UDID: strings.Repeat("a", 65)}, false},
		"a user with a line break":         {mdm.AppleID{UDID: "U", UserID: "a\nb"}, false},
		"a user of 256 bytes":              {mdm.AppleID{UDID: "U", UserID: strings.Repeat("a", 256)}, false},
	} {
		t.Run(name, func(t *testing.T) {
			if err := tt.id.Validate(); (err == nil) != tt.ok {
				t.Errorf("Validate(%+v) = %v, want ok %v", tt.id, err, tt.ok)
			}
		})
	}
}

func TestNamespacesOfIdentifiersDoNotMeet(t *testing.T) {
	b := newBench(t)
	ids := []mdm.AppleID{{UDID: "X"}, {EnrollmentID: "X"}, {UDID: "X", UserID: "Y"}, {UDID: "X", UserID: "Y\x00"}}
	b.update(t, func(tx storage.Tx) error {
		for i, id := range ids {
			if err := mdm.PutDevice(tx, mdm.Device{ID: mdm.DeviceID(rune('a' + i)), AppleID: id}); err != nil {
				return err
			}
		}
		return nil
	})
	b.update(t, func(tx storage.Tx) error {
		for i, id := range ids {
			d, err := mdm.FindDevice(tx, id)
			if err != nil {
				return err
			}
			if d.ID != mdm.DeviceID(rune('a'+i)) {
				t.Errorf("FindDevice(%+v) = %s", id, d.ID)
			}
		}
		return nil
	})
}

func TestDeviceInformationUpdatesTheRecord(t *testing.T) {
	b := newBench(t)
	learn := func(id mdm.DeviceID, answer string) mdm.Overview {
		t.Helper()
		b.update(t, func(tx storage.Tx) error {
			d, err := mdm.GetDevice(tx, id)
			if err != nil {
				return err
			}
			return mdm.LearnInformation(tx, &d, json.RawMessage(answer))
		})
		o, err := b.Device(context.Background(), id)
		if err != nil {
			t.Fatal(err)
		}
		return o
	}
	id := b.device(t, "a")
	learn(id, `{"QueryResponses":{"DeviceName":"Ana's iPhone","BatteryLevel":0.5,"IsSupervised":true}}`)
	o := learn(id, `{"QueryResponses":{"OSVersion":"18.3","SerialNumber":"C02"}}`)
	if o.DeviceName != "Ana's iPhone" || o.OSVersion != "18.3" || o.SerialNumber != "C02" || o.Supervised == nil || !*o.Supervised {
		t.Errorf("record = %+v", o.Device)
	}
	if o.Attributes["BatteryLevel"] != 0.5 || o.Attributes["OSVersion"] != "18.3" {
		t.Errorf("attributes = %v, want those of both answers", o.Attributes)
	}
	for name, answer := range map[string]string{
		"no JSON": `{`, "no answers": `{}`, "answers of the wrong kind": `{"QueryResponses":[1]}`, "a name that is a number": `{"QueryResponses":{"DeviceName":7}}`,
	} {
		if o := learn(id, answer); o.DeviceName != "Ana's iPhone" {
			t.Errorf("after %s the name is %q", name, o.DeviceName)
		}
	}

	personal := b.device(t, "b", asUserEnrollment)
	o = learn(personal, `{"QueryResponses":{"DeviceName":"iPhone","SerialNumber":"C02","IMEI":"35","WiFiMAC":"aa"}}`)
	if o.SerialNumber != "" || o.IMEI != "" || len(o.Attributes) != 1 {
		t.Errorf("a personal device told %+v, %v; want its name only", o.Facts, o.Attributes)
	}
}

func TestLastSeenIsKnownAtOnceAndWrittenBehind(t *testing.T) {
	b := newBench(t)
	id := b.device(t, "a")
	lastSeen := func() time.Time {
		t.Helper()
		o, err := b.Device(context.Background(), id)
		if err != nil {
			t.Fatal(err)
		}
		return o.LastSeenAt
	}
	if got := lastSeen(); !got.IsZero() {
		t.Errorf("before any poll: %v", got)
	}
	b.Saw(id)
	if got := lastSeen(); !got.Equal(b.now) {
		t.Errorf("after a poll: %v, want %v", got, b.now)
	}
	ctx, stop := context.WithCancel(context.Background())
	stop()
	if err := b.Run(ctx); err != nil { // the last flush, at shutdown
		t.Fatal(err)
	}
	seen := b.now
	b.now = b.now.Add(time.Hour)
	if got := lastSeen(); !got.Equal(seen) {
		t.Errorf("from the store: %v, want %v", got, seen)
	}
}

func TestSecretsAreSealedAndForgotten(t *testing.T) {
	b := newBench(t)
	id := b.device(t, "a")
	secret := func(kind mdm.SecretKind) string {
		t.Helper()
		var s []byte
		b.update(t, func(tx storage.Tx) (err error) {
			s, err = b.Secret(tx, id, kind)
			return err
		})
		return string(s)
	}
	b.update(t, func(tx storage.Tx) error { return b.SetSecret(tx, id, mdm.UnlockToken, []byte("open sesame")) })
	if got := secret(mdm.UnlockToken); got != "open sesame" {
		t.Errorf("Secret = %q", got)
	}
	if got := secret(mdm.BootstrapToken); got != "" {
		t.Errorf("a secret that was never set = %q", got)
	}
	b.update(t, func(tx storage.Tx) error {
		for item, err := range tx.Scan("device_secrets", storage.Range{}) {
			if err != nil {
				return err
			}
			if strings.Contains(string(item.Value), "sesame") {
				t.Error("the secret stands in the store as it is")
			}
		}
		return b.ForgetSecrets(tx, id)
	})
	if got := secret(mdm.UnlockToken); got != "" {
		t.Errorf("after ForgetSecrets = %q", got)
	}
}
