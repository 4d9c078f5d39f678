package mail_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"mime"
	"mime/multipart"
	"mime/quotedprintable"
	netmail "net/mail"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/enroll/mail"
	"github.com/gatehouse-mdm/gatehouse/enroll/mail/mailtest"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/seal"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

func newService(t *testing.T, roots *x509.CertPool) (*mail.Service, storage.DB) {
	t.Helper()
	box, err := seal.New(bytes.Repeat([]byte{7}, 32))
	if err != nil {
		t.Fatal(err)
	}
	db := storagetest.Open(t)
	s, err := mail.New(mail.Config{
		DB: db, Box: box, Name: "mdm.example.com", Roots: roots, Log: slog.New(slog.DiscardHandler), Now: time.Now,
	})
	if err != nil {
		t.Fatal(err)
	}
	return s, db
}

func settingsFor(server *mailtest.Server) mail.Settings {
	return mail.Settings{
		Host: server.Host, Port: server.Port, Encryption: mail.NoTLS, From: "Example IT <it@example.com>", Timeout: 10 * time.Second, PerMinute: 60,
	}
}

var letter = mail.Message{ID: "abc", To: "ana@example.com", Subject: "Grüße 📦", Language: "de", Text: "Hallo.\n.\nÄ", HTML: "<p>Hallo. Ä</p>"}

