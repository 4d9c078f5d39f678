package mdmtest

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
)

// ErrBroken means that a device broke a session off, as its [Conduct] wants it.
var ErrBroken = errors.New("device: the connection broke")

// Conduct is how a device misses what is expected of it. It is counted in sessions,
// commands and results of a channel and never in time, so that a story goes the same way
// each time. The zero value is a device that is always there and answers at once.
//
// What ends an enrollment, EraseDevice for one, and renewals are not disturbed.
type Conduct struct {
	NotNow int // in its first sessions, so many of them, it answers NotNow wherever Apple's devices may

	Fails    []string // RequestTypes that it answers with an Error
	FailsFor int      // only the first of these, so many; all when zero

	Drops   int // each so manieth command that it reads finds no answer: the session breaks, and the command must come again
	Loses   int // each so manieth result is lost on its way, and sent again in the next session
	Deaf    int // after each so manieth result the session breaks before the answer is there: the result comes a second time
	Repeats int // each so manieth result is sent twice in a row
	Thinks  int // sessions that it misses before it sends a result
	Away    int // sessions that it misses after one broke
	Leaves  int // after so many results it is gone for good, and the server does not hear of it; never when zero
}

// conducting counts what a channel has done.
type conducting struct {
	sessions, commands, results, failed int
	away                                int // sessions to miss yet
}

// every reports whether it is the turn of one of every n. The caller counts from 1.
func every(n, count int) bool { return n > 0 && count%n == 0 }

// misses begins a session, or reports that the device stays away from this one.
func (c *Channel) misses() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conduct.away > 0 {
		c.conduct.away--
		return true
	}
	c.conduct.sessions++
	return false
}

// disturbed is the result with which the conduct forestalls the device's own; one without
// Status is none. broken reports that the device is gone before it could answer.
func (c *Channel) disturbed(cmd *Command) (r Result, broken bool) {
	conduct := &c.dev.opts.Conduct
	c.mu.Lock()
	defer c.mu.Unlock()
	c.conduct.commands++
	switch {
	case every(conduct.Drops, c.conduct.commands):
		return Result{}, true
	case conduct.NotNow > 0 && c.conduct.sessions <= conduct.NotNow && mayDefer(c.dev.opts.Model, c.user != nil, cmd.RequestType):
		return Result{Status: StatusNotNow}, false
	case slices.Contains(conduct.Fails, cmd.RequestType) && (conduct.FailsFor == 0 || c.conduct.failed < conduct.FailsFor):
		c.conduct.failed++
		return failed(12010, "MCMDMErrorDomain", fmt.Sprintf("“%s” failed on this device.", cmd.RequestType)), false
	}
	return Result{}, false
}

// report sends a result as the conduct has it.
func (c *Channel) report(ctx context.Context, r Result) (*Command, error) {
	conduct := &c.dev.opts.Conduct
	if r.Status == StatusNotNow {
		return c.Report(ctx, r)
	}
	c.mu.Lock()
	c.conduct.results++
	n := c.conduct.results
	c.mu.Unlock()
	if conduct.Thinks > 0 || every(conduct.Loses, n) {
		c.mu.Lock()
		c.pending = append(c.pending, r)
		c.mu.Unlock()
		return nil, c.breakOff(max(conduct.Thinks, conduct.Away))
	}
	next, err := c.Report(ctx, r)
	if err != nil {
		return nil, err
	}
	if every(conduct.Deaf, n) {
		c.mu.Lock()
		c.pending = append(c.pending, r)
		c.mu.Unlock()
		return nil, c.breakOff(conduct.Away)
	}
	if every(conduct.Repeats, n) {
		if next, err = c.Report(ctx, r); err != nil {
			return nil, err
		}
	}
	if conduct.Leaves > 0 && n >= conduct.Leaves {
		c.dev.Vanish()
		return nil, ErrRemoved
	}
	return next, nil
}

// breakOff ends the session, and lets the device miss some.
func (c *Channel) breakOff(away int) error {
	c.mu.Lock()
	c.conduct.away = away
	c.mu.Unlock()
	c.dev.count.breaks.Add(1)
	c.dev.Close()
	return ErrBroken
}

// mayDefer reports whether a device may answer a command with NotNow (PROTOCOL 5.2).
func mayDefer(model Model, user bool, requestType string) bool {
	if model != Mac {
		return !slices.Contains([]string{"DeviceInformation", "ProfileList", "DeviceLock", "EraseDevice", "ClearPasscode",
			"ProvisioningProfileList", "InstalledApplicationList", "Restrictions"}, requestType)
	}
	return user || !slices.Contains([]string{"DeleteUser", "DeviceLock", "EraseDevice", "RestartDevice", "ShutDownDevice", "UserList",
		"ActivationLockBypassCode", "ClearActivationLockBypassCode", "UnlockUserAccount"}, requestType)
}

// noAnswer reports whether err may be another one next time: nobody answered, or the server
// said that the fault is its own, or that it is too busy.
func noAnswer(err error) bool {
	var answered *HTTPError
	if errors.As(err, &answered) {
		return answered.Status >= http.StatusInternalServerError || answered.Status == http.StatusTooManyRequests
	}
	var transport *url.Error
	return errors.As(err, &transport)
}

// Kind is what one device of a fleet is, and how it behaves.
type Kind struct {
	Model      Model
	OSVersion  string // the model's newest when empty
	Supervised bool
	ADE        bool
	Conduct    Conduct
}

// MixedKinds deals kinds to the devices of a fleet: phones, tablets, Macs, televisions and
// headsets on several systems, every second one supervised where it may be. About half of
// them have some conduct, which in the end lets everything arrive. The same seed deals the
// same kinds.
func MixedKinds(seed string) func(i int) Kind {
	return func(i int) Kind {
		sum := sha256.Sum256(fmt.Appendf(nil, "%s %d", seed, i))
		draw := func(at, n int) int { return int(binary.BigEndian.Uint16(sum[2*at:])) % n }
		k := Kind{Model: []Model{IPhone, IPhone, IPhone, IPhone, IPad, IPad, Mac, Mac, AppleTV, Vision}[draw(0, 10)]}
		k.Supervised = draw(1, 2) == 0
		k.ADE = k.Supervised && draw(2, 2) == 0
		systems := map[Model][]string{
			IPhone: {"", "18.2", "17.5"}, IPad: {"", "18.2", "17.5"}, Mac: {"", "15.2", "14.6"}, AppleTV: {"", "18.2"}, Vision: {"", "2.2"},
		}[k.Model]
		k.OSVersion = systems[draw(3, len(systems))]
		conducts := []Conduct{
			{NotNow: 2},
			{Fails: []string{"InstallProfile", "SecurityInfo"}, FailsFor: 1},
			{Drops: 3, Away: 1},
			{Loses: 2},
			{Deaf: 2, Away: 2},
			{Repeats: 2},
			{Thinks: 1},
			{NotNow: 1, Drops: 4, Loses: 3, Deaf: 5, Repeats: 2, Away: 1},
		}
		if n := draw(4, 2*len(conducts)); n < len(conducts) {
			k.Conduct = conducts[n]
		}
		return k
	}
}
