// Package authproxy passes requests of managed devices on to another server, which learns
// which device it is and need not find out itself: an asset of declarative management that is
// fetched with "MDM" authentication, or a tool that has the device's identity.
//
// It works as NanoMDM's -auth-proxy-url does. It knows nothing of what is behind it.
package authproxy

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"time"

	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/webui"
)

// Path is the prefix of what is passed on, without it.
const Path = "/authproxy/"

// MaxBody is how much a request may bring, in bytes. One that is signed is held in memory
// until its signature is checked, so it may bring only maxSigned.
const (
	MaxBody   = 64 << 20
	maxSigned = 1 << 20
)

const (
	maxRequests = 64               // at once
	beginTime   = 30 * time.Second // until the other server begins to answer
	stepTime    = time.Minute      // between two steps of a body, either way
	wholeTime   = time.Hour        // for all of it
)

// Devices knows whose certificate it is. *enroll.Service is one.
type Devices interface {
	Vouch(ctx context.Context, p enroll.Peer) (mdm.Device, error)
}

// Config says what a Proxy needs: all of it.
type Config struct {
	Target *url.URL // which [CheckTarget] takes
	// Sender finds who vouches for a request with this body: *checkin.Handler has it.
	Sender func(r *http.Request, body []byte) (enroll.Peer, error)
	// Recognize says whether a request claims to be from a device of ours, which proves
	// nothing: nobody else's body is waited for. *checkin.Handler has it.
	Recognize func(r *http.Request) error
	Devices   Devices
	ServerURL *url.URL
	Log       *slog.Logger
}

// Proxy passes requests below Path on to its target, with the headers
//
//	X-Enrollment-ID: the device's UDID, or its EnrollmentID
//	X-Trace-ID: the id of the request in our log
//
// and without what says who the device is to us: Mdm-Signature, an access token, cookies of
// ours.
type Proxy struct {
	target  *url.URL
	sender  func(r *http.Request, body []byte) (enroll.Peer, error)
	claims  func(r *http.Request) error
	devices Devices
	public  *url.URL
	log     *slog.Logger
	proxy   *httputil.ReverseProxy
	slots   chan struct{}
}

// New returns a Proxy, or says what c lacks.
func New(c Config) (*Proxy, error) {
	if c.Target == nil || c.Sender == nil || c.Recognize == nil || c.Devices == nil || c.ServerURL == nil || c.Log == nil {
		return nil, errors.New("authproxy: Target, Sender, Recognize, Devices, ServerURL and Log are required")
	}
	if err := CheckTarget(c.Target); err != nil {
		return nil, err
	}
	p := &Proxy{
		target: c.Target, sender: c.Sender, claims: c.Recognize, devices: c.Devices, public: c.ServerURL, log: c.Log,
		slots: make(chan struct{}, maxRequests),
	}
	dialer := net.Dialer{Timeout: 10 * time.Second}
	p.proxy = &httputil.ReverseProxy{
		Rewrite: p.rewrite, ModifyResponse: p.modify, ErrorHandler: p.fail,
		ErrorLog: slog.NewLogLogger(c.Log.Handler(), slog.LevelDebug),
		Transport: &http.Transport{
			Proxy: http.ProxyFromEnvironment, DialContext: dialer.DialContext, ForceAttemptHTTP2: true,
			TLSHandshakeTimeout: 10 * time.Second, ResponseHeaderTimeout: beginTime, IdleConnTimeout: 90 * time.Second,
			MaxIdleConnsPerHost: maxRequests, MaxResponseHeaderBytes: 64 << 10,
			DisableCompression: true, // what the device takes is between the two
		},
	}
	return p, nil
}

// CheckTarget says what is wrong with a URL to pass requests on to.
func CheckTarget(u *url.URL) error {
	switch {
	case u.Scheme != "http" && u.Scheme != "https":
		return errors.New("the URL must begin with http:// or https://")
	case u.Hostname() == "":
		return errors.New("the URL names no host")
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return errors.New("the URL must have no query and no fragment: what is asked for is added to it")
	case u.User != nil:
		return errors.New("the URL must not hold a user name or password")
	}
	return nil
}

type deviceKey struct{}

