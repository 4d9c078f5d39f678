package mail

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	netmail "net/mail"
	"net/netip"
	"net/textproto"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/wneessen/go-mail/smtp"
)

// Step is a part of a delivery.
type Step string

// The steps, in their order; TLS comes before the greeting where the encryption is tls.
const (
	StepResolve   Step = "resolve"   // the server's name
	StepConnect   Step = "connect"   // to one of its addresses
	StepGreeting  Step = "greeting"  // it is a mail server, and takes our name
	StepTLS       Step = "tls"       // encryption, and the server's certificate
	StepLogin     Step = "login"     // if there is a username
	StepSender    Step = "sender"    // it takes mail from us (MAIL)
	StepRecipient Step = "recipient" // and to this address (RCPT)
	StepMessage   Step = "message"   // and has taken this message (DATA)
)

// Failure says why a message was not delivered.
type Failure struct {
	Step Step
	Code int // of the server's reply; 0: it gave none

	// Unsure says that the message may have been taken after all: the connection broke
	// when all of it had been sent.
	Unsure bool

	err error
}

func (f *Failure) Error() string { return string(f.Step) + ": " + plain(f.err.Error()) }

// Unwrap returns what the connection or the server said.
func (f *Failure) Unwrap() error { return f.err }

// Permanent says that it is no use to send the same message again (RFC 5321, 4.2.1).
func (f *Failure) Permanent() bool { return f.Code >= 500 && !f.General() }

// General says that it is the server, or our way to it, that failed, and no matter of
// this message: others would fail, too.
func (f *Failure) General() bool {
	return slices.Contains([]Step{StepResolve, StepConnect, StepGreeting, StepTLS, StepLogin}, f.Step)
}

// plain is a text of a stranger's for people, in one line.
func plain(s string) string {
	const most = 300
	s = strings.Join(strings.Fields(strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "�"))), " ")
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "…"
	}
	return s
}

// Result is what became of one step.
type Result struct {
	Step   Step
	Err    error         // nil: it went well
	Detail string        // what there is to know of it
	Took   time.Duration // by the process's clock
}

// Send delivers m by these settings, which [Service.Settings] has returned. Its errors are
// *Failure, unless m itself can't be put into a mail.
func (s *Service) Send(ctx context.Context, in Settings, m Message) error {
	_, err := s.deliver(ctx, in, m)
	return err
}

// Try delivers m, and returns what became of each step, up to the one that failed.
func (s *Service) Try(ctx context.Context, in Settings, m Message) ([]Result, error) {
	results, err := s.deliver(ctx, in, m)
	var failed *Failure
	if err != nil && !errors.As(err, &failed) {
		return nil, err
	}
	return results, nil
}

func (s *Service) deliver(ctx context.Context, in Settings, m Message) ([]Result, error) {
	encoded, err := m.encode(in, s.now())
	if err != nil {
		return nil, fmt.Errorf("message to be sent: %w", err)
	}
	from, err := netmail.ParseAddress(in.From)
	if err != nil {
		return nil, fmt.Errorf("sender: %w", err)
	}
	d := &delivery{in: in, from: from.Address, to: m.To, message: encoded, name: s.name}
	d.tls = &tls.Config{ServerName: strings.TrimSuffix(in.Host, "."), RootCAs: s.roots, MinVersion: tls.VersionTLS12}
	err = d.run(ctx)
	d.close()
	return d.results, err
}

// delivery is one message on its way.
type delivery struct {
	in       Settings
	tls      *tls.Config
	name     string
	from, to string
	message  []byte

	addresses []netip.Addr
	conn      *limited  // as it is on the wire
	secure    *tls.Conn // on it, where the encryption is tls
	client    *smtp.Client
	results   []Result
}

// run takes the steps one by one.
func (d *delivery) run(ctx context.Context) error {
	for _, s := range []struct {
		step   Step
		needed bool
		do     func(context.Context) (detail string, err error)
	}{
		{StepResolve, true, d.resolve},
		{StepConnect, true, d.connect},
		{StepTLS, d.in.Encryption == TLS, d.handshake},
		{StepGreeting, true, d.greet},
		{StepTLS, d.in.Encryption == StartTLS, d.startTLS},
		{StepLogin, d.in.Username != "", d.login},
		{StepSender, true, d.sender},
		{StepRecipient, true, d.recipient},
		{StepMessage, true, d.send},
	} {
		if !s.needed {
			continue
		}
		if err := d.take(ctx, s.step, s.do); err != nil {
			return err
		}
	}
	return nil
}

