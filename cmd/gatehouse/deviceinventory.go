package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"text/tabwriter"
	"time"
)

// deviceRefreshCommand asks devices about themselves.
type deviceRefreshCommand struct {
	apiServer
	IDs    []string `arg:"" optional:"" name:"id" help:"Ids of devices."`
	Group  string   `short:"g" placeholder:"GROUP" help:"Instead of ids: the enrolled devices of this group, by its id or name."`
	Source []string `placeholder:"NAME" help:"DeviceInformation, SecurityInfo, ManagedApplicationList, InstalledApplicationList, ProfileList or CertificateList; several with commas in between. Default: all that make sense."`
	Output string   `short:"o" enum:"table,json" default:"table" placeholder:"FORMAT" help:"table or json (default ${default})."`
}

// Run queues the questions. Devices that can't be asked end the program with an error, when
// the others have been.
func (c *deviceRefreshCommand) Run(ctx context.Context, p *process) error {
	if err := c.refresh(ctx, p); err != nil {
		return wrapped("device refresh", err)
	}
	return nil
}

func (c *deviceRefreshCommand) refresh(ctx context.Context, p *process) error {
	var answer struct {
		Items []json.RawMessage `json:"items"`
	}
	if len(c.IDs) == 0 && c.Group == "" {
		return usageError(errors.New("give ids of devices, or --group GROUP"))
	}
	body := map[string]any{"sources": append([]string{}, c.Source...)}
	if err := (deviceArguments{Device: c.IDs, Group: c.Group}).name(ctx, p, c.apiServer, body); err != nil {
		return err
	}
	err := c.call(ctx, p, apiRequest{method: http.MethodPost, path: "/api/v1/inventory/refresh", body: body}, &answer)
	if err != nil {
		return err
	}
	if c.Output == "json" {
		if err := printJSON(p.stdout, answer.Items); err != nil {
			return err
		}
	}
	table := tabwriter.NewWriter(p.stdout, 0, 0, 2, ' ', 0)
	if c.Output == "table" {
		fmt.Fprintln(table, "ID\tSOURCE\tCOMMAND\tSTATE")
	}
	var no []rejectedDevice
	for _, raw := range answer.Items {
		var o struct {
			rejectedDevice
			Queued, Waiting []struct {
				Source      string `json:"source"`
				CommandUUID string `json:"command_uuid"`
			}
			LeftOut []struct{ Source, Code, Reason string } `json:"left_out"`
		}
		if err := json.Unmarshal(raw, &o); err != nil {
			return fmt.Errorf("the answer of the server: %w", err)
		}
		if o.Code != "" {
			no = append(no, o.rejectedDevice)
		}
		if c.Output == "json" {
			continue
		}
		for _, q := range o.Queued {
			fmt.Fprintf(table, "%s\t%s\t%s\tqueued\n", o.DeviceID, q.Source, q.CommandUUID)
		}
		for _, q := range o.Waiting {
			fmt.Fprintf(table, "%s\t%s\t%s\tasked before\n", o.DeviceID, q.Source, q.CommandUUID)
		}
		for _, l := range o.LeftOut {
			fmt.Fprintf(table, "%s\t%s\t-\tleft out: %s (%s)\n", o.DeviceID, l.Source, l.Reason, l.Code)
		}
	}
	if len(no) < len(answer.Items) {
		if err := table.Flush(); err != nil {
			return err
		}
	}
	return notAsked(no)
}

