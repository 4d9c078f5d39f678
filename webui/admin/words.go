package admin

import (
	"cmp"
	"encoding/json"
	"fmt"
	"sort"
	"strings"

	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/command"
	"github.com/gatehouse-mdm/gatehouse/webui/view"
)

// deviceName is what to call a device: the best of what it said of itself.
func deviceName(d mdm.Overview) string {
	serial, udid := hardware(d)
	return cmp.Or(d.DeviceName, d.UserLongName, d.UserShortName, serial, udid, d.EnrollmentID, string(d.ID))
}

// hardware is what tells a device from all others for good, which in a User Enrollment is
// the user's own.
func hardware(d mdm.Overview) (serial, udid string) {
	if d.Type == mdm.TypeUser {
		return "", ""
	}
	return d.SerialNumber, d.UDID
}

// modelName is the model as it is sold and as Apple numbers it: "iPhone 16 (iPhone17,3)".
func modelName(d mdm.Overview) string {
	number := cmp.Or(d.ProductName, d.Model)
	if d.ModelName == "" || d.ModelName == number {
		return number
	}
	if number == "" {
		return d.ModelName
	}
	return d.ModelName + " (" + number + ")"
}

// osName is the OS version with the name that the model's OS has.
func osName(d mdm.Overview) string {
	if d.OSVersion == "" {
		return ""
	}
	model := cmp.Or(d.ProductName, d.Model, d.ModelName)
	for _, os := range []struct{ model, name string }{
		{"iPhone", "iOS"}, {"iPod", "iOS"}, {"iPad", "iPadOS"}, {"Mac", "macOS"}, {"iMac", "macOS"},
		{"AppleTV", "tvOS"}, {"Watch", "watchOS"}, {"RealityDevice", "visionOS"},
	} {
		if strings.HasPrefix(model, os.model) {
			return os.name + " " + d.OSVersion
		}
	}
	return d.OSVersion
}

func enrollmentType(t mdm.EnrollmentType) string {
	switch t {
	case mdm.TypeDevice:
		return "Device Enrollment"
	case mdm.TypeUser:
		return "User Enrollment (personal)"
	case mdm.TypeAccountDevice:
		return "Device Enrollment by account"
	case mdm.TypeUserChannel:
		return "User channel"
	}
	return string(t)
}

func deviceState(s mdm.State) view.State {
	switch s {
	case mdm.Enrolled:
		return view.State{Text: "enrolled", Tone: view.Good}
	case mdm.Pending:
		return view.State{Text: "pending", Tone: view.Waiting, Hint: "It has its identity, but has not finished enrolling."}
	case mdm.Unenrolled:
		return view.State{Text: "unenrolled", Tone: view.Neutral, Hint: "Management was removed."}
	case mdm.Blocked:
		return view.State{Text: "blocked", Tone: view.Bad, Hint: "It was removed and may not come back."}
	}
	return view.State{Text: string(s), Tone: view.Neutral}
}

func commandState(e mdm.Entry) view.State {
	switch e.State {
	case mdm.Queued:
		return view.State{Text: "queued", Tone: view.Waiting, Hint: "Waiting for the device to check in."}
	case mdm.Delivered:
		return view.State{Text: "delivered", Tone: view.Waiting, Hint: "The device has it; waiting for its answer."}
	case mdm.NotNow:
		return view.State{Text: "not now", Tone: view.Waiting, Hint: fmt.Sprintf("The device was locked or busy, so far %s. It is asked again.", times(e.NotNowCount))}
	case mdm.Acknowledged:
		return view.State{Text: "acknowledged", Tone: view.Good}
	case mdm.Failed:
		return view.State{Text: "error", Tone: view.Bad}
	case mdm.Cancelled:
		return view.State{Text: "cancelled", Tone: view.Neutral, Hint: "Withdrawn before the device took it."}
	case mdm.Expired:
		return view.State{Text: "expired", Tone: view.Neutral, Hint: "The device did not ask for it in time."}
	}
	return view.State{Text: string(e.State), Tone: view.Neutral}
}

func times(n int) string {
	if n == 1 {
		return "once"
	}
	return fmt.Sprintf("%d times", n)
}

func errorText(e command.ChainedError) string {
	text := cmp.Or(e.USEnglishDescription, e.LocalizedDescription, "no description")
	return fmt.Sprintf("%s (%s %d)", text, e.ErrorDomain, e.ErrorCode)
}

// attributes shows what a device answered, sorted by name.
func attributes(values map[string]any) []view.Fact {
	facts := make([]view.Fact, 0, len(values))
	for name, value := range values {
		facts = append(facts, view.Fact{Label: name, Value: attribute(value)})
	}
	sort.Slice(facts, func(i, j int) bool { return facts[i].Label < facts[j].Label })
	return facts
}

// maxAttribute bounds what is shown of one value, in bytes.
const maxAttribute = 500

func attribute(value any) string {
	var text string
	switch v := value.(type) {
	case string:
		text = v
	case bool:
		text = map[bool]string{true: "yes", false: "no"}[v]
	default:
		data, err := json.Marshal(v)
		if err != nil {
			return "can’t be shown"
		}
		text = string(data)
	}
	if len(text) > maxAttribute {
		text = strings.ToValidUTF8(text[:maxAttribute], "") + "…"
	}
	return text
}
