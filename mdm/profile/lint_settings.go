package profile

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"slices"
	"strings"

	"github.com/gatehouse-mdm/gatehouse/storage/guard"
)

// identityTypes are payloads that bring a certificate with its key.
var identityTypes = []string{"com.apple.security.pkcs12", "com.apple.security.scep", "com.apple.security.acme", "com.apple.ADCertificate.managed"}

// certificateTypes are payloads that bring certificates without keys.
var certificateTypes = []string{"com.apple.security.root", "com.apple.security.pkcs1", "com.apple.security.pem", "com.apple.security.wapi-identity"}

// refersToCertificate reports whether a key of that name has the PayloadUUID of a payload
// with a certificate, in the same profile: Apple has no other mark of it.
func refersToCertificate(name string) bool {
	switch {
	case name == "TLSTrustedCertificates", strings.HasSuffix(name, "CertificateAnchorUUID"):
		return true
	case !strings.HasSuffix(name, "UUID") && !strings.HasSuffix(name, "UUIDs"):
		return false
	}
	return strings.Contains(strings.ToLower(name), "cert")
}

// needsIdentity reports whether the key of that name refers to a certificate with a key.
func needsIdentity(payloadType, name string) bool {
	switch name {
	case "IdentityCertificateUUID", "SMIMESigningCertificateUUID", "AuthenticationCertificateUUID":
		return true
	case "PayloadCertificateUUID":
		return payloadType != "com.apple.security.certificatepreference" && payloadType != "com.apple.MCX.FileVault2"
	}
	return false
}

// reference lints that the payload which is referred to is there, and of use.
func (l *linter) reference(at *place, name, uuid string) {
	if uuid == "" || differs(uuid) {
		return
	}
	if l.byUUID == nil {
		l.byUUID = make(map[string]int, len(l.profile.Payloads))
		for i, p := range l.profile.Payloads {
			l.byUUID[strings.ToUpper(p.UUID)] = i
		}
	}
	i, there := l.byUUID[strings.ToUpper(uuid)]
	path := at.String()
	if !there {
		l.add(SeverityError, CodeReference, path, "%s in %s names the payload %s, which is not in the profile.", path, l.name(), clip(uuid))
		return
	}
	named := l.profile.Payloads[i]
	switch identity, certificate := slices.Contains(identityTypes, named.Type), slices.Contains(certificateTypes, named.Type); {
	case !identity && !certificate:
		l.add(SeverityError, CodeReferenceKind, path, "%s in %s names payload %d (%s), which brings no certificate.", path, l.name(), named.Index+1, clip(named.Type))
	case !identity && needsIdentity(l.at.Type, name):
		l.add(SeverityError, CodeReferenceKind, path, "%s in %s needs a certificate with its key, and payload %d (%s) brings one without.", path, l.name(), named.Index+1, named.Type)
	}
}

// settings lints what Apple's tables can't say: settings of one payload that belong together.
func (l *linter) settings() {
	t, d := l.at.Type, l.at.Content
	switch t {
	case "com.apple.security.root", "com.apple.security.pkcs1", "com.apple.security.pem":
		if raw, _ := d["PayloadContent"].([]byte); len(raw) > 0 {
			l.certificates("PayloadContent", raw)
		}
	case "com.apple.security.pkcs12":
		if raw, _ := d["PayloadContent"].([]byte); len(raw) > 0 && !isSigned(raw) {
			l.add(SeverityError, CodeBadCertificate, "PayloadContent", "PayloadContent in %s is no PKCS #12 file.", t)
		}
	case "com.apple.security.scep":
		d, _ := d["PayloadContent"].(map[string]any)
		if _, isPlace := l.at.certificate(); isPlace {
			return
		}
		if size, ok := number(d["Keysize"]); d != nil && (!ok || size < 2048) {
			l.add(SeverityWarning, CodeWeakCertificate, "PayloadContent.Keysize", "The key that a device makes for %s is too short: set Keysize to 2048 or more (without it, devices take 1024).", t)
		}
	case "com.apple.mobiledevice.passwordpolicy":
		l.passcode(d)
	case "com.apple.wifi.managed":
		l.wifi(d)
	case "com.apple.vpn.managed", "com.apple.vpn.managed.applayer":
		l.vpn(d)
	case "com.apple.proxy.http.global":
		l.proxy(d)
	case "com.apple.mdm":
		l.add(SeverityWarning, CodeEnrollment, "", "This is an enrollment profile: a device that installs it is managed by %s.", clip(textAt(d, "ServerURL")))
	case "com.apple.declarations":
		l.add(SeverityWarning, CodeDeclarations, "", "%s brings declarations, which a managed device gets from its server by declarative management instead.", t)
	}
	if strings.HasSuffix(t, "ethernet.managed") {
		l.eap(d)
	}
}

