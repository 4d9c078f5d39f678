package command

import (
	"fmt"
	"strconv"
	"strings"
)

// Target is what we know of an enrollment that a command is meant for. A zero value is "not
// known". Where platform, version or rights are not known, the device answers for itself.
// What Apple grants to some devices alone is refused where it is not known whether the device
// is one of them.
type Target struct {
	Platform       Platform
	OSVersion      string // "18.2.1"
	UserEnrollment bool   // BYOD: its rights are fixed by Apple
	UserChannel    bool   // a user's channel instead of the device's
	SharedIPad     *bool
	Supervised     *bool
	ADE            *bool // came by Automated Device Enrollment
	Approved       *bool // macOS: a user has approved the enrollment
	AccessRights   int   // of the MDM payload; 0 when not known
}

// Codes of a Refusal, stable for programs.
const (
	CodePlatform           = "unsupported_platform"
	CodeOSVersion          = "unsupported_os_version"
	CodeUserEnrollment     = "forbidden_in_user_enrollment"
	CodeChannel            = "wrong_channel"
	CodeSharedIPad         = "forbidden_on_shared_ipad"
	CodeSharedIPadRequired = "shared_ipad_required"
	CodeSharedIPadUnknown  = "shared_ipad_unknown"
	CodeSupervision        = "supervision_required"
	CodeSupervisionUnknown = "supervision_unknown"
	CodeADE                = "automated_device_enrollment_required"
	CodeADEUnknown         = "automated_device_enrollment_unknown"
	CodeApproval           = "user_approval_required"
	CodeApprovalUnknown    = "user_approval_unknown"
	CodeAccessRight        = "access_right_missing"
)

// Refusal says why a device may not get a command.
type Refusal struct {
	Code   string `json:"code"`   // one of the Code constants
	Reason string `json:"reason"` // a sentence for a person
}

// Error returns the reason.
func (r *Refusal) Error() string { return r.Reason }

// Check returns nil when a command of type t may be sent to target, else a
// *Refusal. It goes by what Apple documents; the device has the last word.
func (t Type) Check(target Target) error {
	no := onPlatforms(t, target, t.check)
	if no == nil {
		return nil
	}
	return no.refusal(t.RequestType)
}

// onPlatforms returns what check says of a target. On a platform that we don't know yet, or
// don't know at all, what every platform of t refuses is refused, and the rest is for the
// device to say.
func onPlatforms(t Type, target Target, check func(Target) *denial) *denial {
	if _, known := t.Platforms[target.Platform]; known {
		return check(target)
	}
	var no *denial
	for _, p := range Platforms() {
		if t.Platforms[p] == nil {
			continue
		}
		guess := target
		guess.Platform, guess.OSVersion = p, ""
		found := check(guess)
		if found == nil {
			return nil
		}
		if no == nil || !no.unknown && found.unknown { // who learns more, learns the platform too
			no = found
		}
	}
	return no
}

// check is Check for a platform of the catalogue.
func (t Type) check(target Target) *denial {
	return t.Platforms[target.Platform].deny(target, false)
}

// Check returns nil when target may be sent something with the key k, else a *Refusal. It goes
// by what Apple says of k beyond what k stands in.
func (k Key) Check(target Target) error {
	if no := k.deny(target); no != nil {
		return no.refusal(k.Name)
	}
	return nil
}

func (k Key) deny(target Target) *denial {
	if target.UserEnrollment && k.ForbiddenInUserEnrollment(target.Platform) {
		return personalOnly
	}
	if a, said := k.Platforms[target.Platform]; said {
		return a.deny(target, true)
	}
	return nil
}

// denial is why a target may not get something.
type denial struct {
	code    string
	reason  string // what follows the name of the thing in a sentence
	unknown bool   // the target may get it: that is not known
}

func (d *denial) refusal(name string) error {
	return &Refusal{Code: d.code, Reason: name + " " + d.reason + "."}
}

var personalOnly = &denial{code: CodeUserEnrollment, reason: "is not allowed on a personal device (User Enrollment)"}

