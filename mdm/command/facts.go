package command

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// Fact is one thing that a device said, for a person to read.
type Fact struct {
	Path  string          // where it stands in the answer: "SecurityInfo.FDE_Enabled"; empty for what Facts itself says
	Label string          // "FileVault"
	Value string          // "on"; of a table the number of its rows, "212 entries"
	Raw   json.RawMessage // the value as of DecodeResult; nil for a table, and where it is long
	Table *Table          // of a list of dictionaries
}

// Table holds a list of dictionaries: apps, profiles, users. What an answer has of
// dictionaries within a row is in columns of its own ("details.cache-size").
type Table struct {
	Columns     []Column
	Rows        []Row
	More        int // rows that were left out
	MoreColumns int // columns that were left out
}

// Column is a column of a Table.
type Column struct {
	Key   string // "ShortVersion"; with the row's path, the path of a cell
	Label string // "Short version"
}

// Row is a row of a Table: a cell for each of its columns.
type Row struct {
	Path  string // "InstalledApplicationList[3]"
	Cells []Cell
}

// Cell is a value in a Table: as of Fact, both empty where the row has none.
type Cell struct {
	Value string
	Raw   json.RawMessage
}

// Bounds of what Facts returns: a page that anybody can read has less, and an answer
// of 8 MiB can't make more of it.
const (
	maxFacts   = 2_000
	maxRows    = 2_000
	maxColumns = 48
	maxCells   = 60_000 // of all tables
	maxText    = 1_000  // bytes of a text
	maxRawFact = 4_096  // bytes of a Raw
	maxListed  = 50     // of a list in one text
	maxFlat    = 4      // levels of dictionaries in a row that become columns
)

// Facts returns an answer, as of DecodeResult, for a person: in the order of Apple's
// pages, with values in words. Secrets read Redacted, whatever result holds. A type
// that the catalogue does not know gets plain facts.
//
// An answer that is longer than anybody reads is cut, and says so. The error says that
// result is no JSON object; no result has no facts.
func Facts(requestType string, result json.RawMessage) ([]Fact, error) {
	answer, err := decodeAnswer(result)
	if err != nil {
		return nil, err
	}
	t, _ := Lookup(requestType)
	w := walk{cells: maxCells}
	w.dictionary("", "", answer, t.Response, 0)
	if w.cut > 0 {
		w.facts = append(w.facts, Fact{Label: "More", Value: amount(w.cut, "value", "values") + " not shown"})
	}
	return w.facts, nil
}

// decodeAnswer reads a result of DecodeResult; integers stay exact.
func decodeAnswer(result json.RawMessage) (map[string]any, error) {
	if len(result) == 0 {
		return nil, nil
	}
	dec := json.NewDecoder(bytes.NewReader(result))
	dec.UseNumber()
	var answer map[string]any
	if err := dec.Decode(&answer); err != nil {
		return nil, fmt.Errorf("command: result: %w", err)
	}
	if answer == nil {
		return nil, errors.New("command: result is not an object")
	}
	return answer, nil
}

// envelopes are the dictionaries that only wrap an answer: what stands in them needs
// no "SecurityInfo:" before its name.
var envelopes = []string{
	"QueryResponses", "SecurityInfo", "StatusResponse", "RotateResult", "SetFirmwarePassword", "VerifyFirmwarePassword",
}

// walk collects the facts of one answer.
type walk struct {
	facts []Fact
	cells int // that tables may still have
	cut   int // facts that found no room
}

func (w *walk) add(f Fact) { w.facts = append(w.facts, f) }

// dictionary adds the facts of d. keys are what Apple documents of it, about is what
// it is called, empty where that says nothing.
func (w *walk) dictionary(path, about string, d map[string]any, keys []Key, depth int) {
	for _, name := range inOrder(d, keys) {
		w.value(within(path, name), about, d[name], keyFor(keys, name), depth+1)
	}
}

