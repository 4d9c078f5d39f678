package profile

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
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

	// RequiredAppID is the App Store's number of an app that may be installed without asking
	// (RequiredAppIDForMDM); 0: none. It goes with a Mode and must never change.
	RequiredAppID int64

	// Token announces com.apple.mdm.token: that GetToken is answered.
	Token bool

	// ManagedAppleID makes it a User Enrollment by profile, which iOS 13.1 to 17 and macOS
	// 10.15 to 14 know and newer systems refuse. It goes with NoRights and without a Mode.
	ManagedAppleID string

	// DeviceOnly leaves com.apple.mdm.per-user-connections out. It is for a profile that takes
	// the place of another server's without it: it can't be added later.
	DeviceOnly bool

	// Roots are trusted by the device once it has the profile: what anchors the
	// server's TLS certificate, when that is not a public authority.
	Roots []*x509.Certificate

	SCEP SCEP
}

// EnrollmentIdentifier returns the PayloadIdentifier for the enrollment profile of
// a server, from the host of its URL in reverse: "com.example.mdm.gatehouse.enrollment"
// for mdm.example.com. It must stay the same for as long as devices are enrolled.
func EnrollmentIdentifier(host string) string {
	return reversed(host) + ".gatehouse.enrollment"
}

// Reserved says that the server at a host has profiles of its own under a PayloadIdentifier:
// another profile of that name would take their place on a device, or they its. So has one
// that took over MicroMDM's devices, whose enrollment profile keeps its name.
func Reserved(host, identifier string) bool {
	return strings.EqualFold(identifier, "com.github.micromdm.micromdm.enroll") ||
		strings.HasPrefix(strings.ToLower(identifier)+".", reversed(host)+".gatehouse.")
}

// reversed returns a host in reverse, as identifiers begin.
func reversed(host string) string {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if addr, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil {
		return strings.NewReplacer(".", "-", ":", "-", "%", "-").Replace(addr.String())
	}
	labels := strings.Split(host, ".")
	slices.Reverse(labels)
	return strings.Join(labels, ".")
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
	head := heading{e.Identifier, e.Organization}
	payloads := head.roots(e.Roots) // before what relies on them
	payloads = append(payloads, e.SCEP.payload(head, "Device identity"), e.mdm(head))
	top := head.payload("Configuration", e.Identifier, e.DisplayName)
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

func (e Enrollment) mdm(head heading) map[string]any {
	p := head.payload("com.apple.mdm", e.Identifier+".mdm", "Device management")
	p["IdentityCertificateUUID"] = e.SCEP.PayloadUUID
	p["ServerURL"] = e.ServerURL
	p["CheckInURL"] = e.CheckInURL
	p["Topic"] = e.Topic
	p["SignMessage"] = true
	p["CheckOutWhenRemoved"] = true
	// The first can't be added to an enrollment later.
	var capabilities []any
	if !e.DeviceOnly {
		capabilities = append(capabilities, "com.apple.mdm.per-user-connections")
	}
	if e.Mode != BYOD { // a personal device has no bootstrap token
		capabilities = append(capabilities, "com.apple.mdm.bootstraptoken")
	}
	if e.Token {
		capabilities = append(capabilities, "com.apple.mdm.token")
	}
	if len(capabilities) > 0 {
		p["ServerCapabilities"] = capabilities
	}
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
	if e.RequiredAppID != 0 {
		p["RequiredAppIDForMDM"] = e.RequiredAppID
	}
	if e.ManagedAppleID != "" {
		p["ManagedAppleID"] = e.ManagedAppleID
	}
	return p
}

func (e Enrollment) check() error {
	if e.Identifier == "" || e.DisplayName == "" {
		return errors.New("Identifier and DisplayName are required")
	}
	if e.Scope != "" && e.Scope != ScopeUser && e.Scope != ScopeSystem {
		return fmt.Errorf("no scope %q", e.Scope)
	}
	for _, u := range []struct{ name, url string }{
		{"ServerURL", e.ServerURL}, {"CheckInURL", e.CheckInURL},
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
	if e.SCEP.KeySize == 1024 {
		return errors.New("SCEP.KeySize 1024 is too short for an identity")
	}
	if e.SCEP.Challenge == "" || e.SCEP.CA == nil {
		return errors.New("SCEP.Challenge and SCEP.CA are required")
	}
	if !e.SCEP.named() {
		return errors.New("SCEP.Subject has no CN") // a Mac would put the payload's identifier there
	}
	return e.SCEP.check()
}

func (e Enrollment) checkMode() error {
	switch {
	case e.Mode != "" && e.Mode != BYOD && e.Mode != ADDE:
		return fmt.Errorf("no enrollment mode %q", e.Mode)
	case (e.Mode == "") != (e.ManagedAppleAccount == ""):
		return errors.New("Mode and ManagedAppleAccount go together")
	case e.RequiredAppID < 0 || e.RequiredAppID != 0 && e.Mode == "":
		return errors.New("RequiredAppID goes with Mode")
	case e.ManagedAppleID != "" && (e.Mode != "" || e.AccessRights != NoRights):
		return errors.New("ManagedAppleID goes with NoRights and without Mode")
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
