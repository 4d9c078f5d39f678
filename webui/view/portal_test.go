package view

import (
	"html/template"
	"time"
)

// portalSamples are the pages of the portal, in a frame with everything and in one with
// nothing.
func portalSamples(full, bare Portal) []Page {
	rights := Rights{Can: []string{"privacy.can.erase", "privacy.can.see_apps"}, Cannot: []string{"privacy.cannot.photos"}}
	others := []Link{{Label: long, URL: "/enroll?platform=ipad"}, {Label: rightToLeft, URL: "/enroll?platform=mac"}}
	picture := template.HTML(`<svg viewBox="0 0 10 10" width="330" height="330" role="img" aria-label="x"><path d="M0 0h9v9H0z"/></svg>`)
	prose := template.HTML("<p>" + template.HTMLEscapeString(long) + "</p><ul><li>" + rightToLeft + "</li></ul>")
	cards := func(mac bool, text string) []Card {
		press := []Press{{Label: text}, {Label: text, Now: true}}
		rows := []Press{{Label: text, Now: true}, {Label: text, Value: text, Tone: Good}, {Label: text, Value: text, Tone: Bad}, {Label: text, On: true, Now: true}}
		return []Card{
			{Say: template.HTML(template.HTMLEscapeString(text)), Note: "Note", Picture: Picture{Kind: "alert", Mac: mac, Title: text, Text: text, Buttons: press}},
			{Say: "One button", Picture: Picture{Kind: "alert", Mac: mac, Text: text, Buttons: press[1:]}},
			{Say: "List", Picture: Picture{Kind: "list", Mac: mac, Title: text, Rows: rows}},
			{Say: "Sheet", Picture: Picture{Kind: "sheet", Mac: mac, Title: text, Text: text, Buttons: press, Rows: rows}},
			{Say: "Done", Picture: Picture{Kind: "sheet", Mac: mac, Title: text, Buttons: []Press{{Blank: true}, press[1]}}},
			{Say: "Passcode", Picture: Picture{Kind: "passcode", Mac: mac, Title: text}},
			{Say: "No picture"},
		}
	}
	running, ended := Countdown{Left: 471, Of: 480}, Countdown{Of: 480, Ended: true}
	now := time.Date(2026, 11, 21, 9, 0, 0, 0, time.UTC)
	lamps := func(text string) []Lamp {
		return []Lamp{
			{Text: text, State: "done", Said: "done", At: Moment{At: now, Now: now}, Ago: "2 min ago"},
			{Text: text, State: "now", Said: "waiting for it"}, {Text: text, State: "failed", Said: "failed"}, {Text: text, State: "next", Said: "not yet"},
		}
	}
	code := ShortCode{Typed: hostile, Error: long}
	return []Page{
		PortalWelcome{Portal: bare, Device: "iPhone", Steps: 1},
		PortalWelcome{Portal: full, Link: hostile, Device: hostile, As: hostile, Fingers: "/enroll?platform=ipad", Resume: "/enroll/a/1", Steps: 5, Login: true, Rights: &rights, Others: others, Code: code, Expires: long},
		PortalElsewhere{Portal: bare, Reason: "portal.elsewhere.reason", QR: picture, Address: "mdm.example.com/enroll"},
		PortalElsewhere{Portal: full, Reason: "portal.elsewhere.reason.old", QR: picture, Address: long, Spelled: "7Q4M-W2KD", Others: others, Code: code},
		PortalSafari{Portal: bare, Address: "mdm.example.com/enroll", Anyway: "/enroll?browser=safari"},
		PortalSafari{Portal: full, App: hostile, Address: long, Anyway: "/enroll?browser=safari"},
		PortalClosed{Portal: bare, Texts: "portal.closed"},
		PortalClosed{Portal: full, Texts: "portal.not_ready", Code: code},
		PortalDevice{Portal: bare, Action: "/x", Terms: "Be nice."},
		PortalDevice{
			Portal: full, Action: "/x", Terms: prose, Agreed: true, Errors: map[string]string{"ownership": hostile, "agreed": long},
			Choices: []Choice{{Value: "personal", Chosen: true, Title: long, Description: prose, Rights: rights}, {Value: "institutional", Title: rightToLeft, Description: "Short.", Rights: rights}},
		},
		PortalCertificate{Portal: bare, Download: "/d", Next: "/n", Trusted: "/t", Trusts: true, Name: "CA", Fingerprint: "5F:2C", Countdown: Countdown{Of: 480}},
		PortalCertificate{Portal: full, Description: prose, Download: "/d", Next: "/n", Trusted: "/t", Cards: cards(false, long), Name: long, Fingerprint: "5F:2C", Countdown: running, Probe: "/p"},
		PortalTrust{Portal: bare, Next: "/t", Back: "/b", Name: "CA"},
		PortalTrust{Portal: full, Next: "/t", Back: "/b", Cards: cards(false, rightToLeft), Name: hostile, Probe: "/p"},
		PortalAccount{Portal: bare, Action: "/x"},
		PortalAccount{Portal: full, Action: "/x", Account: hostile, Error: long, Domains: []string{long, "example.com"}, Decline: true, Rights: rights},
		PortalAccountDriven{Portal: bare, Action: "/x", Events: "/e"},
		PortalAccountDriven{Portal: full, Action: "/x", Account: long, Managed: long, Waits: true, Cards: cards(true, hostile), Decline: true, Rights: rights, Events: "/e"},
		PortalProfile{Portal: bare, Download: "/d", Status: "/s", Events: "/e", Countdown: Countdown{Of: 480}},
		PortalProfile{
			Portal: full, Description: prose, Download: "/d", Status: "/s", Events: "/e", Cards: cards(true, long), Payloads: []string{"portal.payload.mdm"}, Rights: rights,
			Verified: true, Devices: []Owned{{Name: long, When: "2026-11-21"}, {Name: rightToLeft, When: "2026-11-21"}}, Countdown: ended, Mac: true,
		},
		PortalStatus{Portal: bare, Stage: "opened", Heading: "Almost there", Lead: "x", Events: "/e"},
		PortalStatus{Portal: full, Stage: "profile_downloaded", Heading: long, Lead: hostile, Lamps: lamps(long), Hint: prose, Events: "/e", Profile: "/p", Again: "/a", Over: "/o", Spelled: "7Q4M-W2KD", QR: picture, Address: long},
		PortalStatus{Portal: full, Stage: "failed", Lamps: lamps(rightToLeft), Events: "/e", Failure: &PortalError{Heading: hostile, Text: long, Action: Link{hostile, "/"}, Code: "GH-E305", Details: long}},
		PortalDone{Portal: bare, Stage: "enrolled", Events: "/e", Name: "iPhone"},
		PortalDone{
			Portal: full, Stage: "enrolled", Events: "/e", Name: long, Facts: []Fact{{Label: long, Value: rightToLeft}, {Label: "x", Value: hostile}}, Lamps: lamps(hostile),
			Before: "2026-11-21", Message: prose, Remove: prose, Mine: "/me", OwnCA: true, Installed: []string{"portal.payload.mdm", "portal.payload.root"},
		},
	}
}
