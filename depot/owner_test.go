package depot_test

import (
	"crypto/x509/pkix"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/depot"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

func TestCertificatesFollowTheirUser(t *testing.T) {
	storagetest.AnyEngine(t)
	db := storagetest.Open(t)
	d := open(t, config(t, db))
	now := time.Now()
	fps := map[string]depot.Fingerprint{}
	for name, rec := range map[string]depot.Certificate{
		"by username":         {User: "Ana"},
		"by address":          {User: "ana@example.com", Door: "est"},
		"revoked":             {User: "ana"},
		"another user's":      {User: "ana.other"},
		"nobody's":            {},
		"on the device":       {User: "ana", DeviceID: "d1"},
		"of the owner before": {User: "bea", DeviceID: "d1"},
		"of an attempt":       {User: "ana", AttemptID: "a1"},
		"on another device":   {User: "ana", DeviceID: "d2"},
	} {
		rec.Template = "vpn"
		cert := issued(t, d, db, d.Payload(), depot.Contents{Name: "vpn", Subject: pkix.Name{CommonName: name}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour)}, rec)
		fps[name] = depot.FingerprintOf(cert)
	}
	update(t, db, func(tx storage.Tx) error { return d.Revoke(tx, fps["revoked"], "keyCompromise", now) })

	gone := []string{"ana", "ANA@example.com"}
	update(t, db, func(tx storage.Tx) error {
		if err := d.RenameUser(tx, gone, "ana@new.example.com"); err != nil {
			return err
		}
		if err := d.RenameUserOfDevice(tx, "d1", gone, "ana@new.example.com"); err != nil {
			return err
		}
		return d.RenameUserOfAttempt(tx, "a1", gone, "ana@new.example.com")
	})
	view(t, db, func(tx storage.Tx) error {
		for name, want := range map[string]string{
			"by username": "ana@new.example.com", "by address": "ana@new.example.com", "revoked": "ana@new.example.com",
			"on the device": "ana@new.example.com", "of an attempt": "ana@new.example.com",
			"another user's": "ana.other", "nobody's": "", "of the owner before": "bea", "on another device": "ana",
		} {
			if c, err := d.Get(tx, fps[name]); err != nil || c.User != want {
				t.Errorf("the certificate %s is %q's, %v; want %q", name, c.User, err, want)
			}
		}
		return nil
	})
	// What ends with the user now is what was theirs, and what ends with the next one of
	// that name is nothing.
	for login, want := range map[string]int{"ana": 0, "ana@example.com": 0, "Ana@New.example.com": 3} {
		n := 0
		view(t, db, func(tx storage.Tx) error {
			n = 0
			for _, err := range d.ByUser(tx, login) {
				if err != nil {
					return err
				}
				n++
			}
			return nil
		})
		if n != want {
			t.Errorf("%s has %d certificates, want %d", login, n, want)
		}
	}
}
