package enroll

import (
	"context"
	"errors"

	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

// Topics of [mdm.Message].
const (
	toldAuthenticate      = "mdm.Authenticate"
	toldTokenUpdate       = "mdm.TokenUpdate"
	toldCheckOut          = "mdm.CheckOut"
	toldUserAuthenticate  = "mdm.UserAuthenticate"
	toldSetBootstrapToken = "mdm.SetBootstrapToken"
	toldGetBootstrapToken = "mdm.GetBootstrapToken"
	toldDeclarative       = "mdm.DeclarativeManagement"
	toldGetToken          = "mdm.GetToken"
	toldConnect           = "mdm.Connect"
)

// foretold is a Tap that says what its Wants reads, so that a poll need not wait for it.
type foretold interface{ Reads() []storage.Read }

// hear passes a message on that id has sent and this transaction takes, once all else of it
// is written.
//
// What changed nothing, because the device had lost our answer and says it again, is passed on
// again: who listens can't tell from our records what it knows already, and is used to it.
// Nothing is heard of an enrollment that has ended, nor of a report that was too large to be
// kept.
func (s *Service) hear(tx storage.Tx, p Peer, id mdm.DeviceID, m mdm.Message) error {
	if s.tap == nil {
		return nil
	}
	if wanted, err := s.wanted(tx, m); err != nil || !wanted {
		return err
	}
	d, err := mdm.GetDevice(tx, id)
	if err != nil {
		return err
	}
	m.Device = d
	if d.ParentID != "" {
		if m.Parent, err = mdm.GetDevice(tx, d.ParentID); err != nil {
			return err
		}
	}
	return s.pass(tx, p, m)
}

// hearOf is hear for what a device or a user of it has asked for, by the name that it goes by.
// A user who has no channel yet is told of without a record's ID.
func (s *Service) hearOf(tx storage.Tx, p Peer, c caller, id mdm.AppleID, topic string) error {
	if s.tap == nil {
		return nil
	}
	if wanted, err := s.wanted(tx, mdm.Message{Topic: topic}); err != nil || !wanted {
		return err
	}
	ch, err := c.channel(tx, id)
	if errors.Is(err, storage.ErrNotFound) {
		ch, err = mdm.Device{
			ParentID: c.device.ID, Type: mdm.TypeUserChannel, AppleID: id,
			Ownership: c.device.Ownership, User: c.device.User, Demo: c.device.Demo,
		}, nil
	}
	if err != nil {
		return err
	}
	m := mdm.Message{Topic: topic, Device: ch}
	if ch.ParentID != "" {
		m.Parent = c.device
	}
	return s.pass(tx, p, m)
}

// heard tells the tap of a message that changes nothing here, after what it asks for was found
// and before it is answered.
func (s *Service) heard(ctx context.Context, p Peer, id mdm.AppleID, topic string) error {
	if s.tap == nil {
		return nil
	}
	var wanted bool
	err := s.db.View(ctx, func(tx storage.Tx) (err error) {
		wanted, err = s.wanted(tx, mdm.Message{Topic: topic})
		return err
	})
	if err != nil || !wanted {
		return err
	}
	return s.db.Update(ctx, func(tx storage.Tx) error {
		c, err := s.sender(tx, p, id)
		if err != nil {
			return err
		}
		return s.hearOf(tx, p, c, id, topic)
	})
}

// wanted says whether anybody may want to hear of m, of whose sender the records may be there.
func (s *Service) wanted(tx storage.Tx, m mdm.Message) (bool, error) {
	if s.tap == nil {
		return false, nil
	}
	return s.tap.Wants(tx, m)
}

func (s *Service) pass(tx storage.Tx, p Peer, m mdm.Message) error {
	m.At, m.Raw = s.now().UTC(), p.Body
	return s.tap.Heard(tx, m)
}
