package event

import (
	"maps"
	"net/netip"
	"strconv"
	"sync"
	"time"
)

const (
	floodTime = time.Minute

	maxOfKind = 60  // written one by one within floodTime of one action, peer and template
	maxOfAll  = 600 // of all kinds

	// maxKinds bounds the memory that strangers can make us use, and the events that a
	// minute of theirs leaves: peers beyond it are counted together.
	maxKinds = 200
)

// flood decides which events are written one by one, and counts the others. The zero
// flood is ready.
type flood struct {
	mu    sync.Mutex
	began time.Time // of the current minute
	kinds map[floodKind]*burst
	all   int // written one by one in this minute
}

// floodKind is what makes events alike.
type floodKind struct {
	action   string
	outcome  Outcome
	template string
	peer     string // a network
}

// burst is the events of one kind in the current minute.
type burst struct {
	written int
	held    int   // and not written
	event   Event // what those have in common
}

// admit returns what to write now that e has happened: e, or nothing, and what was counted
// in a minute that is over.
func (f *flood) admit(e Event, now time.Time) []Event {
	f.mu.Lock()
	defer f.mu.Unlock()
	write := f.turnLocked(now)
	if f.kinds == nil {
		f.kinds = make(map[floodKind]*burst)
	}
	kind := floodKind{e.Action, e.Outcome, e.Template, network(e.Peer)}
	if f.kinds[kind] == nil && len(f.kinds) >= maxKinds {
		kind = floodKind{action: e.Action, outcome: e.Outcome}
	}
	b := f.kinds[kind]
	if b == nil {
		b = &burst{}
		f.kinds[kind] = b
	}
	switch {
	case b.written < maxOfKind && f.all < maxOfAll:
		b.written++
		f.all++
		return append(write, e)
	case b.held == 0:
		b.event = e
	default:
		b.event = common(b.event, e)
	}
	b.held++
	return write
}

// turn returns what was counted in a minute that is over.
func (f *flood) turn(now time.Time) []Event {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.turnLocked(now)
}

func (f *flood) turnLocked(now time.Time) []Event {
	// A clock that was put back must not lengthen the minute.
	if since := now.Sub(f.began); since >= 0 && since < floodTime {
		return nil
	}
	f.began = now
	return f.endLocked()
}

// end returns what was counted so far.
func (f *flood) end() []Event {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.endLocked()
}

func (f *flood) endLocked() (counted []Event) {
	for _, b := range f.kinds {
		if b.held == 0 {
			continue
		}
		e := b.event
		details := make(map[string]string)
		if len(e.Details) < maxDetails { // or there is no room for the count
			maps.Copy(details, e.Details)
		}
		details["count"] = strconv.Itoa(b.held)
		e.Details = details
		counted = append(counted, e)
	}
	f.kinds, f.all = nil, 0
	return counted
}

// common is the later event b, without what a says differently.
func common(a, b Event) Event {
	for _, texts := range [][2]*string{
		{&a.Actor, &b.Actor}, {&a.Reason, &b.Reason}, {&a.DeviceID, &b.DeviceID}, {&a.User, &b.User},
		{&a.Certificate, &b.Certificate}, {&a.Template, &b.Template}, {&a.Peer, &b.Peer},
	} {
		if *texts[0] != *texts[1] {
			*texts[1] = ""
		}
	}
	if !maps.Equal(a.Details, b.Details) {
		b.Details = nil
	}
	return b
}

// network is the part of a peer's address that one stranger has for sure: the address,
// or the /64 of an IPv6 one.
func network(peer string) string {
	addr, err := netip.ParseAddr(peer)
	if err != nil || addr.Is4() || addr.Is4In6() {
		return peer
	}
	prefix, err := addr.WithZone("").Prefix(64)
	if err != nil {
		return peer
	}
	return prefix.String()
}
