package text_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/html"

	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
	"github.com/gatehouse-mdm/gatehouse/webui/text"
)

// may says what a page may get out of a text: elements, and their attributes.
var may = map[string][]string{
	"p": nil, "br": nil, "hr": nil, "h2": nil, "h3": nil, "h4": nil, "h5": nil, "h6": nil, "strong": nil, "em": nil,
	"code": {"class"}, "pre": nil, "blockquote": nil, "ul": nil, "ol": {"start"}, "li": nil, "bdi": {"dir"}, "a": {"href", "rel", "title"},
}

// checkHarmless fails unless fragment holds only what texts may.
func checkHarmless(t testing.TB, fragment string) {
	t.Helper()
	tokens := html.NewTokenizer(strings.NewReader(fragment))
	for {
		switch tokens.Next() {
		case html.ErrorToken:
			return
		case html.CommentToken, html.DoctypeToken:
			t.Errorf("there is a comment in %q", fragment)
		case html.StartTagToken, html.SelfClosingTagToken, html.EndTagToken:
			token := tokens.Token()
			attributes, known := may[token.Data]
			if !known {
				t.Errorf("there is a <%s> in %q", token.Data, fragment)
			}
			for _, a := range token.Attr {
				allowed := false
				for _, name := range attributes {
					allowed = allowed || a.Key == name
				}
				if !allowed {
					t.Errorf("<%s> has %s in %q", token.Data, a.Key, fragment)
				}
				if a.Key == "href" && !harmlessAddress(a.Val) {
					t.Errorf("a link leads to %q in %q", a.Val, fragment)
				}
			}
		}
	}
}

// harmlessAddress compares as browsers do: they drop blanks and line ends.
func harmlessAddress(address string) bool {
	address = strings.ToLower(strings.Map(func(r rune) rune {
		if r <= ' ' {
			return -1
		}
		return r
	}, address))
	for _, begin := range []string{"https://", "http://", "mailto:", "tel:"} {
		if strings.HasPrefix(address, begin) {
			return true
		}
	}
	return strings.HasPrefix(address, "/") && !strings.HasPrefix(address, "//") && !strings.HasPrefix(address, `/\`)
}

// withText is a catalogue of one text.
func withText(t testing.TB, markdown string) *text.Texts {
	t.Helper()
	raw, err := json.Marshal(map[string]string{"a.text": markdown})
	if err != nil {
		t.Fatal(err)
	}
	return in(t, newCatalogue(t, map[string]string{"a.en.json": string(raw)}), "en")
}

func TestMarkdown(t *testing.T) {
	storagetest.AnyEngine(t)
	for name, tt := range map[string]struct{ markdown, want string }{
		"a sentence":                  {"Plain & simple", "Plain &amp; simple"},
		"emphasis":                    {"**bold** and *soft*", "<strong>bold</strong> and <em>soft</em>"},
		"paragraphs":                  {"one\n\ntwo", "<p>one</p>\n<p>two</p>"},
		"a list":                      {"- one\n- two", "<ul>\n<li>one</li>\n<li>two</li>\n</ul>"},
		"headings stay below h1":      {"# One\n\n###### Six", "<h2>One</h2>\n<h6>Six</h6>"},
		"a link":                      {"[here](https://example.com/a?b=c&d)", `<a href="https://example.com/a?b=c&amp;d" rel="noreferrer">here</a>`},
		"a page of ours":              {"[here](/me)", `<a href="/me" rel="noreferrer">here</a>`},
		"an address":                  {"<it@example.com>", `<a href="mailto:it@example.com" rel="noreferrer">it@example.com</a>`},
		"a telephone":                 {"[call](tel:+385123)", `<a href="tel:+385123" rel="noreferrer">call</a>`},
		"a picture is its text":       {"![our **logo**](https://example.com/l.png)", "our <strong>logo</strong>"},
		"HTML is text":                {"a <b>b</b> <!-- c -->", "a &lt;b&gt;b&lt;/b&gt; &lt;!-- c --&gt;"},
		"a block of HTML is text":     {"<script>\nalert(1)\n</script>", "&lt;script&gt;\nalert(1)\n&lt;/script&gt;"},
		"script in a link":            {"[x](javascript:alert(1))", "x"},
		"script in an autolink":       {"<javascript:alert(1)>", "javascript:alert(1)"},
		"script in entities":          {"[x](&#106;avascript:alert(1))", "x"},
		"script by reference":         {"[x]\n\n[x]: JaVaScRiPt:alert(1)", "x"},
		"data":                        {"[x](data:text/html,<script>)", "x"},
		"another host without scheme": {"[x](//evil.example)", "x"},
		"one with a backslash":        {`[x](/\evil.example)`, "x"},
		"a relative path":             {"[x](me)", "x"},
		"no host":                     {"[x](https:evil)", "x"},
		"a title with quotes":         {`[x](https://example.com "a\" onclick=\"b")`, `<a href="https://example.com" title="a&quot; onclick=&quot;b" rel="noreferrer">x</a>`},
	} {
		t.Run(name, func(t *testing.T) {
			got := string(withText(t, tt.markdown).HTML("a.text"))
			if got != tt.want {
				t.Errorf("HTML of %q is %s, want %s", tt.markdown, got, tt.want)
			}
			checkHarmless(t, got)
		})
	}
}

// TestMarkdownTakesItsTime has texts as long as an operator may write that are hard on
// parsers.
func TestMarkdownTakesItsTime(t *testing.T) {
	storagetest.AnyEngine(t)
	for _, hard := range []string{">", "[", "![", "*a_", "`a``", "- ", "<a ", "[a](", "\\", "&", "{", "{a"} {
		long := strings.Repeat(hard, 5000/len(hard))
		began := time.Now()
		checkHarmless(t, string(text.Render(long, "Ana")))
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("5000 characters of %q take %s", hard, took)
		}
	}
}

func FuzzTextsAreHarmless(f *testing.F) {
	for _, seed := range []string{
		"# a\n\n[x](javascript:y) <z> ![p](q \"r\")", "<script>", "[a]: <b> 'c'\n[a]", "{user}", "`{user}`", "<https://a/{user}>", "[{user}](/{user} \"{user}\")",
	} {
		f.Add(seed, "<b>\" onclick='x' {user} [a](b)")
	}
	f.Fuzz(func(t *testing.T, markdown, value string) {
		checkHarmless(t, string(text.Render(markdown, value)))
	})
}
