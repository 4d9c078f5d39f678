package enroll_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/event"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

func TestALinkIsChanged(t *testing.T) {
	storagetest.AnyEngine(t)
	h := newHouse(t)
	ctx := context.Background()
	keyring.reset()
	l := h.link(t, enroll.NewLink{Name: "old", Uses: 1, ExpiresIn: time.Hour})
	h.withIdentity(t, l, mdm.AppleID{UDID: "U1"})
	if _, err := h.OpenLink(ctx, l.Code); !errors.Is(err, enroll.ErrLinkUsedUp) {
		t.Fatalf("OpenLink = %v, want it used up", err)
	}

	name, uses, life := " Berlin ", 3, 48*time.Hour
	l, err := h.UpdateLink(ctx, l.ID, enroll.LinkChange{Name: &name, Uses: &uses, ExpiresIn: &life})
	if err != nil {
		t.Fatal(err)
	}
	if l.Name != "Berlin" || l.Uses != 3 || l.UsesLeft != 2 || !l.ExpiresAt.Equal(h.now().Add(life)) {
		t.Errorf("the link is %+v", l)
	}
	if _, err := h.OpenLink(ctx, l.Code); err != nil {
		t.Errorf("the link with more uses: %v", err)
	}
	h.view(t, func(tx storage.Tx) error {
		told, _, err := event.Page(tx, event.Filter{Action: "link.changed"}, "", 10)
		if len(told) != 1 || told[0].Details["link"] != l.ID {
			t.Errorf("the audit log has %+v", told)
		}
		return err
	})

	at := h.now().Add(time.Minute)
	if l, err = h.UpdateLink(ctx, l.ID, enroll.LinkChange{ExpiresAt: &at}); err != nil || !l.ExpiresAt.Equal(at) {
		t.Errorf("UpdateLink = %+v, %v, want it to expire at %v", l, err, at)
	}
	for field, c := range map[string]enroll.LinkChange{
		"name":       {Name: new(string([]byte{201: 'x'}))},
		"uses":       {Uses: new(0)},
		"expires_in": {ExpiresIn: new(-time.Hour)},
		"expires_at": {ExpiresAt: new(h.now())},
	} {
		var wrong *enroll.FieldError
		if _, err := h.UpdateLink(ctx, l.ID, c); !errors.As(err, &wrong) || wrong.Field != field {
			t.Errorf("UpdateLink = %v, want an error about %s", err, field)
		}
	}
	if _, err := h.UpdateLink(ctx, "none", enroll.LinkChange{}); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("UpdateLink of none = %v", err)
	}
	if err := h.RevokeLink(ctx, l.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := h.UpdateLink(ctx, l.ID, enroll.LinkChange{ExpiresIn: &life}); !errors.Is(err, enroll.ErrLinkRevoked) {
		t.Errorf("UpdateLink of a revoked one = %v", err)
	}
}

func TestUsesThatAreSpentStaySpent(t *testing.T) {
	storagetest.AnyEngine(t)
	h := newHouse(t)
	keyring.reset()
	l := h.link(t, enroll.NewLink{Uses: 5})
	h.withIdentity(t, l, mdm.AppleID{UDID: "U1"})
	h.withIdentity(t, l, mdm.AppleID{UDID: "U2"})
	var wrong *enroll.FieldError
	if _, err := h.UpdateLink(context.Background(), l.ID, enroll.LinkChange{Uses: new(1)}); !errors.As(err, &wrong) || wrong.Field != "uses" {
		t.Errorf("UpdateLink to fewer than are spent = %v", err)
	}
	if l, err := h.UpdateLink(context.Background(), l.ID, enroll.LinkChange{Uses: new(2)}); err != nil || l.UsesLeft != 0 {
		t.Errorf("UpdateLink to those that are spent = %+v, %v", l, err)
	}
	open := h.link(t, enroll.NewLink{Unlimited: true})
	if _, err := h.UpdateLink(context.Background(), open.ID, enroll.LinkChange{Uses: new(2)}); !errors.As(err, &wrong) {
		t.Errorf("UpdateLink of one without limit = %v", err)
	}
}

