package command_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/mdm/command"
)

func TestNoSecretOfACommandIsShown(t *testing.T) {
	const sentinel = "S3ntinel"
	for name, tt := range map[string]struct {
		requestType string
		params      map[string]any
		want        string
	}{
		"what was asked is there": {
			"EnableLostMode", map[string]any{"Message": "Call us", "PhoneNumber": "+1"},
			`{"Message":"Call us","PhoneNumber":"+1"}`,
		},
		"a PIN is hidden": {
			"DeviceLock", map[string]any{"RequestType": "DeviceLock", "PIN": sentinel, "Message": "x"},
			`{"Message":"x","PIN":"[redacted]"}`,
		},
		"of a profile there is its length": {
			"InstallProfile", map[string]any{"Payload": []byte(sentinel)}, `{"Payload":"[8 bytes]"}`,
		},
		"the keys of an app’s configuration are, its values are not": {
			"InstallApplication", map[string]any{"Identifier": "com.example", "Configuration": map[string]any{"url": sentinel, "on": true, "list": []any{sentinel}}},
			`{"Configuration":{"list":["[redacted]"],"on":true,"url":"[redacted]"},"Identifier":"com.example"}`,
		},
		"settings are, those of nobody’s knowledge are not": {
			"Settings", map[string]any{"Settings": []any{map[string]any{"Item": "Bluetooth", "Enabled": true}, map[string]any{"Item": "New", "Value": sentinel}}},
			`{"Settings":[{"Enabled":true,"Item":"Bluetooth"},{"Item":"[redacted]","Value":"[redacted]"}]}`,
		},
		"nobody knows a command":  {"Brew", map[string]any{"Secret": sentinel}, `{"Secret":"[redacted]"}`},
		"a value of another kind": {"DeviceLock", map[string]any{"Message": []byte(sentinel), "PIN": map[string]any{"x": sentinel}}, `{"Message":"[8 bytes]","PIN":{"x":"[redacted]"}}`},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := json.Marshal(command.Shown(tt.requestType, tt.params))
			if err != nil || string(got) != tt.want || strings.Contains(string(got), sentinel) {
				t.Errorf("Shown(%s) = %s, %v, want %s", tt.requestType, got, err, tt.want)
			}
		})
	}
}
