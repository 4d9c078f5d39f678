package mdm

import (
	"time"

	"github.com/gatehouse-mdm/gatehouse/storage"
)

// Waker is told what devices are to be woken for, in the transaction in which that comes
// up: what it writes there outlives a crash. Package mdm/wake has the one that pushes.
type Waker interface {
	// Queued says that the targets of c from the one at index first on are to be woken
	// for it, not before after has passed.
	Queued(tx storage.Tx, c Command, first int, after time.Duration) error
	// NotNow says that a device has put a command off.
	NotNow(tx storage.Tx, e Entry) error
	// Reachable says that a device has told a push token.
	Reachable(tx storage.Tx, d Device) error
}

// WakeBy has w told of what devices are to be woken for. It is for the time before the
// server serves.
func (s *Service) WakeBy(w Waker) { s.waker = w }

// Reachable is for whoever takes a TokenUpdate of d and has written it.
func (s *Service) Reachable(tx storage.Tx, d Device) error { return s.waker.Reachable(tx, d) }

// sleeping is the Waker of a Service that wakes nobody.
type sleeping struct{}

func (sleeping) Queued(storage.Tx, Command, int, time.Duration) error { return nil }
func (sleeping) NotNow(storage.Tx, Entry) error                       { return nil }
func (sleeping) Reachable(storage.Tx, Device) error                   { return nil }
