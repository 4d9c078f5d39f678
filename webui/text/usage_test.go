package text_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

var update = flag.Bool("update", false, "rewrite markdown.json by what pages show as Markdown")

// usage is what the program does with keys of texts.
type usage struct {
	calls    map[string]string // keys that are asked for as they stand: where
	html     map[string]bool   // keys that are shown as Markdown
	literals map[string]bool   // all texts in code and templates: keys, or what keys begin with
}

// methods are those of Texts that take a key.
var methods = map[string]bool{"Say": true, "Many": true, "HTML": true, "Has": true}

// key is what looks like the key of a text, or the beginning of one.
var key = regexp.MustCompile(`^[a-z][a-z0-9_]*(\.[a-z0-9_]*|\.%s)+$`)

// call is a call of a method with a key in a template.
var call = regexp.MustCompile(`\.(Say|Many|HTML|Has) "([^"]*)"`)

// literal is a text in a template's action.
var literal = regexp.MustCompile(`"([^"]*)"`)

// readUsage walks code and templates, without tests, once.
var readUsage = sync.OnceValues(func() (usage, error) {
	u := usage{calls: map[string]string{}, html: map[string]bool{}, literals: map[string]bool{}}
	ask := func(method, key, where string) {
		u.calls[key] = where
		u.note(key)
		u.html[key] = u.html[key] || method == "HTML"
	}
	for _, root := range []string{"../../webui", "../../enroll", "../../cmd"} {
		err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			// The administrators' pages are in English, and have no texts of these.
			if d.IsDir() && (d.Name() == "node_modules" || d.Name() == "testdata" || name == "../../webui/text" || name == "../../webui/admin") {
				return fs.SkipDir
			}
			switch {
			case strings.HasSuffix(name, "_test.go"):
			case filepath.Ext(name) == ".go":
				return u.readCode(name, ask)
			case filepath.Ext(name) == ".html":
				page, err := os.ReadFile(name)
				if err != nil {
					return err
				}
				for _, c := range call.FindAllStringSubmatch(string(page), -1) {
					ask(c[1], c[2], name)
				}
				for _, l := range literal.FindAllStringSubmatch(string(page), -1) {
					u.note(l[1])
				}
			}
			return nil
		})
		if err != nil {
			return u, err
		}
	}
	return u, nil
})

func (u usage) note(text string) {
	if key.MatchString(text) {
		u.literals[text] = true
	}
}

func (u usage) readCode(name string, ask func(method, key, where string)) error {
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, name, nil, 0)
	if err != nil {
		return err
	}
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.BasicLit:
			if text, err := strconv.Unquote(n.Value); err == nil && n.Kind == token.STRING {
				u.note(text)
			}
		case *ast.CallExpr:
			method, ok := n.Fun.(*ast.SelectorExpr)
			if !ok || !methods[method.Sel.Name] || len(n.Args) == 0 {
				break
			}
			switch text := constant(n.Args[0]); {
			case strings.Contains(text, "%s"):
				u.html[text] = u.html[text] || method.Sel.Name == "HTML"
			case key.MatchString(text):
				ask(method.Sel.Name, text, fset.Position(n.Pos()).String())
			}
		}
		return true
	})
	return nil
}

// constant is what an expression says in the program itself, with %s for what varies.
func constant(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.BasicLit:
		if text, err := strconv.Unquote(e.Value); err == nil && e.Kind == token.STRING {
			return text
		}
	case *ast.BinaryExpr:
		return constant(e.X) + constant(e.Y)
	}
	return "%s"
}

// isMarkdown says whether a text is one: a page shows it as such, or it has marks, which
// nobody writes into other texts.
func (u usage) isMarkdown(key, text string) bool {
	if text == "" || marks.MatchString(text) || u.html[key] {
		return true
	}
	for pattern, html := range u.html {
		begin, end, ok := strings.Cut(pattern, "%s")
		if ok && html && begin != "" && strings.HasPrefix(key, begin) && strings.HasSuffix(key, end) {
			return true
		}
	}
	return false
}

