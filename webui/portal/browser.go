package portal

import (
	"strconv"
	"strings"

	"github.com/gatehouse-mdm/gatehouse/enroll"
)

// Platform is a kind of device.
type Platform string

// The platforms. Those of Apple can enroll.
const (
	IPhone  Platform = "iphone"
	IPad    Platform = "ipad"
	IPod    Platform = "ipod"
	Mac     Platform = "mac"
	Vision  Platform = "vision"
	Android Platform = "android"
	Windows Platform = "windows"
	Linux   Platform = "linux"
	Other   Platform = "other"
)

// Browser is what shows the portal, as far as its User-Agent tells the truth.
type Browser struct {
	Platform Platform

	// App is which app it is, if that is not Safari: "Chrome", "Instagram"; someApp for
	// one that does not say. Apps whose User-Agent is
	// Safari's own (Brave, or DuckDuckGo at times) can't be told.
	App string

	// Major is the major version of the system; 0: not known. From Safari 26 on the
	// system's own number in the User-Agent stands still, and on a Mac it has done so for
	// long, so this is the version of Safari, which is the same but for Macs: there Safari
	// 26 is taken for macOS 26, 18 for 15, and so on, though it runs on older systems, too.
	Major int
}

// someApp is an app that shows pages and does not say which it is.
const someApp = "?"

// name is what the app is called; empty: not known.
func (b Browser) name() string {
	if b.App == someApp {
		return ""
	}
	return b.App
}

// apps are the marks by which apps other than Safari tell of themselves. The order
// counts: Facebook's and Instagram's views name others, too.
var apps = []struct{ mark, name string }{
	{"Instagram", "Instagram"}, {"Messenger", "Messenger"}, {"FBAN/", "Facebook"}, {"FBAV/", "Facebook"},
	{"LinkedInApp", "LinkedIn"}, {"MicroMessenger", "WeChat"}, {"WhatsApp", "WhatsApp"}, {"Twitter", "X"},
	{"TikTok", "TikTok"}, {"musical_ly", "TikTok"}, {"BytedanceWebview", "TikTok"}, {"Snapchat", "Snapchat"}, {"Pinterest", "Pinterest"},
	{" Line/", "LINE"}, {"Slack", "Slack"}, {"Teams/", "Teams"}, {"TeamsMobile", "Teams"}, {"Outlook-iOS", "Outlook"},
	{"GSA/", "Google"}, {"CriOS/", "Chrome"}, {"FxiOS/", "Firefox"}, {"Focus/", "Firefox Focus"}, {"Klar/", "Firefox Klar"},
	{"EdgiOS/", "Edge"}, {"OPiOS/", "Opera"}, {"OPT/", "Opera"}, {"OPX/", "Opera GX"}, {"OPR/", "Opera"},
	{"DuckDuckGo/", "DuckDuckGo"}, {"Ddg/", "DuckDuckGo"}, {"Brave/", "Brave"}, {"YaBrowser/", "Yandex"}, {"UCBrowser/", "UC Browser"},
	{"Vivaldi/", "Vivaldi"}, {"Ecosia", "Ecosia"}, {"Aloha", "Aloha"}, {"SamsungBrowser/", "Samsung Internet"},
	// Of the desk.
	{"Edg/", "Edge"}, {"Firefox/", "Firefox"}, {"Chromium/", "Chromium"}, {"Chrome/", "Chrome"},
}

// Detect reads a User-Agent. It never fails: what it does not know is Other.
func Detect(userAgent string) Browser {
	var b Browser
	has := func(mark string) bool { return strings.Contains(userAgent, mark) }
	switch {
	case has("Windows Phone"):
		b.Platform = Windows // it names everybody else
	case has("iPod"):
		b.Platform = IPod
	case has("iPhone"):
		b.Platform = IPhone
	case has("iPad"):
		b.Platform = IPad
	case has("Vision") && has("AppleWebKit"):
		b.Platform = Vision
	case has("Android"):
		b.Platform = Android
	case has("Macintosh"):
		b.Platform = Mac // an iPad says so, too: the page's script asks it for its fingers
	case has("Windows"):
		b.Platform = Windows
	case has("Linux") || has("X11") || has("CrOS"):
		b.Platform = Linux
	default:
		b.Platform = Other
	}
	for _, app := range apps {
		if has(app.mark) {
			b.App = app.name
			break
		}
	}
	if b.App == "" && !(has("Version/") && has("Safari/")) {
		b.App = someApp // a view of the web in an app says neither
	}
	if b.Platform.enrolls() {
		b.Major = b.major(userAgent)
	}
	return b
}

