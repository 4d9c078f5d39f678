package acme

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"path"
	"slices"
	"strings"

	"github.com/caddyserver/certmagic"
	"github.com/mholt/acmez/v3"
	"github.com/mholt/acmez/v3/acme"
)

// Challenges are answered from the database and not from certmagic's memory, which knows
// those of its own process only. The replica that began one makes no difference then.

// challenge returns the pending challenge of this type, or an error that wraps
// fs.ErrNotExist.
func (m *Manager) challenge(ctx context.Context, kind string) (acme.Challenge, error) {
	for _, directory := range m.directories {
		// Where certmagic's solvers leave challenges for those of other processes.
		key := path.Join("acme", certmagic.StorageKeys.Safe(issuerKey(directory)), "challenge_tokens",
			certmagic.StorageKeys.Safe(m.c.Domain)+".json")
		text, err := m.store.Load(ctx, key)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return acme.Challenge{}, err
		}
		var c acme.Challenge
		if err := json.Unmarshal(text, &c); err != nil {
			return acme.Challenge{}, fmt.Errorf("%s: %w", key, err)
		}
		if c.Type == kind {
			return c, nil
		}
	}
	return acme.Challenge{}, fmt.Errorf("no %s challenge is pending: %w", kind, fs.ErrNotExist)
}

// ConfigForClient is for a tls.Config's GetConfigForClient: it answers tls-alpn-01
// challenges (RFC 8737), and returns nil for all other clients.
func (m *Manager) ConfigForClient(hello *tls.ClientHelloInfo) (*tls.Config, error) {
	// RFC 8737, 3: this protocol alone, and the name.
	if !slices.Equal(hello.SupportedProtos, []string{acmez.ACMETLS1Protocol}) {
		return nil, nil
	}
	ctx := hello.Context()
	if !strings.EqualFold(hello.ServerName, m.c.Domain) {
		return nil, fmt.Errorf("no challenge is pending for %q", hello.ServerName)
	}
	c, err := m.challenge(ctx, acme.ChallengeTypeTLSALPN01)
	if err != nil {
		return nil, err
	}
	cert, err := acmez.TLSALPN01ChallengeCert(c)
	if err != nil {
		return nil, err
	}
	m.c.Log.InfoContext(ctx, "ACME challenge answered", "type", c.Type, "domain", m.c.Domain)
	return &tls.Config{
		MinVersion:             tls.VersionTLS12,
		Certificates:           []tls.Certificate{*cert},
		NextProtos:             []string{acmez.ACMETLS1Protocol},
		SessionTicketsDisabled: true,
	}, nil
}

const httpChallenges = "/.well-known/acme-challenge/" // RFC 8555, 8.3

// AnswerHTTP answers http-01 challenges (RFC 8555, 8.3), and leaves all else to next.
func (m *Manager) AnswerHTTP(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		token, ok := strings.CutPrefix(r.URL.Path, httpChallenges)
		if !ok {
			next.ServeHTTP(w, r)
			return
		}
		host := r.Host
		if h, _, err := net.SplitHostPort(host); err == nil {
			host = h
		}
		// Only under the name that is validated: or a page of another origin could be
		// made to look like ours (DNS rebinding).
		if r.Method != http.MethodGet || !strings.EqualFold(host, m.c.Domain) {
			http.NotFound(w, r)
			return
		}
		c, err := m.challenge(r.Context(), acme.ChallengeTypeHTTP01)
		switch {
		case errors.Is(err, fs.ErrNotExist) || err == nil && c.Token != token:
			http.NotFound(w, r)
			return
		case err != nil:
			m.c.Log.WarnContext(r.Context(), "ACME challenge not answered", "err", err)
			http.Error(w, "try again later", http.StatusServiceUnavailable)
			return
		}
		m.c.Log.InfoContext(r.Context(), "ACME challenge answered", "type", c.Type, "domain", m.c.Domain)
		w.Header().Set("Content-Type", "application/octet-stream")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		_, _ = w.Write([]byte(c.KeyAuthorization))
	})
}
