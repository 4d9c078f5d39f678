package mdm

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sort"
	"time"

	"github.com/gatehouse-mdm/gatehouse/mdm/command"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

// Tally counts the devices of a command, or of a batch, by how far they are.
type Tally struct {
	Queued       int `json:"queued,omitempty"`
	Delivered    int `json:"delivered,omitempty"`
	NotNow       int `json:"not_now,omitempty"`
	Acknowledged int `json:"acknowledged,omitempty"`
	Failed       int `json:"error,omitempty"`
	Cancelled    int `json:"cancelled,omitempty"`
	Expired      int `json:"expired,omitempty"`
}

// Total is how many devices are counted, and Pending how many of them are not finished.
func (t Tally) Total() int {
	return t.Pending() + t.Acknowledged + t.Failed + t.Cancelled + t.Expired
}

// Pending is how many devices have not finished.
func (t Tally) Pending() int { return t.Queued + t.Delivered + t.NotNow }

func (t *Tally) add(s CommandState) {
	switch s {
	case Queued:
		t.Queued++
	case Delivered:
		t.Delivered++
	case NotNow:
		t.NotNow++
	case Acknowledged:
		t.Acknowledged++
	case Failed:
		t.Failed++
	case Cancelled:
		t.Cancelled++
	case Expired:
		t.Expired++
	}
}

func (t *Tally) addAll(o Tally) {
	t.Queued += o.Queued
	t.Delivered += o.Delivered
	t.NotNow += o.NotNow
	t.Acknowledged += o.Acknowledged
	t.Failed += o.Failed
	t.Cancelled += o.Cancelled
	t.Expired += o.Expired
}

// tally counts c's targets. A command that is closed has been counted.
func tally(tx storage.Tx, c Command) (t Tally, err error) {
	if c.Closed && c.Tally != (Tally{}) {
		return c.Tally, nil
	}
	for ids := range slices.Chunk(c.Targets, readChunk) {
		tx.Prefetch(append(readQueued(c, ids), readFinished(c, ids)...)...)
		for _, id := range ids {
			e, err := getEntry(tx, c, id)
			if errors.Is(err, storage.ErrNotFound) {
				continue // swept
			}
			if err != nil {
				return Tally{}, fmt.Errorf("count command %s: %w", c.UUID, err)
			}
			t.add(e.State)
		}
	}
	return t, nil
}

// CommandStatus is a command with how far it is.
type CommandStatus struct {
	Command
	Tally Tally
	// Counted is false where there were too many devices to count for a list: ask for that
	// command by itself.
	Counted bool
}

// CommandFilter says which commands are listed; zero fields say nothing.
type CommandFilter struct {
	RequestType string
	CreatedBy   string
	Batch       string
	Open        bool // only those that a device has not finished
	Failed      bool // only those that failed, or expired, with a device
	Background  bool // also what the server asks by itself: of a fleet, that is most of all
	Since       time.Time
	Scope       []GroupID // only those for devices in these groups, and of each only those; nil: all
}

const (
	// countMost is how many entries a page of commands may read to count them.
	countMost = 20_000
	// lookMost is how many commands are looked at for a page of those that a filter lets pass:
	// more than the server itself asks before it forgets.
	lookMost  = 20_000
	lookChunk = 100
)

func (f CommandFilter) passes(c Command) bool {
	return (f.RequestType == "" || c.RequestType == f.RequestType) && (f.CreatedBy == "" || c.CreatedBy == f.CreatedBy) &&
		(f.Batch == "" || c.Batch == f.Batch) && !(f.Open && c.Closed) && (f.Background || c.Priority != Background)
}

