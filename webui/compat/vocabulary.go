package compat

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"strings"

	"github.com/gatehouse-mdm/gatehouse/mdm/command"
	"github.com/gatehouse-mdm/gatehouse/storage/guard"
)

// commandJSON is a command in MicroMDM's JSON (mdm/mdm/command.go of v1.13.1), in Apple's
// spelling.
type commandJSON struct {
	udid, uuid, requestType string
	params                  map[string]any
}

// key is one key of a command, as MicroMDM and as Apple spells it.
type key struct {
	micro, apple string
	kind         kind
	// kept says that MicroMDM sends it to the device also when it is empty or false.
	kept bool
	keys []key // of a dictionary, or of the dictionaries in a list
}

// kind is how the value of a key is taken.
type kind int

const (
	asItIs  kind = iota
	yesOrNo      // scripts of MicroMDM's write some of them as texts
	number       // MicroMDM has a text, Apple a number
	dict
	dicts
	plistData // a property list in base64, which becomes a dictionary
)

// verbatim is the key whose name is Apple's with underscores: "product_key" is ProductKey.
func verbatim(apple string) key {
	var b strings.Builder
	for i, r := range apple {
		if i > 0 && 'A' <= r && r <= 'Z' {
			b.WriteByte('_')
		}
		b.WriteRune(r)
	}
	return key{micro: strings.ToLower(b.String()), apple: apple}
}

func flag(k key) key { k.kind = yesOrNo; return k }
func kept(k key) key { k.kept = true; return k }

// each returns the keys that verbatim makes.
func each(apple ...string) (keys []key) {
	for _, name := range apple {
		keys = append(keys, verbatim(name))
	}
	return keys
}

var passwordKeys = []key{
	verbatim("CurrentPassword"), kept(verbatim("NewPassword")),
	flag(verbatim("RequestRequiresNetworkTether")), {micro: "allow_oroms", apple: "AllowOroms", kind: yesOrNo},
}

