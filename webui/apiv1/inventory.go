package apiv1

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/inventory"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/webui"
)

type inventoryJSON struct {
	DeviceID      string       `json:"device_id"`
	ManagedOnly   bool         `json:"managed_only"`    // lists have only what this server has installed
	NextRefreshAt *time.Time   `json:"next_refresh_at"` // null: when somebody wants to know
	Sources       []sourceJSON `json:"sources"`
}

// originJSON says which answer something is from.
type originJSON struct {
	CommandUUID string     `json:"command_uuid"` // empty: not known
	AskedAt     *time.Time `json:"asked_at"`
	AnsweredAt  *time.Time `json:"answered_at"`
}

type sourceJSON struct {
	Source string `json:"source"` // Apple's RequestType
	originJSON
	Failure *failureJSON `json:"failure"` // of a later refresh, that came to nothing
	Waiting *waitingJSON `json:"waiting"` // a question that the device has yet to answer
	Count   *int         `json:"count"`   // of a list its elements
	Facts   []factJSON   `json:"facts"`   // of what is no list
}

type failureJSON struct {
	Code        string         `json:"code"`
	Reason      string         `json:"reason"`
	CommandUUID string         `json:"command_uuid"`
	AskedAt     time.Time      `json:"asked_at"`
	At          time.Time      `json:"at"`
	ErrorChain  []chainedError `json:"error_chain"`
}

type waitingJSON struct {
	CommandUUID string    `json:"command_uuid"`
	State       string    `json:"state"`
	AskedAt     time.Time `json:"asked_at"`
}

// factJSON has a fact as the device says it, and in words.
type factJSON struct {
	Path  string          `json:"path"`
	Label string          `json:"label"`
	Text  string          `json:"text"`
	Value json.RawMessage `json:"value"` // null where there is only a text
	originJSON
}

func origin(o inventory.Origin) originJSON {
	return originJSON{o.CommandUUID, timestamp(o.AskedAt), timestamp(o.AnsweredAt)}
}

func (a *API) getInventory(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r, "id")
	if err != nil {
		return err
	}
	in, err := a.inventory.Inventory(r.Context(), mdm.DeviceID(id))
	if err != nil {
		return err
	}
	out := inventoryJSON{DeviceID: id, ManagedOnly: in.ManagedOnly, NextRefreshAt: timestamp(in.NextAt), Sources: make([]sourceJSON, len(in.Reports))}
	for i, report := range in.Reports {
		if out.Sources[i], err = source(report); err != nil {
			return err
		}
	}
	return webui.WriteJSON(w, http.StatusOK, out)
}

func source(report inventory.Report) (sourceJSON, error) {
	out := sourceJSON{Source: string(report.Source), originJSON: origin(report.Answer), Facts: []factJSON{}}
	if f := report.Failure; f != nil {
		out.Failure = &failureJSON{f.Code, f.Reason, f.CommandUUID, f.AskedAt.UTC(), f.At.UTC(), make([]chainedError, len(f.ErrorChain))}
		for i, link := range f.ErrorChain {
			out.Failure.ErrorChain[i] = chainedError(link)
		}
	}
	if e := report.Waiting; e != nil {
		out.Waiting = &waitingJSON{e.UUID, string(e.State), e.CreatedAt.UTC()}
	}
	if report.Source.IsList() {
		out.Count = &report.Count
		return out, nil
	}
	facts, err := report.Readable()
	if err != nil {
		return out, err
	}
	for _, f := range facts {
		raw := f.Raw
		if raw == nil {
			raw = json.RawMessage("null")
		}
		out.Facts = append(out.Facts, factJSON{f.Path, f.Label, f.Value, raw, origin(f.Origin)})
	}
	return out, nil
}

type appJSON struct {
	Identifier         string `json:"identifier"`
	Name               string `json:"name"`
	Version            string `json:"version"`
	ShortVersion       string `json:"short_version"`
	BundleSize         int64  `json:"bundle_size"`
	DynamicSize        int64  `json:"dynamic_size"`
	Path               string `json:"path"`
	Source             string `json:"source"`
	Installed          bool   `json:"installed"`
	Installing         bool   `json:"installing"`
	HasUpdateAvailable bool   `json:"has_update_available"`
	AppStoreVendable   bool   `json:"app_store_vendable"`
	BetaApp            bool   `json:"beta_app"`
	AdHocCodeSigned    bool   `json:"ad_hoc_code_signed"`
	IsAppClip          bool   `json:"is_app_clip"`

	Managed          bool   `json:"managed"`
	ManagedStatus    string `json:"managed_status"` // Apple's word; empty: it is none of this server's
	ManagementFlags  int64  `json:"management_flags"`
	HasConfiguration bool   `json:"has_configuration"`
	HasFeedback      bool   `json:"has_feedback"`
}

