package enroll

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/gatehouse-mdm/gatehouse/depot"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/event"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

// MaxTakeOver is how many devices one [Service.TakeOver] may be given.
const MaxTakeOver = 500

// DefaultClaims is how long the certificates of another server's authority may claim devices, if
// nobody says otherwise.
const DefaultClaims = 90 * 24 * time.Hour

// MaxClaims is the longest that they may.
const MaxClaims = 2 * 365 * 24 * time.Hour

// TakeOver says which devices come from another server.
type TakeOver struct {
	Source       string        // of what kind that server is: "micromdm", "nanomdm"; for people
	Profile      FormerProfile // by which they enrolled there
	AccessRights int           // in that; 0: AllRights
	Devices      []Former
	DryRun       bool // say what would become of them, and change nothing
}

// Former is a device as another server had it.
type Former struct {
	ID             mdm.AppleID
	Facts          mdm.Facts
	Push           mdm.Push
	UnlockToken    []byte
	BootstrapToken []byte
	Certificate    depot.Fingerprint // by which that server knew it; empty: unknown
	LastSeen       time.Time
	Blocked        bool         // that server would make it leave, and so do we
	Users          []FormerUser // who of its users have channels of their own
}

// FormerUser is a user of a device, as another server knew them.
type FormerUser struct {
	UserID, ShortName, LongName string
	Push                        mdm.Push
}

// Taken is what became of a device.
type Taken struct {
	ID      mdm.AppleID
	Device  mdm.DeviceID // empty if it was not taken and is not here
	Outcome TakeOverOutcome
	Code    string // of a device that was skipped: why, for programs
	Reason  string // for people
}

// TakeOverOutcome is what became of a device.
type TakeOverOutcome string

// The outcomes. One that was updated or unchanged had been taken over before.
const (
	TakenOver     TakeOverOutcome = "taken"
	TakenUpdate   TakeOverOutcome = "updated"
	TakenAlready  TakeOverOutcome = "unchanged" // it has come, and what is known here is newer
	TakeOverSkips TakeOverOutcome = "skipped"
)

// skip is why a device is not taken over.
type skip struct{ code, reason string }

func (s *skip) Error() string { return s.reason }

// errDryRun ends the transaction of a dry run.
var errDryRun = errors.New("dry run")

// TakeOver makes devices of another server known here, all in one transaction: each goes on by
// the certificate that it has, once it comes (see [Service.Arrive]). The same devices may be
// given again, and are then what the other server says last, until they have come. What is
// wrong with one device is no error. Errors are a *FieldError.
func (s *Service) TakeOver(ctx context.Context, t TakeOver) (all []Taken, err error) {
	t.Source = strings.TrimSpace(t.Source)
	switch {
	case t.Source == "" || len(t.Source) > 64:
		return nil, &FieldError{"source", "must name the other server, in at most 64 bytes"}
	case len(t.Profile.Identifier) > 255:
		return nil, &FieldError{"profile.identifier", "has more than 255 bytes"}
	case t.AccessRights < 0 || t.AccessRights > AllRights:
		return nil, &FieldError{"profile.access_rights", fmt.Sprintf("must be from 0 to %d", AllRights)}
	case len(t.Devices) > MaxTakeOver:
		return nil, &FieldError{"devices", fmt.Sprintf("must be at most %d at a time", MaxTakeOver)}
	}
	by := actor(ctx)
	err = s.db.Update(ctx, func(tx storage.Tx) error {
		all = make([]Taken, 0, len(t.Devices))
		count := map[TakeOverOutcome]int{}
		for _, f := range t.Devices {
			tx.Prefetch(mdm.ReadFindDevice(f.ID))
		}
		for _, f := range t.Devices {
			one := Taken{ID: f.ID}
			var no *skip
			switch one.Device, one.Outcome, err = s.takeOver(tx, t, f); {
			case errors.As(err, &no):
				one.Outcome, one.Code, one.Reason = TakeOverSkips, no.code, no.reason
			case err != nil:
				return err
			}
			count[one.Outcome]++
			all = append(all, one)
		}
		if t.DryRun {
			return errDryRun
		}
		if count[TakenOver]+count[TakenUpdate] == 0 {
			return nil
		}
		details := map[string]string{"source": t.Source}
		for outcome, n := range count {
			details[string(outcome)] = strconv.Itoa(n)
		}
		return event.Record(tx, event.Event{At: s.now().UTC(), Actor: by, Action: "migration.devices_taken", Details: details})
	})
	if err != nil && !errors.Is(err, errDryRun) {
		return nil, fmt.Errorf("take devices over: %w", err)
	}
	if !t.DryRun {
		s.log.InfoContext(ctx, "devices taken over", "source", t.Source, "devices", len(t.Devices), "by", by)
	}
	return all, nil
}

