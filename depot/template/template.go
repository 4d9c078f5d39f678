// Package template keeps certificate templates: what the certificates that are issued
// by a name say, how devices are told to ask for them, and how long they last.
//
// A template's texts hold variables such as $EMAIL. They are replaced value by value,
// after the subject has been taken apart, so that whatever a device or a directory
// says of itself can fill a name and never add one.
//
// It knows no devices and no users, only the [Facts] that it is given. It issues
// nothing, and does not decide who may have what.
package template

import (
	"crypto/subtle"
	"crypto/x509"
	"fmt"
	"log/slog"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// KeyRSA is the only type of key that Apple's SCEP client makes.
const KeyRSA = "RSA"

// ChallengeType says what a device shows to get a certificate from us.
type ChallengeType string

// The types. There is no way without.
const (
	OneTime ChallengeType = "one_time" // made for one device, and good for one certificate
	Static  ChallengeType = "static"   // the same for everybody who knows it
)

// Template says what certificates of one name are to be like. [New] makes one that is
// right but for its Subject.
type Template struct {
	// Name is a letter or digit and up to 63 more, or dots, dashes and underscores. It
	// stands in the path of the SCEP endpoint.
	Name string `json:"name"`

	Subject Subject `json:"subject"`
	SANs    SANs    `json:"sans,omitzero"`

	KeyType     string   `json:"key_type"`      // KeyRSA
	KeySize     int      `json:"key_size"`      // bits: 2048 or 4096; 1024 with an external issuer
	KeyUsage    []string `json:"key_usage"`     // of DigitalSignature and KeyEncipherment
	ExtKeyUsage []string `json:"ext_key_usage"` // names of RFC 5280, such as clientAuth, or dotted OIDs

	Validity    Span        `json:"validity"`     // MinValidity to MaxValidity
	RenewBefore RenewBefore `json:"renew_before"` // the end of its life; empty: DefaultRenewBefore, or half its life

	// How a device asks again for what is pending at the issuer. Ours never is.
	Retries    int           `json:"retries"`
	RetryDelay time.Duration `json:"retry_delay"` // whole seconds

	KeyExtractable     bool `json:"key_extractable"`
	AllowAllAppsAccess bool `json:"allow_all_apps_access"` // to the key, on a Mac

	// IncludeRoot puts the issuer's root into the profile: Roots, if there are any, and
	// else our own.
	IncludeRoot bool     `json:"include_root"`
	Roots       [][]byte `json:"roots,omitempty"` // DER

	ChallengeType ChallengeType `json:"challenge_type"`
	Challenge     Secret        `json:"-"` // of Static: the stored record has it sealed

	Issuer   Issuer   `json:"issuer"`
	Upstream Upstream `json:"upstream,omitzero"` // with an Issuer other than Builtin

	Notes []Note `json:"notes,omitempty"` // the oldest first

	CreatedAt time.Time `json:"created_at"`
	UpdatedAt time.Time `json:"updated_at"`
}

// New returns a template with all defaults, which lacks a subject.
func New(name string) Template {
	return Template{
		Name:          name,
		KeyType:       KeyRSA,
		KeySize:       2048,
		KeyUsage:      []string{DigitalSignature, KeyEncipherment},
		ExtKeyUsage:   []string{"clientAuth"},
		Validity:      "8760h",
		Retries:       3,
		RetryDelay:    10 * time.Second,
		ChallengeType: OneTime,
		Issuer:        Builtin,
	}
}

// Note is what an administrator wrote about a template, and when. The last one counts.
type Note struct {
	Text   string    `json:"text"`
	Author string    `json:"author"`
	At     time.Time `json:"at"`
}

// Note returns the text of the last note, empty if there is none.
func (t Template) Note() string {
	if len(t.Notes) == 0 {
		return ""
	}
	return t.Notes[len(t.Notes)-1].Text
}

// Secret is a text that must not be seen: it prints as [secret].
type Secret string

// String implements [fmt.Stringer].
func (Secret) String() string { return "[secret]" }

// GoString implements [fmt.GoStringer].
func (Secret) GoString() string { return "[secret]" }

// LogValue implements [slog.LogValuer].
func (Secret) LogValue() slog.Value { return slog.StringValue("[secret]") }

// Reveal returns the text itself, to send it to whom it is for.
func (s Secret) Reveal() string { return string(s) }

// Is says whether given is the secret, in a time that tells nothing of it but its
// length. An empty secret is nobody's.
func (s Secret) Is(given string) bool {
	return s != "" && subtle.ConstantTimeCompare([]byte(s), []byte(given)) == 1
}

// FieldError says what is wrong with one field: of a template, by its name in the API,
// or of what a template comes to for one device.
type FieldError struct {
	Field  string // "sans.rfc822Name[0]"
	Reason string // "$EMAIL is empty for this device"
}

func (e *FieldError) Error() string { return e.Field + ": " + e.Reason }

// FieldErrors is all that is wrong with a template; there is at least one.
type FieldErrors []FieldError

func (e FieldErrors) Error() string {
	texts := make([]string, len(e))
	for i := range e {
		texts[i] = e[i].Error()
	}
	return strings.Join(texts, "; ")
}

func (e *FieldErrors) add(field, format string, args ...any) {
	*e = append(*e, FieldError{field, fmt.Sprintf(format, args...)})
}

// join adds what err says about field, if anything.
func (e *FieldErrors) join(field string, err error) {
	if err != nil {
		e.add(field, "%s", err)
	}
}

// Limits of a template.
const (
	MinValidity = time.Hour

	// MaxValidity is how long Apple's systems trust a server's certificate from an
	// authority that was added by hand (support.apple.com/103769). Others could last
	// longer, but renewal costs nobody's time here, and what is revoked has to be listed
	// for as long as it would have lasted.
	MaxValidity = 825 * day

	maxRetries    = 100
	maxRetryDelay = 24 * time.Hour
	maxSANs       = 20 // of one kind
	maxValue      = 1024
	maxNote       = 10_000
	maxNotes      = 100
	maxSecret     = 255
	minChallenge  = 6
)

var namePattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

// Check returns FieldErrors unless the template can be stored. What its variables will
// come to is not known yet: [Template.Expand] checks that.
func (t Template) Check() error {
	var bad FieldErrors
	if slices.Contains([]string{"identity", "tls", "ocsp", "gatehouse"}, strings.ToLower(t.Name)) {
		bad.add("name", "is what the server calls certificates of its own, or its authority")
	}
	if !namePattern.MatchString(t.Name) {
		bad.add("name", "must be 1 to 64 letters, digits, dots, dashes and underscores, and begin with a letter or digit")
	}
	t.Subject.check(&bad)
	t.SANs.check(&bad)
	t.checkKey(&bad)
	t.checkTimes(&bad)
	if t.Retries < 0 || t.Retries > maxRetries {
		bad.add("retries", "must be 0 to %d", maxRetries)
	}
	if t.RetryDelay < 0 || t.RetryDelay > maxRetryDelay || t.RetryDelay%time.Second != 0 {
		bad.add("retry_delay", "must be whole seconds, and at most %d", maxRetryDelay/time.Second)
	}
	t.checkRoots(&bad)
	t.checkChallenge(&bad)
	t.checkIssuer(&bad)
	if note := t.Note(); len(note) > maxNote || !utf8.ValidString(note) {
		bad.add("notes", "must be text of at most %d bytes", maxNote)
	}
	if len(bad) > 0 {
		return bad
	}
	return nil
}

func (t Template) checkKey(bad *FieldErrors) {
	if t.KeyType != KeyRSA {
		bad.add("key_type", "must be %s: Apple's SCEP client makes no other keys", KeyRSA)
	}
	switch t.KeySize {
	case 2048, 4096:
	case 1024:
		if t.Issuer != External {
			bad.add("key_size", "of 1024 is too short for our own authority, and for requests that pass through it")
		}
	default:
		bad.add("key_size", "must be 2048 or 4096, or 1024 with an external issuer")
	}
	if _, err := keyUsages(t.KeyUsage); err != nil {
		bad.join("key_usage", err)
	}
	bad.checkUsages("ext_key_usage", t.ExtKeyUsage)
}

func (t Template) checkTimes(bad *FieldErrors) {
	validity, err := t.Validity.Duration()
	switch {
	case err != nil:
		bad.join("validity", err)
		return
	case validity < MinValidity || validity > MaxValidity:
		bad.add("validity", "must be %s to %d days", MinValidity, MaxValidity/day)
		return
	}
	before, err := t.RenewBefore.of(validity)
	switch {
	case err != nil:
		bad.join("renew_before", err)
	case before >= validity:
		bad.add("renew_before", "must be shorter than the validity, or the certificate would be due when it is issued")
	}
}

func (t Template) checkChallenge(bad *FieldErrors) {
	switch t.ChallengeType {
	case OneTime:
		if t.Challenge != "" {
			bad.add("challenge", `is for challenge_type "static": one-time challenges are made for each device`)
		}
	case Static:
		if t.Issuer == External {
			bad.add("challenge_type", `"static" is for requests to us, and an external issuer takes them itself: set upstream.challenge_type`)
			return
		}
		if len(t.Challenge) < minChallenge {
			bad.add("challenge", "must have at least %d characters", minChallenge)
		}
		bad.checkSecret("challenge", t.Challenge)
	default:
		bad.add("challenge_type", `must be "one_time" or "static"`)
	}
}

// checkSecret refuses what can't travel as a password: a challenge goes as a
// PrintableString or UTF8String into the request (RFC 2985, 5.4.1), a password into a
// header.
func (e *FieldErrors) checkSecret(field string, s Secret) {
	if len(s) > maxSecret || !isText(string(s)) {
		e.add(field, "must be text without control characters, of at most %d bytes", maxSecret)
	}
}

// isText says whether s can stand in a certificate and in a profile: UTF-8 without
// control characters, and without what XML can't hold.
func isText(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool {
		return unicode.IsControl(r) || r == '\u2028' || r == '\u2029' || r&0xfffe == 0xfffe
	})
}

