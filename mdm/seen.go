package mdm

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/gatehouse-mdm/gatehouse/storage"
)

const (
	seenBucket = "seen"
	seenFlush  = time.Second
)

// seen remembers when each enrollment was last heard of. That changes with
// every poll, so it is written behind, in a record of its own: a crash loses at
// most the last second of it, which is no loss.
type seen struct {
	mu    sync.Mutex
	fresh map[DeviceID]time.Time
}

// Saw notes that a device was just heard of.
func (s *Service) Saw(id DeviceID) {
	now := s.now()
	s.seen.mu.Lock()
	defer s.seen.mu.Unlock()
	if s.seen.fresh == nil {
		s.seen.fresh = make(map[DeviceID]time.Time)
	}
	s.seen.fresh[id] = now
}

// ReadLastSeen is what [storage.Tx.Prefetch] takes for LastSeen.
func ReadLastSeen(id DeviceID) storage.Read {
	return storage.Read{Bucket: seenBucket, Key: []byte(id)}
}

// LastSeen returns when a device was last heard of, zero for never.
func (s *Service) LastSeen(tx storage.Tx, id DeviceID) (time.Time, error) {
	s.seen.mu.Lock()
	t, ok := s.seen.fresh[id]
	s.seen.mu.Unlock()
	if ok {
		return t.UTC(), nil
	}
	v, err := tx.Get(seenBucket, []byte(id))
	if errors.Is(err, storage.ErrNotFound) {
		return time.Time{}, nil
	}
	if err != nil {
		return time.Time{}, fmt.Errorf("last seen of %s: %w", id, err)
	}
	if len(v) != 8 {
		return time.Time{}, fmt.Errorf("last seen of %s: %w", id, storage.ErrCorrupt)
	}
	return time.Unix(0, int64(binary.BigEndian.Uint64(v))).UTC(), nil
}

// flushSeen writes what Saw collected.
func (s *Service) flushSeen(ctx context.Context) error {
	s.seen.mu.Lock()
	batch := s.seen.fresh
	s.seen.fresh = nil
	s.seen.mu.Unlock()
	if len(batch) == 0 {
		return nil
	}
	err := s.db.Update(ctx, func(tx storage.Tx) error {
		for id, t := range batch {
			if err := tx.Put(seenBucket, []byte(id), binary.BigEndian.AppendUint64(nil, uint64(t.UnixNano()))); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		// Keep what could not be written, unless something newer has come since.
		s.seen.mu.Lock()
		defer s.seen.mu.Unlock()
		maps.Copy(batch, s.seen.fresh)
		s.seen.fresh = batch
		return fmt.Errorf("write last seen: %w", err)
	}
	return nil
}

// Run writes behind and sweeps until ctx ends, and writes once more then. Every
// process writes what it has seen itself; one of them sweeps.
func (s *Service) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.writeBehind(ctx) })
	group.Go(func() error {
		return storage.Schedule{
			DB: s.db, Log: s.log, Now: s.now,
			Jobs: []storage.Job{
				{Name: "mdm/sweep", Every: sweepEvery, Do: s.sweep},
				{Name: "mdm/expire", Every: expireEvery, Do: s.sweepExpiring},
				{Name: "mdm/rows", Every: fillEvery, Do: s.fillRows},
			},
		}.Run(ctx)
	})
	return group.Wait()
}

func (s *Service) writeBehind(ctx context.Context) error {
	flush := time.NewTicker(seenFlush)
	defer flush.Stop()
	for {
		select {
		case <-flush.C:
			if err := s.flushSeen(ctx); err != nil && ctx.Err() == nil {
				s.log.WarnContext(ctx, "last seen not written, will try again", "err", err)
			}
		case <-ctx.Done():
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
			defer cancel()
			return s.flushSeen(ctx)
		}
	}
}
