package mdmtest

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Rules are the circumstances that decide what a device accepts in a profile.
type Rules struct {
	Model          Model
	UserEnrollment bool
	PlainHTTP      bool   // http URLs are fine: a TLS proxy is meant to stand before the server
	AnyEnrollment  bool   // don't compare EnrollmentMode with UserEnrollment
	Mode           string // EnrollmentMode that must be there: the enrollment is account-driven
	OSVersion      string // decides which payloads the system knows; the newest when empty
	Supervised     bool
	Unapproved     bool // the Mac's user has not approved the enrollment
	User           bool // for a Mac's user, not for its system
	ByHand         bool // somebody installs it in Settings
	ByProfile      bool // the system is old enough for a User Enrollment by profile: iOS 13.1 to 17, macOS 10.15 to 14
}

// Profile is a configuration profile that a device would install.
type Profile struct {
	Raw          []byte
	Identifier   string
	UUID         string
	Name         string
	Scope        string            // "System", "User" or ""
	Signer       *x509.Certificate // nil when the profile is not signed
	MDM          MDMPayload        // of an enrollment profile
	Fixed        bool              // PayloadRemovalDisallowed, where the system heeds it
	SCEP         SCEPPayload       // the identity's in an enrollment profile, else the first
	SCEPs        []SCEPPayload     // all of them
	PKCS12s      []PKCS12Payload
	Certificates []*x509.Certificate // of certificate payloads
	Roots        []*x509.Certificate // those among them that TLS trusts afterwards
	Payloads     []Dict              // without those that the device leaves out

	top Dict
}

const topicPrefix = "com.apple.mgmt."

// MDMPayload is com.apple.mdm (PROTOCOL 3.2).
type MDMPayload struct {
	IdentityCertificateUUID string
	Topic                   string
	ServerURL               string
	CheckInURL              string // ServerURL when the payload has none
	SignMessage             bool
	AccessRights            int64 // 0 in BYOD
	AssignedManagedAppleID  string
	ManagedAppleID          string // of a User Enrollment by profile
	EnrollmentMode          string // "BYOD", "ADDE" or ""
	ServerCapabilities      []string
	CheckOutWhenRemoved     bool
	RequiredAppIDForMDM     int64
}

// PerUser reports whether the server takes user channels.
func (m MDMPayload) PerUser() bool {
	return slices.Contains(m.ServerCapabilities, "com.apple.mdm.per-user-connections")
}

// SCEPPayload is com.apple.security.scep (PROTOCOL 3.4).
type SCEPPayload struct {
	Identifier    string
	UUID          string
	URL           string
	Name          string
	Subject       Subject
	Challenge     string
	Keysize       int64
	KeyUsage      int64
	CAFingerprint []byte
	Retries       int
	RetryDelay    time.Duration
	Email         []string // SubjectAltName
	DNS           []string
	URI           []string
	UPN           string
	Extractable   bool
	AllAppsAccess bool
}

// PKCS12Payload is com.apple.security.pkcs12: an identity made elsewhere.
type PKCS12Payload struct {
	Identifier    string
	UUID          string
	Certificate   *x509.Certificate
	Key           crypto.Signer
	Others        []*x509.Certificate // that came with the identity
	Extractable   bool
	AllAppsAccess bool
}

// openProfile returns the property list in a profile, signed or not, and who
// signed it. Devices refuse a broken signature; an unknown signer only shows.
func openProfile(data []byte) (Dict, *x509.Certificate, error) {
	var signer *x509.Certificate
	content := data
	if !bytes.HasPrefix(bytes.TrimLeft(data, " \t\r\n\xef\xbb\xbf"), []byte("<")) {
		sd, err := parseSignedData(data)
		if err != nil {
			return nil, nil, fmt.Errorf("profile: neither XML nor signed: %w", err)
		}
		if sd.detached || sd.contentType != oidData {
			return nil, nil, errors.New("profile: signed without content")
		}
		if _, signer, err = sd.verify(sd.content); err != nil {
			return nil, nil, fmt.Errorf("profile: %w", err)
		}
		content = sd.content
	}
	v, err := UnmarshalPlist(content)
	if err != nil {
		return nil, nil, fmt.Errorf("profile: %w", err)
	}
	d, ok := v.(Dict)
	if !ok {
		return nil, nil, errors.New("profile: not a dictionary")
	}
	return d, signer, nil
}

