// Package identity knows who may do what: people with a password here or at a provider of
// accounts, API tokens, and the one-time token by which a new server gets its first owner.
//
// It knows nothing of HTTP, of devices, or of the database behind [storage.DB].
// Secrets are kept as hashes only: what is shown once can't be read back.
package identity

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/seal"
)

// Errors that callers act on.
var (
	// ErrUnauthenticated means that a token is unknown or revoked.
	ErrUnauthenticated = errors.New("the token is not valid")

	// ErrTokenExpired is ErrUnauthenticated of a token that would be valid, had it not expired.
	ErrTokenExpired = fmt.Errorf("%w: it has expired", ErrUnauthenticated)

	// ErrBadLogin means that there is no such user, or another password, or that
	// the user is disabled: whoever asks doesn't learn which.
	ErrBadLogin = errors.New("wrong user name or password")

	// ErrThrottled means that there were too many failed logins of late.
	ErrThrottled = errors.New("too many failed logins")

	// ErrSetupToken means that a setup token is wrong, was used or is too old.
	ErrSetupToken = errors.New("the setup token is not valid")

	// ErrForbidden means that a principal may not do what it tries.
	ErrForbidden = errors.New("not allowed")

	// ErrInvalid means that a record to be made is not valid; the text says why, and
	// a [FieldError] which field.
	ErrInvalid = errors.New("invalid")

	// ErrTaken means that another user has a name that must be one user's alone.
	ErrTaken = errors.New("taken")

	// ErrLastOwner means that nobody would be left who can log in as an owner.
	ErrLastOwner = errors.New("the last owner who can log in must stay one")
)

// FieldError says which field of a record to be made is not valid, by its name in the
// API. It is an ErrInvalid.
type FieldError struct {
	Field  string
	Reason string // "must be a name"
}

func (e *FieldError) Error() string { return e.Field + " " + e.Reason }

// Unwrap makes it an ErrInvalid.
func (e *FieldError) Unwrap() error { return ErrInvalid }

// Config says what a Service needs: DB, Log and Now.
type Config struct {
	DB      storage.DB
	Box     *seal.Box // nil: no second factors, and no secrets of providers
	Kinds   []SourceKind
	Log     *slog.Logger
	Now     func() time.Time
	Replica string // what tells this server from others on the database, also after a restart
	Audit   Audit  // where facts are written down; nil: nowhere

	// HashMemory is what it takes to hash a password, in KiB; 0: 19 MiB, as OWASP
	// recommends. Only tests take less, as its cost is all that a hash is for.
	HashMemory uint32

	// OnDisable ends what a user has that is kept elsewhere, in the transaction that
	// disables them. It may be nil.
	OnDisable func(tx storage.Tx, u User) error

	// OnRename moves what is kept elsewhere under logins that u has no more, in the
	// transaction that takes them away: after it they are free for others. They come as
	// [User.Logins] returns them. It may be nil.
	OnRename func(tx storage.Tx, gone []string, u User) error
}

// Service keeps users, tokens, and what is known of them elsewhere.
type Service struct {
	db    storage.DB
	box   *seal.Box
	kinds map[string]SourceKind
	log   *slog.Logger
	now   func() time.Time

	replica   string
	audit     Audit
	onDisable func(tx storage.Tx, u User) error
	onRename  func(tx storage.Tx, gone []string, u User) error

	hashing    chan struct{} // one element for every password hash that is being computed
	hashMemory uint32        // KiB

	mu     sync.Mutex
	used   map[string]time.Time // tokens used since the last flush, by ID
	opened map[string]opened    // sources, by the ID of their provider
}

// New returns a Service, or says what c lacks.
func New(c Config) (*Service, error) {
	if c.DB == nil || c.Log == nil || c.Now == nil {
		return nil, errors.New("identity: DB, Log and Now are required")
	}
	kinds := map[string]SourceKind{}
	for _, kind := range c.Kinds {
		name := kind.Name()
		if _, twice := kinds[name]; twice || name == "" || name == LocalProvider {
			return nil, fmt.Errorf("identity: a kind of sources can't be called %q, or not twice", name)
		}
		kinds[name] = kind
	}
	return &Service{
		db:         c.DB,
		box:        c.Box,
		kinds:      kinds,
		log:        c.Log,
		now:        c.Now,
		replica:    c.Replica,
		audit:      c.Audit,
		onDisable:  c.OnDisable,
		onRename:   c.OnRename,
		hashing:    make(chan struct{}, concurrentHashes),
		hashMemory: cmp.Or(c.HashMemory, argonMemory),
		used:       map[string]time.Time{},
		opened:     map[string]opened{},
	}, nil
}

// Run writes down when tokens were used, forgets failed logins and sign-ins that are too
// old to matter, and compares users with their directories, until ctx ends. Every process writes what it has seen itself; one of
// them forgets.
func (s *Service) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.writeBehind(ctx) })
	group.Go(func() error {
		return storage.Schedule{
			DB: s.db, Log: s.log, Now: s.now,
			Jobs: []storage.Job{
				{Name: "identity/prune", Every: 10 * time.Minute, Do: s.pruneFailures},
				{Name: "identity/sign-ins", Every: 10 * time.Minute, Do: s.pruneSignIns},
				{Name: "identity/directories", Every: time.Hour, Do: s.CheckDirectories},
			},
		}.Run(ctx)
	})
	return group.Wait()
}

func (s *Service) writeBehind(ctx context.Context) error {
	flush := time.NewTicker(time.Second)
	defer flush.Stop()
	for {
		select {
		case <-ctx.Done():
			// What was used in the last second is written after all.
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
			defer cancel()
			s.logFailure(last, "token use not recorded", s.flushUsed(last))
			return nil
		case <-flush.C:
			s.logFailure(ctx, "token use not recorded", s.flushUsed(ctx))
		}
	}
}

func (s *Service) logFailure(ctx context.Context, message string, err error) {
	if err != nil && ctx.Err() == nil {
		s.log.WarnContext(ctx, message, "err", err)
	}
}
