package main

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"log/slog"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/depot"
	"github.com/gatehouse-mdm/gatehouse/depot/scep"
	"github.com/gatehouse-mdm/gatehouse/depot/template"
	"github.com/gatehouse-mdm/gatehouse/enroll/issuance"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/event"
	"github.com/gatehouse-mdm/gatehouse/mdm/mdmtest"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

// seedCertificates records n certificates, which nobody signed.
func seedCertificates(b *testing.B, s *state, n int) {
	b.Helper()
	issuer := s.depot.Payload().Certificate()
	now := time.Now()
	for from := 0; from < n; from += 2000 {
		err := s.db.Update(b.Context(), func(tx storage.Tx) error {
			for i := from; i < min(n, from+2000); i++ {
				raw, modulus, serial := make([]byte, 1000), make([]byte, 256), make([]byte, 16)
				rand.Read(raw)
				rand.Read(modulus)
				rand.Read(serial)
				cert := &x509.Certificate{
					Raw: raw, SerialNumber: new(big.Int).SetBytes(serial), Subject: pkix.Name{CommonName: fmt.Sprint("device ", i)},
					NotBefore: now, NotAfter: now.AddDate(1, 0, 0), AuthorityKeyId: issuer.SubjectKeyId,
					PublicKey: &rsa.PublicKey{N: new(big.Int).SetBytes(modulus), E: 65537},
				}
				err := s.depot.Record(tx, cert, depot.Certificate{Authority: "payload", Template: "wifi", DeviceID: fmt.Sprintf("seeded%08d", i), Door: "scep"})
				if err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkPayloadIssuance is a PKIOperation for a certificate of a template, from the
// message to the reply, durable, among so many others; beside it stand its RSA
// operations alone. Messages are made beforehand.
func BenchmarkPayloadIssuance(b *testing.B) {
	pool, err := keyPool()
	if err != nil {
		b.Fatal(err)
	}
	for _, among := range []int{1_000, 100_000} {
		b.Run(fmt.Sprintf("among=%d", among), func(b *testing.B) {
			ctx := b.Context()
			dir := b.TempDir()
			serverURL := &url.URL{Scheme: "https", Host: "mdm.example.com"}
			log := slog.New(slog.DiscardHandler)
			s, err := openState(ctx, config{dataDir: dir, store: "bolt:", secretsKeyFile: filepath.Join(dir, "secrets.key"), caKeyBits: 2048}, serverURL, log, time.Now)
			if err != nil {
				b.Fatal(err)
			}
			defer s.close()
			seedCertificates(b, s, among)
			templates, err := template.NewService(template.Config{DB: s.db, Box: s.box, Log: log, Now: time.Now})
			if err != nil {
				b.Fatal(err)
			}
			t := template.New("others")
			t.Subject, t.ChallengeType, t.Challenge = template.Subject{{{Type: "CN", Value: "$SERIALNUMBER"}}}, template.Static, "a static challenge"
			if _, err := templates.Create(ctx, "bench", t, nil); err != nil {
				b.Fatal(err)
			}
			devices, err := mdm.New(mdm.Config{DB: s.db, Box: s.box, Log: log, Now: time.Now})
			if err != nil {
				b.Fatal(err)
			}
			events, err := event.New(event.Config{DB: s.db, Log: log, Now: time.Now})
			if err != nil {
				b.Fatal(err)
			}
			policy, err := issuance.New(issuance.Config{
				DB: s.db, Depot: s.depot, Templates: templates, MDM: devices, Audit: events,
				Sign: func(p []byte) ([]byte, error) { return p, nil }, ServerURL: serverURL, Log: log, Now: time.Now,
			})
			if err != nil {
				b.Fatal(err)
			}
			service, err := scep.New(scep.Config{
				Authorities: []*depot.Authority{s.depot.Payload()}, Log: log,
				Issuer: scep.IssuerFunc(func(ctx context.Context, _ *depot.Authority, r depot.Request) (*x509.Certificate, error) {
					return policy.IssueSCEP(ctx, "others", r)
				}),
			})
			if err != nil {
				b.Fatal(err)
			}
			client := &mdmtest.SCEP{CA: s.depot.Payload().Certificate(), Capabilities: []string{"AES", "SHA-256", "POSTPKIOperation"}, Now: time.Now, Rand: rand.Reader}
			messages := make([][]byte, max(b.N, 400))
			inParallel(b, 2, len(messages), func(i int) error {
				key, err := pool.Key()
				if err != nil {
					return err
				}
				r, err := client.Request(key, mdmtest.Subject{{{"CN", fmt.Sprint("SN", i)}}}, "a static challenge", nil)
				if err != nil {
					return err
				}
				messages[i] = r.Raw
				return nil
			})
			measured(b, os.Getpid(), 1, len(messages), func(i int) error {
				_, err := service.PKIOperation(ctx, messages[i])
				return err
			})
			if n := certificatesOf(b, s, "others"); n != len(messages) {
				b.Fatalf("%d certificates for %d requests", n, len(messages))
			}
		})
	}
	b.Run("the RSA operations alone", func(b *testing.B) {
		device, err := pool.Key()
		if err != nil {
			b.Fatal(err)
		}
		authority, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			b.Fatal(err)
		}
		digest := sha256.Sum256(nil)
		signature, err := rsa.SignPKCS1v15(nil, device, crypto.SHA256, digest[:])
		if err != nil {
			b.Fatal(err)
		}
		//lint:ignore SA1019 as SCEP's clients do
		sealed, err := rsa.EncryptPKCS1v15(rand.Reader, &authority.PublicKey, make([]byte, 16))
		if err != nil {
			b.Fatal(err)
		}
		measured(b, os.Getpid(), 1, max(b.N, 400), func(int) error {
			for range 2 { // pkiMessage, CSR
				if err := rsa.VerifyPKCS1v15(&device.PublicKey, crypto.SHA256, digest[:], signature); err != nil {
					return err
				}
			}
			//lint:ignore SA1019 as SCEP's clients do
			if err := rsa.DecryptPKCS1v15SessionKey(rand.Reader, authority, sealed, make([]byte, 16)); err != nil {
				return err
			}
			for range 2 { // the certificate and the reply
				if _, err := rsa.SignPKCS1v15(nil, authority, crypto.SHA256, digest[:]); err != nil {
					return err
				}
			}
			//lint:ignore SA1019 as SCEP's clients do
			_, err := rsa.EncryptPKCS1v15(rand.Reader, &device.PublicKey, make([]byte, 16)) // the answer's key
			return err
		})
	})
}

// certificatesOf counts the certificates of a template.
func certificatesOf(b *testing.B, s *state, name string) (n int) {
	b.Helper()
	err := s.db.View(b.Context(), func(tx storage.Tx) error {
		n = 0
		for cursor := ""; ; {
			page, next, err := s.depot.Page(tx, cursor, 1000)
			if err != nil {
				return err
			}
			for _, c := range page {
				if c.Template == name {
					n++
				}
			}
			if cursor = next; cursor == "" {
				return nil
			}
		}
	})
	if err != nil {
		b.Fatal(err)
	}
	return n
}
