package apiv1_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/command"
	"github.com/gatehouse-mdm/gatehouse/mdm/profile"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

const profilesPath = "/api/v1/profiles"

// Payloads for mobileconfig, but for what all have.
const (
	wifiPayload     = `<key>PayloadType</key><string>com.apple.wifi.managed</string><key>SSID_STR</key><string>Staff</string><key>EncryptionType</key><string>WPA2</string><key>Password</key><string>hush-hush-1</string>`
	vpnPayload      = `<key>PayloadType</key><string>com.apple.vpn.managed</string><key>VPNType</key><string>IKEv2</string><key>UserDefinedName</key><string>Office</string>`
	passcodePayload = `<key>PayloadType</key><string>com.apple.mobiledevice.passwordpolicy</string><key>forcePIN</key><true/>`
)

// mobileconfig is a profile in a file.
func mobileconfig(identifier string, payloads ...string) string {
	var b strings.Builder
	b.WriteString(`<?xml version="1.0" encoding="UTF-8"?><plist version="1.0"><dict><key>PayloadType</key><string>Configuration</string><key>PayloadVersion</key><integer>1</integer>` +
		`<key>PayloadDisplayName</key><string>Staff network</string><key>PayloadUUID</key><string>0A1B2C3D-0000-4000-8000-000000000000</string>`)
	fmt.Fprintf(&b, `<key>PayloadIdentifier</key><string>%s</string><key>PayloadContent</key><array>`, identifier)
	for i, p := range payloads {
		fmt.Fprintf(&b, `<dict>%s<key>PayloadIdentifier</key><string>%s.%d</string><key>PayloadUUID</key><string>0A1B2C3D-0000-4000-8000-00000000010%d</string><key>PayloadVersion</key><integer>1</integer></dict>`, p, identifier, i, i)
	}
	b.WriteString(`</array></dict></plist>`)
	return b.String()
}

type finding struct {
	Code, Severity, Path, Reason string
	PayloadType                  string `json:"payload_type"`
	Platforms                    []string
}

type addedProfile struct {
	ID, Identifier, Name string
	Version              int
	New                  bool
	Latest               struct {
		Version      int
		UUID         string
		Note         string
		PayloadTypes []string `json:"payload_types"`
		Variables    []string
		Literal      bool
		Signer       *struct {
			Subject, Issuer, Serial, Broken string
		}
	}
	Findings []finding
}

// upload gives the library a file, which must be a new version.
func (h *house) upload(t testing.TB, file string) (a addedProfile) {
	t.Helper()
	h.do(t, exchange{method: "POST", path: profilesPath, body: []byte(file), header: aspen}).want(t, 201, &a)
	return a
}

var aspen = map[string]string{"Content-Type": "application/x-apple-aspen-config"}

// phone puts an enrolled iPhone that nobody supervises.
func (h *house) phone(t testing.TB, id mdm.DeviceID, change ...func(*mdm.Device)) {
	t.Helper()
	h.device(t, id, func(d *mdm.Device) {
		d.ProductName, d.OSVersion, d.Supervised, d.SharedIPad = "iPhone17,2", "18.2", new(bool), new(bool)
		for _, c := range change {
			c(d)
		}
	})
}

func userEnrolled(d *mdm.Device) {
	d.Type, d.AppleID, d.AccessRights, d.SerialNumber = mdm.TypeUser, mdm.AppleID{EnrollmentID: "E-" + string(d.ID)}, 0, ""
}

