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
	"os"
	"strings"
	"text/tabwriter"
	"time"
)

// webhookCommand is about webhooks, as the API has them.
type webhookCommand struct {
	Add        webhookAddCommand        `cmd:"" help:"Have another server told what happens."`
	List       webhookListCommand       `cmd:"" help:"List webhooks, how they do and what waits for them."`
	Test       webhookTestCommand       `cmd:"" help:"Send something to a webhook now, and say what happened."`
	Deliveries webhookDeliveriesCommand `cmd:"" help:"Print what was sent to a webhook, and what waits, the newest first."`
	Redeliver  webhookRedeliverCommand  `cmd:"" help:"Send a delivery again, or all that were given up."`
	Enable     webhookEnableCommand     `cmd:"" help:"Switch a webhook on that was switched off."`
	Delete     webhookDeleteCommand     `cmd:"" help:"Remove a webhook; what waits for it is not sent."`
}

const webhooksPath = "/api/v1/webhooks"

// webhookArgument is the webhook that a command is about.
type webhookArgument struct {
	Webhook string `arg:"" help:"Id or name of the webhook."`
}

// listedWebhook is what a list shows of a webhook.
type listedWebhook struct {
	ID        string `json:"id"`
	Name      string `json:"name"`
	URL       string `json:"url"`
	Format    string `json:"format"`
	State     string `json:"state"`
	SecretSet bool   `json:"secret_set"`
	Queue     struct {
		Pending  int        `json:"pending"`
		Dead     int        `json:"dead"`
		OldestAt *time.Time `json:"oldest_at"`
	} `json:"queue"`
	Health struct {
		LastError string `json:"last_error"`
	} `json:"health"`
}

// path returns where the API has the webhook.
func (a webhookArgument) path(ctx context.Context, p *process, s apiServer) (string, error) {
	var found []string
	err := eachItem(ctx, p, s, webhooksPath, nil, func(item listedWebhook) error {
		if item.ID == a.Webhook || item.Name == a.Webhook {
			found = append(found, item.ID)
		}
		return nil
	})
	switch {
	case err != nil:
		return "", err
	case len(found) == 0:
		return "", &exitError{exitNotFound, fmt.Errorf("there is no webhook %q (gatehouse webhook list lists them)", a.Webhook)}
	case len(found) > 1:
		return "", usageError(fmt.Errorf("%d webhooks have the name %q: give an id", len(found), a.Webhook))
	}
	return webhooksPath + "/" + url.PathEscape(found[0]), nil
}

type webhookAddCommand struct {
	apiServer
	URL          string   `arg:"" name:"url" help:"Where to send it, such as https://hooks.example.com/mdm."`
	Name         string   `placeholder:"NAME" help:"Default: the host of the URL."`
	Format       string   `enum:"nanomdm,cloudevents" default:"nanomdm" placeholder:"FORMAT" help:"nanomdm (messages of devices, as NanoMDM and MicroMDM send them) or cloudevents (default ${default})."`
	SecretFile   string   `type:"path" placeholder:"FILE" help:"File with the secret that signs what is sent; - reads standard input."`
	Event        []string `short:"e" placeholder:"PREFIX" help:"What the topics begin with, such as device. or mdm.TokenUpdate. Repeatable. Default: all of the format."`
	Device       []string `short:"d" placeholder:"ID" help:"Only what is about this device. Repeatable."`
	Header       []string `sep:"none" placeholder:"NAME=FILE" help:"A header of your own, with its value in a file. Repeatable."`
	RawPayloads  bool     `help:"Let messages of devices leave as they came, but for secrets."`
	AllowPrivate bool     `help:"Allow private addresses, and http there."`
	JSON         bool     `name:"json" help:"Print the server's answer."`
}

// Run makes a webhook.
func (c *webhookAddCommand) Run(ctx context.Context, p *process) error {
	return wrappedIf("webhook add", c.add(ctx, p))
}

func (c *webhookAddCommand) add(ctx context.Context, p *process) error {
	name := c.Name
	if u, err := url.Parse(c.URL); name == "" && err == nil {
		name = u.Host
	}
	body := map[string]any{
		"name": cmp.Or(name, c.URL), "url": c.URL, "format": c.Format, "raw_payloads": c.RawPayloads, "allow_private": c.AllowPrivate,
		"events": append([]string{}, c.Event...), "device_ids": append([]string{}, c.Device...),
	}
	if c.SecretFile != "" {
		secret, err := readLine(p, c.SecretFile)
		if err != nil {
			return fmt.Errorf("--secret-file: %w", err)
		}
		body["secret"] = secret
	}
	headers := map[string]string{}
	for _, header := range c.Header {
		name, file, ok := strings.Cut(header, "=")
		if !ok || name == "" || file == "" {
			return usageError(fmt.Errorf("--header: %q is not like Authorization=token.txt", header))
		}
		value, err := readLine(p, file)
		if err != nil {
			return fmt.Errorf("--header %s: %w", name, err)
		}
		headers[name] = value
	}
	if len(headers) > 0 {
		body["headers"] = headers
	}
	var answer json.RawMessage
	if err := c.call(ctx, p, apiRequest{method: http.MethodPost, path: webhooksPath, body: body}, &answer); err != nil {
		return err
	}
	if c.JSON {
		return printJSON(p.stdout, answer)
	}
	var made listedWebhook
	if err := json.Unmarshal(answer, &made); err != nil {
		return fmt.Errorf("the answer of the server: %w", err)
	}
	fmt.Fprintf(p.stdout, "%s is %s. Try it: gatehouse webhook test %s\n", shown(made.Name), made.ID, made.ID)
	if !made.SecretSet {
		fmt.Fprintln(p.stderr, "It has no secret: whoever receives it can't tell that it comes from here.")
	}
	return nil
}

