package apiv1_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

func TestSnippetsForADomain(t *testing.T) {
	h := newHouse(t)
	reader := h.token(t, identity.ScopeReadOnly)
	var out struct {
		Domain    string
		ServerURL string `json:"server_url"`
		Items     []struct {
			Server, Kind, Text string
			Notes              []string
		}
	}
	h.do(t, exchange{method: "GET", path: "/api/v1/account-driven/snippets?domain=Example.com&mode=adde", token: reader}).want(t, 200, &out)
	if out.Domain != "example.com" || out.ServerURL != "https://mdm.example.com" || len(out.Items) < 10 {
		t.Fatalf("answer: %+v", out)
	}
	for _, s := range out.Items {
		if s.Kind == "static" && !strings.Contains(s.Text, `"mdm-adde"`) || !strings.Contains(s.Text, "mdm.example.com") {
			t.Errorf("%s: %s", s.Server, s.Text)
		}
	}
	for path, field := range map[string]string{
		"":                                  "domain",
		"?domain=https://example.com":       "domain",
		"?domain=example.com&domain=b.com":  "domain",
		"?domain=example.com&mode=mdm-byod": "mode",
	} {
		h.do(t, exchange{method: "GET", path: "/api/v1/account-driven/snippets" + path, wild: true}).wantField(t, field)
	}
	h.do(t, exchange{method: "GET", path: "/api/v1/account-driven/snippets?domain=example.com", token: "none"}).wantProblem(t, 401, "unauthenticated")
}

func TestACheckOfADomain(t *testing.T) {
	h := newHouse(t)
	for name, tt := range map[string]struct {
		body  map[string]any
		field string
	}{
		"no domain":         {map[string]any{}, "domain"},
		"a URL":             {map[string]any{"domain": "https://example.com"}, "domain"},
		"an address":        {map[string]any{"domain": "127.0.0.1"}, "domain"},
		"an unknown family": {map[string]any{"domain": "example.com", "model_family": "iPod"}, "model_family"},
		"someone elsewhere": {map[string]any{"domain": "example.com", "identifier": "ana@example.org"}, "identifier"},
		"another field":     {map[string]any{"domain": "example.com", "server": "x"}, "server"},
	} {
		t.Run(name, func(t *testing.T) {
			h.do(t, exchange{method: "POST", path: "/api/v1/account-driven/check", body: tt.body, wild: true}).wantField(t, tt.field)
		})
	}
	check := exchange{method: "POST", path: "/api/v1/account-driven/check", body: map[string]any{"domain": "nobody.invalid", "model_family": "mac"}}
	var report struct {
		Domain string
		OK     bool
		Errors int
		// The DNS has no such name, or there is no DNS here.
		Findings []struct{ Severity, Code, Fix string }
		Steps    []struct{ Probe, URL string }
	}
	h.do(t, check).want(t, 200, &report)
	if report.OK || report.Errors != 1 || len(report.Findings) != 1 || !strings.HasPrefix(report.Findings[0].Code, "dns_") || report.Findings[0].Fix == "" {
		t.Errorf("report: %+v", report)
	}
	if len(report.Steps) != 1 || report.Steps[0].URL != "https://nobody.invalid/.well-known/com.apple.remotemanagement?user-identifier=gatehouse-check@nobody.invalid&model-family=Mac" {
		t.Errorf("steps: %+v", report.Steps)
	}

	check.token = h.token(t, identity.ScopeHelpdesk)
	h.do(t, check).wantProblem(t, 403, "forbidden")
}

func TestChecksAreCounted(t *testing.T) {
	h := newHouse(t)
	for range 100 { // what others have checked from here
		if err := h.identity.CountGuess(context.Background(), "discovery check", "127.0.0.1"); errors.Is(err, identity.ErrThrottled) {
			break
		}
	}
	got := h.do(t, exchange{method: "POST", path: "/api/v1/account-driven/check", body: map[string]any{"domain": "nobody.invalid"}})
	got.wantProblem(t, 429, "too_many_requests")
	if got.response.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
}

// TestEveryFindingIsInTheDocument holds the codes of findings in the document against
// those in the code, both ways.
func TestEveryFindingIsInTheDocument(t *testing.T) {
	storagetest.AnyEngine(t)
	document, err := os.ReadFile("openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	_, schema, _ := strings.Cut(string(document), "\n    DiscoveryReport:\n")
	schema, _, _ = strings.Cut(schema, "model_families:")
	var documented, used []string
	for _, m := range regexp.MustCompile(`(?m)^ +- ([a-z0-9_]+)$`).FindAllStringSubmatch(schema, -1) {
		documented = append(documented, m[1])
	}
	files, err := filepath.Glob("../../enroll/wellknown/*.go")
	if err != nil {
		t.Fatal(err)
	}
	where := regexp.MustCompile(`(?:[cC]ode\s*[:=]+|wrong\(|say\(|warn\(|note\((?:Error, |Warning, )?)\s*"([a-z0-9_]+)"|"((?:version|base_url)_missing)"`)
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") || strings.HasSuffix(name, "domain.go") || strings.HasSuffix(name, "reach.go") {
			continue
		}
		source, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range where.FindAllStringSubmatch(string(source), -1) {
			used = append(used, m[1]+m[2])
		}
	}
	slices.Sort(used)
	if used = slices.Compact(used); len(used) < 60 || !slices.Equal(used, documented) {
		t.Errorf("used are\n%v\nin the document are\n%v", used, documented)
	}
}
