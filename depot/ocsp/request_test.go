package ocsp

import (
	"bytes"
	"crypto"
	"math/big"
	"testing"

	xocsp "golang.org/x/crypto/ocsp"

	"github.com/gatehouse-mdm/gatehouse/depot"
)

func FuzzRequest(f *testing.F) {
	for _, r := range []xocsp.Request{
		{HashAlgorithm: crypto.SHA1, IssuerNameHash: make([]byte, 20), IssuerKeyHash: make([]byte, 20), SerialNumber: big.NewInt(1)},
		{HashAlgorithm: crypto.SHA256, IssuerNameHash: make([]byte, 32), IssuerKeyHash: make([]byte, 32), SerialNumber: new(big.Int).Lsh(big.NewInt(-1), 120)},
	} {
		der, err := r.Marshal()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(der)
	}
	// Two questions, a version, a requestor, a nonce and a signature.
	f.Add([]byte("\x30\x52\x30\x4c\xa0\x03\x02\x01\x00\xa1\x03\x82\x01x\x30\x2a" +
		"\x30\x13\x30\x11\x30\x07\x06\x05\x2b\x0e\x03\x02\x1a\x04\x00\x04\x00\x02\x02\x00\x80" +
		"\x30\x13\x30\x11\x30\x07\x06\x05\x2b\x0e\x03\x02\x1a\x04\x00\x04\x00\x02\x02\x00\x81" +
		"\xa2\x14\x30\x12\x30\x10\x06\x09\x2b\x06\x01\x05\x05\x07\x30\x01\x02\x04\x03\x04\x01\x07\xa0\x02\x30\x00"))
	f.Fuzz(func(t *testing.T, der []byte) {
		r, err := parseRequest(der)
		if err != nil {
			return
		}
		if len(r.certIDs) == 0 || len(r.certIDs) > maxCertIDs || len(r.nonce) > maxNonce || r.nonce != nil && len(r.nonce) == 0 {
			t.Fatalf("%d questions, nonce %x", len(r.certIDs), r.nonce)
		}
		for _, id := range r.certIDs {
			if !bytes.Contains(der, []byte(id.raw)) || len(id.serial) > 2*maxSerial {
				t.Fatalf("question %x, serial number %q", id.raw, id.serial)
			}
			// What an answer repeats is the question again, and nothing else.
			b := response{singles: []single{{certID: id.raw}}, nonce: r.nonce}
			if _, err := b.data([20]byte{}); err != nil {
				t.Fatal(err)
			}
		}
		// Another implementation understands the same, as far as it goes.
		other, err := xocsp.ParseRequest(der)
		if err != nil {
			return
		}
		first := r.certIDs[0]
		if first.issuer != (issuerID{other.HashAlgorithm, string(other.IssuerNameHash), string(other.IssuerKeyHash)}) {
			t.Fatalf("issuer %v, others read %v", first.issuer, other)
		}
		if want := depot.Serial(other.SerialNumber.Text(16)); first.serial != "" && first.serial != want || first.serial == "" && other.SerialNumber.Sign() > 0 && other.SerialNumber.BitLen() < 8*maxSerial {
			t.Fatalf("serial number %q, others read %q", first.serial, want)
		}
	})
}
