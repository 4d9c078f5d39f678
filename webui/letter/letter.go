// Package letter writes the mails that people get: as text and as HTML, in the language
// and the words of the portal.
//
// It knows nothing of how mail is sent, and when.
package letter

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"embed"
	"errors"
	"fmt"
	htmltemplate "html/template"
	"net/url"
	"strings"
	texttemplate "text/template"

	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/enroll/invite"
	"github.com/gatehouse-mdm/gatehouse/enroll/mail"
	"github.com/gatehouse-mdm/gatehouse/webui/text"
)

//go:embed templates
var templates embed.FS

// Config says what a Writer needs: all of it.
type Config struct {
	Texts     *text.Catalogue
	ServerURL *url.URL // that links lead to
}

// Writer writes mails. It is what package invite asks for one.
type Writer struct {
	texts     *text.Catalogue
	serverURL *url.URL
	html      *htmltemplate.Template
	plain     *texttemplate.Template
}

var _ invite.Writer = (*Writer)(nil)

// New returns a Writer, or says what c lacks.
func New(c Config) (*Writer, error) {
	if c.Texts == nil || c.ServerURL == nil {
		return nil, errors.New("letter: Texts and ServerURL are required")
	}
	html, err := htmltemplate.ParseFS(templates, "templates/letter.html")
	if err != nil {
		return nil, fmt.Errorf("letter: %w", err)
	}
	plain, err := texttemplate.ParseFS(templates, "templates/letter.txt")
	if err != nil {
		return nil, fmt.Errorf("letter: %w", err)
	}
	return &Writer{texts: c.Texts, serverURL: c.ServerURL, html: html, plain: plain}, nil
}

// usual is the language of a letter that names none.
const usual = "en"

// ownMessage is the key of what the operator adds to all invitations, and of what an
// invitation may have in its place.
const ownMessage = "mail.invitation.message"

// page is all that the templates may use.
type page struct {
	Lang, Dir    string
	Subject      string
	Organisation string
	Greeting     string
	Intro        string

	// What the operator has to say: as HTML, and as it was written.
	Message    htmltemplate.HTML
	OwnMessage string

	Link, Button, URL string // empty: there is no link
	CodeIntro, Code   string
	Facts             []string
	Help              string
	Contacts          []contact
	Footer            string
}

// contact is a way to reach who can help.
type contact struct {
	Label string
	URL   htmltemplate.URL // of digits, an address, or one that settings have checked
}

// Check implements [invite.Writer].
func (w *Writer) Check(ctx context.Context, language, _, message string) error {
	_, err := w.own(ctx, cmp.Or(language, usual), message, "")
	return err
}

// own renders what the operator has to say in one invitation. It may name the
// organisation, as texts of the portal may.
func (w *Writer) own(ctx context.Context, language, message, organisation string) (htmltemplate.HTML, error) {
	rendered, _, err := w.texts.Preview(ctx, language, ownMessage, message)
	var fields text.FieldErrors
	switch {
	case errors.Is(err, text.ErrLanguage):
		return "", &enroll.FieldError{Field: "language", Reason: "must be one of the portal's: " + strings.Join(w.languages(ctx), ", ")}
	case errors.As(err, &fields):
		return "", &enroll.FieldError{Field: "message", Reason: fields[0].Reason}
	case err != nil || message == "":
		return "", err
	}
	name := htmltemplate.HTMLEscapeString(organisation)
	return htmltemplate.HTML(strings.ReplaceAll(string(rendered), "{organisation}", name)), nil // rendered without raw HTML
}

func (w *Writer) languages(ctx context.Context) (codes []string) {
	t, err := w.texts.In(ctx, usual)
	if err != nil {
		return []string{usual}
	}
	for _, l := range t.Languages() {
		codes = append(codes, l.Code)
	}
	return codes
}

// say returns the texts in a language, and what they call the organisation.
func (w *Writer) say(ctx context.Context, language string, o enroll.Organisation) (*text.Texts, string, error) {
	t, err := w.texts.In(ctx, cmp.Or(language, usual))
	if err != nil {
		return nil, "", err
	}
	name := o.Name
	if name == "" {
		name = t.Say("portal.frame.organisation")
	}
	return t.With("organisation", name), name, nil
}

