package apiv1_test

import (
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/depot/depottest"
	"github.com/gatehouse-mdm/gatehouse/mdm"
)

// pushTopic is what devices of these tests are woken by.
const pushTopic = "com.apple.mgmt.External.1"

// certificateFor makes a certificate as Apple's portal does, of the key that goes by a name.
func (h *house) certificateFor(t testing.TB, topic, key string, public any, end time.Time) (cert, keyPEM []byte) {
	t.Helper()
	private, err := depottest.NewKey(key, 2048)
	if err != nil {
		t.Fatal(err)
	}
	if public == nil {
		public = private.Public()
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), NotBefore: h.now().Add(-time.Hour), NotAfter: end,
		Subject: pkix.Name{CommonName: "APSP:test", ExtraNames: []pkix.AttributeTypeAndValue{{Type: asn1.ObjectIdentifier{0, 9, 2342, 19200300, 100, 1, 1}, Value: topic}}},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, public, private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
}

type pushCertificate struct {
	Topic        string    `json:"topic"`
	NotAfter     time.Time `json:"not_after"`
	DaysLeft     int       `json:"days_left"`
	SHA256       string    `json:"sha256"`
	State        string    `json:"state"`
	AppleAccount string    `json:"apple_account"`
	IsDefault    bool      `json:"is_default"`
	Devices      int       `json:"devices"`
	Warnings     []string  `json:"warnings"`
	Ready        *struct {
		SHA256 string `json:"sha256"`
	} `json:"ready"`
}

