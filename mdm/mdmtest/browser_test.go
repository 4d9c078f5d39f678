package mdmtest

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
)

const atTheEnd = "apple-remotemanagement-user-login://authentication-results?access-token=t"

// handBack ends a web session.
var handBack = answering(308, "text/plain", "", "Location", atTheEnd)

// site serves pages by path.
func site(t *testing.T, pages map[string]http.HandlerFunc) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := pages[r.Method+" "+r.URL.Path]
		if h == nil {
			http.NotFound(w, r)
			return
		}
		h(w, r)
	}))
	t.Cleanup(s.Close)
	return s
}

func TestAPersonFindsTheWay(t *testing.T) {
	t.Parallel()
	page := func(body string, headers ...string) http.HandlerFunc {
		return answering(200, "text/html", body, headers...)
	}
	login := `<form method="post" action="/login"><input name="login" type="email"><input type="password" name="pw"><button>Sign in</button></form>`
	wants := func(want url.Values, then http.HandlerFunc) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if err := r.ParseForm(); err != nil || r.PostForm.Encode() != want.Encode() {
				t.Errorf("%s %s got %v, want %v", r.Method, r.URL, r.PostForm, want)
			}
			then(w, r)
		}
	}
	for name, tt := range map[string]struct {
		person *Browser
		pages  map[string]http.HandlerFunc
		want   string // error; "" arrives
	}{
		"by redirects of all kinds": {&Browser{}, map[string]http.HandlerFunc{
			"GET /": answering(301, "", "", "Location", "/2"), "GET /2": answering(303, "", "", "Location", "3"),
			"GET /3": answering(307, "", "", "Location", "/4"), "GET /4": handBack,
		}, ""},
		"by a Refresh header": {&Browser{}, map[string]http.HandlerFunc{"GET /": page("", "Refresh", "0; url=/2"), "GET /2": handBack}, ""},
		"by a meta element": {&Browser{}, map[string]http.HandlerFunc{
			"GET /": page(`<meta http-equiv="Refresh" content="0;URL='/2?a=1&amp;b=2'">`), "GET /2": handBack,
		}, ""},
		"by a form": {&Browser{Login: "ana", Password: "secret"}, map[string]http.HandlerFunc{
			"GET /": page(login), "POST /login": wants(url.Values{"login": {"ana"}, "pw": {"secret"}}, answering(303, "", "", "Location", "/2")), "GET /2": handBack,
		}, ""},
		"by a POST that a redirect repeats": {&Browser{Login: "ana", Password: "secret"}, map[string]http.HandlerFunc{
			"GET /": page(login), "POST /login": answering(307, "", "", "Location", "/2"),
			"POST /2": wants(url.Values{"login": {"ana"}, "pw": {"secret"}}, handBack),
		}, ""},
		"in two steps and with a code": {&Browser{Login: "ana", Password: "secret", Code: func() (string, error) { return "123456", nil }}, map[string]http.HandlerFunc{
			"GET /":       page(`<form action="/2"><input name="username"><input type="submit" value="Next"></form>`),
			"GET /2":      page(login),
			"POST /login": page(`<form method="post"><input name="c" autocomplete="one-time-code" inputmode="numeric"><button name="go" value="1">Go</button></form>`),
		}, "asks again"},
		"by the provider that it wants": {&Browser{Click: []string{"Corp"}}, map[string]http.HandlerFunc{
			"GET /":      page(login + `<form method="post" action="/corp"><button class="secondary" name="p" value="x">Sign in with Corp</button></form>`),
			"POST /corp": wants(url.Values{"p": {"x"}}, handBack),
		}, ""},
		"by a link that it wants": {&Browser{Click: []string{"corp"}}, map[string]http.HandlerFunc{
			"GET /": page(login + `<a href="/corp">Go by <b>Corp</b></a>`), "GET /corp": handBack,
		}, ""},
		"past what is not meant": {&Browser{}, map[string]http.HandlerFunc{
			"GET /": page(`<form method="post" action="/logout"><button class="plain">Sign out</button></form><main><form method="post" action="/yes">
<input type="checkbox" name="terms" required><input type="checkbox" name="news"><input type="radio" name="how" value="a"><input type="radio" name="how" value="b" checked>
<select name="lang"><option>en<option value="de" selected>Deutsch</select><textarea name="note">x</textarea>
<button class="secondary" name="do" value="no">No</button><button name="do" value="yes">Yes</button></form></main>`),
			"POST /yes": wants(url.Values{"terms": {"on"}, "how": {"b"}, "lang": {"de"}, "note": {"x"}, "do": {"yes"}}, handBack),
		}, ""},
		"with what a test fills in": {&Browser{Fields: map[string]string{"pin code": "9", "news": "on"}}, map[string]http.HandlerFunc{
			"GET /":   page(`<form method="post" id="f" action="/2"><input name="pin code"></form><input form="f" type="checkbox" name="news"><button form="f" formaction="/3">Go</button>`),
			"POST /3": wants(url.Values{"pin code": {"9"}, "news": {"on"}}, handBack),
		}, ""},
		"but not past a wrong password": {&Browser{Login: "ana", Password: "wrong"}, map[string]http.HandlerFunc{
			"GET /": page(login), "POST /login": answering(422, "text/html", `<h1>Sign in</h1><p role="alert">Try <b>again</b>.</p>`+login),
		}, "Try again."},
		"but not past a field that it has nothing for": {&Browser{Login: "ana"}, map[string]http.HandlerFunc{
			"GET /": page(`<form method="post"><input type="password" name="pw" required><button>Go</button></form>`),
		}, "nothing to fill in"},
		"but not past an error":        {&Browser{}, map[string]http.HandlerFunc{"GET /": answering(403, "text/html", `<h1>Not you</h1><form method="post"><button>Report</button></form>`)}, "Not you"},
		"but not past a dead end":      {&Browser{}, map[string]http.HandlerFunc{"GET /": page(`<title>Bye</title>`)}, "Bye"},
		"but not round in circles":     {&Browser{}, map[string]http.HandlerFunc{"GET /": answering(302, "", "", "Location", "/")}, "does not end"},
		"but not past what is no page": {&Browser{}, map[string]http.HandlerFunc{"GET /": answering(200, "application/json", `{}`)}, "no page"},
		"but not to another scheme":    {&Browser{}, map[string]http.HandlerFunc{"GET /": answering(302, "", "", "Location", "javascript:alert(1)")}, "javascript"},
		"but not past form-action": {&Browser{Login: "ana", Password: "secret"}, map[string]http.HandlerFunc{
			"GET /": page(login, "Content-Security-Policy", "default-src 'none'; form-action 'self'; base-uri 'none'"), "POST /login": handBack,
		}, "form-action 'self'"},
		"past a form-action that allows it": {&Browser{Login: "ana", Password: "secret"}, map[string]http.HandlerFunc{
			"GET /": page(login, "Content-Security-Policy", "form-action 'self' apple-remotemanagement-user-login:"), "POST /login": handBack,
		}, ""},
		"past form-action by a page": {&Browser{Login: "ana", Password: "secret"}, map[string]http.HandlerFunc{
			"GET /": page(login, "Content-Security-Policy", "form-action 'self'"), "POST /login": page("", "Refresh", "0; url=/2"), "GET /2": handBack,
		}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if tt.want == "asks again" { // the code's form has no action: it posts to where it is
				codes := 0
				form := tt.pages["POST /login"]
				tt.pages["POST /login"] = func(w http.ResponseWriter, r *http.Request) {
					if r.FormValue("c") == "123456" && r.FormValue("go") == "1" {
						codes++
						handBack(w, r)
						return
					}
					form(w, r)
				}
				tt.want = ""
				defer func() {
					if codes != 1 {
						t.Errorf("the code came %d times", codes)
					}
				}()
			}
			s := site(t, tt.pages)
			back, err := tt.person.SignIn(t.Context(), WebSession{URL: s.URL + "/", UserAgent: "Safari"})
			switch {
			case tt.want == "" && err != nil:
				t.Error(err)
			case tt.want == "" && back != Redirect{308, atTheEnd}:
				t.Errorf("SignIn = %+v", back)
			case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("SignIn = %+v, %v, want %q", back, err, tt.want)
			}
			for _, v := range tt.person.Visits() {
				if v.Sent.Get("Referer") != "" {
					t.Errorf("%s %s is sent a Referer", v.Method, v.URL)
				}
			}
		})
	}
}

