package mdm

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/gatehouse-mdm/gatehouse/storage"
)

// ErrEnrolled means what can't be done to a device while it is enrolled.
var ErrEnrolled = errors.New("the device is enrolled")

// deleted marks a device whose record was deleted a short while ago. Who began before that may
// still write something about it, and reads nothing that deleting has written: a command is
// queued, a note is made, it was seen. The sweep looks once more.
type deleted struct {
	DeviceID DeviceID  `json:"device_id"`
	At       time.Time `json:"at"`
}

const deletedAt = "at"

var deletions = storage.NewCollection("mdm.deleted", 1, func(d deleted) string { return string(d.DeviceID) },
	storage.Index[deleted]{Name: deletedAt, Values: func(d deleted) []string { return []string{seqAt(d.At.UnixNano())} }},
)

// deletedLife is how long what began before a deletion may take.
const deletedLife = time.Hour

// sweepDeleted deletes what was written about devices while their records were deleted.
func (s *Service) sweepDeleted(ctx context.Context) error {
	before := seqAt(s.now().Add(-deletedLife).UnixNano())
	return storage.Sweep(ctx, s.db, deletions, deletedAt, before, func(tx storage.Tx, d deleted) error {
		return errors.Join(s.forget(tx, d.DeviceID), deletions.Delete(tx, string(d.DeviceID)))
	})
}

// Deletion follows up that the record of an enrollment is deleted, in the transaction in which
// that is: it deletes what else is known by that id.
type Deletion func(tx storage.Tx, id DeviceID) error

// OnDelete adds a follow-up. It is for the time before the server serves.
func (s *Service) OnDelete(f Deletion) { s.followUps = append(s.followUps, f) }

// Delete deletes the record of an enrollment that has ended, and all that is known by its id:
// its commands and answers, secrets, note, and its place in groups. What stays is what others
// are told it by: commands that others got, too, certificates that were issued, and the audit
// log. It is for who has made sure that nothing can speak for the device any more.
func (s *Service) Delete(tx storage.Tx, id DeviceID) error {
	d, err := GetDevice(tx, id)
	if err != nil {
		return err
	}
	d.State = Unenrolled
	err = errors.Join(
		putTopic(tx, d), // which counts it no more
		s.forget(tx, id),
		tx.Delete(eligibilityBucket, []byte(id)),
		tx.Delete(rowBucket, []byte(id)),
		devices.Delete(tx, string(id)),
		deletions.Put(tx, deleted{DeviceID: id, At: s.now().UTC()}),
	)
	if err != nil {
		return fmt.Errorf("delete device %s: %w", id, err)
	}
	return nil
}

// forget deletes all that is known by an id beside its record.
func (s *Service) forget(tx storage.Tx, id DeviceID) error {
	if err := s.deleteQueue(tx, id); err != nil {
		return fmt.Errorf("delete commands: %w", err)
	}
	if _, err := s.leaveGroups(tx, id); err != nil {
		return err
	}
	var held []escrow
	for e, err := range escrows.All(tx, storage.Range{Prefix: storage.KeyPrefix(string(id))}) {
		if err != nil {
			return fmt.Errorf("secrets held: %w", err)
		}
		held = append(held, e)
	}
	for _, e := range held {
		if err := escrows.Delete(tx, escrowKey(e.DeviceID, e.Kind)); err != nil {
			return fmt.Errorf("secrets held: %w", err)
		}
	}
	for _, follow := range s.followUps {
		if err := follow(tx, id); err != nil {
			return err
		}
	}
	s.seen.mu.Lock()
	delete(s.seen.fresh, id)
	s.seen.mu.Unlock()
	return errors.Join(
		s.SetSecret(tx, id, UnlockToken, nil),
		s.SetSecret(tx, id, BootstrapToken, nil),
		notes.Delete(tx, string(id)),
		DeleteWakeup(tx, id),
		ForgetAttributes(tx, id),
		tx.Delete(seenBucket, []byte(id)),
	)
}

