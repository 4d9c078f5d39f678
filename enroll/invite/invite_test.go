package invite_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/apns"
	"github.com/gatehouse-mdm/gatehouse/depot"
	"github.com/gatehouse-mdm/gatehouse/depot/depottest"
	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/enroll/invite"
	"github.com/gatehouse-mdm/gatehouse/enroll/mail"
	"github.com/gatehouse-mdm/gatehouse/enroll/mail/mailtest"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/event"
	"github.com/gatehouse-mdm/gatehouse/mdm/profile"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/seal"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// clock is the time of all replicas.
type clock struct {
	mu   sync.Mutex
	time time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.time
}

func (c *clock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.time = c.time.Add(d)
}

// house is one replica, on a real store and with a real mail server.
type house struct {
	*invite.Service
	*clock
	enroll *enroll.Service
	people *identity.Service
	mail   *mail.Service
	db     storage.DB
	server *mailtest.Server
}

// plainWriter writes the link and nothing else.
type plainWriter struct{}

func (plainWriter) Check(_ context.Context, language, _, _ string) error {
	if language == "xx" {
		return &enroll.FieldError{Field: "language", Reason: "is none that there is"}
	}
	return nil
}

func (plainWriter) Write(_ context.Context, l invite.Letter) (mail.Message, error) {
	return mail.Message{To: l.To, Subject: "for " + l.Name, Text: l.Link.Code + "\n" + l.Message}, nil
}

func newHouse(t *testing.T, c mailtest.Config) *house {
	t.Helper()
	return houseOn(t, storagetest.Open(t), &clock{time: time.Now().UTC()}, mailtest.New(t, c))
}

// houseOn is a replica on db, which mails by server.
func houseOn(t *testing.T, db storage.DB, c *clock, server *mailtest.Server) *house {
	t.Helper()
	ctx := context.Background()
	log := slog.New(slog.DiscardHandler)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	box, err := seal.New(bytes.Repeat([]byte{7}, 32))
	must(err)
	authorities, err := depot.Open(ctx, depot.Config{DB: db, Box: box, Log: log, Now: c.now, KeyBits: 2048, Name: "test", NewKey: depottest.NewKey})
	must(err)
	devices, err := mdm.New(mdm.Config{DB: db, Box: box, Log: log, Now: c.now})
	must(err)
	topics, err := apns.NewCertificates(box, c.now)
	must(err)
	h := &house{clock: c, db: db, server: server}
	h.enroll, err = enroll.New(enroll.Config{
		DB: db, Box: box, Depot: authorities, MDM: devices, Topics: topics,
		Sign: func(p []byte) ([]byte, error) {
			return profile.Sign(p, authorities.Root().Certificate(), authorities.Root().Signer())
		},
		ServerURL: &url.URL{Scheme: "https", Host: "mdm.example.com"}, Log: log, Now: c.now,
	})
	must(err)
	h.people, err = identity.New(identity.Config{DB: db, Log: log, Now: c.now, HashMemory: 64})
	must(err)
	h.mail, err = mail.New(mail.Config{DB: db, Box: box, Name: "mdm.example.com", Roots: server.Roots, Log: log, Now: c.now})
	must(err)
	h.Service, err = invite.New(invite.Config{DB: db, Enroll: h.enroll, Mailer: h.mail, Writer: plainWriter{}, Log: log, Now: c.now})
	must(err)
	h.configure(t, func(*mail.Settings) {})
	return h
}

