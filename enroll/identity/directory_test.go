package identity_test

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

func TestUsersWhoAreGoneFromTheDirectory(t *testing.T) {
	storagetest.AnyEngine(t)
	for name, tt := range map[string]struct {
		change  func(w *world) // after 20 people signed in, p0 to p19
		gone    int            // of users, afterwards
		missing int
		stopped bool
		failed  bool
	}{
		"none":                              {func(*world) {}, 0, 0, false, false},
		"one is deleted":                    {func(w *world) { delete(w.people["one"], "p3") }, 1, 1, false, false},
		"one is inactive":                   {func(w *world) { w.people["one"]["p3"].inactive = true }, 1, 1, false, false},
		"a fifth":                           {func(w *world) { w.drop(4) }, 4, 4, false, false},
		"more than a fifth":                 {func(w *world) { w.drop(5) }, 0, 5, true, false},
		"all":                               {func(w *world) { w.drop(20) }, 0, 20, true, false},
		"it is down after a part of it":     {func(w *world) { w.drop(2); w.broken["one"] = identity.ErrSource }, 0, 0, false, true},
		"of another provider, which is off": {func(w *world) { delete(w.people["two"], "other") }, 0, 0, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			check := func(c *identity.ProviderChange) { c.DisableMissing = ptr(true) }
			p := w.provider(t, "directory", "one", check)
			two := w.provider(t, "directory", "two", check)
			w.add("two", person("other"), "other")
			if _, err := w.Login(ctx, "other", "a good password", "192.0.2.1"); err != nil {
				t.Fatal(err)
			}
			w.enable(t, two, false)
			for i := range 20 {
				login := fmt.Sprint("p", i)
				w.add("one", person(login), login)
				if _, err := w.Login(ctx, login, "a good password", "192.0.2.1"); err != nil {
					t.Fatal(err)
				}
			}
			w.create(t, identity.NewUser{Username: "local"})
			w.create(t, identity.NewUser{Username: "awaited", Provider: p.ID})
			w.at.Advance(time.Hour)
			ended := map[string]bool{}
			w.onDisable = func(_ storage.Tx, u identity.User) error { ended[u.Username] = true; return nil }
			w.change(func() { tt.change(w) })
			if err := w.CheckDirectories(ctx); (err != nil) != tt.failed {
				t.Errorf("CheckDirectories = %v", err)
			}
			list, _, err := w.Users(ctx, "", 100)
			if err != nil {
				t.Fatal(err)
			}
			gone := 0
			for _, u := range list {
				if u.Disabled != ended[u.Username] {
					t.Errorf("%s is disabled: %v, and what they have ended: %v", u.Username, u.Disabled, ended[u.Username])
				}
				if u.Disabled {
					gone++
				}
			}
			last, err := w.LastChecks(ctx)
			c := last[p.ID]
			if err != nil || gone != tt.gone || c.Disabled != tt.gone || c.Missing != tt.missing || c.Stopped != tt.stopped || (c.Error != "") != tt.failed || !c.At.Equal(w.at.Now()) {
				t.Errorf("%d users are disabled, LastChecks = %+v, %v; want %+v", gone, last, err, tt)
			}
			if len(last) != 1 {
				t.Errorf("providers that were checked: %+v, want only the first", last)
			}
			if got := w.facts(t, "user.disabled"); len(got) != tt.gone || tt.gone > 0 && !strings.Contains(got[0], "by provider:one: the user is gone") {
				t.Errorf("audit log: %q, want %d users who are gone", got, tt.gone)
			}
			stops := 0
			if tt.stopped {
				stops = 1
			}
			_ = w.CheckDirectories(ctx)
			if got := w.facts(t, "identity_provider.check_stopped"); len(got) != stops {
				t.Errorf("audit log after a second time: %q, want %d", got, stops)
			}
		})
	}
}

func (w *world) drop(n int) {
	for i := range n {
		delete(w.people["one"], fmt.Sprint("p", i))
	}
}

