package devices

import (
	"cmp"
	"net/url"
	"time"

	"github.com/gatehouse-mdm/gatehouse/webui/admin"
	"github.com/gatehouse-mdm/gatehouse/webui/view"
)

// device is a device as the API tells of it.
type device struct {
	ID                  string         `json:"id"`
	EnrollmentType      string         `json:"enrollment_type"`
	Ownership           string         `json:"ownership"`
	State               string         `json:"state"`
	UDID                string         `json:"udid"`
	EnrollmentID        string         `json:"enrollment_id"`
	ParentID            string         `json:"parent_id"`
	SerialNumber        string         `json:"serial_number"`
	DeviceName          string         `json:"device_name"`
	Model               string         `json:"model"`
	ModelName           string         `json:"model_name"`
	Platform            string         `json:"platform"`
	OSVersion           string         `json:"os_version"`
	Supervised          *bool          `json:"supervised"`
	User                string         `json:"user"`
	UserShortName       string         `json:"user_short_name"`
	UserLongName        string         `json:"user_long_name"`
	ManagedAppleAccount string         `json:"managed_apple_account"`
	EnrollmentMode      string         `json:"enrollment_mode"`
	EnrolledAt          *time.Time     `json:"enrolled_at"`
	LastSeenAt          *time.Time     `json:"last_seen_at"`
	PendingCommands     int            `json:"pending_commands"`
	Identity            *identity      `json:"identity"`
	LostReportedAt      *time.Time     `json:"lost_reported_at"`
	LostNote            string         `json:"lost_note"`
	Push                *push          `json:"push"`
	WaitingFor          *waits         `json:"waiting_for"`
	SignInRequiredAt    *time.Time     `json:"sign_in_required_at"`
	Demo                bool           `json:"demo"`
	Note                *note          `json:"note"`
	Attributes          map[string]any `json:"attributes"`
}

// identity is the certificate by which a device speaks.
type identity struct {
	Serial   string     `json:"serial"`
	NotAfter time.Time  `json:"not_after"`
	RenewAt  *time.Time `json:"renew_at"`
	Renewal  *struct {
		State string `json:"state"`
	} `json:"renewal"`
	Stuck bool `json:"stuck"`
}

// push is how the waking of a device stands.
type push struct {
	State    string     `json:"state"`
	Reason   string     `json:"reason"`
	PushedAt *time.Time `json:"pushed_at"`
	Silent   bool       `json:"silent"`
}

// waits is why a device has not finished a command.
type waits struct {
	Code   string `json:"code"`
	Reason string `json:"reason"`
}

type note struct {
	Text string    `json:"text"`
	By   string    `json:"by"`
	At   time.Time `json:"at"`
}

// IsChannel reports whether d is a user channel.
func (d device) IsChannel() bool { return d.EnrollmentType == "user_channel" }

// Name is what to call the device: the best of what it said of itself.
func (d device) Name() string {
	if d.IsChannel() {
		return cmp.Or(d.UserLongName, d.UserShortName, d.User, d.ID)
	}
	return cmp.Or(d.DeviceName, d.SerialNumber, d.UDID, d.EnrollmentID, d.ID)
}

// URL is the device's page.
func (d device) URL() string { return section + "/" + url.PathEscape(d.ID) }

// ParentURL is the page of a user channel's device.
func (d device) ParentURL() string { return section + "/" + url.PathEscape(d.ParentID) }

// ModelWords is the model as it is sold and as Apple numbers it: "MacBook Pro (Mac16,1)".
func (d device) ModelWords() string { return admin.Model(d.ModelName, d.Model) }

// OS is the name and the version of the device's system.
func (d device) OS() string { return admin.System(d.Platform, d.Model, d.OSVersion) }

// Owner is whose device it is.
func (d device) Owner() string { return cmp.Or(d.User, d.ManagedAppleAccount) }

// enrollmentTypes are the types by the API's names, in the order of a filter.
var enrollmentTypes = []struct{ name, words string }{
	{"device", "Device Enrollment"},
	{"account_device", "Device Enrollment by account"},
	{"user", "User Enrollment"},
	{"user_channel", "User channel"},
}

// EnrollmentWords is how the device enrolled.
func (d device) EnrollmentWords() string {
	for _, t := range enrollmentTypes {
		if t.name == d.EnrollmentType {
			return t.words
		}
	}
	return d.EnrollmentType
}

// EnrollmentShort is EnrollmentWords in lists.
func (d device) EnrollmentShort() string {
	switch d.EnrollmentType {
	case "device":
		return "Device"
	case "account_device":
		return "By account"
	case "user":
		return "User"
	}
	return d.EnrollmentWords()
}

// OwnershipWords says whose the device is.
func (d device) OwnershipWords() string {
	return map[string]string{"institutional": "The organisation’s", "personal": "Personal"}[d.Ownership]
}

// StateWords is the device's state without its hint, for lists.
func (d device) StateWords() view.State {
	st := d.StateHint()
	st.Hint = ""
	return st
}

// StateHint is the device's state, and what it means where that is not plain.
func (d device) StateHint() view.State {
	switch d.State {
	case "enrolled":
		return view.State{Text: "enrolled", Tone: view.Good}
	case "pending":
		return view.State{Text: "pending", Tone: view.Waiting, Hint: "It has its identity, but has not finished enrolling: it has told no push token yet."}
	case "unenrolled":
		return view.State{Text: "unenrolled", Tone: view.Neutral, Hint: "Management was removed. Its certificates are revoked; it may enroll again."}
	case "blocked":
		return view.State{Text: "blocked", Tone: view.Bad, Hint: "It was removed and may not come back before somebody unblocks it."}
	}
	return view.State{Text: d.State, Tone: view.Neutral}
}

// PushTrouble is what keeps the device from being woken, in a few words; empty: nothing
// that anybody could do something about.
func (d device) PushTrouble() string {
	if d.Push == nil {
		return ""
	}
	return map[string]string{
		"no_token":            "No push token",
		"token_dead":          "Push token dead",
		"no_certificate":      "No push certificate",
		"certificate_refused": "Push certificate refused",
		"refused":             "Pushes refused",
		"unreachable":         "Apple can’t be reached",
	}[d.Push.State]
}

// Trouble is PushTrouble in lists, where what is wrong with all devices at once says
// nothing about one.
func (d device) Trouble() string {
	if d.Push == nil || d.Push.State != "token_dead" && d.Push.State != "refused" && d.Push.State != "no_token" {
		return ""
	}
	return d.PushTrouble()
}

// WaitsShort is why the device's next command is pending, in a few words.
func (d device) WaitsShort() string {
	if d.WaitingFor == nil {
		return ""
	}
	return map[string]string{
		"delivered":        "delivered, no answer yet",
		"not_now":          "locked or busy",
		"sign_in_required": "waits for sign-in",
		"behind_another":   "one after the other",
		"no_push_token":    "can’t be woken",
		"push_failing":     "can’t be woken",
		"not_seen":         "not heard of since",
		"queued":           "at its next check-in",
		"expired":          "expired",
	}[d.WaitingFor.Code]
}
