package storage

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	mathrand "math/rand/v2"
	"sync"
	"time"
)

// Job is work that comes up again and again, and that one replica at a time does for all.
type Job struct {
	Name  string        // the same in all replicas, and no other job's
	Every time.Duration // from the end of one run to the beginning of the next, on any replica

	// Do does the work. Its context ends at shutdown, and when this replica can't be
	// sure any more that no other has taken over.
	Do func(ctx context.Context) error
}

// Schedule runs jobs, together with the Schedules of all other processes on the database:
// each job about once in its interval, however many replicas there are and however often
// they start.
//
// It saves work; it proves nothing. A process that was stopped in the middle of a job and
// goes on later does not know that another has done it since: what must not happen twice
// is decided in the transaction that does it.
//
// A holder is taken for dead when the record of its job has not changed for a while, as
// measured by the replica that waits for it, so that clocks need not agree for that. When
// a job is due is a time of day: replicas whose clocks differ by more than a minute run
// it more often than it says, though never two at once.
type Schedule struct {
	DB   DB
	Jobs []Job
	Log  *slog.Logger // of what failed: it is tried again
	Now  func() time.Time
}

const (
	holderDead = 45 * time.Second // without a sign of life, and another takes over
	holderSure = 30 * time.Second // without one of its own, and a holder stops: well before that
	beatEvery  = 10 * time.Second // signs of life
	lookEvery  = 10 * time.Second // for those of another
	maxJitter  = 5 * time.Second  // keeps replicas that started together apart
	maxSkew    = time.Minute      // by which clocks may differ

	// A failed job is tried again after firstRetry, then after twice that, and so on up
	// to its interval; so is a database that can't be reached, up to holderDead.
	firstRetry = 5 * time.Second
)

// errLeaseLost is why a job is stopped when its replica could not show for too long that
// it still lives, so that another may be at work.
var errLeaseLost = errors.New("another replica may have taken over")

// turn is the record of one job: whose turn it is, and when the next one comes. It is one
// record, and all that replicas agree on, they agree on by reading and writing it.
type turn struct {
	Job      string    `json:"job"`
	Revision int64     `json:"revision"`           // grows with each write
	Holder   string    `json:"holder,omitempty"`   // the process that is doing it; empty: none
	Began    time.Time `json:"began"`              // the last run
	Due      time.Time `json:"due"`                // the next run, while there is no holder
	Failures int       `json:"failures,omitempty"` // how many of the last runs in a row
}

var turns = NewCollection("storage.job", 1, func(t turn) string { return t.Job })

func getTurn(tx Tx, job string) (turn, error) {
	t, err := turns.Get(tx, job)
	if errors.Is(err, ErrNotFound) {
		return turn{Job: job}, nil
	}
	return t, err
}

func putTurn(tx Tx, t turn) error {
	t.Revision++
	return turns.Put(tx, t)
}

// Run runs the jobs until ctx ends; a job that is at work then has ended, too, and is left
// to the other replicas.
func (s Schedule) Run(ctx context.Context) error {
	if s.DB == nil || s.Log == nil || s.Now == nil {
		return errors.New("schedule: DB, Log and Now are required")
	}
	for _, j := range s.Jobs {
		if j.Name == "" || j.Every <= 0 || j.Do == nil {
			return fmt.Errorf("schedule: job %q needs a name, an interval and something to do", j.Name)
		}
	}
	var wg sync.WaitGroup
	for _, j := range s.Jobs {
		w := &worker{Schedule: s, job: j, name: rand.Text()}
		wg.Go(func() { w.run(ctx) })
	}
	wg.Wait()
	return nil
}

// worker is one replica's part in one job.
type worker struct {
	Schedule
	job  Job
	name string // as the holder

	seen     int64     // the revision last seen of another holder
	since    time.Time // and since when, by this process's clock
	failures int       // how often in a row the record could not be read or written
}

func (w *worker) run(ctx context.Context) {
	timer := time.NewTimer(w.jitter())
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		wait, err := w.look(ctx)
		switch {
		case err == nil:
			w.failures = 0
		case ctx.Err() != nil:
			return
		default:
			w.failures++
			wait = backoff(w.failures, holderDead)
			w.Log.WarnContext(ctx, "scheduled work waits for the database", "job", w.job.Name, "err", err)
		}
		timer.Reset(wait + w.jitter())
	}
}

func (w *worker) jitter() time.Duration {
	return mathrand.N(min(w.job.Every/8, maxJitter) + 1)
}

// backoff is how long to wait after so many failures in a row.
func backoff(failures int, most time.Duration) time.Duration {
	return min(firstRetry<<min(failures-1, 20), most)
}

