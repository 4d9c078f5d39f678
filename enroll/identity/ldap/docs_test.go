package ldap

import (
	"os"
	"reflect"
	"strings"
	"testing"
)

func TestEverySettingIsInTheDocs(t *testing.T) {
	text, err := os.ReadFile("../../../docs/identity.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, found := strings.Cut(string(text), "\n## LDAP\n")
	if !found {
		t.Fatal("docs/identity.md has no section on LDAP")
	}
	fields := reflect.TypeFor[settings]()
	for i := range fields.NumField() {
		if name := fields.Field(i).Tag.Get("json"); name != "" && !strings.Contains(section, "`"+name+"`") {
			t.Errorf("docs/identity.md says nothing of %s", name)
		}
	}
	for _, filter := range []string{defaultUserFilter, defaultGroupFilter} {
		if !strings.Contains(section, filter) {
			t.Errorf("docs/identity.md lacks the default filter %s", filter)
		}
	}
}
