package enroll

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/gatehouse-mdm/gatehouse/depot"
	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/event"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

// authorization is what a person's sign-in on a device lets that device do, and the tokens
// that say so. It is the attempt's until the device has come, and then that device's alone.
//
// Of secrets it has hashes only. Each secret begins with the authorization's ID, so that
// whatever a device sends is found by one look.
type authorization struct {
	ID        string       `json:"id"`
	UserID    string       `json:"user_id"`
	AttemptID string       `json:"attempt_id,omitempty"`
	DeviceID  mdm.DeviceID `json:"device_id,omitempty"` // empty until it has come
	Mode      AccountMode  `json:"mode"`
	Method    SignInMethod `json:"method"`

	SignedInAt time.Time `json:"signed_in_at"`
	// UsedAt is when the device showed a token last, to within useTick; zero: never.
	UsedAt    time.Time `json:"used_at,omitzero"`
	RevokedAt time.Time `json:"revoked_at,omitzero"`

	Code *authorizationCode `json:"code,omitempty"`
	// Tokens are those that are good for something, the oldest first: a device that loses
	// an answer asks again by the token before.
	Tokens []tokenPair `json:"tokens,omitempty"`
}

// authorizationCode is the code of OAuth 2 (RFC 6749, 4.1.2).
type authorizationCode struct {
	Hash        string    `json:"hash"`
	RedirectURI string    `json:"redirect_uri"`
	Challenge   string    `json:"challenge,omitempty"` // of PKCE (RFC 7636), method S256
	ExpiresAt   time.Time `json:"expires_at"`
	UsedAt      time.Time `json:"used_at,omitzero"`
}

// tokenPair is an access token and, with OAuth 2, the refresh token that came with it.
type tokenPair struct {
	Access    string    `json:"access"` // hash
	Refresh   string    `json:"refresh,omitempty"`
	ExpiresAt time.Time `json:"expires_at,omitzero"` // of the access token by itself; zero: with the authorization
}

const (
	// codeLife is how long an authorization code is good. The device has it at once.
	codeLife = 2 * time.Minute
	// maxTokens is how many pairs are kept.
	maxTokens = 4
	// useTick is how exactly it is known when a device was last heard of with its token.
	useTick = time.Hour
)

const authorizationsByHolder = "holder"

var authorizations = storage.NewCollection("enroll.authorizations", 1,
	func(a authorization) string { return a.ID },
	storage.Index[authorization]{Name: authorizationsByHolder, Values: func(a authorization) []string { return []string{a.holder()} }},
	storage.Index[authorization]{Name: byExpiry, Values: func(a authorization) []string {
		if a.DeviceID != "" && !a.UsedAt.IsZero() {
			return nil // it lasts as long as its device
		}
		return []string{a.SignedInAt.UTC().Format(time.RFC3339)}
	}},
)

func (a authorization) holder() string {
	if a.DeviceID != "" {
		return string(storage.Key("device", string(a.DeviceID)))
	}
	return string(storage.Key("attempt", a.AttemptID))
}

// idSize and secretSize are how many random bytes of a token name the authorization, and
// how many nobody can guess.
const (
	idSize     = 12
	secretSize = 24
)

// newSecret makes a token of the authorization: letters, digits, dashes and underscores.
func (a authorization) newSecret() (secret, hash string) {
	raw, _ := base64.RawURLEncoding.DecodeString(a.ID)
	raw = append(raw, make([]byte, secretSize)...)
	_, _ = rand.Read(raw[idSize:])
	secret = base64.RawURLEncoding.EncodeToString(raw)
	return secret, hashSecret(secret)
}

func newAuthorizationID() string {
	raw := make([]byte, idSize)
	_, _ = rand.Read(raw)
	return base64.RawURLEncoding.EncodeToString(raw)
}

// authorizationOf returns the ID of the authorization that a token belongs to, empty if it
// can be none of ours.
func authorizationOf(token string) string {
	if len(token) != base64.RawURLEncoding.EncodedLen(idSize+secretSize) {
		return ""
	}
	return token[:base64.RawURLEncoding.EncodedLen(idSize)]
}

