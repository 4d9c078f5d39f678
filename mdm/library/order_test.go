package library_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/library"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

const certificate = `<dict><key>PayloadType</key><string>com.apple.security.scep</string><key>PayloadVersion</key><integer>1</integer>
<key>PayloadIdentifier</key><string>com.example.scep</string><key>PayloadUUID</key><string>6A0CF4B8-5C3E-4C39-9B93-6A4F3F0A8B04</string>
<key>PayloadContent</key><dict><key>CertificateTemplate</key><string>%s</string></dict></dict>`

func to(ids ...mdm.DeviceID) library.Targets { return library.Targets{Devices: ids} }

// remove takes a profile away from devices.
func (h *house) remove(t testing.TB, id string, from ...mdm.DeviceID) library.Removal {
	t.Helper()
	out, err := h.Remove(context.Background(), "ana", id, to(from...))
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// inHand returns a device, and a profile of which it has version 1 in hand.
func (h *house) inHand(t testing.TB) (a mdm.DeviceID, id string, first *sent) {
	t.Helper()
	a = h.device(t, "a")
	id = h.add(t, "com.example.a", fmt.Sprintf(passcode, "a", 6)).Profile.ID
	h.send(t, id, a)
	return a, id, h.next(t, a)
}

func TestAnOlderCommandsAnswerTellsWhatIsOnTheDevice(t *testing.T) {
	ctx := context.Background()
	t.Run("a newer version is refused", func(t *testing.T) {
		h := newHouse(t)
		a, id, first := h.inHand(t)
		h.add(t, "com.example.a", fmt.Sprintf(passcode, "a", 8))
		h.send(t, id, a)
		h.answer(t, a, first.CommandUUID, mdm.Acknowledged, "")
		if got := h.state(t, a, id); got.State != library.Sent || got.Installed != 1 {
			t.Errorf("version 1 came through while version 2 waits: %+v", got)
		}
		h.does(t, a, mdm.Failed)
		if got := h.state(t, a, id); got.State != library.Drifted || got.Installed != 1 {
			t.Errorf("version 2 was refused: %+v", got)
		}
		if err := h.Delete(ctx, "ana", id); !errors.Is(err, library.ErrInUse) {
			t.Errorf("Delete: %v, want ErrInUse", err)
		}
		if out := h.remove(t, id, a); len(out.Rejected) > 0 {
			t.Errorf("it can't be removed from the device that has it: %+v", out.Rejected)
		}
	})
	for _, answeredFirst := range []bool{true, false} {
		t.Run(fmt.Sprintf("a removal is cancelled, after the answer: %v", answeredFirst), func(t *testing.T) {
			h := newHouse(t)
			a, id, first := h.inHand(t)
			out := h.remove(t, id, a)
			if answeredFirst {
				h.answer(t, a, first.CommandUUID, mdm.Acknowledged, "")
			}
			if err := h.mdm.Cancel(ctx, a, out.Command.UUID, "token:test"); err != nil {
				t.Fatal(err)
			}
			if !answeredFirst {
				if got := h.state(t, a, id); got.State != library.Sent || got.Command != first.CommandUUID {
					t.Errorf("before the answer: %+v", got)
				}
				h.answer(t, a, first.CommandUUID, mdm.Acknowledged, "")
			}
			if got := h.state(t, a, id); got.State != library.Installed || got.Installed != 1 {
				t.Errorf("it is installed: %+v", got)
			}
		})
	}
}

func TestARemovalIsNotSentTwice(t *testing.T) {
	h := newHouse(t)
	a, id, first := h.inHand(t)
	h.answer(t, a, first.CommandUUID, mdm.Acknowledged, "")
	h.remove(t, id, a)
	removal := h.next(t, a)
	if out := h.remove(t, id, a); len(out.Rejected) != 1 || out.Rejected[0].Code != "being_removed" {
		t.Errorf("asked for again: %+v", out)
	}
	h.answer(t, a, removal.CommandUUID, mdm.Acknowledged, "")
	if got := h.state(t, a, id); got.State != library.Removed || h.next(t, a) != nil {
		t.Errorf("the device has removed it: %+v", got)
	}
}

func TestWhatWasRemovedAndIsBackStaysDrifted(t *testing.T) {
	h := newHouse(t)
	a, id, first := h.inHand(t)
	h.answer(t, a, first.CommandUUID, mdm.Acknowledged, "")
	h.remove(t, id, a)
	h.does(t, a, mdm.Acknowledged)
	v, _, err := h.Content(context.Background(), id, 1)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 2 {
		h.tells(t, a, map[string]string{"com.example.a": v.UUID})
		if got := h.state(t, a, id); got.State != library.Drifted || !strings.Contains(got.Reason, "again") {
			t.Errorf("ProfileList %d: %+v", i+1, got)
		}
	}
	h.tells(t, a, nil)
	if got := h.state(t, a, id); got.State != library.Removed {
		t.Errorf("and gone once more: %+v", got)
	}
}

// order has a device do all that waits, passing over what it put off as long as it is in the
// session in which it did, and returns what it did.
func (h *house) order(t testing.TB, id mdm.DeviceID) (did []string) {
	t.Helper()
	skip := true
	for {
		var e *mdm.Entry
		err := h.db.Update(context.Background(), func(tx storage.Tx) (err error) {
			if e, err = h.mdm.Head(tx, id, skip); err != nil || e == nil {
				return err
			}
			_, err = h.mdm.Deliver(tx, e)
			return err
		})
		switch {
		case err != nil:
			t.Fatal(err)
		case e == nil && !skip:
			return did
		case e == nil:
			skip = false
			continue
		}
		did = append(did, e.RequestType)
		h.answer(t, id, e.UUID, mdm.Acknowledged, "")
	}
}

func TestWhatWasAskedForLastIsDoneLast(t *testing.T) {
	t.Run("the removal was put off, and the profile is sent again", func(t *testing.T) {
		h := newHouse(t)
		a, id, first := h.inHand(t)
		h.answer(t, a, first.CommandUUID, mdm.Acknowledged, "")
		h.remove(t, id, a)
		h.does(t, a, mdm.NotNow)
		h.send(t, id, a)
		if did := h.order(t, a); !slices.Equal(did, []string{"InstallProfile"}) || h.state(t, a, id).State != library.Installed {
			t.Errorf("the device did %v: %+v", did, h.state(t, a, id))
		}
	})
	t.Run("the removal is put off after the profile was sent again", func(t *testing.T) {
		h := newHouse(t)
		a, id, first := h.inHand(t)
		h.answer(t, a, first.CommandUUID, mdm.Acknowledged, "")
		h.remove(t, id, a)
		removal := h.next(t, a)
		h.send(t, id, a)
		h.answer(t, a, removal.CommandUUID, mdm.NotNow, "")
		if did := h.order(t, a); !slices.Equal(did, []string{"InstallProfile"}) || h.state(t, a, id).State != library.Installed {
			t.Errorf("the device did %v: %+v", did, h.state(t, a, id))
		}
	})
	t.Run("the installation is put off after the removal was asked for", func(t *testing.T) {
		h := newHouse(t)
		a, id, first := h.inHand(t)
		h.remove(t, id, a)
		h.answer(t, a, first.CommandUUID, mdm.NotNow, "")
		if did := h.order(t, a); !slices.Equal(did, []string{"RemoveProfile"}) || h.state(t, a, id).State != library.Removed {
			t.Errorf("the device did %v: %+v", did, h.state(t, a, id))
		}
	})
}

func TestARenewalSendsWhatIsAgreedAndMakesNoBatch(t *testing.T) {
	ctx := context.Background()
	h := newHouse(t)
	a := h.device(t, "a")
	id := h.add(t, "com.example.a", fmt.Sprintf(certificate, "wifi")).Profile.ID
	h.send(t, id, a)
	h.does(t, a, mdm.Failed)
	if out, err := h.Resend(ctx, "renewal", id, a); err != nil || len(out.Sent) != 1 || out.Version.Number != 1 || out.Batch.ID != "" {
		t.Errorf("after it was refused: %+v, %v", out, err)
	}
	h.does(t, a, mdm.Acknowledged)
	if all, _, err := h.mdm.Batches(ctx, "", 10); err != nil || len(all) != 1 {
		t.Errorf("%d batches, want that of the first sending: %v", len(all), err)
	}
	h.add(t, "com.example.a", fmt.Sprintf(certificate, "wifi"), fmt.Sprintf(passcode, "a", 6))
	h.send(t, id, a)
	if out, err := h.Resend(ctx, "renewal", id, a); err != nil || len(out.Sent) != 1 || out.Version.Number != 2 {
		t.Errorf("while version 2 waits: %+v, %v", out, err)
	}
	h.add(t, "com.example.a", fmt.Sprintf(passcode, "a", 6))
	newest := h.send(t, id, a)
	if out, err := h.Resend(ctx, "renewal", id, a); err != nil || len(out.Sent) != 0 || len(out.Rejected) != 1 || out.Rejected[0].Code != "newer_version" {
		t.Errorf("while version 3, which brings none, waits: %+v, %v", out, err)
	}
	if s := h.does(t, a, mdm.Acknowledged); s.CommandUUID != newest.Sent[0].Command {
		t.Error("version 3 was overtaken")
	}
	h.remove(t, id, a)
	if _, err := h.Resend(ctx, "renewal", id, a); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("while it is removed: %v", err)
	}
}

