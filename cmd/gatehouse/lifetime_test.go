package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/mdm/mdmtest"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

func TestHangupEndsNoServer(t *testing.T) {
	storagetest.AnyEngine(t)
	for name, tt := range map[string]struct{ mode, says string }{
		"own authority":  {"own-ca", "TLS certificate loaded"},
		"behind a proxy": {"proxy", "no TLS certificate to load again"},
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t, t.TempDir(), "--tls-mode", tt.mode)
			if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil {
				t.Fatal(err)
			}
			if !s.out.await(tt.says, 1) {
				t.Fatalf("the server ended without a word of %q:\n%s", tt.says, s.out)
			}
			if got := s.get(t, "/readyz"); got.StatusCode != 200 {
				t.Errorf("/readyz after SIGHUP = %d", got.StatusCode)
			}
		})
	}
}

func TestSetupTokenIsInAFileUntilItIsUsed(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, setupTokenName)
	read := func() string {
		t.Helper()
		info, err := os.Stat(file)
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Fatalf("%s: %v, %v; want mode 600", file, info, err)
		}
		token, err := readSecret(file)
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	s := start(t, dir)
	first := read()
	if first != s.setupToken(t) {
		t.Errorf("the file has %q, the output another token", first)
	}
	var out bytes.Buffer
	if code := run(context.Background(), []string{"setup-link", "--data-dir", dir}, nil, nil, &out, io.Discard); code != exitDone {
		t.Fatal(code)
	}
	second := read()
	if second == first || !strings.HasSuffix(strings.TrimSpace(out.String()), "#t="+second) {
		t.Errorf("the file has %q, setup-link printed %s", second, &out)
	}
	if got := s.send(t, s.client, "POST", "/setup", url.Values{"token": {first}}); got.StatusCode != 404 || !strings.Contains(got.body, `role="alert"`) {
		t.Errorf("the token that was replaced = %d", got.StatusCode)
	}
	read() // still there
	if got := s.send(t, s.client, "POST", "/setup", url.Values{"token": {second}}); got.StatusCode != 303 {
		t.Fatalf("the token from the file = %d", got.StatusCode)
	}
	if entries, err := filepath.Glob(file + "*"); err != nil || len(entries) > 0 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
	// A stale one, of a server that was killed in between, goes at the next start.
	s.end(t)
	if err := os.WriteFile(file, []byte(second+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	start(t, dir)
	if _, err := os.Stat(file); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the stale file: %v", err)
	}
}

func TestWaitingRequestsEndWithTheServer(t *testing.T) {
	s := start(t, t.TempDir())
	device, err := mdmtest.NewDevice(mdmtest.Options{Transport: s.client.Transport})
	if err != nil {
		t.Fatal(err)
	}
	if err := device.Enroll(t.Context(), s.newLink(t)+"/profile"); err != nil {
		t.Fatal(err)
	}
	var devices struct {
		Items []struct{ ID string }
	}
	s.call(t, "GET", "/api/v1/devices", nil, &devices)
	type answer struct {
		state string
		err   error
	}
	answered := make(chan answer, 1)
	began := time.Now()
	go func() {
		var out struct {
			Devices []struct{ State string }
		}
		err := s.ask("POST", "/api/v1/commands?wait=30s", map[string]any{"request_type": "DeviceInformation", "device_ids": []string{devices.Items[0].ID}}, &out)
		if err != nil {
			answered <- answer{err: err}
			return
		}
		answered <- answer{state: out.Devices[0].State}
	}()
	if !s.out.await("command queued", 1) { // from then on it waits
		t.Fatal("the server ended")
	}
	if code := s.end(t); code != exitDone {
		t.Errorf("exit code %d, want 0:\n%s", code, s.out)
	}
	if took := time.Since(began); took > 25*time.Second {
		t.Errorf("the server took %v to end, want less than the 30 s of the wait", took)
	}
	if got := <-answered; got.err != nil || got.state != "queued" {
		t.Errorf("the request that waited = %+v, want its state so far", got)
	}
}

func TestSlowClientsAreCutOffWhileOthersAreServed(t *testing.T) {
	storagetest.AnyEngine(t)
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cert := t.TempDir()
	writeKeyPair(t, filepath.Join(cert, "cert"), filepath.Join(cert, "key"))
	pair, err := tls.LoadX509KeyPair(filepath.Join(cert, "cert"), filepath.Join(cert, "key"))
	if err != nil {
		t.Fatal(err)
	}
	const soon = 2 * time.Second // enough for a handshake on a busy machine
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			http.Error(w, "slow", http.StatusRequestTimeout)
		}
	})
	srv := newHTTPServer(handler, limits{header: soon, body: 2 * soon, answer: 10 * soon, idle: soon}, slog.New(slog.DiscardHandler))
	ended := make(chan error, 1)
	go func() {
		ended <- srv.Serve(tls.NewListener(listener, &tls.Config{Certificates: []tls.Certificate{pair}}))
	}()
	t.Cleanup(func() { // after the parallel subtests
		srv.Close()
		<-ended
	})

	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}, Timeout: time.Minute}
	for name, slow := range map[string]func(t *testing.T) net.Conn{
		"no handshake": func(t *testing.T) net.Conn { return dial(t, listener.Addr(), false, "") },
		"half a header": func(t *testing.T) net.Conn {
			return dial(t, listener.Addr(), true, "GET / HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")
		},
		"half a body": func(t *testing.T) net.Conn {
			return dial(t, listener.Addr(), true, "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nhalf")
		},
		"nothing after a request": func(t *testing.T) net.Conn {
			return dial(t, listener.Addr(), true, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var conns []net.Conn
			for range 25 {
				conns = append(conns, slow(t))
			}
			began := time.Now()
			resp, err := client.Get(fmt.Sprintf("https://%s/", listener.Addr()))
			if err != nil {
				t.Fatalf("somebody else is not served: %v", err)
			}
			resp.Body.Close()
			for _, conn := range conns {
				if err := conn.SetReadDeadline(began.Add(30 * soon)); err != nil {
					t.Fatal(err)
				}
				if _, err := io.Copy(io.Discard, conn); errors.Is(err, os.ErrDeadlineExceeded) {
					t.Fatalf("still open after %v", time.Since(began))
				}
			}
		})
	}
}

