package command

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// labels are the names of keys whose own name, cut into words, would not be understood,
// or would be misread.
var labels = map[string]string{
	// DeviceInformation
	"UDID": "UDID", "ProvisioningUDID": "Provisioning UDID", "OSVersion": "OS version",
	"SupplementalOSVersionExtra": "Rapid Security Response", "SupplementalBuildVersion": "Supplemental build",
	"BuildVersion": "Build", "ProductName": "Product", "IsAppleSilicon": "Apple silicon",
	"DeviceCapacity": "Capacity", "AvailableDeviceCapacity": "Free space", "HasBattery": "Battery",
	"IsMultiUser": "Shared iPad", "IsDeviceLocatorServiceEnabled": "Find My", "IsActivationLockEnabled": "Activation Lock",
	"IsActivationLockSupported": "Activation Lock supported", "IsDoNotDisturbInEffect": "Do Not Disturb",
	"IsCloudBackupEnabled": "iCloud backup", "LastCloudBackupDate": "Last iCloud backup",
	"IsMDMLostModeEnabled": "Managed Lost Mode", "AwaitingConfiguration": "Waits in Setup Assistant",
	"iTunesStoreAccountIsActive": "App Store account", "iTunesStoreAccountHash": "App Store account (hash)",
	"SupportsLOMDevice": "Lights-out management", "EASDeviceIdentifier": "Exchange ActiveSync identifier",
	"PINRequiredForEraseDevice": "Erase needs a PIN", "PINRequiredForDeviceLock": "Lock needs a PIN",
	"SupportsiOSAppInstalls": "Runs iOS apps", "EACSPreflight": "Erase All Content and Settings",
	"DiagnosticSubmissionEnabled": "Diagnostics sent to Apple", "AppAnalyticsEnabled": "App analytics shared",
	"PersonalHotspotEnabled": "Personal Hotspot", "DataRoamingEnabled": "Data roaming", "VoiceRoamingEnabled": "Voice roaming",
	"IsNetworkTethered": "Tethered network", "WiFiMAC": "Wi-Fi MAC address", "BluetoothMAC": "Bluetooth MAC address",
	"EthernetMAC": "Ethernet MAC address", "ICCID": "SIM (ICCID)", "EID": "eSIM (EID)",
	"SIMMCC": "SIM country code (MCC)", "SIMMNC": "SIM network code (MNC)", "SubscriberMCC": "Home country code (MCC)",
	"SubscriberMNC": "Home network code (MNC)", "CurrentMCC": "Current country code (MCC)", "CurrentMNC": "Current network code (MNC)",
	"ServiceSubscriptions": "Mobile subscriptions", "SystemIntegrityProtectionEnabled": "System Integrity Protection",
	"OrganizationInfo": "Organization", "OrganizationName": "Name", "OrganizationAddress": "Address", "OrganizationPhone": "Phone",
	"OrganizationEmail": "Email", "OrganizationMagic": "Identifier", "MDMOptions": "MDM options",
	"ActivationLockAllowedWhileSupervised":             "Activation Lock allowed while supervised",
	"PromptUserToAllowBootstrapTokenForAuthentication": "Asks user before using bootstrap token",
	"ActiveManagedUsers":                               "Managed users logged in", "AutoSetupAdminAccounts": "Administrators made at setup",
	"MaximumResidentUsers": "Users at most", "EstimatedResidentUsers": "Users, estimated room", "ResidentUsers": "Users on the iPad",
	"QuotaSize": "Space of each user", "ManagedAppleIDDefaultDomains": "Suggested domains",
	"OnlineAuthenticationGracePeriod": "Log in online every", "OSUpdateSettings": "Software updates",
	"SoftwareUpdateSettings": "Software updates", "RecommendationsCadence": "Updates shown",
	"SoftwareUpdateDeviceID": "Software update model", "DevicePropertiesAttestation": "Attestation by Apple",
	"AccessibilitySettings": "Accessibility", "VoiceOverEnabled": "VoiceOver", "BoldTextEnabled": "Bold text",
	"IncreaseContrastEnabled": "Increased contrast", "ReduceMotionEnabled": "Reduced motion", "ReduceTransparencyEnabled": "Reduced transparency",
	"TouchAccommodationsEnabled": "Touch accommodations", "ZoomEnabled": "Zoom", "GrayscaleEnabled": "Grayscale",
	"PreviousScanDate":   "Last scan",
	"PreviousScanResult": "Result of last scan",

	// SecurityInfo
	"HardwareEncryptionCaps": "Hardware encryption", "PasscodePresent": "Passcode set",
	"PasscodeCompliant": "Passcode meets all rules", "PasscodeCompliantWithProfiles": "Passcode meets the profiles' rules",
	"PasscodeLockGracePeriod": "Passcode asked after", "PasscodeLockGracePeriodEnforced": "Passcode asked after, enforced",
	"AutoLockTime": "Locks by itself after", "FDE_Enabled": "FileVault",
	"FDE_HasPersonalRecoveryKey": "FileVault personal recovery key", "FDE_HasInstitutionalRecoveryKey": "FileVault institutional recovery key",
	"FDE_PersonalRecoveryKeyCMS":       "FileVault recovery key (encrypted)",
	"FDE_PersonalRecoveryKeyDeviceKey": "FileVault recovery key made for",
	"FirewallSettings":                 "Firewall", "FirewallEnabled": "Enabled", "BlockAllIncoming": "Blocks all incoming connections",
	"LoggingEnabled": "Logs", "LoggingOption": "Log detail", "FirmwarePasswordStatus": "Firmware password",
	"PasswordExists": "Set", "ChangePending": "Change waits for a restart", "AllowOroms": "Option ROMs allowed",
	"ManagementStatus": "Management", "EnrolledViaDEP": "Automated Device Enrollment", "UserApprovedEnrollment": "Approved by the user",
	"IsUserEnrollment": "User Enrollment", "IsActivationLockManageable": "Activation Lock manageable",
	"SecureBoot": "Startup security", "SecureBootLevel": "Level", "ExternalBootLevel": "Start from external media",
	"RemoteDesktopEnabled": "Remote Desktop", "AuthenticatedRootVolumeEnabled": "Sealed system volume",
	"BootstrapTokenAllowedForAuthentication":           "Bootstrap token for authentication",
	"BootstrapTokenRequiredForSoftwareUpdate":          "Software update needs bootstrap token",
	"BootstrapTokenRequiredForKernelExtensionApproval": "Kernel extensions need bootstrap token",
	"IsRecoveryLockEnabled":                            "Recovery Lock",
	"AllowsAnyAppleSignedOS":                           "Any system that Apple signed",
	"AllowsUserKextApproval":                           "Users may approve kernel extensions",
	"AllowsMDM":                                        "MDM may manage kernel extensions",

	// Lists
	"InstalledApplicationList": "Installed apps", "ManagedApplicationList": "Managed apps", "app identifier": "App",
	"ProfileList": "Profiles", "CertificateList": "Certificates", "ProvisioningProfileList": "Provisioning profiles",
	"AvailableOSUpdates": "Available updates", "OSUpdateStatus": "Updates", "UpdateResults": "Updates", "ResponseList": "Requests",
	"BundleSize": "App size", "DynamicSize": "Data size",
	"ExternalVersionIdentifier": "App Store version", "IsValidated": "Validated", "AppStoreVendable": "From App Store",
	"DeviceBasedVPP": "Licensed to device", "BetaApp": "TestFlight", "AdHocCodeSigned": "Ad hoc signed",
	"HasUpdateAvailable": "Update available", "IsAppClip": "App Clip", "DistributorIdentifier": "Marketplace",
	"HasConfiguration": "Has configuration", "HasFeedback": "Has feedback", "ManagementFlags": "Management",
	"UnusedRedemptionCode": "Unused redemption code",
	"IsIdentity":           "Identity", "Data": "Certificate",
	"PayloadUUID": "UUID", "PayloadIdentifier": "Identifier", "PayloadVersion": "Version", "PayloadDisplayName": "Name",
	"PayloadOrganization": "Organization", "PayloadDescription": "Description", "PayloadRemovalDisallowed": "Not removable",
	"HasRemovalPasscode": "Removal needs a passcode", "SignerCertificates": "Signed by", "IsManaged": "Installed by MDM",
	"PayloadContent": "Payloads", "IsLoggedIn": "Logged in", "UID": "UID", "UserGUID": "GUID", "DataQuota": "Quota", "DataUsed": "Used",
	"MobileAccount": "Mobile account", "HasSecureToken": "Secure token", "iTunesStoreID": "App Store ID",
	"IsDownloaded": "Downloaded", "DownloadPercentComplete": "Download", "HumanReadableName": "Name",
	"HumanReadableNameLocale": "Language of the name", "MetadataURL": "Metadata", "AppIdentifiersToClose": "Apps to close",
	"IsMajorOSUpdate": "Major", "IsSecurityResponse": "Security response", "ErrorChain": "Error", "Extensions": "Extensions",
	"GlobalRestrictions": "Restrictions", "ProfileRestrictions": "Restrictions by profile",

	// Others
	"ActivationLockBypassCode": "Activation Lock bypass code", "MessageResult": "Message",
	"MirroringResult": "Mirroring", "InvitationResult": "Invitation", "EncryptedNewRecoveryKey": "New recovery key (encrypted)",
	"PasswordChanged": "Password changed", "PasswordVerified": "Password is right", "UnlockToken": "Unlock token",
	"DeviceRequestReturnError": "Error", "DeviceRequestUUID": "Request", "DeviceRequestSuccess": "Done",
	"LOMProtocolVersion": "Protocol version", "TetheratorStatus": "Tethered caching", "ServerGUID": "Server GUID",
	"MaxCachePressureLast1Hour": "Cache pressure in the last hour", "TotalBytesAreSince": "Counted since",
	"ac-power": "AC power", "im": "Imports and uploads", "ns": "Namespaces", "pc": "Personal caching", "sc": "Shared caching",
	"ur": "Priorities", "guid": "GUID", "is-portable": "Portable", "className": "Kind", "postDate": "Date", "Category Name": "Category", "VPNUUID": "Per-app VPN",
}