func textAt(d map[string]any, key string) string {
	s, _ := d[key].(string)
	return s
}

func (l *linter) conflict(key, format string, args ...any) {
	l.add(SeverityWarning, CodeConflict, key, format, args...)
}

func (l *linter) incomplete(key, format string, args ...any) {
	l.add(SeverityError, CodeIncomplete, key, format, args...)
}

func (l *linter) passcode(d map[string]any) {
	if required, set := d["forcePIN"].(bool); set && !required {
		for _, key := range []string{"minLength", "minComplexChars", "requireAlphanumeric", "maxPINAgeInDays", "pinHistory"} {
			if n, isNumber := number(d[key]); isNumber && n != 0 || d[key] == true {
				l.conflict(key, "%s is a rule for the passcode, and forcePIN is false: who has no passcode need not set one.", key)
			}
		}
	}
	length, hasLength := number(d["minLength"])
	complexity, _ := number(d["minComplexChars"])
	if hasLength && complexity > length {
		l.conflict("minComplexChars", "minComplexChars asks for %v special characters in a passcode of %v characters.", complexity, length)
	}
}

func (l *linter) wifi(d map[string]any) {
	hotspot := textAt(d, "DomainName") != "" || d["RoamingConsortiumOIs"] != nil || d["NAIRealmNames"] != nil || d["MCCAndMNCs"] != nil
	if textAt(d, "SSID_STR") == "" && !hotspot {
		l.incomplete("SSID_STR", "com.apple.wifi.managed has neither the name of a network (SSID_STR) nor what a Hotspot 2.0 is found by.")
	}
	_, enterprise := d["EAPClientConfiguration"].(map[string]any)
	password := textAt(d, "Password") != ""
	switch encryption := textAt(d, "EncryptionType"); {
	case encryption == "None" && password:
		l.conflict("Password", "The network has a password, and EncryptionType is None: devices join it without encryption.")
	case encryption == "None" && enterprise:
		l.conflict("EAPClientConfiguration", "The network has settings for WPA Enterprise, and EncryptionType is None.")
	case encryption == "WEP":
		l.add(SeverityWarning, CodeConflict, "EncryptionType", "WEP protects nothing: anybody nearby can read along.")
	}
	l.eap(d)
	if textAt(d, "ProxyType") == "Manual" && textAt(d, "ProxyServer") == "" {
		l.incomplete("ProxyServer", "ProxyType of the network is Manual, and no ProxyServer is named.")
	}
	if textAt(d, "ProxyType") != "Manual" && textAt(d, "ProxyServer") != "" {
		l.conflict("ProxyServer", "A ProxyServer is named, and ProxyType is not Manual: devices do not use it.")
	}
	if textAt(d, "ProxyType") != "Auto" && textAt(d, "ProxyPACURL") != "" {
		l.conflict("ProxyPACURL", "A ProxyPACURL is named, and ProxyType is not Auto: devices do not use it.")
	}
}

// Types of EAP (IANA's registry) by which a device shows a certificate.
const eapTLS = 13

// eap lints WPA Enterprise (Apple's page "WiFi.EAPClientConfiguration").
func (l *linter) eap(d map[string]any) {
	eap, ok := d["EAPClientConfiguration"].(map[string]any)
	if !ok {
		return
	}
	accepted, _ := eap["AcceptEAPTypes"].([]any)
	byTLS, tunnelled := false, false
	for _, v := range accepted {
		switch n, _ := number(v); n {
		case eapTLS:
			byTLS = true
		case 21, 25, 43: // TTLS, PEAP, EAP-FAST
			tunnelled = true
		}
	}
	if byTLS && len(accepted) == 1 && textAt(d, "PayloadCertificateUUID") == "" {
		l.incomplete("PayloadCertificateUUID", "The network is joined by EAP-TLS, and PayloadCertificateUUID names no certificate for it.")
	}
	empty := func(key string) bool { a, _ := eap[key].([]any); return len(a) == 0 }
	if (byTLS || tunnelled) && empty("PayloadCertificateAnchorUUID") && empty("TLSTrustedCertificates") && empty("TLSTrustedServerNames") {
		l.add(SeverityWarning, CodeTrustsAnybody, "EAPClientConfiguration", "Neither a certificate nor a name of the network's servers is given: people are asked whether to trust them, and may trust an imitation.")
	}
}

