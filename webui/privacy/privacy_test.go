package privacy_test

import (
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
	"github.com/gatehouse-mdm/gatehouse/webui/privacy"
)

func TestWhatTheOrganisationCanDoFollowsFromItsRights(t *testing.T) {
	storagetest.AnyEngine(t)
	reduced := enroll.DefaultSettings().Personal.Rights.Bits()
	for name, tt := range map[string]struct {
		rights      int
		user, mac   bool
		can, cannot string // keys that must be there, without what they begin with
	}{
		"with all rights, all but what nobody can": {
			rights: enroll.AllRights,
			can:    "erase lock see_apps see_network see_device profiles apps settings removed",
			cannot: "messages photos browsing location_unless_lost",
		},
		"rights that are not known are taken for all": {can: "erase lock see_apps", cannot: "messages"},
		"a personal device with reduced rights is neither erased nor locked, and its apps are its owner's affair": {
			rights: reduced,
			can:    "profiles apps see_device see_security removed",
			cannot: "erase lock see_apps see_network settings messages",
		},
		"one right alone": {
			rights: enroll.RightErase, can: "erase removed",
			cannot: "lock see_apps see_network see_device see_security see_profiles profiles apps settings",
		},
		"a User Enrollment has the rights that Apple fixes, whatever a record says": {
			rights: enroll.AllRights, user: true,
			can:    "lock_screen apps_user profiles_user see_device_user",
			cannot: "erase passcode see_apps see_identifiers see_network location messages",
		},
		"a Mac in a User Enrollment is not locked": {
			rights: enroll.AllRights, user: true, mac: true,
			can:    "apps_user profiles_user see_device_user removed",
			cannot: "erase lock_screen passcode see_apps location messages",
		},
		"a Mac of the organisation's is": {rights: enroll.AllRights, mac: true, can: "erase lock", cannot: "messages"},
	} {
		t.Run(name, func(t *testing.T) {
			can, cannot := privacy.Of(tt.rights, tt.user, tt.mac)
			for _, list := range []struct {
				prefix, want string
				keys, others []string
			}{{"privacy.can.", tt.can, can, cannot}, {"privacy.cannot.", tt.cannot, cannot, can}} {
				for key := range strings.FieldsSeq(list.want) {
					if !slices.Contains(list.keys, list.prefix+key) {
						t.Errorf("Of(%d, %v, %v) lacks %s: %v", tt.rights, tt.user, tt.mac, list.prefix+key, list.keys)
					}
				}
				for _, key := range list.keys {
					if !strings.HasPrefix(key, list.prefix) {
						t.Errorf("Of(%d, %v, %v) has %s among %s…", tt.rights, tt.user, tt.mac, key, list.prefix)
					}
				}
			}
			for _, key := range can {
				if other := strings.Replace(key, ".can.", ".cannot.", 1); slices.Contains(cannot, other) {
					t.Errorf("Of(%d, %v, %v) says both %s and %s", tt.rights, tt.user, tt.mac, key, other)
				}
			}
		})
	}
}

func TestEveryKeyHasAText(t *testing.T) {
	storagetest.AnyEngine(t)
	data, err := os.ReadFile("../text/messages/privacy.en.json")
	if err != nil {
		t.Fatal(err)
	}
	var texts map[string]string
	if err := json.Unmarshal(data, &texts); err != nil {
		t.Fatal(err)
	}
	used := map[string]bool{"privacy.can": true, "privacy.cannot": true}
	for bit := range 14 { // each right alone, and 0
		for _, of := range [][2]bool{{}, {true, false}, {true, true}} {
			can, cannot := privacy.Of(1<<bit>>1, of[0], of[1])
			for _, key := range append(can, cannot...) {
				used[key] = true
			}
		}
	}
	for key := range used {
		if texts[key] == "" {
			t.Errorf("%s has no text", key)
		}
	}
	for key := range texts {
		if !used[key] {
			t.Errorf("%s has a text that is never shown", key)
		}
	}
}
