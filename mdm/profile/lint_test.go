package profile_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"math/big"
	mathrand "math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/mdm/command"
	"github.com/gatehouse-mdm/gatehouse/mdm/internal/plistxml"
	"github.com/gatehouse-mdm/gatehouse/mdm/profile"
)

// uuid returns the PayloadUUID of payload i in a complete profile; -1 is the profile itself.
func uuid(i int) string { return fmt.Sprintf("%08X-0000-4000-8000-000000000000", i+1) }

// heading is what payload i of a complete profile has beside its type.
func heading(i int) string {
	return fmt.Sprintf("<key>PayloadVersion</key><integer>1</integer><key>PayloadIdentifier</key><string>com.example.profile.%d</string><key>PayloadUUID</key><string>%s</string>", i, uuid(i))
}

// complete returns a profile that lacks nothing, with payloads "type" or "type keys".
func complete(top string, payloads ...string) []byte {
	var b strings.Builder
	b.WriteString(`<plist version="1.0"><dict><key>PayloadType</key><string>Configuration</string>` + heading(-1) + top + `<key>PayloadContent</key><array>`)
	for i, p := range payloads {
		payloadType, keys, _ := strings.Cut(p, " ")
		b.WriteString(`<dict><key>PayloadType</key><string>` + payloadType + `</string>` + heading(i) + keys + `</dict>`)
	}
	b.WriteString(`</array></dict></plist>`)
	return []byte(b.String())
}

// lint returns the findings on a profile.
func lint(t testing.TB, raw []byte) []profile.Finding {
	t.Helper()
	p, err := profile.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	return p.Lint(now)
}

// inBase64 returns a certificate that is as change says.
func inBase64(t testing.TB, public any, change func(*x509.Certificate)) string {
	t.Helper()
	signer, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if public == nil {
		public = signer.Public()
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: "Example"},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour),
	}
	change(template)
	der, err := x509.CreateCertificate(rand.Reader, template, &x509.Certificate{Subject: pkix.Name{CommonName: "Issuer"}, SignatureAlgorithm: template.SignatureAlgorithm}, public, signer)
	if err != nil {
		t.Fatal(err)
	}
	return "<key>PayloadContent</key><data>" + base64.StdEncoding.EncodeToString(der) + "</data>"
}

const (
	network = "com.apple.wifi.managed <key>SSID_STR</key><string>Office</string>"
	eapTLS  = `<key>EAPClientConfiguration</key><dict><key>AcceptEAPTypes</key><array><integer>13</integer></array><key>TLSTrustedServerNames</key><array><string>radius.example.com</string></array></dict>`
	root    = "com.apple.security.root "
	isOn    = "</key><true/>"
)

// bySHA1 is a certificate until 2126, which its issuer signed with SHA-1.
const bySHA1 = "<key>PayloadContent</key><data>MIIBATCBqgIBBTAJBgcqhkjOPQQBMA0xCzAJBgNVBAMMAkNBMCAXDTI2MTEyMjE0MzgxNVoYDzIxMjYxMDI5MTQzODE1WjAOMQwwCgYDVQQDDANPbGQwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAARQ+RpiJ+VOhOQe5z2VfrjRwKieMwPdHFtiq/c18ON5FQcAGrepyvQTBfqTNalc3RIvCytoHDiyyzBvDKJQUeZSMAkGByqGSM49BAEDRwAwRAIgBWL+Eq7BBbfySNdiV6VVdR9vA7O6Owdr5A+H82VcoUECIEgFz+zkeZkNrytTnqY+iMpu50nbzoQ/mDFq4VAwcW2+</data>"

// oldKey is too short for anything; nobody signs with it.
var oldKey = &rsa.PublicKey{N: new(big.Int).SetBit(big.NewInt(0x10001), 1023, 1), E: 65537}

