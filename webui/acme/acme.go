// Package acme gets the server's TLS certificate from an ACME authority (RFC 8555), Let's
// Encrypt unless told otherwise, and renews it. It does so by certmagic, whose types stop here.
//
// All that it keeps is in the database: the account, keys and certificates, locks, and the
// challenges that wait for an answer. So replicas share one certificate, and each can answer
// a challenge that another began. It knows nothing of what is served under the certificate.
package acme

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/mholt/acmez/v3/acme"
	"go.uber.org/zap"

	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/seal"
)

// ErrNone means that there is no certificate yet, or none that can be used.
var ErrNone = errors.New("no certificate from the ACME authority")

// errUnpaired means that the certificate and the key in the database don't belong together:
// certmagic writes them one after the other, and a process died in between.
var errUnpaired = errors.New("certificate and key in the database are no pair")

// Config says what a Manager needs.
type Config struct {
	DB  storage.DB
	Box *seal.Box

	Domain    string         // what the certificate is for: see CheckDomain
	Email     string         // of the account; to give it is to agree to the authority's terms
	Directory string         // https URL of the authority; "" is Let's Encrypt
	Roots     *x509.CertPool // to trust at the Directory; nil: those of the system
	KeyID     string         // of an external account (RFC 8555, 7.3.4); "" for none
	HMACKey   seal.Secret    // of the external account, in base64

	// Where the server listens for TLS, which port 443 of Domain leads to, and for plain
	// HTTP, which port 80 leads to. HTTP may be nil.
	TLS, HTTP net.Addr

	Log *slog.Logger
	Now func() time.Time
}

// Manager gets the certificate, renews it, and answers challenges.
type Manager struct {
	c           Config
	directories []string // where challenges may come from, the one in use first
	store       *store
	zap         *zap.Logger
	changed     chan struct{}
	loaded      atomic.Pointer[time.Time] // when that was stored which Certificate returned last

	retry func(failed int) time.Duration // how long to wait after that many failures and one more
	every time.Duration                  // between looks at what is due; 0: certmagic's ten minutes
}

// New returns a Manager, or says what c lacks. It does nothing before Run.
func New(c Config) (*Manager, error) {
	if c.DB == nil || c.Box == nil || c.Email == "" || c.TLS == nil || c.Log == nil || c.Now == nil {
		return nil, errors.New("acme: DB, Box, Email, TLS, Log and Now are required")
	}
	if err := CheckDomain(c.Domain, c.Directory); err != nil {
		return nil, fmt.Errorf("acme: %w", err)
	}
	if (c.KeyID == "") != (c.HMACKey == "") {
		return nil, errors.New("acme: KeyID and HMACKey go together")
	}
	key, err := hmacKey(c.HMACKey)
	if err != nil {
		return nil, err
	}
	c.HMACKey = key
	m := &Manager{
		c:       c,
		store:   newStore(c.DB, c.Box, c.Log, c.Now),
		zap:     newZap(c.Log),
		changed: make(chan struct{}, 1),
		retry:   backoff,
	}
	m.loaded.Store(&time.Time{})
	m.directories = []string{c.Directory}
	if c.Directory == "" {
		// certmagic tries again at the staging directory, and returns to the other one once
		// that succeeds: failures count against a limit that is low.
		m.directories = []string{certmagic.LetsEncryptProductionCA, certmagic.LetsEncryptStagingCA}
	}
	return m, nil
}

// hmacKey returns a key as RFC 8555 has it: authorities also hand it out as other base64.
func hmacKey(key seal.Secret) (seal.Secret, error) {
	text := strings.NewReplacer("+", "-", "/", "_").Replace(strings.TrimRight(string(key), "="))
	if _, err := base64.RawURLEncoding.DecodeString(text); err != nil {
		return "", errors.New("the HMAC key of the external account is no base64")
	}
	return seal.Secret(text), nil
}

// CheckHMACKey says whether key can be that of an external account.
func CheckHMACKey(key seal.Secret) error {
	_, err := hmacKey(key)
	return err
}

// files are the keys of certificate and private key in the store.
func (m *Manager) files() (cert, key string) {
	issuer := issuerKey(m.directories[0])
	return certmagic.StorageKeys.SiteCert(issuer, m.c.Domain), certmagic.StorageKeys.SitePrivateKey(issuer, m.c.Domain)
}

func issuerKey(directory string) string { return (&certmagic.ACMEIssuer{CA: directory}).IssuerKey() }

// Certificate returns the newest certificate in the database with its key and its
// intermediates, or an error that wraps ErrNone. Which replica got it makes no difference.
func (m *Manager) Certificate(ctx context.Context) (tls.Certificate, error) {
	cert, stored, err := m.load(ctx)
	if err == nil {
		m.loaded.Store(&stored)
	}
	return cert, err
}

