package portal

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"html/template"
	"slices"
	"strings"
	"time"

	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/webui"
	"github.com/gatehouse-mdm/gatehouse/webui/privacy"
	"github.com/gatehouse-mdm/gatehouse/webui/qr"
	"github.com/gatehouse-mdm/gatehouse/webui/text"
	"github.com/gatehouse-mdm/gatehouse/webui/view"
)

// device is what the cards of the visit draw.
func (p *Portal) device(v *visit) device {
	return device{
		t: v.page.T, platform: v.platform(), major: v.Visit.Major, host: p.ServerURL.Hostname(),
		verified: p.Verified(),
	}
}

// titled gives the page the title that is its heading.
func titled(page view.Portal, heading string) view.Portal {
	page.Title = heading
	return page
}

// Screens that a person takes one after the other.

func (p *Portal) devicePage(v *visit, errors map[string]string) view.PortalDevice {
	t := v.page.T
	page := view.PortalDevice{
		Portal: titled(v.page, t.Say("portal.step.device")),
		Action: v.path(stepDevice),
		Agreed: !v.Visit.AgreedAt.IsZero(),
		Errors: errors,
	}
	for _, o := range v.choices() {
		c := view.Choice{
			Value: string(o), Chosen: v.Ownership == o,
			Title:       t.Say("portal.device." + string(o)),
			Description: t.HTML("portal.device." + string(o) + ".text"),
			Rights:      p.rights(v, o),
		}
		if own := "portal.ownership." + string(o) + ".description"; t.Has(own) {
			c.Description = t.HTML(own)
		}
		page.Choices = append(page.Choices, c)
	}
	if v.terms() {
		page.Terms = t.HTML("portal.terms")
	}
	return page
}

// rights are what the organisation can do with a device of an ownership, as it would be
// enrolled.
func (p *Portal) rights(v *visit, o mdm.Ownership) view.Rights {
	as := v.as(o)
	user := o == mdm.Personal && as.comes() != byProfile || as.userOnly()
	return rightsOf(v.settings, o, user, v.platform() == Mac)
}

func rightsOf(s enroll.Settings, o mdm.Ownership, userEnrollment, mac bool) view.Rights {
	can, cannot := privacy.Of(s.Way(o).Rights.Bits(), userEnrollment, mac)
	return view.Rights{Can: can, Cannot: cannot}
}

func (p *Portal) certificatePage(v *visit) view.PortalCertificate {
	t := v.page.T
	root := p.Root()
	page := view.PortalCertificate{
		Portal:      titled(v.page, t.Say("portal.certificate.heading")),
		Download:    visitPath(v.ID) + "/ca.mobileconfig",
		Next:        v.path(stepCertificate),
		Trusted:     v.path(stepTrust),
		Trusts:      !v.platform().touch(),
		Cards:       p.device(v).certificateCards(root.Subject.CommonName),
		Name:        root.Subject.CommonName,
		Fingerprint: webui.Fingerprint(root),
		Countdown:   p.countdown(v.Visit.CertificateAt),
		Probe:       p.probeFor(v),
		Mac:         v.platform() == Mac,
	}
	if page.Trusts {
		page.Next = page.Trusted
	}
	if own := "portal.certificate.description"; t.Has(own) {
		page.Description = t.HTML(own)
	}
	return page
}

func (p *Portal) trustPage(v *visit) view.PortalTrust {
	name := p.Root().Subject.CommonName
	return view.PortalTrust{
		Portal: titled(v.page, v.page.T.Say("portal.trust.heading")),
		Next:   v.path(stepTrust),
		Back:   v.path(stepCertificate),
		Cards:  p.device(v).trustCards(name),
		Name:   name,
		Probe:  p.probeFor(v),
	}
}

// probeFor is the trust probe, for who has not passed it: others have gone back, and want
// to stay.
func (p *Portal) probeFor(v *visit) string {
	if !v.Visit.TrustedAt.IsZero() {
		return ""
	}
	return p.Probe
}

func (p *Portal) accountPage(v *visit, typed, problem string) view.PortalAccount {
	return view.PortalAccount{
		Portal:  titled(v.page, v.page.T.Say("portal.account.heading")),
		Action:  v.path(stepAccount),
		Account: cmp.Or(typed, v.Visit.ManagedAppleAccount, v.options.ManagedAppleAccount),
		Error:   problem,
		Domains: v.settings.AccountDomains,
		Decline: v.mayDecline(),
		Rights:  rightsOf(v.settings, mdm.Personal, true, v.platform() == Mac),
	}
}

