// Package apns keeps the certificates by which Apple's push service knows us,
// one for each topic.
//
// It knows nothing of devices: a device belongs to the topic that its profile named.
package apns

import (
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"fmt"
	"iter"
	"strings"
	"time"

	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/seal"
)

// ErrExpired means that the certificate of a topic has expired.
var ErrExpired = errors.New("the certificate has expired")

// topicPrefix begins every topic of MDM (PROTOCOL 3.2).
const topicPrefix = "com.apple.mgmt."

// placeholderPrefix begins the topic that profiles name while there is no certificate.
const placeholderPrefix = topicPrefix + "External.placeholder-"

// oidUserID is the subject attribute UID, which holds the topic (RFC 4519, 2.39).
var oidUserID = asn1.ObjectIdentifier{0, 9, 2342, 19200300, 100, 1, 1}

// Certificate is the record of one topic's push certificate. Its key is kept sealed.
type Certificate struct {
	Topic     string    `json:"topic"`
	SHA256    string    `json:"sha256"`   // hex, of the DER; changes with each renewal
	Revision  int       `json:"revision"` // how often the topic's certificate was put
	Chain     [][]byte  `json:"chain"`    // DER, the certificate first
	SealedKey []byte    `json:"sealed_key"`
	NotAfter  time.Time `json:"not_after"`
	CreatedAt time.Time `json:"created_at"` // of the topic, so that the first stays the first
	UpdatedAt time.Time `json:"updated_at"`

	// AppleAccount is who got it at Apple, as somebody noted: only that account can renew it.
	AppleAccount string `json:"apple_account,omitempty"`
	// Ready is the one that takes over once it is activated; nil: none. What is above is
	// empty but for the topic and the times while there is only this one.
	Ready *Pair `json:"ready,omitempty"`
	// Told is how far its end has been told of: the place in countdown, from 1.
	Told int `json:"told,omitempty"`
}

// Pair is a certificate and its key.
type Pair struct {
	SHA256    string    `json:"sha256"`
	Chain     [][]byte  `json:"chain"`
	SealedKey []byte    `json:"sealed_key"`
	NotAfter  time.Time `json:"not_after"`
	PutAt     time.Time `json:"put_at"`
}

// active says whether there is a certificate to push by.
func (c Certificate) active() bool { return len(c.Chain) > 0 }

// pair returns the certificate that is pushed by.
func (c Certificate) pair() Pair {
	return Pair{SHA256: c.SHA256, Chain: c.Chain, SealedKey: c.SealedKey, NotAfter: c.NotAfter, PutAt: c.UpdatedAt}
}

// serve has p be what is pushed by from now on.
func (c *Certificate) serve(p Pair, now time.Time) {
	if c.active() {
		c.Revision++
	}
	c.SHA256, c.Chain, c.SealedKey, c.NotAfter = p.SHA256, p.Chain, p.SealedKey, p.NotAfter
	c.UpdatedAt, c.Told, c.Ready = now, 0, nil
}

var certificates = storage.NewCollection("push_certificates", 1, func(c Certificate) string { return c.Topic })

const (
	settingsBucket   = "apns"
	placeholderTopic = "placeholder_topic"
	defaultTopic     = "default_topic"
)

// Certificates keeps push certificates by topic: another topic is added beside
// the ones before, never in their place, because a replaced topic orphans every
// device that enrolled under it.
type Certificates struct {
	box *seal.Box
	now func() time.Time
}

// NewCertificates returns a store of push certificates whose keys box seals.
func NewCertificates(box *seal.Box, now func() time.Time) (*Certificates, error) {
	if box == nil || now == nil {
		return nil, errors.New("apns: box and now are required")
	}
	return &Certificates{box: box, now: now}, nil
}

// Put keeps a push certificate and its key, PEM in one body or two, or PKCS #12 without a
// password, and pushes by it from now on. The key may be missing where it was made here for
// a [Request]. Its errors are *Mistake, or the store's. [Keeper.Upload] does more.
func (c *Certificates) Put(tx storage.Tx, file []byte) (Certificate, error) {
	b, err := readFile(File{Data: file})
	if err != nil {
		return Certificate{}, err
	}
	if err := b.check(c.now(), nil); err != nil {
		return Certificate{}, err
	}
	rec, _, err := c.put(tx, b, true, "")
	return rec, err
}

