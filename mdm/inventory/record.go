package inventory

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/command"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

// Origin says which answer something is from.
type Origin struct {
	CommandUUID string    `json:"command_uuid"`
	AskedAt     time.Time `json:"asked_at"` // when the command was queued
	AnsweredAt  time.Time `json:"answered_at"`
}

// Failure is a refresh that came to nothing.
type Failure struct {
	Code        string                 `json:"code"` // one of the Failed constants
	Reason      string                 `json:"reason"`
	CommandUUID string                 `json:"command_uuid"`
	AskedAt     time.Time              `json:"asked_at"`
	At          time.Time              `json:"at"`
	ErrorChain  []command.ChainedError `json:"error_chain,omitempty"`
}

// Codes of Failure.
const (
	FailedByDevice   = "error"          // the device answered that it could not
	FailedByTime     = "expired"        // it did not come for the question
	FailedBySize     = "too_large"      // what it answered is larger than what is kept
	FailedByNonsense = "not_understood" // what it answered is not what Apple documents
)

// record is what one source says of one device: the last good answer, and the failure that
// came after it, if one did.
type record struct {
	DeviceID mdm.DeviceID    `json:"device_id"`
	Source   Source          `json:"source"`
	Answer   Origin          `json:"answer,omitzero"` // zero: none so far
	Value    json.RawMessage `json:"value,omitempty"` // of a list, as the types of this package; of SecurityInfo, as the device said it
	Failure  *Failure        `json:"failure,omitempty"`

	// Older has, of DeviceInformation, those facts that are not from Answer. Their values are
	// the attributes that package mdm keeps; what an earlier version kept has no origin.
	Older map[string]Origin `json:"older,omitempty"`
}

const (
	// maxValue bounds what is kept of a source, in bytes of JSON.
	maxValue = 1 << 20
	// maxFacts bounds what a DeviceInformation may tell. Apple knows some 80 queries.
	maxFacts = 1000
)

var records = storage.NewCollection("inventory", 1, func(r record) string { return recordKey(r.DeviceID, r.Source) })

func recordKey(id mdm.DeviceID, s Source) string {
	return string(storage.Key(string(id), string(s)))
}

// getRecord returns an empty record where there is none.
func getRecord(tx storage.Tx, id mdm.DeviceID, s Source) (record, error) {
	r, err := records.Get(tx, recordKey(id, s))
	if errors.Is(err, storage.ErrNotFound) {
		return record{DeviceID: id, Source: s}, nil
	}
	return r, err
}

// known says whether there is a good answer.
func (r record) known() bool { return !r.Answer.AnsweredAt.IsZero() }

// listOf returns the list that a record holds. One that can't be read is empty: it was written
// by this package, and the next answer replaces it.
func listOf[T any](r record) (list []T) {
	if len(r.Value) > 0 && json.Unmarshal(r.Value, &list) != nil {
		return nil
	}
	return list
}

func (r record) put(tx storage.Tx) error {
	if err := records.Put(tx, r); err != nil {
		return fmt.Errorf("inventory of %s: %w", r.DeviceID, err)
	}
	return nil
}
