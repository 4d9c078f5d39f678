package wellknown

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/gatehouse-mdm/gatehouse/storage/guard"
)

// userAgent is near to what was seen of devices, for the sake of web servers that look at
// it, and yet says who asks.
const userAgent = "DeviceManagementClient/1.0 (gatehouse wellknown check)"

// client fetches as a device does. It is a transport alone: an http.Client would look into
// redirects before they are judged.
type client struct {
	*http.Transport
	dialer *dialer
}

func newClient(domain string, o Options) *client {
	transport := guard.NewClient(o.AllowPrivate).Transport.(*http.Transport)
	d := &dialer{roots: o.Roots, now: o.Now, dial: transport.DialContext}
	if len(o.Expect) > 0 && !o.AllowPrivate {
		// The MDM server's own name may lead to a private address here, as behind a NAT, and
		// it is not the caller who has chosen it.
		others, own := d.dial, guard.NewClient(true).Transport.(*http.Transport).DialContext
		d.dial = func(ctx context.Context, network, address string) (net.Conn, error) {
			if slices.ContainsFunc(o.Expect, func(u *url.URL) bool { return strings.EqualFold(address, net.JoinHostPort(u.Hostname(), port(u))) }) {
				return own(ctx, network, address)
			}
			return others(ctx, network, address)
		}
	}
	if o.ConnectTo != "" {
		connect := d.dial
		d.dial = func(ctx context.Context, network, address string) (net.Conn, error) {
			if address == net.JoinHostPort(domain, "443") {
				address = o.ConnectTo
			}
			return connect(ctx, network, address)
		}
	}
	transport.DialTLSContext = d.DialTLS
	transport.DialContext = func(context.Context, string, string) (net.Conn, error) {
		return nil, errors.New("no request without TLS") // redirects are looked at before
	}
	return &client{transport, d}
}

// walked is what became of a probe at the end of its redirects.
type walked struct {
	probe
	final     *url.URL // the last that was asked
	redirects int
	lost      *Finding // what became of the query on the way
	findings  []Finding

	status      int // 0: there is no answer to judge
	contentType string
	body        []byte
	tooLarge    bool

	unreachable bool  // the domain itself gave no answer
	refused     bool  // on purpose
	item        *item // set by judge where the answer is a good one
}

func (w walked) url() string {
	if w.final == nil {
		return ""
	}
	return clip(w.final.String(), 300)
}

// says puts the answer, in which findings were found, in a sentence.
func (w walked) says(findings []Finding) string {
	if w.item != nil {
		return w.item.Version + " at " + clip(w.item.BaseURL, 200) + "."
	}
	for _, f := range findings {
		if f.Severity == Error || f.Code == "refused" {
			return f.Sentence
		}
	}
	return "it is not a good one."
}

// walk asks for what p says and follows redirects. It adds a step for each request.
func (c *checker) walk(ctx context.Context, p probe) walked {
	w := walked{probe: p}
	at := &url.URL{Scheme: "https", Host: c.report.Domain, Path: p.path}
	if p.query {
		// Devices leave the @ as it is; what else is special they escape.
		id := strings.ReplaceAll(url.QueryEscape(c.Identifier), "%40", "@")
		at.RawQuery = identifierParameter + "=" + id + "&" + familyParameter + "=" + url.QueryEscape(string(p.family))
	}
	seen := map[string]bool{}
	for {
		w.final = at
		seen[at.String()] = true
		resp, f := c.fetch(ctx, &w, at)
		if f != nil {
			w.findings = append(w.findings, *f)
			w.unreachable = w.redirects == 0
			return w
		}
		if resp.status < 300 || resp.status > 399 {
			w.status, w.contentType, w.body, w.tooLarge = resp.status, resp.contentType, resp.body, resp.tooLarge
			return w
		}
		next, f := redirected(at, resp)
		if f != nil {
			w.findings = append(w.findings, *f)
			return w
		}
		w.redirects++
		if p.query && w.lost == nil {
			w.lost = c.compareQuery(p, at, next)
		}
		switch {
		case seen[next.String()]:
			w.findings = append(w.findings, Finding{
				Severity: Error, Code: "redirect_loop", URL: clip(at.String(), 300),
				Sentence: fmt.Sprintf("The redirects go round in a circle: %s leads back to %s.", short(at), short(next)),
				Fix:      "Take " + Path + " out of the rules that redirect between names such as " + c.report.Domain + " and www." + c.report.Domain + ", and let one rule alone redirect it.",
			})
			return w
		case w.redirects > maxRedirects:
			w.findings = append(w.findings, Finding{
				Severity: Error, Code: "too_many_redirects", URL: clip(at.String(), 300),
				Sentence: fmt.Sprintf("There are more than %d redirects, one after another.", maxRedirects),
				Fix:      "Redirect " + Path + " to the MDM server at once.",
			})
			return w
		}
		at = next
	}
}