// configure changes the mail settings.
func (h *house) configure(t *testing.T, change func(*mail.Settings)) {
	t.Helper()
	in := mail.Settings{
		Host: h.server.Host, Port: h.server.Port, Encryption: mail.NoTLS, From: "it@example.com", Timeout: 20 * time.Second, PerMinute: mail.MaxPerMinute,
	}
	change(&in)
	err := h.db.Update(context.Background(), func(tx storage.Tx) error {
		if err := h.mail.PutSettings(tx, in, true); err != nil {
			return err
		}
		return invite.Resume(tx)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// addresses are n of them.
func addresses(n int) []string {
	list := make([]string, n)
	for i := range list {
		list[i] = fmt.Sprintf("p%d@example.com", i)
	}
	return list
}

func (h *house) create(t *testing.T, r invite.Request) invite.Invitation {
	t.Helper()
	in, _, err := h.Create(context.Background(), r)
	if err != nil {
		t.Fatal(err)
	}
	return in
}

// send sends all that can be sent without waiting for more than a moment, and returns how
// long it would rest then.
func (h *house) send(t *testing.T) time.Duration {
	t.Helper()
	for {
		wait, err := h.SendDue(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		if wait > time.Second {
			return wait
		}
		h.pass(wait)
	}
}

// states are those of the items of an invitation, in their order.
func (h *house) states(t *testing.T, id string) string {
	t.Helper()
	in, list, err := h.Get(context.Background(), id)
	if err != nil {
		t.Fatal(err)
	}
	counts := map[invite.State]int{}
	var states []string
	for _, p := range list {
		counts[p.State]++
		states = append(states, string(p.State))
	}
	for state, n := range in.Counts {
		if counts[state] != n || len(in.Counts) != len(counts) {
			t.Errorf("counts are %v, the items are %q", in.Counts, states)
		}
	}
	return strings.Join(states, " ")
}

func (h *house) item(t *testing.T, id string, n int) invite.Progress {
	t.Helper()
	_, list, err := h.Get(context.Background(), id)
	if err != nil {
		t.Fatal(err)
	}
	return list[n]
}

// answers makes the server answer a command so, as long as there are answers left; an
// empty one is as usual.
func answers(verb string, list ...string) func(string, string) string {
	var n atomic.Int64
	return func(v, _ string) string {
		if v != verb {
			return ""
		}
		if i := int(n.Add(1)) - 1; i < len(list) {
			return list[i]
		}
		return ""
	}
}

func TestEachPersonGetsALinkOfTheirOwn(t *testing.T) {
	h := newHouse(t, mailtest.Config{})
	ctx := context.Background()
	ana, err := h.people.CreateUser(ctx, identity.Local(), identity.NewUser{Username: "ana", Email: "Ana@example.com", FullName: "Ana Alvarez"})
	if err != nil {
		t.Fatal(err)
	}
	in, list, err := h.Create(ctx, invite.Request{
		Emails: []string{"ana@example.com", " bea@example.com "}, Name: "Berlin", Ownership: mdm.Personal, Uses: 2,
		ExpiresIn: time.Hour, Message: "See you", CreatedBy: "user:it",
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := h.states(t, in.ID); got != "queued queued" || in.CreatedBy != "user:it" || !in.ExpiresAt.Equal(h.now().UTC().Add(time.Hour)) {
		t.Errorf("the invitation is %s, %+v", got, in)
	}
	for i, want := range []string{"Ana@example.com", "bea@example.com"} { // hers, and the address alone
		l := list[i].Link
		if l.User != want || l.Ownership != mdm.Personal || l.Login != enroll.LoginRequired || l.Uses != 2 || l.Name != "Berlin" {
			t.Errorf("link %d is %+v, want it for %s", i, l, want)
		}
	}
	if wait := h.send(t); wait != invite.Idle {
		t.Errorf("the outbox rests for %v", wait)
	}
	mails := h.server.Mails()
	if len(mails) != 2 || mails[0].To != "ana@example.com" || !strings.Contains(mails[0].Data, list[0].Code) || !strings.Contains(mails[0].Data, "Subject: for "+ana.FullName) ||
		mails[1].To != "bea@example.com" || !strings.Contains(mails[1].Data, list[1].Code) || !strings.Contains(mails[1].Data, "See you") {
		t.Errorf("the mails are %+v", mails)
	}
	if got := h.states(t, in.ID); got != "sent sent" {
		t.Errorf("the items are %s", got)
	}
	if p := h.item(t, in.ID, 1); p.SentAt.IsZero() || p.Tries != 1 || p.Attempt != nil {
		t.Errorf("an item is %+v", p.Item)
	}
	err = h.db.View(ctx, func(tx storage.Tx) error {
		made, _, err := event.Page(tx, event.Filter{Action: "invitation.created"}, "", 10)
		if err != nil {
			return err
		}
		sent, _, err := event.Page(tx, event.Filter{Action: "invitation.sent"}, "", 10)
		if len(made) != 1 || made[0].Actor != "user:it" || made[0].Details["addresses"] != "2" || len(sent) != 2 {
			t.Errorf("the audit log has %+v and %+v", made, sent)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestWhoseLinkItIs(t *testing.T) {
	h := newHouse(t, mailtest.Config{})
	ctx := context.Background()
	if _, err := h.people.CreateUser(ctx, identity.Local(), identity.NewUser{Username: "ana", Email: "ana@example.com"}); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		request invite.Request
		want    string
	}{
		"a user by address":         {invite.Request{Emails: []string{"ana@example.com"}, Login: enroll.LoginNone}, "ana@example.com"},
		"a user by username":        {invite.Request{Users: []string{"ANA"}}, "ana@example.com"},
		"a stranger who signs in":   {invite.Request{Emails: []string{"eve@example.com"}}, "eve@example.com"},
		"a stranger without login":  {invite.Request{Emails: []string{"eve@example.com"}, Login: enroll.LoginNone}, ""},
		"who is asked for the rest": {invite.Request{Users: []string{"ana"}, Ask: true}, "ana@example.com"},
	} {
		tt.request.WithoutMail = true
		in, list, err := h.Create(ctx, tt.request)
		if err != nil {
			t.Fatal(err)
		}
		if list[0].User != tt.want || list[0].State != invite.NotSent || (list[0].Ownership == "") != tt.request.Ask || (in.Ownership == "") != tt.request.Ask {
			t.Errorf("%s: the link is %+v, %s", name, list[0].Link, list[0].State)
		}
	}
	if wait := h.send(t); wait != invite.Idle || len(h.server.Mails()) != 0 {
		t.Error("mail was sent that nobody asked for")
	}
}

func TestWhatCanNotBeInvited(t *testing.T) {
	h := newHouse(t, mailtest.Config{})
	ctx := context.Background()
	for _, n := range []identity.NewUser{
		{Username: "ana", Email: "ana@example.com"}, {Username: "mute"}, {Username: "barred", Email: "barred@example.com", NoEnroll: true},
	} {
		if _, err := h.people.CreateUser(ctx, identity.Local(), n); err != nil {
			t.Fatal(err)
		}
	}
	long := make([]string, invite.MaxAddresses+1)
	for name, tt := range map[string]struct {
		request invite.Request
		fields  []string
	}{
		"nobody":                    {invite.Request{}, []string{"emails"}},
		"both kinds":                {invite.Request{Emails: []string{"a@example.com"}, Users: []string{"ana"}}, []string{"users"}},
		"too many":                  {invite.Request{Emails: long}, []string{"emails"}},
		"all that are wrong":        {invite.Request{Emails: []string{"a@example.com", "b", "c@example.com", "A@Example.com", "", "d@exämple.com"}}, []string{"emails[1]", "emails[3]", "emails[4]", "emails[5]"}},
		"a header in an address":    {invite.Request{Emails: []string{"a@example.com\r\nBcc: b@example.com"}}, []string{"emails[0]"}},
		"a name with an address":    {invite.Request{Emails: []string{"Ana <ana@example.com>"}}, []string{"emails[0]"}},
		"who may not enroll":        {invite.Request{Emails: []string{"barred@example.com"}}, []string{"emails[0]"}},
		"users that are none":       {invite.Request{Users: []string{"nobody", "mute", "barred", "ana", "ana@example.com"}}, []string{"users[0]", "users[1]", "users[2]", "users[4]"}},
		"too many uses":             {invite.Request{Emails: []string{"a@example.com"}, Uses: 101}, []string{"uses"}},
		"an expiry in the past":     {invite.Request{Emails: []string{"a@example.com"}, ExpiresIn: -time.Hour}, []string{"expires_in"}},
		"another ownership":         {invite.Request{Emails: []string{"a@example.com"}, Ownership: "mine"}, []string{"ownership"}},
		"a subject of two lines":    {invite.Request{Emails: []string{"a@example.com"}, Subject: "a\nb"}, []string{"subject"}},
		"a message that is a book":  {invite.Request{Emails: []string{"a@example.com"}, Message: strings.Repeat("x", 10_001)}, []string{"message"}},
		"a language that is none":   {invite.Request{Emails: []string{"a@example.com"}, Language: "xx"}, []string{"language"}},
		"a serial number like none": {invite.Request{Emails: []string{"a@example.com"}, SerialNumbers: []string{"C02XG0FDH7JY", "?"}}, []string{"serial_numbers[1]"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := h.Create(ctx, tt.request)
			var got []string
			var many invite.FieldErrors
			var one *enroll.FieldError
			switch {
			case errors.As(err, &many):
				for _, e := range many {
					got = append(got, e.Field)
				}
			case errors.As(err, &one):
				got = []string{one.Field}
			}
			if !slices.Equal(got, tt.fields) {
				t.Errorf("Create = %v, about %q, want %q", err, got, tt.fields)
			}
		})
	}
	all, _, err := h.List(ctx, "", 10)
	if err != nil || len(all) != 0 {
		t.Errorf("there are %+v, %v", all, err)
	}
	if made, _, err := h.enroll.Links(ctx, "", 10); err != nil || len(made) != 0 {
		t.Errorf("there are links %+v, %v", made, err)
	}
}

func TestTheSameRequestTwiceIsOneInvitation(t *testing.T) {
	h := newHouse(t, mailtest.Config{})
	r := invite.Request{ID: h.NewID(), Emails: addresses(2)}
	if first, second := h.create(t, r), h.create(t, r); first.ID != second.ID || first.ID != r.ID {
		t.Errorf("they are %s and %s", first.ID, second.ID)
	}
	h.send(t)
	if n := len(h.server.Mails()); n != 2 {
		t.Errorf("%d mails were sent, want 2", n)
	}
}

func TestWithoutAMailServerNothingIsMade(t *testing.T) {
	h := newHouse(t, mailtest.Config{})
	ctx := context.Background()
	in := h.create(t, invite.Request{Emails: addresses(1)})
	if err := h.db.Update(ctx, func(tx storage.Tx) error { return h.mail.RemoveSettings(tx) }); err != nil {
		t.Fatal(err)
	}
	if _, _, err := h.Create(ctx, invite.Request{Emails: addresses(1)}); !errors.Is(err, mail.ErrNotConfigured) {
		t.Errorf("Create = %v", err)
	}
	if _, err := h.Retry(ctx, in.ID); !errors.Is(err, mail.ErrNotConfigured) {
		t.Errorf("Retry = %v", err)
	}
	h.create(t, invite.Request{Emails: addresses(1), WithoutMail: true})
	h.send(t)
	if got := h.states(t, in.ID); got != "queued" {
		t.Errorf("what was queued is %s, want it to wait", got)
	}
	h.configure(t, func(*mail.Settings) {})
	h.send(t)
	if got := h.states(t, in.ID); got != "sent" {
		t.Errorf("what was queued is %s", got)
	}
}

func TestWhatTheServerPutsOffIsSentLater(t *testing.T) {
	h := newHouse(t, mailtest.Config{Reply: answers("RCPT", "452 full", "", "451 later")})
	in := h.create(t, invite.Request{Emails: addresses(2)})
	if wait := h.send(t); wait > invite.Idle {
		t.Errorf("the outbox rests for %v", wait)
	}
	if got := h.states(t, in.ID); got != "queued sent" { // one does not wait for the other
		t.Errorf("the items are %s", got)
	}
	if p := h.item(t, in.ID, 0); p.Error != "recipient: 452 full" || p.Tries != 1 || p.NextAt.Sub(h.now()).Round(time.Second) != time.Minute {
		t.Errorf("the item is %+v", p.Item)
	}
	h.pass(time.Minute)
	h.send(t)
	if p := h.item(t, in.ID, 0); p.State != invite.Queued || p.NextAt.Sub(h.now()).Round(time.Second) != 2*time.Minute {
		t.Errorf("the item is %+v", p.Item)
	}
	h.pass(2 * time.Minute)
	h.send(t)
	if p := h.item(t, in.ID, 0); p.State != invite.Sent || p.Error != "" || p.Tries != 3 {
		t.Errorf("the item is %+v", p.Item)
	}
}

func TestWhatIsPutOffForADayHasFailed(t *testing.T) {
	h := newHouse(t, mailtest.Config{Reply: func(verb, _ string) string {
		if verb == "RCPT" {
			return "450 later"
		}
		return ""
	}})
	in := h.create(t, invite.Request{Emails: addresses(1)})
	tries := 0
	for h.states(t, in.ID) != "failed" {
		h.send(t)
		h.pass(time.Hour)
		if tries++; tries > 50 {
			t.Fatal("it goes on for ever")
		}
	}
	if p := h.item(t, in.ID, 0); p.Tries < 10 || p.Tries > 25 || p.Error != "recipient: 450 later" {
		t.Errorf("the item is %+v", p.Item)
	}
}

func TestWhatTheServerRefusesHasFailedUntilItIsRetried(t *testing.T) {
	h := newHouse(t, mailtest.Config{Reply: answers("RCPT", "550 5.1.1 no such person")})
	ctx := context.Background()
	in := h.create(t, invite.Request{Emails: addresses(2)})
	h.send(t)
	if got := h.states(t, in.ID); got != "failed sent" {
		t.Errorf("the items are %s", got)
	}
	if p := h.item(t, in.ID, 0); p.Error != "recipient: 550 5.1.1 no such person" {
		t.Errorf("the item is %+v", p.Item)
	}
	err := h.db.View(ctx, func(tx storage.Tx) error {
		told, _, err := event.Page(tx, event.Filter{Action: "invitation.failed"}, "", 10)
		if len(told) != 1 || told[0].User != "p0@example.com" || told[0].Outcome != event.Failed {
			t.Errorf("the audit log has %+v", told)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	h.pass(48 * time.Hour)
	for range 2 { // the second finds nothing to do
		if _, err := h.Retry(ctx, in.ID); err != nil {
			t.Fatal(err)
		}
		h.send(t)
		if got := h.states(t, in.ID); got != "sent sent" || len(h.server.Mails()) != 2 {
			t.Errorf("the items are %s, %d mails", got, len(h.server.Mails()))
		}
	}
	if _, err := h.Retry(ctx, "none"); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("Retry of none = %v", err)
	}
}

func TestAServerThatCanNotBeUsedIsLeftAlone(t *testing.T) {
	h := newHouse(t, mailtest.Config{TLS: true, Login: []string{"PLAIN"}, Username: "it", Password: "right"})
	login := func(password identity.Secret) func(*mail.Settings) {
		return func(in *mail.Settings) { in.Encryption, in.Username, in.Password = mail.TLS, "it", password }
	}
	h.configure(t, login("wrong"))
	in := h.create(t, invite.Request{Emails: addresses(5)})
	h.send(t)
	logins := func() (n int) {
		for _, line := range h.server.Lines() {
			if strings.HasPrefix(line, "AUTH") {
				n++
			}
		}
		return n
	}
	if got := h.states(t, in.ID); got != "queued queued queued queued queued" || logins() != 1 {
		t.Errorf("the items are %s after %d logins: an account may get locked", got, logins())
	}
	if p := h.item(t, in.ID, 0); !strings.Contains(p.Error, "login: 535") {
		t.Errorf("the item says %q", p.Error)
	}
	h.pass(50 * time.Second)
	h.send(t)
	if logins() != 1 {
		t.Errorf("%d logins within a minute", logins())
	}
	if rest, err := h.Rest(context.Background()); err != nil || rest == nil || !strings.Contains(rest.Error, "535") || rest.Until.Before(h.now()) {
		t.Errorf("Rest = %+v, %v", rest, err)
	}
	h.configure(t, login("right")) // and at once they go
	h.send(t)
	if got := h.states(t, in.ID); got != "sent sent sent sent sent" {
		t.Errorf("the items are %s", got)
	}
	if rest, err := h.Rest(context.Background()); err != nil || rest != nil {
		t.Errorf("Rest = %+v, %v", rest, err)
	}
}

func TestMailsKeepTheirRate(t *testing.T) {
	h := newHouse(t, mailtest.Config{})
	h.configure(t, func(in *mail.Settings) { in.PerMinute = 2 })
	h.create(t, invite.Request{Emails: addresses(3)})
	for i := 1; i <= 3; i++ {
		wait, err := h.SendDue(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		if n := len(h.server.Mails()); n != i || wait != 30*time.Second {
			t.Fatalf("%d mails after %d rounds, and then a rest of %v", n, i, wait)
		}
		h.pass(29 * time.Second)
		if _, err := h.SendDue(context.Background()); err != nil || len(h.server.Mails()) != i {
			t.Fatalf("%d mails, %v: too early", len(h.server.Mails()), err)
		}
		h.pass(time.Second)
	}
}

// forgetful is a store that a replica loses after so many of its updates.
type forgetful struct {
	storage.DB
	left int
}

var errCut = errors.New("the process was killed")

func (f *forgetful) Update(ctx context.Context, fn func(storage.Tx) error) error {
	if f.left--; f.left < 0 {
		return errCut
	}
	return f.DB.Update(ctx, fn)
}

func TestWhatWasCutOffIsSentTwiceAtMost(t *testing.T) {
	h := newHouse(t, mailtest.Config{})
	in := h.create(t, invite.Request{Emails: addresses(1)})
	for n := 1; n <= 2; n++ {
		// A replica that takes the mail, sends it, and can't note it any more.
		doomed := &forgetful{DB: h.db}
		replica, err := invite.New(invite.Config{
			DB: doomed, Enroll: h.enroll, Mailer: h.mail, Writer: plainWriter{}, Log: slog.New(slog.DiscardHandler), Now: h.now,
		})
		if err != nil {
			t.Fatal(err)
		}
		doomed.left = 1
		if _, err := replica.SendDue(context.Background()); !errors.Is(err, errCut) {
			t.Fatalf("SendDue = %v", err)
		}
		if got := h.states(t, in.ID); got != "sending" || len(h.server.Mails()) != n {
			t.Fatalf("the item is %s, %d mails", got, len(h.server.Mails()))
		}
		h.send(t) // it may still be at work
		if got := h.states(t, in.ID); got != "sending" {
			t.Fatalf("the item is %s at once", got)
		}
		h.pass(5 * time.Minute)
	}
	h.send(t)
	if p := h.item(t, in.ID, 0); p.State != invite.Failed || len(h.server.Mails()) != 2 || !strings.Contains(p.Error, "may have arrived") {
		t.Errorf("the item is %+v, %d mails", p.Item, len(h.server.Mails()))
	}
}

func TestAMailWithoutReceiptIsSentTwiceAtMost(t *testing.T) {
	h := newHouse(t, mailtest.Config{Reply: answers("BODY", mailtest.Drop, mailtest.Drop, mailtest.Drop)})
	in := h.create(t, invite.Request{Emails: addresses(1)})
	for range 5 {
		h.send(t)
		h.pass(3 * time.Hour)
	}
	if got := h.states(t, in.ID); got != "failed" || len(h.server.Mails()) != 2 {
		t.Errorf("the item is %s, %d mails", got, len(h.server.Mails()))
	}
}

func TestReplicasSendEachMailOnce(t *testing.T) {
	a := newHouse(t, mailtest.Config{})
	b := houseOn(t, a.db, a.clock, a.server)
	in := a.create(t, invite.Request{Emails: addresses(20)})
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var both sync.WaitGroup
	for _, h := range []*house{a, b} {
		both.Go(func() {
			for {
				wait, err := h.SendDue(ctx)
				if err != nil {
					t.Error(err)
					return
				}
				if wait > time.Second {
					return
				}
				h.pass(max(wait, time.Millisecond))
			}
		})
	}
	both.Wait()
	a.send(t)
	to := map[string]int{}
	for _, m := range a.server.Mails() {
		to[m.To]++
	}
	if len(to) != 20 || len(a.server.Mails()) != 20 {
		t.Errorf("%d mails went to %d people, want 20", len(a.server.Mails()), len(to))
	}
	if got := a.states(t, in.ID); got != strings.TrimSpace(strings.Repeat("sent ", 20)) {
		t.Errorf("the items are %s", got)
	}
}

func TestAShutdownLosesNoMail(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	h := newHouse(t, mailtest.Config{Reply: answers("RCPT", mailtest.Hang)})
	h.server.Change(func(c *mailtest.Config) {
		usual := c.Reply
		c.Reply = func(verb, line string) string {
			if verb == "RCPT" {
				cancel()
			}
			return usual(verb, line)
		}
	})
	in := h.create(t, invite.Request{Emails: addresses(1)})
	if _, err := h.SendDue(ctx); err != nil {
		t.Fatal(err)
	}
	if p := h.item(t, in.ID, 0); p.State != invite.Queued || p.Tries != 0 || p.Unsure != 0 {
		t.Errorf("the item is %+v", p.Item)
	}
	h.pass(time.Second)
	h.send(t)
	if got := h.states(t, in.ID); got != "sent" {
		t.Errorf("the item is %s", got)
	}
}

func TestARevokedInvitationInvitesNobody(t *testing.T) {
	h := newHouse(t, mailtest.Config{Reply: answers("RCPT", "", "", "550 no", "450 later")})
	ctx := context.Background()
	in, list, err := h.Create(ctx, invite.Request{Emails: addresses(4), Login: enroll.LoginNone})
	if err != nil {
		t.Fatal(err)
	}
	h.send(t)
	if _, a, err := h.enroll.NewEnrollment(ctx, list[0].Code); err != nil {
		t.Fatal(err)
	} else if got := h.item(t, in.ID, 0); got.Attempt == nil || got.Attempt.ID != a.ID || got.Attempt.Stage != enroll.ProfileDownloaded {
		t.Errorf("who has opened the link is %+v", got.Attempt)
	}
	for range 2 {
		if err := h.Revoke(ctx, in.ID); err != nil {
			t.Fatal(err)
		}
	}
	if got := h.states(t, in.ID); got != "sent sent failed cancelled" {
		t.Errorf("the items are %s", got)
	}
	for _, p := range list {
		if _, err := h.enroll.OpenLink(ctx, p.Code); !errors.Is(err, enroll.ErrLinkRevoked) {
			t.Errorf("the link of %s: %v", p.Email, err)
		}
	}
	if _, err := h.Retry(ctx, in.ID); !errors.Is(err, invite.ErrRevoked) {
		t.Errorf("Retry = %v", err)
	}
	h.pass(time.Hour)
	h.send(t)
	if n := len(h.server.Mails()); n != 2 {
		t.Errorf("%d mails were sent, want 2", n)
	}
	if err := h.Revoke(ctx, "none"); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("Revoke of none = %v", err)
	}
}

func TestARevokedInvitationEndsWhatItsLinksBegan(t *testing.T) {
	ctx := context.Background()
	longer, more := 2*time.Hour, 2
	for name, tt := range map[string]struct {
		before func(t *testing.T, h *house, l enroll.Link)
		revive enroll.LinkChange
	}{
		"that can be used":  {func(*testing.T, *house, enroll.Link) {}, enroll.LinkChange{Uses: &more}},
		"that have expired": {func(_ *testing.T, h *house, _ enroll.Link) { h.pass(time.Hour) }, enroll.LinkChange{ExpiresIn: &longer}},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t, mailtest.Config{})
			in, list, err := h.Create(ctx, invite.Request{Emails: addresses(1), Login: enroll.LoginNone, ExpiresIn: time.Hour, WithoutMail: true})
			if err != nil {
				t.Fatal(err)
			}
			_, a, err := h.enroll.NewEnrollment(ctx, list[0].Code)
			if err != nil {
				t.Fatal(err)
			}
			tt.before(t, h, list[0].Link)
			if err := h.Revoke(ctx, in.ID); err != nil {
				t.Fatal(err)
			}
			if a, err = h.enroll.Attempt(ctx, a.ID); err != nil || a.Stage != enroll.AttemptFailed || a.ErrorCode != "link_revoked" {
				t.Errorf("what was begun is %s (%s), %v", a.Stage, a.ErrorCode, err)
			}
			if _, err := h.enroll.UpdateLink(ctx, list[0].Link.ID, tt.revive); !errors.Is(err, enroll.ErrLinkRevoked) {
				t.Errorf("its link comes back to life: %v", err)
			}
		})
	}
}

func TestNoMailLeadsToALinkThatIsNoUse(t *testing.T) {
	h := newHouse(t, mailtest.Config{})
	in, list, err := h.Create(context.Background(), invite.Request{Emails: addresses(2), ExpiresIn: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	if err := h.enroll.RevokeLink(context.Background(), list[0].ID); err != nil {
		t.Fatal(err)
	}
	h.pass(2 * time.Hour)
	h.send(t)
	if got := h.states(t, in.ID); got != "failed failed" || len(h.server.Mails()) != 0 {
		t.Errorf("the items are %s, %d mails", got, len(h.server.Mails()))
	}
	if a, b := h.item(t, in.ID, 0).Error, h.item(t, in.ID, 1).Error; !strings.Contains(a, "revoked") || !strings.Contains(b, "expired") {
		t.Errorf("the items say %q and %q", a, b)
	}
}

func TestInvitationsAreListedTheNewestFirst(t *testing.T) {
	h := newHouse(t, mailtest.Config{})
	var want []string
	for range 5 {
		want = append([]string{h.create(t, invite.Request{Emails: addresses(1), WithoutMail: true}).ID}, want...)
		h.pass(time.Millisecond)
	}
	var got []string
	for cursor := ""; ; {
		page, next, err := h.List(context.Background(), cursor, 2)
		if err != nil {
			t.Fatal(err)
		}
		for _, in := range page {
			got = append(got, in.ID)
		}
		if next == "" {
			break
		}
		cursor = next
	}
	if !slices.Equal(got, want) {
		t.Errorf("they are %q, want %q", got, want)
	}
}

func TestRunSendsWhatIsQueuedAtOnce(t *testing.T) {
	h := newHouse(t, mailtest.Config{})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- h.Run(ctx) }()
	h.create(t, invite.Request{Emails: addresses(1)})
	began := time.Now()
	h.server.Wait(1)
	if took := time.Since(began); took > invite.Idle/2 {
		t.Errorf("it took %v", took)
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Run = %v", err)
	}
}
