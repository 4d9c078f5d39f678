package seal

import (
	"fmt"
	"io"
	"log/slog"
)

// shown is what a Secret looks like from outside.
const shown = "[secret]"

// Secret is a string that must not be seen: it prints, logs and marshals as
// "[secret]". Its value is had by converting it: string(s).
type Secret string

// String returns "[secret]".
func (Secret) String() string { return shown }

// Format writes "[secret]" for every verb.
func (Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, shown) }

// LogValue returns "[secret]".
func (Secret) LogValue() slog.Value { return slog.StringValue(shown) }

// MarshalText returns "[secret]", so that a Secret in a JSON or YAML document
// that was made to be looked at stays one. To store it, seal it.
func (Secret) MarshalText() ([]byte, error) { return []byte(shown), nil }
