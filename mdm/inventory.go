package mdm

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/gatehouse-mdm/gatehouse/storage"
)

const (
	attributeBucket = "device_attributes"
	maxAttributes   = 1 << 20 // bytes of JSON that are kept; a whole answer has some 10 KB
)

// personalQueries are answers to DeviceInformation that Apple does not give a
// User Enrollment's server. Should a device send them nevertheless, they are not kept.
var personalQueries = []string{
	"UDID", "SerialNumber", "IMEI", "MEID", "PhoneNumber", "ICCID", "WiFiMAC", "BluetoothMAC", "EthernetMAC",
	"ServiceSubscriptions", "iTunesStoreAccountIsActive", "iTunesStoreAccountHash", "IsActivationLockEnabled",
}

// LearnInformation updates a device's record from an acknowledged
// DeviceInformation, whose decoded answer is result. An answer that can't be
// understood teaches nothing: it is no error, since the device would send it for ever.
func LearnInformation(tx storage.Tx, d *Device, result json.RawMessage) error {
	var answer struct {
		QueryResponses map[string]any
	}
	if json.Unmarshal(result, &answer) != nil || len(answer.QueryResponses) == 0 {
		return nil
	}
	facts := answer.QueryResponses
	if d.EnrollmentID != "" {
		for _, name := range personalQueries {
			delete(facts, name)
		}
	}
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