// issue adds a pair of tokens.
func (a *authorization) issue(c AccountDriven, now time.Time) (access, refresh string) {
	var pair tokenPair
	access, pair.Access = a.newSecret()
	if a.Method == MethodOAuth2 {
		refresh, pair.Refresh = a.newSecret()
		pair.ExpiresAt = now.Add(c.AccessLife).UTC()
	}
	a.Tokens = append(a.Tokens, pair)
	if len(a.Tokens) > maxTokens {
		a.Tokens = slices.Delete(a.Tokens, 1, len(a.Tokens)-maxTokens+1) // the first is the one that the device is known to have
	}
	return access, refresh
}

// find returns which pair a token is one of, -1 if none.
func (a authorization) find(token string, of func(tokenPair) string) int {
	hash := []byte(hashSecret(token))
	return slices.IndexFunc(a.Tokens, func(p tokenPair) bool {
		return of(p) != "" && subtle.ConstantTimeCompare([]byte(of(p)), hash) == 1
	})
}

func accessHash(p tokenPair) string  { return p.Access }
func refreshHash(p tokenPair) string { return p.Refresh }

// Why a token is good for nothing. The first three ask for another sign-in.
var (
	errTokenUnknown = errors.New("the access token is unknown")
	errTokenExpired = errors.New("the access token has expired")
	errTokenRevoked = errors.New("the access token was revoked")

	// ErrNoBearer means that a device whose user signed in sent no access token.
	ErrNoBearer = errors.New("the access token of the user is missing")
	// ErrForeignBearer means that an access token is another device's, or another person's.
	ErrForeignBearer = errors.New("the access token is another device’s or another user’s")
)

// isLapsed says whether err means that a token is good for nothing.
func isLapsed(err error) bool {
	return errors.Is(err, errTokenUnknown) || errors.Is(err, errTokenExpired) || errors.Is(err, errTokenRevoked)
}

// lapsed says why an authorization is good for nothing any more, nil if it is good. Its
// errors wrap errTokenExpired or errTokenRevoked, or are the store's.
func (s *Service) lapsed(tx storage.Tx, a authorization, c AccountDriven) error {
	now := s.now()
	last := a.SignedInAt
	if a.UsedAt.After(last) {
		last = a.UsedAt
	}
	idle := func() bool { return c.TokenIdle > 0 && now.Sub(last) >= c.TokenIdle+useTick }
	if idle() && a.DeviceID != "" { // a Mac polls without it for as long as nobody uses it
		seen, err := s.mdm.LastSeen(tx, a.DeviceID)
		if err != nil {
			return err
		}
		if seen.After(last) {
			last = seen
		}
	}
	switch {
	case !a.RevokedAt.IsZero():
		return errTokenRevoked
	case c.TokenLife > 0 && now.Sub(a.SignedInAt) >= c.TokenLife:
		return fmt.Errorf("%w: the sign-in was %s ago", errTokenExpired, now.Sub(a.SignedInAt).Round(time.Minute))
	case idle():
		return fmt.Errorf("%w: the device was not heard of for %s", errTokenExpired, now.Sub(last).Round(time.Minute))
	}
	return nil
}

// openBearer finds the authorization by an access token, and which of its pairs that is.
// Its errors wrap errTokenUnknown, errTokenExpired or errTokenRevoked; with these two the
// authorization is returned as well.
func (s *Service) openBearer(tx storage.Tx, c AccountDriven, token string) (a authorization, pair int, err error) {
	id := authorizationOf(token)
	if id == "" {
		return a, 0, errTokenUnknown
	}
	a, err = authorizations.Get(tx, id)
	if errors.Is(err, storage.ErrNotFound) {
		return a, 0, errTokenUnknown
	}
	if err != nil {
		return a, 0, err
	}
	now := s.now()
	if pair = a.find(token, accessHash); pair < 0 {
		return authorization{}, 0, errTokenUnknown
	}
	if err := s.lapsed(tx, a, c); err != nil {
		return a, pair, err
	}
	if end := a.Tokens[pair].ExpiresAt; !end.IsZero() && !now.Before(end) {
		return a, pair, errTokenExpired
	}
	return a, pair, nil
}

// endAuthorizations deletes all of a holder but one.
func endAuthorizations(tx storage.Tx, holder, but string) error {
	var all []string
	for a, err := range authorizations.Lookup(tx, authorizationsByHolder, holder) {
		if err != nil {
			return err
		}
		if a.ID != but {
			all = append(all, a.ID)
		}
	}
	for _, id := range all {
		if err := authorizations.Delete(tx, id); err != nil {
			return err
		}
	}
	return nil
}

