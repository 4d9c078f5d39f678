package profile_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/mdm/profile"
)

func service() profile.Service {
	return profile.Service{
		Identifier: profile.ServiceIdentifier("mdm.example.com"), PayloadUUID: "11111111-2222-4333-8444-555555555555",
		DisplayName: "Example enrollment", Organization: "Example & Söhne", Description: "Asks this device what it is.",
		URL: "https://mdm.example.com/enroll/ota/token", Challenge: "one-time",
		Attributes: []string{profile.AttributeUDID, profile.AttributeSerialNumber, profile.AttributeProduct, profile.AttributeVersion},
	}
}

func TestEncodeService(t *testing.T) {
	got, err := service().Encode()
	if err != nil {
		t.Fatal(err)
	}
	golden := filepath.Join("testdata", "profile-service.mobileconfig")
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
}

func TestEncodeServiceRefuses(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(*profile.Service)
		want   string
	}{
		"no identifier":       {func(s *profile.Service) { s.Identifier = "" }, "Identifier"},
		"no UUID":             {func(s *profile.Service) { s.PayloadUUID = "" }, "PayloadUUID"},
		"no challenge":        {func(s *profile.Service) { s.Challenge = "" }, "Challenge"},
		"nothing to ask":      {func(s *profile.Service) { s.Attributes = nil }, "Attributes"},
		"a query":             {func(s *profile.Service) { s.URL += "?token=x" }, "URL"},
		"another scheme":      {func(s *profile.Service) { s.URL = "file:///etc" }, "URL"},
		"what XML can't hold": {func(s *profile.Service) { s.Organization = "\x00" }, "can't hold"},
	} {
		t.Run(name, func(t *testing.T) {
			s := service()
			tt.change(&s)
			if raw, err := s.Encode(); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Encode() = %s, %v; want an error with %q", raw, err, tt.want)
			}
		})
	}
}
