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
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/webui"
	"github.com/gatehouse-mdm/gatehouse/webui/frame"
	"github.com/gatehouse-mdm/gatehouse/webui/view"
)

// step is one screen on a person's way. Each has an address, so that Back works.
type step string

// The steps, in their order.
const (
	stepLogin         step = "login" // at /login
	stepDevice        step = "device"
	stepCertificate   step = "certificate"
	stepTrust         step = "trust"
	stepAccount       step = "account"
	stepAccountDriven step = "account-driven"
	stepProfile       step = "profile"
	stepStatus        step = "status"
)

var stepOrder = []step{stepLogin, stepDevice, stepCertificate, stepTrust, stepAccount, stepAccountDriven, stepProfile, stepStatus}

// before says whether s comes before other.
func (s step) before(other step) bool {
	return slices.Index(stepOrder, s) < slices.Index(stepOrder, other)
}

// told is the step that the progress header shows for s: some screens are one step to who
// takes them.
func (s step) told() step {
	switch s {
	case stepTrust:
		return stepCertificate
	case stepAccountDriven:
		return stepAccount
	}
	return s
}

// method is how a device comes in.
type method int

const (
	byProfile       method = iota // Device Enrollment
	byAccount                     // User Enrollment by profile, with a Managed Apple Account
	byAccountDriven               // somebody signs in in the device's settings
)

// visit is an enrollment as the page sees it that a person is at.
type visit struct {
	enroll.Attempt
	settings enroll.Settings
	link     *enroll.Link   // nil: it has none
	options  enroll.Options // while a choice can still be made
	method   method

	// hasAccount says that whom it is for has a Managed Apple Account, which is among the
	// options for that person alone.
	hasAccount bool

	// typed is what that person types into the device's settings to enrol it, by whose
	// device it is; those that can't be enrolled so are not in it.
	typed map[mdm.Ownership]string

	// needed is the oldest system that the sign-in in the settings is for, by whose device it
	// is, where this one's is older.
	needed map[mdm.Ownership]string

	page     view.Portal
	login    bool          // it asks who the person is
	user     identity.User // who is signed in, if signedIn
	signedIn bool
	mine     bool // who sent the request, or the browser that did, may go on with it
	ownCA    bool
}

// path is where a step of the visit is.
func (v *visit) path(s step) string { return visitPath(v.ID) + "/" + string(s) }

func visitPath(id string) string { return "/enroll/a/" + url.PathEscape(id) }

func linkPath(code string) string { return "/enroll/l/" + url.PathEscape(code) }

func (v *visit) platform() Platform { return platformOf(v.Visit.Platform) }

// open says that the person can still choose.
func (v *visit) open() bool {
	return v.Stage == enroll.Opened || v.Stage == enroll.Authenticated || v.Stage == enroll.ProfileDownloaded
}

// known says that whom it is for has signed in. A link may name somebody, and ask nobody:
// who opens it is not told about them.
func (v *visit) known() bool { return v.signedIn && isUser(v.user, v.User) }

// byLists says that the link is for certain devices: those of User Enrollments do not say
// which they are.
func (v *visit) byLists() bool { return v.link != nil && len(v.link.SerialNumbers) > 0 }

// terms says that there are terms to agree to.
func (v *visit) terms() bool { return v.page.T.Has("portal.terms") }

// choices are the ownerships that there are to choose from; none: it is settled.
func (v *visit) choices() []mdm.Ownership {
	choices := v.options.Ownerships
	if v.Stage == enroll.Opened {
		choices = v.settings.Ownerships()
	}
	if !v.Visit.MayAsk || len(choices) < 2 {
		return nil
	}
	return choices
}

// way are the steps that the person takes, as the progress header tells them.
func (v *visit) way() (way []step) {
	if v.login {
		way = append(way, stepLogin)
	}
	if len(v.choices()) > 0 || v.terms() {
		way = append(way, stepDevice)
	}
	if v.ownCA {
		way = append(way, stepCertificate)
	}
	switch v.method {
	case byAccount:
		way = append(way, stepAccount, stepProfile)
	case byAccountDriven:
		way = append(way, stepAccount)
	default:
		way = append(way, stepProfile)
	}
	return append(way, stepStatus)
}

// progress is the progress header of a step.
func (v *visit) progress(at step) view.Progress {
	var p view.Progress
	for i, s := range v.way() {
		p.Steps = append(p.Steps, v.page.T.Say("portal.step."+string(s)))
		if s == at.told() {
			p.Current = i + 1
		}
	}
	return p
}

