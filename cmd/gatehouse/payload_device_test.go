package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/mdmtest"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// api calls the REST API as the operator of the machine, and decodes the answer.
func (c *composed) api(t testing.TB, method, path string, in, out any) {
	t.Helper()
	body, err := json.Marshal(in)
	must(t, err)
	r := httptest.NewRequest(method, "/api/v1"+path, bytes.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	w := httptest.NewRecorder()
	c.local.ServeHTTP(w, r)
	if w.Code >= 300 {
		t.Fatalf("%s %s: %d %s", method, path, w.Code, w.Body)
	}
	if out != nil {
		must(t, json.Unmarshal(w.Body.Bytes(), out))
	}
}

// goTo makes it a later time, and does what is then due in the background.
func (c *composed) goTo(t testing.TB, at time.Time) {
	t.Helper()
	c.ahead.Store(int64(time.Until(at)))
	must(t, c.state.depot.Tidy(t.Context()))
	must(t, c.payloads.Renew(t.Context()))
}

// user makes a user, and returns the ID.
func (c *composed) user(t testing.TB, name, fullName string) string {
	t.Helper()
	var u struct{ ID string }
	c.api(t, "POST", "/users", map[string]any{"username": name, "email": name + "@example.com", "full_name": fullName}, &u)
	return u.ID
}

// enrolledFor enrolls a device of a user, and returns it with the server's ID of it.
func (c *composed) enrolledFor(t testing.TB, name string, o mdmtest.Options) (*mdmtest.Device, mdm.DeviceID) {
	t.Helper()
	l, err := c.enroll.CreateLink(t.Context(), enroll.NewLink{Login: enroll.LoginNone, User: name + "@example.com", Uses: 1})
	must(t, err)
	d := c.device(t, o)
	must(t, d.Enroll(t.Context(), c.url+"/enroll/l/"+l.Code+"/profile"))
	var id mdm.DeviceID
	must(t, c.db.View(t.Context(), func(tx storage.Tx) error {
		found, err := mdm.FindDevice(tx, mdm.AppleID{UDID: d.ID()})
		id = found.ID
		return err
	}))
	return d, id
}

// wifi makes a certificate template with names of all four kinds.
func (c *composed) wifi(t testing.TB) {
	t.Helper()
	c.api(t, "POST", "/certificate-templates", map[string]any{
		"name":    "wifi",
		"subject": "/C=DE/O=Example & Söhne/OU=Wi-Fi/OU=Guests/CN=$FULLNAME",
		"sans": map[string]any{
			"rfc822Name": []string{"$EMAIL", "wifi@example.com"}, "dNSName": []string{"$SERIALNUMBER.wifi.example.com"},
			"uniformResourceIdentifier": []string{"mdm-device://$DEVICE_ID"}, "ntPrincipalName": "$USERNAME@corp.example.com",
		},
		"key_usage": []string{"digitalSignature"}, "ext_key_usage": []string{"clientAuth", "1.3.6.1.5.5.7.3.14"},
		"validity": "8760h", "renew_before": "720h", "include_root": true,
	}, nil)
}

// wifiSent sends a device the profile for a certificate of the template wifi, lets it
// poll, and returns what it then has.
func (c *composed) wifiSent(t testing.TB, channel *mdmtest.Channel, id mdm.DeviceID) *mdmtest.Credential {
	t.Helper()
	var sent struct {
		Items []struct {
			DeviceID string `json:"device_id"`
			State    string
		}
	}
	c.api(t, "POST", "/certificate-templates/wifi/send", map[string]any{"device_ids": []mdm.DeviceID{id}}, &sent)
	if len(sent.Items) != 1 || sent.Items[0].DeviceID != string(id) || sent.Items[0].State != "pending" {
		t.Fatalf("sent %+v, want it to %s", sent.Items, id)
	}
	_, err := channel.Poll(t.Context())
	must(t, err)
	credentials := channel.Credentials()
	if len(credentials) != 1 {
		t.Fatalf("the device has %d credentials, want 1", len(credentials))
	}
	return credentials[0]
}

// certificateItem is a certificate in the API.
type certificateItem struct {
	Serial, Template, User, Status string
	SANs                           []string
	DeviceID                       string `json:"device_id"`
	Replaces                       string
	RevocationReason               string `json:"revocation_reason"`
}

// listed is what the API says of a certificate.
func (c *composed) listed(t testing.TB, cert *x509.Certificate) certificateItem {
	t.Helper()
	var list struct{ Items []certificateItem }
	c.api(t, "GET", "/certificates?limit=1000", nil, &list)
	for _, item := range list.Items {
		if item.Serial == cert.SerialNumber.Text(16) {
			return item
		}
	}
	t.Fatalf("the API lists no certificate %x among %d", cert.SerialNumber, len(list.Items))
	return certificateItem{}
}

// fileOfCertificates writes certificates to a file in PEM.
func fileOfCertificates(t *testing.T, certs ...*x509.Certificate) string {
	t.Helper()
	var text []byte
	for _, cert := range certs {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})...)
	}
	return fileOf(t, "certs.pem", text)
}

