package template

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/seal"
)

// ErrNameTaken means that there is a template of that name, perhaps in other case.
var ErrNameTaken = errors.New("a template has this name")

// Change is what an administrator did to a template.
type Change struct {
	Action   string // "created", "changed" or "deleted"
	Template Template
	Before   Template // what was changed; the zero Template of one that is new
	By       string
	At       time.Time
}

// Config says what a Service needs: all of it but OnChange.
type Config struct {
	DB  storage.DB
	Box *seal.Box // seals challenges and passwords
	Log *slog.Logger
	Now func() time.Time

	// OnChange is called in the transaction of a change, which its error undoes.
	OnChange func(tx storage.Tx, c Change) error
}

// Service keeps templates.
type Service struct {
	db       storage.DB
	box      *seal.Box
	log      *slog.Logger
	now      func() time.Time
	onChange func(tx storage.Tx, c Change) error
}

// NewService returns a Service, or says what c lacks.
func NewService(c Config) (*Service, error) {
	if c.DB == nil || c.Box == nil || c.Log == nil || c.Now == nil {
		return nil, errors.New("template: DB, Box, Log and Now are required")
	}
	if c.OnChange == nil {
		c.OnChange = func(storage.Tx, Change) error { return nil }
	}
	return &Service{db: c.DB, box: c.Box, log: c.Log, now: c.Now, onChange: c.OnChange}, nil
}

// record is a template as it is stored.
type record struct {
	Template
	Challenge         []byte `json:"challenge,omitempty"` // sealed, as the two below
	UpstreamChallenge []byte `json:"upstream_challenge,omitempty"`
	UpstreamPassword  []byte `json:"upstream_password,omitempty"`
}

// byFolded keeps names apart by more than case: people do not tell WiFi from wifi.
const byFolded = "folded"

var templates = storage.NewCollection("template", 1,
	func(r record) string { return r.Name },
	storage.Index[record]{Name: byFolded, Unique: true, Values: func(r record) []string { return []string{strings.ToLower(r.Name)} }},
)

// Create stores a new template, and returns it as it is stored. note is what its author
// has to say about it, nil for nothing; by is who that is. A challenge that t needs and
// lacks is made.
//
// Errors are FieldErrors, wrap ErrNameTaken, or are the store's.
func (s *Service) Create(ctx context.Context, by string, t Template, note *string) (Template, error) {
	t = s.prepare(by, t, note)
	t.CreatedAt = t.UpdatedAt
	if err := t.Check(); err != nil {
		return Template{}, err
	}
	err := s.db.Update(ctx, func(tx storage.Tx) error {
		if err := templates.Create(tx, s.sealed(t)); err != nil {
			return err
		}
		return s.onChange(tx, Change{Action: "created", Template: t, By: by, At: t.UpdatedAt})
	})
	if errors.Is(err, storage.ErrExists) {
		return Template{}, fmt.Errorf("create template %s: %w", t.Name, ErrNameTaken)
	}
	if err != nil {
		return Template{}, fmt.Errorf("create template %s: %w", t.Name, err)
	}
	s.log.InfoContext(ctx, "template created", "template", t.Name, "by", by)
	return t, nil
}

// Replace stores t in place of the template of its name, and returns it as it is stored.
// Secrets that t needs and lacks stay those that are there; a note is added if it says
// anything new. fresh says whether the challenge was made, because there was none.
//
// Errors are FieldErrors, or the store's: one that wraps storage.ErrNotFound when there
// is no such template.
func (s *Service) Replace(ctx context.Context, by string, t Template, note *string) (stored Template, fresh bool, err error) {
	err = s.db.Update(ctx, func(tx storage.Tx) error {
		old, err := s.Get(tx, t.Name)
		if err != nil {
			return err
		}
		stored = t
		stored.inherit(old)
		fresh = stored.ChallengeType == Static && stored.Issuer != External && stored.Challenge == ""
		stored = s.prepare(by, stored, note)
		if err := stored.Check(); err != nil {
			return err
		}
		if err := templates.Put(tx, s.sealed(stored)); err != nil {
			return err
		}
		return s.onChange(tx, Change{Action: "changed", Template: stored, Before: old, By: by, At: stored.UpdatedAt})
	})
	if err != nil {
		return Template{}, false, fmt.Errorf("replace template %s: %w", t.Name, err)
	}
	s.log.InfoContext(ctx, "template changed", "template", t.Name, "by", by)
	return stored, fresh, nil
}

// Draft returns t as Create would store it, or, if replaces, Replace in place of the
// template of its name; it stores nothing. Errors are theirs.
func (s *Service) Draft(tx storage.Tx, t Template, replaces bool) (Template, error) {
	switch old, err := s.Get(tx, t.Name); {
	case err == nil && !replaces:
		return Template{}, fmt.Errorf("draft of template %s: %w", t.Name, ErrNameTaken)
	case err == nil:
		t.inherit(old)
	case replaces || !errors.Is(err, storage.ErrNotFound):
		return Template{}, err
	}
	t = s.prepare("", t, nil)
	return t, t.Check()
}

