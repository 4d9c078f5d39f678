// Package ldap knows people by an LDAP directory (RFC 4511): OpenLDAP, Active Directory,
// FreeIPA and others that take a search and a simple bind.
//
// It keeps nothing, and knows nothing of users of this server: what a person is here is
// up to package identity, of which this is a kind of source. Neither its errors nor what
// it hands out hold a password.
package ldap

import (
	"encoding/json"
	"errors"
	"log/slog"
	"time"

	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
)

// Config says what a Kind needs: all of it.
type Config struct {
	Log *slog.Logger // of servers that fail while another answers
	Now func() time.Time
}

// Kind makes sources of LDAP directories.
type Kind struct {
	log *slog.Logger
	now func() time.Time
}

// New returns a Kind, or says what c lacks.
func New(c Config) (*Kind, error) {
	if c.Log == nil || c.Now == nil {
		return nil, errors.New("ldap: Log and Now are required")
	}
	return &Kind{c.Log, c.Now}, nil
}

var (
	_ identity.SourceKind = (*Kind)(nil)
	_ identity.Destined   = (*Kind)(nil)
	_ identity.Distinct   = (*Kind)(nil)
)

// Name implements [identity.SourceKind].
func (*Kind) Name() string { return "ldap" }

// Secrets implements [identity.SourceKind].
func (*Kind) Secrets() []string { return []string{"bind_password", "client_key"} }

// Destinations implements [identity.Destined]: who gets to know the password of who
// searches, and those of all who sign in.
func (*Kind) Destinations() []string {
	return []string{"urls", "server_name", "ca_certificates", "start_tls", "allow_plaintext"}
}

// Namespace implements [identity.Distinct]. The servers may change: they have the same content.
func (*Kind) Namespace() []string { return []string{"base_dn", "subject_attribute"} }

// Check implements [identity.SourceKind]. It asks no directory: whether one is there shows
// [Source.Diagnose].
func (*Kind) Check(raw json.RawMessage) error {
	_, err := parseSettings(raw)
	return err
}

// Open implements [identity.SourceKind]. What it returns is a *[Source].
func (k *Kind) Open(raw json.RawMessage) (any, error) {
	s, err := parseSettings(raw)
	if err != nil {
		return nil, err
	}
	return &Source{
		settings: s, log: k.log, now: k.now,
		busy: make(chan struct{}, concurrent), failed: map[string]time.Time{},
	}, nil
}

// Mapping implements [identity.SourceKind]. user_name and full_name are no attributes of
// a directory: see [Source.SignIn].
func (*Kind) Mapping() identity.Mapping {
	return identity.Mapping{Username: userName, Email: "mail", FullName: fullName}
}
