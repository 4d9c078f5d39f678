package event_test

import (
	"errors"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/mdm/event"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// composed are the actions that the program composes, by what they begin with.
var composed = map[string][]string{
	"device.":   {"unenrolled", "blocked"},
	"profile.":  {"installed", "failed", "removing", "removed", "drifted", "sent"},
	"template.": {"created", "changed", "deleted"},
}

// TestEveryActionIsInTheCatalogue reads the program for what it records.
func TestEveryActionIsInTheCatalogue(t *testing.T) {
	storagetest.AnyEngine(t)
	used := map[string]bool{} // by each action there is
	for _, typ := range event.Types() {
		used[typ.Action] = false
	}
	for action, where := range recorded(t) {
		all := []string{action}
		if endings, ok := composed[action]; ok {
			all = nil
			for _, ending := range endings {
				all = append(all, action+ending)
			}
		}
		for _, action := range all {
			if _, known := used[action]; !known {
				t.Errorf("%s, recorded at %s, is not in the catalogue", action, where)
			}
			used[action] = true
		}
	}
	for action, is := range used {
		if !is {
			t.Errorf("%s is in the catalogue, and recorded nowhere", action)
		}
	}
}

var (
	likeAction = regexp.MustCompile(`^[a-z_]+\.[a-z_]*$`)

	// tellers are the functions that are given an action.
	tellers = regexp.MustCompile(`(?i)^(fact|userFact|tell.*|record.*|event|found|putTarget|settleTargets|lifted|audit.*|.*Event)$`)
)

// recorded returns the actions in the source, or how they begin where the rest is composed,
// and where each is.
func recorded(t *testing.T) map[string]string {
	t.Helper()
	const root = "../.."
	seen := map[string]string{}
	files := token.NewFileSet()
	sources := map[string][]string{} // by folder
	records := map[string]bool{"../../enroll/identity": true, "../../mdm/event": true, "../../apns": true}
	note := func(x ast.Expr) {
		if sum, ok := x.(*ast.BinaryExpr); ok {
			x = sum.X
		}
		lit, ok := x.(*ast.BasicLit)
		if !ok || lit.Kind != token.STRING {
			return
		}
		if text, err := strconv.Unquote(lit.Value); err == nil && likeAction.MatchString(text) {
			seen[text] = files.Position(lit.Pos()).String()
		}
	}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (strings.HasPrefix(d.Name(), ".") && path != root || d.Name() == "testdata"):
			return filepath.SkipDir
		case d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") || strings.HasSuffix(path, "catalogue.go"):
			return nil
		}
		file, err := parser.ParseFile(files, path, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		folder := filepath.ToSlash(filepath.Dir(path))
		sources[folder] = append(sources[folder], path)
		for _, spec := range file.Imports {
			if strings.HasSuffix(spec.Path.Value, `/mdm/event"`) {
				records[folder] = true
			}
		}
		return nil
	})
	for folder := range records {
		for _, path := range sources[folder] {
			file, parseErr := parser.ParseFile(files, path, nil, parser.SkipObjectResolution)
			if err = errors.Join(err, parseErr); err == nil {
				look(file, note)
			}
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	if len(seen) < 50 {
		t.Fatalf("only %d actions were found in the source", len(seen))
	}
	return seen
}

// look calls note with each expression in file that may be an action.
func look(file *ast.File, note func(ast.Expr)) {
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.KeyValueExpr:
			if key, ok := n.Key.(*ast.Ident); ok && key.Name == "Action" {
				note(n.Value)
			}
		case *ast.AssignStmt:
			for i, left := range n.Lhs {
				name := ""
				switch left := left.(type) {
				case *ast.Ident:
					name = left.Name
				case *ast.SelectorExpr:
					name = left.Sel.Name
				}
				if strings.EqualFold(name, "action") && len(n.Rhs) == len(n.Lhs) {
					note(n.Rhs[i])
				}
			}
		case *ast.CallExpr:
			name := ""
			switch fun := n.Fun.(type) {
			case *ast.Ident:
				name = fun.Name
			case *ast.SelectorExpr:
				name = fun.Sel.Name
			}
			if tellers.MatchString(name) {
				for _, arg := range n.Args {
					note(arg)
				}
			}
		}
		return true
	})
}

