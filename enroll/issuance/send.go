package issuance

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"

	"github.com/gatehouse-mdm/gatehouse/depot/template"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/command"
	"github.com/gatehouse-mdm/gatehouse/mdm/event"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

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
	Profile  []byte     // the configuration profile, unsigned, without a challenge that is good for anything
	No       *Rejection // why the device may not have it all the same; nil if it may
}

// previewChallenge stands where a device would find its challenge.
const previewChallenge = "made-when-it-is-sent"

// Preview returns what a template comes to for a device. Errors are a
// *template.FieldError, or wrap storage.ErrNotFound.
func (s *Service) Preview(ctx context.Context, name string, id mdm.DeviceID) (Preview, error) {
	return s.preview(ctx, id, func(tx storage.Tx) (template.Template, error) { return s.templates.Get(tx, name) })
}

// PreviewDraft is Preview for a template that is not stored: a new one, or, if replaces, one
// in place of that of its name. Errors are also those of [template.Service.Draft].
func (s *Service) PreviewDraft(ctx context.Context, t template.Template, replaces bool, id mdm.DeviceID) (Preview, error) {
	return s.preview(ctx, id, func(tx storage.Tx) (template.Template, error) { return s.templates.Draft(tx, t, replaces) })
}

func (s *Service) preview(ctx context.Context, id mdm.DeviceID, of func(storage.Tx) (template.Template, error)) (p Preview, err error) {
	var d mdm.Device
	err = s.db.View(ctx, func(tx storage.Tx) (err error) {
		p = Preview{}
		if p.Template, err = of(tx); err != nil {
			return err
		}
		if d, err = mdm.GetDevice(tx, id); err != nil {
			return err
		}
		if p.Expanded, err = s.expand(tx, p.Template, d); err != nil {
			return err
		}
		var rejected *rejection
		if _, _, err = s.mayHave(tx, p.Template, id); errors.As(err, &rejected) {
			p.No, err = &rejected.Rejection, nil
		}
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
				if err == nil && a.carried() {
					those = append(those, carriedElsewhere(id).Rejection)
					continue
				}
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
		if !fresh && a.carried() {
			return carriedElsewhere(id)
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
	if off, err := s.suspended(tx, d); err != nil || off {
		return d, e, cmp.Or(err, no(codeUserDisabled, "", suspendedReason))
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
