package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/gatehouse-mdm/gatehouse/webui"
)

// apiServer says which running server a client command asks: that at a URL, with a token, or
// the one on this machine, over the socket in its data directory.
type apiServer struct {
	Server  string `name:"server" placeholder:"URL" help:"The server to ask. Default: the one on this machine."`
	Token   string `name:"token" placeholder:"TOKEN" secret:"" help:"API token for --server; better kept in GATEHOUSE_TOKEN or GATEHOUSE_TOKEN_FILE than on the command line."`
	Config  string `type:"path" placeholder:"FILE" help:"The server's YAML file."`
	DataDir string `type:"path" placeholder:"DIR" help:"The server's data directory, on this machine."`
	CA      string `name:"ca" type:"path" placeholder:"FILE" help:"PEM certificates to trust for TLS, besides the system's."`
}

// roots are the authorities to trust; nil: those of the system.
func (s apiServer) roots() (*x509.CertPool, error) { return mdmServer{CA: s.CA}.roots() }

// apiRequest is what a client command asks of the server.
type apiRequest struct {
	method      string // empty: GET
	path        string
	query       url.Values
	body        any           // []byte as it is, else as JSON; nil: none
	contentType string        // of a body that is []byte
	wait        time.Duration // for which the server may hold back its answer
}

// ask sends a GET, and returns the body of its answer. A mistake in the request is a
// usageError, and what is not there ends the program with exitNotFound.
func (s apiServer) ask(ctx context.Context, p *process, path string, query url.Values) (io.ReadCloser, error) {
	return s.send(ctx, p, apiRequest{path: path, query: query})
}

// call sends a request, and reads its answer into out, unless that is nil.
func (s apiServer) call(ctx context.Context, p *process, r apiRequest, out any) error {
	body, err := s.send(ctx, p, r)
	if err != nil {
		return err
	}
	defer body.Close()
	if out == nil {
		return nil
	}
	if err := json.NewDecoder(body).Decode(out); err != nil {
		return fmt.Errorf("the answer of the server: %w", err)
	}
	return nil
}

// send is ask for requests of all kinds.
func (s apiServer) send(ctx context.Context, p *process, r apiRequest) (io.ReadCloser, error) {
	if s.Server == "" {
		return s.sendLocal(ctx, p, r)
	}
	base, err := url.Parse(strings.TrimRight(s.Server, "/"))
	switch {
	case err != nil || base.Host == "" || base.Scheme != "https" && base.Scheme != "http":
		return nil, usageError(fmt.Errorf("--server: %q is no URL such as https://mdm.example.com", s.Server))
	case s.Token == "":
		return nil, usageError(errors.New("--server needs a token: set GATEHOUSE_TOKEN"))
	}
	roots, err := s.roots()
	if err != nil {
		return nil, err
	}
	transport := &http.Transport{
		Proxy: http.ProxyFromEnvironment, TLSClientConfig: &tls.Config{RootCAs: roots}, DisableKeepAlives: true, ForceAttemptHTTP2: true,
		ResponseHeaderTimeout: clientPatience + r.wait,
	}
	body, err := r.do(ctx, transport, base.String(), s.Token)
	if err != nil {
		return nil, fmt.Errorf("ask %s: %w", base.Host, err)
	}
	return body, nil
}

// clientPatience is how long a client waits for an answer to begin.
const clientPatience = time.Minute

func (s apiServer) sendLocal(ctx context.Context, p *process, r apiRequest) (body io.ReadCloser, err error) {
	dir := s.DataDir
	if dir == "" {
		if dir, err = defaultDataDir(p.env, os.Geteuid() == 0); err != nil {
			return nil, usageError(fmt.Errorf("%w; or name a server: --server https://mdm.example.com", err))
		}
	}
	err = withSocketPath(dir, func(socket string) error {
		transport := &http.Transport{
			DisableKeepAlives: true, ResponseHeaderTimeout: clientPatience + r.wait,
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				var d net.Dialer
				return d.DialContext(ctx, "unix", socket)
			},
		}
		body, err = r.do(ctx, transport, "http://localhost", "")
		return err
	})
	if err != nil {
		return nil, explainDial(dir, err) // perhaps there is not even the directory
	}
	return body, nil
}

// do sends the request to a server, and returns the body of an answer of success.
func (r apiRequest) do(ctx context.Context, transport http.RoundTripper, server, token string) (io.ReadCloser, error) {
	address := server + r.path
	if len(r.query) > 0 {
		address += "?" + r.query.Encode()
	}
	var body io.Reader
	contentType := r.contentType
	switch b := r.body.(type) {
	case nil:
	case []byte:
		body = bytes.NewReader(b)
	default:
		encoded, err := json.Marshal(b)
		if err != nil {
			return nil, err
		}
		body, contentType = bytes.NewReader(encoded), "application/json"
	}
	req, err := http.NewRequestWithContext(ctx, cmp.Or(r.method, http.MethodGet), address, body)
	if err != nil {
		return nil, err
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	client := &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode/100 == 2 {
		return resp.Body, nil
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return nil, err
	}
	return nil, refused(resp, answer)
}

// refused is the error of an answer that is none of success.
func refused(resp *http.Response, answer []byte) error {
	var problem struct {
		webui.Problem
		Rejected []rejectedDevice `json:"rejected"`
	}
	if json.Unmarshal(answer, &problem) != nil || problem.Title == "" {
		return fmt.Errorf("the server answered %s", resp.Status)
	}
	switch {
	case len(problem.Rejected) > 0:
		var b strings.Builder
		b.WriteString(problem.Title + ":\n")
		printRejected(&b, problem.Rejected)
		code := exitNotFound
		for _, no := range problem.Rejected {
			if no.Code != "not_found" {
				code = exitFailed
			}
		}
		return &exitError{code, errors.New(strings.TrimSuffix(b.String(), "\n"))}
	case resp.StatusCode == http.StatusNotFound:
		return &exitError{exitNotFound, &problem.Problem}
	case resp.StatusCode == http.StatusBadRequest || resp.StatusCode == http.StatusUnprocessableEntity:
		if problem.Detail != "" {
			return usageError(errors.New(problem.Detail))
		}
		return usageError(&problem.Problem)
	}
	return &problem.Problem
}

// rejectedDevice is a device that does not get what was asked for it.
type rejectedDevice struct {
	DeviceID string `json:"device_id"`
	Code     string `json:"code"`
	Field    string `json:"field,omitempty"`
	Reason   string `json:"reason"`
}

// printRejected writes a line for each of the first devices.
func printRejected(w io.Writer, all []rejectedDevice) {
	const most = 20
	for i, no := range all {
		if i == most {
			fmt.Fprintf(w, "  and %d more\n", len(all)-most)
			return
		}
		fmt.Fprintf(w, "  %s: %s (%s)\n", strings.TrimSpace(no.DeviceID+" "+no.Field), no.Reason, no.Code)
	}
}
