package event_test

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/mdm/event"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

func TestChanges(t *testing.T) {
	storagetest.AnyEngine(t)
	type mail struct {
		Host     string `json:"host"`
		Password string `json:"password,omitempty"`
	}
	type thing struct {
		ID      string           `json:"id"`
		Name    string           `json:"name"`
		Port    int              `json:"port"`
		On      bool             `json:"on"`
		Roles   []string         `json:"roles"`
		Mail    *mail            `json:"mail"`
		Domains []map[string]any `json:"domains"`
		Bind    map[string]any   `json:"bind"`
		Version int              `json:"version"`
	}
	const sentinel = "hunter2"
	for name, tt := range map[string]struct {
		before, after any
		want          []event.Change
	}{
		"nothing differs":        {thing{Name: "a"}, thing{Name: "a"}, nil},
		"a field of any name":    {thing{Version: 1}, thing{ID: "2", Version: 7}, []event.Change{{"id", "", "2"}, {"version", "1", "7"}}},
		"fields of all types":    {thing{Name: "a", Port: 1}, thing{Name: "b", Port: 2, On: true}, []event.Change{{"name", "a", "b"}, {"on", "false", "true"}, {"port", "1", "2"}}},
		"lists":                  {thing{Roles: []string{"a"}}, thing{Roles: []string{"a", "b"}}, []event.Change{{"roles", "a", "a, b"}}},
		"objects, by their path": {thing{Mail: &mail{Host: "a"}}, thing{Mail: &mail{Host: "b"}}, []event.Change{{"mail.host", "a", "b"}}},
		"what was not there":     {nil, map[string]any{"name": "a", "groups": []string{}}, []event.Change{{"name", "", "a"}}},
		"what is not any more":   {thing{Mail: &mail{Host: "a"}}, thing{}, []event.Change{{"mail.host", "a", ""}}},
		"a secret that is set":   {thing{Mail: &mail{}}, thing{Mail: &mail{Password: sentinel}}, []event.Change{{"mail.password", "", "set"}}},
		"another secret":         {thing{Mail: &mail{Password: "x"}}, thing{Mail: &mail{Password: sentinel}}, []event.Change{{"mail.password", "", "changed"}}},
		"no secret any more":     {thing{Mail: &mail{Password: sentinel}}, thing{Mail: &mail{}}, []event.Change{{"mail.password", "", "removed"}}},
		"a secret by its path":   {nil, map[string]any{"bind": map[string]any{"pin": sentinel}}, []event.Change{{"bind.pin", "", "set"}}},
		"all that is in a secret": {map[string]any{"headers": map[string]any{"X": sentinel}}, map[string]any{"headers": map[string]any{"X": sentinel + "3"}},
			[]event.Change{{"headers", "", "changed"}}},
		"secrets in lists": {nil, map[string]any{"list": []map[string]any{{"name": "a", "password": sentinel}}}, []event.Change{{"list", "", `{"name":"a"}`}}},
	} {
		t.Run(name, func(t *testing.T) {
			got := event.Changes(tt.before, tt.after, "bind.pin")
			if !reflect.DeepEqual(got, tt.want) {
				t.Errorf("= %q, want %q", got, tt.want)
			}
			if strings.Contains(fmt.Sprint(got), sentinel) {
				t.Errorf("it tells a secret: %q", got)
			}
		})
	}
}

// What an event of before says must not change: its hash is kept elsewhere.
func TestChangesAreInTheChain(t *testing.T) {
	ctx, db := context.Background(), storagetest.Open(t)
	many := map[string]any{"long": strings.Repeat("x", 2000), "lines": "a\nb"}
	for i := range 60 {
		many[fmt.Sprintf("f%02d", i)] = i + 1
	}
	at := time.Date(2026, 11, 22, 9, 0, 0, 0, time.UTC)
	err := db.Update(ctx, func(tx storage.Tx) error {
		if err := event.Record(tx, event.Event{At: at, Action: "settings.changed"}); err != nil {
			return err
		}
		return event.Record(tx, event.Event{At: at, Action: "settings.changed", Changes: event.Changes(nil, many)})
	})
	if err == nil {
		err = event.Sequence(ctx, db)
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := event.VerifyStored(ctx, db, nil); err != nil {
		t.Errorf("the chain does not hold: %v", err)
	}
	var out strings.Builder
	if err := event.Export(ctx, db, &out, time.Time{}, time.Time{}); err != nil {
		t.Fatal(err)
	}
	if _, err := event.VerifyExport(strings.NewReader(out.String()), nil); err != nil {
		t.Errorf("the export does not hold: %v", err)
	}
	plain, told, _ := strings.Cut(out.String(), "\n")
	var line struct{ Changes []event.Change }
	if err := json.Unmarshal([]byte(told), &line); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(plain, "changes") {
		t.Errorf("an event without changes is exported as %s", plain)
	}
	last := line.Changes[len(line.Changes)-1]
	if len(line.Changes) != 40 || last.After != "23 more fields" {
		t.Errorf("of 62 changes %d are kept, and the last is %q", len(line.Changes), last)
	}
	if _, err := event.VerifyExport(strings.NewReader(strings.Replace(out.String(), `"after":"1"`, `"after":"2"`, 1)), nil); err == nil {
		t.Error("an export whose changes were changed holds")
	}
	if got, _ := event.Publish(event.Event{At: at, Action: "settings.changed", Changes: line.Changes}); got["changes"] != nil {
		t.Error("changes leave the server")
	}
}
