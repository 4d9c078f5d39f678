// Package event is the audit log: what happened, who did it, and what was refused and
// why. An event is written in the transaction of the fact that it tells of, so that
// there is none without the other.
//
// It knows nothing of devices, users and certificates but their names, and nothing of
// HTTP.
package event

import (
	"crypto/rand"
	"encoding/base32"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/gatehouse-mdm/gatehouse/storage"
)

// Outcome says how what was tried went.
type Outcome string

// The outcomes.
const (
	OK      Outcome = "ok"
	Refused Outcome = "refused" // it was not allowed, and changed nothing
	Failed  Outcome = "failed"  // it was allowed, and did not work
)

// Event is one thing that happened. Texts may come from strangers: what is too long is
// cut, and what can't be printed is replaced, when it is recorded.
type Event struct {
	ID      string    `json:"id"` // given when it is recorded; IDs sort by At
	At      time.Time `json:"at"`
	Actor   string    `json:"actor,omitempty"` // "user:ana@example.com", "device:ID", "scep"
	Action  string    `json:"action"`          // the thing and what became of it: "certificate.issued"
	Outcome Outcome   `json:"outcome"`         // empty when it is recorded: OK
	Reason  string    `json:"reason,omitempty"`

	// What it is about. Any may be empty.
	DeviceID    string `json:"device_id,omitempty"`
	User        string `json:"user,omitempty"`        // as the user logs in
	Certificate string `json:"certificate,omitempty"` // serial number, lower-case hexadecimal
	Template    string `json:"template,omitempty"`
	Peer        string `json:"peer,omitempty"` // network address that the request came from

	Details map[string]string `json:"details,omitempty"` // never a secret
	Changes []Change          `json:"changes,omitempty"` // of something that somebody changed: see [Changes]
}

// Most bytes of the texts of an event.
const (
	maxName    = 255
	maxText    = 500
	maxDetails = 16 // entries
)

const logBucket = "event.log"

// log has no index of a collection's own: nothing is read when an event is written, so
// that transactions which record something never meet in it.
var log = storage.NewCollection(logBucket, 1, func(e kept) string { return e.ID })

// kept is an event as the log keeps it.
type kept struct {
	Event
	Seq uint64 `json:"seq,omitempty"` // zero until it has its place in the chain
}

// byBucket finds events: its keys are storage.Key(kind, value) and the ID.
const byBucket = "event.log.by"

// The kinds of entries.
const (
	byArea        = "area" // what the action begins with, for every event
	byDevice      = "device"
	byUser        = "user"
	byCertificate = "certificate"
	byTrouble     = "trouble" // whatever is not OK
)

// Record writes e in the transaction of the fact that it tells of. At and Action are
// required; without an Outcome it is OK. It gets its place in the chain, and with that in
// the feed, a moment after the commit. The error is the database's, or says which field of
// e is no event's.
func Record(tx storage.Tx, e Event) error {
	e, err := prepare(e)
	if err != nil {
		return err
	}
	e.ID = newID(e.At)
	for _, key := range e.entries() {
		if err := tx.Put(byBucket, key, nil); err != nil {
			return fmt.Errorf("record event: %w", err)
		}
	}
	if err := log.Put(tx, kept{Event: e}); err != nil {
		return fmt.Errorf("record event: %w", err)
	}
	key, err := newKey(e.ID)
	if err == nil {
		err = tx.Put(newBucket, key, nil)
	}
	if err == nil {
		err = tx.Notify(newTopic)
	}
	return wrap("record event", err)
}

// erase removes e, which is trouble, but for its place in the chain: that of e is known by
// its digest then.
func erase(tx storage.Tx, e kept) error {
	l, err := getLink(tx, e.Seq)
	if err != nil {
		return err
	}
	if l.digest, err = digestOf(e.fields()); err != nil {
		return err
	}
	l.id = ""
	if err := l.put(tx); err != nil {
		return err
	}
	return remove(tx, e.ID)
}

