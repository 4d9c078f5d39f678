package profile_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/mdm/internal/plistxml"
	"github.com/gatehouse-mdm/gatehouse/mdm/profile"
	"github.com/gatehouse-mdm/gatehouse/storage/guard"
)

// known and value are variables of a device as a server has them.
func known(name string) bool {
	return slices.Contains([]string{"EMAIL", "USERNAME", "SERIALNUMBER", "DEVICENAME", "MANAGED_APPLE_ACCOUNT", "ASSET_TAG", "UDID"}, name)
}

func value(name string) (string, error) {
	if !known(name) {
		return "", errors.New("is not known")
	}
	return "<" + strings.ToLower(name) + ">&\"'" + "😀", nil
}

// with returns a profile that has payloads, parsed from its own bytes.
func with(t testing.TB, top map[string]any, payloads ...map[string]any) *profile.Profile {
	t.Helper()
	all := map[string]any{
		"PayloadType": "Configuration", "PayloadVersion": 1, "PayloadIdentifier": "com.example.test",
		"PayloadUUID": "AAAAAAAA-0000-4000-8000-000000000000", "PayloadDisplayName": "Test",
	}
	for key, v := range top {
		all[key] = v
	}
	content := make([]any, len(payloads))
	for i, p := range payloads {
		d := map[string]any{
			"PayloadVersion": 1, "PayloadIdentifier": fmt.Sprintf("com.example.test.%d", i),
			"PayloadUUID": fmt.Sprintf("AAAAAAAA-0000-4000-8000-%012d", i+1),
		}
		for key, v := range p {
			d[key] = v
		}
		content[i] = d
	}
	all["PayloadContent"] = content
	raw, err := plistxml.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	p, err := profile.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestExpandText(t *testing.T) {
	plain := func(name string) (string, error) { return "ana@example.com", nil }
	for text, want := range map[string]string{
		"":                      "",
		"no variable":           "no variable",
		"$EMAIL":                "ana@example.com",
		"${EMAIL}":              "ana@example.com",
		"a $EMAIL, ${EMAIL}b":   "a ana@example.com, ana@example.comb",
		"$EMAIL$EMAIL":          "ana@example.comana@example.com",
		"$EMAIL.$EMAIL_":        "ana@example.com.ana@example.com",
		"$$EMAIL":               "$EMAIL",
		"$${EMAIL}":             "${EMAIL}",
		"$$$EMAIL":              "$ana@example.com",
		"$$$$EMAIL":             "$$EMAIL",
		"pa$$word":              "pa$$word",
		"pa$$Word and $Secret1": "pa$$Word and $Secret1",
		"$5 and $lower":         "$5 and $lower",
		"$":                     "$",
		"$$":                    "$$",
		"${":                    "${",
		"${EMAIL":               "${EMAIL",
		"${email} ${E-MAIL}":    "${email} ${E-MAIL}",
		"${}":                   "${}",
		"100 %, {{a}}, \\$x":    "100 %, {{a}}, \\$x",
		"tab\tand\nlines $$":    "tab\tand\nlines $$",
	} {
		p := with(t, nil, map[string]any{"PayloadType": "com.apple.webClip.managed", "Label": text})
		expanded, err := p.Expand(plain, nil)
		if err != nil {
			t.Errorf("Expand of %q: %v", text, err)
			continue
		}
		if got := expanded.Payloads[0].Content["Label"]; got != want {
			t.Errorf("Expand of %q = %q, want %q", text, got, want)
		}
		if p.Payloads[0].Content["Label"] != text {
			t.Errorf("Expand of %q changed the profile itself", text)
		}
	}
}

func TestExpandReplacesTextsOnly(t *testing.T) {
	p := with(t, map[string]any{"PayloadDescription": "of $EMAIL"}, map[string]any{
		"PayloadType": "com.apple.$EMAIL", "PayloadIdentifier": "com.example.$EMAIL", "PayloadUUID": "$EMAIL",
		"$EMAIL": "key", "Data": []byte("$EMAIL"), "List": []any{"$EMAIL", 1, true, map[string]any{"Deep": "to $EMAIL"}},
	})
	expanded, err := p.Expand(func(string) (string, error) { return "x</string>", nil }, nil)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := expanded.Encode()
	if err != nil {
		t.Fatal(err)
	}
	again, err := profile.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	if again.Description != "of x</string>" {
		t.Errorf("Description = %q", again.Description)
	}
	want := map[string]any{
		"PayloadType": "com.apple.$EMAIL", "PayloadIdentifier": "com.example.$EMAIL", "PayloadUUID": "$EMAIL", "PayloadVersion": int64(1),
		"$EMAIL": "key", "Data": []byte("$EMAIL"), "List": []any{"x</string>", int64(1), true, map[string]any{"Deep": "to x</string>"}},
	}
	if got := plain(again.Payloads[0].Content); !reflect.DeepEqual(got, plain(want)) {
		t.Errorf("payload = %v, want %v", got, want)
	}
}

// plain makes numbers of a property list comparable.
func plain(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := make(map[string]any, len(v))
		for key, value := range v {
			out[key] = plain(value)
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, value := range v {
			out[i] = plain(value)
		}
		return out
	case int, int64, uint64:
		return fmt.Sprint(v)
	}
	return v
}

func TestExpandRefusesValues(t *testing.T) {
	p := with(t, nil, map[string]any{"PayloadType": "com.apple.webClip.managed", "Label": "of $EMAIL"})
	tmpl, err := p.Template()
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		value string
		err   error
		want  string
	}{
		"a line end":          {value: "a\nb", want: "$EMAIL holds control characters for this device"},
		"a zero":              {value: "a\x00", want: "$EMAIL holds control characters for this device"},
		"no character":        {value: "a\uFFFE", want: "$EMAIL holds control characters for this device"},
		"bytes that are none": {value: "a\xff", want: "$EMAIL is not UTF-8 for this device"},
		"a book":              {value: strings.Repeat("a", 4097), want: "$EMAIL has 4097 bytes for this device, at most 4096"},
		"an error":            {err: errors.New("nobody knows"), want: "$EMAIL: nobody knows"},
		"an own error":        {err: &profile.VariableError{Name: "EMAIL", Reason: "is empty"}, want: "$EMAIL is empty"},
	} {
		t.Run(name, func(t *testing.T) {
			of := func(string) (string, error) { return tt.value, tt.err }
			want := "profile com.example.test: " + tt.want
			if _, err := p.Expand(of, nil); err == nil || err.Error() != want {
				t.Errorf("Expand: %v, want %s", err, want)
			}
			if _, err := tmpl.Render(of, nil); err == nil || err.Error() != want {
				t.Errorf("Render: %v, want %s", err, want)
			}
		})
	}
}

