// Package portal is the pages that a person sees who enrolls a device: from the first one
// to the one that says that it is done.
//
// It knows nothing of how a device is taken in: package enroll does that. The step that a
// person is at follows from their attempt alone, so that any replica can show it, Back
// works, and nothing is lost with a cookie.
package portal

import (
	"context"
	"crypto/x509"
	"errors"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/webui"
	"github.com/gatehouse-mdm/gatehouse/webui/frame"
	"github.com/gatehouse-mdm/gatehouse/webui/text"
	"github.com/gatehouse-mdm/gatehouse/webui/view"
)

// People knows users, and counts guesses and who comes. *identity.Service does.
type People interface {
	User(ctx context.Context, id string) (identity.User, error)
	CountVisit(ctx context.Context, peer string) error
	CountGuess(ctx context.Context, purpose, peer string) error
	ForgiveGuess(ctx context.Context, purpose, peer string) error
}

// Config says what a Portal needs: all of it but OwnCA, Probe and Streams.
type Config struct {
	Enroll    *enroll.Service
	People    People
	Sessions  *webui.Sessions
	Frame     *frame.Frame
	Pages     *webui.Pages
	ServerURL *url.URL
	Log       *slog.Logger
	Now       func() time.Time

	OwnCA       bool                     // devices must be told to trust our authority
	Root        func() *x509.Certificate // the organisation root
	RootProfile func() ([]byte, error)   // the profile that installs it
	Probe       string                   // URL of a picture that loads once a device trusts the root; empty: none

	Streams int // how many pages may be followed live at once; 0: a number that is enough

	// Verified says whether devices will call enrollment profiles "Verified".
	Verified func() bool

	// Ready says whether anybody can sign in yet.
	Ready func(ctx context.Context) (bool, error)
}

// Portal serves /enroll.
type Portal struct {
	Config
	probeOrigin string
	streams     atomic.Int64 // of events, that are open
}

// maxStreams is how many streams of events one server keeps, unless told otherwise: anybody
// can begin enrollments and follow them.
const maxStreams = 2000

// New returns a Portal, or says what c lacks.
func New(c Config) (*Portal, error) {
	switch {
	case c.Enroll == nil || c.People == nil || c.Sessions == nil || c.Frame == nil || c.Pages == nil:
		return nil, errors.New("portal: Enroll, People, Sessions, Frame and Pages are required")
	case c.ServerURL == nil || c.Log == nil || c.Now == nil:
		return nil, errors.New("portal: ServerURL, Log and Now are required")
	case c.Root == nil || c.RootProfile == nil || c.Verified == nil || c.Ready == nil:
		return nil, errors.New("portal: Root, RootProfile, Verified and Ready are required")
	}
	if c.Streams == 0 {
		c.Streams = maxStreams
	}
	p := &Portal{Config: c}
	if c.Probe != "" {
		u, err := url.Parse(c.Probe)
		if err != nil || u.Host == "" || strings.ContainsAny(u.Host, " ;,") {
			return nil, errors.New("portal: Probe is no URL")
		}
		p.probeOrigin = u.Scheme + "://" + u.Host
	}
	return p, nil
}