// ParseProfile reads an enrollment profile and applies the rules of PROTOCOL 3.1
// to 3.4. Its error says why a device would not install it.
func ParseProfile(data []byte, rules Rules) (*Profile, error) {
	d, signer, err := openProfile(data)
	if err != nil {
		return nil, err
	}
	p := &Profile{Raw: bytes.Clone(data), Signer: signer}
	if err := p.read(d, rules); err != nil {
		return nil, fmt.Errorf("enrollment profile: %w", err)
	}
	if err := p.readMDM(rules); err != nil {
		return nil, fmt.Errorf("enrollment profile: %w", err)
	}
	return p, nil
}

// ParseConfiguration reads any profile and applies the rules of PROTOCOL 3.1, 3.4
// and 3.8. Its error says why a device would not install it.
func ParseConfiguration(data []byte, rules Rules) (*Profile, error) {
	d, signer, err := openProfile(data)
	if err != nil {
		return nil, err
	}
	p := &Profile{Raw: bytes.Clone(data), Signer: signer}
	if err := p.read(d, rules); err != nil {
		return nil, fmt.Errorf("profile: %w", err)
	}
	return p, nil
}

// read reads what any profile may hold.
func (p *Profile) read(d Dict, rules Rules) error {
	f := fields{dict: d}
	p.top = d
	if f.dict["EncryptedPayloadContent"] != nil {
		return errors.New("encrypted for another identity")
	}
	p.Identifier, p.UUID = f.payload("Configuration")
	p.Name = f.string("PayloadDisplayName")
	p.Scope = f.string("PayloadScope")
	target := f.int("TargetDeviceType", 0)
	content := f.dicts("PayloadContent")
	removalDisallowed := f.bool("PayloadRemovalDisallowed")
	switch {
	case f.err != nil:
		return f.err
	case len(content) == 0:
		return errors.New("PayloadContent is empty")
	case p.Scope != "" && p.Scope != "System" && p.Scope != "User":
		return fmt.Errorf("PayloadScope %q", p.Scope)
	case rules.UserEnrollment && removalDisallowed:
		return errors.New("PayloadRemovalDisallowed is forbidden in a User Enrollment")
	case target != 0 && target != rules.Model.target():
		return fmt.Errorf("TargetDeviceType %d is not this %s", target, rules.Model)
	}
	p.Fixed = removalDisallowed && (rules.Supervised || rules.Model == Mac)
	if err := p.payloads(content, rules); err != nil {
		return err
	}
	if err := p.certificates(); err != nil {
		return err
	}
	return p.identities()
}

// readMDM reads what makes p an enrollment profile.
func (p *Profile) readMDM(rules Rules) error {
	mdm := p.ofType("com.apple.mdm")
	if len(mdm) != 1 {
		return fmt.Errorf("%d com.apple.mdm payloads, want exactly one", len(mdm))
	}
	if err := p.MDM.read(mdm[0], rules); err != nil {
		return fmt.Errorf("com.apple.mdm: %w", err)
	}
	identity := slices.IndexFunc(p.Payloads, func(d Dict) bool { return d["PayloadUUID"] == p.MDM.IdentityCertificateUUID })
	if identity < 0 {
		return errors.New("IdentityCertificateUUID names no payload of the profile")
	}
	if t := p.Payloads[identity]["PayloadType"]; t != "com.apple.security.scep" {
		return fmt.Errorf("identity comes from %v; this device knows com.apple.security.scep only", t)
	}
	for _, scep := range p.SCEPs {
		if scep.UUID == p.MDM.IdentityCertificateUUID {
			p.SCEP = scep
		}
	}
	return nil
}

