package inventory_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/inventory"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// settings puts settings into force.
func (h *house) settings(t testing.TB, change func(*inventory.Settings)) {
	t.Helper()
	h.update(t, func(tx storage.Tx) error {
		s, err := inventory.GetSettings(tx)
		if err != nil {
			return err
		}
		change(&s)
		return inventory.PutSettings(tx, s)
	})
}

func (h *house) nextAt(t testing.TB, id mdm.DeviceID) time.Time {
	t.Helper()
	in, err := h.Inventory(context.Background(), id)
	if err != nil {
		t.Fatal(err)
	}
	return in.NextAt
}

func TestDevicesAreAskedWhenTheyAreDue(t *testing.T) {
	h := newHouse(t)
	id := h.device(t, "a")
	h.tick(t)
	if got := h.poll(t, id, all); len(got) > 0 {
		t.Fatalf("at once after its enrollment the device is asked for %q", got)
	}
	h.pass(time.Minute)
	h.tick(t)
	if got := h.poll(t, id, all); len(got) != 6 {
		t.Fatalf("a minute later it is asked for %q, want six", got)
	}
	at := h.nextAt(t, id)
	if wait := at.Sub(h.now); wait < 12*time.Hour || wait > 36*time.Hour {
		t.Errorf("it is asked next after %v", wait)
	}
	h.tick(t)
	if got := h.poll(t, id, all); len(got) > 0 {
		t.Errorf("at the next tick it is asked for %q", got)
	}
	h.now = at
	h.tick(t)
	if got := h.poll(t, id, all); len(got) != 6 {
		t.Errorf("when it is due again, it is asked for %q", got)
	}
	if got, want := h.nextAt(t, id), at.Add(24*time.Hour); !got.Equal(want) {
		t.Errorf("then it is due at %v, want %v", got, want)
	}
}

func TestADeviceThatDoesNotComeIsAskedOnce(t *testing.T) {
	h := newHouse(t)
	id := h.device(t, "a")
	h.pass(time.Minute)
	for range 3 {
		h.tick(t)
		h.now = h.nextAt(t, id)
	}
	if got := h.poll(t, id, all); len(got) != 6 {
		t.Errorf("it is asked for %q, want one refresh", got)
	}
	h.tick(t)
	if got := h.poll(t, id, all); len(got) != 6 {
		t.Errorf("once it has answered, it is asked for %q", got)
	}
}

func TestWhoHasLeftIsNotAsked(t *testing.T) {
	h := newHouse(t)
	left, gone, here := h.device(t, "left"), h.device(t, "gone"), h.device(t, "here")
	h.tick(t) // the first makes the schedule
	h.update(t, func(tx storage.Tx) error {
		for _, id := range []mdm.DeviceID{left, gone} {
			d, err := mdm.GetDevice(tx, id)
			if err != nil {
				return err
			}
			d.State = mdm.Unenrolled
			if err := mdm.PutDevice(tx, d); err != nil {
				return err
			}
		}
		return h.Left(tx, left) // the other in a transaction that ran at the same time
	})
	h.pass(time.Minute)
	h.tick(t)
	for id, want := range map[mdm.DeviceID]int{left: 0, gone: 0, here: 6} {
		if got := h.poll(t, id, all); len(got) != want {
			t.Errorf("%s is asked for %q, want %d", id, got, want)
		}
		if got := h.nextAt(t, id); got.IsZero() != (want == 0) {
			t.Errorf("%s is due at %v", id, got)
		}
	}
}

func TestTheScheduleCanBeChangedAndSwitchedOff(t *testing.T) {
	h := newHouse(t)
	id := h.device(t, "a")
	h.settings(t, func(s *inventory.Settings) { s.Enabled = false })
	h.pass(time.Hour)
	h.tick(t)
	if got := h.poll(t, id, all); len(got) > 0 || !h.nextAt(t, id).IsZero() {
		t.Errorf("switched off, the device is asked for %q", got)
	}
	h.settings(t, func(s *inventory.Settings) { s.Enabled = true })
	h.tick(t)
	if got := h.poll(t, id, all); len(got) != 6 {
		t.Errorf("switched on, a device that was never asked is asked for %q", got)
	}
	h.settings(t, func(s *inventory.Settings) { s.Every = 30 * 24 * time.Hour })
	h.tick(t)
	h.settings(t, func(s *inventory.Settings) { s.Every = time.Hour })
	h.tick(t)
	if wait := h.nextAt(t, id).Sub(h.now); wait > time.Hour {
		t.Errorf("with a refresh every hour the next is in %v", wait)
	}
}

