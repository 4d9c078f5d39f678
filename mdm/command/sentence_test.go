package command_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/mdm/command"
)

// testCertificate returns a certificate in DER that signed itself.
func testCertificate(t testing.TB, name string, until time.Time) []byte {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: until.AddDate(-1, 0, 0), NotAfter: until,
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, public, private)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func link(domain string, code int64, us, localized string) command.ChainedError {
	return command.ChainedError{ErrorCode: code, ErrorDomain: domain, USEnglishDescription: us, LocalizedDescription: localized}
}

func TestSentence(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		requestType string
		chain       []command.ChainedError
		want        string
	}{
		"no reason": {"DeviceLock", nil, "The device refused DeviceLock and gave no reason."},
		"rights": {
			"SecurityInfo", []command.ChainedError{link("MCMDMErrorDomain", 12007, "Not authorized", "")},
			"This enrollment's rights do not cover the command (MCMDMErrorDomain 12007). Rights come with the enrollment profile: enroll the device again with the access right that the command needs.",
		},
		"the same code of the new framework": {
			"SecurityInfo", []command.ChainedError{link("MDMErrorDomain", 12067, "", "")},
			"The device is not in Managed Lost Mode (MDMErrorDomain 12067). Turn Managed Lost Mode on first.",
		},
		"a code that names something": {
			"RemoveProfile", []command.ChainedError{link("MCMDMErrorDomain", 12013, "The profile “com.example.x” is not managed by MDM.", "nicht verwaltet")},
			"The profile was not installed by this server, so the server can't touch it: “The profile “com.example.x” is not managed by MDM” (MCMDMErrorDomain 12013). Remove it on the device, or by what installed it.",
		},
		"an error and its cause": {
			"InstallProfile", []command.ChainedError{
				link("MCInstallationErrorDomain", 4001, "", ""), link("MCWiFiErrorDomain", 13002, "", ""),
			},
			"The profile could not be installed: the Wi-Fi network needs a password (MCInstallationErrorDomain 4001; MCWiFiErrorDomain 13002). Add Password.",
		},
		"a known error with an unknown cause": {
			"InstallApplication", []command.ChainedError{link("MCMDMErrorDomain", 12063, "", ""), link("XErrorDomain", 5, "Something broke.", "")},
			"The user declined: something broke (MCMDMErrorDomain 12063; XErrorDomain 5). Tell the user what it is for, then send the command again.",
		},
		"an unknown code": {
			"DeviceLock", []command.ChainedError{link("NewErrorDomain", -7, "It did not work.", "Es ging nicht.")},
			"It did not work (NewErrorDomain -7).",
		},
		"an unknown code in the device's language": {
			"DeviceLock", []command.ChainedError{link("NewErrorDomain", 7, "", "Es ging nicht.")},
			"Es ging nicht (NewErrorDomain 7).",
		},
		"a code without words": {"DeviceLock", []command.ChainedError{link("NewErrorDomain", 7, "", "")}, "The device gave no reason (NewErrorDomain 7)."},
		"a link of nothing":    {"DeviceLock", []command.ChainedError{{}}, "The device gave no reason (no domain 0)."},
		"text of several lines": {
			"DeviceLock", []command.ChainedError{link("New\nDomain", 7, "One.\n\tTwo\u0000.", "")}, "One. Two (New Domain 7).",
		},
		"a chain of the same": {
			"DeviceLock", []command.ChainedError{link("A", 1, "Same.", ""), link("A", 1, "Same", "")}, "Same (A 1; A 1).",
		},
		"a long chain": {
			"DeviceLock", []command.ChainedError{link("A", 1, "Top.", ""), {}, {}, {}, {}, link("A", 2, "bottom", "")},
			"Top: bottom (A 1; no domain 0; no domain 0; no domain 0; 2 more).",
		},
	} {
		t.Run(name, func(t *testing.T) {
			if got := command.Sentence(tt.requestType, tt.chain); got != tt.want {
				t.Errorf("Sentence(%s, %+v) =\n%s\nwant\n%s", tt.requestType, tt.chain, got, tt.want)
			}
		})
	}
}

func TestSentenceOfALink(t *testing.T) {
	t.Parallel()
	if got := link("ASDErrorDomain", 506, "Duplicate request", "").Sentence(); got != "The app is being installed already (ASDErrorDomain 506)." {
		t.Errorf("Sentence = %q", got)
	}
}

func TestALongTextOfADeviceIsCut(t *testing.T) {
	t.Parallel()
	chain := []command.ChainedError{link(strings.Repeat("d", 2000), 1, strings.Repeat("wörter ", 300), "")}
	if got := command.Sentence("DeviceLock", chain); len(got) > 500 || !strings.Contains(got, "…") {
		t.Errorf("Sentence has %d bytes: %s", len(got), got)
	}
}

func TestFormatError(t *testing.T) {
	t.Parallel()
	for requestType, want := range map[string]string{
		"RemoveProfile": "it takes Identifier (required).",
		"SecurityInfo":  "it takes no keys.",
		"MakeCoffee":    "the server does not know MakeCoffee.",
	} {
		if got := command.FormatError(requestType); !strings.Contains(got, "CommandFormatError") || !strings.HasSuffix(got, want) {
			t.Errorf("FormatError(%s) = %q, want its end to be %q", requestType, got, want)
		}
	}
}
