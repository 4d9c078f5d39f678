package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/alecthomas/kong"

	"github.com/gatehouse-mdm/gatehouse/mdm/mdmtest"
	"github.com/gatehouse-mdm/gatehouse/mdm/profile"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// TestProfilesOnTheCommandLine takes a profile from a starter to a device and away again, by
// the commands of docs/profiles.md.
func TestProfilesOnTheCommandLine(t *testing.T) {
	storagetest.AnyEngine(t)
	s := start(t, t.TempDir())
	phone := s.phone(t, mdmtest.Options{})
	if err := phone.Enroll(t.Context(), s.newLink(t)+"/profile"); err != nil {
		t.Fatal(err)
	}
	stdin := ""
	call := func(want int, args ...string) (stdout, stderr string) {
		t.Helper()
		var out, errs strings.Builder
		args = slices.Concat(args, []string{"--data-dir", s.dir})
		if code := run(t.Context(), args, nil, strings.NewReader(stdin), &out, &errs); code != want {
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
	ids, _ := call(exitDone, "device", "list", "-o", "id")
	id := strings.TrimSpace(ids)

	starters, _ := call(exitDone, "profile", "starter", "list")
	says(starters, "wifi-certificate: Wi-Fi with certificate\n")
	one, _ := call(exitDone, "profile", "starter", "list", "web-clip")
	says(one, "  label  Label (string; required)\n")
	if strings.Contains(one, "wifi-certificate") {
		t.Errorf("one starter is %s", one)
	}
	icon := filepath.Join(t.TempDir(), "label")
	if err := os.WriteFile(icon, []byte("Help desk\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	clip := []string{"profile", "starter", "add", "web-clip", "--identifier", "com.example.help", "-p", "label=@" + icon, "-p", "url=https://help.example.com/", "-p", "removable=false"}
	shown, _ := call(exitDone, append(slices.Clone(clip), "--preview")...)
	if p, err := profile.Parse([]byte(shown)); err != nil || p.Payloads[0].Content["Label"] != "Help desk" || p.Payloads[0].Content["IsRemovable"] != false {
		t.Errorf("the preview is %s, %v", shown, err)
	}
	kept, _ := call(exitDone, clip...)
	says(kept, "com.example.help is kept as version 1 of ")
	kept, _ = call(exitDone, clip...)
	says(kept, "is already version 1 of ")

	const help = "com.example.help" // each command takes it for the id
	changed := filepath.Join(t.TempDir(), "help.mobileconfig")
	if err := os.WriteFile(changed, []byte(strings.Replace(shown, "Help desk", "Help", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	kept, _ = call(exitDone, "profile", "add", changed, "--note", "shorter")
	says(kept, "is kept as version 2 of ")
	diff, _ := call(exitDone, "profile", "diff", help)
	says(diff, "Version 1 to version 2: ")
	says(diff, "Label: Help desk → Help\n")
	list, _ := call(exitDone, "profile", "list")
	says(list, help)
	var all []struct{ ID, Identifier string }
	list, _ = call(exitDone, "profile", "list", "-o", "json")
	if err := json.Unmarshal([]byte(list), &all); err != nil || len(all) != 1 || all[0].Identifier != help {
		t.Fatalf("list -o json: %s, %v", list, err)
	}
	if got, _ := call(exitDone, "profile", "list", "-o", "id"); strings.TrimSpace(got) != all[0].ID {
		t.Errorf("list -o id: %q", got)
	}
	got, _ := call(exitDone, "profile", "get", all[0].ID)
	says(got, `"note": "shorter"`)

	forecast, _ := call(exitDone, "profile", "check", help, "-d", id)
	says(forecast, "1 device would take this.\n")
	forecast, errs := call(exitUsage, "profile", "check", help, "-d", id+",nobody")
	says(forecast, "1 of 2 devices would reject this: ")
	says(errs, "1 device would not take it as it is")
	stdin = ids
	sent, _ := call(exitDone, "profile", "send", help, "-d", "-", "--version", "1", "--expires-in", "72h")
	says(sent, "Version 1 is on its way to 1 device (batch ")
	if _, err := phone.Poll(t.Context()); err != nil {
		t.Fatal(err)
	}
	if phone.Installed(help) == nil {
		t.Error("the phone does not have the profile")
	}
	devices, _ := call(exitDone, "profile", "devices", help, "--state", "installed", "--state", "drifted")
	if fields := strings.Fields(strings.Split(devices, "\n")[1]); len(fields) < 4 || !slices.Equal(fields[:4], []string{id, "installed", "1", "1"}) {
		t.Errorf("devices: %s", devices)
	}
	_, errs = call(exitUsage, "profile", "send", help, "-d", id, "-d", "nobody")
	says(errs, "nobody: No device has this id. (not_found)")
	_, errs = call(exitNotFound, "profile", "send", help, "-d", "nobody")
	says(errs, "nobody: No device has this id.")
	_, errs = call(exitFailed, "profile", "delete", help)
	says(errs, "remove it from them first")
	if _, err := phone.Poll(t.Context()); err != nil {
		t.Fatal(err)
	}

	back, _ := call(exitDone, "profile", "restore", help, "1")
	says(back, "is kept as version 3 of ")
	file, _ := call(exitDone, "profile", "download", help, "--signed")
	if p, err := profile.Parse([]byte(file)); err != nil || p.Signer == nil || p.Payloads[0].Content["Label"] != "Help desk" {
		t.Errorf("download: %v", err)
	}
	gone, _ := call(exitDone, "profile", "remove", help, "-d", id)
	says(gone, "1 device told to remove it (command ")
	if _, err := phone.Poll(t.Context()); err != nil {
		t.Fatal(err)
	}
	if phone.Installed(help) != nil {
		t.Error("the phone still has the profile")
	}
	call(exitDone, "profile", "delete", help)
	_, errs = call(exitNotFound, "profile", "get", help)
	says(errs, `there is no profile "com.example.help" (gatehouse profile list lists them)`)

	for want, args := range map[string][]string{
		"params.lable is not a key of the starter web-clip": {"web-clip", "-p", "lable=x"},
		"--param: \"label\" is no NAME=VALUE":               {"web-clip", "-p", "label"},
		"--param removable must be true":                    {"web-clip", "-p", "removable=perhaps"},
		"--param icon is a file":                            {"web-clip", "-p", "icon=x"},
		"--param label is there twice":                      {"web-clip", "-p", "label=x", "-p", "label=y"},
		"--param min_length must be a number":               {"passcode", "-p", "min_length=six"},
		"params.min_length is out of range":                 {"passcode", "-p", "min_length=99"},
		"params.url must be a URL that begins":              {"web-clip", "-p", "label=x", "-p", "url=help"},
	} {
		_, errs := call(exitUsage, append([]string{"profile", "starter", "add", "--identifier", "com.example.x"}, args...)...)
		says(errs, want)
	}
	call(exitNotFound, "profile", "starter", "add", "--identifier", "com.example.x", "webclip")
}

// TestTheGuideToProfilesCanBeTyped holds the commands of docs/profiles.md against the flags
// that there are.
func TestTheGuideToProfilesCanBeTyped(t *testing.T) {
	guide, err := os.ReadFile(filepath.Join("..", "..", "docs", "profiles.md"))
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for line := range strings.Lines(strings.ReplaceAll(string(guide), "\\\n", "")) {
		_, typed, ok := strings.Cut(line, "    gatehouse ")
		if !ok || !strings.HasPrefix(line, "    ") {
			continue
		}
		for part := range strings.SplitSeq("gatehouse "+strings.TrimSpace(typed), " | ") {
			args, _, _ := strings.Cut(strings.TrimPrefix(part, "gatehouse "), " > ")
			n++
			parser, err := kong.New(&commands{}, kong.Exit(func(int) {}))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := parser.Parse(strings.Fields(args)); err != nil {
				t.Errorf("%s: %v", part, err)
			}
		}
	}
	if n < 20 {
		t.Errorf("the guide has %d commands", n)
	}
}
