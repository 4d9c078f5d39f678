package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/gatehouse-mdm/gatehouse/mdm/command"
)

// commandCommand is about commands to devices, as the API has them.
type commandCommand struct {
	Send   commandSendCommand   `cmd:"" help:"Send a command to devices. gatehouse explain NAME says what it takes."`
	Raw    commandRawCommand    `cmd:"" help:"Send a whole command, a property list with Command and CommandUUID."`
	List   commandListCommand   `cmd:"" help:"List commands, the newest first, or those of one device."`
	Get    commandGetCommand    `cmd:"" help:"Say how far a command is with each of its devices, and why."`
	Watch  commandWatchCommand  `cmd:"" help:"Follow a command until all devices have finished it."`
	Cancel commandCancelCommand `cmd:"" help:"Cancel a command for devices that do not have it."`
	Retry  commandRetryCommand  `cmd:"" help:"Send a command again to devices with which it came to nothing."`
}

// sending is what is common to all that queue a command.
type sending struct {
	Wait time.Duration `placeholder:"TIME" help:"Wait up to so long, at most 2m, for the devices to finish."`
	JSON bool          `name:"json" help:"Print JSON."`
}

// queuedCommand is the answer of the API for a command that was queued.
type queuedCommand struct {
	CommandUUID string `json:"command_uuid"`
	RequestType string `json:"request_type"`
	Devices     []struct {
		DeviceID string `json:"device_id"`
		State    string `json:"state"`
	} `json:"devices"`
	Rejected []rejectedDevice `json:"rejected"`
}

// queue sends what r asks for, and prints what became of it. Devices that may not get the
// command are a warning, and with --wait, one that failed is a failure.
func (s sending) queue(ctx context.Context, p *process, server apiServer, r apiRequest) error {
	if s.Wait < 0 {
		return usageError(errors.New("--wait must be positive"))
	}
	if s.Wait > 0 {
		if r.query == nil {
			r.query = url.Values{}
		}
		r.query.Set("wait", s.Wait.String())
		r.wait = s.Wait
	}
	r.method = http.MethodPost
	var answer json.RawMessage
	if err := server.call(ctx, p, r, &answer); err != nil {
		return err
	}
	var q queuedCommand
	if err := json.Unmarshal(answer, &q); err != nil {
		return fmt.Errorf("the answer of the server: %w", err)
	}
	if err := s.print(p, answer, q); err != nil {
		return err
	}
	var counts progressCounts
	for _, d := range q.Devices {
		counts.add(d.State)
	}
	if s.Wait > 0 {
		if err := counts.verdict(q.CommandUUID); err != nil {
			return err
		}
	}
	if n := len(q.Rejected); n > 0 {
		return &exitError{exitUsage, fmt.Errorf("%s did not get it", count(n, "device"))}
	}
	return nil
}

func (s sending) print(p *process, answer json.RawMessage, q queuedCommand) error {
	if s.JSON {
		return printJSON(p.stdout, answer)
	}
	if _, err := fmt.Fprintln(p.stdout, q.CommandUUID); err != nil {
		return err
	}
	if s.Wait > 0 {
		for _, d := range q.Devices {
			fmt.Fprintf(p.stderr, "  %s: %s\n", d.DeviceID, d.State)
		}
	}
	if len(q.Rejected) > 0 {
		fmt.Fprintln(p.stderr, "Not sent to:")
		printRejected(p.stderr, q.Rejected)
	}
	if s.Wait == 0 {
		fmt.Fprintf(p.stderr, "%s is on its way to %s: gatehouse command watch %s\n", q.RequestType, count(len(q.Devices), "device"), q.CommandUUID)
	}
	return nil
}

// progressCounts counts devices by how far they are.
type progressCounts struct {
	Queued       int `json:"queued"`
	Delivered    int `json:"delivered"`
	NotNow       int `json:"not_now"`
	Acknowledged int `json:"acknowledged"`
	Error        int `json:"error"`
	Cancelled    int `json:"cancelled"`
	Expired      int `json:"expired"`
	Total        int `json:"total"`
}

