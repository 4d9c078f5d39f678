package main

import (
	"bytes"
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/enroll/migrate"
	"github.com/gatehouse-mdm/gatehouse/mdm/mdmtest"
	"github.com/gatehouse-mdm/gatehouse/storage/bolt"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// microFile is the program that writes a database by MicroMDM's own code.
var microFile = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "gatehouse-test-micromdm")
	if err != nil {
		return "", err
	}
	bin := filepath.Join(dir, "micromdm")
	build := exec.Command("go", "build", "-C", filepath.Join("..", "..", "enroll", "migrate", "testdata", "micromdm"), "-mod=readonly", "-o", bin, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "GOWORK=off", "GOPROXY=off")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return bin, nil
})

// microMade is what stands in a database, as the program that made it says.
type microMade struct {
	CA, Push, Profile []byte
	Devices           map[string]struct{ Certificate, Key []byte }
}

// identity is what a device holds.
func (m microMade) identity(t *testing.T, id string) (*x509.Certificate, crypto.Signer) {
	t.Helper()
	pair, err := tls.X509KeyPair(m.Devices[id].Certificate, m.Devices[id].Key)
	must(t, err)
	cert, err := x509.ParseCertificate(pair.Certificate[0])
	must(t, err)
	return cert, pair.PrivateKey.(crypto.Signer)
}

// newMicroFile writes a database.
func newMicroFile(t testing.TB, fill map[string]any) (path string, made microMade) {
	t.Helper()
	bin, err := microFile()
	if err != nil {
		if t, ok := t.(*testing.T); ok {
			missing(t, fmt.Sprintf("MicroMDM's code can't be built (go -C enroll/migrate/testdata/micromdm mod download gets what it needs): %v", err))
		}
		t.Fatal(err)
	}
	in, err := json.Marshal(fill)
	if err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(t.TempDir(), "micromdm.db")
	cmd := exec.CommandContext(t.Context(), bin, path)
	var stderr bytes.Buffer
	cmd.Stdin, cmd.Stderr = bytes.NewReader(in), &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, stderr.String())
	}
	if err := json.Unmarshal(out, &made); err != nil {
		t.Fatal(err)
	}
	return path, made
}

// cli runs a command, and returns its exit code and what it printed.
func cli(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, problems bytes.Buffer
	p := &process{env: newEnvironment(nil), stdin: strings.NewReader(""), stdout: &out, stderr: &problems}
	code = p.run(t.Context(), args)
	return code, out.String(), problems.String()
}

// relocation is the way of devices to their server: at first one that takes whatever they say, in
// the place of MicroMDM, and then ours under the same name.
type relocation struct {
	here  atomic.Bool
	there http.RoundTripper
}

func (m *relocation) RoundTrip(r *http.Request) (*http.Response, error) {
	if m.here.Load() {
		return m.there.RoundTrip(r)
	}
	if r.Body != nil {
		_, _ = io.Copy(io.Discard, r.Body)
		r.Body.Close()
	}
	return &http.Response{StatusCode: http.StatusOK, Status: "200 OK", ProtoMajor: 1, ProtoMinor: 1, Header: http.Header{}, Body: http.NoBody, Request: r}, nil
}

const movedTopic = "com.apple.mgmt.External.moved"

