package depot

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	"github.com/gatehouse-mdm/gatehouse/storage"
)

const (
	// tlsLife is the longest that Apple's systems accept from any issuer, less a
	// day: 398 days (Apple, "About upcoming limits on trusted certificates").
	tlsLife = 397 * 24 * time.Hour

	// tlsBackdate is for clients whose clock is behind.
	tlsBackdate = 10 * time.Minute

	tlsTemplate = "tls"
)

// tlsRecord is the TLS leaf in use for a set of names. Replicas of the same names share
// one; those of others, as on several networks, leave it alone.
type tlsRecord struct {
	Name string `json:"name"` // of the set: a hash
	Leaf []byte `json:"leaf"` // DER
	Key  []byte `json:"key"`  // PKCS #8, sealed
}

var tlsLeaves = storage.NewCollection("tls", 1, func(r tlsRecord) string { return r.Name })

func tlsRecordName(dnsNames []string, ips []net.IP) string {
	sum := sha256.Sum256(storage.Key(tlsNames(dnsNames, ips)...))
	return hex.EncodeToString(sum[:])
}

func (r tlsRecord) purpose() string { return fmt.Sprintf("TLS key %x", sha256.Sum256(r.Leaf)) }

// tlsTopic is notified when another leaf is, or must be, in use.
const tlsTopic = "depot.tls"

// WatchTLS returns a channel that holds a value when it is time to ask for the TLS
// certificate again: another replica renewed it, or it was revoked.
func (d *Depot) WatchTLS() (changed <-chan struct{}, stop func()) { return d.db.Watch(tlsTopic) }

// TLSCertificate returns the server's own certificate for these names and
// addresses, issued by the root, with its chain. It is made when there is none
// yet for them, and when two thirds of its life are over; isNew says so. Replicas on
// one database share it: who asks again learns what another has renewed.
func (d *Depot) TLSCertificate(ctx context.Context, dnsNames []string, ips []net.IP) (cert tls.Certificate, isNew bool, err error) {
	if len(dnsNames) == 0 && len(ips) == 0 {
		return tls.Certificate{}, false, errors.New("TLS certificate: neither names nor addresses")
	}
	// Whoever asks again may do so because there is another root.
	if err := d.Reload(ctx); err != nil {
		return tls.Certificate{}, false, fmt.Errorf("TLS certificate: %w", err)
	}
	current := func(tx storage.Tx) (err error) {
		cert, err = d.loadTLS(tx, dnsNames, ips)
		return err
	}
	err = d.db.View(ctx, current)
	if !errors.Is(err, storage.ErrNotFound) {
		return cert, false, err
	}

	leaf, key, err := d.makeTLS(dnsNames, ips)
	if err != nil {
		return tls.Certificate{}, false, err
	}
	err = d.db.Update(ctx, func(tx storage.Tx) error {
		isNew = false
		err := current(tx)
		if !errors.Is(err, storage.ErrNotFound) {
			return err
		}
		pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			return err
		}
		if err := d.forgetTLS(tx); err != nil {
			return err
		}
		rec := tlsRecord{Name: tlsRecordName(dnsNames, ips), Leaf: leaf.Raw}
		rec.Key = d.box.Seal(rec.purpose(), pkcs8)
		if err := tlsLeaves.Put(tx, rec); err != nil {
			return err
		}
		if err := d.Record(tx, leaf, Certificate{Authority: rootName, Template: tlsTemplate}); err != nil {
			return err
		}
		cert, isNew = d.chain(leaf, key), true
		return tx.Notify(tlsTopic)
	})
	if err != nil {
		return tls.Certificate{}, false, fmt.Errorf("TLS certificate: %w", err)
	}
	return cert, isNew, nil
}