// Warning is something that was asked for, and that its author may want to think about
// again.
type Warning struct {
	Field, Detail string
}

// Warnings returns what may be a mistake in t, which has passed Check.
func (t Template) Warnings(now time.Time) []Warning {
	var all []Warning
	warn := func(field, format string, args ...any) {
		all = append(all, Warning{field, fmt.Sprintf(format, args...)})
	}
	switch names := t.Subject.count("CN"); {
	case names == 0:
		warn("subject", "has no CN: a Mac asks for its profile's identifier instead, and an issuer that takes the request's word issues that")
	case names > 2:
		warn("subject", "has %d CNs: some programs then no longer choose the certificate by themselves", names)
	}
	if t.KeySize < 2048 {
		warn("key_size", "of %d bits has been within reach of attackers for years", t.KeySize)
	}
	if t.KeyExtractable {
		warn("key_extractable", "lets whoever uses a Mac take the key away from it")
	}
	t.warnOfChallenge(warn)
	t.warnOfIssuer(warn)
	if slices.Contains(t.ExtKeyUsage, "serverAuth") {
		for i, name := range t.SANs.DNSNames {
			if v, ok := ownWord(name); ok {
				warn(fmt.Sprintf("sans.dNSName[%d]", i), "$%s is what a device calls itself: with serverAuth it can get a certificate for a server's name", v)
			}
		}
	}
	for i, der := range t.Roots {
		cert, err := x509.ParseCertificate(der)
		if err == nil && now.After(cert.NotAfter) {
			warn(fmt.Sprintf("root_certificates[%d]", i), "expired on %s", cert.NotAfter.UTC().Format(time.DateOnly))
		}
	}
	return all
}

func (t Template) warnOfChallenge(warn func(field, format string, args ...any)) {
	if t.ChallengeType != Static {
		return
	}
	warn("challenge_type", "whoever knows a static challenge can get certificates of this template, from anywhere and with any names where its variables are")
	if len(t.Challenge) < 16 {
		warn("challenge", "of %d characters can be guessed", len(t.Challenge))
	}
}