func TestAMessageArrivesAsItWasWritten(t *testing.T) {
	storagetest.AnyEngine(t)
	t.Parallel()
	server := mailtest.New(t, mailtest.Config{})
	s, _ := newService(t, nil)
	in := settingsFor(server)
	in.ReplyTo = "help@example.com"
	if err := s.Send(context.Background(), in, letter); err != nil {
		t.Fatal(err)
	}
	got := server.Wait(1)[0]
	if got.From != "it@example.com" || got.To != "ana@example.com" {
		t.Errorf("the envelope says %s to %s", got.From, got.To)
	}
	msg, err := netmail.ReadMessage(strings.NewReader(got.Data))
	if err != nil {
		t.Fatal(err)
	}
	subject, err := new(mime.WordDecoder).DecodeHeader(msg.Header.Get("Subject"))
	if err != nil || subject != letter.Subject {
		t.Errorf("Subject is %q, %v", subject, err)
	}
	for name, want := range map[string]string{
		"From": `"Example IT" <it@example.com>`, "To": "<ana@example.com>", "Reply-To": "<help@example.com>",
		"Message-Id": "<abc@example.com>", "Auto-Submitted": "auto-generated", "Content-Language": "de",
	} {
		if got := msg.Header.Get(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	if _, err := msg.Header.Date(); err != nil {
		t.Errorf("Date: %v", err)
	}
	kind, params, err := mime.ParseMediaType(msg.Header.Get("Content-Type"))
	if err != nil || kind != "multipart/alternative" {
		t.Fatalf("Content-Type is %s, %v", kind, err)
	}
	parts := multipart.NewReader(msg.Body, params["boundary"])
	for _, want := range []struct{ kind, content string }{
		{"text/plain; charset=UTF-8", "Hallo.\r\n.\r\nÄ"}, {"text/html; charset=UTF-8", "<p>Hallo. Ä</p>"},
	} {
		part, err := parts.NextRawPart()
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(quotedprintable.NewReader(part))
		if err != nil {
			t.Fatal(err)
		}
		if part.Header.Get("Content-Type") != want.kind || strings.TrimSpace(string(content)) != want.content {
			t.Errorf("a part is %s %q, want %s %q", part.Header.Get("Content-Type"), content, want.kind, want.content)
		}
	}
}

func TestNoTextBecomesAHeader(t *testing.T) {
	storagetest.AnyEngine(t)
	t.Parallel()
	server := mailtest.New(t, mailtest.Config{})
	s, _ := newService(t, nil)
	in := settingsFor(server)
	m := letter
	m.Subject = "Hello\r\nBcc: eve@example.com\n\nX-Evil: 1\u2028x"
	m.Language = "de\r\nX-Evil: 2"
	if err := s.Send(context.Background(), in, m); err != nil {
		t.Fatal(err)
	}
	msg, err := netmail.ReadMessage(strings.NewReader(server.Wait(1)[0].Data))
	if err != nil {
		t.Fatal(err)
	}
	if msg.Header.Get("Bcc") != "" || msg.Header.Get("X-Evil") != "" {
		t.Errorf("headers are %v", msg.Header)
	}
	for _, to := range []string{"ana@example.com\r\nRCPT TO:<eve@example.com>", "ana@example.com> NOTIFY=NEVER <x@example.com", "a@example.com, b@example.com", ""} {
		m := letter
		m.To = to
		if err := s.Send(context.Background(), in, m); err == nil {
			t.Errorf("a message to %q was sent", to)
		}
	}
	if n := len(server.Mails()); n != 1 {
		t.Errorf("%d mails came, want 1", n)
	}
}

// What can go wrong, in which step it is noticed, and what follows from that.
func TestEachFailureNamesItsStep(t *testing.T) {
	storagetest.AnyEngine(t)
	reply := func(when, what string) func(string, string) string {
		return func(verb, _ string) string {
			if verb == when {
				return what
			}
			return ""
		}
	}
	for name, tt := range map[string]struct {
		server    mailtest.Config
		settings  func(*mail.Settings)
		to        string
		strangers bool // the server's certificate is from an authority that nobody knows
		step      mail.Step
		code      int
		says      string
		permanent bool
		unsure    bool
	}{
		"no such name":                   {settings: func(s *mail.Settings) { s.Host = "no-such-host.invalid" }, step: mail.StepResolve},
		"nobody listens":                 {settings: func(s *mail.Settings) { s.Port = 1 }, step: mail.StepConnect, says: "refused"},
		"it never speaks":                {server: mailtest.Config{Reply: reply("CONNECT", mailtest.Hang)}, settings: quick, step: mail.StepGreeting, says: "no answer within 3s"},
		"it is busy":                     {server: mailtest.Config{Reply: reply("CONNECT", "421 too busy")}, step: mail.StepGreeting, code: 421, says: "too busy"},
		"it wants nothing of us":         {server: mailtest.Config{Reply: reply("CONNECT", "554 no")}, step: mail.StepGreeting, code: 554},
		"it offers no STARTTLS":          {settings: starttls, step: mail.StepTLS, says: "does not offer STARTTLS"},
		"a stranger's certificate":       {server: mailtest.Config{StartTLS: true}, settings: starttls, strangers: true, step: mail.StepTLS, says: "unknown authority"},
		"a stranger's, from the start":   {server: mailtest.Config{TLS: true}, settings: encrypted, strangers: true, step: mail.StepTLS, says: "unknown authority"},
		"TLS to a server without":        {settings: func(s *mail.Settings) { encrypted(s); quick(s) }, step: mail.StepTLS},
		"a wrong password":               {server: mailtest.Config{TLS: true, Login: []string{"PLAIN"}, Username: "it", Password: "other"}, settings: login, step: mail.StepLogin, code: 535, says: "wrong username or password"},
		"no login there":                 {server: mailtest.Config{TLS: true}, settings: login, step: mail.StepLogin, says: "takes no login here"},
		"a login that we can't do":       {server: mailtest.Config{TLS: true, Login: []string{"GSSAPI"}}, settings: login, step: mail.StepLogin, says: "GSSAPI"},
		"a sender that it does not take": {server: mailtest.Config{Reply: reply("MAIL", "550 5.7.1 not your address")}, step: mail.StepSender, code: 550, permanent: true},
		"no such person":                 {server: mailtest.Config{Reply: reply("RCPT", "550 5.1.1 no such person")}, step: mail.StepRecipient, code: 550, says: "no such person", permanent: true},
		"a full mailbox":                 {server: mailtest.Config{Reply: reply("RCPT", "452 4.2.2 full")}, step: mail.StepRecipient, code: 452},
		"it drops the connection":        {server: mailtest.Config{Reply: reply("RCPT", mailtest.Drop)}, step: mail.StepRecipient, says: "closed the connection"},
		"an address that is not ASCII":   {to: "añá@example.com", step: mail.StepSender, code: 553, says: "ASCII", permanent: true},
		"it takes no message now":        {server: mailtest.Config{Reply: reply("DATA", "451 later")}, step: mail.StepMessage, code: 451},
		"it does not like the message":   {server: mailtest.Config{Reply: reply("BODY", "554 5.7.1 spam")}, step: mail.StepMessage, code: 554, permanent: true},
		"it drops in the middle":         {server: mailtest.Config{Reply: reply("BODY", mailtest.Drop)}, step: mail.StepMessage, unsure: true},
		"it never says that it took it":  {server: mailtest.Config{Reply: reply("BODY", mailtest.Hang)}, settings: quick, step: mail.StepMessage, says: "no answer within", unsure: true},
		"it talks for ever":              {server: mailtest.Config{Reply: reply("EHLO", "250-"+strings.Repeat("x", 2<<20))}, step: mail.StepGreeting, says: "says too much"},
		"it says what can't be shown":    {server: mailtest.Config{Reply: reply("RCPT", "550 \x1b[31mred\u202e "+strings.Repeat("long ", 200))}, step: mail.StepRecipient, code: 550, says: "[31mred long", permanent: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := mailtest.New(t, tt.server)
			roots := server.Roots
			if tt.strangers {
				roots = x509.NewCertPool()
			}
			s, _ := newService(t, roots)
			in := settingsFor(server)
			if tt.settings != nil {
				tt.settings(&in)
			}
			m := letter
			if tt.to != "" {
				m.To = tt.to
			}
			err := s.Send(context.Background(), in, m)
			var failure *mail.Failure
			if !errors.As(err, &failure) {
				t.Fatalf("Send = %v, want a failure", err)
			}
			if failure.Step != tt.step || failure.Code != tt.code || failure.Permanent() != tt.permanent || failure.Unsure != tt.unsure || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("failed with %q in %s, code %d, permanent %v, unsure %v; want %q in %s, %d, %v, %v",
					err, failure.Step, failure.Code, failure.Permanent(), failure.Unsure, tt.says, tt.step, tt.code, tt.permanent, tt.unsure)
			}
			if len(err.Error()) > 400 || strings.ContainsAny(err.Error(), "\x1b\u202e\r\n") {
				t.Errorf("the error is %q", err)
			}
			if strings.Contains(strings.Join(server.Lines(), "\n"), "pass word") {
				t.Error("the password travelled readable")
			}
		})
	}
}

