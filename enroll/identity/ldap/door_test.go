package ldap_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"maps"
	"math/big"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	ber "github.com/go-asn1-ber/asn1-ber"

	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/enroll/identity/ldap"
	"github.com/gatehouse-mdm/gatehouse/enroll/identity/ldap/ldaptest"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// door is where something listens that is no directory, or a broken one: what a good one
// doesn't do.
type door struct {
	net.Listener
	mu    sync.Mutex
	came  int // connections
	peers sync.WaitGroup
}

// peer is who came through a door.
type peer struct {
	net.Conn
	t   testing.TB
	nth int // connection, from 1
}

// Operations of LDAP (RFC 4511, 4.2 to 4.12).
const (
	bindRequest    = 0
	bindResponse   = 1
	unbindRequest  = 2
	searchRequest  = 3
	searchEntry    = 4
	searchDone     = 5
	searchReferral = 19
)

func listen(t testing.TB, serve func(*peer)) *door {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return serveOn(t, l, serve)
}

func serveOn(t testing.TB, l net.Listener, serve func(*peer)) *door {
	d := &door{Listener: l}
	d.peers.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			d.mu.Lock()
			d.came++
			nth := d.came
			d.mu.Unlock()
			d.peers.Go(func() {
				defer c.Close()
				_ = c.SetDeadline(time.Now().Add(20 * time.Second))
				serve(&peer{c, t, nth})
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		d.peers.Wait()
	})
	return d
}

func (d *door) connections() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.came
}

func (d *door) url() string { return "ldap://" + d.Addr().String() }

// settings lead to the door, with short timeouts.
func (d *door) settings(changes map[string]any) map[string]any {
	settings := map[string]any{
		"urls": []string{d.url()}, "allow_plaintext": true, "timeout": "9s",
		"bind_dn": ldaptest.ReaderDN, "bind_password": ldaptest.ReaderPassword, "base_dn": ldaptest.PeopleDN,
	}
	for name, value := range changes {
		settings[name] = value
	}
	return settings
}

// request returns what the peer asks, nil when it has gone.
func (p *peer) request() (id int64, op *ber.Packet) {
	packet, err := ber.ReadPacket(p)
	if err != nil || len(packet.Children) < 2 {
		return 0, nil
	}
	return packet.Children[0].Value.(int64), packet.Children[1]
}

func (p *peer) send(id int64, tag ber.Tag, children ...*ber.Packet) error {
	message := ber.NewSequence("")
	message.AppendChild(ber.NewInteger(ber.ClassUniversal, ber.TypePrimitive, ber.TagInteger, id, ""))
	op := ber.Encode(ber.ClassApplication, ber.TypeConstructed, tag, nil, "")
	for _, child := range children {
		op.AppendChild(child)
	}
	message.AppendChild(op)
	_, err := p.Write(message.Bytes())
	return err
}

func text(s string) *ber.Packet {
	return ber.NewString(ber.ClassUniversal, ber.TypePrimitive, ber.TagOctetString, s, "")
}

// result ends an operation.
func (p *peer) result(id int64, tag ber.Tag, code int, said string, referrals ...string) {
	parts := []*ber.Packet{
		ber.NewInteger(ber.ClassUniversal, ber.TypePrimitive, ber.TagEnumerated, code, ""), text(""), text(said),
	}
	if len(referrals) > 0 {
		to := ber.Encode(ber.ClassContext, ber.TypeConstructed, 3, nil, "")
		for _, url := range referrals {
			to.AppendChild(text(url))
		}
		parts = append(parts, to)
	}
	_ = p.send(id, tag, parts...)
}

// found sends an entry with a subject, and with other attributes of one value.
func (p *peer) found(id int64, dn string, others ...string) error {
	attributes := ber.NewSequence("")
	for _, pair := range append([]string{"entryUUID=5f1b3a52-5b0e-103f-8d2f-0123456789ab"}, others...) {
		name, value, _ := strings.Cut(pair, "=")
		values := ber.Encode(ber.ClassUniversal, ber.TypeConstructed, ber.TagSet, nil, "")
		values.AppendChild(text(value))
		attribute := ber.NewSequence("")
		attribute.AppendChild(text(name))
		attribute.AppendChild(values)
		attributes.AppendChild(attribute)
	}
	return p.send(id, searchEntry, text(dn), attributes)
}

