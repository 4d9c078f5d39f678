package enroll

import (
	"cmp"
	"context"
	"crypto/hmac"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/gatehouse-mdm/gatehouse/enroll/machineinfo"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/guard"
)

// PathWatch is where a Watch posts what it is that is being paired with a managed iPhone: the
// EnrollmentProfileURL of the declaration com.apple.configuration.watch.enrollment.
const PathWatch = "/enroll/watch"

// PairingTokenMissing means that a Watch must have its iPhone ask for a pairing token
// (PROTOCOL 2.7, com.apple.watch.pairing.token.missing).
type PairingTokenMissing struct {
	SecurityToken string // that the iPhone repeats; a UUID
	Err           error  // what is wrong with the one it has; nil: it has none
}

func (e *PairingTokenMissing) Error() string {
	if e.Err != nil {
		return "a pairing token is needed: " + e.Err.Error()
	}
	return "a pairing token is needed"
}

// Unwrap returns what is wrong with the token that came.
func (e *PairingTokenMissing) Unwrap() error { return e.Err }

// pairingLife is how long a Watch and its iPhone have for all of it, and pairingSlot how much
// of that they may lose: when it began is known to that only.
const (
	pairingLife = 15 * time.Minute
	pairingSlot = 3 * time.Minute
)

// securityToken returns what a Watch tells its iPhone in the slot that began at a time. Anybody
// may say to be a Watch, so nothing is kept of it: it is known again by what it is made of. It
// is a UUID (RFC 9562, 5.8), as Apple wants.
func (s *Service) securityToken(watchUDID string, begun time.Time) string {
	b := s.box.MAC("watch security token", binary.BigEndian.AppendUint64([]byte(strings.ToUpper(watchUDID)), uint64(begun.Unix())))
	b[6] = b[6]&0x0f | 0x80
	b[8] = b[8]&0x3f | 0x80
	return fmt.Sprintf("%X-%X-%X-%X-%X", b[:4], b[4:6], b[6:8], b[8:10], b[10:16])
}

// securityTokenUntil returns how long a security token is that Watch's; the zero time, if it
// is not.
func (s *Service) securityTokenUntil(token, watchUDID string) (until time.Time) {
	token = strings.ToUpper(token)
	now := s.now().UTC()
	for begun := now.Truncate(pairingSlot); now.Before(begun.Add(pairingLife)); begun = begun.Add(-pairingSlot) {
		if hmac.Equal([]byte(token), []byte(s.securityToken(watchUDID, begun))) {
			until = begun.Add(pairingLife)
		}
	}
	return until
}

// pairing is a pairingToken that was spent.
type pairing struct {
	ID        string    `json:"id"`
	ExpiresAt time.Time `json:"expires_at"`
	AttemptID string    `json:"attempt_id"` // that it became
}

var pairings = storage.NewCollection("enroll.watch_pairings", 1,
	func(p pairing) string { return p.ID },
	storage.Index[pairing]{Name: byExpiry, Values: func(p pairing) []string {
		return []string{p.ExpiresAt.UTC().Format(time.RFC3339)}
	}},
)

// pairingToken is what an iPhone is given for its Watch, sealed. It is good for one attempt.
type pairingToken struct {
	ID        string       `json:"i"`
	WatchUDID string       `json:"w"`
	PhoneID   mdm.DeviceID `json:"p"`
	ExpiresAt time.Time    `json:"e"`
}

const pairingPurpose = "watch pairing"

var errPairing = errors.New("the pairing token is not valid")

