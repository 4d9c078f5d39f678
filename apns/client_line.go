package apns

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptrace"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/sideshow/apns2"

	"github.com/gatehouse-mdm/gatehouse/storage"
)

// line is the way to Apple of one topic: a connection, or none.
type line struct {
	client *Client
	topic  string
	news   news // there may be room, or another connection

	mu      sync.Mutex
	conn    *connection // that takes pushes
	dialing *dialing    // nil while nobody connects
	closed  bool
}

// dialing is an attempt to connect.
type dialing struct {
	cancel context.CancelFunc
	done   chan struct{}
	failed *Result // set before done is closed
}

// connection is one that was made with a certificate. All but its channels and answers
// belongs to line.mu.
type connection struct {
	http        *http.ClientConn
	tcp         *patientConn
	apns        *apns2.Client
	certificate string // SHA-256
	revision    int

	inFlight int
	// proven is set by the first answer. Until then one push is under way at most: with the
	// answer the server's limit of streams is known, and a certificate that is refused is
	// so once.
	proven  bool
	retired bool
	tired   bool          // for another call of Push, connect anew
	gone    chan struct{} // closed when retired
	dead    chan struct{} // closed when the connection itself has ended
	answers atomic.Int64
}

// acquire returns the connection with room for one push, which release gives back. It waits
// for that, and connects if need be, unless over says that it is of no use any more.
func (l *line) acquire(ctx context.Context, over func() *Result) (*connection, *Result) {
	for {
		news := l.news.wait()
		if failed := over(); failed != nil {
			return nil, failed
		}
		conn, d, failed := l.reserve()
		switch {
		case failed != nil:
			return nil, failed
		case conn != nil:
			return conn, nil
		case d != nil:
			news = d.done
		}
		select {
		case <-ctx.Done():
			return nil, ended(ctx)
		case <-news:
		}
		if d != nil && d.failed != nil {
			return nil, d.failed
		}
	}
}

// reserve returns a connection with room, or an attempt to make one, or neither of them
// where the room is taken.
func (l *line) reserve() (*connection, *dialing, *Result) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, nil, &closedResult
	}
	if l.conn != nil && l.conn.spent() {
		l.retire()
	}
	switch c := l.conn; {
	case c == nil:
		if l.dialing == nil {
			ctx, cancel := context.WithTimeout(context.Background(), dialTime)
			l.dialing = &dialing{cancel: cancel, done: make(chan struct{})}
			l.client.running.Add(1) // there is one already: who called Push
			go l.dial(ctx, l.dialing)
		}
		return nil, l.dialing, nil
	case c.inFlight == 0 || c.proven && c.inFlight < min(c.limit(), MaxStreams):
		c.inFlight++
		return c, nil, nil
	default:
		return nil, nil, nil
	}
}

// limit is how many streams the server allows. Its own Reserve is of no use here: a stream
// ends a little after its push was answered, and of that [http.ClientConn.SetStateHook] does
// not tell surely. A push that comes in between waits in RoundTrip.
func (c *connection) limit() int { return c.http.InFlight() + c.http.Available() }

// spent says whether the connection takes no more: it has ended, or nothing is under way and
// still there is no room, as after the server's GOAWAY. One that has ended with its first push
// is not spent before that is known why: maybe there is to be no other.
func (c *connection) spent() bool {
	if c.inFlight > 0 {
		return c.proven && c.http.Err() != nil
	}
	return c.http.Err() != nil || c.http.InFlight() == 0 && c.http.Available() == 0
}

// retire has the connection take no more; what is under way on it may end. l.mu is held.
func (l *line) retire() {
	c := l.conn
	l.conn = nil
	c.retired = true
	close(c.gone)
	if c.inFlight == 0 {
		go c.http.Close() // it calls back
	}
	l.news.tell()
}

// retireIf retires c, unless that is done already.
func (l *line) retireIf(c *connection) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conn == c {
		l.retire()
	}
}

// release gives back what acquire returned. An answer, if there was one, had the status.
func (l *line) release(c *connection, status int) {
	l.mu.Lock()
	c.inFlight--
	if status != 0 {
		c.proven = true
	}
	if status >= 500 {
		c.tired = true // PROTOCOL 6.3
	}
	last := c.retired && c.inFlight == 0
	l.mu.Unlock()
	if last {
		c.http.Close()
	}
	l.news.tell()
}

func (l *line) wasProven(c *connection) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return c.proven
}

func (l *line) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	if l.dialing != nil {
		l.dialing.cancel()
	}
	if l.conn != nil {
		l.retire()
	}
	l.news.tell()
}

// dial connects by the certificate that the topic has now.
func (l *line) dial(ctx context.Context, d *dialing) {
	defer l.client.running.Done()
	defer d.cancel()
	changed, stop := l.client.db.Watch(CertificatesTopic)
	conn, err := l.connect(ctx)

	l.mu.Lock()
	defer l.mu.Unlock()
	defer l.news.tell()
	defer close(d.done)
	l.dialing = nil
	if err == nil && l.closed {
		go conn.http.Close()
		err = errClosed
	}
	if err != nil {
		stop()
		r := failure(err)
		d.failed = &r
		return
	}
	l.conn = conn
	l.client.running.Add(1)
	go l.tend(conn, changed, stop)
}

// tend looks after the connection until it is retired: whether it lives, and whether the
// topic has another certificate by now.
func (l *line) tend(c *connection, changed <-chan struct{}, stop func()) {
	defer l.client.running.Done()
	defer stop()
	tick := time.NewTicker(l.client.lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-c.gone:
			return
		case <-c.dead:
			l.mu.Lock()
			if l.conn == c && c.spent() {
				l.retire()
			}
			l.mu.Unlock()
			return
		case <-changed:
		case <-tick.C:
		}
		ctx, cancel := context.WithTimeout(context.Background(), dialTime)
		l.look(ctx)
		cancel()
	}
}