// deny returns why target may not get what has the facts a on its platform; nil: it may. What
// is certain goes before what is not known. Of a part, a says only how it differs from the
// whole, which is looked at first.
func (a *Availability) deny(target Target, part bool) *denial {
	if a == nil {
		return &denial{code: CodePlatform, reason: "does not exist on " + target.Platform.String()}
	}
	if before(target.OSVersion, a.Introduced) {
		return &denial{code: CodeOSVersion, reason: fmt.Sprintf("needs %s %s or later; this device runs %s", target.Platform, a.Introduced, target.OSVersion)}
	}
	if a.Removed != "" && version(target.OSVersion) && !before(target.OSVersion, a.Removed) {
		return &denial{code: CodeOSVersion, reason: fmt.Sprintf("was removed in %s %s; this device runs %s", target.Platform, a.Removed, target.OSVersion)}
	}
	if target.UserEnrollment {
		// tvOS and watchOS have no User Enrollment, hence no fact about it.
		if a.UserEnrollment == forbidden || !part && a.UserEnrollment != "allowed" || before(target.OSVersion, a.UserEnrollmentSince) {
			return personalOnly
		}
	}
	if no := a.denyChannel(target, part); no != nil {
		return no
	}
	var unknown *denial
	for _, need := range []struct {
		needed               bool
		has                  *bool
		code, codeUnknown    string
		reason, whether, how string
	}{
		{a.SharedIPad.Mode == "required", target.sharedIPad(), CodeSharedIPadRequired, CodeSharedIPadUnknown,
			"needs a Shared iPad", "it is a Shared iPad", "refresh its information"},
		{a.Supervised, target.Supervised, CodeSupervision, CodeSupervisionUnknown,
			"needs a supervised device", "the device is supervised", "refresh its information"},
		{a.RequiresADE, target.ADE, CodeADE, CodeADEUnknown,
			"needs a device that came by Automated Device Enrollment", "the device did", "ask for its security information"},
		{a.UserApproved, target.Approved, CodeApproval, CodeApprovalUnknown,
			"needs an enrollment that the user has approved", "the user has", "ask for its security information"},
	} {
		switch {
		case !need.needed || is(need.has, false):
		case need.has != nil:
			return &denial{code: need.code, reason: need.reason}
		case unknown == nil:
			unknown = &denial{code: need.codeUnknown, unknown: true,
				reason: fmt.Sprintf("%s, and it is not known whether %s: %s first", need.reason, need.whether, need.how)}
		}
	}
	// The rights of a User Enrollment are fixed: UserEnrollment above speaks for them.
	if !target.UserEnrollment && target.AccessRights != 0 && target.AccessRights&a.RightBit != a.RightBit {
		return &denial{code: CodeAccessRight, reason: fmt.Sprintf("needs the access right %s (%d): this enrollment's rights do not cover it", a.Right, a.RightBit)}
	}
	return unknown
}

// sharedIPad is SharedIPad, and what follows from the rest: only an iPad can be one, and on
// iPads only a Shared iPad has user channels.
func (t Target) sharedIPad() *bool {
	switch yes, no := true, false; {
	case t.Platform != IOS:
		return &no
	case t.UserChannel:
		return &yes
	}
	return t.SharedIPad
}

func (a *Availability) denyChannel(target Target, part bool) *denial {
	device, user := true, part // a part goes where the whole goes
	switch {
	case target.Platform == MacOS:
		device, user = is(a.DeviceChannel, device), is(a.UserChannel, user)
	case is(target.sharedIPad(), false):
		if a.SharedIPad.Mode == forbidden {
			return &denial{code: CodeSharedIPad, reason: "is not allowed on a Shared iPad"}
		}
		device, user = is(a.SharedIPad.DeviceChannel, device), is(a.SharedIPad.UserChannel, user)
	}
	if target.UserChannel && !user {
		return &denial{code: CodeChannel, reason: "goes to a device, not to one of its users"}
	}
	if !target.UserChannel && !device {
		return &denial{code: CodeChannel, reason: "goes to a user of a device, not to the device"}
	}
	return nil
}

func is(b *bool, otherwise bool) bool {
	if b == nil {
		return otherwise
	}
	return *b
}

// version reports whether v is an OS version such as "18.2".
func version(v string) bool {
	for part := range strings.SplitSeq(v, ".") {
		if _, err := strconv.Atoi(part); err != nil {
			return false
		}
	}
	return true
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
