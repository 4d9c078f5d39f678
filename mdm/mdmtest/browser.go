package mdmtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	maxVisits  = 40   // of a web session
	keptVisits = 1000 // that a Browser remembers
)

// Browser is a [Person] with a browser that runs no script: it follows redirects,
// Refresh headers and meta elements, fills in forms and clicks buttons, until an
// answer leads to the device's scheme. It keeps all that it saw, for tests that look
// for leaks. It holds to Content-Security-Policy's form-action, redirects included,
// as browsers do.
type Browser struct {
	Login    string                 // user name or address; empty: what the page proposes
	Password string                 //
	Code     func() (string, error) // one-time code; nil: there is none
	Fields   map[string]string      // what else to fill in, by name; these go first

	// Click has names, values or texts of buttons, and texts of links. One that a
	// page has is clicked, the first first; else the button of the form that most
	// looks like what a page is about.
	Click []string

	KeepCookies bool // from one session to the next

	mu     sync.Mutex
	jar    http.CookieJar
	visits []Visit
}

// Visit is a request of a web session and its answer.
type Visit struct {
	Method string
	URL    string
	Sent   http.Header // without cookies
	Form   url.Values  // of a POST

	// Referrer is what browsers send by the Referrer-Policy of the page before; this
	// one never does.
	Referrer string

	Status int
	Header http.Header
	Body   []byte
}

// PageError is a page at which the person gives up: one that has nothing to fill in
// or click, or asks again for what it was given.
type PageError struct {
	Visit Visit
	Text  string // its alert, heading or title
}

func (e *PageError) Error() string {
	return fmt.Sprintf("%s %s answers %d: %q", e.Visit.Method, e.Visit.URL, e.Visit.Status, e.Text)
}

// Visits are the requests of all sessions, the last thousand of them.
func (b *Browser) Visits() []Visit {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.visits)
}

// navigation is a step to another page.
type navigation struct {
	method string
	url    *url.URL
	form   url.Values
	from   *page    // where it began; nil at first
	cross  bool     // it left the page's origin
	limits []string // form-action of the page whose form was sent
}

// SignIn is the [Person]'s.
func (b *Browser) SignIn(ctx context.Context, s WebSession) (Redirect, error) {
	jar, err := b.cookies()
	if err != nil {
		return Redirect{}, err
	}
	client := &http.Client{
		Transport: s.Transport, Jar: jar, Timeout: httpTimeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	first, err := url.Parse(s.URL)
	if err != nil {
		return Redirect{}, err
	}
	person := &visitor{browser: b, sent: map[string]bool{}, clicked: map[string]bool{}}
	next := &navigation{method: http.MethodGet, url: first}
	status := 0
	for range maxVisits {
		if err := next.permitted(); err != nil {
			return Redirect{}, err
		}
		if next.url.Scheme == signInScheme {
			return Redirect{Status: status, Location: next.url.String()}, nil
		}
		visit, err := next.open(ctx, client, s.UserAgent)
		if err != nil {
			return Redirect{}, err
		}
		b.mu.Lock()
		b.visits = append(b.visits[max(0, len(b.visits)-keptVisits+1):], visit)
		b.mu.Unlock()
		status = visit.Status
		if next, err = person.after(ctx, next, visit); err != nil {
			return Redirect{}, err
		}
	}
	return Redirect{}, fmt.Errorf("the web session does not end: %d pages", maxVisits)
}

func (b *Browser) cookies() (http.CookieJar, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.jar == nil || !b.KeepCookies {
		jar, err := cookiejar.New(nil)
		if err != nil {
			return nil, err
		}
		b.jar = jar
	}
	return b.jar, nil
}

func (n *navigation) open(ctx context.Context, client *http.Client, agent string) (Visit, error) {
	var body io.Reader
	if n.method == http.MethodPost {
		body = strings.NewReader(n.form.Encode())
	}
	req, err := http.NewRequestWithContext(ctx, n.method, n.url.String(), body)
	if err != nil {
		return Visit{}, err
	}
	req.Header.Set("User-Agent", agent)
	req.Header.Set("Accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8")
	req.Header.Set("Accept-Language", "en-US,en;q=0.9")
	req.Header.Set("Sec-Fetch-Site", n.site())
	req.Header.Set("Sec-Fetch-Mode", "navigate")
	req.Header.Set("Sec-Fetch-Dest", "document")
	if body != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		req.Header.Set("Origin", n.origin())
	}
	v := Visit{Method: n.method, URL: n.url.String(), Sent: req.Header.Clone(), Form: n.form, Referrer: n.referrer()}
	resp, err := client.Do(req)
	if err != nil {
		return Visit{}, err
	}
	v.Status, v.Header = resp.StatusCode, resp.Header
	v.Body, err = io.ReadAll(io.LimitReader(resp.Body, maxReply))
	if closeErr := resp.Body.Close(); err == nil {
		err = closeErr
	}
	return v, err
}

// site is Sec-Fetch-Site; sites are origins here.
func (n *navigation) site() string {
	switch {
	case n.from == nil:
		return "none"
	case n.cross || !sameOrigin(n.from.url, n.url):
		return "cross-site"
	}
	return "same-origin"
}

// origin is what browsers send with a POST; a page without referrer hides it.
func (n *navigation) origin() string {
	if n.from == nil || n.cross || n.from.referrerPolicy() == "no-referrer" {
		return "null"
	}
	return originOf(n.from.url)
}

