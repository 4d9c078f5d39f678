package command

import (
	"encoding/json"
	"fmt"
	"strings"
	"unicode"
)

// Sentence says in one sentence why a device refused a command, with the codes of all
// links in parentheses, and what to do about it where that is known:
//
//	The enrollment's rights do not cover this command (MCMDMErrorDomain 12007). Check the …
//
// chain is as of DecodeErrorChain. The codes are for people to look up: nothing may
// depend on them (PROTOCOL 5.2). A code that we don't know reads as the device put it.
func Sentence(requestType string, chain []ChainedError) string {
	if len(chain) == 0 {
		if requestType == "" {
			return "The device gave no reason."
		}
		return "The device refused " + clip(requestType) + " and gave no reason."
	}
	said := chain[0].said()
	if cause := chain[len(chain)-1].said(); len(chain) > 1 && cause != said {
		said += ": " + uncapitalized(cause)
	}
	sentence := said + " (" + codes(chain) + ")."
	if next := Next(chain); next != "" {
		sentence += " " + next
	}
	return sentence
}

// Sentence says what one link of a chain means, with its code.
func (e ChainedError) Sentence() string {
	return e.said() + " (" + e.code() + ")."
}

// Next says what a person should do about a refusal, empty where that is not known. The
// cause, the last of the links, knows best.
func Next(chain []ChainedError) string {
	for i := len(chain) - 1; i >= 0; i-- {
		if m, known := chain[i].meaning(); known && m.next != "" {
			return m.next
		}
	}
	return ""
}

// FormatError says what the status CommandFormatError means, which comes without an
// ErrorChain.
func FormatError(requestType string) string {
	t, known := Lookup(requestType)
	if !known {
		return "The device could not read the command (CommandFormatError). Check its keys and their types: the server does not know " +
			clip(requestType) + "."
	}
	hint := "it takes no keys"
	if len(t.Keys) > 0 {
		names := make([]string, len(t.Keys))
		for i, k := range t.Keys {
			names[i] = k.Name
			if k.Required {
				names[i] += " (required)"
			}
		}
		hint = "it takes " + list(names)
	}
	return "The device could not read " + requestType + ": a key is missing, or is not of the type that this system expects (CommandFormatError). " +
		"Check the command before you send it again: " + hint + "."
}

func codes(chain []ChainedError) string {
	const shown = 4
	var b strings.Builder
	for i, e := range chain {
		if i == shown {
			fmt.Fprintf(&b, "; %d more", len(chain)-i)
			break
		}
		if i > 0 {
			b.WriteString("; ")
		}
		b.WriteString(e.code())
	}
	return b.String()
}

func (e ChainedError) code() string {
	domain := oneLine(e.ErrorDomain, 80)
	if domain == "" {
		domain = "no domain"
	}
	return fmt.Sprintf("%s %d", domain, e.ErrorCode)
}

// said returns what e means without the full stop: in our words, else in the device's.
func (e ChainedError) said() string {
	const room = 300
	words := oneLine(e.USEnglishDescription, room)
	if words == "" {
		words = oneLine(e.LocalizedDescription, room)
	}
	words = strings.TrimRight(words, ". ")
	m, known := e.meaning()
	switch {
	case known && m.vague && words != "":
		return m.means + ": “" + words + "”"
	case known:
		return m.means
	case words == "":
		return "The device gave no reason"
	}
	return words
}

func (e ChainedError) meaning() (meaning, bool) {
	domain := e.ErrorDomain
	if same, ok := sameDomain[domain]; ok {
		domain = same
	}
	m, known := meanings[domain][e.ErrorCode]
	return m, known
}

// oneLine makes a device's text part of a sentence.
func oneLine(s string, room int) string {
	s = strings.Join(strings.FieldsFunc(s, func(r rune) bool {
		return unicode.IsSpace(r) || unicode.IsControl(r) || r == unicode.ReplacementChar
	}), " ")
	if len(s) <= room {
		return s
	}
	return strings.ToValidUTF8(s[:room], "") + "…"
}

// chainOf reads an ErrorChain within an answer: of one of several Settings, say.
func chainOf(links []any) []ChainedError {
	var chain []ChainedError
	for _, link := range links[:min(len(links), maxChain)] {
		d, ok := link.(map[string]any)
		if !ok {
			continue
		}
		e := chainedError(d)
		if code, ok := d["ErrorCode"].(json.Number); ok {
			e.ErrorCode, _ = code.Int64()
		}
		chain = append(chain, e)
	}
	return chain
}