// labelOf returns the name of a key in words.
func labelOf(key string) string {
	if label, ok := labels[key]; ok {
		return label
	}
	if stripped, ok := strings.CutPrefix(key, "Is"); ok && stripped != "" && stripped[0] >= 'A' && stripped[0] <= 'Z' {
		key = stripped
	}
	label := inWords(clip(key))
	if label == "" {
		return "Value"
	}
	r, size := utf8.DecodeRuneInString(label)
	for _, name := range brands {
		if strings.HasPrefix(label, name.written) {
			return label
		}
	}
	return string(unicode.ToUpper(r)) + label[size:]
}

// brands are the names that don't follow the rules of words in keys.
var brands = []struct{ key, written string }{
	{"iTunes", "iTunes"}, {"iCloud", "iCloud"}, {"iOS", "iOS"}, {"eSIM", "eSIM"}, {"WiFi", "Wi-Fi"}, {"IPv6", "IPv6"},
	{"MacOS", "macOS"}, {"AppleID", "Apple Account"},
}

// inWords cuts a key into words: "CurrentCarrierNetwork" is "current carrier network",
// "MDMOptions" is "MDM options".
func inWords(key string) string {
	var words []string
	rest := []rune(key)
next:
	for len(rest) > 0 {
		for _, b := range brands {
			if strings.HasPrefix(string(rest[:min(len(rest), 8)]), b.key) {
				words = append(words, b.written)
				rest = rest[utf8.RuneCountInString(b.key):]
				continue next
			}
		}
		n := 1
		switch {
		case !unicode.IsLetter(rest[0]) && !unicode.IsDigit(rest[0]):
			rest = rest[1:]
			continue
		case unicode.IsUpper(rest[0]) && len(rest) > 1 && !unicode.IsLower(rest[1]):
			for n < len(rest) && (unicode.IsUpper(rest[n]) || unicode.IsDigit(rest[n])) && (n+1 == len(rest) || !unicode.IsLower(rest[n+1])) {
				n++
			}
			words = append(words, string(rest[:n]))
		default:
			for n < len(rest) && (unicode.IsLower(rest[n]) || unicode.IsDigit(rest[n])) {
				n++
			}
			words = append(words, strings.ToLower(string(rest[:n])))
		}
		rest = rest[n:]
	}
	return strings.Join(words, " ")
}

