package apiv1

import (
	"errors"
	"net/http"
	"net/url"
	"time"

	"github.com/gatehouse-mdm/gatehouse/depot"
	"github.com/gatehouse-mdm/gatehouse/depot/template"
	"github.com/gatehouse-mdm/gatehouse/enroll/issuance"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/webui"
)

// assignmentJSON says that a device is to have a certificate of a template.
type assignmentJSON struct {
	Template    string     `json:"template"`
	DeviceID    string     `json:"device_id"`
	DeviceName  string     `json:"device_name"` // empty where the device has none
	State       string     `json:"state"`
	Serial      string     `json:"serial"` // of the certificate that the device is known to have
	RenewAt     *time.Time `json:"renew_at"`
	DueAt       *time.Time `json:"due_at"` // when it is sent again
	TriedAt     *time.Time `json:"tried_at"`
	CommandUUID string     `json:"command_uuid"` // of the try that is under way
	Failures    int        `json:"failures"`     // in a row
	FailedAt    *time.Time `json:"failed_at"`
	Reason      string     `json:"reason"`
	Stuck       bool       `json:"stuck"`
	CreatedAt   time.Time  `json:"created_at"`
	CreatedBy   string     `json:"created_by"`
}

func (a *API) assignment(tx storage.Tx, in issuance.Assignment) (assignmentJSON, error) {
	out := assignmentJSON{
		Template: in.Template, DeviceID: string(in.DeviceID), State: string(in.State),
		RenewAt: timestamp(in.RenewAt), DueAt: timestamp(in.DueAt), TriedAt: timestamp(in.TriedAt), CommandUUID: in.Try,
		Failures: in.Failures, FailedAt: timestamp(in.FailedAt), Reason: in.Reason, Stuck: in.Stuck(a.now()),
		CreatedAt: in.CreatedAt.UTC(), CreatedBy: in.CreatedBy,
	}
	var err error
	if out.DeviceName, err = deviceName(tx, in.DeviceID); err != nil || in.Current == "" {
		return out, err
	}
	c, err := a.depot.Get(tx, in.Current)
	out.Serial = string(c.Serial)
	return out, err
}

func (a *API) assignments(tx storage.Tx, in []issuance.Assignment) (out []assignmentJSON, err error) {
	reads := make([]storage.Read, 0, 2*len(in))
	for _, one := range in {
		reads = append(reads, mdm.ReadDevice(one.DeviceID))
		if one.Current != "" {
			reads = append(reads, a.depot.Read(one.Current))
		}
	}
	tx.Prefetch(reads...)
	out = make([]assignmentJSON, len(in))
	for i, one := range in {
		if out[i], err = a.assignment(tx, one); err != nil {
			return nil, err
		}
	}
	return out, nil
}

type sendRequest struct {
	DeviceIDs []string `json:"device_ids"`
	GroupID   string   `json:"group_id"`
}

type sentJSON struct {
	Items    []assignmentJSON `json:"items"`
	Rejected []rejection      `json:"rejected"`
}

// sendTemplate assigns a template to devices and sends them the profile.
func (a *API) sendTemplate(w http.ResponseWriter, r *http.Request) error {
	name, err := pathID(r, "name")
	if err != nil {
		return err
	}
	var in sendRequest
	if _, err := readJSON(r, &in); err != nil {
		return err
	}
	targets, outside, err := a.chosen(r, in.DeviceIDs, in.GroupID)
	if err != nil {
		return err
	}
	var sent []issuance.Assignment
	var no []issuance.Rejection
	if len(targets) > 0 {
		if sent, no, err = a.issuance.Send(r.Context(), principal(r).String(), name, targets); err != nil {
			return err
		}
	}
	rejected := make([]rejection, len(no))
	for i, one := range no {
		rejected[i] = rejection{DeviceID: string(one.DeviceID), Code: one.Code, Field: one.Field, Reason: one.Reason}
	}
	rejected = append(rejections(outside), rejected...)
	if len(sent) == 0 {
		return &problem{
			Problem: webui.Problem{
				Status: http.StatusUnprocessableEntity, Code: "certificate_rejected", Title: "No device may have this certificate",
				Detail: "Each device's reason is in rejected.",
			},
			Rejected: rejected,
		}
	}
	out := sentJSON{Rejected: rejected}
	err = a.db.View(r.Context(), func(tx storage.Tx) (err error) {
		out.Items, err = a.assignments(tx, sent)
		return err
	})
	if err != nil {
		return err
	}
	return webui.WriteJSON(w, http.StatusAccepted, out)
}

