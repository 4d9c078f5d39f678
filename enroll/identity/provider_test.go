package identity_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

func TestAProviderIsSetUp(t *testing.T) {
	storagetest.AnyEngine(t)
	w := newWorld(t)
	p := w.provider(t, "directory", "ldaps://one", func(c *identity.ProviderChange) { c.Groups = &[]string{" staff "} })
	if p.Name != "ldaps://one" || !p.Enabled || slices.Contains(p.Uses, identity.UseAdmin) || p.Groups[0] != "staff" || p.Mapping.Username != "uid" {
		t.Errorf("made is %+v", p)
	}
	if string(p.Settings) != `{"url":"ldaps://one"}` || !p.HasSecret("bind_password") {
		t.Errorf("its settings are %s, want the secret apart", p.Settings)
	}
	if w.bucketsHold(t, "very secret") {
		t.Error("the secret stands in the database")
	}
	second := w.provider(t, "directory", "ldaps://two")
	all, err := w.Providers(ctx)
	if err != nil || len(all) != 3 || all[0].ID != identity.LocalProvider || all[1].ID != p.ID || all[2].ID != second.ID {
		t.Errorf("Providers = %+v, %v; want the local one, then as they were made", all, err)
	}
	if _, err := w.UpdateProvider(ctx, identity.Local(), second.ID, identity.ProviderChange{Position: ptr(0)}); err != nil {
		t.Fatal(err)
	}
	if all, err = w.Providers(ctx); err != nil || all[1].ID != second.ID {
		t.Errorf("Providers = %+v, %v; want the second one first", all, err)
	}
	if got := w.facts(t, "identity_provider."); len(got) != 3 || !strings.HasPrefix(got[2], "identity_provider.updated ok") {
		t.Errorf("audit log: %q", got)
	}
	if strings.Contains(w.log.String(), "very secret") {
		t.Error("the secret stands in the log")
	}
}

func TestWhatIsWrongWithAProvider(t *testing.T) {
	w := newWorld(t)
	w.provider(t, "directory", "taken")
	p := w.provider(t, "sso", "https://id.example.com")
	for name, tt := range map[string]struct {
		change func(c *identity.ProviderChange)
		field  string
	}{
		"no name":                         {func(c *identity.ProviderChange) { c.Name = ptr(" ") }, "name"},
		"another's name":                  {func(c *identity.ProviderChange) { c.Name = ptr("Taken") }, "name"},
		"the name of local accounts":      {func(c *identity.ProviderChange) { c.Name = ptr("accounts of this server") }, "name"},
		"no uses":                         {func(c *identity.ProviderChange) { c.Uses = &[]identity.Use{} }, "uses"},
		"a use that is none":              {func(c *identity.ProviderChange) { c.Uses = &[]identity.Use{"admin", "x"} }, "uses[1]"},
		"a use twice":                     {func(c *identity.ProviderChange) { c.Uses = &[]identity.Use{"user", "user"} }, "uses[1]"},
		"an empty group":                  {func(c *identity.ProviderChange) { c.Groups = &[]string{"staff", ""} }, "groups[1]"},
		"a position before the first":     {func(c *identity.ProviderChange) { c.Position = ptr(-1) }, "position"},
		"settings that are none":          {func(c *identity.ProviderChange) { c.Settings = json.RawMessage(`[]`) }, "settings"},
		"a setting that the kind refuses": {func(c *identity.ProviderChange) { c.Settings = json.RawMessage(`{"url":null}`) }, "settings.url"},
		"a setting that is unknown":       {func(c *identity.ProviderChange) { c.Settings = json.RawMessage(`{"x":1}`) }, "settings.note"},
		"a secret for another server":     {func(c *identity.ProviderChange) { c.Settings = json.RawMessage(`{"url":"https://evil.example"}`) }, "settings.bind_password"},
		"a check without a directory":     {func(c *identity.ProviderChange) { c.DisableMissing = ptr(true) }, "disable_missing"},
		"codes without passwords":         {func(c *identity.ProviderChange) { c.RequireSecondFactor = ptr(true) }, "require_second_factor"},
		"no names":                        {func(c *identity.ProviderChange) { c.Mapping.Username, c.Mapping.Email = ptr(""), ptr("") }, "mapping.username"},
		"a brace too few":                 {func(c *identity.ProviderChange) { c.Mapping.FullName = ptr("{sn") }, "mapping.full_name"},
		"a brace too many":                {func(c *identity.ProviderChange) { c.Mapping.FullName = ptr("{sn}}") }, "mapping.full_name"},
		"empty braces":                    {func(c *identity.ProviderChange) { c.Mapping.ManagedAppleAccount = ptr("{}@example.com") }, "mapping.managed_apple_account"},
		"an account that is none": {func(c *identity.ProviderChange) {
			c.Mapping.ManagedAppleAccounts = &map[string]string{"Ana": "ana"}
		}, "mapping.managed_apple_accounts.ana"},
		"a table without a user": {func(c *identity.ProviderChange) {
			c.Mapping.ManagedAppleAccounts = &map[string]string{" ": "ana@example.com"}
		}, "mapping.managed_apple_accounts"},
	} {
		t.Run(name, func(t *testing.T) {
			var c identity.ProviderChange
			tt.change(&c)
			_, err := w.UpdateProvider(ctx, identity.Local(), p.ID, c)
			var field *identity.FieldError
			if !errors.As(err, &field) || field.Field != tt.field {
				t.Errorf("UpdateProvider = %v, want an error about %s", err, tt.field)
			}
			if stored, err := w.Provider(ctx, p.ID); err != nil || stored.Version != p.Version {
				t.Errorf("then it is %+v, %v; want it as it was", stored, err)
			}
		})
	}
	if _, err := w.CreateProvider(ctx, identity.Local(), "saml", identity.ProviderChange{Name: ptr("x")}); !fieldIs(err, "kind") {
		t.Errorf("CreateProvider of an unknown kind = %v", err)
	}
	if _, err := w.UpdateProvider(ctx, identity.Local(), "none", identity.ProviderChange{}); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("UpdateProvider of none = %v, want ErrNotFound", err)
	}
}

