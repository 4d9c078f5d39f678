package admin

// EnrollmentTabs are the parts of the section Enrollment, which several packages draw;
// path is the one that is looked at.
func EnrollmentTabs(path string) []NavItem {
	tabs := []NavItem{
		{Label: "Overview", URL: "/admin/enrollment"},
		{Label: "Links", URL: "/admin/enrollment/links"},
		{Label: "Invitations", URL: "/admin/enrollment/invitations"},
		{Label: "Attempts", URL: "/admin/enrollment/attempts"},
		{Label: "Sign-in on devices", URL: "/admin/enrollment/account-driven"},
		{Label: "Portal texts", URL: "/admin/enrollment/portal"},
	}
	for i := range tabs {
		tabs[i].Current = tabs[i].URL == path
	}
	return tabs
}
