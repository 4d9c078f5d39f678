package compat_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/apns/apnstest"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/command"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/guard"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// microModule is where a go.mod pins MicroMDM.
const microModule = "testdata/micromdm"

// fleet are devices of each kind, on which commands of each kind go.
type fleet struct {
	mac, old, phone, pad, user mdm.DeviceID
	names                      map[mdm.DeviceID]string
}

func (h *house) fleet(t *testing.T) fleet {
	t.Helper()
	f := fleet{mac: h.device(t, "MAC-1"), phone: h.device(t, "PHONE-1", phone)}
	f.old = h.device(t, "OLD-1", func(d *mdm.Device) { d.OSVersion = "13.6"; d.ProductName = "MacBookPro14,1" })
	f.pad = h.device(t, "PAD-1", func(d *mdm.Device) {
		shared := true
		d.ProductName, d.OSVersion, d.EnrolledViaDEP, d.SharedIPad = "iPad13,4", "17.2", nil, &shared
	})
	f.user = h.device(t, "USER-1", func(d *mdm.Device) {
		d.AppleID, d.Type, d.ParentID = mdm.AppleID{UDID: "MAC-1", UserID: "0F0F"}, mdm.TypeUserChannel, f.mac
	})
	f.names = map[mdm.DeviceID]string{f.mac: "MAC-1", f.old: "OLD-1", f.phone: "PHONE-1", f.pad: "PAD-1", f.user: "MAC-1:0F0F"}
	return f
}

// decoded is the Command dictionary of a property list, and its UUID.
func decoded(t testing.TB, plist []byte) (params map[string]any, uuid string) {
	t.Helper()
	uuid, _, err := command.ParseRaw(plist)
	must(t, err)
	params, err = command.Params(plist)
	must(t, err)
	return params, uuid
}

