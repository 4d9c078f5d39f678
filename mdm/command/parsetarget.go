package command

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// platformNames are the words of ParseTarget for platforms.
var platformNames = map[string]Platform{
	"ios": IOS, "ipados": IOS, "macos": MacOS, "tvos": TVOS, "visionos": VisionOS, "watchos": WatchOS,
}

// flag is a word of ParseTarget that is no platform. Of those of one kind, a target has one.
type flag struct {
	name, kind string
	set        func(*Target)
}

var flags = func() []flag {
	yes, no := true, false
	return []flag{
		{"user", "type", func(t *Target) { t.UserEnrollment, t.ADE = true, &no }},
		{"device", "type", func(*Target) {}},
		{"account-device", "type", func(t *Target) { t.ADE = &no }},
		{"ade", "type", func(t *Target) { t.ADE = &yes }},
		{"supervised", "supervision", func(t *Target) { t.Supervised = &yes }},
		{"unsupervised", "supervision", func(t *Target) { t.Supervised = &no }},
		{"user-channel", "channel", func(t *Target) { t.UserChannel = true }},
		{"shared-ipad", "sharing", func(t *Target) { t.SharedIPad = &yes }},
		{"unshared", "sharing", func(t *Target) { t.SharedIPad = &no }},
		{"approved", "approval", func(t *Target) { t.Approved = &yes }},
		{"unapproved", "approval", func(t *Target) { t.Approved = &no }},
	}
}()

// maxRights is all access rights, 3.3 of PROTOCOL.
const maxRights = 8191

// TargetHelp is the grammar of ParseTarget in a line.
const TargetHelp = "PLATFORM[:VERSION][,FLAG…], such as ios:18.2,user or macos,supervised,rights=8191"

// ParseTarget reads a target as a person types it: words with commas in between, in any case.
//
//	ios:18.2,user            a personal iPhone
//	macos:15.2,ade           a Mac that came by Automated Device Enrollment
//	macos,user-channel       a user of a Mac
//
// The first word may be a platform (ios or ipados, macos, tvos, visionos, watchos), with the
// version of its system behind a colon. The others are flags:
//
//	user, device, account-device, ade   how it enrolled: User Enrollment, by profile, by account,
//	                                    by Automated Device Enrollment; device says no more
//	supervised, unsupervised
//	user-channel                        a user's channel instead of the device's
//	shared-ipad, unshared               an iPad of several users, or not
//	approved, unapproved                a Mac whose user has approved the enrollment, or not
//	rights=N                            the sum of its access rights, 1 to 8191
//
// What is not said is not known. The error names the wrong word, and one that may be meant.
func ParseTarget(text string) (Target, error) {
	var t Target
	said := make(map[string]string) // word by its kind
	for i, word := range strings.Split(text, ",") {
		word = strings.ToLower(strings.TrimSpace(word))
		name, version, versioned := strings.Cut(word, ":")
		p, platform := platformNames[name]
		if !platform && versioned {
			return Target{}, fmt.Errorf("%q is not a platform%s", clip(name), wordMeant(name, true))
		}
		if platform {
			if i > 0 {
				return Target{}, fmt.Errorf("%q must come first", word)
			}
			if versioned && !isVersion(version) {
				return Target{}, fmt.Errorf("%q is not a version such as 18.2", clip(version))
			}
			t.Platform, t.OSVersion = p, version
			continue
		}
		kind := ""
		if rights, ok := strings.CutPrefix(word, "rights="); ok {
			n, err := strconv.Atoi(rights)
			if err != nil || n < 1 || n > maxRights {
				return Target{}, fmt.Errorf("%q is not a sum of access rights: 1 to %d", clip(word), maxRights)
			}
			t.AccessRights, kind = n, "rights"
		} else {
			j := slices.IndexFunc(flags, func(f flag) bool { return f.name == word })
			if j < 0 {
				return Target{}, fmt.Errorf("%q is not known%s", clip(word), wordMeant(word, i == 0))
			}
			flags[j].set(&t)
			kind = flags[j].kind
		}
		if before, twice := said[kind]; twice {
			return Target{}, fmt.Errorf("%q and %q can't both be", before, word)
		}
		said[kind] = word
	}
	shared := t.SharedIPad != nil && *t.SharedIPad
	switch {
	case shared && t.Platform != IOS && t.Platform != "":
		return Target{}, fmt.Errorf("%q is for ios", said["sharing"])
	case said["approval"] != "" && t.Platform != MacOS && t.Platform != "":
		return Target{}, fmt.Errorf("%q is for macos", said["approval"])
	case t.UserEnrollment && said["supervision"] == "supervised":
		return Target{}, fmt.Errorf("%q and %q can't both be: no personal device is supervised", "user", "supervised")
	case t.UserEnrollment && shared:
		return Target{}, fmt.Errorf("%q and %q can't both be: no personal device is shared", "user", "shared-ipad")
	}
	return t, nil
}

// wordMeant returns what may be meant by a word that ParseTarget does not know.
func wordMeant(word string, platforms bool) string {
	known := make([]string, 0, len(flags)+len(platformNames)+1)
	for _, f := range flags {
		known = append(known, f.name)
	}
	known = append(known, "rights=N")
	if platforms {
		for name := range platformNames {
			known = append(known, name)
		}
		slices.Sort(known)
	}
	if m := meant(word, known); m != "" {
		return m
	}
	return "; a target is " + TargetHelp
}

// isVersion holds for one to four numbers with dots in between.
func isVersion(v string) bool {
	if strings.Count(v, ".") > 3 || len(v) > 32 {
		return false
	}
	for part := range strings.SplitSeq(v, ".") {
		if part == "" || len(part) > 8 || strings.Trim(part, "0123456789") != "" {
			return false
		}
	}
	return true
}

// String returns the target in words: "iOS and iPadOS 18.2, User Enrollment, supervised".
func (t Target) String() string {
	words := []string{t.Platform.String()}
	if t.OSVersion != "" {
		words[0] += " " + t.OSVersion
	}
	add := func(b *bool, yes, no string) {
		switch {
		case b == nil:
		case *b:
			words = append(words, yes)
		case no != "":
			words = append(words, no)
		}
	}
	if t.UserEnrollment {
		words = append(words, "User Enrollment")
	} else {
		add(t.ADE, "Automated Device Enrollment", "not by Automated Device Enrollment")
	}
	add(t.Supervised, "supervised", "not supervised")
	add(t.SharedIPad, "Shared iPad", "no Shared iPad")
	add(t.Approved, "approved by its user", "not approved by its user")
	if t.UserChannel {
		words = append(words, "user channel")
	}
	if t.AccessRights != 0 {
		words = append(words, fmt.Sprintf("access rights %d", t.AccessRights))
	}
	return strings.Join(words, ", ")
}
