package issuance

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/gatehouse-mdm/gatehouse/depot/template"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/command"
	"github.com/gatehouse-mdm/gatehouse/mdm/event"
	"github.com/gatehouse-mdm/gatehouse/mdm/library"
	"github.com/gatehouse-mdm/gatehouse/mdm/profile"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

// A profile of the library may bring certificates, so that what uses one stands beside it: a
// Wi-Fi or VPN payload can only refer to a certificate in its own profile. Assignment and
// renewal are as of a certificate that is sent by itself; what is sent is that profile.

// ErrCarried means that a profile of the library brings the certificate.
var ErrCarried = errors.New("a profile brings the certificate: remove that from the device")

// Library sends profiles that bring certificates. *library.Service is one.
type Library interface {
	Resend(ctx context.Context, by, profile string, device mdm.DeviceID) (library.Sending, error)
	// Gone is told that a device has lost all profiles.
	Gone(tx storage.Tx, id mdm.DeviceID) error
}

// SendBy says who sends profiles that bring certificates again. It is for the time before
// the server serves.
func (s *Service) SendBy(l Library) { s.library = l }

// codeCarried is the Code of a Rejection of a device that has a certificate of the template
// in another way.
const codeCarried = "certificate_sent_otherwise"

// codeNewer is the library's Code for a device that a newer version without certificates is on
// its way to.
const codeNewer = "newer_version"

// carried says that a profile of the library brings the certificate.
func (a Assignment) carried() bool { return a.State != Ended && a.Profile != "" }

func carriedElsewhere(id mdm.DeviceID) *rejection {
	return &rejection{Rejection{DeviceID: id, Code: codeCarried, Reason: "A profile brings this device a certificate of the template already."}}
}

// Known says that there is a variable of a name, without the dollar sign.
func (s *Service) Known(variable string) bool { return template.Known(variable) }

// Values returns what a device gets of its own in a profile of the library. With a command it
// begins a try of each certificate: a challenge is good for as long as for one that is sent
// by itself. Without one it only looks. The error is a *command.Refusal where the device lacks
// something: then nothing has changed.
func (s *Service) Values(tx storage.Tx, d mdm.Device, w library.Wanted) (v mdm.Values, err error) {
	if len(w.Variables) > 0 {
		if v.Variables, err = s.variables(tx, d, w); err != nil {
			return mdm.Values{}, err
		}
	}
	asked := make([]carriage, len(w.Certificates))
	for i, name := range w.Certificates { // all, before the first is begun
		asked[i], err = s.mayCarry(tx, d, w, name)
		var no *rejection
		if errors.As(err, &no) {
			return mdm.Values{}, &command.Refusal{Code: no.Code, Reason: no.Reason}
		}
		if err != nil {
			return mdm.Values{}, err
		}
	}
	if w.Command == "" || len(asked) == 0 {
		return v, nil
	}
	v.Certificates = make(map[string]map[string]any, len(asked))
	for _, c := range asked {
		if v.Certificates[c.template.Name], err = s.carry(tx, w, c); err != nil {
			return mdm.Values{}, err
		}
	}
	return v, nil
}

// variables returns the values of w's variables. What can't stand in a profile is refused
// here, or the device would wait for what can't be made.
func (s *Service) variables(tx storage.Tx, d mdm.Device, w library.Wanted) (map[string]string, error) {
	facts, err := s.facts(tx, d, w.Profile.Identifier)
	if err != nil {
		return nil, err
	}
	values := make(map[string]string, len(w.Variables))
	for _, name := range w.Variables {
		value := facts.Value(name)
		if value == "" {
			return nil, &command.Refusal{Code: "value_missing", Reason: fmt.Sprintf("$%s is empty for this device.", name)}
		}
		if err := profile.CheckValue(name, value); err != nil {
			return nil, &command.Refusal{Code: "value_invalid", Reason: err.Error() + "."}
		}
		values[name] = value
	}
	return values, nil
}

// carriage is a certificate that a profile of the library may bring a device.
type carriage struct {
	template   template.Template
	expanded   template.Expanded
	assignment Assignment // as it stands, or a fresh one
}

