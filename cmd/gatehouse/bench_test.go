package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/micromdm/nanomdm/cryptoutil"
	nano "github.com/micromdm/nanomdm/mdm"

	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/mdmtest"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/bolt"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest/postgrestest"
)

// These benchmarks drive the built program as a process of its own, over real
// HTTP with signatures made beforehand, and read its CPU time from the system: on
// a machine that the generator shares, CPU seconds per 1,000 requests is the
// steadiest figure. DESIGN section 5 has the limits.

const (
	benchDevices = 1000
	benchClients = 8
)

// measured is inParallel with the server's figures around it.
func measured(b *testing.B, pid, clients, n int, fn func(i int) error) {
	b.Helper()
	b.ResetTimer()
	start, cpu := time.Now(), processCPU(b, pid)
	inParallel(b, clients, n, fn)
	elapsed, used := time.Since(start), processCPU(b, pid)-cpu
	b.StopTimer()
	b.ReportMetric(used.Seconds()/float64(n)*1000, "cpu-s/1k")
	b.ReportMetric(float64(n)/elapsed.Seconds(), "req/s")
	b.ReportMetric(0, "ns/op")
}

// benchStore is the data directory of a server to be measured, and its database.
type benchStore struct {
	dir      string
	postgres *postgrestest.Server // nil: bolt, in dir
}

// onEngines runs fn with an empty database of each engine, one beside the other.
func onEngines(b *testing.B, fn func(b *testing.B, on benchStore)) {
	b.Run("bolt", func(b *testing.B) { fn(b, benchStore{dir: b.TempDir()}) })
	b.Run("postgres", func(b *testing.B) {
		on := benchStore{dir: b.TempDir(), postgres: postgrestest.StartDurable(b)}
		storesOfDirs.Store(on.dir, on.postgres.DSN())
		fn(b, on)
	})
}

// measured is measured with the database's CPU time, where that is another process's.
func (on benchStore) measured(b *testing.B, pid, clients, n int, fn func(i int) error) {
	b.Helper()
	if on.postgres == nil {
		measured(b, pid, clients, n, fn)
		return
	}
	measuredOnPostgreSQL(b, pid, on.postgres, clients, n, fn)
}

// processCPU returns the CPU time that the process has used.
func processCPU(b *testing.B, pid int) time.Duration {
	b.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		b.Skip("needs /proc")
	}
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	var ticks int64
	for _, f := range fields[11:13] { // utime, stime
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			b.Fatal(err)
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond // USER_HZ is 100 on every Linux
}

// processMemory returns a line of /proc/PID/status in MB.
func processMemory(b *testing.B, pid int, line string) float64 {
	b.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		b.Skip("needs /proc")
	}
	for l := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(l, line); ok {
			kb, err := strconv.Atoi(strings.Fields(rest)[0])
			if err != nil {
				b.Fatal(err)
			}
			return float64(kb) / 1024
		}
	}
	return 0
}

