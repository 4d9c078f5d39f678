package mdm_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/command"
	"github.com/gatehouse-mdm/gatehouse/mdm/event"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

// told returns what the audit log says of commands, oldest first.
func (b *bench) told(t testing.TB) (all []string) {
	t.Helper()
	err := b.db.View(context.Background(), func(tx storage.Tx) error {
		all = nil
		list, _, err := event.Page(tx, event.Filter{Action: "command."}, "", 100)
		for _, e := range slices.Backward(list) {
			line := fmt.Sprint(e.Action, " by ", e.Actor, " of ", e.DeviceID, " ", e.Outcome)
			for _, key := range slices.Sorted(maps.Keys(e.Details)) {
				line += " " + key + "=" + e.Details[key]
			}
			all = append(all, line)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestWhatBecomesOfCommandsIsTold(t *testing.T) {
	const ask = "command_uuid=1 request_type=DeviceLock"
	for name, tt := range map[string]struct {
		change func(*mdm.NewCommand)
		then   func(t *testing.T, b *bench, id mdm.DeviceID)
		want   []string // what follows the first one
	}{
		"while nothing has happened": {then: func(*testing.T, *bench, mdm.DeviceID) {}},
		"when it is acknowledged": {
			then: func(t *testing.T, b *bench, id mdm.DeviceID) {
				b.next(t, id, true)
				b.report(t, id, "1", mdm.Acknowledged)
				b.report(t, id, "1", mdm.Acknowledged) // again: told once
			},
			want: []string{"command.finished by device:a of a ok " + ask + " state=acknowledged"},
		},
		"when it fails, without the device's words": {
			then: func(t *testing.T, b *bench, id mdm.DeviceID) {
				b.next(t, id, true)
				b.update(t, func(tx storage.Tx) error {
					_, err := b.Record(tx, id, mdm.Report{CommandUUID: "1", State: mdm.Failed, ErrorChain: []command.ChainedError{
						{ErrorCode: 12021, ErrorDomain: "MCMDMErrorDomain", USEnglishDescription: "SENTINEL"},
					}})
					return err
				})
			},
			want: []string{"command.finished by device:a of a failed command_uuid=1 error_code=12021 error_domain=MCMDMErrorDomain request_type=DeviceLock state=error"},
		},
		"when it is put off, and then cancelled": {
			then: func(t *testing.T, b *bench, id mdm.DeviceID) {
				b.next(t, id, true)
				b.report(t, id, "1", mdm.NotNow)
				if err := b.Cancel(context.Background(), id, "1", "user:ana"); err != nil {
					t.Fatal(err)
				}
			},
			want: []string{
				"command.finished by server of a ok " + ask + " state=cancelled",
				"command.cancelled by user:ana of a ok command_uuid=1 devices=1 request_type=DeviceLock",
			},
		},
		"when it is cancelled everywhere, and once more": {
			then: func(t *testing.T, b *bench, id mdm.DeviceID) {
				for range 2 {
					if _, err := b.CancelAll(context.Background(), "1", "user:ana"); err != nil {
						t.Fatal(err)
					}
				}
			},
			want: []string{
				"command.finished by server of a ok " + ask + " state=cancelled",
				"command.cancelled by user:ana of  ok command_uuid=1 devices=1 request_type=DeviceLock",
			},
		},
		"nothing, when the server asks by itself": {
			change: func(c *mdm.NewCommand) { c.Priority = mdm.Background },
			then: func(t *testing.T, b *bench, id mdm.DeviceID) {
				b.next(t, id, true)
				b.report(t, id, "1", mdm.Acknowledged)
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			id := b.device(t, "a")
			c := newCommand("1", "DeviceLock", id)
			c.CreatedBy = "user:bea"
			want := []string{"command.queued by user:bea of a ok command_uuid=1 devices=1 request_type=DeviceLock"}
			if tt.change != nil {
				tt.change(&c)
				want = nil
			}
			b.queued(t, c)
			b.queued(t, c) // again: told once
			tt.then(t, b, id)
			if got := b.told(t); !slices.Equal(got, append(want, tt.want...)) {
				t.Errorf("told is\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(append(want, tt.want...), "\n"))
			}
		})
	}
}

func TestACommandToManyIsToldOnce(t *testing.T) {
	b := newBench(t)
	var ids []mdm.DeviceID
	for i := range 30 {
		ids = append(ids, b.device(t, fmt.Sprint("d", i)))
	}
	c := newCommand("1", "DeviceLock", ids[:20]...)
	c.CreatedBy = "user:bea"
	b.queued(t, c)
	c.Targets = ids
	b.queued(t, c)
	want := []string{
		"command.queued by user:bea of  ok command_uuid=1 devices=20 request_type=DeviceLock",
		"command.queued by user:bea of  ok command_uuid=1 devices=10 request_type=DeviceLock",
	}
	if got := b.told(t); !slices.Equal(got, want) {
		t.Errorf("told is\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}
