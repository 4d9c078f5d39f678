package enroll

import (
	"context"
	"errors"
	"fmt"

	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

// ConnectMessage is what a device sends to the ServerURL: that it is idle, or
// what became of a command.
type ConnectMessage struct {
	ID     mdm.AppleID
	Idle   bool
	Report mdm.Report // unless Idle
	Status string     // in Apple's word, for Config.Tap

	passNotNow bool // what the device has answered NotNow in this session is not to come again
	heard      bool // it was taken already, and is looked at once more
}

// Connect takes a device's report and returns the plist of the command to run
// next, nil if there is none. The report, the identity check and the next
// command's delivery are one transaction; a poll that changes nothing is read-only.
func (s *Service) Connect(ctx context.Context, p Peer, m ConnectMessage) (command []byte, err error) {
	next, err := s.exchange(ctx, p, m)
	// A command that can't be made is not to stand before the others.
	for tries := 0; err == nil && next != nil && tries < maxSpoilt; tries++ {
		if command, err = s.mdm.Plist(next); err == nil {
			return command, nil
		}
		if !errors.Is(err, mdm.ErrSpoilt) {
			break
		}
		s.log.ErrorContext(ctx, "command can't be sent", "device", next.Entry.DeviceID, "command", next.Entry.UUID, "request_type", next.Entry.RequestType, "error", err)
		if err = s.mdm.Spoilt(ctx, next.Entry); err != nil {
			break
		}
		next, err = s.exchange(ctx, p, ConnectMessage{ID: m.ID, Idle: true, passNotNow: !m.Idle || m.passNotNow, heard: true})
	}
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	return nil, nil
}

// maxSpoilt is how many commands that can't be made are passed over in one poll.
const maxSpoilt = 8

// exchange is Connect up to the command that is to be sent, nil if there is none.
func (s *Service) exchange(ctx context.Context, p Peer, m ConnectMessage) (command *mdm.Delivery, err error) {
	var id mdm.DeviceID
	writes := !m.Idle
	var head *mdm.Entry
	if m.Idle {
		err = s.db.View(ctx, func(tx storage.Tx) error {
			command, writes, head = nil, false, nil
			c, ch, err := s.connected(tx, p, m.ID)
			if err != nil {
				return err
			}
			id = ch.ID
			wanted := false
			if !m.heard {
				if wanted, err = s.wanted(tx, mdm.Message{Topic: toldConnect, Status: m.Status, Device: ch, Parent: c.device}); err != nil {
					return err
				}
			}
			if c.withheld() {
				writes = wanted || s.pollTells(c, m.ID)
				return nil
			}
			e, err := s.mdm.Head(tx, ch.ID, m.passNotNow)
			if err != nil {
				return err
			}
			if wanted || s.pollTells(c, m.ID) || c.shown.stale(s, c.device) || e != nil && e.State != mdm.Delivered {
				writes, head = true, e
				return nil
			}
			if e != nil {
				command, err = s.mdm.Deliver(tx, e)
			}
			return err
		})
		if err != nil {
			return nil, s.refuseBearer(ctx, p, m.ID, "", err)
		}
	}
	var entry *mdm.Entry
	if writes {
		err = s.db.Update(ctx, func(tx storage.Tx) error {
			if head != nil {
				tx.Prefetch(mdm.ReadPayload(*head)...)
			}
			id, entry, command, err = s.connect(tx, p, m)
			if err != nil || m.heard {
				return err
			}
			told := mdm.Message{Topic: toldConnect, Status: m.Status, CommandUUID: m.Report.CommandUUID}
			if entry != nil {
				told.RequestType = entry.RequestType
			}
			return s.hear(tx, p, id, told)
		})
		if err != nil {
			return nil, s.refuseBearer(ctx, p, m.ID, "", err)
		}
	}
	s.mdm.Saw(id)
	if m.Idle {
		return command, nil
	}
	if entry == nil {
		s.log.InfoContext(ctx, "report of no pending command ignored", "device", id, "command", m.Report.CommandUUID, "state", m.Report.State)
		return command, nil
	}
	s.log.InfoContext(ctx, "command answered", "device", id, "command", entry.UUID, "request_type", entry.RequestType, "state", entry.State)
	return command, nil
}

// connected finds the live channel that a poll is for.
func (s *Service) connected(tx storage.Tx, p Peer, id mdm.AppleID) (caller, mdm.Device, error) {
	s.readAhead(tx, p, id)
	c, err := s.identify(tx, p, id)
	if err != nil {
		return c, mdm.Device{}, err
	}
	ch, err := c.channel(tx, id)
	if errors.Is(err, storage.ErrNotFound) || err == nil && !ch.Live() {
		return c, mdm.Device{}, ErrNotAuthenticated
	}
	if err == nil {
		s.acquainted.remember(p, id, enrollments{c.device.ID, ch.ID})
	}
	return c, ch, err
}

// withheld says that the device gets no command before its user has signed in again. One that
// shows a good token has.
func (c caller) withheld() bool { return !c.device.SignInRequiredAt.IsZero() && c.shown == nil }

// pollTells says that a poll of the device channel tells something of a renewal:
// which of its two certificates the device uses.
func (s *Service) pollTells(c caller, id mdm.AppleID) bool {
	r := c.device.Renewal
	return r != nil && r.Candidate != "" && id.UserID == "" && r.InUse != c.candidate()
}

func (s *Service) connect(tx storage.Tx, p Peer, m ConnectMessage) (id mdm.DeviceID, entry *mdm.Entry, command *mdm.Delivery, err error) {
	c, ch, err := s.connected(tx, p, m.ID)
	if err != nil {
		return "", nil, nil, err
	}
	own := ch.ID == c.device.ID
	if err := s.touch(tx, c.shown, &c.device); err != nil {
		return "", nil, nil, err
	}
	if own {
		ch = c.device
	}
	if s.pollTells(c, m.ID) {
		c.device.Renewal.InUse = c.candidate()
		if err := s.settle(tx, c.device); err != nil {
			return "", nil, nil, err
		}
		// What follows writes the record too: as it is now, not as it was.
		if c.device, err = mdm.GetDevice(tx, c.device.ID); err != nil {
			return "", nil, nil, err
		}
		ch = c.device
	}
	if !m.Idle {
		if entry, err = s.mdm.Record(tx, ch.ID, m.Report); err != nil {
			return "", nil, nil, err
		}
		if err := s.follow(tx, c, ch, entry); err != nil {
			return "", nil, nil, err
		}
	}
	if c.withheld() {
		return ch.ID, entry, nil, nil
	}
	next, err := s.mdm.Head(tx, ch.ID, !m.Idle || m.passNotNow)
	if err != nil || next == nil {
		return ch.ID, entry, nil, err
	}
	command, err = s.mdm.Deliver(tx, next)
	return ch.ID, entry, command, err
}

// follow does what an answer brings with it.
func (s *Service) follow(tx storage.Tx, c caller, ch mdm.Device, e *mdm.Entry) error {
	if e == nil || !e.State.Final() {
		return nil
	}
	if err := s.payloads.Answered(tx, *e); err != nil {
		return err
	}
	if ch.ParentID != "" {
		return nil
	}
	if err := s.trustAnswered(tx, *e); err != nil {
		return err
	}
	if err := s.removalAnswered(tx, c.device, *e); err != nil {
		return err
	}
	return s.answered(tx, c.device, e)
}

// Oversized notes that a device sent a result too large to be read, and says
// whether it should send it again: after the third one its command has failed,
// and the device is to be told that the result was taken. Which of its channels
// sent it is in the body that was not kept; the device's own is asked first.
func (s *Service) Oversized(ctx context.Context, p Peer) (again bool, err error) {
	var e *mdm.Entry
	var d mdm.Device
	err = s.db.Update(ctx, func(tx storage.Tx) error {
		c, err := s.known(tx, p)
		if err != nil {
			return err
		}
		if d = c.device; d.ID == "" {
			return ErrNotAuthenticated
		}
		if e, err = s.mdm.RecordOversized(tx, d.ID); err != nil {
			return err
		}
		if e != nil {
			return s.oversized(tx, d, e)
		}
		for u, err := range mdm.UserChannels(tx, d.ID) {
			if err != nil {
				return err
			}
			if e, err = s.mdm.RecordOversized(tx, u.ID); err != nil {
				return err
			}
			if e != nil {
				return s.oversized(tx, u, e)
			}
		}
		return nil
	})
	if err != nil {
		return false, fmt.Errorf("oversized result: %w", err)
	}
	if e == nil {
		return false, nil
	}
	s.log.WarnContext(ctx, "result refused: too large", "device", d.ID, "command", e.UUID, "times", e.Oversized)
	return true, nil
}

// oversized follows up a command that may have failed by its last oversized answer.
func (s *Service) oversized(tx storage.Tx, d mdm.Device, e *mdm.Entry) error {
	if e.State.Final() {
		if err := s.payloads.Answered(tx, *e); err != nil {
			return err
		}
	}
	return s.answered(tx, d, e)
}
