package postgres

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/gatehouse-mdm/gatehouse/storage"
)

const (
	// newsPause is between two messages to other processes: what happens meanwhile goes
	// with the next one. NOTIFY takes a lock of the whole database when it commits, so
	// it goes in transactions of its own, and not one for each command that is answered.
	newsPause = 20 * time.Millisecond

	maxPending = 1000 // topics; beyond, everybody looks at everything
	maxPayload = 7000 // bytes; PostgreSQL's own limit is 8000

	newsCheck    = 30 * time.Second // of a connection on which nothing came
	newsPoll     = time.Second      // where the database can't notify
	newsTimeout  = 10 * time.Second
	newsMaxRetry = 5 * time.Second
)

// everything is the topic of those who have lost count.
const everything = "*"

// news carries what transactions notify to other processes, and theirs here, on a
// connection of its own. That also shows that the database is in use, by an advisory lock.
type news struct {
	db        *DB
	config    *pgconn.Config // of connections that hand over what they hear
	table     uint32
	exclusive bool
	self      string      // sender of our messages
	polls     atomic.Bool // the database has no LISTEN

	cancel  context.CancelFunc
	running sync.WaitGroup

	mu        sync.Mutex
	pending   map[string]struct{}
	interrupt context.CancelFunc // of the wait for messages, as there is something to send
}

func newNews(db *DB, config *pgconn.Config, exclusive bool) *news {
	n := &news{
		db: db, config: config.Copy(), exclusive: exclusive, self: rand.Text(),
		pending: make(map[string]struct{}), interrupt: func() {},
	}
	n.config.OnNotification = func(_ *pgconn.PgConn, m *pgconn.Notification) { n.take(m.Payload) }
	return n
}

// start marks the database of a table as in use and begins to listen on conn, which is of
// our configuration, and then ours.
func (n *news) start(ctx context.Context, conn *pgconn.PgConn, table uint32) error {
	n.table = table
	free, err := n.lock(ctx, conn)
	if err == nil && !free {
		if n.exclusive {
			return fmt.Errorf("%w: PostgreSQL %s: a server uses it; stop all of them first", storage.ErrInUse, n.db.name)
		}
		return fmt.Errorf("%w: PostgreSQL %s: another process needs it for itself, such as a copy that is not finished", storage.ErrInUse, n.db.name)
	}
	if err == nil {
		err = n.listen(ctx, conn)
	}
	if err != nil {
		return n.db.explain(err)
	}
	ctx, n.cancel = context.WithCancel(context.WithoutCancel(ctx))
	n.running.Go(func() { n.run(ctx, conn) })
	return nil
}

func (n *news) stop() {
	n.cancel()
	n.running.Wait()
}

// lock takes the lock that all users of the database share, or that one has alone.
func (n *news) lock(ctx context.Context, conn *pgconn.PgConn) (ok bool, err error) {
	function := "pg_try_advisory_lock_shared"
	if n.exclusive {
		function = "pg_try_advisory_lock"
	}
	row, err := queryRow(ctx, conn, fmt.Sprintf(`select %s(%d, %d)`, function, lockClass, int32(n.table)))
	if missing(err) {
		return true, nil
	}
	return err == nil && isTrue(row[0]), err
}

func (n *news) channel() string { return fmt.Sprintf("gatehouse_%d", n.table) }

func (n *news) listen(ctx context.Context, conn *pgconn.PgConn) error {
	_, err := query(ctx, conn, "listen "+n.channel())
	if missing(err) {
		n.polls.Store(true)
		return nil
	}
	return err
}

// missing reports whether a relative of PostgreSQL lacks what was asked for.
func missing(err error) bool {
	code := state(err)
	return code == featureNotSupported || code == undefinedFunction || code == "42601" // syntax error
}

// run keeps a connection until ctx ends.
func (n *news) run(ctx context.Context, conn *pgconn.PgConn) {
	failures := 0
	for {
		err := n.exchange(ctx, conn)
		if ctx.Err() != nil {
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
			defer cancel()
			_ = n.send(last, conn) // else others find out when they look by themselves
			closeConn(conn)
			return
		}
		if failures == 0 {
			n.db.log.WarnContext(ctx, "connection for news lost, will connect again", "database", n.db.name, "err", n.db.explain(err))
		}
		closeConn(conn)
		for {
			failures++
			wait := min(lostWait<<min(failures, 10), newsMaxRetry)
			select {
			case <-time.After(wait/2 + mathrand.N(wait/2+1)):
			case <-ctx.Done():
				return
			}
			if conn, err = n.connect(ctx); err == nil {
				break
			}
		}
		failures = 0
		n.db.watchers.WakeAll() // whatever was said meanwhile
		n.db.log.InfoContext(ctx, "connection for news is back", "database", n.db.name)
	}
}

