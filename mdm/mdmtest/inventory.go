package mdmtest

import (
	"crypto/x509"
	"slices"
	"strings"
)

// fact is one answer of DeviceInformation, and when it is given.
type fact struct {
	value any // nil: this model does not have it
	right int64
	byod  bool // also in a User Enrollment
}

// facts is what the device knows of itself (commands.json, DeviceInformation).
func (c *Channel) facts() map[string]fact {
	d := c.dev
	hw, o := d.opts.Model.hardware(), d.opts
	mac, phone := o.Model == Mac, o.Model == IPhone
	only := func(here bool, v any) any {
		if !here {
			return nil
		}
		return v
	}
	token, _ := c.Push()
	battery := 0.87
	return map[string]fact{
		"UDID":                             {o.UDID, 0, false},
		"ProvisioningUDID":                 {only(mac, "00006040-"+strings.ReplaceAll(o.UDID, "-", "")[:16]), 0, false},
		"MDMOptions":                       {Dict{}, 0, true},
		"OrganizationInfo":                 {Dict{}, 0, true},
		"AwaitingConfiguration":            {false, 0, false},
		"iTunesStoreAccountIsActive":       {true, 4096, false},
		"DeviceName":                       {o.Name, 16, true},
		"OSVersion":                        {o.OSVersion, 16, true},
		"BuildVersion":                     {o.Build, 16, true},
		"ModelName":                        {hw.name, 16, true},
		"Model":                            {hw.product, 16, true},
		"ModelNumber":                      {hw.number, 16, true},
		"ProductName":                      {hw.product, 16, true},
		"IsAppleSilicon":                   {only(mac, true), 16, true},
		"SerialNumber":                     {o.Serial, 16, false},
		"DeviceCapacity":                   {256.0, 16, true},
		"AvailableDeviceCapacity":          {112.5, 16, true},
		"IMEI":                             {only(phone, d.imei), 16, false},
		"ModemFirmwareVersion":             {only(phone, "1.40.03"), 16, false},
		"CellularTechnology":               {only(phone, 1), 16, true},
		"BatteryLevel":                     {battery, 16, true},
		"HasBattery":                       {only(mac, true), 16, true},
		"IsSupervised":                     {o.Supervised, 16, true},
		"IsMultiUser":                      {only(!mac, false), 16, true},
		"IsDeviceLocatorServiceEnabled":    {only(!mac, true), 16, true},
		"IsActivationLockEnabled":          {false, 16, false},
		"IsActivationLockSupported":        {only(mac, true), 16, false},
		"IsDoNotDisturbInEffect":           {only(!mac, false), 16, false},
		"EASDeviceIdentifier":              {only(!mac, easID(o.Serial)), 16, true},
		"IsCloudBackupEnabled":             {only(!mac, true), 16, false},
		"LocalHostName":                    {only(mac, "simulated-mac"), 16, true},
		"HostName":                         {only(mac, "simulated-mac.local"), 16, true},
		"SystemIntegrityProtectionEnabled": {only(mac, true), 16, true},
		"SupportsLOMDevice":                {only(mac, false), 16, true},
		"IsMDMLostModeEnabled":             {only(!mac, false), 16, false},
		"PushToken":                        {token, 16, mac},
		"DiagnosticSubmissionEnabled":      {only(!mac, false), 16, true},
		"AppAnalyticsEnabled":              {only(!mac, false), 16, true},
		"TimeZone":                         {only(!mac, "Europe/Vienna"), 16, true},
		"ICCID":                            {only(phone, "8943010000000000001"), 32, false},
		"BluetoothMAC":                     {"02:00:00:aa:bb:01", 32, false},
		"WiFiMAC":                          {"02:00:00:aa:bb:02", 32, false},
		"EthernetMAC":                      {only(mac, "02:00:00:aa:bb:03"), 32, false},
		"PhoneNumber":                      {only(phone, "+15555550100"), 32, false},
		"DataRoamingEnabled":               {only(phone, false), 32, false},
		"PersonalHotspotEnabled":           {only(phone, false), 32, false},
		"IsNetworkTethered":                {only(!mac, false), 32, true},
		"IsRoaming":                        {only(phone, false), 32, false},
		"PINRequiredForEraseDevice":        {only(mac, true), 16, false},
		"PINRequiredForDeviceLock":         {only(mac, true), 16, false},
		"SupportsiOSAppInstalls":           {only(mac, true), 16, true},
	}
}

// deviceInformation answers the queries that this device knows and the
// enrollment allows; the others are just missing (PROTOCOL 5.5).
func (c *Channel) deviceInformation(f *fields) Result {
	queries := f.strings("Queries")
	if f.err == nil && len(queries) == 0 {
		f.required("Queries")
	}
	answers := Dict{}
	facts := c.facts()
	for _, q := range queries {
		fact, known := facts[q]
		if !known || fact.value == nil || !c.dev.allows(fact.right) || c.dev.byod.Load() && !fact.byod {
			continue
		}
		answers[q] = fact.value
	}
	return done(Dict{"QueryResponses": answers})
}

