package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"golang.org/x/net/netutil"
	"golang.org/x/sync/errgroup"

	"github.com/gatehouse-mdm/gatehouse/webui"
	"github.com/gatehouse-mdm/gatehouse/webui/acme"
)

// Limits of connections.
const (
	maxConnections = 8192
	maxMonitors    = 16               // connections of those who read metrics
	drainTime      = 10 * time.Second // for requests that run when the server is told to stop
)

// serve runs the server until ctx ends: opens the state, composes the services,
// listens, and drains.
func serve(ctx context.Context, cfg config, log *slog.Logger, stderr io.Writer) (err error) {
	now := time.Now
	// From the first moment on: what nobody catches ends the process.
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)

	// Before anything is made: a port that is taken leaves no data directory behind.
	var lc net.ListenConfig
	listener, err := lc.Listen(ctx, "tcp", cfg.listen)
	if err != nil {
		return explainListen(cfg.listen, err)
	}
	defer listener.Close()
	plain, err := listenHTTP(ctx, cfg, log)
	if err != nil {
		return err
	}
	if plain != nil {
		defer plain.Close()
	}
	mutual, err := listenMTLS(ctx, cfg)
	if err != nil {
		return err
	}
	if mutual != nil {
		defer mutual.Close()
	}
	open, err := listenPKI(ctx, cfg)
	if err != nil {
		return err
	}
	if open != nil {
		defer open.Close()
	}
	trust, err := listenProbe(ctx, cfg)
	if err != nil {
		return err
	}
	if trust != nil {
		defer trust.Close()
	}
	monitor, err := listenMetrics(ctx, cfg)
	if err != nil {
		return err
	}
	if monitor != nil {
		defer monitor.Close()
	}
	serverURL, err := publicURL(cfg, listener.Addr())
	if err != nil {
		return err
	}
	s, err := openState(ctx, cfg, serverURL, log, now)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	manager, err := newACME(ctx, cfg, s, serverURL, listener, plain, log, now)
	if err != nil {
		return err
	}
	cert, names, err := newCertificate(ctx, cfg, s, manager, serverURL, log, now)
	if err != nil {
		return err
	}
	if trust != nil {
		if cfg.probe, err = probeURL(serverURL, trust.Addr()); err != nil {
			return err
		}
	}
	srv, err := compose(ctx, cfg, s, cert, serverURL, log, now)
	if err != nil {
		return err
	}
	if err := firstStart(ctx, cfg, srv); err != nil {
		return err
	}
	if err := banner(ctx, stderr, cfg, s, srv, cert, serverURL, names); err != nil {
		return err
	}
	local, err := listenLocal(ctx, cfg.dataDir)
	if err != nil {
		return err
	}
	defer local.Close()

	network := netutil.LimitListener(listener, maxConnections)
	reload := func(ctx context.Context) error { return ignore(ctx, hangup, log) }
	if cert != nil {
		network = tls.NewListener(network, tlsConfig(cert, manager))
		reload = func(ctx context.Context) error { return cert.Run(ctx, hangup) }
	}
	srv.background = append(srv.background, runner{"reload", reload})
	listeners := map[net.Listener]http.Handler{network: srv.handler, local: srv.local}
	if mutual != nil {
		listeners[tls.NewListener(netutil.LimitListener(mutual, maxConnections), mtlsConfig(cert))] = forCertificates(srv.handler)
		log.InfoContext(ctx, "clients are asked for a certificate", "listen", mutual.Addr().String())
	}
	if manager != nil {
		srv.background = append(srv.background, runner{"acme", manager.Run})
	}
	if plain != nil {
		listeners[netutil.LimitListener(plain, maxConnections)] = manager.AnswerHTTP(forRelyingParties(srv.handler, redirect(serverURL)))
	}
	if open != nil {
		listeners[netutil.LimitListener(open, maxConnections)] = forRelyingParties(srv.handler, http.NotFoundHandler())
		log.InfoContext(ctx, "certificates may be asked about without TLS", "listen", open.Addr().String())
	}
	if monitor != nil {
		listeners[netutil.LimitListener(monitor, maxMonitors)] = srv.metrics
		log.InfoContext(ctx, "metrics are told without a login", "listen", monitor.Addr().String())
	}
	if trust != nil {
		probeCert, err := newProbeCertificate(ctx, s, names, log, now)
		if err != nil {
			return err
		}
		l, handler := probe(trust, probeCert)
		listeners[l] = handler
		log.DebugContext(ctx, "trust probe listens", "url", cfg.probe)
		srv.background = append(srv.background, runner{"trust probe", func(ctx context.Context) error { return probeCert.Run(ctx, nil) }})
	}
	if cfg.tuneCollector {
		srv.background = append(srv.background, runner{"garbage collector", tuneCollector})
	}
	srv.demo.way = demoWay{listener.Addr(), serverURL, demoRoots(s, cert)}
	srv.background = append(srv.background, runner{"demo", srv.demo.Run})
	wait := patience
	if cfg.tls == tlsProxy {
		// Longer than proxies keep their connections to us, or they would send requests
		// into some that we are closing.
		wait.idle = 2 * time.Minute
	}
	return runServer(ctx, srv, listeners, wait, serverURL, log, stderr)
}

