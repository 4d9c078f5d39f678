package audit

import (
	"html/template"
	"slices"
	"strings"

	"github.com/gatehouse-mdm/gatehouse/webui/admin"
)

// Sentence tells what has happened with the names of those it is about, as HTML. text is
// what there is to say of each event of its kind: “Somebody blocked a device.”
func (e Event) Sentence(text string) template.HTML {
	s := sentence{Event: e}
	if text == "" {
		text = admin.Words(strings.ReplaceAll(e.Action, ".", " ")) // of another version
	}
	switch e.Action {
	case "command.queued":
		return s.say(s.who(), " queued ", s.command(), s.targets(), ".")
	case "command.finished":
		return s.say(s.finished()...)
	case "user.login":
		if e.Outcome == "ok" {
			return s.say(s.person(), " signed in", s.from(), s.proof(), ".")
		}
		return s.say(s.person(), " wanted to sign in", s.from(), " and was refused", s.times(), ".")
	case "user.password_changed":
		if e.Outcome == "ok" {
			return s.say(s.person(), " changed their password.")
		}
		return s.say(s.person(), " wanted to change their password and gave a wrong one.")
	case "user.second_factor":
		return s.say(s.person(), " gave a wrong second factor", s.times(), ".")
	}
	return s.filled(text)
}

// sentence puts names into what is said of an event.
type sentence struct{ Event }

// name is what somebody or something is called: it is isolated from what stands around it.
type name string

// say joins words and names. Each name is a part of its own.
func (s sentence) say(parts ...any) template.HTML {
	var out strings.Builder
	for i, part := range parts {
		switch part := part.(type) {
		case template.HTML:
			out.WriteString(string(part))
		case name:
			out.WriteString("<bdi>" + template.HTMLEscapeString(string(part)) + "</bdi>")
		case string:
			if i == 0 && part != "" {
				part = strings.ToUpper(part[:1]) + part[1:]
			}
			out.WriteString(template.HTMLEscapeString(part))
		}
	}
	return template.HTML(out.String()) // escaped, part by part
}

// who is the actor, at the beginning of a sentence.
func (s sentence) who() any {
	kind, of, _ := strings.Cut(s.Actor, ":")
	switch {
	case kind == "user" && of != "", kind == "token" && of != "", kind == "provider" && of != "":
		return name(of)
	case kind == "device":
		return s.device()
	case kind == "local":
		return "The command line"
	case kind == "setup":
		return "The setup link"
	case s.Actor == itself:
		return "The server"
	case s.Actor == "demo":
		return "The demo"
	}
	return "Somebody"
}

// person is the user whom it is about, or where the request came from.
func (s sentence) person() any {
	switch {
	case s.User != "":
		return name(s.User)
	case s.Peer != "":
		return "somebody at " + s.Peer
	}
	return "somebody"
}

// from is where somebody was whose name is told.
func (s sentence) from() any {
	if s.User == "" || s.Peer == "" {
		return ""
	}
	return " from " + s.Peer
}

// proof is how somebody proved to be who they are.
func (s sentence) proof() any {
	switch provider := s.Details["name"]; {
	case provider != "":
		return s.say(", at ", name(provider))
	case s.Details["provider"] != "":
		return ", at an identity provider"
	case s.Details["second_factor"] != "":
		return ", with a password and a second factor"
	}
	return ", with a password"
}

// device is what the device is called, as far as anybody knows.
func (s sentence) device() any {
	switch serial := s.Details["serial_number"]; {
	case s.DeviceName != "":
		return name(s.DeviceName)
	case serial != "":
		return name(serial)
	case s.DeviceID != "":
		return "the device " + short(s.DeviceID)
	}
	return "a device"
}

func (s sentence) command() any {
	if kind := s.Details["request_type"]; kind != "" {
		return name(admin.Words(kind))
	}
	return "a command"
}

