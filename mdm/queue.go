package mdm

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strconv"
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
	Digest      string     `json:"digest"`               // hex SHA-256 of the plist
	CreatedAt   time.Time  `json:"created_at"`
	CreatedBy   string     `json:"created_by,omitempty"`
	Targets     []DeviceID `json:"targets"`
	Closed      bool       `json:"closed,omitempty"` // so old that nobody waits for it any more
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
	DeliveredAt time.Time    `json:"delivered_at,omitzero"`
	FinishedAt  time.Time    `json:"finished_at,omitzero"`
	NotNowCount int          `json:"not_now_count,omitempty"`
	Oversized   int          `json:"oversized,omitempty"` // results refused for their size so far
	// UserEnrolled is whether the device is one of a User Enrollment, which is asked less and of
	// which less is kept.
	UserEnrolled bool `json:"user_enrolled,omitempty"`

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
	)
	queue   = storage.NewCollection(queueBucket, 1, entryKey)
	history = storage.NewCollection(historyBucket, 1, entryKey)
)

func entryKey(e Entry) string { return queueKey(e.DeviceID, e.Seq) }

func queueKey(id DeviceID, seq string) string { return string(storage.Key(string(id), seq)) }

// pending yields the queue of a device, oldest first.
func pending(tx storage.Tx, id DeviceID) iter.Seq2[Entry, error] {
	return queue.All(tx, storage.Range{Prefix: storage.KeyPrefix(string(id))})
}

// readChunk is how many records are asked for at a time.
const readChunk = 1000

// ReadQueue is what a transaction that asks for a device's next commands reads.
func ReadQueue(id DeviceID) storage.Read {
	return storage.Read{Bucket: queueBucket, Range: storage.Range{Prefix: storage.KeyPrefix(string(id)), Limit: 8}}
}

// ReadPayload is what [Service.Deliver] reads for an entry.
func ReadPayload(e Entry) storage.Read {
	return storage.Read{Bucket: payloadBucket, Key: []byte(e.UUID)}
}

