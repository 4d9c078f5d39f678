package mdmtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestADeviceEnrolsByAccount(t *testing.T) {
	t.Parallel()
	before := []string{"GET /.well-known/com.apple.remotemanagement", "POST /enroll"}
	session := []string{"GET /login", "POST /login", "GET /done"}
	scep := []string{"POST /enroll", "GET GetCACert", "GET GetCACaps", "POST PKIOperation",
		"Authenticate by identity 1", "TokenUpdate by identity 1"}
	for _, version := range []string{VersionBYOD, VersionADDE} {
		for _, method := range []string{MethodWeb, MethodOAuth2} {
			for _, model := range []Model{IPhone, Mac, Vision} {
				t.Run(fmt.Sprintf("%s by %s, %s", model, method, version), func(t *testing.T) {
					t.Parallel()
					r := newRealm(t, version, method)
					r.demand(model)
					d := r.member(Options{Model: model})

					want := slices.Concat(before, []string{"GET /sign-in"}, session, scep)
					if method == MethodOAuth2 {
						want = slices.Concat(before, []string{"GET /authorize"}, session, []string{"POST /token"}, scep)
					}
					if model == Mac && version == VersionADDE {
						want = append(want, "user TokenUpdate by identity 1")
					} else if model == Mac {
						want = append(want, "TokenUpdate by identity 1") // the user is an EnrollmentUserID
					}
					wantEvents(t, r.takeEvents(), append(want, "Idle  by identity 1")...)
					if got, want := r.queries[0], "user-identifier=ana@example.com&model-family="+string(model); got != want {
						t.Errorf("discovery's query is %s, want %s", got, want)
					}
					if got := d.State(); got != Enrolled {
						t.Errorf("State = %v", got)
					}
					if len(r.bodies) != 2 || r.bodies[0] != r.bodies[1] {
						t.Error("the second POST has another body")
					}
					messages := slices.Concat(r.infos, r.checkins, r.results)
					if strings.Contains(r.bodies[0], d.Options().UDID) != (version == VersionADDE) {
						t.Error("the signed MachineInfo should name the hardware in a Device Enrollment only")
					}
					subject := r.requests[0].csr.Subject.CommonName
					if named := subject == d.Options().Serial; named != (model == Mac && version == VersionADDE) {
						t.Errorf("the certificate request names %s", subject)
					}
					for _, msg := range messages {
						text := fmt.Sprint(msg)
						names := strings.Contains(text, d.Options().UDID) || strings.Contains(text, d.Options().Serial)
						if version == VersionBYOD && (names || msg["UDID"] != nil) {
							t.Errorf("a User Enrollment names the hardware: %v", msg)
						} else if version == VersionADDE && msg["UDID"] != d.Options().UDID {
							t.Errorf("UDID is missing: %v", msg)
						}
						if version == VersionBYOD && msg["MessageType"] != nil && msg["EnrollmentID"] != d.ID() {
							t.Errorf("EnrollmentID is missing: %v", msg)
						}
					}
					if token := d.Token(); token.Access == "" || (token.Refresh != "") != (method == MethodOAuth2) {
						t.Errorf("Token = %+v", token)
					}
				})
			}
		}
	}
}

func TestAUserEnrollmentIsANewDeviceEachTime(t *testing.T) {
	r := newRealm(t, VersionBYOD, MethodWeb)
	d := r.member(Options{})
	first, token := d.ID(), d.Token().Access
	if err := d.EnrollAccount(t.Context()); err == nil || d.Token().Access != token {
		t.Errorf("an enrolled device enrolls again: %v", err)
	}
	d.Vanish()
	if err := d.EnrollAccount(t.Context()); err != nil {
		t.Fatal(err)
	}
	if d.ID() == first || d.ID() == "" || d.Token().Access == token {
		t.Errorf("the second enrollment is %s with %s, as the first", d.ID(), d.Token().Access)
	}
	// By a profile the same phone enrols as itself.
	d.Vanish()
	mdm := payload(r.profile, "com.apple.mdm")
	delete(mdm, "EnrollmentMode")
	delete(mdm, "AssignedManagedAppleID")
	mdm["AccessRights"] = 8191
	if err := d.Enroll(t.Context(), r.http.URL+"/profile"); err != nil {
		t.Fatal(err)
	}
	if d.ID() != d.Options().UDID || d.Token().Access != "" || r.checkins[len(r.checkins)-1]["bearer"] != nil {
		t.Errorf("by profile it is %s with %+v", d.ID(), d.Token())
	}
}

func TestMachineInfoHasTheKeysOfItsSystem(t *testing.T) {
	for name, tt := range map[string]struct {
		o    Options
		byod bool
		want string
	}{
		"an iPhone":                   {Options{}, false, "IMEI LANGUAGE OS_VERSION PRODUCT SERIAL UDID VERSION"},
		"a Mac":                       {Options{Model: Mac}, false, "LANGUAGE OS_VERSION PRODUCT SERIAL UDID VERSION"},
		"a user's iPad":               {Options{Model: IPad}, true, "LANGUAGE OS_VERSION PRODUCT VERSION"},
		"an iPhone with iOS 16":       {Options{OSVersion: "16.7.10"}, true, "LANGUAGE PRODUCT VERSION"},
		"a Mac with macOS 14":         {Options{Model: Mac, OSVersion: "14"}, true, "LANGUAGE OS_VERSION PRODUCT VERSION"},
		"a Mac with macOS 13.7":       {Options{Model: Mac, OSVersion: "13.7"}, true, "LANGUAGE PRODUCT VERSION"},
		"what Apple's article lists":  {Options{Account: &Account{Sparse: true}}, false, "LANGUAGE PRODUCT VERSION"},
		"a watch with its token":      {Options{Model: Watch, Account: &Account{Info: Dict{"PAIRING_TOKEN": []byte("x")}}}, true, "LANGUAGE OS_VERSION PAIRING_TOKEN PRODUCT VERSION"},
		"a device without a language": {Options{Account: &Account{Info: Dict{"LANGUAGE": nil}}}, true, "OS_VERSION PRODUCT VERSION"},
	} {
		t.Run(name, func(t *testing.T) {
			tt.o.UserEnrollment = tt.byod
			d, err := NewDevice(tt.o)
			if err != nil {
				t.Fatal(err)
			}
			var keys []string
			for key := range d.MachineInfo() {
				keys = append(keys, key)
			}
			slices.Sort(keys)
			if got := strings.Join(keys, " "); got != tt.want {
				t.Errorf("MachineInfo has %s, want %s", got, tt.want)
			}
		})
	}
}

