package postgres

import (
	"context"
	"encoding/binary"
	"errors"

	"github.com/jackc/pgx/v5/pgconn"
)

// The statements that a connection prepares once: everything that transactions send. Those
// for one key or range cost the server about half of what the others do for one.
const (
	stBegin = iota
	stBeginRead
	stCommit
	stGet
	stGetMany
	stScan
	stScanReverse
	stScanMany
	stScanManyReverse
	stPut
	stPutMany
	stChange
	stChangeMany
	stDelete
	stDeleteMany
	stBuckets
	stCount
)

var statementTexts = [stCount]string{
	stBegin:     `begin isolation level repeatable read`,
	stBeginRead: `begin isolation level repeatable read read only`,
	stCommit:    `commit`,

	stGet: `select value from kv where bucket = $1 and key = $2`,
	stGetMany: `select kv.bucket, kv.key, kv.value
		from unnest($1::text[], $2::bytea[]) as w(bucket, key)
		join kv on kv.bucket = w.bucket collate "C" and kv.key = w.key`,

	stScan:        `select key, value from kv where bucket = $1 and key >= $2 and key < $3 order by key limit $4`,
	stScanReverse: `select key, value from kv where bucket = $1 and key >= $2 and key < $3 order by key desc limit $4`,
	stScanMany: `select w.n, s.key, s.value
		from unnest($1::text[], $2::bytea[], $3::bytea[], $4::bigint[]) with ordinality as w(bucket, lo, hi, most, n)
		cross join lateral (
			select key, value from kv where kv.bucket = w.bucket collate "C" and key >= w.lo and key < w.hi
			order by key limit w.most) as s
		order by w.n, s.key`,
	stScanManyReverse: `select w.n, s.key, s.value
		from unnest($1::text[], $2::bytea[], $3::bytea[], $4::bigint[]) with ordinality as w(bucket, lo, hi, most, n)
		cross join lateral (
			select key, value from kv where kv.bucket = w.bucket collate "C" and key >= w.lo and key < w.hi
			order by key desc limit w.most) as s
		order by w.n, s.key desc`,

	// A row that the snapshot does not show, because it was made since, is a conflict
	// under REPEATABLE READ: what was found missing and is now written can't be lost.
	stPut: `insert into kv (bucket, key, value) values ($1, $2, $3)
		on conflict (bucket, key) do update set value = excluded.value`,
	stPutMany: `insert into kv (bucket, key, value)
		select * from unnest($1::text[], $2::bytea[], $3::bytea[])
		on conflict (bucket, key) do update set value = excluded.value`,

	// For what the transaction has seen there: a row that was deleted since is a
	// conflict here, where an insert would bring it back.
	stChange: `update kv set value = $3 where bucket = $1 and key = $2`,
	stChangeMany: `update kv set value = w.value
		from unnest($1::text[], $2::bytea[], $3::bytea[]) as w(bucket, key, value)
		where kv.bucket = w.bucket collate "C" and kv.key = w.key`,

	stDelete: `delete from kv where bucket = $1 and key = $2`,
	stDeleteMany: `delete from kv using unnest($1::text[], $2::bytea[]) as w(bucket, key)
		where kv.bucket = w.bucket collate "C" and kv.key = w.key`,

	// From name to name along the index: a distinct would read it all.
	stBuckets: `with recursive b(bucket) as (
		(select bucket from kv order by bucket limit 1)
		union all
		select (select kv.bucket from kv where kv.bucket > b.bucket order by kv.bucket limit 1) from b where b.bucket is not null
	) select bucket from b where bucket is not null`,
}

// planner keeps a connection to the primary key's index. All statements are answered by
// it, but a planner that knows little of the table yet, as after a copy, might read all of it.
const planner = `set enable_seqscan = off; set enable_hashjoin = off; set enable_mergejoin = off;
	set plan_cache_mode = force_generic_plan; set jit = off`

type statements [stCount]*pgconn.StatementDescription

// prepare readies a new connection.
func (c *conn) prepare(ctx context.Context) error {
	if _, err := c.Exec(ctx, planner).ReadAll(); err != nil && state(err) == "" {
		return err // else: a relative of PostgreSQL that knows no such settings
	}
	p := c.StartPipeline(ctx)
	for i, text := range statementTexts {
		p.SendPrepare("gatehouse"+string(rune('a'+i)), text, nil)
	}
	err := p.Sync()
	for i := range c.st {
		if err != nil {
			break
		}
		var result any
		if result, err = p.GetResults(); err == nil {
			c.st[i], _ = result.(*pgconn.StatementDescription)
			if c.st[i] == nil {
				err = errors.New("a statement was not prepared")
				continue
			}
			c.st[i].Name = "gatehouse" + string(rune('a'+i))
		}
	}
	if closeErr := p.Close(); err == nil {
		err = closeErr
	}
	return err
}

// query runs a statement that is not one of those, in one round trip and without preparing
// it. Parameters and rows are in the text format; NULL is nil.
func query(ctx context.Context, conn *pgconn.PgConn, sql string, params ...string) (rows [][][]byte, err error) {
	values := make([][]byte, len(params))
	for i, p := range params {
		values[i] = []byte(p)
	}
	result := conn.ExecParams(ctx, sql, values, nil, nil, nil).Read()
	return result.Rows, result.Err
}

// queryRow is query for a statement whose first row matters.
func queryRow(ctx context.Context, conn *pgconn.PgConn, sql string, params ...string) ([][]byte, error) {
	rows, err := query(ctx, conn, sql, params...)
	if err == nil && len(rows) == 0 {
		err = errNoRow
	}
	if err != nil {
		return nil, err
	}
	return rows[0], nil
}

var errNoRow = errors.New("the database answered no row")

// isTrue reads a boolean in the text format.
func isTrue(text []byte) bool { return string(text) == "t" }

var binaryFormat = []int16{1} // of all parameters, or of all columns

// Object identifiers of types, in arrays.
const (
	oidBytea = 17
	oidInt8  = 20
	oidText  = 25
)

// array builds a parameter of an array type in the binary format.
type array struct {
	buf []byte
	n   uint32
}

func newArray(oid uint32, n, size int) *array {
	a := &array{buf: make([]byte, 0, 20+4*n+size)}
	for _, v := range []uint32{1, 0, oid, 0, 1} { // dimensions, nulls, type, length, first index
		a.buf = binary.BigEndian.AppendUint32(a.buf, v)
	}
	return a
}

func appendTo[T string | []byte](a *array, v T) {
	a.buf = binary.BigEndian.AppendUint32(a.buf, uint32(len(v)))
	a.buf = append(a.buf, v...)
	a.n++
}

func (a *array) bytes() []byte {
	binary.BigEndian.PutUint32(a.buf[12:], a.n)
	return a.buf
}

func int8Param(n int) []byte { return binary.BigEndian.AppendUint64(nil, uint64(n)) }
