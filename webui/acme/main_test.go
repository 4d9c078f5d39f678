package acme

import (
	"os"
	"testing"
)

// TestMain gives the tests a directory of their own for temporary files: what they build
// once for all of them goes with it.
func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "gatehouse-test")
		if err == nil {
			err = os.Chmod(dir, 0o777|os.ModeSticky) // as /tmp is: PostgreSQL's user makes its own in it
		}
		if err != nil {
			panic(err)
		}
		defer os.RemoveAll(dir)
		os.Setenv("TMPDIR", dir)
		return m.Run()
	}())
}
