package main

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/alecthomas/kong"

	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/bolt"
	"github.com/gatehouse-mdm/gatehouse/storage/postgres"
)

// dbCommand is what one does to databases without a server.
type dbCommand struct {
	Copy dbCopyCommand `cmd:"" help:"Copy a database into an empty one: from a data directory to PostgreSQL, or back."`
}

// dbCopyCommand moves an installation to another database.
type dbCopyCommand struct {
	From      string `placeholder:"URL" secret:"" help:"The database to copy: bolt:DIR, where DIR is a data directory, or postgres://USER:PASSWORD@HOST/DATABASE. No server may run on it. A password is better kept in GATEHOUSE_FROM_FILE, PGPASSWORD or PGPASSFILE than on the command line."`
	To        string `placeholder:"URL" secret:"" help:"The empty database to fill, in the same form; also GATEHOUSE_TO_FILE."`
	StartOver bool   `help:"Fill a database, too, in which the copy of another one was left unfinished, and replace that."`
	JSON      bool   `name:"json" help:"Print JSON."`
}

const dbCopyExample = "gatehouse db copy --from bolt:/var/lib/gatehouse --to postgres://gatehouse@db.example.com/gatehouse"

// Run copies, compares and says what is left to do. What it leaves when it fails is
// either an empty database, or one that no server will use and that the same command
// completes.
func (c *dbCopyCommand) Run(ctx context.Context, p *process) error {
	from, to, err := c.check()
	if err != nil {
		return usageError(fmt.Errorf("db copy: %w", p.settings.explain(err)))
	}
	summary, err := c.copy(ctx, p, from, to)
	if err != nil {
		return fmt.Errorf("db copy: %w", err)
	}
	if c.JSON {
		out := json.NewEncoder(p.stdout)
		out.SetIndent("", "  ")
		return out.Encode(summary)
	}
	return summary.print(p.stdout, from, to)
}

func (c *dbCopyCommand) check() (from, to dbPlace, err error) {
	if from, err = parseDBPlace("from", c.From); err != nil {
		return from, to, err
	}
	if to, err = parseDBPlace("to", c.To); err != nil {
		return from, to, err
	}
	if from == to {
		err = invalid("to", "is the same database as --from")
	}
	return from, to, err
}

// dbPlace is where a database is: in a data directory, or at a URL.
type dbPlace struct {
	dir string   // absolute, without symbolic links as far as it exists; or
	url storeURL // of PostgreSQL
}

// parseDBPlace reads the value of a flag. Its errors don't repeat it: who mistypes a
// scheme has a password behind it.
func parseDBPlace(flag, text string) (dbPlace, error) {
	text = strings.TrimSpace(text)
	dir, file := strings.CutPrefix(text, "bolt:")
	switch {
	case text == "":
		return dbPlace{}, invalid(flag, "is needed, as in: %s", dbCopyExample)
	case file && dir == "":
		return dbPlace{}, invalid(flag, "bolt: needs a data directory behind it, such as bolt:/var/lib/gatehouse")
	case file:
		dir, err := filepath.Abs(kong.ExpandPath(dir))
		if err != nil {
			return dbPlace{}, invalid(flag, "%w", err)
		}
		if real, err := filepath.EvalSymlinks(dir); err == nil {
			dir = real
		}
		return dbPlace{dir: dir}, nil
	case storeURL(text).shared():
		if err := postgres.Check(text); err != nil {
			return dbPlace{}, invalid(flag, "%w", err)
		}
		return dbPlace{url: storeURL(text)}, nil
	}
	return dbPlace{}, invalid(flag, "must be bolt:DIR or begin with postgres://, as in: %s", dbCopyExample)
}

// String names the database for people.
func (d dbPlace) String() string { return d.url.describe(d.dir) }

func (d dbPlace) shared() bool { return d.url.shared() }

// keyFile is where a server on the place has the key that seals its secrets, unless
// it was told of another file.
func (d dbPlace) keyFile() string { return filepath.Join(d.dir, secretsKeyName) }

// secretsKeyName is the default of --secrets-key-file, in the data directory.
const secretsKeyName = "secrets.key"

