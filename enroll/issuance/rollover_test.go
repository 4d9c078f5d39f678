package issuance_test

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// broughtForward asks for another certificate, as a rollover does, and says whether there
// will be one.
func (h *house) broughtForward(t *testing.T, name string, id mdm.DeviceID) (will bool) {
	t.Helper()
	h.update(t, func(tx storage.Tx) (err error) {
		will, err = h.RenewBy(tx, name, id, h.now())
		return err
	})
	return will
}

func TestARolloverLeavesDevicesAloneThatDoNotTakeACertificate(t *testing.T) {
	storagetest.AnyEngine(t)
	for name, tt := range map[string]struct {
		story func(t *testing.T, h *house)
		want  bool
	}{
		"one that has a certificate gets the next": {func(*testing.T, *house) {}, true},
		"one that was just sent a profile goes on with that": {func(t *testing.T, h *house) {
			h.send(t, "wifi", "d1")
		}, false},
		"one that failed is left alone for a day": {func(t *testing.T, h *house) {
			h.answer(t, "d1", h.send(t, "wifi", "d1").uuid, mdm.Failed)
			h.pass(24*time.Hour - time.Minute)
		}, false},
		"one that acknowledged and asked for none is left alone for a day": {func(t *testing.T, h *house) {
			h.pass(time.Minute)
			h.answer(t, "d1", h.send(t, "wifi", "d1").uuid, mdm.Acknowledged)
			h.pass(24*time.Hour - time.Minute)
		}, false},
		"and after the day it gets the next": {func(t *testing.T, h *house) {
			h.pass(time.Minute)
			h.answer(t, "d1", h.send(t, "wifi", "d1").uuid, mdm.Acknowledged)
			h.pass(24 * time.Hour)
		}, true},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t)
			h.template(t, "wifi", nil)
			h.device(t, "d1", nil)
			h.install(t, "wifi", "d1")
			tt.story(t, h)
			before := h.assignment(t, "wifi", "d1").DueAt
			if got := h.broughtForward(t, "wifi", "d1"); got != tt.want {
				t.Errorf("RenewBy = %v, want %v", got, tt.want)
			}
			if now := h.assignment(t, "wifi", "d1").DueAt; now.Equal(before) == tt.want {
				t.Errorf("the next try was to be made at %v, and is to be made at %v", before, now)
			}
		})
	}
}

// A holder who renews over EST is not cut off when the authority is retired: its record
// vouches for the certificate, and the active authority issues.
func TestCertificatesOfARetiredIssuerAreReissued(t *testing.T) {
	h := officeHouse(t)
	asked := x509.CertificateRequest{Subject: pkix.Name{CommonName: "Ana Bee"}, ExtraExtensions: []pkix.Extension{upn(t, "ana@example.com")}}
	old, err := h.IssueCSR(t.Context(), token("ana@example.com", identity.ScopeCertSelf), application(t, asked))
	must(t, err)
	retired := h.depot.Payload()
	next, err := h.depot.Generate(t.Context(), "payload", nil)
	must(t, err)
	h.update(t, func(tx storage.Tx) error { return h.depot.Activate(tx, next.ID()) })
	must(t, h.depot.Reload(t.Context()))
	h.pass(2 * time.Minute)
	h.update(t, func(tx storage.Tx) error { return h.depot.Retire(tx, retired.ID()) })
	must(t, h.depot.Reload(t.Context()))
	again, err := h.Reissue(t.Context(), old, application(t, asked))
	must(t, err)
	must(t, again.CheckSignatureFrom(next.Certificate()))
}
