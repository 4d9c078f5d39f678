package template_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/depot/template"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/seal"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// shelf is a Service on a real store.
type shelf struct {
	*template.Service
	db      storage.DB
	now     time.Time
	changes []template.Change
	refuse  error
}

func newShelf(t testing.TB) *shelf {
	t.Helper()
	box, err := seal.New(bytes.Repeat([]byte{7}, 32))
	if err != nil {
		t.Fatal(err)
	}
	s := &shelf{db: storagetest.Open(t), now: time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)}
	s.Service, err = template.NewService(template.Config{
		DB: s.db, Box: box, Log: slog.New(slog.DiscardHandler), Now: func() time.Time { return s.now },
		OnChange: func(_ storage.Tx, c template.Change) error {
			s.changes = append(s.changes, c)
			return s.refuse
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *shelf) get(t testing.TB, name string) (tmpl template.Template, err error) {
	t.Helper()
	err = s.db.View(context.Background(), func(tx storage.Tx) error {
		tmpl, err = s.Get(tx, name)
		return err
	})
	return tmpl, err
}

func (s *shelf) create(t testing.TB, tmpl template.Template) template.Template {
	t.Helper()
	stored, err := s.Create(context.Background(), "user:ana@example.com", tmpl, new("first"))
	if err != nil {
		t.Fatal(err)
	}
	return stored
}

func TestWhatIsStoredIsRead(t *testing.T) {
	s := newShelf(t)
	in := wifi(t)
	external(&in)
	in.Issuer = template.Proxy
	in.Upstream.ChallengeType, in.Upstream.ChallengeURL = template.UpstreamDynamic, "https://ndes.example.com/"
	in.Upstream.Username, in.Upstream.Password, in.Upstream.AllowPrivate = "gatehouse", "their password", true
	in.IncludeRoot, in.Roots = true, [][]byte{rootDER()}
	stored := s.create(t, in)
	got, err := s.get(t, "wifi")
	if err != nil || !reflect.DeepEqual(got, stored) {
		t.Errorf("Get = %+v, %v; want %+v", got, err, stored)
	}
	if got.Note() != "first" || got.Notes[0].Author != "user:ana@example.com" || !got.Notes[0].At.Equal(s.now) || !got.CreatedAt.Equal(s.now) {
		t.Errorf("notes are %v, created at %v", got.Notes, got.CreatedAt)
	}
	if got.Upstream.Password != "their password" || !got.Upstream.AllowPrivate {
		t.Error("the secrets are not those that were stored")
	}
	if _, err := s.get(t, "WIFI"); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("Get in other case = %v, want ErrNotFound", err)
	}
	if _, err := s.get(t, strings.Repeat("x", 5000)); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("Get of a long name = %v, want ErrNotFound", err)
	}
}

func TestTheDatabaseHoldsNoSecrets(t *testing.T) {
	s := newShelf(t)
	ours, theirs := wifi(t), wifi(t)
	ours.ChallengeType, ours.Challenge = template.Static, "our static secret"
	s.create(t, ours)
	external(&theirs)
	theirs.Name, theirs.Issuer = "theirs", template.Proxy
	theirs.Upstream.ChallengeType, theirs.Upstream.Challenge = template.UpstreamStatic, "their static secret"
	s.create(t, theirs)
	seen := 0
	err := s.db.View(context.Background(), func(tx storage.Tx) error {
		for item, err := range tx.Scan("template", storage.Range{}) {
			if err != nil {
				return err
			}
			seen++
			if bytes.Contains(item.Value, []byte("static secret")) {
				t.Errorf("stored is %s", item.Value)
			}
		}
		return nil
	})
	if err != nil || seen == 0 {
		t.Errorf("%d records, %v", seen, err)
	}
}

func TestTheTimeOfRenewalIsFilledIn(t *testing.T) {
	s := newShelf(t)
	for validity, want := range map[template.Span]template.RenewBefore{"365d": "720h", "10d": "120h", "1h": "30m0s"} {
		in := wifi(t)
		in.Name, in.Validity = "for-"+string(validity), validity
		if got := s.create(t, in); got.RenewBefore != want {
			t.Errorf("of %s it is %s, want %s", validity, got.RenewBefore, want)
		}
	}
}

