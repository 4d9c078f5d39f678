package command_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/mdm/command"
)

func TestWhatApplesPagesSayOfKeysTogether(t *testing.T) {
	const lom = `"DeviceRequestType":"Reset","DeviceRequestUUID":"1","DeviceDNSName":"mac.example","LOMProtocolVersion":1`
	for name, tt := range map[string]struct {
		requestType, params string
		path, reason        string // empty: accepted
	}{
		"an app from nowhere":          {"InstallApplication", `{}`, "params", "must have one of iTunesStoreID, Identifier, ManifestURL"},
		"an app from one place":        {"InstallApplication", `{"iTunesStoreID":361309726}`, "", ""},
		"an app from two places":       {"InstallApplication", `{"iTunesStoreID":361309726,"ManifestURL":"https://example.com/m.plist"}`, "params.ManifestURL", "must not stand beside iTunesStoreID"},
		"an app of no number":          {"InstallApplication", `{"iTunesStoreID":0}`, "params.iTunesStoreID", "at least 1"},
		"an app of no name":            {"InstallApplication", `{"Identifier":""}`, "params.Identifier", "must not be empty"},
		"a manifest in clear":          {"InstallApplication", `{"ManifestURL":"http://example.com/m.plist"}`, "params.ManifestURL", "begins with https://"},
		"a manifest of nobody":         {"InstallApplication", `{"ManifestURL":"https:///m.plist"}`, "params.ManifestURL", "begins with https://"},
		"flags that don't exist":       {"InstallApplication", `{"iTunesStoreID":1,"ManagementFlags":2}`, "params.ManagementFlags", "must be one of 1, 4, 5"},
		"a package from nowhere":       {"InstallEnterpriseApplication", `{}`, "params", "must have one of Manifest, ManifestURL"},
		"a package from two places":    {"InstallEnterpriseApplication", `{"Manifest":{"items":[]},"ManifestURL":"https://example.com"}`, "params.ManifestURL", "beside Manifest"},
		"a package of nothing":         {"InstallEnterpriseApplication", `{"Manifest":{}}`, "params.Manifest", "must not be empty"},
		"a book from nowhere":          {"InstallMedia", `{"MediaType":"Book"}`, "params", "must have one of iTunesStoreID, MediaURL"},
		"a book to remove":             {"RemoveMedia", `{"MediaType":"Book","PersistentID":"com.example.book"}`, "", ""},
		"any book to remove":           {"RemoveMedia", `{"MediaType":"Book"}`, "params", "must have one of iTunesStoreID, PersistentID"},
		"two books to remove":          {"RemoveMedia", `{"MediaType":"Book","iTunesStoreID":"1","PersistentID":"a"}`, "params.PersistentID", "beside iTunesStoreID"},
		"a user to delete":             {"DeleteUser", `{"UserName":"ana"}`, "", ""},
		"all users to delete":          {"DeleteUser", `{"DeleteAllUsers":true}`, "", ""},
		"nobody to delete":             {"DeleteUser", `{"DeleteAllUsers":false}`, "params.UserName", "is required unless DeleteAllUsers"},
		"one and all to delete":        {"DeleteUser", `{"UserName":"ana","DeleteAllUsers":true}`, "params.UserName", "must not stand beside"},
		"lost without a word":          {"EnableLostMode", `{"Footnote":"x"}`, "params.Message", "is required unless there is a PhoneNumber"},
		"lost with a number":           {"EnableLostMode", `{"PhoneNumber":"1"}`, "", ""},
		"lost with an empty word":      {"EnableLostMode", `{"Message":""}`, "params.Message", "must not be empty"},
		"a nonce for nothing":          {"DeviceInformation", `{"DeviceAttestationNonce":"AA=="}`, "params.DeviceAttestationNonce", "needs the query DevicePropertiesAttestation"},
		"a nonce":                      {"DeviceInformation", `{"Queries":["DevicePropertiesAttestation"],"DeviceAttestationNonce":"AA=="}`, "", ""},
		"a long nonce":                 {"DeviceInformation", `{"Queries":["DevicePropertiesAttestation"],"DeviceAttestationNonce":"` + strings.Repeat("AAAA", 11) + `"}`, "params.DeviceAttestationNonce", "at most 32 bytes"},
		"a query misspelled":           {"DeviceInformation", `{"Queries":["SerialNumbr"]}`, "params.Queries[0]", "did you mean SerialNumber?"},
		"a Mac without administrators": {"AccountConfiguration", `{"SkipPrimarySetupAccountCreation":true}`, "params.AutoSetupAdminAccounts", "no administrator"},
		"a Mac with one":               {"AccountConfiguration", `{"SkipPrimarySetupAccountCreation":true,"AutoSetupAdminAccounts":[{"shortName":"admin"}]}`, "", ""},
		"a key in another case":        {"AccountConfiguration", `{"AutoSetupAdminAccounts":[{"ShortName":"admin"}]}`, "params.AutoSetupAdminAccounts[0].ShortName", "did you mean shortName?"},
		"an invitation to nowhere":     {"InviteToProgram", `{"ProgramID":"com.apple.cloudvpp","InvitationURL":"example"}`, "params.InvitationURL", "must be a URL"},
		"an eSIM server":               {"RefreshCellularPlans", `{"eSIMServerURL":"https://esim.example"}`, "", ""},
		"an address of the old kind":   {"LOMDeviceRequest", `{"RequestList":[{` + lom + `,"PrimaryIPv6AddressList":["10.0.0.1"],"SecondaryIPv6AddressList":[]}]}`, "params.RequestList[0].PrimaryIPv6AddressList[0]", "must be an IPv6 address"},
		"one port of two":              {"LOMDeviceRequest", `{"RequestList":[{` + lom + `,"PrimaryIPv6AddressList":["fe80::1"],"SecondaryIPv6AddressList":[]}]}`, "", ""},
		"no port at all":               {"LOMDeviceRequest", `{"RequestList":[{` + lom + `,"PrimaryIPv6AddressList":[],"SecondaryIPv6AddressList":[]}]}`, "params.RequestList[0].PrimaryIPv6AddressList", "must not be empty"},
		"a short search":               {"RequestMirroring", `{"ScanTime":9}`, "params.ScanTime", "from 10 to 300"},
		"a search":                     {"RequestMirroring", `{"ScanTime":300}`, "", ""},
		"a key that the server knows":  {"RotateFileVaultKey", `{"KeyType":"personal"}`, "", ""},
		"an institution without one":   {"RotateFileVaultKey", `{"KeyType":"institutional"}`, "params.NewCertificate", "is required where KeyType is institutional"},
		"unlocked by nothing":          {"RotateFileVaultKey", `{"KeyType":"personal","FileVaultUnlock":{}}`, "params.FileVaultUnlock", "must have one of Password, PrivateKeyExport"},
		"unlocked twice":               {"RotateFileVaultKey", `{"KeyType":"institutional","NewCertificate":"AA==","FileVaultUnlock":{"Password":"x","PrivateKeyExport":"AA=="}}`, "params.FileVaultUnlock.PrivateKeyExport", "beside Password"},
		"unlocked by half":             {"RotateFileVaultKey", `{"KeyType":"institutional","NewCertificate":"AA==","FileVaultUnlock":{"PrivateKeyExport":"AA=="}}`, "params.FileVaultUnlock.PrivateKeyExportPassword", "is required with PrivateKeyExport"},
		"unlocked by the other half":   {"RotateFileVaultKey", `{"KeyType":"personal","FileVaultUnlock":{"Password":"x","PrivateKeyExportPassword":"x"}}`, "params.FileVaultUnlock.PrivateKeyExportPassword", "of no use without"},
		"unlocked by an institution":   {"RotateFileVaultKey", `{"KeyType":"personal","FileVaultUnlock":{"PrivateKeyExport":"AA=="}}`, "params.FileVaultUnlock.PrivateKeyExport", "institutional only"},
		"an update of nothing":         {"ScheduleOSUpdate", `{"Updates":[{"InstallAction":"Default"}]}`, "params.Updates[0].ProductVersion", "is required unless there is a ProductKey"},
		"an update that can't wait":    {"ScheduleOSUpdate", `{"Updates":[{"InstallAction":"InstallASAP","ProductVersion":"15.1","MaxUserDeferrals":1}]}`, "params.Updates[0].MaxUserDeferrals", "InstallLater only"},
		"an update that waits":         {"ScheduleOSUpdate", `{"Updates":[{"InstallAction":"InstallLater","ProductVersion":"15.1","MaxUserDeferrals":1}]}`, "", ""},
		"a password to take away":      {"SetFirmwarePassword", `{"NewPassword":""}`, "", ""},
		"a lock to take away":          {"SetRecoveryLock", `{"NewPassword":""}`, "", ""},
		"a password that nobody types": {"SetFirmwarePassword", `{"NewPassword":"größe"}`, "params.NewPassword", "0x20 to 0x7E"},
		"no password to try":           {"VerifyRecoveryLock", `{"Password":""}`, "params.Password", "must not be empty"},
		"a password of the server's":   {"VerifyRecoveryLock", `{}`, "", ""},
		"a token of the server's":      {"ClearPasscode", `{}`, "", ""},
		"an empty token":               {"ClearPasscode", `{"UnlockToken":""}`, "params.UnlockToken", "must not be empty"},
		"a hash of the server's":       {"SetAutoAdminPassword", `{"GUID":"1"}`, "", ""},
		"an account that is not named": {"SetAutoAdminPassword", `{}`, "params.GUID", "is required"},
		"a setting misspelled":         {"Settings", `{"Settings":[{"Item":"Bluetooth","Enabled":true},{"Item":"wallpaper"}]}`, "params.Settings[1].Item", "did you mean Wallpaper?"},
		"a setting of no name":         {"Settings", `{"Settings":[{"Enabled":true}]}`, "params.Settings[0].Item", "must be one of"},
		"no settings":                  {"Settings", `{"Settings":[]}`, "params.Settings", "must not be empty"},
		"a session of seconds":         {"Settings", `{"Settings":[{"Item":"SharedDeviceConfiguration","UserSessionTimeout":29}]}`, "params.Settings[0].UserSessionTimeout", "at least 30"},
		"a session without end":        {"Settings", `{"Settings":[{"Item":"SharedDeviceConfiguration","UserSessionTimeout":0,"PasscodePolicy":{"AutoLockTime":120}}]}`, "", ""},
		"a lock within seconds":        {"Settings", `{"Settings":[{"Item":"SharedDeviceConfiguration","PasscodePolicy":{"AutoLockTime":10}}]}`, "params.Settings[0].PasscodePolicy.AutoLockTime", "at least 120"},
		"the second mistake of two":    {"ScheduleOSUpdate", `{"Updates":[{"InstallAction":"Default","ProductKey":"a"},{"InstallAction":"Default"}]}`, "params.Updates[1].ProductVersion", "is required"},
		"a command without a tether":   {"RequestUnlockToken", `{"RequestRequiresNetworkTether":true}`, "params.RequestRequiresNetworkTether", "is not a key"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := command.Build(tt.requestType, params(t, tt.params), uuid)
			if tt.path == "" {
				if err != nil {
					t.Errorf("Build(%s, %s) = %v, want nil", tt.requestType, tt.params, err)
				}
				return
			}
			var wrong *command.ParamError
			if !errors.As(err, &wrong) || wrong.Path != tt.path || !strings.Contains(wrong.Reason, tt.reason) {
				t.Errorf("Build(%s, %s) = %v, want %s … %s", tt.requestType, tt.params, err, tt.path, tt.reason)
			}
		})
	}
}

func TestNearest(t *testing.T) {
	known := []string{"DeviceLock", "DeviceName", "PIN", ""}
	for name, want := range map[string]string{
		"devicelock": "DeviceLock", "DeviceLok": "DeviceLock", "Pin": "PIN", "Coffee": "", "": "", strings.Repeat("x", 100_000): "",
	} {
		if got := command.Nearest(name, known); got != want {
			t.Errorf("Nearest(%.20q) = %q, want %q", name, got, want)
		}
	}
}
