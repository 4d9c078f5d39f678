package enroll

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

// Errors of a person's way through the portal, beside those of links.
var (
	// ErrServiceRequired means that a profile is to be had at the portal only, where the
	// device says first what it is.
	ErrServiceRequired = errors.New("the device must say what it is first: the link must be opened in a browser")

	// ErrPortalClosed means that nobody enrols without a link.
	ErrPortalClosed = errors.New("the portal takes nobody without an enrollment link")

	// ErrAttemptOver means that an attempt has gone too far, or has failed, for what is
	// asked of it.
	ErrAttemptOver = errors.New("the attempt is past this step")

	// ErrNotReady means that an attempt has not come as far as what is asked of it.
	ErrNotReady = errors.New("the attempt is not at this step yet")

	// ErrOtherPerson means that another person began the attempt.
	ErrOtherPerson = errors.New("another person began the attempt")
)

// Visit is what a person at the portal adds to an attempt.
type Visit struct {
	Code     string `json:"code"`              // short, to find the attempt from another browser
	MayAsk   bool   `json:"may_ask,omitempty"` // the person says whose device it is: the link does not
	Platform string `json:"platform,omitempty"`
	Major    int    `json:"major,omitempty"` // of the system's version; 0: not known

	// UserEnrollment says that the profile is one for User Enrollment by profile.
	UserEnrollment      bool   `json:"user_enrollment,omitempty"`
	ManagedAppleAccount string `json:"managed_apple_account,omitempty"`

	// AccountDriven says that the person was led to the device's settings, to sign in there.
	AccountDriven bool `json:"account_driven,omitempty"`

	// Declined says that the person was offered a User Enrollment, and preferred another.
	Declined bool `json:"declined,omitempty"`

	CertificateAt time.Time `json:"certificate_at,omitzero"` // the CA profile was downloaded
	TrustedAt     time.Time `json:"trusted_at,omitzero"`     // the device trusts the CA, or the person says so
	AgreedAt      time.Time `json:"agreed_at,omitzero"`      // to the organisation's terms
}

// NewVisit describes who comes to the portal.
type NewVisit struct {
	LinkCode string // empty: without a link
	Platform string // "ios", "ipados", "macos", "visionos"; empty: not known
	Major    int    // of the system's version; 0: not known
}

// BeginVisit opens an attempt for a person at the portal. Its errors wrap one of the ErrLink
// errors, ErrUserDisabled, ErrOwnershipOff or ErrPortalClosed, or, where the link asks nobody
// to sign in, [identity.ErrMayNotEnroll].
func (s *Service) BeginVisit(ctx context.Context, n NewVisit) (a Attempt, err error) {
	id, code := newID(), newShortCode()
	err = s.db.Update(ctx, func(tx storage.Tx) error {
		settings, err := GetSettings(tx)
		if err != nil {
			return err
		}
		now := s.now()
		a = Attempt{
			ID: id, StageAt: make(map[Stage]time.Time),
			Visit: &Visit{Code: code, MayAsk: true, Platform: n.Platform, Major: n.Major},
		}
		a.enter(Opened, now)
		known := false
		if n.LinkCode != "" {
			l, err := s.findLink(tx, n.LinkCode)
			if err != nil {
				return err
			}
			known = l.Login == LoginNone
			// Groups are read at sign-in: who is about to sign in may be in another one by now.
			if err := mayEnroll(tx, settings, l.User, l.Ownership); err != nil && (known || !errors.Is(err, identity.ErrMayNotEnroll)) {
				return err
			}
			if a.User, err = loginOf(tx, l.User); err != nil {
				return err
			}
			a.LinkID, a.Ownership, a.Demo = l.ID, l.Ownership, l.Demo
			a.Visit.MayAsk = l.Ownership == ""
		} else if !settings.Portal {
			return ErrPortalClosed
		}
		if known {
			a.enter(Authenticated, now)
		} else {
			a.User = "" // until whoever it is has signed in
		}
		if a.Visit.MayAsk {
			a.settle(settings.Ownerships())
		}
		return attempts.Create(tx, a)
	})
	if err != nil {
		return Attempt{}, fmt.Errorf("begin visit: %w", err)
	}
	s.log.InfoContext(ctx, "enrollment begun", "attempt", a.ID, "link", a.LinkID, "platform", n.Platform, "major", n.Major)
	return a, nil
}