func TestThreeOfFewUsersMayGo(t *testing.T) {
	storagetest.AnyEngine(t)
	w := newWorld(t)
	w.provider(t, "directory", "one", func(c *identity.ProviderChange) { c.DisableMissing = ptr(true) })
	for i := range 4 {
		login := fmt.Sprint("p", i)
		w.add("one", person(login), login)
		if _, err := w.Login(ctx, login, "a good password", "192.0.2.1"); err != nil {
			t.Fatal(err)
		}
	}
	w.at.Advance(time.Hour)
	w.drop(4)
	if err := w.CheckDirectories(ctx); err != nil {
		t.Fatal(err)
	}
	if got := w.facts(t, "user.disabled"); len(got) != 0 {
		t.Errorf("a directory without anybody: %q", got)
	}
	w.add("one", person("p3"), "p3")
	if err := w.CheckDirectories(ctx); err != nil {
		t.Fatal(err)
	}
	if got := w.facts(t, "user.disabled"); len(got) != 3 {
		t.Errorf("three of four: %q", got)
	}
}

// Another base, or a filter that finds but printers: nobody has left.
func TestNobodyIsGoneFromADirectoryOfOthers(t *testing.T) {
	storagetest.AnyEngine(t)
	for name, left := range map[string]string{"one user": "p0", "three users": "p0 p1 p2"} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			p := w.provider(t, "directory", "one", func(c *identity.ProviderChange) { c.DisableMissing = ptr(true) })
			for _, login := range strings.Fields(left) {
				w.add("one", person(login), login)
				if _, err := w.Login(ctx, login, "a good password", peer); err != nil {
					t.Fatal(err)
				}
			}
			w.at.Advance(time.Hour)
			w.change(func() { w.people["one"] = nil })
			w.add("one", person("printer"), "printer")
			if err := w.CheckDirectories(ctx); err != nil {
				t.Fatal(err)
			}
			last, err := w.LastChecks(ctx)
			if c := last[p.ID]; err != nil || !c.Stopped || c.Disabled != 0 || c.People != 1 || c.Missing != len(strings.Fields(left)) {
				t.Errorf("LastChecks = %+v, %v; want one that was stopped", c, err)
			}
			if got := w.facts(t, "user.disabled"); len(got) != 0 {
				t.Errorf("disabled are %q, want nobody", got)
			}
			w.add("one", account{inactive: true, Person: person("p0").Person}, "p0") // is there, and off
			if err := w.CheckDirectories(ctx); err != nil {
				t.Fatal(err)
			}
			if got := w.facts(t, "user.disabled"); len(got) != len(strings.Fields(left)) {
				t.Errorf("disabled are %q then, want %s", got, left)
			}
		})
	}
}

func TestWhoSignsInDuringTheCheckStays(t *testing.T) {
	storagetest.AnyEngine(t)
	w := newWorld(t)
	w.provider(t, "directory", "one", func(c *identity.ProviderChange) { c.DisableMissing = ptr(true) })
	w.add("one", person("old"), "old")
	w.add("one", person("new"), "new")
	if _, err := w.Login(ctx, "new", "a good password", "192.0.2.1"); err != nil {
		t.Fatal(err)
	}
	w.at.Advance(time.Hour)
	if _, err := w.Login(ctx, "new", "a good password", "192.0.2.1"); err != nil { // as the check begins
		t.Fatal(err)
	}
	delete(w.people["one"], "new") // listed before
	if err := w.CheckDirectories(ctx); err != nil {
		t.Fatal(err)
	}
	if got := w.facts(t, "user.disabled"); len(got) != 0 {
		t.Errorf("disabled are %q, want nobody", got)
	}
}

