package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
)

// setupLinkCommand asks the running server for a new link to its setup page.
type setupLinkCommand struct {
	Config  string `type:"path" placeholder:"FILE" help:"The server's YAML file."`
	DataDir string `type:"path" placeholder:"DIR" help:"The server's data directory."`
}

// setupLinkPath is the local route behind it.
const setupLinkPath = "/local/setup-link"

// setupLink is the answer of that route.
type setupLink struct {
	URL       string    `json:"url"`
	ExpiresAt time.Time `json:"expires_at"`
}

// Run prints the link.
func (c *setupLinkCommand) Run(ctx context.Context, p *process) error {
	dir := c.DataDir
	if dir == "" {
		var err error
		if dir, err = defaultDataDir(p.env, os.Geteuid() == 0); err != nil {
			return usageError(fmt.Errorf("setup-link: %w", err))
		}
	}
	var link setupLink
	if err := callLocal(ctx, dir, setupLinkPath, struct{}{}, &link); err != nil {
		if errors.Is(err, fs.ErrNotExist) { // not even the directory
			err = explainDial(dir, err)
		}
		return fmt.Errorf("setup-link: %w", err)
	}
	_, err := fmt.Fprintln(p.stdout, link.URL)
	return err
}

// setupTokenName is the file in the data directory that holds the open setup token,
// for those who don't see what the server prints: in a container, or as a service.
const setupTokenName = "setup-token"

// setupLinks makes setup links, and keeps the token of the newest in a file.
type setupLinks struct {
	people    *identity.Service
	serverURL *url.URL
	dir       string // the data directory
	log       *slog.Logger
}

// make makes a link. The token stands behind the #: browsers send that part to no
// server, so it gets into no log and no Referer.
func (l *setupLinks) make(ctx context.Context) (setupLink, error) {
	token, expires, err := l.people.NewSetupToken(ctx)
	if err != nil {
		return setupLink{}, err
	}
	if err := l.write(token.Reveal()); err != nil {
		return setupLink{}, fmt.Errorf("keep the setup token: %w", err)
	}
	return setupLink{URL: l.serverURL.JoinPath("setup").String() + "#t=" + token.Reveal(), ExpiresAt: expires}, nil
}

// write replaces the file. At no time can another user read it, or anybody read half.
func (l *setupLinks) write(token string) error {
	f, err := os.CreateTemp(l.dir, setupTokenName+".*") // mode 0600
	if err != nil {
		return err
	}
	_, err = f.WriteString(token + "\n")
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), filepath.Join(l.dir, setupTokenName))
	}
	if err != nil {
		_ = os.Remove(f.Name())
	}
	return err
}

// used removes the file of a token that is spent.
func (l *setupLinks) used(ctx context.Context) {
	if err := os.Remove(filepath.Join(l.dir, setupTokenName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		l.log.WarnContext(ctx, "the file of the used setup token was not removed", "err", err)
	}
}
