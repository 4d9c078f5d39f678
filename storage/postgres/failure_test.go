package postgres_test

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/postgres"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest/postgrestest"
)

// with returns dsn with another part.
func with(t *testing.T, dsn string, change func(*url.URL)) string {
	t.Helper()
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal("not a URL")
	}
	change(u)
	return u.String()
}

func TestOpenSaysWhyItFailed(t *testing.T) {
	dsn := postgrestest.DSN(t)
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal("not a URL")
	}
	for name, tt := range map[string]struct {
		url  string
		is   error
		says []string
	}{
		"nobody listens":      {"postgres://ana:hunter2@127.0.0.1:9/mdm", storage.ErrUnavailable, []string{"ana@127.0.0.1:9/mdm", "connection refused"}},
		"an unknown host":     {"postgres://ana:hunter2@db.invalid/mdm", storage.ErrUnavailable, []string{"ana@db.invalid:5432/mdm"}},
		"a wrong password":    {with(t, dsn, func(u *url.URL) { u.User = url.UserPassword("gatehouse", "hunter2") }), storage.ErrUnavailable, []string{u.Host, "password authentication failed", "PGPASSWORD"}},
		"an unknown database": {with(t, dsn, func(u *url.URL) { u.Path = "/nowhere" }), storage.ErrUnavailable, []string{`"nowhere" does not exist`, "CREATE DATABASE"}},
		"an unknown schema": {with(t, dsn, func(u *url.URL) { u.RawQuery = "sslmode=disable&search_path=nowhere" }),
			storage.ErrUnavailable, []string{"no schema of the search_path exists", "CREATE SCHEMA"}},
		"a database that is too old": {fakeServer(t, "90624"), nil, []string{"9.6", "too old", "13"}},
		"no URL of ours":             {"mysql://ana:hunter2@127.0.0.1/mdm", nil, []string{"postgres://"}},
		"a URL that is broken":       {"postgres://ana:hunter2@127.0.0.1:port/mdm", nil, []string{"PostgreSQL URL", "port"}},
		"a password that breaks it":  {"postgres://ana:hunter2%@127.0.0.1/mdm", nil, []string{"PostgreSQL URL"}},
	} {
		t.Run(name, func(t *testing.T) {
			db, err := postgres.Open(ctx, tt.url, postgres.Options{})
			if err == nil {
				_ = db.Close()
				t.Fatal("opened")
			}
			if tt.is != nil && !errors.Is(err, tt.is) {
				t.Errorf("%v does not wrap %v", err, tt.is)
			}
			for _, want := range tt.says {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q does not say %q", err, want)
				}
			}
			if strings.Contains(err.Error(), "hunter2") {
				t.Errorf("%q shows the password", err)
			}
		})
	}
}

// fakeServer is a server that lets everybody in and gives its version as the answer to all
// questions. It returns its URL.
func fakeServer(t *testing.T, version string) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	serve := func(conn net.Conn) error {
		defer conn.Close()
		b := pgproto3.NewBackend(conn, conn)
		if _, err := b.ReceiveStartupMessage(); err != nil {
			return err
		}
		b.Send(&pgproto3.AuthenticationOk{})
		b.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
		for {
			if err := b.Flush(); err != nil {
				return err
			}
			m, err := b.Receive()
			if err != nil {
				return err
			}
			switch m.(type) {
			case *pgproto3.Parse:
				b.Send(&pgproto3.ParseComplete{})
			case *pgproto3.Describe:
				b.Send(&pgproto3.ParameterDescription{})
				b.Send(&pgproto3.RowDescription{Fields: []pgproto3.FieldDescription{
					{Name: []byte("v"), DataTypeOID: 23, DataTypeSize: 4}, {Name: []byte("ro"), DataTypeOID: 16, DataTypeSize: 1}, {Name: []byte("s"), DataTypeOID: 25, DataTypeSize: -1},
				}})
			case *pgproto3.Bind:
				b.Send(&pgproto3.BindComplete{})
			case *pgproto3.Execute:
				b.Send(&pgproto3.DataRow{Values: [][]byte{[]byte(version), []byte("f"), []byte("public")}})
				b.Send(&pgproto3.CommandComplete{CommandTag: []byte("SELECT 1")})
			case *pgproto3.Sync:
				b.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
			case *pgproto3.Terminate:
				return nil
			}
		}
	}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() { _ = serve(conn) }()
		}
	}()
	return "postgres://ana@" + listener.Addr().String() + "/mdm?sslmode=disable"
}

