package mdmtest

import (
	"cmp"
	"context"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// FleetOptions say what fleet to run.
type FleetOptions struct {
	N          int    // devices
	ProfileURL string // each GET is a new enrollment attempt
	Demo       bool   // personas in turn, with their names; else all are prompt iPhones

	// Seed makes UDIDs, serial numbers and users the same in each run that has the
	// same seed; they are random when it is empty.
	Seed string

	Concurrency int           // enrollments at a time; 8 when zero
	Interval    time.Duration // between polls of a device that nobody wakes; 10 s when zero
	Attempts    int           // to enrol, with growing pauses; 5 when zero
	Locked      time.Duration // how long the locked persona says NotNow; 20 s when zero
	Pause       time.Duration // how long the slow persona thinks; 3 s when zero

	RootCAs   *x509.CertPool
	Transport http.RoundTripper // shared by all, in place of a connection for each
	PlainHTTP bool

	// Account, if set, says how the i-th device enrols: by account, or for nil by
	// ProfileURL, which only then is required.
	Account func(i int, model Model) *Account

	// Kind, if set, says what the i-th device is; [MixedKinds] deals them. Demo has its own.
	Kind func(i int) Kind

	// Customize, if set, changes the options of the i-th device before it is made.
	Customize func(i int, o *Options)

	Log *slog.Logger     // required
	Now func() time.Time // time.Now when nil
}

// FleetStats is what a fleet did so far.
type FleetStats struct {
	Enrolled int64 // devices that are enrolled, or were until they went away
	Failed   int64 // devices that gave up before they were enrolled
	Gone     int64 // devices that left again: removed, erased, vanished
	Polls    int64 // sessions, on all channels
	Problems int64 // sessions that ended in an error
	Profiles int64 // profiles on the devices now, beside those of their enrollments
	Counters       // sums over the devices
}

// Fleet is many devices. Run lets them live by the clock: each enrols, then polls at an
// interval or when woken. Enroll, Step and StepWoken leave the time to the caller.
type Fleet struct {
	opts    FleetOptions
	members []*member
	byToken map[string]*member // hex push token, for Wake

	enrolled, failed, gone, polls, problems atomic.Int64
}

// member is one device of a fleet.
type member struct {
	device  *Device
	playing *playing
	counted atomic.Int32  // how the stats have it: 0 not at all, 1 enrolled, 2 gone again
	wake    chan struct{} // holds one wake-up that came while the device was busy
}

// NewFleet makes the devices; Run lets them go, or Enroll does.
func NewFleet(o FleetOptions) (*Fleet, error) {
	if o.N < 1 || o.ProfileURL == "" && o.Account == nil || o.Log == nil {
		return nil, errors.New("mdmtest: a fleet needs N, ProfileURL and Log")
	}
	o.Concurrency = cmp.Or(o.Concurrency, 8)
	o.Interval = cmp.Or(o.Interval, 10*time.Second)
	o.Attempts = cmp.Or(o.Attempts, 5)
	o.Locked = cmp.Or(o.Locked, 20*time.Second)
	o.Pause = cmp.Or(o.Pause, 3*time.Second)
	if o.Now == nil {
		o.Now = time.Now
	}
	keys, err := NewKeyPool(2048)
	if err != nil {
		return nil, err
	}
	f := &Fleet{opts: o, byToken: map[string]*member{}}
	var apple *DeviceCA // of those that enrol by account
	for i := range o.N {
		kind := Kind{Model: IPhone}
		if o.Kind != nil {
			kind = o.Kind(i)
		}
		model := cmp.Or(kind.Model, IPhone)
		persona, name := Prompt, fmt.Sprintf("Simulated %s %d", model, i+1)
		if o.Demo {
			persona, model, name = demo(i)
		}
		options := Options{
			Model: model, Name: name, RootCAs: o.RootCAs, Transport: o.Transport, PlainHTTP: o.PlainHTTP, Keys: keys, Now: o.Now,
			OSVersion: kind.OSVersion, Supervised: kind.Supervised, ADE: kind.ADE, Conduct: kind.Conduct, Patient: true,
		}
		if o.Seed != "" {
			stream := &seeded{seed: fmt.Sprintf("%s %d", o.Seed, i)}
			if options.UDID, err = model.newUDID(stream); err != nil {
				return nil, err
			}
			if options.Serial, err = newSerial(stream); err != nil {
				return nil, err
			}
			if options.User, err = newUser(stream); err != nil {
				return nil, err
			}
		}
		c := &playing{persona: persona, locked: o.Locked, pause: o.Pause, now: o.Now}
		if persona != Prompt {
			options.Handler = c.handle
		}
		if o.Account != nil {
			options.Account = o.Account(i, model)
		}
		if o.Customize != nil {
			o.Customize(i, &options)
		}
		if options.Account == nil && o.ProfileURL == "" {
			return nil, fmt.Errorf("mdmtest: device %d has neither an account nor a ProfileURL", i)
		}
		if options.Account != nil && options.BuiltIn == nil {
			if apple == nil {
				if apple, err = NewDeviceCA(); err != nil {
					return nil, err
				}
			}
			if options.BuiltIn, err = apple.Issue(fmt.Sprintf("device %d", i)); err != nil {
				return nil, err
			}
		}
		d, err := NewDevice(options)
		if err != nil {
			return nil, err
		}
		m := &member{device: d, playing: c, wake: make(chan struct{}, 1)}
		f.members = append(f.members, m)
		token, _ := d.Channel().Push()
		f.byToken[hex.EncodeToString(token)] = m
	}
	return f, nil
}

// Devices are the devices in their order.
func (f *Fleet) Devices() []*Device {
	list := make([]*Device, len(f.members))
	for i, m := range f.members {
		list[i] = m.device
	}
	return list
}

// Stats may be called at any time.
func (f *Fleet) Stats() FleetStats {
	s := FleetStats{
		Enrolled: f.enrolled.Load(), Failed: f.failed.Load(), Gone: f.gone.Load(),
		Polls: f.polls.Load(), Problems: f.problems.Load(),
	}
	for _, m := range f.members {
		s.add(m.device.Counters())
		s.Profiles += int64(len(m.device.Profiles()))
	}
	return s
}

// Wake is a push: it makes the device or user with this token poll, if the magic
// is the one of its last TokenUpdate. It reports whether it knows the token.
func (f *Fleet) Wake(token []byte, magic string) bool {
	key := hex.EncodeToString(token)
	m, ok := f.byToken[key]
	if !ok {
		m = f.byUserToken(key)
	}
	if m == nil {
		return false
	}
	for _, c := range m.channels() {
		if t, current := c.Push(); hex.EncodeToString(t) == key && current == magic {
			m.wakeUp()
		}
	}
	return true
}

func (m *member) wakeUp() {
	select {
	case m.wake <- struct{}{}:
	default: // a wake-up waits already
	}
}

// byUserToken finds a user channel, which is made by the enrollment.
func (f *Fleet) byUserToken(key string) *member {
	for _, m := range f.members {
		if user := m.device.User(); user != nil {
			if t, _ := user.Push(); hex.EncodeToString(t) == key {
				return m
			}
		}
	}
	return nil
}

func (m *member) channels() []*Channel {
	list := []*Channel{m.device.Channel()}
	if user := m.device.User(); user != nil {
		list = append(list, user)
	}
	return list
}

// Run enrols the devices, Concurrency at a time, and lets them poll until ctx
// ends; sessions under way may then finish for two seconds. It returns nil, and
// early only when no device is left.
func (f *Fleet) Run(ctx context.Context) error {
	sessions, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(2*time.Second, cut) })()
	turn := make(chan struct{}, f.opts.Concurrency)
	var wg sync.WaitGroup
	for _, m := range f.members {
		wg.Go(func() {
			defer m.device.Close()
			if f.enroll(ctx, m, turn) {
				f.live(ctx, sessions, m)
			}
		})
	}
	wg.Wait()
	return nil
}

