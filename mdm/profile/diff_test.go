package profile_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/mdm/profile"
)

func TestDiff(t *testing.T) {
	wifi := func(change func(map[string]any)) map[string]any {
		p := map[string]any{
			"PayloadType": "com.apple.wifi.managed", "PayloadDisplayName": "Office", "PayloadIdentifier": "com.example.wifi",
			"SSID_STR": "Office", "Password": "old", "AutoJoin": true, "Priority": 1,
			"EAPClientConfiguration": map[string]any{"AcceptEAPTypes": []any{13, 25}, "UserName": "ana"},
		}
		change(p)
		return p
	}
	same := func(map[string]any) {}
	clip := map[string]any{"PayloadType": "com.apple.webClip.managed", "PayloadIdentifier": "com.example.clip", "Label": "Help"}
	day := time.Date(2026, 8, 1, 0, 0, 0, 0, time.UTC)
	for name, tt := range map[string]struct {
		topA, topB map[string]any
		a, b       []map[string]any
		want       []string
	}{
		"nothing but the order of payloads and the profile's UUID": {
			topA: map[string]any{"PayloadUUID": "A"}, topB: map[string]any{"PayloadUUID": "B"},
			a: []map[string]any{wifi(same), clip}, b: []map[string]any{clip, wifi(same)},
			want: []string{ // with gives them UUIDs by their order
				"changed com.apple.webClip.managed com.example.clip PayloadUUID: AAAAAAAA-0000-4000-8000-000000000002 -> AAAAAAAA-0000-4000-8000-000000000001",
				"changed com.apple.wifi.managed Office PayloadUUID: AAAAAAAA-0000-4000-8000-000000000001 -> AAAAAAAA-0000-4000-8000-000000000002",
			},
		},
		"a key of the profile": {
			topA: map[string]any{"PayloadRemovalDisallowed": false}, topB: map[string]any{"PayloadRemovalDisallowed": true, "RemovalDate": day},
			a: []map[string]any{clip}, b: []map[string]any{clip},
			want: []string{
				"changed Configuration Test PayloadRemovalDisallowed: false -> true",
				"added Configuration Test RemovalDate:  -> 2026-08-01T00:00:00Z",
			},
		},
		"values, deep and secret": {
			a: []map[string]any{wifi(same)}, b: []map[string]any{wifi(func(p map[string]any) {
				p["Password"] = "new"
				delete(p, "AutoJoin")
				p["Priority"] = 1.0
				p["EAPClientConfiguration"] = map[string]any{"AcceptEAPTypes": []any{25, 13}, "UserName": "ben", "Inner": map[string]any{"On": true}}
			})},
			want: []string{
				"removed com.apple.wifi.managed Office AutoJoin: true -> ",
				"reordered com.apple.wifi.managed Office EAPClientConfiguration.AcceptEAPTypes: [13, 25] -> [25, 13]",
				"added com.apple.wifi.managed Office EAPClientConfiguration.Inner.On:  -> true",
				"changed com.apple.wifi.managed Office EAPClientConfiguration.UserName: ana -> ben",
				"changed com.apple.wifi.managed Office Password (secret)",
				"changed com.apple.wifi.managed Office Priority: 1 -> 1",
			},
		},
		"payloads come and go": {
			a: []map[string]any{clip}, b: []map[string]any{wifi(same)},
			want: []string{"added com.apple.wifi.managed Office ", "removed com.apple.webClip.managed com.example.clip "},
		},
		"data is told by its digest, a key file not at all": {
			a: []map[string]any{{"PayloadType": "com.apple.security.pkcs12", "PayloadContent": []byte("a")}, {"PayloadType": "com.apple.security.root", "PayloadContent": []byte("a")}},
			b: []map[string]any{{"PayloadType": "com.apple.security.pkcs12", "PayloadContent": []byte("b")}, {"PayloadType": "com.apple.security.root", "PayloadContent": []byte("b")}},
			want: []string{
				"changed com.apple.security.pkcs12 com.example.test.0 PayloadContent (secret)",
				"changed com.apple.security.root com.example.test.1 PayloadContent: 1 bytes, SHA-256 ca978112ca1bbdca… -> 1 bytes, SHA-256 3e23e8160039594a…",
			},
		},
		"one of several without names": {
			a:    []map[string]any{{"PayloadType": "x", "PayloadIdentifier": "", "PayloadUUID": "", "K": "1"}, {"PayloadType": "x", "PayloadIdentifier": "", "PayloadUUID": "", "K": "2"}},
			b:    []map[string]any{{"PayloadType": "x", "PayloadIdentifier": "", "PayloadUUID": "", "K": "1"}, {"PayloadType": "x", "PayloadIdentifier": "", "PayloadUUID": "", "K": "3"}},
			want: []string{"changed x x K: 2 -> 3"},
		},
		"elements of a list of dictionaries": {
			a: []map[string]any{{"PayloadType": "x", "R": []any{map[string]any{"A": "1"}}}},
			b: []map[string]any{{"PayloadType": "x", "R": []any{map[string]any{"A": "2"}, map[string]any{"A": "3"}}}},
			want: []string{
				"changed x com.example.test.0 R[0].A: 1 -> 2",
				"added x com.example.test.0 R[1].A:  -> 3",
			},
		},
		"another type of value": {
			a:    []map[string]any{{"PayloadType": "x", "R": []any{"1"}}},
			b:    []map[string]any{{"PayloadType": "x", "R": map[string]any{"A": "1"}}},
			want: []string{"changed x com.example.test.0 R: [1] -> {A: 1}"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			a, b := with(t, tt.topA, tt.a...), with(t, tt.topB, tt.b...)
			got := changes(profile.Diff(a, b))
			if !slices.Equal(got, tt.want) {
				t.Errorf("Diff:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(tt.want, "\n"))
			}
			if same := profile.Diff(a, a); same != nil {
				t.Errorf("Diff of a profile and itself: %v", same)
			}
			if back := profile.Diff(b, a); len(back) != len(tt.want) {
				t.Errorf("Diff the other way: %v", changes(back))
			}
		})
	}
}

func changes(all []profile.Change) []string {
	var lines []string
	for _, c := range all {
		line := fmt.Sprintf("%s %s %s %s", c.Kind, c.PayloadType, c.Payload, c.Key)
		switch {
		case c.Secret:
			line += " (secret)"
			if c.Old != "" || c.New != "" {
				line += " told"
			}
		case c.Key != "":
			line += ": " + c.Old + " -> " + c.New
		}
		lines = append(lines, line)
	}
	return lines
}

func TestSecretsAreKnownByTheirNames(t *testing.T) {
	for key, want := range map[string]bool{
		"Password": true, "password1": true, "tokens": true, "ApiKey": true, "Authorization": true, "ClientIdentifier": true, "IKEv2SharedSecret": true,
		"PasswordHint": false, "Address": false, "SSID_STR": false, "AllowPassword1Change": false,
	} {
		if got := profile.HasSecretName(key); got != want {
			t.Errorf("%s is a secret: %v, want %v", key, got, want)
		}
	}
}
