package acmetest

import (
	"io"
	"net"
	"sync"
	"testing"
)

// Entrance is the public port of a domain, as a load balancer has it: it leads connections
// to one server after the other.
type Entrance struct {
	listener net.Listener

	mu      sync.Mutex
	known   chan struct{} // closed once it is known where to lead
	servers []string
	next    int
}

// NewEntrance opens a port of 127.0.0.1. Connections wait until LeadTo says where they lead.
func NewEntrance(t testing.TB) *Entrance {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	e := &Entrance{listener: l, known: make(chan struct{})}
	t.Cleanup(func() {
		_ = l.Close()
		e.LeadTo()
	})
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			go e.forward(in)
		}
	}()
	return e
}

// Port is its port.
func (e *Entrance) Port() int { return e.listener.Addr().(*net.TCPAddr).Port }

// LeadTo says which servers there are; without any, connections are closed.
func (e *Entrance) LeadTo(servers ...string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.servers = servers
	select {
	case <-e.known:
	default:
		close(e.known)
	}
}

func (e *Entrance) choose() (server string, ok bool) {
	<-e.known
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.servers) == 0 {
		return "", false
	}
	e.next++
	return e.servers[e.next%len(e.servers)], true
}

func (e *Entrance) forward(in net.Conn) {
	defer in.Close()
	server, ok := e.choose()
	if !ok {
		return
	}
	out, err := net.Dial("tcp", server)
	if err != nil {
		return
	}
	defer out.Close()
	go func() {
		_, _ = io.Copy(out, in)
		_ = out.(*net.TCPConn).CloseWrite()
	}()
	_, _ = io.Copy(in, out)
}
