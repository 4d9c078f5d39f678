package mdmtest

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

var (
	// ErrRemoved means that the device has removed its enrollment: the server
	// answered 401 or com.apple.unrecognized.device, or the profile was taken
	// away. What a removed device would not send is refused with it too.
	ErrRemoved = errors.New("device: the enrollment is removed")

	// ErrNotInstalled means that a step needs a profile or an identity which the
	// device does not have yet.
	ErrNotInstalled = errors.New("device: no profile or identity installed")
)

// State is how far a device got.
type State int32

// The states of a device, in the order of an enrollment.
const (
	New           State = iota // nothing installed
	Installed                  // the profile is there
	Identified                 // the identity certificate too
	Authenticated              // the server accepted Authenticate
	Enrolled                   // and TokenUpdate
	Removed                    // the profile is gone; identity and ids stay readable
	Erased                     // the device was wiped
)

func (s State) String() string {
	return [...]string{"new", "installed", "identified", "authenticated", "enrolled", "removed", "erased"}[s]
}

// SignMode is how a device proves its identity on MDM requests.
type SignMode int

const (
	// SignAsTold sends Mdm-Signature when the profile's SignMessage is true, and
	// offers the identity as TLS client certificate in any case.
	SignAsTold SignMode = iota
	// SignHeader sends Mdm-Signature whatever the profile says, and no TLS
	// client certificate.
	SignHeader
	// SignTLS offers the TLS client certificate and never sends Mdm-Signature.
	SignTLS
	// SignNone proves nothing.
	SignNone
)

// Options say what device to play. The zero value is an iPhone that trusts the
// system's roots.
type Options struct {
	Model     Model  // IPhone when empty
	UDID      string // made up when empty, as are the next four
	Serial    string
	Name      string
	OSVersion string
	Build     string

	Supervised bool
	ADE        bool // came to its enrollment through Automated Device Enrollment
	Shared     bool // a Shared iPad
	Intel      bool // a Mac without Apple silicon
	Unapproved bool // a Mac whose user has not approved the enrollment
	Awaiting   bool // waits in Setup Assistant for DeviceConfigured
	Declines   bool // its user says no to apps that ask

	UserEnrollment bool  // EnrollmentID in place of UDID, serial number, IMEI and UnlockToken; Discover decides by itself
	AnyEnrollment  bool  // install a profile whose EnrollmentMode does not fit UserEnrollment (tests)
	User           *User // the Mac's installing user; made up when nil

	RootCAs   *x509.CertPool    // TLS trust before any profile; the system's when nil
	Transport http.RoundTripper // replaces the device's own TLS and its trust
	PlainHTTP bool              // accept http URLs: for servers that stand behind a TLS proxy

	Keys     *KeyPool    // nil: every device makes its own keys
	Sign     SignMode    // of MDM requests
	Digest   crypto.Hash // of Mdm-Signature; SHA-256 when zero
	Encoding Encoding    // of every CMS message

	BuiltIn  *BuiltIn // Apple's identity of the device; made up by nobody's authority when nil
	Delivery Delivery

	Account *Account // for EnrollAccount

	// Twice sends the requests of a step again, as after a lost answer; the last
	// answer counts. Nil never does.
	Twice func(Step) bool

	Handler Handler // answers commands before the device does
	Conduct Conduct // comes before Handler

	// Patient keeps what an enrollment has got when the server is away in the midst of it,
	// for Resume.
	Patient bool

	Renewal Renewal

	Now  func() time.Time // signing times; TLS goes by the real clock. time.Now when nil
	Rand io.Reader        // of ids, nonces and tokens; crypto/rand when nil
}

// User is the account that a Mac's user channel speaks for.
type User struct {
	ID        string // GeneratedUID; the EnrollmentUserID in a User Enrollment
	ShortName string
	LongName  string
}

// Counters count what a device did since it was made.
type Counters struct {
	Requests     int64 // MDM requests sent, check-ins included
	Idles        int64 // polls with Status Idle that the server answered with 2xx
	Acknowledged int64 // results that the server took, by status
	Errors       int64
	NotNow       int64
	Commands     int64 // commands that the server delivered, again or for the first time
	Installs     int64 // profiles that were installed, by MDM or by hand; replacements count, renewals don't
	Breaks       int64 // sessions that Conduct broke off
	Failures     int64 // MDM requests that failed: no answer, or a status other than 2xx
}

