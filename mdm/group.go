package mdm

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/gatehouse-mdm/gatehouse/mdm/event"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

// GroupID names a group for good. It is random.
type GroupID string

// Group is a number of devices with a name: either those that somebody has put into it, or
// those that a rule finds whenever it is asked. Groups hold no groups. A user channel is in
// the groups of its device.
type Group struct {
	ID          GroupID   `json:"id"`
	Name        string    `json:"name"` // no two groups have the same, whatever its case
	Description string    `json:"description,omitempty"`
	Rule        string    `json:"rule,omitempty"` // which devices are in it, in the words of a [RuleReader]; empty: those that were put into it
	CreatedAt   time.Time `json:"created_at"`
	CreatedBy   string    `json:"created_by,omitempty"`

	// Members counts the devices that were put into it. All who put devices in or take them
	// out meet in it, so that the count is right, and that a group that is deleted leaves no
	// members.
	Members int `json:"members,omitempty"`
}

// RuleReader says what a group's rule asks for. Rules are written in another package's
// words, which may know more of a device than this one.
type RuleReader func(tx storage.Tx, rule string) (Query, error)

// ReadRules has rules of groups read by read, before s is used. Without it no group may have one.
func (s *Service) ReadRules(read RuleReader) { s.rules = read }

// Errors of groups that callers act on.
var (
	ErrGroupExists   = errors.New("another group has this name")
	ErrGroupHasRule  = errors.New("a rule says which devices are in the group")
	ErrGroupHasNone  = errors.New("the group has no rule: devices are put into it")
	ErrTooManyGroups = errors.New("there are too many groups")
)

// A GroupError says what is wrong with a group that somebody asks for.
type GroupError struct {
	Field  string // "name"
	Reason string // "is required"
}

func (e *GroupError) Error() string { return e.Field + " " + e.Reason }

// Bounds of groups.
const (
	maxGroups           = 1000
	maxGroupName        = 100  // characters
	maxGroupDescription = 1000 // characters
	maxGroupRule        = 4096 // bytes

	// groupChunk is how many devices are put into a group in one transaction.
	groupChunk = 5000
)

const groupsByName = "name"

var groups = storage.NewCollection("device_groups", 1, func(g Group) string { return string(g.ID) },
	storage.Index[Group]{Name: groupsByName, Unique: true, Values: func(g Group) []string { return []string{fold(g.Name)} }})

// groupCounts has how many groups there are, where all who make or delete one meet.
const (
	groupCounts = "device_groups.count"
	groupsKey   = "groups"
)

// NewGroup says what a group shall be.
type NewGroup struct {
	Name        string
	Description string
	Rule        string // empty: devices are put into it
}

// GroupChange says what to change of a group. What is nil stays.
type GroupChange struct {
	Name        *string
	Description *string
	Rule        *string // of a group that has one
}

// Group returns a group, or an error that wraps storage.ErrNotFound.
func (s *Service) Group(ctx context.Context, id GroupID) (g Group, err error) {
	err = s.db.View(ctx, func(tx storage.Tx) error {
		g, err = GetGroup(tx, id)
		return err
	})
	return g, err
}

// GetGroup is [Service.Group] in a transaction of the caller's.
func GetGroup(tx storage.Tx, id GroupID) (Group, error) {
	g, err := groups.Get(tx, string(id))
	if err != nil {
		return Group{}, fmt.Errorf("group %s: %w", id, err)
	}
	return g, nil
}

// FindGroup returns the group with a name, in any case, or an error that wraps
// storage.ErrNotFound.
func FindGroup(tx storage.Tx, name string) (Group, error) {
	g, err := groups.One(tx, groupsByName, fold(normalName(name)))
	if err != nil {
		return Group{}, fmt.Errorf("group by name: %w", err)
	}
	return g, nil
}

