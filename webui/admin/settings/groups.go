package settings

import (
	"strconv"
	"time"

	"github.com/gatehouse-mdm/gatehouse/webui/admin"
)

const (
	rulesPath  = section + "/enrollment"
	wakingPath = section + "/devices"
	keptPath   = section + "/retention"
)

// rules are what is decided about enrollment.
var rules = group{
	path: rulesPath, title: "Enrollment rules", file: "rules.html",
	lead: "They hold for enrollments from now on: a device keeps the rights that it enrolled with.",
	fields: map[string]kind{
		"portal": isYes, "require_push_certificate": isYes, "profile_service": isYes, "institutional.enabled": isYes, "personal.enabled": isYes,
		"institutional.rights.preset": isText, "personal.rights.preset": isText, "personal_method": isText, "device_signature": isText, "self_removal": isText,
	},
	form: func(d decided) *admin.Form {
		return admin.NewForm(
			"portal", yes(d.Portal), "require_push_certificate", yes(d.RequirePush), "profile_service", yes(d.ProfileService),
			"institutional.enabled", yes(d.Institutional.Enabled), "personal.enabled", yes(d.Personal.Enabled),
			"institutional.rights.preset", d.Institutional.Rights.Preset, "personal.rights.preset", d.Personal.Rights.Preset,
			"personal_method", d.PersonalMethod, "device_signature", d.DeviceSignature, "self_removal", d.SelfRemoval,
		)
	},
}

// Rights are the presets, as long as a custom one is not in force only the usual ones:
// single rights are chosen by the API.
func rights(w way) []admin.Option {
	list := []admin.Option{
		{Value: "full", Label: "All", Hint: "Also to lock and to erase the device"},
		{Value: "reduced", Label: "Reduced", Hint: "Settings and managed apps: no locking, no erasing, no list of the person’s apps"},
	}
	if w.Rights.Preset == "custom" {
		list = append(list, admin.Option{Value: "custom", Label: "As set by the API", Hint: admin.Count(len(w.Rights.List), "right", "rights") + " (" + strconv.Itoa(w.Rights.Custom) + ")"})
	}
	return list
}

// RightsInstitutional are the choices for devices of the organisation.
func (p *groupPage) RightsInstitutional() []admin.Option { return rights(p.Decided.Institutional) }

// RightsPersonal are the choices for people's own devices.
func (p *groupPage) RightsPersonal() []admin.Option { return rights(p.Decided.Personal) }

// Methods are the ways in which personal devices enroll.
func (p *groupPage) Methods() []admin.Option {
	return []admin.Option{
		{Value: "auto", Label: "Whatever fits", Hint: "User Enrollment for who has a Managed Apple Account, Device Enrollment for others"},
		{Value: "user_enrollment", Label: "User Enrollment only", Hint: "Needs a Managed Apple Account. Work data is apart from the person’s"},
		{Value: "device_enrollment", Label: "Device Enrollment", Hint: "With the rights above, for everybody"},
	}
}

// Removals say who may take a device out of management on their own page.
func (p *groupPage) Removals() []admin.Option {
	return admin.Options("personal", "Their own devices", "all", "Any of their devices", "none", "No devices")
}

// Signatures say what a wrong signature of a device means.
func (p *groupPage) Signatures() []admin.Option {
	return admin.Options("off", "Don’t look at it", "log", "Log a wrong one", "require", "Refuse a wrong one")
}

// waking are how long devices are woken, and when they are asked about themselves.
var waking = group{
	path: wakingPath, title: "Pushes and inventory", file: "waking.html",
	fields: map[string]kind{
		"push.repeats": isNumber, "push.repeat_after": isText, "push.not_now_repeats": isNumber, "push.silent_after": isText,
		"inventory.enabled": isYes, "inventory.every": isText, "inventory.first_after": isText,
	},
	form: func(d decided) *admin.Form {
		return admin.NewForm(
			"push.repeats", strconv.Itoa(d.Push.Repeats), "push.repeat_after", d.Push.RepeatAfter,
			"push.not_now_repeats", strconv.Itoa(d.Push.NotNowRepeats), "push.silent_after", d.Push.SilentAfter,
			"inventory.enabled", yes(d.Inventory.Enabled), "inventory.every", d.Inventory.Every, "inventory.first_after", d.Inventory.FirstAfter,
		)
	},
}

// RepeatAfter are the times until a push is repeated.
func (p *groupPage) RepeatAfter() []admin.Option {
	return durations(p.Decided.Push.RepeatAfter, 15*time.Minute, time.Hour, 4*time.Hour, 12*time.Hour, day)
}

// SilentAfter are the times after which a device is called silent.
func (p *groupPage) SilentAfter() []admin.Option {
	return durations(p.Decided.Push.SilentAfter, day, 3*day, 7*day, 14*day, 30*day, 90*day)
}

// Every are the times between two refreshes.
func (p *groupPage) Every() []admin.Option {
	return durations(p.Decided.Inventory.Every, time.Hour, 4*time.Hour, 12*time.Hour, day, 2*day, 7*day, 30*day)
}

// FirstAfter are the times from an enrollment to the first refresh.
func (p *groupPage) FirstAfter() []admin.Option {
	return durations(p.Decided.Inventory.FirstAfter, time.Minute, 10*time.Minute, time.Hour, day)
}

// kept is how long things are kept.
var kept = group{
	path: keptPath, title: "Retention", file: "retention.html",
	lead:   "How long this server remembers. What is older goes within a day, and can’t be had again.",
	fields: map[string]kind{"retention.audit_days": isNumber, "retention.commands_days": isNumber, "retention.devices_days": isNumber},
	form: func(d decided) *admin.Form {
		return admin.NewForm("retention.audit_days", strconv.Itoa(d.Retention.Audit), "retention.commands_days", strconv.Itoa(d.Retention.Commands),
			"retention.devices_days", strconv.Itoa(d.Retention.Devices))
	},
}