func (w *walk) value(path, about string, v any, k Key, depth int) {
	if len(w.facts) == maxFacts {
		w.cut++
		return
	}
	label := labelOf(k.Name)
	if about != "" {
		label = about + ": " + uncapitalized(label)
	}
	if _, said := v.(bool); !said && isSecret(k.Name) && v != nil {
		w.add(Fact{Path: path, Label: label, Value: Redacted, Raw: redactedJSON})
		return
	}
	switch v := v.(type) {
	case map[string]any:
		switch {
		case len(v) == 0:
			w.add(Fact{Path: path, Label: label, Value: "none", Raw: json.RawMessage("{}")})
		case restrictionsOf[k.Name] != nil:
			t := restrictionsOf[k.Name](path, v)
			if room := w.cells / len(t.Columns); len(t.Rows) > room {
				t.Rows, t.More = t.Rows[:room], t.More+len(t.Rows)-room
			}
			w.table(path, label, t)
		case tabular(v, k):
			w.keyed(path, label, v, k)
		case depth > maxFlat:
			w.add(Fact{Path: path, Label: label, Value: text(v, k)})
		case slices.Contains(envelopes, k.Name):
			w.dictionary(path, about, v, k.Keys, depth)
		default:
			w.dictionary(path, label, v, k.Keys, depth)
		}
	case []any:
		if !slices.ContainsFunc(v, isDictionary) || k.Name == "ErrorChain" {
			w.add(Fact{Path: path, Label: label, Value: text(v, k), Raw: raw(v)})
			return
		}
		w.listed(path, label, v, k)
	default:
		w.add(Fact{Path: path, Label: label, Value: text(v, k), Raw: raw(v)})
	}
}

// tabular holds for a dictionary whose names are data, the apps of a
// ManagedApplicationList for one: each is a row.
func tabular(d map[string]any, k Key) bool {
	if i := wildcard(k.Keys); i >= 0 {
		return k.Keys[i].Name != "ANY" || len(k.Keys[i].Keys) > 0
	}
	return false
}

// wildcard returns the index of the key that stands for names of somebody else's
// choice: "ANY app identifier", in one place "Category Name". None is -1.
func wildcard(keys []Key) int {
	return slices.IndexFunc(keys, func(k Key) bool {
		return strings.HasPrefix(k.Name, "ANY") || k.Name == "Category Name"
	})
}

// keyed adds a dictionary of rows, the first column being their names.
func (w *walk) keyed(path, label string, d map[string]any, k Key) {
	row := k.Keys[wildcard(k.Keys)]
	key := strings.TrimPrefix(row.Name, "ANY ")
	tab := newTabulator(row.Keys)
	tab.plain = row
	for _, name := range slices.Sorted(maps.Keys(d)) {
		tab.row(within(path, name), name, d[name])
	}
	w.table(path, label, tab.table(Column{Label: labelOf(key)}, w.cells))
}

// listed adds a list of rows.
func (w *walk) listed(path, label string, list []any, k Key) {
	keys := k.Keys // Apple documents the Settings of an answer as a dictionary; devices send a list
	if len(k.Items) == 1 {
		keys = k.Items[0].Keys
	}
	tab := newTabulator(keys)
	for i, element := range list {
		tab.row(fmt.Sprintf("%s[%d]", path, i), "", element)
	}
	w.table(path, label, tab.table(Column{}, w.cells))
}

func (w *walk) table(path, label string, t *Table) {
	w.cells -= len(t.Rows) * len(t.Columns)
	w.add(Fact{Path: path, Label: label, Value: amount(len(t.Rows)+t.More, "entry", "entries"), Table: t})
}

// tabulator makes a table of dictionaries that need not have the same keys.
type tabulator struct {
	keys  []Key // of a row that is a dictionary
	plain Key   // of one that is none
	rows  []tabled
	more  int
	named bool                // rows have names
	seen  map[string]struct{} // columns
}

