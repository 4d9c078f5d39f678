package depot_test

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/depot"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/bolt"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// found searches page by page, and returns the subjects' common names in order.
func found(t testing.TB, d *depot.Depot, db storage.DB, f depot.Filter, limit int) (names []string) {
	t.Helper()
	for cursor := ""; ; {
		var page []depot.Certificate
		var next string
		view(t, db, func(tx storage.Tx) (err error) {
			page, next, err = d.Search(tx, f, cursor, limit)
			return err
		})
		if len(page) > limit {
			t.Errorf("a page has %d certificates, at most %d", len(page), limit)
		}
		for _, c := range page {
			names = append(names, strings.TrimPrefix(c.Subject, "CN="))
		}
		if cursor = next; cursor == "" {
			slices.Sort(names)
			return names
		}
	}
}

func TestCertificatesAreFound(t *testing.T) {
	db := storagetest.Open(t)
	c := config(t, db)
	now := time.Now().UTC().Truncate(time.Second)
	c.Now = func() time.Time { return now }
	d := open(t, c)
	serial := map[string]depot.Serial{}
	issue := func(cn string, a *depot.Authority, life time.Duration, rec depot.Certificate, change func(*depot.Contents)) *x509.Certificate {
		in := depot.Contents{Name: rec.Template, Subject: pkix.Name{CommonName: cn}, NotBefore: now.Add(-2 * time.Hour), NotAfter: now.Add(life)}
		if change != nil {
			change(&in)
		}
		cert := issued(t, d, db, a, in, rec)
		serial[cn] = depot.SerialOf(cert)
		return cert
	}
	issue("ana", d.Payload(), 48*time.Hour, depot.Certificate{Template: "wifi", DeviceID: "d1", User: "Ana@example.com", Door: "scep"}, func(in *depot.Contents) {
		in.UserPrincipalNames, in.URIs = []string{"Ana@corp.example.com"}, []string{"mdm-device://d1"}
	})
	issue("bea", d.Payload(), 48*time.Hour, depot.Certificate{Template: "vpn", DeviceID: "phone-two", User: "bea@example.com", Door: "manual"}, func(in *depot.Contents) {
		in.DNSNames = []string{"bea.example.com"}
	})
	issue("old", d.Identity(), -time.Hour, depot.Certificate{Template: "identity", DeviceID: "d1"}, nil)
	bad := issue("bad", d.Identity(), 400*time.Hour, depot.Certificate{Template: "identity", DeviceID: "phone-two"}, nil)
	update(t, db, func(tx storage.Tx) error { return d.Revoke(tx, depot.FingerprintOf(bad), "keyCompromise", now) })
	// As records were before they told the names and the issuer.
	before := issue("before", d.Root(), 48*time.Hour, depot.Certificate{Template: "tls"}, func(in *depot.Contents) { in.DNSNames = []string{"mdm.example.com"} })
	update(t, db, func(tx storage.Tx) error {
		rec, err := d.Get(tx, depot.FingerprintOf(before))
		if err != nil {
			return err
		}
		rec.SANs, rec.Issuer = nil, ""
		return depot.PutCertificate(tx, rec)
	})

	for name, tt := range map[string]struct {
		filter depot.Filter
		want   string
	}{
		"all":                                {depot.Filter{}, "ana bad bea before old"},
		"a subject, in any case":             {depot.Filter{Text: " AN"}, "ana"},
		"a principal name":                   {depot.Filter{Text: "corp.example"}, "ana"},
		"a URI":                              {depot.Filter{Text: "device://d1"}, "ana"},
		"a name of an old record":            {depot.Filter{Text: "MDM.example"}, "before"},
		"what several have":                  {depot.Filter{Text: "example.com"}, "ana bea before"},
		"a device's ID as text":              {depot.Filter{Text: "phone-two"}, "bad bea"},
		"a serial number":                    {depot.Filter{Text: string(serial["bea"])}, "bea"},
		"a serial number as tools print it":  {depot.Filter{Text: colons(serial["bea"])}, "bea"},
		"the beginning of a serial number":   {depot.Filter{Text: string(serial["old"][:12])}, "old"},
		"nothing that anything says":         {depot.Filter{Text: "zz"}, ""},
		"a device":                           {depot.Filter{DeviceID: "d1"}, "ana old"},
		"a device and a status":              {depot.Filter{DeviceID: "d1", Status: depot.Expired}, "old"},
		"a device's ID is not a part of one": {depot.Filter{DeviceID: "d"}, ""},
		"a user, in any case":                {depot.Filter{Users: []string{"ANA@example.com"}}, "ana"},
		"one of a user's logins":             {depot.Filter{Users: []string{"bea", "bea@example.com"}}, "bea"},
		"a template":                         {depot.Filter{Template: "vpn"}, "bea"},
		"a door":                             {depot.Filter{Door: "scep"}, "ana"},
		"an authority":                       {depot.Filter{Authority: "identity"}, "bad old"},
		"an authority by its ID":             {depot.Filter{Authority: d.Payload().ID()}, "ana bea"},
		"the authority of an old record":     {depot.Filter{Authority: d.Root().ID()}, "before"},
		"active":                             {depot.Filter{Status: depot.Active}, "ana bea before"},
		"expired":                            {depot.Filter{Status: depot.Expired}, "old"},
		"revoked":                            {depot.Filter{Status: depot.Revoked}, "bad"},
		"that end soon":                      {depot.Filter{ExpiresAfter: now, ExpiresBefore: now.Add(72 * time.Hour)}, "ana bea before"},
		"that end before the end is told":    {depot.Filter{ExpiresBefore: now.Add(48 * time.Hour)}, "old"},
		"that end after the end is told":     {depot.Filter{ExpiresAfter: now.Add(48 * time.Hour)}, "bad"},
	} {
		t.Run(name, func(t *testing.T) {
			for _, limit := range []int{1, 2, 100} {
				if got := strings.Join(found(t, d, db, tt.filter, limit), " "); got != tt.want {
					t.Errorf("in pages of %d: %q, want %q", limit, got, tt.want)
				}
			}
		})
	}
	view(t, db, func(tx storage.Tx) error {
		for _, cursor := range []string{"x", strings.Repeat("g", 64), strings.Repeat("a", 63), strings.Repeat("A", 64)} {
			if _, _, err := d.Search(tx, depot.Filter{}, cursor, 1); !errors.Is(err, storage.ErrBadCursor) {
				t.Errorf("Search with the cursor %q: %v, want %v", cursor, err, storage.ErrBadCursor)
			}
		}
		return nil
	})

	// A user's own certificates end with the user, however the name is written.
	own := issue("own", d.Payload(), 48*time.Hour, depot.Certificate{Template: "mail", User: "Cyd@Example.com"}, nil)
	update(t, db, func(tx storage.Tx) error { return d.RevokeUser(tx, "cyd@example.com", "privilegeWithdrawn", now) })
	view(t, db, func(tx storage.Tx) error {
		rec, err := d.Get(tx, depot.FingerprintOf(own))
		if err == nil && rec.RevocationReason != "privilegeWithdrawn" {
			t.Errorf("the certificate of a user who is gone is %s", rec.Status(now))
		}
		return err
	})

	var all depot.Counts
	var by map[string]depot.Counts
	view(t, db, func(tx storage.Tx) (err error) {
		all, by, err = d.Count(tx, 72*time.Hour)
		return err
	})
	if want := (depot.Counts{Total: 6, Active: 3, Expired: 1, Revoked: 2, Expiring: 3, IssuedLastDay: 6, IssuedLast30Days: 6}); all != want {
		t.Errorf("Count = %+v, want %+v", all, want)
	}
	if want := (depot.Counts{Total: 2, Expired: 1, Revoked: 1, IssuedLastDay: 2, IssuedLast30Days: 2}); by["identity"] != want {
		t.Errorf("Count of identities = %+v, want %+v", by["identity"], want)
	}
	now = now.Add(47 * time.Hour)
	view(t, db, func(tx storage.Tx) (err error) {
		all, _, err = d.Count(tx, 30*time.Minute)
		return err
	})
	if all.Active != 3 || all.Expiring != 0 || all.IssuedLastDay != 0 || all.IssuedLast30Days != 6 {
		t.Errorf("two days later Count = %+v, want none that was issued within a day, or ends within half an hour", all)
	}
}