// answer is one response.
type answer struct {
	status      int
	contentType string
	location    string
	body        []byte
	tooLarge    bool
}

// fetch makes one request, and says what went wrong with it.
func (c *checker) fetch(ctx context.Context, w *walked, at *url.URL) (answer, *Finding) {
	step := Step{Probe: w.name, URL: at.String()}
	began := c.Now()
	a, state, err := c.client.get(ctx, at)
	step.Took = c.Now().Sub(began)
	step.Status, step.ContentType, step.Location = a.status, clip(a.contentType, 200), clip(a.location, 1000)
	var f *Finding
	if state != nil {
		facts := factsOf(*state)
		step.TLS = &facts
		w.findings = append(w.findings, tlsWarnings(at.Hostname(), *state, c.Now())...)
	}
	if err != nil {
		f = c.explain(ctx, at, err, &step)
		step.Error = f.Sentence
	}
	c.report.Steps = append(c.report.Steps, step)
	if err == nil && step.Took > slow {
		w.findings = append(w.findings, Finding{
			Severity: Warning, Code: "slow", URL: clip(at.String(), 300),
			Sentence: fmt.Sprintf("%s took more than %d seconds to answer.", at.Host, int(slow.Seconds())),
			Fix:      "Find out what keeps it: the user looks at a spinning wheel all that time.",
		})
	}
	return a, f
}

// get returns the answer, and what TLS there was, of a GET.
func (c *client) get(ctx context.Context, at *url.URL) (answer, *tls.ConnectionState, error) {
	ctx, cancel := context.WithTimeout(ctx, longestFetch)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at.String(), nil)
	if err != nil {
		return answer{}, nil, err
	}
	req.URL = at // the @ unescaped, as it is
	req.Header.Set("User-Agent", userAgent)
	req.Header.Set("Accept", "*/*")
	resp, err := c.RoundTrip(req)
	if err != nil {
		return answer{}, nil, err
	}
	defer resp.Body.Close()
	a := answer{status: resp.StatusCode, contentType: resp.Header.Get("Content-Type"), location: resp.Header.Get("Location")}
	if a.body, err = io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1)); err != nil {
		return answer{}, resp.TLS, fmt.Errorf("the answer breaks off: %w", err)
	}
	a.tooLarge = len(a.body) > maxAnswer
	return a, resp.TLS, nil
}

// redirected returns where a redirect leads.
func redirected(at *url.URL, a answer) (*url.URL, *Finding) {
	wrong := func(code, sentence, fix string) (*url.URL, *Finding) {
		return nil, &Finding{Severity: Error, Code: code, URL: clip(at.String(), 300), Sentence: sentence, Fix: fix}
	}
	const toServer = "Let the redirect lead to the MDM server's " + Path + " by https."
	if a.location == "" || !slices.Contains([]int{301, 302, 303, 307, 308}, a.status) {
		return wrong("redirect_without_location", fmt.Sprintf("%s answers %d, a redirect that leads nowhere.", at.Host, a.status), toServer)
	}
	next, err := at.Parse(a.location)
	switch {
	case err != nil || next.Host == "" || next.Hostname() == "":
		return wrong("redirect_invalid", fmt.Sprintf("%s redirects to %q, which is no URL.", at.Host, clip(a.location, 200)), toServer)
	case next.Scheme == "http":
		return wrong("redirect_to_http", fmt.Sprintf("%s redirects to http://%s, without TLS: devices don't go there.", at.Host, next.Host), toServer)
	case next.Scheme != "https":
		return wrong("redirect_invalid", fmt.Sprintf("%s redirects to a URL of the scheme %q.", at.Host, clip(next.Scheme, 30)), toServer)
	}
	next.User, next.Fragment, next.RawFragment = nil, "", ""
	return next, nil
}