// answering is a handler with one answer.
func answering(status int, contentType, body string, headers ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", contentType)
		for i := 0; i < len(headers); i += 2 {
			w.Header().Set(headers[i], headers[i+1])
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

const wellKnown = "/.well-known/com.apple.remotemanagement"

func TestDiscoveryIsStrict(t *testing.T) {
	t.Parallel()
	r := newRealm(t, VersionBYOD, MethodWeb)
	one := `{"Version":"mdm-byod","BaseURL":"https://mdm.example.com/enroll"}`
	for name, tt := range map[string]struct {
		status      int
		contentType string
		body        string
		want        string // "" is fine
	}{
		"one server":             {200, "application/json", `{"Servers":[` + one + `]}`, ""},
		"with a charset":         {200, "application/json; charset=utf-8", `{"Servers":[` + one + `]}`, ""},
		"as text":                {200, "text/plain", `{"Servers":[` + one + `]}`, "Content-Type"},
		"with another 2xx":       {203, "application/json", `{"Servers":[` + one + `]}`, "203"},
		"no server":              {200, "application/json", `{"Servers":[]}`, "0 Servers"},
		"two servers":            {200, "application/json", `{"Servers":[` + one + `,` + one + `]}`, "2 Servers"},
		"keys in another case":   {200, "application/json", `{"servers":[` + one + `]}`, "0 Servers"},
		"an unknown version":     {200, "application/json", `{"Servers":[{"Version":"mdm-ade","BaseURL":"https://mdm.example.com/enroll"}]}`, "Version"},
		"no version":             {200, "application/json", `{"Servers":[{"BaseURL":"https://mdm.example.com/enroll"}]}`, "Version is missing"},
		"a relative URL":         {200, "application/json", `{"Servers":[{"Version":"mdm-byod","BaseURL":"/enroll"}]}`, "BaseURL"},
		"plain HTTP":             {200, "application/json", `{"Servers":[{"Version":"mdm-byod","BaseURL":"http://mdm.example.com/"}]}`, "not https"},
		"broken JSON":            {200, "application/json", `{"Servers":[`, "JSON"},
		"two documents":          {200, "application/json", `{"Servers":[` + one + `]}{}`, "JSON"},
		"not found":              {404, "text/html", "gone", "404"},
		"a refusal":              {403, "application/json", `{"code":"com.apple.well-known.failed","description":"for the log","message":"Ask Ben."}`, "Ask Ben."},
		"another code":           {403, "application/json", `{"code":"com.apple.unrecognized.device"}`, "403 Forbidden"},
		"a refusal as XML plist": {403, "application/xml", `<plist version="1.0"><dict><key>code</key><string>com.apple.well-known.failed</string><key>message</key><string>Ask Ben.</string></dict></plist>`, "Ask Ben."},
	} {
		t.Run(name, func(t *testing.T) {
			r.locked(func() { r.spoil[wellKnown] = answering(tt.status, tt.contentType, tt.body) })
			d := r.device(Options{Account: r.account()})
			s, err := d.Discover(t.Context())
			var refusal *Refusal
			switch {
			case tt.want == "" && err != nil:
				t.Fatal(err)
			case tt.want == "" && *s != Service{VersionBYOD, "https://mdm.example.com/enroll"}:
				t.Errorf("Discover = %+v", s)
			case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("Discover = %v, want %q", err, tt.want)
			case errors.As(err, &refusal) != (tt.want == "Ask Ben."):
				t.Errorf("a Refusal: %+v", refusal)
			case refusal != nil && (refusal.Code != codeWellKnown || refusal.Message != "Ask Ben."):
				t.Errorf("Refusal = %+v", refusal)
			}
		})
	}
	for _, identifier := range []string{"ana", "@example.com", "ana@", "ana@localhost", "ana@example.com/x", "ana@exa mple.com", "ana@.com"} {
		account := r.account()
		account.Identifier = identifier
		if _, err := r.device(Options{Account: account}).Discover(t.Context()); err == nil {
			t.Errorf("Discover of %q finds something", identifier)
		}
	}
}

func TestDiscoveryTakesTheDomainBehindTheLastAt(t *testing.T) {
	r := newRealm(t, VersionBYOD, MethodWeb)
	account := r.account()
	account.Identifier = "ana+b@x@münchen.example.com"
	var asked string
	account.Reach = func(domain string) string { asked = domain; return r.http.URL }
	if _, err := r.device(Options{Account: account}).Discover(t.Context()); err != nil {
		t.Fatal(err)
	}
	if asked != "münchen.example.com" {
		t.Errorf("the domain is %q", asked)
	}
	if got, want := r.queries[0], "user-identifier=ana%2Bb@x@m%C3%BCnchen.example.com&model-family=iPhone"; got != want {
		t.Errorf("the query is %s, want %s", got, want)
	}
}

func TestDiscoveryFollowsRedirectsWithoutItsQuery(t *testing.T) {
	r := newRealm(t, VersionADDE, MethodWeb)
	for name, tt := range map[string]struct{ to, want string }{
		"one that drops it":  {"/moved-here", ""},
		"one that copies it": {"/moved-here?user-identifier=ana@example.com&model-family=iPhone", "user-identifier=ana@example.com&model-family=iPhone"},
	} {
		t.Run(name, func(t *testing.T) {
			r.locked(func() {
				r.queries = nil
				r.spoil[wellKnown] = answering(307, "text/plain", "", "Location", tt.to)
				r.spoil["/moved-here"] = r.discovery
			})
			if _, err := r.device(Options{Account: r.account()}).Discover(t.Context()); err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(r.queries, []string{tt.want}) {
				t.Errorf("it arrives with %q, want %q", r.queries, tt.want)
			}
		})
	}
}

func TestDiscoveryFallsBackToApple(t *testing.T) {
	r := newRealm(t, VersionBYOD, MethodWeb)
	at := ""
	apple := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		r.note("Apple is asked: %s", req.URL.RawQuery)
		http.Redirect(w, req, at+"?"+req.URL.RawQuery, http.StatusFound)
	}))
	defer apple.Close()
	asked := "Apple is asked: user-identifier=ana@example.com&model-family="
	for name, tt := range map[string]struct {
		o      Options
		answer http.HandlerFunc
		to     string
		want   []string
		err    string
	}{
		"not found":               {Options{}, answering(404, "text/html", ""), "/registered", []string{"GET " + wellKnown, asked + "iPhone", "GET /registered"}, ""},
		"on a Mac":                {Options{Model: Mac, OSVersion: "15.2"}, answering(500, "text/html", ""), "/registered", []string{"GET " + wellKnown, asked + "Mac", "GET /registered"}, ""},
		"not on iOS 18.1":         {Options{OSVersion: "18.1.9"}, answering(404, "text/html", ""), "/registered", []string{"GET " + wellKnown}, "404"},
		"not on macOS 15.1":       {Options{Model: Mac, OSVersion: "15.1"}, answering(404, "text/html", ""), "/registered", []string{"GET " + wellKnown}, "404"},
		"not for a broken answer": {Options{}, answering(200, "application/json", "{"), "/registered", []string{"GET " + wellKnown}, "JSON"},
		"in vain":                 {Options{}, answering(404, "text/html", ""), "/nowhere", []string{"GET " + wellKnown, asked + "iPhone", "GET /nowhere"}, "the fallback: server answers 410"},
	} {
		t.Run(name, func(t *testing.T) {
			r.locked(func() {
				at = r.http.URL + tt.to
				r.spoil[wellKnown], r.spoil["/registered"] = tt.answer, r.discovery
				r.spoil["/nowhere"] = answering(410, "text/html", "")
			})
			r.takeEvents()
			tt.o.Account = r.account()
			tt.o.Account.Fallback = apple.URL + "/find"
			tt.o.RootCAs = r.roots()
			tt.o.RootCAs.AddCert(apple.Certificate())
			_, err := r.device(tt.o).Discover(t.Context())
			if (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
				t.Errorf("Discover = %v, want %q", err, tt.err)
			}
			wantEvents(t, r.takeEvents(), tt.want...)
		})
	}
}

