package storage_test

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/bolt"
)

// inBubble runs story in a bubble of its own time, with a database in it. It is always
// bbolt: a bubble knows nothing of what travels over a network.
func inBubble(t *testing.T, story func(t *testing.T, db storage.DB)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		db, err := bolt.Open(t.Context(), filepath.Join(t.TempDir(), "gatehouse.db"), bolt.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		story(t, db)
	})
}

// line is one replica's line to the database. It can be cut.
type line struct {
	storage.DB
	cut     atomic.Bool
	views   atomic.Int64
	updates atomic.Int64
	viewed  func() // called after each View; may be nil
}

var errCut = errors.New("the database can't be reached")

func (l *line) View(ctx context.Context, fn func(storage.Tx) error) error {
	l.views.Add(1)
	if l.cut.Load() {
		return errCut
	}
	if l.viewed != nil {
		defer l.viewed()
	}
	return l.DB.View(ctx, fn)
}

func (l *line) Update(ctx context.Context, fn func(storage.Tx) error) error {
	l.updates.Add(1)
	if l.cut.Load() {
		return errCut
	}
	return l.DB.Update(ctx, fn)
}

// replica is a process that runs one job.
type replica struct {
	*line
	stop context.CancelFunc
	done chan struct{}
}

// kill ends the process as a power cut does: it says nothing to the database any more.
func (r *replica) kill() {
	r.cut.Store(true)
	r.stop()
	<-r.done
}

// shut ends the process in good order.
func (r *replica) shut() {
	r.stop()
	<-r.done
}

func start(t *testing.T, db storage.DB, now func() time.Time, job storage.Job) *replica {
	return startOn(t, &line{DB: db}, now, job)
}

func startOn(t *testing.T, l *line, now func() time.Time, job storage.Job) *replica {
	r := &replica{line: l, done: make(chan struct{})}
	ctx, stop := context.WithCancel(t.Context())
	r.stop = stop
	schedule := storage.Schedule{DB: r.line, Jobs: []storage.Job{job}, Log: slog.New(slog.DiscardHandler), Now: now}
	go func() {
		defer close(r.done)
		if err := schedule.Run(ctx); err != nil {
			t.Error(err)
		}
	}()
	return r
}

// diary notes when a job ran.
type diary struct {
	mu   sync.Mutex
	runs []time.Time
	busy bool
}

// note is the beginning of a run; it ends by calling what it returns.
func (d *diary) note(t *testing.T) (end func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.busy {
		t.Errorf("two runs at once at %s", time.Now())
	}
	d.busy = true
	d.runs = append(d.runs, time.Now())
	return func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.busy = false
	}
}

func (d *diary) all() []time.Time {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.runs)
}

func TestAJobRunsOnceForAllReplicas(t *testing.T) {
	inBubble(t, func(t *testing.T, db storage.DB) {
		const every, work = time.Hour, 90 * time.Second
		var d diary
		job := storage.Job{Name: "sweep", Every: every, Do: func(ctx context.Context) error {
			defer d.note(t)()
			select {
			case <-time.After(work): // far longer than a holder may be silent
			case <-ctx.Done():
				if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) { // by shutdown
					t.Errorf("cut off: %v", cause)
				}
			}
			return nil
		}}
		var replicas []*replica
		for range 3 {
			replicas = append(replicas, start(t, db, time.Now, job))
		}
		time.Sleep(25*every + every/2)
		var updates, views int64
		for _, r := range replicas {
			r.shut()
			updates += r.updates.Load()
			views += r.views.Load()
		}
		runs := d.all()
		if n := len(runs); n < 24 || n > 26 {
			t.Errorf("%d runs in 25 intervals, want about one for each", n)
		}
		for i := 1; i < len(runs); i++ {
			if gap := runs[i].Sub(runs[i-1]); gap < every || gap > every+2*work {
				t.Errorf("run %d came %s after the one before", i, gap)
			}
		}
		// To take it, to give it back, and signs of life in between; those who find it
		// taken only read.
		if most := int64(len(runs)) * 15; updates > most || views > 4*most {
			t.Errorf("%d updates and %d views for %d runs", updates, views, len(runs))
		}
	})
}

