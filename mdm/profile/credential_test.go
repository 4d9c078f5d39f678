package profile_test

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/mdm/profile"
)

func credential(t testing.TB) profile.Credential {
	t.Helper()
	return profile.Credential{
		Identifier:   profile.CredentialIdentifier("mdm.example.com", "wifi"),
		DisplayName:  "wifi",
		Organization: "Example",
		Scope:        profile.ScopeSystem,
		SCEP: profile.SCEP{
			PayloadUUID: "11111111-2222-4333-8444-555555555555",
			URL:         "https://mdm.example.com/scep/wifi",
			Name:        "wifi",
			Subject:     []profile.RDN{{{"O", "Example"}}, {{"CN", "ana@example.com"}, {"2.5.4.5", "C02X"}}},
			SANs: profile.SubjectAltName{
				RFC822Names: []string{"ana@example.com"}, DNSNames: []string{"c02x.example.com", "ana.example.com"},
				URIs: []string{"mdm-device://d1"}, NTPrincipalName: "ana@corp.example.com",
			},
			Challenge: "one-time",
			CA:        certificate(t, "identity-ca.pem"),
		},
	}
}

func TestEncodeCredential(t *testing.T) {
	for name, change := range map[string]func(*profile.Credential){
		"credential": func(*profile.Credential) {},
		"credential-with-root": func(c *profile.Credential) {
			c.Roots = []*x509.Certificate{certificate(t, "root-ca.pem")}
			c.Description = "Lets this device join the Wi-Fi of Example."
		},
		"credential-of-another-authority": func(c *profile.Credential) {
			c.Scope = profile.ScopeUser
			c.SCEP.CA, c.SCEP.Fingerprint = nil, bytes.Repeat([]byte{0xab}, 20)
			c.SCEP.Challenge, c.SCEP.Name, c.SCEP.SANs = "", "", profile.SubjectAltName{}
			c.SCEP.KeySize, c.SCEP.KeyUsage = 1024, profile.Signing
			c.SCEP.Polling = &profile.Polling{Retries: 0, Delay: time.Minute}
			c.SCEP.Extractable, c.SCEP.AllAppsMayUse = true, true
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := credential(t)
			change(&c)
			got, err := c.Encode()
			if err != nil {
				t.Fatal(err)
			}
			golden := filepath.Join("testdata", name+".mobileconfig")
			if *update {
				if err := os.WriteFile(golden, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if string(got) != string(want) {
				t.Errorf("Encode() =\n%s\nwant\n%s", got, want)
			}
		})
	}
}

// TestCredentialHasEveryKey reads the payload as a device does, key by key.
func TestCredentialHasEveryKey(t *testing.T) {
	base := map[string]any{
		"URL": "https://mdm.example.com/scep/wifi", "Name": "wifi", "Challenge": "one-time",
		"Subject":       []any{[]any{[]any{"O", "Example"}}, []any{[]any{"CN", "ana@example.com"}, []any{"2.5.4.5", "C02X"}}},
		"Keysize":       uint64(2048),
		"Key Type":      "RSA",
		"Key Usage":     uint64(5),
		"Retries":       uint64(3),
		"RetryDelay":    uint64(10),
		"CAFingerprint": digest(certificate(t, "identity-ca.pem")),
		"SubjectAltName": map[string]any{
			"rfc822Name": "ana@example.com", "dNSName": []any{"c02x.example.com", "ana.example.com"},
			"uniformResourceIdentifier": "mdm-device://d1", "ntPrincipalName": "ana@corp.example.com",
		},
		"KeyIsExtractable": false, "AllowAllAppsAccess": false,
	}
	for name, tt := range map[string]struct {
		change func(*profile.SCEP)
		key    string
		want   any // nil: the key is not there
	}{
		"the defaults":          {func(*profile.SCEP) {}, "", nil},
		"a large key":           {func(s *profile.SCEP) { s.KeySize = 4096 }, "Keysize", uint64(4096)},
		"for signatures":        {func(s *profile.SCEP) { s.KeyUsage = profile.Signing }, "Key Usage", uint64(1)},
		"for encryption":        {func(s *profile.SCEP) { s.KeyUsage = profile.Encryption }, "Key Usage", uint64(4)},
		"no retries":            {func(s *profile.SCEP) { s.Polling = &profile.Polling{Delay: 10 * time.Second} }, "Retries", uint64(0)},
		"a longer delay":        {func(s *profile.SCEP) { s.Polling = &profile.Polling{Retries: 3, Delay: 2 * time.Minute} }, "RetryDelay", uint64(120)},
		"an extractable key":    {func(s *profile.SCEP) { s.Extractable = true }, "KeyIsExtractable", true},
		"a key for all apps":    {func(s *profile.SCEP) { s.AllAppsMayUse = true }, "AllowAllAppsAccess", true},
		"no challenge":          {func(s *profile.SCEP) { s.Challenge = "" }, "Challenge", nil},
		"no name":               {func(s *profile.SCEP) { s.Name = "" }, "Name", nil},
		"no fingerprint":        {func(s *profile.SCEP) { s.CA = nil }, "CAFingerprint", nil},
		"a fingerprint":         {func(s *profile.SCEP) { s.CA, s.Fingerprint = nil, make([]byte, 48) }, "CAFingerprint", make([]byte, 48)},
		"no alternative names":  {func(s *profile.SCEP) { s.SANs = profile.SubjectAltName{} }, "SubjectAltName", nil},
		"one alternative names": {func(s *profile.SCEP) { s.SANs = profile.SubjectAltName{NTPrincipalName: "a@b"} }, "SubjectAltName", map[string]any{"ntPrincipalName": "a@b"}},
	} {
		t.Run(name, func(t *testing.T) {
			c := credential(t)
			tt.change(&c.SCEP)
			raw, err := c.Encode()
			if err != nil {
				t.Fatal(err)
			}
			got := decode(t, raw).payload(t, "com.apple.security.scep")["PayloadContent"].(map[string]any)
			for key, want := range base {
				if key == tt.key {
					want = tt.want
				}
				if !reflect.DeepEqual(got[key], want) {
					t.Errorf("%s is %#v, want %#v", key, got[key], want)
				}
				delete(got, key)
			}
			if len(got) > 0 {
				t.Errorf("there is also %v", got)
			}
		})
	}
}

func digest(cert *x509.Certificate) []byte {
	sum := sha256.Sum256(cert.Raw)
	return sum[:]
}

func TestARenewedCredentialReplacesItsPredecessor(t *testing.T) {
	first, second := credential(t), credential(t)
	second.SCEP.PayloadUUID, second.SCEP.Challenge = "99999999-2222-4333-8444-555555555555", "another"
	a, b := decoded{}, decoded{}
	for c, d := range map[*profile.Credential]*decoded{&first: &a, &second: &b} {
		raw, err := c.Encode()
		if err != nil {
			t.Fatal(err)
		}
		*d = decode(t, raw)
	}
	before, after := a.payload(t, "com.apple.security.scep"), b.payload(t, "com.apple.security.scep")
	if a.PayloadIdentifier != b.PayloadIdentifier || before["PayloadIdentifier"] != after["PayloadIdentifier"] {
		t.Errorf("it is called %s, then %s; its payload %s, then %s", a.PayloadIdentifier, b.PayloadIdentifier, before["PayloadIdentifier"], after["PayloadIdentifier"])
	}
	if before["PayloadUUID"] == after["PayloadUUID"] {
		t.Errorf("the device would keep its old key: PayloadUUID is %s again", after["PayloadUUID"])
	}
}

func TestEncodeCredentialRefuses(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(*profile.Credential)
		want   string
	}{
		"no identifier":        {func(c *profile.Credential) { c.Identifier = "" }, "Identifier"},
		"no scope":             {func(c *profile.Credential) { c.Scope = "" }, "scope"},
		"no UUID":              {func(c *profile.Credential) { c.SCEP.PayloadUUID = "" }, "PayloadUUID"},
		"a query":              {func(c *profile.Credential) { c.SCEP.URL += "?x=1" }, "query"},
		"an odd key":           {func(c *profile.Credential) { c.SCEP.KeySize = 3072 }, "KeySize"},
		"another usage":        {func(c *profile.Credential) { c.SCEP.KeyUsage = 2 }, "KeyUsage"},
		"a long CN":            {func(c *profile.Credential) { c.SCEP.Subject[1][0].Value = strings.Repeat("x", 65) }, "65 bytes"},
		"an empty value":       {func(c *profile.Credential) { c.SCEP.Subject[1][1].Value = "" }, "empty"},
		"an empty part":        {func(c *profile.Credential) { c.SCEP.Subject[1] = nil }, "empty"},
		"two fingerprints":     {func(c *profile.Credential) { c.SCEP.Fingerprint = make([]byte, 32) }, "both"},
		"a fingerprint of MD5": {func(c *profile.Credential) { c.SCEP.CA, c.SCEP.Fingerprint = nil, make([]byte, 16) }, "16 bytes"},
		"half a second":        {func(c *profile.Credential) { c.SCEP.Polling = &profile.Polling{Delay: time.Second / 2} }, "whole seconds"},
		"what XML can't hold":  {func(c *profile.Credential) { c.SCEP.SANs.NTPrincipalName = "a\x00@b" }, "can't hold"},
	} {
		t.Run(name, func(t *testing.T) {
			c := credential(t)
			tt.change(&c)
			if raw, err := c.Encode(); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Encode() = %s, %v; want an error with %q", raw, err, tt.want)
			}
		})
	}
}
