package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/mdmtest"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest/postgrestest"
)

// ran is what a command printed, and its exit code.
type ran struct {
	code           int
	stdout, stderr string
}

func runCommand(ctx context.Context, args ...string) ran {
	var out, err bytes.Buffer
	code := run(ctx, args, nil, strings.NewReader(""), &out, &err)
	return ran{code, out.String(), err.String()}
}

// dbCopy runs db copy, which must succeed.
func dbCopy(t *testing.T, from, to string, args ...string) ran {
	t.Helper()
	r := runCommand(t.Context(), append([]string{"db", "copy", "--from", from, "--to", to}, args...)...)
	if r.code != exitDone {
		t.Fatalf("db copy: exit code %d\n%s", r.code, r.stderr)
	}
	return r
}

// databaseOf is everything in the database at a place, as that is written for db copy.
func databaseOf(t *testing.T, place string) map[string]string {
	t.Helper()
	all := map[string]string{}
	onDatabase(t, place, func(db storage.DB) error {
		return db.View(t.Context(), func(tx storage.Tx) error {
			names, err := tx.Buckets()
			if err != nil {
				return err
			}
			for _, name := range names {
				for item, err := range tx.Scan(name, storage.Range{}) {
					if err != nil {
						return err
					}
					all[name+" "+string(item.Key)] = string(item.Value)
				}
			}
			return nil
		})
	})
	return all
}

func onDatabase(t *testing.T, text string, fn func(storage.DB) error) {
	t.Helper()
	place, err := parseDBPlace("from", text)
	must(t, err)
	db, err := place.openTarget(t.Context(), slog.New(slog.DiscardHandler))
	must(t, err)
	must(t, errors.Join(fn(db), db.Close()))
}

// fillDatabase puts n items into a database.
func fillDatabase(t *testing.T, place string, n int) {
	t.Helper()
	onDatabase(t, place, func(db storage.DB) error {
		return db.Update(t.Context(), func(tx storage.Tx) error {
			for i := range n {
				if err := tx.Put("device", fmt.Appendf(nil, "%06d", i), []byte("value")); err != nil {
					return err
				}
			}
			return nil
		})
	})
}

// interruptedCopy leaves an unfinished copy of another place in a database.
func interruptedCopy(t *testing.T, to string) {
	t.Helper()
	from := "bolt:" + filepath.Join(t.TempDir(), "elsewhere")
	fillDatabase(t, from, 5000)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var stderr bytes.Buffer
	// Its first progress is that of the first transaction.
	printed := writerFunc(func(p []byte) (int, error) {
		if bytes.Contains(p, []byte("copying: device, ")) {
			cancel()
		}
		return stderr.Write(p)
	})
	code := run(ctx, []string{"db", "copy", "--from", from, "--to", to}, nil, strings.NewReader(""), io.Discard, printed)
	for _, want := range []string{"gatehouse: db copy: interrupted\n", "no server will start on it; run the same command again"} {
		if code != exitFailed || !strings.Contains(stderr.String(), want) {
			t.Fatalf("interrupted copy: exit code %d, want %q in:\n%s", code, want, &stderr)
		}
	}
}

type writerFunc func(p []byte) (int, error)

func (w writerFunc) Write(p []byte) (int, error) { return w(p) }

