package main

import (
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

// ask sends a GET, and returns the body of its answer. A mistake in the request is a
// usageError, and what is not there ends the program with exitNotFound.
func (s apiServer) ask(ctx context.Context, p *process, path string, query url.Values) (io.ReadCloser, error) {
	if len(query) > 0 {
		path += "?" + query.Encode()
	}
	if s.Server == "" {
		return s.askLocal(ctx, p, path)
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
		ResponseHeaderTimeout: clientPatience,
	}
	body, err := get(ctx, transport, base.String()+path, s.Token)
	if err != nil {
		return nil, fmt.Errorf("ask %s: %w", base.Host, err)
	}
	return body, nil
}

// clientPatience is how long a client waits for an answer to begin.
const clientPatience = time.Minute

func (s apiServer) askLocal(ctx context.Context, p *process, path string) (body io.ReadCloser, err error) {
	dir := s.DataDir
	if dir == "" {
		if dir, err = defaultDataDir(p.env, os.Geteuid() == 0); err != nil {
			return nil, usageError(fmt.Errorf("%w; or name a server: --server https://mdm.example.com", err))
		}
	}
	err = withSocketPath(dir, func(socket string) error {
		transport := &http.Transport{
			DisableKeepAlives: true, ResponseHeaderTimeout: clientPatience,
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				var d net.Dialer
				return d.DialContext(ctx, "unix", socket)
			},
		}
		body, err = get(ctx, transport, "http://localhost"+path, "")
		return err
	})
	if err != nil {
		return nil, explainDial(dir, err) // perhaps there is not even the directory
	}
	return body, nil
}

func get(ctx context.Context, transport http.RoundTripper, address, token string) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, err
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	client := &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode == http.StatusOK {
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
	var problem webui.Problem
	if json.Unmarshal(answer, &problem) != nil || problem.Title == "" {
		return fmt.Errorf("the server answered %s", resp.Status)
	}
	switch resp.StatusCode {
	case http.StatusNotFound:
		return &exitError{exitNotFound, &problem}
	case http.StatusBadRequest, http.StatusUnprocessableEntity:
		if problem.Detail != "" {
			return usageError(errors.New(problem.Detail))
		}
		return usageError(&problem)
	}
	return &problem
}
