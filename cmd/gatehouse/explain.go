package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/gatehouse-mdm/gatehouse/mdm/command"
)

// explainCommand says what Apple documents of a command. It needs no server.
type explainCommand struct {
	Name   string `arg:"" optional:"" help:"Apple's name of a command, such as DeviceLock. Without it: a list of all."`
	Target string `placeholder:"TARGET" help:"Say what such a device may get of it: a platform with a version and flags, such as ios:18.2,user or macos,supervised,rights=8191. Flags: user, device, account-device, ade, supervised, unsupervised, user-channel, shared-ipad, unshared, approved, unapproved, rights=N."`
	JSON   bool   `name:"json" help:"Print JSON."`
}

// Run prints the explanation. A command that the target may not get is no failure: to say so
// is what this is for.
func (c *explainCommand) Run(p *process) error {
	if err := c.explain(p.stdout); err != nil {
		return wrapped("explain", err)
	}
	return nil
}

func (c *explainCommand) explain(w io.Writer) error {
	var target *command.Target
	if c.Target != "" {
		t, err := command.ParseTarget(c.Target)
		if err != nil {
			return usageError(fmt.Errorf("--target: %w", err))
		}
		target = &t
	}
	if c.Name == "" {
		return c.list(w, target)
	}
	e, err := command.Explain(c.Name, target)
	switch {
	case errors.Is(err, command.ErrUnknownType):
		return &exitError{exitNotFound, fmt.Errorf("%w (gatehouse explain lists them)", err)}
	case err != nil:
		return err
	case c.JSON:
		return printJSON(w, e)
	}
	return e.WriteText(w)
}

// listed is one command in the list of all.
type listed struct {
	Name    string           `json:"name"`
	Title   string           `json:"title"`
	Summary string           `json:"summary"`
	Refusal *command.Refusal `json:"refusal"`
}

// list prints all commands by category, with what target is refused.
func (c *explainCommand) list(w io.Writer, target *command.Target) error {
	byCategory := make(map[command.Category][]listed)
	var all []listed
	for _, t := range command.Types() {
		d := command.Describe(t)
		l := listed{Name: d.RequestType, Title: d.Title, Summary: d.Summary}
		if target != nil {
			l.Refusal, _ = errors.AsType[*command.Refusal](t.Check(*target))
		}
		byCategory[d.Category] = append(byCategory[d.Category], l)
		all = append(all, l)
	}
	if c.JSON {
		return printJSON(w, all)
	}
	if target != nil {
		fmt.Fprintf(w, "To %s:\n\n", target)
	}
	for i, category := range command.Categories() {
		if i > 0 {
			fmt.Fprintln(w)
		}
		fmt.Fprintln(w, category.Words())
		for _, l := range byCategory[category] {
			fmt.Fprintf(w, "  %s\n", l.Name)
			printWrapped(w, l.Summary)
			if l.Refusal != nil {
				printWrapped(w, "! refused ("+l.Refusal.Code+"): "+l.Refusal.Reason)
			}
		}
	}
	return nil
}

func printJSON(w io.Writer, v any) error {
	out := json.NewEncoder(w)
	out.SetIndent("", "  ")
	out.SetEscapeHTML(false)
	return out.Encode(v)
}