// ignore takes the SIGHUP of a server that has no TLS certificate, until ctx ends.
func ignore(ctx context.Context, hangup <-chan os.Signal, log *slog.Logger) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-hangup:
			log.InfoContext(ctx, "SIGHUP: there is no TLS certificate to load again")
		}
	}
}

// runServer serves the listeners and the background until ctx ends or one of them fails,
// then drains: requests first, so that what they left behind is still written.
func runServer(ctx context.Context, srv *server, listeners map[net.Listener]http.Handler, wait limits, serverURL *url.URL, log *slog.Logger, stderr io.Writer) error {
	background, stopBackground := context.WithCancel(context.WithoutCancel(ctx))
	defer stopBackground()
	group, groupCtx := errgroup.WithContext(background)
	for _, r := range srv.background {
		group.Go(func() error {
			if err := r.run(groupCtx); err != nil && groupCtx.Err() == nil {
				return fmt.Errorf("%s: %w", r.name, err)
			}
			return nil
		})
	}
	var servers []*http.Server
	for l, handler := range listeners {
		httpServer := newHTTPServer(handler, wait, log)
		servers = append(servers, httpServer)
		group.Go(func() error {
			if err := httpServer.Serve(l); !errors.Is(err, http.ErrServerClosed) {
				return fmt.Errorf("serve %s: %w", l.Addr(), err)
			}
			return nil
		})
	}
	group.Go(func() error {
		select {
		case <-ctx.Done():
		case <-groupCtx.Done(): // something failed
		}
		srv.health.Drain()
		log.InfoContext(ctx, "shutting down")
		deadline, cancel := context.WithTimeout(background, drainTime)
		defer cancel()
		for _, httpServer := range servers {
			if err := httpServer.Shutdown(deadline); err != nil {
				log.WarnContext(ctx, "requests cut off at shutdown", "err", err)
				_ = httpServer.Close()
			}
		}
		stopBackground()
		return nil
	})
	fmt.Fprintln(stderr, "ready", serverURL)
	return group.Wait()
}

// limits is how long a server waits for a client.
type limits struct {
	header time.Duration // and for a TLS handshake
	body   time.Duration // groups of routes move it
	answer time.Duration // and this
	idle   time.Duration // between requests
}

// patience is that of a server in use. A device asks for its next command within
// seconds; an idle TLS connection holds some 80 KB, times the devices that a push woke.
var patience = limits{header: 10 * time.Second, body: 30 * time.Second, answer: time.Minute, idle: 30 * time.Second}

// newHTTPServer returns a server with limits on all that a client can hold up.
func newHTTPServer(h http.Handler, wait limits, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: wait.header,
		ReadTimeout:       wait.body,
		WriteTimeout:      wait.answer,
		IdleTimeout:       wait.idle,
		MaxHeaderBytes:    64 << 10,
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams: 100,
			SendPingTimeout:      30 * time.Second,
			PingTimeout:          15 * time.Second,
			WriteByteTimeout:     30 * time.Second,
		},
		// What net/http logs by itself is clients' failed handshakes.
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}

// publicURL is the URL of the server as others know it.
func publicURL(cfg config, addr net.Addr) (*url.URL, error) {
	if cfg.serverURL != nil {
		return cfg.serverURL, nil
	}
	scheme, usual := "https", "443"
	if cfg.tls == tlsProxy {
		scheme, usual = "http", "80"
	}
	_, port, err := net.SplitHostPort(addr.String())
	if err != nil {
		return nil, err
	}
	host := "localhost"
	if cfg.lan {
		// An address and not a name: it works on every network, as long as it lasts.
		addrs, err := lanAddresses()
		if err != nil {
			return nil, err
		}
		if len(addrs) > 0 {
			host = addrs[0].String()
			if addrs[0].Is6() {
				host = "[" + host + "]"
			}
		}
	}
	if port != usual {
		host += ":" + port
	}
	return &url.URL{Scheme: scheme, Host: host}, nil
}

// newCertificate loads the TLS certificate that cfg asks for; nil: none.
func newCertificate(ctx context.Context, cfg config, s *state, manager *acme.Manager, serverURL *url.URL, log *slog.Logger, now func() time.Time) (*certificate, tlsNames, error) {
	var cert *certificate
	var names tlsNames
	switch cfg.tls {
	case tlsProxy:
		return nil, names, nil
	case tlsFiles:
		cert = fileCertificate(cfg.tlsCert, cfg.tlsKey, log)
	case tlsOwnCA, tlsACME:
		var err error
		if names, err = namesFor(serverURL.Hostname(), cfg.listen, cfg.lan); err != nil {
			return nil, names, err
		}
		fresh, _ := s.depot.WatchTLS() // for as long as the server runs
		cert = ownCertificate(s.depot, names, fresh, log, now)
		if manager != nil {
			cert = acmeCertificate(manager, cert)
		}
	}
	if err := cert.reload(ctx); err != nil {
		return nil, names, err
	}
	if cfg.tls == tlsFiles {
		leaf := cert.current.Load().Leaf
		if err := leaf.VerifyHostname(serverURL.Hostname()); err != nil {
			log.WarnContext(ctx, "the TLS certificate is not for the server URL", "err", err)
		}
		if now().After(leaf.NotAfter) {
			log.WarnContext(ctx, "the TLS certificate has expired", "at", leaf.NotAfter)
		}
	}
	return cert, names, nil
}

