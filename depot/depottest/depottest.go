// Package depottest lets tests open a depot without waiting for its keys.
package depottest

import (
	"crypto/rand"
	"crypto/rsa"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/depot"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/seal"
)

// keys are made once: authorities of different tests may share them.
var keys = sync.OnceValues(func() (map[string]*rsa.PrivateKey, error) {
	made := map[string]*rsa.PrivateKey{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	var failed error
	for _, authority := range []string{"identity", "root", "payload"} {
		wg.Go(func() {
			key, err := rsa.GenerateKey(rand.Reader, 2048)
			mu.Lock()
			defer mu.Unlock()
			if made[authority] = key; err != nil {
				failed = err
			}
		})
	}
	wg.Wait()
	return made, failed
})

// NewKey is a [depot.Config.NewKey] that gives each authority the same key of 2048
// bits in every depot of a test binary.
func NewKey(authority string, _ int) (*rsa.PrivateKey, error) {
	made, err := keys()
	if err != nil {
		return nil, err
	}
	key := made[authority]
	if key == nil {
		return nil, fmt.Errorf("depottest: no key for %q", authority)
	}
	return key, nil
}

// Config returns a depot.Config on db that has all it needs.
func Config(t testing.TB, db storage.DB) depot.Config {
	t.Helper()
	box, err := seal.New(make([]byte, seal.KeySize))
	if err != nil {
		t.Fatal(err)
	}
	return depot.Config{
		DB: db, Box: box, Log: slog.New(slog.DiscardHandler), Now: time.Now,
		KeyBits: 2048, Name: "mdm.example.com", NewKey: NewKey,
	}
}

// Open opens a depot.
func Open(t testing.TB, c depot.Config) *depot.Depot {
	t.Helper()
	d, err := depot.Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return d
}
