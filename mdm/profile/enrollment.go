package profile

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"github.com/gatehouse-mdm/gatehouse/mdm/internal/plistxml"
)

// Values of AccessRights beside sums of Apple's bits.
const (
	AllRights = 8191 // every bit
	NoRights  = -1   // the key is left out: User Enrollment has rights of its own
)

// Scope says for whom a Mac installs a profile.
type Scope string

// The scopes. Of an enrollment by hand, System leaves the user who installs it
// without a channel.
const (
	ScopeUser   Scope = "User"
	ScopeSystem Scope = "System"
)

// Mode is the EnrollmentMode of an account-driven enrollment.
type Mode string

// The modes; the empty one is an enrollment by profile.
const (
	BYOD Mode = "BYOD" // a personal device: User Enrollment
	ADDE Mode = "ADDE" // the organisation's: account-driven Device Enrollment
)

// Enrollment describes an enrollment profile: what a device installs to be managed.
//
// A device refuses a renewal in which Identifier, ServerURL, CheckInURL, Topic, Mode
// or ManagedAppleAccount differ, or that adds AccessRights. The rest may change.
type Enrollment struct {
	Identifier   string // PayloadIdentifier, reverse DNS: EnrollmentIdentifier makes one
	DisplayName  string // heads the profile in the device's settings
	Organization string // optional, as Description
	Description  string
	Scope        Scope // empty: ScopeUser

	ServerURL    string // for commands; without query, the same for every device
	CheckInURL   string
	Topic        string // of the push certificate: its UID, com.apple.mgmt.…
	AccessRights int    // 0: AllRights, or NoRights with BYOD, where Apple asks for it

	Mode                Mode
	ManagedAppleAccount string // AssignedManagedAppleID; with a Mode only, and then required

	// Roots are trusted by the device once it has the profile: what anchors the
	// server's TLS certificate, when that is not a public authority.
	Roots []*x509.Certificate

	SCEP SCEP
}

// SCEP says where and how the device gets its identity certificate.
type SCEP struct {
	// PayloadUUID is fresh with every challenge: a new one makes the device ask for
	// a new certificate.
	PayloadUUID string
	URL         string
	Name        string // of the authority; sent as message= with GetCACert
	Subject     []RDN  // that the device asks for; the authority sets its own
	Challenge   string // one-time: never log a profile
	KeySize     int    // bits of the RSA key; 0: 2048

	// CA is the only authority the device will take a certificate from.
	CA *x509.Certificate
}

// RDN is one part of a subject: a type such as "CN" or a dotted OID, and its value.
type RDN struct {
	Type, Value string
}

// EnrollmentIdentifier returns the PayloadIdentifier for the enrollment profile of
// a server, from the host of its URL in reverse: "com.example.mdm.gatehouse.enrollment"
// for mdm.example.com. It must stay the same for as long as devices are enrolled.
func EnrollmentIdentifier(host string) string {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if addr, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil {
		host = strings.NewReplacer(".", "-", ":", "-", "%", "-").Replace(addr.String())
	} else {
		labels := strings.Split(host, ".")
		slices.Reverse(labels)
		host = strings.Join(labels, ".")
	}
	return host + ".gatehouse.enrollment"
}

// Encode returns the profile as an XML property list, unsigned. The same
// Enrollment gives the same bytes.
func (e Enrollment) Encode() ([]byte, error) {
	if err := e.check(); err != nil {
		return nil, fmt.Errorf("enrollment profile: %w", err)
	}
	scope := e.Scope
	if scope == "" {
		scope = ScopeUser
	}
	var payloads []any
	for _, root := range e.Roots { // before what relies on them
		payloads = append(payloads, e.root(root))
	}
	payloads = append(payloads, e.scep(), e.mdm())
	top := e.payload("Configuration", e.Identifier, e.DisplayName)
	top["PayloadScope"] = string(scope)
	top["PayloadContent"] = payloads
	if e.Description != "" {
		top["PayloadDescription"] = e.Description
	}
	raw, err := plistxml.Marshal(top)
	if err != nil {
		return nil, fmt.Errorf("enrollment profile: %w", err)
	}
	return raw, nil
}

func (e Enrollment) root(cert *x509.Certificate) map[string]any {
	sum := sha256.Sum256(cert.Raw)
	p := e.payload("com.apple.security.root", e.Identifier+".root."+hex.EncodeToString(sum[:8]), cert.Subject.CommonName)
	p["PayloadContent"] = cert.Raw
	p["PayloadCertificateFileName"] = "root.cer"
	return p
}

func (e Enrollment) scep() map[string]any {
	subject := make([]any, len(e.SCEP.Subject))
	for i, rdn := range e.SCEP.Subject {
		subject[i] = []any{[]any{rdn.Type, rdn.Value}}
	}
	keySize := e.SCEP.KeySize
	if keySize == 0 {
		keySize = 2048 // Apple's default is 1024
	}
	fingerprint := sha256.Sum256(e.SCEP.CA.Raw)
	p := e.payload("com.apple.security.scep", e.Identifier+".scep", "Device identity")
	p["PayloadUUID"] = e.SCEP.PayloadUUID
	p["PayloadContent"] = map[string]any{ // names with spaces are Apple's
		"URL":                e.SCEP.URL,
		"Name":               e.SCEP.Name,
		"Subject":            subject,
		"Challenge":          e.SCEP.Challenge,
		"Keysize":            keySize,
		"Key Type":           "RSA",
		"Key Usage":          5,              // sign and encrypt
		"CAFingerprint":      fingerprint[:], // the digest's length names SHA-256
		"Retries":            3,              // of a pending request; ours are never
		"RetryDelay":         10,             // seconds
		"KeyIsExtractable":   false,          // Apple's default is true
		"AllowAllAppsAccess": false,          // to the key, on a Mac
	}
	return p
}

