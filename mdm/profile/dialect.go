package profile

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/gatehouse-mdm/gatehouse/mdm/command"
)

// Codes of what is wrong with the variables of a profile.
const (
	CodeUnknownVariable = "unknown_variable"     // nothing is known by this name
	CodeForeignVariable = "foreign_variable"     // it is another server's way to write one
	CodeMisplaced       = "misplaced_variable"   // it is where none is replaced
	CodeCertificate     = "certificate_template" // a place for a certificate does not say which
)

// Variables returns the names of the variables that the profile's texts hold and known
// accepts, sorted, each once, and what keeps the profile from being sent: names that known
// refuses, variables of other servers, which a device would take for text, and variables
// where none is replaced. The profile that goes to a device must have none of these problems.
func (p *Profile) Variables(known func(name string) bool) (names []string, problems []Finding) {
	v := variables{known: known, names: map[string]bool{}}
	for _, key := range slices.Sorted(maps.Keys(p.Top)) {
		if key != "PayloadContent" || len(p.Payloads) == 0 {
			v.look(Payload{Type: configurationType, Index: -1}, key, key, p.Top[key])
		}
	}
	for _, payload := range p.Payloads {
		for _, key := range slices.Sorted(maps.Keys(payload.Content)) {
			v.look(payload, key, key, payload.Content[key])
		}
		if name, is := payload.certificate(); is && name == "" {
			v.problem(CodeCertificate, payload, "PayloadContent."+CertificateTemplateKey, "%s must be the name of a certificate template.", CertificateTemplateKey)
		}
	}
	return slices.Sorted(maps.Keys(v.names)), v.problems
}

// variables collects the variables of a profile.
type variables struct {
	known    func(string) bool
	names    map[string]bool
	problems []Finding
	hide     bool // the text at hand is a secret: whoever reads a finding may not be meant to read a part of it
}

func (v *variables) problem(code string, in Payload, path, format string, args ...any) {
	if len(v.problems) >= maxFindings {
		return // nobody reads on
	}
	if v.hide {
		format, args = "%s holds a variable that is not known here, or a text that looks like one. It is not told, since the value is a secret. Write $$ for a dollar sign that is meant as one.", []any{path}
	}
	v.problems = append(v.problems, Finding{
		Code: code, Severity: SeverityError, PayloadType: in.Type, PayloadIndex: in.Index, Key: path, Reason: fmt.Sprintf(format, args...),
	})
}

// look walks what stands at a path of a payload, under a key.
func (v *variables) look(in Payload, path, key string, value any) {
	switch value := value.(type) {
	case string:
		if isFixed(key) {
			v.fixed(in, path, value)
		} else {
			v.hide = isSecret(in.Type, key, value)
			v.text(in, path, value)
			v.hide = false
		}
	case []any:
		for i, element := range value {
			v.look(in, fmt.Sprintf("%s[%d]", path, i), key, element)
		}
	case map[string]any:
		for _, key := range slices.Sorted(maps.Keys(value)) {
			v.look(in, path+"."+key, key, value[key])
		}
	}
}

// fixed looks for variables where none is replaced.
func (v *variables) fixed(in Payload, path, text string) {
	for _, piece := range pieces(text) {
		if piece.variable != "" {
			v.problem(CodeMisplaced, in, path, "%s holds $%s, but must be the same for all devices: nothing is replaced there.", path, clip(piece.variable))
		}
	}
}

func (v *variables) text(in Payload, path, text string) {
	if !strings.ContainsAny(text, "$%{") {
		return
	}
	foreign := foreignVariables.FindAllStringIndex(text, -1)
	for _, at := range foreign {
		v.foreign(in, path, text[at[0]:at[1]])
	}
	for _, piece := range pieces(text) {
		switch {
		case piece.variable == "":
		case slices.ContainsFunc(foreign, func(at []int) bool { return at[0] <= piece.at && piece.at < at[1] }):
		case v.known(piece.variable):
			v.names[piece.variable] = true
		default:
			v.unknown(in, path, piece.variable)
		}
	}
}

func (v *variables) unknown(in Payload, path, name string) {
	name = clip(name)
	meant := ""
	if ours := v.meant(name); ours != "" {
		meant = fmt.Sprintf(" Did you mean $%s?", ours)
	}
	v.problem(CodeUnknownVariable, in, path, "%s holds the unknown variable $%s.%s Write $$%[2]s for the text $%[2]s.", path, name, meant)
}

// foreignVariables are the forms in which other servers write variables: Fleet, Zentral,
// Mosyle, and those that write {{…}} (Kandji, SimpleMDM, Intune).
var foreignVariables = regexp.MustCompile(`\$\{?FLEET_(?:VAR|SECRET)_[A-Za-z0-9_]+\}?` +
	`|\$\{?(?:REALM_USER|ENROLLED_DEVICE|MANAGED_APPLE_ID)\.[A-Za-z0-9_]+\}?` +
	`|%[A-Za-z][A-Za-z_]{3,40}%` +
	`|\{\{[^{}]{1,100}\}\}`)