// RequireSignIn revokes the access tokens of a device that was enrolled by account: the
// policy says whether its user is asked to sign in again, or its enrollment ends. Its errors
// wrap storage.ErrNotFound, [mdm.ErrNotEnrolled] or ErrNotByAccount.
func (s *Service) RequireSignIn(ctx context.Context, id mdm.DeviceID) (d mdm.Device, err error) {
	err = s.db.Update(ctx, func(tx storage.Tx) error {
		if d, err = mdm.GetDevice(tx, id); err != nil {
			return err
		}
		switch {
		case !d.Live() || d.ParentID != "":
			return mdm.ErrNotEnrolled
		case d.EnrollmentMode == "":
			return ErrNotByAccount
		}
		c, err := getAccountDriven(tx)
		if err != nil {
			return err
		}
		if c.TokenRevoked == AfterUnenroll {
			err = s.end(tx, d, mdm.Unenrolled, actor(ctx), leftSignIn)
		} else {
			err = s.revokeAuthorizations(tx, d, actor(ctx))
		}
		if err == nil {
			d, err = mdm.GetDevice(tx, id)
		}
		return err
	})
	if err != nil {
		return mdm.Device{}, fmt.Errorf("require sign-in: %w", err)
	}
	s.log.InfoContext(ctx, "device must sign in again", "device", id, "by", actor(ctx))
	return d, nil
}

// revokeAuthorizations revokes the access tokens of a device, which gets no command until its
// user has signed in again.
func (s *Service) revokeAuthorizations(tx storage.Tx, d mdm.Device, by string) error {
	now := s.now().UTC()
	var all []authorization
	for a, err := range authorizations.Lookup(tx, authorizationsByHolder, authorization{DeviceID: d.ID}.holder()) {
		if err != nil {
			return err
		}
		all = append(all, a)
	}
	for _, a := range all {
		if a.RevokedAt.IsZero() {
			a.RevokedAt = now
		}
		if err := authorizations.Put(tx, a); err != nil {
			return err
		}
	}
	d.SignInRequiredAt = now
	if err := mdm.PutDevice(tx, d); err != nil {
		return err
	}
	return event.Record(tx, event.Event{At: now, Actor: by, Action: "device.sign_in_required", DeviceID: string(d.ID), User: d.User})
}

// ErrNotByAccount means that a device has no access token: it was enrolled by profile.
var ErrNotByAccount = errors.New("the device was not enrolled by account")

// HandBack is how a sign-in ends.
type HandBack struct {
	Location string // where the browser view is redirected to, with status 308; it holds a secret
	Attempt  Attempt
}

// FinishAccountSignIn notes that a person has signed in whom a device has asked to, and
// returns what that device is given: an access token, or a code of OAuth 2, for which o is
// the request. A ticket may be used again, as by a person who goes back: it makes one
// attempt. Its errors wrap ErrTicket, ErrModeOff, ErrOtherPerson, ErrAccountMissing,
// ErrAccountForeign, ErrUserDisabled, ErrAttemptOver or [identity.ErrMayNotEnroll], or are a
// *MinimumOSError.
func (s *Service) FinishAccountSignIn(ctx context.Context, sealed string, u identity.User, o *AuthorizationRequest) (h HandBack, err error) {
	t, err := s.openTicket(sealed)
	if err != nil {
		return HandBack{}, err
	}
	if (t.Method == MethodOAuth2) != (o != nil) {
		return HandBack{}, fmt.Errorf("%w: it is for another method", ErrTicket)
	}
	a := authorization{ID: newAuthorizationID(), UserID: u.ID, Mode: t.Mode, Method: t.Method}
	var code string
	values := map[string][]string{}
	err = s.db.Update(ctx, func(tx storage.Tx) error {
		now := s.now().UTC()
		c, err := getAccountDriven(tx)
		if err != nil {
			return err
		}
		served := c
		if s.played(u.Login()) {
			served = s.withDemo(c)
		}
		if err := served.serves(t); err != nil {
			return err
		}
		a.Tokens, a.Code, a.SignedInAt = nil, nil, now
		u, err := identity.GetUser(tx, u.ID) // as they are now
		if errors.Is(err, storage.ErrNotFound) {
			return ErrUserDisabled
		}
		if err != nil {
			return err
		}
		if h.Attempt, err = s.attemptBy(tx, t, u, c, now); err != nil {
			return err
		}
		a.AttemptID, a.DeviceID = h.Attempt.ID, t.DeviceID
		if o != nil {
			var hash string
			code, hash = a.newSecret()
			a.Code = &authorizationCode{Hash: hash, RedirectURI: o.RedirectURI, Challenge: o.CodeChallenge, ExpiresAt: now.Add(codeLife)}
			values["code"] = []string{code}
			if o.State != "" {
				values["state"] = []string{o.State}
			}
		} else {
			access, _ := a.issue(c, now)
			values["access-token"] = []string{access}
		}
		return authorizations.Put(tx, a)
	})
	if err != nil {
		return HandBack{}, fmt.Errorf("sign in on device: %w", err)
	}
	to := handBackScheme + "://authentication-results"
	if o != nil {
		to = o.RedirectURI
	}
	h.Location = handBack(to, values)
	s.log.InfoContext(ctx, "signed in on device", "attempt", h.Attempt.ID, "mode", t.Mode, "method", t.Method, "again", t.DeviceID != "", "device", t.DeviceID)
	return h, nil
}

