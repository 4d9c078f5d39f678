package template

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"strings"
	"unicode"
)

// SANs is the subject alternative names of the kinds that Apple's SCEP payload has,
// under Apple's names. In a template variables stand in them.
type SANs struct {
	RFC822Names     []string `json:"rfc822Name,omitempty"`
	DNSNames        []string `json:"dNSName,omitempty"`
	URIs            []string `json:"uniformResourceIdentifier,omitempty"`
	NTPrincipalName string   `json:"ntPrincipalName,omitempty"` // a user principal name; Apple allows one
}

// sanKind is one kind of alternative name.
type sanKind struct {
	name   string // Apple's
	of     func(*SANs) *[]string
	check  func(value string) error
	escape func(fact string) string // nil: as it is
}

func sanKinds() []sanKind {
	return []sanKind{
		{name: "rfc822Name", of: func(s *SANs) *[]string { return &s.RFC822Names }, check: checkAddress},
		{name: "dNSName", of: func(s *SANs) *[]string { return &s.DNSNames }, check: checkHost},
		{name: "uniformResourceIdentifier", of: func(s *SANs) *[]string { return &s.URIs }, check: checkURI, escape: url.PathEscape},
	}
}

func (s SANs) check(bad *FieldErrors) {
	for _, kind := range sanKinds() {
		values := *kind.of(&s)
		if len(values) > maxSANs {
			bad.add("sans."+kind.name, "has %d values, at most %d", len(values), maxSANs)
		}
		for i, value := range values {
			bad.join(fmt.Sprintf("sans.%s[%d]", kind.name, i), checkSAN(value, kind.check))
		}
	}
	if s.NTPrincipalName != "" {
		bad.join("sans.ntPrincipalName", checkSAN(s.NTPrincipalName, checkUPN))
	}
}

// checkSAN checks a value as far as its variables let it.
func checkSAN(value string, check func(string) error) error {
	if len(value) > maxValue {
		return fmt.Errorf("has %d bytes, at most %d", len(value), maxValue)
	}
	all, err := pieces(value)
	if err != nil {
		return err
	}
	if text, ok := literal(value); ok {
		return check(text)
	}
	for _, p := range all {
		if !isText(p.text) {
			return errors.New("must be UTF-8 without control characters")
		}
	}
	return nil
}

// expand returns s with its variables replaced: as many names of each kind.
func (s SANs) expand(f Facts) (SANs, error) {
	var out SANs
	for _, kind := range sanKinds() {
		from, to := *kind.of(&s), kind.of(&out)
		for i, pattern := range from {
			value, err := expandSAN(pattern, f, kind.escape, kind.check)
			if err != nil {
				return SANs{}, &FieldError{fmt.Sprintf("sans.%s[%d]", kind.name, i), err.Error()}
			}
			*to = append(*to, value)
		}
	}
	if s.NTPrincipalName != "" {
		value, err := expandSAN(s.NTPrincipalName, f, nil, checkUPN)
		if err != nil {
			return SANs{}, &FieldError{"sans.ntPrincipalName", err.Error()}
		}
		out.NTPrincipalName = value
	}
	return out, nil
}

func expandSAN(pattern string, f Facts, escape func(string) string, check func(string) error) (string, error) {
	value, err := expand(pattern, f, escape)
	if err != nil {
		return "", err
	}
	if err := check(value); err != nil {
		return "", err
	}
	return value, nil
}

// checkAddress takes what every mail system takes as an address: a Mailbox (RFC 5321,
// 4.1.2) without quotes, comments and address literals.
func checkAddress(s string) error {
	if len(s) > 254 { // RFC 5321, 4.5.3.1.3, without its angle brackets
		return fmt.Errorf("has %d bytes, at most 254", len(s))
	}
	local, host, found := strings.Cut(s, "@")
	if !found || local == "" || len(local) > 64 {
		return fmt.Errorf("is no e-mail address: %.64q", s)
	}
	for _, atom := range strings.Split(local, ".") {
		if atom == "" || strings.ContainsFunc(atom, func(r rune) bool {
			return r > '~' || r <= ' ' || strings.ContainsRune(`"(),.:;<>@[\]`, r)
		}) {
			return fmt.Errorf("is no e-mail address: %.64q", s)
		}
	}
	if err := checkHost(host); err != nil {
		return fmt.Errorf("is no e-mail address: its domain %w", err)
	}
	return nil
}

// checkHost takes the name of a host (RFC 1123, 2.1): letters, digits and hyphens
// between dots. That leaves out wildcards, which no single device is entitled to, and
// addresses.
func checkHost(s string) error {
	if s == "" || len(s) > 253 {
		return fmt.Errorf("has %d bytes, not 1 to 253", len(s))
	}
	if strings.Contains(s, "*") {
		return errors.New("is a wildcard, which would stand for other hosts too")
	}
	labels := strings.Split(s, ".")
	for _, label := range labels {
		if !isLabel(label) {
			return fmt.Errorf("is no host name: %.64q (letters, digits and hyphens between dots; others as xn--…)", s)
		}
	}
	if last := labels[len(labels)-1]; strings.Trim(last, "0123456789") == "" {
		return fmt.Errorf("is no host name: %.64q ends with a number, as addresses do", s)
	}
	return nil
}

func isLabel(s string) bool {
	if s == "" || len(s) > 63 || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	for i := range len(s) {
		if !isLetter(s[i]) && !isDigit(s[i]) && s[i] != '-' {
			return false
		}
	}
	return true
}

// checkURI takes an absolute URI (RFC 5280, 4.2.1.6), with something behind its scheme.
// Where it has an authority that is a host, with a port or without.
func checkURI(s string) error {
	switch {
	case len(s) > maxValue:
		return fmt.Errorf("has %d bytes, at most %d", len(s), maxValue)
	case strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune("\"<>\\^`{|}", r) }):
		return errors.New("is no URI: it may hold only ASCII characters without spaces, others as %XX")
	}
	u, err := url.Parse(s)
	switch {
	case err != nil:
		return fmt.Errorf("is no URI: %.64q", s)
	case !u.IsAbs() || u.Opaque == "" && u.Host == "" && u.Path == "":
		return errors.New(`is no absolute URI such as "mdm-device://$DEVICE_ID"`)
	case u.User != nil:
		return errors.New("must name no user before its host")
	}
	if u.Host == "" {
		return nil
	}
	host := u.Hostname()
	if _, err := netip.ParseAddr(host); err == nil {
		return nil
	}
	for _, label := range strings.Split(host, ".") { // RFC 1123 no further: our device IDs are hosts here
		if !isLabel(label) {
			return fmt.Errorf("is no URI with a host: %.64q", s)
		}
	}
	return nil
}

// checkUPN takes a user principal name, as directories have them: user@suffix. It is
// UTF-8, and not always an e-mail address.
func checkUPN(s string) error {
	user, suffix, found := strings.Cut(s, "@")
	switch {
	case len(s) > maxValue:
		return fmt.Errorf("has %d bytes, at most %d", len(s), maxValue)
	case !isText(s):
		return errors.New("must be UTF-8 without control characters")
	case !found || user == "" || suffix == "" || strings.Contains(suffix, "@") || strings.ContainsFunc(s, unicode.IsSpace):
		return fmt.Errorf("is no user principal name such as ana@example.com: %.64q", s)
	}
	return nil
}