// uses says whether a key is somewhere in the program: as it stands, or put together of
// what it begins with and more.
func (u usage) uses(key string) bool {
	if u.literals[key] {
		return true
	}
	for l := range u.literals {
		begin, end, pattern := strings.Cut(l, "%s")
		switch {
		case pattern && strings.HasPrefix(key, begin) && strings.HasSuffix(key, end):
			return true
		case !pattern && strings.HasPrefix(key, strings.TrimSuffix(l, ".")+"."):
			return true
		}
	}
	return false
}

// messages are ours in one language, by key; texts with plural forms are maps.
func messages(t *testing.T, lang string) map[string]any {
	t.Helper()
	all := map[string]any{}
	files, err := filepath.Glob("messages/*." + lang + ".json")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		if strings.HasPrefix(filepath.Base(name), "apple.") {
			continue
		}
		raw, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		// Tokens, since a map would hide a key that is there twice.
		dec := json.NewDecoder(bytes.NewReader(raw))
		if _, err := dec.Token(); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for dec.More() {
			key, err := dec.Token()
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			var message any
			if err := dec.Decode(&message); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if _, twice := all[key.(string)]; twice {
				t.Errorf("%s: %s is there twice", name, key)
			}
			all[key.(string)] = message
		}
	}
	return all
}

func TestEveryKeyIsUsedAndEveryKeyThatIsUsedIsThere(t *testing.T) {
	storagetest.AnyEngine(t)
	u, err := readUsage()
	if err != nil {
		t.Fatal(err)
	}
	english := messages(t, "en")
	for key, where := range u.calls {
		if _, ok := english[key]; !ok && !strings.HasSuffix(key, ".") {
			t.Errorf("%s asks for %s, which no file in messages has", where, key)
		}
	}
	for key := range english {
		if !u.uses(key) {
			t.Errorf("nobody uses %s", key)
		}
	}
}

// TestMarkdownIsKnown holds markdown.json against the pages.
func TestMarkdownIsKnown(t *testing.T) {
	storagetest.AnyEngine(t)
	u, err := readUsage()
	if err != nil {
		t.Fatal(err)
	}
	markdown := map[string]bool{}
	for key, message := range messages(t, "en") {
		if text, ok := message.(string); ok {
			markdown[key] = u.isMarkdown(key, text)
			continue
		}
		for form, text := range message.(map[string]any) {
			markdown[key+"."+form] = u.isMarkdown(key, text.(string))
		}
	}
	maps.DeleteFunc(markdown, func(_ string, is bool) bool { return !is })
	want, err := json.MarshalIndent(slices.Sorted(maps.Keys(markdown)), "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	want = append(want, '\n')
	if *update {
		if err := os.WriteFile("markdown.json", want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile("markdown.json")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("pages show other texts as Markdown than markdown.json says: go test ./webui/text -update, and review")
	}
}

func TestAppleHasTheSameLabelsInAllLanguages(t *testing.T) {
	storagetest.AnyEngine(t)
	read := func(name string) map[string]any {
		raw, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		var file struct{ Labels map[string]any }
		if err := json.Unmarshal(raw, &file); err != nil {
			t.Fatal(err)
		}
		return file.Labels
	}
	english := read("messages/apple.en.json")
	files, err := filepath.Glob("messages/apple.*.json")
	if err != nil || len(files) != 6 {
		t.Fatalf("files are %q, %v", files, err)
	}
	values := regexp.MustCompile(`\{[a-z]+\}`)
	for _, name := range files {
		labels := read(name)
		if got, want := slices.Sorted(maps.Keys(labels)), slices.Sorted(maps.Keys(english)); !slices.Equal(got, want) {
			t.Errorf("%s has %q, want %q", name, got, want)
		}
		for label := range english {
			own, _ := json.Marshal(labels[label])
			its, _ := json.Marshal(english[label])
			has, wants := values.FindAllString(string(own), -1), values.FindAllString(string(its), -1)
			slices.Sort(has)
			slices.Sort(wants)
			if !slices.Equal(slices.Compact(has), slices.Compact(wants)) {
				t.Errorf("%s: %s has %q, want %q", name, label, has, wants)
			}
		}
	}
}
