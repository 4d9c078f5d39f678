package mdm

import (
	"errors"
	"fmt"
	"iter"
	"strings"
	"time"

	"github.com/gatehouse-mdm/gatehouse/storage"
)

// DeviceID is our own name for an enrollment: a device, or a user channel of
// one. It is random, and stays the same when the device enrolls again.
type DeviceID string

// EnrollmentType says in which of Apple's ways an enrollment came about.
type EnrollmentType string

// The enrollment types.
const (
	TypeDevice        EnrollmentType = "device"         // by profile; the device says its UDID
	TypeUser          EnrollmentType = "user"           // User Enrollment; only an EnrollmentID
	TypeAccountDevice EnrollmentType = "account_device" // account-driven Device Enrollment
	TypeUserChannel   EnrollmentType = "user_channel"   // a user of an enrolled Mac or Shared iPad
)

// Ownership says whose device it is.
type Ownership string

// The ownerships.
const (
	Institutional Ownership = "institutional"
	Personal      Ownership = "personal"
)

// State is where an enrollment stands.
type State string

// The states. An enrollment goes pending → enrolled → unenrolled and may begin
// again; blocked is left only by an administrator.
const (
	Pending    State = "pending"    // authenticated; no push token seen yet
	Enrolled   State = "enrolled"   // takes commands
	Unenrolled State = "unenrolled" // left, or was removed
	Blocked    State = "blocked"    // removed, and may not come back
)

// Errors that callers act on.
var (
	ErrNotEnrolled = errors.New("the device is not enrolled")
	ErrBlocked     = errors.New("the device is blocked")
)

// AppleID is what a device calls itself, in one namespace each: a UDID is never
// mistaken for an EnrollmentID, nor a device for a user of another one.
type AppleID struct {
	UDID         string `json:"udid,omitempty"`
	EnrollmentID string `json:"enrollment_id,omitempty"` // User Enrollment, instead of a UDID
	UserID       string `json:"user_id,omitempty"`       // user channel; for a Shared iPad the Managed Apple Account
}

// key is the value of the unique index by which an AppleID finds its device.
func (a AppleID) key() string {
	switch {
	case a.UDID != "":
		return string(storage.Key("udid", a.UDID, a.UserID))
	case a.EnrollmentID != "":
		return string(storage.Key("enrollment", a.EnrollmentID, a.UserID))
	}
	return ""
}

// Device returns the AppleID of the device channel that a user channel belongs to.
func (a AppleID) Device() AppleID {
	a.UserID = ""
	return a
}

// maxUserID bounds a UserID, which may be a Managed Apple Account and so is
// freer in its form than a UDID.
const maxUserID = 255

// Validate checks the grammar of identifiers that a device sends: exactly one
// of UDID and EnrollmentID, of letters, digits and dashes. Apple calls a UDID
// opaque, but anything else would let one device name another's records.
func (a AppleID) Validate() error {
	switch {
	case a.UDID != "" && a.EnrollmentID != "":
		return errors.New("both UDID and EnrollmentID are present")
	case a.UDID != "":
		if !plainID(a.UDID) {
			return errors.New("UDID must be 1 to 64 letters, digits and dashes")
		}
	case a.EnrollmentID != "":
		if !plainID(a.EnrollmentID) {
			return errors.New("EnrollmentID must be 1 to 64 letters, digits and dashes")
		}
	default:
		return errors.New("neither UDID nor EnrollmentID is present")
	}
	if len(a.UserID) > maxUserID {
		return fmt.Errorf("UserID is longer than %d bytes", maxUserID)
	}
	for _, r := range a.UserID {
		if r < 0x20 || r == 0x7f {
			return errors.New("UserID holds a control character")
		}
	}
	return nil
}

func plainID(s string) bool {
	if len(s) == 0 || len(s) > 64 {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if !('0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || c == '-') {
			return false
		}
	}
	return true
}