func TestNamesAreUniqueInAnyCase(t *testing.T) {
	s := newShelf(t)
	s.create(t, wifi(t))
	again := wifi(t)
	for _, name := range []string{"wifi", "WiFi"} {
		again.Name = name
		if _, err := s.Create(context.Background(), "x", again, nil); !errors.Is(err, template.ErrNameTaken) {
			t.Errorf("Create(%s) = %v, want ErrNameTaken", name, err)
		}
	}
}

func TestAStaticChallengeIsMadeWhereThereIsNone(t *testing.T) {
	ctx, s := context.Background(), newShelf(t)
	in := wifi(t)
	in.ChallengeType = template.Static
	made := s.create(t, in)
	if len(made.Challenge) < 20 {
		t.Fatalf("the challenge has %d characters", len(made.Challenge))
	}
	kept, fresh, err := s.Replace(ctx, "x", in, new("first"))
	if err != nil || fresh || kept.Challenge != made.Challenge {
		t.Errorf("replaced without a challenge: fresh %v, %v, want the one that was there", fresh, err)
	}
	in.Challenge = "given by hand"
	if got, fresh, err := s.Replace(ctx, "x", in, new("first")); err != nil || fresh || got.Challenge != "given by hand" {
		t.Errorf("replaced with one: fresh %v, %v", fresh, err)
	}
	in.ChallengeType, in.Challenge = template.OneTime, ""
	if got, _, err := s.Replace(ctx, "x", in, new("first")); err != nil || got.Challenge != "" {
		t.Errorf("with one-time challenges a static one is kept: %v", err)
	}
	in.ChallengeType = template.Static
	if got, fresh, err := s.Replace(ctx, "x", in, new("first")); err != nil || !fresh || got.Challenge == "" || got.Challenge == made.Challenge {
		t.Errorf("back to static: fresh %v, %v, want a new one", fresh, err)
	}
}

func TestSecretsStayWithTheServerThatTheyAreFor(t *testing.T) {
	ctx, s := context.Background(), newShelf(t)
	in := wifi(t)
	external(&in)
	in.Upstream.ChallengeType, in.Upstream.Challenge = template.UpstreamStatic, "theirs"
	s.create(t, in)
	in.Upstream.Challenge = ""
	if got, _, err := s.Replace(ctx, "x", in, nil); err != nil || got.Upstream.Challenge != "theirs" {
		t.Errorf("Replace = %v, want the challenge kept", err)
	}
	in.Upstream.URL = "https://evil.example/scep"
	var bad template.FieldErrors
	if _, _, err := s.Replace(ctx, "x", in, nil); !errors.As(err, &bad) || bad[0].Field != "upstream.challenge" {
		t.Errorf("Replace with another URL = %v, want the challenge asked for again", err)
	}

	in.Upstream.ChallengeType, in.Upstream.ChallengeURL = template.UpstreamDynamic, "https://ndes.example.com/"
	in.Upstream.Username, in.Upstream.Password = "gatehouse", "hush"
	if _, _, err := s.Replace(ctx, "x", in, nil); err != nil {
		t.Fatal(err)
	}
	in.Upstream.Password = ""
	if got, _, err := s.Replace(ctx, "x", in, nil); err != nil || got.Upstream.Password != "hush" {
		t.Errorf("Replace = %v, want the password kept", err)
	}
	in.Upstream.ChallengeURL = "https://evil.example/"
	if got, _, err := s.Replace(ctx, "x", in, nil); err != nil || got.Upstream.Password != "" {
		t.Errorf("Replace with another challenge URL = %v, want no password", err)
	}
}

