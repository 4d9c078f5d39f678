package main

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ocsp"

	"github.com/gatehouse-mdm/gatehouse/depot"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/mdmtest"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// caItem is an authority in the API.
type caItem struct {
	ID, Role, State string
	InForce         int `json:"certificates_in_force"`
}

// moving is a rollover in the API.
type moving struct {
	Role, To, State string
	Counts          map[string]int
	Unfinished      []struct {
		DeviceID string `json:"device_id"`
		Stage    string
		Blocker  string
	}
}

// ca returns what the API says of an authority, and of its rollover.
func (c *composed) ca(t testing.TB, role string) (list []caItem, r moving) {
	t.Helper()
	var out struct {
		Authorities []caItem
		Rollovers   []moving
	}
	c.api(t, "GET", "/ca", nil, &out)
	for _, a := range out.Authorities {
		if a.Role == role {
			list = append(list, a)
		}
	}
	for _, one := range out.Rollovers {
		if one.Role == role {
			r = one
		}
	}
	return list, r
}

// retire asks for the end of an authority.
func (c *composed) retire(t testing.TB, role, id string) (status int, blockers []string) {
	t.Helper()
	body, err := json.Marshal(map[string]string{"id": id})
	must(t, err)
	r := httptest.NewRequest("POST", "/api/v1/ca/"+role+"/retire", bytes.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	w := httptest.NewRecorder()
	c.local.ServeHTTP(w, r)
	var problem struct {
		Blockers []struct {
			DeviceID string `json:"device_id"`
		}
	}
	must(t, json.Unmarshal(w.Body.Bytes(), &problem))
	for _, b := range problem.Blockers {
		blockers = append(blockers, b.DeviceID)
	}
	return w.Code, blockers
}

// later lets time pass, and does what is then due in the background.
func (c *composed) later(t testing.TB, d time.Duration) {
	t.Helper()
	c.ahead.Add(int64(d))
	must(t, c.enroll.ContinueRollovers(t.Context()))
	must(t, c.enroll.RenewDue(t.Context()))
	must(t, c.payloads.Renew(t.Context()))
}

func (c *composed) idOf(t testing.TB, d *mdmtest.Device) (id string) {
	t.Helper()
	must(t, c.db.View(t.Context(), func(tx storage.Tx) error {
		found, err := mdm.FindDevice(tx, mdm.AppleID{UDID: d.ID()})
		id = string(found.ID)
		return err
	}))
	return id
}

// polled lets a device do all that there is for it, until nothing is left.
func polled(t testing.TB, devices ...*mdmtest.Device) {
	t.Helper()
	for _, d := range devices {
		for range 2 {
			if _, err := d.Poll(t.Context()); err != nil {
				t.Fatalf("%s: %v", d.ID(), err)
			}
		}
	}
}

// get fetches a file.
func (c *composed) get(t testing.TB, path string) []byte {
	t.Helper()
	w := httptest.NewRecorder()
	c.handler.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
	if w.Code != http.StatusOK {
		t.Fatalf("GET %s: %d %s", path, w.Code, w.Body)
	}
	return w.Body.Bytes()
}

// wantRevoked asks the doors about a certificate that was replaced.
func (c *composed) wantRevoked(t testing.TB, cert *x509.Certificate, issuer *depot.Authority) {
	t.Helper()
	list, err := x509.ParseRevocationList(c.get(t, depot.PathCRL+issuer.ID()+".crl"))
	must(t, err)
	must(t, list.CheckSignatureFrom(issuer.Certificate()))
	if !slices.ContainsFunc(list.RevokedCertificateEntries, func(e x509.RevocationListEntry) bool {
		return e.SerialNumber.Cmp(cert.SerialNumber) == 0
	}) {
		t.Error("a certificate that was replaced is not on the CRL of the authority before")
	}
	question, err := ocsp.CreateRequest(cert, issuer.Certificate(), nil)
	must(t, err)
	r := httptest.NewRequest("POST", depot.PathOCSP, bytes.NewReader(question))
	r.Header.Set("Content-Type", "application/ocsp-request")
	w := httptest.NewRecorder()
	c.handler.ServeHTTP(w, r)
	answer, err := ocsp.ParseResponseForCert(w.Body.Bytes(), cert, issuer.Certificate())
	must(t, err)
	if answer.Status != ocsp.Revoked {
		t.Errorf("OCSP says %d of it, want that it is revoked", answer.Status)
	}
}

func TestDevicesGoOverToANewIdentityCA(t *testing.T) {
	c := newComposed(t, nil)
	phones := []*mdmtest.Device{c.enrolled(t, mdmtest.Options{}), c.enrolled(t, mdmtest.Options{}), c.enrolled(t, mdmtest.Options{Model: mdmtest.Mac})}
	online, offline := phones[:2], phones[2]
	old := c.state.depot.Identity()
	before, _ := phones[0].Identity()

	// Two enrollments are under way: one has its profile only, one the certificate of
	// the CA, too.
	loaded := c.device(t, mdmtest.Options{})
	raw, err := loaded.Download(t.Context(), c.link(t))
	must(t, err)
	must(t, loaded.Install(raw))
	asking, scep := c.installed(t)

	c.api(t, "POST", "/ca/identity/rollover", map[string]any{"per_hour": 6000}, nil)
	list, r := c.ca(t, "identity")
	if len(list) != 2 || list[0].State != "active" || list[0].ID != r.To || list[1].ID != old.ID() || list[1].State != "retiring" || list[1].InForce != 3 {
		t.Fatalf("the authorities are %+v", list)
	}
	if block, _ := pem.Decode(c.get(t, "/ca/identity.pem")); !bytes.Equal(block.Bytes, c.state.depot.Identity().Certificate().Raw) {
		t.Error("/ca/identity.pem is not the new one")
	}

	// Both come to their end, with identities of the new one.
	must(t, loaded.RequestIdentity(t.Context()))
	must(t, loaded.Authenticate(t.Context()))
	must(t, loaded.TokenUpdate(t.Context()))
	request, err := asking.Request(scep, asking.Profile())
	must(t, err)
	cert, err := scep.Send(t.Context(), request)
	must(t, err)
	must(t, cert.CheckSignatureFrom(c.state.depot.Identity().Certificate()))

	c.later(t, time.Minute)
	c.later(t, time.Minute)
	polled(t, online...)
	for _, d := range online {
		now, _ := d.Identity()
		must(t, now.CheckSignatureFrom(c.state.depot.Identity().Certificate()))
	}
	c.wantRevoked(t, before, old)
	if _, r := c.ca(t, "identity"); r.Counts["done"] != 3 || len(r.Unfinished) != 1 || r.Unfinished[0].DeviceID != c.idOf(t, offline) || r.Unfinished[0].Stage != "renewing" {
		t.Errorf("the rollover is %+v, want one left", r)
	}
	if status, blockers := c.retire(t, "identity", old.ID()); status != http.StatusConflict || !slices.Equal(blockers, []string{c.idOf(t, offline)}) {
		t.Errorf("retire: %d, blocked by %v", status, blockers)
	}

	// The third comes back two days later: to a profile that is of no use any more, and
	// to another one.
	for range 3 {
		c.later(t, 25*time.Hour)
	}
	polled(t, offline)
	c.later(t, time.Minute)
	polled(t, offline)
	now, _ := offline.Identity()
	must(t, now.CheckSignatureFrom(c.state.depot.Identity().Certificate()))
	c.later(t, 10*time.Minute)
	if _, r := c.ca(t, "identity"); r.State != "finished" {
		t.Errorf("the rollover is %+v, want it finished", r)
	}
	if status, blockers := c.retire(t, "identity", old.ID()); status != http.StatusOK {
		t.Errorf("retire: %d, blocked by %v", status, blockers)
	}

	// What the old one has issued is still told of; SCEP does not take it any more.
	c.wantRevoked(t, before, old)
	late, scep := c.installed(t)
	if !scep.CA.Equal(c.state.depot.Identity().Certificate()) {
		t.Error("SCEP announces another authority")
	}
	request, err = late.Request(scep, late.Profile(), mdmtest.WithRecipient(old.Certificate()))
	must(t, err)
	if _, err := scep.Send(t.Context(), request); err == nil {
		t.Error("a message that was encrypted to the retired authority is answered with a certificate")
	}
	polled(t, phones...)
}

func TestDevicesGetPayloadCertificatesOfTheNewIssuer(t *testing.T) {
	storagetest.AnyEngine(t)
	c := newComposed(t, nil)
	c.user(t, "ana", "Ana Bee")
	c.wifi(t)
	d, id := c.enrolledFor(t, "ana", mdmtest.Options{})
	away, awayID := c.enrolledFor(t, "ana", mdmtest.Options{})
	first := c.wifiSent(t, d.Channel(), id)
	c.wifiSent(t, away.Channel(), awayID)
	old := c.state.depot.Payload()

	// A third is sent the profile just before, and asks just after.
	slow, slowID := c.enrolledFor(t, "ana", mdmtest.Options{})
	c.api(t, "POST", "/certificate-templates/wifi/send", map[string]any{"device_ids": []mdm.DeviceID{slowID}}, nil)

	c.api(t, "POST", "/ca/payload/rollover", map[string]any{}, nil)
	polled(t, slow)
	if got := slow.Channel().Credentials(); len(got) != 1 || got[0].Certificate.CheckSignatureFrom(c.state.depot.Payload().Certificate()) != nil {
		t.Fatalf("the device that was sent the profile before has %d certificates, or one of the issuer before", len(got))
	}
	c.later(t, time.Minute)
	c.later(t, time.Minute)
	polled(t, d)
	renewed := d.Channel().Credentials()
	if len(renewed) != 1 {
		t.Fatalf("the device has %d credentials, want 1", len(renewed))
	}
	if err := renewed[0].Certificate.CheckSignatureFrom(c.state.depot.Payload().Certificate()); err != nil {
		t.Fatal(err)
	}
	if chain := renewed[0].Chain; len(chain) != 2 || !chain[0].Equal(c.state.depot.Payload().Certificate()) {
		t.Errorf("the profile brought a chain of %d", len(chain))
	}
	c.wantRevoked(t, first.Certificate, old)
	if status, blockers := c.retire(t, "payload", old.ID()); status != http.StatusConflict || !slices.Equal(blockers, []string{string(awayID)}) {
		t.Errorf("retire: %d, blocked by %v", status, blockers)
	}
	if _, r := c.ca(t, "payload"); r.Counts["done"] != 2 || len(r.Unfinished) != 1 || r.Unfinished[0].DeviceID != string(awayID) {
		t.Errorf("the rollover is %+v", r)
	}
	polled(t, away)
	c.later(t, 10*time.Minute)
	if status, blockers := c.retire(t, "payload", old.ID()); status != http.StatusOK {
		t.Errorf("retire: %d, blocked by %v", status, blockers)
	}
	if _, r := c.ca(t, "payload"); r.State != "finished" {
		t.Errorf("the rollover is %+v, want it finished", r)
	}
	c.wantRevoked(t, first.Certificate, old)
}

func TestARolloverAsksADeviceThatFailsOnceADay(t *testing.T) {
	storagetest.AnyEngine(t)
	c := newComposed(t, nil)
	c.user(t, "ana", "Ana Bee")
	c.wifi(t)
	broken, tries := false, 0
	d, id := c.enrolledFor(t, "ana", mdmtest.Options{Handler: func(ctx context.Context, ch *mdmtest.Channel, cmd *mdmtest.Command, own func() mdmtest.Result) mdmtest.Result {
		if broken && cmd.RequestType == "InstallProfile" {
			tries++
			return mdmtest.Result{CommandUUID: cmd.UUID, Status: mdmtest.StatusError}
		}
		return own()
	}})
	c.wifiSent(t, d.Channel(), id)
	broken = true
	c.api(t, "POST", "/ca/payload/rollover", map[string]any{}, nil)
	for range 30 {
		c.later(t, 2*time.Minute)
		polled(t, d)
	}
	if tries != 1 {
		t.Errorf("in an hour the device was sent the profile %d times, want once", tries)
	}
	if _, r := c.ca(t, "payload"); len(r.Unfinished) != 1 || r.Unfinished[0].DeviceID != string(id) || !strings.Contains(r.Unfinished[0].Blocker, "The last try failed") {
		t.Errorf("the rollover is %+v, want the device to be what is left of it", r)
	}
	c.later(t, 24*time.Hour)
	broken = false
	polled(t, d)
	c.later(t, 10*time.Minute)
	if _, r := c.ca(t, "payload"); tries != 1 || r.State != "finished" {
		t.Errorf("a day later, after %d tries that failed, the rollover is %+v, want it finished", tries, r)
	}
}

func TestDevicesTrustTheNewRootBeforeItComesIntoForce(t *testing.T) {
	storagetest.AnyEngine(t)
	c := newComposed(t, func(cfg *config) { cfg.tls = tlsOwnCA })
	d := c.enrolled(t, mdmtest.Options{})
	old := c.state.depot.Root()
	c.api(t, "POST", "/ca/root/rollover", map[string]any{}, nil)
	if _, r := c.ca(t, "root"); r.State != "waiting_for_trust" || r.Counts["pending_trust"] != 1 {
		t.Errorf("the rollover is %+v", r)
	}
	c.later(t, 2*time.Minute)
	polled(t, d)
	c.later(t, 6*time.Minute)
	next := c.state.depot.Root()
	if next.ID() == old.ID() {
		t.Fatal("the new root is not in force")
	}
	var got []*x509.Certificate
	for rest := c.get(t, "/ca.pem"); len(rest) > 0; {
		var block *pem.Block
		block, rest = pem.Decode(rest)
		cert, err := x509.ParseCertificate(block.Bytes)
		must(t, err)
		got = append(got, cert)
	}
	if len(got) != 2 || !got[0].Equal(next.Certificate()) || !got[1].Equal(old.Certificate()) {
		t.Errorf("/ca.pem has %d certificates, want the new root and the one before", len(got))
	}
	if one, err := x509.ParseCertificate(c.get(t, "/ca.cer")); err != nil || !one.Equal(next.Certificate()) {
		t.Errorf("/ca.cer is not the new root: %v", err)
	}
	if n := bytes.Count(c.get(t, "/ca.mobileconfig"), []byte("com.apple.security.root")); n != 2 {
		t.Errorf("/ca.mobileconfig has %d roots, want 2", n)
	}
	// Who enrols now trusts both.
	late := c.device(t, mdmtest.Options{})
	raw, err := late.Download(t.Context(), c.link(t))
	must(t, err)
	must(t, late.Install(raw))
	if n := len(late.Profile().Certificates); n != 2 {
		t.Errorf("an enrollment profile has %d roots, want 2", n)
	}
}
