package identity

import (
	"context"
	"time"

	"github.com/gatehouse-mdm/gatehouse/storage"
)

// Fact is something that happened to a user or a token.
type Fact struct {
	At      time.Time
	Actor   string // as [Principal.String] says it; empty: nobody who proved to be anybody
	Action  string // "user.created"
	Reason  string // of what was refused
	User    string // whom it is about, as [User.Login] says it
	Peer    string // network address that it came from
	Details map[string]string
}

// Audit writes down what happened.
type Audit interface {
	// Record writes f in the transaction that makes it true.
	Record(tx storage.Tx, f Fact) error

	// Refused writes down what was refused, unless that comes too often.
	Refused(ctx context.Context, f Fact)
}

// fact is what p does. user is whom it is about.
func (p Principal) fact(action, user string, details map[string]string) Fact {
	return Fact{Actor: p.String(), Action: action, User: user, Peer: p.Peer, Details: details}
}

func (s *Service) record(tx storage.Tx, f Fact) error {
	if s.audit == nil {
		return nil
	}
	f.At = s.now().UTC()
	return s.audit.Record(tx, f)
}

func (s *Service) refused(ctx context.Context, f Fact) {
	if s.audit == nil {
		return
	}
	f.At = s.now().UTC()
	s.audit.Refused(ctx, f)
}