func (l *linter) vpn(d map[string]any) {
	ike, ok := d["IKEv2"].(map[string]any)
	if !ok {
		if textAt(d, "VPNType") == "IKEv2" {
			l.incomplete("IKEv2", "VPNType is IKEv2, and there is no dictionary IKEv2.")
		}
		return
	}
	extended, _ := number(ike["ExtendedAuthEnabled"])
	if b, _ := ike["ExtendedAuthEnabled"].(bool); b {
		extended = 1
	}
	switch textAt(ike, "AuthenticationMethod") {
	case "Certificate":
		if textAt(ike, "PayloadCertificateUUID") == "" && extended == 0 {
			l.incomplete("IKEv2.PayloadCertificateUUID", "AuthenticationMethod is Certificate, and PayloadCertificateUUID names none.")
		}
	case "SharedSecret":
		if _, set := ike["SharedSecret"]; !set {
			l.incomplete("IKEv2.SharedSecret", "AuthenticationMethod is SharedSecret, and there is none.")
		}
	}
}

func (l *linter) proxy(d map[string]any) {
	if textAt(d, "ProxyType") == "Auto" {
		if textAt(d, "ProxyServer") != "" {
			l.conflict("ProxyServer", "A ProxyServer is named, and ProxyType is Auto: devices do not use it.")
		}
		return
	}
	if textAt(d, "ProxyServer") == "" {
		l.incomplete("ProxyServer", "All traffic is to go through a proxy, and no ProxyServer is named.")
	}
}

// certificates lints certificates in DER or PEM.
func (l *linter) certificates(key string, raw []byte) {
	if isSigned(raw) {
		l.certificate(key, raw)
		return
	}
	found := false
	for block, rest := pem.Decode(raw); block != nil; block, rest = pem.Decode(rest) {
		if strings.Contains(block.Type, "PRIVATE KEY") {
			l.add(SeverityWarning, CodeSecret, key, "%s in %s holds a private key, which everybody can read who has the profile.", key, l.at.Type)
		}
		if block.Type == "CERTIFICATE" {
			found = true
			l.certificate(key, block.Bytes)
		}
	}
	if !found {
		l.add(SeverityError, CodeBadCertificate, key, "%s in %s is no certificate in DER or PEM.", key, l.at.Type)
	}
}

func (l *linter) certificate(key string, der []byte) {
	cert, err := guard.ParseCertificate(der)
	switch {
	case errors.Is(err, guard.ErrKey):
		l.add(SeverityWarning, CodeWeakCertificate, key, "The key of the certificate in %s is too weak, or of a kind that devices do not know.", l.at.Type)
		return
	case err != nil:
		l.add(SeverityError, CodeBadCertificate, key, "%s in %s is no certificate that can be read.", key, l.at.Type)
		return
	}
	name := clip(cert.Subject.String())
	switch {
	case cert.NotAfter.Before(l.now):
		l.add(SeverityWarning, CodeCertExpired, key, "The certificate of %s expired on %s.", name, day(cert.NotAfter))
	case cert.NotBefore.After(l.now):
		l.add(SeverityWarning, CodeCertExpired, key, "The certificate of %s is not valid before %s.", name, day(cert.NotBefore))
	}
	own := string(cert.RawIssuer) == string(cert.RawSubject) // nobody looks at the signature of a root
	switch cert.SignatureAlgorithm {
	case x509.MD5WithRSA, x509.SHA1WithRSA, x509.ECDSAWithSHA1, x509.DSAWithSHA1:
		if !own {
			l.add(SeverityWarning, CodeWeakCertificate, key, "The certificate of %s is signed by a method that devices no longer trust (%s).", name, cert.SignatureAlgorithm)
		}
	}
}
