package enroll

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

// Errors of enrollment links, one for each way in which a link can be no use.
var (
	ErrLinkUnknown   = errors.New("no enrollment link has this code")
	ErrLinkExpired   = errors.New("the enrollment link has expired")
	ErrLinkUsedUp    = errors.New("the enrollment link has no uses left")
	ErrLinkRevoked   = errors.New("the enrollment link was revoked")
	ErrLoginRequired = errors.New("the enrollment link asks for a login")
	ErrUserDisabled  = errors.New("the user of the enrollment link may not enroll")
	ErrLinkForeign   = errors.New("the enrollment link is for another user")
	ErrSerialNumber  = errors.New("the device's serial number is not one that the enrollment link is for")
)

// Login says whether a link asks who is enrolling.
type Login string

// The kinds of login.
const (
	LoginNone     Login = "none"
	LoginRequired Login = "required"
)

// Limits of a link.
const (
	MaxLinkUses     = 100_000
	MaxLinkLife     = 366 * 24 * time.Hour
	DefaultLinkLife = 7 * 24 * time.Hour

	maxNameLen       = 200 // bytes of a name or a user
	maxSerialNumbers = 1000
)

// Link invites devices to enroll. Its code is an invitation that is handed
// around, printed and shown again, not a password, so it is kept readable.
type Link struct {
	ID        string        `json:"id"`
	Code      string        `json:"code"`
	Name      string        `json:"name,omitempty"`
	Ownership mdm.Ownership `json:"ownership"` // empty: who enrols is asked
	Login     Login         `json:"login"`
	User      string        `json:"user,omitempty"`      // who enrolls by it, when that is fixed
	Uses      int           `json:"uses"`                // how many it was made with
	UsesLeft  int           `json:"uses_left"`           // one is spent when a certificate is issued
	Unlimited bool          `json:"unlimited,omitempty"` // no use is ever spent; Uses and UsesLeft are 0
	ShortCode string        `json:"short_code,omitempty"`

	// SerialNumbers are the devices that may enrol by it; none: any. It is checked when a
	// device states its serial number, and at the latest at Authenticate.
	SerialNumbers []string `json:"serial_numbers,omitempty"`

	Demo      bool      `json:"demo,omitempty"` // of this server's own demo
	CreatedAt time.Time `json:"created_at"`
	CreatedBy string    `json:"created_by,omitempty"`
	ExpiresAt time.Time `json:"expires_at"`
	RevokedAt time.Time `json:"revoked_at,omitzero"`
}

// Usable returns nil, or the error that says why no device can enroll by l at now.
func (l Link) Usable(now time.Time) error {
	switch {
	case !l.RevokedAt.IsZero():
		return ErrLinkRevoked
	case !now.Before(l.ExpiresAt):
		return ErrLinkExpired
	case l.usedUp():
		return ErrLinkUsedUp
	}
	return nil
}

func (l Link) usedUp() bool { return !l.Unlimited && l.UsesLeft <= 0 }

// Admits says whether a device with this serial number may enrol by l; a device that
// states none may not where l has a list.
func (l Link) Admits(serialNumber string) bool {
	return len(l.SerialNumbers) == 0 || slices.Contains(l.SerialNumbers, normalSerialNumber(serialNumber))
}

func normalSerialNumber(s string) string { return strings.ToUpper(strings.TrimSpace(s)) }

const (
	linksByCode  = "code"
	linksByShort = "short"
)

var links = storage.NewCollection("enrollment_links", 1,
	func(l Link) string { return l.ID },
	storage.Index[Link]{Name: linksByCode, Unique: true, Values: func(l Link) []string { return []string{l.Code} }},
	storage.Index[Link]{Name: linksByShort, Unique: true, Values: func(l Link) []string {
		if l.ShortCode == "" {
			return nil
		}
		return []string{l.ShortCode}
	}},
)

// NewLink describes a link to be made.
type NewLink struct {
	Name      string
	Ownership mdm.Ownership // empty: institutional, unless Ask
	Ask       bool          // who enrols says whose device it is
	Login     Login         // empty: required
	User      string
	Uses      int // 0: 1
	Unlimited bool
	ExpiresIn time.Duration // 0: DefaultLinkLife

	SerialNumbers []string // none: any device
	Demo          bool
	CreatedBy     string
}

