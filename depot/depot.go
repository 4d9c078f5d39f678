// Package depot issues certificates, and knows all that it has issued.
//
// It has three authorities. The identity CA issues nothing but the identities by
// which devices sign in to MDM, and the certificate of whoever signs OCSP answers
// about them, so that no other certificate can ever pass as one. The organisation
// root anchors everything else: our own TLS leaf, signatures of profiles, and the
// issuer of payload certificates, which speaks SCEP, as the root never does. Their
// keys are sealed in the database.
//
// None of them is for ever: another generation of each can be made or imported, and
// takes the place of the one before: see [State].
//
// What is revoked is known at once to whoever asks: see [Depot.RevocationList] and
// [Depot.Standing].
//
// It decides nothing: who may have a certificate, and what it says, is for
// package enroll. It knows nothing of devices but the IDs that it is given, and
// nothing of SCEP or HTTP: the doors are in the packages below it.
package depot

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/seal"
)

// Names of the authorities, as in [Certificate.Authority].
const (
	identityName = "identity"
	rootName     = "root"
	payloadName  = "payload"
)

// Request is what a door (SCEP, EST, an uploaded request) passes on to whoever
// decides on issuance. The door has checked what can be checked without knowing
// who asks: both signatures, both keys, and that one fits the other.
type Request struct {
	TransactionID string
	Challenge     string // empty if there was none
	CSR           *x509.CertificateRequest

	// Signer is the certificate that signed the request: one of ours, not looked
	// up yet, in a renewal, and else self-signed with the key of CSR.
	Signer *x509.Certificate

	Peer string // network address that the request came from; may be empty

	Renewal bool // it says of itself that it renews Signer: messageType RenewalReq (17)
}

// Config says what a Depot needs: all of it but URL and NewKey.
type Config struct {
	DB      storage.DB
	Box     *seal.Box // seals the authorities' keys
	Log     *slog.Logger
	Now     func() time.Time
	KeyBits int    // of authorities that are made: 2048, 3072 or 4096
	Name    string // of the installation, such as its host name; goes into the authorities' names

	// URL is where certificates say that CRLs, OCSP answers and the certificates of
	// issuers are found; without one they say nothing of it.
	URL *url.URL

	// NewKey makes the RSA keys of authorities; nil means rsa.GenerateKey. Tests
	// that can't wait hand out a key again. It is called by several goroutines at once.
	// authority is a name, of later generations with a number behind it: "root.2".
	NewKey func(authority string, bits int) (*rsa.PrivateKey, error)
}

// Depot is the authorities and the records of what they issued.
type Depot struct {
	db      storage.DB
	box     *seal.Box
	log     *slog.Logger
	now     func() time.Time
	created bool
	urls    urls
	store   keyStore

	keyBits int
	name    string
	newKey  func(authority string, bits int) (*rsa.PrivateKey, error)

	maxLooked int // certificates for one page of a search

	reloading sync.Mutex // held from the reading of authorities until keys has them
	keys      atomic.Pointer[keyring]
}

// Open loads the authorities, or makes them if there are none.
func Open(ctx context.Context, c Config) (*Depot, error) {
	if c.DB == nil || c.Box == nil || c.Log == nil || c.Now == nil {
		return nil, errors.New("depot: DB, Box, Log and Now are required")
	}
	switch c.KeyBits {
	case 2048, 3072, 4096:
	default:
		return nil, fmt.Errorf("depot: keys of authorities have 2048, 3072 or 4096 bits, not %d", c.KeyBits)
	}
	if c.NewKey == nil {
		c.NewKey = func(_ string, bits int) (*rsa.PrivateKey, error) { return rsa.GenerateKey(rand.Reader, bits) }
	}
	d := &Depot{
		db: c.DB, box: c.Box, log: c.Log, now: c.Now, urls: urlsAt(c.URL), store: sealedKeys{c.Box},
		keyBits: c.KeyBits, name: c.Name, newKey: c.NewKey, maxLooked: maxLooked,
	}
	if err := d.openAuthorities(ctx); err != nil {
		return nil, fmt.Errorf("open depot: %w", err)
	}
	if d.created {
		d.log.InfoContext(ctx, "authorities created", "key_bits", c.KeyBits,
			"identity", FingerprintOf(d.Identity().cert), "root", FingerprintOf(d.Root().cert))
	}
	return d, nil
}

// Identity returns the authority that issues MDM identities, and nothing else but
// its own [Responder]. It is the active one, as Root and Payload are.
func (d *Depot) Identity() *Authority { return d.keys.Load().active[identityName] }

// Root returns the organisation root.
func (d *Depot) Root() *Authority { return d.keys.Load().active[rootName] }

// Payload returns the authority below the root that issues what certificate
// templates describe. One that was imported may be below a root of its own.
func (d *Depot) Payload() *Authority { return d.keys.Load().active[payloadName] }

// Authority returns the authority with an ID, also one that issues nothing any
// more; nil if there is none.
func (d *Depot) Authority(id string) *Authority { return d.keys.Load().byID[id] }

// Authorities returns all authorities, by their IDs.
func (d *Depot) Authorities() []*Authority {
	return slices.SortedFunc(maps.Values(d.keys.Load().byID), func(a, b *Authority) int { return strings.Compare(a.id, b.id) })
}

// Created says whether Open made the authorities: whether this is the first start.
func (d *Depot) Created() bool { return d.created }
