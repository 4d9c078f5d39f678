package enroll

import (
	"slices"
	"strings"

	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

// RenameUser moves what a user has under logins that are given up, which are in lower
// case, to the login that the user goes by now: enrollments, certificates, links, and
// attempts under way. It is for the transaction in which they are given up, after which
// somebody else may get them.
//
// What happens to any of these at the same time meets it in a record that both write, so
// that the later of the two runs again. Only an attempt that begins meanwhile does not: it
// is given its certificate in the name of whom its link is for by then.
func (s *Service) RenameUser(tx storage.Tx, gone []string, login string) error {
	if err := s.renameDevices(tx, gone, login); err != nil {
		return err
	}
	if err := s.depot.RenameUser(tx, gone, login); err != nil {
		return err
	}
	if err := s.renameAttempts(tx, gone, login); err != nil {
		return err
	}
	return renameLinks(tx, gone, login)
}

// renameDevices moves enrollments, also those that have ended, and their user channels.
func (s *Service) renameDevices(tx storage.Tx, gone []string, login string) error {
	var theirs []mdm.Device // first found, then changed
	for _, old := range gone {
		for d, err := range mdm.DevicesOfUser(tx, old) {
			if err != nil {
				return err
			}
			theirs = append(theirs, d)
		}
	}
	for _, d := range theirs {
		d.User = login
		if err := mdm.PutDevice(tx, d); err != nil {
			return err
		}
		if err := s.depot.RenameUserOfDevice(tx, string(d.ID), gone, login); err != nil {
			return err
		}
	}
	return nil
}

// renameAttempts moves what may still become an enrollment.
func (s *Service) renameAttempts(tx storage.Tx, gone []string, login string) error {
	var theirs []Attempt
	for _, old := range gone {
		for a, err := range attempts.Lookup(tx, attemptsByUser, old) {
			if err != nil {
				return err
			}
			theirs = append(theirs, a)
		}
	}
	for _, a := range theirs {
		a.User = login
		if err := putAttempt(tx, a); err != nil {
			return err
		}
		// Until its device comes, a certificate belongs to its attempt alone.
		if err := s.depot.RenameUserOfAttempt(tx, a.ID, gone, login); err != nil {
			return err
		}
	}
	return nil
}

// renameLinks moves links. It reads all of them: they have no index by user, since nothing
// else asks for that and users are renamed seldom.
func renameLinks(tx storage.Tx, gone []string, login string) error {
	var theirs []Link
	for l, err := range links.All(tx, storage.Range{}) {
		if err != nil {
			return err
		}
		if names(gone, l.User) {
			theirs = append(theirs, l)
		}
	}
	for _, l := range theirs {
		l.User = login
		if err := links.Put(tx, l); err != nil {
			return err
		}
	}
	return nil
}

// names says whether user is one of these logins, which are in lower case.
func names(logins []string, user string) bool {
	return slices.Contains(logins, strings.ToLower(strings.TrimSpace(user)))
}
