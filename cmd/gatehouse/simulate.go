package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/gatehouse-mdm/gatehouse/mdm/mdmtest"
)

// simulateCommand enrols simulated devices at a server, which needs not be ours.
type simulateCommand struct {
	URL         string        `name:"url" required:"" placeholder:"URL" help:"Where the enrollment profile is: https://HOST/enroll/l/CODE/profile, or the link without /profile."`
	N           int           `short:"n" default:"10" placeholder:"N" help:"How many devices (default ${default})."`
	CA          string        `name:"ca" type:"path" placeholder:"FILE" help:"PEM certificates to trust for TLS, besides the system's: the server's /ca.pem."`
	Concurrency int           `default:"8" placeholder:"N" help:"How many enrol at a time (default ${default})."`
	Interval    time.Duration `default:"10s" placeholder:"DURATION" help:"Between a device's polls (default ${default})."`
	For         time.Duration `placeholder:"DURATION" help:"How long the devices live. Default: until interrupted."`
	Personas    bool          `help:"Let the devices differ as in the demo: locked, slow, erroring, removed."`
	PlainHTTP   bool          `name:"plain-http" help:"Accept http URLs, for a server that stands behind a TLS proxy."`
}

// Run runs the devices, says every few seconds how they do, and fails if one could
// not enrol.
func (c *simulateCommand) Run(ctx context.Context, p *process) error {
	fleet, err := c.fleet(p)
	if err != nil {
		return usageError(fmt.Errorf("simulate: %w", err))
	}
	if c.For > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.For)
		defer cancel()
	}
	done := make(chan error, 1)
	go func() { done <- fleet.Run(ctx) }()
	tick := time.NewTicker(2 * time.Second)
	defer tick.Stop()
	for {
		select {
		case err := <-done:
			s := c.print(p, fleet)
			switch {
			case err != nil:
				return fmt.Errorf("simulate: %w", err)
			case s.Enrolled < int64(c.N):
				return fmt.Errorf("simulate: %d of %d devices enrolled", s.Enrolled, c.N)
			}
			return nil
		case <-tick.C:
			c.print(p, fleet)
		}
	}
}

func (c *simulateCommand) print(p *process, fleet *mdmtest.Fleet) mdmtest.FleetStats {
	s := fleet.Stats()
	fmt.Fprintf(p.stdout, "%d of %d enrolled, %d failed, %d gone; %d polls (%d problems): %d acknowledged, %d errors, %d not now\n",
		s.Enrolled, c.N, s.Failed, s.Gone, s.Polls, s.Problems, s.Acknowledged, s.Errors, s.NotNow)
	return s
}

func (c *simulateCommand) fleet(p *process) (*mdmtest.Fleet, error) {
	if c.N < 1 || c.Concurrency < 1 || c.Interval <= 0 {
		return nil, errors.New("-n, --concurrency and --interval must be positive")
	}
	profileURL := strings.TrimRight(c.URL, "/")
	if strings.Contains(profileURL, "/enroll/l/") && !strings.HasSuffix(profileURL, "/profile") {
		profileURL += "/profile"
	}
	roots, err := x509.SystemCertPool()
	if err != nil {
		roots = x509.NewCertPool()
	}
	if c.CA != "" {
		pem, err := os.ReadFile(c.CA)
		if err != nil {
			return nil, fmt.Errorf("--ca: %w", err)
		}
		if !roots.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("--ca: %s holds no PEM certificate", c.CA)
		}
	}
	return mdmtest.NewFleet(mdmtest.FleetOptions{
		N: c.N, ProfileURL: profileURL, Demo: c.Personas,
		Concurrency: c.Concurrency, Interval: c.Interval,
		RootCAs: roots, PlainHTTP: c.PlainHTTP,
		Log: newLogger(p.stderr, "", slog.LevelInfo),
	})
}