// notAsked is the error of devices that can't be asked; nil for none.
func notAsked(no []rejectedDevice) error {
	if len(no) == 0 {
		return nil
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s can't be asked:\n", count(len(no), "device"))
	printRejected(&b, no)
	code := exitNotFound
	for _, r := range no {
		if r.Code != "not_found" {
			code = exitFailed
		}
	}
	return &exitError{code, errors.New(strings.TrimSuffix(b.String(), "\n"))}
}

// deviceInventoryCommand prints what a device says of itself.
type deviceInventoryCommand struct {
	apiServer
	ID     string `arg:"" help:"Id of the device."`
	Output string `short:"o" enum:"table,json" default:"table" placeholder:"FORMAT" help:"table or json (default ${default})."`
}

// Run prints the inventory.
func (c *deviceInventoryCommand) Run(ctx context.Context, p *process) error {
	if err := c.print(ctx, p); err != nil {
		return wrapped("device inventory", err)
	}
	return nil
}

func (c *deviceInventoryCommand) print(ctx context.Context, p *process) error {
	var raw json.RawMessage
	if err := c.call(ctx, p, apiRequest{path: "/api/v1/devices/" + url.PathEscape(c.ID) + "/inventory"}, &raw); err != nil {
		return err
	}
	if c.Output == "json" {
		return printJSON(p.stdout, raw)
	}
	var in struct {
		Sources []struct {
			Source     string
			AnsweredAt *time.Time `json:"answered_at"`
			Failure    *struct {
				Reason string
				At     time.Time
			}
			Waiting *struct{ State string }
			Count   *int
			Facts   []struct {
				Label, Text string
				AnsweredAt  *time.Time `json:"answered_at"`
			}
		}
	}
	if err := json.Unmarshal(raw, &in); err != nil {
		return fmt.Errorf("the answer of the server: %w", err)
	}
	table := tabwriter.NewWriter(p.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "WHAT\tAS OF\tSOURCE\tVALUE")
	for _, s := range in.Sources {
		if s.Count != nil && s.AnsweredAt != nil {
			fmt.Fprintf(table, "(list)\t%s\t%s\t%s\n", minute(s.AnsweredAt), s.Source, count(*s.Count, "element"))
		}
		for _, f := range s.Facts {
			fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", shown(f.Label), minute(f.AnsweredAt), s.Source, shown(f.Text))
		}
		if s.AnsweredAt == nil && s.Failure == nil && s.Waiting == nil {
			fmt.Fprintf(table, "(not known)\t-\t%s\t-\n", s.Source)
		}
		if s.Waiting != nil {
			fmt.Fprintf(table, "(asked)\t-\t%s\t%s\n", s.Source, s.Waiting.State)
		}
		if s.Failure != nil {
			fmt.Fprintf(table, "(failed)\t%s\t%s\t%s\n", minute(&s.Failure.At), s.Source, shown(s.Failure.Reason))
		}
	}
	return table.Flush()
}

// deviceHistoryCommand prints what has changed on a device.
type deviceHistoryCommand struct {
	apiServer
	ID     string `arg:"" help:"Id of the device."`
	Output string `short:"o" enum:"table,json" default:"table" placeholder:"FORMAT" help:"table or json (default ${default})."`
}

// Run prints the changes, the newest first.
func (c *deviceHistoryCommand) Run(ctx context.Context, p *process) error {
	err := c.printList(ctx, p, "/api/v1/devices/"+url.PathEscape(c.ID)+"/history", c.Output, "AT\tCHANGE\tSOURCE", func(w io.Writer, raw json.RawMessage) error {
		var change struct {
			At              time.Time
			Summary, Source string
		}
		if err := json.Unmarshal(raw, &change); err != nil {
			return err
		}
		_, err := fmt.Fprintf(w, "%s\t%s\t%s\n", minute(&change.At), shown(change.Summary), change.Source)
		return err
	})
	if err != nil {
		return wrapped("device history", err)
	}
	return nil
}

// deviceAppsCommand prints the apps on a device.
type deviceAppsCommand struct {
	apiServer
	ID     string `arg:"" help:"Id of the device."`
	Output string `short:"o" enum:"table,json" default:"table" placeholder:"FORMAT" help:"table or json (default ${default})."`
}

// Run prints the apps.
func (c *deviceAppsCommand) Run(ctx context.Context, p *process) error {
	err := c.printList(ctx, p, "/api/v1/devices/"+url.PathEscape(c.ID)+"/apps", c.Output, "NAME\tVERSION\tIDENTIFIER\tINSTALLED\tMANAGED", func(w io.Writer, raw json.RawMessage) error {
		var app struct {
			Name, Version, Identifier string
			ShortVersion              string `json:"short_version"`
			Installed                 bool
			ManagedStatus             string `json:"managed_status"`
		}
		if err := json.Unmarshal(raw, &app); err != nil {
			return err
		}
		installed := "no"
		if app.Installed {
			installed = "yes"
		}
		_, err := fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", shown(app.Name), shown(cmp.Or(app.ShortVersion, app.Version)), shown(app.Identifier), installed, shown(app.ManagedStatus))
		return err
	})
	if err != nil {
		return wrapped("device apps", err)
	}
	return nil
}

// printList prints the elements of all pages of a list.
func (s apiServer) printList(ctx context.Context, p *process, path, output, head string, line func(io.Writer, json.RawMessage) error) error {
	all := []json.RawMessage{}
	for query := (url.Values{"limit": {"1000"}}); ; {
		var page struct {
			Items []json.RawMessage `json:"items"`
			Next  string            `json:"next_cursor"`
		}
		if err := s.call(ctx, p, apiRequest{path: path, query: query}, &page); err != nil {
			return err
		}
		all = append(all, page.Items...)
		if page.Next == "" {
			break
		}
		query.Set("cursor", page.Next)
	}
	if output == "json" {
		return printJSON(p.stdout, all)
	}
	table := tabwriter.NewWriter(p.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, head)
	for _, raw := range all {
		if err := line(table, raw); err != nil {
			return fmt.Errorf("the answer of the server: %w", err)
		}
	}
	return table.Flush()
}

// minute is a time as lists have it.
func minute(t *time.Time) string {
	if t == nil || t.IsZero() {
		return "-"
	}
	return t.Local().Format("2006-01-02 15:04")
}