func TestLintHasACaseForEachRule(t *testing.T) {
	t.Parallel()
	const e, w, n = profile.SeverityError, profile.SeverityWarning, profile.SeverityNote
	good := inBase64(t, nil, func(*x509.Certificate) {})
	signed := fixture(t, "imazing-signed.mobileconfig")
	cases := map[string]struct {
		raw      []byte
		code     string
		path     string
		severity profile.Severity
	}{
		"a misspelt type of payload":            {complete("", "com.apple.wifi.manged"), profile.CodeUnknownPayload, "PayloadContent[0]", w},
		"one of Apple's that is not documented": {complete("", "com.apple.NetworkBrowser"), profile.CodeUnknownPayload, "PayloadContent[0]", w},
		"an app's":                              {complete("", "com.google.Chrome"), profile.CodeVendorPayload, "PayloadContent[0]", n},
		"a misspelt key":                        {complete("", network+"<key>AutJoin"+isOn), profile.CodeUnknownKey, "PayloadContent[0].AutJoin", w},
		"a misspelt key in a dictionary":        {complete("", network+"<key>QoSMarkingPolicy</key><dict><key>QoSMarking"+isOn+"</dict>"), profile.CodeUnknownKey, "PayloadContent[0].QoSMarkingPolicy.QoSMarking", w},
		"a misspelt key of the profile":         {complete("<key>PayloadDisplayname</key><string>x</string>", network), profile.CodeUnknownKey, "PayloadDisplayname", w},
		"a key of any payload, misspelt":        {complete("", "com.example.app", "com.apple.font <key>Font</key><data>AA==</data><key>PayloadDescripton</key><string>x</string>"), profile.CodeUnknownKey, "PayloadContent[1].PayloadDescripton", w},

		"a number for a text":              {complete("", "com.apple.wifi.managed <key>SSID_STR</key><integer>5</integer>"), profile.CodeWrongType, "PayloadContent[0].SSID_STR", e},
		"a number for a truth":             {complete("", network+"<key>AutoJoin</key><integer>1</integer>"), profile.CodeWrongType, "PayloadContent[0].AutoJoin", w},
		"a text in an array of numbers":    {complete("", network+`<key>EAPClientConfiguration</key><dict><key>AcceptEAPTypes</key><array><string>13</string></array></dict>`), profile.CodeWrongType, "PayloadContent[0].EAPClientConfiguration.AcceptEAPTypes[0]", e},
		"a text where a Mac has a truth":   {complete("", "com.apple.dock <key>autohide</key><string>yes</string>"), profile.CodeWrongType, "PayloadContent[0].autohide", w},
		"an array where a Mac has none":    {complete("", "com.apple.dock <key>autohide</key><array/>"), profile.CodeWrongType, "PayloadContent[0].autohide", e},
		"a key of any payload, of no text": {complete("", "com.example.app <key>PayloadDisplayName</key><integer>1</integer>"), profile.CodeWrongType, "PayloadContent[0].PayloadDisplayName", e},
		"a payload that is none":           {bytes.Replace(complete("", network), []byte("<array>"), []byte("<array><string>x</string>"), 1), profile.CodeWrongType, "PayloadContent[0]", e},
		"payloads that are none":           {bytes.Replace(complete(""), []byte("<array></array>"), []byte("<dict/>"), 1), profile.CodeWrongType, "PayloadContent", e},

		"a required key":                    {complete("", "com.apple.webClip.managed <key>Label</key><string>x</string>"), profile.CodeMissingKey, "PayloadContent[0].URL", e},
		"a required key in a dictionary":    {complete("", "com.apple.security.scep <key>PayloadContent</key><dict/>"), profile.CodeMissingKey, "PayloadContent[0].PayloadContent.URL", e},
		"a required key of a Mac":           {complete("", "com.apple.xsan"), profile.CodeMissingKey, "PayloadContent[0].sanName", w},
		"no type":                           {bytes.Replace(complete("", "x"), []byte("<key>PayloadType</key><string>x</string>"), nil, 1), profile.CodeMissingKey, "PayloadContent[0].PayloadType", e},
		"no UUID":                           {bytes.Replace(complete("", network), []byte("<key>PayloadUUID</key><string>"+uuid(0)+"</string>"), nil, 1), profile.CodeMissingKey, "PayloadContent[0].PayloadUUID", e},
		"no identifier of the profile":      {bytes.Replace(complete("", network), []byte("<key>PayloadIdentifier</key><string>com.example.profile.-1</string>"), nil, 1), profile.CodeMissingKey, "PayloadIdentifier", e},
		"no version":                        {bytes.Replace(complete("", network), []byte("<key>PayloadVersion</key><integer>1</integer>"), nil, 1), profile.CodeMissingKey, "PayloadVersion", e},
		"no payloads at all":                {bytes.Replace(complete(""), []byte("<key>PayloadContent</key><array></array>"), nil, 1), profile.CodeMissingKey, "PayloadContent", e},
		"a required key that is empty":      {complete("", "com.apple.webClip.managed <key>Label</key><string>x</string><key>URL</key><string/>"), profile.CodeEmptyValue, "PayloadContent[0].URL", e},
		"a value that is not listed":        {complete("", network+"<key>EncryptionType</key><string>WPA9</string>"), profile.CodeNotInEnum, "PayloadContent[0].EncryptionType", e},
		"another version of the format":     {bytes.Replace(complete("", network), []byte("<integer>1</integer>"), []byte("<integer>3</integer>"), 1), profile.CodeNotInEnum, "PayloadVersion", w},
		"a scope that does not exist":       {complete("<key>PayloadScope</key><string>Global</string>", network), profile.CodeNotInEnum, "PayloadScope", e},
		"a number that is too large":        {complete("", "com.apple.mobiledevice.passwordpolicy <key>minLength</key><integer>17</integer>"), profile.CodeOutOfRange, "PayloadContent[0].minLength", e},
		"a reference that is no UUID":       {complete("", network+"<key>PayloadCertificateUUID</key><string>mine</string>"), profile.CodeBadFormat, "PayloadContent[0].PayloadCertificateUUID", e},
		"a payload of old":                  {complete("", "com.apple.systemuiserver"), profile.CodeDeprecated, "PayloadContent[0]", n},
		"keys of old":                       {complete("", "com.apple.SetupAssistant.managed <key>SkipSiriSetup"+isOn), profile.CodeDeprecated, "PayloadContent[0].SkipSiriSetup", n},
		"a payload that is gone":            {complete("", "com.apple.dashboard"), profile.CodeRemoved, "PayloadContent[0]", w},
		"a key that is gone":                {complete("", "com.apple.finder <key>InterfaceLevel</key><string>Full</string>"), profile.CodeRemoved, "PayloadContent[0].InterfaceLevel", w},
		"what comes from a server only":     {complete("", "com.apple.networkusagerules"), profile.CodeMDMOnly, "PayloadContent[0]", n},
		"for supervised devices":            {complete("", "com.apple.homescreenlayout <key>Pages</key><array/>"), profile.CodeSupervision, "PayloadContent[0]", n},
		"a key for supervised devices":      {complete("", "com.apple.applicationaccess <key>allowAirDrop</key><false/>"), profile.CodeSupervision, "PayloadContent[0].allowAirDrop", n},
		"what a user must have approved":    {complete("", "com.apple.system-extension-policy"), profile.CodeApproval, "PayloadContent[0]", n},
		"what no personal device takes":     {complete("", "com.apple.vpn.managed"), profile.CodeUserEnrollment, "PayloadContent[0]", w},
		"what a personal Mac leaves out":    {complete("", "com.apple.dock"), profile.CodeUserEnrollment, "PayloadContent[0]", n},
		"a key that no personal one takes":  {complete("", network+"<key>ProxyType</key><string>Auto</string>"), profile.CodeUserEnrollment, "PayloadContent[0].ProxyType", w},
		"what can't be removed":             {complete("<key>PayloadRemovalDisallowed"+isOn, network), profile.CodeUserEnrollment, "PayloadRemovalDisallowed", w},
		"two of which a device has one":     {complete("", "com.apple.proxy.http.global", "com.apple.proxy.http.global"), profile.CodeMultiple, "PayloadContent[1]", e},
		"two of which a Mac has one":        {complete("", "com.apple.dock", "com.apple.dock"), profile.CodeMultiple, "PayloadContent[1]", w},
		"payloads of different platforms":   {complete("", "com.apple.dock", "com.apple.app.lock"), profile.CodeNoPlatform, "", w},
		"for another platform":              {complete("<key>TargetDeviceType</key><integer>5</integer>", "com.apple.app.lock"), command.CodePlatform, "PayloadContent[0]", w},
		"for a user of what is for all":     {complete("<key>PayloadScope</key><string>User</string>", "com.apple.security.firewall"), profile.CodeScope, "PayloadContent[0].PayloadScope", w},
		"for all of what is for a user":     {complete("<key>PayloadScope</key><string>System</string>", "com.apple.mail.managed"), profile.CodeScope, "PayloadContent[0].PayloadScope", w},
		"nothing in it":                     {complete(""), profile.CodeNoPayloads, "PayloadContent", w},
		"a UUID twice":                      {bytes.Replace(complete("", network, root+good), []byte(uuid(1)), []byte(uuid(0)), 1), profile.CodeDuplicateUUID, "PayloadContent[1].PayloadUUID", e},
		"a UUID of the profile itself":      {bytes.Replace(complete("", network), []byte(uuid(0)), []byte(uuid(-1)), 1), profile.CodeDuplicateUUID, "PayloadContent[0].PayloadUUID", w},
		"an identifier twice":               {bytes.Replace(complete("", network, root+good), []byte("com.example.profile.1"), []byte("com.example.profile.0"), 1), profile.CodeDuplicateIdentifier, "PayloadContent[1].PayloadIdentifier", e},
		"a UUID that is none":               {bytes.Replace(complete("", network), []byte(uuid(0)), []byte("12345"), 1), profile.CodeBadUUID, "PayloadContent[0].PayloadUUID", w},
		"an identifier with a space":        {bytes.Replace(complete("", network), []byte("com.example.profile.0"), []byte("My Wi-Fi"), 1), profile.CodeBadIdentifier, "PayloadContent[0].PayloadIdentifier", w},
		"a date of removal that has passed": {complete("<key>RemovalDate</key><date>2020-01-01T00:00:00Z</date>", network), profile.CodeExpired, "RemovalDate", e},
		"a duration of nothing":             {complete("<key>DurationUntilRemoval</key><real>0</real>", network), profile.CodeExpired, "DurationUntilRemoval", e},
		"a date of expiry that has passed":  {complete("<key>PayloadExpirationDate</key><date>2020-01-01T00:00:00Z</date>", network), profile.CodeExpired, "PayloadExpirationDate", w},
		"a date and a duration":             {complete("<key>RemovalDate</key><date>2120-01-01T00:00:00Z</date><key>DurationUntilRemoval</key><real>60</real>", network), profile.CodeConflict, "DurationUntilRemoval", w},
		"a text to agree to":                {complete("<key>ConsentText</key><dict><key>default</key><string>Do you?</string></dict>", network), profile.CodeConsent, "ConsentText", n},
		"an enrollment profile":             {complete("", "com.apple.mdm"), profile.CodeEnrollment, "PayloadContent[0]", w},
		"declarations":                      {complete("", "com.apple.declarations"), profile.CodeDeclarations, "PayloadContent[0]", w},
		"an encrypted profile":              {[]byte(`<plist><dict><key>PayloadType</key><string>Configuration</string>` + heading(-1) + `<key>EncryptedPayloadContent</key><data>AA==</data></dict></plist>`), profile.CodeEncrypted, "EncryptedPayloadContent", w},
		"a signature":                       {signed, profile.CodeSigned, "", n},
		"a signature of something else":     {bytes.Replace(signed, []byte("Example Staff"), []byte("Example Stuff"), 1), profile.CodeSignature, "", w},
		"a signature by SHA-1":              {fixture(t, "jamf-signed-ber.mobileconfig"), profile.CodeWeakSignature, "", w},
		"a password without a lock":         {complete("", "com.apple.profileRemovalPassword <key>RemovalPassword</key><string>x</string>"), profile.CodeConflict, "PayloadRemovalDisallowed", w},
		"more than can be listed":           {complete("", network+strings.Join(letters("<key>%s-bogus"+isOn), "")), profile.CodeMore, "", n},

		"a certificate that is not there":       {complete("", network+"<key>PayloadCertificateUUID</key><string>"+uuid(9)+"</string>"), profile.CodeReference, "PayloadContent[0].PayloadCertificateUUID", e},
		"an anchor that is not there":           {complete("", network+`<key>EAPClientConfiguration</key><dict><key>AcceptEAPTypes</key><array><integer>25</integer></array><key>PayloadCertificateAnchorUUID</key><array><string>`+uuid(9)+`</string></array></dict>`), profile.CodeReference, "PayloadContent[0].EAPClientConfiguration.PayloadCertificateAnchorUUID[0]", e},
		"one that Ethernet refers to":           {complete("", "com.apple.firstactiveethernet.managed <key>PayloadCertificateUUID</key><string>"+uuid(9)+"</string>"), profile.CodeReference, "PayloadContent[0].PayloadCertificateUUID", e},
		"a certificate that is none":            {complete("", network+"<key>PayloadCertificateUUID</key><string>"+uuid(1)+"</string>", "com.apple.dock"), profile.CodeReferenceKind, "PayloadContent[0].PayloadCertificateUUID", e},
		"a certificate without its key":         {complete("", network+"<key>PayloadCertificateUUID</key><string>"+uuid(1)+"</string>", root+good), profile.CodeReferenceKind, "PayloadContent[0].PayloadCertificateUUID", e},
		"rules for a passcode that nobody has":  {complete("", "com.apple.mobiledevice.passwordpolicy <key>forcePIN</key><false/><key>minLength</key><integer>8</integer>"), profile.CodeConflict, "PayloadContent[0].minLength", w},
		"a passcode of too few characters":      {complete("", "com.apple.mobiledevice.passwordpolicy <key>minLength</key><integer>2</integer><key>minComplexChars</key><integer>3</integer>"), profile.CodeConflict, "PayloadContent[0].minComplexChars", w},
		"two rules for a passcode":              {complete("", "com.apple.mobiledevice.passwordpolicy", "com.apple.mobiledevice.passwordpolicy"), profile.CodeConflict, "PayloadContent[1]", w},
		"a password for an open network":        {complete("", network+"<key>EncryptionType</key><string>None</string><key>Password</key><string>x</string>"), profile.CodeConflict, "PayloadContent[0].Password", w},
		"WPA Enterprise on an open network":     {complete("", network+"<key>EncryptionType</key><string>None</string>"+eapTLS), profile.CodeConflict, "PayloadContent[0].EAPClientConfiguration", w},
		"WEP":                                   {complete("", network+"<key>EncryptionType</key><string>WEP</string>"), profile.CodeConflict, "PayloadContent[0].EncryptionType", w},
		"a proxy that nobody uses":              {complete("", network+"<key>ProxyServer</key><string>proxy</string>"), profile.CodeConflict, "PayloadContent[0].ProxyServer", w},
		"a PAC that nobody uses":                {complete("", network+"<key>ProxyPACURL</key><string>http://proxy</string>"), profile.CodeConflict, "PayloadContent[0].ProxyPACURL", w},
		"a global proxy that nobody uses":       {complete("", "com.apple.proxy.http.global <key>ProxyType</key><string>Auto</string><key>ProxyServer</key><string>p</string>"), profile.CodeConflict, "PayloadContent[0].ProxyServer", w},
		"a network without a name":              {complete("", "com.apple.wifi.managed"), profile.CodeIncomplete, "PayloadContent[0].SSID_STR", e},
		"EAP-TLS without a certificate":         {complete("", network+eapTLS), profile.CodeIncomplete, "PayloadContent[0].PayloadCertificateUUID", e},
		"EAP-TLS on Ethernet without one":       {complete("", "com.apple.firstactiveethernet.managed "+eapTLS), profile.CodeIncomplete, "PayloadContent[0].PayloadCertificateUUID", e},
		"a manual proxy without a server":       {complete("", network+"<key>ProxyType</key><string>Manual</string>"), profile.CodeIncomplete, "PayloadContent[0].ProxyServer", e},
		"a global proxy without a server":       {complete("", "com.apple.proxy.http.global"), profile.CodeIncomplete, "PayloadContent[0].ProxyServer", e},
		"IKEv2 without its dictionary":          {complete("", "com.apple.vpn.managed <key>VPNType</key><string>IKEv2</string>"), profile.CodeIncomplete, "PayloadContent[0].IKEv2", e},
		"IKEv2 without a certificate":           {complete("", "com.apple.vpn.managed <key>VPNType</key><string>IKEv2</string><key>IKEv2</key><dict><key>AuthenticationMethod</key><string>Certificate</string></dict>"), profile.CodeIncomplete, "PayloadContent[0].IKEv2.PayloadCertificateUUID", e},
		"IKEv2 without a secret":                {complete("", "com.apple.vpn.managed <key>VPNType</key><string>IKEv2</string><key>IKEv2</key><dict><key>AuthenticationMethod</key><string>SharedSecret</string></dict>"), profile.CodeIncomplete, "PayloadContent[0].IKEv2.SharedSecret", e},
		"a network that anybody can imitate":    {complete("", network+`<key>EAPClientConfiguration</key><dict><key>AcceptEAPTypes</key><array><integer>25</integer></array></dict>`), profile.CodeTrustsAnybody, "PayloadContent[0].EAPClientConfiguration", w},
		"a certificate that is garbage":         {complete("", root+"<key>PayloadContent</key><data>MAA=</data>"), profile.CodeBadCertificate, "PayloadContent[0].PayloadContent", e},
		"a certificate that is a text":          {complete("", root+"<key>PayloadContent</key><data>aGVsbG8=</data>"), profile.CodeBadCertificate, "PayloadContent[0].PayloadContent", e},
		"a PKCS #12 file that is garbage":       {complete("", "com.apple.security.pkcs12 <key>PayloadContent</key><data>aGVsbG8=</data>"), profile.CodeBadCertificate, "PayloadContent[0].PayloadContent", e},
		"a certificate that has expired":        {complete("", root+inBase64(t, nil, func(c *x509.Certificate) { c.NotAfter = now.Add(-time.Minute) })), profile.CodeCertExpired, "PayloadContent[0].PayloadContent", w},
		"a certificate of tomorrow":             {complete("", root+inBase64(t, nil, func(c *x509.Certificate) { c.NotBefore, c.NotAfter = now.Add(time.Minute), now.Add(time.Hour) })), profile.CodeCertExpired, "PayloadContent[0].PayloadContent", w},
		"a certificate with a short key":        {complete("", root+inBase64(t, oldKey, func(*x509.Certificate) {})), profile.CodeWeakCertificate, "PayloadContent[0].PayloadContent", w},
		"a certificate signed by SHA-1":         {complete("", root+bySHA1), profile.CodeWeakCertificate, "PayloadContent[0].PayloadContent", w},
		"a request for a short key":             {complete("", "com.apple.security.scep <key>PayloadContent</key><dict><key>URL</key><string>https://scep</string></dict>"), profile.CodeWeakCertificate, "PayloadContent[0].PayloadContent.Keysize", w},
		"a password":                            {complete("", network+"<key>Password</key><string>hunter2</string>"), profile.CodeSecret, "PayloadContent[0].Password", n},
		"a private key beside a certificate":    {complete("", "com.apple.security.pem <key>PayloadContent</key><data>"+base64.StdEncoding.EncodeToString([]byte("-----BEGIN PRIVATE KEY-----\nAA==\n-----END PRIVATE KEY-----\n"))+"</data>"), profile.CodeSecret, "PayloadContent[0].PayloadContent", w},
		"a signer whose certificate is expired": {nil, profile.CodeSignerExpired, "", n},
	}
	hit := make(map[string]bool)
	for name, tt := range cases {
		when := now
		if tt.code == profile.CodeSignerExpired {
			tt.raw, when = signed, now.AddDate(200, 0, 0)
		}
		p, err := profile.Parse(tt.raw)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		findings := p.Lint(when)
		hit[tt.code] = true
		i := slices.IndexFunc(findings, func(f profile.Finding) bool { return f.Code == tt.code && f.Path() == tt.path })
		if i < 0 || findings[i].Severity != tt.severity {
			t.Errorf("%s: no %s %s at %q in %+v", name, tt.severity, tt.code, tt.path, findings)
			continue
		}
		if reason := findings[i].Reason; !strings.HasSuffix(reason, ".") || reason != strings.TrimSpace(reason) || strings.Contains(reason, "%!") || strings.Contains(reason, "hunter2") {
			t.Errorf("%s: the reason is no sentence, or tells a secret: %q", name, reason)
		}
	}
	hit[profile.CodeIgnored] = true // of a device: TestCheck
	for name, code := range codes(t) {
		if !hit[code] {
			t.Errorf("no case is about %s (%s)", name, code)
		}
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// letters returns more texts than findings are listed.
func letters(format string) []string {
	var all []string
	for i := range 600 {
		all = append(all, fmt.Sprintf(format, strconv.Itoa(i)))
	}
	return all
}

// codes returns the Code constants of lint.go.
func codes(t *testing.T) map[string]string {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "lint.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	all := make(map[string]string)
	for _, decl := range file.Decls {
		g, ok := decl.(*ast.GenDecl)
		if !ok {
			continue
		}
		for _, spec := range g.Specs {
			v, ok := spec.(*ast.ValueSpec)
			if !ok || !strings.HasPrefix(v.Names[0].Name, "Code") {
				continue
			}
			if lit, ok := v.Values[0].(*ast.BasicLit); ok {
				all[v.Names[0].Name] = must(strconv.Unquote(lit.Value))
			}
		}
	}
	if len(all) < 30 {
		t.Fatalf("%d codes were found", len(all))
	}
	return all
}

func TestWhatIsRightHasNoFindings(t *testing.T) {
	for name, raw := range map[string][]byte{
		"a network":                    complete("", network+"<key>EncryptionType</key><string>WPA3</string><key>AutoJoin"+isOn),
		"defaults in words":            complete("<key>PayloadRemovalDisallowed</key><false/>", network+"<key>ProxyType</key><string>None</string>"),
		"what tools add":               complete("<key>PayloadEnabled"+isOn, network+"<key>PayloadEnabled"+isOn),
		"a variable of ours":           complete("", network+"<key>Password</key><string>$WIFI_PASSWORD</string><key>PayloadCertificateUUID</key><string>${CERT}</string>"),
		"a place for a certificate":    complete("", "com.apple.security.scep <key>PayloadContent</key><dict><key>CertificateTemplate</key><string>wifi</string></dict>", network+eapTLS+"<key>PayloadCertificateUUID</key><string>"+uuid(0)+"</string>"),
		"UUIDs in another case":        complete("", "com.apple.security.scep <key>PayloadContent</key><dict><key>CertificateTemplate</key><string>wifi</string></dict>", network+eapTLS+"<key>PayloadCertificateUUID</key><string>"+strings.ToLower(uuid(0))+"</string>"),
		"a whole number for a real":    complete("<key>DurationUntilRemoval</key><integer>60</integer>", network),
		"a key in place of a required": complete("", network),
	} {
		if findings := lint(t, raw); len(findings) > 0 {
			t.Errorf("%s: %+v", name, findings)
		}
	}
}

func TestOurOwnProfilesHaveNoErrors(t *testing.T) {
	for _, name := range []string{"adde", "byod", "credential", "credential-with-root", "device", "own-ca", "trust", "system-scope-fewer-rights"} {
		for _, f := range lint(t, must(os.ReadFile("testdata/"+name+".mobileconfig"))) {
			if f.Severity == profile.SeverityError || f.Code == profile.CodeUnknownKey {
				t.Errorf("%s: %s: %s", name, f.Path(), f.Reason)
			}
		}
	}
}

func TestTheKeyThatWasMeantIsNamed(t *testing.T) {
	for key, want := range map[string]string{"AutJoin": "AutoJoin", "ssid_str": "SSID_STR", "EncrptionType": "EncryptionType"} {
		findings := lint(t, complete("", "com.apple.wifi.managed <key>DomainName</key><string>x</string><key>"+key+"</key><string>x</string>"))
		if !slices.ContainsFunc(findings, func(f profile.Finding) bool {
			return f.Key == key && strings.HasSuffix(f.Reason, "; "+want+" may be meant.")
		}) {
			t.Errorf("%s: %+v", key, findings)
		}
	}
}

// Whatever Apple documents, written as Apple says, is no error.
func TestWhatTheFactsAllowIsNoError(t *testing.T) {
	t.Parallel()
	for seed := range uint64(6) {
		rng := mathrand.New(mathrand.NewPCG(seed, 7))
		for _, payloadType := range profile.PayloadTypes() {
			for _, facts := range profile.Lookup(payloadType) {
				payload := anything(t, rng, facts.Keys, seed == 0)
				maps.Copy(payload, map[string]any{"PayloadType": payloadType, "PayloadVersion": 1, "PayloadIdentifier": "com.example.it", "PayloadUUID": uuid(0)})
				top := map[string]any{
					"PayloadType": "Configuration", "PayloadVersion": 1, "PayloadIdentifier": "com.example", "PayloadUUID": uuid(-1),
					"PayloadContent": []any{payload, map[string]any{
						"PayloadType": "com.apple.security.scep", "PayloadVersion": 1, "PayloadIdentifier": "com.example.scep", "PayloadUUID": uuid(1),
						"PayloadContent": map[string]any{"URL": "https://scep.example.com", "Keysize": 2048},
					}},
				}
				raw, err := plistxml.Marshal(top)
				if err != nil {
					t.Fatal(err)
				}
				p, err := profile.Parse(raw)
				if err != nil {
					t.Fatal(err)
				}
				for _, f := range p.Lint(now) {
					if f.Severity == profile.SeverityError && f.Code != profile.CodeIncomplete && f.Code != profile.CodeBadCertificate || f.Code == profile.CodeUnknownKey || f.Code == profile.CodeWrongType {
						t.Fatalf("%s (%s), seed %d: %s: %s", payloadType, facts.Title, seed, f.Path(), f.Reason)
					}
				}
				for _, platform := range command.Platforms() {
					if facts.Platforms[platform] == nil || payloadType == "com.apple.MCX" {
						continue
					}
					yes, no := true, false
					user := facts.Platforms[platform].DeviceChannel != nil && !*facts.Platforms[platform].DeviceChannel
					target := command.Target{Platform: platform, Supervised: &yes, ADE: &yes, Approved: &yes, SharedIPad: &no, UserChannel: user}
					if findings, refused := p.Check(target); refused {
						t.Fatalf("%s is refused on %s: %+v", payloadType, platform, findings)
					}
				}
			}
		}
	}
}

// anything returns a dictionary with valid values: all keys, or the required and some more.
func anything(t *testing.T, rng *mathrand.Rand, keys []command.Key, all bool) map[string]any {
	d := make(map[string]any)
	for _, k := range keys {
		if !k.Required && !all && rng.IntN(3) > 0 {
			continue
		}
		switch {
		case k.Name == "ANY":
			d["com.example.any"] = valid(t, rng, k, all)
		default:
			d[k.Name] = valid(t, rng, k, all)
		}
	}
	return d
}

func valid(t *testing.T, rng *mathrand.Rand, k command.Key, all bool) any {
	var choice string
	if v := k.Values(); len(v) > 0 {
		choice = v[rng.IntN(len(v))]
	}
	switch k.Kind {
	case command.String:
		switch {
		case choice != "":
			return choice
		case strings.Contains(k.Format, "{8}-"), strings.Contains(k.Name, "UUID"), k.Name == "TLSTrustedCertificatesItem":
			return uuid(1)
		case strings.HasPrefix(k.Format, "^https"):
			return "https://example.com"
		case strings.Contains(k.Format, "{2}:"):
			return "00:11:22:aa:bb:cc"
		case k.Format != "":
			return "123456"
		}
		return "text"
	case command.Boolean:
		return rng.IntN(2) == 0
	case command.Integer, command.Real:
		n := 7.0
		if choice != "" {
			n = must(strconv.ParseFloat(choice, 64))
		}
		if k.Min != nil {
			n = *k.Min
		} else if k.Max != nil {
			n = *k.Max
		}
		if k.Kind == command.Integer {
			return int64(n)
		}
		return n
	case command.Data:
		return []byte{0x30, 0}
	case command.Date:
		return now.Add(time.Hour)
	case command.Array:
		a := []any{}
		for _, item := range k.Items {
			if item.Recursive {
				return a
			}
			a = append(a, valid(t, rng, item, all))
		}
		if len(a) == 0 {
			a = append(a, map[string]any{})
		}
		return a
	case command.Dictionary:
		return anything(t, rng, k.Keys, all)
	}
	return "anything"
}

// oneMegabyte returns a profile of about 1 MB with settings of many kinds.
func oneMegabyte(t testing.TB) []byte {
	var payloads []string
	for i := 0; ; i++ {
		switch i % 3 {
		case 0:
			payloads = append(payloads, network+fmt.Sprintf(`<key>AutoJoin</key><true/><key>EncryptionType</key><string>WPA2</string><key>Password</key><string>password %d</string><key>HIDDEN_NETWORK</key><false/><key>EAPClientConfiguration</key><dict><key>AcceptEAPTypes</key><array><integer>25</integer><integer>13</integer></array><key>UserName</key><string>user%d</string><key>TLSTrustedServerNames</key><array><string>a.example.com</string><string>b.example.com</string></array></dict>`, i, i))
		case 1:
			payloads = append(payloads, `com.apple.webClip.managed <key>URL</key><string>https://intranet.example.com/start</string><key>Label</key><string>Intranet</string><key>FullScreen</key><true/><key>IsRemovable</key><true/><key>Unknown</key><true/>`)
		default:
			payloads = append(payloads, `com.apple.notificationsettings <key>NotificationSettings</key><array><dict><key>BundleIdentifier</key><string>com.example.app</string><key>AlertType</key><integer>1</integer><key>BadgesEnabled</key><true/><key>SoundsEnabled</key><true/><key>ShowInLockScreen</key><true/></dict></array>`)
		}
		if i%50 == 0 {
			if raw := complete("", payloads...); len(raw) > 1<<20 {
				return raw
			}
		}
	}
}

// The limit is 50 ms.
func BenchmarkLint1MB(b *testing.B) {
	raw := oneMegabyte(b)
	p, err := profile.Parse(raw)
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(raw)))
	for b.Loop() {
		p.Lint(now)
	}
}

// With reading it, the limit is 50 ms too.
func BenchmarkParseAndLint1MB(b *testing.B) {
	raw := oneMegabyte(b)
	b.SetBytes(int64(len(raw)))
	for b.Loop() {
		p, err := profile.Parse(raw)
		if err != nil {
			b.Fatal(err)
		}
		p.Lint(now)
	}
}
