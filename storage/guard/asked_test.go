package guard_test

import (
	"bytes"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"net"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
	"pgregory.net/rapid"

	"github.com/gatehouse-mdm/gatehouse/storage/guard"
)

var (
	oidSAN       = asn1.ObjectIdentifier{2, 5, 29, 17}
	oidKU        = asn1.ObjectIdentifier{2, 5, 29, 15}
	oidEKU       = asn1.ObjectIdentifier{2, 5, 29, 37}
	oidBC        = asn1.ObjectIdentifier{2, 5, 29, 19}
	oidSKI       = asn1.ObjectIdentifier{2, 5, 29, 14}
	oidPolicies  = asn1.ObjectIdentifier{2, 5, 29, 32}
	oidMSName    = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 311, 20, 2}
	oidMSVersion = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 311, 21, 7}
	oidNTName    = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 311, 20, 2, 3}

	oidExtensions   = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 14}
	oidMSExtensions = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 311, 2, 1, 14}
	oidChallenge    = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 7}
	oidCN           = asn1.ObjectIdentifier{2, 5, 4, 3}
)

// element is a value in DER.
func element(tag cbasn1.Tag, content ...[]byte) []byte {
	b := cryptobyte.NewBuilder(nil)
	b.AddASN1(tag, func(b *cryptobyte.Builder) { b.AddBytes(bytes.Join(content, nil)) })
	return b.BytesOrPanic()
}

func sequence(content ...[]byte) []byte { return element(cbasn1.SEQUENCE, content...) }

func identifier(oid asn1.ObjectIdentifier) []byte {
	b := cryptobyte.NewBuilder(nil)
	b.AddASN1ObjectIdentifier(oid)
	return b.BytesOrPanic()
}

// Tags of names in a SubjectAltName.
func generalName(n uint8, constructed bool, content ...[]byte) []byte {
	tag := cbasn1.Tag(n).ContextSpecific()
	if constructed {
		tag = tag.Constructed()
	}
	return element(tag, content...)
}

func otherName(oid asn1.ObjectIdentifier, value []byte) []byte {
	return generalName(0, true, identifier(oid), element(cbasn1.Tag(0).ContextSpecific().Constructed(), value))
}

func upn(name string) []byte { return otherName(oidNTName, element(cbasn1.UTF8String, []byte(name))) }

func extension(oid asn1.ObjectIdentifier, value []byte) []byte {
	return sequence(identifier(oid), element(cbasn1.OCTET_STRING, value))
}

func attribute(oid asn1.ObjectIdentifier, values ...[]byte) []byte {
	return sequence(identifier(oid), element(cbasn1.SET, values...))
}

// wish is what a hand-made request asks for, in DER: crypto/x509 makes no malformed
// ones.
type wish struct {
	subject    []byte   // a Name; nil: an empty one
	extensions [][]byte // in one extension request, if there are any
	attributes [][]byte
}

// asked reads a request that asks for w. Its signature is not right.
func (w wish) asked(t *testing.T) (guard.Asked, error) {
	t.Helper()
	key, err := x509.MarshalPKIXPublicKey(ecKey(t, elliptic.P256()).Public())
	if err != nil {
		t.Fatal(err)
	}
	subject := w.subject
	if subject == nil {
		subject = sequence()
	}
	attributes := w.attributes
	if len(w.extensions) > 0 {
		attributes = append([][]byte{attribute(oidExtensions, sequence(w.extensions...))}, attributes...)
	}
	info := sequence([]byte{2, 1, 0}, subject, key, element(cbasn1.Tag(0).ContextSpecific().Constructed(), attributes...))
	ecdsaWithSHA256 := sequence(identifier(asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 2}))
	csr, err := guard.ParseCSR(sequence(info, ecdsaWithSHA256, element(cbasn1.BIT_STRING, []byte{0, 1})), 0)
	if err != nil {
		return guard.Asked{}, err
	}
	return guard.AskedBy(csr)
}

func commonName(tag cbasn1.Tag, value []byte) []byte {
	return sequence(element(cbasn1.SET, sequence(identifier(oidCN), element(tag, value))))
}

