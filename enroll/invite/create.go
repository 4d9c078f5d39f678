package invite

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/event"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

// Limits of an invitation.
const (
	MaxAddresses = 1000
	MaxUses      = 100 // devices that one person enrols by a link
	maxSubject   = 200 // bytes
	maxMessage   = 10_000
)

// Request describes an invitation to be made: to Emails or to Users.
type Request struct {
	// ID is one that [Service.NewID] returned; empty: a new one. An ID that is there already is
	// the same request once more, and gets the invitation of the first.
	ID string

	Emails []string
	Users  []string // logins, of users who have an e-mail address

	// As of a link.
	Name          string
	Ownership     mdm.Ownership
	Ask           bool
	Login         enroll.Login
	Uses          int
	ExpiresIn     time.Duration
	SerialNumbers []string

	Language, Subject, Message string

	WithoutMail bool // make the links, and nothing else
	CreatedBy   string
}

// NewID returns the ID of an invitation to be made.
func (s *Service) NewID() string {
	return fmt.Sprintf("%011x%s", s.now().UnixMilli(), strings.ToLower(rand.Text()[:16]))
}

// person is who is invited.
type person struct {
	email string
	login string // of the user; empty: there is none
}

// Create makes the links and queues the mails, all or nothing. Whoever acts in ctx must be
// one who may hand them out. Its errors are FieldErrors or *enroll.FieldError, wrap
// mail.ErrNotConfigured or identity.ErrForbidden, or are the store's.
func (s *Service) Create(ctx context.Context, n Request) (Invitation, []Progress, error) {
	if err := n.fill(); err != nil {
		return Invitation{}, nil, err
	}
	if err := s.writer.Check(ctx, n.Language, n.Subject, n.Message); err != nil {
		return Invitation{}, nil, err
	}
	if n.ID == "" {
		n.ID = s.NewID()
	}
	var in Invitation
	var list []Progress
	again := false
	err := s.db.Update(ctx, func(tx storage.Tx) (err error) {
		again = false
		in, list, err = get(tx, n.ID)
		if err == nil {
			again = true
			return nil
		}
		if !errors.Is(err, storage.ErrNotFound) {
			return err
		}
		if !n.WithoutMail {
			if _, err := s.mailer.GetSettings(tx); err != nil {
				return err
			}
		}
		people, err := n.people(tx)
		if err != nil {
			return err
		}
		if by, ok := identity.PrincipalFrom(ctx); ok {
			for _, p := range people {
				if err := enroll.MayHandOut(tx, by, enroll.Link{Login: n.Login, User: p.login}); err != nil {
					return err
				}
			}
		}
		in, list, err = s.create(tx, n, people)
		return err
	})
	if err != nil {
		return Invitation{}, nil, fmt.Errorf("create invitation: %w", err)
	}
	if !again {
		s.log.InfoContext(ctx, "invitation created", "invitation", in.ID, "addresses", len(list), "by", n.CreatedBy)
	}
	return in, list, nil
}

func (s *Service) create(tx storage.Tx, n Request, people []person) (Invitation, []Progress, error) {
	now := s.now().UTC()
	state := Queued
	if n.WithoutMail {
		state = NotSent
	}
	in := Invitation{
		ID: n.ID, Name: n.Name, Language: n.Language, Subject: n.Subject, Message: n.Message,
		CreatedAt: now, CreatedBy: n.CreatedBy, Counts: map[State]int{state: len(people)},
	}
	for i := range people {
		tx.Prefetch(items.Read(itemKey(n.ID, i)))
	}
	list := make([]Progress, len(people))
	for i, p := range people {
		user := p.login
		if user == "" && n.Login == enroll.LoginRequired {
			user = p.email
		}
		l, err := s.enroll.AddLink(tx, enroll.NewLink{
			Name: n.Name, Ownership: n.Ownership, Ask: n.Ask, Login: n.Login, User: user, Uses: n.Uses,
			ExpiresIn: n.ExpiresIn, SerialNumbers: n.SerialNumbers, CreatedBy: n.CreatedBy,
		})
		if err != nil {
			return Invitation{}, nil, err
		}
		in.Ownership, in.Login, in.Uses, in.ExpiresAt = l.Ownership, l.Login, l.Uses, l.ExpiresAt
		item := Item{Invitation: n.ID, N: i, Email: p.email, LinkID: l.ID, State: state}
		if state == Queued {
			item.QueuedAt, item.NextAt = now, now
		}
		if err := items.Put(tx, item); err != nil {
			return Invitation{}, nil, err
		}
		list[i] = Progress{Item: item, LinkUse: &enroll.LinkUse{Link: l}}
	}
	if err := invitations.Create(tx, in); err != nil {
		return Invitation{}, nil, err
	}
	err := event.Record(tx, event.Event{
		At: now, Actor: n.CreatedBy, Action: "invitation.created",
		Details: map[string]string{"invitation": in.ID, "name": in.Name, "addresses": strconv.Itoa(len(people))},
	})
	if err != nil {
		return Invitation{}, nil, err
	}
	return in, list, tx.Notify(topic)
}

