package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// eventsCommand shows what happened, and what happens.
type eventsCommand struct {
	apiServer
	Follow bool     `short:"f" help:"Go on with events as they happen."`
	After  string   `placeholder:"SEQ" help:"With --follow, begin behind the event of this number. 0: with the first there is."`
	Since  string   `placeholder:"TIME" help:"From this time, such as 2026-11-22T09:00:00Z, or so long ago: 24h."`
	Type   []string `placeholder:"TYPE" help:"Only actions that begin so: device.,command.finished"`
	Device string   `placeholder:"ID" help:"Only events of this device."`
	Limit  int      `default:"100" help:"At most so many of those that have happened, the newest."`
	JSON   bool     `name:"json" help:"Print one line of JSON for each event."`
}

// shownEvent is an event as the API has it.
type shownEvent struct {
	Seq         uint64            `json:"seq"`
	At          time.Time         `json:"at"`
	Actor       string            `json:"actor"`
	Action      string            `json:"action"`
	Outcome     string            `json:"outcome"`
	Reason      string            `json:"reason"`
	DeviceID    string            `json:"device_id"`
	User        string            `json:"user"`
	Certificate string            `json:"certificate"`
	Details     map[string]string `json:"details"`
}

// Run prints the events that have happened, the newest last, and then, if they are followed,
// those that happen.
func (c *eventsCommand) Run(ctx context.Context, p *process) error {
	switch {
	case c.Limit < 0:
		return usageError(errors.New("--limit must not be negative"))
	case c.After != "" && (!c.Follow || c.Since != ""):
		return usageError(errors.New("--after goes with --follow, and without --since: events --follow --after 1204"))
	}
	var newest uint64
	if c.Follow && c.Since != "" {
		var err error
		if newest, err = c.newest(ctx, p); err != nil {
			return err
		}
		c.After = strconv.FormatUint(newest, 10) // what comes behind it comes by the stream
	}
	if !c.Follow || c.Since != "" {
		if err := c.past(ctx, p, newest); err != nil {
			return err
		}
	}
	if !c.Follow {
		return nil
	}
	return c.follow(ctx, p)
}

// newest is the number of the newest event there is; 0: none.
func (c *eventsCommand) newest(ctx context.Context, p *process) (uint64, error) {
	var page struct {
		Items []struct {
			Seq uint64 `json:"seq"`
		} `json:"items"`
	}
	if err := c.call(ctx, p, apiRequest{path: "/api/v1/audit"}, &page); err != nil {
		return 0, err
	}
	var newest uint64
	for _, item := range page.Items {
		newest = max(newest, item.Seq)
	}
	return newest, nil
}

// past prints what has happened; while events are followed, until the one of that number.
func (c *eventsCommand) past(ctx context.Context, p *process, newest uint64) error {
	query, err := sinceAndUntil(c.Since, "")
	if err != nil {
		return err
	}
	if c.Device != "" {
		query.Set("device_id", c.Device)
	}
	if len(c.Type) == 1 {
		query.Set("action", c.Type[0])
	}
	query.Set("limit", "500")
	var all []json.RawMessage
	for first := true; first || len(all) < c.Limit && query.Get("cursor") != ""; first = false {
		var page struct {
			Items      []json.RawMessage `json:"items"`
			NextCursor string            `json:"next_cursor"`
		}
		if err := c.call(ctx, p, apiRequest{path: "/api/v1/audit", query: query}, &page); err != nil {
			return err
		}
		query.Set("cursor", page.NextCursor)
		for _, item := range page.Items {
			var e shownEvent
			if err := json.Unmarshal(item, &e); err != nil {
				return fmt.Errorf("the answer of the server: %w", err)
			}
			wanted := len(c.Type) < 2 || slices.ContainsFunc(c.Type, func(t string) bool { return strings.HasPrefix(e.Action, t) })
			if c.Follow && (e.Seq == 0 || e.Seq > newest) {
				continue
			}
			if wanted && len(all) < c.Limit {
				all = append(all, item)
			}
		}
	}
	for _, item := range slices.Backward(all) {
		if err := c.print(p.stdout, item); err != nil {
			return err
		}
	}
	return nil
}

// comeAgain is how long a client waits when a stream was cut.
const comeAgain = 2 * time.Second

// follow prints events as they happen, until ctx ends. A stream that is cut is opened again
// where it was.
func (c *eventsCommand) follow(ctx context.Context, p *process) error {
	query := url.Values{}
	if c.Device != "" {
		query.Set("device_id", c.Device)
	}
	if len(c.Type) > 0 {
		query.Set("type", strings.Join(c.Type, ","))
	}
	for begun := false; ; {
		if c.After != "" {
			query.Set("after", c.After)
		}
		body, err := c.ask(ctx, p, "/api/v1/events", query)
		var final *exitError
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil && (!begun || errors.As(err, &final)):
			return err
		case err == nil:
			begun = true
			err = c.stream(p, body)
			body.Close()
			if err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(comeAgain):
		}
	}
}

// stream prints the events of a stream until it ends.
func (c *eventsCommand) stream(p *process, body io.Reader) error {
	lines := bufio.NewScanner(body)
	lines.Buffer(nil, 1<<20)
	id, name, data := "", "", ""
	for lines.Scan() {
		field, value, _ := strings.Cut(lines.Text(), ": ")
		switch field {
		case "id":
			id = value
		case "event":
			name = value
		case "data":
			data = value
		}
		if lines.Text() != "" {
			continue
		}
		switch {
		case name == "gap":
			fmt.Fprintf(p.stderr, "some events are not there any more: %s\n", data)
		case data != "":
			if err := c.print(p.stdout, json.RawMessage(data)); err != nil {
				return err
			}
		}
		if id != "" {
			c.After = id
		}
		id, name, data = "", "", ""
	}
	return nil // it was cut: the caller comes again
}

func (c *eventsCommand) print(out io.Writer, item json.RawMessage) error {
	if c.JSON {
		_, err := fmt.Fprintf(out, "%s\n", item)
		return err
	}
	var e shownEvent
	if err := json.Unmarshal(item, &e); err != nil {
		return fmt.Errorf("the answer of the server: %w", err)
	}
	var about []string
	for _, fact := range []struct{ name, value string }{
		{"device", e.DeviceID}, {"user", e.User}, {"certificate", e.Certificate}, {"by", e.Actor},
	} {
		if fact.value != "" {
			about = append(about, fact.name+"="+fact.value)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(e.Details)) {
		about = append(about, key+"="+e.Details[key])
	}
	line := fmt.Sprintf("%8d  %s  %-28s %s", e.Seq, e.At.Local().Format("2006-01-02 15:04:05"), e.Action, strings.Join(about, " "))
	if e.Outcome != "ok" {
		line += " " + strings.ToUpper(e.Outcome)
	}
	if e.Reason != "" {
		line += ": " + e.Reason
	}
	_, err := fmt.Fprintln(out, strings.TrimRight(line, " "))
	return err
}