// readEntries is what reads one command's entries in the queue or the history.
func readEntries(c *storage.Collection[Entry], ids []DeviceID, seq string) []storage.Read {
	reads := make([]storage.Read, len(ids))
	for i, id := range ids {
		reads[i] = c.Read(queueKey(id, seq))
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

// Head returns the command to offer a device next: the oldest pending one,
// passing over those it answered NotNow when skipNotNow is set, because a
// device that said NotNow comes back by itself only if that was its last word
// (PROTOCOL 5.2). It returns nil when there is none.
func Head(tx storage.Tx, id DeviceID, skipNotNow bool) (*Entry, error) {
	for e, err := range pending(tx, id) {
		if err != nil {
			return nil, fmt.Errorf("queue of %s: %w", id, err)
		}
		if skipNotNow && e.State == NotNow {
			continue
		}
		return &e, nil
	}
	return nil, nil
}

// Deliver marks e as delivered and returns its plist. It writes nothing when e
// was delivered before, so that a View is enough for an entry in that state.
func (s *Service) Deliver(tx storage.Tx, e *Entry) ([]byte, error) {
	sealed, err := tx.Get(payloadBucket, []byte(e.UUID))
	if err != nil {
		return nil, fmt.Errorf("payload of command %s: %w", e.UUID, err)
	}
	plist, err := s.box.Open(payloadPurpose(e.UUID), sealed)
	if err != nil {
		return nil, fmt.Errorf("payload of command %s: %w", e.UUID, err)
	}
	if e.UserEnrolled && e.RequestType == "DeviceInformation" {
		if plist, err = command.Reduce(plist); err != nil {
			return nil, fmt.Errorf("payload of command %s: %w", e.UUID, err)
		}
	}
	if e.State == Delivered {
		return plist, nil
	}
	e.State = Delivered
	e.DeliveredAt = s.now().UTC()
	if err := queue.Put(tx, *e); err != nil {
		return nil, fmt.Errorf("deliver command %s: %w", e.UUID, err)
	}
	return plist, nil
}

func payloadPurpose(uuid string) string { return "mdm/command/" + uuid }

// Report is what a device says of a command.
type Report struct {
	CommandUUID string
	State       CommandState // Acknowledged, Failed or NotNow
	ErrorChain  []command.ChainedError
	Result      json.RawMessage // nil when there was nothing but the status
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
		return e, nil
	}
	e.ErrorChain, e.Result = r.ErrorChain, r.Result
	if e.UserEnrolled && e.Result != nil {
		if e.Result, err = impersonal(tx, *e); err != nil {
			return nil, err
		}
	}
	if err := s.finish(tx, e, r.State); err != nil {
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
		e.ErrorChain = []command.ChainedError{{ErrorDomain: "Gatehouse", USEnglishDescription: "The device's answer is larger than this server accepts."}}
		return &e, s.finish(tx, &e, Failed)
	}
	return nil, nil
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
	if err := queue.Delete(tx, entryKey(*e)); err != nil {
		return fmt.Errorf("finish command %s: %w", e.UUID, err)
	}
	if err := history.Put(tx, *e); err != nil {
		return fmt.Errorf("finish command %s: %w", e.UUID, err)
	}
	if err := tx.Notify(commandTopic(e.Seq)); err != nil {
		return fmt.Errorf("finish command %s: %w", e.UUID, err)
	}
	return nil
}

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

// NewCommand is a command to be queued.
type NewCommand struct {
	UUID        string // as in Plist
	RequestType string // as in Plist
	Identifier  string // of an InstallProfile: the profile's PayloadIdentifier; a newer one replaces an undelivered older one
	Plist       []byte // the whole command
	CreatedBy   string
	Targets     []DeviceID
}

// Rejection says why a device did not get a command.
type Rejection struct {
	DeviceID DeviceID
	Code     string
	Reason   string // a sentence
}

// Queue queues c for each of its targets that may have it, and says which may
// not and why. Queueing the same command again adds the targets that it lacked;
// another command with its UUID is refused with ErrCommandExists.
func (s *Service) Queue(tx storage.Tx, c NewCommand) (Command, []Rejection, error) {
	tx.Prefetch(commands.Read(c.UUID), commands.ReadLast(commandsByAge))
	for _, id := range c.Targets {
		tx.Prefetch(storage.Read{Bucket: eligibilityBucket, Key: []byte(id)})
		if c.Identifier != "" {
			tx.Prefetch(ReadQueue(id))
		}
	}
	cmd, err := s.admit(tx, c)
	if err != nil {
		return Command{}, nil, err
	}
	gate := newGate(c)
	had := make(map[DeviceID]bool, len(cmd.Targets))
	for _, id := range cmd.Targets {
		had[id] = true
	}
	var rejected []Rejection
	for _, id := range c.Targets {
		if had[id] {
			continue
		}
		had[id] = true
		verdict, err := gate.judge(tx, id)
		if errors.Is(err, storage.ErrNotFound) {
			rejected = append(rejected, Rejection{id, "not_found", "No device has this id."})
			continue
		}
		if err != nil {
			return Command{}, nil, err
		}
		if verdict.code != "" {
			rejected = append(rejected, Rejection{id, verdict.code, verdict.reason})
			continue
		}
		if err := s.supersede(tx, id, c); err != nil {
			return Command{}, nil, err
		}
		err = queue.Put(tx, Entry{
			DeviceID: id, Seq: cmd.Seq, UUID: cmd.UUID, RequestType: cmd.RequestType, Identifier: cmd.Identifier,
			State: Queued, CreatedAt: cmd.CreatedAt, UserEnrolled: verdict.userEnrolled,
		})
		if err != nil {
			return Command{}, nil, fmt.Errorf("queue command %s for %s: %w", c.UUID, id, err)
		}
		cmd.Targets = append(cmd.Targets, id)
	}
	if len(cmd.Targets) == 0 {
		return cmd, rejected, nil // nobody may have it: nothing to keep
	}
	if err := commands.Put(tx, cmd); err != nil {
		return Command{}, nil, fmt.Errorf("queue command %s: %w", c.UUID, err)
	}
	if err := tx.Put(payloadBucket, []byte(cmd.UUID), s.box.Seal(payloadPurpose(cmd.UUID), c.Plist)); err != nil {
		return Command{}, nil, fmt.Errorf("queue command %s: %w", c.UUID, err)
	}
	return cmd, rejected, nil
}

// admit returns the command record to add targets to.
func (s *Service) admit(tx storage.Tx, c NewCommand) (Command, error) {
	sum := sha256.Sum256(c.Plist)
	digest := hex.EncodeToString(sum[:])
	cmd, err := commands.Get(tx, c.UUID)
	switch {
	case errors.Is(err, storage.ErrNotFound):
		seq, err := s.sequence(tx)
		if err != nil {
			return Command{}, fmt.Errorf("queue command %s: %w", c.UUID, err)
		}
		return Command{
			UUID: c.UUID, Seq: seq, RequestType: c.RequestType, Identifier: c.Identifier, Digest: digest,
			CreatedAt: s.now().UTC(), CreatedBy: c.CreatedBy,
		}, nil
	case err != nil:
		return Command{}, fmt.Errorf("queue command %s: %w", c.UUID, err)
	case cmd.Digest != digest:
		return Command{}, fmt.Errorf("queue command %s: %w", c.UUID, ErrCommandExists)
	}
	return cmd, nil
}

// supersede cancels older undelivered installations of the profile that c brings.
func (s *Service) supersede(tx storage.Tx, id DeviceID, c NewCommand) error {
	if c.Identifier == "" {
		return nil
	}
	for e, err := range pending(tx, id) {
		if err != nil {
			return fmt.Errorf("queue of %s: %w", id, err)
		}
		if e.RequestType != c.RequestType || e.Identifier != c.Identifier || e.State == Delivered {
			continue
		}
		if err := s.finish(tx, &e, Cancelled); err != nil {
			return err
		}
	}
	return nil
}

// sequence returns a name that sorts after those of all commands that there are, also
// when the clock steps back or another replica's is ahead. Two that are made at the same
// time sort in either order.
func (s *Service) sequence(tx storage.Tx) (string, error) {
	last, found, err := commands.Last(tx, commandsByAge)
	if err != nil {
		return "", err
	}
	next := s.now().UnixNano()
	if found && isSeq(last) {
		nanos, err := strconv.ParseInt(last[:len(seqAt(0))], 16, 64)
		if err != nil {
			return "", fmt.Errorf("sequence %q: %w", last, storage.ErrCorrupt)
		}
		next = max(next, nanos+1)
	}
	return seqAt(next) + rand.Text()[:seqRandom], nil
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
			tx.Prefetch(append(readEntries(queue, ids, c.Seq), readEntries(history, ids, c.Seq)...)...)
		}
		e, err := queue.Get(tx, queueKey(id, c.Seq))
		if errors.Is(err, storage.ErrNotFound) {
			e, err = history.Get(tx, queueKey(id, c.Seq))
		}
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

// deviceCommands returns up to limit commands of a device, newest first, older
// than the sequence before (all when it is empty), and the next before, empty at the end.
func deviceCommands(tx storage.Tx, id DeviceID, before string, limit int) ([]Entry, string, error) {
	r := storage.Range{Prefix: storage.KeyPrefix(string(id)), Reverse: true, Limit: limit + 1}
	if before != "" {
		if !isSeq(before) {
			return nil, "", storage.ErrBadCursor
		}
		r.End = storage.Key(string(id), before)
	}
	var all []Entry
	tx.Prefetch(storage.Read{Bucket: queueBucket, Range: r}, storage.Read{Bucket: historyBucket, Range: r})
	for _, c := range []*storage.Collection[Entry]{queue, history} {
		for e, err := range c.All(tx, r) {
			if err != nil {
				return nil, "", fmt.Errorf("commands of %s: %w", id, err)
			}
			all = append(all, e)
		}
	}
	slices.SortFunc(all, func(a, b Entry) int { return bytes.Compare([]byte(b.Seq), []byte(a.Seq)) })
	if len(all) <= limit {
		return all, "", nil
	}
	return all[:limit], all[limit-1].Seq, nil
}
