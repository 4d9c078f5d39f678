package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/mdm/mdmtest"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest/freeport"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest/postgrestest"
)

// apiToken is the bootstrap token of servers that tests start.
const apiToken = "bootstrap-token-of-the-tests-0123456789"

// serverProcess is the built program as a process of its own, behind plain HTTP.
type serverProcess struct {
	url  string
	addr string
	args []string // of this server alone
	cmd  *exec.Cmd
	dir  string
	out  *lockedBuffer // what it printed since it was started
	http *http.Client
}

// buildBinary builds the program once for all tests of a run.
var buildBinary = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "gatehouse-test")
	if err != nil {
		return "", err
	}
	bin := filepath.Join(dir, "gatehouse")
	build := exec.Command("go", "build", "-trimpath", "-o", bin, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return bin, nil
})

// startProcess starts the program on dir, or on a fresh directory.
func startProcess(t testing.TB, dir string) *serverProcess {
	t.Helper()
	s := newProcess(t, dir)
	s.start(t)
	return s
}

// newProcess returns a server on dir, or on a fresh directory, that is not started yet.
func newProcess(t testing.TB, dir string, args ...string) *serverProcess {
	t.Helper()
	if dir == "" {
		dir = t.TempDir()
	}
	storeArgs(t, dir) // its database must outlive it
	addr := lastingAddress(t)
	s := &serverProcess{
		url: "http://" + addr, addr: addr, dir: dir, args: args,
		http: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 256, DisableCompression: true}, Timeout: time.Minute},
	}
	t.Cleanup(func() {
		if s.cmd != nil {
			s.http.CloseIdleConnections() // one that was never used holds a drain up
			_ = s.cmd.Process.Signal(os.Interrupt)
			_ = s.cmd.Wait()
		}
	})
	return s
}

// lastingAddress returns an address for a server that is stopped and started again, or that must
// be known before there is a server.
func lastingAddress(t testing.TB) string {
	t.Helper()
	port, err := freeport.Find()
	if err != nil {
		t.Fatal(err)
	}
	return freeport.Address(port)
}

// storesOfDirs has the database of each data directory, so that a server that starts
// again finds what it left.
var storesOfDirs sync.Map

// storeArgs returns the flags that keep the state of a server on dir where the
// environment says that tests keep it.
func storeArgs(t testing.TB, dir string) []string {
	t.Helper()
	if url, ok := storesOfDirs.Load(dir); ok {
		return []string{"--store", url.(string)}
	}
	switch engine := os.Getenv("GATEHOUSE_TEST_STORE"); engine {
	case "", "bolt":
		return nil
	case "postgres":
		url := postgrestest.DSN(t)
		storesOfDirs.Store(dir, url)
		return []string{"--store", url}
	default:
		t.Fatalf("GATEHOUSE_TEST_STORE is %q: no such engine", engine)
		return nil
	}
}

// start starts the program, again if it was killed, and waits until it is ready.
func (s *serverProcess) start(t testing.TB) {
	t.Helper()
	if ready := s.launch(t); !ready() {
		t.Fatalf("the server did not start:\n%s", s.out)
	}
}

// launch starts the program. What it returns waits until it is ready, or has ended.
func (s *serverProcess) launch(t testing.TB) (ready func() bool) {
	t.Helper()
	bin, err := buildBinary()
	if err != nil {
		t.Fatal(err)
	}
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte(apiToken), 0o600); err != nil {
		t.Fatal(err)
	}
	args := append([]string{"serve", "--data-dir", s.dir, "--listen", s.addr, "--server-url", s.url, "--tls-mode", "proxy",
		"--ca-key-bits", "2048", "--bootstrap-token-file", token, "--log-level", "warn"}, storeArgs(t, s.dir)...)
	s.cmd = exec.Command(bin, append(args, s.args...)...)
	stderr, err := s.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	out := newLockedBuffer()
	s.out = out
	go func() {
		defer out.end()
		lines := bufio.NewScanner(stderr)
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			out.write(lines.Text())
			if testing.Verbose() && !strings.HasPrefix(lines.Text(), "ready ") {
				fmt.Fprintln(os.Stderr, lines.Text())
			}
		}
	}()
	return func() bool { return out.await("\nready ", 1) }
}

// kill ends the server as a crash would.
func (s *serverProcess) kill(t testing.TB) {
	t.Helper()
	if err := s.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = s.cmd.Wait()
	s.http.CloseIdleConnections()
}