// inherit takes over what a template keeps from the one that it replaces.
func (t *Template) inherit(old Template) {
	t.CreatedAt, t.Notes = old.CreatedAt, slices.Clone(old.Notes)
	if t.ChallengeType == Static && t.Challenge == "" {
		t.Challenge = old.Challenge
	}
	// A secret goes nowhere but to the server that it was given for: whoever may point a
	// template elsewhere could otherwise read it there.
	if t.Upstream.ChallengeType == UpstreamStatic && t.Upstream.Challenge == "" && t.Upstream.URL == old.Upstream.URL && t.Issuer == old.Issuer {
		t.Upstream.Challenge = old.Upstream.Challenge
	}
	if t.Upstream.ChallengeType == UpstreamDynamic && t.Upstream.Password == "" &&
		t.Upstream.ChallengeURL == old.Upstream.ChallengeURL && t.Upstream.Username == old.Upstream.Username {
		t.Upstream.Password = old.Upstream.Password
	}
}

// prepare fills in what the author of t leaves to us.
func (s *Service) prepare(by string, t Template, note *string) Template {
	now := s.now().UTC()
	t.UpdatedAt = now
	t.ExtKeyUsage = CanonicalUsages(t.ExtKeyUsage)
	if t.ChallengeType == Static && t.Issuer != External && t.Challenge == "" {
		t.Challenge = Secret(rand.Text())
	}
	if life := t.ValidFor(); t.RenewBefore == "" && life > 0 {
		if before, err := t.RenewBefore.of(life); err == nil {
			t.RenewBefore = RenewBefore(spanOf(before))
		}
	}
	if note != nil && *note != t.Note() {
		t.Notes = append(slices.Clone(t.Notes), Note{Text: *note, Author: by, At: now})
		t.Notes = t.Notes[max(0, len(t.Notes)-maxNotes):]
	}
	return t
}

// Delete removes a template. What was issued by it stays, and keeps its name. Each of
// also is called in the same transaction, which its error undoes.
func (s *Service) Delete(ctx context.Context, by, name string, also ...func(tx storage.Tx) error) error {
	err := s.db.Update(ctx, func(tx storage.Tx) error {
		t, err := s.Get(tx, name)
		if err != nil {
			return err
		}
		if err := templates.Delete(tx, name); err != nil {
			return err
		}
		for _, do := range also {
			if err := do(tx); err != nil {
				return err
			}
		}
		return s.onChange(tx, Change{Action: "deleted", Template: t, By: by, At: s.now().UTC()})
	})
	if err != nil {
		return fmt.Errorf("delete template %s: %w", name, err)
	}
	s.log.InfoContext(ctx, "template deleted", "template", name, "by", by)
	return nil
}

// Get returns a template with its secrets, or an error that wraps storage.ErrNotFound.
// Names are taken as they are written.
func (s *Service) Get(tx storage.Tx, name string) (Template, error) {
	if !namePattern.MatchString(name) { // before it becomes a key
		return Template{}, fmt.Errorf("template %.80q: %w", name, storage.ErrNotFound)
	}
	r, err := templates.Get(tx, name)
	if err != nil {
		return Template{}, err
	}
	return s.open(r)
}

// Read is what [storage.Tx.Prefetch] takes for Get.
func (s *Service) Read(name string) storage.Read { return templates.Read(name) }

// Page returns up to limit templates by name, and the cursor of the next page, empty on
// the last one.
func (s *Service) Page(tx storage.Tx, cursor string, limit int) (page []Template, next string, err error) {
	records, next, err := storage.Page(tx, templates, cursor, limit)
	if err != nil {
		return nil, "", err
	}
	page = make([]Template, len(records))
	for i, r := range records {
		if page[i], err = s.open(r); err != nil {
			return nil, "", err
		}
	}
	return page, next, nil
}

// What the secrets of a template are sealed for.
const (
	challengePurpose         = "challenge of template "
	upstreamChallengePurpose = "upstream challenge of template "
	upstreamPasswordPurpose  = "upstream password of template "
)

func (s *Service) sealed(t Template) record {
	seal := func(purpose string, secret Secret) []byte {
		if secret == "" {
			return nil
		}
		return s.box.Seal(purpose+t.Name, []byte(secret))
	}
	return record{
		Template:          t,
		Challenge:         seal(challengePurpose, t.Challenge),
		UpstreamChallenge: seal(upstreamChallengePurpose, t.Upstream.Challenge),
		UpstreamPassword:  seal(upstreamPasswordPurpose, t.Upstream.Password),
	}
}

func (s *Service) open(r record) (Template, error) {
	t := r.Template
	for _, secret := range []struct {
		purpose string
		sealed  []byte
		into    *Secret
	}{
		{challengePurpose, r.Challenge, &t.Challenge},
		{upstreamChallengePurpose, r.UpstreamChallenge, &t.Upstream.Challenge},
		{upstreamPasswordPurpose, r.UpstreamPassword, &t.Upstream.Password},
	} {
		if secret.sealed == nil {
			continue
		}
		plain, err := s.box.Open(secret.purpose+t.Name, secret.sealed)
		if err != nil {
			return Template{}, err
		}
		*secret.into = Secret(plain)
	}
	return t, nil
}