// take takes one step within its time.
func (d *delivery) take(ctx context.Context, step Step, do func(context.Context) (string, error)) error {
	ctx, cancel := context.WithTimeout(ctx, d.in.Timeout)
	defer cancel()
	if d.conn != nil {
		deadline, _ := ctx.Deadline()
		_ = d.conn.SetDeadline(deadline)
		// The server may be shut down before that.
		defer context.AfterFunc(ctx, func() { _ = d.conn.SetDeadline(time.Unix(1, 0)) })()
	}
	began := time.Now()
	detail, err := do(ctx)
	if err != nil {
		failure := &Failure{Step: step, Unsure: errors.Is(err, errNoReceipt), err: err}
		var reply *textproto.Error
		var timeout net.Error
		switch {
		case errors.As(err, &reply):
			failure.Code, failure.err = reply.Code, fmt.Errorf("%d %s", reply.Code, reply.Msg) // as it was sent, unquoted
		case errors.Is(ctx.Err(), context.Canceled):
			failure.err = context.Canceled
		case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
			failure.err = fmt.Errorf("no answer within %s", d.in.Timeout)
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			failure.err = errors.New("the server closed the connection")
		}
		detail, err = plain(failure.err.Error()), failure
	}
	d.results = append(d.results, Result{Step: step, Err: err, Detail: detail, Took: time.Since(began)})
	return err
}

func (d *delivery) resolve(ctx context.Context) (string, error) {
	if addr, err := netip.ParseAddr(d.in.Host); err == nil {
		d.addresses = []netip.Addr{addr}
		return "it is an address", nil
	}
	found, err := net.DefaultResolver.LookupNetIP(ctx, "ip", d.in.Host)
	if err != nil {
		return "", err
	}
	const most = 4
	d.addresses = found[:min(len(found), most)]
	texts := make([]string, len(d.addresses))
	for i, addr := range d.addresses {
		d.addresses[i] = addr.Unmap()
		texts[i] = d.addresses[i].String()
	}
	return strings.Join(texts, ", "), nil
}

// connect takes the first address that answers. Private ones are as good as others: mail
// servers are often inside, and only administrators name them.
func (d *delivery) connect(ctx context.Context) (string, error) {
	var failed []error
	for i, addr := range d.addresses {
		deadline, _ := ctx.Deadline()
		share := time.Until(deadline) / time.Duration(len(d.addresses)-i)
		one, cancel := context.WithTimeout(ctx, share)
		conn, err := new(net.Dialer).DialContext(one, "tcp", net.JoinHostPort(addr.String(), strconv.Itoa(d.in.Port)))
		cancel()
		if err != nil {
			failed = append(failed, err)
			continue
		}
		d.conn = &limited{Conn: conn, left: maxAnswers}
		_ = d.conn.SetDeadline(deadline)
		return conn.RemoteAddr().String(), nil
	}
	return "", errors.Join(failed...)
}

// handshake is TLS from the first byte.
func (d *delivery) handshake(ctx context.Context) (string, error) {
	d.secure = tls.Client(d.conn, d.tls)
	if err := d.secure.HandshakeContext(ctx); err != nil {
		return "", err
	}
	return describe(d.secure.ConnectionState()), nil
}

func (d *delivery) greet(context.Context) (string, error) {
	var conn net.Conn = d.conn
	if d.secure != nil {
		conn = d.secure
	}
	client, err := smtp.NewClient(conn, d.tls.ServerName)
	if err != nil {
		return "", err
	}
	d.client = client
	client.SkipSMTPUTF8(isASCII(d.from) && isASCII(d.to))
	name := d.name
	if addr, err := netip.ParseAddr(name); err == nil { // RFC 5321, 4.1.3
		name = "[" + addr.String() + "]"
		if addr.Is6() {
			name = "[IPv6:" + addr.String() + "]"
		}
	}
	if err := client.Hello(name); err != nil {
		return "", err
	}
	return plain(client.HelloResponse()), nil
}