// attemptBy returns the attempt that a sign-in belongs to: that of the enrolled device, the
// one that the person began at the portal, or a new one.
func (s *Service) attemptBy(tx storage.Tx, t ticket, u identity.User, c AccountDriven, now time.Time) (Attempt, error) {
	if t.DeviceID != "" {
		return s.attemptAgain(tx, t, u)
	}
	account, err := s.userOfTicket(tx, t, u.Login(), u.ManagedAppleAccount)
	if err != nil {
		return Attempt{}, err
	}
	a, err := attempts.Get(tx, t.AttemptID)
	if errors.Is(err, storage.ErrNotFound) {
		a, err = s.waitingAttempt(tx, t, u)
	}
	if err != nil {
		return Attempt{}, err
	}
	if a.ID == "" {
		a = Attempt{ID: t.AttemptID, StageAt: make(map[Stage]time.Time)}
		a.enter(Opened, now)
	}
	switch {
	case a.User != "" && !names(u.Logins(), a.User):
		return Attempt{}, ErrOtherPerson // two people in one browser view
	case !a.open():
		return Attempt{}, ErrAttemptOver
	}
	begun := &AccountEnrollment{
		Mode: t.Mode, ManagedAppleAccount: account, Product: t.Product, OSVersion: t.OSVersion, RequiredAppID: c.RequiredAppID, Ticket: t.AttemptID,
	}
	if a.Account != nil && a.Account.Ticket != t.AttemptID { // another try, at another time
		if err := endAuthorizations(tx, authorization{AttemptID: a.ID}.holder(), ""); err != nil {
			return Attempt{}, err
		}
	} else if a.Account != nil {
		begun.AgreedAt = a.Account.AgreedAt
	}
	switch {
	case a.Stage == Opened:
		a.enter(Authenticated, now)
	case a.Stage == ProfileDownloaded && (a.Account == nil || !a.Account.same(begun)): // with another profile
		a.back(now)
	}
	a.User, a.Ownership, a.ErrorCode, a.Account = u.Login(), t.Mode.Ownership(), "", begun
	a.Demo = a.Demo || s.played(u.Login())
	return a, putAttempt(tx, a)
}

// attemptAgain returns the attempt of the enrolled device whose user signs in again.
func (s *Service) attemptAgain(tx storage.Tx, t ticket, u identity.User) (Attempt, error) {
	d, err := mdm.GetDevice(tx, t.DeviceID)
	if errors.Is(err, storage.ErrNotFound) {
		return Attempt{}, fmt.Errorf("%w: its device was deleted", ErrTicket)
	}
	if err != nil {
		return Attempt{}, err
	}
	if d.State != mdm.Enrolled && d.State != mdm.Pending {
		return Attempt{}, fmt.Errorf("%w: its device has gone", ErrTicket)
	}
	same, err := samePerson(tx, d.User, u.Login())
	switch {
	case err != nil:
		return Attempt{}, err
	case !same:
		return Attempt{}, ErrOtherPerson
	case u.Disabled: // who may not enrol any more keeps what is enrolled
		return Attempt{}, ErrUserDisabled
	}
	// Whoever ends the device's enrollment, or takes its user's rights, writes these records,
	// and must not miss an authorization that begins at the same moment.
	if err := depot.MeetUser(tx, d.User); err != nil {
		return Attempt{}, err
	}
	return Attempt{ID: d.AttemptID, User: d.User, Ownership: d.Ownership, DeviceID: d.ID}, mdm.PutDevice(tx, d)
}

