package mdmtest

import (
	"crypto/x509"
	"errors"
	"maps"
	"strings"
	"time"
)

// facts is what the device knows of itself, under the names of DeviceInformation. What
// the model, its system or the enrollment lacks, facts.txt takes away. The caller holds mu.
func (c *Channel) facts() Dict {
	d := c.dev
	hw, o := d.opts.Model.hardware(), d.opts
	mac, phone, state := o.Model == Mac, o.Model == IPhone, &d.condition
	token, _ := c.Push()
	battery := 0.87
	facts := Dict{
		"UDID": o.UDID, "SerialNumber": o.Serial, "DeviceName": state.name, "OSVersion": o.OSVersion, "BuildVersion": o.Build,
		"SupplementalOSVersionExtra": "", "SupplementalBuildVersion": o.Build,
		"ModelName": hw.name, "Model": hw.product, "ModelNumber": hw.number, "ProductName": hw.product,
		"DeviceCapacity": 256.0, "AvailableDeviceCapacity": 112.5, "BatteryLevel": battery, "HasBattery": true,
		"OrganizationInfo": Dict{}, "MDMOptions": Dict{}, "AwaitingConfiguration": state.awaiting,
		"iTunesStoreAccountIsActive": true, "iTunesStoreAccountHash": easID("store " + o.Serial),
		"IsSupervised": o.Supervised, "IsMultiUser": o.Shared, "IsMDMLostModeEnabled": state.lost,
		"IsDeviceLocatorServiceEnabled": true, "IsActivationLockEnabled": false, "IsActivationLockSupported": true,
		"IsDoNotDisturbInEffect": false, "EASDeviceIdentifier": easID(o.Serial), "IsCloudBackupEnabled": true,
		"LastCloudBackupDate": time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
		"PushToken":           token, "DiagnosticSubmissionEnabled": false, "AppAnalyticsEnabled": false, "TimeZone": "Europe/Vienna",
		"BluetoothMAC": "02:00:00:aa:bb:01", "WiFiMAC": "02:00:00:aa:bb:02", "EthernetMAC": "02:00:00:aa:bb:03",
		"IsNetworkTethered": false, "AccessibilitySettings": Dict{"BoldTextEnabled": false, "TextSize": 4},
		"SoftwareUpdateDeviceID": hw.product + "AP", "SoftwareUpdateSettings": Dict{"RecommendationsCadence": 0},
		"OSUpdateSettings": Dict{"AutoCheckEnabled": true, "IsDefaultCatalog": true}, "DeviceID": "02:00:00:aa:bb:02",
		"IsAppleSilicon": !o.Intel, "SystemIntegrityProtectionEnabled": true, "SupportsLOMDevice": false,
		"SupportsiOSAppInstalls": !o.Intel, "PINRequiredForEraseDevice": true, "PINRequiredForDeviceLock": true,
		"EACSPreflight": "success", "LocalHostName": "simulated-mac", "HostName": "simulated-mac.local",
		"AutoSetupAdminAccounts": []any{}, "ActiveManagedUsers": []any{},
	}
	if mac {
		facts["ProvisioningUDID"] = "00006040-" + strings.ReplaceAll(o.UDID, "-", "")[:16]
		if user := d.userChannel; user != nil {
			facts["ActiveManagedUsers"] = []any{user.user.ID}
		}
	}
	if phone {
		maps.Copy(facts, Dict{
			"IMEI": d.imei, "ModemFirmwareVersion": "1.40.03", "CellularTechnology": 1, "ICCID": "8943010000000000001",
			"PhoneNumber": "+15555550100", "DataRoamingEnabled": false, "VoiceRoamingEnabled": false, "PersonalHotspotEnabled": false,
			"IsRoaming": false, "CurrentCarrierNetwork": "Example", "SubscriberCarrierNetwork": "Example", "CarrierSettingsVersion": "60.1",
			"SubscriberMCC": "232", "SubscriberMNC": "01", "CurrentMCC": "232", "CurrentMNC": "01",
			"ServiceSubscriptions": []any{Dict{
				"Slot": "CTSubscriptionSlotOne", "Label": "Primary", "IMEI": d.imei, "ICCID": "8943010000000000001", "PhoneNumber": "+15555550100",
				"IsDataPreferred": true, "IsVoicePreferred": true, "IsRoaming": false, "CarrierSettingsVersion": "60.1",
				"CurrentCarrierNetwork": "Example", "CurrentMCC": "232", "CurrentMNC": "01",
			}},
		})
	}
	if o.Shared {
		maps.Copy(facts, Dict{
			"MaximumResidentUsers": 4, "EstimatedResidentUsers": 4, "ResidentUsers": 4, "QuotaSize": 8192, "UserSessionTimeout": 0,
			"TemporarySessionTimeout": 0, "TemporarySessionOnly": false, "ManagedAppleIDDefaultDomains": []any{},
			"OnlineAuthenticationGracePeriod": 0, "SkipLanguageAndLocaleSetupForNewUsers": false,
		})
	}
	maps.Copy(facts, state.changed)
	return facts
}