func TestASignInIsTried(t *testing.T) {
	storagetest.AnyEngine(t)
	w := newWorld(t)
	p := w.provider(t, "directory", "one", func(c *identity.ProviderChange) {
		c.Enabled, c.Groups = ptr(false), &[]string{"staff"}
		c.Uses = &[]identity.Use{identity.UsePersonal}
	})
	w.add("one", ana(), "ana")
	guest := person("guest")
	guest.Groups = nil
	w.add("one", guest, "guest")
	w.create(t, identity.NewUser{Username: "taken"})
	w.add("one", person("taken"), "taken")
	users := w.all(t)
	for name, tt := range map[string]struct {
		login, password string
		broken          error
		ok              bool
		steps           string
		may             string
	}{
		"somebody who may enroll":          {"ana", "a good password", nil, true, "connect ok, search ok, sign in ok, user ok, enroll ok", "[personal]"},
		"somebody who may not":             {"guest", "a good password", nil, true, "connect ok, search ok, sign in ok, user ok, enroll no", "[]"},
		"the wrong password":               {"ana", "x", nil, false, "connect ok, search ok, sign in no", "[]"},
		"somebody whom nobody knows":       {"zoe", "x", nil, false, "connect ok, search no", "[]"},
		"somebody whose name is another's": {"taken", "a good password", nil, false, "connect ok, search ok, sign in ok, user no", "[]"},
		"a directory that is down":         {"ana", "a good password", identity.ErrSource, false, "connect no", "[]"},
	} {
		t.Run(name, func(t *testing.T) {
			w.broken["one"] = tt.broken
			got, err := w.TrySignIn(ctx, admin("admin"), p.ID, tt.login, tt.password)
			var steps []string
			for _, step := range got.Steps {
				steps = append(steps, step.Name+" "+map[bool]string{true: "ok", false: "no"}[step.OK])
				if strings.Contains(step.Detail, "a good password") {
					t.Errorf("a step tells the password: %s", step.Detail)
				}
			}
			if err != nil || got.OK != tt.ok || strings.Join(steps, ", ") != tt.steps || fmt.Sprint(got.MayEnroll) != tt.may {
				t.Errorf("TrySignIn = %+v, %v; want %+v", got, err, tt)
			}
			if w.all(t) != users {
				t.Errorf("users are %s then, want %s", w.all(t), users)
			}
			w.broken["one"] = nil
		})
	}
	for name, tt := range map[string]struct {
		by                        identity.Principal
		provider, login, password string
		want                      error
	}{
		"by one who may only read": {admin("helpdesk"), p.ID, "ana", "x", identity.ErrForbidden},
		"at none":                  {admin("admin"), "none", "ana", "x", storage.ErrNotFound},
		"at the local one":         {admin("admin"), identity.LocalProvider, "ana", "x", identity.ErrForbidden},
		"without a login":          {admin("admin"), p.ID, "", "x", identity.ErrInvalid},
		"without a password":       {admin("admin"), p.ID, "ana", "", identity.ErrInvalid},
	} {
		if _, err := w.TrySignIn(ctx, tt.by, tt.provider, tt.login, tt.password); !errors.Is(err, tt.want) {
			t.Errorf("TrySignIn %s = %v, want %v", name, err, tt.want)
		}
	}
	for range 20 {
		if _, err := w.TrySignIn(ctx, admin("admin"), p.ID, "ana", "x"); errors.Is(err, identity.ErrThrottled) {
			return
		}
	}
	t.Error("an administrator may try any number of passwords")
}

func TestASignInAtAProviderIsTried(t *testing.T) {
	storagetest.AnyEngine(t)
	w := newWorld(t)
	p := w.provider(t, "sso", "https://id", func(c *identity.ProviderChange) { c.Enabled = ptr(false) })
	w.add("https://id", ana(), "ana")
	try := func(code string) identity.Finished {
		t.Helper()
		to, err := w.BeginTrial(ctx, admin("admin"), p.ID, returnURL)
		if err != nil {
			t.Fatal(err)
		}
		at, err := url.Parse(to)
		if err != nil {
			t.Fatal(err)
		}
		f, err := w.FinishSignIn(ctx, p.ID, "any browser", back(sent{state: at.Query().Get("state")}, code), "")
		if err != nil || f.Trial == nil || f.User.ID != "" {
			t.Fatalf("FinishSignIn = %+v, %v; want a trial", f, err)
		}
		return f
	}
	if f := try("ana"); !f.Trial.OK || f.Trial.Mapped.Username != "ana" || f.Trial.Person.Subject != "id of ana" {
		t.Errorf("FinishSignIn = %+v", f.Trial)
	}
	if f := try("eve"); f.Trial.OK || len(f.Trial.Steps) != 1 || f.Trial.Steps[0].OK {
		t.Errorf("FinishSignIn of nobody = %+v", f.Trial)
	}
	if w.all(t) != "" || len(w.facts(t, "user.")) != 0 {
		t.Errorf("users are %q, the audit log says %q; want that nothing happened", w.all(t), w.facts(t, "user."))
	}
}