func TestAProfileIsKeptWithItsVersions(t *testing.T) {
	storagetest.AnyEngine(t)
	h := newHouse(t)
	file := mobileconfig("com.example.staff", wifiPayload)
	first := h.do(t, exchange{method: "POST", path: profilesPath + "?note=by+Ana", body: []byte(file), header: aspen})
	var one addedProfile
	first.want(t, 201, &one)
	path := profilesPath + "/" + one.ID
	if at := first.response.Get("Location"); at != path {
		t.Errorf("Location is %q, want %q", at, path)
	}
	if one.Identifier != "com.example.staff" || one.Name != "Staff network" || one.Version != 1 || !one.New || one.Latest.Note != "by Ana" ||
		!slices.Equal(one.Latest.PayloadTypes, []string{"com.apple.wifi.managed"}) || one.Latest.Signer != nil {
		t.Errorf("added %+v", one)
	}
	if i := slices.IndexFunc(one.Findings, func(f finding) bool { return f.Code == profile.CodeSecret }); i < 0 || one.Findings[i].Path != "PayloadContent[0].Password" {
		t.Errorf("findings are %+v, want the password's place", one.Findings)
	}

	var again, two addedProfile
	h.do(t, exchange{method: "POST", path: profilesPath, body: []byte(file)}).want(t, 200, &again)
	if again.New || again.ID != one.ID || again.Version != 1 {
		t.Errorf("the same again: %+v", again)
	}
	changed := strings.NewReplacer("hush-hush-1", "hush-hush-2", "WPA2", "WPA3").Replace(file)
	h.do(t, exchange{method: "PUT", path: path, body: []byte(changed), header: aspen}).want(t, 201, &two)
	if !two.New || two.ID != one.ID || two.Version != 2 || two.Latest.UUID == one.Latest.UUID {
		t.Errorf("changed: %+v", two)
	}

	var diff struct {
		From, To int
		Changes  []struct {
			Kind, Payload, Key, Old, New string
			Secret                       bool
		}
	}
	told := h.do(t, exchange{method: "GET", path: path + "/diff"})
	told.want(t, 200, &diff)
	if len(diff.Changes) != 2 || diff.From != 1 || diff.To != 2 ||
		diff.Changes[0].Key != "EncryptionType" || diff.Changes[0].Old != "WPA2" || diff.Changes[0].New != "WPA3" ||
		diff.Changes[1].Key != "Password" || !diff.Changes[1].Secret || diff.Changes[1].Old+diff.Changes[1].New != "" {
		t.Errorf("diff is %+v, want the encryption, and that the password is another", diff)
	}
	h.do(t, exchange{method: "GET", path: path + "/diff?from=2&to=1"}).want(t, 200, &diff)
	if diff.Changes[0].Old != "WPA3" {
		t.Errorf("the other way round: %+v", diff)
	}
	h.do(t, exchange{method: "GET", path: path + "/diff?to=3"}).wantProblem(t, 404, "not_found")
	h.do(t, exchange{method: "GET", path: path + "/diff?to=latest", wild: true}).wantField(t, "to")

	var list struct{ Items []profileVersion }
	h.do(t, exchange{method: "GET", path: path + "/versions"}).want(t, 200, &list)
	if len(list.Items) != 2 || list.Items[0].Version != 2 || list.Items[1].UUID != one.Latest.UUID {
		t.Errorf("versions are %+v", list.Items)
	}
	var v profileVersion
	h.do(t, exchange{method: "GET", path: path + "/versions/1"}).want(t, 200, &v)
	if v.UUID != one.Latest.UUID || len(v.Findings) == 0 {
		t.Errorf("version 1 is %+v", v)
	}
	for _, version := range []string{"0", "3", "-1", "x", "99999999999999999999"} {
		h.do(t, exchange{method: "GET", path: path + "/versions/" + version, wild: true}).wantProblem(t, 404, "not_found")
	}

	got := h.do(t, exchange{method: "GET", path: path + "/versions/1/download"})
	got.want(t, 200, nil)
	p, err := profile.Parse(got.answer)
	if err != nil || p.UUID != one.Latest.UUID || p.Payloads[0].Content["Password"] != "hush-hush-1" || p.Signer != nil {
		t.Errorf("download is %s, %v", got.answer, err)
	}
	if got.response.Get("Content-Type") != profile.ContentType || !strings.Contains(got.response.Get("Content-Disposition"), "com.example.staff.mobileconfig") {
		t.Errorf("download has %v", got.response)
	}
	got = h.do(t, exchange{method: "GET", path: path + "/versions/2/download?signed=true"})
	got.want(t, 200, nil)
	if p, err := profile.Parse(got.answer); err != nil || p.UUID != two.Latest.UUID || p.Signer == nil || p.Signer.Broken != "" {
		t.Errorf("signed: %+v, %v", p, err)
	}

	var back addedProfile
	h.do(t, exchange{method: "POST", path: path + "/versions/2/restore"}).want(t, 200, &back)
	if back.New || back.Version != 2 {
		t.Errorf("restored the latest: %+v", back)
	}
	h.do(t, exchange{method: "POST", path: path + "/versions/1/restore"}).want(t, 201, &back)
	if !back.New || back.Version != 3 || back.Latest.Note != "Version 1 again" {
		t.Errorf("restored: %+v", back)
	}
	h.do(t, exchange{method: "GET", path: path + "/diff?from=1&to=3"}).want(t, 200, &diff)
	if len(diff.Changes) != 0 {
		t.Errorf("the restored version differs: %+v", diff)
	}
	h.do(t, exchange{method: "POST", path: path + "/versions/4/restore"}).wantProblem(t, 404, "not_found")

	h.do(t, exchange{method: "PUT", path: path, body: []byte(mobileconfig("com.example.other", wifiPayload)), header: aspen}).wantProblem(t, 409, "other_profile")
	var all struct{ Items []addedProfile }
	h.do(t, exchange{method: "GET", path: profilesPath}).want(t, 200, &all)
	if len(all.Items) != 1 || all.Items[0].Version != 3 {
		t.Errorf("profiles are %+v", all.Items)
	}
	for _, said := range [][]byte{first.answer, told.answer, h.do(t, exchange{method: "GET", path: path}).answer} {
		if bytes.Contains(said, []byte("hush")) {
			t.Errorf("an answer has the password: %s", said)
		}
	}
	h.do(t, exchange{method: "DELETE", path: path}).want(t, 204, nil)
	for _, gone := range []string{"", "/versions", "/versions/1", "/versions/1/download", "/diff", "/devices"} {
		h.do(t, exchange{method: "GET", path: path + gone}).wantProblem(t, 404, "not_found")
	}
	h.do(t, exchange{method: "DELETE", path: path}).wantProblem(t, 404, "not_found")
}

