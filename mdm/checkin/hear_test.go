package checkin_test

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/enroll"
	gatehouse "github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/command"
	"github.com/gatehouse-mdm/gatehouse/mdm/mdmtest"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// ear is a Tap that keeps what it hears where a transaction that fails takes it back.
type ear struct {
	kinds []string // topics that it wants to hear of; mdm.Connect is without Idle
	idle  bool
	fails error
}

const heardBucket = "test_heard"

var wishKey = []byte("wish") // what Wants reads, as a real one reads its targets

func (e *ear) Reads() []storage.Read { return []storage.Read{{Bucket: heardBucket, Key: wishKey}} }

func (e *ear) Wants(tx storage.Tx, m gatehouse.Message) (bool, error) {
	if _, err := tx.Get(heardBucket, wishKey); err != nil && !errors.Is(err, storage.ErrNotFound) {
		return false, err
	}
	if m.Status == "Idle" {
		return e.idle, nil
	}
	return slices.Contains(e.kinds, m.Topic), nil
}

func (e *ear) Heard(tx storage.Tx, m gatehouse.Message) error {
	all, err := heardIn(tx)
	if err != nil {
		return err
	}
	value, err := json.Marshal(append(all, m))
	if err != nil {
		return err
	}
	return errors.Join(tx.Put(heardBucket, []byte("all"), value), e.fails)
}

