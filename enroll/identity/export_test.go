package identity

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/storage"
)

// For tests of what the RFC has as examples.
var (
	TOTP     = totp
	TOTPStep = totpStep
)

// PruneSignIns is what Run does from time to time.
func (s *Service) PruneSignIns(ctx context.Context) error { return s.pruneSignIns(ctx) }

// PutUsers stores users as they are.
func PutUsers(tx storage.Tx, all ...User) (err error) {
	for _, u := range all {
		err = errors.Join(err, users.Put(tx, u))
	}
	return err
}

// DecoyHash is what the password of nobody is checked against.
func (s *Service) DecoyHash() string { return s.decoyHash() }

// CountHashes returns how many password hashes were computed since the last call. It is
// called before anything else uses s.
func (s *Service) CountHashes(t *testing.T) (since func() int64) {
	turn, stop := make(chan struct{}), make(chan struct{})
	t.Cleanup(func() { close(stop) })
	s.hashing = turn // without room, so that each hash is begun and ended with us
	var n atomic.Int64
	go func() {
		for {
			select {
			case <-turn:
				n.Add(1)
				turn <- struct{}{}
			case <-stop:
				return
			}
		}
	}()
	return func() int64 { return n.Swap(0) }
}