// look does the job if it is this replica's turn, and says when to look again. Its error
// is the database's.
func (w *worker) look(ctx context.Context) (wait time.Duration, err error) {
	var t turn
	err = w.DB.View(ctx, func(tx Tx) (err error) {
		t, err = getTurn(tx, w.job.Name)
		return err
	})
	if err != nil {
		return 0, err
	}
	if t.Holder != "" && t.Holder != w.name {
		if t.Revision != w.seen {
			w.seen, w.since = t.Revision, time.Now()
		}
		if silent := time.Since(w.since); silent < holderDead {
			return min(lookEvery, holderDead-silent), nil
		}
	} else if wait := w.untilDue(t); wait > 0 {
		return wait, nil
	}
	asked := time.Now()
	taken, err := w.take(ctx, t.Revision)
	if err != nil {
		return 0, err
	}
	if !taken { // another was faster
		return min(lookEvery, w.job.Every), nil
	}
	return w.do(ctx, asked)
}

// untilDue is how long it is until the next run. A time that lies further ahead than it
// could was set by a clock that was wrong, or for a longer interval: it doesn't count.
func (w *worker) untilDue(t turn) time.Duration {
	wait := t.Due.Sub(w.Now())
	if wait > w.job.Every+maxSkew {
		return 0
	}
	return min(wait, w.job.Every)
}

// take makes this replica the holder, unless the record has changed since it was looked at.
func (w *worker) take(ctx context.Context, revision int64) (taken bool, err error) {
	err = w.DB.Update(ctx, func(tx Tx) error {
		taken = false
		t, err := getTurn(tx, w.job.Name)
		if err != nil || t.Revision != revision {
			return err
		}
		t.Holder, t.Began = w.name, w.Now().UTC()
		taken = true
		return putTurn(tx, t)
	})
	return taken, err
}

// do does the job, and gives signs of life until it is done. The first one was the taking.
func (w *worker) do(ctx context.Context, asked time.Time) (wait time.Duration, err error) {
	working, lose := context.WithCancelCause(ctx)
	defer lose(nil)
	// The job may need a while to end after ctx has: it is its holder until then.
	beating, stop := context.WithCancel(context.WithoutCancel(ctx))
	sure := time.AfterFunc(holderSure-time.Since(asked), func() { lose(errLeaseLost) })
	var wg sync.WaitGroup
	wg.Go(func() { w.beat(beating, sure, lose) })

	failed := w.job.Do(working)
	stop()
	wg.Wait()
	sure.Stop()

	if failed != nil && errors.Is(context.Cause(working), errLeaseLost) {
		failed = fmt.Errorf("%w: %w", errLeaseLost, failed)
	}
	interrupted := failed != nil && ctx.Err() != nil
	if failed != nil && !interrupted {
		w.Log.WarnContext(ctx, "scheduled work failed, will be tried again", "job", w.job.Name, "err", failed)
	}
	return w.finish(ctx, failed, interrupted)
}

// beat writes signs of life until ctx ends. It puts the end of the work off with each
// of them, and brings it about when another has taken over.
func (w *worker) beat(ctx context.Context, sure *time.Timer, lose context.CancelCauseFunc) {
	wait := beatEvery
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		asked := time.Now()
		held, err := w.prolong(ctx)
		switch {
		case err != nil:
			wait = firstRetry
			continue
		case !held:
			lose(errLeaseLost)
			return
		}
		wait = beatEvery
		if sure.Stop() {
			sure.Reset(holderSure - time.Since(asked))
		}
	}
}

// prolong writes one sign of life. It returns false when another has taken over.
func (w *worker) prolong(ctx context.Context) (held bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, beatEvery)
	defer cancel()
	err = w.DB.Update(ctx, func(tx Tx) error {
		t, err := getTurn(tx, w.job.Name)
		if err != nil {
			return err
		}
		if held = t.Holder == w.name; !held {
			return nil
		}
		return putTurn(tx, t)
	})
	return held, err
}

// finish gives the turn back, also at shutdown.
func (w *worker) finish(ctx context.Context, failed error, interrupted bool) (wait time.Duration, err error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	err = w.DB.Update(ctx, func(tx Tx) error {
		wait = lookEvery
		t, err := getTurn(tx, w.job.Name)
		if err != nil || t.Holder != w.name {
			return err // another has taken over
		}
		switch {
		case interrupted:
			wait = 0
		case failed != nil:
			t.Failures++
			wait = backoff(t.Failures, w.job.Every)
		default:
			t.Failures = 0
			wait = w.job.Every
		}
		t.Holder, t.Due = "", w.Now().Add(wait).UTC()
		return putTurn(tx, t)
	})
	return wait, err
}
