package identity

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/gatehouse-mdm/gatehouse/storage"
)

// Errors of second factors.
var (
	// ErrBadCode means that a code is wrong, was used, or is too old.
	ErrBadCode = errors.New("wrong code")

	// ErrSecondFactor means that a user has a second factor already, or has none.
	ErrSecondFactor = errors.New("the second factor is not in a state for this")

	// ErrStale means that a sign-in waited for a code while what ends sessions ended it, too:
	// the password that was given for it may be a thief's.
	ErrStale = errors.New("the password was given before all sign-ins were ended")
)

// secondFactor is how a user proves to be there with more than a password. Whether it is
// asked for is up to User.SecondFactorAt.
type secondFactor struct {
	UserID   string    `json:"user_id"`
	Sealed   []byte    `json:"sealed"`             // the key; not in force before it is confirmed
	BegunAt  time.Time `json:"begun_at"`           // when the key was made
	Step     int64     `json:"step,omitempty"`     // of the last code that was taken
	Recovery []string  `json:"recovery,omitempty"` // hashes of codes that are good for one use each
}

var secondFactors = storage.NewCollection("identity.second_factors", 1, func(f secondFactor) string { return f.UserID })

const (
	recoveryCodes = 10

	// factorSetup is how long a key waits for its first code.
	factorSetup = time.Hour
)

func factorPurpose(userID string) string { return "second factor " + userID }

// FactorSetup is a second factor that waits to be confirmed.
type FactorSetup struct {
	Key Secret // to be typed into an authenticator app
	URI Secret // the same, for a QR code
}

// BeginSecondFactor makes a key for an authenticator app, which is in force when a code of it
// is confirmed within the hour. issuer is what the app calls the server. Who has a second
// factor already removes it first: that is ErrSecondFactor.
func (s *Service) BeginSecondFactor(ctx context.Context, userID, issuer string) (FactorSetup, error) {
	key := make([]byte, totpKey)
	_, _ = rand.Read(key)
	sealed, err := s.seal(factorPurpose(userID), key)
	if err != nil {
		return FactorSetup{}, fmt.Errorf("begin second factor: %w", err)
	}
	var u User
	err = s.db.Update(ctx, func(tx storage.Tx) error {
		if u, err = users.Get(tx, userID); err != nil {
			return err
		}
		if !u.SecondFactorAt.IsZero() {
			return ErrSecondFactor
		}
		return secondFactors.Put(tx, secondFactor{UserID: userID, Sealed: sealed, BegunAt: s.now().UTC()})
	})
	if err != nil {
		return FactorSetup{}, fmt.Errorf("begin second factor: %w", err)
	}
	return FactorSetup{Key: Secret(totpEncoding.EncodeToString(key)), URI: Secret(totpURI(issuer, u.Login(), key))}, nil
}

// ConfirmSecondFactor puts the key that was begun in force, and logs the user out everywhere:
// whoever got in by the password alone must not have what the second factor guards. Whoever
// confirms it may begin a session anew. It returns codes to get in by where the app is lost,
// each once: they are shown here and never again. Errors wrap ErrBadCode, ErrThrottled or
// ErrSecondFactor: nothing was begun, or too long ago.
func (s *Service) ConfirmSecondFactor(ctx context.Context, userID, code, peer string) (u User, recovery []Secret, err error) {
	recovery, hashes := newRecoveryCodes()
	u, err = s.withCode(ctx, userID, peer, func(tx storage.Tx, u *User, f *secondFactor) error {
		now := s.now().UTC()
		if !u.SecondFactorAt.IsZero() || f.Sealed == nil || now.Sub(f.BegunAt) > factorSetup {
			return ErrSecondFactor
		}
		if err := s.takeTOTP(f, code); err != nil {
			return err
		}
		f.Recovery = hashes
		u.SecondFactorAt = now
		u.endSessions(now)
		return s.record(tx, userFact(*u, peer, "user.second_factor_set_up"))
	})
	if err != nil {
		return User{}, nil, fmt.Errorf("confirm second factor: %w", err)
	}
	s.log.InfoContext(ctx, "second factor set up", "user", u.ID, "peer", peer)
	return u, recovery, nil
}

