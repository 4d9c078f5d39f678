package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"syscall"

	"github.com/gatehouse-mdm/gatehouse/depot"
)

// checkPKI checks where certificates send those who ask about them.
func (c *serveCommand) checkPKI(cfg *config) error {
	if c.PKIURL != "" {
		u, err := url.Parse(c.PKIURL)
		if err != nil || u.Host == "" || u.Opaque != "" || u.Scheme != "http" && u.Scheme != "https" {
			return invalid("pki-url", "%q is no URL such as http://pki.example.com", c.PKIURL)
		}
		if u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || strings.Contains(c.PKIURL, "#") {
			return invalid("pki-url", "must have no user, query or fragment: it stands in every certificate")
		}
		cfg.pkiURL = u
	}
	if cfg.pkiListen = c.PKIListen; cfg.pkiListen == "" {
		return nil
	}
	_, port, err := net.SplitHostPort(cfg.pkiListen)
	if err != nil {
		return invalid("pki-listen", "%q is no address such as 127.0.0.1:8080 or :80", cfg.pkiListen)
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return invalid("pki-listen", "%q is no port", port)
	}
	if port != "0" && (cfg.pkiListen == cfg.listen || cfg.pkiListen == cfg.mtlsListen) {
		return invalid("pki-listen", "must be another address than --listen and --mtls-listen: it speaks no TLS")
	}
	return nil
}

// listenPKI listens for those who ask about certificates without TLS; nil: nowhere.
func listenPKI(ctx context.Context, cfg config) (net.Listener, error) {
	if cfg.pkiListen == "" {
		return nil, nil
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", cfg.pkiListen)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("%s is in use by another program; choose another with --pki-listen", cfg.pkiListen)
	case err != nil:
		return nil, fmt.Errorf("--pki-listen: %w", err)
	}
	return l, nil
}

// forRelyingParties lets through what is public and signed: CRLs, OCSP answers and
// certificates of authorities. Whoever checks the certificate of a TLS connection
// can't be asked to check another one first. The rest is otherwise's.
func forRelyingParties(next, otherwise http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch path := r.URL.Path; {
		case strings.HasPrefix(path, depot.PathCRL), strings.HasPrefix(path, depot.PathIssuer),
			path == depot.PathOCSP, strings.HasPrefix(path, depot.PathOCSP+"/"):
			next.ServeHTTP(w, r)
		default:
			otherwise.ServeHTTP(w, r)
		}
	})
}
