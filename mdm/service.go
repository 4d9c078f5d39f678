package mdm

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/seal"
)

// Config says what a Service needs: all of it but Sign.
type Config struct {
	DB  storage.DB
	Box *seal.Box
	Log *slog.Logger
	Now func() time.Time

	// Sign signs a profile that was made for one device as it is sent; nil: it goes unsigned.
	Sign func(profile []byte) ([]byte, error)
}

// Service is what the server knows of devices and asks of them.
type Service struct {
	db  storage.DB
	box *seal.Box
	log *slog.Logger
	now func() time.Time

	sign      func([]byte) ([]byte, error)
	observers []Observer
	followUps []Deletion
	screens   []Screen
	waker     Waker
	rules     RuleReader // nil: groups have no rules

	// escrowPair makes a pair for this process to offer, once.
	escrowPair func() (escrowPair, error)

	seen    seen
	filling sync.Mutex // held by who makes the rows of devices
}

// New returns a Service, or says what c lacks.
func New(c Config) (*Service, error) {
	if c.DB == nil || c.Box == nil || c.Log == nil || c.Now == nil {
		return nil, errors.New("mdm: DB, Box, Log and Now are required")
	}
	s := &Service{db: c.DB, box: c.Box, log: c.Log, now: c.Now, sign: c.Sign, waker: sleeping{}}
	s.escrowPair = sync.OnceValues(s.newEscrowPair)
	s.Observe(s.settleSecrets)
	s.Observe(s.tellFinished)
	return s, nil
}

// Overview is a device with what is kept apart from its record.
type Overview struct {
	Device
	LastSeenAt      time.Time
	PendingCommands int
	Attributes      map[string]any // what the device answered to DeviceInformation; only from Service.Device
}

// Devices returns a page of enrollments, user channels among them, in the order
// of their ids. The cursor of the next page is empty at the end.
func (s *Service) Devices(ctx context.Context, cursor string, limit int) (page []Overview, next string, err error) {
	err = s.db.View(ctx, func(tx storage.Tx) error {
		ds, n, err := storage.Page(tx, devices, cursor, limit)
		if err != nil {
			return err
		}
		page, next = make([]Overview, 0, len(ds)), n
		for _, d := range ds {
			tx.Prefetch(s.readOverview(d.ID)...)
		}
		for _, d := range ds {
			o, err := s.overview(tx, d)
			if err != nil {
				return err
			}
			page = append(page, o)
		}
		return nil
	})
	if err != nil {
		return nil, "", fmt.Errorf("list devices: %w", err)
	}
	return page, next, nil
}

// Device returns one enrollment, or an error that wraps storage.ErrNotFound.
func (s *Service) Device(ctx context.Context, id DeviceID) (o Overview, err error) {
	err = s.db.View(ctx, func(tx storage.Tx) error {
		tx.Prefetch(append(s.readOverview(id), storage.Read{Bucket: attributeBucket, Key: []byte(id)})...)
		d, err := GetDevice(tx, id)
		if err != nil {
			return err
		}
		if o, err = s.overview(tx, d); err != nil {
			return err
		}
		o.Attributes, err = Attributes(tx, id)
		return err
	})
	return o, err
}

// readOverview is what overview reads.
func (s *Service) readOverview(id DeviceID) []storage.Read {
	return []storage.Read{{Bucket: seenBucket, Key: []byte(id)}, ReadQueue(id)}
}

func (s *Service) overview(tx storage.Tx, d Device) (Overview, error) {
	at, err := s.LastSeen(tx, d.ID)
	if err != nil {
		return Overview{}, err
	}
	n, err := CountPending(tx, d.ID)
	if err != nil {
		return Overview{}, err
	}
	return Overview{Device: d, LastSeenAt: at, PendingCommands: n}, nil
}

// Enqueue queues a command: see [Service.Queue].
func (s *Service) Enqueue(ctx context.Context, c NewCommand) (cmd Command, rejected []Rejection, err error) {
	err = s.db.Update(ctx, func(tx storage.Tx) error {
		cmd, rejected, err = s.Queue(tx, c)
		return err
	})
	if err != nil {
		return Command{}, nil, err
	}
	s.log.InfoContext(ctx, "command queued", "command", cmd.UUID, "request_type", cmd.RequestType, "devices", len(cmd.Targets), "rejected", len(rejected), "by", c.CreatedBy)
	return cmd, rejected, nil
}

