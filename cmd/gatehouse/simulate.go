package main

import (
	"cmp"
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
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/gatehouse-mdm/gatehouse/mdm/mdmtest"
	"github.com/gatehouse-mdm/gatehouse/webui"
)

// simulateCommand enrols simulated devices at a server, which needs not be ours.
type simulateCommand struct {
	URL         string        `name:"url" placeholder:"URL" help:"Where the enrollment profile is: https://HOST/enroll/l/CODE/profile, or the link without /profile. Or give --account."`
	Account     string        `placeholder:"ADDRESS" help:"Enroll by account instead: what is typed in Settings, ana@example.com."`
	Password    string        `name:"password-file" type:"path" placeholder:"FILE" help:"Holds the password of --account, a final newline is trimmed."`
	Discovery   string        `name:"discovery-url" placeholder:"URL" help:"Web server to ask in place of that of the account's domain: https://HOST."`
	N           int           `short:"n" default:"10" placeholder:"N" help:"How many devices (default ${default})."`
	CA          string        `name:"ca" type:"path" placeholder:"FILE" help:"PEM certificates to trust for TLS, besides the system's: the server's /ca.pem."`
	Concurrency int           `default:"8" placeholder:"N" help:"How many enroll at a time (default ${default})."`
	Interval    time.Duration `default:"10s" placeholder:"DURATION" help:"Between a device's polls (default ${default})."`
	For         time.Duration `placeholder:"DURATION" help:"How long the devices live. Default: until interrupted."`
	Personas    bool          `help:"Let the devices differ as in the demo: locked, slow, erroring, removed."`
	PlainHTTP   bool          `name:"plain-http" help:"Accept http URLs, for a server that stands behind a TLS proxy."`

	APNsListen string `name:"apns-listen" placeholder:"ADDR" help:"Be the push service, too, that wakes the devices: 127.0.0.1:2197. Without --url and --account there are no devices."`
	APNsDir    string `name:"apns-dir" type:"path" default:"simulated-apns" placeholder:"DIR" help:"Where that keeps what the server is to be given: ca.pem for --apns-ca, push-certificate.pem to upload (default ${default})."`
}

// Run runs the devices, says every few seconds how they do, and fails if one could
// not enrol.
func (c *simulateCommand) Run(ctx context.Context, p *process) error {
	var pushes *pushService
	if c.APNsListen != "" {
		service, err := newPushService(c.APNsListen, c.APNsDir)
		if err != nil {
			return fmt.Errorf("simulate: --apns-listen: %w", err)
		}
		defer service.Close()
		fmt.Fprintf(p.stdout, "push service: serve --apns-url %s --apns-ca %s, and upload %s\n",
			service.URL(), filepath.Join(c.APNsDir, apnsCAFile), filepath.Join(c.APNsDir, apnsPushFile))
		pushes = service
	}
	if c.For > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.For)
		defer cancel()
	}
	if pushes != nil && c.URL == "" && c.Account == "" {
		<-ctx.Done()
		return nil
	}
	fleet, err := c.fleet(ctx, p)
	if err != nil {
		return fmt.Errorf("simulate: %w", err)
	}
	if pushes != nil {
		pushes.fleet.Store(fleet)
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
	switch {
	case (c.URL == "") == (c.Account == ""):
		return nil, usageError(errors.New("give one of --url https://HOST/enroll/l/CODE and --account ana@example.com"))
	case c.Account == "" && (c.Password != "" || c.Discovery != ""):
		return nil, usageError(errors.New("--password-file and --discovery-url go with --account"))
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
	options := mdmtest.FleetOptions{
		N: c.N, Demo: c.Personas, Concurrency: c.Concurrency, Interval: c.Interval,
		RootCAs: roots, PlainHTTP: c.PlainHTTP,
		Log: newLogger(p.stderr, "", slog.LevelInfo),
	}
	if c.Account != "" {
		return c.byAccount(ctx, options)
	}
	profile, err := c.profile()
	if err != nil {
		return nil, err
	}
	if err := tryProfile(ctx, profile, roots); err != nil {
		return nil, err
	}
	options.ProfileURL = profile.String()
	return mdmtest.NewFleet(options)
}

// profile is the address of the enrollment profile.
func (c *simulateCommand) profile() (*url.URL, error) {
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
	return u, nil
}

// byAccount makes the fleet of somebody who signs in on each of the devices. What is wrong
// with the address is said once and not by every device.
func (c *simulateCommand) byAccount(ctx context.Context, options mdmtest.FleetOptions) (*mdmtest.Fleet, error) {
	account := mdmtest.Account{Identifier: c.Account}
	if _, domain, ok := strings.Cut(c.Account, "@"); !ok || !strings.Contains(domain, ".") {
		return nil, usageError(fmt.Errorf("--account: %q is no address such as ana@example.com", c.Account))
	}
	if c.Password == "" {
		return nil, usageError(errors.New("--account needs --password-file FILE"))
	}
	password, err := os.ReadFile(c.Password)
	if err != nil {
		return nil, usageError(fmt.Errorf("--password-file: %w", err))
	}
	if c.Discovery != "" {
		u, err := url.Parse(strings.TrimRight(c.Discovery, "/"))
		if err != nil || u.Host == "" || u.Scheme != "https" && (u.Scheme != "http" || !c.PlainHTTP) || u.Path != "" || u.RawQuery != "" {
			return nil, usageError(fmt.Errorf("--discovery-url: %q is no URL such as https://HOST, without a path", c.Discovery))
		}
		account.Reach = func(string) string { return u.String() }
	}
	account.Person = &cautious{browser: &mdmtest.Browser{Login: c.Account, Password: strings.TrimSuffix(strings.TrimSuffix(string(password), "\n"), "\r")}}
	options.Account = func(int, mdmtest.Model) *mdmtest.Account {
		own := account
		return &own
	}
	fleet, err := mdmtest.NewFleet(options)
	if err != nil {
		return nil, err
	}
	if _, err := fleet.Devices()[0].Discover(ctx); err != nil {
		return nil, hintCA(err, cmp.Or(c.Discovery, "https://"+c.Account[strings.LastIndexByte(c.Account, '@')+1:]))
	}
	return fleet, nil
}

// hintCA says what to do if err is that the certificate of a server is not trusted.
func hintCA(err error, server string) error {
	var stranger x509.UnknownAuthorityError
	u, notURL := url.Parse(server)
	if notURL != nil || !errors.As(err, &stranger) {
		return err
	}
	return fmt.Errorf("the certificate of %s is not trusted here; save %s://%s/ca.pem, and give it with --ca", u.Host, u.Scheme, u.Host)
}

// cautious is a person who signs in on many devices, and stops where the first is refused:
// the server would take more for guesses.
type cautious struct {
	browser *mdmtest.Browser

	mu      sync.Mutex
	proved  bool // it has worked
	refused error
}

// SignIn implements [mdmtest.Person].
func (c *cautious) SignIn(ctx context.Context, s mdmtest.WebSession) (mdmtest.Redirect, error) {
	c.mu.Lock()
	if c.proved {
		c.mu.Unlock()
		return c.browser.SignIn(ctx, s)
	}
	defer c.mu.Unlock()
	if c.refused != nil {
		return mdmtest.Redirect{}, c.refused
	}
	back, err := c.browser.SignIn(ctx, s)
	var page *mdmtest.PageError
	if errors.As(err, &page) {
		c.refused = err
	}
	c.proved = err == nil
	return back, err
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
	if err != nil {
		return hintCA(err, u.String())
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