func TestABrowserTellsWhatOthersWouldSend(t *testing.T) {
	var origins, sites []string
	record := func(h http.HandlerFunc) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			origins, sites = append(origins, r.Header.Get("Origin")), append(sites, r.Header.Get("Sec-Fetch-Site"))
			h(w, r)
		}
	}
	other := site(t, map[string]http.HandlerFunc{"GET /idp": record(answering(200, "text/html", `<form method="post"><button>Yes</button></form>`)),
		"POST /idp": record(handBack)})
	for name, tt := range map[string]struct{ policy, referrer, origin string }{
		"by default":      {"", "ORIGIN/", "other"},
		"no-referrer":     {"no-referrer", "", "other"},
		"same-origin":     {"same-origin", "", "other"},
		"unsafe-url":      {"unsafe-url", "ORIGIN/start?token=1", "other"},
		"the last counts": {"no-referrer, origin, nonsense", "ORIGIN/", "other"},
	} {
		t.Run(name, func(t *testing.T) {
			origins, sites = nil, nil
			s := site(t, map[string]http.HandlerFunc{"GET /start": record(answering(200, "text/html", "", "Refresh", "0; url="+other.URL+"/idp", "Referrer-Policy", tt.policy))})
			person := &Browser{}
			if _, err := person.SignIn(t.Context(), WebSession{URL: s.URL + "/start?token=1"}); err != nil {
				t.Fatal(err)
			}
			visits := person.Visits()
			if got, want := visits[1].Referrer, strings.Replace(tt.referrer, "ORIGIN", s.URL, 1); got != want {
				t.Errorf("Referrer = %q, want %q", got, want)
			}
			if got, want := strings.Join(origins, " "), "  "+other.URL; got != want {
				t.Errorf("Origin: %q, want %q", got, want)
			}
			if got, want := strings.Join(sites, " "), "none cross-site same-origin"; got != want {
				t.Errorf("Sec-Fetch-Site: %q, want %q", got, want)
			}
		})
	}
}

