package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
	"unicode/utf8"

	"github.com/gatehouse-mdm/gatehouse/enroll/wellknown"
	"github.com/gatehouse-mdm/gatehouse/webui"
	"github.com/gatehouse-mdm/gatehouse/webui/apiv1"
)

// wellknownCommand is about how devices get from the domain of an account to the server.
type wellknownCommand struct {
	Check   wellknownCheckCommand   `cmd:"" help:"Ask a domain as devices do, and say what is wrong with its answers."`
	Snippet wellknownSnippetCommand `cmd:"" help:"Print what the web server of a domain needs so that devices find the MDM server."`
}

// mdmServer says which MDM server a domain is to lead to. No server needs to run here.
type mdmServer struct {
	ServerURL string `name:"server-url" placeholder:"URL" help:"The MDM server that devices are to be led to. Default: what the running server says."`
	Server    string `name:"server" placeholder:"URL" help:"Ask the running server there. Default: the one on this machine, if one runs."`
	Token     string `name:"token" placeholder:"TOKEN" secret:"" help:"API token for it, with the scope read_only; better kept in GATEHOUSE_TOKEN or GATEHOUSE_TOKEN_FILE than on the command line."`
	Config    string `type:"path" placeholder:"FILE" help:"The server's YAML file."`
	DataDir   string `type:"path" placeholder:"DIR" help:"The server's data directory."`
	CA        string `name:"ca" type:"path" placeholder:"FILE" help:"PEM certificates to trust for TLS, besides the system's. Devices that are about to enroll trust no such authority."`
}

// roots are the authorities to trust; nil: those of the system.
func (s mdmServer) roots() (*x509.CertPool, error) {
	if s.CA == "" {
		return nil, nil
	}
	roots, err := x509.SystemCertPool()
	if err != nil {
		roots = x509.NewCertPool()
	}
	pem, err := os.ReadFile(s.CA)
	if err != nil {
		return nil, usageError(fmt.Errorf("--ca: %w", err))
	}
	if !roots.AppendCertsFromPEM(pem) {
		return nil, usageError(fmt.Errorf("--ca: %s holds no PEM certificate", s.CA))
	}
	return roots, nil
}

// find returns the URL of the MDM server; nil: nobody says.
func (s mdmServer) find(ctx context.Context, p *process, roots *x509.CertPool) (*url.URL, error) {
	if s.ServerURL != "" {
		u, err := wellknown.ParseServerURL(s.ServerURL)
		if err != nil {
			return nil, flagOf(err, "")
		}
		return u, nil
	}
	// Any domain will do: the answer says where snippets for it lead to.
	path := "/api/v1/account-driven/snippets?domain=example.com"
	var answer apiv1.DiscoverySnippets
	if s.Server != "" {
		base, err := url.Parse(strings.TrimRight(s.Server, "/"))
		switch {
		case err != nil || base.Host == "" || base.Scheme != "https" && base.Scheme != "http":
			return nil, usageError(fmt.Errorf("--server: %q is no URL such as https://mdm.example.com", s.Server))
		case s.Token == "":
			return nil, usageError(errors.New("--server needs a token: set GATEHOUSE_TOKEN, or say --server-url instead"))
		}
		transport := &http.Transport{Proxy: http.ProxyFromEnvironment, TLSClientConfig: &tls.Config{RootCAs: roots}, DisableKeepAlives: true}
		if err := getJSON(ctx, transport, base.String()+path, s.Token, &answer); err != nil {
			return nil, fmt.Errorf("ask %s: %w", base.Host, err)
		}
		return wellknown.ParseServerURL(answer.ServerURL)
	}
	dir := s.DataDir
	if dir == "" {
		var err error
		if dir, err = defaultDataDir(p.env, os.Geteuid() == 0); err != nil {
			return nil, nil // a machine without a server need not have a place for one
		}
	}
	err := withSocketPath(dir, func(socket string) error {
		transport := &http.Transport{
			DisableKeepAlives: true,
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				var d net.Dialer
				return d.DialContext(ctx, "unix", socket)
			},
		}
		if err := getJSON(ctx, transport, "http://localhost"+path, "", &answer); err != nil {
			return explainDial(dir, err)
		}
		return nil
	})
	switch {
	case err == nil:
		return wellknown.ParseServerURL(answer.ServerURL)
	case s.DataDir != "" && errors.Is(err, fs.ErrNotExist):
		return nil, explainDial(dir, err)
	case s.DataDir != "" || ctx.Err() != nil:
		return nil, err
	}
	return nil, nil // none runs here
}