func TestWhatARequestAsksForIsRead(t *testing.T) {
	digitalSignature := element(cbasn1.BIT_STRING, []byte{7, 0x80})
	for name, tt := range map[string]struct {
		wish wish
		want guard.Asked // without RawSubject
	}{
		"nothing": {},
		"one name of each kind": {
			wish{extensions: [][]byte{extension(oidSAN, sequence(
				generalName(1, false, []byte("ana@example.com")),
				generalName(2, false, []byte("mac.example.com")),
				generalName(6, false, []byte("urn:device:1")),
				generalName(7, false, []byte{192, 0, 2, 1}),
				upn("ana@corp.example.com"),
			))}},
			guard.Asked{Names: guard.AlternativeNames{
				EmailAddresses: []string{"ana@example.com"}, DNSNames: []string{"mac.example.com"}, URIs: []string{"urn:device:1"},
				IPs: []netip.Addr{netip.MustParseAddr("192.0.2.1")}, UserPrincipalNames: []string{"ana@corp.example.com"},
			}},
		},
		"names that nobody here issues are told of": {
			wish{extensions: [][]byte{extension(oidSAN, sequence(
				otherName(asn1.ObjectIdentifier{1, 3, 6, 1, 5, 2, 2}, sequence()), // Kerberos
				generalName(3, true), generalName(4, true, sequence()), generalName(5, true), generalName(8, false, []byte{0x2A, 3}),
			))}},
			guard.Asked{Names: guard.AlternativeNames{Others: []string{
				"otherName 1.3.6.1.5.2.2", "x400Address", "directoryName", "ediPartyName", "registeredID",
			}}},
		},
		"usages and being an authority": {
			wish{extensions: [][]byte{
				extension(oidKU, element(cbasn1.BIT_STRING, []byte{1, 0x86})),
				extension(oidEKU, sequence(identifier(asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 2}), identifier(asn1.ObjectIdentifier{2, 5, 29, 37, 0}))),
				extension(oidBC, sequence([]byte{1, 1, 0xFF}, []byte{2, 1, 3})),
			}},
			guard.Asked{
				KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
				ExtKeyUsage: []asn1.ObjectIdentifier{{1, 3, 6, 1, 5, 5, 7, 3, 2}, {2, 5, 29, 37, 0}},
				CA:          true,
			},
		},
		"a usage that is for deciphering only": {
			wish{extensions: [][]byte{extension(oidKU, element(cbasn1.BIT_STRING, []byte{7, 0, 0x80}))}},
			guard.Asked{KeyUsage: x509.KeyUsageDecipherOnly},
		},
		"not to be an authority": {
			wish{extensions: [][]byte{extension(oidBC, sequence()), extension(oidSKI, element(cbasn1.OCTET_STRING, []byte{1}))}},
			guard.Asked{},
		},
		"a template of Microsoft's by name": {
			wish{extensions: [][]byte{extension(oidMSName, element(30, []byte{0, 'U', 0, 's', 0, 'e', 0, 'r'}))}},
			guard.Asked{Template: "User"},
		},
		"a template of Microsoft's by number": {
			wish{extensions: [][]byte{extension(oidMSVersion, sequence(identifier(asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 311, 21, 8, 1}), []byte{2, 1, 100}))}},
			guard.Asked{Template: "1.3.6.1.4.1.311.21.8.1"},
		},
		"extensions in the attribute that Windows used to send": {
			wish{attributes: [][]byte{attribute(oidMSExtensions, sequence(extension(oidKU, digitalSignature)))}},
			guard.Asked{KeyUsage: x509.KeyUsageDigitalSignature},
		},
		"extensions and attributes that are not known": {
			wish{
				extensions: [][]byte{extension(oidPolicies, sequence())},
				attributes: [][]byte{attribute(asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 7, 36}, sequence())},
			},
			guard.Asked{Extensions: []asn1.ObjectIdentifier{oidPolicies}, Attributes: []asn1.ObjectIdentifier{{1, 3, 6, 1, 5, 5, 7, 7, 36}}},
		},
		"a challenge": {
			wish{attributes: [][]byte{attribute(oidChallenge, element(cbasn1.PrintableString, []byte("s@secret")))}},
			guard.Asked{Challenge: "s@secret"},
		},
		"a subject of two bytes a letter": {
			wish{subject: commonName(30, []byte{0x6F, 0x22, 0, 'x'})},
			guard.Asked{Subject: guard.Name{{{Type: oidCN, Value: "漢x"}}}},
		},
		"a subject of several attributes in one part": {
			wish{subject: sequence(element(cbasn1.SET,
				sequence(identifier(oidCN), element(cbasn1.UTF8String, []byte("Ana"))),
				sequence(identifier(oidCN), element(cbasn1.T61String, []byte("ana"))),
			))},
			guard.Asked{Subject: guard.Name{{{Type: oidCN, Value: "Ana"}, {Type: oidCN, Value: "ana"}}}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := tt.wish.asked(t)
			if err != nil {
				t.Fatal(err)
			}
			got.RawSubject = nil
			if !reflect.DeepEqual(got, tt.want) {
				t.Errorf("asked for\n%+v, want\n%+v", got, tt.want)
			}
		})
	}
}

