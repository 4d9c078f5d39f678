package apiv1_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/depot"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

// brought is what a device gets by a template: the profile, and with our own authority
// the certificate that it asks for with the challenge in that.
type brought struct {
	top      map[string]any
	payloads map[string]map[string]any // by their types
	scep     map[string]any            // content of the SCEP payload
	cert     *x509.Certificate         // nil: another authority issues it
}

// subjectOf is a certificate's subject in the order in which it is encoded.
func subjectOf(cert *x509.Certificate) (text string) {
	for _, name := range cert.Subject.Names {
		text += fmt.Sprintf("/%s=%v", name.Type, name.Value)
	}
	return text
}

func apples(pairs ...string) (rdns []any) {
	for i := 0; i < len(pairs); i += 2 {
		rdns = append(rdns, []any{[]any{pairs[i], pairs[i+1]}})
	}
	return rdns
}

// TestEveryFieldOfOtherVendors has a row for each field that Jamf's SCEPman guide and
// JumpCloud's policy have, by their names: what is asked for in the template is looked
// for in the profile that the device gets, and in its certificate.
func TestEveryFieldOfOtherVendors(t *testing.T) {
	h := newHouse(t)
	h.ana(t)
	h.device(t, "d1", func(d *mdm.Device) { d.DeviceName = "Ana's Mac" })
	h.device(t, "d1user", func(d *mdm.Device) {
		d.Type, d.ParentID, d.AppleID = mdm.TypeUserChannel, "d1", mdm.AppleID{UDID: "UDID-d1", UserID: "U1"}
		d.UserShortName, d.UserLongName = "ana", "Ana on her Mac"
	})
	err := h.db.Update(context.Background(), func(tx storage.Tx) error {
		d, err := mdm.GetDevice(tx, "d1")
		if err != nil {
			return err
		}
		return mdm.LearnInformation(tx, &d, []byte(`{"QueryResponses":{"DeviceName":"Ana's Mac","ASSET_TAG":"A-17","SITENAME":"Zagreb","SITEID":"3","PHONE":"1234",
			"ROOM":"101","POSITION":"Head","DEPARTMENTNAME":"IT","DEPARTMENTID":"9","BUILDINGNAME":"North","BUILDINGID":"N","MACADDRESS":"00:11:22:33:44:55","EXTENSIONATTRIBUTE_7":"seven"}}`))
	})
	if err != nil {
		t.Fatal(err)
	}
	root := h.depot.Root().Certificate()
	sum, issuer := sha256.Sum256(root.Raw), sha256.Sum256(h.depot.Payload().Certificate().Raw)
	rootPEM := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root.Raw}))
	const (
		id      = "com.example.mdm.gatehouse.certificate.wifi"
		ndes    = "http://ndes.example.com/certsrv/mscep/mscep.dll"
		dotted  = "2.5.4."
		c, o    = dotted + "6", dotted + "10"
		ou, cn  = dotted + "11", dotted + "3"
		testUID = "1.3.6.1.4.1.99999.1"
	)
	external := func(change map[string]any) map[string]any {
		upstream := map[string]any{"url": ndes}
		maps.Copy(upstream, change)
		return map[string]any{"issuer": "external", "upstream": upstream}
	}
	sans := func(kind string, values ...string) map[string]any {
		return map[string]any{"sans": map[string]any{kind: values}}
	}
	for name, tt := range map[string]struct {
		template map[string]any
		channel  mdm.DeviceID   // d1 unless told otherwise
		scep     map[string]any // keys of the payload
		check    func(t *testing.T, b brought)
	}{
		// SCEPman through Jamf.
		"Jamf, root certificate": {
			template: map[string]any{"include_root": true},
			check: func(t *testing.T, b brought) {
				var trusted [][]byte
				for _, p := range b.top["PayloadContent"].([]any) {
					if p := p.(map[string]any); p["PayloadType"] == "com.apple.security.root" {
						trusted = append(trusted, p["PayloadContent"].([]byte))
					}
				}
				if len(trusted) != 2 || !bytes.Equal(trusted[0], root.Raw) || !bytes.Equal(trusted[1], h.depot.Payload().Certificate().Raw) {
					t.Errorf("the profile brings %d certificates, want the root and the issuer", len(trusted))
				}
			},
		},
		"Jamf, level of a Mac's user": {
			channel: "d1user",
			check: func(t *testing.T, b brought) {
				if b.top["PayloadScope"] != "User" {
					t.Errorf("PayloadScope is %v, want User", b.top["PayloadScope"])
				}
			},
		},
		"Jamf, level of a device": {
			check: func(t *testing.T, b brought) {
				if b.top["PayloadScope"] != "System" {
					t.Errorf("PayloadScope is %v, want System", b.top["PayloadScope"])
				}
			},
		},
		"Jamf, external CA, its URL and name": {
			template: external(map[string]any{"name": "Example CA"}),
			scep:     map[string]any{"URL": ndes, "Name": "Example CA", "CAFingerprint": nil},
		},
		"Jamf, external CA, challenge type none": {
			template: external(map[string]any{"challenge_type": "none"}),
			scep:     map[string]any{"URL": ndes, "Challenge": nil},
		},
		"Jamf, external CA, challenge type static": {
			template: external(map[string]any{"challenge_type": "static", "challenge": "what they gave us"}),
			scep:     map[string]any{"Challenge": "what they gave us"},
		},
		"Jamf, external CA, challenge type dynamic": {
			template: external(map[string]any{"challenge_type": "dynamic", "challenge_url": "https://ndes.example.com/certsrv/mscep_admin/", "username": "ana", "password": "hush"}),
			scep:     map[string]any{"Challenge": "fetched from https://ndes.example.com/certsrv/mscep_admin/"},
		},
		"Jamf, external CA, fingerprint": {
			template: external(map[string]any{"fingerprint": strings.ToUpper(hex.EncodeToString(sum[:]))}),
			scep:     map[string]any{"CAFingerprint": sum[:]},
		},
		"Jamf, name": {
			scep: map[string]any{"Name": "wifi", "URL": "https://mdm.example.com/scep/wifi"},
		},
		"Jamf, redistribute profile": {
			template: map[string]any{"renew_before": "14d"},
			check: func(t *testing.T, b brought) {
				a := h.assignmentsOf(t, "device_id=d1&template=wifi")[0]
				if a.RenewAt == nil || !a.RenewAt.Equal(b.cert.NotAfter.Add(-14*24*time.Hour)) || !a.DueAt.Equal(*a.RenewAt) {
					t.Errorf("it is sent again at %v, want 14 days before %v", a.DueAt, b.cert.NotAfter)
				}
			},
		},
		"Jamf, subject": {
			template: map[string]any{"subject": "CN=$JSSID,OU=users-on-computers,CN=$PROFILE_IDENTIFIER"},
			scep:     map[string]any{"Subject": apples("CN", "d1", "OU", "users-on-computers", "CN", id)},
			check: func(t *testing.T, b brought) {
				if got, want := subjectOf(b.cert), "/"+cn+"=d1/"+ou+"=users-on-computers/"+cn+"="+id; got != want {
					t.Errorf("the certificate says %s, want %s", got, want)
				}
			},
		},
		"Jamf, variables of the user": {
			template: map[string]any{"subject": "CN=$USERNAME,OU=$FULLNAME,OU=$REALNAME,OU=$EMAIL,OU=$UPN"},
			scep:     map[string]any{"Subject": apples("CN", "ana", "OU", "Ana Bee", "OU", "Ana Bee", "OU", "ana@example.com", "OU", "ana@example.com")},
		},
		"Jamf, variables of the device": {
			template: map[string]any{"subject": "CN=$DEVICENAME,OU=$SERIALNUMBER,OU=$UDID,OU=$MACADDRESS,OU=$ASSET_TAG"},
			scep:     map[string]any{"Subject": apples("CN", "Ana's Mac", "OU", "C02d1", "OU", "UDID-d1", "OU", "00:11:22:33:44:55", "OU", "A-17")},
		},
		"Jamf, variables of the place": {
			template: map[string]any{"subject": "CN=$SITENAME,OU=$SITEID,OU=$PHONE,OU=$ROOM,OU=$POSITION,OU=$DEPARTMENTNAME,OU=$DEPARTMENTID,OU=$BUILDINGNAME,OU=$BUILDINGID,OU=$EXTENSIONATTRIBUTE_7"},
			scep: map[string]any{"Subject": apples("CN", "Zagreb", "OU", "3", "OU", "1234", "OU", "101", "OU", "Head", "OU", "IT", "OU", "9", "OU", "North",
				"OU", "N", "OU", "seven")},
		},
		"Jamf, SAN of type RFC 822 name": {
			template: sans("rfc822Name", "$EMAIL"),
			scep:     map[string]any{"SubjectAltName": map[string]any{"rfc822Name": "ana@example.com"}},
			check: func(t *testing.T, b brought) {
				if got := b.cert.EmailAddresses; !slices.Equal(got, []string{"ana@example.com"}) {
					t.Errorf("the certificate says %v", got)
				}
			},
		},
		"SCEPman, validity period": {
			template: map[string]any{"validity": "730d"},
			check: func(t *testing.T, b brought) {
				if got, want := b.cert.NotAfter, h.now().Add(730*24*time.Hour); !got.Equal(want) {
					t.Errorf("the certificate ends %v, want %v", got, want)
				}
			},
		},
		"SCEPman, extended key usage of its own accord": {
			check: func(t *testing.T, b brought) {
				if got := b.cert.ExtKeyUsage; !slices.Equal(got, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}) || b.cert.IsCA {
					t.Errorf("the certificate is good for %v, want clients alone", got)
				}
			},
		},
		"SCEPman, other extended key usages": {
			template: map[string]any{"ext_key_usage": []string{"clientAuth", "emailProtection", testUID}},
			check: func(t *testing.T, b brought) {
				if got := b.cert.ExtKeyUsage; !slices.Equal(got, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageEmailProtection}) || len(b.cert.UnknownExtKeyUsage) != 1 || b.cert.UnknownExtKeyUsage[0].String() != testUID {
					t.Errorf("the certificate is good for %v and %v", got, b.cert.UnknownExtKeyUsage)
				}
			},
		},

		// JumpCloud's policy.
		"JumpCloud, policy name and notes": {
			template: map[string]any{"notes": "tested in Zagreb"},
			check: func(t *testing.T, b brought) {
				if b.top["PayloadDisplayName"] != "wifi" || b.top["PayloadIdentifier"] != id {
					t.Errorf("the profile is %v, %v", b.top["PayloadDisplayName"], b.top["PayloadIdentifier"])
				}
				var got struct {
					Notes string
				}
				h.do(t, exchange{method: "GET", path: templatesPath + "/wifi"}).want(t, 200, &got)
				if got.Notes != "tested in Zagreb" {
					t.Errorf("the notes are %q", got.Notes)
				}
				h.do(t, exchange{method: "POST", path: templatesPath, body: wifi(nil)}).wantProblem(t, 409, "template_exists")
			},
		},
		"JumpCloud, fingerprint in base64":       {template: external(map[string]any{"fingerprint": base64.StdEncoding.EncodeToString(sum[:])}), scep: map[string]any{"CAFingerprint": sum[:]}},
		"JumpCloud, fingerprint with delimiters": {template: external(map[string]any{"fingerprint": colons(sum[:])}), scep: map[string]any{"CAFingerprint": sum[:]}},
		"JumpCloud, fingerprint of SHA-1":        {template: external(map[string]any{"fingerprint": strings.Repeat("ab ", 20)}), scep: map[string]any{"CAFingerprint": bytes.Repeat([]byte{0xab}, 20)}},
		"JumpCloud, fingerprint of a PEM":        {template: external(map[string]any{"fingerprint": rootPEM}), scep: map[string]any{"CAFingerprint": sum[:]}},
		"JumpCloud, fingerprint of our own":      {scep: map[string]any{"CAFingerprint": issuer[:]}},
		"JumpCloud, challenge": {
			check: func(t *testing.T, b brought) {
				if secret, _ := b.scep["Challenge"].(string); len(secret) < 20 {
					t.Errorf("the challenge is %q, want one that can't be guessed", secret)
				}
			},
		},
		"JumpCloud, static challenge": {
			template: map[string]any{"subject": "/CN=$EMAIL", "challenge_type": "static", "challenge": "what all others show"},
			check: func(t *testing.T, b brought) {
				if secret := b.scep["Challenge"]; secret == "what all others show" || secret == "" {
					t.Errorf("a device of ours is told the challenge %v, which is for others", secret)
				}
				if cert := h.scep(t, "wifi", "what all others show"); cert.Subject.CommonName != "Mallory" {
					t.Errorf("whoever knows the static challenge got %s", cert.Subject)
				}
			},
		},
		"JumpCloud, key size of its own accord": {scep: map[string]any{"Keysize": 2048, "Key Type": "RSA"}},
		"JumpCloud, key size of 4096":           {template: map[string]any{"key_size": 4096}, scep: map[string]any{"Keysize": 4096}},
		"JumpCloud, key size of 1024": {
			template: func() map[string]any {
				m := external(nil)
				m["key_size"] = 1024
				return m
			}(),
			scep: map[string]any{"Keysize": 1024},
			check: func(t *testing.T, _ brought) {
				var got struct {
					Warnings []struct{ Field string }
				}
				h.do(t, exchange{method: "GET", path: templatesPath + "/wifi"}).want(t, 200, &got)
				if len(got.Warnings) == 0 || got.Warnings[0].Field != "key_size" {
					t.Errorf("the warnings are %v, want one of the size", got.Warnings)
				}
			},
		},
		"JumpCloud, subject": {
			template: map[string]any{"subject": "/C=US/O=ABCEnterprise/CN=foo/"},
			scep:     map[string]any{"Subject": apples("C", "US", "O", "ABCEnterprise", "CN", "foo")},
			check: func(t *testing.T, b brought) {
				if got, want := subjectOf(b.cert), "/"+c+"=US/"+o+"=ABCEnterprise/"+cn+"=foo"; got != want {
					t.Errorf("the certificate says %s, want %s", got, want)
				}
			},
		},
		"JumpCloud, subject with OIDs": {
			template: map[string]any{"subject": "/2.5.4.10=Example/UID=$USERNAME/1.2.840.113549.1.9.1=$EMAIL/CN=$EMAIL"},
			scep:     map[string]any{"Subject": apples("O", "Example", "0.9.2342.19200300.100.1.1", "ana", "1.2.840.113549.1.9.1", "ana@example.com", "CN", "ana@example.com")},
		},
		"JumpCloud, retries":                         {template: map[string]any{"retries": 5}, scep: map[string]any{"Retries": 5}},
		"JumpCloud, retries of their own accord":     {scep: map[string]any{"Retries": 3}},
		"JumpCloud, retry delay":                     {template: map[string]any{"retry_delay": 60}, scep: map[string]any{"RetryDelay": 60}},
		"JumpCloud, retry delay of its own accord":   {scep: map[string]any{"RetryDelay": 10}},
		"JumpCloud, extractable key":                 {template: map[string]any{"key_extractable": true}, scep: map[string]any{"KeyIsExtractable": true}},
		"JumpCloud, extractable key, advised":        {scep: map[string]any{"KeyIsExtractable": false}},
		"Apple, all apps' access":                    {template: map[string]any{"allow_all_apps_access": true}, scep: map[string]any{"AllowAllAppsAccess": true}},
		"Apple, all apps' access of its own accord":  {scep: map[string]any{"AllowAllAppsAccess": false}},
		"JumpCloud, URL":                             {scep: map[string]any{"URL": "https://mdm.example.com/scep/wifi"}},
		"JumpCloud, URL of another server":           {template: external(map[string]any{"url": "http://scep-server/cgi-bin/pkiclient.exe"}), scep: map[string]any{"URL": "http://scep-server/cgi-bin/pkiclient.exe"}},
		"JumpCloud, key usage of its own accord":     {scep: map[string]any{"Key Usage": 5}, check: usage(x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment)},
		"JumpCloud, key usage for signing":           {template: map[string]any{"key_usage": []string{"digitalSignature"}}, scep: map[string]any{"Key Usage": 1}, check: usage(x509.KeyUsageDigitalSignature)},
		"JumpCloud, key usage for encryption":        {template: map[string]any{"key_usage": []string{"keyEncipherment"}}, scep: map[string]any{"Key Usage": 4}, check: usage(x509.KeyUsageKeyEncipherment)},
		"JumpCloud, include root certificate, never": {check: roots(0)},
		"JumpCloud, include root certificate, uploaded": {
			template: func() map[string]any {
				m := external(nil)
				m["include_root"], m["root_certificates"] = true, []string{rootPEM}
				return m
			}(),
			check: func(t *testing.T, b brought) {
				roots(1)(t, b)
				if p := b.payloads["com.apple.security.root"]; !bytes.Equal(p["PayloadContent"].([]byte), root.Raw) {
					t.Error("it is another one")
				}
			},
		},
		"JumpCloud, SAN of type DNS": {
			template: sans("dNSName", "$SERIALNUMBER.example.com", "wifi.example.com"),
			scep:     map[string]any{"SubjectAltName": map[string]any{"dNSName": []any{"C02d1.example.com", "wifi.example.com"}}},
			check:    names("C02d1.example.com", "wifi.example.com"),
		},
		"JumpCloud, SAN of type principal": {
			template: map[string]any{"sans": map[string]any{"ntPrincipalName": "$UPN"}},
			scep:     map[string]any{"SubjectAltName": map[string]any{"ntPrincipalName": "ana@example.com"}},
			check:    names("upn:ana@example.com"),
		},
		"JumpCloud, SAN of type RFC 822": {
			template: sans("rfc822Name", "$EMAIL", "wifi@example.com"),
			scep:     map[string]any{"SubjectAltName": map[string]any{"rfc822Name": []any{"ana@example.com", "wifi@example.com"}}},
			check:    names("ana@example.com", "wifi@example.com"),
		},
		"JumpCloud, SAN of type URI": {
			template: sans("uniformResourceIdentifier", "mdm-device://$DEVICE_ID"),
			scep:     map[string]any{"SubjectAltName": map[string]any{"uniformResourceIdentifier": "mdm-device://d1"}},
			check:    names("mdm-device://d1"),
		},
		"JumpCloud, SANs of all types": {
			template: map[string]any{"sans": map[string]any{
				"rfc822Name": "$EMAIL", "dNSName": "d1.example.com", "uniformResourceIdentifier": "https://example.com/$USERNAME", "ntPrincipalName": "$UPN",
			}},
			scep: map[string]any{"SubjectAltName": map[string]any{
				"rfc822Name": "ana@example.com", "dNSName": "d1.example.com", "uniformResourceIdentifier": "https://example.com/ana", "ntPrincipalName": "ana@example.com",
			}},
			check: names("ana@example.com", "d1.example.com", "https://example.com/ana", "upn:ana@example.com"),
		},
	} {
		t.Run(name, func(t *testing.T) {
			if tt.channel == "" {
				tt.channel = "d1"
			}
			h.template(t, tt.template)
			defer func() {
				h.do(t, exchange{method: "DELETE", path: templatesPath + "/wifi?force=true"}).want(t, 204, nil)
			}()
			h.sendTemplate(t, "wifi", string(tt.channel)).want(t, 202, nil)
			var b brought
			var uuid string
			uuid, b.top, b.payloads = h.installProfile(t, tt.channel)
			b.scep = b.payloads["com.apple.security.scep"]["PayloadContent"].(map[string]any)
			for key, want := range tt.scep {
				if got := b.scep[key]; !same(got, want) {
					t.Errorf("%s is %v, want %v", key, got, want)
				}
			}
			if tt.template["issuer"] == nil {
				b.cert = h.scep(t, "wifi", b.scep["Challenge"].(string))
			}
			h.report(t, tt.channel, mdm.Report{CommandUUID: uuid, State: mdm.Acknowledged})
			if tt.check != nil {
				tt.check(t, b)
			}
		})
	}
	for name, tt := range map[string]struct {
		change map[string]any
		field  string
	}{
		"JumpCloud, include root certificate: no private key": {map[string]any{"include_root": true, "root_certificates": []string{"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"}}, "root_certificates[0]"},
		"JumpCloud, URL without a query":                      {external(map[string]any{"url": "https://scep.example.com/?x=1"}), "upstream.url"},
		"Jamf, no challenge at all":                           {map[string]any{"challenge_type": "none"}, "challenge_type"},
	} {
		t.Run(name, func(t *testing.T) {
			h.do(t, exchange{method: "POST", path: templatesPath, body: wifi(tt.change), wild: true}).wantField(t, tt.field)
		})
	}
}

// same compares what a property list and a table say: integers of any type are numbers.
func same(got, want any) bool {
	if n, ok := want.(int); ok {
		return fmt.Sprint(got) == fmt.Sprint(n)
	}
	return reflect.DeepEqual(got, want)
}

func usage(want x509.KeyUsage) func(*testing.T, brought) {
	return func(t *testing.T, b brought) {
		t.Helper()
		if b.cert.KeyUsage != want {
			t.Errorf("the certificate's key usage is %b, want %b", b.cert.KeyUsage, want)
		}
	}
}

func names(want ...string) func(*testing.T, brought) {
	return func(t *testing.T, b brought) {
		t.Helper()
		if got := depot.AlternativeNames(b.cert); !slices.Equal(got, want) {
			t.Errorf("the certificate's alternative names are %v, want %v", got, want)
		}
	}
}

func roots(want int) func(*testing.T, brought) {
	return func(t *testing.T, b brought) {
		t.Helper()
		if got := len(b.top["PayloadContent"].([]any)) - 1; got != want {
			t.Errorf("the profile brings %d root certificates, want %d", got, want)
		}
	}
}