func TestDevicesOfMicroMDMGoOnHere(t *testing.T) {
	ctx := context.Background()
	s := start(t, filepath.Join(t.TempDir(), "data"))
	wifi := []byte(`<?xml version="1.0" encoding="UTF-8"?><plist version="1.0"><dict><key>PayloadType</key><string>Configuration</string><key>PayloadVersion</key><integer>1</integer>` +
		`<key>PayloadIdentifier</key><string>com.example.wifi</string><key>PayloadUUID</key><string>6E1C9D6A-5D4E-4B8E-8F2B-0C1D2E3F4A5B</string><key>PayloadDisplayName</key><string>Wi-Fi</string>` +
		`<key>PayloadContent</key><array/></dict></plist>`)
	at := time.Now().Add(-time.Hour).UTC().Truncate(time.Second)
	path, made := newMicroFile(t, map[string]any{
		"Topic": movedTopic, "ServerURL": s.url, "Profiles": map[string][]byte{"com.example.wifi": wifi}, "Blueprints": 2,
		"Devices": []map[string]any{
			{"UDID": "AAAA-0001", "Serial": "C02MOVED1", "Name": "Ana's Mac", "User": "U-501", "UnlockToken": []byte("unlock"), "Bootstrap": []byte("boot"), "LastSeen": at},
			{"UDID": "BBBB-0002", "Serial": "C02MOVED2", "Name": "Blocked", "Block": true},
			{"UDID": "CCCC-0003", "Serial": "C02MOVED3", "Name": "Gone", "NotEnrolled": true},
			{"UDID": "", "Serial": "C02MOVED4", "Name": "Of DEP"},
			{"UDID": "DDDD-0004", "Serial": "C02MOVED5", "Name": "Unpinned", "NoHash": true},
			{"UDID": "EEEE-0005", "Serial": "C02MOVED6", "Name": "Dumb", "NoPush": true},
			{"UDID": "FFFF-0006", "Serial": "C02MOVED7", "Name": "Deleted", "Deleted": true},
			{"EnrollmentID": "E-0007", "Name": "Personal"},
		},
	})
	before, err := os.ReadFile(path)
	must(t, err)

	// Three devices as they are at MicroMDM: enrolled by its profile, and with what it issued.
	way := &relocation{there: s.client.Transport}
	device := func(udid, id string, o mdmtest.Options) *mdmtest.Device {
		o.UDID, o.Transport, o.Keys = udid, way, nil
		d, err := mdmtest.NewDevice(o)
		must(t, err)
		t.Cleanup(d.Close)
		must(t, d.Install(made.Profile))
		d.SetIdentity(made.identity(t, id))
		must(t, d.Resume(ctx))
		return d
	}
	mac := device("AAAA-0001", "AAAA-0001", mdmtest.Options{Model: mdmtest.Mac, User: &mdmtest.User{ID: "U-501", ShortName: "short"}})
	blocked := device("BBBB-0002", "BBBB-0002", mdmtest.Options{})
	unpinned := device("DDDD-0004", "DDDD-0004", mdmtest.Options{})
	thief := device("DDDD-0004", "AAAA-0001", mdmtest.Options{}) // has another's certificate

	report := func(args ...string) (r importReport) {
		t.Helper()
		code, out, problems := cli(t, append([]string{"import", "micromdm", path, "--data-dir", s.dir, "--server-url", s.url, "--json"}, args...)...)
		if code != exitUsage { // there is a warning: of the one that can't be pushed
			t.Fatalf("import ends with %d: %s%s", code, problems, out)
		}
		must(t, json.Unmarshal([]byte(out), &r))
		return r
	}
	if r := report("--dry-run"); r.Devices["taken"] != 4 || r.Authority.Outcome != "imported" || r.Push.Outcome != "imported" {
		t.Errorf("a dry run says %+v", r)
	}
	var list struct{ Items []any }
	s.call(t, "GET", "/api/v1/devices", nil, &list)
	if len(list.Items) != 0 {
		t.Errorf("a dry run has left %d devices", len(list.Items))
	}
	first := report()
	if first.Devices["taken"] != 4 || first.Devices["skipped"] != 4 || first.Blueprints != 2 || len(first.Profiles) != 1 || first.Profiles[0].Outcome != "imported" || first.Push.Outcome != "imported" {
		t.Errorf("the import says %+v", first)
	}
	for code, n := range map[string]int{"not_enrolled": 1, "never_enrolled": 1, "no_push": 1, "deleted": 1} {
		if first.SkippedBy[code] != n {
			t.Errorf("%d devices are skipped as %s, want %d", first.SkippedBy[code], code, n)
		}
	}
	if again := report(); again.Devices["updated"] != 4 || again.Devices["taken"] != 0 || again.Profiles[0].Outcome != "unchanged" || again.Push.Outcome != "unchanged" || again.Authority.Outcome != "unchanged" {
		t.Errorf("the second import says %+v", again)
	}
	if after, err := os.ReadFile(path); err != nil || !bytes.Equal(after, before) {
		t.Errorf("MicroMDM's file was changed, or can't be read: %v", err)
	}

	// Its name leads here now.
	way.here.Store(true)
	if _, err := thief.Poll(ctx); err == nil {
		t.Error("a device is heard that has another's certificate")
	}
	for _, d := range []*mdmtest.Device{mac, unpinned} {
		if _, err := d.Poll(ctx); err != nil {
			t.Errorf("%s polls: %v", d.ID(), err)
		}
	}
	if _, err := blocked.Poll(ctx); !errors.Is(err, mdmtest.ErrRemoved) {
		t.Errorf("a device that was blocked at MicroMDM polls: %v, want it to be told to leave", err)
	}

	// A device is moved to our own authority, and is the same device.
	was := mac.Profile()
	id := s.deviceOf(t, "AAAA-0001")
	s.call(t, "POST", "/api/v1/devices/"+id+"/renew-identity", struct{}{}, new(any))
	if _, err := mac.Poll(ctx); err != nil {
		t.Fatalf("the Mac polls: %v", err)
	}
	cert, _ := mac.Identity()
	if !strings.Contains(cert.Issuer.CommonName, "Gatehouse Identity CA") {
		t.Errorf("after its renewal the Mac's certificate is from %s", cert.Issuer)
	}
	if now := mac.Profile(); now.Identifier != was.Identifier || now.Identifier != migrate.MicroEnrollment {
		t.Errorf("its profile is %s, and was %s", now.Identifier, was.Identifier)
	}
	if _, err := mac.Poll(ctx); err != nil {
		t.Errorf("it polls by its new certificate: %v", err)
	}
	if r := report(); r.Devices["unchanged"] != 3 {
		t.Errorf("an import when devices have come says %+v", r.Devices)
	}
	s.call(t, "POST", "/api/v1/devices/"+id+"/block", struct{}{}, new(any))
	if _, err := mac.Poll(ctx); !errors.Is(err, mdmtest.ErrRemoved) {
		t.Errorf("blocked, it polls: %v, want it to be told to leave", err)
	}
}

