package wellknown

import (
	"context"
	"crypto/x509"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
	"time"
)

const (
	longestCheck  = 25 * time.Second // whatever the servers do
	longestFetch  = 10 * time.Second // of one answer
	slow          = 5 * time.Second  // a person waits for it
	maxRedirects  = 10
	maxAnswer     = 64 << 10 // bytes
	maxIdentifier = 254      // bytes, as an e-mail address
	expiresSoon   = 14 * 24 * time.Hour
)

// Options say what a check is about. The zero value asks for what the usual devices ask,
// and takes any MDM server for the right one.
type Options struct {
	// Expect are URLs of MDM servers (https://mdm.example.com): the answer must lead to one
	// of them. None: any will do.
	Expect []*url.URL
	// Families are those to ask for. None: iPhone, iPad and Mac.
	Families []Family
	// Identifier is what a user would type. Empty: gatehouse-check at the domain, whom
	// nobody is.
	Identifier string

	// Roots are the authorities to trust. Nil: those of the system.
	Roots *x509.CertPool
	// AllowPrivate lets the check connect to private addresses, which a server must not do
	// because somebody names them. To those of Expect it connects in any case.
	AllowPrivate bool
	// ConnectTo is the HOST:PORT to connect to for the domain instead of what its name
	// resolves to: a web server that is not in use yet. Only for who may connect anywhere.
	ConnectTo string
	// Now tells the time. Nil: the clock does.
	Now func() time.Time
}

// Severity says how bad a finding is.
type Severity string

// The severities that there are.
const (
	Error   Severity = "error"   // devices don't get through
	Warning Severity = "warning" // they do, or some do, but somebody should look at it
	Fine    Severity = "ok"
)

// Finding is one thing that a check found.
type Finding struct {
	Severity Severity
	Code     string   // stable, for programs
	Families []Family // whom it concerns; none: all
	URL      string   // where; empty where no URL is to blame
	Sentence string   // what is so
	Fix      string   // what to do about it; empty where all is well
}

// Step is one request of a check.
type Step struct {
	Probe       string // iPhone, or another family; "trailing dot"; "without query"
	URL         string
	Status      int // 0: there was no answer
	ContentType string
	Location    string // as it was sent, of a redirect
	Took        time.Duration
	TLS         *TLSFacts // nil: it came to none
	Error       string    // why there was no answer
}

// Report is what a check found: findings with the worst first, requests in their order.
type Report struct {
	Domain   string
	At       time.Time
	OK       bool // no finding is an error
	Findings []Finding
	Steps    []Step
}

// Count returns how many findings have a severity.
func (r Report) Count(s Severity) int {
	n := 0
	for _, f := range r.Findings {
		if f.Severity == s {
			n++
		}
	}
	return n
}

