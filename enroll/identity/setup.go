package identity

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/gatehouse-mdm/gatehouse/storage"
)

// SetupTokenLife is how long a setup token is good for.
const SetupTokenLife = 30 * time.Minute

// setup is the one record of how far the servers on a database were set up. All who
// make the first of something meet in it: the first owner, the first token.
type setup struct {
	Open   map[string]openToken `json:"open,omitempty"` // by the replica that made it
	DoneAt time.Time            `json:"done_at"`        // when somebody first came in; zero: not set up
}

// openToken is a setup token that waits to be redeemed.
type openToken struct {
	Hash      string    `json:"hash"`
	ExpiresAt time.Time `json:"expires_at"`
}

// maxOpen bounds how many replicas have an open token at once: beyond, the oldest makes
// room. Servers in containers may have another name at each start.
const maxOpen = 16

const setupKey = "setup"

var setups = storage.NewCollection("identity.setup", 1, func(setup) string { return setupKey })

func getSetup(tx storage.Tx) (setup, error) {
	s, err := setups.Get(tx, setupKey)
	if errors.Is(err, storage.ErrNotFound) {
		return setup{}, nil
	}
	return s, err
}

// setupAlphabet is Crockford's base 32: no I, L, O or U, so that a token can be
// read from a screen and typed.
const setupAlphabet = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"

// NewSetupToken makes a setup token, which replaces one that this replica made before:
// each prints its own at the first start, and each should work. It is good for one use
// within SetupTokenLife, by whoever has it, so it goes only where the operator of the
// machine can read it.
func (s *Service) NewSetupToken(ctx context.Context) (token Secret, expires time.Time, err error) {
	token = Secret(newTypedSecret())
	hash := hashSecret(normalSetupToken(token.Reveal()))
	expires = s.now().UTC().Add(SetupTokenLife)
	err = s.db.Update(ctx, func(tx storage.Tx) error {
		state, err := getSetup(tx)
		if err != nil {
			return err
		}
		state.forget(s.now())
		delete(state.Open, s.replica)
		for len(state.Open) >= maxOpen {
			oldest := slices.MinFunc(slices.Collect(maps.Keys(state.Open)), func(a, b string) int {
				return state.Open[a].ExpiresAt.Compare(state.Open[b].ExpiresAt)
			})
			delete(state.Open, oldest)
		}
		if state.Open == nil {
			state.Open = map[string]openToken{}
		}
		state.Open[s.replica] = openToken{hash, expires}
		return setups.Put(tx, state)
	})
	if err != nil {
		return "", time.Time{}, fmt.Errorf("make setup token: %w", err)
	}
	return token, expires, nil
}

// newTypedSecret returns a random text that a person can type: 80 bits, as
// "7Q4M-W2KD-9XHP-3VNA".
func newTypedSecret() string {
	random := make([]byte, 16)
	_, _ = rand.Read(random)
	var text strings.Builder
	for i, b := range random { // 5 of 8 bits
		if i > 0 && i%4 == 0 {
			text.WriteByte('-')
		}
		text.WriteByte(setupAlphabet[b%32])
	}
	return text.String()
}

// RedeemSetupToken spends a setup token, and the others with it. Of two who try, one
// gets in.
func (s *Service) RedeemSetupToken(ctx context.Context, token string) (Principal, error) {
	hash := hashSecret(normalSetupToken(token))
	err := s.db.Update(ctx, func(tx storage.Tx) error {
		state, err := getSetup(tx)
		if err != nil {
			return err
		}
		state.forget(s.now())
		found := 0
		for _, open := range state.Open {
			found |= subtle.ConstantTimeCompare([]byte(open.Hash), []byte(hash))
		}
		if found != 1 {
			return ErrSetupToken
		}
		state.Open = nil
		if state.DoneAt.IsZero() {
			state.DoneAt = s.now().UTC()
		}
		if err := setups.Put(tx, state); err != nil {
			return err
		}
		return s.record(tx, SetupPrincipal().fact("setup_link.used", "", nil))
	})
	if err != nil {
		return Principal{}, fmt.Errorf("redeem setup token: %w", err)
	}
	s.log.InfoContext(ctx, "setup link used")
	return SetupPrincipal(), nil
}

// forget removes the tokens that are too old.
func (s *setup) forget(now time.Time) {
	maps.DeleteFunc(s.Open, func(_ string, t openToken) bool {
		// A clock that was put back must not lengthen a token's life for ever.
		return !now.Before(t.ExpiresAt) || t.ExpiresAt.Sub(now) > SetupTokenLife+time.Minute
	})
}

// SetupState says how far the server was set up.
type SetupState struct {
	Done bool // somebody came in once: by setup link, or as the owner made at the start
	Open bool // a setup link is waiting to be used
}

// SetupState returns how far the server was set up.
func (s *Service) SetupState(ctx context.Context) (SetupState, error) {
	var state setup
	err := s.db.View(ctx, func(tx storage.Tx) (err error) {
		state, err = getSetup(tx)
		return err
	})
	if err != nil {
		return SetupState{}, fmt.Errorf("read setup state: %w", err)
	}
	state.forget(s.now())
	return SetupState{Done: !state.DoneAt.IsZero(), Open: len(state.Open) > 0}, nil
}

// normalSetupToken forgives what a person may change while typing.
func normalSetupToken(token string) string {
	if len(token) > 100 {
		return ""
	}
	return strings.Map(func(r rune) rune {
		switch {
		case 'a' <= r && r <= 'z':
			r -= 'a' - 'A'
		}
		switch r {
		case '-', ' ', '\t', '\r', '\n':
			return -1
		case 'O':
			return '0'
		case 'I', 'L':
			return '1'
		}
		return r
	}, token)
}