// begin is look for who is about to push.
func (l *line) begin(ctx context.Context) *Result {
	l.mu.Lock()
	if l.conn != nil && l.conn.tired {
		l.retire()
	}
	l.mu.Unlock()
	return l.look(ctx)
}

// look retires the connection if the topic has another certificate than it was made with,
// and returns a result if there is none to push by.
func (l *line) look(ctx context.Context) *Result {
	var rec Certificate
	err := l.client.db.View(ctx, func(tx storage.Tx) (err error) {
		rec, err = l.client.certificates.Get(tx, l.topic)
		return err
	})
	if err == nil {
		err = l.client.valid(rec)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case errors.Is(err, storage.ErrNotFound) || errors.Is(err, errExpired):
	case err != nil:
		return nil // an open connection is as good as it was, and who connects will see
	case l.conn == nil || l.conn.certificate == rec.SHA256 && l.conn.revision == rec.Revision:
		return nil
	}
	if l.conn != nil {
		l.client.log.InfoContext(ctx, "push certificate changed", "topic", l.topic)
		l.retire()
	}
	if err == nil {
		return nil
	}
	r := failure(err)
	return &r
}

func (c *Client) valid(rec Certificate) error {
	if c.now().After(rec.NotAfter) {
		return fmt.Errorf("%w on %s", errExpired, rec.NotAfter.Format(time.DateOnly))
	}
	return nil
}

func (l *line) connect(ctx context.Context) (*connection, error) {
	var certificate tls.Certificate
	var rec Certificate
	err := l.client.db.View(ctx, func(tx storage.Tx) (err error) {
		certificate, rec, err = l.client.certificates.TLS(tx, l.topic)
		return err
	})
	if err != nil {
		return nil, &certificateError{err}
	}
	if err := l.client.valid(rec); err != nil {
		return nil, err
	}
	var tcp *patientConn
	protocol := ""
	traced := httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		// A proxy may have a handshake of its own: the server's comes last.
		TLSHandshakeDone: func(s tls.ConnectionState, _ error) {
			if protocol = s.NegotiatedProtocol; protocol == "h2" {
				tcp.hold()
			}
		},
	})
	transport := l.client.transport(certificate)
	transport.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		tcp = newPatientConn(conn)
		return tcp, nil
	}
	conn, err := transport.NewClientConn(traced, "https", l.client.address)
	if err != nil {
		return nil, err
	}
	if protocol != "h2" {
		conn.Close()
		return nil, errNoHTTP2
	}
	c := &connection{
		http: conn, tcp: tcp, certificate: rec.SHA256, revision: rec.Revision,
		gone: make(chan struct{}), dead: make(chan struct{}),
	}
	c.apns = &apns2.Client{Host: l.client.host, HTTPClient: &http.Client{
		Transport:     c,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	var once sync.Once
	conn.SetStateHook(func(h *http.ClientConn) { // maybe with l.mu held
		if h.Err() != nil {
			once.Do(func() { close(c.dead) })
		}
		l.news.tell()
	})
	l.client.log.InfoContext(ctx, "connected to the push service", "topic", l.topic, "address", l.client.address)
	return c, nil
}

func (c *Client) transport(certificate tls.Certificate) *http.Transport {
	var only http.Protocols
	only.SetHTTP2(true)
	return &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		TLSClientConfig:        &tls.Config{Certificates: []tls.Certificate{certificate}, RootCAs: c.roots, MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:    dialTime,
		DisableCompression:     true,
		MaxResponseHeaderBytes: maxAnswer,
		Protocols:              &only,
		HTTP2: &http.HTTP2Config{
			// A connection that has died unseen is found before there is something to push.
			SendPingTimeout: 30 * time.Second,
			PingTimeout:     10 * time.Second,
			// A push is small, and so is its answer: 500 of what is none must not fill the memory.
			MaxReceiveBufferPerConnection: 1 << 20,
			MaxReceiveBufferPerStream:     maxAnswer,
		},
	}
}

// patientConn is a connection whose end is not noticed before it is told why.
//
// In TLS 1.3 a server refuses our certificate when the handshake is over for us: it says so
// and hangs up. Who writes then learns that it hung up, and would give up the connection
// before who reads has learnt why: so a write to nobody is left to who reads. And who reads
// learns it maybe before there is a push to tell it to: so nothing is read until the first
// one is sent.
type patientConn struct {
	net.Conn
	shut, open func()
	closed     chan struct{}
	opened     chan struct{}
	held       atomic.Bool
}

func newPatientConn(conn net.Conn) *patientConn {
	c := &patientConn{Conn: conn, closed: make(chan struct{}), opened: make(chan struct{})}
	c.shut = sync.OnceFunc(func() { close(c.closed) })
	c.open = sync.OnceFunc(func() { close(c.opened) })
	return c
}

// hold has reading wait for open.
func (c *patientConn) hold() { c.held.Store(true) }

func (c *patientConn) Read(b []byte) (int, error) {
	if c.held.Load() {
		select {
		case <-c.opened:
		case <-c.closed:
		}
	}
	return c.Conn.Read(b)
}

func (c *patientConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	if errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET) {
		return len(b), nil
	}
	return n, err
}

func (c *patientConn) Close() error {
	c.shut()
	return c.Conn.Close()
}

// news wakes all who wait for something to happen.
type news struct {
	mu sync.Mutex
	ch chan struct{}
}

// wait returns a channel that the next tell closes.
func (n *news) wait() chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.ch == nil {
		n.ch = make(chan struct{})
	}
	return n.ch
}

func (n *news) tell() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.ch != nil {
		close(n.ch)
		n.ch = nil
	}
}