// send sends a request that was signed beforehand, and returns the reply's size.
func send(client *http.Client, p mdmtest.Prepared) (int64, error) {
	req, err := p.Request(context.Background())
	if err != nil {
		return 0, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	n, err := io.Copy(io.Discard, resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("status %s", resp.Status)
	}
	return n, err
}

func prepareIdles(b *testing.B, devices []*mdmtest.Device) []mdmtest.Prepared {
	b.Helper()
	idles := make([]mdmtest.Prepared, len(devices))
	inParallel(b, benchClients, len(devices), func(i int) (err error) {
		idles[i], err = devices[i].Channel().Prepare(mdmtest.Result{Status: mdmtest.StatusIdle})
		return err
	})
	return idles
}

// BenchmarkIdleCheckIn polls with nothing to do, beside the floor: a server that
// does nothing but verify signature and chain and decode the message.
func BenchmarkIdleCheckIn(b *testing.B) {
	onEngines(b, func(b *testing.B, on benchStore) {
		s := startProcess(b, on.dir)
		devices := s.enrolled(b, benchDevices)
		idles := prepareIdles(b, devices)
		for _, clients := range []int{8, 64} {
			b.Run(fmt.Sprintf("gatehouse/clients=%d", clients), func(b *testing.B) {
				on.measured(b, s.cmd.Process.Pid, clients, max(b.N, 5000), func(i int) error {
					_, err := send(s.http, idles[i%len(idles)])
					return err
				})
			})
		}
		floor := startFloor(b, s.url+"/ca/identity.pem")
		for _, clients := range []int{8, 64} {
			b.Run(fmt.Sprintf("floor/clients=%d", clients), func(b *testing.B) {
				measured(b, floor.cmd.Process.Pid, clients, max(b.N, 5000), func(i int) error {
					p := idles[i%len(idles)]
					p.URL = floor.url
					_, err := send(floor.http, p)
					return err
				})
			})
		}
	})
}

// BenchmarkIdleCheckInByAccount is BenchmarkIdleCheckIn for phones whose users have signed in
// on them: each poll shows an access token, too.
func BenchmarkIdleCheckInByAccount(b *testing.B) {
	const phones = 100
	onEngines(b, func(b *testing.B, on benchStore) {
		s := startProcess(b, on.dir)
		s.api(b, "POST", "/users", map[string]any{"email": "ana@example.com", "password": anaPassword, "managed_apple_account": "ana@example.com"}, nil)
		s.api(b, "PUT", "/account-driven", map[string]any{
			"domains": []map[string]any{{"domain": "example.com", "policy": map[string]any{"iPhone": "byod"}}},
		}, nil)
		person := &mdmtest.Browser{Login: "ana@example.com", Password: anaPassword, KeepCookies: true}
		pool, err := keyPool()
		if err != nil {
			b.Fatal(err)
		}
		devices := make([]*mdmtest.Device, phones)
		for i := range devices {
			d, err := mdmtest.NewDevice(mdmtest.Options{
				UserEnrollment: true, PlainHTTP: true, Keys: pool, Transport: s.http.Transport,
				Account: &mdmtest.Account{Identifier: "ana@example.com", Person: person, Reach: func(string) string { return s.url }},
			})
			if err == nil {
				err = d.EnrollAccount(b.Context())
			}
			if err != nil {
				b.Fatal(err)
			}
			devices[i] = d
		}
		idles := prepareIdles(b, devices)
		on.measured(b, s.cmd.Process.Pid, benchClients, max(b.N, 5000), func(i int) error {
			_, err := send(s.http, idles[i%len(idles)])
			return err
		})
	})
}

// BenchmarkIdleCheckInAmongMany is the same beside many other devices. The memory
// includes the pages of the database that the system has mapped for the process.
func BenchmarkIdleCheckInAmongMany(b *testing.B) {
	for _, others := range []int{10_000, 100_000} {
		b.Run(fmt.Sprintf("others=%d", others), func(b *testing.B) {
			dir := b.TempDir()
			seedDevices(b, dir, others)
			start := time.Now()
			s := startProcess(b, dir)
			ready := time.Since(start)
			devices := s.enrolled(b, benchDevices)
			idles := prepareIdles(b, devices)
			measured(b, s.cmd.Process.Pid, benchClients, max(b.N, 5000), func(i int) error {
				_, err := send(s.http, idles[i%len(idles)])
				return err
			})
			b.ReportMetric(float64(ready.Milliseconds()), "start-ms")
			b.ReportMetric(processMemory(b, s.cmd.Process.Pid, "VmRSS:"), "rss-MB")
			b.ReportMetric(processMemory(b, s.cmd.Process.Pid, "RssAnon:"), "anon-MB")
		})
	}
}

const benchRounds = 5

// acknowledgements queues a command of each round for all devices, delivers the first, and
// returns the answers that are to be sent, each of which brings the next. It is the same
// load for every server that is compared.
func acknowledgements(b *testing.B, client *http.Client, clients int, devices []*mdmtest.Device, enqueue func(uuid string) error) []mdmtest.Prepared {
	b.Helper()
	idles := prepareIdles(b, devices)
	acks := make([]mdmtest.Prepared, benchRounds*len(devices))
	for r := range benchRounds {
		uuid := benchCommand(r)
		if err := enqueue(uuid); err != nil {
			b.Fatal(err)
		}
		inParallel(b, benchClients, len(devices), func(i int) (err error) {
			acks[r*len(devices)+i], err = devices[i].Channel().Prepare(mdmtest.Result{
				Status: mdmtest.StatusAcknowledged, CommandUUID: uuid,
				Keys: mdmtest.Dict{"ProfileList": []any{mdmtest.Dict{"PayloadIdentifier": "com.example", "PayloadVersion": int64(1)}}},
			})
			return err
		})
	}
	inParallel(b, clients, len(devices), func(i int) error {
		n, err := send(client, idles[i])
		if err == nil && n == 0 {
			err = fmt.Errorf("device %d got no command", i)
		}
		return err
	})
	return acks
}

func benchCommand(round int) string { return fmt.Sprintf("BENCH-%d", round) }

// BenchmarkCommandAndAcknowledgement delivers commands and takes their answers:
// what is counted is pairs.
func BenchmarkCommandAndAcknowledgement(b *testing.B) {
	for _, clients := range []int{8, 64} {
		b.Run(fmt.Sprintf("clients=%d", clients), func(b *testing.B) {
			onEngines(b, func(b *testing.B, on benchStore) {
				s := startProcess(b, on.dir)
				devices := s.enrolled(b, benchDevices)
				byUDID, err := s.idsByUDID()
				if err != nil {
					b.Fatal(err)
				}
				ids := slices.Collect(maps.Values(byUDID))
				acks := acknowledgements(b, s.http, clients, devices, func(uuid string) error { return s.enqueue(uuid, ids) })
				on.measured(b, s.cmd.Process.Pid, clients, len(acks), func(i int) error {
					_, err := send(s.http, acks[i])
					return err
				})
				for r := range benchRounds {
					s.assertAcknowledged(b, benchCommand(r), len(devices))
				}
			})
		})
	}
}

func (s *serverProcess) assertAcknowledged(b *testing.B, uuid string, want int) {
	b.Helper()
	var c struct {
		Devices []struct {
			State string `json:"state"`
		} `json:"devices"`
	}
	s.api(b, "GET", "/commands/"+uuid, nil, &c)
	n := 0
	for _, d := range c.Devices {
		if d.State == "acknowledged" {
			n++
		}
	}
	if n != want {
		b.Errorf("command %s is acknowledged by %d devices, want %d", uuid, n, want)
	}
}

// BenchmarkEnrollment is SCEP, Authenticate and TokenUpdate; the profile was
// downloaded beforehand.
func BenchmarkEnrollment(b *testing.B) {
	onEngines(b, func(b *testing.B, on benchStore) {
		s := startProcess(b, on.dir)
		n := max(b.N, 300)
		url := s.link(b, n)
		devices := s.newDevices(b, n)
		inParallel(b, benchClients, n, func(i int) error {
			profile, err := devices[i].Download(context.Background(), url)
			if err != nil {
				return err
			}
			return devices[i].Install(profile)
		})
		on.measured(b, s.cmd.Process.Pid, benchClients, n, func(i int) error {
			ctx := context.Background()
			if err := devices[i].RequestIdentity(ctx); err != nil {
				return err
			}
			if err := devices[i].Authenticate(ctx); err != nil {
				return err
			}
			return devices[i].TokenUpdate(ctx)
		})
	})
}

// BenchmarkRSAOfAnEnrollment is what an enrollment costs at least: the server's RSA
// operations for one SCEP request, Authenticate and TokenUpdate, and nothing else.
func BenchmarkRSAOfAnEnrollment(b *testing.B) {
	pool, err := keyPool()
	if err != nil {
		b.Fatal(err)
	}
	device, err := pool.Key()
	if err != nil {
		b.Fatal(err)
	}
	authority, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		b.Fatal(err)
	}
	digest := sha256.Sum256(nil)
	signature, err := rsa.SignPKCS1v15(nil, device, crypto.SHA256, digest[:])
	if err != nil {
		b.Fatal(err)
	}
	//lint:ignore SA1019 as SCEP's clients do
	sealed, err := rsa.EncryptPKCS1v15(rand.Reader, &authority.PublicKey, make([]byte, 16))
	if err != nil {
		b.Fatal(err)
	}
	measured(b, os.Getpid(), 1, max(b.N, 300), func(int) error {
		for range 4 { // pkiMessage, CSR, two check-ins
			if err := rsa.VerifyPKCS1v15(&device.PublicKey, crypto.SHA256, digest[:], signature); err != nil {
				return err
			}
		}
		//lint:ignore SA1019 as SCEP's clients do
		if err := rsa.DecryptPKCS1v15SessionKey(rand.Reader, authority, sealed, make([]byte, 16)); err != nil {
			return err
		}
		for range 2 { // the certificate and the reply
			if _, err := rsa.SignPKCS1v15(nil, authority, crypto.SHA256, digest[:]); err != nil {
				return err
			}
		}
		return nil
	})
}