// vocabulary is all that MicroMDM's JSON can say.
var vocabulary = map[string][]key{
	"ActivationLockBypassCode":  nil,
	"AvailableOSUpdates":        nil,
	"CertificateList":           nil,
	"ClearRestrictionsPassword": nil,
	"DeviceConfigured":          nil,
	"DeviceLocation":            nil,
	"DisableLostMode":           nil,
	"DisableRemoteDesktop":      nil,
	"EnableRemoteDesktop":       nil,
	"LOMSetupRequest":           nil,
	"LogOutUser":                nil,
	"ManagedMediaList":          nil,
	"NSExtensionMappings":       nil,
	"OSUpdateStatus":            nil,
	"PlayLostModeSound":         nil,
	"ProfileList":               nil,
	"ProvisioningProfileList":   nil,
	"RestartDevice":             nil,
	"SecurityInfo":              nil,
	"ShutDownDevice":            nil,
	"StopMirroring":             nil,
	"UserList":                  nil,

	"AccountConfiguration": append(each("PrimaryAccountFullName", "PrimaryAccountUserName"),
		flag(verbatim("SkipPrimarySetupAccountCreation")), flag(verbatim("SetPrimarySetupAccountAsRegularUser")),
		flag(verbatim("DontAutoPopulatePrimaryAccountInfo")), flag(verbatim("LockPrimaryAccountInfo")),
		key{micro: "auto_setup_admin_accounts", apple: "AutoSetupAdminAccounts", kind: dicts, keys: []key{
			{micro: "short_name", apple: "shortName"}, {micro: "full_name", apple: "fullName"},
			{micro: "password_hash", apple: "passwordHash"}, {micro: "hidden", apple: "hidden", kind: yesOrNo},
		}}),
	"ActiveNSExtensions":         {{micro: "filter_extensions_points", apple: "FilterExtensionPoints"}},
	"ApplyRedemptionCode":        each("Identifier", "RedemptionCode"),
	"ClearPasscode":              each("UnlockToken"),
	"DeleteUser":                 {{micro: "username", apple: "UserName"}, flag(verbatim("ForceDeletion"))},
	"DeviceInformation":          each("Queries"),
	"DeviceLock":                 append(each("Message", "PhoneNumber"), key{micro: "pin", apple: "PIN"}),
	"EnableLostMode":             each("Message", "PhoneNumber", "Footnote"),
	"EraseDevice":                {{micro: "pin", apple: "PIN"}, flag(verbatim("PreserveDataPlan")), flag(verbatim("DisallowProximitySetup"))},
	"InstallProfile":             each("Payload"),
	"InstallProvisioningProfile": each("ProvisioningProfile"),
	"InstallApplication": {
		{micro: "itunes_store_id", apple: "iTunesStoreID", kept: true}, kept(verbatim("Identifier")), verbatim("ManagementFlags"),
		kept(verbatim("ChangeManagementState")), {micro: "manifest_url", apple: "ManifestURL", kept: true},
		{micro: "options", apple: "Options", kind: dict, kept: true, keys: []key{kept(verbatim("PurchaseMethod"))}},
		// MicroMDM sends both without what is in them.
		{micro: "configuration", apple: "Configuration"}, {micro: "attributes", apple: "Attributes"},
	},
	"InstallEnterpriseApplication": {
		{micro: "manifest", apple: "Manifest"}, {micro: "manifest_url", apple: "ManifestURL", kept: true},
		{micro: "manifest_url_pinning_certs", apple: "ManifestURLPinningCerts"},
		flag(kept(verbatim("PinningRevocationCheckRequired"))),
	},
	"InstalledApplicationList": {
		verbatim("Identifiers"), flag(verbatim("ManagedAppsOnly")),
		{micro: "managed_appd_only", apple: "ManagedAppsOnly", kind: yesOrNo}, // MicroMDM's spelling
	},
	"InstallMedia":    {{micro: "itunes_store_id", apple: "iTunesStoreID", kept: true}, {micro: "media_url", apple: "MediaURL"}, verbatim("MediaType")},
	"InviteToProgram": {{micro: "program_id", apple: "ProgramID"}, {micro: "invitation_url", apple: "InvitationURL"}},
	"LOMDeviceRequest": {{micro: "request_list", apple: "RequestList", kind: dicts, keys: []key{
		{micro: "device_dns_name", apple: "DeviceDNSName", kept: true}, kept(verbatim("DeviceRequestType")),
		{micro: "device_request_uuid", apple: "DeviceRequestUUID", kept: true}, {micro: "lom_protocol_version", apple: "LOMProtocolVersion", kept: true},
		{micro: "primary_ip_v6_address_list", apple: "PrimaryIPv6AddressList", kept: true},
		{micro: "secondary_ip_v6_address_list", apple: "SecondaryIPv6AddressList", kept: true},
	}}},
	"ManagedApplicationAttributes":    each("Identifiers"),
	"ManagedApplicationConfiguration": each("Identifiers"),
	"ManagedApplicationFeedback":      {verbatim("Identifiers"), flag(verbatim("DeleteFeedback"))},
	"ManagedApplicationList":          each("Identifiers"),
	"RefreshCellularPlans":            {{micro: "esim_server_url", apple: "eSIMServerURL"}},
	"RemoveApplication":               each("Identifier"),
	"RemoveMedia":                     {{micro: "itunes_store_id", apple: "iTunesStoreID", kept: true}, verbatim("MediaType"), {micro: "persistent_id", apple: "PersistentID"}},
	"RemoveProfile":                   each("Identifier"),
	"RemoveProvisioningProfile":       {{micro: "uuid", apple: "UUID"}},
	"RequestMirroring":                {verbatim("DestinationName"), {micro: "destination_device_id", apple: "DestinationDeviceID"}, {micro: "scan_time", apple: "ScanTime", kind: number}, verbatim("Password")},
	"Restrictions":                    {flag(kept(verbatim("ProfileRestrictions")))},
	"RotateFileVaultKey": {
		verbatim("KeyType"), verbatim("NewCertificate"), verbatim("ReplyEncryptionCertificate"),
		{micro: "filevault_unlock", apple: "FileVaultUnlock", kind: dict, keys: each("Password", "PrivateKeyExport", "PrivateKeyExportPassword")},
	},
	"ScheduleOSUpdate": {{micro: "updates", apple: "Updates", kind: dicts, keys: []key{
		verbatim("ProductKey"), kept(verbatim("InstallAction")), kept(verbatim("MaxUserDeferrals")), verbatim("ProductVersion"), verbatim("Priority"),
	}}},
	"ScheduleOSUpdateScan": {flag(verbatim("Force"))},
	"SetAutoAdminPassword": {{micro: "guid", apple: "GUID"}, {micro: "password_hash", apple: "passwordHash"}},
	"SetFirmwarePassword":  passwordKeys,
	"SetRecoveryLock":      passwordKeys[:3:3],
	"Settings": {{micro: "settings", apple: "Settings", kind: dicts, keys: []key{
		kept(verbatim("Item")), flag(kept(verbatim("Enabled"))), kept(verbatim("DeviceName")), {micro: "hostname", apple: "HostName", kept: true},
		verbatim("Identifier"), kept(verbatim("TimeZone")), verbatim("Attributes"), verbatim("Image"), kept(verbatim("Where")),
		{micro: "mdm_options", apple: "MDMOptions"}, kept(verbatim("PasscodeLockGracePeriod")), kept(verbatim("MaximumResidentUsers")),
		kept(verbatim("RecommendationCadence")), {micro: "configuration", apple: "Configuration", kind: plistData},
	}}},
	"UnlockUserAccount":      {{micro: "username", apple: "UserName"}},
	"ValidateApplications":   each("Identifiers"),
	"VerifyFirmwarePassword": append(each("Password"), passwordKeys[2]),
	"VerifyRecoveryLock":     append(each("Password"), passwordKeys[2]),
}

