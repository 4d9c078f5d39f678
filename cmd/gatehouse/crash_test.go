package main

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/mdmtest"
)

// ledger is what clients were told of, and what must therefore be true for ever.
type ledger struct {
	mu       sync.Mutex
	enrolled []*mdmtest.Device
	queued   map[string]string          // command UUID → UDID of its device
	acked    map[string]map[string]bool // command UUID → UDID
	told     int                        // promises so far
	kill     int                        // the one at which the server is to die
	die      chan struct{}
}

func (l *ledger) promise(note func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	note()
	if l.told++; l.told == l.kill {
		close(l.die)
	}
}

// TestNothingThatAClientWasToldOfIsLost kills the server again and again while
// devices enroll, operators queue and devices answer, and then looks for
// everything that somebody was told of.
func TestNothingThatAClientWasToldOfIsLost(t *testing.T) {
	if testing.Short() {
		t.Skip("kills a server many times")
	}
	t.Parallel()
	const kills = 8
	ctx := context.Background()
	s := startProcess(t, "")
	url := s.link(t, 10_000)
	l := &ledger{queued: map[string]string{}, acked: map[string]map[string]bool{}}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for range kills {
		l.mu.Lock()
		l.kill, l.die = l.told+5+random.IntN(60), make(chan struct{})
		known := l.enrolled
		l.mu.Unlock()
		var load sync.WaitGroup
		stop := make(chan struct{})
		for _, worker := range []func(i int) error{
			func(int) error { return l.enroll(ctx, t, s, url) },
			func(i int) error { return l.queue(s, i, known) },
			func(i int) error { return l.answer(ctx, known, i) },
			func(i int) error { return l.answer(ctx, known, i+1) },
		} {
			load.Go(func() {
				for i := 0; ; i++ {
					select {
					case <-stop:
						return
					default:
					}
					if err := worker(i); err != nil {
						return // the server is gone
					}
				}
			})
		}
		idle := make(chan struct{})
		go func() { load.Wait(); close(idle) }()
		select {
		case <-l.die:
		case <-idle:
			t.Fatal("every client gave up before the server was killed")
		}
		s.kill(t)
		close(stop)
		<-idle
		s.http.CloseIdleConnections()
		s.start(t)
	}

	// Every device that was told it is enrolled is let in; what it has not
	// answered comes now, each command once.
	ids, err := s.idsByUDID()
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]int{}
	for _, d := range l.enrolled {
		if ids[d.Options().UDID] == "" {
			t.Errorf("enrolled device %s is not known", d.Options().UDID)
			continue
		}
		d.Channel().Forget()
		cmd, err := d.Idle(ctx)
		for err == nil && cmd != nil {
			seen[cmd.UUID]++
			if l.acked[cmd.UUID][d.Options().UDID] {
				t.Errorf("command %s comes again after its answer was taken", cmd.UUID)
			}
			cmd, err = d.Report(ctx, mdmtest.Result{CommandUUID: cmd.UUID, Status: mdmtest.StatusAcknowledged})
		}
		if err != nil {
			t.Errorf("device %s: %v", d.Options().UDID, err)
		}
	}
	for uuid, n := range seen {
		if n > 1 {
			t.Errorf("command %s came %d times", uuid, n)
		}
	}
	for uuid, udid := range l.queued {
		var c struct {
			Devices []struct {
				DeviceID string `json:"device_id"`
				State    string `json:"state"`
			} `json:"devices"`
		}
		s.api(t, "GET", "/commands/"+uuid, nil, &c)
		if len(c.Devices) != 1 || c.Devices[0].DeviceID != ids[udid] || c.Devices[0].State != "acknowledged" {
			t.Errorf("command %s, which was accepted: %+v, want it acknowledged by %s", uuid, c.Devices, ids[udid])
		}
	}
	acked := 0
	for _, devices := range l.acked {
		acked += len(devices)
	}
	t.Logf("%d devices, %d commands, %d of them answered between kills", len(l.enrolled), len(l.queued), acked)
	if len(l.enrolled) == 0 || len(l.queued) == 0 || acked == 0 {
		t.Error("the load did not reach all that it is for")
	}
}

func (l *ledger) enroll(ctx context.Context, t testing.TB, s *serverProcess, url string) error {
	d := s.newDevices(t, 1)[0]
	if err := d.Enroll(ctx, url); err != nil {
		return err
	}
	l.promise(func() { l.enrolled = append(l.enrolled, d) })
	return nil
}

func (l *ledger) queue(s *serverProcess, i int, known []*mdmtest.Device) error {
	if len(known) == 0 {
		return errors.New("no device yet")
	}
	udid := known[i%len(known)].Options().UDID
	ids, err := s.idsByUDID()
	if err != nil {
		return err
	}
	uuid := mdm.NewUUID()
	if err := s.enqueue(uuid, []string{ids[udid]}); err != nil {
		return err
	}
	l.promise(func() { l.queued[uuid] = udid })
	return nil
}

func (l *ledger) answer(ctx context.Context, known []*mdmtest.Device, i int) error {
	if len(known) == 0 {
		return errors.New("no device yet")
	}
	d := known[i%len(known)]
	cmd, err := d.Idle(ctx)
	for err == nil && cmd != nil {
		uuid := cmd.UUID
		cmd, err = d.Report(ctx, mdmtest.Result{CommandUUID: uuid, Status: mdmtest.StatusAcknowledged})
		if err == nil {
			l.promise(func() {
				if l.acked[uuid] == nil {
					l.acked[uuid] = map[string]bool{}
				}
				l.acked[uuid][d.Options().UDID] = true
			})
		}
	}
	return err
}
