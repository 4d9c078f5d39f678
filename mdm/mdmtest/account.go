package mdmtest

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Account is how a device enrols by account (PROTOCOL 1 and 2): somebody types an
// identifier into Settings and signs in on a web page.
type Account struct {
	Identifier string // as typed: "ana@example.com"
	Person     Person // who signs in; required by [Device.SignIn]

	// Reach says where the web server of a domain is: "https://127.0.0.1:8443".
	// "https://" and the domain when nil.
	Reach func(domain string) string

	// Fallback is the URL that systems from iOS 18.2 and macOS 15.2 on ask when the
	// domain answers with a failure, in place of Apple's; nobody is asked when empty.
	Fallback string

	// Sparse reduces MachineInfo to LANGUAGE, PRODUCT and VERSION, which are all
	// that Apple's article lists.
	Sparse bool

	// Info is added to MachineInfo: PAIRING_TOKEN, MDM_CAN_REQUEST_SOFTWARE_UPDATE.
	// A nil value takes a key away.
	Info Dict

	PKCE  bool // send code_challenge (S256) to the authorization URL of apple-oauth2
	Scope bool // send the challenge's scope there

	// Apple is the sign-in to the Managed Apple Account that the profile names. Its
	// error cancels the enrollment. Nil accepts.
	Apple func(ctx context.Context, managedAppleID string) error

	// Manual leaves a token that the server no longer takes to the caller: the
	// request fails with [*SignInRequired]. Else the device refreshes the token or
	// lets the person sign in again, and repeats the request.
	Manual bool
}

// Person uses the web session in which a sign-in happens. [*Browser] is one; a real
// browser is another.
type Person interface {
	// SignIn opens the session's URL and does what its pages ask, until an answer
	// leads to the scheme apple-remotemanagement-user-login: that one it returns.
	SignIn(ctx context.Context, session WebSession) (Redirect, error)
}

// PersonFunc is a function that is a [Person].
type PersonFunc func(ctx context.Context, session WebSession) (Redirect, error)

// SignIn calls f.
func (f PersonFunc) SignIn(ctx context.Context, session WebSession) (Redirect, error) {
	return f(ctx, session)
}

// WebSession is what ASWebAuthenticationSession is given. It has no cookies, and
// those that it gets do not leave it.
type WebSession struct {
	URL       string
	UserAgent string            // of the device's browser
	Transport http.RoundTripper // trusts what the device does; a real browser has its own
}

// Redirect is the answer that ends a web session.
type Redirect struct {
	Status   int // 308 is the only one that ends it; 0 when a browser does not tell
	Location string
}

// Token is what a sign-in brings.
type Token struct {
	Access    string
	Refresh   string    // empty: there is none
	Expires   time.Time // zero: the server did not say
	Challenge Challenge // which it answers: where a refresh goes
}

// SignInRequired means that the server answered 401 with a challenge.
type SignInRequired struct {
	Challenge Challenge
	Reply     *Reply
}

func (e *SignInRequired) Error() string {
	return "the server asks for a sign-in by " + e.Challenge.Method
}

// ErrNoAccount means that a step needs Options.Account.
var ErrNoAccount = errors.New("device: Options.Account is missing")

// EnrollAccount does all that follows when somebody has typed their identifier into
// Settings: service discovery, the enrollment POST, the sign-in, the second POST,
// the sign-in at Apple, installation, SCEP, Authenticate, TokenUpdate, that of a
// Mac's user too, and the first poll, for which iOS awaits no push. After a failure
// before the poll nothing of the profile stays.
func (d *Device) EnrollAccount(ctx context.Context, opts ...SCEPOption) error {
	if err := d.enrollAccount(ctx, opts...); err != nil {
		return err
	}
	_, err := d.Poll(ctx)
	return err
}

func (d *Device) enrollAccount(ctx context.Context, opts ...SCEPOption) error {
	if !d.unmanaged() {
		return d.errManaged()
	}
	d.SetToken(Token{})
	service, err := d.Discover(ctx)
	if err != nil {
		return err
	}
	profile, err := d.FetchEnrollment(ctx, service)
	if err != nil {
		return err
	}
	return d.enroll(ctx, func() error { return d.InstallAccount(ctx, service, profile) }, opts...)
}

// FetchEnrollment posts to a discovered service, signs in as the answer asks and
// posts again, for the profile that it returns. The token becomes the device's.
func (d *Device) FetchEnrollment(ctx context.Context, service *Service) ([]byte, error) {
	_, err := d.PostEnrollment(ctx, service.BaseURL, "")
	if err == nil {
		return nil, errors.New("enrollment: the server gives a profile to somebody who did not sign in")
	}
	for range 2 { // a challenge instead of the profile begins anew (PROTOCOL 2.4)
		var need *SignInRequired
		if !errors.As(err, &need) {
			return nil, err
		}
		var token Token
		if token, err = d.SignIn(ctx, need.Challenge); err != nil {
			return nil, err
		}
		d.SetToken(token)
		var profile []byte
		if profile, err = d.PostEnrollment(ctx, service.BaseURL, token.Access); err == nil {
			return profile, nil
		}
	}
	return nil, err
}