// Commands returns a page of commands, the newest first, and the cursor of the next one,
// empty at the end. A page may hold fewer than limit, even none, and yet not be the last:
// the work for each is bounded.
func (s *Service) Commands(ctx context.Context, f CommandFilter, cursor string, limit int) (page []CommandStatus, next string, err error) {
	if cursor != "" && !isSeq(cursor) {
		return nil, "", storage.ErrBadCursor
	}
	err = s.ViewScope(ctx, f.Scope, func(tx storage.Tx, scope *Scope) error {
		page, next = nil, ""
		counted, looked, last := 0, 0, cursor
		for {
			chunk := 0
			for c, err := range storage.Descend(tx, commands, commandsByAge, last, lookChunk) {
				if err != nil {
					return err
				}
				if len(page) == limit || looked == lookMost {
					next = last
					return nil
				}
				if c.CreatedAt.Before(f.Since) {
					return nil // all that follow are older
				}
				chunk++
				looked++
				last = c.Seq
				if !f.passes(c) {
					continue
				}
				if c, err = scope.narrow(c); err != nil {
					return err
				}
				if len(c.Targets) == 0 {
					continue
				}
				cs := CommandStatus{Command: c}
				if c.Closed || counted+len(c.Targets) <= countMost {
					if !c.Closed {
						counted += len(c.Targets)
					}
					if cs.Tally, err = tally(tx, c); err != nil {
						return err
					}
					cs.Counted = true
					if f.Open && cs.Tally.Pending() == 0 || f.Failed && cs.Tally.Failed+cs.Tally.Expired == 0 {
						continue
					}
				}
				page = append(page, cs)
			}
			if chunk < lookChunk {
				break
			}
		}
		return nil
	})
	if err != nil {
		return nil, "", fmt.Errorf("list commands: %w", err)
	}
	return page, next, nil
}

// CommandStatus returns a command with how far it is, without what each device said, or an
// error that wraps storage.ErrNotFound.
func (s *Service) CommandStatus(ctx context.Context, uuid string) (cs CommandStatus, err error) {
	return s.In(nil).CommandStatus(ctx, uuid)
}

// CommandStatus is [Service.CommandStatus] within the limit.
func (l Limited) CommandStatus(ctx context.Context, uuid string) (cs CommandStatus, err error) {
	err = l.s.ViewScope(ctx, l.groups, func(tx storage.Tx, scope *Scope) error {
		c, err := scope.command(tx, uuid)
		if err != nil {
			return err
		}
		t, err := tally(tx, c)
		cs = CommandStatus{Command: c, Tally: t, Counted: true}
		return err
	})
	return cs, err
}

// CommandEntries returns a page of how far a command is with each of its devices, in their
// order, only of those in one of states unless there are none, and the cursor of the next
// page, empty at the end.
func (s *Service) CommandEntries(ctx context.Context, uuid string, states []CommandState, cursor string, limit int) (page []Entry, next string, err error) {
	return s.In(nil).CommandEntries(ctx, uuid, states, cursor, limit)
}

// CommandEntries is [Service.CommandEntries] within the limit.
func (l Limited) CommandEntries(ctx context.Context, uuid string, states []CommandState, cursor string, limit int) (page []Entry, next string, err error) {
	err = l.s.ViewScope(ctx, l.groups, func(tx storage.Tx, scope *Scope) error {
		page, next = nil, ""
		c, err := scope.command(tx, uuid)
		if err != nil {
			return err
		}
		from := 0
		if cursor != "" {
			if from = slices.Index(c.Targets, DeviceID(cursor)) + 1; from == 0 {
				return storage.ErrBadCursor
			}
		}
		for ids := range slices.Chunk(c.Targets[from:], readChunk) {
			tx.Prefetch(append(readQueued(c, ids), readFinished(c, ids)...)...)
			for _, id := range ids {
				e, err := getEntry(tx, c, id)
				if errors.Is(err, storage.ErrNotFound) {
					continue // swept
				}
				if err != nil {
					return fmt.Errorf("command %s: %w", uuid, err)
				}
				if len(states) > 0 && !slices.Contains(states, e.State) {
					continue
				}
				if len(page) == limit {
					next = string(page[limit-1].DeviceID)
					return nil
				}
				page = append(page, e)
			}
		}
		return nil
	})
	return page, next, err
}

// DeviceCommand returns a command and how far it is with one device, or an error that wraps
// storage.ErrNotFound.
func (s *Service) DeviceCommand(ctx context.Context, id DeviceID, uuid string) (c Command, e Entry, err error) {
	err = s.db.View(ctx, func(tx storage.Tx) error {
		if c, err = commands.Get(tx, uuid); err == nil {
			e, err = getEntry(tx, c, id)
		}
		return err
	})
	if err != nil {
		return Command{}, Entry{}, fmt.Errorf("command %s for %s: %w", uuid, id, err)
	}
	return c, e, nil
}