func (p *Portal) accountDrivenPage(v *visit) view.PortalAccountDriven {
	page := view.PortalAccountDriven{
		Portal:  titled(v.page, v.page.T.Say("portal.driven.heading")),
		Action:  v.path(stepAccountDriven),
		Account: v.typed[v.Ownership],
		Managed: v.options.ManagedAppleAccount,
		Cards:   p.device(v).accountDrivenCards(v.typed[v.Ownership] != ""),
		Decline: v.mayDecline(),
		Rights:  rightsOf(v.settings, v.Ownership, v.Ownership == mdm.Personal, v.platform() == Mac),
		Events:  visitPath(v.ID) + "/events",
	}
	if v.User != "" { // else nobody could tell that it is this enrollment
		page.Waits, page.Refresh = true, 15
	}
	if strings.EqualFold(page.Managed, page.Account) {
		page.Managed = ""
	}
	return page
}

func (p *Portal) profilePage(v *visit) view.PortalProfile {
	t := v.page.T
	page := view.PortalProfile{
		Portal:   titled(v.page, t.Say("portal.profile.heading")),
		Download: visitPath(v.ID) + "/enroll.mobileconfig",
		Status:   v.path(stepStatus),
		Events:   visitPath(v.ID) + "/events",
		Cards:    p.device(v).profileCards(v.Visit.UserEnrollment),
		Payloads: p.payloads(),
		Rights:   rightsOf(v.settings, v.Ownership, v.Visit.UserEnrollment, v.platform() == Mac),
		Verified: p.Verified(),
		Mac:      v.platform() == Mac,
	}
	if v.Stage == enroll.ProfileDownloaded {
		page.Countdown = p.countdown(v.StageAt[enroll.ProfileDownloaded])
	} else {
		page.Countdown = p.countdown(time.Time{})
	}
	if own := "portal.profile.description"; t.Has(own) {
		page.Description = t.HTML(own)
	}
	for _, d := range v.options.Devices {
		page.Devices = append(page.Devices, view.Owned{Name: deviceName(t, d), When: day(d.EnrolledAt)})
	}
	return page
}

// payloads are what an enrollment profile holds: keys of texts.
func (p *Portal) payloads() []string {
	list := []string{"portal.payload.mdm", "portal.payload.identity"}
	if p.OwnCA {
		list = append(list, "portal.payload.root")
	}
	return list
}

// How far it is.

// restless is how long nothing may happen before the page says what may be wrong.
const restless = 90 * time.Second

// followed are the stages that have a lamp, with the keys of their texts.
var followed = []struct {
	stage enroll.Stage
	text  string
}{
	{enroll.ProfileDownloaded, "portal.lamp.profile"},
	{enroll.IdentityIssued, "portal.lamp.identity"},
	{enroll.CheckedIn, "portal.lamp.checked_in"},
	{enroll.Enrolled, "portal.lamp.ready"},
}

// lamps say what the server knows to have happened, and when.
func (p *Portal) lamps(v *visit, f enroll.Followed) []view.Lamp {
	t := v.page.T
	list := make([]view.Lamp, 0, len(followed)+1)
	waits := "now"
	if f.Stage == enroll.AttemptFailed {
		waits = "failed"
	}
	add := func(text string, done bool, at time.Time) {
		l := view.Lamp{Text: text, State: "next"}
		switch {
		case done:
			l.State = "done"
			if !at.IsZero() {
				l.At = view.Moment{At: at, Now: p.Now()}
				l.Ago = ago(t, p.Now().Sub(at))
			}
		case waits != "":
			l.State, waits = waits, ""
		}
		l.Said = t.Say("portal.lamp.state." + l.State)
		list = append(list, l)
	}
	if v.method == byAccountDriven {
		add(t.Say("portal.lamp.driven.signed_in"), f.Account != nil, time.Time{})
	}
	for _, s := range followed {
		at, text := f.StageAt[s.stage], s.text
		if v.method == byAccountDriven && s.stage == enroll.ProfileDownloaded {
			text = "portal.lamp.driven.profile"
		}
		add(t.Say(text), !at.IsZero(), at)
	}
	switch {
	case f.Commands > 0:
		add(t.Say("portal.lamp.settings.count", "done", f.Finished, "all", f.Commands), f.Finished == f.Commands, time.Time{})
	default:
		add(t.Say("portal.lamp.settings"), f.Stage == enroll.Enrolled, time.Time{})
	}
	return list
}

// movedAt is when something happened last.
func movedAt(a enroll.Attempt) (at time.Time) {
	for _, t := range a.StageAt {
		if t.After(at) {
			at = t
		}
	}
	return at
}

