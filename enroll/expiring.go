package enroll

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/gatehouse-mdm/gatehouse/depot"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/event"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

// expiringSoon is how long before its end a certificate is told of that nobody has renewed.
// Those that renew by themselves have done it by then.
const expiringSoon = 14 * 24 * time.Hour

// toldExpiring notes the ends of which certificates were told of: all until a time.
type toldExpiring struct {
	Key   string    `json:"key"`
	Until time.Time `json:"until"`
}

const toldExpiringKey = "certificates"

var toldExpirings = storage.NewCollection("expiring_told", 1, func(t toldExpiring) string { return t.Key })

// tellExpiring writes into the audit log which certificates of devices that are here expire
// before long and have no successor: each once. Of one that is issued for less than
// expiringSoon nobody is told.
func (s *Service) tellExpiring(ctx context.Context) error {
	now := s.now().UTC()
	f := depot.Filter{Status: depot.Active, ExpiresBefore: now.Add(expiringSoon)}
	err := s.db.View(ctx, func(tx storage.Tx) error {
		told, err := maybe(toldExpirings.Get(tx, toldExpiringKey))
		if err != nil || told == nil {
			f.ExpiresAfter = now
			return err
		}
		f.ExpiresAfter = told.Until
		return nil
	})
	for cursor, next, more := "", "", true; err == nil && more; cursor = next {
		err = s.db.Update(ctx, func(tx storage.Tx) error {
			var list []depot.Certificate
			list, next, err = s.depot.Search(tx, f, cursor, 500)
			if err != nil {
				return err
			}
			for _, c := range list {
				if err := s.tellIfExpiring(tx, c, now); err != nil {
					return err
				}
			}
			if more = next != ""; more {
				return nil
			}
			return toldExpirings.Put(tx, toldExpiring{toldExpiringKey, f.ExpiresBefore.Add(-1)}) // both ends are exclusive
		})
	}
	if err != nil {
		return fmt.Errorf("tell of certificates that expire: %w", err)
	}
	return nil
}

// tellIfExpiring tells of c if somebody has to do something about its end.
func (s *Service) tellIfExpiring(tx storage.Tx, c depot.Certificate, now time.Time) error {
	if c.DeviceID == "" || c.ReplacedBy != "" {
		return nil
	}
	d, err := mdm.GetDevice(tx, mdm.DeviceID(c.DeviceID))
	if errors.Is(err, storage.ErrNotFound) || err == nil && (!d.Live() || c.Identity() && d.Identity != string(c.Fingerprint)) {
		return nil
	}
	if err != nil {
		return err
	}
	return event.Record(tx, event.Event{
		At: now, Actor: ourselves, Action: "certificate.expiring", DeviceID: c.DeviceID, User: c.User,
		Certificate: string(c.Serial), Template: c.Template, Details: map[string]string{"not_after": at(c.NotAfter)},
	})
}
