package mdm

import (
	"context"
	"errors"
	"fmt"

	"github.com/gatehouse-mdm/gatehouse/storage"
)

// Within says whether an enrollment is in one of groups, or is a user channel of a device
// that is. Nil is no limit: everything is within it. A group that is not there, and an
// enrollment that is not, are within nothing. This decides, for every API, what somebody may
// see and do whose rights are limited to groups; [Query.Scope] is the same for lists.
//
// It takes for granted that there are rows of all devices: see [Service.ViewScope], which sees to it.
func (s *Service) Within(tx storage.Tx, groups []GroupID, id DeviceID) (bool, error) {
	scope, err := s.Scope(tx, groups)
	if err != nil {
		return false, err
	}
	return scope.Has(id)
}

// Scope is the enrollments of some groups, as one transaction sees them.
type Scope struct {
	tx     storage.Tx
	all    bool       // no limit
	static []*members // to be asked in the order of ids
	rules  []ruleGroup
	known  map[DeviceID]bool // what Has has found out
	learnt bool              // all that learnAll can find out is in it
	read   int               // devices whose attributes were looked at
}

type ruleGroup struct {
	ordered *scan // to be asked in the order of ids
	single  *scan // in any
}

// Scope returns the enrollments of groups, or all of them where groups is nil. It is good
// for as long as tx is.
func (s *Service) Scope(tx storage.Tx, only []GroupID) (*Scope, error) {
	c := &Scope{tx: tx, all: only == nil, known: make(map[DeviceID]bool)}
	for _, id := range only {
		tx.Prefetch(groups.Read(string(id)))
	}
	for _, id := range only {
		g, err := groups.Get(tx, string(id))
		if errors.Is(err, storage.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("group %s: %w", id, err)
		}
		if err := c.add(s, g); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// ViewScope is a View of what is in groups, or of everything where groups is nil.
func (s *Service) ViewScope(ctx context.Context, groups []GroupID, fn func(tx storage.Tx, scope *Scope) error) error {
	view := s.viewRows
	if groups == nil {
		view = s.db.View
	}
	return view(ctx, func(tx storage.Tx) error {
		scope, err := s.Scope(tx, groups)
		if err != nil {
			return err
		}
		return fn(tx, scope)
	})
}

// All says that there is no limit.
func (c *Scope) All() bool { return c.all }

func (c *Scope) add(s *Service, g Group) error {
	if g.Rule == "" {
		c.static = append(c.static, &members{tx: c.tx, group: g.ID})
		return nil
	}
	rule, err := s.ruleGroup(c.tx, g)
	if err != nil {
		return err
	}
	c.rules = append(c.rules, rule)
	return nil
}

func (s *Service) ruleGroup(tx storage.Tx, g Group) (r ruleGroup, err error) {
	q, err := s.readRule(tx, g.Rule)
	if err != nil {
		return ruleGroup{}, fmt.Errorf("rule of group %s: %w", g.ID, err)
	}
	for _, to := range []**scan{&r.ordered, &r.single} {
		if *to, err = s.newScan(tx, q); err != nil {
			return ruleGroup{}, fmt.Errorf("rule of group %s: %w", g.ID, err)
		}
	}
	for _, t := range []*timeline{r.single.seen, r.single.pending} {
		if t != nil {
			t.random = true
		}
	}
	return r, nil
}

// readRule returns what a rule asks for.
func (s *Service) readRule(tx storage.Tx, rule string) (Query, error) {
	if s.rules == nil {
		return Query{}, &QueryError{Field: "rule", Reason: "can’t be read here"}
	}
	q, err := s.rules(tx, rule)
	if err != nil {
		return Query{}, err
	}
	switch {
	case len(q.GroupIDs) > 0 || q.Scope != nil:
		return Query{}, &QueryError{Field: "group_id", Reason: "can’t be in a rule: groups hold no groups"}
	case q.ParentID != "":
		return Query{}, &QueryError{Field: "parent_id", Reason: "can’t be in a rule: user channels are in the groups of their device"}
	}
	for _, t := range q.Types {
		if t == TypeUserChannel {
			return Query{}, &QueryError{Field: "enrollment_type", Reason: "can’t be user_channel in a rule: user channels are in the groups of their device"}
		}
	}
	q.Sort, q.Descending = ByID, false
	return q, nil
}

// slow says whether a rule asks for more than rows say.
func (c *scan) slow() bool { return len(c.tests) > 0 || c.Also != nil }

// quick says whether an enrollment is in scope, as far as its row can tell: unsure if not.
// Ids must come in their order.
func (c *Scope) quick(id []byte, r row) (in, unsure bool) {
	if c.all {
		return true, false
	}
	if len(r.parent()) > 0 {
		return false, len(c.static)+len(c.rules) > 0
	}
	for _, g := range c.static {
		if g.has(id) {
			return true, false
		}
	}
	for _, g := range c.rules {
		if !g.ordered.matches(id, r) {
			continue
		}
		if !g.ordered.slow() {
			return true, false
		}
		unsure = true
	}
	return false, unsure
}

// reads is what Has reads of an enrollment whose device, itself if it is one, has a row.
func (c *Scope) reads(id DeviceID) (reads []storage.Read) {
	for _, g := range c.static {
		reads = append(reads, storage.Read{Bucket: memberBucket, Key: blockKey(g.group, id)})
	}
	if len(c.rules) > 0 {
		reads = append(reads, readRow(id))
	}
	for _, g := range c.rules {
		if len(g.single.tests) > 0 {
			reads = append(reads, ReadAttributes(id))
		}
		if g.single.AlsoReads != nil {
			reads = append(reads, g.single.AlsoReads(id)...)
		}
	}
	return reads
}

// Has says whether an enrollment is in scope.
func (c *Scope) Has(id DeviceID) (bool, error) {
	if c.all {
		return true, nil
	}
	if in, ok := c.known[id]; ok {
		return in, nil
	}
	b, err := c.tx.Get(rowBucket, []byte(id))
	if errors.Is(err, storage.ErrNotFound) {
		return false, nil
	}
	r := row(b)
	if err == nil && !r.valid() {
		err = storage.ErrCorrupt
	}
	if err != nil {
		return false, fmt.Errorf("row of device %s: %w", id, err)
	}
	device := id
	if parent := r.parent(); len(parent) > 0 {
		device = DeviceID(parent)
	}
	in, err := c.hasDevice(device)
	if err == nil {
		c.known[id] = in
	}
	return in, err
}

func (c *Scope) hasDevice(id DeviceID) (bool, error) {
	if c.all {
		return true, nil
	}
	if in, ok := c.known[id]; ok {
		return in, nil
	}
	for _, g := range c.static {
		in, err := isMember(c.tx, g.group, id)
		if err != nil {
			return false, err
		}
		if in {
			c.known[id] = true
			return true, nil
		}
	}
	for _, g := range c.rules {
		in, err := g.single.holds(c.tx, id)
		if err != nil {
			return false, err
		}
		if in {
			c.known[id] = true
			return true, nil
		}
		if len(g.single.tests) > 0 {
			if c.read++; c.read > maxAttributeReads {
				return false, &QueryError{Field: "group_id", Reason: fmt.Sprintf("names a group whose rule asks for an attribute of more than %d devices", maxAttributeReads)}
			}
		}
	}
	c.known[id] = false
	return false, nil
}

// holds says whether a device is one that c asks for.
func (c *scan) holds(tx storage.Tx, id DeviceID) (bool, error) {
	b, err := tx.Get(rowBucket, []byte(id))
	if errors.Is(err, storage.ErrNotFound) {
		return false, nil
	}
	r := row(b)
	if err == nil && !r.valid() {
		err = storage.ErrCorrupt
	}
	if err != nil {
		return false, fmt.Errorf("row of device %s: %w", id, err)
	}
	in := c.matches([]byte(id), r)
	for _, t := range []*timeline{c.seen, c.pending} {
		if t != nil && t.err != nil {
			return false, t.err
		}
	}
	if !in {
		return false, nil
	}
	if len(c.tests) > 0 {
		if in, err := attributesMeet(tx, id, c.tests); !in || err != nil {
			return false, err
		}
	}
	if c.Also != nil {
		return c.Also(tx, id)
	}
	return true, nil
}

// err is what went wrong while quick was asked.
func (c *Scope) err() error {
	for _, g := range c.static {
		if g.err != nil {
			return g.err
		}
	}
	for _, g := range c.rules {
		for _, t := range []*timeline{g.ordered.seen, g.ordered.pending} {
			if t != nil && t.err != nil {
				return t.err
			}
		}
	}
	return nil
}

// begin says that the first id that quick is asked about is not before start.
func (c *Scope) begin(start []byte) {
	for _, g := range c.static {
		g.from = blockKey(g.group, DeviceID(start))
	}
}

// manyIDs is from how many on it is quicker to look at all devices in their order.
const manyIDs = 1000

// Narrow returns those of ids that are in scope, in their order.
func (c *Scope) Narrow(ids []DeviceID) (in []DeviceID, err error) {
	if c.all {
		return ids, nil
	}
	if len(ids) >= manyIDs {
		if err := c.learnAll(); err != nil {
			return nil, err
		}
	} else {
		for _, id := range ids {
			c.tx.Prefetch(append(c.reads(id), readRow(id))...)
		}
	}
	for _, id := range ids {
		is, err := c.Has(id)
		if err != nil {
			return nil, err
		}
		if is {
			in = append(in, id)
		}
	}
	return in, nil
}

// learnAll finds out about all devices at once what their rows and the members of groups can
// tell. User channels are left to Has, which knows their devices then.
func (c *Scope) learnAll() error {
	if c.learnt {
		return nil
	}
	for item, err := range c.tx.Scan(rowBucket, storage.Range{Lent: true}) {
		if err != nil {
			return fmt.Errorf("rows of devices: %w", err)
		}
		r := row(item.Value)
		if !r.valid() {
			return fmt.Errorf("row of device %s: %w", item.Key, storage.ErrCorrupt)
		}
		if in, unsure := c.quick(item.Key, r); !unsure {
			c.known[DeviceID(item.Key)] = in
		}
	}
	c.learnt = true
	return c.err()
}

// tryRule asks for the devices of a rule, so that one that can't be asked is refused before
// there is a group of it.
func (s *Service) tryRule(ctx context.Context, rule string) error {
	if rule == "" {
		return nil
	}
	return s.viewRows(ctx, func(tx storage.Tx) error {
		q, err := s.readRule(tx, rule)
		if err != nil {
			return err
		}
		c, err := s.newScan(tx, q)
		if err != nil {
			return err
		}
		c.keep = 1
		return c.run(tx)
	})
}

// CountGroups returns how many devices, without user channels, are in each of groups. It
// looks at all devices once, however many of the groups have a rule, and at none if none has.
func (s *Service) CountGroups(ctx context.Context, of ...Group) (count map[GroupID]int, err error) {
	err = s.viewRows(ctx, func(tx storage.Tx) error {
		count = make(map[GroupID]int, len(of))
		scopes := make(map[GroupID]*Scope)
		for _, g := range of {
			if g.Rule == "" {
				count[g.ID] = g.Members
				continue
			}
			scope := &Scope{tx: tx, known: make(map[DeviceID]bool)}
			if err := scope.add(s, g); err != nil {
				return err
			}
			scopes[g.ID] = scope
		}
		if len(scopes) == 0 {
			return nil
		}
		return countRules(tx, scopes, count)
	})
	if err != nil {
		return nil, fmt.Errorf("count groups: %w", err)
	}
	return count, nil
}

func countRules(tx storage.Tx, scopes map[GroupID]*Scope, count map[GroupID]int) error {
	unsure := make(map[GroupID][]DeviceID)
	settle := func(g GroupID) error {
		in, err := scopes[g].Narrow(unsure[g])
		count[g] += len(in)
		unsure[g] = unsure[g][:0]
		clear(scopes[g].known)
		return err
	}
	for item, err := range tx.Scan(rowBucket, storage.Range{Lent: true}) {
		if err != nil {
			return fmt.Errorf("rows of devices: %w", err)
		}
		r := row(item.Value)
		switch {
		case !r.valid():
			return fmt.Errorf("row of device %s: %w", item.Key, storage.ErrCorrupt)
		case len(r.parent()) > 0:
			continue
		}
		for g, scope := range scopes {
			in, maybe := scope.quick(item.Key, r)
			if in {
				count[g]++
			}
			if !maybe {
				continue
			}
			if unsure[g] = append(unsure[g], DeviceID(item.Key)); len(unsure[g]) == manyIDs-1 {
				if err := settle(g); err != nil {
					return err
				}
			}
		}
	}
	for g, scope := range scopes {
		if err := errors.Join(settle(g), scope.err()); err != nil {
			return err
		}
	}
	return nil
}
