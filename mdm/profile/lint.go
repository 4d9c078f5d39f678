package profile

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/gatehouse-mdm/gatehouse/mdm/command"
)

// Finding is one thing about a profile that a person should know before it is sent.
type Finding struct {
	Code         string   // stable, for programs: one of the Code constants
	Severity     Severity // what comes of it
	PayloadType  string   // of the payload that is concerned; Configuration is the profile itself
	PayloadIndex int      // of that payload in PayloadContent; -1: the profile itself
	Key          string   // in that payload, "EAPClientConfiguration.AcceptEAPTypes[0]"; empty: the payload as a whole
	Platforms    []command.Platform
	Reason       string // a sentence for a person
}

// Path returns where in the profile the finding is: "PayloadContent[2].SSID_STR". It is
// empty for the profile as a whole.
func (f Finding) Path() string {
	if f.PayloadIndex < 0 {
		return f.Key
	}
	path := fmt.Sprintf("PayloadContent[%d]", f.PayloadIndex)
	if f.Key != "" {
		path += "." + f.Key
	}
	return path
}

// Severity is what comes of a Finding, where it applies (Platforms; none means all).
type Severity string

// The severities, the worst first.
const (
	SeverityError   Severity = "error"   // a device refuses the profile, or what it says can't work
	SeverityUnknown Severity = "unknown" // it depends on something that is not known of the device
	SeverityWarning Severity = "warning" // the device takes it, and does something else than was meant
	SeverityNote    Severity = "note"    // worth knowing
)

// Codes of a Finding. Those that name something of a device, and are not here, are those of
// a command.Refusal.
const (
	// Of what Apple documents of each payload.
	CodeUnknownPayload = "unknown_payload"          // a type of payload that Apple does not document
	CodeVendorPayload  = "vendor_payload"           // managed preferences of an app
	CodeUnknownKey     = "unknown_key"              // a key that Apple does not document
	CodeWrongType      = "wrong_type"               // a value of another type than Apple says
	CodeMissingKey     = "missing_key"              // a required key is not there
	CodeEmptyValue     = "empty_value"              // a required value is empty
	CodeNotInEnum      = "value_not_allowed"        // a value that is not one of those that Apple lists
	CodeOutOfRange     = "value_out_of_range"       // a number that is too small or too large
	CodeBadFormat      = "value_malformed"          // a text that is not of the form that Apple says
	CodeDeprecated     = "deprecated"               // a newer payload or key stands in its place
	CodeRemoved        = "removed"                  // newer systems no longer have it
	CodeMDMOnly        = "by_mdm_only"              // nobody can install it by hand
	CodeMultiple       = "payload_repeated"         // more than one of a payload that a device has once
	CodeNoPlatform     = "no_common_platform"       // no platform has all of its payloads
	CodeScope          = "scope_conflict"           // PayloadScope is one that a payload does not have
	CodeIgnored        = "ignored_on_personal"      // a personal device takes it and does without
	CodeUserEnrollment = command.CodeUserEnrollment // a personal device refuses it
	CodeSupervision    = command.CodeSupervision    // an unsupervised device refuses it, or does without
	CodeApproval       = command.CodeApproval       // a Mac whose enrollment nobody approved refuses it

	// Of the profile as a whole.
	CodeNoPayloads          = "no_payloads"          // there is nothing in it
	CodeDuplicateUUID       = "duplicate_uuid"       // two payloads have one PayloadUUID
	CodeDuplicateIdentifier = "duplicate_identifier" // two payloads have one PayloadIdentifier
	CodeBadUUID             = "malformed_uuid"       // a PayloadUUID is none
	CodeBadIdentifier       = "malformed_identifier" // a PayloadIdentifier that can't be relied on
	CodeExpired             = "expired"              // its date of removal has passed
	CodeConsent             = "consent_text"         // somebody is to agree to it
	CodeEnrollment          = "enrollment_profile"   // it enrolls a device
	CodeDeclarations        = "declarations"         // it carries declarations
	CodeEncrypted           = "encrypted"            // only one device can look into it
	CodeSigned              = "signed"               // somebody has signed it
	CodeSignature           = "broken_signature"     // what signed it can't be relied on
	CodeWeakSignature       = "weak_signature"       // it was signed by a method that is broken
	CodeSignerExpired       = "signer_expired"       // who signed it has no valid certificate any more
	CodeMore                = "more_findings"        // there are too many to list

	// Of what belongs together.
	CodeReference       = "missing_reference"     // a payload names another one that is not there
	CodeReferenceKind   = "wrong_reference"       // a payload names another one that is of no use for it
	CodeConflict        = "contradiction"         // two settings of which one makes the other void
	CodeIncomplete      = "incomplete"            // a setting without which another can't work
	CodeTrustsAnybody   = "trusts_any_server"     // a network that anybody can imitate
	CodeBadCertificate  = "malformed_certificate" // a certificate that can't be read
	CodeCertExpired     = "certificate_expired"   // a certificate that is not valid now
	CodeWeakCertificate = "weak_certificate"      // a key or signature that is too weak
	CodeSecret          = "secret_in_clear"       // everybody who has the profile can read a secret
)