// pair answers an iPhone that asks for a token for its Watch. Apple has no such thing in a
// User Enrollment.
func (s *Service) pair(tx storage.Tx, phone mdm.Device, m GetTokenMessage) ([]byte, error) {
	c, err := getAccountDriven(tx)
	if err != nil {
		return nil, err
	}
	switch {
	case !c.WatchPairing:
		return nil, ErrNotOffered
	case phone.UDID == "" || m.ID.UserID != "" || FamilyOf(cmp.Or(phone.ProductName, phone.Model)) == "Mac":
		return nil, fmt.Errorf("%w: no Watch is paired with such a device", ErrBadMessage)
	case m.SecurityToken == "" || m.WatchUDID == "":
		return nil, fmt.Errorf("%w: TokenParameters lacks SecurityToken or WatchUDID", ErrBadMessage)
	case !strings.EqualFold(m.PhoneUDID, phone.UDID):
		return nil, fmt.Errorf("%w: PhoneUDID is another device's", ErrForeignDevice)
	}
	until := s.securityTokenUntil(m.SecurityToken, m.WatchUDID)
	if until.IsZero() {
		return nil, fmt.Errorf("%w: the SecurityToken is not that Watch's, or has expired", ErrBadMessage)
	}
	raw, err := json.Marshal(pairingToken{ID: newID(), WatchUDID: m.WatchUDID, PhoneID: phone.ID, ExpiresAt: until})
	if err != nil {
		return nil, err
	}
	sealed := s.box.Seal(pairingPurpose, raw)
	return []byte(base64.RawURLEncoding.EncodeToString(sealed)), nil
}

// EnrollWatch answers the enrollment POST of a Watch with its signed enrollment profile. It
// is enrolled for the user of its iPhone, and is whose the iPhone is. Without a token from
// there its error is a *PairingTokenMissing; the others wrap ErrNotOffered, ErrStatement,
// [machineinfo.ErrNotApple], ErrUserDisabled, ErrOwnershipOff, ErrDeviceOwned,
// [mdm.ErrBlocked] or [identity.ErrMayNotEnroll].
func (s *Service) EnrollWatch(ctx context.Context, body []byte) (signed []byte, err error) {
	m, err := machineinfo.Parse(body)
	if err != nil {
		if errors.Is(err, guard.ErrTooLarge) {
			return nil, err
		}
		return nil, fmt.Errorf("%w: %w", ErrStatement, err)
	}
	if err := (mdm.AppleID{UDID: m.UDID}).Validate(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrStatement, err)
	}
	vouched := s.deviceCAs.Vouch(m.Signer)
	token, missing := s.openPairing(m)
	if missing != nil { // anybody can come without one
		err := s.db.View(ctx, func(tx storage.Tx) error {
			_, err := watches(tx, vouched)
			return err
		})
		if err == nil {
			err = s.pairingTokenMissing(m, missing)
		}
		return nil, fmt.Errorf("enroll watch: %w", err)
	}
	row, secret := newChallenge(challenge{ExpiresAt: s.now().UTC().Add(challengeLife)})
	attemptID := newID()

	var a Attempt
	var organisation string
	err = s.db.Update(ctx, func(tx storage.Tx) error {
		settings, err := watches(tx, vouched)
		if err != nil {
			return err
		}
		organisation = cmp.Or(settings.Organisation.Name, s.organisation)
		a, missing, err = s.attemptOfWatch(tx, settings, token, attemptID, m.Info)
		if err != nil || missing != nil {
			return err
		}
		row.AttemptID, row.Round = a.ID, a.Round
		if a.Topic, err = s.topic(tx, settings); err != nil {
			return err
		}
		a.AccessRights = settings.Way(a.Ownership).Rights.Bits()
		if err := a.hand(tx, row.Hash); err != nil {
			return err
		}
		if err := challenges.Put(tx, row); err != nil {
			return err
		}
		return putAttempt(tx, a)
	})
	if err == nil && missing != nil {
		err = s.pairingTokenMissing(m, missing)
	}
	if err != nil {
		return nil, fmt.Errorf("enroll watch: %w", err)
	}
	signed, err = s.signedProfile(ctx, profileFor{
		organisation: organisation, subject: grant{attempt: a}.subject(organisation), challenge: secret, topic: a.Topic, accessRights: a.AccessRights,
	})
	if err != nil {
		return nil, fmt.Errorf("enroll watch: %w", err)
	}
	s.log.InfoContext(ctx, "enrollment profile handed out", "attempt", a.ID, "product", m.Product)
	s.warnUnwakeable(ctx, a)
	return signed, nil
}