func (c *progressCounts) add(state string) {
	c.Total++
	switch state {
	case "queued":
		c.Queued++
	case "delivered":
		c.Delivered++
	case "not_now":
		c.NotNow++
	case "acknowledged":
		c.Acknowledged++
	case "error":
		c.Error++
	case "cancelled":
		c.Cancelled++
	case "expired":
		c.Expired++
	}
}

func (c progressCounts) pending() int { return c.Queued + c.Delivered + c.NotNow }

// String names the states that there are: "2 acknowledged, 1 queued".
func (c progressCounts) String() string {
	var parts []string
	for _, state := range []struct {
		n    int
		name string
	}{
		{c.Acknowledged, "acknowledged"}, {c.Error, "error"}, {c.Cancelled, "cancelled"}, {c.Expired, "expired"},
		{c.NotNow, "not now"}, {c.Delivered, "delivered"}, {c.Queued, "queued"},
	} {
		if state.n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", state.n, state.name))
		}
	}
	if len(parts) == 0 {
		return "no devices"
	}
	return strings.Join(parts, ", ")
}

// verdict is how the program ends: an error where a device has not done what it was asked,
// and a warning where that is not known yet.
func (c progressCounts) verdict(uuid string) error {
	switch failed := c.Error + c.Cancelled + c.Expired; {
	case failed > 0:
		return fmt.Errorf("with %s of %d it came to nothing: gatehouse command get %s says why, gatehouse command retry %s sends it again",
			count(failed, "device"), c.Total, uuid, uuid)
	case c.pending() > 0:
		return &exitError{exitUsage, fmt.Errorf("%s of %d have not finished: gatehouse command watch %s", count(c.pending(), "device"), c.Total, uuid)}
	}
	return nil
}

// commandSendCommand sends a command that is built of parameters.
type commandSendCommand struct {
	apiServer
	sending
	Name string `arg:"" help:"Apple's name of the command, such as DeviceLock."`
	deviceArguments
	Param      []string `sep:"none" short:"p" placeholder:"KEY=VALUE" help:"A parameter, such as Message=Hello, ReturnToService.Enabled=true or Queries=OSVersion. Repeatable; for a list, once an element. @FILE stands for what the file holds, what begins with { or [ is JSON for a dictionary or list."`
	ParamsFile string   `name:"params-file" placeholder:"FILE" help:"A JSON object with all parameters; - reads it from standard input."`
	Confirm    bool     `help:"Needed for what can't be undone, such as EraseDevice."`
	ExpiresIn  string   `name:"expires-in" placeholder:"TIME" help:"Do not send it later than so long from now, such as 72h."`
	Priority   string   `enum:"normal,urgent," default:"" placeholder:"PRIORITY" help:"normal or urgent: before what else a device waits for. Default: as the command is."`
}

// Run sends the command.
func (c *commandSendCommand) Run(ctx context.Context, p *process) error {
	body, err := c.body(p)
	if err == nil {
		err = c.name(ctx, p, c.apiServer, body)
	}
	if err == nil {
		err = c.queue(ctx, p, c.apiServer, apiRequest{path: "/api/v1/commands", body: body})
	}
	if err != nil {
		return wrapped("command send", c.help(err))
	}
	return nil
}

// help adds the next step to a mistake in the command.
func (c *commandSendCommand) help(err error) error {
	exit, ok := errors.AsType[*exitError](err)
	if !ok || exit.code != exitUsage {
		return err
	}
	switch text := err.Error(); {
	case strings.Contains(text, `"confirm": true`):
		return usageError(fmt.Errorf("%s can't be undone: say so with --confirm", c.Name))
	case strings.HasPrefix(text, "params"):
		return usageError(fmt.Errorf("%w gatehouse explain %s lists what there is", err, c.Name))
	}
	return err
}