// was is what put found.
type was struct {
	Certificate
	known   bool // the topic was there
	same    bool // so was the very certificate, and did what it shall do: nothing changed
	request *Request
}

// put keeps what was found to be good, and returns the topic's record with what it was.
func (c *Certificates) put(tx storage.Tx, b bundle, activate bool, account string) (rec Certificate, w was, err error) {
	topic, err := topicOf(b.leaf)
	if err != nil {
		return Certificate{}, was{}, err
	}
	rec, err = certificates.Get(tx, topic)
	if err != nil && !errors.Is(err, storage.ErrNotFound) {
		return Certificate{}, was{}, err
	}
	now := c.now().UTC()
	if w.known = err == nil; !w.known {
		rec = Certificate{Topic: topic, CreatedAt: now, UpdatedAt: now}
	}
	w.Certificate = rec
	if w.request, err = c.requestOf(tx, b.leaf); err != nil {
		return Certificate{}, was{}, err
	}
	if b.key == nil {
		if b.key, err = c.keyMadeHere(rec, w.request, b.leaf); err != nil {
			return Certificate{}, was{}, err
		}
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(b.key)
	if err != nil {
		return Certificate{}, was{}, mistake(KeyUnreadable)
	}
	sum := sha256.Sum256(b.leaf.Raw)
	p := Pair{SHA256: hex.EncodeToString(sum[:]), SealedKey: c.box.Seal(keyPurpose(topic), pkcs8), NotAfter: b.leaf.NotAfter.UTC(), PutAt: now}
	for _, cert := range b.chain {
		p.Chain = append(p.Chain, cert.Raw)
	}
	if account == "" && w.request != nil {
		account = w.request.AppleAccount
	}
	w.same = rec.SHA256 == p.SHA256 && (account == "" || account == rec.AppleAccount)
	if w.same {
		return rec, w, nil
	}
	if account != "" {
		rec.AppleAccount = account
	}
	switch {
	case rec.SHA256 == p.SHA256: // only the account is news
	case activate:
		rec.serve(p, now)
	default:
		rec.Ready = &p
	}
	if w.request != nil {
		w.request.State, w.request.Topic, w.request.FulfilledAt = Fulfilled, topic, now
		if err := requests.Put(tx, *w.request); err != nil {
			return Certificate{}, was{}, err
		}
	}
	return rec, w, errors.Join(certificates.Put(tx, rec), tx.Notify(CertificatesTopic))
}

// keyMadeHere finds the key of a certificate that came without one.
func (c *Certificates) keyMadeHere(rec Certificate, r *Request, leaf *x509.Certificate) (crypto.Signer, error) {
	if r != nil {
		return c.open(requestKey(r.ID), r.SealedKey)
	}
	kept := []Pair{rec.pair()}
	if rec.Ready != nil {
		kept = append(kept, *rec.Ready)
	}
	for _, p := range kept {
		if len(p.Chain) == 0 {
			continue
		}
		key, err := c.open(keyPurpose(rec.Topic), p.SealedKey)
		if err != nil {
			return nil, err
		}
		if isKeyOf(key, leaf) {
			return key, nil
		}
	}
	return nil, mistake(NoKey)
}

// open returns a key that was sealed as PKCS #8.
func (c *Certificates) open(purpose string, sealed []byte) (crypto.Signer, error) {
	pkcs8, err := c.box.Open(purpose, sealed)
	if err != nil {
		return nil, err
	}
	key, err := x509.ParsePKCS8PrivateKey(pkcs8)
	if err != nil {
		return nil, err
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, errors.New("a sealed key can't sign")
	}
	return signer, nil
}

func keyPurpose(topic string) string { return "apns/key/" + topic }

// Get returns the record of a topic that has a certificate to push by, or an error that
// wraps storage.ErrNotFound.
func (c *Certificates) Get(tx storage.Tx, topic string) (Certificate, error) {
	rec, err := certificates.Get(tx, topic)
	if err == nil && !rec.active() {
		return Certificate{}, fmt.Errorf("push certificate of %s: %w", topic, storage.ErrNotFound)
	}
	return rec, err
}

// All yields the records of all topics that have a certificate to push by, in the order of
// their names.
func (c *Certificates) All(tx storage.Tx) iter.Seq2[Certificate, error] {
	return func(yield func(Certificate, error) bool) {
		for rec, err := range certificates.All(tx, storage.Range{}) {
			if (err != nil || rec.active()) && !yield(rec, err) {
				return
			}
		}
	}
}

// TLS returns the certificate and key for a topic, as a TLS client needs them.
func (c *Certificates) TLS(tx storage.Tx, topic string) (tls.Certificate, Certificate, error) {
	rec, err := c.Get(tx, topic)
	if err != nil {
		return tls.Certificate{}, Certificate{}, fmt.Errorf("push certificate of %s: %w", topic, err)
	}
	key, err := c.open(keyPurpose(topic), rec.SealedKey)
	if err != nil {
		return tls.Certificate{}, Certificate{}, fmt.Errorf("push certificate of %s: %w", topic, err)
	}
	return tls.Certificate{Certificate: rec.Chain, PrivateKey: key}, rec, nil
}

// Trouble returns a sentence that says why devices that enrol under a topic now could not
// be woken, and empty where they could.
func (c *Certificates) Trouble(tx storage.Tx, topic string) (string, error) {
	rec, err := c.Get(tx, topic)
	switch {
	case errors.Is(err, storage.ErrNotFound):
		return "There is no push certificate: devices that enroll now can’t be woken, and have to enroll again once there is one.", nil
	case err != nil:
		return "", fmt.Errorf("push topic: %w", err)
	case c.now().After(rec.NotAfter):
		return fmt.Sprintf("The push certificate expired on %s: devices can’t be woken until it is renewed%s.", day(rec.NotAfter), byAccount(rec.AppleAccount)), nil
	}
	return "", nil
}

// day is a date as sentences have it.
func day(t time.Time) string { return t.UTC().Format(time.DateOnly) }

// byAccount says which Apple Account can renew a certificate, where that is known.
func byAccount(account string) string {
	if account == "" {
		return ", with the Apple Account that it was made with"
	}
	return ", with the Apple Account " + account
}

// Topic returns the topic that a profile made now shall name: the one that was chosen, or
// else the first certificate's. Without one it is a placeholder, made by the first call (in an
// Update) and the same ever after, under which devices enroll but can't be woken:
// they have to enroll again once there is a push certificate.
func (c *Certificates) Topic(tx storage.Tx) (string, error) {
	topic, err := c.chosen(tx)
	if err != nil || topic != "" {
		return topic, err
	}
	v, err := tx.Get(settingsBucket, []byte(placeholderTopic))
	if errors.Is(err, storage.ErrNotFound) {
		v = []byte(placeholderPrefix + strings.ToLower(rand.Text()))
		err = tx.Put(settingsBucket, []byte(placeholderTopic), v)
	}
	if err != nil {
		return "", fmt.Errorf("push topic: %w", err)
	}
	return string(v), nil
}

// chosen returns the default topic; empty while there is no certificate.
func (c *Certificates) chosen(tx storage.Tx) (string, error) {
	v, err := tx.Get(settingsBucket, []byte(defaultTopic))
	if err != nil && !errors.Is(err, storage.ErrNotFound) {
		return "", fmt.Errorf("push topic: %w", err)
	}
	var first Certificate
	for rec, err := range c.All(tx) {
		if err != nil {
			return "", fmt.Errorf("push topic: %w", err)
		}
		if rec.Topic == string(v) {
			return rec.Topic, nil
		}
		if first.Topic == "" || rec.CreatedAt.Before(first.CreatedAt) {
			first = rec
		}
	}
	return first.Topic, nil
}

// choose has profiles name a topic from now on.
func choose(tx storage.Tx, topic string) error {
	return tx.Put(settingsBucket, []byte(defaultTopic), []byte(topic))
}