// statusPage says how far an enrollment has come, to whoever has its ID: what only the
// person may know or do is left out for others.
func (p *Portal) statusPage(v *visit, f enroll.Followed) (view.Page, error) {
	t := v.page.T
	events := visitPath(v.ID) + "/events"
	v.page.Progress = v.progress(stepStatus)
	v.page.Refresh = 5
	if f.Stage == enroll.Enrolled {
		return p.donePage(v, f, events), nil
	}
	page := view.PortalStatus{
		Portal:  v.page,
		Stage:   string(f.Stage),
		Heading: t.Say("portal.status.heading"),
		Lamps:   p.lamps(v, f),
		Events:  events,
		Spelled: enroll.SpellCode(f.Visit.Code),
		Address: p.ServerURL.Host + "/enroll",
	}
	page.Title = page.Heading
	if f.Stage == enroll.AttemptFailed {
		page.Portal.Refresh = 0
		page.Failure = p.failed(v, f)
		page.Title = page.Failure.Heading
		return page, nil
	}
	page.Lead = p.lead(v, f)
	stuck := p.Now().Sub(movedAt(f.Attempt)) >= restless
	if stuck {
		page.Hint = p.hint(v, f)
	}
	switch {
	case !v.mine:
	case f.Account != nil:
		if stuck && f.Stage != enroll.CheckedIn {
			page.Over = v.firstPath()
		}
	case f.Stage == enroll.Opened, f.Stage == enroll.Authenticated:
		page.Profile = visitPath(f.ID)
	case f.Stage == enroll.ProfileDownloaded:
		page.Profile = v.path(stepProfile)
	}
	if v.mine && f.Account == nil && stuck && (f.Stage == enroll.ProfileDownloaded || f.Stage == enroll.IdentityIssued) {
		page.Again = visitPath(f.ID) + "/again"
	}
	var err error
	page.QR, err = p.qr(t, v.path(stepStatus))
	return page, err
}

// lead says what is to be done, or awaited.
func (p *Portal) lead(v *visit, f enroll.Followed) string {
	t, device := v.page.T, platformName(v.platform())
	switch {
	case v.method == byAccountDriven && f.Account == nil && f.Stage != enroll.Opened:
		return t.Say("portal.status.lead.driven.waiting", "device", device)
	case f.Account != nil && f.Stage == enroll.Authenticated:
		return t.Say("portal.status.lead.driven.signed_in", "device", device)
	case f.Account != nil && f.Stage == enroll.ProfileDownloaded:
		return t.Say("portal.status.lead.driven.profile", "device", device)
	}
	return t.Say("portal.status.lead." + string(f.Stage))
}

// hint says what may be wrong at a stage that lasts.
func (p *Portal) hint(v *visit, f enroll.Followed) template.HTML {
	d := p.device(v)
	key := "portal.hint." + string(f.Stage)
	if v.method == byAccountDriven && (f.Stage == enroll.Authenticated || f.Stage == enroll.ProfileDownloaded || f.Stage == enroll.IdentityIssued) {
		return d.say("portal.hint.driven", "device", d.name(), "menu", d.menu(), "row", d.signIn())
	}
	switch f.Stage {
	case enroll.ProfileDownloaded:
		if d.platform == Mac {
			return d.say(key+".mac", "menu", d.label("mac_device_management"))
		}
		return d.say(key, "settings", d.label("settings"), "row", d.label("profile_downloaded"))
	case enroll.IdentityIssued, enroll.CheckedIn:
		return d.say(key, "device", d.name())
	}
	return ""
}

// failed says what ended an attempt.
func (p *Portal) failed(v *visit, f enroll.Followed) *view.PortalError {
	r := failure(f.ErrorCode)
	t := v.page.T
	failed := &view.PortalError{
		Heading: t.Say(r.Texts + ".heading"), Text: t.Say(r.Texts + ".text"), Code: r.Code,
		Details: f.StageAt[enroll.AttemptFailed].UTC().Format(time.RFC3339) + "\n" + f.ID,
	}
	if r.Detail != "" {
		failed.Details += "\n" + r.Detail
	}
	if r.Action != "" {
		failed.Action = view.Link{Label: t.Say(r.Texts + ".action"), URL: r.Action}
	}
	return failed
}

