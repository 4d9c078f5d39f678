package mdm

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/gatehouse-mdm/gatehouse/mdm/command"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

// Figures are enrollments in numbers.
type Figures struct {
	Kinds map[Kind]int // all enrollments, user channels among them

	// Of enrolled devices, user channels aside:

	Systems []System // most devices first
	Seen    Seen
	Demo    int // of them are simulated
}

// System is a version of an operating system.
type System struct {
	Platform command.Platform // empty: unknown
	Version  string           // "18.2"; empty: unknown
	Devices  int
}

// Seen is how many devices were last heard of when. Each is in one of them.
type Seen struct {
	Hour, Day, Week, Month int // no longer ago
	Longer                 int
	Never                  int
}

func (s *Seen) add(at, now int64) {
	switch ago := time.Duration(now - at); {
	case at == 0:
		s.Never++
	case ago <= time.Hour:
		s.Hour++
	case ago <= 24*time.Hour:
		s.Day++
	case ago <= 7*24*time.Hour:
		s.Week++
	case ago <= 30*24*time.Hour:
		s.Month++
	default:
		s.Longer++
	}
}

// Figures counts the enrollments of groups, or all of them where groups is nil. It reads two
// short records of each, so whoever asks often should keep the answer.
func (s *Service) Figures(ctx context.Context, groups []GroupID) (f Figures, err error) {
	type system struct {
		platform byte
		version  uint64
	}
	err = s.viewRows(ctx, func(tx storage.Tx) error {
		scope, err := s.Scope(tx, groups)
		if err != nil {
			return err
		}
		f = Figures{Kinds: make(map[Kind]int)}
		systems := make(map[system]int)
		var kinds [256][256]int
		seen, now := s.seenTimeline(tx), s.now().UnixNano()
		for item, err := range tx.Scan(rowBucket, storage.Range{Lent: true}) {
			if err != nil {
				return fmt.Errorf("rows of devices: %w", err)
			}
			r := row(item.Value)
			if !r.valid() {
				return fmt.Errorf("row of device %s: %w", item.Key, storage.ErrCorrupt)
			}
			in, unsure := scope.quick(item.Key, r)
			if unsure && !in {
				if in, err = scope.Has(DeviceID(item.Key)); err != nil {
					return err
				}
			}
			if !in {
				continue
			}
			kinds[r[rowState]][r[rowType]]++
			if r[rowState] != enrolledCode || r[rowType] == channelCode {
				continue
			}
			systems[system{r[rowPlatform], r.os()}]++
			f.Seen.add(seen.at(item.Key), now)
			if named(r[rowDemo], rowFlags) {
				f.Demo++
			}
		}
		if seen.err != nil {
			return seen.err
		}
		for state := range kinds {
			for kind, n := range kinds[state] {
				if n > 0 {
					f.Kinds[Kind{named(byte(state), rowStates), named(byte(kind), rowTypes)}] += n
				}
			}
		}
		for of, n := range systems {
			f.Systems = append(f.Systems, System{named(of.platform, rowPlatforms), versionText(of.version), n})
		}
		slices.SortFunc(f.Systems, func(a, b System) int {
			return cmp.Or(cmp.Compare(b.Devices, a.Devices), cmp.Compare(a.Platform, b.Platform), cmp.Compare(versionNumber(b.Version), versionNumber(a.Version)))
		})
		return nil
	})
	if err != nil {
		return Figures{}, fmt.Errorf("count devices: %w", err)
	}
	return f, nil
}

// The bytes of rows that most are compared with.
var (
	enrolledCode = code(Enrolled, rowStates)
	channelCode  = code(TypeUserChannel, rowTypes)
)

// versionText is the reverse of versionNumber, as Apple writes versions: "18.2", "18.2.1".
func versionText(n uint64) string {
	if n == 0 {
		return ""
	}
	text := strconv.FormatUint(n>>48, 10) + "." + strconv.FormatUint(n>>32&0xffff, 10)
	for _, part := range [...]uint64{n >> 16 & 0xffff, n & 0xffff} {
		if part == 0 {
			break
		}
		text += "." + strconv.FormatUint(part, 10)
	}
	return text
}

// InFlight is how many commands wait on how many devices, each command once per device.
type InFlight struct {
	Queued, Delivered, NotNow int
	Background                int  // what the server asks by itself, whatever its state
	More                      bool // there are more than were counted
}

// mostInFlight bounds what is read to count commands in flight.
const mostInFlight = 2000

// waiting is what counting needs of an [Entry] in a queue, and nothing is ever written as
// one: reading the rest would take as long again.
type waiting struct {
	DeviceID DeviceID     `json:"device_id"`
	State    CommandState `json:"state"`
	Priority Priority     `json:"priority"`
}

var waitings = storage.NewCollection(queueBucket, 1, func(waiting) string { return "" })

// InFlight counts what waits in the queues of the devices of groups, or of all where groups
// is nil: the first two thousand of them.
func (s *Service) InFlight(ctx context.Context, groups []GroupID) (n InFlight, err error) {
	err = s.ViewScope(ctx, groups, func(tx storage.Tx, scope *Scope) error {
		n = InFlight{}
		read := 0
		for w, err := range waitings.All(tx, storage.Range{Limit: mostInFlight + 1}) {
			if err != nil {
				return err
			}
			if read++; read > mostInFlight {
				n.More = true
				break
			}
			if in, err := scope.Has(w.DeviceID); err != nil {
				return err
			} else if !in {
				continue
			}
			if w.Priority == Background {
				n.Background++
				continue
			}
			switch w.State {
			case Delivered:
				n.Delivered++
			case NotNow:
				n.NotNow++
			default:
				n.Queued++
			}
		}
		return nil
	})
	if err != nil {
		return InFlight{}, fmt.Errorf("count commands in flight: %w", err)
	}
	return n, nil
}

// DeadTokens counts devices that somebody waits for and that Apple knows by no token any more,
// of groups, or of all where groups is nil. It reads no more than most wake-ups.
func (s *Service) DeadTokens(ctx context.Context, groups []GroupID, most int) (n int, err error) {
	err = s.ViewScope(ctx, groups, func(tx storage.Tx, scope *Scope) error {
		n = 0
		for w, err := range wakeups.All(tx, storage.Range{Limit: most}) {
			if err != nil {
				return err
			}
			if w.State != WakeDead {
				continue
			}
			in, err := scope.Has(w.DeviceID)
			if err != nil {
				return err
			}
			if in {
				n++
			}
		}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("count dead push tokens: %w", err)
	}
	return n, nil
}

// Count adds up the kinds that fit.
func (f Figures) Count(fits func(Kind) bool) (n int) {
	for kind := range maps.Keys(f.Kinds) {
		if fits(kind) {
			n += f.Kinds[kind]
		}
	}
	return n
}
