package acme

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"time"

	"github.com/gatehouse-mdm/gatehouse/storage"
)

// How long a lock outlives a process that died with it, and how often others look
// whether one is free. Orders take seconds to minutes.
const (
	lockLife = time.Minute
	lockPoll = 500 * time.Millisecond
)

var errLockLost = errors.New("lock was lost to another replica")

// hold is one lock that this process has: a lease, and what keeps it alive.
type hold struct {
	holder string
	stop   context.CancelFunc
	done   chan struct{} // closed when the lease is no longer kept alive
}

func leaseName(lock string) string { return "acme " + lock }

// Lock implements certmagic.Locker.
func (s *store) Lock(ctx context.Context, name string) error {
	for {
		got, err := s.TryLock(ctx, name)
		if got || err != nil {
			return err
		}
		// Not in step with other replicas that wait.
		wait := time.NewTimer(lockPoll/2 + mathrand.N(lockPoll))
		select {
		case <-wait.C:
		case <-ctx.Done():
			wait.Stop()
			return ctx.Err()
		}
	}
}

// TryLock implements certmagic.TryLocker. Within the process, a lock is free only once
// it was unlocked, even if its lease was lost meanwhile: Unlock does not say whose lock
// it means.
func (s *store) TryLock(ctx context.Context, name string) (bool, error) {
	h := &hold{holder: rand.Text(), done: make(chan struct{})}
	// The lock outlives the request for it.
	alive, stop := context.WithCancel(context.WithoutCancel(ctx))
	h.stop = stop

	s.mu.Lock()
	_, taken := s.held[name]
	if !taken {
		s.held[name] = h
	}
	s.mu.Unlock()
	if taken {
		stop()
		return false, nil
	}
	got, err := storage.Acquire(ctx, s.db, leaseName(name), h.holder, lockLife, s.now)
	if !got || err != nil {
		stop()
		close(h.done)
		s.mu.Lock()
		if s.held[name] == h {
			delete(s.held, name)
		}
		s.mu.Unlock()
		return false, err
	}
	go s.keepAlive(alive, name, h)
	return true, nil
}

// keepAlive renews a lease until ctx ends or it is lost.
func (s *store) keepAlive(ctx context.Context, name string, h *hold) {
	defer close(h.done)
	beat, stop := s.ticker(lockLife / 4)
	defer stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-beat:
		}
		switch ok, err := storage.Renew(ctx, s.db, leaseName(name), h.holder, lockLife, s.now); {
		case err != nil && ctx.Err() == nil:
			s.log.WarnContext(ctx, "ACME lock not renewed", "lock", name, "err", err)
		case err == nil && !ok:
			s.log.WarnContext(ctx, "ACME lock lost to another replica", "lock", name)
			return
		}
	}
}

// Unlock implements certmagic.Locker. A lock that was lost, or never had, stays
// whose it is.
func (s *store) Unlock(ctx context.Context, name string) error {
	s.mu.Lock()
	h := s.held[name]
	delete(s.held, name)
	s.mu.Unlock()
	if h == nil {
		return nil
	}
	h.stop()
	<-h.done // or it might be renewed after it was released
	return storage.Release(ctx, s.db, leaseName(name), h.holder)
}

// RenewLockLease implements certmagic.LockLeaseRenewer: certmagic asks before each
// attempt at an order. The time that it asks for reaches to the attempt after that, hours
// perhaps, and would outlive a process that died in between; a lock is kept alive anyway.
func (s *store) RenewLockLease(ctx context.Context, name string, _ time.Duration) error {
	s.mu.Lock()
	h := s.held[name]
	s.mu.Unlock()
	if h == nil {
		return fmt.Errorf("renew lock %s: not locked", name)
	}
	ok, err := storage.Renew(ctx, s.db, leaseName(name), h.holder, lockLife, s.now)
	if err == nil && !ok {
		err = fmt.Errorf("renew lock %s: %w", name, errLockLost)
	}
	return err
}

// unlockAll gives back what is still locked when the server ends, so that no other
// replica has to wait for it.
func (s *store) unlockAll(ctx context.Context) error {
	s.mu.Lock()
	var names []string
	for name := range s.held {
		names = append(names, name)
	}
	s.mu.Unlock()
	var errs []error
	for _, name := range names {
		errs = append(errs, s.Unlock(ctx, name))
	}
	return errors.Join(errs...)
}