func TestWhatARequestAsksForIsRefusedIfMalformed(t *testing.T) {
	names := func(names ...[]byte) wish { return wish{extensions: [][]byte{extension(oidSAN, sequence(names...))}} }
	ext := func(oid asn1.ObjectIdentifier, value []byte) wish {
		return wish{extensions: [][]byte{extension(oid, value)}}
	}
	old := func(extensions ...[]byte) wish { // crypto/x509 does not look into this attribute
		return wish{attributes: [][]byte{attribute(oidMSExtensions, sequence(extensions...))}}
	}
	none := extension(oidSAN, sequence())
	for name, tt := range map[string]struct {
		wish wish
		part string // "": refused before it gets here
	}{
		"two lists of names":                        {wish{extensions: [][]byte{none, none}}, ""},
		"two lists of names where Windows has them": {old(none, none), "extensions"},
		"extensions in two attributes": {wish{
			extensions: [][]byte{none}, attributes: [][]byte{attribute(oidMSExtensions, sequence(none))},
		}, "extensions"},
		"two extension requests": {wish{attributes: [][]byte{
			attribute(oidExtensions, sequence()), attribute(oidExtensions, sequence()),
		}}, "attributes"},
		"two lists in one request":                             {wish{attributes: [][]byte{attribute(oidMSExtensions, sequence(), sequence())}}, "extensions"},
		"an attribute without a list":                          {wish{attributes: [][]byte{attribute(oidMSExtensions)}}, "extensions"},
		"something after an extension":                         {old(sequence(identifier(oidSAN), element(cbasn1.OCTET_STRING), []byte{5, 0})), "extensions"},
		"more extensions than are read":                        {old(manyExtensions(101)...), "extensions"},
		"two challenges":                                       {wish{attributes: [][]byte{attribute(oidChallenge, element(cbasn1.UTF8String), element(cbasn1.UTF8String))}}, "challenge_password"},
		"a challenge that is a number":                         {wish{attributes: [][]byte{attribute(oidChallenge, []byte{2, 1, 1})}}, "challenge_password"},
		"a name of no kind":                                    {names(generalName(9, false, []byte("x"))), "san"},
		"an e-mail address that is empty":                      {names(generalName(1, false)), "san"},
		"a DNS name with a null byte":                          {names(generalName(2, false, []byte("a.example\x00.b"))), "san"},
		"an e-mail address in UTF-8":                           {old(extension(oidSAN, sequence(generalName(1, false, []byte("ä@example.com"))))), "san"},
		"an address of five bytes":                             {old(extension(oidSAN, sequence(generalName(7, false, []byte{1, 2, 3, 4, 5})))), "san"},
		"something after the names":                            {old(extension(oidSAN, append(sequence(), 5, 0))), "san"},
		"a hundred and one names that only this package reads": {names(slices.Repeat([][]byte{upn("a@b")}, 101)...), "san"},
		"a principal name that is empty":                       {names(upn("")), "san"},
		"a principal name with a line end":                     {names(upn("a@b\n")), "san"},
		"a principal name that is no UTF-8":                    {names(upn("a\xff")), "san"},
		"a principal name that is a number":                    {names(otherName(oidNTName, []byte{2, 1, 1})), "san"},
		"two principal names in one":                           {names(otherName(oidNTName, append(element(cbasn1.UTF8String, []byte("a")), element(cbasn1.UTF8String, []byte("b"))...))), "san"},
		"an other name without a value":                        {names(generalName(0, true, identifier(oidNTName))), "san"},
		"a usage that has no meaning":                          {ext(oidKU, element(cbasn1.BIT_STRING, []byte{6, 0, 0x40})), "key_usage"},
		"a usage that is no bit string":                        {ext(oidKU, []byte{2, 1, 1}), "key_usage"},
		"something after the usage":                            {ext(oidKU, append(element(cbasn1.BIT_STRING, []byte{7, 0x80}), 5, 0)), "key_usage"},
		"an empty list of extended usages":                     {ext(oidEKU, sequence()), "ext_key_usage"},
		"extended usages that are numbers":                     {ext(oidEKU, sequence([]byte{2, 1, 1})), "ext_key_usage"},
		"a hundred and one extended usages":                    {ext(oidEKU, sequence(slices.Repeat([][]byte{identifier(oidEKU)}, 101)...)), "ext_key_usage"},
		"constraints that are not known":                       {ext(oidBC, sequence([]byte{5, 0})), "basic_constraints"},
		"being an authority and then not":                      {ext(oidBC, sequence([]byte{1, 1, 0xFF}, []byte{1, 1, 0})), "basic_constraints"},
		"something after the constraints":                      {ext(oidBC, append(sequence(), 5, 0)), "basic_constraints"},
		"a template that is a number":                          {ext(oidMSName, []byte{2, 1, 1}), "template"},
		"two templates": {wish{extensions: [][]byte{
			extension(oidMSName, element(cbasn1.UTF8String, []byte("User"))), extension(oidMSVersion, sequence(identifier(oidCN))),
		}}, "template"},
		"a subject with a null byte":         {wish{subject: commonName(cbasn1.UTF8String, []byte("ana\x00evil"))}, "subject"},
		"a subject with a line end":          {wish{subject: commonName(cbasn1.PrintableString, []byte("ana\nevil"))}, ""},
		"a subject with a line end in UTF-8": {wish{subject: commonName(cbasn1.UTF8String, []byte("ana\nevil"))}, "subject"},
		"a challenge in halves of pairs":     {wish{attributes: [][]byte{attribute(oidChallenge, element(30, []byte{0xD8, 0x3D, 0xDE, 0x00}))}}, "challenge_password"},
		"a challenge of three bytes":         {wish{attributes: [][]byte{attribute(oidChallenge, element(30, []byte{0, 'x', 0}))}}, "challenge_password"},
		"a subject in upper teletex":         {wish{subject: commonName(cbasn1.T61String, []byte{0xC8, 'a'})}, "subject"},
		"a subject with an empty part":       {wish{subject: sequence(element(cbasn1.SET))}, "subject"},
		"a subject of a hundred and one parts": {wish{subject: sequence(slices.Repeat([][]byte{
			element(cbasn1.SET, sequence(identifier(oidCN), element(cbasn1.UTF8String, []byte("x")))),
		}, 101)...)}, "subject"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := tt.wish.asked(t)
			if !errors.Is(err, guard.ErrCertificate) {
				t.Fatalf("asked for %+v, %v; want it refused as malformed", got, err)
			}
			var part *guard.PartError
			if errors.As(err, &part) != (tt.part != "") || part != nil && part.Part != tt.part {
				t.Errorf("error = %v, want one of the part %q", err, tt.part)
			}
		})
	}
}

