package apns

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"sync"
	"time"

	"github.com/sideshow/apns2"

	"github.com/gatehouse-mdm/gatehouse/storage"
)

const (
	// Lifetime is how long Apple keeps a push for a device that it does not reach
	// (PROTOCOL 6.2).
	Lifetime = 7 * 24 * time.Hour

	// MaxStreams is how many pushes of a topic are under way at most. Apple's server may
	// allow fewer.
	MaxStreams = 500

	requestTime   = 10 * time.Second // for an answer
	dialTime      = 10 * time.Second // for a connection, handshakes included
	lookEvery     = time.Minute      // at the certificate of an open connection
	maxTries      = 3                // of a push that the server says it has not looked at
	maxReconnects = 10               // of one call of Push
)

// PushCertificates finds the certificate of a topic. *Certificates is one.
type PushCertificates interface {
	// Get returns the record for a topic, or an error that wraps storage.ErrNotFound.
	Get(tx storage.Tx, topic string) (Certificate, error)
	// TLS returns it with the key, as a TLS client needs them.
	TLS(tx storage.Tx, topic string) (tls.Certificate, Certificate, error)
}

// ClientConfig says what a Client needs; URL and Roots may be left out.
type ClientConfig struct {
	DB           storage.DB
	Certificates PushCertificates

	// URL is https://HOST or https://HOST:PORT of the push service: Apple's for production
	// when empty.
	URL   string
	Roots *x509.CertPool // whom that server's certificate must come from: the system's when nil

	Log *slog.Logger
	Now func() time.Time
}

// Client sends pushes, over one connection for each topic. It keeps connections open, as
// Apple asks, makes them anew when they break or when a topic has another certificate, and
// tells what became of each push. It repeats none, but those that a server handed back
// without looking at them. It knows no devices.
//
// A proxy that the environment names (HTTPS_PROXY, NO_PROXY) is used, as by all of net/http.
type Client struct {
	db           storage.DB
	certificates PushCertificates
	address      string // host:port
	host         string // as apns2 has it: a URL
	roots        *x509.CertPool
	log          *slog.Logger
	now          func() time.Time

	lookEvery time.Duration
	limit     func(context.Context) (context.Context, context.CancelFunc) // how long an answer is waited for

	mu      sync.Mutex
	lines   map[string]*line // by topic
	closed  bool
	running sync.WaitGroup // calls of Push, connections, attempts to connect
}

// NewClient returns a Client, or says what c lacks. It does not connect yet.
func NewClient(c ClientConfig) (*Client, error) {
	if c.DB == nil || c.Certificates == nil || c.Log == nil || c.Now == nil {
		return nil, errors.New("apns: DB, Certificates, Log and Now are required")
	}
	if c.URL == "" {
		c.URL = apns2.HostProduction // that of apns2 is the sandbox
	}
	u, err := url.Parse(c.URL)
	if err != nil || u.Scheme != "https" || u.Hostname() == "" || u.User != nil || u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("apns: %q is not the URL of a push service, such as %s", c.URL, apns2.HostProduction)
	}
	port := u.Port()
	if port == "" {
		port = "443"
	}
	return &Client{
		db: c.DB, certificates: c.Certificates, address: net.JoinHostPort(u.Hostname(), port), host: "https://" + u.Host,
		roots: c.Roots, log: c.Log, now: c.Now, lookEvery: lookEvery, lines: make(map[string]*line),
		limit: func(ctx context.Context) (context.Context, context.CancelFunc) {
			return context.WithTimeout(ctx, requestTime)
		},
	}, nil
}

// Push sends each of pushes once, by the certificate of topic. It calls done once for each,
// never two at a time, with its index, and returns after the last: when ctx ends, soon after
// that. Where the certificate or the connection fails, those that are left are not sent and
// share the result.
func (c *Client) Push(ctx context.Context, topic string, pushes []Push, done func(i int, r Result)) {
	if len(pushes) == 0 {
		return
	}
	l := c.line(topic)
	if l == nil {
		for i := range pushes {
			done(i, closedResult)
		}
		return
	}
	defer c.running.Done()

	b := batch{client: c, line: l, pushes: pushes, done: done, tries: make(map[int]int), ended: make(chan sent, MaxStreams)}
	b.failed = l.begin(ctx)
	b.run(ctx)
}

