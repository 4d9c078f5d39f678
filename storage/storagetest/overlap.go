package storagetest

import (
	"context"
	"sync"
	"time"

	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/bolt"
)

// Overlap runs a and b at once on db, so that neither commits before the closures of both
// have run, where the engine lets them: each then decides by what was there before the
// other. What a and b give to their db is the one that Overlap gives them; only the first
// Update of each is held up.
//
// bbolt runs one closure after the other: there they just run.
func Overlap(db storage.DB, a, b func(storage.DB)) {
	// A closure runs once for nothing and again after each conflict: those of the two
	// meet run by run, as long as nobody has to wait for what can't come.
	const runs = 2
	patience := 500 * time.Millisecond
	if s, ok := db.(*strict); ok {
		if _, serial := s.DB.(*bolt.DB); serial {
			patience = 0
		}
	}
	var met [runs]sync.WaitGroup
	for i := range met {
		met[i].Add(2)
	}
	var both sync.WaitGroup
	for _, side := range []func(storage.DB){a, b} {
		both.Go(func() {
			side(&overlapping{DB: db, meet: func(run int) {
				if run >= runs {
					return
				}
				met[run].Done()
				there := make(chan struct{})
				go func() { met[run].Wait(); close(there) }()
				select {
				case <-there:
				case <-time.After(patience):
				}
			}})
		})
	}
	both.Wait()
}

// overlapping holds up the first Update.
type overlapping struct {
	storage.DB
	meet func(run int)
	once sync.Once
}

func (o *overlapping) Update(ctx context.Context, fn func(storage.Tx) error) error {
	first := false
	o.once.Do(func() { first = true })
	if !first {
		return o.DB.Update(ctx, fn)
	}
	run := 0
	return o.DB.Update(ctx, func(tx storage.Tx) error {
		err := fn(tx)
		o.meet(run)
		run++
		return err
	})
}
