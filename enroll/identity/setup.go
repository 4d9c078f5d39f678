package identity

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/gatehouse-mdm/gatehouse/storage"
)

// SetupTokenLife is how long a setup token is good for.
const SetupTokenLife = 30 * time.Minute

// setup is the one record of how far a server was set up. All racing writers
// meet in it.
type setup struct {
	Hash      string    `json:"hash,omitempty"` // of the open token; empty: none is open
	ExpiresAt time.Time `json:"expires_at"`     // of the open token
	DoneAt    time.Time `json:"done_at"`        // when somebody first came in; zero: not set up
}

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

// NewSetupToken makes a setup token, which replaces one made before. It is good
// for one use within SetupTokenLife, by whoever has it, so it goes only where the
// operator of the machine can read it.
func (s *Service) NewSetupToken(ctx context.Context) (token Secret, expires time.Time, err error) {
	random := make([]byte, 16)
	_, _ = rand.Read(random)
	var text strings.Builder
	for i, b := range random { // 5 of 8 bits: 80 in all
		if i > 0 && i%4 == 0 {
			text.WriteByte('-')
		}
		text.WriteByte(setupAlphabet[b%32])
	}
	hash := hashSecret(normalSetupToken(text.String()))
	expires = s.now().UTC().Add(SetupTokenLife)
	err = s.db.Update(ctx, func(tx storage.Tx) error {
		state, err := getSetup(tx)
		if err != nil {
			return err
		}
		state.Hash, state.ExpiresAt = hash, expires
		return setups.Put(tx, state)
	})
	if err != nil {
		return "", time.Time{}, fmt.Errorf("make setup token: %w", err)
	}
	return Secret(text.String()), expires, nil
}

// RedeemSetupToken spends a setup token. Of two who try, one gets in.
func (s *Service) RedeemSetupToken(ctx context.Context, token string) (Principal, error) {
	hash := hashSecret(normalSetupToken(token))
	err := s.db.Update(ctx, func(tx storage.Tx) error {
		state, err := getSetup(tx)
		if err != nil {
			return err
		}
		if !state.open(s.now()) || subtle.ConstantTimeCompare([]byte(state.Hash), []byte(hash)) != 1 {
			return ErrSetupToken
		}
		state.Hash, state.ExpiresAt = "", time.Time{}
		if state.DoneAt.IsZero() {
			state.DoneAt = s.now().UTC()
		}
		return setups.Put(tx, state)
	})
	if err != nil {
		return Principal{}, fmt.Errorf("redeem setup token: %w", err)
	}
	s.log.InfoContext(ctx, "setup link used")
	return SetupPrincipal(), nil
}

// open reports whether a token is waiting to be redeemed.
func (s setup) open(now time.Time) bool {
	// A clock that was put back must not lengthen the token's life for ever.
	return s.Hash != "" && now.Before(s.ExpiresAt) && s.ExpiresAt.Sub(now) <= SetupTokenLife+time.Minute
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
	return SetupState{Done: !state.DoneAt.IsZero(), Open: state.open(s.now())}, nil
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
