package apiv1

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/command"
	"github.com/gatehouse-mdm/gatehouse/mdm/wake"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/webui"
)

type deviceJSON struct {
	ID                  string          `json:"id"`
	EnrollmentType      string          `json:"enrollment_type"`
	Ownership           string          `json:"ownership"`
	State               string          `json:"state"`
	UDID                string          `json:"udid"`
	EnrollmentID        string          `json:"enrollment_id"`
	ParentID            string          `json:"parent_id"`
	SerialNumber        string          `json:"serial_number"`
	DeviceName          string          `json:"device_name"`
	Model               string          `json:"model"`
	ModelName           string          `json:"model_name"` // as it is sold
	Platform            string          `json:"platform"`   // empty: not known
	OSVersion           string          `json:"os_version"`
	Supervised          *bool           `json:"supervised"` // null: not known
	User                string          `json:"user"`
	UserShortName       string          `json:"user_short_name"` // of a user channel
	UserLongName        string          `json:"user_long_name"`  // of a user channel
	ManagedAppleAccount string          `json:"managed_apple_account"`
	EnrollmentMode      *string         `json:"enrollment_mode"` // Apple's word; null: not by account
	EnrolledAt          *time.Time      `json:"enrolled_at"`
	LastSeenAt          *time.Time      `json:"last_seen_at"`
	PendingCommands     int             `json:"pending_commands"`
	Attributes          map[string]any  `json:"attributes"` // empty in lists
	Identity            *identityJSON   `json:"identity"`   // null in lists, and where there is none
	LostReportedAt      *time.Time      `json:"lost_reported_at"`
	LostNote            string          `json:"lost_note"`
	Push                *pushJSON       `json:"push"`
	WaitingFor          *waitsForJSON   `json:"waiting_for"`         // why its next command is pending; null: it has none
	SignInRequiredAt    *time.Time      `json:"sign_in_required_at"` // null: it gets its commands
	Demo                bool            `json:"demo"`
	Note                *deviceNoteJSON `json:"note"` // null in lists, and where there is none
}

type deviceNoteJSON struct {
	Text string    `json:"text"`
	By   string    `json:"by"`
	At   time.Time `json:"at"`
}

func device(o mdm.Overview) deviceJSON {
	out := deviceJSON{
		ID: string(o.ID), EnrollmentType: string(o.Type), Ownership: string(o.Ownership), State: string(o.State),
		UDID: o.UDID, EnrollmentID: o.EnrollmentID, ParentID: string(o.ParentID),
		SerialNumber: o.SerialNumber, DeviceName: o.DeviceName, Model: cmp.Or(o.Model, o.ProductName), ModelName: o.ModelName,
		Platform: string(command.PlatformOf(cmp.Or(o.ProductName, o.Model))), OSVersion: o.OSVersion, Supervised: o.Supervised,
		User: o.User, UserShortName: o.UserShortName, UserLongName: o.UserLongName, ManagedAppleAccount: o.ManagedAppleAccount, EnrollmentMode: enrollmentMode(o.EnrollmentMode),
		EnrolledAt: timestamp(o.EnrolledAt), LastSeenAt: timestamp(o.LastSeenAt),
		PendingCommands: o.PendingCommands, Attributes: o.Attributes,
		SignInRequiredAt: timestamp(o.SignInRequiredAt), Demo: o.Demo,
	}
	if out.Attributes == nil {
		out.Attributes = map[string]any{}
	}
	return out
}

func enrollmentMode(m string) *string {
	if m == "" {
		return nil
	}
	return &m
}

func (d *deviceJSON) lost(l enroll.Lost) { d.LostReportedAt, d.LostNote = timestamp(l.At), l.Note }

func (a *API) getDevice(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r, "id")
	if err != nil {
		return err
	}
	return a.writeDevice(w, r, http.StatusOK, mdm.DeviceID(id))
}

