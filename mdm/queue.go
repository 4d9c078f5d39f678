package mdm

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"sort"
	"strings"
	"time"

	"github.com/gatehouse-mdm/gatehouse/mdm/command"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

// Errors of the command queue that callers act on.
var (
	ErrCommandExists    = errors.New("another command has this CommandUUID")
	ErrCommandDelivered = errors.New("the device has the command already")
	ErrCommandFinished  = errors.New("the command is finished")
	ErrSpoilt           = errors.New("the command can't be made") // now or later
)

// CommandState is how far a command has come with one device.
type CommandState string

// The command states. Queued, Delivered and NotNow are pending, the others final.
const (
	Queued       CommandState = "queued"
	Delivered    CommandState = "delivered" // sent; no answer yet, so it is sent again at the next Idle
	NotNow       CommandState = "not_now"   // the device was locked or busy; sent again at its next Idle
	Acknowledged CommandState = "acknowledged"
	Failed       CommandState = "error"
	Cancelled    CommandState = "cancelled"
	Expired      CommandState = "expired"
)

// Final says that nothing more will happen.
func (s CommandState) Final() bool {
	return s != Queued && s != Delivered && s != NotNow
}

// Command is one request to any number of devices. Its plist is kept apart,
// sealed: profiles in it may hold passwords and challenges.
type Command struct {
	UUID        string     `json:"uuid"`
	Seq         string     `json:"seq"` // sorts by time of creation; the same in the queue of every target
	RequestType string     `json:"request_type"`
	Identifier  string     `json:"identifier,omitempty"` // of an InstallProfile: the profile's PayloadIdentifier
	Digest      string     `json:"digest"`               // of the plist, with a key: a PIN in it can't be guessed
	Priority    Priority   `json:"priority,omitempty"`
	Batch       string     `json:"batch,omitempty"`  // ID of the batch that it is one of
	Origin      string     `json:"origin,omitempty"` // of whom it was made, for who can make it again: "profile/ID/3"
	RetryOf     string     `json:"retry_of,omitempty"`
	CreatedAt   time.Time  `json:"created_at"`
	ExpiresAt   time.Time  `json:"expires_at,omitzero"` // zero: after commandLife
	CreatedBy   string     `json:"created_by,omitempty"`
	Targets     []DeviceID `json:"targets"`
	Personal    bool       `json:"personal,omitempty"` // targets may have values of their own
	Closed      bool       `json:"closed,omitempty"`   // so old that nobody waits for it any more, or all have finished it
	Tally       Tally      `json:"tally,omitzero"`     // once it is closed
}

// Priority says which commands a device gets before others.
type Priority string

// The priorities. Commands of one priority keep the order in which they were queued.
const (
	Urgent     Priority = "urgent"     // before all others: a lost device is to be locked now
	Normal     Priority = ""           // what a person asks for
	Background Priority = "background" // what the server asks by itself
)

// place begins the key of an entry in its device's queue, before the sequence, which begins
// with a hexadecimal digit.
func (p Priority) place() string {
	switch p {
	case Urgent:
		return "!"
	case Background:
		return "~"
	}
	return ""
}

// Entry is one command for one device: in the device's queue until it is
// final, in its history afterwards.
type Entry struct {
	DeviceID    DeviceID     `json:"device_id"`
	Seq         string       `json:"seq"`
	UUID        string       `json:"uuid"`
	RequestType string       `json:"request_type"`
	Identifier  string       `json:"identifier,omitempty"`
	State       CommandState `json:"state"`
	CreatedAt   time.Time    `json:"created_at"`
	PushedAt    time.Time    `json:"pushed_at,omitzero"` // the push that the device came for, once it has; zero: none is known
	DeliveredAt time.Time    `json:"delivered_at,omitzero"`
	FinishedAt  time.Time    `json:"finished_at,omitzero"`
	NotNowCount int          `json:"not_now_count,omitempty"`
	Oversized   int          `json:"oversized,omitempty"` // results refused for their size so far
	Priority    Priority     `json:"priority,omitempty"`
	ExpiresAt   time.Time    `json:"expires_at,omitzero"`
	Personal    bool         `json:"personal,omitempty"` // it has values of its own, see Values
	// SupersededBy is the UUID of the newer command for which it was cancelled.
	SupersededBy string `json:"superseded_by,omitempty"`
	// UserEnrolled is whether the device is one of a User Enrollment, which is asked less and of
	// which less is kept.
	UserEnrolled bool   `json:"user_enrolled,omitempty"`
	NoPush       bool   `json:"no_push,omitempty"` // the device is not woken for it
	Origin       string `json:"origin,omitempty"`  // as of its Command; commands from before it was kept here have none

	ErrorChain []command.ChainedError `json:"error_chain,omitempty"`
	Result     json.RawMessage        `json:"result,omitempty"` // the decoded answer
}

