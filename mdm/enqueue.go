package mdm

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/gatehouse-mdm/gatehouse/mdm/command"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

// NewCommand is a command to be queued.
type NewCommand struct {
	UUID        string // as in Plist
	RequestType string // as in Plist
	// Identifier names what the command is about: of an InstallProfile, the profile's
	// PayloadIdentifier. A newer command of the same type about the same takes the place of
	// an older one that was not delivered.
	Identifier string
	Plist      []byte // the whole command, but for what Personalize adds
	CreatedBy  string
	Targets    []DeviceID

	Priority  Priority      // Normal: Urgent where the type is (see [command.Urgent])
	ExpiresIn time.Duration // 0: commandLife
	Batch     string        // as of [Service.EnqueueBatch]
	Origin    string
	RetryOf   string
	// NoPush says that the targets are not woken for it: they get it when they poll.
	NoPush bool
	// PushAfter is for who pushes by itself once it has queued: it is when the server does it,
	// should that have come to nothing.
	PushAfter time.Duration
	// Personalize, unless nil, returns what a target gets in a command of its own. A
	// *command.Refusal is the reason for which that target gets none. It may run more than
	// once, as the transaction does.
	Personalize func(tx storage.Tx, d Device) (Values, error)
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
	filler := s.filler(c)
	tx.Prefetch(commands.Read(c.UUID), commands.ReadLast(commandsByAge))
	for _, id := range c.Targets {
		tx.Prefetch(storage.Read{Bucket: eligibilityBucket, Key: []byte(id)})
		if c.supersedes() {
			tx.Prefetch(ReadQueue(id))
		}
		if c.Personalize != nil {
			tx.Prefetch(ReadDevice(id), storage.Read{Bucket: valuesBucket, Key: valuesKey(c.UUID, id)})
		}
		if filler != nil {
			tx.Prefetch(filler.reads(id))
		}
	}
	cmd, err := s.admit(tx, c, c.Personalize != nil || filler != nil)
	if err != nil {
		return Command{}, nil, err
	}
	gate := newGate(c)
	had := make(map[DeviceID]bool, len(cmd.Targets))
	before := len(cmd.Targets)
	for _, id := range cmd.Targets {
		had[id] = true
	}
	var rejected []Rejection
	for _, id := range c.Targets {
		if had[id] {
			continue
		}
		had[id] = true
		if over := cmd.ExpiresAt; !over.IsZero() && !s.now().Before(over) {
			rejected = append(rejected, Rejection{id, "command_expired", "The command’s time is up: queue it under another CommandUUID."})
			continue
		}
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
		own, no, err := s.personalize(tx, c, filler, id, verdict.target)
		if err != nil {
			return Command{}, nil, err
		}
		if no != nil {
			rejected = append(rejected, Rejection{id, no.Code, no.Reason})
			continue
		}
		if err := s.supersede(tx, id, c); err != nil {
			return Command{}, nil, err
		}
		err = queue.Put(tx, Entry{
			DeviceID: id, Seq: cmd.Seq, UUID: cmd.UUID, RequestType: cmd.RequestType, Identifier: cmd.Identifier,
			State: Queued, CreatedAt: cmd.CreatedAt, UserEnrolled: verdict.userEnrolled,
			Priority: cmd.Priority, ExpiresAt: cmd.ExpiresAt, Personal: own, Origin: cmd.Origin, NoPush: c.NoPush,
		})
		if err != nil {
			return Command{}, nil, fmt.Errorf("queue command %s for %s: %w", c.UUID, id, err)
		}
		cmd.Targets = append(cmd.Targets, id)
		cmd.Closed, cmd.Tally = false, Tally{}
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
	if len(cmd.Targets) > before {
		if err := s.tellQueued(tx, cmd, cmd.Targets[before:]); err != nil {
			return Command{}, nil, fmt.Errorf("queue command %s: %w", c.UUID, err)
		}
	}
	if len(cmd.Targets) > before && !c.NoPush {
		if err := s.waker.Queued(tx, cmd, before, c.PushAfter); err != nil {
			return Command{}, nil, fmt.Errorf("queue command %s: %w", c.UUID, err)
		}
	}
	return cmd, rejected, nil
}

// admit returns the command record to add targets to; targets of a personal one may have
// values of their own.
func (s *Service) admit(tx storage.Tx, c NewCommand, personal bool) (Command, error) {
	digest := hex.EncodeToString(s.box.MAC("mdm/command-digest", c.Plist))
	cmd, err := commands.Get(tx, c.UUID)
	switch {
	case errors.Is(err, storage.ErrNotFound):
		seq, err := s.sequence(tx)
		if err != nil {
			return Command{}, fmt.Errorf("queue command %s: %w", c.UUID, err)
		}
		cmd = Command{
			UUID: c.UUID, Seq: seq, RequestType: c.RequestType, Identifier: c.Identifier, Digest: digest,
			CreatedAt: s.now().UTC(), CreatedBy: c.CreatedBy, Personal: personal,
			Priority: c.Priority, Batch: c.Batch, Origin: c.Origin, RetryOf: c.RetryOf,
		}
		if cmd.Priority == Normal && command.Urgent(c.RequestType) {
			cmd.Priority = Urgent
		}
		if c.ExpiresIn > 0 {
			cmd.ExpiresAt = cmd.CreatedAt.Add(c.ExpiresIn)
		}
		return cmd, nil
	case err != nil:
		return Command{}, fmt.Errorf("queue command %s: %w", c.UUID, err)
	case cmd.Digest != digest && cmd.Digest != plainDigest(c.Plist),
		c.Personalize != nil && !cmd.Personal, cmd.Personal && !personal:
		return Command{}, fmt.Errorf("queue command %s: %w", c.UUID, ErrCommandExists)
	}
	cmd.Personal = personal // also of one from before anything was filled in
	return cmd, nil
}

// plainDigest is the Digest of commands that were queued before it was made with a key.
func plainDigest(plist []byte) string {
	sum := sha256.Sum256(plist)
	return hex.EncodeToString(sum[:])
}

// supersedes says that c may take the place of commands that wait.
func (c NewCommand) supersedes() bool {
	return c.Identifier != "" || command.Undoes(c.RequestType) != ""
}

// supersede cancels what a device was to get and c takes the place of, unless it was delivered.
func (s *Service) supersede(tx storage.Tx, id DeviceID, c NewCommand) error {
	if !c.supersedes() {
		return nil
	}
	undone := command.Undoes(c.RequestType)
	for e, err := range pending(tx, id) {
		if err != nil {
			return fmt.Errorf("queue of %s: %w", id, err)
		}
		newer := c.Identifier != "" && e.RequestType == c.RequestType && e.Identifier == c.Identifier
		if e.State == Delivered || !newer && (undone == "" || e.RequestType != undone) {
			continue
		}
		e.SupersededBy = c.UUID
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
