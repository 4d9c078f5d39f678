package commands

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// hint says of a key what its name can't: what it is for, what it may be, and where it works.
func (k key) hint() string {
	parts := []string{hints[k.Name]}
	switch {
	case k.Min != nil && k.Max != nil:
		parts = append(parts, fmt.Sprintf("From %v to %v.", *k.Min, *k.Max))
	case k.Min != nil:
		parts = append(parts, fmt.Sprintf("At least %v.", *k.Min))
	case k.Max != nil:
		parts = append(parts, fmt.Sprintf("At most %v.", *k.Max))
	}
	if k.Type == "date" {
		parts = append(parts, "In UTC.")
	}
	if k.Default != nil && k.Type != "boolean" && len(k.Values) == 0 {
		parts = append(parts, fmt.Sprintf("Left out, the device takes %v.", k.Default))
	}
	if k.Free {
		parts = append(parts, "A JSON object with keys of your choice.")
	}
	return join(append(parts, availability(k.Platforms))...)
}

// platformNames are in the order in which they are said.
var platformNames = []struct{ name, words string }{
	{"ios", "iOS"}, {"macos", "macOS"}, {"tvos", "tvOS"}, {"visionos", "visionOS"}, {"watchos", "watchOS"},
}

// availability says on which systems something works, where that differs from what it is in:
// "iOS 9 and later, supervised; not on macOS."
func availability(platforms map[string]*platform) string {
	var on, off []string
	for _, n := range platformNames {
		p, said := platforms[n.name]
		switch {
		case !said:
		case p == nil:
			off = append(off, n.words)
		case p.Removed != "":
			on = append(on, n.words+" before "+p.Removed)
		default:
			words := n.words
			if p.Introduced != "" {
				words += " " + p.Introduced + " and later"
			}
			if p.Supervised {
				words += ", supervised"
			}
			if p.Deprecated != "" {
				words += ", deprecated since " + p.Deprecated
			}
			if words != n.words {
				on = append(on, words)
			}
		}
	}
	text := strings.Join(on, "; ")
	if len(off) > 0 && len(off) < len(platformNames) {
		if text != "" {
			text += "; "
		}
		text += "not on " + strings.Join(off, ", ")
	}
	if text == "" {
		return ""
	}
	return capitalUnlessName(text) + "."
}

// capitalUnlessName leaves iOS as it is spelled.
func capitalUnlessName(s string) string {
	if strings.HasPrefix(s, "not ") {
		return capital(s)
	}
	return s
}

// hints say what keys are for that a form asks for often.
var hints = map[string]string{
	"PIN":                          "Six digits. Left out, the server makes one for a Mac and keeps it with the device’s secrets.",
	"Message":                      "Shown on the locked screen.",
	"PhoneNumber":                  "Shown on the locked screen, for whoever finds the device.",
	"Footnote":                     "Shown at the bottom of the locked screen.",
	"UnlockToken":                  "Left out, the server sends the one that the device has entrusted to it.",
	"NewPassword":                  "Left out, the server makes one and keeps it with the device’s secrets.",
	"CurrentPassword":              "Left out, the server sends the one that it keeps.",
	"Password":                     "Left out, the server sends the one that it keeps.",
	"Identifier":                   "The identifier of the app or profile, such as com.example.app.",
	"Identifiers":                  "Bundle identifiers, such as com.example.app.",
	"Queries":                      "Without any, the device is asked for all that its page shows.",
	"PreserveDataPlan":             "The eSIM stays, so that the device can be reached after it was erased.",
	"DisallowProximitySetup":       "After it was erased, it can’t be set up by holding another device near it.",
	"ObliterationBehavior":         "What a Mac does that can’t erase all content and settings at once.",
	"iTunesStoreID":                "The number in the app’s address in the App Store.",
	"ManifestURL":                  "Where the manifest of an app of your own is, by HTTPS.",
	"Payload":                      "The .mobileconfig, signed or not.",
	"ProvisioningProfile":          "The .mobileprovision file.",
	"UserName":                     "The short name of the account.",
	"ForceDeletion":                "Also if there is data that was not synced yet: that is lost.",
	"DeleteAllUsers":               "Instead of one user.",
	"ManagementFlags":              "1: the app goes with the management; 4: its data is kept out of backups; 5: both.",
	"ChangeManagementState":        "Managed: takes over an app that the person has installed.",
	"InstallAsManaged":             "The app goes with the management.",
	"Configuration":                "What the app reads as its managed configuration.",
	"NotifyUser":                   "The person may put the restart off.",
	"RebuildKernelCache":           "Needed for kernel extensions that were added.",
	"ManagedOnly":                  "Leaves out what the person has installed.",
	"ReturnToService":              "After it was erased, the device sets itself up and enrolls again without a person.",
	"Language":                     "As a code: en, de.",
	"ProductKey":                   "The update’s key, as the list of available updates has it.",
	"ProductVersion":               "Such as 18.1.",
	"MaxUserDeferrals":             "How often the person may put the update off.",
	"DestinationName":              "Of the AirPlay display.",
	"ScanTime":                     "For how many seconds displays are looked for.",
	"RequestRequiresNetworkTether": "Only while the device has a network.",
}

// lost says of destructive commands what can’t be had back.
var lost = map[string]string{
	"EraseDevice":                   "Everything on the device is erased: apps, photos, messages, documents. Nobody can bring it back. The device leaves management and has to be set up again.",
	"DeleteUser":                    "The user’s account is deleted from the device, with all data that is there only.",
	"ClearActivationLockBypassCode": "The device forgets the code. From then on nobody but the person whose Apple Account locked it can open its Activation Lock.",
	"RemoveProfile":                 "This is the enrollment profile: the device leaves management, and everything that came with it is removed.",
}