func (c *Counters) add(d Counters) {
	c.Requests += d.Requests
	c.Idles += d.Idles
	c.Acknowledged += d.Acknowledged
	c.Errors += d.Errors
	c.NotNow += d.NotNow
	c.Commands += d.Commands
	c.Installs += d.Installs
	c.Breaks += d.Breaks
	c.Failures += d.Failures
}

type counters struct {
	requests, idles, acknowledged, errors, notNow, commands, installs, breaks, failures atomic.Int64
}

// Device is one simulated device. Its methods may be called from several
// goroutines; a step waits for none of the others.
type Device struct {
	opts       Options
	imei       string
	count      counters
	lastStatus atomic.Int64
	channel    *Channel
	byod       atomic.Bool // the enrollment, or the next one, is a User Enrollment
	signing    sync.Mutex  // one refresh or sign-in at a time

	mu           sync.Mutex
	condition    condition
	state        State
	profile      *Profile
	enrollmentID string
	identity     *identity
	builtin      *BuiltIn // made up
	renewal      *renewal
	userChannel  *Channel
	unlockToken  []byte
	installed    []installedProfile
	mode         string // EnrollmentMode of an account-driven enrollment, else empty
	token        Token
	posted       []byte       // of the last enrollment POST
	plain        *http.Client // without client certificate
}

// identity is a certificate, its key and the connections that offer it.
type identity struct {
	cert   *x509.Certificate
	key    crypto.Signer
	client *http.Client // built when needed
}

// NewDevice returns a device as it leaves the box.
func NewDevice(o Options) (*Device, error) {
	if o.Model == "" {
		o.Model = IPhone
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Rand == nil {
		o.Rand = rand.Reader
	}
	hw := o.Model.hardware()
	var err error
	if o.UDID == "" {
		if o.UDID, err = o.Model.newUDID(o.Rand); err != nil {
			return nil, err
		}
	}
	if o.Serial == "" {
		if o.Serial, err = newSerial(o.Rand); err != nil {
			return nil, err
		}
	}
	if o.Name == "" {
		o.Name = "Simulated " + string(o.Model)
	}
	if o.OSVersion == "" {
		o.OSVersion = hw.os
	}
	if o.Build == "" {
		o.Build = hw.build
	}
	if o.User == nil {
		if o.User, err = newUser(o.Rand); err != nil {
			return nil, err
		}
	}
	d := &Device{opts: o, condition: newCondition(o)}
	d.byod.Store(o.UserEnrollment)
	digits, err := readRandom(o.Rand, 12)
	if err != nil {
		return nil, err
	}
	d.imei = "35"
	for _, b := range digits {
		d.imei += string('0' + rune(b%10))
	}
	if d.channel, err = newChannel(d, nil); err != nil {
		return nil, err
	}
	return d, nil
}

// newUser makes up the account of a Mac's installing user.
func newUser(random io.Reader) (*User, error) {
	id, err := newUUID(random)
	if err != nil {
		return nil, err
	}
	return &User{ID: id, ShortName: "ana", LongName: "Ana Example"}, nil
}

// Options returns what the device was made of, made-up values included.
func (d *Device) Options() Options { return d.opts }

// State returns how far the device got.
func (d *Device) State() State {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.state
}

// Counters returns what the device did so far.
func (d *Device) Counters() Counters {
	return Counters{
		Requests: d.count.requests.Load(), Idles: d.count.idles.Load(), Acknowledged: d.count.acknowledged.Load(),
		Errors: d.count.errors.Load(), NotNow: d.count.notNow.Load(), Failures: d.count.failures.Load(),
		Commands: d.count.commands.Load(), Installs: d.count.installs.Load(), Breaks: d.count.breaks.Load(),
	}
}

// LastStatus is the HTTP status of the last MDM request, 0 before the first or
// when it had no answer.
func (d *Device) LastStatus() int { return int(d.lastStatus.Load()) }

// Profile is the enrollment profile, nil before Install.
func (d *Device) Profile() *Profile {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.profile
}

// Identity is the certificate and key that sign MDM requests, nil before
// RequestIdentity.
func (d *Device) Identity() (*x509.Certificate, crypto.Signer) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.identity == nil {
		return nil, nil
	}
	return d.identity.cert, d.identity.key
}

// SetIdentity replaces the identity, as an attacker with another certificate would.
func (d *Device) SetIdentity(cert *x509.Certificate, key crypto.Signer) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.identity = &identity{cert: cert, key: key}
	d.state = max(d.state, Identified)
}

