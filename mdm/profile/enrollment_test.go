package profile_test

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/mdm/profile"
	"github.com/gatehouse-mdm/gatehouse/storage/guard"
)

var update = flag.Bool("update", false, "rewrite golden files")

// certificate reads a certificate that never changes, so that what is derived
// from it does not either.
func certificate(t testing.TB, name string) *x509.Certificate {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(raw)
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func enrollment(t testing.TB) profile.Enrollment {
	t.Helper()
	return profile.Enrollment{
		Identifier:   profile.EnrollmentIdentifier("mdm.example.com"),
		DisplayName:  "Example enrollment",
		Organization: "Example",
		Description:  "Lets Example manage this device.",
		ServerURL:    "https://mdm.example.com:8443/mdm/connect",
		CheckInURL:   "https://mdm.example.com:8443/mdm/checkin",
		Topic:        "com.apple.mgmt.External.9f09d114",
		SCEP: profile.SCEP{
			PayloadUUID: "11111111-2222-4333-8444-555555555555",
			URL:         "https://mdm.example.com:8443/scep",
			Name:        "identity",
			Subject:     []profile.RDN{{{"O", "Example"}}, {{"CN", "attempt-1"}}},
			Challenge:   "one-time",
			CA:          certificate(t, "identity-ca.pem"),
		},
	}
}

func TestEncode(t *testing.T) {
	for name, change := range map[string]func(*profile.Enrollment){
		"device": func(*profile.Enrollment) {},
		"own-ca": func(e *profile.Enrollment) { e.Roots = []*x509.Certificate{certificate(t, "root-ca.pem")} },
		"system-scope-fewer-rights": func(e *profile.Enrollment) {
			e.Scope, e.AccessRights, e.SCEP.KeySize = profile.ScopeSystem, 3|16, 4096
		},
		"no-organization": func(e *profile.Enrollment) {
			e.Organization, e.Description, e.SCEP.Subject = "", "", e.SCEP.Subject[1:]
		},
		"byod": func(e *profile.Enrollment) {
			e.Mode, e.ManagedAppleAccount = profile.BYOD, "ana@example.com"
		},
		"adde": func(e *profile.Enrollment) {
			e.Mode, e.ManagedAppleAccount = profile.ADDE, "ana@example.com"
		},
	} {
		t.Run(name, func(t *testing.T) {
			e := enrollment(t)
			change(&e)
			got, err := e.Encode()
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

// decoded is a profile as a device reads it.
type decoded struct {
	PayloadIdentifier, PayloadUUID, PayloadOrganization string
	PayloadContent                                      []map[string]any
}

func decode(t testing.TB, raw []byte) decoded {
	t.Helper()
	var d decoded
	if err := guard.DecodePlist(raw, &d, guard.PlistLimits{}); err != nil {
		t.Fatalf("%v in\n%s", err, raw)
	}
	return d
}

func (d decoded) payload(t testing.TB, payloadType string) map[string]any {
	t.Helper()
	for _, p := range d.PayloadContent {
		if p["PayloadType"] == payloadType {
			return p
		}
	}
	t.Fatalf("no payload %s", payloadType)
	return nil
}

func TestARenewalChangesOnlyWhatItMay(t *testing.T) {
	first, second := enrollment(t), enrollment(t)
	second.SCEP.PayloadUUID, second.SCEP.Challenge = "99999999-2222-4333-8444-555555555555", "another"
	var profiles [2]decoded
	for i, e := range []profile.Enrollment{first, second} {
		raw, err := e.Encode()
		if err != nil {
			t.Fatal(err)
		}
		profiles[i] = decode(t, raw)
	}
	a, b := profiles[0], profiles[1]
	if a.PayloadIdentifier != b.PayloadIdentifier || a.PayloadUUID != b.PayloadUUID {
		t.Errorf("the profile's own name changed: %s %s, then %s %s", a.PayloadIdentifier, a.PayloadUUID, b.PayloadIdentifier, b.PayloadUUID)
	}
	before, after := a.payload(t, "com.apple.mdm"), b.payload(t, "com.apple.mdm")
	if before["IdentityCertificateUUID"] != first.SCEP.PayloadUUID || after["IdentityCertificateUUID"] != second.SCEP.PayloadUUID {
		t.Errorf("IdentityCertificateUUID is %v, then %v; want the SCEP payload's", before["IdentityCertificateUUID"], after["IdentityCertificateUUID"])
	}
	delete(before, "IdentityCertificateUUID")
	delete(after, "IdentityCertificateUUID")
	if !reflect.DeepEqual(before, after) {
		t.Errorf("the MDM payload changed: %v, then %v", before, after)
	}
	scep := b.payload(t, "com.apple.security.scep")
	if scep["PayloadUUID"] != second.SCEP.PayloadUUID || scep["PayloadIdentifier"] != a.payload(t, "com.apple.security.scep")["PayloadIdentifier"] {
		t.Errorf("the SCEP payload is %v", scep)
	}
}

func TestEncodeCarriesNamesExactly(t *testing.T) {
	const name = `A</string><key>x</key>&"' 🧑‍💻`
	e := enrollment(t)
	e.Organization, e.SCEP.Subject[0][0].Value = name, name
	raw, err := e.Encode()
	if err != nil {
		t.Fatal(err)
	}
	d := decode(t, raw)
	if d.PayloadOrganization != name {
		t.Errorf("PayloadOrganization = %q, want %q", d.PayloadOrganization, name)
	}
	content := d.payload(t, "com.apple.security.scep")["PayloadContent"].(map[string]any)
	want := []any{[]any{[]any{"O", name}}, []any{[]any{"CN", "attempt-1"}}}
	if !reflect.DeepEqual(content["Subject"], want) {
		t.Errorf("Subject = %q, want %q", content["Subject"], want)
	}
}

func TestEncodePinsTheIdentityAuthority(t *testing.T) {
	e := enrollment(t)
	raw, err := e.Encode()
	if err != nil {
		t.Fatal(err)
	}
	want := sha256.Sum256(e.SCEP.CA.Raw)
	content := decode(t, raw).payload(t, "com.apple.security.scep")["PayloadContent"].(map[string]any)
	if got, _ := content["CAFingerprint"].([]byte); string(got) != string(want[:]) {
		t.Errorf("CAFingerprint = %x, want the SHA-256 of the certificate, %x", got, want)
	}
}

func TestEncodeRefuses(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(*profile.Enrollment)
		want   string
	}{
		"no identifier":             {func(e *profile.Enrollment) { e.Identifier = "" }, "Identifier"},
		"a query in ServerURL":      {func(e *profile.Enrollment) { e.ServerURL += "?user=ana" }, "ServerURL"},
		"an empty query too":        {func(e *profile.Enrollment) { e.CheckInURL += "?" }, "CheckInURL"},
		"credentials in a URL":      {func(e *profile.Enrollment) { e.SCEP.URL = "https://a:b@example.com/scep" }, "SCEP.URL"},
		"a URL without host":        {func(e *profile.Enrollment) { e.ServerURL = "https:///mdm" }, "no host"},
		"another scheme":            {func(e *profile.Enrollment) { e.ServerURL = "ftp://example.com/mdm" }, "http"},
		"a topic of something else": {func(e *profile.Enrollment) { e.Topic = "com.example.app" }, "com.apple.mgmt."},
		"a scope that Apple lacks":  {func(e *profile.Enrollment) { e.Scope = "user" }, "scope"},
		"a mode that Apple lacks":   {func(e *profile.Enrollment) { e.Mode, e.ManagedAppleAccount = "byod", "a@example.com" }, "mode"},
		"a mode without account":    {func(e *profile.Enrollment) { e.Mode = profile.ADDE }, "go together"},
		"an account without mode":   {func(e *profile.Enrollment) { e.ManagedAppleAccount = "a@example.com" }, "go together"},
		"rights on a personal device": {func(e *profile.Enrollment) {
			e.Mode, e.ManagedAppleAccount, e.AccessRights = profile.BYOD, "a@example.com", 3
		}, "AccessRights"},
		"rights that could never be renewed": {func(e *profile.Enrollment) { e.AccessRights = 16 }, "1 and 2"},
		"rights that Apple lacks":            {func(e *profile.Enrollment) { e.AccessRights = 8192 | 3 }, "AccessRights"},
		"no challenge":                       {func(e *profile.Enrollment) { e.SCEP.Challenge = "" }, "Challenge"},
		"a short key":                        {func(e *profile.Enrollment) { e.SCEP.KeySize = 1024 }, "KeySize"},
		"no CN":                              {func(e *profile.Enrollment) { e.SCEP.Subject = e.SCEP.Subject[:1] }, "CN"},
		"a CN that a Mac would cut":          {func(e *profile.Enrollment) { e.SCEP.Subject[1][0].Value = strings.Repeat("é", 33) }, "66 bytes"},
		"a name that XML can't hold":         {func(e *profile.Enrollment) { e.Organization = "a\x00" }, "can't hold"},
	} {
		t.Run(name, func(t *testing.T) {
			e := enrollment(t)
			tt.change(&e)
			raw, err := e.Encode()
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Encode() = %s, %v; want an error with %q", raw, err, tt.want)
			}
		})
	}
}

func TestEncodeCanLeaveOutAccessRights(t *testing.T) {
	e := enrollment(t)
	e.AccessRights = profile.NoRights
	raw, err := e.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if rights, there := decode(t, raw).payload(t, "com.apple.mdm")["AccessRights"]; there {
		t.Errorf("AccessRights = %v, want none", rights)
	}
}

func TestEnrollmentIdentifier(t *testing.T) {
	for host, want := range map[string]string{
		"mdm.example.com":  "com.example.mdm.gatehouse.enrollment",
		"MDM.Example.com.": "com.example.mdm.gatehouse.enrollment",
		"localhost":        "localhost.gatehouse.enrollment",
		"192.168.1.20":     "192-168-1-20.gatehouse.enrollment",
		"::1":              "--1.gatehouse.enrollment",
		"[2001:db8::1]":    "2001-db8--1.gatehouse.enrollment",
	} {
		if got := profile.EnrollmentIdentifier(host); got != want {
			t.Errorf("EnrollmentIdentifier(%q) = %q, want %q", host, got, want)
		}
	}
}