func fieldIs(err error, name string) bool {
	var field *identity.FieldError
	return errors.As(err, &field) && field.Field == name
}

func TestTheLocalProviderStays(t *testing.T) {
	storagetest.AnyEngine(t)
	w := newWorld(t)
	for field, c := range map[string]identity.ProviderChange{
		"enabled":  {Enabled: ptr(false)},
		"uses":     {Uses: &[]identity.Use{identity.UsePersonal}},
		"groups":   {Groups: &[]string{"staff"}},
		"settings": {Settings: json.RawMessage(`{}`)},
	} {
		if _, err := w.UpdateProvider(ctx, identity.Local(), identity.LocalProvider, c); !fieldIs(err, field) {
			t.Errorf("UpdateProvider(local, %+v) = %v, want an error about %s", c, err, field)
		}
	}
	if err := w.DeleteProvider(ctx, identity.Local(), identity.LocalProvider, true); !errors.Is(err, identity.ErrForbidden) {
		t.Errorf("DeleteProvider(local) = %v, want ErrForbidden", err)
	}
	p, err := w.UpdateProvider(ctx, identity.Local(), identity.LocalProvider, identity.ProviderChange{Name: ptr("Helpdesk"), Uses: &[]identity.Use{"admin"}})
	if err != nil || p.Name != "Helpdesk" || len(p.Uses) != 1 {
		t.Errorf("UpdateProvider = %+v, %v", p, err)
	}
	w.provider(t, "directory", "Accounts of this server") // nobody's name any more
}

func TestWhoMayChangeProviders(t *testing.T) {
	storagetest.AnyEngine(t)
	w := newWorld(t)
	for _, who := range []identity.Scope{"owner", "admin", "helpdesk", "read_only"} {
		for name, tt := range map[string]struct {
			needs identity.Scope
			do    func(by identity.Principal) error
		}{
			"one for enrolling": {"admin", func(by identity.Principal) error {
				_, err := w.CreateProvider(ctx, by, "directory", identity.ProviderChange{Name: ptr("a " + string(who)), Settings: json.RawMessage(`{"url":"a"}`)})
				return err
			}},
			"one for administrators": {"owner", func(by identity.Principal) error {
				_, err := w.CreateProvider(ctx, by, "directory", identity.ProviderChange{
					Name: ptr("b " + string(who)), Uses: &[]identity.Use{"admin"}, Settings: json.RawMessage(`{"url":"a"}`)})
				return err
			}},
			"the second factor of administrators": {"owner", func(by identity.Principal) error {
				_, err := w.UpdateProvider(ctx, by, identity.LocalProvider, identity.ProviderChange{RequireSecondFactor: ptr(who != "owner")})
				if who == "owner" && err == nil {
					_, err = w.UpdateProvider(ctx, by, identity.LocalProvider, identity.ProviderChange{RequireSecondFactor: ptr(true)})
				}
				w.forgetSecondFactorPolicy(t)
				return err
			}},
			"the uses of local accounts": {"admin", func(by identity.Principal) error {
				_, err := w.UpdateProvider(ctx, by, identity.LocalProvider, identity.ProviderChange{Uses: &[]identity.Use{"admin", "user"}})
				return err
			}},
		} {
			t.Run(fmt.Sprintf("%s and %s", who, name), func(t *testing.T) {
				err := tt.do(admin(who))
				if may := admin(who).Allows(tt.needs); may && err != nil || !may && !errors.Is(err, identity.ErrForbidden) {
					t.Errorf("%v, want that it needs %s", err, tt.needs)
				}
			})
		}
	}
	// Whoever says where a password is checked can sign in as its owner.
	p := w.provider(t, "directory", "ldaps://one", func(c *identity.ProviderChange) { c.Uses = &[]identity.Use{"admin", "user"} })
	for name, c := range map[string]identity.ProviderChange{
		"its settings": {Settings: json.RawMessage(`{"url":"ldaps://evil","bind_password":"x"}`)},
		"its uses":     {Uses: &[]identity.Use{"user"}},
	} {
		if _, err := w.UpdateProvider(ctx, admin("admin"), p.ID, c); !errors.Is(err, identity.ErrForbidden) {
			t.Errorf("an administrator changes %s: %v, want ErrForbidden", name, err)
		}
	}
	if err := w.DeleteProvider(ctx, admin("admin"), p.ID, false); !errors.Is(err, identity.ErrForbidden) {
		t.Errorf("an administrator deletes it: %v, want ErrForbidden", err)
	}
}