func TestVariables(t *testing.T) {
	p := with(t, map[string]any{"PayloadDescription": "$SERIALNUMBR of {{serial_number}}"},
		map[string]any{"PayloadType": "com.apple.mail.managed", "PayloadIdentifier": "com.example.$EMAIL",
			"EmailAddress": "$EMAIL", "EmailAccountName": "${USERNAME}: pa$$word $5 $$HOME", "EmailAccountDescription": "$NOTHING_LIKE_IT",
			"IncomingMailServerUsername": "%Email% 100% of %20all%", "OutgoingMailServerUsername": "$FLEET_VAR_HOST_END_USER_EMAIL_IDP ${FLEET_VAR_NDES_SCEP_CHALLENGE}",
			"IncomingMailServerHostName": "$HOME $EMIAL"},
		map[string]any{"PayloadType": "com.apple.security.scep", "PayloadContent": map[string]any{
			"Subject": []any{[]any{[]any{"CN", "%ComputerName%"}}, []any{[]any{"O", "$REALM_USER.EMAIL $MANAGED_APPLE_ID.EMAIL"}}}}},
		map[string]any{"PayloadType": "com.apple.security.scep", "PayloadContent": map[string]any{"CertificateTemplate": ""}},
	)
	names, problems := p.Variables(known)
	if want := []string{"EMAIL", "USERNAME"}; !slices.Equal(names, want) {
		t.Errorf("names = %v, want %v", names, want)
	}
	var got []string
	for _, f := range problems {
		got = append(got, f.Code+" "+f.PayloadType+" "+f.Reason)
	}
	want := []string{
		"foreign_variable Configuration PayloadDescription holds {{serial_number}}, which is another server's way to write $SERIALNUMBER. Write $SERIALNUMBER.",
		"unknown_variable Configuration PayloadDescription holds the unknown variable $SERIALNUMBR. Did you mean $SERIALNUMBER? Write $$SERIALNUMBR for the text $SERIALNUMBR.",
		"unknown_variable com.apple.mail.managed EmailAccountDescription holds the unknown variable $NOTHING_LIKE_IT. Write $$NOTHING_LIKE_IT for the text $NOTHING_LIKE_IT.",
		"unknown_variable com.apple.mail.managed IncomingMailServerHostName holds the unknown variable $HOME. Write $$HOME for the text $HOME.",
		"unknown_variable com.apple.mail.managed IncomingMailServerHostName holds the unknown variable $EMIAL. Did you mean $EMAIL? Write $$EMIAL for the text $EMIAL.",
		"foreign_variable com.apple.mail.managed IncomingMailServerUsername holds %Email%, which is Mosyle's way to write $EMAIL. Write $EMAIL.",
		"foreign_variable com.apple.mail.managed OutgoingMailServerUsername holds $FLEET_VAR_HOST_END_USER_EMAIL_IDP, which is Fleet's way to write $EMAIL. Write $EMAIL.",
		`foreign_variable com.apple.mail.managed OutgoingMailServerUsername holds ${FLEET_VAR_NDES_SCEP_CHALLENGE}, which is Fleet's. Certificates come from certificate templates here: put {"CertificateTemplate": NAME} into the PayloadContent of the SCEP payload.`,
		"misplaced_variable com.apple.mail.managed PayloadIdentifier holds $EMAIL, but must be the same for all devices: nothing is replaced there.",
		"foreign_variable com.apple.security.scep PayloadContent.Subject[1][0][1] holds $REALM_USER.EMAIL, which is Zentral's way to write $EMAIL. Write $EMAIL.",
		"foreign_variable com.apple.security.scep PayloadContent.Subject[1][0][1] holds $MANAGED_APPLE_ID.EMAIL, which is Zentral's way to write $MANAGED_APPLE_ACCOUNT. Write $MANAGED_APPLE_ACCOUNT.",
		"certificate_template com.apple.security.scep CertificateTemplate must be the name of a certificate template.",
	}
	if !slices.Equal(got, want) {
		t.Errorf("problems:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestFindingsTellNoPartOfASecret(t *testing.T) {
	p := with(t, nil, map[string]any{"PayloadType": "com.apple.wifi.managed", "SSID_STR": "Office", "Password": "hunter$ECRET {{hunter}} 5%hunter%",
		"EAPClientConfiguration": map[string]any{"UserPassword": "${FLEET_SECRET_HUNTER} $EMAIL"}})
	names, problems := p.Variables(known)
	if len(names) != 1 || len(problems) != 3 {
		t.Errorf("names = %v, problems = %+v; want EMAIL and three problems", names, problems)
	}
	for _, f := range problems {
		if f.Code == "" || f.Key == "" || strings.Contains(f.Reason, "ECRET") || strings.Contains(strings.ToLower(f.Reason), "hunter") {
			t.Errorf("%+v tells a part of the password", f)
		}
	}
}

// wifi is a profile whose Wi-Fi takes the certificate that is made for each device.
func wifi(t testing.TB) *profile.Profile {
	return with(t, nil,
		map[string]any{"PayloadType": "com.apple.security.scep", "PayloadDisplayName": "Certificate of $EMAIL",
			"PayloadContent": map[string]any{profile.CertificateTemplateKey: "wifi"}},
		map[string]any{"PayloadType": "com.apple.wifi.managed", "SSID_STR": "Office", "EncryptionType": "WPA2",
			"PayloadCertificateUUID": "AAAAAAAA-0000-4000-8000-000000000001",
			"EAPClientConfiguration": map[string]any{"AcceptEAPTypes": []any{13}, "UserName": "${EMAIL}"}})
}

func TestExpandFillsCertificates(t *testing.T) {
	p := wifi(t)
	if got := p.Certificates(); !slices.Equal(got, []string{"wifi"}) {
		t.Fatalf("Certificates() = %v", got)
	}
	content, err := credential(t).SCEP.Content()
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(map[string]map[string]any{"wifi": content}) // as it waits for its delivery
	if err != nil {
		t.Fatal(err)
	}
	var requests map[string]map[string]any
	if err := json.Unmarshal(text, &requests); err != nil {
		t.Fatal(err)
	}
	expanded, err := p.Expand(value, requests)
	if err != nil {
		t.Fatal(err)
	}
	scep := expanded.Payloads[0]
	if scep.UUID != p.Payloads[0].UUID {
		t.Errorf("PayloadUUID = %s, which the Wi-Fi does not refer to", scep.UUID)
	}
	if got := scep.Content["PayloadContent"]; !reflect.DeepEqual(plain(got), plain(content)) {
		t.Errorf("request = %v, want %v", got, content)
	}
	if got := expanded.Certificates(); got != nil {
		t.Errorf("places left: %v", got)
	}
	tmpl, err := p.Template()
	if err != nil {
		t.Fatal(err)
	}
	if got := tmpl.Variables(); !slices.Equal(got, []string{"EMAIL"}) {
		t.Errorf("Variables() of the template = %v", got)
	}
	raw, err := tmpl.Render(value, requests)
	if err != nil {
		t.Fatal(err)
	}
	rendered, err := profile.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(plain(rendered.Top), plain(expanded.Top)) {
		t.Errorf("Render = %v,\nExpand = %v", rendered.Top, expanded.Top)
	}

	for name, requests := range map[string]map[string]map[string]any{
		"none":               nil,
		"of others":          {"vpn": content},
		"without an address": {"wifi": {"Name": "wifi"}},
		"a place again":      {"wifi": {"URL": "https://mdm.example.com/scep", profile.CertificateTemplateKey: "wifi"}},
	} {
		if _, err := p.Expand(value, requests); !errors.Is(err, profile.ErrNoCertificate) {
			t.Errorf("Expand with requests %s: %v, want ErrNoCertificate", name, err)
		}
		if _, err := tmpl.Render(value, requests); !errors.Is(err, profile.ErrNoCertificate) {
			t.Errorf("Render with requests %s: %v, want ErrNoCertificate", name, err)
		}
	}
}

func TestFreshCertificatesAreNamedWhereTheyAreMeant(t *testing.T) {
	const form = "AAAAAAAA-0000-4000-8000-00000000CE27"
	for name, tt := range map[string]struct{ uuid, reference, text string }{
		"a UUID":             {form, form, "of " + form},
		"in small letters":   {form, strings.ToLower(form), "com.apple"},
		"a name for it":      {"wifi", "wifi", "wifi"},
		"a name with a sign": {"a$B", "A$B", "a$B"},
	} {
		scep := map[string]any{"PayloadType": "com.apple.security.scep", "PayloadUUID": tt.uuid, "PayloadIdentifier": tt.uuid,
			"PayloadContent": map[string]any{"CertificateTemplate": "wifi"}}
		wifi := func(reference string) map[string]any {
			return map[string]any{"PayloadType": "com.apple.wifi.managed", "PayloadUUID": "other", "SSID_STR": tt.text, tt.uuid: true,
				"PayloadCertificateUUID": reference, "EAP": map[string]any{"AnchorUUIDs": []any{"x", reference}}}
		}
		p := with(t, nil, scep, wifi(tt.reference))
		before := fmt.Sprint(p.Top)
		got := p.WithFreshCertificates(func(uuid string) string { return "fresh of " + uuid })
		if fmt.Sprint(p.Top) != before {
			t.Errorf("%s: the profile itself is changed", name)
		}
		scep["PayloadUUID"] = "fresh of " + tt.uuid
		if want := with(t, nil, scep, wifi("fresh of "+tt.uuid)); !reflect.DeepEqual(got.Top, want.Top) {
			t.Errorf("%s: %v,\nwant %v", name, got.Top, want.Top)
		}
	}
	if p := with(t, nil, map[string]any{"PayloadType": "com.apple.wifi.managed"}); p.WithFreshCertificates(nil) != p {
		t.Error("without certificates: another profile")
	}
}

func TestWithUUIDChangesNothingElse(t *testing.T) {
	p := wifi(t)
	q := p.WithUUID("BBBBBBBB-0000-4000-8000-000000000000")
	if q.UUID != "BBBBBBBB-0000-4000-8000-000000000000" || p.UUID == q.UUID {
		t.Errorf("UUIDs: %s and %s", p.UUID, q.UUID)
	}
	if back := q.WithUUID(p.UUID); !reflect.DeepEqual(back.Top, p.Top) {
		t.Error("more than the UUID has changed")
	}
}

func TestSizeIsThatOfWhatIsRendered(t *testing.T) {
	p := with(t, map[string]any{"PayloadDescription": "for $X"}, map[string]any{"PayloadType": "com.example", "Text": "$X, $X & ${Y}"})
	tmpl, err := p.Template()
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]string{"X": `<Ana & "Bea">`, "Y": "y"}
	of := func(name string) (string, error) { return values[name], nil }
	raw, err := tmpl.Render(of, nil)
	if size := tmpl.Size(values); size != len(raw) || err != nil {
		t.Errorf("Size = %d, Render has %d bytes, %v", size, len(raw), err)
	}
	values["X"], values["Y"] = strings.Repeat(`"`, 4<<10), strings.Repeat("'", 4<<10)
	if raw, err = tmpl.Render(of, nil); tmpl.Largest() != len(raw) || err != nil {
		t.Errorf("Largest = %d, Render has %d bytes, %v", tmpl.Largest(), len(raw), err)
	}

	if tmpl, err = wifi(t).Template(); err != nil {
		t.Fatal(err)
	}
	content, err := credential(t).SCEP.Content()
	if err != nil {
		t.Fatal(err)
	}
	raw, err = tmpl.Render(value, map[string]map[string]any{"wifi": content})
	if tmpl.Largest() < len(raw) || err != nil {
		t.Errorf("with a certificate: Largest = %d, Render has %d bytes, %v", tmpl.Largest(), len(raw), err)
	}
}

func TestRenderRefusesWhatValuesMakeTooLarge(t *testing.T) {
	tmpl, err := with(t, nil, map[string]any{"PayloadType": "com.example", "Text": strings.Repeat("$X", profile.MaxSize/1000)}).Template()
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		value string
		fits  bool
	}{{strings.Repeat("x", 500), true}, {strings.Repeat("x", 1001), false}, {strings.Repeat("<", 300), false}} {
		raw, err := tmpl.Render(func(string) (string, error) { return tt.value, nil }, nil)
		if tt.fits != (err == nil) || tt.fits != (len(raw) > 0) || !tt.fits && !errors.Is(err, guard.ErrTooLarge) {
			t.Errorf("%d times %.1q: %d bytes, %v", len(tt.value), tt.value, len(raw), err)
		}
		if size := tmpl.Size(map[string]string{"X": tt.value}); tt.fits != (size <= profile.MaxSize) {
			t.Errorf("%d times %.1q: Size = %d", len(tt.value), tt.value, size)
		}
	}
}

