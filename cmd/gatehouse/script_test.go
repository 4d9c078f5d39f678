package main

import (
	"context"
	"os"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

func TestMain(m *testing.M) {
	testscript.Main(tidy{m}, map[string]func(){
		"gatehouse": func() {
			os.Exit(run(context.Background(), os.Args[1:], os.Environ(), os.Stdin, os.Stdout, os.Stderr))
		},
	})
}

// tidy runs the tests with a directory of their own for temporary files, so that the
// programs that they build once for all of them don't pile up.
type tidy struct{ *testing.M }

// Run implements testscript.TestingM.
func (m tidy) Run() int {
	dir, err := os.MkdirTemp("", "gatehouse-test")
	if err == nil {
		err = os.Chmod(dir, 0o777|os.ModeSticky) // as /tmp is: PostgreSQL's user makes its own in it
	}
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	os.Setenv("TMPDIR", dir)
	return m.M.Run()
}

// TestScripts runs testdata/script: what the program says on the command line.
func TestScripts(t *testing.T) {
	storagetest.AnyEngine(t)
	testscript.Run(t, testscript.Params{
		Dir:      "testdata/script",
		Deadline: time.Now().Add(15 * time.Minute), // a server that starts where it should not never ends
		Setup: func(e *testscript.Env) error {
			e.Setenv("HOME", e.WorkDir)
			e.Setenv("XDG_DATA_HOME", e.WorkDir+"/share")
			return nil
		},
	})
}