func TestABatchIsNamedAlsoWhereTheProfileIsNot(t *testing.T) {
	ctx := context.Background()
	h := newHouse(t)
	data := strings.Replace(string(mobileconfig("com.example.a", fmt.Sprintf(passcode, "a", 6))), "<string>Name of com.example.a</string>", "<string></string>", 1)
	added, err := h.Add(ctx, library.Upload{Data: []byte(data), By: "ana"})
	if err != nil {
		t.Fatal(err)
	}
	if out := h.send(t, added.Profile.ID, h.device(t, "a")); out.Batch.Name != "com.example.a, version 1" {
		t.Errorf("the batch is named %q", out.Batch.Name)
	}
}

func TestARefusedProfileGivesItsCertificatesFree(t *testing.T) {
	ctx := context.Background()
	h := newHouse(t)
	a, b := h.device(t, "a"), h.device(t, "b")
	id := h.add(t, "com.example.a", fmt.Sprintf(certificate, "wifi")).Profile.ID
	h.send(t, id, a, b)
	for _, d := range []mdm.DeviceID{a, b} {
		h.does(t, d, mdm.Failed)
		h.people.brings[d] = []string{"wifi"} // as people have it since it was sent
	}
	if out := h.remove(t, id, a); len(out.Rejected) != 1 || len(h.people.brings[a]) != 0 {
		t.Errorf("removed: %+v, still to bring %v", out, h.people.brings[a])
	}
	if err := h.Delete(ctx, "ana", id); err != nil || len(h.people.brings[b]) != 0 {
		t.Errorf("deleted: %v, still to bring %v", err, h.people.brings[b])
	}
}