// open opens the database for us alone.
func (d dbPlace) open(ctx context.Context, log *slog.Logger) (storage.DB, error) {
	if d.shared() {
		return postgres.Open(ctx, string(d.url), postgres.Options{Log: log, Exclusive: true})
	}
	return bolt.Open(ctx, filepath.Join(d.dir, databaseName), bolt.Options{Log: log})
}

// openSource opens a database that must be there.
func (d dbPlace) openSource(ctx context.Context, log *slog.Logger) (storage.DB, error) {
	if !d.shared() {
		// Else it would be made.
		if _, err := os.Lstat(filepath.Join(d.dir, databaseName)); errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("there is no %s in %s; name the server's data directory", databaseName, d.dir)
		}
	}
	db, err := d.open(ctx, log)
	if errors.Is(err, storage.ErrInUse) {
		return nil, fmt.Errorf("stop every server that runs on %s first, or what it takes in meanwhile is lost: %w", d, err)
	}
	if err != nil {
		return nil, err
	}
	// Before a target is made for it.
	if err := storage.Unfinished(ctx, db); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w; complete that one first", d, err), db.Close())
	}
	err = db.View(ctx, func(tx storage.Tx) error {
		names, err := tx.Buckets()
		if err == nil && len(names) == 0 {
			err = fmt.Errorf("there is nothing to copy in %s", d)
		}
		return err
	})
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return db, nil
}

// openTarget opens a database, or makes one.
func (d dbPlace) openTarget(ctx context.Context, log *slog.Logger) (storage.DB, error) {
	if !d.shared() {
		if err := makeDataDir(d.dir, log); err != nil {
			return nil, err
		}
	}
	db, err := d.open(ctx, log)
	if errors.Is(err, storage.ErrInUse) {
		return nil, fmt.Errorf("%s must be empty, and used by nobody: %w", d, err)
	}
	return db, err
}

// copy copies from one place to the other.
func (c *dbCopyCommand) copy(ctx context.Context, p *process, from, to dbPlace) (s dbCopySummary, err error) {
	log := newLogger(p.stderr, "text", slog.LevelWarn)
	source, err := from.openSource(ctx, log)
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, source.Close()) }()
	target, err := to.openTarget(ctx, log)
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, target.Close()) }()

	fmt.Fprintf(p.stderr, "copying %s to %s\n", from, to)
	begun := time.Now()
	progress := newCopyProgress(p.stderr, isTerminal(p.stderr), time.Now)
	result, err := storage.Copy(ctx, source, target, storage.CopyOptions{
		Source: from.String(), StartOver: c.StartOver, Progress: progress.report, Now: time.Now,
	})
	progress.end()
	if err != nil {
		return s, explainCopy(err, result, from, to)
	}
	return newDBCopySummary(from, to, result, time.Since(begun)), nil
}

// explainCopy adds to an error what state the target is in, and what to do.
func explainCopy(err error, result storage.CopyResult, from, to dbPlace) error {
	if errors.Is(err, context.Canceled) {
		err = &interruptedError{err}
	}
	switch {
	case result.Begun:
		return fmt.Errorf("%w\n%s holds a part of the copy, and no server will start on it; run the same command again to complete it", err, to)
	case errors.Is(err, storage.ErrNotEmpty):
		return fmt.Errorf("%w\n%s was left as it is; a copy needs an empty database: name another one, or remove what it holds", err, to)
	case errors.Is(err, storage.ErrUnfinished):
		return fmt.Errorf("%w\ncomplete that copy, or add --start-over to replace what it has left in %s by a copy of %s", err, to, from)
	}
	return err
}

// interruptedError says what a signal did, instead of "context canceled".
type interruptedError struct{ err error }

func (e *interruptedError) Error() string { return "interrupted" }
func (e *interruptedError) Unwrap() error { return e.err }

// copyProgress prints how far a copy is: in one line on a terminal, and elsewhere now
// and then, so that a log of it stays short.
type copyProgress struct {
	w        io.Writer
	terminal bool
	now      func() time.Time
	phase    storage.CopyPhase
	begun    time.Time // the phase
	last     time.Time // when something was printed
}

func newCopyProgress(w io.Writer, terminal bool, now func() time.Time) *copyProgress {
	return &copyProgress{w: w, terminal: terminal, now: now}
}

