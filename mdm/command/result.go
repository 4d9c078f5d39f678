package command

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/gatehouse-mdm/gatehouse/storage/guard"
)

// Redacted stands in a decoded result where a secret was.
const Redacted = "[redacted]"

// protocolKeys belong to the exchange, not to the answer: who speaks, about which
// command, and how it went.
var protocolKeys = []string{
	"UDID", "EnrollmentID", "UserID", "EnrollmentUserID", "UserShortName", "UserLongName", "NotOnConsole",
	"CommandUUID", "RequestType", "Status", "ErrorChain",
}

// secretKeys are the keys whose values let somebody into a device or account. They
// are compared in lower case, as the end of a key: "NewPassword" is a "password".
// FDE_PersonalRecoveryKeyCMS is encrypted, but not for those who read results.
var secretKeys = []string{
	"password", "passwordhash", "passcode",
	"bypasscode", "pushmagic", "redemptioncode",
	"recoverykey", "recoverykeycms", "challenge",
	"token", "secret", "apikey", "privatekey", // in what apps are configured with
}

// DecodeResult turns a device's answer to a command into a JSON object: keys as
// Apple spells them, data as base64, dates as RFC 3339 in UTC, integers exact, an
// infinite or undefined real as null. The keys of the protocol itself are left
// out, and the values of secrets read Redacted.
//
// Errors are guard's, or say that the list is no dictionary.
func DecodeResult(raw []byte, lim guard.PlistLimits) (json.RawMessage, error) {
	result, err := decodeDictionary(raw, lim)
	if err != nil {
		return nil, err
	}
	for _, key := range protocolKeys {
		delete(result, key)
	}
	encoded, err := json.Marshal(plain(result, false))
	if err != nil {
		return nil, fmt.Errorf("command: encode result: %w", err)
	}
	return encoded, nil
}

// ChainedError is one link of the ErrorChain of a failed command: the first is
// what failed, the next what caused it. Codes are for diagnosis and differ between
// OS versions; nothing may depend on them (PROTOCOL 5.2).
type ChainedError struct {
	ErrorCode            int64
	ErrorDomain          string
	LocalizedDescription string // in the device's language
	USEnglishDescription string
}

// Bounds of what is kept of an ErrorChain.
const (
	maxChain       = 32
	maxChainedText = 2048 // bytes of each text
)

// DecodeErrorChain returns the ErrorChain of a device's answer, nil when there is
// none. Links that are none are left out.
func DecodeErrorChain(raw []byte, lim guard.PlistLimits) ([]ChainedError, error) {
	result, err := decodeDictionary(raw, lim)
	if err != nil {
		return nil, err
	}
	links, _ := result["ErrorChain"].([]any)
	var chain []ChainedError
	for _, link := range links[:min(len(links), maxChain)] {
		d, ok := link.(map[string]any)
		if ok {
			chain = append(chain, chainedError(d))
		}
	}
	return chain, nil
}

func chainedError(d map[string]any) ChainedError {
	var e ChainedError
	switch code := d["ErrorCode"].(type) {
	case int64:
		e.ErrorCode = code
	case uint64:
		if code <= math.MaxInt64 {
			e.ErrorCode = int64(code)
		}
	}
	e.ErrorDomain = chainedText(d["ErrorDomain"])
	e.LocalizedDescription = chainedText(d["LocalizedDescription"])
	e.USEnglishDescription = chainedText(d["USEnglishDescription"])
	return e
}

func chainedText(v any) string {
	s, _ := v.(string)
	if len(s) > maxChainedText {
		s = strings.ToValidUTF8(s[:maxChainedText], "")
	}
	return s
}

func decodeDictionary(raw []byte, lim guard.PlistLimits) (map[string]any, error) {
	var v any
	if err := guard.DecodePlist(raw, &v, lim); err != nil {
		return nil, err
	}
	d, ok := v.(map[string]any)
	if !ok {
		return nil, errors.New("command: result is not a dictionary")
	}
	return d, nil
}

// plain returns v with what JSON lacks replaced. Below a secret key everything but
// booleans is a secret: they only say that there is one.
func plain(v any, secret bool) any {
	switch v := v.(type) {
	case map[string]any:
		for key, value := range v {
			v[key] = plain(value, secret || isSecret(key))
		}
		return v
	case []any:
		for i, value := range v {
			v[i] = plain(value, secret)
		}
		return v
	case bool:
		return v
	}
	if secret {
		return Redacted
	}
	switch v := v.(type) {
	case []byte:
		return base64.StdEncoding.EncodeToString(v)
	case time.Time:
		return v.UTC().Format(time.RFC3339)
	case float64:
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return nil
		}
	}
	return v
}

func isSecret(key string) bool {
	key = strings.ToLower(key)
	if key == "pin" {
		return true
	}
	for _, secret := range secretKeys {
		if strings.HasSuffix(key, secret) {
			return true
		}
	}
	return false
}
