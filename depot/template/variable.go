package template

import (
	"errors"
	"fmt"
	"strings"
)

// Facts is what is known of whom a certificate is for. Empty fields are unknown.
type Facts struct {
	// Of the device.
	DeviceID          string // our own name for it
	SerialNumber      string
	UDID              string
	DeviceName        string
	Model             string
	OSVersion         string
	ProfileIdentifier string // of the profile that brings the certificate

	// Of the user.
	Username            string
	Email               string
	FullName            string
	UPN                 string
	ManagedAppleAccount string

	// Attributes are what an administrator or an inventory keeps beside, by the names
	// of Variables: "ASSET_TAG", "EXTENSIONATTRIBUTE_7".
	Attributes map[string]string
}

// Variable is one word that texts of templates may hold, behind a dollar sign.
type Variable struct {
	Name    string   // without the dollar sign
	Aliases []string // Jamf's names and others for the same
	Means   string

	of func(Facts) string // nil: it is an attribute
	// own says that the device, or who holds it, chooses the value.
	own bool
}

// extensionAttribute is followed by a number.
const extensionAttribute = "EXTENSIONATTRIBUTE_"

// Variables returns all variables, but for EXTENSIONATTRIBUTE_ and a number, which is
// an attribute too.
func Variables() []Variable {
	return []Variable{
		{Name: "EMAIL", Aliases: []string{"EMAILADDRESS"}, Means: "e-mail address of the user", of: func(f Facts) string { return f.Email }},
		{Name: "USERNAME", Means: "what the user logs in by", of: func(f Facts) string { return f.Username }},
		{Name: "FULLNAME", Aliases: []string{"REALNAME", "FULL_NAME"}, Means: "name of the user", of: func(f Facts) string { return f.FullName }},
		{Name: "UPN", Means: "user principal name", of: func(f Facts) string { return f.UPN }},
		{Name: "MANAGED_APPLE_ACCOUNT", Aliases: []string{"MANAGEDAPPLEID"}, Means: "Managed Apple Account of the user", of: func(f Facts) string { return f.ManagedAppleAccount }},

		{Name: "DEVICE_ID", Aliases: []string{"JSSID"}, Means: "our own ID of the device", of: func(f Facts) string { return f.DeviceID }},
		{Name: "SERIALNUMBER", Aliases: []string{"SERIAL_NUMBER"}, Means: "serial number of the device; unknown of personal ones", of: func(f Facts) string { return f.SerialNumber }},
		{Name: "UDID", Means: "UDID of the device; unknown of personal ones", of: func(f Facts) string { return f.UDID }},
		{Name: "DEVICENAME", Aliases: []string{"DEVICE_NAME", "COMPUTERNAME"}, Means: "what the device is called by who uses it", of: func(f Facts) string { return f.DeviceName }, own: true},
		{Name: "MODEL", Means: "model of the device", of: func(f Facts) string { return f.Model }},
		{Name: "OSVERSION", Aliases: []string{"OS_VERSION"}, Means: "version of the operating system", of: func(f Facts) string { return f.OSVersion }},
		{Name: "PROFILE_IDENTIFIER", Means: "identifier of the profile that brings the certificate", of: func(f Facts) string { return f.ProfileIdentifier }},

		{Name: "ASSET_TAG", Means: "asset tag"},
		{Name: "SITENAME", Means: "name of the site"},
		{Name: "SITEID", Means: "ID of the site"},
		{Name: "PHONE", Means: "telephone number"},
		{Name: "ROOM", Means: "room"},
		{Name: "POSITION", Means: "position of the user"},
		{Name: "DEPARTMENTNAME", Means: "name of the department"},
		{Name: "DEPARTMENTID", Means: "ID of the department"},
		{Name: "BUILDINGNAME", Means: "name of the building"},
		{Name: "BUILDINGID", Means: "ID of the building"},
		{Name: "MACADDRESS", Means: "MAC address of the device"},
	}
}

// variable finds a variable by its name or an alias.
func variable(name string) (Variable, bool) {
	for _, v := range Variables() {
		if v.Name == name {
			return v, true
		}
		for _, alias := range v.Aliases {
			if alias == name {
				return v, true
			}
		}
	}
	if n, ok := strings.CutPrefix(name, extensionAttribute); ok && n != "" && len(n) <= 10 && strings.Trim(n, "0123456789") == "" {
		return Variable{Name: name, Means: "extension attribute " + n}, true
	}
	return Variable{}, false
}

