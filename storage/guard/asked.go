package guard

import (
	"crypto/x509"
	"encoding/asn1"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// Asked is what a certificate request (PKCS #10) asks for. Nothing that would show
// in a certificate is left out: what has no field of its own is named in
// Names.Others and Extensions, for the caller to refuse or to ignore knowingly.
//
// It is a wish. Nothing of it is true because it is here.
type Asked struct {
	Subject    Name
	RawSubject []byte // in DER, as it came
	Names      AlternativeNames

	KeyUsage    x509.KeyUsage // 0: none is asked for
	ExtKeyUsage []asn1.ObjectIdentifier
	CA          bool // wants to be an authority

	Template  string // Microsoft's certificate template: its name, or its OID in dotted form
	Challenge string // challengePassword (RFC 2985, 5.4.1)

	// Extensions are those that this package can't read, and Attributes those of the
	// request that are neither extensions nor the challenge, each in its order.
	Extensions []asn1.ObjectIdentifier
	Attributes []asn1.ObjectIdentifier
}

// Name is a distinguished name, in the order in which it is encoded.
type Name []RDN

// RDN is a relative distinguished name: nearly always one attribute.
type RDN []NameAttribute

// NameAttribute is one part of a name. Value is text whatever string type it had.
type NameAttribute struct {
	Type  asn1.ObjectIdentifier
	Value string
}

// Equal reports whether both names have the same attributes with the same values in
// the same order. The case of letters counts; the type of string does not.
func (n Name) Equal(other Name) bool {
	return slices.EqualFunc(n, other, func(a, b RDN) bool {
		return slices.EqualFunc(a, b, func(a, b NameAttribute) bool {
			return a.Type.Equal(b.Type) && a.Value == b.Value
		})
	})
}

// Values returns the values of all attributes of a type, in their order.
func (n Name) Values(t asn1.ObjectIdentifier) (values []string) {
	for _, rdn := range n {
		for _, a := range rdn {
			if a.Type.Equal(t) {
				values = append(values, a.Value)
			}
		}
	}
	return values
}

// AlternativeNames are subject alternative names (RFC 5280, 4.2.1.6).
type AlternativeNames struct {
	EmailAddresses     []string
	DNSNames           []string
	URIs               []string
	IPs                []netip.Addr
	UserPrincipalNames []string // otherName 1.3.6.1.4.1.311.20.2.3, Microsoft's

	// Others says of what kind each of the other names is: "directoryName",
	// "registeredID", "x400Address", "ediPartyName", or "otherName" and its OID.
	Others []string
}

// Count returns how many names there are, of all kinds.
func (n AlternativeNames) Count() int {
	return len(n.EmailAddresses) + len(n.DNSNames) + len(n.URIs) + len(n.IPs) + len(n.UserPrincipalNames) + len(n.Others)
}

// Equal reports whether both have the same names, in whatever order. Names in Others
// are never the same: what they say is not known.
func (n AlternativeNames) Equal(other AlternativeNames) bool {
	return len(n.Others) == 0 && len(other.Others) == 0 &&
		sameSet(n.EmailAddresses, other.EmailAddresses, strings.Compare) &&
		sameSet(n.DNSNames, other.DNSNames, strings.Compare) &&
		sameSet(n.URIs, other.URIs, strings.Compare) &&
		sameSet(n.IPs, other.IPs, netip.Addr.Compare) &&
		sameSet(n.UserPrincipalNames, other.UserPrincipalNames, strings.Compare)
}

func sameSet[T comparable](a, b []T, compare func(T, T) int) bool {
	return slices.Equal(slices.SortedFunc(slices.Values(a), compare), slices.SortedFunc(slices.Values(b), compare))
}

// PartError says which part of a certificate request is malformed or beyond its
// limits. It is an [ErrCertificate].
type PartError struct {
	Part   string // "csr", "subject", "san", "key_usage", "ext_key_usage", "basic_constraints", "template", "challenge_password", "attributes" or "extensions"
	Reason string // "is there twice"
}

func (e *PartError) Error() string { return fmt.Sprintf("%v: %s %s", ErrCertificate, e.Part, e.Reason) }

// Unwrap makes it an ErrCertificate.
func (e *PartError) Unwrap() error { return ErrCertificate }

// Object identifiers of what is read from requests.
var (
	oidExtensionRequest   = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 14}     // RFC 2985, 5.4.2
	oidMSExtensionRequest = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 311, 2, 1, 14} // szOID_CERT_EXTENSIONS
	oidChallengePassword  = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 7}      // RFC 2985, 5.4.1
	oidSubjectAltName     = asn1.ObjectIdentifier{2, 5, 29, 17}                    // RFC 5280, 4.2.1.6
	oidSubjectKeyID       = asn1.ObjectIdentifier{2, 5, 29, 14}                    // RFC 5280, 4.2.1.2
	oidKeyUsage           = asn1.ObjectIdentifier{2, 5, 29, 15}                    // RFC 5280, 4.2.1.3
	oidExtKeyUsage        = asn1.ObjectIdentifier{2, 5, 29, 37}                    // RFC 5280, 4.2.1.12
	oidBasicConstraints   = asn1.ObjectIdentifier{2, 5, 29, 19}                    // RFC 5280, 4.2.1.9
	oidMSTemplateName     = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 311, 20, 2}    // szOID_ENROLL_CERTTYPE_EXTENSION
	oidMSTemplate         = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 311, 21, 7}    // szOID_CERTIFICATE_TEMPLATE
	oidUPN                = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 311, 20, 2, 3} // szOID_NT_PRINCIPAL_NAME
)

