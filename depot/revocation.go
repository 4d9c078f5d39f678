package depot

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/gatehouse-mdm/gatehouse/storage"
)

const (
	// listLife is how long a CRL may be believed: as long as an outage of ours may
	// last before clients that insist on one lock their users out.
	listLife = 7 * 24 * time.Hour
	// listAge is when a CRL that nothing changed is replaced all the same.
	listAge = 24 * time.Hour
	// listGrace is how long after its certificate's end a revocation stays on the
	// list: it must be on one that was published after that (RFC 5280, 3.3).
	listGrace = 2 * listLife
)

// Revocation is a certificate that was revoked, as CRLs tell it.
type Revocation struct {
	Issuer   string    `json:"issuer"` // ID of the authority
	Serial   Serial    `json:"serial"`
	At       time.Time `json:"at"`
	Reason   int       `json:"reason"` // CRLReason (RFC 5280, 5.3.1)
	NotAfter time.Time `json:"not_after"`
}

// ListState is what the current CRL of an authority is: the list itself follows
// from it and from the revocations that are stored with it, so that every replica
// builds the same bytes. A revocation advances it in its own transaction.
type ListState struct {
	Issuer     string    `json:"issuer"`
	Number     int64     `json:"number"` // cRLNumber; never decreases
	ThisUpdate time.Time `json:"this_update"`
	NextUpdate time.Time `json:"next_update"`
}

// revocations are apart from the certificates' records because a list reads all of
// them.
var (
	revocations = storage.NewCollection("revocation", 1, func(r Revocation) string {
		return string(storage.Key(r.Issuer, string(r.Serial)))
	})
	lists = storage.NewCollection("crl", 1, func(l ListState) string { return l.Issuer })
)

// revocationTopic is notified when a certificate was revoked or a CRL renewed.
const revocationTopic = "depot.revoked"

// WatchRevocations returns a channel that holds a value when what was known about
// revocations, or a CRL, may be out of date.
func (d *Depot) WatchRevocations() (changed <-chan struct{}, stop func()) {
	return d.db.Watch(revocationTopic)
}

// reasonCodes are the CRLReasons by their names (RFC 5280, 5.3.1), without the ones
// for a revocation that is taken back, which ours never is.
var reasonCodes = map[string]int{
	"unspecified": 0, "keyCompromise": 1, "cACompromise": 2, "affiliationChanged": 3, "superseded": 4,
	"cessationOfOperation": 5, "privilegeWithdrawn": 9, "aACompromise": 10,
}

// ReasonCode returns the CRLReason for the name of one.
func ReasonCode(reason string) (code int, ok bool) {
	code, ok = reasonCodes[reason]
	return code, ok
}

// publish makes the revocation of c part of its authority's list. One whose issuer
// is not ours is not ours to publish.
func (d *Depot) publish(tx storage.Tx, c Certificate) error {
	issuer := d.issuerOf(c)
	if issuer == "" {
		return nil
	}
	tx.Prefetch(lists.Read(issuer))
	r := Revocation{Issuer: issuer, Serial: c.Serial, At: c.RevokedAt, Reason: reasonCodes[c.RevocationReason], NotAfter: c.NotAfter}
	if err := revocations.Put(tx, r); err != nil {
		return fmt.Errorf("publish revocation: %w", err)
	}
	return d.advance(tx, issuer)
}

// issuerOf returns the ID of the authority that issued c; records of before there
// were IDs name its kind, of which there was one.
func (d *Depot) issuerOf(c Certificate) string {
	if c.Issuer != "" {
		return c.Issuer
	}
	if a := d.keys.Load().first[c.Authority]; a != nil {
		return a.id
	}
	return ""
}

// advance makes another list the current one.
func (d *Depot) advance(tx storage.Tx, issuer string) error {
	l, err := lists.Get(tx, issuer)
	if err != nil && !errors.Is(err, storage.ErrNotFound) {
		return err
	}
	l.Issuer = issuer
	l.Number++
	now := d.now().UTC().Truncate(time.Second)
	if now.After(l.ThisUpdate) { // a clock that was set back must not make it older
		l.ThisUpdate = now
	}
	l.NextUpdate = l.ThisUpdate.Add(listLife)
	if err := lists.Put(tx, l); err != nil {
		return err
	}
	return tx.Notify(revocationTopic)
}

