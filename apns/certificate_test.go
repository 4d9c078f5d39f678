package apns_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/apns"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/seal"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// pushCertificate makes a certificate as Apple's portal hands out, and its key.
func pushCertificate(t *testing.T, key *rsa.PrivateKey, topic string, notAfter time.Time) []byte {
	t.Helper()
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), NotBefore: time.Now().AddDate(-2, 0, 0), NotAfter: notAfter,
		Subject: pkix.Name{CommonName: "APSP:test", ExtraNames: []pkix.AttributeTypeAndValue{
			{Type: asn1.ObjectIdentifier{0, 9, 2342, 19200300, 100, 1, 1}, Value: topic},
		}},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func keyPEM(key *rsa.PrivateKey) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})
}

func newKey(t *testing.T) *rsa.PrivateKey {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func TestPushCertificatesAreKeptByTopic(t *testing.T) {
	ctx := context.Background()
	db := storagetest.Open(t)
	box, err := seal.New(make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	certs, err := apns.NewCertificates(box, func() time.Time { return now })
	if err != nil {
		t.Fatal(err)
	}
	update := func(fn func(tx storage.Tx) error) {
		t.Helper()
		if err := db.Update(ctx, fn); err != nil {
			t.Fatal(err)
		}
	}
	topic := func() (topic string) {
		t.Helper()
		update(func(tx storage.Tx) (err error) {
			topic, err = certs.Topic(tx)
			return err
		})
		return topic
	}

	placeholder := topic()
	if !strings.HasPrefix(placeholder, "com.apple.mgmt.") || topic() != placeholder {
		t.Errorf("without a certificate the topic is %q, then %q; want one placeholder", placeholder, topic())
	}

	const first, second = "com.apple.mgmt.External.b", "com.apple.mgmt.External.a"
	key := newKey(t)
	year := time.Now().AddDate(1, 0, 0)
	put := func(topic string) {
		t.Helper()
		update(func(tx storage.Tx) error {
			_, err := certs.Put(tx, append(pushCertificate(t, key, topic, year), keyPEM(key)...))
			return err
		})
		now = now.Add(time.Hour)
	}
	put(first)
	put(second)
	put(first) // renewed
	if got := topic(); got != first {
		t.Errorf("topic = %q, want the first certificate's, also after others came", got)
	}
	for _, name := range []string{first, second} {
		update(func(tx storage.Tx) error {
			cert, rec, err := certs.TLS(tx, name)
			if err != nil {
				return err
			}
			if !key.Equal(cert.PrivateKey) || rec.Topic != name {
				t.Errorf("TLS(%s) = %s", name, rec.Topic)
			}
			if bytes.Contains(rec.SealedKey, x509.MarshalPKCS1PrivateKey(key)[:64]) {
				t.Error("the key stands in the record as it is")
			}
			return nil
		})
	}
}