func TestDevicesFromBeforeThereWasASchedule(t *testing.T) {
	h := newHouse(t)
	for i := range 3 {
		id := h.device(t, fmt.Sprintf("d%d", i))
		h.update(t, func(tx storage.Tx) error { return h.Left(tx, id) })
	}
	h.tick(t)
	at := make(map[time.Time]bool)
	for i := range 3 {
		at[h.nextAt(t, mdm.DeviceID(fmt.Sprintf("d%d", i)))] = true
	}
	if len(at) != 3 || at[time.Time{}] {
		t.Errorf("they are asked at %v, want one after the other", at)
	}
}

func TestDevicesComeOneAfterTheOther(t *testing.T) {
	storagetest.AnyEngine(t)
	const every, devices = 24 * time.Hour, 24_000
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	hours := make(map[int]int)
	for i := range devices {
		at := inventory.Next(mdm.DeviceID(fmt.Sprintf("%032x", i)), now, every)
		if !at.After(now) || at.After(now.Add(every)) {
			t.Fatalf("a device is asked at %v", at)
		}
		hours[at.Hour()]++
	}
	for hour := range 24 {
		if n := hours[hour]; n < 800 || n > 1200 {
			t.Errorf("%d of %d devices are asked in hour %d, want some 1000", n, devices, hour)
		}
	}
}

func TestManyDevicesAreAskedWithOneCommandASource(t *testing.T) {
	h := newHouse(t)
	n := inventory.RefreshBatch + 50
	h.update(t, func(tx storage.Tx) error {
		for i := range n {
			id := mdm.DeviceID(fmt.Sprintf("d%03d", i))
			d := mdm.Device{
				ID: id, Type: mdm.TypeDevice, State: mdm.Enrolled, AppleID: mdm.AppleID{UDID: "U-" + string(id)},
				AccessRights: 8191, Facts: mdm.Facts{ProductName: "iPhone17,2", OSVersion: "18.2"},
			}
			if err := errors.Join(mdm.PutDevice(tx, d), h.Enrolled(tx, d)); err != nil {
				return err
			}
		}
		return nil
	})
	h.pass(time.Minute)
	h.tick(t)
	commands, _, err := h.mdm.Commands(context.Background(), mdm.CommandFilter{Background: true}, "", 100)
	if err != nil || len(commands) != 6 {
		t.Fatalf("%d commands, %v; want 6", len(commands), err)
	}
	h.refresh(t, "d000", all, inventory.SecurityInfo)
	forPeople, _, err := h.mdm.Commands(context.Background(), mdm.CommandFilter{}, "", 100)
	if err != nil || len(forPeople) != 1 || forPeople[0].CreatedBy != "ana" {
		t.Errorf("without what the server asks the list is %+v, %v; want ana's command", forPeople, err)
	}
	for _, c := range commands {
		if len(c.Targets) != n || c.CreatedBy != "server" || c.Priority != mdm.Background {
			t.Errorf("%s goes to %d devices, by %s, %s", c.RequestType, len(c.Targets), c.CreatedBy, c.Priority)
		}
	}
}

func TestAClockThatWasWrongOnceEndsNoRefreshes(t *testing.T) {
	h := newHouse(t)
	id := h.device(t, "a")
	h.pass(time.Minute)
	h.tick(t)
	h.poll(t, id, all)
	right := h.now
	h.now = right.AddDate(10, 0, 0)
	h.tick(t)
	h.poll(t, id, all)
	first := h.device(t, "first") // enrolls while the clock is wrong
	h.now = right.Add(time.Minute)
	h.tick(t)
	at := h.nextAt(t, id)
	if wait := at.Sub(h.now); wait <= 0 || wait > 24*time.Hour {
		t.Fatalf("once the clock is right, the device is due in %v, want a day at most", wait)
	}
	if wait := h.nextAt(t, first).Sub(h.now); wait <= 0 || wait > time.Minute {
		t.Errorf("a device that was never asked is due in %v", wait)
	}
	h.now = at
	h.tick(t)
	if got := h.poll(t, id, all); len(got) != 6 {
		t.Errorf("when it is due, it is asked for %q", got)
	}
}