func put(db storage.DB, key string) error {
	return db.Update(ctx, func(tx storage.Tx) error { return tx.Put("b", []byte(key), []byte(key)) })
}

func has(t *testing.T, db storage.DB, key string, want bool) {
	t.Helper()
	err := db.View(ctx, func(tx storage.Tx) error {
		_, err := tx.Get("b", []byte(key))
		return err
	})
	if want && err != nil || !want && !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("Get(%q): %v, want it there: %v", key, err, want)
	}
}

func TestAReadOnlyDatabaseIsToldSo(t *testing.T) {
	s := postgrestest.Start(t)
	db := open(t, s.DSN())
	if err := put(db, "before"); err != nil {
		t.Fatal(err)
	}
	const kick = `select pg_terminate_backend(pid) from pg_stat_activity where usename = 'gatehouse'`
	s.Exec(`alter database gatehouse set default_transaction_read_only = on`)
	s.Exec(kick)
	has(t, db, "before", true)
	err := put(db, "during")
	if !errors.Is(err, storage.ErrCommit) || !strings.Contains(err.Error(), "read-only") {
		t.Errorf("Update: %v, want ErrCommit that says read-only", err)
	}
	if _, err := postgres.Open(ctx, s.DSN(), postgres.Options{}); !errors.Is(err, storage.ErrUnavailable) || !strings.Contains(err.Error(), "read-only") {
		t.Errorf("Open: %v, want ErrUnavailable that says read-only", err)
	}
	s.Exec(`begin read write; alter database gatehouse reset default_transaction_read_only; commit`)
	if err := put(db, "after"); err != nil {
		t.Errorf("Update after it became writable, with nobody's help: %v", err)
	}
	has(t, db, "during", false)
	has(t, db, "after", true)
}

func TestAFullDiskKeepsNothingAndIsToldSo(t *testing.T) {
	s := postgrestest.Start(t)
	db := open(t, s.DSN())
	if err := put(db, "before"); err != nil {
		t.Fatal(err)
	}
	// What a server says when its disk is full, at a row in the middle.
	s.Exec(`create function public.full() returns trigger language plpgsql as $$ begin
		if new.key = 'b'::bytea then raise exception 'could not extend file: No space left on device' using errcode = 'disk_full'; end if;
		return new; end $$`)
	s.Exec(`create trigger full_disk before insert or update on public.kv for each row execute function public.full()`)
	err := db.Update(ctx, func(tx storage.Tx) error {
		return errors.Join(tx.Put("b", []byte("a"), nil), tx.Put("b", []byte("b"), nil), tx.Put("b", []byte("c"), nil), tx.Delete("b", []byte("before")))
	})
	if !errors.Is(err, storage.ErrCommit) || !strings.Contains(err.Error(), "disk is full") {
		t.Errorf("Update: %v, want ErrCommit that says the disk is full", err)
	}
	for key, want := range map[string]bool{"a": false, "b": false, "c": false, "before": true} {
		has(t, db, key, want)
	}
}

func TestAConnectionLostInsideATransaction(t *testing.T) {
	w := postgrestest.NewWire(t, postgrestest.DSN(t))
	db := open(t, w.DSN())
	if err := put(db, "k"); err != nil {
		t.Fatal(err)
	}
	for name, run := range map[string]func(context.Context, func(storage.Tx) error) error{"View": db.View, "Update": db.Update} {
		runs := 0
		err := run(ctx, func(tx storage.Tx) error {
			runs++
			if _, err := tx.Get("b", []byte("k")); err != nil {
				return err
			}
			if runs == 1 {
				w.Cut(false)
			}
			_, err := tx.Get("b", []byte("other"))
			if !errors.Is(err, storage.ErrNotFound) {
				return err
			}
			if name == "Update" {
				return tx.Put("b", []byte("done"), nil)
			}
			return nil
		})
		if err != nil || runs != 2 {
			t.Errorf("%s: %v after %d runs, want success at the second", name, err, runs)
		}
	}
	has(t, db, "done", true)

	w.Cut(true)
	err := put(db, "while away")
	if !errors.Is(err, storage.ErrUnavailable) && !errors.Is(err, storage.ErrCommit) {
		t.Errorf("Update while the database is away: %v, want ErrUnavailable or ErrCommit", err)
	}
	if err := db.View(ctx, func(tx storage.Tx) error { _, err := tx.Get("b", []byte("k")); return err }); !errors.Is(err, storage.ErrUnavailable) {
		t.Errorf("View while the database is away: %v, want ErrUnavailable", err)
	}
	w.Cut(false)
	has(t, db, "while away", false)
	if err := put(db, "back"); err != nil {
		t.Errorf("Update after the database is back: %v", err)
	}
}

