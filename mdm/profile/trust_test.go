package profile_test

import (
	"crypto/x509"
	"os"
	"path/filepath"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/mdm/profile"
)

func trust(t testing.TB) profile.Trust {
	t.Helper()
	return profile.Trust{
		Identifier: profile.TrustIdentifier("mdm.example.com"), DisplayName: "Trust in mdm.example.com", Organization: "Example",
		Roots: []*x509.Certificate{certificate(t, "root-ca.pem"), certificate(t, "identity-ca.pem")},
	}
}

func TestEncodeTrust(t *testing.T) {
	got, err := trust(t).Encode()
	if err != nil {
		t.Fatal(err)
	}
	golden := filepath.Join("testdata", "trust.mobileconfig")
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
	if id, err := profile.Identifier(got); err != nil || id != "com.example.mdm.gatehouse.trust" {
		t.Errorf("its identifier is %q, %v", id, err)
	}
}

func TestTrustWithoutWhatItNeeds(t *testing.T) {
	for name, change := range map[string]func(*profile.Trust){
		"no identifier": func(c *profile.Trust) { c.Identifier = "" },
		"no name":       func(c *profile.Trust) { c.DisplayName = "" },
		"no roots":      func(c *profile.Trust) { c.Roots = nil },
	} {
		t.Run(name, func(t *testing.T) {
			c := trust(t)
			change(&c)
			if _, err := c.Encode(); err == nil {
				t.Error("it is encoded")
			}
		})
	}
}