func (a *API) listApps(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r, "id")
	if err != nil {
		return err
	}
	apps, _, _, err := a.inventory.Apps(r.Context(), mdm.DeviceID(id))
	if err != nil {
		return err
	}
	return writePart(w, r, apps, func(d inventory.DeviceApp) appJSON {
		out := appJSON{
			Identifier: d.Identifier, Name: d.Name, Version: d.Version, ShortVersion: d.ShortVersion, BundleSize: d.BundleSize, DynamicSize: d.DynamicSize,
			Path: d.Path, Source: d.Source, Installed: d.Installed, Installing: d.Installing, HasUpdateAvailable: d.HasUpdateAvailable,
			AppStoreVendable: d.AppStoreVendable, BetaApp: d.BetaApp, AdHocCodeSigned: d.AdHocCodeSigned, IsAppClip: d.IsAppClip,
		}
		if m := d.Managed; m != nil {
			out.Managed, out.ManagedStatus, out.ManagementFlags = true, m.Status, m.ManagementFlags
			out.HasConfiguration, out.HasFeedback = m.HasConfiguration, m.HasFeedback
		}
		return out
	})
}

type installedProfileJSON struct {
	Identifier         string        `json:"identifier"`
	UUID               string        `json:"uuid"`
	Version            int64         `json:"version"`
	DisplayName        string        `json:"display_name"`
	Organization       string        `json:"organization"`
	Description        string        `json:"description"`
	RemovalDisallowed  bool          `json:"removal_disallowed"`
	HasRemovalPasscode bool          `json:"has_removal_passcode"`
	IsEncrypted        bool          `json:"is_encrypted"`
	IsManaged          *bool         `json:"is_managed"` // null: the platform does not say
	Source             string        `json:"source"`
	Payloads           []payloadJSON `json:"payloads"`
}

type payloadJSON struct {
	Type        string `json:"type"`
	Identifier  string `json:"identifier"`
	UUID        string `json:"uuid"`
	DisplayName string `json:"display_name"`
}

func (a *API) listInstalledProfiles(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r, "id")
	if err != nil {
		return err
	}
	profiles, _, err := a.inventory.Profiles(r.Context(), mdm.DeviceID(id))
	if err != nil {
		return err
	}
	return writePart(w, r, profiles, func(p inventory.InstalledProfile) installedProfileJSON {
		out := installedProfileJSON{
			Identifier: p.Identifier, UUID: p.UUID, Version: p.Version, DisplayName: p.DisplayName, Organization: p.Organization, Description: p.Description,
			RemovalDisallowed: p.RemovalDisallowed, HasRemovalPasscode: p.HasRemovalPasscode, IsEncrypted: p.IsEncrypted, IsManaged: p.IsManaged, Source: p.Source,
			Payloads: make([]payloadJSON, len(p.Payloads)),
		}
		for i, payload := range p.Payloads {
			out.Payloads[i] = payloadJSON(payload)
		}
		return out
	})
}

type installedCertificateJSON struct {
	CommonName string     `json:"common_name"`
	IsIdentity bool       `json:"is_identity"`
	SHA256     string     `json:"sha256"`
	Subject    string     `json:"subject"`
	Issuer     string     `json:"issuer"`
	Serial     string     `json:"serial"`
	NotBefore  *time.Time `json:"not_before"`
	NotAfter   *time.Time `json:"not_after"`
}

func (a *API) listInstalledCertificates(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r, "id")
	if err != nil {
		return err
	}
	certificates, _, err := a.inventory.Certificates(r.Context(), mdm.DeviceID(id))
	if err != nil {
		return err
	}
	return writePart(w, r, certificates, func(c inventory.InstalledCertificate) installedCertificateJSON {
		return installedCertificateJSON{
			c.CommonName, c.IsIdentity, c.SHA256, c.Subject, c.Issuer, c.Serial, timestamp(c.NotBefore), timestamp(c.NotAfter),
		}
	})
}

// writePart answers with a part of a list that is one record. Its cursor is a place in the list:
// an answer of the device in between may shift it.
func writePart[In, Out any](w http.ResponseWriter, r *http.Request, all []In, convert func(In) Out) error {
	cursor, limit, err := pageOf(r)
	if err != nil {
		return err
	}
	from := 0
	if cursor != "" {
		if from, err = strconv.Atoi(cursor); err != nil || from < 1 {
			return storage.ErrBadCursor
		}
	}
	from = min(from, len(all))
	to, next := min(from+limit, len(all)), ""
	if to < len(all) {
		next = strconv.Itoa(to)
	}
	return webui.WriteJSON(w, http.StatusOK, newPage(all[from:to], next, convert))
}

