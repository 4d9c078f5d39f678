package text_test

import (
	"context"
	"html/template"
	"log/slog"
	"net/http/httptest"
	"testing"
	"testing/fstest"
	"time"

	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
	"github.com/gatehouse-mdm/gatehouse/webui/text"
)

// newCatalogue returns a catalogue of these messages by file, ours if there are none; what
// is missing fails the test.
func newCatalogue(t testing.TB, messages map[string]string) *text.Catalogue {
	t.Helper()
	c := text.Config{
		DB: storagetest.Open(t), Log: slog.New(slog.DiscardHandler), Now: time.Now, Secure: true,
		Missing: func(lang, what string) { t.Errorf("missing in %s: %s", lang, what) },
	}
	if messages != nil {
		files := fstest.MapFS{}
		for name, data := range messages {
			files[name] = &fstest.MapFile{Data: []byte(data)}
		}
		c.Messages = files
	}
	cat, err := text.New(c)
	if err != nil {
		t.Fatal(err)
	}
	return cat
}

// in returns the texts of a language.
func in(t testing.TB, cat *text.Catalogue, lang string) *text.Texts {
	t.Helper()
	texts, err := cat.In(context.Background(), lang)
	if err != nil {
		t.Fatal(err)
	}
	return texts
}

func TestOurTextsAreRead(t *testing.T) {
	cat := newCatalogue(t, nil)
	texts, err := cat.For(httptest.NewRequest("GET", "/enroll", nil))
	if err != nil || texts.Lang() != "en" || texts.Dir() != "ltr" || texts.Apple("allow", 17) != "Allow" {
		t.Errorf("texts are %v in %s, %v", texts, texts.Lang(), err)
	}
}

func TestValuesAreTextsAndNothingElse(t *testing.T) {
	cat := newCatalogue(t, map[string]string{"a.en.json": `{
		"a.hello": "Hello **{user}**, this is {user}'s [page](https://example.com/{user} \"{user}\")",
		"a.code": "Type ` + "`{user}`" + `",
		"a.two": "one\n\n{user}",
		"a.braces": "{user} { {} {User} {user"
	}`})
	texts := in(t, cat, "en")
	for name, tt := range map[string]struct {
		key, user string
		html      template.HTML
		plain     string
	}{
		"a name": {
			"a.hello", "Ana",
			`Hello <strong>Ana</strong>, this is Ana's <a href="https://example.com/%7Buser%7D" title="{user}" rel="noreferrer">page</a>`,
			`Hello **Ana**, this is Ana's [page](https://example.com/Ana "Ana")`,
		},
		"HTML":                          {"a.code", `<b>"&`, `Type <code>&lt;b&gt;&#34;&amp;</code>`, "Type `<b>\"&`"},
		"Markdown":                      {"a.two", "# *x* <https://example.com>", "<p>one</p>\n<p># *x* &lt;https://example.com&gt;</p>", "one\n\n# *x* <https://example.com>"},
		"another placeholder":           {"a.code", "{user}", "Type <code>{user}</code>", "Type `{user}`"},
		"braces that hold no name":      {"a.braces", "Ana", "Ana { {} {User} {user", "Ana { {} {User} {user"},
		"a name from the right":         {"a.code", "مريم", "Type <code><bdi>مريم</bdi></code>", "Type `\u2068مريم\u2069`"},
		"a name that turns others over": {"a.code", "a\u202eb", "Type <code>a\u202eb</code>", "Type `ab`"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := texts.HTML(tt.key, "user", tt.user); got != tt.html {
				t.Errorf("HTML = %s, want %s", got, tt.html)
			}
			if got := texts.Say(tt.key, "user", tt.user); got != tt.plain {
				t.Errorf("Say = %q, want %q", got, tt.plain)
			}
		})
	}
}
