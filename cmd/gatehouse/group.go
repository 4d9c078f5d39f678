package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"text/tabwriter"
)

// groupCommand is about groups of devices, as the API has them.
type groupCommand struct {
	List   groupListCommand   `cmd:"" help:"List groups."`
	Get    groupGetCommand    `cmd:"" help:"Print a group, and how many devices are in it."`
	Create groupCreateCommand `cmd:"" help:"Make a group of devices that you name, or of those that a filter finds."`
	Update groupUpdateCommand `cmd:"" help:"Change the name, the description or the filter of a group."`
	Delete groupDeleteCommand `cmd:"" help:"Delete a group, not its devices."`
	Add    groupAddCommand    `cmd:"" help:"Put devices into a group."`
	Remove groupRemoveCommand `cmd:"" help:"Take devices out of a group."`
}

const groupsPath = "/api/v1/groups"

// groupArgument is the group that a command is about.
type groupArgument struct {
	Group string `arg:"" help:"Id or name of the group."`
}

// listedGroup is what a list shows of a group.
type listedGroup struct {
	ID          string `json:"id"`
	Name        string `json:"name"`
	Description string `json:"description"`
	Kind        string `json:"kind"`
	Rule        string `json:"rule"`
	DeviceCount *int   `json:"device_count"`
}

// devices is how many devices are in the group, as far as that is known.
func (g listedGroup) devices() string {
	if g.DeviceCount == nil {
		return ""
	}
	return fmt.Sprint(*g.DeviceCount)
}

// what says which devices are in the group.
func (g listedGroup) what() string {
	if g.Rule == "" {
		return "devices"
	}
	if rule, err := url.QueryUnescape(g.Rule); err == nil {
		return rule
	}
	return g.Rule
}

// findGroup returns the id of the group that goes by an id or a name, in any case.
func findGroup(ctx context.Context, p *process, s apiServer, name string) (id string, err error) {
	err = eachItem(ctx, p, s, groupsPath, nil, func(g listedGroup) error {
		switch {
		case g.ID == name:
			id = g.ID
		case id == "" && strings.EqualFold(g.Name, strings.TrimSpace(name)):
			id = g.ID
		}
		return nil
	})
	if err == nil && id == "" {
		err = &exitError{exitNotFound, fmt.Errorf("there is no group %q (gatehouse group list lists them)", name)}
	}
	return id, err
}

func (a groupArgument) path(ctx context.Context, p *process, s apiServer) (string, error) {
	id, err := findGroup(ctx, p, s, a.Group)
	return groupsPath + "/" + url.PathEscape(id), err
}

// groupOutput is how a command shows a group.
type groupOutput struct {
	Output string `short:"o" enum:"table,json,id" default:"table" placeholder:"FORMAT" help:"table, json or id (default ${default})."`
}

