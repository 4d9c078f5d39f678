package depot_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/depot"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// activate puts the next authority of a name in force, and reloads.
func activate(t *testing.T, d *depot.Depot, db storage.DB, id string) {
	t.Helper()
	update(t, db, func(tx storage.Tx) error { return d.Activate(tx, id) })
	reload(t, d)
}

func reload(t *testing.T, d *depot.Depot) {
	t.Helper()
	if err := d.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func generate(t *testing.T, d *depot.Depot, name string) *depot.Authority {
	t.Helper()
	a, err := d.Generate(t.Context(), name, nil)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestAnAuthorityGoesThroughItsGenerations(t *testing.T) {
	for _, name := range []string{"identity", "root", "payload"} {
		t.Run(name, func(t *testing.T) {
			db := storagetest.Open(t)
			c := config(t, db)
			now := time.Now()
			c.Now = func() time.Time { return now }
			d := open(t, c)
			active := func() *depot.Authority {
				return map[string]func() *depot.Authority{"identity": d.Identity, "root": d.Root, "payload": d.Payload}[name]()
			}
			first := active()
			next := generate(t, d, name)
			if next.State() != depot.StateNext || next.Generation() != 2 || next.ID() == first.ID() || next.Name() != name {
				t.Errorf("the next one is %s, generation %d, ID %s", next.State(), next.Generation(), next.ID())
			}
			if active() != first || d.Next(name) != next {
				t.Error("it is in force already, or not found as the next one")
			}
			if _, err := next.Sign(deviceKey(t).Public(), template(now)); !errors.Is(err, depot.ErrNotActive) {
				t.Errorf("Sign by the next one = %v, want %v", err, depot.ErrNotActive)
			}
			if _, err := d.Generate(t.Context(), name, nil); !errors.Is(err, depot.ErrNextExists) {
				t.Errorf("another one = %v, want %v", err, depot.ErrNextExists)
			}
			old := issued(t, d, db, first, template(now), depot.Certificate{Template: "wifi"})

			activate(t, d, db, next.ID())
			if active().ID() != next.ID() || active().State() != depot.StateActive || d.Next(name) != nil {
				t.Fatalf("active is %s, %s", active().ID(), active().State())
			}
			if a := d.Authority(first.ID()); a.State() != depot.StateRetiring || a.Generation() != 1 {
				t.Errorf("the one before is %s", a.State())
			}
			if got := d.InUse(name); len(got) != 2 || got[0].ID() != next.ID() || got[1].ID() != first.ID() {
				t.Errorf("in use are %d authorities", len(got))
			}
			fresh := issued(t, d, db, active(), template(now), depot.Certificate{Template: "wifi"})
			if err := fresh.CheckSignatureFrom(next.Certificate()); err != nil {
				t.Error(err)
			}
			if _, err := d.Authority(first.ID()).Sign(deviceKey(t).Public(), template(now)); !errors.Is(err, depot.ErrNotActive) {
				t.Errorf("Sign by the one before = %v, want %v", err, depot.ErrNotActive)
			}

			// What it issued can still be revoked, and asked about.
			retire := func(id string) error {
				err := db.Update(t.Context(), func(tx storage.Tx) error { return d.Retire(tx, id) })
				reload(t, d)
				return err
			}
			if err := retire(first.ID()); !errors.Is(err, depot.ErrNotSettled) {
				t.Errorf("Retire at once = %v, want %v", err, depot.ErrNotSettled)
			}
			if err := retire(next.ID()); !errors.Is(err, depot.ErrNotRetirable) {
				t.Errorf("Retire the active one = %v, want %v", err, depot.ErrNotRetirable)
			}
			now = now.Add(2 * time.Minute)
			for range 2 {
				if err := retire(first.ID()); err != nil {
					t.Fatal(err)
				}
			}
			gone := d.Authority(first.ID())
			if gone == nil || gone.State() != depot.StateRetired || len(d.InUse(name)) != 1 {
				t.Fatalf("it was not retired: %v", gone)
			}
			update(t, db, func(tx storage.Tx) error { return d.Revoke(tx, depot.FingerprintOf(old), "keyCompromise", now) })
			if crl, _ := list(t, d, gone); !slices.Equal(serials(crl), []string{old.SerialNumber.Text(16)}) {
				t.Errorf("its CRL has %v", serials(crl))
			}
			if r, err := d.Responder(t.Context(), gone); err != nil || r.Certificate().CheckSignatureFrom(first.Certificate()) != nil {
				t.Errorf("its OCSP signer: %v", err)
			}

			// All of it outlives a restart.
			again := open(t, c)
			if a := again.Authority(first.ID()); a == nil || a.State() != depot.StateRetired || again.Authority(next.ID()).State() != depot.StateActive {
				t.Error("after a restart the states are others")
			}
			if n := len(again.Generations(name)); n != 2 {
				t.Errorf("%d generations after a restart, want 2", n)
			}
		})
	}
}

// toldOf is a log whose messages a test waits for.
type toldOf chan string

func (toldOf) Enabled(context.Context, slog.Level) bool { return true }
func (c toldOf) WithAttrs([]slog.Attr) slog.Handler     { return c }
func (c toldOf) WithGroup(string) slog.Handler          { return c }

func (c toldOf) Handle(_ context.Context, r slog.Record) error {
	select {
	case c <- r.Message:
	default: // nobody waits for so many
	}
	return nil
}

func TestAnotherProcessIssuesNothingByTheAuthorityBefore(t *testing.T) {
	db := storagetest.Open(t)
	c := config(t, db)
	told := make(toldOf, 10)
	c.Log = slog.New(told)
	a, b := open(t, config(t, db)), open(t, c)
	stale := b.Identity()
	cert, err := stale.Sign(deviceKey(t).Public(), template(time.Now()))
	if err != nil {
		t.Fatal(err)
	}
	next := generate(t, a, "identity")
	activate(t, a, db, next.ID())
	record := func() error {
		return db.Update(t.Context(), func(tx storage.Tx) error {
			return b.Record(tx, cert, depot.Certificate{Authority: "identity", Template: "identity"})
		})
	}
	if err := record(); !errors.Is(err, depot.ErrNotActive) || !errors.Is(err, storage.ErrUnavailable) {
		t.Errorf("Record = %v, want %v, to be tried again", err, depot.ErrNotActive)
	}
	// It learns of the new one by itself.
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- b.Run(ctx) }()
	for message := ""; message != "another authority is in force"; {
		select {
		case message = <-told:
		case <-time.After(time.Minute):
			t.Fatal("the other process does not know the new authority")
		}
	}
	if b.Identity().ID() != next.ID() {
		t.Errorf("in force is %s, want %s", b.Identity().ID(), next.ID())
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestTwoProcessesMakeTheNextAuthorityOnce(t *testing.T) {
	db := storagetest.Open(t)
	open(t, config(t, db))
	var errs [2]error
	make := func(i int) func(storage.DB) {
		return func(db storage.DB) {
			_, errs[i] = open(t, config(t, db)).Generate(context.Background(), "payload", nil)
		}
	}
	storagetest.Overlap(db, make(0), make(1))
	if (errs[0] == nil) == (errs[1] == nil) {
		t.Fatalf("they end with %v and %v, want one of them to fail", errs[0], errs[1])
	}
	if err := errors.Join(errs[0], errs[1]); !errors.Is(err, depot.ErrNextExists) && !errors.Is(err, depot.ErrAuthorityHere) {
		t.Errorf("the other one ends with %v", err)
	}
	if n := len(open(t, config(t, db)).Generations("payload")); n != 2 {
		t.Errorf("%d generations, want 2", n)
	}
}

func TestTwoProcessesActivateTheNextAuthorityOnce(t *testing.T) {
	db := storagetest.Open(t)
	d := open(t, config(t, db))
	next := generate(t, d, "identity")
	var errs [2]error
	activate := func(i int) func(storage.DB) {
		return func(db storage.DB) {
			errs[i] = db.Update(context.Background(), func(tx storage.Tx) error { return d.Activate(tx, next.ID()) })
		}
	}
	storagetest.Overlap(db, activate(0), activate(1))
	if (errs[0] == nil) == (errs[1] == nil) || !errors.Is(errors.Join(errs[0], errs[1]), storage.ErrNotFound) {
		t.Errorf("they end with %v and %v, want one nil and one %v", errs[0], errs[1], storage.ErrNotFound)
	}
	if n := len(open(t, config(t, db)).InUse("identity")); n != 2 {
		t.Errorf("%d in use, want 2", n)
	}
}

func TestTheTLSCertificateFollowsTheRoot(t *testing.T) {
	storagetest.AnyEngine(t)
	db := storagetest.Open(t)
	d := open(t, config(t, db))
	changed, stop := d.WatchTLS()
	defer stop()
	names := []string{"mdm.example.com"}
	before, _, err := d.TLSCertificate(t.Context(), names, nil)
	if err != nil {
		t.Fatal(err)
	}
	<-changed // it was made
	next := generate(t, d, "root")
	if same, isNew, err := d.TLSCertificate(t.Context(), names, nil); err != nil || isNew || !same.Leaf.Equal(before.Leaf) {
		t.Fatalf("while the root is but the next one: %v, new %v", err, isNew)
	}
	update(t, db, func(tx storage.Tx) error { return d.Activate(tx, next.ID()) })
	<-changed
	after, isNew, err := d.TLSCertificate(t.Context(), names, nil) // without a Reload before it
	if err != nil || !isNew {
		t.Fatalf("TLSCertificate = new %v, %v", isNew, err)
	}
	if err := after.Leaf.CheckSignatureFrom(next.Certificate()); err != nil {
		t.Error(err)
	}
	if roots := d.Roots(); len(roots) != 2 || !roots[0].Equal(next.Certificate()) {
		t.Errorf("%d roots to trust, want the new one and the one before", len(roots))
	}
	if chain := d.Payload().Chain(); len(chain) != 2 || !chain[1].Equal(d.Roots()[1]) {
		t.Errorf("the issuer of payload certificates has another chain: %v", chain)
	}
	if p := generate(t, d, "payload"); p.Certificate().CheckSignatureFrom(next.Certificate()) != nil {
		t.Error("the next issuer is not below the new root")
	}
}

func TestCertificatesInForceAreCountedByAuthority(t *testing.T) {
	storagetest.AnyEngine(t)
	db := storagetest.Open(t)
	d := open(t, config(t, db))
	now := time.Now()
	issued(t, d, db, d.Payload(), template(now), depot.Certificate{Template: "wifi"})
	issued(t, d, db, d.Payload(), template(now), depot.Certificate{Template: "wifi"})
	revoked := issued(t, d, db, d.Payload(), template(now), depot.Certificate{Template: "wifi"})
	update(t, db, func(tx storage.Tx) error { return d.Revoke(tx, depot.FingerprintOf(revoked), "superseded", now) })
	issued(t, d, db, d.Identity(), template(now), depot.Certificate{Template: "identity"})
	if _, err := d.Responder(t.Context(), d.Payload()); err != nil {
		t.Fatal(err)
	}
	var counts map[string]int
	update(t, db, func(tx storage.Tx) (err error) {
		counts, err = d.CountInForce(tx)
		return err
	})
	if counts[d.Payload().ID()] != 2 || counts[d.Identity().ID()] != 1 || counts[d.Root().ID()] != 0 {
		t.Errorf("in force are %v, want 2 and 1", counts)
	}
}

func TestAuthoritiesOfBeforeThereWereGenerations(t *testing.T) {
	storagetest.AnyEngine(t)
	db := storagetest.Open(t)
	before := open(t, config(t, db))
	update(t, db, func(tx storage.Tx) error {
		for _, name := range []string{"identity", "root", "payload"} {
			record, err := tx.Get("authority", []byte(name))
			if err != nil {
				return err
			}
			record = bytes.Replace(record, []byte(`{"v":2,`), []byte(`{"v":1,`), 1)
			for _, part := range []string{`"generation":1,`, `"state":"active",`} {
				if !bytes.Contains(record, []byte(part)) {
					t.Fatalf("record %s has no %s", name, part)
				}
				record = bytes.Replace(record, []byte(part), nil, 1)
			}
			if err := tx.Put("authority", []byte(name), record); err != nil {
				return err
			}
		}
		return nil
	})
	d := open(t, config(t, db))
	if a := d.Identity(); a.ID() != before.Identity().ID() || a.State() != depot.StateActive || a.Generation() != 1 {
		t.Fatalf("the identity CA is %s, generation %d", a.State(), a.Generation())
	}
	// What they issued may not say by which generation.
	cert := issued(t, d, db, d.Payload(), template(time.Now()), depot.Certificate{Template: "wifi"})
	next := generate(t, d, "payload")
	activate(t, d, db, next.ID())
	if got := d.IssuerOf(depot.Certificate{Authority: "payload", Serial: depot.SerialOf(cert)}); got != before.Payload().ID() {
		t.Errorf("a record without an issuer is of %s, want the first generation", got)
	}
	if a := d.Authority(before.Payload().ID()); a.State() != depot.StateRetiring {
		t.Errorf("the one before is %s", a.State())
	}
}