func (c *commandSendCommand) body(p *process) (map[string]any, error) {
	if err := c.given(); err != nil {
		return nil, err
	}
	t, known := command.Lookup(c.Name)
	if !known {
		_, err := command.Explain(c.Name, nil)
		return nil, &exitError{exitNotFound, fmt.Errorf("%w (gatehouse explain lists them)", err)}
	}
	params := map[string]any{}
	if c.ParamsFile != "" {
		if len(c.Param) > 0 {
			return nil, usageError(errors.New("give one of --param and --params-file"))
		}
		raw, err := readInput(p, c.ParamsFile)
		if err != nil {
			return nil, usageError(fmt.Errorf("--params-file: %w", err))
		}
		dec := json.NewDecoder(bytes.NewReader(raw))
		dec.UseNumber()
		if err := dec.Decode(&params); err != nil || params == nil {
			return nil, usageError(fmt.Errorf("--params-file: %s holds no JSON object", c.ParamsFile))
		}
	}
	for _, param := range c.Param {
		if err := setParam(params, t.Keys, param); err != nil {
			return nil, usageError(fmt.Errorf("--param: %w", err))
		}
	}
	body := map[string]any{"request_type": c.Name, "params": params, "confirm": c.Confirm}
	if c.ExpiresIn != "" {
		body["expires_in"] = c.ExpiresIn
	}
	if c.Priority != "" {
		body["priority"] = c.Priority
	}
	return body, nil
}

// readInput reads a file, or standard input for "-".
func readInput(p *process, name string) ([]byte, error) {
	if name == "-" {
		return io.ReadAll(io.LimitReader(p.stdin, command.MaxRaw+1))
	}
	return os.ReadFile(name)
}

// commandRawCommand sends a property list.
type commandRawCommand struct {
	apiServer
	sending
	File string `arg:"" help:"The property list; - reads it from standard input."`
	deviceArguments
}

// Run sends the command.
func (c *commandRawCommand) Run(ctx context.Context, p *process) error {
	return wrappedIf("command raw", c.send(ctx, p))
}

func (c *commandRawCommand) send(ctx context.Context, p *process) error {
	if err := c.given(); err != nil {
		return err
	}
	if c.File == "-" && slices.Contains(c.Device, "-") {
		return usageError(errors.New("standard input holds the command or the ids, not both: name a file for one"))
	}
	raw, err := readInput(p, c.File)
	if err != nil {
		return usageError(err)
	}
	query := url.Values{}
	if c.Group != "" {
		id, err := findGroup(ctx, p, c.apiServer, c.Group)
		if err != nil {
			return err
		}
		query.Set("group_id", id)
	} else if query["device_ids"], err = readIDs(p, c.Device); err != nil {
		return err
	}
	return c.queue(ctx, p, c.apiServer, apiRequest{path: "/api/v1/commands/raw", query: query, body: raw, contentType: "application/xml"})
}

// commandListCommand lists commands.
type commandListCommand struct {
	apiServer
	Device string `placeholder:"ID" help:"Those of one device, with how far each is there."`
	Type   string `placeholder:"NAME" help:"Of one RequestType."`
	Open   bool   `help:"Only those that a device has not finished."`
	Limit  int    `default:"50" placeholder:"N" help:"At most so many (default ${default})."`
	JSON   bool   `name:"json" help:"Print JSON."`
}

// commandInList is a command in a list.
type commandInList struct {
	CommandUUID string          `json:"command_uuid"`
	RequestType string          `json:"request_type"`
	CreatedAt   time.Time       `json:"created_at"`
	CreatedBy   string          `json:"created_by"`
	Progress    *progressCounts `json:"progress"`
	entryState                  // of a device's list

	raw json.RawMessage
}