// waitingAttempt returns the attempt that somebody has begun at the portal, and that waits
// for this sign-in; zero if there is none.
func (s *Service) waitingAttempt(tx storage.Tx, t ticket, u identity.User) (found Attempt, err error) {
	for _, login := range u.Logins() {
		for a, err := range attempts.Lookup(tx, attemptsByUser, strings.ToLower(strings.TrimSpace(login))) {
			if err != nil {
				return Attempt{}, err
			}
			if a.waitsFor(t, s.now()) && a.StageAt[Opened].After(found.StageAt[Opened]) {
				found = a
			}
		}
	}
	return found, nil
}

// familyAt is what a device is that shows the portal; empty where nothing is known.
func familyAt(platform string) ModelFamily {
	switch platform {
	case "ios":
		return "iPhone"
	case "ipados":
		return "iPad"
	case "macos":
		return "Mac"
	case "visionos":
		return "RealityDevice"
	}
	return ""
}

// same says whether the enrollment profile of b would be that of a.
func (a *AccountEnrollment) same(b *AccountEnrollment) bool {
	return a.Mode == b.Mode && a.ManagedAppleAccount == b.ManagedAppleAccount && a.RequiredAppID == b.RequiredAppID && a.Ticket == b.Ticket
}

// installing is how long a device that has its profile is taken to be busy with it: then
// the person has begun anew.
const installing = 10 * time.Minute

// waitsFor says whether an attempt that was begun at the portal waits for the sign-in of a
// ticket. One that another device has come far with does not.
func (a Attempt) waitsFor(t ticket, now time.Time) bool {
	if a.Visit == nil || !a.Visit.AccountDriven || !a.open() || a.Ownership != t.Mode.Ownership() {
		return false
	}
	at, coming := familyAt(a.Visit.Platform), FamilyOf(t.Product)
	if at != "" && coming != "" && at != coming {
		return false // the page is open elsewhere
	}
	switch {
	case a.Account == nil || a.Account.Ticket == t.AttemptID:
		return true
	case a.Stage == Authenticated:
		return a.Account.Product == t.Product
	}
	return now.Sub(a.StageAt[ProfileDownloaded]) > installing
}

// AccountEnrollment is what an attempt has beside that is made by account.
type AccountEnrollment struct {
	Mode                AccountMode `json:"mode"`
	ManagedAppleAccount string      `json:"managed_apple_account"` // AssignedManagedAppleID
	Product             string      `json:"product,omitempty"`     // "iPhone17,2", as the device says
	OSVersion           string      `json:"os_version,omitempty"`
	RequiredAppID       int64       `json:"required_app_id,omitempty"`
	Ticket              string      `json:"ticket,omitempty"`   // the sign-in that it is of
	AgreedAt            time.Time   `json:"agreed_at,omitzero"` // to the organisation's terms
}

// AgreedToTerms notes that the person of an attempt that is made by account has agreed to the
// organisation's terms. That of a device that is enrolled already has done so before.
func (s *Service) AgreedToTerms(ctx context.Context, id string) error {
	err := s.db.Update(ctx, func(tx storage.Tx) error {
		a, err := attempts.Get(tx, id)
		if errors.Is(err, storage.ErrNotFound) || err == nil && (a.Account == nil || !a.Account.AgreedAt.IsZero()) {
			return nil
		}
		if err != nil {
			return err
		}
		account := *a.Account
		account.AgreedAt = s.now().UTC()
		a.Account = &account
		return putAttempt(tx, a)
	})
	if err != nil {
		return fmt.Errorf("note agreement to terms: %w", err)
	}
	return nil
}

// mayEnrollBy says whether the user with a login may enrol by account.
func mayEnrollBy(tx storage.Tx, login string, mode AccountMode) error {
	err := identity.MayEnroll(tx, login, mode.use())
	if denied, ok := errors.AsType[*identity.DeniedError](err); ok && (denied.Denial == identity.DeniedDisabled || denied.Denial == identity.DeniedUser) {
		return ErrUserDisabled
	}
	return err
}

// challengeOf is the PKCE code challenge for a verifier (RFC 7636, 4.2, method S256).
func challengeOf(verifier string) string {
	sum := sha256.Sum256([]byte(verifier))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}
