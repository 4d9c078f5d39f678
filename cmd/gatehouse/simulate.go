package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/gatehouse-mdm/gatehouse/mdm/mdmtest"
	"github.com/gatehouse-mdm/gatehouse/webui"
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
	fleet, err := c.fleet(ctx, p)
	if err != nil {
		return fmt.Errorf("simulate: %w", err)
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

func (c *simulateCommand) fleet(ctx context.Context, p *process) (*mdmtest.Fleet, error) {
	if c.N < 1 || c.Concurrency < 1 || c.Interval <= 0 {
		return nil, usageError(errors.New("-n, --concurrency and --interval must be positive"))
	}
	u, err := url.Parse(strings.TrimRight(c.URL, "/"))
	switch {
	case err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http":
		return nil, usageError(fmt.Errorf("--url: %q is no URL such as https://HOST/enroll/l/CODE", c.URL))
	case u.Path == "":
		return nil, usageError(fmt.Errorf("--url: %s names no enrollment link; make one with POST %s/api/v1/enrollment-links, and give its url", u, u))
	}
	if strings.HasPrefix(u.Path, "/enroll/l/") && !strings.HasSuffix(u.Path, "/profile") {
		u = u.JoinPath("profile")
	}
	roots, err := x509.SystemCertPool()
	if err != nil {
		roots = x509.NewCertPool()
	}
	if c.CA != "" {
		pem, err := os.ReadFile(c.CA)
		if err != nil {
			return nil, usageError(fmt.Errorf("--ca: %w", err))
		}
		if !roots.AppendCertsFromPEM(pem) {
			return nil, usageError(fmt.Errorf("--ca: %s holds no PEM certificate", c.CA))
		}
	}
	if err := tryProfile(ctx, u, roots); err != nil {
		return nil, err
	}
	return mdmtest.NewFleet(mdmtest.FleetOptions{
		N: c.N, ProfileURL: u.String(), Demo: c.Personas,
		Concurrency: c.Concurrency, Interval: c.Interval,
		RootCAs: roots, PlainHTTP: c.PlainHTTP,
		Log: newLogger(p.stderr, "", slog.LevelInfo),
	})
}

// tryProfile downloads the profile once, so that what is wrong with the link is said
// once and not by every device.
func tryProfile(ctx context.Context, u *url.URL, roots *x509.CertPool) error {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, DisableKeepAlives: true}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return err
	}
	resp, err := (&http.Client{Transport: transport}).Do(req)
	var stranger x509.UnknownAuthorityError
	switch {
	case errors.As(err, &stranger):
		return fmt.Errorf("the certificate of %s is not trusted here; save %s://%s/ca.pem, and give it with --ca", u.Host, u.Scheme, u.Host)
	case err != nil:
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusOK {
		return nil
	}
	var problem webui.Problem
	body, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err == nil && json.Unmarshal(body, &problem) == nil && problem.Title != "" {
		return fmt.Errorf("%s: %w", u, &problem)
	}
	return fmt.Errorf("%s answered %s", u, resp.Status)
}
