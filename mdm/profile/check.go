package profile

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/gatehouse-mdm/gatehouse/mdm/command"
)

// Check returns what of a profile a target does not take, first what it refuses the profile
// for, and whether it refuses it. What is wrong on every device is for Lint to say; it does not
// keep a profile from being sent, since the device knows better what it takes.
//
// A device refuses a profile for one payload that needs more than the device is: supervised,
// approved by its user, an iPad of one person, the other channel. So it does where that is
// not known of the device: unknown is not yes. A key alone that needs more has no effect
// there, and refuses nothing. So has a payload that the platform, or its version, does not
// have; a profile is refused of which nothing would be left.
//
// In a User Enrollment iOS, iPadOS and visionOS refuse a profile for one forbidden payload or
// key; macOS leaves it out (PROTOCOL 3.8, Apple's page "LegacyProfile").
//
// On a platform that is not known, a profile is refused that all refuse. A key that has its
// default is as good as none. What only the device can read passes: a payload of a type that
// is not known, and the content of an encrypted profile.
func (p *Profile) Check(t command.Target) (findings []Finding, refused bool) {
	if slices.Contains(command.Platforms(), t.Platform) {
		return p.check(t)
	}
	guesses := command.Platforms()
	if t.UserEnrollment { // those that have it, iOS last: it says the most
		guesses = []command.Platform{command.MacOS, command.VisionOS, command.IOS}
	}
	for _, guess := range guesses {
		t.Platform, t.OSVersion = guess, ""
		found, refused := p.check(t)
		if !refused {
			return nil, false
		}
		// That it does not exist elsewhere says less than what it needs where it does.
		if findings == nil || t.UserEnrollment || findings[0].Code == command.CodePlatform && found[0].Code != command.CodePlatform {
			findings = found
		}
	}
	return findings, true
}

// checker collects what one target of a known platform does not take.
type checker struct {
	target   command.Target
	at       Payload
	refusals []Finding // what the whole profile is refused for
	leftOut  []Finding // payloads that the device does without
	others   []Finding
}

func (c *checker) finding(severity Severity, code, key, reason string) Finding {
	return Finding{
		Code: code, Severity: severity, PayloadType: c.at.Type, PayloadIndex: c.at.Index, Key: key,
		Platforms: []command.Platform{c.target.Platform}, Reason: reason,
	}
}

func (c *checker) refuse(severity Severity, code, key, reason string) {
	c.refusals = append(c.refusals, c.finding(severity, code, key, reason))
}

func (c *checker) leaveOut(code, reason string) {
	c.leftOut = append(c.leftOut, c.finding(SeverityWarning, code, "", reason))
}

func (c *checker) add(severity Severity, code, key, reason string) {
	c.others = append(c.others, c.finding(severity, code, key, reason))
}

// strict holds where one forbidden payload or key spoils the whole profile.
func (c *checker) strict() bool {
	return c.target.UserEnrollment && c.target.Platform != command.MacOS
}

func (p *Profile) check(t command.Target) ([]Finding, bool) {
	c := checker{target: t, at: Payload{Type: configurationType, Index: -1, Content: p.Top}}
	if target := p.targetDevice(); target != "" && target != t.Platform {
		c.refuse(SeverityError, command.CodePlatform, "TargetDeviceType", fmt.Sprintf("The profile is for %s alone by its TargetDeviceType.", target))
	}
	if !p.has("com.apple.mdm") { // who enrolls, a user or the Mac, is another matter
		c.scope(p.Scope)
	}
	c.keys(nil, p.Top, uses()[topLevel][0].shape, 0)
	left := len(p.Payloads) == 0
	for _, payload := range p.Payloads {
		c.at = payload
		if c.payload() {
			left = true
		}
	}
	if !left {
		for _, f := range c.leftOut {
			f.Severity = SeverityError
			c.refusals = append(c.refusals, f)
		}
		c.leftOut = nil
	}
	worst := func(a, b Finding) int { return slices.Index(order, a.Severity) - slices.Index(order, b.Severity) }
	others := slices.Concat(c.leftOut, c.others)
	slices.SortStableFunc(c.refusals, worst)
	slices.SortStableFunc(others, worst)
	return append(c.refusals, others...), len(c.refusals) > 0
}

// scope notes that the channel decides for whom a Mac installs a profile, whatever the
// profile says.
func (c *checker) scope(scope string) {
	switch {
	case c.target.Platform != command.MacOS:
	case scope == "User" && !c.target.UserChannel:
		c.add(SeverityNote, CodeScope, "PayloadScope", "PayloadScope of the profile is User, and it is sent to the whole Mac.")
	case scope == "System" && c.target.UserChannel:
		c.add(SeverityNote, CodeScope, "PayloadScope", "PayloadScope of the profile is System, and it is sent to one user of the Mac.")
	}
}