// colons writes a serial number as openssl prints it.
func colons(s depot.Serial) string {
	text := strings.ToUpper(string(s))
	if len(text)%2 == 1 {
		text = "0" + text
	}
	var parts []string
	for i := 0; i < len(text); i += 2 {
		parts = append(parts, text[i:i+2])
	}
	return strings.Join(parts, ":")
}

// TestASearchIsBounded looks for the last of more certificates than one page looks at.
func TestASearchIsBounded(t *testing.T) {
	storagetest.AnyEngine(t)
	db := storagetest.Open(t)
	d := open(t, config(t, db))
	const looked, all = 100, 110
	depot.LookAt(d, looked)
	putCertificates(t, db, all)
	var first []depot.Certificate
	var next string
	f := depot.Filter{Text: fmt.Sprintf("cn=device %d", all-1)}
	view(t, db, func(tx storage.Tx) (err error) {
		first, next, err = d.Search(tx, f, "", 10)
		return err
	})
	if len(first) != 0 || next == "" {
		t.Errorf("the first page has %d certificates and the cursor %q, want none yet and a cursor", len(first), next)
	}
	if got := found(t, d, db, f, 10); len(got) != 1 {
		t.Errorf("found are %v, want one", got)
	}
	if got := found(t, d, db, depot.Filter{Template: "wifi"}, 1000); len(got) != all {
		t.Errorf("found are %d, want %d", len(got), all)
	}
}

