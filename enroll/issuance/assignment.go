package issuance

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"

	"github.com/gatehouse-mdm/gatehouse/depot"
	"github.com/gatehouse-mdm/gatehouse/depot/template"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/command"
	"github.com/gatehouse-mdm/gatehouse/mdm/event"
	"github.com/gatehouse-mdm/gatehouse/mdm/profile"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

// State is where an assignment stands.
type State string

// The states.
const (
	Pending   State = "pending"   // the first certificate is on its way
	Installed State = "installed" // the device has one
	Renewing  State = "renewing"  // it has one, and the next is on its way
	Failing   State = "failing"   // the last try failed; another one follows
	Ended     State = "ended"     // nothing more will be sent: see Reason
)

// Assignment says that a device is to have a certificate of a template, and how far
// that has come. It commits late: the certificate before stays good until the device
// has acknowledged the profile that brought the next one, because a device that could
// not install it goes on with what it had.
type Assignment struct {
	Template string       `json:"template"`
	DeviceID mdm.DeviceID `json:"device_id"` // a device, or a user channel of one
	State    State        `json:"state"`

	CreatedAt time.Time `json:"created_at"`
	CreatedBy string    `json:"created_by"`

	// Profile is the ID of the profile of the library that brings the certificate; empty: one
	// of its own does.
	Profile string `json:"profile,omitempty"`

	// Current is the certificate that the device is known to have; empty before the
	// first one is acknowledged.
	Current depot.Fingerprint `json:"current,omitempty"`
	RenewAt time.Time         `json:"renew_at,omitzero"` // of Current

	// Candidates are all others that may still be good: those of Tries, and what is to be
	// revoked once the device has shown which one it has. The latest is last.
	Candidates []depot.Fingerprint `json:"candidates,omitempty"`

	// Tries are those that the device may still answer, the latest last. One that it has
	// in hand stays beside the next: it may have installed it, and not be able to say so.
	Tries []Try `json:"tries,omitempty"`

	Try      string    `json:"try,omitempty"` // UUID of the latest of Tries
	TriedAt  time.Time `json:"tried_at,omitzero"`
	Failures int       `json:"failures,omitempty"` // in a row
	FailedAt time.Time `json:"failed_at,omitzero"`
	Reason   string    `json:"reason,omitempty"` // of the last failure, or of the end
	DueAt    time.Time `json:"due_at,omitzero"`  // when the next try is to be made; zero: never
}

// Try is one profile on its way to a device.
type Try struct {
	UUID      string            `json:"uuid"`                // of the InstallProfile, which may be other devices', too
	Candidate depot.Fingerprint `json:"candidate,omitempty"` // that its challenge has bought
	RenewAt   time.Time         `json:"renew_at,omitzero"`   // of Candidate
}

const (
	// tryLife is how long one try may take: a device that is switched off for weeks gets
	// a fresh one each week in place of the one before.
	tryLife = 7 * 24 * time.Hour
	// retryAfter is how long after a failure the next try is made.
	retryAfter = 24 * time.Hour
	// stuckAfter is how many tries in a row must fail for an assignment to be stuck.
	stuckAfter = 3

	// suspendedTick is how often it is looked whether the user of a device may have it again.
	suspendedTick = time.Hour

	renewalTick  = time.Minute
	renewalBatch = 100
	sweepTick    = time.Hour
)

// Stuck says that a person should look: several tries have failed, or the device has
// not taken the next certificate though the one it has is about to end.
func (a Assignment) Stuck(now time.Time) bool {
	if a.State == Ended {
		return false
	}
	return a.Failures >= stuckAfter || !a.RenewAt.IsZero() && a.State != Installed && now.Sub(a.RenewAt) > tryLife
}

const (
	assignmentsDue      = "due"
	assignmentsByDevice = "device"
)