func (w *world) forgetSecondFactorPolicy(t *testing.T) {
	t.Helper()
	_, err := w.UpdateProvider(ctx, identity.Local(), identity.LocalProvider, identity.ProviderChange{RequireSecondFactor: ptr(false)})
	if err != nil {
		t.Fatal(err)
	}
}

func TestSettingsAreChangedOneByOne(t *testing.T) {
	w := newWorld(t)
	p := w.provider(t, "directory", "ldaps://one")
	other := w.replica(t, w.db)
	w.add("ldaps://one", ana(), "ana")
	for _, s := range []*identity.Service{w.Service, other, w.Service} {
		if _, err := s.Login(ctx, "ana", "a good password", "192.0.2.1"); err != nil {
			t.Fatal(err)
		}
	}
	w.opened = nil
	for _, step := range []struct{ change, settings, opened string }{
		{`{"note":"x"}`, `{"note":"x","url":"ldaps://one"}`, `{"bind_password":"very secret","note":"x","url":"ldaps://one"}`},
		{`{"note":null,"bind_password":"another"}`, `{"url":"ldaps://one"}`, `{"bind_password":"another","url":"ldaps://one"}`},
		{`{"bind_password":""}`, `{"url":"ldaps://one"}`, `{"url":"ldaps://one"}`},
	} {
		w.opened = nil
		got, err := w.UpdateProvider(ctx, identity.Local(), p.ID, identity.ProviderChange{Settings: json.RawMessage(step.change)})
		if err != nil || string(got.Settings) != step.settings {
			t.Errorf("settings after %s are %s, %v; want %s", step.change, got.Settings, err, step.settings)
		}
		w.opened = nil // UpdateProvider has tried them
		for _, s := range []*identity.Service{w.Service, other, w.Service, other} {
			if _, err := s.Login(ctx, "ana", "a good password", "192.0.2.1"); err != nil {
				t.Fatal(err)
			}
		}
		if len(w.opened) != 2 || w.opened[0] != step.opened || w.opened[1] != step.opened {
			t.Errorf("then sources were opened by %q, want once at each replica by %s", w.opened, step.opened)
		}
	}
	before, err := w.Provider(ctx, p.ID)
	if err != nil {
		t.Fatal(err)
	}
	same, err := w.UpdateProvider(ctx, identity.Local(), p.ID, identity.ProviderChange{Settings: json.RawMessage(`{"url": "ldaps://one"}`)})
	if err != nil || same.Version != before.Version {
		t.Errorf("a change to nothing else = version %d, %v; want %d", same.Version, err, before.Version)
	}
}