// print shows the answer of the server, which is a group.
func (o groupOutput) print(p *process, answer json.RawMessage) error {
	if o.Output == "json" {
		return printJSON(p.stdout, answer)
	}
	var g listedGroup
	if err := json.Unmarshal(answer, &g); err != nil {
		return fmt.Errorf("the answer of the server: %w", err)
	}
	if o.Output == "id" {
		_, err := fmt.Fprintln(p.stdout, g.ID)
		return err
	}
	table := tabwriter.NewWriter(p.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintf(table, "Name\t%s\nId\t%s\nDescription\t%s\nIn it are\t%s\nDevices\t%s\n", shown(g.Name), g.ID, shown(g.Description), shown(g.what()), g.devices())
	return table.Flush()
}

type groupListCommand struct {
	apiServer
	groupOutput
}

// Run prints the list.
func (c *groupListCommand) Run(ctx context.Context, p *process) error {
	return wrappedIf("group list", c.list(ctx, p))
}

func (c *groupListCommand) list(ctx context.Context, p *process) error {
	query := url.Values{"counts": {"true"}}
	switch c.Output {
	case "json":
		return printItems(ctx, p, c.apiServer, groupsPath, query)
	case "id":
		return eachItem(ctx, p, c.apiServer, groupsPath, nil, func(g listedGroup) error {
			_, err := fmt.Fprintln(p.stdout, g.ID)
			return err
		})
	}
	table := tabwriter.NewWriter(p.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "NAME\tDEVICES\tIN IT ARE\tID")
	err := eachItem(ctx, p, c.apiServer, groupsPath, query, func(g listedGroup) error {
		_, err := fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", shown(g.Name), g.devices(), shown(g.what()), g.ID)
		return err
	})
	return errors.Join(err, table.Flush())
}

type groupGetCommand struct {
	apiServer
	groupArgument
	groupOutput
}

// Run prints a group.
func (c *groupGetCommand) Run(ctx context.Context, p *process) error {
	return wrappedIf("group get", c.get(ctx, p))
}

func (c *groupGetCommand) get(ctx context.Context, p *process) error {
	path, err := c.path(ctx, p, c.apiServer)
	if err != nil {
		return err
	}
	var answer json.RawMessage
	if err := c.call(ctx, p, apiRequest{path: path}, &answer); err != nil {
		return err
	}
	return c.print(p, answer)
}

type groupCreateCommand struct {
	apiServer
	groupOutput
	Name        string   `arg:"" help:"What to call the group."`
	Description string   `placeholder:"TEXT" help:"What it is for."`
	Filter      []string `sep:"none" short:"f" placeholder:"CONDITION" help:"The group has the devices that meet this, whenever it is asked: a condition as of device list, such as os_version<18. Repeatable: all must hold. Without it, devices are put into the group with group add."`
}

// Run makes a group.
func (c *groupCreateCommand) Run(ctx context.Context, p *process) error {
	return wrappedIf("group create", c.create(ctx, p))
}

func (c *groupCreateCommand) create(ctx context.Context, p *process) error {
	rule, err := conditions(c.Filter)
	if err != nil {
		return err
	}
	body := map[string]any{"name": c.Name, "description": c.Description, "rule": rule.Encode()}
	var answer json.RawMessage
	if err := c.call(ctx, p, apiRequest{method: http.MethodPost, path: groupsPath, body: body}, &answer); err != nil {
		return err
	}
	return c.print(p, answer)
}

type groupUpdateCommand struct {
	apiServer
	groupArgument
	groupOutput
	Name        *string  `placeholder:"NAME" help:"Another name."`
	Description *string  `placeholder:"TEXT" help:"Another description."`
	Filter      []string `sep:"none" short:"f" placeholder:"CONDITION" help:"Other conditions, in place of all that the group has. Repeatable."`
}

// Run changes a group.
func (c *groupUpdateCommand) Run(ctx context.Context, p *process) error {
	return wrappedIf("group update", c.update(ctx, p))
}

func (c *groupUpdateCommand) update(ctx context.Context, p *process) error {
	rule, err := conditions(c.Filter)
	if err != nil {
		return err
	}
	body := map[string]any{}
	if c.Name != nil {
		body["name"] = *c.Name
	}
	if c.Description != nil {
		body["description"] = *c.Description
	}
	if len(rule) > 0 {
		body["rule"] = rule.Encode()
	}
	if len(body) == 0 {
		return usageError(errors.New("give at least one of --name, --description and --filter"))
	}
	path, err := c.path(ctx, p, c.apiServer)
	if err != nil {
		return err
	}
	var answer json.RawMessage
	if err := c.call(ctx, p, apiRequest{method: http.MethodPatch, path: path, body: body}, &answer); err != nil {
		return err
	}
	return c.print(p, answer)
}

type groupDeleteCommand struct {
	apiServer
	groupArgument
	Force bool `help:"Also where roles are limited to the group: whoever has one can do nothing with its devices then."`
}

// Run deletes a group.
func (c *groupDeleteCommand) Run(ctx context.Context, p *process) error {
	path, err := c.path(ctx, p, c.apiServer)
	if err == nil {
		query := url.Values{}
		if c.Force {
			query.Set("force", "true")
		}
		err = c.call(ctx, p, apiRequest{method: http.MethodDelete, path: path, query: query}, nil)
	}
	return wrappedIf("group delete", err)
}

// groupMembers are devices to put into a group, or to take out.
type groupMembers struct {
	groupArgument
	IDs []string `arg:"" name:"id" help:"Ids of devices, as device list -o id prints them; - reads them from standard input, one a line."`
}

func (m groupMembers) change(ctx context.Context, p *process, s apiServer, method, done string) error {
	path, err := m.path(ctx, p, s)
	if err != nil {
		return err
	}
	ids, err := readIDs(p, m.IDs)
	if err != nil {
		return err
	}
	changed, members := 0, 0
	var rejected []rejectedDevice
	const most = 50_000 // of a request
	for part := range slices.Chunk(ids, most) {
		var answer struct {
			Changed     int `json:"changed"`
			DeviceCount int `json:"device_count"`
			Rejected    []rejectedDevice
		}
		if err := s.call(ctx, p, apiRequest{method: method, path: path + "/devices", body: map[string]any{"device_ids": part}}, &answer); err != nil {
			return err
		}
		changed, members, rejected = changed+answer.Changed, answer.DeviceCount, append(rejected, answer.Rejected...)
	}
	fmt.Fprintf(p.stdout, "%s %s; %s in the group.\n", count(changed, "device"), done, count(members, "device"))
	return notAll(p, rejected)
}

type groupAddCommand struct {
	apiServer
	groupMembers
}

// Run puts devices into a group. Those that can't be in it end it with exitUsage, when the
// others are.
func (c *groupAddCommand) Run(ctx context.Context, p *process) error {
	return wrappedIf("group add", c.change(ctx, p, c.apiServer, http.MethodPut, "added"))
}

type groupRemoveCommand struct {
	apiServer
	groupMembers
}

// Run takes devices out of a group.
func (c *groupRemoveCommand) Run(ctx context.Context, p *process) error {
	return wrappedIf("group remove", c.change(ctx, p, c.apiServer, http.MethodDelete, "removed"))
}
