package commands

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gatehouse-mdm/gatehouse/webui/admin"
)

// key is a parameter of a command, or one shape of an array's elements, as the API
// describes it.
type key struct {
	Name      string               `json:"name"`
	Type      string               `json:"type"`
	Required  bool                 `json:"required"`
	Default   any                  `json:"default"`
	Values    []string             `json:"values"`
	Min       *float64             `json:"min"`
	Max       *float64             `json:"max"`
	Secret    bool                 `json:"secret"`
	Free      bool                 `json:"free"`
	Platforms map[string]*platform `json:"platforms"`
	Keys      []key                `json:"keys"`
	Items     []key                `json:"items"`
	Choices   []key                `json:"choices"`
	Refused   string               `json:"refused"`
}

// node is a part of a form that draws itself from keys: a field, or what holds others.
type node struct {
	Kind   string // field, checks, data, group, rows, or not: what the device can’t have
	Name   string // of the key, as Apple spells it
	Field  admin.Field
	Hint   string
	Open   bool
	Nodes  []node
	Rows   []row
	Shapes []admin.Option // of the next row; none: all are alike
	Add    string         // what the button that adds a row sends
	Count  int            // rows
	Path   string

	// Removes says that an empty value takes away what is there, and Emptied that somebody
	// wants that.
	Removes, Emptied bool
}

// row is an element of a list of dictionaries.
type row struct {
	Legend string
	Path   string
	Item   string // which shape it has; empty: there is only one
	Error  string
	Nodes  []node
	Remove string // what the button sends
}

// maxRows bounds the rows of one list.
const maxRows = 50

// draw makes the controls for keys, with what f holds of them. prefix is the name of the
// dictionary that they are in, as the API calls it: params, or params.Settings[0].
func draw(f *admin.Form, prefix string, keys []key) []node {
	nodes := make([]node, 0, len(keys))
	var not []node
	for _, k := range ordered(keys) {
		switch path := prefix + "." + k.Name; {
		case k.Name == "Item" && strings.HasSuffix(prefix, "]") && f.Values.Has(path): // the row says which it is
		case k.Refused != "":
			not = append(not, node{Name: label(k.Name), Hint: admin.Because(k.Name, k.Refused)})
		default:
			nodes = append(nodes, drawKey(f, path, k))
		}
	}
	if len(not) > 0 {
		nodes = append(nodes, node{Kind: "not", Nodes: not})
	}
	return nodes
}

// ordered has what must be there first.
func ordered(keys []key) []key {
	out := slices.Clone(keys)
	slices.SortStableFunc(out, func(a, b key) int { return rank(a) - rank(b) })
	return out
}

func rank(k key) int {
	switch {
	case k.Required:
		return 0
	case k.Type == "dictionary" && !k.Free:
		return 2
	}
	return 1
}

func drawKey(f *admin.Form, path string, k key) node {
	n := node{Kind: "field", Name: k.Name, Path: path, Hint: k.hint(), Field: admin.Field{
		Name: path, Label: label(k.Name), Type: "text", ID: idOf(path), Required: k.Required,
		Value: f.Values.Get(path), Error: f.Errors[path], Autocomplete: "off",
	}}
	n.Field.Hint = n.Hint
	switch {
	case k.Type == "dictionary" && !k.Free:
		return drawGroup(f, n, k)
	case k.Type == "array":
		return drawArray(f, n, k)
	case k.Type == "boolean":
		n.choose(f, "select", append([]admin.Option{{Label: k.unset()}}, admin.Options("true", "Yes", "false", "No")...))
	case len(k.Values) > 0:
		kind := "select"
		if len(k.Values) <= 4 && k.Required {
			kind = "radio"
		}
		n.choose(f, kind, k.options(kind == "select"))
	case k.Type == "data":
		n.Kind = "data"
		n.Field.Type, n.Field.Mono, n.Field.Rows = "textarea", true, 3
		if k.Secret || len(n.Field.Value) > keptData {
			n.Field.Value = ""
		}
	case k.Free || k.Type == "any":
		n.Field.Type, n.Field.Mono, n.Field.Rows, n.Field.Placeholder = "textarea", true, 4, `{"key": "value"}`
	case k.Secret:
		n.Removes = k.Name == "NewPassword"
		n.Emptied = f.Has("empty "+path, "true")
		n.Field.Type, n.Field.Value, n.Field.Autocomplete = "password", "", "new-password"
		if k.Name == "PIN" {
			n.Field.InputMode = "numeric"
		}
	case k.Type == "integer":
		n.Field.InputMode = "numeric"
	case k.Type == "real":
		n.Field.InputMode = "decimal"
	case k.Type == "date":
		n.Field.Type = "datetime-local"
	case slices.Contains(long, k.Name):
		n.Field.Type, n.Field.Rows = "textarea", 3
	case strings.HasSuffix(k.Name, "URL"):
		n.Field.InputMode = "url"
	}
	return n
}

