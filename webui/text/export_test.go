package text

import "html/template"

// Render is markdown with the placeholders user filled in, as HTML does it.
func Render(markdown, user string) template.HTML {
	c := &Catalogue{markdown: newMarkdown(), missing: func(string, string) {}}
	t := &Texts{c: c, edition: &edition{locale: locales[0], phrases: map[string]*phrase{"key": {text: markdown, lang: fallback}}}}
	return t.HTML("key", "user", user)
}
