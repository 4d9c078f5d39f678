package mdm

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"slices"
	"strings"

	"github.com/gatehouse-mdm/gatehouse/mdm/command"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

// setBy are the commands that bring a secret to a device, and which kind it is.
var setBy = map[string]SecretKind{
	"DeviceLock":           LockPIN,
	"EraseDevice":          ErasePIN,
	"RotateFileVaultKey":   FileVaultKey,
	"SetAutoAdminPassword": AdminPassword,
	"SetFirmwarePassword":  FirmwarePassword,
	"SetRecoveryLock":      RecoveryLock,
}

// verifiedBy are the commands that ask a device whether its secret is the one in Password.
var verifiedBy = map[string]SecretKind{
	"VerifyFirmwarePassword": FirmwarePassword,
	"VerifyRecoveryLock":     RecoveryLock,
}

// settleSecrets is an [Observer]: it draws from the end of a command what secrets its device
// has.
func (s *Service) settleSecrets(tx storage.Tx, e Entry) error {
	if kind, ok := setBy[e.RequestType]; ok {
		return s.settle(tx, e, kind)
	}
	if e.State != Acknowledged {
		return nil
	}
	if kind, ok := verifiedBy[e.RequestType]; ok {
		return s.settleVerified(tx, e, kind)
	}
	if e.RequestType == "ClearActivationLockBypassCode" {
		rec, err := getEscrow(tx, e.DeviceID, ActivationLockCode)
		if err != nil || rec.newest(SecretCurrent) == nil {
			return err
		}
		rec.demote("")
		return putEscrow(tx, rec)
	}
	return nil
}

// settle promotes the secret that e was to bring, or drops it where the device says that it
// did not take it, or never had the command. Of one that was sent and not answered nobody
// knows, so it is kept beside the current one.
func (s *Service) settle(tx storage.Tx, e Entry, kind SecretKind) error {
	rec, err := getEscrow(tx, e.DeviceID, kind)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(rec.Held, func(h held) bool { return h.State == SecretPending && h.CommandUUID == e.UUID })
	if i < 0 {
		return nil
	}
	h := &rec.Held[i]
	switch {
	case h.Sealed == nil: // the device makes it, and has told it if it did: see entrust
		if e.State == Acknowledged {
			rec.demote(h.Account)
		}
		rec.Held = slices.Delete(rec.Held, i, i+1)
	case e.State == Acknowledged && tookIt(e):
		rec.promote(i)
	case refusedIt(e), e.DeliveredAt.IsZero(), h.Clears:
		rec.Held = slices.Delete(rec.Held, i, i+1)
	default:
		h.State = SecretUnconfirmed
	}
	return putEscrow(tx, rec)
}

// tookIt says that a device which acknowledged a command did what it asks for.
func tookIt(e Entry) bool {
	var answer struct {
		SetFirmwarePassword struct{ PasswordChanged *bool }
	}
	_ = json.Unmarshal(e.Result, &answer) // what can't be read says nothing else
	changed := answer.SetFirmwarePassword.PasswordChanged
	return changed == nil || *changed
}

// refusedIt says that the device, and not this server, has ended the command without doing
// what it asks for.
func refusedIt(e Entry) bool {
	return e.State == Acknowledged || e.State == Failed && !slices.ContainsFunc(e.ErrorChain, func(link command.ChainedError) bool {
		return link.ErrorDomain == ownErrorDomain
	})
}

// ownErrorDomain is the ErrorDomain of what this server says in a device's place.
const ownErrorDomain = "Gatehouse"

// settleVerified learns from the answer of a device whether a password is its own.
func (s *Service) settleVerified(tx storage.Tx, e Entry, kind SecretKind) error {
	var answer struct {
		PasswordVerified       *bool
		VerifyFirmwarePassword struct{ PasswordVerified *bool }
	}
	_ = json.Unmarshal(e.Result, &answer) // what can't be read says neither
	is := answer.PasswordVerified
	if is == nil {
		is = answer.VerifyFirmwarePassword.PasswordVerified
	}
	if is == nil {
		return nil
	}
	password, err := s.sentText(tx, e, "Password")
	if err != nil || password == "" {
		return err
	}
	rec, err := getEscrow(tx, e.DeviceID, kind)
	if err != nil {
		return err
	}
	i, err := s.find(rec, "", password)
	switch {
	case err != nil:
		return err
	case i >= 0 && rec.Held[i].State == SecretPending:
		return nil // the command that brings it has the say
	case !*is && i < 0:
		return nil
	case !*is:
		rec.Held[i].State, rec.Held[i].RefusedAt = SecretPrevious, s.now().UTC()
	case i < 0: // what somebody has found out is as good as what was set from here
		if !rec.add(held{HeldSecret: HeldSecret{CommandUUID: e.UUID, CreatedAt: s.now().UTC()}, Sealed: s.sealed(rec, password)}) {
			return nil
		}
		rec.promote(len(rec.Held) - 1)
	default:
		rec.promote(i)
	}
	return putEscrow(tx, rec)
}

