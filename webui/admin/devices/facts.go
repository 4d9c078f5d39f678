package devices

import (
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/gatehouse-mdm/gatehouse/webui/admin"
)

// inventory is what a device has said of itself.
type inventory struct {
	ManagedOnly   bool       `json:"managed_only"`
	NextRefreshAt *time.Time `json:"next_refresh_at"`
	Sources       []source   `json:"sources"`
}

type source struct {
	Source     string     `json:"source"`
	AnsweredAt *time.Time `json:"answered_at"`
	Failure    *struct {
		Reason string `json:"reason"`
	} `json:"failure"`
	Waiting *struct {
		CommandUUID string    `json:"command_uuid"`
		AskedAt     time.Time `json:"asked_at"`
	} `json:"waiting"`
	Count *int   `json:"count"`
	Facts []fact `json:"facts"`
}

type fact struct {
	Path  string          `json:"path"`
	Label string          `json:"label"`
	Text  string          `json:"text"`
	Value json.RawMessage `json:"value"`
}

// source returns what is known from one, empty if nothing is.
func (in inventory) source(name string) source {
	for _, s := range in.Sources {
		if s.Source == name {
			return s
		}
	}
	return source{Source: name}
}

// groupOfFacts is facts that belong together. Folded ones are not shown before somebody
// wants to see them.
type groupOfFacts struct {
	Title  string
	Facts  []admin.Fact
	Folded bool
}

// factGroups says what stands together, by the beginning of a fact's path, in which order.
// What is in none comes last, folded.
var factGroups = []struct {
	title string
	paths []string
}{
	{"Security", []string{
		"IsSupervised", "PasscodePresent", "PasscodeCompliant", "PasscodeCompliantWithProfiles", "HardwareEncryptionCaps", "FDE_", "SystemIntegrityProtectionEnabled",
		"FirewallSettings", "FirmwarePasswordStatus", "SecureBoot", "BootstrapToken", "AuthenticatedRootVolumeEnabled", "RemoteDesktopEnabled",
		"IsRecoveryLockEnabled", "IsActivationLock", "IsDeviceLocator", "IsMDMLostMode", "ManagementStatus", "PasswordLastChanged", "AutoUnlock", "PINRequiredForDeviceLock", "PINRequiredForEraseDevice",
	}},
	{"Storage and battery", []string{"DeviceCapacity", "AvailableDeviceCapacity", "BatteryLevel", "HasBattery"}},
	{"System", []string{
		"OSVersion", "SupplementalOSVersionExtra", "BuildVersion", "SupplementalBuildVersion", "SoftwareUpdate", "OSUpdateSettings", "AutomaticCheckEnabled", "TimeZone",
		"IsAppleSilicon", "ModelName", "Model", "ModelNumber", "ProductName", "HostName", "LocalHostName", "IsMultiUser", "Languages", "Locales", "LastCloudBackupDate", "IsCloudBackupEnabled",
	}},
	{"Network", []string{"WiFiMAC", "BluetoothMAC", "EthernetMAC", "PhoneNumber", "ICCID", "IMEI", "MEID", "Carrier", "CurrentCarrier", "SIMCarrier", "SubscriberCarrier", "CellularTechnology", "ServiceSubscriptions", "DataRoaming", "VoiceRoaming", "IsRoaming", "PersonalHotspot", "IsNetworkTethered", "ModemFirmwareVersion"}},
}

// shownElsewhere are facts that the page has in its head or among its own.
var shownElsewhere = []string{"DeviceName", "UDID", "SerialNumber"}