// b64 is data as JSON has it.
func b64(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

// TestCommandsAreWhatMicroMDMMakesOfThem has MicroMDM's own code make property lists of
// commands in its JSON, and devices get the same from here.
func TestCommandsAreWhatMicroMDMMakesOfThem(t *testing.T) {
	storagetest.AnyEngine(t)
	t.Parallel()
	h := newHouse(t)
	f := h.fleet(t)
	const configuration = `<plist version="1.0"><dict><key>count</key><integer>1</integer><key>share</key><real>2</real><key>at</key><date>2026-01-02T03:04:05Z</date><key>blob</key><data>AAEC</data><key>list</key><array><string>a</string></array></dict></plist>`
	tests := []struct {
		on mdm.DeviceID
		// in is the JSON without udid and command_uuid; ours are keys that only we send, theirs
		// those that only MicroMDM does.
		in           string
		ours, theirs []string
	}{
		{on: f.mac, in: `"request_type":"ProfileList"`},
		{on: f.mac, in: `"request_type":"ProvisioningProfileList"`},
		{on: f.mac, in: `"request_type":"CertificateList"`},
		{on: f.mac, in: `"request_type":"SecurityInfo"`},
		{on: f.mac, in: `"request_type":"RestartDevice"`},
		{on: f.mac, in: `"request_type":"LOMSetupRequest"`},
		{on: f.mac, in: `"request_type":"ShutDownDevice"`},
		{on: f.phone, in: `"request_type":"StopMirroring"`},
		{on: f.phone, in: `"request_type":"ClearRestrictionsPassword"`},
		{on: f.pad, in: `"request_type":"UserList"`},
		{on: f.pad, in: `"request_type":"LogOutUser"`},
		{on: f.phone, in: `"request_type":"PlayLostModeSound"`},
		{on: f.phone, in: `"request_type":"DisableLostMode"`},
		{on: f.phone, in: `"request_type":"DeviceLocation"`},
		{on: f.phone, in: `"request_type":"ManagedMediaList"`},
		{on: f.mac, in: `"request_type":"DeviceConfigured"`},
		{on: f.mac, in: `"request_type":"AvailableOSUpdates"`},
		{on: f.user, in: `"request_type":"NSExtensionMappings"`},
		{on: f.mac, in: `"request_type":"OSUpdateStatus"`},
		{on: f.mac, in: `"request_type":"EnableRemoteDesktop"`},
		{on: f.mac, in: `"request_type":"DisableRemoteDesktop"`},
		{on: f.mac, in: `"request_type":"ActivationLockBypassCode"`},

		{on: f.mac, in: `"request_type":"InstallProfile","payload":"` + b64(profileXML("com.example.micro")) + `"`},
		{on: f.mac, in: `"request_type":"RemoveProfile","identifier":"com.example.micro"`},
		{on: f.mac, in: `"request_type":"InstallProvisioningProfile","provisioning_profile":"AAEC"`},
		{on: f.mac, in: `"request_type":"RemoveProvisioningProfile","uuid":"0F0F"`},
		{on: f.mac, in: `"request_type":"InstalledApplicationList"`},
		{on: f.mac, in: `"request_type":"InstalledApplicationList","identifiers":["com.example.a"],"managed_appd_only":true`},
		{on: f.mac, in: `"request_type":"DeviceInformation","queries":["OSVersion","Model"]`},
		{on: f.mac, in: `"request_type":"DeviceLock","pin":"123456","message":"Please","phone_number":"+49 30"`},
		{on: f.phone, in: `"request_type":"ClearPasscode","unlock_token":"AAEC"`},
		{on: f.mac, in: `"request_type":"EraseDevice","pin":"123456"`},
		{on: f.phone, in: `"request_type":"EraseDevice","pin":"","preserve_data_plan":true,"disallow_proximity_setup":true`, theirs: []string{"PIN"}},
		{on: f.phone, in: `"request_type":"RequestMirroring","destination_name":"TV","destination_device_id":"00:11","scan_time":"30","password":"p"`, ours: []string{"ScanTime"}, theirs: []string{"ScanTime"}}, // Apple: an integer
		{on: f.phone, in: `"request_type":"Restrictions","profile_restrictions":false`},
		{on: f.old, in: `"request_type":"UnlockUserAccount","username":"ana"`},
		{on: f.pad, in: `"request_type":"DeleteUser","username":"ana","force_deletion":true`},
		{on: f.phone, in: `"request_type":"EnableLostMode","message":"Lost","phone_number":"+49 30","footnote":"f"`},
		{on: f.phone, in: `"request_type":"InstallApplication","itunes_store_id":361309726,"management_flags":1,"change_management_state":"Managed","options":{"purchase_method":1}`},
		{on: f.phone, in: `"request_type":"InstallApplication","identifier":"com.example.a","management_flags":0`, theirs: []string{"ManagementFlags"}}, // Apple: 1, 4 or 5
		{on: f.mac, in: `"request_type":"InstallApplication","manifest_url":"https://example.com/m.plist"`},
		{on: f.mac, in: `"request_type":"InstallEnterpriseApplication","manifest_url":"https://example.com/m.plist","manifest_url_pinning_certs":["AAEC"],"pinning_revocation_check_required":false`},
		{on: f.mac, in: `"request_type":"InstallEnterpriseApplication","manifest":{"items":[{"assets":[{"kind":"software-package","url":"https://example.com/a.pkg","md5-size":10,"md5s":["aa"]}]}]}`},
		{on: f.mac, in: `"request_type":"AccountConfiguration","skip_primary_setup_account_creation":true,"set_primary_setup_account_as_regular_user":true,"lock_primary_account_info":false,` +
			`"primary_account_full_name":"Ana","primary_account_user_name":"ana","auto_setup_admin_accounts":[{"short_name":"admin","full_name":"Admin","password_hash":"AAEC","hidden":true}]`},
		{on: f.phone, in: `"request_type":"ApplyRedemptionCode","identifier":"com.example.a","redemption_code":"X"`},
		{on: f.phone, in: `"request_type":"ManagedApplicationList","identifiers":["com.example.a"]`},
		{on: f.phone, in: `"request_type":"RemoveApplication","identifier":"com.example.a"`},
		{on: f.phone, in: `"request_type":"InviteToProgram","program_id":"com.apple.cloudvpp","invitation_url":"https://example.com"`},
		{on: f.phone, in: `"request_type":"ValidateApplications","identifiers":["com.example.a"]`},
		{on: f.phone, in: `"request_type":"InstallMedia","itunes_store_id":361309726,"media_type":"Book"`},
		{on: f.phone, in: `"request_type":"RemoveMedia","media_type":"Book","persistent_id":"x"`},
		{on: f.phone, in: `"request_type":"ManagedApplicationConfiguration","identifiers":["com.example.a"]`},
		{on: f.phone, in: `"request_type":"ManagedApplicationAttributes","identifiers":["com.example.a"]`},
		{on: f.phone, in: `"request_type":"ManagedApplicationFeedback","identifiers":["com.example.a"],"delete_feedback":true`},
		{on: f.mac, in: `"request_type":"LOMDeviceRequest","request_list":[{"device_dns_name":"a.example.com","device_request_type":"Reset","device_request_uuid":"0F0F","lom_protocol_version":1,` +
			`"primary_ip_v6_address_list":["fe80::1"],"secondary_ip_v6_address_list":[]}]`},
		{on: f.phone, in: `"request_type":"Settings","settings":[{"item":"DeviceName","device_name":"Ana’s"},{"item":"Bluetooth","enabled":false},{"item":"TimeZone","time_zone":"Europe/Berlin"},` +
			`{"item":"Wallpaper","image":"AAEC","where":1},{"item":"ApplicationConfiguration","identifier":"com.example.a","configuration":"` + b64(configuration) + `"},` +
			`{"item":"ApplicationAttributes","identifier":"com.example.a","attributes":{"VPNUUID":"x"}}]`},
		{on: f.pad, in: `"request_type":"Settings","settings":[{"item":"PasscodeLockGracePeriod","passcode_lock_grace_period":300}]`},
		{on: f.mac, in: `"request_type":"Settings","settings":[{"item":"HostName","hostname":"mac"},{"item":"MDMOptions","mdm_options":{"BootstrapTokenAllowed":true}}]`},
		{on: f.phone, in: `"request_type":"Settings","settings":[{"item":"SoftwareUpdateSettings","recommendation_cadence":1}]`},
		{on: f.old, in: `"request_type":"SetFirmwarePassword","current_password":"a","new_password":"b","allow_oroms":true`},
		{on: f.old, in: `"request_type":"VerifyFirmwarePassword","password":"a"`},
		{on: f.mac, in: `"request_type":"SetRecoveryLock","current_password":"a","new_password":""`},
		{on: f.mac, in: `"request_type":"VerifyRecoveryLock","password":"a"`},
		{on: f.mac, in: `"request_type":"SetAutoAdminPassword","guid":"0F0F","password_hash":"AAEC"`},
		{on: f.mac, in: `"request_type":"ScheduleOSUpdate","updates":[{"product_key":"k","install_action":"InstallLater","max_user_deferrals":0,"product_version":"14.2","priority":"Low"}]`},
		{on: f.mac, in: `"request_type":"ScheduleOSUpdateScan","force":true`},
		{on: f.user, in: `"request_type":"ActiveNSExtensions","filter_extensions_points":["com.apple.services"]`},
		{on: f.mac, in: `"request_type":"RotateFileVaultKey","key_type":"personal","filevault_unlock":{"password":"a"},"reply_encryption_certificate":"AAEC"`},
		{on: f.phone, in: `"request_type":"RefreshCellularPlans","esim_server_url":"https://esim.example.com"`},
	}
	var lines bytes.Buffer
	full := make([]string, len(tests))
	for i, tt := range tests {
		full[i] = fmt.Sprintf(`{"udid":%q,"command_uuid":"m-%d",%s}`, f.names[tt.on], i, tt.in)
		lines.WriteString(full[i] + "\n")
	}
	released(t, microModule, "github.com/micromdm/micromdm")
	run := exec.CommandContext(t.Context(), "go", "run", ".")
	run.Dir, run.Stdin = microModule, &lines
	var stderr strings.Builder
	run.Stderr = &stderr
	out, err := run.Output()
	if err != nil {
		t.Fatalf("MicroMDM's code: %v\n%s", err, &stderr)
	}
	var original []struct {
		Plist []byte
		Error string
	}
	must(t, json.Unmarshal(out, &original))

	said := map[string]bool{}
	for i, tt := range tests {
		if original[i].Error != "" {
			t.Fatalf("MicroMDM does not take %s: %s", tt.in, original[i].Error)
		}
		got := h.call(t, "micromdm", "POST", "/v1/commands", full[i])
		var answer struct {
			Payload struct {
				CommandUUID string `json:"command_uuid"`
				Command     struct {
					RequestType string `json:"request_type"`
				}
			}
		}
		got.json(t, &answer)
		requestType := answer.Payload.Command.RequestType
		if got.status != 201 || answer.Payload.CommandUUID != fmt.Sprintf("m-%d", i) || requestType == "" {
			t.Errorf("%s: %d %s", tt.in, got.status, got.body)
			continue
		}
		said[requestType] = true
		mine, uuid := decoded(t, []byte(h.next(t, tt.on)))
		theirs, theirUUID := decoded(t, original[i].Plist)
		for _, key := range tt.ours {
			delete(mine, key)
		}
		for _, key := range tt.theirs {
			delete(theirs, key)
		}
		if uuid != theirUUID || !reflect.DeepEqual(mine, theirs) {
			t.Errorf("%s: the device gets\n%#v\nwant MicroMDM's\n%#v", tt.in, mine, theirs)
		}
		h.acknowledge(t, tt.on, uuid)
	}
	for _, requestType := range microTypes {
		if !said[requestType] {
			t.Errorf("%s is not tried", requestType)
		}
	}
}

// microTypes are all that MicroMDM's Command can be (mdm/mdm/unmarshal_json.go of v1.13.1).
var microTypes = strings.Fields(`ProfileList ProvisioningProfileList CertificateList SecurityInfo RestartDevice
	LOMSetupRequest ShutDownDevice StopMirroring ClearRestrictionsPassword UserList LogOutUser PlayLostModeSound
	DisableLostMode DeviceLocation ManagedMediaList DeviceConfigured AvailableOSUpdates NSExtensionMappings OSUpdateStatus
	EnableRemoteDesktop DisableRemoteDesktop ActivationLockBypassCode InstallProfile RemoveProfile InstallProvisioningProfile
	RemoveProvisioningProfile InstalledApplicationList DeviceInformation DeviceLock ClearPasscode EraseDevice RequestMirroring
	Restrictions UnlockUserAccount DeleteUser EnableLostMode InstallApplication InstallEnterpriseApplication
	AccountConfiguration ApplyRedemptionCode ManagedApplicationList RemoveApplication InviteToProgram ValidateApplications
	InstallMedia RemoveMedia LOMDeviceRequest Settings ManagedApplicationConfiguration ManagedApplicationAttributes
	ManagedApplicationFeedback SetFirmwarePassword VerifyFirmwarePassword SetRecoveryLock VerifyRecoveryLock
	SetAutoAdminPassword ScheduleOSUpdate ScheduleOSUpdateScan ActiveNSExtensions RotateFileVaultKey RefreshCellularPlans`)

// TestTheScriptsOfMicroMDMRun runs each script in MicroMDM's tools/api as it is.
func TestTheScriptsOfMicroMDMRun(t *testing.T) {
	storagetest.AnyEngine(t)
	t.Parallel()
	bash := tool(t, "bash")
	for _, name := range []string{"curl", "jq", "openssl"} {
		tool(t, name)
	}
	api := filepath.Join(released(t, microModule, "github.com/micromdm/micromdm"), "tools", "api")
	h := newHouse(t)
	h.certificate(t)
	f := h.fleet(t)
	dir := t.TempDir()
	env := filepath.Join(dir, "env")
	must(t, writeFile(env, "export API_TOKEN="+h.owner+"\nexport SERVER_URL="+h.url+"\nexport CURL_OPTS=-sS\n"))
	mobileconfig, configuration, raw := filepath.Join(dir, "p.mobileconfig"), filepath.Join(dir, "c.plist"), filepath.Join(dir, "r.plist")
	must(t, writeFile(mobileconfig, profileXML("com.example.script")))
	must(t, writeFile(configuration, `<plist version="1.0"><dict><key>baz</key><string>qux</string></dict></plist>`))
	must(t, writeFile(raw, plist("raw-1", "SecurityInfo")))
	run := func(script string, args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), bash, append([]string{filepath.Join(api, script)}, args...)...)
		cmd.Env = append(os.Environ(), "MICROMDM_ENV_PATH="+env)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Errorf("%s %v: %v\n%s", script, args, err, out)
		}
		return string(out)
	}

	tried := map[string]bool{}
	for _, tt := range []struct {
		on     mdm.DeviceID
		script string
		args   []string
		want   map[string]any // besides RequestType; nil: MicroMDM's own server refuses what the script sends, too
	}{
		{f.mac, "account_configuration_populate_user", []string{"Ana Arnold", "ana"}, map[string]any{
			"RequestType": "AccountConfiguration", "LockPrimaryAccountInfo": true, "PrimaryAccountFullName": "Ana Arnold", "PrimaryAccountUserName": "ana"}},
		{f.mac, "activation_lock_bypass_code", nil, map[string]any{"RequestType": "ActivationLockBypassCode"}},
		{f.mac, "available_os_updates", nil, map[string]any{"RequestType": "AvailableOSUpdates"}},
		{f.mac, "certificate_list", nil, map[string]any{"RequestType": "CertificateList"}},
		{f.mac, "device_configured", nil, map[string]any{"RequestType": "DeviceConfigured"}},
		{f.mac, "device_information", []string{"OSVersion,Model"}, map[string]any{"RequestType": "DeviceInformation", "Queries": []any{"OSVersion", "Model"}}},
		{f.mac, "device_lock", []string{"123456"}, map[string]any{"RequestType": "DeviceLock", "PIN": "123456"}},
		{f.mac, "disable_remote_desktop", nil, map[string]any{"RequestType": "DisableRemoteDesktop"}},
		{f.mac, "enable_remote_desktop", nil, map[string]any{"RequestType": "EnableRemoteDesktop"}},
		{f.mac, "erase_device", []string{"123456"}, map[string]any{"RequestType": "EraseDevice", "PIN": "123456"}},
		{f.mac, "install_application", []string{"https://example.com/m.plist"}, map[string]any{"RequestType": "InstallApplication", "ManifestURL": "https://example.com/m.plist"}},
		{f.phone, "install_appstore_application", []string{"com.example.a"}, map[string]any{"RequestType": "InstallApplication", "Identifier": "com.example.a"}},
		{f.mac, "install_enterprise_application", []string{"https://example.com/m.plist"}, map[string]any{"RequestType": "InstallEnterpriseApplication", "ManifestURL": "https://example.com/m.plist"}},
		{f.mac, "install_profile", []string{mobileconfig}, map[string]any{"RequestType": "InstallProfile", "Payload": []byte(profileXML("com.example.script"))}},
		{f.mac, "install_provisioning_profile", []string{configuration}, map[string]any{"RequestType": "InstallProvisioningProfile",
			"ProvisioningProfile": []byte(`<plist version="1.0"><dict><key>baz</key><string>qux</string></dict></plist>`)}},
		{f.phone, "install_vpp_application", []string{"361309726"}, map[string]any{"RequestType": "InstallApplication", "iTunesStoreID": uint64(361309726),
			"Options": map[string]any{"PurchaseMethod": uint64(1)}}},
		{f.mac, "installed_application_list", nil, map[string]any{"RequestType": "InstalledApplicationList"}},
		{f.mac, "lom_reset", []string{"a.example.com", "fe80::1"}, map[string]any{}},
		{f.mac, "os_update_status", nil, map[string]any{"RequestType": "OSUpdateStatus"}},
		{f.mac, "profile_list", nil, map[string]any{"RequestType": "ProfileList"}},
		{f.mac, "provisioning_profile_list", nil, map[string]any{"RequestType": "ProvisioningProfileList"}},
		{f.phone, "refresh_cellular_plans", []string{"https://esim.example.com"}, map[string]any{"RequestType": "RefreshCellularPlans", "eSIMServerURL": "https://esim.example.com"}},
		{f.mac, "remove_profile", []string{"com.example.script"}, map[string]any{"RequestType": "RemoveProfile", "Identifier": "com.example.script"}},
		{f.mac, "remove_provisioning_profile", []string{"0F0F"}, map[string]any{"RequestType": "RemoveProvisioningProfile", "UUID": "0F0F"}},
		{f.mac, "restart_device", nil, map[string]any{"RequestType": "RestartDevice"}},
		{f.mac, "schedule_os_update", []string{"InstallLater", "--version", "14.2", "--deferrals", "3", "--priority", "Low"}, map[string]any{"RequestType": "ScheduleOSUpdate",
			"Updates": []any{map[string]any{"InstallAction": "InstallLater", "ProductVersion": "14.2", "MaxUserDeferrals": uint64(3), "Priority": "Low"}}}},
		{f.mac, "schedule_os_update_scan", []string{"true"}, map[string]any{"RequestType": "ScheduleOSUpdateScan", "Force": true}},
		{f.mac, "security_info", nil, map[string]any{"RequestType": "SecurityInfo"}},
		// These send texts where MicroMDM wants true or false, and it refuses them.
		{f.old, "set_firmware_password", []string{"old", "new", "false", "true"}, map[string]any{"RequestType": "SetFirmwarePassword",
			"CurrentPassword": "old", "NewPassword": "new", "AllowOroms": true}},
		{f.mac, "set_recovery_lock", []string{"old", "new", "false", "true"}, map[string]any{"RequestType": "SetRecoveryLock", "CurrentPassword": "old", "NewPassword": "new"}},
		{f.phone, "settings_application_configuration", []string{"com.example.a", configuration}, map[string]any{"RequestType": "Settings",
			"Settings": []any{map[string]any{"Item": "ApplicationConfiguration", "Identifier": "com.example.a", "Configuration": map[string]any{"baz": "qux"}}}}},
		// jq stops at a variable that these do not define.
		{f.old, "verify_firmware_password", []string{"a", "false", "false"}, nil},
		{f.mac, "verify_recovery_lock", []string{"a", "false", "false"}, nil},
	} {
		tried[tt.script] = true
		out := run("commands/"+tt.script, append([]string{f.names[tt.on]}, tt.args...)...)
		if tt.want == nil {
			if !strings.Contains(out, `"error"`) || h.waiting(t, tt.on) != 0 {
				t.Errorf("%s: %s", tt.script, out)
			}
			continue
		}
		var answer struct {
			Payload struct {
				CommandUUID string `json:"command_uuid"`
			}
		}
		if err := json.Unmarshal([]byte(out), &answer); err != nil || answer.Payload.CommandUUID == "" {
			t.Errorf("%s: %s", tt.script, out)
			continue
		}
		got, uuid := decoded(t, []byte(h.next(t, tt.on)))
		if uuid != answer.Payload.CommandUUID || len(tt.want) > 0 && !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%s: the device gets %#v, want %#v", tt.script, got, tt.want)
		}
		h.acknowledge(t, tt.on, uuid)
	}
	scripts, err := filepath.Glob(filepath.Join(api, "commands", "*"))
	must(t, err)
	for _, s := range scripts {
		if !tried[filepath.Base(s)] {
			t.Errorf("%s is not tried", filepath.Base(s))
		}
	}

	var devices struct {
		Devices []struct {
			SerialNumber     string `json:"serial_number"`
			UDID             string
			EnrollmentStatus bool `json:"enrollment_status"`
		}
	}
	must(t, json.Unmarshal([]byte(run("get_devices")), &devices))
	if len(devices.Devices) != 4 || !devices.Devices[0].EnrollmentStatus || devices.Devices[0].UDID == "" {
		t.Errorf("get_devices: %+v", devices)
	}
	if out := run("send_push_notification", "MAC-1"); !strings.Contains(out, `"status": "success"`) || !strings.Contains(out, "push_notification_id") {
		t.Errorf("send_push_notification: %s", out)
	}
	if got := h.apple.Pushes()[h.apple.Count()-1]; string(got.Token) != "MAC-1" {
		t.Errorf("the push went to %q", got.Token)
	}
	if out := run("raw_command", "MAC-1", raw); !strings.Contains(out, `"raw-1"`) {
		t.Errorf("raw_command: %s", out)
	}
	if out := run("inspect_queue", "MAC-1"); !strings.Contains(out, `"uuid": "raw-1"`) {
		t.Errorf("inspect_queue: %s", out)
	}
	if out := strings.TrimSpace(run("clear_queue", "MAC-1")); out != "{}" || h.waiting(t, f.mac) != 0 {
		t.Errorf("clear_queue: %s, %d wait", out, h.waiting(t, f.mac))
	}
	if out := run("sync_dep_devices"); !strings.Contains(out, `"error"`) || !strings.Contains(out, "/v1/dep/syncnow") {
		t.Errorf("sync_dep_devices: %s", out)
	}
}

