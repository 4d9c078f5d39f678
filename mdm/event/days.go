package event

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/gatehouse-mdm/gatehouse/storage"
)

// Day is what happened on one day, in numbers: they last when the events are forgotten, and
// nobody has to read those to draw a picture.
type Day struct {
	Date   string         `json:"date"` // 2006-01-02, in UTC
	Counts map[string]int `json:"counts"`
}

// What is counted of a day. Commands that the server asks by itself leave no events, and
// neither they nor user channels count.
const (
	CountEnrolled     = "device.enrolled"
	CountUnenrolled   = "device.unenrolled"
	CountAcknowledged = "command.acknowledged"
	CountFailed       = "command.error"
	CountExpired      = "command.expired"
	CountCancelled    = "command.cancelled"
)

var days = storage.NewCollection("event.days", 1, func(d Day) string { return d.Date })

// daysKept is for how long days are kept: those that pictures show, and a year to compare.
const daysKept = 2 * 366

// countedAs is what e counts as; empty: nothing.
func countedAs(e Event) string {
	switch e.Action {
	case CountEnrolled, CountUnenrolled:
		if e.Outcome == OK && e.Details["parent"] == "" {
			return e.Action
		}
	case "command.finished":
		switch as := "command." + e.Details["state"]; as {
		case CountAcknowledged, CountFailed, CountExpired, CountCancelled:
			return as
		}
	}
	return ""
}

// countedMark is the newest event that is in the days. Each is counted in the transaction in
// which the mark passes it, so once, however many processes count.
const countedMark = "counted"

// countNext counts events that got their places in this transaction, if those before them
// are counted; else [catchUp] does, which this one meets in the mark.
func countNext(tx storage.Tx, before, after uint64, batch []kept) error {
	counted, err := getMark(tx, countedMark)
	if err != nil || counted.Seq != before || before == after {
		return err
	}
	events := make([]Event, len(batch))
	for i, e := range batch {
		events[i] = e.Event
	}
	if err := countDays(tx, events); err != nil {
		return err
	}
	counted.Seq = after
	return marks.Put(tx, counted)
}

// catchUp counts what got its place before this program was here, or from an older one.
func catchUp(ctx context.Context, db storage.DB) error {
	for {
		behind := false
		err := db.View(ctx, func(tx storage.Tx) error {
			head, err := getMark(tx, headMark)
			if err != nil {
				return err
			}
			counted, err := getMark(tx, countedMark)
			behind = counted.Seq < head.Seq
			return err
		})
		if err != nil || !behind {
			return wrap("count events by day", err)
		}
		if err := db.Update(ctx, countOn); err != nil {
			return wrap("count events by day", err)
		}
	}
}

// countOn counts the events that follow what is counted.
func countOn(tx storage.Tx) error {
	head, err := getMark(tx, headMark)
	if err != nil {
		return err
	}
	counted, err := getMark(tx, countedMark)
	if err != nil || counted.Seq >= head.Seq {
		return err
	}
	list, err := Feed(tx, counted.Seq, sequenceBatch)
	if err != nil {
		return err
	}
	if counted.Seq = head.Seq; len(list) == sequenceBatch {
		counted.Seq = list[len(list)-1].Seq
	}
	events := make([]Event, len(list))
	for i, s := range list {
		events[i] = s.Event
	}
	if err := countDays(tx, events); err != nil {
		return err
	}
	return marks.Put(tx, counted)
}

// countDays adds events to their days. A day that begins is when old ones are forgotten.
func countDays(tx storage.Tx, events []Event) error {
	more := make(map[string]map[string]int)
	newest := ""
	for _, e := range events {
		as := countedAs(e)
		if as == "" {
			continue
		}
		date := e.At.UTC().Format(time.DateOnly)
		if more[date] == nil {
			more[date] = make(map[string]int)
			newest = max(newest, date)
		}
		more[date][as]++
	}
	for date, counts := range more {
		d, err := days.Get(tx, date)
		if errors.Is(err, storage.ErrNotFound) {
			d, err = Day{Date: date}, nil
			if date == newest {
				err = forgetDays(tx, date)
			}
		}
		if err != nil {
			return err
		}
		if d.Counts == nil {
			d.Counts = make(map[string]int)
		}
		for as, n := range counts {
			d.Counts[as] += n
		}
		if err := days.Put(tx, d); err != nil {
			return err
		}
	}
	return nil
}

// forgetDays removes the days that are too old once there is a newer one.
func forgetDays(tx storage.Tx, date string) error {
	at, err := time.Parse(time.DateOnly, date)
	if err != nil {
		return err
	}
	oldest := at.AddDate(0, 0, -daysKept).Format(time.DateOnly)
	for d, err := range days.All(tx, storage.Range{End: []byte(oldest), Limit: 100}) {
		if err != nil {
			return err
		}
		if err := days.Delete(tx, d.Date); err != nil {
			return err
		}
	}
	return nil
}

// Days returns the days from one to another, both included, in their order: all of them,
// with no counts where nothing happened. Events are in it a moment after they are in the log.
func Days(tx storage.Tx, from, to time.Time) ([]Day, error) {
	from, to = from.UTC().Truncate(24*time.Hour), to.UTC().Truncate(24*time.Hour)
	have := make(map[string]Day)
	r := storage.Range{Start: []byte(from.Format(time.DateOnly)), End: []byte(to.AddDate(0, 0, 1).Format(time.DateOnly))}
	for d, err := range days.All(tx, r) {
		if err != nil {
			return nil, fmt.Errorf("days: %w", err)
		}
		have[d.Date] = d
	}
	var all []Day
	for at := from; !at.After(to); at = at.AddDate(0, 0, 1) {
		date := at.Format(time.DateOnly)
		all = append(all, Day{Date: date, Counts: have[date].Counts})
	}
	return all, nil
}
