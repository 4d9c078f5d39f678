package enroll

import (
	"context"
	"errors"
	"fmt"

	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

// What devices ask for by GetToken (Apple, "GetTokenRequest").
const (
	ServiceMAID         = "com.apple.maid"          // to sign in to a Managed Apple Account
	ServiceWatchPairing = "com.apple.watch.pairing" // to have a Watch managed with its iPhone
)

// ErrNotOffered means that a device asks for something that no profile of this server
// announces now.
var ErrNotOffered = errors.New("the server does not offer this")

// Tokens makes what devices show to Apple. *business.Service is one.
type Tokens interface {
	// Announces says whether MAIDToken would have one.
	Announces(tx storage.Tx) (bool, error)
	// MAIDToken returns what proves to Apple that this server manages a device.
	MAIDToken(ctx context.Context) ([]byte, error)
}

// GetTokenMessage is what a GetToken says.
type GetTokenMessage struct {
	ID      mdm.AppleID
	Service string

	// Of com.apple.watch.pairing.
	SecurityToken, PhoneUDID, WatchUDID string
}

// GetToken returns the TokenData that a device asks for. Its errors wrap ErrNotOffered,
// ErrBadMessage or those of a check-in.
func (s *Service) GetToken(ctx context.Context, p Peer, m GetTokenMessage) (data []byte, err error) {
	var maid bool
	err = s.db.View(ctx, func(tx storage.Tx) error {
		maid = false
		c, err := s.identify(tx, p, m.ID)
		if err != nil {
			return err
		}
		ch, err := c.channel(tx, m.ID)
		if errors.Is(err, storage.ErrNotFound) || err == nil && ch.State != mdm.Enrolled {
			return ErrNotAuthenticated
		}
		if err != nil {
			return err
		}
		switch m.Service {
		case ServiceMAID:
			if s.tokens == nil {
				return ErrNotOffered
			}
			maid, err = s.tokens.Announces(tx)
			if err == nil && !maid {
				err = ErrNotOffered
			}
			return err
		case ServiceWatchPairing:
			data, err = s.pair(tx, c.device, m)
			return err
		}
		return fmt.Errorf("%w: unknown TokenServiceType", ErrBadMessage)
	})
	if err == nil && maid {
		data, err = s.tokens.MAIDToken(ctx)
	}
	if err == nil {
		err = s.heard(ctx, p, m.ID, toldGetToken)
	}
	if err != nil {
		return nil, fmt.Errorf("get token: %w", s.refuseBearer(ctx, p, m.ID, "", err))
	}
	s.log.InfoContext(ctx, "token given", "service", m.Service)
	return data, nil
}

// announcesTokens says whether enrollment profiles announce com.apple.mdm.token.
func (s *Service) announcesTokens(ctx context.Context) (yes bool, err error) {
	err = s.db.View(ctx, func(tx storage.Tx) error {
		c, err := getAccountDriven(tx)
		if err != nil {
			return err
		}
		if yes = c.WatchPairing; yes || s.tokens == nil {
			return nil
		}
		yes, err = s.tokens.Announces(tx)
		return err
	})
	return yes, err
}
