package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/micromdm/nanomdm/storage/pgsql"

	"github.com/gatehouse-mdm/gatehouse/mdm/mdmtest"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest/postgrestest"
)

// The yardstick for our engine on PostgreSQL: nanomdm's own, through the same
// load, on a server with the same settings.

// nanoMDM is built outside of our module, at its own versions. Its schema comes from
// the module in go.mod, which is the same release.
const nanoMDM = "github.com/micromdm/nanomdm/cmd/nanomdm@v0.9.0"

// buildNanoMDM builds nanomdm once for all benchmarks of a run.
var buildNanoMDM = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "gatehouse-test")
	if err != nil {
		return "", err
	}
	if err := installTool(dir, nanoMDM); err != nil {
		return "", err
	}
	return filepath.Join(dir, "nanomdm"), nil
})

// nanoProcess is nanomdm on PostgreSQL, with an authority for the identities of devices.
type nanoProcess struct {
	url      string
	cmd      *exec.Cmd
	http     *http.Client
	postgres *postgrestest.Server
	ca       *x509.Certificate
	key      *rsa.PrivateKey
	serial   int64
	profile  []byte
}

const nanoKey = "api-key-of-the-benchmarks"

func startNanoMDM(b *testing.B) *nanoProcess {
	b.Helper()
	bin, err := buildNanoMDM()
	if err != nil {
		b.Logf("%v", err)
		b.Skip("skipped: nanomdm can't be fetched here")
	}
	n := &nanoProcess{
		postgres: postgrestest.StartDurable(b),
		http:     &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 256, DisableCompression: true}, Timeout: time.Minute},
	}
	n.exec(b, pgsql.Schema)
	ca := n.makeAuthority(b)

	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	addr := listener.Addr().String()
	if err := listener.Close(); err != nil {
		b.Fatal(err)
	}
	n.url = "http://" + addr
	n.cmd = exec.Command(bin, "-storage", "pgsql", "-storage-dsn", n.postgres.DSN(), "-listen", addr, "-ca", ca, "-api", nanoKey)
	logFile := filepath.Join(b.TempDir(), "log")
	if n.cmd.Stderr, err = os.Create(logFile); err != nil {
		b.Fatal(err)
	}
	if err := n.cmd.Start(); err != nil {
		b.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- n.cmd.Wait() }()
	b.Cleanup(func() {
		_ = n.cmd.Process.Kill()
		<-ended
	})
	for tick := time.Tick(10 * time.Millisecond); ; { // it doesn't say that it's ready
		conn, err := net.Dial("tcp", addr)
		if err == nil {
			_ = conn.Close()
			break
		}
		select {
		case err := <-ended:
			ended <- err
			log, _ := os.ReadFile(logFile)
			b.Fatalf("nanomdm ended: %v\n%s", err, log)
		case <-tick:
		}
	}
	n.profile = n.enrollmentProfile(b)
	return n
}

// exec runs SQL on nanomdm's database.
func (n *nanoProcess) exec(b *testing.B, sql string, args ...any) {
	b.Helper()
	conn, err := pgx.Connect(b.Context(), n.postgres.DSN())
	if err != nil {
		b.Fatal(err)
	}
	if _, err := conn.Exec(b.Context(), sql, args...); err != nil {
		b.Fatal(err)
	}
	if err := conn.Close(b.Context()); err != nil {
		b.Fatal(err)
	}
}

// makeAuthority makes the authority and returns the file of its certificate.
func (n *nanoProcess) makeAuthority(b *testing.B) string {
	b.Helper()
	var err error
	if n.key, err = rsa.GenerateKey(rand.Reader, 2048); err != nil {
		b.Fatal(err)
	}
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: "Benchmark identities"}, SerialNumber: big.NewInt(1),
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, n.key.Public(), n.key)
	if err != nil {
		b.Fatal(err)
	}
	if n.ca, err = x509.ParseCertificate(der); err != nil {
		b.Fatal(err)
	}
	file := filepath.Join(b.TempDir(), "ca.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		b.Fatal(err)
	}
	return file
}