func (c *copyProgress) report(p storage.CopyProgress) {
	at := c.now()
	pause := 10 * time.Second
	if c.terminal {
		pause = 200 * time.Millisecond
	}
	if p.Phase != c.phase {
		c.phase, c.begun = p.Phase, at
		c.last = time.Time{}
	}
	if at.Sub(c.last) < pause {
		return
	}
	c.last = at
	text := fmt.Sprintf("%s: %s, %d items, %s", p.Phase, p.Bucket, p.Items, byteCount(p.Bytes))
	if took := at.Sub(c.begun); took >= time.Second {
		text += fmt.Sprintf(", %s/s", byteCount(int64(float64(p.Bytes)/took.Seconds())))
	}
	if c.terminal {
		fmt.Fprint(c.w, clearLine+text)
	} else {
		fmt.Fprintln(c.w, text)
	}
}

// end leaves the terminal's line to what comes next.
func (c *copyProgress) end() {
	if c.terminal {
		fmt.Fprint(c.w, clearLine)
	}
}

const clearLine = "\r\x1b[K"

// byteCount says in a few digits how many bytes n are.
func byteCount(n int64) string {
	if n < 1000 {
		return fmt.Sprintf("%d B", n)
	}
	value, unit := float64(n), ""
	for _, unit = range []string{"kB", "MB", "GB", "TB"} {
		if value /= 1000; value < 999.95 {
			break
		}
	}
	return fmt.Sprintf("%.1f %s", value, unit)
}

// dbCopySummary is what was copied.
type dbCopySummary struct {
	From           string         `json:"from"`
	To             string         `json:"to"`
	Resumed        bool           `json:"resumed"`
	Items          int64          `json:"items"`
	Bytes          int64          `json:"bytes"`
	Seconds        float64        `json:"seconds"`
	SecretsKeyFile string         `json:"secrets_key_file,omitempty"` // where it was found
	Buckets        []dbCopyBucket `json:"buckets"`
}

type dbCopyBucket struct {
	Name   string `json:"name"`
	Items  int64  `json:"items"`
	Bytes  int64  `json:"bytes"`
	SHA256 string `json:"sha256"`
}

func newDBCopySummary(from, to dbPlace, result storage.CopyResult, took time.Duration) dbCopySummary {
	s := dbCopySummary{
		From: from.String(), To: to.String(), Resumed: result.Resumed, Seconds: took.Seconds(),
		Buckets: make([]dbCopyBucket, 0, len(result.Buckets)),
	}
	for _, b := range result.Buckets {
		s.Buckets = append(s.Buckets, dbCopyBucket{b.Name, b.Items, b.Bytes, hex.EncodeToString(b.SHA256[:])})
		s.Items += b.Items
		s.Bytes += b.Bytes
	}
	if !from.shared() {
		if _, err := os.Stat(from.keyFile()); err == nil {
			s.SecretsKeyFile = from.keyFile()
		}
	}
	return s
}

// print writes the summary for people.
func (s dbCopySummary) print(w io.Writer, from, to dbPlace) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "BUCKET\tITEMS\tSIZE\tSHA-256")
	for _, b := range s.Buckets {
		fmt.Fprintf(table, "%s\t%d\t%s\t%s…\n", b.Name, b.Items, byteCount(b.Bytes), b.SHA256[:16])
	}
	if err := table.Flush(); err != nil {
		return err
	}
	verb := "copied"
	if s.Resumed {
		verb = "an unfinished copy completed"
	}
	_, err := fmt.Fprintf(w, "\n%d items, %s, %s in %.1f s. Both databases were read again: counts and checksums of all buckets agree.\n\n%s\n",
		s.Items, byteCount(s.Bytes), verb, s.Seconds, s.keyHint(from, to))
	return err
}

// keyHint says which file a server needs beside the copy.
func (s dbCopySummary) keyHint(from, to dbPlace) string {
	key := s.SecretsKeyFile
	switch {
	case key == "" && from.shared():
		key = "the one that its servers were started with"
	case key == "":
		key = "the one that --secrets-key-file of its server names"
	}
	use := "Give it to every server on the new database by --secrets-key-file."
	if !to.shared() {
		use = fmt.Sprintf("Copy it to %s, or name it by --secrets-key-file.", to.keyFile())
	}
	return fmt.Sprintf("The key that opens the secrets in it was not copied, for it is in no database: %s. %s", key, use)
}
