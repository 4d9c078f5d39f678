package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
)

// tokenCommand is about API tokens.
type tokenCommand struct {
	List   tokenListCommand   `cmd:"" help:"List API tokens, without what they open doors with."`
	Create tokenCreateCommand `cmd:"" help:"Make an API token, which is shown this once."`
	Revoke tokenRevokeCommand `cmd:"" help:"Revoke an API token: it opens nothing from then on."`
}

const tokensPath = "/api/v1/tokens"

// listedToken is what a list shows of a token.
type listedToken struct {
	ID         string     `json:"id"`
	Name       string     `json:"name"`
	Scopes     []string   `json:"scopes"`
	User       string     `json:"user"`
	ExpiresAt  *time.Time `json:"expires_at"`
	LastUsedAt *time.Time `json:"last_used_at"`
}

type tokenListCommand struct {
	apiServer
	Output string `short:"o" enum:"table,json,id" default:"table" placeholder:"FORMAT" help:"table, json or id (default ${default})."`
}

// Run prints the list.
func (c *tokenListCommand) Run(ctx context.Context, p *process) error {
	return wrappedIf("token list", c.list(ctx, p))
}

func (c *tokenListCommand) list(ctx context.Context, p *process) error {
	switch c.Output {
	case "json":
		return printItems(ctx, p, c.apiServer, tokensPath, nil)
	case "id":
		return eachItem(ctx, p, c.apiServer, tokensPath, nil, func(t listedToken) error {
			_, err := fmt.Fprintln(p.stdout, t.ID)
			return err
		})
	}
	table := tabwriter.NewWriter(p.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "NAME\tMAY\tFOR\tLAST USED\tEXPIRES\tID")
	err := eachItem(ctx, p, c.apiServer, tokensPath, nil, func(t listedToken) error {
		_, err := fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\n", shown(t.Name), strings.Join(t.Scopes, " "), shown(t.User), timeOr(t.LastUsedAt, "never"), timeOr(t.ExpiresAt, "never"), t.ID)
		return err
	})
	return errors.Join(err, table.Flush())
}

// timeOr is a time in UTC, or a word for none.
func timeOr(at *time.Time, none string) string {
	if at == nil {
		return none
	}
	return at.UTC().Format(time.RFC3339)
}

type tokenCreateCommand struct {
	apiServer
	Name    string   `arg:"" help:"What uses the token, so that you know what stops when you revoke it."`
	Scope   []string `required:"" short:"s" placeholder:"SCOPE" help:"What it may do: read_only, helpdesk, admin, owner, cert:self, cert:any or cert:manage. Repeatable."`
	User    string   `placeholder:"LOGIN" help:"Whom it acts for: needed for cert:self. It stops working when the user is disabled."`
	Group   []string `placeholder:"GROUP" help:"Limits it to the devices of a group, by id or name. Repeatable."`
	Expires string   `placeholder:"TIME" help:"From when on it is refused: so long from now, such as 90d, 12w or 24h, or a date such as 2027-01-31. Default: never."`
	Output  string   `short:"o" enum:"table,json,token" default:"table" placeholder:"FORMAT" help:"table, json, or token for nothing else than the token itself (default ${default})."`
}

// Run makes a token.
func (c *tokenCreateCommand) Run(ctx context.Context, p *process) error {
	return wrappedIf("token create", c.create(ctx, p))
}

func (c *tokenCreateCommand) create(ctx context.Context, p *process) error {
	body := map[string]any{"name": c.Name, "scopes": c.Scope, "user": c.User}
	if c.Expires != "" {
		end, err := tokenEnd(c.Expires, time.Now())
		if err != nil {
			return usageError(fmt.Errorf("--expires: %w", err))
		}
		body["expires_at"] = end.UTC().Format(time.RFC3339)
	}
	groups := make([]string, len(c.Group))
	for i, name := range c.Group {
		var err error
		if groups[i], err = findGroup(ctx, p, c.apiServer, name); err != nil {
			return err
		}
	}
	body["group_ids"] = groups
	var answer json.RawMessage
	if err := c.call(ctx, p, apiRequest{method: http.MethodPost, path: tokensPath, body: body}, &answer); err != nil {
		return err
	}
	if c.Output == "json" {
		return printJSON(p.stdout, answer)
	}
	var made struct {
		listedToken
		Token string `json:"token"`
	}
	if err := json.Unmarshal(answer, &made); err != nil {
		return fmt.Errorf("the answer of the server: %w", err)
	}
	if c.Output == "token" {
		_, err := fmt.Fprintln(p.stdout, made.Token)
		return err
	}
	table := tabwriter.NewWriter(p.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintf(table, "Name\t%s\nId\t%s\nMay\t%s\nExpires\t%s\nToken\t%s\n", shown(made.Name), made.ID, strings.Join(made.Scopes, " "), timeOr(made.ExpiresAt, "never"), made.Token)
	if err := table.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(p.stderr, "Copy the token now: it is shown this once. The server keeps only a hash of it.")
	return nil
}

// tokenEnd reads when a token is to expire: a time, a date, whose last second still counts, or
// how long from now.
func tokenEnd(text string, now time.Time) (time.Time, error) {
	if at, err := time.Parse(time.RFC3339, text); err == nil {
		return at, nil
	}
	if day, err := time.Parse(time.DateOnly, text); err == nil {
		return day.AddDate(0, 0, 1), nil
	}
	const day = 24 * time.Hour
	units := map[byte]time.Duration{'h': time.Hour, 'd': day, 'w': 7 * day}
	if text != "" {
		n, err := strconv.ParseUint(text[:len(text)-1], 10, 16)
		if unit := units[text[len(text)-1]]; err == nil && n > 0 && unit > 0 && time.Duration(n) <= math.MaxInt64/unit {
			return now.Add(time.Duration(n) * unit), nil
		}
	}
	return time.Time{}, fmt.Errorf("%q is neither so long from now, such as 90d, 12w or 24h, nor a date such as 2027-01-31", text)
}

type tokenRevokeCommand struct {
	apiServer
	Which string `arg:"" name:"id" help:"Id or name of the token."`
}

// Run revokes a token.
func (c *tokenRevokeCommand) Run(ctx context.Context, p *process) error {
	return wrappedIf("token revoke", c.revoke(ctx, p))
}

func (c *tokenRevokeCommand) revoke(ctx context.Context, p *process) error {
	id, named := "", 0 // how many have the name
	err := eachItem(ctx, p, c.apiServer, tokensPath, nil, func(t listedToken) error {
		switch {
		case t.ID == c.Which:
			id = t.ID
		case t.Name == c.Which:
			if named++; id != c.Which {
				id = t.ID
			}
		}
		return nil
	})
	switch {
	case err != nil:
		return err
	case id == "":
		return &exitError{exitNotFound, fmt.Errorf("there is no token %q (gatehouse token list lists them)", c.Which)}
	case named > 1 && id != c.Which:
		return usageError(fmt.Errorf("%d tokens are called %q: revoke one by its id (gatehouse token list)", named, c.Which))
	}
	return c.call(ctx, p, apiRequest{method: http.MethodDelete, path: tokensPath + "/" + url.PathEscape(id)}, nil)
}
