package profile

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"time"

	"github.com/gatehouse-mdm/gatehouse/storage/guard"
)

// Profile is a configuration profile (Apple's page "TopLevel"). What has another type than
// Apple says is as if it were not there; Lint names it.
type Profile struct {
	Identifier        string // PayloadIdentifier; a device replaces a profile by another of this name
	UUID              string
	DisplayName       string
	Description       string
	Organization      string
	Scope             string // PayloadScope: System, User, or empty
	Version           int
	RemovalDisallowed bool
	Encrypted         bool // its payloads are for one device's eyes, so Payloads is empty
	Payloads          []Payload

	Signer *Signer        // nil: it is not signed
	XML    []byte         // the property list, to the byte as it was signed; nil if it was not parsed
	Top    map[string]any // all of the property list: string, bool, int64 or uint64, float64, time.Time, []byte, []any, map[string]any
}

// Payload is one setting, or set of settings, of a profile.
type Payload struct {
	Type        string // PayloadType, "com.apple.wifi.managed"
	Identifier  string
	UUID        string
	DisplayName string
	Index       int            // in PayloadContent of the profile
	Content     map[string]any // its whole dictionary, shared with Profile.Top
}

// Signer is who signed a profile. Whether it is trusted, and was at the time, is not looked at.
type Signer struct {
	Subject  string    // distinguished name (RFC 2253); empty: its certificate is not in the signature
	Issuer   string    // likewise
	Serial   string    // hexadecimal
	NotAfter time.Time // when its certificate ends
	Digest   string    // "SHA-256"
	Broken   string    // why the signature is not right; empty: it is
}

// Parse reads a profile as devices and their tools know it: an XML property list in UTF-8,
// or a CMS SignedData message (RFC 5652) around one, in DER, BER or PEM. A signature that
// is not right does not keep a profile from being read: see Signer.Broken.
//
// Errors wrap ErrNotProfile and name what it is instead, with guard's about the encoding.
func Parse(data []byte) (*Profile, error) {
	data, signer, err := open(data)
	if err != nil {
		return nil, err
	}
	v, err := guard.ReadPlist(data, guard.PlistLimits{Bytes: MaxSize})
	if err != nil {
		return nil, describe(data, err)
	}
	top, ok := v.(map[string]any)
	if !ok {
		return nil, fmt.Errorf("%w: it is a property list of something else than a dictionary", ErrNotProfile)
	}
	if err := configuration(top); err != nil {
		return nil, err
	}
	p := read(top)
	p.Signer, p.XML = signer, data
	return p, nil
}

// read returns the profile whose property list is top, which it shares.
func read(top map[string]any) *Profile {
	p := &Profile{Top: top}
	p.Identifier, _ = top["PayloadIdentifier"].(string)
	p.UUID, _ = top["PayloadUUID"].(string)
	p.DisplayName, _ = top["PayloadDisplayName"].(string)
	p.Description, _ = top["PayloadDescription"].(string)
	p.Organization, _ = top["PayloadOrganization"].(string)
	p.Scope, _ = top["PayloadScope"].(string)
	p.Version = version(top["PayloadVersion"])
	p.RemovalDisallowed, _ = top["PayloadRemovalDisallowed"].(bool)
	_, p.Encrypted = top["EncryptedPayloadContent"].([]byte)
	content, _ := top["PayloadContent"].([]any)
	for i, v := range content {
		d, ok := v.(map[string]any)
		if !ok {
			continue
		}
		payload := Payload{Index: i, Content: d}
		payload.Type, _ = d["PayloadType"].(string)
		payload.Identifier, _ = d["PayloadIdentifier"].(string)
		payload.UUID, _ = d["PayloadUUID"].(string)
		payload.DisplayName, _ = d["PayloadDisplayName"].(string)
		p.Payloads = append(p.Payloads, payload)
	}
	return p
}

func version(v any) int {
	switch n := v.(type) {
	case int64:
		return int(n)
	case uint64:
		return int(n)
	}
	return 0
}