// AskedBy reads what a request asks for, strictly: what is there twice, has
// something after its end, or is encoded otherwise than its standard says is a
// [PartError], and so is text with control characters in it. csr is one that ParseCSR
// returned; whether its signature and key are right is for CheckCSR to say.
//
// The subject key identifier that some clients ask for is ignored: it follows from
// the key.
func AskedBy(csr *x509.CertificateRequest) (asked Asked, err error) {
	defer refuse(ErrCertificate, &err)
	asked.RawSubject = csr.RawSubject
	if asked.Subject, err = readName(csr.RawSubject); err != nil {
		return Asked{}, err
	}
	attrs, err := CSRAttributes(csr)
	if err != nil {
		return Asked{}, &PartError{"attributes", "are not built as those of a request are"}
	}
	var extensions []byte
	seen := map[string]bool{}
	for _, a := range attrs {
		if seen[a.Type.String()] {
			return Asked{}, &PartError{"attributes", "hold one twice"}
		}
		seen[a.Type.String()] = true
		switch {
		case a.Type.Equal(oidExtensionRequest), a.Type.Equal(oidMSExtensionRequest):
			if len(a.Values) != 1 || extensions != nil {
				return Asked{}, &PartError{"extensions", "must be one list"}
			}
			extensions = a.Values[0]
		case a.Type.Equal(oidChallengePassword):
			if len(a.Values) != 1 {
				return Asked{}, &PartError{"challenge_password", "must be one"}
			}
			var ok bool
			if asked.Challenge, ok = readWholeText(a.Values[0]); !ok {
				return Asked{}, &PartError{"challenge_password", "is no text"}
			}
		default:
			asked.Attributes = append(asked.Attributes, a.Type)
		}
	}
	if extensions != nil {
		if err := asked.readExtensions(extensions); err != nil {
			return Asked{}, err
		}
	}
	return asked, nil
}

// NamesOf reads the names in a certificate as AskedBy does those in a request.
func NamesOf(cert *x509.Certificate) (subject Name, names AlternativeNames, err error) {
	defer refuse(ErrCertificate, &err)
	if subject, err = readName(cert.RawSubject); err != nil {
		return nil, AlternativeNames{}, err
	}
	for _, ext := range cert.Extensions { // crypto/x509 lets none be there twice
		if ext.Id.Equal(oidSubjectAltName) {
			if names, err = readAlternativeNames(ext.Value); err != nil {
				return nil, AlternativeNames{}, err
			}
		}
	}
	return subject, names, nil
}

