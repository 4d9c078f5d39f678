package profile_test

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/mdm/command"
	"github.com/gatehouse-mdm/gatehouse/mdm/profile"
)

var (
	yes, no  = true, false
	personal = command.Target{Platform: command.IOS, OSVersion: "18.2", UserEnrollment: true}
)

func TestVariant(t *testing.T) {
	const certificate, root, vpnUUID = "AAAAAAAA-0000-4000-8000-00000000CE27", "AAAAAAAA-0000-4000-8000-00000000200F", "BBBBBBBB-0000-4000-8000-000000000000"
	clip := map[string]any{"PayloadType": "com.apple.webClip.managed", "Label": "Help", "URL": "https://example.com"}
	scep := map[string]any{"PayloadType": "com.apple.security.scep", "PayloadUUID": certificate, "PayloadContent": map[string]any{"CertificateTemplate": "wifi"}}
	trust := map[string]any{"PayloadType": "com.apple.security.root", "PayloadUUID": root, "PayloadContent": []byte{1}}
	wifi := map[string]any{"PayloadType": "com.apple.wifi.managed", "SSID_STR": "Office", "PayloadCertificateUUID": strings.ToLower(certificate),
		"ProxyType": "Manual", "ProxyServer": "proxy.example.com", "ProxyServerPort": 8080}
	vpn := map[string]any{"PayloadType": "com.apple.vpn.managed", "VPNType": "IKEv2", "UserDefinedName": "Work",
		"IKEv2": map[string]any{"PayloadCertificateUUID": certificate, "RemoteAddress": "vpn.example.com"}}
	camera := map[string]any{"PayloadType": "com.apple.applicationaccess", "allowCamera": false}
	both := map[string]any{"PayloadType": "com.apple.applicationaccess", "allowCamera": false, "allowScreenShot": false}
	lock := map[string]any{"PayloadType": "com.apple.app.lock", "App": map[string]any{"Identifier": "com.example"}}
	for name, tt := range map[string]struct {
		target   command.Target
		top      map[string]any
		payloads []map[string]any
		want     []string // types that are left; nil: none
		removed  []string // the beginnings of reasons
	}{
		"what is allowed stays as it is": {
			target: personal, payloads: []map[string]any{clip, trust}, want: []string{"com.apple.webClip.managed", "com.apple.security.root"},
		},
		"a payload and what served it go": {
			target: personal, payloads: []map[string]any{scep, vpn, clip},
			want: []string{"com.apple.webClip.managed"},
			removed: []string{"PayloadContent[1] The payload com.apple.vpn.managed is not allowed on a personal device (User Enrollment). A VPN for single apps",
				"PayloadContent[0] com.apple.security.scep was for the payload com.apple.vpn.managed, which is left out."},
		},
		"a certificate that something else uses stays": {
			target: personal, payloads: []map[string]any{scep, vpn, {"PayloadType": "com.apple.wifi.managed", "SSID_STR": "a", "PayloadCertificateUUID": certificate}},
			want:    []string{"com.apple.security.scep", "com.apple.wifi.managed"},
			removed: []string{"PayloadContent[1] The payload com.apple.vpn.managed"},
		},
		"certificates alone are not worth it": {
			target: personal, payloads: []map[string]any{scep, vpn, trust},
			removed: []string{"PayloadContent[1] The payload com.apple.vpn.managed", "PayloadContent[0] com.apple.security.scep was for", " Only certificates would be left"},
		},
		"forbidden keys go alone": {
			target: personal, top: map[string]any{"PayloadRemovalDisallowed": true}, payloads: []map[string]any{scep, wifi, both},
			want: []string{"com.apple.security.scep", "com.apple.wifi.managed", "com.apple.applicationaccess"},
			removed: []string{"PayloadRemovalDisallowed", "PayloadContent[1].ProxyServer ProxyServer", "PayloadContent[1].ProxyServerPort ", "PayloadContent[1].ProxyType ",
				"PayloadContent[2].allowCamera "},
		},
		"a payload whose last setting goes": {
			target: personal, payloads: []map[string]any{camera, clip}, want: []string{"com.apple.webClip.managed"},
			removed: []string{"PayloadContent[0].allowCamera"},
		},
		"supervision that is not known": {
			target: command.Target{Platform: command.IOS, OSVersion: "18.2"}, payloads: []map[string]any{lock, clip}, want: []string{"com.apple.webClip.managed"},
			removed: []string{"PayloadContent[0] The payload com.apple.app.lock"},
		},
		"another payload refers to what goes": {
			target: command.Target{Platform: command.MacOS, OSVersion: "15.2", UserChannel: true, Approved: &yes},
			payloads: []map[string]any{clip,
				{"PayloadType": "com.apple.security.FDERecoveryKeyEscrow", "PayloadUUID": vpnUUID, "Location": "here", "EncryptCertPayloadUUID": root},
				{"PayloadType": "com.apple.dock", "static-apps": []any{map[string]any{"x": vpnUUID}}}},
			want:    []string{"com.apple.webClip.managed"},
			removed: []string{"PayloadContent[1] The payload com.apple.security.FDERecoveryKeyEscrow", "PayloadContent[2] com.apple.dock refers to the payload com.apple.security.FDERecoveryKeyEscrow"},
		},
		"a profile for other devices": {
			target: command.Target{Platform: command.IOS}, top: map[string]any{"TargetDeviceType": 5}, payloads: []map[string]any{clip},
			removed: []string{"TargetDeviceType"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := with(t, tt.top, tt.payloads...)
			before := plain(p.Top)
			allowed, removed := p.Variant(tt.target)
			var got, reasons []string
			if allowed != nil {
				for _, payload := range allowed.Payloads {
					got = append(got, payload.Type)
				}
				if _, refused := allowed.Check(tt.target); refused {
					t.Error("the variant is refused, too")
				}
			}
			for _, f := range removed {
				reasons = append(reasons, f.Path()+" "+f.Reason)
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("left: %v, want %v", got, tt.want)
			}
			if !slices.EqualFunc(reasons, tt.removed, strings.HasPrefix) {
				t.Errorf("removed:\n%s\nwant:\n%s", strings.Join(reasons, "\n"), strings.Join(tt.removed, "\n"))
			}
			if !reflect.DeepEqual(before, plain(p.Top)) {
				t.Error("the profile itself has changed")
			}
			if len(tt.removed) == 0 && allowed != p {
				t.Error("a profile that is taken does not come back itself")
			}
		})
	}
}

