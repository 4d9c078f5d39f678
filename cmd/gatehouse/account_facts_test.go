package main

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/mdm/mdmtest"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// exchanges are the requests of devices that pass, and their answers.
type exchanges struct {
	http.RoundTripper
	mu   sync.Mutex
	list []exchange
}

type exchange struct {
	request *http.Request
	body    []byte
	status  int
	answer  http.Header
}

func (e *exchanges) RoundTrip(r *http.Request) (*http.Response, error) {
	var body bytes.Buffer
	if r.Body != nil {
		_, _ = body.ReadFrom(r.Body)
		_ = r.Body.Close()
		r = r.Clone(r.Context())
		r.Body = http.NoBody
		if body.Len() > 0 {
			r.Body = readCloser{bytes.NewReader(body.Bytes())}
		}
	}
	resp, err := e.RoundTripper.RoundTrip(r)
	if err == nil {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.list = append(e.list, exchange{r, body.Bytes(), resp.StatusCode, resp.Header.Clone()})
	}
	return resp, err
}

type readCloser struct{ *bytes.Reader }

func (readCloser) Close() error { return nil }

// to returns those whose path has a prefix.
func (e *exchanges) to(prefix string) (list []exchange) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, x := range e.list {
		if strings.HasPrefix(x.request.URL.Path, prefix) {
			list = append(list, x)
		}
	}
	return list
}

// TestFactsThatAreUsuallyGotWrong has, of account-driven enrollment, what other servers are
// known to get wrong (PROTOCOL 1, 2, 3 and 9), each held against the whole server.
func TestFactsThatAreUsuallyGotWrong(t *testing.T) {
	storagetest.AnyEngine(t)
	t.Parallel()
	c := newComposed(t, nil)
	c.member(t, "ana")
	c.member(t, "ben")
	for _, fact := range []struct {
		name string
		hold func(*testing.T, *composed)
	}{
		{"1 the domain is behind the last at sign", factLastAt},
		{"2 a redirect loses the query unless the server that redirects keeps it", factRedirectQuery},
		{"3 discovery names exactly one server as JSON", factOneServer},
		{"4 discovery answers with a trailing dot as well", factTrailingDot},
		{"5 a refusal of discovery says nothing of accounts", factRefusalOfDiscovery},
		{"6 the content type of the enrollment POST means nothing", factContentType},
		{"7 every key of MachineInfo is optional and its VERSION is a build", factMachineInfo},
		{"8 a device's certificate lets nobody in by itself", factDeviceCertificate},
		{"9 a challenge has Bearer, quotes and commas", factChallenge},
		{"10 devices send no cookie and are set none", factNoCookies},
		{"11 the hand-back is a 308 to the exact scheme", factHandBack},
		{"12 the token comes with every request and stays good", factTokenStaysGood},
		{"13 the profile says its mode and account and a personal one no rights", factProfile},
		{"14 a Mac shows the token for its users only", factMacToken},
		{"15 OAuth needs no scope and no PKCE but the exact redirect", factOAuth},
		{"16 a 401 is a challenge and only to who enrolled by account", fact401},
		{"17 a User Enrollment is a new device each time and names no hardware", factEnrollmentID},
		{"18 a Mac's user becomes a channel and nothing of it changes in renewals", factUserChannel},
		{"19 the first poll comes at once and an update is demanded only of who can", factFirstPoll},
	} {
		t.Run(fact.name, func(t *testing.T) {
			c.byAccount(t, mdmtest.MethodWeb)
			fact.hold(t, c)
		})
	}
}

// discovery asks as a device does, with any query.
func (c *composed) discovery(t *testing.T, query string) *mdmtest.Reply {
	t.Helper()
	return c.ask(t, "GET", c.url+enroll.PathDiscovery+"?"+query, nil, "User-Agent", "DeviceManagementClient/1.0")
}

func wantDiscovered(t *testing.T, what string, r *mdmtest.Reply, version, base string) {
	t.Helper()
	if want := fmt.Sprintf(`{"Servers":[{"Version":%q,"BaseURL":%q}]}`, version, base); r.Status != 200 || strings.TrimSpace(string(r.Body)) != want {
		t.Errorf("%s: %d %s, want %s", what, r.Status, r.Body, want)
	}
}

// wantUndiscovered fails unless r refuses in Apple's form, and returns its message.
func wantUndiscovered(t *testing.T, what string, r *mdmtest.Reply) (message, description string) {
	t.Helper()
	var said struct{ Code, Description, Message string }
	if err := json.Unmarshal(r.Body, &said); r.Status != 403 || err != nil || said.Code != "com.apple.well-known.failed" || said.Message == "" ||
		r.Header.Get("Content-Type") != "application/json" {
		t.Errorf("%s: %d %s %s, want 403 com.apple.well-known.failed", what, r.Status, r.Header.Get("Content-Type"), r.Body)
	}
	return said.Message, said.Description
}

func factLastAt(t *testing.T, c *composed) {
	for _, query := range []string{
		"user-identifier=ana@elsewhere.invalid@example.com&model-family=iPhone",
		"user-identifier=ana%40elsewhere.invalid%40example.com&model-family=iPhone",
		"user-identifier=%22ana@home%22@EXAMPLE.com&model-family=iPhone",
		"model-family=iPhone&user-identifier=ana@example.com",
	} {
		wantDiscovered(t, query, c.discovery(t, query), "mdm-byod", c.url+"/enroll/byod")
	}
	wantUndiscovered(t, "a foreign domain last", c.discovery(t, "user-identifier=ana@example.com@elsewhere.invalid&model-family=iPhone"))
	d := c.accountDevice(t, "ana@example.com@elsewhere.invalid", nil, mdmtest.Options{})
	var refused *mdmtest.Refusal
	if _, err := d.Discover(t.Context()); !errors.As(err, &refused) {
		t.Errorf("a device of a foreign domain: %v, want a refusal", err)
	}
}

