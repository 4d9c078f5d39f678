package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/enroll/identity/ldap/ldaptest"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/mdmtest"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// relay passes connections on to a server until it is closed.
type relay struct {
	net.Listener
	mu    sync.Mutex
	conns []net.Conn
}

func newRelay(t testing.TB, to string) *relay {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	r := &relay{Listener: l}
	go func() {
		for {
			from, err := l.Accept()
			if err != nil {
				return
			}
			onward, err := net.Dial("tcp", to)
			if err != nil {
				_ = from.Close()
				continue
			}
			r.mu.Lock()
			r.conns = append(r.conns, from, onward)
			r.mu.Unlock()
			for _, way := range [][2]net.Conn{{from, onward}, {onward, from}} {
				go func() {
					_, _ = io.Copy(way[0], way[1])
					_ = way[0].Close()
				}()
			}
		}
	}()
	t.Cleanup(r.down)
	return r
}

// down closes the relay: nobody reaches the server through it any more.
func (r *relay) down() {
	_ = r.Close()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.conns {
		_ = c.Close()
	}
}

// provider is what the API says of one.
type provider struct {
	ID        string
	SignIn    string `json:"sign_in"`
	Settings  map[string]any
	LastCheck *struct {
		People, Missing, Disabled int
		Error                     string
	} `json:"last_check"`
}

// directory sets up a provider of kind ldap.
func (c *composed) directory(t testing.TB, settings map[string]any, uses ...string) provider {
	t.Helper()
	var p provider
	c.api(t, "POST", "/identity-providers", map[string]any{
		"kind": "ldap", "name": "Example directory", "enabled": true, "settings": settings, "uses": uses,
	}, &p)
	return p
}

