package standin

import (
	"cmp"
	"fmt"
	"io"
	"log"
	"net/http"
	"sync"
	"time"
)

// Options say how a Server is. OnPush is required.
type Options struct {
	Addr string // to listen on; 127.0.0.1:0 when empty

	// Authority is what [Authority.PEM] of an earlier one returned, so that those who knew
	// it go on knowing it. A new one when nil.
	Authority []byte

	// OnPush says what becomes of a push that is as Apple wants it. It is called from many
	// goroutines.
	OnPush func(Push) Answer
}

// Answer says what becomes of a push. The zero value is that it is taken.
type Answer struct {
	Status    int       // 200 when zero
	Reason    string    // Apple's word, unless it is taken
	Timestamp time.Time // of a 410
}

// Server is a push service.
type Server struct {
	*Authority
	url     string
	onPush  func(Push) Answer
	http    http.Server
	running sync.WaitGroup
}

// New starts a Server.
func New(o Options) (*Server, error) {
	var authority *Authority
	var err error
	if o.Authority != nil {
		authority, err = ReadAuthority(o.Authority)
	} else {
		authority, err = NewAuthority(time.Now())
	}
	if err != nil {
		return nil, fmt.Errorf("push service: %w", err)
	}
	listener, url, config, err := authority.Listen(o.Addr)
	if err != nil {
		return nil, fmt.Errorf("push service: %w", err)
	}
	s := &Server{Authority: authority, url: url, onPush: o.OnPush}
	s.http = http.Server{
		Handler: s, TLSConfig: config,
		Protocols: new(http.Protocols), HTTP2: &http.HTTP2Config{MaxConcurrentStreams: 1000}, // as Apple's
		ReadHeaderTimeout: 10 * time.Second,           // of the handshake, too
		ErrorLog:          log.New(io.Discard, "", 0), // clients are told what is wrong with theirs
	}
	s.http.Protocols.SetHTTP2(true)
	s.running.Go(func() { s.http.ServeTLS(listener, "", "") })
	return s, nil
}

// URL is https://HOST:PORT, for --apns-url.
func (s *Server) URL() string { return s.url }

// Close ends all connections.
func (s *Server) Close() error {
	err := s.http.Close()
	s.running.Wait()
	return err
}

// ServeHTTP implements [http.Handler].
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(io.LimitReader(r.Body, MaxPayload+1))
	if err != nil {
		return // the client has given it up
	}
	p := Read(TopicOf(r.TLS.PeerCertificates[0]), r.Method, r.RequestURI, r.Header, body)
	a := Answer{Status: Problems[p.Problem], Reason: p.Problem}
	if p.Problem == "" {
		a = s.onPush(p)
	}
	w.Header().Set("Apns-Id", NewID())
	w.WriteHeader(cmp.Or(a.Status, http.StatusOK))
	if a.Reason != "" {
		w.Write(Reason(a.Reason, a.Timestamp))
	}
}
