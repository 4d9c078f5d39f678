package webui

import "strings"

// browserOf says in words what sends a User-Agent: "Safari on iPhone". It is for people who
// look for a session that is not theirs, and may be wrong: an iPad says that it is a Mac.
// Empty: it says nothing that is known.
func browserOf(userAgent string) string {
	has := func(mark string) bool { return strings.Contains(userAgent, mark) }
	name := ""
	switch { // the others name themselves beside those that they are like
	case has("Edg/"), has("EdgiOS/"), has("EdgA/"):
		name = "Edge"
	case has("OPR/"), has("OPT/"):
		name = "Opera"
	case has("Firefox/"), has("FxiOS/"):
		name = "Firefox"
	case has("CriOS/"), has("Chrome/"), has("Chromium/"):
		name = "Chrome"
	case has("Safari/"), has("iPhone"), has("iPad"):
		name = "Safari"
	}
	system := ""
	switch {
	case has("iPhone"):
		system = "iPhone"
	case has("iPad"):
		system = "iPad"
	case has("Macintosh"):
		system = "Mac"
	case has("Windows"):
		system = "Windows"
	case has("Android"):
		system = "Android"
	case has("CrOS"):
		system = "ChromeOS"
	case has("Linux"):
		system = "Linux"
	}
	switch {
	case name == "":
		return system
	case system == "":
		return name
	}
	return name + " on " + system
}
