package template_test

import (
	"encoding/asn1"
	"errors"
	"testing"

	"pgregory.net/rapid"

	"github.com/gatehouse-mdm/gatehouse/depot/template"
	"github.com/gatehouse-mdm/gatehouse/storage/guard"
)

func name(pairs ...string) (n guard.Name) {
	oids := map[string]asn1.ObjectIdentifier{"C": {2, 5, 4, 6}, "O": {2, 5, 4, 10}, "OU": {2, 5, 4, 11}, "CN": {2, 5, 4, 3}}
	for i := 0; i < len(pairs); i += 2 {
		n = append(n, guard.RDN{{Type: oids[pairs[i]], Value: pairs[i+1]}})
	}
	return n
}

func open(t interface{ Fatal(...any) }) template.Template {
	tmpl := template.New("wifi")
	subject, err := template.ParseSubject("/O=Example/OU=devices of $USERNAME/CN=$EMAIL")
	if err != nil {
		t.Fatal(err)
	}
	tmpl.Subject = subject
	tmpl.SANs = template.SANs{
		RFC822Names: []string{"$EMAIL"}, DNSNames: []string{"$SERIALNUMBER.devices.example.com", "radius.example.com"},
		NTPrincipalName: "$UPN@corp.example.com",
	}
	return tmpl
}

