package profile

import "github.com/gatehouse-mdm/gatehouse/mdm/command"

// restriction is a switch of com.apple.applicationaccess.
type restriction struct {
	Parameter
	key   string
	value bool // of key, when the switch is on
}

// restrictions returns a starter whose parameters are switches.
func restrictions(s Starter, switches ...restriction) starter {
	for _, r := range switches {
		s.Parameters = append(s.Parameters, r.Parameter)
	}
	return starter{s, func(f *filling) {
		settings := map[string]any{}
		for _, r := range switches {
			if f.on(r.Name) {
				settings[r.key] = r.value
			}
		}
		if len(settings) == 0 {
			f.wrong(switches[0].Name, "is off like all others: turn on at least one")
		}
		f.add(DraftPayload{Type: restrictionsType, Settings: settings})
	}}
}

const restrictionsType = "com.apple.applicationaccess"

// protectionStarters are about passcodes and data.
func protectionStarters() []starter {
	apart := []restriction{
		{askWhether("open_in_from_managed", "Keep the organisation's documents out of personal apps", "Apps of the organisation don't open their documents in personal apps.", true), "allowOpenFromManagedToUnmanaged", false},
		{askWhether("open_in_to_managed", "Keep personal documents out of the organisation's apps", "", true), "allowOpenFromUnmanagedToManaged", false},
		{askWhether("pasteboard", "The same for copy and paste", "Goes by the two settings above.", true), "requireManagedPasteboard", true},
		{askWhether("airdrop", "Treat AirDrop as personal", "Documents of the organisation are not sent by AirDrop.", true), "forceAirDropUnmanaged", true},
		{askWhether("screenshots", "No screenshots and recordings", "On a personal device of the organisation's apps only.", true), "allowScreenShot", false},
		{askWhether("notifications", "No notification history on the Lock Screen", "", true), "allowLockScreenNotificationsView", false},
		{askWhether("control_center", "No Control Center on the Lock Screen", "", false), "allowLockScreenControlCenter", false},
		{askWhether("today_view", "No Today view on the Lock Screen", "", true), "allowLockScreenTodayView", false},
		{askWhether("cloud", "Keep data of the organisation's apps out of iCloud", "", true), "allowManagedAppsCloudSync", false},
		{askWhether("backup", "Backups to a computer are encrypted", "", false), "forceEncryptedBackup", true},
		{askWhether("siri_locked", "No Siri while the device is locked", "", false), "allowAssistantWhileLocked", false},
	}
	return []starter{
		{Starter{
			Name: "passcode", Title: "Passcode", Platforms: []command.Platform{command.IOS, command.MacOS, command.VisionOS, command.WatchOS},
			Summary: "Asks for a passcode and says how strong it must be. Personal devices (User Enrollment) go without these settings: Apple sets their passcode's rules.",
			Parameters: []Parameter{
				askNumber("min_length", "Minimum length", "", 4, 16).or(6),
				askWhether("simple", "Allow simple passcodes", "Such as 111111 or 123456.", false),
				askWhether("alphanumeric", "Letters and digits", "Digits alone do not do.", false),
				askNumber("auto_lock", "Lock after minutes", "The longest that people may choose.", 1, 15).or(5),
				askNumber("grace", "Minutes until the passcode is asked for again", "0: at once.", 0, 240),
				askNumber("failed_attempts", "Failed attempts", "Then an iPhone or iPad is erased, and a Mac locked.", 2, 11),
				askNumber("max_age", "Maximum age in days", "Then people choose another.", 1, 730),
				askNumber("history", "Passcodes that can't be used again", "", 1, 50),
			},
		}, func(f *filling) {
			settings := map[string]any{"forcePIN": true}
			for key, name := range map[string]string{
				"minLength": "min_length", "allowSimple": "simple", "requireAlphanumeric": "alphanumeric", "maxInactivity": "auto_lock",
				"maxGracePeriod": "grace", "maxFailedAttempts": "failed_attempts", "maxPINAgeInDays": "max_age", "pinHistory": "history",
			} {
				f.put(settings, key, name)
			}
			f.add(DraftPayload{Type: "com.apple.mobiledevice.passwordpolicy", Settings: settings})
		}},
		restrictions(Starter{
			Name: "byod-data-protection", Title: "Data protection for personal devices", Platforms: []command.Platform{command.IOS}, UserEnrollment: true,
			Summary: "Keeps the organisation's data apart from what is private, by what Apple allows on personal devices (User Enrollment).",
		}, apart...),
		restrictions(Starter{
			Name: "supervised-data-protection", Title: "Data protection for supervised devices", Platforms: []command.Platform{command.IOS}, Supervised: true,
			Summary: "Keeps the organisation's data apart on its supervised iPhones and iPads, with more restrictions that Apple allows there.",
		}, append(apart,
			restriction{askWhether("profiles", "People install no profiles", "", true), "allowUIConfigurationProfileInstallation", false},
			restriction{askWhether("pairing", "No pairing with other computers", "Computers that supervise the device still may.", true), "allowHostPairing", false},
			restriction{askWhether("usb_drives", "No USB drives", "", true), "allowFilesUSBDriveAccess", false},
			restriction{askWhether("network_drives", "No network drives", "", false), "allowFilesNetworkDriveAccess", false},
			restriction{askWhether("vpn", "People add no VPN", "", false), "allowVPNCreation", false},
			restriction{askWhether("icloud_backup", "No iCloud backup", "", false), "allowCloudBackup", false},
			restriction{askWhether("icloud_documents", "No documents in iCloud", "", false), "allowCloudDocumentSync", false},
			restriction{askWhether("airdrop_off", "No AirDrop at all", "", false), "allowAirDrop", false},
			restriction{askWhether("erase", "People don't erase the device", "", false), "allowEraseContentAndSettings", false},
			restriction{askWhether("accounts", "People change no accounts", "", false), "allowAccountModification", false},
			restriction{askWhether("date", "Date and time are set automatically", "", false), "forceAutomaticDateAndTime", true},
		)...),
		{Starter{
			Name: "lock-screen-message", Title: "Lock Screen message", Platforms: []command.Platform{command.IOS}, Supervised: true,
			Summary: "Says on the Lock Screen whose device it is, and where to bring it when it is found.",
			Parameters: []Parameter{
				ask("message", "Message", "If found, please return to …", FormVariables).required(),
				ask("asset_tag", "Asset tag", "", FormVariables),
			},
		}, func(f *filling) {
			settings := map[string]any{}
			f.put(settings, "LockScreenFootnote", "message")
			f.put(settings, "AssetTagInformation", "asset_tag")
			f.add(DraftPayload{Type: "com.apple.shareddeviceconfiguration", Settings: settings})
		}},
		{Starter{
			Name: "update-deferral", Title: "Delay of software updates", Platforms: []command.Platform{command.IOS, command.MacOS, command.TVOS}, Supervised: true,
			Summary: "Hides new versions of the system for some days. Version 27 of Apple's systems takes this by declarative management only.",
			Parameters: []Parameter{
				askNumber("days", "Days", "", 1, 90).or(30),
				askNumber("major_days", "Days for new macOS versions", "Such as from macOS 15 to 26. Empty: the same.", 1, 90),
			},
		}, func(f *filling) {
			settings := map[string]any{"forceDelayedSoftwareUpdates": true, "forceDelayedMajorSoftwareUpdates": true}
			f.put(settings, "enforcedSoftwareUpdateDelay", "days")
			f.put(settings, "enforcedSoftwareUpdateMinorOSDeferredInstallDelay", "days")
			f.put(settings, "enforcedSoftwareUpdateMajorOSDeferredInstallDelay", "days")
			f.put(settings, "enforcedSoftwareUpdateMajorOSDeferredInstallDelay", "major_days")
			f.add(DraftPayload{Type: restrictionsType, Settings: settings})
		}},
	}
}
