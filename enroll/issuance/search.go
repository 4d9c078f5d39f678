package issuance

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

// Filter says which assignments are wanted: those that meet all of it. The zero Filter
// is all of them.
type Filter struct {
	Template string
	DeviceID mdm.DeviceID
	State    State
	Stuck    *bool // nil: whether or not
}

func (f Filter) matches(a Assignment, now time.Time) bool {
	return (f.Template == "" || a.Template == f.Template) &&
		(f.DeviceID == "" || a.DeviceID == f.DeviceID) &&
		(f.State == "" || a.State == f.State) &&
		(f.Stuck == nil || a.Stuck(now) == *f.Stuck)
}

// maxLooked is how many assignments are looked at for one page. Where few match, pages
// come out short, or even empty, before the end.
const maxLooked = 10_000

// Search returns up to limit assignments, by template and then by device, and the
// cursor of the next page, which is "" at the end. A page may hold fewer, even none,
// without being the last. The error wraps [storage.ErrBadCursor] when cursor is no
// page's.
func (s *Service) Search(tx storage.Tx, f Filter, cursor string, limit int) (list []Assignment, next string, err error) {
	after, err := base64.RawURLEncoding.Strict().DecodeString(cursor)
	if err != nil || len(after) > storage.MaxKey {
		return nil, "", fmt.Errorf("search assignments: %w", storage.ErrBadCursor)
	}
	now := s.now()
	looked, last := 0, ""
	for a, err := range f.scan(tx, after) {
		if err != nil {
			return nil, "", fmt.Errorf("search assignments: %w", err)
		}
		if len(list) == limit || looked == maxLooked {
			return list, base64.RawURLEncoding.EncodeToString([]byte(last)), nil
		}
		looked, last = looked+1, assignmentKey(a.Template, a.DeviceID)
		if f.matches(a, now) {
			list = append(list, a)
		}
	}
	return list, "", nil
}

// scan yields the assignments after a key that f may want: those of its device, of which
// there are few, those of its template, or all.
func (f Filter) scan(tx storage.Tx, after []byte) iter.Seq2[Assignment, error] {
	if f.DeviceID == "" {
		r := storage.Range{Limit: maxLooked + 1} // one more says whether a page follows
		if f.Template != "" {
			r.Prefix = storage.KeyPrefix(f.Template)
		}
		if len(after) > 0 {
			r.Start = append(after, 0)
		}
		return assignments.All(tx, r)
	}
	return func(yield func(Assignment, error) bool) {
		for a, err := range assignments.Lookup(tx, assignmentsByDevice, string(f.DeviceID)) {
			if err == nil && assignmentKey(a.Template, a.DeviceID) <= string(after) {
				continue
			}
			if !yield(a, err) || err != nil {
				return
			}
		}
	}
}

// Counts is how many assignments there are.
type Counts struct {
	ByState map[State]int
	Stuck   int
}

// Count counts all assignments.
func (s *Service) Count(tx storage.Tx) (Counts, error) {
	n := Counts{ByState: map[State]int{}}
	now := s.now()
	for a, err := range assignments.All(tx, storage.Range{}) {
		if err != nil {
			return Counts{}, fmt.Errorf("count assignments: %w", err)
		}
		n.ByState[a.State]++
		if a.Stuck(now) {
			n.Stuck++
		}
	}
	return n, nil
}

// ErrInUse means that there are devices which a template keeps supplied.
var ErrInUse = errors.New("the template is assigned to devices")

// DeleteTemplate deletes a template. Where it is assigned to devices that is an
// ErrInUse, unless force is set: then the assignments end, which leaves the devices the
// certificates that they have. It wraps storage.ErrNotFound if there is no such template.
func (s *Service) DeleteTemplate(ctx context.Context, by, name string, force bool) error {
	return s.templates.Delete(ctx, by, name, func(tx storage.Tx) error {
		live := func(yield func(Assignment, error) bool) {
			for a, err := range assignments.All(tx, storage.Range{Prefix: storage.KeyPrefix(name)}) {
				if err == nil && a.State == Ended {
					continue
				}
				if !yield(a, err) || err != nil {
					return
				}
			}
		}
		if force {
			return s.end(tx, live, "the template was deleted")
		}
		for _, err := range live {
			if err == nil {
				err = ErrInUse
			}
			return err
		}
		return nil
	})
}