func (a *API) writeDevice(w http.ResponseWriter, r *http.Request, status int, id mdm.DeviceID) error {
	o, err := a.mdm.Device(r.Context(), id)
	if err != nil {
		return err
	}
	out := device(o)
	err = a.db.View(r.Context(), func(tx storage.Tx) (err error) {
		tx.Prefetch(mdm.ReadWakeup(id), wake.ReadSettings(), mdm.ReadNote(id))
		if out.Push, err = a.pushOf(tx, o); err != nil {
			return err
		}
		note, err := mdm.GetNote(tx, id)
		if err != nil {
			return err
		}
		if out.Note = nil; note.Text != "" {
			out.Note = &deviceNoteJSON{note.Text, note.By, note.At.UTC()}
		}
		out.Identity, err = a.identityOf(tx, o.Device)
		return err
	})
	if err != nil {
		return err
	}
	lost, err := a.enroll.LostDevices(r.Context(), id)
	if err != nil {
		return err
	}
	out.lost(lost[id])
	waits, err := a.mdm.FirstWaits(r.Context(), []mdm.DeviceID{id})
	if err != nil {
		return err
	}
	out.waits(waits)
	return webui.WriteJSON(w, status, out)
}

// waits says why the device's next command is pending.
func (d *deviceJSON) waits(all map[mdm.DeviceID]mdm.Waiting) {
	if w, ok := all[mdm.DeviceID(d.ID)]; ok {
		d.WaitingFor = &waitsForJSON{w.Code, w.Reason}
	}
}

type deviceChange struct {
	Note *string `json:"note"` // nil: it stays
}

// updateDevice changes what administrators say of a device.
func (a *API) updateDevice(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r, "id")
	if err != nil {
		return err
	}
	var in deviceChange
	if _, err := readJSON(r, &in); err != nil {
		return err
	}
	if in.Note != nil {
		err := a.mdm.SetNote(r.Context(), principal(r).String(), mdm.DeviceID(id), *in.Note)
		if errors.Is(err, mdm.ErrBadNote) {
			return invalid("note", fmt.Sprintf("must be text of at most %d bytes", mdm.MaxNote))
		}
		if err != nil {
			return err
		}
	}
	return a.writeDevice(w, r, http.StatusOK, mdm.DeviceID(id))
}

func (a *API) unenrollDevice(w http.ResponseWriter, r *http.Request) error {
	return a.endEnrollment(w, r, a.enroll.Unenroll)
}

func (a *API) blockDevice(w http.ResponseWriter, r *http.Request) error {
	return a.endEnrollment(w, r, a.enroll.Block)
}

func (a *API) unblockDevice(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r, "id")
	if err != nil {
		return err
	}
	if _, err := a.enroll.Unblock(r.Context(), mdm.DeviceID(id)); err != nil {
		return err
	}
	return a.writeDevice(w, r, http.StatusOK, mdm.DeviceID(id))
}

// deleteDevice deletes the record of a device that has left.
func (a *API) deleteDevice(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r, "id")
	if err != nil {
		return err
	}
	if err := a.enroll.Delete(r.Context(), mdm.DeviceID(id)); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

type mergeJSON struct {
	DeviceID string `json:"device_id"` // the record that goes
}

// mergeDevice takes what was kept of a former enrollment of the device.
func (a *API) mergeDevice(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r, "id")
	if err != nil {
		return err
	}
	var in mergeJSON
	if _, err := readJSON(r, &in); err != nil {
		return err
	}
	if in.DeviceID == "" {
		return invalid("device_id", "is missing: the id of the record that is to be merged into this one")
	}
	if err := a.enroll.Merge(r.Context(), mdm.DeviceID(in.DeviceID), mdm.DeviceID(id)); err != nil {
		return err
	}
	return a.writeDevice(w, r, http.StatusOK, mdm.DeviceID(id))
}

// foundDevice takes back the report that a device is lost.
func (a *API) foundDevice(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r, "id")
	if err != nil {
		return err
	}
	if err := a.enroll.Found(r.Context(), mdm.DeviceID(id)); err != nil {
		return err
	}
	return a.writeDevice(w, r, http.StatusOK, mdm.DeviceID(id))
}

// endEnrollment answers 202: the device learns of it when it next calls.
func (a *API) endEnrollment(w http.ResponseWriter, r *http.Request, end func(context.Context, mdm.DeviceID) (mdm.Device, error)) error {
	id, err := pathID(r, "id")
	if err != nil {
		return err
	}
	if _, err := end(r.Context(), mdm.DeviceID(id)); err != nil {
		return err
	}
	return a.writeDevice(w, r, http.StatusAccepted, mdm.DeviceID(id))
}