const (
	queueBucket   = "queue"
	historyBucket = "command_history"
	payloadBucket = "command_payloads"
)

var (
	commands = storage.NewCollection("commands", 1, func(c Command) string { return c.UUID },
		storage.Index[Command]{Name: commandsByAge, Values: func(c Command) []string { return []string{c.Seq} }},
		storage.Index[Command]{Name: commandsOpen, Values: func(c Command) []string {
			if c.Closed {
				return nil
			}
			return []string{c.Seq}
		}},
		storage.Index[Command]{Name: commandsExpiring, Values: func(c Command) []string {
			if c.Closed || c.ExpiresAt.IsZero() {
				return nil
			}
			return []string{seqAt(c.ExpiresAt.UnixNano())}
		}},
		storage.Index[Command]{Name: commandsByBatch, Values: func(c Command) []string {
			if c.Batch == "" {
				return nil
			}
			return []string{c.Batch}
		}},
	)
	queue   = storage.NewCollection(queueBucket, 1, func(e Entry) string { return queueKey(e.DeviceID, e.Priority, e.Seq) })
	history = storage.NewCollection(historyBucket, 1, func(e Entry) string { return historyKey(e.DeviceID, e.Seq) })
)

func queueKey(id DeviceID, p Priority, seq string) string {
	return string(storage.Key(string(id), p.place()+seq))
}

func historyKey(id DeviceID, seq string) string { return string(storage.Key(string(id), seq)) }

// pending yields the queue of a device in the order in which it gets its commands.
func pending(tx storage.Tx, id DeviceID) iter.Seq2[Entry, error] {
	return queue.All(tx, storage.Range{Prefix: storage.KeyPrefix(string(id))})
}

// Unfinished yields what a device has not finished, in the order in which it gets that.
func Unfinished(tx storage.Tx, id DeviceID) iter.Seq2[Entry, error] { return pending(tx, id) }

// readChunk is how many records are asked for at a time.
const readChunk = 1000

// ReadQueue is what a transaction that asks for a device's next commands reads.
func ReadQueue(id DeviceID) storage.Read {
	return storage.Read{Bucket: queueBucket, Range: storage.Range{Prefix: storage.KeyPrefix(string(id)), Limit: 8}}
}

// ReadPayload is what [Service.Deliver] reads for an entry.
func ReadPayload(e Entry) []storage.Read {
	reads := []storage.Read{{Bucket: payloadBucket, Key: []byte(e.UUID)}}
	if e.Personal {
		reads = append(reads, storage.Read{Bucket: valuesBucket, Key: valuesKey(e.UUID, e.DeviceID)})
	}
	return reads
}

// readQueued and readFinished are what reads one command's entries in the queue and in
// the history.
func readQueued(c Command, ids []DeviceID) []storage.Read {
	reads := make([]storage.Read, len(ids))
	for i, id := range ids {
		reads[i] = queue.Read(queueKey(id, c.Priority, c.Seq))
	}
	return reads
}

func readFinished(c Command, ids []DeviceID) []storage.Read {
	reads := make([]storage.Read, len(ids))
	for i, id := range ids {
		reads[i] = history.Read(historyKey(id, c.Seq))
	}
	return reads
}

// CountPending counts the commands that a device has not finished.
func CountPending(tx storage.Tx, id DeviceID) (int, error) {
	n := 0
	for _, err := range tx.Scan(queueBucket, storage.Range{Prefix: storage.KeyPrefix(string(id))}) {
		if err != nil {
			return 0, fmt.Errorf("count queue of %s: %w", id, err)
		}
		n++
	}
	return n, nil
}

// Head returns the command to offer a device next: the oldest pending one of the highest
// priority, passing over those it answered NotNow when skipNotNow is set, because a
// device that said NotNow comes back by itself only if that was its last word
// (PROTOCOL 5.2), and over those whose time is up. It returns nil when there is none.
func (s *Service) Head(tx storage.Tx, id DeviceID, skipNotNow bool) (*Entry, error) {
	for e, err := range pending(tx, id) {
		if err != nil {
			return nil, fmt.Errorf("queue of %s: %w", id, err)
		}
		if skipNotNow && e.State == NotNow || e.expired(s.now()) {
			continue
		}
		return &e, nil
	}
	return nil, nil
}