// payload checks a payload, and returns whether the device takes it. Of several uses of its
// type, one that is allowed is the one that is meant.
func (c *checker) payload() (takes bool) {
	known := meant(c.at)
	var no *command.Refusal
	var allowed []use
	for _, u := range known {
		whole := command.Type{RequestType: u.PayloadType, Platforms: u.Platforms}
		if err := whole.Check(c.target); err == nil {
			allowed = append(allowed, u)
		} else if no == nil {
			errors.As(err, &no)
		}
	}
	switch {
	case len(known) == 0:
		return true
	case len(allowed) > 0:
		c.allowed(allowed)
		return true
	}
	reason := "The payload " + no.Reason
	if absent := known[0].Platforms[c.target.Platform] == nil; absent && c.strict() {
		no = &command.Refusal{Code: command.CodeUserEnrollment, Reason: no.Reason}
	}
	switch no.Code {
	case command.CodePlatform, command.CodeOSVersion:
		c.leaveOut(no.Code, reason+" The device does without it.")
		return false
	case command.CodeUserEnrollment:
		if c.strict() {
			c.refuse(SeverityError, no.Code, "", reason)
		} else {
			c.leaveOut(no.Code, reason)
		}
		return false
	case command.CodeSupervisionUnknown, command.CodeADEUnknown, command.CodeApprovalUnknown, command.CodeSharedIPadUnknown:
		c.refuse(SeverityUnknown, no.Code, "", reason)
	default:
		c.refuse(SeverityError, no.Code, "", reason)
	}
	return true
}

// allowed checks the keys of a payload by the uses of its type that are allowed: by the one
// that finds least.
func (c *checker) allowed(uses []use) {
	best := *c
	for i, u := range uses {
		trial := *c
		trial.refusals, trial.others = slices.Clip(c.refusals), slices.Clip(c.others)
		trial.keys(nil, c.at.Content, u.shape, 0)
		if i == 0 || trial.found() < best.found() {
			best = trial
		}
	}
	*c = best
}

func (c *checker) found() int { return len(c.refusals) + len(c.others) }

// keys checks the keys of a dictionary.
func (c *checker) keys(in *place, d map[string]any, s *shape, depth int) {
	for _, name := range slices.Sorted(maps.Keys(d)) {
		f := s.keys[name]
		if f == nil {
			f = s.free
		}
		if f != nil {
			c.key(&place{in: in, key: name}, d[name], f, depth)
		}
	}
}

func (c *checker) key(at *place, v any, f *field, depth int) {
	if depth > maxDepth || isDefault(v, f.Key) {
		return
	}
	var no *command.Refusal
	if err := f.Key.Check(c.target); errors.As(err, &no) && f.platforms != nil {
		c.deny(at, f, no)
		return
	}
	if a := f.Key.Platforms[c.target.Platform]; a != nil && c.target.UserEnrollment && a.UserEnrollment == "ignored" {
		c.add(SeverityNote, CodeIgnored, at.String(), fmt.Sprintf("%s in %s has no effect on a personal device (User Enrollment).", at, c.at.Type))
	}
	switch v := v.(type) {
	case map[string]any:
		if f.dict != nil {
			c.keys(at, v, f.dict, depth+1)
		}
	case []any:
		if len(f.items) != 1 {
			return
		}
		for i, element := range v {
			in := &place{in: at, index: i}
			if d, ok := element.(map[string]any); ok && f.items[0].dict != nil {
				c.keys(in, d, f.items[0].dict, depth+1)
			}
		}
	}
}

func (c *checker) deny(at *place, f *field, no *command.Refusal) {
	key := at.String()
	what := key
	if c.at.Index >= 0 {
		what += " in " + c.at.Type
	}
	reason := what + strings.TrimPrefix(no.Reason, f.Name)
	switch no.Code {
	case command.CodeUserEnrollment:
		if c.strict() {
			c.refuse(SeverityError, no.Code, key, reason)
		} else {
			c.add(SeverityWarning, no.Code, key, reason)
		}
	case command.CodeSupervisionUnknown, command.CodeADEUnknown, command.CodeApprovalUnknown, command.CodeSharedIPadUnknown:
		c.add(SeverityUnknown, no.Code, key, reason)
	default:
		c.add(SeverityWarning, no.Code, key, reason+" It has no effect there.")
	}
}
