// Package business is the link to the organisation's Apple Business Manager or Apple
// School Manager: the token by which Apple knows this server as one of the
// organisation's device management services, and what the token is good for. That is
// who the organisation is, the address that devices find this server by where the
// organisation's domain does not tell them, and tokens of Managed Apple Accounts.
//
// It knows nothing of devices and their assignment, nor of who may do what.
//
// Sources: Apple, "Device assignment", "Authenticating for Automated Device Enrollment",
// "Get the Account Detail", "Assign Account-Driven Enrollment Service Discovery" and its
// siblings, "GetToken".
package business

import (
	"context"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/mdm/event"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/guard"
	"github.com/gatehouse-mdm/gatehouse/storage/seal"
)

var (
	// ErrNoKey means that no key was made yet that a token could be for.
	ErrNoKey = errors.New("no key for a server token was made yet")

	// ErrNoLink means that there is no server token, or for tokens of Managed Apple
	// Accounts: that Apple would not know their signature as ours.
	ErrNoLink = errors.New("this server is not linked to Apple Business Manager or Apple School Manager")

	// ErrRegistered means that devices are still sent here by Apple.
	ErrRegistered = errors.New("the discovery URL is registered with Apple")

	// ErrNotHTTPS means that the server's URL can't be registered.
	ErrNotHTTPS = errors.New("only an https URL can be registered with Apple, and this server's is none")
)

// Expiring is how long before its end a token is due to be renewed. Apple makes tokens
// for a year.
const Expiring = 30 * 24 * time.Hour

// Config says what a Service needs: DB, Box, ServerURL, Log and Now.
type Config struct {
	DB        storage.DB
	Box       *seal.Box
	ServerURL *url.URL // what devices use

	// Endpoint is the device assignment service; nil: Apple's.
	Endpoint *url.URL

	// AllowPrivate lets Endpoint be in this machine's own network, for tests.
	AllowPrivate bool

	Release string // of this program: Apple is told

	NewKey func() (*rsa.PrivateKey, error) // of 2048 bits; nil: a new one

	Log *slog.Logger
	Now func() time.Time
}

// Service is the link. Its methods may be called from many goroutines.
type Service struct {
	db        storage.DB
	box       *seal.Box
	discovery string // our URL for service discovery
	endpoint  *url.URL
	client    *http.Client
	userAgent string
	newKey    func() (*rsa.PrivateKey, error)
	host      string
	log       *slog.Logger
	now       func() time.Time

	// A session saves a request, and ends after minutes: each process has its own.
	mu      sync.Mutex
	session session
}

// New returns a Service, or says what c lacks.
func New(c Config) (*Service, error) {
	if c.DB == nil || c.Box == nil || c.ServerURL == nil || c.Log == nil || c.Now == nil {
		return nil, errors.New("business: DB, Box, ServerURL, Log and Now are required")
	}
	s := &Service{
		db: c.DB, box: c.Box, host: c.ServerURL.Hostname(),
		discovery: c.ServerURL.JoinPath(".well-known", "com.apple.remotemanagement").String(),
		endpoint:  c.Endpoint, client: guard.NewClient(c.AllowPrivate), userAgent: userAgent(c.Release),
		newKey: c.NewKey, log: c.Log, now: c.Now,
	}
	if s.endpoint == nil {
		s.endpoint = &url.URL{Scheme: "https", Host: "mdmenrollment.apple.com"}
	}
	if s.newKey == nil {
		s.newKey = newKey
	}
	return s, nil
}

// record is the link as it is kept: one record, so that key, token and account are of
// each other.
type record struct {
	Current *pair `json:"current,omitempty"` // whose certificate Apple has, if Proven
	Next    *pair `json:"next,omitempty"`    // takes over with the first token that is for it

	// Proven: Apple encrypted the token to the certificate of Current.
	Proven bool `json:"proven"`

	Token   *tokenRecord `json:"token,omitempty"`
	Account *Account     `json:"account,omitempty"`
	Trouble *Trouble     `json:"trouble,omitempty"` // of the last call; nil: there was none

	Discovery *Discovery `json:"discovery,omitempty"` // as Apple last said; nil: never asked
}

const (
	recordKey = "link"
	ourselves = "server" // in the audit log
)

var records = storage.NewCollection("enroll.business", 1, func(record) string { return recordKey })

// load returns the empty record where there is none.
func load(tx storage.Tx) (record, error) {
	r, err := records.Get(tx, recordKey)
	if errors.Is(err, storage.ErrNotFound) {
		return record{}, nil
	}
	if err != nil {
		return record{}, fmt.Errorf("link to Apple: %w", err)
	}
	return r, nil
}

