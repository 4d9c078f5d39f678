package command

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Summary says in a line what a device answered to a command, without a full stop:
// "212 apps, 3 with an update". It is "Done" where the answer holds nothing, and where
// result is no answer as of DecodeResult. It never holds a secret.
func Summary(requestType string, result json.RawMessage) string {
	answer, err := decodeAnswer(result)
	if err != nil || len(answer) == 0 {
		return "Done"
	}
	a := said(answer)
	var line string
	if summarize, known := summaries[requestType]; known {
		line = summarize(a)
	}
	if line == "" {
		line = amount(len(answer), "value", "values")
		for _, v := range answer {
			if list, ok := v.([]any); ok && len(answer) == 1 {
				line = amount(len(list), "entry", "entries")
			}
		}
	}
	line = oneLine(line, maxText)
	if requestType == "DeviceInformation" { // begins with the device's name
		return line
	}
	return capitalized(line)
}

// capitalized returns s with its first word in upper case, unless that is no word but an
// identifier of somebody's.
func capitalized(s string) string {
	first := strings.TrimRight(strings.SplitN(s+" ", " ", 2)[0], ",;:")
	if first == "" || strings.Trim(first, "abcdefghijklmnopqrstuvwxyz") != "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}

// said is a dictionary of an answer, whose values may be of any type.
type said map[string]any

func (s said) dict(key string) said {
	d, _ := s[key].(map[string]any)
	return d
}

func (s said) text(key string) string {
	v, _ := s[key].(string)
	return oneLine(v, 100)
}

func (s said) is(key string) bool { return s[key] == true }

func (s said) not(key string) bool { return s[key] == false }

func (s said) number(key string) (float64, bool) {
	n, ok := s[key].(json.Number)
	if !ok {
		return 0, false
	}
	f, err := n.Float64()
	return f, err == nil
}

// list returns the dictionaries of a list.
func (s said) list(key string) []said {
	list, _ := s[key].([]any)
	var out []said
	for _, v := range list {
		d, _ := v.(map[string]any)
		out = append(out, d)
	}
	return out
}

func count(list []said, holds func(said) bool) int {
	n := 0
	for _, d := range list {
		if holds(d) {
			n++
		}
	}
	return n
}

// line joins the parts that are not empty.
type line struct{ parts []string }

func (l *line) add(part string) {
	if part != "" {
		l.parts = append(l.parts, part)
	}
}

func (l *line) addIf(holds bool, part string) {
	if holds {
		l.add(part)
	}
}

// either adds yes or no, or nothing where the answer does not say.
func (l *line) either(s said, key, yes, no string) {
	l.addIf(s.is(key), yes)
	l.addIf(s.not(key), no)
}

func (l line) String() string { return strings.Join(l.parts, "; ") }

// summaries are the lines of the types whose answers hold something.
var summaries = map[string]func(said) string{
	"DeviceInformation": summarizeDevice,
	"SecurityInfo":      summarizeSecurity,
	"CertificateList": func(a said) string {
		return counted(a.list("CertificateList"), "certificate", "certificates", "IsIdentity", "with a key")
	},
	"ProfileList":         summarizeProfiles,
	"UserList":            func(a said) string { return counted(a.list("Users"), "user", "users", "IsLoggedIn", "logged in") },
	"ManagedMediaList":    func(a said) string { return amount(len(a.list("Books")), "book", "books") },
	"ActiveNSExtensions":  func(a said) string { return amount(len(a.list("Extensions")), "active extension", "active extensions") },
	"NSExtensionMappings": func(a said) string { return amount(len(a.list("Extensions")), "extension", "extensions") },
	"InstalledApplicationList": func(a said) string {
		return counted(a.list("InstalledApplicationList"), "app", "apps", "HasUpdateAvailable", "with an update")
	},
	"ProvisioningProfileList": func(a said) string {
		return amount(len(a.list("ProvisioningProfileList")), "provisioning profile", "provisioning profiles")
	},
	"ManagedApplicationList": func(a said) string {
		apps := a.dict("ManagedApplicationList")
		states := make(map[string]int)
		for _, v := range apps {
			app, _ := v.(map[string]any)
			states[stringText(said(app).text("Status"), Key{Name: "Status"})]++
		}
		return amount(len(apps), "managed app", "managed apps") + tally(states)
	},
	"ManagedApplicationAttributes":    func(a said) string { return amount(len(a.list("ApplicationAttributes")), "app", "apps") },
	"ManagedApplicationConfiguration": func(a said) string { return amount(len(a.list("ApplicationConfigurations")), "app", "apps") },
	"ManagedApplicationFeedback":      func(a said) string { return amount(len(a.list("ManagedApplicationFeedback")), "app", "apps") },
	"AvailableOSUpdates": func(a said) string {
		updates := a.list("AvailableOSUpdates")
		if len(updates) == 0 {
			return "no update"
		}
		var names []string
		for _, u := range updates {
			name := u.text("HumanReadableName")
			if name == "" {
				name = strings.TrimSpace(u.text("ProductName") + " " + u.text("Version"))
			}
			names = append(names, name)
		}
		return amount(len(updates), "update", "updates") + ": " + list(names)
	},
	"OSUpdateStatus": func(a said) string {
		var l line
		for _, u := range a.list("OSUpdateStatus")[:min(5, len(a.list("OSUpdateStatus")))] {
			part := u.text("ProductKey") + " " + stringText(u.text("Status"), Key{Name: "Status"})
			if n, ok := u.number("DownloadPercentComplete"); ok && !u.is("IsDownloaded") {
				part += ", " + percent(n) + " downloaded"
			}
			l.add(part)
		}
		if l.parts == nil {
			return "no update under way"
		}
		return l.String()
	},
	"ScheduleOSUpdate": func(a said) string {
		var l line
		for _, u := range a.list("UpdateResults")[:min(5, len(a.list("UpdateResults")))] {
			l.add(u.text("ProductKey") + ": " + stringText(u.text("Status"), Key{Name: "Status"}))
		}
		if l.parts == nil {
			return "no update to install"
		}
		return l.String()
	},
	"ScheduleOSUpdateScan": func(a said) string {
		return yesOr(a, "ScanInitiated", "the search has begun", "the search has not begun")
	},
	"Settings":           summarizeSettings,
	"InstallApplication": summarizeInstall,
	"InstallMedia":       summarizeInstall,
	"InviteToProgram":    func(a said) string { return stringText(a.text("InvitationResult"), Key{Name: "InvitationResult"}) },
	"RequestMirroring":   func(a said) string { return stringText(a.text("MirroringResult"), Key{Name: "MirroringResult"}) },
	"DeviceLock": func(a said) string {
		return "locked; message " + stringText(a.text("MessageResult"), Key{Name: "MessageResult"})
	},
	"DeviceLocation": func(a said) string {
		lat, ok := a.number("Latitude")
		long, also := a.number("Longitude")
		if !ok || !also {
			return ""
		}
		where := trimmed(lat, 5) + ", " + trimmed(long, 5)
		if within, ok := a.number("HorizontalAccuracy"); ok && within >= 0 {
			where += ", within " + trimmed(within, 0) + " m"
		}
		if at := a.text("Timestamp"); at != "" {
			where += ", at " + at
		}
		return where
	},
	"ActivationLockBypassCode": func(said) string { return "the device sent its Activation Lock bypass code" },
	"RequestUnlockToken":       func(said) string { return "the device sent an unlock token" },
	"RotateFileVaultKey": func(a said) string {
		if _, new := a.dict("RotateResult")["EncryptedNewRecoveryKey"]; new {
			return "the recovery key was changed; the device sent the new one"
		}
		return "the recovery key was changed"
	},
	"SetFirmwarePassword": func(a said) string {
		return yesOr(a.dict("SetFirmwarePassword"), "PasswordChanged", "the firmware password was changed", "the firmware password was not changed")
	},
	"VerifyFirmwarePassword": func(a said) string {
		return yesOr(a.dict("VerifyFirmwarePassword"), "PasswordVerified", "the firmware password is right", "the firmware password is wrong")
	},
	"VerifyRecoveryLock": func(a said) string {
		return yesOr(a, "PasswordVerified", "the Recovery Lock password is right", "the Recovery Lock password is wrong")
	},
	"LOMDeviceRequest": func(a said) string {
		requests := a.list("ResponseList")
		return fmt.Sprintf("%d of %s done", count(requests, func(r said) bool { return r.is("DeviceRequestSuccess") }), amount(len(requests), "request", "requests"))
	},
	"LOMSetupRequest": func(said) string { return "ready for lights-out management" },
	"Restrictions": func(a said) string {
		n := 0
		for _, of := range a.dict("GlobalRestrictions") {
			kind, _ := of.(map[string]any)
			n += len(kind)
		}
		return amount(n, "restriction", "restrictions")
	},
	"ContentCachingInformation": func(a said) string {
		s := a.dict("StatusResponse")
		var l line
		switch {
		case s.is("Active"):
			l.add("content caching is active")
		case s.is("Activated"):
			l.add("content caching is on, but not ready")
		default:
			l.add("content caching is off")
		}
		if used, ok := s.number("ActualCacheUsed"); ok {
			l.add(size(used) + " cached")
		}
		if n := len(s.list("Alerts")); n > 0 {
			l.add(amount(n, "alert", "alerts"))
		}
		return l.String()
	},
}

func yesOr(s said, key, yes, no string) string {
	switch {
	case s.is(key):
		return yes
	case s.not(key):
		return no
	}
	return ""
}

// counted returns "212 apps, 3 with an update".
func counted(list []said, one, many, key, which string) string {
	counted := amount(len(list), one, many)
	if n := count(list, func(d said) bool { return d.is(key) }); n > 0 {
		counted += fmt.Sprintf(", %d %s", n, which)
	}
	return counted
}

// tally returns ": 4 installed and managed, 1 failed", the many first.
func tally(states map[string]int) string {
	if len(states) == 0 {
		return ""
	}
	names := slices.SortedFunc(maps.Keys(states), func(a, b string) int {
		if states[a] != states[b] {
			return states[b] - states[a]
		}
		return strings.Compare(a, b)
	})
	parts := make([]string, len(names))
	for i, name := range names {
		parts[i] = fmt.Sprintf("%d %s", states[name], name)
	}
	return ": " + list(parts)
}

func summarizeProfiles(a said) string {
	profiles := a.list("ProfileList")
	counted := amount(len(profiles), "profile", "profiles")
	// Devices of old leave IsManaged out: then nobody knows.
	if known := count(profiles, func(p said) bool { return p.is("IsManaged") || p.not("IsManaged") }); known < len(profiles) {
		return counted
	}
	switch foreign := count(profiles, func(p said) bool { return p.not("IsManaged") }); foreign {
	case 0:
	case 1:
		counted += ", 1 of them not installed by MDM"
	default:
		counted += fmt.Sprintf(", %d of them not installed by MDM", foreign)
	}
	return counted
}

func summarizeDevice(a said) string {
	q := a.dict("QueryResponses")
	var l line
	l.add(q.text("DeviceName"))
	model := q.text("ModelName")
	if model == "" {
		model = q.text("ProductName")
	}
	l.add(model)
	if version := q.text("OSVersion"); version != "" {
		version += q.text("SupplementalOSVersionExtra")
		if build := q.text("BuildVersion"); build != "" {
			version += " (" + build + ")"
		}
		if name := PlatformOf(q.text("ProductName")); name != "" {
			version = name.String() + " " + version
		}
		l.add(version)
	}
	l.either(q, "IsSupervised", "supervised", "not supervised")
	if free, ok := q.number("AvailableDeviceCapacity"); ok {
		room := trimmed(free, 1) + " GB free"
		if all, ok := q.number("DeviceCapacity"); ok {
			room = trimmed(free, 1) + " of " + trimmed(all, 1) + " GB free"
		}
		l.add(room)
	}
	if charge, ok := q.number("BatteryLevel"); ok && charge >= 0 {
		l.add("battery " + percent(charge))
	}
	l.either(q, "IsDeviceLocatorServiceEnabled", "Find My on", "Find My off")
	l.addIf(q.is("IsMDMLostModeEnabled"), "in Managed Lost Mode")
	if l.parts == nil {
		return amount(len(q), "value", "values")
	}
	return l.String()
}

func summarizeSecurity(a said) string {
	s := a.dict("SecurityInfo")
	var l line
	l.either(s, "FDE_Enabled", "encrypted", "not encrypted")
	if caps, ok := s.number("HardwareEncryptionCaps"); ok && s["FDE_Enabled"] == nil {
		// Apple's page SecurityInfoResponse: data protection needs both.
		l.addIf(caps == 3 && s.is("PasscodePresent"), "encrypted")
		l.addIf(caps != 3 || s.not("PasscodePresent"), "not protected by encryption")
	}
	l.addIf(s.not("PasscodePresent"), "no passcode")
	if !s.not("PasscodePresent") {
		l.either(s, "PasscodeCompliant", "passcode compliant", "passcode not compliant")
	}
	l.either(s.dict("FirewallSettings"), "FirewallEnabled", "firewall on", "firewall off")
	l.addIf(s.not("SystemIntegrityProtectionEnabled"), "System Integrity Protection off")
	l.either(s.dict("ManagementStatus"), "UserApprovedEnrollment", "", "enrollment not approved by the user")
	if l.parts == nil {
		return amount(len(s), "value", "values")
	}
	return l.String()
}

func summarizeSettings(a said) string {
	settings := a.list("Settings")
	if one, ok := a["Settings"].(map[string]any); ok {
		settings = []said{one}
	}
	failed := count(settings, func(s said) bool { status := s.text("Status"); return status != "" && status != "Acknowledged" })
	if failed == 0 {
		return amount(len(settings), "setting", "settings") + " done"
	}
	what := fmt.Sprintf("%d of %s failed", failed, amount(len(settings), "setting", "settings"))
	for _, s := range settings {
		if links, ok := s["ErrorChain"].([]any); ok && len(links) > 0 {
			return what + ": " + Sentence("", chainOf(links))
		}
	}
	return what
}

func summarizeInstall(a said) string {
	var l line
	l.add(a.text("Identifier"))
	if state := a.text("State"); state != "" {
		l.add(stringText(state, Key{Name: "State"}))
	}
	if reason := a.text("RejectionReason"); reason != "" {
		l.add("refused: " + stringText(reason, Key{Name: "RejectionReason"}))
	}
	return l.String()
}