// ServeHTTP answers a request of any method below Path. Who is not let in gets a 403: a 401
// would have a device leave.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	rest, ok := below(r.URL)
	switch {
	case !ok:
		webui.WriteProblem(w, r, http.StatusBadRequest, "bad_path", "Bad path", "The path must lead somewhere below "+Path+", without . and .. and escaped slashes.")
		return
	case r.Method == http.MethodConnect || r.Method == http.MethodTrace || r.Header.Get("Upgrade") != "":
		webui.WriteProblem(w, r, http.StatusNotImplemented, "not_passed_on", "Not passed on", "Only plain HTTP requests are passed on.")
		return
	}
	select {
	case p.slots <- struct{}{}:
		defer func() { <-p.slots }()
	default:
		w.Header().Set("Retry-After", "5")
		webui.WriteProblem(w, r, http.StatusServiceUnavailable, "too_many_requests_at_once", "Too many requests at once", "Please try again in a moment.")
		return
	}
	d, err := p.device(r)
	if err != nil {
		p.refuse(w, r, err)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), wholeTime)
	defer cancel()
	r = r.WithContext(context.WithValue(ctx, deviceKey{}, passed{d.AppleID, rest}))
	steady := newSteady(w, r)
	r.Body = steady.reading(r.Body)
	p.proxy.ServeHTTP(steady, r)
}

// passed is what a request is passed on with.
type passed struct {
	id   mdm.AppleID
	rest *url.URL // the path below Path
}

// below returns what u's path says below Path, and whether it stays there, however a server
// behind us reads it.
func below(u *url.URL) (*url.URL, bool) {
	escaped, ok := strings.CutPrefix(u.EscapedPath(), Path)
	if !ok {
		return nil, false
	}
	for segment := range strings.SplitSeq(escaped, "/") {
		plain, err := url.PathUnescape(segment)
		if err != nil || plain == "." || plain == ".." || strings.ContainsAny(plain, "/\\\x00") {
			return nil, false
		}
	}
	path, err := url.PathUnescape(escaped)
	if err != nil {
		return nil, false
	}
	return &url.URL{Path: "/" + path, RawPath: "/" + escaped}, true
}

var (
	errTooLarge  = errors.New("the signed body is too large")
	errCutOff    = errors.New("the body did not come whole")
	errSignature = errors.New("the signature is not good")
)

// device finds which enrolled device r is from. A signature is over the whole body, which is
// kept for it.
func (p *Proxy) device(r *http.Request) (mdm.Device, error) {
	var body []byte
	if len(r.Header.Values("Mdm-Signature")) > 0 && r.Body != nil {
		err := p.claims(r)
		if unavailable(err) {
			return mdm.Device{}, err
		}
		if err != nil {
			return mdm.Device{}, errors.Join(errSignature, err)
		}
		body, err = io.ReadAll(io.LimitReader(r.Body, maxSigned+1))
		if err != nil {
			return mdm.Device{}, errors.Join(errCutOff, err)
		}
		if len(body) > maxSigned {
			return mdm.Device{}, errTooLarge
		}
		r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
		r.TransferEncoding = nil
		if len(body) == 0 {
			r.Body = http.NoBody
		}
	}
	peer, err := p.sender(r, body)
	if err != nil {
		return mdm.Device{}, errors.Join(errSignature, err)
	}
	return p.devices.Vouch(r.Context(), peer)
}

// refuse says why a request is not passed on: little, as who asks may be anybody.
func (p *Proxy) refuse(w http.ResponseWriter, r *http.Request, err error) {
	ctx := r.Context()
	switch {
	case errors.Is(err, errTooLarge):
		webui.WriteProblem(w, r, http.StatusRequestEntityTooLarge, "body_too_large", "Too large", "A request that is signed may bring 1 MiB.")
	case errors.Is(err, errCutOff):
		webui.WriteProblem(w, r, http.StatusBadRequest, "body_incomplete", "Incomplete", "The request's body did not come whole.")
	case unavailable(err):
		p.log.ErrorContext(ctx, "request of a device not passed on", "request", webui.RequestID(ctx), "err", err)
		w.Header().Set("Retry-After", "30")
		webui.WriteProblem(w, r, http.StatusServiceUnavailable, "unavailable", "Unavailable", "The server can't tell who asks just now.")
		return
	case errors.Is(err, storage.ErrNotFound), isRefusal(err):
		webui.WriteProblem(w, r, http.StatusForbidden, "no_device", "Forbidden", "This is for devices that are enrolled here, by the certificate of their enrollment.")
	default:
		p.log.ErrorContext(ctx, "request of a device failed", "request", webui.RequestID(ctx), "err", err)
		webui.WriteProblem(w, r, http.StatusInternalServerError, "internal", "Internal error", "The log says more, under this request's id.")
		return
	}
	p.log.WarnContext(ctx, "request of a device refused", "request", webui.RequestID(ctx), "peer", webui.Peer(ctx).String(), "err", err)
}

