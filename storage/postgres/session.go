package postgres

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/internal/writeset"
)

const (
	// firstChunk is how many items a scan without a limit reads at first. Each
	// following chunk is larger, up to maxChunk items or about chunkBytes.
	firstChunk = 64
	maxChunk   = 4096
	chunkBytes = 4 << 20

	// fewReads is up to how many keys or spans are asked for one by one in a flight.
	fewReads = 4

	acquireTimeout = 15 * time.Second // of a connection from the pool
	flightTimeout  = 45 * time.Second // longer than a statement may take
	commitTimeout  = 45 * time.Second // the same
	commitGrace    = 3 * time.Second  // of a commit that was sent, beyond its caller's deadline
	endTimeout     = 5 * time.Second  // of a rollback
)

// afterKeys is above every key.
var afterKeys = bytes.Repeat([]byte{0xff}, storage.MaxKey+1)

// session is one run of a closure: a transaction on the server, begun in the flight of its
// first read. It remembers what it read, which the snapshot does not change, and gathers
// what is asked for until something must be known.
type session struct {
	db    *DB
	ctx   context.Context //nolint:containedctx // it lives as long as the call that made it
	write bool

	conn     *conn
	begun    bool
	readOnly bool  // the connection takes no writes, perhaps for as long as it lasts
	cause    error // the first failure, as pgx gave it; nothing can be committed after it
	err      error // the same for the closure

	found map[place]finding
	spans map[spanPlace]chunk // what was read ahead

	keys  []writeset.Key // asked for in the next flight
	ahead []writeset.Ahead
}

var _ writeset.Base = (*session)(nil)

// place is where a value is.
type place struct{ bucket, key string }

// finding is what is known of a place.
type finding struct {
	known bool // else it was asked for
	there bool
	value []byte
}

type spanPlace struct {
	bucket, lo, hi string
	open, reverse  bool // open: there is no hi
}

func placeOf(s writeset.Span) spanPlace {
	return spanPlace{s.Bucket, string(s.Lo), string(s.Hi), s.Hi == nil, s.Reverse}
}

// chunk is the first items of a span.
type chunk struct {
	known bool // else it was asked for
	items []storage.Item
	whole bool // there are no more in the span
	then  func(storage.Item) ([]writeset.Key, []writeset.Ahead)
}

// Get implements [writeset.Base].
func (s *session) Get(bucket string, key []byte) (value []byte, ok bool, err error) {
	at := place{bucket, string(key)}
	f := s.found[at]
	if !f.known {
		s.want(at)
		if err := s.ask(); err != nil {
			return nil, false, err
		}
		if f = s.found[at]; !f.known {
			return nil, false, fmt.Errorf("%s %q was asked for and not answered", bucket, key)
		}
	}
	if !f.there {
		return nil, false, nil
	}
	return append([]byte{}, f.value...), true, nil
}

// Prefetch implements [writeset.Base].
func (s *session) Prefetch(keys []writeset.Key, spans []writeset.Ahead) {
	for _, k := range keys {
		s.want(place{k.Bucket, string(k.Key)})
	}
	for _, a := range spans {
		s.wantSpan(a)
	}
}

// want has a key in the next flight, unless it is known or wanted already.
func (s *session) want(at place) {
	if _, ok := s.found[at]; ok {
		return
	}
	if s.found == nil {
		s.found = make(map[place]finding)
	}
	s.found[at] = finding{}
	s.keys = append(s.keys, writeset.Key{Bucket: at.bucket, Key: []byte(at.key)})
}

func (s *session) wantSpan(a writeset.Ahead) {
	at := placeOf(a.Span)
	if _, ok := s.spans[at]; ok {
		return
	}
	if s.spans == nil {
		s.spans = make(map[spanPlace]chunk)
	}
	s.spans[at] = chunk{}
	if a.Lo = []byte(at.lo); a.Hi != nil {
		a.Hi = []byte(at.hi)
	}
	s.ahead = append(s.ahead, a)
}

// Scan implements [writeset.Base].
func (s *session) Scan(span writeset.Span) iter.Seq2[storage.Item, error] {
	return func(yield func(storage.Item, error) bool) {
		c, err := s.first(span)
		for {
			if err != nil {
				yield(storage.Item{}, err)
				return
			}
			for _, item := range c.items {
				if !yield(storage.Item{Key: bytes.Clone(item.Key), Value: append([]byte{}, item.Value...)}, nil) {
					return
				}
			}
			if c.whole {
				return
			}
			last := c.items[len(c.items)-1].Key
			if span.Reverse {
				span.Hi = last
			} else {
				span.Lo = append(bytes.Clone(last), 0)
			}
			span.Limit = nextSize(c)
			c, err = s.fetch(writeset.Ahead{Span: span, Then: c.then})
		}
	}
}

