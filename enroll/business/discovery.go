package business

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/gatehouse-mdm/gatehouse/mdm/event"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

// Discovery is where Apple sends the devices of people with a Managed Apple Account of
// the organisation, whose domain does not say where to enrol: the fallback of service
// discovery, of iOS and iPadOS 18.2, macOS 15.2 and visionOS 2.2 on.
type Discovery struct {
	URL     string    `json:"url"`     // empty: nowhere
	Ours    bool      `json:"-"`       // it is this server's
	Updated time.Time `json:"updated"` // by Apple's word; zero: unknown
	Asked   time.Time `json:"asked"`   // when Apple said so
}

const pathDiscovery = "/account-driven-enrollment/profile"

// DiscoveryURL is the URL that Register registers.
func (s *Service) DiscoveryURL() string { return s.discovery }

func (s *Service) mine(d Discovery) Discovery {
	d.Ours = d.URL == s.discovery
	return d
}

// Register has Apple send devices to this server, and returns what Apple says then. A URL
// that was registered before, this server's or another's, is replaced. Errors wrap
// ErrNoLink or ErrNotHTTPS, or are *AppleError.
func (s *Service) Register(ctx context.Context) (Discovery, error) {
	if !strings.HasPrefix(s.discovery, "https://") {
		return Discovery{}, ErrNotHTTPS
	}
	c, err := s.token(ctx)
	if err != nil {
		return Discovery{}, err
	}
	in := map[string]string{"mdm_service_discovery_url": s.discovery}
	if err := s.call(ctx, c, http.MethodPost, pathDiscovery, in, nil); err != nil {
		return Discovery{}, s.failed(ctx, c, err)
	}
	d, err := s.registered(ctx, c)
	if err != nil { // what was just done is known all the same
		d = Discovery{URL: s.discovery, Asked: s.now().UTC()}
	}
	return s.found(ctx, c, d, "apple_business.discovery_registered")
}

// Registered asks Apple where it sends devices. Errors are as those of Register; that
// nothing is registered is none.
func (s *Service) Registered(ctx context.Context) (Discovery, error) {
	c, err := s.token(ctx)
	if err != nil {
		return Discovery{}, err
	}
	d, err := s.registered(ctx, c)
	if err != nil {
		return Discovery{}, s.failed(ctx, c, err)
	}
	return s.found(ctx, c, d, "")
}

// Unregister has Apple send devices nowhere; that it did not is no error.
func (s *Service) Unregister(ctx context.Context) error {
	c, err := s.token(ctx)
	if err != nil {
		return err
	}
	err = s.call(ctx, c, http.MethodDelete, pathDiscovery, nil, nil)
	var refusal *AppleError
	if err != nil && !(errors.As(err, &refusal) && refusal.Kind == NotRegistered) {
		return s.failed(ctx, c, err)
	}
	_, err = s.found(ctx, c, Discovery{Asked: s.now().UTC()}, "apple_business.discovery_unregistered")
	return err
}

func (s *Service) registered(ctx context.Context, c credentials) (Discovery, error) {
	var out struct {
		URL     string `json:"mdm_service_discovery_url"`
		Updated any    `json:"last_updated_timestamp"`
	}
	d := Discovery{Asked: s.now().UTC()}
	err := s.call(ctx, c, http.MethodGet, pathDiscovery, nil, &out)
	var refusal *AppleError
	switch {
	case errors.As(err, &refusal) && refusal.Kind == NotRegistered:
		return d, nil
	case err != nil:
		return Discovery{}, err
	}
	d.URL = line(out.URL)
	// Apple's page does not say how the time is written. In doubt it is not known.
	if text, ok := out.Updated.(string); ok {
		if at, err := time.Parse(time.RFC3339, text); err == nil {
			d.Updated = at.UTC()
		}
	}
	return d, nil
}

// found notes what Apple said, and in the audit log that somebody has done action.
func (s *Service) found(ctx context.Context, c credentials, d Discovery, action string) (Discovery, error) {
	err := s.db.Update(ctx, func(tx storage.Tx) error {
		r, err := load(tx)
		if err != nil {
			return err
		}
		before := r.audited()
		if r.Token != nil && r.Token.Server == c.server() {
			r.Discovery = &d
			r.heard(nil, nil, s.now())
			if err := records.Put(tx, r); err != nil {
				return err
			}
		}
		if action == "" {
			return nil
		}
		return s.tell(ctx, tx, action, map[string]string{"url": s.discovery}, event.Changes(before, r.audited()))
	})
	if err != nil {
		return Discovery{}, err
	}
	return s.mine(d), nil
}

// failed notes a refusal of Apple's that is not about one call alone, and returns it.
func (s *Service) failed(ctx context.Context, c credentials, refused error) error {
	var refusal *AppleError
	if !errors.As(refused, &refusal) || !refusal.troubles() {
		return refused
	}
	err := s.db.Update(ctx, func(tx storage.Tx) error {
		r, err := load(tx)
		if err != nil || r.Token == nil || r.Token.ID != c.id() {
			return err
		}
		r.heard(nil, refusal, s.now())
		return records.Put(tx, r)
	})
	if err != nil {
		s.log.ErrorContext(ctx, "trouble with Apple could not be noted", "err", err)
	}
	return refused
}
