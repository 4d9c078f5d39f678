package text_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
	"github.com/gatehouse-mdm/gatehouse/webui/text"
)

// six is a catalogue in the languages that ours is to be had in.
func six(t testing.TB) *text.Catalogue {
	t.Helper()
	messages := map[string]string{}
	for _, lang := range []string{"en", "de", "fr", "es", "ja", "ar"} {
		messages["a.lang."+lang+".json"] = ""
		delete(messages, "a.lang."+lang+".json")
		messages["a."+lang+".json"] = `{"a.lang": "` + lang + `"}`
	}
	return newCatalogue(t, messages)
}

func TestTheLanguageIsThatOfTheReader(t *testing.T) {
	storagetest.AnyEngine(t)
	cat := six(t)
	for name, tt := range map[string]struct {
		query, cookie, accept string
		want                  string
	}{
		"nothing is asked for":             {"", "", "", "en"},
		"one language":                     {"", "", "fr", "fr"},
		"a country's kind of it":           {"", "", "de-AT", "de"},
		"another country's, in other case": {"", "", "FR-ca", "fr"},
		"several by weight":                {"", "", "es;q=0.5, ja;q=0.9, de;q=0.7", "ja"},
		"several in order":                 {"", "", "es, de", "es"},
		"the first is not to be had":       {"", "", "zh-CN, de;q=0.5", "de"},
		"Chinese":                          {"", "", "zh", "en"},
		"Portuguese":                       {"", "", "pt-BR", "en"},
		"Portuguese, then English":         {"", "", "pt-BR,pt;q=0.9,en-US;q=0.8,en;q=0.7", "en"},
		"anything":                         {"", "", "*", "en"},
		"not German":                       {"", "", "de;q=0", "en"},
		"garbage":                          {"", "", "%%%;;q=x,,,\x00", "en"},
		"garbage beside a language":        {"", "", "!!, de;q=abc, fr;q=0.3", "fr"},
		"much of it":                       {"", "", strings.Repeat("x-", 5000), "en"},
		"much of it after a language":      {"", "", "ja," + strings.Repeat("q;", 5000), "ja"},
		"a cookie":                         {"", "ar", "de", "ar"},
		"a cookie of a language that was withdrawn": {"", "tlh", "de", "de"},
		"a cookie of garbage":                       {"", "%00<script>", "de", "de"},
		"the address":                               {"?lang=es", "ar", "de", "es"},
		"the address with a country":                {"?lang=ja-JP", "", "", "ja"},
		"an unknown language in the address":        {"?lang=tlh", "ar", "de", "ar"},
		"garbage in the address":                    {"?lang=" + strings.Repeat("%22", 3000), "", "de", "de"},
		"nothing in the address":                    {"?lang=", "", "de", "de"},
		"the pseudo-locale is for nobody":           {"?lang=en-XA", "", "", "en"},
	} {
		t.Run(name, func(t *testing.T) {
			r := httptest.NewRequest("GET", "/enroll"+tt.query, nil)
			if tt.cookie != "" {
				r.AddCookie(&http.Cookie{Name: "__Host-gatehouse-lang", Value: tt.cookie})
			}
			if tt.accept != "" {
				r.Header.Set("Accept-Language", tt.accept)
			}
			texts, err := cat.For(r)
			if err != nil || texts.Lang() != tt.want || texts.Say("a.lang") != tt.want {
				t.Errorf("language %s, %v; want %s", texts.Lang(), err, tt.want)
			}
			if known := cat.Known(r); known.Lang() != tt.want {
				t.Errorf("without the database it is %s, want %s", known.Lang(), tt.want)
			}
		})
	}
}

func TestTheLanguageOfTheAddressIsRemembered(t *testing.T) {
	storagetest.AnyEngine(t)
	cat := six(t)
	page := cat.KeepLanguage(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	visit := func(target string) *http.Response {
		w := httptest.NewRecorder()
		page.ServeHTTP(w, httptest.NewRequest("GET", target, nil))
		return w.Result()
	}
	got := visit("/enroll?lang=de-AT").Header.Values("Set-Cookie")
	if want := "__Host-gatehouse-lang=de; Path=/; Max-Age=31536000; HttpOnly; Secure; SameSite=Lax"; len(got) != 1 || got[0] != want {
		t.Errorf("cookies %q, want %q", got, want)
	}
	for _, target := range []string{"/enroll", "/enroll?lang=", "/enroll?lang=tlh", "/enroll?lang=a%0d%0aSet-Cookie:b=c"} {
		if got := visit(target).Header.Values("Set-Cookie"); len(got) != 0 {
			t.Errorf("%s sets %q", target, got)
		}
	}
}

func TestTheMenuHasEachLanguageInItsOwnName(t *testing.T) {
	storagetest.AnyEngine(t)
	var menu []string
	for _, l := range in(t, six(t), "ar").Languages() {
		item := l.Code + " " + l.Name + " " + l.Dir
		if l.Current {
			item += " current"
		}
		menu = append(menu, item)
	}
	want := "en English ltr, de Deutsch ltr, es Español ltr, fr Français ltr, ja 日本語 ltr, ar العربية rtl current"
	if got := strings.Join(menu, ", "); got != want {
		t.Errorf("menu is %s, want %s", got, want)
	}
}

func TestALanguageThatIsNotThereIsAnError(t *testing.T) {
	storagetest.AnyEngine(t)
	cat := six(t)
	for _, lang := range []string{"", "tlh", "de-AT", "EN"} {
		if texts, err := cat.In(t.Context(), lang); err == nil {
			t.Errorf("In(%q) = %v, want an error", lang, texts.Lang())
		}
	}
}