func TestAChallengeIsReadStrictly(t *testing.T) {
	oauth := `Bearer method="apple-oauth2", authorization-url="https://a.example/", token-url="https://t.example/", redirect-url="apple-remotemanagement-user-login:/oauth2/redirection", client-id="c", scope="MDM"`
	for name, tt := range map[string]struct{ header, want string }{
		"apple-as-web":             {`Bearer method="apple-as-web", url="https://mdm.example/a"`, ""},
		"apple-as-web by http":     {`Bearer method="apple-as-web", url="http://mdm.example/a"`, ""},
		"apple-oauth2":             {oauth, ""},
		"more parameters":          {`Bearer realm="a, \"b\"", method="apple-as-web" ,url="https://mdm.example/a"`, ""},
		"no header":                {"", "0 WWW-Authenticate"},
		"another scheme":           {`Basic realm="x"`, "Basic"},
		"a bare scheme":            {`Bearer`, "no parameter"},
		"no comma":                 {`Bearer method="apple-as-web" url="https://mdm.example/a"`, "comma"},
		"no quotes":                {`Bearer method=apple-as-web, url="https://mdm.example/a"`, "quoted"},
		"no end":                   {`Bearer method="apple-as-web", url="https://mdm.example/a`, "end"},
		"a parameter twice":        {`Bearer method="apple-as-web", url="https://a.example/", url="https://b.example/"`, "repeats"},
		"a comma too many":         {`Bearer method="apple-as-web", url="https://mdm.example/a",`, "no parameter"},
		"no method":                {`Bearer url="https://mdm.example/a"`, "method"},
		"another method":           {`Bearer method="saml", url="https://mdm.example/a"`, "method"},
		"no url":                   {`Bearer method="apple-as-web"`, "without url"},
		"a relative url":           {`Bearer method="apple-as-web", url="/a"`, "no host"},
		"no scope":                 {strings.Replace(oauth, `, scope="MDM"`, "", 1), "without scope"},
		"no client-id":             {strings.Replace(oauth, `client-id="c", `, "", 1), "without client-id"},
		"authorization by http":    {strings.Replace(oauth, "https://a", "http://a", 1), "not https"},
		"tokens by http":           {strings.Replace(oauth, "https://t", "http://t", 1), "not https"},
		"a redirect to the web":    {strings.Replace(oauth, "apple-remotemanagement-user-login:", "https://x.example", 1), "redirect-url"},
		"a redirect without path":  {strings.Replace(oauth, ":/oauth2/redirection", ":", 1), "redirect-url"},
		"a redirect with a query":  {strings.Replace(oauth, "redirection", "redirection?a=b", 1), "query"},
		"a redirect to the result": {strings.Replace(oauth, ":/oauth2/redirection", "://authentication-results", 1), "path"},
	} {
		t.Run(name, func(t *testing.T) {
			h := http.Header{}
			if tt.header != "" {
				h.Set("WWW-Authenticate", tt.header)
			}
			c, err := ParseChallenge(h, false)
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("ParseChallenge = %+v, %v, want %q", c, err, tt.want)
			}
		})
	}
}

