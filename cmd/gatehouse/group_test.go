package main

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/mdm/mdmtest"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// TestGroupsAndTokensOnTheCommandLine has a real server keep groups of its device, and tokens
// that are limited to them.
func TestGroupsAndTokensOnTheCommandLine(t *testing.T) {
	storagetest.AnyEngine(t)
	s := start(t, t.TempDir())
	phone := s.phone(t, mdmtest.Options{})
	if err := phone.Enroll(t.Context(), s.newLink(t)+"/profile"); err != nil {
		t.Fatal(err)
	}
	call := func(want int, args ...string) (stdout, stderr string) {
		t.Helper()
		var out, errs strings.Builder
		args = slices.Concat(args, []string{"--data-dir", s.dir})
		if code := run(t.Context(), args, nil, strings.NewReader(""), &out, &errs); code != want {
			t.Fatalf("%v = %d, want %d\n%s\n%s", args, code, want, &out, &errs)
		}
		return out.String(), errs.String()
	}
	says := func(text, want string) {
		t.Helper()
		if !strings.Contains(text, want) {
			t.Errorf("it says %q, want %q in it", text, want)
		}
	}
	id, _ := call(exitDone, "device", "list", "-o", "id")
	id = strings.TrimSpace(id)

	made, _ := call(exitDone, "group", "create", "Sales floor", "--description", "In town", "-o", "id")
	hand := strings.TrimSpace(made)
	made, _ = call(exitDone, "group", "create", "Phones", "-f", "platform=ios", "-f", "os_version>=1")
	says(made, "os_version=>=1&platform=ios")
	_, refused := call(exitUsage, "group", "create", "Typo", "-f", "platfrom=ios")
	says(refused, `the nearest is "platform"`)
	_, refused = call(exitFailed, "group", "create", "phones")
	says(refused, "There is a group of this name")

	added, _ := call(exitDone, "group", "add", "sales FLOOR", id)
	says(added, "1 device added; 1 device in the group.")
	_, refused = call(exitUsage, "group", "add", hand, id, "nobody")
	says(refused, "nobody")
	_, refused = call(exitUsage, "group", "add", hand, "-")
	says(refused, "has read no id")
	list, _ := call(exitDone, "group", "list")
	says(list, "Sales floor")
	var groups []listedGroup
	all, _ := call(exitDone, "group", "list", "-o", "json")
	if err := json.Unmarshal([]byte(all), &groups); err != nil || len(groups) != 2 || groups[0].Name != "Phones" || groups[0].devices() != "1" || groups[1].devices() != "1" {
		t.Errorf("group list -o json: %s, %v", all, err)
	}
	for _, name := range []string{"Phones", hand} {
		if got, _ := call(exitDone, "device", "list", "--group", name, "-o", "id"); strings.TrimSpace(got) != id {
			t.Errorf("device list --group %s: %q", name, got)
		}
	}
	sent, _ := call(exitDone, "command", "send", "DeviceInformation", "-p", "Queries=OSVersion", "--group", "Phones", "--json")
	says(sent, id)
	call(exitDone, "device", "refresh", "--group", hand)

	renamed, _ := call(exitDone, "group", "update", hand, "--name", "Shop", "-o", "json")
	says(renamed, `"name": "Shop"`)
	call(exitFailed, "group", "update", "Shop", "-f", "platform=ios")
	one, _ := call(exitDone, "group", "get", "shop")
	says(one, "In town")
	// A token that is limited to the group, and has an end.
	secret, _ := call(exitDone, "token", "create", "monitoring", "-s", "read_only", "--group", "Shop", "--expires", "90d", "-o", "token")
	if !strings.HasPrefix(secret, "gtk_") || strings.Count(secret, "\n") != 1 {
		t.Errorf("token create -o token: %q", secret)
	}
	made, said := call(exitDone, "token", "create", "ci", "-s", "cert:self", "--user", "ana@example.com")
	says(made, "never")
	says(said, "shown this once")
	list, _ = call(exitDone, "token", "list")
	says(list, "monitoring")
	if strings.Contains(list, strings.TrimSpace(secret)) {
		t.Error("the list tells a token")
	}
	_, refused = call(exitUsage, "token", "create", "x", "-s", "root")
	says(refused, `"root"`)
	call(exitDone, "token", "create", "ci", "-s", "read_only")
	_, refused = call(exitUsage, "token", "revoke", "ci")
	says(refused, `2 tokens are called "ci"`)
	call(exitDone, "token", "revoke", "monitoring")
	_, refused = call(exitNotFound, "token", "revoke", "monitoring")
	says(refused, "gatehouse token list")
	removed, _ := call(exitDone, "group", "remove", "Shop", id)
	says(removed, "1 device removed; 0 devices in the group.")
	_, refused = call(exitUsage, "command", "send", "ProfileList", "--group", "Shop")
	says(refused, "without enrolled devices")
	call(exitDone, "group", "delete", "Shop")
	_, refused = call(exitNotFound, "group", "get", "Shop")
	says(refused, "gatehouse group list lists them")
}
