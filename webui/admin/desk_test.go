package admin

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/webui"
)

func TestNumbersAndNames(t *testing.T) {
	for n, want := range map[int]string{0: "0", 999: "999", 1000: "1,000", 1234567: "1,234,567", -1000: "-1,000", -100: "-100"} {
		if got := Number(n); got != want {
			t.Errorf("Number(%d) = %s, want %s", n, got, want)
		}
	}
	for name, want := range map[string]string{
		"DeviceLock": "Device lock", "device_lost": "Device lost", "OSVersion": "OS version", "not_now": "Not now",
		"InstallProfile": "Install profile", "UDID": "UDID", "isMDMLost": "Is MDM lost", "": "", "é": "É", "ScheduleOSUpdate": "Schedule OS update",
		"WiFiProfileData": "Wi-Fi profile data", "DisableWiFi": "Disable Wi-Fi",
	} {
		if got := Words(name); got != want {
			t.Errorf("Words(%q) = %q, want %q", name, got, want)
		}
	}
	if Count(1, "device", "devices") != "1 device" || Count(2000, "device", "devices") != "2,000 devices" {
		t.Error("counts are wrong")
	}
}

func TestAReasonDoesNotNameWhereItStands(t *testing.T) {
	for _, tt := range []struct{ name, reason, want string }{
		{"RestartDevice", "RestartDevice needs a supervised device.", "Needs a supervised device."},
		{"Wallpaper", "WallpaperX is not known.", "WallpaperX is not known."},
		{"DeviceLock", "The device is blocked.", "The device is blocked."},
		{"DeviceLock", "", ""},
	} {
		if got := Because(tt.name, tt.reason); got != tt.want {
			t.Errorf("Because(%q, %q) = %q, want %q", tt.name, tt.reason, got, tt.want)
		}
	}
}

func TestAFormKeepsWhatWasTyped(t *testing.T) {
	post := func(f url.Values) *Form {
		r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(f.Encode()))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		form, err := FormOf(r)
		if err != nil {
			t.Fatal(err)
		}
		return form
	}
	refused := &Problem{Problem: webui.Problem{Status: 400, Code: "invalid_request", Title: "The request is not valid"}, Errors: []FieldError{
		{"name", "must not be empty"}, {"params.PIN", "must be six digits"}, {"elsewhere", "is wrong"},
	}}
	form := post(url.Values{"name": {" x "}, "pin": {"1"}})
	if !form.Refused(refused, "params.PIN", "pin") || form.OK() {
		t.Fatal("a refusal of the API is not the form's")
	}
	if form.Get("name") != "x" || form.Errors["name"] != "It must not be empty." || form.Errors["pin"] != "It must be six digits." {
		t.Errorf("%+v", form)
	}
	if !strings.Contains(form.Error, "“Elsewhere” is wrong.") {
		t.Errorf("what is wrong with no field of the form is not said: %q", form.Error)
	}
	for _, status := range []int{401, 403, 404, 500, 503} {
		if form.Refused(&Problem{Problem: webui.Problem{Status: status, Code: "x", Title: "x"}}) {
			t.Errorf("%d is taken for a mistake in the form", status)
		}
	}
	if form.Refused(errors.New("disk")) {
		t.Error("a failure of ours is taken for a mistake in the form")
	}
	whole := post(url.Values{})
	if !whole.Refused(&Problem{Problem: webui.Problem{Status: 409, Code: "taken", Title: "There is one"}}) || whole.Error != "There is one." {
		t.Errorf("%+v", whole)
	}
}

func TestWhoDidItIsSaidInWords(t *testing.T) {
	for by, want := range map[string]string{
		"user:ana@example.com": "ana@example.com", "token:ci": "token ci", "local:local": "the command line", "setup": "the setup link", "setup:setup link": "the setup link",
		"": "the server", "server": "the server", "device:abc": "the device", "provider:Entra": "Entra", "scep": "scep",
	} {
		if got := Actor(by); got != want {
			t.Errorf("Actor(%q) = %q, want %q", by, got, want)
		}
	}
}

func TestANameIsTypedAsAKeyboardHasIt(t *testing.T) {
	for _, tt := range []struct {
		word, typed string
		want        bool
	}{
		{"Ana’s iPhone", " ana's iphone ", true},
		{"Ana’s iPhone", "Ana’s iPhone", true},
		{"Ana’s iPhone", "Anas iPad", false},
		{"Ana’s iPhone", "", false},
		{"Zoe\u0308 –  2", "zoë - 2", true},
		{"exe\u202egpj.\nX", "exegpj. x", true},
		{"📱", "📱", true},
		{"📱", "", false},
		{"\u202e", "x", false},
		{"12", "13", false},
	} {
		form := NewForm("typed", tt.typed)
		if got := form.Typed(tt.word); got != tt.want || got != (form.Errors["typed"] == "") {
			t.Errorf("%q for %q = %v, errors %v", tt.typed, tt.word, got, form.Errors)
		}
	}
}