func TestAnEnrollmentIsRefused(t *testing.T) {
	t.Parallel()
	update := `{"code":"com.apple.softwareupdate.required","details":{"OSVersion":"26.2"},"message":"Update first."}`
	for name, tt := range map[string]struct {
		answer http.HandlerFunc
		info   Dict
		code   string // of a Refusal
		want   string
	}{
		"a 401 without challenge":          {answering(401, "text/plain", ""), nil, "", "0 WWW-Authenticate"},
		"a 401 with a broken challenge":    {answering(401, "text/plain", "", "WWW-Authenticate", `Bearer method="apple-as-web"`), nil, "", "without url"},
		"a 400":                            {answering(400, "text/plain", "no"), nil, "", "400"},
		"a profile to anybody":             {answering(200, profileType, "<plist/>"), nil, "", "did not sign in"},
		"something else":                   {answering(200, "text/html", "hello"), nil, "", "Content-Type"},
		"an update":                        {answering(403, "application/json", update), Dict{keyRequestsUpdate: true}, codeUpdate, "Update first."},
		"an update that it can't":          {answering(403, "application/json", update), nil, codeUpdate, keyRequestsUpdate},
		"an update to nothing":             {answering(403, "application/json", `{"code":"com.apple.softwareupdate.required"}`), Dict{keyRequestsUpdate: true}, "", "OSVersion"},
		"a watch without its token":        {answering(403, "application/json", `{"code":"com.apple.watch.pairing.token.missing","details":{"security-token":"x"}}`), nil, codePairing, codePairing},
		"the same without what it needs":   {answering(403, "application/json", `{"code":"com.apple.watch.pairing.token.missing"}`), nil, "", "security-token"},
		"a code that belongs to discovery": {answering(403, "application/json", `{"code":"com.apple.well-known.failed","message":"x"}`), nil, "", "403 Forbidden"},
		"a plain 403":                      {answering(403, "text/plain", "iOS 17 or later, please"), nil, "", "iOS 17"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRealm(t, VersionBYOD, MethodWeb)
			r.spoil["/enroll"] = tt.answer
			account := r.account()
			account.Info = tt.info
			d := r.device(Options{Account: account})
			err := d.EnrollAccount(t.Context())
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("EnrollAccount = %v, want %q", err, tt.want)
			}
			var refusal *Refusal
			if errors.As(err, &refusal); tt.code == "" && refusal != nil || tt.code != "" && (refusal == nil || refusal.Code != tt.code) {
				t.Errorf("Refusal = %+v, want code %q", refusal, tt.code)
			}
			wantEvents(t, r.takeEvents(), "GET "+wellKnown, "POST /enroll")
			if d.State() != New {
				t.Errorf("State = %v", d.State())
			}
		})
	}
}

func TestATokenThatTheEnrollmentRefusesIsReplacedOnce(t *testing.T) {
	for name, tt := range map[string]struct {
		refused int // tokens
		want    bool
	}{
		"one":  {1, true},
		"many": {9, false},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRealm(t, VersionADDE, MethodWeb)
			done := r.done
			r.spoil["/done"] = func(w http.ResponseWriter, req *http.Request) {
				if done(w, req); tt.refused > 0 {
					tt.refused--
					clear(r.tokens)
				}
			}
			d := r.device(Options{Account: r.account()})
			err := d.EnrollAccount(t.Context())
			var need *SignInRequired
			if (err == nil) != tt.want || err != nil && !errors.As(err, &need) {
				t.Errorf("EnrollAccount = %v", err)
			}
			if len(r.sessions) != 2 {
				t.Errorf("the person signs in %d times, want 2", len(r.sessions))
			}
		})
	}
}

