package settings

import (
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/gatehouse-mdm/gatehouse/webui/admin"
	"github.com/gatehouse-mdm/gatehouse/webui/view"
)

const serverPath = section + "/server"

// serverFacts is GET /api/v1/server.
type serverFacts struct {
	Version   string    `json:"version"`
	ServerURL string    `json:"server_url"`
	Store     string    `json:"store"`
	Demo      bool      `json:"demo"`
	Time      time.Time `json:"time"`
	TLS       struct {
		Mode        string `json:"mode"`
		Public      bool   `json:"public"`
		Certificate *struct {
			Subject   string    `json:"subject"`
			Issuer    string    `json:"issuer"`
			Names     []string  `json:"names"`
			Key       string    `json:"key"`
			Serial    string    `json:"serial"`
			SHA256    string    `json:"sha256"`
			NotBefore time.Time `json:"not_before"`
			NotAfter  time.Time `json:"not_after"`
			DaysLeft  int       `json:"days_left"`
			Chain     []string  `json:"chain"`
		} `json:"certificate"`
		Root struct {
			Subject    string    `json:"subject"`
			SHA256     string    `json:"sha256"`
			NotAfter   time.Time `json:"not_after"`
			ProfileURL string    `json:"profile_url"`
			PEMURL     string    `json:"pem_url"`
		} `json:"root"`
	} `json:"tls"`
	Options []struct {
		Flag  string `json:"flag"`
		Value string `json:"value"`
	} `json:"options"`
}

// Check is what the server found when it asked itself.
type Check struct {
	CheckedAt time.Time `json:"checked_at"`
	OK        bool      `json:"ok"`
	Findings  []struct {
		Severity string `json:"severity"`
		Sentence string `json:"sentence"`
		Fix      string `json:"fix"`
	} `json:"findings"`
	TLS *struct {
		Version string `json:"version"`
		Issuer  string `json:"issuer"`
	} `json:"tls"`
	Milliseconds int64 `json:"milliseconds"`
	OwnCA        bool  `json:"-"` // it asked as a device that trusts this server's authority
}

// modes say where the TLS certificate comes from, and who renews it.
var modes = map[string]struct{ name, renews, phone string }{
	"acme": {
		"From an ACME authority", "By itself, when a third of its life is left.",
		"Phones trust it without being told to. Enrollment profiles are signed with it: the phone says Verified.",
	},
	"files": {
		"From files", "By you: replace the files, and the server takes the new ones within a minute.",
		"Phones trust it if it comes from a public authority. Then enrollment profiles are signed with it, too, and the phone says Verified.",
	},
	"own-ca": {
		"From this server’s own authority", "By itself, long before it ends.",
		"Phones don’t know the authority: people install its profile first, and switch it on in Settings › General › About › Certificate Trust Settings. The portal leads them there. For a certificate that phones know, start the server with --tls-mode acme.",
	},
	"proxy": {
		"A proxy in front does TLS", "By the proxy.",
		"What the proxy shows. It must pass Host and X-Forwarded-Proto on, and be named with --trusted-proxy.",
	},
}

type serverPage struct {
	admin.Page
	Server         serverFacts
	Mode           string
	Reached        []admin.Fact
	Certificate    []admin.Fact
	Root           []admin.Fact
	OwnCA          bool
	State          view.State
	Phone          string
	Check          *Check
	Set, Defaulted []admin.Fact
	Simulated      demo
}

func (s *Settings) facts(r *http.Request) (f serverFacts, err error) {
	err = s.desk.Get(r.Context(), "/api/v1/server", nil, &f)
	return f, err
}

// stands says how it stands with the certificate that clients see.
func (f serverFacts) stands() view.State {
	switch c := f.TLS.Certificate; {
	case c == nil && strings.HasPrefix(f.ServerURL, "http://"):
		return view.State{Text: "No TLS", Tone: view.Bad}
	case c == nil:
		return view.State{Text: "TLS by a proxy", Tone: view.Good}
	case !f.Time.Before(c.NotAfter):
		return view.State{Text: "Expired", Tone: view.Bad}
	case c.DaysLeft < 14:
		return view.State{Text: "Ends in " + admin.Count(c.DaysLeft, "day", "days"), Tone: view.Waiting}
	case !f.TLS.Public:
		return view.State{Text: "Not public", Tone: view.Waiting}
	}
	return view.State{Text: "Public, " + admin.Count(f.TLS.Certificate.DaysLeft, "day", "days") + " left", Tone: view.Good}
}