// relying is somebody with openssl who is shown certificates, trusts a root, and asks
// about each certificate where that says, at the server's time.
type relying struct {
	*composed
	root, issuer *x509.Certificate
}

// verify checks a certificate with the CRL that it names.
func (r relying) verify(t *testing.T, cert *x509.Certificate) (out string, err error) {
	t.Helper()
	client := party{Client: &http.Client{Transport: r.http}}
	status, list := client.fetch(t, "GET", cert.CRLDistributionPoints[0], nil)
	if status != http.StatusOK {
		t.Fatalf("CRL: %d %s", status, list)
	}
	return openssl(t, "verify", "-x509_strict", "-purpose", "sslclient", "-attime", fmt.Sprint(r.now().Unix()),
		"-crl_check", "-CRLfile", fileOf(t, "crl.pem", pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: list})),
		"-CAfile", fileOfCertificates(t, r.root), "-untrusted", fileOfCertificates(t, r.issuer), fileOfCertificates(t, cert))
}

// opensslsStatus finds the status in what openssl prints, and the reason for it.
var opensslsStatus = regexp.MustCompile(`certs\.pem: (\w+)\n(?:\t[^R].*\n)*(?:\tReason: (\w+)\n)?`)

// ask asks about a certificate by OCSP: "good", "unknown", or why it is revoked.
func (r relying) ask(t *testing.T, cert *x509.Certificate) string {
	t.Helper()
	at := fmt.Sprint(r.now().Unix())
	out, err := openssl(t, "ocsp", "-url", cert.OCSPServer[0], "-issuer", fileOfCertificates(t, r.issuer), "-CAfile", fileOfCertificates(t, r.root),
		"-attime", at, "-validity_period", "100000000", // it compares times with its own clock
		"-cert", fileOfCertificates(t, cert))
	found := opensslsStatus.FindStringSubmatch(out)
	if err != nil || !strings.Contains(out, "Response verify OK") || found == nil {
		t.Fatalf("openssl ocsp: %v\n%s", err, out)
	}
	if found[1] == "revoked" {
		return found[2]
	}
	return found[1]
}

func (r relying) wantGood(t *testing.T, what string, cert *x509.Certificate) {
	t.Helper()
	if out, err := r.verify(t, cert); err != nil {
		t.Errorf("%s: openssl: %v\n%s", what, err, out)
	}
	if got := r.ask(t, cert); got != "good" {
		t.Errorf("%s: by OCSP it is %s", what, got)
	}
	if got := r.listed(t, cert); got.Status != "active" {
		t.Errorf("%s: the API says that it is %s", what, got.Status)
	}
}

func (r relying) wantRevoked(t *testing.T, what string, cert *x509.Certificate, reason string) {
	t.Helper()
	if out, err := r.verify(t, cert); err == nil || !strings.Contains(out, "certificate revoked") {
		t.Errorf("%s: openssl: %v, want it revoked\n%s", what, err, out)
	}
	if got := r.ask(t, cert); got != reason {
		t.Errorf("%s: by OCSP it is %s, want %s", what, got, reason)
	}
	if got := r.listed(t, cert); got.Status != "revoked" || got.RevocationReason != reason {
		t.Errorf("%s: the API says that it is %s for %s, want revoked for %s", what, got.Status, got.RevocationReason, reason)
	}
}