// load reads certificate and key, and when the certificate was stored.
func (m *Manager) load(ctx context.Context) (cert tls.Certificate, stored time.Time, err error) {
	certFile, keyFile := m.files()
	var chain, key []byte
	err = m.c.DB.View(ctx, func(tx storage.Tx) error {
		it, err := items.Get(tx, certFile)
		if err != nil {
			return missing(certFile, err)
		}
		stored = it.Modified
		if chain, err = m.c.Box.Open(purpose(certFile), it.Value); err != nil {
			return err
		}
		key, err = m.store.load(tx, keyFile)
		return err
	})
	if errors.Is(err, fs.ErrNotExist) {
		return cert, stored, ErrNone
	}
	if err != nil {
		return cert, stored, err
	}
	if cert, err = tls.X509KeyPair(chain, key); err != nil {
		return cert, stored, fmt.Errorf("%w: %w: %w", ErrNone, errUnpaired, err)
	}
	return cert, stored, nil
}

// Changed receives when Certificate would return another certificate than it did last.
func (m *Manager) Changed() <-chan struct{} { return m.changed }

// look tells Changed if there is a certificate in the database that is neither the one that
// was loaded last nor the one, stored at told, that it was told of; it returns the new told.
func (m *Manager) look(ctx context.Context, told time.Time) time.Time {
	certFile, _ := m.files()
	info, err := m.store.Stat(ctx, certFile)
	switch {
	case errors.Is(err, fs.ErrNotExist) || ctx.Err() != nil:
	case err != nil:
		m.c.Log.WarnContext(ctx, "ACME state not read", "key", certFile, "err", err)
	case !info.Modified.Equal(told) && !info.Modified.Equal(*m.loaded.Load()):
		select {
		case m.changed <- struct{}{}:
		default: // it has not been asked since it was told last
		}
		return info.Modified
	}
	return told
}

// Run gets the certificate and renews it until ctx ends. That the authority is not
// reachable, or refuses, is no failure of Run: it tells the log, and tries again.
func (m *Manager) Run(ctx context.Context) error {
	news, stop := m.c.DB.Watch(topic)
	defer stop()
	defer func() {
		// Requests have ended, the database has not.
		if err := m.store.unlockAll(context.WithoutCancel(ctx)); err != nil {
			m.c.Log.WarnContext(ctx, "ACME locks not released, others wait until they end", "err", err)
		}
	}()
	config, cache := m.configure(ctx)
	defer cache.Stop()

	managed := make(chan struct{})
	go func() {
		defer close(managed)
		m.manage(ctx, config, cache)
	}()
	tick := time.NewTicker(5 * time.Minute)
	defer tick.Stop()
	var told time.Time
	for started := managed; ; {
		select {
		case <-ctx.Done():
			<-managed
			return nil
		case <-started:
			started = nil
		case <-news:
		case <-tick.C: // for news that got lost, and for certificates that could not be loaded
			told = time.Time{}
		}
		told = m.look(ctx, told)
	}
}

// configure returns a certmagic that is set up, and what maintains its certificates: looks
// every ten minutes whether one is due, also by what the authority recommends (RFC 9773),
// then takes a newer one out of the database or orders one, under a lock that all replicas
// know. It works until it is stopped.
func (m *Manager) configure(ctx context.Context) (*certmagic.Config, *certmagic.Cache) {
	var config atomic.Pointer[certmagic.Config]
	cache := certmagic.NewCache(certmagic.CacheOptions{
		GetConfigForCert: func(certmagic.Certificate) (*certmagic.Config, error) { return config.Load(), nil },
		Logger:           m.zap, RenewCheckInterval: m.every,
	})
	c := certmagic.New(cache, certmagic.Config{
		Storage: m.store,
		// The key signs enrollment profiles, too. Whether a device shows "Verified" for a
		// profile that an ECDSA key signed is not known.
		KeySource: certmagic.StandardKeyGenerator{KeyType: certmagic.RSA2048},
		Logger:    m.zap,
		OnEvent: func(_ context.Context, event string, data map[string]any) error {
			m.report(ctx, event, data)
			return nil
		},
	})
	host, port := hostPort(m.c.TLS)
	issuer := certmagic.ACMEIssuer{
		CA: m.directories[0], Email: m.c.Email, Agreed: true, TrustedRoots: m.c.Roots, Logger: m.zap,
		// Certmagic answers challenges on listeners of its own where nobody listens yet. It
		// finds ours, where they are answered from the database.
		ListenHost: host, AltTLSALPNPort: port,
		DisableHTTPChallenge: m.c.HTTP == nil,
	}
	if len(m.directories) > 1 {
		issuer.TestCA = m.directories[1]
	}
	if m.c.HTTP != nil {
		_, issuer.AltHTTPPort = hostPort(m.c.HTTP)
	}
	if m.c.KeyID != "" {
		issuer.ExternalAccount = &acme.EAB{KeyID: m.c.KeyID, MACKey: string(m.c.HMACKey)}
	}
	c.Issuers = []certmagic.Issuer{certmagic.NewACMEIssuer(c, issuer)}
	config.Store(c)
	return c, cache
}

