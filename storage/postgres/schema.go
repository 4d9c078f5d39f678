package postgres

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/gatehouse-mdm/gatehouse/storage"
)

const (
	// schemaVersion is of the table, not of what is in it: that has versions of its own.
	schemaVersion = 1

	oldestServer = 13_00_00 // of server_version_num

	// lockClass keeps our advisory locks apart from those of others in the database.
	lockClass = 0x67617465
)

// createTable leaves room in the pages, since records are changed more often than they
// are made, and has the space of old versions reclaimed soon.
const createTable = `create table kv (
	bucket text collate "C" not null,
	key bytea not null,
	value bytea not null,
	primary key (bucket, key)
) with (fillfactor = 85, autovacuum_vacuum_scale_factor = 0.05)`

// setUp makes the tables if they are missing, and returns the table's object identifier,
// which names this installation among others in the same database.
func (db *DB) setUp(ctx context.Context, conn *pgconn.PgConn) (table uint32, err error) {
	row, err := queryRow(ctx, conn, `select current_setting('server_version_num')::int,
		current_setting('transaction_read_only')::bool, current_schema()::text`)
	if err != nil {
		return 0, db.explain(err)
	}
	version, err := strconv.Atoi(string(row[0]))
	readOnly, schema := isTrue(row[1]), row[2]
	switch {
	case err != nil:
		return 0, fmt.Errorf("PostgreSQL %s: what is its version? %w", db.name, err)
	case version < oldestServer:
		return 0, fmt.Errorf("PostgreSQL %s: version %d.%d is too old; %d or newer is needed", db.name, version/10000, version%10000, oldestServer/10000)
	case readOnly:
		return 0, fmt.Errorf("%w: PostgreSQL %s: %s", storage.ErrUnavailable, db.name, readOnlyReason)
	case schema == nil:
		return 0, fmt.Errorf("%w: PostgreSQL %s: no schema of the search_path exists; create it with CREATE SCHEMA, or name another one in the URL", storage.ErrUnavailable, db.name)
	}
	// Where advisory locks do nothing, as in some relatives of PostgreSQL, two may
	// both begin to create; the second finds the tables when it looks again.
	for range 3 {
		table, err = db.setUpOnce(ctx, conn, string(schema))
		switch state(err) {
		case duplicateTable, uniqueViolation, serializationFailure:
			continue
		}
		break
	}
	if err != nil && state(err) != "" {
		err = db.explain(err)
	}
	return table, err
}

// setUpOnce sets up in a transaction.
func (db *DB) setUpOnce(ctx context.Context, conn *pgconn.PgConn, schema string) (table uint32, err error) {
	if _, err := query(ctx, conn, `begin`); err != nil {
		return 0, err
	}
	if table, err = db.setUpIn(ctx, conn, schema); err != nil {
		_, _ = query(ctx, conn, `rollback`) // if that fails, so will what is tried next
		return 0, err
	}
	_, err = query(ctx, conn, `commit`)
	return table, err
}

// setUpIn runs under a lock that ends with the transaction, however that ends.
func (db *DB) setUpIn(ctx context.Context, conn *pgconn.PgConn, schema string) (table uint32, err error) {
	if _, err := query(ctx, conn, `select pg_advisory_xact_lock($1, hashtext($2))`, strconv.Itoa(lockClass), schema); err != nil {
		return 0, err
	}
	find := func(name string) (oid []byte, err error) {
		row, err := queryRow(ctx, conn, `select to_regclass(quote_ident($1) || '.' || $2)::oid`, schema, name)
		if err != nil {
			return nil, err
		}
		return row[0], nil
	}
	kv, err := find("kv")
	if err != nil {
		return 0, err
	}
	versions, err := find("kv_schema")
	if err != nil {
		return 0, err
	}
	switch {
	case kv == nil && versions == nil:
		for _, statement := range []string{
			createTable,
			`create table kv_schema (version int not null)`,
			fmt.Sprintf(`insert into kv_schema (version) values (%d)`, schemaVersion),
		} {
			if _, err := query(ctx, conn, statement); err != nil {
				return 0, err
			}
		}
		if kv, err = find("kv"); err == nil && kv == nil {
			err = errors.New("the table that was made can't be found")
		}
		if err != nil {
			return 0, err
		}
	case kv == nil || versions == nil:
		return 0, fmt.Errorf("PostgreSQL %s: schema %s holds only one of the tables kv and kv_schema, so they are not this program's; name another schema as search_path in the URL", db.name, schema)
	default:
		row, err := queryRow(ctx, conn, `select version from kv_schema`)
		if errors.Is(err, errNoRow) {
			return 0, fmt.Errorf("%w: PostgreSQL %s: the table kv_schema is empty; restore a backup", storage.ErrCorrupt, db.name)
		} else if err != nil {
			return 0, err
		}
		have, err := strconv.Atoi(string(row[0]))
		if err != nil {
			return 0, fmt.Errorf("%w: PostgreSQL %s: the table kv_schema: %w", storage.ErrCorrupt, db.name, err)
		}
		if have > schemaVersion {
			return 0, fmt.Errorf("%w: PostgreSQL %s: the tables are of version %d, this program knows up to %d", storage.ErrNewer, db.name, have, schemaVersion)
		}
	}
	oid, err := strconv.ParseUint(string(kv), 10, 32)
	return uint32(oid), err
}
