package enroll_test

import (
	"context"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

func TestADeviceThatIsHandedOverIsClaimedAndRenewed(t *testing.T) {
	keyring.reset()
	ctx := context.Background()
	h := newHouse(t)
	o := newOtherServer(t, h.now())
	_, err := h.AddPredecessor(ctx, o.cert.Raw, time.Hour)
	must(t, err)
	must(t, h.SetFormerProfile(ctx, enroll.FormerProfile{Identifier: "com.example.enroll", DeviceOnly: true}, 3))
	push := mdm.Push{Topic: otherTopic, Token: []byte{1}, Magic: "m"}
	token := enroll.HandOver{Message: "TokenUpdate", ID: mac, Push: push, UnlockToken: []byte("unlock")}
	wantErr(t, "a TokenUpdate before the Authenticate", h.HandedOver(ctx, token), enroll.ErrNotHandedOver)

	authenticate := enroll.HandOver{Message: "Authenticate", ID: mac, Facts: mdm.Facts{SerialNumber: "C02A"}}
	for range 2 { // nano2nano may run again
		must(t, h.HandedOver(ctx, authenticate))
		must(t, h.HandedOver(ctx, token))
	}
	user := token
	user.ID.UserID = "501"
	must(t, h.HandedOver(ctx, user))
	must(t, h.HandedOver(ctx, enroll.HandOver{Message: "SetBootstrapToken", ID: mac, BootstrapToken: []byte("boot")}))
	d := h.device(t, mac)
	if d.State != mdm.Enrolled || d.Push.Magic != "m" || d.SerialNumber != "C02A" || d.Identity != "" || d.AccessRights != 3 {
		t.Errorf("device = %+v", d)
	}
	if u := h.device(t, user.ID); u.State != mdm.Enrolled || u.ParentID != d.ID {
		t.Errorf("its user = %+v", u)
	}
	h.view(t, func(tx storage.Tx) error {
		for kind, want := range map[mdm.SecretKind]string{mdm.UnlockToken: "unlock", mdm.BootstrapToken: "boot"} {
			if got, err := h.mdm.Secret(tx, d.ID, kind); string(got) != want || err != nil {
				t.Errorf("%s = %q, %v", kind, got, err)
			}
		}
		return nil
	})

	p := phone{h: h, id: mac, cert: o.identity(t, "NanoMDM "+mac.UDID, h.now())}
	if !p.arrives(t) || !heard(p) {
		t.Fatal("it is not heard")
	}
	push.Magic = "stale"
	must(t, h.HandedOver(ctx, enroll.HandOver{Message: "TokenUpdate", ID: mac, Push: push}))
	if got := h.device(t, mac).Push.Magic; got != "m" {
		t.Errorf("one that has come has the push magic %q of the other server", got)
	}
	h.pass(time.Second)
	must(t, h.RenewDue(ctx))
	signed := p.nextRenewal(t).signed
	if top := profileOf(t, signed); top["PayloadIdentifier"] != "com.example.enroll" {
		t.Errorf("it is renewed by the profile %v", top["PayloadIdentifier"])
	}
	payload := payloads(t, signed)["com.apple.mdm"]
	for _, c := range payload["ServerCapabilities"].([]any) {
		if c == "com.apple.mdm.per-user-connections" {
			t.Error("the renewal adds channels of users, which devices refuse")
		}
	}
	if rights := payload["AccessRights"]; rights != uint64(3) && rights != int64(3) {
		t.Errorf("the renewal's rights are %v (%T), want 3", rights, rights)
	}

	native := h.enrolled(t, "ana", iphone)
	for what, tt := range map[string]struct {
		m    enroll.HandOver
		want error
	}{
		"of a device that is enrolled here": {enroll.HandOver{Message: "Authenticate", ID: native.id}, enroll.ErrNotHandedOver},
		"of no device":                      {enroll.HandOver{Message: "Authenticate"}, enroll.ErrBadMessage},
		"that is a CheckOut":                {enroll.HandOver{Message: "CheckOut", ID: mac}, enroll.ErrBadMessage},
		"of a user who authenticates":       {enroll.HandOver{Message: "Authenticate", ID: user.ID}, enroll.ErrBadMessage},
	} {
		wantErr(t, "a message "+what, h.HandedOver(ctx, tt.m), tt.want)
	}
}
