package text

import "html/template"

// Render is markdown with the placeholders user filled in, as HTML does it.
func Render(markdown, user string) template.HTML {
	c := &Catalogue{markdown: newMarkdown(), missing: func(string, string) {}}
	t := &Texts{c: c, edition: &edition{locale: locales[0], phrases: map[string]*phrase{"key": {text: markdown, lang: fallback}}}}
	return t.HTML("key", "user", user)
}

// Form is the plural form that n takes in a language.
func (t *Texts) Form(n int) string { return t.form(n) }

// JamfTexts are the keys that texts of Jamf's are taken for, and those that are not.
func JamfTexts() (taken, others map[string]string) { return jamfTexts, jamfOthers }