// CheckCode completes the sign-in of a user whose Login needs a code: one of the
// authenticator app, or a recovery code. stamp is that of the user whom Login returned.
// Errors wrap ErrBadCode, ErrThrottled, ErrDisabled or ErrStale; one who has no second factor
// is ErrSecondFactor.
func (s *Service) CheckCode(ctx context.Context, userID, stamp, code, peer string) (SignedIn, error) {
	var in SignedIn
	var kind string
	_, err := s.withCode(ctx, userID, peer, func(tx storage.Tx, u *User, f *secondFactor) (err error) {
		p, err := providerOf(tx, *u)
		switch {
		case err != nil:
			return err
		case u.Disabled || !p.Enabled:
			return ErrDisabled
		case u.SecondFactorAt.IsZero():
			return ErrSecondFactor
		case u.Stamp() != stamp:
			return ErrStale
		}
		if kind, err = s.takeCode(*u, f, code); err != nil {
			return err
		}
		in = SignedIn{User: *u, Provider: p.ID}
		if err := s.remember(tx, loginAttempt{account: u.ID, peer: peer}); err != nil { // as Login would have
			return err
		}
		return s.recordLogin(tx, in, peer, map[string]string{"second_factor": kind})
	})
	if err != nil {
		return SignedIn{}, fmt.Errorf("check code: %w", err)
	}
	s.log.InfoContext(ctx, "login", "user", in.User.ID, "provider", in.Provider, "peer", peer, "second_factor", kind)
	return in, nil
}

// NewRecoveryCodes replaces a user's recovery codes, for a code of the app or one of the
// old ones. Errors wrap ErrBadCode, ErrThrottled or ErrSecondFactor.
func (s *Service) NewRecoveryCodes(ctx context.Context, userID, code, peer string) (recovery []Secret, err error) {
	recovery, hashes := newRecoveryCodes()
	_, err = s.withCode(ctx, userID, peer, func(tx storage.Tx, u *User, f *secondFactor) error {
		if _, err := s.takeCode(*u, f, code); err != nil {
			return err
		}
		f.Recovery = hashes
		return s.record(tx, userFact(*u, peer, "user.recovery_codes_made"))
	})
	if err != nil {
		return nil, fmt.Errorf("make recovery codes: %w", err)
	}
	return recovery, nil
}

// DisableSecondFactor takes a user's second factor away, for a code of it. Errors are
// those of NewRecoveryCodes.
func (s *Service) DisableSecondFactor(ctx context.Context, userID, code, peer string) error {
	_, err := s.withCode(ctx, userID, peer, func(tx storage.Tx, u *User, f *secondFactor) error {
		if _, err := s.takeCode(*u, f, code); err != nil {
			return err
		}
		u.SecondFactorAt, f.Sealed = time.Time{}, nil
		return s.record(tx, userFact(*u, peer, "user.second_factor_removed"))
	})
	if err != nil {
		return fmt.Errorf("disable second factor: %w", err)
	}
	s.log.InfoContext(ctx, "second factor removed", "user", userID, "peer", peer)
	return nil
}

// ResetSecondFactor takes the second factor of a user away who can't show it any more, and
// logs them out everywhere. by must be an owner. A user without one is left alone.
func (s *Service) ResetSecondFactor(ctx context.Context, by Principal, userID string) (u User, err error) {
	if !by.governs(ScopeOwner) {
		return User{}, fmt.Errorf("reset second factor: %w: only owners do that", ErrForbidden)
	}
	err = s.db.Update(ctx, func(tx storage.Tx) error {
		if u, err = users.Get(tx, userID); err != nil || u.SecondFactorAt.IsZero() {
			return err
		}
		u.SecondFactorAt = time.Time{}
		u.endSessions(s.now())
		if err := users.Put(tx, u); err != nil {
			return err
		}
		if err := secondFactors.Delete(tx, userID); err != nil {
			return err
		}
		return s.record(tx, by.fact("user.second_factor_reset", u.Login(), nil).changing(map[string]any{"second_factor": true}, map[string]any{"second_factor": false}))
	})
	if err != nil {
		return User{}, fmt.Errorf("reset second factor: %w", err)
	}
	s.log.InfoContext(ctx, "second factor reset", "user", userID, "by", by.String())
	return u, nil
}

