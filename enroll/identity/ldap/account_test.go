package ldap_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/enroll/identity/ldap"
	"github.com/gatehouse-mdm/gatehouse/enroll/identity/ldap/ldaptest"
	"github.com/gatehouse-mdm/gatehouse/storage/seal"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// withUsers is a directory as users of this server know it.
func withUsers(t *testing.T) (*identity.Service, identity.Provider) {
	t.Helper()
	dir, log := ldaptest.Open(t), slog.New(slog.DiscardHandler)
	now := time.Date(2026, 11, 22, 9, 0, 0, 0, time.UTC)
	kind, err := ldap.New(ldap.Config{Log: log, Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	box, err := seal.New(bytes.Repeat([]byte{7}, seal.KeySize))
	if err != nil {
		t.Fatal(err)
	}
	people, err := identity.New(identity.Config{
		DB: storagetest.Open(t), Box: box, Kinds: []identity.SourceKind{kind}, Log: log, Now: func() time.Time { return now }, HashMemory: 64,
	})
	if err != nil {
		t.Fatal(err)
	}
	settings, err := json.Marshal(dir.Settings(nil))
	if err != nil {
		t.Fatal(err)
	}
	p, err := people.CreateProvider(t.Context(), identity.Local(), "ldap", identity.ProviderChange{Name: new("Example directory"), Settings: settings})
	if err != nil {
		t.Fatal(err)
	}
	return people, p
}

// The directory takes several spellings of a login for one (RFC 4518): together they get no
// more tries than one (ENR-01).
func TestSpellingsOfALoginAreNoFreshStart(t *testing.T) {
	people, _ := withUsers(t)
	spellings := []string{"ana", "ana@example.com", "ANA", "ａna", "aｎa", "anａ", "ａｎa"}
	bound := ""
	for _, login := range spellings {
		in, err := people.Login(t.Context(), login, ldaptest.Password("ana"), "198.51.100.1")
		if err != nil {
			t.Fatalf("Login(%q) = %v: the directory does not take it for ana", login, err)
		}
		if bound != "" && in.User.ID != bound {
			t.Errorf("Login(%q) is another user than the first", login)
		}
		bound = in.User.ID
	}
	tries := 0
	for ; tries < 50; tries++ {
		if _, err := people.Login(t.Context(), spellings[tries%len(spellings)], "a guess", "192.0.2.1"); errors.Is(err, identity.ErrThrottled) {
			break
		}
	}
	if tries != 8 {
		t.Errorf("%d wrong passwords were looked at, want 8", tries)
	}
}

func TestWhoseSubjectsTheyAreIsKept(t *testing.T) {
	people, p := withUsers(t)
	if _, err := people.Login(t.Context(), "ana", ldaptest.Password("ana"), "192.0.2.1"); err != nil {
		t.Fatal(err)
	}
	for setting, value := range map[string]string{"base_dn": `"dc=example,dc=org"`, "subject_attribute": `"uid"`} {
		_, err := people.UpdateProvider(t.Context(), identity.Local(), p.ID, identity.ProviderChange{
			Settings: json.RawMessage(`{"` + setting + `": ` + value + `}`),
		})
		var field *identity.FieldError
		if !errors.As(err, &field) || field.Field != "settings."+setting {
			t.Errorf("another %s: %v, want a FieldError of it", setting, err)
		}
	}
	if _, err := people.UpdateProvider(t.Context(), identity.Local(), p.ID, identity.ProviderChange{Settings: json.RawMessage(`{"page_size": 100}`)}); err != nil {
		t.Errorf("another page size: %v", err)
	}
}
