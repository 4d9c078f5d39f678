package enroll_test

import (
	"context"
	"encoding/base64"
	"strings"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/command"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

func TestACommandThatCannotBeMadeBringsNotNowNotBack(t *testing.T) {
	ctx := context.Background()
	h := newHouse(t)
	id := mdm.AppleID{UDID: "00008110-0001AA"}
	p := h.enrolled(t, "", id)
	d := h.device(t, id)
	if err := h.db.Update(ctx, func(tx storage.Tx) error { return h.mdm.CancelPending(tx, d.ID) }); err != nil {
		t.Fatal(err)
	}
	h.enqueue(t, "C-NOTNOW", d.ID)
	data := `<?xml version="1.0" encoding="UTF-8"?><plist version="1.0"><dict>
<key>PayloadType</key><string>Configuration</string><key>PayloadVersion</key><integer>1</integer>
<key>PayloadIdentifier</key><string>com.example.net</string><key>PayloadUUID</key><string>6A0CF4B8-5C3E-4C39-9B93-6A4F3F0A8B01</string>
<key>PayloadDescription</key><string>for $DEVICENAME</string><key>PayloadContent</key><array/></dict></plist>`
	plist, err := command.Build("InstallProfile", map[string]any{"Payload": base64.StdEncoding.EncodeToString([]byte(data))}, "C-SPOILT")
	if err != nil {
		t.Fatal(err)
	}
	_, no, err := h.mdm.Enqueue(ctx, mdm.NewCommand{
		UUID: "C-SPOILT", RequestType: "InstallProfile", Identifier: "com.example.net", Plist: plist, Targets: []mdm.DeviceID{d.ID},
		Personalize: func(storage.Tx, mdm.Device) (mdm.Values, error) {
			return mdm.Values{Variables: map[string]string{"DEVICENAME": "a\tb"}}, nil
		},
	})
	if err != nil || len(no) > 0 {
		t.Fatal(no, err)
	}
	first, err := p.idle()
	if err != nil || !strings.Contains(first, "C-NOTNOW") {
		t.Fatalf("%s %v", first, err)
	}
	next, err := h.Connect(ctx, p.peer(), enroll.ConnectMessage{ID: p.id, Report: mdm.Report{CommandUUID: "C-NOTNOW", State: mdm.NotNow}})
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(next), "C-NOTNOW") {
		t.Errorf("the reply to NotNow is the same command again:\n%s", next)
	}
}