// quit ends the server as an operator would.
func (s *serverProcess) quit(t testing.TB) {
	t.Helper()
	if err := s.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := s.cmd.Wait(); err != nil {
		t.Errorf("the server that was told to end: %v\n%s", err, s.out)
	}
	s.http.CloseIdleConnections()
}

// api calls the REST API.
func (s *serverProcess) api(t testing.TB, method, path string, in, out any) {
	t.Helper()
	if err := s.call(method, path, in, out); err != nil {
		t.Fatal(err)
	}
}

// call calls the REST API. What goes in is JSON, or raw bytes.
func (s *serverProcess) call(method, path string, in, out any) error {
	body, raw := in.([]byte)
	if !raw {
		var err error
		if body, err = json.Marshal(in); err != nil {
			return err
		}
	}
	req, err := http.NewRequest(method, s.url+"/api/v1"+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+apiToken)
	if !raw {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := s.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	reply, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode >= 300 {
		return fmt.Errorf("%s %s: %s %s", method, path, resp.Status, reply)
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(reply, out)
}

// link makes an enrollment link and returns the URL of its profile.
func (s *serverProcess) link(t testing.TB, uses int) string {
	t.Helper()
	var l struct {
		ProfileURL string `json:"profile_url"`
	}
	s.api(t, "POST", "/enrollment-links", map[string]any{"name": "test", "login": "none", "uses": uses}, &l)
	return l.ProfileURL
}

var keyPool = sync.OnceValues(func() (*mdmtest.KeyPool, error) { return mdmtest.NewKeyPool(2048) })

// newDevices makes devices whose keys are cheap.
func (s *serverProcess) newDevices(t testing.TB, n int) []*mdmtest.Device {
	t.Helper()
	pool, err := keyPool()
	if err != nil {
		t.Fatal(err)
	}
	devices := make([]*mdmtest.Device, n)
	for i := range devices {
		devices[i], err = mdmtest.NewDevice(mdmtest.Options{Keys: pool, PlainHTTP: true, Transport: s.http.Transport})
		if err != nil {
			t.Fatal(err)
		}
	}
	return devices
}

// enrolled enrolls n devices.
func (s *serverProcess) enrolled(t testing.TB, n int) []*mdmtest.Device {
	t.Helper()
	url := s.link(t, n)
	devices := s.newDevices(t, n)
	inParallel(t, benchClients, n, func(i int) error { return devices[i].Enroll(context.Background(), url) })
	return devices
}

// inParallel calls fn for each of n from several clients.
func inParallel(t testing.TB, clients, n int, fn func(i int) error) {
	t.Helper()
	var next atomic.Int64
	var wg sync.WaitGroup
	failures := make(chan error, clients)
	for range clients {
		wg.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				if err := fn(i); err != nil {
					failures <- err
					return
				}
			}
		})
	}
	wg.Wait()
	select {
	case err := <-failures:
		t.Fatal(err)
	default:
	}
}

// idsByUDID returns the ids of all devices.
func (s *serverProcess) idsByUDID() (map[string]string, error) {
	ids := make(map[string]string)
	for cursor := ""; ; {
		var page struct {
			Items []struct {
				ID   string `json:"id"`
				UDID string `json:"udid"`
			} `json:"items"`
			NextCursor string `json:"next_cursor"`
		}
		if err := s.call("GET", "/devices?limit=1000&cursor="+cursor, nil, &page); err != nil {
			return nil, err
		}
		for _, d := range page.Items {
			ids[d.UDID] = d.ID
		}
		if cursor = page.NextCursor; cursor == "" {
			return ids, nil
		}
	}
}

// enqueue queues a ProfileList.
func (s *serverProcess) enqueue(uuid string, ids []string) error {
	plist := `<?xml version="1.0" encoding="UTF-8"?><plist version="1.0"><dict><key>Command</key><dict><key>RequestType</key>` +
		`<string>ProfileList</string></dict><key>CommandUUID</key><string>` + uuid + `</string></dict></plist>`
	for len(ids) > 0 { // as many ids as a URL holds
		n := min(len(ids), 500)
		if err := s.call("POST", "/commands/raw?device_ids="+strings.Join(ids[:n], ","), []byte(plist), nil); err != nil {
			return err
		}
		ids = ids[n:]
	}
	return nil
}