// UnmarshalJSON implements [json.Unmarshaler].
func (l *commandInList) UnmarshalJSON(b []byte) error {
	type plain commandInList
	l.raw = append(json.RawMessage(nil), b...)
	return json.Unmarshal(b, (*plain)(l))
}

// entryState is how far a command is with one device.
type entryState struct {
	DeviceID   string `json:"device_id"`
	State      string `json:"state"`
	WaitingFor *struct {
		Reason string `json:"reason"`
	} `json:"waiting_for"`
	SupersededBy string `json:"superseded_by"`
	Error        string `json:"error"`
	Summary      string `json:"summary"`
}

// why says in a sentence or two what there is to say beside the state.
func (e entryState) why() string {
	switch {
	case e.WaitingFor != nil:
		return e.WaitingFor.Reason
	case e.SupersededBy != "":
		return e.SupersededBy + " took its place."
	case e.Error != "":
		return e.Error
	}
	return e.Summary
}

// Run prints the list.
func (c *commandListCommand) Run(ctx context.Context, p *process) error {
	if err := c.print(ctx, p); err != nil {
		return wrapped("command list", err)
	}
	return nil
}

func (c *commandListCommand) print(ctx context.Context, p *process) error {
	switch {
	case c.Limit < 1:
		return usageError(errors.New("--limit must be positive"))
	case c.Device != "" && (c.Type != "" || c.Open):
		return usageError(errors.New("--type and --open do not go with --device"))
	}
	all, more, err := c.read(ctx, p)
	if err != nil {
		return err
	}
	if c.JSON {
		items := make([]json.RawMessage, len(all))
		for i, l := range all {
			items[i] = l.raw
		}
		return printJSON(p.stdout, items)
	}
	table := tabwriter.NewWriter(p.stdout, 0, 0, 2, ' ', 0)
	if c.Device != "" {
		fmt.Fprintln(table, "CREATED\tCOMMAND\tSTATE\tUUID\tWHY")
	} else {
		fmt.Fprintln(table, "CREATED\tCOMMAND\tPROGRESS\tUUID\tBY")
	}
	for _, l := range all {
		state, last := l.State, shown(l.why())
		if c.Device == "" {
			state, last = "very many devices", shown(l.CreatedBy)
			if l.Progress != nil {
				state = l.Progress.String()
			}
		}
		fmt.Fprintln(table, strings.Join([]string{l.CreatedAt.Local().Format("2006-01-02 15:04"), shown(l.RequestType), state, l.CommandUUID, last}, "\t"))
	}
	if err := table.Flush(); err != nil {
		return err
	}
	if more {
		fmt.Fprintf(p.stderr, "The newest %d. There are more: --limit %d\n", len(all), 10*c.Limit)
	}
	return nil
}

// read returns up to c.Limit commands, and whether there are more.
func (c *commandListCommand) read(ctx context.Context, p *process) (all []commandInList, more bool, err error) {
	path, query := "/api/v1/commands", url.Values{}
	if c.Device != "" {
		path = "/api/v1/devices/" + url.PathEscape(c.Device) + "/commands"
	}
	if c.Type != "" {
		query.Set("request_type", c.Type)
	}
	if c.Open {
		query.Set("open", "true")
	}
	for {
		query.Set("limit", strconv.Itoa(min(c.Limit-len(all), 1000)))
		var page struct {
			Items []commandInList `json:"items"`
			Next  string          `json:"next_cursor"`
		}
		if err := c.call(ctx, p, apiRequest{path: path, query: query}, &page); err != nil {
			return nil, false, err
		}
		all = append(all, page.Items...)
		if page.Next == "" || len(all) >= c.Limit {
			return all, page.Next != "", nil
		}
		query.Set("cursor", page.Next)
	}
}

// commandGetCommand says how far one command is.
type commandGetCommand struct {
	apiServer
	UUID  string   `arg:"" name:"uuid" help:"The command's UUID."`
	State []string `placeholder:"STATE" help:"Only devices in this state, such as error. Repeatable."`
	JSON  bool     `name:"json" help:"Print JSON, with what each device answered."`
}