type profileVersion struct {
	Version  int
	UUID     string
	Findings []finding
}

func TestASignedFileOfAnEditorIsUnwrapped(t *testing.T) {
	storagetest.AnyEngine(t)
	h := newHouse(t)
	signed, err := os.ReadFile(filepath.Join("..", "..", "mdm", "profile", "testdata", "profiles", "imazing-signed.mobileconfig"))
	if err != nil {
		t.Fatal(err)
	}
	a := h.upload(t, string(signed))
	const signer = "CN=Example Profile Signer,O=Example Sons"
	if s := a.Latest.Signer; s == nil || s.Subject != signer || s.Broken != "" {
		t.Errorf("signer is %+v, want %s", s, signer)
	}
	got := h.do(t, exchange{method: "GET", path: profilesPath + "/" + a.ID + "/versions/1/download"})
	if p, err := profile.Parse(got.answer); err != nil || p.Signer != nil || len(p.Payloads) != 3 {
		t.Errorf("download = %s, %v", got.answer, err)
	}
	i := slices.IndexFunc(a.Findings, func(f finding) bool { return f.Code == profile.CodeUnknownVariable })
	if i < 0 || a.Findings[i].Path != "PayloadContent[1].PayloadContent.Challenge" || strings.Contains(a.Findings[i].Reason, "$CHALLENGE") {
		t.Errorf("findings are %+v, want the challenge that is a variable, untold", a.Findings)
	}

	// It is kept all the same, but goes to nobody while nobody knows its variables.
	h.phone(t, "d1")
	for _, verb := range []string{"check", "send"} {
		p := h.do(t, exchange{method: "POST", path: profilesPath + "/" + a.ID + "/" + verb, body: map[string]any{"device_ids": []string{"d1"}}}).wantProblem(t, 422, "unknown_variables")
		if len(p.Errors) == 0 || !strings.HasPrefix(p.Errors[0].Field, "PayloadContent[1].PayloadContent.") {
			t.Errorf("%s: %+v, want errors that name the places", verb, p)
		}
	}
	var literal addedProfile
	h.do(t, exchange{method: "POST", path: profilesPath + "?literal=true", body: signed, header: aspen}).want(t, 201, &literal)
	if !literal.Latest.Literal || literal.Version != 2 || len(literal.Latest.Variables) != 0 {
		t.Errorf("literal: %+v", literal)
	}

	broken := bytes.Replace(signed, []byte("Example Staff"), []byte("Example Stuff"), 1)
	if a := h.upload(t, string(broken)); a.Latest.Signer == nil || !strings.Contains(a.Latest.Signer.Broken, "changed after it was signed") {
		t.Errorf("a changed one has the signer %+v", a.Latest.Signer)
	}
}