// settle takes the only ownership that can be, if there is only one.
func (a *Attempt) settle(choices []mdm.Ownership) {
	if len(choices) == 1 {
		a.Ownership, a.Visit.MayAsk = choices[0], false
	}
}

// step changes an attempt that a person has under way.
func (s *Service) step(ctx context.Context, what, id string, change func(tx storage.Tx, a *Attempt, settings Settings) error) (a Attempt, err error) {
	err = s.db.Update(ctx, func(tx storage.Tx) error {
		if a, err = attempts.Get(tx, id); err != nil {
			return err
		}
		if a.Visit == nil {
			return storage.ErrNotFound
		}
		visit := *a.Visit
		a.Visit = &visit
		settings, err := GetSettings(tx)
		if err != nil {
			return err
		}
		if err := change(tx, &a, settings); err != nil {
			return err
		}
		return putAttempt(tx, a)
	})
	if err != nil {
		return a, fmt.Errorf("%s: %w", what, err)
	}
	return a, nil
}

// SignedIn notes who the person is that makes an attempt. The same person may sign in
// again, at any time. Its errors wrap ErrLinkForeign, ErrOtherPerson, ErrUserDisabled,
// ErrOwnershipOff, [identity.ErrMayNotEnroll] or ErrAttemptOver.
func (s *Service) SignedIn(ctx context.Context, id string, u identity.User) (Attempt, error) {
	return s.step(ctx, "sign in to enrollment", id, func(tx storage.Tx, a *Attempt, settings Settings) error {
		if a.User != "" && !names(u.Logins(), a.User) {
			return ErrOtherPerson
		}
		if a.Stage != Opened {
			return nil
		}
		var l Link
		if a.LinkID != "" {
			var err error
			if l, err = links.Get(tx, a.LinkID); err != nil {
				return err
			}
			if err := l.Usable(s.now()); err != nil {
				return err
			}
			if l.User != "" && !names(u.Logins(), l.User) {
				return ErrLinkForeign
			}
		}
		if err := mayEnroll(tx, settings, u.Login(), ""); err != nil {
			return err
		}
		// What was the only one there is at the first page may be another one by now.
		a.Ownership, a.Visit.MayAsk = l.Ownership, l.Ownership == ""
		choices, err := choicesFor(tx, u.Login(), a.Ownership, settings)
		if err != nil {
			return err
		}
		a.User = u.Login()
		if a.Visit.MayAsk {
			a.settle(choices)
		}
		a.enter(Authenticated, s.now())
		return nil
	})
}

// choicesFor returns the ownerships that a person may choose: the one that is set
// already, or those that are enabled, as far as the person's account is good for them.
func choicesFor(tx storage.Tx, login string, set mdm.Ownership, settings Settings) (choices []mdm.Ownership, err error) {
	candidates := settings.Ownerships()
	if set != "" {
		candidates = []mdm.Ownership{set}
	}
	for _, o := range candidates {
		switch denied := identity.MayEnroll(tx, login, uses(o)); {
		case !settings.Way(o).Enabled:
			err = ErrOwnershipOff
		case denied == nil:
			choices = append(choices, o)
		case !errors.Is(denied, identity.ErrMayNotEnroll):
			return nil, denied
		default:
			err = denied
		}
	}
	if len(choices) > 0 {
		return choices, nil
	}
	return nil, err
}

// LedToSettings notes that the person was told to sign in on the device, with which the
// attempt goes on then.
func (s *Service) LedToSettings(ctx context.Context, id string) (Attempt, error) {
	return s.step(ctx, "lead to settings", id, func(_ storage.Tx, a *Attempt, _ Settings) error {
		switch {
		case a.Stage == Opened || a.Ownership == "":
			return ErrNotReady
		case !a.open():
			return ErrAttemptOver
		}
		a.Visit.AccountDriven = true
		return nil
	})
}

// Choice is what a person says of the device.
type Choice struct {
	Ownership mdm.Ownership // of those that Options offers

	// UserEnrollment asks for a User Enrollment by profile, with this Managed Apple Account.
	UserEnrollment      bool
	ManagedAppleAccount string

	// Declined says that the person was offered one, and prefers a Device Enrollment.
	Declined bool

	Agreed bool // to the terms
}