func TestASignInEndsInOneWayOnly(t *testing.T) {
	web := Challenge{Method: MethodWeb, URL: "https://mdm.example.com/sign-in?org=1"}
	oauth := Challenge{Method: MethodOAuth2, AuthorizationURL: "https://mdm.example.com/authorize", TokenURL: "https://127.0.0.1:1/token",
		RedirectURL: "apple-remotemanagement-user-login:/oauth2/redirection", ClientID: "c d", Scope: "MDM"}
	const results = "apple-remotemanagement-user-login://authentication-results?"
	for name, tt := range map[string]struct {
		challenge Challenge
		back      Redirect
		want      string
	}{
		"a token":                 {web, Redirect{308, results + "access-token=abc.DEF-1_2~3%2B/=="}, ""},
		"a browser without words": {web, Redirect{0, results + "access-token=abc"}, ""},
		"a 302":                   {web, Redirect{302, results + "access-token=abc"}, "308"},
		"a 303":                   {web, Redirect{303, results + "access-token=abc"}, "308"},
		"a page":                  {web, Redirect{200, results + "access-token=abc"}, "308"},
		"another host":            {web, Redirect{308, "apple-remotemanagement-user-login://results?access-token=abc"}, "results"},
		"a path":                  {web, Redirect{308, "apple-remotemanagement-user-login://authentication-results/?access-token=abc"}, "results"},
		"no token":                {web, Redirect{308, results}, "token is empty"},
		"two tokens":              {web, Redirect{308, results + "access-token=a&access-token=b"}, "token is empty"},
		"a token with a space":    {web, Redirect{308, results + "access-token=a%20b"}, "characters"},
		"a code in its place":     {web, Redirect{308, "apple-remotemanagement-user-login:/oauth2/redirection?code=1"}, "results"},
		"another state":           {oauth, Redirect{308, oauth.RedirectURL + "?code=1&state=x"}, "state"},
		"no state":                {oauth, Redirect{308, oauth.RedirectURL + "?code=1"}, "state"},
		"no code":                 {oauth, Redirect{308, oauth.RedirectURL + "?state=STATE"}, "no code"},
		"a denial":                {oauth, Redirect{308, oauth.RedirectURL + "?error=access_denied&state=STATE"}, "access_denied"},
		"a code by 302":           {oauth, Redirect{302, oauth.RedirectURL + "?code=1&state=STATE"}, "308"},
		"another redirect URL":    {oauth, Redirect{308, oauth.RedirectURL + "/x?code=1&state=STATE"}, "want " + oauth.RedirectURL},
		"a token in its place":    {oauth, Redirect{308, results + "access-token=a&state=STATE"}, "want " + oauth.RedirectURL},
	} {
		t.Run(name, func(t *testing.T) {
			opened := ""
			account := &Account{Identifier: "ana+1@example.com", PKCE: true, Scope: true, Person: PersonFunc(func(_ context.Context, s WebSession) (Redirect, error) {
				opened = s.URL
				u, err := url.Parse(s.URL)
				tt.back.Location = strings.Replace(tt.back.Location, "STATE", u.Query().Get("state"), 1)
				return tt.back, err
			})}
			d, err := NewDevice(Options{Account: account})
			if err != nil {
				t.Fatal(err)
			}
			token, err := d.SignIn(t.Context(), tt.challenge)
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("SignIn = %+v, %v, want %q", token, err, tt.want)
			}
			if d.Token().Access != "" {
				t.Error("SignIn has changed the device's token")
			}
			want := "https://mdm.example.com/sign-in?org=1&user-identifier=ana%2B1@example.com"
			if tt.challenge.Method == MethodOAuth2 {
				want = "https://mdm.example.com/authorize?response_type=code&client_id=c%20d&redirect_uri=apple-remotemanagement-user-login%3A%2Foauth2%2Fredirection&state="
			}
			if !strings.HasPrefix(opened, want) {
				t.Errorf("the session opens %s, want %s", opened, want)
			}
		})
	}
}

func TestAnAuthorizationRequestHasNoMoreThanApplesExample(t *testing.T) {
	for name, tt := range map[string]struct {
		account Account
		want    string
	}{
		"as Apple shows it":  {Account{}, "client_id login_hint redirect_uri response_type state"},
		"with all there are": {Account{PKCE: true, Scope: true}, "client_id code_challenge code_challenge_method login_hint redirect_uri response_type scope state"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRealm(t, VersionBYOD, MethodOAuth2)
			account := r.account()
			account.PKCE, account.Scope = tt.account.PKCE, tt.account.Scope
			r.member(Options{Account: account})
			var names []string
			for name := range r.sessions[0] {
				names = append(names, name)
			}
			slices.Sort(names)
			if got := strings.Join(names, " "); got != tt.want {
				t.Errorf("the request has %s, want %s", got, tt.want)
			}
		})
	}
}

func TestATokenAnswerIsReadStrictly(t *testing.T) {
	good := `{"token_type":"bearer","scope":"MDM","access_token":"abc","expires_in":3600}`
	r := newRealm(t, VersionBYOD, MethodOAuth2)
	for name, tt := range map[string]struct {
		answer http.HandlerFunc
		want   string
		oauth  string // code of an OAuthError
	}{
		"a token without refresh":  {answering(200, "application/json;charset=UTF-8", good), "", ""},
		"a form":                   {answering(200, "application/x-www-form-urlencoded", "access_token=abc"), "Content-Type", ""},
		"a 201":                    {answering(201, "application/json", good), "201", ""},
		"no type":                  {answering(200, "application/json", `{"access_token":"abc"}`), "token_type is missing", ""},
		"another type":             {answering(200, "application/json", `{"access_token":"abc","token_type":"mac"}`), "token_type", ""},
		"no token":                 {answering(200, "application/json", `{"token_type":"Bearer"}`), "access_token is missing", ""},
		"a token with a line feed": {answering(200, "application/json", `{"token_type":"Bearer","access_token":"a\nb"}`), "characters", ""},
		"a time in words":          {answering(200, "application/json", `{"token_type":"Bearer","access_token":"a","expires_in":"3600"}`), "expires_in", ""},
		"a time that is over":      {answering(200, "application/json", `{"token_type":"Bearer","access_token":"a","expires_in":0}`), "expires_in", ""},
		"an error":                 {answering(400, "application/json", `{"error":"invalid_grant","error_description":"used"}`), "used", "invalid_grant"},
		"an error without form":    {answering(400, "text/html", `bad`), "400", ""},
		"a failure":                {answering(503, "application/json", `{"error":"temporarily_unavailable"}`), "503", ""},
	} {
		t.Run(name, func(t *testing.T) {
			r.locked(func() { r.spoil["/token"] = tt.answer })
			d := r.device(Options{Account: r.account()})
			c, err := ParseChallenge(http.Header{"Www-Authenticate": {r.challenge()}}, false)
			if err != nil {
				t.Fatal(err)
			}
			token, err := d.Exchange(t.Context(), &SignInRequest{Challenge: c}, "code")
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Exchange = %+v, %v, want %q", token, err, tt.want)
			}
			var refused *OAuthError
			if errors.As(err, &refused); tt.oauth == "" && refused != nil || tt.oauth != "" && (refused == nil || refused.Code != tt.oauth) {
				t.Errorf("OAuthError = %+v, want %q", refused, tt.oauth)
			}
		})
	}
}

