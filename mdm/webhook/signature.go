package webhook

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/gatehouse-mdm/gatehouse/storage/seal"
)

// Headers of a request to a target.
const (
	headerID        = "webhook-id" // Standard Webhooks; the same for every try of a delivery
	headerTimestamp = "webhook-timestamp"
	headerSignature = "webhook-signature"
	headerHMAC      = "X-Hmac-Signature" // NanoMDM
)

// secretPrefix begins a secret in the form of Standard Webhooks: base64 follows.
const secretPrefix = "whsec_"

// checkSecret says what is wrong with the secret of a target.
func checkSecret(secret seal.Secret) error {
	const most = 512
	text := string(secret)
	switch {
	case len(text) > most:
		return errors.New("must have at most 512 characters")
	case strings.ContainsFunc(text, func(r rune) bool { return r < '!' || r > '~' }):
		return errors.New("must be of ASCII characters without spaces")
	}
	if encoded, ok := strings.CutPrefix(text, secretPrefix); ok {
		if key, err := base64.StdEncoding.DecodeString(encoded); err != nil || len(key) == 0 {
			return errors.New("begins with whsec_ and so must go on in base64")
		}
	}
	return nil
}

// sign sets the headers by which a target knows that body comes from here: those of
// Standard Webhooks, where what follows whsec_ is the key in base64 and any other secret is
// the key as it stands, and that of NanoMDM, where the key is the secret as it stands in
// any case. While a secret is being replaced there are two signatures of each kind, by the
// new one first.
func sign(h http.Header, id string, at time.Time, body []byte, secrets []seal.Secret) {
	timestamp := strconv.FormatInt(at.Unix(), 10)
	h.Set(headerID, id)
	h.Set(headerTimestamp, timestamp)
	h.Del(headerSignature)
	h.Del(headerHMAC)
	var signatures []string
	for _, secret := range secrets {
		text := string(secret)
		key := []byte(text)
		if encoded, ok := strings.CutPrefix(text, secretPrefix); ok {
			if decoded, err := base64.StdEncoding.DecodeString(encoded); err == nil {
				key = decoded
			}
		}
		signatures = append(signatures, "v1,"+mac(key, []byte(id+"."+timestamp+"."), body))
		h.Add(headerHMAC, mac([]byte(text), body))
	}
	if len(signatures) > 0 {
		h.Set(headerSignature, strings.Join(signatures, " "))
	}
}

// mac is the HMAC-SHA256 of parts in base64.
func mac(key []byte, parts ...[]byte) string {
	h := hmac.New(sha256.New, key)
	for _, part := range parts {
		h.Write(part)
	}
	return base64.StdEncoding.EncodeToString(h.Sum(nil))
}