// uncapitalized returns a label as it stands within a sentence.
func uncapitalized(label string) string {
	r, size := utf8.DecodeRuneInString(label)
	second, _ := utf8.DecodeRuneInString(label[size:])
	if !unicode.IsLower(second) || slices.ContainsFunc(properNames, func(name string) bool { return strings.HasPrefix(label, name) }) {
		return label
	}
	return string(unicode.ToLower(r)) + label[size:]
}

var properNames = []string{"Activation Lock", "Automated Device", "User Enrollment", "VoiceOver", "App Store", "Apple", "Ethernet", "Bluetooth", "Wi-Fi", "Face", "Touch ID"}

// onOff are the truth values that are switches: their labels name a thing.
var onOff = []string{
	"IsDeviceLocatorServiceEnabled", "IsActivationLockEnabled", "IsDoNotDisturbInEffect", "IsCloudBackupEnabled", "IsMDMLostModeEnabled",
	"PersonalHotspotEnabled", "DataRoamingEnabled", "VoiceRoamingEnabled", "SystemIntegrityProtectionEnabled", "FDE_Enabled",
	"RemoteDesktopEnabled", "AuthenticatedRootVolumeEnabled", "IsRecoveryLockEnabled", "BoldTextEnabled", "IncreaseContrastEnabled",
	"ReduceMotionEnabled", "ReduceTransparencyEnabled", "TouchAccommodationsEnabled", "VoiceOverEnabled", "ZoomEnabled", "GrayscaleEnabled",
}

