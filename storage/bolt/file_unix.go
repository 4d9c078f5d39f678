//go:build unix

package bolt

import (
	"context"
	"errors"
	"os"
	"syscall"
	"time"
)

const (
	noFollow   = syscall.O_NOFOLLOW
	checkModes = true
)

// lock locks f as bbolt does, which then finds the lock its own: the file must not
// change between our checks and bbolt's map.
func lock(ctx context.Context, f *os.File, path string) error {
	deadline := time.Now().Add(lockTimeout)
	for {
		err := flock(f)
		if err == nil || !errors.Is(err, syscall.EWOULDBLOCK) {
			return err
		}
		if time.Now().After(deadline) {
			return inUse(path)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// syncDir makes a new name in dir durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
