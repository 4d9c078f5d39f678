package wellknown

import (
	"context"
	"crypto/x509"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Reached is what came of a request to an MDM server by its own URL.
type Reached struct {
	At       time.Time
	OK       bool // it is the server that was meant, and no finding is an error
	Findings []Finding
	TLS      *TLSFacts // nil: it came to none
	Took     time.Duration
}

// Reach asks an MDM server for a path by its URL, as a device would that trusts roots (nil:
// the system's), and has ours judge whether the answer is the one of the server that was
// meant. It takes at most 25 seconds, and goes to private addresses, too: who gave the server
// its URL knows what it leads to. With http it says that devices accept nothing of the kind.
func Reach(ctx context.Context, server *url.URL, path string, roots *x509.CertPool, ours func(body []byte) bool, now func() time.Time) Reached {
	ctx, cancel := context.WithTimeout(ctx, longestCheck)
	defer cancel()
	out := Reached{At: now()}
	at := server.JoinPath(path)
	at.Path = "/" + strings.TrimPrefix(at.Path, "/") // HTTP/2 wants it
	if server.Scheme != "https" {
		out.Findings = []Finding{{
			Severity: Error, Code: "not_https", URL: at.String(), Sentence: "The server’s URL begins with http://, which no Apple device accepts.",
			Fix: "Start the server with a --server-url that begins with https://, and have the proxy in front of it do TLS.",
		}}
		return out
	}
	c := &checker{Options: Options{AllowPrivate: true, Roots: roots, Now: now}}
	c.client = newClient(server.Hostname(), c.Options)
	defer c.client.CloseIdleConnections()
	answer, state, err := c.client.get(ctx, at)
	out.Took = now().Sub(out.At)
	var step Step
	if state != nil {
		facts := factsOf(*state)
		step.TLS = &facts
		out.Findings = tlsWarnings(at.Hostname(), *state, now())
	}
	switch {
	case err != nil:
		out.Findings = append(out.Findings, *c.explain(ctx, at, err, &step))
	case answer.status != http.StatusOK || answer.tooLarge || !ours(answer.body):
		out.Findings = append(out.Findings, Finding{
			Severity: Error, Code: "other_server", URL: at.String(), Sentence: "Another server answers at " + server.Host + ", or something in front of it does.",
			Fix: "Look where the name leads, and whether a proxy there passes every path on to this server.",
		})
	}
	out.TLS = step.TLS
	out.OK = !slices.ContainsFunc(out.Findings, func(f Finding) bool { return f.Severity == Error })
	return out
}
