package event_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/mdm/event"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

func (b *bench) export(t *testing.T, since, until time.Time) []string {
	t.Helper()
	var out bytes.Buffer
	if err := event.Export(ctx, b.db, &out, since, until); err != nil {
		t.Fatal(err)
	}
	return strings.SplitAfter(strings.TrimSuffix(out.String(), "\n"), "\n")
}

// logOf returns a bench with n events an hour apart, the second one of which is erased.
func logOf(t *testing.T, n int) *bench {
	t.Helper()
	b := newBench(t, func(c *event.Config) { c.MostTrouble = 1 })
	for i := range n {
		e := event.Event{At: b.pass(time.Hour), Action: "user.login", User: "Zoë \"Z\" <z&z@example.com>", Reason: fmt.Sprint(i + 1), Details: map[string]string{"b": "x", "a": "y"}}
		if i == 1 || i == n-1 {
			e.Outcome = event.Refused
		}
		b.record(t, e)
	}
	if err := b.Forget(ctx); err != nil {
		t.Fatal(err)
	}
	return b
}

func TestAnExportIsVerified(t *testing.T) {
	b := logOf(t, 1300) // more than two batches
	lines := b.export(t, time.Time{}, time.Time{})
	v, err := event.VerifyExport(strings.NewReader(strings.Join(lines, "\n")+"\n"), nil)
	if err == nil {
		t.Error("an export with empty lines is verified")
	}
	v, err = event.VerifyExport(strings.NewReader(strings.Join(lines, "")+"\n"), nil)
	if err != nil || v.First != 1 || v.Last != 1300 || v.Events != 1299 || v.Erased != 1 {
		t.Errorf("VerifyExport() = %+v, %v, want events 1 to 1300, one of them erased", v, err)
	}
	stored, err := event.VerifyStored(ctx, b.db, map[uint64]string{v.Last: v.Hash})
	if err != nil || stored != v {
		t.Errorf("VerifyStored() = %+v, %v, want what the export comes to, %+v", stored, err, v)
	}
	if strings.Count(strings.Join(lines, ""), "prev_hash") != 1 || !strings.Contains(lines[0], "prev_hash") {
		t.Error("not the first line alone has prev_hash")
	}
}

func TestAPartIsExported(t *testing.T) {
	b := logOf(t, 10)
	start := b.Now().Add(-10 * time.Hour) // an hour before the first
	at := func(n int) time.Time { return start.Add(time.Duration(n) * time.Hour) }
	for name, tt := range map[string]struct {
		since, until time.Time
		first, last  uint64
	}{
		"all":                      {time.Time{}, time.Time{}, 1, 10},
		"since a time":             {at(4), time.Time{}, 4, 10},
		"until a time":             {time.Time{}, at(4), 1, 3},
		"between times":            {at(4), at(6), 4, 5},
		"of before all":            {time.Time{}, at(1), 1, 0},
		"of after all":             {at(11), time.Time{}, 1, 0},
		"between times, wrong way": {at(6), at(4), 1, 0},
	} {
		t.Run(name, func(t *testing.T) {
			out := strings.Join(b.export(t, tt.since, tt.until), "")
			if out != "" {
				out += "\n"
			}
			v, err := event.VerifyExport(strings.NewReader(out), nil)
			if err != nil || v.First != tt.first || v.Last != tt.last {
				t.Errorf("the export verifies as %+v, %v, want %d to %d", v, err, tt.first, tt.last)
			}
		})
	}
}

func TestTamperingWithAnExportIsFound(t *testing.T) {
	b := logOf(t, 6)
	lines := b.export(t, time.Time{}, time.Time{})
	lines[len(lines)-1] += "\n"
	good, err := event.VerifyExport(strings.NewReader(strings.Join(lines, "")), nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		change func([]string) []string
		want   string
	}{
		"a text is changed":               {func(l []string) []string { l[3] = strings.Replace(l[3], `"4"`, `"5"`, 1); return l }, "line 4 (event 4) was changed"},
		"a detail is added":               {func(l []string) []string { l[3] = strings.Replace(l[3], `"b":"x"`, `"b":"x","c":"z"`, 1); return l }, "line 4 (event 4) was changed"},
		"a hash is changed":               {func(l []string) []string { l[3] = strings.Replace(l[3], `"hash":"`, `"hash":"0`, 1); return l }, "line 4 (event 4) was changed"},
		"a name is there twice":           {func(l []string) []string { l[3] = strings.Replace(l[3], `{`, `{"action":"user.fine",`, 1); return l }, "line 4 is not written"},
		"a line is dropped":               {func(l []string) []string { return slices.Delete(l, 2, 3) }, "line 3 is event 4, and event 3 should be there: lines are missing"},
		"the first line is dropped":       {func(l []string) []string { return l[1:] }, "line 1 (event 2) lacks prev_hash"},
		"a line is there twice":           {func(l []string) []string { return slices.Insert(l, 3, l[2]) }, "line 4 is event 3, and event 4 should be there: the line was put in"},
		"lines are exchanged":             {func(l []string) []string { l[3], l[4] = l[4], l[3]; return l }, "line 4 is event 5"},
		"an event is said to be erased":   {func(l []string) []string { l[3] = `{"erased":"00","hash":"00","seq":4}` + "\n"; return l }, "line 4 (event 4) was changed"},
		"an event is put in as erased":    {func(l []string) []string { l[3] = erased(t, l[3]); return l }, "line 4 (event 4) was changed"},
		"an erased one gets a text":       {func(l []string) []string { l[1] = strings.Replace(l[1], `{`, `{"action":"user.fine",`, 1); return l }, "line 2 (event 2) was changed"},
		"the last line is cut":            {func(l []string) []string { l[5] = l[5][:20]; return l }, "line 6 was cut off"},
		"the last lines are missing":      {func(l []string) []string { return l[:4] }, "is not there: event 6 is not among events 1 to 4"},
		"another one has been exported":   {func(l []string) []string { return []string{"{}\n"} }, "line 1 is no event of an export"},
		"something else is in the file":   {func(l []string) []string { return []string{"hello\n"} }, "line 1 is no event"},
		"a line is as long as a nuisance": {func(l []string) []string { return []string{strings.Repeat("x", 1<<20) + "\n"} }, "line 1 is longer"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := event.VerifyExport(strings.NewReader(strings.Join(tt.change(slices.Clone(lines)), "")), map[uint64]string{good.Last: good.Hash})
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("VerifyExport() = %v, want %q", err, tt.want)
			}
		})
	}
	_, err = event.VerifyExport(strings.NewReader(strings.Join(lines, "")), map[uint64]string{3: good.Hash})
	if err == nil || !strings.Contains(err.Error(), "line 3: event 3 does not have the hash that was noted of it") {
		t.Errorf("VerifyExport with another hash of event 3 = %v", err)
	}
}

