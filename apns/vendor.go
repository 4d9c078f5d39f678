package apns

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/gatehouse-mdm/gatehouse/storage"
)

// oidVendor marks a vendor's certificate, as an extended key usage or as an extension.
var oidVendor = asn1.ObjectIdentifier{1, 2, 840, 113635, 100, 4, 12}

// isVendor says whether a certificate is one for signing requests of others.
func isVendor(c *x509.Certificate) bool {
	return strings.HasPrefix(c.Subject.CommonName, "MDM Vendor") || markedVendor(c)
}

func markedVendor(c *x509.Certificate) bool {
	return hasExtension(c, oidVendor) || slices.ContainsFunc(c.UnknownExtKeyUsage, oidVendor.Equal)
}

// vendor is the record of the vendor certificate: there is one.
type vendor struct {
	Chain     [][]byte  `json:"chain"` // DER: the vendor's, and those above it up to the root
	SealedKey []byte    `json:"sealed_key"`
	PutAt     time.Time `json:"put_at"`
}

// facts are what the audit log tells of it; nil: there is none.
func (v vendor) facts() *PairFacts {
	if len(v.Chain) == 0 {
		return nil
	}
	leaf, err := x509.ParseCertificate(v.Chain[0])
	if err != nil {
		return nil // it was read before it was kept
	}
	return &PairFacts{leaf.NotAfter.UTC(), fingerprint(leaf)}
}

const (
	vendorID      = "vendor"
	vendorPurpose = "apns/vendor"
)

var vendors = storage.NewCollection("push_vendor", 1, func(vendor) string { return vendorID })

// Vendor is the vendor certificate, with which requests are signed for Apple.
type Vendor struct {
	Chain    []*x509.Certificate // the vendor's, and those above it up to the root
	PutAt    time.Time
	Warnings []string
}

// SHA256 is the fingerprint of the vendor's certificate, in hex.
func (v Vendor) SHA256() string { return fingerprint(v.Chain[0]) }

func fingerprint(c *x509.Certificate) string {
	sum := sha256.Sum256(c.Raw)
	return hex.EncodeToString(sum[:])
}

