package template_test

import (
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/gatehouse-mdm/gatehouse/depot/template"
)

func ana() template.Facts {
	return template.Facts{
		DeviceID: "d1", SerialNumber: "C02XXXX", UDID: "AAAA-BBBB", DeviceName: "Ana’s Mac", Model: "Mac14,2", OSVersion: "15.1",
		ProfileIdentifier: "com.example.mdm.gatehouse.certificate.wifi",
		Username:          "ana", Email: "ana@example.com", FullName: "Ana Čović", UPN: "ana@corp.example.com", ManagedAppleAccount: "ana@appleid.example.com",
		Attributes: map[string]string{
			"ASSET_TAG": "A-1", "SITENAME": "Zagreb", "SITEID": "7", "PHONE": "+385 1 234", "ROOM": "12b", "POSITION": "CFO",
			"DEPARTMENTNAME": "Sales", "DEPARTMENTID": "3", "BUILDINGNAME": "North", "BUILDINGID": "4",
			"MACADDRESS": "00:11:22:33:44:55", "EXTENSIONATTRIBUTE_12": "twelve",
		},
	}
}

func TestExpand(t *testing.T) {
	tmpl := wifi(t)
	tmpl.KeyUsage = []string{"digitalSignature"}
	tmpl.ExtKeyUsage = []string{"clientAuth", "smartcardLogon", "1.3.6.1.4.1.99999.1"}
	if err := tmpl.Check(); err != nil {
		t.Fatal(err)
	}
	got, err := tmpl.Expand(ana())
	if err != nil {
		t.Fatal(err)
	}
	if want := "/C=HR/O=Example/OU=Sales/CN=ana@example.com"; got.Subject.String() != want {
		t.Errorf("Subject = %s, want %s", got.Subject, want)
	}
	wantSANs := template.SANs{
		RFC822Names: []string{"ana@example.com"}, DNSNames: []string{"C02XXXX.devices.example.com"},
		URIs: []string{"mdm-device://d1", "urn:uuid:AAAA-BBBB"}, NTPrincipalName: "ana@corp.example.com",
	}
	if !reflect.DeepEqual(got.SANs, wantSANs) {
		t.Errorf("SANs = %v, want %v", got.SANs, wantSANs)
	}
	if got.KeyUsage != x509.KeyUsageDigitalSignature || !slices.Equal(got.ExtKeyUsage, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}) ||
		!reflect.DeepEqual(got.ExtKeyUsageOIDs, []asn1.ObjectIdentifier{{1, 3, 6, 1, 4, 1, 311, 20, 2, 2}, {1, 3, 6, 1, 4, 1, 99999, 1}}) {
		t.Errorf("usages = %v, %v, %v", got.KeyUsage, got.ExtKeyUsage, got.ExtKeyUsageOIDs)
	}
}

func TestVariables(t *testing.T) {
	for pattern, want := range map[string]string{
		"$EMAIL": "ana@example.com", "$USERNAME": "ana", "$FULLNAME": "Ana Čović", "$REALNAME": "Ana Čović", "$UPN": "ana@corp.example.com",
		"$MANAGED_APPLE_ACCOUNT": "ana@appleid.example.com", "$DEVICE_ID": "d1", "$JSSID": "d1", "$SERIALNUMBER": "C02XXXX", "$UDID": "AAAA-BBBB",
		"$DEVICENAME": "Ana’s Mac", "$MODEL": "Mac14,2", "$OSVERSION": "15.1", "$PROFILE_IDENTIFIER": "com.example.mdm.gatehouse.certificate.wifi",
		"$ASSET_TAG": "A-1", "$SITENAME": "Zagreb", "$SITEID": "7", "$PHONE": "+385 1 234", "$ROOM": "12b", "$POSITION": "CFO",
		"$DEPARTMENTNAME/$DEPARTMENTID": "Sales/3", "$BUILDINGNAME $BUILDINGID": "North 4", "$MACADDRESS": "00:11:22:33:44:55",
		"$EXTENSIONATTRIBUTE_12": "twelve", "${EMAIL}X": "ana@example.comX", "$$EMAIL": "$EMAIL", "$$$EMAIL": "$ana@example.com",
		"a$EMAIL-b${USERNAME}$USERNAME": "aana@example.com-banaana",
	} {
		tmpl := template.New("x")
		tmpl.Subject = template.Subject{one("CN", pattern)}
		if err := tmpl.Check(); err != nil {
			t.Errorf("%s: %v", pattern, err)
		}
		e, err := tmpl.Expand(ana())
		if err != nil {
			t.Errorf("%s: %v", pattern, err)
			continue
		}
		if got := e.Subject[0][0].Value; got != want {
			t.Errorf("%s is %q, want %q", pattern, got, want)
		}
	}
	for _, v := range template.Variables() {
		tmpl := template.New("x")
		tmpl.Subject = template.Subject{one("CN", "$"+v.Name)}
		var field *template.FieldError
		if _, err := tmpl.Expand(template.Facts{}); !errors.As(err, &field) || field.Reason != "$"+v.Name+" is empty for this device" {
			t.Errorf("$%s of nobody: %v", v.Name, err)
		}
	}
}