// FuzzTemplate holds a Template against Expand: what is written by the one is read as what
// the other has.
func FuzzTemplate(f *testing.F) {
	f.Add("$EMAIL", "${USERNAME} pa$$word", "ana")
	f.Add("$$$EMAIL", "$ {EMAIL}", "</string>&amp;")
	f.Add("\r\n\t$X", "]]>", "$EMAIL")
	f.Fuzz(func(t *testing.T, a, b, v string) {
		if !plistxml.Carries(a) || !plistxml.Carries(b) {
			t.Skip()
		}
		p := with(t, map[string]any{"PayloadDescription": b}, map[string]any{"PayloadType": "com.example", "Text": a, "List": []any{b, a}})
		of := func(string) (string, error) { return v, nil }
		expanded, expandErr := p.Expand(of, nil)
		tmpl, err := p.Template()
		if err != nil {
			t.Fatal(err)
		}
		raw, renderErr := tmpl.Render(of, nil)
		if fmt.Sprint(expandErr) != fmt.Sprint(renderErr) {
			t.Fatalf("Expand: %v, Render: %v", expandErr, renderErr)
		}
		if expandErr != nil {
			return
		}
		rendered, err := profile.Parse(raw)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(rendered.Top, expanded.Top) {
			t.Errorf("Render = %v,\nExpand = %v", rendered.Top, expanded.Top)
		}
	})
}

