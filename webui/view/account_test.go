package view

import "html/template"

// accountSamples are the pages in a device's browser view, in a frame with everything and in
// one with nothing.
func accountSamples(full, bare Portal) []Page {
	rights := Rights{Can: []string{"privacy.can.erase", "privacy.can.see_apps"}, Cannot: []string{"privacy.cannot.photos"}}
	return []Page{
		AccountConfirm{
			Portal: full, Action: "/enroll/byod/sign-in/x?user-identifier=" + long, Other: "/login?switch=1", UserID: hostile,
			Facts: []Fact{{Label: long, Value: hostile}, {Label: "Device", Value: rightToLeft}}, Rights: rights,
			Terms: template.HTML("<p>" + long + "</p>"), Error: long, Changed: true,
		},
		AccountConfirm{Portal: bare, Action: "/x", Other: "/login", Facts: []Fact{{Label: "Signed in as", Value: "ana"}}, Rights: rights, Again: true, Fresh: true},
		AccountStart{Portal: full, Lead: hostile, Touch: []template.HTML{"Open <b>Settings</b>.", template.HTML(long)}, Rights: rights},
		AccountStart{Portal: bare, Lead: long, Mac: []template.HTML{"One"}, Rights: rights},
	}
}
