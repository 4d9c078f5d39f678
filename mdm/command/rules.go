package command

import (
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"
)

// limits are ranges that Apple's pages give and its schema does not, by command and path of the
// key: integers, both ends included. A negative upper end is none.
var limits = map[string]map[string][2]float64{
	"InstallApplication": {"iTunesStoreID": {1, -1}},
	"InstallMedia":       {"iTunesStoreID": {1, -1}},
	"LOMDeviceRequest":   {"RequestList.LOMProtocolVersion": {0, -1}},
	"RequestMirroring":   {"ScanTime": {10, 300}},
	"ScheduleOSUpdate":   {"Updates.MaxUserDeferrals": {0, -1}},
	"Settings": {
		"Settings.MaximumResidentUsers.MaximumResidentUsers":                 {1, -1},
		"Settings.SharedDeviceConfiguration.OnlineAuthenticationGracePeriod": {0, -1},
		"Settings.SharedDeviceConfiguration.PasscodePolicy.AutoLockTime":     {120, -1},
		"Settings.SharedDeviceConfiguration.QuotaSize":                       {1, -1},
		"Settings.SharedDeviceConfiguration.ResidentUsers":                   {1, -1},
		"Settings.SharedDeviceConfiguration.TemporarySessionTimeout":         {0, -1}, // and see obey
		"Settings.SharedDeviceConfiguration.UserSessionTimeout":              {0, -1},
	},
}

// limit sets the ranges of a command's keys.
func limit(requestType string, keys []Key) {
	for path, ends := range limits[requestType] {
		k := find(keys, strings.Split(path, "."))
		least, most := ends[0], ends[1]
		k.Min = &least
		if most >= 0 {
			k.Max = &most
		}
	}
}

// find returns the key at a path, in which elements of an array have a name only if they have
// several shapes. What the path names is there: tests look at each.
func find(keys []Key, path []string) *Key {
	k := &keys[slices.IndexFunc(keys, func(k Key) bool { return k.Name == path[0] })]
	switch {
	case len(path) == 1:
		return k
	case len(k.Items) == 1:
		return find(k.Items[0].Keys, path[1:])
	case len(k.Items) > 1:
		return find(k.Items, path[1:])
	}
	return find(k.Keys, path[1:])
}

// mayBeEmpty is the one required key whose list may be empty: a Mac with one port for Ethernet
// has no second one.
const mayBeEmpty = "SecondaryIPv6AddressList"

// obey returns a *ParamError for what Apple's page of a command rules out beyond what it says
// of each key. d is the Command dictionary as builder makes it.
func obey(requestType string, d map[string]any) error {
	r := rules{at: "params", d: d}
	switch requestType {
	case "AccountConfiguration":
		for _, name := range []string{"SkipPrimarySetupAccountCreation", "SetPrimarySetupAccountAsRegularUser"} {
			if accounts, _ := d["AutoSetupAdminAccounts"].([]any); d[name] == true && len(accounts) == 0 {
				r.wrong("AutoSetupAdminAccounts", "is required where "+name+" is true: the Mac would have no administrator")
			}
		}
	case "ClearPasscode":
		r.notEmpty("UnlockToken")
	case "DeleteUser":
		switch _, named := d["UserName"]; {
		case d["DeleteAllUsers"] == true && named:
			r.wrong("UserName", "must not stand beside DeleteAllUsers")
		case d["DeleteAllUsers"] != true && !named:
			r.wrong("UserName", "is required unless DeleteAllUsers is true")
		}
		r.notEmpty("UserName")
	case "DeviceInformation":
		if nonce, there := d["DeviceAttestationNonce"].([]byte); there {
			queries, _ := d["Queries"].([]any)
			switch {
			case len(nonce) > 32:
				r.wrong("DeviceAttestationNonce", "must have at most 32 bytes")
			case !slices.Contains(queries, any("DevicePropertiesAttestation")):
				r.wrong("DeviceAttestationNonce", "needs the query DevicePropertiesAttestation")
			}
		}
	case "DeviceLock", "EraseDevice":
		if pin, there := d["PIN"].(string); there && !sixDigits(pin) {
			r.wrong("PIN", "must be a string of six digits")
		}
	case "EnableLostMode":
		if d["Message"] == nil && d["PhoneNumber"] == nil {
			r.wrong("Message", "is required unless there is a PhoneNumber")
		}
		r.notEmpty("Message", "PhoneNumber")
	case "InstallApplication":
		r.oneOf("iTunesStoreID", "Identifier", "ManifestURL")
		r.notEmpty("Identifier")
		r.url("ManifestURL", "https")
	case "InstallEnterpriseApplication":
		r.oneOf("Manifest", "ManifestURL")
		if manifest, there := d["Manifest"].(map[string]any); there && len(manifest) == 0 {
			r.wrong("Manifest", "must not be empty")
		}
		r.url("ManifestURL", "https")
	case "InstallMedia":
		r.oneOf("iTunesStoreID", "MediaURL")
		r.url("MediaURL", "https", "http")
	case "InviteToProgram":
		r.url("InvitationURL", "https", "http")
	case "LOMDeviceRequest":
		for request := range r.each("RequestList") {
			for _, list := range []string{"PrimaryIPv6AddressList", mayBeEmpty} {
				addresses, _ := request.d[list].([]any)
				for i, v := range addresses {
					text, _ := v.(string)
					if address, err := netip.ParseAddr(text); err != nil || !address.Is6() {
						request.wrong(fmt.Sprintf("%s[%d]", list, i), "must be an IPv6 address")
					}
				}
			}
		}
	case "RefreshCellularPlans":
		r.url("eSIMServerURL", "https", "http")
	case "RemoveMedia":
		r.oneOf("iTunesStoreID", "PersistentID")
		r.notEmpty("iTunesStoreID", "PersistentID")
	case "RotateFileVaultKey":
		r.fileVault()
	case "ScheduleOSUpdate":
		for update := range r.each("Updates") {
			if update.d["ProductKey"] == nil && update.d["ProductVersion"] == nil {
				update.wrong("ProductVersion", "is required unless there is a ProductKey")
			}
			if update.d["MaxUserDeferrals"] != nil && update.d["InstallAction"] != "InstallLater" {
				update.wrong("MaxUserDeferrals", "is for the InstallAction InstallLater only")
			}
		}
	case "SetAutoAdminPassword":
		r.notEmpty("passwordHash", PasswordKey)
		if d["passwordHash"] != nil && d[PasswordKey] != nil {
			r.wrong(PasswordKey, "must not stand beside passwordHash: the hash is made of it")
		}
	case "SetFirmwarePassword":
		// An empty NewPassword takes the password away.
		for _, name := range []string{"CurrentPassword", "NewPassword"} {
			if password, _ := d[name].(string); strings.IndexFunc(password, func(c rune) bool { return c < 0x20 || c > 0x7e }) >= 0 {
				r.wrong(name, "must have no characters but those of a US keyboard, 0x20 to 0x7E")
			}
		}
	case "Settings":
		for item := range r.each("Settings") {
			for _, name := range []string{"TemporarySessionTimeout", "UserSessionTimeout"} {
				if seconds, there := item.d[name].(int64); there && seconds > 0 && seconds < 30 {
					item.wrong(name, "must be 0 for none, or at least 30")
				}
			}
		}
	case "VerifyFirmwarePassword", "VerifyRecoveryLock":
		r.notEmpty("Password")
	}
	if r.err != nil {
		return r.err
	}
	return nil
}

