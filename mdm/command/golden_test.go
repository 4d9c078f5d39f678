package command_test

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/mdm/command"
	"github.com/gatehouse-mdm/gatehouse/storage/guard"
)

// goldens returns the commands of testdata/golden, by file name without its end: the
// RequestType, and after a hyphen what is particular.
func goldens(t testing.TB) map[string]map[string]any {
	t.Helper()
	files, err := filepath.Glob("testdata/golden/*.json")
	if err != nil {
		t.Fatal(err)
	}
	all := make(map[string]map[string]any, len(files))
	for _, file := range files {
		in, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		all[strings.TrimSuffix(filepath.Base(file), ".json")] = params(t, string(in))
	}
	return all
}

func TestEveryCommandIsBuiltAsItsGolden(t *testing.T) {
	t.Parallel()
	built := make(map[string]bool)
	for name, in := range goldens(t) {
		requestType, _, _ := strings.Cut(name, "-")
		built[requestType] = true
		t.Run(name, func(t *testing.T) {
			got, err := command.Build(requestType, in, uuid)
			if err != nil {
				t.Fatalf("Build(%s): %v", name, err)
			}
			golden := filepath.Join("testdata", "golden", name+".plist")
			if *update {
				if err := os.WriteFile(golden, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if string(got) != string(want) {
				t.Errorf("Build(%s) =\n%s\nwant\n%s", name, got, want)
			}
			if gotUUID, gotType, err := command.ParseRaw(got); err != nil || gotUUID != uuid || gotType != requestType {
				t.Errorf("ParseRaw of it = %q, %q, %v", gotUUID, gotType, err)
			}
			if gotType, err := command.Validate(got); err != nil || gotType != requestType {
				t.Errorf("Validate of it = %q, %v", gotType, err)
			}
			if unknown := command.Unknown(got); len(unknown) != 0 {
				t.Errorf("Unknown of it = %q", unknown)
			}
		})
	}
	for _, name := range everyType(t) {
		if !built[name] {
			t.Errorf("no golden of %s", name)
		}
	}
}

// What a golden leaves out, nobody has looked at.
func TestTheGoldensHaveEveryKey(t *testing.T) {
	t.Parallel()
	used := make(map[string]bool)
	for name, in := range goldens(t) {
		requestType, _, _ := strings.Cut(name, "-")
		note(used, requestType, in)
	}
	for _, name := range everyType(t) {
		typ, _ := command.Lookup(name)
		for _, path := range paths(name, typ.Keys) {
			if !used[path] {
				t.Errorf("no golden has %s", path)
			}
		}
	}
}

// note marks the paths of all keys in v; elements of Settings go by their Item.
func note(used map[string]bool, path string, v any) {
	switch v := v.(type) {
	case map[string]any:
		for key, value := range v {
			used[path+"."+key] = true
			note(used, path+"."+key, value)
		}
	case []any:
		for _, element := range v {
			at := path
			if d, ok := element.(map[string]any); ok && d["Item"] != nil {
				at += "." + d["Item"].(string)
			}
			note(used, at, element)
		}
	}
}

func paths(path string, keys []command.Key) []string {
	var all []string
	for _, k := range keys {
		if strings.HasPrefix(k.Name, "ANY") {
			continue
		}
		all = append(all, path+"."+k.Name)
		if k.Kind == command.Dictionary {
			all = append(all, paths(path+"."+k.Name, k.Keys)...)
		}
		for _, item := range k.Items {
			switch {
			case item.Kind != command.Dictionary:
			case len(k.Items) > 1:
				all = append(all, paths(path+"."+k.Name+"."+item.Name, item.Keys)...)
			default:
				all = append(all, paths(path+"."+k.Name, item.Keys)...)
			}
		}
	}
	return all
}

// What the builder makes of a golden reads back as what went in.
func TestTheGoldensReadBackAsTheirParameters(t *testing.T) {
	t.Parallel()
	for name, in := range goldens(t) {
		requestType, _, _ := strings.Cut(name, "-")
		raw, err := command.Build(requestType, in, uuid)
		if err != nil {
			t.Errorf("Build(%s): %v", name, err)
			continue
		}
		var got, again struct {
			Command     map[string]any
			CommandUUID string
		}
		if err := guard.DecodePlist(raw, &got, guard.PlistLimits{}); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		delete(got.Command, "RequestType")
		rebuilt, err := command.Build(requestType, plain(got.Command).(map[string]any), uuid)
		if err != nil {
			t.Errorf("%s, built of what was built: %v", name, err)
			continue
		}
		if err := guard.DecodePlist(rebuilt, &again, guard.PlistLimits{}); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		delete(again.Command, "RequestType")
		if !reflect.DeepEqual(got, again) {
			t.Errorf("%s changes when it is built again:\n%v\n%v", name, got, again)
		}
		if len(got.Command) != len(in) {
			t.Errorf("%s has %d keys, want the %d that it was given", name, len(got.Command), len(in))
		}
	}
}