// ID is what the server knows the device by: its UDID, or the EnrollmentID of
// its current User Enrollment.
func (d *Device) ID() string {
	for _, id := range d.IDs() {
		return id.(string)
	}
	return ""
}

// IDs are the keys that name the device channel in every message.
func (d *Device) IDs() Dict {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.byod.Load() {
		return Dict{"EnrollmentID": d.enrollmentID}
	}
	return Dict{"UDID": d.opts.UDID}
}

// Channel is the device channel.
func (d *Device) Channel() *Channel { return d.channel }

// User is the user channel of a Mac whose enrollment profile has PayloadScope
// User and announces com.apple.mdm.per-user-connections; nil in all other cases.
func (d *Device) User() *Channel {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.userChannel
}

// Enroll does all that follows a tap on "Install": it fetches the profile,
// installs it, gets an identity by SCEP, authenticates and sends its token; on a
// Mac with a user channel, that one's too. After a failure nothing of the
// profile stays. It sends no Idle: Poll does.
func (d *Device) Enroll(ctx context.Context, profileURL string, opts ...SCEPOption) error {
	raw, err := d.Download(ctx, profileURL)
	if err != nil {
		return err
	}
	return d.EnrollProfile(ctx, raw, opts...)
}

// EnrollProfile is Enroll with a profile that was fetched before. One that asks the device
// what it is first leads to the other, see [Device.Deliver].
func (d *Device) EnrollProfile(ctx context.Context, profile []byte, opts ...SCEPOption) error {
	if IsProfileService(profile) {
		var err error
		if profile, err = d.Deliver(ctx, profile); err != nil {
			return err
		}
	}
	return d.enroll(ctx, func() error { return d.Install(profile) }, opts...)
}

func (d *Device) enroll(ctx context.Context, install func() error, opts ...SCEPOption) error {
	if err := install(); err != nil {
		return err
	}
	return d.Resume(ctx, opts...)
}

// Resume goes on with an enrollment whose profile is installed: with the next step that the
// server has not accepted yet. It is for [Options].Patient.
func (d *Device) Resume(ctx context.Context, opts ...SCEPOption) error {
	if d.unmanaged() {
		return ErrNotInstalled
	}
	err := d.resume(ctx, opts...)
	if err != nil && !errors.Is(err, ErrRemoved) && (!d.opts.Patient || !noAnswer(err)) {
		d.uninstall(New)
	}
	return err
}

func (d *Device) resume(ctx context.Context, opts ...SCEPOption) error {
	steps := []func() error{
		func() error { return d.RequestIdentity(ctx, opts...) },
		func() error { return d.Authenticate(ctx) },
		func() error { return d.TokenUpdate(ctx) },
	}
	for _, step := range steps[min(int(d.State()-Installed), len(steps)):] {
		if err := step(); err != nil {
			return err
		}
	}
	if user := d.User(); user != nil && !user.isAnnounced() {
		return user.TokenUpdate(ctx)
	}
	return nil
}

// Download fetches an enrollment profile as Safari does.
func (d *Device) Download(ctx context.Context, profileURL string) ([]byte, error) {
	if err := checkURL(profileURL, d.opts.PlainHTTP); err != nil {
		return nil, fmt.Errorf("download: %w", err)
	}
	client, err := d.clientFor(nil)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, profileURL, nil)
	if err != nil {
		return nil, fmt.Errorf("download: %w", err)
	}
	req.Header.Set("User-Agent", d.opts.Model.hardware().browser)
	req.Header.Set("Accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8")
	reply, err := roundTrip(client, req)
	if err == nil {
		err = reply.err()
	}
	if err != nil {
		return nil, fmt.Errorf("download: %w", err)
	}
	if kind := mediaType(reply.Header); kind != profileType {
		return nil, fmt.Errorf("download: Content-Type %q is no profile", kind)
	}
	return reply.Body, nil
}

// Install checks an enrollment profile and takes it, roots included. A User
// Enrollment gets its new EnrollmentID here.
func (d *Device) Install(raw []byte) error {
	if d.unmanaged() {
		d.byod.Store(d.opts.UserEnrollment)
	}
	rules := d.rules()
	rules.Mode = ""
	p, err := ParseProfile(raw, rules)
	if err != nil {
		return err
	}
	return d.install(p, "")
}