// The subjects of another directory are other people's.
func TestWhoseSubjectsTheyAreStaysOncePeopleSignedIn(t *testing.T) {
	storagetest.AnyEngine(t)
	w := newWorld(t)
	p := w.provider(t, "directory", "one", func(c *identity.ProviderChange) {
		c.Settings = json.RawMessage(`{"url": "one", "base": "dc=one"}`)
	})
	change := func(settings string) error {
		_, err := w.UpdateProvider(ctx, identity.Local(), p.ID, identity.ProviderChange{Settings: json.RawMessage(settings)})
		return err
	}
	w.create(t, identity.NewUser{Username: "awaited", Provider: p.ID})
	for _, settings := range []string{`{"base": "dc=two"}`, `{"base": null}`} {
		if err := change(settings); err != nil {
			t.Errorf("before anybody signed in: %v", err)
		}
	}
	w.add("one", person("dan"), "dan")
	if _, err := w.Login(ctx, "dan", "a good password", peer); err != nil {
		t.Fatal(err)
	}
	if err := change(`{"base": "dc=two"}`); !fieldIs(err, "settings.base") || !strings.Contains(err.Error(), "make another provider") {
		t.Errorf("another base then = %v, want a FieldError of settings.base", err)
	}
	for what, settings := range map[string]string{
		"another note": `{"note": "x"}`, "the same base": `{"base": ""}`, "another server": `{"url": "one more"}`,
	} {
		if err := change(settings); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// Who signs in for the first time, and who changes whose subjects they are, must not both
// have their way: the subject would be another's from then on.
func TestOfAFirstSignInAndAChangeOfWhoseSubjectsOneCounts(t *testing.T) {
	w := newWorld(t)
	p := w.provider(t, "directory", "one")
	w.add("one", ana(), "ana")
	elsewhere := json.RawMessage(`{"url": "two", "base": "dc=two", "bind_password": "x"}`) // where nobody is
	var in identity.SignedIn
	var signIn, change error
	storagetest.Overlap(w.db,
		func(db storage.DB) { in, signIn = w.replica(t, db).Login(ctx, "ana", "a good password", peer) },
		func(db storage.DB) {
			_, change = w.replica(t, db).UpdateProvider(ctx, identity.Local(), p.ID, identity.ProviderChange{Settings: elsewhere})
		},
	)
	if (signIn == nil) == (change == nil) || in.User.ID != "" != (signIn == nil) {
		t.Errorf("Login = %+v, %v; UpdateProvider = %v; want one of them refused", in.User, signIn, change)
	}
	refused := errors.Is(signIn, identity.ErrSource) || errors.Is(signIn, identity.ErrBadLogin)
	if signIn != nil && !refused || change != nil && !fieldIs(change, "settings.base") {
		t.Errorf("Login = %v, UpdateProvider = %v; want that it is changed, or a FieldError", signIn, change)
	}
}

func TestAProviderWithUsersIsNotDeleted(t *testing.T) {
	storagetest.AnyEngine(t)
	w := newWorld(t)
	p := w.provider(t, "directory", "ldaps://one")
	w.add("ldaps://one", ana(), "ana")
	in, err := w.Login(ctx, "ana", "a good password", "192.0.2.1")
	if err != nil {
		t.Fatal(err)
	}
	if err := w.DeleteProvider(ctx, identity.Local(), p.ID, false); !errors.Is(err, identity.ErrProviderInUse) {
		t.Errorf("DeleteProvider = %v, want ErrProviderInUse", err)
	}
	if err := w.DeleteProvider(ctx, identity.Local(), p.ID, true); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Login(ctx, "ana", "a good password", "192.0.2.1"); !errors.Is(err, identity.ErrBadLogin) {
		t.Errorf("then Login = %v, want ErrBadLogin", err)
	}
	if _, _, err := w.Acting(ctx, in.User.ID); !errors.Is(err, identity.ErrUnauthenticated) {
		t.Errorf("then who is signed in = %v, want ErrUnauthenticated", err)
	}
	if err := w.DeleteProvider(ctx, identity.Local(), p.ID, false); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("DeleteProvider again = %v, want ErrNotFound", err)
	}

	// An administrator gives the user to another provider, and they are who they were.
	next := w.provider(t, "directory", "ldaps://two")
	w.add("ldaps://two", account{password: "a good password", Person: ana().Person}, "new subject", "ana")
	if _, err := w.Login(ctx, "ana", "a good password", "192.0.2.1"); !errors.Is(err, identity.ErrBadLogin) {
		t.Errorf("before that Login = %v, want ErrBadLogin", err)
	}
	if _, err := w.UpdateUser(ctx, identity.Local(), in.User.ID, identity.UserChange{Provider: &next.ID}); err != nil {
		t.Fatal(err)
	}
	again, err := w.Login(ctx, "ana", "a good password", "192.0.2.1")
	if err != nil || again.User.ID != in.User.ID || again.Provider != next.ID {
		t.Errorf("Login = %+v, %v; want %s at %s", again, err, in.User.ID, next.ID)
	}
}

func TestOfRacingProvidersOneGetsTheName(t *testing.T) {
	w := newWorld(t)
	var errs [2]error
	side := func(i int) func(storage.DB) {
		return func(db storage.DB) {
			_, errs[i] = w.replica(t, db).CreateProvider(ctx, identity.Local(), "directory",
				identity.ProviderChange{Name: ptr("The directory"), Settings: json.RawMessage(`{"url":"a"}`)})
		}
	}
	storagetest.Overlap(w.db, side(0), side(1))
	if (errs[0] == nil) == (errs[1] == nil) || !fieldIs(errors.Join(errs[:]...), "name") {
		t.Errorf("two of one name: %v; want one error about it", errs)
	}
}
