package profile

import "testing"

func TestTitleOf(t *testing.T) {
	for key, want := range map[string]string{
		"EncryptionType":                     "Encryption type",
		"SSID_STR":                           "Network name (SSID)",
		"URL":                                "URL",
		"URLStringProbe":                     "URL string probe",
		"allowAirDrop":                       "Allow AirDrop",
		"forceAirPrintTrustedTLSRequirement": "Force AirPrint trusted TLS requirement",
		"allowedExternalIntelligenceWorkspaceIDs": "Allowed external intelligence workspace IDs",
		"autonomousSingleAppModePermittedAppIDs":  "Autonomous single app mode permitted app IDs",
		"VPNSubType":                              "VPN sub type",
		"allowiPhoneMirroring":                    "Allow iPhone mirroring",
		"safariAllowAutoFill":                     "Safari allow auto fill",
		"EAPSIMNumberOfRANDs":                     "EAPSIM number of RANDs",
		"IPv4":                                    "IPv4",
		"static-apps":                             "Static apps",
		"com.apple.autologout.AutoLogOutDelay":    "Autologout auto log out delay", "KeyIsExtractable": "Key is extractable",
		"CCPMPPE128Enabled":           "CCPMPPE128 enabled",
		"IncomingMailServerUseSSL":    "Incoming mail server use SSL",
		"PayloadOrganization":         "Payload organization",
		"SMIMESigningCertificateUUID": "SMIME signing certificate UUID",
		"Key Usage":                   "Key usage",
		"_":                           "_",
	} {
		if got := titleOf(key); got != want {
			t.Errorf("titleOf(%q) = %q, want %q", key, got, want)
		}
	}
}
