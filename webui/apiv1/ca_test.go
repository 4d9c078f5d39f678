package apiv1_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"
	"time"

	"software.sslmate.com/src/go-pkcs12"

	"github.com/gatehouse-mdm/gatehouse/depot"
	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

type authority struct {
	ID, Role, State, Subject string
	Generation               int
	Imported                 bool
	InForce                  int `json:"certificates_in_force"`
	Key                      struct {
		Type string
		Bits int
	}
	Warnings []string
}

type rollover struct {
	Role, To, State string
	PerHour         int `json:"per_hour"`
	Counts          map[string]int
	Unfinished      []struct{ DeviceID, Stage, Blocker string }
	Lost            []any
}

func (h *house) ca(t testing.TB) (all []authority, moves []rollover) {
	t.Helper()
	var out struct {
		Authorities []authority
		Rollovers   []rollover
	}
	h.do(t, exchange{method: "GET", path: "/api/v1/ca"}).want(t, 200, &out)
	return out.Authorities, out.Rollovers
}

// identified puts an enrolled device with an identity into the store.
func (h *house) identified(t testing.TB, id mdm.DeviceID) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := h.depot.Identity().Sign(key.Public(), depot.Contents{Name: "identity", NotBefore: h.now(), NotAfter: h.now().AddDate(1, 0, 0)})
	if err != nil {
		t.Fatal(err)
	}
	err = h.db.Update(context.Background(), func(tx storage.Tx) error {
		return h.depot.Record(tx, cert, depot.Certificate{Authority: "identity", Template: "identity", DeviceID: string(id), RenewAt: h.now().AddDate(0, 8, 0)})
	})
	if err != nil {
		t.Fatal(err)
	}
	h.device(t, id, func(d *mdm.Device) { d.Identity = string(depot.FingerprintOf(cert)) })
}

func TestTheAuthorities(t *testing.T) {
	h := newHouse(t)
	h.identified(t, "d1")
	all, moves := h.ca(t)
	if len(all) != 3 || len(moves) != 0 {
		t.Fatalf("%d authorities and %d rollovers, want 3 and none", len(all), len(moves))
	}
	for i, role := range []string{"identity", "root", "payload"} {
		a := all[i]
		if a.Role != role || a.State != "active" || a.Generation != 1 || a.Key.Type != "RSA" || a.Key.Bits != 2048 || len(a.Warnings) != 0 || a.Imported {
			t.Errorf("authority %d is %+v", i, a)
		}
	}
	if all[0].InForce != 1 {
		t.Errorf("%d identities are in force, want 1", all[0].InForce)
	}
	old := all[0].ID

	var started rollover
	h.do(t, exchange{method: "POST", path: "/api/v1/ca/identity/rollover", body: map[string]any{"per_hour": 12}}).want(t, 202, &started)
	if started.To == old || started.PerHour != 12 || started.State != "moving" || len(started.Lost) != 0 {
		t.Errorf("the rollover is %+v", started)
	}
	h.do(t, exchange{method: "POST", path: "/api/v1/ca/identity/rollover"}).wantProblem(t, 409, "rollover_under_way")
	all, moves = h.ca(t)
	if len(all) != 4 || all[0].ID != started.To || all[1].State != "retiring" || len(moves) != 1 || moves[0].Counts["pending"] != 1 || len(moves[0].Unfinished) != 1 {
		t.Errorf("then there are %+v and %+v", all, moves)
	}
	var list struct {
		Items []struct {
			DeviceID string `json:"device_id"`
			Stage    string
		}
	}
	h.do(t, exchange{method: "GET", path: "/api/v1/ca/identity/rollover?limit=10"}).want(t, 200, &list)
	if len(list.Items) != 1 || list.Items[0].DeviceID != "d1" || list.Items[0].Stage != "pending" {
		t.Errorf("progress is %+v", list)
	}
	h.do(t, exchange{method: "GET", path: "/api/v1/ca/payload/rollover"}).wantProblem(t, 404, "not_found")

	h.pass(2 * time.Minute)
	refused := h.do(t, exchange{method: "POST", path: "/api/v1/ca/identity/retire", body: map[string]any{"id": old}})
	refused.wantProblem(t, 409, "ca_in_use")
	if !strings.Contains(string(refused.answer), `"device_id":"d1"`) {
		t.Errorf("the device is not named: %s", refused.answer)
	}
	h.device(t, "d1", func(d *mdm.Device) { d.State = mdm.Unenrolled })
	var gone authority
	h.do(t, exchange{method: "POST", path: "/api/v1/ca/identity/retire", body: map[string]any{"id": old}}).want(t, 200, &gone)
	if gone.ID != old || gone.State != "retired" {
		t.Errorf("it is %+v", gone)
	}
}