func factRedirectQuery(t *testing.T, c *composed) {
	redirecting := func(keep bool) func(string) string {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			to := c.url + r.URL.Path
			if keep {
				to += "?" + r.URL.RawQuery
			}
			http.Redirect(w, r, to, http.StatusTemporaryRedirect)
		}))
		t.Cleanup(srv.Close)
		return func(string) string { return srv.URL }
	}
	discover := func(keep bool) (*mdmtest.Service, error) {
		o := mdmtest.Options{PlainHTTP: true, Account: &mdmtest.Account{Identifier: "ana@example.com", Reach: redirecting(keep)}}
		d, err := mdmtest.NewDevice(o)
		must(t, err)
		return d.Discover(t.Context())
	}
	if found, err := discover(true); err != nil || found.Version != mdmtest.VersionBYOD {
		t.Errorf("by a redirect that keeps the query: %v, %v", found, err)
	}
	var refused *mdmtest.Refusal
	if found, err := discover(false); !errors.As(err, &refused) || !strings.Contains(refused.Description, "redirect") {
		t.Errorf("by one that loses it, where answers differ: %v, %v; want a refusal that says so", found, err)
	}
	c.byAccount(t, mdmtest.MethodWeb, func(a *enroll.AccountDriven) {
		a.Domains = []enroll.AccountDomain{{Domain: "example.com", Policy: map[enroll.ModelFamily]enroll.AccountMode{"iPhone": enroll.ModeADDE, "Mac": enroll.ModeADDE}}}
	})
	if found, err := discover(false); err != nil || found.Version != mdmtest.VersionADDE {
		t.Errorf("by one that loses it, where there is one answer: %v, %v", found, err)
	}
}

func factOneServer(t *testing.T, c *composed) {
	for family, want := range map[string]string{"iPhone": "byod", "iPad": "adde", "Mac": "adde"} {
		r := c.discovery(t, "user-identifier=ana@example.com&model-family="+family)
		wantDiscovered(t, family, r, "mdm-"+want, c.url+"/enroll/"+want)
		if kind := r.Header["Content-Type"]; !slices.Equal(kind, []string{"application/json"}) {
			t.Errorf("Content-Type: %q", kind)
		}
		if caching := r.Header.Get("Cache-Control"); !strings.Contains(caching, "no-") {
			t.Errorf("Cache-Control: %q, and the policy may change", caching)
		}
	}
	head := c.ask(t, "HEAD", c.url+enroll.PathDiscovery+"?user-identifier=ana@example.com&model-family=iPhone", nil)
	if head.Status != 200 || len(head.Body) > 0 || head.Header.Get("Content-Type") != "application/json" {
		t.Errorf("HEAD: %d %s %q", head.Status, head.Header.Get("Content-Type"), head.Body)
	}
	foreign, err := http.NewRequestWithContext(t.Context(), "GET", c.url+enroll.PathDiscovery+"?user-identifier=ana@example.com&model-family=iPhone", nil)
	must(t, err)
	foreign.Host = "evil.example"
	resp, err := c.http.RoundTrip(foreign)
	must(t, err)
	defer resp.Body.Close()
	var answer bytes.Buffer
	_, err = answer.ReadFrom(resp.Body)
	must(t, err)
	if strings.Contains(answer.String(), "evil") {
		t.Errorf("who asks under another name is sent there: %s", &answer)
	}
}

func factTrailingDot(t *testing.T, c *composed) {
	query := "?user-identifier=ana@example.com&model-family=iPhone"
	dot, plain := c.ask(t, "GET", c.url+enroll.PathDiscovery+"."+query, nil), c.ask(t, "GET", c.url+enroll.PathDiscovery+query, nil)
	wantDiscovered(t, "with a dot", dot, "mdm-byod", c.url+"/enroll/byod")
	if dot.Header.Get("Content-Type") != plain.Header.Get("Content-Type") {
		t.Errorf("with a dot it is %s", dot.Header.Get("Content-Type"))
	}
	if head := c.ask(t, "HEAD", c.url+enroll.PathDiscovery+"."+query, nil); head.Status != 200 {
		t.Errorf("HEAD with a dot: %d", head.Status)
	}
	wantUndiscovered(t, "a foreign domain with a dot", c.ask(t, "GET", c.url+enroll.PathDiscovery+".?user-identifier=ana@elsewhere.invalid&model-family=iPhone", nil))
	wantDiscovered(t, "a domain with a dot", c.discovery(t, "user-identifier=ana@example.com.&model-family=iPhone"), "mdm-byod", c.url+"/enroll/byod")
}

func factRefusalOfDiscovery(t *testing.T, c *composed) {
	for _, family := range []string{"iPhone", "RealityDevice", "Watch", "AppleTV", "Newton"} {
		theirs := c.discovery(t, "user-identifier=ana@example.com&model-family="+family)
		nobodys := c.discovery(t, "user-identifier=nobody.at.all@example.com&model-family="+family)
		if theirs.Status != nobodys.Status || !bytes.Equal(theirs.Body, nobodys.Body) {
			t.Errorf("%s: who has an account is told\n%s\nand who has none\n%s", family, theirs.Body, nobodys.Body)
		}
		if family != "iPhone" {
			wantUndiscovered(t, family, theirs)
		}
	}
	elsewhere, _ := wantUndiscovered(t, "a foreign domain", c.discovery(t, "user-identifier=ana@elsewhere.invalid&model-family=iPhone"))
	if strings.Contains(elsewhere, "front desk") {
		t.Errorf("a foreign domain is told the message of another: %s", elsewhere)
	}
	if message, _ := wantUndiscovered(t, "a family that is off", c.discovery(t, "user-identifier=ana@own.example&model-family=iPhone")); message != "Ask at the front desk." {
		t.Errorf("the operator's message is %q", message)
	}
	for _, query := range []string{"", "user-identifier=ana", "user-identifier=@&model-family=iPhone", "user-identifier=ana@", "model-family=%00"} {
		wantUndiscovered(t, "the query "+query, c.discovery(t, query))
	}
}

