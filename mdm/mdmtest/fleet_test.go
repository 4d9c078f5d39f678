package mdmtest

import (
	"context"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func TestADemoFleet(t *testing.T) {
	s := newServer(t)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	done := map[string]string{} // statuses of each device's last answer, by UDID and command
	silent := make(chan struct{})
	var later atomic.Int64 // what the clock of the devices is ahead
	f, err := NewFleet(FleetOptions{
		N: 5, Demo: true, Seed: "test", ProfileURL: s.http.URL + "/profile", RootCAs: s.roots(), Log: slog.New(slog.DiscardHandler),
		Interval: 10 * time.Millisecond, Locked: time.Hour, Pause: time.Millisecond,
		Now: func() time.Time { return time.Now().Add(time.Duration(later.Load())) },
	})
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]string{}
	var order []string
	for _, d := range f.Devices() {
		names[d.ID()] = d.Options().Name
		order = append(order, d.Options().Name)
	}
	if got, want := strings.Join(order, ", "), "Demo iPhone 1 (prompt), Demo Mac 2 (locked), Demo iPad 3 (slow), Demo iPhone 4 (erroring), Demo iPhone 5 (removed)"; got != want {
		t.Errorf("devices: %s, want %s", got, want)
	}
	// The answers stand for the queue of a real server: each device gets
	// DeviceInformation until it answers, then SecurityInfo.
	notNow, last := 0, ""
	s.hook = func(msg Dict) Dict {
		udid, _ := msg["UDID"].(string)
		if msg["UserID"] != nil {
			return nil
		}
		if uuid, ok := msg["CommandUUID"].(string); ok {
			if msg["Status"] == StatusNotNow {
				if notNow++; notNow == 2 {
					later.Store(int64(2 * time.Hour)) // somebody opens the lid
				}
				return nil
			}
			done[names[udid]+" "+uuid] = msg["Status"].(string)
			if len(done) == 9 { // four devices answer two commands, one answers one
				last = udid
			}
		} else if last == udid && last != "" { // and heard that the answer arrived
			last = ""
			close(silent)
		}
		for _, request := range []string{"DeviceInformation", "SecurityInfo"} {
			// The last answer is not of the device that vanishes: it would not be
			// heard of again.
			if request == "SecurityInfo" && done["Demo iPhone 5 (removed) DeviceInformation"] == "" {
				return nil
			}
			if done[names[udid]+" "+request] == "" {
				return Dict{"CommandUUID": request, "Command": Dict{"RequestType": request, "Queries": []string{"DeviceName"}}}
			}
		}
		return nil
	}
	finished := make(chan error)
	go func() { finished <- f.Run(ctx) }()
	select {
	case <-silent:
	case <-time.After(time.Minute):
		t.Error("not all devices answered")
	}
	stop()
	if err := <-finished; err != nil {
		t.Errorf("Run = %v", err)
	}
	for _, name := range order {
		if got := done[name+" DeviceInformation"]; got != StatusAcknowledged {
			t.Errorf("%s answered DeviceInformation with %q", name, got)
		}
		want := StatusAcknowledged
		switch {
		case strings.Contains(name, "erroring"):
			want = StatusError
		case strings.Contains(name, "removed"):
			want = ""
		}
		if got := done[name+" SecurityInfo"]; got != want {
			t.Errorf("%s answered SecurityInfo with %q, want %q", name, got, want)
		}
	}
	if notNow < 2 {
		t.Errorf("the locked device said NotNow %d times", notNow)
	}
	stats := f.Stats()
	if stats.Enrolled != 5 || stats.Acknowledged != 8 || stats.Errors != 1 || stats.Gone != 1 || stats.Problems != 0 {
		t.Errorf("Stats = %+v", stats)
	}
	again, err := NewFleet(FleetOptions{N: 5, Demo: true, Seed: "test", ProfileURL: "https://x", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	for i, d := range again.Devices() {
		if o, before := d.Options(), f.Devices()[i].Options(); d.ID() != f.Devices()[i].ID() || o.Serial != before.Serial || *o.User != *before.User {
			t.Errorf("device %d has other ids in the next run", i)
		}
	}
}

func TestAPushWakesADevice(t *testing.T) {
	s := newServer(t)
	ctx, stop := context.WithCancel(t.Context())
	f, err := NewFleet(FleetOptions{N: 1, ProfileURL: s.http.URL + "/profile", RootCAs: s.roots(), Log: slog.New(slog.DiscardHandler), Interval: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	polled := make(chan struct{}, 10)
	s.hook = func(Dict) Dict { polled <- struct{}{}; return nil }
	finished := make(chan error)
	go func() { finished <- f.Run(ctx) }()
	<-polled // after the enrollment
	token, magic := f.Devices()[0].Channel().Push()
	if !f.Wake(token, magic) {
		t.Error("Wake does not know the token")
	}
	<-polled
	if f.Wake([]byte("x"), magic) {
		t.Error("Wake knows any token")
	}
	stop()
	if err := <-finished; err != nil {
		t.Errorf("Run = %v", err)
	}
}

func TestAFleetGivesUp(t *testing.T) {
	s := newServer(t)
	f, err := NewFleet(FleetOptions{N: 2, ProfileURL: s.http.URL + "/nothing", RootCAs: s.roots(), Log: slog.New(slog.DiscardHandler), Attempts: 1})
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Run(t.Context()); err != nil {
		t.Errorf("Run = %v", err)
	}
	if got := f.Stats(); got.Failed != 2 || got.Enrolled != 0 {
		t.Errorf("Stats = %+v", got)
	}
}