// deviceOf returns the id of the device with a UDID.
func (s *running) deviceOf(t *testing.T, udid string) string {
	t.Helper()
	var list struct {
		Items []struct {
			ID, UDID string
			ParentID string `json:"parent_id"`
		}
	}
	s.call(t, "GET", "/api/v1/devices?q="+udid, nil, &list)
	for _, d := range list.Items {
		if d.UDID == udid && d.ParentID == "" {
			return d.ID
		}
	}
	t.Fatalf("there is no device %s", udid)
	return ""
}

func TestWhatIsNoDatabaseOfMicroMDM(t *testing.T) {
	storagetest.AnyEngine(t)
	s := start(t, filepath.Join(t.TempDir(), "data"))
	path, _ := newMicroFile(t, map[string]any{"Topic": movedTopic, "ServerURL": s.url, "Many": 2000})
	whole, err := os.ReadFile(path)
	must(t, err)
	ours, err := os.ReadFile(filepath.Join(s.dir, databaseName))
	must(t, err)
	for name, tt := range map[string]struct {
		data []byte
		code int
		says string
	}{
		"no file":            {nil, exitNotFound, "gatehouse import micromdm"},
		"an empty file":      {[]byte{}, exitUsage, "no whole database"},
		"text":               {[]byte("mdm.Devices"), exitUsage, "no whole database"},
		"the start of one":   {whole[:64<<10], exitUsage, "no whole database"},
		"another's database": {ours, exitUsage, "no database of MicroMDM"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "file")
			if tt.data != nil {
				must(t, os.WriteFile(path, tt.data, 0o600))
			}
			code, _, problems := cli(t, "import", "micromdm", path, "--data-dir", s.dir)
			if code != tt.code || !strings.Contains(problems, tt.says) {
				t.Errorf("it ends with %d: %s, want %d and %q", code, problems, tt.code, tt.says)
			}
		})
	}
}

// TestAFileOfManyDevicesIsReadInLittleMemory is about the reader alone.
func TestAFileOfManyDevicesIsReadInLittleMemory(t *testing.T) {
	storagetest.AnyEngine(t)
	path, _ := newMicroFile(t, map[string]any{"Topic": movedTopic, "ServerURL": "https://mdm.example.com", "Many": 20_000})
	f, err := bolt.OpenForeign(t.Context(), path)
	must(t, err)
	defer f.Close()
	m, err := migrate.OpenMicroMDM(f)
	must(t, err)
	n, before := 0, heapInUse()
	for d, err := range m.Devices() {
		must(t, err)
		if d.Err != nil || len(d.Certificate) != 64 || len(d.UnlockToken) != 1024 || d.Push.Topic != movedTopic {
			t.Fatalf("device %d = %+v", n, d)
		}
		if n++; n%5_000 == 0 {
			if used := heapInUse(); used > before+32<<20 {
				t.Fatalf("after %d devices %d MiB more are in use", n, (used-before)>>20)
			}
		}
	}
	if n != 20_000 {
		t.Errorf("%d devices, want 20,000", n)
	}
}

func heapInUse() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapInuse
}