// maxFindings is how many errors, and how many others, are listed.
const maxFindings = 500

// Lint returns what is wrong with a profile, or worth knowing, whatever the device: the
// errors of a payload before the rest. What an own device makes of it is for Check to say.
//
// It goes by Apple's tables. A Mac takes the settings of many payloads as preferences without
// looking at them, so what is wrong with a payload that only Macs have is a warning.
func (p *Profile) Lint(now time.Time) []Finding {
	l := &linter{profile: p, now: now, common: commonShape()}
	l.top()
	for _, payload := range p.Payloads {
		l.payload(payload)
	}
	l.together()
	return l.sorted()
}

// linter collects the findings on one profile.
type linter struct {
	profile *Profile
	now     time.Time
	common  *shape
	byUUID  map[string]int // index in Payloads, by PayloadUUID in capitals

	// Of the payload that is looked at.
	at     Payload // the profile itself: index -1, type Configuration
	uses   []use   // the one that is meant first
	strict bool    // devices look at it before they take it
	found  []found // in it

	secrets  []string // keys of the payload with secrets
	findings []Finding
	errors   int // of findings
	others   int
	more     int // that are not listed
}

// configurationType is the PayloadType of the profile itself.
const configurationType = "Configuration"

// found is a fact of several keys of one payload, told at once.
type found struct {
	code string
	keys []string
	on   map[command.Platform]bool
}

// add notes a finding on the payload that is looked at.
func (l *linter) add(severity Severity, code, key, format string, args ...any) {
	l.addOn(nil, severity, code, key, format, args...)
}

func (l *linter) addOn(platforms []command.Platform, severity Severity, code, key, format string, args ...any) {
	n := &l.others
	if severity == SeverityError {
		n = &l.errors
	}
	if *n++; *n > maxFindings {
		l.more++
		return
	}
	l.findings = append(l.findings, Finding{
		Code: code, Severity: severity, PayloadType: l.at.Type, PayloadIndex: l.at.Index, Key: key,
		Platforms: platforms, Reason: fmt.Sprintf(format, args...),
	})
}

// reject is the severity of what devices reject that look at the payload.
func (l *linter) reject() Severity {
	if l.strict {
		return SeverityError
	}
	return SeverityWarning
}

var order = []Severity{SeverityError, SeverityUnknown, SeverityWarning, SeverityNote}

// sorted returns the findings in the order of the payloads, each one's worst first.
func (l *linter) sorted() []Finding {
	if l.more > 0 {
		l.at = Payload{Type: configurationType, Index: -1}
		l.others = 0 // so that this is listed
		l.add(SeverityNote, CodeMore, "", "There are %d more findings like these.", l.more)
	}
	slices.SortStableFunc(l.findings, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(a.PayloadIndex, b.PayloadIndex),
			cmp.Compare(slices.Index(order, a.Severity), slices.Index(order, b.Severity)))
	})
	return l.findings
}

// place is where in a payload a value stands.
type place struct {
	in    *place
	key   string
	index int // in an array, if key is empty
}

// String returns the path: "OnDemandRules[0].Action".
func (at *place) String() string {
	if at == nil {
		return ""
	}
	if at.key == "" {
		return fmt.Sprintf("%s[%d]", at.in, at.index)
	}
	if at.in == nil {
		return clip(at.key)
	}
	return at.in.String() + "." + clip(at.key)
}

// platformNames lists platforms as in a sentence: "iOS and iPadOS, tvOS".
func platformNames(platforms []command.Platform) string {
	names := make([]string, len(platforms))
	for i, p := range platforms {
		names[i] = p.String()
	}
	return strings.Join(names, ", ")
}

// some lists the first few of many names.
func some(names []string) string {
	const few = 6
	if len(names) > few {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:few], ", "), len(names)-few)
	}
	return strings.Join(names, ", ")
}
