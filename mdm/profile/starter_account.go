package profile

import (
	"bytes"

	"github.com/gatehouse-mdm/gatehouse/mdm/command"
)

// accountStarters are about mail and websites.
func accountStarters() []starter {
	address := ask("address", "E-mail address", "", FormVariables).or("$EMAIL")
	stays := askWhether("keep_in_account", "Keep messages in the account", "Messages can't be moved to other accounts, nor sent from other apps.", true)
	return []starter{
		{Starter{
			Name: "mail", Title: "Mail (IMAP)", Platforms: []command.Platform{command.IOS, command.MacOS, command.VisionOS}, UserEnrollment: true,
			Summary: "Adds a mail account. People type only their password. On a Mac and a Shared iPad it goes to the user, not the device.",
			Parameters: []Parameter{
				ask("name", "Name of the account", "As it shows in Mail.", FormVariables).required(),
				ask("incoming_server", "Incoming server (IMAP)", "", FormHost).required(),
				askNumber("incoming_port", "Its port", "", 1, 65535).or(993),
				ask("outgoing_server", "Outgoing server (SMTP)", "", FormHost).required(),
				askNumber("outgoing_port", "Its port", "", 1, 65535).or(587),
				address,
				ask("person", "Name of the person", "As recipients see it.", FormVariables).or("$FULLNAME"),
				ask("user_name", "User name", "What people log in by.", FormVariables).or("$EMAIL"),
				stays,
			},
		}, func(f *filling) {
			f.draft.DisplayName, f.draft.Scope = f.text("name"), ScopeUser
			settings := map[string]any{
				"EmailAccountType":                       "EmailTypeIMAP",
				"IncomingMailServerAuthentication":       "EmailAuthPassword",
				"OutgoingMailServerAuthentication":       "EmailAuthPassword",
				"IncomingMailServerUseSSL":               true,
				"OutgoingMailServerUseSSL":               true,
				"OutgoingPasswordSameAsIncomingPassword": true,
			}
			for key, name := range map[string]string{
				"EmailAccountDescription": "name", "EmailAccountName": "person", "EmailAddress": "address",
				"IncomingMailServerHostName": "incoming_server", "IncomingMailServerPortNumber": "incoming_port", "IncomingMailServerUsername": "user_name",
				"OutgoingMailServerHostName": "outgoing_server", "OutgoingMailServerPortNumber": "outgoing_port", "OutgoingMailServerUsername": "user_name",
				"PreventMove": "keep_in_account", "PreventAppSheet": "keep_in_account",
			} {
				f.put(settings, key, name)
			}
			f.add(DraftPayload{Type: "com.apple.mail.managed", Settings: settings})
		}},
		{Starter{
			Name: "exchange", Title: "Exchange", Platforms: []command.Platform{command.IOS, command.VisionOS}, UserEnrollment: true,
			Summary: "Adds an Exchange account for mail, contacts and calendars, as of Microsoft 365.",
			Parameters: []Parameter{
				ask("name", "Name of the account", "As it shows in Settings.", FormVariables).or("Exchange"),
				ask("server", "Server", "", FormHost).or("outlook.office365.com"),
				address,
				ask("user_name", "User name", "What people log in by.", FormVariables).or("$EMAIL"),
				askWhether("oauth", "Sign in at the organisation's page", "Modern authentication, as Microsoft 365 asks for.", true),
				ask("certificate_template", "Certificate template", "Signs in by a certificate of this template instead.", FormTemplate),
				stays,
			},
		}, func(f *filling) {
			f.draft.DisplayName = f.text("name")
			settings := map[string]any{"SSL": true}
			if uuid := f.identity("certificate_template"); uuid != "" {
				settings["PayloadCertificateUUID"] = uuid
			}
			for key, name := range map[string]string{
				"Host": "server", "EmailAddress": "address", "UserName": "user_name", "OAuth": "oauth",
				"PreventMove": "keep_in_account", "PreventAppSheet": "keep_in_account",
			} {
				f.put(settings, key, name)
			}
			f.add(DraftPayload{Type: "com.apple.eas.account", DisplayName: f.text("name"), Settings: settings})
		}},
		{Starter{
			Name: "web-clip", Title: "Web clip", Platforms: []command.Platform{command.IOS, command.MacOS}, UserEnrollment: true,
			Summary: "Puts a link to a website on the Home Screen, or in the Dock. On a Mac and a Shared iPad it goes to the user, not the device.",
			Parameters: []Parameter{
				ask("label", "Label", "Beneath the icon.", FormVariables).required(),
				ask("url", "Address", "", FormURL).required(),
				{Name: "icon", Label: "Icon", Help: "A square picture (PNG or JPEG).", Kind: command.Data},
				askWhether("full_screen", "Full screen", "Opens like an app, without the browser around it.", false),
				askWhether("removable", "People may remove it", "", true),
			},
		}, func(f *filling) {
			f.draft.DisplayName, f.draft.Scope = f.text("label"), ScopeUser
			if icon, _ := f.values["icon"].([]byte); len(icon) > 0 && !bytes.HasPrefix(icon, []byte("\x89PNG")) && !bytes.HasPrefix(icon, []byte("\xff\xd8\xff")) {
				f.wrong("icon", "must be a picture in PNG or JPEG")
			} else if len(icon) > 1<<20 {
				f.wrong("icon", "must have at most 1 MB")
			}
			settings := map[string]any{}
			for key, name := range map[string]string{"Label": "label", "URL": "url", "Icon": "icon", "FullScreen": "full_screen", "IsRemovable": "removable"} {
				f.put(settings, key, name)
			}
			f.add(DraftPayload{Type: "com.apple.webClip.managed", Settings: settings})
		}},
	}
}