// frozenIOS is the version that the User-Agent of iOS and iPadOS tells from there on
// (whatwg/compat 283).
const frozenIOS = 18

// major finds the version of the system.
func (b Browser) major(userAgent string) int {
	system := numberAfter(userAgent, " OS ") // "CPU iPhone OS 18_6 like Mac OS X", "CPU OS 13_2 like Mac OS X"
	if b.Platform == Mac {
		if system = numberAfter(userAgent, "Mac OS X "); system == 10 {
			system = 0 // stands still at 10_15_7
		}
	}
	if b.App != "" {
		// Of others, Version is their own where they have one.
		if b.Platform != Mac && system == frozenIOS {
			return 0 // or a later one
		}
		return system
	}
	safari := numberAfter(userAgent, "Version/")
	if b.Platform != Mac {
		return max(safari, system)
	}
	switch {
	case safari >= 26:
		return safari
	case safari >= 14:
		return safari - 3
	case safari > 0:
		return 10
	}
	return system
}

// numberAfter returns the number that follows a mark, 0 if there is none that is
// reasonable.
func numberAfter(s, mark string) int {
	_, rest, ok := strings.Cut(s, mark)
	if !ok {
		return 0
	}
	end := 0
	for end < len(rest) && end < 4 && rest[end] >= '0' && rest[end] <= '9' {
		end++
	}
	n, err := strconv.Atoi(rest[:end])
	if err != nil || n > 999 {
		return 0
	}
	return n
}

// enrolls says whether there is a way to enroll devices of the platform here.
func (p Platform) enrolls() bool {
	return p == IPhone || p == IPad || p == IPod || p == Mac || p == Vision
}

// touch says that it is a device with iOS or the like: Settings, and no System Settings.
func (p Platform) touch() bool { return p.enrolls() && p != Mac }

// system is the platform's name in an attempt; empty if it can't enroll.
func (p Platform) system() string {
	switch p {
	case IPhone, IPod:
		return "ios"
	case IPad:
		return "ipados"
	case Mac:
		return "macos"
	case Vision:
		return "visionos"
	}
	return ""
}

// family is what Apple calls the platform where it asks how a device enrolls.
func (p Platform) family() enroll.ModelFamily {
	switch p {
	case IPad:
		return "iPad"
	case Mac:
		return "Mac"
	case Vision:
		return "RealityDevice"
	}
	return "iPhone"
}

// platformOf is the platform of an attempt.
func platformOf(system string) Platform {
	switch system {
	case "ipados":
		return IPad
	case "macos":
		return Mac
	case "visionos":
		return Vision
	}
	return IPhone
}

// oldestIOS is the oldest version of iOS and iPadOS that can enroll here.
const oldestIOS = 13

// tooOld says that the system is one that can't be enrolled here.
func (b Browser) tooOld() bool {
	return b.Platform.touch() && b.Platform != Vision && b.Major > 0 && b.Major < oldestIOS
}

// safari says that profiles can be installed from this browser. On a Mac, whatever browser
// it is downloads them.
func (b Browser) safari() bool { return b.App == "" || b.Platform == Mac }

// as returns the browser on a device of which the person says what it is, which browsers
// don't always. Unknown names change nothing.
func (b Browser) as(platform string) Browser {
	p := Platform(platform)
	switch p {
	case IPhone, IPad, Mac, Vision:
		if p != b.Platform {
			// An iPad that asks for desktop pages has the version of its Safari, which
			// stands for the system's.
			if b.Platform == Mac && p.touch() && b.Major > 10 && b.Major < 26 {
				b.Major += 3
			} else if b.Platform == Mac && p.touch() && b.Major <= 10 {
				b.Major = 13
			}
			b.Platform = p
		}
	case Other:
		b.Platform, b.Major = Other, 0
	}
	return b
}