// readExtensions reads Extensions (RFC 5280, 4.1).
func (asked *Asked) readExtensions(der []byte) error {
	malformed := &PartError{"extensions", "are not built as extensions are"}
	in := cryptobyte.String(der)
	var list cryptobyte.String
	if !in.ReadASN1(&list, cbasn1.SEQUENCE) || !in.Empty() {
		return malformed
	}
	seen := map[string]bool{}
	for !list.Empty() {
		var ext, value cryptobyte.String
		var id asn1.ObjectIdentifier
		var critical bool // says what a reader of the certificate must do, and nothing to us
		if !list.ReadASN1(&ext, cbasn1.SEQUENCE) || !ext.ReadASN1ObjectIdentifier(&id) ||
			ext.PeekASN1Tag(cbasn1.BOOLEAN) && !ext.ReadASN1Boolean(&critical) ||
			!ext.ReadASN1(&value, cbasn1.OCTET_STRING) || !ext.Empty() {
			return malformed
		}
		if seen[id.String()] {
			return &PartError{"extensions", "hold one twice"}
		}
		seen[id.String()] = true
		if len(seen) > maxCSRParts {
			return &PartError{"extensions", fmt.Sprintf("are more than %d", maxCSRParts)}
		}
		if err := asked.readExtension(id, value); err != nil {
			return err
		}
	}
	return nil
}

func (asked *Asked) readExtension(id asn1.ObjectIdentifier, value []byte) (err error) {
	switch {
	case id.Equal(oidSubjectAltName):
		asked.Names, err = readAlternativeNames(value)
	case id.Equal(oidKeyUsage):
		asked.KeyUsage, err = readKeyUsage(value)
	case id.Equal(oidExtKeyUsage):
		asked.ExtKeyUsage, err = readExtKeyUsage(value)
	case id.Equal(oidBasicConstraints):
		asked.CA, err = readBasicConstraints(value)
	case id.Equal(oidMSTemplateName), id.Equal(oidMSTemplate):
		if asked.Template != "" {
			return &PartError{"template", "is there twice"}
		}
		asked.Template, err = readMSTemplate(id, value)
	case id.Equal(oidSubjectKeyID):
	default:
		asked.Extensions = append(asked.Extensions, id)
	}
	return err
}

// readName reads a Name (RFC 5280, 4.1.2.4).
func readName(der []byte) (Name, error) {
	malformed := &PartError{"subject", "is not built as a name is"}
	in := cryptobyte.String(der)
	var rdns cryptobyte.String
	if !in.ReadASN1(&rdns, cbasn1.SEQUENCE) || !in.Empty() {
		return nil, malformed
	}
	var name Name
	count := 0
	for !rdns.Empty() {
		var set cryptobyte.String
		if !rdns.ReadASN1(&set, cbasn1.SET) || set.Empty() {
			return nil, malformed
		}
		var rdn RDN
		for !set.Empty() {
			var pair, value cryptobyte.String
			var tag cbasn1.Tag
			var a NameAttribute
			if !set.ReadASN1(&pair, cbasn1.SEQUENCE) || !pair.ReadASN1ObjectIdentifier(&a.Type) ||
				!pair.ReadAnyASN1(&value, &tag) || !pair.Empty() {
				return nil, malformed
			}
			var ok bool
			if a.Value, ok = readText(tag, value); !ok {
				return nil, &PartError{"subject", "has a value that is no text of a kind that names are made of"}
			}
			if count++; count > maxCSRParts {
				return nil, &PartError{"subject", fmt.Sprintf("has more than %d attributes", maxCSRParts)}
			}
			rdn = append(rdn, a)
		}
		name = append(name, rdn)
	}
	return name, nil
}

// Tags of GeneralName (RFC 5280, 4.2.1.6).
const (
	tagOtherName     = cbasn1.Tag(0 | 0x80 | 0x20)
	tagEmail         = cbasn1.Tag(1 | 0x80)
	tagDNS           = cbasn1.Tag(2 | 0x80)
	tagX400          = cbasn1.Tag(3 | 0x80 | 0x20)
	tagDirectoryName = cbasn1.Tag(4 | 0x80 | 0x20)
	tagEDIParty      = cbasn1.Tag(5 | 0x80 | 0x20)
	tagURI           = cbasn1.Tag(6 | 0x80)
	tagIP            = cbasn1.Tag(7 | 0x80)
	tagRegisteredID  = cbasn1.Tag(8 | 0x80)
)