// expired says that e is not to be sent any more, though the sweep has not come yet.
func (e *Entry) expired(now time.Time) bool {
	return !e.ExpiresAt.IsZero() && !now.Before(e.ExpiresAt)
}

// notePush notes the newest push between the queueing of e and its delivery, as long as that
// is known: the device's wake-up is forgotten when it has finished all. It is for who is about
// to write e.
func (e *Entry) notePush(tx storage.Tx) error {
	if e.NoPush {
		return nil
	}
	w, err := GetWakeup(tx, e.DeviceID)
	if errors.Is(err, storage.ErrNotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("push for command %s: %w", e.UUID, err)
	}
	if !w.PushedAt.Before(e.CreatedAt) && !w.PushedAt.After(e.DeliveredAt) {
		e.PushedAt = w.PushedAt
	}
	return nil
}

// Delivery is a command on its way to a device: [Service.Plist] makes what is sent.
type Delivery struct {
	Entry          Entry
	sealed, values []byte
}

// Deliver marks e as delivered and returns what it takes to send it. It writes nothing
// when e was delivered before, so that a View is enough for an entry in that state.
func (s *Service) Deliver(tx storage.Tx, e *Entry) (*Delivery, error) {
	d := new(Delivery)
	var err error
	if d.sealed, err = tx.Get(payloadBucket, []byte(e.UUID)); err != nil {
		return nil, fmt.Errorf("payload of command %s: %w", e.UUID, err)
	}
	if e.Personal {
		if d.values, err = tx.Get(valuesBucket, valuesKey(e.UUID, e.DeviceID)); err != nil {
			return nil, fmt.Errorf("values of command %s for %s: %w", e.UUID, e.DeviceID, err)
		}
	}
	if e.State != Delivered {
		e.State = Delivered
		e.DeliveredAt = s.now().UTC()
		if err := e.notePush(tx); err != nil {
			return nil, err
		}
		if err := queue.Put(tx, *e); err != nil {
			return nil, fmt.Errorf("deliver command %s: %w", e.UUID, err)
		}
	}
	d.Entry = *e
	return d, nil
}

// Plist returns the property list that d brings to its device. It is for after the
// transaction: it may take the time of a signature. The error wraps ErrSpoilt where trying
// again is of no use.
func (s *Service) Plist(d *Delivery) ([]byte, error) {
	e := d.Entry
	plist, err := s.box.Open(payloadPurpose(e.UUID), d.sealed)
	if err != nil {
		return nil, fmt.Errorf("payload of command %s: %w", e.UUID, err)
	}
	if e.UserEnrolled && e.RequestType == "DeviceInformation" {
		if plist, err = command.Reduce(plist); err != nil {
			return nil, fmt.Errorf("payload of command %s: %w: %w", e.UUID, ErrSpoilt, err)
		}
	}
	if e.Personal {
		values, err := s.box.Open(valuesPurpose(e.UUID, e.DeviceID), d.values)
		if err != nil {
			return nil, fmt.Errorf("values of command %s for %s: %w", e.UUID, e.DeviceID, err)
		}
		if plist, err = s.complete(plist, values, e.UUID); err != nil {
			return nil, fmt.Errorf("complete command %s for %s: %w: %w", e.UUID, e.DeviceID, ErrSpoilt, err)
		}
	}
	return plist, nil
}

func payloadPurpose(uuid string) string { return "mdm/command/" + uuid }

// Report is what a device says of a command.
type Report struct {
	CommandUUID string
	State       CommandState // Acknowledged, Failed or NotNow
	ErrorChain  []command.ChainedError
	Result      json.RawMessage    // nil when there was nothing but the status
	Entrusted   *command.Entrusted // what Result does not show; nil for nothing
}

// Record stores a device's answer. Only a command that was delivered to this
// very device can be answered, and only once: anything else returns nil and
// changes nothing, since a device that lost our reply sends its answer again.
func (s *Service) Record(tx storage.Tx, id DeviceID, r Report) (*Entry, error) {
	e, err := findPending(tx, id, r.CommandUUID)
	if err != nil || e == nil {
		return nil, err
	}
	switch {
	case e.State == Queued:
		return nil, nil // never sent, so this can't be its answer
	case e.State == NotNow && r.State == NotNow:
		return nil, nil // it was not sent again since
	case r.State == NotNow:
		e.State = NotNow
		e.NotNowCount++
		if err := errors.Join(queue.Put(tx, *e), tx.Notify(commandTopic(e.Seq))); err != nil {
			return nil, fmt.Errorf("record NotNow of %s: %w", e.UUID, err)
		}
		if err := s.waker.NotNow(tx, *e); err != nil {
			return nil, fmt.Errorf("record NotNow of %s: %w", e.UUID, err)
		}
		return e, nil
	}
	if err := e.notePush(tx); err != nil { // Apple may have been slower to say that it took the push than the device to come
		return nil, err
	}
	e.ErrorChain, e.Result = r.ErrorChain, r.Result
	if e.UserEnrolled && e.Result != nil {
		if e.Result, err = s.impersonal(tx, *e); err != nil {
			return nil, err
		}
	}
	if err := s.finish(tx, e, r.State); err != nil {
		return nil, err
	}
	if err := s.entrust(tx, *e, r.Entrusted); err != nil {
		return nil, err
	}
	return e, nil
}

