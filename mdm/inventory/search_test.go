package inventory_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/inventory"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

func TestDevicesAreFoundByWhatIsInstalled(t *testing.T) {
	h := newHouse(t)
	apps := func(versions ...string) string {
		list := []string{`{"Identifier":"com.example.bare"}`, `{"Identifier":"com.example.other","Name":"{\"identifier\":\"com.example.slack\",","ShortVersion":"1"}`}
		for i, v := range versions {
			list = append(list, fmt.Sprintf(`{"Identifier":"com.example.slack","Name":"Slack","ShortVersion":%q,"Version":"9","Path":"/%d"}`, v, i))
		}
		return `{"InstalledApplicationList":[` + strings.Join(list, ",") + `]}`
	}
	for id, list := range map[string]string{
		"old": apps("4.9b1"), "new": apps("4.42"), "newer": apps("4.42.1"), "none": apps(), "both": apps("4.41", "4.42"),
	} {
		h.refresh(t, h.device(t, id), all.but(inventory.InstalledApplicationList, list))
	}
	h.refresh(t, h.device(t, "mute"), all.but(inventory.InstalledApplicationList, "error").but(inventory.ProfileList, "error"))
	h.device(t, "silent")
	h.refresh(t, h.device(t, "odd"), all.but(inventory.ProfileList, `{"ProfileList":[{"PayloadIdentifier":"Büro <Wi-Fi>","PayloadUUID":"U2"}]}`).
		but(inventory.InstalledApplicationList, apps("5")))
	for _, tt := range []struct{ app, profile, want string }{
		{"com.example.slack", "", "both new newer odd old"},
		{"!com.example.slack", "", "none"},
		{"com.example.slack<4.42", "", "both old"},
		{"com.example.slack <= 4.42", "", "both new old"},
		{"com.example.slack>4.42", "", "newer odd"},
		{"com.example.slack>=4.42", "", "both new newer odd"},
		{"com.example.slack=4.42", "", "both new"},
		{"com.example.slack!=4.42", "", "newer odd old"},
		{"com.example.slack~B1", "", "old"},
		{"com.example.bare", "", "both new newer none odd old"},
		{"com.example.bare!=1", "", ""},
		{"com.example.sla", "", ""},
		{"", "com.example.wifi", "both new newer none old"},
		{"", "com.example.wifi.1", ""}, // a payload's
		{"", "!com.example.wifi", "odd"},
		{"", "U1", ""},
		{"com.example.slack>4.42", "com.example.wifi", "newer"},
	} {
		var q mdm.Query
		var conditions []inventory.Installed
		if tt.app != "" {
			c, err := inventory.ParseApp(tt.app)
			if err != nil {
				t.Fatal(err)
			}
			conditions = append(conditions, c)
		}
		if tt.profile != "" {
			c, err := inventory.ParseProfile(tt.profile)
			if err != nil {
				t.Fatal(err)
			}
			conditions = append(conditions, c)
		}
		if err := inventory.Narrow(&q, conditions); err != nil {
			t.Fatal(err)
		}
		if got := h.found(t, q); got != tt.want {
			t.Errorf("app %q, profile %q: %q, want %q", tt.app, tt.profile, got, tt.want)
		}
	}
	odd := mdm.Query{Text: "UDID"}
	odd.Require("not old", nil, func(_ storage.Tx, id mdm.DeviceID) (bool, error) { return id != "odd", nil })
	if err := inventory.Narrow(&odd, []inventory.Installed{{Source: inventory.InstalledApplicationList, Identifier: "com.example.slack", Op: mdm.Greater, Version: "4.42"}}); err != nil {
		t.Fatal(err)
	}
	if got := h.found(t, odd); got != "newer" {
		t.Errorf("with two conditions of other packages: %q", got)
	}
	c, err := inventory.ParseProfile("Büro <Wi-Fi>")
	if err == nil {
		t.Errorf("ParseProfile of an operator = %+v", c)
	}
	var q mdm.Query
	if err := inventory.Narrow(&q, []inventory.Installed{{Source: inventory.ProfileList, Identifier: "Büro <Wi-Fi>", Op: mdm.Present}}); err != nil {
		t.Fatal(err)
	}
	if got := h.found(t, q); got != "odd" {
		t.Errorf("a name with signs: %q", got)
	}
}

// found returns the ids that q finds, in their order.
func (h *house) found(t *testing.T, q mdm.Query) string {
	t.Helper()
	ids, err := h.mdm.Select(context.Background(), q)
	if err != nil {
		t.Fatal(err)
	}
	names := make([]string, len(ids))
	for i, id := range ids {
		names[i] = string(id)
	}
	slices.Sort(names)
	return strings.Join(names, " ")
}

func TestConditionsOnWhatIsInstalledAreNamedWhereWrong(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"com.example.slack<":       "has no value",
		"com.example.slack==4":     "has an operator that there is not",
		"com.example.slack=>4":     "has an operator that there is not",
		"!com.example.slack<4":     "the identifier of an app",
		"com.example.slack is 4":   "one of =, !=, <",
		"<4":                       "the identifier of an app",
		"":                         "the identifier of an app",
		strings.Repeat("x", 10000): "the identifier of an app",
	} {
		_, err := inventory.ParseApp(text)
		if bad, ok := errors.AsType[*mdm.QueryError](err); !ok || bad.Field != "app" || !strings.Contains(bad.Reason, want) {
			t.Errorf("ParseApp(%q): %v, want one that says %q", clipped(text), err, want)
		}
	}
	for text, want := range map[string]string{
		"com.example.wifi=1":       "takes no operator",
		"com.example.wifi<2":       "takes no operator",
		"!":                        "must be the identifier",
		strings.Repeat("x", 10000): "must be the identifier",
	} {
		_, err := inventory.ParseProfile(text)
		if bad, ok := errors.AsType[*mdm.QueryError](err); !ok || bad.Field != "profile" || !strings.Contains(bad.Reason, want) {
			t.Errorf("ParseProfile(%q): %v, want one that says %q", clipped(text), err, want)
		}
	}
	err := inventory.Narrow(&mdm.Query{}, make([]inventory.Installed, 21))
	if _, ok := errors.AsType[*mdm.QueryError](err); !ok {
		t.Errorf("Narrow by 21 conditions: %v", err)
	}
}

func clipped(text string) string { return text[:min(len(text), 40)] }