func TestAProfileMustFitWhatDiscoveryFound(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		version string
		change  func(mdm Dict)
		apple   error
		want    string
	}{
		"rights in a User Enrollment":     {VersionBYOD, func(mdm Dict) { mdm["AccessRights"] = 8191 }, nil, "AccessRights"},
		"no mode":                         {VersionBYOD, func(mdm Dict) { delete(mdm, "EnrollmentMode") }, nil, "EnrollmentMode is missing"},
		"no mode for the whole device":    {VersionADDE, func(mdm Dict) { delete(mdm, "EnrollmentMode") }, nil, "EnrollmentMode is missing"},
		"the other mode":                  {VersionBYOD, func(mdm Dict) { mdm["EnrollmentMode"], mdm["AccessRights"] = "ADDE", 8191 }, nil, "discovery found BYOD"},
		"the other mode, the other way":   {VersionADDE, func(mdm Dict) { mdm["EnrollmentMode"] = "BYOD"; delete(mdm, "AccessRights") }, nil, "discovery found ADDE"},
		"no account":                      {VersionBYOD, func(mdm Dict) { delete(mdm, "AssignedManagedAppleID") }, nil, "AssignedManagedAppleID"},
		"an account that is no address":   {VersionADDE, func(mdm Dict) { mdm["AssignedManagedAppleID"] = "ana" }, nil, "no address"},
		"an account with two domains":     {VersionADDE, func(mdm Dict) { mdm["AssignedManagedAppleID"] = "ana@b@example.com" }, nil, "no address"},
		"no rights for the whole device":  {VersionADDE, func(mdm Dict) { delete(mdm, "AccessRights") }, nil, "AccessRights"},
		"an account that Apple knows not": {VersionBYOD, func(Dict) {}, errors.New("unknown account"), "sign in to ana@example.com at Apple: unknown account"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRealm(t, tt.version, MethodWeb)
			tt.change(payload(r.profile, "com.apple.mdm"))
			account := r.account()
			account.Apple = func(context.Context, string) error { return tt.apple }
			d := r.device(Options{Account: account})
			if err := d.EnrollAccount(t.Context()); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("EnrollAccount = %v, want %q", err, tt.want)
			}
			if got := r.takeEvents(); got[len(got)-1] != "POST /enroll" || d.State() != New {
				t.Errorf("the device went on: %v, %q", d.State(), got)
			}
		})
	}
}

func TestATokenThatIsNoLongerTaken(t *testing.T) {
	t.Parallel()
	forget := func(r *realm, refresh bool) {
		r.locked(func() {
			clear(r.tokens)
			if refresh {
				clear(r.refresh)
			}
		})
	}
	signIn := []string{"GET /login", "POST /login", "GET /done"}
	for name, tt := range map[string]struct {
		method string
		spoil  func(*realm)
		want   []string
	}{
		"is refreshed silently": {MethodOAuth2, func(r *realm) { forget(r, false) },
			[]string{"Idle  by identity 1", "POST /token", "Idle  by identity 1"}},
		"is replaced by a sign-in without refresh token": {MethodWeb, func(r *realm) { forget(r, false) },
			slices.Concat([]string{"Idle  by identity 1", "GET /sign-in"}, signIn, []string{"Idle  by identity 1"})},
		"is replaced by a sign-in when the refresh is refused": {MethodOAuth2, func(r *realm) { forget(r, true) },
			slices.Concat([]string{"Idle  by identity 1", "POST /token", "GET /authorize"}, signIn, []string{"POST /token", "Idle  by identity 1"})},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRealm(t, VersionBYOD, tt.method)
			r.demand(IPhone)
			d := r.member(Options{})
			old := d.Token()
			tt.spoil(r)
			r.takeEvents()
			if _, err := d.Poll(t.Context()); err != nil {
				t.Fatal(err)
			}
			wantEvents(t, r.takeEvents(), tt.want...)
			if d.Token().Access == old.Access || d.State() != Enrolled {
				t.Errorf("Token = %+v, State = %v", d.Token(), d.State())
			}
			if got := r.results[len(r.results)-1]["bearer"]; got != "Bearer "+d.Token().Access {
				t.Errorf("the last request has %v", got)
			}
		})
	}
}