func (a *API) listAssignments(w http.ResponseWriter, r *http.Request) error {
	cursor, limit, err := pageOf(r)
	if err != nil {
		return err
	}
	filter, err := assignmentFilterOf(r.URL.Query())
	if err != nil {
		return err
	}
	var out page[assignmentJSON]
	err = a.viewScope(r, func(tx storage.Tx, scope *mdm.Scope) error {
		found, next, err := reachable(scope, cursor, limit, func(cursor string, limit int) ([]issuance.Assignment, string, error) {
			return a.issuance.Search(tx, filter, cursor, limit)
		}, func(one issuance.Assignment) string { return string(one.DeviceID) })
		if err != nil {
			return err
		}
		out.NextCursor = next
		out.Items, err = a.assignments(tx, found)
		return err
	})
	if err != nil {
		return err
	}
	return webui.WriteJSON(w, http.StatusOK, out)
}

func assignmentFilterOf(query url.Values) (f issuance.Filter, err error) {
	id, state, stuck := "", "", ""
	for _, p := range []struct {
		name string
		to   *string
	}{{"device_id", &id}, {"template", &f.Template}, {"state", &state}, {"stuck", &stuck}} {
		if *p.to, err = textOf(query, p.name); err != nil {
			return issuance.Filter{}, err
		}
	}
	f.DeviceID = mdm.DeviceID(id)
	switch f.State = issuance.State(state); f.State {
	case "", issuance.Pending, issuance.Installed, issuance.Renewing, issuance.Failing, issuance.Ended:
	default:
		return issuance.Filter{}, invalid("state", "must be pending, installed, renewing, failing or ended")
	}
	if stuck != "" {
		if stuck != "true" && stuck != "false" {
			return issuance.Filter{}, invalid("stuck", "must be true or false")
		}
		f.Stuck = new(stuck == "true")
	}
	return f, nil
}

func (a *API) deleteAssignment(w http.ResponseWriter, r *http.Request) error {
	name, err := pathID(r, "name")
	if err != nil {
		return err
	}
	id, err := pathID(r, "device_id")
	if err != nil {
		return err
	}
	if err := a.issuance.Unassign(r.Context(), principal(r).String(), name, mdm.DeviceID(id)); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// previewJSON is what a template comes to for one device.
type previewJSON struct {
	Template    string       `json:"template"`
	DeviceID    string       `json:"device_id"`
	Subject     string       `json:"subject"`
	RDNs        [][][]string `json:"rdns"` // as in Apple's payload: parts, attributes, type and value
	SANs        sansJSON     `json:"sans"`
	KeyType     string       `json:"key_type"`
	KeySize     int          `json:"key_size"`
	KeyUsage    []string     `json:"key_usage"`
	ExtKeyUsage []string     `json:"ext_key_usage"`
	NotAfter    time.Time    `json:"not_after"` // if it is issued now
	RenewAt     time.Time    `json:"renew_at"`
	Warnings    []fieldError `json:"warnings"`
	Profile     string       `json:"profile"` // a property list, unsigned
}

func (a *API) previewTemplate(w http.ResponseWriter, r *http.Request) error {
	name, err := pathID(r, "name")
	if err != nil {
		return err
	}
	id, err := textOf(r.URL.Query(), "device_id")
	if err != nil {
		return err
	}
	if id == "" {
		return invalid("device_id", "is required")
	}
	if err := a.mustReach(r, principal(r), mdm.DeviceID(id)); err != nil {
		return err
	}
	p, err := a.issuance.Preview(r.Context(), name, mdm.DeviceID(id))
	if err != nil {
		return err
	}
	return a.writePreview(w, id, p)
}

// draftOf reads whether a template that is sent is only to be looked at, and for which
// device; it is empty where it is to be stored.
func draftOf(r *http.Request) (device string, err error) {
	query := r.URL.Query()
	preview, err := flag(query, "preview")
	if err != nil || !preview {
		return "", err
	}
	if device, err = textOf(query, "device_id"); err == nil && device == "" {
		err = invalid("device_id", "is required for a preview")
	}
	return device, err
}

// previewDraft says what a template would come to for a device. It stores nothing.
func (a *API) previewDraft(w http.ResponseWriter, r *http.Request, t template.Template, replaces bool, device string) error {
	p, err := a.issuance.PreviewDraft(r.Context(), t, replaces, mdm.DeviceID(device))
	if err != nil {
		return err
	}
	return a.writePreview(w, device, p)
}

func (a *API) writePreview(w http.ResponseWriter, id string, p issuance.Preview) error {
	t, e, now := p.Template, p.Expanded, a.now().UTC()
	notAfter := now.Add(t.ValidFor())
	out := previewJSON{
		Template: t.Name, DeviceID: id, Subject: e.Subject.String(), RDNs: rdnsOf(e.Subject),
		SANs: sansJSON{
			RFC822Name: list(e.SANs.RFC822Names), DNSName: list(e.SANs.DNSNames),
			UniformResourceIdentifier: list(e.SANs.URIs), NTPrincipalName: e.SANs.NTPrincipalName,
		},
		KeyType: t.KeyType, KeySize: t.KeySize, KeyUsage: list(t.KeyUsage), ExtKeyUsage: list(t.ExtKeyUsage),
		NotAfter: notAfter, RenewAt: t.RenewAt(now, notAfter), Warnings: []fieldError{}, Profile: string(p.Profile),
	}
	for _, warning := range t.Warnings(now) {
		out.Warnings = append(out.Warnings, fieldError{warning.Field, warning.Detail})
	}
	if p.No != nil {
		out.Warnings = append(out.Warnings, fieldError{"device_id", p.No.Reason})
	}
	return webui.WriteJSON(w, http.StatusOK, out)
}

func rdnsOf(s template.Subject) [][][]string {
	rdns := make([][][]string, len(s))
	for i, rdn := range s {
		for _, a := range rdn {
			rdns[i] = append(rdns[i], []string{a.Type, a.Value})
		}
	}
	return rdns
}

// renewIdentity begins the renewal of a device's identity, if none is under way.
func (a *API) renewIdentity(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r, "id")
	if err != nil {
		return err
	}
	if err := a.enroll.Renew(r.Context(), mdm.DeviceID(id)); err != nil {
		return err
	}
	return a.writeDevice(w, r, http.StatusAccepted, mdm.DeviceID(id))
}

