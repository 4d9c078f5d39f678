// Package text is what the portal says: every string that people read there, by key and
// language, with what the operator says instead.
//
// Texts come from messages/<room>.<language>.json. A key is "room.screen.thing"; its text
// may hold {placeholders}, and is plain or Markdown, as the page that shows it asks for.
// Where a number decides between forms ("1 try", "2 tries"), a text is an object with
// CLDR's plural forms instead of a string. A text that is empty is the operator's to
// write; pages show it only where [Texts.Has] says that there is one.
//
// It knows no pages and no sessions.
package text

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nicksnyder/go-i18n/v2/i18n"
	"golang.org/x/text/language"

	"github.com/gatehouse-mdm/gatehouse/storage"
)

// markdownKeys are the keys whose texts pages show as Markdown: a test keeps it so.
//
//go:embed markdown.json
var markdownKeys []byte

// Config says what a Catalogue needs: DB, Log and Now.
type Config struct {
	DB  storage.DB
	Log *slog.Logger
	Now func() time.Time

	Secure bool // clients use https, so that cookies need never travel without

	// Messages holds <room>.<language>.json, and apple.<language>.json; nil: ours.
	Messages fs.FS

	// Missing is told when a key, a value or a label is asked for that is not there, so
	// that a test can fail; nil: it is logged, once each.
	Missing func(lang, what string)
}

// Catalogue holds all texts in all languages.
type Catalogue struct {
	db     storage.DB
	log    *slog.Logger
	now    func() time.Time
	secure bool

	missing  func(lang, what string)
	reported sync.Map // what was logged as missing

	markdown   *markdown
	asMarkdown map[string]bool // keys that pages show as Markdown

	offered []*tongue        // languages that there are texts in, the fallback first
	matcher language.Matcher // of offered
	plurals *i18n.Bundle     // says which form a number takes

	inForce atomic.Pointer[editions]
}

// tongue is our texts in one language. They are read when somebody wants them: at the
// start of a server nobody does yet.
type tongue struct {
	locale
	files source

	once   sync.Once
	texts  map[string]string // by key
	labels labels
}

// New reads the texts, or says what is wrong with them or what c lacks.
func New(c Config) (*Catalogue, error) {
	if c.DB == nil || c.Log == nil || c.Now == nil {
		return nil, errors.New("text: DB, Log and Now are required")
	}
	cat := &Catalogue{
		db: c.DB, log: c.Log, now: c.Now, secure: c.Secure, missing: c.Missing,
		markdown: newMarkdown(), asMarkdown: map[string]bool{},
		plurals: i18n.NewBundle(language.English),
	}
	if cat.missing == nil {
		cat.missing = cat.report
	}
	var keys []string
	if err := json.Unmarshal(markdownKeys, &keys); err != nil {
		return nil, fmt.Errorf("text: markdown.json: %w", err)
	}
	for _, key := range keys {
		cat.asMarkdown[key] = true
	}
	if err := cat.offer(c.Messages); err != nil {
		return nil, fmt.Errorf("text: %w", err)
	}
	cat.inForce.Store(cat.edit(0, nil))
	return cat, nil
}

// offer finds the languages that there are files for, and reads the fallback.
func (c *Catalogue) offer(files fs.FS) error {
	sources, err := ours()
	if files != nil {
		sources, err = loose(files)
	}
	if err != nil {
		return err
	}
	found := map[string]*tongue{}
	for lang, files := range sources {
		l := localeOf(lang)
		if l == nil {
			return fmt.Errorf("%s is no language of texts", lang)
		}
		found[lang] = &tongue{locale: *l, files: files}
	}
	var tags []language.Tag
	for _, l := range locales {
		if t := found[l.code]; t != nil {
			c.offered = append(c.offered, t)
			tags = append(tags, language.MustParse(l.code))
		}
	}
	if found[fallback] == nil {
		return errors.New("there are no English texts")
	}
	c.matcher = language.NewMatcher(tags)
	for _, l := range append(slices.Clone(locales), pseudo) {
		if err := addForms(c.plurals, l.code); err != nil {
			return err
		}
	}
	found[fallback].once.Do(func() { err = found[fallback].read() })
	if err == nil && len(found[fallback].texts) == 0 {
		err = errors.New("there are no English texts")
	}
	return err
}