func TestExpandNamesWhatIsMissingOrTooMuch(t *testing.T) {
	for name, tt := range map[string]struct {
		change        func(*template.Template, *template.Facts)
		field, reason string
	}{
		"no e-mail address":        {func(_ *template.Template, f *template.Facts) { f.Email = "" }, "subject.CN", "$EMAIL is empty for this device"},
		"a SAN without one":        {func(t *template.Template, f *template.Facts) { t.Subject, f.Email = t.Subject[:3], " " }, "sans.rfc822Name[0]", "$EMAIL is empty for this device"},
		"the second of a kind":     {func(_ *template.Template, f *template.Facts) { f.UDID = "" }, "sans.uniformResourceIdentifier[1]", "$UDID is empty"},
		"no user principal name":   {func(_ *template.Template, f *template.Facts) { f.UPN = "" }, "sans.ntPrincipalName", "$UPN is empty"},
		"by the name that is used": {func(t *template.Template, f *template.Facts) { t.Subject[3][0].Value, f.DeviceID = "$JSSID", "" }, "subject.CN", "$JSSID is empty"},
		"the second CN": {func(t *template.Template, f *template.Facts) {
			t.Subject, f.Model = append(t.Subject, one("CN", "$MODEL")), ""
		}, "subject.CN[1]", "$MODEL is empty"},
		"a long CN": {func(_ *template.Template, f *template.Facts) { f.Email = strings.Repeat("x", 60) + "@example.com" }, "subject.CN", "has 72 bytes, at most 64"},
		"a long department": {func(_ *template.Template, f *template.Facts) {
			f.Attributes["DEPARTMENTNAME"] = strings.Repeat("č", 65)
		}, "subject.OU", "has 65 characters, at most 64"},
		"a very long fact":        {func(_ *template.Template, f *template.Facts) { f.Email = strings.Repeat("x", 2000) }, "subject.CN", "2000 bytes"},
		"a control character":     {func(_ *template.Template, f *template.Facts) { f.Attributes["DEPARTMENTNAME"] = "a\x00b" }, "subject.OU", "control"},
		"bytes that are no text":  {func(_ *template.Template, f *template.Facts) { f.Attributes["DEPARTMENTNAME"] = "a\xff" }, "subject.OU", "UTF-8"},
		"a country by variable":   {func(t *template.Template, f *template.Facts) { t.Subject[0][0].Value = "$SITENAME" }, "subject.C", "two letters"},
		"an address that is none": {func(t *template.Template, f *template.Facts) { t.Subject, f.Email = t.Subject[:3], "ana" }, "sans.rfc822Name[0]", `"ana"`},
		"two addresses in one": {func(t *template.Template, f *template.Facts) {
			t.Subject, f.Email = t.Subject[:3], "a@example.com,b@example.com"
		}, "sans.rfc822Name[0]", "e-mail"},
		"a host that is none": {func(t *template.Template, f *template.Facts) { t.SANs.DNSNames[0] = "$DEVICENAME" }, "sans.dNSName[0]", "host name"},
		"a wildcard from a device": {func(t *template.Template, f *template.Facts) {
			t.SANs.DNSNames[0], f.DeviceName = "$DEVICENAME.example.com", "*"
		}, "sans.dNSName[0]", "wildcard"},
		"a user in the host's place": {func(t *template.Template, f *template.Facts) {
			t.SANs.URIs[0], f.DeviceName = "https://$DEVICENAME.example.com/", "a@evil.example"
		}, "sans.uniformResourceIdentifier[0]", "user"},
		"a UPN without suffix": {func(t *template.Template, f *template.Facts) { f.UPN = "ana" }, "sans.ntPrincipalName", "user principal name"},
	} {
		t.Run(name, func(t *testing.T) {
			tmpl, facts := wifi(t), ana()
			tt.change(&tmpl, &facts)
			var got *template.FieldError
			if _, err := tmpl.Expand(facts); !errors.As(err, &got) || got.Field != tt.field || !strings.Contains(got.Reason, tt.reason) {
				t.Errorf("Expand = %v, want an error about %s: %s", err, tt.field, tt.reason)
			}
		})
	}
}

