package wellknown

import (
	"context"
	"crypto/x509"
	"net/http"
	"net/netip"
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
	if name := server.Hostname(); name == "localhost" || strings.HasSuffix(name, ".localhost") || isLoopback(name) {
		out.Findings = append(out.Findings, Finding{
			Severity: Warning, Code: "only_this_machine", URL: server.String(), Sentence: "Only this machine gets to " + name + ": no real device does.",
			Fix: "Start the server with --lan to try it with devices in the same network, or with a --server-url whose name leads here from wherever devices are.",
		})
	}
	at := server.JoinPath(path)
	at.Path = "/" + strings.TrimPrefix(at.Path, "/") // HTTP/2 wants it
	if server.Scheme != "https" {
		out.Findings = append(out.Findings, Finding{
			Severity: Error, Code: "not_https", URL: at.String(), Sentence: "The server’s URL begins with http://, which no Apple device accepts.",
			Fix: "Start the server with a --server-url that begins with https://, and have the proxy in front of it do TLS.",
		})
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
		out.Findings = append(out.Findings, tlsWarnings(at.Hostname(), *state, now())...)
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

func isLoopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsLoopback()
}
