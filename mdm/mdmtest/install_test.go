package mdmtest

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log"
	"maps"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"
)

// configuration is an ordinary profile around payloads.
func (s *server) configuration(payloads ...Dict) Dict {
	content := []any{}
	for _, p := range payloads {
		content = append(content, p)
	}
	return Dict{
		"PayloadType": "Configuration", "PayloadVersion": 1, "PayloadIdentifier": "com.example.wifi", "PayloadUUID": s.uuid(),
		"PayloadDisplayName": "Wi-Fi", "PayloadContent": content,
	}
}

func (s *server) uuid() string {
	s.t.Helper()
	id, err := newUUID(rand.Reader)
	if err != nil {
		s.t.Fatal(err)
	}
	return id
}

// wifiPayload asks for a certificate by SCEP, with all that can be asked for.
func (s *server) wifiPayload(identifier string) Dict {
	sum := sha256.Sum256(s.ca.Raw)
	return Dict{
		"PayloadType": "com.apple.security.scep", "PayloadVersion": 1, "PayloadIdentifier": identifier, "PayloadUUID": s.uuid(),
		"PayloadContent": Dict{
			"URL": s.http.URL + "/scep", "Name": "wifi", "Challenge": "secret", "Keysize": 2048, "Key Type": "RSA", "Key Usage": 5,
			"CAFingerprint": sum[:], "KeyIsExtractable": false,
			"Subject": []any{
				[]any{[]any{"C", "US"}}, []any{[]any{"O", "Example"}}, []any{[]any{"OU", "a"}}, []any{[]any{"OU", "b"}},
				[]any{[]any{"CN", "Ana"}}, []any{[]any{"1.2.840.113549.1.9.1", "ana@example.com"}},
			},
			"SubjectAltName": Dict{
				"rfc822Name": []string{"ana@example.com", "a@example.com"}, "dNSName": "ana.example.com",
				"uniformResourceIdentifier": []string{"urn:device:1"}, "ntPrincipalName": "ana@corp.example.com",
			},
		},
	}
}

func (s *server) rootPayload() Dict {
	return Dict{"PayloadType": "com.apple.security.root", "PayloadVersion": 1, "PayloadIdentifier": "com.example.wifi.root", "PayloadUUID": s.uuid(),
		"PayloadContent": s.ca.Raw}
}

// install sends a profile and returns the result.
func (s *server) install(t *testing.T, c *Channel, profile Dict) Dict {
	t.Helper()
	uuid := s.uuid()
	s.queue(uuid, "InstallProfile", Dict{"Payload": s.signed(profile)})
	return s.answer(t, c, uuid)
}

// ask queues a command and returns the result.
func (s *server) ask(t *testing.T, c *Channel, requestType string, params Dict) Dict {
	t.Helper()
	uuid := s.uuid()
	s.queue(uuid, requestType, params)
	return s.answer(t, c, uuid)
}