func TestWhatIsNoProfileIsNotKept(t *testing.T) {
	storagetest.AnyEngine(t)
	h := newHouse(t)
	good := mobileconfig("com.example.staff", wifiPayload)
	for name, tt := range map[string]struct {
		body, query string
		status      int
		code, says  string
	}{
		"nothing":                     {"", "", 422, "not_a_profile", "it is empty"},
		"a web page":                  {"<!DOCTYPE html><html></html>", "", 422, "not_a_profile", "web page"},
		"a binary property list":      {"bplist00\xd1\x01\x02", "", 422, "not_a_profile", "plutil -convert xml1"},
		"Latin-1":                     {strings.Replace(good, "Staff", "B\xfcro", 1), "", 422, "not_a_profile", "not valid UTF-8"},
		"a billion laughs":            {`<!DOCTYPE plist [<!ENTITY a "ha"><!ENTITY b "&a;&a;">]><plist><string>&b;</string></plist>`, "", 422, "not_a_profile", "declarations of its own"},
		"a deep one":                  {"<plist><dict><key>a</key>" + strings.Repeat("<array>", 1000), "", 422, "not_a_profile", "in one another"},
		"a command":                   {"<plist><dict><key>Command</key><dict/><key>CommandUUID</key><string>x</string></dict></plist>", "", 422, "not_a_profile", "a command for a device"},
		"9 MB":                        {strings.Repeat("<", 9<<20), "", 413, "body_too_large", "8 MiB"},
		"50 MB":                       {strings.Repeat("<", 50<<20), "", 413, "body_too_large", "8 MiB"},
		"one without an identifier":   {mobileconfig("", wifiPayload), "", 400, "invalid_request", "PayloadIdentifier is missing"},
		"one of this server's own":    {mobileconfig("com.example.mdm.gatehouse.enrollment", wifiPayload), "", 409, "profile_reserved", ""},
		"a note that is too long":     {good, "?note=" + strings.Repeat("x", 1001), 400, "invalid_request", "note has more than"},
		"a flag that is none":         {good, "?literal=perhaps", 400, "invalid_request", "literal must be true or false"},
		"a long identifier":           {mobileconfig("com."+strings.Repeat("x", 300), wifiPayload), "", 400, "invalid_request", "PayloadIdentifier has more than"},
		"an enrollment profile's key": {strings.Replace(good, "com.example.staff", "com.example.mdm.gatehouse.trust", 1), "", 409, "profile_reserved", ""},
	} {
		t.Run(name, func(t *testing.T) {
			p := h.do(t, exchange{method: "POST", path: profilesPath + tt.query, body: []byte(tt.body), header: aspen, wild: true}).wantProblem(t, tt.status, tt.code)
			if !strings.Contains(p.Detail, tt.says) {
				t.Errorf("detail is %q, want %q in it", p.Detail, tt.says)
			}
			if lint := h.do(t, exchange{method: "POST", path: profilesPath + "/lint", body: []byte(tt.body), header: aspen, wild: true}); tt.status != 400 && tt.status != 409 && lint.status != tt.status {
				t.Errorf("lint says %d %s", lint.status, lint.answer)
			}
		})
	}
	var all struct{ Items []any }
	h.do(t, exchange{method: "GET", path: profilesPath}).want(t, 200, &all)
	if len(all.Items) != 0 {
		t.Errorf("kept %v", all.Items)
	}
}

func TestAProfileIsMadeOfForms(t *testing.T) {
	storagetest.AnyEngine(t)
	h := newHouse(t)
	form := func(payloads ...any) map[string]any {
		return map[string]any{"identifier": "com.example.clip", "name": "Help desk", "payloads": payloads}
	}
	clip := func(settings map[string]any) map[string]any {
		return map[string]any{"payload_type": "com.apple.webClip.managed", "settings": settings}
	}
	good := map[string]any{"URL": "https://help.example.com/?who=$EMAIL", "Label": "Help", "IsRemovable": false, "Precomposed": true}
	var a addedProfile
	h.do(t, exchange{method: "POST", path: profilesPath, body: form(clip(good))}).want(t, 201, &a)
	if a.Name != "Help desk" || !slices.Equal(a.Latest.Variables, []string{"EMAIL"}) || !slices.Equal(a.Latest.PayloadTypes, []string{"com.apple.webClip.managed"}) {
		t.Errorf("made %+v", a)
	}
	h.do(t, exchange{method: "POST", path: profilesPath, body: form(clip(good))}).want(t, 200, nil)
	for _, f := range a.Findings {
		if f.Severity == "error" {
			t.Errorf("it has the error %+v", f)
		}
	}

	with := func(key string, v any) map[string]any {
		all := map[string]any{key: v}
		for k, v := range good {
			if k != key {
				all[k] = v
			}
		}
		return all
	}
	for name, tt := range map[string]struct {
		body  any
		field string
	}{
		"without an identifier":        {map[string]any{"payloads": []any{clip(good)}}, "identifier"},
		"without payloads":             {form(), "payloads"},
		"with a text for a payload":    {form("x"), "payloads[0]"},
		"a payload without a type":     {form(clip(good), map[string]any{"settings": good}), "payloads[1].payload_type"},
		"one that nobody knows":        {form(map[string]any{"payload_type": "com.apple.webclip"}), "payloads[0].payload_type"},
		"that enrolls":                 {form(map[string]any{"payload_type": "com.apple.mdm"}), "payloads[0].payload_type"},
		"an unknown field":             {form(map[string]any{"payload_type": "com.apple.webClip.managed", "setings": good}), "payloads[0].setings"},
		"an unknown setting":           {form(clip(with("Lable", "x"))), "payloads[0].settings.Lable"},
		"a setting of another type":    {form(clip(with("IsRemovable", "no"))), "payloads[0].settings.IsRemovable"},
		"settings that are none":       {form(map[string]any{"payload_type": "com.apple.webClip.managed", "settings": []string{"x"}}), "payloads[0].settings"},
		"a uuid that is none":          {form(map[string]any{"payload_type": "com.apple.webClip.managed", "uuid": "x", "settings": good}), "payloads[0].uuid"},
		"a name with a null character": {form(map[string]any{"payload_type": "com.apple.webClip.managed", "name": "\x00", "settings": good}), "payloads[0].name"},
		"the profile's own name":       {map[string]any{"identifier": "com.example.clip", "name": "\x00", "payloads": []any{clip(good)}}, "name"},
		"a scope that is none":         {map[string]any{"identifier": "com.example.clip", "scope": "Everywhere", "payloads": []any{clip(good)}}, "scope"},
	} {
		t.Run(name, func(t *testing.T) {
			h.do(t, exchange{method: "POST", path: profilesPath, body: tt.body, wild: true}).wantField(t, tt.field)
		})
	}
	raw, err := json.Marshal(form(clip(good)))
	if err != nil {
		t.Fatal(err)
	}
	twice := strings.Replace(string(raw), `"Label":`, `"Label":"x","Label":`, 1)
	h.do(t, exchange{method: "POST", path: profilesPath, body: twice, wild: true}).wantField(t, "payloads[0].settings.Label")
}

