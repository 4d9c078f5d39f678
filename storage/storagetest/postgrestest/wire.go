package postgrestest

import (
	"errors"
	"io"
	"net"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
)

// Wire is a proxy before a database that counts round trips and can be cut.
type Wire struct {
	url     string
	mu      sync.Mutex
	conns   map[net.Conn]struct{}
	trips   map[net.Conn]int    // how often the client spoke after the database had
	dead    bool                // takes no more connections
	onWrite func([]byte)        // sees what the client sends, before the database does
	onRead  func([]byte) []byte // replaces what the database says
}

// NewWire puts a wire before the database of dsn, until the test ends.
func NewWire(t testing.TB, dsn string) *Wire {
	t.Helper()
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal("not a URL")
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	w := &Wire{conns: make(map[net.Conn]struct{}), trips: make(map[net.Conn]int)}
	target := u.Host
	u.Host = listener.Addr().String()
	w.url = u.String()
	go func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			w.mu.Lock()
			dead := w.dead
			w.mu.Unlock()
			server, err := net.Dial("tcp", target)
			if err != nil || dead {
				_ = client.Close()
				if err == nil {
					_ = server.Close()
				}
				continue
			}
			w.carry(client, server)
		}
	}()
	return w
}

func (w *Wire) carry(client, server net.Conn) {
	w.mu.Lock()
	w.conns[client], w.conns[server] = struct{}{}, struct{}{}
	w.mu.Unlock()
	var spoke atomic.Bool // the server was the last to speak
	spoke.Store(true)
	done := func() {
		_ = client.Close()
		_ = server.Close()
		w.mu.Lock()
		delete(w.conns, client)
		delete(w.conns, server)
		w.mu.Unlock()
	}
	go func() {
		defer done()
		buf := make([]byte, 64<<10)
		for {
			n, err := client.Read(buf)
			if err != nil {
				return
			}
			if spoke.Swap(false) {
				w.mu.Lock()
				w.trips[client]++
				w.mu.Unlock()
			}
			w.mu.Lock()
			see := w.onWrite
			w.mu.Unlock()
			if see != nil {
				see(buf[:n])
			}
			if _, err := server.Write(buf[:n]); err != nil {
				return
			}
		}
	}()
	go func() {
		defer done()
		buf := make([]byte, 64<<10)
		for {
			n, err := server.Read(buf)
			if err != nil {
				return
			}
			spoke.Store(true)
			w.mu.Lock()
			answer := w.onRead
			w.mu.Unlock()
			said := buf[:n]
			if answer != nil {
				said = answer(said)
			}
			if _, err := client.Write(said); err != nil && !errors.Is(err, io.EOF) {
				return
			}
		}
	}()
}

// Cut breaks all connections. dead says that no new ones are to be had.
func (w *Wire) Cut(dead bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.dead = dead
	for c := range w.conns {
		_ = c.Close()
	}
}

// See has fn called with what the client sends, before the database gets it.
func (w *Wire) See(fn func([]byte)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.onWrite = fn
}

// Answer has fn called with what the database says; the client gets what fn returns instead.
func (w *Wire) Answer(fn func([]byte) []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.onRead = fn
}

// DSN is the URL of the database by way of w.
func (w *Wire) DSN() string { return w.url }

// Count returns how many round trips fn takes when it runs again: by then connections are
// made and statements prepared. They are those of the busiest connection, as others carry
// what fn does not wait for.
func (w *Wire) Count(t testing.TB, fn func() error) int {
	t.Helper()
	if err := fn(); err != nil {
		t.Fatal(err)
	}
	w.mu.Lock()
	clear(w.trips)
	w.mu.Unlock()
	if err := fn(); err != nil {
		t.Fatal(err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	most := 0
	for _, n := range w.trips {
		most = max(most, n)
	}
	return most
}