// TestADeviceGetsAWiFiCertificateAndRenewsIt is the life of a certificate that a template
// describes, as the device and as a RADIUS server see it.
func TestADeviceGetsAWiFiCertificateAndRenewsIt(t *testing.T) {
	t.Parallel()
	tool(t, "openssl")
	c := newComposed(t, nil)
	c.wifi(t)
	c.user(t, "ana", "Ana Exámple")
	d, id := c.enrolledFor(t, "ana", mdmtest.Options{})
	first := c.wifiSent(t, d.Channel(), id)
	cert := first.Certificate
	if len(first.Chain) != 2 || !first.Chain[1].Equal(c.state.depot.Root().Certificate()) {
		t.Fatalf("the profile brings %d certificates above the device's own, want an issuer and the root", len(first.Chain))
	}
	if first.Extractable || first.AllAppsAccess {
		t.Error("the key may leave the keychain, or every application may use it")
	}

	radius := relying{composed: c, issuer: first.Chain[0], root: first.Chain[1]}
	file := fileOfCertificates(t, cert)
	shown, err := openssl(t, "x509", "-in", file, "-noout", "-text", "-nameopt", "oneline,utf8,-esc_msb")
	must(t, err)
	serial := d.Options().Serial
	for field, want := range map[string]string{
		"subject": "Subject: C = DE, O = Example & Söhne, OU = Wi-Fi, OU = Guests, CN = Ana Exámple\n",
		"names": "X509v3 Subject Alternative Name: \n                email:ana@example.com, email:wifi@example.com, DNS:" + serial +
			".wifi.example.com, URI:mdm-device://" + string(id) + ", othername: UPN::ana@corp.example.com\n",
		"key usage":          "X509v3 Key Usage: critical\n                Digital Signature\n",
		"extended key usage": "X509v3 Extended Key Usage: \n                TLS Web Client Authentication, 1.3.6.1.5.5.7.3.14\n",
		"basic constraints":  "X509v3 Basic Constraints: critical\n                CA:FALSE\n",
		"CRL":                "URI:" + c.url + "/crl/",
		"OCSP":               "OCSP - URI:" + c.url + "/ocsp\n",
		"CA issuer":          "CA Issuers - URI:" + c.url + "/ca/",
	} {
		if !strings.Contains(shown, want) {
			t.Errorf("%s: there is no %q in\n%s", field, want, shown)
		}
	}
	if life := cert.NotAfter.Sub(c.now()); life > 8760*time.Hour || life < 8759*time.Hour {
		t.Errorf("it lasts %v, want 8760h", life)
	}
	radius.wantGood(t, "the first", cert)
	item := c.listed(t, cert)
	if item.Template != "wifi" || item.DeviceID != string(id) || item.User != "ana@example.com" {
		t.Errorf("the API lists it as %+v", item)
	}
	for _, name := range []string{"ana@example.com", "wifi@example.com", serial + ".wifi.example.com", "mdm-device://" + string(id), "ana@corp.example.com"} {
		if !slices.ContainsFunc(item.SANs, func(s string) bool { return strings.Contains(s, name) }) {
			t.Errorf("the API lists it with the names %q, and not %s", item.SANs, name)
		}
	}
	for _, action := range []string{"certificate.sent", "certificate.issued"} {
		var audit struct {
			Items []struct{ Template, Certificate string }
		}
		c.api(t, "GET", "/audit?action="+action+"&device_id="+string(id), nil, &audit)
		found := slices.ContainsFunc(audit.Items, func(e struct{ Template, Certificate string }) bool {
			return e.Template == "wifi" && (action == "certificate.sent" || e.Certificate == item.Serial)
		})
		if !found {
			t.Errorf("the audit log has no %s of it: %+v", action, audit.Items)
		}
	}

	due := cert.NotAfter.Add(-720 * time.Hour)
	c.goTo(t, due.Add(-time.Hour))
	if n, err := d.Poll(t.Context()); n != 0 || err != nil {
		t.Fatalf("an hour before the renewal is due, the device got %d commands, %v", n, err)
	}
	c.goTo(t, due.Add(time.Hour))
	radius.wantGood(t, "the first, while the second is on its way", cert)
	if n, err := d.Poll(t.Context()); n != 1 || err != nil {
		t.Fatalf("when the renewal is due, the device got %d commands, %v; want 1", n, err)
	}
	all := d.Channel().Credentials()
	if len(all) != 1 {
		t.Fatalf("the device has %d credentials, want the new one in place of the old one", len(all))
	}
	second := all[0].Certificate
	if second.Equal(cert) || bytes.Equal(second.RawSubjectPublicKeyInfo, cert.RawSubjectPublicKeyInfo) {
		t.Error("the certificate or its key is the old one")
	}
	if all[0].Payload != first.Payload || !bytes.Equal(second.RawSubject, cert.RawSubject) || !bytes.Equal(extension(second, 17), extension(cert, 17)) {
		t.Errorf("the second is for %s, the first for %s; or their alternative names differ", second.Subject, cert.Subject)
	}
	radius.wantGood(t, "the second", second)
	radius.wantRevoked(t, "the first, replaced", cert, "superseded")

	// Others renew by themselves, by the certificate that they have. This one is about
	// to be sent the next anyway.
	c.goTo(t, second.NotAfter.Add(-700*time.Hour))
	third, err := d.RenewCredential(t.Context(), all[0])
	must(t, err)
	radius.wantGood(t, "the third", third.Certificate)
	if got := c.listed(t, third.Certificate); got.Replaces != second.SerialNumber.Text(16) || got.DeviceID != string(id) {
		t.Errorf("the third is listed as %+v, want it to replace %x", got, second.SerialNumber)
	}
	if _, err := d.RenewCredential(t.Context(), first); err == nil {
		t.Error("the first, revoked, bought a renewal")
	}
	if n, err := d.Poll(t.Context()); n != 1 || err != nil {
		t.Fatalf("the device got %d commands, %v; want 1", n, err)
	}
	radius.wantGood(t, "what the device has in the end", d.Channel().Credentials()[0].Certificate)
	radius.wantRevoked(t, "the second, replaced", second, "superseded")
	radius.wantRevoked(t, "the third, which nobody acknowledged", third.Certificate, "superseded")
}