// line returns that of a topic and counts one more who runs, or nil after Close.
func (c *Client) line(topic string) *line {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil
	}
	l, ok := c.lines[topic]
	if !ok {
		l = &line{client: c, topic: topic}
		c.lines[topic] = l
	}
	c.running.Add(1)
	return l
}

// Close lets the pushes under way end, which takes no longer than an answer may, sends no
// others, and closes all connections.
func (c *Client) Close() error {
	c.mu.Lock()
	c.closed = true
	lines := make([]*line, 0, len(c.lines))
	for _, l := range c.lines {
		lines = append(lines, l)
	}
	c.mu.Unlock()
	for _, l := range lines {
		l.close()
	}
	c.running.Wait()
	return nil
}

// batch is one call of Push. Its fields are those of the goroutine that called.
type batch struct {
	client *Client
	line   *line
	pushes []Push

	next    int         // of pushes that were not tried yet
	again   []int       // to be tried again
	tries   map[int]int // of those that were handed back
	out     int         // under way
	ended   chan sent
	failed  *Result // what those get that are left
	last    *connection
	changes int // of connections

	mu   sync.Mutex
	done func(i int, r Result)
}

// sent is a push that is under way no more.
type sent struct {
	i      int
	result Result
	again  bool // the server has not looked at it
	over   bool // the others need not be tried
	leave  bool // the connection
}

func (b *batch) run(ctx context.Context) {
	for {
		i, ok := b.pick()
		if !ok {
			return
		}
		if b.failed != nil {
			b.report(i, *b.failed)
			continue
		}
		conn, failed := b.line.acquire(ctx, b.over)
		if failed != nil {
			b.failed, b.again = failed, append(b.again, i)
			continue
		}
		if conn != b.last {
			b.last = conn
			if b.changes++; b.changes > maxReconnects {
				b.line.release(conn, 0)
				b.failed, b.again = &brokenResult, append(b.again, i)
				continue
			}
		}
		b.out++
		b.client.running.Add(1)
		go b.send(ctx, conn, i)
	}
}

// pick returns the next push to send: it waits if there may be one, and says false if there
// is none.
func (b *batch) pick() (int, bool) {
	for b.listen(); ; b.note(<-b.ended) {
		switch n := len(b.again); {
		case n > 0:
			i := b.again[n-1]
			b.again = b.again[:n-1]
			return i, true
		case b.next < len(b.pushes):
			b.next++
			return b.next - 1, true
		case b.out == 0:
			return 0, false
		}
	}
}

// over returns what those get that are left, if by now it is known that none is sent.
func (b *batch) over() *Result {
	b.listen()
	return b.failed
}

// listen notes what has ended by now.
func (b *batch) listen() {
	for {
		select {
		case e := <-b.ended:
			b.note(e)
		default:
			return
		}
	}
}

// note draws the conclusions for those that are left.
func (b *batch) note(e sent) {
	b.out--
	if e.over && b.failed == nil {
		left := e.result
		left.APNsID = ""
		b.failed = &left
	}
	if !e.again {
		return
	}
	b.tries[e.i]++
	if b.tries[e.i] >= maxTries {
		b.report(e.i, e.result)
		return
	}
	b.again = append(b.again, e.i)
}

func (b *batch) send(ctx context.Context, conn *connection, i int) {
	defer b.client.running.Done()
	e := b.line.send(ctx, conn, b.pushes[i])
	e.i = i
	if !e.again {
		b.report(i, e.result)
	}
	// Known before there is room, or another connection, for the next one: which may not be
	// sent then.
	b.ended <- e
	if e.leave {
		b.line.retireIf(conn)
	}
	b.line.release(conn, e.result.Status)
}

func (b *batch) report(i int, r Result) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.done(i, r)
}

// payload is all that a device is told (PROTOCOL 6.2).
type payload struct {
	MDM string `json:"mdm"`
}

func (c *Client) notification(topic string, p Push) *apns2.Notification {
	return &apns2.Notification{
		DeviceToken: hex.EncodeToString(p.Token),
		Topic:       topic,
		PushType:    apns2.PushTypeMDM,
		Priority:    apns2.PriorityHigh,
		Expiration:  c.now().Add(Lifetime),
		Payload:     payload{MDM: p.Magic},
	}
}
