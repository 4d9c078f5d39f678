package apiv1

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/gatehouse-mdm/gatehouse/storage"
)

// errKeyReused means that an Idempotency-Key came with another request before.
var errKeyReused = errors.New("idempotency key of another request")

const (
	keyLife  = 24 * time.Hour // for which a key is remembered
	keySweep = 1000           // forgotten keys that one transaction removes
)

// reservation ties an Idempotency-Key to the UUID of the command that its first
// request queued. It is written before the command is: whoever repeats the
// request, also after a crash in between, queues the same command, and the queue
// knows a command by its UUID.
type reservation struct {
	Key         string    `json:"key"`     // hash of the principal's ID and the key
	Request     string    `json:"request"` // code of the request, which may hold a PIN: a plain hash of one is soon guessed
	CommandUUID string    `json:"command_uuid"`
	At          time.Time `json:"at"`
}

const reservationsByTime = "at"

var reservations = storage.NewCollection("api_idempotency", 1, func(r reservation) string { return r.Key },
	storage.Index[reservation]{Name: reservationsByTime, Values: func(r reservation) []string { return []string{timeKey(r.At)} }},
)

func timeKey(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// reserve returns the UUID for the command of r: the given one, or that of an
// earlier request with the same Idempotency-Key; again says that there was one.
// It fails with errKeyReused if that request was another.
func (a *API) reserve(r *http.Request, body []byte, uuid string) (again bool, reserved string, err error) {
	keys := r.Header.Values("Idempotency-Key")
	if len(keys) == 0 {
		return false, uuid, nil
	}
	if len(keys) > 1 || !plainKey(keys[0]) {
		return false, "", invalid("Idempotency-Key", "must be one header of 1 to 255 visible ASCII characters")
	}
	p := principal(r)
	query := r.URL.Query()
	asked := []string{r.URL.Path, strings.Join(query["device_ids"], ","), string(body)}
	if query.Has("group_id") || query.Has("filter") { // of raw commands
		asked = append(asked, query.Get("group_id"), query.Get("filter"))
	}
	plain := hash(asked...) // what records had before
	want := reservation{
		Key:         hash(string(p.Kind), p.ID, keys[0]),
		Request:     hex.EncodeToString(a.box.MAC("apiv1/idempotency", []byte(plain))),
		CommandUUID: uuid,
		At:          a.now().UTC(),
	}
	err = a.db.Update(r.Context(), func(tx storage.Tx) error {
		again, reserved = false, uuid
		found, err := reservations.Get(tx, want.Key)
		if err != nil && !errors.Is(err, storage.ErrNotFound) {
			return err
		}
		if err == nil && want.At.Sub(found.At) < keyLife {
			if found.Request != want.Request && found.Request != plain {
				return errKeyReused
			}
			again, reserved = true, found.CommandUUID
			return nil
		}
		return reservations.Put(tx, want)
	})
	return again, reserved, err
}

// Run forgets old idempotency keys, until ctx ends.
func (a *API) Run(ctx context.Context) error {
	return storage.Schedule{
		DB: a.db, Log: a.log, Now: a.now,
		Jobs: []storage.Job{{Name: "apiv1/idempotency", Every: time.Hour, Do: a.forgetKeys}},
	}.Run(ctx)
}

func (a *API) forgetKeys(ctx context.Context) error {
	for more := true; more; {
		err := a.db.Update(ctx, func(tx storage.Tx) error {
			var old []string
			for r, err := range reservations.Ascend(tx, reservationsByTime, "", timeKey(a.now().Add(-keyLife)), keySweep) {
				if err != nil {
					return err
				}
				old = append(old, r.Key)
			}
			for _, key := range old {
				if err := reservations.Delete(tx, key); err != nil {
					return err
				}
			}
			more = len(old) == keySweep
			return nil
		})
		if err != nil {
			return fmt.Errorf("forget idempotency keys: %w", err)
		}
	}
	return nil
}

func plainKey(key string) bool {
	return len(key) >= 1 && len(key) <= 255 && strings.IndexFunc(key, func(r rune) bool { return r < 0x21 || r > 0x7e }) < 0
}

// hash names a tuple of texts.
func hash(parts ...string) string {
	sum := sha256.Sum256(storage.Key(parts...))
	return hex.EncodeToString(sum[:])
}
