package profile

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/gatehouse-mdm/gatehouse/mdm/command"
)

// maxDepth is how deep into a payload is looked. What is deeper is beyond what Apple documents.
const maxDepth = 48

// payload lints one payload by what Apple documents of its type.
func (l *linter) payload(p Payload) {
	l.at, l.secrets, l.found = p, nil, nil
	l.uses, l.strict = meant(p), true
	known := len(l.uses) > 0
	switch {
	case known:
		l.strict = len(onAny(l.uses, func(a *command.Availability) bool { return true })) == 0 ||
			slices.ContainsFunc(command.Platforms(), func(pf command.Platform) bool {
				return pf != command.MacOS && l.uses[0].Platforms[pf] != nil
			})
		l.conditions()
	case p.Type != "":
		l.unknownPayload()
	}
	shapes := make([]*shape, 0, len(l.uses))
	for _, u := range l.uses {
		shapes = append(shapes, u.shape)
	}
	if !known {
		shapes = append(shapes, l.common)
	}
	l.dictionary(nil, p.Content, shapes, 0)
	l.tellFound()
	if known {
		l.settings()
	}
	if len(l.secrets) > 0 {
		slices.Sort(l.secrets)
		l.add(SeverityNote, CodeSecret, only(l.secrets), "Everybody who gets hold of this profile can read what is in %s of %s.", some(l.secrets), clip(p.Type))
	}
}

// meant returns the uses of a payload's type, the one that the payload fits best first.
func meant(p Payload) []use {
	known := uses()[p.Type]
	if p.Type == topLevel || p.Type == commonKeys {
		return nil
	}
	if len(known) < 2 {
		return known
	}
	best, most := 0, math.MinInt
	for i, u := range known {
		score := 0
		for name, v := range p.Content {
			f := u.keys[name]
			switch {
			case f == nil:
			case !fits(f.Kind, v) || len(f.allowed) > 0 && !slices.Contains(f.allowed, fmt.Sprint(v)):
				score--
			default:
				score++
			}
		}
		if score > most {
			best, most = i, score
		}
	}
	return append([]use{known[best]}, slices.Delete(slices.Clone(known), best, best+1)...)
}

// onAny returns the platforms on which one of several uses is as asked.
func onAny(uses []use, that func(*command.Availability) bool) []command.Platform {
	var platforms []command.Platform
	for _, p := range command.Platforms() {
		if slices.ContainsFunc(uses, func(u use) bool { a := u.Platforms[p]; return a != nil && that(a) }) {
			platforms = append(platforms, p)
		}
	}
	return platforms
}

// conditions notes what a device must be to take the payload.
func (l *linter) conditions() {
	a, t := l.uses[0].Platforms, l.at.Type
	note := func(severity Severity, code, format string, that func(*command.Availability) bool) {
		if platforms := on(a, that); len(platforms) > 0 {
			l.addOn(platforms, severity, code, "", format, t, platformNames(platforms))
		}
	}
	note(SeverityNote, CodeSupervision, "%s needs a supervised device on %s.", func(a *command.Availability) bool { return a.Supervised })
	note(SeverityNote, CodeApproval, "%s needs an enrollment on %s that the user has approved.", func(a *command.Availability) bool { return a.UserApproved })
	note(SeverityNote, CodeMDMOnly, "%s can't be installed by hand on %s: it must come from a device management server.", func(a *command.Availability) bool { return a.ManualInstall != nil && !*a.ManualInstall })
	note(SeverityNote, CodeDeprecated, "%s is deprecated on %s.", func(a *command.Availability) bool { return a.Deprecated != "" && a.Removed == "" })
	note(SeverityWarning, CodeRemoved, "%s is gone from newer versions of %s, which do without it.", func(a *command.Availability) bool { return a.Removed != "" })
	note(SeverityWarning, CodeUserEnrollment, "%s is not allowed on a personal device (User Enrollment): one with %s refuses the whole profile.", func(a *command.Availability) bool {
		return a.UserEnrollment == "forbidden" && a != l.uses[0].Platforms[command.MacOS]
	})
	if a := a[command.MacOS]; a != nil && a.UserEnrollment == "forbidden" {
		l.addOn([]command.Platform{command.MacOS}, SeverityNote, CodeUserEnrollment, "", "%s is not allowed on a personal Mac (User Enrollment), which leaves it out.", t)
	}
}

