package postgres

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/puddle/v2"
)

const (
	prepareTimeout = 15 * time.Second // of the statements of a new connection
	fillTimeout    = time.Minute      // of the connections that a pool keeps ready
	closeTimeout   = 15 * time.Second

	// poolPause is how long after a connection was given up a pool looks whether it keeps
	// enough of them.
	poolPause = 500 * time.Millisecond
)

// pool keeps connections on which all statements are prepared.
type pool struct {
	config *config
	conns  *puddle.Pool[*conn]
	gone   chan struct{} // a connection was given up

	cancel  context.CancelFunc
	running sync.WaitGroup
}

// conn is a connection of a pool.
type conn struct {
	*pgconn.PgConn
	st      statements
	pool    *pool
	slot    *puddle.Resource[*conn] // nil until it is first used
	expires time.Time               // zero: never
}

// openPool makes a pool and its first connection. Others follow when they are needed,
// besides those that config has it keep ready.
func openPool(ctx context.Context, config *config) (*pool, error) {
	p := &pool{config: config, gone: make(chan struct{}, 1)}
	var err error
	p.conns, err = puddle.NewPool(&puddle.Config[*conn]{
		Constructor: p.connect,
		Destructor: func(c *conn) {
			ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
			defer cancel()
			_ = c.Close(ctx) // it is of no more use, either way
			select {
			case <-c.CleanupDone():
			case <-ctx.Done():
			}
		},
		MaxSize: config.maxConns,
	})
	if err != nil {
		return nil, err
	}
	first, err := p.acquire(ctx)
	if err != nil {
		p.conns.Close()
		return nil, err
	}
	first.release()
	ctx, p.cancel = context.WithCancel(context.WithoutCancel(ctx))
	p.running.Go(func() { p.run(ctx) })
	return p, nil
}

func (p *pool) connect(ctx context.Context) (*conn, error) {
	pg, err := pgconn.ConnectConfig(ctx, p.config.Config)
	if err != nil {
		return nil, err
	}
	c := &conn{PgConn: pg, pool: p}
	if p.config.lifetime > 0 {
		c.expires = time.Now().Add(p.config.lifetime + rand.N(max(p.config.jitter, 1)))
	}
	ctx, cancel := context.WithTimeout(ctx, prepareTimeout)
	defer cancel()
	if err := c.prepare(ctx); err != nil {
		closeConn(pg)
		return nil, err
	}
	return c, nil
}

// acquire takes a connection. That it still works is found out by using it, and then the
// transaction runs on another: asking first would cost a round trip.
func (p *pool) acquire(ctx context.Context) (*conn, error) {
	for {
		slot, err := p.conns.Acquire(ctx)
		if err != nil {
			return nil, err
		}
		c := slot.Value()
		isNew := c.slot == nil
		if c.slot = slot; isNew || !c.expired() { // else a short life would find none
			return c, nil
		}
		c.drop()
	}
}

// release gives c back, or up if it is not good for another transaction.
func (c *conn) release() {
	if c.IsClosed() || c.IsBusy() || c.TxStatus() != 'I' || c.expired() {
		c.drop()
		return
	}
	c.slot.Release()
}

// drop ends c and makes room for another.
func (c *conn) drop() {
	c.slot.Destroy()
	select {
	case c.pool.gone <- struct{}{}:
	default:
	}
}

func (c *conn) expired() bool { return !c.expires.IsZero() && time.Now().After(c.expires) }

// stale reports whether c was idle for so long that it may be broken without anybody
// having noticed.
func (c *conn) stale() bool { return c.slot.IdleDuration() > time.Second }

// run looks after the connections that nobody uses, until ctx ends.
func (p *pool) run(ctx context.Context) {
	ticker := time.NewTicker(p.config.period)
	defer ticker.Stop()
	for {
		p.fill(ctx)
		p.prune()
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			continue
		case <-p.gone:
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(poolPause): // or what is being given up would count
		}
	}
}

// prune ends idle connections that are too old, or more than are needed.
func (p *pool) prune() {
	total := p.conns.Stat().TotalResources()
	for _, slot := range p.conns.AcquireAllIdle() {
		c := slot.Value()
		c.slot = slot
		if c.expired() || slot.IdleDuration() > p.config.idleTime && total > p.config.minConns {
			total--
			c.drop()
			continue
		}
		slot.ReleaseUnused()
	}
}

// fill makes the connections that are kept ready. What fails now will be tried again.
func (p *pool) fill(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, fillTimeout)
	defer cancel()
	stat := p.conns.Stat()
	for range max(p.config.minConns-stat.TotalResources(), p.config.minIdleConns-stat.IdleResources()) {
		if p.conns.CreateResource(ctx) != nil {
			return
		}
	}
}

// close waits until all connections were given back, and have ended.
func (p *pool) close() {
	p.cancel()
	p.running.Wait()
	p.conns.Close()
}