// erased is the line that there would be if the event of line were erased: who has nothing
// but the export can write it.
func erased(t *testing.T, line string) string {
	t.Helper()
	var members map[string]any
	dec := json.NewDecoder(strings.NewReader(line))
	dec.UseNumber()
	if err := dec.Decode(&members); err != nil {
		t.Fatal(err)
	}
	left := map[string]any{"seq": members["seq"], "hash": members["hash"]}
	delete(members, "seq")
	delete(members, "hash")
	digest := sha256.Sum256(marshal(t, members))
	left["erased"] = hex.EncodeToString(digest[:])
	return string(marshal(t, left)) + "\n"
}

// marshal writes as the export does.
func marshal(t *testing.T, v any) []byte {
	t.Helper()
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		t.Fatal(err)
	}
	return bytes.TrimSuffix(out.Bytes(), []byte("\n"))
}

func TestTamperingWithTheDatabaseIsFound(t *testing.T) {
	change := func(bucket string, nth int, edit func(tx storage.Tx, item storage.Item) error) func(tx storage.Tx) error {
		return func(tx storage.Tx) error {
			n := 0
			for item, err := range tx.Scan(bucket, storage.Range{}) {
				if err != nil {
					return err
				}
				if n++; n == nth {
					return edit(tx, item)
				}
			}
			return fmt.Errorf("%s has %d items", bucket, n)
		}
	}
	for name, tt := range map[string]struct {
		change func(storage.Tx) error
		want   string
	}{
		"a text is changed": {change("event.log", 2, func(tx storage.Tx, item storage.Item) error { // the second one is erased
			return tx.Put("event.log", item.Key, bytes.Replace(item.Value, []byte("user.login"), []byte("user.fine"), 1))
		}), "event 3 was changed"},
		"an event is deleted": {change("event.log", 2, func(tx storage.Tx, item storage.Item) error {
			return tx.Delete("event.log", item.Key)
		}), "event 3 is missing"},
		"an event is deleted with its place": {change("event.chain", 2, func(tx storage.Tx, item storage.Item) error {
			return tx.Delete("event.chain", item.Key)
		}), "event 3 is missing"},
		"the last event is deleted": {change("event.chain", 5, func(tx storage.Tx, item storage.Item) error {
			return tx.Delete("event.chain", item.Key)
		}), "event 6 is missing"},
		"an event that never happened is put in": {change("event.log", 2, func(tx storage.Tx, item storage.Item) error {
			other := bytes.Clone(item.Key)
			other[len(other)-1] ^= 1
			return tx.Put("event.log", other, bytes.ReplaceAll(item.Value, item.Key, other))
		}), "was put in"},
		"an event is hidden from filters": {change("event.log.by", 2, func(tx storage.Tx, item storage.Item) error {
			return tx.Delete("event.log.by", item.Key)
		}), "is hidden from lists"},
		"a hash is changed": {change("event.chain", 2, func(tx storage.Tx, item storage.Item) error {
			item.Value[5] ^= 1
			return tx.Put("event.chain", item.Key, item.Value)
		}), "event 3 was changed"},
	} {
		t.Run(name, func(t *testing.T) {
			b := logOf(t, 6)
			if err := b.db.Update(ctx, tt.change); err != nil {
				t.Fatal(err)
			}
			if _, err := event.VerifyStored(ctx, b.db, nil); !errors.Is(err, event.ErrBroken) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("VerifyStored() = %v, want %q", err, tt.want)
			}
		})
	}
}

func FuzzVerifyExport(f *testing.F) {
	storagetest.AnyEngine(f)
	f.Add([]byte(`{"hash":"00","prev_hash":"00","seq":1}` + "\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if v, err := event.VerifyExport(bytes.NewReader(raw), nil); err == nil && len(raw) > 0 && v.Last == 0 {
			t.Errorf("VerifyExport(%q) = %+v", raw, v)
		}
	})
}
