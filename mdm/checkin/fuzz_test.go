package checkin_test

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"net/http/httptest"
	"testing"

	gatehouse "github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/mdmtest"
)

// FuzzBody sends bodies under the good signature of an enrolled device, who may
// say anything of itself: whatever it is, nothing breaks and no other device is
// touched.
func FuzzBody(f *testing.F) {
	h := newHouse(f)
	d := h.enrolled(f, mdmtest.Options{Model: mdmtest.Mac, UDID: "FUZZED"})
	victim := h.enrolled(f, mdmtest.Options{UDID: "VICTIM"})
	h.queue(f, d.IDs(), "ProfileList", "A", "B")
	h.queue(f, victim.IDs(), "ProfileList", "V")
	idle(f, victim.Channel())
	before := h.record(f, victim.IDs())

	for _, kind := range []string{"Authenticate", "TokenUpdate", "CheckOut", "SetBootstrapToken", "GetBootstrapToken", "UserAuthenticate", "GetToken", "DeclarativeManagement"} {
		f.Add(true, saying(f, d, kind, mdmtest.Dict{"UserID": nil}).Body)
		f.Add(true, saying(f, d, kind, mdmtest.Dict{"UserID": "U"}).Body)
	}
	for _, status := range []string{"Idle", "Acknowledged", "Error", "NotNow", "CommandFormatError"} {
		f.Add(false, reporting(f, d, mdmtest.Result{CommandUUID: "A", Status: status, Keys: mdmtest.Dict{
			"ErrorChain": []any{mdmtest.Dict{"ErrorCode": 1}}, "QueryResponses": mdmtest.Dict{"DeviceName": "x"},
		}}).Body)
	}
	for _, body := range hostileBodies(f, d) {
		if len(body) < 4096 {
			f.Add(false, []byte(body))
		}
	}
	f.Fuzz(func(t *testing.T, checkIn bool, body []byte) {
		p, err := d.PrepareRaw(checkIn, body)
		if err != nil {
			t.Fatal(err)
		}
		req := httptest.NewRequestWithContext(t.Context(), p.Method, p.URL, bytes.NewReader(body))
		req.Header = p.Header
		w := httptest.NewRecorder()
		h.door.ServeHTTP(w, req)
		if w.Code == 401 || w.Code == 500 || w.Code == 503 || w.Code == 410 && !bytes.Contains(body, []byte("UserAuthenticate")) {
			t.Errorf("status %d for %q", w.Code, body)
		}
		if after := h.record(t, victim.IDs()); fmt.Sprint(after) != fmt.Sprint(before) && (after.State != before.State || after.Push.Magic != before.Push.Magic) {
			t.Errorf("another device is %+v, was %+v", after, before)
		}
		if got := h.entry(t, "V").State; got != gatehouse.Delivered {
			t.Errorf("another device's command is %s", got)
		}
	})
}

// FuzzSignature sends a good body under any signature: only one that was made
// over this body, by the device, is heard.
func FuzzSignature(f *testing.F) {
	h := newHouse(f)
	d := h.enrolled(f, mdmtest.Options{UDID: "FUZZED"})
	p := saying(f, d, "TokenUpdate", mdmtest.Dict{"PushMagic": "fuzzed"})
	other := saying(f, h.enrolled(f, mdmtest.Options{Encoding: mdmtest.DER}), "TokenUpdate", nil)
	for _, header := range []string{p.Header.Get("Mdm-Signature"), other.Header.Get("Mdm-Signature")} {
		cms, err := base64.StdEncoding.DecodeString(header)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(cms)
		f.Add(cms[:len(cms)/2])
	}
	f.Add(bytes.Repeat([]byte{0x30, 0x80}, 64))
	f.Add(bytes.Repeat([]byte{0x30, 0x7F}, 64))
	f.Fuzz(func(t *testing.T, cms []byte) {
		for _, header := range []string{base64.StdEncoding.EncodeToString(cms), string(cms)} {
			req := httptest.NewRequestWithContext(t.Context(), p.Method, p.URL, bytes.NewReader(p.Body))
			req.Header.Set("Mdm-Signature", header)
			w := httptest.NewRecorder()
			h.door.ServeHTTP(w, req)
			switch w.Code {
			case 200: // the seed itself, or one that differs where nothing is signed
				if h.record(t, d.IDs()).Push.Magic != "fuzzed" {
					t.Errorf("a message was taken that is not the device's")
				}
			case 400, 403, 413:
			default:
				t.Errorf("status %d for the signature %x", w.Code, cms)
			}
		}
	})
}
