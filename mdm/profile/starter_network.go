package profile

import "github.com/gatehouse-mdm/gatehouse/mdm/command"

// networkStarters are about Wi-Fi, VPN and trust.
func networkStarters() []starter {
	everywhere := command.Platforms()
	wifi := func(f *filling) map[string]any {
		f.draft.DisplayName = "Wi-Fi " + f.text("ssid")
		settings := map[string]any{}
		f.put(settings, "SSID_STR", "ssid")
		f.put(settings, "EncryptionType", "security")
		f.put(settings, "HIDDEN_NETWORK", "hidden")
		f.put(settings, "AutoJoin", "auto_join")
		return settings
	}
	ssid := ask("ssid", "Network name", "As it shows in the list of networks (SSID).", "").required()
	hidden := askWhether("hidden", "Hidden network", "The network does not announce its name.", false)
	autoJoin := askWhether("auto_join", "Join automatically", "", true)
	security := ask("security", "Security", "Devices that are set to WPA2 join the same network with WPA3, too, where it offers both.", "").or("WPA2").oneOf("WPA2", "WPA3")
	template := ask("certificate_template", "Certificate template", "Each device gets a certificate of its own by this template.", FormTemplate)

	return []starter{
		{Starter{
			Name: "wifi-certificate", Title: "Wi-Fi with certificate", Platforms: everywhere, UserEnrollment: true,
			Summary: "Joins a network of the organisation (WPA2 or WPA3 Enterprise, EAP-TLS) by a certificate that is made for each device. Nobody types a password.",
			Parameters: []Parameter{
				ssid, template.required(),
				ask("trusted_certificates", "Trusted certificates", "The authority of the network's RADIUS server, so that no other network can pass for it.", FormCertificates).required(),
				askList("server_names", "Names of the servers", "In the certificates of the RADIUS servers: radius.example.com, *.example.com.", FormVariables),
				ask("user_name", "User name", "Sent to the network before anything is encrypted; most networks go by the certificate.", FormVariables),
				security, hidden, autoJoin,
			},
		}, func(f *filling) {
			anchors := f.certificates("trusted_certificates")
			settings := wifi(f)
			settings["PayloadCertificateUUID"] = f.identity("certificate_template")
			eap := map[string]any{
				"AcceptEAPTypes":               []any{13}, // EAP-TLS
				"PayloadCertificateAnchorUUID": anchors,
				"TLSMinimumVersion":            "1.2",
			}
			f.put(eap, "TLSTrustedServerNames", "server_names")
			f.put(eap, "UserName", "user_name")
			settings["EAPClientConfiguration"] = eap
			f.add(DraftPayload{Type: "com.apple.wifi.managed", Settings: settings})
		}},
		{Starter{
			Name: "wifi-password", Title: "Wi-Fi with password", Platforms: everywhere, UserEnrollment: true,
			Summary: "Joins a network with a password that all devices share (WPA2 or WPA3 Personal). Everybody who has the profile can read the password.",
			Parameters: []Parameter{
				ssid, ask("password", "Password", "8 to 63 characters.", "").required().secret(), security, hidden, autoJoin,
			},
		}, func(f *filling) {
			settings := wifi(f)
			password := f.text("password")
			if n := len(unescape(password)); n < 8 || n > 63 { // IEEE 802.11, J.4.1
				f.wrong("password", "must have 8 to 63 characters")
			}
			settings["Password"] = password
			f.add(DraftPayload{Type: "com.apple.wifi.managed", Settings: settings})
		}},
		{Starter{
			Name: "app-vpn", Title: "VPN for apps", Platforms: []command.Platform{command.IOS, command.MacOS, command.VisionOS}, UserEnrollment: true,
			Summary: "Sends the traffic of the managed apps that it is attached to through a VPN app, and nothing of what is private.",
			Parameters: []Parameter{
				ask("name", "Name", "As it shows in Settings.", FormVariables).required(),
				ask("server", "Server", "", FormHost).required(),
				ask("app", "VPN app", "The identifier of the app that brings the VPN, such as com.example.vpn.", FormBundle).required(),
				ask("provider", "Extension", "The identifier of the app's network extension, if it has several.", FormBundle),
				ask("provider_type", "Kind", "What the extension handles: connections of apps (app-proxy) or packets.", "").or("packet-tunnel").oneOf("packet-tunnel", "app-proxy"),
				template,
				ask("user_name", "User name", "", FormVariables),
				askList("excluded_domains", "Domains not through the VPN", "", FormVariables),
			},
		}, func(f *filling) {
			vpn := map[string]any{"AuthenticationMethod": "Password"}
			if uuid := f.identity("certificate_template"); uuid != "" {
				vpn["AuthenticationMethod"], vpn["PayloadCertificateUUID"] = "Certificate", uuid
			}
			f.put(vpn, "RemoteAddress", "server")
			f.put(vpn, "AuthName", "user_name")
			f.put(vpn, "ProviderType", "provider_type")
			f.put(vpn, "ProviderBundleIdentifier", "provider")
			settings := map[string]any{"VPNType": "VPN", "VPN": vpn}
			f.put(settings, "VPNSubType", "app")
			f.appVPN(settings)
		}},
		{Starter{
			Name: "app-vpn-ikev2", Title: "VPN for apps (IKEv2)", Platforms: []command.Platform{command.IOS, command.MacOS, command.VisionOS}, UserEnrollment: true,
			Summary: "Sends the traffic of the managed apps that it is attached to through an IKEv2 gateway, by a certificate that is made for each device. It takes no VPN app.",
			Parameters: []Parameter{
				ask("name", "Name", "As it shows in Settings.", FormVariables).required(),
				ask("server", "Server", "", FormHost).required(),
				ask("remote_identifier", "Name in the server's certificate", "Most often the same as the server; empty: the same.", FormHost),
				ask("local_identifier", "Name of the client", "As it stands in the device's certificate.", FormVariables).or("$EMAIL"),
				template.required(),
				ask("trusted_certificates", "Trusted certificates", "The authority of the gateway's certificate, if it is not a public one.", FormCertificates),
				askList("excluded_domains", "Domains not through the VPN", "", FormVariables),
			},
		}, func(f *filling) {
			f.certificates("trusted_certificates")
			security := map[string]any{"EncryptionAlgorithm": "AES-256-GCM", "IntegrityAlgorithm": "SHA2-256", "DiffieHellmanGroup": 19}
			ike := map[string]any{
				"AuthenticationMethod":               "Certificate",
				"PayloadCertificateUUID":             f.identity("certificate_template"),
				"RemoteIdentifier":                   f.text("server"),
				"ExtendedAuthEnabled":                0,
				"EnablePFS":                          1,
				"IKESecurityAssociationParameters":   security,
				"ChildSecurityAssociationParameters": security,
			}
			f.put(ike, "RemoteAddress", "server")
			f.put(ike, "RemoteIdentifier", "remote_identifier")
			f.put(ike, "LocalIdentifier", "local_identifier")
			f.appVPN(map[string]any{"VPNType": "IKEv2", "IKEv2": ike})
		}},
		{Starter{
			Name: "trust", Title: "Trusted certificates", Platforms: everywhere, UserEnrollment: true,
			Summary: "Makes devices trust authorities: those of internal websites, of mail servers, or of a proxy.",
			Parameters: []Parameter{
				ask("certificates", "Certificates", "Roots, and what is between them and the servers' certificates.", FormCertificates).required(),
			},
		}, func(f *filling) { f.certificates("certificates") }},
	}
}

// appVPN adds a VPN that apps are attached to by its VPNUUID.
func (f *filling) appVPN(settings map[string]any) {
	f.draft.DisplayName = f.text("name")
	settings["VPNUUID"] = derivedUUID(f.draft.Identifier + ".vpn.apps")
	settings["OnDemandMatchAppEnabled"] = true
	f.put(settings, "UserDefinedName", "name")
	f.put(settings, "ExcludedDomains", "excluded_domains")
	f.add(DraftPayload{Type: appVPNType, Settings: settings})
}