func TestFactsAreEscapedInURIs(t *testing.T) {
	tmpl, facts := wifi(t), ana()
	tmpl.SANs.URIs = []string{"https://example.com/d/$DEVICENAME", "mailto:$EMAIL", "$EXTENSIONATTRIBUTE_1"}
	facts.DeviceName = "a/../b?c#d é"
	facts.Attributes["EXTENSIONATTRIBUTE_1"] = "https://example.com/a?b" // the whole of it is the fact's
	e, err := tmpl.Expand(facts)
	want := []string{"https://example.com/d/a%2F..%2Fb%3Fc%23d%20%C3%A9", "mailto:ana@example.com", "https://example.com/a?b"}
	if err != nil || !slices.Equal(e.SANs.URIs, want) {
		t.Errorf("URIs = %q, %v; want %q", e.SANs.URIs, err, want)
	}
}

// TestNoFactAddsAName holds for whatever devices and directories say of themselves.
func TestNoFactAddsAName(t *testing.T) {
	nasty := rapid.OneOf(
		rapid.SampledFrom([]string{"/CN=admin", ",CN=admin", "x+UID=root", "$EMAIL", "${UPN}", "a,b@example.com", "a@example.com", "x\\", "dns:evil.example", "\x00", "host", "a.b", "é"}),
		rapid.String(),
	)
	patterns := rapid.SampledFrom([]string{"$EMAIL", "x$FULLNAME", "$DEVICENAME-${EMAIL}", "$EXTENSIONATTRIBUTE_1$$", "fixed", "$UPN.example.com", "urn:x:$FULLNAME", "https://$DEVICENAME/$EMAIL", "$FULLNAME@example.com"})
	rapid.Check(t, func(t *rapid.T) {
		facts := template.Facts{
			Email: nasty.Draw(t, "email"), FullName: nasty.Draw(t, "full name"), DeviceName: nasty.Draw(t, "device name"), UPN: nasty.Draw(t, "upn"),
			Attributes: map[string]string{"EXTENSIONATTRIBUTE_1": nasty.Draw(t, "attribute")},
		}
		tmpl := template.New("x")
		tmpl.Subject = subjects().Draw(t, "subject")
		for _, rdn := range tmpl.Subject {
			for i := range rdn {
				rdn[i].Value = patterns.Draw(t, "pattern")
			}
		}
		list := rapid.SliceOfN(patterns, 0, 2)
		tmpl.SANs = template.SANs{RFC822Names: list.Draw(t, "rfc822Name"), DNSNames: list.Draw(t, "dNSName"), URIs: list.Draw(t, "uri"), NTPrincipalName: rapid.SampledFrom([]string{"", "$UPN", "$FULLNAME@example.com"}).Draw(t, "upn")}
		e, err := tmpl.Expand(facts)
		if err != nil {
			var field *template.FieldError
			if !errors.As(err, &field) {
				t.Fatalf("Expand = %v, want a FieldError", err)
			}
			return
		}
		if got, want := shape(e.Subject), shape(tmpl.Subject); !reflect.DeepEqual(got, want) {
			t.Fatalf("types are %v, want %v", got, want)
		}
		if len(e.SANs.RFC822Names) != len(tmpl.SANs.RFC822Names) || len(e.SANs.DNSNames) != len(tmpl.SANs.DNSNames) ||
			len(e.SANs.URIs) != len(tmpl.SANs.URIs) || (e.SANs.NTPrincipalName == "") != (tmpl.SANs.NTPrincipalName == "") {
			t.Fatalf("names are %v, for %v", e.SANs, tmpl.SANs)
		}
		// What a reader finds in the DER is the same.
		var name []asn1.RawValue
		if rest, err := asn1.Unmarshal(e.RawSubject, &name); err != nil || len(rest) > 0 || len(name) != len(tmpl.Subject) {
			t.Fatalf("RawSubject has %d RDNs, %v; want %d", len(name), err, len(tmpl.Subject))
		}
		values := map[string]bool{}
		for i, rdn := range name {
			n := 0
			for rest := rdn.Bytes; len(rest) > 0; n++ {
				var a struct {
					Type  asn1.ObjectIdentifier
					Value asn1.RawValue
				}
				if rest, err = asn1.Unmarshal(rest, &a); err != nil {
					t.Fatal(err)
				}
				values[string(a.Value.Bytes)] = true
			}
			if n != len(tmpl.Subject[i]) {
				t.Fatalf("RDN %d has %d attributes, want %d", i, n, len(tmpl.Subject[i]))
			}
		}
		want := map[string]bool{}
		for _, rdn := range e.Subject {
			for _, a := range rdn {
				want[a.Value] = true
			}
		}
		if !maps.Equal(values, want) {
			t.Fatalf("RawSubject says %v, want %v", values, want)
		}
	})
}

// shape is the types of a subject.
func shape(s template.Subject) (types [][]string) {
	for _, rdn := range s {
		var row []string
		for _, a := range rdn {
			row = append(row, a.Type)
		}
		types = append(types, row)
	}
	return types
}