// Check asks domain for [Path] as devices do, and says what is wrong with the answers. It
// takes at most 25 seconds. What is wrong with the domain or the options is a *FieldError;
// everything else is in the report.
//
// It fetches by https alone, follows redirects without attaching the query again, and
// stops where a device would: at a certificate that it does not trust, for instance.
func Check(ctx context.Context, domain string, o Options) (Report, error) {
	domain, err := ParseDomain(domain)
	if err != nil {
		return Report{}, err
	}
	if o.Identifier == "" {
		o.Identifier = "gatehouse-check@" + domain
	}
	if at := strings.LastIndexByte(o.Identifier, '@'); at < 1 || len(o.Identifier) > maxIdentifier || clip(o.Identifier, maxIdentifier) != o.Identifier {
		return Report{}, &FieldError{"identifier", "must be what a user would type, such as ana@" + domain}
	} else if of, err := ParseDomain(o.Identifier[at+1:]); err != nil || of != domain {
		return Report{}, &FieldError{"identifier", "must end in @" + domain + ": that is what devices derive the domain from"}
	}
	for _, f := range o.Families {
		if _, err := ParseFamily(string(f)); err != nil {
			return Report{}, err
		}
	}
	if len(o.Families) == 0 {
		o.Families = []Family{IPhone, IPad, Mac}
	}
	for _, u := range o.Expect {
		if err := checkServerURL(u); err != nil {
			return Report{}, err
		}
	}
	if o.ConnectTo != "" {
		if _, _, err := net.SplitHostPort(o.ConnectTo); err != nil {
			return Report{}, &FieldError{"connect_to", "must be HOST:PORT"}
		}
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	ctx, cancel := context.WithTimeout(ctx, longestCheck)
	defer cancel()
	c := &checker{Options: o, report: Report{Domain: domain, At: o.Now(), Findings: []Finding{}, Steps: []Step{}}}
	c.client = newClient(domain, o)
	defer c.client.CloseIdleConnections()
	c.run(ctx)
	return c.finish(), ctxErr(ctx)
}

// ctxErr is the error of a check whose caller went away, not of one that took too long.
func ctxErr(ctx context.Context) error {
	if err := ctx.Err(); err != nil && context.Cause(ctx) == context.Canceled {
		return err
	}
	return nil
}

// checker is one run of Check.
type checker struct {
	Options
	client *client
	report Report
}

// probe is one thing to ask for.
type probe struct {
	name   string
	path   string
	query  bool
	family Family // empty: it is about no family in particular
}

func (c *checker) run(ctx context.Context) {
	answers := make(map[Family]walked, len(c.Families))
	for _, f := range c.Families {
		w := c.walk(ctx, probe{name: string(f), path: Path, query: true, family: f})
		findings := c.judge(&w)
		if w.unreachable || ctx.Err() != nil {
			c.add("", findings...)
			return // it is no better for others
		}
		c.add(f, findings...)
		answers[f] = w
	}
	c.refusals(answers)
	first := c.Families[0]
	c.compareDot(ctx, answers[first])
	if ctx.Err() == nil && answers[first].item != nil {
		c.askWithoutQuery(ctx, answers)
	}
}

// refusals makes an error of it where every family is turned away.
func (c *checker) refusals(answers map[Family]walked) {
	for _, w := range answers {
		if !w.refused {
			return
		}
	}
	for i, f := range c.report.Findings {
		if f.Code == "refused" {
			c.report.Findings[i].Severity = Error
		}
	}
}

// compareDot asks with a dot at the end of the path.
func (c *checker) compareDot(ctx context.Context, without walked) {
	w := c.walk(ctx, probe{name: "trailing dot", path: Path + ".", query: true, family: c.Families[0]})
	says := w.says(c.judge(&w))
	url := "https://" + c.report.Domain + Path + "."
	switch {
	case ctx.Err() != nil:
	case w.item != nil && without.item == nil && !without.refused:
		c.add("", Finding{
			Severity: Error, Code: "only_with_dot", URL: url,
			Sentence: "The answer is there with a dot at the end of the path, and not without it, as devices ask.",
			Fix:      "Name the file com.apple.remotemanagement, without a dot at the end, or let the rule take both paths.",
		})
	case without.item == nil:
	case w.item == nil || *w.item != *without.item:
		c.add("", Finding{
			Severity: Warning, Code: "trailing_dot", URL: url,
			Sentence: "With a dot at the end of the path the answer is another: " + says,
			Fix:      "Let the web server treat both paths the same. Apple's page has no dot, other vendors' guides have one, and it was not seen which devices send.",
		})
	}
}

// askWithoutQuery finds out whether the answer is a file.
func (c *checker) askWithoutQuery(ctx context.Context, answers map[Family]walked) {
	w := c.walk(ctx, probe{name: "without query", path: Path})
	c.judge(&w)
	if w.item == nil || w.redirects > 0 {
		return // it depends on the query, as it should
	}
	modes := map[string]bool{}
	for _, a := range answers {
		if a.item != nil && a.redirects == 0 {
			modes[a.item.Version] = true
		}
	}
	if len(modes) == 1 && !c.expects(w.final) {
		c.add("", Finding{
			Severity: Fine, Code: "static_answer", URL: w.url(),
			Sentence: c.report.Domain + " answers by itself, the same to every model family (" + w.item.Version + "): what is settled at the MDM server does not change that.",
		})
	}
}

// expects reports whether u is at one of the MDM servers that are expected.
func (c *checker) expects(u *url.URL) bool {
	return slices.ContainsFunc(c.Expect, func(e *url.URL) bool { return sameHost(e, u) })
}

func sameHost(a, b *url.URL) bool {
	return a != nil && b != nil && a.Scheme == b.Scheme && strings.EqualFold(a.Hostname(), b.Hostname()) && port(a) == port(b)
}

func port(u *url.URL) string {
	if p := u.Port(); p != "" {
		return p
	}
	return "443"
}

// add notes findings about a family. The same about another family is one finding.
func (c *checker) add(family Family, findings ...Finding) {
	for _, f := range findings {
		i := slices.IndexFunc(c.report.Findings, func(have Finding) bool {
			return have.Code == f.Code && have.Sentence == f.Sentence && have.Severity == f.Severity
		})
		if i < 0 {
			if family != "" {
				f.Families = []Family{family}
			}
			c.report.Findings = append(c.report.Findings, f)
			continue
		}
		if have := &c.report.Findings[i]; family != "" && !slices.Contains(have.Families, family) {
			have.Families = append(have.Families, family)
		}
	}
}

// finish puts the findings in order.
func (c *checker) finish() Report {
	r := c.report
	rank := map[Severity]int{Error: 0, Warning: 1, Fine: 2}
	slices.SortStableFunc(r.Findings, func(a, b Finding) int { return rank[a.Severity] - rank[b.Severity] })
	for i, f := range r.Findings {
		if len(f.Families) == len(c.Families) && len(c.Families) > 1 {
			r.Findings[i].Families = nil // all that were asked for
		}
	}
	r.OK = r.Count(Error) == 0
	return r
}

// names lists things in a sentence, but not very many.
func names(list []string) string {
	const most = 4
	if len(list) > most {
		return strings.Join(list[:most], ", ") + fmt.Sprintf(" and %d more", len(list)-most)
	}
	return strings.Join(list, ", ")
}