// Params returns what a command asks of its devices: its Command dictionary with what is
// secret, or nobody knows, left out (see [command.Shown]). It is empty for one that only a
// device can read. The error wraps storage.ErrNotFound.
func (s *Service) Params(ctx context.Context, uuid string) (params map[string]any, err error) {
	var c Command
	err = s.db.View(ctx, func(tx storage.Tx) error {
		if c, err = commands.Get(tx, uuid); err != nil {
			return fmt.Errorf("command %s: %w", uuid, err)
		}
		params, err = s.paramsOf(tx, uuid)
		return err
	})
	switch {
	case errors.Is(err, command.ErrRaw): // a device may read it all the same
		return map[string]any{}, nil
	case err != nil:
		return nil, err
	}
	return command.Shown(c.RequestType, params), nil
}

// Batch is several commands that were asked for together.
type Batch struct {
	ID        string    `json:"id"`
	Name      string    `json:"name,omitempty"` // what a person calls it
	CreatedAt time.Time `json:"created_at"`
	CreatedBy string    `json:"created_by,omitempty"`
	Commands  []string  `json:"commands"` // their UUIDs, in their order
}

const batchesByAge = "age"

var batches = storage.NewCollection("command_batches", 1, func(b Batch) string { return b.ID },
	storage.Index[Batch]{Name: batchesByAge, Values: func(b Batch) []string {
		return []string{seqAt(b.CreatedAt.UnixNano())}
	}},
)

// BatchStatus is a batch with how far its commands are.
type BatchStatus struct {
	Batch
	Tally Tally // of all of its commands and their devices
	Each  []CommandStatus
	// Counted is false where there were too many devices to count for a list: ask for that
	// batch by itself.
	Counted bool
}

// QueuedCommand is what became of one command of a batch when it was queued.
type QueuedCommand struct {
	Command  Command
	Rejected []Rejection
}

// EnqueueBatch queues several commands at once: each device gets those that it may have, in
// their order, and either all of them wait or, if there is an error, none. A command that no
// device may have is not kept.
func (s *Service) EnqueueBatch(ctx context.Context, name, by string, all []NewCommand) (b Batch, queued []QueuedCommand, err error) {
	id := NewUUID()
	err = s.db.Update(ctx, func(tx storage.Tx) error {
		b, queued, err = s.QueueBatch(tx, id, name, by, all)
		return err
	})
	if err != nil {
		return Batch{}, nil, err
	}
	s.log.InfoContext(ctx, "batch queued", "batch", b.ID, "commands", len(b.Commands), "by", by)
	return b, queued, nil
}

// QueueBatch is EnqueueBatch in a transaction of the caller's; id is the batch's. The same
// commands again, by their UUIDs, get the devices that they lacked.
func (s *Service) QueueBatch(tx storage.Tx, id, name, by string, all []NewCommand) (b Batch, queued []QueuedCommand, err error) {
	b = Batch{ID: id, Name: name, CreatedAt: s.now().UTC(), CreatedBy: by}
	before, err := batches.Get(tx, id)
	switch {
	case err == nil: // it is asked for again
		b.CreatedAt = before.CreatedAt
	case !errors.Is(err, storage.ErrNotFound):
		return Batch{}, nil, fmt.Errorf("queue batch %s: %w", id, err)
	}
	for _, c := range all {
		c.Batch, c.CreatedBy = id, by
		cmd, rejected, err := s.Queue(tx, c)
		if err != nil {
			return Batch{}, nil, err
		}
		queued = append(queued, QueuedCommand{cmd, rejected})
		if len(cmd.Targets) > 0 {
			b.Commands = append(b.Commands, cmd.UUID)
		}
	}
	if len(b.Commands) == 0 {
		return b, queued, nil
	}
	if err := batches.Put(tx, b); err != nil {
		return Batch{}, nil, fmt.Errorf("queue batch %s: %w", id, err)
	}
	return b, queued, nil
}

// Batch returns a batch with how far it is, or an error that wraps storage.ErrNotFound.
func (s *Service) Batch(ctx context.Context, id string) (bs BatchStatus, err error) {
	return s.In(nil).Batch(ctx, id)
}