// payloads checks what every payload needs and keeps those that the system knows and the
// enrollment allows.
func (p *Profile) payloads(content []Dict, rules Rules) error {
	seen := map[string]bool{}
	var skipped error
	for i, d := range content {
		f := fields{dict: d}
		identifier, uuid := f.payload("")
		kind := f.string("PayloadType")
		switch {
		case f.err != nil:
			return fmt.Errorf("payload %d: %w", i, f.err)
		case seen["i"+identifier] || seen["u"+uuid]:
			return fmt.Errorf("payload %d: PayloadIdentifier or PayloadUUID repeats", i)
		}
		seen["i"+identifier], seen["u"+uuid] = true, true
		switch err := rules.accept(kind); {
		case errors.Is(err, errForeign), errors.Is(err, errForbidden) && rules.Model == Mac: // PROTOCOL 3.8
			skipped = fmt.Errorf("payload %s %w", kind, err)
			continue
		case err != nil:
			return fmt.Errorf("payload %s %w", kind, err)
		}
		p.Payloads = append(p.Payloads, d)
	}
	if len(p.Payloads) == 0 {
		return fmt.Errorf("nothing is left of it: %w", skipped)
	}
	return nil
}

// certificates reads the certificate payloads; Apple installs them first.
func (p *Profile) certificates() error {
	for _, d := range p.Payloads {
		f := fields{dict: d}
		kind := f.string("PayloadType")
		switch kind {
		case "com.apple.security.root", "com.apple.security.pkcs1", "com.apple.security.pem":
		default:
			continue
		}
		data := f.data("PayloadContent")
		if f.err != nil {
			return fmt.Errorf("%s: %w", kind, f.err)
		}
		ders := [][]byte{data}
		if kind == "com.apple.security.pem" || bytes.HasPrefix(data, []byte("-----BEGIN")) {
			ders = nil
			for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
				ders = append(ders, block.Bytes)
			}
			if len(ders) == 0 {
				return fmt.Errorf("%s: no PEM certificate", kind)
			}
		}
		for _, raw := range ders {
			cert, err := x509.ParseCertificate(raw)
			if err != nil {
				return fmt.Errorf("%s: %w", kind, err)
			}
			p.Certificates = append(p.Certificates, cert)
			if cert.IsCA && bytes.Equal(cert.RawIssuer, cert.RawSubject) {
				p.Roots = append(p.Roots, cert)
			}
		}
	}
	return nil
}

// identities reads the payloads that bring a certificate with its key.
func (p *Profile) identities() error {
	for _, d := range p.ofType("com.apple.security.scep") {
		var scep SCEPPayload
		if err := scep.read(d); err != nil {
			return fmt.Errorf("com.apple.security.scep: %w", err)
		}
		p.SCEPs = append(p.SCEPs, scep)
	}
	for _, d := range p.ofType("com.apple.security.pkcs12") {
		var identity PKCS12Payload
		if err := identity.read(d); err != nil {
			return fmt.Errorf("com.apple.security.pkcs12: %w", err)
		}
		p.PKCS12s = append(p.PKCS12s, identity)
	}
	if len(p.SCEPs) > 0 {
		p.SCEP = p.SCEPs[0]
	}
	return nil
}

func (p *Profile) ofType(kind string) []Dict {
	var list []Dict
	for _, d := range p.Payloads {
		if d["PayloadType"] == kind {
			list = append(list, d)
		}
	}
	return list
}

