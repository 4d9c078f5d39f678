package ldap

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/go-ldap/ldap/v3"

	"github.com/gatehouse-mdm/gatehouse/storage/guard"
)

// What a server may send for one request, in bytes: a hundred times as much comes to be in
// memory if it means no good. A person in a thousand groups is a quarter of it.
const (
	maxAnswer = 512 << 10
	maxEntry  = 1 << 10 // more for each entry of a page
)

// conn is a connection to one server. Whatever waits on it ends when the context does.
type conn struct {
	server  server
	raw     *metered
	ldap    *ldap.Conn
	timeout time.Duration // of each request
}

// dial connects to a server, encrypted as settings say.
func (s *Source) dial(ctx context.Context, at server, t *trace) (*conn, error) {
	dialer := &net.Dialer{Timeout: s.timeout, Control: guardAddress}
	raw, err := dialer.DialContext(ctx, "tcp", at.address)
	if err != nil {
		return nil, &failure{at, stepConnect, err, true}
	}
	t.ok(stepConnect, "%s (%s)", at.url, raw.RemoteAddr())
	c := &conn{server: at, raw: &metered{Conn: raw}, timeout: s.timeout}
	c.raw.left.Store(maxAnswer)

	config := s.tls.Clone()
	config.ServerName = at.host
	if s.ServerName != "" {
		config.ServerName = s.ServerName
	}
	switch {
	case at.tls:
		encrypted := tls.Client(c.raw, config)
		if err := c.within(ctx, c.timeout, func() error { return encrypted.HandshakeContext(ctx) }); err != nil {
			_ = raw.Close()
			return nil, &failure{at, stepTLS, err, true}
		}
		c.ldap = ldap.NewConn(encrypted, true)
		c.ldap.Start()
		t.ok(stepTLS, "%s", describeTLS(encrypted.ConnectionState()))
	case s.StartTLS:
		c.ldap = ldap.NewConn(c.raw, false)
		c.ldap.Start()
		if err := c.within(ctx, c.timeout, func() error { return c.ldap.StartTLS(config) }); err != nil {
			c.close()
			return nil, &failure{at, stepTLS, explain(err), true}
		}
		state, _ := c.ldap.TLSConnectionState()
		t.ok(stepTLS, "StartTLS: %s", describeTLS(state))
	default:
		c.ldap = ldap.NewConn(c.raw, false)
		c.ldap.Start()
		t.ok(stepTLS, "none, as allow_plaintext says: everybody on the way can read passwords")
	}
	return c, nil
}

// guardAddress keeps connections away from addresses where no directory is, and where
// clouds tell their machines secrets. Private ones are where directories are.
func guardAddress(_, address string, _ syscall.RawConn) error {
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("%w: it is none", guard.ErrAddress)
	}
	return guard.CheckAddress(at.Addr(), true)
}

func describeTLS(state tls.ConnectionState) string {
	text := tls.VersionName(state.Version)
	if len(state.PeerCertificates) > 0 {
		leaf := state.PeerCertificates[0]
		text += fmt.Sprintf(", certificate of %s by %s until %s",
			clean(leaf.Subject.String()), clean(leaf.Issuer.String()), leaf.NotAfter.Format(time.DateOnly))
	}
	return text
}

// within runs something that waits for the server. The connection is closed when ctx ends
// or time is over, which ends the waiting.
func (c *conn) within(ctx context.Context, limit time.Duration, wait func() error) (err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("no answer within %v", limit))
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = c.raw.Close() })
	c.raw.left.Store(maxAnswer)
	defer func() {
		if r := recover(); r != nil { // a server's answer, not the process, is what is broken
			err = fmt.Errorf("the answer can't be read: %v", r)
		}
		if !stop() {
			err = context.Cause(ctx)
		}
	}()
	return wait()
}

// close says goodbye, but doesn't wait for a server that doesn't listen.
func (c *conn) close() {
	_ = c.raw.SetDeadline(time.Now().Add(time.Second))
	_ = c.ldap.Unbind()
	_ = c.raw.Close()
}

