package text_test

import (
	"bytes"
	"context"
	"html/template"
	"log/slog"
	"net/http/httptest"
	"slices"
	"strings"
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

func TestNumbersHaveTheirForms(t *testing.T) {
	storagetest.AnyEngine(t)
	cat := newCatalogue(t, map[string]string{
		"a.en.json": `{"a.tries": {"one": "{n} try of {of}", "other": "{n} tries of {of}"}}`,
		"a.fr.json": `{"a.tries": {"one": "{n} essai sur {of}", "many": "{n} d’essais sur {of}", "other": "{n} essais sur {of}"}}`,
		"a.ja.json": `{"a.tries": {"other": "{of}回中{n}回"}}`,
		"a.ar.json": `{"a.tries": {"zero": "zero {of}", "one": "one {of}", "two": "two {of}", "few": "{n} few {of}", "many": "{n} many {of}", "other": "{n} other {of}"}}`,
	})
	for _, tt := range []struct {
		lang string
		n    int
		want string
	}{
		{"en", 0, "0 tries of 9"}, {"en", 1, "1 try of 9"}, {"en", 2, "2 tries of 9"}, {"en", -1, "-1 try of 9"},
		{"fr", 0, "0 essai sur 9"}, {"fr", 1, "1 essai sur 9"}, {"fr", 2, "2 essais sur 9"}, {"fr", 1000000, "1000000 d’essais sur 9"},
		{"ja", 0, "9回中0回"}, {"ja", 1, "9回中1回"},
		{"ar", 0, "zero 9"}, {"ar", 1, "one 9"}, {"ar", 2, "two 9"}, {"ar", 3, "3 few 9"}, {"ar", 11, "11 many 9"}, {"ar", 100, "100 other 9"},
	} {
		if got := in(t, cat, tt.lang).Many("a.tries", tt.n, "of", 9); got != tt.want {
			t.Errorf("%d in %s is %q, want %q", tt.n, tt.lang, got, tt.want)
		}
	}
}

func TestValuesStayInTheirDirection(t *testing.T) {
	storagetest.AnyEngine(t)
	texts := in(t, newCatalogue(t, map[string]string{
		"a.en.json": `{"a.name": "{name}!"}`, "a.ar.json": `{"a.name": "{name}!"}`,
	}), "ar")
	if texts.Dir() != "rtl" {
		t.Errorf("Arabic is written %s", texts.Dir())
	}
	for value, want := range map[string][2]string{
		"Ana":  {"\u2068Ana\u2069!", "<bdi>Ana</bdi>!"},
		"مريم": {"\u2067مريم\u2069!", `<bdi dir="rtl">مريم</bdi>!`},
		// The direction of the whole is not that of its first word.
		"VPN وإدارة الجهاز": {"\u2067VPN وإدارة الجهاز\u2069!", `<bdi dir="rtl">VPN وإدارة الجهاز</bdi>!`},
		"8:00":              {"\u20688:00\u2069!", "<bdi>8:00</bdi>!"},
		"80":                {"80!", "80!"},
	} {
		if say, html := texts.Say("a.name", "name", value), texts.HTML("a.name", "name", value); say != want[0] || string(html) != want[1] {
			t.Errorf("%s is %q and %s, want %q and %s", value, say, html, want[0], want[1])
		}
	}
}

func TestWhatIsMissingIsReportedAndNothingBreaks(t *testing.T) {
	storagetest.AnyEngine(t)
	var missing []string
	cat, err := text.New(text.Config{
		DB: storagetest.Open(t), Log: slog.New(slog.DiscardHandler), Now: time.Now,
		Messages: fstest.MapFS{"a.en.json": {Data: []byte(`{"a.name": "{name} of {organisation}", "a.one": {"one": "1", "other": "{n}"}}`)}},
		Missing:  func(lang, what string) { missing = append(missing, lang+" "+what) },
	})
	if err != nil {
		t.Fatal(err)
	}
	texts := in(t, cat, "en").With("organisation", "Example")
	for name, tt := range map[string]struct {
		got, want, missing string
	}{
		"a key":                       {texts.Say("a.x"), "a.x", "en a.x"},
		"a key in HTML":               {string(texts.HTML("a.<b>")), "a.&lt;b&gt;", "en a.<b>"},
		"a key with a number":         {texts.Many("a.x", 1), "a.x.other", "en a.x.other"},
		"a value":                     {texts.Say("a.name"), "{name} of Example", "en a.name {name}"},
		"a value in HTML":             {string(texts.HTML("a.name")), "{name} of Example", "en a.name {name}"},
		"half a pair":                 {texts.Say("a.name", "name", "Ana", "x"), "Ana of Example", "en a.name: value of x"},
		"a form asked for by itself":  {texts.Say("a.one"), "a.one", "en a.one"},
		"a label":                     {texts.Apple("x", 0), "x", "en apple x"},
		"a value that need not be":    {texts.Say("a.name", "name", "Ana", "more", 1), "Ana of Example", ""},
		"a value that is one's own":   {texts.Say("a.name", "name", "Ana", "organisation", "Other"), "Ana of Other", ""},
		"a value that is no text yet": {texts.Say("a.name", "name", template.HTML("<b>")), "<b> of Example", ""},
	} {
		if tt.got != tt.want {
			t.Errorf("%s is %q, want %q", name, tt.got, tt.want)
		}
		if tt.missing != "" && !slices.Contains(missing, tt.missing) {
			t.Errorf("%s is not reported as %q, but %q", name, tt.missing, missing)
		}
	}
	if len(missing) != 8 {
		t.Errorf("%d are missing: %q", len(missing), missing)
	}
	if texts.Has("a.x") || !texts.Has("a.name") || !texts.Has("a.one") {
		t.Error("Has is wrong")
	}
}

func TestMissingTextsAreLoggedOnce(t *testing.T) {
	storagetest.AnyEngine(t)
	var log bytes.Buffer
	cat, err := text.New(text.Config{DB: storagetest.Open(t), Log: slog.New(slog.NewTextHandler(&log, nil)), Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	texts := in(t, cat, "en")
	for range 3 {
		texts.Say("no.such.text")
	}
	if n := strings.Count(log.String(), "no.such.text"); n != 1 {
		t.Errorf("it is logged %d times: %s", n, &log)
	}
}

func TestBadFilesAreRefused(t *testing.T) {
	storagetest.AnyEngine(t)
	for name, tt := range map[string]struct{ file, data, want string }{
		"no English":            {"a.de.json", `{"a.b": "x"}`, "no English texts"},
		"an unknown language":   {"a.tlh.json", `{"a.b": "x"}`, "a.tlh.json is not named"},
		"no language":           {"a.json", `{"a.b": "x"}`, "a.json is not named"},
		"not JSON":              {"a.en.json", `{`, "a.en.json"},
		"labels with a gap":     {"apple.en.json", `{"labels": {"a": [{"from": 3, "text": "x"}]}}`, "rise from 0"},
		"labels that fall":      {"apple.en.json", `{"labels": {"a": [{"text": "x"}, {"from": 3, "text": "y"}, {"from": 2, "text": "z"}]}}`, "rise from 0"},
		"an empty label":        {"apple.en.json", `{"labels": {"a": ""}}`, "rise from 0"},
		"unsure of no label":    {"apple.en.json", `{"labels": {"a": "x"}, "unsure": ["b"]}`, "unsure names b"},
		"labels by other names": {"apple.en.json", `{"labels": {"a": [{"until": 3, "text": "x"}]}}`, "until"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := text.New(text.Config{
				DB: storagetest.Open(t), Log: slog.New(slog.DiscardHandler), Now: time.Now,
				Messages: fstest.MapFS{tt.file: {Data: []byte(tt.data)}},
			})
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want one with %q", err, tt.want)
			}
		})
	}
}

func TestLabelsAreThoseOfTheSystemsVersion(t *testing.T) {
	storagetest.AnyEngine(t)
	texts := in(t, newCatalogue(t, nil), "en")
	for _, tt := range []struct {
		label string
		major int
		pairs []any
		want  string
	}{
		{"vpn_device_management", 14, nil, "Profiles & Device Management"},
		{"vpn_device_management", 15, nil, "VPN & Device Management"},
		{"vpn_device_management", 26, nil, "VPN & Device Management"},
		{"vpn_device_management", 0, nil, "VPN & Device Management"},
		{"mac_system_settings", 12, nil, "System Preferences"},
		{"mac_system_settings", 13, nil, "System Settings"},
		{"mac_download_prompt", 0, []any{"host", "mdm.example.com"}, "Do you want to allow downloads on “mdm.example.com”?"},
		{"remote_management_trust", 0, nil, "Do you trust this profile’s source to enroll your iPhone into remote management?"},
		{"remote_management_trust", 0, []any{"device", "iPad"}, "Do you trust this profile’s source to enroll your iPad into remote management?"},
	} {
		if got := texts.Apple(tt.label, tt.major, tt.pairs...); got != tt.want {
			t.Errorf("Apple(%s, %d) = %q, want %q", tt.label, tt.major, got, tt.want)
		}
	}
}

func TestThePseudoLocaleIsLongerAndKeepsWhatIsNoWord(t *testing.T) {
	storagetest.AnyEngine(t)
	texts := in(t, newCatalogue(t, map[string]string{"a.en.json": `{
		"a.short": "Sign in",
		"a.long": "Ask **{user}** for the [page](https://example.com/sign-in) or write to <it@example.com>, {user}.",
		"a.empty": ""
	}`}), "en-XA")
	if got := texts.Say("a.short"); got != "Šígñ íñ ẋẋẋ ẋẋ" {
		t.Errorf("a short text is %q", got)
	}
	want := `Ášk <strong>Ana</strong> fór thé <a href="https://example.com/sign-in" rel="noreferrer">págé</a> ór wríté tó <a href="mailto:it@example.com" rel="noreferrer">it@example.com</a>, Ana.`
	if got := string(texts.HTML("a.long", "user", "Ana")); !strings.HasPrefix(got, want) || len(got) < len(want)+10 {
		t.Errorf("a long text is %s, want it to begin with %s, and more", got, want)
	}
	if texts.Has("a.empty") {
		t.Error("an empty text is not empty any more")
	}
}
