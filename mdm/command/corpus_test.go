package command_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/mdm/command"
)

// fieldErrors is what is wrong with commands of the field, by file: what the error says.
var fieldErrors = map[string]string{
	// No command at all: a client of the builder adds what is missing.
	"apple-examples/DeclarativeManagement-nested": "Command.RequestType is missing",
	"fleet/RestartDevice-documentation":           "CommandUUID is missing",
	"workspace-one/EnableRemoteDesktop":           "expected <plist>", // the dictionary alone
	// A UUID that could not stand in a URL.
	"template-strings/InstallApplication-collection": "CommandUUID must be",
	// Not in Apple's table.
	"commandment/DeviceInformation":     "Command.Queries[1] must be one of",
	"commandment/UsersList":             "did you mean UserList?",
	"imas-mdm-server/DeviceInformation": "Command.Queries[1] must be one of",
	// Other types than in Apple's table.
	"micromdm/RemoveMedia":                   "Command.iTunesStoreID must be a string",
	"micromdm/RequestMirroring":              "Command.ScanTime must be an integer",
	"workspace-one/ScheduleOSUpdate-wrapped": "Command.Updates[0].MaxUserDeferrals must be an integer",
	// What a device would refuse, or do nothing for.
	"micromdm/EraseDevice-iphone":         "Command.PIN must be a string of six digits",
	"nanomdm-cmdr/DeviceInformation-none": "Command.Queries is required",
	"nanomdm-cmdr/ScheduleOSUpdate-bare":  "Command.Updates[0].ProductVersion is required",
	"nanomdm-cmdr/Settings-none":          "Command.Settings must not be empty",
	// Apple's table has 1, 4 and 5, its own examples 0 too: none of the flags.
	"apple-examples/InstallApplication":         "Command.ManagementFlags must be one of",
	"fleet/InstallApplication-mac":              "Command.ManagementFlags must be one of",
	"zentral/InstallEnterpriseApplication-kept": "Command.ManagementFlags must be",
}

// fieldUnknown are the keys of the field that Apple's table does not have, by file.
var fieldUnknown = map[string][]string{
	"imas-mdm-server/SecurityInfo":                      {"Command.Queries"},
	"micromdm/SetRecoveryLock":                          {"Command.AllowOroms"},
	"template-strings/EraseDevice-invented":             {"Command.Disassociate"},
	"template-strings/InstallApplication-configuration": {"Command.ManagedConfiguration"},
	"template-strings/Settings-log":                     {"UDID"},
}

func TestCommandsOfTheField(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/field/*/*.plist")
	if err != nil || len(files) < 70 {
		t.Fatalf("%d commands of the field: %v", len(files), err)
	}
	seen := make(map[string]bool)
	for _, file := range files {
		builder, name := filepath.Base(filepath.Dir(file)), strings.TrimSuffix(filepath.Base(file), ".plist")
		name = builder + "/" + name
		seen[name] = true
		t.Run(name, func(t *testing.T) {
			raw, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			want, wrong := fieldErrors[name]
			requestType, err := command.Validate(raw)
			switch {
			case !wrong && err != nil:
				t.Errorf("Validate = %v, want nil", err)
			case wrong && (err == nil || !strings.Contains(err.Error(), want)):
				t.Errorf("Validate = %v, want %q", err, want)
			}
			if got := command.Unknown(raw); !errors.Is(err, command.ErrRaw) && !slices.Equal(got, fieldUnknown[name]) {
				t.Errorf("Unknown = %q, want %q", got, fieldUnknown[name])
			}
			fileType, _, _ := strings.Cut(filepath.Base(name), "-")
			if !errors.Is(err, command.ErrRaw) && requestType != fileType {
				t.Errorf("Validate names %q, want %q", requestType, fileType)
			}
		})
	}
	for name := range fieldErrors {
		if !seen[name] {
			t.Errorf("%s is expected to be wrong, and is not there", name)
		}
	}
	for name := range fieldUnknown {
		if !seen[name] {
			t.Errorf("%s is expected to have unknown keys, and is not there", name)
		}
	}
}

// What is wrong with a raw command does not keep it from the device: it travels as it is.
func TestCommandsOfTheFieldAreReadAsTheyAre(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/field/*/*.plist")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		name := filepath.Base(filepath.Dir(file)) + "/" + strings.TrimSuffix(filepath.Base(file), ".plist")
		_, _, err = command.ParseRaw(raw)
		noCommand := []string{
			"apple-examples/DeclarativeManagement-nested", "fleet/RestartDevice-documentation", "template-strings/InstallApplication-collection",
			"workspace-one/EnableRemoteDesktop",
		}
		if refused := slices.Contains(noCommand, name); refused != (err != nil) {
			t.Errorf("ParseRaw(%s) = %v", name, err)
		}
	}
}