// unmanaged reports whether the device would take an enrollment profile.
func (d *Device) unmanaged() bool {
	s := d.State()
	return s == New || s == Removed || s == Erased
}

func (d *Device) errManaged() error {
	return fmt.Errorf("install: the device is %v already; a second MDM profile is refused", d.State())
}

// install takes an enrollment profile; mode is its EnrollmentMode if it came by
// account.
func (d *Device) install(p *Profile, mode string) error {
	if !d.unmanaged() {
		return d.errManaged()
	}
	id, err := newUUID(d.opts.Rand)
	if err != nil {
		return err
	}
	unlock, err := readRandom(d.opts.Rand, 256)
	if err != nil {
		return err
	}
	if err := d.channel.reset(); err != nil {
		return err
	}
	var user *Channel
	// A profile installed by hand needs the scope User, one that came by account only
	// must not ask for the other (PROTOCOL 3.1, 9).
	perUser := p.Scope == "User" || mode != "" && p.Scope == ""
	if d.opts.Model == Mac && perUser && p.MDM.PerUser() {
		if user, err = newChannel(d, d.opts.User); err != nil {
			return err
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.profile, d.enrollmentID, d.unlockToken, d.userChannel = p, id, unlock, user
	d.identity, d.renewal = nil, nil
	if d.mode = mode; mode == "" {
		d.token = Token{}
	}
	d.state = Installed
	d.dropClients()
	return nil
}

func (d *Device) rules() Rules {
	d.mu.Lock()
	mode := d.mode
	d.mu.Unlock()
	return Rules{
		Model: d.opts.Model, UserEnrollment: d.byod.Load(), Mode: mode,
		PlainHTTP: d.opts.PlainHTTP, AnyEnrollment: d.opts.AnyEnrollment,
		OSVersion: d.opts.OSVersion, Supervised: d.opts.Supervised, Unapproved: d.opts.Unapproved,
		ByProfile: d.opts.knowsManagedAppleID(),
	}
}

// knowsManagedAppleID says whether the system is one of those that had a User Enrollment
// by profile.
func (o Options) knowsManagedAppleID() bool {
	text, _, _ := strings.Cut(o.OSVersion, ".")
	major, err := strconv.Atoi(text)
	switch {
	case err != nil:
		return false
	case o.Model == Mac:
		return major >= 11 && major <= 14 || strings.HasPrefix(o.OSVersion, "10.15")
	}
	return major >= 13 && major <= 17
}

// RequestIdentity gets the identity certificate that the profile's SCEP payload
// describes. Options are for tests; see [SCEPOption].
func (d *Device) RequestIdentity(ctx context.Context, opts ...SCEPOption) error {
	p := d.Profile()
	if p == nil {
		return ErrNotInstalled
	}
	id, err := d.scep(ctx, p, opts...)
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.identity, d.state = id, Identified
	return nil
}

// SCEP is the client that the profile's payload describes, see [Profile].SCEP.
func (d *Device) SCEP(p *Profile) (*SCEP, error) {
	client, err := d.clientFor(nil)
	if err != nil {
		return nil, err
	}
	return d.scepClient(client, p.SCEP), nil
}

// Request makes the SCEP request that p asks the device for, with a new key.
func (d *Device) Request(s *SCEP, p *Profile, opts ...SCEPOption) (*SCEPRequest, error) {
	return d.scepRequest(s, p.SCEP, opts...)
}

func (d *Device) scep(ctx context.Context, p *Profile, opts ...SCEPOption) (*identity, error) {
	client, err := d.clientFor(nil)
	if err != nil {
		return nil, err
	}
	cert, key, err := d.certificate(ctx, client, p.SCEP, opts...)
	if err != nil {
		return nil, err
	}
	return &identity{cert: cert, key: key}, nil
}

// uninstall takes the profile away, and with it all that came over MDM. Identity
// and ids stay, for tests that replay.
func (d *Device) uninstall(to State) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.state, d.renewal = to, nil
	if to == Erased {
		d.installed, d.condition = nil, newCondition(d.opts)
	} else {
		d.installed = slices.DeleteFunc(d.installed, func(p installedProfile) bool { return !p.byHand })
		d.condition.unmanage()
	}
	d.dropClients()
}

// advance moves the state forward, never back from Removed or Erased.
func (d *Device) advance(to State) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.state < to {
		d.state = to
	}
}
