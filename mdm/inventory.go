package mdm

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/gatehouse-mdm/gatehouse/mdm/command"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

const (
	attributeBucket = "device_attributes"
	maxAttributes   = 1 << 20 // bytes of JSON that are kept; a whole answer has some 10 KB
)

// LearnInformation updates a device's record from an acknowledged
// DeviceInformation, whose decoded answer is result. An answer that can't be
// understood teaches nothing: it is no error, since the device would send it for ever.
func LearnInformation(tx storage.Tx, d *Device, result json.RawMessage) error {
	if d.userEnrolled() {
		var err error
		if result, err = command.WithoutPersonal("DeviceInformation", d.eligibility().target.Platform, result); err != nil {
			return nil
		}
	}
	var answer struct {
		QueryResponses map[string]any
	}
	if json.Unmarshal(result, &answer) != nil || len(answer.QueryResponses) == 0 {
		return nil
	}
	facts := answer.QueryResponses
	learn := func(to *string, name string) {
		if v, ok := facts[name].(string); ok && v != "" {
			*to = Clamp(v)
		}
	}
	learn(&d.DeviceName, "DeviceName")
	learn(&d.Model, "Model")
	learn(&d.ModelName, "ModelName")
	learn(&d.ProductName, "ProductName")
	learn(&d.OSVersion, "OSVersion")
	learn(&d.BuildVersion, "BuildVersion")
	learn(&d.SerialNumber, "SerialNumber")
	learn(&d.IMEI, "IMEI")
	learn(&d.MEID, "MEID")
	if v, ok := facts["IsSupervised"].(bool); ok {
		d.Supervised = &v
	}

	known, err := attributes(tx, d.ID)
	if err != nil {
		return err
	}
	if known == nil {
		known = make(map[string]any, len(facts))
	}
	for name, v := range facts { // queries that were not asked this time keep their last answer
		known[name] = v
	}
	b, err := json.Marshal(known)
	if err != nil {
		return fmt.Errorf("attributes of %s: %w", d.ID, err)
	}
	if len(b) <= maxAttributes {
		if err := tx.Put(attributeBucket, []byte(d.ID), b); err != nil {
			return fmt.Errorf("attributes of %s: %w", d.ID, err)
		}
	}
	return PutDevice(tx, *d)
}

// withoutPersonal returns d as it may be kept: the facts of a User Enrollment name no device.
func (d Device) withoutPersonal() Device {
	if d.userEnrolled() {
		d.SerialNumber, d.IMEI, d.MEID = "", "", ""
		if d.EnrollmentID != "" {
			d.UDID = ""
		}
	}
	return d
}

// impersonal returns the answer in e, which a User Enrollment gave, without what Apple
// keeps from its server.
func impersonal(tx storage.Tx, e Entry) (json.RawMessage, error) {
	about, err := getEligibility(tx, e.DeviceID)
	if err != nil && !errors.Is(err, storage.ErrNotFound) {
		return nil, err
	}
	kept, err := command.WithoutPersonal(e.RequestType, about.target.Platform, e.Result)
	if err != nil {
		return nil, nil // none that can be read, so none to keep
	}
	return kept, nil
}

// maxFact bounds each text of [Facts], in bytes.
const maxFact = 255

// Clamp cuts what a device says of itself to a length that a page and a log line
// can bear.
func Clamp(v string) string {
	if len(v) > maxFact {
		v = v[:maxFact]
	}
	return strings.ToValidUTF8(v, "")
}

// ForgetAttributes deletes what a device answered to DeviceInformation.
func ForgetAttributes(tx storage.Tx, id DeviceID) error {
	if err := tx.Delete(attributeBucket, []byte(id)); err != nil {
		return fmt.Errorf("attributes of %s: %w", id, err)
	}
	return nil
}

func attributes(tx storage.Tx, id DeviceID) (map[string]any, error) {
	b, err := tx.Get(attributeBucket, []byte(id))
	if errors.Is(err, storage.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("attributes of %s: %w", id, err)
	}
	var m map[string]any
	if err := json.Unmarshal(b, &m); err != nil {
		return nil, fmt.Errorf("attributes of %s: %w: %w", id, storage.ErrCorrupt, err)
	}
	return m, nil
}

// TextAttributes returns those attributes of a device that are text, by their names.
func (s *Service) TextAttributes(tx storage.Tx, id DeviceID) (map[string]string, error) {
	all, err := attributes(tx, id)
	if err != nil {
		return nil, err
	}
	texts := make(map[string]string, len(all))
	for name, value := range all {
		if text, ok := value.(string); ok {
			texts[name] = text
		}
	}
	return texts, nil
}