// readCommand reads MicroMDM's JSON.
func readCommand(body []byte) (c commandJSON, err error) {
	var in map[string]any
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.UseNumber()
	if err := dec.Decode(&in); err != nil {
		return c, badJSON(err)
	}
	for name, to := range map[string]*string{"udid": &c.udid, "command_uuid": &c.uuid, "request_type": &c.requestType} {
		text, ok := in[name].(string)
		if !ok && in[name] != nil {
			return c, &refusal{http.StatusBadRequest, name + " must be a string"}
		}
		*to = strings.TrimSpace(text)
	}
	if c.udid == "" || c.requestType == "" {
		return c, &refusal{http.StatusBadRequest, "request must contain UDID of the device and a request_type"}
	}
	keys, known := vocabulary[c.requestType]
	if !known {
		text := "mdm: unknown RequestType: " + clip(c.requestType)
		if _, ours := command.Lookup(c.requestType); ours {
			text += "; MicroMDM's JSON has no words for it: send it as a property list to PUT /v1/commands/UDID"
		}
		return c, &refusal{http.StatusBadRequest, text}
	}
	c.params, err = translate("", in, keys)
	return c, err
}

// translate returns the values of in under Apple's keys. Those that it has no key for are
// passed over, as by MicroMDM.
func translate(path string, in map[string]any, keys []key) (map[string]any, error) {
	out := make(map[string]any, len(in))
	for _, k := range keys {
		v, there := in[k.micro]
		if !there || v == nil {
			continue
		}
		v, err := k.translate(path+k.micro, v)
		if err != nil {
			return nil, err
		}
		if k.kept || !zero(v) {
			out[k.apple] = v
		}
	}
	return out, nil
}

func (k key) translate(path string, v any) (any, error) {
	switch k.kind {
	case yesOrNo:
		if text, ok := v.(string); ok {
			if text == "" {
				return false, nil
			}
			b, err := strconv.ParseBool(text)
			if err != nil {
				return nil, &refusal{http.StatusBadRequest, path + " must be true or false"}
			}
			return b, nil
		}
	case number:
		if text, ok := v.(string); ok && text != "" {
			return json.Number(text), nil
		}
	case dict:
		d, ok := v.(map[string]any)
		if !ok {
			return nil, &refusal{http.StatusBadRequest, path + " must be an object"}
		}
		return translate(path+".", d, k.keys)
	case dicts:
		list, ok := v.([]any)
		if !ok {
			return nil, &refusal{http.StatusBadRequest, path + " must be an array of objects"}
		}
		out := make([]any, len(list))
		for i, v := range list {
			at := fmt.Sprintf("%s[%d]", path, i)
			d, ok := v.(map[string]any)
			if !ok {
				return nil, &refusal{http.StatusBadRequest, at + " must be an object"}
			}
			var err error
			if out[i], err = translate(at+".", d, k.keys); err != nil {
				return nil, err
			}
		}
		return out, nil
	case plistData:
		return readPlist(path, v)
	}
	return v, nil
}

// zero says that v is what MicroMDM takes for nothing.
func zero(v any) bool {
	switch v := v.(type) {
	case string:
		return v == ""
	case bool:
		return !v
	case json.Number:
		return v == "0"
	case []any:
		return len(v) == 0
	case map[string]any:
		return len(v) == 0
	}
	return false
}

// readPlist reads a dictionary that came as a property list in base64.
func readPlist(path string, v any) (any, error) {
	text, ok := v.(string)
	raw, err := base64.StdEncoding.DecodeString(text)
	if !ok || err != nil {
		return nil, &refusal{http.StatusBadRequest, path + " must be a property list in base64"}
	}
	if len(raw) == 0 {
		return map[string]any{}, nil
	}
	var d map[string]any
	if err := guard.DecodePlist(raw, &d, guard.PlistLimits{Bytes: command.MaxRaw}); err != nil {
		return nil, &refusal{http.StatusBadRequest, path + " must be a dictionary as a property list in base64: " + err.Error()}
	}
	return numbered(d), nil
}

// numbered is a value of a property list as encoding/json would have it, but for data and
// dates, which stand for themselves.
func numbered(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for name := range v {
			v[name] = numbered(v[name])
		}
	case []any:
		for i := range v {
			v[i] = numbered(v[i])
		}
	case int64:
		return json.Number(strconv.FormatInt(v, 10))
	case uint64:
		return json.Number(strconv.FormatUint(v, 10))
	case float64:
		if math.IsInf(v, 0) || math.IsNaN(v) {
			return v // Build says that it can't be
		}
		n := strconv.FormatFloat(v, 'g', -1, 64)
		if !strings.ContainsAny(n, ".e") {
			n += ".0" // a <real>, even of a whole number
		}
		return json.Number(n)
	}
	return v
}
