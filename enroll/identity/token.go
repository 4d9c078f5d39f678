package identity

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/gatehouse-mdm/gatehouse/storage"
)

// Token is an API token, without its secret.
type Token struct {
	ID        string    `json:"id"`
	Name      string    `json:"name"`
	User      string    `json:"user,omitempty"`    // whom it acts for; needed by cert:self
	UserID    string    `json:"user_id,omitempty"` // their ID, if there was such a user when the token was made
	Scopes    []Scope   `json:"scopes"`
	Hash      string    `json:"hash"` // hex SHA-256 of the secret
	CreatedAt time.Time `json:"created_at"`
	CreatedBy string    `json:"created_by"`
	GroupIDs  []string  `json:"group_ids,omitempty"` // of devices, that the scopes are limited to; none: they are not
	ExpiresAt time.Time `json:"expires_at,omitzero"` // from when on it opens nothing; zero: never
	LastUsed  time.Time `json:"-"`                   // from a record of its own, about a second late; zero: never
}

// Expired reports whether t opens nothing any more at now.
func (t Token) Expired(now time.Time) bool { return !t.ExpiresAt.IsZero() && !now.Before(t.ExpiresAt) }

// tokenUse is when a token was last used. It changes often, so it has a small
// record of its own.
type tokenUse struct {
	ID string    `json:"id"`
	At time.Time `json:"at"`
}

const (
	tokensByHash  = "hash"
	tokensByGroup = "group"
	tokensByEnd   = "end"
)

var (
	tokens = storage.NewCollection("identity.tokens", 1, func(t Token) string { return t.ID },
		storage.Index[Token]{Name: tokensByHash, Unique: true, Values: func(t Token) []string { return []string{t.Hash} }},
		storage.Index[Token]{Name: tokensByGroup, Values: func(t Token) []string { return t.GroupIDs }},
		storage.Index[Token]{Name: tokensByEnd, Values: func(t Token) []string {
			if t.ExpiresAt.IsZero() {
				return nil
			}
			return []string{endKey(t.ExpiresAt)}
		}})
	tokenUses = storage.NewCollection("identity.token_uses", 1, func(u tokenUse) string { return u.ID })
)

// endKey is the end of a token as tokensByEnd has it.
func endKey(at time.Time) string { return at.UTC().Format(time.RFC3339) }

// Secret is a text that must not be seen: it prints as [secret].
type Secret string

// String implements [fmt.Stringer].
func (Secret) String() string { return "[secret]" }

// GoString implements [fmt.GoStringer].
func (Secret) GoString() string { return "[secret]" }

// LogValue implements [slog.LogValuer].
func (Secret) LogValue() slog.Value { return slog.StringValue("[secret]") }

// Reveal returns the text itself, to show it to whom it belongs.
func (s Secret) Reveal() string { return string(s) }

// NewToken says what a token shall be.
type NewToken struct {
	Name   string
	Scopes []Scope
	User   string

	GroupIDs []string // of devices, that the scopes are limited to; none: they are not

	ExpiresAt time.Time // from when on it opens nothing; zero: never
}

// maxTokenLife is how far ahead a token may expire: what is meant to last for longer has no
// end.
const maxTokenLife = 10 * 365 * 24 * time.Hour

// tokenPrefix lets scanners for leaked secrets find ours.
const tokenPrefix = "gtk_"

var tokenEncoding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// CreateToken makes an API token. The secret is returned here and never again. by
// must be an administrator, and can't give more rights than it has.
func (s *Service) CreateToken(ctx context.Context, by Principal, n NewToken) (Token, Secret, error) {
	if err := n.check(s.now()); err != nil {
		return Token{}, "", fmt.Errorf("create token: %w", err)
	}
	for _, scope := range n.Scopes {
		if !by.governs(ScopeAdmin) || slices.Contains(ladder[:], scope) && !by.Allows(scope) {
			return Token{}, "", fmt.Errorf("create token: %w: %s can't give the scope %s", ErrForbidden, by, scope)
		}
	}
	random := make([]byte, 25) // 200 bits: 40 characters without a remainder
	_, _ = rand.Read(random)   // never fails: it ends the program instead
	secret := tokenPrefix + tokenEncoding.EncodeToString(random)
	t := s.newToken(by, n, secret)
	err := s.db.Update(ctx, func(tx storage.Tx) error {
		u, err := UserByLogin(tx, n.User)
		if err != nil && !errors.Is(err, storage.ErrNotFound) {
			return err
		}
		t.UserID = u.ID
		return s.putNewToken(tx, by, t)
	})
	if err != nil {
		return Token{}, "", fmt.Errorf("create token: %w", err)
	}
	s.log.InfoContext(ctx, "token created", "token", t.ID, "name", t.Name, "by", by.String())
	return t, Secret(secret), nil
}