func (d *delivery) startTLS(context.Context) (string, error) {
	if ok, _ := d.client.Extension("STARTTLS"); !ok {
		return "", errors.New("the server does not offer STARTTLS here: another port, or the encryption tls, may be right")
	}
	if err := d.client.StartTLS(d.tls); err != nil {
		return "", err
	}
	state, _ := d.client.TLSConnectionState()
	return describe(state), nil
}

func describe(state tls.ConnectionState) string {
	text := tls.VersionName(state.Version)
	if len(state.PeerCertificates) > 0 {
		leaf := state.PeerCertificates[0]
		text += ", certificate of " + leaf.Issuer.CommonName + " until " + leaf.NotAfter.UTC().Format(time.DateOnly)
	}
	return plain(text)
}

// login uses the best mechanism that the server offers.
func (d *delivery) login(context.Context) (string, error) {
	_, offered := d.client.Extension("AUTH")
	host, username, password := d.tls.ServerName, d.in.Username, d.in.Password.Reveal()
	for _, m := range []struct {
		name string
		auth func() smtp.Auth
	}{
		{"SCRAM-SHA-256", func() smtp.Auth { return smtp.ScramSHA256Auth(username, password) }},
		{"PLAIN", func() smtp.Auth { return smtp.PlainAuth("", username, password, host, false) }},
		{"LOGIN", func() smtp.Auth { return smtp.LoginAuth(username, password, host, false) }},
		{"CRAM-MD5", func() smtp.Auth { return smtp.CRAMMD5Auth(username, password) }},
	} {
		if slices.Contains(strings.Fields(strings.ToUpper(offered)), m.name) {
			return "as " + plain(username) + " by " + m.name, d.client.Auth(m.auth())
		}
	}
	if offered == "" {
		return "", errors.New("the server takes no login here: another port may be right, or none is needed")
	}
	return "", fmt.Errorf("the server takes logins only by %s, which this one can't do", plain(offered))
}

func (d *delivery) sender(context.Context) (string, error) {
	if ok, _ := d.client.Extension("SMTPUTF8"); !ok && !(isASCII(d.from) && isASCII(d.to)) {
		// RFC 6531, 3.2: there is no other way for such an address.
		return "", &textproto.Error{Code: 553, Msg: "the server takes addresses in ASCII only"}
	}
	return d.from, d.client.Mail("<" + d.from + ">")
}

func (d *delivery) recipient(context.Context) (string, error) {
	return d.to, d.client.Rcpt("<" + d.to + ">")
}

// errNoReceipt means that all of a message was sent, and no reply came.
var errNoReceipt = errors.New("no receipt for the message")

func (d *delivery) send(context.Context) (string, error) {
	body, err := d.client.Data()
	if err != nil {
		return "", err
	}
	if _, err := body.Write(d.message); err != nil {
		return "", err
	}
	if err := body.Close(); err != nil {
		var reply *textproto.Error
		if !errors.As(err, &reply) {
			err = fmt.Errorf("%w: %w", errNoReceipt, err)
		}
		return "", err
	}
	answer := ""
	if taken, ok := body.(interface{ ServerResponse() string }); ok {
		answer = plain(taken.ServerResponse())
	}
	return answer, nil
}

// close ends the connection, politely where that costs no time.
func (d *delivery) close() {
	if d.conn == nil {
		return
	}
	_ = d.conn.SetDeadline(time.Now().Add(time.Second))
	if d.client != nil {
		_ = d.client.Quit()
	}
	_ = d.conn.Close()
}

func isASCII(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r > unicode.MaxASCII })
}

// maxAnswers is how much a server may say in the course of one delivery.
const maxAnswers = 1 << 20 // bytes

var errTalkative = errors.New("the server says too much")

// limited is a connection on which the other side may say so much.
type limited struct {
	net.Conn
	left int
}

func (l *limited) Read(p []byte) (int, error) {
	if l.left <= 0 {
		return 0, errTalkative
	}
	n, err := l.Conn.Read(p[:min(len(p), l.left)])
	l.left -= n
	return n, err
}
