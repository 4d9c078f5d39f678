package text

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
)

// appleRoom names the files of Apple's labels.
const appleRoom = "apple"

// labels are what Apple's systems call their buttons and menus in one language.
type labels struct {
	Labels map[string]wordings `json:"labels"`

	// Unsure are the labels whose wording we could not compare with a device.
	Unsure []string `json:"unsure"`
}

// wordings are those of a label in the course of time, the oldest first. In JSON a label
// that never changed is a string.
type wordings []wording

// wording is a label in some versions of a system.
type wording struct {
	From int    `json:"from"` // first major version; 0: since ever
	Text string `json:"text"`
}

// UnmarshalJSON implements [json.Unmarshaler].
func (w *wordings) UnmarshalJSON(data []byte) error {
	var always string
	if json.Unmarshal(data, &always) == nil {
		*w = wordings{{Text: always}}
		return nil
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	return dec.Decode((*[]wording)(w))
}

func readLabels(data []byte) (labels, error) {
	var l labels
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&l); err != nil {
		return labels{}, err
	}
	for name, changes := range l.Labels {
		for i, w := range changes {
			if w.Text == "" || (i == 0) != (w.From == 0) || i > 0 && w.From <= changes[i-1].From {
				return labels{}, fmt.Errorf("%s: wordings must have texts, and begin with versions that rise from 0", name)
			}
		}
	}
	for _, name := range l.Unsure {
		if l.Labels[name] == nil {
			return labels{}, fmt.Errorf("unsure names %s, which is no label", name)
		}
	}
	if len(l.Labels) == 0 {
		return labels{}, errors.New("there are no labels")
	}
	return l, nil
}

// in returns the wording of a label in a version; 0 is the newest.
func (l labels) in(label string, major int) (string, bool) {
	for _, w := range slices.Backward(l.Labels[label]) {
		if major == 0 || w.From <= major {
			return w.Text, true
		}
	}
	return "", false
}

// Apple returns what Apple's system calls a button or a menu in this language and in a
// major version of the system, so that a reader finds it on the screen. Labels that begin
// with "mac_" are those of macOS, all others of iOS and iPadOS. 0 is the newest version.
//
// Some labels name something: "device" ("iPhone", which it is if not given), "name" and
// "host".
func (t *Texts) Apple(label string, major int, pairs ...any) string {
	for _, lang := range []string{t.code, fallback} {
		text, ok := t.c.ours(lang).labels.in(label, major)
		if !ok {
			continue
		}
		values := append(t.values(label, pairs), value{"device", "iPhone"}, value{"name", "…"}, value{"host", "…"})
		return fill(text, func(name string) string {
			v, _ := t.value(values, name)
			return v
		})
	}
	t.c.missing(t.code, appleRoom+" "+label)
	return label
}