func TestWhatATemplateLeavesOpenIsTheRequests(t *testing.T) {
	for what, tt := range map[string]struct {
		asked guard.Asked
		field string // that is refused; empty: it is granted
		want  template.SANs
	}{
		"all that is open": {
			asked: guard.Asked{
				Subject: name("O", "Example", "OU", "devices of ana", "CN", "ana@example.com"),
				Names: guard.AlternativeNames{
					EmailAddresses: []string{"ana@example.com"}, DNSNames: []string{"c02x.devices.example.com"}, UserPrincipalNames: []string{"ana@corp.example.com"},
				},
			},
			want: template.SANs{
				RFC822Names: []string{"ana@example.com"}, DNSNames: []string{"c02x.devices.example.com", "radius.example.com"}, NTPrincipalName: "ana@corp.example.com",
			},
		},
		"no alternative names": {
			asked: guard.Asked{Subject: name("O", "Example", "OU", "devices of ana", "CN", "ana")},
			want:  template.SANs{DNSNames: []string{"radius.example.com"}},
		},
		"another organisation":        {asked: guard.Asked{Subject: name("O", "Evil", "OU", "devices of ana", "CN", "ana")}, field: "subject.O"},
		"text around a variable":      {asked: guard.Asked{Subject: name("O", "Example", "OU", "servers of ana", "CN", "ana")}, field: "subject.OU"},
		"nothing for a variable":      {asked: guard.Asked{Subject: name("O", "Example", "OU", "devices of ", "CN", "ana")}, field: "subject.OU"},
		"one part more":               {asked: guard.Asked{Subject: name("O", "Example", "OU", "devices of ana", "CN", "ana", "CN", "root")}, field: "subject"},
		"parts in another order":      {asked: guard.Asked{Subject: name("OU", "devices of ana", "O", "Example", "CN", "ana")}, field: "subject"},
		"a CN that is too long":       {asked: guard.Asked{Subject: name("O", "Example", "OU", "devices of ana", "CN", string(make([]byte, 65)))}, field: "subject.CN"},
		"no subject":                  {asked: guard.Asked{}, field: "subject"},
		"an authority":                {asked: guard.Asked{CA: true, Subject: name("O", "Example", "OU", "devices of ana", "CN", "ana")}, field: "basic_constraints"},
		"a host of another domain":    {asked: guard.Asked{Subject: name("O", "Example", "OU", "devices of ana", "CN", "ana"), Names: guard.AlternativeNames{DNSNames: []string{"www.example.com"}}}, field: "sans.dNSName[0]"},
		"a wildcard":                  {asked: guard.Asked{Subject: name("O", "Example", "OU", "devices of ana", "CN", "ana"), Names: guard.AlternativeNames{DNSNames: []string{"*.devices.example.com"}}}, field: "sans.dNSName[0]"},
		"two addresses for one":       {asked: guard.Asked{Subject: name("O", "Example", "OU", "devices of ana", "CN", "ana"), Names: guard.AlternativeNames{EmailAddresses: []string{"a@example.com", "b@example.com"}}}, field: "sans.rfc822Name[1]"},
		"no address":                  {asked: guard.Asked{Subject: name("O", "Example", "OU", "devices of ana", "CN", "ana"), Names: guard.AlternativeNames{EmailAddresses: []string{"ana"}}}, field: "sans.rfc822Name[0]"},
		"a URI, of which it has none": {asked: guard.Asked{Subject: name("O", "Example", "OU", "devices of ana", "CN", "ana"), Names: guard.AlternativeNames{URIs: []string{"urn:x"}}}, field: "sans.uniformResourceIdentifier[0]"},
		"a directory name":            {asked: guard.Asked{Subject: name("O", "Example", "OU", "devices of ana", "CN", "ana"), Names: guard.AlternativeNames{Others: []string{"directoryName"}}}, field: "sans"},
	} {
		t.Run(what, func(t *testing.T) {
			e, err := open(t).Match(tt.asked)
			var field *template.FieldError
			if tt.field != "" {
				if !errors.As(err, &field) || field.Field != tt.field {
					t.Fatalf("Match = %v, want an error of %s", err, tt.field)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got, want := e.Subject.String(), nameText(tt.asked.Subject); got != want {
				t.Errorf("subject %s, want %s", got, want)
			}
			if !equalSANs(e.SANs, tt.want) {
				t.Errorf("names %+v, want %+v", e.SANs, tt.want)
			}
		})
	}
}

func TestAURIKeepsItsHost(t *testing.T) {
	tmpl := open(t)
	tmpl.SANs = template.SANs{URIs: []string{"https://$DEVICENAME.example.com/device"}}
	subject := name("O", "Example", "OU", "devices of ana", "CN", "ana")
	for uri, want := range map[string]bool{
		"https://mac-7.example.com/device":                    true,
		"https://evil.example/x.example.com/device":           false,
		"https://evil.example?.example.com/device":            false,
		"https://evil.example#.example.com/device":            false,
		"https://evil.example:1/.example.com/device":          false,
		"https://user@evil.example.com/device":                false,
		`https://evil.example\\.example.com/device`:           false,
		"https://mac-7.example.com/device/and/something/more": false,
	} {
		_, err := tmpl.Match(guard.Asked{Subject: subject, Names: guard.AlternativeNames{URIs: []string{uri}}})
		if (err == nil) != want {
			t.Errorf("Match of %s = %v, want it granted: %v", uri, err, want)
		}
	}
}

func TestNamesWithoutATemplate(t *testing.T) {
	if s, err := template.SubjectOf(name("C", "DE", "O", "Example", "CN", "ana")); err != nil || s.String() != "/C=DE/O=Example/CN=ana" {
		t.Errorf("SubjectOf = %v, %v", s, err)
	}
	for what, n := range map[string]guard.Name{
		"a country of three letters": name("C", "DEU"), "a CN that is too long": name("CN", string(make([]byte, 65))), "an empty CN": name("CN", ""),
	} {
		if s, err := template.SubjectOf(n); err == nil {
			t.Errorf("SubjectOf(%s) = %v", what, s)
		}
	}
	for what, names := range map[string]guard.AlternativeNames{
		"a wildcard":    {DNSNames: []string{"*.example.com"}},
		"no address":    {EmailAddresses: []string{"ana"}},
		"no URI":        {URIs: []string{"ana"}},
		"a UPN of none": {UserPrincipalNames: []string{" "}},
	} {
		var field *template.FieldError
		if err := template.CheckNames(names); !errors.As(err, &field) {
			t.Errorf("CheckNames(%s) = %v, want a field error", what, err)
		}
	}
	if err := template.CheckNames(guard.AlternativeNames{DNSNames: []string{"a.example"}, EmailAddresses: []string{"a@b.example"}, UserPrincipalNames: []string{"a@b"}}); err != nil {
		t.Errorf("CheckNames = %v", err)
	}
}

// TestNoRequestGetsMoreThanItsTemplateLeavesOpen is the property behind the table.
func TestNoRequestGetsMoreThanItsTemplateLeavesOpen(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		value := rapid.OneOf(rapid.String(), rapid.SampledFrom([]string{
			"Example", "devices of ana", "ana@example.com", "c02.devices.example.com", "*.devices.example.com", "radius.example.com", "ana@corp.example.com", "$EMAIL", "",
		}))
		types := rapid.SampledFrom([]asn1.ObjectIdentifier{{2, 5, 4, 10}, {2, 5, 4, 11}, {2, 5, 4, 3}, {2, 5, 4, 6}, {1, 2, 3}})
		rdn := rapid.Custom(func(t *rapid.T) guard.RDN {
			return guard.RDN{{Type: types.Draw(t, "type"), Value: value.Draw(t, "value")}}
		})
		subject := rapid.OneOf(
			rapid.Custom(func(t *rapid.T) guard.Name { return rapid.SliceOfN(rdn, 0, 5).Draw(t, "rdns") }),
			rapid.Custom(func(t *rapid.T) guard.Name {
				return name("O", value.Draw(t, "O"), "OU", value.Draw(t, "OU"), "CN", value.Draw(t, "CN"))
			}),
		)
		names := rapid.SliceOfN(value, 0, 3)
		tmpl := open(t)
		e, err := tmpl.Match(guard.Asked{
			Subject: subject.Draw(t, "subject"),
			Names: guard.AlternativeNames{
				EmailAddresses: names.Draw(t, "emails"), DNSNames: names.Draw(t, "hosts"), URIs: names.Draw(t, "uris"), UserPrincipalNames: names.Draw(t, "upns"),
			},
			KeyUsage: 0x1ff, ExtKeyUsage: []asn1.ObjectIdentifier{{2, 5, 29, 37, 0}},
			CA: rapid.Bool().Draw(t, "CA"),
		})
		if err != nil {
			return
		}
		if len(e.Subject) != 3 || e.Subject[0][0] != (template.Attribute{Type: "O", Value: "Example"}) ||
			e.Subject[1][0].Type != "OU" || len(e.Subject[1][0].Value) <= len("devices of ") || e.Subject[1][0].Value[:11] != "devices of " ||
			e.Subject[2][0].Type != "CN" || len(e.Subject[2][0].Value) > 64 {
			t.Fatalf("subject %s", e.Subject)
		}
		if len(e.SANs.URIs) != 0 || len(e.SANs.RFC822Names) > 1 || len(e.SANs.DNSNames) > 2 {
			t.Fatalf("names %+v", e.SANs)
		}
		for _, host := range e.SANs.DNSNames {
			if host != "radius.example.com" && (len(host) <= len(".devices.example.com") || host[len(host)-20:] != ".devices.example.com" || host[0] == '*') {
				t.Fatalf("host %q", host)
			}
		}
		if e.KeyUsage != 5 || len(e.ExtKeyUsage) != 1 || len(e.ExtKeyUsageOIDs) != 0 {
			t.Fatalf("usages %b %v %v", e.KeyUsage, e.ExtKeyUsage, e.ExtKeyUsageOIDs)
		}
	})
}

func nameText(n guard.Name) string {
	names := map[string]string{"2.5.4.6": "C", "2.5.4.10": "O", "2.5.4.11": "OU", "2.5.4.3": "CN"}
	text := ""
	for _, rdn := range n {
		text += "/" + names[rdn[0].Type.String()] + "=" + rdn[0].Value
	}
	return text
}

func equalSANs(a, b template.SANs) bool {
	eq := func(a, b []string) bool {
		if len(a) != len(b) {
			return false
		}
		for i := range a {
			if a[i] != b[i] {
				return false
			}
		}
		return true
	}
	return eq(a.RFC822Names, b.RFC822Names) && eq(a.DNSNames, b.DNSNames) && eq(a.URIs, b.URIs) && a.NTPrincipalName == b.NTPrincipalName
}
