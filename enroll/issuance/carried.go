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

// carried says that a profile of the library brings the certificate.
func (a Assignment) carried() bool { return a.State != Ended && a.Profile != "" }

func carriedElsewhere(id mdm.DeviceID) *rejection {
	return &rejection{Rejection{DeviceID: id, Code: codeCarried, Reason: "A profile brings this device a certificate of the template already."}}
}

// Known says that there is a variable of a name, without the dollar sign.
func (s *Service) Known(variable string) bool { return template.Known(variable) }

// Values returns what a device gets of its own in a profile of the library. With a command it
// begins a try of each certificate: a challenge is good for as long as for one that is sent
// by itself. The error is a *command.Refusal where the device lacks something.
func (s *Service) Values(tx storage.Tx, d mdm.Device, w library.Wanted) (mdm.Values, error) {
	var v mdm.Values
	if len(w.Variables) > 0 {
		facts, err := s.facts(tx, d, w.Profile.Identifier)
		if err != nil {
			return v, err
		}
		v.Variables = make(map[string]string, len(w.Variables))
		for _, name := range w.Variables {
			value := facts.Value(name)
			if value == "" {
				return v, &command.Refusal{Code: "value_missing", Reason: fmt.Sprintf("$%s is empty for this device.", name)}
			}
			v.Variables[name] = value
		}
	}
	if w.Command == "" {
		return v, nil
	}
	for _, name := range w.Certificates {
		content, err := s.carry(tx, d, w, name)
		var no *rejection
		if errors.As(err, &no) {
			return v, &command.Refusal{Code: no.Code, Reason: no.Reason}
		}
		if err != nil {
			return v, err
		}
		if v.Certificates == nil {
			v.Certificates = make(map[string]map[string]any, len(w.Certificates))
		}
		v.Certificates[name] = content
	}
	return v, nil
}

// carry starts a try of a certificate that a profile of the library brings, and returns the
// PayloadContent of its com.apple.security.scep.
func (s *Service) carry(tx storage.Tx, d mdm.Device, w library.Wanted, name string) (map[string]any, error) {
	no := func(code, format string, args ...any) error {
		return &rejection{Rejection{DeviceID: d.ID, Code: code, Reason: fmt.Sprintf(format, args...)}}
	}
	t, err := s.templates.Get(tx, name)
	if errors.Is(err, storage.ErrNotFound) {
		return nil, no("certificate_template", "There is no certificate template %q, which the profile asks for.", name)
	}
	if err != nil {
		return nil, err
	}
	if t.Issuer != template.Builtin {
		return nil, no("certificate_template", "The certificate template %q is another server’s: it can be sent by itself only.", name)
	}
	_, e, err := s.mayHave(tx, t, d.ID)
	if err != nil {
		return nil, err
	}
	now := s.now().UTC()
	a, err := assignments.Get(tx, assignmentKey(name, d.ID))
	switch {
	case errors.Is(err, storage.ErrNotFound) || err == nil && a.State == Ended:
		if a, err = s.afresh(tx, a); err != nil {
			return nil, err
		}
		a.Template, a.DeviceID, a.CreatedAt, a.CreatedBy, a.Profile = name, d.ID, now, w.By, w.Profile.ID
	case err != nil:
		return nil, err
	case a.Profile == "":
		return nil, no(codeCarried, "The certificate of the template %q was sent to this device by itself: take that back first.", name)
	case a.Profile != w.Profile.ID:
		return nil, no(codeCarried, "Another profile brings this device a certificate of the template %q.", name)
	}
	if err := s.dropUndelivered(tx, &a); err != nil {
		return nil, err
	}
	row, secret := newChallenge(challenge{Template: name, DeviceID: d.ID, Try: w.Command, ExpiresAt: now.Add(tryLife)})
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
	err = event.Record(tx, event.Event{
		At: now, Actor: w.By, Action: "certificate.sent", DeviceID: string(d.ID), Template: name,
		Details: map[string]string{"profile": w.Profile.ID},
	})
	if err != nil {
		return nil, err
	}
	return s.scep(t, e, ticket{secret: secret}).Content()
}

// resend has the library send a device the profile that brings a certificate once more.
func (s *Service) resend(ctx context.Context, a Assignment) error {
	if s.library == nil {
		return errors.New("nobody sends the profile that brings the certificate")
	}
	out, err := s.library.Resend(ctx, "renewal", a.Profile, a.DeviceID)
	if err != nil {
		return err
	}
	if len(out.Rejected) > 0 {
		no := out.Rejected[0]
		return &rejection{Rejection{DeviceID: a.DeviceID, Code: no.Code, Reason: no.Reason}}
	}
	return nil
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
