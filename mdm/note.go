package mdm

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/gatehouse-mdm/gatehouse/mdm/event"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

// Note is what administrators have written down about a device. It stays when the device
// leaves and comes back, and devices never learn of it.
type Note struct {
	DeviceID DeviceID  `json:"device_id"`
	Text     string    `json:"text"`
	By       string    `json:"by"` // who wrote it last
	At       time.Time `json:"at"`
}

// MaxNote bounds the text of a [Note], in bytes.
const MaxNote = 2000

// ErrBadNote means a text that is too long, or not UTF-8.
var ErrBadNote = fmt.Errorf("a note must be text of at most %d bytes", MaxNote)

var notes = storage.NewCollection("mdm.notes", 1, func(n Note) string { return string(n.DeviceID) })

// GetNote returns the note about a device, a zero one if there is none.
func GetNote(tx storage.Tx, id DeviceID) (Note, error) {
	n, err := notes.Get(tx, string(id))
	if errors.Is(err, storage.ErrNotFound) {
		return Note{}, nil
	}
	if err != nil {
		return Note{}, fmt.Errorf("note on %s: %w", id, err)
	}
	return n, nil
}

// ReadNote is what [storage.Tx.Prefetch] takes for GetNote.
func ReadNote(id DeviceID) storage.Read { return notes.Read(string(id)) }

// SetNote writes down text about a device, instead of what was there; an empty text removes
// it. The error is [ErrBadNote], or wraps storage.ErrNotFound where there is no such device.
func (s *Service) SetNote(ctx context.Context, by string, id DeviceID, text string) error {
	text = strings.TrimSpace(strings.ReplaceAll(text, "\r\n", "\n"))
	if len(text) > MaxNote || !utf8.ValidString(text) || strings.ContainsRune(text, 0) {
		return ErrBadNote
	}
	err := s.db.Update(ctx, func(tx storage.Tx) error {
		tx.Prefetch(ReadDevice(id), ReadNote(id))
		d, err := GetDevice(tx, id)
		if err != nil {
			return err
		}
		before, err := GetNote(tx, id)
		if err != nil || before.Text == text {
			return err
		}
		if text == "" {
			err = notes.Delete(tx, string(id))
		} else {
			err = notes.Put(tx, Note{DeviceID: id, Text: text, By: by, At: s.now().UTC()})
		}
		if err != nil {
			return err
		}
		return event.Record(tx, event.Event{
			At: s.now(), Actor: by, Action: "device.noted", DeviceID: string(id), User: d.User,
			Details: map[string]string{"note": text, "note_before": before.Text},
			Changes: event.Changes(map[string]any{"note": before.Text}, map[string]any{"note": text}),
		})
	})
	if err != nil {
		return fmt.Errorf("note on %s: %w", id, err)
	}
	return nil
}