// Command returns a command and how far it is with each of its devices, or an
// error that wraps storage.ErrNotFound.
func (s *Service) Command(ctx context.Context, uuid string) (cmd Command, entries []Entry, err error) {
	err = s.db.View(ctx, func(tx storage.Tx) error {
		cmd, entries, err = GetCommand(tx, uuid)
		return err
	})
	return cmd, entries, err
}

// waitPoll is how often Wait looks by itself: news of another replica's answers may get
// lost with a connection.
const waitPoll = 5 * time.Second

// commandTopic is what is notified when something became of a command.
func commandTopic(seq string) string { return "mdm.command." + seq }

// Wait returns like Command, once every device has finished the command or ctx
// has ended, whichever is first.
func (s *Service) Wait(ctx context.Context, uuid string) (Command, []Entry, error) {
	reading := context.WithoutCancel(ctx) // the end of the wait is no reason to fail
	c, _, err := s.commandHead(reading, uuid)
	if err != nil {
		return Command{}, nil, err
	}
	changed, stop := s.db.Watch(commandTopic(c.Seq))
	defer stop()
	tick := time.NewTicker(waitPoll)
	defer tick.Stop()
	for {
		_, pending, err := s.commandHead(reading, uuid)
		if err != nil {
			return Command{}, nil, err
		}
		if !pending {
			return s.Command(reading, uuid)
		}
		select {
		case <-changed:
		case <-tick.C:
		case <-ctx.Done():
			return s.Command(reading, uuid)
		}
	}
}

// commandHead returns a command, and whether a device has yet to finish it. It stops at
// the first one: whoever waits asks after the answer of each.
func (s *Service) commandHead(ctx context.Context, uuid string) (c Command, pending bool, err error) {
	err = s.db.View(ctx, func(tx storage.Tx) error {
		pending = false
		if c, err = commands.Get(tx, uuid); err != nil {
			return fmt.Errorf("command %s: %w", uuid, err)
		}
		for ids := range slices.Chunk(c.Targets, readChunk) {
			tx.Prefetch(readQueued(c, ids)...)
			for _, id := range ids {
				if pending, err = queue.Has(tx, queueKey(id, c.Priority, c.Seq)); err != nil || pending {
					return err
				}
			}
		}
		return nil
	})
	return c, pending, err
}

// Cancel ends one command for a device that does not have it: ErrCommandDelivered
// if it was sent and is unanswered, ErrCommandFinished if it is final,
// storage.ErrNotFound if the device was never to have it. A command that was
// answered NotNow can be cancelled, because the device has forgotten it. by is who cancels it.
func (s *Service) Cancel(ctx context.Context, id DeviceID, uuid, by string) error {
	err := s.db.Update(ctx, func(tx storage.Tx) error {
		e, err := findPending(tx, id, uuid)
		if err != nil {
			return err
		}
		if e == nil {
			c, err := commands.Get(tx, uuid)
			if err != nil {
				return err
			}
			if _, err := history.Get(tx, historyKey(id, c.Seq)); err != nil {
				return err
			}
			return ErrCommandFinished
		}
		if e.State == Delivered {
			return ErrCommandDelivered
		}
		return errors.Join(s.finish(tx, e, Cancelled), s.tellCancelled(tx, uuid, e.RequestType, id, 1, by))
	})
	if err != nil {
		return fmt.Errorf("cancel command %s for %s: %w", uuid, id, err)
	}
	s.log.InfoContext(ctx, "command cancelled", "command", uuid, "device", id)
	return nil
}

// DeviceCommands returns a page of a device's commands, newest first.
func (s *Service) DeviceCommands(ctx context.Context, id DeviceID, cursor string, limit int) (page []Entry, next string, err error) {
	err = s.db.View(ctx, func(tx storage.Tx) error {
		if _, err := GetDevice(tx, id); err != nil {
			return err
		}
		page, next, err = deviceCommands(tx, id, cursor, limit)
		return err
	})
	return page, next, err
}
