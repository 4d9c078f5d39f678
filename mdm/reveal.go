package mdm

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/gatehouse-mdm/gatehouse/mdm/event"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/seal"
)

// ErrNotRevealable means that a secret is for the server alone: it lets whoever has it into
// the device without a trace there.
var ErrNotRevealable = errors.New("this secret is not shown to anybody")

// Revealed is a secret with what it is.
type Revealed struct {
	HeldSecret
	Value seal.Secret
	// Envelope means that Value is a CMS message for whoever has the key of the certificate
	// that the command brought.
	Envelope bool
}

// Viewer is who wants to see a secret, and why, for the audit log.
type Viewer struct {
	Actor  string // "user:ana@example.com"
	Peer   string // network address, if it is known
	Reason string
}

// Reveal returns the secrets of one kind that the server holds for a device, the newest
// first: of those that are not confirmed, and of the previous ones, each may be the one that
// opens it. It notes who has seen them, with the reason, in the device's record and in the
// audit log, in the same transaction.
//
// The error wraps storage.ErrNotFound or ErrNotRevealable.
func (s *Service) Reveal(ctx context.Context, id DeviceID, kind SecretKind, by Viewer) (all []Revealed, err error) {
	err = s.db.Update(ctx, func(tx storage.Tx) error {
		all = nil
		d, err := GetDevice(tx, id)
		if err != nil {
			return err
		}
		if !kind.Revealable() {
			return ErrNotRevealable
		}
		e, err := getEscrow(tx, id, kind)
		if err != nil {
			return err
		}
		now := s.now().UTC()
		for i := range slices.Backward(e.Held) {
			h := &e.Held[i]
			if h.Sealed == nil || h.Clears {
				continue
			}
			v, err := s.open(e, *h)
			if err != nil {
				return err
			}
			h.RevealedAt, h.RevealedBy = now, by.Actor
			h.Kind = kind
			all = append(all, Revealed{h.HeldSecret, seal.Secret(v), h.Envelope})
		}
		if len(all) == 0 {
			return storage.ErrNotFound
		}
		if err := putEscrow(tx, e); err != nil {
			return err
		}
		return event.Record(tx, event.Event{
			At: now, Actor: by.Actor, Action: "secret.revealed", Reason: by.Reason, DeviceID: string(id), User: d.User, Peer: by.Peer,
			Details: map[string]string{"kind": string(kind), "count": strconv.Itoa(len(all))},
		})
	})
	if err != nil {
		return nil, fmt.Errorf("reveal %s of %s: %w", kind, id, err)
	}
	s.log.InfoContext(ctx, "secret revealed", "device", id, "kind", kind, "by", by.Actor)
	return all, nil
}