// large is a profile of about 10 KB with a few variables and a certificate.
func large(b *testing.B) *profile.Profile {
	p := wifi(b)
	payloads := []map[string]any{p.Payloads[0].Content, p.Payloads[1].Content}
	for i := range 12 {
		payloads = append(payloads, map[string]any{"PayloadType": "com.apple.webClip.managed", "Label": fmt.Sprintf("Clip %d", i),
			"URL": "https://portal.example.com/?device=$SERIALNUMBER", "Icon": bytes.Repeat([]byte("icon"), 100), "IsRemovable": false})
	}
	return with(b, nil, payloads...)
}

func BenchmarkExpand(b *testing.B) {
	p := large(b)
	content, err := credential(b).SCEP.Content()
	if err != nil {
		b.Fatal(err)
	}
	requests := map[string]map[string]any{"wifi": content}
	b.Run("Expand and Encode", func(b *testing.B) {
		for b.Loop() {
			expanded, err := p.Expand(value, requests)
			if err != nil {
				b.Fatal(err)
			}
			if _, err := expanded.Encode(); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("Template", func(b *testing.B) {
		for b.Loop() {
			if _, err := p.Template(); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("Render", func(b *testing.B) {
		tmpl, err := p.Template()
		if err != nil {
			b.Fatal(err)
		}
		raw, err := tmpl.Render(value, requests)
		if err != nil {
			b.Fatal(err)
		}
		b.SetBytes(int64(len(raw)))
		for b.Loop() {
			if _, err := tmpl.Render(value, requests); err != nil {
				b.Fatal(err)
			}
		}
	})
}
