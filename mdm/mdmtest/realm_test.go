package mdmtest

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"html"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
)

// realm is a server with account-driven enrollment, as PROTOCOL 1 and 2 describe it.
// What it has of state is under server.mu.
type realm struct {
	*server
	version string
	method  string
	page    string // of /login; the form when empty

	spoil map[string]http.HandlerFunc // answers a path in place of the realm

	n        int               // of tokens and codes
	tokens   map[string]bool   // that it takes
	refresh  map[string]bool   // likewise
	codes    map[string]string // code to code_challenge
	lifetime int               // expires_in, when not zero
	infos    []Dict            // MachineInfo of each POST
	bodies   []string          // as they came
	queries  []string          // of discovery
	sessions []url.Values      // queries of the sign-in's first request
}

func newRealm(t testing.TB, version, method string) *realm {
	r := &realm{
		server: newServer(t), version: version, method: method, spoil: map[string]http.HandlerFunc{},
		tokens: map[string]bool{}, refresh: map[string]bool{}, codes: map[string]string{},
	}
	mdm := payload(r.profile, "com.apple.mdm")
	mdm["EnrollmentMode"], mdm["AssignedManagedAppleID"] = "ADDE", "ana@example.com"
	mdm["ServerCapabilities"] = []string{"com.apple.mdm.per-user-connections", "com.apple.mdm.token"}
	if version == VersionBYOD {
		mdm["EnrollmentMode"] = "BYOD"
		delete(mdm, "AccessRights")
	}
	r.other = r.serve
	return r
}

func (r *realm) serve(w http.ResponseWriter, req *http.Request) {
	if h := r.spoil[req.URL.Path]; h != nil {
		r.note("%s %s", req.Method, req.URL.Path)
		h(w, req)
		return
	}
	if h := map[string]http.HandlerFunc{
		"GET /.well-known/com.apple.remotemanagement": r.discovery,
		"POST /enroll":   r.enroll,
		"GET /sign-in":   r.begin,
		"GET /authorize": r.begin,
		"GET /login":     r.form,
		"POST /login":    r.login,
		"GET /done":      r.done,
		"POST /token":    r.token,
	}[req.Method+" "+req.URL.Path]; h != nil {
		r.note("%s %s", req.Method, req.URL.Path)
		h(w, req)
		return
	}
	http.NotFound(w, req)
}

func (r *realm) discovery(w http.ResponseWriter, req *http.Request) {
	r.queries = append(r.queries, req.URL.RawQuery)
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{"Servers": []any{map[string]string{"Version": r.version, "BaseURL": r.http.URL + "/enroll"}}})
}

func (r *realm) challenge() string {
	if r.method == MethodWeb {
		return fmt.Sprintf(`Bearer method="apple-as-web", url="%s/sign-in"`, r.http.URL)
	}
	return fmt.Sprintf(`Bearer method="apple-oauth2", authorization-url="%s/authorize", token-url="%s/token", `+
		`redirect-url="apple-remotemanagement-user-login:/oauth2/redirection", client-id="gate", scope="MDM"`, r.http.URL, r.http.URL)
}

func (r *realm) enroll(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(req.Body)
	if err != nil {
		r.t.Error(err)
	}
	sd, err := parseSignedData(body)
	if err != nil {
		r.t.Error(err)
		return
	}
	if _, _, err := sd.verify(sd.content); err != nil {
		r.t.Error(err)
	}
	info, err := UnmarshalPlist(sd.content)
	if err != nil {
		r.t.Error(err)
		return
	}
	if got := req.Header.Get("Content-Type"); got != "application/pkcs7-signature" {
		r.t.Errorf("enrollment POST: Content-Type %q", got)
	}
	r.infos, r.bodies = append(r.infos, info.(Dict)), append(r.bodies, string(body))
	if !r.tokens[strings.TrimPrefix(req.Header.Get("Authorization"), "Bearer ")] {
		w.Header().Set("WWW-Authenticate", r.challenge())
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	w.Header().Set("Content-Type", "application/x-apple-aspen-config")
	_, _ = w.Write(r.signed(r.profile))
}

// begin gives the session a cookie that remembers where it wants to go.
func (r *realm) begin(w http.ResponseWriter, req *http.Request) {
	r.sessions = append(r.sessions, req.URL.Query())
	http.SetCookie(w, &http.Cookie{Name: "session", Value: base64.RawURLEncoding.EncodeToString([]byte(req.URL.RequestURI())), Secure: true, HttpOnly: true})
	http.Redirect(w, req, "/login?login="+url.QueryEscape(req.FormValue("user-identifier")+req.FormValue("login_hint")), http.StatusSeeOther)
}

func (r *realm) form(w http.ResponseWriter, req *http.Request) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Content-Security-Policy", "default-src 'self'; form-action 'self'")
	page := r.page
	if page == "" {
		page = `<!doctype html><title>Sign in</title><nav><form method="post" action="/logout"><button class="plain">Sign out</button></form></nav>
<main><h1>Sign in</h1>%ALERT%<form method="post" action="/login"><input name="login" autocomplete="username" value="%LOGIN%">
<input type="password" name="password" required><input type="hidden" name="next" value="/x"><button>Go on</button></form></main>`
	}
	alert := ""
	if req.Method == http.MethodPost {
		alert = `<p role="alert">That is not the password.</p>`
	}
	page = strings.NewReplacer("%LOGIN%", html.EscapeString(req.FormValue("login")), "%ALERT%", alert).Replace(page)
	_, _ = io.WriteString(w, page)
}

