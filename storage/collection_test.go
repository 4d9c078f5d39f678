package storage_test

import (
	"cmp"
	"encoding/base64"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

type gadget struct {
	ID     string   `json:"id"`
	Serial string   `json:"serial,omitempty"`
	Tags   []string `json:"tags,omitempty"`
	Note   string   `json:"note,omitempty"`
}

func gadgetID(g gadget) string { return g.ID }

func bySerial(g gadget) []string {
	if g.Serial == "" {
		return nil
	}
	return []string{g.Serial}
}

var gadgets = storage.NewCollection("gadget", 1, gadgetID,
	storage.Index[gadget]{Name: "serial", Unique: true, Values: bySerial},
	storage.Index[gadget]{Name: "tag", Values: func(g gadget) []string { return g.Tags }})

func update(t testing.TB, db storage.DB, fn func(storage.Tx) error) {
	t.Helper()
	if err := db.Update(t.Context(), fn); err != nil {
		t.Fatalf("Update: %v", err)
	}
}

func view(t testing.TB, db storage.DB, fn func(storage.Tx) error) {
	t.Helper()
	if err := db.View(t.Context(), fn); err != nil {
		t.Fatalf("View: %v", err)
	}
}

func store(t testing.TB, db storage.DB, all ...gadget) {
	t.Helper()
	update(t, db, func(tx storage.Tx) error {
		for _, g := range all {
			if err := gadgets.Put(tx, g); err != nil {
				return err
			}
		}
		return nil
	})
}

// dump returns all that a bucket holds.
func dump(tx storage.Tx, bucket string) (map[string]string, error) {
	all := map[string]string{}
	for item, err := range tx.Scan(bucket, storage.Range{}) {
		if err != nil {
			return nil, err
		}
		all[string(item.Key)] = string(item.Value)
	}
	return all, nil
}

// What is stored is read by later versions of the program: these bytes may only change
// together with a migration.
func TestRecordsAndIndexesHaveTheseBytes(t *testing.T) {
	db := storagetest.Open(t)
	store(t, db, gadget{ID: "a", Serial: "S\x001", Tags: []string{"x", "y", "x"}, Note: `<b> & "ü"`}, gadget{ID: "b"})
	view(t, db, func(tx storage.Tx) error {
		for bucket, want := range map[string]map[string]string{
			"gadget": {
				"a": `{"v":1,"d":{"id":"a","serial":"S\u00001","tags":["x","y","x"],"note":"<b> & \"ü\""}}`,
				"b": `{"v":1,"d":{"id":"b"}}`,
			},
			"gadget.serial": {"S\x00\xff1\x00\x01": "a"},
			"gadget.tag":    {"x\x00\x01a": "", "y\x00\x01a": ""},
		} {
			got, err := dump(tx, bucket)
			if err != nil {
				return err
			}
			if !maps.Equal(got, want) {
				t.Errorf("bucket %s holds\n%q, want\n%q", bucket, got, want)
			}
		}
		return nil
	})
}

func TestTheValuesOfAnIndex(t *testing.T) {
	db := storagetest.Open(t)
	store(t, db, gadget{ID: "a", Serial: "S\x001", Tags: []string{"x", "y\x00z"}}, gadget{ID: "b", Serial: "S", Tags: []string{"y"}})
	view(t, db, func(tx storage.Tx) error {
		for _, tt := range []struct {
			index, from string
			want        []storage.IndexEntry
		}{
			{"serial", "", []storage.IndexEntry{{Value: "S", Key: "b"}, {Value: "S\x001", Key: "a"}}},
			{"serial", "S\x00", []storage.IndexEntry{{Value: "S\x001", Key: "a"}}},
			{"tag", "", []storage.IndexEntry{{Value: "x", Key: "a"}, {Value: "y", Key: "b"}, {Value: "y\x00z", Key: "a"}}},
			{"tag", "y", []storage.IndexEntry{{Value: "y", Key: "b"}, {Value: "y\x00z", Key: "a"}}},
			{"tag", "z", nil},
		} {
			var got []storage.IndexEntry
			for e, err := range gadgets.Values(tx, tt.index, tt.from) {
				if err != nil {
					return err
				}
				got = append(got, e)
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("%s from %q has %q, want %q", tt.index, tt.from, got, tt.want)
			}
		}
		for _, err := range gadgets.Values(tx, "none", "") {
			if err == nil {
				t.Error("there is an index that nobody declared")
			}
		}
		return nil
	})
}

func TestWhatIsNoRecordIsReportedByName(t *testing.T) {
	for name, tt := range map[string]struct {
		value string
		want  error
	}{
		"of a newer version":      {`{"v":2,"d":{"id":"a"}}`, storage.ErrNewer},
		"of a much newer version": {`{"v":99999999999999999999,"d":{}}`, storage.ErrCorrupt},
		"of no version":           {`{"v":0,"d":{"id":"a"}}`, storage.ErrCorrupt},
		"without an envelope":     {`{"id":"a"}`, storage.ErrCorrupt},
		"cut off":                 {`{"v":1,"d":{"id":"a"}`, storage.ErrCorrupt},
		"cut off early":           {`{"v":1,"d":`, storage.ErrCorrupt},
		"cut off very early":      {`{"v":1`, storage.ErrCorrupt},
		"empty":                   {``, storage.ErrCorrupt},
		"of another type":         {`{"v":1,"d":{"id":7}}`, storage.ErrCorrupt},
		"garbage":                 {"\x00\xff\x13", storage.ErrCorrupt},
		"with something after it": {`{"v":1,"d":{"id":"a"}} }`, storage.ErrCorrupt},
		"a record":                {`{"v":1,"d":{"id":"a"}}`, nil},
		"a record with more":      {`{"v":1,"d":{"id":"a","added":1}}`, nil},
	} {
		t.Run(name, func(t *testing.T) {
			db := storagetest.Open(t)
			update(t, db, func(tx storage.Tx) error { return tx.Put("gadget", []byte("the-key"), []byte(tt.value)) })
			view(t, db, func(tx storage.Tx) error {
				_, err := gadgets.Get(tx, "the-key")
				_, _, pageErr := storage.Page(tx, gadgets, "", 10)
				var allErr error
				for _, allErr = range gadgets.All(tx, storage.Range{}) {
				}
				for how, err := range map[string]error{"Get": err, "Page": pageErr, "All": allErr} {
					if !errors.Is(err, tt.want) || err != nil && !strings.Contains(err.Error(), `gadget "the-key"`) {
						t.Errorf("%s: %v, want %v and which record", how, err, tt.want)
					}
				}
				return nil
			})
			if tt.want != nil {
				err := db.Update(t.Context(), func(tx storage.Tx) error { return gadgets.Put(tx, gadget{ID: "the-key"}) })
				if !errors.Is(err, tt.want) {
					t.Errorf("Put over it: %v, want %v, since its index entries are unknown", err, tt.want)
				}
			}
		})
	}
}

func TestACollectionSaysWhatIsThere(t *testing.T) {
	db := storagetest.Open(t)
	store(t, db, gadget{ID: "a", Serial: "1"})
	update(t, db, func(tx storage.Tx) error {
		for name, tt := range map[string]struct {
			err, want error
		}{
			"Create of a key that is taken":          {gadgets.Create(tx, gadget{ID: "a"}), storage.ErrExists},
			"Create with a value that is taken":      {gadgets.Create(tx, gadget{ID: "b", Serial: "1"}), storage.ErrExists},
			"Put with a value that is taken":         {gadgets.Put(tx, gadget{ID: "b", Serial: "1"}), storage.ErrExists},
			"Put of the same again":                  {gadgets.Put(tx, gadget{ID: "a", Serial: "1"}), nil},
			"Create with an empty key":               {gadgets.Create(tx, gadget{}), storage.ErrLimit},
			"Put with an index value that is long":   {gadgets.Put(tx, gadget{ID: "b", Tags: []string{strings.Repeat("x", storage.MaxKey)}}), storage.ErrLimit},
			"Delete of what is not there":            {gadgets.Delete(tx, "none"), nil},
			"Get of an empty key":                    {second(gadgets.Get(tx, "")), storage.ErrNotFound},
			"Get of what is not there":               {second(gadgets.Get(tx, "none")), storage.ErrNotFound},
			"One of a value that is not there":       {second(gadgets.One(tx, "serial", "none")), storage.ErrNotFound},
			"One of a value that only begins there":  {second(gadgets.One(tx, "serial", "")), storage.ErrNotFound},
			"One of a value by an index of the rest": {second(gadgets.One(tx, "serial", "1")), nil},
		} {
			if !errors.Is(tt.err, tt.want) {
				t.Errorf("%s: %v, want %v", name, tt.err, tt.want)
			}
		}
		if _, err := gadgets.One(tx, "colour", "red"); err == nil {
			t.Error("One by an index that does not exist: no error")
		}
		if there, err := gadgets.Has(tx, "a"); !there || err != nil {
			t.Errorf("Has(a) = %v, %v", there, err)
		}
		if there, err := gadgets.Has(tx, "none"); there || err != nil {
			t.Errorf("Has(none) = %v, %v", there, err)
		}
		return nil
	})
	view(t, db, func(tx storage.Tx) error { // what was refused left no trace
		got, err := dump(tx, "gadget.tag")
		if len(got) > 0 {
			t.Errorf("index entries without a record: %q", got)
		}
		return err
	})
}

func second[T any](_ T, err error) error { return err }

func TestADeletedRecordFreesItsUniqueValue(t *testing.T) {
	db := storagetest.Open(t)
	store(t, db, gadget{ID: "a", Serial: "1"}, gadget{ID: "b", Serial: "2"})
	update(t, db, func(tx storage.Tx) error { // one transaction, in which values move on
		return errors.Join(
			gadgets.Delete(tx, "a"),
			gadgets.Put(tx, gadget{ID: "b", Serial: "1"}),
			gadgets.Create(tx, gadget{ID: "c", Serial: "2"}))
	})
	view(t, db, func(tx storage.Tx) error {
		for serial, want := range map[string]string{"1": "b", "2": "c"} {
			if g, err := gadgets.One(tx, "serial", serial); g.ID != want {
				t.Errorf("serial %s is of %q, %v, want %q", serial, g.ID, err, want)
			}
		}
		return nil
	})
}

func TestAnIndexEntryWithoutItsRecordIsReported(t *testing.T) {
	db := storagetest.Open(t)
	store(t, db, gadget{ID: "a", Serial: "1", Tags: []string{"x"}})
	update(t, db, func(tx storage.Tx) error { return tx.Delete("gadget", []byte("a")) })
	view(t, db, func(tx storage.Tx) error {
		_, err := gadgets.One(tx, "serial", "1")
		for _, err2 := range gadgets.Lookup(tx, "tag", "x") {
			err = errors.Join(err, err2)
		}
		if !errors.Is(err, storage.ErrCorrupt) || errors.Is(err, storage.ErrNotFound) {
			t.Errorf("%v, want ErrCorrupt and not ErrNotFound", err)
		}
		return nil
	})
}

func TestPagesCoverAListOnceWhateverHappensBetweenThem(t *testing.T) {
	db := storagetest.Open(t)
	parents := storage.NewCollection("child", 1, func(g gadget) string { return string(storage.Key(g.Serial, g.ID)) })
	update(t, db, func(tx storage.Tx) error {
		for i := range 25 {
			for _, parent := range []string{"p", "p\x00", "q"} {
				if err := parents.Put(tx, gadget{ID: fmt.Sprintf("%02d", i), Serial: parent}); err != nil {
					return err
				}
			}
		}
		return nil
	})
	prefix := storage.KeyPrefix("p")
	for _, reverse := range []bool{false, true} {
		for _, limit := range []int{1, 5, 7, 24, 25, 26, 0} {
			var ids []string
			cursor, pages := "", 0
			for {
				var next string
				var page []gadget
				view(t, db, func(tx storage.Tx) (err error) {
					page, next, err = storage.PagePrefix(tx, parents, prefix, cursor, limit, reverse)
					return err
				})
				for _, g := range page {
					if g.Serial != "p" {
						t.Fatalf("a page of p holds one of %q", g.Serial)
					}
					ids = append(ids, g.ID)
				}
				if pages++; next == "" {
					break
				}
				if strings.ContainsAny(next, "+/=&?# ") {
					t.Errorf("cursor %q is not for URLs", next)
				}
				cursor = next
				update(t, db, func(tx storage.Tx) error { // the last one seen goes and comes back
					key := string(storage.Key("p", ids[len(ids)-1]))
					g, err := parents.Get(tx, key)
					if err != nil {
						return err
					}
					return errors.Join(parents.Delete(tx, key), parents.Put(tx, g))
				})
			}
			if want := max(1, (25+limit-1)/max(limit, 1)); limit > 0 && pages != want {
				t.Errorf("limit %d: %d pages, want %d", limit, pages, want)
			}
			if reverse {
				slices.Reverse(ids)
			}
			if len(ids) != 25 || !slices.IsSorted(ids) || len(slices.Compact(ids)) != 25 {
				t.Errorf("limit %d, reverse %v: pages hold %q", limit, reverse, ids)
			}
		}
	}
	forward := base64.RawURLEncoding.EncodeToString([]byte("fp\x00\x0100\x00\x01"))
	view(t, db, func(tx storage.Tx) error {
		for name, tt := range map[string]struct {
			cursor  string
			reverse bool
			want    error
		}{
			"a good one":           {forward, false, nil},
			"the other direction":  {forward, true, storage.ErrBadCursor},
			"another list":         {base64.RawURLEncoding.EncodeToString([]byte("fq\x00\x01")), false, storage.ErrBadCursor},
			"no base64":            {"***", false, storage.ErrBadCursor},
			"padded":               {forward + "=", false, storage.ErrBadCursor},
			"no key":               {base64.RawURLEncoding.EncodeToString([]byte("f")), false, storage.ErrBadCursor},
			"longer than any":      {base64.RawURLEncoding.EncodeToString([]byte("fp\x00\x01" + strings.Repeat("x", 2000))), false, storage.ErrBadCursor},
			"of an unknown letter": {base64.RawURLEncoding.EncodeToString([]byte("xp\x00\x01")), false, storage.ErrBadCursor},
		} {
			if _, _, err := storage.PagePrefix(tx, parents, prefix, tt.cursor, 5, tt.reverse); !errors.Is(err, tt.want) {
				t.Errorf("cursor of %s: %v, want %v", name, err, tt.want)
			}
		}
		return nil
	})
}

func TestDeclarationsThatCanNotWorkPanic(t *testing.T) {
	ix := func(name string) storage.Index[gadget] { return storage.Index[gadget]{Name: name, Values: bySerial} }
	for name, declare := range map[string]func(){
		"a name in capitals":        func() { storage.NewCollection("Gadget", 1, gadgetID) },
		"no version":                func() { storage.NewCollection("gadget", 0, gadgetID) },
		"an index without a name":   func() { storage.NewCollection("gadget", 1, gadgetID, ix("")) },
		"an index with a dot":       func() { storage.NewCollection("gadget", 1, gadgetID, ix("a.b")) },
		"two indexes of one name":   func() { storage.NewCollection("gadget", 1, gadgetID, ix("a"), ix("a")) },
		"an index with a long name": func() { storage.NewCollection("gadget", 1, gadgetID, ix(strings.Repeat("a", 60))) },
	} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if recover() == nil {
					t.Error("no panic")
				}
			}()
			declare()
		})
	}
}

