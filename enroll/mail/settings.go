package mail

import (
	"context"
	"errors"
	"fmt"
	netmail "net/mail"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

// ErrNotConfigured means that the operator has named no mail server.
var ErrNotConfigured = errors.New("no mail server is configured")

// Encryption says how the connection to the server is protected.
type Encryption string

// The kinds of encryption. With the first two the server's certificate is verified, and
// nothing is sent without it.
const (
	StartTLS Encryption = "starttls" // begun readable (RFC 3207), mostly on port 587
	TLS      Encryption = "tls"      // from the first byte (RFC 8314), mostly on port 465
	NoTLS    Encryption = "none"
)

// Settings are the mail server, and who writes.
type Settings struct {
	Host       string     // name or address
	Port       int        // 0: 587, 465 or 25, as Encryption has it
	Encryption Encryption // has no default: without it is to be said
	Username   string     // empty: no login
	Password   identity.Secret
	From       string        // an address, or "Example IT <it@example.com>"
	ReplyTo    string        // an address; empty: From
	Timeout    time.Duration // of each step of a delivery; 0: DefaultTimeout
	PerMinute  int           // messages of the outbox; 0: DefaultPerMinute
}

// Limits and defaults of settings.
const (
	DefaultTimeout   = 30 * time.Second
	MaxTimeout       = 2 * time.Minute
	DefaultPerMinute = 60
	MaxPerMinute     = 6000
)

// record is Settings as they are kept.
type record struct {
	Host       string        `json:"host"`
	Port       int           `json:"port"`
	Encryption Encryption    `json:"encryption"`
	Username   string        `json:"username,omitempty"`
	Password   []byte        `json:"password,omitempty"` // sealed
	From       string        `json:"from"`
	ReplyTo    string        `json:"reply_to,omitempty"`
	Timeout    time.Duration `json:"timeout"`
	PerMinute  int           `json:"per_minute"`
}

const settingsKey = "mail"

var settingsRecords = storage.NewCollection("enroll.mail", 1, func(record) string { return settingsKey })

// purpose binds a sealed password to whom it is for.
func (s Settings) purpose() string {
	return fmt.Sprintf("smtp password of %s at %s:%d", s.Username, s.Host, s.Port)
}

// Settings returns the settings in force, or an error that wraps ErrNotConfigured.
func (s *Service) Settings(ctx context.Context) (in Settings, err error) {
	err = s.db.View(ctx, func(tx storage.Tx) error {
		in, err = s.GetSettings(tx)
		return err
	})
	return in, err
}

// GetSettings is Settings within a transaction.
func (s *Service) GetSettings(tx storage.Tx) (Settings, error) {
	r, err := settingsRecords.Get(tx, settingsKey)
	if errors.Is(err, storage.ErrNotFound) {
		return Settings{}, ErrNotConfigured
	}
	if err != nil {
		return Settings{}, fmt.Errorf("mail settings: %w", err)
	}
	in := Settings{
		Host: r.Host, Port: r.Port, Encryption: r.Encryption, Username: r.Username,
		From: r.From, ReplyTo: r.ReplyTo, Timeout: r.Timeout, PerMinute: r.PerMinute,
	}
	if len(r.Password) > 0 {
		password, err := s.box.Open(in.purpose(), r.Password)
		if err != nil {
			return Settings{}, fmt.Errorf("mail settings: %w", err)
		}
		in.Password = identity.Secret(password)
	}
	return in, nil
}

// PutSettings checks and stores settings. A password that is kept is not handed on to
// another server or for another user: where one of these changes, it must be given again,
// which newPassword says was done. Errors are *enroll.FieldError, with fields as in the
// API, or the store's.
func (s *Service) PutSettings(tx storage.Tx, in Settings, newPassword bool) error {
	if err := in.fill(); err != nil {
		return err
	}
	old, err := s.GetSettings(tx)
	if err != nil && !errors.Is(err, ErrNotConfigured) {
		return err
	}
	if in.Password != "" && !newPassword && in.purpose() != old.purpose() {
		return &enroll.FieldError{Field: "mail.password", Reason: "must be given again where host, port or username changes"}
	}
	r := record{
		Host: in.Host, Port: in.Port, Encryption: in.Encryption, Username: in.Username,
		From: in.From, ReplyTo: in.ReplyTo, Timeout: in.Timeout, PerMinute: in.PerMinute,
	}
	if in.Password != "" {
		r.Password = s.box.Seal(in.purpose(), []byte(in.Password.Reveal()))
	}
	return settingsRecords.Put(tx, r)
}

// RemoveSettings makes the server one that sends no mail.
func (s *Service) RemoveSettings(tx storage.Tx) error {
	return settingsRecords.Delete(tx, settingsKey)
}

// fill checks s and sets its defaults.
func (s *Settings) fill() error {
	s.Host, s.Username = strings.TrimSpace(s.Host), strings.TrimSpace(s.Username)
	s.From, s.ReplyTo = strings.TrimSpace(s.From), strings.TrimSpace(s.ReplyTo)
	bad := func(field, reason string) error { return &enroll.FieldError{Field: "mail." + field, Reason: reason} }
	switch {
	case s.Host == "":
		return bad("host", "is required")
	case !isHost(s.Host):
		return bad("host", "must be a name such as smtp.example.com, or an address, without port")
	case s.Encryption == "":
		return bad("encryption", "is required: starttls, tls or none")
	case !slices.Contains([]Encryption{StartTLS, TLS, NoTLS}, s.Encryption):
		return bad("encryption", "must be starttls, tls or none")
	}
	if s.Port == 0 {
		s.Port = map[Encryption]int{StartTLS: 587, TLS: 465, NoTLS: 25}[s.Encryption]
	}
	if s.Timeout == 0 {
		s.Timeout = DefaultTimeout
	}
	if s.PerMinute == 0 {
		s.PerMinute = DefaultPerMinute
	}
	switch {
	case s.Port < 1 || s.Port > 65535:
		return bad("port", "must be 1 to 65535")
	case len(s.Username) > 255 || !isText(s.Username):
		return bad("username", "must be text of at most 255 bytes")
	case len(s.Password) > 1024 || !isText(s.Password.Reveal()):
		return bad("password", "must be text of at most 1024 bytes")
	case s.Username == "" && s.Password != "":
		return bad("username", "is required where there is a password")
	case s.Username != "" && s.Password == "":
		return bad("password", "is required where there is a username")
	case s.Username != "" && s.Encryption == NoTLS:
		return bad("username", "can't be given with the encryption none: the password would travel readable")
	case s.From == "":
		return bad("from", "is required")
	case !isMailbox(s.From):
		return bad("from", `must be an address, or like "Example IT <it@example.com>"`)
	case s.ReplyTo != "" && !identity.IsAddress(s.ReplyTo):
		return bad("reply_to", "must be an address such as it@example.com")
	case s.Timeout < time.Second || s.Timeout > MaxTimeout:
		return bad("timeout", fmt.Sprintf("must be a duration from 1s to %s", MaxTimeout))
	case s.PerMinute < 1 || s.PerMinute > MaxPerMinute:
		return bad("per_minute", fmt.Sprintf("must be 1 to %d", MaxPerMinute))
	}
	return nil
}

func isText(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r < 0x20 || r == 0x7f })
}

// isMailbox says whether s is an address, with or without a name.
func isMailbox(s string) bool {
	parsed, err := netmail.ParseAddress(s)
	return err == nil && len(s) <= 320 && isText(s) && identity.IsAddress(parsed.Address)
}

// isHost says whether s is a host name in ASCII or an IP address.
func isHost(s string) bool {
	if _, err := netip.ParseAddr(s); err == nil {
		return true
	}
	if len(s) > 253 {
		return false
	}
	for label := range strings.SplitSeq(strings.TrimSuffix(s, "."), ".") {
		if label == "" || len(label) > 63 || strings.Trim(strings.ToLower(label), "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
			return false
		}
	}
	return true
}
