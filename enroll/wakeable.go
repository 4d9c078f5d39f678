package enroll

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/gatehouse-mdm/gatehouse/storage"
)

// ErrNoPushCertificate means that the settings hand out profiles only where the devices
// could be woken, and these could not.
var ErrNoPushCertificate = errors.New("no push certificate is in force")

// Topics says which push topic a profile made now shall name. *apns.Certificates is one.
type Topics interface {
	Topic(tx storage.Tx) (string, error)
	// Trouble is a sentence that says why devices of a topic can't be woken; empty: they can.
	Trouble(tx storage.Tx, topic string) (string, error)
}

// warnEvery is how often the log has a warning of devices that can't be woken.
const warnEvery = time.Hour

// unwakeable is when this process last warned, in Unix nanoseconds.
type unwakeable struct{ warned atomic.Int64 }

// topic returns what a profile made now shall name as its push topic, or an error that wraps
// ErrNoPushCertificate where the settings want its devices woken and they can't be.
func (s *Service) topic(tx storage.Tx, settings Settings) (string, error) {
	topic, err := s.topics.Topic(tx)
	if err != nil || !settings.RequirePushCertificate {
		return topic, err
	}
	trouble, err := s.topics.Trouble(tx, topic)
	if err == nil && trouble != "" {
		err = fmt.Errorf("%w: %s", ErrNoPushCertificate, trouble)
	}
	return topic, err
}

// PushTrouble is a sentence that says why devices that enrol now can't be woken; empty: they
// can.
func (s *Service) PushTrouble(ctx context.Context) (trouble string, err error) {
	// Without any certificate, the first to ask for the topic makes one up.
	err = s.db.Update(ctx, func(tx storage.Tx) error {
		topic, err := s.topics.Topic(tx)
		if err == nil {
			trouble, err = s.topics.Trouble(tx, topic)
		}
		return err
	})
	if err != nil {
		return "", fmt.Errorf("push certificate: %w", err)
	}
	return trouble, nil
}

// warnUnwakeable writes into the log, once in a while, that a profile went out whose device
// can't be woken.
func (s *Service) warnUnwakeable(ctx context.Context, a Attempt) {
	last, now := s.unwakeable.warned.Load(), s.now().UnixNano()
	if last != 0 && time.Duration(now-last) < warnEvery || a.Demo {
		return
	}
	var trouble string
	err := s.db.View(ctx, func(tx storage.Tx) (err error) {
		trouble, err = s.topics.Trouble(tx, a.Topic)
		return err
	})
	if err != nil || trouble == "" || !s.unwakeable.warned.CompareAndSwap(last, now) {
		return // who can't read that can't enrol either
	}
	s.log.WarnContext(ctx, "enrollment profiles are handed out to devices that can't be woken", "attempt", a.ID, "reason", trouble)
}
