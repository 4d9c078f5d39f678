package mdm_test

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/event"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

// readRule reads the rules that this package has words for.
func readRule(_ storage.Tx, rule string) (q mdm.Query, err error) {
	values, err := url.ParseQuery(rule)
	if err != nil {
		return mdm.Query{}, err
	}
	for name, all := range values {
		for _, v := range all {
			if err := q.Set(name, v); err != nil {
				return mdm.Query{}, err
			}
		}
	}
	return q, nil
}

func newGroups(t testing.TB) *bench {
	t.Helper()
	b := newBench(t)
	b.ReadRules(readRule)
	return b
}

// group makes a group by a rule or, where that is empty, of devices.
func (b *bench) group(t testing.TB, name, rule string, devices ...mdm.DeviceID) mdm.GroupID {
	t.Helper()
	g, err := b.CreateGroup(context.Background(), "user:ana", mdm.NewGroup{Name: name, Rule: rule})
	if err != nil {
		t.Fatal(err)
	}
	if len(devices) > 0 {
		if _, err := b.AddToGroup(context.Background(), "user:ana", g.ID, devices); err != nil {
			t.Fatal(err)
		}
	}
	return g.ID
}

// ids searches page by page.
func (b *bench) ids(t testing.TB, q mdm.Query, limit int) (ids []mdm.DeviceID) {
	t.Helper()
	for cursor := ""; ; {
		f, err := b.Search(context.Background(), q, cursor, limit)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range f.Devices {
			ids = append(ids, d.ID)
		}
		if f.Next == "" {
			if f.Total != len(ids) {
				t.Errorf("Search(%+v): total %d, got %d", q, f.Total, len(ids))
			}
			return ids
		}
		cursor = f.Next
	}
}