// readAlternativeNames reads GeneralNames.
func readAlternativeNames(der []byte) (names AlternativeNames, err error) {
	malformed := &PartError{"san", "is not built as names are"}
	in := cryptobyte.String(der)
	var list cryptobyte.String
	if !in.ReadASN1(&list, cbasn1.SEQUENCE) || !in.Empty() {
		return AlternativeNames{}, malformed
	}
	for !list.Empty() {
		var value cryptobyte.String
		var tag cbasn1.Tag
		if !list.ReadAnyASN1(&value, &tag) {
			return AlternativeNames{}, malformed
		}
		if err := names.read(tag, value); err != nil {
			return AlternativeNames{}, err
		}
		if names.Count() > maxCSRParts {
			return AlternativeNames{}, &PartError{"san", fmt.Sprintf("has more than %d names", maxCSRParts)}
		}
	}
	return names, nil
}

// read adds one GeneralName.
func (n *AlternativeNames) read(tag cbasn1.Tag, value cryptobyte.String) error {
	ascii := func(list *[]string, what string) error {
		text, ok := readText(cbasn1.IA5String, value)
		if !ok || text == "" {
			return &PartError{"san", "has " + what + " that is empty or not ASCII"}
		}
		*list = append(*list, text)
		return nil
	}
	switch tag {
	case tagEmail:
		return ascii(&n.EmailAddresses, "an e-mail address")
	case tagDNS:
		return ascii(&n.DNSNames, "a DNS name")
	case tagURI:
		return ascii(&n.URIs, "a URI")
	case tagIP:
		addr, ok := netip.AddrFromSlice(value)
		if !ok {
			return &PartError{"san", "has an IP address that is none"}
		}
		n.IPs = append(n.IPs, addr)
	case tagOtherName:
		return n.readOtherName(value)
	case tagX400:
		n.Others = append(n.Others, "x400Address")
	case tagDirectoryName:
		n.Others = append(n.Others, "directoryName")
	case tagEDIParty:
		n.Others = append(n.Others, "ediPartyName")
	case tagRegisteredID:
		n.Others = append(n.Others, "registeredID")
	default:
		return &PartError{"san", "has a name of a kind that does not exist"}
	}
	return nil
}

// readOtherName adds an OtherName: { type-id OID, value [0] EXPLICIT ANY }.
func (n *AlternativeNames) readOtherName(in cryptobyte.String) error {
	var id asn1.ObjectIdentifier
	var outer, value cryptobyte.String
	var tag cbasn1.Tag
	if !in.ReadASN1ObjectIdentifier(&id) || !in.ReadASN1(&outer, tagContext0) || !in.Empty() ||
		!outer.ReadAnyASN1(&value, &tag) || !outer.Empty() {
		return &PartError{"san", "has an otherName that is not built as one is"}
	}
	if !id.Equal(oidUPN) {
		n.Others = append(n.Others, "otherName "+id.String())
		return nil
	}
	upn, ok := readText(tag, value)
	if !ok || upn == "" {
		return &PartError{"san", "has a user principal name that is empty or no text"}
	}
	n.UserPrincipalNames = append(n.UserPrincipalNames, upn)
	return nil
}

// readKeyUsage reads KeyUsage. Bit 0 of a BIT STRING is the first, as of
// x509.KeyUsage.
func readKeyUsage(der []byte) (usage x509.KeyUsage, err error) {
	in := cryptobyte.String(der)
	var bits asn1.BitString
	if !in.ReadASN1BitString(&bits) || !in.Empty() {
		return 0, &PartError{"key_usage", "is not built as one is"}
	}
	for i := range bits.BitLength {
		if bits.At(i) == 0 {
			continue
		}
		if i > 8 {
			return 0, &PartError{"key_usage", "has a bit that has no meaning"}
		}
		usage |= 1 << i
	}
	return usage, nil
}