// Groups returns up to limit groups in the order of their names, only those of only unless
// that is nil, and the cursor of the next page, empty at the end.
func (s *Service) Groups(ctx context.Context, only []GroupID, cursor string, limit int) (page []Group, next string, err error) {
	err = s.db.View(ctx, func(tx storage.Tx) error {
		page, next = nil, ""
		for g, err := range groups.Ascend(tx, groupsByName, cursor, "", 0) {
			if err != nil {
				return fmt.Errorf("list groups: %w", err)
			}
			if only != nil && !slices.Contains(only, g.ID) {
				continue
			}
			if len(page) == limit {
				next = fold(g.Name)
				return nil
			}
			page = append(page, g)
		}
		return nil
	})
	return page, next, err
}

// GroupsOf returns the groups that an enrollment is in, in the order of their names, only
// those of only unless that is nil.
func (s *Service) GroupsOf(ctx context.Context, id DeviceID, only []GroupID) (in []Group, err error) {
	err = s.viewRows(ctx, func(tx storage.Tx) error {
		in = nil
		for g, err := range groups.Ascend(tx, groupsByName, "", "", 0) {
			if err != nil {
				return err
			}
			if only != nil && !slices.Contains(only, g.ID) {
				continue
			}
			is, err := s.Within(tx, []GroupID{g.ID}, id)
			if err != nil {
				return err
			}
			if is {
				in = append(in, g)
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("groups of %s: %w", id, err)
	}
	return in, nil
}

// CreateGroup makes a group. by is who does, for the audit log. The error is a *GroupError or
// a *QueryError for what can't be, or ErrGroupExists or ErrTooManyGroups.
func (s *Service) CreateGroup(ctx context.Context, by string, n NewGroup) (g Group, err error) {
	g = Group{
		ID: GroupID(strings.ToLower(rand.Text())), Name: normalName(n.Name), Description: strings.TrimSpace(n.Description), Rule: n.Rule,
		CreatedAt: s.now().UTC(), CreatedBy: by,
	}
	if err := g.check(); err != nil {
		return Group{}, err
	}
	if err := s.tryRule(ctx, g.Rule); err != nil {
		return Group{}, err
	}
	err = s.db.Update(ctx, func(tx storage.Tx) error {
		if err := checkGroupName(tx, g); err != nil {
			return err
		}
		if err := countGroups(tx, 1); err != nil {
			return err
		}
		if err := groups.Create(tx, g); err != nil {
			return err
		}
		return s.tellGroup(tx, by, "group.created", g, nil, event.Changes(nil, g.audited()))
	})
	if err != nil {
		return Group{}, fmt.Errorf("create group: %w", err)
	}
	s.log.InfoContext(ctx, "group created", "group", g.ID, "by", by)
	return g, nil
}

// UpdateGroup changes a group. The error is as that of CreateGroup, or ErrGroupHasNone, or
// wraps storage.ErrNotFound.
func (s *Service) UpdateGroup(ctx context.Context, by string, id GroupID, c GroupChange) (g Group, err error) {
	if c.Rule != nil {
		if *c.Rule == "" {
			return Group{}, &GroupError{"rule", "can’t be taken away: make another group for devices that you name"}
		}
		if err := (Group{Name: "x", Rule: *c.Rule}).check(); err != nil {
			return Group{}, err
		}
		if err := s.tryRule(ctx, *c.Rule); err != nil {
			return Group{}, err
		}
	}
	var changed []string
	err = s.db.Update(ctx, func(tx storage.Tx) error {
		old, err := GetGroup(tx, id)
		if err != nil {
			return err
		}
		g, changed = old, nil
		set := func(field string, to, v *string, normal func(string) string) {
			if v != nil && normal(*v) != *to {
				*to, changed = normal(*v), append(changed, field)
			}
		}
		set("name", &g.Name, c.Name, normalName)
		set("description", &g.Description, c.Description, strings.TrimSpace)
		if c.Rule != nil && old.Rule == "" {
			return ErrGroupHasNone
		}
		set("rule", &g.Rule, c.Rule, func(rule string) string { return rule })
		if len(changed) == 0 {
			return nil
		}
		if err := g.check(); err != nil {
			return err
		}
		if err := checkGroupName(tx, g); err != nil {
			return err
		}
		if err := groups.Put(tx, g); err != nil {
			return err
		}
		details := map[string]string{"changed": strings.Join(changed, ", ")}
		if g.Name != old.Name {
			details["name_before"] = old.Name
		}
		if g.Rule != old.Rule {
			details["rule"], details["rule_before"] = g.Rule, old.Rule
		}
		return s.tellGroup(tx, by, "group.changed", g, details, event.Changes(old.audited(), g.audited()))
	})
	if err != nil {
		return Group{}, fmt.Errorf("update group %s: %w", id, err)
	}
	if len(changed) > 0 {
		s.log.InfoContext(ctx, "group changed", "group", id, "changed", changed, "by", by)
	}
	return g, nil
}

// DeleteGroup removes a group, not its devices, in a transaction of the caller's, which may
// look first who depends on it. The error may wrap storage.ErrNotFound.
func (s *Service) DeleteGroup(tx storage.Tx, by string, id GroupID) error {
	g, err := GetGroup(tx, id)
	if err != nil {
		return err
	}
	for item, err := range tx.Scan(memberBucket, storage.Range{Prefix: storage.Key(string(id))}) {
		if err != nil {
			return fmt.Errorf("delete group %s: %w", id, err)
		}
		if err := tx.Delete(memberBucket, item.Key); err != nil {
			return fmt.Errorf("delete group %s: %w", id, err)
		}
	}
	if err := errors.Join(groups.Delete(tx, string(id)), countGroups(tx, -1)); err != nil {
		return fmt.Errorf("delete group %s: %w", id, err)
	}
	return s.tellGroup(tx, by, "group.deleted", g, map[string]string{"devices": strconv.Itoa(g.Members)}, event.Changes(g.audited(), nil))
}

// Membership is what became of devices that were to be put into a group, or taken out.
type Membership struct {
	Changed  int        // are in it now, or not any more, that were not, or were, before
	Unknown  []DeviceID // no device has this id
	Channels []DeviceID // are user channels, which are where their device is
}

// AddToGroup puts devices into a group that has no rule, however many: some thousand in a
// transaction. The error is ErrGroupHasRule or wraps storage.ErrNotFound.
func (s *Service) AddToGroup(ctx context.Context, by string, id GroupID, devices []DeviceID) (Membership, error) {
	return s.regroup(ctx, by, id, devices, true)
}

// RemoveFromGroup takes devices out of a group that has no rule. The error is as that of
// AddToGroup.
func (s *Service) RemoveFromGroup(ctx context.Context, by string, id GroupID, devices []DeviceID) (Membership, error) {
	return s.regroup(ctx, by, id, devices, false)
}

func (s *Service) regroup(ctx context.Context, by string, id GroupID, devices []DeviceID, in bool) (all Membership, err error) {
	devices = slices.Sorted(slices.Values(devices)) // so that each part is in few blocks
	for part := range slices.Chunk(devices, groupChunk) {
		var m Membership
		err := s.db.Update(ctx, func(tx storage.Tx) error {
			m, err = s.regroupPart(tx, by, id, part, in)
			return err
		})
		if err != nil {
			return all, fmt.Errorf("change members of group %s: %w", id, err)
		}
		all.Changed += m.Changed
		all.Unknown, all.Channels = append(all.Unknown, m.Unknown...), append(all.Channels, m.Channels...)
	}
	s.log.InfoContext(ctx, "members of group changed", "group", id, "in", in, "devices", all.Changed, "by", by)
	return all, nil
}

func (s *Service) regroupPart(tx storage.Tx, by string, id GroupID, devices []DeviceID, in bool) (m Membership, err error) {
	g, err := GetGroup(tx, id)
	if err != nil {
		return Membership{}, err
	}
	if g.Rule != "" {
		return Membership{}, ErrGroupHasRule
	}
	for _, d := range devices {
		tx.Prefetch(storage.Read{Bucket: memberBucket, Key: blockKey(id, d)})
		if in {
			tx.Prefetch(ReadTarget(d))
		}
	}
	blocks := newMemberBlocks(tx, id)
	var last DeviceID
	for _, d := range devices {
		key, at, is, err := blocks.find(d)
		if err != nil {
			return Membership{}, err
		}
		if is == in {
			continue
		}
		if in {
			e, err := getEligibility(tx, d)
			switch {
			case errors.Is(err, storage.ErrNotFound):
				m.Unknown = append(m.Unknown, d)
				continue
			case err != nil:
				return Membership{}, err
			case e.target.UserChannel:
				m.Channels = append(m.Channels, d)
				continue
			}
		}
		blocks.set(key, at, d, in)
		m.Changed++
		last = d
	}
	if m.Changed == 0 {
		return m, nil
	}
	if err := blocks.write(); err != nil {
		return Membership{}, err
	}
	before := g
	if g.Members += m.Changed; !in {
		g.Members = before.Members - m.Changed
	}
	if err := groups.Put(tx, g); err != nil {
		return Membership{}, err
	}
	change := map[string]string{"changed": "devices", "devices": strconv.Itoa(g.Members), "devices_before": strconv.Itoa(before.Members)}
	if m.Changed == 1 {
		change[map[bool]string{true: "added", false: "removed"}[in]] = string(last)
	}
	return m, s.tellGroup(tx, by, "group.changed", g, change, event.Changes(before.audited(), g.audited()))
}

// audited is g as the audit log tells of changes.
func (g Group) audited() map[string]any {
	fields := map[string]any{"name": g.Name, "description": g.Description, "rule": g.Rule}
	if g.Rule == "" {
		fields["devices"] = g.Members
	}
	return fields
}

// tellGroup writes into the audit log what became of a group.
func (s *Service) tellGroup(tx storage.Tx, by, action string, g Group, more map[string]string, changes []event.Change) error {
	e := event.Event{At: s.now().UTC(), Actor: cmp.Or(by, ourselves), Action: action, Changes: changes, Details: map[string]string{"group": string(g.ID), "name": g.Name}}
	for name, value := range more {
		e.Details[name] = value
	}
	if g.Rule != "" && action == "group.created" {
		e.Details["rule"] = g.Rule
	}
	return event.Record(tx, e)
}

// normalName is a name without what can't be seen of it.
func normalName(name string) string { return strings.Join(strings.Fields(name), " ") }

func (g Group) check() error {
	for _, text := range []struct {
		field, value string
		most         int
	}{{"name", g.Name, maxGroupName}, {"description", g.Description, maxGroupDescription}} {
		switch {
		case !utf8.ValidString(text.value):
			return &GroupError{text.field, "must be UTF-8"}
		case utf8.RuneCountInString(text.value) > text.most:
			return &GroupError{text.field, fmt.Sprintf("must have at most %d characters", text.most)}
		case strings.ContainsFunc(text.value, func(r rune) bool { return r < 0x20 && (r != '\n' || text.field == "name") || r == 0x7f }):
			return &GroupError{text.field, "must have no control characters"}
		}
	}
	switch {
	case g.Name == "":
		return &GroupError{"name", "is required"}
	case fold(g.Name) == "":
		return &GroupError{"name", "must have letters or digits"}
	case len(g.Rule) > maxGroupRule:
		return &GroupError{"rule", fmt.Sprintf("must be at most %d bytes", maxGroupRule)}
	}
	return nil
}

// checkGroupName says in so many words what the unique index would refuse.
func checkGroupName(tx storage.Tx, g Group) error {
	other, err := groups.One(tx, groupsByName, fold(g.Name))
	switch {
	case err == nil && other.ID != g.ID:
		return fmt.Errorf("%w: %s", ErrGroupExists, other.Name)
	case err != nil && !errors.Is(err, storage.ErrNotFound):
		return err
	}
	return nil
}

// countGroups counts one group more or less.
func countGroups(tx storage.Tx, more int) error {
	n := 0
	v, err := tx.Get(groupCounts, []byte(groupsKey))
	switch {
	case err == nil && len(v) == 4:
		n = int(binary.BigEndian.Uint32(v))
	case err == nil:
		return fmt.Errorf("%s: %w", groupCounts, storage.ErrCorrupt)
	case !errors.Is(err, storage.ErrNotFound):
		return err
	}
	if n = max(0, n+more); n > maxGroups {
		return ErrTooManyGroups
	}
	return tx.Put(groupCounts, []byte(groupsKey), binary.BigEndian.AppendUint32(nil, uint32(n)))
}
