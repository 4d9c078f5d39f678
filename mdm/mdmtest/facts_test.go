package mdmtest

import (
	"compress/gzip"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write facts.txt anew")

// What the tests read of Apple's tables.
type (
	appleKey struct {
		Name      string                    `json:"name"`
		Type      string                    `json:"type"`
		Required  bool                      `json:"required"`
		Enum      []any                     `json:"enum"`
		Platforms map[string]map[string]any `json:"platforms"`
		Subkeys   []appleKey                `json:"subkeys"`
		Items     []appleKey                `json:"items"`
	}
	appleItem struct {
		Name        string                    `json:"name"`
		PayloadType string                    `json:"payloadType"`
		Platforms   map[string]map[string]any `json:"platforms"`
		Keys        []appleKey                `json:"keys"`
		Removed     string                    `json:"removedFromSchema"`
		Removed27   map[string][]string       `json:"removedInSchema27"`
	}
	appleTables struct {
		Meta struct {
			Bits map[string]int64 `json:"accessRightBits"`
		} `json:"_meta"`
		Commands []appleItem `json:"commands"`
	}
)

func readTables(t *testing.T) (appleTables, []appleItem) {
	t.Helper()
	var commands appleTables
	raw, err := os.ReadFile("../command/commands.json")
	if err == nil {
		err = json.Unmarshal(raw, &commands)
	}
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open("../profile/payloads.json.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	unzip, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	if raw, err = io.ReadAll(unzip); err != nil {
		t.Fatal(err)
	}
	var payloads struct {
		// removedInSchema27 is a list here.
		Payloads []struct {
			PayloadType string                    `json:"payloadType"`
			Platforms   map[string]map[string]any `json:"platforms"`
			Removed     string                    `json:"removedFromSchema"`
		} `json:"payloads"`
	}
	if err := json.Unmarshal(raw, &payloads); err != nil {
		t.Fatal(err)
	}
	var list []appleItem
	for _, p := range payloads.Payloads {
		if p.PayloadType != "CommonPayloadKeys" && p.PayloadType != "TopLevel" {
			list = append(list, appleItem{PayloadType: p.PayloadType, Platforms: p.Platforms, Removed: p.Removed})
		}
	}
	return commands, list
}

// TestFactsAreApples holds facts.txt against Apple's tables, of which -update makes it.
func TestFactsAreApples(t *testing.T) {
	commands, payloads := readTables(t)
	bits := commands.Meta.Bits
	var b strings.Builder
	b.WriteString(`# Made of Apple's tables by "go test -run TestFactsAreApples -update ."; not to be edited.
#
# KIND NAME AVAILABILITY..., one a system: its letter (i iOS and iPadOS, m macOS, t tvOS,
# v visionOS, w watchOS), the version that introduced it, "-" and the first version without
# it, ":" and what it asks for, "#" and the bit of AccessRights. Indented: keys, with "!" when
# required, their types and what values they may have.
#
# ue: allowed in a User Enrollment (since a version); supervised, ade, approved: needs that;
# shared, notshared: only, or not, on a Shared iPad; user, useronly: also, or only, on a Mac's
# user channel; mdmonly: not installed by hand.

`)
	keys := func(list []appleKey, skip string) {
		for _, k := range list {
			if k.Name == skip {
				continue
			}
			fmt.Fprintf(&b, "\t%s", k.Name)
			if k.Required {
				b.WriteString("!")
			}
			fmt.Fprintf(&b, " %s", k.Type)
			for _, v := range k.Enum {
				fmt.Fprintf(&b, " %v", v)
			}
			b.WriteString("\n")
		}
	}
	for _, c := range commands.Commands {
		fmt.Fprintf(&b, "command %s%s\n", c.Name, availabilities(c.Platforms, nil, bits, c.Removed))
		keys(c.Keys, "")
	}
	for _, c := range commands.Commands {
		if c.Name != "DeviceInformation" && c.Name != "Settings" {
			continue
		}
		items := c.Keys[0].Items
		kind := "setting"
		if c.Name == "DeviceInformation" {
			kind, items = "query", items[0].Subkeys
		}
		for _, i := range items {
			removed := ""
			if slices.Contains(c.Removed27[c.Keys[0].Name], i.Name) {
				removed = "27.0"
			}
			if i.Platforms == nil {
				i.Platforms = map[string]map[string]any{}
			}
			fmt.Fprintf(&b, "%s %s%s\n", kind, i.Name, availabilities(c.Platforms, i.Platforms, bits, removed))
			if kind == "setting" {
				keys(i.Subkeys, "Item")
			}
		}
	}
	for _, p := range payloads {
		fmt.Fprintf(&b, "payload %s%s\n", p.PayloadType, availabilities(p.Platforms, nil, bits, p.Removed))
	}
	if *update {
		if err := os.WriteFile("facts.txt", []byte(b.String()), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	if b.String() != factsText {
		t.Error("facts.txt is not what Apple's tables say; run go test -run TestFactsAreApples -update .")
	}
}

// availabilities are those of an item, or those of a part of it that has some of its own.
func availabilities(all, own map[string]map[string]any, bits map[string]int64, removed string) string {
	var b strings.Builder
	for _, platform := range []string{"ios", "macos", "tvos", "visionos", "watchos"} {
		facts := maps.Clone(all[platform])
		part, hasPart := own[platform]
		if facts == nil || hasPart && part == nil {
			continue
		}
		maps.Copy(facts, part)
		if name, ok := part["accessRight"]; ok {
			facts["accessRightBit"] = nil
			if name, ok := name.(string); ok {
				facts["accessRightBit"] = float64(bits[name])
			}
		}
		is := func(key string) bool { v, _ := facts[key].(bool); return v }
		fmt.Fprintf(&b, " %c%s", platform[0], facts["introduced"])
		until, _ := facts["removed"].(string)
		if removed != "" {
			until = removed
		}
		if until != "" {
			b.WriteString("-" + until)
		}
		var flags []string
		add := func(there bool, flag string) {
			if there {
				flags = append(flags, flag)
			}
		}
		since, _ := facts["userEnrollmentSince"].(string)
		ue := facts["userEnrollment"]
		add(ue == "allowed" || ue == "required" || ue == "ignored", "ue"+since)
		add(is("supervised"), "supervised")
		add(is("requiresADE"), "ade")
		add(is("userApproved"), "approved")
		if shared, ok := facts["sharedIPad"].(map[string]any); ok {
			mode := shared["mode"]
			add(mode == "required", "shared")
			add(mode == "forbidden", "notshared")
		}
		if platform == "macos" {
			add(is("userChannel") && is("deviceChannel"), "user")
			add(is("userChannel") && !is("deviceChannel"), "useronly")
		}
		if by, ok := facts["manualInstall"].(bool); ok {
			add(!by, "mdmonly")
		}
		if len(flags) > 0 {
			b.WriteString(":" + strings.Join(flags, ","))
		}
		if bit, _ := facts["accessRightBit"].(float64); bit != 0 {
			fmt.Fprintf(&b, "#%d", int64(bit))
		}
	}
	return b.String()
}

func TestVersionsAreComparedByNumber(t *testing.T) {
	for _, tt := range []struct {
		a, b string
		want int
	}{{"10.9", "10.13.4", -1}, {"26.1", "26.1.0", 0}, {"27.0", "26.10", 1}, {"9", "10.2", -1}} {
		if got := compareVersions(tt.a, tt.b); got < 0 != (tt.want < 0) || got > 0 != (tt.want > 0) {
			t.Errorf("compareVersions(%s, %s) = %d, want the sign of %d", tt.a, tt.b, got, tt.want)
		}
	}
}

func TestFactsThatAreNone(t *testing.T) {
	for _, text := range []string{"command", "\tKey string", "thing X i1.0", "command X i1.0:green", "command X i1.0#x", "command X i1.0\n\tKey"} {
		if _, err := parseFacts(text); err == nil {
			t.Errorf("%q was read", text)
		}
	}
}
