package mdm

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/gatehouse-mdm/gatehouse/storage"
)

// maxAttributeReads bounds the devices whose attributes one query looks at: some seconds
// of work, when each has told all there is to tell.
const maxAttributeReads = 100_000

// maxSortKey bounds what texts are sorted by, in bytes, so that a cursor is short.
const maxSortKey = 128

// Found is a part of a list of enrollments.
type Found struct {
	Devices []Overview
	Next    string // cursor of the part that follows; empty at the end
	Total   int    // of the whole list, when its first part was asked for
}

// Search returns up to limit of the enrollments that q asks for, from where the part ended
// that handed out cursor; "" is the beginning. A device whose place in the order changes
// between two calls may be in both parts or in neither; others come and go and shift
// nothing. The error is a *QueryError, or wraps storage.ErrBadCursor when cursor is that
// of another query.
func (s *Service) Search(ctx context.Context, q Query, cursor string, limit int) (f Found, err error) {
	err = s.viewRows(ctx, func(tx storage.Tx) error {
		f = Found{}
		scan, err := s.newScan(tx, q)
		if err != nil {
			return err
		}
		if cursor != "" {
			if scan.after, f.Total, err = parseCursor(cursor, scan.bound); err != nil {
				return err
			}
		}
		scan.keep = limit + 1 // one more says whether a part follows
		if err := scan.run(tx); err != nil {
			return err
		}
		if cursor == "" {
			f.Total = scan.total
		}
		part := scan.sorted()
		if len(part) > limit {
			part = part[:limit]
			f.Next = formatCursor(scan.bound, part[limit-1], f.Total)
		}
		ids := make([]DeviceID, len(part))
		for i, c := range part {
			ids[i] = DeviceID(c.id)
		}
		f.Devices, err = s.overviews(tx, ids, false)
		return err
	})
	if err != nil {
		return Found{}, fmt.Errorf("search devices: %w", err)
	}
	return f, nil
}

