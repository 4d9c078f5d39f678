package apiv1_test

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"strings"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/depot"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

func TestACertificateOfAnotherAuthorityIsRevokedThereToo(t *testing.T) {
	h := newHouse(t)
	key := newKey(t)
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "Another CA"}, NotBefore: h.now(), NotAfter: h.now().AddDate(1, 0, 0)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	if err := h.db.Update(context.Background(), func(tx storage.Tx) error {
		return h.depot.Record(tx, cert, depot.Certificate{Authority: depot.ExternalAuthority, Template: "wifi", Door: "proxy"})
	}); err != nil {
		t.Fatal(err)
	}
	serial := string(depot.ExternalSerial(cert))
	if !strings.HasPrefix(serial, "2-") {
		t.Errorf("it is known as %s, want its number first", serial)
	}
	type answer struct {
		Authority, Issuer, Status string

		Note string `json:"revocation_note"`
	}
	var before, after answer
	h.do(t, exchange{method: "GET", path: "/api/v1/certificates/" + serial}).want(t, 200, &before)
	if before != (answer{Authority: "external", Status: "active"}) {
		t.Errorf("at first it is %+v", before)
	}
	h.do(t, exchange{method: "POST", path: "/api/v1/certificates/" + serial + "/revoke", body: map[string]any{"reason": "keyCompromise"}}).want(t, 200, &after)
	if after.Status != "revoked" || !strings.Contains(after.Note, "must revoke it too") {
		t.Errorf("revoked, it is %+v, want a note", after)
	}
	var log struct {
		Items []struct {
			Certificate string
			Details     map[string]string
		}
	}
	h.do(t, exchange{method: "GET", path: "/api/v1/audit?action=certificate.revoked"}).want(t, 200, &log)
	if len(log.Items) != 1 || log.Items[0].Certificate != serial || log.Items[0].Details["note"] != after.Note {
		t.Errorf("the audit log has %+v", log.Items)
	}
}
