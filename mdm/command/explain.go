package command

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"
)

// Explanation is what there is to know of one command, or of one type of payload, for a person
// to read and for JSON. With a target it says what that device may get of it.
type Explanation struct {
	Name    string   `json:"name"`
	Title   string   `json:"title"`   // in words
	Summary string   `json:"summary"` // what it is for
	Facts   []string `json:"facts"`   // what it takes and where it works, a line each
	Target  string   `json:"target"`  // in words; empty: none was named
	// Refusal is why the target may not get it; null: it may, or there is none.
	Refusal *Refusal       `json:"refusal"`
	Keys    []ExplainedKey `json:"keys"`
}

// ExplainedKey is a key, a shape of an array's elements, or a value that has facts of its own.
type ExplainedKey struct {
	Name    string         `json:"name"`
	Type    string         `json:"type"` // "array of string"
	Notes   []string       `json:"notes"`
	Refused string         `json:"refused"` // why the target may not get it; empty: it may
	Keys    []ExplainedKey `json:"keys"`
}

// Explain returns what there is to know of a command, and what of it target may get; target
// may be nil. For a name that is no command, the error wraps ErrUnknownType and has the nearest
// one.
func Explain(requestType string, target *Target) (Explanation, error) {
	t, known := Lookup(requestType)
	if !known {
		return Explanation{}, unknownType(requestType)
	}
	purpose := purposes[t.RequestType]
	e := Explanation{Name: t.RequestType, Title: t.Words(), Summary: purpose.sentence, Keys: ExplainKeys(t.Keys, target)}
	if t.Destructive {
		e.Facts = append(e.Facts, `It can't be undone: sending it takes "confirm": true.`)
	}
	same := true // the access right, on all platforms
	for _, a := range t.Platforms {
		same = same && (a == nil || a.RightBit == t.RightBit)
	}
	if same && t.RightBit != 0 {
		e.Facts = append(e.Facts, fmt.Sprintf("access right %s (%d)", t.Right, t.RightBit))
	}
	e.Facts = append(e.Facts, platformFacts(t.Platforms, true, !same)...)
	for i := range e.Keys {
		if slices.Contains(t.Filled, e.Keys[i].Name) {
			e.Keys[i].Notes = append(e.Keys[i].Notes, "filled in by the server where it is missing")
		}
	}
	if target == nil {
		return e, nil
	}
	e.Target = target.String()
	if no, ok := errors.AsType[*Refusal](t.Check(*target)); ok {
		e.Refusal = no
	}
	for i := range e.Keys {
		key := &e.Keys[i]
		switch {
		case slices.Contains(t.Filled, key.Name) && t.Keys[i].Platforms[target.Platform] == nil:
			key.Refused = "" // of no effect there: see CheckParams
		case t.RequestType == "DeviceInformation" && key.Name == "Queries" && !target.UserEnrollment:
			for j := range key.Keys {
				if value := &key.Keys[j]; value.Refused != "" {
					value.Notes = append(value.Notes, "left out of the answer: "+value.Refused)
					value.Refused = ""
				}
			}
		}
	}
	return e, nil
}

// ExplainKeys explains keys of any kind, those of payloads as well.
func ExplainKeys(keys []Key, target *Target) []ExplainedKey {
	out := make([]ExplainedKey, 0, len(keys))
	for _, k := range keys {
		if strings.HasPrefix(k.Name, "ANY") {
			continue
		}
		e := ExplainedKey{Name: k.Name, Type: k.typeWords(), Notes: k.notes()}
		if target != nil {
			if no := k.deny(*target); no != nil {
				e.Refused = no.reason
			}
		}
		switch {
		case k.Kind == Array && len(k.Items) == 1 && k.Items[0].Kind == Dictionary:
			e.Keys = ExplainKeys(k.Items[0].Keys, target)
		case k.Kind == Array && len(k.Items) == 1:
			e.Notes = append(e.Notes, k.Items[0].notes()...)
			e.Keys = explainChoices(k.Items[0], target)
		case k.Kind == Array:
			e.Keys = ExplainKeys(k.Items, target)
		case k.Kind == Dictionary:
			e.Keys = ExplainKeys(k.Keys, target)
		default:
			e.Keys = explainChoices(k, target)
		}
		out = append(out, e)
	}
	return out
}

// explainChoices explains the values that a scalar may have, where they have facts.
func explainChoices(k Key, target *Target) []ExplainedKey {
	if k.Kind == Any || !slices.ContainsFunc(k.Keys, func(k Key) bool { return len(k.Platforms) > 0 }) {
		return nil
	}
	choices := ExplainKeys(k.Keys, target)
	for i := range choices {
		choices[i].Type = ""
	}
	return choices
}

