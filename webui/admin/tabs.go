package admin

import "net/http"

// EnrollmentTabs are the parts of the section Enrollment that who looks may open. Several
// packages draw them; path is the one that is looked at.
func (d *Desk) EnrollmentTabs(r *http.Request, path string) []NavItem {
	return d.Offered(r.Context(), path,
		NavItem{Label: "Overview", URL: "/admin/enrollment"},
		NavItem{Label: "Links", URL: "/admin/enrollment/links", Needs: "GET /api/v1/enrollment-links"},
		NavItem{Label: "Invitations", URL: "/admin/enrollment/invitations", Needs: "GET /api/v1/enrollment-invitations"},
		NavItem{Label: "Attempts", URL: "/admin/enrollment/attempts"},
		NavItem{Label: "Sign-in on devices", URL: "/admin/enrollment/account-driven"},
		NavItem{Label: "Portal texts", URL: "/admin/enrollment/portal"},
	)
}
