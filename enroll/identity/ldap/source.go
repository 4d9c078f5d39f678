package ldap

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/go-ldap/ldap/v3"

	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
)

const (
	// signInLimit is how long a whole sign-in may take, with all servers that are tried.
	// Whoever waits for it gives up a little later.
	signInLimit = 9 * time.Second

	// avoided is how long a server that failed comes after the others.
	avoided = time.Minute

	// concurrent bounds the sign-ins that keep a directory busy at a time: twice as many
	// connections.
	concurrent = 16

	// maxLogin is in bytes, as that of package identity.
	maxLogin = 255

	// maxPassword is in bytes.
	maxPassword = 1024
)

// Source is one directory.
type Source struct {
	settings

	log  *slog.Logger
	now  func() time.Time
	busy chan struct{} // one element for every sign-in

	mu     sync.Mutex
	failed map[string]time.Time // when a server failed last, by URL: each process finds out by itself
}

var (
	_ identity.PasswordSource = (*Source)(nil)
	_ identity.Directory      = (*Source)(nil)
	_ identity.Diagnostician  = (*Source)(nil)
)

// SignIn implements [identity.PasswordSource]. It searches for the login with the account
// of the settings, and then binds as who was found (RFC 4513, 5.1.3), on a connection of
// its own. The text of an ErrBadLogin says for the log why somebody was refused; an account
// that is off, locked or in need of another password is an ErrDisabled, ErrLocked or
// ErrPasswordExpired, where the directory says so.
//
// Beside attributes of the entry, the Person has two that no directory has: user_name is
// uid, else sAMAccountName, else userPrincipalName, else mail; full_name is displayName,
// else givenName and sn, else cn.
func (s *Source) SignIn(ctx context.Context, login, password string) (identity.Person, bool, error) {
	return s.signIn(ctx, login, password, nil)
}

// Diagnose signs somebody in and says what happens on the way. Without a password it goes
// as far as it can.
func (s *Source) Diagnose(ctx context.Context, login, password string) []identity.Step {
	t := &trace{passwordless: password == ""}
	if _, _, err := s.signIn(ctx, login, password, t); err != nil {
		t.failed(err)
	}
	return t.steps
}

func (s *Source) signIn(ctx context.Context, login, password string, t *trace) (p identity.Person, known bool, err error) {
	if reason := refusedUnasked(login, password, t.mayLackPassword()); reason != "" {
		return identity.Person{}, false, &refusal{step: stepSignIn, reason: reason}
	}
	ctx, cancel := context.WithTimeoutCause(ctx, signInLimit, fmt.Errorf("no answer within %v", signInLimit))
	defer cancel()
	select {
	case s.busy <- struct{}{}:
		defer func() { <-s.busy }()
	case <-ctx.Done():
		return identity.Person{}, false, fmt.Errorf("%w: %d sign-ins are waiting for the directory already", identity.ErrSource, concurrent)
	}
	err = s.each(ctx, t, func(ctx context.Context, at server) (err error) {
		p, err = s.signInAt(ctx, at, login, password, t)
		return err
	})
	if err != nil {
		var refused *refusal
		return identity.Person{}, errors.As(err, &refused) && refused.known, err
	}
	return p, true, nil
}

// refusedUnasked says why no directory needs to be asked, empty if one does. An empty
// password above all: many a directory lets anybody in without one (RFC 4513, 5.1.2).
func refusedUnasked(login, password string, passwordless bool) string {
	switch {
	case password == "" && !passwordless:
		return "there is no password"
	case len(password) > maxPassword || strings.ContainsRune(password, 0):
		return "nobody can have this password"
	case login == "" || len(login) > maxLogin || !utf8.ValidString(login) || strings.ContainsFunc(login, isControl):
		return "nobody can have this login"
	}
	return ""
}

// each calls fn with one server after the other until one doesn't fail. Those that failed
// of late come last. Each gets its share of the time that is left, so that the last one
// has some, too.
func (s *Source) each(ctx context.Context, t *trace, fn func(context.Context, server) error) error {
	var failures []error
	servers := s.inOrder()
	for i, at := range servers {
		err := func() error {
			ctx, cancel := share(ctx, len(servers)-i)
			defer cancel()
			return fn(ctx, at)
		}()
		var f *failure
		if !errors.As(err, &f) {
			s.note(at, false)
			s.report(ctx, failures)
			return err
		}
		if ctx.Err() == nil || errors.Is(ctx.Err(), context.DeadlineExceeded) {
			s.note(at, f.elsewhere) // it wasn't that nobody waits any longer
		}
		failures = append(failures, err)
		t.failed(err)
		if !f.elsewhere || ctx.Err() != nil {
			break
		}
		if i < len(servers)-1 {
			t.goOn()
		}
	}
	return all(failures)
}