// demoRoots returns what the demo's devices trust: our authority and the certificate in
// use, wherever it is from. Without TLS it is nil.
func demoRoots(s *state, cert *certificate) func() *x509.CertPool {
	if cert == nil {
		return nil
	}
	return func() *x509.CertPool {
		roots := x509.NewCertPool()
		roots.AddCert(s.depot.Root().Certificate())
		roots.AddCert(cert.current.Load().Leaf)
		return roots
	}
}

// explainListen says why an address can't be had, and what to do.
func explainListen(addr string, err error) error {
	_, port, _ := net.SplitHostPort(addr)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("%s is in use by another program; choose another with --listen", addr)
	case errors.Is(err, os.ErrPermission):
		return fmt.Errorf("port %s is only for root, or needs CAP_NET_BIND_SERVICE; choose another with --listen", port)
	}
	return fmt.Errorf("listen: %w", err)
}

// firstStart makes what a server needs that nobody has set up by hand.
func firstStart(ctx context.Context, cfg config, srv *server) error {
	if cfg.adminEmail != "" {
		if _, err := srv.identity.CreateOwner(ctx, cfg.adminEmail, cfg.adminPassword); err != nil {
			return usageError(err)
		}
	}
	if cfg.bootstrapToken != "" {
		if _, err := srv.identity.Bootstrap(ctx, cfg.bootstrapToken); err != nil {
			return err
		}
	}
	return nil
}

// banner says what was found and made, and what to do next.
func banner(ctx context.Context, w io.Writer, cfg config, s *state, srv *server, cert *certificate, serverURL *url.URL, names tlsNames) error {
	setUp, err := srv.identity.SetupState(ctx)
	if err != nil {
		return err
	}
	var text strings.Builder
	made := ""
	if s.fresh {
		made = " (new)"
	}
	where := "data " + cfg.dataDir
	if cfg.store.shared() {
		where = cfg.store.describe(cfg.dataDir)
	}
	fmt.Fprintf(&text, "gatehouse %s   %s%s   %s\n", readBuildInfo().Version, where, made, serverURL)
	root := s.depot.Root().Certificate()
	if s.depot.Created() {
		fmt.Fprintf(&text, "  ✓ created certificate authority  CN=%s  SHA-256 %s\n", root.Subject.CommonName, webui.Fingerprint(root))
	}
	switch cfg.tls {
	case tlsOwnCA:
		fmt.Fprintf(&text, "  ✓ TLS from own CA for %s   (not public: phones must trust the CA)\n", names)
	case tlsFiles:
		fmt.Fprintf(&text, "  ✓ TLS from %s\n", cfg.tlsCert)
	case tlsACME:
		if cert.substitute {
			fmt.Fprintf(&text, "  ! TLS from own CA until the ACME authority has issued for %s: the log says how that goes\n", serverURL.Hostname())
		} else {
			fmt.Fprintf(&text, "  ✓ TLS from the ACME authority, issued for %s until %s\n", serverURL.Hostname(), cert.current.Load().Leaf.NotAfter.Format(time.DateOnly))
		}
	case tlsProxy:
		fmt.Fprintf(&text, "  ! plain HTTP on %s: a proxy in front must do TLS\n", cfg.listen)
	}
	topics, err := srv.pushTopics(ctx)
	if err != nil {
		return err
	}
	if topics == 0 {
		fmt.Fprintf(&text, "  ! no push certificate: commands wait until a device checks in by itself\n")
	} else {
		fmt.Fprintf(&text, "  ! push certificates for %d topics, but this version sends no pushes: commands wait until a device checks in by itself\n", topics)
	}
	if setUp.Done {
		srv.setupLinks.used(ctx) // left over, if there is one
	} else {
		link, err := srv.setupLinks.make(ctx)
		if err != nil {
			return err
		}
		fmt.Fprintf(&text, "Finish setup (one use, %d min):   %s\n", int(time.Until(link.ExpiresAt).Round(time.Minute).Minutes()), link.URL)
		again := "gatehouse setup-link"
		if !cfg.usualDir {
			again += " --data-dir " + cfg.dataDir
		}
		fmt.Fprintf(&text, "  lost it? run  %s      headless?  GATEHOUSE_ADMIN_EMAIL + GATEHOUSE_ADMIN_PASSWORD_FILE\n", again)
	}
	_, err = io.WriteString(w, text.String())
	return err
}
