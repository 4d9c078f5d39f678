// Package invite sends people enrollment links by mail: one link for each address, in an
// outbox that outlives restarts, with what became of each.
//
// It knows nothing of HTTP and of what stands in the mail: a [Writer] writes it, and
// package enroll/mail sends it.
package invite

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/enroll/mail"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

// ErrRevoked means that an invitation was withdrawn.
var ErrRevoked = errors.New("the invitation was revoked")

// FieldErrors say what is wrong with a request, field by field.
type FieldErrors []*enroll.FieldError

func (e FieldErrors) Error() string {
	if len(e) > 1 {
		return fmt.Sprintf("%s, and %d more", e[0], len(e)-1)
	}
	return e[0].Error()
}

// Mailer sends mail. *mail.Service is one.
type Mailer interface {
	// GetSettings returns the server to send by, or an error that wraps mail.ErrNotConfigured.
	GetSettings(tx storage.Tx) (mail.Settings, error)
	Send(ctx context.Context, in mail.Settings, m mail.Message) error
}

// Writer writes invitations.
type Writer interface {
	// Check says what is wrong with the parts of a letter that are the operator's own: a
	// *enroll.FieldError about language, subject or message.
	Check(ctx context.Context, language, subject, message string) error

	// Write returns the mail that a letter is, but for its ID.
	Write(ctx context.Context, l Letter) (mail.Message, error)
}

// Letter is what an invitation has to say.
type Letter struct {
	To           string
	Name         string // of the person; empty: not known
	Organisation enroll.Organisation
	Link         enroll.Link
	Language     string // empty: that of the server's texts
	Subject      string // the operator's own; empty: as always
	Message      string // Markdown, the operator's own; empty: as always
}

// Config says what a Service needs: all of it.
type Config struct {
	DB     storage.DB
	Enroll *enroll.Service
	Mailer Mailer
	Writer Writer
	Log    *slog.Logger
	Now    func() time.Time
}

// Service makes invitations and sends them.
type Service struct {
	db     storage.DB
	enroll *enroll.Service
	mailer Mailer
	writer Writer
	log    *slog.Logger
	now    func() time.Time
}

// New returns a Service, or says what c lacks.
func New(c Config) (*Service, error) {
	if c.DB == nil || c.Enroll == nil || c.Mailer == nil || c.Writer == nil || c.Log == nil || c.Now == nil {
		return nil, errors.New("invite: DB, Enroll, Mailer, Writer, Log and Now are required")
	}
	return &Service{db: c.DB, enroll: c.Enroll, mailer: c.Mailer, writer: c.Writer, log: c.Log, now: c.Now}, nil
}

// State is how far the mail to one address has come.
type State string

// The states. A mail is queued, sending and then sent; one that could not be sent is
// queued again, or failed for good.
const (
	Queued    State = "queued"
	Sending   State = "sending"
	Sent      State = "sent" // the operator's mail server has taken it
	Failed    State = "failed"
	Cancelled State = "cancelled" // the invitation was revoked first
	NotSent   State = "not_sent"  // it was made without mail
)

// Invitation is what was asked for at once.
type Invitation struct {
	ID        string        `json:"id"` // IDs sort by CreatedAt
	Name      string        `json:"name,omitempty"`
	Ownership mdm.Ownership `json:"ownership,omitempty"` // empty: who enrols is asked
	Login     enroll.Login  `json:"login"`
	Uses      int           `json:"uses"` // of each link
	Language  string        `json:"language,omitempty"`
	Subject   string        `json:"subject,omitempty"`
	Message   string        `json:"message,omitempty"`
	CreatedAt time.Time     `json:"created_at"`
	CreatedBy string        `json:"created_by"`
	ExpiresAt time.Time     `json:"expires_at"`
	RevokedAt time.Time     `json:"revoked_at,omitzero"`

	// Counts are how many of its items are in each state. Who moves an item writes this
	// record, too, so that nobody does so beside a revocation.
	Counts map[State]int `json:"counts"`
}

// Item is an invitation of one person.
type Item struct {
	Invitation string    `json:"invitation"`
	N          int       `json:"n"` // place in the invitation, from 0
	Email      string    `json:"email"`
	LinkID     string    `json:"link_id"`
	State      State     `json:"state"`
	Tries      int       `json:"tries,omitempty"`
	Unsure     int       `json:"unsure,omitempty"` // tries of which nobody knows how they ended
	Error      string    `json:"error,omitempty"`  // of the last try
	QueuedAt   time.Time `json:"queued_at,omitzero"`
	NextAt     time.Time `json:"next_at,omitzero"` // of the next try; while it is sending: when it is taken for lost
	SentAt     time.Time `json:"sent_at,omitzero"`
}

func (i Item) key() string { return itemKey(i.Invitation, i.N) }

func itemKey(invitation string, n int) string {
	return string(storage.Key(invitation, fmt.Sprintf("%05d", n)))
}

var invitations = storage.NewCollection("enroll.invitation", 1, func(i Invitation) string { return i.ID })

const itemsDue = "due"

var items = storage.NewCollection("enroll.invitation_item", 1, Item.key,
	storage.Index[Item]{Name: itemsDue, Values: func(i Item) []string {
		if i.State != Queued && i.State != Sending {
			return nil
		}
		return []string{dueKey(i.NextAt)}
	}},
)

// dueKey sorts by time.
func dueKey(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000000000Z") }

// move puts an item into another state, and counts it there.
func move(tx storage.Tx, in *Invitation, item *Item, to State) error {
	if item.State != to {
		if in.Counts[item.State]--; in.Counts[item.State] <= 0 {
			delete(in.Counts, item.State)
		}
		in.Counts[to]++
		item.State = to
	}
	if err := items.Put(tx, *item); err != nil {
		return err
	}
	return invitations.Put(tx, *in)
}

// itemsOf returns the items of an invitation, in their order.
func itemsOf(tx storage.Tx, id string) ([]Item, error) {
	var list []Item
	for item, err := range items.All(tx, storage.Range{Prefix: storage.KeyPrefix(id)}) {
		if err != nil {
			return nil, err
		}
		list = append(list, item)
	}
	return list, nil
}