// InstallAccount is [Device.Install] of the profile that a discovered service gave:
// its EnrollmentMode must be the service's, and its Managed Apple Account must be
// signed in to.
func (d *Device) InstallAccount(ctx context.Context, service *Service, profile []byte) error {
	account := d.opts.Account
	if account == nil {
		return ErrNoAccount
	}
	if !d.unmanaged() {
		return d.errManaged()
	}
	d.byod.Store(service.mode() == modeBYOD)
	rules := d.rules()
	rules.Mode = service.mode()
	p, err := ParseProfile(profile, rules)
	if err != nil {
		return err
	}
	if account.Apple != nil {
		if err := account.Apple(ctx, p.MDM.AssignedManagedAppleID); err != nil {
			return fmt.Errorf("sign in to %s at Apple: %w", p.MDM.AssignedManagedAppleID, err)
		}
	}
	return d.install(p, service.mode())
}

// Token is the token that MDM requests carry, empty when there is none.
func (d *Device) Token() Token {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.token
}

// SetToken replaces it, as an attacker with another's would.
func (d *Device) SetToken(t Token) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.token = t
}

// byAccount reports whether the enrollment is account-driven.
func (d *Device) byAccount() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.mode != ""
}

// bearing is p with the token, where the system sends it: macOS does for its users
// only (PROTOCOL 2.6).
func (d *Device) bearing(p Prepared, user bool) Prepared {
	if p.Header == nil {
		return p // nothing was prepared
	}
	token := d.Token().Access
	p.Header = p.Header.Clone()
	if token == "" || d.opts.Model == Mac && !user {
		p.Header.Del("Authorization")
	} else {
		p.Header.Set("Authorization", "Bearer "+token)
	}
	return p
}

// converse sends p as an honest device does, see Account.Manual. user says that p is
// of a user channel.
func (d *Device) converse(ctx context.Context, id *identity, step Step, user bool, p Prepared) (*Reply, error) {
	attended := d.opts.Account != nil && !d.opts.Account.Manual && d.byAccount()
	if attended {
		if err := d.freshen(ctx); err != nil {
			return nil, err
		}
		p = d.bearing(p, user)
	}
	send := func() (reply *Reply, err error) {
		if d.twice(step) {
			_, _ = d.send(ctx, id, p) // its answer is lost
		}
		return d.send(ctx, id, p)
	}
	reply, err := send()
	for _, byPerson := range []bool{false, true} {
		var need *SignInRequired
		if !attended || !errors.As(err, &need) {
			return reply, err
		}
		if again := d.reauthenticate(ctx, need.Challenge, p.bearer(), byPerson); again != nil {
			return reply, fmt.Errorf("%w: %w", err, again)
		}
		p = d.bearing(p, user)
		reply, err = send()
	}
	return reply, err
}

func (p Prepared) bearer() string {
	return strings.TrimPrefix(p.Header.Get("Authorization"), "Bearer ")
}

// freshen refreshes a token that has expired. Where the server refuses, it will say
// so to the request, too.
func (d *Device) freshen(ctx context.Context) error {
	d.signing.Lock()
	defer d.signing.Unlock()
	t := d.Token()
	if t.Refresh == "" || t.Expires.IsZero() || d.opts.Now().Before(t.Expires) {
		return nil
	}
	_, err := d.Refresh(ctx)
	var refused *OAuthError
	if errors.As(err, &refused) {
		return nil
	}
	return err
}

// reauthenticate replaces the token that was refused: silently if it can and need
// not ask the person.
func (d *Device) reauthenticate(ctx context.Context, c Challenge, refused string, byPerson bool) error {
	d.signing.Lock()
	defer d.signing.Unlock()
	t := d.Token()
	if t.Access != refused && t.Access != "" {
		return nil // the other channel was quicker, or the request never has one
	}
	if t.Refresh != "" && c.Method == MethodOAuth2 && !byPerson {
		t.Challenge = c
		d.SetToken(t)
		_, err := d.Refresh(ctx)
		var no *OAuthError
		if !errors.As(err, &no) {
			return err
		}
	}
	t, err := d.SignIn(ctx, c)
	if err == nil {
		d.SetToken(t)
	}
	return err
}

// twice reports whether a test wants the request of a step sent again.
func (d *Device) twice(s Step) bool { return d.opts.Twice != nil && d.opts.Twice(s) }

// since says whether the system is at least of a version: that of iOS, iPadOS and
// visionOS, or that of macOS.
func (o Options) since(ios, mac string) bool {
	want := ios
	if o.Model == Mac {
		want = mac
	}
	have := strings.Split(o.OSVersion, ".")
	for i, text := range strings.Split(want, ".") {
		if i == len(have) {
			return false
		}
		w, _ := strconv.Atoi(text)
		if h, err := strconv.Atoi(have[i]); err != nil || h != w {
			return err == nil && h > w
		}
	}
	return true
}