// TestWhatAProfileSetsIsTold holds that no password is.
func TestWhatAProfileSetsIsTold(t *testing.T) {
	h := newHouse(t)
	type payload struct {
		PayloadType string `json:"payload_type"`
		Title       string
		Settings    []struct {
			Key, Value string
			Secret     bool
		}
	}
	type linted struct {
		Payloads  []payload
		Variables []string
		Existing  *struct {
			ID      string
			Version int
		}
		Reserved bool
	}
	told := func(p payload, key string) (value string, secret bool) {
		for _, s := range p.Settings {
			if s.Key == key {
				return s.Value, s.Secret
			}
		}
		return "none", false
	}
	lint := func(file string) (r linted) {
		t.Helper()
		h.do(t, exchange{method: "POST", path: profilesPath + "/lint", body: []byte(file), header: aspen}).want(t, 200, &r)
		return r
	}
	file := mobileconfig("com.example.told", strings.Replace(wifiPayload, "Staff", "$USERNAME", 1))
	r := lint(file)
	if len(r.Payloads) != 1 || r.Payloads[0].Title != "Wi-Fi" || !slices.Equal(r.Variables, []string{"USERNAME"}) || r.Existing != nil || r.Reserved {
		t.Fatalf("lint = %+v", r)
	}
	if value, _ := told(r.Payloads[0], "SSID_STR"); value != "$USERNAME" {
		t.Errorf("SSID_STR = %q", value)
	}
	if value, secret := told(r.Payloads[0], "Password"); value != "" || !secret {
		t.Errorf("Password = %q, %v, want it untold", value, secret)
	}
	var kept struct{ ID string }
	h.do(t, exchange{method: "POST", path: profilesPath, body: []byte(file), header: aspen}).want(t, 201, &kept)
	if r := lint(file); r.Existing == nil || r.Existing.ID != kept.ID || r.Existing.Version != 1 {
		t.Errorf("lint of one that is kept = %+v", r.Existing)
	}
	var settings struct {
		Version  int
		Payloads []payload
	}
	h.do(t, exchange{method: "GET", path: profilesPath + "/" + kept.ID + "/versions/1/settings"}).want(t, 200, &settings)
	if value, secret := told(settings.Payloads[0], "Password"); settings.Version != 1 || value != "" || !secret {
		t.Errorf("settings = %+v", settings)
	}
	h.do(t, exchange{method: "GET", path: profilesPath + "/" + kept.ID + "/versions/2/settings"}).wantProblem(t, 404, "not_found")

	var list struct {
		Items []struct {
			ID          string
			Payloads    []payload
			Findings    map[string]int
			Devices     map[string]int
			MoreDevices bool `json:"more_devices"`
		}
	}
	h.do(t, exchange{method: "GET", path: profilesPath + "?details=true"}).want(t, 200, &list)
	if len(list.Items) != 1 || len(list.Items[0].Payloads) != 1 || list.Items[0].Findings["note"] == 0 || len(list.Items[0].Devices) != 0 || list.Items[0].MoreDevices {
		t.Errorf("details = %+v", list)
	}
}