func (e Enrollment) mdm() map[string]any {
	p := e.payload("com.apple.mdm", e.Identifier+".mdm", "Device management")
	p["IdentityCertificateUUID"] = e.SCEP.PayloadUUID
	p["ServerURL"] = e.ServerURL
	p["CheckInURL"] = e.CheckInURL
	p["Topic"] = e.Topic
	p["SignMessage"] = true
	p["CheckOutWhenRemoved"] = true
	// The first can't be added to an enrollment later.
	p["ServerCapabilities"] = []any{"com.apple.mdm.per-user-connections", "com.apple.mdm.bootstraptoken"}
	switch {
	case e.Mode == BYOD, e.AccessRights == NoRights: // a personal device cancels if there are any
	case e.AccessRights == 0:
		p["AccessRights"] = AllRights
	default:
		p["AccessRights"] = e.AccessRights
	}
	if e.Mode != "" {
		p["EnrollmentMode"] = string(e.Mode)
		p["AssignedManagedAppleID"] = e.ManagedAppleAccount
	}
	return p
}

// payload returns the keys that the profile and all payloads in it share (Apple's
// page "CommonPayloadKeys").
func (e Enrollment) payload(payloadType, identifier, display string) map[string]any {
	p := map[string]any{
		"PayloadType":        payloadType,
		"PayloadVersion":     1,
		"PayloadIdentifier":  identifier,
		"PayloadUUID":        derivedUUID(identifier),
		"PayloadDisplayName": display,
	}
	if e.Organization != "" {
		p["PayloadOrganization"] = e.Organization
	}
	return p
}

// derivedUUID returns a UUID that is always the same for name (RFC 9562, 5.8: its
// form is ours).
func derivedUUID(name string) string {
	sum := sha256.Sum256([]byte("gatehouse payload " + name))
	b := sum[:16]
	b[6] = b[6]&0x0f | 0x80 // version 8
	b[8] = b[8]&0x3f | 0x80 // variant
	return fmt.Sprintf("%X-%X-%X-%X-%X", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

func (e Enrollment) check() error {
	if e.Identifier == "" || e.DisplayName == "" {
		return errors.New("Identifier and DisplayName are required")
	}
	if e.Scope != "" && e.Scope != ScopeUser && e.Scope != ScopeSystem {
		return fmt.Errorf("no scope %q", e.Scope)
	}
	for _, u := range []struct{ name, url string }{
		{"ServerURL", e.ServerURL}, {"CheckInURL", e.CheckInURL}, {"SCEP.URL", e.SCEP.URL},
	} {
		if err := checkURL(u.url); err != nil {
			return fmt.Errorf("%s: %w", u.name, err)
		}
	}
	if !strings.HasPrefix(e.Topic, "com.apple.mgmt.") {
		return fmt.Errorf(`topic %q does not begin with "com.apple.mgmt."`, e.Topic)
	}
	if err := e.checkMode(); err != nil {
		return err
	}
	return e.SCEP.check()
}

func (e Enrollment) checkMode() error {
	switch {
	case e.Mode != "" && e.Mode != BYOD && e.Mode != ADDE:
		return fmt.Errorf("no enrollment mode %q", e.Mode)
	case (e.Mode == "") != (e.ManagedAppleAccount == ""):
		return errors.New("Mode and ManagedAppleAccount go together")
	case e.AccessRights == NoRights:
		return nil
	case e.Mode == BYOD && e.AccessRights != 0:
		return errors.New("a BYOD enrollment has no AccessRights")
	case e.AccessRights < 0 || e.AccessRights > AllRights:
		return fmt.Errorf("AccessRights %d is not within 1 to %d", e.AccessRights, AllRights)
	case e.AccessRights != 0 && e.AccessRights&3 != 3:
		// Without 1 and 2 no InstallProfile, and so no renewal of the identity.
		return fmt.Errorf("AccessRights %d must include 1 and 2", e.AccessRights)
	}
	return nil
}

// maxCN is where macOS cuts a common name without a word, in bytes.
const maxCN = 64

func (s SCEP) check() error {
	switch {
	case s.PayloadUUID == "" || s.Challenge == "" || s.CA == nil:
		return errors.New("SCEP.PayloadUUID, SCEP.Challenge and SCEP.CA are required")
	case s.KeySize != 0 && s.KeySize != 2048 && s.KeySize != 4096:
		return fmt.Errorf("SCEP.KeySize %d is not 2048 or 4096", s.KeySize) // 1024 is too short
	}
	named := false
	for _, rdn := range s.Subject {
		if rdn.Type == "" || rdn.Value == "" {
			return errors.New("SCEP.Subject has an empty part")
		}
		if rdn.Type == "CN" {
			named = true
			if len(rdn.Value) > maxCN {
				return fmt.Errorf("the CN of SCEP.Subject has %d bytes, at most %d", len(rdn.Value), maxCN)
			}
		}
	}
	if !named {
		return errors.New("SCEP.Subject has no CN") // a Mac would put the payload's identifier there
	}
	return nil
}

// checkURL refuses what must not stand in a profile for good: a query, which would
// name one user or one day, and credentials.
func checkURL(raw string) error {
	u, err := url.Parse(raw)
	switch {
	case err != nil:
		return errors.New("malformed URL")
	case u.Scheme != "https" && u.Scheme != "http": // http where a proxy or a test stands in front
		return fmt.Errorf("%q is no http or https URL", raw)
	case u.Host == "":
		return fmt.Errorf("%q has no host", raw)
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || u.User != nil:
		return fmt.Errorf("%q must have no query, fragment or user", raw)
	}
	return nil
}
