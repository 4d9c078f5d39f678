package template_test

import (
	"crypto/x509/pkix"
	"encoding/asn1"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/gatehouse-mdm/gatehouse/depot/template"
)

// one is an RDN of one attribute.
func one(typ, value string) template.RDN { return template.RDN{{Type: typ, Value: value}} }

func TestParseSubject(t *testing.T) {
	for name, tt := range map[string]struct {
		text string
		want template.Subject
	}{
		"slashes":                        {`/C=US/O=Example/CN=$EMAIL`, template.Subject{one("C", "US"), one("O", "Example"), one("CN", "$EMAIL")}},
		"a slash at the end":             {`/C=US/O=ABCEnterprise/CN=foo/`, template.Subject{one("C", "US"), one("O", "ABCEnterprise"), one("CN", "foo")}},
		"commas, in the order written":   {`CN=$JSSID,OU=users-on-devices,CN=$PROFILE_IDENTIFIER`, template.Subject{one("CN", "$JSSID"), one("OU", "users-on-devices"), one("CN", "$PROFILE_IDENTIFIER")}},
		"spaces around commas":           {` CN = $JSSID , OU=a b `, template.Subject{one("CN", "$JSSID"), one("OU", "a b")}},
		"a space with a backslash":       {`CN=a\ ,O=b`, template.Subject{one("CN", "a "), one("O", "b")}},
		"one RDN without either":         {`CN=foo`, template.Subject{one("CN", "foo")}},
		"escaped slashes":                {`/O=A\/S Example/CN=a\\b`, template.Subject{one("O", "A/S Example"), one("CN", `a\b`)}},
		"escaped commas":                 {`O=Example\, Inc.,CN=x`, template.Subject{one("O", "Example, Inc."), one("CN", "x")}},
		"hexadecimal pairs after commas": {`CN=Lu\C4\8Di\C4\87`, template.Subject{one("CN", "Lučić")}},
		"an equals sign in a value":      {`/CN=a=b/`, template.Subject{one("CN", "a=b")}},
		"a comma between slashes":        {`/O=Example, Inc./CN=x`, template.Subject{one("O", "Example, Inc."), one("CN", "x")}},
		"a slash between commas":         {`O=A/S Example,CN=x`, template.Subject{one("O", "A/S Example"), one("CN", "x")}},
		"several attributes in one":      {`/O=x/CN=$EMAIL+UID=$USERNAME`, template.Subject{one("O", "x"), {{"CN", "$EMAIL"}, {"UID", "$USERNAME"}}}},
		"a plus sign in a value":         {`/CN=ana\+test`, template.Subject{one("CN", "ana+test")}},
		"dotted OIDs":                    {`/1.3.6.1.4.1.99999.1=x/OID.2.5.4.3=y`, template.Subject{one("1.3.6.1.4.1.99999.1", "x"), one("CN", "y")}},
		"repeated types":                 {`/OU=a/OU=b/CN=c/CN=d`, template.Subject{one("OU", "a"), one("OU", "b"), one("CN", "c"), one("CN", "d")}},
		"types in other words and case":  {`/cn=a/E=b@example.com/commonName=c/givenname=d/surname=e/userId=f/stateOrProvinceName=g`, template.Subject{one("CN", "a"), one("emailAddress", "b@example.com"), one("CN", "c"), one("GN", "d"), one("SN", "e"), one("UID", "f"), one("ST", "g")}},
		"all types that have names":      {`/C=a/ST=b/L=c/O=d/OU=e/CN=f/emailAddress=g/serialNumber=h/SN=i/GN=j/title=k/UID=l/DC=m/street=n/postalCode=o`, template.Subject{one("C", "a"), one("ST", "b"), one("L", "c"), one("O", "d"), one("OU", "e"), one("CN", "f"), one("emailAddress", "g"), one("serialNumber", "h"), one("SN", "i"), one("GN", "j"), one("title", "k"), one("UID", "l"), one("DC", "m"), one("street", "n"), one("postalCode", "o")}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := template.ParseSubject(tt.text)
			if err != nil || !reflect.DeepEqual(got, tt.want) {
				t.Errorf("ParseSubject(%q) = %v, %v; want %v", tt.text, got, err, tt.want)
			}
		})
	}
}

func TestParseSubjectSaysWhatIsWrong(t *testing.T) {
	for name, tt := range map[string]struct{ text, want string }{
		"nothing":                         {"", "empty"},
		"only a slash":                    {"/", "type and a value"},
		"an empty part":                   {"/O=x//CN=y", `"/CN=y"`},
		"no equals sign":                  {"/O=x/foo", `"foo"`},
		"a plus sign without a backslash": {"/CN=ana+test", `"test"`},
		"a type that nobody knows":        {"/CN=x/foo=bar", `"foo"`},
		"an OID with a leading zero":      {"/2.5.4.03=x", "2.5.4.03"},
		"an OID of one number":            {"/2=x", `"2"`},
		"a backslash at the end":          {`/CN=x\`, "ends with a backslash"},
		"a backslash that means nothing":  {`/CN=a\b`, "CN has a backslash"},
		"a comma at the end":              {"CN=x,", "ends with a comma"},
		"a semicolon":                     {"CN=x;O=y", "semicolon"},
		"a quoted value":                  {`CN="x"`, `begins with "`},
		"a value in BER":                  {`CN=#040158`, "begins with #"},
		"two forms in one":                {"O=Example/CN=foo", "begin with a slash"},
		"far too much":                    {"/CN=" + strings.Repeat("x", 5000), "at most 4096"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := template.ParseSubject(tt.text)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("ParseSubject(%.80q) = %v, %v; want an error with %q", tt.text, got, err, tt.want)
			}
		})
	}
}