// takeOver is TakeOver of one device. An error that is a *skip has changed nothing.
func (s *Service) takeOver(tx storage.Tx, t TakeOver, f Former) (mdm.DeviceID, TakeOverOutcome, error) {
	if err := f.check(); err != nil {
		return "", "", err
	}
	d, a, err := s.awaited(tx, f)
	if err != nil || a != nil && !a.ArrivedAt.IsZero() {
		return d.ID, TakenAlready, err
	}
	if f.Certificate != "" {
		if err := s.expectedOfNoOther(tx, f.Certificate, d.ID); err != nil {
			return d.ID, "", err
		}
	}
	now := s.now().UTC()
	outcome := TakenUpdate
	if a == nil {
		outcome = TakenOver
		if d.ID == "" {
			d = mdm.Device{ID: mdm.DeviceID(newID()), CreatedAt: now}
		} else if err := s.startAfresh(tx, d); err != nil {
			return "", "", err
		}
		d = mdm.Device{ID: d.ID, CreatedAt: d.CreatedAt, AuthenticatedAt: now, EnrolledAt: now}
		a = &arrival{DeviceID: d.ID, TakenAt: now}
	}
	// Who tells less than somebody before does not make the device easier to claim.
	a.Source, a.Expected, a.Profile = t.Source, cmp.Or(string(f.Certificate), a.Expected), t.Profile
	d.AppleID, d.Type, d.Ownership, d.State = f.ID, mdm.TypeDevice, mdm.Institutional, mdm.Enrolled
	d.Topic, d.AccessRights, d.Identity, d.Push = f.Push.Topic, cmp.Or(t.AccessRights, AllRights), a.Expected, &f.Push
	if f.ID.EnrollmentID != "" {
		d.Type, d.Ownership, d.AccessRights = mdm.TypeUser, mdm.Personal, 0
	}
	clampFacts(&f.Facts)
	learnFacts(&d, f.Facts)
	if f.Blocked {
		d.State, d.Push, d.UnenrolledAt = mdm.Blocked, nil, now
	}
	if err := arrivals.Put(tx, *a); err != nil {
		return "", "", err
	}
	if err := mdm.PutDevice(tx, d); err != nil {
		return "", "", err
	}
	if err := s.mdm.Reachable(tx, d); err != nil {
		return "", "", err
	}
	if err := s.takeSecrets(tx, d, f); err != nil {
		return "", "", err
	}
	if !f.LastSeen.IsZero() {
		if err := mdm.SeenElsewhere(tx, d.ID, f.LastSeen); err != nil {
			return "", "", err
		}
	}
	if f.Blocked {
		return d.ID, outcome, nil
	}
	for _, u := range f.Users {
		if err := s.takeUser(tx, d, u); err != nil {
			return "", "", err
		}
	}
	return d.ID, outcome, nil
}