func quick(s *mail.Settings)     { s.Timeout = 3 * time.Second }
func starttls(s *mail.Settings)  { s.Encryption = mail.StartTLS }
func encrypted(s *mail.Settings) { s.Encryption = mail.TLS }
func login(s *mail.Settings) {
	s.Encryption, s.Username, s.Password = mail.TLS, "it", "pass word"
}

func TestATrySaysWhatEachStepDid(t *testing.T) {
	storagetest.AnyEngine(t)
	for name, tt := range map[string]struct {
		server mailtest.Config
		how    mail.Encryption
		want   string
	}{
		"STARTTLS and PLAIN": {
			mailtest.Config{StartTLS: true, Login: []string{"LOGIN", "PLAIN"}, Username: "it", Password: "pass word"}, mail.StartTLS,
			"resolve connect greeting tls login sender recipient message",
		},
		"TLS and LOGIN": {
			mailtest.Config{TLS: true, Login: []string{"LOGIN"}, Username: "it", Password: "pass word"}, mail.TLS,
			"resolve connect tls greeting login sender recipient message",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := mailtest.New(t, tt.server)
			s, _ := newService(t, server.Roots)
			in := settingsFor(server)
			in.Host = "localhost"
			in.Encryption, in.Username, in.Password = tt.how, "it", "pass word"
			results, err := s.Try(context.Background(), in, letter)
			if err != nil {
				t.Fatal(err)
			}
			var steps []string
			for _, r := range results {
				steps = append(steps, string(r.Step))
				if r.Err != nil || r.Detail == "" || strings.Contains(r.Detail, "pass word") {
					t.Errorf("%s: %v, %q", r.Step, r.Err, r.Detail)
				}
			}
			if got := strings.Join(steps, " "); got != tt.want {
				t.Errorf("the steps were %s, want %s", got, tt.want)
			}
			if got := server.Wait(1)[0]; got.User != "it" || !got.TLS {
				t.Errorf("the mail is %+v", got)
			}
		})
	}
	t.Run("it ends at the step that failed", func(t *testing.T) {
		t.Parallel()
		server := mailtest.New(t, mailtest.Config{Reply: func(verb, _ string) string {
			if verb == "RCPT" {
				return "550 no"
			}
			return ""
		}})
		s, _ := newService(t, nil)
		results, err := s.Try(context.Background(), settingsFor(server), letter)
		if err != nil || len(results) != 5 || results[3].Err != nil || results[4].Err == nil || results[4].Detail != "550 no" {
			t.Errorf("Try = %+v, %v", results, err)
		}
	})
}

func TestASendThatIsCancelledEndsAtOnce(t *testing.T) {
	storagetest.AnyEngine(t)
	t.Parallel()
	ctx, cancel := context.WithCancel(context.Background())
	server := mailtest.New(t, mailtest.Config{Reply: func(verb, _ string) string {
		if verb == "MAIL" {
			cancel()
			return mailtest.Hang
		}
		return ""
	}})
	s, _ := newService(t, nil)
	in := settingsFor(server)
	in.Timeout = mail.MaxTimeout
	if err := s.Send(ctx, in, letter); !errors.Is(err, context.Canceled) {
		t.Errorf("Send = %v, want it cancelled", err)
	}
}

