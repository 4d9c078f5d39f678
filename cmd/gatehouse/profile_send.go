package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
)

type profileCheckCommand struct {
	apiServer
	profileArgument
	deviceArguments
	Version int  `placeholder:"N" help:"Default: the latest."`
	JSON    bool `name:"json" help:"Print the server's answer."`
}

// Run prints the forecast. Devices that would not take the profile end it with exitUsage.
func (c *profileCheckCommand) Run(ctx context.Context, p *process) error {
	return wrappedIf("profile check", c.check(ctx, p))
}

func (c *profileCheckCommand) check(ctx context.Context, p *process) error {
	if err := c.given(); err != nil {
		return err
	}
	path, err := c.path(ctx, p, c.apiServer)
	if err != nil {
		return err
	}
	var answer json.RawMessage
	body := map[string]any{"version": c.Version}
	if err := c.name(ctx, p, c.apiServer, body); err != nil {
		return err
	}
	if err := c.call(ctx, p, apiRequest{method: http.MethodPost, path: path + "/check", body: body}, &answer); err != nil {
		return err
	}
	var forecast struct {
		Summary       string
		Total, Accept int
		Verdicts      []struct {
			DeviceIDs []string `json:"device_ids"`
			Code      string
			Reason    string
			Findings  []finding
			LeftOut   []finding `json:"left_out"`
		}
	}
	if err := json.Unmarshal(answer, &forecast); err != nil {
		return fmt.Errorf("the answer of the server: %w", err)
	}
	if c.JSON {
		err = printJSON(p.stdout, answer)
	} else {
		fmt.Fprintln(p.stdout, forecast.Summary)
		for _, v := range forecast.Verdicts {
			fmt.Fprintf(p.stdout, "%s: %s (%s)\n", count(len(v.DeviceIDs), "device"), v.Reason, v.Code)
			for _, f := range v.Findings {
				fmt.Fprintf(p.stdout, "  %s\n", shown(f.String()))
			}
			for _, f := range v.LeftOut {
				fmt.Fprintf(p.stdout, "  send --reduce leaves out: %s\n", shown(f.place()))
			}
		}
	}
	if err == nil && forecast.Accept < forecast.Total {
		err = usageError(fmt.Errorf("%s would not take it as it is", count(forecast.Total-forecast.Accept, "device")))
	}
	return err
}

// place says what of a profile is meant.
func (f finding) place() string {
	if f.Path == "" {
		return f.PayloadType
	}
	return f.PayloadType + " (" + f.Path + ")"
}

type profileSendCommand struct {
	apiServer
	profileArgument
	deviceArguments
	Version   int    `placeholder:"N" help:"Default: the latest."`
	Reduce    bool   `help:"Send devices that would reject it the part of it that they take."`
	ExpiresIn string `placeholder:"DURATION" help:"Give up on devices that have not fetched it by then: 72h."`
	JSON      bool   `name:"json" help:"Print the server's answer."`
}

// Run queues the profile. Devices that do not get it, while others do, end it with exitUsage.
func (c *profileSendCommand) Run(ctx context.Context, p *process) error {
	return wrappedIf("profile send", c.send(ctx, p))
}

func (c *profileSendCommand) send(ctx context.Context, p *process) error {
	if err := c.given(); err != nil {
		return err
	}
	path, err := c.path(ctx, p, c.apiServer)
	if err != nil {
		return err
	}
	body := map[string]any{"version": c.Version, "reduce": c.Reduce, "expires_in": c.ExpiresIn}
	if err := c.name(ctx, p, c.apiServer, body); err != nil {
		return err
	}
	var answer json.RawMessage
	if err := c.call(ctx, p, apiRequest{method: http.MethodPost, path: path + "/send", body: body}, &answer); err != nil {
		return err
	}
	var sent struct {
		BatchID string `json:"batch_id"`
		Version int
		Devices []struct {
			Reduced bool
		}
		Rejected []rejectedDevice
	}
	if err := json.Unmarshal(answer, &sent); err != nil {
		return fmt.Errorf("the answer of the server: %w", err)
	}
	if c.JSON {
		err = printJSON(p.stdout, answer)
	} else {
		parts := 0
		for _, d := range sent.Devices {
			if d.Reduced {
				parts++
			}
		}
		fmt.Fprintf(p.stdout, "Version %d is on its way to %s (batch %s).", sent.Version, count(len(sent.Devices), "device"), sent.BatchID)
		if parts > 0 {
			fmt.Fprintf(p.stdout, " %d of them get a part of it.", parts)
		}
		fmt.Fprintln(p.stdout)
	}
	return errors.Join(err, notAll(p, sent.Rejected))
}

// notAll names the devices that were rejected while others were not.
func notAll(p *process, rejected []rejectedDevice) error {
	if len(rejected) == 0 {
		return nil
	}
	printRejected(p.stderr, rejected)
	return usageError(fmt.Errorf("%s rejected", count(len(rejected), "device")))
}

type profileRemoveCommand struct {
	apiServer
	profileArgument
	deviceArguments
	JSON bool `name:"json" help:"Print the server's answer."`
}

// Run queues the removal. Devices that do not have the profile, while others do, end it with
// exitUsage.
func (c *profileRemoveCommand) Run(ctx context.Context, p *process) error {
	return wrappedIf("profile remove", c.remove(ctx, p))
}

func (c *profileRemoveCommand) remove(ctx context.Context, p *process) error {
	if err := c.given(); err != nil {
		return err
	}
	path, err := c.path(ctx, p, c.apiServer)
	if err != nil {
		return err
	}
	body := map[string]any{}
	if err := c.name(ctx, p, c.apiServer, body); err != nil {
		return err
	}
	var answer json.RawMessage
	if err := c.call(ctx, p, apiRequest{method: http.MethodPost, path: path + "/remove", body: body}, &answer); err != nil {
		return err
	}
	var removed struct {
		CommandUUID string   `json:"command_uuid"`
		DeviceIDs   []string `json:"device_ids"`
		Unsent      []string
		Rejected    []rejectedDevice
	}
	if err := json.Unmarshal(answer, &removed); err != nil {
		return fmt.Errorf("the answer of the server: %w", err)
	}
	if c.JSON {
		err = printJSON(p.stdout, answer)
	} else {
		if len(removed.DeviceIDs) > 0 {
			fmt.Fprintf(p.stdout, "%s told to remove it (command %s).\n", count(len(removed.DeviceIDs), "device"), removed.CommandUUID)
		}
		if len(removed.Unsent) > 0 {
			fmt.Fprintf(p.stdout, "%s had not fetched it: it is not sent any more.\n", count(len(removed.Unsent), "device"))
		}
	}
	return errors.Join(err, notAll(p, removed.Rejected))
}