// tabled is a row of a tabulator.
type tabled struct {
	path, name string
	values     map[string]any // by column
	kinds      map[string]Key
}

func newTabulator(keys []Key) *tabulator {
	return &tabulator{keys: keys, seen: make(map[string]struct{})}
}

func (t *tabulator) row(path, name string, v any) {
	if len(t.rows) == maxRows {
		t.more++
		return
	}
	r := tabled{path: path, name: name, values: make(map[string]any), kinds: make(map[string]Key)}
	t.named = t.named || name != ""
	if d, ok := v.(map[string]any); ok {
		t.flatten(&r, "", d, t.keys, 1)
	} else {
		t.set(&r, "", v, t.plain)
	}
	t.rows = append(t.rows, r)
}

// flatten puts the values of d into r; dictionaries within it become columns too.
func (t *tabulator) flatten(r *tabled, prefix string, d map[string]any, keys []Key, depth int) {
	for name, v := range d {
		k, column := keyFor(keys, name), within(prefix, name)
		if inner, ok := v.(map[string]any); ok && depth < maxFlat && len(inner) > 0 && !isSecret(name) && wildcard(k.Keys) < 0 {
			t.flatten(r, column, inner, k.Keys, depth+1)
			continue
		}
		t.set(r, column, v, k)
	}
}

func (t *tabulator) set(r *tabled, column string, v any, k Key) {
	if _, known := t.seen[column]; !known && len(t.seen) >= 4*maxColumns {
		return // names of nobody's choosing: these are no columns
	}
	t.seen[column] = struct{}{}
	r.values[column], r.kinds[column] = v, k
}

// table returns at most cells cells, and rows without any where those are used up.
func (t *tabulator) table(first Column, cells int) *Table {
	var columns []string
	known := columnsOf(t.keys, "", 1)
	for _, c := range known {
		if _, seen := t.seen[c]; seen {
			columns = append(columns, c)
		}
	}
	for _, c := range slices.Sorted(maps.Keys(t.seen)) {
		if !slices.Contains(known, c) {
			columns = append(columns, c)
		}
	}
	out := &Table{More: t.more}
	if len(columns) > maxColumns {
		out.MoreColumns = len(columns) - maxColumns
		columns = columns[:maxColumns]
	}
	if t.named {
		out.Columns = append(out.Columns, first)
	}
	for _, c := range columns {
		out.Columns = append(out.Columns, Column{Key: c, Label: columnLabel(c)})
	}
	rows := t.rows
	if room := cells / max(1, len(out.Columns)); len(rows) > room {
		out.More += len(rows) - room
		rows = rows[:room]
	}
	for _, r := range rows {
		row := Row{Path: r.path, Cells: make([]Cell, 0, len(out.Columns))}
		if t.named {
			row.Cells = append(row.Cells, Cell{Value: clipText(r.name)})
		}
		for _, c := range columns {
			v, there := r.values[c]
			if !there {
				row.Cells = append(row.Cells, Cell{})
				continue
			}
			row.Cells = append(row.Cells, cell(v, r.kinds[c]))
		}
		out.Rows = append(out.Rows, row)
	}
	return out
}

func cell(v any, k Key) Cell {
	if _, said := v.(bool); !said && isSecret(k.Name) && v != nil {
		return Cell{Value: Redacted, Raw: redactedJSON}
	}
	return Cell{Value: text(v, k), Raw: raw(v)}
}

// columnsOf returns the columns that keys can have, in Apple's order.
func columnsOf(keys []Key, prefix string, depth int) []string {
	var columns []string
	for _, k := range keys {
		column := within(prefix, k.Name)
		columns = append(columns, column)
		if k.Kind == Dictionary && depth < maxFlat {
			columns = append(columns, columnsOf(k.Keys, column, depth+1)...)
		}
	}
	return columns
}

func columnLabel(column string) string {
	if column == "" {
		return "Value"
	}
	parts := strings.Split(column, ".")
	label := labelOf(parts[0])
	for _, p := range parts[1:] {
		label += ": " + uncapitalized(labelOf(p))
	}
	return clipText(label)
}