// deleteQueue deletes what a device was asked, and what it said. Commands that went to no
// other device go as well.
func (s *Service) deleteQueue(tx storage.Tx, id DeviceID) error {
	if err := s.CancelPending(tx, id); err != nil {
		return err
	}
	var all []Entry
	for e, err := range history.All(tx, storage.Range{Prefix: storage.KeyPrefix(string(id))}) {
		if err != nil {
			return err
		}
		all = append(all, e)
	}
	for part := range slices.Chunk(all, readChunk) {
		for _, e := range part {
			tx.Prefetch(commands.Read(e.UUID))
		}
		for _, e := range part {
			c, err := commands.Get(tx, e.UUID)
			switch {
			case err == nil && len(c.Targets) == 1:
				err = s.deleteCommand(tx, c)
			case err == nil || errors.Is(err, storage.ErrNotFound):
				err = errors.Join(history.Delete(tx, historyKey(id, e.Seq)), tx.Delete(valuesBucket, valuesKey(e.UUID, id)))
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// leaveGroups takes a device out of the groups into which it was put, and returns those.
func (s *Service) leaveGroups(tx storage.Tx, id DeviceID) (left []GroupID, err error) {
	all, err := handGroups(tx)
	if err != nil {
		return nil, err
	}
	for _, g := range all {
		tx.Prefetch(storage.Read{Bucket: memberBucket, Key: blockKey(g.ID, id)})
	}
	for _, g := range all {
		blocks := newMemberBlocks(tx, g.ID)
		key, at, is, err := blocks.find(id)
		if err != nil {
			return nil, err
		}
		if !is {
			continue
		}
		blocks.set(key, at, id, false)
		g.Members--
		if err := errors.Join(blocks.write(), groups.Put(tx, g)); err != nil {
			return nil, fmt.Errorf("take %s out of group %s: %w", id, g.ID, err)
		}
		left = append(left, g.ID)
	}
	return left, nil
}

// handGroups returns the groups that have no rule.
func handGroups(tx storage.Tx) (all []Group, err error) {
	for g, err := range groups.All(tx, storage.Range{}) {
		if err != nil {
			return nil, fmt.Errorf("groups: %w", err)
		}
		if g.Rule == "" {
			all = append(all, g)
		}
	}
	return all, nil
}

// ErrNotesTooLong means that the notes on two devices are too long to be one.
var ErrNotesTooLong = fmt.Errorf("the notes on both devices together have more than %d bytes", MaxNote)

// Merge gives one device what people have said of another: the note on it, below its own, the
// groups into which it was put, and since when it is known. Deleting the other is up to the
// caller, in the same transaction. The error is [ErrNotesTooLong], or wraps storage.ErrNotFound.
func (s *Service) Merge(tx storage.Tx, from, into DeviceID, by string) error {
	tx.Prefetch(ReadDevice(from), ReadDevice(into), ReadNote(from), ReadNote(into))
	old, err := GetDevice(tx, from)
	if err != nil {
		return err
	}
	d, err := GetDevice(tx, into)
	if err != nil {
		return err
	}
	theirs, err := GetNote(tx, from)
	if err != nil {
		return err
	}
	own, err := GetNote(tx, into)
	if err != nil {
		return err
	}
	if text := strings.TrimSpace(own.Text + "\n" + theirs.Text); text != own.Text {
		if len(text) > MaxNote {
			return ErrNotesTooLong
		}
		merged := Note{DeviceID: into, Text: text, By: theirs.By, At: theirs.At}
		if own.Text != "" {
			merged.By, merged.At = by, s.now().UTC()
		}
		if err := notes.Put(tx, merged); err != nil {
			return fmt.Errorf("note on %s: %w", into, err)
		}
	}
	in, err := s.leaveGroups(tx, from)
	if err != nil {
		return err
	}
	for _, g := range in {
		if _, err := s.regroupPart(tx, by, g, []DeviceID{into}, true); err != nil {
			return fmt.Errorf("put %s into group %s: %w", into, g, err)
		}
	}
	if old.CreatedAt.Before(d.CreatedAt) {
		d.CreatedAt = old.CreatedAt
		return PutDevice(tx, d)
	}
	return nil
}
