package profile_test

import (
	"encoding/json"
	"slices"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/mdm/command"
	"github.com/gatehouse-mdm/gatehouse/mdm/profile"
)

func TestDescribePayloads(t *testing.T) {
	described := map[string]bool{}
	var walk func(path string, keys []profile.KeyDescription)
	walk = func(path string, keys []profile.KeyDescription) {
		for _, k := range keys {
			if k.Name == "" || k.Title == "" || k.Kind == "" {
				t.Errorf("%s.%s lacks a name, title or type: %+v", path, k.Name, k)
			}
			walk(path+"."+k.Name, k.Keys)
			walk(path+"."+k.Name, k.Items)
		}
	}
	for _, d := range profile.DescribePayloads() {
		described[d.Type] = true
		if d.Title == "" || d.Platforms == nil {
			t.Errorf("%s lacks a title or platforms", d.Type)
		}
		walk(d.Type, d.Keys)
	}
	for _, payloadType := range profile.PayloadTypes() {
		if described[payloadType] != (payloadType != "com.apple.mdm") {
			t.Errorf("described(%s) = %t", payloadType, described[payloadType])
		}
	}
	if _, err := json.Marshal(profile.DescribePayloads()); err != nil {
		t.Error(err)
	}
}

func TestDescribePayload(t *testing.T) {
	key := func(t *testing.T, payloadType string, path ...string) profile.KeyDescription {
		t.Helper()
		var found profile.KeyDescription
		keys := profile.DescribePayload(payloadType)[0].Keys
		for _, name := range path {
			i := slices.IndexFunc(keys, func(k profile.KeyDescription) bool { return k.Name == name })
			if i < 0 {
				t.Fatalf("%s has no key %v", payloadType, path)
			}
			found = keys[i]
			keys = append(slices.Clone(found.Keys), found.Items...)
		}
		return found
	}
	if uses := profile.DescribePayload("com.apple.MCX"); len(uses) != 6 {
		t.Errorf("com.apple.MCX has %d uses, want 6", len(uses))
	}
	if uses := profile.DescribePayload("com.example"); uses != nil {
		t.Errorf("com.example is described: %v", uses)
	}
	wifi := profile.DescribePayload("com.apple.wifi.managed")[0]
	if wifi.Title != "Wi-Fi" || wifi.Summary == "" || !wifi.Multiple || len(wifi.Platforms) != 5 {
		t.Errorf("Wi-Fi: %+v", wifi)
	}
	if ios := wifi.Platforms[0]; ios.Platform != command.IOS || ios.UserEnrollment != "allowed" || ios.Supervised || !ios.DeviceChannel || ios.Introduced != "4.0" {
		t.Errorf("Wi-Fi on iOS: %+v", ios)
	}
	if k := key(t, "com.apple.wifi.managed", "EncryptionType"); !slices.Contains(k.Allowed, any("WPA3")) || k.Default != "Any" || k.Platforms != nil {
		t.Errorf("EncryptionType: %+v", k)
	}
	if k := key(t, "com.apple.wifi.managed", "ProxyType"); k.Platforms[0].UserEnrollment != "forbidden" || k.Platforms[0].Introduced != "4.0" || len(k.Platforms) != 5 {
		t.Errorf("ProxyType: %+v", k)
	}
	if k := key(t, "com.apple.wifi.managed", "EAPClientConfiguration", "UserPassword"); !k.Secret {
		t.Errorf("UserPassword is no secret")
	}
	if k := key(t, "com.apple.wifi.managed", "AutoJoin"); k.Secret || k.Default != true {
		t.Errorf("AutoJoin: %+v", k)
	}
	if k := key(t, "com.apple.security.pkcs12", "PayloadContent"); !k.Secret {
		t.Errorf("the content of a PKCS #12 is no secret")
	}
	// Apple's page of an app's VPN says only what it has beside a VPN.
	if k := key(t, "com.apple.vpn.managed.applayer", "IKEv2", "RemoteAddress"); !k.Required {
		t.Errorf("IKEv2.RemoteAddress: %+v", k)
	}
	if k := key(t, "com.apple.vpn.managed.applayer", "VPNUUID"); !k.Required {
		t.Errorf("VPNUUID: %+v", k)
	}
}
