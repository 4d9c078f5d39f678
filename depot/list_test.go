package depot

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"math/big"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// signers are keys of each kind that an authority may have.
func signers(t *testing.T) map[string]crypto.Signer {
	t.Helper()
	list := map[string]crypto.Signer{}
	for name, curve := range map[string]elliptic.Curve{"P-256": elliptic.P256(), "P-384": elliptic.P384(), "P-521": elliptic.P521()} {
		key, err := ecdsa.GenerateKey(curve, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		list[name] = key
	}
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	list["RSA"] = key
	return list
}

func authorityOf(t *testing.T, key crypto.Signer) *Authority {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Test CA", Organization: []string{"Änne"}}, SubjectKeyId: []byte("0123456789"),
		NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &Authority{cert: cert, key: key}
}

func TestListsAreThoseOfCryptoX509(t *testing.T) {
	storagetest.AnyEngine(t)
	now := time.Date(2026, 11, 22, 5, 4, 3, 0, time.FixedZone("", 3600))
	entries := []Revocation{
		{Serial: "1", At: now},
		{Serial: "7f", At: now, Reason: 1},
		{Serial: "80", At: now, Reason: 10},
		{Serial: "abc", At: time.Date(2049, 12, 31, 23, 59, 59, 0, time.UTC), Reason: 4},
		{Serial: "ffffffffffffffffffffffffffffffff", At: time.Date(2050, 1, 1, 0, 0, 0, 0, time.UTC), Reason: 9},
		{Serial: "8fffffffffffffffffffffffffffffffffffffff", At: time.Date(2061, 7, 1, 0, 0, 0, 0, time.UTC), Reason: 5},
	}
	for name, key := range signers(t) {
		t.Run(name, func(t *testing.T) {
			a := authorityOf(t, key)
			for _, state := range []ListState{
				{Number: 1, ThisUpdate: now, NextUpdate: now.Add(listLife)},
				{Number: 1 << 40, ThisUpdate: time.Date(2049, 12, 30, 0, 0, 0, 0, time.UTC), NextUpdate: time.Date(2050, 1, 2, 0, 0, 0, 0, time.UTC)},
			} {
				for _, n := range []int{0, 1, len(entries)} {
					template := &x509.RevocationList{Number: big.NewInt(state.Number), ThisUpdate: state.ThisUpdate, NextUpdate: state.NextUpdate}
					var list listEncoder
					for _, r := range entries[:n] {
						serial, _ := new(big.Int).SetString(string(r.Serial), 16)
						template.RevokedCertificateEntries = append(template.RevokedCertificateEntries,
							x509.RevocationListEntry{SerialNumber: serial, RevocationTime: r.At, ReasonCode: r.Reason})
						if err := list.add(r); err != nil {
							t.Fatal(err)
						}
					}
					got, err := list.sign(a, state)
					if err != nil {
						t.Fatal(err)
					}
					want, err := x509.CreateRevocationList(nil, template, a.cert, key)
					if err != nil {
						t.Fatal(err)
					}
					if !bytes.Equal(got, want) {
						t.Errorf("number %d with %d entries:\n%x, want\n%x", state.Number, n, got, want)
					}
				}
			}
		})
	}
}

// faultySigner is a key whose signatures are wrong, as those of failing hardware.
type faultySigner struct{ crypto.Signer }

func (f faultySigner) Sign(r io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	digest = bytes.Clone(digest)
	digest[0] ^= 1
	return f.Signer.Sign(r, digest, opts)
}

func TestListsThatAreNotMade(t *testing.T) {
	storagetest.AnyEngine(t)
	for _, r := range []Revocation{{Serial: ""}, {Serial: "xyz"}, {Serial: "-1"}, {Serial: "018fffffffffffffffffffffffffffffffffffffff"}, {Serial: "1", Reason: 11}, {Serial: "1", Reason: -1}} {
		var list listEncoder
		if err := list.add(r); !errors.Is(err, storage.ErrCorrupt) {
			t.Errorf("add(%q, %d) = %v, want %v", r.Serial, r.Reason, err, storage.ErrCorrupt)
		}
	}
	state := ListState{Number: 1, ThisUpdate: time.Now(), NextUpdate: time.Now().Add(time.Hour)}
	for name, key := range signers(t) {
		a := authorityOf(t, key)
		a.key = faultySigner{key}
		if _, err := new(listEncoder).sign(a, state); err == nil {
			t.Errorf("%s: a list with a wrong signature was handed out", name)
		}
	}
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := new(listEncoder).sign(authorityOf(t, key), state); err == nil {
		t.Error("a key of a kind that no authority has signed a list")
	}
}
