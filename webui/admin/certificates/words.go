package certificates

import (
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/gatehouse-mdm/gatehouse/webui/admin"
	"github.com/gatehouse-mdm/gatehouse/webui/view"
)

// reasons are those of RFC 5280, 5.3.1, in words, the likely ones first.
var reasons = []struct{ name, label, hint string }{
	{"unspecified", "No particular reason", ""},
	{"keyCompromise", "The key may be in other hands", "The device was lost or stolen, or somebody has had access to it."},
	{"superseded", "Another certificate takes its place", ""},
	{"cessationOfOperation", "It is not needed any more", "The device is retired, or the service ended."},
	{"affiliationChanged", "The person’s name or position changed", ""},
	{"privilegeWithdrawn", "The person may not use it any more", ""},
	{"cACompromise", "The authority’s key may be in other hands", ""},
}

// reasonWords says why something was revoked.
func reasonWords(name string) string {
	for _, r := range reasons {
		if r.name == name {
			return r.label + "."
		}
	}
	return admin.Words(name)
}

// doors say how a certificate was asked for.
var doors = map[string]string{
	"scep": "asked for by SCEP", "est": "asked for by EST", "csr": "asked for by a request to the API", "manual": "issued by hand", "proxy": "issued by another authority, through this server",
}

// purposes are extended key usages in words.
var purposes = map[string]string{
	"clientAuth": "Signing in as a client (Wi-Fi, VPN, websites)", "serverAuth": "TLS server", "emailProtection": "Mail (S/MIME)", "codeSigning": "Signing software",
	"ipsecIKE": "IPsec (IKE)", "smartcardLogon": "Smart card login", "pkinitKPClientAuth": "Kerberos login", "eapOverLAN": "802.1X (EAP over LAN)", "OCSPSigning": "Signing OCSP answers",
}

// usages writes extended key usages in words.
func usages(names []string) string {
	words := make([]string, len(names))
	for i, name := range names {
		words[i] = name
		if w, ok := purposes[name]; ok {
			words[i] = w
		}
	}
	return strings.Join(words, ", ")
}

// pairs writes hexadecimal digits as other tools do: 0A:1B:2C. What is behind a dash in a
// serial number stays.
func pairs(digits string) string {
	digits, rest, dash := strings.Cut(digits, "-")
	if len(digits)%2 == 1 {
		digits = "0" + digits
	}
	var out strings.Builder
	for i := 0; i+1 < len(digits); i += 2 {
		if i > 0 {
			out.WriteByte(':')
		}
		out.WriteString(strings.ToUpper(digits[i : i+2]))
	}
	if dash {
		out.WriteString("-" + rest)
	}
	return out.String()
}

// String names the key: "RSA, 2048 bits".
func (k key) String() string {
	if k.Bits == 0 {
		return k.Type
	}
	return fmt.Sprintf("%s, %d bits", k.Type, k.Bits)
}

// refusedTo reports whether the API would not tell who asked.
func refusedTo(err error) bool {
	var p *admin.Problem
	return errors.As(err, &p) && p.Status == http.StatusForbidden
}

// assigned says how it stands with the certificate that a device is to have.
func assigned(state string, stuck bool) view.State {
	if stuck {
		return view.State{Text: "needs a look", Tone: view.Bad}
	}
	switch state {
	case "pending":
		return view.State{Text: "on its way", Tone: view.Waiting}
	case "installed":
		return view.State{Text: "installed", Tone: view.Good}
	case "renewing":
		return view.State{Text: "being renewed", Tone: view.Waiting}
	case "failing":
		return view.State{Text: "failing", Tone: view.Bad}
	case "ended":
		return view.State{Text: "ended", Tone: view.Neutral}
	}
	return view.State{Text: state}
}
