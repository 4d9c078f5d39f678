package command_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/mdm/command"
)

func TestParseRaw(t *testing.T) {
	const (
		head = `<?xml version="1.0" encoding="UTF-8"?><plist version="1.0">`
		tail = `</plist>`
	)
	for name, tt := range map[string]struct {
		raw               string
		uuid, requestType string // empty: refused
	}{
		"a command": {
			head + `<dict><key>Command</key><dict><key>RequestType</key><string>ProfileList</string></dict><key>CommandUUID</key><string>1-a</string></dict>` + tail, "1-a", "ProfileList",
		},
		"keys that we don't know": {
			head + `<dict><key>New</key><array/><key>Command</key><dict><key>RequestType</key><string>Tomorrow</string><key>X</key><date>2030-01-01T00:00:00Z</date></dict><key>CommandUUID</key><string>1-a</string></dict>` + tail, "1-a", "Tomorrow",
		},
		"no UUID":            {head + `<dict><key>Command</key><dict><key>RequestType</key><string>ProfileList</string></dict></dict>` + tail, "", ""},
		"no request type":    {head + `<dict><key>Command</key><dict/><key>CommandUUID</key><string>1</string></dict>` + tail, "", ""},
		"no command":         {head + `<dict><key>CommandUUID</key><string>1</string></dict>` + tail, "", ""},
		"a UUID of a number": {head + `<dict><key>Command</key><dict><key>RequestType</key><string>ProfileList</string></dict><key>CommandUUID</key><integer>1</integer></dict>` + tail, "", ""},
		"a UUID with a slash": {
			head + `<dict><key>Command</key><dict><key>RequestType</key><string>ProfileList</string></dict><key>CommandUUID</key><string>../x</string></dict>` + tail, "", "",
		},
		"a request type with markup": {
			head + `<dict><key>Command</key><dict><key>RequestType</key><string>&lt;b&gt;</string></dict><key>CommandUUID</key><string>1</string></dict>` + tail, "", "",
		},
		"a key twice": {
			head + `<dict><key>Command</key><dict><key>RequestType</key><string>ProfileList</string></dict><key>CommandUUID</key><string>1</string><key>CommandUUID</key><string>2</string></dict>` + tail, "", "",
		},
		"a list":        {head + `<array/>` + tail, "", ""},
		"a binary list": {"bplist00\xd0", "", ""},
		"nothing":       {"", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			uuid, requestType, err := command.ParseRaw([]byte(tt.raw))
			if uuid != tt.uuid || requestType != tt.requestType || (err == nil) != (tt.uuid != "") {
				t.Errorf("ParseRaw(%s) = %q, %q, %v; want %q, %q", tt.raw, uuid, requestType, err, tt.uuid, tt.requestType)
			}
			if err != nil && !errors.Is(err, command.ErrRaw) {
				t.Errorf("ParseRaw(%s): %v does not wrap ErrRaw", tt.raw, err)
			}
		})
	}
}

func TestParseRawReadsBigProfiles(t *testing.T) {
	wrap := func(data int) []byte {
		return []byte(`<plist version="1.0"><dict><key>Command</key><dict><key>Payload</key><data>` + strings.Repeat("AAAA", data/4) +
			`</data><key>RequestType</key><string>InstallProfile</string></dict><key>CommandUUID</key><string>1</string></dict></plist>`)
	}
	if _, _, err := command.ParseRaw(wrap(4 << 20)); err != nil {
		t.Errorf("ParseRaw of 4 MiB: %v", err)
	}
	if _, _, err := command.ParseRaw(wrap(command.MaxRaw)); !errors.Is(err, command.ErrRaw) {
		t.Errorf("ParseRaw beyond MaxRaw = %v, want ErrRaw", err)
	}
}

func FuzzParseRaw(f *testing.F) {
	f.Add([]byte(`<plist version="1.0"><dict><key>Command</key><dict><key>RequestType</key><string>ProfileList</string></dict><key>CommandUUID</key><string>1-a</string></dict></plist>`))
	f.Add([]byte(`<plist><dict><key>Command</key><array/></dict></plist>`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		uuid, requestType, err := command.ParseRaw(raw)
		if err == nil && (uuid == "" || requestType == "" || strings.ContainsAny(uuid+requestType, "/ \n\x00<")) {
			t.Errorf("ParseRaw(%q) = %q, %q", raw, uuid, requestType)
		}
	})
}

func TestProfileIn(t *testing.T) {
	built, err := command.Build("InstallProfile", map[string]any{"Payload": []byte("profile")}, uuid)
	if err != nil {
		t.Fatal(err)
	}
	lock, err := command.Build("DeviceLock", nil, uuid)
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		raw  []byte
		want string
	}{
		"a profile":           {built, "profile"},
		"another command":     {lock, ""},
		"a payload of text":   {[]byte(`<plist><dict><key>Command</key><dict><key>RequestType</key><string>InstallProfile</string><key>Payload</key><string>x</string></dict></dict></plist>`), ""},
		"no property list":    {[]byte("x"), ""},
		"without any payload": {[]byte(`<plist><dict><key>Command</key><dict><key>RequestType</key><string>InstallProfile</string></dict></dict></plist>`), ""},
	} {
		t.Run(name, func(t *testing.T) {
			if got := command.ProfileIn(tt.raw); string(got) != tt.want {
				t.Errorf("ProfileIn = %q, want %q", got, tt.want)
			}
		})
	}
}
