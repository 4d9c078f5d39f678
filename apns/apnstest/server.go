package apnstest

import (
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/gatehouse-mdm/gatehouse/apns/standin"
)

// Options say how a Server is. The zero value is good.
type Options struct {
	Addr  string   // to listen on; 127.0.0.1:0 when empty
	Hosts []string // names and addresses to have in the certificate, besides those of loopback and of Addr

	// Authority is what [Server.Authority] of an earlier one returned, so that it has the
	// same CA. A new one when nil.
	Authority []byte

	MaxStreams uint32 // that a client may have open on a connection; 1000 when zero
	Keep       int    // how many of the last pushes Pushes returns; 1000 when zero, none when negative

	// OnPush says what becomes of a push that is as Apple wants it: it is sent when nil. It
	// is called from many goroutines, and may block.
	OnPush func(Received) Answer

	Log *slog.Logger // nil: none
}

// Received is a push that came. Its Problem is what it is refused for, whatever OnPush says.
type Received struct {
	standin.Push
	Connection int // counted from 1
	// Certificate is the SHA-256 of the client's, in hex.
	Certificate string
}

// Identity says what push certificate to make. Only Topic is required.
type Identity = standin.Identity

// Answer says what becomes of a push. The zero value is that it is taken. Of those that end
// the connection, and the like, the first that is set counts, in the order of the fields;
// Delay comes before all.
type Answer struct {
	Delay time.Duration

	Hang   bool    // no answer, ever
	Reset  uint32  // RST_STREAM with this code: 7 is REFUSED_STREAM
	GoAway *GoAway // for the connection
	Close  bool    // the TCP connection, with a reset

	Status    int       // 200 when zero
	Reason    string    // Apple's word
	Timestamp time.Time // of a 410
	Body      []byte    // in place of the JSON with Reason and Timestamp
	Padding   int64     // bytes of spaces after the body
	Header    map[string]string
	Truncate  bool // RST_STREAM in place of the body's end
}

// GoAway is what a server says that wants the connection to end (RFC 9113, 6.8).
type GoAway struct {
	Code      uint32
	Debug     string // Apple: {"reason":"…"}
	Unhandled bool   // the push that it answers is not handled, nor are later ones; else it is, with 200
	Close     bool   // the connection at once; else when nothing is under way on it
}

// Stats count what a Server has seen.
type Stats struct {
	Pushes      int // answered or not, without those that were refused for a Problem
	Problems    int
	Connections int // ever
	Refused     int // connections that ended in the handshake
	Open        int // connections now
	Streams     int // under way now
	MostStreams int // under way at once on one connection
}

// Server is a push service.
type Server struct {
	listener  net.Listener
	authority *standin.Authority
	url       string
	keep      int
	log       *slog.Logger
	done      chan struct{}
	running   sync.WaitGroup

	mu         sync.Mutex
	maxStreams uint32
	onPush     func(Received) Answer
	script     map[string][]Answer // by token
	refused    map[string]bool     // certificates, by fingerprint
	conns      map[*conn]struct{}
	stats      Stats
	pushes     []Received
	seq        int           // pushes ever
	changed    chan struct{} // closed by the next push, or when a connection begins or ends
}