func TestSettingsThatCanNotBe(t *testing.T) {
	storagetest.AnyEngine(t)
	s, db := newService(t, nil)
	good := mail.Settings{Host: "smtp.example.com", Encryption: mail.StartTLS, Username: "it", Password: "secret", From: "it@example.com"}
	for name, tt := range map[string]struct {
		change func(*mail.Settings)
		field  string
	}{
		"no host":                    {func(s *mail.Settings) { s.Host = "" }, "mail.host"},
		"a host with a port":         {func(s *mail.Settings) { s.Host = "smtp.example.com:587" }, "mail.host"},
		"a URL for a host":           {func(s *mail.Settings) { s.Host = "smtp://smtp.example.com" }, "mail.host"},
		"no word on encryption":      {func(s *mail.Settings) { s.Encryption = "" }, "mail.encryption"},
		"another encryption":         {func(s *mail.Settings) { s.Encryption = "ssl" }, "mail.encryption"},
		"a port too high":            {func(s *mail.Settings) { s.Port = 70000 }, "mail.port"},
		"a password in the open":     {func(s *mail.Settings) { s.Encryption = mail.NoTLS }, "mail.username"},
		"a user without password":    {func(s *mail.Settings) { s.Password = "" }, "mail.password"},
		"a password without user":    {func(s *mail.Settings) { s.Username = "" }, "mail.username"},
		"a password of two lines":    {func(s *mail.Settings) { s.Password = "a\r\nb" }, "mail.password"},
		"no sender":                  {func(s *mail.Settings) { s.From = "" }, "mail.from"},
		"a sender of two lines":      {func(s *mail.Settings) { s.From = "IT\r\nBcc: eve@example.com <it@example.com>" }, "mail.from"},
		"two senders":                {func(s *mail.Settings) { s.From = "a@example.com, b@example.com" }, "mail.from"},
		"a reply to a name":          {func(s *mail.Settings) { s.ReplyTo = "IT <it@example.com>" }, "mail.reply_to"},
		"a timeout that is too long": {func(s *mail.Settings) { s.Timeout = time.Hour }, "mail.timeout"},
		"a rate below nothing":       {func(s *mail.Settings) { s.PerMinute = -1 }, "mail.per_minute"},
	} {
		t.Run(name, func(t *testing.T) {
			in := good
			tt.change(&in)
			err := db.Update(context.Background(), func(tx storage.Tx) error { return s.PutSettings(tx, in, true) })
			var field *enroll.FieldError
			if !errors.As(err, &field) || field.Field != tt.field {
				t.Errorf("PutSettings = %v, want an error about %s", err, tt.field)
			}
		})
	}
	if _, err := s.Settings(context.Background()); !errors.Is(err, mail.ErrNotConfigured) {
		t.Errorf("Settings = %v after nothing was stored", err)
	}
}

func TestThePasswordStaysWithItsServer(t *testing.T) {
	s, db := newService(t, nil)
	ctx := context.Background()
	put := func(in mail.Settings, fresh bool) error {
		return db.Update(ctx, func(tx storage.Tx) error { return s.PutSettings(tx, in, fresh) })
	}
	if err := put(mail.Settings{Host: "smtp.example.com", Encryption: mail.StartTLS, Username: "it", Password: "Tr0ub4dor", From: "it@example.com"}, true); err != nil {
		t.Fatal(err)
	}
	in, err := s.Settings(ctx)
	if err != nil || in.Password.Reveal() != "Tr0ub4dor" || in.Port != 587 || in.Timeout != mail.DefaultTimeout || in.PerMinute != mail.DefaultPerMinute {
		t.Fatalf("Settings = %+v, %v", in, err)
	}
	err = db.View(ctx, func(tx storage.Tx) error {
		for item, err := range tx.Scan("enroll.mail", storage.Range{}) {
			if err != nil {
				return err
			}
			if bytes.Contains(item.Value, []byte("Tr0ub4dor")) {
				t.Errorf("the record has the password: %s", item.Value)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	in.ReplyTo = "help@example.com"
	if err := put(in, false); err != nil {
		t.Errorf("another reply address with the old password: %v", err)
	}
	moved := in
	moved.Host = "smtp.evil.example"
	var field *enroll.FieldError
	if err := put(moved, false); !errors.As(err, &field) || field.Field != "mail.password" {
		t.Errorf("another host with the old password: %v", err)
	}
	if err := put(moved, true); err != nil {
		t.Errorf("another host with a password of its own: %v", err)
	}
}