// wholeCommand is a command with its devices.
type wholeCommand struct {
	RequestType string            `json:"request_type"`
	CreatedAt   time.Time         `json:"created_at"`
	CreatedBy   string            `json:"created_by"`
	RetryOf     string            `json:"retry_of"`
	ExpiresAt   *time.Time        `json:"expires_at"`
	Progress    progressCounts    `json:"progress"`
	Devices     []json.RawMessage `json:"devices"`
	Next        string            `json:"next_cursor"`
}

// Run prints the command.
func (c *commandGetCommand) Run(ctx context.Context, p *process) error {
	if err := c.print(ctx, p); err != nil {
		return wrapped("command get", err)
	}
	return nil
}

func (c *commandGetCommand) print(ctx context.Context, p *process) error {
	path, query := "/api/v1/commands/"+url.PathEscape(c.UUID), url.Values{}
	if len(c.State) > 0 {
		query.Set("state", strings.Join(c.State, ","))
	}
	var (
		whole   wholeCommand
		devices []json.RawMessage
	)
	first := json.RawMessage{}
	for {
		var answer json.RawMessage
		if err := c.call(ctx, p, apiRequest{path: path, query: query}, &answer); err != nil {
			return err
		}
		if len(first) == 0 {
			first = answer
		}
		whole = wholeCommand{}
		if err := json.Unmarshal(answer, &whole); err != nil {
			return fmt.Errorf("the answer of the server: %w", err)
		}
		devices = append(devices, whole.Devices...)
		if whole.Next == "" {
			break
		}
		query.Set("cursor", whole.Next)
	}
	if c.JSON {
		var out map[string]any
		dec := json.NewDecoder(bytes.NewReader(first))
		dec.UseNumber()
		if err := dec.Decode(&out); err != nil {
			return err
		}
		out["devices"], out["next_cursor"] = devices, ""
		return printJSON(p.stdout, out)
	}
	fmt.Fprintf(p.stdout, "%s %s\n", whole.RequestType, c.UUID)
	fmt.Fprintf(p.stdout, "created %s by %s\n", whole.CreatedAt.Local().Format("2006-01-02 15:04"), shown(whole.CreatedBy))
	if whole.RetryOf != "" {
		fmt.Fprintf(p.stdout, "another try of %s\n", whole.RetryOf)
	}
	if whole.ExpiresAt != nil {
		fmt.Fprintf(p.stdout, "not sent after %s\n", whole.ExpiresAt.Local().Format("2006-01-02 15:04"))
	}
	fmt.Fprintf(p.stdout, "%s\n\n", whole.Progress)
	table := tabwriter.NewWriter(p.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "DEVICE\tSTATE\tWHY")
	for _, raw := range devices {
		var e entryState
		if err := json.Unmarshal(raw, &e); err != nil {
			return fmt.Errorf("the answer of the server: %w", err)
		}
		fmt.Fprintf(table, "%s\t%s\t%s\n", e.DeviceID, e.State, shown(e.why()))
	}
	return table.Flush()
}

// commandWatchCommand follows one command.
type commandWatchCommand struct {
	apiServer
	UUID  string        `arg:"" name:"uuid" help:"The command's UUID."`
	Every time.Duration `default:"2s" placeholder:"TIME" help:"Ask so often (default ${default})."`
	For   time.Duration `placeholder:"TIME" help:"Give up after so long. Default: never."`
}

// Run prints how far the command is whenever that changes, until all devices have finished.
// Its exit code is 0 if all have done what they were asked, 1 if not, and 2 if some have not
// finished.
func (c *commandWatchCommand) Run(ctx context.Context, p *process) error {
	if err := c.watch(ctx, p); err != nil {
		return wrapped("command watch", err)
	}
	return nil
}

