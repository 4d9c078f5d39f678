package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
)

// deviceCommand is about devices, as the API has them.
type deviceCommand struct {
	List      deviceListCommand      `cmd:"" help:"List devices, or those that a filter finds."`
	Get       deviceGetCommand       `cmd:"" help:"Print one device."`
	Refresh   deviceRefreshCommand   `cmd:"" help:"Ask devices about themselves."`
	Inventory deviceInventoryCommand `cmd:"" help:"Print what a device says of itself, and as of when."`
	Apps      deviceAppsCommand      `cmd:"" help:"Print the apps on a device."`
	History   deviceHistoryCommand   `cmd:"" help:"Print what has changed on a device, the newest first."`
	Unenroll  deviceUnenrollCommand  `cmd:"" help:"End enrollments: devices remove their management profile when they next connect, and may enroll again."`
	Block     deviceBlockCommand     `cmd:"" help:"End enrollments and allow no other."`
	Unblock   deviceUnblockCommand   `cmd:"" help:"Let blocked devices enroll again."`
	Delete    deviceDeleteCommand    `cmd:"" help:"Delete the records of devices that have left: nothing changes on the devices."`
}

// deviceListCommand lists devices.
type deviceListCommand struct {
	apiServer
	Text    string   `arg:"" optional:"" help:"Words to look for in name, serial number, model, user, UDID and OS version."`
	Filter  []string `sep:"none" short:"f" placeholder:"CONDITION" help:"A condition, such as state=enrolled, platform=ios, os_version<18, model=iPad*, user=ana@example.com, supervised=unknown, last_seen_before=30d, pending_commands=true, lost=true, push=token_dead, attribute=BatteryLevel<0.2, app=com.example.slack<4.42 or profile=com.example.wifi. Repeatable: all must hold."`
	Group   string   `short:"g" placeholder:"GROUP" help:"Only those in this group, by its id or name."`
	Sort    string   `placeholder:"FIELD" help:"name, serial_number, model, os_version, user, state, enrolled_at or last_seen_at; --sort=-name for the other direction."`
	Output  string   `short:"o" enum:"table,json,csv,id" default:"table" placeholder:"FORMAT" help:"table, json, csv or id (default ${default})."`
	Columns string   `placeholder:"NAMES" help:"For -o csv: columns with commas in between, such as id,device_name,attributes.BatteryLevel. Default: all fields."`
	Limit   int      `placeholder:"N" help:"At most so many. Default: all."`
}

// Run prints the list.
func (c *deviceListCommand) Run(ctx context.Context, p *process) error {
	if err := c.print(ctx, p); err != nil {
		return wrapped("device list", err)
	}
	return nil
}

func (c *deviceListCommand) print(ctx context.Context, p *process) error {
	query, err := c.query()
	switch {
	case err != nil:
		return err
	case c.Limit < 0:
		return usageError(errors.New("--limit must be positive"))
	case c.Columns != "" && c.Output != "csv":
		return usageError(errors.New("--columns goes with -o csv"))
	case c.Limit > 0 && c.Output == "csv":
		return usageError(errors.New("--limit does not go with -o csv, which is the whole list"))
	}
	if c.Group != "" {
		id, err := findGroup(ctx, p, c.apiServer, c.Group)
		if err != nil {
			return err
		}
		query.Set("group_id", id)
	}
	switch c.Output {
	case "csv":
		return c.printCSV(ctx, p, query)
	case "json":
		return c.printJSON(ctx, p, query)
	case "id":
		return c.each(ctx, p, query, func(d listedDevice, _ int) error {
			_, err := fmt.Fprintln(p.stdout, d.ID)
			return err
		})
	}
	return c.printTable(ctx, p, query)
}

// query makes parameters of what the list is to be. os_version<18 is written os_version=<18
// there; both ways will do here.
func (c *deviceListCommand) query() (url.Values, error) {
	query, err := conditions(c.Filter)
	if err != nil {
		return nil, err
	}
	if c.Text != "" {
		query.Set("q", c.Text)
	}
	if c.Sort != "" {
		query.Set("sort", c.Sort)
	}
	return query, nil
}

// conditions makes parameters of the conditions of --filter.
func conditions(filter []string) (url.Values, error) {
	query := url.Values{}
	for _, condition := range filter {
		at := strings.IndexAny(condition, "=<>!")
		if at < 1 {
			return nil, usageError(fmt.Errorf("--filter: %q is no condition such as state=enrolled or os_version<18", condition))
		}
		name, value := condition[:at], strings.TrimPrefix(condition[at:], "=")
		switch name = strings.TrimSpace(name); name {
		case "limit", "cursor", "columns", "bom", "sort":
			return nil, usageError(fmt.Errorf("--filter: %s is no condition: see --help", name))
		}
		query.Add(name, value)
	}
	return query, nil
}

