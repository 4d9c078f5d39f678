package view

// meSamples are the pages on which people see what is theirs, in a frame with everything
// and in one with nothing.
func meSamples(full, bare Portal) []Page {
	when := MeTime{At: "2026-11-21T09:00:00Z", Words: hostile, Exact: hostile}
	bad := State{Text: long, Tone: Bad}
	nav := []NavItem{{Label: long, URL: "/me", Current: true}, {Label: rightToLeft, URL: "/me/certificates"}, {Label: "x", URL: "/me/security"}}
	me, plain := Me{Portal: full, Nav: nav, Done: long}, Me{Portal: bare, Nav: []NavItem{{Label: "Devices", URL: "/me", Current: true}}}
	facts := []MeFact{
		{Label: long, Value: long, Why: long, Mono: true}, {Label: rightToLeft, Value: rightToLeft, URL: "/x", Why: rightToLeft},
		{Label: hostile, Time: &when}, {Label: "Last seen", Time: &MeTime{Words: "never"}},
	}
	device := MeDeviceRow{
		URL: "/me/devices/1", Name: long, State: State{Text: "Managed", Tone: Good}, Lost: &bad, Parts: []string{long, rightToLeft, hostile},
		Since: facts[2], Seen: facts[3], Users: []string{hostile, rightToLeft}, UsersLabel: "Users:",
	}
	certificate := MeCertificateRow{URL: "/me/certificates/1", Name: long, Subject: rightToLeft, Device: hostile, State: bad, Until: long}
	link := Link{Label: long, URL: "/x"}
	choices := []MeChoice{{Value: "a", Title: long, Chosen: true}, {Value: "b", Title: rightToLeft}}
	events := []MeEvent{{What: long, Who: rightToLeft, Time: when}, {What: hostile, Who: hostile, Time: when}}
	return []Page{
		MeDevices{Me: plain},
		MeDevices{Me: me, Devices: []MeDeviceRow{device, {URL: "/me/devices/2", Name: rightToLeft, Since: facts[2], Seen: facts[3]}}, Past: []MeDeviceRow{device}},
		MeDevice{Me: plain, Name: "x"},
		MeDevice{
			Me: me, Name: long, State: bad, Lost: &MeLost{State: bad, Time: when, Note: long + "\n" + rightToLeft},
			Notice:  &MeNotice{Heading: long, Text: []string{long, hostile}, Action: link},
			Actions: []Link{link, {Label: rightToLeft, URL: "/y"}}, WhyNot: long, Facts: facts, Answers: facts,
			Rights: &MeRights{Can: []string{"privacy.can.erase"}, Cannot: []string{"privacy.cannot.photos"}},
			Users:  facts[:1], Certificates: []MeCertificateRow{certificate}, Steps: facts[2:], Events: events, Commands: events,
		},
		MeConfirm{Me: plain, Heading: "Really?", Action: "/x", Button: "Yes", Cancel: Link{Label: "No", URL: "/me"}},
		MeConfirm{
			Me: me, Heading: long, Lead: long, Points: []string{long, rightToLeft, hostile}, Error: long, Action: "/x",
			Note: &MeField{Label: long, Value: hostile, Most: 500}, ChoiceName: "reason", Legend: long, Choices: choices,
			Button: long, Danger: true, Cancel: link, InsteadText: long, Instead: link,
		},
		MeCertificates{Me: plain},
		MeCertificates{Me: me, Good: []MeCertificateRow{certificate}, Past: []MeCertificateRow{certificate}, More: long},
		MeCertificate{Me: plain, Name: "x", Downloads: []Link{{Label: "PEM", URL: "/x"}}},
		MeCertificate{Me: me, Name: long, State: bad, Note: long, Facts: facts, Downloads: []Link{link}, Actions: []Link{link}},
		MeNewCertificate{Me: plain, NoName: "Your name is not known."},
		MeNewCertificate{
			Me: me, Renews: long, For: choices, NoName: long, Password: "abcde-fghij-klmno-pqrst", Least: 12, Error: long,
			Names: []string{long, rightToLeft}, Request: hostile, RequestError: long,
		},
		MeSecurity{Me: plain, Elsewhere: "Elsewhere."},
		MeSecurity{Me: plain, Elsewhere: "Elsewhere.", Codes: true, FactorNeeded: "Needed."},
		MeSecurity{Me: plain, Least: 8, Codes: true},
		MeSecurity{Me: me, Least: 8, Codes: true, PasswordError: long, Factor: true, FactorText: long, FactorNeeded: long, FactorError: long},
		MeFactor{Me: plain, QR: `<svg viewBox="0 0 8 8" width="64" height="64" role="img" aria-label="QR"><path d="M0 0h8v8z"/></svg>`, Key: "ABCD EFGH", Raw: "ABCDEFGH"},
		MeFactor{Me: me, Key: "ABCD EFGH IJKL MNOP QRST UVWX YZ23 4567", Raw: hostile, Error: long},
		MeRecovery{Me: me, Codes: []string{"abcd-efgh-ijkl", "mnop-qrst-uvwx", long}},
	}
}