func TestNotesAreKeptWithAuthorAndTime(t *testing.T) {
	ctx, s := context.Background(), newShelf(t)
	s.create(t, wifi(t))
	for i, tt := range []struct {
		note *string
		want []string
	}{
		{new("first"), []string{"first"}},
		{new("second"), []string{"first", "second"}},
		{new("second"), []string{"first", "second"}},
		{nil, []string{"first", "second"}},
		{new(""), []string{"first", "second", ""}},
	} {
		s.now = s.now.Add(time.Hour)
		got, _, err := s.Replace(ctx, "bob", wifi(t), tt.note)
		if err != nil {
			t.Fatal(err)
		}
		var texts []string
		for _, n := range got.Notes {
			texts = append(texts, n.Text)
		}
		if !reflect.DeepEqual(texts, tt.want) {
			t.Errorf("after note %d there are %q, want %q", i, texts, tt.want)
		}
		if !got.UpdatedAt.Equal(s.now) || got.CreatedAt.Equal(s.now) {
			t.Errorf("created at %v, updated at %v", got.CreatedAt, got.UpdatedAt)
		}
	}
	got, err := s.get(t, "wifi")
	if err != nil || got.Notes[1].Author != "bob" || got.Notes[0].Author != "user:ana@example.com" {
		t.Errorf("notes are %v, %v", got.Notes, err)
	}
}

func TestReplaceAndDeleteNeedATemplate(t *testing.T) {
	ctx, s := context.Background(), newShelf(t)
	if _, _, err := s.Replace(ctx, "x", wifi(t), nil); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("Replace = %v, want ErrNotFound", err)
	}
	if err := s.Delete(ctx, "x", "wifi"); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("Delete = %v, want ErrNotFound", err)
	}
	s.create(t, wifi(t))
	bad := wifi(t)
	bad.KeySize = 1
	var fields template.FieldErrors
	if _, _, err := s.Replace(ctx, "x", bad, nil); !errors.As(err, &fields) {
		t.Errorf("Replace = %v, want FieldErrors", err)
	}
	if err := s.Delete(ctx, "x", "wifi"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.get(t, "wifi"); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("Get of a deleted one = %v", err)
	}
	s.create(t, wifi(t)) // the name is free again
}

func TestChangesAreToldInTheirTransaction(t *testing.T) {
	ctx, s := context.Background(), newShelf(t)
	last := func(action string) {
		t.Helper()
		if c := s.changes[len(s.changes)-1]; c.Action != action || c.Template.Name != "wifi" || c.By == "" || c.At.IsZero() {
			t.Errorf("told was %+v, want %s", c, action)
		}
	}
	s.create(t, wifi(t))
	last("created")
	if _, _, err := s.Replace(ctx, "x", wifi(t), nil); err != nil {
		t.Fatal(err)
	}
	last("changed")
	s.refuse = errors.New("devices need it")
	if err := s.Delete(ctx, "x", "wifi"); !errors.Is(err, s.refuse) {
		t.Errorf("Delete = %v, want the refusal", err)
	}
	if _, err := s.get(t, "wifi"); err != nil {
		t.Errorf("what could not be deleted is gone: %v", err)
	}
	s.refuse = nil
	if err := s.Delete(ctx, "x", "wifi"); err != nil {
		t.Fatal(err)
	}
	last("deleted")
}

func TestPage(t *testing.T) {
	s := newShelf(t)
	for _, name := range []string{"c", "a", "b"} {
		tmpl := wifi(t)
		tmpl.Name, tmpl.ChallengeType = name, template.Static
		s.create(t, tmpl)
	}
	var names []string
	err := s.db.View(context.Background(), func(tx storage.Tx) error {
		names = nil
		for cursor := ""; ; {
			page, next, err := s.Page(tx, cursor, 2)
			if err != nil {
				return err
			}
			for _, tmpl := range page {
				names = append(names, tmpl.Name)
			}
			if cursor = next; next == "" {
				return nil
			}
		}
	})
	if err != nil || !reflect.DeepEqual(names, []string{"a", "b", "c"}) {
		t.Errorf("Page gives %v, %v", names, err)
	}
}