// TestGroupsHaveTheDevicesThatTheyShould holds lists of groups against what is known of each
// device by itself, with user channels whose ids come before and after those of their devices.
func TestGroupsHaveTheDevicesThatTheyShould(t *testing.T) {
	b := newGroups(t)
	all := population(t, b, 300)
	devices := b.ids(t, query(t, "enrollment_type", "device,account_device,user"), 1000)
	parents := map[mdm.DeviceID]mdm.DeviceID{}
	for i, d := range devices[:120] {
		parents[d] = ""
		channel := mdm.DeviceID(fmt.Sprintf("%x-channel-%d", i%16, i))
		parents[channel] = d
		b.device(t, string(channel), func(c *mdm.Device) {
			c.Type, c.ParentID, c.UserID, c.DeviceName = mdm.TypeUserChannel, d, "USER", "Zoë’s iPad"
		})
	}
	for id, k := range all {
		parents[id] = k.ParentID // some of them devices that are not here
	}
	for name, rule := range map[string]string{
		"by hand":            "",
		"by what rows say":   "platform=ios&os_version=>=18",
		"by words":           "q=zoe",
		"by when it was":     "last_seen_after=30d",
		"by what waits":      "pending_commands=true",
		"by attribute":       "attribute=BatteryLevel<0.5",
		"by a bit of all":    "attribute=TimeZone=Europe/Berlin&last_seen_after=60d&state=enrolled",
		"by what nobody has": "q=nobodyhasthis",
	} {
		t.Run(name, func(t *testing.T) {
			in := map[mdm.DeviceID]bool{}
			g := b.group(t, name, rule)
			if rule == "" {
				for i, d := range devices {
					in[d] = i%3 == 0
				}
				var some []mdm.DeviceID
				for d, is := range in {
					if is {
						some = append(some, d)
					}
				}
				if m, err := b.AddToGroup(context.Background(), "user:ana", g, some); err != nil || m.Changed != len(some) {
					t.Fatalf("AddToGroup = %+v, %v", m, err)
				}
			} else {
				q, err := readRule(nil, rule)
				if err != nil {
					t.Fatal(err)
				}
				q.Types = []mdm.EnrollmentType{mdm.TypeDevice, mdm.TypeUser, mdm.TypeAccountDevice}
				for _, id := range b.ids(t, q, 1000) {
					in[id] = true
				}
			}
			var want, wantIPads []mdm.DeviceID
			for id, parent := range parents {
				device := id
				if parent != "" {
					device = parent
				}
				if in[device] {
					want = append(want, id)
				}
			}
			slices.Sort(want)
			iPads := b.ids(t, query(t, "q", "ipad"), 1000)
			for _, id := range want {
				if slices.Contains(iPads, id) {
					wantIPads = append(wantIPads, id)
				}
			}
			for _, limit := range []int{7, 1000} {
				if got := b.ids(t, mdm.Query{GroupIDs: []mdm.GroupID{g}}, limit); !slices.Equal(got, want) {
					t.Errorf("by id, %d a page, are %d devices\n%q, want %d\n%q", limit, len(got), got, len(want), want)
				}
				for _, sort := range []mdm.Sort{mdm.ByName, mdm.ByLastSeenAt} {
					got := b.ids(t, mdm.Query{Scope: []mdm.GroupID{g}, Sort: sort}, limit)
					if slices.Sort(got); !slices.Equal(got, want) {
						t.Errorf("by %s, %d a page, are %q, want %q", sort, limit, got, want)
					}
				}
				q := query(t, "q", "ipad", "attribute", "BatteryLevel?", "sort", "name")
				q.Attributes, q.GroupIDs = nil, []mdm.GroupID{g}
				got := b.ids(t, q, limit)
				if slices.Sort(got); !slices.Equal(got, wantIPads) {
					t.Errorf("iPads in it are %q, want %q", got, wantIPads)
				}
			}
			every := b.ids(t, mdm.Query{}, 1000)
			err := b.ViewScope(context.Background(), []mdm.GroupID{g, "none"}, func(tx storage.Tx, scope *mdm.Scope) error {
				got, err := scope.Narrow(append(every, "stranger"))
				if !slices.Equal(got, want) {
					t.Errorf("Narrow = %q, want %q", got, want)
				}
				for _, id := range every {
					is, err := b.Within(tx, []mdm.GroupID{g}, id)
					if err != nil || is != slices.Contains(want, id) {
						t.Errorf("Within(%s) = %t, %v", id, is, err)
					}
				}
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			group, err := b.Group(context.Background(), g)
			if err != nil {
				t.Fatal(err)
			}
			count, err := b.CountGroups(context.Background(), group)
			number := 0
			for _, is := range in {
				if is {
					number++
				}
			}
			if err != nil || count[g] != number {
				t.Errorf("CountGroups = %d, %v, want %d", count[g], err, number)
			}
		})
	}
}

func TestNoLimitIsEverythingAndNoGroupIsNothing(t *testing.T) {
	b := newGroups(t)
	id := b.device(t, "a")
	for name, tt := range map[string]struct {
		groups []mdm.GroupID
		want   bool
	}{
		"nobody is limited":       {nil, true},
		"limited to nothing":      {[]mdm.GroupID{}, false},
		"limited to what is gone": {[]mdm.GroupID{"gone"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			err := b.ViewScope(context.Background(), tt.groups, func(tx storage.Tx, scope *mdm.Scope) error {
				is, err := b.Within(tx, tt.groups, id)
				if is != tt.want {
					t.Errorf("Within = %t, want %t", is, tt.want)
				}
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			if got := b.ids(t, mdm.Query{Scope: tt.groups}, 10); len(got) > 0 != tt.want {
				t.Errorf("Search found %q", got)
			}
		})
	}
	_, err := b.Search(context.Background(), mdm.Query{GroupIDs: []mdm.GroupID{"gone"}}, "", 10)
	if bad, ok := errors.AsType[*mdm.QueryError](err); !ok || bad.Field != "group_id" {
		t.Errorf("Search in a group that is gone: %v", err)
	}
}

func TestDevicesGoInAndOut(t *testing.T) {
	b := newGroups(t)
	b.device(t, "a")
	b.device(t, "b")
	b.device(t, "channel", func(d *mdm.Device) { d.Type, d.ParentID, d.UserID = mdm.TypeUserChannel, "a", "U" })
	g := b.group(t, "Shop", "")
	ctx := context.Background()
	m, err := b.AddToGroup(ctx, "user:ana", g, []mdm.DeviceID{"a", "a", "channel", "none", "b"})
	if err != nil || m.Changed != 2 || !slices.Equal(m.Unknown, []mdm.DeviceID{"none"}) || !slices.Equal(m.Channels, []mdm.DeviceID{"channel"}) {
		t.Errorf("AddToGroup = %+v, %v", m, err)
	}
	if m, err = b.AddToGroup(ctx, "user:ana", g, []mdm.DeviceID{"a"}); err != nil || m.Changed != 0 {
		t.Errorf("once more: %+v, %v", m, err)
	}
	if m, err = b.RemoveFromGroup(ctx, "user:ana", g, []mdm.DeviceID{"a", "none"}); err != nil || m.Changed != 1 {
		t.Errorf("RemoveFromGroup = %+v, %v", m, err)
	}
	if group, err := b.Group(ctx, g); err != nil || group.Members != 1 {
		t.Errorf("Group = %+v, %v, want one member", group, err)
	}
	if in, err := b.GroupsOf(ctx, "b", nil); err != nil || len(in) != 1 || in[0].ID != g {
		t.Errorf("GroupsOf = %+v, %v", in, err)
	}
	if err := b.db.Update(ctx, func(tx storage.Tx) error { return b.DeleteGroup(tx, "user:ben", g) }); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Group(ctx, g); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("Group = %v, want ErrNotFound", err)
	}
	if _, err := b.AddToGroup(ctx, "user:ana", g, []mdm.DeviceID{"a"}); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("AddToGroup = %v, want ErrNotFound", err)
	}
	again := b.group(t, "shop", "")
	if got := b.ids(t, mdm.Query{GroupIDs: []mdm.GroupID{again}}, 10); len(got) > 0 {
		t.Errorf("a new group of the name has %q", got)
	}
	var told []string
	err = b.db.View(ctx, func(tx storage.Tx) error {
		list, _, err := event.Page(tx, event.Filter{Action: "group."}, "", 100)
		told = nil
		for _, e := range list {
			told = append(told, fmt.Sprint(e.Actor, " ", e.Action, " ", e.Details["name"], " ", e.Details["added"], e.Details["removed"], " ", e.Details["devices_before"], " ", e.Details["devices"]))
		}
		return err
	})
	slices.Sort(told)
	want := []string{
		"user:ana group.changed Shop  0 2", "user:ana group.changed Shop a 2 1",
		"user:ana group.created Shop   ", "user:ana group.created shop   ", "user:ben group.deleted Shop   1",
	}
	if err != nil || !slices.Equal(told, want) {
		t.Errorf("the audit log has %q, %v, want %q", told, err, want)
	}
}

func TestAGroupIsChanged(t *testing.T) {
	b := newGroups(t)
	b.device(t, "phone")
	b.device(t, "mac", func(d *mdm.Device) { d.ProductName = "Mac15,6" })
	ctx := context.Background()
	g := b.group(t, "Phones", "platform=ios")
	other := b.group(t, "Ünited", "")
	name, rule, text := "  All   Macs ", "platform=macos", "of the office"
	changed, err := b.UpdateGroup(ctx, "user:ana", g, mdm.GroupChange{Name: &name, Rule: &rule, Description: &text})
	if err != nil || changed.Name != "All Macs" || changed.Rule != rule || changed.Description != text {
		t.Fatalf("UpdateGroup = %+v, %v", changed, err)
	}
	if got := b.ids(t, mdm.Query{GroupIDs: []mdm.GroupID{g}}, 10); !slices.Equal(got, []mdm.DeviceID{"mac"}) {
		t.Errorf("in the group are %q, want mac", got)
	}
	b.device(t, "mac", func(d *mdm.Device) { d.ProductName = "iPhone17,2" }) // a rule is never stale
	if got := b.ids(t, mdm.Query{GroupIDs: []mdm.GroupID{g}}, 10); len(got) > 0 {
		t.Errorf("in the group are %q, want none", got)
	}
	taken, none, bad := "united", "", "last_seen=never&group_id="+string(other)
	for what, tt := range map[string]struct {
		id    mdm.GroupID
		c     mdm.GroupChange
		is    error
		field string
	}{
		"a name that is taken":        {g, mdm.GroupChange{Name: &taken}, mdm.ErrGroupExists, ""},
		"no name":                     {g, mdm.GroupChange{Name: &none}, nil, "name"},
		"no rule":                     {g, mdm.GroupChange{Rule: &none}, nil, "rule"},
		"a rule with a group":         {g, mdm.GroupChange{Rule: &bad}, nil, "group_id"},
		"a rule for one by hand":      {other, mdm.GroupChange{Rule: &rule}, mdm.ErrGroupHasNone, ""},
		"the name of one that is not": {"gone", mdm.GroupChange{Name: &taken}, storage.ErrNotFound, ""},
	} {
		t.Run(what, func(t *testing.T) {
			_, err := b.UpdateGroup(ctx, "user:ana", tt.id, tt.c)
			if tt.is != nil && !errors.Is(err, tt.is) {
				t.Errorf("UpdateGroup = %v, want %v", err, tt.is)
			}
			if tt.field != "" && fieldOf(err) != tt.field {
				t.Errorf("UpdateGroup = %v, want one that names %s", err, tt.field)
			}
		})
	}
	if _, err := b.AddToGroup(ctx, "user:ana", g, []mdm.DeviceID{"phone"}); !errors.Is(err, mdm.ErrGroupHasRule) {
		t.Errorf("AddToGroup = %v, want ErrGroupHasRule", err)
	}
}

// fieldOf is what is to blame for an error.
func fieldOf(err error) string {
	if bad, ok := errors.AsType[*mdm.GroupError](err); ok {
		return bad.Field
	}
	if bad, ok := errors.AsType[*mdm.QueryError](err); ok {
		return bad.Field
	}
	return ""
}

func TestGroupsThatCantBe(t *testing.T) {
	b := newGroups(t)
	b.device(t, "a")
	b.update(t, func(tx storage.Tx) error {
		d, err := mdm.GetDevice(tx, "a")
		if err != nil {
			return err
		}
		return mdm.LearnInformation(tx, &d, []byte(`{"QueryResponses":{"BatteryLevel":0.5}}`))
	})
	for name, tt := range map[string]struct {
		n    mdm.NewGroup
		want string
	}{
		"no name":                    {mdm.NewGroup{Name: " "}, "name"},
		"a long name":                {mdm.NewGroup{Name: strings.Repeat("ä", 101)}, "name"},
		"a name of nothing":          {mdm.NewGroup{Name: "\u0301"}, "name"},
		"a bell in a name":           {mdm.NewGroup{Name: "a\ab"}, "name"},
		"a long description":         {mdm.NewGroup{Name: "a", Description: strings.Repeat("x", 1001)}, "description"},
		"a rule of user channels":    {mdm.NewGroup{Name: "a", Rule: "enrollment_type=user_channel,device"}, "enrollment_type"},
		"a rule of one's channels":   {mdm.NewGroup{Name: "a", Rule: "parent_id=a"}, "parent_id"},
		"a rule with a slip":         {mdm.NewGroup{Name: "a", Rule: "platfrom=ios"}, "platfrom"},
		"an attribute with a slip":   {mdm.NewGroup{Name: "a", Rule: "attribute=BateryLevel<1"}, "attribute"},
		"a rule that is a long book": {mdm.NewGroup{Name: "a", Rule: strings.Repeat("x", 5000)}, "rule"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := b.CreateGroup(context.Background(), "user:ana", tt.n); fieldOf(err) != tt.want {
				t.Errorf("CreateGroup = %v, want one that names %s", err, tt.want)
			}
		})
	}
}

func TestGroupsAreListedByName(t *testing.T) {
	b := newGroups(t)
	var only []mdm.GroupID
	for _, name := range []string{"delta", "Alpha", "Écho", "bravo", "Charlie"} {
		if g := b.group(t, name, ""); name != "bravo" {
			only = append(only, g)
		}
	}
	list := func(only []mdm.GroupID, limit int) (names []string) {
		for cursor := ""; ; {
			page, next, err := b.Groups(context.Background(), only, cursor, limit)
			if err != nil {
				t.Fatal(err)
			}
			for _, g := range page {
				names = append(names, g.Name)
			}
			if next == "" {
				return names
			}
			cursor = next
		}
	}
	if got, want := list(nil, 2), []string{"Alpha", "bravo", "Charlie", "delta", "Écho"}; !slices.Equal(got, want) {
		t.Errorf("Groups = %q, want %q", got, want)
	}
	if got, want := list(only, 1), []string{"Alpha", "Charlie", "delta", "Écho"}; !slices.Equal(got, want) {
		t.Errorf("Groups of some = %q, want %q", got, want)
	}
	if got := list([]mdm.GroupID{}, 1); len(got) > 0 {
		t.Errorf("Groups of none = %q", got)
	}
}
