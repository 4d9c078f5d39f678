package oidctest

import (
	"io"
	"log"
)

// quiet is for what servers say about clients that don't trust them.
func quiet() *log.Logger { return log.New(io.Discard, "", 0) }