func (l *linter) unknownPayload() {
	t := l.at.Type
	nearest := nearestType(t)
	switch {
	case nearest != "":
		l.add(SeverityWarning, CodeUnknownPayload, "", "%q is no type of payload that Apple documents; %s may be meant.", clip(t), nearest)
	case strings.HasPrefix(t, "com.apple."):
		l.add(SeverityWarning, CodeUnknownPayload, "", "Apple documents no payload %s: a Mac takes it as preferences of that name, other devices do without it.", clip(t))
	default:
		l.add(SeverityNote, CodeVendorPayload, "", "%s is no payload of Apple's: a Mac takes it as preferences of that app, other devices do without it.", clip(t))
	}
}

// nearestType returns the known type of payload of which t is a misspelling, or nothing.
// Preferences have names of their own, some quite like those of payloads, so that less is a
// misspelling here than among keys.
func nearestType(t string) string {
	lower, nearest := strings.ToLower(t), ""
	for known := range payloadFacts() {
		if d := len(known) - len(t); d < -1 || d > 1 || !strings.HasPrefix(known, "com.apple.") {
			continue
		}
		if alike(strings.ToLower(known), lower) && (nearest == "" || known < nearest) {
			nearest = known
		}
	}
	return nearest
}

// alike reports whether at most one insertion, removal, change or swap makes b out of a.
func alike(a, b string) bool {
	for len(a) > 0 && len(b) > 0 && a[0] == b[0] {
		a, b = a[1:], b[1:]
	}
	for len(a) > 0 && len(b) > 0 && a[len(a)-1] == b[len(b)-1] {
		a, b = a[:len(a)-1], b[:len(b)-1]
	}
	return len(a) <= 1 && len(b) <= 1 || len(a) == 2 && len(b) == 2 && a[0] == b[1] && a[1] == b[0]
}

// toolKeys are keys of any payload that the field's tools write beside Apple's, and all
// devices accept. The last one is of preferences that are set once.
var toolKeys = []string{"PayloadEnabled", "PayloadScope", "PayloadRemovalDisallowed", "mcx_data_timestamp"}

// instead are keys in whose place a newer one may stand, by the name of the required one.
var instead = map[string]string{
	"Allowed": "Authorization", // com.apple.TCC.configuration-profile-policy, macOS 11
}

// dictionary lints d, of which one of shapes says what it may hold, the first one if several do.
func (l *linter) dictionary(in *place, d map[string]any, shapes []*shape, depth int) {
	if depth > maxDepth {
		return
	}
	_, isPlace := l.at.certificate() // for a request that is not there yet
	for _, name := range slices.Sorted(maps.Keys(d)) {
		if isPlace && depth == 0 && name == "PayloadContent" {
			continue
		}
		at := &place{in: in, key: name}
		var f *field
		for _, s := range shapes {
			if f = s.keys[name]; f != nil {
				break
			}
		}
		if f == nil {
			f = shapes[0].free
		}
		if f == nil {
			l.unknownKey(at, name, shapes)
			continue
		}
		l.value(at, name, d[name], f, depth+1)
	}
	for _, f := range shapes[0].required {
		if _, there := d[f.Name]; there || l.at.Index < 0 && l.profile.Encrypted && f.Name == "PayloadContent" {
			continue
		}
		if _, there := d[instead[f.Name]]; there && instead[f.Name] != "" {
			continue
		}
		platforms := on(f.platforms, func(*command.Availability) bool { return true })
		if len(platforms) == len(on(l.availability(), func(*command.Availability) bool { return true })) {
			platforms = nil
		}
		severity := l.reject()
		if len(platforms) == 0 && strings.HasPrefix(f.Name, "Payload") && depth == 0 {
			severity = SeverityError
		}
		path := (&place{in: in, key: f.Name}).String()
		l.addOn(platforms, severity, CodeMissingKey, path, "%s is missing in %s.", path, l.name())
	}
}

