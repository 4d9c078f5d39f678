package wake

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/gatehouse-mdm/gatehouse/apns"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

// Errors of PushNow for single devices.
var (
	// ErrNoToken means that the device has not told a push token.
	ErrNoToken = errors.New("the device has no push token")
)

// Pushed is what became of a push that somebody asked for.
type Pushed struct {
	DeviceID mdm.DeviceID
	Result   apns.Result // unless Err
	Err      error       // wraps storage.ErrNotFound, mdm.ErrNotEnrolled or ErrNoToken
}

// Sentence says what became of it, empty for a push that Apple took.
func (p Pushed) Sentence() string {
	switch {
	case errors.Is(p.Err, storage.ErrNotFound):
		return "No device has this id."
	case errors.Is(p.Err, mdm.ErrNotEnrolled):
		return "The device is not enrolled."
	case errors.Is(p.Err, ErrNoToken):
		return "The device has not told a push token yet."
	case p.Err != nil:
		return p.Err.Error()
	case p.Result.Outcome == apns.Sent:
		return ""
	}
	return reasonSentence(p.Result)
}

// PushNow pushes to devices at once, whether they have commands or not and whatever came of
// it before, and tells what became of each, in their order. What Apple does not take now is
// tried again as any other wake-up. The error is the database's.
func (s *Service) PushNow(ctx context.Context, ids []mdm.DeviceID) ([]Pushed, error) {
	all := make([]Pushed, 0, len(ids))
	for part := range slices.Chunk(ids, batch) {
		pushed, err := s.pushNow(ctx, part)
		if err != nil {
			return all, fmt.Errorf("push: %w", err)
		}
		all = append(all, pushed...)
	}
	return all, nil
}

func (s *Service) pushNow(ctx context.Context, ids []mdm.DeviceID) (all []Pushed, err error) {
	var jobs map[string][]job
	var places map[string][]int // of the jobs in all
	err = s.db.Update(ctx, func(tx storage.Tx) error {
		all, jobs, places = make([]Pushed, len(ids)), make(map[string][]job), make(map[string][]int)
		for _, id := range ids {
			tx.Prefetch(append(s.reads(id), mdm.ReadWakeup(id))...)
		}
		set, err := GetSettings(tx)
		if err != nil {
			return err
		}
		for i, id := range ids {
			all[i].DeviceID = id
			if slices.Index(ids, id) < i {
				continue // its result is copied
			}
			j, topic, err := s.force(tx, id, set)
			switch {
			case errors.Is(err, storage.ErrNotFound), errors.Is(err, mdm.ErrNotEnrolled), errors.Is(err, ErrNoToken):
				all[i].Err = err
			case err != nil:
				return err
			default:
				jobs[topic], places[topic] = append(jobs[topic], *j), append(places[topic], i)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	var failed error
	for topic, list := range jobs {
		results, err := s.send(ctx, topic, list)
		failed = errors.Join(failed, err)
		for n, i := range places[topic] {
			all[i].Result = results[n]
		}
	}
	for i, id := range ids {
		all[i] = all[slices.Index(ids, id)]
	}
	return all, failed
}

// force takes the wake-up of a device, in whatever state it is.
func (s *Service) force(tx storage.Tx, id mdm.DeviceID, set Settings) (*job, string, error) {
	d, err := mdm.GetDevice(tx, id)
	if err != nil {
		return nil, "", err
	}
	switch {
	case !d.Live():
		return nil, "", mdm.ErrNotEnrolled
	case d.Push == nil:
		return nil, "", ErrNoToken
	}
	w, err := mdm.GetWakeup(tx, id)
	if errors.Is(err, storage.ErrNotFound) {
		w = mdm.Wakeup{DeviceID: id}
	} else if err != nil {
		return nil, "", err
	}
	w.Topic, w.Forced = topicOf(d), true
	if err := s.introduce(tx, w.Topic); err != nil {
		return nil, "", err
	}
	j, err := s.consider(tx, w, d, set)
	return j, w.Topic, err
}

// reasonSentence says why Apple did not take a push.
func reasonSentence(r apns.Result) string {
	why := r.Reason
	if r.Detail != "" {
		why += ": " + r.Detail
	}
	switch {
	case r.Outcome == apns.TokenInvalid:
		return "Apple knows no device with this push token any more (" + why + ")."
	case r.Reason == "NoCertificate":
		return "There is no push certificate for the topic that the device enrolled with."
	case r.Reason == "CertificateExpired":
		return "The push certificate of the device's topic has expired."
	case r.Outcome == apns.Refused:
		return "Apple refuses the push (" + why + ")."
	}
	return "The push did not go and will be tried again (" + why + ")."
}