// entry is how far a command is with one device.
type entry struct {
	DeviceID     string       `json:"device_id"`
	DeviceName   string       `json:"device_name"`
	State        string       `json:"state"`
	PushedAt     *time.Time   `json:"pushed_at"`
	DeliveredAt  *time.Time   `json:"delivered_at"`
	FinishedAt   *time.Time   `json:"finished_at"`
	NotNowCount  int          `json:"not_now_count"`
	WaitingFor   *waiting     `json:"waiting_for"`
	SupersededBy string       `json:"superseded_by"`
	Error        string       `json:"error"`
	ErrorChain   []chainError `json:"error_chain"`
	Summary      string       `json:"summary"`
	Result       any          `json:"result"`
}

type waiting struct {
	Code   string `json:"code"`
	Reason string `json:"reason"`
}

type chainError struct {
	ErrorCode            int64
	ErrorDomain          string
	LocalizedDescription string
	USEnglishDescription string
}

// Pending and Failed say what can be done about it.
func (e entry) Pending() bool {
	return e.State == "queued" || e.State == "delivered" || e.State == "not_now"
}

// Cancellable is what the device does not have, or has put off.
func (e entry) Cancellable() bool { return e.State == "queued" || e.State == "not_now" }

// Retryable is what came to nothing.
func (e entry) Retryable() bool {
	return e.State == "error" || e.State == "expired" || e.State == "cancelled" && e.SupersededBy == ""
}

// Last is the latest time that is known.
func (e entry) Last() *time.Time {
	for _, at := range []*time.Time{e.FinishedAt, e.DeliveredAt, e.PushedAt} {
		if at != nil {
			return at
		}
	}
	return nil
}

// Why is what there is to say beside the state.
func (e entry) Why() string {
	switch {
	case e.WaitingFor != nil:
		return e.WaitingFor.Reason
	case e.Error != "":
		return e.Error
	case e.SupersededBy != "":
		return "A newer one took its place."
	case e.State == "expired":
		return "The device did not fetch it in time."
	}
	return e.Summary
}

// Codes are Apple's numbers of what went wrong, for somebody who looks them up.
func (e entry) Codes() string {
	var codes []string
	for _, c := range e.ErrorChain {
		if code := fmt.Sprintf("%s %d", c.ErrorDomain, c.ErrorCode); !strings.Contains(e.Error, code) { // else the sentence has it
			codes = append(codes, code)
		}
	}
	return strings.Join(codes, ", ")
}

// tone is how a state is meant.
func tone(state string) string {
	switch state {
	case "acknowledged":
		return "good"
	case "error", "expired":
		return "bad"
	case "queued", "delivered", "not_now":
		return "waiting"
	}
	return "neutral"
}

// Tone and Word are of the state.
func (e entry) Tone() string { return tone(e.State) }
func (e entry) Word() string { return stateWord(e.State) }

// step is something that happened on the way of a command to a device and back.
type step struct {
	Tone string // good, waiting, bad, or neutral
	What string
	At   *time.Time
	Note string
	Code string
	URL  string
}

// steps tells the way of a command, from when it was queued by who.
func (e entry) steps(queued time.Time, by string) []step {
	all := []step{{Tone: "good", What: "Queued", At: &queued, Note: "by " + by}}
	told := false // why it waits
	switch {
	case e.PushedAt != nil:
		all = append(all, step{Tone: "good", What: "Pushed", At: e.PushedAt, Note: "Apple’s push service took the wake-up."})
	case e.State == "queued" && e.WaitingFor != nil && slices.Contains([]string{"no_push_token", "push_failing"}, e.WaitingFor.Code):
		all = append(all, step{Tone: "bad", What: "Not pushed", Note: e.WaitingFor.Reason})
		told = true
	}
	if e.DeliveredAt != nil {
		all = append(all, step{Tone: "good", What: "Delivered", At: e.DeliveredAt, Note: "The device has fetched it."})
	}
	if e.NotNowCount > 0 {
		s := step{Tone: "neutral", What: "Not now", Note: "The device was locked or busy, tried " + times(e.NotNowCount) + "."}
		if e.State == "not_now" {
			s.Tone, s.Note = "waiting", s.Note+" It is asked again when it unlocks."
			told = true
		}
		all = append(all, s)
	}
	switch {
	case e.State == "acknowledged":
		all = append(all, step{Tone: "good", What: "Acknowledged", At: e.FinishedAt, Note: e.Summary})
	case e.State == "error":
		all = append(all, step{Tone: "bad", What: "Failed", At: e.FinishedAt, Note: e.Error, Code: e.Codes()})
	case e.State == "expired":
		all = append(all, step{Tone: "bad", What: "Expired", At: e.FinishedAt, Note: "The device did not fetch it in time."})
	case e.SupersededBy != "":
		all = append(all, step{Tone: "neutral", What: "Superseded", At: e.FinishedAt, Note: "A newer command took its place.", URL: section + "/" + e.SupersededBy})
	case e.State == "cancelled":
		all = append(all, step{Tone: "neutral", What: "Cancelled", At: e.FinishedAt})
	case e.WaitingFor != nil && !told:
		all = append(all, step{Tone: "waiting", What: "Waiting", Note: e.WaitingFor.Reason})
	}
	return all
}

func times(n int) string {
	if n == 1 {
		return "once"
	}
	return fmt.Sprintf("%d times", n)
}