// Write implements [invite.Writer].
func (w *Writer) Write(ctx context.Context, l invite.Letter) (mail.Message, error) {
	t, organisation, err := w.say(ctx, l.Language, l.Organisation)
	if err != nil {
		return mail.Message{}, err
	}
	p := page{
		Lang: t.Lang(), Dir: t.Dir(), Organisation: organisation,
		Subject:   t.Say("mail.invitation.subject"),
		Greeting:  t.Say("mail.invitation.greeting_unnamed"),
		Intro:     t.Say("mail.invitation.intro"),
		Link:      t.Say("mail.invitation.link"),
		Button:    t.Say("mail.invitation.button"),
		URL:       w.serverURL.JoinPath("enroll", "l", l.Link.Code).String(),
		Help:      t.Say("mail.invitation.help_unknown"),
		Contacts:  contacts(l.Organisation),
		Footer:    t.Say("mail.invitation.footer"),
		CodeIntro: t.Say("mail.invitation.code", "address", w.serverURL.JoinPath("enroll")),
		Code:      enroll.SpellCode(l.Link.ShortCode),
	}
	if l.Subject != "" {
		p.Subject = strings.ReplaceAll(l.Subject, "{organisation}", organisation)
	}
	if l.Name != "" {
		p.Greeting = t.Say("mail.invitation.greeting", "name", l.Name)
	}
	if len(p.Contacts) > 0 {
		p.Help = t.Say("mail.invitation.help")
	}
	switch {
	case l.Message != "":
		if p.Message, err = w.own(ctx, t.Lang(), l.Message, organisation); err != nil {
			return mail.Message{}, err
		}
		p.OwnMessage = strings.ReplaceAll(l.Message, "{organisation}", organisation)
	case t.Has(ownMessage):
		p.Message, p.OwnMessage = t.HTML("mail.invitation.message"), t.Say("mail.invitation.message")
	}
	p.Facts = facts(t, l.Link)
	return w.letter(l.To, p)
}

// facts are what a link asks for, and what it is good for.
func facts(t *text.Texts, l enroll.Link) (facts []string) {
	if l.Login == enroll.LoginRequired {
		if l.User != "" {
			facts = append(facts, t.Say("mail.invitation.sign_in", "user", l.User))
		} else {
			facts = append(facts, t.Say("mail.invitation.sign_in_anyone"))
		}
	}
	if !l.Unlimited {
		facts = append(facts, t.Many("mail.invitation.uses", l.Uses))
	}
	if len(l.SerialNumbers) > 0 {
		facts = append(facts, t.Say("mail.invitation.listed"))
	}
	// One order for all languages, in which no month is taken for a day.
	return append(facts, t.Say("mail.invitation.expires", "date", l.ExpiresAt.UTC().Format("2006-01-02 15:04 UTC")))
}

func contacts(o enroll.Organisation) (list []contact) {
	if o.SupportEmail != "" {
		list = append(list, contact{o.SupportEmail, htmltemplate.URL("mailto:" + o.SupportEmail)})
	}
	if o.SupportPhone != "" {
		dial := strings.Map(func(r rune) rune {
			if strings.ContainsRune("+0123456789", r) {
				return r
			}
			return -1
		}, o.SupportPhone)
		list = append(list, contact{o.SupportPhone, htmltemplate.URL("tel:" + dial)})
	}
	if o.SupportURL != "" {
		list = append(list, contact{o.SupportURL, htmltemplate.URL(o.SupportURL)})
	}
	return list
}

// Test returns a mail that says that mail can be sent.
func (w *Writer) Test(ctx context.Context, to string, o enroll.Organisation) (mail.Message, error) {
	t, organisation, err := w.say(ctx, usual, o)
	if err != nil {
		return mail.Message{}, err
	}
	m, err := w.letter(to, page{
		Lang: t.Lang(), Dir: t.Dir(), Organisation: organisation,
		Subject: t.Say("mail.test.subject"), Intro: t.Say("mail.test.text", "address", w.serverURL),
	})
	m.ID = strings.ToLower(rand.Text())
	return m, err
}

// letter puts p on paper.
func (w *Writer) letter(to string, p page) (mail.Message, error) {
	var html, plain bytes.Buffer
	if err := w.html.Execute(&html, p); err != nil {
		return mail.Message{}, fmt.Errorf("letter: %w", err)
	}
	if err := w.plain.Execute(&plain, p); err != nil {
		return mail.Message{}, fmt.Errorf("letter: %w", err)
	}
	return mail.Message{To: to, Subject: p.Subject, Language: p.Lang, Text: strings.TrimSpace(plain.String()) + "\n", HTML: html.String()}, nil
}