func TestLinksAreFoundByUserAndState(t *testing.T) {
	storagetest.AnyEngine(t)
	h := newHouse(t)
	ctx := context.Background()
	var ids []string
	for i := range 12 {
		l := h.link(t, enroll.NewLink{User: fmt.Sprintf("User%d@example.com", i%2), ExpiresIn: time.Duration(1+i%3) * time.Hour})
		ids = append(ids, l.ID)
	}
	if err := h.RevokeLink(ctx, ids[11]); err != nil {
		t.Fatal(err)
	}
	h.pass(90 * time.Minute) // those of i%3 == 0 have expired
	for name, tt := range map[string]struct {
		filter enroll.LinkFilter
		want   func(i int) bool
	}{
		"all":                  {enroll.LinkFilter{}, func(int) bool { return true }},
		"of a user, any case":  {enroll.LinkFilter{User: " uSER1@example.com"}, func(i int) bool { return i%2 == 1 }},
		"expired":              {enroll.LinkFilter{State: enroll.LinkExpired}, func(i int) bool { return i%3 == 0 }},
		"revoked":              {enroll.LinkFilter{State: enroll.LinkRevoked}, func(i int) bool { return i == 11 }},
		"active, of a user":    {enroll.LinkFilter{State: enroll.LinkActive, User: "user1@example.com"}, func(i int) bool { return i%2 == 1 && i%3 != 0 && i != 11 }},
		"of nobody":            {enroll.LinkFilter{User: "nobody"}, func(int) bool { return false }},
		"used up, as none are": {enroll.LinkFilter{State: enroll.LinkUsedUp}, func(int) bool { return false }},
	} {
		t.Run(name, func(t *testing.T) {
			for _, limit := range []int{1, 2, 5, 100} {
				var got, want []string
				for cursor := ""; ; {
					page, next, err := h.FindLinks(ctx, tt.filter, cursor, limit)
					if err != nil || len(page) > limit {
						t.Fatalf("FindLinks = %d links, %v; limit %d", len(page), err, limit)
					}
					for _, l := range page {
						got = append(got, l.ID)
					}
					if next == "" {
						break
					}
					cursor = next
				}
				for i, id := range ids {
					if tt.want(i) {
						want = append(want, id)
					}
				}
				slices.Sort(want)
				if !slices.Equal(got, want) {
					t.Errorf("limit %d: found %q, want %q", limit, got, want)
				}
			}
		})
	}
}

func TestWhatBecameOfALink(t *testing.T) {
	storagetest.AnyEngine(t)
	h := newHouse(t)
	keyring.reset()
	ctx := context.Background()
	uses := func(ids ...string) (list []enroll.LinkUse) {
		t.Helper()
		h.view(t, func(tx storage.Tx) (err error) {
			list, err = enroll.LinkUses(tx, ids)
			return err
		})
		return list
	}
	untouched, opened := h.link(t, enroll.NewLink{}), h.link(t, enroll.NewLink{Uses: 5})
	if _, _, err := h.NewEnrollment(ctx, opened.Code); err != nil {
		t.Fatal(err)
	}
	used := h.link(t, enroll.NewLink{Uses: 5})
	if _, _, err := h.NewEnrollment(ctx, used.Code); err != nil {
		t.Fatal(err)
	}
	h.withIdentity(t, used, mdm.AppleID{UDID: "U1"})
	revoked := h.link(t, enroll.NewLink{})
	if _, _, err := h.NewEnrollment(ctx, revoked.Code); err != nil {
		t.Fatal(err)
	}
	if err := h.RevokeLink(ctx, revoked.ID); err != nil {
		t.Fatal(err)
	}
	list := uses(used.ID, "none", untouched.ID, opened.ID, revoked.ID)
	if len(list) != 4 {
		t.Fatalf("LinkUses = %+v", list)
	}
	if got := list[0]; got.ID != used.ID || got.Attempt == nil || got.Attempt.Stage != enroll.IdentityIssued {
		t.Errorf("the link that was used: %+v, %+v", got.Link, got.Attempt)
	}
	if got := list[1]; got.ID != untouched.ID || got.Attempt != nil {
		t.Errorf("the link that nobody opened: %+v, %+v", got.Link, got.Attempt)
	}
	if got := list[2]; got.Attempt == nil || got.Attempt.Stage != enroll.ProfileDownloaded {
		t.Errorf("the link that was opened: %+v, %+v", got.Link, got.Attempt)
	}
	if got := list[3]; got.Attempt == nil || got.Attempt.Stage != enroll.AttemptFailed || got.Attempt.ErrorCode != "link_revoked" {
		t.Errorf("the link that was revoked: %+v, %+v", got.Link, got.Attempt)
	}
}

func TestWhatBecameOfALinkThatManyHaveOpened(t *testing.T) {
	storagetest.AnyEngine(t)
	h := newHouse(t)
	l := h.link(t, enroll.NewLink{Login: enroll.LoginNone, Uses: 5})
	last := ""
	for range 201 {
		last = max(last, h.visit(t, enroll.NewVisit{LinkCode: l.Code}).ID)
	}
	_, _, err := h.VisitProfile(context.Background(), last)
	must(t, err)
	var list []enroll.LinkUse
	h.view(t, func(tx storage.Tx) (err error) {
		list, err = enroll.LinkUses(tx, []string{l.ID})
		return err
	})
	if len(list) != 1 || list[0].Attempt == nil || list[0].Attempt.ID != last {
		t.Errorf("what became of the link is %+v, want attempt %s", list[0].Attempt, last)
	}
}