// directory answers as one with one person, whom every search finds, unless override has
// answered. bind says whose bind it is.
func directory(override func(p *peer, id int64, op *ber.Packet, bind string) bool) func(*peer) {
	return func(p *peer) {
		for {
			id, op := p.request()
			if op == nil || op.Tag == unbindRequest {
				return
			}
			bind := ""
			if op.Tag == bindRequest {
				bind = op.Children[1].Value.(string)
			}
			if override != nil && override(p, id, op, bind) {
				continue
			}
			switch op.Tag {
			case bindRequest:
				p.result(id, bindResponse, 0, "")
			case searchRequest:
				_ = p.found(id, ldaptest.DN("ana"))
				p.result(id, searchDone, 0, "")
			}
		}
	}
}

// silence answers nothing until the peer goes.
func silence(p *peer) { _, _ = io.Copy(io.Discard, p) }

// asPerson overrides what is answered to the person's own bind.
func asPerson(answer func(p *peer, id int64)) func(*peer) {
	return directory(func(p *peer, id int64, _ *ber.Packet, bind string) bool {
		if bind == "" || bind == ldaptest.ReaderDN {
			return false
		}
		answer(p, id)
		return true
	})
}

// asSearch overrides what is answered to searches.
func asSearch(answer func(p *peer, id int64)) func(*peer) {
	return directory(func(p *peer, id int64, op *ber.Packet, _ string) bool {
		if op.Tag != searchRequest {
			return false
		}
		answer(p, id)
		return true
	})
}

func TestABrokenDirectoryIsNotAvailable(t *testing.T) {
	storagetest.AnyEngine(t)
	t.Parallel()
	for name, tt := range map[string]struct {
		serve    func(*peer)
		settings map[string]any
		want     []string // in the error
	}{
		"it says nothing":              {silence, nil, []string{"bind", "no answer within 2s"}},
		"it says nothing to TLS":       {silence, map[string]any{"start_tls": true}, []string{"tls", "no answer within 2s"}},
		"it says nothing to a search":  {asSearch(func(*peer, int64) {}), nil, []string{"search", "no answer within 2s"}},
		"it says nothing to a person":  {asPerson(func(*peer, int64) {}), nil, []string{"sign in", "no answer within 2s"}},
		"it goes at once":              {func(*peer) {}, nil, []string{"bind"}},
		"it goes in the middle of TLS": {func(p *peer) { p.request() }, map[string]any{"start_tls": true}, []string{"tls"}},
		"it goes in the middle of a bind": {func(p *peer) {
			p.request()
			_, _ = p.Write([]byte{0x30, 0x20, 0x02})
		}, nil, []string{"bind", "the connection broke"}},
		"it goes in the middle of a person's bind": {asPerson(func(p *peer, _ int64) { _ = p.Close() }), nil, []string{"sign in", "the connection broke"}},
		"it goes in the middle of a search":        {asSearch(func(p *peer, id int64) { _ = p.found(id, "cn=x"); _ = p.Close() }), nil, []string{"search", "the connection broke"}},
		"it speaks another protocol":               {func(p *peer) { p.request(); _, _ = p.Write([]byte("HTTP/1.1 400 Bad Request\r\n\r\n")); silence(p) }, nil, []string{"bind"}},
		"it answers with garbage":                  {func(p *peer) { p.request(); _, _ = io.CopyN(p, rand.Reader, 1<<16); silence(p) }, nil, []string{"bind"}},
		"it answers with 2 GB": {func(p *peer) {
			p.request()
			_, _ = p.Write([]byte{0x30, 0x84, 0x7f, 0xff, 0xff, 0xff})
			flood(p, []byte{4, 1, 'x'})
		}, map[string]any{"timeout": "8s"}, []string{"bind", "too long"}},
		"it never stops to find people": {asSearch(func(p *peer, id int64) {
			for p.found(id, ldaptest.DN("ana")) == nil {
			}
		}), map[string]any{"timeout": "8s"}, []string{"search", "too long"}},
		"its answer is as deep as the sea": {func(p *peer) { p.request(); flood(p, []byte{0x30, 0x80}) }, nil, []string{"bind"}},
		"its answer lacks a result":        {asPerson(func(p *peer, id int64) { _ = p.send(id, bindResponse) }), nil, []string{"sign in"}},
		"its entry has no name":            {asSearch(func(p *peer, id int64) { _ = p.found(id, ""); p.result(id, searchDone, 0, "") }), nil, []string{"search", "no name"}},
		"it is busy":                       {asPerson(func(p *peer, id int64) { p.result(id, bindResponse, 51, "later") }), nil, []string{"sign in", "Busy (51): later"}},
		"it wants encryption":              {asPerson(func(p *peer, id int64) { p.result(id, bindResponse, 13, "TLS first") }), nil, []string{"sign in", "(13)"}},
		"it has no StartTLS": {directory(func(p *peer, id int64, _ *ber.Packet, _ string) bool {
			p.result(id, 24, 2, "unsupported\nextended operation")
			return true
		}), map[string]any{"start_tls": true}, []string{"tls", "(2): unsupported extended operation"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			settings := map[string]any{"timeout": "2s"}
			maps.Copy(settings, tt.settings)
			began := time.Now()
			_, known, err := open(t, listen(t, tt.serve).settings(settings)).SignIn(t.Context(), "ana", ldaptest.Password("ana"))
			if !errors.Is(err, identity.ErrSource) || errors.Is(err, identity.ErrBadLogin) || known {
				t.Fatalf("SignIn = %v, %v, want ErrSource", known, err)
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("SignIn = %q, want %q in it", err, want)
				}
			}
			if took := time.Since(began); took > 18*time.Second {
				t.Errorf("SignIn took %v", took)
			}
		})
	}
}