// putCertificates stores the records of many certificates.
func putCertificates(t testing.TB, db storage.DB, n int) {
	t.Helper()
	now := time.Now().UTC()
	for i := 0; i < n; i += 1000 {
		update(t, db, func(tx storage.Tx) error {
			for j := i; j < min(i+1000, n); j++ {
				err := depot.PutCertificate(tx, depot.Certificate{
					Fingerprint: depot.Fingerprint(fmt.Sprintf("%064x", j)), Serial: depot.Serial(fmt.Sprintf("7f%030x", j)),
					Authority: "payload", Issuer: "0123456789abcdef", Subject: fmt.Sprintf("CN=device %d,O=Example,C=HR", j),
					SANs: []string{fmt.Sprintf("mdm-device://%032x", j), fmt.Sprintf("upn:user%d@example.com", j)}, Template: "wifi",
					PublicKeyHash: fmt.Sprintf("%064x", j), DeviceID: fmt.Sprintf("%032x", j), User: fmt.Sprintf("user%d@example.com", j), Door: "scep",
					IssuedAt: now, NotBefore: now, NotAfter: now.AddDate(1, 0, 0),
				})
				if err != nil {
					return err
				}
			}
			return nil
		})
	}
}

// BenchmarkCount counts 100,000 certificates.
func BenchmarkCount(b *testing.B) {
	db, d := manyCertificates(b)
	for b.Loop() {
		view(b, db, func(tx storage.Tx) error {
			all, _, err := d.Count(tx, time.Hour)
			if err == nil && all.Total < 100_000 {
				b.Errorf("counted %d", all.Total)
			}
			return err
		})
	}
}

// BenchmarkSearch looks at one page of 100,000 certificates in vain.
func BenchmarkSearch(b *testing.B) {
	db, d := manyCertificates(b)
	for b.Loop() {
		view(b, db, func(tx storage.Tx) error {
			_, _, err := d.Search(tx, depot.Filter{Text: "nobody"}, "", 100)
			return err
		})
	}
}

func manyCertificates(b *testing.B) (storage.DB, *depot.Depot) {
	db, err := bolt.Open(b.Context(), filepath.Join(b.TempDir(), "gatehouse.db"), bolt.Options{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = db.Close() })
	putCertificates(b, db, 100_000)
	return db, open(b, config(b, db))
}
