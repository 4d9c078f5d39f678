package apns

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/url"
	"time"

	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/guard"
)

const (
	// exchangeLife is how long a mail may be on its way.
	exchangeLife = 90 * 24 * time.Hour

	maxMdmcertAnswer = 64 << 10 // bytes
)

// mdmcertURL is where mdmcert.download takes requests.
func mdmcertURL() *url.URL {
	return &url.URL{Scheme: "https", Host: "mdmcert.download", Path: "/api/v1/signrequest"}
}

// MdmcertError is a request that mdmcert.download did not take.
type MdmcertError struct {
	Status int    // of HTTP; 0: there was no answer
	Reason string // its own words, or none
	Err    error  // why there was no answer, or none of use; may be nil
}

// Error implements error.
func (e *MdmcertError) Error() string {
	switch {
	case e.Reason != "":
		return "mdmcert.download refuses the request: " + e.Reason
	case e.Err != nil:
		return "mdmcert.download: " + e.Err.Error()
	}
	return fmt.Sprintf("mdmcert.download answered with status %d", e.Status)
}

// Unwrap implements the interface of errors.Is.
func (e *MdmcertError) Unwrap() error { return e.Err }

// newExchange makes what one mail is encrypted to.
func (k *Keeper) newExchange(id string) (*Exchange, error) {
	key, err := k.newKey()
	if err != nil {
		return nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, err
	}
	now := k.now()
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "mdmcert.download"},
		NotBefore: now.Add(-maxSkew), NotAfter: now.Add(exchangeLife), KeyUsage: x509.KeyUsageKeyEncipherment,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	sealed, err := k.sealKey(exchangePurpose(id), key)
	if err != nil {
		return nil, err
	}
	return &Exchange{Certificate: der, SealedKey: sealed}, nil
}

func exchangePurpose(id string) string { return "apns/mdmcert/" + id }

// askMdmcert has mdmcert.download sign a request that was stored. It is forgotten again if
// that comes to nothing.
func (k *Keeper) askMdmcert(ctx context.Context, r Request, apiKey string) (Request, error) {
	if err := k.postMdmcert(ctx, r, apiKey); err != nil {
		forget := k.db.Update(context.WithoutCancel(ctx), func(tx storage.Tx) error { return requests.Delete(tx, r.ID) })
		return Request{}, errors.Join(err, forget)
	}
	err := k.db.Update(ctx, func(tx storage.Tx) (err error) {
		if r, err = requests.Get(tx, r.ID); err != nil {
			return err
		}
		if r.State == Open {
			r.State = Mailed
		}
		return requests.Put(tx, r)
	})
	if err != nil {
		return Request{}, fmt.Errorf("push request %s: %w", r.ID, err)
	}
	return r, nil
}

func (k *Keeper) postMdmcert(ctx context.Context, r Request, apiKey string) error {
	exchange, err := x509.ParseCertificate(r.Exchange.Certificate)
	if err != nil {
		return err
	}
	body, err := json.Marshal(map[string]string{
		"csr": base64.StdEncoding.EncodeToString(r.PEM()), "email": r.Email, "key": apiKey,
		"encrypt": base64.StdEncoding.EncodeToString(inPEM(exchange)),
	})
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, k.mdmcert.String(), bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", "gatehouse")
	resp, err := k.client.Do(req)
	if err != nil {
		return &MdmcertError{Err: fmt.Errorf("it can't be reached: %w", err)}
	}
	defer func() { _ = resp.Body.Close() }() // it was read
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxMdmcertAnswer))
	if err != nil {
		return &MdmcertError{Status: resp.StatusCode, Err: fmt.Errorf("its answer broke off: %w", err)}
	}
	var answer struct {
		Result string `json:"result"`
		Reason string `json:"reason"`
	}
	err = json.Unmarshal(raw, &answer)
	switch {
	case err == nil && answer.Result == "success" && resp.StatusCode == http.StatusOK:
		return nil
	case err == nil && answer.Reason != "":
		return &MdmcertError{Status: resp.StatusCode, Reason: clip(answer.Reason)}
	}
	return &MdmcertError{Status: resp.StatusCode}
}

// OpenMail makes the file for Apple of what mdmcert.download mailed for a request: a PKCS #7
// message in hexadecimal digits. Errors are *Mistake, or wrap storage.ErrNotFound.
func (k *Keeper) OpenMail(ctx context.Context, id string, mailed []byte) (r Request, err error) {
	if r, err = k.RequestByID(ctx, id); err != nil {
		return Request{}, err
	}
	if r.Way != ByMdmcert || r.Exchange == nil {
		return Request{}, &Mistake{Kind: OtherRequest, Reason: "mdmcert.download was not asked to sign this request.", Next: mistakes[OtherRequest].next}
	}
	file, err := k.decryptMail(r, mailed)
	if err != nil {
		return Request{}, err
	}
	err = k.db.Update(ctx, func(tx storage.Tx) error {
		if r, err = requests.Get(tx, id); err != nil {
			return err
		}
		r.File = file
		if r.State != Fulfilled {
			r.State = Signed
		}
		if err := requests.Put(tx, r); err != nil {
			return err
		}
		return k.tell(ctx, tx, Change{Action: "push_request.signed", Topic: r.Renews, AppleAccount: r.AppleAccount, Details: map[string]string{"request": r.ID, "kind": string(r.Way)}})
	})
	if err != nil {
		return Request{}, fmt.Errorf("push request %s: %w", id, err)
	}
	return r, nil
}

func (k *Keeper) decryptMail(r Request, mailed []byte) ([]byte, error) {
	if len(mailed) > maxFile {
		return nil, mistake(TooLarge)
	}
	packed := bytes.Join(bytes.Fields(mailed), nil)
	if len(packed) == 0 {
		return nil, mistake(Empty)
	}
	der, err := hex.DecodeString(string(packed))
	if err != nil { // a mail program may have decoded it
		der = mailed
	}
	cert, err := x509.ParseCertificate(r.Exchange.Certificate)
	if err != nil {
		return nil, err
	}
	signer, err := k.certificates.open(exchangePurpose(r.ID), r.Exchange.SealedKey)
	if err != nil {
		return nil, err
	}
	key, ok := signer.(*rsa.PrivateKey)
	if !ok {
		return nil, errors.New("the key of an exchange is not RSA")
	}
	content, err := guard.DecryptEnveloped(der, cert, key, maxFile)
	switch {
	case errors.Is(err, guard.ErrNotRecipient), errors.Is(err, guard.ErrDecrypt):
		return nil, mistake(OtherRequest)
	case err != nil:
		return nil, mistake(NotMailed)
	}
	// It may come in base64, as Apple takes it, or not.
	file := bytes.TrimSpace(content)
	plist, err := base64.StdEncoding.DecodeString(string(bytes.Join(bytes.Fields(file), nil)))
	if err != nil {
		plist, file = file, []byte(base64.StdEncoding.EncodeToString(file))
	}
	var in requestFile
	if err := guard.DecodePlist(plist, &in, guard.PlistLimits{}); err != nil {
		return nil, mistake(NotMailed)
	}
	csr, err := base64.StdEncoding.DecodeString(string(bytes.Join(bytes.Fields([]byte(in.CSR)), nil)))
	switch {
	case err != nil || in.Signature == "" || in.Chain == "":
		return nil, mistake(NotMailed)
	case !bytes.Equal(csr, r.CSR):
		return nil, mistake(OtherRequest)
	}
	return file, nil
}