// Mount registers the pages. live takes the one route that answers for minutes: its
// group has no timeout.
func (p *Portal) Mount(r, live webui.Router) {
	r.Handle("GET /enroll", p.welcome)
	r.Handle("POST /enroll/start", p.start)
	r.Handle("POST /enroll/code", p.code)
	r.Handle("GET /enroll/l/{code}", p.welcome)
	r.Handle("GET /enroll/l/{code}/profile", p.linkProfile)

	r.Handle("GET /enroll/a/{id}", p.resume)
	r.Handle("GET /enroll/a/{id}/device", p.at(stepDevice, p.askDevice))
	r.Handle("POST /enroll/a/{id}/device", p.at(stepDevice, p.chooseDevice))
	r.Handle("GET /enroll/a/{id}/certificate", p.at(stepCertificate, p.showCertificate))
	r.Handle("POST /enroll/a/{id}/certificate", p.at(stepCertificate, p.certificateInstalled))
	r.Handle("GET /enroll/a/{id}/ca.mobileconfig", p.sendCertificate)
	r.Handle("GET /enroll/a/{id}/trust", p.at(stepTrust, p.showTrust))
	r.Handle("POST /enroll/a/{id}/trust", p.trusted)
	r.Handle("GET /enroll/a/{id}/account", p.at(stepAccount, p.askAccount))
	r.Handle("POST /enroll/a/{id}/account", p.at(stepAccount, p.chooseAccount))
	r.Handle("GET /enroll/a/{id}/account-driven", p.at(stepAccountDriven, p.showAccountDriven))
	r.Handle("POST /enroll/a/{id}/account-driven", p.at(stepAccountDriven, p.chooseAccount))
	r.Handle("GET /enroll/a/{id}/profile", p.at(stepProfile, p.showProfile))
	r.Handle("GET /enroll/a/{id}/enroll.mobileconfig", p.sendProfile)
	r.Handle("POST /enroll/a/{id}/again", p.tryAgain)
	r.Handle("GET /enroll/a/{id}/status", p.status)
	r.Handle("GET /enroll/a/{id}/state", p.state)
	live.Handle("GET /enroll/a/{id}/events", p.events)

	// Device protocol addresses, opened in a browser.
	r.Handle("GET "+enroll.PathCheckIn, p.notForBrowsers)
	r.Handle("GET "+enroll.PathConnect, p.notForBrowsers)
}

// MountPreviews registers the pages that show what others will see. What language they
// are in is no choice of the reader's, so that the router must not have it remembered.
func (p *Portal) MountPreviews(r webui.Router) { r.Handle("GET /enroll/preview/{screen}", p.preview) }

// Arriving.

func (p *Portal) welcome(w http.ResponseWriter, r *http.Request) error {
	a, err := p.arrive(r, r.PathValue("code"))
	if err != nil {
		return explain(err)
	}
	page, err := p.firstPage(r.Context(), a)
	if err != nil {
		return err
	}
	return p.Pages.Write(w, http.StatusOK, page)
}

// arrive looks at who comes to the first page, by the link with a code if that is not
// empty.
func (p *Portal) arrive(r *http.Request, code string) (a arrival, err error) {
	ctx, query := r.Context(), r.URL.Query()
	if code != "" {
		link, err := p.Enroll.OpenLink(ctx, code)
		if err != nil {
			return arrival{}, err
		}
		a.link = &link
	}
	if a.page, a.settings, err = p.Frame.Portal(r, "portal.frame.title"); err != nil {
		return arrival{}, err
	}
	if a.ready, err = p.Ready(ctx); err != nil {
		return arrival{}, err
	}
	if a.resume, a.elsewhere, err = p.underWay(ctx); err != nil {
		return arrival{}, err
	}
	a.browser = Detect(r.UserAgent())
	if said := query.Get("platform"); a.browser.as(said) != a.browser || Platform(said) == a.browser.Platform {
		a.browser, a.said = a.browser.as(said), said
	}
	a.anyway = query.Get("browser") == "safari"
	return a, nil
}

// underWay is the path of the enrollment that this browser has under way, if it has one
// that can go on, and of where another browser on the device goes on with it.
func (p *Portal) underWay(ctx context.Context) (path, elsewhere string, err error) {
	id := p.Sessions.Value(ctx, webui.SessionAttempt)
	if id == "" {
		return "", "", nil
	}
	a, err := p.Enroll.Attempt(ctx, id)
	if errors.Is(err, storage.ErrNotFound) {
		return "", "", nil
	}
	if err != nil || a.Stage == enroll.Enrolled || a.Stage == enroll.AttemptFailed {
		return "", "", err
	}
	path = visitPath(id)
	l, err := p.linkOf(ctx, a)
	if err != nil || asksWho(l) {
		return path, path, err
	}
	return path, linkPath(l.Code), nil
}

