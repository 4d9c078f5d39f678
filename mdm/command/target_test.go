package command_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/mdm/command"
)

func TestCheck(t *testing.T) {
	yes, no := true, false
	const allRights = 8191
	for name, tt := range map[string]struct {
		requestType string
		target      command.Target
		code        string // empty: allowed
		reason      string // a part of it
	}{
		"a Mac may be locked": {
			"DeviceLock", command.Target{Platform: command.MacOS, OSVersion: "14.5", AccessRights: allRights}, "", "",
		},
		"an unknown device may be asked for its information": {
			"DeviceInformation", command.Target{}, "", "",
		},
		"a platform of the future is left to the device": {
			"DeviceInformation", command.Target{Platform: "homeos"}, "", "",
		},
		"an unknown version is left to the device": {
			"RestartDevice", command.Target{Platform: command.MacOS}, "", "",
		},
		"an unreadable version is left to the device": {
			"RestartDevice", command.Target{Platform: command.MacOS, OSVersion: "beta"}, "", "",
		},
		"an Apple TV has no lock": {
			"DeviceLock", command.Target{Platform: command.TVOS}, command.CodePlatform, "tvOS",
		},
		"too old a system": {
			"RestartDevice", command.Target{Platform: command.MacOS, OSVersion: "10.12.6"}, command.CodeOSVersion, "10.13 or later; this device runs 10.12.6",
		},
		"versions are numbers, not text": {
			"RestartDevice", command.Target{Platform: command.MacOS, OSVersion: "10.13"}, "", "",
		},
		"the first version that has it": {
			"RestartDevice", command.Target{Platform: command.IOS, OSVersion: "10.3.0", Supervised: &yes}, "", "",
		},
		"nobody erases a personal iPhone": {
			"EraseDevice", command.Target{Platform: command.IOS, UserEnrollment: true}, command.CodeUserEnrollment, "personal",
		},
		"nobody erases a personal device of an unknown platform": {
			"EraseDevice", command.Target{UserEnrollment: true}, command.CodeUserEnrollment, "personal",
		},
		"a personal iPhone may be locked": {
			"DeviceLock", command.Target{Platform: command.IOS, UserEnrollment: true}, "", "",
		},
		"a personal Mac may not": {
			"DeviceLock", command.Target{Platform: command.MacOS, UserEnrollment: true}, command.CodeUserEnrollment, "personal",
		},
		"apps of a personal Mac are not listed": {
			"InstalledApplicationList", command.Target{Platform: command.MacOS, UserEnrollment: true}, command.CodeUserEnrollment, "personal",
		},
		"User Enrollment has fixed rights, whatever the profile said": {
			"DeviceLock", command.Target{Platform: command.IOS, UserEnrollment: true, AccessRights: 1}, "", "",
		},
		"User Enrollment allows it from a version on": {
			"RemoveApplication", command.Target{Platform: command.MacOS, OSVersion: "26.1", UserEnrollment: true}, command.CodeUserEnrollment, "personal",
		},
		"and from there on it does": {
			"RemoveApplication", command.Target{Platform: command.MacOS, OSVersion: "26.2", UserEnrollment: true}, "", "",
		},
		"a Mac's user gets profiles": {
			"InstallProfile", command.Target{Platform: command.MacOS, UserChannel: true}, "", "",
		},
		"a Mac's user is not erased": {
			"EraseDevice", command.Target{Platform: command.MacOS, UserChannel: true}, command.CodeChannel, "not to one of its users",
		},
		"a user of an unknown platform is not erased": {
			"EraseDevice", command.Target{UserChannel: true}, command.CodeChannel, "not to one of its users",
		},
		"a command for users only": {
			"ActiveNSExtensions", command.Target{Platform: command.MacOS}, command.CodeChannel, "not to the device",
		},
		"a Shared iPad's user gets profiles": {
			"InstallProfile", command.Target{Platform: command.IOS, SharedIPad: &yes, UserChannel: true}, "", "",
		},
		"a Shared iPad's user is not asked for certificates": {
			"CertificateList", command.Target{Platform: command.IOS, SharedIPad: &yes, UserChannel: true}, command.CodeChannel, "not to one of its users",
		},
		"what a Shared iPad forbids": {
			"RequestUnlockToken", command.Target{Platform: command.IOS, SharedIPad: &yes}, command.CodeSharedIPad, "Shared iPad",
		},
		"an Apple TV has no users": {
			"ProfileList", command.Target{Platform: command.TVOS, UserChannel: true}, command.CodeChannel, "not to one of its users",
		},
		"an unsupervised iPhone does not restart": {
			"RestartDevice", command.Target{Platform: command.IOS, Supervised: &no}, command.CodeSupervision, "supervised",
		},
		"a supervised one does": {
			"RestartDevice", command.Target{Platform: command.IOS, Supervised: &yes}, "", "",
		},
		"an iPhone that was not asked is asked first": {
			"RestartDevice", command.Target{Platform: command.IOS}, command.CodeSupervisionUnknown, "needs a supervised device, and it is not known whether the device is supervised: refresh its information first",
		},
		"what is certain goes before what is not known": {
			"EnableLostMode", command.Target{Platform: command.IOS, OSVersion: "9.2"}, command.CodeOSVersion, "9.3 or later",
		},
		"a device of an unknown platform that may be one that needs no supervision": {
			"RestartDevice", command.Target{}, "", "",
		},
		"a device of an unknown platform, all of which need supervision": {
			"EnableLostMode", command.Target{}, command.CodeSupervisionUnknown, "refresh its information",
		},
		"an iPad that may be shared": {
			"LogOutUser", command.Target{Platform: command.IOS}, command.CodeSharedIPadUnknown, "not known whether it is a Shared iPad",
		},
		"an iPad of one person": {
			"LogOutUser", command.Target{Platform: command.IOS, SharedIPad: &no}, command.CodeSharedIPadRequired, "needs a Shared iPad",
		},
		"an iPad of many": {
			"LogOutUser", command.Target{Platform: command.IOS, SharedIPad: &yes}, "", "",
		},
		"what a Shared iPad alone forbids is not refused where that is not known": {
			"ClearPasscode", command.Target{Platform: command.IOS}, "", "",
		},
		"what is gone in 27": {
			"ScheduleOSUpdateScan", command.Target{Platform: command.MacOS, OSVersion: "27.0.1", Supervised: &yes}, command.CodeOSVersion, "was removed in macOS 27.0; this device runs 27.0.1",
		},
		"what was there in 26": {
			"ScheduleOSUpdateScan", command.Target{Platform: command.MacOS, OSVersion: "26.9", Supervised: &yes}, "", "",
		},
		"a version that can't be read removes nothing": {
			"ScheduleOSUpdateScan", command.Target{Platform: command.MacOS, OSVersion: "beta", Supervised: &yes}, "", "",
		},
		"what Automated Device Enrollment alone may": {
			"SetAutoAdminPassword", command.Target{Platform: command.MacOS, ADE: &no}, command.CodeADE, "Automated Device Enrollment",
		},
		"a Mac that came by it": {
			"SetAutoAdminPassword", command.Target{Platform: command.MacOS, ADE: &yes}, "", "",
		},
		"a Mac that came in an unknown way is asked first": {
			"SetAutoAdminPassword", command.Target{Platform: command.MacOS}, command.CodeADEUnknown, "ask for its security information first",
		},
		"what needs no such enrollment": {
			"DeviceLock", command.Target{Platform: command.MacOS, ADE: &no}, "", "",
		},
		"a right that was not granted": {
			"EraseDevice", command.Target{Platform: command.IOS, AccessRights: allRights &^ 8}, command.CodeAccessRight, "AllowDeviceErase (8): this enrollment's rights do not cover it",
		},
		"rights that are not known": {
			"EraseDevice", command.Target{Platform: command.IOS}, "", "",
		},
	} {
		t.Run(name, func(t *testing.T) {
			typ, ok := command.Lookup(tt.requestType)
			if !ok {
				t.Fatalf("Lookup(%q) found nothing", tt.requestType)
			}
			err := typ.Check(tt.target)
			if tt.code == "" {
				if err != nil {
					t.Fatalf("Check(%+v) = %v, want nil", tt.target, err)
				}
				return
			}
			var refusal *command.Refusal
			if !errors.As(err, &refusal) || refusal.Code != tt.code || !strings.Contains(refusal.Reason, tt.reason) {
				t.Fatalf("Check(%+v) = %#v, want code %s, reason with %q", tt.target, err, tt.code, tt.reason)
			}
			if !strings.HasSuffix(refusal.Reason, ".") {
				t.Errorf("reason %q is not a sentence", refusal.Reason)
			}
		})
	}
}
