//go:build !unix

package bolt

import (
	"context"
	"os"
)

// These systems have other ways to keep a file private, and bbolt locks it itself.
const (
	noFollow   = 0
	checkModes = false
)

func lock(context.Context, *os.File, string) error { return nil }

func syncDir(string) error { return nil }