func TestLintKeepsNothing(t *testing.T) {
	storagetest.AnyEngine(t)
	h := newHouse(t)
	type result struct {
		Identifier string
		Findings   []finding
		Refused    *bool
	}
	lint := func(query, file string) (r result) {
		t.Helper()
		h.do(t, exchange{method: "POST", path: profilesPath + "/lint" + query, body: []byte(file), header: aspen}).want(t, 200, &r)
		return r
	}
	has := func(r result, code, payloadType string) bool {
		return slices.ContainsFunc(r.Findings, func(f finding) bool { return f.Code == code && f.PayloadType == payloadType && f.Reason != "" })
	}
	file := mobileconfig("com.example.vpn", vpnPayload, strings.Replace(wifiPayload, "Staff", "$EMIAL", 1), `<key>PayloadType</key><string>com.apple.mobiledevice.passwordpolicy</string><key>forcePINs</key><true/>`)
	r := lint("", file)
	if r.Identifier != "com.example.vpn" || r.Refused != nil || !has(r, profile.CodeUnknownKey, "com.apple.mobiledevice.passwordpolicy") || !has(r, profile.CodeUnknownVariable, "com.apple.wifi.managed") {
		t.Errorf("lint = %+v, want the key and the variable that nobody knows", r)
	}
	if r := lint("?literal=true", file); has(r, profile.CodeUnknownVariable, "com.apple.wifi.managed") {
		t.Errorf("literal: %+v", r)
	}
	if r := lint("?target=ios:18.2,user", file); r.Refused == nil || !*r.Refused || !has(r, profile.CodeUserEnrollment, "com.apple.vpn.managed") {
		t.Errorf("for a personal device: %+v, want the VPN refused", r)
	}
	if r := lint("?target=ios:18.2", mobileconfig("com.example.wifi", wifiPayload)); r.Refused == nil || *r.Refused {
		t.Errorf("for another: %+v, want it taken", r)
	}
	h.do(t, exchange{method: "POST", path: profilesPath + "/lint?target=amiga", body: []byte(file), header: aspen}).wantField(t, "target")
	var all struct{ Items []any }
	h.do(t, exchange{method: "GET", path: profilesPath}).want(t, 200, &all)
	if len(all.Items) != 0 {
		t.Errorf("kept %v", all.Items)
	}
}

type sending struct {
	BatchID      string `json:"batch_id"`
	Version      int
	CommandUUIDs []string `json:"command_uuids"`
	Devices      []struct {
		DeviceID    string `json:"device_id"`
		CommandUUID string `json:"command_uuid"`
		Reduced     bool
	}
	Rejected rejections
}

type installation struct {
	DeviceID         string `json:"device_id"`
	ProfileID        string `json:"profile_id"`
	State            string
	Version          int
	InstalledVersion *int `json:"installed_version"`
	Reduced          bool
	CommandUUID      string `json:"command_uuid"`
	Reason           string
	Identifier       string
	LatestVersion    int `json:"latest_version"`
}

func (h *house) installations(t testing.TB, path string) []installation {
	t.Helper()
	var list struct{ Items []installation }
	h.do(t, exchange{method: "GET", path: path}).want(t, 200, &list)
	return list.Items
}

