package wake

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/gatehouse-mdm/gatehouse/apns"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

// Pusher sends pushes by the certificate of a topic. *apns.Client is one.
type Pusher interface {
	// Push sends each of pushes once. It calls done once for each, never two at a time, and
	// returns after the last.
	Push(ctx context.Context, topic string, pushes []apns.Push, done func(i int, r apns.Result))
}

// Certificates tells which certificate a topic has. *apns.Certificates is one.
type Certificates interface {
	Get(tx storage.Tx, topic string) (apns.Certificate, error)
}

// Config says what a Service needs; Demo and Count may be nil.
type Config struct {
	DB           storage.DB
	MDM          *mdm.Service
	Pusher       Pusher
	Certificates Certificates
	Demo         Pusher              // for simulated devices, which Apple knows nothing of
	Count        func(result string) // told of every push, for metrics
	Log          *slog.Logger
	Now          func() time.Time
}

// Service wakes devices. It is an [mdm.Waker].
type Service struct {
	db           storage.DB
	mdm          *mdm.Service
	pusher, demo Pusher
	certificates Certificates
	count        func(string)
	log          *slog.Logger
	now          func() time.Time
	held         struct {
		mu      sync.Mutex
		command string
		targets []mdm.DeviceID
	}
}

var _ mdm.Waker = (*Service)(nil)

// New returns a Service, or says what c lacks. The caller tells [mdm.Service.WakeBy] of it.
func New(c Config) (*Service, error) {
	if c.DB == nil || c.MDM == nil || c.Pusher == nil || c.Certificates == nil || c.Log == nil || c.Now == nil {
		return nil, errors.New("wake: DB, MDM, Pusher, Certificates, Log and Now are required")
	}
	s := &Service{
		db: c.DB, mdm: c.MDM, pusher: c.Pusher, demo: c.Demo, certificates: c.Certificates, count: c.Count, log: c.Log, now: c.Now}
	if s.demo == nil {
		s.demo = s.pusher
	}
	if s.count == nil {
		s.count = func(string) {}
	}
	return s, nil
}

// demoTopic is by what simulated devices are pushed, whatever their profile says. No
// topic of Apple's begins so.
const demoTopic = "demo"

func topicOf(d mdm.Device) string {
	if d.Demo {
		return demoTopic
	}
	return d.Push.Topic
}

// pusherOf returns who pushes by a topic.
func (s *Service) pusherOf(topic string) Pusher {
	if topic == demoTopic {
		return s.demo
	}
	return s.pusher
}