func factContentType(t *testing.T, c *composed) {
	for name, o := range map[string]mdmtest.Options{
		"BER":                               {},
		"DER":                               {Encoding: mdmtest.DER},
		"BER without signed attributes":     {Delivery: mdmtest.Delivery{NoAttributes: true}},
		"DER without signed attributes":     {Encoding: mdmtest.DER, Delivery: mdmtest.Delivery{NoAttributes: true}},
		"SHA-1":                             {Delivery: mdmtest.Delivery{Digest: crypto.SHA1}},
		"SHA-512 without signed attributes": {Delivery: mdmtest.Delivery{Digest: crypto.SHA512, NoAttributes: true}},
	} {
		d := c.accountDevice(t, "ana@example.com", nil, o)
		service, err := d.Discover(t.Context())
		must(t, err)
		builtin, err := d.BuiltIn()
		must(t, err)
		p, err := d.PrepareEnrollment(service.BaseURL, "", d.MachineInfo(), builtin)
		must(t, err)
		for _, kind := range []string{"application/pkcs7-signature", "application/xml", "application/x-www-form-urlencoded", "text/plain; charset=UTF-8", "multipart/form-data", ""} {
			p.Header.Set("Content-Type", kind)
			if kind == "" {
				p.Header.Del("Content-Type")
			}
			if got := c.send(t, p); got.Status != 401 || got.Header.Get("WWW-Authenticate") == "" {
				t.Errorf("%s as %q: %d %s, want a challenge", name, kind, got.Status, got.Body)
			}
		}
	}
}

func factMachineInfo(t *testing.T, c *composed) {
	post := func(info mdmtest.Dict) *mdmtest.Reply {
		t.Helper()
		d := c.accountDevice(t, "ana@example.com", nil, mdmtest.Options{})
		builtin, err := d.BuiltIn()
		must(t, err)
		p, err := d.PrepareEnrollment(c.url+enroll.PathBYOD, "", info, builtin)
		must(t, err)
		return c.send(t, p)
	}
	for name, info := range map[string]mdmtest.Dict{
		"nothing":                   {},
		"what Apple's article has":  {"LANGUAGE": "en-US", "PRODUCT": "iPhone17,2", "VERSION": "23A300"},
		"keys that nobody knows":    {"PRODUCT": "iPhone17,2", "FUTURE": true, "NESTED": mdmtest.Dict{"A": []any{1, "b"}}},
		"no product":                {"VERSION": "23A300"},
		"a product that is unknown": {"PRODUCT": "iThing1,1", "VERSION": "23A300"},
	} {
		if got := post(info); got.Status != 401 {
			t.Errorf("%s: %d %s, want a challenge", name, got.Status, got.Body)
		}
	}
	// A build is compared as a build, where there is no version.
	c.byAccount(t, mdmtest.MethodWeb, func(a *enroll.AccountDriven) { a.MinimumOS = map[enroll.ModelFamily]string{"iPhone": "18.0"} })
	for _, tt := range []struct {
		name    string
		account mdmtest.Account
		os      string
		build   string
		enrols  bool
	}{
		{"a build of iOS 26 alone", mdmtest.Account{Sparse: true}, "26.0", "23A300", true},
		{"a build of iOS 18 alone", mdmtest.Account{Sparse: true}, "18.0", "22A3354", true},
		{"a build of iOS 17 alone", mdmtest.Account{Sparse: true}, "17.5", "21F79", false},
		{"iOS 17 that says its version, too", mdmtest.Account{}, "17.5", "21F79", false},
		{"a build that nobody knows", mdmtest.Account{Sparse: true}, "17.5", "Z1", true},
	} {
		d := c.accountDevice(t, "ana@example.com", c.inPerson("ana"), mdmtest.Options{OSVersion: tt.os, Build: tt.build, Account: &tt.account})
		service, err := d.Discover(t.Context())
		must(t, err)
		_, err = d.FetchEnrollment(t.Context(), service)
		var old *enroll.MinimumOSError
		if tt.enrols && err != nil || !tt.enrols && !errors.As(err, &old) {
			t.Errorf("%s: %v, enrolls should be %v", tt.name, err, tt.enrols)
		}
	}
}

func factDeviceCertificate(t *testing.T, c *composed) {
	ca, err := mdmtest.NewDeviceCA() // expired, and signs by SHA-1
	must(t, err)
	if age := time.Since(ca.Certificate.NotAfter); age < 0 {
		t.Fatalf("the authority is good for %v", -age)
	}
	builtin, err := ca.Issue("device")
	must(t, err)
	defer func() {
		_, err := c.enroll.UpdateSettings(t.Context(), func(s *enroll.Settings) error {
			s.DeviceSignature = enroll.SignatureLog
			return nil
		})
		must(t, err)
	}()
	const says = "nobody vouches for a device"
	for _, tt := range []struct {
		check  enroll.SignatureCheck
		status int
		logs   bool
	}{
		{enroll.SignatureOff, 401, false},
		{enroll.SignatureLog, 401, true},
		{enroll.SignatureRequire, 403, true},
	} {
		_, err := c.enroll.UpdateSettings(t.Context(), func(s *enroll.Settings) error {
			s.DeviceSignature = tt.check
			return nil
		})
		must(t, err)
		before := strings.Count(c.log.String(), says)
		d := c.accountDevice(t, "ana@example.com", nil, mdmtest.Options{BuiltIn: builtin})
		service, err := d.Discover(t.Context())
		must(t, err)
		profile, err := d.PostEnrollment(t.Context(), service.BaseURL, "")
		if len(profile) > 0 {
			t.Fatalf("%s: a device without a token has a profile", tt.check)
		}
		text := ""
		if tt.status == 403 {
			text = "GH-E302"
		}
		wantRefused(t, string(tt.check), err, tt.status, text)
		if logs := strings.Count(c.log.String(), says) > before; logs != tt.logs {
			t.Errorf("%s: the log says so: %v, want %v", tt.check, logs, tt.logs)
		}
	}
}