func manyExtensions(n int) (extensions [][]byte) {
	for i := range n {
		extensions = append(extensions, extension(asn1.ObjectIdentifier{1, 2, 3, i}, nil))
	}
	return extensions
}

// TestAskedAgreesWithWhatWasAsked makes requests by crypto/x509 that ask for anything,
// and finds all of it again, and nothing else.
func TestAskedAgreesWithWhatWasAsked(t *testing.T) {
	key := ecKey(t, elliptic.P256())
	rapid.Check(t, func(t *rapid.T) {
		list := func(of *rapid.Generator[string], what string) []string {
			some := rapid.SliceOfN(of, 0, 4).Draw(t, what)
			if len(some) == 0 {
				return nil
			}
			return some
		}
		text := rapid.StringOfN(rapid.RuneFrom([]rune("aZ09 .-@é漢😀/=+,")), 1, 20, 40)
		ascii := rapid.StringMatching(`[a-z0-9]{1,10}\.[a-z]{2,5}`)
		upns := list(text, "upns")
		others := rapid.IntRange(0, 3).Draw(t, "others")
		want := guard.AlternativeNames{
			DNSNames: list(ascii, "dns"), EmailAddresses: list(rapid.StringMatching(`[a-z]{1,8}@[a-z]{1,8}\.org`), "emails"),
			URIs: list(rapid.StringMatching(`urn:[a-z]{2,5}:[a-z0-9]{1,9}`), "uris"), UserPrincipalNames: upns,
		}
		var names [][]byte
		for _, v := range want.DNSNames {
			names = append(names, generalName(2, false, []byte(v)))
		}
		for _, v := range want.EmailAddresses {
			names = append(names, generalName(1, false, []byte(v)))
		}
		for _, v := range want.URIs {
			names = append(names, generalName(6, false, []byte(v)))
		}
		for _, v := range rapid.SliceOfN(rapid.SliceOfN(rapid.Byte(), 16, 16), 0, 3).Draw(t, "ips") {
			addr, _ := netip.AddrFromSlice(v)
			want.IPs = append(want.IPs, addr)
			names = append(names, generalName(7, false, v))
		}
		for _, v := range upns {
			names = append(names, upn(v))
		}
		for range others {
			want.Others = append(want.Others, "directoryName")
			names = append(names, generalName(4, true, sequence()))
		}
		if len(names) > 0 {
			names = rapid.Permutation(names).Draw(t, "order")
		}
		usage := rapid.IntRange(0, 0xFF).Draw(t, "usage")
		template := &x509.CertificateRequest{Subject: pkix.Name{
			CommonName: text.Draw(t, "cn"), Organization: list(text, "o"),
		}}
		if len(names) > 0 {
			template.ExtraExtensions = append(template.ExtraExtensions, pkix.Extension{Id: oidSAN, Value: sequence(names...), Critical: rapid.Bool().Draw(t, "critical")})
		}
		if usage != 0 {
			bits, err := asn1.Marshal(asn1.BitString{Bytes: []byte{reversed(byte(usage))}, BitLength: 8})
			if err != nil {
				t.Fatal(err)
			}
			template.ExtraExtensions = append(template.ExtraExtensions, pkix.Extension{Id: oidKU, Value: bits})
		}
		der, err := x509.CreateCertificateRequest(rand.Reader, template, key)
		if err != nil {
			t.Fatal(err)
		}
		csr, err := guard.ParseCSR(der, 0)
		if err != nil {
			t.Fatal(err)
		}
		got, err := guard.AskedBy(csr)
		if err != nil {
			t.Fatal(err)
		}
		if got.Names.Count() != len(names) {
			t.Errorf("%d names were read of %d", got.Names.Count(), len(names))
		}
		if len(want.Others) == 0 && !got.Names.Equal(want) {
			t.Errorf("names = %+v, want %+v", got.Names, want)
		}
		if len(got.Names.Others) != others {
			t.Errorf("others = %q, want %d", got.Names.Others, others)
		}
		if got.KeyUsage != x509.KeyUsage(usage) {
			t.Errorf("key usage = %#x, want %#x", got.KeyUsage, usage)
		}
		if cns := got.Subject.Values(oidCN); len(cns) != 1 || cns[0] != csr.Subject.CommonName || cns[0] != template.Subject.CommonName {
			t.Errorf("common names = %q, want %q", cns, template.Subject.CommonName)
		}
		if len(got.Extensions)+len(got.Attributes) != 0 || got.CA || got.Template != "" || got.Challenge != "" {
			t.Errorf("asked for %+v, which nobody did", got)
		}
	})
}

