package command

import (
	"fmt"
	"strconv"
	"strings"
)

// Target is what we know of an enrollment that a command is meant for. Zero values
// are "not known", which by itself refuses nothing: the device may answer for
// itself.
type Target struct {
	Platform       Platform
	OSVersion      string // "18.2.1"
	UserEnrollment bool   // BYOD: its rights are fixed by Apple
	UserChannel    bool   // a user's channel instead of the device's
	SharedIPad     bool
	Supervised     *bool
	ADE            *bool // came by Automated Device Enrollment
	AccessRights   int   // of the MDM payload; 0 when not known
}

// Codes of a Refusal, stable for programs.
const (
	CodePlatform       = "unsupported_platform"
	CodeOSVersion      = "unsupported_os_version"
	CodeUserEnrollment = "forbidden_in_user_enrollment"
	CodeChannel        = "wrong_channel"
	CodeSharedIPad     = "forbidden_on_shared_ipad"
	CodeSupervision    = "supervision_required"
	CodeADE            = "automated_device_enrollment_required"
	CodeAccessRight    = "access_right_missing"
)

// Refusal says why a device may not get a command.
type Refusal struct {
	Code   string // one of the Code constants
	Reason string // a sentence for a person
}

// Error returns the reason.
func (r *Refusal) Error() string { return r.Reason }

// Check returns nil when a command of type t may be sent to target, else a
// *Refusal. It goes by what Apple documents; the device has the last word.
func (t Type) Check(target Target) error {
	if _, known := t.Platforms[target.Platform]; known {
		return t.check(target)
	}
	// On a platform that we don't know yet, or don't know at all, what every
	// platform refuses is refused, and the rest is for the device to say.
	var refusal error
	for _, p := range Platforms() {
		if t.Platforms[p] == nil {
			continue
		}
		guess := target
		guess.Platform, guess.OSVersion = p, ""
		err := t.check(guess)
		if err == nil {
			return nil
		}
		if refusal == nil {
			refusal = err
		}
	}
	return refusal
}

// check is Check for a platform of the catalogue.
func (t Type) check(target Target) error {
	a := t.Platforms[target.Platform]
	if a == nil {
		return refuse(CodePlatform, "%s does not exist on %s.", t.RequestType, target.Platform)
	}
	if before(target.OSVersion, a.Introduced) {
		return refuse(CodeOSVersion, "%s needs %s %s or later; this device runs %s.",
			t.RequestType, target.Platform, a.Introduced, target.OSVersion)
	}
	if a.Removed != "" && target.OSVersion != "" && !before(target.OSVersion, a.Removed) {
		return refuse(CodeOSVersion, "%s was removed in %s %s; this device runs %s.",
			t.RequestType, target.Platform, a.Removed, target.OSVersion)
	}
	if target.UserEnrollment {
		// tvOS and watchOS have no User Enrollment, hence no fact about it.
		if a.UserEnrollment != "allowed" || before(target.OSVersion, a.UserEnrollmentSince) {
			return refuse(CodeUserEnrollment,
				"%s is not allowed on a personal device (User Enrollment).", t.RequestType)
		}
	}
	if err := t.checkChannel(a, target); err != nil {
		return err
	}
	if a.Supervised && target.Supervised != nil && !*target.Supervised {
		return refuse(CodeSupervision, "%s needs a supervised device.", t.RequestType)
	}
	if a.RequiresADE && target.ADE != nil && !*target.ADE {
		return refuse(CodeADE, "%s needs a device that came by Automated Device Enrollment.", t.RequestType)
	}
	// The rights of a User Enrollment are fixed: UserEnrollment above speaks for them.
	if !target.UserEnrollment && target.AccessRights != 0 && target.AccessRights&a.RightBit != a.RightBit {
		return refuse(CodeAccessRight, "%s needs the access right %s (%d), which this enrollment does not grant.",
			t.RequestType, a.Right, a.RightBit)
	}
	return nil
}

func (t Type) checkChannel(a *Availability, target Target) error {
	device, user := true, false
	switch {
	case target.Platform == MacOS:
		device, user = is(a.DeviceChannel, true), is(a.UserChannel, false)
	case target.Platform == IOS && (target.SharedIPad || target.UserChannel):
		// Only a Shared iPad has user channels.
		if a.SharedIPad.Mode == "forbidden" {
			return refuse(CodeSharedIPad, "%s is not allowed on a Shared iPad.", t.RequestType)
		}
		device, user = is(a.SharedIPad.DeviceChannel, true), is(a.SharedIPad.UserChannel, false)
	}
	if target.UserChannel && !user {
		return refuse(CodeChannel, "%s goes to a device, not to one of its users.", t.RequestType)
	}
	if !target.UserChannel && !device {
		return refuse(CodeChannel, "%s goes to a user of a device, not to the device.", t.RequestType)
	}
	return nil
}

func refuse(code, format string, args ...any) error {
	return &Refusal{Code: code, Reason: fmt.Sprintf(format, args...)}
}

func is(b *bool, otherwise bool) bool {
	if b == nil {
		return otherwise
	}
	return *b
}

// before reports whether OS version a is older than b. It is false when one of
// them is not known, or no version at all.
func before(a, b string) bool {
	if a == "" || b == "" {
		return false
	}
	as, bs := strings.Split(a, "."), strings.Split(b, ".")
	for i := range max(len(as), len(bs)) {
		var x, y int
		var err error
		if i < len(as) {
			if x, err = strconv.Atoi(as[i]); err != nil {
				return false
			}
		}
		if i < len(bs) {
			if y, err = strconv.Atoi(bs[i]); err != nil {
				return false
			}
		}
		if x != y {
			return x < y
		}
	}
	return false
}