// TestVariantIsNeverRefused holds for a payload of each type with all of its keys, beside one that all
// devices take, on all kinds of devices.
func TestVariantIsNeverRefused(t *testing.T) {
	t.Parallel()
	var targets []command.Target
	for _, platform := range append(command.Platforms(), "") {
		for _, user := range []bool{false, true} {
			for _, channel := range []bool{false, true} {
				for _, known := range []*bool{nil, &yes, &no} {
					if user && known != nil {
						continue // nothing depends on it there
					}
					targets = append(targets, command.Target{Platform: platform, UserEnrollment: user, UserChannel: channel, Supervised: known, Approved: known, ADE: known, SharedIPad: known})
				}
			}
		}
	}
	variants := 0
	for n, payloadType := range profile.PayloadTypes() {
		payload := map[string]any{"PayloadType": payloadType}
		for _, facts := range profile.Lookup(payloadType) {
			fill(payload, facts.Keys, 0)
		}
		p := with(t, map[string]any{"PayloadRemovalDisallowed": true}, payload, map[string]any{"PayloadType": "com.apple.security.root", "PayloadContent": []byte{1}},
			map[string]any{"PayloadType": "com.apple.wifi.managed", "SSID_STR": "a"})
		for i, target := range targets {
			if (n+i)%5 != 0 {
				continue // the next type's: each kind of device has its turn with many
			}
			_, refused := p.Check(target)
			allowed, removed := p.Variant(target)
			what := fmt.Sprintf("%s on %+v", payloadType, target)
			switch {
			case refused == (len(removed) == 0):
				t.Fatalf("%s: refused %t, removed %v", what, refused, removed)
			case allowed == nil:
				continue
			}
			variants++
			if findings, refused := allowed.Check(target); refused {
				t.Fatalf("%s: the variant is refused: %v", what, findings)
			}
		}
	}
	if variants < 300 {
		t.Errorf("only %d variants", variants)
	}
}

// fill sets all keys to a value that is not the default.
func fill(d map[string]any, keys []command.Key, depth int) {
	for _, k := range keys {
		if depth > 4 {
			return
		}
		if v := sample(k, depth); v != nil {
			d[k.Name] = v
		}
	}
}

func sample(k command.Key, depth int) any {
	switch k.Kind {
	case command.Boolean:
		return k.Default != true
	case command.Integer:
		return 77
	case command.Real:
		return 7.5
	case command.Data:
		return []byte{1}
	case command.Dictionary:
		inner := map[string]any{}
		fill(inner, k.Keys, depth+1)
		return inner
	case command.Array:
		if len(k.Items) > 0 {
			if v := sample(k.Items[0], depth+1); v != nil {
				return []any{v, v}
			}
		}
		return nil
	case command.Date:
		return nil
	}
	return "text"
}

// chain is a profile of n networks, each of which refers to the next, and the last to a VPN.
func chain(t testing.TB, n int) *profile.Profile {
	payloads := []map[string]any{{"PayloadType": "com.apple.webClip.managed", "Label": "Help", "URL": "https://example.com"}}
	for i := range n {
		payloads = append(payloads, map[string]any{"PayloadType": "com.apple.wifi.managed", "SSID_STR": "a",
			"PayloadUUID": fmt.Sprint("of ", i), "PayloadCertificateUUID": fmt.Sprint("of ", i+1)})
	}
	return with(t, nil, append(payloads, map[string]any{"PayloadType": "com.apple.vpn.managed", "VPNType": "IKEv2", "PayloadUUID": fmt.Sprint("of ", n)})...)
}

func TestVariantFollowsAChainToItsEnd(t *testing.T) {
	allowed, removed := chain(t, 3000).Variant(personal)
	if allowed == nil || len(allowed.Payloads) != 1 || allowed.Payloads[0].Type != "com.apple.webClip.managed" || len(removed) != 3001 {
		t.Errorf("%d findings, left is %+v", len(removed), allowed)
	}
}

// BenchmarkVariant holds that ten times the payloads take about ten times the time.
func BenchmarkVariant(b *testing.B) {
	for _, n := range []int{1000, 10000} {
		p := chain(b, n)
		b.Run(fmt.Sprintf("chain of %d", n), func(b *testing.B) {
			for b.Loop() {
				p.Variant(personal)
			}
		})
	}
}
