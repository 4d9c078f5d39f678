package enroll

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

// OAuth 2 as devices are told of it (PROTOCOL 2.5).
const (
	OAuthClientID    = "gatehouse"
	OAuthScope       = "MDM"
	OAuthRedirectURI = handBackScheme + ":/oauth2/redirection"

	handBackScheme = "apple-remotemanagement-user-login"
)

// Errors of a sign-in that a device asks for, beside those of [Service.SignedIn].
var (
	// ErrTicket means that the address of a sign-in is none of ours, or too old.
	ErrTicket = errors.New("the sign-in is unknown or has expired")
	// ErrModeOff means that devices of the kind are not enrolled by account any more.
	ErrModeOff = errors.New("such devices are not enrolled by account here")
	// ErrAccountMissing means that nobody knows the Managed Apple Account of a person.
	ErrAccountMissing = errors.New("the user has no Managed Apple Account")
	// ErrAccountForeign means that a person's Managed Apple Account is not the
	// organisation's, or somebody else's.
	ErrAccountForeign = errors.New("the user's Managed Apple Account is not one that may enroll here")
)

// MinimumOSError means that a device's system is too old to enroll.
type MinimumOSError struct {
	Needed string // "18.2"
	Has    string // as the device says; may be empty
}

func (e *MinimumOSError) Error() string {
	return fmt.Sprintf("the device runs %s, and %s is needed", strings.TrimSpace("version "+e.Has), e.Needed)
}

// ticketLife is how long a person may take to sign in, with all that an identity provider
// wants of them.
const ticketLife = time.Hour

// ticket is what goes with a sign-in from the challenge to its end, sealed in the address:
// the device and the browser view that it opens share no cookies, and what anybody may
// begin any number of times should leave nothing here.
type ticket struct {
	AttemptID string       `json:"a"` // that the sign-in makes
	Mode      AccountMode  `json:"m"`
	Method    SignInMethod `json:"w"`
	Product   string       `json:"p,omitempty"` // "iPhone17,2"
	OSVersion string       `json:"o,omitempty"`
	Build     string       `json:"b,omitempty"`
	DeviceID  mdm.DeviceID `json:"d,omitempty"` // an enrolled device whose user signs in again
	IssuedAt  int64        `json:"t"`           // Unix time
}

const ticketPurpose = "account sign-in"

func (s *Service) sealTicket(t ticket) string {
	t.IssuedAt = s.now().Unix()
	raw, err := json.Marshal(t)
	if err != nil {
		panic(err) // strings and a number
	}
	return base64.RawURLEncoding.EncodeToString(s.box.Seal(ticketPurpose, raw))
}

func (s *Service) openTicket(sealed string) (t ticket, err error) {
	raw, err := base64.RawURLEncoding.DecodeString(sealed)
	if err == nil {
		raw, err = s.box.Open(ticketPurpose, raw)
	}
	if err == nil {
		err = json.Unmarshal(raw, &t)
	}
	if err != nil {
		return ticket{}, fmt.Errorf("%w: %w", ErrTicket, err)
	}
	if age := s.now().Sub(time.Unix(t.IssuedAt, 0)); age > ticketLife || age < -clockSkew {
		return t, fmt.Errorf("%w: it was made %s ago", ErrTicket, age.Round(time.Second))
	}
	return t, nil
}

// SignInRequired means that a device must have its user sign in: Challenge is for
// WWW-Authenticate, with status 401.
type SignInRequired struct {
	Challenge string
	Err       error // why; nil for a device that has not signed in yet
}

func (e *SignInRequired) Error() string {
	if e.Err == nil {
		return "sign-in required"
	}
	return "sign-in required: " + e.Err.Error()
}

// Unwrap returns why.
func (e *SignInRequired) Unwrap() error { return e.Err }

// signInRequired makes the challenge by which a device learns where its user signs in
// (PROTOCOL 2.3, 2.5).
func (s *Service) signInRequired(t ticket, why error) *SignInRequired {
	sealed := s.sealTicket(t)
	base := s.serverURL.JoinPath(t.Mode.Path())
	challenge := fmt.Sprintf(`Bearer method=%q, url=%q`, t.Method, base.JoinPath("sign-in", sealed))
	if t.Method == MethodOAuth2 {
		challenge = fmt.Sprintf(`Bearer method=%q, authorization-url=%q, token-url=%q, redirect-url=%q, client-id=%q, scope=%q`,
			t.Method, base.JoinPath("authorize", sealed), s.serverURL.JoinPath(PathToken), OAuthRedirectURI, OAuthClientID, OAuthScope)
	}
	return &SignInRequired{Challenge: challenge, Err: why}
}