// first returns the first chunk of a span, which may have been read ahead.
func (s *session) first(span writeset.Span) (chunk, error) {
	at := placeOf(span)
	c, ahead := s.spans[at]
	switch {
	case c.known:
		return c, nil
	case ahead:
		err := s.ask()
		return s.spans[at], err
	}
	return s.fetch(writeset.Ahead{Span: span})
}

// fetch reads a chunk that nobody will ask for again.
func (s *session) fetch(a writeset.Ahead) (chunk, error) {
	s.wantSpan(a)
	if err := s.ask(); err != nil {
		return chunk{}, err
	}
	at := placeOf(a.Span)
	c := s.spans[at]
	delete(s.spans, at)
	return c, nil
}

// size is how many items of a span to ask for.
func size(s writeset.Span) int {
	if s.Limit > 0 {
		return min(s.Limit, maxChunk)
	}
	return firstChunk
}

// nextSize is how many items to ask for after c, so that large values come in small chunks.
func nextSize(c chunk) int {
	bytes := 0
	for _, item := range c.items {
		bytes += len(item.Key) + len(item.Value)
	}
	average := max(bytes/len(c.items), 1)
	return max(1, min(4*len(c.items), chunkBytes/average, maxChunk))
}

// Buckets implements [writeset.Base].
func (s *session) Buckets() (names []string, err error) {
	err = s.flight(func(f *flight) {
		f.send(stBuckets, nil, func(row [][]byte) { names = append(names, string(row[0])) })
	})
	return names, err
}

// ask sends for all that is wanted.
func (s *session) ask() error {
	if s.err != nil {
		return s.err
	}
	keys, spans := s.keys, s.ahead
	s.keys, s.ahead = nil, nil
	chunks := make([]chunk, len(spans))
	found := func(bucket, key string, value []byte) {
		s.found[place{bucket, key}] = finding{known: true, there: true, value: append([]byte{}, value...)}
	}
	take := func(i int, key, value []byte) {
		if chunks[i].items == nil {
			chunks[i].items = make([]storage.Item, 0, min(size(spans[i].Span), firstChunk))
		}
		chunks[i].items = append(chunks[i].items, storage.Item{Key: bytes.Clone(key), Value: append([]byte{}, value...)})
	}
	err := s.flight(func(f *flight) {
		f.sendKeys(keys, found)
		f.sendSpans(spans, take)
	})
	if err != nil {
		return err
	}
	for _, k := range keys {
		if at := (place{k.Bucket, string(k.Key)}); !s.found[at].known {
			s.found[at] = finding{known: true}
		}
	}
	for i, a := range spans {
		c := &chunks[i]
		c.known, c.whole, c.then = true, len(c.items) < size(a.Span), a.Then
		s.spans[placeOf(a.Span)] = *c
		if s.write { // a closure that scans may write what it found
			if s.found == nil {
				s.found = make(map[place]finding)
			}
			for _, item := range c.items {
				found(a.Bucket, string(item.Key), item.Value)
			}
		}
		if a.Then != nil {
			for _, item := range c.items {
				s.Prefetch(a.Then(item))
			}
		}
	}
	return nil
}

// flight sends what build adds to it in one go, and takes all answers. Before the first
// one it begins the transaction.
func (s *session) flight(build func(*flight)) error {
	if s.err != nil {
		return s.err
	}
	if err := s.acquire(); err != nil {
		return s.fail(err)
	}
	ctx, cancel := context.WithTimeout(s.ctx, s.db.patience)
	defer cancel()
	f := newFlight(ctx, s.conn)
	s.begin(f)
	build(f)
	err := f.land()
	if err != nil && state(err) == "" && ctx.Err() != nil && s.ctx.Err() == nil {
		err = fmt.Errorf("no answer within %v: %w", s.db.patience, errSilent)
	}
	if err != nil {
		return s.fail(err)
	}
	return nil
}

// begin adds the statement that begins the transaction, once.
func (s *session) begin(f *flight) {
	switch {
	case s.begun:
		return
	case s.write:
		f.send(stBegin, nil, nil)
	default:
		f.send(stBeginRead, nil, nil)
	}
	s.begun = true
}

// acquire takes a connection from the pool.
func (s *session) acquire() error {
	if s.conn != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(s.ctx, acquireTimeout)
	defer cancel()
	conn, err := s.db.pool.acquire(ctx)
	if err != nil && s.ctx.Err() == nil && ctx.Err() != nil {
		return fmt.Errorf("no connection became free within %v; all %d of them are in use: raise pool_max_conns in the URL: %w", acquireTimeout, s.db.pool.config.maxConns, errBusy)
	}
	s.conn = conn
	return err
}

var (
	// errBusy is why a connection was not to be had although the database may be fine.
	errBusy = errors.New("pool exhausted")
	// errSilent is a database that neither answers nor breaks the connection.
	errSilent = errors.New("the database is silent")
)

