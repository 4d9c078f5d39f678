package mdm_test

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/command"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

// known is all that a plain search goes by: what the store's is held against.
type known struct {
	mdm.Device
	seen       time.Time
	pending    bool
	attributes map[string]any
}

// query makes a query of names and values, in turn.
func query(t testing.TB, conditions ...string) (q mdm.Query) {
	t.Helper()
	for i := 0; i < len(conditions); i += 2 {
		if err := q.Set(conditions[i], conditions[i+1]); err != nil {
			t.Fatal(err)
		}
	}
	return q
}

// population fills a bench with random devices that have much in common, and returns what
// is known of them, by id.
func population(t testing.TB, b *bench, n int) map[mdm.DeviceID]known {
	t.Helper()
	r := rand.New(rand.NewPCG(1, 2))
	pick := func(of ...string) string { return of[r.IntN(len(of))] }
	all := make(map[mdm.DeviceID]known, n)
	now := b.now
	var batch []known
	for i := range n {
		k := known{attributes: map[string]any{}}
		d := &k.Device
		d.ID = mdm.DeviceID(fmt.Sprintf("%08x", r.Uint32()))
		d.State = mdm.State(pick("pending", "enrolled", "enrolled", "enrolled", "unenrolled", "blocked"))
		d.Type = mdm.EnrollmentType(pick("device", "device", "account_device", "user", "user_channel"))
		d.Ownership = mdm.Ownership(pick("institutional", "personal", ""))
		d.UDID = fmt.Sprintf("00008120-%08X", i)
		switch d.Type {
		case mdm.TypeUser:
			d.UDID, d.EnrollmentID = "", fmt.Sprintf("ENROLLMENT-%d", i)
		case mdm.TypeUserChannel:
			d.ParentID, d.UserID = mdm.DeviceID(pick("parent-a", "parent-b")), fmt.Sprintf("USER-%d", i)
			d.UserLongName, d.UserShortName = "Ana Ñandú", "ana"
		}
		d.User = pick("", "ana@example.com", "Bea@Example.com", "zoë@example.com", "carl")
		if r.IntN(4) == 0 {
			d.ManagedAppleAccount = pick("ana@school.example", "carl")
		}
		d.DeviceName = pick("", "Zoë’s iPad", "zoe's ipad", "Straße", "ÅNGSTRÖM", "Büro 3", "iPhone", "iPhone") + pick("", " "+strconv.Itoa(r.IntN(40)))
		if d.Type != mdm.TypeUser {
			d.SerialNumber = pick("", fmt.Sprintf("C%05d", r.IntN(5*n)))
		}
		d.ProductName = pick("", "iPhone17,2", "iPhone15,4", "iPad14,9", "Mac15,6", "AppleTV14,1", "RealityDevice14,1")
		d.Model = pick("", "MTXX3", "MLXY3LL/A")
		d.ModelName = pick("", "iPhone", "MacBook Pro")
		d.OSVersion = pick("", "18", "18.2", "18.2.1", "17.4", "17.4.1", "26.0", "9.3.5", "180.1", "15.7 beta")
		d.Demo = r.IntN(9) == 0
		if r.IntN(3) > 0 {
			d.Supervised = new(bool)
			*d.Supervised = r.IntN(2) == 0
		}
		if d.State != mdm.Pending {
			d.EnrolledAt = now.Add(-time.Duration(r.IntN(1000)) * time.Hour)
		}
		if r.IntN(5) > 0 {
			k.seen = now.Add(-time.Duration(r.IntN(2000)) * time.Hour)
		}
		k.pending = r.IntN(20) == 0 && d.State == mdm.Enrolled
		if r.IntN(2) == 0 {
			k.attributes["BatteryLevel"] = float64(r.IntN(11)) / 10
			k.attributes["IsActivationLockEnabled"] = r.IntN(2) == 0
			k.attributes["TimeZone"] = pick("Europe/Berlin", "America/New_York")
			k.attributes["Odd \"name\"\\"] = map[string]any{"TimeZone": "Mars", "q": []any{"a\"]}", "b\\"}}
			k.attributes["Languages"] = []any{"de", pick("en", "fr")}
			k.attributes["LastCloudBackupDate"] = now.Add(-time.Duration(r.IntN(1000)) * time.Hour).Format(time.RFC3339)
			k.attributes["ModemFirmwareVersion"] = pick("1.20.03", "1.9.00", "6.00")
			k.attributes["Nothing"] = nil
			k.attributes["OrganizationInfo"] = map[string]any{"OrganizationName": pick("Acme", "Ünited")}
		}
		if _, taken := all[d.ID]; taken {
			continue
		}
		all[d.ID] = k
		batch = append(batch, k)
	}
	b.update(t, func(tx storage.Tx) error {
		for _, k := range batch {
			d := k.Device
			if err := mdm.PutDevice(tx, d); err != nil {
				return err
			}
			if len(k.attributes) == 0 || k.Type == mdm.TypeUser {
				continue
			}
			answer, err := json.Marshal(map[string]any{"QueryResponses": k.attributes})
			if err != nil {
				return err
			}
			if err := mdm.LearnInformation(tx, &d, answer); err != nil {
				return err
			}
		}
		return nil
	})
	var asked []mdm.DeviceID
	for i, k := range batch {
		if k.Type == mdm.TypeUser {
			clear(k.attributes)
		}
		if k.pending {
			asked = append(asked, k.ID)
		}
		if !k.seen.IsZero() {
			b.now = k.seen
			b.Saw(k.ID)
		}
		if i == len(batch)/2 { // half of it is only in memory
			if err := b.FlushSeen(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	b.now = now
	_, rejected, err := b.Enqueue(t.Context(), newCommand("pending", "DeviceInformation", asked...))
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rejected {
		k := all[r.DeviceID]
		k.pending = false
		all[r.DeviceID] = k
	}
	return all
}

// A condition of the table below, and what a plain search makes of it.
type condition struct {
	name, value string
	holds       func(k known) bool
}

// number is a version as a slice, as compared by slices.Compare.
func number(version string) (parts []int) {
	for part := range strings.SplitSeq(version, ".") {
		digits, rest, _ := strings.Cut(part, " ")
		n, err := strconv.Atoi(digits)
		if err != nil {
			break
		}
		if parts = append(parts, n); rest != "" {
			break
		}
	}
	if len(parts) == 0 {
		return nil
	}
	for len(parts) < 4 {
		parts = append(parts, 0)
	}
	return parts
}

func contains(k known, word string) bool {
	for _, text := range []string{
		k.DeviceName, k.SerialNumber, k.Model, k.ProductName, k.ModelName, k.OSVersion, k.User, k.ManagedAppleAccount, k.UDID, k.EnrollmentID,
		k.UserLongName, k.UserShortName,
	} {
		if strings.Contains(mdm.Fold(text), word) {
			return true
		}
	}
	return false
}

func conditions(now time.Time) []condition {
	version := func(holds func(compared int) bool, to string) func(known) bool {
		return func(k known) bool {
			v := number(k.OSVersion)
			return v != nil && holds(slices.Compare(v, number(to)))
		}
	}
	attribute := func(name string, holds func(v any) bool) func(known) bool {
		return func(k known) bool {
			v, ok := k.attributes[name]
			return ok && holds(v)
		}
	}
	return []condition{
		{"q", "zoe", func(k known) bool { return contains(k, "zoe") }},
		{"q", "IPAD ZOË", func(k known) bool { return contains(k, "ipad") && contains(k, "zoe") }},
		{"q", "strasse", func(k known) bool { return contains(k, "strasse") }},
		{"q", "00008120-0000001", func(k known) bool { return contains(k, "00008120-0000001") }},
		{"q", "nandu", func(k known) bool { return contains(k, "nandu") }},
		{"q", "nowhere", func(known) bool { return false }},
		{"state", "enrolled", func(k known) bool { return k.State == mdm.Enrolled }},
		{"state", "pending,Blocked", func(k known) bool { return k.State == mdm.Pending || k.State == mdm.Blocked }},
		{"enrollment_type", "user_channel", func(k known) bool { return k.Type == mdm.TypeUserChannel }},
		{"ownership", "personal", func(k known) bool { return k.Ownership == mdm.Personal }},
		{"platform", "ios", func(k known) bool { return command.PlatformOf(cmp.Or(k.ProductName, k.Model)) == command.IOS }},
		{"platform", "macos,tvos", func(k known) bool {
			p := command.PlatformOf(cmp.Or(k.ProductName, k.Model))
			return p == command.MacOS || p == command.TVOS
		}},
		{"os_version", "<18", version(func(c int) bool { return c < 0 }, "18")},
		{"os_version", "<=17.4", version(func(c int) bool { return c <= 0 }, "17.4")},
		{"os_version", ">17.4", version(func(c int) bool { return c > 0 }, "17.4")},
		{"os_version", ">=18.2", version(func(c int) bool { return c >= 0 }, "18.2")},
		{"os_version", "=18", version(func(c int) bool { return c == 0 }, "18")},
		{"os_version", "!=18.2", version(func(c int) bool { return c != 0 }, "18.2")},
		{"os_version", "18", func(k known) bool { v := number(k.OSVersion); return v != nil && v[0] == 18 }},
		{"os_version", "18.2", func(k known) bool { v := number(k.OSVersion); return v != nil && v[0] == 18 && v[1] == 2 }},
		{"os_version", "unknown", func(k known) bool { return number(k.OSVersion) == nil }},
		{"model", "iphone17,2", func(k known) bool { return k.ProductName == "iPhone17,2" }},
		{"model", "iPad*", func(k known) bool { return strings.HasPrefix(k.ProductName, "iPad") }},
		{"model", "macbook pro", func(k known) bool { return k.ModelName == "MacBook Pro" }},
		{"user", "bea@example.com", func(k known) bool { return k.User == "Bea@Example.com" }},
		{"user", "carl", func(k known) bool { return k.User == "carl" || k.ManagedAppleAccount == "carl" }},
		{"supervised", "true", func(k known) bool { return k.Supervised != nil && *k.Supervised }},
		{"supervised", "false", func(k known) bool { return k.Supervised != nil && !*k.Supervised }},
		{"supervised", "unknown", func(k known) bool { return k.Supervised == nil }},
		{"parent_id", "parent-a", func(k known) bool { return k.ParentID == "parent-a" }},
		{"last_seen_before", "30d", func(k known) bool { return !k.seen.IsZero() && k.seen.Before(now.AddDate(0, 0, -30)) }},
		{"last_seen_after", "240h", func(k known) bool { return !k.seen.IsZero() && !k.seen.Before(now.Add(-240*time.Hour)) }},
		{"last_seen", "never", func(k known) bool { return k.seen.IsZero() }},
		{"enrolled_before", "2026-02-01", func(k known) bool {
			return !k.EnrolledAt.IsZero() && k.EnrolledAt.Before(time.Date(2026, 2, 1, 0, 0, 0, 0, time.UTC))
		}},
		{"enrolled_after", "2026-02-10T00:00:00+02:00", func(k known) bool {
			return !k.EnrolledAt.IsZero() && !k.EnrolledAt.Before(time.Date(2026, 2, 9, 22, 0, 0, 0, time.UTC))
		}},
		{"pending_commands", "true", func(k known) bool { return k.pending }},
		{"pending_commands", "false", func(k known) bool { return !k.pending }},
		{"demo", "true", func(k known) bool { return k.Demo }},
		{"demo", "false", func(k known) bool { return !k.Demo }},
		{"attribute", "BatteryLevel<0.2", attribute("BatteryLevel", func(v any) bool { return v.(float64) < 0.2 })},
		{"attribute", "BatteryLevel >= .5", attribute("BatteryLevel", func(v any) bool { return v.(float64) >= 0.5 })},
		{"attribute", "BatteryLevel!=1", attribute("BatteryLevel", func(v any) bool { return v.(float64) != 1 })},
		{"attribute", "IsActivationLockEnabled=true", attribute("IsActivationLockEnabled", func(v any) bool { return v.(bool) })},
		{"attribute", "IsActivationLockEnabled!=true", attribute("IsActivationLockEnabled", func(v any) bool { return !v.(bool) })},
		{"attribute", "TimeZone~berlin", attribute("TimeZone", func(v any) bool { return v == "Europe/Berlin" })},
		{"attribute", "TimeZone!=europe/berlin", attribute("TimeZone", func(v any) bool { return v != "Europe/Berlin" })},
		{"attribute", "Languages=EN", attribute("Languages", func(v any) bool { return slices.Contains(v.([]any), any("en")) })},
		{"attribute", "Languages!=en", attribute("Languages", func(v any) bool { return !slices.Contains(v.([]any), any("en")) })},
		{"attribute", "LastCloudBackupDate<2026-02-01", attribute("LastCloudBackupDate", func(v any) bool { return v.(string) < "2026-02-01" })},
		{"attribute", "ModemFirmwareVersion<1.20", attribute("ModemFirmwareVersion", func(v any) bool { return v == "1.9.00" })},
		{"attribute", "OrganizationInfo.OrganizationName=united", attribute("OrganizationInfo", func(v any) bool {
			return v.(map[string]any)["OrganizationName"] == "Ünited"
		})},
		{"attribute", "BatteryLevel", attribute("BatteryLevel", func(any) bool { return true })},
		{"attribute", "!BatteryLevel", func(k known) bool { _, ok := k.attributes["BatteryLevel"]; return !ok }},
	}
}

// orders are the sorts, with what a plain search sorts by: a number, a text, or nothing.
var orders = map[string]func(k known) (int64, string){
	"":              func(k known) (int64, string) { return 0, "" },
	"name":          func(k known) (int64, string) { return 0, mdm.Fold(k.DeviceName) },
	"serial_number": func(k known) (int64, string) { return 0, mdm.Fold(k.SerialNumber) },
	"model":         func(k known) (int64, string) { return 0, mdm.Fold(cmp.Or(k.Model, k.ProductName)) },
	"user":          func(k known) (int64, string) { return 0, mdm.Fold(k.User) },
	"os_version": func(k known) (n int64, _ string) {
		for _, part := range number(k.OSVersion) {
			n = n*1000 + int64(part)
		}
		return n, ""
	},
	"state": func(k known) (int64, string) {
		return 1 + int64(slices.Index([]mdm.State{mdm.Pending, mdm.Enrolled, mdm.Unenrolled, mdm.Blocked}, k.State)), ""
	},
	"enrolled_at":  func(k known) (int64, string) { return stamp(k.EnrolledAt), "" },
	"last_seen_at": func(k known) (int64, string) { return stamp(k.seen), "" },
}

func stamp(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

// plain is the search as one writes it who has all in memory.
func plain(all map[mdm.DeviceID]known, sort string, conditions []condition) (ids []mdm.DeviceID) {
	by, descending := strings.CutPrefix(sort, "-")
	for id, k := range all {
		if !slices.ContainsFunc(conditions, func(c condition) bool { return !c.holds(k) }) {
			ids = append(ids, id)
		}
	}
	slices.SortFunc(ids, func(a, b mdm.DeviceID) int {
		an, at := orders[by](all[a])
		bn, bt := orders[by](all[b])
		c := cmp.Or(cmp.Compare(an, bn), strings.Compare(at, bt))
		if descending {
			c = -c
		}
		if aNone, bNone := an == 0 && at == "", bn == 0 && bt == ""; by != "" && aNone != bNone {
			c = 1
			if bNone {
				c = -1
			}
		}
		return cmp.Or(c, strings.Compare(string(a), string(b)))
	})
	return ids
}

// page through all of a query's parts.
func searchAll(t testing.TB, b *bench, q mdm.Query, limit int) (ids []mdm.DeviceID, total int) {
	t.Helper()
	for cursor := ""; ; {
		found, err := b.Search(t.Context(), q, cursor, limit)
		if err != nil {
			t.Fatalf("Search: %v", err)
		}
		for _, d := range found.Devices {
			ids = append(ids, d.ID)
		}
		total = found.Total
		if cursor = found.Next; cursor == "" {
			return ids, total
		}
		if len(found.Devices) != limit {
			t.Fatalf("Search(limit %d) = %d devices and a cursor", limit, len(found.Devices))
		}
	}
}

func TestSearchFindsWhatAPlainSearchFinds(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	all := population(t, b, 1500)
	table := conditions(b.now)
	ask := func(t *testing.T, sort string, limit int, chosen ...condition) {
		t.Helper()
		var q mdm.Query
		var asked []string
		for _, c := range chosen {
			if err := q.Set(c.name, c.value); err != nil {
				t.Fatal(err)
			}
			asked = append(asked, c.name+"="+c.value)
		}
		if sort != "" {
			if err := q.Set("sort", sort); err != nil {
				t.Fatal(err)
			}
		}
		want := plain(all, sort, chosen)
		got, total := searchAll(t, b, q, limit)
		if !slices.Equal(got, want) || total != len(want) {
			t.Errorf("%v sorted by %q in parts of %d: %d devices, total %d, want %d; first difference: %s",
				asked, sort, limit, len(got), total, len(want), difference(got, want))
		}
		if selected, err := b.Select(t.Context(), q); err != nil || !slices.Equal(selected, want) {
			t.Errorf("%v sorted by %q: Select returns %d ids, %v, want %d", asked, sort, len(selected), err, len(want))
		}
	}
	for _, c := range table {
		if n := len(plain(all, "", []condition{c})); (n == 0) != (c.value == "nowhere") || n == len(all) {
			t.Errorf("%s=%s finds %d of %d, which shows nothing", c.name, c.value, n, len(all))
		}
		ask(t, "", 1000, c)
	}
	for by := range orders {
		ask(t, by, 400)
		if by != "" {
			ask(t, "-"+by, 400)
		}
	}
	r := rand.New(rand.NewPCG(3, 4))
	by := []string{"", "name", "-name", "-last_seen_at", "os_version", "serial_number", "user", "-state"}
	for range 30 {
		var chosen []condition
		for range 1 + r.IntN(3) {
			c := table[r.IntN(len(table))]
			once := !slices.Contains([]string{"os_version", "attribute"}, c.name)
			if !slices.ContainsFunc(chosen, func(o condition) bool { return once && o.name == c.name }) {
				chosen = append(chosen, c)
			}
		}
		ask(t, by[r.IntN(len(by))], 50+r.IntN(300), chosen...)
	}
}

func difference(got, want []mdm.DeviceID) string {
	for i := range max(len(got), len(want)) {
		switch {
		case i >= len(got):
			return fmt.Sprintf("%s is missing at the end", want[i])
		case i >= len(want):
			return fmt.Sprintf("%s is too many", got[i])
		case got[i] != want[i]:
			return fmt.Sprintf("%s at %d, want %s", got[i], i, want[i])
		}
	}
	return "none"
}

func TestDevicesThatComeAndGoShiftNothing(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	all := population(t, b, 300)
	for _, by := range []string{"", "name", "-enrolled_at"} {
		var conditions []string
		if by != "" {
			conditions = []string{"sort", by}
		}
		q := query(t, conditions...)
		var got []mdm.DeviceID
		for cursor, i := "", 0; ; i++ {
			found, err := b.Search(t.Context(), q, cursor, 20)
			if err != nil {
				t.Fatal(err)
			}
			for _, d := range found.Devices {
				if _, old := all[d.ID]; old {
					got = append(got, d.ID)
				}
			}
			if cursor = found.Next; cursor == "" {
				break
			}
			if found.Total != len(all) && by == "" {
				t.Errorf("total %d, want the %d of the beginning", found.Total, len(all))
			}
			b.device(t, fmt.Sprintf("%s%c-new%d", by, "0a9f"[i%4], i), func(d *mdm.Device) { d.DeviceName = "b" + strconv.Itoa(i) })
		}
		if want := plain(all, by, nil); !slices.Equal(got, want) {
			t.Errorf("sorted by %q, while others came: %s", by, difference(got, want))
		}
		b.update(t, mdm.ForgetRows) // and those that came are not there for the next order
		b.update(t, func(tx storage.Tx) error { return forget(tx, all) })
	}
}

// forget deletes all devices but those.
func forget(tx storage.Tx, but map[mdm.DeviceID]known) error {
	for item, err := range tx.Scan("devices", storage.Range{}) {
		if err != nil {
			return err
		}
		if _, ok := but[mdm.DeviceID(item.Key)]; ok {
			continue
		}
		if err := tx.Delete("devices", item.Key); err != nil {
			return err
		}
	}
	return nil
}

func TestACursorIsGoodForItsOwnQuery(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	population(t, b, 50)
	of := query(t, "sort", "name", "demo", "false")
	first, err := b.Search(t.Context(), of, "", 5)
	if err != nil || first.Next == "" {
		t.Fatalf("Search: next %q, %v", first.Next, err)
	}
	also := of
	also.Also, also.AlsoIs = func(storage.Tx, mdm.DeviceID) (bool, error) { return true, nil }, "everything"
	for name, tt := range map[string]struct {
		q      mdm.Query
		cursor string
		ok     bool
	}{
		"the same again":          {of, first.Next, true},
		"in the other direction":  {query(t, "sort", "-name", "demo", "false"), first.Next, false},
		"in another order":        {query(t, "sort", "user", "demo", "false"), first.Next, false},
		"with another filter":     {query(t, "sort", "name"), first.Next, false},
		"with a filter elsewhere": {also, first.Next, false},
		"cut off":                 {of, first.Next[:len(first.Next)/2], false},
		"longer":                  {of, first.Next + strings.Repeat("A", 2000), false},
		"not ours":                {of, "!", false},
		"of the list of old":      {mdm.Query{}, "ZjAwMDE", false},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := b.Search(t.Context(), tt.q, tt.cursor, 5)
			if tt.ok != (err == nil) || err != nil && !errors.Is(err, storage.ErrBadCursor) {
				t.Errorf("Search = %v, want ok %v or ErrBadCursor", err, tt.ok)
			}
		})
	}
}

func TestWhatIsNoConditionIsNamed(t *testing.T) {
	for name, tt := range map[string]struct {
		field, value string
		in           string // the reason
	}{
		"no such condition":            {"sate", "enrolled", "no condition"},
		"a value that there is not":    {"state", "enroled", "one of pending, enrolled, unenrolled or blocked"},
		"one of two values":            {"enrollment_type", "device,phone", "user_channel"},
		"no value":                     {"state", " ", "no value"},
		"half a value":                 {"state", "enrolled,", "must be one of"},
		"a platform in words":          {"platform", "iPadOS", "ios"},
		"a version that is none":       {"os_version", "<new", "18.2"},
		"a version with letters":       {"os_version", "18.x", "18.2"},
		"a version of five parts":      {"os_version", "1.2.3.4.5", "18.2"},
		"two operators":                {"os_version", "<>18", "18.2"},
		"supervised perhaps":           {"supervised", "maybe", "true, false or unknown"},
		"demo in other words":          {"demo", "yes", "true or false"},
		"a time in words":              {"last_seen_before", "yesterday", "30d"},
		"a time of nothing":            {"last_seen_before", "0h", "30d"},
		"a time to come":               {"enrolled_after", "-3h", "30d"},
		"a day that there is not":      {"enrolled_after", "2026-02-30", "30d"},
		"days without end":             {"enrolled_after", "99999999999999999999d", "30d"},
		"last seen as a comparison":    {"last_seen", "<24h", "last_seen_after"},
		"sorted by nothing":            {"sort", "-", "last_seen_at"},
		"sorted by what is none":       {"sort", "names", "name"},
		"too much text":                {"q", strings.Repeat("x", 201), "200 bytes"},
		"too many words":               {"q", strings.Repeat("x ", 11), "10 words"},
		"an attribute without a name":  {"attribute", "<0.2", "name"},
		"an attribute without a value": {"attribute", "BatteryLevel<", "no value"},
		"an attribute by ==":           {"attribute", "BatteryLevel==1", "operator"},
		"an attribute by a space":      {"attribute", "BatteryLevel 1", "operator"},
		"a number that is none":        {"attribute", "BatteryLevel<low", "is a number"},
		"a truth that is none":         {"attribute", "IsActivationLockEnabled=yes", "true or false"},
		"a truth that is less":         {"attribute", "IsActivationLockEnabled<true", "= or !="},
	} {
		t.Run(name, func(t *testing.T) {
			var q mdm.Query
			err := q.Set(tt.field, tt.value)
			var bad *mdm.QueryError
			if !errors.As(err, &bad) || bad.Field != tt.field || !strings.Contains(bad.Reason, tt.in) {
				t.Errorf("Set(%s, %q) = %v, want one that names the field and %q", tt.field, tt.value, err, tt.in)
			}
		})
	}
	for _, twice := range []string{"q", "parent_id", "last_seen_after", "demo", "sort", "supervised"} {
		value := map[string]string{"q": "a", "parent_id": "a", "last_seen_after": "1h", "demo": "true", "sort": "name", "supervised": "true"}[twice]
		q := query(t, twice, value)
		if err := q.Set(twice, value); err == nil {
			t.Errorf("%s was taken twice", twice)
		}
	}
}

func TestAnAttributeThatNobodyKnowsIsNoReasonToFindNothing(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	id := b.device(t, "a")
	b.update(t, func(tx storage.Tx) error {
		d, err := mdm.GetDevice(tx, id)
		if err != nil {
			return err
		}
		return mdm.LearnInformation(tx, &d, json.RawMessage(`{"QueryResponses":{"BrandNew":"yes","BatteryLevel":0.5}}`))
	})
	var bad *mdm.QueryError
	for _, attribute := range []string{"BateryLevel<0.9", "!BateryLevel"} {
		_, err := b.Search(t.Context(), query(t, "attribute", attribute), "", 10)
		if !errors.As(err, &bad) || bad.Unknown != "BateryLevel" || !slices.Contains(bad.Known, "BatteryLevel") {
			t.Errorf("Search(%s) = %v, want an error with the names that there are", attribute, err)
		}
	}
	found, err := b.Search(t.Context(), query(t, "attribute", "BrandNew=yes"), "", 10)
	if err != nil || found.Total != 1 {
		t.Errorf("Search(an attribute that only the device knows) = %d, %v", found.Total, err)
	}
}

func TestAConditionOfAnotherPackage(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for i := range 30 {
		id := b.device(t, fmt.Sprintf("d%02d", i), func(d *mdm.Device) { d.Demo = i%2 == 0 })
		if i%3 == 0 {
			b.update(t, func(tx storage.Tx) error { return tx.Put("elsewhere", []byte(id), nil) })
		}
	}
	asked := 0
	q := query(t, "demo", "true")
	q.AlsoIs = "is elsewhere"
	q.AlsoReads = func(id mdm.DeviceID) []storage.Read { return []storage.Read{{Bucket: "elsewhere", Key: []byte(id)}} }
	q.Also = func(tx storage.Tx, id mdm.DeviceID) (bool, error) {
		asked++
		_, err := tx.Get("elsewhere", []byte(id))
		if errors.Is(err, storage.ErrNotFound) {
			return false, nil
		}
		return err == nil, err
	}
	ids, total := searchAll(t, b, q, 2)
	if want := []mdm.DeviceID{"d00", "d06", "d12", "d18", "d24"}; !slices.Equal(ids, want) || total != len(want) {
		t.Errorf("found %v, total %d, want %v", ids, total, want)
	}
	failure := errors.New("elsewhere is broken")
	q.Also = func(storage.Tx, mdm.DeviceID) (bool, error) { return false, failure }
	if _, err := b.Search(t.Context(), q, "", 2); !errors.Is(err, failure) {
		t.Errorf("Search = %v, want the error of the condition", err)
	}
}

func TestDevicesOfAnOlderProgramAreFound(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	all := population(t, b, 1200) // more than are filled at once
	b.update(t, mdm.ForgetRows)
	ids, total := searchAll(t, b, query(t, "sort", "name"), 500)
	if want := plain(all, "name", nil); !slices.Equal(ids, want) || total != len(want) {
		t.Errorf("after an upgrade %d of %d devices are found: %s", len(ids), len(want), difference(ids, want))
	}

	// A program that knows no rows changed a device, and came back to this one.
	victim := ids[0]
	b.update(t, func(tx storage.Tx) error {
		row := mdm.Row(tx, victim)
		d, err := mdm.GetDevice(tx, victim)
		if err != nil {
			return err
		}
		d.DeviceName = "renamed"
		if err := mdm.PutDevice(tx, d); err != nil {
			return err
		}
		return tx.Put("device_rows", []byte(victim), []byte(row))
	})
	if found, err := b.Search(t.Context(), query(t, "q", "renamed"), "", 10); err != nil || found.Total != 0 {
		t.Fatalf("the row is not out of date: %d, %v", found.Total, err)
	}
	if err := b.FillRows(t.Context()); err != nil {
		t.Fatal(err)
	}
	if found, err := b.Search(t.Context(), query(t, "q", "renamed"), "", 10); err != nil || found.Total != 1 {
		t.Errorf("after the comparison of all rows: %d, %v, want the device", found.Total, err)
	}
}

func TestAPollWritesNoRow(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	id := b.device(t, "a", func(d *mdm.Device) { d.DeviceName = "Ana’s iPhone" })
	err := b.db.View(t.Context(), func(tx storage.Tx) error {
		d, err := mdm.GetDevice(tx, id)
		if err != nil {
			return err
		}
		d.TokenUpdates++ // nothing that a list shows
		return mdm.PutDevice(onlyReads{tx, t}, d)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// onlyReads takes writes of devices, and no other.
type onlyReads struct {
	storage.Tx
	t *testing.T
}

func (o onlyReads) Put(bucket string, key, _ []byte) error {
	if bucket != "devices" {
		o.t.Errorf("Put(%s, %s)", bucket, key)
	}
	return nil
}

func (o onlyReads) Delete(string, []byte) error { return nil }

func TestTextsAreComparedAsPeopleReadThem(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{"Zoë’s iPad", "zoe's ipad"},
		{"  STRASSE  ", "strasse"},
		{"Straße", "strasse"},
		{"ﬁne", "fine"},
		{"Łódź", "lodz"},
		{"İstanbul", "istanbul"},
		{"ΣΊΣΥΦΟΣ", "σισυφοσ"},
		{"Ångström", "angstrom"},
		{"a\x00b\tc\u00a0d", "a b c d"},
		{"\xff\xfe!", "!"},
		{"🦊", "🦊"},
		{"", ""},
	} {
		if got := mdm.Fold(tt.text); got != tt.want {
			t.Errorf("fold(%q) = %q, want %q", tt.text, got, tt.want)
		}
	}
}