// browser is somebody's: it keeps cookies and follows nothing.
func (c *composed) browser(t testing.TB) *http.Client {
	t.Helper()
	jar, err := cookiejar.New(nil)
	must(t, err)
	return &http.Client{
		Transport: c.http, Jar: jar, Timeout: 30 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// signIn signs in to administer, and returns the status and the page.
func (c *composed) signIn(t testing.TB, browser *http.Client, login, password string) (int, string) {
	t.Helper()
	r, err := http.NewRequest("POST", c.url+"/admin/login", strings.NewReader(url.Values{"email": {login}, "password": {password}}.Encode()))
	must(t, err)
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("Origin", c.url)
	resp, err := browser.Do(r)
	must(t, err)
	defer resp.Body.Close()
	page, err := io.ReadAll(resp.Body)
	must(t, err)
	return resp.StatusCode, string(page)
}

// mayAdminister says whether a browser's session is an administrator's.
func (c *composed) mayAdminister(t testing.TB, browser *http.Client) bool {
	t.Helper()
	resp, err := browser.Get(c.url + "/admin/devices")
	must(t, err)
	defer resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

// userNamed returns what the API says of a user, by login.
func (c *composed) userNamed(t testing.TB, login string) (u struct {
	ID, Username, Email, Provider string
	FullName                      string `json:"full_name"`
	Groups                        []string
	Disabled                      bool
}) {
	t.Helper()
	must(t, c.db.View(t.Context(), func(tx storage.Tx) error {
		found, err := identity.UserByLogin(tx, login)
		u.ID = found.ID
		return err
	}))
	c.api(t, "GET", "/users/"+u.ID, nil, &u)
	return u
}

// TestADirectoryIsSetUpTriedAndUsed is the story of an operator with a directory, and of a
// person in it who leaves.
func TestADirectoryIsSetUpTriedAndUsed(t *testing.T) {
	storagetest.AnyEngine(t)
	t.Parallel()
	dir := ldaptest.Open(t)
	c := newComposed(t, nil)
	const leaver = "leaver"
	dir.Add(t, leaver, map[string][]string{"displayName": {"Lea Leaver"}})
	dir.Join(t, leaver, "staff")
	p := c.directory(t, dir.Settings(nil), "institutional", "personal", "admin")
	if p.SignIn != "password" || p.Settings["has_bind_password"] != true || p.Settings["bind_password"] != nil {
		t.Errorf("the provider is %+v", p)
	}

	// Tried, nobody is made.
	var tried struct {
		OK     bool
		Steps  []struct{ Name, Detail string }
		Person struct{ Groups []string }
		Mapped struct {
			Username, Email string
			FullName        string `json:"full_name"`
		}
		MayEnroll []string `json:"may_enroll"`
	}
	c.api(t, "POST", "/identity-providers/"+p.ID+"/test", map[string]any{"login": leaver, "password": "a guess"}, &tried)
	if tried.OK || !strings.Contains(tried.Steps[4].Detail, "wrong password") {
		t.Errorf("with a wrong password: %+v", tried)
	}
	c.api(t, "POST", "/identity-providers/"+p.ID+"/test", map[string]any{"login": leaver, "password": ldaptest.Password(leaver)}, &tried)
	if !tried.OK || tried.Mapped.Username != leaver || tried.Mapped.Email != "leaver@example.com" || tried.Mapped.FullName != "Lea Leaver" ||
		strings.Join(tried.Person.Groups, " ") != "cn=staff,"+ldaptest.GroupsDN+" staff" || len(tried.MayEnroll) != 2 {
		t.Errorf("with the right one: %+v", tried)
	}
	for i, want := range []string{"connect", "tls", "bind", "search", "sign in", "groups"} {
		if tried.Steps[i].Name != want {
			t.Errorf("step %d is %q, want %q", i+1, tried.Steps[i].Name, want)
		}
	}

	// Signed in, there is a user.
	browser := c.browser(t)
	if status, _ := c.signIn(t, browser, leaver, "a guess"); status != http.StatusUnauthorized {
		t.Errorf("a wrong password: %d", status)
	}
	if status, page := c.signIn(t, browser, "LEAVER@example.com", ldaptest.Password(leaver)); status != http.StatusSeeOther {
		t.Fatalf("the right one: %d %s", status, page)
	}
	u := c.userNamed(t, leaver)
	if u.Email != "leaver@example.com" || u.FullName != "Lea Leaver" || u.Provider != p.ID || strings.Join(u.Groups, " ") != "cn=staff,"+ldaptest.GroupsDN+" staff" {
		t.Errorf("the user is %+v", u)
	}
	if c.mayAdminister(t, browser) {
		t.Error("whoever is in the directory may administer")
	}
	c.api(t, "PATCH", "/users/"+u.ID, map[string]any{"role": "admin"}, nil)
	if status, _ := c.signIn(t, browser, leaver, ldaptest.Password(leaver)); status != http.StatusSeeOther || !c.mayAdminister(t, browser) {
		t.Errorf("an administrator of the directory: %d", status)
	}

	// Gone from the directory, the user and the user's device lose everything.
	_, device := c.enrolledFor(t, leaver, mdmtest.Options{})
	c.api(t, "PATCH", "/identity-providers/"+p.ID, map[string]any{"disable_missing": true}, nil)
	must(t, c.identity.CheckDirectories(t.Context()))
	if c.userNamed(t, leaver).Disabled {
		t.Error("a user who is in the directory was disabled")
	}
	if status, _ := c.signIn(t, c.browser(t), "ben", ldaptest.Password("ben")); status != http.StatusSeeOther { // who stays
		t.Fatalf("somebody else: %d", status)
	}
	dir.Delete(t, leaver)
	must(t, c.identity.CheckDirectories(t.Context()))
	if !c.userNamed(t, leaver).Disabled || c.mayAdminister(t, browser) {
		t.Error("who is gone from the directory may go on")
	}
	must(t, c.db.View(t.Context(), func(tx storage.Tx) error {
		found, err := mdm.GetDevice(tx, device)
		if found.State != mdm.Unenrolled {
			t.Errorf("the device of who is gone is %s", found.State)
		}
		return err
	}))
	c.api(t, "GET", "/identity-providers/"+p.ID, nil, &p)
	if p.LastCheck == nil || p.LastCheck.Disabled != 1 || p.LastCheck.People < 10 || p.LastCheck.Error != "" {
		t.Errorf("the last check is %+v", p.LastCheck)
	}
	for _, secret := range []string{ldaptest.Password(leaver), ldaptest.ReaderPassword, "a guess"} {
		if strings.Contains(c.log.String(), secret) {
			t.Errorf("the log has the password %q", secret)
		}
	}
}

// TestADirectoryThatIsDownLetsNobodyIn is ENR-07.
func TestADirectoryThatIsDownLetsNobodyIn(t *testing.T) {
	storagetest.AnyEngine(t)
	t.Parallel()
	dir := ldaptest.Open(t)
	c := newComposed(t, nil)
	const login = "worker"
	dir.Add(t, login, nil)
	door := newRelay(t, strings.TrimPrefix(dir.TLSURL, "ldaps://"))
	p := c.directory(t, dir.Settings(map[string]any{"urls": []string{"ldaps://" + door.Addr().String()}}), "institutional", "admin")
	local := c.user(t, "local.admin", "Local Admin")
	c.api(t, "PATCH", "/users/"+local, map[string]any{"role": "admin", "password": "correct horse battery"}, nil)
	if status, page := c.signIn(t, c.browser(t), login, ldaptest.Password(login)); status != http.StatusSeeOther {
		t.Fatalf("while it is up: %d %s", status, page)
	}

	door.down()
	began := time.Now()
	if status, _ := c.signIn(t, c.browser(t), login, ldaptest.Password(login)); status != http.StatusServiceUnavailable {
		t.Errorf("while it is down: %d", status)
	}
	if took := time.Since(began); took > 30*time.Second {
		t.Errorf("the answer took %v", took)
	}
	if _, err := c.identity.Login(t.Context(), login, ldaptest.Password(login), "192.0.2.1"); !errors.Is(err, identity.ErrSource) {
		t.Errorf("Login = %v, want ErrSource", err)
	}
	if _, err := c.identity.Login(t.Context(), "nobody.yet", "x", "192.0.2.1"); !errors.Is(err, identity.ErrSource) {
		t.Errorf("Login of who may be in the directory = %v, want ErrSource", err)
	}
	browser := c.browser(t)
	if status, _ := c.signIn(t, browser, "local.admin", "correct horse battery"); status != http.StatusSeeOther || !c.mayAdminister(t, browser) {
		t.Errorf("an administrator of this server, while it is down: %d", status)
	}
	var tried struct {
		OK    bool
		Steps []struct{ Name, Detail string }
	}
	c.api(t, "POST", "/identity-providers/"+p.ID+"/test", map[string]any{"login": login, "password": "x"}, &tried)
	if tried.OK || len(tried.Steps) != 1 || tried.Steps[0].Name != "connect" {
		t.Errorf("tried while it is down: %+v", tried)
	}
	c.api(t, "PATCH", "/identity-providers/"+p.ID, map[string]any{"disable_missing": true}, nil)
	if err := c.identity.CheckDirectories(t.Context()); err == nil {
		t.Error("a check of a directory that is down is no error")
	}
	if c.userNamed(t, login).Disabled {
		t.Error("a user was disabled because the directory is down")
	}
}

// TestWrongSettingsOfADirectoryAreNamed is about what the API answers.
func TestWrongSettingsOfADirectoryAreNamed(t *testing.T) {
	storagetest.AnyEngine(t)
	t.Parallel()
	c := newComposed(t, nil)
	for name, tt := range map[string]struct {
		settings map[string]any
		want     string
	}{
		"no encryption": {map[string]any{"urls": []string{"ldap://ldap.example.com"}, "base_dn": "dc=example,dc=com"}, "settings.urls"},
		"no login":      {map[string]any{"urls": []string{"ldaps://ldap.example.com"}, "base_dn": "dc=example,dc=com", "user_filter": "(uid=ana)"}, "settings.user_filter"},
		"a typo":        {map[string]any{"urls": []string{"ldaps://ldap.example.com"}, "basedn": "dc=example,dc=com"}, "settings.basedn"},
	} {
		t.Run(name, func(t *testing.T) {
			body, err := json.Marshal(map[string]any{"kind": "ldap", "name": "Directory", "settings": tt.settings})
			must(t, err)
			r := httptest.NewRequest("POST", "/api/v1/identity-providers", bytes.NewReader(body))
			r.Header.Set("Content-Type", "application/json")
			w := httptest.NewRecorder()
			c.local.ServeHTTP(w, r)
			if w.Code != http.StatusUnprocessableEntity && w.Code != http.StatusBadRequest || !strings.Contains(w.Body.String(), tt.want) {
				t.Errorf("POST: %d %s, want %s in it", w.Code, w.Body, tt.want)
			}
		})
	}
}