func TestWhatNoFieldShowsIsSaidInWordsOfThePage(t *testing.T) {
	for _, tt := range []struct{ field, detail, want string }{
		{"group_id", "names no group", "There is no such group any more. Choose another."},
		{"group_id", "names a group without enrolled devices", "What was chosen is a group without enrolled devices."},
		{"device_ids[3]", "is not an id", "The device is not an id."},
		{"settings.base_dn", "is required", "“Base dn” is required."},
		{"x", "Apple says no.", "Apple says no."},
	} {
		if got := (FieldError{tt.field, tt.detail}).Sentence(); got != tt.want {
			t.Errorf("%s %s = %q, want %q", tt.field, tt.detail, got, tt.want)
		}
	}
}

func TestAFormThatWasRefusedIsSentAsSomethingNew(t *testing.T) {
	form := NewForm("once", "first")
	if got := once(form); got != "first" {
		t.Errorf("a form that is shown again has the key %q, want its own", got)
	}
	form.Fail("name", "It is wrong.")
	if got := once(form); got == "first" || got == "" {
		t.Errorf("a form that was refused has the key %q, want another", got)
	}
}

func TestAFormThatCantBeReadIsRefused(t *testing.T) {
	post := func(body string, limit int64) error {
		r := httptest.NewRequest("POST", "/", strings.NewReader(body))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.Body = http.MaxBytesReader(httptest.NewRecorder(), r.Body, limit)
		_, err := FormOf(r)
		return err
	}
	var p *webui.Problem
	if err := post("note=%zz", 100); !errors.As(err, &p) || p.Code != "bad_form" {
		t.Errorf("an escape that is none: %v", err)
	}
	var tooLarge *http.MaxBytesError
	if err := post("note="+strings.Repeat("x", 200), 100); !errors.As(err, &tooLarge) {
		t.Errorf("more than the limit: %v", err)
	}
	if err := post("note=x", 100); err != nil {
		t.Error(err)
	}
}

func TestFieldsSayWhatIsNotKnown(t *testing.T) {
	form := NewForm("colour", "red", "secret", "x")
	f, err := newField(form, "colour", "Colour", "type=select", Options("red", "Red", "blue", "Blue"), "hint=Which", "required")
	if err != nil || !f.Options[0].Selected || f.Options[1].Selected || !f.Required || f.Hint != "Which" {
		t.Errorf("%+v, %v", f, err)
	}
	if f, err = newField(form, "secret", "Secret", "type=password"); err != nil || f.Value != "" {
		t.Errorf("a password is shown again: %+v, %v", f, err)
	}
	if f, err = newField(form, "colour", "Red", "type=checkbox", "value=red"); err != nil || !f.Checked || f.Value != "red" {
		t.Errorf("%+v, %v", f, err)
	}
	for _, special := range []any{"colour=red", "rows=many", 3} {
		if _, err := newField(form, "x", "X", special); err == nil {
			t.Errorf("a field takes %v", special)
		}
	}
}

func TestPagersKeepTheFilter(t *testing.T) {
	p := NewPager(httptest.NewRequest("GET", "/admin/devices?q=a%26b&cursor=c1&done=saved", nil), "c2")
	if p.First != "/admin/devices?q=a%26b" || p.Next != "/admin/devices?cursor=c2&q=a%26b" {
		t.Errorf("%+v", p)
	}
	if p := NewPager(httptest.NewRequest("GET", "/admin/devices", nil), ""); p.First != "" || p.Next != "" {
		t.Errorf("%+v", p)
	}
}

func TestRedirectsSayOnlyWhatIsKnown(t *testing.T) {
	w := httptest.NewRecorder()
	if err := Redirect(w, httptest.NewRequest("POST", "/x", nil), "/admin/devices?q=x", "saved"); err != nil || w.Header().Get("Location") != "/admin/devices?done=saved&q=x" {
		t.Errorf("%v, %v", w.Header(), err)
	}
	if err := Redirect(httptest.NewRecorder(), httptest.NewRequest("POST", "/x", nil), "/admin", "nosuchsentence"); err == nil {
		t.Error("a sentence that is not there is promised")
	}
}