// New starts a Server.
func New(o Options) (*Server, error) {
	if o.MaxStreams == 0 {
		o.MaxStreams = 1000
	}
	if o.Keep == 0 {
		o.Keep = 1000
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	var ca *standin.Authority
	var err error
	if o.Authority != nil {
		ca, err = standin.ReadAuthority(o.Authority)
	} else {
		ca, err = standin.NewAuthority(time.Now())
	}
	if err != nil {
		return nil, fmt.Errorf("apnstest: %w", err)
	}
	listener, url, config, err := ca.Listen(o.Addr, o.Hosts...)
	if err != nil {
		return nil, fmt.Errorf("apnstest: %w", err)
	}
	s := &Server{
		listener: listener, url: url, authority: ca, keep: max(o.Keep, 0), log: o.Log, done: make(chan struct{}),
		maxStreams: o.MaxStreams, onPush: o.OnPush, script: make(map[string][]Answer), refused: make(map[string]bool),
		conns: make(map[*conn]struct{}), changed: make(chan struct{}),
	}
	config.VerifyConnection = s.verify
	s.running.Go(func() { s.accept(config) })
	return s, nil
}

// URL is https://HOST:PORT, for --apns-url.
func (s *Server) URL() string { return s.url }

// CAPEM is the certificate of whom the server's own comes from, for --apns-ca.
func (s *Server) CAPEM() []byte { return s.authority.CertificatePEM() }

// Roots is CAPEM as a pool.
func (s *Server) Roots() *x509.CertPool { return s.authority.Roots() }

// Authority is the CA with its key, for [Options].
func (s *Server) Authority() ([]byte, error) { return s.authority.PEM() }

// Certificate makes a push certificate for a topic, as Apple's portal hands it out, and its
// key: PEM, one behind the other.
func (s *Server) Certificate(topic string) ([]byte, error) {
	chain, key, err := s.Issue(Identity{Topic: topic})
	return append(chain, key...), err
}

// Issue makes a push certificate and its key, in PEM.
func (s *Server) Issue(id Identity) (chain, key []byte, err error) {
	return s.authority.Issue(id)
}

// Certify makes a push certificate for the public key of a request, as Apple's portal does,
// in PEM.
func (s *Server) Certify(id Identity, public crypto.PublicKey) ([]byte, error) {
	return s.authority.Certify(id, public)
}

// Handle puts another function in the place of [Options.OnPush].
func (s *Server) Handle(onPush func(Received) Answer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.onPush = onPush
}

// Script has the next pushes to a token answered so, one after the other, in place of OnPush.
func (s *Server) Script(token []byte, answers ...Answer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.script[string(token)] = append(s.script[string(token)], answers...)
}

// RefuseCertificate has connections end in the handshake that are made with the certificate
// of this SHA-256, as a revoked one: those that are open stay so.
func (s *Server) RefuseCertificate(sha256 string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refused[sha256] = true
}

// SetMaxStreams tells the clients, those that are connected too, that they may have so many
// streams open.
func (s *Server) SetMaxStreams(n uint32) {
	s.mu.Lock()
	s.maxStreams = n
	conns := s.connections()
	s.mu.Unlock()
	for _, c := range conns {
		c.settings(n)
	}
}

// GoAway says so on all connections.
func (s *Server) GoAway(g GoAway) {
	s.mu.Lock()
	conns := s.connections()
	s.mu.Unlock()
	for _, c := range conns {
		c.goAway(g, all)
	}
}

// Disconnect breaks all connections.
func (s *Server) Disconnect() {
	s.mu.Lock()
	conns := s.connections()
	s.mu.Unlock()
	for _, c := range conns {
		c.abort()
	}
}

func (s *Server) connections() []*conn {
	list := make([]*conn, 0, len(s.conns))
	for c := range s.conns {
		list = append(list, c)
	}
	return list
}

// Stats returns the counts.
func (s *Server) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	stats := s.stats
	stats.Open = len(s.conns)
	return stats
}

// Pushes returns the last ones that came, in their order, those with a Problem too.
func (s *Server) Pushes() []Received {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.pushes)
}

// Until waits for the counts to be so.
func (s *Server) Until(ctx context.Context, so func(Stats) bool) error {
	for {
		s.mu.Lock()
		stats, changed := s.stats, s.changed
		stats.Open = len(s.conns)
		s.mu.Unlock()
		if so(stats) {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		case <-s.done:
			return ErrClosed
		}
	}
}

// tell wakes who waits. s.mu is held.
func (s *Server) tell() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// ErrClosed is what waiting ends with when the Server is closed.
var ErrClosed = errors.New("apnstest: server closed")

// Wait returns the first push for which want is true, of those that are kept and of those to
// come. A nil want takes any.
func (s *Server) Wait(ctx context.Context, want func(Received) bool) (Received, error) {
	for seen := 0; ; {
		s.mu.Lock()
		list, changed, seq := s.pushes, s.changed, s.seq
		fresh := slices.Clone(list[max(0, len(list)-(seq-seen)):])
		s.mu.Unlock()
		seen = seq
		for _, r := range fresh {
			if want == nil || want(r) {
				return r, nil
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return Received{}, ctx.Err()
		case <-s.done:
			return Received{}, ErrClosed
		}
	}
}

// Next returns the next push that comes after the call began.
func (s *Server) Next(ctx context.Context) (Received, error) {
	s.mu.Lock()
	begin := s.seq
	s.mu.Unlock()
	return s.After(ctx, begin)
}

// Count returns how many pushes came, for After.
func (s *Server) Count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.seq
}