// bind says who is there. What the server answers beside yes and no is in controls.
func (c *conn) bind(ctx context.Context, name, password string) (controls []ldap.Control, err error) {
	err = c.within(ctx, c.timeout, func() error {
		// What is wrong with an account is told to who asks (draft-behera-ldap-password-policy).
		ask := []ldap.Control{ldap.NewControlBeheraPasswordPolicy()}
		result, err := c.ldap.SimpleBind(ldap.NewSimpleBindRequest(name, password, ask))
		if result != nil {
			controls = result.Controls
		}
		return err
	})
	return controls, err
}

// find searches below base, or for base alone, for at most limit entries; 0: for all.
// References to other servers are left alone (RFC 4511, 4.5.3).
func (c *conn) find(ctx context.Context, base string, scope int, filter string, limit int, attributes ...string) (entries []*ldap.Entry, err error) {
	if len(attributes) == 0 {
		attributes = []string{"1.1"} // no attributes (RFC 4511, 4.5.1.8)
	}
	request := ldap.NewSearchRequest(base, scope, ldap.NeverDerefAliases, limit, 0, false, filter, attributes, nil)
	err = c.within(ctx, c.timeout, func() error {
		result, err := c.ldap.Search(request)
		if result != nil {
			entries = result.Entries
		}
		return err
	})
	if limit > 0 && len(entries) >= limit && ldap.IsErrorWithCode(err, ldap.LDAPResultSizeLimitExceeded) {
		err = nil
	}
	return entries, err
}

// Pages of one listing. A server that never comes to an end is not followed for ever.
const mostPages = 100_000

// pages calls fn with all that a filter finds, a page at a time (RFC 2696).
func (c *conn) pages(ctx context.Context, base string, scope int, filter string, size int, attributes []string, fn func([]*ldap.Entry) error) error {
	paging := ldap.NewControlPaging(uint32(size))
	request := ldap.NewSearchRequest(base, scope, ldap.NeverDerefAliases, 0, 0, false, filter, attributes, []ldap.Control{paging})
	for range mostPages {
		var result *ldap.SearchResult
		err := c.within(ctx, pageLimit*c.timeout, func() (err error) {
			c.raw.left.Add(int64(size) * maxEntry)
			result, err = c.ldap.Search(request)
			return err
		})
		if err != nil {
			return &failure{c.server, stepSearch, explain(err), false}
		}
		if err := fn(result.Entries); err != nil {
			return err
		}
		next, ok := ldap.FindControl(result.Controls, ldap.ControlTypePaging).(*ldap.ControlPaging)
		if !ok || len(next.Cookie) == 0 {
			return nil
		}
		paging.SetCookie(next.Cookie)
	}
	return &failure{c.server, stepSearch, fmt.Errorf("more than %d pages", mostPages), false}
}

// pageLimit is how many times a request's timeout a page of everybody may take.
const pageLimit = 6

// metered is a connection that reads no more than it has left.
type metered struct {
	net.Conn
	left atomic.Int64
}

var errTooLong = errors.New("the answer is too long")

func (m *metered) Read(p []byte) (int, error) {
	left := m.left.Load()
	if left <= 0 {
		return 0, errTooLong
	}
	if int64(len(p)) > left {
		p = p[:left]
	}
	n, err := m.Conn.Read(p)
	m.left.Add(-int64(n))
	return n, err
}

// explain returns what a server or the library says, without the library's words around
// it.
func explain(err error) error {
	var answer *ldap.Error
	if !errors.As(err, &answer) {
		if text, ok := strings.CutPrefix(err.Error(), "unable to read LDAP response packet: "); ok {
			return fmt.Errorf("the connection broke: %s", clean(text))
		}
		return err
	}
	said := ""
	if answer.Err != nil {
		said = clean(strings.TrimPrefix(answer.Err.Error(), "ldap: "))
	}
	if answer.ResultCode >= ldap.ErrorNetwork { // the library's own
		return errors.New(said)
	}
	text := fmt.Sprintf("%s (%d)", ldap.LDAPResultCodeMap[answer.ResultCode], answer.ResultCode)
	if said != "" {
		text += ": " + said
	}
	return errors.New(text)
}

// clean makes a text from outside fit for a line of a log.
func clean(text string) string {
	const longest = 300
	text = strings.Map(func(r rune) rune {
		if isControl(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, "�"))
	if len(text) > longest {
		text = strings.ToValidUTF8(text[:longest], "") + "…"
	}
	return strings.TrimSpace(text)
}
