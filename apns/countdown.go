package apns

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/gatehouse-mdm/gatehouse/storage"
)

// countdown is when the end of a certificate is told of, in days before it.
var countdown = []int{60, 30, 14, 7, 1, 0}

// countEvery is how often ends are looked at.
const countEvery = time.Hour

// reached is the place in countdown, from 1, that a certificate has reached; 0: none.
func reached(notAfter, now time.Time) (place int) {
	left := notAfter.Sub(now)
	for i, days := range countdown {
		if left <= time.Duration(days)*24*time.Hour {
			place = i + 1
		}
	}
	return place
}

// Expiry is the end of a topic's certificate.
type Expiry struct {
	Topic    string
	NotAfter time.Time
}

// Expiries returns when the certificates that are pushed by end.
func (k *Keeper) Expiries(ctx context.Context) (all []Expiry, err error) {
	err = k.db.View(ctx, func(tx storage.Tx) error {
		all = nil
		for rec, err := range k.certificates.All(tx) {
			if err != nil {
				return err
			}
			all = append(all, Expiry{rec.Topic, rec.NotAfter})
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("push certificates: %w", err)
	}
	return all, nil
}

// Run tells of certificates that end, until ctx does: each step of the countdown once,
// whichever replica sees it.
func (k *Keeper) Run(ctx context.Context) error {
	return storage.Schedule{
		DB: k.db, Log: k.log, Now: k.now,
		Jobs: []storage.Job{{Name: "push certificates", Every: countEvery, Do: k.look}},
	}.Run(ctx)
}

func (k *Keeper) look(ctx context.Context) error {
	expiries, err := k.Expiries(ctx)
	if err != nil {
		return err
	}
	for _, e := range expiries {
		err = errors.Join(err, k.tellEnd(ctx, e.Topic))
	}
	return err
}

// tellEnd tells of the end of a topic's certificate, unless that was told.
func (k *Keeper) tellEnd(ctx context.Context, topic string) error {
	var rec Certificate
	var days int
	var news bool
	err := k.db.Update(ctx, func(tx storage.Tx) (err error) {
		news = false
		if rec, err = k.certificates.Get(tx, topic); err != nil {
			if errors.Is(err, storage.ErrNotFound) {
				return nil
			}
			return err
		}
		place := reached(rec.NotAfter, k.now())
		switch {
		case place == rec.Told:
			return nil
		case place < rec.Told: // by a clock that was wrong
			rec.Told = place
			return certificates.Put(tx, rec)
		}
		rec.Told, news = place, true
		days = int(max(0, rec.NotAfter.Sub(k.now())) / (24 * time.Hour))
		if err := certificates.Put(tx, rec); err != nil {
			return err
		}
		c := changeEvent(rec, "push_certificate.expiring", rec.SHA256, rec.NotAfter)
		c.Details["days"] = strconv.Itoa(days)
		c.Reason = fmt.Sprintf("It ends on %s: renew it at identity.apple.com/pushcert%s.", day(rec.NotAfter), byAccount(rec.AppleAccount))
		if !k.now().Before(rec.NotAfter) {
			c.Reason = fmt.Sprintf("It expired on %s: no device of its topic can be woken until it is renewed%s.", day(rec.NotAfter), byAccount(rec.AppleAccount))
		}
		return k.tell(ctx, tx, c)
	})
	if err != nil || !news {
		return err
	}
	message := "push certificate ends: renew it"
	if !k.now().Before(rec.NotAfter) {
		message = "push certificate has expired: no device of its topic can be woken"
	}
	k.log.WarnContext(ctx, message, "topic", topic, "days", days, "expires", rec.NotAfter, "apple_account", rec.AppleAccount)
	return nil
}