// Known says that there is a variable of this name, without the dollar sign.
func Known(name string) bool {
	_, ok := variable(name)
	return ok
}

// Value returns what a variable stands for, by its name without the dollar sign; empty where
// that is not known.
func (f Facts) Value(name string) string {
	v, ok := variable(name)
	if !ok {
		return ""
	}
	return strings.TrimSpace(f.value(v))
}

func (f Facts) value(v Variable) string {
	if v.of == nil {
		return f.Attributes[v.Name]
	}
	return v.of(f)
}

// piece is a part of a value: text as it is, or a variable.
type piece struct {
	text     string
	variable string // as it was written, without the dollar sign; empty: text
}

// pieces takes a value apart. A name is as long as it can be, so that $EMAILX is a
// variable that nobody knows and not $EMAIL with an X behind it; ${EMAIL}X is.
func pieces(value string) ([]piece, error) {
	var all []piece
	text := func(s string) {
		if n := len(all); n > 0 && all[n-1].variable == "" {
			all[n-1].text += s
		} else if s != "" {
			all = append(all, piece{text: s})
		}
	}
	for {
		before, after, found := strings.Cut(value, "$")
		text(before)
		if !found {
			return all, nil
		}
		if rest, ok := strings.CutPrefix(after, "$"); ok {
			text("$")
			value = rest
			continue
		}
		var name string
		if inner, ok := strings.CutPrefix(after, "{"); ok {
			if name, value, ok = strings.Cut(inner, "}"); !ok {
				return nil, errors.New("has ${ without }")
			}
		} else {
			n := nameLength(after)
			name, value = after[:n], after[n:]
		}
		if name == "" {
			return nil, errors.New("has a dollar sign without a variable's name: write $$ for a dollar sign")
		}
		if _, ok := variable(name); !ok {
			return nil, fmt.Errorf("has the unknown variable $%.64s", name)
		}
		all = append(all, piece{variable: name})
	}
}

// nameLength returns how many bytes at the beginning of s can be a variable's name.
func nameLength(s string) int {
	for i := range len(s) {
		switch c := s[i]; {
		case 'A' <= c && c <= 'Z', 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '_':
		default:
			return i
		}
	}
	return len(s)
}

// literal returns the text of a value without variables; ok is false if it has any.
func literal(value string) (text string, ok bool) {
	all, err := pieces(value)
	if err != nil || len(all) > 1 || len(all) == 1 && all[0].variable != "" {
		return "", false
	}
	if len(all) == 0 {
		return "", true
	}
	return all[0].text, true
}

// ownWord returns the first variable of value that says what a device calls itself.
func ownWord(value string) (name string, ok bool) {
	all, err := pieces(value)
	if err != nil {
		return "", false
	}
	for _, p := range all {
		if v, _ := variable(p.variable); v.own {
			return p.variable, true
		}
	}
	return "", false
}

// expand replaces the variables of value by what f says, each passed through escape
// unless that is nil. An unknown fact is an error that names its variable.
func expand(value string, f Facts, escape func(string) string) (string, error) {
	all, err := pieces(value)
	if err != nil {
		return "", err // it was not checked when it was stored
	}
	var b strings.Builder
	for _, p := range all {
		if p.variable == "" {
			b.WriteString(p.text)
			continue
		}
		v, _ := variable(p.variable)
		fact := strings.TrimSpace(f.value(v))
		switch {
		case fact == "":
			return "", fmt.Errorf("$%s is empty for this device", p.variable)
		case !isText(fact):
			return "", fmt.Errorf("$%s holds control characters for this device, or is no UTF-8", p.variable)
		case len(fact) > maxFact:
			return "", fmt.Errorf("$%s has %d bytes for this device, at most %d", p.variable, len(fact), maxFact)
		}
		if escape != nil && len(all) > 1 {
			fact = escape(fact)
		}
		b.WriteString(fact)
	}
	return b.String(), nil
}

// maxFact is how many bytes of a fact can make sense in a certificate.
const maxFact = 1024