func (n *news) connect(ctx context.Context) (*pgconn.PgConn, error) {
	ctx, cancel := context.WithTimeout(ctx, newsTimeout)
	defer cancel()
	conn, err := pgconn.ConnectConfig(ctx, n.config)
	if err != nil {
		return nil, err
	}
	free, err := n.lock(ctx, conn)
	if err == nil && !free {
		n.db.log.WarnContext(ctx, "another process took the database for itself while the connection was lost, such as a copy; what is written now may be missing there", "database", n.db.name)
	}
	if err == nil {
		err = n.listen(ctx, conn)
	}
	if err != nil {
		closeConn(conn)
		return nil, err
	}
	return conn, nil
}

// exchange takes messages and sends what is pending, until the connection or ctx ends.
func (n *news) exchange(ctx context.Context, conn *pgconn.PgConn) error {
	patience := newsCheck
	if n.polls.Load() {
		patience = newsPoll
	}
	var sent time.Time
	for {
		n.mu.Lock()
		waiting := len(n.pending) > 0
		until := time.Now().Add(patience)
		if waiting { // what is pending goes out, but not too often
			until = sent.Add(newsPause)
		}
		wait, cancel := context.WithDeadline(ctx, until)
		if n.interrupt = cancel; waiting {
			n.interrupt = func() {} // or the next would go before its time
		}
		n.mu.Unlock()

		err := conn.WaitForNotification(wait) // take has it then
		ended := wait.Err() != nil
		cancel()
		switch {
		case err == nil:
			continue
		case ctx.Err() != nil:
			return ctx.Err()
		case !ended || conn.IsClosed():
			return err
		}
		if n.polls.Load() {
			n.db.watchers.WakeAll()
		}
		speak, cancel := context.WithTimeout(ctx, newsTimeout)
		switch {
		case waiting:
			err = n.send(speak, conn)
			sent = time.Now()
		case errors.Is(wait.Err(), context.DeadlineExceeded): // nothing came for long
			err = conn.Ping(speak)
		default: // interrupted: the next round sends
			err = nil
		}
		cancel()
		if err != nil {
			return err
		}
	}
}

// take reads a message: who sent it, then topics.
func (n *news) take(payload string) {
	var parts []string
	if err := json.Unmarshal([]byte(payload), &parts); err != nil || len(parts) == 0 {
		n.db.watchers.WakeAll() // not one of ours, or of a newer version
		return
	}
	switch topics := parts[1:]; {
	case parts[0] == n.self:
	case slices.Contains(topics, everything):
		n.db.watchers.WakeAll()
	default:
		n.db.watchers.Wake(topics...)
	}
}

// tell wakes who watches topics here, and has others told.
func (db *DB) tell(topics []string) {
	if len(topics) == 0 {
		return
	}
	db.watchers.Wake(topics...)
	n := db.news
	if n.polls.Load() {
		return // others look by themselves
	}
	n.mu.Lock()
	for _, t := range topics {
		n.pending[t] = struct{}{}
	}
	n.bound()
	n.interrupt()
	n.mu.Unlock()
}

// bound keeps pending small; n.mu is held.
func (n *news) bound() {
	if len(n.pending) > maxPending {
		n.pending = map[string]struct{}{everything: {}}
	}
}

// send sends what is pending; what can't be sent stays so.
func (n *news) send(ctx context.Context, conn *pgconn.PgConn) error {
	n.mu.Lock()
	batch := n.pending
	n.pending = make(map[string]struct{})
	n.mu.Unlock()
	if len(batch) == 0 {
		return nil
	}
	payloads, err := n.payloads(batch)
	if err == nil {
		list := newArray(oidText, len(payloads), maxPayload)
		for _, p := range payloads {
			appendTo(list, p)
		}
		err = conn.ExecParams(ctx, `select pg_notify($1, payload) from unnest($2::text[]) as t(payload)`,
			[][]byte{[]byte(n.channel()), list.bytes()}, nil, binaryFormat, nil).Read().Err
	}
	if err == nil || missing(err) {
		return nil
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for t := range batch {
		n.pending[t] = struct{}{}
	}
	n.bound()
	return err
}

// payloads writes messages, each within PostgreSQL's limit.
func (n *news) payloads(topics map[string]struct{}) ([]string, error) {
	var payloads []string
	message, length := []string{n.self}, len(n.self)
	flush := func() error {
		b, err := json.Marshal(message)
		payloads = append(payloads, strings.ToValidUTF8(string(b), ""))
		message, length = []string{n.self}, len(n.self)
		return err
	}
	var errs []error
	for t := range topics {
		if length+6*len(t)+3 > maxPayload { // JSON may take six bytes for one
			errs = append(errs, flush())
		}
		message, length = append(message, t), length+6*len(t)+3
	}
	return payloads, errors.Join(append(errs, flush())...)
}