// reversed returns b with its first bit last: bit strings begin at the other end.
func reversed(b byte) (r byte) {
	for i := range 8 {
		r |= b >> i & 1 << (7 - i)
	}
	return r
}

func TestNamesOfACertificateAreThoseThatWereAsked(t *testing.T) {
	key := ecKey(t, elliptic.P256())
	names := sequence(generalName(2, false, []byte("a.example")), upn("ana@example.com"))
	template := &x509.CertificateRequest{
		Subject:         pkix.Name{CommonName: "Ana", Organization: []string{"Example"}},
		ExtraExtensions: []pkix.Extension{{Id: oidSAN, Value: names}},
	}
	csr, err := guard.ParseCSR(request(t, template, key), 0)
	if err != nil {
		t.Fatal(err)
	}
	asked, err := guard.AskedBy(csr)
	if err != nil {
		t.Fatal(err)
	}
	cert := certificateWith(t, template.Subject, template.ExtraExtensions, key)
	subject, sans, err := guard.NamesOf(cert)
	if err != nil {
		t.Fatal(err)
	}
	if !subject.Equal(asked.Subject) || !sans.Equal(asked.Names) {
		t.Errorf("NamesOf(certificate) = %v, %+v; the request has %v, %+v", subject, sans, asked.Subject, asked.Names)
	}
	for name, other := range map[string]*x509.Certificate{
		"another subject":      certificateWith(t, pkix.Name{CommonName: "ana", Organization: []string{"Example"}}, template.ExtraExtensions, key),
		"a subject with more":  certificateWith(t, pkix.Name{CommonName: "Ana", Organization: []string{"Example", "Example"}}, template.ExtraExtensions, key),
		"no alternative names": certificateWith(t, template.Subject, nil, key),
		"another principal": certificateWith(t, template.Subject, []pkix.Extension{{
			Id: oidSAN, Value: sequence(generalName(2, false, []byte("a.example")), upn("ben@example.com")),
		}}, key),
		"a name twice": certificateWith(t, template.Subject, []pkix.Extension{{
			Id: oidSAN, Value: sequence(generalName(2, false, []byte("a.example")), upn("ana@example.com"), upn("ana@example.com")),
		}}, key),
	} {
		subject, sans, err := guard.NamesOf(other)
		if err != nil {
			t.Fatal(err)
		}
		if subject.Equal(asked.Subject) && sans.Equal(asked.Names) {
			t.Errorf("%s counts as the same names", name)
		}
	}
}