func (s *Service) newToken(by Principal, n NewToken, secret string) Token {
	return Token{
		ID:        newID(),
		Name:      n.Name,
		User:      n.User,
		Scopes:    n.Scopes,
		Hash:      hashSecret(secret),
		CreatedAt: s.now().UTC(),
		CreatedBy: by.String(),
		GroupIDs:  normalGroups(n.GroupIDs),
		ExpiresAt: n.ExpiresAt.UTC().Truncate(time.Second),
	}
}

// putNewToken stores t, and its use from the beginning: whoever revokes it and whoever
// notes a use then meet in that record, and none is left of a token that is gone.
func (s *Service) putNewToken(tx storage.Tx, by Principal, t Token) error {
	if err := tokens.Create(tx, t); err != nil {
		return err
	}
	if err := tokenUses.Put(tx, tokenUse{ID: t.ID}); err != nil {
		return err
	}
	return s.record(tx, by.fact("token.created", t.User, t.details()).changing(nil, t.audited()))
}

// details are what the audit log says of t.
func (t Token) details() map[string]string {
	scopes := make([]string, len(t.Scopes))
	for i, scope := range t.Scopes {
		scopes[i] = string(scope)
	}
	details := map[string]string{"token": t.ID, "name": t.Name, "scopes": strings.Join(scopes, " ")}
	if len(t.GroupIDs) > 0 {
		details["groups"] = strings.Join(t.GroupIDs, " ")
	}
	return details
}

// audited is t as the audit log tells of it: as the API spells it, and never by what it opens
// doors with.
func (t Token) audited() map[string]any {
	fields := map[string]any{"name": t.Name, "user": t.User, "scopes": t.Scopes, "group_ids": t.GroupIDs}
	if !t.ExpiresAt.IsZero() {
		fields["expires_at"] = t.ExpiresAt
	}
	return fields
}

func (n NewToken) check(now time.Time) error {
	if err := checkText("name", n.Name, 1, 100); err != nil {
		return err
	}
	if err := checkText("user", n.User, 0, 255); err != nil {
		return err
	}
	if len(n.Scopes) == 0 {
		return &FieldError{"scopes", "are required"}
	}
	seen := map[Scope]bool{}
	for _, scope := range n.Scopes {
		if !scope.Valid() {
			return &FieldError{"scopes", fmt.Sprintf("hold %q, which is none", scope)}
		}
		if seen[scope] {
			return &FieldError{"scopes", fmt.Sprintf("hold %q twice", scope)}
		}
		seen[scope] = true
	}
	if seen[ScopeCertSelf] && n.User == "" {
		return &FieldError{"user", "is required for the scope cert:self"}
	}
	if len(n.GroupIDs) > 0 && slices.ContainsFunc(n.Scopes, func(s Scope) bool { return !slices.Contains(ladder[:], s) }) {
		return &FieldError{"group_ids", "limit a role; the cert scopes can’t be limited"}
	}
	if !n.ExpiresAt.IsZero() {
		switch left := n.ExpiresAt.Truncate(time.Second).Sub(now); {
		case left <= 0:
			return &FieldError{"expires_at", "must be in the future"}
		case left > maxTokenLife:
			return &FieldError{"expires_at", "must be within ten years; without it, the token does not expire"}
		}
	}
	return checkGroups(n.GroupIDs, seen[ScopeOwner])
}