// watches returns the settings, if such a Watch is enrolled at all. vouched is why nobody
// vouches for it.
func watches(tx storage.Tx, vouched error) (Settings, error) {
	c, err := getAccountDriven(tx)
	if err != nil {
		return Settings{}, err
	}
	settings, err := GetSettings(tx)
	if err != nil {
		return Settings{}, err
	}
	switch {
	case !c.WatchPairing:
		return Settings{}, ErrNotOffered
	case settings.DeviceSignature == SignatureRequire && vouched != nil:
		return Settings{}, vouched
	}
	return settings, nil
}

// pairingTokenMissing sends a Watch to its iPhone.
func (s *Service) pairingTokenMissing(m machineinfo.Message, why error) error {
	if errors.Is(why, errNoPairing) {
		why = nil
	}
	return &PairingTokenMissing{SecurityToken: s.securityToken(m.UDID, s.now().UTC().Truncate(pairingSlot)), Err: why}
}

var errNoPairing = errors.New("there is none")

// openPairing reads the token that a Watch shows.
func (s *Service) openPairing(m machineinfo.Message) (t pairingToken, why error) {
	if len(m.PairingToken) == 0 {
		return t, errNoPairing
	}
	raw, err := base64.RawURLEncoding.DecodeString(m.PairingToken)
	if err == nil {
		raw, err = s.box.Open(pairingPurpose, raw)
	}
	if err == nil {
		err = json.Unmarshal(raw, &t)
	}
	if err != nil || !strings.EqualFold(t.WatchUDID, m.UDID) {
		return t, errPairing
	}
	if !s.now().Before(t.ExpiresAt) {
		return t, fmt.Errorf("%w: it has expired", errPairing)
	}
	return t, nil
}

// attemptOfWatch returns the attempt of a Watch: a new one, or that which the same token made
// before. missing says why its token is good for nothing.
func (s *Service) attemptOfWatch(tx storage.Tx, settings Settings, t pairingToken, id string, info machineinfo.Info) (a Attempt, missing, err error) {
	p, err := pairings.Get(tx, t.ID)
	if err != nil && !errors.Is(err, storage.ErrNotFound) {
		return a, nil, err
	}
	phone, err := mdm.GetDevice(tx, t.PhoneID)
	if errors.Is(err, storage.ErrNotFound) || err == nil && phone.State != mdm.Enrolled {
		return a, fmt.Errorf("%w: its iPhone is not enrolled", errPairing), nil
	}
	if err != nil {
		return a, nil, err
	}
	if err := mayEnroll(tx, settings, phone.User, phone.Ownership); err != nil {
		return a, nil, err
	}
	now := s.now().UTC()
	if p.AttemptID != "" {
		if a, err = attempts.Get(tx, p.AttemptID); err != nil || !a.open() {
			return a, fmt.Errorf("%w: it was used", errPairing), ignoreNotFound(err)
		}
	} else {
		a = Attempt{ID: id, User: phone.User, Ownership: phone.Ownership, StageAt: make(map[Stage]time.Time)}
		a.enter(Opened, now)
		a.enter(Authenticated, now)
		if err := pairings.Put(tx, pairing{ID: t.ID, ExpiresAt: t.ExpiresAt, AttemptID: id}); err != nil {
			return a, nil, err
		}
	}
	a.Stated = &Stated{UDID: info.UDID, SerialNumber: info.SerialNumber, Product: info.Product, Build: info.Build, At: now}
	if err := s.admit(tx, &a, *a.Stated); err != nil {
		return a, nil, err
	}
	a.enter(ProfileDownloaded, now)
	return a, nil, nil
}

func ignoreNotFound(err error) error {
	if errors.Is(err, storage.ErrNotFound) {
		return nil
	}
	return err
}
