package profile

import "github.com/gatehouse-mdm/gatehouse/mdm/command"

// macStarters are about the Macs of an organisation.
func macStarters() []starter {
	mac := []command.Platform{command.MacOS}
	return []starter{
		{Starter{
			Name: "filevault", Title: "FileVault", Platforms: mac,
			Summary: "Encrypts the disk of a Mac when its user next logs in or out, and gives the server the recovery key, encrypted for a certificate of yours.",
			Parameters: []Parameter{
				ask("escrow_certificate", "Certificate for the recovery key", "Only who has its private key can read recovery keys. Keep that key safe.", FormCertificates).required(),
				ask("location", "Where the recovery key is", "What the Mac tells its user.", FormVariables).or("Your organisation keeps the recovery key of this Mac."),
				askNumber("bypass", "How often people may put it off", "0: not at all.", 0, 9999).or(0),
				askWhether("show_key", "Show the recovery key to the user", "", false),
				askWhether("stays_on", "Nobody turns it off", "", true),
			},
		}, func(f *filling) {
			certs, _ := certificates(f.text("escrow_certificate"))
			if len(certs) != 1 {
				f.wrong("escrow_certificate", "must be one certificate")
				return
			}
			uuid := f.certificates("escrow_certificate")[0]
			f.draft.Payloads[0].Type = "com.apple.security.pkcs1" // it encrypts, and anchors nothing
			f.draft.Scope = ScopeSystem
			vault := map[string]any{"Enable": "On", "Defer": true, "UseRecoveryKey": true, "DeferDontAskAtUserLogout": false}
			f.put(vault, "DeferForceAtUserLoginMaxBypassAttempts", "bypass")
			f.put(vault, "ShowRecoveryKey", "show_key")
			f.add(DraftPayload{Type: "com.apple.MCX.FileVault2", Settings: vault})
			escrow := map[string]any{"EncryptCertPayloadUUID": uuid}
			f.put(escrow, "Location", "location")
			f.add(DraftPayload{Type: "com.apple.security.FDERecoveryKeyEscrow", Settings: escrow})
			if f.on("stays_on") {
				f.add(DraftPayload{Type: "com.apple.MCX", DisplayName: "FileVault stays on", Settings: map[string]any{"dontAllowFDEDisable": true}})
			}
		}},
		{Starter{
			Name: "gatekeeper", Title: "Gatekeeper and firewall", Platforms: mac,
			Summary: "Lets a Mac open only apps that Apple knows the makers of, and turns on its firewall.",
			Parameters: []Parameter{
				askWhether("identified_developers", "Apps of identified developers", "Beside those of the App Store.", true),
				askWhether("no_exceptions", "People make no exceptions", "Nobody opens other apps by Control-click or in System Settings.", true),
				askWhether("firewall", "Firewall", "", true),
				askWhether("stealth", "The firewall does not answer strangers", "", false),
			},
		}, func(f *filling) {
			f.draft.Scope = ScopeSystem
			control := map[string]any{"EnableAssessment": true}
			f.put(control, "AllowIdentifiedDevelopers", "identified_developers")
			f.add(DraftPayload{Type: "com.apple.systempolicy.control", Settings: control})
			if f.on("no_exceptions") {
				f.add(DraftPayload{Type: "com.apple.systempolicy.managed", Settings: map[string]any{"DisableOverride": true}})
			}
			if f.on("firewall") {
				firewall := map[string]any{"EnableFirewall": true}
				f.put(firewall, "EnableStealthMode", "stealth")
				f.add(DraftPayload{Type: "com.apple.security.firewall", Settings: firewall})
			}
		}},
	}
}
