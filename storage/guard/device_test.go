package guard_test

import (
	"crypto"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"math/big"
	"testing"

	"github.com/smallstep/pkcs7"

	"github.com/gatehouse-mdm/gatehouse/storage/guard"
)

// shortKey has as many bits as Apple's authority for device identities.
func shortKey(t testing.TB) *rsa.PrivateKey {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func TestDevicesMaySignByShortKeys(t *testing.T) {
	content := []byte("what a device states")
	short := signing{key: shortKey(t)}.sign(t, content)
	if sig, err := guard.VerifyAttachedByDevice(asApple(t, short), 0); err != nil || string(sig.Content) != string(content) {
		t.Errorf("by a device: %+v, %v", sig, err)
	}
	if _, err := guard.VerifyAttached(short, 0); !errors.Is(err, guard.ErrKey) {
		t.Errorf("by anybody else: %v, want ErrKey", err)
	}
	for name, tt := range map[string]struct {
		cms  []byte
		want error
	}{
		"a changed signature": {flipLast(short), guard.ErrSignature},
		"no signer":           {signing{key: rsaKey(), none: true}.sign(t, content), guard.ErrCMS},
		"two signers":         {signing{key: rsaKey(), twice: true}.sign(t, content), guard.ErrCMS},
		"a small curve":       {signing{key: ecKey(t, elliptic.P224())}.sign(t, content), guard.ErrKey},
		"an unknown digest":   {signing{key: rsaKey(), bare: true, digest: pkcs7.OIDDigestAlgorithmSHA1, detached: true}.sign(t, content), guard.ErrCMS},
	} {
		if _, err := guard.VerifyAttachedByDevice(tt.cms, 0); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", name, err, tt.want)
		}
	}
}

func TestAPinnedKeyTellsWhatItSigned(t *testing.T) {
	short, curve := shortKey(t), ecKey(t, elliptic.P256())
	for name, tt := range map[string]struct {
		signer    crypto.Signer
		algorithm x509.SignatureAlgorithm
		key       crypto.PublicKey
		want      error
	}{
		"SHA-1, 1024 bits":            {short, x509.SHA1WithRSA, short.Public(), nil},
		"SHA-256, 1024 bits":          {short, x509.SHA256WithRSA, short.Public(), nil},
		"SHA-512":                     {rsaKey(), x509.SHA512WithRSA, rsaKey().Public(), nil},
		"ECDSA":                       {curve, x509.ECDSAWithSHA256, curve.Public(), nil},
		"another key":                 {rsaKey(), x509.SHA256WithRSA, short.Public(), guard.ErrSignature},
		"a key of another kind":       {rsaKey(), x509.SHA256WithRSA, curve.Public(), guard.ErrSignature},
		"a padding that nobody needs": {rsaKey(), x509.SHA256WithRSAPSS, rsaKey().Public(), guard.ErrSignature},
		"a key of 512 bits":           {rsaKey(), x509.SHA256WithRSA, &rsa.PublicKey{N: new(big.Int).SetBit(big.NewInt(1), 511, 1), E: 65537}, guard.ErrKey},
		"no key":                      {rsaKey(), x509.SHA256WithRSA, nil, guard.ErrKey},
	} {
		t.Run(name, func(t *testing.T) {
			template := &x509.Certificate{SerialNumber: big.NewInt(1), SignatureAlgorithm: tt.algorithm}
			der, err := x509.CreateCertificate(rand.Reader, template, template, tt.signer.Public(), tt.signer)
			if err != nil {
				t.Fatal(err)
			}
			cert, err := x509.ParseCertificate(der)
			if err != nil {
				t.Fatal(err)
			}
			if err := guard.CheckIssuedByKey(cert, tt.key); !errors.Is(err, tt.want) {
				t.Errorf("CheckIssuedByKey = %v, want %v", err, tt.want)
			}
		})
	}
}