// Device is one enrollment, as the server last heard of it: a device, or a user
// channel with its device in ParentID.
type Device struct {
	ID       DeviceID       `json:"id"`
	ParentID DeviceID       `json:"parent_id,omitempty"` // of a user channel
	Type     EnrollmentType `json:"type"`
	State    State          `json:"state"`
	AppleID

	Ownership           Ownership `json:"ownership,omitempty"`
	User                string    `json:"user,omitempty"` // login or e-mail of the person who enrolled it
	ManagedAppleAccount string    `json:"managed_apple_account,omitempty"`
	AttemptID           string    `json:"attempt_id,omitempty"` // the enrollment attempt that led here
	Demo                bool      `json:"demo,omitempty"`       // simulated, in this server's own demo
	Topic               string    `json:"topic,omitempty"`      // push topic in its profile: must not change with a renewal
	AccessRights        int       `json:"access_rights,omitempty"`

	// Of an account-driven enrollment, as its profile says them for good: EnrollmentMode is
	// Apple's word, "BYOD" or "ADDE", and empty for one by profile.
	EnrollmentMode string `json:"enrollment_mode,omitempty"`
	RequiredAppID  int64  `json:"required_app_id,omitempty"`
	// ShowsToken says that its platform shows the user's access token on the device channel,
	// as it was when it enrolled: what it says of itself later changes nothing.
	ShowsToken bool `json:"shows_token,omitempty"`
	// SignInRequiredAt is since when its user must sign in again before it gets any command.
	SignInRequiredAt time.Time `json:"sign_in_required_at,omitzero"`

	Facts

	// Identity is the fingerprint of the certificate that speaks for the device.
	Identity string   `json:"identity,omitempty"`
	Renewal  *Renewal `json:"renewal,omitempty"` // while its replacement is under way
	Push     *Push    `json:"push,omitempty"`    // nil until the first TokenUpdate
	// RenewalFailedAt is when the last renewal began that came to nothing.
	RenewalFailedAt time.Time `json:"renewal_failed_at,omitzero"`

	TokenUpdates int `json:"token_updates,omitempty"` // in this enrollment

	CreatedAt       time.Time `json:"created_at"`
	AuthenticatedAt time.Time `json:"authenticated_at,omitzero"`
	EnrolledAt      time.Time `json:"enrolled_at,omitzero"`
	UnenrolledAt    time.Time `json:"unenrolled_at,omitzero"`
}

// Facts are what a device tells of itself at Authenticate, and corrects with
// each DeviceInformation. A User Enrollment tells no serial number.
type Facts struct {
	SerialNumber  string `json:"serial_number,omitempty"`
	DeviceName    string `json:"device_name,omitempty"`
	Model         string `json:"model,omitempty"`
	ModelName     string `json:"model_name,omitempty"`
	ProductName   string `json:"product_name,omitempty"`
	OSVersion     string `json:"os_version,omitempty"`
	BuildVersion  string `json:"build_version,omitempty"`
	IMEI          string `json:"imei,omitempty"`
	MEID          string `json:"meid,omitempty"`
	UserShortName string `json:"user_short_name,omitempty"` // of a user channel
	UserLongName  string `json:"user_long_name,omitempty"`  // of a user channel
	Supervised    *bool  `json:"supervised,omitempty"`      // nil until asked

	// SharedIPad, UserApproved and EnrolledViaDEP are nil until asked, too: of an iPad whether
	// it is shared, of a Mac whether its user has approved the enrollment, and whether
	// Automated Device Enrollment brought it.
	SharedIPad     *bool `json:"shared_ipad,omitempty"`
	UserApproved   *bool `json:"user_approved,omitempty"`
	EnrolledViaDEP *bool `json:"enrolled_via_dep,omitempty"`
}

// Push is where Apple's push service finds an enrollment.
type Push struct {
	Topic string `json:"topic"`
	Token []byte `json:"token"` // binary, of no fixed length
	Magic string `json:"magic"`
	// SignedAt is the signing time of the TokenUpdate that brought it, zero if it
	// told none: an older message sent again must not bring an old token back.
	SignedAt time.Time `json:"signed_at,omitzero"`
	// ToldAt is when the server heard of the token: what Apple says of it is true only if it
	// is about a later time.
	ToldAt time.Time `json:"told_at,omitzero"`
	// DeadAt is since when Apple knows the token to be of no device: until the next
	// TokenUpdate nobody pushes to it.
	DeadAt time.Time `json:"dead_at,omitzero"`
}

// Renewal is the replacement of a device's identity certificate. It commits
// late: Device.Identity stays in force until TokenUpdated and Acknowledged are
// both true, because only both together prove that the device kept the new one
// (PROTOCOL 7.6). It stands in the Device's own record, so that the two
// messages, which arrive in either order, can't miss each other.
type Renewal struct {
	CommandUUID string `json:"command_uuid,omitempty"` // the InstallProfile; empty: the device renewed by SCEP alone
	Candidate   string `json:"candidate,omitempty"`    // fingerprint of the new certificate, once issued

	Authenticated bool `json:"authenticated,omitempty"`
	TokenUpdated  bool `json:"token_updated,omitempty"`
	Acknowledged  bool `json:"acknowledged,omitempty"`
	// InUse is whether the latest poll of the device channel was signed by Candidate.
	InUse bool `json:"in_use,omitempty"`

	Push *Push `json:"push,omitempty"` // what the candidate's TokenUpdate brought

	StartedAt time.Time `json:"started_at"`
	ExpiresAt time.Time `json:"expires_at"`
}

