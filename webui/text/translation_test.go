package text_test

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// languages are those that the portal speaks, beside English.
var languages = []string{"ar", "de", "es", "fr", "ja"}

// names finds the placeholders of a text.
var names = regexp.MustCompile(`\{[a-z][a-z0-9_]*\}`)

// marks finds what makes a text Markdown that pages show, and must not get lost.
var marks = regexp.MustCompile("\\*\\*|`|\\]\\(|\n\n")

// found are the things that expression finds, sorted.
func found(expression *regexp.Regexp, text string) string {
	all := expression.FindAllString(text, -1)
	slices.Sort(all)
	return strings.Join(all, " ")
}

// TestEveryLanguageSaysEverything holds that no language lacks a text, or a value that is
// in it, or a form that its grammar has.
func TestEveryLanguageSaysEverything(t *testing.T) {
	storagetest.AnyEngine(t)
	english := messages(t, "en")
	cat := newCatalogue(t, nil)
	for _, lang := range languages {
		texts := messages(t, lang)
		forms := map[string]bool{}
		grammar := in(t, cat, lang)
		for n := range 1000 {
			forms[grammar.Form(n)] = true
			forms[grammar.Form(n*1_000_000)] = true
		}
		for key := range texts {
			if _, ok := english[key]; !ok {
				t.Errorf("%s has %s, which English does not have", lang, key)
			}
		}
		for key, want := range english {
			got, ok := texts[key]
			if want == "" {
				continue // the operator's to write
			}
			if !ok || got == "" {
				t.Errorf("%s lacks %s", lang, key)
				continue
			}
			if _, plural := want.(map[string]any); plural {
				checkForms(t, lang, key, got, want.(map[string]any), forms)
				continue
			}
			text, ok := got.(string)
			if !ok {
				t.Errorf("%s: %s has forms, and in English none", lang, key)
				continue
			}
			for _, expression := range []*regexp.Regexp{names, marks} {
				if g, w := found(expression, text), found(expression, want.(string)); g != w {
					t.Errorf("%s: %s has %q, want %q as in English", lang, key, g, w)
				}
			}
		}
	}
}

// checkForms holds that a text has the forms that its language has, that the most common
// one says all that it does in English, and no form says more.
func checkForms(t *testing.T, lang, key string, got any, english map[string]any, forms map[string]bool) {
	if text, ok := got.(string); ok {
		got = map[string]any{"other": text} // a language with one form needs no object
	}
	own := got.(map[string]any)
	if g, w := slices.Sorted(maps.Keys(own)), slices.Sorted(maps.Keys(forms)); !slices.Equal(g, w) {
		t.Errorf("%s: %s has the forms %q, want %q", lang, key, g, w)
	}
	want := found(names, fmt.Sprint(english["other"]))
	if g := found(names, fmt.Sprint(own["other"])); g != want {
		t.Errorf("%s: %s has %q, want %q as in English", lang, key, g, want)
	}
	for form, text := range own {
		for _, name := range names.FindAllString(fmt.Sprint(text), -1) {
			if !strings.Contains(want, name) {
				t.Errorf("%s: %s.%s has %s, which English does not have", lang, key, form, name)
			}
		}
	}
}

func TestLanguagesUseTheirOwnSigns(t *testing.T) {
	storagetest.AnyEngine(t)
	for lang, never := range map[string]*regexp.Regexp{
		"de": regexp.MustCompile(`[“"][^”"]*"|'`),            // „…“
		"fr": regexp.MustCompile(` [!?;:»]|« |[a-zé][!?;:]`), // a space before them at which no line breaks
		"es": regexp.MustCompile(`^[^¿]*\?`),                 // ¿…?
		"ja": regexp.MustCompile(`[a-z]\.$`),                 // 。
		"ar": regexp.MustCompile(`[\x{0600}-\x{06ff}][,;?]`), // ، ؛ ؟
	} {
		for key, message := range messages(t, lang) {
			forms, ok := message.(map[string]any)
			if !ok {
				forms = map[string]any{"": message}
			}
			for _, text := range forms {
				if sign := never.FindString(text.(string)); sign != "" {
					t.Errorf("%s: %s has %q: %s", lang, key, sign, text)
				}
			}
		}
	}
}