// Whatever is done to a collection, it answers as a map of its records would, and its
// indexes say no more and no less.
func TestACollectionDoesWhatAMapDoes(t *testing.T) {
	db := storagetest.Open(t)
	word := rapid.SampledFrom([]string{"", "a", "b", "a\x00", "ab", "\xc3\xbf"})
	id := rapid.SampledFrom([]string{"1", "2", "3", "1\x00", "\x00\x01", "12"})
	rapid.Check(t, func(t *rapid.T) {
		model := map[string]gadget{}
		steps := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) step {
			return step{
				do: rapid.SampledFrom([]string{"put", "put", "create", "delete"}).Draw(t, "do"),
				gadget: gadget{ID: id.Draw(t, "id"), Serial: word.Draw(t, "serial"),
					Tags: rapid.SliceOfN(word, 0, 3).Draw(t, "tags"), Note: rapid.String().Draw(t, "note")},
			}
		}), 1, 25).Draw(t, "steps")
		from, to := word.Draw(t, "from"), word.Draw(t, "to")
		errUndo := errors.New("undo") // the next example begins with nothing again
		err := db.Update(t.Context(), func(tx storage.Tx) error {
			clear(model)
			for _, s := range steps {
				if err := s.run(tx, model); err != nil {
					return err
				}
			}
			if err := agree(tx, model, from, to); err != nil {
				return err
			}
			return errUndo
		})
		if err != errUndo {
			t.Fatal(err)
		}
	})
}

