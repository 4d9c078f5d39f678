package wellknown_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/enroll/wellknown"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

func TestDomains(t *testing.T) {
	storagetest.AnyEngine(t)
	for text, want := range map[string]string{
		"example.com":             "example.com",
		" Mail.Example.COM\n":     "mail.example.com",
		"Bücher.example":          "xn--bcher-kva.example",
		"xn--bcher-kva.example":   "xn--bcher-kva.example",
		"1.example.com":           "1.example.com",
		"例え.テスト":                  "xn--r8jz45g.xn--zckzah",
		"a-b.c-d.example.museum":  "a-b.c-d.example.museum",
		"exa--mple.example.local": "exa--mple.example.local",
	} {
		if got, err := wellknown.ParseDomain(text); err != nil || got != want {
			t.Errorf("ParseDomain(%q) = %q, %v, want %q", text, got, err, want)
		}
	}
	for text, says := range map[string]string{
		"":                                   "is required",
		"https://example.com/":               `did you mean "example.com"?`,
		"ana@Example.com":                    `did you mean "example.com"?`,
		"example.com:8443":                   `did you mean "example.com"?`,
		"example.com.":                       `did you mean "example.com"?`,
		"*.example.com":                      `did you mean "example.com"?`,
		"example.com/.well-known/x?y=z":      `did you mean "example.com"?`,
		"HTTPS://ana:pw@bücher.example:1/#x": `did you mean "xn--bcher-kva.example"?`,
		"https://localhost":                  "must be a domain such as example.com",
		"localhost":                          "without a dot",
		"192.0.2.1":                          "address",
		"2001:db8::1":                        "address",
		"[2001:db8::1]":                      "address",
		"1.2.3.4.5":                          "number",
		"my_host.example.com":                "letters, digits and hyphens",
		"-a.example.com":                     "letters, digits and hyphens",
		"exa mple.com":                       "letters, digits and hyphens",
		"example..com":                       "dots",
		".example.com":                       "dots",
		"a'b.com":                            "letters, digits and hyphens",
		strings.Repeat("a", 64) + ".com":     "63",
		strings.Repeat("a.", 127) + "com":    "253",
		strings.Repeat("a", 5000):            "too long",
	} {
		got, err := wellknown.ParseDomain(text)
		var field *wellknown.FieldError
		if !errors.As(err, &field) || field.Field != "domain" || !strings.Contains(field.Reason, says) {
			t.Errorf("ParseDomain(%q) = %q, %v, want an error with %q", text, got, err, says)
		}
	}
}

func TestServerURLs(t *testing.T) {
	storagetest.AnyEngine(t)
	for text, ok := range map[string]bool{
		"https://mdm.example.com": true, "https://mdm.example.com/": true, "https://mdm.example.com:8443": true, "https://192.0.2.1": true,
		"https://localhost:8443": true, "https://[2001:db8::1]:8443": true,
		"": false, "mdm.example.com": false, "http://mdm.example.com": false, "https://": false, "https://:443": false, "https://ana@mdm.example.com": false,
		"https://mdm.example.com/mdm": false, "https://mdm.example.com?x": false, "https://mdm.example.com#x": false, "https://mdm;x.example.com": false,
		"https://mdm'.example.com": false, "https://bücher.example": false, "https://[fe80::1%25e\"th]": false, "https://mdm.example.com:x": false,
	} {
		u, err := wellknown.ParseServerURL(text)
		if (err == nil) != ok {
			t.Errorf("ParseServerURL(%q) = %v, %v", text, u, err)
		}
	}
}

func FuzzParseDomain(f *testing.F) {
	for _, seed := range []string{"example.com", "https://ana@b\u00fccher.example:1/x", "::1", "a.b.", "xn--.com"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got, err := wellknown.ParseDomain(text)
		if err != nil {
			return
		}
		if again, err := wellknown.ParseDomain(got); err != nil || again != got {
			t.Errorf("ParseDomain(%q) = %q, whose is %q, %v", text, got, again, err)
		}
		if strings.Trim(got, "abcdefghijklmnopqrstuvwxyz0123456789-.") != "" {
			t.Errorf("ParseDomain(%q) = %q", text, got)
		}
	})
}