// Choose notes what the person said of the device. It may be said again until a
// certificate is issued: a profile that was downloaded before is good for nothing then.
// Its errors wrap *FieldError, ErrNotReady or ErrAttemptOver.
func (s *Service) Choose(ctx context.Context, id string, c Choice) (Attempt, error) {
	return s.step(ctx, "choose how to enroll", id, func(tx storage.Tx, a *Attempt, settings Settings) error {
		switch {
		case a.Stage == Opened:
			return ErrNotReady
		case !a.open():
			return ErrAttemptOver
		}
		before := *a.Visit
		owned := a.Ownership
		if c.Ownership != "" && c.Ownership != a.Ownership {
			set := a.Ownership
			if a.Visit.MayAsk {
				set = ""
			}
			choices, err := choicesFor(tx, a.User, set, settings)
			if err != nil {
				return err
			}
			if !slices.Contains(choices, c.Ownership) {
				return &FieldError{"ownership", "can't be chosen here"}
			}
			a.Ownership = c.Ownership
		}
		a.Visit.UserEnrollment = c.UserEnrollment
		a.Visit.ManagedAppleAccount = ""
		a.Visit.Declined = c.Declined && !c.UserEnrollment
		if c.Declined || c.UserEnrollment {
			a.Visit.AccountDriven = false // whoever signs in on a device now does it for another one
		}
		if c.UserEnrollment {
			account, err := checkAccount(tx, c.ManagedAppleAccount, a.User, settings)
			if err != nil {
				return err
			}
			if a.Ownership != mdm.Personal {
				return &FieldError{"ownership", "must be personal for a User Enrollment"}
			}
			a.Visit.ManagedAppleAccount = account
		}
		if c.Agreed && a.Visit.AgreedAt.IsZero() {
			a.Visit.AgreedAt = s.now().UTC()
		}
		changed := owned != a.Ownership || before.UserEnrollment != a.Visit.UserEnrollment ||
			before.ManagedAppleAccount != a.Visit.ManagedAppleAccount
		if changed && a.Stage == ProfileDownloaded {
			a.back(s.now())
		}
		return nil
	})
}

// checkAccount returns a Managed Apple Account that the user with a login typed, if it may
// be theirs.
func checkAccount(tx storage.Tx, account, login string, settings Settings) (string, error) {
	account = strings.TrimSpace(account)
	_, domain, _ := strings.Cut(strings.ToLower(account), "@")
	switch {
	case account == "":
		return "", &FieldError{"managed_apple_account", "is required"}
	case !identity.IsAddress(account):
		return "", &FieldError{"managed_apple_account", "must be an address such as ana@example.com"}
	case len(settings.AccountDomains) > 0 && !slices.Contains(settings.AccountDomains, domain):
		return "", &FieldError{"managed_apple_account", "must end with @" + strings.Join(settings.AccountDomains, " or @")}
	}
	owner, err := identity.UserByAppleAccount(tx, account)
	if err != nil && !errors.Is(err, storage.ErrNotFound) {
		return "", err
	}
	person, err := identity.UserByLogin(tx, login)
	if err != nil && !errors.Is(err, storage.ErrNotFound) {
		return "", err
	}
	if owner.ID != "" && owner.ID != person.ID || owner.ID == "" && person.ManagedAppleAccount != "" {
		return "", &FieldError{"managed_apple_account", "must be the one of the person who enrolls"}
	}
	return account, nil
}

// CertificateDownloaded notes that the person has the CA's profile.
func (s *Service) CertificateDownloaded(ctx context.Context, id string) (Attempt, error) {
	return s.step(ctx, "note download of the CA", id, func(_ storage.Tx, a *Attempt, _ Settings) error {
		a.Visit.CertificateAt = s.now().UTC()
		return nil
	})
}

// Trusts notes that the device trusts the CA, as far as can be told.
func (s *Service) Trusts(ctx context.Context, id string) (Attempt, error) {
	return s.step(ctx, "note trust in the CA", id, func(_ storage.Tx, a *Attempt, _ Settings) error {
		if a.Visit.TrustedAt.IsZero() {
			a.Visit.TrustedAt = s.now().UTC()
		}
		return nil
	})
}