// BenchmarkSCEPIssuance is GetCACert, GetCACaps and PKIOperation.
func BenchmarkSCEPIssuance(b *testing.B) {
	s := startProcess(b, "")
	n := max(b.N, 300)
	url := s.link(b, n)
	devices := s.newDevices(b, n)
	inParallel(b, benchClients, n, func(i int) error {
		profile, err := devices[i].Download(context.Background(), url)
		if err != nil {
			return err
		}
		return devices[i].Install(profile)
	})
	measured(b, s.cmd.Process.Pid, benchClients, n, func(i int) error { return devices[i].RequestIdentity(context.Background()) })
}

// BenchmarkEnqueueTo10000Devices is one POST of a command to that many devices.
func BenchmarkEnqueueTo10000Devices(b *testing.B) {
	onEngines(b, func(b *testing.B, on benchStore) {
		ids := seedDevices(b, on.dir, 10_000)
		s := startProcess(b, on.dir)
		for b.Loop() {
			s.api(b, "POST", "/commands", map[string]any{"request_type": "ProfileList", "device_ids": ids}, nil)
		}
	})
}

// seedDevices writes n enrolled devices into an empty data directory, as enrolling
// them would have left them but for their certificates.
func seedDevices(b testing.TB, dir string, n int) []string {
	b.Helper()
	ctx := context.Background()
	store := storeURL("bolt:")
	if args := storeArgs(b, dir); args != nil {
		store = storeURL(args[1])
	}
	s, err := openState(ctx, config{dataDir: dir, store: store, secretsKeyFile: filepath.Join(dir, "secrets.key"), caKeyBits: 2048}, nil, slog.New(slog.DiscardHandler), time.Now)
	if err != nil {
		b.Fatal(err)
	}
	defer s.close()
	ids := make([]string, n)
	for i := range ids {
		ids[i] = fmt.Sprintf("seeded%08d", i*7919%n) // in no order
	}
	for from := 0; from < n; from += 5000 {
		err := s.db.Update(ctx, func(tx storage.Tx) error {
			for i := from; i < min(n, from+5000); i++ {
				err := mdm.PutDevice(tx, mdm.Device{
					ID: mdm.DeviceID(ids[i]), Type: mdm.TypeDevice, State: mdm.Enrolled, AppleID: mdm.AppleID{UDID: fmt.Sprintf("SEEDED-%d", i)},
					Ownership: mdm.Institutional, AttemptID: "seeded", AccessRights: 8191, Identity: fmt.Sprintf("%064x", i),
					Facts:        mdm.Facts{SerialNumber: fmt.Sprintf("C02%08d", i), DeviceName: "iPhone", Model: "MTXX3", ModelName: "iPhone", ProductName: "iPhone17,2", OSVersion: "18.2", BuildVersion: "22C152"},
					Push:         &mdm.Push{Topic: "com.apple.mgmt.External.0", Token: make([]byte, 32), Magic: mdm.NewUUID()},
					TokenUpdates: 1, CreatedAt: time.Now(), AuthenticatedAt: time.Now(), EnrolledAt: time.Now(),
				})
				if err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			b.Fatal(err)
		}
	}
	return ids
}

// BenchmarkBatchesOfUpdates is the store alone, through the same engine options
// that the server uses.
func BenchmarkBatchesOfUpdates(b *testing.B) {
	for _, writers := range []int{1, 64} {
		b.Run(fmt.Sprintf("writers=%d", writers), func(b *testing.B) {
			db, err := bolt.Open(context.Background(), filepath.Join(b.TempDir(), "bench.db"), bolt.Options{})
			if err != nil {
				b.Fatal(err)
			}
			defer db.Close()
			value := make([]byte, 300)
			inParallel(b, writers, max(b.N, 1000), func(i int) error {
				return db.Update(context.Background(), func(tx storage.Tx) error {
					return tx.Put("bench", []byte(strconv.Itoa(i)), value)
				})
			})
		})
	}
}

const floorVariable = "GATEHOUSE_BENCH_FLOOR_CA"

// startFloor runs this test binary as the floor of BenchmarkIdleCheckIn.
func startFloor(b *testing.B, caURL string) *serverProcess {
	b.Helper()
	self, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	s := &serverProcess{http: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 256}}}
	s.cmd = exec.Command(self, "-test.run", "^TestBenchFloor$")
	s.cmd.Env = append(os.Environ(), floorVariable+"="+caURL)
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = s.cmd.Process.Kill()
		_ = s.cmd.Wait()
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		b.Fatal(err)
	}
	s.url = strings.TrimSpace(line)
	return s
}

// TestBenchFloor is no test: in the process that startFloor makes, it is the
// floor's server.
func TestBenchFloor(t *testing.T) {
	caURL := os.Getenv(floorVariable)
	if caURL == "" {
		return
	}
	resp, err := http.Get(caURL)
	if err != nil {
		t.Fatal(err)
	}
	ca, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	fmt.Println("http://" + listener.Addr().String())
	err = http.Serve(listener, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		cert, err := cryptoutil.VerifyMdmSignature(r.Header.Get("Mdm-Signature"), body)
		if err == nil {
			_, err = cert.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
		}
		if err == nil {
			_, err = nano.DecodeCommandResults(body)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusForbidden)
		}
	}))
	t.Fatal(err)
}
