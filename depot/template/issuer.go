package template

import (
	"errors"
	"net/url"
	"strings"
)

// Issuer says who issues a template's certificates, and whom the device asks.
type Issuer string

// The issuers.
const (
	Builtin  Issuer = "builtin"  // we do
	External Issuer = "external" // another SCEP server, which the device asks by itself
	Proxy    Issuer = "proxy"    // another SCEP server; the device asks us, and we pass it on
)

// UpstreamChallenge says what another SCEP server wants to be shown.
type UpstreamChallenge string

// The kinds.
const (
	UpstreamNone    UpstreamChallenge = "none"
	UpstreamStatic  UpstreamChallenge = "static"  // a text that we know
	UpstreamDynamic UpstreamChallenge = "dynamic" // a text that is fetched for each request
)

// Upstream is the other SCEP server of an Issuer that is not Builtin.
type Upstream struct {
	URL  string `json:"url"`  // http or https, without a query
	Name string `json:"name"` // of the authority there, sent with GetCACert; may be empty

	// Fingerprint is the digest of its authority's certificate: of SHA-1, SHA-224,
	// SHA-256, SHA-384 or SHA-512, as its length says. Empty: any is taken.
	Fingerprint []byte `json:"fingerprint,omitempty"`

	// AllowPrivate lets us connect to it, and to ChallengeURL, at addresses that only an
	// organisation's own network has. What devices may reach is theirs to know.
	AllowPrivate bool `json:"allow_private,omitempty"`

	ChallengeType UpstreamChallenge `json:"challenge_type"`
	Challenge     Secret            `json:"-"` // of UpstreamStatic

	// Of UpstreamDynamic: a page that names a fresh challenge, as NDES has one.
	ChallengeURL string `json:"challenge_url,omitempty"`
	Username     string `json:"username,omitempty"`
	Password     Secret `json:"-"`
}

const maxURL = 1024

func (t Template) checkIssuer(bad *FieldErrors) {
	switch t.Issuer {
	case Builtin:
		if !t.Upstream.empty() {
			bad.add("upstream", `is for an issuer other than "builtin"`)
		}
		return
	case External, Proxy:
	default:
		bad.add("issuer", `must be "builtin", "external" or "proxy"`)
		return
	}
	u := t.Upstream
	secure, err := checkURL(u.URL, false)
	switch {
	case err != nil:
		bad.join("upstream.url", err)
	case t.Issuer == Proxy && !secure && len(u.Fingerprint) == 0:
		bad.add("upstream.fingerprint", "is required with http: without it whoever answers in between is taken for the authority")
	}
	if len(u.Name) > maxSecret || !isText(u.Name) {
		bad.add("upstream.name", "must be text without control characters, of at most %d bytes", maxSecret)
	}
	if n := len(u.Fingerprint); n > 0 && digestName(n) == "" {
		bad.add("upstream.fingerprint", "is of no digest that is known")
	}
	if t.Issuer == Proxy && t.ChallengeType == Static && (u.ChallengeType == UpstreamStatic || u.ChallengeType == UpstreamDynamic) {
		bad.add("challenge_type", `"static" with issuer "proxy" takes upstream.challenge_type "none": a request has room for one challenge, which whoever sends it signs, so that we can't put the other server's in place of ours`)
	}
	u.checkChallenge(bad)
}

func (u Upstream) empty() bool {
	return u.URL == "" && u.Name == "" && len(u.Fingerprint) == 0 && !u.AllowPrivate && u.ChallengeType == "" && u.Challenge == "" &&
		u.ChallengeURL == "" && u.Username == "" && u.Password == ""
}

func (u Upstream) checkChallenge(bad *FieldErrors) {
	switch u.ChallengeType {
	case UpstreamNone, UpstreamStatic, UpstreamDynamic:
	default:
		bad.add("upstream.challenge_type", `must be "none", "static" or "dynamic"`)
		return
	}
	switch {
	case u.ChallengeType != UpstreamStatic && u.Challenge != "":
		bad.add("upstream.challenge", `is for challenge_type "static"`)
	case u.ChallengeType == UpstreamStatic && u.Challenge == "":
		bad.add("upstream.challenge", "is required: it is what the other server was given")
	default:
		bad.checkSecret("upstream.challenge", u.Challenge)
	}
	if u.ChallengeType != UpstreamDynamic {
		for _, f := range []struct {
			name string
			set  bool
		}{{"challenge_url", u.ChallengeURL != ""}, {"username", u.Username != ""}, {"password", u.Password != ""}} {
			if f.set {
				bad.add("upstream."+f.name, `is for challenge_type "dynamic"`)
			}
		}
		return
	}
	secure, err := checkURL(u.ChallengeURL, true)
	switch {
	case err != nil:
		bad.join("upstream.challenge_url", err)
	case !secure && u.Password != "":
		bad.add("upstream.challenge_url", "must be https: the password goes there")
	}
	if len(u.Username) > maxSecret || !isText(u.Username) || strings.Contains(u.Username, ":") {
		bad.add("upstream.username", "must be text without control characters and colons, of at most %d bytes", maxSecret)
	}
	bad.checkSecret("upstream.password", u.Password)
	if u.Username == "" && u.Password != "" {
		bad.add("upstream.username", "is required with a password")
	}
}

// checkURL says whether the URL is one of https. Apple's SCEP client can't add its own
// query to one that is there.
func checkURL(raw string, query bool) (secure bool, err error) {
	if raw == "" {
		return false, errors.New("is required")
	}
	u, err := url.Parse(raw)
	switch {
	case err != nil || len(raw) > maxURL || !isASCII(raw):
		return false, errors.New("is no URL")
	case u.Scheme != "https" && u.Scheme != "http", u.Opaque != "", u.Hostname() == "":
		return false, errors.New("must be an http or https URL")
	case u.User != nil || u.Fragment != "":
		return false, errors.New("must have no user and no fragment")
	case !query && (u.RawQuery != "" || u.ForceQuery):
		return false, errors.New("must have no query: devices add one of their own")
	}
	return u.Scheme == "https", nil
}

func (t Template) warnOfIssuer(warn func(field, format string, args ...any)) {
	if t.Issuer == Builtin {
		return
	}
	switch n := len(t.Upstream.Fingerprint); n {
	case 0:
		warn("upstream.fingerprint", "is missing: any authority that answers at the URL is believed")
	case 20:
		warn("upstream.fingerprint", "is of SHA-1: SHA-256 is better")
	}
	if t.Issuer == External && t.Upstream.ChallengeType == UpstreamStatic {
		warn("upstream.challenge_type", "with an external issuer the static challenge goes to each device, where it can be read")
	}
	if t.Issuer == Proxy && t.Upstream.ChallengeType == UpstreamStatic {
		warn("upstream.challenge_type", "the static challenge goes to each device too, which signs it into its request: let the other server take requests from here alone")
	}
	if t.Issuer == Proxy && !strings.HasPrefix(strings.ToLower(t.Upstream.URL), "https:") {
		warn("upstream.url", "is not https: whoever sits in between and has any certificate of that authority can read what is passed on")
	}
	if t.Issuer == Proxy && t.ChallengeType == Static {
		warn("challenge_type", "the other server is shown our static challenge, because it is inside the request that is passed on")
	}
	if t.IncludeRoot && len(t.Roots) == 0 {
		warn("include_root", "sends our own root, which is not that of the other server: give its root in root_certificates")
	}
}