// prepare returns e as it is kept.
func prepare(e Event) (Event, error) {
	switch {
	case e.At.IsZero():
		return Event{}, errors.New("record event: At is required")
	case !validAction(e.Action):
		return Event{}, fmt.Errorf("record event: Action %q is not like certificate.issued", e.Action)
	}
	switch e.Outcome {
	case "":
		e.Outcome = OK
	case OK, Refused, Failed:
	default:
		return Event{}, fmt.Errorf("record event: there is no Outcome %q", e.Outcome)
	}
	e.At = e.At.UTC()
	e.Actor = clean(e.Actor, maxName)
	e.Reason = clean(e.Reason, maxText)
	e.DeviceID = clean(e.DeviceID, maxName)
	e.User = clean(e.User, maxName)
	e.Certificate = clean(strings.ToLower(e.Certificate), maxName)
	e.Template = clean(e.Template, maxName)
	e.Peer = clean(e.Peer, maxName)
	if len(e.Details) > 0 {
		details := make(map[string]string, min(len(e.Details), maxDetails))
		for _, key := range slices.Sorted(maps.Keys(e.Details)) {
			if len(details) == maxDetails {
				break
			}
			details[clean(key, maxName)] = clean(e.Details[key], maxText)
		}
		e.Details = details
	}
	e.Changes = keptChanges(e.Changes)
	return e, nil
}

// validAction reports whether action is two or more words in a-z and _ with dots between.
func validAction(action string) bool {
	words := strings.Split(action, ".")
	return len(action) <= maxName && len(words) > 1 && !slices.ContainsFunc(words, func(word string) bool {
		return word == "" || strings.Trim(word, "abcdefghijklmnopqrstuvwxyz_") != ""
	})
}

// clean makes text one that can be shown in a line, of at most so many bytes.
func clean(text string, most int) string {
	const more = "…"
	cut := len(text) > most
	if cut {
		text = text[:most]
	}
	text = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) { // of white space, only the space is
			return unicode.ReplacementChar
		}
		return r
	}, strings.ToValidUTF8(text, string(unicode.ReplacementChar)))
	if !cut && len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:min(len(text), most-len(more))], "") + more
}

// entries are the keys by which e is found.
func (e Event) entries() [][]byte {
	area, _, _ := strings.Cut(e.Action, ".")
	keys := [][]byte{entry(byArea, area, e.ID)}
	if e.DeviceID != "" {
		keys = append(keys, entry(byDevice, e.DeviceID, e.ID))
	}
	if e.User != "" {
		keys = append(keys, entry(byUser, normalUser(e.User), e.ID))
	}
	if e.Certificate != "" {
		keys = append(keys, entry(byCertificate, e.Certificate, e.ID))
	}
	if e.Outcome != OK {
		keys = append(keys, entry(byTrouble, "", e.ID))
	}
	return keys
}

func entry(kind, value, id string) []byte { return append(storage.Key(kind, value), id...) }

// normalUser is what users are compared by: names and addresses in any case.
func normalUser(user string) string { return strings.ToLower(strings.TrimSpace(user)) }

// An ID is when it happened, when it was recorded, and something random, so that IDs
// sort by time, the events of one transaction by the order in which it records them, and
// nobody has to count.
const (
	idBytes  = 8 + 8 + 4
	idLength = idBytes / 5 * 8
)

// idEncoding keeps the order of bytes.
var idEncoding = base32.NewEncoding("0123456789abcdefghijklmnopqrstuv").WithPadding(base32.NoPadding)

func newID(at time.Time) string {
	var id [idBytes]byte
	binary.BigEndian.PutUint64(id[:], nanoseconds(at))
	binary.BigEndian.PutUint64(id[8:], nanoseconds(time.Now())) // no fact: only an order
	_, _ = rand.Read(id[16:])                                   // never fails: it ends the program instead
	return idEncoding.EncodeToString(id[:])
}

// firstID is not after the ID of any event at that time or later, and after all earlier ones.
func firstID(at time.Time) string {
	var id [idBytes]byte
	binary.BigEndian.PutUint64(id[:], nanoseconds(at))
	return idEncoding.EncodeToString(id[:])
}

// nanoseconds is at as a number that sorts as times do, from 1970 to 2262.
func nanoseconds(at time.Time) uint64 {
	first, last := time.Unix(0, 0), time.Unix(0, 1<<63-1)
	switch {
	case at.Before(first):
		return 0
	case at.After(last):
		at = last
	}
	return uint64(at.UnixNano())
}