// getJSON reads a resource of the API.
func getJSON(ctx context.Context, transport http.RoundTripper, address, token string, out any) error {
	client := &http.Client{Timeout: 30 * time.Second, Transport: transport}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Accept", "application/json")
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		var problem webui.Problem
		if json.Unmarshal(body, &problem) == nil && problem.Title != "" {
			return &problem
		}
		return fmt.Errorf("the server answered %s", resp.Status)
	}
	return json.Unmarshal(body, out)
}

// flagOf is the mistake of a field as one of the command line. domain names the argument
// that a domain is given by.
func flagOf(err error, domain string) error {
	field, ok := errors.AsType[*wellknown.FieldError](err)
	if !ok {
		return err
	}
	name := map[string]string{
		"domain": domain, "model_family": "--family", "identifier": "--identifier", "server_url": "--server-url", "connect_to": "--connect-to", "mode": "--mode",
	}[field.Field]
	return usageError(fmt.Errorf("%s %s", cmp.Or(name, field.Field), field.Reason))
}

// wellknownCheckCommand asks a domain.
type wellknownCheckCommand struct {
	mdmServer
	Domain     string   `arg:"" help:"The domain behind the @ of accounts."`
	Family     []string `placeholder:"FAMILY" help:"Ask as a device of this model family: AppleTV, iPad, iPhone, Mac, RealityDevice or Watch. Repeatable. Default: iPhone, iPad and Mac."`
	Identifier string   `placeholder:"ACCOUNT" help:"What the user types. Default: gatehouse-check at the domain, whom nobody is."`
	ConnectTo  string   `name:"connect-to" placeholder:"HOST:PORT" help:"Connect there instead of to the domain's address: for a web server that is not in use yet."`
	JSON       bool     `name:"json" help:"Print JSON."`
}

// Run prints what the check found. Its exit code is 0 if all is well, 1 if devices don't
// get through, and 2 if they do but there are warnings.
func (c *wellknownCheckCommand) Run(ctx context.Context, p *process) error {
	report, err := c.check(ctx, p)
	if err != nil {
		return wrapped("wellknown check", err)
	}
	if c.JSON {
		out := json.NewEncoder(p.stdout)
		out.SetIndent("", "  ")
		out.SetEscapeHTML(false)
		err = out.Encode(apiv1.NewDiscoveryReport(report))
	} else {
		err = printReport(p.stdout, report)
	}
	switch failed := report.Count(wellknown.Error); {
	case err != nil:
		return err
	case failed > 0:
		return fmt.Errorf("wellknown check: devices don't get through: %s", count(failed, "error"))
	case report.Count(wellknown.Warning) > 0:
		return &exitError{exitUsage, fmt.Errorf("wellknown check: %s", count(report.Count(wellknown.Warning), "warning"))}
	}
	return nil
}