func factChallenge(t *testing.T, c *composed) {
	base := regexp.QuoteMeta(c.url)
	for _, mode := range []string{"byod", "adde"} {
		grammar := map[string]string{
			mdmtest.MethodWeb: `^Bearer method="apple-as-web", url="` + base + `/enroll/` + mode + `/sign-in/[\w-]+"$`,
			mdmtest.MethodOAuth2: `^Bearer method="apple-oauth2", authorization-url="` + base + `/enroll/` + mode + `/authorize/[\w-]+", ` +
				`token-url="` + base + `/enroll/token", redirect-url="apple-remotemanagement-user-login:/oauth2/redirection", client-id="gatehouse", scope="MDM"$`,
		}
		for method, want := range grammar {
			c.byAccount(t, method)
			d := c.accountDevice(t, "ana@example.com", nil, mdmtest.Options{Model: map[string]mdmtest.Model{"byod": mdmtest.IPhone, "adde": mdmtest.IPad}[mode]})
			_, err := d.PostEnrollment(t.Context(), c.url+"/enroll/"+mode, "")
			reply := wantRefused(t, mode+" by "+method, err, 401, "")
			if reply == nil {
				continue
			}
			if got := reply.Header["Www-Authenticate"]; len(got) != 1 || !regexp.MustCompile(want).MatchString(got[0]) {
				t.Errorf("%s by %s: %q, want %s", mode, method, got, want)
			}
			if len(reply.Body) > 0 || reply.Header.Get("Content-Length") != "0" {
				t.Errorf("a challenge with %s bytes: %q", reply.Header.Get("Content-Length"), reply.Body)
			}
			_, err = d.PostEnrollment(t.Context(), c.url+"/enroll/"+mode, "not-a-token")
			wantRefused(t, mode+" by "+method+" with a bad token", err, 401, "")
		}
	}
	for _, path := range []string{enroll.PathBYOD, enroll.PathADDE, enroll.PathToken, enroll.PathCheckIn, enroll.PathConnect, enroll.PathDiscovery} {
		for _, method := range []string{"GET", "HEAD", "POST", "PUT", "DELETE"} {
			for _, body := range []string{"", "garbage"} {
				if got := c.ask(t, method, c.url+path, []byte(body), "Authorization", "Basic YTpi"); got.Status == 401 {
					t.Errorf("%s %s %q: 401 %q", method, path, body, got.Header.Get("WWW-Authenticate"))
				}
			}
		}
	}
}

func factNoCookies(t *testing.T, c *composed) {
	for _, method := range methods {
		c.byAccount(t, method)
		seen := &exchanges{RoundTripper: c.http}
		person := &mdmtest.Browser{Login: "ana", Password: anaPassword}
		d := c.accountDevice(t, "ana@example.com", person, mdmtest.Options{Transport: seen})
		must(t, d.EnrollAccount(t.Context()))
		must(t, d.Remove(t.Context()))
		cookies := 0
		for _, x := range seen.to("/") {
			ofDevice := !strings.Contains(x.request.UserAgent(), "Mozilla/")
			if !ofDevice {
				cookies += len(x.answer["Set-Cookie"])
				continue
			}
			if x.request.Header.Get("Cookie") != "" || len(x.answer["Set-Cookie"]) > 0 {
				t.Errorf("%s %s: %q, and %q is set", x.request.Method, x.request.URL.Path, x.request.Header.Get("Cookie"), x.answer["Set-Cookie"])
			}
		}
		if cookies == 0 {
			t.Errorf("by %s the pages have set no cookie: who was looked at?", method)
		}
	}
}

func factHandBack(t *testing.T, c *composed) {
	for _, method := range methods {
		c.byAccount(t, method)
		person := &mdmtest.Browser{Login: "ana", Password: anaPassword}
		d := c.accountDevice(t, "ana@example.com", person, mdmtest.Options{})
		_, need := discovered(t, d)
		sign, err := d.PrepareSignIn(need)
		must(t, err)
		back, err := d.Visit(t.Context(), sign)
		must(t, err)
		address, query, _ := strings.Cut(back.Location, "?")
		values, err := url.ParseQuery(query)
		must(t, err)
		want, names := "apple-remotemanagement-user-login://authentication-results", []string{"access-token"}
		if method == mdmtest.MethodOAuth2 {
			want, names = "apple-remotemanagement-user-login:/oauth2/redirection", []string{"code", "state"}
		}
		if back.Status != 308 || address != want || len(values) != len(names) {
			t.Errorf("by %s: %d %s with %d parameters, want 308 %s with %q", method, back.Status, address, len(values), want, names)
		}
		for _, name := range names {
			if values.Get(name) == "" {
				t.Errorf("by %s: no %s", method, name)
			}
		}
		if regexp.MustCompile(`%|\+`).MatchString(query) {
			t.Errorf("by %s: what is handed back is escaped", method)
		}
		visits := person.Visits()
		last := visits[len(visits)-1]
		if caching, referrer := last.Header.Get("Cache-Control"), last.Header.Get("Referrer-Policy"); caching != "no-store" || referrer != "no-referrer" || len(last.Body) > 0 {
			t.Errorf("by %s: Cache-Control %q, Referrer-Policy %q, %d bytes", method, caching, referrer, len(last.Body))
		}
		for _, v := range visits[:len(visits)-1] {
			if strings.HasPrefix(v.Header.Get("Location"), "apple-") || v.Status == 301 || v.Status == 308 {
				t.Errorf("by %s: %s answers %d", method, v.Method, v.Status)
			}
		}
	}
}