func TestATokenIsRefreshedWhenItsTimeIsOver(t *testing.T) {
	r := newRealm(t, VersionADDE, MethodOAuth2)
	r.demand(IPhone)
	r.lifetime = 60
	now := time.Now()
	d := r.member(Options{Now: func() time.Time { return now }})
	if got, want := d.Token().Expires, now.Add(time.Minute); !got.Equal(want) {
		t.Errorf("Expires = %v, want %v", got, want)
	}
	r.takeEvents()
	now = now.Add(time.Minute)
	if _, err := d.Poll(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantEvents(t, r.takeEvents(), "POST /token", "Idle  by identity 1")

	// A server that is down is no reason to ask anybody for a password.
	r.locked(func() { r.spoil["/token"] = answering(503, "text/plain", "") })
	now = now.Add(time.Minute)
	if _, err := d.Poll(t.Context()); err == nil || !strings.Contains(err.Error(), "503") {
		t.Errorf("Poll = %v, want 503", err)
	}
	wantEvents(t, r.takeEvents(), "POST /token")
	if d.Token().Refresh == "" {
		t.Error("the refresh token is gone")
	}
}

func TestWhatARefreshLeavesBehind(t *testing.T) {
	r := newRealm(t, VersionBYOD, MethodOAuth2)
	d := r.member(Options{})
	old := d.Token()
	r.locked(func() {
		r.spoil["/token"] = answering(200, "application/json", `{"token_type":"Bearer","access_token":"next"}`)
	})
	if _, err := d.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := d.Token(); got.Access != "next" || got.Refresh != old.Refresh {
		t.Errorf("Token = %+v after an answer without refresh token, want that of %+v", got, old)
	}
	r.locked(func() { r.spoil["/token"] = answering(400, "application/json", `{"error":"invalid_grant"}`) })
	if _, err := d.Refresh(t.Context()); err == nil {
		t.Error("Refresh succeeds")
	}
	if got := d.Token(); got.Access != "next" || got.Refresh != "" {
		t.Errorf("Token = %+v after a refusal", got)
	}
}

func TestNothingOfAnEnrollmentGoesIntoTheNext(t *testing.T) {
	r := newRealm(t, VersionADDE, MethodWeb)
	d := r.member(Options{})
	d.Vanish()
	r.locked(func() { r.version = VersionBYOD })
	service, err := d.Discover(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.PostEnrollment(t.Context(), service.BaseURL, d.Token().Access); err != nil {
		t.Fatal(err)
	}
	if last := r.infos[len(r.infos)-1]; last["UDID"] != nil {
		t.Errorf("MachineInfo is still %v", last)
	}
	r.locked(func() { r.spoil[wellKnown] = answering(404, "text/plain", "") })
	if err := d.EnrollAccount(t.Context()); err == nil || d.Token().Access != "" {
		t.Errorf("EnrollAccount = %v, Token = %+v", err, d.Token())
	}
}

func TestATokenIsRenewedStepByStep(t *testing.T) {
	r := newRealm(t, VersionBYOD, MethodOAuth2)
	r.demand(IPhone)
	account := r.account()
	account.Manual = true
	d := r.member(Options{Account: account})
	r.locked(func() { clear(r.tokens) })
	_, err := d.Poll(t.Context())
	var need *SignInRequired
	if !errors.As(err, &need) || errors.Is(err, ErrRemoved) || d.State() != Enrolled {
		t.Fatalf("Poll = %v, State = %v, want SignInRequired", err, d.State())
	}
	if need.Challenge.Method != MethodOAuth2 || d.LastStatus() != 401 {
		t.Errorf("Challenge = %+v", need.Challenge)
	}
	if _, err := d.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Poll(t.Context()); err != nil {
		t.Fatal(err)
	}
	token, err := d.SignIn(t.Context(), need.Challenge)
	if err != nil {
		t.Fatal(err)
	}
	d.SetToken(Token{Access: "stolen"})
	if _, err := d.Poll(t.Context()); !errors.As(err, &need) {
		t.Errorf("Poll = %v with a stolen token", err)
	}
	d.SetToken(token)
	if _, err := d.Poll(t.Context()); err != nil {
		t.Error(err)
	}
	d.SetToken(Token{})
	p, err := d.PrepareCheckIn(Dict{"MessageType": "CheckOut"})
	if err != nil || p.Header.Get("Authorization") != "" {
		t.Errorf("PrepareCheckIn = %+v, %v", p.Header, err)
	}
}

func TestAServerThatNeverTakesATokenAsksOnce(t *testing.T) {
	r := newRealm(t, VersionBYOD, MethodWeb)
	d := r.member(Options{})
	r.takeEvents()
	r.locked(func() { r.guard = func(Dict, string) string { return r.challenge() } })
	var need *SignInRequired
	if _, err := d.Poll(t.Context()); !errors.As(err, &need) {
		t.Errorf("Poll = %v, want SignInRequired", err)
	}
	if got := strings.Count(strings.Join(r.takeEvents(), "\n"), "GET /sign-in"); got > 2 {
		t.Errorf("the person signs in %d times", got)
	}
}

func TestWhatEndsAnAccountsEnrollment(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		byProfile bool
		answer    http.HandlerFunc
		challenge string
		code      int
		body      string
		want      State
	}{
		"a 401 without challenge":                      {code: 401, want: Removed},
		"a 401 with a broken challenge":                {challenge: `Bearer method="apple-as-web"`, want: Removed},
		"a 401 with another scheme":                    {challenge: `Basic realm="x"`, want: Removed},
		"com.apple.unrecognized.device":                {code: 403, body: `{"code":"com.apple.unrecognized.device"}`, want: Removed},
		"another 403 does not":                         {code: 403, body: `{}`, want: Enrolled},
		"a failure does not":                           {code: 500, want: Enrolled},
		"a challenge to a device that came by profile": {byProfile: true, challenge: `Bearer method="apple-as-web", url="https://mdm.example.com/"`, want: Removed},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRealm(t, VersionADDE, MethodWeb)
			d := r.device(Options{Account: r.account()})
			err := d.EnrollAccount(t.Context())
			if tt.byProfile {
				d.Vanish()
				err = d.Enroll(t.Context(), r.http.URL+"/profile")
			}
			if err != nil {
				t.Fatal(err)
			}
			r.locked(func() {
				r.guard = func(Dict, string) string { return tt.challenge }
				r.status = func(string) (int, string, string) { return tt.code, "application/json", tt.body }
			})
			_, err = d.Poll(t.Context())
			if err == nil || d.State() != tt.want || errors.Is(err, ErrRemoved) != (tt.want == Removed) {
				t.Errorf("Poll = %v, State = %v, want %v", err, d.State(), tt.want)
			}
		})
	}
}