// start begins an enrollment. A form that is sent again goes on with the first one, if
// nothing has come of that yet.
func (p *Portal) start(w http.ResponseWriter, r *http.Request) error {
	if err := r.ParseForm(); err != nil {
		return badForm(err)
	}
	ctx := r.Context()
	b := Detect(r.UserAgent()).as(r.PostForm.Get("platform"))
	n := enroll.NewVisit{LinkCode: r.PostForm.Get("link"), Platform: b.Platform.system(), Major: b.Major}
	a, found, err := p.begun(ctx, n)
	if err == nil && !found {
		if err := p.countVisit(w, r); err != nil {
			return err
		}
		a, err = p.Enroll.BeginVisit(ctx, n)
	}
	if err != nil {
		return explain(err)
	}
	if err := p.Sessions.SetValue(ctx, webui.SessionAttempt, a.ID); err != nil {
		return err
	}
	return see(w, r, visitPath(a.ID))
}

// countVisit refuses a network from which very many enrollments are begun.
func (p *Portal) countVisit(w http.ResponseWriter, r *http.Request) error {
	err := p.People.CountVisit(r.Context(), peerName(webui.Peer(r.Context())))
	if !errors.Is(err, identity.ErrThrottled) {
		return err
	}
	askAgain(w, err)
	many := refusal(errMany).(*frame.Refusal)
	many.Err = err
	return many
}

// askAgain tells when to try again what err refuses for now.
func askAgain(w http.ResponseWriter, err error) {
	if wait := identity.RetryAfter(err); wait > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(wait/time.Second)+1))
	}
}

// begun finds the enrollment that this browser began in just the same way: a moment ago,
// or at any time if nobody has signed in to it yet.
func (p *Portal) begun(ctx context.Context, n enroll.NewVisit) (a enroll.Attempt, found bool, err error) {
	const moment = 30 * time.Second
	id := p.Sessions.Value(ctx, webui.SessionAttempt)
	if id == "" {
		return enroll.Attempt{}, false, nil
	}
	a, err = p.Enroll.Attempt(ctx, id)
	switch {
	case errors.Is(err, storage.ErrNotFound):
		return enroll.Attempt{}, false, nil
	case err != nil:
		return enroll.Attempt{}, false, err
	case a.Account != nil: // who starts over means another sign-in
		return enroll.Attempt{}, false, nil
	case a.Visit == nil || a.Visit.Platform != n.Platform || a.Visit.Major != n.Major,
		a.Stage != enroll.Opened && a.Stage != enroll.Authenticated:
		return enroll.Attempt{}, false, nil
	}
	fresh := a.Stage == enroll.Opened || p.Now().Sub(a.StageAt[enroll.Opened]) <= moment
	if n.LinkCode == "" {
		return a, fresh && a.LinkID == "", nil
	}
	l, err := p.Enroll.OpenLink(ctx, n.LinkCode)
	return a, err == nil && l.ID == a.LinkID && (fresh || l.Login == enroll.LoginNone), err
}

// guessCode is the purpose that guesses of short codes are counted for.
const guessCode = "enrollment code"

// code answers the form that takes a short code: it leads to a link, or to how far an
// enrollment is that was begun in another browser.
func (p *Portal) code(w http.ResponseWriter, r *http.Request) error {
	if err := r.ParseForm(); err != nil {
		return badForm(err)
	}
	ctx, typed, peer := r.Context(), r.PostForm.Get("code"), peerName(webui.Peer(r.Context()))
	if err := p.People.CountGuess(ctx, guessCode, peer); err != nil {
		return p.wrongCode(w, r, typed, err)
	}
	found, err := p.Enroll.FindCode(ctx, typed)
	if errors.Is(err, enroll.ErrLinkUnknown) {
		return p.wrongCode(w, r, typed, errCode)
	}
	if err == nil {
		err = p.People.ForgiveGuess(ctx, guessCode, peer)
	}
	switch {
	case err != nil:
		return err
	case found.LinkCode != "":
		return see(w, r, "/enroll/l/"+url.PathEscape(found.LinkCode))
	}
	return see(w, r, visitPath(found.AttemptID)+"/status")
}