// extension is the value of an extension of cert, 2.5.29.id.
func extension(cert *x509.Certificate, id int) []byte {
	for _, e := range cert.Extensions {
		if e.Id.Equal([]int{2, 5, 29, id}) {
			return e.Value
		}
	}
	return nil
}

// TestAPayloadCertificateEndsWithTrust has enrollments and users end in every way.
func TestAPayloadCertificateEndsWithTrust(t *testing.T) {
	storagetest.AnyEngine(t)
	t.Parallel()
	tool(t, "openssl")
	c := newComposed(t, nil)
	c.wifi(t)
	radius := relying{composed: c, issuer: c.state.depot.Payload().Certificate(), root: c.state.depot.Root().Certificate()}
	c.user(t, "ben", "Ben Bystander")
	bystander, bystanderID := c.enrolledFor(t, "ben", mdmtest.Options{})
	others := c.wifiSent(t, bystander.Channel(), bystanderID)
	ended := 0
	for name, tt := range map[string]struct {
		end    func(t *testing.T, d *mdmtest.Device, id mdm.DeviceID, userID string)
		reason string
	}{
		"the device is unenrolled": {func(t *testing.T, _ *mdmtest.Device, id mdm.DeviceID, _ string) {
			c.api(t, "POST", "/devices/"+string(id)+"/unenroll", nil, nil)
		}, "cessationOfOperation"},
		"the device is blocked": {func(t *testing.T, _ *mdmtest.Device, id mdm.DeviceID, _ string) {
			c.api(t, "POST", "/devices/"+string(id)+"/block", nil, nil)
		}, "cessationOfOperation"},
		"its owner removes the profile": {func(t *testing.T, d *mdmtest.Device, _ mdm.DeviceID, _ string) {
			must(t, d.Remove(t.Context()))
		}, "cessationOfOperation"},
		"the user is disabled": {func(t *testing.T, _ *mdmtest.Device, _ mdm.DeviceID, userID string) {
			c.api(t, "PATCH", "/users/"+userID, map[string]any{"disabled": true}, nil)
		}, "cessationOfOperation"},
		"its identity is revoked": {func(t *testing.T, d *mdmtest.Device, _ mdm.DeviceID, _ string) {
			identity, _ := d.Identity()
			c.api(t, "POST", fmt.Sprintf("/certificates/%x/revoke", identity.SerialNumber), map[string]any{"reason": "keyCompromise"}, nil)
		}, "cessationOfOperation"},
		"it is revoked itself": {func(t *testing.T, d *mdmtest.Device, _ mdm.DeviceID, _ string) {
			cert := d.Channel().Credentials()[0].Certificate
			c.api(t, "POST", fmt.Sprintf("/certificates/%x/revoke", cert.SerialNumber), map[string]any{"reason": "affiliationChanged"}, nil)
		}, "affiliationChanged"},
	} {
		t.Run("when "+name, func(t *testing.T) {
			ended++
			user := fmt.Sprint("user", ended)
			userID := c.user(t, user, "User "+user)
			d, id := c.enrolledFor(t, user, mdmtest.Options{})
			credential := c.wifiSent(t, d.Channel(), id)
			radius.wantGood(t, "before", credential.Certificate)
			tt.end(t, d, id, userID)
			radius.wantRevoked(t, "after", credential.Certificate, tt.reason)
			if renewed, err := d.RenewCredential(t.Context(), credential); err == nil {
				t.Errorf("it was renewed: %s", renewed.Certificate.Subject)
			}
			radius.wantGood(t, "somebody else's", others.Certificate)
		})
	}
}