// words are the values of enumerations that don't explain themselves, by key and value.
var words = map[string]map[string]string{
	"CellularTechnology":     {"0": "none", "1": "GSM", "2": "CDMA", "3": "GSM and CDMA"},
	"HardwareEncryptionCaps": {"0": "none", "1": "block level", "2": "file level", "3": "block level and file level"},
	"RecommendationsCadence": {"0": "all", "1": "older ones only", "2": "newer ones only"},
	"TextSize":               {"-1": "not set"},
	"RegistrationStatus":     {"-1": "failed", "0": "pending", "1": "registered"},
	"TetheratorStatus":       {"-1": "not known", "0": "off", "1": "on"},
	"CacheStatus":            {"OK": "OK", "LOWSPACE": "short of space"},
	"StartupStatus":          {"OK": "OK", "FAILED": "failed", "MIGRATING_DATA": "moving its data", "PENDING": "pending"},
	"ManagementFlags": {
		"0": "stays when management ends", "1": "removed when management ends", "4": "not in backups",
		"5": "removed when management ends, not in backups",
	},
	"SecureBootLevel":    {"off": "no security", "medium": "medium security", "full": "full security", "not supported": "not supported"},
	"UserElection":       {"Default": "as the system sets it", "Use": "turned on by the user", "Ignore": "turned off by the user"},
	"EACSPreflight":      {"success": "possible", "not supported": "not supported by this Mac", "unknown failure": "not possible, for an unknown reason"},
	"MessageResult":      {"Success": "shown", "NoPasscodeSet": "not shown: no passcode is set", "MDMClientNotManaged": "not shown", "MobileDeviceLockdownFailed": "not shown"},
	"MirroringResult":    {"Prompting": "asks the user", "DestinationNotFound": "destination not found", "Cancelled": "cancelled", "Unknown": "not known"},
	"InvitationResult":   {"Acknowledged": "accepted", "InvalidProgramID": "unknown program", "InvalidInvitationURL": "the invitation's URL is not valid"},
	"PreviousScanResult": {"0": "success"},
	"Status":             appStates,
	"State":              appStates,
	"RejectionReason": {
		"AppAlreadyInstalled": "already installed, and the user did not let it be managed", "AppAlreadyQueued": "already on its way",
		"AppStoreDisabled": "the App Store is off on the device", "CouldNotVerifyAppID": "Apple does not know this App Store ID",
		"ManagementChangeNotSupported": "the app can't become managed", "NotAnApp": "not an app", "NotSupported": "not supported",
		"Other": "for another reason", "PurchaseMethodNotSupported": "this way of licensing is not supported",
		"PurchaseMethodNotSupportedInMultiUser": "a Shared iPad needs licenses for devices",
		"CouldNotVerifyITunesStoreID":           "Apple does not know this ID", "PurchaseNotFound": "no purchase found", "WrongMediaType": "wrong kind of medium",
		"DownloadInvalid": "the download is damaged", "EnterpriseBooksNotSupportedInMultiUser": "not supported on a Shared iPad",
	},
}