// fill checks what needs no store; what links have, they check.
func (n *Request) fill() error {
	bad := func(field, reason string) error { return &enroll.FieldError{Field: field, Reason: reason} }
	n.Name, n.Subject = strings.TrimSpace(n.Name), strings.TrimSpace(n.Subject)
	n.Message = strings.TrimSpace(n.Message)
	if n.Login == "" {
		n.Login = enroll.LoginRequired
	}
	switch {
	case len(n.Emails) == 0 && len(n.Users) == 0:
		return bad("emails", "is required, or else users")
	case len(n.Emails) > 0 && len(n.Users) > 0:
		return bad("users", "can't be given together with emails")
	case len(n.Emails) > MaxAddresses:
		return bad("emails", fmt.Sprintf("must be at most %d", MaxAddresses))
	case len(n.Users) > MaxAddresses:
		return bad("users", fmt.Sprintf("must be at most %d", MaxAddresses))
	case n.Uses < 0 || n.Uses > MaxUses:
		return bad("uses", fmt.Sprintf("must be 1 to %d", MaxUses))
	case len(n.Subject) > maxSubject:
		return bad("subject", fmt.Sprintf("must be at most %d bytes", maxSubject))
	case strings.ContainsFunc(n.Subject, unicode.IsControl):
		return bad("subject", "must be one line of text")
	case len(n.Message) > maxMessage:
		return bad("message", fmt.Sprintf("must be at most %d bytes", maxMessage))
	}
	return nil
}

// people returns who is invited. Its error names each address, or user, that can't be.
func (n *Request) people(tx storage.Tx) ([]person, error) {
	var bad FieldErrors
	var people []person
	seen := map[string]int{} // address, to its place
	field, given := "emails", n.Emails
	if len(n.Users) > 0 {
		field, given = "users", n.Users
	}
	for i, text := range given {
		p, reason, err := who(tx, field, strings.TrimSpace(text))
		if err != nil {
			return nil, err
		}
		key := strings.ToLower(p.email)
		if first, twice := seen[key]; reason == "" && twice {
			reason = fmt.Sprintf("is the same as %s[%d]", field, first)
		}
		if reason != "" {
			bad = append(bad, &enroll.FieldError{Field: fmt.Sprintf("%s[%d]", field, i), Reason: reason})
			continue
		}
		seen[key] = i
		people = append(people, p)
	}
	if len(bad) > 0 {
		return nil, bad
	}
	return people, nil
}

// who returns the person of an address or a login, or the reason why there is none.
func who(tx storage.Tx, field, text string) (p person, reason string, err error) {
	if field == "emails" {
		if reason := notMailable(text); reason != "" {
			return person{}, reason, nil
		}
		p.email = text
	}
	u, err := identity.UserByLogin(tx, text)
	switch {
	case errors.Is(err, storage.ErrNotFound) && field == "emails":
		return p, "", nil
	case errors.Is(err, storage.ErrNotFound):
		return person{}, "must be the username or e-mail address of a user", nil
	case err != nil:
		return person{}, "", err
	case u.Disabled || u.NoEnroll:
		return person{}, "is a user who may not enroll devices", nil
	case p.email == "" && u.Email == "":
		return person{}, "is a user without an e-mail address", nil
	}
	if p.email == "" {
		if reason := notMailable(u.Email); reason != "" {
			return person{}, "is a user whose e-mail address " + reason, nil
		}
		p.email = u.Email
	}
	p.login = u.Login()
	return p, "", nil
}

// notMailable says why mail can't be sent to an address, or nothing.
func notMailable(address string) string {
	_, domain, _ := strings.Cut(address, "@")
	switch {
	case !identity.IsAddress(address):
		return "must be an address such as ana@example.com"
	case strings.ContainsFunc(domain, func(r rune) bool { return r > unicode.MaxASCII }):
		return "must have its domain in ASCII, as xn--…" // RFC 5890, 2.3.2.1
	}
	return ""
}