// TestAMacsUserGetsACertificate sends one over the user's channel, where it is the user's
// alone, and one over the device's.
func TestAMacsUserGetsACertificate(t *testing.T) {
	storagetest.AnyEngine(t)
	t.Parallel()
	c := newComposed(t, nil)
	c.wifi(t)
	c.user(t, "ana", "Ana Example")
	d, id := c.enrolledFor(t, "ana", mdmtest.Options{Model: mdmtest.Mac})
	var devices struct {
		Items []struct {
			ID       string
			ParentID string `json:"parent_id"`
		}
	}
	c.api(t, "GET", "/devices", nil, &devices)
	var userID mdm.DeviceID
	for _, item := range devices.Items {
		if item.ParentID == string(id) {
			userID = mdm.DeviceID(item.ID)
		}
	}
	if userID == "" || d.User() == nil {
		t.Fatalf("there is no user channel among %+v", devices.Items)
	}
	users := c.wifiSent(t, d.User(), userID)
	if users.User == nil || len(d.Channel().Credentials()) != 0 {
		t.Errorf("the user's certificate is in the keychain of %v, and %d are in the system's", users.User, len(d.Channel().Credentials()))
	}
	systems := c.wifiSent(t, d.Channel(), id)
	for cert, owner := range map[*x509.Certificate]mdm.DeviceID{users.Certificate: userID, systems.Certificate: id} {
		if got := c.listed(t, cert); got.DeviceID != string(owner) || got.User != "ana@example.com" || got.Status != "active" {
			t.Errorf("listed as %+v, want it for %s", got, owner)
		}
		if len(cert.URIs) != 1 || cert.URIs[0].String() != "mdm-device://"+string(owner) {
			t.Errorf("it names %v, want %s", cert.URIs, owner)
		}
	}
	must(t, d.Remove(t.Context()))
	for _, cert := range []*x509.Certificate{users.Certificate, systems.Certificate} {
		if got := c.listed(t, cert); got.Status != "revoked" {
			t.Errorf("after its end, the one for %s is %s", got.DeviceID, got.Status)
		}
	}
}

