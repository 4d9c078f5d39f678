package enroll

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"time"

	"github.com/gatehouse-mdm/gatehouse/depot"
	"github.com/gatehouse-mdm/gatehouse/enroll/machineinfo"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/event"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/seal"
)

// Paths of the device protocol. They stand in every profile that was ever handed
// out, so they are constant for ever.
const (
	PathCheckIn = "/mdm/checkin"
	PathConnect = "/mdm/connect"
	PathSCEP    = "/scep"
)

// AuthorityName is what enrollment profiles call the identity CA: what devices send as
// message= with GetCACert.
const AuthorityName = "Gatehouse"

// AllRights is every bit of AccessRights (PROTOCOL 3.3).
const AllRights = 8191

// Signer signs a profile, so that the device can tell whose it is.
type Signer func(profile []byte) (signed []byte, err error)

// Payloads is told what becomes of devices that may have payload certificates, in the
// transaction in which it happens.
type Payloads interface {
	// Answered follows up the final answer to a command.
	Answered(tx storage.Tx, e mdm.Entry) error
	// DeviceGone follows up the end of an enrollment, or its beginning anew.
	DeviceGone(tx storage.Tx, id mdm.DeviceID) error
	// Suspended follows up that a device's user may not have it for now: it gets no payload
	// certificates, until the user may again.
	Suspended(tx storage.Tx, id mdm.DeviceID) error
	// Assigned returns up to limit certificates that devices are to have, and the cursor
	// of the next page, empty at the end. There may be fewer on a page that is not the last.
	Assigned(tx storage.Tx, cursor string, limit int) (page []Assigned, next string, err error)
	// RenewBy has a device sent another certificate of a template at a time, if that is
	// before it would be, and says whether it is.
	RenewBy(tx storage.Tx, template string, id mdm.DeviceID, at time.Time) (bool, error)
	// Revoked follows up the revocation of a certificate by hand.
	Revoked(tx storage.Tx, c depot.Certificate) error
}

// Inventory is told of enrollments whose devices are to be asked about themselves, in the
// transaction in which they begin or end. User channels are among them. *inventory.Service is
// one.
type Inventory interface {
	// Enrolled follows up that an enrollment is complete.
	Enrolled(tx storage.Tx, d mdm.Device) error
	// Left follows up the end of one: what is known of the device stays.
	Left(tx storage.Tx, id mdm.DeviceID) error
	// Forget follows up that the device begins anew.
	Forget(tx storage.Tx, id mdm.DeviceID) error
}

// Refusals takes the refusals of certificates, which have no transaction to be recorded
// in, for the audit log. *event.Recorder is one.
type Refusals interface {
	Refused(ctx context.Context, e event.Event)
}

// Config says what a Service needs. Payloads, Inventory, Refusals, Tokens, Tap, DeviceCAs,
// Organisation, IncludeRoot and Demo may be zero.
type Config struct {
	DB       storage.DB
	Box      *seal.Box
	Depot    *depot.Depot
	MDM      *mdm.Service
	Topics   Topics
	Sign     Signer
	Payloads Payloads
	// Inventory, if it is nil, keeps nothing but a device's record, and asks nothing.
	Inventory Inventory
	Refusals  Refusals
	Tokens    Tokens
	// Tap hears what devices say. If it has a method Reads() []storage.Read, that names what its
	// Wants reads, and no poll waits for it.
	Tap mdm.Tap

	// DeviceCAs are who issues identities to devices; nil: Apple.
	DeviceCAs *machineinfo.Authorities

	ServerURL    *url.URL    // what devices reach this server by; no path, no query
	Organisation string      // shown on the device where the settings name none
	IncludeRoot  bool        // put the organisation root in the profile, as TLS needs it in own-CA mode
	Demo         func() bool // devices of the demo enrol by account now, at DemoDomain; nil: they never do

	Log *slog.Logger
	Now func() time.Time
}

// Service takes devices in, lets them speak, and lets them go.
type Service struct {
	db     storage.DB
	box    *seal.Box
	depot  *depot.Depot
	mdm    *mdm.Service
	topics Topics
	sign   Signer

	payloads  Payloads
	inventory Inventory
	refusals  Refusals
	tokens    Tokens
	tap       mdm.Tap

	deviceCAs machineinfo.Authorities

	serverURL    *url.URL
	organisation string
	includeRoot  bool
	demo         func() bool

	log *slog.Logger
	now func() time.Time

	acquainted acquaintances
	unwakeable unwakeable
}

// New returns a Service, or says what c lacks.
func New(c Config) (*Service, error) {
	switch {
	case c.DB == nil || c.Box == nil || c.Depot == nil || c.MDM == nil || c.Topics == nil || c.Sign == nil:
		return nil, errors.New("enroll: DB, Box, Depot, MDM, Topics and Sign are required")
	case c.ServerURL == nil || c.Log == nil || c.Now == nil:
		return nil, errors.New("enroll: ServerURL, Log and Now are required")
	}
	if c.Payloads == nil {
		c.Payloads = noPayloads{}
	}
	if c.Inventory == nil {
		c.Inventory = noInventory{}
	}
	if c.Refusals == nil {
		c.Refusals = noRefusals{}
	}
	if c.Demo == nil {
		c.Demo = func() bool { return false }
	}
	if c.DeviceCAs == nil {
		apple, err := machineinfo.Apple()
		if err != nil {
			return nil, err
		}
		c.DeviceCAs = &apple
	}
	return &Service{
		payloads: c.Payloads, inventory: c.Inventory, refusals: c.Refusals, tokens: c.Tokens, tap: c.Tap, deviceCAs: *c.DeviceCAs,
		db: c.DB, box: c.Box, depot: c.Depot, mdm: c.MDM, topics: c.Topics, sign: c.Sign,
		serverURL: c.ServerURL, organisation: c.Organisation, includeRoot: c.IncludeRoot, demo: c.Demo,
		log: c.Log, now: c.Now,
	}, nil
}