func TestParseRDNs(t *testing.T) {
	got, err := template.ParseRDNs([][][]string{{{"O", "Example"}}, {{"cn", "a/b"}, {"2.5.4.11", "c"}}})
	want := template.Subject{one("O", "Example"), {{"CN", "a/b"}, {"OU", "c"}}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("ParseRDNs = %v, %v; want %v", got, err, want)
	}
	for name, lists := range map[string][][][]string{
		"a pair of three":   {{{"O", "Example", "x"}}},
		"an unknown type":   {{{"foo", "x"}}},
		"a pair of nothing": {{{}}},
	} {
		if got, err := template.ParseRDNs(lists); err == nil {
			t.Errorf("%s: ParseRDNs = %v", name, got)
		}
	}
}

// subjects draws subjects whose values hold what has a meaning somewhere.
func subjects() *rapid.Generator[template.Subject] {
	types := rapid.SampledFrom([]string{"C", "ST", "L", "O", "OU", "CN", "emailAddress", "serialNumber", "UID", "DC", "1.3.6.1.4.1.99999.1"})
	values := rapid.StringOf(rapid.OneOf(rapid.SampledFrom([]rune(`/\+=,;"#<> $`)), rapid.Rune()))
	return rapid.Custom(func(t *rapid.T) template.Subject {
		attributes := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) template.Attribute {
			return template.Attribute{Type: types.Draw(t, "type"), Value: values.Draw(t, "value")}
		}), 1, 3)
		return rapid.SliceOfN(rapid.Map(attributes, func(a []template.Attribute) template.RDN { return a }), 1, 4).Draw(t, "subject")
	})
}

func TestASubjectReadsAsItWasWritten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := subjects().Draw(t, "subject")
		last := s[len(s)-1]
		// A space at the very end of the text is not part of it.
		last[len(last)-1].Value += "."
		got, err := template.ParseSubject(s.String())
		if err != nil || !reflect.DeepEqual(got, s) {
			t.Fatalf("ParseSubject(%q) = %v, %v; want %v", s.String(), got, err, s)
		}
	})
}

func FuzzParseSubject(f *testing.F) {
	for _, seed := range []string{`/C=US/O=A\/S/CN=$EMAIL+UID=x/`, `CN=a\2C\,b , O=c`, `/1.2.3=${X}`, `CN=#00`, `/`, `\`} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, err := template.ParseSubject(text)
		if err != nil {
			return
		}
		if out := s.String(); len(out) > 4096 || strings.TrimSpace(out) != out {
			return // longer with its backslashes than what is read, or with a space at its end, which no template may have
		}
		again, err := template.ParseSubject(s.String())
		if err != nil || again.String() != s.String() {
			t.Errorf("%q is %q, and that %q, %v", text, s, again, err)
		}
	})
}

func TestTheStringsOfASubjectAreThoseOfRFC5280(t *testing.T) {
	tmpl := template.New("x")
	tmpl.Subject = template.Subject{
		one("C", "HR"), one("O", "Example"), one("OU", "Prodaja & čast"), one("emailAddress", "ana@example.com"),
		one("DC", "example"), one("serialNumber", "C02X"), {{"UID", "ana_1"}, {"CN", "Ana"}},
	}
	e, err := tmpl.Expand(template.Facts{})
	if err != nil {
		t.Fatal(err)
	}
	var name []asn1.RawValue // RDNs
	if rest, err := asn1.Unmarshal(e.RawSubject, &name); err != nil || len(rest) > 0 {
		t.Fatalf("RawSubject: %v, %d bytes left", err, len(rest))
	}
	type attribute struct {
		Type  asn1.ObjectIdentifier
		Value asn1.RawValue
	}
	got := map[string]int{}
	for _, rdn := range name {
		for rest := rdn.Bytes; len(rest) > 0; {
			var a attribute
			if rest, err = asn1.Unmarshal(rest, &a); err != nil {
				t.Fatal(err)
			}
			got[string(a.Value.Bytes)] = a.Value.Tag
		}
	}
	want := map[string]int{
		"HR": asn1.TagPrintableString, "Example": asn1.TagPrintableString, "Prodaja & čast": asn1.TagUTF8String,
		"ana@example.com": asn1.TagIA5String, "example": asn1.TagIA5String, "C02X": asn1.TagPrintableString,
		"ana_1": asn1.TagUTF8String, "Ana": asn1.TagPrintableString,
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("values have the tags %v, want %v", got, want)
	}
	var rdns pkix.RDNSequence
	if _, err := asn1.Unmarshal(e.RawSubject, &rdns); err != nil || len(rdns) != 7 || len(rdns[6]) != 2 || rdns[1][0].Value != "Example" {
		t.Errorf("RawSubject has the RDNs %v, %v", rdns, err)
	}
}

func TestAppleKnowsSixTypesByName(t *testing.T) {
	s, err := template.ParseSubject("/C=a/ST=b/L=c/O=d/OU=e/CN=f/E=g/UID=h+SN=i/1.2.3=j")
	if err != nil {
		t.Fatal(err)
	}
	want := template.Subject{
		one("C", "a"), one("ST", "b"), one("L", "c"), one("O", "d"), one("OU", "e"), one("CN", "f"),
		one("1.2.840.113549.1.9.1", "g"), {{"0.9.2342.19200300.100.1.1", "h"}, {"2.5.4.4", "i"}}, one("1.2.3", "j"),
	}
	if got := s.ForApple(); !reflect.DeepEqual(got, want) {
		t.Errorf("ForApple = %v, want %v", got, want)
	}
	if s[6][0].Type != "emailAddress" {
		t.Errorf("ForApple changed the subject itself: %v", s)
	}
}
