package profiles

import (
	"strings"

	"github.com/gatehouse-mdm/gatehouse/webui/admin"
	"github.com/gatehouse-mdm/gatehouse/webui/view"
)

// standing says how a profile stands on a device.
func standing(state string) view.State {
	switch state {
	case "sent":
		return view.State{Text: "on its way", Tone: view.Waiting, Hint: "The device has not said yet that it has it."}
	case "installed":
		return view.State{Text: "installed", Tone: view.Good}
	case "failed":
		return view.State{Text: "failed", Tone: view.Bad}
	case "removing":
		return view.State{Text: "being removed", Tone: view.Waiting}
	case "removed":
		return view.State{Text: "removed", Tone: view.Neutral}
	case "drifted":
		return view.State{Text: "drifted", Tone: view.Bad, Hint: "The device has something else than what was agreed on last."}
	}
	return view.State{Text: state}
}

// severity says how bad a finding is.
func severity(name string) view.State {
	switch name {
	case "error":
		return view.State{Text: "Error", Tone: view.Bad}
	case "unknown":
		return view.State{Text: "Depends on the device", Tone: view.Waiting}
	case "warning":
		return view.State{Text: "Warning", Tone: view.Waiting}
	}
	return view.State{Text: "Note", Tone: view.Neutral}
}

// systems names platforms as Apple does.
func systems(platforms []string) string {
	names := make([]string, len(platforms))
	for i, p := range platforms {
		switch p {
		case "ios":
			names[i] = "iOS and iPadOS"
		case "macos":
			names[i] = "macOS"
		case "tvos":
			names[i] = "tvOS"
		case "visionos":
			names[i] = "visionOS"
		case "watchos":
			names[i] = "watchOS"
		default:
			names[i] = p
		}
	}
	return strings.Join(names, ", ")
}

// counted is a number of devices in one state.
type counted struct {
	State view.State
	Count int
	URL   string
}

// counts sorts numbers of devices by state, those that are of use first.
func counts(of map[string]int, base string) (list []counted, all int) {
	for _, state := range []string{"installed", "sent", "failed", "drifted", "removing", "removed"} {
		if n := of[state]; n > 0 {
			list = append(list, counted{standing(state), n, base + "/devices?state=" + state})
			all += n
		}
	}
	return list, all
}

// troubles says how many findings there are of the bad kinds: "2 errors, 1 warning".
func troubles(of map[string]int) view.State {
	var parts []string
	tone := view.Good
	if n := of["warning"] + of["unknown"]; n > 0 {
		parts, tone = append(parts, admin.Count(n, "warning", "warnings")), view.Waiting
	}
	if n := of["error"]; n > 0 {
		parts, tone = append([]string{admin.Count(n, "error", "errors")}, parts...), view.Bad
	}
	if len(parts) == 0 {
		return view.State{Text: "no problems", Tone: view.Good}
	}
	return view.State{Text: strings.Join(parts, ", "), Tone: tone}
}
