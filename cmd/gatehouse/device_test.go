package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/mdm/mdmtest"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// TestDevicesOnTheCommandLine asks a real server for its device, by each way in.
func TestDevicesOnTheCommandLine(t *testing.T) {
	storagetest.AnyEngine(t)
	s := start(t, t.TempDir())
	phone := s.phone(t, mdmtest.Options{})
	if err := phone.Enroll(t.Context(), s.newLink(t)+"/profile"); err != nil {
		t.Fatal(err)
	}
	var made struct{ Token string }
	s.call(t, "POST", "/api/v1/tokens", map[string]any{"name": "test", "scopes": []string{"helpdesk"}}, &made)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, []byte(s.get(t, "/ca.pem").body), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct{ args, env []string }{
		"over the socket": {[]string{"--data-dir", s.dir}, nil},
		"with a token":    {[]string{"--server", s.url, "--ca", ca}, []string{"GATEHOUSE_TOKEN=" + made.Token}},
	} {
		t.Run(name, func(t *testing.T) {
			call := func(want int, args ...string) (stdout, stderr string) {
				t.Helper()
				var out, errs strings.Builder
				args = slices.Concat([]string{"device"}, args, tt.args)
				if code := run(t.Context(), args, tt.env, strings.NewReader(""), &out, &errs); code != want {
					t.Fatalf("%v = %d, want %d\n%s\n%s", args, code, want, &out, &errs)
				}
				return out.String(), errs.String()
			}
			ids, _ := call(exitDone, "list", "-o", "id", "-f", "state=enrolled", "-f", "os_version>=9", "--sort=-last_seen_at")
			id := strings.TrimSpace(ids)
			if id == "" || strings.Contains(id, "\n") {
				t.Fatalf("ids are %q, want the device's", ids)
			}
			one, _ := call(exitDone, "get", id)
			var d struct{ ID string }
			if err := json.Unmarshal([]byte(one), &d); err != nil || d.ID != id {
				t.Errorf("get: %s, %v", one, err)
			}
			all, _ := call(exitDone, "list", "-o", "json")
			var list []struct{ ID string }
			if err := json.Unmarshal([]byte(all), &list); err != nil || len(list) != 1 || list[0].ID != id {
				t.Errorf("list -o json: %s, %v", all, err)
			}
			if none, _ := call(exitDone, "list", "-o", "json", "-f", "os_version<9"); strings.TrimSpace(none) != "[]" {
				t.Errorf("list -o json of nothing: %q", none)
			}
			table, summary := call(exitDone, "list")
			if lines := strings.Split(strings.TrimSpace(table), "\n"); len(lines) != 2 || !strings.HasSuffix(lines[1], id) || summary != "1 device.\n" {
				t.Errorf("list: %q and %q", table, summary)
			}
			if table, _ := call(exitDone, "list", "-o", "csv", "--columns", "id,state"); table != "id,state\r\n"+id+",enrolled\r\n" {
				t.Errorf("list -o csv: %q", table)
			}
			for want, args := range map[string][]string{
				`the nearest is "state"`:     {"list", "-f", "staet=enrolled"},
				"must be one of":             {"list", "-f", "state=enroled"},
				"is no column":               {"list", "-o", "csv", "--columns", "names"},
				"sort must be one of":        {"list", "--sort", "size"},
				"is no condition such as":    {"list", "-f", "enrolled"},
				"limit is no condition":      {"list", "-f", "limit=1"},
				"--columns goes with -o csv": {"list", "--columns", "id"},
			} {
				if _, got := call(exitUsage, args...); !strings.Contains(got, want) {
					t.Errorf("%v: %s, want one that says %q", args, got, want)
				}
			}
			call(exitNotFound, "get", "nobody")

			asked, _ := call(exitDone, "refresh", id, "--source", "InstalledApplicationList,ProfileList")
			if lines := strings.Split(strings.TrimSpace(asked), "\n"); len(lines) != 3 || !strings.HasPrefix(lines[1], id+"  InstalledApplicationList  ") || !strings.HasSuffix(lines[1], "queued") {
				t.Errorf("refresh: %q", asked)
			}
			if again, _ := call(exitDone, "refresh", id, "--source", "ProfileList"); !strings.Contains(again, "asked before") {
				t.Errorf("refresh again: %q", again)
			}
			if waits, _ := call(exitDone, "inventory", id); !strings.Contains(waits, "(asked)") {
				t.Errorf("inventory: %q", waits)
			}
			if _, err := phone.Poll(t.Context()); err != nil {
				t.Fatal(err)
			}
			if known, _ := call(exitDone, "inventory", id); !strings.Contains(known, "element") || !strings.Contains(known, "InstalledApplicationList") || strings.Contains(known, "(asked)") {
				t.Errorf("inventory: %q", known)
			}
			var apps []struct{ Identifier string }
			if out, _ := call(exitDone, "apps", id, "-o", "json"); json.Unmarshal([]byte(out), &apps) != nil || len(apps) == 0 {
				t.Fatalf("apps -o json: %s", out)
			}
			if table, _ := call(exitDone, "apps", id); !strings.Contains(table, apps[0].Identifier) {
				t.Errorf("apps: %q", table)
			}
			if with, _ := call(exitDone, "list", "-o", "id", "-f", "app="+apps[0].Identifier, "-f", "app=!com.example.none"); strings.TrimSpace(with) != id {
				t.Errorf("list of those with an app: %q", with)
			}
			if history, _ := call(exitDone, "history", id, "-o", "json"); strings.TrimSpace(history) != "[]" {
				t.Errorf("history: %q", history)
			}
			call(exitNotFound, "apps", "nobody")
			if _, got := call(exitNotFound, "refresh", id, "nobody"); !strings.Contains(got, "nobody: No device has this id. (not_found)") {
				t.Errorf("refresh of nobody: %q", got)
			}
			if _, err := phone.Poll(t.Context()); err != nil { // the other was asked
				t.Fatal(err)
			}
			if _, got := call(exitUsage, "refresh", id, "--source", "EraseDevice"); !strings.Contains(got, "must be one of") {
				t.Errorf("refresh by another command: %q", got)
			}
		})
	}

	var list struct{ Items []struct{ ID string } }
	s.call(t, "GET", "/api/v1/devices", nil, &list)
	id := list.Items[0].ID
	for _, step := range []struct {
		command, stdin string
		ids            []string
		want           int
		says           string
	}{
		{"delete", "", []string{id}, exitUsage, id + ": The device is enrolled, or about to be: unenroll it first. (still_enrolled)"},
		{"unenroll", id + "\n", []string{"-"}, exitDone, "1 device unenrolled."},
		{"block", "", []string{"nobody", id}, exitUsage, "1 device blocked.\n  nobody: Not found."},
		{"delete", "", []string{id}, exitUsage, "(blocked)"},
		{"unblock", "", []string{id}, exitDone, "1 device unblocked."},
		{"delete", "", []string{id}, exitDone, "1 device deleted."},
		{"delete", "", []string{id}, exitUsage, "(not_found)"},
		{"delete", "", []string{"-"}, exitUsage, "has read no id"},
	} {
		var said strings.Builder
		args := slices.Concat([]string{"device", step.command}, step.ids, []string{"--data-dir", s.dir})
		if code := run(t.Context(), args, nil, strings.NewReader(step.stdin), &said, &said); code != step.want || !strings.Contains(said.String(), step.says) {
			t.Errorf("%s %v = %d, want %d and %q:\n%s", step.command, step.ids, code, step.want, step.says, &said)
		}
	}
}