func (p *Portal) donePage(v *visit, f enroll.Followed, events string) view.PortalDone {
	t := v.page.T
	v.page.Progress = view.Progress{} // nothing is left to do
	page := view.PortalDone{
		Portal: titled(v.page, t.Say("portal.done.heading")), Stage: string(f.Stage), Events: events,
		Name: t.Say("portal.done.device"), Lamps: p.lamps(v, f), OwnCA: p.OwnCA, Installed: p.payloads(),
	}
	if f.Commands == f.Finished {
		page.Portal.Refresh = 0
	}
	fact := func(key, value string) {
		if value != "" {
			page.Facts = append(page.Facts, view.Fact{Label: t.Say(key), Value: value})
		}
	}
	if d := f.Device; d != nil {
		page.Name = deviceName(t, d.Device)
		fact("portal.done.model", d.ModelName)
		fact("portal.done.version", d.OSVersion)
	}
	if v.mine {
		if v.known() {
			fact("portal.done.owner", f.User)
		}
		if f.Ownership != "" {
			fact("portal.done.ownership", t.Say("portal.device."+string(f.Ownership)))
		}
		if v.known() {
			page.Mine = "/me"
		}
	}
	if f.Before != nil {
		page.Before = day(f.Before.EnrolledAt)
	}
	if own := "portal.complete.message"; t.Has(own) {
		page.Message = t.HTML(own)
	}
	d := p.device(v)
	switch {
	case v.method == byAccountDriven && d.platform == Mac:
		page.Remove = d.say("portal.done.remove.driven.mac", "settings", d.label("mac_system_settings"), "place", d.macPlace(), "menu", d.menu())
	case v.method == byAccountDriven:
		page.Remove = d.say("portal.done.remove.driven", "settings", d.label("settings"), "general", d.label("general"), "menu", d.menu())
	case d.platform == Mac:
		page.Remove = d.say("portal.done.remove.mac", "settings", d.label("mac_system_settings"), "menu", d.label("mac_device_management"))
	default:
		page.Remove = d.say("portal.done.remove.text", "settings", d.label("settings"), "general", d.label("general"),
			"menu", d.label("vpn_device_management"), "button", d.label("remove_management"))
	}
	return page
}

// deviceName is what to call a device. Few tell their name before they are asked for it,
// and a product's number ("iPhone17,3") says nothing to people but how it begins.
func deviceName(t *text.Texts, d mdm.Device) string {
	if name := cmp.Or(d.DeviceName, d.ModelName); name != "" {
		return name
	}
	product := cmp.Or(d.ProductName, d.Model)
	for prefix, name := range map[string]string{"iPhone": "iPhone", "iPad": "iPad", "iPod": "iPod touch", "Mac": "Mac", "iMac": "Mac", "RealityDevice": "Apple Vision Pro"} {
		if strings.HasPrefix(product, prefix) {
			return name
		}
	}
	return t.Say("portal.done.device")
}

// day is a date that reads the same everywhere (ISO 8601), and does not break.
func day(at time.Time) string {
	if at.IsZero() {
		return "–"
	}
	return strings.ReplaceAll(at.UTC().Format(time.DateOnly), "-", "\u2011")
}

// ago is how long ago something happened, in words.
func ago(t *text.Texts, d time.Duration) string {
	switch {
	case d < 5*time.Second:
		return t.Say("portal.ago.now")
	case d < time.Minute:
		return t.Many("portal.ago.seconds", int(d/time.Second))
	case d < time.Hour:
		return t.Many("portal.ago.minutes", int(d/time.Minute))
	case d < 48*time.Hour:
		return t.Many("portal.ago.hours", int(d/time.Hour))
	}
	return t.Many("portal.ago.days", int(d/(24*time.Hour)))
}

// The first page.

// arrival is who comes to the first page, and how.
type arrival struct {
	page      view.Portal
	settings  enroll.Settings
	browser   Browser
	said      string       // what the person says that the device is; empty: nothing
	link      *enroll.Link // nil: without one
	resume    string       // path of the enrollment that this browser has under way; empty: none
	elsewhere string       // where another browser goes on with it
	code      view.ShortCode
	ready     bool // somebody can sign in
	anyway    bool // the person says that this is Safari
}

// path is the first page's own.
func (a arrival) path() string {
	if a.link != nil {
		return linkPath(a.link.Code)
	}
	return "/enroll"
}

// others are the same page for devices other than the one that was recognised.
func (a arrival) others(not ...Platform) []view.Link {
	var list []view.Link
	for _, p := range []Platform{IPhone, IPad, Mac, Vision, Other} {
		if slices.Contains(not, p) || p == IPhone && slices.Contains(not, IPod) {
			continue
		}
		label := a.page.T.Say("portal.switch.this_is", "device", platformName(p))
		if p == Other {
			label = a.page.T.Say("portal.switch.other")
		}
		list = append(list, view.Link{Label: label, URL: a.path() + "?platform=" + string(p)})
	}
	return list
}