// login answers with a page that leads on: form-action would stop a redirect out of
// the origin.
func (r *realm) login(w http.ResponseWriter, req *http.Request) {
	if req.FormValue("login") != "ana@example.com" || req.FormValue("password") != "correct" {
		r.form(w, req)
		return
	}
	w.Header().Set("Content-Type", "text/html")
	w.Header().Set("Refresh", "0; url=/done")
	_, _ = io.WriteString(w, "<title>Back to Settings</title>")
}

func (r *realm) next(kind string) string {
	r.n++
	return fmt.Sprintf("%s-%d", kind, r.n)
}

func (r *realm) done(w http.ResponseWriter, req *http.Request) {
	cookie, err := req.Cookie("session")
	if err != nil {
		http.Error(w, "no session", http.StatusBadRequest)
		return
	}
	raw, _ := base64.RawURLEncoding.DecodeString(cookie.Value)
	u, _ := url.Parse(string(raw))
	q := u.Query()
	if u.Path == "/sign-in" {
		token := r.next("token")
		r.tokens[token] = true
		w.Header().Set("Location", "apple-remotemanagement-user-login://authentication-results?access-token="+token)
	} else {
		code := r.next("code")
		r.codes[code] = q.Get("code_challenge")
		w.Header().Set("Location", q.Get("redirect_uri")+"?"+url.Values{"code": {code}, "state": {q.Get("state")}}.Encode())
	}
	w.WriteHeader(http.StatusPermanentRedirect)
}

func (r *realm) token(w http.ResponseWriter, req *http.Request) {
	refuse := func(code string) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusBadRequest)
		_, _ = fmt.Fprintf(w, `{"error":%q}`, code)
	}
	if req.FormValue("client_id") != "gate" {
		refuse("invalid_client")
		return
	}
	switch req.FormValue("grant_type") {
	case "authorization_code":
		challenge, ok := r.codes[req.FormValue("code")]
		delete(r.codes, req.FormValue("code"))
		sum := sha256.Sum256([]byte(req.FormValue("code_verifier")))
		if !ok || challenge != "" && challenge != base64.RawURLEncoding.EncodeToString(sum[:]) ||
			req.FormValue("redirect_uri") != "apple-remotemanagement-user-login:/oauth2/redirection" {
			refuse("invalid_grant")
			return
		}
	case "refresh_token":
		if !r.refresh[req.FormValue("refresh_token")] {
			refuse("invalid_grant")
			return
		}
		delete(r.refresh, req.FormValue("refresh_token"))
	default:
		refuse("unsupported_grant_type")
		return
	}
	token, refresh := r.next("token"), r.next("refresh")
	r.tokens[token], r.refresh[refresh] = true, true
	answer := map[string]any{"token_type": "Bearer", "scope": "MDM", "access_token": token, "refresh_token": refresh}
	if r.lifetime > 0 {
		answer["expires_in"] = r.lifetime
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(answer)
}

// account is one whose domain is the realm's.
func (r *realm) account() *Account {
	return &Account{
		Identifier: "ana@example.com", Person: &Browser{Password: "correct"},
		Reach: func(string) string { return r.http.URL },
	}
}

// demand makes the MDM URLs ask for a token that is valid: of a Mac on its user
// channel only.
func (r *realm) demand(model Model) {
	r.guard = func(msg Dict, bearer string) string {
		user := msg["UserID"] != nil || msg["EnrollmentUserID"] != nil
		if model == Mac && !user {
			if bearer != "" {
				r.t.Errorf("a Mac sends a token on the device channel: %v", msg)
			}
			return ""
		}
		if !r.tokens[bearer] {
			return r.challenge()
		}
		return ""
	}
}

// locked runs f while no request is served.
func (r *realm) locked(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f()
}

// member makes a device and enrols it.
func (r *realm) member(o Options) *Device {
	r.t.Helper()
	if o.Account == nil {
		o.Account = r.account()
	}
	d := r.device(o)
	if err := d.EnrollAccount(r.t.Context()); err != nil {
		r.t.Fatal(err)
	}
	return d
}