func (s *Settings) serverCard(r *http.Request) (card, error) {
	f, err := s.facts(r)
	return card{Label: "Server and TLS", URL: serverPath, Text: "How devices reach this server, and what they are shown", State: f.stands()}, err
}

func (s *Settings) server(w http.ResponseWriter, r *http.Request) error {
	return s.writeServer(w, r, nil)
}

func (s *Settings) writeServer(w http.ResponseWriter, r *http.Request, check *Check) error {
	f, err := s.facts(r)
	if err != nil {
		return err
	}
	mode := modes[f.TLS.Mode]
	if check != nil {
		check.OwnCA = f.TLS.Mode == "own-ca"
	}
	store := "One file (bbolt)"
	if f.Store == "postgres" {
		store = "PostgreSQL"
	}
	page := &serverPage{
		Page:   admin.Page{Title: "Server and TLS", Section: section, Crumbs: crumbs()},
		Server: f, Mode: mode.name, OwnCA: f.TLS.Mode == "own-ca", State: f.stands(), Phone: mode.phone, Check: check,
		Reached: []admin.Fact{
			{Label: "Address", Value: f.ServerURL, Hint: "In every profile and link: devices keep it for the life of their enrollment"},
			{Label: "TLS certificate", Value: mode.name, Hint: "--tls-mode " + f.TLS.Mode}, {Label: "Renewed", Value: mode.renews},
			{Label: "Version", Value: f.Version}, {Label: "Database", Value: store},
		},
	}
	if c := f.TLS.Certificate; c != nil {
		until := view.Moment{At: c.NotAfter, Now: s.desk.Now()}
		page.Certificate = []admin.Fact{
			{Label: "For", Value: strings.Join(c.Names, ", ")}, {Label: "Ends", Moment: &until, Hint: admin.Count(c.DaysLeft, "day", "days") + " left"},
			{Label: "Issuer", Value: c.Issuer}, {Label: "Key", Value: c.Key},
			{Label: "Sent with it", Value: admin.Count(len(c.Chain), "certificate", "certificates"), Hint: strings.Join(c.Chain, " · ")},
			{Label: "Serial number", Value: c.Serial, Mono: true}, {Label: "SHA-256", Value: pairs(c.SHA256), Mono: true},
		}
	}
	until := view.Moment{At: f.TLS.Root.NotAfter, Now: s.desk.Now()}
	page.Root = []admin.Fact{
		{Label: "Root", Value: f.TLS.Root.Subject}, {Label: "Ends", Moment: &until}, {Label: "SHA-256", Value: pairs(f.TLS.Root.SHA256), Mono: true},
	}
	for _, o := range f.Options {
		fact := admin.Fact{Label: o.Flag, Value: o.Value, Mono: true}
		if o.Value == "" {
			page.Defaulted = append(page.Defaulted, fact)
		} else {
			page.Set = append(page.Set, fact)
		}
	}
	if page.Simulated, err = s.demo(r); err != nil {
		return err
	}
	return s.desk.Write(w, r, s.pages, "server.html", page)
}

// checkServer has the server ask itself, and shows what it found.
func (s *Settings) checkServer(w http.ResponseWriter, r *http.Request) error {
	check := &Check{}
	if err := s.desk.Send(r.Context(), http.MethodPost, "/api/v1/server/check", nil, check); err != nil {
		return err
	}
	return s.writeServer(w, r, check)
}

// Took is how long the answer took.
func (c *Check) Took() string { return fmt.Sprintf("%d ms", c.Milliseconds) }

// pairs writes a fingerprint as people compare it: 5F:2C:….
func pairs(hex string) string {
	var out strings.Builder
	for i, c := range strings.ToUpper(hex) {
		if i > 0 && i%2 == 0 {
			out.WriteByte(':')
		}
		out.WriteRune(c)
	}
	return out.String()
}
