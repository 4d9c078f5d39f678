package admin

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/url"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"

	"github.com/gatehouse-mdm/gatehouse/webui"
)

// Form is what a form holds: what was typed, and what is wrong with it. Nothing that
// somebody typed is lost when it has to be shown again.
type Form struct {
	Values url.Values
	Errors map[string]string // by the name of the field
	Error  string            // what is wrong with no field in particular; may be empty

	files *multipart.Form // nil: the form holds no files
}

// inMemory is how much of the files of a form is held in memory; the rest waits on disk.
const inMemory = 4 << 20

// FormOf returns the form that r posts.
func FormOf(r *http.Request) (*Form, error) {
	err := r.ParseForm() // by itself: ParseMultipartForm says nothing of what it finds wrong
	if err == nil {
		if err = r.ParseMultipartForm(inMemory); errors.Is(err, http.ErrNotMultipart) {
			err = nil
		}
	}
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return nil, err
	case err != nil:
		return nil, &webui.Problem{Status: http.StatusBadRequest, Code: "bad_form", Title: "This form can’t be read", Detail: "Go back, reload the page, and try again."}
	}
	return &Form{Values: r.PostForm, Errors: map[string]string{}, files: r.MultipartForm}, nil
}

// File returns the content and the name of the file that a field holds, nil without one.
func (f *Form) File(name string) (content []byte, filename string, err error) {
	if f.files == nil || len(f.files.File[name]) == 0 {
		return nil, "", nil
	}
	header := f.files.File[name][0]
	file, err := header.Open()
	if err != nil {
		return nil, "", err
	}
	defer func() { _ = file.Close() }() // it was only read
	content, err = io.ReadAll(file)
	return content, header.Filename, err
}

// NewForm returns a form that nobody has filled in yet. Pairs are names and values.
func NewForm(pairs ...string) *Form {
	f := &Form{Values: url.Values{}, Errors: map[string]string{}}
	for i := 0; i+1 < len(pairs); i += 2 {
		f.Values.Add(pairs[i], pairs[i+1])
	}
	return f
}

// Get returns the value of a field, without space around it.
func (f *Form) Get(name string) string { return strings.TrimSpace(f.Values.Get(name)) }

// Has reports whether a checkbox or a radio button has a value.
func (f *Form) Has(name, value string) bool {
	for _, v := range f.Values[name] {
		if v == value {
			return true
		}
	}
	return false
}

type onceKey struct{}

// Once returns ctx for what a form is to do once, however often it is sent: its part "once"
// holds the key by which the API knows it again. The form must have it only where the API's
// route takes an Idempotency-Key.
func (f *Form) Once(ctx context.Context) context.Context {
	if key := f.Get("once"); key != "" {
		ctx = context.WithValue(ctx, onceKey{}, key)
	}
	return ctx
}

// Lines returns the lines of a field that are not empty.
func (f *Form) Lines(name string) []string {
	var lines []string
	for line := range strings.Lines(f.Values.Get(name)) {
		if line = strings.TrimSpace(line); line != "" {
			lines = append(lines, line)
		}
	}
	return lines
}

// Fail notes what is wrong with a field.
func (f *Form) Fail(name, format string, args ...any) { f.Errors[name] = fmt.Sprintf(format, args...) }

// OK reports whether nothing is wrong.
func (f *Form) OK() bool { return len(f.Errors) == 0 && f.Error == "" }

// Refused takes what the API refused in what the form asked for, and reports whether it
// was that: then the form is to be shown again, with status 422. Errors that are none of
// the form's are the caller's to return. Names of the API are the form's unless renamed
// says otherwise.
func (f *Form) Refused(err error, renamed ...string) bool {
	var p *Problem
	if !errors.As(err, &p) || p.Status == http.StatusForbidden || p.Status == http.StatusUnauthorized || p.Status == http.StatusNotFound || p.Status >= http.StatusInternalServerError {
		return false
	}
	for _, e := range p.Errors {
		name := e.Field
		for i := 0; i+1 < len(renamed); i += 2 {
			if e.Field == renamed[i] {
				name = renamed[i+1]
			}
		}
		if _, ok := f.Values[name]; ok && name == e.Field || name != e.Field {
			f.Errors[name] = sentence("It", e.Detail)
			continue
		}
		// A field that the form does not have, or left out: said above it.
		f.Errors[name] = sentence("It", e.Detail)
		f.Error = strings.TrimSpace(f.Error + " " + e.Sentence())
	}
	if len(p.Errors) == 0 {
		f.Error = p.Title + "."
		if p.Detail != "" {
			f.Error = p.Detail
		}
	}
	return true
}

// Sentence says what is wrong with a field in words of the pages, where no control of the
// field shows it.
func (e FieldError) Sentence() string {
	name, _, _ := strings.Cut(e.Field, "[")
	name = name[strings.LastIndex(name, ".")+1:]
	thing, ok := map[string]string{"group_id": "group", "group_ids": "group", "device_id": "device", "device_ids": "device", "filter": "filter", "user": "user"}[name]
	switch what, names := strings.CutPrefix(e.Detail, "names "); {
	case ok && strings.HasPrefix(what, "no "):
		return "There is no such " + thing + " any more. Choose another."
	case ok && names:
		return sentence("What was chosen is", what)
	case ok:
		return sentence("The "+thing, e.Detail)
	}
	return sentence("“"+Words(name)+"”", e.Detail)
}

