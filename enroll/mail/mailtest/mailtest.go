// Package mailtest is a mail server on loopback for tests: it takes mail as RFC 5321,
// RFC 3207 and RFC 4954 say, or as badly as a test wants. It imports nothing of the
// server's.
package mailtest

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"fmt"
	"math/big"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// What a Reply may be beside a line such as "550 no such person".
const (
	Drop = "drop" // the connection is closed
	Hang = "hang" // nothing comes until the client gives up
)

// Config says how the server is.
type Config struct {
	TLS      bool     // from the first byte
	StartTLS bool     // offered
	Login    []string // mechanisms offered, PLAIN and LOGIN among them; none: no login
	Username string
	Password string
	UTF8     bool // addresses may have it

	// Reply answers a command in another way than is right: verb is "CONNECT", "EHLO",
	// "MAIL", "RCPT", "DATA", "BODY" for the message itself, and so on. Empty: as usual.
	Reply func(verb, line string) string
}

// Mail is a message that was taken.
type Mail struct {
	From, To string // as in the envelope
	Data     string
	User     string // who was logged in
	TLS      bool
}

// Server is one mail server, which ends with its test.
type Server struct {
	Host  string
	Port  int
	Roots *x509.CertPool // of its certificate, which is for 127.0.0.1 and localhost

	t        testing.TB
	tls      *tls.Config
	listener net.Listener
	closing  chan struct{}
	wg       sync.WaitGroup

	mu     sync.Mutex
	config Config
	mails  []Mail
	arrive chan struct{} // one value for each mail, as far as there is room
	lines  []string
}

// New starts a server.
func New(t testing.TB, c Config) *Server {
	t.Helper()
	certificate, roots := credentials(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{
		Host: "127.0.0.1", Port: listener.Addr().(*net.TCPAddr).Port, Roots: roots,
		t: t, tls: &tls.Config{Certificates: []tls.Certificate{certificate}}, listener: listener,
		closing: make(chan struct{}), config: c, arrive: make(chan struct{}, 1000),
	}
	s.wg.Go(s.accept)
	t.Cleanup(func() {
		close(s.closing)
		_ = listener.Close()
		s.wg.Wait()
	})
	return s
}

func credentials(t testing.TB) (tls.Certificate, *x509.CertPool) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "mailtest"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, roots
}

// Change makes the server another from the next command on.
func (s *Server) Change(change func(*Config)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(&s.config)
}

// Mails returns what was taken so far.
func (s *Server) Mails() []Mail {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.mails)
}

// Lines returns the commands that were received so far, without messages.
func (s *Server) Lines() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.lines)
}

// Wait returns when n mails have come in all since the last Wait, or fails the test.
func (s *Server) Wait(n int) []Mail {
	s.t.Helper()
	late := time.After(30 * time.Second)
	for range n {
		select {
		case <-s.arrive:
		case <-late:
			s.t.Fatalf("%d mails came, want %d", len(s.Mails()), n)
		}
	}
	return s.Mails()
}

func (s *Server) accept() {
	for {
		conn, err := s.listener.Accept()
		if err != nil {
			return
		}
		s.wg.Go(func() {
			done := make(chan struct{})
			defer close(done)
			go func() {
				select {
				case <-s.closing:
				case <-done:
				}
				_ = conn.Close()
			}()
			s.serve(conn)
		})
	}
}

// client is one connection.
type client struct {
	s         *Server
	conn      net.Conn
	in        *bufio.Reader
	encrypted bool
	user      string
	from, to  string
}

func (s *Server) serve(conn net.Conn) {
	c := &client{s: s, conn: conn}
	if s.get().TLS {
		c.encrypt()
	} else {
		c.in = bufio.NewReader(conn)
	}
	if !c.say("CONNECT", "", "220 mailtest ready") {
		return
	}
	for {
		line, err := c.in.ReadString('\n')
		if err != nil {
			return
		}
		line = strings.TrimRight(line, "\r\n")
		s.mu.Lock()
		s.lines = append(s.lines, line)
		s.mu.Unlock()
		verb, _, _ := strings.Cut(strings.ToUpper(line), " ")
		if !c.handle(verb, line) {
			return
		}
	}
}

func (s *Server) get() Config {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.config
}

func (c *client) encrypt() {
	conn := tls.Server(c.conn, c.s.tls)
	c.conn, c.in, c.encrypted = conn, bufio.NewReader(conn), true
}