// flood sends for as long as anybody takes it.
func flood(p *peer, piece []byte) {
	for pieces := bytes.Repeat(piece, 1<<14); ; {
		if _, err := p.Write(pieces); err != nil {
			return
		}
	}
}

func TestWhatADirectorySaysOfAnAccountIsTold(t *testing.T) {
	storagetest.AnyEngine(t)
	t.Parallel()
	ad := func(data string) string {
		return "80090308: LdapErr: DSID-0C090447, comment: AcceptSecurityContext error, data " + data + ", v3839\x00"
	}
	for name, tt := range map[string]struct {
		code int
		said string
		want string
		kind error // nil: no more than ErrBadLogin
	}{
		"no more":                         {49, "", "wrong password", nil},
		"wrong password, as AD says":      {49, ad("52e"), "wrong password", nil},
		"no such user":                    {49, ad("525"), "there is no such user", nil},
		"not at this time":                {49, ad("530"), "not sign in at this time", nil},
		"password expired":                {49, ad("532"), "the password has expired", identity.ErrPasswordExpired},
		"disabled":                        {49, ad("533"), "the account is disabled", identity.ErrDisabled},
		"account expired":                 {49, ad("701"), "the account has expired", identity.ErrDisabled},
		"password to be changed":          {49, ad("773"), "the password must be changed first", identity.ErrPasswordExpired},
		"locked":                          {49, ad("775"), "the account is locked", identity.ErrLocked},
		"something unheard of":            {49, ad("999"), "wrong password", nil},
		"inactive, as 389 says":           {53, "Account inactivated. Contact system administrator.", "Account inactivated", nil},
		"too many attempts, as IBM says":  {19, "Exceed password retry limit.", "retry limit", nil},
		"the entry went in the meantime":  {32, "", "the entry is gone", nil},
		"another way to sign in is meant": {48, "", "no password", nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := listen(t, asPerson(func(p *peer, id int64) { p.result(id, bindResponse, tt.code, tt.said) }))
			_, known, err := open(t, d.settings(nil)).SignIn(t.Context(), "ana", "x")
			if !errors.Is(err, identity.ErrBadLogin) || !known {
				t.Fatalf("SignIn = %v, %v, want ErrBadLogin of a known person", known, err)
			}
			if tt.kind != nil && !errors.Is(err, tt.kind) {
				t.Errorf("SignIn = %v, want %v", err, tt.kind)
			}
			if !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "\x00") {
				t.Errorf("SignIn = %q, want %q in it", err, tt.want)
			}
		})
	}
}