// sentence is what the API says of a field, as “must not be empty”, with a subject.
func sentence(subject, detail string) string {
	if detail == "" {
		return ""
	}
	if c, _ := utf8.DecodeRuneInString(detail); unicode.IsLower(c) {
		detail = subject + " " + detail
	}
	if !strings.HasSuffix(detail, ".") {
		detail += "."
	}
	return detail
}

// once is the template function that makes the key of a form that does something once. What
// was refused has done nothing, and is sent again as something new.
func once(f *Form) string {
	if f != nil && f.OK() && f.Get("once") != "" {
		return f.Get("once")
	}
	return rand.Text()
}

// Field is one control of a form, with its label. The part "field" shows it.
type Field struct {
	Name, Label, Hint, Value, Type, Error string
	Placeholder, Autocomplete, InputMode  string
	Required, Checked, Mono, Disabled     bool
	Rows                                  int
	Options                               []Option
	ID                                    string
}

// Option is one of the values of a select or of radio buttons.
type Option struct {
	Value, Label, Hint string
	Disabled           bool
	Selected           bool
}

// Options makes options of values that are their own labels, or of pairs.
func Options(pairs ...string) []Option {
	var list []Option
	for i := 0; i+1 < len(pairs); i += 2 {
		list = append(list, Option{Value: pairs[i], Label: pairs[i+1]})
	}
	return list
}

// newField is the template function that makes a field of a form: field .Form "name"
// "Label", then what is special about it: "type=email", "hint=…", "required", "mono",
// "rows=5", "autocomplete=off", "inputmode=numeric", "placeholder=…", "id=…", "disabled",
// "value=…" (of a checkbox: what it sends), and a []Option for type=select and type=radio.
// Passwords are never shown again.
func newField(f *Form, name, label string, special ...any) (Field, error) {
	field := Field{Name: name, Label: label, Type: "text", ID: "f-" + strings.NewReplacer(".", "-", "[", "-", "]", "").Replace(name)}
	if f != nil {
		field.Value, field.Error = f.Values.Get(name), f.Errors[name]
	}
	own := ""
	for _, s := range special {
		switch s := s.(type) {
		case []Option:
			field.Options = append(field.Options, s...)
		case string:
			key, value, _ := strings.Cut(s, "=")
			switch key {
			case "type":
				field.Type = value
			case "hint":
				field.Hint = value
			case "required":
				field.Required = true
			case "mono":
				field.Mono = true
			case "disabled":
				field.Disabled = true
			case "rows":
				if _, err := fmt.Sscan(value, &field.Rows); err != nil {
					return Field{}, fmt.Errorf("rows of %s: %w", name, err)
				}
			case "autocomplete":
				field.Autocomplete = value
			case "inputmode":
				field.InputMode = value
			case "placeholder":
				field.Placeholder = value
			case "id":
				field.ID = value
			case "value":
				own = value
			case "":
			default:
				return Field{}, fmt.Errorf("field %s: nothing is called %q", name, s)
			}
		default:
			return Field{}, fmt.Errorf("field %s: can’t be made of %T", name, s)
		}
	}
	switch field.Type {
	case "checkbox":
		if own == "" {
			own = "true"
		}
		field.Checked = f != nil && f.Has(name, own)
		field.Value = own
	case "select", "radio":
		for i, o := range field.Options {
			field.Options[i].Selected = f != nil && f.Has(name, o.Value)
		}
	case "password", "file":
		field.Value = ""
	}
	return field, nil
}

// Confirm is a page that asks before something is done. Its form posts to Action.
type Confirm struct {
	Page
	Heading string
	Text    []string // paragraphs: what happens, and what can't be undone
	Facts   []Fact
	Word    string // to be typed; empty: nothing
	What    string // what Word is: "the device’s name"
	Button  string
	Danger  bool
	Action  string
	Hidden  url.Values
	Back    string
	Form    *Form
}

// Fact is a label and a value.
type Fact struct {
	Label, Value string
	URL          string // makes a link of Value; may be empty
	Moment       any    // a view.Moment instead of Value; may be nil
	Mono         bool   // an identifier
	Hint         string
}

// Confirm shows a page that asks first.
func (d *Desk) Confirm(w http.ResponseWriter, r *http.Request, c *Confirm) error {
	status := http.StatusOK
	if c.Form == nil {
		c.Form = NewForm()
	} else if !c.Form.OK() {
		status = http.StatusUnprocessableEntity
	}
	if c.Title == "" {
		c.Title = c.Heading
	}
	return d.WriteStatus(w, r, status, d.pages, "confirm.html", c)
}

// Typed reports whether the word that a Confirm asked for was typed; else it notes it at the
// form. Only letters and digits count, in any case: a name may hold the ’ that keyboards
// don't have, two spaces, or what nobody sees.
func (f *Form) Typed(word string) bool {
	if typed := f.Get("typed"); plain(typed) == plain(word) && (plain(word) != "" || typed == strings.TrimSpace(word)) {
		return true
	}
	f.Fail("typed", "Type %s to go on.", word)
	return false
}

// plain is what counts of a typed word. The script compares in the same way.
func plain(word string) string {
	return strings.Map(func(c rune) rune {
		if unicode.IsLetter(c) || unicode.IsNumber(c) {
			return c
		}
		return -1
	}, strings.ToLower(norm.NFKC.String(word)))
}
