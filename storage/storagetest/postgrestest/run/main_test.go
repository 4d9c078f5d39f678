package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/storage/storagetest/postgrestest"
)

func TestTheCommandRunsBesideAServer(t *testing.T) {
	postgrestest.DSN(t) // skips where there can't be one
	t.Setenv(postgrestest.Variable, "")
	file := filepath.Join(t.TempDir(), "variable")
	script := `printf %s "$` + postgrestest.Variable + `" >"$0"; exit 7`
	if code := run([]string{"--", "sh", "-c", script, file}); code != 7 {
		t.Errorf("run = %d, want the command's own exit code", code)
	}
	dsn, err := os.ReadFile(file)
	if err != nil || !strings.HasPrefix(string(dsn), "postgres://") {
		t.Errorf("the command was told of %q, %v; want a server", dsn, err)
	}
}

func TestASignalReachesTheCommand(t *testing.T) {
	postgrestest.DSN(t)
	// The signal goes to us, its parent. A child that it waits for could miss its end.
	script := `trap 'exit 5' TERM; kill -TERM $PPID; n=0; while [ $n -lt 9999999 ]; do n=$((n+1)); done`
	if code := run([]string{"sh", "-c", script}); code != 5 {
		t.Errorf("run = %d, want 5 of the command that was told to end", code)
	}
}

func TestACommandThatCannotBeRunFails(t *testing.T) {
	postgrestest.DSN(t)
	for name, tt := range map[string]struct {
		args []string
		want int
	}{
		"no command":      {nil, 2},
		"only a dash":     {[]string{"--"}, 2},
		"unknown command": {[]string{"--", "gatehouse-no-such-command"}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			if got := run(tt.args); got != tt.want {
				t.Errorf("run(%q) = %d, want %d", tt.args, got, tt.want)
			}
		})
	}
}
