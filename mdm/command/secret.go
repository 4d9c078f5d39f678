package command

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"

	"github.com/gatehouse-mdm/gatehouse/storage/guard"
)

// Entrusted are the secrets in a device's answer that a server asks for to keep them: what
// [DecodeResult] shows of each is Redacted. It prints as [secret].
type Entrusted struct {
	UnlockToken []byte // RequestUnlockToken
	BypassCode  string // ActivationLockBypassCode
	// RecoveryKeyCMS is the personal recovery key of FileVault, encrypted for a certificate
	// (RFC 5652, 6): that of a RotateFileVaultKey, or of the profile which SecurityInfo tells of.
	RecoveryKeyCMS []byte
}

// Most bytes of what is kept of an answer.
const (
	maxBypassCode  = 256
	maxEnvelope    = 64 << 10
	maxUnlockToken = 64 << 10
)

// entrustedKeys are the keys that Entrusted has. Answers without them, which are nearly all,
// are not decoded for it.
var entrustedKeys = [][]byte{
	[]byte("UnlockToken"), []byte("ActivationLockBypassCode"), []byte("FDE_PersonalRecoveryKeyCMS"), []byte("EncryptedNewRecoveryKey"),
}

// DecodeEntrusted returns the secrets in a device's answer, nil if there are none. Errors are
// as of [DecodeResult]. What is of another type than Apple says, or larger than such a secret
// is, counts as missing.
func DecodeEntrusted(raw []byte, lim guard.PlistLimits) (*Entrusted, error) {
	found := false
	for _, key := range entrustedKeys {
		found = found || bytes.Contains(raw, key)
	}
	if !found {
		return nil, nil
	}
	answer, err := decodeDictionary(raw, lim)
	if err != nil {
		return nil, err
	}
	var e Entrusted
	if token, _ := answer["UnlockToken"].([]byte); len(token) <= maxUnlockToken {
		e.UnlockToken = token
	}
	if code, _ := answer["ActivationLockBypassCode"].(string); len(code) <= maxBypassCode {
		e.BypassCode = code
	}
	rotated, _ := answer["RotateResult"].(map[string]any)
	security, _ := answer["SecurityInfo"].(map[string]any)
	for _, v := range []any{rotated["EncryptedNewRecoveryKey"], security["FDE_PersonalRecoveryKeyCMS"]} {
		if cms, _ := v.([]byte); len(cms) > 0 && len(cms) <= maxEnvelope {
			e.RecoveryKeyCMS = cms
			break
		}
	}
	if len(e.UnlockToken) == 0 && e.BypassCode == "" && len(e.RecoveryKeyCMS) == 0 {
		return nil, nil
	}
	return &e, nil
}

const hidden = "[secret]"

// Format implements fmt.Formatter, so that no verb shows what e holds.
func (e Entrusted) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, hidden) }

// LogValue implements slog.LogValuer.
func (e Entrusted) LogValue() slog.Value { return slog.StringValue(hidden) }

// MarshalText implements encoding.TextMarshaler.
func (e Entrusted) MarshalText() ([]byte, error) { return []byte(hidden), nil }
