package mdm

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gatehouse-mdm/gatehouse/mdm/command"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

// Query says which enrollments are wanted, user channels among them, and in which order.
// All conditions must hold, of a list one element; the zero Query finds everything, in the
// order of ids. What is not known of a device meets no condition, unless the condition
// says so.
type Query struct {
	// Text holds words, each of which must be found somewhere in the device's name, serial
	// number, model, user, Managed Apple Account, UDID, EnrollmentID, OS version or product
	// name, without regard to case and accents, or be the whole id.
	Text string `json:"text,omitempty"`

	States     []State            `json:"states,omitempty"`
	Types      []EnrollmentType   `json:"types,omitempty"`
	Ownerships []Ownership        `json:"ownerships,omitempty"`
	Platforms  []command.Platform `json:"platforms,omitempty"`
	Models     []string           `json:"models,omitempty"` // number, product name or marketing name; a final * stands for anything
	Users      []string           `json:"users,omitempty"`  // logins, e-mail addresses or Managed Apple Accounts, whole
	OSVersions []VersionCondition `json:"os_versions,omitempty"`
	Supervised Supervision        `json:"supervised,omitempty"`
	ParentID   DeviceID           `json:"parent_id,omitempty"` // the user channels of this device

	LastSeen  Span  `json:"last_seen,omitzero"`
	NeverSeen bool  `json:"never_seen,omitempty"`
	Enrolled  Span  `json:"enrolled,omitzero"`
	Pending   *bool `json:"pending,omitempty"` // whether it has commands to finish
	Demo      *bool `json:"demo,omitempty"`

	// GroupIDs are groups of which a device must be in one; its user channels are, if it is.
	// Scope is the same once more, of groups that need not be there; nil is no limit.
	GroupIDs []GroupID `json:"group_ids,omitempty"`
	Scope    []GroupID `json:"scope,omitzero"`

	// Attributes are looked at last, of at most maxAttributeReads devices.
	Attributes []AttributeCondition `json:"attributes,omitempty"`

	// Also is a condition of another package, on what that one keeps of a device. It is
	// asked last, in the order of ids, of the devices for which all else holds, and may be
	// asked of a hundred thousand of them; AlsoReads says what it is about to read, for
	// [storage.Tx.Prefetch], and may be nil. Like the closure of a View, Also may be run
	// again from the beginning, with another tx. AlsoIs says in a few words what it asks,
	// so that no cursor of another question is mistaken for one of this.
	Also      func(tx storage.Tx, id DeviceID) (bool, error) `json:"-"`
	AlsoReads func(id DeviceID) []storage.Read               `json:"-"`
	AlsoIs    string                                         `json:"also,omitempty"`

	Sort       Sort `json:"sort,omitempty"`
	Descending bool `json:"descending,omitempty"` // but for ties, and nothing for ByID
}

// Require adds a condition to Also, which may be there already.
func (q *Query) Require(is string, reads func(DeviceID) []storage.Read, holds func(storage.Tx, DeviceID) (bool, error)) {
	also, alsoReads := q.Also, q.AlsoReads
	if also == nil {
		q.AlsoIs, q.AlsoReads, q.Also = is, reads, holds
		return
	}
	q.AlsoIs += "\n" + is
	q.Also = func(tx storage.Tx, id DeviceID) (bool, error) {
		if ok, err := also(tx, id); !ok || err != nil {
			return false, err
		}
		return holds(tx, id)
	}
	switch {
	case alsoReads == nil:
		q.AlsoReads = reads
	case reads != nil:
		q.AlsoReads = func(id DeviceID) []storage.Read { return slices.Concat(alsoReads(id), reads(id)) }
	}
}

// Sort is what a list is in the order of, and then in that of ids. What has no value comes
// last in either direction.
type Sort string

// The orders.
const (
	ByID         Sort = ""
	ByName       Sort = "name"
	BySerial     Sort = "serial_number"
	ByModel      Sort = "model"
	ByOSVersion  Sort = "os_version"
	ByUser       Sort = "user"
	ByState      Sort = "state" // as an enrollment goes: pending, enrolled, unenrolled, blocked
	ByEnrolledAt Sort = "enrolled_at"
	ByLastSeenAt Sort = "last_seen_at"
)

var sorts = []Sort{ByName, BySerial, ByModel, ByOSVersion, ByUser, ByState, ByEnrolledAt, ByLastSeenAt}

// Supervision is what is asked about a device's supervision; empty: nothing.
type Supervision string

// The supervisions. Unknown holds until a device has been asked.
const (
	Supervised        Supervision = "true"
	Unsupervised      Supervision = "false"
	SupervisionUnsure Supervision = "unknown"
)

// Span is a part of time, from Since to Before; either may be open.
type Span struct {
	Since  Moment `json:"since,omitzero"`  // inclusive
	Before Moment `json:"before,omitzero"` // exclusive
}

// Moment is a time, or how long ago one was when it is asked about. The zero Moment is none.
type Moment struct {
	At  time.Time     `json:"at,omitzero"`
	Ago time.Duration `json:"ago,omitempty"`
}