func TestAForecastKnowsWhichCertificatesCannotBeHad(t *testing.T) {
	h := newHouse(t)
	a := h.device(t, "a")
	for name, accept := range map[string]int{"wifi": 1, "nosuch": 0} {
		id := h.add(t, "com.example."+name, fmt.Sprintf(certificate, name)).Profile.ID
		f, err := h.Forecast(context.Background(), id, 0, to(a))
		if err != nil || f.Accept != accept {
			t.Errorf("%s: %s %v", name, f.Sentence(), err)
		}
	}
}

func TestAnExpiredInstallationSaysHowFarItCame(t *testing.T) {
	for _, tt := range []struct {
		name string
		do   func(h *house, a mdm.DeviceID)
		want string
	}{
		{"it was not fetched", func(*house, mdm.DeviceID) {}, "did not fetch it"},
		{"its answer is lost", func(h *house, a mdm.DeviceID) { h.next(t, a) }, "did not say"},
		{"it was put off", func(h *house, a mdm.DeviceID) { h.does(t, a, mdm.NotNow) }, "put it off"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ctx := context.Background()
			h := newHouse(t)
			a := h.device(t, "a")
			id := h.add(t, "com.example.a", fmt.Sprintf(passcode, "a", 6)).Profile.ID
			out, err := h.Send(ctx, library.Order{Profile: id, Targets: to(a), ExpiresIn: time.Hour})
			if err != nil {
				t.Fatal(err)
			}
			tt.do(h, a)
			err = h.db.Update(ctx, func(tx storage.Tx) error { return h.mdm.CancelCommand(tx, a, out.Sent[0].Command, mdm.Expired) })
			if err != nil {
				t.Fatal(err)
			}
			if got := h.state(t, a, id); got.State != library.Failed || !strings.Contains(got.Reason, tt.want) {
				t.Errorf("%+v, want %q", got, tt.want)
			}
		})
	}
}

// Two replicas: one deletes a profile while the other sends it.
func TestAProfileIsNotSentAndDeletedAtOnce(t *testing.T) {
	if os.Getenv("GATEHOUSE_TEST_STORE") != "postgres" {
		t.Skip("there is one writer at a time")
	}
	ctx := context.Background()
	h := newHouse(t)
	a := h.device(t, "a")
	id := h.add(t, "com.example.a", fmt.Sprintf(clip, "$EMAIL")).Profile.ID
	var deleted error
	deletion := func() {
		done := make(chan struct{})
		go func() { defer close(done); deleted = h.Delete(ctx, "ben", id) }()
		<-done
	}
	h.people.before = func() { h.people.before = deletion } // the first run of a transaction is thrown away
	out, err := h.Send(ctx, library.Order{Profile: id, Targets: to(a), By: "ana"})
	if deleted != nil || !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("deleted: %v; sent: %+v, %v", deleted, out.Sent, err)
	}
}
