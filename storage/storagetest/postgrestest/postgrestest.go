// Package postgrestest gives tests a PostgreSQL of their own, started from the programs
// that are installed on this machine.
//
// It knows nothing of package storage: what it gives is the URL of an empty place.
package postgrestest

import (
	"crypto/rand"
	"errors"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
)

// Variable names the environment variable with the URL of a server that is there already.
// Its user must be allowed to create schemas. The command in run sets it, so that the
// many processes of go test ./... share one server.
const Variable = "GATEHOUSE_TEST_POSTGRES"

// DSN returns the URL of a schema of this test's own, empty now and dropped when the test
// ends. Everything else of the database is shared: advisory locks and the channels of
// NOTIFY among it. Connections must be closed before the test ends.
//
// The server is that of [Variable], or one for this process. Where there is no PostgreSQL
// the test is skipped, and fails in CI.
func DSN(t testing.TB) string {
	t.Helper()
	server := os.Getenv(Variable)
	if server == "" {
		p, err := shared()
		if err != nil {
			missing(t, err)
		}
		server = p.url("gatehouse", "gatehouse")
	}
	dsn, drop, err := newSchema(server)
	if err != nil {
		t.Fatalf("create a schema: %v", err)
	}
	t.Cleanup(func() {
		if err := drop(); err != nil {
			t.Errorf("drop the schema of this test: %v", err)
		}
	})
	return dsn
}

// newSchema makes a schema and returns its URL.
func newSchema(server string) (dsn string, drop func() error, err error) {
	u, err := url.Parse(server)
	if err != nil {
		return "", nil, errors.New("not a URL") // err would show the password
	}
	schema := "test_" + strings.ToLower(rand.Text())
	if err := execute(server, "CREATE SCHEMA "+schema); err != nil {
		return "", nil, err
	}
	q := u.Query()
	q.Set("search_path", schema)
	u.RawQuery = q.Encode()
	return u.String(), func() error {
		// The timeout is for a test that left a transaction open.
		return execute(server, "SET lock_timeout = '10s'; DROP SCHEMA "+schema+" CASCADE")
	}, nil
}

// shared is the server of this process. There is no test that could own it.
var shared = sync.OnceValues(func() (*process, error) { return startProcess(quick()) })

// Run starts a server, calls fn with its URL and ends the server.
func Run(fn func(dsn string) error) error {
	p, err := startProcess(quick())
	if err != nil {
		return err
	}
	return errors.Join(fn(p.url("gatehouse", "gatehouse")), p.close())
}

// missing says that there is no server: where it may be absent, by a skip.
func missing(t testing.TB, err error) {
	t.Helper()
	if errors.Is(err, errNotInstalled) && os.Getenv("CI") == "" {
		t.Skip("skipped: no PostgreSQL is installed")
	}
	t.Fatal(err)
}

// Server is a server of one test alone, which may stop it or break it. Its methods fail
// the test if they can't do what they say, so they are for the test's own goroutine.
type Server struct {
	t testing.TB
	p *process
}

// Mode says how a server is stopped.
type Mode string

const (
	// Fast closes all connections and writes everything down.
	Fast Mode = "fast"
	// Immediate is like a crash: the next start recovers from the log.
	Immediate Mode = "immediate"
)

// Start starts a server as quick as DSN's, for tests that can't share one. Settings are
// lines of postgresql.conf, such as "max_connections = 5", and come last.
func Start(t testing.TB, settings ...string) *Server {
	t.Helper()
	return start(t, quick(), settings)
}

// StartDurable starts a server as an operator's: on the disk, with PostgreSQL's own
// defaults, by which what was committed outlives a crash of the machine. It is for
// benchmarks, and for clients that refuse the cheap password of the others.
func StartDurable(t testing.TB, settings ...string) *Server {
	t.Helper()
	return start(t, durable(), settings)
}

func start(t testing.TB, k kind, settings []string) *Server {
	t.Helper()
	k.settings += strings.Join(settings, "\n")
	p, err := startProcess(k)
	if err != nil {
		missing(t, err)
	}
	t.Cleanup(func() {
		if err := p.close(); err != nil {
			t.Errorf("end PostgreSQL: %v", err)
		}
	})
	return &Server{t, p}
}

// DSN returns the URL of the server's empty database for its owner, who is no superuser.
// It is the same after a restart.
func (s *Server) DSN() string { return s.p.url("gatehouse", "gatehouse") }

// AdminDSN returns the URL of the same database for the superuser.
func (s *Server) AdminDSN() string { return s.p.url("postgres", "gatehouse") }

// Port returns the port on 127.0.0.1. It is the same after a restart.
func (s *Server) Port() int { return s.p.port }

// Dir returns the directory of the server's files.
func (s *Server) Dir() string { return s.p.dir }

// Exec runs SQL as the superuser, in the database of DSN.
func (s *Server) Exec(sql string) {
	s.t.Helper()
	if err := execute(s.AdminDSN(), sql); err != nil {
		s.t.Fatalf("%s: %v", sql, err)
	}
}

// Stop stops the server: connections are refused until Start.
func (s *Server) Stop(m Mode) {
	s.t.Helper()
	if err := s.p.stop(m); err != nil {
		s.t.Fatal(err)
	}
}

// Start starts a stopped server again, with its data and on its port.
func (s *Server) Start() {
	s.t.Helper()
	if err := s.p.start(); err != nil {
		s.t.Fatal(err)
	}
}

// Restart is Stop and Start.
func (s *Server) Restart(m Mode) {
	s.t.Helper()
	s.Stop(m)
	s.Start()
}