// availability is that of the payload that is looked at; none if it is not known.
func (l *linter) availability() map[command.Platform]*command.Availability {
	if len(l.uses) == 0 {
		return nil
	}
	return l.uses[0].Platforms
}

// name is what a sentence calls the payload.
func (l *linter) name() string {
	switch {
	case l.at.Index < 0:
		return "the profile"
	case l.at.Type == "":
		return fmt.Sprintf("payload %d", l.at.Index+1)
	}
	return clip(l.at.Type)
}

func (l *linter) unknownKey(at *place, name string, shapes []*shape) {
	if slices.Contains(toolKeys, name) {
		return
	}
	path := at.String()
	var names []string
	if l.others < maxFindings { // to search for what nobody will read takes long
		for _, s := range shapes {
			names = append(names, s.names...)
		}
	}
	if nearest := command.Nearest(name, names); nearest != "" {
		l.add(SeverityWarning, CodeUnknownKey, path, "Apple documents no key %s of %s; %s may be meant.", path, l.name(), nearest)
		return
	}
	l.add(SeverityWarning, CodeUnknownKey, path, "Apple documents no key %s of %s, so devices may do without it.", path, l.name())
}

// differs reports whether a text has a variable in it, ours or that of another tool: what it
// will be is not known yet.
func differs(s string) bool {
	return strings.ContainsAny(s, "$%{") && variable.MatchString(s)
}

var variable = regexp.MustCompile(`\$[A-Z{]|%[A-Za-z_]+%|\{\{`)

// severalNames are keys of a SubjectAltName that take an array as well as a text, which
// Apple's tables do not say (PROTOCOL 3.4).
var severalNames = []string{"rfc822Name", "dNSName", "uniformResourceIdentifier"}

// value lints a value by its key.
func (l *linter) value(at *place, name string, v any, f *field, depth int) {
	kind := kindOf(v)
	if f.Kind == command.Any {
		if depth == 1 && l.at.Index >= 0 { // of a payload of which Apple lists no keys, such as Ethernet's
			l.notice(at, name, v)
		}
		return
	}
	if a, several := v.([]any); several && slices.Contains(severalNames, name) && f.Kind == command.String {
		for i, v := range a {
			l.value(&place{in: at, index: i}, "", v, f, depth+1)
		}
		return
	}
	if !fits(f.Kind, v) {
		severity := l.reject()
		if isNumber(kind) && isNumber(f.Kind) {
			severity = SeverityWarning // a device takes one for the other
		} else if isContainer(kind) != isContainer(f.Kind) || kind == command.Data || f.Kind == command.Data {
			severity = SeverityError // a Mac's preferences as well
		}
		path := at.String()
		l.add(severity, CodeWrongType, path, "%s in %s is %s and must be %s.", path, l.name(), words[kind], words[f.Kind])
		return
	}
	l.notice(at, name, v)
	if len(f.tells) > 0 && !isDefault(v, f.Key) {
		l.told(at, f)
	}
	if f.Required && isEmpty(v) {
		path := at.String()
		l.add(l.reject(), CodeEmptyValue, path, "%s in %s must not be empty.", path, l.name())
		return
	}
	switch v := v.(type) {
	case map[string]any:
		if f.dict != nil {
			l.dictionary(at, v, []*shape{f.dict}, depth)
		}
	case []any:
		l.array(at, name, v, f, depth)
	case string:
		if differs(v) {
			return
		}
		if f.format != nil && !f.format.MatchString(v) {
			path := at.String()
			l.add(l.reject(), CodeBadFormat, path, "%s in %s does not have the form that Apple asks for (%s).", path, l.name(), asked(f.Format))
		}
		l.allowed(at, v, f)
	case bool, []byte, time.Time:
	default:
		l.allowed(at, v, f)
		if n, _ := number(v); f.Min != nil && n < *f.Min || f.Max != nil && n > *f.Max {
			path := at.String()
			l.add(l.reject(), CodeOutOfRange, path, "%s in %s is %v and must be %s.", path, l.name(), v, bounds(f.Key))
		}
	}
}

