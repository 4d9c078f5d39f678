package postgres_test

import (
	"bytes"
	"errors"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/postgres"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest/postgrestest"
)

// TestACommitWhoseAnswerIsLostIsNotRepeated has the database commit, and whoever stands in
// between say that the connection is lost: a pooler says so in the database's own words.
func TestACommitWhoseAnswerIsLostIsNotRepeated(t *testing.T) {
	refusal := func(code string) []byte {
		m, err := (&pgproto3.ErrorResponse{Severity: "FATAL", SeverityUnlocalized: "FATAL", Code: code, Message: "server conn crashed?"}).Encode(nil)
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	for name, answer := range map[string][]byte{
		"the connection breaks": nil,
		"08P01 of a pooler":     refusal("08P01"),
		"08006":                 refusal("08006"),
		"08007":                 refusal("08007"),
		"40003":                 refusal("40003"),
	} {
		t.Run(name, func(t *testing.T) {
			w := postgrestest.NewWire(t, postgrestest.DSN(t))
			db := open(t, w.DSN())
			if err := put(db, "list"); err != nil {
				t.Fatal(err)
			}
			w.Answer(func(said []byte) []byte {
				if !bytes.Contains(said, []byte("COMMIT\x00")) {
					return said
				}
				if answer == nil {
					w.Cut(false)
				}
				return answer
			})
			runs := 0
			err := db.Update(ctx, func(tx storage.Tx) error {
				runs++
				v, err := tx.Get("b", []byte("list"))
				if err != nil {
					return err
				}
				return tx.Put("b", []byte("list"), append(v, '+'))
			})
			w.Answer(nil)
			if !errors.Is(err, storage.ErrCommit) || !strings.Contains(err.Error(), "may have been kept or not") || runs != 1 {
				t.Errorf("Update: %v after %d runs, want ErrCommit that says the end is not known, after one", err, runs)
			}
			var kept []byte
			err = db.View(ctx, func(tx storage.Tx) (err error) {
				kept, err = tx.Get("b", []byte("list"))
				return err
			})
			if err != nil || string(kept) != "list+" {
				t.Errorf("kept %q, %v, want the change once", kept, err)
			}
		})
	}
}

func TestASilentDatabaseIsGivenUp(t *testing.T) {
	w := postgrestest.NewWire(t, postgrestest.DSN(t))
	db := open(t, w.DSN())
	if err := put(db, "k"); err != nil {
		t.Fatal(err)
	}
	db.SetPatience(200 * time.Millisecond)
	silent := make(chan struct{})
	w.Answer(func(said []byte) []byte { <-silent; return said })
	err := db.View(ctx, func(tx storage.Tx) error { _, err := tx.Get("b", []byte("k")); return err })
	if !errors.Is(err, storage.ErrUnavailable) || !strings.Contains(err.Error(), "silent") {
		t.Errorf("View: %v, want ErrUnavailable that says silent", err)
	}
	w.Answer(nil)
	close(silent)
	db.SetPatience(time.Minute)
	has(t, db, "k", true)
}

// What a View has read is right, whether or not its end is answered.
func TestADatabaseThatFallsSilentAtTheEndOfAView(t *testing.T) {
	w := postgrestest.NewWire(t, postgrestest.DSN(t))
	db := open(t, w.DSN())
	if err := put(db, "k"); err != nil {
		t.Fatal(err)
	}
	silent := make(chan struct{})
	w.Answer(func(said []byte) []byte {
		if bytes.Contains(said, []byte("COMMIT\x00")) {
			<-silent
		}
		return said
	})
	done := make(chan error, 1)
	go func() {
		done <- db.View(ctx, func(tx storage.Tx) error {
			_, err := tx.Get("b", []byte("k"))
			db.SetPatience(200 * time.Millisecond)
			return err
		})
	}()
	select {
	case err := <-done:
		if err != nil {
			t.Errorf("View: %v", err)
		}
	case <-time.After(time.Minute):
		t.Error("View waits for ever")
	}
	w.Answer(nil)
	close(silent)
}

func TestAStatementThatTakesTooLongIsGivenUp(t *testing.T) {
	dsn := postgrestest.DSN(t)
	db := open(t, with(t, dsn, func(u *url.URL) { u.RawQuery += "&statement_timeout=3000" }))
	if err := put(db, "k"); err != nil {
		t.Fatal(err)
	}
	other, err := pgx.Connect(ctx, dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close(ctx)
	if _, err := other.Exec(ctx, `begin; select from kv where bucket = 'b' for update`); err != nil {
		t.Fatal(err)
	}
	if err := put(db, "k"); !errors.Is(err, storage.ErrCommit) || !strings.Contains(err.Error(), "took too long") {
		t.Errorf("Update of a record that another transaction keeps: %v, want ErrCommit that says it took too long", err)
	}
	if _, err := other.Exec(ctx, `rollback`); err != nil {
		t.Fatal(err)
	}
	if err := put(db, "k"); err != nil {
		t.Errorf("Update afterwards: %v", err)
	}
}

func TestWhichFailuresAnotherConnectionMayNotMeet(t *testing.T) {
	for code, want := range map[string]bool{
		"57P01": true, "57P02": true, "57P03": true, "57P05": true, "25P03": true, "08006": true, "08P01": true,
		"28P01": false, "53300": false, "57014": false, "25006": false, "23505": false,
	} {
		if got := postgres.Lost(&pgconn.PgError{Code: code}); got != want {
			t.Errorf("%s: %v, want %v", code, got, want)
		}
	}
	if postgres.Lost(postgres.ErrBusy) {
		t.Error("to wait for the pool six times as long helps nobody")
	}
}

// TestNewsGoTogether counts the messages that many commits make.
func TestNewsGoTogether(t *testing.T) {
	w := postgrestest.NewWire(t, postgrestest.DSN(t))
	db := open(t, w.DSN())
	var messages atomic.Int64
	w.See(func(said []byte) {
		if bytes.Contains(said, []byte("topic-of-many")) {
			messages.Add(1)
		}
	})
	changed, stop := db.Watch("topic-of-many")
	defer stop()
	began := time.Now()
	const commits = 300
	for range commits {
		update(t, db, func(tx storage.Tx) error {
			return errors.Join(tx.Put("b", []byte("k"), nil), tx.Notify("topic-of-many"))
		})
	}
	<-changed
	// However long the commits took, one message goes each while.
	if most := int64(time.Since(began)/postgres.NewsStep) + 2; messages.Load() > most {
		t.Errorf("%d commits made %d messages, want at most %d", commits, messages.Load(), most)
	}
}

func TestWhatIsReadAheadIsNotTheCallersSlice(t *testing.T) {
	db := open(t, postgrestest.DSN(t))
	if err := put(db, "k"); err != nil {
		t.Fatal(err)
	}
	err := db.View(ctx, func(tx storage.Tx) error {
		key := []byte("k")
		tx.Prefetch(storage.Read{Bucket: "b", Key: key}, storage.Read{Bucket: "b", Range: storage.Range{Start: key}})
		key[0] = 'x'
		if _, err := tx.Get("b", []byte("k")); err != nil {
			t.Errorf("Get: %v", err)
		}
		n := 0
		for _, err := range tx.Scan("b", storage.Range{Start: []byte("k")}) {
			if err != nil {
				return err
			}
			n++
		}
		if n != 1 {
			t.Errorf("Scan: %d items, want 1", n)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
