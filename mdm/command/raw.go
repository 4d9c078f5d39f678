package command

import (
	"errors"
	"fmt"
	"strings"

	"github.com/gatehouse-mdm/gatehouse/storage/guard"
)

// ErrRaw means that a raw command is none: no property list, or one without a
// usable Command, RequestType or CommandUUID.
var ErrRaw = errors.New("not a command")

// MaxRaw is the size in bytes up to which commands are read: enough for a profile
// of 8 MiB in base64.
const MaxRaw = 12 << 20

// ParseRaw reads CommandUUID and RequestType of a whole command, as an
// administrator sends it. The bytes go to the device as they are, so keys that we
// don't know travel unchanged.
//
// The UUID is any 1 to 128 of A-Z a-z 0-9 . _ : and -, because it stands in URLs
// and logs. Errors wrap ErrRaw, with guard's error about the property list.
func ParseRaw(raw []byte) (uuid, requestType string, err error) {
	var cmd struct {
		Command struct {
			RequestType string
		}
		CommandUUID string
	}
	if err := guard.DecodePlist(raw, &cmd, guard.PlistLimits{Bytes: MaxRaw}); err != nil {
		return "", "", fmt.Errorf("%w: %w", ErrRaw, err)
	}
	switch {
	case cmd.Command.RequestType == "":
		return "", "", fmt.Errorf("%w: Command.RequestType is missing", ErrRaw)
	case !validName(cmd.Command.RequestType):
		return "", "", fmt.Errorf("%w: Command.RequestType must be 1 to 128 letters and digits", ErrRaw)
	case cmd.CommandUUID == "":
		return "", "", fmt.Errorf("%w: CommandUUID is missing", ErrRaw)
	case !validUUID(cmd.CommandUUID):
		return "", "", fmt.Errorf("%w: CommandUUID must be 1 to 128 of A-Z a-z 0-9 . _ : and -", ErrRaw)
	}
	return cmd.CommandUUID, cmd.Command.RequestType, nil
}

func validUUID(s string) bool { return made(s, ".-_:") }
func validName(s string) bool { return made(s, "") }

// made reports whether s is 1 to 128 ASCII letters, digits and others. A lone "."
// or ".." would not survive in a URL.
func made(s, others string) bool {
	if s == "" || len(s) > 128 || strings.Trim(s, ".") == "" {
		return false
	}
	return strings.IndexFunc(s, func(r rune) bool {
		return (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z') && !strings.ContainsRune(others, r)
	}) < 0
}

// ProfileIn returns the profile that an InstallProfile command carries, nil when
// raw is none.
func ProfileIn(raw []byte) []byte {
	var cmd struct {
		Command struct {
			RequestType string
			Payload     []byte
		}
	}
	err := guard.DecodePlist(raw, &cmd, guard.PlistLimits{Bytes: MaxRaw})
	if err != nil || cmd.Command.RequestType != "InstallProfile" {
		return nil
	}
	return cmd.Command.Payload
}