// share gives a context one of n equal parts of the time it has.
func share(ctx context.Context, n int) (context.Context, context.CancelFunc) {
	until, ok := ctx.Deadline()
	if !ok || n == 1 {
		return context.WithCancel(ctx)
	}
	part := time.Until(until) / time.Duration(n)
	return context.WithTimeoutCause(ctx, part, fmt.Errorf("no answer within %v", part.Round(time.Millisecond)))
}

// all is one error of several: its text is one line.
func all(failures []error) error {
	err := failures[0]
	for _, next := range failures[1:] {
		err = fmt.Errorf("%w; %w", err, next)
	}
	return err
}

// report logs servers that failed while another one answered: nobody else notices.
func (s *Source) report(ctx context.Context, failures []error) {
	for _, err := range failures {
		s.log.WarnContext(ctx, "directory server failed, another one answered", "err", err)
	}
}

// inOrder returns the servers as they are asked.
func (s *Source) inOrder() []server {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	last := func(at server) bool { return now.Sub(s.failed[at.url]) < avoided }
	servers := slices.Clone(s.servers)
	slices.SortStableFunc(servers, func(a, b server) int {
		switch {
		case last(a) == last(b):
			return 0
		case last(a):
			return 1
		}
		return -1
	})
	return servers
}

func (s *Source) note(at server, failed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if failed {
		s.failed[at.url] = s.now()
	} else {
		delete(s.failed, at.url)
	}
}

// open connects to a server as who searches.
func (s *Source) open(ctx context.Context, at server, t *trace) (*conn, error) {
	c, err := s.dial(ctx, at, t)
	if err != nil {
		return nil, err
	}
	if s.BindDN == "" {
		t.ok(stepBind, "not done: bind_dn is empty, so the search is anonymous")
		return c, nil
	}
	controls, err := c.bind(ctx, s.BindDN, s.BindPassword)
	if err == nil {
		t.ok(stepBind, "as %s", clean(s.BindDN))
		return c, nil
	}
	defer c.close()
	var answer *ldap.Error
	if errors.As(err, &answer) && answer.ResultCode == ldap.LDAPResultInvalidCredentials {
		reason := "bind_dn or bind_password is wrong"
		if v, ok := verdictOf(answer, controls); ok {
			reason += ", or " + v.reason
		}
		return nil, &failure{at, stepBind, fmt.Errorf("%s: %w", reason, explain(err)), false}
	}
	return nil, failed(c, stepBind, err)
}

func (s *Source) signInAt(ctx context.Context, at server, login, password string, t *trace) (identity.Person, error) {
	c, err := s.open(ctx, at, t)
	if err != nil {
		return identity.Person{}, err
	}
	defer c.close()
	e, err := s.search(ctx, c, login, t)
	if err != nil {
		var refused *refusal
		if errors.As(err, &refused) && !refused.known && password != "" {
			// Whoever measures how long a refusal takes must not learn who exists. Nobody has
			// this name, and the password is not that of the person.
			var f *failure
			nobody := "cn=" + rand.Text() + "," + s.BaseDN
			if err := s.bindAs(ctx, at, nobody, rand.Text()); errors.As(err, &f) && f.elsewhere {
				return identity.Person{}, err
			}
		}
		return identity.Person{}, err
	}
	err = s.checkPassword(ctx, at, e, password, t)
	if err != nil && (t == nil || errors.Is(err, identity.ErrSource)) {
		return identity.Person{}, err
	}
	t.failed(err) // who tests a sign-in wants to see the groups all the same
	groups, errGroups := s.groups(ctx, c, e)
	if errGroups != nil {
		return identity.Person{}, errGroups
	}
	t.ok(stepGroups, "%s", clean(cmp.Or(strings.Join(groups, "; "), "none")))
	p := e.person
	p.Groups = groups
	return p, err
}

// checkPassword refuses who has another password, or an account that is off.
func (s *Source) checkPassword(ctx context.Context, at server, e entry, password string, t *trace) error {
	switch {
	case password != "":
		if err := s.bindAs(ctx, at, e.dn, password); err != nil {
			return err
		}
	case t == nil:
		return &refusal{step: stepSignIn, reason: "there is no password", known: true}
	}
	if e.off != "" {
		return &refusal{stepSignIn, "the account is switched off in the directory: " + e.off, true, identity.ErrDisabled}
	}
	if password == "" {
		t.ok(stepSignIn, "not tried: no password was given")
	} else {
		t.ok(stepSignIn, "the password is right")
	}
	return nil
}

// bindAs returns whether an entry has a password: on a connection of its own, as the one
// that searches would be somebody else's after it.
func (s *Source) bindAs(ctx context.Context, at server, dn, password string) error {
	c, err := s.dial(ctx, at, nil)
	if err != nil {
		return err
	}
	defer c.close()
	controls, err := c.bind(ctx, dn, password)
	if err != nil {
		return refusedBind(c, err, controls)
	}
	if v, ok := verdictOf(nil, controls); ok { // let in, but only to change the password
		return &refusal{stepSignIn, v.reason, true, v.kind}
	}
	return nil
}