// sentText returns a text out of the Command dictionary that e's device was sent, empty if
// it has none.
func (s *Service) sentText(tx storage.Tx, e Entry, key string) (string, error) {
	if e.Personal {
		values, err := s.valuesOf(tx, e)
		if err != nil {
			return "", err
		}
		if p, ok := values.Keys[key]; ok {
			return p.Text, nil
		}
	}
	params, err := s.paramsOf(tx, e.UUID)
	if err != nil {
		return "", err
	}
	text, _ := params[key].(string)
	return text, nil
}

// entrust keeps the secrets that came with the answer to e.
func (s *Service) entrust(tx storage.Tx, e Entry, secrets *command.Entrusted) error {
	if secrets == nil || e.State != Acknowledged || e.UserEnrolled {
		return nil
	}
	if d, err := GetDevice(tx, e.DeviceID); err != nil || d.ParentID != "" { // a user's channel has none of its own
		return err
	}
	switch e.RequestType {
	case "RequestUnlockToken":
		if len(secrets.UnlockToken) > 0 {
			return s.SetSecret(tx, e.DeviceID, UnlockToken, secrets.UnlockToken)
		}
	case "ActivationLockBypassCode":
		if secrets.BypassCode != "" {
			return s.learn(tx, e, ActivationLockCode, held{}, secrets.BypassCode)
		}
	case "RotateFileVaultKey", "SecurityInfo":
		if len(secrets.RecoveryKeyCMS) > 0 {
			return s.entrustRecoveryKey(tx, e, secrets.RecoveryKeyCMS)
		}
	}
	return nil
}

// errUnreadable means that what was encrypted for us is none, or no recovery key.
var errUnreadable = errors.New("no recovery key")

// entrustRecoveryKey keeps a recovery key that was encrypted for us. One that a
// RotateFileVaultKey asked for and nobody here can open is kept as it came, for whoever has
// the key: there is no other copy. One that SecurityInfo tells of is there the next time.
func (s *Service) entrustRecoveryKey(tx storage.Tx, e Entry, cms []byte) error {
	rec, err := getEscrow(tx, e.DeviceID, FileVaultKey)
	if err != nil {
		return err
	}
	from := held{Source: hex.EncodeToString(s.box.MAC("mdm/escrow-source", cms))}
	asked := e.RequestType == "RotateFileVaultKey"
	if !asked && slices.ContainsFunc(rec.Held, func(h held) bool { return h.Source == from.Source && h.KeptUntil.IsZero() }) {
		return nil
	}
	key, err := s.openEnvelope(tx, cms)
	switch {
	case err == nil:
	case !errors.Is(err, errNotOurs) && !errors.Is(err, errUnreadable):
		return err
	case !asked:
		return nil
	default:
		from.Envelope, key = true, string(cms)
	}
	if !asked {
		// A Mac may tell of the key that it had before the last rotation.
		i, err := s.find(rec, "", key)
		if err != nil || i >= 0 && rec.Held[i].State == SecretPrevious && rec.Held[i].KeptUntil.IsZero() {
			return err
		}
	}
	return s.learn(tx, e, FileVaultKey, from, key)
}

// learn makes v the current secret: it is the device's word.
func (s *Service) learn(tx storage.Tx, e Entry, kind SecretKind, h held, v string) error {
	rec, err := getEscrow(tx, e.DeviceID, kind)
	if err != nil {
		return err
	}
	i, err := s.find(rec, "", v)
	if err != nil {
		return err
	}
	if i < 0 {
		h.CommandUUID, h.CreatedAt, h.Sealed = e.UUID, s.now().UTC(), s.sealed(rec, v)
		if !rec.add(h) { // it can't be: of these kinds, one at most is on its way
			return nil
		}
		i = len(rec.Held) - 1
	} else if h.Source != "" {
		rec.Held[i].Source = h.Source
	}
	rec.promote(i)
	return putEscrow(tx, rec)
}

// recoveryKeyIn returns the recovery key in what was decrypted: text, on a line of its own.
func recoveryKeyIn(plain []byte) (string, error) {
	key := strings.TrimRight(strings.TrimSpace(string(plain)), "\x00")
	if key == "" || len(key) > maxRecoveryKey || strings.IndexFunc(key, func(c rune) bool { return c < 0x20 || c > 0x7e }) >= 0 {
		return "", errUnreadable
	}
	return key, nil
}