func (l *linter) allowed(at *place, v any, f *field) {
	if len(f.allowed) == 0 {
		return
	}
	if s, ok := v.(string); ok && slices.Contains(f.allowed, s) || !ok && slices.Contains(f.allowed, fmt.Sprint(v)) {
		return
	}
	path := at.String()
	severity := l.reject()
	if f.Name == "PayloadVersion" {
		severity = SeverityWarning // what a tool counts its versions by; devices take it for 1
	}
	l.add(severity, CodeNotInEnum, path, "%s in %s is %s, and Apple allows %s.", path, l.name(), clip(fmt.Sprint(v)), some(f.allowed))
}

func (l *linter) array(at *place, name string, a []any, f *field, depth int) {
	if len(f.items) == 0 || l.at.Index < 0 && name == "PayloadContent" {
		return
	}
	for i, v := range a {
		item := f.items[0]
		for _, other := range f.items[1:] {
			if fits(other.Kind, v) {
				item = other
				break
			}
		}
		in := &place{in: at, index: i}
		if d, ok := v.(map[string]any); ok && item.dict != nil && item.Kind == command.Dictionary {
			if depth < maxDepth {
				l.dictionary(in, d, []*shape{item.dict}, depth+1)
			}
			continue
		}
		if depth < maxDepth {
			l.value(in, "", v, item, depth+1)
		}
	}
}

// told notes a key for what is told of several at once.
func (l *linter) told(at *place, f *field) {
	for _, t := range f.tells {
		l.tell(t.code, t.platform, at.String())
	}
}

func (l *linter) tell(code string, p command.Platform, key string) {
	i := slices.IndexFunc(l.found, func(f found) bool { return f.code == code })
	if i < 0 {
		i = len(l.found)
		l.found = append(l.found, found{code: code, on: make(map[command.Platform]bool)})
	}
	f := &l.found[i]
	f.on[p] = true
	if n := len(f.keys); n == 0 || f.keys[n-1] != key { // the platforms of a key come one after the other
		f.keys = append(f.keys, key)
	}
}

// tellFound makes findings of what told has noted.
func (l *linter) tellFound() {
	sort.Slice(l.found, func(i, j int) bool { return l.found[i].code < l.found[j].code })
	for _, f := range l.found {
		severity, what := SeverityNote, ""
		switch f.code {
		case CodeSupervision:
			what = "has an effect on supervised devices only"
		case CodeDeprecated:
			what = "is deprecated"
		case CodeRemoved:
			severity, what = SeverityWarning, "is gone from newer versions, which do without it"
		case CodeUserEnrollment:
			what = "is not allowed on a personal device (User Enrollment)"
			if len(f.on) > 1 || !f.on[command.MacOS] {
				severity = SeverityWarning // the whole profile is refused
			}
		}
		platforms := make([]command.Platform, 0, len(f.on))
		for _, p := range command.Platforms() {
			if f.on[p] {
				platforms = append(platforms, p)
			}
		}
		slices.Sort(f.keys)
		l.addOn(platforms, severity, f.code, only(f.keys), "In %s this %s on %s: %s.", l.name(), what, platformNames(platforms), some(f.keys))
	}
}

// only returns the name if there is but one.
func only(names []string) string {
	if len(names) == 1 {
		return names[0]
	}
	return ""
}