// readLine reads a secret of one line out of a file, or of standard input for "-".
func readLine(p *process, file string) (string, error) {
	const most = 16 << 10
	in := p.stdin
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return "", err
		}
		defer f.Close()
		in = f
	}
	raw, err := io.ReadAll(io.LimitReader(in, most+1))
	if err != nil {
		return "", err
	}
	line := strings.TrimRight(string(raw), "\r\n")
	switch {
	case len(raw) > most:
		return "", fmt.Errorf("%s has more than %d bytes", file, most)
	case line == "":
		return "", fmt.Errorf("%s is empty", file)
	}
	return line, nil
}

type webhookListCommand struct {
	apiServer
	Output string `short:"o" enum:"table,json,id" default:"table" placeholder:"FORMAT" help:"table, json or id (default ${default})."`
}

// Run prints the list.
func (c *webhookListCommand) Run(ctx context.Context, p *process) error {
	return wrappedIf("webhook list", c.print(ctx, p))
}

func (c *webhookListCommand) print(ctx context.Context, p *process) error {
	if c.Output == "json" {
		return printItems(ctx, p, c.apiServer, webhooksPath, nil)
	}
	table := tabwriter.NewWriter(p.stdout, 0, 0, 2, ' ', 0)
	if c.Output == "table" {
		fmt.Fprintln(table, "NAME\tFORMAT\tSTATE\tWAITING\tGIVEN UP\tHOST\tID\tLAST ERROR")
	}
	err := eachItem(ctx, p, c.apiServer, webhooksPath, nil, func(item listedWebhook) error {
		if c.Output == "id" {
			_, err := fmt.Fprintln(table, item.ID)
			return err
		}
		host := ""
		if u, err := url.Parse(item.URL); err == nil {
			host = u.Host
		}
		_, err := fmt.Fprintf(table, "%s\t%s\t%s\t%d\t%d\t%s\t%s\t%s\n", shown(item.Name), item.Format, item.State, item.Queue.Pending, item.Queue.Dead, shown(host), item.ID, shown(item.Health.LastError))
		return err
	})
	return errors.Join(err, table.Flush())
}

// webhookTry is one request to a target, and what came of it.
type webhookTry struct {
	At         time.Time `json:"at"`
	DurationMS int64     `json:"duration_ms"`
	Status     *int      `json:"status"`
	Step       *string   `json:"step"`
	Error      string    `json:"error"`
}

// String says what came of it in a line.
func (t webhookTry) String() string {
	switch {
	case t.Step == nil && t.Status != nil:
		return fmt.Sprintf("%d in %d ms", *t.Status, t.DurationMS)
	case t.Step == nil:
		return "taken"
	}
	return fmt.Sprintf("%s: %s", *t.Step, t.Error)
}

type webhookTestCommand struct {
	apiServer
	webhookArgument
	JSON bool `name:"json" help:"Print the server's answer."`
}

// Run says what happened. A webhook that does not take it ends it with exitFailed.
func (c *webhookTestCommand) Run(ctx context.Context, p *process) error {
	return wrappedIf("webhook test", c.test(ctx, p))
}

func (c *webhookTestCommand) test(ctx context.Context, p *process) error {
	path, err := c.path(ctx, p, c.apiServer)
	if err != nil {
		return err
	}
	var answer json.RawMessage
	if err := c.call(ctx, p, apiRequest{method: http.MethodPost, path: path + "/test"}, &answer); err != nil {
		return err
	}
	var tested struct {
		webhookTry
		OK     bool
		Answer string
	}
	if err := json.Unmarshal(answer, &tested); err != nil {
		return fmt.Errorf("the answer of the server: %w", err)
	}
	if c.JSON {
		if err := printJSON(p.stdout, answer); err != nil {
			return err
		}
	} else {
		fmt.Fprintf(p.stdout, "%s\n", shown(tested.String()))
		if tested.Answer != "" {
			fmt.Fprintf(p.stdout, "  %s\n", shown(tested.Answer))
		}
	}
	if !tested.OK {
		return errors.New("the webhook did not take it")
	}
	return nil
}