// TestCertificatesThatNobodyReplaces keep their issuer from being retired, unless that is
// forced.
func TestCertificatesThatNobodyReplaces(t *testing.T) {
	h := newHouse(t)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := h.depot.Payload().Sign(key.Public(), depot.Contents{Name: "printer", NotBefore: h.now(), NotAfter: h.now().AddDate(1, 0, 0)})
	if err != nil {
		t.Fatal(err)
	}
	err = h.db.Update(context.Background(), func(tx storage.Tx) error {
		return h.depot.Record(tx, cert, depot.Certificate{Authority: "payload", Template: "printer", Door: "manual"})
	})
	if err != nil {
		t.Fatal(err)
	}
	old := h.depot.Payload().ID()
	h.do(t, exchange{method: "POST", path: "/api/v1/ca/payload/rollover"}).want(t, 202, nil)
	h.pass(2 * time.Minute)
	refused := h.do(t, exchange{method: "POST", path: "/api/v1/ca/payload/retire", body: map[string]any{"id": old}})
	refused.wantProblem(t, 409, "ca_in_use")
	var problem struct {
		Blockers []struct {
			Kind    string
			Count   int
			Serials []depot.Serial
		}
	}
	if err := json.Unmarshal(refused.answer, &problem); err != nil {
		t.Fatal(err)
	}
	if b := problem.Blockers; len(b) != 1 || b[0].Kind != "holders" || b[0].Count != 1 || len(b[0].Serials) != 1 || b[0].Serials[0] != depot.SerialOf(cert) {
		t.Errorf("blockers are %+v, want the one certificate", b)
	}
	var gone authority
	h.do(t, exchange{method: "POST", path: "/api/v1/ca/payload/retire", body: map[string]any{"id": old, "force": true}}).want(t, 200, &gone)
	if gone.State != "retired" || gone.InForce != 1 {
		t.Errorf("forced it is %+v", gone)
	}
}

// someRoot is an authority that is not ours, as PEM and as PKCS #12 with a passphrase.
func someRoot(t testing.TB) (text string, p12 []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: "Example Root"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(9, 0, 0),
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, BasicConstraintsValid: true, IsCA: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	if p12, err = pkcs12.Modern.Encode(key, cert, nil, "secret"); err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})) + string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})), p12
}

func TestAuthoritiesAreImported(t *testing.T) {
	text, p12 := someRoot(t)
	for name, body := range map[string]map[string]any{
		"PEM":      {"pem": text},
		"PKCS #12": {"pkcs12": p12, "passphrase": "secret"},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t)
			h.identified(t, "d1")
			var got authority
			h.do(t, exchange{method: "POST", path: "/api/v1/ca/root/import", body: body}).want(t, 201, &got)
			if got.State != "next" || !got.Imported || got.Subject != "CN=Example Root" || got.Key.Type != "EC" || got.Generation != 2 {
				t.Errorf("it is %+v", got)
			}
			h.do(t, exchange{method: "POST", path: "/api/v1/ca/root/import", body: body}).wantProblem(t, 409, "ca_next_exists")
			h.do(t, exchange{method: "POST", path: "/api/v1/ca/root/retire", body: map[string]any{"id": got.ID}}).want(t, 200, &got)
			if all, _ := h.ca(t); got.State != "retired" || len(all) != 3 {
				t.Errorf("discarded it is %s, and there are %d authorities", got.State, len(all))
			}
			h.do(t, exchange{method: "POST", path: "/api/v1/ca/root/import", body: body}).want(t, 201, nil)
		})
	}
}

func TestRequestsForAuthoritiesThatAreWrong(t *testing.T) {
	h := newHouse(t)
	text, p12 := someRoot(t)
	active := h.depot.Identity().ID()
	for name, tt := range map[string]struct {
		path   string
		body   any
		status int
		code   string
		field  string
	}{
		"nothing to import":         {"root/import", map[string]any{}, 400, "", "pem"},
		"both forms":                {"root/import", map[string]any{"pem": text, "pkcs12": p12}, 400, "", "pkcs12"},
		"no passphrase":             {"root/import", map[string]any{"pkcs12": p12}, 400, "", "passphrase"},
		"the wrong passphrase":      {"root/import", map[string]any{"pkcs12": p12, "passphrase": "x"}, 400, "", "passphrase"},
		"a certificate alone":       {"root/import", map[string]any{"pem": text[:strings.Index(text, "-----BEGIN PRIVATE")]}, 400, "", "key"},
		"ECDSA for identities":      {"identity/import", map[string]any{"pem": text}, 400, "", "certificate"},
		"no such authority":         {"office/import", map[string]any{"pem": text}, 404, "not_found", ""},
		"too many an hour":          {"root/rollover", map[string]any{"per_hour": 6001}, 400, "", "per_hour"},
		"a rollover of none":        {"office/rollover", nil, 404, "not_found", ""},
		"the end of none":           {"identity/retire", map[string]any{"id": "0123456789abcdef"}, 404, "not_found", ""},
		"the end of one without ID": {"identity/retire", map[string]any{"id": ""}, 400, "", "id"},
		"the end of the active one": {"identity/retire", map[string]any{"id": active}, 409, "ca_not_retirable", ""},
		"the end of another role's": {"root/retire", map[string]any{"id": active}, 404, "not_found", ""},
	} {
		t.Run(name, func(t *testing.T) {
			x := h.do(t, exchange{method: "POST", path: "/api/v1/ca/" + tt.path, body: tt.body, wild: true})
			if tt.field != "" {
				x.wantField(t, tt.field)
				return
			}
			x.wantProblem(t, tt.status, tt.code)
		})
	}
	if all, _ := h.ca(t); len(all) != 3 {
		t.Errorf("there are %d authorities, want 3", len(all))
	}
}

func TestAuthoritiesAreTheOwners(t *testing.T) {
	h := newHouse(t)
	for _, path := range []string{"root/import", "identity/rollover", "identity/retire"} {
		x := exchange{method: "POST", path: "/api/v1/ca/" + path, body: map[string]any{"id": "x"}, token: h.token(t, identity.ScopeAdmin), wild: true}
		h.do(t, x).wantProblem(t, 403, "forbidden")
	}
	for _, path := range []string{"", "/identity/rollover"} {
		h.do(t, exchange{method: "GET", path: "/api/v1/ca" + path, token: h.token(t, identity.ScopeCertManage)}).wantProblem(t, 403, "forbidden")
	}
}