// FieldError says what is wrong with one field of a request, in the words of
// the API: Field is its JSON name.
type FieldError struct {
	Field, Reason string
}

func (e *FieldError) Error() string { return e.Field + ": " + e.Reason }

// fill checks n and sets its defaults.
func (n *NewLink) fill() error {
	n.Name, n.User = strings.TrimSpace(n.Name), strings.TrimSpace(n.User)
	switch {
	case len(n.Name) > maxNameLen:
		return &FieldError{"name", fmt.Sprintf("must be at most %d bytes", maxNameLen)}
	case len(n.User) > maxNameLen:
		return &FieldError{"user", fmt.Sprintf("must be at most %d bytes", maxNameLen)}
	case n.Uses < 0 || n.Uses > MaxLinkUses:
		return &FieldError{"uses", fmt.Sprintf("must be 1 to %d", MaxLinkUses)}
	case n.ExpiresIn < 0 || n.ExpiresIn > MaxLinkLife:
		return &FieldError{"expires_in", fmt.Sprintf("must be positive and at most %s", MaxLinkLife)}
	}
	switch n.Ownership {
	case "":
		if !n.Ask {
			n.Ownership = mdm.Institutional
		}
	case mdm.Institutional, mdm.Personal:
	default:
		return &FieldError{"ownership", `must be "institutional" or "personal"`}
	}
	switch n.Login {
	case "":
		n.Login = LoginRequired
	case LoginNone, LoginRequired:
	default:
		return &FieldError{"login", `must be "none" or "required"`}
	}
	switch {
	case n.Unlimited && n.Uses != 0:
		return &FieldError{"uses", "can't be given for a link that is unlimited"}
	case !n.Unlimited && n.Uses == 0:
		n.Uses = 1
	}
	if len(n.SerialNumbers) > maxSerialNumbers {
		return &FieldError{"serial_numbers", fmt.Sprintf("must be at most %d", maxSerialNumbers)}
	}
	n.SerialNumbers = slices.Clone(n.SerialNumbers)
	for i, serial := range n.SerialNumbers {
		if serial = normalSerialNumber(serial); !isSerialNumber(serial) {
			return &FieldError{fmt.Sprintf("serial_numbers[%d]", i), "must be a serial number: 8 to 20 letters and digits"}
		}
		n.SerialNumbers[i] = serial
	}
	if n.ExpiresIn == 0 {
		n.ExpiresIn = DefaultLinkLife
	}
	return nil
}

// isSerialNumber says whether s is like those that Apple gives, of which no form is
// promised.
func isSerialNumber(s string) bool {
	return len(s) >= 8 && len(s) <= 20 && !strings.ContainsFunc(s, func(r rune) bool {
		return (r < '0' || r > '9') && (r < 'A' || r > 'Z')
	})
}

// CreateLink makes a link. Its errors are *FieldError or the store's.
func (s *Service) CreateLink(ctx context.Context, n NewLink) (Link, error) {
	l, err := n.link(s.now())
	if err != nil {
		return Link{}, err
	}
	if err := s.db.Update(ctx, func(tx storage.Tx) error { return s.createLink(tx, l) }); err != nil {
		return Link{}, fmt.Errorf("create enrollment link: %w", err)
	}
	s.log.InfoContext(ctx, "enrollment link created", "link", l.ID, "ownership", l.Ownership, "login", l.Login, "uses", l.Uses, "by", l.CreatedBy)
	return l, nil
}

// AddLink is CreateLink in a transaction of somebody else's.
func (s *Service) AddLink(tx storage.Tx, n NewLink) (Link, error) {
	l, err := n.link(s.now())
	if err != nil {
		return Link{}, err
	}
	return l, s.createLink(tx, l)
}