func (s *Service) load(ctx context.Context) (r record, err error) {
	err = s.db.View(ctx, func(tx storage.Tx) error {
		r, err = load(tx)
		return err
	})
	return r, err
}

// Link is what there is to see of the link. The zero Link is that of a new server.
type Link struct {
	// Certificate is the one that Apple's tokens are for; nil: no key was made yet.
	Certificate *x509.Certificate

	// Next is the certificate of a key that was made to replace that of Certificate, and
	// does so when a token comes that is for it; nil: there is none.
	Next *x509.Certificate

	TokenStored  time.Time // zero: there is no token
	TokenExpires time.Time

	Account *Account // nil: Apple has not told yet

	// Signs says whether tokens of Managed Apple Accounts are signed: Apple knows the key,
	// and we know our name there.
	Signs bool

	Trouble   *Trouble   // what is wrong with the token at Apple; nil: nothing
	Discovery *Discovery // as Apple last said; nil: it was never asked
}

// State is how far a link is, and how it is.
type State string

// The states of a link.
const (
	NoKey     State = "no_key"
	NoToken   State = "no_token"
	Connected State = "connected"
	Renew     State = "expiring" // connected, for less than Expiring
	Expired   State = "expired"
	Troubled  State = "trouble" // Apple refuses something, or does not answer
)

// State returns the state at the time now: what has to be done about first.
func (l Link) State(now time.Time) State {
	switch {
	case l.TokenStored.IsZero() && l.Certificate == nil:
		return NoKey
	case l.TokenStored.IsZero():
		return NoToken
	case !now.Before(l.TokenExpires):
		return Expired
	case l.Trouble != nil:
		return Troubled
	case l.TokenExpires.Sub(now) < Expiring:
		return Renew
	}
	return Connected
}

// Link returns the link as it is known here, without asking Apple.
func (s *Service) Link(ctx context.Context) (Link, error) {
	r, err := s.load(ctx)
	if err != nil {
		return Link{}, err
	}
	return s.link(r)
}

func (s *Service) link(r record) (l Link, err error) {
	l = Link{Account: r.Account, Signs: r.signs(), Trouble: r.Trouble}
	if r.Discovery != nil {
		d := s.mine(*r.Discovery)
		l.Discovery = &d
	}
	if r.Token != nil {
		l.TokenStored, l.TokenExpires = r.Token.Stored, r.Token.Expires
	}
	if r.Current != nil {
		if l.Certificate, err = r.Current.certificate(); err != nil {
			return Link{}, err
		}
	}
	if r.Next != nil {
		if l.Next, err = r.Next.certificate(); err != nil {
			return Link{}, err
		}
	}
	return l, nil
}

// Remove forgets token, account and keys. Apple is not told: the device management
// service there is for its people to remove. Where the discovery URL is registered as
// far as is known, devices would still be sent here, and it is an error that wraps
// ErrRegistered, unless force.
func (s *Service) Remove(ctx context.Context, force bool) error {
	return s.db.Update(ctx, func(tx storage.Tx) error {
		r, err := load(tx)
		if err != nil {
			return err
		}
		if r.Current == nil && r.Token == nil {
			return nil
		}
		if r.Discovery != nil && s.mine(*r.Discovery).Ours && !force {
			return ErrRegistered
		}
		if err := records.Delete(tx, recordKey); err != nil {
			return err
		}
		return s.tell(ctx, tx, "apple_business.removed", nil, event.Changes(r.audited(), nil))
	})
}

// audited is r as the audit log tells of changes.
func (r record) audited() map[string]any {
	fields := map[string]any{}
	if r.Current != nil {
		fields["certificate"] = fingerprint(r.Current.Certificate)
	}
	if r.Next != nil {
		fields["next_certificate"] = fingerprint(r.Next.Certificate)
	}
	if r.Token != nil {
		fields["expires"] = r.Token.Expires
	}
	if r.Account != nil {
		fields["server"], fields["organisation"] = r.Account.ServerName, r.Account.OrgName
	}
	if r.Discovery != nil {
		fields["discovery_url"] = r.Discovery.URL
	}
	return fields
}

// tell records what whoever acts in ctx has done.
func (s *Service) tell(ctx context.Context, tx storage.Tx, action string, details map[string]string, changes []event.Change) error {
	e := event.Event{At: s.now().UTC(), Actor: ourselves, Action: action, Details: details, Changes: changes}
	if p, ok := identity.PrincipalFrom(ctx); ok {
		e.Actor, e.Peer = p.String(), p.Peer
	}
	return event.Record(tx, e)
}
