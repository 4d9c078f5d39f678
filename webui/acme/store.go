package acme

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/certmagic"

	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/seal"
)

// topic is what wakes the replicas when something in the store has changed.
const topic = "acme"

// item is one of certmagic's files. All of them are sealed: keys of accounts and
// certificates have to be, and what needs it is certmagic's to know.
type item struct {
	Key      string    `json:"key"`
	Value    []byte    `json:"value"` // sealed
	Size     int64     `json:"size"`  // of what is sealed, in bytes
	Modified time.Time `json:"modified"`
}

var items = storage.NewCollection("acme", 1, func(i item) string { return i.Key })

// purpose binds a sealed value to its key, so that none can be put in another's place.
func purpose(key string) string { return "acme " + key }

// store keeps certmagic's files in the database, and its locks as leases.
type store struct {
	db     storage.DB
	box    *seal.Box
	log    *slog.Logger
	now    func() time.Time
	ticker func(time.Duration) (beat <-chan time.Time, stop func())

	mu   sync.Mutex
	held map[string]*hold // by the name of the lock
}

var (
	_ certmagic.Storage          = (*store)(nil)
	_ certmagic.TryLocker        = (*store)(nil)
	_ certmagic.LockLeaseRenewer = (*store)(nil)
)

func newStore(db storage.DB, box *seal.Box, log *slog.Logger, now func() time.Time) *store {
	ticker := func(d time.Duration) (<-chan time.Time, func()) {
		t := time.NewTicker(d)
		return t.C, t.Stop
	}
	return &store{db: db, box: box, log: log, now: now, ticker: ticker, held: map[string]*hold{}}
}

// String is what certmagic's log messages say of the store: it logs it whole.
func (*store) String() string { return "database" }

// Store implements certmagic.Storage.
func (s *store) Store(ctx context.Context, key string, value []byte) error {
	it := item{Key: key, Value: s.box.Seal(purpose(key), value), Size: int64(len(value)), Modified: s.now().UTC()}
	return s.db.Update(ctx, func(tx storage.Tx) error {
		if err := items.Put(tx, it); err != nil {
			return err
		}
		return tx.Notify(topic)
	})
}

// Load implements certmagic.Storage.
func (s *store) Load(ctx context.Context, key string) (value []byte, err error) {
	err = s.db.View(ctx, func(tx storage.Tx) error {
		value, err = s.load(tx, key)
		return err
	})
	return value, err
}

func (s *store) load(tx storage.Tx, key string) ([]byte, error) {
	it, err := items.Get(tx, key)
	if err != nil {
		return nil, missing(key, err)
	}
	return s.box.Open(purpose(key), it.Value)
}

// missing makes what is not there say so in certmagic's words.
func missing(key string, err error) error {
	if errors.Is(err, storage.ErrNotFound) {
		return fmt.Errorf("%s: %w", key, fs.ErrNotExist)
	}
	return err
}

// Delete implements certmagic.Storage: of a directory it deletes all that is below.
func (s *store) Delete(ctx context.Context, key string) error {
	return s.db.Update(ctx, func(tx storage.Tx) error {
		doomed := []string{key}
		for it, err := range below(tx, key, 0) {
			if err != nil {
				return err
			}
			doomed = append(doomed, it.Key)
		}
		for _, k := range doomed {
			if err := items.Delete(tx, k); err != nil {
				return err
			}
		}
		return tx.Notify(topic)
	})
}

// below yields the files in directory dir and its subdirectories; "" is the root.
func below(tx storage.Tx, dir string, limit int) iter.Seq2[item, error] {
	r := storage.Range{Limit: limit}
	if dir != "" {
		r.Prefix = []byte(dir + "/")
	}
	return items.All(tx, r)
}

// Exists implements certmagic.Storage.
func (s *store) Exists(ctx context.Context, key string) bool {
	_, err := s.Stat(ctx, key)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.log.WarnContext(ctx, "ACME state not read", "key", key, "err", err)
	}
	return err == nil
}

// List implements certmagic.Storage as its file storage does: what stands in the
// directory, files and directories, each once; if recursive, what stands below those, too.
func (s *store) List(ctx context.Context, dir string, recursive bool) (keys []string, err error) {
	err = s.db.View(ctx, func(tx storage.Tx) error {
		keys = nil
		seen := map[string]bool{}
		for it, err := range below(tx, dir, 0) {
			if err != nil {
				return err
			}
			start := 0
			if dir != "" {
				start = len(dir) + 1
			}
			for at := start; ; {
				end := strings.IndexByte(it.Key[at:], '/')
				key := it.Key
				if end >= 0 {
					key = it.Key[:at+end]
				}
				if !seen[key] {
					seen[key] = true
					keys = append(keys, key)
				}
				if end < 0 || !recursive {
					break
				}
				at += end + 1
			}
		}
		if len(keys) > 0 || dir == "" {
			return nil
		}
		_, err := items.Get(tx, dir) // a file has nothing below it
		return missing(dir, err)
	})
	slices.Sort(keys)
	return keys, err
}

// Stat implements certmagic.Storage.
func (s *store) Stat(ctx context.Context, key string) (info certmagic.KeyInfo, err error) {
	err = s.db.View(ctx, func(tx storage.Tx) error {
		it, err := items.Get(tx, key)
		if err == nil {
			info = certmagic.KeyInfo{Key: key, Modified: it.Modified, Size: it.Size, IsTerminal: true}
			return nil
		}
		if !errors.Is(err, storage.ErrNotFound) {
			return err
		}
		for _, belowErr := range below(tx, key, 1) {
			info = certmagic.KeyInfo{Key: key}
			return belowErr
		}
		return missing(key, err)
	})
	return info, err
}
