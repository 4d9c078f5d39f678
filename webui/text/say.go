package text

import (
	"fmt"
	"html/template"
	"strconv"
	"strings"
)

// Texts are the texts in one language, as they are in force during one request.
//
// Pairs are names and values of placeholders, in turn: "user", name. A value can be of
// any type and is text: it becomes neither Markdown nor HTML, nor another placeholder.
type Texts struct {
	c *Catalogue
	*edition
	common []value
}

// With returns the same texts with values for whatever asks for them, such as the
// organisation's name in texts that the operator wrote.
func (t *Texts) With(pairs ...any) *Texts {
	with := *t
	with.common = append(t.values("With", pairs), t.common...)
	return &with
}

// Lang is the language's code: "de".
func (t *Texts) Lang() string { return t.code }

// Dir is the direction that the language is written in: "ltr" or "rtl".
func (t *Texts) Dir() string { return t.dir }

// Has says whether there is a text for a key: one that is not empty.
func (t *Texts) Has(key string) bool {
	for _, key := range []string{key, key + "." + formOther} {
		if p := t.phrases[key]; p != nil && p.text != "" {
			return true
		}
	}
	return false
}

// Say returns the text of a key, as it is.
func (t *Texts) Say(key string, pairs ...any) string {
	return t.say(key, t.find(key), t.values(key, pairs))
}

// Many returns the text of a key in the form that n takes in this language. {n} is n.
func (t *Texts) Many(key string, n int, pairs ...any) string {
	values := append(t.values(key, pairs), value{"n", strconv.Itoa(n)})
	form := t.form(n)
	p := t.phrases[key+"."+form]
	if p == nil || p.text == "" {
		form = formOther
		p = t.find(key + "." + form)
	}
	return t.say(key+"."+form, p, values)
}

// HTML returns the text of a key, rendered as Markdown. A single paragraph comes without
// <p>, so that it fits into an element of the page.
func (t *Texts) HTML(key string, pairs ...any) template.HTML {
	p := t.find(key)
	if p == nil {
		return template.HTML(template.HTMLEscapeString(key))
	}
	values := t.values(key, pairs)
	html := fillHTML(t.c.rendered(p), func(name string) string {
		text, ok := t.value(values, name)
		if !ok {
			t.c.missing(t.code, key+" {"+name+"}")
			return "{" + name + "}"
		}
		kept, _ := t.apart(text)
		return kept.before + template.HTMLEscapeString(text) + kept.after
	})
	// The page says what language it is in; this text may be in another.
	if l := localeOf(p.lang); p.lang != t.code && l != nil && html != "" {
		element := "span"
		if strings.HasPrefix(html, "<p>") || !inline(html) {
			element = "div"
		}
		html = fmt.Sprintf(`<%s lang="%s" dir="%s">%s</%s>`, element, l.code, l.dir, html, element)
	}
	return template.HTML(html) // rendered without raw HTML; values are escaped
}

// Languages are those that texts can be had in, for a menu.
func (t *Texts) Languages() []Language {
	all := make([]Language, len(t.c.offered))
	for i, l := range t.c.offered {
		all[i] = Language{Code: l.code, Name: l.name, Dir: l.dir, Current: l.code == t.code}
	}
	return all
}

// find returns the phrase of a key, nil if there is none.
func (t *Texts) find(key string) *phrase {
	p := t.phrases[key]
	if p == nil {
		t.c.missing(t.code, key)
	}
	return p
}

func (t *Texts) say(key string, p *phrase, values []value) string {
	if p == nil {
		return key
	}
	return fill(p.text, func(name string) string {
		text, ok := t.value(values, name)
		if !ok {
			t.c.missing(t.code, key+" {"+name+"}")
			return "{" + name + "}"
		}
		text = strings.Map(withoutDirection, text)
		_, kept := t.apart(text)
		return kept.before + text + kept.after
	})
}

// value is what stands for a placeholder.
type value struct{ name, text string }

// values reads pairs.
func (t *Texts) values(key string, pairs []any) []value {
	if len(pairs)%2 != 0 {
		t.c.missing(t.code, fmt.Sprintf("%s: value of %v", key, pairs[len(pairs)-1]))
	}
	values := make([]value, 0, len(pairs)/2+1)
	for i := 0; i+1 < len(pairs); i += 2 {
		values = append(values, value{fmt.Sprint(pairs[i]), fmt.Sprint(pairs[i+1])})
	}
	return values
}

func (t *Texts) value(values []value, name string) (string, bool) {
	for _, list := range [][]value{values, t.common} {
		for _, v := range list {
			if v.name == name {
				return v.text, true
			}
		}
	}
	return "", false
}