// long are the texts for which a line is too short.
var long = []string{"Message", "Footnote", "LostModeMessage"}

// keptData is up to how many characters of base64 a form holds again what was uploaded, as
// no browser chooses a file twice.
const keptData = 256 << 10

func (n *node) choose(f *admin.Form, kind string, options []admin.Option) {
	n.Field.Type, n.Field.Options = kind, options
	for i, o := range options {
		n.Field.Options[i].Selected = f.Has(n.Path, o.Value) || o.Value == "" && !f.Values.Has(n.Path)
	}
}

// unset is what a select says for leaving a key out.
func (k key) unset() string {
	switch d := k.Default.(type) {
	case nil:
	case bool:
		if d {
			return "Not set (the device takes it as yes)"
		}
		return "Not set (the device takes it as no)"
	default:
		return fmt.Sprintf("Not set (the device takes %v)", d)
	}
	if k.Required {
		return "Choose …"
	}
	return "Not set"
}

func (k key) options(empty bool) []admin.Option {
	var options []admin.Option
	if empty {
		options = append(options, admin.Option{Label: k.unset()})
	}
	for _, v := range k.Values {
		o := admin.Option{Value: v, Label: v}
		if i := slices.IndexFunc(k.Choices, func(c key) bool { return c.Name == v }); i >= 0 && k.Choices[i].Refused != "" {
			o.Disabled, o.Hint = true, admin.Because(v, k.Choices[i].Refused)
			if empty {
				o.Label += ": " + o.Hint // a select shows no hints
			}
		}
		options = append(options, o)
	}
	return options
}

func drawGroup(f *admin.Form, n node, k key) node {
	n.Kind = "group"
	n.Nodes = draw(f, n.Path, k.Keys)
	n.Open = k.Required
	for name := range f.Values {
		n.Open = n.Open || strings.HasPrefix(name, n.Path+".") && f.Get(name) != ""
	}
	for name := range f.Errors {
		n.Open = n.Open || strings.HasPrefix(name, n.Path)
	}
	return n
}

func drawArray(f *admin.Form, n node, k key) node {
	if len(k.Items) == 1 && len(k.Items[0].Values) > 0 {
		n.Kind = "checks"
		item := k.Items[0]
		n.Field.Options = item.options(false)
		for i, o := range n.Field.Options {
			n.Field.Options[i].Selected = f.Has(n.Path, o.Value)
			n.Open = n.Open || n.Field.Options[i].Selected
		}
		n.Open = n.Open || n.Field.Error != "" || len(n.Field.Options) <= 12
		return n
	}
	if !k.ofDictionaries() {
		n.Field.Type, n.Field.Rows = "textarea", 4
		n.Field.Hint = join(n.Hint, "One a line.")
		if len(k.Items) == 1 && k.Items[0].Type == "data" {
			n.Field.Mono, n.Field.Hint = true, join(n.Hint, "Base64, one a line.")
		}
		return n
	}
	n.Kind, n.Add, n.Open = "rows", "add "+n.Path, true
	n.Count = rowsOf(f, n.Path)
	if len(k.Items) > 1 {
		for _, shape := range k.Items {
			o := admin.Option{Value: shape.Name, Label: label(shape.Name)}
			if shape.Refused != "" {
				o.Disabled, o.Label = true, o.Label+": "+admin.Because(shape.Name, shape.Refused)
			}
			n.Shapes = append(n.Shapes, o)
		}
	}
	for i := range n.Count {
		path := element(n.Path, i)
		shape, ok := k.shape(f.Values.Get(path + ".Item"))
		if !ok {
			continue
		}
		r := row{Legend: fmt.Sprintf("%s %d", label(k.Name), i+1), Path: path, Remove: "remove " + path, Error: f.Errors[path]}
		if len(k.Items) > 1 {
			r.Legend, r.Item = label(shape.Name), shape.Name
		}
		r.Nodes = draw(f, path, shape.Keys)
		n.Rows = append(n.Rows, r)
	}
	return n
}