// read takes the files of a language.
func (t *tongue) read() error {
	t.texts = map[string]string{}
	files, err := t.files()
	if err != nil {
		return err
	}
	for name, data := range files {
		if strings.HasPrefix(name, appleRoom+".") {
			t.labels, err = readLabels(data)
		} else {
			err = readMessages(data, name, t.texts)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

// ours returns our texts in a language.
func (c *Catalogue) ours(lang string) *tongue {
	for _, t := range c.offered {
		if t.code != lang {
			continue
		}
		t.once.Do(func() {
			// The files are a part of the program, and its tests read them all.
			if err := t.read(); err != nil {
				c.log.Error("texts not read", "lang", lang, "err", err)
			}
			t.alignForms(c.offered[0].texts)
		})
		return t
	}
	return &tongue{}
}

// alignForms puts texts of a language with one form under the keys that English, which
// has two, has for them.
func (t *tongue) alignForms(english map[string]string) {
	for key, text := range t.texts {
		only := key + "." + formOther
		if _, ok := english[only]; ok {
			delete(t.texts, key)
			t.texts[only] = text
		}
	}
}

// readMessages adds the messages of one file to texts. A text with plural forms is kept
// as a text for each form, under its key and the form's name.
func readMessages(data []byte, name string, texts map[string]string) error {
	file, err := i18n.ParseMessageFileBytes(data, name, map[string]i18n.UnmarshalFunc{"json": json.Unmarshal})
	if err != nil {
		return err
	}
	for _, m := range file.Messages {
		for form, text := range formsOf(m) {
			key := m.ID
			if form != "" {
				key += "." + form
			}
			if _, twice := texts[key]; twice {
				return fmt.Errorf("%s is there twice", key)
			}
			texts[key] = text
		}
	}
	return nil
}

// edition is the texts of one language as they are in force: the operator's, else ours,
// else those of the language that stands in.
type edition struct {
	locale
	phrases map[string]*phrase
	plurals *i18n.Localizer
}

// editions are those of all languages, made when they are first asked for.
type editions struct {
	c        *Catalogue
	revision int64               // of what the operator wrote
	own      map[string]override // that, by language

	mu   sync.Mutex
	made map[string]*edition
}

// phrase is one text.
type phrase struct {
	text string
	lang string // whose it is: the fallback's where a language has none

	once sync.Once
	html string // text rendered as Markdown, with its placeholders
}

// edit returns what is in force where the operator wrote these texts.
func (c *Catalogue) edit(revision int64, own map[string]override) *editions {
	return &editions{c: c, revision: revision, own: own, made: map[string]*edition{}}
}

// in returns the edition of a language, nil if it is not offered.
func (all *editions) in(lang string) *edition {
	all.mu.Lock()
	defer all.mu.Unlock()
	return all.edition(lang)
}

func (all *editions) edition(lang string) *edition {
	if e := all.made[lang]; e != nil {
		return e
	}
	c := all.c
	if lang == pseudo.code {
		all.made[lang] = distort(c.plurals, all.edition(fallback))
		return all.made[lang]
	}
	if !c.offers(lang) {
		return nil
	}
	e := newEdition(c.plurals, c.ours(lang).locale)
	for _, key := range c.keys(lang) {
		e.phrases[key] = c.choose(lang, key, all.own)
	}
	all.made[lang] = e
	return e
}

// offers says whether there are texts in a language.
func (c *Catalogue) offers(lang string) bool {
	return slices.ContainsFunc(c.offered, func(t *tongue) bool { return t.code == lang })
}

func newEdition(plurals *i18n.Bundle, l locale) *edition {
	return &edition{locale: l, phrases: map[string]*phrase{}, plurals: i18n.NewLocalizer(plurals, l.code)}
}

// choose returns the text of a key that is in force in a language.
func (c *Catalogue) choose(lang, key string, own map[string]override) *phrase {
	for _, texts := range []map[string]string{own[lang].Texts, c.ours(lang).texts} {
		if text := texts[key]; text != "" {
			return &phrase{text: text, lang: lang}
		}
	}
	for _, texts := range []map[string]string{own[fallback].Texts, c.ours(fallback).texts} {
		if text := texts[key]; text != "" {
			return &phrase{text: text, lang: fallback}
		}
	}
	// What only the operator can say, the terms of use above all, is not to be avoided by
	// choosing another language.
	for _, l := range c.offered {
		if text := own[l.code].Texts[key]; text != "" {
			return &phrase{text: text, lang: l.code}
		}
	}
	return &phrase{lang: lang}
}

// current returns the texts as the operator has them now: a small record says whether
// those in memory are. It costs less than the session that the same request loads.
func (c *Catalogue) current(ctx context.Context) (*editions, error) {
	known := c.inForce.Load()
	var revision int64
	var own map[string]override
	err := c.db.View(ctx, func(tx storage.Tx) (err error) {
		own = nil
		revision, err = revisionOf(tx)
		if err == nil && revision != known.revision {
			own, err = overridesIn(tx)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("texts: %w", err)
	}
	if revision == known.revision {
		return known, nil
	}
	// Who builds an older one at the same time may store it last: then the next request
	// does this again.
	fresh := c.edit(revision, own)
	c.inForce.Store(fresh)
	return fresh, nil
}

// For returns the texts in the language of whoever sent r: that of ?lang=, else the one
// that was chosen before, else the best that the browser asks for, else English. Its
// errors are the database's.
func (c *Catalogue) For(r *http.Request) (*Texts, error) {
	all, err := c.current(r.Context())
	if err != nil {
		return nil, err
	}
	return &Texts{c: c, edition: all.in(c.language(r))}, nil
}

// Known is For without the database: texts as they were last known. It is for the page
// that says that the database is not available.
func (c *Catalogue) Known(r *http.Request) *Texts {
	return &Texts{c: c, edition: c.inForce.Load().in(c.language(r))}
}

// In returns the texts in a language: one that is offered, or the pseudo-locale "en-XA"
// that is for tests and previews. Its errors are [ErrLanguage] or the database's.
func (c *Catalogue) In(ctx context.Context, lang string) (*Texts, error) {
	all, err := c.current(ctx)
	if err != nil {
		return nil, err
	}
	e := all.in(lang)
	if e == nil {
		return nil, fmt.Errorf("%w: %q", ErrLanguage, lang)
	}
	return &Texts{c: c, edition: e}, nil
}

// report is what is done about what is missing where no test looks: the page stays up,
// and the log says so.
func (c *Catalogue) report(lang, what string) {
	if _, again := c.reported.LoadOrStore(lang+" "+what, true); !again {
		c.log.Error("text missing", "lang", lang, "text", what)
	}
}

// keys are those that there are in a language, in order.
func (c *Catalogue) keys(lang string) []string {
	keys := map[string]bool{}
	ours := c.ours(lang).texts
	for key := range c.ours(fallback).texts {
		if base, _, ok := cutForm(key); ok && ours[key] == "" && ours[base+"."+formOther] != "" {
			continue // a form that the language has not
		}
		keys[key] = true
	}
	for key := range ours {
		keys[key] = true
	}
	return slices.Sorted(maps.Keys(keys))
}
