package postgrestest

import (
	"bufio"
	"context"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/gatehouse-mdm/gatehouse/storage/storagetest/freeport"
)

// errNotInstalled means that this machine has no PostgreSQL.
var errNotInstalled = errors.New("no PostgreSQL is installed")

//go:embed supervise.sh
var supervisor string

// process is a private PostgreSQL server. It ends with this process, whatever way that
// ends, because a shell beside it waits for the end of our pipe.
type process struct {
	cmd     *exec.Cmd
	in, out *os.File
	replies *bufio.Reader // from out

	dir      string // of the server's files
	port     int
	password string // of the superuser, and of the owner of the database
}

// common are settings that serve every test: a server that only this machine reaches.
const common = `
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
dynamic_shared_memory_type = mmap # else a crash leaves segments behind
max_connections = 400
jit = off
timezone = 'UTC'
`

// kind is what a server is good for.
type kind struct {
	memory     string // directory for the files, if it has the room; the disk when empty
	settings   string // lines of postgresql.conf
	iterations int    // of SCRAM for the owner's password
}

// quick is for tests that ask nothing of a disk. What was committed is still written
// before it's acknowledged, so that it outlives a crash of the server. Checking a password
// as often as PostgreSQL does by itself would cost each connection milliseconds.
func quick() kind { return kind{memory, quickSettings, 1} }

// durable is what an operator has.
func durable() kind { return kind{"", "", 4096} }

const quickSettings = `
fsync = off
full_page_writes = off
wal_level = minimal
max_wal_senders = 0
shared_buffers = 32MB
max_wal_size = 128MB
`

// memory is where files live that need not outlive anything, on systems that have it.
const memory = "/dev/shm"

// startProcess starts a server with an empty database.
func startProcess(k kind) (_ *process, err error) {
	bin, err := programs("/usr/lib/postgresql", exec.LookPath)
	if err != nil {
		return nil, err
	}
	p := &process{password: rand.Text()}
	p.cmd = exec.Command("sh", "-c", supervisor, "supervise", bin, k.memory, os.TempDir(), common+k.settings)
	p.cmd.Dir = "/"
	p.cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C"} // and nothing of PG*
	if p.cmd.SysProcAttr, err = detached(); err != nil {
		return nil, err
	}
	theirIn, in, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer theirIn.Close()
	out, theirOut, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(err, in.Close())
	}
	defer theirOut.Close()
	// Not our standard error: go test waits until nobody holds it any more.
	p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = theirIn, theirOut, theirOut
	p.in, p.out, p.replies = in, out, bufio.NewReader(out)
	if err := p.cmd.Start(); err != nil {
		return nil, errors.Join(err, in.Close(), out.Close())
	}
	defer func() {
		if err != nil {
			_ = p.close()
		}
	}()
	if p.dir, err = p.do(p.password); err != nil {
		return nil, fmt.Errorf("make a PostgreSQL server: %w", err)
	}
	for attempt := 1; ; attempt++ {
		if p.port, err = freeport.Find(); err != nil {
			return nil, err
		}
		if err = p.start(); err == nil {
			break
		}
		if attempt == 5 || !strings.Contains(err.Error(), "in use") { // somebody was quicker
			return nil, err
		}
	}
	return p, p.createDatabase(k.iterations)
}

// createDatabase makes what an operator would: a database and its owner, who is nothing
// else.
func (p *process) createDatabase(iterations int) error {
	verifier, err := scramVerifier(p.password, iterations)
	if err != nil {
		return err
	}
	for _, sql := range []string{
		"CREATE ROLE gatehouse LOGIN PASSWORD '" + verifier + "'",
		"CREATE DATABASE gatehouse OWNER gatehouse",
	} {
		if err := execute(p.url("postgres", "postgres"), sql); err != nil {
			return err
		}
	}
	return nil
}

func (p *process) url(user, database string) string {
	u := url.URL{
		Scheme:   "postgres",
		User:     url.UserPassword(user, p.password),
		Host:     net.JoinHostPort("127.0.0.1", strconv.Itoa(p.port)),
		Path:     database,
		RawQuery: "sslmode=disable",
	}
	return u.String()
}

func (p *process) start() error {
	if _, err := p.do("start " + strconv.Itoa(p.port)); err != nil {
		return fmt.Errorf("start PostgreSQL on port %d: %w", p.port, err)
	}
	return nil
}

func (p *process) stop(m Mode) error {
	if _, err := p.do("stop " + string(m)); err != nil {
		return fmt.Errorf("stop PostgreSQL: %w", err)
	}
	return nil
}

// close ends the server, and waits until its files are gone.
func (p *process) close() error {
	return errors.Join(p.in.Close(), p.cmd.Wait(), p.out.Close())
}

// do has the supervisor do something and returns what it says.
func (p *process) do(command string) (string, error) {
	if _, err := fmt.Fprintln(p.in, command); err != nil {
		return "", err
	}
	var said strings.Builder
	for {
		line, err := p.replies.ReadString('\n')
		switch {
		case err != nil:
			return "", fmt.Errorf("the supervisor ended: %w\n%s", err, said.String())
		case line == "ok\n":
			return strings.TrimSpace(said.String()), nil
		case line == "failed\n":
			return "", errors.New(strings.TrimSpace(said.String()))
		}
		said.WriteString(line)
	}
}

// programs returns the directory of the newest PostgreSQL: Debian has one below root
// for each version, other systems have one on the path.
func programs(root string, lookPath func(string) (string, error)) (string, error) {
	newest, dir := 0.0, ""
	found, err := filepath.Glob(filepath.Join(root, "*", "bin", "initdb"))
	if err != nil {
		return "", err
	}
	for _, initdb := range found {
		bin := filepath.Dir(initdb)
		version, err := strconv.ParseFloat(filepath.Base(filepath.Dir(bin)), 64) // 9.6, 15
		if err == nil && version > newest {
			newest, dir = version, bin
		}
	}
	if dir != "" {
		return dir, nil
	}
	initdb, err := lookPath("initdb")
	if err != nil {
		return "", errNotInstalled
	}
	if initdb, err = filepath.EvalSymlinks(initdb); err != nil {
		return "", err
	}
	return filepath.Dir(initdb), nil
}

// scramVerifier returns what PostgreSQL keeps of a password (RFC 5803).
func scramVerifier(password string, iterations int) (string, error) {
	salt := make([]byte, 16)
	if _, err := rand.Read(salt); err != nil {
		return "", err
	}
	salted, err := pbkdf2.Key(sha256.New, password, salt, iterations, sha256.Size)
	if err != nil {
		return "", err
	}
	of := func(text string) []byte {
		mac := hmac.New(sha256.New, salted)
		mac.Write([]byte(text))
		return mac.Sum(nil)
	}
	stored := sha256.Sum256(of("Client Key"))
	b64 := base64.StdEncoding.EncodeToString
	return fmt.Sprintf("SCRAM-SHA-256$%d:%s$%s:%s", iterations, b64(salt), b64(stored[:]), b64(of("Server Key"))), nil
}

// execute runs SQL on a connection of its own. None is kept for the next time: one that
// was made in a bubble of testing/synctest is of no use outside of it.
func execute(dsn, sql string) error {
	ctx := context.Background() // a test's own has ended when it cleans up
	conn, err := pgconn.Connect(ctx, dsn)
	if err != nil {
		return err
	}
	_, err = conn.Exec(ctx, sql).ReadAll()
	return errors.Join(err, conn.Close(ctx))
}
