package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/mail"
	"net/url"
	"os"
	"time"

	"github.com/gatehouse-mdm/gatehouse/storage/seal"
	"github.com/gatehouse-mdm/gatehouse/webui/acme"
)

// acmeConfig is what --tls-mode acme was told.
type acmeConfig struct {
	email      string
	directory  string         // "": Let's Encrypt
	roots      *x509.CertPool // nil: those of the system
	keyID      string
	hmacKey    seal.Secret
	httpListen string // "": port 80 beside port 443; or noHTTP
}

// noHTTP is the --acme-http-listen of who wants none.
const noHTTP = "off"

// checkACME checks what --tls-mode acme needs, and that nobody else has it.
func (c *serveCommand) checkACME(cfg *config) error {
	if cfg.tls != tlsACME {
		for _, f := range []struct{ flag, value string }{
			{"acme-email", c.ACMEEmail}, {"acme-directory", c.ACMEDirectory}, {"acme-ca", c.ACMECA},
			{"acme-eab-key-id", c.ACMEEABKeyID}, {"acme-eab-hmac-key", c.ACMEEABHMACKey}, {"acme-http-listen", c.ACMEHTTPListen},
		} {
			if f.value != "" {
				return invalid(f.flag, "is for --tls-mode acme, not %s", cfg.tls)
			}
		}
		return nil
	}
	cfg.acme = acmeConfig{
		email: c.ACMEEmail, directory: c.ACMEDirectory,
		keyID: c.ACMEEABKeyID, hmacKey: seal.Secret(c.ACMEEABHMACKey), httpListen: c.ACMEHTTPListen,
	}
	switch {
	case c.ACMEEmail == "":
		return invalid("tls-mode", "acme needs --acme-email EMAIL, for the account; to give it is to agree to the authority's terms of service")
	case cfg.serverURL == nil:
		return invalid("tls-mode", "acme needs --server-url, with the public name that the certificate is for")
	case c.Demo > 0:
		return invalid("demo", "is for trying out with --tls-mode own-ca: its devices would not trust the certificate when it changes")
	}
	if at, err := mail.ParseAddress(c.ACMEEmail); err != nil || at.Address != c.ACMEEmail {
		return invalid("acme-email", "%q is no e-mail address", c.ACMEEmail)
	}
	if u, err := url.Parse(c.ACMEDirectory); c.ACMEDirectory != "" && (err != nil || u.Scheme != "https" || u.Host == "") {
		return invalid("acme-directory", "%q is no URL such as https://ca.example.com/acme/directory", c.ACMEDirectory)
	}
	if err := acme.CheckDomain(cfg.serverURL.Hostname(), c.ACMEDirectory); err != nil {
		return invalid("server-url", "%w", err)
	}
	if c.ACMECA != "" {
		if c.ACMEDirectory == "" {
			return invalid("acme-ca", "is what to trust at --acme-directory, which is missing")
		}
		text, err := os.ReadFile(c.ACMECA)
		if err != nil {
			return invalid("acme-ca", "%w", err)
		}
		cfg.acme.roots = x509.NewCertPool()
		if !cfg.acme.roots.AppendCertsFromPEM(text) {
			return invalid("acme-ca", "%s holds no PEM certificate", c.ACMECA)
		}
	}
	if (c.ACMEEABKeyID == "") != (c.ACMEEABHMACKey == "") {
		return invalid("acme-eab-key-id", "and --acme-eab-hmac-key go together")
	}
	if err := acme.CheckHMACKey(cfg.acme.hmacKey); err != nil {
		return invalid("acme-eab-hmac-key", "%w", err)
	}
	if c.ACMEHTTPListen != "" && c.ACMEHTTPListen != noHTTP {
		if _, _, err := net.SplitHostPort(c.ACMEHTTPListen); err != nil {
			return invalid("acme-http-listen", "%q is no address such as :80, nor %q", c.ACMEHTTPListen, noHTTP)
		}
	}
	return nil
}

// listenHTTP listens for what comes without TLS: http-01 challenges, and people who typed
// no https://. Unless told where, it does so on port 80 beside port 443; nil: it does not.
// Without it, challenges come by TLS alone, which mostly is enough.
func listenHTTP(ctx context.Context, cfg config, log *slog.Logger) (net.Listener, error) {
	addr := cfg.acme.httpListen
	if addr == noHTTP || cfg.tls != tlsACME {
		return nil, nil
	}
	if addr == "" {
		host, port, err := net.SplitHostPort(cfg.listen)
		if err != nil || port != "443" {
			return nil, err
		}
		addr = net.JoinHostPort(host, "80")
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", addr)
	if err != nil && cfg.acme.httpListen == "" {
		log.WarnContext(ctx, "port 80 can't be had: ACME challenges are answered by TLS alone, http:// is not redirected", "err", err)
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("--acme-http-listen: %w", err)
	}
	return l, nil
}

// newACME returns what gets the certificate; nil without --tls-mode acme. plain may be nil.
func newACME(ctx context.Context, cfg config, s *state, serverURL *url.URL, network, plain net.Listener, log *slog.Logger, now func() time.Time) (*acme.Manager, error) {
	if cfg.tls != tlsACME {
		return nil, nil
	}
	c := acme.Config{
		DB: s.db, Box: s.box,
		Domain: serverURL.Hostname(), Email: cfg.acme.email,
		Directory: cfg.acme.directory, Roots: cfg.acme.roots,
		KeyID: cfg.acme.keyID, HMACKey: cfg.acme.hmacKey,
		TLS: network.Addr(),
		Log: log, Now: now,
	}
	if plain != nil {
		c.HTTP = plain.Addr()
	}
	if at, ok := network.Addr().(*net.TCPAddr); ok && at.IP.IsLoopback() {
		log.WarnContext(ctx, "listens on this machine only: unless something forwards port 443 here, no ACME challenge arrives; see --listen", "address", at.String())
	}
	return acme.New(c)
}

// acmeCertificate is --tls-mode acme. Until the authority has issued, own is in use: so the
// server starts whether the authority can be reached or not, people get to the pages past a
// warning, devices that trust our authority go on, and a load balancer that looks at /readyz
// lets the challenges through that the certificate depends on. Others see a certificate that
// they don't trust, which is no worse than a handshake that fails.
func acmeCertificate(manager *acme.Manager, own *certificate) *certificate {
	c := &certificate{log: own.log, fresh: manager.Changed()}
	c.load = func(ctx context.Context) (tls.Certificate, error) {
		cert, err := manager.Certificate(ctx)
		if errors.Is(err, acme.ErrNone) && (c.current.Load() == nil || c.substitute) {
			c.substitute = true
			return own.load(ctx)
		}
		if err == nil {
			c.substitute = false
		}
		return cert, err
	}
	c.changed = func() bool { return c.substitute && own.changed() }
	return c
}

// redirect leads browsers to the same page of the server over TLS. What may have brought a
// secret along is refused, or nobody would notice that it travels in the clear.
func redirect(to *url.URL) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead || r.Header.Get("Authorization") != "" {
			http.Error(w, "only over "+to.String(), http.StatusForbidden)
			return
		}
		target := url.URL{Scheme: to.Scheme, Host: to.Host, Path: r.URL.Path, RawPath: r.URL.RawPath, RawQuery: r.URL.RawQuery}
		http.Redirect(w, r, target.String(), http.StatusPermanentRedirect)
	})
}
