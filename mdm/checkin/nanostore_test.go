package checkin_test

import (
	"context"
	"log/slog"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/micromdm/nanomdm/mdm"
	"github.com/micromdm/nanomdm/service/nanomdm"
	"github.com/micromdm/nanomdm/test/e2e"

	"github.com/gatehouse-mdm/gatehouse/apns"
	gatehouse "github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/checkin"
	"github.com/gatehouse-mdm/gatehouse/storage/seal"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

func newNanoStore(t *testing.T) *checkin.NanoStore {
	t.Helper()
	box, err := seal.New(make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	// NanoMDM's push certificate was valid at this time.
	now := func() time.Time { return time.Date(2021, 6, 1, 0, 0, 0, 0, time.UTC) }
	db := storagetest.Open(t)
	devices, err := gatehouse.New(gatehouse.Config{DB: db, Box: box, Log: slog.New(slog.DiscardHandler), Now: now})
	if err != nil {
		t.Fatal(err)
	}
	certs, err := apns.NewCertificates(box, now)
	if err != nil {
		t.Fatal(err)
	}
	store, err := checkin.NewNanoStore(db, devices, certs, now)
	if err != nil {
		t.Fatal(err)
	}
	return store
}

// TestNanoMDMsOwnSuitePasses runs the end-to-end suite that NanoMDM holds its
// storage to. It reads its data relative to a folder of NanoMDM's module.
func TestNanoMDMsOwnSuitePasses(t *testing.T) {
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/micromdm/nanomdm").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	store := newNanoStore(t)
	t.Chdir(filepath.Join(strings.TrimSpace(string(dir)), "test", "e2e"))
	e2e.TestE2E(t, context.Background(), store)
}

// The suite has no user channels; these are the same steps for one.
func TestNanoMDMServesUserChannels(t *testing.T) {
	ctx := context.Background()
	for name, tt := range map[string]struct{ device, user mdm.Enrollment }{
		"of a Mac":             {mdm.Enrollment{UDID: "M1"}, mdm.Enrollment{UDID: "M1", UserID: "U1", UserShortName: "ana"}},
		"of a Shared iPad":     {mdm.Enrollment{UDID: "P1"}, mdm.Enrollment{UDID: "P1", UserID: mdm.SharediPadUserID, UserShortName: "ana@example.com"}},
		"of a User Enrollment": {mdm.Enrollment{EnrollmentID: "E1"}, mdm.Enrollment{EnrollmentID: "E1", EnrollmentUserID: "U1"}},
	} {
		t.Run(name, func(t *testing.T) {
			store := newNanoStore(t)
			svc := nanomdm.New(store)
			request := func() *mdm.Request { return mdm.NewRequestWithContext(ctx, nil) }
			authenticate := func() error {
				return svc.Authenticate(request(), &mdm.Authenticate{Enrollment: tt.device, Topic: "t"})
			}
			token := func(e mdm.Enrollment, magic string) error {
				return svc.TokenUpdate(request(), &mdm.TokenUpdate{Enrollment: e, Push: mdm.Push{Topic: "t", Token: []byte{1}, PushMagic: magic}})
			}
			report := func(e mdm.Enrollment, uuid, status string) string {
				t.Helper()
				cmd, err := svc.CommandAndReportResults(request(), &mdm.CommandResults{
					Enrollment: e, CommandUUID: uuid, Status: status, Raw: []byte(`<plist version="1.0"><dict/></plist>`),
				})
				if err != nil {
					t.Fatal(err)
				}
				if cmd == nil {
					return ""
				}
				return cmd.CommandUUID
			}
			must(t, authenticate())
			must(t, token(tt.device, "device"))
			must(t, token(tt.user, "user"))

			deviceID := tt.device.UDID + tt.device.EnrollmentID
			userID := deviceID + ":" + map[bool]string{true: tt.user.UserShortName, false: tt.user.UserID + tt.user.EnrollmentUserID}[tt.user.UserID == mdm.SharediPadUserID]
			push := func() map[string]*mdm.Push {
				t.Helper()
				infos, err := store.RetrievePushInfo(ctx, []string{deviceID, userID, "nobody"})
				must(t, err)
				return infos
			}
			if infos := push(); len(infos) != 2 || infos[userID].PushMagic != "user" || infos[deviceID].PushMagic != "device" {
				t.Errorf("push info = %v", infos)
			}

			enqueue := func(uuid string, ids ...string) map[string]error {
				t.Helper()
				cmd := &mdm.Command{CommandUUID: uuid, Raw: []byte(`<plist version="1.0"><dict><key>Command</key><dict><key>RequestType</key><string>X</string></dict><key>CommandUUID</key><string>` + uuid + `</string></dict></plist>`)}
				cmd.Command.RequestType = "X"
				failed, err := store.EnqueueCommand(ctx, ids, cmd)
				must(t, err)
				return failed
			}
			if failed := enqueue("C1", deviceID, userID, "nobody"); len(failed) != 1 || failed["nobody"] == nil {
				t.Errorf("enqueue failed for %v, want nobody", failed)
			}
			for _, e := range []mdm.Enrollment{tt.device, tt.user} { // each has a queue of its own
				if got := report(e, "", "Idle"); got != "C1" {
					t.Errorf("next = %q, want C1", got)
				}
				if got := report(e, "C1", "NotNow"); got != "" {
					t.Errorf("after NotNow = %q", got)
				}
				if got := report(e, "", "Idle"); got != "C1" {
					t.Errorf("after Idle = %q, want C1", got)
				}
				if got := report(e, "C1", "Acknowledged"); got != "" {
					t.Errorf("at the end = %q", got)
				}
			}

			var messages []string
			out := make(chan any)
			go func() {
				defer close(out)
				if err := store.RetrieveMigrationCheckins(ctx, out); err != nil {
					t.Error(err)
				}
			}()
			for m := range out {
				switch m := m.(type) {
				case *mdm.Authenticate:
					messages = append(messages, "Authenticate "+m.UDID+m.EnrollmentID)
				case *mdm.TokenUpdate:
					messages = append(messages, "TokenUpdate "+m.PushMagic)
				}
			}
			if got, want := strings.Join(messages, ", "), "Authenticate "+deviceID+", TokenUpdate device, TokenUpdate user"; got != want {
				t.Errorf("migration = %s, want %s", got, want)
			}

			// With the device go its users, and nobody comes back without Authenticate.
			enqueue("C2", deviceID, userID)
			must(t, svc.CheckOut(request(), &mdm.CheckOut{Enrollment: tt.device}))
			if infos := push(); len(infos) != 0 {
				t.Errorf("after CheckOut there is push info: %v", infos)
			}
			if got := report(tt.user, "", "Idle"); got != "" {
				t.Errorf("after CheckOut the user gets %q", got)
			}
			if token(tt.device, "back") == nil || token(tt.user, "back") == nil {
				t.Error("a TokenUpdate after CheckOut was taken")
			}
			must(t, authenticate())
			must(t, token(tt.device, "again"))
			if infos := push(); len(infos) != 1 || infos[deviceID] == nil {
				t.Errorf("after the device enrolled again: %v, want no user yet", infos)
			}
			if got := report(tt.device, "", "Idle"); got != "" {
				t.Errorf("an old command came back: %q", got)
			}
		})
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