// typeWords returns the type of k's values.
func (k Key) typeWords() string {
	switch {
	case k.Kind == Array && len(k.Items) == 1:
		return "array of " + k.Items[0].typeWords()
	case k.Kind == Array && len(k.Items) > 1:
		return "array of dictionary, by Item"
	case k.Kind == Data:
		return "data (base64)"
	}
	return string(k.Kind)
}

// notes returns what is to be said of k beside its type.
func (k Key) notes() []string {
	var notes []string
	if k.Required {
		notes = append(notes, "required")
	}
	if k.Default != nil {
		notes = append(notes, fmt.Sprintf("default %v", k.Default))
	}
	if allowed := values(k); len(allowed) > 0 && explainChoices(k, nil) == nil {
		notes = append(notes, "one of "+strings.Join(allowed, ", "))
	}
	if b := bounds(k); b != "" {
		notes = append(notes, strings.TrimPrefix(b, ": "))
	}
	return append(notes, platformFacts(k.Platforms, false, true)...)
}

// platformFacts says where something works, a line for each platform. Of a part they say only
// how it differs from the whole.
func platformFacts(platforms map[Platform]*Availability, whole, rights bool) []string {
	var lines, not []string
	for _, p := range Platforms() {
		a, said := platforms[p]
		switch {
		case a != nil:
			if words := a.words(p, whole, rights); whole || len(words) > 0 {
				lines = append(lines, p.String()+" "+strings.Join(words, ", "))
			}
		case said:
			not = append(not, p.String())
		}
	}
	if len(not) > 0 {
		lines = append(lines, "not on "+strings.Join(not, ", "))
	}
	return lines
}

func (a *Availability) words(p Platform, whole, rights bool) []string {
	var words []string
	add := func(when bool, format string, args ...any) {
		if when {
			words = append(words, fmt.Sprintf(format, args...))
		}
	}
	add(a.Introduced != "", "%s or later", a.Introduced)
	add(a.Deprecated != "", "deprecated in %s", a.Deprecated)
	add(a.Removed != "", "removed in %s", a.Removed)
	add(a.Supervised, "supervised")
	add(a.RequiresADE, "by Automated Device Enrollment")
	add(a.UserApproved, "approved by its user")
	add(rights && a.RightBit != 0, "with the access right %s (%d)", a.Right, a.RightBit)
	add(a.UserEnrollment == "allowed" && a.UserEnrollmentSince == "", "allowed in User Enrollment")
	add(a.UserEnrollmentSince != "", "allowed in User Enrollment from %s", a.UserEnrollmentSince)
	add(a.UserEnrollment == forbidden, "not in User Enrollment")
	if p == MacOS {
		device, user := is(a.DeviceChannel, true), is(a.UserChannel, !whole)
		add(whole && device && user, "to the device or one of its users")
		add(!device, "to a user only")
		add(!whole && !user, "to the device only")
	}
	add(a.SharedIPad.Mode == "required", "Shared iPad only")
	add(a.SharedIPad.Mode == forbidden, "not on a Shared iPad")
	add(is(a.SharedIPad.UserChannel, false), "also to users of a Shared iPad")
	return words
}

// WriteText writes the explanation for a terminal.
func (e Explanation) WriteText(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s\n", e.Name, e.Title)
	wrap(&b, "  ", e.Summary)
	if len(e.Facts) > 0 {
		b.WriteByte('\n')
	}
	for _, fact := range e.Facts {
		wrap(&b, "  ", fact)
	}
	if e.Target != "" {
		fmt.Fprintf(&b, "\nTo %s:\n", e.Target)
		if e.Refusal == nil {
			wrap(&b, "  ", "allowed")
		} else {
			wrap(&b, "  ", "refused ("+e.Refusal.Code+"): "+e.Refusal.Reason)
		}
	}
	if len(e.Keys) == 0 {
		b.WriteString("\nIt has no keys.\n")
	} else {
		b.WriteString("\nKeys:\n")
		writeKeys(&b, "  ", e.Keys)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func writeKeys(b *strings.Builder, indent string, keys []ExplainedKey) {
	for _, k := range keys {
		line := k.Name
		if k.Type != "" {
			line += "  " + k.Type
		}
		if len(k.Notes) > 0 {
			line += "; " + strings.Join(k.Notes, "; ")
		}
		wrap(b, indent, line)
		if k.Refused != "" {
			wrap(b, indent+"    ", "! refused: "+k.Refused)
		}
		writeKeys(b, indent+"  ", k.Keys)
	}
}

// wrap writes text in lines that fit a terminal. Those after the first go further in.
func wrap(b *strings.Builder, indent, text string) {
	const width = 100
	line, words := indent, 0
	for word := range strings.SplitSeq(text, " ") {
		if words > 0 && utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) > width {
			b.WriteString(strings.TrimRight(line, " ") + "\n")
			line, words = indent+"    ", 0
		}
		if words > 0 {
			line += " "
		}
		line += word
		words++
	}
	b.WriteString(strings.TrimRight(line, " ") + "\n")
}
