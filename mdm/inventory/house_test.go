package inventory_test

import (
	"context"
	"encoding/json"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/command"
	"github.com/gatehouse-mdm/gatehouse/mdm/inventory"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/seal"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// house is a Service on a store and a queue of its own, with a clock that the test moves.
type house struct {
	*inventory.Service
	mdm *mdm.Service
	db  storage.DB
	now time.Time
}

func newHouse(t testing.TB) *house {
	t.Helper()
	box, err := seal.New(make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	h := &house{db: storagetest.Open(t), now: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)}
	log, now := slog.New(slog.DiscardHandler), func() time.Time { return h.now }
	if h.mdm, err = mdm.New(mdm.Config{DB: h.db, Box: box, Log: log, Now: now}); err != nil {
		t.Fatal(err)
	}
	if h.Service, err = inventory.New(inventory.Config{DB: h.db, MDM: h.mdm, Log: log, Now: now}); err != nil {
		t.Fatal(err)
	}
	return h
}

func (h *house) pass(d time.Duration) { h.now = h.now.Add(d) }

func (h *house) update(t testing.TB, fn func(storage.Tx) error) {
	t.Helper()
	if err := h.db.Update(context.Background(), fn); err != nil {
		t.Fatal(err)
	}
}

// device puts an iPhone of the organisation's that has just enrolled.
func (h *house) device(t testing.TB, id string, change ...func(*mdm.Device)) mdm.DeviceID {
	t.Helper()
	d := mdm.Device{
		ID: mdm.DeviceID(id), Type: mdm.TypeDevice, State: mdm.Enrolled, AppleID: mdm.AppleID{UDID: "UDID-" + id},
		Ownership: mdm.Institutional, AccessRights: 8191, Facts: mdm.Facts{ProductName: "iPhone17,2", OSVersion: "18.2"},
	}
	for _, c := range change {
		c(&d)
	}
	h.update(t, func(tx storage.Tx) error {
		if err := mdm.PutDevice(tx, d); err != nil {
			return err
		}
		return h.Enrolled(tx, d)
	})
	return d.ID
}

// Kinds of devices.
func userEnrolled(d *mdm.Device) {
	d.Type, d.AppleID, d.AccessRights, d.Ownership = mdm.TypeUser, mdm.AppleID{EnrollmentID: string(d.ID)}, 0, mdm.Personal
}
func personal(d *mdm.Device) { d.Ownership = mdm.Personal }
func mac(d *mdm.Device)      { d.ProductName, d.OSVersion = "Mac14,2", "15.2" }

// answers are what a device says to questions, by RequestType: a JSON object, "error" or
// "not now". One that has none for a question keeps it.
type answers map[string]string

// poll has a device answer what waits for it, and returns which questions those were, with
// their parameters.
func (h *house) poll(t testing.TB, id mdm.DeviceID, says answers) (asked []string) {
	t.Helper()
	idle := true
	for {
		var plist []byte
		var e *mdm.Entry
		h.update(t, func(tx storage.Tx) (err error) {
			if e, err = h.mdm.Head(tx, id, !idle); err != nil || e == nil {
				return err
			}
			d, err := h.mdm.Deliver(tx, e)
			if err == nil {
				plist, err = h.mdm.Plist(d)
			}
			return err
		})
		if e == nil {
			return asked
		}
		params, err := command.Params(plist)
		if err != nil {
			t.Fatal(err)
		}
		question := e.RequestType
		for _, key := range []string{"ManagedAppsOnly", "ManagedOnly"} {
			if params[key] == true {
				question += " " + key
			}
		}
		asked = append(asked, question)
		r := mdm.Report{CommandUUID: e.UUID, State: mdm.Acknowledged}
		switch say, ok := says[e.RequestType]; {
		case !ok:
			return asked
		case say == "error":
			r.State, r.ErrorChain = mdm.Failed, []command.ChainedError{{ErrorCode: 12007, ErrorDomain: "MCMDMErrorDomain"}}
		case say == "not now":
			r.State = mdm.NotNow
		default:
			r.Result = json.RawMessage(say)
		}
		h.update(t, func(tx storage.Tx) error {
			_, err := h.mdm.Record(tx, id, r)
			return err
		})
		idle = false
	}
}

// refresh asks a device for sources, all of them if there are none, and has it answer.
func (h *house) refresh(t testing.TB, id mdm.DeviceID, says answers, sources ...inventory.Source) inventory.Outcome {
	t.Helper()
	outcomes, err := h.Refresh(context.Background(), "ana", []mdm.DeviceID{id}, sources)
	if err != nil {
		t.Fatal(err)
	}
	h.pass(time.Second)
	h.poll(t, id, says)
	return outcomes[0]
}

// report returns what a source says of a device.
func (h *house) report(t testing.TB, id mdm.DeviceID, source inventory.Source) inventory.Report {
	t.Helper()
	in, err := h.Inventory(context.Background(), id)
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(in.Reports, func(r inventory.Report) bool { return r.Source == source })
	return in.Reports[i]
}

// changes returns what the history says, the newest first, one line each.
func (h *house) changes(t testing.TB, id mdm.DeviceID) (lines []string) {
	t.Helper()
	all, _, err := h.History(context.Background(), id, "", 1000)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range all {
		line := strings.Join(strings.Fields(strings.Join([]string{string(c.Kind), c.Path, c.Label, string(c.Old), "→", string(c.New)}, " ")), " ")
		lines = append(lines, line)
	}
	return lines
}

// tick is one tick of the schedule.
func (h *house) tick(t testing.TB) {
	t.Helper()
	if err := h.RefreshDue(context.Background()); err != nil {
		t.Fatal(err)
	}
}

// sources returns the names of what is asked.
func sources(asked []inventory.Asked) (names []string) {
	for _, a := range asked {
		names = append(names, string(a.Source))
	}
	return names
}

func same(got, want []string) bool { return slices.Equal(got, want) }