func into[T any](t testing.TB, x exchange, status int) (out T) {
	t.Helper()
	if x.status != status {
		t.Fatalf("%s %s: %d %s, want %d", x.method, x.path, x.status, x.answer, status)
	}
	if err := json.Unmarshal(x.answer, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestPushCertificatesAreUploadedRenewedAndDeleted(t *testing.T) {
	h := newHouse(t)
	const all = "/api/v1/push-certificates"
	link := func() (warnings []string) {
		t.Helper()
		return into[struct{ Warnings []string }](t, h.do(t, exchange{method: "POST", path: "/api/v1/enrollment-links", body: map[string]any{"login": "none"}}), http.StatusCreated).Warnings
	}
	if got := link(); len(got) != 1 || !strings.Contains(got[0], "There is no push certificate") {
		t.Errorf("a link without a push certificate warns %q", got)
	}
	year := h.now().AddDate(1, 0, 0)
	cert, key := h.certificateFor(t, pushTopic, "push-1", nil, year)
	first := into[pushCertificate](t, h.do(t, exchange{method: "PUT", path: all + "?apple_account=it%40example.com", body: append(cert, key...)}), http.StatusOK)
	if first.Topic != pushTopic || !first.NotAfter.Equal(year.Truncate(time.Second)) || first.SHA256 == "" || first.State != "active" || !first.IsDefault || first.AppleAccount != "it@example.com" || first.DaysLeft < 364 {
		t.Errorf("PUT = %+v", first)
	}
	if got := link(); len(got) != 0 {
		t.Errorf("a link with one warns %q", got)
	}

	// A renewal waits until it is activated.
	cert, key = h.certificateFor(t, pushTopic, "push-2", nil, year.AddDate(0, 1, 0))
	renewed := into[pushCertificate](t, h.do(t, exchange{method: "PUT", path: all + "?activate=false", body: append(cert, key...)}), http.StatusOK)
	if renewed.SHA256 != first.SHA256 || renewed.Ready == nil {
		t.Errorf("PUT with activate=false = %+v", renewed)
	}
	active := into[pushCertificate](t, h.do(t, exchange{method: "POST", path: all + "/" + pushTopic + "/activate"}), http.StatusOK)
	if active.SHA256 != renewed.Ready.SHA256 || active.Ready != nil || active.AppleAccount != "it@example.com" {
		t.Errorf("activate = %+v", active)
	}
	isProblem(t, h.do(t, exchange{method: "POST", path: all + "/" + pushTopic + "/activate"}), http.StatusConflict, "push_certificate_not_ready")

	// Another topic is added, with a word on those who depend on the first.
	for _, id := range []mdm.DeviceID{"d1", "d2"} {
		h.device(t, id, func(d *mdm.Device) { d.Push = &mdm.Push{Topic: pushTopic, Token: []byte{1}, Magic: "m"} })
	}
	h.device(t, "d3", func(d *mdm.Device) {
		d.Push = &mdm.Push{Topic: "com.apple.mgmt.External.gone", Token: []byte{1}, Magic: "m"}
	})
	cert, key = h.certificateFor(t, "com.apple.mgmt.External.2", "push-1", nil, year)
	other := into[pushCertificate](t, h.do(t, exchange{method: "POST", path: all + "/import", body: map[string]any{"file": cert, "key": key, "apple_account": "x@example.com"}}), http.StatusOK)
	if other.IsDefault || !strings.Contains(strings.Join(other.Warnings, " "), "2 devices are woken by another topic, "+pushTopic) {
		t.Errorf("import = %+v", other)
	}
	if got := into[pushCertificate](t, h.do(t, exchange{method: "PUT", path: all + "/com.apple.mgmt.External.2", body: map[string]any{"default": true}}), http.StatusOK); !got.IsDefault {
		t.Errorf("PUT = %+v", got)
	}
	isProblem(t, h.do(t, exchange{method: "PUT", path: all + "/com.apple.mgmt.External.2", body: map[string]any{"default": false}}), http.StatusBadRequest, "invalid_request")
	listed := into[struct {
		Items []pushCertificate
		Lost  []struct {
			Topic, Detail string
			Devices       int
		}
	}](t, h.do(t, exchange{method: "GET", path: all}), http.StatusOK)
	if len(listed.Items) != 2 || listed.Items[0].Devices != 2 || listed.Items[0].IsDefault || len(listed.Lost) != 1 || listed.Lost[0].Devices != 1 || !strings.Contains(listed.Lost[0].Detail, "restore that certificate") {
		t.Errorf("GET = %+v", listed)
	}

	isProblem(t, h.do(t, exchange{method: "DELETE", path: all + "/" + pushTopic}), http.StatusConflict, "push_certificate_in_use")
	if x := h.do(t, exchange{method: "DELETE", path: all + "/" + pushTopic + "?force=true"}); x.status != http.StatusNoContent {
		t.Errorf("DELETE = %d %s", x.status, x.answer)
	}
	isProblem(t, h.do(t, exchange{method: "DELETE", path: all + "/" + pushTopic}), http.StatusNotFound, "not_found")

	// Mistakes are told apart.
	strange, _ := h.certificateFor(t, "com.apple.mgmt.External.3", "push-3", nil, year)
	identity := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: h.depot.Identity().Certificate().Raw})
	for code, body := range map[string]any{
		"push_certificate_empty":            []byte(" "),
		"push_certificate_is_own_authority": identity,
		"push_certificate_no_key":           strange,
		"push_certificate_web_page":         []byte("<html>"),
		"push_certificate_no_certificate":   key,
	} {
		isProblem(t, h.do(t, exchange{method: "PUT", path: all, body: body}), http.StatusBadRequest, code)
	}
	isProblem(t, h.do(t, exchange{method: "PUT", path: all + "?activate=no", body: cert, wild: true}), http.StatusBadRequest, "invalid_request")
	isProblem(t, h.do(t, exchange{method: "PUT", path: all + "?activat=false", body: cert, wild: true}), http.StatusBadRequest, "invalid_request")

	// Profiles may wait for one.
	x := h.do(t, exchange{method: "PATCH", path: "/api/v1/settings", body: map[string]any{"require_push_certificate": true}})
	if got := into[map[string]any](t, x, http.StatusOK); got["require_push_certificate"] != true {
		t.Errorf("settings = %v", got)
	}
}

