package mdm_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

func TestCommandsExpireAndAreForgotten(t *testing.T) {
	const day = 24 * time.Hour
	ctx := context.Background()
	b := newBench(t)
	asleep, awake := b.device(t, "asleep"), b.device(t, "awake")
	for i := range 120 { // more than one batch, in the same second
		b.enqueue(t, fmt.Sprint(i), asleep, awake)
	}
	b.next(t, awake, true)
	b.report(t, awake, "0", mdm.Acknowledged)
	sweep := func() {
		t.Helper()
		if err := b.Sweep(ctx); err != nil {
			t.Fatal(err)
		}
	}

	b.now = b.now.Add(89 * day)
	b.enqueue(t, "young", asleep)
	sweep()
	if got := b.state(t, asleep, "0"); got != mdm.Queued {
		t.Errorf("after 89 days the command is %s, want it queued still", got)
	}
	b.now = b.now.Add(2 * day)
	sweep()
	if got := b.state(t, asleep, "0"); got != mdm.Expired {
		t.Errorf("after 91 days the command is %s, want expired", got)
	}
	if got := b.state(t, awake, "0"); got != mdm.Acknowledged {
		t.Errorf("the answered one is %s", got)
	}
	if got := b.next(t, asleep, true); got != "young" {
		t.Errorf("next = %q, want the young command", got)
	}

	b.now = b.now.Add(90 * day)
	sweep()
	if _, _, err := b.Command(ctx, "0"); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("after 181 days: %v, want ErrNotFound", err)
	}
	var left map[string]int
	err := b.db.View(ctx, func(tx storage.Tx) error {
		left = map[string]int{}
		for _, bucket := range []string{"commands", "command_payloads", "queue", "command_history"} {
			for _, err := range tx.Scan(bucket, storage.Range{}) {
				if err != nil {
					return err
				}
				left[bucket]++
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if left["commands"] != 1 || left["command_payloads"] != 1 || left["queue"]+left["command_history"] != 1 {
		t.Errorf("left = %v, want only the young command", left)
	}
}

func TestCommandsOfDevicesThatLeftAreCancelled(t *testing.T) {
	ctx := context.Background()
	b := newBench(t)
	gone, here := b.device(t, "gone"), b.device(t, "here")
	for i := range 600 { // more than one batch before them
		b.device(t, fmt.Sprintf("away-%03d", i), func(d *mdm.Device) { d.State = mdm.Unenrolled })
	}
	// As a transaction leaves it that read the device's state before it changed.
	b.enqueue(t, "late", gone, here)
	b.device(t, "gone", func(d *mdm.Device) { d.State = mdm.Blocked })
	if err := b.Sweep(ctx); err != nil {
		t.Fatal(err)
	}
	if got := b.state(t, gone, "late"); got != mdm.Cancelled {
		t.Errorf("for the device that left the command is %s, want cancelled", got)
	}
	if got := b.state(t, here, "late"); got != mdm.Queued {
		t.Errorf("for the other one it is %s, want queued still", got)
	}
}
