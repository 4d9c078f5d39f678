package mdmtest

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// Declaration is a declaration that a channel has (PROTOCOL 4.4).
type Declaration struct {
	Kind        string // "activation", "asset", "configuration" or "management"
	Identifier  string
	ServerToken string
	Type        string // "com.apple.configuration.passcode.settings"
	Payload     json.RawMessage
	Active      bool // of a configuration: an activation names it; others always are
}

// declaring is what a channel knows of declarative management.
type declaring struct {
	syncing sync.Mutex // one synchronisation at a time

	mu    sync.Mutex
	on    bool   // the command that turns it on has come
	token string // DeclarationsToken of the last one
	items map[string]Declaration
	wrong error // that ended the last one
}

// declarationKinds are Apple's names of them: in a path, and in declaration-items.
var declarationKinds = []struct{ kind, plural, reported string }{
	{"activation", "Activations", "activations"},
	{"asset", "Assets", "assets"},
	{"configuration", "Configurations", "configurations"},
	{"management", "Management", "management"},
}

const subscriptionType = "com.apple.configuration.management.status-subscriptions"

// Declarations are what the channel has, by kind and identifier.
func (c *Channel) Declarations() []Declaration {
	c.declared.mu.Lock()
	defer c.declared.mu.Unlock()
	var all []Declaration
	for _, d := range c.declared.items {
		all = append(all, d)
	}
	slices.SortFunc(all, func(a, b Declaration) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Identifier, b.Identifier))
	})
	return all
}

// Declared is what went wrong when the channel last synchronised its declarations, nil if
// nothing did or it never has.
func (c *Channel) Declared() error {
	c.declared.mu.Lock()
	defer c.declared.mu.Unlock()
	return c.declared.wrong
}

func (s *declaring) reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.on, s.token, s.items, s.wrong = false, "", nil, nil
}

// declare takes a DeclarativeManagement command: it turns declarative management on, and has
// the channel synchronise once the answer is sent. What goes wrong then is not the command's
// failure; the device would try again by itself.
func (c *Channel) declare(f *fields) (r Result, after func(context.Context) error) {
	data := f.data("Data")
	c.declared.mu.Lock()
	c.declared.on = true
	c.declared.mu.Unlock()
	return done(nil), func(ctx context.Context) error {
		err := c.synchronize(ctx, data)
		if errors.Is(err, ErrRemoved) || ctx.Err() != nil {
			return err
		}
		return nil
	}
}

// Synchronize asks for the channel's declarations, as a device does by itself now and then.
func (c *Channel) Synchronize(ctx context.Context) error { return c.synchronize(ctx, nil) }

// synchronize fetches what has changed, if anything has, and reports. tokens is what the
// command has brought; empty: they are asked for.
func (c *Channel) synchronize(ctx context.Context, tokens []byte) (err error) {
	s := &c.declared
	s.syncing.Lock()
	defer s.syncing.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.wrong = err
	}()
	s.mu.Lock()
	on, known := s.on, s.token
	s.mu.Unlock()
	if !on {
		return errors.New("declarative management is off: no command has turned it on")
	}
	if len(tokens) == 0 {
		if tokens, err = c.askDeclared(ctx, "tokens", nil); err != nil {
			return err
		}
	}
	var said struct {
		SyncTokens struct {
			DeclarationsToken string
			Timestamp         string
		}
	}
	if err := json.Unmarshal(tokens, &said); err != nil {
		return fmt.Errorf("tokens: %w", err)
	}
	token := said.SyncTokens.DeclarationsToken
	if token == "" || len(token) > 256 {
		return fmt.Errorf("tokens: DeclarationsToken is %q", token)
	}
	if _, err := time.Parse("2006-01-02T15:04:05Z", said.SyncTokens.Timestamp); err != nil {
		return fmt.Errorf("tokens: Timestamp: %w", err)
	}
	if token == known {
		return nil
	}
	items, err := c.fetchDeclarations(ctx)
	if err != nil {
		return err
	}
	activate(items)
	s.mu.Lock()
	s.items, s.token = items, token
	s.mu.Unlock()
	return c.reportDeclared(ctx, items)
}

// fetchDeclarations asks what there is, and for what is new.
func (c *Channel) fetchDeclarations(ctx context.Context) (map[string]Declaration, error) {
	body, err := c.askDeclared(ctx, "declaration-items", nil)
	if err != nil {
		return nil, err
	}
	var said struct {
		Declarations      map[string][]struct{ Identifier, ServerToken string }
		DeclarationsToken string
	}
	if err := json.Unmarshal(body, &said); err != nil {
		return nil, fmt.Errorf("declaration-items: %w", err)
	}
	if said.DeclarationsToken == "" {
		return nil, errors.New("declaration-items: there is no DeclarationsToken")
	}
	c.declared.mu.Lock()
	had := c.declared.items
	c.declared.mu.Unlock()
	items := map[string]Declaration{}
	for _, k := range declarationKinds {
		list, ok := said.Declarations[k.plural]
		if !ok || list == nil {
			return nil, fmt.Errorf("declaration-items: %s is missing", k.plural)
		}
		for _, item := range list {
			if item.Identifier == "" || len(item.Identifier) > 64 || item.ServerToken == "" || len(item.ServerToken) > 64 {
				return nil, fmt.Errorf("declaration-items: %s has %+v", k.plural, item)
			}
			key := k.kind + "/" + item.Identifier
			if old, ok := had[key]; ok && old.ServerToken == item.ServerToken {
				items[key] = old
				continue
			}
			d, err := c.fetchDeclaration(ctx, k.kind, item.Identifier, item.ServerToken)
			var refused *HTTPError
			if errors.As(err, &refused) && refused.Status == http.StatusNotFound {
				continue // it is gone meanwhile
			}
			if err != nil {
				return nil, err
			}
			items[key] = d
		}
	}
	return items, nil
}

