package business_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/depot/depottest"
	"github.com/gatehouse-mdm/gatehouse/enroll/business"
	"github.com/gatehouse-mdm/gatehouse/enroll/business/businesstest"
	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/mdm/event"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/guard"
	"github.com/gatehouse-mdm/gatehouse/storage/seal"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// office is a server, and Apple beside it.
type office struct {
	*business.Service
	apple *businesstest.Apple
	db    storage.DB
	logs  *bytes.Buffer

	mu   sync.Mutex
	time time.Time
}

func (o *office) now() time.Time {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.time
}

func (o *office) pass(d time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.time = o.time.Add(d)
}

var names = []string{"identity", "root", "payload"}

func newOffice(t *testing.T) *office {
	t.Helper()
	o := &office{db: storagetest.Open(t), time: time.Date(2026, 9, 1, 12, 0, 0, 0, time.UTC), logs: &bytes.Buffer{}}
	o.apple = businesstest.New(t, o.now)
	o.Service = o.replica(t, "https://mdm.example.com", o.apple.URL)
	return o
}

// replica is another process on the same database.
func (o *office) replica(t *testing.T, serverURL string, endpoint *url.URL) *business.Service {
	t.Helper()
	box, err := seal.New(bytes.Repeat([]byte{7}, 32))
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(serverURL)
	if err != nil {
		t.Fatal(err)
	}
	made := 0
	s, err := business.New(business.Config{
		DB: o.db, Box: box, ServerURL: u, Endpoint: endpoint, AllowPrivate: true, Release: "1.2.3",
		NewKey: func() (*rsa.PrivateKey, error) {
			made++
			return depottest.NewKey(names[made%len(names)], 2048)
		},
		Log: slog.New(slog.NewTextHandler(o.logs, nil)), Now: o.now,
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func asPEM(cert *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})
}

func (o *office) makeKey(t *testing.T, replace bool) []byte {
	t.Helper()
	cert, made, err := o.MakeKey(t.Context(), replace)
	if err != nil || !made {
		t.Fatalf("MakeKey = %v, %v", made, err)
	}
	return asPEM(cert)
}

// connect links the server with Apple, and returns the certificate that Apple has then.
func (o *office) connect(t *testing.T) []byte {
	t.Helper()
	cert := o.makeKey(t, false)
	if _, err := o.StoreToken(t.Context(), o.apple.TokenFile(t, cert)); err != nil {
		t.Fatal(err)
	}
	o.apple.Requests()
	return cert
}

func (o *office) link(t *testing.T) business.Link {
	t.Helper()
	l, err := o.Link(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func (o *office) announces(t *testing.T) (yes bool) {
	t.Helper()
	err := o.db.View(t.Context(), func(tx storage.Tx) (err error) {
		yes, err = o.Announces(tx)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return yes
}

// audited returns the actions in the audit log, the oldest first.
func (o *office) audited(t *testing.T) (actions []string) {
	t.Helper()
	err := o.db.View(t.Context(), func(tx storage.Tx) error {
		list, _, err := event.Page(tx, event.Filter{Action: "apple_business."}, "", 100)
		actions = nil
		for _, e := range slices.Backward(list) {
			actions = append(actions, strings.TrimPrefix(e.Action, "apple_business."))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return actions
}

func refusal(t *testing.T, err error) *business.AppleError {
	t.Helper()
	var e *business.AppleError
	if !errors.As(err, &e) {
		t.Fatalf("error = %v, want one of Apple's", err)
	}
	return e
}

func TestALinkFromItsKeyToItsRenewal(t *testing.T) {
	o := newOffice(t)
	ctx := identity.WithPrincipal(t.Context(), identity.Local())
	if l := o.link(t); l.State(o.now()) != business.NoKey || o.announces(t) {
		t.Errorf("a new server's link is %+v", l)
	}
	if _, err := o.Certificate(ctx); !errors.Is(err, business.ErrNoKey) {
		t.Errorf("Certificate = %v, want ErrNoKey", err)
	}

	cert, made, err := o.MakeKey(ctx, false)
	if err != nil || !made {
		t.Fatalf("MakeKey = %v, %v", made, err)
	}
	if pub, ok := cert.PublicKey.(*rsa.PublicKey); !ok || pub.N.BitLen() < 2048 || cert.Subject.CommonName != "Gatehouse mdm.example.com" {
		t.Errorf("the certificate is of %s, with a %T", cert.Subject, cert.PublicKey)
	}
	again, made, err := o.MakeKey(ctx, false)
	if err != nil || made || !again.Equal(cert) {
		t.Errorf("asked again, MakeKey made %v, %v", made, err)
	}
	if got := o.link(t).State(o.now()); got != business.NoToken {
		t.Errorf("state with a key = %s", got)
	}

	l, err := o.StoreToken(ctx, o.apple.TokenFile(t, asPEM(cert)))
	if err != nil {
		t.Fatal(err)
	}
	if l.State(o.now()) != business.Connected || l.Account.OrgName != "Example" || l.Account.OrgID != "780420" || l.Account.ServerUUID != o.apple.UUID() ||
		l.Account.AdminID != "admin@example.com" || !l.TokenExpires.Equal(o.now().AddDate(1, 0, 0)) || !l.Signs || l.Trouble != nil {
		t.Errorf("the link is %+v, account %+v", l, l.Account)
	}
	if got := o.link(t); got.State(o.now()) != business.Connected || *got.Account != *l.Account {
		t.Errorf("the stored link is %+v", got)
	}
	if _, err := o.Registered(ctx); err != nil {
		t.Fatal(err)
	}

	o.pass(340 * 24 * time.Hour)
	if got := o.link(t).State(o.now()); got != business.Renew {
		t.Errorf("state in the last month = %s", got)
	}
	if l, err = o.StoreToken(ctx, o.apple.TokenFile(t, asPEM(cert))); err != nil {
		t.Fatal(err)
	}
	if l.State(o.now()) != business.Connected || l.Discovery == nil || !l.Signs {
		t.Errorf("renewed, the link is %+v", l)
	}
	o.pass(366 * 24 * time.Hour)
	if got := o.link(t).State(o.now()); got != business.Expired {
		t.Errorf("state after a year = %s", got)
	}

	if err := o.Remove(ctx, false); err != nil {
		t.Fatal(err)
	}
	if err := o.Remove(ctx, false); err != nil {
		t.Errorf("Remove of nothing = %v", err)
	}
	if got := o.link(t).State(o.now()); got != business.NoKey || o.announces(t) {
		t.Errorf("state when removed = %s", got)
	}
	if got, want := o.audited(t), []string{"key_created", "token_stored", "token_renewed", "removed"}; !slices.Equal(got, want) {
		t.Errorf("audit log: %q, want %q", got, want)
	}
}

func TestTokensComeInMoreFormsThanOne(t *testing.T) {
	o := newOffice(t)
	cert := o.makeKey(t, false)
	decode := func(file []byte) []byte {
		t.Helper()
		_, body, ok := bytes.Cut(file, []byte("\r\n\r\n"))
		cms, err := base64.StdEncoding.DecodeString(strings.ReplaceAll(string(body), "\r\n", ""))
		if err != nil || !ok {
			t.Fatal(err)
		}
		return cms
	}
	for name, form := range map[string]func() []byte{
		"as downloaded":           func() []byte { return o.apple.TokenFile(t, cert) },
		"with other line ends":    func() []byte { return bytes.ReplaceAll(o.apple.TokenFile(t, cert), []byte("\r\n"), []byte("\n")) },
		"after a byte order mark": func() []byte { return append([]byte("\xef\xbb\xbf\n"), o.apple.TokenFile(t, cert)...) },
		"without its header":      func() []byte { _, b, _ := bytes.Cut(o.apple.TokenFile(t, cert), []byte("\r\n\r\n")); return b },
		"bare CMS":                func() []byte { return decode(o.apple.TokenFile(t, cert)) },
		"CMS as PEM": func() []byte {
			return pem.EncodeToMemory(&pem.Block{Type: "PKCS7", Bytes: decode(o.apple.TokenFile(t, cert))})
		},
		"decrypted": func() []byte { return o.apple.PlainToken() },
		"decrypted, with its text": func() []byte {
			return fmt.Appendf(nil, "Content-Type: text/plain\n\n-----BEGIN MESSAGE-----\n%s\n-----END MESSAGE-----\n", o.apple.PlainToken())
		},
	} {
		t.Run(name, func(t *testing.T) {
			l, err := o.StoreToken(t.Context(), form())
			if err != nil || l.State(o.now()) != business.Connected {
				t.Fatalf("StoreToken = %+v, %v", l, err)
			}
			// Apple has another key where somebody else could decrypt the token.
			if plain := strings.HasPrefix(name, "decrypted"); l.Signs == plain {
				t.Errorf("com.apple.maid tokens are signed: %v", l.Signs)
			}
		})
	}
}

// The openssl command encrypts as others than this project's code do.
func TestATokenOfOpenSSLIsRead(t *testing.T) {
	if _, err := exec.LookPath("openssl"); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("no openssl command, and CI skips nothing")
		}
		t.Skip("skipped: no openssl command")
	}
	o := newOffice(t)
	dir := t.TempDir()
	in, to := filepath.Join(dir, "token"), filepath.Join(dir, "cert.pem")
	message := fmt.Sprintf("Content-Type: text/plain\r\n\r\n-----BEGIN MESSAGE-----\r\n%s\r\n-----END MESSAGE-----\r\n", o.apple.PlainToken())
	for name, content := range map[string][]byte{in: []byte(message), to: o.makeKey(t, false)} {
		if err := os.WriteFile(name, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	file, err := exec.CommandContext(t.Context(), "openssl", "smime", "-encrypt", "-binary", "-des3", "-in", in, to).Output()
	if err != nil {
		t.Fatal(err)
	}
	if l, err := o.StoreToken(t.Context(), file); err != nil || !l.Signs {
		t.Errorf("StoreToken = %+v, %v", l, err)
	}
}

func TestEachMistakeWithATokenIsNamed(t *testing.T) {
	o := newOffice(t)
	cert := o.connect(t)
	before := o.link(t)
	good := o.apple.TokenFile(t, cert)
	other := newOffice(t).makeKey(t, false)
	field := func(name string, value any) []byte {
		t.Helper()
		var fields map[string]any
		if err := json.Unmarshal(o.apple.PlainToken(), &fields); err != nil {
			t.Fatal(err)
		}
		fields[name] = value
		b, err := json.Marshal(fields)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	half := len(good) / 2
	for name, tt := range map[string]struct {
		file []byte
		want business.Mistake
	}{
		"nothing":                    {nil, business.NotAToken},
		"blanks":                     {[]byte(" \n\n"), business.NotAToken},
		"for another certificate":    {o.apple.TokenFile(t, other), business.OtherCertificate},
		"the certificate itself":     {cert, business.CertificateFile},
		"a key":                      {pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte{1}}), business.NotAToken},
		"PEM that never ends":        {[]byte("-----BEGIN CERTIFICATE-----\nMIIB"), business.NotAToken},
		"a web page":                 {[]byte("<!doctype html><title>Sign in</title>"), business.NotAToken},
		"a token of Apps and Books":  {[]byte(base64.StdEncoding.EncodeToString([]byte(`{"expDate":"2027-01-01","token":"x","orgName":"Example"}`))), business.ContentToken},
		"its header alone":           {good[:bytes.Index(good, []byte("\r\n\r\n"))], business.NotAToken},
		"half of it":                 {good[:half], business.NotAToken},
		"a letter":                   {[]byte("Dear admin, please find attached"), business.NotAToken},
		"another message":            {businesstest.File(t, cert, []byte("hello")), business.NotAToken},
		"a list":                     {businesstest.File(t, cert, []byte("[]")), business.NotAToken},
		"a token without a secret":   {businesstest.File(t, cert, field("access_secret", "")), business.Incomplete},
		"a key that is a number":     {field("consumer_key", 7), business.Incomplete},
		"an end that is no time":     {field("access_token_expiry", "soon"), business.Incomplete},
		"a header in a token":        {field("access_token", "a\r\nX: y"), business.Damaged},
		"expired":                    {businesstest.File(t, cert, o.apple.TokenUntil(o.now())), business.TokenExpired},
		"expired, decrypted":         {o.apple.TokenUntil(o.now().Add(-time.Second)), business.TokenExpired},
		"more than a token can have": {bytes.Repeat([]byte("A"), business.MaxTokenFile+1), business.NotAToken},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := o.StoreToken(t.Context(), tt.file)
			var e *business.TokenError
			if !errors.As(err, &e) || e.Mistake != tt.want {
				t.Fatalf("StoreToken = %v, want %s", err, tt.want)
			}
			if e.Reason == "" || e.Next == "" {
				t.Errorf("it says %+v", e)
			}
		})
	}
	// A change in the last block: its padding is wrong or, rarely, what it says.
	damaged := bytes.Clone(good)
	at := len(damaged) - 1
	for seen := 0; seen < 5; at-- {
		if !bytes.ContainsRune([]byte("=\r\n"), rune(damaged[at-1])) {
			seen++
		}
	}
	damaged[at] = map[bool]byte{true: 'B', false: 'A'}[damaged[at] == 'A']
	var e *business.TokenError
	if _, err := o.StoreToken(t.Context(), damaged); !errors.As(err, &e) {
		t.Errorf("StoreToken of a damaged file = %v", err)
	}
	if after := o.link(t); !after.TokenStored.Equal(before.TokenStored) || !after.TokenExpires.Equal(before.TokenExpires) || after.State(o.now()) != business.Connected {
		t.Errorf("the link was %+v and is %+v", before, after)
	}
}

func TestATokenNeedsAKeyFirst(t *testing.T) {
	o := newOffice(t)
	if _, err := o.StoreToken(t.Context(), o.apple.TokenFile(t, newOffice(t).makeKey(t, false))); !errors.Is(err, business.ErrNoKey) {
		t.Errorf("StoreToken = %v, want ErrNoKey", err)
	}
	ctx := t.Context()
	for name, do := range map[string]func() error{
		"Register":   func() error { _, err := o.Register(ctx); return err },
		"Registered": func() error { _, err := o.Registered(ctx); return err },
		"Unregister": func() error { return o.Unregister(ctx) },
		"Check":      func() error { _, err := o.Check(ctx); return err },
		"MAIDToken":  func() error { _, err := o.MAIDToken(ctx); return err },
	} {
		if err := do(); !errors.Is(err, business.ErrNoLink) {
			t.Errorf("%s = %v, want ErrNoLink", name, err)
		}
	}
	if got := o.apple.Requests(); len(got) != 0 {
		t.Errorf("Apple was asked %q", got)
	}
}

func TestAReplacedKeyTakesOverWithItsToken(t *testing.T) {
	o := newOffice(t)
	first := o.connect(t)
	second := o.makeKey(t, true)
	if l := o.link(t); !bytes.Equal(asPEM(l.Certificate), first) || !bytes.Equal(asPEM(l.Next), second) || !l.Signs {
		t.Error("the new key took over before Apple knew it")
	}
	if offered, err := o.Certificate(t.Context()); err != nil || !bytes.Equal(asPEM(offered), second) {
		t.Errorf("the certificate to upload is not the new one: %v", err)
	}
	if checkMAID(t, o, first); t.Failed() {
		return
	}

	// Somebody renews the token before they have uploaded the new certificate.
	if _, err := o.StoreToken(t.Context(), o.apple.TokenFile(t, first)); err != nil {
		t.Fatal(err)
	}
	if l := o.link(t); !bytes.Equal(asPEM(l.Certificate), first) || l.Next == nil {
		t.Error("a token for the old key ended the new one")
	}
	if _, err := o.StoreToken(t.Context(), o.apple.TokenFile(t, second)); err != nil {
		t.Fatal(err)
	}
	if l := o.link(t); !bytes.Equal(asPEM(l.Certificate), second) || l.Next != nil {
		t.Error("the new key did not take over")
	}
	checkMAID(t, o, second)
	var e *business.TokenError
	if _, err := o.StoreToken(t.Context(), o.apple.TokenFile(t, first)); !errors.As(err, &e) || e.Mistake != business.OtherCertificate {
		t.Errorf("StoreToken for the old key = %v", err)
	}
}

// checkMAID checks a token as Apple would, who has this certificate.
func checkMAID(t *testing.T, o *office, certificate []byte) (id string) {
	t.Helper()
	token, err := o.MAIDToken(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	parts := strings.Split(string(token), ".")
	if len(parts) != 3 {
		t.Fatalf("the token has %d parts", len(parts))
	}
	decoded := make([][]byte, 3)
	for i, part := range parts {
		if decoded[i], err = base64.RawURLEncoding.DecodeString(part); err != nil {
			t.Fatal(err)
		}
	}
	var header map[string]string
	var claims map[string]any
	if err := errors.Join(json.Unmarshal(decoded[0], &header), json.Unmarshal(decoded[1], &claims)); err != nil {
		t.Fatal(err)
	}
	if header["alg"] != "RS256" || header["typ"] != "JWT" || len(header) != 2 {
		t.Errorf("header = %v", header)
	}
	id, _ = claims["jti"].(string)
	if len(claims) != 4 || claims["iss"] != o.apple.UUID() || claims["iat"] != float64(o.now().Unix()) || claims["service_type"] != "com.apple.maid" ||
		!regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`).MatchString(id) {
		t.Errorf("claims = %v", claims)
	}
	block, _ := pem.Decode(certificate)
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	if err := rsa.VerifyPKCS1v15(cert.PublicKey.(*rsa.PublicKey), crypto.SHA256, sum[:], decoded[2]); err != nil {
		t.Errorf("the token is not signed by the key of the certificate that Apple has: %v", err)
	}
	return id
}

func TestTokensOfManagedAppleAccounts(t *testing.T) {
	o := newOffice(t)
	cert := o.connect(t)
	if !o.announces(t) {
		t.Error("com.apple.mdm.token is not announced")
	}
	if first, second := checkMAID(t, o, cert), checkMAID(t, o, cert); first == second {
		t.Error("two tokens have one jti")
	}
	if got := o.apple.Requests(); len(got) != 0 {
		t.Errorf("Apple was asked %q", got)
	}

	// A token of another device management service speaks in that one's name.
	o.apple.NewServer()
	if _, err := o.StoreToken(t.Context(), o.apple.TokenFile(t, cert)); err != nil {
		t.Fatal(err)
	}
	checkMAID(t, o, cert)

	// The name in which to sign is not known yet.
	o.apple.NewServer()
	o.apple.Next("GET /account", businesstest.Answer{Status: 503})
	l, err := o.StoreToken(t.Context(), o.apple.TokenFile(t, cert))
	if err != nil || l.Signs || l.Trouble == nil || l.Trouble.Kind != business.Busy || l.State(o.now()) != business.Troubled {
		t.Errorf("StoreToken = %+v, %v", l, err)
	}
	if _, err := o.MAIDToken(t.Context()); !errors.Is(err, business.ErrNoLink) || o.announces(t) {
		t.Errorf("MAIDToken = %v, want ErrNoLink", err)
	}
	if l, err = o.Check(t.Context()); err != nil || !l.Signs || l.Trouble != nil {
		t.Errorf("Check = %+v, %v", l, err)
	}
	checkMAID(t, o, cert)
}

func TestSessionsAreKeptAndRenewed(t *testing.T) {
	o := newOffice(t)
	cert := o.connect(t)
	asked := func() string {
		t.Helper()
		if _, err := o.Registered(t.Context()); err != nil {
			t.Fatal(err)
		}
		return strings.Join(o.apple.Requests(), ", ")
	}
	const get = "GET /account-driven-enrollment/profile"
	again := get + ", GET /session, " + get
	if got := asked(); got != get {
		t.Errorf("in a session: %s", got)
	}
	o.pass(businesstest.SessionTime + time.Second)
	if got := asked(); got != again {
		t.Errorf("after its end: %s", got)
	}
	o.apple.ForgetSessions()
	if got := asked(); got != again {
		t.Errorf("where Apple forgot it: %s", got)
	}
	o.apple.Next(get, businesstest.Answer{Status: 403, Body: `"EXPIRED_TOKEN"`})
	if got := asked(); got != again {
		t.Errorf("where Apple calls it expired: %s", got)
	}
	o.apple.Rotate()
	for range 3 {
		if got := asked(); got != get {
			t.Errorf("with a session that changes by each answer: %s", got)
		}
	}
	// The one of the old token is not for the new one.
	if _, err := o.StoreToken(t.Context(), o.apple.TokenFile(t, cert)); err != nil {
		t.Fatal(err)
	}
	if got := o.apple.Requests(); !slices.Equal(got, []string{"GET /session", "GET /account"}) {
		t.Errorf("with a new token: %q", got)
	}
	// Where even a new session is of no use, that is the end of it.
	o.apple.Next(get, businesstest.Answer{Status: 401, Body: "UNAUTHORIZED"}, businesstest.Answer{Status: 401, Body: "UNAUTHORIZED"})
	if _, err := o.Registered(t.Context()); refusal(t, err).Kind != business.TokenRefused {
		t.Errorf("Registered = %v", err)
	}
	if got := strings.Join(o.apple.Requests(), ", "); got != again {
		t.Errorf("for a token that is of no use: %s", got)
	}
}

func TestTheDiscoveryURLIsRegistered(t *testing.T) {
	o := newOffice(t)
	o.connect(t)
	ctx := t.Context()
	const ours = "https://mdm.example.com/.well-known/com.apple.remotemanagement"
	if d, err := o.Registered(ctx); err != nil || d.URL != "" || d.Ours {
		t.Errorf("Registered = %+v, %v, want none", d, err)
	}
	d, err := o.Register(ctx)
	if err != nil || d.URL != ours || !d.Ours || !d.Updated.Equal(o.now()) || !d.Asked.Equal(o.now()) {
		t.Errorf("Register = %+v, %v", d, err)
	}
	if got := o.apple.DiscoveryURL(); got != ours || o.DiscoveryURL() != ours {
		t.Errorf("Apple has %q", got)
	}
	if err := o.Remove(ctx, false); !errors.Is(err, business.ErrRegistered) {
		t.Errorf("Remove = %v, want ErrRegistered", err)
	}

	// The server moved: what is registered is not its own any more.
	moved := o.replica(t, "https://devices.example.com:8443/", o.apple.URL)
	if l, err := moved.Link(ctx); err != nil || l.Discovery == nil || l.Discovery.Ours || l.Discovery.URL != ours {
		t.Errorf("Link = %+v, %v", l.Discovery, err)
	}
	if d, err := moved.Register(ctx); err != nil || !d.Ours || d.URL != "https://devices.example.com:8443/.well-known/com.apple.remotemanagement" {
		t.Errorf("Register = %+v, %v", d, err)
	}
	o.apple.SetDiscoveryURL("https://jamf.example.com/.well-known/com.apple.remotemanagement")
	if d, err := o.Registered(ctx); err != nil || d.Ours || !strings.Contains(d.URL, "jamf") {
		t.Errorf("Registered = %+v, %v", d, err)
	}

	if err := o.Unregister(ctx); err != nil || o.apple.DiscoveryURL() != "" {
		t.Errorf("Unregister = %v", err)
	}
	o.apple.Next("DELETE /account-driven-enrollment/profile", businesstest.Answer{Status: 404, Body: "NOT_FOUND"})
	if err := o.Unregister(ctx); err != nil {
		t.Errorf("Unregister of nothing = %v", err)
	}
	if _, err := o.replica(t, "http://mdm.example.com", o.apple.URL).Register(ctx); !errors.Is(err, business.ErrNotHTTPS) {
		t.Errorf("Register of plain HTTP = %v", err)
	}
	if got, want := strings.Join(o.audited(t)[2:], " "), "discovery_registered discovery_registered discovery_unregistered discovery_unregistered"; got != want {
		t.Errorf("audit log: %s, want %s", got, want)
	}
	if err := o.Remove(ctx, false); err != nil {
		t.Errorf("Remove = %v", err)
	}
}

func TestEachRefusalOfAppleIsExplained(t *testing.T) {
	o := newOffice(t)
	cert := o.connect(t)
	ctx := t.Context()
	const post = "POST /account-driven-enrollment/profile"
	retry := http.Header{"Retry-After": {"120"}}
	type answers = []businesstest.Answer
	for name, tt := range map[string]struct {
		call    string
		answers answers
		want    business.Kind
		code    string
		retry   time.Duration
		trouble bool
	}{
		"no URL":                   {post, answers{{Status: 400, Body: "MDM_SERVICE_DISCOVERY_URL_REQUIRED"}}, business.URLMissing, "MDM_SERVICE_DISCOVERY_URL_REQUIRED", 0, false},
		"a URL that it won't take": {post, answers{{Status: 400, Body: `"MDM_SERVICE_DISCOVERY_URL_NOT_VALID"`}}, business.URLRefused, "MDM_SERVICE_DISCOVERY_URL_NOT_VALID", 0, false},
		"an organisation":          {post, answers{{Status: 400, Body: `{"code":"ORG_NOT_SUPPORTED"}`}}, business.OrganisationNotSupported, "ORG_NOT_SUPPORTED", 0, false},
		"terms":                    {post, answers{{Status: 403, Body: "T_C_NOT_SIGNED"}}, business.TermsNotAccepted, "T_C_NOT_SIGNED", 0, true},
		"terms, at the session":    {"GET /session", answers{{Status: 403, Body: "T_C_NOT_SIGNED"}}, business.TermsNotAccepted, "T_C_NOT_SIGNED", 0, true},
		"access":                   {post, answers{{Status: 403, Body: "ACCESS_DENIED"}}, business.AccessDenied, "ACCESS_DENIED", 0, true},
		"the token":                {"GET /session", answers{{Status: 401, Body: "UNAUTHORIZED"}}, business.TokenRefused, "UNAUTHORIZED", 0, true},
		"the token, without words": {"GET /session", answers{{Status: 403}}, business.TokenRefused, "", 0, true},
		"too many requests":        {post, answers{{Status: 429, Header: retry}}, business.Busy, "", 2 * time.Minute, true},
		"maintenance":              {post, answers{{Status: 503, Body: "<html>", Header: http.Header{"Retry-After": {o.now().Add(time.Minute).Format(http.TimeFormat)}}}}, business.Busy, "", time.Minute, true},
		"an error":                 {post, answers{{Status: 500, Body: "Oops, <secret>"}}, business.Unexpected, "", 0, false},
		"a redirect":               {post, answers{{Status: 302, Header: http.Header{"Location": {"https://elsewhere.example"}}}}, business.Unexpected, "", 0, false},
		"a session that is none":   {"GET /session", answers{{Status: 200, Body: `{"auth_session_token":""}`}}, business.Unexpected, "", 0, false},
		"a page for a session":     {"GET /session", answers{{Status: 200, Body: `<html>`}}, business.Unexpected, "", 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			o.apple.ForgetSessions()
			o.apple.Next(tt.call, tt.answers...)
			if tt.call == post { // in a session
				if _, err := o.Registered(ctx); err != nil {
					t.Fatal(err)
				}
			}
			_, err := o.Register(ctx)
			e := refusal(t, err)
			if e.Kind != tt.want || e.Code != tt.code || e.RetryAfter != tt.retry || e.Status != tt.answers[0].Status {
				t.Errorf("Register = %+v, want %s %s, in %v", e, tt.want, tt.code, tt.retry)
			}
			if e.Kind.Sentence() == "" || e.Kind.Next() == "" || strings.Contains(err.Error(), "secret") {
				t.Errorf("it says %v", err)
			}
			l := o.link(t)
			if (l.Trouble != nil) != tt.trouble || tt.trouble && (l.Trouble.Kind != tt.want || l.State(o.now()) != business.Troubled) {
				t.Errorf("the link's trouble is %+v, want some: %v", l.Trouble, tt.trouble)
			}
			if l, err = o.Check(ctx); err != nil || l.Trouble != nil {
				t.Errorf("Check, when it works again = %+v, %v", l.Trouble, err)
			}
		})
	}

	// A token that Apple does not take replaces none.
	stored := o.link(t).TokenStored
	o.pass(time.Hour)
	stale := o.apple.TokenFile(t, cert)
	o.apple.PlainToken()
	if _, err := o.StoreToken(ctx, stale); refusal(t, err).Kind != business.TokenRefused || !o.link(t).TokenStored.Equal(stored) {
		t.Errorf("StoreToken of an old token = %v", err)
	}
	// Apple's other objections lose nothing.
	o.apple.Next("GET /session", businesstest.Answer{Status: 403, Body: "T_C_NOT_SIGNED"})
	l, err := o.StoreToken(ctx, o.apple.TokenFile(t, cert))
	if err != nil || l.Trouble == nil || l.Trouble.Kind != business.TermsNotAccepted || !l.TokenStored.Equal(o.now()) || !l.Signs {
		t.Errorf("StoreToken before new terms = %+v, %v", l, err)
	}
}

func TestAppleOutOfReach(t *testing.T) {
	o := newOffice(t)
	o.connect(t)
	nowhere, err := url.Parse("http://127.0.0.1:1")
	if err != nil {
		t.Fatal(err)
	}
	s := o.replica(t, "https://mdm.example.com", nowhere)
	if _, err := s.Register(t.Context()); refusal(t, err).Kind != business.Unreachable {
		t.Errorf("Register = %v", err)
	}
	if l := o.link(t); l.Trouble == nil || l.Trouble.Kind != business.Unreachable {
		t.Errorf("the link's trouble is %+v", l.Trouble)
	}
	if _, err := o.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	// Who gives up says nothing of Apple.
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Register(gone); err == nil || o.link(t).Trouble != nil {
		t.Errorf("Register by nobody = %v, and the link's trouble is %+v", err, o.link(t).Trouble)
	}
}

func TestTheClientGoesNowhereInside(t *testing.T) {
	storagetest.AnyEngine(t)
	o := newOffice(t)
	o.connect(t)
	box, err := seal.New(bytes.Repeat([]byte{7}, 32))
	if err != nil {
		t.Fatal(err)
	}
	s, err := business.New(business.Config{
		DB: o.db, Box: box, ServerURL: &url.URL{Scheme: "https", Host: "mdm.example.com"}, Endpoint: o.apple.URL,
		Log: slog.New(slog.DiscardHandler), Now: o.now,
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Registered(t.Context()); refusal(t, err).Kind != business.Unreachable || !errors.Is(err, guard.ErrAddress) {
		t.Errorf("Registered = %v, want ErrAddress", err)
	}
}

func TestTheLinkIsLookedAfter(t *testing.T) {
	o := newOffice(t)
	look := func() (asked []string, said string) {
		t.Helper()
		o.logs.Reset()
		if err := business.Look(o.Service, t.Context()); err != nil {
			t.Fatal(err)
		}
		return o.apple.Requests(), o.logs.String()
	}
	expect := func(when string, asks bool, words string) {
		t.Helper()
		asked, said := look()
		if len(asked) > 0 != asks || words == "" && said != "" || !strings.Contains(said, words) {
			t.Errorf("%s Apple was asked %q, and the log says %q", when, asked, said)
		}
	}
	expect("without a token", false, "")
	cert := o.connect(t)
	expect("at once", false, "")
	o.pass(25 * time.Hour)
	expect("after a day", true, "")
	expect("an hour later", false, "")

	o.pass(25 * time.Hour)
	o.apple.Next("GET /account", businesstest.Answer{Status: 503})
	expect("where Apple is busy", true, "takes no requests")
	o.pass(time.Minute)
	expect("soon after that", true, "")
	if l := o.link(t); l.Trouble != nil {
		t.Errorf("the link's trouble is %+v", l.Trouble)
	}
	o.pass(340 * 24 * time.Hour)
	expect("in the last month", true, "a new one")
	o.pass(60 * 24 * time.Hour)
	expect("after its end", false, "a new one")
	if _, err := o.StoreToken(t.Context(), o.apple.TokenFile(t, cert)); err != nil {
		t.Fatal(err)
	}
	o.apple.Requests()
	expect("with a new token", false, "")
}

func TestTwoReplicasShareALink(t *testing.T) {
	o := newOffice(t)
	o.connect(t)
	other := o.replica(t, "https://mdm.example.com", o.apple.URL)
	if d, err := other.Register(t.Context()); err != nil || !d.Ours {
		t.Errorf("Register = %+v, %v", d, err)
	}
	if l := o.link(t); l.Discovery == nil || !l.Discovery.Ours {
		t.Errorf("the other's registration is not seen: %+v", l.Discovery)
	}
	if _, err := other.MAIDToken(t.Context()); err != nil {
		t.Error(err)
	}
	// Keys made at the same time are one.
	p := newOffice(t)
	replicas := []*business.Service{p.Service, p.replica(t, "https://mdm.example.com", p.apple.URL)}
	certs := make([]*x509.Certificate, len(replicas))
	var wg sync.WaitGroup
	for i, s := range replicas {
		wg.Go(func() {
			var err error
			if certs[i], _, err = s.MakeKey(t.Context(), false); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		return
	}
	if !certs[0].Equal(certs[1]) {
		t.Error("two replicas offer two certificates")
	}
}

func TestSecretsStayOutOfTheDatabaseAndTheLog(t *testing.T) {
	o := newOffice(t)
	cert := o.makeKey(t, false)
	plain := o.apple.PlainToken()
	if _, err := o.StoreToken(t.Context(), businesstest.File(t, cert, plain)); err != nil {
		t.Fatal(err)
	}
	if _, err := o.Register(t.Context()); err != nil {
		t.Fatal(err)
	}
	var token map[string]string
	if err := json.Unmarshal(plain, &token); err != nil {
		t.Fatal(err)
	}
	err := o.db.View(t.Context(), func(tx storage.Tx) error {
		buckets, err := tx.Buckets()
		if err != nil {
			return err
		}
		for _, bucket := range buckets {
			for item, err := range tx.Scan(bucket, storage.Range{}) {
				if err != nil {
					return err
				}
				for _, name := range []string{"consumer_secret", "access_token", "access_secret"} {
					if bytes.Contains(item.Value, []byte(token[name][:20])) {
						t.Errorf("%s is in bucket %s", name, bucket)
					}
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(o.logs.String(), token["access_token"]) {
		t.Error("the token is in the log")
	}
}
