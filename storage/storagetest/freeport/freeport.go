// Package freeport finds ports for servers that tests start as programs of their own, or stop and
// start again: those can't be given a listener that is open already.
package freeport

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
	"syscall"
)

// Systems give none of these ports to whoever asks for any, or connects to another, so that one
// that is free stays so.
const first, last = 10_000, 16_000

var given sync.Map // port → true

// Find returns a port of 127.0.0.1 that nobody listens on. It gives none twice.
func Find() (int, error) {
	for range last - first {
		port := first + rand.IntN(last-first)
		if _, again := given.LoadOrStore(port, true); again {
			continue
		}
		l, err := net.Listen("tcp", Address(port))
		if errors.Is(err, syscall.EADDRINUSE) {
			continue
		}
		if err == nil {
			err = l.Close()
		}
		if err != nil {
			return 0, fmt.Errorf("find a free port: %w", err)
		}
		return port, nil
	}
	return 0, errors.New("find a free port: none is free")
}

// Address is host:port of a port that Find returned.
func Address(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }
