package inventory_test

import (
	"encoding/json"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/mdm/inventory"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

func TestAChangeInWords(t *testing.T) {
	storagetest.AnyEngine(t)
	for want, c := range map[string]inventory.Change{
		"Slack 4.41 → 4.42":                       {Source: inventory.InstalledApplicationList, Kind: inventory.Changed, Path: "com.tinyspeck.slack", Label: "Slack", Old: json.RawMessage(`"4.41"`), New: json.RawMessage(`"4.42"`)},
		"App Notes 3 added":                       {Source: inventory.InstalledApplicationList, Kind: inventory.Added, Path: "x", Label: "Notes", New: json.RawMessage(`"3"`)},
		"Managed app x removed":                   {Source: inventory.ManagedApplicationList, Kind: inventory.Removed, Path: "x", Old: json.RawMessage(`"Managed"`)},
		"x Installing → Managed":                  {Source: inventory.ManagedApplicationList, Kind: inventory.Changed, Path: "x", Old: json.RawMessage(`"Installing"`), New: json.RawMessage(`"Managed"`)},
		"Profile Wi-Fi replaced":                  {Source: inventory.ProfileList, Kind: inventory.Changed, Path: "x", Label: "Wi-Fi", Old: json.RawMessage(`"1"`), New: json.RawMessage(`"2"`)},
		"Certificate Root removed":                {Source: inventory.CertificateList, Kind: inventory.Removed, Path: "ab", Label: "Root", Old: json.RawMessage(`""`)},
		"50 more changes, which were not kept":    {Source: inventory.CertificateList, Kind: inventory.Omitted, New: json.RawMessage(`50`)},
		"Device name: A → B":                      {Source: inventory.DeviceInformation, Kind: inventory.Changed, Path: "DeviceName", Old: json.RawMessage(`"A"`), New: json.RawMessage(`"B"`)},
		"FileVault: on → off":                     {Source: inventory.SecurityInfo, Kind: inventory.Changed, Path: "FDE_Enabled", Old: json.RawMessage(`true`), New: json.RawMessage(`false`)},
		"A fact that nobody knows: 1 → something": {Source: inventory.SecurityInfo, Kind: inventory.Changed, Path: "AFactThatNobodyKnows", Old: json.RawMessage(`1`), New: json.RawMessage(`"something"`)},
	} {
		if got := c.Words().Summary; got != want {
			t.Errorf("Words of %s %s = %q, want %q", c.Kind, c.Path, got, want)
		}
	}
}