// Done says that the candidate has proved itself.
func (r *Renewal) Done() bool {
	if r == nil || r.Candidate == "" {
		return false
	}
	if r.CommandUUID == "" {
		return r.InUse || r.TokenUpdated
	}
	return r.TokenUpdated && r.Acknowledged
}

// Live says that the enrollment is a place for commands to go.
func (d Device) Live() bool { return d.State == Enrolled }

const (
	devicesByAppleID = "apple_id"
	devicesByParent  = "parent"
	devicesByRenewal = "renewal"
	devicesByUser    = "user"
)

var devices = storage.NewCollection("devices", 1,
	func(d Device) string { return string(d.ID) },
	storage.Index[Device]{Name: devicesByAppleID, Unique: true, Values: func(d Device) []string {
		return []string{d.AppleID.key()}
	}},
	storage.Index[Device]{Name: devicesByParent, Values: func(d Device) []string {
		if d.ParentID == "" {
			return nil
		}
		return []string{string(d.ParentID)}
	}},
	storage.Index[Device]{Name: devicesByUser, Values: func(d Device) []string {
		if d.User == "" {
			return nil
		}
		return []string{userKey(d.User)}
	}},
	storage.Index[Device]{Name: devicesByRenewal, Values: func(d Device) []string {
		if d.Renewal == nil {
			return nil
		}
		return []string{d.Renewal.ExpiresAt.UTC().Format(time.RFC3339)}
	}},
)

// userKey is what a user's logins are compared by.
func userKey(login string) string { return strings.ToLower(strings.TrimSpace(login)) }

// DevicesOfUser yields the enrollments of whoever goes by a username or an e-mail address.
func DevicesOfUser(tx storage.Tx, login string) iter.Seq2[Device, error] {
	return devices.Lookup(tx, devicesByUser, userKey(login))
}

// GetDevice returns the enrollment id, or an error that wraps storage.ErrNotFound.
func GetDevice(tx storage.Tx, id DeviceID) (Device, error) {
	d, err := devices.Get(tx, string(id))
	if err != nil {
		return Device{}, fmt.Errorf("device %s: %w", id, err)
	}
	return d, nil
}

// PageDevices returns up to limit enrollments, user channels among them, in the order of
// their ids, and the cursor of the next page, empty at the end.
func PageDevices(tx storage.Tx, cursor string, limit int) ([]Device, string, error) {
	return storage.Page(tx, devices, cursor, limit)
}

// ReadDevice is what [storage.Tx.Prefetch] takes for GetDevice.
func ReadDevice(id DeviceID) storage.Read { return devices.Read(string(id)) }

// ReadFindDevice is what [storage.Tx.Prefetch] takes for FindDevice.
func ReadFindDevice(a AppleID) storage.Read { return devices.ReadLookup(devicesByAppleID, a.key()) }

// FindDevice returns the enrollment that calls itself a, or an error that wraps
// storage.ErrNotFound.
func FindDevice(tx storage.Tx, a AppleID) (Device, error) {
	d, err := devices.One(tx, devicesByAppleID, a.key())
	if err != nil {
		return Device{}, fmt.Errorf("find device: %w", err)
	}
	return d, nil
}

// PutDevice writes d, but for what Apple keeps from the server of a User Enrollment.
func PutDevice(tx storage.Tx, d Device) error {
	d = d.withoutPersonal()
	tx.Prefetch(storage.Read{Bucket: eligibilityBucket, Key: []byte(d.ID)}, readRow(d.ID), readTopic(d.ID))
	if err := devices.Put(tx, d); err != nil {
		return fmt.Errorf("put device %s: %w", d.ID, err)
	}
	if err := putEligibility(tx, d); err != nil {
		return fmt.Errorf("put device %s: %w", d.ID, err)
	}
	if err := putRow(tx, d); err != nil {
		return fmt.Errorf("put device %s: %w", d.ID, err)
	}
	if err := putTopic(tx, d); err != nil {
		return fmt.Errorf("put device %s: %w", d.ID, err)
	}
	return nil
}

// UserChannels yields the user channels of a device.
func UserChannels(tx storage.Tx, parent DeviceID) iter.Seq2[Device, error] {
	return devices.Lookup(tx, devicesByParent, string(parent))
}

// WithUserChannels returns d and, behind it, its user channels: it has none unless it is a
// device.
func WithUserChannels(tx storage.Tx, d Device) ([]Device, error) {
	all := []Device{d}
	for u, err := range UserChannels(tx, d.ID) {
		if err != nil {
			return nil, err
		}
		all = append(all, u)
	}
	return all, nil
}

// RenewalsExpired yields devices whose renewal ran out before now.
func RenewalsExpired(tx storage.Tx, now time.Time, limit int) iter.Seq2[Device, error] {
	return devices.Ascend(tx, devicesByRenewal, "", now.UTC().Format(time.RFC3339), limit)
}