// wrongCode shows the first page again, with what was typed and what is wrong with it.
func (p *Portal) wrongCode(w http.ResponseWriter, r *http.Request, typed string, why error) error {
	err := explain(why)
	var refused *frame.Refusal
	if !errors.As(err, &refused) {
		return err
	}
	askAgain(w, why)
	if !webui.WantsHTML(r) {
		return err
	}
	p.Log.InfoContext(r.Context(), "page refused", "code", refused.Code, "request", webui.RequestID(r.Context()), "err", why)
	a, err := p.arrive(r, "")
	if err != nil {
		return err
	}
	a.page.Here = "/enroll"
	if len(typed) > 40 {
		typed = ""
	}
	a.code = view.ShortCode{Typed: typed, Error: a.page.T.Say(refused.Texts+".text") + " (" + refused.Code + ")"}
	page, err := p.firstPage(r.Context(), a)
	if err != nil {
		return err
	}
	return p.Pages.Write(w, refused.Status, page)
}

// peerName names who is throttled; the Unix socket has no address.
func peerName(addr netip.Addr) string {
	if !addr.IsValid() {
		return "local"
	}
	return addr.String()
}

func badForm(err error) error {
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		return err
	}
	return &webui.Problem{Status: http.StatusBadRequest, Code: "bad_form", Title: "The form can’t be read"}
}

// The steps.

func (p *Portal) askDevice(w http.ResponseWriter, _ *http.Request, v *visit) error {
	return p.Pages.Write(w, http.StatusOK, p.devicePage(v, nil))
}

func (p *Portal) chooseDevice(w http.ResponseWriter, r *http.Request, v *visit) error {
	if err := r.ParseForm(); err != nil {
		return badForm(err)
	}
	t := v.page.T
	c := enroll.Choice{
		Ownership: mdm.Ownership(r.PostForm.Get("ownership")), Agreed: r.PostForm.Get("agreed") != "",
		UserEnrollment: v.Visit.UserEnrollment, ManagedAppleAccount: v.Visit.ManagedAppleAccount, Declined: v.Visit.Declined,
	}
	problems := map[string]string{}
	if len(v.choices()) > 0 && c.Ownership == "" {
		problems["ownership"] = t.Say("portal.device.choose")
	}
	if v.terms() && !c.Agreed && v.Visit.AgreedAt.IsZero() {
		problems["agreed"] = t.Say("portal.device.must_agree")
	}
	if len(problems) > 0 {
		v.page.Here = v.path(stepDevice)
		if c.Ownership != "" {
			v.Ownership = c.Ownership // as it was chosen
		}
		page := p.devicePage(v, problems)
		page.Agreed = c.Agreed
		return p.Pages.Write(w, http.StatusUnprocessableEntity, page)
	}
	if c.Ownership != "" {
		if err := v.as(c.Ownership).barred(); err != nil {
			return err // nothing is noted: the person may have taken the wrong one
		}
	}
	if c.Ownership != v.Ownership && c.Ownership != "" {
		c.UserEnrollment, c.ManagedAppleAccount, c.Declined = false, "", false
	}
	if _, err := p.Enroll.Choose(r.Context(), v.ID, c); err != nil {
		return p.orWhereTheyAre(w, r, v, err)
	}
	return see(w, r, visitPath(v.ID))
}

func (p *Portal) showCertificate(w http.ResponseWriter, _ *http.Request, v *visit) error {
	p.allowPicture(w)
	return p.Pages.Write(w, http.StatusOK, p.certificatePage(v))
}

// certificateInstalled notes that the person has gone on, also who had the certificate
// before.
func (p *Portal) certificateInstalled(w http.ResponseWriter, r *http.Request, v *visit) error {
	if v.Visit.CertificateAt.IsZero() {
		if _, err := p.Enroll.CertificateDownloaded(r.Context(), v.ID); err != nil {
			return err
		}
	}
	return see(w, r, v.path(stepTrust))
}

// sendCertificate sends the profile that installs the root. HEAD notes nothing.
func (p *Portal) sendCertificate(w http.ResponseWriter, r *http.Request) error {
	v, err := p.visit(r)
	switch {
	case err != nil:
		return explain(err)
	case !v.mine:
		return p.signInFirst(w, r, v)
	case !v.ownCA:
		return see(w, r, visitPath(v.ID))
	}
	profile, err := p.RootProfile()
	if err != nil {
		return err
	}
	if r.Method == http.MethodGet {
		if _, err := p.Enroll.CertificateDownloaded(r.Context(), v.ID); err != nil {
			return explain(err)
		}
	}
	webui.SendFile(w, contentProfile, "gatehouse-ca.mobileconfig", profile)
	return nil
}