func readExtKeyUsage(der []byte) (usages []asn1.ObjectIdentifier, err error) {
	in := cryptobyte.String(der)
	var list cryptobyte.String
	if !in.ReadASN1(&list, cbasn1.SEQUENCE) || !in.Empty() || list.Empty() {
		return nil, &PartError{"ext_key_usage", "is not built as one is"}
	}
	for !list.Empty() {
		var id asn1.ObjectIdentifier
		if !list.ReadASN1ObjectIdentifier(&id) {
			return nil, &PartError{"ext_key_usage", "is not built as one is"}
		}
		if usages = append(usages, id); len(usages) > maxCSRParts {
			return nil, &PartError{"ext_key_usage", fmt.Sprintf("has more than %d usages", maxCSRParts)}
		}
	}
	return usages, nil
}

func readBasicConstraints(der []byte) (ca bool, err error) {
	in := cryptobyte.String(der)
	var list cryptobyte.String
	var pathLen uint64
	if !in.ReadASN1(&list, cbasn1.SEQUENCE) || !in.Empty() ||
		list.PeekASN1Tag(cbasn1.BOOLEAN) && !list.ReadASN1Boolean(&ca) ||
		list.PeekASN1Tag(cbasn1.INTEGER) && !list.ReadASN1Integer(&pathLen) ||
		!list.Empty() {
		return false, &PartError{"basic_constraints", "are not built as they should be"}
	}
	return ca, nil
}

// readMSTemplate reads Microsoft's certificate template: a name, or an OID with two
// version numbers ([MS-WCCE], 2.2.2.7.7.1 and 2.2.2.7.7.2).
func readMSTemplate(id asn1.ObjectIdentifier, der []byte) (string, error) {
	if id.Equal(oidMSTemplateName) {
		if name, ok := readWholeText(der); ok && name != "" {
			return name, nil
		}
		return "", &PartError{"template", "is not built as a template's name is"}
	}
	in := cryptobyte.String(der)
	var list cryptobyte.String
	var template asn1.ObjectIdentifier
	var major, minor uint64
	if !in.ReadASN1(&list, cbasn1.SEQUENCE) || !in.Empty() || !list.ReadASN1ObjectIdentifier(&template) ||
		list.PeekASN1Tag(cbasn1.INTEGER) && !list.ReadASN1Integer(&major) ||
		list.PeekASN1Tag(cbasn1.INTEGER) && !list.ReadASN1Integer(&minor) ||
		!list.Empty() {
		return "", &PartError{"template", "is not built as a template is"}
	}
	return template.String(), nil
}

// readWholeText reads an element that is a string and all of der.
func readWholeText(der []byte) (string, bool) {
	in := cryptobyte.String(der)
	var value cryptobyte.String
	var tag cbasn1.Tag
	if !in.ReadAnyASN1(&value, &tag) || !in.Empty() {
		return "", false
	}
	return readText(tag, value)
}

// Tags of strings that cryptobyte has no names for (X.680, 8.6).
const (
	tagNumericString = cbasn1.Tag(18)
	tagVisibleString = cbasn1.Tag(26)
	tagBMPString     = cbasn1.Tag(30)
)

// readText decodes the content of a string. The types of seven bits may hold any
// character that can be printed: clients put an at sign into a PrintableString. What
// the upper half of a TeletexString means is anybody's guess, so it is refused.
func readText(tag cbasn1.Tag, content []byte) (string, bool) {
	var text string
	switch tag {
	case cbasn1.UTF8String:
		text = string(content)
	case cbasn1.PrintableString, cbasn1.IA5String, cbasn1.T61String, tagNumericString, tagVisibleString:
		for _, b := range content {
			if b >= utf8.RuneSelf {
				return "", false
			}
		}
		text = string(content)
	case tagBMPString:
		if len(content)%2 != 0 {
			return "", false
		}
		var b strings.Builder
		for pair := range slices.Chunk(content, 2) {
			r := rune(pair[0])<<8 | rune(pair[1])
			if utf16.IsSurrogate(r) { // it is UCS-2, which has none
				return "", false
			}
			b.WriteRune(r)
		}
		text = b.String()
	default:
		return "", false
	}
	if !utf8.ValidString(text) || strings.ContainsFunc(text, func(r rune) bool { return r < 0x20 || 0x7F <= r && r < 0xA0 }) {
		return "", false
	}
	return text, true
}
