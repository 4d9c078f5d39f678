package identity

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"unicode/utf8"

	"github.com/gatehouse-mdm/gatehouse/storage"
)

// Trial is what came of a sign-in that an administrator tried: nothing was changed.
type Trial struct {
	Provider Provider
	Steps    []Step // as far as it came; the last one failed unless OK
	OK       bool   // the person could sign in

	Person    Person // with values cut short
	Mapped    Mapped
	User      User // as it is stored now; zero: they would be a new one
	MayEnroll []Use
	Denied    map[Use]Denial // why not, for the uses that are not in MayEnroll
}

// Steps of a trial beside those of a source.
const (
	stepSignIn = "sign in"
	stepUser   = "user"   // what the person is here
	stepEnrol  = "enroll" // whether they may enrol
)

// TrySignIn signs somebody in at a source that takes passwords, for nothing but to see what
// it says. by must be an administrator. The tries are counted as logins are; errors wrap
// ErrThrottled, ErrForbidden, *FieldError or storage.ErrNotFound: what is wrong with the
// source or the password is in the Trial.
func (s *Service) TrySignIn(ctx context.Context, by Principal, providerID, login, password string) (t Trial, err error) {
	p, source, err := s.sourceToTry(ctx, by, providerID)
	if err != nil {
		return Trial{}, fmt.Errorf("try sign-in: %w", err)
	}
	passwords, ok := source.(PasswordSource)
	switch {
	case !ok:
		return Trial{}, fmt.Errorf("try sign-in: %w", &FieldError{"login", "is for providers that take a password here"})
	case login == "" || len(login) > maxLogin:
		return Trial{}, fmt.Errorf("try sign-in: %w", &FieldError{"login", "is required"})
	case password == "":
		return Trial{}, fmt.Errorf("try sign-in: %w", &FieldError{"password", "is required"})
	}
	attempt, err := s.countLogin(ctx, login, by.Peer)
	if err != nil {
		return Trial{}, fmt.Errorf("try sign-in: %w", err)
	}
	t.Provider = p
	person, err := t.ask(ctx, passwords, login, password)
	if err == nil {
		err = s.examine(ctx, &t, person)
	}
	if !errors.Is(err, ErrBadLogin) {
		back := s.db.Update(ctx, func(tx storage.Tx) error { return s.takeBackAttempt(tx, attempt) })
		s.logFailure(ctx, "tried sign-in not taken back", back)
	}
	s.log.InfoContext(ctx, "sign-in tried", "provider", p.Name, "ok", t.OK, "by", by.String())
	if errors.Is(err, ErrBadLogin) || errors.Is(err, ErrSource) {
		err = nil // the steps say so
	}
	return t, err
}

// sourceToTry returns a source that an administrator may try, also where it is off.
func (s *Service) sourceToTry(ctx context.Context, by Principal, providerID string) (Provider, any, error) {
	if !by.governs(ScopeAdmin) {
		return Provider{}, nil, fmt.Errorf("%w: only administrators try identity providers", ErrForbidden)
	}
	p, err := s.Provider(ctx, providerID)
	if err != nil {
		return Provider{}, nil, err
	}
	if p.ID == LocalProvider {
		return Provider{}, nil, fmt.Errorf("%w: the accounts of this server need no trial", ErrForbidden)
	}
	source, err := s.source(p)
	return p, source, err
}

// ask fills in the steps of a sign-in with a password.
func (t *Trial) ask(ctx context.Context, source PasswordSource, login, password string) (Person, error) {
	if d, ok := source.(Diagnostician); ok {
		asking, cancel := context.WithTimeout(ctx, sourceTimeout)
		t.Steps = d.Diagnose(asking, login, password)
		cancel()
		if i := slices.IndexFunc(t.Steps, func(step Step) bool { return !step.OK }); i >= 0 {
			// Not once more: a directory counts wrong passwords, too.
			err := ErrSource
			if t.Steps[i].Name == stepSignIn || t.Steps[i].Name == "search" {
				err = ErrBadLogin
			}
			return Person{}, err
		}
	}
	person, _, err := askSource(ctx, source, login, password)
	if !slices.ContainsFunc(t.Steps, func(step Step) bool { return step.Name == stepSignIn }) || err != nil {
		t.add(stepSignIn, err, "the provider knows the person")
	}
	return person, err
}

