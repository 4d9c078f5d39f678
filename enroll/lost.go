package enroll

import (
	"context"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/event"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

// Lost is a report that a device is lost. It locks nothing: it tells the operator.
type Lost struct {
	DeviceID mdm.DeviceID `json:"device_id"`
	UserID   string       `json:"user_id"` // who reported it
	At       time.Time    `json:"at"`
	Note     string       `json:"note,omitempty"`
}

// MaxLostNote is how many characters the note of a report may have.
const MaxLostNote = 500

var lost = storage.NewCollection("enroll.lost", 1, func(l Lost) string { return string(l.DeviceID) })

// ReportLost notes that a device of p is lost, with what p says about it, so that the
// operator sees it. Another report takes the place of the one before. Its errors wrap
// storage.ErrNotFound, ErrEnded or are a *FieldError.
func (s *Service) ReportLost(ctx context.Context, p identity.Principal, id mdm.DeviceID, note string) error {
	note, err := plainNote(note)
	if err != nil {
		return fmt.Errorf("report device as lost: %w", err)
	}
	err = s.db.Update(ctx, func(tx storage.Tx) error {
		u, err := self(tx, p)
		if err != nil {
			return err
		}
		d, err := own(tx, u, id)
		if err != nil {
			return err
		}
		if !managed(d) {
			return ErrEnded
		}
		now := s.now().UTC()
		if err := lost.Put(tx, Lost{DeviceID: id, UserID: u.ID, At: now, Note: note}); err != nil {
			return err
		}
		e := event.Event{At: now, Actor: p.String(), Action: "device.lost_reported", DeviceID: string(id), User: d.User, Peer: p.Peer}
		if note != "" {
			e.Details = map[string]string{"note": strings.Join(strings.Fields(note), " ")}
		}
		return event.Record(tx, e)
	})
	if err != nil {
		return fmt.Errorf("report device as lost: %w", err)
	}
	s.log.WarnContext(ctx, "device reported lost", "device", id, "by", p.String())
	return nil
}

// plainNote returns what a person wrote without what can't be shown.
func plainNote(note string) (string, error) {
	note = strings.Map(func(r rune) rune {
		if r == '\n' || unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, strings.ReplaceAll(strings.ToValidUTF8(note, ""), "\r\n", "\n"))
	note = strings.TrimSpace(note)
	if utf8.RuneCountInString(note) > MaxLostNote {
		return "", &FieldError{"note", fmt.Sprintf("must be at most %d characters", MaxLostNote)}
	}
	return note, nil
}

// WithdrawLost notes that a device of p is not lost. One that is not reported is left
// alone. Its error wraps storage.ErrNotFound if p has no such device.
func (s *Service) WithdrawLost(ctx context.Context, p identity.Principal, id mdm.DeviceID) error {
	return s.found(ctx, id, event.Event{Actor: p.String(), Peer: p.Peer}, func(tx storage.Tx) (mdm.Device, error) {
		u, err := self(tx, p)
		if err != nil {
			return mdm.Device{}, err
		}
		return own(tx, u, id)
	})
}

// Found is WithdrawLost for operators, of any device.
func (s *Service) Found(ctx context.Context, id mdm.DeviceID) error {
	return s.found(ctx, id, event.Event{Actor: actor(ctx)}, func(tx storage.Tx) (mdm.Device, error) { return mdm.GetDevice(tx, id) })
}

// found withdraws the report of a device that get returns, or says that it may not.
func (s *Service) found(ctx context.Context, id mdm.DeviceID, by event.Event, get func(storage.Tx) (mdm.Device, error)) error {
	withdrawn := false
	err := s.db.Update(ctx, func(tx storage.Tx) error {
		withdrawn = false
		d, err := get(tx)
		if err != nil {
			return err
		}
		if l, err := maybe(lost.Get(tx, string(id))); err != nil || l == nil {
			return err
		}
		if err := lost.Delete(tx, string(id)); err != nil {
			return err
		}
		withdrawn = true
		e := by
		e.At, e.Action, e.DeviceID, e.User = s.now().UTC(), "device.lost_withdrawn", string(id), d.User
		return event.Record(tx, e)
	})
	if err != nil {
		return fmt.Errorf("withdraw report of a lost device: %w", err)
	}
	if withdrawn {
		s.log.InfoContext(ctx, "device not lost any more", "device", id, "by", by.Actor)
	}
	return nil
}

// ReportedLost returns the devices of which there are reports: a few.
func ReportedLost(tx storage.Tx) (map[mdm.DeviceID]bool, error) {
	ids := make(map[mdm.DeviceID]bool)
	for l, err := range lost.All(tx, storage.Range{}) {
		if err != nil {
			return nil, fmt.Errorf("reports of lost devices: %w", err)
		}
		ids[l.DeviceID] = true
	}
	return ids, nil
}

// LostDevices returns the reports there are of these devices, by their IDs.
func (s *Service) LostDevices(ctx context.Context, ids ...mdm.DeviceID) (reports map[mdm.DeviceID]Lost, err error) {
	err = s.db.View(ctx, func(tx storage.Tx) error {
		reports = make(map[mdm.DeviceID]Lost)
		for _, id := range ids {
			tx.Prefetch(lost.Read(string(id)))
		}
		for _, id := range ids {
			l, err := maybe(lost.Get(tx, string(id)))
			if err != nil {
				return err
			}
			if l != nil {
				reports[id] = *l
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("reports of lost devices: %w", err)
	}
	return reports, nil
}