// TestAnInstallationMovesToPostgreSQLAndBack enrols a device on a file, moves, and has it
// meet the server on the other database without a notice.
func TestAnInstallationMovesToPostgreSQLAndBack(t *testing.T) {
	storagetest.AnyEngine(t)
	ctx := t.Context()
	shared := postgrestest.DSN(t)
	root := t.TempDir()
	first, second, third := filepath.Join(root, "first"), filepath.Join(root, "second"), filepath.Join(root, "third")
	token := filepath.Join(root, "token")
	must(t, os.WriteFile(token, []byte(apiToken), 0o600))
	addr := lastingAddress(t)
	serveOn := func(dir, store string, args ...string) *running {
		t.Helper()
		return start(t, dir, append([]string{"--store", store, "--listen", addr, "--server-url", "http://" + addr,
			"--tls-mode", "proxy", "--bootstrap-token-file", token}, args...)...)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: time.Minute}
	api := &serverProcess{url: "http://" + addr, addr: addr, http: client}
	var device *mdmtest.Device
	command := func() {
		t.Helper()
		ids, err := api.idsByUDID()
		must(t, err)
		uuid := mdm.NewUUID()
		must(t, api.enqueue(uuid, []string{ids[device.Options().UDID]}))
		got, err := device.Idle(ctx)
		must(t, err)
		if got == nil || got.UUID != uuid {
			t.Fatalf("the device polled and got %+v, want command %s", got, uuid)
		}
		next, err := device.Report(ctx, mdmtest.Result{CommandUUID: uuid, Status: mdmtest.StatusAcknowledged})
		must(t, err)
		if next != nil {
			t.Errorf("after its answer the device got %+v, want nothing", next)
		}
	}

	server := serveOn(first, "bolt:")
	device = api.enrolled(t, 1)[0]
	command()
	if r := runCommand(ctx, "db", "copy", "--from", "bolt:"+first, "--to", shared); r.code != exitFailed ||
		!strings.Contains(r.stderr, "stop every server that runs on "+filepath.Join(first, databaseName)+" first") {
		t.Errorf("copying from below a server: exit code %d\n%s", r.code, r.stderr)
	}
	server.end(t)

	key := filepath.Join(first, secretsKeyName)
	r := dbCopy(t, "bolt:"+first, shared)
	for _, want := range []string{"counts and checksums of all buckets agree", "it is in no database: " + key, "by --secrets-key-file"} {
		if !strings.Contains(r.stdout, want) {
			t.Errorf("db copy does not say %q:\n%s", want, r.stdout)
		}
	}
	at, err := url.Parse(shared)
	must(t, err)
	if password, _ := at.User.Password(); strings.Contains(r.stdout+r.stderr, password) {
		t.Error("db copy prints the password")
	}

	server = serveOn(second, shared, "--secrets-key-file", key)
	command()
	if r := runCommand(ctx, "db", "copy", "--from", shared, "--to", "bolt:"+third); r.code != exitFailed ||
		!strings.Contains(r.stderr, "stop every server that runs on PostgreSQL ") {
		t.Errorf("copying from below a server: exit code %d\n%s", r.code, r.stderr)
	}
	if _, err := os.Stat(third); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a copy that was refused made its target: %v", err)
	}
	server.end(t)

	r = dbCopy(t, shared, "bolt:"+third, "--json")
	var summary dbCopySummary
	must(t, json.Unmarshal([]byte(r.stdout), &summary))
	if summary.Items == 0 || summary.Bytes == 0 || len(summary.Buckets) == 0 || len(summary.Buckets[0].SHA256) != 64 || summary.Resumed {
		t.Errorf("summary %+v", summary)
	}
	if !maps.Equal(databaseOf(t, "bolt:"+third), databaseOf(t, shared)) {
		t.Error("the file does not hold what PostgreSQL does")
	}
	info, err := os.Stat(third)
	must(t, err)
	if info.Mode().Perm() != 0o700 {
		t.Errorf("the data directory has mode %v, want 0700", info.Mode())
	}
	content, err := os.ReadFile(key)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(third, secretsKeyName), content, 0o600))
	serveOn(third, "bolt:")
	command()
}

func TestAServerRefusesAnUnfinishedCopy(t *testing.T) {
	storagetest.AnyEngine(t)
	for name, place := range map[string]func(t *testing.T) (place string, args []string){
		"in its data directory": func(t *testing.T) (string, []string) {
			dir := t.TempDir()
			return "bolt:" + dir, []string{"--data-dir", dir, "--store", "bolt:"}
		},
		"in PostgreSQL": func(t *testing.T) (string, []string) {
			url := postgrestest.DSN(t)
			return url, []string{"--data-dir", t.TempDir(), "--store", url}
		},
	} {
		t.Run(name, func(t *testing.T) {
			to, args := place(t)
			interruptedCopy(t, to)
			r := runCommand(t.Context(), append([]string{"serve", "--listen", "127.0.0.1:0"}, args...)...)
			for _, want := range []string{"database holds an unfinished copy of ", "run the same gatehouse db copy again to complete it"} {
				if r.code != exitFailed || !strings.Contains(r.stderr, want) {
					t.Errorf("serve: exit code %d, want %q in:\n%s", r.code, want, r.stderr)
				}
			}

			// Nor is it copied on, or replaced by mistake.
			from := "bolt:" + t.TempDir()
			fillDatabase(t, from, 3)
			for _, tt := range []struct{ from, to, want string }{
				{to, "bolt:" + t.TempDir(), "; complete that one first"},
				{from, to, "add --start-over to replace what it has left"},
			} {
				r := runCommand(t.Context(), "db", "copy", "--from", tt.from, "--to", tt.to)
				if r.code != exitFailed || !strings.Contains(r.stderr, tt.want) {
					t.Errorf("db copy: exit code %d, want %q in:\n%s", r.code, tt.want, r.stderr)
				}
			}
			dbCopy(t, from, to, "--start-over")
			if got := len(databaseOf(t, to)); got != 3 {
				t.Errorf("after starting over, the target holds %d items, want 3", got)
			}
		})
	}
}

func TestACopyIntoWhatIsNotEmptyIsRefused(t *testing.T) {
	storagetest.AnyEngine(t)
	from, to := "bolt:"+t.TempDir(), "bolt:"+t.TempDir()
	fillDatabase(t, from, 10)
	fillDatabase(t, to, 1)
	for _, args := range [][]string{nil, {"--start-over"}} {
		r := runCommand(t.Context(), append([]string{"db", "copy", "--from", from, "--to", to}, args...)...)
		if want := "database is not empty: it holds device\n"; r.code != exitFailed || !strings.Contains(r.stderr, want) {
			t.Errorf("db copy %v: exit code %d, want %q in:\n%s", args, r.code, want, r.stderr)
		}
		if got := len(databaseOf(t, to)); got != 1 {
			t.Errorf("db copy %v: the target holds %d items, want the 1 that it had", args, got)
		}
	}
}