func TestDevicesAreListedAsMicroMDMListsThem(t *testing.T) {
	h := newHouse(t)
	h.device(t, "MAC-1")
	h.mdm.Saw("id-of-MAC-1")
	h.device(t, "GONE-1", func(d *mdm.Device) { d.State = mdm.Unenrolled })
	h.device(t, "USER-1", func(d *mdm.Device) {
		d.AppleID, d.Type, d.SerialNumber = mdm.AppleID{EnrollmentID: "USER-1"}, mdm.TypeUser, ""
	})
	h.device(t, "CHANNEL-1", func(d *mdm.Device) {
		d.AppleID, d.Type, d.ParentID = mdm.AppleID{UDID: "MAC-1", UserID: "0F0F"}, mdm.TypeUserChannel, "id-of-MAC-1"
	})
	for name, tt := range map[string]struct{ in, want string }{
		"all":               {"{}", "GONE-1 MAC-1 USER-1"},
		"what mdmctl sends": {`{"page":0,"per_page":0,"filter_serial":null,"filter_udid":null}`, "GONE-1 MAC-1 USER-1"},
		"by serial number":  {`{"filter_serial":["C02MAC-1","C02GONE-1","other"]}`, "GONE-1 MAC-1"},
		"by udid":           {`{"filter_udid":["USER-1"]}`, "USER-1"},
		"by another one":    {`{"filter_udid":["other"]}`, ""},
		"a page":            {`{"page":3,"per_page":1}`, "GONE-1 MAC-1 USER-1"},
	} {
		got := h.call(t, "micromdm", "POST", "/v1/devices", tt.in)
		var out struct {
			Devices []struct {
				SerialNumber     string    `json:"serial_number"`
				UDID             string    `json:"udid"`
				EnrollmentStatus bool      `json:"enrollment_status"`
				LastSeen         time.Time `json:"last_seen"`
				DEPProfileStatus *string   `json:"dep_profile_status"`
			}
		}
		got.json(t, &out)
		var udids []string
		for _, d := range out.Devices {
			udids = append(udids, d.UDID)
			if d.EnrollmentStatus != (d.UDID != "GONE-1") || (d.UDID == "MAC-1") == d.LastSeen.IsZero() || d.DEPProfileStatus == nil ||
				d.UDID != "USER-1" && d.SerialNumber != "C02"+d.UDID {
				t.Errorf("%s: %+v", name, d)
			}
		}
		if got.status != 200 || strings.Join(udids, " ") != tt.want || !strings.HasPrefix(got.header.Get("Content-Type"), "application/json") {
			t.Errorf("%s: %d %q, want %q", name, got.status, udids, tt.want)
		}
	}
	for _, in := range []string{"", "devices", `{"filter_serial":"one"}`, `[]`} {
		if got := h.call(t, "micromdm", "POST", "/v1/devices", in); got.status != 400 || !strings.Contains(got.body, `"error"`) {
			t.Errorf("%q: %d %s", in, got.status, got.body)
		}
	}
}

