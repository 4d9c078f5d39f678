package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/gatehouse-mdm/gatehouse/mdm/event"
)

// auditCommand is about the audit log as a whole; gatehouse events shows what is in it.
type auditCommand struct {
	Export auditExportCommand `cmd:"" help:"Write the audit log as JSON Lines, which can be verified anywhere."`
	Verify auditVerifyCommand `cmd:"" help:"Say whether an export, or the log of the server, is as it was recorded."`
}

type auditExportCommand struct {
	apiServer
	Since  string `placeholder:"TIME" help:"From the first event at this time, such as 2026-11-22T09:00:00Z, or so long ago: 24h."`
	Until  string `placeholder:"TIME" help:"Until the last event before this time."`
	Output string `short:"o" type:"path" placeholder:"FILE" help:"Write to this file, which must not be there yet. Default: the standard output."`
}

// Run prints the export, and verifies it on its way.
func (c *auditExportCommand) Run(ctx context.Context, p *process) error {
	query, err := sinceAndUntil(c.Since, c.Until)
	if err != nil {
		return err
	}
	body, err := c.ask(ctx, p, "/api/v1/audit/export", query)
	if err != nil {
		return err
	}
	defer body.Close()
	if c.Output == "" {
		v, err := copyExport(p.stdout, body)
		if err != nil {
			return err
		}
		fmt.Fprintln(p.stderr, verifiedLine(v))
		return nil
	}
	file, err := os.OpenFile(c.Output, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	v, err := copyExport(file, body)
	if err = errors.Join(err, file.Close()); err != nil {
		return errors.Join(err, os.Remove(c.Output)) // what is there of it would be taken for all
	}
	_, err = fmt.Fprintf(p.stdout, "%s: %s\n", filepath.Base(c.Output), verifiedLine(v))
	return err
}

// copyExport writes an export, and verifies it.
func copyExport(to io.Writer, from io.Reader) (event.Verified, error) {
	v, err := event.VerifyExport(io.TeeReader(from, to), nil)
	if err != nil {
		return v, fmt.Errorf("what the server sent is not a whole export: %w", err)
	}
	return v, nil
}

type auditVerifyCommand struct {
	apiServer
	File  string `arg:"" optional:"" type:"path" help:"An export. Without it, the server verifies its own log."`
	Event uint64 `placeholder:"SEQ" help:"The place of an event whose hash was noted, with --hash."`
	Hash  string `placeholder:"HEX" help:"That hash: 64 hexadecimal digits."`
}

// Run says what was verified, or what is wrong; then it fails.
func (c *auditVerifyCommand) Run(ctx context.Context, p *process) error {
	c.Hash = strings.ToLower(c.Hash)
	if (c.Event == 0) != (c.Hash == "") {
		return usageError(errors.New("--event and --hash belong together: audit verify --event 1204 --hash 5d0c…"))
	}
	if c.File == "" {
		return c.ofServer(ctx, p)
	}
	var want map[uint64]string
	if c.Event != 0 {
		want = map[uint64]string{c.Event: c.Hash}
	}
	file, err := os.Open(c.File)
	if err != nil {
		return err
	}
	defer file.Close()
	v, err := event.VerifyExport(file, want)
	if err != nil {
		return fmt.Errorf("%s: %w", filepath.Base(c.File), err)
	}
	_, err = fmt.Fprintln(p.stdout, verifiedLine(v))
	return err
}

func (c *auditVerifyCommand) ofServer(ctx context.Context, p *process) error {
	query := url.Values{}
	if c.Event != 0 {
		query = url.Values{"seq": {strconv.FormatUint(c.Event, 10)}, "hash": {c.Hash}}
	}
	var answer struct {
		OK      bool   `json:"ok"`
		Problem string `json:"problem"`
		First   uint64 `json:"first"`
		Last    uint64 `json:"last"`
		Events  int    `json:"events"`
		Erased  int    `json:"erased"`
		Hash    string `json:"hash"`
	}
	const patience = 10 * time.Minute // a log may have a million events
	if err := c.call(ctx, p, apiRequest{path: "/api/v1/audit/verify", query: query, wait: patience}, &answer); err != nil {
		return err
	}
	if !answer.OK {
		return errors.New(answer.Problem)
	}
	_, err := fmt.Fprintln(p.stdout, verifiedLine(event.Verified{
		First: answer.First, Last: answer.Last, Events: answer.Events, Erased: answer.Erased, Hash: answer.Hash,
	}))
	return err
}

// verifiedLine says what was verified, and what to note of it.
func verifiedLine(v event.Verified) string {
	if v.Last < v.First {
		return "no events"
	}
	line := fmt.Sprintf("events %d to %d are as they were recorded; event %d has the hash %s", v.First, v.Last, v.Last, v.Hash)
	if v.Erased > 0 {
		line += fmt.Sprintf(" (%s forgotten since)", count(v.Erased, "event"))
	}
	return line
}

// sinceAndUntil makes parameters of flags.
func sinceAndUntil(since, until string) (url.Values, error) {
	query := url.Values{}
	for _, f := range []struct{ name, value string }{{"since", since}, {"until", until}} {
		if f.value == "" {
			continue
		}
		at, err := time.Parse(time.RFC3339, f.value)
		if err != nil {
			ago, agoErr := time.ParseDuration(f.value)
			if agoErr != nil || ago < 0 {
				return nil, usageError(fmt.Errorf("--%s: %q is neither a time such as 2026-11-22T09:00:00Z nor so long ago, such as 24h", f.name, f.value))
			}
			at = time.Now().Add(-ago)
		}
		query.Set(f.name, at.UTC().Format(time.RFC3339Nano))
	}
	return query, nil
}
