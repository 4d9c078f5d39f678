package text

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
)

// appleRoom names the files of Apple's labels.
const appleRoom = "apple"

// labels are what Apple's systems call their buttons and menus in one language.
type labels struct {
	Labels map[string][]wording `json:"labels"`

	// Unsure are the labels whose wording we could not compare with a device.
	Unsure []string `json:"unsure"`
}

// wording is a label in some versions of a system.
type wording struct {
	From int    `json:"from"` // first major version; 0: since ever
	To   int    `json:"to"`   // last major version; 0: until now
	Text string `json:"text"`
}

func readLabels(data []byte) (labels, error) {
	var l labels
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&l); err != nil {
		return labels{}, err
	}
	for name, wordings := range l.Labels {
		for i, w := range wordings {
			switch {
			case w.Text == "":
				return labels{}, fmt.Errorf("%s: text is empty", name)
			case i > 0 && w.From != wordings[i-1].To+1, i == 0 && w.From != 0, i == len(wordings)-1 && w.To != 0:
				return labels{}, fmt.Errorf("%s: versions have a gap", name)
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
	wordings := l.Labels[label]
	for i := len(wordings) - 1; i >= 0; i-- {
		if major == 0 || wordings[i].From <= major {
			return wordings[i].Text, true
		}
	}
	return "", false
}

// Apple returns what Apple's system calls a button or a menu in this language and in a
// major version of the system, so that a reader finds it on the screen. Labels that begin
// with "mac_" are those of macOS, all others of iOS and iPadOS. 0 is the newest version.
func (t *Texts) Apple(label string, major int) string {
	for _, lang := range []string{t.code, fallback} {
		if text, ok := t.c.labels[lang].in(label, major); ok {
			return text
		}
	}
	t.c.missing(t.code, appleRoom+" "+label)
	return label
}