// compareQuery says what a redirect made of the query that came with the request.
func (c *checker) compareQuery(p probe, at, next *url.URL) *Finding {
	got, err := url.ParseQuery(next.RawQuery)
	if err != nil {
		got = next.Query()
	}
	id, family := got.Get(identifierParameter), got.Get(familyParameter)
	if id == c.Identifier && family == string(p.family) {
		return nil
	}
	f := Finding{Severity: Error, URL: clip(at.String(), 300)}
	var missing []string
	if id == "" {
		missing = append(missing, identifierParameter)
	}
	if family == "" {
		missing = append(missing, familyParameter)
	}
	twice, err := url.QueryUnescape(id)
	switch {
	case len(missing) > 0:
		f.Code = "query_lost"
		f.Sentence = fmt.Sprintf("%s redirects to %s and drops the query (%s), which devices don't attach again: the MDM server learns neither who asks nor from what.", at.Host, next.Host, strings.Join(missing, ", "))
		f.Fix = "Let the redirect of " + at.Host + " carry the query over: \"gatehouse wellknown snippet\" prints how for nginx, Apache, Caddy, Cloudflare, IIS and CloudFront."
	case err == nil && twice == c.Identifier && family == string(p.family):
		f.Code = "query_escaped_twice"
		f.Sentence = fmt.Sprintf("%s escapes the query once more when it redirects to %s: the MDM server reads another identifier than the user typed.", at.Host, next.Host)
		f.Fix = "Let the redirect pass the query on as it came (Apache's RewriteRule: the flag NE)."
	default:
		f.Code = "query_changed"
		f.Sentence = fmt.Sprintf("%s redirects to %s with another query than the one that was asked with.", at.Host, next.Host)
		f.Fix = "Let the redirect pass the query on as it came. If it is that of another request, a cache in front keeps redirects: use the status 307, and let the cache leave " + Path + " alone."
	}
	return &f
}

// short is a URL without its query, for a sentence.
func short(u *url.URL) string { return clip(u.Scheme+"://"+u.Host+u.EscapedPath(), 200) }

// explain says why there was no answer.
func (c *checker) explain(ctx context.Context, at *url.URL, err error, step *Step) *Finding {
	host := at.Hostname()
	f := Finding{Severity: Error, URL: clip(at.String(), 300)}
	var (
		handshake *handshakeError
		dns       *net.DNSError
		timeout   net.Error
	)
	say := func(code, fix, sentence string, args ...any) *Finding {
		f.Code, f.Fix, f.Sentence = code, fix, fmt.Sprintf(sentence, args...)
		return &f
	}
	switch {
	case ctx.Err() != nil:
		return say("check_took_too_long", "Find out by the requests which server it is that is slow.", "The check was given up after %d seconds.", int(longestCheck.Seconds()))
	case errors.As(err, &handshake):
		step.TLS = handshake.facts
		return say(handshake.code, handshake.fix, "%s", handshake.sentence)
	case errors.Is(err, guard.ErrAddress):
		return say("address_not_allowed", "If devices are to reach it only inside, run \"gatehouse wellknown check\" there. Otherwise correct the DNS record: devices elsewhere can't reach it either.",
			"%s has an address that is private or reserved, and this server connects to no such address on request.", host)
	case errors.As(err, &dns) && dns.IsNotFound:
		return say("dns_not_found", "Make an A or AAAA record for "+host+" that leads to a web server of yours. A domain that has e-mail alone needs one, too.",
			"%s has no address in the DNS.", host)
	case errors.As(err, &dns):
		return say("dns_failed", "Look at the name servers of "+host+", and at the resolver of this machine.", "The address of %s could not be looked up in the DNS.", host)
	case errors.Is(err, syscall.ECONNREFUSED):
		return say("connect_refused", "Let a web server listen on port "+port(at)+" there, with a certificate for "+host+".", "%s refuses connections on port %s.", host, port(at))
	case errors.As(err, &timeout) && timeout.Timeout(), errors.Is(err, context.DeadlineExceeded):
		return say("timeout", "Look for a firewall that drops connections to port "+port(at)+", and for what keeps the web server busy.", "%s gave no answer within %d seconds.", host, int(longestFetch.Seconds()))
	case c.client.dialer.askedBy(host):
		handshake = wantsCertificate(host) // in TLS 1.3 it says so after the handshake, if at all
		return say(handshake.code, handshake.fix, "%s", handshake.sentence)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET), strings.Contains(err.Error(), "stream error"): // of HTTP/2
		return say("connection_cut", "Look into the log of the web server, or of what is in front of it.", "%s closed the connection without a whole answer.", host)
	}
	return say("connect_failed", "Try \"curl -v\" with the same URL from this machine.", "There was no answer from %s: %s.", host, clip(err.Error(), 200))
}

// dialTime bounds connecting and the handshake: the transport goes on with it after a
// request was given up.
const dialTime = 10 * time.Second
