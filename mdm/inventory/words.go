package inventory

import (
	"cmp"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/gatehouse-mdm/gatehouse/mdm/command"
)

// Words are a Change for a person.
type Words struct {
	Label    string // "Slack", "Supervised"
	Old, New string // "4.41", "yes"; empty where there is nothing to say
	Summary  string // "Slack 4.41 → 4.42"
}

// Words returns c for a person to read.
func (c Change) Words() Words {
	w := Words{Label: cmp.Or(c.Label, c.Path), Old: plainText(c.Old), New: plainText(c.New)}
	if !c.Source.IsList() && c.Kind == Changed {
		if fact, ok := c.fact(c.Old); ok {
			w.Old = fact.Value
		}
		if fact, ok := c.fact(c.New); ok {
			w.Label, w.New = fact.Label, fact.Value
		}
		w.Summary = fmt.Sprintf("%s: %s → %s", w.Label, w.Old, w.New)
		return w
	}
	what := map[Source]string{
		InstalledApplicationList: "App", ManagedApplicationList: "Managed app", ProfileList: "Profile", CertificateList: "Certificate",
	}[c.Source]
	version := ""
	switch c.Kind {
	case Omitted:
		w.Label = string(c.Source)
		w.Summary = w.New + " more changes, which were not kept"
		return w
	case Added:
		version = w.New
	case Removed:
		version = w.Old
	case Changed:
		if c.Source != ProfileList {
			w.Summary = fmt.Sprintf("%s %s → %s", w.Label, w.Old, w.New)
			return w
		}
	}
	if c.Source == InstalledApplicationList && version != "" {
		version = " " + version
	} else {
		version = "" // the UUID of a profile says nothing
	}
	w.Summary = fmt.Sprintf("%s %s%s %s", what, w.Label, version, map[ChangeKind]string{Added: "added", Removed: "removed", Changed: "replaced"}[c.Kind])
	return w
}

// fact returns what an answer with nothing but v at c's path would say.
func (c Change) fact(v json.RawMessage) (command.Fact, bool) {
	names := strings.Split(c.Path, ".")
	if c.Source == DeviceInformation {
		names = append([]string{"QueryResponses"}, names...)
	} else {
		names = append([]string{string(c.Source)}, names...)
	}
	var answer any = v
	for i := len(names) - 1; i >= 0; i-- {
		answer = map[string]any{names[i]: answer}
	}
	b, err := json.Marshal(answer)
	if err != nil {
		return command.Fact{}, false
	}
	facts, err := command.Facts(string(c.Source), b)
	if err != nil || len(facts) != 1 {
		return command.Fact{}, false
	}
	return facts[0], true
}

// plainText returns a JSON value as a text: a string without its quotes.
func plainText(v json.RawMessage) string {
	var s string
	if json.Unmarshal(v, &s) == nil {
		return s
	}
	return string(v)
}

// ReadableFact is a [command.Fact] with where it is from.
type ReadableFact struct {
	command.Fact
	Origin Origin
}

// Readable returns the facts of r for a person, in the order of Apple's pages. The Path of each
// begins with its Name in Facts.
func (r Report) Readable() ([]ReadableFact, error) {
	facts, err := command.Facts(string(r.Source), r.Value)
	if err != nil {
		return nil, fmt.Errorf("facts of %s: %w", r.Source, err)
	}
	from := make(map[string]Origin, len(r.Facts))
	for _, f := range r.Facts {
		from[f.Name] = f.Origin
	}
	readable := make([]ReadableFact, len(facts))
	for i, f := range facts {
		_, f.Path, _ = strings.Cut(f.Path, ".")
		name, _, _ := strings.Cut(f.Path, ".")
		name, _, _ = strings.Cut(name, "[")
		readable[i] = ReadableFact{f, from[name]}
	}
	return readable, nil
}