// enrollmentProfile is one for this server. Its SCEP payload is what a device insists on:
// identities are issued by hand.
func (n *nanoProcess) enrollmentProfile(b *testing.B) []byte {
	b.Helper()
	const identity = "00000000-0000-4000-8000-000000000001"
	raw, err := mdmtest.MarshalPlist(mdmtest.Dict{
		"PayloadType": "Configuration", "PayloadVersion": 1, "PayloadIdentifier": "com.example.mdm",
		"PayloadUUID": "00000000-0000-4000-8000-000000000000", "PayloadDisplayName": "nanomdm",
		"PayloadContent": []any{
			mdmtest.Dict{
				"PayloadType": "com.apple.security.scep", "PayloadVersion": 1, "PayloadIdentifier": "com.example.mdm.scep", "PayloadUUID": identity,
				"PayloadContent": mdmtest.Dict{
					"URL": n.url + "/scep", "Keysize": 2048, "Key Type": "RSA", "Key Usage": 5,
					"Subject": []any{[]any{[]any{"CN", "device"}}},
				},
			},
			mdmtest.Dict{
				"PayloadType": "com.apple.mdm", "PayloadVersion": 1, "PayloadIdentifier": "com.example.mdm.mdm",
				"PayloadUUID": "00000000-0000-4000-8000-000000000002", "IdentityCertificateUUID": identity,
				"Topic": "com.apple.mgmt.External.benchmark", "AccessRights": 8191, "SignMessage": true, "ServerURL": n.url + "/mdm",
			},
		},
	})
	if err != nil {
		b.Fatal(err)
	}
	return raw
}

// enrolled enrolls count devices.
func (n *nanoProcess) enrolled(b *testing.B, count int) []*mdmtest.Device {
	b.Helper()
	pool, err := keyPool()
	if err != nil {
		b.Fatal(err)
	}
	devices := make([]*mdmtest.Device, count)
	for i := range devices {
		devices[i], err = mdmtest.NewDevice(mdmtest.Options{Keys: pool, PlainHTTP: true, Transport: n.http.Transport})
		if err != nil {
			b.Fatal(err)
		}
		if err := devices[i].Install(n.profile); err != nil {
			b.Fatal(err)
		}
		if err := n.issue(devices[i], pool); err != nil {
			b.Fatal(err)
		}
	}
	inParallel(b, benchClients, count, func(i int) error {
		if err := devices[i].Authenticate(context.Background()); err != nil {
			return err
		}
		return devices[i].TokenUpdate(context.Background())
	})
	return devices
}

// issue gives a device its identity.
func (n *nanoProcess) issue(d *mdmtest.Device, pool *mdmtest.KeyPool) error {
	key, err := pool.Key()
	if err != nil {
		return err
	}
	n.serial++
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: d.ID()}, SerialNumber: big.NewInt(1 + n.serial),
		NotBefore: n.ca.NotBefore, NotAfter: n.ca.NotAfter,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, n.ca, key.Public(), n.key)
	if err != nil {
		return err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return err
	}
	d.SetIdentity(cert, key)
	return nil
}

// enqueue queues a ProfileList, without a push. A command's UUID can be used once, so
// all ids go in one request.
func (n *nanoProcess) enqueue(uuid string, ids []string) error {
	plist := `<?xml version="1.0" encoding="UTF-8"?><plist version="1.0"><dict><key>Command</key><dict><key>RequestType</key>` +
		`<string>ProfileList</string></dict><key>CommandUUID</key><string>` + uuid + `</string></dict></plist>`
	req, err := http.NewRequest("PUT", n.url+"/v1/enqueue/"+strings.Join(ids, ",")+"?nopush=1", strings.NewReader(plist))
	if err != nil {
		return err
	}
	req.SetBasicAuth("nanomdm", nanoKey)
	resp, err := n.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	reply, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("enqueue: %s %s", resp.Status, reply)
	}
	return err
}

