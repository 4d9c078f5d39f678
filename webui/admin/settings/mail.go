package settings

import (
	"net/http"
	"strconv"
	"time"

	"github.com/gatehouse-mdm/gatehouse/webui/admin"
)

const mailPath = section + "/mail"

// mailServer is what is decided about mail.
type mailServer struct {
	Host        string `json:"host"`
	Port        int    `json:"port"`
	Encryption  string `json:"encryption"`
	Username    string `json:"username"`
	HasPassword bool   `json:"has_password"`
	From        string `json:"from"`
	ReplyTo     string `json:"reply_to"`
	Timeout     string `json:"timeout"`
	PerMinute   int    `json:"per_minute"`
}

type mailPage struct {
	admin.Page
	Server  *mailServer // nil: none is sent
	Form    *admin.Form
	Test    *admin.Form
	Tested  *mailTest
	MayEdit bool
	timeout string
}

// Encryptions are the ways to a mail server.
func (p *mailPage) Encryptions() []admin.Option {
	return []admin.Option{
		{Value: "starttls", Label: "STARTTLS", Hint: "Port 587"},
		{Value: "tls", Label: "TLS", Hint: "Port 465"},
		{Value: "none", Label: "None", Hint: "Port 25, without a login: only to this machine, or within a network of your own"},
	}
}

// Timeouts are how long each step may take.
func (p *mailPage) Timeouts() []admin.Option {
	return durations(p.timeout, 10*time.Second, 30*time.Second, time.Minute, 2*time.Minute)
}

// mailTest is what came of a letter.
type mailTest struct {
	To        string
	Delivered bool `json:"delivered"`
	Steps     []struct {
		Step         string `json:"step"`
		OK           bool   `json:"ok"`
		Detail       string `json:"detail"`
		Milliseconds int64  `json:"milliseconds"`
	} `json:"steps"`
}

func (s *Settings) mail(w http.ResponseWriter, r *http.Request) error {
	return s.writeMail(w, r, http.StatusOK, nil, nil, nil)
}

func (s *Settings) writeMail(w http.ResponseWriter, r *http.Request, status int, form, test *admin.Form, tested *mailTest) error {
	d, err := s.decided(r)
	if err != nil {
		return err
	}
	m := d.Mail
	if m == nil {
		m = &mailServer{Encryption: "starttls", Timeout: "30s", PerMinute: 60}
	}
	if form == nil {
		port := ""
		if m.Port != 0 {
			port = strconv.Itoa(m.Port)
		}
		form = admin.NewForm("mail.host", m.Host, "mail.port", port, "mail.encryption", m.Encryption, "mail.username", m.Username,
			"mail.from", m.From, "mail.reply_to", m.ReplyTo, "mail.timeout", canonical(m.Timeout), "mail.per_minute", strconv.Itoa(m.PerMinute))
	}
	if test == nil {
		test = admin.NewForm()
	}
	return s.desk.WriteStatus(w, r, status, s.pages, "mail.html", &mailPage{
		Page:   admin.Page{Title: "Mail", Section: section, Crumbs: crumbs()},
		Server: d.Mail, Form: form, Test: test, Tested: tested, MayEdit: s.desk.May(r.Context(), "PATCH /api/v1/settings"), timeout: m.Timeout,
	})
}

// canonical writes a duration as options of a select have it.
func canonical(text string) string {
	if d, err := time.ParseDuration(text); err == nil {
		return d.String()
	}
	return text
}

func (s *Settings) setMail(w http.ResponseWriter, r *http.Request) error {
	f, err := admin.FormOf(r)
	if err != nil {
		return err
	}
	m := map[string]any{
		"host": f.Get("mail.host"), "encryption": f.Get("mail.encryption"), "username": f.Get("mail.username"),
		"from": f.Get("mail.from"), "reply_to": f.Get("mail.reply_to"), "timeout": f.Get("mail.timeout"),
	}
	for _, name := range []string{"port", "per_minute"} {
		if f.Get("mail."+name) == "" {
			continue // its default
		}
		n, err := strconv.Atoi(f.Get("mail." + name))
		if err != nil {
			f.Fail("mail."+name, "Must be a whole number.")
		}
		m[name] = n
	}
	if password := f.Values.Get("mail.password"); password != "" {
		m["password"] = password
	}
	if f.OK() {
		err := s.desk.Send(r.Context(), http.MethodPatch, "/api/v1/settings", map[string]any{"mail": m}, nil)
		if err == nil {
			return admin.Redirect(w, r, mailPath, "saved")
		}
		if !f.Refused(err) {
			return err
		}
	}
	return s.writeMail(w, r, http.StatusUnprocessableEntity, f, nil, nil)
}

// testMail sends a letter, and shows what became of it.
func (s *Settings) testMail(w http.ResponseWriter, r *http.Request) error {
	f, err := admin.FormOf(r)
	if err != nil {
		return err
	}
	tested := &mailTest{To: f.Get("to")}
	err = s.desk.Send(r.Context(), http.MethodPost, "/api/v1/settings/mail/test", map[string]any{"to": tested.To}, tested)
	switch {
	case err == nil:
		return s.writeMail(w, r, http.StatusOK, nil, f, tested)
	case !f.Refused(err):
		return err
	}
	return s.writeMail(w, r, http.StatusUnprocessableEntity, nil, f, nil)
}

func (s *Settings) askRemoveMail(w http.ResponseWriter, r *http.Request) error {
	return s.desk.Confirm(w, r, &admin.Confirm{
		Page: admin.Page{Section: section, Crumbs: crumbs(link("Mail", mailPath))}, Heading: "Send no mail any more?",
		Text:   []string{"Invitations wait until there is a mail server again. Links and QR codes work as before. The password is forgotten."},
		Button: "Send none", Danger: true, Action: mailPath + "/remove", Back: mailPath,
	})
}

func (s *Settings) removeMail(w http.ResponseWriter, r *http.Request) error {
	if err := s.desk.Send(r.Context(), http.MethodPatch, "/api/v1/settings", map[string]any{"mail": nil}, nil); err != nil {
		return err
	}
	return admin.Redirect(w, r, mailPath, "removed")
}