func TestWhatMicroMDMCantTakeIsNamed(t *testing.T) {
	h := newHouse(t)
	id := h.device(t, "MAC-1")
	for name, tt := range map[string]struct {
		in, says string
		status   int
	}{
		"no JSON":                 {`udid=MAC-1`, "JSON", 400},
		"nothing":                 {``, "JSON", 400},
		"no udid":                 {`{"request_type":"ProfileList"}`, "UDID", 400},
		"no type":                 {`{"udid":"MAC-1"}`, "request_type", 400},
		"a number for a type":     {`{"udid":"MAC-1","request_type":5}`, "request_type", 400},
		"nobody's command":        {`{"udid":"MAC-1","request_type":"MakeCoffee"}`, "unknown RequestType: MakeCoffee", 400},
		"Apple's, not MicroMDM's": {`{"udid":"MAC-1","request_type":"DeclarativeManagement"}`, "DeclarativeManagement; MicroMDM", 400},
		"a wrong value":           {`{"udid":"MAC-1","request_type":"DeviceInformation","queries":"OSVersion"}`, "Queries", 400},
		"neither true nor false":  {`{"udid":"MAC-1","request_type":"ScheduleOSUpdateScan","force":"perhaps"}`, "force", 400},
		"data that is none":       {`{"udid":"MAC-1","request_type":"InstallProfile","payload":"%"}`, "Payload", 400},
		"a list that is none":     {`{"udid":"MAC-1","request_type":"ScheduleOSUpdate","updates":{}}`, "updates", 400},
		"an element that is none": {`{"udid":"MAC-1","request_type":"ScheduleOSUpdate","updates":[1]}`, "updates[0]", 400},
		"no property list":        {`{"udid":"MAC-1","request_type":"Settings","settings":[{"item":"ApplicationConfiguration","configuration":"AAEC"}]}`, "settings[0].configuration", 400},
		"no object":               {`{"udid":"MAC-1","request_type":"RotateFileVaultKey","filevault_unlock":"p"}`, "filevault_unlock", 400},
		"an odd UUID":             {`{"udid":"MAC-1","request_type":"ProfileList","command_uuid":"a/b"}`, "UUID", 400},
		"a device nobody knows":   {`{"udid":"MAC-2","request_type":"ProfileList"}`, "MAC-2", 404},
		"no command for a Mac":    {`{"udid":"MAC-1","request_type":"PlayLostModeSound"}`, "macOS", 422},
	} {
		if got := h.call(t, "micromdm", "POST", "/v1/commands", tt.in); got.status != tt.status || !strings.Contains(got.body, tt.says) {
			t.Errorf("%s: %d %s, want %d with %q", name, got.status, got.body, tt.status, tt.says)
		}
	}
	for name, tt := range map[string]struct {
		path, in, says string
		status         int
	}{
		"no property list":      {"/v1/commands/MAC-1", "{}", "not a command", 400},
		"no RequestType":        {"/v1/commands/MAC-1", "<plist version=\"1.0\"><dict><key>CommandUUID</key><string>x</string></dict></plist>", "RequestType", 400},
		"a device nobody knows": {"/v1/commands/MAC-2", plist("x-1", "ProfileList"), "MAC-2", 404},
	} {
		if got := h.call(t, "micromdm", "PUT", tt.path, tt.in); got.status != tt.status || !strings.Contains(got.body, tt.says) {
			t.Errorf("raw, %s: %d %s, want %d with %q", name, got.status, got.body, tt.status, tt.says)
		}
	}
	if n := h.waiting(t, id); n != 0 {
		t.Errorf("%d commands wait", n)
	}
}