// foreign reports a variable of another server.
func (v *variables) foreign(in Payload, path, written string) {
	word := plainWord(written)
	ours, whose := equivalents[word], "another server's"
	switch {
	case strings.HasPrefix(written, "%"):
		// Between percent signs stands much else. A Mac replaces some words itself.
		if ours == "" || replacedByMac(in.Type) {
			return
		}
		whose = "Mosyle's"
	case strings.HasPrefix(word, "fleetvar"), strings.HasPrefix(word, "fleetsecret"):
		whose = "Fleet's"
		word = strings.TrimPrefix(word, "fleetvar")
		ours = equivalents[strings.TrimPrefix(word, "host")]
		if strings.Contains(word, "scep") || strings.Contains(word, "digicert") || strings.Contains(word, "ndes") {
			v.problem(CodeForeignVariable, in, path, "%s holds %s, which is Fleet's. Certificates come from certificate templates here: put {%q: NAME} into the PayloadContent of the SCEP payload.", path, clip(written), CertificateTemplateKey)
			return
		}
	case strings.HasPrefix(written, "$"):
		whose = "Zentral's"
		_, attribute, _ := strings.Cut(written, ".")
		ours = equivalents[plainWord(attribute)]
		if strings.Contains(written, "MANAGED_APPLE_ID.") && ours == "EMAIL" {
			ours = "MANAGED_APPLE_ACCOUNT"
		}
	default:
		for _, prefix := range []string{"global", "user", "device", "custom", "attribute"} {
			if ours == "" {
				ours = equivalents[strings.TrimPrefix(word, prefix)]
			}
		}
	}
	if ours != "" && v.known(ours) {
		v.problem(CodeForeignVariable, in, path, "%s holds %s, which is %s way to write $%s. Write $%[4]s.", path, clip(written), whose, ours)
		return
	}
	v.problem(CodeForeignVariable, in, path, "%s holds %s, which is %s variable and means nothing here: a device would take it as it is.", path, clip(written), whose)
}

// replacedByMac holds for payloads in which macOS itself replaces words between percent
// signs, such as %ComputerName% (Apple's page "ActiveDirectoryCertificate" and those of
// identities).
func replacedByMac(payloadType string) bool {
	switch payloadType {
	case "com.apple.ADCertificate.managed", "com.apple.DirectoryService.managed", scepType, "com.apple.security.acme":
		return true
	}
	return false
}

// plainWord returns the letters and digits of a word, small.
func plainWord(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case 'a' <= r && r <= 'z', '0' <= r && r <= '9':
			return r
		case 'A' <= r && r <= 'Z':
			return r + 'a' - 'A'
		}
		return -1
	}, s)
}

// equivalents are our variables by words that others use, as plainWord writes them.
var equivalents = map[string]string{
	"email": "EMAIL", "mail": "EMAIL", "emailaddress": "EMAIL", "useremail": "EMAIL", "useremailaddress": "EMAIL", "owneremail": "EMAIL", "enduseremailidp": "EMAIL", "enduseremail": "EMAIL",
	"username": "USERNAME", "enduseridpusername": "USERNAME", "login": "USERNAME", "enrollmentuser": "USERNAME", "shortname": "USERNAME", "deviceusername": "USERNAME", "ownerusername": "USERNAME",
	"fullname": "FULLNAME", "realname": "FULLNAME", "displayname": "FULLNAME", "enduseridpfullname": "FULLNAME", "userfullname": "FULLNAME", "name": "FULLNAME", "ownername": "FULLNAME",
	"upn": "UPN", "userprincipalname": "UPN", "principalname": "UPN",
	"managedappleid": "MANAGED_APPLE_ACCOUNT", "managedappleaccount": "MANAGED_APPLE_ACCOUNT", "appleid": "MANAGED_APPLE_ACCOUNT",
	"deviceid": "DEVICE_ID", "jssid": "DEVICE_ID", "uuid": "UDID", "hardwareuuid": "UDID", "udid": "UDID", "deviceudid": "UDID",
	"serialnumber": "SERIALNUMBER", "serial": "SERIALNUMBER", "deviceserialnumber": "SERIALNUMBER", "hardwareserial": "SERIALNUMBER",
	"devicename": "DEVICENAME", "computername": "DEVICENAME", "hostname": "DEVICENAME", "localhostname": "DEVICENAME",
	"model": "MODEL", "modelname": "MODEL", "devicemodel": "MODEL", "osversion": "OSVERSION", "deviceosversion": "OSVERSION",
	"assettag": "ASSET_TAG", "deviceassettag": "ASSET_TAG", "assetnumber": "ASSET_TAG",
	"phone": "PHONE", "phonenumber": "PHONE", "room": "ROOM", "position": "POSITION", "jobtitle": "POSITION", "title": "POSITION",
	"department": "DEPARTMENTNAME", "departmentname": "DEPARTMENTNAME", "enduseridpdepartment": "DEPARTMENTNAME", "departmentid": "DEPARTMENTID",
	"building": "BUILDINGNAME", "buildingname": "BUILDINGNAME", "buildingid": "BUILDINGID",
	"site": "SITENAME", "sitename": "SITENAME", "siteid": "SITEID",
	"macaddress": "MACADDRESS", "wifimac": "MACADDRESS", "wifimacaddress": "MACADDRESS",
	"profileidentifier": "PROFILE_IDENTIFIER",
}

// meant returns the known variable that somebody may have meant by another name; empty if
// none is near.
func (v *variables) meant(name string) string {
	word := plainWord(name)
	if ours := equivalents[word]; ours != "" && v.known(ours) {
		return ours
	}
	var words []string
	for theirs, ours := range equivalents {
		if v.known(ours) {
			words = append(words, theirs)
		}
	}
	slices.Sort(words)
	nearest := command.Nearest(word, words)
	if len(word) < 7 && !alike(word, nearest) { // among short words everything is near
		return ""
	}
	return equivalents[nearest]
}
