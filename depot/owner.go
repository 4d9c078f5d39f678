package depot

import (
	"iter"
	"slices"

	"github.com/gatehouse-mdm/gatehouse/storage"
)

// RenameUser has certificates that belong to a user and to no device say the login that
// the user goes by now, in place of those that are gone. One that is issued at the same
// time is not missed.
func (d *Depot) RenameUser(tx storage.Tx, gone []string, login string) error {
	for _, old := range gone {
		if err := MeetUser(tx, old); err != nil {
			return err
		}
		if err := rename(tx, d.ByUser(tx, old), gone, login); err != nil {
			return err
		}
	}
	return nil
}

// RenameUserOfDevice is RenameUser for the certificates that are bound to a device. Those
// of the people who had it before stay theirs.
func (d *Depot) RenameUserOfDevice(tx storage.Tx, deviceID string, gone []string, login string) error {
	if err := touch(tx, "device", deviceID); err != nil {
		return err
	}
	return rename(tx, d.ByDevice(tx, deviceID), gone, login)
}

// RenameUserOfAttempt is RenameUser for the certificates that were issued for an
// enrollment attempt.
func (d *Depot) RenameUserOfAttempt(tx storage.Tx, attemptID string, gone []string, login string) error {
	return rename(tx, d.ByAttempt(tx, attemptID), gone, login)
}

func rename(tx storage.Tx, which iter.Seq2[Certificate, error], gone []string, login string) error {
	keys := make([]string, len(gone))
	for i, old := range gone {
		keys[i] = userKey(old)
	}
	var theirs []Certificate // first found, then changed
	for c, err := range which {
		if err != nil {
			return err
		}
		if slices.Contains(keys, userKey(c.User)) {
			theirs = append(theirs, c)
		}
	}
	for _, c := range theirs {
		c.User = login
		if err := certificates.Put(tx, c); err != nil {
			return err
		}
	}
	return nil
}
