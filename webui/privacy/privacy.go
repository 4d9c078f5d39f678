// Package privacy says what an organisation can do with a device and see of it, and what
// it can't, as keys of texts. It follows from the rights that an enrollment profile asks
// for, so that what the portal promises is what the device allows.
//
// It knows no device and no language: package text has the texts, in the room privacy.
package privacy

import (
	"slices"

	"github.com/gatehouse-mdm/gatehouse/enroll"
)

// item is one thing that there are two texts for: that the organisation can, and that
// it can't.
type item struct {
	right       int
	can, cannot string // keys; empty: not worth a line
}

// items come in the order of what weighs most (PROTOCOL 3.3 and 5.5).
var items = []item{
	{enroll.RightErase, "erase", "erase"},
	{enroll.RightLock, "lock", "lock"},
	{enroll.RightInspectApps, "see_apps", "see_apps"},
	{enroll.RightNetworkInformation, "see_network", "see_network"},
	{enroll.RightDeviceInformation, "see_device", "see_device"},
	{enroll.RightSecurityInformation, "see_security", "see_security"},
	{enroll.RightInspectProfiles, "see_profiles", "see_profiles"},
	{enroll.RightInspectRestrictions, "see_restrictions", ""},
	{enroll.RightInspectProvisioning, "see_provisioning", ""},
	{enroll.RightInstallProfiles, "profiles", "profiles"},
	{enroll.RightManageApps, "apps", "apps"},
	{enroll.RightInstallProvisioning, "provisioning", ""},
	{enroll.RightSettings, "settings", "settings"},
}

// What the rights of a User Enrollment come to. Apple fixes them: the commands that such
// an enrollment takes are in PROTOCOL 5.5, its payloads in 3.8.
var (
	userCan = []string{
		"lock_screen", "see_device_user", "see_security", "see_profiles_user", "see_apps_user",
		"profiles_user", "apps_user", "removed",
	}
	userCannot = []string{"erase", "passcode", "see_apps", "see_network", "see_identifiers", "location"}
)

// never is what no enrollment allows.
var never = []string{"messages", "photos", "browsing"}

// Of returns what the organisation can and cannot do with a device that enrolls, or has
// enrolled, with these AccessRights, a sum of Apple's bits, as keys of texts
// ("privacy.can.erase"). The rights of a User Enrollment are fixed: rights don't count
// then, and a Mac has fewer than other devices. Rights of 0 without one are not known, as
// of a device that enrolled before they were kept, and so taken for all.
func Of(rights int, userEnrollment, mac bool) (can, cannot []string) {
	if userEnrollment {
		can, cannot := userCan, userCannot
		if mac { // DeviceLock is not for it
			can = slices.DeleteFunc(slices.Clone(can), func(name string) bool { return name == "lock_screen" })
			cannot = slices.Insert(slices.Clone(cannot), 1, "lock_screen")
		}
		return keys("can", can), append(keys("cannot", cannot), keys("cannot", never)...)
	}
	if rights == 0 {
		rights = enroll.AllRights
	}
	for _, i := range items {
		switch {
		case rights&i.right != 0:
			can = append(can, "privacy.can."+i.can)
		case i.cannot != "":
			cannot = append(cannot, "privacy.cannot."+i.cannot)
		}
	}
	can = append(can, "privacy.can.removed")
	cannot = append(cannot, "privacy.cannot.location_unless_lost")
	return can, append(cannot, keys("cannot", never)...)
}

func keys(list string, names []string) []string {
	all := make([]string, len(names))
	for i, name := range names {
		all[i] = "privacy." + list + "." + name
	}
	return all
}
