package apiv1_test

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/event"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

type summary struct {
	Limited bool
	Devices struct {
		Total        int
		ByState      map[string]int                       `json:"by_state"`
		ByType       map[string]int                       `json:"by_type"`
		BySystem     []struct{ Platform, Version string } `json:"by_system"`
		OtherSystems int                                  `json:"other_systems"`
		LastSeen     map[string]int                       `json:"last_seen"`
		Simulated    int
		Lost         int
		Dead         int `json:"dead_push_tokens"`
	}
	InFlight map[string]any `json:"in_flight"`
	Days     []map[string]any
	Expiries []struct{ Kind, Name, Path string }
	Renewals *struct {
		Overdue int
		Weeks   []struct{ Certificates int }
	}
	Trouble []struct{ Code, Severity, Text, Path string }
	Setup   map[string]bool
}

func (s summary) codes() (all []string) {
	for _, t := range s.Trouble {
		all = append(all, t.Code+" "+t.Severity)
	}
	return all
}

func TestTheServerInNumbers(t *testing.T) {
	h := newHouse(t)
	get := func(token string) summary {
		t.Helper()
		return into[summary](t, h.do(t, exchange{method: "GET", path: "/api/v1/summary", token: token}), http.StatusOK)
	}
	empty := get("")
	if empty.Devices.Total != 0 || len(empty.Days) != 90 || len(empty.Expiries) == 0 || empty.Renewals == nil || len(empty.Renewals.Weeks) != 52 {
		t.Errorf("of a new server the summary is %+v", empty)
	}
	if got, want := fmt.Sprint(empty.Setup), "map[device:false public_tls:false push_certificate:false second_owner:false]"; got != want {
		t.Errorf("a new server has %s, want %s", got, want)
	}
	if got, want := fmt.Sprint(empty.codes()), "[no_push_certificate warning]"; got != want {
		t.Errorf("trouble of a new server is %s, want %s", got, want)
	}

	for i := range 12 {
		h.device(t, mdm.DeviceID(fmt.Sprint("d", i)), func(d *mdm.Device) { d.OSVersion = fmt.Sprint("15.", i+1) })
	}
	h.device(t, "gone", func(d *mdm.Device) { d.State = mdm.Unenrolled })
	h.device(t, "channel", func(d *mdm.Device) { d.Type, d.ParentID = mdm.TypeUserChannel, "d1" })
	h.device(t, "demo", func(d *mdm.Device) { d.Demo, d.Type = true, mdm.TypeUser })
	h.mdm.Saw("d1")
	h.do(t, exchange{method: "POST", path: "/api/v1/commands", body: map[string]any{"request_type": "DeviceLock", "device_ids": []string{"d1", "d2"}}}).want(t, 202, nil)
	h.answer(t, "d1", mdm.Report{CommandUUID: h.deliver(t, "d1"), State: mdm.Acknowledged})
	err := h.db.Update(context.Background(), func(tx storage.Tx) error {
		if err := event.Record(tx, event.Event{At: h.now(), Action: "device.enrolled", DeviceID: "d1"}); err != nil {
			return err
		}
		return mdm.PutWakeup(tx, mdm.Wakeup{DeviceID: "d2", State: mdm.WakeDead})
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := h.events.Sequence(context.Background()); err != nil {
		t.Fatal(err)
	}
	s := get("")
	if s.Devices.Total != 14 || s.Devices.ByState["enrolled"] != 13 || s.Devices.ByState["unenrolled"] != 1 || s.Devices.ByType["device"] != 12 || s.Devices.ByType["user"] != 1 || s.Devices.Simulated != 1 {
		t.Errorf("devices are %+v", s.Devices)
	}
	if len(s.Devices.BySystem) != 8 || s.Devices.OtherSystems != 4 || s.Devices.BySystem[0].Platform != "macos" || s.Devices.BySystem[0].Version != "15.1" {
		t.Errorf("systems are %+v and %d others", s.Devices.BySystem, s.Devices.OtherSystems)
	}
	if s.Devices.LastSeen["hour"] != 1 || s.Devices.LastSeen["never"] != 12 {
		t.Errorf("last seen are %+v", s.Devices.LastSeen)
	}
	if got, want := fmt.Sprint(s.InFlight), "map[background:0 delivered:0 more:false not_now:0 queued:1]"; got != want {
		t.Errorf("in flight are %s, want %s", got, want)
	}
	if today := s.Days[len(s.Days)-1]; today["date"] != h.now().Format(time.DateOnly) || today["enrolled"] != 1. || today["acknowledged"] != 1. {
		t.Errorf("today is %v", today)
	}
	if got, want := fmt.Sprint(s.codes()), "[no_push_certificate error push_tokens_dead warning]"; got != want {
		t.Errorf("trouble is %s, want %s", got, want)
	}
	for _, x := range s.Trouble {
		if !strings.HasPrefix(x.Path, "/admin/") || !strings.HasSuffix(x.Text, ".") {
			t.Errorf("trouble is told as %+v", x)
		}
	}
	if !s.Setup["device"] || s.Limited {
		t.Errorf("setup is %v", s.Setup)
	}
	h.pass(50 * 365 * 24 * time.Hour)
	if got := get("").codes(); !slices.Contains(got, "authority_expiring error") {
		t.Errorf("in fifty years trouble is %s", got)
	}
}

func TestWhoIsLimitedGetsNumbersOfTheirGroups(t *testing.T) {
	h := newHouse(t)
	for _, id := range []mdm.DeviceID{"d1", "d2", "d3"} {
		h.device(t, id, nil)
	}
	h.do(t, exchange{method: "POST", path: "/api/v1/commands", body: map[string]any{"request_type": "DeviceLock", "device_ids": []string{"d1", "d2", "d3"}}}).want(t, 202, nil)
	g, err := h.mdm.CreateGroup(context.Background(), "", mdm.NewGroup{Name: "some"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.mdm.AddToGroup(context.Background(), "", g.ID, []mdm.DeviceID{"d1"}); err != nil {
		t.Fatal(err)
	}
	err = h.db.Update(context.Background(), func(tx storage.Tx) error {
		return mdm.PutWakeup(tx, mdm.Wakeup{DeviceID: "d2", State: mdm.WakeDead})
	})
	if err != nil {
		t.Fatal(err)
	}
	s := into[summary](t, h.do(t, exchange{method: "GET", path: "/api/v1/summary", token: h.limited(t, identity.ScopeReadOnly, string(g.ID))}), http.StatusOK)
	if !s.Limited || s.Devices.Total != 1 || s.InFlight["queued"] != 1. || s.Devices.Dead != 0 || len(s.Trouble) > 0 {
		t.Errorf("who is limited to d1 sees %+v", s)
	}
	if s.Days != nil || s.Renewals != nil || s.Setup != nil || len(s.Expiries) > 0 {
		t.Errorf("who is limited to d1 sees numbers of everything: %+v", s)
	}
}