func TestAMacSendsItsTokenForItsUserOnly(t *testing.T) {
	t.Parallel()
	for _, version := range []string{VersionBYOD, VersionADDE} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			r := newRealm(t, version, MethodWeb)
			delete(r.profile, "PayloadScope") // nobody installs it by hand
			r.demand(Mac)
			d := r.member(Options{Model: Mac})
			user := d.User()
			if user == nil {
				t.Fatal("no user channel")
			}
			r.locked(func() { clear(r.tokens) })
			r.takeEvents()
			if _, err := d.Poll(t.Context()); err != nil {
				t.Fatal(err)
			}
			wantEvents(t, r.takeEvents(), "Idle  by identity 1")
			if _, err := user.Poll(t.Context()); err != nil {
				t.Fatal(err)
			}
			wantEvents(t, r.takeEvents(), "Idle  by identity 1", "GET /sign-in", "GET /login", "POST /login", "GET /done", "Idle  by identity 1")

			// A server that asks for it on the device channel gets nowhere, and asks nobody.
			r.locked(func() { r.guard = func(Dict, string) string { return r.challenge() } })
			var need *SignInRequired
			if _, err := d.Poll(t.Context()); !errors.As(err, &need) {
				t.Errorf("Poll = %v, want SignInRequired", err)
			}
			if got := strings.Join(r.takeEvents(), ", "); strings.Contains(got, "sign-in") {
				t.Errorf("the server sees %s", got)
			}
		})
	}
}

func TestEachStepMayComeTwice(t *testing.T) {
	r := newRealm(t, VersionBYOD, MethodOAuth2)
	r.demand(IPhone)
	d := r.device(Options{Account: r.account(), Twice: func(s Step) bool { return s != StepToken }})
	if err := d.EnrollAccount(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantEvents(t, r.takeEvents(), "GET "+wellKnown, "GET "+wellKnown, "POST /enroll", "POST /enroll",
		"GET /authorize", "GET /login", "POST /login", "GET /done", "GET /authorize", "GET /login", "POST /login", "GET /done", "POST /token",
		"POST /enroll", "POST /enroll", "GET GetCACert", "GET GetCACaps", "POST PKIOperation", "POST PKIOperation",
		"Authenticate by identity 2", "Authenticate by identity 2", "TokenUpdate by identity 2", "TokenUpdate by identity 2",
		"Idle  by identity 2", "Idle  by identity 2")

	// A code is good for one answer: the second ends the enrollment.
	d = r.device(Options{Account: r.account(), Twice: func(s Step) bool { return s == StepToken }})
	var refused *OAuthError
	if err := d.EnrollAccount(t.Context()); !errors.As(err, &refused) || refused.Code != "invalid_grant" {
		t.Errorf("EnrollAccount = %v, want invalid_grant", err)
	}
}

func TestATokenDoesNotFollowARedirectElsewhere(t *testing.T) {
	r := newRealm(t, VersionBYOD, MethodWeb)
	got := map[string]bool{}
	other := httptest.NewTLSServer(http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
		got["elsewhere"] = req.Header.Get("Authorization") != ""
	}))
	defer other.Close()
	r.spoil["/away"] = answering(307, "text/plain", "", "Location", other.URL)
	r.spoil["/here"] = answering(307, "text/plain", "", "Location", "/there")
	r.spoil["/there"] = func(_ http.ResponseWriter, req *http.Request) { got["there"] = req.Header.Get("Authorization") != "" }
	roots := r.roots()
	roots.AddCert(other.Certificate())
	d := r.device(Options{Account: r.account(), RootCAs: roots})
	for _, path := range []string{"/away", "/here"} {
		if _, err := d.PostEnrollment(t.Context(), r.http.URL+path, "secret"); err == nil {
			t.Errorf("%s gives a profile", path)
		}
	}
	if got["elsewhere"] || !got["there"] {
		t.Errorf("Authorization arrives: %v", got)
	}
}

func TestADeviceGetsATokenOfAService(t *testing.T) {
	r := newRealm(t, VersionADDE, MethodWeb)
	d := r.member(Options{})
	r.answers["GetToken"] = Dict{"TokenData": []byte("jwt")}
	token, err := d.GetToken(t.Context(), ServiceWatchPairing, Dict{"SecurityToken": "s", "PhoneUDID": "p", "WatchUDID": "w"})
	if err != nil || string(token) != "jwt" {
		t.Errorf("GetToken = %q, %v", token, err)
	}
	last := r.checkins[len(r.checkins)-1]
	if params, _ := last["TokenParameters"].(Dict); last["TokenServiceType"] != ServiceWatchPairing || params["WatchUDID"] != "w" || last["UDID"] != d.ID() {
		t.Errorf("the message is %v", last)
	}
	r.answers["GetToken"] = Dict{}
	if _, err := d.GetToken(t.Context(), ServiceMAID, nil); err == nil || !strings.Contains(err.Error(), "TokenData") {
		t.Errorf("GetToken = %v without TokenData", err)
	}
	if r.checkins[len(r.checkins)-1]["TokenParameters"] != nil {
		t.Error("com.apple.maid has parameters")
	}
	d.Profile().MDM.ServerCapabilities = nil
	if _, err := d.GetToken(t.Context(), ServiceMAID, nil); err == nil || !strings.Contains(err.Error(), "announce") {
		t.Errorf("GetToken = %v without the capability", err)
	}
}

func TestAFleetOfAccounts(t *testing.T) {
	r := newRealm(t, VersionBYOD, MethodWeb)
	r.demand(IPhone)
	options := FleetOptions{
		N: 2, RootCAs: r.roots(), Log: slog.New(slog.DiscardHandler), Interval: time.Hour,
		Account: func(int, Model) *Account { return r.account() },
	}
	f, err := NewFleet(options)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	idle := map[string]int{}
	r.hook = func(msg Dict) Dict {
		if idle[msg["EnrollmentID"].(string)]++; len(idle) == 2 {
			stop()
		}
		return nil
	}
	if err := f.Run(ctx); err != nil {
		t.Fatal(err)
	}
	if len(idle) != 2 {
		t.Errorf("%d devices poll, want 2", len(idle))
	}
	options.Account = func(i int, _ Model) *Account {
		if i == 0 {
			return r.account()
		}
		return nil
	}
	if _, err := NewFleet(options); err == nil || !strings.Contains(err.Error(), "device 1") {
		t.Errorf("NewFleet = %v without a way to enroll", err)
	}
}