// TestTheQueueIsSeenAndCleared follows a queue, with what is not to be seen in it.
func TestTheQueueIsSeenAndCleared(t *testing.T) {
	h := newHouse(t)
	id := h.device(t, "MAC-1")
	view := func() (uuids []string, payloads string) {
		t.Helper()
		var out struct {
			Commands []struct {
				UUID    string
				Payload []byte
			}
		}
		got := h.call(t, "micromdm", "GET", "/v1/commands/MAC-1", "")
		got.json(t, &out)
		if got.status != 200 {
			t.Errorf("the queue: %d %s", got.status, got.body)
		}
		for _, c := range out.Commands {
			uuids = append(uuids, c.UUID)
			payloads += string(c.Payload)
			var whole map[string]any
			must(t, guard.DecodePlist(c.Payload, &whole, guard.PlistLimits{}))
			if whole["CommandUUID"] != c.UUID {
				t.Errorf("the payload of %s is %v", c.UUID, whole)
			}
		}
		return uuids, payloads
	}
	if got := h.call(t, "micromdm", "GET", "/v1/commands/MAC-1", ""); strings.TrimSpace(got.body) != "{}" {
		t.Errorf("an empty queue is %s", got.body)
	}
	if got := h.call(t, "micromdm", "GET", "/v1/commands/MAC-2", ""); got.status != 200 || strings.TrimSpace(got.body) != "{}" {
		t.Errorf("nobody's queue is %d %s", got.status, got.body)
	}
	for i, in := range []string{
		plist("q-1", "ProfileList"), plist("q-2", "SetRecoveryLock", "<key>NewPassword</key><string>correct-horse</string>"),
		plist("q-3", "RemoveProfile", "<key>Identifier</key><string>com.example.seen</string>"),
		plist("q-4", "RotateFileVaultKey", "<key>KeyType</key><string>institutional</string><key>FileVaultUnlock</key><dict><key>Password</key><string>correct-horse</string></dict><key>NewCertificate</key><data>AAEC</data>"),
		plist("q-5", "AccountConfiguration", "<key>AutoSetupAdminAccounts</key><array><dict><key>shortName</key><string>admin</string><key>passwordHash</key><data>"+b64("correct-horse")+"</data></dict></array>"),
		plist("q-6", "InstallProfile", "<key>Payload</key><data>"+b64(profileXML("com.example.mdm.gatehouse.renewal"))+"</data>"),
		plist("q-7", "InstallProfile", "<key>Payload</key><data>"+b64(profileXML("com.example.mine"))+"</data>"),
	} {
		got := h.call(t, "micromdm", []string{"PUT", "POST"}[i%2], "/v1/commands/MAC-1", in)
		var out struct {
			Payload struct {
				UDID, CommandUUID string
				Payload           []byte
			}
		}
		got.json(t, &out)
		if got.status != 201 || out.Payload.UDID != "MAC-1" || string(out.Payload.Payload) != in {
			t.Errorf("a raw command: %d %s", got.status, got.body)
		}
	}
	// Once more, as after a lost answer: MicroMDM takes it.
	if got := h.call(t, "micromdm", "PUT", "/v1/commands/MAC-1", plist("q-1", "ProfileList")); got.status != 201 {
		t.Errorf("the same again: %d %s", got.status, got.body)
	}
	if got := h.call(t, "micromdm", "PUT", "/v1/commands/MAC-1", plist("q-1", "SecurityInfo")); got.status != 409 {
		t.Errorf("another of the same UUID: %d %s", got.status, got.body)
	}
	uuids, payloads := view()
	if strings.Join(uuids, " ") != "q-1 q-2 q-3 q-4 q-5 q-6 q-7" || !strings.Contains(payloads, "com.example.seen") || !strings.Contains(payloads, "admin") {
		t.Errorf("the queue is %v: %s", uuids, payloads)
	}
	if strings.Contains(payloads, "correct-horse") || strings.Contains(payloads, b64("correct-horse")) {
		t.Error("a password is in the queue for all to see")
	}
	if n := strings.Count(payloads, "<data>"); n != 2 {
		t.Errorf("%d pieces of data are in the queue, want the certificate and one profile:\n%s", n, payloads)
	}
	h.next(t, id) // q-1 is on its way
	if got := h.call(t, "micromdm", "DELETE", "/v1/commands/MAC-1", ""); got.status != 200 || strings.TrimSpace(got.body) != "{}" {
		t.Errorf("clear: %d %s", got.status, got.body)
	}
	if uuids, _ := view(); strings.Join(uuids, " ") != "q-1" {
		t.Errorf("after it was cleared, the queue is %v, want what the device has in hand", uuids)
	}
	if got := h.call(t, "micromdm", "DELETE", "/v1/commands/MAC-2", ""); got.status != 200 {
		t.Errorf("clear nobody's: %d %s", got.status, got.body)
	}
}

