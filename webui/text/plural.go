package text

import (
	"fmt"
	"iter"
	"slices"
	"strings"

	"github.com/nicksnyder/go-i18n/v2/i18n"
	i18ntemplate "github.com/nicksnyder/go-i18n/v2/i18n/template"
	"golang.org/x/text/language"
)

// formOther is the form that every language has.
const formOther = "other"

// forms are CLDR's plural forms.
var forms = []string{"zero", "one", "two", "few", "many", formOther}

// formOf is where a message has a form.
func formOf(m *i18n.Message, form string) *string {
	switch form {
	case "zero":
		return &m.Zero
	case "one":
		return &m.One
	case "two":
		return &m.Two
	case "few":
		return &m.Few
	case "many":
		return &m.Many
	}
	return &m.Other
}

// formsOf yields the forms of a message that has several, by their names, or its one
// text without a name.
func formsOf(m *i18n.Message) iter.Seq2[string, string] {
	return func(yield func(form, text string) bool) {
		plural := false
		for _, form := range forms[:len(forms)-1] {
			text := *formOf(m, form)
			plural = plural || text != ""
			if text != "" && !yield(form, text) {
				return
			}
		}
		name := ""
		if plural {
			name = formOther
		}
		yield(name, m.Other)
	}
}

// cutForm takes the form off the key of a text with plural forms.
func cutForm(key string) (base, form string, ok bool) {
	i := strings.LastIndexByte(key, '.')
	if i < 0 || !slices.Contains(forms, key[i+1:]) {
		return "", "", false
	}
	return key[:i], key[i+1:], true
}

// formMessage is a message whose forms are their own names: to localize it is to ask
// which form a number takes.
const formMessage = "form"

// addForms lets bundle say which forms a language has.
func addForms(bundle *i18n.Bundle, lang string) error {
	m := &i18n.Message{ID: formMessage}
	for _, form := range forms {
		*formOf(m, form) = form
	}
	if err := bundle.AddMessages(language.MustParse(lang), m); err != nil {
		return fmt.Errorf("plural forms of %s: %w", lang, err)
	}
	return nil
}

// form is the plural form that n takes.
func (e *edition) form(n int) string {
	form, err := e.plurals.Localize(&i18n.LocalizeConfig{
		MessageID: formMessage, PluralCount: n, TemplateParser: i18ntemplate.IdentityParser{},
	})
	if err != nil {
		return formOther
	}
	return form
}