// appStates are what an app, a book or an update can be (Apple's pages
// ManagedApplicationListResponse, InstallApplicationResponse, ScheduleOSUpdateResponse).
var appStates = map[string]string{
	"Queued": "waits to be installed", "NeedsRedemption": "needs a redemption code", "Redeeming": "redeeming its code",
	"Prompting": "asks the user", "PromptingForLogin": "asks the user to sign in to the App Store", "ValidatingPurchase": "checking the purchase",
	"PromptingForUpdate": "asks the user about an update", "PromptingForUpdateLogin": "asks the user to sign in for an update",
	"PromptingForManagement": "asks the user whether it may be managed", "ValidatingUpdate": "checking an update", "Updating": "updating",
	"Installing": "installing", "Managed": "installed and managed", "ManagedButUninstalled": "managed, but removed by the user",
	"Unknown": "not known", "UserInstalledApp": "installed by the user before", "UserRejected": "the user declined it",
	"UpdateRejected": "the user declined the update", "ManagementRejected": "the user declined its management", "Failed": "failed",
	"Installed": "installed", "Uninstalled": "not installed",
	"Idle": "idle", "Downloading": "downloading", "DownloadFailed": "the download failed", "DownloadRequiresComputer": "needs a computer to download",
	"DownloadInsufficientSpace": "too little space to download", "DownloadInsufficientPower": "too little power to download",
	"DownloadInsufficientNetwork": "network too weak to download", "InstallInsufficientSpace": "too little space to install",
	"InstallInsufficientPower": "too little power to install", "InstallPhoneCallInProgress": "waits for the end of a phone call",
	"InstallFailed": "the installation failed", "Acknowledged": "done", "Error": "failed", "CommandFormatError": "not understood", "NotNow": "not now",
}

// units are the keys whose numbers measure something.
var units = map[string]func(float64) string{
	"DeviceCapacity":          func(n float64) string { return trimmed(n, 1) + " GB" },
	"AvailableDeviceCapacity": func(n float64) string { return trimmed(n, 1) + " GB" },
	"QuotaSize":               func(n float64) string { return grouped(n) + " MB" },
	"BatteryLevel": func(n float64) string {
		if n < 0 {
			return "no battery"
		}
		return percent(n)
	},
	"DownloadPercentComplete": percent, "DataMigrationProgress": percent, "MaxCachePressureLast1Hour": percent,
	"PasscodeLockGracePeriod": graceful, "PasscodeLockGracePeriodEnforced": graceful,
	"AutoLockTime": limited, "UserSessionTimeout": limited, "TemporarySessionTimeout": limited,
	"OnlineAuthenticationGracePeriod": func(n float64) string {
		switch n {
		case 0:
			return "every time"
		case 1:
			return "day"
		}
		return trimmed(n, 0) + " days"
	},
	"BundleSize": size, "DynamicSize": size, "DownloadSize": size, "InstallSize": size, "DataQuota": size, "DataUsed": size,
	"ActualCacheUsed": size, "CacheFree": size, "CacheUsed": size, "PersonalCacheFree": size, "PersonalCacheUsed": size,
	"CacheLimit": unlimited, "PersonalCacheLimit": unlimited, "cacheLimit": unlimited, "cache-size": size, "reservedVolumeSpace": size,
	"TotalBytesDropped": size, "TotalBytesImported": size, "TotalBytesReturnedToChildren": size, "TotalBytesReturnedToClients": size,
	"TotalBytesReturnedToPeers": size, "TotalBytesStoredFromOrigin": size, "TotalBytesStoredFromParents": size, "TotalBytesStoredFromPeers": size,
	"Category Name":      size,
	"speed":              func(n float64) string { return grouped(n) + " Mbit/s" },
	"Latitude":           func(n float64) string { return trimmed(n, 6) + "°" },
	"Longitude":          func(n float64) string { return trimmed(n, 6) + "°" },
	"HorizontalAccuracy": metres, "VerticalAccuracy": metres, "Altitude": metres,
	"Speed": func(n float64) string { return positive(n, trimmed(n, 1)+" m/s") }, "Course": func(n float64) string { return positive(n, trimmed(n, 0)+"°") },
}

