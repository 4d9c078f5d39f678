package mdm_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

// What somebody wrote about a device while its record was deleted, from a moment before, is
// deleted by the sweep: on PostgreSQL such writers meet in no record.
func TestWhatIsWrittenWhileADeviceIsDeleted(t *testing.T) {
	ctx := t.Context()
	b := newBench(t)
	gone, stays := b.device(t, "gone"), b.device(t, "stays")
	group := b.group(t, "Lobby", "", gone, stays)
	b.enqueue(t, "0", gone)
	b.enqueue(t, "1", gone, stays)
	if err := b.SetNote(ctx, "ana", gone, "in the lobby"); err != nil {
		t.Fatal(err)
	}
	b.Saw(gone)
	if err := b.FlushSeen(ctx); err != nil {
		t.Fatal(err)
	}
	// mentions are the records that say something of a device.
	mentions := func(id mdm.DeviceID) (all []storage.Item, buckets []string) {
		err := b.db.View(ctx, func(tx storage.Tx) error {
			all, buckets = nil, nil
			for _, bucket := range []string{"queue", "command_history", "mdm.notes", "seen"} {
				for item, err := range tx.Scan(bucket, storage.Range{}) {
					if err != nil {
						return err
					}
					if strings.HasPrefix(string(item.Key), string(id)) {
						all, buckets = append(all, storage.Item{Key: slices.Clone(item.Key), Value: slices.Clone(item.Value)}), append(buckets, bucket)
					}
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return all, buckets
	}
	written, in := mentions(gone)
	if want := []string{"queue", "queue", "mdm.notes", "seen"}; !slices.Equal(in, want) {
		t.Fatalf("it is mentioned in %v, want %v", in, want)
	}
	b.update(t, func(tx storage.Tx) error {
		d, err := mdm.GetDevice(tx, gone)
		if err != nil {
			return err
		}
		d.State = mdm.Unenrolled
		if err := mdm.PutDevice(tx, d); err != nil {
			return err
		}
		return b.Delete(tx, gone)
	})
	if _, in := mentions(gone); in != nil {
		t.Fatalf("deleted, it is mentioned in %v", in)
	}
	if g, err := b.Group(ctx, group); err != nil || g.Members != 1 {
		t.Errorf("the group has %d devices, %v", g.Members, err)
	}
	b.update(t, func(tx storage.Tx) error { // as the transactions that began before it
		for i, item := range written {
			if err := tx.Put(in[i], item.Key, item.Value); err != nil {
				return err
			}
		}
		return nil
	})
	sweep := func() {
		t.Helper()
		if err := b.Sweep(ctx); err != nil {
			t.Fatal(err)
		}
	}
	sweep()
	if _, in := mentions(gone); len(in) != len(written) {
		t.Errorf("at once it is mentioned in %v: somebody may be about to write", in)
	}
	b.now = b.now.Add(time.Hour + time.Second)
	sweep()
	if _, in := mentions(gone); in != nil {
		t.Errorf("an hour after it is mentioned in %v", in)
	}
	if got := b.state(t, stays, "1"); got != mdm.Queued {
		t.Errorf("what another device was asked is %s", got)
	}
	b.update(t, func(tx storage.Tx) error {
		names, err := tx.Buckets()
		if slices.ContainsFunc(names, func(name string) bool { return name == "mdm.deleted" || name == "mdm.deleted.at" }) {
			t.Error("the mark of the deletion is left")
		}
		return err
	})
}