// firstPage is what somebody sees who arrives.
func (p *Portal) firstPage(ctx context.Context, a arrival) (view.Page, error) {
	t := a.page.T
	b := a.browser
	switch {
	case a.link == nil && !a.settings.Portal:
		return view.PortalClosed{Portal: titled(a.page, t.Say("portal.closed.heading")), Texts: "portal.closed", Code: a.code}, nil
	case a.link == nil && !a.ready:
		return view.PortalClosed{Portal: titled(a.page, t.Say("portal.not_ready.heading")), Texts: "portal.not_ready", Code: a.code}, nil
	case !b.Platform.enrolls() || b.tooOld():
		return p.elsewherePage(a)
	case !b.safari() && !a.anyway:
		address := cmp.Or(a.elsewhere, a.path())
		return view.PortalSafari{
			Portal: titled(a.page, t.Say("portal.safari.heading")), App: b.name(),
			Address: p.ServerURL.JoinPath(address).String(),
			Anyway:  a.path() + "?browser=safari",
		}, nil
	}
	page := view.PortalWelcome{
		Portal: titled(a.page, t.Say("portal.welcome.heading", "device", platformName(b.Platform))),
		Device: platformName(b.Platform), As: a.said, Resume: a.resume, Code: a.code,
		Others: a.others(b.Platform),
	}
	v := &visit{settings: a.settings, page: a.page, ownCA: p.OwnCA, login: true, Attempt: enroll.Attempt{
		Stage: enroll.Opened, Visit: &enroll.Visit{MayAsk: true, Platform: b.Platform.system(), Major: b.Major},
	}}
	if v.link = a.link; a.link != nil {
		page.Link = a.link.Code
		page.Expires = a.link.ExpiresAt.UTC().Format("2006-01-02 15:04 UTC")
		v.login = a.link.Login != enroll.LoginNone
		v.Ownership, v.Visit.MayAsk = a.link.Ownership, a.link.Ownership == ""
	}
	page.Login = v.login
	if owned := v.settings.Ownerships(); v.Ownership == "" && len(owned) == 1 {
		v.Ownership = owned[0]
	}
	if v.Ownership != "" {
		if err := p.foresee(ctx, v); err != nil {
			return nil, err
		}
		rights := p.rights(v, v.Ownership)
		page.Rights = &rights
	}
	page.Steps = len(v.way())
	if b.Platform == Mac && b.App == "" && a.said == "" {
		page.Fingers = a.path() + "?platform=" + string(IPad)
	}
	return page, nil
}

// foresee finds out how a device will come in that nobody has begun to enroll yet, if that is
// known: where it depends on who the person is, a link may say so, or a session.
func (p *Portal) foresee(ctx context.Context, v *visit) (err error) {
	switch {
	case v.link != nil && v.link.User != "":
		v.User = v.link.User
	case v.login:
		if v.user, v.signedIn, err = p.signedIn(ctx); err != nil || !v.signedIn {
			return err
		}
		v.User = v.user.Login()
	}
	if v.User != "" {
		v.options, err = p.Enroll.Options(ctx, v.Attempt)
		if errors.Is(err, identity.ErrMayNotEnroll) || errors.Is(err, enroll.ErrOwnershipOff) {
			return nil // who begins is told
		}
		if err != nil {
			return err
		}
	}
	v.hasAccount = v.options.ManagedAppleAccount != ""
	if err := p.findTyped(ctx, v); err != nil {
		return err
	}
	v.method = v.comes()
	return nil
}

func (p *Portal) elsewherePage(a arrival) (view.Page, error) {
	t := a.page.T
	page := view.PortalElsewhere{
		Portal:  titled(a.page, t.Say("portal.elsewhere.heading")),
		Reason:  "portal.elsewhere.reason",
		Address: p.ServerURL.Host + "/enroll",
		Others:  a.others(Other),
		Code:    a.code,
	}
	switch {
	case a.browser.tooOld():
		page.Reason = "portal.elsewhere.reason.old"
	case a.browser.Platform == Android:
		page.Reason = "portal.elsewhere.reason.android"
	}
	if a.link != nil {
		page.Spelled = enroll.SpellCode(a.link.ShortCode)
		if a.link.ShortCode == "" {
			page.Address = p.ServerURL.Host + a.path()
		}
	}
	var err error
	page.QR, err = p.qr(t, a.path())
	return page, err
}

// qr is the QR code of a path here.
func (p *Portal) qr(t *text.Texts, path string) (template.HTML, error) {
	picture, err := qr.SVG(p.ServerURL.JoinPath(path).String(), t.Say("portal.qr"))
	if err != nil {
		return "", fmt.Errorf("portal: %w", err)
	}
	return template.HTML(picture), nil // its texts are escaped
}