// deviceInformation answers the queries that this device knows and the
// enrollment allows; the others are just missing (PROTOCOL 5.5).
func (c *Channel) deviceInformation(f *fields) Result {
	d := c.dev
	queries := f.strings("Queries")
	if f.err == nil && len(queries) == 0 {
		f.err = errors.New("the array Queries is empty")
	}
	d.mu.Lock()
	facts := c.facts()
	d.mu.Unlock()
	answers := Dict{}
	for _, q := range queries {
		here, known := d.here(documented().queries[q])
		if v := facts[q]; known && v != nil && c.obstacle(here) == unobstructed {
			answers[q] = v
		}
	}
	return done(Dict{"QueryResponses": answers})
}

// securityInfo leaves out what a User Enrollment, or a Mac's user channel, does not get.
func (c *Channel) securityInfo() Dict {
	d := c.dev
	byod := d.byod.Load()
	d.mu.Lock()
	defer d.mu.Unlock()
	state := &d.condition
	if d.opts.Model != Mac {
		info := Dict{
			"HardwareEncryptionCaps": 3, "PasscodeCompliant": state.passcode || !d.wantsPasscode(),
			"ManagementStatus": Dict{"IsUserEnrollment": byod},
		}
		if !byod {
			info["PasscodePresent"] = state.passcode
			info["PasscodeCompliantWithProfiles"] = state.passcode || !d.wantsPasscode()
			info["PasscodeLockGracePeriod"] = 0
			info["PasscodeLockGracePeriodEnforced"] = 0
			if d.opts.Model == IPhone || d.opts.Model == IPad {
				info["AutoLockTime"] = 60
			}
		}
		return info
	}
	info := Dict{"ManagementStatus": Dict{
		"EnrolledViaDEP": d.opts.ADE, "IsUserEnrollment": byod, "UserApprovedEnrollment": !d.opts.Unapproved, "IsActivationLockManageable": d.opts.Supervised,
	}}
	if c.user != nil {
		return info
	}
	maps.Copy(info, Dict{
		"FDE_Enabled": true, "SystemIntegrityProtectionEnabled": true, "AuthenticatedRootVolumeEnabled": true,
		"FirewallSettings": Dict{"FirewallEnabled": false, "BlockAllIncoming": false, "StealthMode": false, "LoggingEnabled": true, "LoggingOption": "throttled"},
		"SecureBoot":       Dict{"SecureBootLevel": "full", "ExternalBootLevel": "disallowed"},
	})
	if d.opts.Intel {
		info["FirmwarePasswordStatus"] = Dict{"PasswordExists": state.firmware != "", "ChangePending": false, "AllowOroms": false}
	}
	if !byod {
		maps.Copy(info, d.escrow())
		maps.Copy(info, Dict{
			"FDE_HasPersonalRecoveryKey": true, "FDE_HasInstitutionalRecoveryKey": false, "RemoteDesktopEnabled": state.remoteDesktop,
			"IsRecoveryLockEnabled": state.recoveryLock != "", "BootstrapTokenAllowedForAuthentication": "allowed",
			"BootstrapTokenRequiredForSoftwareUpdate": !d.opts.Intel, "BootstrapTokenRequiredForKernelExtensionApproval": !d.opts.Intel,
		})
	}
	return info
}