func (m *MDMPayload) read(d Dict, rules Rules) error {
	f := fields{dict: d}
	*m = MDMPayload{
		IdentityCertificateUUID: f.required("IdentityCertificateUUID"),
		Topic:                   f.required("Topic"),
		ServerURL:               f.required("ServerURL"),
		CheckInURL:              f.string("CheckInURL"),
		SignMessage:             f.bool("SignMessage"),
		AccessRights:            f.int("AccessRights", 0),
		AssignedManagedAppleID:  f.string("AssignedManagedAppleID"),
		EnrollmentMode:          f.string("EnrollmentMode"),
		ManagedAppleID:          f.string("ManagedAppleID"),
		ServerCapabilities:      f.strings("ServerCapabilities"),
		CheckOutWhenRemoved:     f.bool("CheckOutWhenRemoved"),
		RequiredAppIDForMDM:     f.int("RequiredAppIDForMDM", 0),
	}
	f.bool("UseDevelopmentAPNS")
	if m.CheckInURL == "" {
		m.CheckInURL = m.ServerURL
	}
	byod := m.EnrollmentMode == "BYOD" || m.ManagedAppleID != ""
	switch {
	case f.err != nil:
		return f.err
	case !strings.HasPrefix(m.Topic, topicPrefix):
		return fmt.Errorf("the Topic %q does not start with %s", m.Topic, topicPrefix)
	case d["ManagedAppleID"] != nil && !rules.ByProfile:
		return errors.New("ManagedAppleID was removed with iOS 18 and macOS 15")
	case d["ManagedAppleID"] != nil && m.EnrollmentMode != "":
		return errors.New("ManagedAppleID together with EnrollmentMode")
	case !slices.Contains([]string{"", "BYOD", "ADDE"}, m.EnrollmentMode):
		return fmt.Errorf("EnrollmentMode %q", m.EnrollmentMode)
	case rules.Mode != "" && m.EnrollmentMode == "":
		return errors.New("EnrollmentMode is missing")
	case m.EnrollmentMode != "" && m.AssignedManagedAppleID == "":
		return errors.New("EnrollmentMode without AssignedManagedAppleID")
	case m.EnrollmentMode != "" && !isAddress(m.AssignedManagedAppleID):
		return fmt.Errorf("AssignedManagedAppleID %q is no address", m.AssignedManagedAppleID)
	case byod && d["AccessRights"] != nil:
		return errors.New("AccessRights must be absent with EnrollmentMode BYOD")
	case rules.Mode != "" && m.EnrollmentMode != rules.Mode && !rules.AnyEnrollment:
		return fmt.Errorf("EnrollmentMode %q, discovery found %s", m.EnrollmentMode, rules.Mode)
	case byod != rules.UserEnrollment && !rules.AnyEnrollment:
		return fmt.Errorf("EnrollmentMode %q, and the device is in a User Enrollment: %t", m.EnrollmentMode, rules.UserEnrollment)
	case !byod:
		if err := checkRights(m.AccessRights); err != nil {
			return err
		}
	}
	for key, u := range map[string]string{"ServerURL": m.ServerURL, "CheckInURL": m.CheckInURL} {
		if err := checkURL(u, rules.PlainHTTP); err != nil {
			return fmt.Errorf("%s: %w", key, err)
		}
	}
	return nil
}

// isAddress reports whether s has the form of a Managed Apple Account.
func isAddress(s string) bool {
	local, domain, ok := strings.Cut(s, "@")
	return ok && local != "" && isFQDN(local+"."+domain) && isFQDN(domain)
}

// checkRights holds what PROTOCOL 3.3 says of the bits.
func checkRights(rights int64) error {
	switch {
	case rights <= 0 || rights > 8191:
		return fmt.Errorf("AccessRights %d, want 1 to 8191", rights)
	case rights&2 != 0 && rights&1 == 0:
		return errors.New("AccessRights 2 needs 1")
	case rights&128 != 0 && rights&64 == 0:
		return errors.New("AccessRights 128 needs 64")
	}
	return nil
}

func checkURL(raw string, plainHTTP bool) error {
	u, err := url.Parse(raw)
	switch {
	case err != nil:
		return err
	case u.Host == "":
		return fmt.Errorf("%q has no host", raw)
	case u.Scheme != "https" && (u.Scheme != "http" || !plainHTTP):
		return fmt.Errorf("%q is not https", raw)
	}
	return nil
}