func (p *Portal) showTrust(w http.ResponseWriter, _ *http.Request, v *visit) error {
	p.allowPicture(w)
	return p.Pages.Write(w, http.StatusOK, p.trustPage(v))
}

// trusted notes that the device trusts the root: the person says so, or a picture of the
// trust probe has loaded.
func (p *Portal) trusted(w http.ResponseWriter, r *http.Request) error {
	v, err := p.visit(r)
	switch {
	case err != nil:
		return explain(err)
	case !v.mine:
		return p.signInFirst(w, r, v)
	case v.due() == stepLogin:
		return see(w, r, visitPath(v.ID))
	}
	if _, err := p.Enroll.Trusts(r.Context(), v.ID); err != nil {
		return explain(err)
	}
	return see(w, r, visitPath(v.ID))
}

// allowPicture lets a page load the trust probe, which comes from another origin.
func (p *Portal) allowPicture(w http.ResponseWriter) {
	if p.probeOrigin == "" {
		return
	}
	const pictures = "img-src 'self'"
	h := w.Header()
	h.Set("Content-Security-Policy", strings.Replace(h.Get("Content-Security-Policy"), pictures, pictures+" "+p.probeOrigin, 1))
}

func (p *Portal) askAccount(w http.ResponseWriter, _ *http.Request, v *visit) error {
	return p.Pages.Write(w, http.StatusOK, p.accountPage(v, "", ""))
}

// showAccountDriven leads to the device's settings. Whoever signs in there goes on with this
// enrollment.
func (p *Portal) showAccountDriven(w http.ResponseWriter, r *http.Request, v *visit) error {
	if !v.Visit.AccountDriven && r.Method == http.MethodGet {
		if _, err := p.Enroll.LedToSettings(r.Context(), v.ID); err != nil {
			return p.orWhereTheyAre(w, r, v, err)
		}
	}
	return p.Pages.Write(w, http.StatusOK, p.accountDrivenPage(v))
}

func (p *Portal) chooseAccount(w http.ResponseWriter, r *http.Request, v *visit) error {
	if err := r.ParseForm(); err != nil {
		return badForm(err)
	}
	c := enroll.Choice{Ownership: v.Ownership}
	switch how := r.PostForm.Get("how"); {
	case how == "device" && v.mayDecline():
		c.Declined = true
	case how == "account" && v.offers() == byAccount:
		c.UserEnrollment, c.ManagedAppleAccount = true, r.PostForm.Get("account")
	default:
		return &enroll.FieldError{Field: "how", Reason: "can't be chosen here"}
	}
	_, err := p.Enroll.Choose(r.Context(), v.ID, c)
	var field *enroll.FieldError
	if errors.As(err, &field) && field.Field == "managed_apple_account" {
		v.page.Here = v.path(stepAccount)
		typed := c.ManagedAppleAccount
		if len(typed) > 254 {
			typed = typed[:0]
		}
		return p.Pages.Write(w, http.StatusUnprocessableEntity, p.accountPage(v, typed, accountProblem(v.page.T, c.ManagedAppleAccount, v.settings)))
	}
	if err != nil {
		return p.orWhereTheyAre(w, r, v, err)
	}
	return see(w, r, visitPath(v.ID))
}

// accountProblem says what is wrong with a Managed Apple Account that was refused.
func accountProblem(t *text.Texts, account string, s enroll.Settings) string {
	switch account = strings.TrimSpace(account); {
	case account == "":
		return t.Say("portal.account.error.empty")
	case !identity.IsAddress(account):
		return t.Say("portal.account.error.form")
	}
	if _, domain, _ := strings.Cut(strings.ToLower(account), "@"); len(s.AccountDomains) == 0 || slices.Contains(s.AccountDomains, domain) {
		return t.Say("portal.account.error.other")
	}
	return t.Say("portal.account.error.domain", "domains", "@"+strings.Join(s.AccountDomains, ", @"))
}

