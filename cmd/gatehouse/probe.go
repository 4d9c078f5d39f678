package main

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/net/netutil"
)

// The trust probe tells the portal whether a device trusts our authority yet. A browser
// in which somebody went past the warning about this server's certificate loads
// everything from here all the same. From another port, with another certificate, it
// loads nothing until the authority itself is trusted.

const (
	probePath = "/trust-probe.gif"
	probeOff  = "off"
)

// probePixel is a picture of one transparent pixel, which is all that the page waits for.
const probePixel = "R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7"

// checkProbe checks the address of the trust probe.
func (c *serveCommand) checkProbe(cfg *config) error {
	cfg.probeListen = c.TrustProbeListen
	if cfg.tls != tlsOwnCA {
		if c.TrustProbeListen != "" && c.TrustProbeListen != probeOff {
			return invalid("trust-probe-listen", "is for --tls-mode own-ca: elsewhere devices trust the certificate already")
		}
		cfg.probeListen = ""
		return nil
	}
	switch cfg.probeListen {
	case probeOff:
		cfg.probeListen = ""
		return nil
	case "":
		host, _, err := net.SplitHostPort(cfg.listen)
		if err != nil {
			return err
		}
		cfg.probeListen = net.JoinHostPort(host, "0")
		return nil
	}
	_, port, err := net.SplitHostPort(cfg.probeListen)
	if err != nil {
		return invalid("trust-probe-listen", "%q is no address such as :8444, nor off", cfg.probeListen)
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return invalid("trust-probe-listen", "%q is no port", port)
	}
	if port != "0" && slices.Contains([]string{cfg.listen, cfg.mtlsListen, cfg.pkiListen}, cfg.probeListen) {
		return invalid("trust-probe-listen", "must be an address of its own")
	}
	return nil
}

// listenProbe listens for the trust probe; nil: nowhere.
func listenProbe(ctx context.Context, cfg config) (net.Listener, error) {
	if cfg.probeListen == "" {
		return nil, nil
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", cfg.probeListen)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("%s is in use by another program; choose another with --trust-probe-listen, or %s", cfg.probeListen, probeOff)
	case err != nil:
		return nil, fmt.Errorf("--trust-probe-listen: %w", err)
	}
	return l, nil
}

// probeURL is where a browser finds the trust probe that listens at addr.
func probeURL(serverURL *url.URL, addr net.Addr) (string, error) {
	_, port, err := net.SplitHostPort(addr.String())
	if err != nil {
		return "", err
	}
	u := url.URL{Scheme: "https", Host: net.JoinHostPort(serverURL.Hostname(), port), Path: probePath}
	return u.String(), nil
}

// newProbeCertificate returns the trust probe's own certificate: for the same names as
// the server's, and one more by which the two are told apart.
func newProbeCertificate(ctx context.Context, s *state, names tlsNames, log *slog.Logger, now func() time.Time) (*certificate, error) {
	names.dns = append(slices.Clone(names.dns), "trust-probe.invalid")
	fresh, _ := s.depot.WatchTLS() // for as long as the server runs
	cert := ownCertificate(s.depot, names, fresh, log, now)
	if err := cert.reload(ctx); err != nil {
		return nil, err
	}
	return cert, nil
}

// probe serves the trust probe on l, which it wraps in TLS.
func probe(l net.Listener, cert *certificate) (net.Listener, http.Handler) {
	pixel, err := base64.StdEncoding.DecodeString(probePixel)
	if err != nil {
		panic(err) // a constant of ours
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+probePath, func(w http.ResponseWriter, _ *http.Request) {
		h := w.Header()
		h.Set("Content-Type", "image/gif")
		h.Set("Cache-Control", "no-store")
		h.Set("Cross-Origin-Resource-Policy", "cross-origin")
		h.Set("X-Content-Type-Options", "nosniff")
		_, _ = w.Write(pixel)
	})
	const most = 256 // connections
	return tls.NewListener(netutil.LimitListener(l, most), tlsConfig(cert, nil)), mux
}
