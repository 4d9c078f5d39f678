//go:build unix

package postgres_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"log/slog"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/postgres"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest/postgrestest"
)

func TestTheEnvironmentFillsInWhatTheURLLeavesOut(t *testing.T) {
	u, err := url.Parse(postgrestest.DSN(t))
	if err != nil {
		t.Fatal("not a URL")
	}
	password, _ := u.User.Password()
	for name, value := range map[string]string{
		"PGHOST": u.Hostname(), "PGPORT": u.Port(), "PGUSER": u.User.Username(), "PGDATABASE": strings.TrimPrefix(u.Path, "/"),
		"PGPASSWORD": password, "PGSSLMODE": "disable", "PGOPTIONS": "-c search_path=" + u.Query().Get("search_path"),
	} {
		t.Setenv(name, value)
	}
	db := open(t, "postgres://")
	if err := put(db, "k"); err != nil {
		t.Errorf("Update: %v", err)
	}
	if want := u.User.Username() + "@" + u.Host + u.Path; postgres.Describe("postgres://") != want {
		t.Errorf("Describe = %q, want %q", postgres.Describe("postgres://"), want)
	}

	// And a file of passwords, as psql reads it.
	t.Setenv("PGPASSWORD", "")
	file := filepath.Join(t.TempDir(), "pgpass")
	if err := os.WriteFile(file, []byte(strings.Join([]string{u.Hostname(), u.Port(), "*", u.User.Username(), password}, ":")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PGPASSFILE", file)
	has(t, open(t, "postgres://"), "k", true)
}

func TestTLSIsAsTheURLSays(t *testing.T) {
	s := postgrestest.Start(t)
	ours := encrypt(t, s, "127.0.0.1")
	other := filepath.Join(t.TempDir(), "other.pem")
	if err := os.WriteFile(other, selfSigned(t, "127.0.0.1").cert, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		query string
		say   string // "": it opens
	}{
		"verified":                  {"sslmode=verify-full&sslrootcert=" + ours, ""},
		"of an unknown authority":   {"sslmode=verify-full&sslrootcert=" + other, "certificate"},
		"of no authority we know":   {"sslmode=verify-full", "certificate"},
		"of another host":           {"sslmode=verify-full&host=localhost&sslrootcert=" + ours, "localhost"},
		"encrypted, but not proved": {"sslmode=require", ""},
	} {
		t.Run(name, func(t *testing.T) {
			dsn := with(t, s.DSN(), func(u *url.URL) { u.RawQuery = tt.query })
			if strings.Contains(tt.query, "host=localhost") {
				dsn = with(t, s.DSN(), func(u *url.URL) {
					u.Host, u.RawQuery = net.JoinHostPort("localhost", u.Port()), strings.Replace(tt.query, "&host=localhost", "", 1)
				})
			}
			if tt.say == "" {
				if err := put(open(t, dsn), "k"); err != nil {
					t.Errorf("Update: %v", err)
				}
				return
			}
			db, err := postgres.Open(ctx, dsn, postgres.Options{})
			if err == nil {
				_ = db.Close()
				t.Fatal("opened")
			}
			if !errors.Is(err, storage.ErrUnavailable) || !strings.Contains(err.Error(), tt.say) {
				t.Errorf("Open: %v, want ErrUnavailable about %q", err, tt.say)
			}
		})
	}
}

type pair struct{ cert, key []byte }

// selfSigned makes a certificate for an address.
func selfSigned(t *testing.T, ip string) pair {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "db"}, IPAddresses: []net.IP{net.ParseIP(ip)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pair{
		pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}),
	}
}

// encrypt has s speak TLS, and returns the file of its certificate.
func encrypt(t *testing.T, s *postgrestest.Server, ip string) string {
	t.Helper()
	p := selfSigned(t, ip)
	data := filepath.Join(s.Dir(), "data")
	owner, err := os.Stat(data)
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{"server.crt": p.cert, "server.key": p.key} {
		path := filepath.Join(data, name)
		_ = os.Remove(path)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		if id, ok := owner.Sys().(*syscall.Stat_t); ok {
			if err := os.Chown(path, int(id.Uid), int(id.Gid)); err != nil {
				t.Fatal(err)
			}
		}
	}
	s.Exec(`alter system set ssl = on`)
	s.Restart(postgrestest.Fast)
	file := filepath.Join(t.TempDir(), "root.pem")
	if err := os.WriteFile(file, p.cert, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestWhatShouldNotStaySoIsLogged(t *testing.T) {
	s := postgrestest.Start(t)
	warnings := func() string {
		t.Helper()
		var log bytes.Buffer
		db, err := postgres.Open(ctx, s.DSN(), postgres.Options{Log: slog.New(slog.NewTextHandler(&log, nil))})
		if err != nil {
			t.Fatal(err)
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		return log.String()
	}
	if got := warnings(); got != "" {
		t.Errorf("logged of a good database: %s", got)
	}
	s.Exec(`alter database gatehouse set synchronous_commit = off`)
	if got := warnings(); !strings.Contains(got, "synchronous_commit is off") {
		t.Errorf("logged: %q, want a word about synchronous_commit", got)
	}
}