// TestAProfileGoesToWhomItMay follows one from the forecast to its removal.
func TestAProfileGoesToWhomItMay(t *testing.T) {
	storagetest.AnyEngine(t)
	h := newHouse(t)
	h.phone(t, "office")
	h.phone(t, "own", userEnrolled)
	h.phone(t, "gone", func(d *mdm.Device) { d.State = mdm.Unenrolled })
	a := h.upload(t, mobileconfig("com.example.staff", vpnPayload, wifiPayload))
	path := profilesPath + "/" + a.ID
	ids := []string{"office", "own", "gone", "nobody"}

	var forecast struct {
		Summary                string
		Total, Accept, Reduced int
		Verdicts               []struct {
			DeviceIDs []string `json:"device_ids"`
			Code      string
			Findings  []finding
			LeftOut   []finding `json:"left_out"`
		}
	}
	h.do(t, exchange{method: "POST", path: path + "/check", body: map[string]any{"device_ids": ids}}).want(t, 200, &forecast)
	if forecast.Total != 4 || forecast.Accept != 1 || forecast.Reduced != 1 || !strings.HasPrefix(forecast.Summary, "3 of 4 devices would reject this: ") || !strings.Contains(forecast.Summary, "com.apple.vpn.managed") {
		t.Errorf("forecast is %+v", forecast)
	}
	codes := map[string]string{}
	for _, v := range forecast.Verdicts {
		for _, id := range v.DeviceIDs {
			codes[id] = v.Code
		}
		if v.Code == profile.CodeUserEnrollment && (len(v.LeftOut) != 1 || v.LeftOut[0].PayloadType != "com.apple.vpn.managed") {
			t.Errorf("left out would be %+v, want the VPN", v.LeftOut)
		}
	}
	if want := map[string]string{"own": profile.CodeUserEnrollment, "gone": "not_enrolled", "nobody": "not_found"}; !reflect.DeepEqual(codes, want) {
		t.Errorf("verdicts are %v, want %v", codes, want)
	}

	for name, body := range map[string]map[string]any{
		"device_ids": {"device_ids": []string{}},
		"group_id":   {"device_ids": ids, "group_id": "staff"},
		"expires_in": {"device_ids": ids, "expires_in": "3s"},
		"versoin":    {"device_ids": ids, "versoin": 1},
	} {
		h.do(t, exchange{method: "POST", path: path + "/send", body: body, wild: true}).wantField(t, name)
	}
	h.do(t, exchange{method: "POST", path: path + "/send", body: map[string]any{"device_ids": ids, "version": 7}}).wantProblem(t, 404, "not_found")
	h.do(t, exchange{method: "POST", path: profilesPath + "/none/send", body: map[string]any{"device_ids": ids}}).wantProblem(t, 404, "not_found")
	nobody := h.do(t, exchange{method: "POST", path: path + "/send", body: map[string]any{"device_ids": ids[1:]}}).wantProblem(t, 422, "profile_rejected")
	if len(nobody.Rejected) != 3 {
		t.Errorf("to nobody: %+v", nobody)
	}

	order := exchange{method: "POST", path: path + "/send", body: map[string]any{"device_ids": ids, "reduce": true, "expires_in": "72h"}, header: map[string]string{"Idempotency-Key": "once"}}
	var sent, again sending
	h.do(t, order).want(t, 202, &sent)
	reduced := map[string]bool{}
	for _, d := range sent.Devices {
		reduced[d.DeviceID] = d.Reduced
	}
	if want := map[string]bool{"office": false, "own": true}; !reflect.DeepEqual(reduced, want) || len(sent.Rejected) != 2 || sent.Version != 1 || len(sent.CommandUUIDs) != 2 {
		t.Errorf("sent %+v", sent)
	}
	repeated := h.do(t, order)
	repeated.want(t, 202, &again)
	if again.BatchID != sent.BatchID || len(again.Devices) != 2 || again.Version != 1 {
		t.Errorf("repeated: %+v, want %+v", again, sent)
	}
	order.body = map[string]any{"device_ids": ids}
	h.do(t, order).wantProblem(t, 422, "idempotency_key_reused")

	_, _, payloads := h.installProfile(t, "own")
	if len(payloads) != 1 || payloads["com.apple.wifi.managed"] == nil {
		t.Errorf("the personal phone gets %v, want the Wi-Fi alone", payloads)
	}
	uuid, _, payloads := h.installProfile(t, "office")
	if len(payloads) != 2 {
		t.Errorf("the office's phone gets %v, want all", payloads)
	}
	h.answer(t, "office", mdm.Report{CommandUUID: uuid, State: mdm.Acknowledged})
	h.do(t, exchange{method: "DELETE", path: path}).wantProblem(t, 409, "profile_in_use")
	var one struct{ Devices map[string]int }
	h.do(t, exchange{method: "GET", path: path}).want(t, 200, &one)
	if want := map[string]int{"sent": 1, "installed": 1}; !reflect.DeepEqual(one.Devices, want) {
		t.Errorf("devices are %v, want %v", one.Devices, want)
	}
	h.do(t, exchange{method: "GET", path: path + "?uncounted=true"}).want(t, 200, &one)
	if one.Devices != nil {
		t.Errorf("uncounted, the devices are %v", one.Devices)
	}
	h.do(t, exchange{method: "GET", path: path + "?uncounted=maybe", wild: true}).wantField(t, "uncounted")
	h.answer(t, "own", mdm.Report{CommandUUID: h.installations(t, path+"/devices?state=sent")[0].CommandUUID, State: mdm.Failed, ErrorChain: []command.ChainedError{{ErrorCode: 4001, ErrorDomain: "MCInstallationErrorDomain", USEnglishDescription: "no"}}})
	for _, i := range h.installations(t, path+"/devices") {
		if i.DeviceID == "own" && (i.State != "failed" || i.Reason == "" || !i.Reduced || i.InstalledVersion != nil) ||
			i.DeviceID == "office" && (i.State != "installed" || i.InstalledVersion == nil || *i.InstalledVersion != 1) {
			t.Errorf("stands %+v", i)
		}
	}
	if got := h.installations(t, path+"/devices?state=failed&state=drifted"); len(got) != 1 || got[0].DeviceID != "own" {
		t.Errorf("failed: %+v", got)
	}
	h.do(t, exchange{method: "GET", path: path + "/devices?state=lost", wild: true}).wantField(t, "state")
	var page struct {
		Items []installation
		Next  string `json:"next_cursor"`
	}
	h.do(t, exchange{method: "GET", path: path + "/devices?limit=1"}).want(t, 200, &page)
	if rest := h.installations(t, path+"/devices?limit=1&cursor="+page.Next); len(page.Items) != 1 || page.Next == "" || len(rest) != 1 || rest[0].DeviceID == page.Items[0].DeviceID {
		t.Errorf("pages are %+v, then %+v", page, rest)
	}

	h.upload(t, mobileconfig("com.example.staff", wifiPayload))
	if got := h.installations(t, "/api/v1/devices/office/profiles"); len(got) != 1 || got[0].Identifier != "com.example.staff" || got[0].Version != 1 || got[0].LatestVersion != 2 {
		t.Errorf("on the device: %+v", got)
	}
	h.do(t, exchange{method: "GET", path: "/api/v1/devices/nobody/profiles"}).wantProblem(t, 404, "not_found")

	var removal struct {
		CommandUUID string   `json:"command_uuid"`
		DeviceIDs   []string `json:"device_ids"`
		Unsent      []string
		Rejected    rejections
	}
	h.do(t, exchange{method: "POST", path: path + "/remove", body: map[string]any{"device_ids": ids}}).want(t, 202, &removal)
	if !slices.Equal(removal.DeviceIDs, []string{"office"}) || len(removal.Unsent) != 0 || len(removal.Rejected) != 3 {
		t.Errorf("removal is %+v", removal)
	}
	if next := h.deliver(t, "office"); next != removal.CommandUUID {
		t.Errorf("the device runs %s, want the removal %s", next, removal.CommandUUID)
	}
	h.answer(t, "office", mdm.Report{CommandUUID: removal.CommandUUID, State: mdm.Acknowledged})
	none := h.do(t, exchange{method: "POST", path: path + "/remove", body: map[string]any{"device_ids": ids}}).wantProblem(t, 422, "profile_rejected")
	if len(none.Rejected) != 4 {
		t.Errorf("removed again: %+v", none)
	}

	h.do(t, exchange{method: "POST", path: path + "/send", body: map[string]any{"device_ids": []string{"office"}}}).want(t, 202, &sent)
	h.do(t, exchange{method: "POST", path: path + "/remove", body: map[string]any{"device_ids": []string{"office"}}}).want(t, 202, &removal)
	if removal.CommandUUID != "" || !slices.Equal(removal.Unsent, []string{"office"}) {
		t.Errorf("taken back before it was fetched: %+v", removal)
	}
	h.do(t, exchange{method: "DELETE", path: path}).want(t, 204, nil)
	for _, action := range []string{"profile.saved", "profile.sent", "profile.removed", "profile.deleted"} {
		if !slices.ContainsFunc(h.audit(t, h.owner, ""), func(e auditEvent) bool { return e.Action == action }) {
			t.Errorf("the audit log lacks %s", action)
		}
	}
}

