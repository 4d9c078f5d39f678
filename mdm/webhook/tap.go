package webhook

import (
	"bytes"
	"errors"
	"slices"
	"time"

	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

var _ mdm.Tap = (*Service)(nil)

// Reads is what Wants reads, for [storage.Tx.Prefetch].
func (s *Service) Reads() []storage.Read { return []storage.Read{wanted.Read(ofMessages)} }

// Wants implements [mdm.Tap]. It costs the reading of one small record.
func (s *Service) Wants(tx storage.Tx, m mdm.Message) (bool, error) {
	all, err := interested(tx, ofMessages)
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(all, func(i interest) bool {
		return i.hears(m.Topic, m.Status) && (m.Device.ID == "" || i.about(m.Device.ID, m.Parent.ID, m.Device.ParentID))
	}), nil
}

// Heard implements [mdm.Tap]: it writes down what the targets are to be told.
func (s *Service) Heard(tx storage.Tx, m mdm.Message) error {
	all, err := interested(tx, ofMessages)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(all, func(i interest) bool {
		return i.hears(m.Topic, m.Status) && i.about(m.Device.ID, m.Parent.ID)
	}) {
		return nil
	}
	sorts, err := nextTurn(tx, m)
	if err != nil {
		return err
	}
	id := newID(sorts)
	var reduced, raw *told // made once for all targets that get it
	for _, i := range all {
		if !i.hears(m.Topic, m.Status) || !i.about(m.Device.ID, m.Parent.ID) {
			continue
		}
		say := &reduced
		if i.Raw {
			say = &raw
		}
		if *say == nil {
			*say = tell(id, m, i.Raw)
		}
		d := Delivery{
			ID: newID(sorts), Target: i.ID, Topic: m.Topic, EventID: id, DeviceID: string(m.Device.ID), Idle: m.Status == statusIdle, CreatedAt: m.At.UTC(),
		}
		if err := s.post(tx, d, letter{Message: *say}); err != nil {
			return err
		}
	}
	return nil
}

// turn is by which time the last message of a device sorts. Replicas hear its messages in
// turn, each with a clock of its own.
type turn struct {
	Device string    `json:"device"`
	At     time.Time `json:"at"`
}

var turns = storage.NewCollection("webhook.turn", 1, func(t turn) string { return t.Device })

// keepTurn is how long a turn is kept: longer than clocks differ.
const keepTurn = time.Hour

// nextTurn returns by which time m sorts: behind what its device said before.
func nextTurn(tx storage.Tx, m mdm.Message) (time.Time, error) {
	if m.Device.ID == "" {
		return m.At.UTC(), nil
	}
	last, err := turns.Get(tx, string(m.Device.ID))
	if err != nil && !errors.Is(err, storage.ErrNotFound) {
		return time.Time{}, err
	}
	now := turn{Device: string(m.Device.ID), At: after(m.At, last.At)}
	return now.At, turns.Put(tx, now)
}

// tell returns what is said of m.
func tell(id string, m mdm.Message, raw bool) *told {
	shared := m.Parent.SharedIPad != nil && *m.Parent.SharedIPad || bytes.Contains(m.Raw, []byte(sharedIPadUserID))
	t := &told{
		ID: id, Topic: m.Topic, At: m.At.UTC(), DeviceID: string(m.Device.ID), UDID: m.Device.UDID, Enrollment: m.Device.EnrollmentID,
		IDs: idsOf(m, shared), Status: m.Status, CommandUUID: m.CommandUUID, RequestType: m.RequestType,
	}
	if m.Topic == "mdm.TokenUpdate" {
		t.Tally = &m.TokenUpdates
	}
	if raw {
		var ok bool
		switch {
		case m.Device.UserEnrolled() || m.Parent.UserEnrolled():
			t.Raw, ok = ofPerson(m.Raw, m)
		case m.Topic == topicConnect:
			t.Raw, t.Unread, ok = m.Raw, true, true
		default:
			t.Raw, ok = withoutSecrets(m.Raw)
		}
		if ok {
			t.Whole = true
			return t
		}
	}
	t.Raw, t.Unread = t.reducedOf(m.Raw, m.Device.Topic), false
	return t
}