// text returns a value in words.
func text(v any, k Key) string {
	switch v := v.(type) {
	case nil:
		return "not known"
	case bool:
		return truth(k.Name, v)
	case json.Number:
		return clipText(numberText(v, k))
	case string:
		return stringText(v, k)
	case []any:
		return listText(v, k)
	case map[string]any:
		return dictionaryText(v, k.Keys)
	}
	return clipText(fmt.Sprint(v))
}

func truth(key string, v bool) string {
	switch on := slices.Contains(onOff, key); {
	case on && v:
		return "on"
	case on:
		return "off"
	case v:
		return "yes"
	}
	return "no"
}

func numberText(n json.Number, k Key) string {
	f, err := n.Float64()
	if word, ok := words[k.Name][trimmed(f, 6)]; ok && err == nil {
		return word
	}
	if unit, ok := units[k.Name]; ok && err == nil {
		return unit(f)
	}
	if strings.ContainsAny(n.String(), ".eE") && err == nil {
		return trimmed(f, 6)
	}
	return n.String()
}

func stringText(s string, k Key) string {
	switch {
	case s == "":
		return "empty"
	case k.Kind == Data && s != Redacted:
		return dataText(s)
	}
	if word, ok := words[k.Name][s]; ok {
		return word
	}
	if len(k.Enum) > 0 && slices.Contains(k.Enum, any(s)) {
		return inWords(s)
	}
	return clipText(s)
}

// dataText says what base64 holds: a certificate, or how much.
func dataText(s string) string {
	data, err := base64.StdEncoding.DecodeString(s)
	if err != nil {
		return clipText(s)
	}
	if cert, err := x509.ParseCertificate(data); err == nil {
		name := cert.Subject.CommonName
		if name == "" {
			name = cert.Subject.String()
		}
		issuer := cert.Issuer.CommonName
		if issuer == "" {
			issuer = cert.Issuer.String()
		}
		return clipText(fmt.Sprintf("%s, issued by %s, valid until %s, SHA-256 %x",
			name, issuer, cert.NotAfter.UTC().Format(time.DateOnly), sha256.Sum256(cert.Raw)))
	}
	return size(float64(len(data)))
}

func listText(list []any, k Key) string {
	if len(list) == 0 {
		return "none"
	}
	if k.Name == "ErrorChain" {
		return clipText(Sentence("", chainOf(list)))
	}
	item := Key{Name: k.Name}
	if len(k.Items) == 1 {
		item = k.Items[0]
		if item.Kind != Dictionary && item.Kind != Data {
			item.Name = k.Name
		}
	}
	var b strings.Builder
	for i, v := range list {
		if i == maxListed || b.Len() > maxText {
			fmt.Fprintf(&b, " and %d more", len(list)-i)
			break
		}
		if i > 0 {
			b.WriteString(", ")
		}
		if d, ok := v.(map[string]any); ok && k.Name == "PayloadContent" {
			b.WriteString(payloadText(d))
			continue
		}
		if value := listedValue(v, item); value != "" {
			b.WriteString(value)
		}
	}
	return clipText(b.String())
}