// ListState returns the state of an authority's current CRL, and makes the first
// one if there was none yet.
func (d *Depot) ListState(ctx context.Context, a *Authority) (l ListState, err error) {
	read := func(tx storage.Tx) (err error) {
		l, err = lists.Get(tx, a.id)
		return err
	}
	if err = d.db.View(ctx, read); errors.Is(err, storage.ErrNotFound) {
		err = d.db.Update(ctx, func(tx storage.Tx) error {
			err := read(tx)
			if !errors.Is(err, storage.ErrNotFound) {
				return err
			}
			if err := d.advance(tx, a.id); err != nil {
				return err
			}
			return read(tx)
		})
	}
	if err != nil {
		return ListState{}, fmt.Errorf("state of CRL: %w", err)
	}
	return l, nil
}

// RevocationList returns the current CRL of an authority in DER, and its state.
// Signing it takes a while when there are many revocations: keep it until
// [Depot.WatchRevocations] tells.
func (d *Depot) RevocationList(ctx context.Context, a *Authority) (der []byte, l ListState, err error) {
	if _, err := d.ListState(ctx, a); err != nil {
		return nil, ListState{}, err
	}
	var list *listEncoder
	err = d.db.View(ctx, func(tx storage.Tx) (err error) {
		list = &listEncoder{}
		if l, err = lists.Get(tx, a.id); err != nil {
			return err
		}
		for r, err := range revocations.All(tx, storage.Range{Prefix: storage.KeyPrefix(a.id)}) {
			if err != nil {
				return err
			}
			if r.NotAfter.Add(listGrace).Before(l.ThisUpdate) {
				continue
			}
			if err := list.add(r); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, ListState{}, fmt.Errorf("collect revocations: %w", err)
	}
	der, err = list.sign(a, l)
	if err != nil {
		return nil, ListState{}, fmt.Errorf("sign CRL: %w", err)
	}
	return der, l, nil
}

// Run keeps the CRLs of authorities from growing old, and forgets the revocations
// that need not be told any more, until ctx ends. One replica at a time does so. Each of
// them takes over what others change about the authorities.
func (d *Depot) Run(ctx context.Context) error {
	var following sync.WaitGroup
	following.Go(func() { d.follow(ctx) })
	defer following.Wait()
	return storage.Schedule{
		DB: d.db, Log: d.log, Now: d.now,
		Jobs: []storage.Job{
			{Name: "depot/crl", Every: time.Hour, Do: d.renewLists},
			{Name: "depot/revocations", Every: 24 * time.Hour, Do: d.forgetRevocations},
		},
	}.Run(ctx)
}

// Tidy does at once what [Depot.Run] does in its time.
func (d *Depot) Tidy(ctx context.Context) error {
	return errors.Join(d.renewLists(ctx), d.forgetRevocations(ctx))
}

func (d *Depot) renewLists(ctx context.Context) error {
	for _, a := range d.Authorities() {
		err := d.db.Update(ctx, func(tx storage.Tx) error {
			l, err := lists.Get(tx, a.id)
			if errors.Is(err, storage.ErrNotFound) || err == nil && d.now().Sub(l.ThisUpdate) < listAge {
				return nil
			}
			if err != nil {
				return err
			}
			return d.advance(tx, a.id)
		})
		if err != nil {
			return fmt.Errorf("renew CRL of %s: %w", a.name, err)
		}
	}
	return nil
}

// forgetBatch is how many revocations one transaction forgets.
const forgetBatch = 1000

func (d *Depot) forgetRevocations(ctx context.Context) error {
	var over []string
	err := d.db.View(ctx, func(tx storage.Tx) error {
		over = nil
		for r, err := range revocations.All(tx, storage.Range{}) {
			if err != nil {
				return err
			}
			if d.now().After(r.NotAfter.Add(2 * listGrace)) {
				over = append(over, string(storage.Key(r.Issuer, string(r.Serial))))
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("find old revocations: %w", err)
	}
	for len(over) > 0 {
		batch := over[:min(forgetBatch, len(over))]
		over = over[len(batch):]
		err := d.db.Update(ctx, func(tx storage.Tx) error {
			for _, key := range batch {
				if err := revocations.Delete(tx, key); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("forget old revocations: %w", err)
		}
	}
	return nil
}

// Status says what is known of the certificate with a serial number that an
// authority issued. Its error wraps storage.ErrNotFound if it issued none.
func (d *Depot) Status(tx storage.Tx, a *Authority, s Serial) (Certificate, error) {
	c, err := d.BySerial(tx, s)
	if err != nil {
		return Certificate{}, err
	}
	if d.issuerOf(c) != a.id {
		return Certificate{}, fmt.Errorf("certificate %s of %s: %w", s, a.name, storage.ErrNotFound)
	}
	return c, nil
}