func (s *SCEPPayload) read(d Dict) error {
	outer := fields{dict: d}
	f := fields{dict: outer.dictionary("PayloadContent")}
	if outer.err != nil {
		return outer.err
	}
	for _, wrong := range []string{"KeyType", "KeyUsage", "KeySize"} {
		if f.dict[wrong] != nil {
			return fmt.Errorf("key %q is not Apple's spelling", wrong)
		}
	}
	*s = SCEPPayload{
		Identifier:    outer.string("PayloadIdentifier"),
		UUID:          outer.string("PayloadUUID"),
		URL:           f.required("URL"),
		Name:          f.string("Name"),
		Challenge:     f.string("Challenge"),
		Keysize:       f.int("Keysize", 1024),
		KeyUsage:      f.int("Key Usage", 0),
		CAFingerprint: f.data("CAFingerprint"),
		Retries:       int(f.int("Retries", 3)),
		RetryDelay:    time.Duration(f.int("RetryDelay", 10)) * time.Second,
		Subject:       f.subject("Subject"),
		Extractable:   f.boolean("KeyIsExtractable", true),
		AllAppsAccess: f.bool("AllowAllAppsAccess"),
	}
	keyType := f.string("Key Type")
	alt := fields{dict: f.dictionary("SubjectAltName")}
	s.Email, s.DNS = alt.oneOrMore("rfc822Name"), alt.oneOrMore("dNSName")
	s.URI, s.UPN = alt.oneOrMore("uniformResourceIdentifier"), alt.string("ntPrincipalName")
	if f.err == nil {
		f.err = alt.err
	}
	switch {
	case f.err != nil:
		return f.err
	case keyType != "" && keyType != "RSA":
		return fmt.Errorf("Key Type %q, want RSA", keyType)
	case s.Keysize != 2048 && s.Keysize != 4096:
		return fmt.Errorf("a Keysize of %d, want 2048 or 4096", s.Keysize)
	case !slices.Contains([]int64{0, 1, 4, 5}, s.KeyUsage):
		return fmt.Errorf("Key Usage %d", s.KeyUsage)
	}
	return checkURL(s.URL, true)
}

func (p *PKCS12Payload) read(d Dict) error {
	f := fields{dict: d}
	*p = PKCS12Payload{
		Identifier:    f.string("PayloadIdentifier"),
		UUID:          f.string("PayloadUUID"),
		Extractable:   f.boolean("KeyIsExtractable", true),
		AllAppsAccess: f.bool("AllowAllAppsAccess"),
	}
	data, password := f.data("PayloadContent"), f.string("Password")
	if f.err != nil {
		return f.err
	}
	var err error
	p.Key, p.Certificate, p.Others, err = openPKCS12(data, password)
	return err
}

// fields reads typed values of a dictionary and remembers the first that has
// the wrong type.
type fields struct {
	dict Dict
	err  error
}

func field[T any](f *fields, key string) (v T) {
	raw, there := f.dict[key]
	if !there {
		return v
	}
	v, ok := raw.(T)
	if !ok && f.err == nil {
		f.err = fmt.Errorf("%s is a %T", key, raw)
	}
	return v
}

func (f *fields) string(key string) string   { return field[string](f, key) }
func (f *fields) bool(key string) bool       { return field[bool](f, key) }
func (f *fields) data(key string) []byte     { return field[[]byte](f, key) }
func (f *fields) dictionary(key string) Dict { return field[Dict](f, key) }

func (f *fields) int(key string, absent int64) int64 {
	if f.dict[key] == nil {
		return absent
	}
	return field[int64](f, key)
}

func (f *fields) boolean(key string, absent bool) bool {
	if f.dict[key] == nil {
		return absent
	}
	return f.bool(key)
}

func (f *fields) required(key string) string {
	s := f.string(key)
	if s == "" && f.err == nil {
		f.err = fmt.Errorf("%s is missing", key)
	}
	return s
}

func (f *fields) strings(key string) []string {
	return listOf[string](f, key)
}

func (f *fields) dicts(key string) []Dict {
	return listOf[Dict](f, key)
}

func listOf[T any](f *fields, key string) []T {
	var list []T
	for i, raw := range field[[]any](f, key) {
		v, ok := raw.(T)
		if !ok && f.err == nil {
			f.err = fmt.Errorf("%s[%d] is a %T", key, i, raw)
		}
		list = append(list, v)
	}
	return list
}

func (f *fields) oneOrMore(key string) []string {
	if s, ok := f.dict[key].(string); ok {
		return []string{s}
	}
	return f.strings(key)
}