// listedValue returns an element of a list: of allowed values that are keys of their own,
// as ReducedSecurity has them, the label.
func listedValue(v any, item Key) string {
	if s, ok := v.(string); ok && slices.ContainsFunc(item.Keys, func(k Key) bool { return k.Name == s }) {
		return uncapitalized(labelOf(s))
	}
	return text(v, item)
}

// payloadText returns a payload of an installed profile: its name and its type.
func payloadText(d map[string]any) string {
	name, _ := d["PayloadDisplayName"].(string)
	kind, _ := d["PayloadType"].(string)
	switch {
	case name == "":
		return clipText(kind)
	case kind == "":
		return clipText(name)
	}
	return clipText(name + " (" + kind + ")")
}

// dictionaryText returns a dictionary where there is room for one line only.
func dictionaryText(d map[string]any, keys []Key) string {
	if len(d) == 0 {
		return "none"
	}
	var b strings.Builder
	for i, name := range inOrder(d, keys) {
		if i == maxListed || b.Len() > maxText {
			b.WriteString("; …")
			break
		}
		if i > 0 {
			b.WriteString("; ")
		}
		value := Redacted
		if said := d[name]; !isSecret(name) || said == true || said == false || said == nil {
			switch said.(type) {
			case map[string]any, []any:
				value = strings.ToValidUTF8(string(raw(said)), "")
				if value == "" {
					value = "…"
				}
			default:
				value = text(said, keyFor(keys, name))
			}
		}
		b.WriteString(clip(name) + ": " + value)
	}
	return clipText(b.String())
}

// clipText bounds a text from a device.
func clipText(s string) string {
	if len(s) <= maxText {
		return s
	}
	return strings.ToValidUTF8(s[:maxText], "") + "…"
}

// trimmed returns n with at most places digits after the point.
func trimmed(n float64, places int) string {
	s := strconv.FormatFloat(n, 'f', places, 64)
	if strings.Contains(s, ".") {
		s = strings.TrimRight(strings.TrimRight(s, "0"), ".")
	}
	if s == "-0" {
		return "0"
	}
	return s
}

// grouped returns a whole number with its thousands apart: "1,234".
func grouped(n float64) string {
	digits := strconv.FormatFloat(math.Abs(math.Round(n)), 'f', 0, 64)
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	if n < 0 && digits != "0" {
		return "-" + digits
	}
	return digits
}

func amount(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return grouped(float64(n)) + " " + many
}

func percent(n float64) string { return trimmed(n*100, 0) + "%" }

// size returns a number of bytes as Apple shows it: in powers of ten.
func size(n float64) string {
	if math.Abs(n) < 1000 {
		return amount(int(n), "byte", "bytes")
	}
	for _, unit := range []string{"kB", "MB", "GB", "TB", "PB"} {
		if n /= 1000; math.Abs(n) < 999.95 || unit == "PB" {
			return trimmed(n, 1) + " " + unit
		}
	}
	return ""
}

func unlimited(n float64) string {
	if n == 0 {
		return "no limit"
	}
	return size(n)
}

func positive(n float64, said string) string {
	if n < 0 {
		return "not known"
	}
	return said
}

func metres(n float64) string { return positive(n, trimmed(n, 1)+" m") }

// graceful returns how long after the lock a passcode is not yet asked for.
func graceful(n float64) string {
	switch {
	case n < 0 || n >= math.MaxInt32:
		return "never"
	case n == 0:
		return "at once"
	}
	return lasting(n)
}

// limited returns a time after which something ends, 0 being never.
func limited(n float64) string {
	if n <= 0 || n >= math.MaxInt32 {
		return "never"
	}
	return lasting(n)
}

// lasting returns seconds in words.
func lasting(seconds float64) string {
	left := int64(seconds)
	var parts []string
	for _, unit := range []struct {
		seconds   int64
		one, many string
	}{{86400, "day", "days"}, {3600, "hour", "hours"}, {60, "minute", "minutes"}, {1, "second", "seconds"}} {
		if n := left / unit.seconds; n > 0 {
			parts = append(parts, amount(int(n), unit.one, unit.many))
			left %= unit.seconds
		}
	}
	if parts == nil {
		return "0 seconds"
	}
	return strings.Join(parts, " ")
}
