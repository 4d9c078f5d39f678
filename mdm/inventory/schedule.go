package inventory

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"time"

	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

const (
	refreshTick = 30 * time.Second
	sweepTick   = time.Hour

	// maxPerTick bounds the devices of one tick: after a long pause all are due at once, and
	// come one after the other.
	maxPerTick = 2000

	alignBatch = 500 // devices in one transaction

	// together is the span of time whose devices are asked at once: with one command a source,
	// where there would be one for nearly every device if each had a moment of its own.
	together = 15 * time.Minute

	clockSlack = time.Minute // by which the clocks of replicas may differ
)

// ourselves is who asks what nobody asked for by name.
const ourselves = "server"

// due is when a device is to be asked next.
type due struct {
	DeviceID mdm.DeviceID `json:"device_id"`
	At       time.Time    `json:"at"`
	First    bool         `json:"first,omitempty"` // it was not asked in this enrollment
}

const byTime = "time"

var schedule = storage.NewCollection("inventory.schedule", 1, func(d due) string { return string(d.DeviceID) },
	storage.Index[due]{Name: byTime, Values: func(d due) []string { return []string{timeKey(d.At)} }})

func timeKey(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// asked is a command of ours, to be forgotten earlier than others: there is one for every
// source at every tick.
type asked struct {
	UUID     string    `json:"uuid"`
	ForgetAt time.Time `json:"forget_at"`
}

var questions = storage.NewCollection("inventory.questions", 1, func(a asked) string { return a.UUID },
	storage.Index[asked]{Name: byTime, Values: func(a asked) []string { return []string{timeKey(a.ForgetAt)} }})

// rhythm is for which interval the schedule was made.
type rhythm struct {
	Every time.Duration `json:"every"` // 0: devices are not asked
}

const rhythmKey = "rhythm"

var rhythms = storage.NewCollection("inventory.rhythm", 1, func(rhythm) string { return rhythmKey })

// next returns when a device is to be asked after a time. Each has its own quarter of an hour in
// the interval, so that they come one after the other, also where all enrolled on one day.
func next(id mdm.DeviceID, after time.Time, every time.Duration) time.Time {
	h := fnv.New64a()
	_, _ = h.Write([]byte(id)) // never fails
	moment := time.Duration(h.Sum64() % uint64(every)).Truncate(together)
	at := after.Truncate(every).Add(moment)
	if !at.After(after) {
		at = at.Add(every)
	}
	return at.UTC()
}

// following is next for a device that is being asked now: not at once again.
func following(id mdm.DeviceID, now time.Time, every time.Duration) time.Time {
	return next(id, now.Add(every/2), every)
}

// refreshDue asks the devices that are due.
func (s *Service) refreshDue(ctx context.Context) error {
	var settings Settings
	var made rhythm
	far := false
	err := s.db.View(ctx, func(tx storage.Tx) (err error) {
		if settings, err = GetSettings(tx); err != nil {
			return err
		}
		made, err = rhythms.Get(tx, rhythmKey)
		if errors.Is(err, storage.ErrNotFound) {
			made, err = rhythm{}, nil
		}
		if err != nil {
			return err
		}
		far = false
		for _, err := range schedule.Ascend(tx, byTime, timeKey(furthest(s.now(), settings)), "", 1) {
			if err != nil {
				return err
			}
			far = true
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("refresh inventory: %w", err)
	}
	want := rhythm{Every: settings.Every}
	if !settings.Enabled {
		want.Every = 0
	}
	if made != want {
		if err := s.adopt(ctx, want); err != nil {
			return fmt.Errorf("schedule inventory: %w", err)
		}
	}
	if !settings.Enabled {
		return nil
	}
	if far {
		if err := s.bringNearer(ctx, settings); err != nil {
			return fmt.Errorf("schedule inventory: %w", err)
		}
	}
	a := s.asking(ourselves, mdm.Background, nil)
	a.life = life(settings.Every)
	total := 0
	for total < maxPerTick {
		n, err := s.refreshSome(ctx, a, settings.Every)
		if err != nil {
			return fmt.Errorf("refresh inventory: %w", err)
		}
		if total += n; n < refreshBatch {
			break
		}
	}
	if total > 0 {
		s.log.DebugContext(ctx, "devices asked for their inventory", "devices", total)
	}
	return nil
}

// furthest returns a time that lies further ahead than the next moment of any device.
func furthest(now time.Time, settings Settings) time.Time {
	return now.Add(max(settings.Every+settings.Every/2, settings.FirstAfter) + clockSlack)
}

// bringNearer gives another moment to devices whose next one is after furthest: the clock was
// wrong when it was made, and they would not be asked for as long.
func (s *Service) bringNearer(ctx context.Context, settings Settings) error {
	for more := true; more; {
		err := s.db.Update(ctx, func(tx storage.Tx) error {
			now := s.now()
			var far []due
			for d, err := range schedule.Ascend(tx, byTime, timeKey(furthest(now, settings)), "", alignBatch) {
				if err != nil {
					return err
				}
				far = append(far, d)
			}
			more = len(far) == alignBatch
			for _, d := range far {
				if d.At = next(d.DeviceID, now, settings.Every); d.First {
					d.At = now.Add(settings.FirstAfter).UTC()
				}
				if err := schedule.Put(tx, d); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// refreshSome asks a batch of devices that are due, and returns how many those were.
func (s *Service) refreshSome(ctx context.Context, a *asking, every time.Duration) (n int, err error) {
	err = s.db.Update(ctx, func(tx storage.Tx) error {
		now := s.now()
		var ids []mdm.DeviceID
		for d, err := range schedule.Ascend(tx, byTime, "", timeKey(now.Add(time.Second)), refreshBatch) {
			if err != nil {
				return err
			}
			ids = append(ids, d.DeviceID)
		}
		n = len(ids)
		if n == 0 {
			return nil
		}
		outcomes, err := a.ask(tx, ids)
		if err != nil {
			return err
		}
		for _, o := range outcomes {
			if o.Code != "" { // gone, by a transaction that ran at the same time
				err = schedule.Delete(tx, string(o.DeviceID))
			} else {
				err = schedule.Put(tx, due{DeviceID: o.DeviceID, At: following(o.DeviceID, now, every)})
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	return n, err
}

// adopt makes the schedule anew: the interval is another one, or devices enrolled before there
// was a schedule.
func (s *Service) adopt(ctx context.Context, want rhythm) error {
	for cursor, more := "", want.Every > 0; more; {
		var after string
		err := s.db.Update(ctx, func(tx storage.Tx) error {
			page, end, err := mdm.PageDevices(tx, cursor, alignBatch)
			if err != nil {
				return err
			}
			after = end
			for _, d := range page {
				tx.Prefetch(schedule.Read(string(d.ID)))
			}
			for _, d := range page {
				if err := s.align(tx, d, want.Every); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		cursor, more = after, after != ""
	}
	return s.db.Update(ctx, func(tx storage.Tx) error { return rhythms.Put(tx, want) })
}

// align puts a device at its moment of the interval, but for its first time.
func (s *Service) align(tx storage.Tx, d mdm.Device, every time.Duration) error {
	old, err := schedule.Get(tx, string(d.ID))
	known := err == nil
	if err != nil && !errors.Is(err, storage.ErrNotFound) {
		return err
	}
	switch {
	case !d.Live() && !known, d.Live() && old.First:
		return nil
	case !d.Live():
		return schedule.Delete(tx, string(d.ID))
	}
	return schedule.Put(tx, due{DeviceID: d.ID, At: next(d.ID, s.now(), every)})
}

// sweep forgets questions whose time is up, with what became of them: one at a time, since each
// may have gone to many devices.
func (s *Service) sweep(ctx context.Context) error {
	for more := true; more; {
		err := s.db.Update(ctx, func(tx storage.Tx) error {
			more = false
			for a, err := range questions.Ascend(tx, byTime, "", timeKey(s.now()), 1) {
				if err != nil {
					return err
				}
				more = true
				return errors.Join(s.mdm.ForgetCommand(tx, a.UUID), questions.Delete(tx, a.UUID))
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("forget inventory questions: %w", err)
		}
	}
	return nil
}
