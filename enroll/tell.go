package enroll

import (
	"cmp"

	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/event"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

// tellDevice writes into the audit log how far a device, or a user's channel, has come. peer
// is the address that it came from, if that is known.
func (s *Service) tellDevice(tx storage.Tx, action string, d mdm.Device, peer string) error {
	e := event.Event{
		At: s.now().UTC(), Actor: "device:" + string(d.ID), Action: action, DeviceID: string(d.ID), User: d.User, Peer: peer,
		Details: map[string]string{"enrollment_type": string(d.Type)},
	}
	for key, value := range map[string]string{
		"attempt": d.AttemptID, "parent": string(d.ParentID), "serial_number": d.SerialNumber,
		"model": cmp.Or(d.ProductName, d.Model), "os_version": d.OSVersion,
	} {
		if value != "" {
			e.Details[key] = value
		}
	}
	if d.ParentID == "" && d.CreatedAt.Before(d.AuthenticatedAt) {
		e.Details["again"] = "true" // it was here before
	}
	return event.Record(tx, e)
}

// tellLink writes into the audit log what somebody has done with an enrollment link.
// before is what it was; nil: there was none.
func (s *Service) tellLink(tx storage.Tx, action, by string, before *Link, l Link) error {
	var was map[string]any
	if before != nil {
		was = before.audited()
	}
	return event.Record(tx, event.Event{
		At: s.now().UTC(), Actor: by, Action: action, User: l.User, Details: map[string]string{"link": l.ID, "name": l.Name},
		Changes: event.Changes(was, l.audited()),
	})
}

// audited is l as the audit log tells of changes. Its codes are no part of it: whoever has
// one can enroll.
func (l Link) audited() map[string]any {
	return map[string]any{
		"name": l.Name, "ownership": l.Ownership, "login": l.Login, "user": l.User, "uses": l.Uses, "unlimited": l.Unlimited,
		"serial_numbers": l.SerialNumbers, "expires_at": l.ExpiresAt, "revoked": !l.RevokedAt.IsZero(),
	}
}

// stateChange is that of a device, as the audit log tells it.
func stateChange(before, after mdm.State) []event.Change {
	return event.Changes(map[string]any{"state": before}, map[string]any{"state": after})
}
