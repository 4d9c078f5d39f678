package mdm_test

import (
	"testing"

	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

// BenchmarkGroups100k is what groups cost among 100,000 devices: a page of 100 out of a group of
// all of them, by hand and by a rule, at most 50 ms; whether one device is in a group; and the
// devices of each counted. GATEHOUSE_TEST_STORE=postgres asks the other engine.
func BenchmarkGroups100k(b *testing.B) {
	const n = 100_000
	s := fleet(b, benchStore(b), n)
	s.ReadRules(readRule)
	ctx := b.Context()
	all, err := s.Select(ctx, mdm.Query{})
	if err != nil {
		b.Fatal(err)
	}
	made := map[string]mdm.Group{}
	for name, rule := range map[string]string{"by hand": "", "by a rule": "state=enrolled&os_version=>=1", "by last seen": "last_seen_after=400d"} {
		g, err := s.CreateGroup(ctx, "bench", mdm.NewGroup{Name: name, Rule: rule})
		if err != nil {
			b.Fatal(err)
		}
		if rule == "" {
			if _, err := s.AddToGroup(ctx, "bench", g.ID, all); err != nil {
				b.Fatal(err)
			}
			if g, err = s.Group(ctx, g.ID); err != nil || g.Members != n {
				b.Fatalf("%d members, %v", g.Members, err)
			}
		}
		made[name] = g
	}
	for name, g := range made {
		for order, q := range map[string]mdm.Query{"in no order": {}, "by name": {Sort: mdm.ByName}} {
			q.GroupIDs = []mdm.GroupID{g.ID}
			b.Run("page/"+name+"/"+order, func(b *testing.B) {
				for b.Loop() {
					found, err := s.Search(ctx, q, "", 100)
					if err != nil || found.Total != n {
						b.Fatalf("Search: %d found, %v", found.Total, err)
					}
				}
			})
		}
		b.Run("count/"+name, func(b *testing.B) {
			for b.Loop() {
				count, err := s.CountGroups(ctx, g)
				if err != nil || count[g.ID] != n {
					b.Fatalf("CountGroups: %d, %v", count[g.ID], err)
				}
			}
		})
		b.Run("one device/"+name, func(b *testing.B) {
			for i := 0; b.Loop(); i++ {
				err := s.ViewScope(ctx, []mdm.GroupID{g.ID}, func(_ storage.Tx, scope *mdm.Scope) error {
					in, err := scope.Has(all[i%n])
					if !in {
						b.Errorf("%s is not in it", all[i%n])
					}
					return err
				})
				if err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	b.Run("a page of one who is limited to all three", func(b *testing.B) {
		q := mdm.Query{Sort: mdm.ByName}
		for _, g := range made {
			q.Scope = append(q.Scope, g.ID)
		}
		for b.Loop() {
			found, err := s.Search(ctx, q, "", 100)
			if err != nil || found.Total != n {
				b.Fatalf("Search: %d found, %v", found.Total, err)
			}
		}
	})
}