var assignments = storage.NewCollection("issuance.assignments", 1,
	func(a Assignment) string { return assignmentKey(a.Template, a.DeviceID) },
	storage.Index[Assignment]{Name: assignmentsDue, Values: func(a Assignment) []string {
		if a.DueAt.IsZero() {
			return nil
		}
		return []string{sortable(a.DueAt)}
	}},
	storage.Index[Assignment]{Name: assignmentsByDevice, Values: func(a Assignment) []string { return []string{string(a.DeviceID)} }},
)

func assignmentKey(template string, id mdm.DeviceID) string {
	return string(storage.Key(template, string(id)))
}

// profileIdentifier is the PayloadIdentifier of the profile that brings certificates
// of a template: a newer one takes its place on the device.
func (s *Service) profileIdentifier(template string) string {
	return profile.CredentialIdentifier(s.serverURL.Hostname(), template)
}

// afresh is an assignment that ended, to begin again: with what is still good of its
// certificates.
func (s *Service) afresh(tx storage.Tx, ended Assignment) (a Assignment, err error) {
	for _, fp := range append(slices.Clone(ended.Candidates), ended.Current) {
		if fp == "" {
			continue
		}
		c, err := s.depot.Get(tx, fp)
		if err != nil && !errors.Is(err, storage.ErrNotFound) {
			return Assignment{}, err
		}
		switch {
		case err != nil || !c.RevokedAt.IsZero():
		case fp == ended.Current:
			a.Current, a.RenewAt = fp, ended.RenewAt
		default:
			a.Candidates = append(a.Candidates, fp)
		}
	}
	return a, nil
}

// dropUndelivered ends the tries that the device does not have in hand: it need not get
// them. One that was delivered stays, because the device may have installed it.
func (s *Service) dropUndelivered(tx storage.Tx, a *Assignment) error {
	var inHand []Try
	for _, t := range a.Tries {
		state, pending, err := mdm.PendingState(tx, a.DeviceID, t.UUID)
		if err != nil {
			return err
		}
		if pending && state == mdm.Delivered {
			inHand = append(inHand, t)
			continue
		}
		if err := s.mdm.CancelCommand(tx, a.DeviceID, t.UUID, mdm.Cancelled); err != nil {
			return err
		}
	}
	a.setTries(inHand)
	return nil
}

// setTries replaces the tries. What those bought that are gone stays among Candidates.
func (a *Assignment) setTries(tries []Try) {
	a.Tries, a.Try = tries, ""
	if n := len(tries); n > 0 {
		a.Try = tries[n-1].UUID
	}
}

// try returns the index of a try, -1 if it is not one that the device may answer.
func (a *Assignment) try(uuid string) int {
	return slices.IndexFunc(a.Tries, func(t Try) bool { return t.UUID == uuid })
}

// bought notes the certificate that the challenge of a try has bought.
func (s *Service) bought(tx storage.Tx, a Assignment, uuid string, fp depot.Fingerprint, renewAt time.Time) error {
	i := a.try(uuid)
	if i < 0 {
		return fmt.Errorf("%w: another one has taken its place", ErrChallenge)
	}
	a.Tries = slices.Clone(a.Tries)
	a.Tries[i].Candidate, a.Tries[i].RenewAt = fp, s.notBefore(renewAt)
	a.Candidates = append(slices.Clone(a.Candidates), fp)
	return assignments.Put(tx, a)
}

// renewed notes that the device has renewed a certificate of the assignment by itself:
// nobody will acknowledge that.
func (s *Service) renewed(tx storage.Tx, a Assignment, old depot.Certificate, fp depot.Fingerprint, renewAt time.Time) error {
	renewAt = s.notBefore(renewAt)
	is := func(c depot.Fingerprint) bool { return c != "" && (c == old.Fingerprint || c == old.ReplacedBy) }
	a.Candidates, a.Tries = slices.Clone(a.Candidates), slices.Clone(a.Tries)
	for i, t := range a.Tries {
		if is(t.Candidate) {
			a.Tries[i].Candidate, a.Tries[i].RenewAt = fp, renewAt
			a.Candidates = append(a.Candidates, fp)
			return assignments.Put(tx, a)
		}
	}
	if !is(a.Current) && !slices.ContainsFunc(a.Candidates, is) {
		return nil
	}
	if is(a.Current) {
		a.Candidates = append(a.Candidates, a.Current) // good until the new one is seen
		a.Current, a.RenewAt = fp, renewAt
		if len(a.Tries) == 0 {
			a.DueAt = renewAt
		}
		return assignments.Put(tx, a)
	}
	a.Candidates = append(a.Candidates, fp)
	return assignments.Put(tx, a)
}