// TestACopyOutlivesItsKill kills the program in the middle of a transaction, which
// PostgreSQL then commits, as it hears late that nobody waits for it any more.
func TestACopyOutlivesItsKill(t *testing.T) {
	storagetest.AnyEngine(t)
	bin, err := buildBinary()
	must(t, err)
	ctx := t.Context()
	to := postgrestest.DSN(t)
	dir := t.TempDir()
	from := "bolt:" + dir
	fillDatabase(t, from, 20_000)
	onDatabase(t, to, func(storage.DB) error { return nil }) // makes the table

	sql, err := pgx.Connect(ctx, to)
	must(t, err)
	defer func() { must(t, sql.Close(context.Background())) }()
	execute := func(statement string) {
		t.Helper()
		_, err := sql.Exec(ctx, statement)
		must(t, err)
	}
	until := func(condition string) {
		t.Helper()
		deadline := time.Now().Add(time.Minute)
		for holds := false; !holds; {
			must(t, sql.QueryRow(ctx, "select "+condition).Scan(&holds))
			if time.Now().After(deadline) {
				t.Fatalf("not so within a minute: %s", condition)
			}
		}
	}
	// The insert of one item waits for a lock of ours.
	const lock = `'kv'::regclass::oid::bigint`
	const waiting = `from pg_locks where locktype = 'advisory' and objid = 'kv'::regclass::oid and classid = 0 and not granted`
	execute("select pg_advisory_lock(" + lock + ")")
	execute(`create function hold() returns trigger language plpgsql as $$ begin
		if new.key = '010000'::bytea then perform pg_advisory_lock_shared(` + lock + `); end if; return new; end $$`)
	execute("create trigger hold before insert on kv for each row execute function hold()")

	cmd := exec.Command(bin, "db", "copy", "--from", from)
	cmd.Env = append(os.Environ(), "GATEHOUSE_TO="+to)
	must(t, cmd.Start())
	until("exists(select " + waiting + ")")
	if r := runCommand(ctx, "serve", "--data-dir", t.TempDir(), "--listen", "127.0.0.1:0", "--store", to); r.code != exitFailed ||
		!strings.Contains(r.stderr, "another process needs it for itself") {
		t.Errorf("a server beside the copy: exit code %d\n%s", r.code, r.stderr)
	}
	must(t, cmd.Process.Kill())
	_ = cmd.Wait()
	// Its lock of the whole database goes with its connection.
	until("not exists(select from pg_locks where locktype = 'advisory' and objid = 'kv'::regclass::oid and classid <> 0)")
	execute("select pg_advisory_unlock(" + lock + ")")
	execute("drop trigger hold on kv") // waits for the transaction

	r := dbCopy(t, from, to)
	if !maps.Equal(databaseOf(t, to), databaseOf(t, from)) {
		t.Error("PostgreSQL does not hold what the file does")
	}
	if want := "an unfinished copy completed in"; !strings.Contains(r.stdout, want) {
		t.Errorf("the second copy does not say %q:\n%s", want, r.stdout)
	}
}

func TestProgressIsBriefInALogAndFreshOnATerminal(t *testing.T) {
	storagetest.AnyEngine(t)
	for name, tt := range map[string]struct {
		terminal bool
		want     string
	}{
		"a terminal": {true, "\r\x1b[Kcopying: user, 0 items, 0 B" +
			"\r\x1b[Kcopying: user, 10 items, 5.0 MB" +
			"\r\x1b[Kcopying: user, 30 items, 15.0 MB, 10.0 MB/s" +
			"\r\x1b[Kreading the copy: user, 40 items, 999.9 kB" +
			"\r\x1b[K"},
		"a log": {false, "copying: user, 0 items, 0 B\nreading the copy: user, 40 items, 999.9 kB\n"},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
			p := newCopyProgress(&out, tt.terminal, func() time.Time { return at })
			for _, step := range []storage.CopyProgress{
				{Phase: storage.CopyWrites, Bucket: "user"},
				{Phase: storage.CopyWrites, Bucket: "user", Items: 10, Bytes: 5e6},
				{Phase: storage.CopyWrites, Bucket: "user", Items: 30, Bytes: 15e6},
				{Phase: storage.CopyProves, Bucket: "user", Items: 40, Bytes: 999_949},
			} {
				p.report(step)
				p.report(step) // at once, so that it's not printed
				at = at.Add(750 * time.Millisecond)
			}
			p.end()
			if got := out.String(); got != tt.want {
				t.Errorf("printed %q, want %q", got, tt.want)
			}
		})
	}
}
