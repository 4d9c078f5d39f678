package mdm_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

func TestNotesAboutDevices(t *testing.T) {
	b, ctx := newBench(t), context.Background()
	id := b.device(t, "one")
	note := func() (n mdm.Note) {
		t.Helper()
		if err := b.db.View(ctx, func(tx storage.Tx) (err error) {
			n, err = mdm.GetNote(tx, id)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		return n
	}
	if got := note(); got != (mdm.Note{}) {
		t.Errorf("a note that nobody wrote: %+v", got)
	}
	if err := b.SetNote(ctx, "user:ana", id, "  in the lobby\r\nsecond line\n"); err != nil {
		t.Fatal(err)
	}
	if got := note(); got.Text != "in the lobby\nsecond line" || got.By != "user:ana" || got.At.IsZero() {
		t.Errorf("note = %+v", got)
	}
	for name, text := range map[string]string{"too long": strings.Repeat("x", mdm.MaxNote+1), "no UTF-8": "\xff", "a zero": "a\x00"} {
		if err := b.SetNote(ctx, "user:ana", id, text); !errors.Is(err, mdm.ErrBadNote) {
			t.Errorf("%s: %v, want ErrBadNote", name, err)
		}
	}
	if err := b.SetNote(ctx, "user:ana", "nobody", "x"); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("of a device that is not there: %v", err)
	}
	if err := b.SetNote(ctx, "user:ana", id, ""); err != nil || note() != (mdm.Note{}) {
		t.Errorf("removed: %v, still %+v", err, note())
	}
}

func TestWhyTheFirstCommandWaits(t *testing.T) {
	b, ctx := newBench(t), context.Background()
	busy, idle := b.device(t, "busy"), b.device(t, "idle")
	b.enqueue(t, "1", busy)
	b.enqueue(t, "2", busy)
	got, err := b.FirstWaits(ctx, []mdm.DeviceID{busy, idle, "nobody"})
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 1 || got[busy].Code == "" || got[busy].Reason == "" {
		t.Errorf("FirstWaits = %+v, want one of %s", got, busy)
	}
}
