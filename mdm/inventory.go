package mdm

import (
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"strings"

	"github.com/gatehouse-mdm/gatehouse/mdm/command"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

const (
	attributeBucket = "device_attributes"
	maxAttributes   = 1 << 20 // bytes of JSON that are kept; a whole answer has some 10 KB
)

// ErrTooLarge means that a device has said more of itself than is kept.
var ErrTooLarge = errors.New("the answers are larger than what is kept")

// LearnInformation updates a device's record from an acknowledged
// DeviceInformation, whose decoded answer is result. An answer that can't be
// understood teaches nothing: it is no error, since the device would send it for ever.
// The error wraps ErrTooLarge where the answers are not kept; the record is written then.
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
	learnMaybe(&d.Supervised, facts, "IsSupervised")
	learnMaybe(&d.SharedIPad, facts, "IsMultiUser")
	if err := PutDevice(tx, *d); err != nil {
		return err
	}

	known, err := Attributes(tx, d.ID)
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
	if len(b) > maxAttributes {
		return fmt.Errorf("attributes of %s: %w: %d bytes", d.ID, ErrTooLarge, len(b))
	}
	if err := tx.Put(attributeBucket, []byte(d.ID), b); err != nil {
		return fmt.Errorf("attributes of %s: %w", d.ID, err)
	}
	return nil
}

// LearnSecurity updates a device's record from an acknowledged SecurityInfo, whose decoded
// answer is result: what a command may depend on.
func LearnSecurity(tx storage.Tx, d *Device, result json.RawMessage) error {
	var answer struct {
		SecurityInfo struct {
			ManagementStatus map[string]any
		}
	}
	if json.Unmarshal(result, &answer) != nil || len(answer.SecurityInfo.ManagementStatus) == 0 {
		return nil
	}
	status := answer.SecurityInfo.ManagementStatus
	learnMaybe(&d.UserApproved, status, "UserApprovedEnrollment")
	learnMaybe(&d.EnrolledViaDEP, status, "EnrolledViaDEP")
	return PutDevice(tx, *d)
}

func learnMaybe(to **bool, facts map[string]any, name string) {
	if v, ok := facts[name].(bool); ok {
		*to = &v
	}
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

// UserEnrolled holds for a User Enrollment and the user channels of one.
func (d Device) UserEnrolled() bool { return d.userEnrolled() }

// Screen takes out of the answer in e, which a User Enrollment gave, what is not to be kept
// of it. Nothing left is nil.
type Screen func(tx storage.Tx, e Entry) (json.RawMessage, error)

// Screen adds a screen, through which answers pass before they are recorded. It is for the
// time before the server serves.
func (s *Service) Screen(f Screen) { s.screens = append(s.screens, f) }

// impersonal returns the answer in e, which a User Enrollment gave, without what Apple
// keeps from its server, and without what the screens take out.
func (s *Service) impersonal(tx storage.Tx, e Entry) (json.RawMessage, error) {
	about, err := getEligibility(tx, e.DeviceID)
	if err != nil && !errors.Is(err, storage.ErrNotFound) {
		return nil, err
	}
	if e.Result, err = command.WithoutPersonal(e.RequestType, about.target.Platform, e.Result); err != nil {
		return nil, nil // none that can be read, so none to keep
	}
	for _, screen := range s.screens {
		if e.Result == nil {
			break
		}
		if e.Result, err = screen(tx, e); err != nil {
			return nil, fmt.Errorf("screen the answer to %s of %s: %w", e.UUID, e.DeviceID, err)
		}
	}
	return e.Result, nil
}

// PendingCommands yields the queue of a device in the order in which it gets its commands.
func PendingCommands(tx storage.Tx, id DeviceID) iter.Seq2[Entry, error] { return pending(tx, id) }

// Asked returns the Command dictionary of the command that e is of, as [command.Params] reads
// it, without what is the device's own.
func (s *Service) Asked(tx storage.Tx, e Entry) (map[string]any, error) {
	sealed, err := tx.Get(payloadBucket, []byte(e.UUID))
	if err != nil {
		return nil, fmt.Errorf("payload of command %s: %w", e.UUID, err)
	}
	plist, err := s.box.Open(payloadPurpose(e.UUID), sealed)
	if err != nil {
		return nil, fmt.Errorf("payload of command %s: %w", e.UUID, err)
	}
	return command.Params(plist)
}

// ForgetResult deletes the answer from the history of a device, where it is kept elsewhere: e
// is final.
func ForgetResult(tx storage.Tx, e Entry) error {
	e.Result = nil
	return KeepResult(tx, e)
}

// KeepResult puts the answer in e, which is final, into the history of its device, in the place
// of the one that is there.
func KeepResult(tx storage.Tx, e Entry) error {
	if err := history.Put(tx, e); err != nil {
		return fmt.Errorf("answer to %s of %s: %w", e.UUID, e.DeviceID, err)
	}
	return nil
}

// ForgetCommand deletes a command and what became of it, earlier than the sweep would. One
// that is not there is no error.
func (s *Service) ForgetCommand(tx storage.Tx, uuid string) error {
	c, err := commands.Get(tx, uuid)
	if errors.Is(err, storage.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := s.deleteCommand(tx, c); err != nil {
		return fmt.Errorf("forget command %s: %w", uuid, err)
	}
	return nil
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

// ReadAttributes is what [storage.Tx.Prefetch] takes for Attributes.
func ReadAttributes(id DeviceID) storage.Read {
	return storage.Read{Bucket: attributeBucket, Key: []byte(id)}
}

// ForgetAttributes deletes what a device answered to DeviceInformation.
func ForgetAttributes(tx storage.Tx, id DeviceID) error {
	if err := tx.Delete(attributeBucket, []byte(id)); err != nil {
		return fmt.Errorf("attributes of %s: %w", id, err)
	}
	return nil
}

// Attributes returns what a device answered to DeviceInformation, by the names of the queries;
// nil: nothing so far.
func Attributes(tx storage.Tx, id DeviceID) (map[string]any, error) {
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
	all, err := Attributes(tx, id)
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
