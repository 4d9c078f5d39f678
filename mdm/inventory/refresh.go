package inventory

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

// identifier marks our questions in the queues of devices: a newer one takes the place of an
// older one of the same type that was not delivered.
const identifier = "inventory"

// refreshBatch is how many devices are asked in one transaction.
const refreshBatch = 200

// commandDevices is how many devices one command goes to: each transaction that adds some reads
// and writes the names of all.
const commandDevices = 2000

// keepQuestion is how long a question of ours can be looked up after its time is up.
const keepQuestion = 24 * time.Hour

// Asked is a question that waits for a device.
type Asked struct {
	Source      Source
	CommandUUID string
}

// LeftOut is a source that a device is not asked for, and why.
type LeftOut struct {
	Source Source
	Code   string // as of [mdm.Rejection]
	Reason string // a sentence
}

// Outcome says what became of a refresh of one device.
type Outcome struct {
	DeviceID mdm.DeviceID
	Queued   []Asked
	Waiting  []Asked // it was asked before, and has not answered
	LeftOut  []LeftOut
	// Code and Reason are empty unless the device can't be asked at all.
	Code, Reason string
}

// Refresh asks devices for sources, or, if there are none, for all that make sense: each for
// what it may be asked. What it may not, or has yet to answer, is left out and said to be. by is
// who wants to know.
func (s *Service) Refresh(ctx context.Context, by string, ids []mdm.DeviceID, sources []Source) ([]Outcome, error) {
	outcomes := make([]Outcome, 0, len(ids))
	questions := 0
	for many := range slices.Chunk(ids, commandDevices) {
		a := s.asking(by, mdm.Normal, sources)
		for part := range slices.Chunk(many, refreshBatch) {
			var some []Outcome
			err := s.db.Update(ctx, func(tx storage.Tx) error {
				settings, err := GetSettings(tx)
				if err != nil {
					return err
				}
				a.life = life(settings.Every)
				some, err = a.ask(tx, part)
				return err
			})
			if err != nil {
				return outcomes, fmt.Errorf("refresh inventory: %w", err)
			}
			outcomes = append(outcomes, some...)
		}
	}
	for _, o := range outcomes {
		questions += len(o.Queued)
	}
	s.log.InfoContext(ctx, "inventory refresh queued", "devices", len(ids), "commands", questions, "by", by)
	return outcomes, nil
}

// turn is the record that whoever asks a device reads and writes: two who ask at once, each of
// whom sees that nobody does, can't both commit.
type turn struct {
	DeviceID mdm.DeviceID `json:"device_id"`
	Asked    int64        `json:"asked"` // how often
}

var turns = storage.NewCollection("inventory.turn", 1, func(t turn) string { return string(t.DeviceID) })

// take takes the turn to ask a device.
func take(tx storage.Tx, id mdm.DeviceID) error {
	t, err := turns.Get(tx, string(id))
	if err != nil && !errors.Is(err, storage.ErrNotFound) {
		return err
	}
	if err := turns.Put(tx, turn{DeviceID: id, Asked: t.Asked + 1}); err != nil {
		return fmt.Errorf("ask %s: %w", id, err)
	}
	return nil
}

// life is how long a question waits for its device.
func life(every time.Duration) time.Duration {
	return min(max(3*every, 24*time.Hour), 30*24*time.Hour)
}

// asking asks any number of devices, with one command a question.
type asking struct {
	mdm      *mdm.Service
	now      func() time.Time
	by       string
	priority mdm.Priority
	sources  []Source // empty: as of sourcesOf
	life     time.Duration
	commands map[question]mdm.NewCommand
}

func (s *Service) asking(by string, p mdm.Priority, sources []Source) *asking {
	return &asking{mdm: s.mdm, now: s.now, by: by, priority: p, sources: sources, commands: make(map[question]mdm.NewCommand)}
}