// fail remembers the first failure, and returns it for the closure.
func (s *session) fail(err error) error {
	if s.err != nil {
		return s.err
	}
	s.cause = err
	if ended := s.ctx.Err(); ended != nil {
		s.cause, s.err = nil, ended // that tells it all
	} else {
		s.err = s.db.explain(err)
	}
	return s.err
}

// end gives the connection back, after undoing what was not committed.
func (s *session) end() {
	if s.conn == nil {
		return
	}
	if !s.conn.IsClosed() && s.conn.TxStatus() != 'I' {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(s.ctx), endTimeout)
		defer cancel()
		_, _ = s.conn.Exec(ctx, "rollback").ReadAll() // if that fails, the pool drops the connection
	}
	if s.readOnly {
		closeConn(s.conn.PgConn) // the pool makes another, which may be writable
	}
	s.conn.release()
	s.conn = nil
}

// flight is statements that go over together: one round trip.
type flight struct {
	pipeline *pgconn.Pipeline
	st       *statements
	rows     []func(row [][]byte) // of each statement sent, nil: it has none
	tag      string               // of the last statement that has succeeded
}

func newFlight(ctx context.Context, conn *conn) *flight {
	return &flight{pipeline: conn.StartPipeline(ctx), st: &conn.st}
}

// send adds a statement. row is called with each row of its answer, of which nothing may be kept.
func (f *flight) send(statement int, params [][]byte, row func([][]byte)) {
	formats := binaryFormat
	if len(params) == 0 {
		formats = nil
	}
	f.pipeline.SendQueryStatement(f.st[statement], params, formats, binaryFormat)
	f.rows = append(f.rows, row)
}

// land waits for all answers.
func (f *flight) land() error {
	err := f.pipeline.Sync()
	for i := 0; err == nil && i < len(f.rows); i++ {
		var result any
		if result, err = f.pipeline.GetResults(); err != nil {
			break
		}
		reader, ok := result.(*pgconn.ResultReader)
		if !ok {
			err = fmt.Errorf("unexpected answer %T", result)
			break
		}
		for reader.NextRow() {
			if f.rows[i] != nil {
				f.rows[i](reader.Values())
			}
		}
		var tag pgconn.CommandTag
		if tag, err = reader.Close(); err == nil {
			f.tag = tag.String()
		}
	}
	if closeErr := f.pipeline.Close(); err == nil {
		err = closeErr
	}
	return err
}

// sendKeys asks for values.
func (f *flight) sendKeys(keys []writeset.Key, found func(bucket, key string, value []byte)) {
	if len(keys) <= fewReads {
		for _, k := range keys {
			f.send(stGet, [][]byte{[]byte(k.Bucket), k.Key}, func(row [][]byte) { found(k.Bucket, string(k.Key), row[0]) })
		}
		return
	}
	buckets, names := newArray(oidText, len(keys), 16*len(keys)), newArray(oidBytea, len(keys), 32*len(keys))
	for _, k := range keys {
		appendTo(buckets, k.Bucket)
		appendTo(names, k.Key)
	}
	f.send(stGetMany, [][]byte{buckets.bytes(), names.bytes()}, func(row [][]byte) { found(string(row[0]), string(row[1]), row[2]) })
}

// sendSpans asks for the first items of spans.
func (f *flight) sendSpans(spans []writeset.Ahead, take func(i int, key, value []byte)) {
	if len(spans) <= fewReads {
		for i, a := range spans {
			statement := stScan
			if a.Reverse {
				statement = stScanReverse
			}
			f.send(statement, [][]byte{[]byte(a.Bucket), orEmpty(a.Lo), orAfterKeys(a.Hi), int8Param(size(a.Span))},
				func(row [][]byte) { take(i, row[0], row[1]) })
		}
		return
	}
	for _, statement := range []int{stScanMany, stScanManyReverse} {
		buckets, lows := newArray(oidText, len(spans), 16*len(spans)), newArray(oidBytea, len(spans), 32*len(spans))
		highs, most := newArray(oidBytea, len(spans), 32*len(spans)), newArray(oidInt8, len(spans), 8*len(spans))
		var which []int
		for i, a := range spans {
			if a.Reverse != (statement == stScanManyReverse) {
				continue
			}
			which = append(which, i)
			appendTo(buckets, a.Bucket)
			appendTo(lows, a.Lo)
			appendTo(highs, orAfterKeys(a.Hi))
			appendTo(most, int8Param(size(a.Span)))
		}
		if len(which) == 0 {
			continue
		}
		f.send(statement, [][]byte{buckets.bytes(), lows.bytes(), highs.bytes(), most.bytes()}, func(row [][]byte) {
			n := int(binary.BigEndian.Uint64(row[0]))
			take(which[n-1], row[1], row[2])
		})
	}
}

// orEmpty keeps a parameter from being NULL.
func orEmpty(key []byte) []byte {
	if key == nil {
		return []byte{}
	}
	return key
}

func orAfterKeys(hi []byte) []byte {
	if hi == nil {
		return afterKeys
	}
	return hi
}