func (c *wellknownCheckCommand) check(ctx context.Context, p *process) (wellknown.Report, error) {
	// What is wrong on the command line comes first, before anybody is asked.
	domain, err := wellknown.ParseDomain(c.Domain)
	if err != nil {
		return wellknown.Report{}, flagOf(err, "DOMAIN")
	}
	o := wellknown.Options{Identifier: c.Identifier, ConnectTo: c.ConnectTo, AllowPrivate: true}
	for _, text := range c.Family {
		family, err := wellknown.ParseFamily(text)
		if err != nil {
			return wellknown.Report{}, flagOf(err, "DOMAIN")
		}
		if !slices.Contains(o.Families, family) {
			o.Families = append(o.Families, family)
		}
	}
	if o.Roots, err = c.roots(); err != nil {
		return wellknown.Report{}, err
	}
	server, err := c.find(ctx, p, o.Roots)
	if err != nil {
		return wellknown.Report{}, err
	}
	if server != nil {
		o.Expect = []*url.URL{server}
	} else {
		fmt.Fprintln(p.stderr, "No --server-url, and no server could be asked here: whether the answer leads to the right server is not checked.")
	}
	report, err := wellknown.Check(ctx, domain, o)
	return report, flagOf(err, "DOMAIN")
}

// wrapped puts the command's name before an error, and keeps its exit code.
func wrapped(command string, err error) error {
	if exit, ok := errors.AsType[*exitError](err); ok {
		return &exitError{exit.code, fmt.Errorf("%s: %w", command, exit.err)}
	}
	return fmt.Errorf("%s: %w", command, err)
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// printReport writes the findings, worst first, and then the requests.
func printReport(w io.Writer, r wellknown.Report) error {
	verdict := "devices get through"
	if !r.OK {
		verdict = "devices don't get through"
	}
	fmt.Fprintf(w, "%s: %s (%s, %s)\n", r.Domain, verdict, count(r.Count(wellknown.Error), "error"), count(r.Count(wellknown.Warning), "warning"))
	for _, f := range r.Findings {
		whom := ""
		if len(f.Families) > 0 {
			list := make([]string, len(f.Families))
			for i, family := range f.Families {
				list[i] = string(family)
			}
			whom = "  " + strings.Join(list, ", ")
		}
		fmt.Fprintf(w, "\n%-8s %s%s\n", strings.ToUpper(string(f.Severity)), f.Code, whom)
		printWrapped(w, f.Sentence)
		if f.Fix != "" {
			printWrapped(w, "To do: "+f.Fix)
		}
	}
	fmt.Fprintln(w)
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "ASKED AS\tSTATUS\tTIME\tURL")
	for _, s := range r.Steps {
		status := "-"
		if s.Status != 0 {
			status = fmt.Sprint(s.Status)
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", s.Probe, status, s.Took.Round(time.Millisecond), s.URL)
	}
	return table.Flush()
}

// printWrapped writes text in lines that fit a terminal, indented. What has no space in it
// is left whole, so that it can be copied.
func printWrapped(w io.Writer, text string) {
	const indent, width = "         ", 100
	line := ""
	for word := range strings.FieldsSeq(text) {
		if line != "" && utf8.RuneCountInString(indent+line+" "+word) > width {
			fmt.Fprintln(w, indent+line)
			line = ""
		}
		line = strings.TrimPrefix(line+" "+word, " ")
	}
	fmt.Fprintln(w, indent+line)
}

// wellknownSnippetCommand prints what a web server needs.
type wellknownSnippetCommand struct {
	mdmServer
	WebServer string `arg:"" optional:"" name:"web-server" help:"nginx, apache, caddy, … Without it: a list of those that there are."`
	Domain    string `placeholder:"DOMAIN" help:"The domain behind the @ of accounts."`
	Kind      string `enum:"redirect,static," default:"" placeholder:"KIND" help:"redirect: send devices on to the MDM server; static: answer every device the same. Default: redirect where the web server can."`
	Mode      string `enum:"byod,adde" default:"byod" placeholder:"MODE" help:"What a static answer leads to: byod is User Enrollment, adde account-driven Device Enrollment (default ${default})."`
	JSON      bool   `name:"json" help:"Print JSON."`
}

// Run prints a snippet: the text to standard output, what there is to say about it to
// standard error.
func (c *wellknownSnippetCommand) Run(ctx context.Context, p *process) error {
	if err := c.print(ctx, p); err != nil {
		return wrapped("wellknown snippet", err)
	}
	return nil
}

func (c *wellknownSnippetCommand) print(ctx context.Context, p *process) error {
	if err := c.known(); err != nil {
		return err
	}
	if c.WebServer == "" && c.Domain == "" {
		return c.list(p)
	}
	const example = "gatehouse wellknown snippet nginx --domain example.com --server-url https://mdm.example.com"
	if c.Domain == "" {
		return usageError(fmt.Errorf("--domain is required: %s", example))
	}
	if _, err := wellknown.ParseDomain(c.Domain); err != nil {
		return flagOf(err, "--domain")
	}
	roots, err := c.roots()
	if err != nil {
		return err
	}
	server, err := c.find(ctx, p, roots)
	if err != nil {
		return err
	}
	if server == nil {
		return usageError(fmt.Errorf("no server could be asked here, so --server-url is required: %s", example))
	}
	all, err := apiv1.NewDiscoverySnippets(server, c.Domain, wellknown.Mode(c.Mode))
	if err != nil {
		return flagOf(err, "--domain")
	}
	all.Items = slices.DeleteFunc(all.Items, func(s apiv1.DiscoverySnippetJSON) bool {
		return c.WebServer != "" && s.Server != c.WebServer || c.Kind != "" && s.Kind != c.Kind
	})
	if c.JSON {
		out := json.NewEncoder(p.stdout)
		out.SetIndent("", "  ")
		out.SetEscapeHTML(false)
		return out.Encode(all)
	}
	for i, s := range all.Items {
		if c.WebServer != "" && i > 0 {
			fmt.Fprintf(p.stderr, "\nThere is also --kind %s.\n", s.Kind)
			break
		}
		if i > 0 {
			fmt.Fprintln(p.stdout)
		}
		fmt.Fprintf(p.stderr, "%s, %s\n%s\n\n", s.Title, s.Kind, s.Where)
		if _, err := io.WriteString(p.stdout, s.Text); err != nil {
			return err
		}
		for _, note := range s.Notes {
			fmt.Fprintf(p.stderr, "\n- %s", note)
		}
		if len(s.Notes) > 0 {
			fmt.Fprintln(p.stderr)
		}
	}
	return nil
}

// catalogue are all snippets, of no domain in particular.
func catalogue() ([]wellknown.Snippet, error) {
	return wellknown.Snippets(&url.URL{Scheme: "https", Host: "mdm.example.com"}, "example.com", wellknown.BYOD)
}

// known says which web servers there are if the one that was asked for is none of them.
func (c *wellknownSnippetCommand) known() error {
	if c.WebServer == "" {
		return nil
	}
	list, err := catalogue()
	if err != nil {
		return err
	}
	servers := map[string]bool{}
	kinds := []string{}
	for _, s := range list {
		servers[s.Server] = true
		if s.Server == c.WebServer {
			kinds = append(kinds, string(s.Kind))
		}
	}
	switch {
	case !servers[c.WebServer]:
		meant := ";"
		if near := apiv1.Nearest(strings.ToLower(c.WebServer), servers); near != "" {
			meant = fmt.Sprintf(", did you mean %q?", near)
		}
		return usageError(fmt.Errorf("there is no snippet for %q%s \"gatehouse wellknown snippet\" lists those that there are", c.WebServer, meant))
	case c.Kind != "" && !slices.Contains(kinds, c.Kind):
		return usageError(fmt.Errorf("--kind: for %s there is %s only", c.WebServer, strings.Join(kinds, ", ")))
	}
	return nil
}

func (c *wellknownSnippetCommand) list(p *process) error {
	if c.JSON {
		return usageError(errors.New("--json needs --domain"))
	}
	list, err := catalogue()
	if err != nil {
		return err
	}
	table := tabwriter.NewWriter(p.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "WEB SERVER\tKIND\t")
	for _, s := range list {
		if c.Kind == "" || c.Kind == string(s.Kind) {
			fmt.Fprintf(table, "%s\t%s\t%s\n", s.Server, s.Kind, s.Title)
		}
	}
	return table.Flush()
}
