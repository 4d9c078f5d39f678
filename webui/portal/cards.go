package portal

import (
	"html/template"
	"strings"

	"github.com/gatehouse-mdm/gatehouse/webui/text"
	"github.com/gatehouse-mdm/gatehouse/webui/view"
)

// device is the device at hand, as its cards must draw it.
type device struct {
	t        *text.Texts
	platform Platform
	major    int    // of the system; 0: not known, and taken for the newest
	host     string // of this server
	verified bool   // what the device calls the profile
}

// name is what the device is called in a sentence.
func (d device) name() string { return platformName(d.platform) }

// platformName is Apple's name, which is the same in all languages.
func platformName(p Platform) string {
	switch p {
	case IPad:
		return "iPad"
	case IPod:
		return "iPod touch"
	case Mac:
		return "Mac"
	case Vision:
		return "Apple Vision Pro"
	}
	return "iPhone"
}

// label is one of Apple's, with what stands in it.
func (d device) label(name string, pairs ...any) string {
	return d.t.Apple(name, d.major, append(pairs, "host", d.host, "device", d.name())...)
}

// say is what to do, in Markdown; labels are Apple's, by the names of placeholders.
func (d device) say(key string, pairs ...any) template.HTML { return d.t.HTML(key, pairs...) }

func tap(label string) view.Press  { return view.Press{Label: label, Now: true} }
func rest(label string) view.Press { return view.Press{Label: label} }

var nothing = view.Press{Blank: true}

// download are the cards from Safari's question to Settings.
func (d device) download() []view.Card {
	if d.platform == Mac {
		return []view.Card{{
			Say: d.say("portal.card.mac_allow", "button", d.label("mac_allow")),
			Picture: view.Picture{
				Kind: "alert", Mac: true, Text: d.label("mac_download_prompt"),
				Buttons: []view.Press{rest(d.label("cancel")), tap(d.label("mac_allow"))},
			},
		}}
	}
	cards := []view.Card{{
		Say: d.say("portal.card.allow", "button", d.label("allow")),
		Picture: view.Picture{
			Kind: "alert", Text: d.label("profile_prompt"),
			Buttons: []view.Press{rest(d.label("ignore")), tap(d.label("allow"))},
		},
	}}
	if d.platform == IPhone {
		cards[0].Note = d.say("portal.card.allow.watch", "choose", d.label("choose_device"))
	}
	return append(cards, view.Card{
		Say: d.say("portal.card.close", "button", d.label("close")),
		Picture: view.Picture{
			Kind: "alert", Title: d.label("profile_downloaded"), Text: d.label("profile_downloaded_alert"),
			Buttons: []view.Press{tap(d.label("close"))},
		},
	})
}

// find is the card for a profile that waits in Settings, where it is called row.
func (d device) find(profile, row string) view.Card {
	if d.platform != Mac {
		return view.Card{
			Say:     d.say("portal.card.settings", "settings", d.label("settings"), "row", row),
			Note:    d.say("portal.card.settings.else", "general", d.label("general"), "menu", d.label("vpn_device_management")),
			Picture: view.Picture{Kind: "list", Title: d.label("settings"), Rows: []view.Press{tap(row)}},
		}
	}
	key := "portal.card.mac_settings"
	if d.major > 0 && d.major < 13 {
		key = "portal.card.mac_preferences"
	}
	return view.Card{
		Say: d.say(key, "settings", d.label("mac_system_settings"), "place", d.macPlace(), "menu", d.label("mac_device_management"), "profile", profile),
		Picture: view.Picture{
			Kind: "list", Mac: true, Title: d.label("mac_device_management"),
			Rows: []view.Press{{Label: profile, Now: true, Value: d.label("mac_downloaded")}},
		},
	}
}

// sheet is a sheet with a button at its right end, which is to be pressed.
func (d device) sheet(title, button string, rows ...view.Press) view.Picture {
	return view.Picture{Kind: "sheet", Title: title, Buttons: []view.Press{rest(d.label("cancel")), tap(button)}, Rows: rows}
}

// passcode is the card that asks for the device's passcode.
func (d device) passcode() view.Card {
	if d.platform == Mac {
		return view.Card{Say: d.say("portal.card.mac_password")}
	}
	return view.Card{
		Say:     d.say("portal.card.passcode"),
		Picture: view.Picture{Kind: "passcode", Title: d.label("enter_passcode")},
	}
}

func (d device) done(title string) view.Card {
	return view.Card{
		Say:     d.say("portal.card.done", "button", d.label("done")),
		Picture: view.Picture{Kind: "sheet", Title: title, Buttons: []view.Press{nothing, tap(d.label("done"))}},
	}
}

// signer is the row of a profile that says whether the device knows its signer.
func (d device) signer() view.Press {
	if d.verified {
		return view.Press{Label: d.host, Value: d.label("verified"), Tone: view.Good}
	}
	return view.Press{Label: d.host, Value: d.label("not_verified"), Tone: view.Bad}
}

// certificateCards lead through the installation of the authority.
func (d device) certificateCards(name string) []view.Card {
	cards := append(d.download(), d.find(name, d.label("profile_downloaded")))
	if d.platform == Mac {
		return append(cards, d.macInstall(name), d.passcode())
	}
	return append(cards,
		view.Card{
			Say:     d.say("portal.card.install", "button", d.label("install")),
			Picture: d.sheet(d.label("install_profile"), d.label("install"), view.Press{Label: name, Value: d.label("not_signed"), Tone: view.Bad}),
		},
		d.passcode(),
		view.Card{
			Say: d.say("portal.card.root_warning", "button", d.label("install")),
			Picture: view.Picture{
				Kind: "sheet", Title: d.label("warning"), Buttons: []view.Press{rest(d.label("cancel")), tap(d.label("install"))},
				Text: d.label("root_certificate_warning", "name", name),
			},
		},
		d.done(d.label("profile_installed")),
	)
}