func (k key) ofDictionaries() bool {
	return len(k.Items) > 0 && k.Items[0].Type == "dictionary" && !k.Items[0].Free
}

// shape is what an element is made of.
func (k key) shape(item string) (key, bool) {
	if len(k.Items) == 1 {
		return k.Items[0], true
	}
	i := slices.IndexFunc(k.Items, func(s key) bool { return s.Name == item })
	if i < 0 {
		return key{}, false
	}
	return k.Items[i], true
}

func element(path string, i int) string { return fmt.Sprintf("%s[%d]", path, i) }

// rowsOf is how many rows a form has of a list: one to begin with, where all are alike.
func rowsOf(f *admin.Form, path string) int {
	n, err := strconv.Atoi(f.Get("rows " + path))
	if err != nil || n < 0 {
		return 0
	}
	return min(n, maxRows)
}

// change does what a button asks for that adds or removes a row, and reports whether it did.
func change(f *admin.Form, do string) bool {
	what, path, ok := strings.Cut(do, " ")
	if !ok {
		return false
	}
	switch what {
	case "add":
		n := rowsOf(f, path)
		if n == maxRows {
			f.Error = fmt.Sprintf("A list holds up to %d.", maxRows)
			return true
		}
		if shape := f.Get("shape " + path); shape != "" {
			f.Values.Set(element(path, n)+".Item", shape)
		}
		f.Values.Set("rows "+path, strconv.Itoa(n+1))
		return true
	case "remove":
		m := lastIndex.FindStringSubmatch(path)
		if m == nil {
			return false
		}
		at, err := strconv.Atoi(m[2])
		if err != nil {
			return false
		}
		removeRow(f, m[1], at)
		return true
	}
	return false
}

var lastIndex = regexp.MustCompile(`^(.+)\[(\d+)\]$`)

// removeRow takes a row out, and moves up those behind it.
func removeRow(f *admin.Form, path string, at int) {
	n := rowsOf(f, path)
	if at < 0 || at >= n {
		return
	}
	move := func(from, to string) {
		for name, values := range f.Values {
			if rest, ok := strings.CutPrefix(name, from); ok && strings.HasPrefix(rest, ".") {
				delete(f.Values, name)
				if to != "" {
					f.Values[to+rest] = values
				}
			}
		}
	}
	move(element(path, at), "")
	for i := at + 1; i < n; i++ {
		move(element(path, i), element(path, i-1))
	}
	f.Values.Set("rows "+path, strconv.Itoa(n-1))
}

// reading makes the params of a command of what a form holds.
type reading struct {
	form *admin.Form
	// names has the field of the form for each path that the API may complain of.
	names map[string]string
	files map[string]string // by path: the names of files
}

func read(f *admin.Form, keys []key) (params map[string]any, r *reading) {
	r = &reading{f, make(map[string]string), make(map[string]string)}
	return r.dictionary("params", "params", keys), r
}

// dictionary reads keys; path is what the API calls what they are in, and name what the
// form does.
func (r *reading) dictionary(path, name string, keys []key) map[string]any {
	out := make(map[string]any)
	for _, k := range keys {
		at, field := path+"."+k.Name, name+"."+k.Name
		r.names[at] = field
		if v, ok := r.value(at, field, k); ok {
			out[k.Name] = v
		}
	}
	return out
}

// value reads one key, and reports whether there is anything to send.
func (r *reading) value(path, name string, k key) (v any, ok bool) {
	text := r.form.Get(name)
	switch {
	case k.Type == "dictionary" && !k.Free:
		inner := r.dictionary(path, name, k.Keys)
		return inner, len(inner) > 0
	case k.Type == "array":
		return r.array(path, name, k)
	case k.Type == "data":
		return r.data(name, text)
	case k.Secret && r.form.Has("empty "+name, "true"):
		return "", true
	case text == "":
		return nil, false
	case k.Free || k.Type == "any":
		return r.free(name, text, k)
	case k.Type == "boolean":
		return text == "true", true
	case k.Type == "integer" || k.Type == "real":
		if number.MatchString(text) {
			return json.Number(text), true
		}
		return text, true // the API says what is wrong with it
	case k.Type == "date":
		for _, layout := range []string{"2006-01-02T15:04", "2006-01-02T15:04:05"} {
			if at, err := time.Parse(layout, text); err == nil {
				return at.Format(time.RFC3339), true
			}
		}
		return text, true
	case k.Secret:
		return r.form.Values.Get(name), true // a password may begin with a space
	}
	return text, true
}

