package postgrestest

import (
	"bufio"
	"errors"
	"io/fs"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

func connect(t testing.TB, dsn string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

func query[T any](t testing.TB, dsn, sql string, args ...any) T {
	t.Helper()
	conn := connect(t, dsn)
	var v T
	if err := conn.QueryRow(t.Context(), sql, args...).Scan(&v); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	if err := conn.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	return v
}

func TestEachTestHasAnEmptySchemaThatEndsWithIt(t *testing.T) {
	const tables = "SELECT count(*) FROM pg_class WHERE relnamespace = current_schema()::regnamespace"
	var schemas []string
	for _, name := range []string{"one", "another"} {
		t.Run(name, func(t *testing.T) {
			dsn := DSN(t)
			if n := query[int](t, dsn, tables); n != 0 {
				t.Errorf("a new schema has %d tables", n)
			}
			if err := execute(dsn, "CREATE TABLE things (id int); INSERT INTO things VALUES (1)"); err != nil {
				t.Fatal(err)
			}
			schemas = append(schemas, query[string](t, dsn, "SELECT current_schema()"))
			if n := query[int](t, dsn, "SELECT count(*) FROM things"); n != 1 {
				t.Errorf("%d rows, want 1", n)
			}
		})
	}
	if len(schemas) != 2 || schemas[0] == schemas[1] {
		t.Fatalf("schemas = %q, want two", schemas)
	}
	if n := query[int](t, DSN(t), "SELECT count(*) FROM pg_namespace WHERE nspname = ANY($1)", schemas); n != 0 {
		t.Errorf("%d schemas are left, want none", n)
	}
}

func TestASchemaMayBeMadeInABubbleAndOutsideOfIt(t *testing.T) {
	DSN(t)
	synctest.Test(t, func(t *testing.T) { DSN(t) })
	DSN(t)
}

func TestAWrongPasswordIsRefused(t *testing.T) {
	u, err := url.Parse(DSN(t))
	if err != nil {
		t.Fatal(err)
	}
	if os.Getenv(Variable) != "" {
		t.Skip("another's server may trust everybody")
	}
	u.User = url.UserPassword(u.User.Username(), "wrong")
	conn, err := pgx.Connect(t.Context(), u.String())
	if err == nil {
		_ = conn.Close(t.Context())
	}
	const invalidPassword = "28P01"
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); !ok || pgErr.Code != invalidPassword {
		t.Errorf("Connect with a wrong password: %v, want %s", err, invalidPassword)
	}
}

func TestAServerOfOnesOwnIsStoppedAndStarted(t *testing.T) {
	s := Start(t, "max_connections = 7")
	dsn, port := s.DSN(), s.Port()
	if got := query[string](t, dsn, "SHOW max_connections"); got != "7" {
		t.Errorf("max_connections = %s, want what was set", got)
	}
	if query[bool](t, dsn, "SELECT rolsuper FROM pg_roles WHERE rolname = current_user") {
		t.Error("the user of DSN is a superuser")
	}
	if err := execute(dsn, "CREATE TABLE things (id int)"); err != nil {
		t.Fatal(err)
	}
	for want, mode := range []Mode{Fast, Immediate} {
		if err := execute(dsn, "INSERT INTO things VALUES (1)"); err != nil {
			t.Fatal(err)
		}
		s.Stop(mode)
		if err := execute(dsn, "SELECT 1"); err == nil {
			t.Error("a stopped server answers")
		}
		s.Start()
		if n := query[int](t, dsn, "SELECT count(*) FROM things"); n != want+1 {
			t.Errorf("after a stop by %q there are %d rows, want %d", mode, n, want+1)
		}
	}
	s.Restart(Fast)
	if s.DSN() != dsn || s.Port() != port {
		t.Errorf("after a restart it is at %s, was at %s", s.DSN(), dsn)
	}
	s.Exec("ALTER DATABASE gatehouse SET default_transaction_read_only = on")
	if err := execute(dsn, "INSERT INTO things VALUES (1)"); err == nil {
		t.Error("a database that was made read-only was written to")
	}
}

func TestADurableServerIsSynchronous(t *testing.T) {
	s := StartDurable(t)
	for _, name := range []string{"fsync", "synchronous_commit", "full_page_writes"} {
		if got := query[string](t, s.DSN(), "SHOW "+name); got != "on" {
			t.Errorf("%s is %s, want on", name, got)
		}
	}
	if strings.HasPrefix(s.Dir(), memory) {
		t.Errorf("its files are in memory: %s", s.Dir())
	}
}

func TestAWrongSettingIsExplained(t *testing.T) {
	p, err := startProcess(kind{memory, "no_such_setting = 1", 1})
	if err == nil {
		_ = p.close()
	}
	if err == nil || !strings.Contains(err.Error(), "no_such_setting") {
		t.Errorf("start with an unknown setting: %v, want PostgreSQL's own words", err)
	}
}

// endVariable makes this test binary the process that TestNothingIsLeft looks at, and
// says how it ends.
const endVariable = "GATEHOUSE_TEST_POSTGRES_END"

func TestNothingIsLeftOfAProcess(t *testing.T) {
	if how := os.Getenv(endVariable); how != "" {
		endLike(t, how)
		return
	}
	if _, err := shared(); err != nil {
		missing(t, err)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, how := range []string{"returns", "exits", "panics", "is killed", "takes too long"} {
		t.Run("that "+how, func(t *testing.T) {
			t.Parallel()
			cmd := exec.Command(exe, "-test.run", "^TestNothingIsLeftOfAProcess$", "-test.timeout", "1m")
			if how == "takes too long" {
				cmd.Args[len(cmd.Args)-1] = "10s" // and long enough to start a server on a busy machine
			}
			cmd.Env = append(os.Environ(), endVariable+"="+how, Variable+"=")
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			var dir, port string
			lines := bufio.NewScanner(out)
			for lines.Scan() {
				if _, found, ok := strings.Cut(lines.Text(), "server at "); ok {
					port, dir, _ = strings.Cut(found, " ")
					break
				}
			}
			if dir == "" {
				t.Fatal("the process started no server")
			}
			if _, err := os.Stat(dir); err != nil {
				t.Error(err)
			}
			if how == "is killed" {
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
			for lines.Scan() { // such as the panic
			}
			if err := cmd.Wait(); (err == nil) != (how == "returns") {
				t.Errorf("the process that %s: %v", how, err)
			}
			// The supervisor is no child of ours that we could wait for.
			deadline := time.After(30 * time.Second)
			for tick := time.Tick(10 * time.Millisecond); ; {
				if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
					break
				}
				select {
				case <-tick:
				case <-deadline:
					t.Fatalf("%s is still there", dir)
				}
			}
			if conn, err := net.Dial("tcp", "127.0.0.1:"+port); err == nil {
				_ = conn.Close()
				t.Error("the server still listens")
			}
		})
	}
}

// endLike starts a server, says where it is, and ends this process.
func endLike(t *testing.T, how string) {
	DSN(t)
	p, err := shared()
	if err != nil {
		t.Fatal(err)
	}
	_, _ = os.Stdout.WriteString("server at " + strconv.Itoa(p.port) + " " + p.dir + "\n")
	switch how {
	case "returns":
	case "exits":
		os.Exit(3)
	case "panics":
		panic("as told")
	default:
		select {}
	}
}

func TestTheNewestPostgreSQLIsFound(t *testing.T) {
	root, other := t.TempDir(), t.TempDir()
	for _, bin := range []string{root + "/9.6/bin", root + "/15/bin", root + "/14/bin", root + "/old/bin", other} {
		if err := os.MkdirAll(bin, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(bin, "initdb"), nil, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	other, err := filepath.EvalSymlinks(other)
	if err != nil {
		t.Fatal(err)
	}
	onPath := func(string) (string, error) { return filepath.Join(other, "initdb"), nil }
	nowhere := func(name string) (string, error) { return "", &exec.Error{Name: name, Err: exec.ErrNotFound} }
	for name, tt := range map[string]struct {
		root     string
		lookPath func(string) (string, error)
		want     string
		err      error
	}{
		"Debian's newest goes first": {root, onPath, filepath.Join(root, "15", "bin"), nil},
		"then the path":              {t.TempDir(), onPath, other, nil},
		"there may be none":          {t.TempDir(), nowhere, "", errNotInstalled},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := programs(tt.root, tt.lookPath)
			if got != tt.want || !errors.Is(err, tt.err) {
				t.Errorf("programs = %q, %v; want %q, %v", got, err, tt.want, tt.err)
			}
		})
	}
}

// BenchmarkSchema is what a database costs each test of the suite.
func BenchmarkSchema(b *testing.B) {
	p, err := shared()
	if err != nil {
		missing(b, err)
	}
	for b.Loop() {
		_, drop, err := newSchema(p.url("gatehouse", "gatehouse"))
		if err != nil {
			b.Fatal(err)
		}
		if err := drop(); err != nil {
			b.Fatal(err)
		}
	}
}
