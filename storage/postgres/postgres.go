// Package postgres keeps Gatehouse's state in a PostgreSQL database, which several servers
// may share: the engine of an installation that has more than one.
//
// All of it lies in one table of buckets, keys and values. A transaction's writes wait in
// memory and go over in the flight that commits; what it reads is asked for in as few
// flights as it lets us ([storage.Tx].Prefetch). Transactions are REPEATABLE READ: two that
// write the same record conflict, and the one that comes second runs again.
//
// It knows nothing of what it stores. Its types stop here: the rest of the program sees
// package storage.
package postgres

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/internal/watch"
)

// DB is a database on a PostgreSQL server. It is a [storage.DB].
type DB struct {
	pool *pool
	name string // for people: user, host and database, but no password
	log  *slog.Logger

	closing atomic.Bool
	running sync.RWMutex // held for reading by every transaction, so that Close can wait

	patience time.Duration // with a flight: flightTimeout

	again chan struct{} // holds the turn of those who run again after conflicts

	watchers watch.Hub
	news     *news
}

var _ storage.DB = (*DB)(nil)

// Options says how to open a database.
type Options struct {
	Log *slog.Logger // told of lost connections; nil: nobody is

	// Exclusive refuses a database that another process has open, and keeps others
	// from opening it.
	Exclusive bool
}

// openTimeout is how long the first connection may take, so that a wrong address is an
// error and not a silence.
const openTimeout = 15 * time.Second

// Open connects to the database that url names, and makes its table if there is none. What
// url leaves out comes from the variables PGHOST, PGPASSWORD and so on, as with psql. The
// error names the server, but never the password; it wraps [storage.ErrUnavailable],
// [storage.ErrNewer] or [storage.ErrInUse] where these apply.
func Open(ctx context.Context, url string, opts Options) (*DB, error) {
	config, err := parse(url)
	if err != nil {
		return nil, err
	}
	log := opts.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	db := &DB{patience: flightTimeout, name: describe(config.Config), log: log, again: make(chan struct{}, 1)}
	db.news = newNews(db, config.Config, opts.Exclusive)

	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	conn, err := pgconn.ConnectConfig(ctx, db.news.config)
	if err != nil {
		return nil, db.explain(err)
	}
	table, err := db.setUp(ctx, conn)
	if err == nil {
		db.warn(ctx, config, conn)
		err = db.news.start(ctx, conn, table)
	}
	if err != nil {
		closeConn(conn)
		return nil, err
	}

	db.pool, err = openPool(ctx, config)
	if err != nil {
		db.news.stop()
		return nil, db.explain(err)
	}
	return db, nil
}

// warn logs what works but should not stay so.
func (db *DB) warn(ctx context.Context, config *config, conn *pgconn.PgConn) {
	// What was agreed on, since sslmode's default does without where the server does.
	if _, encrypted := conn.Conn().(*tls.Conn); !encrypted && !local(config.Host) {
		db.log.WarnContext(ctx, "the connection to the database is not encrypted; add sslmode=verify-full to its URL", "database", db.name)
	}
	row, err := queryRow(ctx, conn, "select extract(epoch from clock_timestamp()), current_setting('synchronous_commit')")
	if err == nil {
		if string(row[1]) == "off" {
			db.log.WarnContext(ctx, "synchronous_commit is off: a crash of the database loses what clients were told is done", "database", db.name)
		}
		seconds, err := strconv.ParseFloat(string(row[0]), 64)
		at := time.UnixMicro(int64(seconds * 1e6))
		if off := time.Until(at).Abs(); err == nil && off > maxClockSkew {
			db.log.WarnContext(ctx, "this machine's clock is not the database's; replicas whose clocks differ disagree on what has expired", "database", db.name, "seconds", int(off.Seconds()))
		}
	}
}

// maxClockSkew is by how much clocks may differ before it is worth a word. Leases take
// tens of seconds.
const maxClockSkew = 2 * time.Second

// Watch implements [storage.DB].
func (db *DB) Watch(topic string) (changed <-chan struct{}, stop func()) {
	return db.watchers.Watch(topic)
}

// Close implements [storage.DB].
func (db *DB) Close() error {
	if db.closing.Swap(true) {
		return nil
	}
	db.running.Lock() // until those that run have ended
	defer db.running.Unlock()
	db.news.stop()
	db.pool.close()
	return nil
}

// enter counts a transaction in, unless the database was closed.
func (db *DB) enter(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if db.closing.Load() {
		return storage.ErrClosed
	}
	db.running.RLock()
	if db.closing.Load() {
		db.running.RUnlock()
		return storage.ErrClosed
	}
	return nil
}

// closeConn ends a connection, whatever ctx its user had.
func closeConn(conn *pgconn.PgConn) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = conn.Close(ctx) // it is of no more use, either way
}

func (db *DB) String() string { return fmt.Sprintf("PostgreSQL %s", db.name) }
