package oidctest

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"log"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// quiet is for what servers say about clients that don't trust them.
func quiet() *log.Logger { return log.New(io.Discard, "", 0) }

// Provider is a real OpenID provider, oidc-provider on Node.js, on loopback and in the
// clear. It asks for login and password on a page of its own.
type Provider struct {
	Issuer string
}

// Client is a client that a Provider is to know. Its ID and secret are ClientID and
// ClientSecret.
type Client struct {
	RedirectURIs []string
	LogoutURIs   []string // where browsers may go back to after they have signed out
	Public       bool     // it has no secret
	SecretInForm bool     // and not in the header
}

// Account is a person who can sign in to a Provider.
type Account struct {
	Password string         `json:"password"`
	Claims   map[string]any `json:"claims"` // at least sub
}

// oldNode matches the versions of Node.js that lack what oidc-provider uses.
var oldNode = regexp.MustCompile(`^v1?[0-9]\.`)

// Start starts a Provider, which ends with the test. Without Node.js, or where its packages
// are not installed, the test is skipped; in CI it fails.
func Start(t testing.TB) *Provider {
	t.Helper()
	missing := t.Skip
	if os.Getenv("CI") != "" {
		missing = t.Fatal
	}
	node, err := exec.LookPath("node")
	if err != nil {
		missing("skipped: no Node.js is installed to run an OpenID provider")
	}
	version, err := exec.Command(node, "--version").Output()
	if err != nil {
		t.Fatal(err)
	}
	if oldNode.Match(version) {
		missing("skipped: the OpenID provider needs Node.js 20 or later, and this is " + strings.TrimSpace(string(version)))
	}
	dir := filepath.Join(moduleDir(t), "enroll/identity/oidc/oidctest/provider")
	if _, err := os.Stat(filepath.Join(dir, "node_modules/oidc-provider")); err != nil {
		missing("skipped: the OpenID provider is not installed: run npm ci in enroll/identity/oidc/oidctest/provider")
	}
	cmd := exec.Command(node, "server.js")
	cmd.Dir = dir
	var said bytes.Buffer
	cmd.Stderr = &said
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = in.Close() // it ends by that
		if err := cmd.Wait(); err != nil || t.Failed() {
			t.Logf("the OpenID provider: %v\n%s", err, &said)
		}
	})
	line, err := bufio.NewReader(out).ReadBytes('\n')
	p := &Provider{}
	var started struct{ Issuer string }
	if err == nil {
		err = json.Unmarshal(line, &started)
	}
	if err != nil {
		t.Fatalf("the OpenID provider did not start: %v", err)
	}
	p.Issuer = started.Issuer
	return p
}

// moduleDir is where go.mod is.
func moduleDir(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		if dir == filepath.Dir(dir) {
			t.Fatal("not in a module")
		}
		dir = filepath.Dir(dir)
	}
}

// SetClient has the provider know this client and no other. Whoever was signed in there
// is not any more.
func (p *Provider) SetClient(t testing.TB, c Client) {
	t.Helper()
	client := map[string]any{
		"client_id": ClientID, "client_secret": ClientSecret, "token_endpoint_auth_method": "client_secret_basic",
		"redirect_uris": c.RedirectURIs, "post_logout_redirect_uris": c.LogoutURIs, "scope": "openid profile email groups",
	}
	if c.SecretInForm {
		client["token_endpoint_auth_method"] = "client_secret_post"
	}
	if c.Public {
		client["token_endpoint_auth_method"] = "none"
		delete(client, "client_secret")
	}
	p.control(t, map[string]any{"clients": []any{client}})
}

// SetAccount has the provider know a person by this login.
func (p *Provider) SetAccount(t testing.TB, login string, a Account) {
	t.Helper()
	p.control(t, map[string]any{"accounts": map[string]Account{login: a}})
}

// RotateKeys has the provider sign by another key, and forget the one before. Whoever was
// signed in there is not any more.
func (p *Provider) RotateKeys(t testing.TB) {
	t.Helper()
	p.control(t, map[string]any{"rotate": true})
}

func (p *Provider) control(t testing.TB, change map[string]any) {
	t.Helper()
	body, err := json.Marshal(change)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.Post(p.Issuer+"/control", "application/json", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusNoContent {
		text, _ := io.ReadAll(resp.Body)
		t.Fatalf("the OpenID provider answers %s: %s", resp.Status, text)
	}
}

var action = regexp.MustCompile(`action="(/interaction/[^"]+)"`)

// SignIn opens the URL to which a browser is sent, signs in there as a person would, and
// returns what the browser comes back to returnURL with. A login that is empty says no.
func (p *Provider) SignIn(t testing.TB, to, returnURL, login, password string) url.Values {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	var back *url.URL
	browser := http.Client{Jar: jar, CheckRedirect: func(r *http.Request, _ []*http.Request) error {
		if strings.HasPrefix(r.URL.String(), returnURL) {
			back = r.URL
			return http.ErrUseLastResponse
		}
		return nil
	}}
	page := func(resp *http.Response, err error) string {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	first := page(browser.Get(to))
	if back != nil { // signed in already, or refused at once
		return back.Query()
	}
	form := action.FindStringSubmatch(first)
	if form == nil {
		t.Fatalf("the OpenID provider shows no form:\n%s", first)
	}
	do := "sign-in"
	if login == "" {
		do = "deny"
	}
	last := page(browser.PostForm(p.Issuer+form[1], url.Values{"login": {login}, "password": {password}, "do": {do}}))
	if back == nil {
		t.Fatalf("the OpenID provider does not send the browser back:\n%s", last)
	}
	return back.Query()
}
