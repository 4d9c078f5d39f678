package checkin_test

import (
	"fmt"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/enroll"
	gatehouse "github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/mdmtest"
	"github.com/gatehouse-mdm/gatehouse/storage/postgres"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest/postgrestest"
)

// TestRoundTripsOfAPoll holds how often a poll waits for a database that is a network away.
func TestRoundTripsOfAPoll(t *testing.T) {
	storagetest.AnyEngine(t)
	for name, tap := range map[string]gatehouse.Tap{
		"with nobody listening":             nil,
		"with one who wants other messages": &ear{kinds: []string{"mdm.TokenUpdate"}},
	} {
		t.Run(name, func(t *testing.T) { roundTripsOfAPoll(t, tap) })
	}
}

func roundTripsOfAPoll(t *testing.T, tap gatehouse.Tap) {
	w := postgrestest.NewWire(t, postgrestest.DSN(t))
	db, err := postgres.Open(t.Context(), w.DSN(), postgres.Options{})
	must(t, err)
	t.Cleanup(func() { _ = db.Close() })
	h := newHouseOn(t, db, func(c *enroll.Config) { c.Tap = tap })
	d := h.enrolled(t, mdmtest.Options{})

	id := h.record(t, d.IDs()).ID
	commands := 0
	queue := func() error {
		commands++
		return h.enqueue(t.Context(), fmt.Sprint("TRIP-", commands), "ProfileList", id)
	}
	if got := w.Count(t, queue); got != 2 {
		t.Errorf("to queue a command takes %d round trips, want 2", got)
	}
	var last *mdmtest.Command
	deliver := func() (err error) {
		last, err = d.Idle(t.Context())
		d.Channel().Forget()
		return err
	}
	must(t, deliver()) // the first is delivered, and delivered again below
	if got := w.Count(t, deliver); got != 3 {
		t.Errorf("to deliver a command again takes %d round trips, want 3", got)
	}
	acknowledge := func() (err error) {
		last, err = d.Report(t.Context(), mdmtest.Result{Status: mdmtest.StatusAcknowledged, CommandUUID: last.UUID})
		return err
	}
	// The first one brings another command, which has to be read; the second brings none. Of
	// what an answer is about, inventory reads what is known.
	if got := w.Count(t, acknowledge); got != 3 || last != nil {
		t.Errorf("an acknowledgement takes %d round trips and brings %v, want 3 and nothing", got, last)
	}

	poll := func() error {
		_, err := d.Poll(t.Context())
		return err
	}
	if got := w.Count(t, poll); got != 2 {
		t.Errorf("an idle poll takes %d round trips, want 2", got)
	}
}

// TestRoundTripsOfAPollByAccount holds that the user's access token costs no round trip more,
// on no channel.
func TestRoundTripsOfAPollByAccount(t *testing.T) {
	storagetest.AnyEngine(t)
	w := postgrestest.NewWire(t, postgrestest.DSN(t))
	db, err := postgres.Open(t.Context(), w.DSN(), postgres.Options{})
	must(t, err)
	t.Cleanup(func() { _ = db.Close() })
	h := newHouseOn(t, db)
	commands := 0
	for name, tt := range map[string]struct {
		mode    enroll.AccountMode
		options mdmtest.Options
		product string
		user    bool // on the channel of a user
	}{
		"an iPhone of a person":         {enroll.ModeBYOD, mdmtest.Options{UserEnrollment: true}, "iPhone17,2", false},
		"an iPhone of the organisation": {enroll.ModeADDE, mdmtest.Options{}, "iPhone17,2", false},
		"a Mac of the organisation":     {enroll.ModeADDE, mdmtest.Options{Model: mdmtest.Mac}, "Mac15,3", false},
		"a user of such a Mac":          {enroll.ModeADDE, mdmtest.Options{Model: mdmtest.Mac}, "Mac15,3", true},
	} {
		t.Run(name, func(t *testing.T) {
			d := h.byAccount(t, tt.mode, tt.options, tt.product)
			c, ids := d.Channel(), d.IDs()
			if tt.user {
				if c = d.User(); c == nil {
					t.Fatal("the Mac has no user channel")
				}
				must(t, c.TokenUpdate(t.Context()))
				ids = c.IDs()
			}
			poll := func() error {
				_, err := c.Poll(t.Context())
				return err
			}
			must(t, poll())
			if got := w.Count(t, poll); got != 2 {
				t.Errorf("an idle poll takes %d round trips, want 2", got)
			}
			id := h.record(t, ids).ID
			for range 2 { // what is counted is done twice
				commands++
				must(t, h.enqueue(t.Context(), fmt.Sprint("TRIP-", commands), "ProfileList", id))
			}
			var last *mdmtest.Command
			deliver := func() (err error) {
				last, err = c.Idle(t.Context())
				c.Forget()
				return err
			}
			must(t, deliver())
			if got := w.Count(t, deliver); got != 3 {
				t.Errorf("to deliver a command again takes %d round trips, want 3", got)
			}
			acknowledge := func() (err error) {
				last, err = c.Report(t.Context(), mdmtest.Result{Status: mdmtest.StatusAcknowledged, CommandUUID: last.UUID})
				return err
			}
			if got := w.Count(t, acknowledge); got != 3 || last != nil {
				t.Errorf("an acknowledgement takes %d round trips and brings %v, want 3 and nothing", got, last)
			}
		})
	}
}