// command returns the command of q, which is the same for all devices.
func (a *asking) command(q question) (mdm.NewCommand, error) {
	if c, made := a.commands[q]; made {
		return c, nil
	}
	uuid := mdm.NewUUID()
	plist, err := q.build(uuid)
	if err != nil {
		return mdm.NewCommand{}, err
	}
	c := mdm.NewCommand{
		UUID: uuid, RequestType: string(q.source), Identifier: identifier, Plist: plist, CreatedBy: a.by,
		Priority: a.priority, ExpiresIn: a.life, Origin: identifier,
	}
	a.commands[q] = c
	return c, nil
}

// ask queues what ids are to be asked, and returns what became of each.
func (a *asking) ask(tx storage.Tx, ids []mdm.DeviceID) ([]Outcome, error) {
	for _, id := range ids {
		tx.Prefetch(mdm.ReadDevice(id), mdm.ReadQueue(id), turns.Read(string(id)))
	}
	outcomes := make([]Outcome, len(ids))
	at := make(map[mdm.DeviceID]int, len(ids))
	targets := make(map[question][]mdm.DeviceID)
	for i, id := range ids {
		at[id] = i
		outcomes[i].DeviceID = id
		d, err := mdm.GetDevice(tx, id)
		if errors.Is(err, storage.ErrNotFound) {
			outcomes[i].Code, outcomes[i].Reason = "not_found", "No device has this id."
			continue
		}
		if err != nil {
			return nil, err
		}
		if !d.Live() {
			outcomes[i].Code, outcomes[i].Reason = "not_enrolled", "The device is not enrolled."
			continue
		}
		wanted := a.sources
		if len(wanted) == 0 {
			wanted = sourcesOf(d)
		}
		if err := take(tx, id); err != nil {
			return nil, err
		}
		waiting, err := a.waiting(tx, id)
		if err != nil {
			return nil, err
		}
		for _, source := range wanted {
			if uuid, ok := waiting[source]; ok {
				outcomes[i].Waiting = append(outcomes[i].Waiting, Asked{source, uuid})
				continue
			}
			q := questionFor(d, source)
			targets[q] = append(targets[q], id)
		}
	}
	for _, source := range Sources() {
		for _, managedOnly := range []bool{false, true} {
			q := question{source, managedOnly}
			if len(targets[q]) == 0 {
				continue
			}
			if err := a.queue(tx, q, targets[q], func(id mdm.DeviceID) *Outcome { return &outcomes[at[id]] }); err != nil {
				return nil, err
			}
		}
	}
	return outcomes, nil
}

// queue asks ids one question.
func (a *asking) queue(tx storage.Tx, q question, ids []mdm.DeviceID, outcome func(mdm.DeviceID) *Outcome) error {
	c, err := a.command(q)
	if err != nil {
		return err
	}
	c.Targets = ids
	_, rejected, err := a.mdm.Queue(tx, c)
	if err != nil {
		return err
	}
	no := make(map[mdm.DeviceID]bool, len(rejected))
	for _, r := range rejected {
		no[r.DeviceID] = true
		o := outcome(r.DeviceID)
		o.LeftOut = append(o.LeftOut, LeftOut{q.source, r.Code, r.Reason})
	}
	queued := false
	for _, id := range ids {
		if !no[id] {
			queued = true
			o := outcome(id)
			o.Queued = append(o.Queued, Asked{q.source, c.UUID})
		}
	}
	if queued && a.priority == mdm.Background {
		return questions.Put(tx, asked{UUID: c.UUID, ForgetAt: a.now().Add(a.life + keepQuestion).UTC()})
	}
	return nil
}

// waiting returns the questions that a device need not be asked again: it has them, or will get
// them no later than it would ours.
func (a *asking) waiting(tx storage.Tx, id mdm.DeviceID) (map[Source]string, error) {
	waiting := make(map[Source]string)
	for e, err := range mdm.PendingCommands(tx, id) {
		if err != nil {
			return nil, fmt.Errorf("queue of %s: %w", id, err)
		}
		if e.Identifier != identifier || !IsSource(e.RequestType) {
			continue
		}
		if e.State == mdm.Delivered || a.priority == mdm.Background || e.Priority != mdm.Background {
			waiting[Source(e.RequestType)] = e.UUID
		}
	}
	return waiting, nil
}
