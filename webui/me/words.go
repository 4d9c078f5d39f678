package me

import (
	"cmp"
	"strings"
	"time"

	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/webui/text"
	"github.com/gatehouse-mdm/gatehouse/webui/view"
)

// ago is a time as people say it: how long ago, and after some weeks the day.
func (m *Me) ago(t *text.Texts, at time.Time) view.MeTime {
	if at.IsZero() {
		return view.MeTime{Words: t.Say("me.time.never")}
	}
	out := exact(at)
	out.Exact = out.Words
	switch d := m.Now().Sub(at); {
	case d < time.Minute:
		out.Words = t.Say("me.time.now")
	case d < time.Hour:
		out.Words = t.Many("me.time.minutes", int(d.Minutes()))
	case d < 48*time.Hour:
		out.Words = t.Many("me.time.hours", int(d.Hours()))
	case d < 60*24*time.Hour:
		out.Words = t.Many("me.time.days", int(d.Hours()/24))
	default:
		out.Words = day(at)
	}
	return out
}

// exact is a time to the minute, as no language mistakes it.
func exact(at time.Time) view.MeTime {
	at = at.UTC()
	return view.MeTime{At: at.Format(time.RFC3339), Words: at.Format("2006-01-02 15:04 UTC")}
}

// day is a time to the day (ISO 8601).
func day(at time.Time) string { return at.UTC().Format(time.DateOnly) }

// deviceName is what to call a device: the best of what it said of itself.
func deviceName(t *text.Texts, d mdm.Device) string {
	return cmp.Or(d.DeviceName, modelName(d), serialNumber(d), t.Say("me.device.unnamed"))
}

// serialNumber is a device's, but none of a User Enrollment's: its user was told that nobody
// knows it.
func serialNumber(d mdm.Device) string {
	if d.Type == mdm.TypeUser {
		return ""
	}
	return d.SerialNumber
}

// modelName is the model as it is sold, and else as Apple numbers it.
func modelName(d mdm.Device) string { return cmp.Or(d.ModelName, d.ProductName, d.Model) }

// systems are what the systems of Apple's devices are called, by what the model's number
// begins with.
var systems = []struct{ model, name string }{
	{"iPhone", "iOS"}, {"iPod", "iOS"}, {"iPad", "iPadOS"}, {"Mac", "macOS"}, {"iMac", "macOS"},
	{"AppleTV", "tvOS"}, {"Watch", "watchOS"}, {"RealityDevice", "visionOS"},
}

func systemName(d mdm.Device) string {
	if d.OSVersion == "" {
		return ""
	}
	model := cmp.Or(d.ProductName, d.Model, d.ModelName)
	for _, s := range systems {
		if strings.HasPrefix(model, s.model) {
			return s.name + " " + d.OSVersion
		}
	}
	return d.OSVersion
}

// deviceState is where a device stands.
func deviceState(t *text.Texts, s mdm.State) view.State {
	tone := view.Neutral
	switch s {
	case mdm.Enrolled:
		tone = view.Good
	case mdm.Pending:
		tone = view.Waiting
	case mdm.Blocked:
		tone = view.Bad
	}
	return view.State{Text: t.Say("me.state." + string(s)), Tone: tone}
}

func ownership(t *text.Texts, o mdm.Ownership) string {
	if o == mdm.Personal {
		return t.Say("me.ownership.personal")
	}
	return t.Say("me.ownership.institutional")
}

// known is the text of a key with an end that comes from elsewhere, or that end as it is
// where nobody wrote one.
func known(t *text.Texts, room, what string) string {
	if key := room + what; t.Has(key) {
		return t.Say(key)
	}
	return what
}