// VisitProfile returns the signed profile that the person of an attempt downloads, with
// secrets of its own each time: the enrollment profile, or, where the settings say so, the
// payload by which the device says first what it is ([Service.Deliver]). A User Enrollment
// is none that does: its device keeps that to itself. Its errors wrap ErrNotReady,
// ErrAttemptOver, ErrUserDisabled, ErrOwnershipOff, [identity.ErrMayNotEnroll] or one of the
// ErrLink errors.
func (s *Service) VisitProfile(ctx context.Context, id string) (signed []byte, a Attempt, err error) {
	row, secret := newChallenge(challenge{AttemptID: id, ExpiresAt: s.now().UTC().Add(challengeLife)})
	d, token, asked := s.newDelivery(id)
	var asks bool
	var organisation string
	a, err = s.step(ctx, "enrollment profile", id, func(tx storage.Tx, a *Attempt, settings Settings) (err error) {
		if err := s.mayHaveProfile(tx, *a, settings); err != nil {
			return err
		}
		if err := s.linkServes(tx, *a); err != nil {
			return err
		}
		if a.Account != nil { // the person has signed in on the device, and prefers a profile after all
			a.Account = nil
			a.Round++
			if err := endAuthorizations(tx, authorization{AttemptID: a.ID}.holder(), ""); err != nil {
				return err
			}
		}
		organisation = cmp.Or(settings.Organisation.Name, s.organisation)
		a.ErrorCode = ""
		if asks = settings.ProfileService && !a.Visit.UserEnrollment; asks {
			a.enter(ProfileDownloaded, s.now())
			d.Round, a.Delivery = a.Round, d.Token
			if err := a.hand(tx, d.Token); err != nil {
				return err
			}
			return deliveries.Put(tx, d)
		}
		a.Stated, a.Before = nil, nil
		return s.offer(tx, a, settings, row)
	})
	if err == nil && a.LinkID != "" && !a.Spent {
		err = s.stillUsable(ctx, a)
	}
	if err != nil {
		return nil, a, err
	}
	if asks {
		if signed, err = s.signedService(token, asked, organisation); err != nil {
			return nil, a, fmt.Errorf("profile service: %w", err)
		}
		s.log.InfoContext(ctx, "profile service handed out", "attempt", a.ID, "link", a.LinkID)
		return signed, a, nil
	}
	signed, err = s.signedProfile(ctx, profileFor{
		organisation: organisation, subject: grant{attempt: a}.subject(organisation), challenge: secret, topic: a.Topic,
		accessRights: a.AccessRights, userEnrollment: a.Visit.UserEnrollment, managedAccount: a.Visit.ManagedAppleAccount,
	})
	if err != nil {
		return nil, a, fmt.Errorf("enrollment profile: %w", err)
	}
	s.log.InfoContext(ctx, "enrollment profile handed out", "attempt", a.ID, "link", a.LinkID)
	s.warnUnwakeable(ctx, a)
	return signed, a, nil
}

// mayHaveProfile says whether the person of a may be given a profile now.
func (s *Service) mayHaveProfile(tx storage.Tx, a Attempt, settings Settings) error {
	switch {
	case a.Stage == Opened || a.Ownership == "":
		return ErrNotReady
	case !a.open():
		return ErrAttemptOver
	}
	return mayEnroll(tx, settings, a.User, a.Ownership)
}

// linkServes says whether the link of a, if it has one, is good for it still.
func (s *Service) linkServes(tx storage.Tx, a Attempt) error {
	if a.LinkID == "" {
		return nil
	}
	l, err := links.Get(tx, a.LinkID)
	if err != nil {
		return err
	}
	if err := l.Usable(s.now()); err != nil && (!a.Spent || !errors.Is(err, ErrLinkUsedUp)) {
		return err
	}
	return nil
}

// offer notes what is in the enrollment profile of a, and that row is its challenge. Those
// of before are good for nothing if they have other rights: a device is taken for one that
// has what is noted.
func (s *Service) offer(tx storage.Tx, a *Attempt, settings Settings, row challenge) (err error) {
	rights := settings.Way(a.Ownership).Rights.Bits()
	if a.Visit.UserEnrollment {
		rights = 0
	}
	if a.AccessRights != 0 && a.AccessRights != rights {
		a.Round++
	}
	a.AccessRights, row.Round = rights, a.Round
	if a.Topic, err = s.topic(tx, settings); err != nil {
		return err
	}
	a.enter(ProfileDownloaded, s.now())
	if err := a.hand(tx, row.Hash); err != nil {
		return err
	}
	return challenges.Put(tx, row)
}

