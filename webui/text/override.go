package text

import (
	"context"
	"errors"
	"fmt"
	"html/template"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/gatehouse-mdm/gatehouse/mdm/event"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

// mostText is how many characters a text of the operator's may have.
const mostText = 5000

// FieldError says what is wrong with a text of the operator's.
type FieldError struct {
	Field  string // "texts.portal.terms"
	Reason string // "must be at most 5000 characters"
}

// FieldErrors are what is wrong with the texts of the operator's; nothing was kept.
type FieldErrors []FieldError

// Error says the first of them.
func (e FieldErrors) Error() string {
	if len(e) > 1 {
		return fmt.Sprintf("%s %s, and %d more", e[0].Field, e[0].Reason, len(e)-1)
	}
	return e[0].Field + " " + e[0].Reason
}

// Summary says what there is in a language.
type Summary struct {
	Language
	Texts      int // that the portal has
	Overridden int // for which there is another by the operator
	Untold     int // that are in English, for want of this language
	UpdatedAt  time.Time
	By         string
}

// Entry is one text of the portal, as it is kept. A text with plural forms has an entry
// for each form.
type Entry struct {
	Key          string
	Default      string   // ours; empty where the text is the operator's to write
	Text         string   // what is in force: the operator's, ours, or the fallback's
	Placeholders []string // that a text of the operator's may have
	Markdown     bool     // pages show it as such, else as it is
}

// override is what the operator says in one language instead of our texts.
type override struct {
	Lang      string            `json:"lang"`
	Texts     map[string]string `json:"texts"` // by key; none is empty
	UpdatedAt time.Time         `json:"updated_at"`
	By        string            `json:"by"`
}

var overrides = storage.NewCollection("portal.texts", 1, func(o override) string { return o.Lang })

// revision counts the changes of all overrides. Every writer reads and writes it.
type revision struct {
	Number int64 `json:"number"`
}

const revisionKey = "revision"

var revisions = storage.NewCollection("portal.texts-revision", 1, func(revision) string { return revisionKey })

// revisionOf returns the number of changes that there were.
func revisionOf(tx storage.Tx) (int64, error) {
	r, err := revisions.Get(tx, revisionKey)
	if errors.Is(err, storage.ErrNotFound) {
		return 0, nil
	}
	return r.Number, err
}

// overridesIn returns what the operator wrote, by language.
func overridesIn(tx storage.Tx) (map[string]override, error) {
	all := map[string]override{}
	for o, err := range overrides.All(tx, storage.Range{}) {
		if err != nil {
			return nil, err
		}
		all[o.Lang] = o
	}
	return all, nil
}

// Languages says what there is in each language.
func (c *Catalogue) Languages(ctx context.Context) ([]Summary, error) {
	all, err := c.current(ctx)
	if err != nil {
		return nil, err
	}
	languages := make([]Summary, len(c.offered))
	for i, t := range c.offered {
		languages[i] = all.summary(t)
	}
	return languages, nil
}

func (all *editions) summary(t *tongue) Summary {
	own, keys := all.own[t.code], all.c.keys(t.code)
	s := Summary{
		Language: Language{Code: t.code, Name: t.name, Dir: t.dir},
		Texts:    len(keys), UpdatedAt: own.UpdatedAt, By: own.By,
	}
	ours, english := all.c.ours(t.code).texts, all.c.ours(fallback).texts
	for _, key := range keys {
		switch {
		case own.Texts[key] != "":
			s.Overridden++
		case ours[key] == "" && english[key] != "":
			s.Untold++
		}
	}
	return s
}

// Overrides returns what the operator wrote in a language, by key, and all texts that can
// be written, in order. Its errors are [ErrLanguage] or the database's.
func (c *Catalogue) Overrides(ctx context.Context, lang string) (own map[string]string, s Summary, entries []Entry, err error) {
	all, err := c.current(ctx)
	if err != nil {
		return nil, Summary{}, nil, err
	}
	if !c.offers(lang) {
		return nil, Summary{}, nil, fmt.Errorf("%w: %q", ErrLanguage, lang)
	}
	phrases, t := all.in(lang).phrases, c.ours(lang)
	own = map[string]string{}
	for _, key := range c.keys(lang) {
		entries = append(entries, Entry{
			Key: key, Default: t.texts[key], Text: phrases[key].text,
			Placeholders: c.placeholders(lang, key), Markdown: c.asMarkdown[key],
		})
		if text := all.own[lang].Texts[key]; text != "" { // what an older version had is left out
			own[key] = text
		}
	}
	return own, all.summary(t), entries, nil
}

// Replace makes texts all that the operator says in a language instead of ours. by is who
// does so, for the audit log. Its errors are [FieldErrors], [ErrLanguage] or the database's.
func (c *Catalogue) Replace(ctx context.Context, by, lang string, texts map[string]string) error {
	return c.write(ctx, by, lang, texts, func(map[string]string) map[string]string { return texts })
}

// Change is Replace for some texts: the others stay. An empty one is ours again.
func (c *Catalogue) Change(ctx context.Context, by, lang string, texts map[string]string) error {
	return c.write(ctx, by, lang, texts, func(own map[string]string) map[string]string {
		changed := maps.Clone(own)
		if changed == nil {
			changed = map[string]string{}
		}
		maps.Copy(changed, texts)
		return changed
	})
}

func (c *Catalogue) write(ctx context.Context, by, lang string, texts map[string]string, change func(own map[string]string) map[string]string) error {
	if !c.offers(lang) {
		return fmt.Errorf("%w: %q", ErrLanguage, lang)
	}
	var wrong FieldErrors
	for _, key := range slices.Sorted(maps.Keys(texts)) {
		if reason := c.check(lang, key, texts[key]); reason != "" {
			wrong = append(wrong, FieldError{"texts." + key, reason})
		}
	}
	if len(wrong) > 0 {
		return wrong
	}
	var changed []string
	err := c.db.Update(ctx, func(tx storage.Tx) error {
		number, err := revisionOf(tx)
		if err != nil {
			return err
		}
		o, err := overrides.Get(tx, lang)
		if err != nil && !errors.Is(err, storage.ErrNotFound) {
			return err
		}
		before, own := maps.Clone(o.Texts), map[string]string{}
		for key, text := range change(o.Texts) {
			if text = tidy(text); text != "" {
				own[key] = text
			}
		}
		if changed = difference(o.Texts, own); len(changed) == 0 {
			return nil
		}
		if err := overrides.Put(tx, override{Lang: lang, Texts: own, UpdatedAt: c.now().UTC(), By: by}); err != nil {
			return err
		}
		if err := revisions.Put(tx, revision{number + 1}); err != nil {
			return err
		}
		return event.Record(tx, event.Event{At: c.now().UTC(), Actor: by, Action: "portal_texts.changed", Details: map[string]string{
			"lang": lang, "count": strconv.Itoa(len(changed)), "texts": strings.Join(changed, " "),
		}, Changes: event.Changes(before, own)})
	})
	if err != nil {
		return fmt.Errorf("change texts: %w", err)
	}
	if len(changed) > 0 {
		c.log.InfoContext(ctx, "portal texts changed", "lang", lang, "count", len(changed), "by", by)
	}
	return nil
}

// difference returns the keys whose texts differ, in order.
func difference(before, after map[string]string) []string {
	keys := map[string]bool{}
	for _, texts := range []map[string]string{before, after} {
		for key := range texts {
			if before[key] != after[key] {
				keys[key] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(keys))
}

// tidy is a text as it is kept: lines end in one way, and blank is empty.
func tidy(text string) string {
	return strings.TrimSpace(strings.ReplaceAll(text, "\r\n", "\n"))
}

// check says what is wrong with a text of the operator's, or nothing.
func (c *Catalogue) check(lang, key, text string) string {
	if _, known := c.inForce.Load().in(lang).phrases[key]; !known {
		return "is no text of the portal in this language"
	}
	text = tidy(text)
	switch {
	case utf8.RuneCountInString(text) > mostText:
		return fmt.Sprintf("must be at most %d characters", mostText)
	case strings.ContainsFunc(text, func(r rune) bool { return unicode.IsControl(r) && r != '\n' && r != '\t' }):
		return "must have no control characters but line ends"
	}
	may := c.placeholders(lang, key)
	for _, name := range placeholders(text) {
		if !slices.Contains(may, name) {
			return fmt.Sprintf("can't have {%s}: it is given {%s}", name, strings.Join(may, "}, {"))
		}
	}
	return ""
}

// common are the placeholders that any text may have: pages give them to all (With).
const common = "organisation"

// placeholders are those that a text of the operator's may have: what ours have, in this
// language and in English.
func (c *Catalogue) placeholders(lang, key string) []string {
	names := append([]string{common}, placeholders(c.ours(lang).texts[key])...)
	names = append(names, placeholders(c.ours(fallback).texts[key])...)
	// A form that English lacks is given what the others are.
	if base, form, ok := cutForm(key); ok {
		names = append(names, "n")
		if form != formOther {
			names = append(names, placeholders(c.ours(fallback).texts[base+"."+formOther])...)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// Preview returns what a page would show for a text of the operator's, and what there is
// to say about it. Its errors are [FieldErrors], [ErrLanguage] or the database's.
func (c *Catalogue) Preview(ctx context.Context, lang, key, text string) (html template.HTML, findings []string, err error) {
	t, err := c.In(ctx, lang)
	if err != nil {
		return "", nil, err
	}
	if t.code == pseudo.code {
		return "", nil, fmt.Errorf("%w: %q", ErrLanguage, lang)
	}
	if reason := c.check(lang, key, text); reason != "" {
		field := "text"
		if t.phrases[key] == nil {
			field = "key"
		}
		return "", nil, FieldErrors{{field, reason}}
	}
	text = tidy(text)
	left := []string{}
	for _, name := range placeholders(c.ours(fallback).texts[key]) {
		if !slices.Contains(placeholders(text), name) {
			left = append(left, "{"+name+"}")
		}
	}
	switch {
	case text == "":
		if text = c.choose(lang, key, nil).text; text == "" {
			findings = append(findings, "It is empty: nothing is shown.")
		} else {
			findings = append(findings, "It is empty: our own text comes back.")
		}
	case len(left) > 0:
		findings = append(findings, "Our text also has "+strings.Join(left, ", ")+".")
	}
	if !c.asMarkdown[key] {
		if _, found := c.markdown.render(text); len(found) > 0 || strings.ContainsAny(text, "*`[#\n") {
			findings = append(findings, "It is shown as it is: Markdown and line ends don’t count here.")
		}
		return template.HTML(template.HTMLEscapeString(text)), findings, nil
	}
	rendered, found := c.markdown.render(text)
	return template.HTML(fillHTML(rendered, func(name string) string { return "{" + name + "}" })), append(findings, found...), nil
}