func heardIn(tx storage.Tx) (all []gatehouse.Message, err error) {
	value, err := tx.Get(heardBucket, []byte("all"))
	if errors.Is(err, storage.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return all, json.Unmarshal(value, &all)
}

// heard are the messages that were passed on since it was last asked.
func (h *house) heard(t testing.TB) (all []gatehouse.Message) {
	t.Helper()
	must(t, h.db.Update(t.Context(), func(tx storage.Tx) (err error) {
		if all, err = heardIn(tx); err != nil {
			return err
		}
		return tx.Delete(heardBucket, []byte("all"))
	}))
	return all
}

func topicsOf(all []gatehouse.Message) string {
	var topics []string
	for _, m := range all {
		topics = append(topics, strings.TrimSpace(strings.TrimPrefix(m.Topic, "mdm.")+" "+m.Status))
	}
	return strings.Join(topics, ", ")
}

// everything is every kind of message that there is.
var everything = []string{
	"mdm.Authenticate", "mdm.TokenUpdate", "mdm.CheckOut", "mdm.SetBootstrapToken", "mdm.GetBootstrapToken",
	"mdm.UserAuthenticate", "mdm.DeclarativeManagement", "mdm.GetToken", "mdm.Connect",
}

func listening(tap *ear) func(*enroll.Config) { return func(c *enroll.Config) { c.Tap = tap } }

func TestWhatADeviceSaysIsHeardAsItSaidIt(t *testing.T) {
	h := newHouseOn(t, storagetest.Open(t), listening(&ear{kinds: everything, idle: true}))
	mac := h.enrolled(t, mdmtest.Options{Model: mdmtest.Mac})
	id := h.record(t, mac.IDs()).ID
	told := h.heard(t)
	if got, want := topicsOf(told), "Authenticate, TokenUpdate, TokenUpdate"; got != want {
		t.Fatalf("heard of an enrollment is %s, want %s", got, want)
	}
	if m := told[0]; m.Device.ID != id || m.Device.State != gatehouse.Pending || m.Parent.ID != "" || m.At.IsZero() {
		t.Errorf("Authenticate is of %+v in %+v", m.Device, m.Parent)
	}
	if m := told[1]; m.Device.State != gatehouse.Enrolled || m.TokenUpdates != 1 || m.Device.Push == nil {
		t.Errorf("the first TokenUpdate is number %d of %+v", m.TokenUpdates, m.Device)
	}
	if m := told[2]; m.Parent.ID != id || m.Device.ParentID != id || m.Device.UserID == "" || m.TokenUpdates != 1 {
		t.Errorf("the user's TokenUpdate is number %d of %+v in %+v", m.TokenUpdates, m.Device, m.Parent)
	}

	h.queue(t, mac.IDs(), "ProfileList", "C1")
	idle(t, mac.Channel())
	h.heard(t)
	reported := mdmtest.Result{Status: mdmtest.StatusAcknowledged, CommandUUID: "C1"}
	for name, tt := range map[string]struct {
		sent   mdmtest.Prepared
		status int
		want   gatehouse.Message
	}{
		"a later TokenUpdate":  {saying(t, mac, "TokenUpdate", nil), http.StatusOK, gatehouse.Message{Topic: "mdm.TokenUpdate", TokenUpdates: 2}},
		"SetBootstrapToken":    {saying(t, mac, "SetBootstrapToken", mdmtest.Dict{"BootstrapToken": []byte("boot")}), http.StatusOK, gatehouse.Message{Topic: "mdm.SetBootstrapToken"}},
		"GetBootstrapToken":    {saying(t, mac, "GetBootstrapToken", nil), http.StatusOK, gatehouse.Message{Topic: "mdm.GetBootstrapToken"}},
		"an answer":            {reporting(t, mac, reported), http.StatusOK, gatehouse.Message{Topic: "mdm.Connect", Status: "Acknowledged", CommandUUID: "C1", RequestType: "ProfileList"}},
		"a poll":               {reporting(t, mac, mdmtest.Result{Status: mdmtest.StatusIdle}), http.StatusOK, gatehouse.Message{Topic: "mdm.Connect", Status: "Idle"}},
		"an answer to another": {reporting(t, mac, mdmtest.Result{Status: mdmtest.StatusFormat, CommandUUID: "OF-ANOTHER-SERVER"}), http.StatusOK, gatehouse.Message{Topic: "mdm.Connect", Status: "CommandFormatError", CommandUUID: "OF-ANOTHER-SERVER"}},
	} {
		t.Run(name, func(t *testing.T) {
			h.wantStatus(t, name, tt.sent, tt.status)
			told := h.heard(t)
			if len(told) != 1 {
				t.Fatalf("heard is %q, want one message", topicsOf(told))
			}
			got := told[0]
			if string(got.Raw) != string(tt.sent.Body) {
				t.Errorf("it is heard as %q, but was %q", got.Raw, tt.sent.Body)
			}
			if got.Device.ID != id {
				t.Errorf("it is heard of %+v", got.Device)
			}
			got.At, got.Raw, got.Device, got.Parent = tt.want.At, nil, tt.want.Device, tt.want.Parent
			if a, b := mustJSON(t, got), mustJSON(t, tt.want); a != b {
				t.Errorf("heard is\n%s, want\n%s", a, b)
			}
		})
	}

	t.Run("a directory user, who is declined", func(t *testing.T) {
		h.wantStatus(t, "UserAuthenticate", saying(t, mac, "UserAuthenticate", mdmtest.Dict{"UserID": "DIRECTORY-USER"}), http.StatusGone)
		told := h.heard(t)
		if len(told) != 1 || told[0].Device.ID != "" || told[0].Device.UserID != "DIRECTORY-USER" || told[0].Parent.ID != id {
			t.Errorf("heard is %+v", told)
		}
	})
	t.Run("an answer said again, because ours was lost", func(t *testing.T) {
		h.wantStatus(t, "the answer", reporting(t, mac, reported), http.StatusOK)
		if got := topicsOf(h.heard(t)); got != "Connect Acknowledged" {
			t.Errorf("heard is %q, want it again", got)
		}
	})
	t.Run("goodbye, once", func(t *testing.T) {
		bye := saying(t, mac, "CheckOut", nil)
		for range 2 {
			h.wantStatus(t, "CheckOut", bye, http.StatusOK)
		}
		told := h.heard(t)
		if len(told) != 1 || told[0].Topic != "mdm.CheckOut" || told[0].Device.State != gatehouse.Unenrolled {
			t.Errorf("heard is %+v", told)
		}
	})
}

func TestWhatIsNotTakenIsNotHeard(t *testing.T) {
	tap := &ear{kinds: everything, idle: true}
	h := newHouseOn(t, storagetest.Open(t), listening(tap))
	d := h.enrolled(t, mdmtest.Options{})
	other := h.enrolled(t, mdmtest.Options{})
	h.heard(t)
	for name, tt := range map[string]struct {
		sent mdmtest.Prepared
		want int
	}{
		"the name of another device":       {saying(t, d, "TokenUpdate", mdmtest.Dict{"UDID": other.IDs()["UDID"]}), http.StatusForbidden},
		"a TokenUpdate without a token":    {saying(t, d, "TokenUpdate", mdmtest.Dict{"Token": nil}), http.StatusBadRequest},
		"a token that nobody offers":       {saying(t, d, "GetToken", mdmtest.Dict{"TokenServiceType": "com.apple.maid"}), http.StatusNotImplemented},
		"declarative management":           {saying(t, d, "DeclarativeManagement", mdmtest.Dict{"Endpoint": "tokens"}), http.StatusNotImplemented},
		"an answer with an unknown Status": {reporting(t, d, mdmtest.Result{Status: "Perhaps", CommandUUID: "X"}), http.StatusBadRequest},
		"a poll of a user who never came":  {raw(t, d, `<plist version="1.0"><dict><key>UDID</key><string>`+d.IDs()["UDID"].(string)+`</string><key>UserID</key><string>NOBODY</string><key>Status</key><string>Idle</string></dict></plist>`), http.StatusForbidden},
	} {
		t.Run(name, func(t *testing.T) {
			h.wantStatus(t, name, tt.sent, tt.want)
			if got := topicsOf(h.heard(t)); got != "" {
				t.Errorf("heard is %s, want nothing", got)
			}
		})
	}

	t.Run("what the listener fails to keep is not taken", func(t *testing.T) {
		h.queue(t, d.IDs(), "ProfileList", "C1")
		idle(t, d.Channel())
		h.heard(t)
		tap.fails = errors.New("the listener is broken")
		sent := reporting(t, d, mdmtest.Result{Status: mdmtest.StatusAcknowledged, CommandUUID: "C1"})
		h.wantStatus(t, "the answer", sent, http.StatusInternalServerError)
		h.wantState(t, "C1", gatehouse.Delivered)
		tap.fails = nil
		h.wantStatus(t, "the answer again", sent, http.StatusOK)
		h.wantState(t, "C1", gatehouse.Acknowledged)
		if got := topicsOf(h.heard(t)); got != "Connect Acknowledged" {
			t.Errorf("heard is %q, want the answer once", got)
		}
	})
	t.Run("a poll that brings a spoilt command is one poll", func(t *testing.T) {
		data := `<plist version="1.0"><dict><key>PayloadType</key><string>Configuration</string><key>PayloadVersion</key><integer>1</integer>
<key>PayloadIdentifier</key><string>com.example.net</string><key>PayloadUUID</key><string>6A0CF4B8-5C3E-4C39-9B93-6A4F3F0A8B01</string>
<key>PayloadDescription</key><string>for $DEVICENAME</string><key>PayloadContent</key><array/></dict></plist>`
		plist, err := command.Build("InstallProfile", map[string]any{"Payload": base64.StdEncoding.EncodeToString([]byte(data))}, "C-SPOILT")
		must(t, err)
		id := h.record(t, d.IDs()).ID
		_, no, err := h.mdm.Enqueue(t.Context(), gatehouse.NewCommand{
			UUID: "C-SPOILT", RequestType: "InstallProfile", Identifier: "com.example.net", Plist: plist, Targets: []gatehouse.DeviceID{id},
			Personalize: func(storage.Tx, gatehouse.Device) (gatehouse.Values, error) {
				return gatehouse.Values{Variables: map[string]string{"DEVICENAME": "a\tb"}}, nil
			},
		})
		must(t, err)
		if len(no) > 0 {
			t.Fatal(no)
		}
		if got := idle(t, d.Channel()); got != "" {
			t.Errorf("the command is %s, and should be spoilt", got)
		}
		h.wantState(t, "C-SPOILT", gatehouse.Failed)
		if got := topicsOf(h.heard(t)); got != "Connect Idle" {
			t.Errorf("heard is %q, want one poll", got)
		}
	})
}

func TestPollsThatNobodyWantsAreNotHeard(t *testing.T) {
	h := newHouseOn(t, storagetest.Open(t), listening(&ear{kinds: []string{"mdm.Connect"}}))
	d := h.enrolled(t, mdmtest.Options{})
	h.queue(t, d.IDs(), "ProfileList", "C1")
	idle(t, d.Channel()) // changes something, and idle again changes nothing
	d.Channel().Forget()
	idle(t, d.Channel())
	if got := topicsOf(h.heard(t)); got != "" {
		t.Errorf("heard is %s, want nothing", got)
	}
	answer(t, d.Channel(), "C1", mdmtest.StatusNotNow)
	if got := topicsOf(h.heard(t)); got != "Connect NotNow" {
		t.Errorf("heard is %q, want the answer", got)
	}
}

func mustJSON(t testing.TB, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	must(t, err)
	return string(b)
}