// createLink stores a new link, unless nobody could enrol by it.
func (s *Service) createLink(tx storage.Tx, l Link) error {
	settings, err := GetSettings(tx)
	if err != nil {
		return err
	}
	if l.Ownership != "" && !settings.Way(l.Ownership).Enabled {
		return &FieldError{"ownership", fmt.Sprintf("must be one that is enrolled here: the setting %s.enabled is false", l.Ownership)}
	}
	if err := links.Create(tx, l); err != nil {
		return err
	}
	return s.tellLink(tx, "link.created", cmp.Or(l.CreatedBy, ourselves), nil, l)
}

// link returns the link that n describes, or a *FieldError.
func (n NewLink) link(now time.Time) (Link, error) {
	if err := n.fill(); err != nil {
		return Link{}, err
	}
	now = now.UTC()
	return Link{
		ID: newID(), Code: newLinkCode(), ShortCode: newShortCode(), Name: n.Name, Ownership: n.Ownership, Login: n.Login, User: n.User,
		Uses: n.Uses, UsesLeft: n.Uses, Unlimited: n.Unlimited, SerialNumbers: n.SerialNumbers, Demo: n.Demo,
		CreatedAt: now, CreatedBy: n.CreatedBy, ExpiresAt: now.Add(n.ExpiresIn),
	}, nil
}

// Link returns one link by its ID, or an error that wraps storage.ErrNotFound.
func (s *Service) Link(ctx context.Context, id string) (l Link, err error) {
	err = s.db.View(ctx, func(tx storage.Tx) error {
		l, err = links.Get(tx, id)
		return err
	})
	if err != nil {
		return Link{}, fmt.Errorf("enrollment link %s: %w", id, err)
	}
	return l, nil
}

// Links returns a page of links in the order of their IDs; next is empty at the end.
func (s *Service) Links(ctx context.Context, cursor string, limit int) (page []Link, next string, err error) {
	err = s.db.View(ctx, func(tx storage.Tx) error {
		page, next, err = storage.Page(tx, links, cursor, limit)
		return err
	})
	if err != nil {
		return nil, "", fmt.Errorf("list enrollment links: %w", err)
	}
	return page, next, nil
}

// RevokeLink ends a link: its open attempts fail. Devices that enrolled by it stay.
func (s *Service) RevokeLink(ctx context.Context, id string) error {
	err := s.db.Update(ctx, func(tx storage.Tx) error {
		l, err := links.Get(tx, id)
		if err != nil {
			return err
		}
		if !l.RevokedAt.IsZero() {
			return nil
		}
		before := l
		l.RevokedAt = s.now().UTC()
		if err := links.Put(tx, l); err != nil {
			return err
		}
		if err := s.tellLink(tx, "link.revoked", actor(ctx), &before, l); err != nil {
			return err
		}
		return s.failOpenAttempts(tx, l.ID, codeOf(ErrLinkRevoked))
	})
	if err != nil {
		return fmt.Errorf("revoke enrollment link %s: %w", id, err)
	}
	s.failLateAttempts(ctx, id, ErrLinkRevoked)
	s.log.InfoContext(ctx, "enrollment link revoked", "link", id)
	return nil
}

// OpenLink returns the link with a code if a device can enroll by it now, or
// one of the ErrLink errors.
func (s *Service) OpenLink(ctx context.Context, code string) (l Link, err error) {
	err = s.db.View(ctx, func(tx storage.Tx) error {
		l, err = s.findLink(tx, code)
		return err
	})
	if err != nil {
		return Link{}, fmt.Errorf("open enrollment link: %w", err)
	}
	return l, nil
}

func (s *Service) findLink(tx storage.Tx, code string) (Link, error) {
	if len(code) == 0 || len(code) > 64 {
		return Link{}, ErrLinkUnknown
	}
	l, err := links.One(tx, linksByCode, code)
	if errors.Is(err, storage.ErrNotFound) {
		return Link{}, ErrLinkUnknown
	}
	if err != nil {
		return Link{}, err
	}
	return l, l.Usable(s.now())
}

// newID returns a random name for a record: 128 bits and more, lower-case.
func newID() string { return strings.ToLower(rand.Text()) }

// newLinkCode returns a code that can be read out and typed: 100 bits of letters
// and the digits 2 to 7.
func newLinkCode() string { return strings.ToLower(rand.Text()[:20]) }