// TryAgain lets the person download another profile, after an installation that failed
// on the device: what was issued for the attempt is revoked, and it takes no second use off
// its link. An attempt whose device has checked in is ErrAttemptOver; one that has failed
// for good, too.
func (s *Service) TryAgain(ctx context.Context, id string) (Attempt, error) {
	return s.step(ctx, "try enrollment again", id, func(tx storage.Tx, a *Attempt, _ Settings) error {
		switch a.Stage {
		case ProfileDownloaded, IdentityIssued:
		case Opened, Authenticated:
			return nil
		default:
			return ErrAttemptOver
		}
		if a.Account != nil { // the next sign-in on the device is another one
			a.Account = nil
			if err := endAuthorizations(tx, authorization{AttemptID: a.ID}.holder(), ""); err != nil {
				return err
			}
		}
		return s.takeBack(tx, a, actor(ctx))
	})
}

// back returns an attempt to the step before the profile: those that were downloaded are
// good for nothing any more.
func (a *Attempt) back(now time.Time) {
	a.Round++
	a.Stated, a.Before, a.ErrorCode, a.AccessRights = nil, nil, "", 0
	delete(a.StageAt, ProfileDownloaded)
	delete(a.StageAt, IdentityIssued)
	a.enter(Authenticated, now)
}

// Options are what the person of an attempt may choose.
type Options struct {
	Ownerships []mdm.Ownership
	// ManagedAppleAccount is the person's, as far as it is known.
	ManagedAppleAccount string
	// Devices are what the person has enrolled: one of them may be the one at hand.
	Devices []mdm.Device
}

// Options returns what the person of an attempt may choose.
func (s *Service) Options(ctx context.Context, a Attempt) (o Options, err error) {
	err = s.db.View(ctx, func(tx storage.Tx) error {
		o = Options{}
		settings, err := GetSettings(tx)
		if err != nil {
			return err
		}
		set := a.Ownership
		if a.Visit != nil && a.Visit.MayAsk {
			set = ""
		}
		if o.Ownerships, err = choicesFor(tx, a.User, set, settings); err != nil || a.User == "" {
			return err
		}
		u, err := identity.UserByLogin(tx, a.User)
		if err != nil && !errors.Is(err, storage.ErrNotFound) {
			return err
		}
		o.ManagedAppleAccount = u.ManagedAppleAccount
		if u.ID == "" {
			u.Username = a.User // one that we don't know
		}
		theirs, err := devicesOf(tx, u)
		for _, d := range theirs {
			if d.Live() {
				o.Devices = append(o.Devices, d)
			}
		}
		return err
	})
	if err != nil {
		return Options{}, fmt.Errorf("options of enrollment: %w", err)
	}
	return o, nil
}

// Followed is an attempt with what became of it.
type Followed struct {
	Attempt
	Device   *mdm.Overview // nil until it checked in
	Commands int           // that the device was asked in this enrollment, up to 100
	Finished int           // of these
}

// Follow returns an attempt as it is now. [Service.Watch] tells when to look again.
func (s *Service) Follow(ctx context.Context, id string) (f Followed, err error) {
	if f.Attempt, err = s.Attempt(ctx, id); err != nil {
		return Followed{}, err
	}
	if f.DeviceID == "" {
		return f, nil
	}
	d, err := s.mdm.Device(ctx, f.DeviceID)
	if errors.Is(err, storage.ErrNotFound) {
		return f, nil
	}
	if err != nil {
		return Followed{}, fmt.Errorf("follow enrollment: %w", err)
	}
	f.Device = &d
	if f.Stage != Enrolled {
		return f, nil
	}
	const most = 100
	entries, _, err := s.mdm.DeviceCommands(ctx, f.DeviceID, "", most)
	if err != nil {
		return Followed{}, fmt.Errorf("follow enrollment: %w", err)
	}
	for _, e := range entries {
		if e.CreatedAt.Before(d.AuthenticatedAt) {
			continue
		}
		f.Commands++
		if e.State.Final() {
			f.Finished++
		}
	}
	return f, nil
}

// Watch returns a channel that holds a value when an attempt may have changed, as
// [storage.DB.Watch] does. stop ends it.
func (s *Service) Watch(id string) (changed <-chan struct{}, stop func()) {
	return s.db.Watch(attemptTopic(id))
}
