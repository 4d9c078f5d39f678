package bolt_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/bolt"
)

// The test binary is also the other process that these tests need.
const (
	childEnv = "GATEHOUSE_BOLT_TEST_CHILD" // what to do: hold, or write
	pathEnv  = "GATEHOUSE_BOLT_TEST_PATH"
)

func TestMain(m *testing.M) {
	switch os.Getenv(childEnv) {
	case "":
		os.Exit(m.Run())
	case "hold":
		os.Exit(childHolds(os.Getenv(pathEnv)))
	case "write":
		os.Exit(childWrites(os.Getenv(pathEnv)))
	}
}

// child starts the test binary to do something with the database at path, and returns
// what it prints by line. It is killed when the test ends, if not before.
func child(t *testing.T, do, path string) (*exec.Cmd, *bufio.Scanner) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), childEnv+"="+do, pathEnv+"="+path)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cmd.StdinPipe(); err != nil { // open as long as we live
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	return cmd, bufio.NewScanner(out)
}

// childHolds opens the database and keeps it until its parent is gone.
func childHolds(path string) int {
	db, err := bolt.Open(context.Background(), path, bolt.Options{})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Println("open")
	_, _ = io.Copy(io.Discard, os.Stdin)
	_ = db.Close()
	return 0
}

func TestASecondProcessIsToldThatTheFileIsInUse(t *testing.T) {
	path := filepath.Join(t.TempDir(), "gatehouse.db")
	_, out := child(t, "hold", path)
	if !out.Scan() || out.Text() != "open" {
		t.Fatalf("the other process says %q", out.Text())
	}
	start := time.Now()
	db, err := bolt.Open(t.Context(), path, bolt.Options{})
	if err == nil {
		_ = db.Close()
	}
	if !errors.Is(err, storage.ErrInUse) || !strings.Contains(err.Error(), "already in use by another process") {
		t.Errorf("Open: %v, want ErrInUse", err)
	}
	if took := time.Since(start); took > 20*time.Second {
		t.Errorf("it took %v to say so, want it not to wait for the other", took)
	}
}

const childWriters = 4

// childWrites counts in several goroutines, each count in a record of its own and in a
// total, and prints what was acknowledged, until it is killed.
func childWrites(path string) int {
	db, err := bolt.Open(context.Background(), path, bolt.Options{})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	failed := make(chan error)
	for w := range childWriters {
		go func() {
			for {
				var n int
				err := db.Update(context.Background(), func(tx storage.Tx) (err error) {
					total := fmt.Appendf(nil, "total-%d", w)
					if n, err = number(tx, total); err != nil {
						return err
					}
					n++
					if err := tx.Put("records", fmt.Appendf(nil, "%d-%08d", w, n), make([]byte, rand.IntN(2000))); err != nil {
						return err
					}
					if n%3 == 0 { // some are deleted, so that pages become free
						if err := tx.Delete("records", fmt.Appendf(nil, "%d-%08d", w, n/3)); err != nil {
							return err
						}
					}
					return tx.Put("totals", total, []byte(strconv.Itoa(n)))
				})
				if err != nil {
					failed <- err
					return
				}
				fmt.Printf("%d %d\n", w, n)
			}
		}()
	}
	fmt.Fprintln(os.Stderr, <-failed)
	return 1
}

func number(tx storage.Tx, key []byte) (int, error) {
	v, err := tx.Get("totals", key)
	if errors.Is(err, storage.ErrNotFound) {
		return 0, nil
	} else if err != nil {
		return 0, err
	}
	return strconv.Atoi(string(v))
}

func TestAKilledProcessLosesNothingThatItAcknowledged(t *testing.T) {
	path := filepath.Join(t.TempDir(), "gatehouse.db")
	kills := 25
	if testing.Short() {
		kills = 5
	}
	for range kills {
		cmd, out := child(t, "write", path)
		acknowledged := [childWriters]int{}
		read := func() bool {
			if !out.Scan() {
				return false
			}
			var w, n int
			if _, err := fmt.Sscan(out.Text(), &w, &n); err == nil { // the last line may be cut off
				acknowledged[w] = max(acknowledged[w], n)
			}
			return true
		}
		for range rand.IntN(200) {
			if !read() {
				t.Fatal("the writing process ended by itself")
			}
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		for read() { // what it had said before it died
		}
		_ = cmd.Wait()

		checkWithBbolt(t, path)
		db, err := bolt.Open(t.Context(), path, bolt.Options{})
		if err != nil {
			t.Fatalf("Open after a kill: %v", err)
		}
		if err := db.Check(t.Context()); err != nil {
			t.Errorf("Check after a kill: %v", err)
		}
		err = db.View(t.Context(), func(tx storage.Tx) error {
			for w, want := range acknowledged {
				total, err := number(tx, fmt.Appendf(nil, "total-%d", w))
				if err != nil {
					return err
				}
				if total < want {
					t.Errorf("writer %d: %d writes are there, %d were acknowledged", w, total, want)
				}
				for n := total/3 + 1; n <= total; n++ { // those before were deleted
					if _, err := tx.Get("records", fmt.Appendf(nil, "%d-%08d", w, n)); err != nil {
						t.Errorf("writer %d: half of write %d of %d is missing: %v", w, n, total, err)
					}
				}
				if _, err := tx.Get("records", fmt.Appendf(nil, "%d-%08d", w, total+1)); !errors.Is(err, storage.ErrNotFound) {
					t.Errorf("writer %d: half of write %d is there: %v", w, total+1, err)
				}
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// checkWithBbolt asks bbolt itself whether the file is whole.
func checkWithBbolt(t *testing.T, path string) {
	t.Helper()
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{ReadOnly: true, Timeout: time.Second})
	if err != nil {
		t.Fatalf("bbolt can't open it: %v", err)
	}
	defer db.Close()
	err = db.View(func(tx *bbolt.Tx) error {
		var errs []error
		for err := range tx.Check() {
			errs = append(errs, err)
		}
		return errors.Join(errs...)
	})
	if err != nil {
		t.Errorf("bbolt finds: %v", err)
	}
}