func TestPushesAreAnsweredAsByMicroMDM(t *testing.T) {
	h := newHouse(t)
	h.certificate(t)
	h.device(t, "MAC-1")
	h.device(t, "DEAD-1")
	h.apple.Script([]byte("DEAD-1"), apnstest.Answer{Status: 410, Reason: "Unregistered", Timestamp: time.Now().Add(-time.Hour)})
	for name, tt := range map[string]struct {
		method, path, says string
		status             int
	}{
		"the old way":            {"GET", "/push/MAC-1", `"status": "success"`, 200},
		"the new way":            {"POST", "/v1/push/MAC-1", "push_notification_id", 200},
		"kept until a time":      {"POST", "/v1/push/MAC-1?expiration=1900000000", "success", 200},
		"until no time":          {"POST", "/v1/push/MAC-1?expiration=soon", "expiration", 400},
		"nobody":                 {"POST", "/v1/push/MAC-2", "MAC-2", 404},
		"Apple knows it no more": {"GET", "/push/DEAD-1", "Unregistered", 500},
	} {
		got := h.call(t, "micromdm", tt.method, tt.path, "")
		if got.status != tt.status || !strings.Contains(got.body, tt.says) || got.status != 200 && !strings.Contains(got.body, `"error"`) {
			t.Errorf("%s: %d %s, want %d with %q", name, got.status, got.body, tt.status, tt.says)
		}
	}
	// The same path is NanoMDM's for others.
	if got := h.call(t, "nanomdm", "POST", "/v1/push/MAC-1", ""); got.status != 200 || !strings.Contains(got.body, "push_result") {
		t.Errorf("as nanomdm: %d %s", got.status, got.body)
	}
}