// TestAProfilesChallengeBuysOneCertificateOfItsTemplate is about somebody who got hold of
// a device's profile: it is worth what the device would have got, once.
func TestAProfilesChallengeBuysOneCertificateOfItsTemplate(t *testing.T) {
	t.Parallel()
	const racers = 20
	c := newComposed(t, nil)
	c.wifi(t)
	c.user(t, "ana", "Ana Example")
	var d *mdmtest.Device
	var stolen *mdmtest.Profile
	d, id := c.enrolledFor(t, "ana", mdmtest.Options{Handler: func(_ context.Context, _ *mdmtest.Channel, cmd *mdmtest.Command, own func() mdmtest.Result) mdmtest.Result {
		if cmd.RequestType != "InstallProfile" {
			return own()
		}
		var err error
		if stolen, err = d.Configuration(cmd.Params["Payload"].([]byte)); err != nil {
			t.Error(err)
		}
		return mdmtest.Result{} // it is switched off before it answers
	}})
	c.api(t, "POST", "/certificate-templates/wifi/send", map[string]any{"device_ids": []mdm.DeviceID{id}}, nil)
	if _, err := d.Poll(t.Context()); err != nil || stolen == nil {
		t.Fatalf("the device has seen the profile: %t, %v", stolen != nil, err)
	}
	payload := stolen.SCEP
	thief := &mdmtest.SCEP{
		URL: payload.URL, Name: payload.Name, HTTP: &http.Client{Transport: c.http}, Fingerprint: payload.CAFingerprint,
		Now: c.now, Rand: rand.Reader,
	}
	must(t, thief.Discover(t.Context()))
	pool, err := keyPool()
	must(t, err)
	asked := func(value any, id ...int) pkix.Extension {
		der, err := asn1.Marshal(value)
		must(t, err)
		return pkix.Extension{Id: id, Critical: true, Value: der}
	}
	requests := make([]*mdmtest.SCEPRequest, racers)
	for i := range requests {
		key, err := pool.Key()
		must(t, err)
		requests[i], err = thief.Request(key, mdmtest.Subject{{{"O", "Example"}}, {{"CN", "radius.example.com"}}}, payload.Challenge, []pkix.Extension{
			asked(struct{ CA bool }{true}, 2, 5, 29, 19),
			asked(asn1.BitString{Bytes: []byte{0xFF}, BitLength: 8}, 2, 5, 29, 15),
			asked([]asn1.ObjectIdentifier{{1, 3, 6, 1, 5, 5, 7, 3, 1}, {2, 5, 29, 37, 0}}, 2, 5, 29, 37),
			asked([]asn1.RawValue{{Class: 2, Tag: 2, Bytes: []byte("radius.example.com")}, {Class: 2, Tag: 1, Bytes: []byte("boss@example.com")}}, 2, 5, 29, 17),
		})
		must(t, err)
	}
	certs := make([]*x509.Certificate, racers)
	var all sync.WaitGroup
	for i, r := range requests {
		all.Go(func() {
			cert, err := thief.Send(t.Context(), r)
			var refused *mdmtest.SCEPFailure
			if err != nil && !errors.As(err, &refused) {
				t.Error(err)
			}
			certs[i] = cert
		})
	}
	all.Wait()
	won := slices.DeleteFunc(certs, func(cert *x509.Certificate) bool { return cert == nil })
	if len(won) != 1 {
		t.Fatalf("%d got a certificate, want 1", len(won))
	}
	cert := won[0]
	if got := cert.Subject.CommonName; got != "Ana Example" || cert.IsCA || cert.KeyUsage != x509.KeyUsageDigitalSignature ||
		!slices.Equal(cert.ExtKeyUsage, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}) || len(cert.UnknownExtKeyUsage) != 1 ||
		!slices.Equal(cert.EmailAddresses, []string{"ana@example.com", "wifi@example.com"}) ||
		!slices.Equal(cert.DNSNames, []string{d.Options().Serial + ".wifi.example.com"}) {
		t.Errorf("the certificate is for %s, %q, %q, and good for %b, %v, CA %t", cert.Subject, cert.EmailAddresses, cert.DNSNames, cert.KeyUsage, cert.ExtKeyUsage, cert.IsCA)
	}
	if got := c.listed(t, cert); got.DeviceID != string(id) {
		t.Errorf("it is on record for %s", got.DeviceID)
	}
}