// check says what is wrong with what another server told of a device.
func (f Former) check() error {
	if err := f.ID.Validate(); err != nil || f.ID.UserID != "" {
		return &skip{"bad_identifier", "its identifier is none that Apple's devices have"}
	}
	if err := checkFormerPush(f.Push); err != nil && !f.Blocked {
		return err
	}
	switch {
	case f.Certificate != "" && !validFingerprint(f.Certificate):
		return &skip{"bad_certificate_hash", "the hash of its certificate is not a SHA-256"}
	case len(f.UnlockToken) > 64<<10 || len(f.BootstrapToken) > 64<<10:
		return &skip{"bad_token", "its UnlockToken or BootstrapToken is too long"}
	}
	for _, u := range f.Users {
		id := f.ID
		id.UserID = u.UserID
		if u.UserID == "" || id.Validate() != nil {
			return &skip{"bad_identifier", "a user of it has no identifier that Apple's devices use"}
		}
		if err := checkFormerPush(u.Push); err != nil {
			return err
		}
	}
	return nil
}

func validFingerprint(fp depot.Fingerprint) bool {
	return len(fp) == 64 && strings.Trim(string(fp), "0123456789abcdef") == ""
}

func checkFormerPush(p mdm.Push) error {
	switch {
	case p.Topic == "" || p.Magic == "" || len(p.Token) == 0:
		return &skip{"no_push", "the other server does not know how to wake it: its push token, magic or topic is missing"}
	case len(p.Topic) > maxPushText || len(p.Magic) > maxPushText || len(p.Token) > 1024:
		return &skip{"bad_push", "its push token, magic or topic is too long"}
	}
	return nil
}

// awaited finds what is known here of a device that another server had: no device, one that
// left, or one that was taken over before.
func (s *Service) awaited(tx storage.Tx, f Former) (mdm.Device, *arrival, error) {
	d, err := mdm.FindDevice(tx, f.ID)
	if errors.Is(err, storage.ErrNotFound) {
		return mdm.Device{}, nil, nil
	}
	if err != nil {
		return mdm.Device{}, nil, err
	}
	a, err := maybe(arrivals.Get(tx, string(d.ID)))
	if err != nil {
		return mdm.Device{}, nil, err
	}
	switch {
	case d.State == mdm.Blocked && !(f.Blocked && a != nil):
		return d, nil, &skip{"blocked", "it is blocked here"}
	case d.State == mdm.Unenrolled && (a != nil || !f.LastSeen.After(d.UnenrolledAt)):
		return d, nil, &skip{"unenrolled", "it was unenrolled here since the other server last heard of it"}
	case a == nil && (d.State == mdm.Enrolled || d.State == mdm.Pending):
		return d, nil, &skip{"enrolled", "it is enrolled here"}
	}
	return d, a, nil
}

// expectedOfNoOther refuses a certificate that is known here as something else.
func (s *Service) expectedOfNoOther(tx storage.Tx, fp depot.Fingerprint, id mdm.DeviceID) error {
	another := &skip{"certificate_taken", "its certificate is another device's here"}
	rec, err := s.depot.Get(tx, fp)
	if err == nil && (rec.DeviceID == "" || rec.DeviceID != string(id)) {
		return another
	}
	if err != nil && !errors.Is(err, storage.ErrNotFound) {
		return err
	}
	other, err := maybe(arrivals.One(tx, arrivalsExpected, string(fp)))
	if err == nil && other != nil && other.DeviceID != id {
		return another
	}
	return err
}

// takeSecrets keeps what a device entrusted to the other server. A second take-over that lacks
// one deletes none.
func (s *Service) takeSecrets(tx storage.Tx, d mdm.Device, f Former) error {
	if len(f.UnlockToken) > 0 && d.Type != mdm.TypeUser {
		if err := s.mdm.SetSecret(tx, d.ID, mdm.UnlockToken, f.UnlockToken); err != nil {
			return err
		}
	}
	if len(f.BootstrapToken) > 0 {
		return s.mdm.SetSecret(tx, d.ID, mdm.BootstrapToken, f.BootstrapToken)
	}
	return nil
}