// Select returns the ids of all enrollments that q asks for, in its order, as they were at
// one moment. The error is a *QueryError for a query that asks for too much.
func (s *Service) Select(ctx context.Context, q Query) (ids []DeviceID, err error) {
	err = s.viewRows(ctx, func(tx storage.Tx) error {
		scan, err := s.newScan(tx, q)
		if err != nil {
			return err
		}
		scan.keep = math.MaxInt
		if err := scan.run(tx); err != nil {
			return err
		}
		ids = make([]DeviceID, len(scan.kept))
		for i, c := range scan.sorted() {
			ids[i] = DeviceID(c.id)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("search devices: %w", err)
	}
	return ids, nil
}

// Overviews returns the enrollments of these ids in their order, with their attributes if
// those are wanted. What is not there is left out.
func (s *Service) Overviews(ctx context.Context, ids []DeviceID, withAttributes bool) (found []Overview, err error) {
	err = s.db.View(ctx, func(tx storage.Tx) error {
		found, err = s.overviews(tx, ids, withAttributes)
		return err
	})
	return found, err
}

func (s *Service) overviews(tx storage.Tx, ids []DeviceID, withAttributes bool) ([]Overview, error) {
	found := make([]Overview, 0, len(ids))
	for _, id := range ids {
		tx.Prefetch(append(s.readOverview(id), ReadDevice(id))...)
		if withAttributes {
			tx.Prefetch(ReadAttributes(id))
		}
	}
	for _, id := range ids {
		d, err := GetDevice(tx, id)
		if errors.Is(err, storage.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		o, err := s.overview(tx, d)
		if err != nil {
			return nil, err
		}
		if withAttributes {
			if o.Attributes, err = Attributes(tx, id); err != nil {
				return nil, err
			}
		}
		found = append(found, o)
	}
	return found, nil
}

// place is where a device stands in a sorted list.
type place struct {
	none   bool   // it has nothing to be sorted by, so it stands at the end
	number uint64 // sorted by first
	text   []byte // and then
	id     []byte
}

// clone returns p without the row that it points into, which is lent.
func (p place) clone() place {
	p.text, p.id = bytes.Clone(p.text), bytes.Clone(p.id)
	return p
}

// scan is one run through all rows.
type scan struct {
	Query
	bound [8]byte
	now   time.Time

	// The conditions, in the form in which rows have what they are about.
	masks    [rowOS]uint32 // bits of the bytes that may be in a place of a row; 0: any
	words    [][]byte
	models   []modelTest
	users    []string
	versions []versionTest
	seen     *timeline // nil: not asked about
	seenFrom int64
	seenTo   int64
	from, to int64     // of enrollment
	pending  *timeline // of those with commands to finish; nil: not asked about
	tests    []*attributeTest
	members  []*Scope // in all of which the devices must be
	read     int      // devices whose attributes were looked at

	after *place // the last one of the part before; nil: from the beginning
	keep  int    // how many to keep, of those after it
	kept  []place
	worst *place // once there were more than keep: what is behind it is not of this part
	total int
}

type modelTest struct {
	name   []byte
	prefix bool
}

type versionTest struct {
	op       AttributeOp
	from, to uint64 // Contains: from ≤ version < to; others: from
}

// newScan prepares a scan of what tx shows.
func (s *Service) newScan(tx storage.Tx, q Query) (*scan, error) {
	c := &scan{Query: q, now: s.now(), from: math.MinInt64, to: math.MaxInt64}
	var err error
	if c.bound, err = q.bind(); err != nil {
		return nil, err
	}
	if q.Sort != ByID && !slices.Contains(sorts, q.Sort) {
		return nil, &QueryError{Field: "sort", Reason: "must be one of " + oneOf(sorts)}
	}
	setMask(&c.masks[rowState], q.States, rowStates)
	setMask(&c.masks[rowType], q.Types, rowTypes)
	setMask(&c.masks[rowOwnership], q.Ownerships, rowOwnerships)
	setMask(&c.masks[rowPlatform], q.Platforms, rowPlatforms)
	switch q.Supervised {
	case "":
	case SupervisionUnsure:
		c.masks[rowSupervised] = 1
	default:
		setMask(&c.masks[rowSupervised], []bool{q.Supervised == Supervised}, rowFlags)
	}
	if q.Demo != nil {
		setMask(&c.masks[rowDemo], []bool{*q.Demo}, rowFlags)
	}
	for word := range strings.FieldsSeq(fold(q.Text)) {
		c.words = append(c.words, []byte(word))
	}
	for _, m := range q.Models {
		name, prefix := strings.CutSuffix(fold(m), "*")
		c.models = append(c.models, modelTest{[]byte(name), prefix})
	}
	for _, u := range q.Users {
		c.users = append(c.users, fold(u))
	}
	for _, v := range q.OSVersions {
		c.versions = append(c.versions, newVersionTest(v))
	}
	for _, a := range q.Attributes {
		c.tests = append(c.tests, newAttributeTest(a))
	}
	c.from, c.to = q.Enrolled.Since.unixNano(c.now, math.MinInt64), q.Enrolled.Before.unixNano(c.now, math.MaxInt64)
	c.seenFrom, c.seenTo = q.LastSeen.Since.unixNano(c.now, math.MinInt64), q.LastSeen.Before.unixNano(c.now, math.MaxInt64)
	if q.NeverSeen || q.LastSeen != (Span{}) || q.Sort == ByLastSeenAt {
		c.seen = s.seenTimeline(tx)
	}
	if q.Pending != nil {
		c.pending = pendingTimeline(tx)
	}
	for _, t := range []*timeline{c.seen, c.pending} {
		if t != nil {
			t.random = q.ParentID != "" // few are read, see rows
		}
	}
	if len(q.GroupIDs) > 0 {
		for _, id := range q.GroupIDs {
			if _, err := GetGroup(tx, id); errors.Is(err, storage.ErrNotFound) {
				return nil, &QueryError{Field: "group_id", Reason: "names no group"}
			}
		}
		if err := c.in(s, tx, q.GroupIDs); err != nil {
			return nil, err
		}
	}
	if q.Scope != nil {
		if err := c.in(s, tx, q.Scope); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// in adds the condition that devices are in one of groups.
func (c *scan) in(s *Service, tx storage.Tx, groups []GroupID) error {
	scope, err := s.Scope(tx, groups)
	c.members = append(c.members, scope)
	return err
}

// setMask allows the values among those that a byte of a row may stand for; none: any. A
// value that none of them is allows nothing.
func setMask[T comparable](mask *uint32, values, of []T) {
	if len(values) == 0 {
		return
	}
	*mask = 1 << 31
	for _, v := range values {
		if b := code(v, of); b > 0 {
			*mask |= 1 << b
		}
	}
}

func newVersionTest(v VersionCondition) versionTest {
	t := versionTest{op: v.Op, from: versionNumber(v.Version)}
	if parts := 1 + strings.Count(v.Version, "."); v.Op == Contains && parts <= 4 {
		t.to = t.from + 1<<(64-16*parts)
	}
	return t
}

func (t versionTest) holds(v uint64) bool {
	if t.op == Absent {
		return v == 0
	}
	if v == 0 {
		return false
	}
	switch t.op {
	case Equal:
		return v == t.from
	case NotEqual:
		return v != t.from
	case Less:
		return v < t.from
	case LessOrEqual:
		return v <= t.from
	case Greater:
		return v > t.from
	case GreaterOrEqual:
		return v >= t.from
	case Contains:
		return t.from <= v && (v < t.to || t.to == 0)
	}
	return false
}

// candidate is a device of which not all is known that is asked.
type candidate struct {
	place
	device DeviceID // itself, or whose user channel it is
	unsure []*Scope // that it may be in
}

// candidates is how many devices are looked at together where rows don't say all.
const candidates = 1000

// run looks at all rows, or at those that can matter.
func (c *scan) run(tx storage.Tx) error {
	var r storage.Range
	inOrder := c.Sort == ByID
	if inOrder && c.after != nil {
		r.Start = append(bytes.Clone(c.after.id), 0)
		for _, m := range c.members {
			m.begin(r.Start)
		}
	}
	slow := c.slow()
	var batch []candidate
	for item, err := range c.rows(tx, r) {
		if err != nil {
			return fmt.Errorf("rows of devices: %w", err)
		}
		row := row(item.Value)
		if !row.valid() {
			return fmt.Errorf("row of device %s: %w", item.Key, storage.ErrCorrupt)
		}
		if !c.matches(item.Key, row) {
			continue
		}
		unsure, ok := c.isMember(item.Key, row)
		if !ok {
			continue
		}
		p := c.place(item.Key, row)
		if !slow && len(unsure) == 0 && !(inOrder && len(batch) > 0) { // nobody overtakes who is waited for
			c.take(p)
		} else if c.after == nil || c.compare(&p, c.after) > 0 { // others were counted before
			device := DeviceID(cmp.Or(string(row.parent()), string(item.Key)))
			if batch = append(batch, candidate{p.clone(), device, unsure}); len(batch) == candidates {
				if err := c.takeSlow(tx, batch); err != nil {
					return err
				}
				batch = batch[:0]
			}
		}
		if inOrder && len(c.kept) >= c.keep && c.after != nil {
			break // the rest was counted before
		}
	}
	if err := c.takeSlow(tx, batch); err != nil {
		return err
	}
	for _, t := range []*timeline{c.seen, c.pending} {
		if t != nil && t.err != nil {
			return t.err
		}
	}
	for _, m := range c.members {
		if err := m.err(); err != nil {
			return err
		}
	}
	for _, t := range c.tests {
		if _, known := attributeKinds()[t.Name]; !known && !t.met && c.read > 0 && c.after == nil {
			return &QueryError{
				Field: "attribute", Unknown: t.Name, Known: slices.Collect(maps.Keys(attributeKinds())),
				Reason: fmt.Sprintf("names %q, which Apple does not document and none of these devices has told", t.Name),
			}
		}
	}
	return nil
}

// rows yields the rows in r, which are lent, or of them those of user channels where the
// query asks for a device's: then few are read.
func (c *scan) rows(tx storage.Tx, r storage.Range) iter.Seq2[storage.Item, error] {
	if c.ParentID == "" {
		r.Lent = true
		return tx.Scan(rowBucket, r)
	}
	after := ""
	if len(r.Start) > 0 {
		after = string(c.after.id)
	}
	return func(yield func(storage.Item, error) bool) {
		for d, err := range storage.LookupAfter(tx, devices, devicesByParent, string(c.ParentID), after) {
			item := storage.Item{Key: []byte(d.ID)}
			if err == nil {
				if item.Value, err = tx.Get(rowBucket, item.Key); errors.Is(err, storage.ErrNotFound) {
					continue // an older program has put it since rows were filled
				}
			}
			if !yield(item, err) || err != nil {
				return
			}
		}
	}
}

// takeSlow takes those for which holds what their rows don't say.
func (c *scan) takeSlow(tx storage.Tx, batch []candidate) error {
	if len(batch) == 0 {
		return nil
	}
	for _, p := range batch {
		for _, m := range p.unsure {
			tx.Prefetch(m.reads(p.device)...)
		}
		if len(c.tests) > 0 {
			tx.Prefetch(ReadAttributes(DeviceID(p.id)))
		}
		if c.AlsoReads != nil {
			tx.Prefetch(c.AlsoReads(DeviceID(p.id))...)
		}
	}
	for _, p := range batch {
		if in, err := p.isMember(); err != nil {
			return err
		} else if !in {
			continue
		}
		if len(c.tests) > 0 {
			if c.read++; c.read > maxAttributeReads {
				return &QueryError{Field: "attribute", Reason: fmt.Sprintf("is asked of more than %d devices at once: narrow the list by another condition as well", maxAttributeReads)}
			}
			if ok, err := attributesMeet(tx, DeviceID(p.id), c.tests); err != nil {
				return err
			} else if !ok {
				continue
			}
		}
		if c.Also != nil {
			if ok, err := c.Also(tx, DeviceID(p.id)); err != nil {
				return err
			} else if !ok {
				continue
			}
		}
		c.take(p.place)
	}
	return nil
}

// isMember says whether a device may be in all groups that it is asked to be in, and of which
// that is not certain.
func (c *scan) isMember(id []byte, r row) (unsure []*Scope, ok bool) {
	for _, m := range c.members {
		in, maybe := m.quick(id, r)
		if !in && !maybe {
			return nil, false
		}
		if maybe {
			unsure = append(unsure, m)
		}
	}
	return unsure, true
}

func (p candidate) isMember() (bool, error) {
	for _, m := range p.unsure {
		if in, err := m.hasDevice(p.device); !in || err != nil {
			return false, err
		}
	}
	return true, nil
}

// matches says whether all holds that can be said by a row and by the timelines.
func (c *scan) matches(id []byte, r row) bool {
	for at, mask := range c.masks {
		if mask != 0 && mask&(1<<r[at]) == 0 {
			return false
		}
	}
	if c.ParentID != "" && string(r.parent()) != string(c.ParentID) {
		return false
	}
	if c.Enrolled != (Span{}) {
		if at := r.enrolledAt(); at == 0 || at < c.from || at >= c.to {
			return false
		}
	}
	for _, t := range c.versions {
		if !t.holds(r.os()) {
			return false
		}
	}
	if c.Pending != nil && (c.pending.at(id) != 0) != *c.Pending {
		return false
	}
	if c.NeverSeen && c.seen.at(id) != 0 {
		return false
	}
	if c.LastSeen != (Span{}) {
		if at := c.seen.at(id); at == 0 || at < c.seenFrom || at >= c.seenTo {
			return false
		}
	}
	if len(c.models) > 0 && !c.isModel(r) {
		return false
	}
	if len(c.users) > 0 && !slices.Contains(c.users, string(r.text(textUser))) && !slices.Contains(c.users, string(r.text(textAccount))) {
		return false
	}
	if len(c.words) > 0 {
		texts := r.texts()
		for _, w := range c.words {
			if !bytes.Contains(texts, w) && !bytes.EqualFold(id, w) {
				return false
			}
		}
	}
	return true
}

func (c *scan) isModel(r row) bool {
	for _, n := range [...]int{textModel, textProduct, textModelName} {
		text := r.text(n)
		for _, m := range c.models {
			if m.prefix && len(text) > 0 && bytes.HasPrefix(text, m.name) || bytes.Equal(text, m.name) {
				return true
			}
		}
	}
	return false
}

// place returns where a row stands in the order that was asked for. It points into the row.
func (c *scan) place(id []byte, r row) (p place) {
	p.id = id
	text := -1
	switch c.Sort {
	case ByName:
		text = textName
	case BySerial:
		text = textSerial
	case ByModel:
		text = textModel
	case ByUser:
		text = textUser
	case ByOSVersion:
		p.number = r.os()
	case ByState:
		p.number = uint64(r[rowState])
	case ByEnrolledAt:
		p.number = uint64(r.enrolledAt())
	case ByLastSeenAt:
		p.number = uint64(c.seen.at(id))
	}
	if text >= 0 {
		p.text = r.text(text)
		p.text = p.text[:min(len(p.text), maxSortKey)]
	}
	p.none = c.Sort != ByID && p.number == 0 && len(p.text) == 0
	return p
}

// compare orders a list.
func (c *scan) compare(a, b *place) int {
	switch {
	case a.none != b.none && a.none:
		return 1
	case a.none != b.none:
		return -1
	}
	by := cmp.Compare(a.number, b.number)
	if by == 0 {
		by = bytes.Compare(a.text, b.text)
	}
	if c.Descending {
		by = -by
	}
	return cmp.Or(by, bytes.Compare(a.id, b.id))
}

// take counts p, and keeps it if it may be one of those that are wanted.
func (c *scan) take(p place) {
	c.total++
	if c.Sort == ByID && len(c.kept) >= c.keep {
		return // it comes in order
	}
	if c.after != nil && c.compare(&p, c.after) <= 0 || c.worst != nil && c.compare(&p, c.worst) >= 0 {
		return
	}
	c.kept = append(c.kept, p.clone())
	if len(c.kept) >= 2*c.keep && c.keep < math.MaxInt/2 {
		c.kept = c.sorted()[:c.keep]
		worst := c.kept[c.keep-1]
		c.worst = &worst
	}
}

func (c *scan) sorted() []place {
	slices.SortFunc(c.kept, func(a, b place) int { return c.compare(&a, &b) })
	return c.kept
}

// timeline is something that is known of some devices, to be read beside their rows, whose
// order it has. It is read piece by piece: all of it would be much memory for one list.
type timeline struct {
	tx     storage.Tx
	bucket string
	parse  func(storage.Item) (id []byte, at int64, err error)
	fresh  map[DeviceID]time.Time // what is newer than the bucket

	items []timelineItem
	next  int    // of items
	from  []byte // where the next piece begins
	end   bool   // there is none
	err   error

	random bool // ids come in no order, so that each is looked up
}

type timelineItem struct {
	id []byte
	at int64
}

const timelinePiece = 2000

// at returns what is known of a device, 0 for nothing. Ids must come in their order. After
// an error, which is in t.err, nothing is known.
func (t *timeline) at(id []byte) int64 {
	if len(t.fresh) > 0 {
		if at, ok := t.fresh[DeviceID(id)]; ok {
			return at.UnixNano()
		}
	}
	if t.random {
		t.from, t.items, t.next, t.end = bytes.Clone(id), t.items[:0], 0, false
	}
	for {
		for ; t.next < len(t.items); t.next++ {
			switch item := &t.items[t.next]; bytes.Compare(item.id, id) {
			case 0:
				return item.at
			case 1:
				return 0
			}
		}
		if t.end || t.err != nil || t.random && len(t.items) > 0 {
			return 0
		}
		t.read()
	}
}

func (t *timeline) read() {
	t.items, t.next, t.end = t.items[:0], 0, true
	piece := timelinePiece
	if t.random {
		piece = 1
	}
	for item, err := range t.tx.Scan(t.bucket, storage.Range{Start: t.from, Limit: piece}) {
		if err != nil {
			t.err = fmt.Errorf("%s: %w", t.bucket, err)
			return
		}
		id, at, err := t.parse(item)
		if err != nil {
			t.err = fmt.Errorf("%s: entry %q: %w", t.bucket, item.Key, err)
			return
		}
		t.items = append(t.items, timelineItem{id, at})
		if len(t.items) == piece {
			t.from, t.end = append(item.Key, 0), false
		}
	}
}

// seenTimeline is when devices were last seen, in Unix nanoseconds.
func (s *Service) seenTimeline(tx storage.Tx) *timeline {
	s.seen.mu.Lock()
	defer s.seen.mu.Unlock()
	return &timeline{tx: tx, bucket: seenBucket, fresh: maps.Clone(s.seen.fresh), parse: func(item storage.Item) ([]byte, int64, error) {
		if len(item.Value) != 8 {
			return nil, 0, storage.ErrCorrupt
		}
		return item.Key, int64(binary.BigEndian.Uint64(item.Value)), nil
	}}
}

// pendingTimeline is 1 for devices with something in their queue.
func pendingTimeline(tx storage.Tx) *timeline {
	return &timeline{tx: tx, bucket: queueBucket, parse: func(item storage.Item) ([]byte, int64, error) {
		id, _, ok := bytes.Cut(item.Key, []byte{0}) // the key is a storage.Key, and no id of ours has a zero byte
		if !ok {
			return nil, 0, storage.ErrCorrupt
		}
		return id, 1, nil
	}}
}

// A cursor is the query that it belongs to, the total, and the place of the last device of
// its part.
const cursorKind = 1

func formatCursor(bound [8]byte, last place, total int) string {
	b := append([]byte{cursorKind}, bound[:]...)
	b = binary.AppendUvarint(b, uint64(total))
	b = binary.BigEndian.AppendUint64(b, last.number)
	b = append(b, code(last.none, rowFlags), byte(len(last.text)))
	b = append(append(b, last.text...), last.id...)
	return base64.RawURLEncoding.EncodeToString(b)
}

func parseCursor(cursor string, bound [8]byte) (last *place, total int, err error) {
	b, err := base64.RawURLEncoding.Strict().DecodeString(cursor)
	rest, ok := bytes.CutPrefix(b, append([]byte{cursorKind}, bound[:]...))
	if err != nil || !ok {
		return nil, 0, storage.ErrBadCursor
	}
	n, size := binary.Uvarint(rest)
	if size <= 0 || n > math.MaxInt32 || len(rest) < size+10 {
		return nil, 0, storage.ErrBadCursor
	}
	rest = rest[size:]
	last = &place{number: binary.BigEndian.Uint64(rest), none: rest[8] == code(true, rowFlags)}
	text := int(rest[9])
	if rest = rest[10:]; text > maxSortKey || len(rest) <= text || len(rest) > text+storage.MaxKey {
		return nil, 0, storage.ErrBadCursor
	}
	last.text, last.id = rest[:text], rest[text:]
	return last, int(n), nil
}