func hostPort(addr net.Addr) (host string, port int) {
	host, text, _ := net.SplitHostPort(addr.String())
	port, _ = strconv.Atoi(text)
	return host, port
}

// manage loads the certificate, or gets one. Afterwards the cache's maintenance has it.
func (m *Manager) manage(ctx context.Context, config *certmagic.Config, cache *certmagic.Cache) {
	attempts := 0
	ctx = context.WithValue(ctx, certmagic.AttemptsCtxKey, &attempts)
	for {
		err := m.repair(ctx)
		if err == nil {
			err = config.ManageSync(ctx, []string{m.c.Domain})
		}
		if err == nil || ctx.Err() != nil || len(cache.AllMatchingCertificates(m.c.Domain)) > 0 {
			return // a renewal that failed was reported, and comes again
		}
		wait := m.retry(attempts)
		attempts++
		m.c.Log.ErrorContext(ctx, "no TLS certificate from the ACME authority", "domain", m.c.Domain,
			"directory", m.directories[0], "err", err, "try", advice(err, m.c), "retry_in", wait.String())
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
	}
}

// backoff is how long to wait after this many failures before: authorities limit failures
// to some five an hour.
func backoff(failed int) time.Duration {
	waits := []time.Duration{time.Minute, 2 * time.Minute, 5 * time.Minute, 10 * time.Minute, 20 * time.Minute, 30 * time.Minute, time.Hour}
	return waits[min(failed, len(waits)-1)]
}

// repair removes a certificate whose key is another's, which certmagic would report for ever.
func (m *Manager) repair(ctx context.Context) error {
	if _, _, err := m.load(ctx); !errors.Is(err, errUnpaired) {
		return nil // what else is wrong, certmagic finds
	}
	// Perhaps a replica is just now writing the second of the two: this is its lock.
	lock := "issue_cert_" + m.c.Domain
	if err := m.store.Lock(ctx, lock); err != nil {
		return err
	}
	_, _, err := m.load(ctx)
	if errors.Is(err, errUnpaired) {
		m.c.Log.WarnContext(ctx, "TLS certificate ordered anew", "domain", m.c.Domain, "err", err)
		err = m.store.Delete(ctx, certmagic.StorageKeys.CertsSitePrefix(issuerKey(m.directories[0]), m.c.Domain))
	} else {
		err = nil
	}
	return errors.Join(err, m.store.Unlock(context.WithoutCancel(ctx), lock))
}

// report tells the log what became of orders.
func (m *Manager) report(ctx context.Context, event string, data map[string]any) {
	renewal, _ := data["renewal"].(bool)
	switch event {
	case "cert_obtained":
		m.c.Log.InfoContext(ctx, "TLS certificate obtained", "domain", m.c.Domain, "directory", m.directories[0], "renewal", renewal)
	case "cert_failed":
		if err, ok := data["error"].(error); ok && renewal && ctx.Err() == nil { // else manage reports it
			m.c.Log.ErrorContext(ctx, "TLS certificate not renewed", "domain", m.c.Domain, "directory", m.directories[0],
				"remaining", fmt.Sprint(data["remaining"]), "err", err, "try", advice(err, m.c))
		}
	}
}

// advice says what a person can do about a failed order.
func advice(err error, c Config) string {
	var problem acme.Problem
	var network *url.Error
	var untrusted x509.UnknownAuthorityError
	switch {
	case errors.As(err, &problem):
		switch problem.Type {
		case acme.ProblemTypeConnection, acme.ProblemTypeUnauthorized, acme.ProblemTypeTLS, acme.ProblemTypeIncorrectResponse:
			ports := "port 443 there must lead to " + c.TLS.String()
			if c.HTTP != nil {
				ports += ", or port 80 to " + c.HTTP.String()
			}
			return "check from the internet that " + c.Domain + " resolves to this server; " + ports
		case acme.ProblemTypeDNS:
			return "check the DNS records of " + c.Domain + ": A or AAAA must name this server's public address"
		case acme.ProblemTypeCAA:
			return "a CAA record of " + c.Domain + " forbids this authority to issue: change it"
		case acme.ProblemTypeRateLimited:
			return "too many orders or failures lately: wait, it is tried again"
		case acme.ProblemTypeRejectedIdentifier:
			return "the authority issues nothing for " + c.Domain + ": check --server-url"
		case acme.ProblemTypeExternalAccountRequired:
			return "the authority wants an account that exists: give --acme-eab-key-id and --acme-eab-hmac-key"
		case acme.ProblemTypeInvalidContact, acme.ProblemTypeUnsupportedContact:
			return "the authority refuses the e-mail address: check --acme-email"
		}
		return "the authority says what is wrong"
	case errors.As(err, &untrusted):
		return "the directory's TLS certificate is not trusted: name its root with --acme-ca"
	case errors.As(err, &network):
		return "check that this server may reach the authority by HTTPS"
	}
	return "wait, it is tried again"
}