// unavailable says that it can't be told now who asks.
func unavailable(err error) bool {
	return errors.Is(err, storage.ErrUnavailable) || errors.Is(err, storage.ErrClosed) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}

func isRefusal(err error) bool {
	for _, refusal := range []error{
		errSignature, enroll.ErrUnidentified, enroll.ErrRetired, enroll.ErrGone, enroll.ErrForeignDevice,
		enroll.ErrNotAuthenticated, enroll.ErrBadMessage, enroll.ErrStale, enroll.ErrWithheld, mdm.ErrBlocked,
	} {
		if errors.Is(err, refusal) {
			return true
		}
	}
	return false
}

// fail answers a request that the other server has not answered.
func (p *Proxy) fail(w http.ResponseWriter, r *http.Request, err error) {
	ctx := r.Context()
	var tooLarge *http.MaxBytesError
	var slow net.Error
	switch {
	case errors.As(err, &tooLarge):
		webui.WriteProblem(w, r, http.StatusRequestEntityTooLarge, "body_too_large", "Too large", "A request may bring 64 MiB.")
		return
	case errors.Is(err, context.Canceled):
		w.WriteHeader(http.StatusBadGateway) // the device has gone
		return
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &slow) && slow.Timeout():
		webui.WriteProblem(w, r, http.StatusGatewayTimeout, "gateway_timeout", "No answer in time", "The server behind this one did not answer in time.")
	default:
		webui.WriteProblem(w, r, http.StatusBadGateway, "bad_gateway", "No answer", "The server behind this one can't be reached.")
	}
	p.log.WarnContext(ctx, "authenticated proxy: no answer", "request", webui.RequestID(ctx), "target", p.target.Host, "err", err)
}

// rewrite makes the request that the other server gets.
func (p *Proxy) rewrite(pr *httputil.ProxyRequest) {
	ctx := pr.In.Context()
	with, _ := ctx.Value(deviceKey{}).(passed)
	out := pr.Out
	out.URL.Path, out.URL.RawPath = with.rest.Path, with.rest.RawPath
	pr.SetURL(p.target)
	out.Host = p.target.Host
	clean(out.Header)
	out.Header.Set("X-Enrollment-ID", cmp.Or(with.id.UDID, with.id.EnrollmentID))
	out.Header.Set("X-Trace-ID", webui.RequestID(ctx))
	if peer := webui.Peer(ctx); peer.IsValid() {
		out.Header.Set("X-Forwarded-For", peer.String())
	}
	out.Header.Set("X-Forwarded-Host", p.public.Host)
	out.Header.Set("X-Forwarded-Proto", p.public.Scheme)
}

// modify makes the answer one that may come from this server's name.
func (p *Proxy) modify(resp *http.Response) error {
	foreign(resp.Header)
	if resp.StatusCode == http.StatusUnauthorized {
		resp.StatusCode, resp.Status = http.StatusForbidden, "" // a 401 has a device leave
		resp.Header.Del("WWW-Authenticate")
	}
	if location := resp.Header.Get("Location"); location != "" {
		resp.Header.Set("Location", p.here(resp.Request.URL, location))
	}
	return nil
}

// here is where a redirection of the other server leads: below Path, if it leads to what is
// passed on there.
func (p *Proxy) here(asked *url.URL, location string) string {
	to, err := asked.Parse(location)
	if err != nil {
		return location
	}
	rest, ok := strings.CutPrefix(to.EscapedPath(), strings.TrimSuffix(p.target.EscapedPath(), "/")+"/")
	if !ok || to.Scheme != p.target.Scheme || to.Host != p.target.Host {
		return to.String()
	}
	again := p.public.Scheme + "://" + p.public.Host + Path + rest
	if to.RawQuery != "" {
		again += "?" + to.RawQuery
	}
	if to.Fragment != "" {
		again += "#" + to.EscapedFragment()
	}
	return again
}