// due is the step that the person is at.
func (v *visit) due() step {
	switch {
	case !v.open(), v.Account != nil: // the device leads on
		return stepStatus
	case v.Stage == enroll.Opened:
		return stepLogin
	case v.Ownership == "", v.terms() && v.Visit.AgreedAt.IsZero():
		return stepDevice
	case v.ownCA && v.Visit.TrustedAt.IsZero():
		if v.Visit.CertificateAt.IsZero() || !v.platform().touch() {
			return stepCertificate
		}
		return stepTrust
	case v.method == byAccount && !v.Visit.UserEnrollment:
		return stepAccount
	case v.method == byAccountDriven:
		return stepAccountDriven
	case v.Stage == enroll.ProfileDownloaded:
		return stepStatus
	}
	return stepProfile
}

// has says whether a step is one that the person takes or took, and can still go back to.
func (v *visit) has(s step) bool {
	switch {
	case s == stepStatus:
		return true
	case v.Account != nil:
		return false
	}
	switch s {
	case stepDevice:
		return len(v.choices()) > 0 || v.terms()
	case stepCertificate:
		return v.ownCA
	case stepTrust:
		return v.ownCA && v.platform().touch()
	case stepAccount:
		return v.offers() == byAccount
	case stepAccountDriven:
		return v.offers() == byAccountDriven
	case stepProfile:
		return v.method != byAccountDriven
	}
	return false
}

// profileDriven says whether the system has User Enrollment by profile: iOS 13.1 to 17 and
// macOS 10.15 to 14 (Apple's page of the MDM payload: ManagedAppleID).
func (v *visit) profileDriven() bool {
	switch major := v.Visit.Major; v.platform() {
	case IPhone, IPad, IPod:
		return major >= 13 && major <= 17
	case Mac:
		return major >= 10 && major <= 14
	}
	return false
}

// signsIn says whether the system enrolls when somebody signs in in its settings (PROTOCOL 1,
// "Availability"). One that does not tell its version is taken for a new one, and a Vision
// Pro tells none but Safari's.
func (v *visit) signsIn(mode enroll.AccountMode) bool {
	const (
		firstMac       = 14
		firstIOSUser   = 15
		firstIOSDevice = 17
	)
	major, first := v.Visit.Major, firstIOSUser
	switch {
	case v.platform() == Vision:
		return true
	case v.platform() == Mac:
		first = firstMac
	case mode == enroll.ModeADDE:
		first = firstIOSDevice
	}
	return major == 0 || major >= first
}

// mayDecline says that there is the way by a profile, too.
func (v *visit) mayDecline() bool {
	return v.Ownership != mdm.Personal || v.settings.PersonalMethod == enroll.PersonalAuto
}

// offers is the way that a person is led who has not declined it.
func (v *visit) offers() method {
	wanted := v.settings.PersonalMethod == enroll.PersonalUser || v.settings.PersonalMethod == enroll.PersonalAuto && v.hasAccount
	_, led := v.typed[v.Ownership]
	switch {
	case v.Account != nil:
		return byAccountDriven
	case v.byLists():
		return byProfile
	case v.Visit.UserEnrollment && v.profileDriven():
		return byAccount
	case led:
		return byAccountDriven
	case v.Ownership == mdm.Personal && wanted && v.profileDriven():
		return byAccount
	}
	return byProfile
}

// as is the visit with another answer to whose device it is, which takes back what was said
// of the one before.
func (v *visit) as(o mdm.Ownership) *visit {
	as := *v
	if as.Ownership != o {
		said := *v.Visit
		said.UserEnrollment, said.Declined = false, false
		as.Ownership, as.Visit = o, &said
	}
	return &as
}

// userOnly says that the device must be enrolled by User Enrollment, or not at all.
func (v *visit) userOnly() bool {
	return v.Ownership == mdm.Personal && v.settings.PersonalMethod == enroll.PersonalUser && !v.byLists()
}

// barred is the refusal of a device that must be enrolled by User Enrollment and can't be,
// nil for others: a profile would do more than the organisation wants with it.
func (v *visit) barred() error {
	if !v.userOnly() || v.offers() != byProfile {
		return nil
	}
	if needed := v.needed[v.Ownership]; needed != "" {
		r := refusal(errTooOld).(*frame.Refusal)
		r.Texts, r.Values, r.Action = "portal.refused.old_needed", []any{"needed", needed}, v.firstPath()
		r.Err = &enroll.MinimumOSError{Needed: needed}
		return r
	}
	r := refusal(enroll.ErrModeOff).(*frame.Refusal)
	r.Texts, r.Action = "portal.refused.user_only", ""
	if len(v.choices()) > 0 {
		r.Action = v.path(stepDevice)
	}
	return r
}

// firstPath is where the person began.
func (v *visit) firstPath() string {
	if v.link != nil {
		return linkPath(v.link.Code)
	}
	return "/enroll"
}