// macInstall is the card by which a Mac installs what was downloaded.
func (d device) macInstall(profile string) view.Card {
	return view.Card{
		Say: d.say("portal.card.mac_install", "profile", profile, "button", d.label("mac_install")),
		Picture: view.Picture{
			Kind: "alert", Mac: true, Title: profile,
			Buttons: []view.Press{rest(d.label("cancel")), tap(d.label("mac_install"))},
		},
	}
}

// trustCards lead to the switch that makes the authority trusted.
func (d device) trustCards(name string) []view.Card {
	list := func(title string, rows ...view.Press) view.Picture {
		return view.Picture{Kind: "list", Title: title, Rows: rows}
	}
	general, about, menu := d.label("general"), d.label("about"), d.label("certificate_trust_settings")
	return []view.Card{
		{Say: d.say("portal.card.trust.open", "settings", d.label("settings"), "general", general, "about", about), Picture: list(general, tap(about))},
		{Say: d.say("portal.card.trust.menu", "menu", menu), Picture: list(about, tap(menu))},
		{Say: d.say("portal.card.trust.switch", "name", name), Picture: list(d.label("enable_full_trust"), view.Press{Label: name, Now: true, On: true})},
		{Say: d.say("portal.card.trust.confirm", "button", d.label("continue")), Picture: view.Picture{
			Kind: "alert", Title: d.label("root_certificate"), Text: d.label("root_certificate_trust_warning"),
			Buttons: []view.Press{rest(d.label("cancel")), tap(d.label("continue"))},
		}},
	}
}

// profileName is what enrollment profiles are called, in English everywhere.
const profileName = "Device management"

// profileCards lead through the installation of the enrollment profile.
func (d device) profileCards(userEnrollment bool) []view.Card {
	switch {
	case d.platform == Mac:
		return append(d.download(), d.find(profileName, ""),
			view.Card{
				Say: d.say("portal.card.mac_enroll", "profile", profileName, "button", d.label("mac_enroll")),
				Picture: view.Picture{
					Kind: "alert", Mac: true, Title: profileName,
					Buttons: []view.Press{rest(d.label("cancel")), tap(d.label("mac_enroll"))},
				},
			},
			d.passcode())
	case userEnrollment:
		enroll := d.label("enroll_my_iphone")
		if d.platform == IPad {
			enroll = d.label("enroll_my_ipad")
		}
		return append(d.download(), d.find(profileName, enroll),
			view.Card{
				Say:     d.say("portal.card.enroll", "button", enroll),
				Picture: view.Picture{Kind: "list", Rows: []view.Press{tap(enroll)}},
			},
			d.passcode(),
			view.Card{Say: d.say("portal.card.account_password", "button", d.label("sign_in"))},
		)
	}
	cards := append(d.download(), d.find(profileName, d.label("profile_downloaded")),
		view.Card{
			Say:     d.say("portal.card.install", "button", d.label("install")),
			Picture: d.sheet(d.label("install_profile"), d.label("install"), d.signer()),
		},
		d.passcode(),
		view.Card{
			Say: d.say("portal.card.mdm_warning", "button", d.label("install")),
			Picture: view.Picture{
				Kind: "sheet", Title: d.label("warning"), Buttons: []view.Press{rest(d.label("cancel")), tap(d.label("install"))},
				Text: d.label("mdm_warning"),
			},
		},
		view.Card{
			Say: d.say("portal.card.trust_management", "button", d.label("trust")),
			Picture: view.Picture{
				Kind: "alert", Title: d.label("remote_management"), Text: d.label("remote_management_trust"),
				Buttons: []view.Press{rest(d.label("cancel")), tap(d.label("trust"))},
			},
		},
		d.done(d.label("profile_installed")))
	return cards
}

// menu is where the settings list what manages the device.
func (d device) menu() string {
	if d.platform == Mac {
		return d.label("mac_device_management")
	}
	return d.label("vpn_device_management")
}

// macPlace is the section of a Mac's settings that the menu is in.
func (d device) macPlace() string {
	if d.major == 13 || d.major == 14 {
		return d.label("mac_privacy_security")
	}
	return d.label("mac_general")
}

// signIn is the button of the menu that signs in, as a sentence calls it.
func (d device) signIn() string { return strings.TrimRight(d.label("sign_in_work_school"), ".… ") }

// accountDrivenCards lead to where a device is signed in with a work account, whose address
// the page shows or not.
func (d device) accountDrivenCards(shown bool) []view.Card {
	settings, menu, row := d.label("settings"), d.menu(), d.label("sign_in_work_school")
	var cards []view.Card
	if d.platform == Mac {
		cards = []view.Card{{
			Say:     d.say("portal.card.driven.mac", "settings", d.label("mac_system_settings"), "place", d.macPlace(), "menu", menu, "row", d.signIn()),
			Picture: view.Picture{Kind: "list", Mac: true, Title: menu, Rows: []view.Press{tap(row)}},
		}}
	} else {
		cards = []view.Card{
			{
				Say:     d.say("portal.card.driven.open", "settings", settings, "general", d.label("general"), "menu", menu),
				Picture: view.Picture{Kind: "list", Title: d.label("general"), Rows: []view.Press{tap(menu)}},
			},
			{Say: d.say("portal.card.driven.sign_in", "row", d.signIn()), Picture: view.Picture{Kind: "list", Title: menu, Rows: []view.Press{tap(row)}}},
		}
	}
	account := d.say("portal.card.driven.address")
	if shown {
		account = d.say("portal.card.driven.account")
	}
	return append(cards, view.Card{Say: account}, view.Card{Say: d.say("portal.card.driven.allow")})
}