func TestProfilesAreKeptAsByMicroMDM(t *testing.T) {
	h := newHouse(t)
	put := func(identifier, content string) reply {
		t.Helper()
		return h.call(t, "micromdm", "PUT", "/v1/profiles", fmt.Sprintf(`{"profile":{"Identifier":%q,"Mobileconfig":%q}}`, identifier, b64(content)))
	}
	for name, tt := range map[string]struct {
		got    reply
		status int
	}{
		"a profile":            {put("com.example.a", profileXML("com.example.a")), 200},
		"it again":             {put("com.example.a", profileXML("com.example.a")), 200},
		"another name":         {put("com.example.b", profileXML("com.example.a")), 400},
		"no profile":           {put("com.example.a", "what?"), 400},
		"nothing":              {h.call(t, "micromdm", "PUT", "/v1/profiles", "{}"), 400},
		"not base64":           {h.call(t, "micromdm", "PUT", "/v1/profiles", `{"profile":{"Mobileconfig":"%"}}`), 400},
		"no such, asked for":   {h.call(t, "micromdm", "POST", "/v1/profiles", `{"id":"com.example.none"}`), 404},
		"no such, to go":       {h.call(t, "micromdm", "DELETE", "/v1/profiles", `{"ids":["com.example.none"]}`), 404},
		"this server's own ID": {put("com.example.mdm.gatehouse.enroll", profileXML("com.example.mdm.gatehouse.enroll")), 409},
	} {
		if tt.got.status != tt.status {
			t.Errorf("%s: %d %s, want %d", name, tt.got.status, tt.got.body, tt.status)
		}
	}
	var out struct {
		Profiles []struct {
			Identifier   string
			Mobileconfig []byte
		}
	}
	h.call(t, "micromdm", "POST", "/v1/profiles", `{"id":"com.example.a"}`).json(t, &out)
	if len(out.Profiles) != 1 || !strings.Contains(string(out.Profiles[0].Mobileconfig), "costs $5") {
		t.Errorf("the profile is %s", out.Profiles)
	}
	// What mdmctl gets it can send back.
	if got := put("com.example.a", string(out.Profiles[0].Mobileconfig)); got.status != 200 {
		t.Errorf("the profile back: %d %s", got.status, got.body)
	}
	all, _, err := h.library.Profiles(t.Context(), "", 10)
	must(t, err)
	if _, v, err := h.library.Profile(t.Context(), all[0].ID); err != nil || !v.Literal || v.CreatedBy != "token:scripts" {
		t.Errorf("in the library: %+v %v", v, err)
	}
	if got := h.call(t, "micromdm", "DELETE", "/v1/profiles", `{"ids":["com.example.a"]}`); got.status != 200 {
		t.Errorf("delete: %d %s", got.status, got.body)
	}
	if got := h.call(t, "micromdm", "POST", "/v1/profiles", `{}`); strings.Contains(got.body, "com.example.a") {
		t.Errorf("after it was deleted: %s", got.body)
	}
}

