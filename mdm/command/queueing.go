package command

import (
	"fmt"
	"slices"

	"github.com/gatehouse-mdm/gatehouse/mdm/internal/plistxml"
)

// urgent are the commands with which somebody answers to a loss: they overtake what waits.
var urgent = []string{"DeviceLock", "EnableLostMode", "EraseDevice"}

// Urgent says that a command is to reach its device before others that wait for it.
func Urgent(requestType string) bool { return slices.Contains(urgent, requestType) }

// Undoes returns the type of the commands that one of requestType takes back, where it would
// overtake them: they must not come after it. It is empty for none.
func Undoes(requestType string) string {
	if requestType == "EnableLostMode" {
		return "DisableLostMode"
	}
	return ""
}

// Encode returns the property list of a command whose Command dictionary, RequestType and
// all, is params, as [Params] reads it. It fails for a text that no property list can hold.
func Encode(params map[string]any, uuid string) ([]byte, error) {
	raw, err := plistxml.Marshal(map[string]any{"Command": params, "CommandUUID": uuid})
	if err != nil {
		return nil, fmt.Errorf("command: encode: %w", err)
	}
	return raw, nil
}