func TestARedirectThatLeftTheOriginIsNotItsOwn(t *testing.T) {
	var origins, sites []string
	record := func(h http.HandlerFunc) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			origins, sites = append(origins, r.Header.Get("Origin")), append(sites, r.Header.Get("Sec-Fetch-Site"))
			h(w, r)
		}
	}
	pages := map[string]http.HandlerFunc{}
	s, other := site(t, pages), site(t, pages)
	pages["GET /"] = record(answering(200, "text/html", `<form method="post" action="/1"><button>Go</button></form>`))
	pages["POST /1"] = record(answering(307, "", "", "Location", other.URL+"/2"))
	pages["POST /2"] = record(answering(307, "", "", "Location", s.URL+"/3"))
	pages["POST /3"] = record(handBack)
	if _, err := new(Browser).SignIn(t.Context(), WebSession{URL: s.URL}); err != nil {
		t.Fatal(err)
	}
	if got, want := strings.Join(origins, " "), " "+s.URL+" "+s.URL+" null"; got != want {
		t.Errorf("Origin: %q, want %q", got, want)
	}
	if got, want := strings.Join(sites, " "), "none same-origin cross-site cross-site"; got != want {
		t.Errorf("Sec-Fetch-Site: %q, want %q", got, want)
	}
}

func TestASessionsCookiesStayInIt(t *testing.T) {
	s := site(t, map[string]http.HandlerFunc{"GET /": func(w http.ResponseWriter, r *http.Request) {
		http.SetCookie(w, &http.Cookie{Name: "seen", Value: "1"})
		if _, err := r.Cookie("seen"); err == nil {
			answering(200, "text/html", "<h1>Seen before</h1>")(w, r)
			return
		}
		handBack(w, r)
	}})
	person := &Browser{}
	for range 2 {
		if _, err := person.SignIn(t.Context(), WebSession{URL: s.URL}); err != nil {
			t.Fatal(err)
		}
	}
	person.KeepCookies = true
	var stuck *PageError
	if _, err := person.SignIn(t.Context(), WebSession{URL: s.URL}); !errors.As(err, &stuck) || stuck.Text != "Seen before" {
		t.Errorf("SignIn = %v with the cookies of the last session", err)
	}
}

func TestAPersonWithAWrongPasswordStaysOutside(t *testing.T) {
	r := newRealm(t, VersionBYOD, MethodWeb)
	account := r.account()
	account.Person = &Browser{Password: "wrong"}
	d := r.device(Options{Account: account})
	var stuck *PageError
	if err := d.EnrollAccount(t.Context()); !errors.As(err, &stuck) || stuck.Text != "That is not the password." {
		t.Errorf("EnrollAccount = %v", err)
	}
	wantEvents(t, r.takeEvents(), "GET "+wellKnown, "POST /enroll", "GET /sign-in", "GET /login", "POST /login")
}