// noPayloads is for a server without payload certificates.
type noPayloads struct{}

func (noPayloads) Assigned(storage.Tx, string, int) ([]Assigned, string, error) { return nil, "", nil }
func (noPayloads) RenewBy(storage.Tx, string, mdm.DeviceID, time.Time) (bool, error) {
	return false, nil
}
func (noPayloads) Answered(storage.Tx, mdm.Entry) error        { return nil }
func (noPayloads) DeviceGone(storage.Tx, mdm.DeviceID) error   { return nil }
func (noPayloads) Suspended(storage.Tx, mdm.DeviceID) error    { return nil }
func (noPayloads) Revoked(storage.Tx, depot.Certificate) error { return nil }

// noInventory is for a server that asks devices nothing by itself.
type noInventory struct{}

func (noInventory) Enrolled(storage.Tx, mdm.Device) error       { return nil }
func (noInventory) Left(storage.Tx, mdm.DeviceID) error         { return nil }
func (noInventory) Forget(tx storage.Tx, id mdm.DeviceID) error { return mdm.ForgetAttributes(tx, id) }

// noRefusals is for a server that keeps no record of them.
type noRefusals struct{}

func (noRefusals) Refused(context.Context, event.Event) {}

// NewEnrollment makes an attempt by the link with a code, and returns the
// signed enrollment profile for it. Each call is a new attempt with a challenge of
// its own. Its errors wrap one of the ErrLink errors, ErrLoginRequired, ErrServiceRequired,
// ErrUserDisabled, ErrOwnershipOff, ErrNoPushCertificate or [identity.ErrMayNotEnroll].
func (s *Service) NewEnrollment(ctx context.Context, code string) (signed []byte, a Attempt, err error) {
	row, secret := newChallenge(challenge{ExpiresAt: s.now().UTC().Add(challengeLife)})
	id := newID()
	var organisation string
	err = s.db.Update(ctx, func(tx storage.Tx) error {
		l, err := s.findLink(tx, code)
		if err != nil {
			return err
		}
		if l.Login != LoginNone {
			return ErrLoginRequired
		}
		settings, err := GetSettings(tx)
		if err != nil {
			return err
		}
		// Whoever fetches it here would go round what the portal has every device prove.
		if settings.ProfileService && settings.DeviceSignature == SignatureRequire {
			return ErrServiceRequired
		}
		now := s.now()
		a = Attempt{
			ID: id, LinkID: l.ID, Ownership: cmp.Or(l.Ownership, settings.Ownerships()[0]), Demo: l.Demo,
			StageAt: make(map[Stage]time.Time),
		}
		a.AccessRights = settings.Way(a.Ownership).Rights.Bits()
		organisation = cmp.Or(settings.Organisation.Name, s.organisation)
		for _, st := range []Stage{Opened, Authenticated, ProfileDownloaded} {
			a.enter(st, now)
		}
		if err := mayEnroll(tx, settings, l.User, a.Ownership); err != nil {
			return err
		}
		if a.User, err = loginOf(tx, l.User); err != nil {
			return err
		}
		if a.Topic, err = s.topic(tx, settings); err != nil {
			return err
		}
		if err := attempts.Create(tx, a); err != nil {
			return err
		}
		row.AttemptID = id
		return challenges.Create(tx, row)
	})
	if err == nil {
		err = s.stillUsable(ctx, a)
	}
	if err != nil {
		return nil, Attempt{}, fmt.Errorf("new enrollment: %w", err)
	}
	signed, err = s.signedProfile(ctx, profileFor{
		organisation: organisation,
		subject:      grant{attempt: a}.subject(organisation), challenge: secret, topic: a.Topic, accessRights: a.AccessRights,
	})
	if err != nil {
		return nil, Attempt{}, fmt.Errorf("new enrollment: %w", err)
	}
	s.log.InfoContext(ctx, "enrollment profile handed out", "attempt", a.ID, "link", a.LinkID)
	s.warnUnwakeable(ctx, a)
	return signed, a, nil
}

// stillUsable fails a new attempt whose link was ended by a transaction that ran at the
// same time, and so could not see it.
func (s *Service) stillUsable(ctx context.Context, a Attempt) error {
	var l Link
	err := s.db.View(ctx, func(tx storage.Tx) (err error) {
		l, err = links.Get(tx, a.LinkID)
		return err
	})
	if err != nil {
		return err
	}
	why := l.Usable(s.now())
	if why != nil {
		s.failLateAttempts(ctx, l.ID, why)
	}
	return why
}