func TestReferralsAreNotFollowed(t *testing.T) {
	storagetest.AnyEngine(t)
	t.Parallel()
	elsewhere := listen(t, func(p *peer) { p.t.Error("a referral was followed") })
	to := elsewhere.url() + "/" + ldaptest.PeopleDN
	for name, tt := range map[string]struct {
		serve func(*peer)
		want  error
	}{
		"of a search": {asSearch(func(p *peer, id int64) { p.result(id, searchDone, 10, "", to) }), identity.ErrSource},
		"among what is found": {asSearch(func(p *peer, id int64) {
			_ = p.send(id, searchReferral, text(to))
			p.result(id, searchDone, 0, "")
		}), identity.ErrBadLogin},
		"of a bind": {asPerson(func(p *peer, id int64) { p.result(id, bindResponse, 10, "", to) }), identity.ErrSource},
		"of the account's bind": {directory(func(p *peer, id int64, op *ber.Packet, _ string) bool {
			p.result(id, bindResponse, 10, "", to)
			return true
		}), identity.ErrSource},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := open(t, listen(t, tt.serve).settings(nil)).SignIn(t.Context(), "ana", "x")
			if !errors.Is(err, tt.want) {
				t.Errorf("SignIn = %v, want %v", err, tt.want)
			}
		})
	}
	// slapd has a reference to another server, too.
	dir := ldaptest.Open(t)
	p, _, err := open(t, dir.Settings(map[string]any{"base_dn": ldaptest.BaseDN})).SignIn(t.Context(), "ana", ldaptest.Password("ana"))
	if err != nil || p.First("uid") != "ana" {
		t.Errorf("SignIn beside a reference = %v", err)
	}
}

// Whoever measures a refusal must not learn who exists, and nobody may be searched for as
// somebody who has just signed in.
func TestNobodyIsRefusedAsAWrongPasswordIs(t *testing.T) {
	storagetest.AnyEngine(t)
	t.Parallel()
	var mu sync.Mutex
	var asked [][]string // for each connection
	log := func(p *peer, what string) {
		mu.Lock()
		defer mu.Unlock()
		for len(asked) < p.nth {
			asked = append(asked, nil)
		}
		asked[p.nth-1] = append(asked[p.nth-1], what)
	}
	serve := func(exists bool) func(*peer) {
		return directory(func(p *peer, id int64, op *ber.Packet, bind string) bool {
			switch {
			case op.Tag == searchRequest:
				log(p, "search")
				if !exists {
					p.result(id, searchDone, 0, "")
				}
				return !exists
			case bind == ldaptest.ReaderDN:
				log(p, "bind as the account")
				return false
			}
			if password := op.Children[2].Data.String(); (password == "guess") != exists {
				t.Errorf("%s binds with %q", bind, password)
			}
			log(p, "bind as somebody")
			p.result(id, bindResponse, 49, "")
			return true
		})
	}
	for _, exists := range []bool{true, false} {
		asked = nil
		_, known, err := open(t, listen(t, serve(exists)).settings(nil)).SignIn(t.Context(), "ana", "guess")
		if !errors.Is(err, identity.ErrBadLogin) || known != exists {
			t.Fatalf("SignIn = %v, %v", known, err)
		}
		mu.Lock()
		if len(asked) != 2 || strings.Join(asked[0], ", ") != "bind as the account, search" || strings.Join(asked[1], ", ") != "bind as somebody" {
			t.Errorf("with a person (%v), connections are %q", exists, asked)
		}
		mu.Unlock()
	}
}