func (n *navigation) referrer() string {
	if n.from == nil {
		return ""
	}
	full := *n.from.url
	full.Fragment, full.User = "", nil
	origin := originOf(n.from.url) + "/"
	same := sameOrigin(n.from.url, n.url) && !n.cross
	downgrade := n.from.url.Scheme == "https" && n.url.Scheme != "https"
	switch policy := n.from.referrerPolicy(); {
	case policy == "no-referrer", policy == "same-origin" && !same,
		downgrade && policy != "unsafe-url" && policy != "origin" && policy != "origin-when-cross-origin":
		return ""
	case policy == "origin", policy == "strict-origin",
		!same && policy != "unsafe-url" && policy != "no-referrer-when-downgrade":
		return origin
	}
	return full.String()
}

func originOf(u *url.URL) string { return u.Scheme + "://" + u.Host }

func sameOrigin(a, b *url.URL) bool { return originOf(a) == originOf(b) }

// to is where a redirect leads: with GET, unless its status keeps the method.
func (n *navigation) to(status int, location string) (*navigation, error) {
	u, err := n.url.Parse(location)
	if err != nil {
		return nil, fmt.Errorf("redirect: %w", err)
	}
	next := *n
	next.url = u
	if n.from != nil {
		next.cross = n.cross || !sameOrigin(n.from.url, n.url)
	}
	if status != http.StatusTemporaryRedirect && status != http.StatusPermanentRedirect {
		next.method, next.form = http.MethodGet, nil
	}
	return &next, nil
}

// permitted holds a step against the form-action of the page whose form led here, and
// against what a browser can open.
func (n *navigation) permitted() error {
	for _, policy := range n.limits {
		if !formActionAllows(policy, n.from.url, n.url) {
			return fmt.Errorf("the page %s may not send a form to %s: its Content-Security-Policy has form-action %s", n.from.url, n.url, policy)
		}
	}
	switch n.url.Scheme {
	case "http", "https", signInScheme:
		return nil
	}
	return fmt.Errorf("the web session leads to %s", n.url)
}

// formActionAllows matches a source list (CSP Level 3, 6.7.2.8), paths left out.
func formActionAllows(sources string, page, target *url.URL) bool {
	for source := range strings.FieldsSeq(strings.ToLower(sources)) {
		scheme, rest, hasScheme := strings.Cut(source, "://")
		switch {
		case source == "'self'":
			if sameOrigin(page, target) {
				return true
			}
		case source == "*":
			if target.Scheme == "https" || target.Scheme == "http" {
				return true
			}
		case strings.HasSuffix(source, ":"):
			if target.Scheme == strings.TrimSuffix(source, ":") {
				return true
			}
		default:
			if !hasScheme {
				scheme, rest = page.Scheme, source
			}
			host, _, _ := strings.Cut(rest, "/")
			if suffix, wild := strings.CutPrefix(host, "*"); target.Scheme == scheme &&
				(target.Host == host || wild && strings.HasSuffix(target.Host, suffix)) {
				return true
			}
		}
	}
	return false
}

// visitor is the person in one session.
type visitor struct {
	browser *Browser
	sent    map[string]bool // forms that were filled in, by where they go
	clicked map[string]bool // wishes of Click that a page fulfilled
}

// after decides what follows an answer.
func (p *visitor) after(ctx context.Context, n *navigation, v Visit) (*navigation, error) {
	if location := v.Header.Get("Location"); v.Status >= 300 && v.Status < 400 && location != "" {
		return n.to(v.Status, location)
	}
	pg, err := parsePage(n.url, v)
	if err != nil {
		return nil, err
	}
	if seconds, target, ok := pg.refresh(); ok {
		usable := seconds > 0 && pg.best(p.browser) != nil
		if !usable {
			if err := sleep(ctx, time.Duration(seconds)*time.Second); err != nil {
				return nil, err
			}
			return pg.link(target)
		}
	}
	for _, wish := range p.browser.Click {
		key := pg.url.Path + " " + wish
		if p.clicked[key] {
			continue
		}
		if f, button := pg.button(wish); f != nil {
			p.clicked[key] = true
			return p.submit(pg, f, button)
		}
		if href, ok := pg.anchor(wish); ok {
			p.clicked[key] = true
			return pg.link(href)
		}
	}
	f := pg.best(p.browser)
	if f == nil || v.Status >= 400 && !f.asks() {
		return nil, &PageError{Visit: v, Text: pg.text()}
	}
	return p.submit(pg, f, f.primary())
}

func (p *visitor) submit(pg *page, f *form, button *control) (*navigation, error) {
	action := f.action
	if button != nil && button.action != "" {
		action = button.action
	}
	key := f.method + " " + action + " " + f.signature()
	if f.asks() && p.sent[key] {
		return nil, &PageError{Visit: pg.visit, Text: pg.text()}
	}
	p.sent[key] = true
	values, err := f.fill(p.browser, button)
	if err != nil {
		return nil, fmt.Errorf("the form at %s: %w", pg.url, err)
	}
	n, err := pg.link(action)
	if err != nil {
		return nil, err
	}
	n.limits = pg.formAction()
	if f.method == http.MethodPost {
		n.method, n.form = http.MethodPost, values
	} else {
		n.url.RawQuery = values.Encode()
	}
	return n, nil
}

// refreshOf reads "0; url=/next", as Refresh and its meta element have it.
func refreshOf(s string) (seconds int, target string, ok bool) {
	text, rest, found := strings.Cut(s, ";")
	seconds, err := strconv.Atoi(strings.TrimSpace(text))
	rest = strings.TrimSpace(rest)
	if err != nil || seconds < 0 || !found || len(rest) < 4 || !strings.EqualFold(rest[:4], "url=") {
		return 0, "", false
	}
	return seconds, strings.Trim(strings.TrimSpace(rest[4:]), `"'`), true
}

var errNoValue = errors.New("nothing to fill in")
