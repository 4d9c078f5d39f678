package webhook

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/guard"
	"github.com/gatehouse-mdm/gatehouse/storage/seal"
)

// Config says what a Service needs. What has a default may be zero.
type Config struct {
	DB        storage.DB
	Box       *seal.Box // for secrets, and for what waits to be sent
	ServerURL *url.URL  // the source of CloudEvents
	Release   string    // of this program, for targets to see
	Log       *slog.Logger
	Now       func() time.Time

	Resolver Resolver                             // default: the system's
	Client   func(allowPrivate bool) *http.Client // default: guard.NewClient
	Patience time.Duration                        // for one request, its answer included; default 10 seconds
	MostWait int                                  // deliveries that wait for a target; default 100,000
	MostSize int                                  // bytes of large ones of them, and of those that were given up; default 1 GB
	MostKept int                                  // finished deliveries of a target in the log; default 10,000
}

// Service knows the targets, writes down what they are to be told, and tells them.
type Service struct {
	db        storage.DB
	box       *seal.Box
	serverURL *url.URL
	agent     string
	log       *slog.Logger
	now       func() time.Time
	resolver  Resolver
	public    *http.Client
	private   *http.Client // may connect to private addresses

	counted            func(target, result string)
	patience           time.Duration
	mostWait, mostKept int
	mostSize           int
}

// New returns a Service, or says what c lacks.
func New(c Config) (*Service, error) {
	if c.DB == nil || c.Box == nil || c.ServerURL == nil || c.Log == nil || c.Now == nil {
		return nil, errors.New("webhook: DB, Box, ServerURL, Log and Now are required")
	}
	if c.Patience < 0 || c.MostWait < 0 || c.MostSize < 0 || c.MostKept < 0 {
		return nil, errors.New("webhook: Patience, MostWait, MostSize and MostKept can't be negative")
	}
	s := &Service{
		db: c.DB, box: c.Box, serverURL: c.ServerURL, agent: "Gatehouse", log: c.Log, now: c.Now,
		resolver: c.Resolver, patience: c.Patience, mostWait: c.MostWait, mostSize: c.MostSize, mostKept: c.MostKept,
	}
	if c.Release != "" {
		s.agent += "/" + c.Release
	}
	if s.resolver == nil {
		s.resolver = net.DefaultResolver
	}
	if c.Client == nil {
		c.Client = guard.NewClient
	}
	s.public, s.private = c.Client(false), c.Client(true)
	if s.patience == 0 {
		s.patience = 10 * time.Second
	}
	if s.mostWait == 0 {
		s.mostWait = 100_000
	}
	if s.mostSize == 0 {
		s.mostSize = 1 << 30
	}
	if s.mostKept == 0 {
		s.mostKept = 10_000
	}
	return s, nil
}

// Run follows the feed of events, sends what waits, and forgets what is old, until ctx
// ends. Any number of processes on the database may do so.
func (s *Service) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.follow(ctx) })
	group.Go(func() error { return s.runLanes(ctx) })
	group.Go(func() error {
		return storage.Schedule{
			DB: s.db, Log: s.log, Now: s.now,
			Jobs: []storage.Job{
				{Name: "webhook/bound", Every: time.Minute, Do: s.bound},
				{Name: "webhook/sweep", Every: time.Hour, Do: s.sweep},
			},
		}.Run(ctx)
	})
	return group.Wait()
}
