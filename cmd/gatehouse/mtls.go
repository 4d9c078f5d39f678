package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"syscall"

	"github.com/gatehouse-mdm/gatehouse/depot/est"
	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/webui"
	"github.com/gatehouse-mdm/gatehouse/webui/authproxy"
)

// checkMTLS checks the address on which client certificates are asked for.
func (c *serveCommand) checkMTLS(cfg *config) error {
	if cfg.mtlsListen == "" {
		return nil
	}
	if cfg.tls == tlsProxy {
		return invalid("mtls-listen", "needs TLS, which a proxy does with --tls-mode proxy: let it pass client certificates on with --client-cert-header")
	}
	_, port, err := net.SplitHostPort(cfg.mtlsListen)
	if err != nil {
		return invalid("mtls-listen", "%q is no address such as 127.0.0.1:8444 or :8444", cfg.mtlsListen)
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return invalid("mtls-listen", "%q is no port", port)
	}
	if cfg.mtlsListen == cfg.listen && port != "0" {
		return invalid("mtls-listen", "must be another address than --listen, where no client is asked for a certificate")
	}
	return nil
}

// listenMTLS listens where client certificates are asked for; nil: nowhere.
func listenMTLS(ctx context.Context, cfg config) (net.Listener, error) {
	if cfg.mtlsListen == "" {
		return nil, nil
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", cfg.mtlsListen)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("%s is in use by another program; choose another with --mtls-listen", cfg.mtlsListen)
	case err != nil:
		return nil, fmt.Errorf("--mtls-listen: %w", err)
	}
	return l, nil
}

// mtlsConfig is tlsConfig where clients are asked for a certificate. They may have
// none, and whose one is and whether it is revoked is looked up for every request:
// the handshake proves the key, and a session that is resumed proves nothing.
func mtlsConfig(cert *certificate) *tls.Config {
	config := tlsConfig(cert, nil)
	config.ClientAuth = tls.RequestClientCert
	config.SessionTicketsDisabled = true
	return config
}

// forCertificates lets through what is of use to a client that has a certificate.
// Everything else is not for these: a browser would ask its user to choose one.
func forCertificates(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch path := r.URL.Path; {
		case strings.HasPrefix(path, est.Path), path == enroll.PathCheckIn, path == enroll.PathConnect,
			strings.HasPrefix(path, authproxy.Path), path == "/livez":
			next.ServeHTTP(w, r)
		default:
			webui.WriteProblem(w, r, http.StatusNotFound, "not_found", "Not found", "This address is for clients with a certificate. Everything else is at the server's usual one.")
		}
	})
}