func TestARestartDoesNotRunAJobAgain(t *testing.T) {
	inBubble(t, func(t *testing.T, db storage.DB) {
		var d diary
		job := storage.Job{Name: "sweep", Every: time.Hour, Do: func(context.Context) error {
			d.note(t)()
			return nil
		}}
		for range 5 {
			r := start(t, db, time.Now, job)
			time.Sleep(10 * time.Minute)
			r.shut()
		}
		if n := len(d.all()); n != 1 {
			t.Errorf("%d runs in 50 minutes with 5 starts, want one", n)
		}
		r := start(t, db, time.Now, job)
		time.Sleep(20 * time.Minute)
		r.shut()
		if n := len(d.all()); n != 2 {
			t.Errorf("%d runs after 70 minutes, want two", n)
		}
	})
}

func TestAnotherReplicaTakesOver(t *testing.T) {
	// Each end comes a while into the run, when signs of life are well under way.
	const into = 100 * time.Second
	for name, tt := range map[string]struct {
		end    func(*replica)
		within time.Duration
	}{
		"from one that died":            {(*replica).kill, 70 * time.Second},
		"from one that lost its line":   {func(r *replica) { r.cut.Store(true) }, 70 * time.Second},
		"at once from one that is shut": {(*replica).shut, 20 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, db storage.DB) {
				var first, second diary
				began, ended := make(chan struct{}), make(chan time.Time, 1)
				a := start(t, db, time.Now, storage.Job{Name: "sweep", Every: time.Hour, Do: func(ctx context.Context) error {
					defer first.note(t)()
					close(began)
					<-ctx.Done()
					ended <- time.Now()
					return ctx.Err()
				}})
				<-began
				b := start(t, db, time.Now, storage.Job{Name: "sweep", Every: time.Hour, Do: func(context.Context) error {
					second.note(t)()
					return nil
				}})
				time.Sleep(into)
				if runs := second.all(); len(runs) > 0 {
					t.Fatalf("the second replica ran at %v while the first was alive", runs)
				}
				at := time.Now()
				tt.end(a)
				time.Sleep(10 * time.Minute)
				runs := second.all()
				if len(runs) != 1 || runs[0].Sub(at) > tt.within {
					t.Fatalf("the second replica ran at %v, want once within %s of %s", runs, tt.within, at)
				}
				if e := <-ended; !e.Before(runs[0]) {
					t.Errorf("the first replica went on until %s, though the second began at %s", e, runs[0])
				}
				a.shut()
				b.shut()
			})
		})
	}
}

func TestOfTwoThatLookAtOnceOneRuns(t *testing.T) {
	inBubble(t, func(t *testing.T, db storage.DB) {
		var d diary
		job := storage.Job{Name: "sweep", Every: time.Hour, Do: func(context.Context) error {
			defer d.note(t)()
			time.Sleep(time.Minute)
			return nil
		}}
		var looked sync.WaitGroup
		looked.Add(2)
		var replicas []*replica
		for range 2 {
			var once sync.Once
			viewed := func() { once.Do(func() { looked.Done(); looked.Wait() }) }
			replicas = append(replicas, startOn(t, &line{DB: db, viewed: viewed}, time.Now, job))
		}
		time.Sleep(30 * time.Minute)
		for _, r := range replicas {
			r.shut()
		}
		if n := len(d.all()); n != 1 {
			t.Errorf("%d runs, want one", n)
		}
	})
}

func TestAFrozenHolderDoesNotTakeItsJobBack(t *testing.T) {
	inBubble(t, func(t *testing.T, db storage.DB) {
		var d diary
		frozen, thaw := make(chan struct{}), make(chan struct{})
		work := func(context.Context) error {
			defer d.note(t)()
			time.Sleep(10 * time.Minute)
			return nil
		}
		// It stands still in its first run, as a machine does that is suspended, and does
		// not even notice that its context has ended.
		first := true
		a := start(t, db, time.Now, storage.Job{Name: "sweep", Every: time.Hour, Do: func(ctx context.Context) error {
			if !first {
				return work(ctx)
			}
			first = false
			close(frozen)
			<-thaw
			return errors.New("it went wrong, too")
		}})
		<-frozen
		a.cut.Store(true)
		b := start(t, db, time.Now, storage.Job{Name: "sweep", Every: time.Hour, Do: work})
		time.Sleep(5 * time.Minute)
		a.cut.Store(false)
		close(thaw) // in the middle of the other's run
		time.Sleep(50 * time.Minute)
		a.shut()
		b.shut()
		if n := len(d.all()); n != 1 {
			t.Errorf("%d runs in an hour beside the frozen one, want one: what that says at last must not count", n)
		}
	})
}

