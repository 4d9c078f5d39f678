package text_test

import (
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/gatehouse-mdm/gatehouse/mdm/event"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
	"github.com/gatehouse-mdm/gatehouse/webui/text"
)

var small = fstest.MapFS{
	"a.en.json": {Data: []byte(`{"a.hello": "Hello {user}", "a.terms": "", "a.tries": {"one": "{n} try", "other": "{n} tries"}, "a.bye": "Bye"}`)},
	"a.de.json": {Data: []byte(`{"a.hello": "Hallo {user}", "a.tries": {"one": "{n} Versuch", "other": "{n} Versuche"}}`)},
	"a.ar.json": {Data: []byte(`{"a.tries": {"zero": "z", "one": "o", "two": "t", "few": "{n} f", "many": "{n} m", "other": "{n} x"}}`)},
}

// replica returns a catalogue of small messages on a database.
func replica(t testing.TB, db storage.DB) *text.Catalogue {
	t.Helper()
	cat, err := text.New(text.Config{
		DB: db, Log: slog.New(slog.DiscardHandler), Now: time.Now, Messages: small,
		Missing: func(lang, what string) { t.Errorf("missing in %s: %s", lang, what) },
	})
	if err != nil {
		t.Fatal(err)
	}
	return cat
}

func TestTheOperatorsTextIsInForceAtOnceOnAllReplicas(t *testing.T) {
	db := storagetest.Open(t)
	here, there := replica(t, db), replica(t, db)
	say := func(lang, key string) string { return in(t, there, lang).Say(key, "user", "Ana") }

	before := in(t, there, "de")
	if err := here.Replace(t.Context(), "user:it", "de", map[string]string{"a.hello": "Servus {user}", "a.tries.other": "{n} Mal"}); err != nil {
		t.Fatal(err)
	}
	if got := say("de", "a.hello"); got != "Servus Ana" {
		t.Errorf("after Replace it is %q", got)
	}
	if got := in(t, there, "de").Many("a.tries", 3) + in(t, there, "de").Many("a.tries", 1); got != "3 Mal1 Versuch" {
		t.Errorf("with one form replaced it is %q", got)
	}
	if got := before.Say("a.hello", "user", "Ana"); got != "Hallo Ana" {
		t.Errorf("a page that was begun before has %q", got)
	}
	if got := say("en", "a.hello"); got != "Hello Ana" {
		t.Errorf("in another language it is %q", got)
	}

	if err := here.Change(t.Context(), "user:it", "de", map[string]string{"a.bye": "Tschüs\r\n"}); err != nil {
		t.Fatal(err)
	}
	if got := say("de", "a.hello") + say("de", "a.bye"); got != "Servus AnaTschüs" {
		t.Errorf("after Change of another it is %q", got)
	}
	if err := here.Change(t.Context(), "user:it", "de", map[string]string{"a.hello": " "}); err != nil {
		t.Fatal(err)
	}
	if got := say("de", "a.hello") + say("de", "a.bye"); got != "Hallo AnaTschüs" {
		t.Errorf("after it was emptied it is %q", got)
	}
	if err := here.Replace(t.Context(), "user:it", "de", nil); err != nil {
		t.Fatal(err)
	}
	if got := say("de", "a.bye"); got != "Bye" {
		t.Errorf("after all were taken back it is %q", got)
	}

	if err := here.Replace(t.Context(), "user:it", "de", nil); err != nil { // nothing changes
		t.Fatal(err)
	}
	var log []string
	if err := db.View(t.Context(), func(tx storage.Tx) error {
		log = nil
		events, _, err := event.Page(tx, event.Filter{}, "", 100)
		for _, e := range events {
			log = append(log, fmt.Sprintf("%s %s %s %s", e.Actor, e.Action, e.Details["lang"], e.Details["texts"]))
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"user:it portal_texts.changed de a.bye a.tries.other",
		"user:it portal_texts.changed de a.hello",
		"user:it portal_texts.changed de a.bye",
		"user:it portal_texts.changed de a.hello a.tries.other",
	}
	if !reflect.DeepEqual(log, want) {
		t.Errorf("the audit log has\n%s\nwant\n%s", strings.Join(log, "\n"), strings.Join(want, "\n"))
	}
}

func TestALanguageStandsInForAnother(t *testing.T) {
	cat := replica(t, storagetest.Open(t))
	de := func() *text.Texts { return in(t, cat, "de") }
	if got := de().HTML("a.bye"); got != `<span lang="en" dir="ltr">Bye</span>` {
		t.Errorf("a text that is only in English is %s", got)
	}
	if de().Has("a.terms") || de().Say("a.terms") != "" || de().HTML("a.terms") != "" {
		t.Error("there are terms that nobody wrote")
	}

	// Nobody gets around the terms by another language.
	if err := cat.Change(t.Context(), "user:it", "ar", map[string]string{"a.terms": "one\n\ntwo"}); err != nil {
		t.Fatal(err)
	}
	for _, lang := range []string{"en", "de", "ar"} {
		if !in(t, cat, lang).Has("a.terms") {
			t.Errorf("there are no terms in %s", lang)
		}
	}
	if got, want := de().HTML("a.terms"), `<div lang="ar" dir="rtl"><p>one</p>
<p>two</p></div>`; string(got) != want {
		t.Errorf("terms are %s, want %s", got, want)
	}
	if err := cat.Change(t.Context(), "user:it", "en", map[string]string{"a.terms": "English"}); err != nil {
		t.Fatal(err)
	}
	if got := de().Say("a.terms"); got != "English" {
		t.Errorf("terms are %q, though there are English ones", got)
	}
}

func TestWhatIsWrongWithATextIsSaid(t *testing.T) {
	cat := replica(t, storagetest.Open(t))
	for name, tt := range map[string]struct {
		lang  string
		texts map[string]string
		want  string // of the error; empty: none
	}{
		"fewer placeholders":         {"en", map[string]string{"a.hello": "Hi"}, ""},
		"the organisation":           {"en", map[string]string{"a.hello": "Hi from {organisation}"}, ""},
		"a form":                     {"en", map[string]string{"a.tries.one": "once"}, ""},
		"a form of that language":    {"ar", map[string]string{"a.tries.few": "{n}"}, ""},
		"braces that hold no name":   {"en", map[string]string{"a.hello": "{ } {X}"}, ""},
		"as long as it may be":       {"en", map[string]string{"a.hello": strings.Repeat("é", 5000)}, ""},
		"an unknown text":            {"en", map[string]string{"a.nothing": "x"}, "texts.a.nothing is no text of the portal in this language"},
		"a text without its form":    {"en", map[string]string{"a.tries": "x"}, "texts.a.tries is no text of the portal in this language"},
		"a form of another language": {"en", map[string]string{"a.tries.few": "x"}, "texts.a.tries.few is no text of the portal in this language"},
		"an unknown placeholder":     {"en", map[string]string{"a.hello": "Hi {usr}"}, "texts.a.hello can't have {usr}: it is given {organisation}, {user}"},
		"too long":                   {"en", map[string]string{"a.hello": strings.Repeat("é", 5001)}, "texts.a.hello must be at most 5000 characters"},
		"control characters":         {"en", map[string]string{"a.hello": "a\x00"}, "texts.a.hello must have no control characters but line ends"},
		"two mistakes":               {"en", map[string]string{"a.x": "x", "a.y": "x"}, "texts.a.x is no text of the portal in this language, and 1 more"},
		"an unknown language":        {"tlh", map[string]string{"a.hello": "x"}, `there are no texts in this language: "tlh"`},
		"the pseudo-locale":          {"en-XA", map[string]string{"a.hello": "x"}, `there are no texts in this language: "en-XA"`},
	} {
		t.Run(name, func(t *testing.T) {
			err := cat.Change(t.Context(), "user:it", tt.lang, tt.texts)
			got := ""
			if err != nil {
				got = err.Error()
			}
			if got != tt.want {
				t.Errorf("error %q, want %q", got, tt.want)
			}
			var wrong text.FieldErrors
			if tt.want != "" && !errors.As(err, &wrong) && !errors.Is(err, text.ErrLanguage) {
				t.Errorf("error is a %T", err)
			}
		})
	}
	// What was refused changed nothing.
	_ = cat.Change(t.Context(), "user:it", "de", map[string]string{"a.bye": "Ade", "a.x": "x"})
	own, _, _, err := cat.Overrides(t.Context(), "de")
	if err != nil || len(own) != 0 {
		t.Errorf("overrides are %v, %v", own, err)
	}
}

func TestAPreviewSaysWhatTheAuthorMayNotExpect(t *testing.T) {
	cat := newCatalogue(t, nil)
	for name, tt := range map[string]struct {
		key, text, html string
		findings        []string
	}{
		"Markdown":       {"portal.terms", "**Hi** {organisation}", "<strong>Hi</strong> {organisation}", nil},
		"nothing":        {"portal.terms", " ", "", []string{"It is empty: nothing is shown."}},
		"HTML":           {"portal.terms", "<b onclick='x'>Hi", "&lt;b onclick='x'&gt;Hi", []string{"HTML such as <b onclick='x'> is shown as text."}},
		"a bad link":     {"portal.terms", "[x](ftp://a)", "x", []string{"The link to ftp://a is shown as text: links lead to https, http, mailto and tel, or to a path of this server."}},
		"a picture":      {"portal.terms", "![x](https://a)", "x", []string{"Pictures are not shown, only their description."}},
		"a name in link": {"portal.terms", "[x](https://a/{organisation})", `<a href="https://a/%7Borganisation%7D" rel="noreferrer">x</a>`, []string{"Placeholders in the address https://a/{organisation} are not filled in."}},
		"plain":          {"portal.frame.step", "*{n}*", "*{n}*", []string{"Our text also has {of}.", "It is shown as it is: Markdown and line ends don’t count here."}},
		"our own again":  {"portal.frame.step", "", "Step {n} of {of}", []string{"It is empty: our own text comes back."}},
	} {
		t.Run(name, func(t *testing.T) {
			html, findings, err := cat.Preview(t.Context(), "en", tt.key, tt.text)
			if err != nil || string(html) != tt.html || !reflect.DeepEqual(findings, tt.findings) {
				t.Errorf("Preview = %s, %q, %v; want %s, %q", html, findings, err, tt.html, tt.findings)
			}
		})
	}
	for field, key := range map[string]string{"key": "portal.nothing", "text": "portal.terms"} {
		_, _, err := cat.Preview(t.Context(), "en", key, "{x}")
		var wrong text.FieldErrors
		if !errors.As(err, &wrong) || wrong[0].Field != field {
			t.Errorf("a preview of %s is %v, want an error of the field %s", key, err, field)
		}
	}
}