// identityJSON is the certificate that speaks for a device.
type identityJSON struct {
	Serial   string       `json:"serial"`
	NotAfter time.Time    `json:"not_after"`
	RenewAt  *time.Time   `json:"renew_at"`
	Renewal  *renewalJSON `json:"renewal"` // null if none is under way, and the last one was not in vain
	Stuck    bool         `json:"stuck"`
}

type renewalJSON struct {
	State           string     `json:"state"`
	StartedAt       *time.Time `json:"started_at"`
	ExpiresAt       *time.Time `json:"expires_at"`
	CandidateSerial string     `json:"candidate_serial"`
	FailedAt        *time.Time `json:"failed_at"` // when the last one began that came to nothing
}

// States of a renewal.
const (
	renewalWaiting = "waiting" // the device has not asked for the new certificate yet
	renewalIssued  = "issued"  // it has not proved yet that it uses it
	renewalFailed  = "failed"  // another one follows
)

// identityOf returns what to tell of a device's identity, nil if it has none.
func (a *API) identityOf(tx storage.Tx, d mdm.Device) (*identityJSON, error) {
	if d.Identity == "" {
		return nil, nil
	}
	rec, overdue, err := a.enroll.IdentityOf(tx, d)
	if errors.Is(err, storage.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	out := &identityJSON{Serial: string(rec.Serial), NotAfter: rec.NotAfter.UTC(), RenewAt: timestamp(rec.RenewAt), Stuck: overdue}
	if d.Renewal == nil && d.RenewalFailedAt.IsZero() {
		return out, nil
	}
	out.Renewal = &renewalJSON{State: renewalFailed, FailedAt: timestamp(d.RenewalFailedAt)}
	renewal := d.Renewal
	if renewal == nil {
		return out, nil
	}
	out.Renewal.State, out.Renewal.StartedAt, out.Renewal.ExpiresAt = renewalWaiting, timestamp(renewal.StartedAt), timestamp(renewal.ExpiresAt)
	if renewal.Candidate == "" {
		return out, nil
	}
	candidate, err := a.depot.Get(tx, depot.Fingerprint(renewal.Candidate))
	out.Renewal.State, out.Renewal.CandidateSerial = renewalIssued, string(candidate.Serial)
	return out, err
}
