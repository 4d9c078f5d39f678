package storagetest_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

func TestEachUpdateClosureRunsTwiceAndKeepsOneRun(t *testing.T) {
	db := storagetest.Open(t)
	runs := 0
	err := db.Update(t.Context(), func(tx storage.Tx) error {
		runs++
		v, err := tx.Get("things", []byte("k"))
		if err != nil && !errors.Is(err, storage.ErrNotFound) {
			return err
		}
		return tx.Put("things", []byte("k"), append(v, 'x'))
	})
	if err != nil || runs != 2 {
		t.Errorf("Update: %v after %d runs, want 2", err, runs)
	}
	err = db.View(t.Context(), func(tx storage.Tx) error {
		v, err := tx.Get("things", []byte("k"))
		if string(v) != "x" {
			t.Errorf("k is %q, want what one run wrote", v)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	errMine := errors.New("mine")
	if err := db.Update(t.Context(), func(storage.Tx) error { return errMine }); err != errMine {
		t.Errorf("Update: %v, want the closure's error", err)
	}
}

func TestAClosureThatCallsItsDatabasePanics(t *testing.T) {
	db := storagetest.Open(t)
	nothing := func(storage.Tx) error { return nil }
	type run = func(context.Context, func(storage.Tx) error) error
	for name, outer := range map[string]run{"View": db.View, "Update": db.Update} {
		for innerName, inner := range map[string]run{"View": db.View, "Update": db.Update} {
			t.Run(innerName+" in "+name, func(t *testing.T) {
				defer func() {
					if recover() == nil {
						t.Error("no panic")
					}
				}()
				_ = outer(t.Context(), func(storage.Tx) error { return inner(t.Context(), nothing) })
			})
		}
	}
	if err := db.Update(t.Context(), nothing); err != nil {
		t.Errorf("Update afterwards: %v", err)
	}
	other := storagetest.Open(t)
	err := db.View(t.Context(), func(storage.Tx) error { return other.View(t.Context(), nothing) })
	if err != nil {
		t.Errorf("View of another database: %v", err)
	}
}

func TestAnUnknownEngineFails(t *testing.T) {
	if os.Getenv("GATEHOUSE_TEST_STORE") == "none" {
		storagetest.Open(t)
		return
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe, "-test.run", "^TestAnUnknownEngineFails$")
	cmd.Env = append(os.Environ(), "GATEHOUSE_TEST_STORE=none")
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), `GATEHOUSE_TEST_STORE is "none"`) {
		t.Errorf("with an unknown engine: %v\n%s", err, out)
	}
}
