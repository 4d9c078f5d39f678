package mdmtest

import (
	_ "embed"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// facts.txt is what Apple documents of commands, queries, settings and payloads, as far as
// a device acts on it. A test makes it of Apple's tables, see there for the form.
//
//go:embed facts.txt
var factsText string

// documented is facts.txt: what the device was taught in the factory.
var documented = sync.OnceValue(func() *documentation {
	d, err := parseFacts(factsText)
	if err != nil {
		panic(err) // a broken build, which the tests show
	}
	return d
})

// documentation holds each kind of thing by its name.
type documentation struct {
	commands, queries, settings map[string]*item
	payloads                    map[string][]*item // one type may have several uses
}

// item is a command, a query of DeviceInformation, a setting or a type of payload.
type item struct {
	on   map[byte]availability // by the first letter of the system's name
	keys []itemKey             // of its dictionary
}

// itemKey is a key of a command or a setting, to the depth at which it is checked.
type itemKey struct {
	name, kind string
	required   bool
	values     []string // nil: any
}

// availability is when one system knows an item, and what it asks for.
type availability struct {
	since, until string // versions; until is the first without it, empty: none
	right        int64  // of AccessRights, 0: none

	byod       bool   // allowed in a User Enrollment,
	byodSince  string // from this version on
	supervised bool   // only on a supervised device
	ade        bool   // only after Automated Device Enrollment
	shared     bool   // only on a Shared iPad
	notShared  bool   // not on a Shared iPad
	user       bool   // on a Mac's user channel, too
	userOnly   bool   // there and nowhere else
	approved   bool   // only in an enrollment that the Mac's user approved
	mdmOnly    bool   // not installed by hand
}

// letter is how facts.txt calls the model's system.
func (m Model) letter() byte {
	switch m {
	case Mac:
		return 'm'
	case AppleTV:
		return 't'
	case Vision:
		return 'v'
	case Watch:
		return 'w'
	}
	return 'i'
}

// versioned reports whether a system of that version has the item at all. An empty version
// is newer than all that has been removed.
func (a availability) versioned(version string) bool {
	if version == "" {
		return a.until == ""
	}
	return compareVersions(version, a.since) >= 0 && (a.until == "" || compareVersions(version, a.until) < 0)
}

// inUserEnrollment reports whether a User Enrollment on that version may have the item.
func (a availability) inUserEnrollment(version string) bool {
	return a.byod && (a.byodSince == "" || version == "" || compareVersions(version, a.byodSince) >= 0)
}

// compareVersions compares "10.13.4" and the like, number by number.
func compareVersions(a, b string) int {
	x, y := strings.Split(a, "."), strings.Split(b, ".")
	for i := range max(len(x), len(y)) {
		var m, n int
		if i < len(x) {
			m, _ = strconv.Atoi(x[i])
		}
		if i < len(y) {
			n, _ = strconv.Atoi(y[i])
		}
		if m != n {
			return m - n
		}
	}
	return 0
}

func parseFacts(text string) (*documentation, error) {
	d := &documentation{commands: map[string]*item{}, queries: map[string]*item{}, settings: map[string]*item{}, payloads: map[string][]*item{}}
	var last *item
	for n, line := range strings.Split(text, "\n") {
		words := strings.Fields(line)
		switch {
		case len(words) == 0 || strings.HasPrefix(line, "#"):
			continue
		case strings.HasPrefix(line, "\t"):
			if last == nil || len(words) < 2 {
				return nil, fmt.Errorf("facts.txt:%d: %q", n+1, line)
			}
			name, required := strings.CutSuffix(words[0], "!")
			last.keys = append(last.keys, itemKey{name: name, required: required, kind: words[1], values: words[2:]})
			continue
		case len(words) < 2:
			return nil, fmt.Errorf("facts.txt:%d: %q", n+1, line)
		}
		last = &item{on: map[byte]availability{}}
		for _, word := range words[2:] {
			a, err := parseAvailability(word[1:])
			if err != nil {
				return nil, fmt.Errorf("facts.txt:%d: %w", n+1, err)
			}
			last.on[word[0]] = a
		}
		switch words[0] {
		case "command":
			d.commands[words[1]] = last
		case "query":
			d.queries[words[1]] = last
		case "setting":
			d.settings[words[1]] = last
		case "payload":
			d.payloads[words[1]] = append(d.payloads[words[1]], last)
		default:
			return nil, fmt.Errorf("facts.txt:%d: %q", n+1, words[0])
		}
	}
	return d, nil
}

// parseAvailability reads "10.7-27.0:ue,user#2048".
func parseAvailability(s string) (a availability, err error) {
	s, right, ok := strings.Cut(s, "#")
	if ok {
		if a.right, err = strconv.ParseInt(right, 10, 64); err != nil {
			return a, err
		}
	}
	versions, flags, _ := strings.Cut(s, ":")
	a.since, a.until, _ = strings.Cut(versions, "-")
	for flag := range strings.SplitSeq(flags, ",") {
		switch {
		case flag == "":
		case strings.HasPrefix(flag, "ue"):
			a.byod, a.byodSince = true, strings.TrimPrefix(flag, "ue")
		case flag == "supervised":
			a.supervised = true
		case flag == "ade":
			a.ade = true
		case flag == "shared":
			a.shared = true
		case flag == "notshared":
			a.notShared = true
		case flag == "user":
			a.user = true
		case flag == "useronly":
			a.userOnly = true
		case flag == "approved":
			a.approved = true
		case flag == "mdmonly":
			a.mdmOnly = true
		default:
			return a, fmt.Errorf("flag %q", flag)
		}
	}
	return a, nil
}

// here is what this device's system documents of an item; false when it does not know it.
func (d *Device) here(i *item) (availability, bool) {
	if i == nil {
		return availability{}, false
	}
	a, ok := i.on[d.opts.Model.letter()]
	return a, ok && a.versioned(d.opts.OSVersion)
}

// obstacle is why an item that the system knows does not apply to the device.
type obstacle int

const (
	unobstructed obstacle = iota
	wrongChannel
	inUserEnrollment
	unsupervised
	notADE
	notShared
	onShared
	notApproved
	noRight
)

// obstacle returns the first that stands in an item's way on the channel.
func (c *Channel) obstacle(a availability) obstacle {
	d := c.dev
	switch {
	case c.user != nil && !a.user && !a.userOnly, c.user == nil && a.userOnly:
		return wrongChannel
	case d.byod.Load() && !a.inUserEnrollment(d.opts.OSVersion):
		return inUserEnrollment
	case !d.allows(a.right):
		return noRight
	case a.supervised && !d.opts.Supervised:
		return unsupervised
	case a.ade && !d.opts.ADE:
		return notADE
	case a.shared && !d.opts.Shared:
		return notShared
	case a.notShared && d.opts.Shared:
		return onShared
	case a.approved && d.opts.Unapproved:
		return notApproved
	}
	return unobstructed
}

// malformed says what is wrong with a dictionary whose keys i describes, or returns nil.
// Keys that i does not know are not looked at.
func (i *item) malformed(dict Dict) error {
	for _, key := range i.keys {
		v, there := dict[key.name]
		switch {
		case !there && key.required:
			return fmt.Errorf("%s is missing", key.name)
		case there && !isKind(v, key.kind):
			return fmt.Errorf("%s is a %T, want %s", key.name, v, key.kind)
		case there && len(key.values) > 0 && !slices.Contains(key.values, fmt.Sprint(v)):
			return fmt.Errorf("%s is %v, want one of %s", key.name, v, strings.Join(key.values, ", "))
		}
	}
	return nil
}

func isKind(v any, kind string) bool {
	var ok bool
	switch kind {
	case "string":
		_, ok = v.(string)
	case "integer":
		_, ok = v.(int64)
	case "boolean":
		_, ok = v.(bool)
	case "data":
		_, ok = v.([]byte)
	case "array":
		_, ok = v.([]any)
	case "dictionary":
		_, ok = v.(Dict)
	default:
		ok = true
	}
	return ok
}