// Batch is [Service.Batch] within the limit.
func (l Limited) Batch(ctx context.Context, id string) (bs BatchStatus, err error) {
	err = l.s.ViewScope(ctx, l.groups, func(tx storage.Tx, scope *Scope) error {
		b, err := batches.Get(tx, id)
		if err != nil {
			return fmt.Errorf("batch %s: %w", id, err)
		}
		most := math.MaxInt
		if bs, err = scope.batch(tx, b, &most); err != nil {
			return err
		}
		if l.groups != nil && len(bs.Each) == 0 {
			return fmt.Errorf("batch %s: %w", id, storage.ErrNotFound)
		}
		return nil
	})
	return bs, err
}

// batch returns how far b is with devices in scope, and of its commands those that have any.
// It reads up to most entries of devices that were not counted before, and takes those off
// most.
func (c *Scope) batch(tx storage.Tx, b Batch, most *int) (bs BatchStatus, err error) {
	bs = BatchStatus{Batch: b, Counted: true}
	for cmd, err := range commands.Lookup(tx, commandsByBatch, b.ID) {
		if err != nil {
			return BatchStatus{}, err
		}
		if cmd, err = c.narrow(cmd); err != nil {
			return BatchStatus{}, err
		}
		if len(cmd.Targets) == 0 {
			continue
		}
		cs := CommandStatus{Command: cmd}
		if known := cmd.Closed && cmd.Tally != (Tally{}); known || len(cmd.Targets) <= *most {
			if !known {
				*most -= len(cmd.Targets)
			}
			if cs.Tally, err = tally(tx, cmd); err != nil {
				return BatchStatus{}, err
			}
			cs.Counted = true
		}
		bs.Each = append(bs.Each, cs)
		bs.Tally.addAll(cs.Tally)
		bs.Counted = bs.Counted && cs.Counted
	}
	sort.Slice(bs.Each, func(i, j int) bool {
		return slices.Index(b.Commands, bs.Each[i].UUID) < slices.Index(b.Commands, bs.Each[j].UUID)
	})
	if c.all {
		return bs, nil
	}
	bs.Commands = nil
	for _, cs := range bs.Each {
		bs.Commands = append(bs.Commands, cs.UUID)
	}
	return bs, nil
}

// Batches returns a page of batches, the newest first, and the cursor of the next page,
// empty at the end.
func (s *Service) Batches(ctx context.Context, cursor string, limit int) (page []BatchStatus, next string, err error) {
	return s.In(nil).Batches(ctx, cursor, limit)
}

// Batches is [Service.Batches] within the limit. A page may hold fewer than limit, even none,
// and yet not be the last.
func (l Limited) Batches(ctx context.Context, cursor string, limit int) (page []BatchStatus, next string, err error) {
	err = l.s.ViewScope(ctx, l.groups, func(tx storage.Tx, scope *Scope) error {
		page, next = nil, ""
		if cursor != "" && len(cursor) != len(seqAt(0)) {
			return storage.ErrBadCursor
		}
		looked, last, most := 0, "", countMost
		for b, err := range storage.Descend(tx, batches, batchesByAge, cursor, l.look(limit)+1) {
			if err != nil {
				return err
			}
			if len(page) == limit || looked == l.look(limit) {
				next = last
				return nil
			}
			looked, last = looked+1, seqAt(b.CreatedAt.UnixNano())
			bs, err := scope.batch(tx, b, &most)
			if err != nil {
				return err
			}
			if len(bs.Commands) > 0 || l.groups == nil {
				page = append(page, bs)
			}
		}
		return nil
	})
	return page, next, err
}

// CancelAll ends a command for every device that does not have it, and returns for how many
// that is: devices that were sent it, or have finished it, keep it as it is. by is who
// cancels it.
func (s *Service) CancelAll(ctx context.Context, uuid, by string) (cancelled int, err error) {
	return s.In(nil).CancelAll(ctx, uuid, by)
}

