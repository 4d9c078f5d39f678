package storage

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Migration is one step from what an older version of the program stored to what this
// one reads. It stays in the program for good: versions are never renumbered.
type Migration struct {
	Version int    // 1 and up, ascending; gaps are fine
	Name    string // a few words for the record of it
	Apply   func(tx Tx) error
}

// applied is the record of one migration that was done.
type applied struct {
	Version int       `json:"version"`
	Name    string    `json:"name"`
	At      time.Time `json:"at"`
}

const schemaKey = "schema"

// The last migration that was done; one record, so that two replicas that start at once
// conflict on it, and the second finds the step done.
var schema = NewCollection("storage.schema", 1, func(applied) string { return schemaKey })

// Migrate applies the migrations that the database has not seen, in order, each in one
// transaction with the note that it was done: a crash leaves the state before or after a
// step. It returns an error that wraps [ErrNewer] when the database has seen a later
// version than the last of migrations, and changes nothing then.
//
// There is no lease on it, which a crashed process would leave behind for the next start
// to wait out: every step reads and writes the record of the last one, so replicas that
// start together can't both apply it.
func Migrate(ctx context.Context, db DB, now func() time.Time, migrations []Migration) error {
	last := 0
	for _, m := range migrations {
		if m.Version <= last || m.Apply == nil {
			return fmt.Errorf("migration %d (%s): versions must ascend from 1, and each must do something", m.Version, m.Name)
		}
		last = m.Version
	}
	have := 0
	err := db.View(ctx, func(tx Tx) (err error) {
		have, err = schemaVersion(tx, last)
		return err
	})
	if err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	for _, m := range migrations {
		if m.Version <= have {
			continue
		}
		err := db.Update(ctx, func(tx Tx) error {
			if done, err := schemaVersion(tx, last); err != nil || done >= m.Version {
				return err
			}
			if err := m.Apply(tx); err != nil {
				return err
			}
			return schema.Put(tx, applied{Version: m.Version, Name: m.Name, At: now().UTC()})
		})
		if err != nil {
			return fmt.Errorf("migration %d (%s): %w", m.Version, m.Name, err)
		}
	}
	return nil
}

func schemaVersion(tx Tx, known int) (int, error) {
	done, err := schema.Get(tx, schemaKey)
	if errors.Is(err, ErrNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	if done.Version > known {
		return 0, fmt.Errorf("%w: the database is at version %d (%s), this program knows up to %d", ErrNewer, done.Version, done.Name, known)
	}
	return done.Version, nil
}

// Reindex writes the entries of an index that was declared when there were records already, for
// a [Migration]. Entries that are there stay.
func Reindex[T any](tx Tx, c *Collection[T], index string) error { return c.reindexAll(tx, index) }

func (c *records) reindexAll(tx Tx, index string) error {
	ix := c.index(index)
	if ix == nil {
		return fmt.Errorf("%s has no index %q", c.name, index)
	}
	for item, err := range tx.Scan(c.name, Range{}) {
		if err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
		v, err := c.decode(item.Key, item.Value)
		if err != nil {
			return err
		}
		for _, value := range ix.values(v) {
			var to []byte
			if ix.unique {
				to = item.Key
			}
			if err := tx.Put(ix.bucket, ix.entry(value, item.Key), to); err != nil {
				return c.fail(item.Key, err)
			}
		}
	}
	return nil
}