func TestEachDeviceGetsItsOwnValues(t *testing.T) {
	storagetest.AnyEngine(t)
	h := newHouse(t)
	h.ana(t)
	h.phone(t, "d1")
	h.phone(t, "d2", func(d *mdm.Device) { d.User = "" })
	a := h.upload(t, mobileconfig("com.example.clip", `<key>PayloadType</key><string>com.apple.webClip.managed</string><key>URL</key><string>https://help.example.com/$SERIALNUMBER</string><key>Label</key><string>$FULLNAME: $$5</string>`))
	var sent sending
	h.do(t, exchange{method: "POST", path: profilesPath + "/" + a.ID + "/send", body: map[string]any{"device_ids": []string{"d1", "d2"}}}).want(t, http.StatusAccepted, &sent)
	if len(sent.Devices) != 1 || len(sent.Rejected) != 1 || sent.Rejected[0].DeviceID != "d2" || !strings.Contains(sent.Rejected[0].Reason, "FULLNAME") {
		t.Errorf("sent %+v, want d2 rejected for its user's name", sent)
	}
	_, _, payloads := h.installProfile(t, "d1")
	if clip := payloads["com.apple.webClip.managed"]; clip["URL"] != "https://help.example.com/C02d1" || !strings.HasPrefix(clip["Label"].(string), "Ana Bee: $") {
		t.Errorf("the device gets %v", clip)
	}
}