// Authenticate returns who presents secret, or ErrUnauthenticated, also where it acts
// for a user who is disabled, or whose provider is switched off or deleted. What has expired
// is ErrTokenExpired, which is ErrUnauthenticated, too.
func (s *Service) Authenticate(ctx context.Context, secret string) (Principal, error) {
	if secret == "" || len(secret) > 200 {
		return Principal{}, ErrUnauthenticated
	}
	var t Token
	var user string
	err := s.db.View(ctx, func(tx storage.Tx) (err error) {
		if t, err = tokens.One(tx, tokensByHash, hashSecret(secret)); err != nil {
			return err
		}
		if t.Expired(s.now()) {
			return ErrTokenExpired
		}
		user, err = t.actsFor(tx)
		return err
	})
	if errors.Is(err, storage.ErrNotFound) {
		return Principal{}, ErrUnauthenticated
	}
	if err != nil {
		return Principal{}, fmt.Errorf("authenticate: %w", err)
	}
	s.noteUsed(t.ID)
	return Principal{Kind: KindToken, ID: t.ID, Name: t.Name, User: user, Scopes: t.Scopes, Groups: limitedTo(t.GroupIDs)}, nil
}

// actsFor returns the login of the user that t acts for. A token is the user's for whom it
// was made, whatever they are called now, and not that of another who has the name today.
// Without such a user it is just a name, until there is one.
func (t Token) actsFor(tx storage.Tx) (login string, err error) {
	var u User
	if t.UserID != "" {
		u, err = users.Get(tx, t.UserID)
	} else if u, err = UserByLogin(tx, t.User); errors.Is(err, storage.ErrNotFound) {
		return t.User, nil
	}
	if err != nil {
		return "", err
	}
	p, err := providerOf(tx, u)
	if err == nil && (u.Disabled || !p.Enabled) {
		err = ErrUnauthenticated
	}
	if err != nil {
		return "", err
	}
	return u.Login(), nil
}