// restrictionsOf turn what a Restrictions command answers, four dictionaries of values
// in dictionaries, into one table of restrictions.
var restrictionsOf = map[string]func(path string, d map[string]any) *Table{
	"GlobalRestrictions": func(path string, d map[string]any) *Table {
		t := &Table{Columns: []Column{{Label: "Restriction"}, {Key: "value", Label: "Value"}}}
		restrictions(t, path, nil, d)
		return t
	},
	"ProfileRestrictions": func(path string, d map[string]any) *Table {
		t := &Table{Columns: []Column{{Label: "Profile"}, {Label: "Restriction"}, {Key: "value", Label: "Value"}}}
		for _, profile := range slices.Sorted(maps.Keys(d)) {
			if of, ok := d[profile].(map[string]any); ok {
				restrictions(t, within(path, profile), []Cell{{Value: clipText(profile)}}, of)
			}
		}
		return t
	},
}

func restrictions(t *Table, path string, first []Cell, d map[string]any) {
	for _, kind := range slices.Sorted(maps.Keys(d)) {
		of, _ := d[kind].(map[string]any)
		for _, name := range slices.Sorted(maps.Keys(of)) {
			if len(t.Rows) == maxRows {
				t.More++
				continue
			}
			var v any = of[name]
			if in, ok := v.(map[string]any); ok {
				if v = in["value"]; v == nil {
					v = in["values"]
				}
			}
			row := Row{Path: within(within(path, kind), name)}
			row.Cells = append(append(row.Cells, first...), Cell{Value: clipText(name)}, cell(v, Key{Name: name}))
			t.Rows = append(t.Rows, row)
		}
	}
}

// inOrder returns the names in d: Apple's first, in Apple's order, then others.
func inOrder(d map[string]any, keys []Key) []string {
	names := make([]string, 0, len(d))
	for _, k := range keys {
		if _, there := d[k.Name]; there {
			names = append(names, k.Name)
		}
	}
	if len(names) == len(d) {
		return names
	}
	documented := len(names)
	for name := range d {
		if !slices.Contains(names[:documented], name) {
			names = append(names, name)
		}
	}
	slices.Sort(names[documented:])
	return names
}

// keyFor returns what keys say of name, under its name.
func keyFor(keys []Key, name string) Key {
	i := slices.IndexFunc(keys, func(k Key) bool { return k.Name == name })
	if i < 0 {
		return Key{Name: name}
	}
	return keys[i]
}

func within(path, name string) string {
	name = clip(name)
	if path == "" {
		return name
	}
	return path + "." + name
}

func isDictionary(v any) bool {
	_, ok := v.(map[string]any)
	return ok
}

var redactedJSON = json.RawMessage(`"` + Redacted + `"`)

// raw returns v as JSON without its secrets, nil where it is long.
func raw(v any) json.RawMessage {
	switch v := v.(type) {
	case json.Number:
		if len(v) <= maxRawFact {
			return json.RawMessage(v)
		}
		return nil
	case bool:
		return strconv.AppendBool(nil, v)
	}
	if s, ok := v.(string); ok && len(s) > maxRawFact {
		return nil
	}
	if list, ok := v.([]any); ok && len(list) > maxRawFact/2 {
		return nil
	}
	encoded, err := json.Marshal(unsecret(v))
	if err != nil || len(encoded) > maxRawFact {
		return nil
	}
	return encoded
}

// unsecret returns v with the values of secret keys redacted, as plain does.
func unsecret(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := make(map[string]any, len(v))
		for name, value := range v {
			if _, said := value.(bool); !said && isSecret(name) && value != nil {
				out[name] = Redacted
				continue
			}
			out[name] = unsecret(value)
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, value := range v {
			out[i] = unsecret(value)
		}
		return out
	}
	return v
}
