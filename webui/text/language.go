package text

import (
	"cmp"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"golang.org/x/text/language"
)

// ErrLanguage means that there are no texts in a language.
var ErrLanguage = errors.New("there are no texts in this language")

// Language is one that texts can be had in.
type Language struct {
	Code    string // "de"
	Name    string // in that language itself: "Deutsch"
	Dir     string // "ltr" or "rtl"
	Current bool
}

// locale is a language that we know how to write.
type locale struct{ code, name, dir string }

// fallback is the language of texts that others lack.
const fallback = "en"

// locales are the languages in the order of menus. Those are offered that there are
// messages in.
var locales = []locale{
	{fallback, "English", "ltr"},
	{"de", "Deutsch", "ltr"},
	{"es", "Español", "ltr"},
	{"fr", "Français", "ltr"},
	{"ja", "日本語", "ltr"},
	{"ar", "العربية", "rtl"},
}

func localeOf(code string) *locale {
	for i := range locales {
		if locales[i].code == code {
			return &locales[i]
		}
	}
	return nil
}

// Bounds of what a browser may send.
const (
	mostPreferences = 1000 // bytes of Accept-Language; the rest is not read
	cookieLife      = 365 * 24 * time.Hour
)

// languageParameter is the parameter of a URL that chooses a language.
const languageParameter = "lang"

// language chooses for r.
func (c *Catalogue) language(r *http.Request) string {
	if lang, ok := c.chosen(r.URL.Query().Get(languageParameter)); ok {
		return lang
	}
	if cookie, err := r.Cookie(c.cookieName()); err == nil {
		if lang, ok := c.chosen(cookie.Value); ok {
			return lang
		}
	}
	if lang, ok := c.match(strings.Join(r.Header.Values("Accept-Language"), ",")); ok {
		return lang
	}
	return fallback
}

// chosen returns the language that a tag names, of whatever country.
func (c *Catalogue) chosen(tag string) (string, bool) {
	if len(tag) > mostPreferences {
		return "", false
	}
	parsed, err := language.Parse(tag)
	if err != nil {
		return "", false
	}
	base, _ := parsed.Base()
	for _, l := range c.offered {
		if l.code == base.String() && tag != pseudo.code {
			return l.code, true
		}
	}
	return "", false
}

// match returns the language that fits preferences best, which are as in Accept-Language
// (RFC 9110, 12.5.4). What is not a language is passed over: the others still count.
func (c *Catalogue) match(preferences string) (string, bool) {
	type preference struct {
		tag    language.Tag
		weight float32
	}
	var wanted []preference
	for part := range strings.SplitSeq(preferences[:min(len(preferences), mostPreferences)], ",") {
		tags, weights, err := language.ParseAcceptLanguage(part)
		if err != nil {
			continue
		}
		for i, tag := range tags {
			wanted = append(wanted, preference{tag, weights[i]})
		}
	}
	slices.SortStableFunc(wanted, func(a, b preference) int { return cmp.Compare(b.weight, a.weight) })
	for _, w := range wanted {
		// One by one: to the matcher as a list, a distant relative of the first would be
		// as good as the second itself.
		if _, i, confidence := c.matcher.Match(w.tag); confidence > language.No {
			return c.offered[i].code, true
		}
	}
	return "", false
}

func (c *Catalogue) cookieName() string {
	if c.secure {
		return "__Host-gatehouse-lang" // browsers take it only with Secure, Path=/ and no Domain
	}
	return "gatehouse-lang"
}

// KeepLanguage is the middleware that has the browser remember the language of ?lang=.
func (c *Catalogue) KeepLanguage(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if lang, ok := c.chosen(r.URL.Query().Get(languageParameter)); ok {
			http.SetCookie(w, &http.Cookie{
				Name: c.cookieName(), Value: lang, Path: "/", MaxAge: int(cookieLife / time.Second),
				Secure: c.secure, HttpOnly: true, SameSite: http.SameSiteLaxMode,
			})
		}
		next.ServeHTTP(w, r)
	})
}
