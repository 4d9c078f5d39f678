package main

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/postgres"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest/postgrestest"
)

// TestReplicasThatStartAtOnceAreOneServer starts two on an empty database, again and
// again: of all that a first start makes there must be one.
func TestReplicasThatStartAtOnceAreOneServer(t *testing.T) {
	storagetest.AnyEngine(t)
	t.Parallel()
	const rounds = 4
	for round := range rounds {
		dsn := postgrestest.DSN(t)
		var args []string
		withOwner := round%2 == 0
		if withOwner {
			args = ownerArgs(t)
		}
		rs := startReplicas(t, dsn, 2, args...)
		created := 0
		seen := map[string]string{}
		for i, s := range rs {
			created += strings.Count(s.out.String(), "created certificate authority")
			b := rs.browsers(t)[i]
			if got := b.get(t, "/readyz"); got.StatusCode != 200 {
				t.Errorf("/readyz of replica %d = %d: %s", i, got.StatusCode, got.body)
			}
			for _, path := range []string{"/ca.pem", "/ca/identity.pem", "/.well-known/est/cacerts"} { // the last has the issuer of payload certificates
				got := b.get(t, path)
				if got.StatusCode != 200 || seen[path] != "" && got.body != seen[path] {
					t.Errorf("%s of replica %d = %d, another certificate than that of the other:\n%s%s", path, i, got.StatusCode, got.body, seen[path])
				}
				seen[path] = got.body
			}
			rs.client(rs.only(i)).api(t, "GET", "/devices", nil, nil)
			if withOwner {
				if got := b.post(t, "/admin/login", url.Values{"email": {ownerEmail}, "password": {ownerPassword}}); got.StatusCode != 303 {
					t.Errorf("the owner's sign-in at replica %d = %d, want 303", i, got.StatusCode)
				}
			}
		}
		if created != 1 {
			t.Errorf("%d replicas say that they created the authority, want one", created)
		}
		want := map[string]int{"authority": 3, "identity.tokens": 1, "identity.users": 0}
		if withOwner {
			want["identity.users"] = 1
		} else {
			bothSetupLinksWork(t, rs)
		}
		for bucket, n := range want {
			if got := countRecords(t, dsn, bucket); got != n {
				t.Errorf("the database has %d records in %s, want %d", got, bucket, n)
			}
		}
		for _, s := range rs {
			s.kill(t)
		}
	}
}

// bothSetupLinksWork redeems one replica's link at the other, which is the end of both.
func bothSetupLinksWork(t *testing.T, rs replicas) {
	t.Helper()
	redeem := func(from, at int) int {
		_, token, ok := strings.Cut(rs[from].out.String(), "/setup#t=")
		if !ok {
			t.Fatalf("replica %d printed no setup link:\n%s", from, rs[from].out)
		}
		return rs.browsers(t)[at].post(t, "/setup", url.Values{"token": {strings.Fields(token)[0]}}).StatusCode
	}
	if got := redeem(0, 1); got != 303 {
		t.Errorf("the link of the first replica at the second = %d, want 303", got)
	}
	if got := redeem(1, 0); got != 404 {
		t.Errorf("the link of the second replica after that = %d, want 404", got)
	}
}

func countRecords(t *testing.T, dsn, bucket string) (n int) {
	t.Helper()
	db, err := postgres.Open(t.Context(), dsn, postgres.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	err = db.View(t.Context(), func(tx storage.Tx) error {
		n = 0
		for _, err := range tx.Scan(bucket, storage.Range{}) {
			if err != nil {
				return err
			}
			n++
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestAReplicaIsRefused starts servers on databases that they can't work with.
func TestAReplicaIsRefused(t *testing.T) {
	storagetest.AnyEngine(t)
	t.Parallel()
	server := postgrestest.Start(t)
	first := newReplicas(t, server.DSN(), 1)[0]
	first.start(t)
	key := first.args[3]
	u, err := url.Parse(server.DSN())
	if err != nil {
		t.Fatal(err)
	}
	password, _ := u.User.Password()
	with := func(change func(u *url.URL)) string {
		other := *u
		change(&other)
		return other.String()
	}
	closed := lastingAddress(t)
	silent, err := net.Listen("tcp", "127.0.0.1:0") // takes connections and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()

	for name, tt := range map[string]struct {
		dsn  string
		key  string
		code int
		want []string
	}{
		"with another key": {u.String(), "another", exitFailed, []string{"is not the key that sealed", "copy it from the first one", "--secrets-key-file"}},
		"without the key":  {u.String(), "none", exitFailed, []string{"copy it from the server that made the database", "--secrets-key-file"}},
		"with a wrong password": {with(func(u *url.URL) { u.User = url.UserPassword("gatehouse", "wr0ng-secret") }), key, exitFailed,
			[]string{"gatehouse@" + u.Host, "password authentication failed", "PGPASSWORD"}},
		"for an unknown user": {with(func(u *url.URL) { u.User = url.UserPassword("nobody", "wr0ng-secret") }), key, exitFailed,
			[]string{"nobody@" + u.Host}},
		"on an unknown database": {with(func(u *url.URL) { u.Path = "/nowhere" }), key, exitFailed,
			[]string{u.Host + "/nowhere", "CREATE DATABASE"}},
		"on a port where nobody listens": {with(func(u *url.URL) { u.Host = closed }), key, exitFailed,
			[]string{closed, "connection refused"}},
		"on an unknown host": {with(func(u *url.URL) { u.Host = "no-such-host.invalid:5432" }), key, exitFailed,
			[]string{`the host "no-such-host.invalid" is not known`}},
		"on a server that is silent": {with(func(u *url.URL) {
			u.Host = silent.Addr().String()
			u.RawQuery += "&connect_timeout=1"
		}), key, exitFailed, []string{silent.Addr().String()}},
		"on a read-only database": {with(func(u *url.URL) { u.RawQuery += "&default_transaction_read_only=on" }), key, exitFailed,
			[]string{u.Host, "read-only", "primary"}},
		"with an option that there is not": {with(func(u *url.URL) { u.RawQuery += "&sslmode=perhaps" }), key, exitUsage,
			[]string{"--store", "sslmode"}},
	} {
		t.Run(name, func(t *testing.T) {
			keyFile := tt.key
			switch tt.key {
			case "another":
				keyFile = filepath.Join(t.TempDir(), "secrets.key")
				if err := os.WriteFile(keyFile, []byte(strings.Repeat("ab", 32)), 0o600); err != nil {
					t.Fatal(err)
				}
			case "none":
				keyFile = filepath.Join(t.TempDir(), "secrets.key")
			}
			var errs bytes.Buffer
			code := run(context.Background(), []string{"serve", "--data-dir", t.TempDir(), "--listen", "127.0.0.1:0",
				"--secrets-key-file", keyFile, "--store", tt.dsn}, nil, nil, io.Discard, &errs)
			if code != tt.code {
				t.Errorf("exit code %d, want %d", code, tt.code)
			}
			for _, want := range tt.want {
				if !strings.Contains(errs.String(), want) {
					t.Errorf("the message does not say %q:\n%s", want, &errs)
				}
			}
			for _, secret := range []string{"wr0ng-secret", password} {
				if strings.Contains(errs.String(), secret) {
					t.Errorf("the message tells the password:\n%s", &errs)
				}
			}
		})
	}
	if resp, err := first.http.Get(first.url + "/readyz"); err != nil || resp.StatusCode != http.StatusOK {
		t.Errorf("/readyz of the server that was there before: %v, %v", resp, err)
	} else {
		resp.Body.Close()
	}
}