func TestAPushCertificateIsRequested(t *testing.T) {
	h := newHouse(t)
	const all = "/api/v1/push-certificate-requests"
	type request struct {
		ID, Kind, State, CSR, Topic, Next string
		HasFile                           bool `json:"has_file"`
	}
	r := into[request](t, h.do(t, exchange{method: "POST", path: all, body: map[string]any{"kind": "csr", "common_name": "mdm.example.com", "country": "DE", "apple_account": "it@example.com"}}), http.StatusCreated)
	if r.State != "open" || r.HasFile || !strings.Contains(r.Next, "MDM vendor") {
		t.Errorf("POST = %+v", r)
	}
	isProblem(t, h.do(t, exchange{method: "GET", path: all + "/" + r.ID + "/file"}), http.StatusConflict, "push_request_not_signed")
	isProblem(t, h.do(t, exchange{method: "POST", path: all, body: map[string]any{"kind": "vendor"}}), http.StatusConflict, "push_no_vendor_certificate")
	isProblem(t, h.do(t, exchange{method: "POST", path: all, body: map[string]any{"kind": "csr", "country": "GER"}}), http.StatusBadRequest, "invalid_request")
	isProblem(t, h.do(t, exchange{method: "POST", path: all + "/" + r.ID + "/mdmcert", body: []byte("x")}), http.StatusBadRequest, "push_certificate_other_request")
	x := h.do(t, exchange{method: "GET", path: all + "/" + r.ID + "/csr"})
	if x.status != http.StatusOK || string(x.answer) != r.CSR || !strings.HasPrefix(x.response.Get("Content-Disposition"), "attachment") {
		t.Errorf("GET csr = %d %v %s", x.status, x.response, x.answer)
	}
	block, _ := pem.Decode(x.answer)
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	cert, _ := h.certificateFor(t, pushTopic, "apple", csr.PublicKey, h.now().AddDate(1, 0, 0))
	if got := into[pushCertificate](t, h.do(t, exchange{method: "PUT", path: "/api/v1/push-certificates", body: cert}), http.StatusOK); got.AppleAccount != "it@example.com" {
		t.Errorf("PUT of the certificate alone = %+v", got)
	}
	if got := into[request](t, h.do(t, exchange{method: "GET", path: all + "/" + r.ID}), http.StatusOK); got.State != "fulfilled" || got.Topic != pushTopic {
		t.Errorf("GET = %+v", got)
	}

	// The vendor's certificate signs the next one.
	const vendor = "/api/v1/push-vendor-certificate"
	isProblem(t, h.do(t, exchange{method: "GET", path: vendor}), http.StatusNotFound, "not_found")
	key, err := depottest.NewKey("vendor", 2048)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "MDM Vendor: Example"}, NotBefore: h.now().Add(-time.Hour), NotAfter: h.now().AddDate(1, 0, 0)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	kept := into[struct{ Warnings, Chain []string }](t, h.do(t, exchange{method: "PUT", path: vendor, body: map[string]any{"file": der, "key": pkcs8}}), http.StatusOK)
	if len(kept.Chain) != 1 || len(kept.Warnings) != 1 || !strings.Contains(kept.Warnings[0], "not Apple") {
		t.Errorf("PUT = %+v", kept)
	}
	signed := into[request](t, h.do(t, exchange{method: "POST", path: all, body: map[string]any{"kind": "vendor", "renews": pushTopic}}), http.StatusCreated)
	if signed.State != "signed" || !signed.HasFile || !strings.Contains(signed.Next, "as it@example.com, press Renew") {
		t.Errorf("POST = %+v", signed)
	}
	x = h.do(t, exchange{method: "GET", path: all + "/" + signed.ID + "/file"})
	if plist, err := base64.StdEncoding.DecodeString(string(x.answer)); err != nil || !strings.Contains(string(plist), "PushCertRequestCSR") {
		t.Errorf("GET file = %d %s, %v", x.status, x.answer, err)
	}
	for _, path := range []string{vendor, all + "/" + signed.ID} {
		if x := h.do(t, exchange{method: "DELETE", path: path}); x.status != http.StatusNoContent {
			t.Errorf("DELETE %s = %d %s", path, x.status, x.answer)
		}
	}
	if got := into[struct{ Items []request }](t, h.do(t, exchange{method: "GET", path: all}), http.StatusOK); len(got.Items) != 1 {
		t.Errorf("GET = %+v", got)
	}
}

// isProblem says whether x was answered with a problem of a code.
func isProblem(t testing.TB, x exchange, status int, code string) {
	t.Helper()
	got := into[struct{ Code, Detail string }](t, x, status)
	if got.Code != code {
		t.Errorf("%s %s: %s, want the code %s", x.method, x.path, x.answer, code)
	}
}