func TestAConnectionLostAtTheCommitLeavesADoubt(t *testing.T) {
	w := postgrestest.NewWire(t, postgrestest.DSN(t))
	db := open(t, w.DSN())
	if err := put(db, "k"); err != nil {
		t.Fatal(err)
	}
	runs := 0
	err := db.Update(ctx, func(tx storage.Tx) error {
		runs++
		if _, err := tx.Get("b", []byte("k")); err != nil {
			return err
		}
		var once sync.Once
		w.See(func(sent []byte) {
			if bytes.Contains(sent, []byte("doubtful")) {
				once.Do(func() { w.Cut(false) })
			}
		})
		return tx.Put("b", []byte("doubtful"), nil)
	})
	w.See(nil)
	if !errors.Is(err, storage.ErrCommit) || !strings.Contains(err.Error(), "may have been kept or not") || runs != 1 {
		t.Errorf("Update: %v after %d runs, want ErrCommit that says the end is not known, after one", err, runs)
	}
	has(t, db, "doubtful", false)
}

// TestARestartLosesNothing writes while the database restarts, as an operator's update or
// a crash would have it.
func TestARestartLosesNothing(t *testing.T) {
	s := postgrestest.Start(t)
	db := open(t, s.DSN())
	changed, stop := db.Watch("topic")
	defer stop()
	for _, mode := range []postgrestest.Mode{postgrestest.Fast, postgrestest.Immediate} {
		restarted := make(chan struct{})
		var told, failed []string
		var wg sync.WaitGroup
		var mu sync.Mutex
		for writer := range 4 {
			wg.Go(func() {
				for i, after := 0, 0; after < 5; i++ {
					key := string(mode) + string(rune('a'+writer)) + time.Duration(i).String()
					err := db.Update(ctx, func(tx storage.Tx) error {
						if _, err := tx.Get("b", []byte(key)); !errors.Is(err, storage.ErrNotFound) {
							return errors.Join(err, errors.New("there already"))
						}
						return tx.Put("b", []byte(key), []byte(key))
					})
					mu.Lock()
					switch {
					case err == nil:
						told = append(told, key)
					case errors.Is(err, storage.ErrCommit), errors.Is(err, storage.ErrUnavailable):
						failed = append(failed, key)
					default:
						t.Errorf("Update: %v", err)
					}
					mu.Unlock()
					select {
					case <-restarted:
						if err == nil {
							after++
						}
					default:
					}
				}
			})
		}
		s.Restart(mode)
		close(restarted)
		wg.Wait()
		for _, key := range told {
			has(t, db, key, true)
		}
		t.Logf("%s: %d told, %d failed", mode, len(told), len(failed))
		// Whoever watches is woken, because news may have been lost.
		select {
		case <-changed:
		case <-time.After(time.Minute):
			t.Error("nobody was woken after the restart")
		}
	}
}

func TestAContextThatEndsInATransaction(t *testing.T) {
	db := open(t, postgrestest.DSN(t))
	ctx, cancel := context.WithCancel(ctx)
	err := db.Update(ctx, func(tx storage.Tx) error {
		_ = tx.Put("b", []byte("k"), nil)
		_, _ = tx.Get("b", []byte("x"))
		cancel()
		_, err := tx.Get("b", []byte("y"))
		return err
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("Update: %v, want context.Canceled", err)
	}
	has(t, db, "k", false)
}