// BenchmarkCommandAndAcknowledgementOfNanoMDM is BenchmarkCommandAndAcknowledgement on
// nanomdm.
func BenchmarkCommandAndAcknowledgementOfNanoMDM(b *testing.B) {
	for _, clients := range []int{8, 64} {
		b.Run(fmt.Sprintf("clients=%d", clients), func(b *testing.B) {
			n := startNanoMDM(b)
			devices := n.enrolled(b, benchDevices)
			ids := make([]string, len(devices))
			for i, d := range devices {
				ids[i] = d.ID()
			}
			acks := acknowledgements(b, n.http, clients, devices, func(uuid string) error { return n.enqueue(uuid, ids) })
			measuredOnPostgreSQL(b, n.cmd.Process.Pid, n.postgres, clients, len(acks), func(i int) error {
				_, err := send(n.http, acks[i])
				return err
			})
			n.assertAcknowledged(b, len(acks))
		})
	}
}

func (n *nanoProcess) assertAcknowledged(b *testing.B, want int) {
	b.Helper()
	conn, err := pgx.Connect(b.Context(), n.postgres.DSN())
	if err != nil {
		b.Fatal(err)
	}
	var got int
	if err := conn.QueryRow(b.Context(), "SELECT count(*) FROM command_results WHERE status = 'Acknowledged'").Scan(&got); err != nil {
		b.Fatal(err)
	}
	if err := conn.Close(b.Context()); err != nil {
		b.Fatal(err)
	}
	if got != want {
		b.Errorf("nanomdm keeps %d acknowledgements, want %d", got, want)
	}
}

// BenchmarkEnqueueOfNanoMDM queues one command to 10,000 devices.
func BenchmarkEnqueueOfNanoMDM(b *testing.B) {
	const devices = 10_000
	n := startNanoMDM(b)
	ids := make([]string, devices)
	for i := range ids {
		ids[i] = fmt.Sprintf("00000000-0000-4000-8000-%012d", i)
	}
	n.exec(b, `INSERT INTO devices (id, authenticate, authenticate_at, token_update, token_update_at)
		SELECT id, 'plist', now(), 'plist', now() FROM unnest($1::text[]) AS id`, ids)
	n.exec(b, `INSERT INTO enrollments (id, device_id, type, topic, push_magic, token_hex, last_seen_at)
		SELECT id, id, 'Device', 'topic', 'magic', '00', now() FROM unnest($1::text[]) AS id`, ids)
	n.exec(b, "ANALYZE")
	const commands = 5
	start := time.Now()
	for i := range commands {
		if err := n.enqueue("BENCH-"+strconv.Itoa(i), ids); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(time.Since(start).Milliseconds())/commands, "ms/command")
	b.ReportMetric(0, "ns/op")
}

// measuredOnPostgreSQL is measured with the CPU time of the database beside that of the
// server.
func measuredOnPostgreSQL(b *testing.B, pid int, db *postgrestest.Server, clients, n int, fn func(i int) error) {
	b.Helper()
	before := postgresCPU(b, db)
	measured(b, pid, clients, n, fn)
	used := postgresCPU(b, db) - before
	b.ReportMetric(used.Seconds()/float64(n)*1000, "db-cpu-s/1k")
}

// postgresCPU returns the CPU time that all processes of a PostgreSQL server have used,
// those that have ended included.
func postgresCPU(b *testing.B, db *postgrestest.Server) time.Duration {
	b.Helper()
	pidFile, err := os.ReadFile(filepath.Join(db.Dir(), "data", "postmaster.pid"))
	if err != nil {
		b.Fatal(err)
	}
	postmaster, _, _ := strings.Cut(string(pidFile), "\n")
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		b.Fatal(err)
	}
	var ticks int64
	for _, name := range stats {
		stat, err := os.ReadFile(name)
		if err != nil {
			continue // it has ended
		}
		fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
		counted := fields[11:13] // utime, stime
		if filepath.Base(filepath.Dir(name)) == postmaster {
			counted = fields[11:15] // and those of children that it has waited for
		} else if fields[1] != postmaster {
			continue
		}
		for _, f := range counted {
			n, err := strconv.ParseInt(f, 10, 64)
			if err != nil {
				b.Fatal(err)
			}
			ticks += n
		}
	}
	return time.Duration(ticks) * 10 * time.Millisecond // USER_HZ, as in processCPU
}