func (p *Portal) showProfile(w http.ResponseWriter, _ *http.Request, v *visit) error {
	return p.Pages.Write(w, http.StatusOK, p.profilePage(v))
}

// contentProfile is the type that Safari hands to Settings.
const contentProfile = "application/x-apple-aspen-config"

// sendProfile sends the enrollment profile. HEAD, which download managers ask first,
// makes none.
func (p *Portal) sendProfile(w http.ResponseWriter, r *http.Request) error {
	v, err := p.visit(r)
	switch {
	case err != nil:
		return explain(err)
	case !v.mine:
		return p.signInFirst(w, r, v)
	}
	// Trust in the authority is for the person to judge; all else must be said first.
	if due := v.due(); due.before(stepProfile) && due != stepCertificate && due != stepTrust || !v.open() || v.method == byAccountDriven {
		return see(w, r, visitPath(v.ID))
	}
	if err := v.barred(); err != nil {
		return err
	}
	if r.Method == http.MethodHead {
		webui.SendFile(w, contentProfile, "enroll.mobileconfig", nil)
		return nil
	}
	signed, _, err := p.Enroll.VisitProfile(r.Context(), v.ID)
	if err != nil {
		return p.orWhereTheyAre(w, r, v, err)
	}
	webui.SendFile(w, contentProfile, "enroll.mobileconfig", signed)
	return nil
}

// tryAgain gives up the profile that was downloaded, for another one.
func (p *Portal) tryAgain(w http.ResponseWriter, r *http.Request) error {
	v, err := p.visit(r)
	switch {
	case err != nil:
		return explain(err)
	case !v.mine:
		return p.signInFirst(w, r, v)
	}
	if _, err := p.Enroll.TryAgain(r.Context(), v.ID); err != nil {
		return p.orWhereTheyAre(w, r, v, err)
	}
	return see(w, r, visitPath(v.ID))
}

// orWhereTheyAre sends a person on who came too late, or too early: another tab was
// quicker, or the same form came twice.
func (p *Portal) orWhereTheyAre(w http.ResponseWriter, r *http.Request, v *visit, err error) error {
	if errors.Is(err, enroll.ErrAttemptOver) || errors.Is(err, enroll.ErrNotReady) {
		return see(w, r, visitPath(v.ID))
	}
	return explain(err)
}

// Links and device protocol.

// linkProfile answers a new attempt's enrollment profile, for programs above all. HEAD,
// which download managers and previews of links ask first, makes no attempt.
func (p *Portal) linkProfile(w http.ResponseWriter, r *http.Request) error {
	ctx, code := r.Context(), r.PathValue("code")
	if r.Method == http.MethodHead {
		link, err := p.Enroll.OpenLink(ctx, code)
		if err == nil && link.Login != enroll.LoginNone {
			err = enroll.ErrLoginRequired
		}
		if err != nil {
			return explain(err)
		}
		webui.SendFile(w, contentProfile, "enroll.mobileconfig", nil)
		return nil
	}
	// Not counted: programs enrol thousands of devices from one address by a link, whose
	// code nobody guesses.
	signed, _, err := p.Enroll.NewEnrollment(ctx, code)
	if err != nil {
		return explain(err)
	}
	webui.SendFile(w, contentProfile, "enroll.mobileconfig", signed)
	return nil
}

// ForDevices wraps what devices ask by GET: a person who opens its address, which
// then has no query, is told where to go.
func (p *Portal) ForDevices(next webui.HandlerFunc) webui.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) error {
		if r.URL.RawQuery != "" || !webui.WantsHTML(r) {
			return next(w, r)
		}
		p.Frame.Fail(w, r, p.notForBrowsers(w, r))
		return nil
	}
}

func (p *Portal) notForBrowsers(http.ResponseWriter, *http.Request) error {
	return &frame.Refusal{
		Code: "GH-E002", Status: http.StatusMethodNotAllowed, Name: "method_not_allowed", Title: "This address is for devices",
		Texts: "errors.for_devices", Action: "/enroll",
	}
}
