package event

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/gatehouse-mdm/gatehouse/storage"
)

// Filter says which events are wanted: those that meet all of it. The zero Filter is
// all events.
type Filter struct {
	Action      string // what the action begins with: "certificate.", "user.disabled"
	Outcome     Outcome
	DeviceID    string
	User        string // in any case
	Certificate string // serial number, hexadecimal
	Actor       string // in any case: "user:ana@example.com", or what it begins with up to the colon, "token:"
	Text        string // words, in any case, each of which is somewhere in the event
	Since       time.Time
	Until       time.Time // exclusive
}

const (
	defaultPage = 100

	// maxLooked is how many events are looked at for one page. Where few match, pages
	// come out short, or even empty, before the end.
	maxLooked = 10_000
)

// Page returns up to limit events (100 if limit is not positive), newest first, and the
// cursor of the next page, which is "" at the end. A page may hold fewer events, even
// none, without being the last. The error wraps [storage.ErrBadCursor] when cursor is no
// page's.
func Page(tx storage.Tx, f Filter, cursor string, limit int) (list []Event, next string, err error) {
	kept, next, err := page(tx, f, cursor, limit)
	for _, e := range kept {
		list = append(list, e.Event)
	}
	return list, next, err
}

// PlacedPage is [Page] of events in their places. One that was recorded a moment ago may
// have none yet: its Seq is 0.
func PlacedPage(tx storage.Tx, f Filter, cursor string, limit int) (list []Sequenced, next string, err error) {
	kept, next, err := page(tx, f, cursor, limit)
	if err != nil {
		return nil, "", err
	}
	for _, e := range kept {
		if e.Seq != 0 {
			tx.Prefetch(storage.Read{Bucket: chainBucket, Key: seqKey(e.Seq)})
		}
	}
	for _, e := range kept {
		placed, err := e.placed(tx)
		if err != nil {
			return nil, "", fmt.Errorf("list events: %w", err)
		}
		list = append(list, placed)
	}
	return list, next, nil
}

func page(tx storage.Tx, f Filter, cursor string, limit int) (list []kept, next string, err error) {
	if limit <= 0 {
		limit = defaultPage
	}
	f.Certificate = strings.ToLower(f.Certificate)
	f.User = normalUser(f.User)
	f.Actor = normalUser(f.Actor)
	f.Text = strings.ToLower(f.Text)
	end := ""
	if !f.Until.IsZero() {
		end = firstID(f.Until)
	}
	if cursor != "" {
		if raw, err := idEncoding.DecodeString(cursor); err != nil || len(raw) != idBytes {
			return nil, "", fmt.Errorf("list events: %w", storage.ErrBadCursor)
		}
		if end == "" || cursor < end {
			end = cursor
		}
	}
	start := ""
	if !f.Since.IsZero() {
		start = firstID(f.Since)
	}
	looked, last := 0, ""
	for e, err := range f.scan(tx, start, end, limit+1) { // one more says whether a page follows
		if err != nil {
			return nil, "", fmt.Errorf("list events: %w", err)
		}
		if len(list) == limit || looked == maxLooked {
			return list, last, nil
		}
		looked, last = looked+1, e.ID
		if f.matches(e.Event) {
			list = append(list, e)
		}
	}
	return list, "", nil
}

// Page is the function of that name in a transaction of its own.
func (r *Recorder) Page(ctx context.Context, f Filter, cursor string, limit int) (list []Event, next string, err error) {
	err = r.db.View(ctx, func(tx storage.Tx) (err error) {
		list, next, err = Page(tx, f, cursor, limit)
		return err
	})
	return list, next, err
}

func (f Filter) matches(e Event) bool {
	return strings.HasPrefix(e.Action, f.Action) &&
		(f.Outcome == "" || e.Outcome == f.Outcome) &&
		(f.DeviceID == "" || e.DeviceID == f.DeviceID) &&
		(f.User == "" || normalUser(e.User) == f.User) &&
		(f.Certificate == "" || e.Certificate == f.Certificate) &&
		(f.Actor == "" || strings.HasSuffix(f.Actor, ":") && strings.HasPrefix(normalUser(e.Actor), f.Actor) || normalUser(e.Actor) == f.Actor) &&
		(f.Text == "" || e.says(strings.Fields(f.Text)))
}

// says reports whether each of words, in lower case, is somewhere in e.
func (e Event) says(words []string) bool {
	texts := []string{e.Actor, e.Action, e.Reason, e.DeviceID, e.User, e.Certificate, e.Template, e.Peer}
	for _, key := range slices.Sorted(maps.Keys(e.Details)) {
		texts = append(texts, e.Details[key])
	}
	for _, c := range e.Changes {
		texts = append(texts, c.Field, c.Before, c.After)
	}
	all := strings.ToLower(strings.Join(texts, "\n"))
	return !slices.ContainsFunc(words, func(word string) bool { return !strings.Contains(all, word) })
}

// kind returns the entries that f has to go through: the fewest, as far as one can tell.
func (f Filter) kind() (kind, value string, ok bool) {
	area, _, isWhole := strings.Cut(f.Action, ".")
	switch {
	case f.Certificate != "":
		return byCertificate, f.Certificate, true
	case f.DeviceID != "":
		return byDevice, f.DeviceID, true
	case f.User != "":
		return byUser, f.User, true
	case f.Outcome == Refused || f.Outcome == Failed:
		return byTrouble, "", true
	case isWhole:
		return byArea, area, true
	}
	return "", "", false
}

// scan yields the events whose IDs are from start until before end, "" for open, and
// that f may want, newest first. likely is how many will do, probably.
func (f Filter) scan(tx storage.Tx, start, end string, likely int) iter.Seq2[kept, error] {
	kind, value, ok := f.kind()
	if !ok {
		return log.All(tx, storage.Range{Start: []byte(start), End: []byte(end), Reverse: true})
	}
	return scanEntries(tx, kind, value, start, end, storage.Range{Reverse: true}, likely)
}

// scanEntries yields the events of one kind and value whose IDs are from start until
// before end, as r has it otherwise.
func scanEntries(tx storage.Tx, kind, value, start, end string, r storage.Range, likely int) iter.Seq2[kept, error] {
	r.Prefix = storage.KeyPrefix(kind, value)
	if start != "" {
		r.Start = entry(kind, value, start)
	}
	if end != "" {
		r.End = entry(kind, value, end)
	}
	return func(yield func(kept, error) bool) {
		ahead := r
		if ahead.Limit == 0 || ahead.Limit > likely {
			ahead.Limit = likely
		}
		tx.Prefetch(storage.Read{Bucket: byBucket, Range: ahead, Then: func(item storage.Item) []storage.Read {
			return []storage.Read{log.Read(idOf(item))}
		}})
		for item, err := range tx.Scan(byBucket, r) {
			var e kept
			if err == nil {
				e, err = log.Get(tx, idOf(item))
			}
			if errors.Is(err, storage.ErrNotFound) { // it is lost, which [VerifyStored] says: the others are not
				continue
			}
			if !yield(e, err) || err != nil {
				return
			}
		}
	}
}

// idOf returns the ID at the end of an entry.
func idOf(item storage.Item) string {
	return string(item.Key[max(0, len(item.Key)-idLength):])
}
