package postgres

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/internal/writeset"
)

const (
	// lostRetries is how often a transaction begins again after its connection broke
	// before the commit: about as long as a restart of the database takes.
	lostRetries = 5
	lostWait    = 50 * time.Millisecond // before the first of them; each following is twice as long

	// maxConflicts is when a transaction gives up against others. Those of one process
	// take turns after the second, so that it takes many servers to get there.
	maxConflicts = 500
	conflictWait = 50 * time.Millisecond // at most
)

// View implements [storage.DB].
func (db *DB) View(ctx context.Context, fn func(storage.Tx) error) error {
	return db.run(ctx, false, fn)
}

// Update implements [storage.DB].
func (db *DB) Update(ctx context.Context, fn func(storage.Tx) error) error {
	return db.run(ctx, true, fn)
}

// run runs fn until it has succeeded, or has failed for a reason of its own or one
// that trying again does not mend.
func (db *DB) run(ctx context.Context, write bool, fn func(storage.Tx) error) error {
	if err := db.enter(ctx); err != nil {
		return err
	}
	defer db.running.RUnlock()

	conflicts, losses, myTurn := 0, 0, false
	defer func() {
		if myTurn {
			<-db.again
		}
	}()
	for {
		cause, err := db.attempt(ctx, write, fn)
		var wait time.Duration
		switch {
		case cause == nil:
			return err
		case conflict(cause):
			conflicts++
			if conflicts == maxConflicts {
				return fmt.Errorf("%w: PostgreSQL %s: gave up after %d conflicts with other transactions", storage.ErrUnavailable, db.name, conflicts)
			}
			if conflicts >= 2 && !myTurn {
				select {
				case db.again <- struct{}{}:
					myTurn = true
				case <-ctx.Done():
					return ctx.Err()
				}
			}
			wait = rand.N(min(time.Millisecond<<min(conflicts, 10), conflictWait))
		case lost(cause) && losses < lostRetries:
			wait = lostWait << losses
			losses++
			if myTurn { // others need not wait for our connection
				<-db.again
				myTurn = false
			}
		default:
			return err
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// attempt runs fn once. cause is why it may be worth to do so again; it is nil when it
// is not, because all went well or because fn, the context or the commit failed for good.
func (db *DB) attempt(ctx context.Context, write bool, fn func(storage.Tx) error) (cause, err error) {
	s := &session{db: db, ctx: ctx, write: write}
	defer s.end() // also if fn panics
	tx := writeset.NewReadOnly(s)
	if write {
		tx = writeset.New(s)
	}
	defer tx.Close()

	err = fn(tx)
	switch {
	case s.err != nil && !errors.Is(err, s.err): // fn made something else of it
		return s.cause, s.err
	case s.err != nil:
		return s.cause, err
	case err != nil:
		return nil, err
	case !write:
		return nil, s.finish()
	}
	cause, err = s.commit(tx)
	if err == nil {
		db.tell(tx.Topics())
	}
	return cause, err
}

// finish ends a transaction that wrote nothing.
func (s *session) finish() error {
	if s.begun {
		_ = s.flight(func(f *flight) { f.send(stCommit, nil, nil) }) // what was read is right all the same
	}
	return nil
}

// commit sends what the closure wrote, and makes it durable, in one flight.
func (s *session) commit(tx *writeset.Tx) (cause, err error) {
	if tx.Len() == 0 {
		return nil, s.finish()
	}
	if err := s.acquire(); err != nil {
		return err, s.fail(err)
	}
	if !s.begun && s.conn.stale() {
		// Better a round trip than a commit on a connection that broke long ago.
		if err := s.flight(func(*flight) {}); err != nil {
			return s.cause, err
		}
	}
	// A commit that was sent is not given up when its caller is gone, or nobody would
	// know what became of it; only where the database is silent for too long.
	patience := commitTimeout
	if deadline, ok := s.ctx.Deadline(); ok {
		patience = min(patience, max(time.Until(deadline), 0)+commitGrace)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.ctx), patience)
	defer cancel()
	f := newFlight(ctx, s.conn)
	s.begin(f)
	s.sendWrites(f, tx)
	f.send(stCommit, nil, nil)
	err = f.land()
	s.readOnly = state(err) == readOnlyTransaction
	switch {
	case f.tag == "COMMIT":
		return nil, nil // whatever happened to the connection then
	case err == nil:
		return nil, fmt.Errorf("%w: PostgreSQL %s: it answered %q to a commit", storage.ErrCommit, s.db.name, f.tag)
	case conflict(err), ended(err), pgconn.SafeToRetry(err): // had it committed, it had said so
		return err, s.db.uncommitted(err, false)
	case state(err) == "" && ctx.Err() != nil:
		return nil, s.db.uncommitted(fmt.Errorf("no answer within %v: %w", patience.Round(time.Second), errSilent), true)
	case state(err) == "", state(err) == statementUnknown, lost(err): // the answer got lost
		return nil, s.db.uncommitted(err, true)
	}
	return nil, s.db.uncommitted(err, false)
}

// maxStatement is about how many bytes one statement carries.
const maxStatement = 32 << 20

// sendWrites adds the writes of a closure: what it had found there is changed, other keys
// are set whatever is there, and the rest is deleted; each kind by one statement.
func (s *session) sendWrites(f *flight, tx *writeset.Tx) {
	var put, change, del writes
	put.one, put.many, put.values = stPut, stPutMany, true
	change.one, change.many, change.values = stChange, stChangeMany, true
	del.one, del.many = stDelete, stDeleteMany
	for w := range tx.Writes() {
		kind := &put
		switch {
		case w.Delete:
			kind = &del
		case s.found[place{w.Bucket, string(w.Key)}].there:
			kind = &change
		}
		kind.add(w)
		if kind.bytes > maxStatement {
			kind.send(f)
		}
	}
	for _, kind := range []*writes{&put, &change, &del} {
		kind.send(f)
	}
}

// writes are the writes of one kind.
type writes struct {
	one, many int // the statements
	values    bool
	list      []writeset.Write
	bytes     int
}

func (ws *writes) add(w writeset.Write) {
	ws.list = append(ws.list, w)
	ws.bytes += len(w.Bucket) + len(w.Key) + len(w.Value)
}

func (ws *writes) send(f *flight) {
	list := ws.list
	if len(list) == 0 {
		return
	}
	var params [][]byte
	statement := ws.many
	if len(list) == 1 {
		statement = ws.one
		params = [][]byte{[]byte(list[0].Bucket), list[0].Key}
		if ws.values {
			params = append(params, orEmpty(list[0].Value))
		}
	} else {
		n := len(list)
		buckets, keys, values := newArray(oidText, n, 16*n), newArray(oidBytea, n, 32*n), newArray(oidBytea, n, ws.bytes)
		for _, w := range list {
			appendTo(buckets, w.Bucket)
			appendTo(keys, w.Key)
			if ws.values {
				appendTo(values, w.Value)
			}
		}
		params = [][]byte{buckets.bytes(), keys.bytes()}
		if ws.values {
			params = append(params, values.bytes())
		}
	}
	f.send(statement, params, nil)
	ws.list, ws.bytes = nil, 0
}
