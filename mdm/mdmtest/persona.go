package mdmtest

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"
)

// Persona is a way to behave, so that a demo shows more than devices that obey.
type Persona string

// The personas, in the order in which a demo of five has them.
const (
	Prompt   Persona = "prompt"   // answers at once
	Locked   Persona = "locked"   // answers NotNow for a while after its enrollment
	Slow     Persona = "slow"     // thinks a few seconds before each answer
	Erroring Persona = "erroring" // answers DeviceInformation and renewals, and errs on the rest
	Vanished Persona = "removed"  // answers its first DeviceInformation, then is gone without CheckOut
)

// Personas are all personas in their order.
func Personas() []Persona { return []Persona{Prompt, Locked, Slow, Erroring, Vanished} }

// demoModel is the device that plays a persona. Only a Mac answers NotNow to
// DeviceInformation (PROTOCOL 5.2).
func (p Persona) demoModel() Model {
	switch p {
	case Locked:
		return Mac
	case Slow:
		return IPad
	}
	return IPhone
}

// demo names the i-th demo device, counted from 0.
func demo(i int) (Persona, Model, string) {
	all := Personas()
	p := all[i%len(all)]
	m := p.demoModel()
	return p, m, fmt.Sprintf("Demo %s %d (%s)", m, i+1, p)
}

// playing is the handler of one device that plays a persona.
type playing struct {
	persona Persona
	locked  time.Duration // how long Locked says NotNow
	pause   time.Duration // how long Slow thinks
	now     func() time.Time

	since atomic.Int64 // when it enrolled, Unix nanoseconds; 0 before
	gone  atomic.Bool  // Vanished has answered its DeviceInformation
}

// handle is a [Handler].
func (p *playing) handle(ctx context.Context, c *Channel, cmd *Command, own func() Result) Result {
	switch p.persona {
	case Locked:
		if mayDefer(c.dev.opts.Model, c.user != nil, cmd.RequestType) && p.now().Sub(time.Unix(0, p.since.Load())) < p.locked {
			return Result{Status: StatusNotNow}
		}
	case Slow:
		if sleep(ctx, p.pause) != nil {
			return Result{}
		}
	case Erroring:
		if cmd.RequestType != "DeviceInformation" && cmd.RequestType != "InstallProfile" && cmd.RequestType != "RemoveProfile" {
			return failed(12007, "MCMDMErrorDomain", fmt.Sprintf("The MDM server does not have the right to send “%s”.", cmd.RequestType))
		}
	case Vanished:
		if p.gone.Load() {
			return Result{}
		}
		r := own()
		if cmd.RequestType == "DeviceInformation" {
			p.gone.Store(true)
		}
		return r
	}
	return own()
}
