package wellknown_test

import (
	"encoding/json"
	"encoding/xml"
	"errors"
	"flag"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/enroll/wellknown"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func snippets(t testing.TB, server string, mode wellknown.Mode) []wellknown.Snippet {
	t.Helper()
	u, err := wellknown.ParseServerURL(server)
	if err != nil {
		t.Fatal(err)
	}
	list, err := wellknown.Snippets(u, "example.com", mode)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func snippet(t testing.TB, list []wellknown.Snippet, server string, kind wellknown.Kind) wellknown.Snippet {
	t.Helper()
	for _, s := range list {
		if s.Server == server && s.Kind == kind {
			return s
		}
	}
	t.Fatalf("no snippet %s %s", server, kind)
	return wellknown.Snippet{}
}

func TestSnippetsAreAsReviewed(t *testing.T) {
	storagetest.AnyEngine(t)
	seen := map[string]bool{}
	for _, s := range snippets(t, "https://mdm.example.com", wellknown.BYOD) {
		name := s.Server + "-" + string(s.Kind) + ".golden"
		if seen[name] {
			t.Errorf("%s twice", name)
		}
		seen[name] = true
		if s.Title == "" || s.Where == "" || s.Format == "" || !strings.HasSuffix(s.Text, "\n") || strings.Contains(s.Where+strings.Join(s.Notes, ""), "DOMAIN") {
			t.Errorf("%s: %+v", name, s)
		}
		got := s.Title + " (" + s.Format + ")\n" + s.Where + "\n\n" + s.Text
		for _, n := range s.Notes {
			got += "\n- " + n
		}
		got += "\n"
		path := filepath.Join("testdata", name)
		if *update {
			if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if got != string(want) {
			t.Errorf("%s: got\n%s\nwant\n%s", name, got, want)
		}
	}
	for _, server := range []string{"nginx", "apache", "caddy", "iis", "cloudflare-worker"} {
		for _, kind := range []wellknown.Kind{wellknown.Redirect, wellknown.Static} {
			if name := server + "-" + string(kind) + ".golden"; !seen[name] {
				t.Errorf("no %s", name)
			}
		}
	}
}

// TestSnippetsKeepTheQuery holds the text of each redirect against what its server needs to
// carry the query over. Where the server itself is at hand it is asked, too.
func TestSnippetsKeepTheQuery(t *testing.T) {
	storagetest.AnyEngine(t)
	keeps := map[string]string{
		"nginx":             wellknown.Path + "$is_args$args;",
		"apache":            `"https://mdm.example.com` + wellknown.Path + `"` + "\n", // no ? of its own: then Apache adds the query
		"apache-htaccess":   `"https://mdm.example.com` + wellknown.Path + `" [R=307,NE,L]`,
		"caddy":             "?{query}",
		"cloudflare":        "Preserve query string: on",
		"cloudflare-worker": "+ url.search",
		"iis":               `appendQueryString="true"`,
		"cloudfront":        "rawQueryString()",
	}
	for _, s := range snippets(t, "https://mdm.example.com", wellknown.BYOD) {
		if s.Kind != wellknown.Redirect {
			continue
		}
		part, ok := keeps[s.Server]
		if !ok {
			t.Errorf("%s: nobody says how it keeps the query", s.Server)
		}
		if !strings.Contains(s.Text, part) {
			t.Errorf("%s has no %q:\n%s", s.Server, part, s.Text)
		}
	}
}

func TestStaticSnippetsHoldTheAnswer(t *testing.T) {
	storagetest.AnyEngine(t)
	want := `{"Servers":[{"Version":"mdm-adde","BaseURL":"https://mdm.example.com:8443/enroll/adde"}]}`
	for _, s := range snippets(t, "https://mdm.example.com:8443", wellknown.ADDE) {
		if s.Kind == wellknown.Static && (!strings.Contains(s.Text, want) || !strings.Contains(s.Text, "application/json")) {
			t.Errorf("%s:\n%s", s.Server, s.Text)
		}
		if s.Kind == wellknown.Static && !strings.Contains(strings.Join(s.Notes, " "), "same answer") {
			t.Errorf("%s does not say that the answer is the same for all: %v", s.Server, s.Notes)
		}
	}
	var answer struct {
		Servers []struct{ Version, BaseURL string }
	}
	if err := json.Unmarshal([]byte(want), &answer); err != nil || len(answer.Servers) != 1 {
		t.Errorf("%v, %v", answer, err)
	}
}

func TestIISSnippetsAreXML(t *testing.T) {
	storagetest.AnyEngine(t)
	for _, kind := range []wellknown.Kind{wellknown.Redirect, wellknown.Static} {
		var root struct {
			XMLName xml.Name `xml:"configuration"`
			Rules   []struct {
				Match struct {
					URL string `xml:"url,attr"`
				} `xml:"match"`
				Action struct {
					Type string `xml:"type,attr"`
				} `xml:"action"`
			} `xml:"system.webServer>rewrite>rules>rule"`
		}
		s := snippet(t, snippets(t, "https://mdm.example.com", wellknown.BYOD), "iis", kind)
		if err := xml.Unmarshal([]byte(s.Text), &root); err != nil {
			t.Fatal(err)
		}
		if len(root.Rules) != 1 || root.Rules[0].Match.URL != `^\.well-known/com\.apple\.remotemanagement\.?$` || root.Rules[0].Action.Type == "" {
			t.Errorf("%s: %+v", kind, root)
		}
	}
}

func TestSnippetsOfWhatMakesNoSense(t *testing.T) {
	storagetest.AnyEngine(t)
	good := &url.URL{Scheme: "https", Host: "mdm.example.com"}
	for name, tt := range map[string]struct {
		server *url.URL
		domain string
		mode   wellknown.Mode
		field  string
	}{
		"no domain":      {good, "example", wellknown.BYOD, "domain"},
		"no mode":        {good, "example.com", "", "mode"},
		"another scheme": {&url.URL{Scheme: "http", Host: "mdm.example.com"}, "example.com", wellknown.BYOD, "server_url"},
		"a quote":        {&url.URL{Scheme: "https", Host: `mdm"; }`}, "example.com", wellknown.BYOD, "server_url"},
	} {
		_, err := wellknown.Snippets(tt.server, tt.domain, tt.mode)
		var field *wellknown.FieldError
		if !errors.As(err, &field) || field.Field != tt.field {
			t.Errorf("%s: %v", name, err)
		}
	}
}