func TestTheQuestionsOfADayAreFew(t *testing.T) {
	storagetest.AnyEngine(t)
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	moments := make(map[time.Time]bool)
	for i := range 5000 {
		moments[inventory.Next(mdm.DeviceID(fmt.Sprintf("%032x", i)), now, 24*time.Hour)] = true
	}
	if len(moments) != 96 {
		t.Errorf("5000 devices are asked at %d moments of a day, want one each quarter of an hour", len(moments))
	}
}

func TestTwoWhoAskAtOnceAskOnce(t *testing.T) {
	h := newHouse(t)
	var ids []mdm.DeviceID
	for i := range 20 {
		ids = append(ids, h.device(t, fmt.Sprintf("d%d", i)))
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if _, err := h.Refresh(context.Background(), "ana", ids, nil); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	h.pass(time.Second)
	for _, id := range ids {
		if got := h.poll(t, id, all); len(got) != 6 {
			t.Errorf("%s is asked %d times: %q", id, len(got), got)
		}
	}
}

func TestAFleetIsAskedWithSeveralCommands(t *testing.T) {
	storagetest.AnyEngine(t) // what it takes, not how it is stored
	h := newHouse(t)
	var ids []mdm.DeviceID
	h.update(t, func(tx storage.Tx) error {
		ids = nil
		for i := range inventory.CommandDevices + 1 {
			d := mdm.Device{ID: mdm.DeviceID(fmt.Sprintf("d%04d", i)), Type: mdm.TypeDevice, State: mdm.Enrolled, AppleID: mdm.AppleID{UDID: fmt.Sprint("U-", i)}, AccessRights: 8191}
			if err := mdm.PutDevice(tx, d); err != nil {
				return err
			}
			ids = append(ids, d.ID)
		}
		return nil
	})
	outcomes, err := h.Refresh(context.Background(), "ana", ids, []inventory.Source{inventory.SecurityInfo})
	if err != nil {
		t.Fatal(err)
	}
	to := make(map[string]int)
	for _, o := range outcomes {
		for _, q := range o.Queued {
			to[q.CommandUUID]++
		}
	}
	if got := slices.Sorted(maps.Values(to)); !slices.Equal(got, []int{1, inventory.CommandDevices}) {
		t.Errorf("commands go to %d devices, want no more than %d each", got, inventory.CommandDevices)
	}
}

func TestWhatTheServerAsksByItselfIsForgottenSoon(t *testing.T) {
	h := newHouse(t)
	id := h.device(t, "a")
	h.pass(time.Minute)
	h.tick(t)
	h.poll(t, id, all)
	history := func() []mdm.Entry {
		t.Helper()
		entries, _, err := h.mdm.DeviceCommands(context.Background(), id, "", 100)
		if err != nil {
			t.Fatal(err)
		}
		return entries
	}
	if got := history(); len(got) != 6 || got[0].State != mdm.Acknowledged || got[0].Result != nil {
		t.Errorf("the history of the device is %+v, want six commands without their answers", got)
	}
	h.refresh(t, id, all, inventory.SecurityInfo)
	if got := history(); !strings.Contains(string(got[0].Result), "PasscodePresent") {
		t.Errorf("somebody asked, and the answer is %s", got[0].Result)
	}
	h.pass(5 * 24 * time.Hour)
	if err := h.Sweep(context.Background()); err != nil {
		t.Fatal(err)
	}
	if got := history(); len(got) != 1 {
		t.Errorf("five days later %d commands are kept, want the one that somebody asked", len(got))
	}
	if h.report(t, id, inventory.ProfileList).Count != 1 {
		t.Error("with the commands what was known has gone")
	}
}

func TestSettingsAreChecked(t *testing.T) {
	h := newHouse(t)
	for name, tt := range map[string]struct {
		inventory.Settings
		want string
	}{
		"too often":     {inventory.Settings{Every: time.Minute}, "every"},
		"hardly ever":   {inventory.Settings{Every: 1000 * time.Hour}, "every"},
		"in the past":   {inventory.Settings{Every: time.Hour, FirstAfter: -1}, "first_after"},
		"in the future": {inventory.Settings{Every: time.Hour, FirstAfter: 1000 * time.Hour}, "first_after"},
		"good ones":     {inventory.DefaultSettings(), ""},
	} {
		t.Run(name, func(t *testing.T) {
			err := h.db.Update(context.Background(), func(tx storage.Tx) error { return inventory.PutSettings(tx, tt.Settings) })
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("PutSettings: %v, want an error about %q", err, tt.want)
			}
		})
	}
}