func (d *Device) securityInfo() Dict {
	byod := d.byod.Load()
	info := Dict{}
	if d.opts.Model == Mac {
		info["FDE_Enabled"] = true
		info["SystemIntegrityProtectionEnabled"] = true
		info["AuthenticatedRootVolumeEnabled"] = true
		info["FirewallSettings"] = Dict{"FirewallEnabled": false, "BlockAllIncoming": false, "StealthMode": false}
		info["ManagementStatus"] = Dict{"EnrolledViaDEP": false, "IsUserEnrollment": byod, "UserApprovedEnrollment": true, "IsActivationLockManageable": false}
		if !byod {
			info["FDE_HasPersonalRecoveryKey"] = false
			info["FDE_HasInstitutionalRecoveryKey"] = false
			info["RemoteDesktopEnabled"] = false
			info["IsRecoveryLockEnabled"] = false
		}
		return info
	}
	info["HardwareEncryptionCaps"] = 3
	info["PasscodeCompliant"] = true
	if !byod {
		info["PasscodePresent"] = true
		info["PasscodeCompliantWithProfiles"] = true
		info["PasscodeLockGracePeriod"] = 0
		info["PasscodeLockGracePeriodEnforced"] = 0
	}
	return info
}

// applications is what a phone fresh from the shop might hold. A User Enrollment
// shows managed apps only, and there are none.
func (d *Device) applications(identifiers []string, managedOnly bool) []any {
	list := []any{}
	if managedOnly || d.byod.Load() {
		return list
	}
	for _, app := range []Dict{
		{"Identifier": "com.apple.Pages", "Name": "Pages", "Version": "8254.1.31", "ShortVersion": "14.4", "BundleSize": 521000000},
		{"Identifier": "com.example.notes", "Name": "Example Notes", "Version": "312", "ShortVersion": "3.1.2", "BundleSize": 48000000},
	} {
		if len(identifiers) == 0 || slices.Contains(identifiers, app["Identifier"].(string)) {
			list = append(list, app)
		}
	}
	return list
}

func (c *Channel) profileList() []any {
	d := c.dev
	d.mu.Lock()
	defer d.mu.Unlock()
	list := []any{}
	entry := func(top Dict) Dict {
		e := Dict{"IsEncrypted": false, "HasRemovalPasscode": false}
		if d.opts.Model != Mac {
			e["IsManaged"] = true
		}
		for _, key := range []string{"PayloadUUID", "PayloadIdentifier", "PayloadVersion", "PayloadDisplayName", "PayloadOrganization", "PayloadDescription", "PayloadRemovalDisallowed"} {
			if v, ok := top[key]; ok {
				e[key] = v
			}
		}
		return e
	}
	contents := func(payloads []Dict) []any {
		all := []any{}
		for _, p := range payloads {
			item := Dict{}
			for _, key := range []string{"PayloadType", "PayloadVersion", "PayloadIdentifier", "PayloadUUID", "PayloadDisplayName"} {
				if v, ok := p[key]; ok {
					item[key] = v
				}
			}
			all = append(all, item)
		}
		return all
	}
	add := func(p *Profile) {
		e := entry(p.top)
		e["PayloadContent"] = contents(p.Payloads)
		if p.Signer != nil {
			e["SignerCertificates"] = []any{p.Signer.Raw}
		}
		list = append(list, e)
	}
	if d.profile != nil && c.user == nil {
		add(d.profile)
	}
	for _, p := range d.installed {
		if p.user == c.user {
			add(p.Profile)
		}
	}
	return list
}

// certificateList is the system's keychain, or on a user channel that user's.
func (c *Channel) certificateList() []any {
	d := c.dev
	d.mu.Lock()
	defer d.mu.Unlock()
	list := []any{}
	seen := map[string]bool{}
	add := func(identity bool, certs ...*x509.Certificate) {
		for _, cert := range certs {
			if !seen[string(cert.Raw)] {
				list = append(list, Dict{"CommonName": cert.Subject.CommonName, "IsIdentity": identity, "Data": cert.Raw})
			}
			seen[string(cert.Raw)] = true
		}
	}
	if c.user == nil {
		if d.profile != nil {
			add(false, d.profile.Certificates...)
		}
		if d.identity != nil {
			add(true, d.identity.cert)
		}
	}
	for _, p := range d.installed {
		if p.user != c.user {
			continue
		}
		for _, credential := range p.credentials {
			add(true, credential.Certificate)
		}
		for _, payload := range p.PKCS12s {
			add(false, payload.Others...)
		}
		add(false, p.Certificates...)
	}
	return list
}
