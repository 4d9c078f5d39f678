package apns

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/gatehouse-mdm/gatehouse/storage"
)

// Way says who signs a request before Apple takes it: an MDM vendor must.
type Way string

// The ways.
const (
	BySomebody Way = "csr"     // a vendor who is asked outside of this server
	ByVendor   Way = "vendor"  // this server, with a vendor certificate that it has
	ByMdmcert  Way = "mdmcert" // mdmcert.download, which mails what it signed
)

// RequestState says how far a request is.
type RequestState string

// The states of a [Request].
const (
	Open      RequestState = "open"      // its CSR is to be signed by a vendor
	Mailed    RequestState = "mailed"    // mdmcert.download mails the file for Apple
	Signed    RequestState = "signed"    // the file for Apple is there
	Fulfilled RequestState = "fulfilled" // a certificate was made of it
)

// Request is a certificate signing request whose key was made here and never left.
type Request struct {
	ID           string       `json:"id"`
	Way          Way          `json:"way"`
	State        RequestState `json:"state"`
	AppleAccount string       `json:"apple_account,omitempty"` // by whom the certificate is, or is to be, made
	Renews       string       `json:"renews,omitempty"`        // topic; empty: a new one
	CommonName   string       `json:"common_name"`
	Organization string       `json:"organization,omitempty"`
	Country      string       `json:"country,omitempty"`

	CSR       []byte `json:"csr"` // DER
	SealedKey []byte `json:"sealed_key"`
	KeyHash   string `json:"key_hash"`       // hex SHA-256 of the public key's DER
	File      []byte `json:"file,omitempty"` // for Apple: what a vendor made of CSR

	Email    string    `json:"email,omitempty"`    // of ByMdmcert: who gets the mail
	Exchange *Exchange `json:"exchange,omitempty"` // of ByMdmcert: what the mailed file is encrypted to

	CreatedAt   time.Time `json:"created_at"`
	FulfilledAt time.Time `json:"fulfilled_at,omitzero"`
	Topic       string    `json:"topic,omitempty"` // of the certificate that was made of it
}

// Exchange is a certificate for one mail.
type Exchange struct {
	Certificate []byte `json:"certificate"` // DER
	SealedKey   []byte `json:"sealed_key"`
}

const requestsByKey = "key"

var requests = storage.NewCollection("push_requests", 1, func(r Request) string { return r.ID },
	storage.Index[Request]{Name: requestsByKey, Values: func(r Request) []string { return []string{r.KeyHash} }},
)

// maxRequests bounds the requests that are kept. People have one or two.
const maxRequests = 50

// ErrTooManyRequests means that there are more requests than anybody needs.
var ErrTooManyRequests = fmt.Errorf("there are %d requests already", maxRequests)

func requestKey(id string) string { return "apns/request/" + id }

func keyHash(spki []byte) string {
	sum := sha256.Sum256(spki)
	return hex.EncodeToString(sum[:])
}

// requestOf returns the request that a certificate was made of; nil: none of ours.
func (c *Certificates) requestOf(tx storage.Tx, cert *x509.Certificate) (*Request, error) {
	for r, err := range requests.Lookup(tx, requestsByKey, keyHash(cert.RawSubjectPublicKeyInfo)) {
		if err != nil {
			return nil, err
		}
		return &r, nil
	}
	return nil, nil
}

// FieldError says what is wrong with one field of what somebody asked for.
type FieldError struct {
	Field  string // "country"
	Reason string // "must be two letters, such as DE"
}

// Error implements error.
func (e *FieldError) Error() string { return e.Field + " " + e.Reason }

// NewRequest is what somebody wants a certificate for. All but Way may be empty.
type NewRequest struct {
	Way          Way
	AppleAccount string
	Renews       string // a topic that there is
	CommonName   string
	Organization string
	Country      string // two letters
	Email        string // of ByMdmcert: an address that is registered there
	APIKey       string // of ByMdmcert: the key that it gives to programs
}

func (n *NewRequest) check() error {
	if !slices.Contains([]Way{BySomebody, ByVendor, ByMdmcert}, n.Way) {
		return &FieldError{"kind", "must be csr, vendor or mdmcert"}
	}
	n.CommonName = cmp.Or(strings.TrimSpace(n.CommonName), "Gatehouse push")
	n.Country = strings.ToUpper(strings.TrimSpace(n.Country))
	n.Organization, n.AppleAccount, n.Email = strings.TrimSpace(n.Organization), strings.TrimSpace(n.AppleAccount), strings.TrimSpace(n.Email)
	for _, text := range []struct {
		field, value string
		most         int
	}{
		{"common_name", n.CommonName, 64}, {"organization", n.Organization, 64},
		{"apple_account", n.AppleAccount, maxAccount}, {"email", n.Email, 254}, {"api_key", n.APIKey, 200},
	} {
		if err := checkText(text.field, text.value, text.most); err != nil {
			return err
		}
	}
	if len(n.Country) != 0 && (len(n.Country) != 2 || strings.Trim(n.Country, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") != "") {
		return &FieldError{"country", "must be two letters, such as DE"}
	}
	switch {
	case n.Way == ByMdmcert && !strings.Contains(n.Email, "@"):
		return &FieldError{"email", "must be the address that is registered at mdmcert.download"}
	case n.Way == ByMdmcert && n.APIKey == "":
		return &FieldError{"api_key", "is missing: mdmcert.download gives one to each program that asks it"}
	case n.Way != ByMdmcert && n.Email != "":
		return &FieldError{"email", "is for the kind mdmcert only"}
	case n.Way != ByMdmcert && n.APIKey != "":
		return &FieldError{"api_key", "is for the kind mdmcert only"}
	}
	return nil
}

// maxAccount bounds an Apple Account, in bytes: an e-mail address or a telephone number.
const maxAccount = 254

func checkText(field, text string, most int) error {
	switch {
	case len(text) > most:
		return &FieldError{field, fmt.Sprintf("must be at most %d bytes", most)}
	case strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }):
		return &FieldError{field, "must have only characters that can be printed"}
	}
	return nil
}

