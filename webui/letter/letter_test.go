package letter_test

import (
	"context"
	"errors"
	"log/slog"
	"net/url"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/html"

	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/enroll/invite"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
	"github.com/gatehouse-mdm/gatehouse/webui/letter"
	"github.com/gatehouse-mdm/gatehouse/webui/text"
)

func newWriter(t *testing.T) (*letter.Writer, *text.Catalogue) {
	t.Helper()
	texts, err := text.New(text.Config{
		DB: storagetest.Open(t), Log: slog.New(slog.DiscardHandler), Now: time.Now,
		Missing: func(lang, what string) { t.Errorf("%s misses %s", lang, what) },
	})
	if err != nil {
		t.Fatal(err)
	}
	w, err := letter.New(letter.Config{Texts: texts, ServerURL: &url.URL{Scheme: "https", Host: "mdm.example.com"}})
	if err != nil {
		t.Fatal(err)
	}
	return w, texts
}

func invitation() invite.Letter {
	return invite.Letter{
		To: "ana@example.com", Name: "Ana <b>Alvarez</b>", Language: "en",
		Organisation: enroll.Organisation{Name: "Example & Söhne", SupportEmail: "it@example.com", SupportPhone: "+49 (30) 123", SupportURL: "https://help.example.com/"},
		Link: enroll.Link{
			Code: "abcdefghijklmnopqrst", ShortCode: "7Q4MW2KD", Login: enroll.LoginRequired, User: "ana@example.com", Uses: 2,
			ExpiresAt: time.Date(2026, 11, 29, 8, 30, 0, 0, time.UTC),
		},
	}
}

// read returns the text of a page, and where its links lead.
func read(t *testing.T, page string) (words string, links []string) {
	t.Helper()
	root, err := html.Parse(strings.NewReader(page))
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for n := range root.Descendants() {
		if n.Type == html.TextNode {
			b.WriteString(n.Data + " ")
		}
		if n.Type != html.ElementNode {
			continue
		}
		switch n.Data {
		case "script", "img", "iframe", "link", "style", "b":
			t.Errorf("the mail has <%s>", n.Data)
		}
		for _, a := range n.Attr {
			if a.Key == "href" {
				links = append(links, a.Val)
			}
		}
	}
	return strings.Join(strings.Fields(b.String()), " "), links
}

func TestAnInvitationSaysAllThatItTakes(t *testing.T) {
	storagetest.AnyEngine(t)
	w, _ := newWriter(t)
	m, err := w.Write(context.Background(), invitation())
	if err != nil {
		t.Fatal(err)
	}
	if m.To != "ana@example.com" || m.Language != "en" || m.Subject != "Set up your device with Example & Söhne" {
		t.Errorf("the mail is to %s, %q, in %s", m.To, m.Subject, m.Language)
	}
	words, links := read(t, m.HTML)
	for _, part := range []string{
		"Hello Ana <b>Alvarez</b>,", "https://mdm.example.com/enroll/l/abcdefghijklmnopqrst", "Open https://mdm.example.com/enroll on", "7Q4M-W2KD",
		"sign in as ana@example.com", "good for 2 devices", "until 2026-11-29 08:30 UTC", "it@example.com", "+49 (30) 123", "https://help.example.com/", "Example & Söhne",
	} {
		if !strings.Contains(words, part) {
			t.Errorf("the page does not say %q:\n%s", part, words)
		}
		if !strings.Contains(m.Text, part) {
			t.Errorf("the text does not say %q:\n%s", part, m.Text)
		}
	}
	if got := strings.Join(links, " "); got != "https://mdm.example.com/enroll/l/abcdefghijklmnopqrst https://mdm.example.com/enroll/l/abcdefghijklmnopqrst mailto:it@example.com tel:+4930123 https://help.example.com/" {
		t.Errorf("the links are %s", got)
	}
}

func TestWhatIsNotKnownIsNotSaid(t *testing.T) {
	storagetest.AnyEngine(t)
	w, _ := newWriter(t)
	m, err := w.Write(context.Background(), invite.Letter{To: "ana@example.com", Link: enroll.Link{Code: "abc", Login: enroll.LoginNone, Uses: 1}})
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{"{", "sign in", "type this code", "devices."} {
		if strings.Contains(m.Text, part) {
			t.Errorf("the text says %q:\n%s", part, m.Text)
		}
	}
	if m.Subject != "Set up your device with your organization" || !strings.HasPrefix(m.Text, "Hello,\n\nYou are invited by your organization") {
		t.Errorf("the mail is %q:\n%s", m.Subject, m.Text)
	}
}

func TestTheOperatorsOwnWords(t *testing.T) {
	storagetest.AnyEngine(t)
	w, texts := newWriter(t)
	ctx := context.Background()
	if err := texts.Change(ctx, "user:it", "en", map[string]string{"mail.invitation.message": "From {organisation}, *always*.", "mail.invitation.button": "Los"}); err != nil {
		t.Fatal(err)
	}
	l := invitation()
	m, err := w.Write(ctx, l)
	if err != nil {
		t.Fatal(err)
	}
	if words, _ := read(t, m.HTML); !strings.Contains(words, "From Example & Söhne, always .") || !strings.Contains(words, "Los") {
		t.Errorf("the page says %s", words)
	}

	l.Subject = "Your new phone from {organisation}"
	l.Message = "Dear *all*,\n\nsee [the intranet](https://intranet.example.com/) of {organisation}. <script>alert(1)</script> [x](javascript:alert(1))"
	if m, err = w.Write(ctx, l); err != nil {
		t.Fatal(err)
	}
	if m.Subject != "Your new phone from Example & Söhne" {
		t.Errorf("the subject is %q", m.Subject)
	}
	words, links := read(t, m.HTML)
	if !strings.Contains(words, "of Example & Söhne") || strings.Contains(words, "always") || !strings.Contains(m.Text, "Dear *all*,\n\nsee [the intranet]") {
		t.Errorf("the page says %s\nthe text says %s", words, m.Text)
	}
	if got := strings.Join(links, " "); !strings.Contains(got, "https://intranet.example.com/") || strings.Contains(got, "javascript") {
		t.Errorf("the links are %s", got)
	}
}

func TestWhatCanNotBeWrittenIsSaidBefore(t *testing.T) {
	storagetest.AnyEngine(t)
	w, _ := newWriter(t)
	for name, tt := range map[string]struct{ language, message, field string }{
		"a language that is none":  {"tlh", "", "language"},
		"a language that is noise": {"../en", "", "language"},
		"the wrong placeholder":    {"en", "Dear {person}", "message"},
		"what can't be seen":       {"", "a\x00b", "message"},
		"nothing":                  {"", "", ""},
		"Markdown":                 {"en", "*Hello* from {organisation}", ""},
	} {
		err := w.Check(context.Background(), tt.language, "", tt.message)
		var field *enroll.FieldError
		if errors.As(err, &field) != (tt.field != "") || field != nil && field.Field != tt.field {
			t.Errorf("%s: Check = %v, want an error about %q", name, err, tt.field)
		}
	}
}

func TestATestMailSaysThatItIsOne(t *testing.T) {
	storagetest.AnyEngine(t)
	w, _ := newWriter(t)
	m, err := w.Test(context.Background(), "it@example.com", enroll.Organisation{Name: "Example"})
	if err != nil {
		t.Fatal(err)
	}
	if m.ID == "" || m.Subject != "Test mail from Example" || !strings.Contains(m.Text, "https://mdm.example.com") {
		t.Errorf("the mail is %+v", m)
	}
	read(t, m.HTML)
}