// listedDevice is what a list shows of a device.
type listedDevice struct {
	ID           string     `json:"id"`
	DeviceName   string     `json:"device_name"`
	SerialNumber string     `json:"serial_number"`
	Model        string     `json:"model"`
	OSVersion    string     `json:"os_version"`
	User         string     `json:"user"`
	State        string     `json:"state"`
	LastSeenAt   *time.Time `json:"last_seen_at"`

	raw json.RawMessage // all of it
}

// UnmarshalJSON implements [json.Unmarshaler].
func (d *listedDevice) UnmarshalJSON(b []byte) error {
	type plain listedDevice
	d.raw = append(json.RawMessage(nil), b...)
	return json.Unmarshal(b, (*plain)(d))
}

// each calls fn for each device of the list, page by page, with how many there are in all.
func (c *deviceListCommand) each(ctx context.Context, p *process, query url.Values, fn func(d listedDevice, total int) error) error {
	const most = 1000
	for left := cmp.Or(c.Limit, -1); ; {
		limit := most
		if left >= 0 {
			limit = min(left, most)
		}
		query.Set("limit", strconv.Itoa(limit))
		body, err := c.ask(ctx, p, "/api/v1/devices", query)
		if err != nil {
			return err
		}
		var page struct {
			Items []listedDevice `json:"items"`
			Next  string         `json:"next_cursor"`
			Total int            `json:"total"`
		}
		err = errors.Join(json.NewDecoder(body).Decode(&page), body.Close())
		if err != nil {
			return fmt.Errorf("the answer of the server: %w", err)
		}
		for _, d := range page.Items {
			if err := fn(d, page.Total); err != nil {
				return err
			}
		}
		if left >= 0 {
			left -= len(page.Items)
		}
		if page.Next == "" || left == 0 {
			return nil
		}
		query.Set("cursor", page.Next)
	}
}

func (c *deviceListCommand) printTable(ctx context.Context, p *process, query url.Values) error {
	table := tabwriter.NewWriter(p.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "NAME\tSERIAL\tMODEL\tOS\tUSER\tSTATE\tLAST SEEN\tID")
	n, of := 0, 0
	err := c.each(ctx, p, query, func(d listedDevice, total int) error {
		n, of = n+1, total
		seen := "never"
		if d.LastSeenAt != nil {
			seen = d.LastSeenAt.Local().Format("2006-01-02 15:04")
		}
		_, err := fmt.Fprintln(table, strings.Join([]string{
			shown(d.DeviceName), shown(d.SerialNumber), shown(d.Model), shown(d.OSVersion), shown(d.User), d.State, seen, d.ID,
		}, "\t"))
		return err
	})
	if err != nil {
		return err
	}
	if err := table.Flush(); err != nil {
		return err
	}
	if n < of {
		fmt.Fprintf(p.stderr, "%d of %s.\n", n, count(of, "device"))
	} else {
		fmt.Fprintf(p.stderr, "%s.\n", count(n, "device"))
	}
	return nil
}

// shown is text of a device's choice, as a terminal may have it.
func shown(text string) string {
	text = strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '?'
	}, text)
	return cmp.Or(text, "-")
}

// printJSON prints an array, device by device.
func (c *deviceListCommand) printJSON(ctx context.Context, p *process, query url.Values) error {
	before := "["
	err := c.each(ctx, p, query, func(d listedDevice, _ int) error {
		_, err := fmt.Fprintf(p.stdout, "%s\n  %s", before, d.raw)
		before = ","
		return err
	})
	if err != nil {
		return err
	}
	if before == "[" {
		_, err = fmt.Fprintln(p.stdout, "[]")
	} else {
		_, err = fmt.Fprintln(p.stdout, "\n]")
	}
	return err
}

func (c *deviceListCommand) printCSV(ctx context.Context, p *process, query url.Values) error {
	if c.Columns != "" {
		query.Set("columns", c.Columns)
	}
	body, err := c.ask(ctx, p, "/api/v1/devices.csv", query)
	if err != nil {
		return err
	}
	_, err = io.Copy(p.stdout, body)
	return errors.Join(err, body.Close())
}

// deviceGetCommand prints one device.
type deviceGetCommand struct {
	apiServer
	ID string `arg:"" help:"Id of the device."`
}

// Run prints the device as JSON.
func (c *deviceGetCommand) Run(ctx context.Context, p *process) error {
	if err := c.print(ctx, p); err != nil {
		return wrapped("device get", err)
	}
	return nil
}

func (c *deviceGetCommand) print(ctx context.Context, p *process) error {
	body, err := c.ask(ctx, p, "/api/v1/devices/"+url.PathEscape(c.ID), nil)
	if err != nil {
		return err
	}
	var d json.RawMessage
	if err := errors.Join(json.NewDecoder(body).Decode(&d), body.Close()); err != nil {
		return fmt.Errorf("the answer of the server: %w", err)
	}
	out := json.NewEncoder(p.stdout)
	out.SetIndent("", "  ")
	out.SetEscapeHTML(false)
	return out.Encode(d)
}
