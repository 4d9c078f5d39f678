package enroll

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/enroll/machineinfo"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

// Stage is how far an attempt has come.
type Stage string

// The stages, in their order; failed may follow any but the last.
const (
	Opened            Stage = "opened"
	Authenticated     Stage = "authenticated" // the person is known, or need not be
	ProfileDownloaded Stage = "profile_downloaded"
	IdentityIssued    Stage = "identity_issued"
	CheckedIn         Stage = "checked_in"
	Enrolled          Stage = "enrolled"
	AttemptFailed     Stage = "failed"
)

// Attempt is one try of one person to enroll one device. It goes with the
// person from the first page to the first TokenUpdate, and ties user,
// certificate and device together.
type Attempt struct {
	ID        string              `json:"id"`
	LinkID    string              `json:"link_id,omitempty"`
	User      string              `json:"user,omitempty"`
	Ownership mdm.Ownership       `json:"ownership"`
	Demo      bool                `json:"demo,omitempty"`
	Topic     string              `json:"topic,omitempty"` // push topic in the profile
	Stage     Stage               `json:"stage"`
	StageAt   map[Stage]time.Time `json:"stage_at"`
	DeviceID  mdm.DeviceID        `json:"device_id,omitempty"`
	ErrorCode string              `json:"error_code,omitempty"` // why it failed, or what its device was refused for last

	// AccessRights of its profile; 0: a User Enrollment, whose rights Apple fixes.
	AccessRights int `json:"access_rights,omitempty"`

	// Spent says that it took a use off its link: a second try takes no second one.
	Spent bool `json:"spent,omitempty"`
	// Round counts the profiles that are good for nothing any more: a challenge of an
	// earlier round buys no certificate.
	Round int `json:"round,omitempty"`

	// Handed are what was handed out last: hashes of challenges and tokens of deliveries, the
	// oldest first. Delivery is the latest of the deliveries.
	Handed   []string `json:"handed,omitempty"`
	Delivery string   `json:"delivery,omitempty"`

	// Stated is what the device said of itself before it was given the enrollment profile;
	// nil if it was not asked, or has not answered.
	Stated *Stated `json:"stated,omitempty"`

	// Before is what the device was before it enrolled again; nil for a new one.
	Before *Before `json:"before,omitempty"`

	// Visit is what a person at the portal adds; nil for a profile that was fetched from
	// a link directly, and for who came to the device's settings without the portal.
	Visit *Visit `json:"visit,omitempty"`

	// Account is what a person adds who signs in on the device; nil for an enrollment by
	// profile.
	Account *AccountEnrollment `json:"account,omitempty"`
}

// Before is an enrollment that another one of the same device took the place of.
type Before struct {
	DeviceName string    `json:"device_name,omitempty"`
	EnrolledAt time.Time `json:"enrolled_at,omitzero"`
}

// maxHanded is how many profiles of an attempt are good for something at once. Safari
// fetches a profile twice, and people more often; nobody needs the ninth last.
const maxHanded = 8

// hand notes that a profile with a secret was handed out, by its hash, and voids the oldest
// one where there are many.
func (a *Attempt) hand(tx storage.Tx, hash string) error {
	a.Handed = append(a.Handed, hash)
	for len(a.Handed) > maxHanded {
		oldest := a.Handed[0]
		a.Handed = a.Handed[1:]
		if err := challenges.Delete(tx, oldest); err != nil {
			return err
		}
		if err := deliveries.Delete(tx, oldest); err != nil {
			return err
		}
	}
	return nil
}

func (a *Attempt) enter(st Stage, now time.Time) {
	a.Stage = st
	a.StageAt[st] = now.UTC()
}

// open says that no certificate was issued yet and one still may be.
func (a *Attempt) open() bool {
	return a.Stage == Opened || a.Stage == Authenticated || a.Stage == ProfileDownloaded
}

const (
	attemptsByLink = "link"
	attemptsOpen   = "open"
	attemptsFailed = "failed"
	attemptsByCode = "code"
	attemptsByUse  = "use"
	attemptsByUser = "user"
	attemptsIdle   = "idle"
	attemptsByTime = "begun"
)

var attempts = storage.NewCollection("enrollment_attempts", 1,
	func(a Attempt) string { return a.ID },
	storage.Index[Attempt]{Name: attemptsByLink, Values: func(a Attempt) []string {
		if a.LinkID == "" || !a.open() {
			return nil // only the open ones are ever looked for by their link
		}
		return []string{a.LinkID}
	}},
	storage.Index[Attempt]{Name: attemptsOpen, Values: func(a Attempt) []string {
		if a.Stage == Enrolled || a.Stage == AttemptFailed {
			return nil
		}
		return []string{a.StageAt[Opened].UTC().Format(time.RFC3339)}
	}},
	storage.Index[Attempt]{Name: attemptsFailed, Values: func(a Attempt) []string {
		if a.Stage != AttemptFailed {
			return nil
		}
		return []string{a.StageAt[AttemptFailed].UTC().Format(time.RFC3339)}
	}},
	storage.Index[Attempt]{Name: attemptsByCode, Unique: true, Values: func(a Attempt) []string {
		if a.Visit == nil {
			return nil
		}
		return []string{a.Visit.Code}
	}},
	// What became of a link: those by it, by how far they have come.
	storage.Index[Attempt]{Name: attemptsByUse, Values: func(a Attempt) []string {
		if a.LinkID == "" {
			return nil
		}
		return []string{useKey(a.LinkID, a.Stage)}
	}},
	// What may still become an enrollment of a user.
	storage.Index[Attempt]{Name: attemptsByUser, Values: func(a Attempt) []string {
		if a.User == "" || a.Stage == Enrolled || a.Stage == AttemptFailed {
			return nil
		}
		return []string{strings.ToLower(strings.TrimSpace(a.User))}
	}},
	// Profiles that a program fetched and nobody used.
	storage.Index[Attempt]{Name: attemptsIdle, Values: func(a Attempt) []string {
		if a.Stage != AttemptFailed || a.Visit != nil || a.Account != nil || !a.StageAt[IdentityIssued].IsZero() {
			return nil
		}
		return []string{a.StageAt[AttemptFailed].UTC().Format(time.RFC3339)}
	}},
	// Lists are in the order of time.
	storage.Index[Attempt]{Name: attemptsByTime, Values: func(a Attempt) []string { return []string{a.begun()} }},
)

