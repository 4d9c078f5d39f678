package webhook

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"hash"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/micromdm/nanomdm/http/hashbody"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/gatehouse-mdm/gatehouse/storage/seal"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// The libraries of the receivers judge our signatures.
func TestReceiversKnowOurSignatures(t *testing.T) {
	storagetest.AnyEngine(t)
	const standard = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	free := seal.Secret("any-text_will.do")
	body := []byte(`{"topic":"mdm.Connect"}`)
	for name, secrets := range map[string][]seal.Secret{
		"a secret as Standard Webhooks has them": {standard},
		"a secret of any text":                   {free},
		"a secret that is being replaced":        {free, standard},
	} {
		t.Run(name, func(t *testing.T) {
			header := make(http.Header)
			sign(header, "d1", time.Now(), body, secrets)
			for i, secret := range secrets {
				judge, err := standardwebhooks.NewWebhookRaw([]byte(secret))
				if secret == standard {
					judge, err = standardwebhooks.NewWebhook(standard)
				}
				if err != nil {
					t.Fatal(err)
				}
				if err := judge.Verify(body, header); err != nil {
					t.Errorf("Standard Webhooks: %v", err)
				}
				if judge.Verify(append(bytes.Clone(body), ' '), header) == nil {
					t.Error("Standard Webhooks takes another body")
				}
				answer := &http.Response{Header: http.Header{headerHMAC: header[headerHMAC][i:]}, Body: io.NopCloser(bytes.NewReader(body))}
				key := func() hash.Hash { return hmac.New(sha256.New, []byte(secret)) }
				ok, err := hashbody.VerifyBodyHashHeader(answer, headerHMAC, key(), base64.StdEncoding.DecodeString, nil)
				if err != nil || !ok {
					t.Errorf("NanoMDM: %v, %v", ok, err)
				}
			}
		})
	}

	header := make(http.Header)
	sign(header, "d1", time.Now(), body, nil)
	if len(header[headerHMAC]) > 0 || header.Get(headerSignature) != "" || header.Get(headerID) != "d1" {
		t.Errorf("without a secret: %v", header)
	}
}

func TestSecretsThatCanNotBe(t *testing.T) {
	storagetest.AnyEngine(t)
	for name, tt := range map[string]struct {
		secret seal.Secret
		ok     bool
	}{
		"any text":                         {"s3cret", true},
		"in the form of Standard Webhooks": {"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", true},
		"a space":                          {"two words", false},
		"a line end":                       {"secret\n", false},
		"no base64":                        {"whsec_!!", false},
		"nothing in base64":                {"whsec_", false},
	} {
		if err := checkSecret(tt.secret); (err == nil) != tt.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}
