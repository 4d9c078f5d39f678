package issuance_test

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/library"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/bolt"
	"github.com/gatehouse-mdm/gatehouse/storage/seal"
)

// BenchmarkProfileOfItsOwnTo10000Devices is one profile of 10 KB, with the e-mail address of
// its user and its serial number for each device, on the engine that the server uses. Two
// seconds at most, durable.
func BenchmarkProfileOfItsOwnTo10000Devices(b *testing.B) {
	const n = 10_000
	ctx := context.Background()
	db, err := bolt.Open(ctx, filepath.Join(b.TempDir(), "bench.db"), bolt.Options{})
	must(b, err)
	defer db.Close()
	h := houseOn(b, db)
	box, err := seal.New(make([]byte, seal.KeySize))
	must(b, err)
	l, err := library.New(library.Config{
		DB: db, Box: box, MDM: h.mdm, People: h.Service, Log: slog.New(slog.DiscardHandler), Now: h.now,
		Sign: func(p []byte) ([]byte, error) { return p, nil }, Reserved: func(string) bool { return false },
	})
	must(b, err)
	ids := make([]mdm.DeviceID, n)
	for begin := 0; begin < n; begin += 1000 {
		for i := begin; i < begin+1000; i += 10 { // ten devices to a user
			_, err := h.people.CreateUser(ctx, identity.Local(), identity.NewUser{Email: fmt.Sprintf("user%d@example.com", i/10), Role: identity.RoleUser})
			must(b, err)
		}
		h.update(b, func(tx storage.Tx) error {
			for i := begin; i < begin+1000; i++ {
				ids[i] = mdm.DeviceID(fmt.Sprintf("device%08d", i*7919%n))
				d := mdm.Device{
					ID: ids[i], Type: mdm.TypeDevice, State: mdm.Enrolled, AppleID: mdm.AppleID{UDID: fmt.Sprintf("UDID-%d", i)},
					User: fmt.Sprintf("user%d@example.com", i/10), AttemptID: "attempt", AccessRights: 8191, Identity: fmt.Sprintf("%064x", i),
					Facts: mdm.Facts{SerialNumber: fmt.Sprintf("C%08d", i), DeviceName: "iPhone", Model: "MTXX3", ProductName: "iPhone17,2", OSVersion: "18.2"},
					Push:  &mdm.Push{Topic: "com.apple.mgmt.External.0", Token: make([]byte, 32), Magic: mdm.NewUUID()},
				}
				if err := mdm.PutDevice(tx, d); err != nil {
					return err
				}
			}
			return nil
		})
	}
	var clips strings.Builder
	for i := range 20 {
		fmt.Fprintf(&clips, `<dict><key>PayloadType</key><string>com.apple.webClip.managed</string><key>PayloadVersion</key><integer>1</integer>
<key>PayloadIdentifier</key><string>com.example.clip%[1]d</string><key>PayloadUUID</key><string>6A0CF4B8-5C3E-4C39-9B93-6A4F3F0A8B%02[1]d</string>
<key>Label</key><string>Page %[1]d of $EMAIL on $SERIALNUMBER</string><key>URL</key><string>https://www.example.com/%[1]d?for=${EMAIL}</string></dict>`, i)
	}
	added, err := l.Add(ctx, library.Upload{Data: fmt.Appendf(nil, `<?xml version="1.0" encoding="UTF-8"?><plist version="1.0"><dict>
<key>PayloadType</key><string>Configuration</string><key>PayloadVersion</key><integer>1</integer>
<key>PayloadIdentifier</key><string>com.example.clips</string><key>PayloadUUID</key><string>6A0CF4B8-5C3E-4C39-9B93-6A4F3F0A8BFF</string>
<key>PayloadContent</key><array>%s</array></dict></plist>`, clips.String())})
	must(b, err)
	for b.Loop() {
		out, err := l.Send(ctx, library.Order{Profile: added.Profile.ID, Targets: library.Targets{Devices: ids}, By: "bench"})
		if err != nil || len(out.Sent) != n {
			b.Fatal(len(out.Sent), out.Rejected, err)
		}
		b.StopTimer() // the devices take their command before the next one comes
		must(b, db.Update(ctx, func(tx storage.Tx) error {
			for _, id := range ids {
				if err := h.mdm.CancelPending(tx, id); err != nil {
					return err
				}
			}
			return nil
		}))
		b.StartTimer()
	}
}