// comes is how the device comes in.
func (v *visit) comes() method {
	if v.Account == nil && v.Visit.Declined && v.mayDecline() {
		return byProfile
	}
	return v.offers()
}

// findTyped finds out who is led to the settings of their device, and what they type there.
// Without a Managed Apple Account that leads nowhere, but for a person whose device must not
// come in any other way: the sign-in then says what is missing.
func (p *Portal) findTyped(ctx context.Context, v *visit) error {
	v.typed, v.needed = nil, nil
	if v.byLists() {
		return nil
	}
	identifiers := []string{v.User, v.options.ManagedAppleAccount}
	if v.known() {
		identifiers = []string{v.user.Email, v.user.Username, v.options.ManagedAppleAccount}
	}
	ask := p.Enroll.LeadsHere
	if v.User == "" {
		identifiers, ask = []string{""}, p.leadsSomebody
	}
	for _, identifier := range identifiers {
		mode, err := ask(ctx, identifier, v.platform().family())
		if err != nil {
			return err
		}
		if mode == "" || !v.signsIn(mode) {
			continue
		}
		owner := mode.Ownership()
		needed, err := p.newerNeeded(ctx, v)
		if err != nil {
			return err
		}
		if needed != "" {
			if v.needed == nil {
				v.needed = make(map[mdm.Ownership]string)
			}
			v.needed[owner] = needed
			continue
		}
		only := owner == mdm.Personal && v.settings.PersonalMethod == enroll.PersonalUser && !v.profileDriven()
		switch _, found := v.typed[owner]; {
		case found, !v.hasAccount && !only, owner == mdm.Personal && v.settings.PersonalMethod == enroll.PersonalDevice:
			continue
		case v.typed == nil:
			v.typed = make(map[mdm.Ownership]string)
		}
		v.typed[owner] = identifier
	}
	return nil
}

// newerNeeded is the oldest system that may sign in in its settings, if that of the visit is
// older for sure: what a browser tells is the major version, and that of a Mac or a Vision Pro
// may be less than it seems.
func (p *Portal) newerNeeded(ctx context.Context, v *visit) (string, error) {
	driven, err := p.Enroll.AccountDriven(ctx)
	if err != nil || v.Visit.Major == 0 {
		return "", err
	}
	needed := driven.MinimumOS[v.platform().family()]
	major, _, _ := strings.Cut(needed, ".")
	if least, err := strconv.Atoi(major); err != nil || v.Visit.Major >= least {
		return "", nil
	}
	return needed, nil
}

// leadsSomebody is [enroll.Service.LeadsHere] for who has not said who they are: they are
// led where everybody is.
func (p *Portal) leadsSomebody(ctx context.Context, _ string, family enroll.ModelFamily) (enroll.AccountMode, error) {
	d, err := p.Enroll.Discover(ctx, "", family)
	var refused *enroll.DiscoveryError
	if errors.As(err, &refused) {
		return "", nil
	}
	return d.Mode, err
}

// visit returns the enrollment that r names. Anybody who knows its ID may see how far it
// is; whether r may go on with it is in mine.
func (p *Portal) visit(r *http.Request) (*visit, error) {
	ctx := r.Context()
	a, err := p.Enroll.Attempt(ctx, r.PathValue("id"))
	if errors.Is(err, storage.ErrNotFound) || err == nil && a.Visit == nil {
		return nil, refusal(errUnknownVisit)
	}
	if err != nil {
		return nil, err
	}
	v := &visit{Attempt: a, ownCA: p.OwnCA}
	if v.link, err = p.linkOf(ctx, a); err != nil {
		return nil, err
	}
	v.login = asksWho(v.link)
	if v.user, v.signedIn, err = p.signedIn(ctx); err != nil {
		return nil, err
	}
	if v.login {
		v.mine = v.Stage == enroll.Opened && v.User == "" || v.known()
	} else {
		// Its ID is no secret: who reads lists of enrollments knows it.
		v.mine = p.Sessions.Value(ctx, webui.SessionAttempt) == v.ID
	}
	if v.page, v.settings, err = p.Frame.Portal(r, "portal.frame.title"); err != nil {
		return nil, err
	}
	return v, p.complete(ctx, v)
}

// complete finds what follows from an attempt.
func (p *Portal) complete(ctx context.Context, v *visit) (err error) {
	if v.Account != nil || v.Visit.AccountDriven && !v.Visit.Declined {
		v.method = byAccountDriven // whoever looks
	}
	if !v.open() || !v.mine || v.Stage == enroll.Opened {
		return nil
	}
	if v.options, err = p.Enroll.Options(ctx, v.Attempt); err != nil {
		return err
	}
	v.hasAccount = v.options.ManagedAppleAccount != ""
	if err := p.findTyped(ctx, v); err != nil {
		return err
	}
	v.method = v.comes()
	if !v.known() {
		v.options.ManagedAppleAccount, v.options.Devices = "", nil
		for owner := range v.typed {
			v.typed[owner] = ""
		}
	}
	return nil
}

