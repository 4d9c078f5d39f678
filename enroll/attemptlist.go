package enroll

import (
	"cmp"
	"context"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/gatehouse-mdm/gatehouse/storage"
)

// Stages returns the stages of an attempt that comes to something, in their order.
func Stages() []Stage {
	return []Stage{Opened, Authenticated, ProfileDownloaded, IdentityIssued, CheckedIn, Enrolled}
}

// AttemptFilter says which attempts are wanted: those for which all that it says holds.
type AttemptFilter struct {
	LinkID string
	User   string // in any case
	Stage  Stage
	Open   bool      // may still become an enrollment
	Since  time.Time // begun then or later
}

func (f AttemptFilter) holds(a Attempt) bool {
	return (f.LinkID == "" || a.LinkID == f.LinkID) &&
		(f.User == "" || strings.EqualFold(a.User, f.User)) &&
		(f.Stage == "" || a.Stage == f.Stage) &&
		(!f.Open || a.Stage != Enrolled && a.Stage != AttemptFailed)
}

// whole says that every attempt holds, but for when it was begun.
func (f AttemptFilter) whole() bool { return f == AttemptFilter{Since: f.Since} }

// begun is an attempt's place among all in the order of time.
func (a Attempt) begun() string { return a.StageAt[Opened].UTC().Format(time.RFC3339) + a.ID }

// maxLooked is how many attempts are looked at for one page of a list.
const maxLooked = 1000

// FindAttempts returns a page of attempts, the newest first; next is empty at the end. A
// page may have fewer than limit, even none, and yet not be the last. Its error wraps
// storage.ErrBadCursor.
func FindAttempts(tx storage.Tx, f AttemptFilter, cursor string, limit int) (page []Attempt, next string, err error) {
	before, err := base64.RawURLEncoding.DecodeString(cursor)
	if err != nil || cursor != "" && len(before) <= len(time.RFC3339) {
		return nil, "", fmt.Errorf("list enrollment attempts: %w", storage.ErrBadCursor)
	}
	if f.LinkID != "" {
		return attemptsOfLink(tx, f, string(before), limit)
	}
	looking := limit + 1
	if !f.whole() {
		looking = maxLooked
	}
	since := ""
	if !f.Since.IsZero() {
		since = f.Since.UTC().Format(time.RFC3339)
	}
	last, looked := "", 0
	for a, err := range storage.Descend(tx, attempts, attemptsByTime, string(before), looking) {
		switch {
		case err != nil:
			return nil, "", fmt.Errorf("list enrollment attempts: %w", err)
		case a.begun() < since:
			return page, "", nil
		case len(page) == limit:
			return page, cursorAt(last), nil
		}
		last = a.begun()
		looked++
		if f.holds(a) {
			page = append(page, a)
		}
	}
	if looked == looking {
		next = cursorAt(last)
	}
	return page, next, nil
}

func cursorAt(begun string) string { return base64.RawURLEncoding.EncodeToString([]byte(begun)) }

// Attempts is [FindAttempts] of all attempts, in a transaction of its own.
func (s *Service) Attempts(ctx context.Context, cursor string, limit int) (page []Attempt, next string, err error) {
	err = s.db.View(ctx, func(tx storage.Tx) error {
		page, next, err = FindAttempts(tx, AttemptFilter{}, cursor, limit)
		return err
	})
	return page, next, err
}

// attemptsOfLink is FindAttempts by what belongs to one link, of whose attempts in each
// stage it looks at some.
func attemptsOfLink(tx storage.Tx, f AttemptFilter, before string, limit int) (page []Attempt, next string, err error) {
	since := ""
	if !f.Since.IsZero() {
		since = f.Since.UTC().Format(time.RFC3339)
	}
	for _, stage := range append(Stages(), AttemptFailed) {
		looked := 0
		for a, err := range attempts.Lookup(tx, attemptsByUse, useKey(f.LinkID, stage)) {
			if err != nil {
				return nil, "", fmt.Errorf("list enrollment attempts: %w", err)
			}
			if looked++; looked > maxLooked {
				break
			}
			if f.holds(a) && a.begun() >= since && (before == "" || a.begun() < before) {
				page = append(page, a)
			}
		}
	}
	slices.SortFunc(page, func(a, b Attempt) int { return cmp.Compare(b.begun(), a.begun()) })
	if len(page) > limit {
		page = page[:limit]
		next = cursorAt(page[limit-1].begun())
	}
	return page, next, nil
}

// Funnel says how far attempts came.
type Funnel struct {
	Since  time.Time
	Counts []FunnelStage // in the order of Stages
	More   bool          // there were more attempts than were counted: the newest were
}

// FunnelStage is what became of attempts at a stage.
type FunnelStage struct {
	Stage   Stage
	Reached int // came so far, or farther
	Waiting int // are there now
	Failed  int // came no farther
	// LastError is the latest of those that failed here or were refused something; nil: none.
	LastError *Attempt
}

// maxCounted is how many attempts a Funnel counts.
const maxCounted = 2000

// CountAttempts counts the attempts begun since then for which keep holds.
func CountAttempts(tx storage.Tx, since time.Time, keep func(Attempt) (bool, error)) (Funnel, error) {
	stages := Stages()
	out := Funnel{Since: since, Counts: make([]FunnelStage, len(stages))}
	for i, stage := range stages {
		out.Counts[i].Stage = stage
	}
	first := since.UTC().Format(time.RFC3339)
	looked := 0
	for a, err := range storage.Descend(tx, attempts, attemptsByTime, "", maxCounted+1) {
		if err != nil {
			return Funnel{}, fmt.Errorf("count enrollment attempts: %w", err)
		}
		if a.begun() < first {
			break
		}
		if looked++; looked > maxCounted {
			out.More = true
			break
		}
		kept, err := keep(a)
		if err != nil {
			return Funnel{}, err
		}
		if kept {
			out.count(stages, a)
		}
	}
	return out, nil
}

func (f *Funnel) count(stages []Stage, a Attempt) {
	came := a.Came()
	for i, stage := range stages {
		c := &f.Counts[i]
		c.Reached++
		if stage != came {
			continue
		}
		switch a.Stage {
		case Enrolled:
		case AttemptFailed:
			c.Failed++
		default:
			c.Waiting++
		}
		if a.ErrorCode != "" && a.Stage != Enrolled && (c.LastError == nil || c.LastError.last().Before(a.last())) {
			c.LastError = &a
		}
		return
	}
}

// Came is the farthest stage that an attempt came to before it failed, if it did.
func (a Attempt) Came() Stage {
	came := Opened
	for _, stage := range Stages() {
		if !a.StageAt[stage].IsZero() {
			came = stage
		}
	}
	return came
}

// last is when something became of an attempt last.
func (a Attempt) last() (at time.Time) {
	for _, t := range a.StageAt {
		if t.After(at) {
			at = t
		}
	}
	return at
}
