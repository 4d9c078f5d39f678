package apiv1

import (
	"errors"
	"net/http"
	"net/url"
	"time"

	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/enroll/wellknown"
	"github.com/gatehouse-mdm/gatehouse/webui"
)

// DiscoverySnippets is what web servers of a domain need, as the API has it.
type DiscoverySnippets struct {
	Domain    string                 `json:"domain"`
	ServerURL string                 `json:"server_url"` // where the snippets lead to
	Items     []DiscoverySnippetJSON `json:"items"`
}

// DiscoverySnippetJSON is one of them.
type DiscoverySnippetJSON struct {
	Server string   `json:"server"`
	Kind   string   `json:"kind"`
	Title  string   `json:"title"`
	Where  string   `json:"where"`
	Format string   `json:"format"`
	Text   string   `json:"text"`
	Notes  []string `json:"notes"`
}

// NewDiscoverySnippets returns the snippets for domain, which may be spelt in any way that
// [wellknown.ParseDomain] takes. Errors are *wellknown.FieldError.
func NewDiscoverySnippets(server *url.URL, domain string, mode wellknown.Mode) (DiscoverySnippets, error) {
	list, err := wellknown.Snippets(server, domain, mode)
	if err != nil {
		return DiscoverySnippets{}, err
	}
	name, err := wellknown.ParseDomain(domain)
	out := DiscoverySnippets{Domain: name, ServerURL: server.String(), Items: make([]DiscoverySnippetJSON, len(list))}
	for i, s := range list {
		out.Items[i] = DiscoverySnippetJSON{s.Server, string(s.Kind), s.Title, s.Where, s.Format, s.Text, orEmpty(s.Notes)}
	}
	return out, err
}

// DiscoveryReport is what a check of a domain found, as the API has it.
type DiscoveryReport struct {
	Domain    string          `json:"domain"`
	CheckedAt time.Time       `json:"checked_at"`
	OK        bool            `json:"ok"`
	Errors    int             `json:"errors"`
	Warnings  int             `json:"warnings"`
	Findings  []discoveryJSON `json:"findings"`
	Steps     []fetchJSON     `json:"steps"`
}

type discoveryJSON struct {
	Severity      string   `json:"severity"`
	Code          string   `json:"code"`
	ModelFamilies []string `json:"model_families"` // none: all that were asked for
	URL           string   `json:"url"`
	Sentence      string   `json:"sentence"`
	Fix           string   `json:"fix"`
}

type fetchJSON struct {
	Probe        string   `json:"probe"`
	URL          string   `json:"url"`
	Status       int      `json:"status"` // 0: there was no answer
	ContentType  string   `json:"content_type"`
	Location     string   `json:"location"`
	Milliseconds int64    `json:"milliseconds"`
	TLS          *tlsJSON `json:"tls"`
	Error        string   `json:"error"`
}

type tlsJSON struct {
	Version     string    `json:"version"`
	CipherSuite string    `json:"cipher_suite"`
	Subject     string    `json:"subject"`
	Issuer      string    `json:"issuer"`
	Names       []string  `json:"names"`
	Key         string    `json:"key"`
	NotBefore   time.Time `json:"not_before"`
	NotAfter    time.Time `json:"not_after"`
	Chain       int       `json:"chain"`
}

// NewDiscoveryReport converts a report.
func NewDiscoveryReport(r wellknown.Report) DiscoveryReport {
	out := DiscoveryReport{
		Domain: r.Domain, CheckedAt: r.At.UTC(), OK: r.OK, Errors: r.Count(wellknown.Error), Warnings: r.Count(wellknown.Warning),
		Findings: make([]discoveryJSON, len(r.Findings)), Steps: make([]fetchJSON, len(r.Steps)),
	}
	for i, f := range r.Findings {
		families := make([]string, len(f.Families))
		for j, family := range f.Families {
			families[j] = string(family)
		}
		out.Findings[i] = discoveryJSON{string(f.Severity), f.Code, families, f.URL, f.Sentence, f.Fix}
	}
	for i, s := range r.Steps {
		step := fetchJSON{s.Probe, s.URL, s.Status, s.ContentType, s.Location, s.Took.Milliseconds(), nil, s.Error}
		if t := s.TLS; t != nil {
			step.TLS = &tlsJSON{t.Version, t.CipherSuite, t.Subject, t.Issuer, orEmpty(t.Names), t.Key, t.NotBefore.UTC(), t.NotAfter.UTC(), t.Chain}
		}
		out.Steps[i] = step
	}
	return out
}

// discoveryProblem names the field that a *wellknown.FieldError is about.
func discoveryProblem(err error) error {
	if field, ok := errors.AsType[*wellknown.FieldError](err); ok {
		return invalid(field.Field, field.Reason)
	}
	return err
}

func (a *API) getDiscoverySnippets(w http.ResponseWriter, r *http.Request) error {
	query := r.URL.Query()
	domain, err := textOf(query, "domain")
	if err != nil {
		return err
	}
	mode, err := textOf(query, "mode")
	if err != nil {
		return err
	}
	if mode == "" {
		mode = string(wellknown.BYOD)
	}
	out, err := NewDiscoverySnippets(a.serverURL, domain, wellknown.Mode(mode))
	if err != nil {
		return discoveryProblem(err)
	}
	return webui.WriteJSON(w, http.StatusOK, out)
}

type discoveryCheckRequest struct {
	Domain      string `json:"domain"`
	ModelFamily string `json:"model_family"` // empty: iPhone, iPad and Mac
	Identifier  string `json:"identifier"`   // empty: nobody's
}

// checkDiscovery asks a web server that the client names, so each is counted.
func (a *API) checkDiscovery(w http.ResponseWriter, r *http.Request) error {
	var in discoveryCheckRequest
	if _, err := readJSON(r, &in); err != nil {
		return err
	}
	domain, err := wellknown.ParseDomain(in.Domain)
	if err != nil {
		return discoveryProblem(err)
	}
	o := wellknown.Options{Expect: []*url.URL{a.serverURL}, Identifier: in.Identifier, Now: a.now}
	if in.ModelFamily != "" {
		family, err := wellknown.ParseFamily(in.ModelFamily)
		if err != nil {
			return discoveryProblem(err)
		}
		o.Families = []wellknown.Family{family}
	}
	if err := a.identity.CountGuess(r.Context(), "discovery check", principal(r).Peer); err != nil {
		if errors.Is(err, identity.ErrThrottled) {
			return &problem{
				Problem: webui.Problem{
					Status: http.StatusTooManyRequests, Code: "too_many_requests", Title: "Too many checks",
					Detail: "Retry-After says when to check again; \"gatehouse wellknown check\" knows no limit.",
				},
				retryAfter: identity.RetryAfter(err),
			}
		}
		return err
	}
	report, err := wellknown.Check(r.Context(), domain, o)
	if err != nil {
		return discoveryProblem(err)
	}
	return webui.WriteJSON(w, http.StatusOK, NewDiscoveryReport(report))
}