type step struct {
	do     string
	gadget gadget
}

func (s step) run(tx storage.Tx, model map[string]gadget) error {
	g := s.gadget
	_, there := model[g.ID]
	var want error
	for _, other := range model {
		if other.ID != g.ID && other.Serial == g.Serial && g.Serial != "" {
			want = storage.ErrExists
		}
	}
	var err error
	switch s.do {
	case "put":
		err = gadgets.Put(tx, g)
	case "create":
		if err = gadgets.Create(tx, g); there {
			want = storage.ErrExists
		}
	case "delete":
		if err := gadgets.Delete(tx, g.ID); err != nil {
			return err
		}
		delete(model, g.ID)
		return nil
	}
	if !errors.Is(err, want) {
		return fmt.Errorf("%s %+v: %v, want %v", s.do, g, err, want)
	}
	if err == nil {
		model[g.ID] = g
	}
	return nil
}

// agree compares all that a collection can be asked.
func agree(tx storage.Tx, model map[string]gadget, from, to string) error {
	sorted := slices.SortedFunc(maps.Values(model), func(a, b gadget) int { return cmp.Compare(a.ID, b.ID) })
	if err := same("All", gadgets.All(tx, storage.Range{}), sorted); err != nil {
		return err
	}
	entries := map[string]map[string]string{"gadget.serial": {}, "gadget.tag": {}}
	for _, tag := range []string{"", "a", "b", "a\x00", "ab"} {
		var want []gadget
		for _, g := range sorted {
			if slices.Contains(g.Tags, tag) {
				want = append(want, g)
			}
		}
		if err := same("Lookup "+tag, gadgets.Lookup(tx, "tag", tag), want); err != nil {
			return err
		}
	}
	type tagged struct {
		tag string
		gadget
	}
	var order []tagged
	for _, g := range sorted {
		if g.Serial != "" {
			entries["gadget.serial"][string(storage.Key(g.Serial))] = g.ID
			if got, err := gadgets.One(tx, "serial", g.Serial); err != nil || got.ID != g.ID {
				return fmt.Errorf("One(%q) = %+v, %v, want %+v", g.Serial, got, err, g)
			}
		}
		for i, tag := range g.Tags {
			entries["gadget.tag"][string(storage.Key(tag))+g.ID] = ""
			if tag >= from && (to == "" || tag < to) && !slices.Contains(g.Tags[:i], tag) {
				order = append(order, tagged{tag, g})
			}
		}
	}
	slices.SortStableFunc(order, func(a, b tagged) int { return cmp.Compare(a.tag, b.tag) })
	var want []gadget
	for _, o := range order {
		want = append(want, o.gadget)
	}
	if err := same("Ascend", gadgets.Ascend(tx, "tag", from, to, 0), want); err != nil {
		return err
	}
	if len(want) > 2 {
		want = want[:2]
	}
	if err := same("Ascend 2", gadgets.Ascend(tx, "tag", from, to, 2), want); err != nil {
		return err
	}
	for bucket, want := range entries {
		if got, err := dump(tx, bucket); err != nil || !maps.Equal(got, want) {
			return fmt.Errorf("bucket %s holds %q, %v, want %q", bucket, got, err, want)
		}
	}
	return nil
}