// unixNano returns the moment in nanoseconds since 1970, and otherwise for none.
func (m Moment) unixNano(now time.Time, otherwise int64) int64 {
	switch {
	case m.Ago != 0:
		return now.Add(-m.Ago).UnixNano()
	case !m.At.IsZero():
		return m.At.UnixNano()
	}
	return otherwise
}

// VersionCondition compares the version of an operating system, by its numbers: 18 is 18.0.
type VersionCondition struct {
	Op      AttributeOp `json:"op"` // Equal to Greater, and Contains for "18", which 18.2.1 begins with; Absent: not known
	Version string      `json:"version,omitempty"`
}

// QueryError is a condition that can't be understood.
type QueryError struct {
	Field  string // one of QueryFields
	Reason string // continues a sentence that begins with Field

	// A name that is not known, and those that are, for who looks for the one that was meant.
	Unknown string
	Known   []string
}

func (e *QueryError) Error() string { return e.Field + " " + e.Reason }

// Limits of a query.
const (
	maxQueryText  = 200 // bytes
	maxQueryWords = 10
	maxConditions = 20 // of one kind
)

// queryFields are the conditions by the names that Query.Set takes.
var queryFields = []struct {
	name string
	set  func(q *Query, value string) (reason string)
}{
	{"q", func(q *Query, v string) string {
		if len(v) > maxQueryText || len(strings.Fields(v)) > maxQueryWords {
			return fmt.Sprintf("must be at most %d bytes and %d words", maxQueryText, maxQueryWords)
		}
		return once(&q.Text, v, "")
	}},
	{"state", func(q *Query, v string) string { return anyOf(&q.States, v, rowStates) }},
	{"enrollment_type", func(q *Query, v string) string { return anyOf(&q.Types, v, rowTypes) }},
	{"ownership", func(q *Query, v string) string { return anyOf(&q.Ownerships, v, rowOwnerships) }},
	{"platform", func(q *Query, v string) string { return anyOf(&q.Platforms, v, rowPlatforms) }},
	{"model", func(q *Query, v string) string { q.Models = append(q.Models, v); return "" }},
	{"user", func(q *Query, v string) string { q.Users = append(q.Users, v); return "" }},
	{"os_version", func(q *Query, v string) string {
		c, reason := parseVersionCondition(v)
		q.OSVersions = append(q.OSVersions, c)
		return reason
	}},
	{"supervised", func(q *Query, v string) string {
		var all []Supervision
		if reason := anyOf(&all, v, []Supervision{Supervised, Unsupervised, SupervisionUnsure}); reason != "" || len(all) > 1 {
			return "must be true, false or unknown"
		}
		return once(&q.Supervised, all[0], "")
	}},
	{"parent_id", func(q *Query, v string) string { return once(&q.ParentID, DeviceID(v), "") }},
	{"group_id", func(q *Query, v string) string { q.GroupIDs = append(q.GroupIDs, GroupID(v)); return "" }},
	{"last_seen", func(q *Query, v string) string {
		if v != "never" {
			return "must be never; other times are asked for by last_seen_before and last_seen_after"
		}
		return once(&q.NeverSeen, true, false)
	}},
	{"last_seen_before", func(q *Query, v string) string { return moment(&q.LastSeen.Before, v) }},
	{"last_seen_after", func(q *Query, v string) string { return moment(&q.LastSeen.Since, v) }},
	{"enrolled_before", func(q *Query, v string) string { return moment(&q.Enrolled.Before, v) }},
	{"enrolled_after", func(q *Query, v string) string { return moment(&q.Enrolled.Since, v) }},
	{"pending_commands", func(q *Query, v string) string { return yesOrNo(&q.Pending, v) }},
	{"demo", func(q *Query, v string) string { return yesOrNo(&q.Demo, v) }},
	{"sort", func(q *Query, v string) string {
		if q.Sort != ByID {
			return "is there more than once"
		}
		by, descending := strings.CutPrefix(v, "-")
		if !slices.Contains(sorts, Sort(by)) {
			return "must be one of " + oneOf(sorts) + ", with a - before it for the other direction"
		}
		q.Sort, q.Descending = Sort(by), descending
		return ""
	}},
}

// QueryFields are the names that Query.Set takes.
func QueryFields() []string {
	names := []string{"attribute"}
	for _, f := range queryFields {
		names = append(names, f.name)
	}
	return names
}