// mayCarry says what a profile's certificate of a template comes to for a device, or as a
// *rejection why it can't have it. It writes nothing.
func (s *Service) mayCarry(tx storage.Tx, d mdm.Device, w library.Wanted, name string) (c carriage, err error) {
	no := func(code, format string) error {
		return &rejection{Rejection{DeviceID: d.ID, Code: code, Reason: fmt.Sprintf(format, name)}}
	}
	c.template, err = s.templates.Get(tx, name)
	switch {
	case errors.Is(err, storage.ErrNotFound):
		return c, no("certificate_template", "There is no certificate template %q, which the profile asks for.")
	case err != nil:
		return c, err
	case c.template.Issuer != template.Builtin:
		return c, no("certificate_template", "The certificate template %q is another server’s: it can be sent by itself only.")
	}
	if _, c.expanded, err = s.mayHave(tx, c.template, d.ID); err != nil {
		return c, err
	}
	a, err := assignments.Get(tx, assignmentKey(name, d.ID))
	switch {
	case errors.Is(err, storage.ErrNotFound) || err == nil && a.State == Ended:
		if a, err = s.afresh(tx, a); err != nil {
			return c, err
		}
		a.Template, a.DeviceID, a.CreatedAt, a.CreatedBy, a.Profile = name, d.ID, s.now().UTC(), w.By, w.Profile.ID
	case err != nil:
		return c, err
	case a.Profile == "":
		return c, no(codeCarried, "The certificate of the template %q was sent to this device by itself: take that back first.")
	case a.Profile != w.Profile.ID:
		return c, no(codeCarried, "Another profile brings this device a certificate of the template %q.")
	}
	c.assignment = a
	return c, nil
}

// carry begins a try of a certificate that a profile of the library brings, and returns the
// PayloadContent of its com.apple.security.scep.
func (s *Service) carry(tx storage.Tx, w library.Wanted, c carriage) (map[string]any, error) {
	a, now := c.assignment, s.now().UTC()
	if err := s.dropUndelivered(tx, &a); err != nil {
		return nil, err
	}
	row, secret := newChallenge(challenge{Template: a.Template, DeviceID: a.DeviceID, Try: w.Command, ExpiresAt: now.Add(tryLife)})
	if err := challenges.Put(tx, row); err != nil {
		return nil, err
	}
	a.State = Pending
	if a.Current != "" {
		a.State = Renewing
	}
	a.Tries = append(slices.Clone(a.Tries), Try{UUID: w.Command})
	a.Try, a.TriedAt, a.DueAt = w.Command, now, now.Add(tryLife)
	if err := assignments.Put(tx, a); err != nil {
		return nil, err
	}
	err := event.Record(tx, event.Event{
		At: now, Actor: w.By, Action: "certificate.sent", DeviceID: string(a.DeviceID), Template: a.Template,
		Details: map[string]string{"profile": w.Profile.ID},
	})
	if err != nil {
		return nil, err
	}
	return s.scep(c.template, c.expanded, ticket{secret: secret}).Content()
}

// resend has the library send a device the profile that brings a certificate once more,
// unless that has happened since a was read: one profile may bring several that are due.
func (s *Service) resend(ctx context.Context, a Assignment) error {
	if s.library == nil {
		return errors.New("nobody sends the profile that brings the certificate")
	}
	due, err := s.stillDue(ctx, a)
	if err != nil || !due {
		return err
	}
	out, err := s.library.Resend(ctx, "renewal", a.Profile, a.DeviceID)
	if err != nil {
		return err
	}
	if len(out.Rejected) > 0 && out.Rejected[0].Code != codeNewer {
		no := out.Rejected[0]
		return &rejection{Rejection{DeviceID: a.DeviceID, Code: no.Code, Reason: no.Reason}}
	}
	return s.db.Update(ctx, func(tx storage.Tx) error {
		a, due, err := s.unchanged(tx, a)
		if err != nil || !due {
			return err
		}
		// What is on its way does without the certificate: it ends when the device has that.
		a.DueAt = s.now().UTC().Add(retryAfter)
		return assignments.Put(tx, a)
	})
}

func (s *Service) stillDue(ctx context.Context, a Assignment) (due bool, err error) {
	err = s.db.View(ctx, func(tx storage.Tx) error {
		_, due, err = s.unchanged(tx, a)
		return err
	})
	return due, err
}

// unchanged returns an assignment as it stands now; due says that it is still due for the
// same reason as when it was read.
func (s *Service) unchanged(tx storage.Tx, read Assignment) (a Assignment, due bool, err error) {
	a, err = assignments.Get(tx, assignmentKey(read.Template, read.DeviceID))
	if errors.Is(err, storage.ErrNotFound) {
		return a, false, nil
	}
	return a, err == nil && a.Profile == read.Profile && a.Try == read.Try && !a.DueAt.IsZero() && !a.DueAt.After(s.now()), err
}

// Carries ends the assignments of a device whose certificates its profile no longer brings:
// they are revoked.
func (s *Service) Carries(tx storage.Tx, id mdm.DeviceID, profile string, certificates []string) error {
	var over []Assignment
	for a, err := range assignments.Lookup(tx, assignmentsByDevice, string(id)) {
		if err != nil {
			return err
		}
		if a.carried() && a.Profile == profile && !slices.Contains(certificates, a.Template) {
			over = append(over, a)
		}
	}
	for _, a := range over {
		if err := s.takeBack(tx, a); err != nil {
			return err
		}
	}
	return nil
}