func TestAFailedJobIsTriedAgain(t *testing.T) {
	inBubble(t, func(t *testing.T, db storage.DB) {
		var broken atomic.Bool
		broken.Store(true)
		var d diary
		job := storage.Job{Name: "sweep", Every: time.Hour, Do: func(context.Context) error {
			d.note(t)()
			if broken.Load() {
				return errors.New("no luck")
			}
			return nil
		}}
		replicas := []*replica{start(t, db, time.Now, job), start(t, db, time.Now, job)}
		time.Sleep(time.Minute)
		if n := len(d.all()); n < 3 || n > 5 {
			t.Errorf("%d tries in the first minute, want 3 or 4, at growing distances", n)
		}
		time.Sleep(24 * time.Hour)
		if n := len(d.all()); n > 40 {
			t.Errorf("%d tries in a day of failures, want about one an hour at last", n)
		}
		broken.Store(false)
		time.Sleep(2 * time.Hour) // it has succeeded by then
		before := len(d.all())
		time.Sleep(10 * time.Hour)
		if n := len(d.all()) - before; n < 9 || n > 10 {
			t.Errorf("%d runs in 10 hours after it succeeded, want one an hour", n)
		}
		for _, r := range replicas {
			r.shut()
		}
	})
}

func TestAScheduleWaitsForTheDatabase(t *testing.T) {
	inBubble(t, func(t *testing.T, db storage.DB) {
		var d diary
		r := start(t, db, time.Now, storage.Job{Name: "sweep", Every: time.Minute, Do: func(context.Context) error {
			d.note(t)()
			return nil
		}})
		time.Sleep(10 * time.Minute)
		before, asked := len(d.all()), r.views.Load()+r.updates.Load()
		r.cut.Store(true)
		time.Sleep(time.Hour)
		if n := r.views.Load() + r.updates.Load() - asked; n > 120 {
			t.Errorf("a database that was away for an hour was asked %d times, want a few a minute at most", n)
		}
		if n := len(d.all()) - before; n > 1 {
			t.Errorf("%d runs without a database", n)
		}
		before = len(d.all())
		r.cut.Store(false)
		time.Sleep(2 * time.Minute)
		if n := len(d.all()) - before; n < 1 {
			t.Error("no run in two minutes after the database is back")
		}
		r.shut()
	})
}

func TestAWrongClockStopsNoJob(t *testing.T) {
	inBubble(t, func(t *testing.T, db storage.DB) {
		var d diary
		job := storage.Job{Name: "sweep", Every: time.Hour, Do: func(context.Context) error {
			d.note(t)()
			return nil
		}}
		wrong := start(t, db, func() time.Time { return time.Now().AddDate(10, 0, 0) }, job)
		time.Sleep(time.Minute)
		wrong.shut()
		right := start(t, db, time.Now, job)
		time.Sleep(time.Minute)
		right.shut()
		if n := len(d.all()); n != 2 {
			t.Errorf("%d runs, want one by each clock: the next was due in ten years", n)
		}
	})
}

func TestReplicasWhoseClocksDifferShareTheirJobs(t *testing.T) {
	for name, ahead := range map[string]time.Duration{
		"by less than what is allowed": 40 * time.Second,
		"by much more":                 3 * time.Hour,
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, db storage.DB) {
				var d diary
				job := storage.Job{Name: "renew", Every: time.Minute, Do: func(context.Context) error {
					defer d.note(t)() // complains of two at once
					time.Sleep(2 * time.Minute)
					return nil
				}}
				a := start(t, db, time.Now, job)
				b := start(t, db, func() time.Time { return time.Now().Add(ahead) }, job)
				time.Sleep(2 * time.Hour)
				a.shut()
				b.shut()
				if n := len(d.all()); n < 20 || n > 65 {
					t.Errorf("%d runs of 2 minutes in 2 hours", n)
				}
			})
		})
	}
}

func TestAScheduleSaysWhatItLacks(t *testing.T) {
	for name, s := range map[string]storage.Schedule{
		"no database": {Now: time.Now, Log: slog.Default()},
		"a job without a name": {DB: &line{}, Now: time.Now, Log: slog.Default(), Jobs: []storage.Job{
			{Every: time.Hour, Do: func(context.Context) error { return nil }}}},
		"a job without an interval": {DB: &line{}, Now: time.Now, Log: slog.Default(), Jobs: []storage.Job{
			{Name: "x", Do: func(context.Context) error { return nil }}}},
	} {
		if err := s.Run(t.Context()); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
