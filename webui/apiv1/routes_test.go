package apiv1

import (
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"

	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// keepsNothing are questions that are too long for a GET.
var keepsNothing = map[string]bool{
	"POST /api/v1/profiles/lint":       true,
	"POST /api/v1/profiles/{id}/check": true,
	"POST /api/v1/command-types/check": true,
}

func TestTheDocumentAndTheRoutesAreTheSame(t *testing.T) {
	storagetest.AnyEngine(t)
	raw, err := openAPIJSON()
	if err != nil {
		t.Fatal(err)
	}
	doc, err := openapi3.NewLoader().LoadFromData(raw)
	if err != nil {
		t.Fatal(err)
	}
	documented := make(map[string]*openapi3.Operation)
	for path, item := range doc.Paths.Map() {
		for method, operation := range item.Operations() {
			documented[method+" "+path] = operation
		}
	}
	mounted := make(map[string]route)
	for _, rt := range (&API{}).routes() {
		if _, twice := mounted[rt.pattern]; twice {
			t.Errorf("%s is mounted twice", rt.pattern)
		}
		mounted[rt.pattern] = rt
	}
	names := slices.Sorted(maps.Keys(mounted))
	if want := slices.Sorted(maps.Keys(documented)); !slices.Equal(names, want) {
		t.Errorf("mounted are\n%s\nin the document are\n%s", strings.Join(names, "\n"), strings.Join(want, "\n"))
	}
	for pattern, rt := range mounted {
		operation := documented[pattern]
		if operation == nil {
			continue
		}
		open := operation.Security != nil && len(*operation.Security) == 0
		if open != (len(rt.scopes) == 0) {
			t.Errorf("%s is open to everybody in one of document and routes", pattern)
		}
		for _, scope := range rt.scopes {
			if !strings.Contains(operation.Description, "`"+string(scope)+"`") {
				t.Errorf("%s: the document does not name the scope %s: %q", pattern, scope, operation.Description)
			}
		}
		if open {
			continue
		}
		if operation.Responses.Value("default") == nil {
			t.Errorf("%s: the document has no problem", pattern)
		}
		if method, _, _ := strings.Cut(pattern, " "); method != http.MethodGet && slices.Equal(rt.scopes, reading) && !keepsNothing[pattern] && pattern != "DELETE /api/v1/sessions/{session}" { // one's own
			t.Errorf("%s changes something, and asks only for %s", pattern, reading)
		}
	}
}