// takeUser makes the channel of a user known.
func (s *Service) takeUser(tx storage.Tx, parent mdm.Device, f FormerUser) error {
	now := s.now().UTC()
	id := parent.AppleID
	id.UserID = f.UserID
	u, err := mdm.FindDevice(tx, id)
	if errors.Is(err, storage.ErrNotFound) {
		u, err = mdm.Device{ID: mdm.DeviceID(newID()), CreatedAt: now}, nil
	}
	if err != nil {
		return err
	}
	if u.State == mdm.Blocked {
		return nil
	}
	u = mdm.Device{
		ID: u.ID, CreatedAt: u.CreatedAt, ParentID: parent.ID, Type: mdm.TypeUserChannel, State: mdm.Enrolled, AppleID: id,
		Ownership: parent.Ownership, AccessRights: parent.AccessRights, AuthenticatedAt: now, EnrolledAt: now, Push: &f.Push,
	}
	u.ProductName, u.Model, u.OSVersion, u.BuildVersion = parent.ProductName, parent.Model, parent.OSVersion, parent.BuildVersion
	u.UserShortName, u.UserLongName = mdm.Clamp(f.ShortName), mdm.Clamp(f.LongName)
	return mdm.PutDevice(tx, u)
}

// Migration is how far devices of other servers have come.
type Migration struct {
	Predecessors []depot.Predecessor
	Profile      FormerProfile // of devices that are handed over
	AccessRights int           // in that
	Waiting      int           // devices that have not been heard here yet
	Arrived      int
}

// Migration counts the devices that came from other servers.
func (s *Service) Migration(ctx context.Context) (m Migration, err error) {
	err = s.db.View(ctx, func(tx storage.Tx) error {
		m = Migration{}
		if m.Predecessors, err = s.depot.Predecessors(tx); err != nil {
			return err
		}
		set, err := maybe(movings.Get(tx, settingsKey))
		if err != nil {
			return err
		}
		if set != nil {
			m.Profile, m.AccessRights = set.Profile, set.AccessRights
		}
		for a, err := range arrivals.All(tx, storage.Range{}) {
			switch {
			case err != nil:
				return err
			case a.ArrivedAt.IsZero():
				m.Waiting++
			default:
				m.Arrived++
			}
		}
		return nil
	})
	if err != nil {
		return Migration{}, fmt.Errorf("migration: %w", err)
	}
	return m, nil
}

// AddPredecessor takes the authority of another server, in PEM or DER: by its signature the
// certificates of devices are believed that come from there. For as long as claims says, which
// is at most MaxClaims, they may also claim devices of which that server told no certificate; 0
// is DefaultClaims. Errors are a *FieldError or a *depot.FieldError.
func (s *Service) AddPredecessor(ctx context.Context, data []byte, claims time.Duration) (p depot.Predecessor, err error) {
	if claims < 0 || claims > MaxClaims {
		return p, &FieldError{"claims_for", fmt.Sprintf("must be from 1s to %s", MaxClaims)}
	}
	cert, err := depot.ReadPredecessor(data)
	if err != nil {
		return p, err
	}
	by, now := actor(ctx), s.now().UTC()
	err = s.db.Update(ctx, func(tx storage.Tx) error {
		if p, err = s.depot.AddPredecessor(tx, cert, by, now.Add(cmp.Or(claims, DefaultClaims))); err != nil {
			return err
		}
		return event.Record(tx, event.Event{At: now, Actor: by, Action: "migration.authority_added", Details: map[string]string{
			"id": string(p.ID), "subject": p.Subject, "claims_until": at(p.ClaimsUntil),
		}})
	})
	if err != nil {
		return depot.Predecessor{}, fmt.Errorf("add authority of another server: %w", err)
	}
	return p, nil
}

// DeletePredecessor ends the belief in an authority of another server. Devices that came stay;
// those that did not will not be known. Its error may wrap storage.ErrNotFound.
func (s *Service) DeletePredecessor(ctx context.Context, id depot.Fingerprint) error {
	by := actor(ctx)
	err := s.db.Update(ctx, func(tx storage.Tx) error {
		if err := s.depot.DeletePredecessor(tx, id); err != nil {
			return err
		}
		return event.Record(tx, event.Event{At: s.now().UTC(), Actor: by, Action: "migration.authority_deleted", Details: map[string]string{"id": string(id)}})
	})
	if err != nil {
		return fmt.Errorf("delete authority of another server: %w", err)
	}
	return nil
}