// wantsPasscode reports whether a profile asks for a passcode. The caller holds mu.
func (d *Device) wantsPasscode() bool {
	for _, p := range d.installed {
		for _, policy := range p.ofType("com.apple.mobiledevice.passwordpolicy") {
			if policy["forcePIN"] == true || d.byod.Load() { // there, any policy does
				return true
			}
		}
	}
	return false
}

// restrictions are those of the profiles, as the strictest has them.
func (d *Device) restrictions(f *fields) Result {
	each := f.bool("ProfileRestrictions")
	d.mu.Lock()
	defer d.mu.Unlock()
	global, profiles := Dict{}, Dict{}
	for _, p := range d.installed {
		own := Dict{}
		for _, payload := range p.ofType("com.apple.applicationaccess") {
			for key, v := range payload {
				if strings.HasPrefix(key, "Payload") {
					continue
				}
				group := ""
				switch v.(type) {
				case bool:
					group = "restrictedBool"
				case int64:
					group = "restrictedValue"
				default:
					continue
				}
				for _, to := range []Dict{global, own} {
					if to[group] == nil {
						to[group] = Dict{}
					}
					to[group].(Dict)[key] = Dict{"value": v}
				}
			}
		}
		if len(own) > 0 {
			profiles[p.Identifier] = own
		}
	}
	keys := Dict{"GlobalRestrictions": global}
	if each {
		keys["ProfileRestrictions"] = profiles
	}
	return done(keys)
}

// profileList lists the profiles of the channel; a User Enrollment does not show those
// that the user installed.
func (c *Channel) profileList(managedOnly bool) []any {
	d := c.dev
	managedOnly = managedOnly || d.byod.Load()
	d.mu.Lock()
	defer d.mu.Unlock()
	list := []any{}
	add := func(p *Profile, managed bool) {
		e := Dict{"IsEncrypted": false, "HasRemovalPasscode": len(p.ofType("com.apple.profileRemovalPassword")) > 0}
		if d.opts.Model != Mac {
			e["IsManaged"] = managed
		}
		copyKeys(e, p.top, "PayloadUUID", "PayloadIdentifier", "PayloadVersion", "PayloadDisplayName", "PayloadOrganization",
			"PayloadDescription", "PayloadRemovalDisallowed")
		contents := []any{}
		for _, payload := range p.Payloads {
			item := Dict{}
			copyKeys(item, payload, "PayloadType", "PayloadVersion", "PayloadIdentifier", "PayloadUUID", "PayloadDisplayName",
				"PayloadDescription", "PayloadOrganization")
			contents = append(contents, item)
		}
		e["PayloadContent"] = contents
		if p.Signer != nil {
			e["SignerCertificates"] = []any{p.Signer.Raw}
		}
		list = append(list, e)
	}
	if d.profile != nil && c.user == nil {
		add(d.profile, true)
	}
	for _, p := range d.installed {
		if p.user == c.user && (!p.byHand || !managedOnly) {
			add(p.Profile, !p.byHand)
		}
	}
	return list
}

func copyKeys(to, from Dict, keys ...string) {
	for _, key := range keys {
		if v, ok := from[key]; ok {
			to[key] = v
		}
	}
}

// certificateList is the system's keychain, or on a user channel that user's.
func (c *Channel) certificateList(managedOnly bool) []any {
	d := c.dev
	managedOnly = managedOnly || d.byod.Load()
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
		if p.user != c.user || p.byHand && managedOnly {
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