// listedDelivery is what a list shows of a delivery.
type listedDelivery struct {
	ID            string       `json:"id"`
	Topic         string       `json:"topic"`
	DeviceID      *string      `json:"device_id"`
	State         string       `json:"state"`
	CreatedAt     time.Time    `json:"created_at"`
	NextAttemptAt *time.Time   `json:"next_attempt_at"`
	AttemptsMade  int          `json:"attempts_made"`
	Attempts      []webhookTry `json:"attempts"`
}

type webhookDeliveriesCommand struct {
	apiServer
	webhookArgument
	State  string `enum:"pending,delivered,dead," default:"" placeholder:"STATE" help:"pending, delivered or dead. Default: all."`
	Output string `short:"o" enum:"table,json,id" default:"table" placeholder:"FORMAT" help:"table, json or id (default ${default})."`
	Limit  int    `default:"50" placeholder:"N" help:"At most so many (default ${default}); 0 for all."`
}

// Run prints the log.
func (c *webhookDeliveriesCommand) Run(ctx context.Context, p *process) error {
	return wrappedIf("webhook deliveries", c.print(ctx, p))
}

// errEnough ends a list before its end.
var errEnough = errors.New("enough")

func (c *webhookDeliveriesCommand) print(ctx context.Context, p *process) error {
	if c.Limit < 0 {
		return usageError(errors.New("--limit must be positive"))
	}
	path, err := c.path(ctx, p, c.apiServer)
	if err != nil {
		return err
	}
	query := url.Values{}
	if c.State != "" {
		query.Set("state", c.State)
	}
	table := tabwriter.NewWriter(p.stdout, 0, 0, 2, ' ', 0)
	if c.Output == "table" {
		fmt.Fprintln(table, "CREATED\tTOPIC\tDEVICE\tSTATE\tTRIES\tLAST\tID")
	}
	all, n := []json.RawMessage{}, 0
	err = eachItem(ctx, p, c.apiServer, path+"/deliveries", query, func(raw json.RawMessage) error {
		if c.Limit > 0 && n == c.Limit {
			return errEnough
		}
		n++
		var d listedDelivery
		if err := json.Unmarshal(raw, &d); err != nil {
			return fmt.Errorf("the answer of the server: %w", err)
		}
		switch c.Output {
		case "json":
			all = append(all, raw)
			return nil
		case "id":
			_, err := fmt.Fprintln(table, d.ID)
			return err
		}
		last, device := "", ""
		if len(d.Attempts) > 0 {
			last = d.Attempts[len(d.Attempts)-1].String()
		}
		if d.DeviceID != nil {
			device = *d.DeviceID
		}
		_, err := fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%d\t%s\t%s\n", d.CreatedAt.Local().Format("2006-01-02 15:04:05"), d.Topic, shown(device), d.State, d.AttemptsMade, shown(last), d.ID)
		return err
	})
	if errors.Is(err, errEnough) {
		err = nil
	}
	if c.Output == "json" && err == nil {
		return printJSON(p.stdout, all)
	}
	return errors.Join(err, table.Flush())
}

type webhookRedeliverCommand struct {
	apiServer
	webhookArgument
	Delivery string `arg:"" optional:"" help:"Id of the delivery."`
	Dead     bool   `help:"All deliveries that were given up."`
}

// Run has it sent again.
func (c *webhookRedeliverCommand) Run(ctx context.Context, p *process) error {
	return wrappedIf("webhook redeliver", c.redeliver(ctx, p))
}

func (c *webhookRedeliverCommand) redeliver(ctx context.Context, p *process) error {
	if c.Dead == (c.Delivery != "") {
		return usageError(errors.New("name one delivery, or all that were given up: --dead"))
	}
	path, err := c.path(ctx, p, c.apiServer)
	if err != nil {
		return err
	}
	if c.Delivery != "" {
		err := c.call(ctx, p, apiRequest{method: http.MethodPost, path: path + "/deliveries/" + url.PathEscape(c.Delivery) + "/redeliver"}, nil)
		if err == nil {
			fmt.Fprintln(p.stdout, "It is sent again.")
		}
		return err
	}
	var answer struct{ Count int }
	if err := c.call(ctx, p, apiRequest{method: http.MethodPost, path: path + "/redeliver", query: url.Values{"state": {"dead"}}}, &answer); err != nil {
		return err
	}
	fmt.Fprintf(p.stdout, "Sent again: %d\n", answer.Count)
	return nil
}

type webhookEnableCommand struct {
	apiServer
	webhookArgument
}

// Run switches it on.
func (c *webhookEnableCommand) Run(ctx context.Context, p *process) error {
	path, err := c.path(ctx, p, c.apiServer)
	if err == nil {
		err = c.call(ctx, p, apiRequest{method: http.MethodPost, path: path + "/enable"}, nil)
	}
	return wrappedIf("webhook enable", err)
}

type webhookDeleteCommand struct {
	apiServer
	webhookArgument
}

// Run deletes it.
func (c *webhookDeleteCommand) Run(ctx context.Context, p *process) error {
	path, err := c.path(ctx, p, c.apiServer)
	if err == nil {
		err = c.call(ctx, p, apiRequest{method: http.MethodDelete, path: path}, nil)
	}
	return wrappedIf("webhook delete", err)
}