func factTokenStaysGood(t *testing.T, c *composed) {
	for _, method := range methods {
		c.byAccount(t, method)
		seen := &exchanges{RoundTripper: c.http}
		d := c.accountDevice(t, "ana@example.com", c.inPerson("ana"), mdmtest.Options{Transport: seen})
		service, profile := signedIn(t, d)
		token := d.Token().Access
		for range 2 {
			again, err := d.PostEnrollment(t.Context(), service.BaseURL, token)
			must(t, err)
			if bytes.Equal(again, profile) {
				t.Error("the same profile, with the same challenge, again")
			}
			profile = again
		}
		must(t, d.InstallAccount(t.Context(), service, profile))
		must(t, d.RequestIdentity(t.Context()))
		must(t, d.Authenticate(t.Context()))
		must(t, d.TokenUpdate(t.Context()))
		for range 3 {
			if _, err := d.Poll(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		for _, x := range seen.to("/mdm/") {
			if got := x.request.Header.Get("Authorization"); got != "Bearer "+token || x.status != 200 {
				t.Errorf("%s: %d with %q", x.request.URL.Path, x.status, got)
			}
		}
		must(t, d.Remove(t.Context()))
	}
}

func factProfile(t *testing.T, c *composed) {
	c.byAccount(t, mdmtest.MethodWeb, func(a *enroll.AccountDriven) { a.RequiredAppID = 1234567890 })
	for _, tt := range []struct {
		identifier string
		model      mdmtest.Model
		mode       string
		rights     int64
	}{
		{"ana@example.com", mdmtest.IPhone, "BYOD", 0},
		{"ana@own.example", mdmtest.Mac, "BYOD", 0},
		{"ana@example.com", mdmtest.IPad, "ADDE", 8191},
		{"ana@example.com", mdmtest.Mac, "ADDE", 8191},
	} {
		d := c.accountDevice(t, tt.identifier, c.inPerson("ana"), mdmtest.Options{Model: tt.model})
		service, raw := signedIn(t, d)
		must(t, d.InstallAccount(t.Context(), service, raw))
		got := d.Profile().MDM
		if got.EnrollmentMode != tt.mode || got.AssignedManagedAppleID != "ana@apple.example.com" || got.AccessRights != tt.rights ||
			got.ManagedAppleID != "" || got.RequiredAppIDForMDM != 1234567890 || !got.CheckOutWhenRemoved {
			t.Errorf("%s of %s: %+v", tt.model, tt.identifier, got)
		}
		if has := bytes.Contains(d.Profile().Raw, []byte("AccessRights")); has != (tt.rights != 0) {
			t.Errorf("%s of %s: AccessRights is there: %v", tt.model, tt.identifier, has)
		}
		if bytes.Contains(d.Profile().Raw, []byte(d.Token().Access)) || got.CheckInURL != c.url+enroll.PathCheckIn || got.ServerURL != c.url+enroll.PathConnect {
			t.Errorf("%s of %s: %s, %s, or the token", tt.model, tt.identifier, got.CheckInURL, got.ServerURL)
		}
	}
}

func factMacToken(t *testing.T, c *composed) {
	seen := &exchanges{RoundTripper: c.http}
	d := c.called(t, "ana", mdmtest.Options{Model: mdmtest.Mac, Transport: seen, Account: &mdmtest.Account{Manual: true}})
	user := d.User()
	if user == nil {
		t.Fatal("the Mac has no user channel")
	}
	_, err := user.Poll(t.Context())
	must(t, err)
	byUser := 0
	for _, x := range seen.to("/mdm/") {
		ofUser := bytes.Contains(x.body, []byte("<key>UserID</key>"))
		if ofUser {
			byUser++
		}
		if shown := x.request.Header.Get("Authorization") != ""; shown != ofUser || x.status != 200 {
			t.Errorf("%s of the user %v: %d, the token is shown %v", x.request.URL.Path, ofUser, x.status, shown)
		}
	}
	if byUser < 2 {
		t.Errorf("%d requests of the user", byUser)
	}
	// Of the user's channel it is demanded.
	good := d.Token()
	d.SetToken(mdmtest.Token{})
	_, err = user.Idle(t.Context())
	wantRefused(t, "the user's channel without a token", err, 403, "")
	bad := good
	bad.Access = "not-a-token"
	d.SetToken(bad)
	_, err = user.Idle(t.Context())
	wantRefused(t, "the user's channel with a bad token", err, 401, "")
	if _, err := d.Idle(t.Context()); err != nil {
		t.Errorf("the device's channel meanwhile: %v", err)
	}
	d.SetToken(good)
	if _, err := user.Idle(t.Context()); err != nil {
		t.Errorf("the user's channel with the token: %v", err)
	}
	must(t, d.Remove(t.Context()))
}

func factOAuth(t *testing.T, c *composed) {
	c.byAccount(t, mdmtest.MethodOAuth2)
	for _, account := range []mdmtest.Account{{}, {PKCE: true}, {Scope: true}, {PKCE: true, Scope: true}} {
		person := &mdmtest.Browser{Login: "ana", Password: anaPassword}
		d := c.accountDevice(t, "ana@example.com", person, mdmtest.Options{Account: &account})
		_, need := discovered(t, d)
		token, err := d.SignIn(t.Context(), need)
		if err != nil || token.Refresh == "" || token.Expires.IsZero() {
			t.Errorf("PKCE %v, scope %v: %v", account.PKCE, account.Scope, err)
		}
	}
	d := c.accountDevice(t, "ana@example.com", c.inPerson("ana"), mdmtest.Options{Account: &mdmtest.Account{PKCE: true}})
	service, need := discovered(t, d)
	sign, err := d.PrepareSignIn(need)
	must(t, err)
	// The place to return to is exactly that one.
	for _, other := range []string{
		"https://evil.example/", "apple-remotemanagement-user-login:/oauth2/redirection/", "apple-remotemanagement-user-login:/oauth2/redirection?x=1",
		"apple-remotemanagement-user-login:/oauth2/Redirection", "apple-remotemanagement-user-login://authentication-results", "",
	} {
		at, err := url.Parse(sign.URL)
		must(t, err)
		query := at.Query()
		query.Set("redirect_uri", other)
		at.RawQuery = query.Encode()
		got := c.ask(t, "GET", at.String(), nil, "Accept", "text/html")
		if got.Status != 400 || got.Header.Get("Location") != "" || !strings.Contains(string(got.Body), "GH-E507") {
			t.Errorf("redirect_uri %q: %d to %q, want 400 GH-E507", other, got.Status, got.Header.Get("Location"))
		}
	}
	// A code is good once, for that place and that verifier.
	back, err := d.Visit(t.Context(), sign)
	must(t, err)
	values, err := url.ParseQuery(back.Location[strings.Index(back.Location, "?")+1:])
	must(t, err)
	exchange := func(change func(url.Values)) *mdmtest.Reply {
		t.Helper()
		form := url.Values{
			"grant_type": {"authorization_code"}, "code": {values.Get("code")}, "redirect_uri": {need.RedirectURL},
			"client_id": {need.ClientID}, "code_verifier": {sign.Verifier},
		}
		change(form)
		return c.ask(t, "POST", need.TokenURL, []byte(form.Encode()), "Content-Type", "application/x-www-form-urlencoded")
	}
	for name, tt := range map[string]struct {
		change func(url.Values)
		code   string
	}{
		"another place":       {func(f url.Values) { f.Set("redirect_uri", need.RedirectURL+"/") }, "invalid_grant"},
		"another verifier":    {func(f url.Values) { f.Set("code_verifier", strings.Repeat("a", 43)) }, "invalid_grant"},
		"no verifier":         {func(f url.Values) { f.Del("code_verifier") }, "invalid_grant"},
		"another client":      {func(f url.Values) { f.Set("client_id", "evil") }, "invalid_client"},
		"another code":        {func(f url.Values) { f.Set("code", "x") }, "invalid_grant"},
		"a grant of another":  {func(f url.Values) { f.Set("grant_type", "password") }, "unsupported_grant_type"},
		"a scope of another":  {func(f url.Values) { f.Set("scope", "admin") }, "invalid_scope"},
		"the code a 2nd time": {func(f url.Values) { f.Add("code", "x") }, "invalid_request"},
	} {
		if got := exchange(tt.change); got.Status != 400 || !strings.Contains(string(got.Body), `"error":"`+tt.code+`"`) || got.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: %d %s, want %s", name, got.Status, got.Body, tt.code)
		}
	}
	first := exchange(func(url.Values) {})
	var token struct {
		AccessToken string `json:"access_token"`
	}
	if err := json.Unmarshal(first.Body, &token); first.Status != 200 || err != nil || first.Header.Get("Cache-Control") != "no-store" || first.Header.Get("Content-Type") != "application/json" {
		t.Fatalf("the right one: %d %v", first.Status, err)
	}
	if _, err := d.PostEnrollment(t.Context(), service.BaseURL, token.AccessToken); err != nil {
		t.Errorf("its token: %v", err)
	}
	if got := exchange(func(url.Values) {}); got.Status != 400 || !strings.Contains(string(got.Body), "invalid_grant") {
		t.Errorf("the code again: %d %s", got.Status, got.Body)
	}
	// Nobody knows who has it now, so what it bought is worth nothing (RFC 6749, 4.1.2).
	_, err = d.PostEnrollment(t.Context(), service.BaseURL, token.AccessToken)
	wantRefused(t, "the token of a code that came twice", err, 401, "")
}

func fact401(t *testing.T, c *composed) {
	byProfile := c.enrolled(t, mdmtest.Options{})
	d := c.called(t, "ana", mdmtest.Options{Account: &mdmtest.Account{Manual: true}})
	other := c.called(t, "ben", mdmtest.Options{})
	idle := func(d *mdmtest.Device, bearer string) *mdmtest.Reply {
		t.Helper()
		p, err := d.Channel().Prepare(mdmtest.Result{Status: mdmtest.StatusIdle})
		must(t, err)
		p.Header.Del("Authorization")
		if bearer != "" {
			p.Header.Set("Authorization", bearer)
		}
		return c.send(t, p)
	}
	for _, tt := range []struct {
		name   string
		device *mdmtest.Device
		bearer string
		status int
	}{
		{"the token", d, "Bearer " + d.Token().Access, 200},
		{"the token in lower case's scheme", d, "bearer " + d.Token().Access, 200},
		{"no token", d, "", 403},
		{"a bad token", d, "Bearer x", 401},
		{"a token with a letter changed", d, "Bearer " + strings.ToLower(d.Token().Access[:20]) + d.Token().Access[20:] + "x", 401},
		{"another scheme", d, "Basic YTpi", 401},
		{"another device's token", d, "Bearer " + other.Token().Access, 403},
		{"by profile, a bad token", byProfile, "Bearer x", 200},
		{"by profile, a token of another", byProfile, "Bearer " + d.Token().Access, 200},
		{"by profile, no token", byProfile, "", 200},
	} {
		got := idle(tt.device, tt.bearer)
		if got.Status != tt.status {
			t.Errorf("%s: %d %s, want %d", tt.name, got.Status, got.Body, tt.status)
		}
		if challenged := strings.HasPrefix(got.Header.Get("WWW-Authenticate"), `Bearer method="apple-as-web", url="`); challenged != (tt.status == 401) {
			t.Errorf("%s: %d with %q", tt.name, got.Status, got.Header.Get("WWW-Authenticate"))
		}
		if bytes.Contains(got.Body, []byte("com.apple.unrecognized.device")) {
			t.Errorf("%s: %s tells the device to go", tt.name, got.Body)
		}
	}
	// A 401 would have a device remove its profile, a 403 with Apple's code does so on purpose.
	for name, body := range map[string]string{
		"nonsense": "nonsense", "an unknown message": "<plist><dict><key>MessageType</key><string>Nonsense</string></dict></plist>", "nothing": "",
	} {
		p, err := d.PrepareRaw(true, []byte(body))
		must(t, err)
		if got := c.send(t, p); got.Status == 401 || got.Status < 400 || got.Status >= 500 && got.Status != 501 {
			t.Errorf("%s: %d", name, got.Status)
		}
	}
	c.api(t, "POST", "/devices/"+c.deviceItem(t, d).ID+"/unenroll", map[string]any{}, nil)
	for _, bearer := range []string{"Bearer " + d.Token().Access, "Bearer x", ""} {
		if got := idle(d, bearer); got.Status != 403 || !bytes.Contains(got.Body, []byte(`"com.apple.unrecognized.device"`)) || got.Header.Get("WWW-Authenticate") != "" {
			t.Errorf("removed, with %.8q: %d %s", bearer, got.Status, got.Body)
		}
	}
	if _, err := other.Idle(t.Context()); err != nil {
		t.Errorf("the device whose token was shown: %v", err)
	}
}

func factEnrollmentID(t *testing.T, c *composed) {
	o := mdmtest.Options{UDID: "00008140-000A1B2C3D4E5F60", Serial: "C02NEVERKEPT"}
	// It should not tell what it is, and does all the same.
	o.Account = &mdmtest.Account{Info: mdmtest.Dict{"UDID": o.UDID, "SERIAL": o.Serial, "IMEI": "353123456789012"}}
	o.Handler = func(_ context.Context, _ *mdmtest.Channel, _ *mdmtest.Command, own func() mdmtest.Result) mdmtest.Result {
		r := own()
		if keys, ok := r.Keys["QueryResponses"].(mdmtest.Dict); ok {
			keys["UDID"], keys["SerialNumber"] = o.UDID, o.Serial
		}
		return r
	}
	d := c.accountDevice(t, "ana@example.com", c.inPerson("ana"), o)
	service, raw := signedIn(t, d)
	must(t, d.InstallAccount(t.Context(), service, raw))
	must(t, d.RequestIdentity(t.Context()))
	tell := func(kind string, more mdmtest.Dict) {
		message := mdmtest.Dict{
			"MessageType": kind, "Topic": d.Profile().MDM.Topic, "EnrollmentID": d.ID(), "SerialNumber": o.Serial, "IMEI": "353123456789012",
			"ProductName": "iPhone17,2", "OSVersion": "26.0", "Model": "iPhone17,2",
		}
		for key, value := range more {
			message[key] = value
		}
		_, err := d.CheckIn(t.Context(), message)
		must(t, err)
	}
	tell("Authenticate", nil)
	tell("TokenUpdate", mdmtest.Dict{"Token": []byte("token"), "PushMagic": "magic", "UnlockToken": []byte("unlock")})
	if _, err := d.Poll(t.Context()); err != nil {
		t.Fatal(err)
	}
	first := c.deviceItem(t, d)
	c.api(t, "POST", "/commands", map[string]any{
		"request_type": "DeviceInformation", "params": map[string]any{"Queries": []string{"DeviceName", "OSVersion"}}, "device_ids": []string{first.ID},
	}, nil)
	if _, err := d.Poll(t.Context()); err != nil {
		t.Fatal(err)
	}
	if first.EnrollmentType != "user" || first.EnrollmentID != d.ID() || first.UDID != nil && *first.UDID != "" || first.SerialNumber != nil && *first.SerialNumber != "" {
		t.Errorf("the device is %+v", first)
	}
	old, oldCert, oldToken := d.ID(), first.Identity.Serial, d.Token()

	// Gone without a word, and back: another device.
	cert, key := d.Identity()
	stale, err := d.Channel().Prepare(mdmtest.Result{Status: mdmtest.StatusIdle})
	must(t, err)
	must(t, d.Remove(t.Context()))
	must(t, d.EnrollAccount(t.Context()))
	second := c.deviceItem(t, d)
	if d.ID() == old || second.ID == first.ID || second.Identity.Serial == oldCert || d.Token().Access == oldToken.Access {
		t.Errorf("the second enrollment is %+v, as the first", second)
	}
	if got := c.send(t, stale); got.Status != 403 || !bytes.Contains(got.Body, []byte("com.apple.unrecognized.device")) {
		t.Errorf("the first enrollment's certificate and token: %d %s", got.Status, got.Body)
	}
	c.wantStatus(t, "the certificate of the first enrollment", oldCert, "revoked")
	// Neither old thing is good with a new one.
	newCert, newKey := d.Identity()
	newToken := d.Token()
	for _, tt := range []struct {
		name   string
		cert   *x509.Certificate
		key    crypto.Signer
		token  mdmtest.Token
		status int
	}{
		{"the new certificate with the old token", newCert, newKey, oldToken, 401},
		{"the old certificate with the new token", cert, key, newToken, 403},
		{"the new certificate with the new token", newCert, newKey, newToken, 200},
	} {
		d.SetIdentity(tt.cert, tt.key)
		d.SetToken(tt.token)
		p, err := d.Channel().Prepare(mdmtest.Result{Status: mdmtest.StatusIdle})
		must(t, err)
		p.Header.Set("Authorization", "Bearer "+tt.token.Access)
		if got := c.send(t, p); got.Status != tt.status {
			t.Errorf("%s: %d, want %d", tt.name, got.Status, tt.status)
		}
	}

	for where, text := range map[string]string{
		"database": c.dump(t), "log": c.log.String(),
		"API": fmt.Sprint(c.apiText(t, "/devices"), c.apiText(t, "/devices/"+first.ID), c.apiText(t, "/devices/"+first.ID+"/commands"), c.apiText(t, "/audit"), c.apiText(t, "/enrollment-attempts")),
	} {
		for what, secret := range map[string]string{"UDID": o.UDID, "serial number": o.Serial, "IMEI": "353123456789012"} {
			if i := strings.Index(text, secret); i >= 0 {
				t.Errorf("the %s has the %s: …%q", where, what, text[max(0, i-150):min(len(text), i+100)])
			}
		}
	}
	must(t, d.Remove(t.Context()))
}

// apiText is what the API answers, as it is.
func (c *composed) apiText(t *testing.T, path string) string {
	t.Helper()
	status, body := c.try(t, "GET", path, nil)
	if status != 200 {
		t.Fatalf("GET %s: %d %s", path, status, body)
	}
	return body
}

func factUserChannel(t *testing.T, c *composed) {
	c.byAccount(t, mdmtest.MethodWeb, func(a *enroll.AccountDriven) { a.RequiredAppID = 42 })
	for _, identifier := range []string{"ana@example.com", "ana@own.example"} {
		personal := strings.HasSuffix(identifier, "own.example")
		d := c.accountDevice(t, identifier, c.inPerson("ana"), mdmtest.Options{Model: mdmtest.Mac})
		must(t, d.EnrollAccount(t.Context()))
		p := d.Profile()
		if p.Scope != "User" || !slices.Contains(p.MDM.ServerCapabilities, "com.apple.mdm.per-user-connections") {
			t.Errorf("%s: the scope is %q, and the server can %q", identifier, p.Scope, p.MDM.ServerCapabilities)
		}
		device := c.deviceItem(t, d)
		var users []apiDevice
		for _, item := range c.allDevices(t) {
			if item.ParentID == device.ID {
				users = append(users, item)
			}
		}
		if !personal && (len(users) != 1 || users[0].EnrollmentType != "user_channel" || users[0].State != "enrolled") {
			t.Errorf("%s: the device has the user channels %+v", identifier, users)
		}
		// The profile comes again before its identity expires: what devices refuse to
		// see changed has not, whatever has become of the policy.
		c.byAccount(t, mdmtest.MethodOAuth2, func(a *enroll.AccountDriven) { a.RequiredAppID = 43 })
		before, old := *p, device.Identity.Serial
		c.api(t, "POST", "/devices/"+device.ID+"/renew-identity", map[string]any{}, nil)
		if _, err := d.Poll(t.Context()); err != nil {
			t.Fatalf("%s: %v", identifier, err)
		}
		now := d.Profile()
		if got := c.deviceItem(t, d); got.Identity.Serial == old || got.State != "enrolled" || got.EnrollmentMode != device.EnrollmentMode {
			t.Errorf("%s: after the renewal it is %+v", identifier, got)
		}
		was, is := before.MDM, now.MDM
		was.IdentityCertificateUUID, is.IdentityCertificateUUID = "", ""
		if fmt.Sprint(was) != fmt.Sprint(is) || before.Identifier != now.Identifier || before.Scope != now.Scope {
			t.Errorf("%s: the renewal has\n%+v\nwhere there was\n%+v", identifier, is, was)
		}
		if users := d.User(); !personal && users != nil {
			if _, err := users.Poll(t.Context()); err != nil {
				t.Errorf("%s: its user after the renewal: %v", identifier, err)
			}
		}
		must(t, d.Remove(t.Context()))
		c.byAccount(t, mdmtest.MethodWeb, func(a *enroll.AccountDriven) { a.RequiredAppID = 42 })
	}
}

func factFirstPoll(t *testing.T, c *composed) {
	seen := &exchanges{RoundTripper: c.http}
	d := c.called(t, "ana", mdmtest.Options{Transport: seen})
	var order []string
	for _, x := range seen.to("/mdm/") {
		order = append(order, strings.TrimPrefix(x.request.URL.Path, "/mdm/"))
		if bytes.Contains(x.body, []byte("UnlockToken")) {
			t.Error("a User Enrollment has sent an UnlockToken")
		}
		if x.status != 200 {
			t.Errorf("%s: %d", x.request.URL.Path, x.status)
		}
	}
	if len(order) < 3 || strings.Join(order[:3], " ") != "checkin checkin connect" {
		t.Errorf("the device sends %q, want two check-ins and a poll", order)
	}
	if item := c.deviceItem(t, d); item.State != "enrolled" {
		t.Errorf("the device is %s", item.State)
	}
	must(t, d.Remove(t.Context()))

	// A system that is too old is told to update only if it says that it can be.
	c.byAccount(t, mdmtest.MethodWeb, func(a *enroll.AccountDriven) { a.MinimumOS = map[enroll.ModelFamily]string{"iPhone": "26.1"} })
	for _, says := range []any{nil, false, true} {
		d := c.accountDevice(t, "ana@example.com", &mdmtest.Browser{Login: "ana", Password: anaPassword}, mdmtest.Options{
			OSVersion: "18.2", Build: "22C150", Account: &mdmtest.Account{Info: mdmtest.Dict{"MDM_CAN_REQUEST_SOFTWARE_UPDATE": says}},
		})
		service, err := d.Discover(t.Context())
		must(t, err)
		_, err = d.PostEnrollment(t.Context(), service.BaseURL, "")
		if says == true {
			var refused *mdmtest.Refusal
			if !errors.As(err, &refused) || refused.Code != "com.apple.softwareupdate.required" || refused.Details["OSVersion"] != "26.1" || refused.HTTP.Status != 403 {
				t.Errorf("one that can be updated: %v, want com.apple.softwareupdate.required", err)
			}
			continue
		}
		need := challenged(t, err)
		var page *mdmtest.PageError
		if _, err := d.SignIn(t.Context(), need); !errors.As(err, &page) || page.Visit.Status != 403 || !strings.Contains(string(page.Visit.Body), "26.1") || !strings.Contains(string(page.Visit.Body), "GH-E506") {
			t.Errorf("one that says %v: %v, want a page with the version", says, err)
		}
	}
}
