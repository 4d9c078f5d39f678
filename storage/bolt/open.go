package bolt

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"time"

	"go.etcd.io/bbolt"
	bbolterrors "go.etcd.io/bbolt/errors"

	"github.com/gatehouse-mdm/gatehouse/storage"
)

const (
	lockTimeout = time.Second
	allocSize   = 4 << 20 // by which the file grows; each time costs a sync of its own
	openBudget  = 2048    // pages that Open looks at before it trusts the rest
)

// Open opens the database file at path, or makes one that only its owner can read.
//
// The error wraps [storage.ErrInUse] when another process has the file open, and
// [storage.ErrCorrupt] when it is not a whole database; an empty file is none. A wider
// mode than 0600 is narrowed, and told to opts.Log; a symbolic link is refused, since it
// would let whoever may write beside the file choose what is overwritten.
func Open(ctx context.Context, path string, opts Options) (*DB, error) {
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		if err := create(path); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, fmt.Errorf("create database: %w", err)
		}
	}

	// A fault or panic in bbolt's Open must not take the process down: the checks
	// below should find every such file, but they don't read all of it.
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	db := &DB{path: path}
	err := db.guard(func() (err error) {
		db.bolt, err = bbolt.Open(path, 0o600, &bbolt.Options{
			Timeout: lockTimeout,
			// Each commit writes the free pages in their order: the map sorts them for it,
			// which is most of a commit when a large file has many. The array is in order.
			FreelistType:    bbolt.FreelistArrayType,
			InitialMmapSize: initialMap(),
			OpenFile: func(path string, flag int, _ os.FileMode) (*os.File, error) {
				return openFile(ctx, path, flag, opts.Log)
			},
		})
		return err
	})
	if errors.Is(err, bbolterrors.ErrTimeout) {
		err = inUse(path)
	}
	if err != nil {
		return nil, fmt.Errorf("open database: %w", err)
	}
	db.bolt.AllocSize = allocSize
	return db, nil
}

// create makes an empty database under a name of its own and links it to path when it is
// whole, so that a file at path is never half made, and an empty one is never ours.
func create(path string) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".new-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.Remove(f.Name())) }()
	if err := f.Close(); err != nil {
		return err
	}
	fresh, err := bbolt.Open(f.Name(), 0o600, &bbolt.Options{Timeout: lockTimeout})
	if err != nil {
		return err
	}
	if err := fresh.Close(); err != nil {
		return err
	}
	if err := os.Link(f.Name(), path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// openFile opens, locks and checks the file before bbolt maps it.
func openFile(ctx context.Context, path string, flag int, log *slog.Logger) (_ *os.File, err error) {
	f, err := os.OpenFile(path, flag&^os.O_CREATE|noFollow, 0)
	if err != nil {
		if info, statErr := os.Lstat(path); statErr == nil && info.Mode()&fs.ModeSymlink != 0 {
			return nil, fmt.Errorf("%s is a symbolic link: name the file itself", path)
		}
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = f.Close()
		}
	}()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	if err := lock(ctx, f, path); err != nil {
		return nil, err
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 && checkModes {
		if err := f.Chmod(0o600); err != nil {
			return nil, fmt.Errorf("others may read the database, and that can't be changed: %w", err)
		}
		log.WarnContext(ctx, "database file was open to others; narrowed to its owner", "path", path, "mode", mode.String())
	}
	if info, err = f.Stat(); err != nil { // its size, now that nobody else writes
		return nil, err
	}
	img := image{r: f, size: info.Size()}
	m, err := img.newest()
	if err == nil {
		err = img.check(ctx, m, openBudget)
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return nil, err
	} else if err != nil {
		return nil, corrupt(path, strings.TrimSpace(err.Error()))
	}
	if m.alone {
		log.WarnContext(ctx, "one of the database's two meta pages is damaged; if that was not a power cut, the last transaction may be missing", "path", path, "transaction", m.txid)
	}
	return f, nil
}

func inUse(path string) error {
	return fmt.Errorf("%w: %s is already in use by another process: stop that one, or give this one another data directory",
		storage.ErrInUse, path)
}