func TestThePushCertificateIsTakenAsByMicroMDM(t *testing.T) {
	h := newHouse(t)
	if got := h.call(t, "micromdm", "GET", "/v1/config/certificate", ""); got.status != 404 {
		t.Errorf("without one: %d %s", got.status, got.body)
	}
	chain, key, err := h.apple.Issue(apnstest.Identity{Topic: topic})
	must(t, err)
	if got := h.call(t, "micromdm", "PUT", "/v1/config/certificate", fmt.Sprintf(`{"cert":%q,"key":%q}`, b64(string(chain)), b64(string(key)))); got.status != 200 {
		t.Fatalf("upload: %d %s", got.status, got.body)
	}
	var out struct{ Cert []byte }
	h.call(t, "micromdm", "GET", "/v1/config/certificate", "").json(t, &out)
	if string(out.Cert) != string(chain) {
		t.Errorf("the certificate is %s, want %s", out.Cert, chain)
	}
	if got := h.call(t, "micromdm", "PUT", "/v1/config/certificate", fmt.Sprintf(`{"cert":%q}`, b64(string(chain[:100])))); got.status != 400 {
		t.Errorf("half of one: %d %s", got.status, got.body)
	}
}

func TestDevicesAreBlockedAsByMicroMDM(t *testing.T) {
	h := newHouse(t)
	id := h.device(t, "MAC-1")
	state := func() (s mdm.State) {
		t.Helper()
		must(t, h.db.View(t.Context(), func(tx storage.Tx) error {
			d, err := mdm.GetDevice(tx, id)
			s = d.State
			return err
		}))
		return s
	}
	for _, tt := range []struct {
		path string
		want mdm.State
	}{{"block", mdm.Blocked}, {"block", mdm.Blocked}, {"unblock", mdm.Unenrolled}, {"unblock", mdm.Unenrolled}} {
		if got := h.call(t, "micromdm", "POST", "/v1/devices/MAC-1/"+tt.path, ""); got.status != 200 || state() != tt.want {
			t.Errorf("%s: %d %s, the device is %s", tt.path, got.status, got.body, state())
		}
	}
	if got := h.call(t, "micromdm", "POST", "/v1/devices/MAC-2/block", ""); got.status != 404 {
		t.Errorf("nobody: %d %s", got.status, got.body)
	}
}