// linkOf returns the link of an attempt, nil if it has none.
func (p *Portal) linkOf(ctx context.Context, a enroll.Attempt) (*enroll.Link, error) {
	if a.LinkID == "" {
		return nil, nil
	}
	l, err := p.Enroll.Link(ctx, a.LinkID)
	if errors.Is(err, storage.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return &l, nil
}

// asksWho says whether people sign in for an attempt by a link, which may be nil.
func asksWho(l *enroll.Link) bool { return l == nil || l.Login != enroll.LoginNone }

// signedIn returns who is signed in.
func (p *Portal) signedIn(ctx context.Context) (u identity.User, ok bool, err error) {
	who, ok := identity.PrincipalFrom(ctx)
	if !ok || who.Kind != identity.KindUser {
		return identity.User{}, false, nil
	}
	u, err = p.People.User(ctx, who.ID)
	if errors.Is(err, storage.ErrNotFound) {
		return identity.User{}, false, nil
	}
	return u, err == nil, err
}

// isUser says whether a login is one of u's.
func isUser(u identity.User, login string) bool {
	return slices.Contains(u.Logins(), strings.ToLower(strings.TrimSpace(login)))
}

// at returns the handler of a step, which is told of the visit. Who is not there yet, or
// past it, is sent to where they are.
func (p *Portal) at(s step, show func(w http.ResponseWriter, r *http.Request, v *visit) error) webui.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) error {
		v, err := p.visit(r)
		if err != nil {
			return explain(err)
		}
		if !v.mine {
			return p.signInFirst(w, r, v)
		}
		due := v.due()
		if due == stepLogin {
			return see(w, r, visitPath(v.ID))
		}
		if err := v.barred(); err != nil && v.open() && (s != stepDevice || len(v.choices()) == 0) {
			return err
		}
		if !v.open() || !v.has(s) || due.before(s) {
			return see(w, r, v.path(due))
		}
		v.page.Progress = v.progress(s)
		return explain(show(w, r, v))
	}
}

// signInFirst sends a person to sign in, and back: the session ended meanwhile, or the
// cookie was lost. Who is signed in as somebody else is told, and so is who need not sign
// in and comes by another browser than the one that began.
func (p *Portal) signInFirst(w http.ResponseWriter, r *http.Request, v *visit) error {
	if !v.login {
		other := refusal(errOtherBrowser).(*frame.Refusal)
		other.Action = v.path(stepStatus)
		return other
	}
	if v.signedIn {
		return refusal(enroll.ErrOtherPerson)
	}
	return see(w, r, "/login?"+url.Values{"next": {visitPath(v.ID)}, "again": {"1"}}.Encode())
}

// resume answers GET /enroll/a/{id}: it leads to the step that is due.
func (p *Portal) resume(w http.ResponseWriter, r *http.Request) error {
	v, err := p.visit(r)
	if err != nil {
		return explain(err)
	}
	if v.Stage == enroll.Opened && v.signedIn {
		if v.Attempt, err = p.Enroll.SignedIn(r.Context(), v.ID, v.user); err != nil {
			return explain(err)
		}
		if err := p.complete(r.Context(), v); err != nil {
			return explain(err)
		}
	}
	due := v.due()
	switch {
	case due == stepLogin:
		return see(w, r, "/login?"+url.Values{"next": {visitPath(v.ID)}}.Encode())
	case !v.mine && due != stepStatus:
		return p.signInFirst(w, r, v)
	}
	return see(w, r, v.path(due))
}

// see sends the browser on, by GET.
func see(w http.ResponseWriter, r *http.Request, path string) error {
	w.Header().Set("Cache-Control", "no-store")
	http.Redirect(w, r, path, http.StatusSeeOther)
	return nil
}

// profileLife is how long a device keeps a profile that nobody installs (Apple Support,
// "Install a configuration profile on your iPhone or iPad").
const profileLife = 8 * time.Minute

// countdown is for a profile that was downloaded at a time; zero: it was not.
func (p *Portal) countdown(at time.Time) view.Countdown {
	c := view.Countdown{Of: int(profileLife / time.Second)}
	if at.IsZero() {
		return c
	}
	left := profileLife - p.Now().Sub(at)
	c.Left, c.Ended = int(max(left, 0)/time.Second), left < time.Second
	return c
}
