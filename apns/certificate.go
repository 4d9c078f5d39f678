// Package apns keeps the certificates by which Apple's push service knows us,
// one for each topic.
//
// It knows nothing of devices: a device belongs to the topic that its profile named.
package apns

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"iter"
	"strings"
	"time"

	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/guard"
	"github.com/gatehouse-mdm/gatehouse/storage/seal"
)

// Mistakes that a person makes with a push certificate, each its own.
var (
	ErrNoCertificate = errors.New("there is no certificate in it")
	ErrNoKey         = errors.New("there is no private key in it")
	ErrKeyEncrypted  = errors.New("the private key is encrypted")
	ErrKeyMismatch   = errors.New("the private key does not belong to the certificate")
	ErrNoTopic       = errors.New("the certificate has no push topic: it is no MDM push certificate")
	ErrExpired       = errors.New("the certificate has expired")
)

// topicPrefix begins every topic of MDM (PROTOCOL 3.2).
const topicPrefix = "com.apple.mgmt."

// oidUserID is the subject attribute UID, which holds the topic (RFC 4519, 2.39).
var oidUserID = asn1.ObjectIdentifier{0, 9, 2342, 19200300, 100, 1, 1}

// Certificate is the record of one push certificate. Its key is kept sealed.
type Certificate struct {
	Topic     string    `json:"topic"`
	SHA256    string    `json:"sha256"`   // hex, of the DER; changes with each renewal
	Revision  int       `json:"revision"` // how often the topic's certificate was put
	Chain     [][]byte  `json:"chain"`    // DER, the certificate first
	SealedKey []byte    `json:"sealed_key"`
	NotAfter  time.Time `json:"not_after"`
	CreatedAt time.Time `json:"created_at"` // of the topic, so that the first stays the first
	UpdatedAt time.Time `json:"updated_at"`
}

var certificates = storage.NewCollection("push_certificates", 1, func(c Certificate) string { return c.Topic })

// certificatesTopic is notified whenever a topic's certificate in use is another than
// before, or gone.
const certificatesTopic = "apns.certificates"