// After returns the push that comes after the first n: so that none is missed between two
// calls.
func (s *Server) After(ctx context.Context, n int) (Received, error) {
	for {
		s.mu.Lock()
		changed, seq := s.changed, s.seq
		if at := n - (seq - len(s.pushes)); seq > n && at >= 0 {
			r := s.pushes[at]
			s.mu.Unlock()
			return r, nil
		} else if seq > n {
			s.mu.Unlock()
			return Received{}, fmt.Errorf("apnstest: push %d is kept no more", n)
		}
		s.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return Received{}, ctx.Err()
		case <-s.done:
			return Received{}, ErrClosed
		}
	}
}

// Close ends all.
func (s *Server) Close() error {
	s.mu.Lock()
	select {
	case <-s.done:
		s.mu.Unlock()
		return nil
	default:
		close(s.done)
	}
	conns := s.connections()
	s.mu.Unlock()
	err := s.listener.Close()
	for _, c := range conns {
		c.abort()
	}
	s.running.Wait()
	return err
}

func fingerprint(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.Raw)
	return hex.EncodeToString(sum[:])
}

// verify refuses clients in the handshake.
func (s *Server) verify(state tls.ConnectionState) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refused[fingerprint(state.PeerCertificates[0])] {
		return errors.New("the certificate is revoked")
	}
	return nil
}

func (s *Server) accept(config *tls.Config) {
	for {
		nc, err := s.listener.Accept()
		if err != nil {
			return
		}
		s.running.Go(func() { s.serve(tls.Server(nc, config), nc) })
	}
}

func (s *Server) serve(tc *tls.Conn, nc net.Conn) {
	defer nc.Close()
	stop := context.AfterFunc(closing{s.done}, func() { nc.Close() })
	defer stop()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	err := tc.HandshakeContext(ctx)
	cancel()
	s.mu.Lock()
	if err != nil {
		s.stats.Refused++
		s.tell()
		s.mu.Unlock()
		s.log.Info("connection refused", "err", err)
		return
	}
	s.stats.Connections++
	leaf := tc.ConnectionState().PeerCertificates[0]
	c := newConn(s, tc, nc, s.stats.Connections, standin.TopicOf(leaf), fingerprint(leaf))
	s.conns[c] = struct{}{}
	s.tell()
	most := s.maxStreams
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.conns, c)
		s.tell()
		s.mu.Unlock()
	}()
	if err := c.run(most); err != nil {
		s.log.Debug("connection ended", "connection", c.number, "err", err)
	}
}

// closing is a context that ends with the server.
type closing struct{ done chan struct{} }

func (closing) Deadline() (time.Time, bool) { return time.Time{}, false }
func (c closing) Done() <-chan struct{}     { return c.done }
func (closing) Value(any) any               { return nil }
func (c closing) Err() error {
	select {
	case <-c.done:
		return context.Canceled
	default:
		return nil
	}
}

// receive records a push and says what becomes of it.
func (s *Server) receive(r Received) Answer {
	s.mu.Lock()
	if r.Problem == "" {
		s.stats.Pushes++
	} else {
		s.stats.Problems++
	}
	s.seq++
	if s.keep > 0 {
		if len(s.pushes) >= 2*s.keep { // seldom, so that it costs little
			s.pushes = slices.Clone(s.pushes[len(s.pushes)-s.keep:])
		}
		s.pushes = append(s.pushes, r)
	}
	s.tell()
	onPush := s.onPush
	var next *Answer
	if list := s.script[string(r.Token)]; len(list) > 0 && r.Problem == "" {
		next = &list[0]
		if s.script[string(r.Token)] = list[1:]; len(list) == 1 {
			delete(s.script, string(r.Token))
		}
	}
	s.mu.Unlock()
	switch {
	case r.Problem != "":
		return Answer{Status: standin.Problems[r.Problem], Reason: r.Problem}
	case next != nil:
		return *next
	case onPush != nil:
		return onPush(r)
	}
	return Answer{}
}
