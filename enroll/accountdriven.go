package enroll

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/enroll/wellknown"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/event"
	"github.com/gatehouse-mdm/gatehouse/mdm/profile"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

// Paths of account-driven enrollment. The first two stand in what service discovery tells
// devices, the third in what they are challenged with.
const (
	PathBYOD  = "/enroll/byod"
	PathADDE  = "/enroll/adde"
	PathToken = "/enroll/token"

	// PathDiscovery is where a device asks the domain of an account how it enrolls (Apple,
	// "Discover Authentication Servers").
	PathDiscovery = "/.well-known/com.apple.remotemanagement"
)

// AccountMode is how a device enrolls whose user signs in with an account.
type AccountMode string

// The modes. ModeOff refuses.
const (
	ModeBYOD AccountMode = "byod" // User Enrollment
	ModeADDE AccountMode = "adde" // account-driven Device Enrollment
	ModeOff  AccountMode = "off"
)

// Path is where a device of the mode posts what it is, below the server's URL.
func (m AccountMode) Path() string {
	if m == ModeADDE {
		return PathADDE
	}
	return PathBYOD
}

// Version is the word for the mode in service discovery.
func (m AccountMode) Version() string { return "mdm-" + string(m) }

// Ownership says whose device one of the mode is.
func (m AccountMode) Ownership() mdm.Ownership {
	if m == ModeADDE {
		return mdm.Institutional
	}
	return mdm.Personal
}

func (m AccountMode) use() identity.Use {
	if m == ModeADDE {
		return identity.UseAccountDevice
	}
	return identity.UseUser
}

// enrollment is the EnrollmentMode in the profile.
func (m AccountMode) enrollment() profile.Mode {
	if m == ModeADDE {
		return profile.ADDE
	}
	return profile.BYOD
}

// ModelFamily is what Apple calls a kind of device in service discovery.
type ModelFamily string

// ModelFamilies are those that Apple names.
func ModelFamilies() []ModelFamily {
	return []ModelFamily{"iPhone", "iPad", "Mac", "RealityDevice", "Watch", "AppleTV"}
}

// FamilyOf returns the family of a product such as "iPhone17,2"; it is empty where nothing
// is known.
func FamilyOf(product string) ModelFamily {
	for _, known := range []struct {
		prefix string
		family ModelFamily
	}{
		{"iPhone", "iPhone"}, {"iPod", "iPhone"}, {"iPad", "iPad"}, {"RealityDevice", "RealityDevice"}, {"Watch", "Watch"},
		{"AppleTV", "AppleTV"}, {"Mac", "Mac"}, {"iMac", "Mac"}, {"VirtualMac", "Mac"}, {"VMware", "Mac"}, {"Parallels", "Mac"},
	} {
		if strings.HasPrefix(product, known.prefix) {
			return known.family
		}
	}
	return ""
}

// SignInMethod is by what protocol a device lets its user sign in.
type SignInMethod string

// The methods, as Apple calls them.
const (
	MethodWeb    SignInMethod = "apple-as-web"
	MethodOAuth2 SignInMethod = "apple-oauth2"
)

// AfterToken says what becomes of a device whose access token is good for nothing any more.
type AfterToken string

// The choices.
const (
	AfterSignIn   AfterToken = "sign_in"  // its user is asked to sign in again, and it gets no command until then
	AfterUnenroll AfterToken = "unenroll" // its enrollment ends
)

// AccountDriven is what the operator decides about account-driven enrollment. The zero
// value is not valid: DefaultAccountDriven is what a new server has.
type AccountDriven struct {
	Domains []AccountDomain `json:"domains"`
	Method  SignInMethod    `json:"method"`

	// TokenIdle is for how long a device may be silent, and TokenLife how long after a
	// sign-in it goes on, before its user is asked to sign in again; 0: for ever.
	TokenIdle time.Duration `json:"token_idle"`
	TokenLife time.Duration `json:"token_life"`
	// AccessLife is how long an access token of OAuth 2 is good, before the device silently
	// asks for another one.
	AccessLife time.Duration `json:"access_life"`

	TokenExpired AfterToken `json:"token_expired"`
	TokenRevoked AfterToken `json:"token_revoked"`
	// UserDisabled is for devices whose user may not sign in any more. With AfterSignIn they
	// stay enrolled, and are asked in vain until the user may again. Their payload
	// certificates are revoked, and those that were assigned to them are sent again then.
	UserDisabled AfterToken `json:"user_disabled"`

	// RequiredAppID is the App Store's number of an app that devices may be given without
	// asking their users (Apple: RequiredAppIDForMDM); 0: none.
	RequiredAppID int64 `json:"required_app_id,omitempty"`

	// WatchPairing has an Apple Watch enrolled with the managed iPhone that it is paired with.
	WatchPairing bool `json:"watch_pairing,omitempty"`

	// MinimumOS is the oldest system that may enroll, by family: "18.2".
	MinimumOS map[ModelFamily]string `json:"minimum_os,omitempty"`
}