func TestASignInThatNobodyWaitsForEnds(t *testing.T) {
	storagetest.AnyEngine(t)
	t.Parallel()
	arrived, gone := make(chan struct{}), make(chan struct{})
	d := listen(t, func(p *peer) {
		p.request()
		close(arrived)
		silence(p)
		close(gone)
	})
	source := open(t, d.settings(map[string]any{"timeout": "9s"}))
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-arrived
		cancel()
	}()
	_, _, err := source.SignIn(ctx, "ana", "x")
	if !errors.Is(err, identity.ErrSource) || !errors.Is(err, context.Canceled) {
		t.Errorf("SignIn = %v, want ErrSource and Canceled", err)
	}
	<-gone // the connection was closed
}

func TestAServerThatFailedIsTriedLastForAWhile(t *testing.T) {
	storagetest.AnyEngine(t)
	t.Parallel()
	down := listen(t, func(*peer) {})
	up := listen(t, directory(nil))
	var logged bytes.Buffer
	now := time.Now()
	source := openWith(t, ldap.Config{Log: slog.New(slog.NewTextHandler(&logged, nil)), Now: func() time.Time { return now }},
		down.settings(map[string]any{"urls": []string{down.url(), up.url()}}))
	for i, step := range []struct {
		after time.Duration
		want  int // connections to the one that is down, so far
	}{{0, 1}, {time.Second, 1}, {58 * time.Second, 1}, {2 * time.Second, 2}, {time.Second, 2}} {
		now = now.Add(step.after)
		if _, _, err := source.SignIn(t.Context(), "ana", "x"); err != nil {
			t.Fatal(err)
		}
		if got := down.connections(); got != step.want {
			t.Errorf("sign-in %d: the server that is down was asked %d times, want %d", i+1, got, step.want)
		}
	}
	if n := strings.Count(logged.String(), "directory server failed"); n != 2 {
		t.Errorf("%d warnings in the log, want 2:\n%s", n, logged.String())
	}
}

func TestServersThatSayNothingShareTheTime(t *testing.T) {
	storagetest.AnyEngine(t)
	t.Parallel()
	slow, up := listen(t, silence), listen(t, directory(nil))
	urls := []string{slow.url(), strings.Replace(slow.url(), "127.0.0.1", "localhost", 1), up.url()}
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Second)
	defer cancel()
	_, _, err := open(t, slow.settings(map[string]any{"urls": urls, "timeout": "9s"})).SignIn(ctx, "ana", "x")
	if err != nil {
		t.Errorf("SignIn = %v: the last server was not asked", err)
	}
}

func TestASaidNoIsNotAskedAgainElsewhere(t *testing.T) {
	storagetest.AnyEngine(t)
	t.Parallel()
	second := listen(t, func(p *peer) { p.t.Error("a second server was asked") })
	for name, tt := range map[string]struct {
		serve func(*peer)
		want  error
	}{
		"a wrong password": {asPerson(func(p *peer, id int64) { p.result(id, bindResponse, 49, "") }), identity.ErrBadLogin},
		"a wrong account": {directory(func(p *peer, id int64, _ *ber.Packet, _ string) bool {
			p.result(id, bindResponse, 49, "") // more of them lock it
			return true
		}), identity.ErrSource},
	} {
		t.Run(name, func(t *testing.T) {
			first := listen(t, tt.serve)
			_, _, err := open(t, first.settings(map[string]any{"urls": []string{first.url(), second.url()}})).SignIn(t.Context(), "ana", "x")
			if !errors.Is(err, tt.want) {
				t.Errorf("SignIn = %v, want %v", err, tt.want)
			}
		})
	}
}

func TestAListThatBreaksOffIsAnError(t *testing.T) {
	storagetest.AnyEngine(t)
	t.Parallel()
	d := listen(t, asSearch(func(p *peer, id int64) {
		_ = p.found(id, ldaptest.DN("ana"))
		p.result(id, searchDone, 4, "that's enough") // sizeLimitExceeded
	}))
	_, _, err := listed(t.Context(), open(t, d.settings(nil)))
	if !errors.Is(err, identity.ErrSource) || !strings.Contains(err.Error(), "(4)") {
		t.Errorf("People = %v, want ErrSource", err)
	}
}

