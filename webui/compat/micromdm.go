package compat

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

// readJSON decodes a body as MicroMDM does: keys that it does not know are passed over.
func readJSON(r *http.Request, into any) error {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return fmt.Errorf("read body: %w", err)
	}
	if err := json.Unmarshal(body, into); err != nil {
		return badJSON(err)
	}
	return nil
}

func badJSON(err error) error {
	text := "the body is not JSON"
	if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		text = wrong.Field + " can't be a JSON " + wrong.Value
	}
	return &refusal{http.StatusBadRequest, text}
}

// deviceJSON is a device in MicroMDM's list.
type deviceJSON struct {
	SerialNumber     string    `json:"serial_number"`
	UDID             string    `json:"udid"` // of a User Enrollment, its EnrollmentID
	EnrollmentStatus bool      `json:"enrollment_status"`
	LastSeen         time.Time `json:"last_seen"`          // 0001-01-01T00:00:00Z: never
	DEPProfileStatus string    `json:"dep_profile_status"` // always empty: nothing of Apple's is asked about it
}

// devicesChunk is how many devices are read in one transaction.
const devicesChunk = 1000

// listDevices lists all devices or those that the filters name. Like MicroMDM's it does so in
// one answer, whatever page and per_page are.
func (c *Compat) listDevices(w http.ResponseWriter, r *http.Request) error {
	var in struct {
		FilterSerial []string `json:"filter_serial"`
		FilterUDID   []string `json:"filter_udid"`
	}
	if err := readJSON(r, &in); err != nil {
		return err
	}
	out := struct {
		Devices []deviceJSON `json:"devices"`
	}{[]deviceJSON{}}
	for cursor, more := "", true; more; more = cursor != "" {
		var chunk []deviceJSON
		err := c.DB.View(r.Context(), func(tx storage.Tx) error {
			all, next, err := mdm.PageDevices(tx, cursor, devicesChunk)
			if err != nil {
				return err
			}
			chunk = chunk[:0]
			reads := make([]storage.Read, len(all))
			for i, d := range all {
				reads[i] = mdm.ReadLastSeen(d.ID)
			}
			tx.Prefetch(reads...)
			for _, d := range all {
				if d.ParentID != "" || !listed(in.FilterSerial, d.SerialNumber) || !listed(in.FilterUDID, nameOf(d)) {
					continue
				}
				seen, err := c.MDM.LastSeen(tx, d.ID)
				if err != nil {
					return err
				}
				chunk = append(chunk, deviceJSON{SerialNumber: d.SerialNumber, UDID: nameOf(d), EnrollmentStatus: d.Live(), LastSeen: seen.UTC()})
			}
			cursor = next
			return nil
		})
		if err != nil {
			return err
		}
		out.Devices = append(out.Devices, chunk...)
	}
	return writeMicro(w, http.StatusOK, out)
}

// listed says that a filter lets name pass: an empty one lets everything.
func listed(filter []string, name string) bool {
	return len(filter) == 0 || slices.Contains(filter, name)
}

// device returns the enrollment in the path.
func (c *Compat) device(r *http.Request) (d mdm.Device, err error) {
	name := r.PathValue("udid")
	err = c.DB.View(r.Context(), func(tx storage.Tx) error {
		tx.Prefetch(readNamed([]string{name})...)
		d, err = named(tx, name)
		return err
	})
	return d, aboutDevice(name, err)
}

// aboutDevice is err as a client is told that names a device.
func aboutDevice(name string, err error) error {
	switch {
	case errors.Is(err, storage.ErrNotFound):
		return &refusal{http.StatusNotFound, "no device has the udid " + clip(name)}
	case errors.Is(err, errAmbiguous):
		return &refusal{http.StatusConflict, "two enrollments go by the id " + clip(name)}
	}
	return err
}

// pushMicro pushes to one device. That the push shall not be kept longer than until
// ?expiration= is MicroMDM's; here it is kept as all others are.
func (c *Compat) pushMicro(w http.ResponseWriter, r *http.Request) error {
	if at := r.URL.Query().Get("expiration"); at != "" {
		if _, err := strconv.ParseInt(at, 10, 64); err != nil {
			return &refusal{http.StatusBadRequest, "parsing expiration time: it must be in seconds since 1970"}
		}
	}
	d, err := c.device(r)
	if err != nil {
		return err
	}
	pushed, err := c.Push.PushNow(r.Context(), []mdm.DeviceID{d.ID})
	if err != nil {
		return err
	}
	if why := pushError(pushed[0]); why != "" {
		return &refusal{http.StatusInternalServerError, why}
	}
	return writeMicro(w, http.StatusOK, struct {
		Status string `json:"status"`
		ID     string `json:"push_notification_id,omitempty"`
	}{"success", pushed[0].Result.APNsID})
}

// blockDevice ends the enrollment of a device, and lets it not come back.
func (c *Compat) blockDevice(w http.ResponseWriter, r *http.Request) error {
	d, err := c.device(r)
	if err != nil {
		return err
	}
	if _, err := c.Enroll.Block(r.Context(), d.ID); err != nil && !errors.Is(err, mdm.ErrBlocked) {
		return err
	}
	return writeMicro(w, http.StatusOK, struct{}{})
}

// unblockDevice lets a device come back.
func (c *Compat) unblockDevice(w http.ResponseWriter, r *http.Request) error {
	d, err := c.device(r)
	if err != nil {
		return err
	}
	if _, err := c.Enroll.Unblock(r.Context(), d.ID); err != nil {
		return err
	}
	return writeMicro(w, http.StatusOK, struct{}{})
}
