package issuance

import (
	"cmp"
	"context"
	"encoding/base64"
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
	UUID      string            `json:"uuid"`                // of the InstallProfile
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
	assignmentsByTry    = "try"
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
	storage.Index[Assignment]{Name: assignmentsByTry, Values: func(a Assignment) []string {
		uuids := make([]string, len(a.Tries))
		for i, t := range a.Tries {
			uuids[i] = t.UUID
		}
		return uuids
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

// Rejection says why a device is not sent a certificate.
type Rejection struct {
	DeviceID mdm.DeviceID
	Code     string
	Field    string // of the template, if one is to blame
	Reason   string // a sentence
}

// Preview is what a template comes to for a device.
type Preview struct {
	Template template.Template
	Expanded template.Expanded
	Profile  []byte // the configuration profile, unsigned, without a challenge that is good for anything
}

// previewChallenge stands where a device would find its challenge.
const previewChallenge = "made-when-it-is-sent"

// Preview returns what a template comes to for a device. Errors are a
// *template.FieldError, or wrap storage.ErrNotFound.
func (s *Service) Preview(ctx context.Context, name string, id mdm.DeviceID) (p Preview, err error) {
	var d mdm.Device
	err = s.db.View(ctx, func(tx storage.Tx) (err error) {
		p = Preview{}
		if p.Template, err = s.templates.Get(tx, name); err != nil {
			return err
		}
		if d, err = mdm.GetDevice(tx, id); err != nil {
			return err
		}
		p.Expanded, err = s.expand(tx, p.Template, d)
		return err
	})
	if err != nil {
		return Preview{}, fmt.Errorf("preview: %w", err)
	}
	p.Profile, err = s.plainProfile(p.Template, p.Expanded, d, mdm.NewUUID(), previewTicket(p.Template))
	if err != nil {
		return Preview{}, fmt.Errorf("preview: %w", err)
	}
	return p, nil
}

func (s *Service) expand(tx storage.Tx, t template.Template, d mdm.Device) (template.Expanded, error) {
	f, err := s.facts(tx, d, s.profileIdentifier(t.Name))
	if err != nil {
		return template.Expanded{}, err
	}
	return t.Expand(f)
}

// maxSend is how many devices one call may name.
const maxSend = 10_000

// Send assigns a template to devices and sends each the profile that gets it a
// certificate; one that has it already is sent another. Which devices could not be
// sent it, and why, is in rejected. It is an error only if it concerns all: that wraps
// storage.ErrNotFound, if there is no such template.
func (s *Service) Send(ctx context.Context, by, name string, ids []mdm.DeviceID) (sent []Assignment, rejected []Rejection, err error) {
	if len(ids) > maxSend {
		return nil, nil, &template.FieldError{Field: "device_ids", Reason: fmt.Sprintf("names %d devices, at most %d", len(ids), maxSend)}
	}
	if err := s.db.View(ctx, func(tx storage.Tx) error {
		_, err := s.templates.Get(tx, name)
		return err
	}); err != nil {
		return nil, nil, fmt.Errorf("send certificate: %w", err)
	}
	ids = slices.Clone(ids)
	seen := map[mdm.DeviceID]bool{}
	ids = slices.DeleteFunc(ids, func(id mdm.DeviceID) bool {
		again := seen[id]
		seen[id] = true
		return again
	})
	if len(ids) > sendAtOnce {
		return s.assign(ctx, by, name, ids)
	}
	var down *rejection
	for _, id := range ids {
		if down != nil { // once is enough to wait for it
			no := down.Rejection
			no.DeviceID = id
			rejected = append(rejected, no)
			continue
		}
		a, err := s.deliver(ctx, name, id, by)
		var no *rejection
		switch {
		case errors.As(err, &no):
			rejected = append(rejected, no.Rejection)
			if no.Code == codeUpstream {
				down = no
			}
		case err != nil:
			return sent, rejected, fmt.Errorf("send certificate: %w", err)
		default:
			sent = append(sent, a)
		}
	}
	return sent, rejected, nil
}

const (
	// sendAtOnce is how many profiles one call makes itself: each takes a signature.
	sendAtOnce  = 50
	assignBatch = 200 // in one transaction
)

// assign notes that devices are to be sent a template's profile, which is then made by
// the scheduler, within a minute or as many as it takes.
func (s *Service) assign(ctx context.Context, by, name string, ids []mdm.DeviceID) (sent []Assignment, rejected []Rejection, err error) {
	for batch := range slices.Chunk(ids, assignBatch) {
		var these []Assignment
		var those []Rejection
		err := s.db.Update(ctx, func(tx storage.Tx) error {
			these, those = nil, nil
			now := s.now().UTC()
			t, err := s.templates.Get(tx, name)
			if err != nil {
				return err
			}
			for _, id := range batch {
				tx.Prefetch(mdm.ReadDevice(id), assignments.Read(assignmentKey(name, id)))
			}
			for _, id := range batch {
				var no *rejection
				switch _, _, err := s.mayHave(tx, t, id); {
				case errors.As(err, &no):
					those = append(those, no.Rejection)
					continue
				case err != nil:
					return err
				}
				a, err := assignments.Get(tx, assignmentKey(name, id))
				if errors.Is(err, storage.ErrNotFound) || err == nil && a.State == Ended {
					if a, err = s.afresh(tx, a); err != nil {
						return err
					}
					a.Template, a.DeviceID, a.CreatedAt, a.CreatedBy, a.State = name, id, now, by, Pending
				}
				if err != nil {
					return err
				}
				a.DueAt = now
				if err := assignments.Put(tx, a); err != nil {
					return err
				}
				if err := event.Record(tx, event.Event{At: now, Actor: by, Action: "certificate.sent", DeviceID: string(id), Template: name}); err != nil {
					return err
				}
				these = append(these, a)
			}
			return nil
		})
		if err != nil {
			return sent, rejected, fmt.Errorf("send certificate: %w", err)
		}
		sent, rejected = append(sent, these...), append(rejected, those...)
	}
	return sent, rejected, nil
}

// rejection is a Rejection on its way up.
type rejection struct{ Rejection }

func (r *rejection) Error() string { return r.Reason }

// deliver starts a try: it queues the profile with a challenge of its own. by is who
// asks for it; empty, the scheduler does, and only for an assignment that is due.
func (s *Service) deliver(ctx context.Context, name string, id mdm.DeviceID, by string) (a Assignment, err error) {
	uuid, payload := mdm.NewUUID(), mdm.NewUUID()
	now := s.now().UTC()
	var t template.Template
	var d mdm.Device
	var e template.Expanded
	err = s.db.View(ctx, func(tx storage.Tx) (err error) {
		if t, err = s.templates.Get(tx, name); err != nil {
			return err
		}
		d, e, err = s.mayHave(tx, t, id)
		return err
	})
	if err != nil {
		return Assignment{}, err
	}
	show, err := s.ticketFor(ctx, t, challenge{Template: name, DeviceID: id, Try: uuid, ExpiresAt: now.Add(tryLife)})
	if err != nil {
		return Assignment{}, err
	}
	plain, err := s.plainProfile(t, e, d, payload, show)
	if err != nil {
		return Assignment{}, err
	}
	signed, err := s.sign(plain)
	if err != nil {
		return Assignment{}, fmt.Errorf("sign profile: %w", err)
	}
	plist, err := command.Build("InstallProfile", map[string]any{"Payload": base64.StdEncoding.EncodeToString(signed)}, uuid)
	if err != nil {
		return Assignment{}, err
	}
	err = s.db.Update(ctx, func(tx storage.Tx) error {
		a, err = assignments.Get(tx, assignmentKey(name, id))
		fresh := errors.Is(err, storage.ErrNotFound)
		if err != nil && !fresh {
			return err
		}
		if by == "" && (fresh || a.DueAt.IsZero() || a.DueAt.After(now)) {
			return nil // another replica, or a person, was faster
		}
		if _, _, err := s.mayHave(tx, t, id); err != nil {
			return err
		}
		if fresh || a.State == Ended {
			if a, err = s.afresh(tx, a); err != nil {
				return err
			}
			a.Template, a.DeviceID, a.CreatedAt, a.CreatedBy = name, id, now, by
		}
		if err := s.dropUndelivered(tx, &a); err != nil {
			return err
		}
		if show.row != nil {
			if err := challenges.Put(tx, *show.row); err != nil {
				return err
			}
		}
		_, no, err := s.mdm.Queue(tx, mdm.NewCommand{
			UUID: uuid, RequestType: "InstallProfile", Identifier: s.profileIdentifier(name), Plist: plist,
			CreatedBy: cmp.Or(by, "renewal"), Targets: []mdm.DeviceID{id},
		})
		if err != nil {
			return err
		}
		if len(no) > 0 {
			return &rejection{Rejection{DeviceID: id, Code: no[0].Code, Reason: no[0].Reason}}
		}
		a.State = Pending
		if a.Current != "" || !a.RenewAt.IsZero() { // which there is also of another authority's
			a.State = Renewing
		}
		a.Tries = append(a.Tries, Try{UUID: uuid})
		a.Try, a.TriedAt, a.DueAt = uuid, now, now.Add(tryLife)
		if err := assignments.Put(tx, a); err != nil {
			return err
		}
		if by == "" {
			return nil
		}
		return event.Record(tx, event.Event{At: now, Actor: by, Action: "certificate.sent", DeviceID: string(id), Template: name})
	})
	if err != nil {
		return Assignment{}, err
	}
	s.log.InfoContext(ctx, "certificate profile queued", "template", name, "device", id, "command", uuid, "by", by)
	return a, nil
}

// mayHave says what t comes to for a device, or why it can't have it.
func (s *Service) mayHave(tx storage.Tx, t template.Template, id mdm.DeviceID) (d mdm.Device, e template.Expanded, err error) {
	no := func(code, field, reason string) error {
		return &rejection{Rejection{DeviceID: id, Code: code, Field: field, Reason: reason}}
	}
	d, err = mdm.GetDevice(tx, id)
	switch {
	case errors.Is(err, storage.ErrNotFound):
		return d, e, no("not_found", "", "No device has this id.")
	case err != nil:
		return d, e, err
	case !d.Live():
		return d, e, no("not_enrolled", "", "The device is not enrolled.")
	}
	// Only a Mac's user channel takes SCEP payloads (PROTOCOL 3.4).
	if d.ParentID != "" {
		parent, err := mdm.GetDevice(tx, d.ParentID)
		if err != nil {
			return d, e, err
		}
		if p := command.PlatformOf(cmp.Or(parent.ProductName, parent.Model)); p != "" && p != command.MacOS {
			return d, e, no("user_channel", "", "This device takes certificates on its own channel only, not on a user's.")
		}
	}
	e, err = s.expand(tx, t, d)
	var field *template.FieldError
	if errors.As(err, &field) {
		err = no("template", field.Field, field.Field+": "+field.Reason+".")
	}
	return d, e, err
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
	a, err := assignments.One(tx, assignmentsByTry, e.UUID)
	if errors.Is(err, storage.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if e.State == mdm.Acknowledged {
		return s.commit(tx, a, a.try(e.UUID))
	}
	return s.fail(tx, a, a.try(e.UUID), e)
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
	return s.end(tx, assignments.Lookup(tx, assignmentsByDevice, string(id)), "the enrollment has ended")
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

// Run sends certificates again before they end, and forgets what has expired, until ctx
// ends. One replica at a time does so.
func (s *Service) Run(ctx context.Context) error {
	return storage.Schedule{
		DB: s.db, Log: s.log, Now: s.now,
		Jobs: []storage.Job{
			{Name: "issuance/renewals", Every: renewalTick, Do: s.Renew},
			{Name: "issuance/sweep", Every: sweepTick, Do: s.sweep},
		},
	}.Run(ctx)
}

// Renew makes the tries that are due.
func (s *Service) Renew(ctx context.Context) error {
	down := map[string]*rejection{} // by template
	for begun := time.Now(); ; {    // not s.now(): it limits how long this runs
		var due []Assignment
		err := s.db.View(ctx, func(tx storage.Tx) error {
			due = nil
			for a, err := range assignments.Ascend(tx, assignmentsDue, "", sortable(s.now()), renewalBatch) {
				if err != nil {
					return err
				}
				due = append(due, a)
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("find certificates to renew: %w", err)
		}
		for _, a := range due {
			if err := s.renewOne(ctx, a, down); err != nil {
				s.log.WarnContext(ctx, "certificate not sent, will try again", "template", a.Template, "device", a.DeviceID, "err", err)
				return nil // rather than meet it again at once
			}
		}
		if len(due) < renewalBatch || time.Since(begun) > renewalTick {
			return nil
		}
	}
}

// renewOne makes one try that is due, or notes why it can't be made. down is which
// templates have an authority elsewhere that does not answer.
func (s *Service) renewOne(ctx context.Context, a Assignment, down map[string]*rejection) error {
	var err error
	no := down[a.Template]
	if no != nil {
		err = no
	} else {
		_, err = s.deliver(ctx, a.Template, a.DeviceID, "")
	}
	switch {
	case errors.As(err, &no):
		switch no.Code {
		case "not_found", "not_enrolled":
			return s.endNow(ctx, a, "the enrollment has ended")
		case codeUpstream:
			down[a.Template] = no
		}
		return s.postpone(ctx, a, no.Reason)
	case errors.Is(err, storage.ErrNotFound):
		return s.endNow(ctx, a, "the template was deleted")
	}
	return err
}

func (s *Service) endNow(ctx context.Context, a Assignment, reason string) error {
	return s.db.Update(ctx, func(tx storage.Tx) error {
		now, err := assignments.Get(tx, assignmentKey(a.Template, a.DeviceID))
		if err != nil || now.CreatedAt != a.CreatedAt {
			return err // another one since
		}
		return s.end(tx, one(now), reason)
	})
}

// postpone notes that a try could not be made.
func (s *Service) postpone(ctx context.Context, a Assignment, reason string) error {
	return s.db.Update(ctx, func(tx storage.Tx) error {
		now, err := assignments.Get(tx, assignmentKey(a.Template, a.DeviceID))
		if err != nil || now.Try != a.Try || now.DueAt.IsZero() {
			return err
		}
		at := s.now().UTC()
		now.State, now.Failures, now.FailedAt, now.Reason, now.DueAt = Failing, now.Failures+1, at, reason, at.Add(retryAfter)
		return assignments.Put(tx, now)
	})
}

// ForDevice returns the assignments of a device.
func (s *Service) ForDevice(tx storage.Tx, id mdm.DeviceID) iter.Seq2[Assignment, error] {
	return assignments.Lookup(tx, assignmentsByDevice, string(id))
}

// Assignments returns up to limit assignments, and the cursor of the next page.
func (s *Service) Assignments(tx storage.Tx, cursor string, limit int) ([]Assignment, string, error) {
	return assignments.Page(tx, cursor, limit)
}

// Unassign ends an assignment: nothing is sent any more, and the profile with its
// certificate is removed from the device.
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

// sweep deletes challenges and remembered answers that can't matter any more.
func (s *Service) sweep(ctx context.Context) error {
	until := sortable(s.now().Add(-answerLife))
	return errors.Join(
		sweepOlder(ctx, s.db, challenges, until, func(tx storage.Tx, c challenge) error { return challenges.Delete(tx, c.Hash) }),
		sweepOlder(ctx, s.db, answers, until, func(tx storage.Tx, a answer) error { return answers.Delete(tx, a.Key) }),
		sweepOlder(ctx, s.db, passages, until, func(tx storage.Tx, p passage) error { return passages.Delete(tx, p.Key) }),
		sweepOlder(ctx, s.db, counters, until, func(tx storage.Tx, c counter) error { return counters.Delete(tx, c.Key) }),
	)
}

const sweepBatch = 500 // in one transaction

// sweepOlder calls fn, which deletes it, for every record of c that expired before until.
func sweepOlder[T any](ctx context.Context, db storage.DB, c *storage.Collection[T], until string, fn func(storage.Tx, T) error) error {
	for {
		var old []T
		err := db.Update(ctx, func(tx storage.Tx) error {
			old = nil
			for v, err := range c.Ascend(tx, byExpiry, "", until, sweepBatch) {
				if err != nil {
					return err
				}
				old = append(old, v)
			}
			for _, v := range old {
				if err := fn(tx, v); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("sweep: %w", err)
		}
		if len(old) < sweepBatch {
			return nil
		}
	}
}