func (s *server) answer(t *testing.T, c *Channel, uuid string) Dict {
	t.Helper()
	if c.User() != nil {
		s.mu.Lock()
		s.commands[len(s.commands)-1]["user"] = true
		s.mu.Unlock()
	}
	if _, err := c.Poll(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s.result(uuid)
}

func wantStatus(t *testing.T, result Dict, want string) {
	t.Helper()
	if result["Status"] != want {
		t.Fatalf("the result is %v, want %s", result, want)
	}
}

// identifiers are those of the profiles in a ProfileList.
func identifiers(list Dict) []string {
	var ids []string
	for _, p := range list["ProfileList"].([]any) {
		ids = append(ids, p.(Dict)["PayloadIdentifier"].(string))
	}
	return ids
}

// inKeychain reports whether a CertificateList has cert, as an identity or not.
func inKeychain(list Dict, cert *x509.Certificate, identity bool) bool {
	return slices.ContainsFunc(list["CertificateList"].([]any), func(v any) bool {
		d := v.(Dict)
		return bytes.Equal(d["Data"].([]byte), cert.Raw) && d["IsIdentity"] == identity
	})
}

func TestAProfileBringsACertificate(t *testing.T) {
	for name, tt := range map[string]struct {
		options Options
		user    bool
		byod    bool
	}{
		"to an iPhone":                            {Options{}, false, false},
		"to an iPhone in User Enrollment":         {Options{UserEnrollment: true}, false, true},
		"to a Mac":                                {Options{Model: Mac}, false, false},
		"to the user of a Mac":                    {Options{Model: Mac}, true, false},
		"to the user of a Mac in User Enrollment": {Options{Model: Mac, UserEnrollment: true}, true, true},
	} {
		t.Run(name, func(t *testing.T) {
			s := newServer(t)
			if tt.byod {
				s.profile = byod(s.profile)
			}
			d := s.enrolled(tt.options)
			c, other := d.Channel(), d.User()
			if tt.user {
				c, other = d.User(), d.Channel()
			}
			s.requests, s.names = nil, nil
			wantStatus(t, s.install(t, c, s.configuration(s.wifiPayload("wifi.1"), s.rootPayload())), StatusAcknowledged)
			if want := []string{"GET GetCACert", "GET GetCACaps", "POST PKIOperation"}; !slices.Equal(s.takeEvents()[1:4], want) {
				t.Errorf("the device did not do what SCEP asks for, %q", want)
			}
			if !slices.Equal(s.names, []string{"wifi", "wifi"}) {
				t.Errorf("message= was %q, want the payload's Name in both", s.names)
			}
			credential := c.Credential("wifi.1")
			if credential == nil {
				t.Fatal("there is no credential")
			}
			if public, ok := credential.Certificate.PublicKey.(*rsa.PublicKey); !ok || !public.Equal(credential.Key.Public()) {
				t.Error("the certificate is for another key")
			}
			if len(credential.Chain) != 1 || !credential.Chain[0].Equal(s.ca) || credential.Extractable || credential.AllAppsAccess {
				t.Errorf("credential = %+v, want the root as its chain and a key that stays", credential)
			}
			if other != nil && other.Credential("wifi.1") != nil {
				t.Error("the other channel has it too")
			}
			if got := identifiers(s.ask(t, c, "ProfileList", nil)); !slices.Contains(got, "com.example.wifi") {
				t.Errorf("ProfileList = %q", got)
			}
			list := s.ask(t, c, "CertificateList", nil)
			if !inKeychain(list, credential.Certificate, true) || !inKeychain(list, s.ca, false) {
				t.Errorf("CertificateList lacks the certificate or the root: %v", list)
			}
			if other != nil && inKeychain(s.ask(t, other, "CertificateList", nil), credential.Certificate, true) {
				t.Error("the other channel lists it")
			}
			wantStatus(t, s.ask(t, c, "RemoveProfile", Dict{"Identifier": "com.example.wifi"}), StatusAcknowledged)
			if c.Credential("wifi.1") != nil || inKeychain(s.ask(t, c, "CertificateList", nil), credential.Certificate, true) {
				t.Error("the credential outlives its profile")
			}
		})
	}
}

func TestTheRequestSaysWhatThePayloadAsksFor(t *testing.T) {
	s := newServer(t)
	d := s.enrolled(Options{})
	for name, tt := range map[string]struct {
		usage any
		want  string
	}{
		"signing":    {1, "Digital Signature\n"},
		"encryption": {4, "Key Encipherment\n"},
		"both":       {5, "Digital Signature, Key Encipherment\n"},
		"not said":   {nil, "Digital Signature\n"},
	} {
		t.Run(name, func(t *testing.T) {
			payload := s.wifiPayload("wifi.1")
			settings := payload["PayloadContent"].(Dict)
			if delete(settings, "Key Usage"); tt.usage != nil {
				settings["Key Usage"] = tt.usage
			}
			wantStatus(t, s.install(t, d.Channel(), s.configuration(payload)), StatusAcknowledged)
			out := opensslOutput(t, "req", "-noout", "-text", "-verify", "-nameopt", "RFC2253", "-inform", "DER",
				"-in", writeFile(t, "csr", s.requests[len(s.requests)-1].csr.Raw))
			for _, want := range []string{
				"Subject: emailAddress=ana@example.com,CN=Ana,OU=b,OU=a,O=Example,C=US\n", // RFC 2253 turns the order round
				"email:ana@example.com, email:a@example.com, DNS:ana.example.com, URI:urn:device:1, othername: UPN::ana@corp.example.com\n",
				"Public-Key: (2048 bit)", "challengePassword        :secret", tt.want,
			} {
				if !strings.Contains(out, want) {
					t.Errorf("openssl does not see %q in\n%s", want, out)
				}
			}
		})
	}
}

func TestEachPayloadHasAKeyOfItsOwn(t *testing.T) {
	s := newServer(t)
	d := s.enrolled(Options{})
	wantStatus(t, s.install(t, d.Channel(), s.configuration(s.wifiPayload("a"), s.wifiPayload("b"))), StatusAcknowledged)
	a, b := d.Credential("a"), d.Credential("b")
	if a == nil || b == nil || a.Key.Public().(*rsa.PublicKey).Equal(b.Key.Public()) {
		t.Fatalf("credentials = %+v, %+v, want two keys", a, b)
	}
	if len(a.Chain) != 1 {
		t.Errorf("the chain has %d certificates, want the root that the enrollment profile brought", len(a.Chain))
	}
	if err := d.Remove(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(d.Channel().Credentials()) != 0 {
		t.Error("credentials outlive the enrollment that brought them")
	}
}

func TestReplacingAProfile(t *testing.T) {
	requests := []string{"GET GetCACert", "GET GetCACaps", "POST PKIOperation"}
	for name, tt := range map[string]struct {
		change func(s *server, payload Dict)
		status string
		events []string // between Idle and the result
		renews bool
	}{
		"with the same payload keeps the certificate": {func(*server, Dict) {}, StatusAcknowledged, nil, false},
		"with a new PayloadUUID makes a new one": {
			func(s *server, p Dict) { p["PayloadUUID"] = s.uuid() }, StatusAcknowledged, requests, true},
		"in vain keeps the old one": {func(s *server, p Dict) {
			p["PayloadUUID"] = s.uuid()
			s.rep = func(r *certRep) { r.status, r.failInfo = "2", "2" }
		}, StatusError, requests, false},
	} {
		t.Run(name, func(t *testing.T) {
			s := newServer(t)
			d := s.enrolled(Options{})
			payload := s.wifiPayload("wifi.1")
			wantStatus(t, s.install(t, d.Channel(), s.configuration(payload)), StatusAcknowledged)
			before := d.Credential("wifi.1")
			s.takeEvents()
			tt.change(s, payload)
			wantStatus(t, s.install(t, d.Channel(), s.configuration(payload)), tt.status)
			if events := s.takeEvents(); !slices.Equal(events[1:len(events)-1], tt.events) {
				t.Errorf("the server saw %q, want %q between Idle and the result", events, tt.events)
			}
			after := d.Credential("wifi.1")
			if after == nil {
				t.Fatal("there is no credential any more")
			}
			if renewed := !after.Certificate.Equal(before.Certificate); renewed != tt.renews {
				t.Errorf("the certificate is new: %t, want %t", renewed, tt.renews)
			}
			if sameKey := after.Key.Public().(*rsa.PublicKey).Equal(before.Key.Public()); sameKey == tt.renews {
				t.Errorf("the key is the same: %t, want %t", sameKey, !tt.renews)
			}
			if got := len(d.Channel().Credentials()); got != 1 {
				t.Errorf("%d credentials, want one", got)
			}
		})
	}
	t.Run("takes away what the new one lacks", func(t *testing.T) {
		s := newServer(t)
		d := s.enrolled(Options{})
		a, b := s.wifiPayload("a"), s.wifiPayload("b")
		wantStatus(t, s.install(t, d.Channel(), s.configuration(a, b)), StatusAcknowledged)
		wantStatus(t, s.install(t, d.Channel(), s.configuration(b)), StatusAcknowledged)
		if d.Credential("a") != nil || d.Credential("b") == nil {
			t.Error("the credentials are not those of the new profile")
		}
	})
}

func TestAProfileThatFailsLeavesNothing(t *testing.T) {
	refused := func(s *server, _ Dict) { s.rep = func(r *certRep) { r.status, r.failInfo = "2", "2" } }
	set := func(key string, v any) func(*server, Dict) {
		return func(_ *server, profile Dict) {
			payload(profile, "com.apple.security.scep")["PayloadContent"].(Dict)[key] = v
		}
	}
	add := func(payload Dict) func(*server, Dict) {
		return func(s *server, profile Dict) {
			payload = maps.Clone(payload)
			payload["PayloadVersion"], payload["PayloadIdentifier"], payload["PayloadUUID"] = 1, "more", s.uuid()
			profile["PayloadContent"] = append(profile["PayloadContent"].([]any), payload)
		}
	}
	for name, tt := range map[string]struct {
		byod   bool
		change func(s *server, profile Dict)
		want   []string // parts of the ErrorChain's texts, in their order
	}{
		"because SCEP refuses":                {false, refused, []string{"invalid response", "failInfo 2"}},
		"because the answer is for another":   {false, func(s *server, _ Dict) { s.rep = func(r *certRep) { r.issued = s.ca } }, []string{"invalid response", "mismatching"}},
		"because it is pending for ever":      {false, func(s *server, p Dict) { set("Retries", 1)(s, p); s.rep = func(r *certRep) { r.status = "3" } }, []string{"invalid response", "pending"}},
		"because of a wrong fingerprint":      {false, set("CAFingerprint", make([]byte, 32)), []string{"not supported", "CAFingerprint"}},
		"because GetCACert is no certificate": {false, func(s *server, _ Dict) { s.caType = "text/html" }, []string{"not supported", "GetCACert"}},
		"because the server has no SHA":       {false, func(s *server, _ Dict) { s.caps = "AES\nPOSTPKIOperation" }, []string{"not supported", "required capability"}},
		"because of an odd key":               {false, set("Key Type", "EC"), []string{"invalid", "Key Type"}},
		"because of Apple's wrong spelling":   {false, set("KeyUsage", 5), []string{"invalid", "KeyUsage"}},
		"because of a broken certificate":     {false, add(Dict{"PayloadType": "com.apple.security.pkcs1", "PayloadContent": []byte("x")}), []string{"invalid", "pkcs1"}},
		"because of a broken PKCS #12":        {false, add(Dict{"PayloadType": "com.apple.security.pkcs12", "PayloadContent": []byte("x")}), []string{"invalid", "PKCS #12"}},
		"because it is forbidden in BYOD":     {true, add(Dict{"PayloadType": "com.apple.dock"}), []string{"invalid", "forbidden"}},
		"because it can't be removed in BYOD": {true, func(_ *server, p Dict) { p["PayloadRemovalDisallowed"] = true }, []string{"invalid", "PayloadRemovalDisallowed"}},
		"because it is for a Mac":             {false, func(_ *server, p Dict) { p["TargetDeviceType"] = 5 }, []string{"invalid", "TargetDeviceType"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := newServer(t)
			if tt.byod {
				s.profile = byod(s.profile)
			}
			d := s.enrolled(Options{UserEnrollment: tt.byod})
			root := s.rootPayload()
			stranger := certificateFor(t, rsaKey(t), "another root", nil, nil)
			root["PayloadContent"] = stranger.Raw
			profile := s.configuration(root, s.wifiPayload("wifi.1"))
			tt.change(s, profile)
			result := s.install(t, d.Channel(), profile)
			wantStatus(t, result, StatusError)
			chain := result["ErrorChain"].([]any)
			if len(chain) != len(tt.want) {
				t.Fatalf("ErrorChain = %v, want %d entries", chain, len(tt.want))
			}
			for i, want := range tt.want {
				entry := chain[i].(Dict)
				if text := entry["USEnglishDescription"].(string); !strings.Contains(text, want) || entry["ErrorCode"] == int64(0) || entry["ErrorDomain"] == "" {
					t.Errorf("ErrorChain[%d] = %v, want a text with %q", i, entry, want)
				}
			}
			s.rep = nil
			if len(d.Channel().Credentials()) != 0 || len(identifiers(s.ask(t, d.Channel(), "ProfileList", nil))) != 1 ||
				inKeychain(s.ask(t, d.Channel(), "CertificateList", nil), stranger, false) {
				t.Error("something of the profile stayed")
			}
		})
	}
	t.Run("although its first certificate was issued", func(t *testing.T) {
		s := newServer(t)
		d := s.enrolled(Options{})
		n := 0
		s.rep = func(r *certRep) {
			if n++; n == 2 {
				r.status, r.failInfo = "2", "2"
			}
		}
		wantStatus(t, s.install(t, d.Channel(), s.configuration(s.wifiPayload("a"), s.wifiPayload("b"))), StatusError)
		if n != 2 || len(d.Channel().Credentials()) != 0 {
			t.Errorf("after %d requests there are %d credentials", n, len(d.Channel().Credentials()))
		}
	})
}

func TestAMacSkipsWhatAUserEnrollmentForbids(t *testing.T) {
	s := newServer(t)
	s.profile = byod(s.profile)
	d := s.enrolled(Options{Model: Mac, UserEnrollment: true})
	profile := s.configuration(s.wifiPayload("wifi.1"), Dict{
		"PayloadType": "com.apple.dock", "PayloadVersion": 1, "PayloadIdentifier": "dock", "PayloadUUID": s.uuid()})
	wantStatus(t, s.install(t, d.Channel(), profile), StatusAcknowledged)
	if d.Credential("wifi.1") == nil {
		t.Error("what is allowed was skipped too")
	}
	for _, v := range s.ask(t, d.Channel(), "ProfileList", nil)["ProfileList"].([]any) {
		p := v.(Dict)
		if content := p["PayloadContent"].([]any); p["PayloadIdentifier"] == "com.example.wifi" && len(content) != 1 {
			t.Errorf("ProfileList has %v, want the payload that is allowed alone", content)
		}
	}
}

func TestAProfileForTheSystemIsNotForAUser(t *testing.T) {
	s := newServer(t)
	d := s.enrolled(Options{Model: Mac})
	profile := s.configuration(s.wifiPayload("wifi.1"))
	for scope, want := range map[string]string{"System": StatusError, "User": StatusAcknowledged} {
		profile["PayloadScope"] = scope
		if got := s.install(t, d.User(), profile)["Status"]; got != want {
			t.Errorf("scope %s: %v, want %s", scope, got, want)
		}
	}
}

// A root in the profile counts for the SCEP request of the same profile, because
// certificates come first.
func TestARootCountsForThePayloadBesideIt(t *testing.T) {
	s := newServer(t)
	d := s.enrolled(Options{})
	key := rsaKey(t)
	raw, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "second"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}, &x509.Certificate{Subject: pkix.Name{CommonName: "second"}}, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	second := httptest.NewUnstartedServer(http.HandlerFunc(s.serveSCEP))
	second.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{raw}, PrivateKey: key}}}
	second.Config.ErrorLog = log.New(io.Discard, "", 0) // a refused handshake is part of the story
	second.StartTLS()
	t.Cleanup(second.Close)
	payload := s.wifiPayload("wifi.1")
	payload["PayloadContent"].(Dict)["URL"] = second.URL
	wantStatus(t, s.install(t, d.Channel(), s.configuration(payload)), StatusError)
	root := s.rootPayload()
	root["PayloadType"] = "com.apple.security.pem"
	root["PayloadContent"] = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: raw})
	wantStatus(t, s.install(t, d.Channel(), s.configuration(payload, root)), StatusAcknowledged)
}

