package event

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/gatehouse-mdm/gatehouse/storage"
)

// Config says what a Recorder needs. What has a default may be zero.
type Config struct {
	DB  storage.DB
	Log *slog.Logger
	Now func() time.Time

	Keep        time.Duration // how long events are kept; default: what GetRetention tells
	Most        int           // how many are kept; default a million
	MostTrouble int           // how many of those that are not OK: strangers can cause them; default 200,000
}

// Recorder records what was refused, which has no transaction to be recorded in, gives
// events their places in the chain, and forgets what is old.
type Recorder struct {
	db  storage.DB
	log *slog.Logger
	now func() time.Time

	keep              time.Duration // 0: as decided
	most, mostTrouble int

	flood flood
}

// New returns a Recorder, or says what c lacks.
func New(c Config) (*Recorder, error) {
	if c.DB == nil || c.Log == nil || c.Now == nil {
		return nil, errors.New("event: DB, Log and Now are required")
	}
	if c.Keep < 0 || c.Most < 0 || c.MostTrouble < 0 {
		return nil, errors.New("event: Keep, Most and MostTrouble can't be negative")
	}
	r := &Recorder{db: c.DB, log: c.Log, now: c.Now, keep: c.Keep, most: c.Most, mostTrouble: c.MostTrouble}
	if r.most == 0 {
		r.most = 1_000_000
	}
	if r.mostTrouble == 0 {
		r.mostTrouble = 200_000
	}
	return r, nil
}

const (
	flushEvery = 10 * time.Second
	writeTime  = 5 * time.Second // for one event, also when the client is gone
)

// Run writes down what Refused has counted, gives new events their places in the chain,
// tells once a day what the chain has come to, and forgets what is old, until ctx ends.
// Every process counts for itself, any of them gives places, and one does the rest.
func (r *Recorder) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		tick := time.NewTicker(flushEvery)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				r.write(ctx, r.flood.end())
				return nil
			case <-tick.C:
				r.write(ctx, r.flood.turn(r.now()))
			}
		}
	})
	group.Go(func() error { return r.follow(ctx) })
	group.Go(func() error {
		return storage.Schedule{
			DB: r.db, Log: r.log, Now: r.now,
			Jobs: []storage.Job{
				{Name: "event/sweep", Every: sweepEvery, Do: r.sweep},
				{Name: "event/anchor", Every: anchorEvery, Do: r.anchor},
			},
		}.Run(ctx)
	})
	return group.Wait()
}

// Refused records an event outside of any transaction: what was refused changed nothing.
// At is now and Outcome is Refused, unless they are set. Of many of the same action,
// peer and template within a minute the first ones are written one by one, and the others
// as one event, whose detail "count" says how many they were.
//
// Nobody has to wait for the audit log to say no: what can't be written is logged.
func (r *Recorder) Refused(ctx context.Context, e Event) {
	if e.At.IsZero() {
		e.At = r.now()
	}
	if e.Outcome == "" {
		e.Outcome = Refused
	}
	kept, err := prepare(e)
	if err != nil {
		r.log.ErrorContext(ctx, "event not recorded", "action", e.Action, "err", err)
		return
	}
	r.write(ctx, r.flood.admit(kept, r.now()))
}

// write records events, even if the request of ctx has ended.
func (r *Recorder) write(ctx context.Context, events []Event) {
	if len(events) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), writeTime)
	defer cancel()
	err := r.db.Update(ctx, func(tx storage.Tx) error {
		for _, e := range events {
			if err := Record(tx, e); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		r.log.WarnContext(ctx, "events not recorded", "first", events[0].Action, "count", len(events), "err", err)
	}
}