// AccountDomain is the part behind the @ of what people type on their devices.
type AccountDomain struct {
	Domain string `json:"domain"`
	// Policy says how devices enroll, by family; one that is not in it does not.
	Policy map[ModelFamily]AccountMode `json:"policy"`
	// Message is what a person reads whose device is refused; empty: a sentence of ours.
	Message string `json:"message,omitempty"`
}

// audited is c as the audit log tells of changes: as the API spells it, but for domains,
// which have their names for fields.
func (c AccountDriven) audited() map[string]any {
	domains := make(map[string]any, len(c.Domains))
	for _, d := range c.Domains {
		domains[d.Domain] = map[string]any{"policy": d.Policy, "message": d.Message}
	}
	return map[string]any{
		"domains": domains, "method": c.Method, "token_idle": c.TokenIdle.String(), "token_life": c.TokenLife.String(), "access_life": c.AccessLife.String(),
		"token_expired": c.TokenExpired, "token_revoked": c.TokenRevoked, "user_disabled": c.UserDisabled,
		"required_app_id": c.RequiredAppID, "watch_pairing": c.WatchPairing, "minimum_os": c.MinimumOS,
	}
}

// DefaultAccountDriven is what a new server has: no domain.
func DefaultAccountDriven() AccountDriven {
	return AccountDriven{
		Method: MethodWeb, TokenIdle: 90 * day, AccessLife: 8 * time.Hour,
		TokenExpired: AfterSignIn, TokenRevoked: AfterSignIn, UserDisabled: AfterUnenroll,
	}
}

// domain returns the one of a name, nil if there is none.
func (c AccountDriven) domain(name string) *AccountDomain {
	name = asDomain(name)
	for i := range c.Domains {
		if c.Domains[i].Domain == name {
			return &c.Domains[i]
		}
	}
	return nil
}

// methodFor is how a device's user signs in: iOS 15 knows one of the methods alone.
func (c AccountDriven) methodFor(product, version, build string) SignInMethod {
	if family := FamilyOf(product); (family == "iPhone" || family == "iPad") && tooOld("16", family, version, build) {
		return MethodWeb
	}
	return c.Method
}

// offers says whether devices of a family enroll in a mode, by any domain. Of a device that
// does not say what it is, some family must.
func (c AccountDriven) offers(mode AccountMode, family ModelFamily) bool {
	for _, d := range c.Domains {
		if family != "" && d.Policy[family] == mode || family == "" && slices.Contains(slices.Collect(maps.Values(d.Policy)), mode) {
			return true
		}
	}
	return false
}

const (
	maxAccountDomains = 100
	maxRefusalMessage = 500
	// minTokenLife keeps people from being asked to sign in all the time.
	minTokenLife  = time.Hour
	minAccessLife = 5 * time.Minute
	maxTokenLife  = 10 * 365 * day
)

func (c *AccountDriven) check() error {
	if len(c.Domains) > maxAccountDomains {
		return &FieldError{"domains", fmt.Sprintf("must be at most %d", maxAccountDomains)}
	}
	for i := range c.Domains {
		field := fmt.Sprintf("domains[%d]", i)
		d := &c.Domains[i]
		domain, err := wellknown.ParseDomain(strings.TrimSuffix(strings.TrimSpace(d.Domain), "."))
		if wrong, ok := errors.AsType[*wellknown.FieldError](err); ok {
			return &FieldError{field + ".domain", wrong.Reason}
		}
		d.Domain = domain
		if slices.ContainsFunc(c.Domains[:i], func(other AccountDomain) bool { return other.Domain == d.Domain }) {
			return &FieldError{field + ".domain", "is listed twice"}
		}
		for _, family := range slices.Sorted(maps.Keys(d.Policy)) {
			if err := checkPolicy(field+".policy."+string(family), family, d.Policy[family]); err != nil {
				return err
			}
		}
		d.Message = strings.TrimSpace(d.Message)
		if len(d.Message) > maxRefusalMessage || strings.ContainsFunc(d.Message, func(r rune) bool { return r < 0x20 || r == 0x7f }) {
			return &FieldError{field + ".message", fmt.Sprintf("must be at most %d bytes without control characters", maxRefusalMessage)}
		}
	}
	if c.Method != MethodWeb && c.Method != MethodOAuth2 {
		return &FieldError{"method", "must be apple-as-web or apple-oauth2"}
	}
	for _, life := range []struct {
		field string
		value time.Duration
		least time.Duration
		never bool
	}{
		{"token_idle", c.TokenIdle, minTokenLife, true},
		{"token_life", c.TokenLife, minTokenLife, true},
		{"access_life", c.AccessLife, minAccessLife, false},
	} {
		if life.never && life.value == 0 {
			continue
		}
		if life.value < life.least || life.value > maxTokenLife {
			return &FieldError{life.field, fmt.Sprintf("must be %s to %s", life.least, maxTokenLife)}
		}
	}
	for _, after := range []struct {
		field string
		value AfterToken
	}{{"token_expired", c.TokenExpired}, {"token_revoked", c.TokenRevoked}, {"user_disabled", c.UserDisabled}} {
		if after.value != AfterSignIn && after.value != AfterUnenroll {
			return &FieldError{after.field, "must be sign_in or unenroll"}
		}
	}
	if c.RequiredAppID < 0 || c.RequiredAppID > 1<<40 {
		return &FieldError{"required_app_id", "must be the number in the app's address in the App Store, or 0"}
	}
	for _, family := range slices.Sorted(maps.Keys(c.MinimumOS)) {
		field := "minimum_os." + string(family)
		if !slices.Contains(ModelFamilies(), family) {
			return &FieldError{field, "is no model family: " + familyNames()}
		}
		if _, ok := parseVersion(c.MinimumOS[family]); !ok {
			return &FieldError{field, "must be a version such as 18.2"}
		}
	}
	return nil
}

