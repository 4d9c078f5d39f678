package guard_test

import (
	"bytes"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/storage/guard"
)

// recipient returns whom the messages of testdata/enveloped-*.der are for. They, the key
// and the certificate are the openssl command's, and say "content".
func recipient(t testing.TB) (*x509.Certificate, *rsa.PrivateKey) {
	t.Helper()
	text, err := os.ReadFile("testdata/enveloped.pem")
	if err != nil {
		t.Fatal(err)
	}
	block, rest := pem.Decode(text)
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	block, _ = pem.Decode(rest)
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key.(*rsa.PrivateKey)
}

func enveloped(t testing.TB, cipher string) []byte {
	t.Helper()
	cms, err := os.ReadFile("testdata/enveloped-" + cipher + ".der")
	if err != nil {
		t.Fatal(err)
	}
	return cms
}

func TestEnvelopesAreDecrypted(t *testing.T) {
	cert, key := recipient(t)
	for _, cipher := range []string{"aes128", "aes192", "aes256", "des3"} {
		der := enveloped(t, cipher)
		for form, cms := range map[string][]byte{"DER": der, "Apple's BER": asApple(t, der)} {
			t.Run(cipher+" in "+form, func(t *testing.T) {
				got, err := guard.DecryptEnveloped(cms, cert, key, 0)
				if err != nil || string(got) != "content" {
					t.Errorf("DecryptEnveloped = %q, %v", got, err)
				}
			})
		}
	}
}

func TestEnvelopesThatCanNotBeDecrypted(t *testing.T) {
	cert, key := recipient(t)
	good := enveloped(t, "aes256")
	other := certify(t, "other", rsaKey().Public(), rsaKey(), time.Now())
	with := func(old, new []byte) []byte {
		t.Helper()
		if !bytes.Contains(good, old) {
			t.Fatalf("the message has no %x", old)
		}
		return bytes.Replace(good, old, new, 1)
	}
	e, err := guard.ParseEnvelope(good, 0)
	if err != nil {
		t.Fatal(err)
	}
	wrapped := e.Recipients[0].EncryptedKey
	for name, tt := range map[string]struct {
		cms  []byte
		cert *x509.Certificate
		key  *rsa.PrivateKey
		max  int
		want error
	}{
		"for another certificate":   {good, other, rsaKey(), 0, guard.ErrNotRecipient},
		"another key":               {good, cert, rsaKey(), 0, guard.ErrDecrypt},
		"another wrapped key":       {with(wrapped, flipLast(wrapped)), cert, key, 0, guard.ErrDecrypt},
		"a wrapped key too large":   {with(wrapped, bytes.Repeat([]byte{0xff}, len(wrapped))), cert, key, 0, guard.ErrDecrypt},
		"another cipher text":       {with(e.Ciphertext, flipLast(e.Ciphertext)), cert, key, 0, guard.ErrDecrypt},
		"a short start value":       {with(e.Parameters[:2], []byte{4, 15}), cert, key, 0, guard.ErrCMS},
		"no known cipher":           {with([]byte{0x65, 3, 4, 1, 0x2a}, []byte{0x65, 3, 4, 1, 0x2e}), cert, key, 0, guard.ErrCMS},
		"a cipher of another key":   {with([]byte{0x65, 3, 4, 1, 0x2a}, []byte{0x65, 3, 4, 1, 0x02}), cert, key, 0, guard.ErrDecrypt},
		"a key wrapped by OAEP":     {with([]byte{0xf7, 0x0d, 1, 1, 1}, []byte{0xf7, 0x0d, 1, 1, 7}), cert, key, 0, guard.ErrCMS},
		"single DES":                {envelope(t, []byte("content"), cert), cert, key, 0, guard.ErrCMS},
		"too large":                 {good, cert, key, len(good) - 1, guard.ErrTooLarge},
		"signed data":               {signing{key: rsaKey()}.sign(t, []byte("x")), cert, key, 0, guard.ErrCMS},
		"cut short":                 {good[:len(good)-1], cert, key, 0, guard.ErrCMS},
		"nothing":                   {nil, cert, key, 0, guard.ErrCMS},
		"a recipient of other kind": {with([]byte{0x30, 0x82}, []byte{0xa1, 0x82}), cert, key, 0, guard.ErrCMS},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := guard.DecryptEnveloped(tt.cms, tt.cert, tt.key, tt.max)
			if err == nil && tt.want == guard.ErrDecrypt && string(got) != "content" {
				return // one random key in 256 leaves what looks padded
			}
			if !errors.Is(err, tt.want) || got != nil {
				t.Fatalf("DecryptEnveloped = %q, %v, want %v", got, err, tt.want)
			}
			// What was wrong behind the recipient's name is for nobody to know.
			if tt.want == guard.ErrDecrypt && err != guard.ErrDecrypt {
				t.Errorf("the error tells more than another would: %v", err)
			}
		})
	}
}