// CancelAll is [Service.CancelAll] within the limit: for other devices the command stays.
func (l Limited) CancelAll(ctx context.Context, uuid, by string) (cancelled int, err error) {
	s := l.s
	err = s.updateScope(ctx, l.groups, func(tx storage.Tx, scope *Scope) error {
		cancelled = 0
		c, err := scope.command(tx, uuid)
		if err != nil {
			return err
		}
		for ids := range slices.Chunk(c.Targets, readChunk) {
			tx.Prefetch(readQueued(c, ids)...)
			for _, id := range ids {
				e, err := queue.Get(tx, queueKey(id, c.Priority, c.Seq))
				if errors.Is(err, storage.ErrNotFound) || err == nil && e.State == Delivered {
					continue
				}
				if err != nil {
					return err
				}
				if err := s.finish(tx, &e, Cancelled); err != nil {
					return err
				}
				cancelled++
			}
		}
		if cancelled == 0 {
			return nil
		}
		return s.tellCancelled(tx, uuid, c.RequestType, "", cancelled, by)
	})
	if err != nil {
		return 0, fmt.Errorf("cancel command %s: %w", uuid, err)
	}
	s.log.InfoContext(ctx, "command cancelled", "command", uuid, "devices", cancelled)
	return cancelled, nil
}

// ErrNothingToRetry means that no device has failed, or never had, a command.
var ErrNothingToRetry = errors.New("no device needs the command again")

// Again is what it takes to queue a command again for those devices with which it came to
// nothing.
type Again struct {
	Command Command
	Params  map[string]any // the Command dictionary, without what was personal
	Targets []DeviceID
	// Rejected are those of the devices that were asked for that need no other try.
	Rejected []Rejection
}

// needless says why those of ids that are not among targets get no other try.
func (c Command) needless(ids, targets []DeviceID) (rejected []Rejection) {
	if len(ids) == 0 {
		return nil
	}
	again, had := make(map[DeviceID]bool, len(targets)), make(map[DeviceID]bool, len(c.Targets))
	for _, id := range targets {
		again[id] = true
	}
	for _, id := range c.Targets {
		had[id] = true
	}
	for _, id := range ids {
		switch {
		case again[id]:
		case had[id]:
			rejected = append(rejected, Rejection{id, "not_failed", "With this device the command has not failed, expired or been cancelled, or a newer one has taken its place."})
		default:
			rejected = append(rejected, Rejection{id, "not_found", "The command was never for a device with this id."})
		}
	}
	return rejected
}

// Again returns what to queue for another try of a command: for those of ids, or, if there
// are none, of all its devices, with which it failed, expired or was cancelled, unless a newer
// one has taken its place. The error
// wraps ErrNothingToRetry or storage.ErrNotFound.
func (s *Service) Again(ctx context.Context, uuid string, ids []DeviceID) (a Again, err error) {
	return s.In(nil).Again(ctx, uuid, ids)
}

// Again is [Service.Again] within the limit.
func (l Limited) Again(ctx context.Context, uuid string, ids []DeviceID) (a Again, err error) {
	s := l.s
	err = s.ViewScope(ctx, l.groups, func(tx storage.Tx, scope *Scope) error {
		_, entries, err := GetCommand(tx, uuid)
		if err != nil {
			return err
		}
		c, err := scope.command(tx, uuid)
		if err != nil {
			return err
		}
		if entries, err = scope.entries(entries); err != nil {
			return err
		}
		a = Again{Command: c}
		wanted := make(map[DeviceID]bool, len(ids))
		for _, id := range ids {
			wanted[id] = true
		}
		for _, e := range entries {
			failed := e.State == Failed || e.State == Expired || e.State == Cancelled && e.SupersededBy == ""
			if failed && (len(ids) == 0 || wanted[e.DeviceID]) {
				a.Targets = append(a.Targets, e.DeviceID)
			}
		}
		if len(a.Targets) == 0 {
			return fmt.Errorf("command %s: %w", uuid, ErrNothingToRetry)
		}
		a.Rejected = c.needless(ids, a.Targets)
		sealed, err := tx.Get(payloadBucket, []byte(uuid))
		if err != nil {
			return fmt.Errorf("payload of command %s: %w", uuid, err)
		}
		plist, err := s.box.Open(payloadPurpose(uuid), sealed)
		if err != nil {
			return fmt.Errorf("payload of command %s: %w", uuid, err)
		}
		a.Params, err = command.Params(plist)
		return err
	})
	return a, err
}
