package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
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

// newSetupLink makes a link. The token stands behind the #: browsers send that
// part to no server, so it gets into no log and no Referer.
func newSetupLink(ctx context.Context, people *identity.Service, serverURL *url.URL) (setupLink, error) {
	token, expires, err := people.NewSetupToken(ctx)
	if err != nil {
		return setupLink{}, err
	}
	return setupLink{URL: serverURL.JoinPath("setup").String() + "#t=" + token.Reveal(), ExpiresAt: expires}, nil
}
