package enroll_test

import (
	"crypto/x509"
	"errors"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

func TestWhoseCertificateVouches(t *testing.T) {
	storagetest.AnyEngine(t)
	day := 24 * time.Hour
	for name, tt := range map[string]struct {
		meanwhile func(*testing.T, *house, phone)
		want      error
	}{
		"of an enrolled device":      {func(*testing.T, *house, phone) {}, nil},
		"before it expires":          {func(_ *testing.T, h *house, p phone) { h.pass(p.cert.NotAfter.Sub(h.now())) }, nil},
		"after it has expired":       {func(_ *testing.T, h *house, p phone) { h.pass(p.cert.NotAfter.Sub(h.now()) + day) }, enroll.ErrUnidentified},
		"of a device that left":      {func(t *testing.T, _ *house, p phone) { must(t, p.checkOut()) }, enroll.ErrGone},
		"of one that was unenrolled": {func(t *testing.T, h *house, p phone) { must(t, unenroll(h, p)) }, enroll.ErrGone},
		"of one that was blocked": {func(t *testing.T, h *house, p phone) {
			_, err := h.Block(t.Context(), h.device(t, p.id).ID)
			must(t, err)
		}, enroll.ErrGone},
		"whose user must sign in": {func(t *testing.T, h *house, p phone) {
			must(t, h.db.Update(t.Context(), func(tx storage.Tx) error {
				d, err := mdm.FindDevice(tx, p.id)
				if err != nil {
					return err
				}
				d.SignInRequiredAt = h.now()
				return mdm.PutDevice(tx, d)
			}))
		}, enroll.ErrWithheld},
		"of before a renewal": {func(t *testing.T, h *house, p phone) {
			r := h.renewing(t, p)
			must(t, r.renewed.authenticate())
			must(t, r.renewed.tokenUpdate("magic-2"))
			must(t, r.renewed.report(r.uuid, mdm.Acknowledged))
		}, enroll.ErrRetired},
		"during a renewal": {func(t *testing.T, h *house, p phone) { h.renewing(t, p) }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			keyring.reset()
			h := newHouse(t)
			p := h.enrolled(t, "ana", iphone)
			tt.meanwhile(t, h, p)
			d, err := h.Vouch(t.Context(), p.peer())
			if !errors.Is(err, tt.want) || err == nil && d.AppleID != iphone || err != nil && d.ID != "" {
				t.Errorf("Vouch = %v %v, want %v", d.AppleID, err, tt.want)
			}
		})
	}
	t.Run("which is nobody's, or no device's yet", func(t *testing.T) {
		keyring.reset()
		h := newHouse(t)
		fresh := h.withIdentity(t, h.link(t, enroll.NewLink{Uses: 10}), iphone)
		for what, tt := range map[string]struct {
			cert *x509.Certificate
			want error
		}{
			"none":                 {nil, enroll.ErrUnidentified},
			"of another authority": {request(t, keyring.take(t), "").Signer, enroll.ErrUnidentified},
			"of our authority":     {h.depot.Identity().Certificate(), enroll.ErrUnidentified},
			"not bound yet":        {fresh.cert, enroll.ErrNotAuthenticated},
		} {
			if _, err := h.Vouch(t.Context(), enroll.Peer{Certificate: tt.cert}); !errors.Is(err, tt.want) {
				t.Errorf("%s: %v, want %v", what, err, tt.want)
			}
		}
		must(t, fresh.authenticate())
		if _, err := h.Vouch(t.Context(), fresh.peer()); !errors.Is(err, enroll.ErrNotAuthenticated) {
			t.Errorf("before its first TokenUpdate: %v", err)
		}
	})
}
