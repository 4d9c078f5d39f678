// Package wellknown helps where the domain of an organisation is served by another web
// server than this one: it writes what that server needs so that devices find their way
// from the domain to the MDM server, and checks from outside whether they do.
//
// A device whose user types ana@example.com asks example.com for [Path]; the answer names
// the URL at which it enrolls (Apple: "Implementing the simple authentication
// account-driven enrollment flow", and "Well-known").
//
// The package knows nothing of policy, of users or of the database: what it checks is what
// a device would see.
package wellknown

import (
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"golang.org/x/net/idna"
)

// Path is what a device asks a domain for. Guides of other vendors have a dot behind it,
// so a web server had better know both.
const Path = "/.well-known/com.apple.remotemanagement"

// The parameters of the query that a device sends with it.
const (
	identifierParameter = "user-identifier"
	familyParameter     = "model-family"
)

// Family is a kind of device, as devices name themselves.
type Family string

// The families that there are.
const (
	AppleTV       Family = "AppleTV"
	IPad          Family = "iPad"
	IPhone        Family = "iPhone"
	Mac           Family = "Mac"
	RealityDevice Family = "RealityDevice" // Apple Vision
	Watch         Family = "Watch"
)

// Families returns all families.
func Families() []Family { return []Family{AppleTV, IPad, IPhone, Mac, RealityDevice, Watch} }

// Mode is how devices enroll, as it stands in the URL at which they do.
type Mode string

// The modes that there are.
const (
	BYOD Mode = "byod" // User Enrollment
	ADDE Mode = "adde" // account-driven Device Enrollment
)

// Modes returns all modes.
func Modes() []Mode { return []Mode{BYOD, ADDE} }

// Version is Apple's name of m in the answer.
func (m Mode) Version() string { return "mdm-" + string(m) }

// String is Apple's name of m for people.
func (m Mode) String() string {
	switch m {
	case BYOD:
		return "User Enrollment"
	case ADDE:
		return "account-driven Device Enrollment"
	}
	return string(m)
}

// BaseURL is where devices enroll in mode m at the server of a URL.
func (m Mode) BaseURL(server *url.URL) string { return server.JoinPath("enroll", string(m)).String() }

// FieldError says what is wrong with something that was asked for.
type FieldError struct {
	Field  string // domain, model_family, identifier, server_url, mode
	Reason string
}

func (e *FieldError) Error() string { return e.Field + " " + e.Reason }

// ParseDomain returns the domain that text names, in lower case and in ASCII (RFC 5891),
// or a *FieldError that says what would be right. It must be one that a Managed Apple
// Account can have behind its @: with a dot in it, and no address.
func ParseDomain(text string) (string, error) {
	text = strings.TrimSpace(text)
	wrong := func(format string, args ...any) (string, error) {
		return "", &FieldError{"domain", fmt.Sprintf(format, args...)}
	}
	if text == "" {
		return wrong("is required: a domain such as example.com")
	}
	if len(text) > 1024 {
		return wrong("is too long for a domain")
	}
	if near := withinText(text); near != text {
		ascii, err := domainName(near)
		if err != nil {
			return wrong("must be a domain such as example.com, and nothing else")
		}
		return wrong("must be a domain and nothing else: did you mean %q?", ascii)
	}
	ascii, err := domainName(text)
	if err != nil {
		return wrong("%s", err)
	}
	return ascii, nil
}

// withinText takes away from text what stands around a domain in addresses and URLs.
func withinText(text string) string {
	if _, rest, ok := strings.Cut(text, "://"); ok {
		text = rest
	}
	if i := strings.IndexAny(text, "/?#\\"); i >= 0 {
		text = text[:i]
	}
	if i := strings.LastIndexByte(text, '@'); i >= 0 {
		text = text[i+1:]
	}
	if host, port, ok := strings.Cut(text, ":"); ok && !strings.Contains(port, ":") {
		text = host
	}
	return strings.TrimSuffix(strings.TrimPrefix(text, "*."), ".")
}

func domainName(text string) (string, error) {
	if _, err := netip.ParseAddr(strings.Trim(text, "[]")); err == nil {
		return "", fmt.Errorf("must be a domain such as example.com: an address has no accounts")
	}
	ascii, err := idna.Lookup.ToASCII(text)
	if err == nil {
		_, err = idna.Lookup.ToASCII(ascii) // it encodes some characters that it does not take back
	}
	if err != nil || ascii == "" {
		return "", fmt.Errorf("must be a domain such as example.com: letters, digits and hyphens between dots")
	}
	labels := strings.Split(ascii, ".")
	switch {
	case len(labels) < 2:
		return "", fmt.Errorf("must be a whole domain such as %s.com: devices take no name without a dot", clip(ascii, 63))
	case len(ascii) > 253:
		return "", fmt.Errorf("is too long: a domain has at most 253 characters")
	case slices.ContainsFunc(labels, func(l string) bool { return l == "" || len(l) > 63 }):
		return "", fmt.Errorf("must be a domain such as example.com: 1 to 63 characters between dots")
	case strings.Trim(labels[len(labels)-1], "0123456789") == "":
		return "", fmt.Errorf("must be a domain such as example.com: no domain ends in a number")
	}
	return ascii, nil
}

// ParseServerURL returns the URL of an MDM server, as --server-url of the server has it,
// or a *FieldError.
func ParseServerURL(text string) (*url.URL, error) {
	u, err := url.Parse(strings.TrimRight(strings.TrimSpace(text), "/"))
	if err != nil {
		return nil, &FieldError{"server_url", "must be a URL such as https://mdm.example.com"}
	}
	return u, checkServerURL(u)
}

func checkServerURL(u *url.URL) error {
	wrong := func(reason string) error { return &FieldError{"server_url", reason} }
	addr, addressErr := netip.ParseAddr(u.Hostname())
	_, nameErr := idna.Lookup.ToASCII(u.Hostname()) // no quotes or braces, for it goes into configurations
	switch {
	case u.Scheme != "https" && u.Host != "":
		return wrong("must begin with https://: devices take nothing else")
	case u.Host == "" || u.Hostname() == "" || addr.Zone() != "", addressErr != nil && (nameErr != nil || !isASCII(u.Hostname())):
		return wrong("must be a URL such as https://mdm.example.com")
	case u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "":
		return wrong("must be a scheme and a host only, such as https://mdm.example.com")
	}
	return nil
}

func isASCII(text string) bool {
	return strings.IndexFunc(text, func(r rune) bool { return r < 0x21 || r > 0x7e }) < 0
}

// ParseFamily returns the family that text names, in any case, or a *FieldError.
func ParseFamily(text string) (Family, error) {
	names := make([]string, 0, len(Families()))
	for _, f := range Families() {
		if strings.EqualFold(string(f), strings.TrimSpace(text)) {
			return f, nil
		}
		names = append(names, string(f))
	}
	return "", &FieldError{"model_family", "must be one of " + strings.Join(names, ", ")}
}

// clip bounds a text that others have written, for a sentence that quotes it.
func clip(text string, most int) string {
	text = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 || r == 0xfffd || r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069 {
			return ' ' // what moves the cursor of a terminal, or turns what follows around
		}
		return r
	}, text)
	if runes := []rune(text); len(runes) > most {
		return string(runes[:most-1]) + "…"
	}
	return text
}
