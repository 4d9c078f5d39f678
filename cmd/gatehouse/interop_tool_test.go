package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// tool finds a program that shares no line with this project, by the first of the
// names that is there. Without it the test is skipped, but not in CI.
func tool(t *testing.T, names ...string) string {
	t.Helper()
	for _, name := range names {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	missing(t, names[0]+" is not installed")
	return ""
}

// missing skips a test that a missing program keeps from running.
func missing(t *testing.T, what string) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatal(what + ", and CI skips nothing")
	}
	t.Skip(what)
}

// openssl runs openssl and returns what it prints on both outputs. What it judges is
// in its exit code.
func openssl(t *testing.T, args ...string) (string, error) {
	t.Helper()
	out, err := exec.Command(tool(t, "openssl"), args...).CombinedOutput()
	return string(out), err
}

// fileOf writes data to a file of its own.
func fileOf(t *testing.T, name string, data []byte) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}