// notBefore keeps a renewal from being due as soon as it is done, where a template's
// renew_before is nearly all of its validity.
func (s *Service) notBefore(renewAt time.Time) time.Time {
	return laterOf(renewAt, s.now().Add(minRenewal)).UTC()
}

// minRenewal is how long a certificate is left alone at least. No template's is good for
// less than four times as long.
const minRenewal = 15 * time.Minute

// Answered follows up the answer to an InstallProfile of ours. It is for the
// transaction that records the answer.
func (s *Service) Answered(tx storage.Tx, e mdm.Entry) error {
	if e.RequestType != "InstallProfile" || !e.State.Final() {
		return nil
	}
	var tried []Assignment // one for each certificate of a profile; other devices' have the same UUID
	for a, err := range assignments.Lookup(tx, assignmentsByDevice, string(e.DeviceID)) {
		if err != nil {
			return err
		}
		if a.try(e.UUID) >= 0 {
			tried = append(tried, a)
		}
	}
	for _, a := range tried {
		i := a.try(e.UUID)
		if e.State == mdm.Acknowledged {
			if err := s.commit(tx, a, i); err != nil {
				return err
			}
			continue
		}
		if err := s.fail(tx, a, i, e); err != nil {
			return err
		}
	}
	return nil
}

// commit puts in force what the i-th try brought, and revokes what it replaces: what was
// in force, and what tries before it brought. Those after it go on.
func (s *Service) commit(tx storage.Tx, a Assignment, i int) error {
	now := s.now().UTC()
	done := a.Tries[i]
	for _, t := range a.Tries[:i] {
		if err := s.mdm.CancelCommand(tx, a.DeviceID, t.UUID, mdm.Cancelled); err != nil {
			return err
		}
	}
	a.setTries(slices.Clone(a.Tries[i+1:]))
	t, err := s.templates.Get(tx, a.Template)
	if err != nil && !errors.Is(err, storage.ErrNotFound) {
		return err
	}
	if done.Candidate == "" && t.Issuer == template.External {
		return s.installedElsewhere(tx, a, t)
	}
	if done.Candidate != "" {
		keep := []depot.Fingerprint{done.Candidate}
		var later []depot.Fingerprint
		for _, t := range a.Tries {
			if t.Candidate != "" {
				keep, later = append(keep, t.Candidate), append(later, t.Candidate)
			}
		}
		for _, fp := range append(slices.Clone(a.Candidates), a.Current) {
			if fp == "" || slices.Contains(keep, fp) {
				continue
			}
			if err := s.depot.Revoke(tx, fp, reasonSuperseded, now); err != nil && !errors.Is(err, storage.ErrNotFound) {
				return err
			}
		}
		a.Current, a.RenewAt, a.Candidates = done.Candidate, done.RenewAt, later
	}
	// Without one the device has installed the profile and not asked us: it has the
	// certificate from before.
	a.Failures, a.FailedAt, a.Reason = 0, time.Time{}, ""
	switch {
	case len(a.Tries) > 0:
		a.State = Renewing
	case a.RenewAt.IsZero():
		a.State, a.DueAt = Installed, time.Time{}
	default:
		a.State, a.DueAt = Installed, a.RenewAt
		if done.Candidate == "" {
			a.DueAt = laterOf(a.RenewAt, now.Add(retryAfter))
		}
	}
	return assignments.Put(tx, a)
}