// groupFacts puts what a device said in order. Of each path the first fact counts.
func groupFacts(sources ...source) []groupOfFacts {
	groups := make([]groupOfFacts, len(factGroups)+1)
	for i, g := range factGroups {
		groups[i].Title = g.title
	}
	other := &groups[len(factGroups)]
	other.Title, other.Folded = "Everything else", true
	type ranked struct {
		group, rank int
		fact        admin.Fact
	}
	var all []ranked
	for _, s := range sources {
		for _, f := range s.Facts {
			if slices.Contains(shownElsewhere, f.Path) || f.Text == "" || f.Text == "empty" {
				continue
			}
			r := ranked{len(factGroups), 0, admin.Fact{Label: f.Label, Value: clip(f.Text), Mono: strings.Contains(f.Path, "MAC")}}
			longest := 0
			for i, g := range factGroups {
				for j, path := range g.paths {
					if len(path) > longest && strings.HasPrefix(f.Path, path) {
						r.group, r.rank, longest = i, j, len(path)
					}
				}
			}
			all = append(all, r)
		}
	}
	slices.SortStableFunc(all, func(a, b ranked) int {
		if a.group != b.group {
			return a.group - b.group
		}
		return a.rank - b.rank
	})
	for _, r := range all {
		groups[r.group].Facts = append(groups[r.group].Facts, r.fact)
	}
	return slices.DeleteFunc(groups, func(g groupOfFacts) bool { return len(g.Facts) == 0 })
}

// maxFact bounds what is shown of one fact, in bytes.
const maxFact = 500

func clip(text string) string {
	if len(text) <= maxFact {
		return text
	}
	return strings.ToValidUTF8(text[:maxFact], "") + "…"
}

// known leaves out facts that say nothing.
func known(facts []admin.Fact) []admin.Fact {
	return slices.DeleteFunc(facts, func(f admin.Fact) bool { return f.Value == "" && f.Moment == nil })
}

// serial is the device's serial number, which in a User Enrollment is its person's own.
func serial(d device) string {
	if d.EnrollmentType == "user" {
		return ""
	}
	return d.SerialNumber
}

// own are the facts that the server knows by itself.
func (s *Devices) own(d device) []admin.Fact {
	enrolled := s.desk.Moment(d.EnrolledAt)
	seen := s.desk.Moment(d.LastSeenAt)
	udid := d.UDID
	if d.EnrollmentType == "user" {
		udid = ""
	}
	enrollment := d.EnrollmentWords()
	if d.EnrollmentMode != "" {
		enrollment += " (" + d.EnrollmentMode + ")"
	}
	facts := []admin.Fact{
		{Label: "Owner", Value: d.Owner()},
		{Label: "Ownership", Value: d.OwnershipWords()},
		{Label: "Enrollment", Value: enrollment},
		{Label: "Enrolled", Moment: &enrolled},
		{Label: "Last seen", Moment: &seen},
		{Label: "Model", Value: d.ModelWords()},
		{Label: "System", Value: d.OS()},
		{Label: "Serial number", Value: serial(d), Mono: true},
		{Label: "Managed Apple Account", Value: d.ManagedAppleAccount},
		{Label: "Short name", Value: d.UserShortName},
		{Label: "UDID", Value: udid, Mono: true},
		{Label: "Enrollment ID", Value: d.EnrollmentID, Mono: true},
		{Label: "ID on this server", Value: d.ID, Mono: true},
	}
	if d.ManagedAppleAccount == d.User {
		facts[8].Value = ""
	}
	if i := d.Identity; i != nil {
		ends := admin.Fact{Label: "Identity", Value: "valid until " + i.NotAfter.Format("2 January 2006"), URL: "/admin/certificates/" + i.Serial}
		switch {
		case d.State == "unenrolled" || d.State == "blocked":
			ends.Value = "revoked"
		case i.Renewal != nil && i.Renewal.State == "failed":
			ends.Hint = "Its last renewal came to nothing; it is tried again."
		case i.Renewal != nil:
			ends.Hint = "It is being renewed."
		case i.RenewAt != nil:
			ends.Hint = "Renewed by itself from " + i.RenewAt.Format("2 January 2006") + " on"
		}
		facts = append(facts, ends)
	}
	return known(facts)
}