// hasSecretName reports whether what a key of that name holds is nobody's business: also of
// several ("tokens"), or of one of several ("password1").
func hasSecretName(key string) bool {
	key = strings.TrimRight(strings.ToLower(key), "s0123456789_")
	for _, end := range []string{
		"password", "passphrase", "passcode", "secret", "challenge", "psk", "token", "recoverykey", "privatekey", "private_key",
		"apikey", "api_key", "api-key", "authorization", "credential", "bearer", "licensekey", "clientidentifier",
	} {
		if strings.HasSuffix(key, end) {
			return true
		}
	}
	return false
}

// notice looks at a value for what its key's name alone tells: secrets, and references to
// certificates.
func (l *linter) notice(at *place, name string, v any) {
	if hasSecretName(name) && !isEmpty(v) {
		s, isText := v.(string)
		_, isData := v.([]byte)
		if isText && !differs(s) || isData {
			l.secrets = append(l.secrets, at.String())
		}
	}
	if l.at.Index >= 0 && refersToCertificate(name) {
		switch v := v.(type) {
		case string:
			l.reference(at, name, v)
		case []any:
			for i, v := range v {
				if s, ok := v.(string); ok {
					l.reference(&place{in: at, index: i}, name, s)
				}
			}
		}
	}
}

// words are the types of a property list as in a sentence.
var words = map[command.Kind]string{
	command.String: "a text", command.Boolean: "true or false", command.Integer: "a whole number", command.Real: "a number", command.Data: "data",
	command.Date: "a date", command.Array: "an array", command.Dictionary: "a dictionary", "": "nothing",
}

func kindOf(v any) command.Kind {
	switch v.(type) {
	case string:
		return command.String
	case bool:
		return command.Boolean
	case int64, uint64, int:
		return command.Integer
	case float64, float32:
		return command.Real
	case []byte:
		return command.Data
	case time.Time:
		return command.Date
	case []any:
		return command.Array
	case map[string]any:
		return command.Dictionary
	}
	return ""
}

func fits(k command.Kind, v any) bool {
	kind := kindOf(v)
	return kind == k || k == command.Any || k == command.Real && kind == command.Integer
}

// isNumber holds for what a device reads as a number.
func isNumber(k command.Kind) bool {
	return k == command.Integer || k == command.Real || k == command.Boolean
}

func isContainer(k command.Kind) bool { return k == command.Array || k == command.Dictionary }

func isEmpty(v any) bool {
	switch v := v.(type) {
	case string:
		return v == ""
	case []byte:
		return len(v) == 0
	case []any:
		return len(v) == 0
	}
	return false
}

func number(v any) (float64, bool) {
	switch n := v.(type) {
	case int64:
		return float64(n), true
	case uint64:
		return float64(n), true
	case int:
		return float64(n), true
	case float64:
		return n, true
	}
	return 0, false
}

func bounds(k command.Key) string {
	text := func(f float64) string { return strconv.FormatFloat(f, 'f', -1, 64) }
	switch {
	case k.Max == nil:
		return "at least " + text(*k.Min)
	case k.Min == nil:
		return "at most " + text(*k.Max)
	}
	return "from " + text(*k.Min) + " to " + text(*k.Max)
}

// asked says what a regular expression of Apple's asks for.
func asked(format string) string {
	switch {
	case strings.Contains(format, "{8}-"):
		return "a UUID such as 0A1B2C3D-0000-4000-8000-000000000000"
	case strings.HasPrefix(format, "^https://"):
		return "a URL that begins with https://"
	case strings.Contains(format, "{2}:"):
		return "an address such as 00:11:22:AA:BB:CC"
	}
	return format
}

// isDefault holds for a value that says what the device assumes without it.
func isDefault(v any, k command.Key) bool {
	switch d := k.Default.(type) {
	case bool, string:
		return v == d
	case json.Number:
		return strings.TrimSuffix(d.String(), ".0") == strings.TrimSuffix(fmt.Sprint(v), ".0")
	}
	return false
}
