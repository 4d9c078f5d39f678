package portal

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/webui"
	"github.com/gatehouse-mdm/gatehouse/webui/text"
	"github.com/gatehouse-mdm/gatehouse/webui/view"
)

// Screens are what can be seen before anybody comes, by the names of previews.
var Screens = []string{
	"welcome", "elsewhere", "safari", "closed", "not-ready",
	"device", "certificate", "trust", "account", "account-driven", "profile",
	"status", "account-driven-status", "stuck", "failed", "done", "error",
}

// preview answers GET /enroll/preview/{screen}?lang=de&device=iphone-17: the screen as
// people see it, with the operator's settings and texts, of an enrollment that is none.
// It is for who may read what administrators read.
func (p *Portal) preview(w http.ResponseWriter, r *http.Request) error {
	who, ok := identity.PrincipalFrom(r.Context())
	switch {
	case !ok && webui.WantsHTML(r):
		return see(w, r, "/login?"+url.Values{"next": {r.URL.RequestURI()}}.Encode())
	case !ok:
		return &webui.Problem{Status: http.StatusUnauthorized, Code: "unauthenticated", Title: "Sign in first"}
	case !who.Allows(identity.ScopeReadOnly):
		return &webui.Problem{Status: http.StatusForbidden, Code: "forbidden", Title: "You may not see this"}
	}
	screen := r.PathValue("screen")
	if !slices.Contains(Screens, screen) {
		return &webui.Problem{Status: http.StatusNotFound, Code: "not_found", Title: "Not found"}
	}
	query := r.URL.Query()
	around, settings, err := p.Frame.Preview(r, query.Get("lang"), "portal.frame.title")
	if errors.Is(err, text.ErrLanguage) {
		return &webui.Problem{Status: http.StatusBadRequest, Code: "bad_query", Title: "There are no texts in this language"}
	}
	if err != nil {
		return err
	}
	around.User = "ana@example.com"
	status, page, err := p.sample(r.Context(), screen, around, settings, sampleBrowser(query.Get("device")))
	if err != nil {
		return err
	}
	return p.Pages.Write(w, status, page)
}

// sampleBrowser reads "iphone-17": Safari on a platform, with a major version.
func sampleBrowser(device string) Browser {
	name, version, _ := strings.Cut(device, "-")
	b := Browser{Platform: IPhone, Major: 26}
	if Platform(name).enrolls() {
		b.Platform = Platform(name)
	}
	if major, err := strconv.Atoi(version); err == nil && major > 0 && major < 1000 {
		b.Major = major
	}
	return b
}

// sample draws a screen of somebody who is called Ana.
func (p *Portal) sample(ctx context.Context, screen string, around view.Portal, settings enroll.Settings, b Browser) (status int, page view.Page, err error) {
	now := p.Now().UTC()
	arrived := arrival{page: around, settings: settings, browser: b, ready: true}
	arrived.settings.Portal = true
	v := &visit{
		settings: settings, page: around, login: true, signedIn: true, mine: true, ownCA: p.OwnCA, hasAccount: true,
		user: identity.User{Username: "ana@example.com"},
		options: enroll.Options{
			Ownerships: settings.Ownerships(), ManagedAppleAccount: "ana@example.com",
			Devices: []mdm.Device{{Facts: mdm.Facts{DeviceName: "Ana’s iPad"}, EnrolledAt: now.AddDate(0, -5, 0)}},
		},
		Attempt: enroll.Attempt{
			ID: "preview", User: "ana@example.com", Ownership: mdm.Personal, Stage: enroll.Authenticated,
			StageAt: map[enroll.Stage]time.Time{enroll.Opened: now.Add(-3 * time.Minute), enroll.Authenticated: now.Add(-2 * time.Minute)},
			Visit:   &enroll.Visit{Code: "7Q4MW2KD", MayAsk: true, Platform: b.Platform.system(), Major: b.Major},
		},
	}
	reached := func(stages ...enroll.Stage) enroll.Followed {
		for i, stage := range stages {
			v.Stage = stage
			v.StageAt[stage] = now.Add(-time.Duration(20*(len(stages)-i)) * time.Second)
		}
		return enroll.Followed{Attempt: v.Attempt}
	}
	v.typed = map[mdm.Ownership]string{mdm.Personal: v.User, mdm.Institutional: v.User}
	at := func(s step, m method) { v.method = m; v.page.Progress = v.progress(s) }
	status = http.StatusOK
	switch screen {
	case "welcome":
		page, err = p.firstPage(ctx, arrived)
	case "elsewhere":
		arrived.browser = Browser{Platform: Windows}
		arrived.link = &enroll.Link{Code: "preview", ShortCode: "7Q4MW2KD"}
		page, err = p.firstPage(ctx, arrived)
	case "safari":
		arrived.browser = Browser{Platform: IPhone, App: "Chrome", Major: b.Major}
		page, err = p.firstPage(ctx, arrived)
	case "closed":
		arrived.settings.Portal = false
		page, err = p.firstPage(ctx, arrived)
	case "not-ready":
		arrived.ready = false
		page, err = p.firstPage(ctx, arrived)
	case "device":
		at(stepDevice, byProfile)
		page = p.devicePage(v, nil)
	case "certificate":
		v.ownCA = true
		at(stepCertificate, byProfile)
		page = p.certificatePage(v)
	case "trust":
		v.ownCA = true
		at(stepTrust, byProfile)
		page = p.trustPage(v)
	case "account":
		at(stepAccount, byAccount)
		page = p.accountPage(v, "", "")
	case "account-driven":
		at(stepAccountDriven, byAccountDriven)
		page = p.accountDrivenPage(v)
	case "profile":
		at(stepProfile, byProfile)
		page = p.profilePage(v)
	case "status":
		page, err = p.statusPage(v, reached(enroll.ProfileDownloaded, enroll.IdentityIssued))
	case "account-driven-status":
		v.Account, v.method = &enroll.AccountEnrollment{Mode: enroll.ModeBYOD}, byAccountDriven
		f := reached(enroll.ProfileDownloaded)
		page, err = p.statusPage(v, f)
	case "stuck":
		f := reached(enroll.ProfileDownloaded)
		for stage, at := range f.StageAt {
			f.StageAt[stage] = at.Add(-3 * time.Minute)
		}
		page, err = p.statusPage(v, f)
	case "failed":
		f := reached(enroll.ProfileDownloaded, enroll.AttemptFailed)
		f.ErrorCode = "device_owned"
		page, err = p.statusPage(v, f)
	case "done":
		f := reached(enroll.ProfileDownloaded, enroll.IdentityIssued, enroll.CheckedIn, enroll.Enrolled)
		f.Device = &mdm.Overview{Device: mdm.Device{Facts: mdm.Facts{DeviceName: "Ana’s " + platformName(b.Platform), ModelName: platformName(b.Platform), OSVersion: strconv.Itoa(b.Major) + ".1"}}}
		f.Before = &enroll.Before{EnrolledAt: now.AddDate(0, -5, 0)}
		f.Commands, f.Finished = 6, 2
		page, err = p.statusPage(v, f)
	case "error":
		f := reached(enroll.AttemptFailed)
		f.ErrorCode = "link_expired"
		failed := p.failed(v, f)
		failed.Portal = titled(around, failed.Heading)
		status, page = failure(f.ErrorCode).Status, *failed
	}
	return status, page, err
}