// Request makes a key and a request for a certificate of it, has that signed the way that n
// asks for, and keeps it. Errors are *FieldError, *Mistake (NoVendor, VendorExpired),
// *MdmcertError, or wrap ErrTooManyRequests.
func (k *Keeper) Request(ctx context.Context, n NewRequest) (r Request, err error) {
	if err := n.check(); err != nil {
		return Request{}, err
	}
	key, err := k.newKey()
	if err != nil {
		return Request{}, fmt.Errorf("push request: %w", err)
	}
	subject := pkix.Name{CommonName: n.CommonName}
	if n.Organization != "" {
		subject.Organization = []string{n.Organization}
	}
	if n.Country != "" {
		subject.Country = []string{n.Country}
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: subject, SignatureAlgorithm: x509.SHA256WithRSA}, key)
	if err != nil {
		return Request{}, fmt.Errorf("push request: %w", err)
	}
	id := newID()
	sealed, err := k.sealKey(requestKey(id), key)
	if err != nil {
		return Request{}, fmt.Errorf("push request: %w", err)
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return Request{}, fmt.Errorf("push request: %w", err)
	}
	made := Request{
		ID: id, Way: n.Way, State: Open, AppleAccount: n.AppleAccount, Renews: n.Renews, CommonName: n.CommonName, Organization: n.Organization,
		Country: n.Country, CSR: csr, SealedKey: sealed, KeyHash: keyHash(spki), Email: n.Email, CreatedAt: k.now().UTC(),
	}
	if n.Way == ByMdmcert {
		if made.Exchange, err = k.newExchange(id); err != nil {
			return Request{}, fmt.Errorf("push request: %w", err)
		}
	}
	err = k.db.Update(ctx, func(tx storage.Tx) error {
		r = made
		count := 0
		for _, err := range requests.All(tx, storage.Range{}) {
			if err != nil {
				return err
			}
			count++
		}
		if count >= maxRequests {
			return ErrTooManyRequests
		}
		if r.Renews != "" {
			rec, err := certificates.Get(tx, r.Renews)
			if errors.Is(err, storage.ErrNotFound) {
				return &FieldError{"renews", "must be a topic that there is a certificate for"}
			}
			if err != nil {
				return err
			}
			r.AppleAccount = cmp.Or(r.AppleAccount, rec.AppleAccount)
		}
		if n.Way == ByVendor {
			if r.File, err = k.signByVendor(tx, csr); err != nil {
				return err
			}
			r.State = Signed
		}
		if err := requests.Create(tx, r); err != nil {
			return err
		}
		return k.tell(ctx, tx, Change{Action: "push_request.made", Topic: r.Renews, AppleAccount: r.AppleAccount, Details: map[string]string{"request": r.ID, "kind": string(r.Way)}})
	})
	if err != nil {
		return Request{}, fmt.Errorf("push request: %w", err)
	}
	if n.Way == ByMdmcert {
		return k.askMdmcert(ctx, r, n.APIKey)
	}
	return r, nil
}

func newID() string { return strings.ToLower(rand.Text()) }

// sealKey seals a key as PKCS #8.
func (k *Keeper) sealKey(purpose string, key *rsa.PrivateKey) ([]byte, error) {
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return k.certificates.box.Seal(purpose, pkcs8), nil
}

// Requests returns all requests, the newest first.
func (k *Keeper) Requests(ctx context.Context) (all []Request, err error) {
	err = k.db.View(ctx, func(tx storage.Tx) error {
		all = nil
		for r, err := range requests.All(tx, storage.Range{}) {
			if err != nil {
				return err
			}
			all = append(all, r)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("push requests: %w", err)
	}
	slices.SortFunc(all, func(a, b Request) int { return b.CreatedAt.Compare(a.CreatedAt) })
	return all, nil
}

// RequestByID returns a request, or an error that wraps storage.ErrNotFound.
func (k *Keeper) RequestByID(ctx context.Context, id string) (r Request, err error) {
	err = k.db.View(ctx, func(tx storage.Tx) error {
		r, err = requests.Get(tx, id)
		return err
	})
	if err != nil {
		return Request{}, fmt.Errorf("push request %s: %w", id, err)
	}
	return r, nil
}

// DeleteRequest forgets a request and its key: a certificate that Apple makes of it later
// is of no use. One that was uploaded keeps its key. Its error may wrap storage.ErrNotFound.
func (k *Keeper) DeleteRequest(ctx context.Context, id string) error {
	err := k.db.Update(ctx, func(tx storage.Tx) error {
		r, err := requests.Get(tx, id)
		if err != nil {
			return err
		}
		if err := requests.Delete(tx, id); err != nil {
			return err
		}
		return k.tell(ctx, tx, Change{Action: "push_request.deleted", Topic: r.Renews, AppleAccount: r.AppleAccount, Details: map[string]string{"request": r.ID, "kind": string(r.Way)}})
	})
	if err != nil {
		return fmt.Errorf("push request %s: %w", id, err)
	}
	return nil
}

// PEM is the certificate signing request, for whoever signs it.
func (r Request) PEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: r.CSR})
}