// payload reads what every payload has. An empty kind takes any type.
func (f *fields) payload(kind string) (identifier, uuid string) {
	if got := f.required("PayloadType"); kind != "" && got != kind && f.err == nil {
		f.err = fmt.Errorf("PayloadType %q, want %s", got, kind)
	}
	if v := f.int("PayloadVersion", 0); v != 1 && f.err == nil {
		f.err = fmt.Errorf("PayloadVersion %d, want 1", v)
	}
	return f.required("PayloadIdentifier"), f.required("PayloadUUID")
}

// subject reads [[[type, value]], …], one inner array for each RDN.
func (f *fields) subject(key string) Subject {
	var s Subject
	fail := func() Subject {
		if f.err == nil {
			f.err = fmt.Errorf("%s is not an array of arrays of pairs", key)
		}
		return nil
	}
	for _, rdn := range field[[]any](f, key) {
		pairs, ok := rdn.([]any)
		if !ok || len(pairs) == 0 {
			return fail()
		}
		var list [][2]string
		for _, raw := range pairs {
			pair, ok := raw.([]any)
			if !ok || len(pair) != 2 {
				return fail()
			}
			name, isName := pair[0].(string)
			value, isValue := pair[1].(string)
			if !isName || !isValue {
				return fail()
			}
			list = append(list, [2]string{name, value})
		}
		if len(list) > 1 {
			return fail() // all RDNs in one array: the mistake of some examples
		}
		s = append(s, list)
	}
	return s
}

// refusedPayload is why a device does not take a payload, with the code that it gives.
type refusedPayload struct {
	code int // of MCInstallationErrorDomain
	text string
}

func (e *refusedPayload) Error() string { return e.text }

var (
	errForbidden   = &refusedPayload{4023, "is forbidden in a User Enrollment"}
	errForeign     = &refusedPayload{4023, "is not for this system"}
	errSupervised  = &refusedPayload{4025, "needs a supervised device"}
	errOwnersOnly  = &refusedPayload{4022, "must be installed by MDM"}
	errUnapproved  = &refusedPayload{4023, "needs an enrollment that the user approved"}
	errOtherScope  = &refusedPayload{4031, "belongs on the other channel"}
	errDeclaration = &refusedPayload{4023, "does not come by InstallProfile"}
)

// accept says why a device does not take a type of payload, or returns nil. What no table of
// Apple's knows is some app's own, and is taken outside of a User Enrollment. A type that
// Apple has for other systems only, or for other versions, has no effect: a device does
// without it.
func (r Rules) accept(kind string) error {
	uses := documented().payloads[kind]
	switch kind {
	case "com.apple.declarations":
		return errDeclaration
	case "com.apple.mdm": // a Watch that enrols becomes supervised
		return nil
	}
	if len(uses) == 0 && !r.UserEnrollment {
		return nil
	}
	// Where a type has several uses, the one that comes furthest counts.
	because := errForeign
	if r.UserEnrollment {
		because = errForbidden
	}
	for _, use := range uses {
		here, ok := use.on[r.Model.letter()]
		switch {
		case !ok || !here.versioned(r.OSVersion):
		case r.UserEnrollment && !here.inUserEnrollment(r.OSVersion):
			because = errForbidden
		case here.supervised && !r.Supervised:
			because = errSupervised
		case here.mdmOnly && r.ByHand:
			because = errOwnersOnly
		case here.approved && r.Unapproved:
			because = errUnapproved
		case r.Model == Mac && (r.User && !here.user && !here.userOnly || !r.User && here.userOnly):
			because = errOtherScope
		default:
			return nil
		}
	}
	return because
}

// extensions are what the payload asks to be in the certificate.
func (s SCEPPayload) extensions() []pkix.Extension {
	list := []pkix.Extension{keyUsageExtension(s.KeyUsage)}
	if len(s.Email)+len(s.DNS)+len(s.URI) > 0 || s.UPN != "" {
		list = append(list, altNameExtension(s.Email, s.DNS, s.URI, s.UPN))
	}
	return list
}