var number = regexp.MustCompile(`^-?\d+(\.\d+)?$`)

// free reads JSON.
func (r *reading) free(name, text string, k key) (any, bool) {
	dec := json.NewDecoder(strings.NewReader(text))
	dec.UseNumber()
	var v any
	err := dec.Decode(&v)
	_, object := v.(map[string]any)
	switch {
	case err == nil && dec.More(), err != nil && k.Type == "any":
		return text, true // a text, then
	case err != nil:
		r.form.Fail(name, "Is not JSON: %v.", err)
		return nil, false
	case k.Free && !object:
		r.form.Fail(name, `Must be a JSON object: {"key": "value"}.`)
		return nil, false
	}
	return v, true
}

// data reads a file, or what was pasted: base64, or a property list as it is.
func (r *reading) data(name, text string) (any, bool) {
	content, filename, err := r.form.File(name)
	switch {
	case err != nil:
		r.form.Fail(name, "The file can’t be read: choose it again.")
		return nil, false
	case len(content) > 0:
		text = base64.StdEncoding.EncodeToString(content)
		r.files[name] = filename
		r.form.Values.Set(name, text) // to be there again if something else is wrong
	case strings.HasPrefix(text, "<"):
		text = base64.StdEncoding.EncodeToString([]byte(text))
	default:
		text = strings.Join(strings.Fields(text), "")
	}
	return text, text != ""
}

func (r *reading) array(path, name string, k key) (any, bool) {
	list := []any{}
	switch {
	case len(k.Items) == 1 && len(k.Items[0].Values) > 0:
		for _, v := range r.form.Values[name] {
			r.names[element(path, len(list))] = name
			list = append(list, v)
		}
	case !k.ofDictionaries():
		for _, line := range r.form.Lines(name) {
			r.names[element(path, len(list))] = name
			var v any = line
			if len(k.Items) == 1 && (k.Items[0].Type == "integer" || k.Items[0].Type == "real") && number.MatchString(line) {
				v = json.Number(line)
			}
			list = append(list, v)
		}
	default:
		for i := range rowsOf(r.form, name) {
			row := element(name, i)
			shape, ok := k.shape(r.form.Values.Get(row + ".Item"))
			if !ok {
				continue
			}
			at := element(path, len(list))
			r.names[at] = row
			inner := r.dictionary(at, row, shape.Keys)
			if len(k.Items) > 1 {
				inner["Item"] = shape.Name
			}
			if len(inner) > 0 {
				list = append(list, inner)
			}
		}
	}
	return list, len(list) > 0
}

// refused notes what the API said of fields at those of the form. What belongs to none
// stands above it.
func (r *reading) refused(p *admin.Problem) {
	for _, e := range p.Errors {
		name, rest := r.field(e.Field)
		switch {
		case name == "":
			r.form.Error = join(r.form.Error, e.Sentence())
		case rest != "":
			r.form.Fail(name, "%s %s.", rest, e.Detail)
		default:
			r.form.Fail(name, "%s.", capital(e.Detail))
		}
	}
	if len(p.Errors) == 0 {
		r.form.Error = join(p.Title+".", p.Detail)
	}
}

// field finds the form's name for a path of the API, and what of the path is inside of it.
func (r *reading) field(path string) (name, rest string) {
	switch path {
	case "expires_in", "priority", "device_ids", "group_id", "filter":
		return path, ""
	}
	for at := path; at != ""; {
		if name, ok := r.names[at]; ok {
			rest := strings.TrimPrefix(path[len(at):], ".")
			if m := lastIndex.FindStringSubmatch(at); m != nil && r.names[m[1]] == name { // of several in one field
				n, _ := strconv.Atoi(m[2]) // digits
				rest = join("Line "+strconv.Itoa(n+1), rest)
			}
			return name, rest
		}
		cut := strings.LastIndexAny(at, ".[")
		if cut <= 0 {
			break
		}
		at = at[:cut]
	}
	return "", ""
}

// label is a key's name in words, as a form says it.
func label(name string) string { return admin.Words(name) }

func idOf(path string) string {
	return "f-" + strings.NewReplacer(".", "-", "[", "-", "]", "", " ", "-").Replace(path)
}

func capital(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}

func join(parts ...string) string {
	var out []string
	for _, p := range parts {
		if p != "" {
			out = append(out, p)
		}
	}
	return strings.Join(out, " ")
}
