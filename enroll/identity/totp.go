package identity

import (
	"crypto/hmac"
	"crypto/sha1"
	"crypto/subtle"
	"encoding/base32"
	"encoding/binary"
	"fmt"
	"net/url"
	"strings"
	"time"
)

// Time-based one-time passwords (RFC 6238) as every authenticator app makes them: SHA-1,
// six digits, thirty seconds.
const (
	totpKey    = 20 // bytes, as long as SHA-1's result (RFC 4226, 4)
	totpPeriod = 30 * time.Second
	totpDigits = 6
	totpSkew   = 1 // steps that a clock may be wrong by, either way (RFC 6238, 5.2)
)

// totpStep is the number of the period that t is in.
func totpStep(t time.Time) int64 { return t.Unix() / int64(totpPeriod/time.Second) }

// totp returns the code of a step (RFC 4226, 5.3).
func totp(key []byte, step int64) string {
	mac := hmac.New(sha1.New, key)
	var counter [8]byte
	binary.BigEndian.PutUint64(counter[:], uint64(step))
	mac.Write(counter[:])
	sum := mac.Sum(nil)
	at := sum[len(sum)-1] & 0xf
	code := binary.BigEndian.Uint32(sum[at:at+4]) & 0x7fffffff
	return fmt.Sprintf("%0*d", totpDigits, code%1_000_000)
}

// matchTOTP returns the step whose code this is, of those about now and after used.
func matchTOTP(key []byte, code string, now time.Time, used int64) (step int64, ok bool) {
	for at := totpStep(now) - totpSkew; at <= totpStep(now)+totpSkew; at++ {
		if subtle.ConstantTimeCompare([]byte(totp(key, at)), []byte(code)) == 1 && at > used {
			step, ok = at, true
		}
	}
	return step, ok
}

var totpEncoding = base32.StdEncoding.WithPadding(base32.NoPadding)

// totpURI is what an authenticator app reads from a QR code. The Key URI Format is
// Google Authenticator's, and everybody's.
func totpURI(issuer, account string, key []byte) string {
	query := url.Values{
		"secret": {totpEncoding.EncodeToString(key)}, "issuer": {issuer}, "algorithm": {"SHA1"}, "digits": {"6"}, "period": {"30"},
	}
	// A plus sign in the query is a plus sign to some apps.
	return "otpauth://totp/" + url.PathEscape(issuer+":"+account) + "?" + strings.ReplaceAll(query.Encode(), "+", "%20")
}