// open takes the property list out of its signature, if it has one.
func open(data []byte) ([]byte, *Signer, error) {
	if len(data) > MaxSize {
		return nil, nil, fmt.Errorf("%w: %w: %d bytes, at most %d", ErrNotProfile, guard.ErrTooLarge, len(data), MaxSize)
	}
	if data = unarmor(data); !isSigned(data) {
		return data, nil, nil
	}
	message, err := guard.ParseCMS(data, MaxSize)
	if err != nil {
		return nil, nil, describe(data, err)
	}
	if len(message.Content) == 0 {
		return nil, nil, fmt.Errorf("%w: it is a signature without the profile that it signs", ErrNotProfile)
	}
	if isSigned(message.Content) {
		return nil, nil, fmt.Errorf("%w: there is another signature inside of its signature; remove the outer one", ErrNotProfile)
	}
	signer := &Signer{}
	var cert *x509.Certificate
	if signature, err := guard.VerifyAttached(data, MaxSize); err == nil {
		cert = signature.Certificate
	} else {
		signer.Broken = broken(err)
		cert = message.GetOnlySigner()
	}
	if cert != nil {
		signer.Subject, signer.Issuer = cert.Subject.String(), cert.Issuer.String()
		signer.Serial, signer.NotAfter = hexSerial(cert.SerialNumber), cert.NotAfter
	}
	if len(message.Signers) > 0 {
		signer.Digest = digestName(message.Signers[0].DigestAlgorithm.Algorithm)
	}
	return message.Content, signer, nil
}

// unarmor takes a CMS message out of PEM (RFC 7468, 8 and 9). Anything else, a profile
// with PEM inside of it too, comes back as it is.
func unarmor(data []byte) []byte {
	text := bytes.TrimLeft(data, " \t\r\n")
	for _, label := range []string{"PKCS7", "CMS"} {
		if bytes.HasPrefix(text, []byte("-----BEGIN "+label+"-----")) {
			if block, _ := pem.Decode(text); block != nil {
				return block.Bytes
			}
		}
	}
	return data
}

// broken says why a signature is not right, after "its signature".
func broken(err error) string {
	switch {
	case errors.Is(err, guard.ErrSignature):
		return "does not match its content: it was changed after it was signed"
	case errors.Is(err, guard.ErrKey):
		return "was made with a key that is too weak to prove anything"
	}
	return "can't be checked (" + strings.TrimPrefix(err.Error(), guard.ErrCMS.Error()+": ") + ")"
}

func hexSerial(n *big.Int) string {
	if n == nil {
		return ""
	}
	return fmt.Sprintf("%X", n)
}

// digestName returns the name of a digest algorithm (RFC 5754, 2); of one that nobody
// signs profiles with, its number.
func digestName(oid asn1.ObjectIdentifier) string {
	switch s := oid.String(); s {
	case "1.2.840.113549.2.5":
		return "MD5"
	case "1.3.14.3.2.26":
		return "SHA-1"
	case "2.16.840.1.101.3.4.2.4":
		return "SHA-224"
	case "2.16.840.1.101.3.4.2.1":
		return "SHA-256"
	case "2.16.840.1.101.3.4.2.2":
		return "SHA-384"
	case "2.16.840.1.101.3.4.2.3":
		return "SHA-512"
	default:
		return s
	}
}

// configuration says what a property list is if it is no configuration profile.
func configuration(top map[string]any) error {
	has := func(key string) bool { _, ok := top[key]; return ok }
	payloadType, isText := top["PayloadType"].(string)
	switch {
	case payloadType == "Configuration":
		return nil
	case payloadType == "Profile Service":
		return fmt.Errorf("%w: it is an invitation to over-the-air enrollment (its PayloadType is Profile Service), which a person opens in the browser", ErrNotProfile)
	case has("TeamIdentifier") && has("Entitlements"):
		return fmt.Errorf("%w: it is an app's provisioning profile (.mobileprovision)", ErrNotProfile)
	case has("Command") && has("CommandUUID"):
		return fmt.Errorf("%w: it is a command for a device", ErrNotProfile)
	case payloadType != "" && has("PayloadContent"):
		return fmt.Errorf("%w: its PayloadType is %q and must be Configuration; a single payload belongs into the PayloadContent of a profile", ErrNotProfile, clip(payloadType))
	case payloadType != "":
		return fmt.Errorf("%w: it is a single payload of the type %q; put it into the PayloadContent of a profile whose PayloadType is Configuration", ErrNotProfile, clip(payloadType))
	case isText || has("PayloadType"):
		return fmt.Errorf("%w: its PayloadType is not Configuration", ErrNotProfile)
	case has("PayloadContent"):
		return fmt.Errorf("%w: it has no PayloadType, which must be Configuration", ErrNotProfile)
	}
	return fmt.Errorf("%w: it is a property list without PayloadType and PayloadContent, such as an app's preferences", ErrNotProfile)
}