func TestNamesThatCannotBeReadAreTheSameAsNoOthers(t *testing.T) {
	a := guard.AlternativeNames{Others: []string{"directoryName"}}
	if a.Equal(a) {
		t.Error("two directory names count as equal, and neither was looked at")
	}
}

func certificateWith(t *testing.T, subject pkix.Name, extensions []pkix.Extension, key any) *x509.Certificate {
	t.Helper()
	template := &x509.Certificate{Subject: subject, ExtraExtensions: extensions}
	der, err := x509.CreateCertificate(rand.Reader, template, template, ecKey(t, elliptic.P256()).Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := guard.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// TestRequestsMadeByOpenSSLAreRead reads what another implementation wrote.
func TestRequestsMadeByOpenSSLAreRead(t *testing.T) {
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal(err)
		}
		t.Skip("openssl is not installed")
	}
	dir := t.TempDir()
	config := filepath.Join(dir, "req.cnf")
	if err := os.WriteFile(config, []byte(`
[req]
distinguished_name = dn
req_extensions = ext
attributes = attrs
prompt = no
utf8 = yes
[dn]
C = ES
O = Example
CN = Ana Pérez
[attrs]
challengePassword = open sesame
[ext]
basicConstraints = critical, CA:TRUE
keyUsage = digitalSignature, keyCertSign
extendedKeyUsage = clientAuth, serverAuth
subjectAltName = @names
certificatePolicies = 1.2.3.4
[names]
email = ana@example.com
DNS.1 = *.example.com
IP.1 = 2001:db8::1
URI.1 = https://example.com/x
otherName.1 = 1.3.6.1.4.1.311.20.2.3;UTF8:ana@corp.example.com
RID.1 = 1.2.3.4
dirName.1 = dn
`), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(openssl, "req", "-new", "-newkey", "rsa:2048", "-nodes", "-keyout", filepath.Join(dir, "key.pem"), "-config", config, "-text").Output()
	if err != nil {
		t.Fatal(err)
	}
	der, armor, err := guard.UnarmorCSR(out)
	if err != nil || armor != guard.ArmorPEM {
		t.Fatalf("UnarmorCSR = %q, %v; want PEM", armor, err)
	}
	csr, err := guard.ParseCSR(der, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := guard.CheckCSR(csr); err != nil {
		t.Fatal(err)
	}
	got, err := guard.AskedBy(csr)
	if err != nil {
		t.Fatal(err)
	}
	got.RawSubject = nil
	uri, _ := url.Parse("https://example.com/x")
	want := guard.Asked{
		Subject: guard.Name{
			{{Type: asn1.ObjectIdentifier{2, 5, 4, 6}, Value: "ES"}},
			{{Type: asn1.ObjectIdentifier{2, 5, 4, 10}, Value: "Example"}},
			{{Type: oidCN, Value: "Ana Pérez"}},
		},
		Names: guard.AlternativeNames{
			EmailAddresses: []string{"ana@example.com"}, DNSNames: []string{"*.example.com"}, URIs: []string{uri.String()},
			IPs: []netip.Addr{netip.MustParseAddr("2001:db8::1")}, UserPrincipalNames: []string{"ana@corp.example.com"},
			Others: []string{"registeredID", "directoryName"},
		},
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []asn1.ObjectIdentifier{{1, 3, 6, 1, 5, 5, 7, 3, 2}, {1, 3, 6, 1, 5, 5, 7, 3, 1}},
		CA:          true,
		Challenge:   "open sesame",
		Extensions:  []asn1.ObjectIdentifier{oidPolicies},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("asked for\n%+v, want\n%+v", got, want)
	}
	if !csr.IPAddresses[0].Equal(net.ParseIP("2001:db8::1")) {
		t.Errorf("crypto/x509 read the address %v", csr.IPAddresses[0])
	}
}

func TestRequestsAreTakenOutOfTheirArmor(t *testing.T) {
	der := request(t, &x509.CertificateRequest{}, ecKey(t, elliptic.P256()))
	block := func(kind string) []byte { return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}) }
	b64 := base64.StdEncoding.EncodeToString(der)
	lines := strings.Join(slices.Collect(func(yield func(string) bool) {
		for rest := b64; rest != ""; {
			n := min(64, len(rest))
			if !yield(rest[:n]) {
				return
			}
			rest = rest[n:]
		}
	}), "\r\n")
	for name, tt := range map[string]struct {
		body  []byte
		armor guard.Armor // "": refused
		says  string
	}{
		"DER":                           {der, guard.ArmorNone, ""},
		"PEM":                           {block("CERTIFICATE REQUEST"), guard.ArmorPEM, ""},
		"PEM as OpenSSL used to":        {block("NEW CERTIFICATE REQUEST"), guard.ArmorPEM, ""},
		"PEM with Windows line ends":    {bytes.ReplaceAll(block("CERTIFICATE REQUEST"), []byte("\n"), []byte("\r\n")), guard.ArmorPEM, ""},
		"PEM with text around":          {slices.Concat([]byte("Certificate Request:\n    Data:\n"), block("CERTIFICATE REQUEST"), []byte("\nbye\n")), guard.ArmorPEM, ""},
		"PEM of an editor":              {slices.Concat([]byte("\xef\xbb\xbf"), block("CERTIFICATE REQUEST")), guard.ArmorPEM, ""},
		"base64":                        {[]byte(b64), guard.ArmorBase64, ""},
		"base64 in lines":               {[]byte(lines + "\r\n"), guard.ArmorBase64, ""},
		"base64 of URLs":                {[]byte(base64.RawURLEncoding.EncodeToString(der)), guard.ArmorBase64, ""},
		"nothing":                       {nil, "", "is missing"},
		"nothing but space":             {[]byte(" \r\n"), "", "is missing"},
		"a private key beside it":       {slices.Concat(block("EC PRIVATE KEY"), block("CERTIFICATE REQUEST")), "", "private key"},
		"a certificate":                 {block("CERTIFICATE"), "", "not a request"},
		"something else":                {block("PKCS7"), "", "something else"},
		"two requests":                  {slices.Concat(block("CERTIFICATE REQUEST"), block("CERTIFICATE REQUEST")), "", "more than one"},
		"PEM without an end":            {[]byte("-----BEGIN CERTIFICATE REQUEST-----\nMIIB\n"), "", "can't be read"},
		"PEM that is no base64":         {[]byte("-----BEGIN CERTIFICATE REQUEST-----\n****\n-----END CERTIFICATE REQUEST-----\n"), "", "can't be read"},
		"JSON":                          {[]byte(`{"csr":"MIIB"}`), "", "neither PEM nor DER"},
		"a form":                        {[]byte("csr=MIIB%2B"), "", "neither PEM nor DER"},
		"base64 with padding all along": {bytes.Repeat([]byte("="), 1000), guard.ArmorBase64, ""},
	} {
		t.Run(name, func(t *testing.T) {
			got, armor, err := guard.UnarmorCSR(tt.body)
			if tt.says != "" {
				var part *guard.PartError
				if !errors.As(err, &part) || part.Part != "csr" || !strings.Contains(part.Reason, tt.says) {
					t.Errorf("UnarmorCSR = %v, want an error that says %q", err, tt.says)
				}
				return
			}
			if err != nil || armor != tt.armor {
				t.Fatalf("UnarmorCSR = %q, %v; want %q", armor, err, tt.armor)
			}
			if name != "base64 with padding all along" && !bytes.Equal(got, der) {
				t.Error("the request is not what it was")
			}
		})
	}
}