// PutVendor keeps a vendor certificate, its key and all certificates above it, in any order
// and in the place of the one before. Errors are *Mistake.
func (k *Keeper) PutVendor(ctx context.Context, f File) (Vendor, error) {
	b, err := readFile(f)
	if err != nil {
		return Vendor{}, err
	}
	now := k.now().UTC()
	if err := b.checkVendor(now); err != nil {
		return Vendor{}, err
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(b.key)
	if err != nil {
		return Vendor{}, mistake(KeyUnreadable)
	}
	rec := vendor{SealedKey: k.certificates.box.Seal(vendorPurpose, pkcs8), PutAt: now}
	for _, c := range b.chain {
		rec.Chain = append(rec.Chain, c.Raw)
	}
	err = k.db.Update(ctx, func(tx storage.Tx) error {
		before, err := vendors.Get(tx, vendorID)
		if err != nil && !errors.Is(err, storage.ErrNotFound) {
			return err
		}
		if err := vendors.Put(tx, rec); err != nil {
			return err
		}
		return k.tell(ctx, tx, Change{
			Action: "push_vendor.stored", Details: map[string]string{"sha256": fingerprint(b.leaf), "not_after": b.leaf.NotAfter.UTC().Format(time.RFC3339)},
			Before: before.facts(), After: rec.facts(),
		})
	})
	if err != nil {
		return Vendor{}, fmt.Errorf("vendor certificate: %w", err)
	}
	return newVendor(b.chain, now), nil
}

// checkVendor says whether the certificate can sign requests that Apple takes.
func (b bundle) checkVendor(now time.Time) error {
	_, isRSA := b.key.(*rsa.PrivateKey)
	switch c := b.leaf; {
	case isTopic(userID(c)):
		return mistake(NotVendor, "a push certificate")
	case c.IsCA:
		return mistake(NotVendor, "an authority’s ("+nameOf(c)+")")
	case now.After(c.NotAfter):
		return mistake(VendorExpired, day(c.NotAfter))
	case now.Add(maxSkew).Before(c.NotBefore):
		return mistake(NotYetValid, c.NotBefore.UTC().Format(time.RFC3339))
	case b.key == nil:
		return &Mistake{Kind: NoKey, Reason: "The private key of the vendor certificate is missing.", Next: "Add the key of the request that the certificate was made for in Apple’s developer account."}
	case !isKeyOf(b.key, c):
		return mistake(KeyMismatch)
	case !isRSA:
		return mistake(KeyType, "it is not RSA, which Apple wants these signatures by")
	}
	if top := b.chain[len(b.chain)-1]; !bytes.Equal(top.RawSubject, top.RawIssuer) {
		return mistake(ChainMissing, nameOf(top))
	}
	return nil
}

func newVendor(chain []*x509.Certificate, at time.Time) Vendor {
	v := Vendor{Chain: chain, PutAt: at}
	if !isVendor(chain[0]) {
		v.Warnings = append(v.Warnings, fmt.Sprintf("Nothing in the certificate (%s) says that Apple made it for an MDM vendor: Apple may refuse what it signs.", nameOf(chain[0])))
	}
	if !slices.Contains(chain[len(chain)-1].Subject.Organization, "Apple Inc.") {
		v.Warnings = append(v.Warnings, fmt.Sprintf("The chain ends at %s, which is not Apple’s: Apple will refuse what it signs.", nameOf(chain[len(chain)-1])))
	}
	return v
}

// Vendor returns the vendor certificate, or an error that wraps storage.ErrNotFound.
func (k *Keeper) Vendor(ctx context.Context) (v Vendor, err error) {
	err = k.db.View(ctx, func(tx storage.Tx) error {
		rec, err := vendors.Get(tx, vendorID)
		if err != nil {
			return err
		}
		chain, err := parseChain(rec.Chain)
		if err != nil {
			return err
		}
		v = newVendor(chain, rec.PutAt)
		return nil
	})
	if err != nil {
		return Vendor{}, fmt.Errorf("vendor certificate: %w", err)
	}
	return v, nil
}

// DeleteVendor forgets the vendor certificate and its key; its error may wrap
// storage.ErrNotFound.
func (k *Keeper) DeleteVendor(ctx context.Context) error {
	err := k.db.Update(ctx, func(tx storage.Tx) error {
		before, err := vendors.Get(tx, vendorID)
		if err != nil {
			return err
		}
		if err := vendors.Delete(tx, vendorID); err != nil {
			return err
		}
		return k.tell(ctx, tx, Change{Action: "push_vendor.deleted", Before: before.facts()})
	})
	if err != nil {
		return fmt.Errorf("vendor certificate: %w", err)
	}
	return nil
}

// signByVendor makes the file for Apple of a request in DER.
func (k *Keeper) signByVendor(tx storage.Tx, csr []byte) ([]byte, error) {
	rec, err := vendors.Get(tx, vendorID)
	if errors.Is(err, storage.ErrNotFound) {
		return nil, mistake(NoVendor)
	}
	if err != nil {
		return nil, err
	}
	chain, err := parseChain(rec.Chain)
	if err != nil {
		return nil, err
	}
	if k.now().After(chain[0].NotAfter) {
		return nil, mistake(VendorExpired, day(chain[0].NotAfter))
	}
	key, err := k.certificates.open(vendorPurpose, rec.SealedKey)
	if err != nil {
		return nil, err
	}
	return signRequest(csr, chain, key)
}

// requestFile is what Apple's Push Certificates Portal takes, in a property list.
type requestFile struct {
	CSR       string `plist:"PushCertRequestCSR"`
	Signature string `plist:"PushCertSignature"`
	Chain     string `plist:"PushCertCertificateChain"`
}

// signRequest makes the file for Apple (Apple: "Setting up push notifications for your
// device management customers"; PROTOCOL 6.1): a property list in base64.
func signRequest(csr []byte, chain []*x509.Certificate, key crypto.Signer) ([]byte, error) {
	sum := sha256.Sum256(csr)
	signature, err := key.Sign(rand.Reader, sum[:], crypto.SHA256) // PKCS #1 v1.5, since key is RSA
	if err != nil {
		return nil, err
	}
	// None of the three has a character that XML would want escaped.
	plist := fmt.Sprintf(`<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">
<plist version="1.0">
<dict>
	<key>PushCertRequestCSR</key>
	<string>%s</string>
	<key>PushCertCertificateChain</key>
	<string>%s</string>
	<key>PushCertSignature</key>
	<string>%s</string>
</dict>
</plist>
`, base64.StdEncoding.EncodeToString(csr), inPEM(chain...), base64.StdEncoding.EncodeToString(signature))
	return []byte(base64.StdEncoding.EncodeToString([]byte(plist))), nil
}
