package apiv1_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/depot"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

type migration struct {
	ServerURL        string `json:"server_url"`
	Waiting, Arrived int
	Authorities      []struct{ ID, Subject string }
	Profile          *struct {
		Identifier         string
		AccessRights       int  `json:"access_rights"`
		PerUserConnections bool `json:"per_user_connections"`
	}
}

func (h *house) migration(t testing.TB) (m migration) {
	t.Helper()
	h.do(t, exchange{method: "GET", path: "/api/v1/migration"}).want(t, 200, &m)
	return m
}

func TestDevicesOfAnotherServerAreTakenOver(t *testing.T) {
	h := newHouse(t)
	body := func(dry string) string {
		return `{"source":"micromdm","dry_run":` + dry + `,"profile":{"identifier":"com.github.micromdm.micromdm.enroll","access_rights":8191,"per_user_connections":true},"devices":[
			{"udid":"AAAA-0001","serial_number":"C02A","push":{"topic":"com.apple.mgmt.External.x","token":"AQID","magic":"m"},
			 "certificate_sha256":"` + strings.Repeat("a1", 32) + `","last_seen_at":"2026-01-02T03:04:05Z",
			 "users":[{"user_id":"501","short_name":"ana","push":{"topic":"com.apple.mgmt.External.x","token":"AQID","magic":"u"}}]},
			{"udid":"BBBB-0002","push":{}}]}`
	}
	var out struct {
		Items []struct {
			UDID     string
			DeviceID string `json:"device_id"`
			Outcome  string
			Code     string
		}
	}
	h.do(t, exchange{method: "POST", path: "/api/v1/migration/devices", body: body("true")}).want(t, 200, &out)
	if len(out.Items) != 2 || out.Items[0].Outcome != "taken" || out.Items[1].Code != "no_push" {
		t.Errorf("a dry run says %+v", out.Items)
	}
	if m := h.migration(t); m.Waiting != 0 {
		t.Errorf("a dry run has left %d devices", m.Waiting)
	}
	h.do(t, exchange{method: "POST", path: "/api/v1/migration/devices", body: body("false")}).want(t, 200, &out)
	var device struct {
		State        string
		SerialNumber string `json:"serial_number"`
		LastSeenAt   string `json:"last_seen_at"`
	}
	h.do(t, exchange{method: "GET", path: "/api/v1/devices/" + out.Items[0].DeviceID}).want(t, 200, &device)
	if device.State != "enrolled" || device.SerialNumber != "C02A" || device.LastSeenAt != "2026-01-02T03:04:05Z" {
		t.Errorf("device = %+v", device)
	}
	h.do(t, exchange{method: "POST", path: "/api/v1/migration/devices", body: body("false")}).want(t, 200, &out)
	if out.Items[0].Outcome != "updated" {
		t.Errorf("the second time it is %+v", out.Items[0])
	}
	if m := h.migration(t); m.Waiting != 1 || m.Arrived != 0 || m.ServerURL == "" {
		t.Errorf("migration = %+v", m)
	}
}

// formerAuthority is the certificate of another server's authority.
func formerAuthority(t testing.TB) *x509.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{Organization: []string{"MicroMDM"}}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(5, 0, 0), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func TestAuthoritiesOfOtherServersAreKept(t *testing.T) {
	storagetest.AnyEngine(t)
	h := newHouse(t)
	ca := formerAuthority(t)
	data := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Raw})
	var one struct{ ID string }
	h.do(t, exchange{method: "POST", path: "/api/v1/migration/authorities?claims_for=24h", body: data}).want(t, 201, &one)
	if one.ID != string(depot.FingerprintOf(ca)) {
		t.Errorf("its ID is %s", one.ID)
	}
	if m := h.migration(t); len(m.Authorities) != 1 || m.Authorities[0].ID != one.ID {
		t.Errorf("migration = %+v", m)
	}
	for path, body := range map[string][]byte{
		"/api/v1/migration/authorities":                   []byte("no certificate"),
		"/api/v1/migration/authorities?claims_for=soon":   data,
		"/api/v1/migration/authorities?claims_for=99999h": data,
	} {
		h.do(t, exchange{method: "POST", path: path, body: body}).wantProblem(t, 400, "invalid_request")
	}
	h.do(t, exchange{method: "DELETE", path: "/api/v1/migration/authorities/" + one.ID}).want(t, 204, nil)
	h.do(t, exchange{method: "DELETE", path: "/api/v1/migration/authorities/" + one.ID}).wantProblem(t, 404, "not_found")
}

func TestTheProfileOfHandedOverDevicesIsKept(t *testing.T) {
	storagetest.AnyEngine(t)
	h := newHouse(t)
	if m := h.migration(t); m.Profile != nil {
		t.Errorf("at first it is %+v", m.Profile)
	}
	var m migration
	h.do(t, exchange{method: "PUT", path: "/api/v1/migration/profile", body: `{"identifier":"com.example.enroll","access_rights":3,"per_user_connections":false}`}).want(t, 200, &m)
	if m.Profile == nil || m.Profile.Identifier != "com.example.enroll" || m.Profile.AccessRights != 3 || m.Profile.PerUserConnections {
		t.Errorf("it is %+v", m.Profile)
	}
	h.do(t, exchange{method: "PUT", path: "/api/v1/migration/profile", body: `{"identifier":""}`, wild: true}).wantProblem(t, 400, "invalid_request")
}