func TestOtherClientsRenew(t *testing.T) {
	s := newServer(t)
	d := s.enrolled(Options{})
	wantStatus(t, s.install(t, d.Channel(), s.configuration(s.wifiPayload("wifi.1"))), StatusAcknowledged)
	old := d.Credential("wifi.1")
	for name, tt := range map[string]struct {
		opts      []SCEPOption
		want      string
		challenge bool
		sameKey   bool
	}{
		"by RenewalReq":               {nil, RenewalReq, false, false},
		"by PKCSReq, as before it":    {[]SCEPOption{WithMessageType(PKCSReq)}, PKCSReq, false, false},
		"with the challenge of old":   {[]SCEPOption{WithChallenge("secret")}, RenewalReq, true, false},
		"with the key that they have": {[]SCEPOption{WithKey(old.Key)}, RenewalReq, false, true},
	} {
		t.Run(name, func(t *testing.T) {
			renewed, err := d.RenewCredential(t.Context(), old, tt.opts...)
			if err != nil {
				t.Fatal(err)
			}
			r := s.requests[len(s.requests)-1]
			if r.messageType != tt.want || !r.signer.Equal(old.Certificate) {
				t.Errorf("message type %s by %v, want %s by the old certificate", r.messageType, r.signer.Subject, tt.want)
			}
			if !bytes.Equal(r.csr.RawSubject, old.Certificate.RawSubject) {
				t.Errorf("subject = %v, want the old certificate's", r.csr.Subject)
			}
			if got := bytes.Contains(r.csr.Raw, oid(oidChallenge)); got != tt.challenge {
				t.Errorf("there is a challenge: %t, want %t", got, tt.challenge)
			}
			if got := old.Certificate.PublicKey.(*rsa.PublicKey).Equal(renewed.Key.Public()); got != tt.sameKey {
				t.Errorf("the key is the same: %t, want %t", got, tt.sameKey)
			}
			if !renewed.Certificate.PublicKey.(*rsa.PublicKey).Equal(renewed.Key.Public()) {
				t.Error("the certificate is for another key")
			}
			if !d.Credential("wifi.1").Certificate.Equal(old.Certificate) {
				t.Error("the device itself has renewed")
			}
		})
	}
}

func TestACredentialIsAClientCertificate(t *testing.T) {
	rootKey, middleKey, key := rsaKey(t), rsaKey(t), rsaKey(t)
	root := certificateFor(t, rootKey, "root", nil, nil)
	middle := certificateFor(t, middleKey, "middle", root, rootKey)
	leaf := certificateFor(t, key, "leaf", middle, middleKey)
	c := Credential{Certificate: leaf, Key: key, Chain: []*x509.Certificate{middle, root}}
	cert := c.TLS()
	if len(cert.Certificate) != 2 || !bytes.Equal(cert.Certificate[0], leaf.Raw) || !bytes.Equal(cert.Certificate[1], middle.Raw) {
		t.Errorf("TLS sends %d certificates, want the leaf and the one between", len(cert.Certificate))
	}
	if cert.PrivateKey.(crypto.Signer).Public() != key.Public() {
		t.Error("TLS has another key")
	}
}