// Set adds a condition that is written as text, or says how to sort:
//
//	q                               words to look for
//	state, enrollment_type,
//	ownership, platform             one value, or several with commas in between
//	model, user                     as Query has it; any of several
//	os_version                      <18, <=18.1, >17, >=17.4, =18.2, !=18.2, or 18 for all that begin so; unknown
//	supervised                      true, false, unknown
//	parent_id                       an id
//	group_id                        that of a group; any of several
//	last_seen_before, …_after,
//	enrolled_before, …_after        a time (RFC 3339), a date, or how long ago: 90m, 24h, 30d, 2w
//	last_seen                       never
//	pending_commands, demo          true, false
//	attribute                       as of ParseAttributeCondition
//	sort                            a Sort, with - before it for descending
//
// The error is a *QueryError. A name that is not known is one, too: what is misspelt must
// not find all devices.
func (q *Query) Set(name, value string) error {
	if name != "q" {
		value = strings.TrimSpace(value)
	}
	if value == "" && name != "q" {
		return &QueryError{Field: name, Reason: "has no value"}
	}
	if name == "attribute" {
		c, err := ParseAttributeCondition(value)
		if err != nil {
			return err
		}
		if q.Attributes = append(q.Attributes, c); len(q.Attributes) > maxConditions {
			return &QueryError{Field: name, Reason: fmt.Sprintf("is there more than %d times", maxConditions)}
		}
		return nil
	}
	for _, f := range queryFields {
		if f.name != name {
			continue
		}
		if reason := f.set(q, value); reason != "" {
			return &QueryError{Field: name, Reason: reason}
		}
		if max(len(q.Models), len(q.Users), len(q.OSVersions), len(q.GroupIDs)) > maxConditions {
			return &QueryError{Field: name, Reason: fmt.Sprintf("is there more than %d times", maxConditions)}
		}
		return nil
	}
	return &QueryError{Field: name, Reason: "is no condition"}
}

// once sets what may be set once.
func once[T comparable](to *T, v, none T) (reason string) {
	if *to != none {
		return "is there more than once"
	}
	*to = v
	return ""
}

// anyOf reads values with commas in between.
func anyOf[T ~string](to *[]T, text string, known []T) (reason string) {
	for v := range strings.SplitSeq(text, ",") {
		i := slices.IndexFunc(known, func(k T) bool { return strings.EqualFold(string(k), strings.TrimSpace(v)) })
		if i < 0 {
			return "must be one of " + oneOf(known)
		}
		if !slices.Contains(*to, known[i]) {
			*to = append(*to, known[i])
		}
	}
	return ""
}

// oneOf lists values for people.
func oneOf[T ~string](values []T) string {
	var b strings.Builder
	for i, v := range values {
		switch {
		case i == 0:
		case i == len(values)-1:
			b.WriteString(" or ")
		default:
			b.WriteString(", ")
		}
		b.WriteString(string(v))
	}
	return b.String()
}

func yesOrNo(to **bool, text string) (reason string) {
	v := text == "true"
	switch {
	case !v && text != "false":
		return "must be true or false"
	case *to != nil:
		return "is there more than once"
	}
	*to = &v
	return ""
}

func moment(to *Moment, text string) (reason string) {
	const what = "must be a time such as 2026-03-01T12:00:00Z, a date, or how long ago: 90m, 24h, 30d, 2w"
	if *to != (Moment{}) {
		return "is there more than once"
	}
	at, err := parseMoment(text)
	if err == nil {
		*to = Moment{At: at}
		return ""
	}
	units := map[byte]time.Duration{'d': 24 * time.Hour, 'w': 7 * 24 * time.Hour}
	if unit := units[text[len(text)-1]]; unit != 0 {
		n, err := strconv.ParseUint(text[:len(text)-1], 10, 16)
		if err != nil || n == 0 || n > 36500 {
			return what
		}
		*to = Moment{Ago: time.Duration(n) * unit}
		return ""
	}
	ago, err := time.ParseDuration(text)
	if err != nil || ago <= 0 {
		return what
	}
	*to = Moment{Ago: ago}
	return ""
}

// parseMoment reads a time or a date, which begins at midnight UTC.
func parseMoment(text string) (time.Time, error) {
	if at, err := time.Parse(time.DateOnly, text); err == nil {
		return at, nil
	}
	at, err := time.Parse(time.RFC3339, text)
	if y := at.Year(); err == nil && (y < 1970 || y > 2200) { // what nanoseconds can't count
		return time.Time{}, strconv.ErrRange
	}
	return at.UTC(), err
}

func parseVersionCondition(text string) (c VersionCondition, reason string) {
	if text == "unknown" {
		return VersionCondition{Op: Absent}, ""
	}
	c.Op, c.Version = Contains, text
	for _, op := range []AttributeOp{NotEqual, LessOrEqual, GreaterOrEqual, Equal, Less, Greater} {
		if rest, ok := strings.CutPrefix(text, string(op)); ok {
			c.Op, c.Version = op, strings.TrimSpace(rest)
			break
		}
	}
	parts := strings.Split(c.Version, ".")
	if len(parts) > 4 || slices.ContainsFunc(parts, func(p string) bool { _, err := strconv.ParseUint(p, 10, 16); return err != nil }) || versionNumber(c.Version) == 0 {
		return c, "must be a version such as 18.2, perhaps with <, <=, >, >=, = or != before it, or unknown"
	}
	return c, ""
}

// bind tells queries apart: cursors hold it.
func (q Query) bind() (sum [8]byte, err error) {
	b, err := json.Marshal(q)
	if err != nil {
		return sum, fmt.Errorf("query: %w", err)
	}
	all := sha256.Sum256(b)
	copy(sum[:], all[:])
	return sum, nil
}