// Tokens lists tokens by their ID.
func (s *Service) Tokens(ctx context.Context, cursor string, limit int) (list []Token, next string, err error) {
	err = s.db.View(ctx, func(tx storage.Tx) (err error) {
		if list, next, err = storage.Page(tx, tokens, cursor, limit); err != nil {
			return err
		}
		for _, t := range list {
			tx.Prefetch(tokenUses.Read(t.ID))
		}
		for i := range list {
			if err := list[i].readUse(tx); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, "", fmt.Errorf("list tokens: %w", err)
	}
	return list, next, nil
}

// Token returns a token by its ID, or an error that wraps storage.ErrNotFound.
func (s *Service) Token(ctx context.Context, id string) (t Token, err error) {
	err = s.db.View(ctx, func(tx storage.Tx) (err error) {
		tx.Prefetch(tokenUses.Read(id))
		if t, err = tokens.Get(tx, id); err != nil {
			return err
		}
		return t.readUse(tx)
	})
	if err != nil {
		return Token{}, fmt.Errorf("get token: %w", err)
	}
	return t, nil
}

// TokensExpiring counts the tokens that expire from now on and before a time.
func (s *Service) TokensExpiring(ctx context.Context, before time.Time) (n int, err error) {
	err = s.db.View(ctx, func(tx storage.Tx) error {
		n = 0
		for _, err := range tokens.Ascend(tx, tokensByEnd, endKey(s.now()), endKey(before), 0) {
			if err != nil {
				return err
			}
			n++
		}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("count tokens that expire: %w", err)
	}
	return n, nil
}

// readUse reads when t was last used.
func (t *Token) readUse(tx storage.Tx) error {
	use, err := tokenUses.Get(tx, t.ID)
	if err != nil && !errors.Is(err, storage.ErrNotFound) {
		return err
	}
	t.LastUsed = use.At
	return nil
}

// RevokeToken removes a token: it opens nothing from now on. An unknown one is
// storage.ErrNotFound.
func (s *Service) RevokeToken(ctx context.Context, by Principal, id string) error {
	err := s.db.Update(ctx, func(tx storage.Tx) error {
		t, err := tokens.Get(tx, id)
		if err != nil {
			return err
		}
		if err := tokenUses.Delete(tx, id); err != nil {
			return err
		}
		if err := tokens.Delete(tx, id); err != nil {
			return err
		}
		return s.record(tx, by.fact("token.revoked", t.User, t.details()).changing(t.audited(), nil))
	})
	if err != nil {
		return fmt.Errorf("revoke token: %w", err)
	}
	s.log.InfoContext(ctx, "token revoked", "token", id, "by", by.String())
	return nil
}

// Bootstrap makes secret an owner's token if there is no token at all yet, and
// says whether it did. secret was generated elsewhere, so its form is free.
func (s *Service) Bootstrap(ctx context.Context, secret string) (created bool, err error) {
	t := s.newToken(Local(), NewToken{Name: "bootstrap", Scopes: []Scope{ScopeOwner}}, secret)
	err = s.db.Update(ctx, func(tx storage.Tx) error {
		created = false
		for _, err := range tokens.All(tx, storage.Range{Limit: 1}) {
			return err // there is one, or it can't be read
		}
		state, err := getSetup(tx)
		if err != nil {
			return err
		}
		if err := setups.Put(tx, state); err != nil { // where two servers that start at once meet
			return err
		}
		created = true
		return s.putNewToken(tx, Local(), t)
	})
	if err != nil {
		return false, fmt.Errorf("bootstrap token: %w", err)
	}
	return created, nil
}

// useResolution is how exactly the last use of a token is kept, so that a busy
// one doesn't write every second.
const useResolution = time.Minute

func (s *Service) noteUsed(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used[id] = s.now().UTC()
}

// flushUsed writes down what noteUsed collected.
func (s *Service) flushUsed(ctx context.Context) error {
	s.mu.Lock()
	used := s.used
	s.used = map[string]time.Time{}
	s.mu.Unlock()
	if len(used) == 0 {
		return nil
	}
	err := s.writeUsed(ctx, used)
	if err != nil {
		// Keep what could not be written, unless something newer has come since.
		s.mu.Lock()
		defer s.mu.Unlock()
		maps.Copy(used, s.used)
		s.used = used
	}
	return err
}

func (s *Service) writeUsed(ctx context.Context, used map[string]time.Time) error {
	due := map[string]time.Time{}
	err := s.db.View(ctx, func(tx storage.Tx) error {
		clear(due)
		for id, at := range used {
			last, err := tokenUses.Get(tx, id)
			if errors.Is(err, storage.ErrNotFound) {
				continue // revoked meanwhile
			}
			if err != nil {
				return err
			}
			if at.Sub(last.At) >= useResolution {
				due[id] = at
			}
		}
		return nil
	})
	if err != nil || len(due) == 0 {
		return err
	}
	return s.db.Update(ctx, func(tx storage.Tx) error {
		for id, at := range due {
			use, err := tokenUses.Get(tx, id)
			if errors.Is(err, storage.ErrNotFound) || err == nil && !at.After(use.At) {
				continue // revoked meanwhile, or used at another replica since
			}
			if err != nil {
				return err
			}
			if err := tokenUses.Put(tx, tokenUse{id, at}); err != nil {
				return err
			}
		}
		return nil
	})
}

// hashSecret is how random secrets are stored. They have too many bits to be
// guessed, so a fast hash will do, and looking it up leaks nothing of use.
func hashSecret(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:])
}

// newID returns an ID for a record: 128 random bits.
func newID() string {
	id := make([]byte, 16)
	_, _ = rand.Read(id)
	return hex.EncodeToString(id)
}

// checkText checks a text that a person gave: its length in characters, and that
// it can be shown in a line.
func checkText(what, text string, least, most int) error {
	switch n := utf8.RuneCountInString(text); {
	case !utf8.ValidString(text):
		return &FieldError{what, "must be UTF-8"}
	case n < least && least == 1:
		return &FieldError{what, "is required"}
	case n < least:
		return &FieldError{what, fmt.Sprintf("must have at least %d characters", least)}
	case n > most:
		return &FieldError{what, fmt.Sprintf("must have at most %d characters", most)}
	case strings.ContainsFunc(text, func(r rune) bool { return r < 0x20 || r == 0x7f }):
		return &FieldError{what, "must have no control characters"}
	}
	return nil
}