func laterOf(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// fail ends the i-th try, which came to nothing: the device goes on with what it had. If
// the device says so, what it was issued by this try is revoked; if nobody knows, that
// stays good until another try is acknowledged.
func (s *Service) fail(tx storage.Tx, a Assignment, i int, e mdm.Entry) error {
	now := s.now().UTC()
	reason := failure(e)
	failed := a.Tries[i]
	if failed.Candidate != "" && e.State == mdm.Failed {
		if err := s.depot.Revoke(tx, failed.Candidate, reasonSuperseded, now); err != nil {
			return err
		}
		a.Candidates = slices.DeleteFunc(slices.Clone(a.Candidates), func(fp depot.Fingerprint) bool { return fp == failed.Candidate })
	}
	a.setTries(slices.Delete(slices.Clone(a.Tries), i, i+1))
	if len(a.Tries) == 0 {
		a.State, a.Failures, a.DueAt = Failing, a.Failures+1, now.Add(retryAfter)
	}
	a.FailedAt, a.Reason = now, reason
	if err := assignments.Put(tx, a); err != nil {
		return err
	}
	return event.Record(tx, event.Event{
		At: now, Actor: "device:" + string(a.DeviceID), Action: "certificate.failed", Outcome: event.Failed,
		Reason: reason, DeviceID: string(a.DeviceID), Template: a.Template,
	})
}

// failure is why a command failed, in words.
func failure(e mdm.Entry) string {
	switch e.State {
	case mdm.Cancelled:
		return "the command was cancelled"
	case mdm.Expired:
		return "the command expired before the device took it"
	}
	for _, link := range e.ErrorChain {
		if text := cmp.Or(link.USEnglishDescription, link.LocalizedDescription); text != "" {
			return fmt.Sprintf("%s (%s %d)", text, link.ErrorDomain, link.ErrorCode)
		}
	}
	return "the device could not install the profile"
}

// DeviceGone ends the assignments of an enrollment that ends, or begins afresh. Its
// certificates are revoked by whoever ends it.
func (s *Service) DeviceGone(tx storage.Tx, id mdm.DeviceID) error {
	if s.library != nil {
		if err := s.library.Gone(tx, id); err != nil {
			return err
		}
	}
	return s.end(tx, assignments.Lookup(tx, assignmentsByDevice, string(id)), "the enrollment has ended")
}

// forget deletes the assignments of a device. It is an [mdm.Deletion].
func (s *Service) forget(tx storage.Tx, id mdm.DeviceID) error {
	var of []Assignment
	for a, err := range assignments.Lookup(tx, assignmentsByDevice, string(id)) {
		if err != nil {
			return err
		}
		of = append(of, a)
	}
	for _, a := range of {
		if err := assignments.Delete(tx, assignmentKey(a.Template, a.DeviceID)); err != nil {
			return err
		}
	}
	return nil
}

// Suspended takes back what is on its way to a device whose user may not have it for now. Its
// certificates are revoked by whoever says so, and what it was assigned is sent to it again
// once the user may have it. What another authority has issued to it stays.
func (s *Service) Suspended(tx storage.Tx, id mdm.DeviceID) error {
	var found []Assignment
	for a, err := range assignments.Lookup(tx, assignmentsByDevice, string(id)) {
		if err != nil {
			return err
		}
		elsewhere := a.Current == "" && !a.RenewAt.IsZero()
		if a.State == Ended || elsewhere && len(a.Tries) == 0 {
			continue
		}
		found = append(found, a)
	}
	now := s.now().UTC()
	for _, a := range found {
		for _, t := range a.Tries {
			if err := s.mdm.CancelCommand(tx, a.DeviceID, t.UUID, mdm.Cancelled); err != nil {
				return err
			}
		}
		a.setTries(nil)
		if a.Current != "" {
			a.Current, a.RenewAt = "", time.Time{}
		}
		a.Candidates = nil
		a.State, a.Failures, a.FailedAt, a.Reason, a.DueAt = Failing, 0, now, suspendedReason, now.Add(suspendedTick)
		if err := assignments.Put(tx, a); err != nil {
			return err
		}
	}
	return nil
}

// Revoked ends the assignment that a certificate belongs to which was revoked by hand.
// It is for the transaction of that.
func (s *Service) Revoked(tx storage.Tx, c depot.Certificate) error {
	if c.DeviceID == "" {
		return nil
	}
	a, err := assignments.Get(tx, assignmentKey(c.Template, mdm.DeviceID(c.DeviceID)))
	if errors.Is(err, storage.ErrNotFound) || err == nil && a.Current != c.Fingerprint && !slices.Contains(a.Candidates, c.Fingerprint) {
		return nil
	}
	if err != nil {
		return err
	}
	return s.end(tx, one(a), "its certificate was revoked")
}

func one(a Assignment) iter.Seq2[Assignment, error] {
	return func(yield func(Assignment, error) bool) { yield(a, nil) }
}

func (s *Service) end(tx storage.Tx, which iter.Seq2[Assignment, error], reason string) error {
	var found []Assignment
	for a, err := range which {
		if err != nil {
			return err
		}
		found = append(found, a)
	}
	for _, a := range found {
		if a.State == Ended {
			continue
		}
		for _, t := range a.Tries {
			if err := s.mdm.CancelCommand(tx, a.DeviceID, t.UUID, mdm.Cancelled); err != nil {
				return err
			}
		}
		a.setTries(nil)
		a.State, a.DueAt, a.Reason = Ended, time.Time{}, reason
		if err := assignments.Put(tx, a); err != nil {
			return err
		}
	}
	return nil
}

// ForDevice returns the assignments of a device.
func (s *Service) ForDevice(tx storage.Tx, id mdm.DeviceID) iter.Seq2[Assignment, error] {
	return assignments.Lookup(tx, assignmentsByDevice, string(id))
}

// Assignments returns up to limit assignments, and the cursor of the next page.
func (s *Service) Assignments(tx storage.Tx, cursor string, limit int) ([]Assignment, string, error) {
	return storage.Page(tx, assignments, cursor, limit)
}

// takeBack ends an assignment and revokes what the device has by it.
func (s *Service) takeBack(tx storage.Tx, a Assignment) error {
	if err := s.end(tx, one(a), "it was taken back"); err != nil {
		return err
	}
	now := s.now().UTC()
	for _, fp := range append(slices.Clone(a.Candidates), a.Current) {
		if fp == "" {
			continue
		}
		if err := s.depot.Revoke(tx, fp, "cessationOfOperation", now); err != nil {
			return err
		}
	}
	return nil
}

// Unassign ends an assignment: nothing is sent any more, and the profile with its
// certificate is removed from the device. The error wraps ErrCarried where a profile of the
// library brings it.
func (s *Service) Unassign(ctx context.Context, by, name string, id mdm.DeviceID) error {
	uuid := mdm.NewUUID()
	plist, err := command.Build("RemoveProfile", map[string]any{"Identifier": s.profileIdentifier(name)}, uuid)
	if err != nil {
		return fmt.Errorf("unassign certificate: %w", err)
	}
	err = s.db.Update(ctx, func(tx storage.Tx) error {
		a, err := assignments.Get(tx, assignmentKey(name, id))
		if err != nil {
			return err
		}
		if a.carried() {
			return fmt.Errorf("profile %s: %w", a.Profile, ErrCarried)
		}
		if err := s.takeBack(tx, a); err != nil {
			return err
		}
		now := s.now().UTC()
		if _, _, err := s.mdm.Queue(tx, mdm.NewCommand{UUID: uuid, RequestType: "RemoveProfile", Plist: plist, CreatedBy: by, Targets: []mdm.DeviceID{id}}); err != nil {
			return err
		}
		return event.Record(tx, event.Event{At: now, Actor: by, Action: "certificate.unassigned", DeviceID: string(id), Template: name})
	})
	if err != nil {
		return fmt.Errorf("unassign certificate: %w", err)
	}
	return nil
}
