package apiv1_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/depot"
	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
)

type certificate struct {
	Serial, Fingerprint, Subject, Template, User, Authority, Issuer, Door, Requester, Replaces, Status string

	SANs     []string
	DeviceID string    `json:"device_id"`
	IssuedAt time.Time `json:"issued_at"`
	NotAfter time.Time `json:"not_after"`
	Reason   string    `json:"revocation_reason"`
}

// certificates reads the whole list in pages of two.
func (h *house) certificates(t testing.TB, query string) (all []certificate) {
	t.Helper()
	return h.certificatesAt(t, "/api/v1/certificates?limit=2&"+query, "")
}

func (h *house) certificatesAt(t testing.TB, path, token string) (all []certificate) {
	t.Helper()
	for cursor := ""; ; {
		var page struct {
			Items      []certificate
			NextCursor string `json:"next_cursor"`
		}
		h.do(t, exchange{method: "GET", path: path + "&cursor=" + url.QueryEscape(cursor), token: token}).want(t, 200, &page)
		all = append(all, page.Items...)
		if cursor = page.NextCursor; cursor == "" {
			return all
		}
	}
}

// make makes a certificate by hand.
func (h *house) make(t testing.TB, body map[string]any) (made delivery) {
	t.Helper()
	h.do(t, exchange{method: "POST", path: "/api/v1/certificates", body: body}).want(t, 201, &made)
	return made
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// requestFor is a certificate request that asks for nothing, in PEM.
func requestFor(t testing.TB, key crypto.Signer) string {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
}

// stocked has certificates of two templates, for a device, two users, and nobody.
func stocked(t testing.TB) (h *house, serial map[string]string) {
	t.Helper()
	h = newHouse(t)
	h.ana(t)
	h.device(t, "d1", nil)
	h.template(t, map[string]any{"validity": "20d"})
	h.template(t, map[string]any{"name": "mail", "subject": "/CN=$FULLNAME", "sans": map[string]any{"rfc822Name": []string{"$EMAIL"}}, "ext_key_usage": []string{"emailProtection"}})
	serial = map[string]string{}
	for name, body := range map[string]map[string]any{
		"device": {"template": "wifi", "device_id": "d1"},
		"user":   {"template": "mail", "user": "ANA"},
		"other":  {"template": "mail", "subject": "/CN=Zoe", "sans": map[string]any{"rfc822Name": "zoe@elsewhere.example"}},
	} {
		body["csr"] = requestFor(t, newKey(t)) // making RSA keys takes a while
		serial[name] = h.make(t, body).Certificate.Serial
	}
	return h, serial
}

func TestCertificatesAreSearched(t *testing.T) {
	h, serial := stocked(t)
	at := func(d time.Duration) string { return url.QueryEscape(h.now().Add(d).Format(time.RFC3339)) }
	const day = 24 * time.Hour
	for name, tt := range map[string]struct {
		query string
		want  []string
	}{
		"all":                             {"", []string{"device", "user", "other"}},
		"a text in any case":              {"text=ELSEWHERE", []string{"other"}},
		"a serial number":                 {"text=" + strings.ToUpper(serial["user"]), []string{"user"}},
		"a user, by the username":         {"user=ana", []string{"device", "user"}},
		"a user, by the e-mail":           {"user=Ana@Example.com", []string{"device", "user"}},
		"a device":                        {"device_id=d1", []string{"device"}},
		"a template":                      {"template=mail", []string{"user", "other"}},
		"a template and a user":           {"template=mail&user=ana", []string{"user"}},
		"by hand":                         {"door=manual", []string{"device", "user", "other"}},
		"by no door that there is":        {"door=window", nil},
		"an authority":                    {"authority=payload", []string{"device", "user", "other"}},
		"an authority by its ID":          {"authority=" + h.depot.Payload().ID(), []string{"device", "user", "other"}},
		"another authority":               {"authority=identity", nil},
		"that end soon":                   {"expires_before=" + at(30*day), []string{"device"}},
		"that do not end soon":            {"expires_after=" + at(30*day), []string{"user", "other"}},
		"active":                          {"status=active", []string{"device", "user", "other"}},
		"revoked, of which there is none": {"status=revoked", nil},
	} {
		t.Run(name, func(t *testing.T) {
			var got, want []string
			for _, c := range h.certificates(t, tt.query) {
				got = append(got, c.Serial)
			}
			for _, name := range tt.want {
				want = append(want, serial[name])
			}
			slices.Sort(got)
			slices.Sort(want)
			if !slices.Equal(got, want) {
				t.Errorf("found are %v, want %v", got, want)
			}
		})
	}
	for query, field := range map[string]string{
		"status=bad": "status", "expires_before=tomorrow": "expires_before", "expires_after=1": "expires_after", "text=a&text=b": "text",
		"text=" + strings.Repeat("x", 600): "text",
	} {
		h.do(t, exchange{method: "GET", path: "/api/v1/certificates?" + query, wild: true}).wantField(t, field)
	}
	h.do(t, exchange{method: "GET", path: "/api/v1/certificates?cursor=abc"}).wantProblem(t, 400, "invalid_cursor")

	device := h.certificates(t, "device_id=d1")[0]
	if device.Authority != "payload" || device.Issuer != h.depot.Payload().ID() || device.Requester != "token:test" || device.Fingerprint == "" || !device.IssuedAt.Equal(h.now()) {
		t.Errorf("the device's certificate is %+v", device)
	}
}

func TestCertificatesAreCounted(t *testing.T) {
	h, serial := stocked(t)
	h.do(t, exchange{method: "POST", path: "/api/v1/certificates/" + serial["other"] + "/revoke", body: map[string]any{"reason": "superseded"}}).want(t, 200, nil)
	h.pass(48 * time.Hour)
	type counts struct {
		Total, Active, Expired, Revoked int

		Expiring int `json:"expiring_in_30d"`
		Day      int `json:"issued_in_last_24h"`
		Month    int `json:"issued_in_last_30d"`
	}
	var got struct {
		counts
		Templates []struct {
			Template string
			counts
		}
	}
	h.do(t, exchange{method: "GET", path: "/api/v1/certificates/summary"}).want(t, 200, &got)
	if want := (counts{Total: 3, Active: 2, Revoked: 1, Expiring: 1, Month: 3}); got.counts != want {
		t.Errorf("counted are %+v, want %+v", got.counts, want)
	}
	if len(got.Templates) != 2 || got.Templates[0].Template != "mail" || got.Templates[0].Total != 2 || got.Templates[0].Revoked != 1 || got.Templates[1].Expiring != 1 {
		t.Errorf("by template they are %+v", got.Templates)
	}
}

func TestACertificateIsDownloaded(t *testing.T) {
	h, serial := stocked(t)
	get := func(query string) exchange {
		return h.do(t, exchange{method: "GET", path: "/api/v1/certificates/" + serial["user"] + "/download" + query})
	}
	der, text := get("?format=der"), get("")
	der.want(t, 200, nil)
	text.want(t, 200, nil)
	block, rest := pem.Decode(text.answer)
	if block == nil || len(rest) > 0 || !bytes.Equal(block.Bytes, der.answer) {
		t.Errorf("PEM and DER are not the same")
	}
	for name, want := range map[string]string{"Content-Type": "application/pkix-cert", "Content-Disposition": `attachment; filename="` + serial["user"] + `.cer"`} {
		if got := der.response.Get(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	h.do(t, exchange{method: "GET", path: "/api/v1/certificates/" + serial["user"] + "/download?format=p7b", wild: true}).wantField(t, "format")
	h.do(t, exchange{method: "GET", path: "/api/v1/certificates/abcd/download"}).wantProblem(t, 404, "not_found")
}

// TestCertificatesAreManagedAsWithSCEPman is the life of its clients.
func TestCertificatesAreManagedAsWithSCEPman(t *testing.T) {
	h, serial := stocked(t)
	token := h.token(t, identity.ScopeCertManage)
	found := h.certificatesAt(t, "/api/manage/search?text=zoe", token)
	if len(found) != 1 || found[0].Serial != serial["other"] {
		t.Fatalf("found are %+v", found)
	}
	path := "/api/manage/revoke/" + found[0].Serial
	h.do(t, exchange{method: "PATCH", path: path, body: map[string]any{"reason": "because"}, token: token, wild: true}).wantField(t, "reason")
	var revoked certificate
	h.do(t, exchange{method: "PATCH", path: path, body: map[string]any{"reason": "affiliationChanged"}, token: token}).want(t, 200, &revoked)
	if revoked.Status != string(depot.Revoked) || revoked.Reason != "affiliationChanged" {
		t.Errorf("revoked it is %+v", revoked)
	}
	events := h.audit(t, token, "certificate="+found[0].Serial)
	if len(events) != 2 || events[0].Action != "certificate.revoked" || events[0].Actor != "token:test" || events[0].Reason != "affiliationChanged" || events[1].Action != "certificate.issued" {
		t.Errorf("the audit log of the certificate is %+v", events)
	}
	h.do(t, exchange{method: "POST", path: "/api/v1/certificates", body: map[string]any{"template": "mail", "user": "ana"}, token: token}).wantProblem(t, 403, "forbidden")
}
