// Package mail sends mail through the operator's SMTP server, one message to one person at
// a time, and says in which step that failed.
//
// It knows nothing of what is written and why: package enroll/invite has invitations and
// the outbox they wait in. The library's types stop here.
package mail

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	netmail "net/mail"
	"strings"
	"time"
	"unicode"

	gomail "github.com/wneessen/go-mail"

	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/seal"
)

// Message is a mail to one person.
type Message struct {
	// ID tells the message from all others, also when it is sent again: servers and mail
	// programs may then drop the second one (RFC 5322, 3.6.4). Letters and digits.
	ID       string
	To       string // address alone
	Subject  string
	Language string // RFC 5646; may be empty
	Text     string
	HTML     string // a whole document; empty: the message is text only
}

// Config says what a Service needs: DB, Box, Name, Log and Now.
type Config struct {
	DB  storage.DB
	Box *seal.Box

	// Name is what this server calls itself to others: its own host name.
	Name string

	// Roots are the authorities that the server's certificate may be from; nil: the
	// machine's own.
	Roots *x509.CertPool

	Log *slog.Logger
	Now func() time.Time
}

// Service sends mail as its settings say, which are kept in the database.
type Service struct {
	db    storage.DB
	box   *seal.Box
	name  string
	roots *x509.CertPool
	log   *slog.Logger
	now   func() time.Time
}

// New returns a Service, or says what c lacks.
func New(c Config) (*Service, error) {
	if c.DB == nil || c.Box == nil || c.Name == "" || c.Log == nil || c.Now == nil {
		return nil, errors.New("mail: DB, Box, Name, Log and Now are required")
	}
	return &Service{db: c.DB, box: c.Box, name: c.Name, roots: c.Roots, log: c.Log, now: c.Now}, nil
}

// encode returns m as it travels (RFC 5322, RFC 2046).
func (m Message) encode(s Settings, now time.Time) ([]byte, error) {
	from, err := netmail.ParseAddress(s.From)
	if err != nil {
		return nil, fmt.Errorf("sender: %w", err)
	}
	to, err := netmail.ParseAddress(m.To)
	if err != nil {
		return nil, fmt.Errorf("recipient: %w", err)
	}
	_, domain, _ := strings.Cut(from.Address, "@")
	msg := gomail.NewMsg(gomail.WithNoDefaultUserAgent())
	if err := msg.FromFormat(oneLine(from.Name), from.Address); err != nil {
		return nil, fmt.Errorf("sender: %w", err)
	}
	if err := msg.To(to.Address); err != nil {
		return nil, fmt.Errorf("recipient: %w", err)
	}
	if s.ReplyTo != "" {
		if err := msg.ReplyTo(s.ReplyTo); err != nil {
			return nil, fmt.Errorf("reply to: %w", err)
		}
	}
	msg.Subject(oneLine(m.Subject))
	msg.SetDateWithValue(now)
	msg.SetMessageIDWithValue(m.ID + "@" + domain)
	// No holiday notices, please (RFC 3834, 5; the second for Exchange).
	msg.SetGenHeader("Auto-Submitted", "auto-generated")
	msg.SetGenHeader("X-Auto-Response-Suppress", "All")
	if m.Language != "" {
		msg.SetGenHeader("Content-Language", oneLine(m.Language))
	}
	msg.SetBodyString(gomail.TypeTextPlain, m.Text)
	if m.HTML != "" {
		msg.AddAlternativeString(gomail.TypeTextHTML, m.HTML)
	}
	var encoded bytes.Buffer
	if _, err := msg.WriteTo(&encoded); err != nil {
		return nil, err
	}
	return encoded.Bytes(), nil
}

// oneLine is s as a part of a header, in which no other one can begin.
func oneLine(s string) string {
	return strings.Join(strings.Fields(strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || r == '\u2028' || r == '\u2029' {
			return ' '
		}
		return r
	}, s)), " ")
}