// rules hold a dictionary against what is said of it as a whole. The first mistake counts.
type rules struct {
	at  string // path of d
	d   map[string]any
	err *ParamError
}

func (r *rules) wrong(name, reason string) {
	if r.err != nil {
		return
	}
	path := r.at
	if name != "" {
		path += "." + name
	}
	r.err = &ParamError{path, reason}
}

// oneOf asks for exactly one of some keys.
func (r *rules) oneOf(names ...string) {
	var there []string
	for _, name := range names {
		if _, ok := r.d[name]; ok {
			there = append(there, name)
		}
	}
	switch {
	case len(there) == 0:
		r.wrong("", "must have one of "+list(names))
	case len(there) > 1:
		r.wrong(there[1], "must not stand beside "+there[0]+": one of them is enough")
	}
}

func (r *rules) notEmpty(names ...string) {
	for _, name := range names {
		if v, there := r.d[name]; there && empty(v) {
			r.wrong(name, "must not be empty")
		}
	}
}

// url asks for a URL with a host where there is one at all.
func (r *rules) url(name string, schemes ...string) {
	text, there := r.d[name].(string)
	if !there {
		return
	}
	if u, err := url.Parse(text); err != nil || u.Host == "" || !slices.Contains(schemes, strings.ToLower(u.Scheme)) {
		r.wrong(name, "must be a URL that begins with "+schemes[0]+"://")
	}
}

// each yields the dictionaries in an array, and keeps the first mistake found in them.
func (r *rules) each(name string) func(yield func(*rules) bool) {
	return func(yield func(*rules) bool) {
		elements, _ := r.d[name].([]any)
		for i, v := range elements {
			element := &rules{at: fmt.Sprintf("%s.%s[%d]", r.at, name, i)}
			element.d, _ = v.(map[string]any)
			more := yield(element)
			if r.err == nil {
				r.err = element.err
			}
			if !more {
				return
			}
		}
	}
}

// fileVault holds a RotateFileVaultKey against Apple's page RotateFileVaultKeyCommand.
func (r *rules) fileVault() {
	institutional := r.d["KeyType"] == "institutional"
	if institutional && r.d["NewCertificate"] == nil {
		r.wrong("NewCertificate", "is required where KeyType is institutional")
	}
	r.notEmpty("NewCertificate", "ReplyEncryptionCertificate")
	unlock, there := r.d["FileVaultUnlock"].(map[string]any)
	if !there {
		return
	}
	in := rules{at: r.at + ".FileVaultUnlock", d: unlock}
	in.oneOf("Password", "PrivateKeyExport")
	in.notEmpty("Password", "PrivateKeyExport")
	switch export, password := unlock["PrivateKeyExport"] != nil, unlock["PrivateKeyExportPassword"] != nil; {
	case export && !institutional:
		in.wrong("PrivateKeyExport", "is for the KeyType institutional only")
	case export && !password:
		in.wrong("PrivateKeyExportPassword", "is required with PrivateKeyExport")
	case password && !export:
		in.wrong("PrivateKeyExportPassword", "is of no use without PrivateKeyExport")
	}
	if r.err == nil {
		r.err = in.err
	}
}

// sixDigits holds for the PIN of DeviceLock and EraseDevice, which a Mac refuses
// in any other form; the schema does not say so.
func sixDigits(pin string) bool {
	return len(pin) == 6 && strings.Trim(pin, "0123456789") == ""
}