// clip shortens a text that came from a file, for an error.
func clip(s string) string {
	const most = 100
	if r := []rune(s); len(r) > most {
		return string(r[:most]) + "…"
	}
	return s
}

// magics are how the files begin that people take for profiles.
var magics = []struct{ prefix, is string }{
	{"\x89PNG", "a picture (PNG)"},
	{"\xff\xd8\xff", "a picture (JPEG)"},
	{"GIF8", "a picture (GIF)"},
	{"%PDF", "a PDF document"},
	{"PK\x03\x04", "a zip archive; unpack it first"},
	{"\x1f\x8b", "a compressed file (gzip); unpack it first"},
	{"xar!", "an installer package (.pkg)"},
	{"-----BEGIN CERTIFICATE-----", "a certificate; put it into a profile as a payload of the type com.apple.security.pem"},
	{"-----BEGIN", "PEM of something else than a signed profile"},
	{"MIME-Version:", "S/MIME text; sign the profile again with `openssl cms -sign -nodetach -outform DER`"},
	{"Content-Type:", "S/MIME text; sign the profile again with `openssl cms -sign -nodetach -outform DER`"},
	{"{", "JSON; a declaration is no profile"},
	{"[", "JSON"},
}

const toUTF8 = "convert it to UTF-8 with `plutil -convert xml1 FILE`"

// describe returns an error that wraps cause, which the decoder said of data, and says what
// data is as far as its first bytes tell.
func describe(data []byte, cause error) error {
	is := ""
	text := bytes.TrimLeft(bytes.TrimPrefix(data, []byte("\xEF\xBB\xBF")), " \t\r\n")
	head := text[:min(len(text), 512)]
	lower := strings.ToLower(string(head))
	switch {
	case errors.Is(cause, guard.ErrTooLarge), errors.Is(cause, guard.ErrBinaryPlist):
	case len(text) == 0:
		is = "it is empty"
	case bytes.HasPrefix(data, []byte{0xFE, 0xFF}), bytes.HasPrefix(data, []byte{0xFF, 0xFE}),
		bytes.HasPrefix(data, []byte("<\x00")), bytes.HasPrefix(data, []byte("\x00<")):
		is = "it is in UTF-16; " + toUTF8
	case strings.HasPrefix(lower, "<?xml") && strings.Contains(strings.SplitN(lower, "?>", 2)[0], "encoding") && !strings.Contains(strings.SplitN(lower, "?>", 2)[0], "utf-8"):
		is = "it says that its encoding is another than UTF-8; " + toUTF8
	case strings.Contains(lower, "<!doctype html"), strings.Contains(lower, "<html"):
		is = "it is a web page, perhaps the one that asks to sign in before the download"
	case isSigned(data):
		is = describeDER(data)
	case isBase64(text):
		is = "it is base64 of something; decode it first with `base64 -d`"
	default:
		for _, m := range magics {
			if bytes.HasPrefix(text, []byte(m.prefix)) {
				is = "it is " + m.is
				break
			}
		}
	}
	if is == "" {
		return fmt.Errorf("%w: %w", ErrNotProfile, cause)
	}
	return fmt.Errorf("%w: %s: %w", ErrNotProfile, is, cause)
}

// describeDER is describe for what begins as ASN.1, and is no SignedData.
func describeDER(data []byte) string {
	if _, err := guard.ParseCertificate(data); err == nil {
		return "it is a certificate; put it into a profile as a payload of the type com.apple.security.pkcs1"
	}
	var outer asn1.RawValue
	if _, err := asn1.Unmarshal(data, &outer); err == nil && bytes.HasPrefix(outer.Bytes, []byte{2, 1, 3}) { // RFC 7292, 4: version 3
		return "it is a certificate with its key (PKCS #12); put it into a profile as a payload of the type com.apple.security.pkcs12"
	}
	return ""
}

func isBase64(text []byte) bool {
	line, _, _ := bytes.Cut(text, []byte("\n"))
	line = bytes.TrimRight(line, "\r=")
	_, err := base64.RawStdEncoding.DecodeString(string(line[:len(line)/4*4]))
	return err == nil && len(line) >= 16
}