const (
	settingsBucket   = "apns"
	placeholderTopic = "placeholder_topic"
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

// Put keeps a push certificate and its key, PEM in one body or two. Its errors are
// the ones above, or guard's for a certificate that can't be read.
func (c *Certificates) Put(tx storage.Tx, pemData []byte) (Certificate, error) {
	chain, key, err := readPEM(pemData)
	if err != nil {
		return Certificate{}, err
	}
	leaf := chain[0]
	topic, err := topicOf(leaf)
	if err != nil {
		return Certificate{}, err
	}
	now := c.now().UTC()
	if now.After(leaf.NotAfter) {
		return Certificate{}, fmt.Errorf("%w on %s", ErrExpired, leaf.NotAfter.Format(time.DateOnly))
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return Certificate{}, fmt.Errorf("%w: %w", ErrNoKey, err)
	}
	sum := sha256.Sum256(leaf.Raw)
	rec := Certificate{
		Topic: topic, SHA256: hex.EncodeToString(sum[:]), SealedKey: c.box.Seal(keyPurpose(topic), pkcs8),
		NotAfter: leaf.NotAfter.UTC(), CreatedAt: now, UpdatedAt: now,
	}
	for _, cert := range chain {
		rec.Chain = append(rec.Chain, cert.Raw)
	}
	old, err := certificates.Get(tx, topic)
	switch {
	case err == nil:
		rec.CreatedAt, rec.Revision = old.CreatedAt, old.Revision+1
	case !errors.Is(err, storage.ErrNotFound):
		return Certificate{}, err
	}
	return rec, errors.Join(certificates.Put(tx, rec), tx.Notify(certificatesTopic))
}

func keyPurpose(topic string) string { return "apns/key/" + topic }

// Get returns the record for a topic, or an error that wraps storage.ErrNotFound.
func (c *Certificates) Get(tx storage.Tx, topic string) (Certificate, error) {
	return certificates.Get(tx, topic)
}

// All yields the records of all topics, in the order of their names.
func (c *Certificates) All(tx storage.Tx) iter.Seq2[Certificate, error] {
	return certificates.All(tx, storage.Range{})
}

// TLS returns the certificate and key for a topic, as a TLS client needs them.
func (c *Certificates) TLS(tx storage.Tx, topic string) (tls.Certificate, Certificate, error) {
	rec, err := certificates.Get(tx, topic)
	if err != nil {
		return tls.Certificate{}, Certificate{}, fmt.Errorf("push certificate of %s: %w", topic, err)
	}
	pkcs8, err := c.box.Open(keyPurpose(topic), rec.SealedKey)
	if err != nil {
		return tls.Certificate{}, Certificate{}, fmt.Errorf("push certificate of %s: %w", topic, err)
	}
	key, err := x509.ParsePKCS8PrivateKey(pkcs8)
	if err != nil {
		return tls.Certificate{}, Certificate{}, fmt.Errorf("push certificate of %s: %w", topic, err)
	}
	return tls.Certificate{Certificate: rec.Chain, PrivateKey: key}, rec, nil
}

// Topic returns the topic that a profile made now shall name: the first
// certificate's. Without one it is a placeholder, made by the first call (in an
// Update) and the same ever after, under which devices enroll but can't be woken:
// they have to enroll again once there is a push certificate.
func (c *Certificates) Topic(tx storage.Tx) (string, error) {
	var first Certificate
	for rec, err := range c.All(tx) {
		if err != nil {
			return "", fmt.Errorf("push topic: %w", err)
		}
		if first.Topic == "" || rec.CreatedAt.Before(first.CreatedAt) {
			first = rec
		}
	}
	if first.Topic != "" {
		return first.Topic, nil
	}
	v, err := tx.Get(settingsBucket, []byte(placeholderTopic))
	if errors.Is(err, storage.ErrNotFound) {
		v = []byte(topicPrefix + "External.placeholder-" + strings.ToLower(rand.Text()))
		err = tx.Put(settingsBucket, []byte(placeholderTopic), v)
	}
	if err != nil {
		return "", fmt.Errorf("push topic: %w", err)
	}
	return string(v), nil
}

// readPEM returns the certificates and the one key in data.
func readPEM(data []byte) (chain []*x509.Certificate, key crypto.Signer, err error) {
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		switch {
		case block.Type == "CERTIFICATE":
			cert, err := guard.ParseCertificate(block.Bytes)
			if err != nil {
				return nil, nil, err
			}
			chain = append(chain, cert)
		case block.Type == "ENCRYPTED PRIVATE KEY" || strings.Contains(block.Headers["Proc-Type"], "ENCRYPTED"):
			return nil, nil, ErrKeyEncrypted
		case strings.HasSuffix(block.Type, "PRIVATE KEY"):
			if key, err = parseKey(block.Bytes); err != nil {
				return nil, nil, err
			}
		}
	}
	switch {
	case len(chain) == 0:
		return nil, nil, ErrNoCertificate
	case key == nil:
		return nil, nil, ErrNoKey
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrNoKey, err)
	}
	if !bytes.Equal(public, chain[0].RawSubjectPublicKeyInfo) {
		return nil, nil, ErrKeyMismatch
	}
	return chain, key, nil
}

func parseKey(der []byte) (crypto.Signer, error) {
	var key any
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		key, err = x509.ParsePKCS1PrivateKey(der)
	}
	if err != nil {
		key, err = x509.ParseECPrivateKey(der)
	}
	if signer, ok := key.(crypto.Signer); ok && err == nil {
		return signer, nil
	}
	return nil, fmt.Errorf("%w that can be read", ErrNoKey)
}

func topicOf(cert *x509.Certificate) (string, error) {
	for _, name := range cert.Subject.Names {
		if !name.Type.Equal(oidUserID) {
			continue
		}
		if topic, ok := name.Value.(string); ok && strings.HasPrefix(topic, topicPrefix) && len(topic) <= 255 {
			return topic, nil
		}
	}
	return "", ErrNoTopic
}
