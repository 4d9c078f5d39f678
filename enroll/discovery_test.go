package enroll_test

import (
	"context"
	"errors"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

func TestServiceDiscovery(t *testing.T) {
	storagetest.AnyEngine(t)
	h := newHouse(t)
	_, err := h.UpdateAccountDriven(context.Background(), func(c *enroll.AccountDriven) error {
		c.Domains = []enroll.AccountDomain{
			{Domain: "Example.com", Message: "Ask Ana.", Policy: map[enroll.ModelFamily]enroll.AccountMode{"iPhone": "byod", "iPad": "byod", "Mac": "adde", "RealityDevice": "off"}},
			{Domain: "sub.example.com", Policy: map[enroll.ModelFamily]enroll.AccountMode{"iPhone": "adde", "Mac": "off"}},
			{Domain: "none.example", Message: "Not here."},
		}
		return nil
	})
	must(t, err)
	const general = "This account can’t be used to enroll this device. Ask your IT department how to set it up."
	for name, tt := range map[string]struct {
		identifier string
		family     enroll.ModelFamily
		want       enroll.AccountMode
		message    string // where it is refused
	}{
		"a phone":                             {"ana@example.com", "iPhone", "byod", ""},
		"a Mac":                               {"ana@example.com", "Mac", "adde", ""},
		"a subdomain with its own policy":     {"ana@sub.example.com", "iPhone", "adde", ""},
		"a subdomain that is not listed":      {"ana@other.example.com", "iPhone", "", general},
		"a domain that only ends like it":     {"ana@notexample.com", "iPhone", "", general},
		"a foreign domain":                    {"ana@example.org", "iPhone", "", general},
		"upper case":                          {"ANA@EXAMPLE.COM", "iPhone", "byod", ""},
		"a trailing dot":                      {"ana@example.com.", "Mac", "adde", ""},
		"two trailing dots":                   {"ana@example.com..", "Mac", "", general},
		"the last @ counts":                   {"ana@evil.example@example.com", "iPhone", "byod", ""},
		"the last @ counts against it, too":   {"ana@example.com@evil.example", "iPhone", "", general},
		"a domain and nobody":                 {"@example.com", "iPhone", "byod", ""},
		"somebody and no domain":              {"ana@", "iPhone", "", general},
		"no address":                          {"ana", "iPhone", "", general},
		"a domain alone":                      {"example.com", "iPhone", "", general},
		"a space behind":                      {"ana@example.com ", "iPhone", "byod", ""},
		"a family that is off":                {"ana@example.com", "RealityDevice", "", "Ask Ana."},
		"a family that is not in the policy":  {"ana@example.com", "AppleTV", "", "Ask Ana."},
		"a family that nobody knows":          {"ana@example.com", "Newton", "", "Ask Ana."},
		"a family in other case":              {"ana@example.com", "iphone", "", "Ask Ana."},
		"off, and no message":                 {"ana@sub.example.com", "Mac", "", general},
		"a domain without a policy":           {"ana@none.example", "iPhone", "", "Not here."},
		"no family, several answers":          {"ana@example.com", "", "", "Ask Ana."},
		"no family, one answer":               {"ana@sub.example.com", "", "adde", ""},
		"no family, no answer":                {"ana@none.example", "", "", "Not here."},
		"no identifier, one answer":           {"", "Mac", "adde", ""},
		"no identifier, several answers":      {"", "iPhone", "", general},
		"no identifier, no answer":            {"", "RealityDevice", "", general},
		"nothing at all, and several answers": {"", "", "", general},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := h.Discover(context.Background(), tt.identifier, tt.family)
			if tt.want != "" {
				if want := (enroll.Discovery{Mode: tt.want, BaseURL: "https://mdm.example.com/enroll/" + string(tt.want)}); err != nil || got != want {
					t.Errorf("Discover = %+v, %v; want %+v", got, err, want)
				}
				return
			}
			refused, ok := errors.AsType[*enroll.DiscoveryError](err)
			if !ok || refused.Message != tt.message || refused.Reason == "" {
				t.Errorf("Discover = %+v, %v; want it refused with %q", got, err, tt.message)
			}
		})
	}
}

func TestServiceDiscoveryKnowsNobody(t *testing.T) {
	storagetest.AnyEngine(t)
	r := newReception(t)
	ctx := context.Background()
	for _, family := range []enroll.ModelFamily{"iPhone", "Mac", "AppleTV", ""} {
		known, err1 := r.Discover(ctx, "ana@example.com", family)
		unknown, err2 := r.Discover(ctx, "nobody@example.com", family)
		if known != unknown || (err1 == nil) != (err2 == nil) || err1 != nil && err1.Error() != err2.Error() {
			t.Errorf("%q: of ana %+v, %v; of nobody %+v, %v", family, known, err1, unknown, err2)
		}
	}
}

func TestServiceDiscoveryOnAServerThatHasJustBegun(t *testing.T) {
	storagetest.AnyEngine(t)
	h := newHouse(t)
	for _, identifier := range []string{"ana@example.com", "ana@mdm.example.com", ""} {
		if got, err := h.Discover(context.Background(), identifier, "iPhone"); err == nil {
			t.Errorf("Discover(%q) = %+v, want it refused", identifier, got)
		}
	}
	if mode, err := h.LeadsHere(context.Background(), "ana@example.com", "iPhone"); mode != "" || err != nil {
		t.Errorf("LeadsHere = %q, %v; want nothing", mode, err)
	}
}