func checkPolicy(field string, family ModelFamily, mode AccountMode) error {
	switch {
	case !slices.Contains(ModelFamilies(), family):
		return &FieldError{field, "is no model family: " + familyNames()}
	case mode != ModeBYOD && mode != ModeADDE && mode != ModeOff:
		return &FieldError{field, "must be byod, adde or off"}
	case mode != ModeOff && (family == "Watch" || family == "AppleTV"):
		return &FieldError{field, "must be off: Apple has no account-driven enrollment there"}
	}
	return nil
}

func familyNames() string {
	names := make([]string, 0, len(ModelFamilies()))
	for _, f := range ModelFamilies() {
		names = append(names, string(f))
	}
	return strings.Join(names, ", ")
}

// asDomain is a domain as it is kept: in lower case, and in ASCII (RFC 5891). What is none is
// returned in lower case.
func asDomain(name string) string {
	name = strings.TrimSuffix(name, ".")
	if ascii, err := wellknown.ParseDomain(name); err == nil {
		return ascii
	}
	return strings.ToLower(name)
}

// parseVersion reads a version such as 18.2.1.
func parseVersion(text string) (v [3]int, ok bool) {
	parts := strings.Split(text, ".")
	if len(parts) > len(v) {
		return v, false
	}
	for i, part := range parts {
		n, err := strconv.Atoi(part)
		if err != nil || n < 0 || n > 999 || len(part) > 3 {
			return v, false
		}
		v[i] = n
	}
	return v, true
}

var accountDrivenRecords = storage.NewCollection("enroll.account_driven", 1, func(AccountDriven) string { return settingsKey })

func getAccountDriven(tx storage.Tx) (AccountDriven, error) {
	c, err := accountDrivenRecords.Get(tx, settingsKey)
	if errors.Is(err, storage.ErrNotFound) {
		return DefaultAccountDriven(), nil
	}
	return c, err
}

// AccountDriven returns what is decided about account-driven enrollment.
func (s *Service) AccountDriven(ctx context.Context) (c AccountDriven, err error) {
	err = s.db.View(ctx, func(tx storage.Tx) error {
		c, err = getAccountDriven(tx)
		return err
	})
	if err != nil {
		return AccountDriven{}, fmt.Errorf("account-driven enrollment: %w", err)
	}
	return c, nil
}

// UpdateAccountDriven changes it, in force at once: change gets what is in force, and may
// run more than once. Its errors are *FieldError or the store's.
func (s *Service) UpdateAccountDriven(ctx context.Context, change func(*AccountDriven) error) (c AccountDriven, err error) {
	err = s.db.Update(ctx, func(tx storage.Tx) error {
		if c, err = getAccountDriven(tx); err != nil {
			return err
		}
		before := c.clone()
		c = c.clone()
		if err := change(&c); err != nil {
			return err
		}
		if err := c.check(); err != nil {
			return err
		}
		if err := accountDrivenRecords.Put(tx, c); err != nil {
			return err
		}
		return event.Record(tx, event.Event{At: s.now().UTC(), Actor: actor(ctx), Action: "account_driven.changed", Changes: event.Changes(before.audited(), c.audited())})
	})
	if err != nil {
		return AccountDriven{}, fmt.Errorf("change account-driven enrollment: %w", err)
	}
	s.log.InfoContext(ctx, "account-driven enrollment changed", "by", actor(ctx), "domains", len(c.Domains), "method", c.Method)
	return c, nil
}

// clone returns a copy that shares nothing with c.
func (c AccountDriven) clone() AccountDriven {
	c.Domains = slices.Clone(c.Domains)
	for i := range c.Domains {
		c.Domains[i].Policy = maps.Clone(c.Domains[i].Policy)
	}
	c.MinimumOS = maps.Clone(c.MinimumOS)
	return c
}