func useKey(linkID string, st Stage) string { return string(storage.Key(linkID, string(st))) }

// putAttempt stores a, and wakes the page that shows it.
func putAttempt(tx storage.Tx, a Attempt) error {
	if a.Visit != nil {
		if err := tx.Notify(attemptTopic(a.ID)); err != nil {
			return err
		}
	}
	return attempts.Put(tx, a)
}

func attemptTopic(id string) string { return "enroll.attempt." + id }

// Attempt returns one attempt, or an error that wraps storage.ErrNotFound.
func (s *Service) Attempt(ctx context.Context, id string) (a Attempt, err error) {
	err = s.db.View(ctx, func(tx storage.Tx) error {
		a, err = attempts.Get(tx, id)
		return err
	})
	if err != nil {
		return Attempt{}, fmt.Errorf("enrollment attempt %s: %w", id, err)
	}
	return a, nil
}

// failOpenAttempts fails what a link still had under way.
func (s *Service) failOpenAttempts(tx storage.Tx, linkID, code string) error {
	var open []Attempt
	for a, err := range attempts.Lookup(tx, attemptsByLink, linkID) {
		if err != nil {
			return fmt.Errorf("attempts of link %s: %w", linkID, err)
		}
		open = append(open, a)
	}
	for _, a := range open {
		if a.Spent && code == codeOf(ErrLinkUsedUp) {
			continue // a use is its own
		}
		if err := s.failAttempt(tx, a, code); err != nil {
			return err
		}
	}
	return nil
}

// failLateAttempts fails what was begun by a link while the transaction ran that ended
// it: neither saw the other. [Service.NewEnrollment] looks at its link once more, too, so
// that whichever commits last sees the other one. A record that both write would make
// all downloads by one link wait for each other.
func (s *Service) failLateAttempts(ctx context.Context, linkID string, why error) {
	err := s.db.Update(ctx, func(tx storage.Tx) error { return s.failOpenAttempts(tx, linkID, codeOf(why)) })
	if err != nil {
		s.log.WarnContext(ctx, "attempts of a link that ended not marked as failed", "link", linkID, "err", err)
	}
}

// failAttempt ends an attempt. What was issued for it is revoked: no device has come with it,
// and none will.
func (s *Service) failAttempt(tx storage.Tx, a Attempt, code string) error {
	if a.Stage == IdentityIssued {
		if err := s.revokeUnused(tx, a.ID, reasonCessation, ourselves); err != nil {
			return fmt.Errorf("fail attempt %s: %w", a.ID, err)
		}
	}
	a.ErrorCode = code
	a.enter(AttemptFailed, s.now())
	if err := putAttempt(tx, a); err != nil {
		return fmt.Errorf("fail attempt %s: %w", a.ID, err)
	}
	return nil
}

// codes are the stable codes of what ends an attempt.
var codes = []struct {
	err  error
	code string
}{
	{ErrLinkUnknown, "link_unknown"},
	{ErrLinkExpired, "link_expired"},
	{ErrLinkUsedUp, "link_used_up"},
	{ErrLinkRevoked, "link_revoked"},
	{ErrUserDisabled, "user_disabled"},
	{ErrSerialNumber, "serial_number_not_listed"},
	{ErrOwnershipOff, "ownership_off"},
	{ErrNoPushCertificate, "push_certificate_missing"},
	{ErrDeviceOwned, "device_owned"},
	{mdm.ErrBlocked, "device_blocked"},
	{ErrOtherDevice, "other_device"},
	{ErrOtherKind, "other_kind"},
	{ErrStatement, "statement_invalid"},
	{ErrDelivery, "delivery_over"},
	{machineinfo.ErrNotApple, "device_not_genuine"},
	{identity.ErrMayNotEnroll, "may_not_enroll"},
	{ErrModeOff, "mode_off"},
	{ErrAccountMissing, "account_missing"},
	{ErrAccountForeign, "account_foreign"},
	{errAttemptExpired, "attempt_expired"},
	{errIdentityRevoked, "identity_revoked"},
}

var (
	errAttemptExpired  = errors.New("the attempt was not finished in time")
	errIdentityRevoked = errors.New("the attempt's certificate was revoked")
)

func codeOf(err error) string {
	for _, c := range codes {
		if errors.Is(err, c.err) {
			return c.code
		}
	}
	if _, old := errors.AsType[*MinimumOSError](err); old {
		return "system_too_old"
	}
	if _, old := errors.AsType[*UpdateRequired](err); old {
		return "system_too_old"
	}
	return codeInternal
}

// codeInternal stands for what is nobody's fault but ours.
const codeInternal = "internal"