// maxOversized is how many results over the size limit a device may send for
// one command before the command is given up, so that the device, which keeps
// an answer until it is taken, can move on.
const maxOversized = 3

// RecordOversized counts a result that was too large to be read. It is blamed on
// the command that the device has in hand, since the body, which would name it,
// was not kept; the third one fails that command. It returns nil when the device
// has none in hand: then there is nothing to wait for, and the device is to be
// told that its answer was taken, or it would send it for ever.
func (s *Service) RecordOversized(tx storage.Tx, id DeviceID) (*Entry, error) {
	for e, err := range pending(tx, id) {
		if err != nil {
			return nil, fmt.Errorf("queue of %s: %w", id, err)
		}
		if e.State != Delivered {
			continue
		}
		e.Oversized++
		if e.Oversized < maxOversized {
			return &e, queue.Put(tx, e)
		}
		e.ErrorChain = []command.ChainedError{{ErrorDomain: ownErrorDomain, USEnglishDescription: "The device's answer is larger than this server accepts."}}
		return &e, s.finish(tx, &e, Failed)
	}
	return nil, nil
}

// Spoilt fails a command that was to be sent and could not be made. It does nothing if
// that is no longer pending.
func (s *Service) Spoilt(ctx context.Context, e Entry) error {
	return s.db.Update(ctx, func(tx storage.Tx) error {
		now, err := findPending(tx, e.DeviceID, e.UUID)
		if err != nil || now == nil {
			return err
		}
		now.ErrorChain = []command.ChainedError{{ErrorDomain: ownErrorDomain, USEnglishDescription: "This server could not make the command: its log says why."}}
		return s.finish(tx, now, Failed)
	})
}

// PendingState returns the state of a command that a device has not answered for good;
// ok is false if there is none.
func PendingState(tx storage.Tx, id DeviceID, uuid string) (state CommandState, ok bool, err error) {
	e, err := findPending(tx, id, uuid)
	if err != nil || e == nil {
		return "", false, err
	}
	return e.State, true, nil
}

func findPending(tx storage.Tx, id DeviceID, uuid string) (*Entry, error) {
	if uuid == "" {
		return nil, nil
	}
	for e, err := range pending(tx, id) {
		if err != nil {
			return nil, fmt.Errorf("queue of %s: %w", id, err)
		}
		if e.UUID == uuid {
			return &e, nil
		}
	}
	return nil, nil
}

// finish moves e from the queue to the history.
func (s *Service) finish(tx storage.Tx, e *Entry, state CommandState) error {
	e.State = state
	e.FinishedAt = s.now().UTC()
	if err := queue.Delete(tx, queueKey(e.DeviceID, e.Priority, e.Seq)); err != nil {
		return fmt.Errorf("finish command %s: %w", e.UUID, err)
	}
	if err := history.Put(tx, *e); err != nil {
		return fmt.Errorf("finish command %s: %w", e.UUID, err)
	}
	if err := tx.Notify(commandTopic(e.Seq)); err != nil {
		return fmt.Errorf("finish command %s: %w", e.UUID, err)
	}
	for _, observe := range s.observers {
		if err := observe(tx, *e); err != nil {
			return fmt.Errorf("follow up command %s for %s: %w", e.UUID, e.DeviceID, err)
		}
	}
	return nil
}

// Observer is told of every entry that has become final, in the transaction in which it
// did: acknowledged, failed, cancelled or expired. The record of its device may be about
// to be written by whoever caused that: an observer that changes it reads it first.
type Observer func(tx storage.Tx, e Entry) error

// Observe adds an observer. It is for the time before the server serves.
func (s *Service) Observe(o Observer) { s.observers = append(s.observers, o) }

// CancelPending ends every pending command of a device.
func (s *Service) CancelPending(tx storage.Tx, id DeviceID) error {
	for e, err := range pending(tx, id) {
		if err != nil {
			return fmt.Errorf("queue of %s: %w", id, err)
		}
		if err := s.finish(tx, &e, Cancelled); err != nil {
			return err
		}
	}
	return nil
}