// RecoveryCodesLeft returns how many recovery codes a user has not used yet.
func (s *Service) RecoveryCodesLeft(ctx context.Context, userID string) (n int, err error) {
	err = s.db.View(ctx, func(tx storage.Tx) error {
		f, err := secondFactors.Get(tx, userID)
		n = len(f.Recovery)
		if errors.Is(err, storage.ErrNotFound) {
			return nil
		}
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("count recovery codes: %w", err)
	}
	return n, nil
}

// withCode changes a user's second factor by do, which looks at a code: that is counted as
// a guess before, and forgiven with what do changes. A factor without a key is forgotten.
func (s *Service) withCode(ctx context.Context, userID, peer string, do func(tx storage.Tx, u *User, f *secondFactor) error) (u User, err error) {
	attempt := loginAttempt{account: userID, peer: peer, tried: triedCode}
	if err := s.countAttempt(ctx, attempt); err != nil {
		return User{}, err
	}
	err = s.db.Update(ctx, func(tx storage.Tx) error {
		if u, err = users.Get(tx, userID); err != nil {
			return err
		}
		f, err := secondFactors.Get(tx, userID)
		if err != nil && !errors.Is(err, storage.ErrNotFound) {
			return err
		}
		old := u
		if err := do(tx, &u, &f); err != nil {
			return err
		}
		if !u.equal(old) {
			if err := users.Put(tx, u); err != nil {
				return err
			}
		}
		if err := s.forgiveAttempts(tx, attempt); err != nil {
			return err
		}
		if f.Sealed == nil {
			return secondFactors.Delete(tx, userID)
		}
		return secondFactors.Put(tx, f)
	})
	if errors.Is(err, ErrBadCode) {
		s.log.InfoContext(ctx, "wrong code of a second factor", "user", userID, "peer", peer)
		s.refused(ctx, Fact{Action: "user.second_factor", Reason: err.Error(), User: u.Login(), Peer: peer})
	}
	return u, err
}

// takeCode takes a code of the app or a recovery code, once, and says which it was.
func (s *Service) takeCode(u User, f *secondFactor, code string) (kind string, err error) {
	if u.SecondFactorAt.IsZero() || f.Sealed == nil {
		return "", ErrSecondFactor
	}
	hash := hashSecret(normalSetupToken(code))
	at := slices.IndexFunc(f.Recovery, func(have string) bool { return subtle.ConstantTimeCompare([]byte(have), []byte(hash)) == 1 })
	if at >= 0 {
		f.Recovery = slices.Delete(slices.Clone(f.Recovery), at, at+1)
		return "recovery_code", nil
	}
	return "totp", s.takeTOTP(f, code)
}

func (s *Service) takeTOTP(f *secondFactor, code string) error {
	key, err := s.unseal(factorPurpose(f.UserID), f.Sealed)
	if err != nil {
		return err
	}
	step, ok := matchTOTP(key, normalCode(code), s.now(), f.Step)
	if !ok {
		return ErrBadCode
	}
	f.Step = step
	return nil
}

// normalCode forgives the space that apps show in the middle.
func normalCode(code string) string {
	if len(code) > 20 {
		return ""
	}
	return strings.Join(strings.Fields(code), "")
}

func newRecoveryCodes() (codes []Secret, hashes []string) {
	for range recoveryCodes {
		code := newTypedSecret()
		codes = append(codes, Secret(code))
		hashes = append(hashes, hashSecret(normalSetupToken(code)))
	}
	return codes, hashes
}

// userFact is what u does about themselves.
func userFact(u User, peer, action string) Fact {
	by := u.Principal()
	by.Peer = peer
	return by.fact(action, u.Login(), nil)
}
