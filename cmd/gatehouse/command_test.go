package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/mdm/command"
	"github.com/gatehouse-mdm/gatehouse/mdm/mdmtest"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// TestCommandsOnTheCommandLine sends a device commands, and sees what becomes of them.
func TestCommandsOnTheCommandLine(t *testing.T) {
	storagetest.AnyEngine(t)
	s := start(t, t.TempDir())
	phone := s.phone(t, mdmtest.Options{})
	if err := phone.Enroll(t.Context(), s.newLink(t)+"/profile"); err != nil {
		t.Fatal(err)
	}
	stdin := ""
	program := func(want int, args ...string) (stdout, stderr string) {
		t.Helper()
		var out, errs strings.Builder
		args = append(args, "--data-dir", s.dir)
		if code := run(t.Context(), args, nil, strings.NewReader(stdin), &out, &errs); code != want {
			t.Fatalf("%v = %d, want %d\n%s\n%s", args, code, want, &out, &errs)
		}
		return out.String(), errs.String()
	}
	call := func(want int, args ...string) (stdout, stderr string) {
		t.Helper()
		return program(want, slices.Concat([]string{"command"}, args)...)
	}
	poll := func() {
		t.Helper()
		if _, err := phone.Poll(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	contains := func(got string, wants ...string) {
		t.Helper()
		for _, want := range wants {
			if !strings.Contains(got, want) {
				t.Errorf("got %q, want one that says %q", got, want)
			}
		}
	}
	ids, _ := program(exitDone, "device", "list", "-o", "id")
	id := strings.TrimSpace(ids)
	poll() // what the server asks by itself

	out, errs := call(exitDone, "send", "DeviceInformation", "--device", id, "-p", "Queries=OSVersion", "-p", "Queries=DeviceName", "--expires-in", "72h")
	uuid := strings.TrimSpace(out)
	contains(errs, "DeviceInformation is on its way to 1 device: gatehouse command watch "+uuid)
	out, _ = call(exitDone, "get", uuid)
	contains(out, "DeviceInformation "+uuid, "by local:local", "not sent after", "1 queued", id)
	out, errs = call(exitUsage, "watch", uuid, "--every", "100ms", "--for", "1ms")
	contains(out, "1 queued")
	contains(errs, "1 device of 1 have not finished")
	poll()
	out, _ = call(exitDone, "watch", uuid)
	contains(out, "1 acknowledged")
	out, _ = call(exitDone, "get", uuid, "--json")
	var whole struct {
		Devices []struct{ State, Summary string }
	}
	if err := json.Unmarshal([]byte(out), &whole); err != nil || len(whole.Devices) != 1 || whole.Devices[0].State != "acknowledged" || whole.Devices[0].Summary == "" {
		t.Fatalf("get --json: %s, %v", out, err)
	}
	out, _ = call(exitDone, "list", "--device", id)
	contains(out, "WHY", uuid, "acknowledged", whole.Devices[0].Summary)

	// Cancelled, and sent again.
	stdin = `{"Queries": ["OSVersion"]}`
	out, _ = call(exitDone, "send", "DeviceInformation", "--device", id, "--params-file", "-")
	uuid = strings.TrimSpace(out)
	_, errs = call(exitDone, "cancel", uuid)
	contains(errs, "Cancelled for 1 device.")
	_, errs = call(exitDone, "cancel", uuid)
	contains(errs, "No device waits for it", "gatehouse command get "+uuid)
	_, errs = call(exitFailed, "cancel", uuid, "--device", id)
	contains(errs, "command cancel: "+id, "finished")
	_, errs = call(exitFailed, "watch", uuid)
	contains(errs, "gatehouse command retry "+uuid)
	out, _ = call(exitDone, "retry", uuid)
	again := strings.TrimSpace(out)
	out, _ = call(exitDone, "get", again)
	contains(out, "another try of "+uuid)
	out, _ = call(exitDone, "list", "--open", "--type", "DeviceInformation")
	contains(out, again, "1 queued")
	if strings.Contains(out, uuid) {
		t.Errorf("list --open has what is finished: %s", out)
	}
	_, errs = call(exitDone, "list", "--limit", "1")
	contains(errs, "There are more: --limit 10")
	out, _ = call(exitDone, "list", "--json")
	var list []struct {
		CommandUUID string `json:"command_uuid"`
	}
	if err := json.Unmarshal([]byte(out), &list); err != nil || len(list) < 3 || list[0].CommandUUID != again {
		t.Errorf("list --json: %s, %v", out, err)
	}

	// Waiting, with a device that does not come; a whole command; a device that is not there.
	_, errs = call(exitUsage, "send", "ProfileList", "--device", id, "--wait", "1ms")
	contains(errs, id+": queued", "have not finished: gatehouse command watch")
	file := filepath.Join(t.TempDir(), "command.plist")
	raw := `<plist version="1.0"><dict><key>Command</key><dict><key>RequestType</key><string>SecurityInfo</string></dict><key>CommandUUID</key><string>mine</string></dict></plist>`
	if err := os.WriteFile(file, []byte(raw), 0o600); err != nil {
		t.Fatal(err)
	}
	out, errs = call(exitUsage, "raw", file, "--device", id, "--device", "nobody")
	contains(out, "mine\n")
	contains(errs, "Not sent to:\n  nobody: No device has this id. (not_found)", "1 device did not get it")
	_, errs = call(exitNotFound, "send", "ProfileList", "--device", "nobody")
	contains(errs, "No device may receive this command:\n  nobody: No device has this id.")
	_, errs = call(exitNotFound, "get", "none")
	contains(errs, "command get: ")

	// What the server refuses comes with the next step.
	_, errs = call(exitUsage, "send", "EraseDevice", "--device", id)
	contains(errs, "EraseDevice can't be undone: say so with --confirm")
	_, errs = call(exitUsage, "send", "DeviceLock", "--device", id, "-p", "Pin=123456")
	contains(errs, "params.Pin", "gatehouse explain DeviceLock lists what there is")
}

func TestParametersOfTheCommandLine(t *testing.T) {
	storagetest.AnyEngine(t)
	file := filepath.Join(t.TempDir(), "profile")
	if err := os.WriteFile(file, []byte("hello"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		command string
		params  []string
		want    map[string]any
		wrong   string
	}{
		"texts stay texts":             {"DeviceLock", []string{"PIN=012345", "Message=a=b"}, map[string]any{"PIN": "012345", "Message": "a=b"}, ""},
		"booleans":                     {"ProfileList", []string{"ManagedOnly=true"}, map[string]any{"ManagedOnly": true}, ""},
		"no boolean":                   {"ProfileList", []string{"ManagedOnly=yes"}, nil, "ManagedOnly must be true or false"},
		"numbers":                      {"InstallApplication", []string{"iTunesStoreID=361309726"}, map[string]any{"iTunesStoreID": json.Number("361309726")}, ""},
		"no number":                    {"InstallApplication", []string{"iTunesStoreID=x"}, nil, "iTunesStoreID must be a number"},
		"a list, one by one":           {"DeviceInformation", []string{"Queries=UDID", "Queries=OSVersion"}, map[string]any{"Queries": []any{"UDID", "OSVersion"}}, ""},
		"a list as JSON":               {"DeviceInformation", []string{`Queries=["UDID"]`}, map[string]any{"Queries": []any{"UDID"}}, ""},
		"dictionaries by dots":         {"EraseDevice", []string{"ReturnToService.Enabled=true"}, map[string]any{"ReturnToService": map[string]any{"Enabled": true}}, ""},
		"a dictionary as JSON":         {"EraseDevice", []string{`ReturnToService={"Enabled":true}`}, map[string]any{"ReturnToService": map[string]any{"Enabled": true}}, ""},
		"a dictionary as a text":       {"EraseDevice", []string{"ReturnToService=true"}, nil, "name one of its keys"},
		"dictionaries in a list":       {"Settings", []string{`Settings={"Item":"Bluetooth","Enabled":true}`}, map[string]any{"Settings": []any{map[string]any{"Item": "Bluetooth", "Enabled": true}}}, ""},
		"what a file holds":            {"InstallProfile", []string{"Payload=@" + file}, map[string]any{"Payload": "aGVsbG8="}, ""},
		"no file":                      {"InstallProfile", []string{"Payload=@" + file + "x"}, nil, "Payload: open"},
		"what nobody knows stays":      {"ProfileList", []string{"Managed.Only=1"}, map[string]any{"Managed.Only": "1"}, ""},
		"no key":                       {"ProfileList", []string{"true"}, nil, `"true" is not KEY=VALUE`},
		"one twice":                    {"DeviceLock", []string{"PIN=1", "PIN=2"}, nil, "PIN is there twice"},
		"a dictionary and its insides": {"EraseDevice", []string{"ReturnToService.Enabled=true", "ReturnToService={}"}, nil, "ReturnToService is there twice"},
	} {
		t.Run(name, func(t *testing.T) {
			typ, known := command.Lookup(tt.command)
			if !known {
				t.Fatal(tt.command)
			}
			got := map[string]any{}
			var err error
			for _, param := range tt.params {
				if err = setParam(got, typ.Keys, param); err != nil {
					break
				}
			}
			switch {
			case tt.wrong != "":
				if err == nil || !strings.Contains(err.Error(), tt.wrong) {
					t.Errorf("setParam(%q): %v, want one that says %q", tt.params, err, tt.wrong)
				}
			case err != nil || !reflect.DeepEqual(got, tt.want):
				t.Errorf("setParam(%q) = %v, %v; want %v", tt.params, got, err, tt.want)
			}
		})
	}
}