// say answers, as the test wants or as is right, and says whether the connection goes on.
func (c *client) say(verb, line, usual string) bool {
	if reply := c.s.get().Reply; reply != nil {
		if other := reply(verb, line); other != "" {
			usual = other
		}
	}
	switch usual {
	case Drop:
		return false
	case Hang:
		_, _ = c.in.ReadByte() // until the client gives up
		return false
	}
	_, err := fmt.Fprintf(c.conn, "%s\r\n", usual)
	return err == nil && !strings.HasPrefix(usual, "421")
}

func (c *client) handle(verb, line string) bool {
	config := c.s.get()
	switch verb {
	case "EHLO":
		lines := []string{"mailtest", "8BITMIME"}
		if config.StartTLS && !c.encrypted {
			lines = append(lines, "STARTTLS")
		}
		if len(config.Login) > 0 {
			lines = append(lines, "AUTH "+strings.Join(config.Login, " "))
		}
		if config.UTF8 {
			lines = append(lines, "SMTPUTF8")
		}
		return c.say(verb, line, "250-"+strings.Join(lines[:len(lines)-1], "\r\n250-")+"\r\n250 "+lines[len(lines)-1])
	case "STARTTLS":
		if !c.say(verb, line, "220 go on") {
			return false
		}
		c.encrypt()
		return true
	case "AUTH":
		return c.login(line)
	case "MAIL":
		c.from = between(line)
		return c.say(verb, line, "250 ok")
	case "RCPT":
		c.to = between(line)
		return c.say(verb, line, "250 ok")
	case "DATA":
		if config.Reply != nil {
			if other := config.Reply(verb, line); other != "" {
				return c.say(verb, line, other)
			}
		}
		if _, err := fmt.Fprint(c.conn, "354 go on\r\n"); err != nil {
			return false
		}
		return c.message()
	case "RSET", "NOOP":
		return c.say(verb, line, "250 ok")
	case "QUIT":
		_ = c.say(verb, line, "221 bye")
		return false
	}
	return c.say(verb, line, "502 what?")
}

// message takes a message. It is kept if the answer to it is a good one.
func (c *client) message() bool {
	var data strings.Builder
	for {
		line, err := c.in.ReadString('\n')
		if err != nil {
			return false
		}
		if line == ".\r\n" {
			break
		}
		data.WriteString(strings.TrimPrefix(line, "."))
	}
	answer := "250 taken"
	if reply := c.s.get().Reply; reply != nil {
		if other := reply("BODY", ""); other != "" {
			answer = other
		}
	}
	// A server that drops the connection now has the message, and its client can't know.
	if strings.HasPrefix(answer, "2") || answer == Drop {
		c.s.mu.Lock()
		c.s.mails = append(c.s.mails, Mail{From: c.from, To: c.to, Data: data.String(), User: c.user, TLS: c.encrypted})
		c.s.mu.Unlock()
		select {
		case c.s.arrive <- struct{}{}:
		default:
		}
	}
	switch answer {
	case Drop:
		return false
	case Hang:
		_, _ = c.in.ReadByte()
		return false
	}
	_, err := fmt.Fprintf(c.conn, "%s\r\n", answer)
	return err == nil
}

func (c *client) login(line string) bool {
	config := c.s.get()
	fields := strings.Fields(line)
	var username, password string
	switch {
	case len(fields) == 3 && strings.EqualFold(fields[1], "PLAIN"):
		raw, _ := base64.StdEncoding.DecodeString(fields[2])
		parts := strings.Split(string(raw), "\x00")
		if len(parts) == 3 {
			username, password = parts[1], parts[2]
		}
	case len(fields) == 2 && strings.EqualFold(fields[1], "LOGIN"):
		username, password = c.ask("Username:"), c.ask("Password:")
	default:
		return c.say("AUTH", line, "504 not known here")
	}
	if username != config.Username || password != config.Password {
		return c.say("AUTH", line, "535 5.7.8 wrong username or password")
	}
	c.user = username
	return c.say("AUTH", line, "235 welcome")
}

func (c *client) ask(what string) string {
	_, _ = fmt.Fprintf(c.conn, "334 %s\r\n", base64.StdEncoding.EncodeToString([]byte(what)))
	line, _ := c.in.ReadString('\n')
	raw, _ := base64.StdEncoding.DecodeString(strings.TrimSpace(line))
	return string(raw)
}

// between returns the address of MAIL FROM:<…>.
func between(line string) string {
	_, rest, _ := strings.Cut(line, "<")
	address, _, _ := strings.Cut(rest, ">")
	return address
}