// AccountSignIn is a sign-in that a device has asked for.
type AccountSignIn struct {
	Mode      AccountMode
	Method    SignInMethod
	Product   string // "iPhone17,2"; may be empty, as the next
	OSVersion string
	Again     bool // of a device that is enrolled
	BegunAt   time.Time
}

// AccountSignIn returns the sign-in that a ticket is for, so that whoever is to sign in is
// told first what stands in the way. Its errors wrap ErrTicket or ErrModeOff, or are a
// *MinimumOSError.
func (s *Service) AccountSignIn(ctx context.Context, sealed string) (in AccountSignIn, err error) {
	t, err := s.openTicket(sealed)
	if err != nil {
		return AccountSignIn{}, err
	}
	in = AccountSignIn{
		Mode: t.Mode, Method: t.Method, Product: t.Product, OSVersion: t.OSVersion, Again: t.DeviceID != "", BegunAt: time.Unix(t.IssuedAt, 0),
	}
	c, err := s.AccountDriven(ctx)
	if err != nil {
		return AccountSignIn{}, err
	}
	return in, c.serves(t)
}

// serves says whether a ticket may still become a sign-in.
func (c AccountDriven) serves(t ticket) error {
	if t.DeviceID != "" {
		return nil // it is enrolled, whatever holds for new ones
	}
	family := FamilyOf(t.Product)
	if !c.offers(t.Mode, family) {
		return ErrModeOff
	}
	needed := c.MinimumOS[family]
	if needed != "" && tooOld(needed, family, t.OSVersion, t.Build) {
		return &MinimumOSError{Needed: needed, Has: t.OSVersion}
	}
	return nil
}

// firstBuilds are the numbers with which the builds of a system's versions begin: a device
// may tell nothing but its build. Version 26 followed 18, and build 23A followed 22.
var firstBuilds = map[ModelFamily]map[int]int{
	"iPhone":        {19: 15, 20: 16, 21: 17, 22: 18, 23: 26, 24: 27},
	"Mac":           {21: 12, 22: 13, 23: 14, 24: 15, 25: 26, 26: 27},
	"RealityDevice": {21: 1, 22: 2, 23: 26, 24: 27},
}

// tooOld says whether a system is older than needed, as far as the device tells.
func tooOld(needed string, family ModelFamily, version, build string) bool {
	least, ok := parseVersion(needed)
	if !ok {
		return false
	}
	// "16.1 (a)" is a rapid response to 16.1.
	version, _, _ = strings.Cut(version, " ")
	if has, ok := parseVersion(version); ok {
		for i := range least {
			if has[i] != least[i] {
				return has[i] < least[i]
			}
		}
		return false
	}
	if family == "iPad" {
		family = "iPhone"
	}
	digits := build[:len(build)-len(strings.TrimLeft(build, "0123456789"))]
	first, err := strconv.Atoi(digits)
	major, known := firstBuilds[family][first]
	return err == nil && known && major < least[0]
}

// handBack is the address by which a browser view gives a device what it waits for.
func handBack(base string, values url.Values) string { return base + "?" + values.Encode() }

// userOfTicket checks that u may sign in by t, and returns the Managed Apple Account that
// the device will be told.
func (s *Service) userOfTicket(tx storage.Tx, t ticket, login, account string) (string, error) {
	settings, err := GetSettings(tx)
	if err != nil {
		return "", err
	}
	if err := mayEnrollBy(tx, login, t.Mode); err != nil {
		return "", err
	}
	if account == "" {
		return "", ErrAccountMissing
	}
	if s.played(account) {
		settings.AccountDomains = nil
	}
	account, err = checkAccount(tx, account, login, settings)
	if field, wrong := errors.AsType[*FieldError](err); wrong {
		return "", fmt.Errorf("%w: it %s", ErrAccountForeign, field.Reason)
	}
	return account, err
}