// dial opens a connection and says no more on it than text.
func dial(t *testing.T, addr net.Addr, secure bool, text string) net.Conn {
	t.Helper()
	conn, err := net.Dial(addr.Network(), addr.String())
	if err == nil && secure {
		client := tls.Client(conn, &tls.Config{InsecureSkipVerify: true})
		conn, err = client, client.Handshake()
	}
	if err == nil {
		_, err = io.WriteString(conn, text)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// simulate runs gatehouse simulate, and interrupts it once a device has enrolled, or n were refused.
func simulate(t *testing.T, n int, args ...string) ran {
	t.Helper()
	ctx, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	var out, errs bytes.Buffer
	enrolled := writerFunc(func(p []byte) (int, error) {
		if !bytes.HasPrefix(p, []byte("0 of ")) {
			interrupt()
		}
		return out.Write(p)
	})
	refused := writerFunc(func(p []byte) (int, error) { // a line at a time
		defer func() {
			if strings.Count(errs.String(), "could not enroll") == n {
				interrupt()
			}
		}()
		return errs.Write(p)
	})
	code := run(ctx, append([]string{"simulate", "-n", strconv.Itoa(n)}, args...), nil, nil, enrolled, refused)
	return ran{code, out.String(), errs.String()}
}

func TestSimulateSaysOnceWhatIsWrong(t *testing.T) {
	storagetest.AnyEngine(t)
	t.Parallel()
	s := start(t, t.TempDir())
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, []byte(s.get(t, "/ca.pem").body), 0o600); err != nil {
		t.Fatal(err)
	}
	link := s.newLink(t)
	const password = "a password that is long enough"
	secret, wrong := filepath.Join(t.TempDir(), "password"), filepath.Join(t.TempDir(), "wrong")
	for file, text := range map[string]string{secret: password + "\n", wrong: "another password than that"} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s.call(t, "POST", "/api/v1/users", map[string]any{"email": "ana@example.com", "password": password, "managed_apple_account": "ana@example.com"}, new(any))
	s.call(t, "PUT", "/api/v1/account-driven", map[string]any{
		"domains": []any{map[string]any{"domain": "example.com", "policy": map[string]string{"iPhone": "byod"}}}, "method": "apple-as-web",
	}, new(any))
	account := func(address, file string, args ...string) []string {
		return append([]string{"--account", address, "--password-file", file, "--discovery-url", s.url}, args...)
	}
	for name, tt := range map[string]struct {
		args []string
		code int
		want string
	}{
		"an authority unknown here, by account": {account("ana@example.com", secret), exitFailed, "is not trusted here; save " + s.url + "/ca.pem"},
		"a domain unknown there":                {account("ana@example.org", secret, "--ca", ca), exitFailed, "can’t be used"},
		"an authority unknown here":             {[]string{"--url", link}, exitFailed, "is not trusted here; save " + s.url + "/ca.pem"},
		"a link unknown there":                  {[]string{"--url", s.url + "/enroll/l/nosuchcode", "--ca", ca}, exitFailed, "No enrollment link has this code"},
		"nothing":                               {[]string{"--url", link, "--ca", ca}, exitDone, ""},
	} {
		t.Run(name, func(t *testing.T) {
			r := simulate(t, 1, tt.args...)
			if r.code != tt.code || !strings.Contains(r.stderr, tt.want) || strings.Count(r.stderr, "\n") > 1 {
				t.Errorf("exit code %d, want %d and one line with %q:\n%s", r.code, tt.code, tt.want, r.stderr)
			}
		})
	}
	t.Run("a wrong password is typed once", func(t *testing.T) {
		for _, try := range []struct {
			password string
			n, code  int
		}{{wrong, 8, exitFailed}, {secret, 1, exitDone}} { // the account is not locked
			r := simulate(t, try.n, account("ana@example.com", try.password, "--ca", ca)...)
			if r.code != try.code {
				t.Errorf("exit code %d, want %d:\n%s", r.code, try.code, r.stderr)
			}
		}
	})
}

func TestAPortThatIsTakenLeavesNothingBehind(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	dir := filepath.Join(t.TempDir(), "data")
	var errs bytes.Buffer
	code := run(t.Context(), []string{"serve", "--data-dir", dir, "--listen", taken.Addr().String()}, nil, nil, io.Discard, &errs)
	if code != exitFailed || !strings.Contains(errs.String(), "choose another with --listen") {
		t.Errorf("exit code %d, want 1: %s", code, &errs)
	}
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the data directory was made: %v", err)
	}
}
