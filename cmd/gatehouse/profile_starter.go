package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
)

const startersPath = "/api/v1/starter-templates"

// profileStarterCommand is about the starters of the server.
type profileStarterCommand struct {
	List starterListCommand `cmd:"" help:"List the starters with their parameters."`
	Add  starterAddCommand  `cmd:"" help:"Make a profile from a starter, and keep it."`
}

type starter struct {
	Name           string         `json:"name"`
	Title          string         `json:"title"`
	Summary        string         `json:"summary"`
	UserEnrollment bool           `json:"user_enrollment"`
	Supervised     bool           `json:"supervised"`
	Params         []starterParam `json:"params"`
}

type starterParam struct {
	Name     string   `json:"name"`
	Label    string   `json:"label"`
	Help     string   `json:"help"`
	Type     string   `json:"type"`
	Required bool     `json:"required"`
	Default  any      `json:"default"`
	Values   []string `json:"values"`
}

type starterListCommand struct {
	apiServer
	Name string `arg:"" optional:"" help:"Only this one."`
	JSON bool   `name:"json" help:"Print the server's answer."`
}

// Run prints the list.
func (c *starterListCommand) Run(ctx context.Context, p *process) error {
	return wrappedIf("profile starter list", c.print(ctx, p))
}

func (c *starterListCommand) print(ctx context.Context, p *process) error {
	if c.JSON && c.Name == "" {
		return printItems(ctx, p, c.apiServer, startersPath, nil)
	}
	found := false
	err := eachItem(ctx, p, c.apiServer, startersPath, nil, func(raw json.RawMessage) error {
		var s starter
		if err := json.Unmarshal(raw, &s); err != nil {
			return fmt.Errorf("the answer of the server: %w", err)
		}
		switch {
		case c.Name != "" && s.Name != c.Name:
			return nil
		case c.JSON:
			found = true
			return printJSON(p.stdout, raw)
		}
		found = true
		return s.print(p.stdout)
	})
	if err == nil && !found {
		err = noStarter(c.Name)
	}
	return err
}

func noStarter(name string) error {
	return &exitError{exitNotFound, fmt.Errorf("there is no starter %q (gatehouse profile starter list lists them)", name)}
}

func (s starter) print(w io.Writer) error {
	fmt.Fprintf(w, "%s: %s\n", s.Name, s.Title)
	printWrapped(w, s.Summary)
	for _, p := range s.Params {
		facts := []string{p.Type}
		if p.Required {
			facts = append(facts, "required")
		}
		if p.Default != nil {
			facts = append(facts, fmt.Sprintf("default %v", p.Default))
		}
		if len(p.Values) > 0 {
			facts = append(facts, "one of "+strings.Join(p.Values, ", "))
		}
		fmt.Fprintf(w, "  %s  %s (%s)\n", p.Name, p.Label, strings.Join(facts, "; "))
		if p.Help != "" {
			printWrapped(w, p.Help)
		}
	}
	_, err := fmt.Fprintln(w)
	return err
}

type starterAddCommand struct {
	apiServer
	Starter    string   `arg:"" help:"Name of the starter."`
	Identifier string   `required:"" placeholder:"ID" help:"PayloadIdentifier of the profile, such as com.example.wifi."`
	Name       string   `help:"How devices show the profile. Default: the starter's own."`
	Param      []string `sep:"none" short:"p" placeholder:"NAME=VALUE" help:"An answer to the starter's question. Repeatable; NAME=@FILE reads the value from a file, and a list takes several."`
	Note       string   `help:"What to say of this version."`
	Preview    bool     `help:"Print the profile, and keep nothing."`
	JSON       bool     `name:"json" help:"Print the server's answer."`
}

// Run makes the profile.
func (c *starterAddCommand) Run(ctx context.Context, p *process) error {
	return wrappedIf("profile starter add", c.add(ctx, p))
}

func (c *starterAddCommand) add(ctx context.Context, p *process) error {
	var all struct{ Items []starter }
	if err := c.call(ctx, p, apiRequest{path: startersPath}, &all); err != nil {
		return err
	}
	var s *starter
	for i := range all.Items {
		if all.Items[i].Name == c.Starter {
			s = &all.Items[i]
		}
	}
	if s == nil {
		return noStarter(c.Starter)
	}
	params, err := s.answers(c.Param)
	if err != nil {
		return err
	}
	query := url.Values{}
	if c.Note != "" {
		query.Set("note", c.Note)
	}
	if c.Preview {
		query.Set("preview", "true")
	}
	r := apiRequest{
		method: http.MethodPost, path: startersPath + "/" + url.PathEscape(c.Starter), query: query,
		body: map[string]any{"identifier": c.Identifier, "name": c.Name, "params": params},
	}
	if !c.Preview {
		return printKept(ctx, p, c.apiServer, c.JSON, r)
	}
	body, err := c.send(ctx, p, r)
	if err != nil {
		return err
	}
	_, err = io.Copy(p.stdout, body)
	return errors.Join(err, body.Close())
}

// answers reads NAME=VALUE as the types of the starter's parameters say. What the starter does
// not know is left to the server, which says what is near.
func (s *starter) answers(given []string) (map[string]any, error) {
	params := make(map[string]any)
	for _, answer := range given {
		name, text, ok := strings.Cut(answer, "=")
		if !ok || name == "" {
			return nil, usageError(fmt.Errorf("--param: %q is no NAME=VALUE", answer))
		}
		kind := ""
		for _, p := range s.Params {
			if p.Name == name {
				kind = p.Type
			}
		}
		fromFile := false
		if file, ok := strings.CutPrefix(text, "@"); ok {
			data, err := os.ReadFile(file)
			if err != nil {
				return nil, usageError(fmt.Errorf("--param %s: %w", name, err))
			}
			text, fromFile = strings.TrimSuffix(string(data), "\n"), true
			if kind == "data" {
				text = base64.StdEncoding.EncodeToString(data)
			}
		}
		_, twice := params[name]
		switch kind {
		case "array":
			list, _ := params[name].([]string)
			params[name], twice = append(list, text), false
		case "boolean":
			on, err := strconv.ParseBool(text)
			if err != nil {
				return nil, usageError(fmt.Errorf("--param %s must be true or false", name))
			}
			params[name] = on
		case "integer", "real":
			if _, err := strconv.ParseFloat(text, 64); err != nil {
				return nil, usageError(fmt.Errorf("--param %s must be a number", name))
			}
			params[name] = json.Number(text)
		case "data":
			if !fromFile {
				return nil, usageError(fmt.Errorf("--param %s is a file: write %[1]s=@FILE", name))
			}
			params[name] = text
		default:
			params[name] = text
		}
		if twice {
			return nil, usageError(fmt.Errorf("--param %s is there twice", name))
		}
	}
	return params, nil
}
