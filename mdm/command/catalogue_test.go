package command_test

import (
	"slices"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/mdm/command"
)

// The catalogue is data from elsewhere: what the code relies on is checked here,
// so that a newer file that breaks it fails.
func TestCatalogueHoldsWhatTheCodeReliesOn(t *testing.T) {
	types := command.Types()
	if len(types) != 68 {
		t.Fatalf("Types() has %d entries, want 68", len(types))
	}
	kinds := []command.Kind{
		command.String, command.Integer, command.Real, command.Boolean, command.Data,
		command.Date, command.Array, command.Dictionary, command.Any,
	}
	var walk func(t *testing.T, keys []command.Key)
	walk = func(t *testing.T, keys []command.Key) {
		for _, k := range keys {
			if k.Name == "" || !slices.Contains(kinds, k.Kind) {
				t.Errorf("key %q has kind %q", k.Name, k.Kind)
			}
			walk(t, k.Keys)
			walk(t, k.Items)
		}
	}
	for _, typ := range types {
		t.Run(typ.RequestType, func(t *testing.T) {
			if typ.RequestType == "" || typ.Title == "" {
				t.Errorf("Types() holds %+v", typ)
			}
			known := 0
			for _, p := range command.Platforms() {
				if _, there := typ.Platforms[p]; there {
					known++
				}
			}
			if known != len(typ.Platforms) || known != len(command.Platforms()) {
				t.Errorf("platforms are %v, want a fact for each of %v", typ.Platforms, command.Platforms())
			}
			walk(t, typ.Keys)
		})
	}
}

func TestLookup(t *testing.T) {
	for name, tt := range map[string]struct {
		requestType        string
		known, destructive bool
	}{
		"one that can be undone":                 {"DeviceLock", true, false},
		"one that loses data":                    {"EraseDevice", true, true},
		"one that locks out":                     {"ClearActivationLockBypassCode", true, true},
		"one that Apple does not have":           {"MakeCoffee", false, false},
		"names are spelled as Apple spells them": {"devicelock", false, false},
	} {
		t.Run(name, func(t *testing.T) {
			got, known := command.Lookup(tt.requestType)
			if known != tt.known || got.Destructive != tt.destructive {
				t.Errorf("Lookup(%q) = %v, destructive %v; want %v, %v", tt.requestType, known, got.Destructive, tt.known, tt.destructive)
			}
		})
	}
}

func TestPlatformOf(t *testing.T) {
	for product, want := range map[string]command.Platform{
		"iPhone15,2":          command.IOS,
		"iPad13,4":            command.IOS,
		"Mac14,2":             command.MacOS,
		"MacBookPro18,3":      command.MacOS,
		"iMac21,1":            command.MacOS,
		"VirtualMac2,1":       command.MacOS,
		"AppleTV14,1":         command.TVOS,
		"AudioAccessory5,1":   command.TVOS,
		"RealityDevice14,1":   command.VisionOS,
		"Watch6,18":           command.WatchOS,
		"":                    "",
		"A2403":               "",
		"SomethingOfTomorrow": "",
	} {
		if got := command.PlatformOf(product); got != want {
			t.Errorf("PlatformOf(%q) = %q, want %q", product, got, want)
		}
	}
}