// loadTLS returns the leaf in use, or an error that wraps storage.ErrNotFound if
// there is none that will do.
func (d *Depot) loadTLS(tx storage.Tx, dnsNames []string, ips []net.IP) (tls.Certificate, error) {
	rec, err := tlsLeaves.Get(tx, tlsRecordName(dnsNames, ips))
	if err != nil {
		return tls.Certificate{}, err
	}
	leaf, err := x509.ParseCertificate(rec.Leaf)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("%w: TLS certificate", storage.ErrCorrupt)
	}
	now := d.now()
	renewAt := leaf.NotBefore.Add(leaf.NotAfter.Sub(leaf.NotBefore) * 2 / 3)
	if now.Before(leaf.NotBefore) || now.After(renewAt) || !slices.Equal(leaf.AuthorityKeyId, d.Root().cert.SubjectKeyId) {
		return tls.Certificate{}, fmt.Errorf("TLS certificate for other times: %w", storage.ErrNotFound)
	}
	issued, err := d.Get(tx, FingerprintOf(leaf))
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("record of TLS certificate: %w", err)
	}
	if !issued.RevokedAt.IsZero() {
		return tls.Certificate{}, fmt.Errorf("TLS certificate is revoked: %w", storage.ErrNotFound)
	}
	pkcs8, err := d.box.Open(rec.purpose(), rec.Key)
	if err != nil {
		return tls.Certificate{}, err
	}
	key, err := x509.ParsePKCS8PrivateKey(pkcs8)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("%w: TLS key", storage.ErrCorrupt)
	}
	return d.chain(leaf, key), nil
}

// TLSLeaves returns the records of the TLS certificates that servers have, in whatever
// names, and that are neither revoked nor expired.
func (d *Depot) TLSLeaves(tx storage.Tx) (list []Certificate, err error) {
	for rec, err := range tlsLeaves.All(tx, storage.Range{}) {
		if err != nil {
			return nil, err
		}
		c, err := d.Get(tx, fingerprint(rec.Leaf))
		if err != nil {
			return nil, fmt.Errorf("record of TLS certificate: %w", err)
		}
		if c.RevokedAt.IsZero() && !d.now().After(c.NotAfter) {
			list = append(list, c)
		}
	}
	return list, nil
}

// forgetTLS removes leaves that have expired, of names that nobody goes by any more.
func (d *Depot) forgetTLS(tx storage.Tx) error {
	var over []string
	for rec, err := range tlsLeaves.All(tx, storage.Range{}) {
		if err != nil {
			return err
		}
		if leaf, err := x509.ParseCertificate(rec.Leaf); err != nil || d.now().After(leaf.NotAfter) {
			over = append(over, rec.Name)
		}
	}
	for _, name := range over {
		if err := tlsLeaves.Delete(tx, name); err != nil {
			return err
		}
	}
	return nil
}

func (d *Depot) makeTLS(dnsNames []string, ips []net.IP) (*x509.Certificate, *ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("make TLS key: %w", err)
	}
	now := d.now().UTC()
	leaf, err := d.Root().Sign(key.Public(), Contents{
		Name:        tlsTemplate,
		Subject:     pkix.Name{CommonName: tlsCommonName(dnsNames, ips)},
		NotBefore:   now.Add(-tlsBackdate),
		NotAfter:    now.Add(tlsLife),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames:    dnsNames,
		IPs:         ips,
	})
	return leaf, key, err
}

func (d *Depot) chain(leaf *x509.Certificate, key any) tls.Certificate {
	return tls.Certificate{Certificate: [][]byte{leaf.Raw, d.Root().cert.Raw}, PrivateKey: key, Leaf: leaf}
}

// tlsNames returns names and addresses in an order that does not matter.
func tlsNames(dnsNames []string, ips []net.IP) []string {
	names := slices.Clone(dnsNames)
	for _, ip := range ips {
		names = append(names, ip.String())
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// tlsCommonName is for people who look at the certificate; clients go by the
// alternative names.
func tlsCommonName(dnsNames []string, ips []net.IP) string {
	for _, name := range tlsNames(dnsNames, ips) {
		if slices.Contains(dnsNames, name) && len(name) <= maxCommonName {
			return name
		}
	}
	return "Gatehouse"
}