func TestTheCatalogueIsInOrder(t *testing.T) {
	storagetest.AnyEngine(t)
	members := []string{"id", "at", "action", "outcome", "actor", "reason", "device_id", "user", "certificate", "template", "peer"}
	types := event.Types()
	if !slices.IsSortedFunc(types, func(a, b event.Type) int { return strings.Compare(a.Action, b.Action) }) {
		t.Error("the catalogue is not sorted, and is searched as if it were")
	}
	for _, typ := range types {
		if !strings.HasSuffix(typ.Text, ".") || len(typ.Text) < 10 {
			t.Errorf("%s says %q, want a sentence", typ.Action, typ.Text)
		}
		for _, field := range typ.Fields {
			if !slices.Contains(members, field) {
				t.Errorf("%s publishes %s, which no event has", typ.Action, field)
			}
		}
		for _, list := range [][]string{typ.Fields, typ.Details} {
			if sorted := slices.Compact(slices.Sorted(slices.Values(list))); len(sorted) != len(list) {
				t.Errorf("%s lists something twice: %v", typ.Action, list)
			}
		}
	}
}

// TestNothingLeavesThatIsNotListed fills every member and detail with what must not leave.
func TestNothingLeavesThatIsNotListed(t *testing.T) {
	storagetest.AnyEngine(t)
	const secret = "SENTINEL"
	full := func(action string) event.Event {
		return event.Event{
			ID: "0", At: time.Date(2026, 11, 22, 9, 0, 0, 0, time.UTC), Action: action, Outcome: event.OK,
			Actor: secret + "actor", Reason: secret + "reason", DeviceID: secret + "device_id", User: secret + "user",
			Certificate: secret + "certificate", Template: secret + "template", Peer: secret + "peer",
			Details: map[string]string{"pin": secret + "pin", "password": secret + "password", "token": secret + "token"},
		}
	}
	for _, typ := range event.Types() {
		got, ok := event.Publish(full(typ.Action))
		if !ok {
			t.Errorf("Publish(%s) = false, want true", typ.Action)
		}
		for name, value := range got {
			if text, ok := value.(string); ok && strings.HasPrefix(text, secret) && !slices.Contains(typ.Fields, name) {
				t.Errorf("Publish(%s) has %s, which is not listed", typ.Action, name)
			}
		}
		details, _ := got["details"].(map[string]any)
		for key := range details {
			if !slices.Contains(typ.Details, key) {
				t.Errorf("Publish(%s) has the detail %s, which is not listed", typ.Action, key)
			}
		}
		for _, field := range typ.Fields {
			if got[field] == nil {
				t.Errorf("Publish(%s) has no %s", typ.Action, field)
			}
		}
	}
	got, ok := event.Publish(full("token.eaten"))
	if ok || len(got) != 3 || got["action"] != "token.eaten" {
		t.Errorf("Publish of an unknown action = %v, %v, want id, at and action", got, ok)
	}
}

var update = flag.Bool("update", false, "rewrite the table in the document")

// TestTheDocumentHasTheCatalogue holds the table in docs/events.md.
func TestTheDocumentHasTheCatalogue(t *testing.T) {
	storagetest.AnyEngine(t)
	const path, begin, end = "../../docs/events.md", "<!-- types -->\n", "<!-- end of types -->"
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, _ := strings.Cut(string(raw), begin)
	got, after, ok := strings.Cut(rest, end)
	if !ok {
		t.Fatalf("%s has no table between %s and %s", path, begin, end)
	}
	list := func(names []string) string {
		if len(names) == 0 {
			return ""
		}
		return "`" + strings.Join(names, "` `") + "`"
	}
	want := "| action | what has happened | members | details |\n|---|---|---|---|\n"
	for _, typ := range event.Types() {
		want += fmt.Sprintf("| `%s` | %s | %s | %s |\n", typ.Action, typ.Text, list(typ.Fields[4:]), list(typ.Details))
	}
	if *update {
		if err := os.WriteFile(path, []byte(before+begin+want+end+after), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if got != want {
		t.Errorf("the table in %s is not the catalogue: run this test with -update", path)
	}
}