// targets are the devices of a command that was queued.
func (s sentence) targets() template.HTML {
	if s.DeviceID != "" {
		return s.say(" for ", s.device())
	}
	switch n := s.Details["devices"]; n {
	case "":
		return ""
	case "1":
		return " for one device"
	default:
		return s.say(" for "+n, " devices")
	}
}

func (s sentence) finished() []any {
	switch s.Details["state"] {
	case "acknowledged":
		return []any{s.device(), " has carried out ", s.command(), "."}
	case "error":
		return []any{s.device(), " could not carry out ", s.command(), "."}
	case "expired":
		return []any{s.command(), " expired before ", s.device(), " answered."}
	case "cancelled":
		if s.Details["superseded_by"] != "" {
			return []any{s.command(), " for ", s.device(), " gave way to a newer one."}
		}
		return []any{s.command(), " for ", s.device(), " was cancelled."}
	}
	return []any{s.command(), " came to its end on ", s.device(), "."}
}

func (s sentence) times() string {
	if n := s.Details["count"]; n != "" && n != "1" {
		return ", " + n + " times"
	}
	return ""
}

// filled is text with the names of what it is about: “ana@example.com blocked Bea’s iPhone.”
func (s sentence) filled(text string) template.HTML {
	parts := []any{text}
	if rest, ok := strings.CutPrefix(text, "Somebody or something "); ok {
		parts = []any{s.who(), " " + rest}
	} else if rest, ok := strings.CutPrefix(text, "Somebody "); ok {
		parts = []any{s.who(), " " + rest}
	}
	of := func(label string) []any {
		if label == "" {
			return nil
		}
		return []any{"“", name(label), "”"}
	}
	var device, user []any
	if s.DeviceID != "" {
		device = []any{s.device()}
	}
	if s.User != "" {
		user = []any{name(s.User)}
	}
	called := of(s.Details["name"])
	for _, f := range []struct {
		noun, before string
		name         []any
	}{
		{"a device", "", device}, {"a user", "the user ", user},
		{"an API token", "the API token ", called}, {"a webhook", "the webhook ", called}, {"an enrollment link", "the enrollment link ", called},
		{"a group of devices", "the group ", called}, {"an identity provider", "the identity provider ", called}, {"an invitation", "the invitation ", called},
		{"a profile", "the profile ", of(s.Details["identifier"])}, {"a certificate template", "the certificate template ", of(s.Template)},
	} {
		if f.name == nil {
			continue
		}
		if f.before != "" {
			f.name = append([]any{f.before}, f.name...)
		}
		parts = replaced(parts, f.noun, f.name)
	}
	if strings.HasPrefix(text, "A certificate ") && !strings.Contains(text, " a device") {
		whose := device
		if whose == nil {
			whose = user
		}
		if whose != nil {
			parts = replaced(parts, "a certificate", append([]any{"a certificate of "}, whose...))
		}
	}
	return s.say(parts...)
}

// replaced returns parts with something else in place of the first noun, which is not one
// of a longer word and has nothing of its own behind it: “a device of another server”.
func replaced(parts []any, noun string, instead []any) []any {
	for i, part := range parts {
		text, ok := part.(string)
		if !ok {
			continue
		}
		at := strings.Index(text, noun)
		capital := i == 0 && strings.HasPrefix(text, strings.ToUpper(noun[:1])+noun[1:])
		if capital {
			at = 0
		}
		if at < 0 || at > 0 && text[at-1] != ' ' {
			continue
		}
		rest := text[at+len(noun):]
		if rest != "" && !strings.ContainsAny(rest[:1], " .,:'") || strings.HasPrefix(rest, " of ") || strings.HasPrefix(rest, " with ") {
			continue
		}
		out := slices.Clone(parts[:i])
		if at > 0 {
			out = append(out, text[:at])
		}
		return append(append(append(out, instead...), rest), parts[i+1:]...)
	}
	return parts
}