// CancelCommand ends one pending command of a device, whether or not it was
// delivered: it is the step for callers that know better than [Service.Cancel].
func (s *Service) CancelCommand(tx storage.Tx, id DeviceID, uuid string, state CommandState) error {
	e, err := findPending(tx, id, uuid)
	if err != nil || e == nil {
		return err
	}
	return s.finish(tx, e, state)
}

// isSeq says that s has the form of a sequence.
func isSeq(s string) bool {
	if len(s) != len(seqAt(0))+seqRandom {
		return false
	}
	return strings.IndexFunc(s, func(r rune) bool { return (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') }) < 0
}

// seqRandom is how many random characters keep the sequences of one instant apart.
const seqRandom = 6

// seqAt is what every sequence made at a time, in nanoseconds, begins with.
func seqAt(nanos int64) string { return fmt.Sprintf("%016x", nanos) }

// NewUUID returns a random UUID as Apple writes them.
func NewUUID() string {
	var b [16]byte
	rand.Read(b[:]) // never fails
	return formatUUID(b)
}

// formatUUID writes random bytes as a UUID (RFC 9562, 5.4).
func formatUUID(b [16]byte) string {
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	return fmt.Sprintf("%X-%X-%X-%X-%X", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// GetCommand returns a command and how far it is with each target, in the
// targets' order, or an error that wraps storage.ErrNotFound.
func GetCommand(tx storage.Tx, uuid string) (Command, []Entry, error) {
	c, err := commands.Get(tx, uuid)
	if err != nil {
		return Command{}, nil, fmt.Errorf("command %s: %w", uuid, err)
	}
	entries := make([]Entry, 0, len(c.Targets))
	for i, id := range c.Targets {
		if i%readChunk == 0 {
			ids := c.Targets[i:min(i+readChunk, len(c.Targets))]
			tx.Prefetch(append(readQueued(c, ids), readFinished(c, ids)...)...)
		}
		e, err := getEntry(tx, c, id)
		if errors.Is(err, storage.ErrNotFound) {
			continue // swept
		}
		if err != nil {
			return Command{}, nil, fmt.Errorf("command %s: %w", uuid, err)
		}
		entries = append(entries, e)
	}
	return c, entries, nil
}

// getEntry returns a command's entry for one of its targets.
func getEntry(tx storage.Tx, c Command, id DeviceID) (Entry, error) {
	e, err := queue.Get(tx, queueKey(id, c.Priority, c.Seq))
	if errors.Is(err, storage.ErrNotFound) {
		e, err = history.Get(tx, historyKey(id, c.Seq))
	}
	return e, err
}

// deviceCommands returns up to limit commands of a device, newest first, older
// than the sequence before (all when it is empty), and the next before, empty at the end.
func deviceCommands(tx storage.Tx, id DeviceID, before string, limit int) ([]Entry, string, error) {
	if before != "" && !isSeq(before) {
		return nil, "", storage.ErrBadCursor
	}
	type part struct {
		of *storage.Collection[Entry]
		storage.Range
	}
	parts := []part{{history, newestFirst(id, Normal, before, limit+1)}}
	reads := []storage.Read{{Bucket: historyBucket, Range: parts[0].Range}}
	for _, p := range []Priority{Urgent, Normal, Background} {
		parts = append(parts, part{queue, newestFirst(id, p, before, limit+1)})
		reads = append(reads, storage.Read{Bucket: queueBucket, Range: parts[len(parts)-1].Range})
	}
	var all []Entry
	tx.Prefetch(reads...)
	for _, p := range parts {
		for e, err := range p.of.All(tx, p.Range) {
			if err != nil {
				return nil, "", fmt.Errorf("commands of %s: %w", id, err)
			}
			all = append(all, e)
		}
	}
	sort.Slice(all, func(i, j int) bool { return all[i].Seq > all[j].Seq })
	if len(all) <= limit {
		return all, "", nil
	}
	return all[:limit], all[limit-1].Seq, nil
}

// newestFirst is the range of a device's entries of one priority in its queue, or of
// those in its history, older than the sequence before.
func newestFirst(id DeviceID, p Priority, before string, limit int) storage.Range {
	const afterDigits = "g" // sorts after every sequence, which begins with a hexadecimal digit
	return storage.Range{
		Start: storage.Key(string(id), p.place()+"0"), End: storage.Key(string(id), p.place()+cmp.Or(before, afterDigits)),
		Reverse: true, Limit: limit,
	}
}
