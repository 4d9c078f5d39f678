package mdm_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

// TestCommandsOfWhoIsLimited has devices in and out of a group, and commands to some of each.
func TestCommandsOfWhoIsLimited(t *testing.T) {
	b := newGroups(t)
	ctx := context.Background()
	for _, id := range []string{"in-1", "in-2", "out-1", "out-2"} {
		b.device(t, id)
	}
	g := b.group(t, "In", "", "in-1", "in-2")
	b.enqueue(t, "in", "in-1", "in-2")
	b.enqueue(t, "both", "in-1", "out-1", "out-2")
	b.enqueue(t, "out", "out-1")
	limited := b.In([]mdm.GroupID{g})

	page, _, err := b.Commands(ctx, mdm.CommandFilter{Scope: []mdm.GroupID{g}}, "", 10)
	var listed []string
	for _, c := range page {
		listed = append(listed, fmt.Sprint(c.UUID, " ", c.Tally.Total(), " ", c.Targets))
	}
	if want := []string{"both 1 [in-1]", "in 2 [in-1 in-2]"}; err != nil || !slices.Equal(listed, want) {
		t.Errorf("Commands = %q, %v, want %q", listed, err, want)
	}
	if _, err := limited.CommandStatus(ctx, "out"); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("CommandStatus(out) = %v, want ErrNotFound", err)
	}
	entries, _, err := limited.CommandEntries(ctx, "both", nil, "", 10)
	if err != nil || len(entries) != 1 || entries[0].DeviceID != "in-1" {
		t.Errorf("CommandEntries(both) = %+v, %v", entries, err)
	}
	if _, err := limited.CancelAll(ctx, "out", "user:ana"); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("CancelAll(out) = %v, want ErrNotFound", err)
	}
	if n, err := limited.CancelAll(ctx, "both", "user:ana"); err != nil || n != 1 {
		t.Errorf("CancelAll(both) = %d, %v, want 1", n, err)
	}
	if c, err := b.CommandStatus(ctx, "both"); err != nil || c.Tally.Queued != 2 || c.Tally.Cancelled != 1 {
		t.Errorf("both is %+v, %v, want it cancelled for one and queued for two", c.Tally, err)
	}
	if n, err := b.CancelAll(ctx, "both", "user:ben"); err != nil || n != 2 {
		t.Errorf("CancelAll(both) = %d, %v, want 2", n, err)
	}
	if again, err := limited.Again(ctx, "both", nil); err != nil || !slices.Equal(again.Targets, []mdm.DeviceID{"in-1"}) {
		t.Errorf("Again(both) = %q, %v, want in-1", again.Targets, err)
	}
	if again, err := limited.Again(ctx, "both", []mdm.DeviceID{"in-1", "out-1"}); err != nil || len(again.Rejected) != 1 || again.Rejected[0].Code != "not_found" {
		t.Errorf("Again(both) = %+v, %v, want out-1 not found", again, err)
	}
	if status, err := limited.CommandStatus(ctx, "both"); err != nil || status.Tally.Cancelled != 1 || status.Tally.Total() != 1 { // closed by now
		t.Errorf("both is %+v, %v, want one", status.Tally, err)
	}
	// A device that leaves the group is gone.
	if _, err := b.RemoveFromGroup(ctx, "user:ana", g, []mdm.DeviceID{"in-1"}); err != nil {
		t.Fatal(err)
	}
	if _, err := limited.CommandStatus(ctx, "both"); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("CommandStatus(both) = %v, want ErrNotFound", err)
	}
}

func TestBatchesOfWhoIsLimited(t *testing.T) {
	b := newGroups(t)
	ctx := context.Background()
	b.device(t, "in")
	b.device(t, "out")
	g := b.group(t, "In", "", "in")
	order := func(name string, orders ...mdm.NewCommand) string {
		batch, _, err := b.EnqueueBatch(ctx, name, "user:ana", orders)
		if err != nil {
			t.Fatal(err)
		}
		b.now = b.now.Add(1)
		return batch.ID
	}
	mixed := order("mixed", newCommand("mixed-1", "ProfileList", "in", "out"), newCommand("mixed-2", "ProfileList", "out"))
	hidden := order("hidden", newCommand("hidden-1", "ProfileList", "out"))
	limited := b.In([]mdm.GroupID{g})
	list, next, err := limited.Batches(ctx, "", 10)
	if err != nil || next != "" || len(list) != 1 || list[0].ID != mixed || list[0].Tally.Total() != 1 || !slices.Equal(list[0].Commands, []string{"mixed-1"}) {
		t.Errorf("Batches = %+v, %q, %v", list, next, err)
	}
	one, err := limited.Batch(ctx, mixed)
	if err != nil || one.Tally.Total() != 1 || len(one.Each) != 1 || !slices.Equal(one.Commands, []string{"mixed-1"}) {
		t.Errorf("Batch(mixed) = %+v, %v", one, err)
	}
	if _, err := limited.Batch(ctx, hidden); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("Batch(hidden) = %v, want ErrNotFound", err)
	}
	if list, _, err := b.Batches(ctx, "", 1); err != nil || len(list) != 1 || list[0].ID != hidden {
		t.Errorf("without a limit: %+v, %v", list, err)
	}
}

// A command to very many devices is narrowed by a look at all of them at once.
func TestAnOrderToManyIsNarrowed(t *testing.T) {
	b := newGroups(t)
	var all []mdm.DeviceID
	b.update(t, func(tx storage.Tx) error {
		all = nil
		for i := range 1500 {
			d := mdm.Device{ID: mdm.DeviceID(fmt.Sprintf("d%04d", i)), Type: mdm.TypeDevice, State: mdm.Enrolled, AppleID: mdm.AppleID{UDID: fmt.Sprint("U", i)}, Facts: mdm.Facts{OSVersion: fmt.Sprint(i % 20)}}
			if i%3 == 2 {
				d.Type, d.ParentID, d.UserID = mdm.TypeUserChannel, mdm.DeviceID(fmt.Sprintf("d%04d", i-1)), "user"
			}
			all = append(all, d.ID)
			if err := mdm.PutDevice(tx, d); err != nil {
				return err
			}
		}
		return nil
	})
	g := b.group(t, "Old", "os_version=<5")
	err := b.ViewScope(context.Background(), []mdm.GroupID{g}, func(tx storage.Tx, scope *mdm.Scope) error {
		many, err := scope.Narrow(all)
		if err != nil {
			return err
		}
		fresh, err := b.Scope(tx, []mdm.GroupID{g})
		if err != nil {
			return err
		}
		var few []mdm.DeviceID
		for ids := range slices.Chunk(all, 100) {
			in, err := fresh.Narrow(ids)
			if err != nil {
				return err
			}
			few = append(few, in...)
		}
		if !slices.Equal(many, few) || len(many) < 300 || len(many) > 450 {
			t.Errorf("Narrow found %d at once, %d part by part", len(many), len(few))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