func (c *Channel) fetchDeclaration(ctx context.Context, kind, identifier, serverToken string) (Declaration, error) {
	endpoint := "declaration/" + kind + "/" + identifier
	body, err := c.askDeclared(ctx, endpoint, nil)
	if err != nil {
		return Declaration{}, err
	}
	d := Declaration{Kind: kind}
	if err := json.Unmarshal(body, &d); err != nil {
		return d, fmt.Errorf("%s: %w", endpoint, err)
	}
	// Its kind is in its type: com.apple.configuration.…
	switch {
	case d.Identifier != identifier || d.ServerToken != serverToken:
		return d, fmt.Errorf("%s: what comes is %q with the ServerToken %q, not %q", endpoint, d.Identifier, d.ServerToken, serverToken)
	case !strings.HasPrefix(d.Type, "com.apple."+kind+"."):
		return d, fmt.Errorf("%s: its Type is %q", endpoint, d.Type)
	case len(d.Payload) == 0:
		return d, fmt.Errorf("%s: it has no Payload", endpoint)
	}
	return d, nil
}

// activate notes which declarations are in force. A Predicate is taken to hold.
func activate(items map[string]Declaration) {
	named := map[string]bool{}
	for _, d := range items {
		var p struct{ StandardConfigurations []string }
		if d.Kind == "activation" && json.Unmarshal(d.Payload, &p) == nil {
			for _, identifier := range p.StandardConfigurations {
				named[identifier] = true
			}
		}
	}
	for key, d := range items {
		d.Active = d.Kind != "configuration" || named[d.Identifier]
		items[key] = d
	}
}

// reportDeclared sends a status report: the declarations, and the items that an active
// configuration subscribes to, as far as this device has them.
func (c *Channel) reportDeclared(ctx context.Context, items map[string]Declaration) error {
	lists := Dict{}
	for _, k := range declarationKinds {
		list := []any{}
		for _, d := range items {
			if d.Kind == k.kind {
				list = append(list, Dict{"identifier": d.Identifier, "server-token": d.ServerToken, "active": d.Active, "valid": "valid"})
			}
		}
		lists[k.reported] = list
	}
	status := Dict{"management": Dict{"declarations": lists}}
	failures := []any{}
	for _, d := range items {
		var p struct{ StatusItems []struct{ Name string } }
		if d.Type != subscriptionType || !d.Active || json.Unmarshal(d.Payload, &p) != nil {
			continue
		}
		for _, item := range p.StatusItems {
			value, ok := c.statusItem(item.Name)
			switch {
			case ok:
				nest(status, strings.Split(item.Name, "."), value)
			case item.Name != "management.declarations":
				failures = append(failures, Dict{"StatusItem": item.Name, "Reasons": []any{
					Dict{"Code": "Error.StatusItemUnknown", "Description": "The status item is not known."},
				}})
			}
		}
	}
	report, err := json.Marshal(Dict{"StatusItems": status, "Errors": failures})
	if err != nil {
		return err
	}
	_, err = c.askDeclared(ctx, "status", report)
	return err
}

// statusItem is the value of a status item that the channel has.
func (c *Channel) statusItem(name string) (any, bool) {
	o := c.dev.opts
	switch name {
	case "device.model.family":
		return string(o.Model), true
	case "device.model.identifier":
		return o.Model.hardware().product, true
	case "device.operating-system.version":
		return o.OSVersion, true
	case "device.operating-system.build-version":
		return o.Build, true
	case "device.identifier.serial-number":
		return o.Serial, !c.dev.byod.Load()
	}
	return nil, false
}

// nest puts a value where its path leads.
func nest(into Dict, path []string, value any) {
	for _, step := range path[:len(path)-1] {
		next, ok := into[step].(Dict)
		if !ok {
			next = Dict{}
			into[step] = next
		}
		into = next
	}
	into[path[len(path)-1]] = value
}

// askDeclared sends a DeclarativeManagement check-in and returns the JSON that answers it.
func (c *Channel) askDeclared(ctx context.Context, endpoint string, data []byte) ([]byte, error) {
	keys := Dict{"Endpoint": endpoint}
	if len(data) > 0 {
		keys["Data"] = data
	}
	reply, err := c.dev.checkInAs(ctx, c.dev.current(), c.user != nil, "DeclarativeManagement", c.IDs(), keys)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", endpoint, err)
	}
	if len(data) > 0 {
		return nil, nil
	}
	if kind, _, err := mime.ParseMediaType(reply.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		return nil, fmt.Errorf("%s: it comes as %q, not as JSON", endpoint, reply.Header.Get("Content-Type"))
	}
	return reply.Body, nil
}