// BeginTrial is TrySignIn for a provider that people are sent to: whoever opens the address
// that is returned, within ten minutes, signs in there, and sees what came of it here.
func (s *Service) BeginTrial(ctx context.Context, by Principal, providerID, returnURL string) (to string, err error) {
	p, _, err := s.sourceToTry(ctx, by, providerID)
	if err == nil {
		to, err = s.begin(ctx, p, signIn{ReturnURL: returnURL, Trial: true, Peer: by.Peer})
	}
	if err != nil {
		return "", fmt.Errorf("begin trial: %w", err)
	}
	s.log.InfoContext(ctx, "trial of sign-in begun", "provider", p.Name, "by", by.String())
	return to, nil
}

// finishTrial is FinishSignIn for what BeginTrial has begun.
func (s *Service) finishTrial(ctx context.Context, p Provider, person Person, err error) (Finished, error) {
	t := Trial{Provider: p}
	t.add(stepSignIn, err, "the provider knows the person")
	if err == nil {
		err = s.examine(ctx, &t, person)
	}
	for _, told := range []error{ErrSource, ErrSignIn, ErrDenied} {
		if errors.Is(err, told) {
			err = nil // the steps say so
		}
	}
	if err != nil {
		return Finished{}, fmt.Errorf("finish trial: %w", err)
	}
	return Finished{Trial: &t}, nil
}

func (t *Trial) add(name string, err error, detail string) {
	if err != nil {
		detail = err.Error()
	}
	t.Steps = append(t.Steps, Step{Name: name, OK: err == nil, Detail: clip(detail, 500)})
}

// examine fills in what person would be here, and changes nothing.
func (s *Service) examine(ctx context.Context, t *Trial, person Person) error {
	t.Person = person.clipped()
	p := t.Provider
	p.Enabled = true // as it will be
	var found error
	err := s.db.View(ctx, func(tx storage.Tx) error {
		b, err := p.find(tx, person, s.now().UTC())
		if found = err; err != nil && !errors.Is(err, ErrUnusable) {
			return err
		}
		t.Mapped, t.User = p.Mapping.read(person), b.old
		t.MayEnroll, t.Denied = nil, map[Use]Denial{}
		if found != nil {
			return nil
		}
		for _, use := range everyUse {
			if use == UseAdmin {
				continue
			}
			if denied, ok := errors.AsType[*DeniedError](p.mayEnroll(b.user, person.Groups, []Use{use})); ok {
				t.Denied[use] = denied.Denial
			} else {
				t.MayEnroll = append(t.MayEnroll, use)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	switch {
	case found == nil && t.User.Disabled:
		found = ErrDisabled
	case found == nil && t.User.ID == "":
		t.add(stepUser, nil, "a new user would be made: "+t.Mapped.Username)
	case found == nil:
		t.add(stepUser, nil, "it is the user "+t.User.Login())
	}
	if found != nil {
		t.add(stepUser, found, "")
		return nil
	}
	t.OK = true
	if len(t.MayEnroll) == 0 {
		why := &DeniedError{DeniedProvider, p.Name}
		for _, denial := range t.Denied {
			if denial != DeniedProvider { // which says more: it is of a use that the provider is for
				why.Denial = denial
			}
		}
		t.add(stepEnrol, why, "")
		return nil
	}
	t.add(stepEnrol, nil, fmt.Sprintf("may enroll: %v", t.MayEnroll))
	return nil
}

// Limits of what a Trial shows.
const (
	shownAttributes = 100
	shownValues     = 50
	shownGroups     = 500
	shownText       = 200 // bytes
)

// clipped is p as far as it is shown: a source may say very much.
func (p Person) clipped() Person {
	shown := p
	shown.Subject, shown.Email = clip(p.Subject, shownText), clip(p.Email, shownText)
	shown.Attributes = map[string][]string{}
	for _, name := range slices.Sorted(maps.Keys(p.Attributes)) {
		if len(shown.Attributes) == shownAttributes {
			break
		}
		shown.Attributes[clip(name, shownText)] = clipAll(p.Attributes[name], shownValues)
	}
	shown.Groups = clipAll(p.Groups, shownGroups)
	return shown
}

func clipAll(texts []string, most int) []string {
	shown := make([]string, min(len(texts), most))
	for i := range shown {
		shown[i] = clip(texts[i], shownText)
	}
	return shown
}

// clip makes a text from elsewhere fit to be shown in a line.
func clip(text string, most int) string {
	out := make([]rune, 0, min(len(text), most))
	size := 0
	for _, r := range text {
		if r < 0x20 || r == 0x7f {
			r = ' '
		}
		if size += utf8.RuneLen(r); size > most {
			return string(out) + "…"
		}
		out = append(out, r)
	}
	return string(out)
}