func same(what string, got iter.Seq2[gadget, error], want []gadget) error {
	var all []gadget
	for g, err := range got {
		if err != nil {
			return err
		}
		all = append(all, g)
	}
	equal := func(a, b gadget) bool {
		return a.ID == b.ID && a.Serial == b.Serial && a.Note == b.Note && slices.Equal(a.Tags, b.Tags)
	}
	if !slices.EqualFunc(all, want, equal) {
		return fmt.Errorf("%s: %+v, want %+v", what, all, want)
	}
	return nil
}

func TestASweepTakesWhatIsBeforeAndNothingElse(t *testing.T) {
	db := storagetest.Open(t)
	const old = 501 // more than one transaction works on
	var all []gadget
	for i := range old {
		all = append(all, gadget{ID: fmt.Sprint("old", i), Tags: []string{fmt.Sprintf("2026-01-%04d", i)}})
	}
	store(t, db, append(all, gadget{ID: "new", Tags: []string{"2027"}}, gadget{ID: "untagged"})...)
	err := storage.Sweep(t.Context(), db, gadgets, "tag", "2027", func(tx storage.Tx, g gadget) error { return gadgets.Delete(tx, g.ID) })
	if err != nil {
		t.Fatal(err)
	}
	var left []string
	view(t, db, func(tx storage.Tx) error {
		left = nil
		for g, err := range gadgets.All(tx, storage.Range{}) {
			if err != nil {
				return err
			}
			left = append(left, g.ID)
		}
		return nil
	})
	if !slices.Equal(left, []string{"new", "untagged"}) {
		t.Errorf("%d are left: %.100v, want new and untagged", len(left), left)
	}
	refusal := errors.New("not this one")
	err = storage.Sweep(t.Context(), db, gadgets, "tag", "2028", func(storage.Tx, gadget) error { return refusal })
	if !errors.Is(err, refusal) {
		t.Errorf("Sweep = %v, want %v", err, refusal)
	}
}
