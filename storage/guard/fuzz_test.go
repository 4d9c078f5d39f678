package guard_test

import (
	"bytes"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/storage/guard"
)

func FuzzPlist(f *testing.F) {
	for _, seed := range []string{
		document("<dict><key>Status</key><string>Idle</string></dict>"),
		document("<array><integer>1</integer><real>2</real><true/><data>AA==</data><date>2026-01-02T03:04:05Z</date></array>"),
		document("<dict><key>a&amp;b</key><!-- c --><string><![CDATA[d]]>&#65;</string></dict>"),
		`<plist version='1.0'><dict/></plist>`,
		"bplist00",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, doc []byte) {
		if guard.CheckPlist(doc, guard.PlistLimits{}) != nil {
			return
		}
		var v any
		_ = guard.DecodePlist(doc, &v, guard.PlistLimits{}) // a number may be malformed, nothing else

		// What is accepted is one well-formed document to other decoders too.
		d := xml.NewDecoder(bytes.NewReader(doc))
		for depth, roots := 0, 0; ; {
			tok, err := d.Token()
			if errors.Is(err, io.EOF) {
				if roots != 1 {
					t.Fatalf("%q has %d roots", doc, roots)
				}
				return
			}
			if err != nil {
				t.Fatalf("%q is accepted, but encoding/xml says: %v", doc, err)
			}
			switch tok.(type) {
			case xml.StartElement:
				if depth++; depth == 1 {
					roots++
				}
			case xml.EndElement:
				depth--
			}
		}
	})
}

func FuzzCMS(f *testing.F) {
	to, toKey := recipient(f)
	f.Add(enveloped(f, "des3"))
	for _, name := range []string{"testdata/apple-mac-2021.sig", "testdata/apple-mac-2021-b.sig"} {
		seed, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(seed)
	}
	key := ecKey(f, elliptic.P256())
	f.Add(signing{key: key}.sign(f, []byte("content")))
	f.Add([]byte{0x30, 0x80, 0x24, 0x80, 0x04, 0x01, 0x00, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, cms []byte) {
		start := time.Now()
		_, _ = guard.VerifyDetached(cms, []byte("content"), 0)
		_, _ = guard.VerifyAttached(cms, 0)
		_, _ = guard.ParseCMS(cms, 0)
		_, _ = guard.ParseEnvelope(cms, 0)
		_, _ = guard.DecryptEnveloped(cms, to, toKey, 0)
		if took := time.Since(start); took > 30*time.Second {
			t.Errorf("took %v", took)
		}
	})
}

func FuzzCSR(f *testing.F) {
	f.Add(request(f, &x509.CertificateRequest{DNSNames: []string{"a.example"}}, ecKey(f, elliptic.P256())))
	f.Fuzz(func(t *testing.T, der []byte) {
		csr, err := guard.ParseCSR(der, 0)
		if err != nil {
			return
		}
		_, _ = guard.CSRAttributes(csr)
		_ = guard.CheckCSR(csr)
	})
}

func FuzzCertificate(f *testing.F) {
	key := ecKey(f, elliptic.P256())
	f.Add(certify(f, "a", key.Public(), key, time.Now()).Raw)
	f.Fuzz(func(t *testing.T, der []byte) {
		_, _ = guard.ParseCertificate(der)
	})
}