func (c *commandWatchCommand) watch(ctx context.Context, p *process) error {
	if c.Every < 100*time.Millisecond || c.For < 0 {
		return usageError(errors.New("--every must be at least 100ms, and --for positive"))
	}
	var end <-chan time.Time
	if c.For > 0 {
		end = time.After(c.For)
	}
	tick := time.NewTicker(c.Every)
	defer tick.Stop()
	for before := ""; ; {
		var whole wholeCommand
		query := url.Values{"limit": {"1"}}
		if err := c.call(ctx, p, apiRequest{path: "/api/v1/commands/" + url.PathEscape(c.UUID), query: query}, &whole); err != nil {
			return err
		}
		if now := whole.Progress.String(); now != before {
			fmt.Fprintf(p.stdout, "%s  %s\n", time.Now().Format(time.TimeOnly), now)
			before = now
		}
		if whole.Progress.pending() == 0 {
			return whole.Progress.verdict(c.UUID)
		}
		select {
		case <-tick.C:
		case <-end:
			return whole.Progress.verdict(c.UUID)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// commandCancelCommand cancels one command.
type commandCancelCommand struct {
	apiServer
	UUID   string   `arg:"" name:"uuid" help:"The command's UUID."`
	Device []string `placeholder:"ID" help:"Only for this device. Repeatable. Default: all that do not have it."`
}

// Run cancels the command.
func (c *commandCancelCommand) Run(ctx context.Context, p *process) error {
	if err := c.cancel(ctx, p); err != nil {
		return wrapped("command cancel", err)
	}
	return nil
}

func (c *commandCancelCommand) cancel(ctx context.Context, p *process) error {
	uuid := url.PathEscape(c.UUID)
	for _, id := range c.Device {
		err := c.call(ctx, p, apiRequest{method: http.MethodDelete, path: "/api/v1/devices/" + url.PathEscape(id) + "/commands/" + uuid}, nil)
		if err != nil {
			return wrapped(id, err)
		}
		fmt.Fprintf(p.stderr, "Cancelled for %s.\n", id)
	}
	if len(c.Device) > 0 {
		return nil
	}
	var answer struct {
		Cancelled int `json:"cancelled"`
	}
	if err := c.call(ctx, p, apiRequest{method: http.MethodPost, path: "/api/v1/commands/" + uuid + "/cancel"}, &answer); err != nil {
		return err
	}
	if answer.Cancelled == 0 {
		fmt.Fprintf(p.stderr, "No device waits for it that does not have it: gatehouse command get %s says how each is.\n", c.UUID)
		return nil
	}
	fmt.Fprintf(p.stderr, "Cancelled for %s.\n", count(answer.Cancelled, "device"))
	return nil
}

// commandRetryCommand sends one command again.
type commandRetryCommand struct {
	apiServer
	sending
	UUID      string   `arg:"" name:"uuid" help:"The command's UUID."`
	Device    []string `placeholder:"ID" help:"Only to this device. Repeatable. Default: all with which it came to nothing."`
	Confirm   bool     `help:"Needed for what can't be undone, such as EraseDevice."`
	ExpiresIn string   `name:"expires-in" placeholder:"TIME" help:"Do not send it later than so long from now, such as 72h."`
}

// Run sends the command again.
func (c *commandRetryCommand) Run(ctx context.Context, p *process) error {
	body := map[string]any{"confirm": c.Confirm}
	if len(c.Device) > 0 {
		body["device_ids"] = c.Device
	}
	if c.ExpiresIn != "" {
		body["expires_in"] = c.ExpiresIn
	}
	err := c.queue(ctx, p, c.apiServer, apiRequest{path: "/api/v1/commands/" + url.PathEscape(c.UUID) + "/retry", body: body})
	if err != nil {
		if strings.Contains(err.Error(), `"confirm": true`) {
			err = usageError(errors.New("the command can't be undone: say so with --confirm"))
		}
		return wrapped("command retry", err)
	}
	return nil
}