type inventoryChangeJSON struct {
	At          time.Time       `json:"at"`
	Source      string          `json:"source"`
	CommandUUID string          `json:"command_uuid"`
	Kind        string          `json:"kind"`
	Path        string          `json:"path"`
	Label       string          `json:"label"`
	Old         json.RawMessage `json:"old"` // null for what was added
	New         json.RawMessage `json:"new"` // null for what was removed
	Summary     string          `json:"summary"`
}

func (a *API) listChanges(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r, "id")
	if err != nil {
		return err
	}
	cursor, limit, err := pageOf(r)
	if err != nil {
		return err
	}
	changes, next, err := a.inventory.History(r.Context(), mdm.DeviceID(id), cursor, limit)
	if err != nil {
		return err
	}
	return webui.WriteJSON(w, http.StatusOK, newPage(changes, next, func(c inventory.Change) inventoryChangeJSON {
		words := c.Words()
		out := inventoryChangeJSON{
			At: c.At.UTC(), Source: string(c.Source), CommandUUID: c.CommandUUID, Kind: string(c.Kind), Path: c.Path,
			Label: words.Label, Old: c.Old, New: c.New, Summary: words.Summary,
		}
		for _, v := range []*json.RawMessage{&out.Old, &out.New} {
			if *v == nil {
				*v = json.RawMessage("null")
			}
		}
		return out
	}))
}

type refreshRequest struct {
	Sources []string `json:"sources"` // none: all that make sense
}

type refreshManyRequest struct {
	DeviceIDs []string `json:"device_ids"`
	GroupID   string   `json:"group_id"`
	Sources   []string `json:"sources"`
}

type refreshedJSON struct {
	DeviceID string        `json:"device_id"`
	Queued   []askedJSON   `json:"queued"`
	Waiting  []askedJSON   `json:"waiting"`
	LeftOut  []leftOutJSON `json:"left_out"`
	Code     string        `json:"code"` // empty unless the device can't be asked at all
	Reason   string        `json:"reason"`
}

type askedJSON struct {
	Source      string `json:"source"`
	CommandUUID string `json:"command_uuid"`
}

type leftOutJSON struct {
	Source string `json:"source"`
	Code   string `json:"code"`
	Reason string `json:"reason"`
}

func refreshed(o inventory.Outcome) refreshedJSON {
	out := refreshedJSON{DeviceID: string(o.DeviceID), Queued: []askedJSON{}, Waiting: []askedJSON{}, LeftOut: []leftOutJSON{}, Code: o.Code, Reason: o.Reason}
	for _, q := range o.Queued {
		out.Queued = append(out.Queued, askedJSON{string(q.Source), q.CommandUUID})
	}
	for _, q := range o.Waiting {
		out.Waiting = append(out.Waiting, askedJSON{string(q.Source), q.CommandUUID})
	}
	for _, l := range o.LeftOut {
		out.LeftOut = append(out.LeftOut, leftOutJSON{string(l.Source), l.Code, l.Reason})
	}
	return out
}

// sourcesOf checks the names of sources, and leaves out repeated ones.
func sourcesOf(names []string) (sources []inventory.Source, err error) {
	for i, name := range names {
		if !inventory.IsSource(name) {
			return nil, invalid(fmt.Sprintf("sources[%d]", i), fmt.Sprintf("must be one of %v", inventory.Sources()))
		}
		if !slices.Contains(sources, inventory.Source(name)) {
			sources = append(sources, inventory.Source(name))
		}
	}
	return sources, nil
}

func (a *API) refreshDevice(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r, "id")
	if err != nil {
		return err
	}
	var in refreshRequest
	if _, err := readJSON(r, &in); err != nil {
		return err
	}
	sources, err := sourcesOf(in.Sources)
	if err != nil {
		return err
	}
	outcomes, err := a.inventory.Refresh(r.Context(), principal(r).String(), []mdm.DeviceID{mdm.DeviceID(id)}, sources)
	if err != nil {
		return err
	}
	switch outcomes[0].Code {
	case "":
		return webui.WriteJSON(w, http.StatusAccepted, refreshed(outcomes[0]))
	case "not_found":
		return storage.ErrNotFound
	}
	return mdm.ErrNotEnrolled
}

func (a *API) refreshDevices(w http.ResponseWriter, r *http.Request) error {
	var in refreshManyRequest
	if _, err := readJSON(r, &in); err != nil {
		return err
	}
	targets, outside, err := a.chosen(r, in.DeviceIDs, in.GroupID)
	if err != nil {
		return err
	}
	sources, err := sourcesOf(in.Sources)
	if err != nil {
		return err
	}
	outcomes, err := a.inventory.Refresh(r.Context(), principal(r).String(), targets, sources)
	if err != nil {
		return err
	}
	for _, no := range outside {
		outcomes = append(outcomes, inventory.Outcome{DeviceID: no.DeviceID, Code: no.Code, Reason: no.Reason})
	}
	return webui.WriteJSON(w, http.StatusAccepted, newPage(outcomes, "", refreshed))
}