// FuzzAsked reads what somebody uploads as a request, and finds at least what
// crypto/x509 finds in it.
func FuzzAsked(f *testing.F) {
	f.Add(request(f, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: "Ana"},
		ExtraExtensions: []pkix.Extension{
			{Id: oidSAN, Value: sequence(upn("ana@example.com"), generalName(4, true, sequence()), generalName(7, false, []byte{1, 2, 3, 4}))},
			{Id: oidEKU, Value: sequence(identifier(oidEKU))},
			{Id: oidBC, Value: sequence()},
			{Id: oidMSVersion, Value: sequence(identifier(oidCN))},
		},
	}, ecKey(f, elliptic.P256())))
	f.Add([]byte("-----BEGIN CERTIFICATE REQUEST-----\nMIIB\n-----END CERTIFICATE REQUEST-----\n"))
	f.Fuzz(func(t *testing.T, body []byte) {
		der, _, err := guard.UnarmorCSR(body)
		if err != nil {
			return
		}
		csr, err := guard.ParseCSR(der, 0)
		if err != nil {
			return
		}
		asked, err := guard.AskedBy(csr)
		if err != nil {
			return
		}
		// Whatever crypto/x509 makes of the same request is seen here, too.
		if len(csr.DNSNames) > len(asked.Names.DNSNames) || len(csr.EmailAddresses) > len(asked.Names.EmailAddresses) ||
			len(csr.URIs) > len(asked.Names.URIs) || len(csr.IPAddresses) > len(asked.Names.IPs) {
			t.Errorf("crypto/x509 reads %q %q %v %v, and here are %+v", csr.DNSNames, csr.EmailAddresses, csr.URIs, csr.IPAddresses, asked.Names)
		}
		if cns := asked.Subject.Values(oidCN); csr.Subject.CommonName != "" && !slices.Contains(cns, csr.Subject.CommonName) {
			t.Errorf("crypto/x509 reads the common name %q, and here are %q", csr.Subject.CommonName, cns)
		}
	})
}