// pair returns a certificate for 127.0.0.1 that vouches for itself.
func pair(t testing.TB) (certificate tls.Certificate, certPEM, keyPEM string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certPEM = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	keyPEM = string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}))
	if certificate, err = tls.X509KeyPair([]byte(certPEM), []byte(keyPEM)); err != nil {
		t.Fatal(err)
	}
	return certificate, certPEM, keyPEM
}

func TestOldTLSIsRefusedAndACertificateIsShown(t *testing.T) {
	storagetest.AnyEngine(t)
	t.Parallel()
	server, ca, _ := pair(t)
	_, certificate, key := pair(t)
	for name, tt := range map[string]struct {
		config   *tls.Config
		settings map[string]any
		want     string // in the error
	}{
		"TLS 1.1":                    {&tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}, nil, "tls"},
		"TLS 1.2":                    {&tls.Config{MaxVersion: tls.VersionTLS12}, nil, ""},
		"a certificate is wanted":    {&tls.Config{ClientAuth: tls.RequireAnyClientCert, MaxVersion: tls.VersionTLS12}, nil, "tls"},
		"a certificate is shown":     {&tls.Config{ClientAuth: tls.RequireAnyClientCert}, map[string]any{"client_certificate": certificate, "client_key": key}, ""},
		"a certificate may be shown": {&tls.Config{ClientAuth: tls.RequestClientCert}, nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			tt.config.Certificates = []tls.Certificate{server}
			l, err := tls.Listen("tcp", "127.0.0.1:0", tt.config)
			if err != nil {
				t.Fatal(err)
			}
			d := serveOn(t, l, directory(nil))
			settings := d.settings(map[string]any{"urls": []string{"ldaps://" + d.Addr().String()}, "ca_certificates": ca, "timeout": "5s"})
			for name, value := range tt.settings {
				settings[name] = value
			}
			_, _, err = open(t, settings).SignIn(t.Context(), "ana", "x")
			if tt.want == "" && err != nil || tt.want != "" && (!errors.Is(err, identity.ErrSource) || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("SignIn = %v, want %q", err, tt.want)
			}
		})
	}
}

func TestManySignInsWaitForEachOther(t *testing.T) {
	storagetest.AnyEngine(t)
	t.Parallel()
	const most = 16
	arrived := make(chan struct{}, 100)
	d := listen(t, func(p *peer) {
		arrived <- struct{}{}
		silence(p)
	})
	source := open(t, d.settings(map[string]any{"timeout": "9s"}))
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	for range most {
		all.Go(func() { _, _, _ = source.SignIn(ctx, "ana", "x") })
	}
	for range most {
		<-arrived
	}
	late, giveUp := context.WithCancel(t.Context())
	giveUp()
	if _, _, err := source.SignIn(late, "ana", "x"); !errors.Is(err, identity.ErrSource) {
		t.Errorf("SignIn = %v, want ErrSource", err)
	}
	if n := d.connections(); n != most {
		t.Errorf("%d connections, want %d", n, most)
	}
	cancel()
	all.Wait()
	ctx, cancel = context.WithCancel(t.Context())
	go func() {
		<-arrived
		cancel()
	}()
	if _, _, err := source.SignIn(ctx, "ana", "x"); !errors.Is(err, context.Canceled) {
		t.Errorf("SignIn after all of them = %v, want it to get through", err)
	}
}

func TestWhatNobodyAskedForIsNotTaken(t *testing.T) {
	storagetest.AnyEngine(t)
	t.Parallel()
	d := listen(t, asSearch(func(p *peer, id int64) {
		_ = p.found(id, ldaptest.DN("ana"), "UserPassword={SSHA}x", "mail=ana@example.com", "cn=Ana\n\x1b[31m")
		p.result(id, searchDone, 0, "")
	}))
	p, _, err := open(t, d.settings(nil)).SignIn(t.Context(), "ana", "x")
	if err != nil || p.Email != "ana@example.com" {
		t.Fatalf("SignIn = %+v, %v", p, err)
	}
	for _, name := range []string{"userpassword", "UserPassword", "cn"} {
		if p.Attributes[name] != nil {
			t.Errorf("the person has %s %q", name, p.Attributes[name])
		}
	}
}