// enroll tries several times: a demo starts beside its server.
func (f *Fleet) enroll(ctx context.Context, m *member, turn chan struct{}) bool {
	pause := time.Second
	for try := 1; ; try++ {
		select {
		case turn <- struct{}{}:
		case <-ctx.Done():
			return false
		}
		err := m.enroll(ctx, f.opts.ProfileURL)
		<-turn
		if err == nil {
			f.count(m)
			return true
		}
		if ctx.Err() != nil {
			return false
		}
		f.opts.Log.Warn("simulated device could not enroll", "device", m.device.opts.Name, "attempt", try, "err", err)
		if try == f.opts.Attempts {
			f.failed.Add(1)
			return false
		}
		if sleep(ctx, pause) != nil {
			return false
		}
		pause = min(2*pause, 30*time.Second)
	}
}

// count keeps the stats of a device that has enrolled, or is gone.
func (f *Fleet) count(m *member) {
	s := m.device.State()
	if s >= Enrolled && m.counted.CompareAndSwap(0, 1) {
		m.playing.since.Store(f.opts.Now().UnixNano())
		f.enrolled.Add(1)
	}
	if (s == Removed || s == Erased) && m.counted.CompareAndSwap(1, 2) {
		f.gone.Add(1)
	}
}

// enroll begins an enrollment, or goes on with one that the server left in the midst.
func (m *member) enroll(ctx context.Context, profileURL string) error {
	if !m.device.unmanaged() {
		return m.device.Resume(ctx)
	}
	if m.device.opts.Account != nil {
		return m.device.enrollAccount(ctx)
	}
	return m.device.Enroll(ctx, profileURL)
}

// live polls at once, as iOS does after TokenUpdate, then at the interval, when
// woken, and soon after a NotNow. It begins nothing once ctx is done; sessions
// outlives ctx a little.
func (f *Fleet) live(ctx, sessions context.Context, m *member) {
	for {
		again := f.opts.Interval
		for _, c := range m.channels() {
			if ctx.Err() != nil {
				return
			}
			f.polls.Add(1)
			if _, err := c.Poll(sessions); err != nil && sessions.Err() == nil && !errors.Is(err, ErrRemoved) {
				f.problems.Add(1)
				f.opts.Log.Warn("simulated device's session failed", "device", m.device.opts.Name, "err", err)
			}
			if c.WillPoll() {
				again = min(again, f.opts.Locked/4)
			}
		}
		if m.playing.gone.Load() {
			m.device.Vanish()
		}
		if s := m.device.State(); s == Removed || s == Erased {
			f.count(m)
			return
		}
		timer := time.NewTimer(again)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-m.wake:
			timer.Stop()
		case <-timer.C:
		}
	}
}
