// Package depottest lets tests open a depot without waiting for its keys.
package depottest

import (
	"crypto/rand"
	"crypto/rsa"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/depot"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/seal"
)

// keys are made once: authorities of different tests may share them.
var keys sync.Map // from an authority's name to what makes its key

// NewKey is a [depot.Config.NewKey] that gives each authority the same key of 2048
// bits in every depot of a test binary.
func NewKey(authority string, _ int) (*rsa.PrivateKey, error) {
	made, _ := keys.LoadOrStore(authority, sync.OnceValues(func() (*rsa.PrivateKey, error) {
		return rsa.GenerateKey(rand.Reader, 2048)
	}))
	return made.(func() (*rsa.PrivateKey, error))()
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
