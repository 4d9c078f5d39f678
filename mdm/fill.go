package mdm

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"math/big"
	"strings"

	"github.com/gatehouse-mdm/gatehouse/mdm/command"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

// Codes of a Rejection for a secret.
const (
	CodeUnlockTokenMissing = "unlock_token_missing" // the device has entrusted none to this server
	CodeSecretUnknown      = "secret_unknown"       // the device asks for one that is not held here
	CodeSecretPending      = "secret_pending"       // another is on its way, on which this one depends
	CodeTooManySecrets     = "too_many_secrets"     // more than are kept are on their way
)

// filler finds out what each device gets in the keys of a command that the server knows
// better than whoever sends it ([command.Type.Filled]), unless they are there, and holds the
// secrets that the command brings, whoever has made them up.
type filler struct {
	*Service
	command NewCommand
	params  map[string]any // of the command: read only
}

// filler returns nil for a command in which nothing is to be filled in.
func (s *Service) filler(c NewCommand) *filler {
	t, _ := command.Lookup(c.RequestType)
	if c.Personalize != nil || len(t.Filled) == 0 {
		return nil
	}
	params, err := command.Params(c.Plist)
	if err != nil {
		return nil // it is the device's to refuse
	}
	return &filler{s, c, params}
}

// reads is what fill reads of a device.
func (f *filler) reads(id DeviceID) storage.Read {
	if f.command.RequestType == "ClearPasscode" {
		return storage.Read{Bucket: secretBucket, Key: secretKey(id, UnlockToken)}
	}
	kind, ok := setBy[f.command.RequestType]
	if !ok {
		kind = verifiedBy[f.command.RequestType]
	}
	return escrows.Read(escrowKey(id, kind))
}

// fill returns what a device gets of its own, which may be nothing. A *command.Refusal is why
// it gets no command.
func (f *filler) fill(tx storage.Tx, id DeviceID, target command.Target) (Values, error) {
	switch f.command.RequestType {
	case "ClearPasscode":
		return f.unlockToken(tx, id)
	case "DeviceLock":
		return f.pin(tx, id, target, LockPIN)
	case "EraseDevice":
		return f.erase(tx, id, target)
	case "RotateFileVaultKey":
		return f.recoveryKey(tx, id)
	case "SetAutoAdminPassword":
		return f.adminPassword(tx, id)
	case "SetFirmwarePassword":
		return f.password(tx, id, FirmwarePassword, "firmware password")
	case "SetRecoveryLock":
		return f.password(tx, id, RecoveryLock, "recovery lock")
	case "VerifyFirmwarePassword":
		return f.verification(tx, id, FirmwarePassword, "firmware password")
	case "VerifyRecoveryLock":
		return f.verification(tx, id, RecoveryLock, "recovery lock")
	}
	return Values{}, nil
}

// given returns a parameter that is a text, and whether there is one at all.
func (f *filler) given(name string) (text string, there bool) {
	v, there := f.params[name]
	text, _ = v.(string)
	return text, there
}

func (f *filler) unlockToken(tx storage.Tx, id DeviceID) (Values, error) {
	if _, there := f.given("UnlockToken"); there {
		return Values{}, nil
	}
	token, err := f.Secret(tx, id, UnlockToken)
	if err != nil {
		return Values{}, err
	}
	if token == nil {
		return Values{}, &command.Refusal{
			Code:   CodeUnlockTokenMissing,
			Reason: "The device has given this server no UnlockToken, without which its passcode can't be cleared. A device gives one when it enrolls, if the enrollment has the right to clear passcodes.",
		}
	}
	return Values{Keys: map[string]Param{"UnlockToken": {Data: token}}}, nil
}

// pin gives a Mac, or what may be one, a PIN. Other devices pass over it.
func (f *filler) pin(tx storage.Tx, id DeviceID, target command.Target, kind SecretKind) (Values, error) {
	if target.UserEnrollment || target.Platform != command.MacOS && target.Platform != "" {
		return Values{}, nil
	}
	pin, there := f.given("PIN")
	if there {
		return Values{}, f.hold(tx, id, kind, "", pin)
	}
	pin = newPIN()
	return Values{Keys: map[string]Param{"PIN": {Text: pin}}}, f.hold(tx, id, kind, "", pin)
}

// erase gives a device that returns to service by itself its bootstrap token, if it has
// entrusted one to this server (Apple: EraseDeviceCommand.Command.ReturnToService).
func (f *filler) erase(tx storage.Tx, id DeviceID, target command.Target) (Values, error) {
	service, _ := f.params["ReturnToService"].(map[string]any)
	_, there := service["BootstrapToken"]
	if service["Enabled"] == true && !there && (target.Platform == command.IOS || target.Platform == command.VisionOS) {
		token, err := f.Secret(tx, id, BootstrapToken)
		if err != nil || token == nil {
			return Values{}, err
		}
		return Values{Keys: map[string]Param{"ReturnToService": {Keys: map[string]Param{"BootstrapToken": {Data: token}}}}}, nil
	}
	return f.pin(tx, id, target, ErasePIN)
}

// password sets a password that asks for the one before it.
func (f *filler) password(tx storage.Tx, id DeviceID, kind SecretKind, what string) (Values, error) {
	rec, err := getEscrow(tx, id, kind)
	if err != nil {
		return Values{}, err
	}
	keys := make(map[string]Param, 2)
	if _, there := f.given("CurrentPassword"); !there {
		if rec.awaits() {
			return Values{}, onItsWay(what, "a "+what)
		}
		if h := rec.newest(SecretCurrent, SecretUnconfirmed); h != nil {
			current, err := f.open(rec, *h)
			if err != nil {
				return Values{}, err
			}
			keys["CurrentPassword"] = Param{Text: current}
		}
	}
	password, there := f.given("NewPassword")
	if !there {
		password = newPassword()
		keys["NewPassword"] = Param{Text: password}
	}
	return Values{Keys: keys}, f.hold(tx, id, kind, "", password)
}

func onItsWay(what, another string) error {
	return &command.Refusal{
		Code: CodeSecretPending,
		Reason: fmt.Sprintf("A command that changes the %s of this device is on its way, and %s can be set only after it: wait for its answer, or cancel it.",
			what, another),
	}
}

// verification asks a device about the password that it most likely has. One that it has
// refused before is asked about again only if there is no other.
func (f *filler) verification(tx storage.Tx, id DeviceID, kind SecretKind, what string) (Values, error) {
	if _, there := f.given("Password"); there {
		return Values{}, nil
	}
	rec, err := getEscrow(tx, id, kind)
	if err != nil {
		return Values{}, err
	}
	fresh := rec
	fresh.Held = nil
	for _, h := range rec.Held {
		if h.RefusedAt.IsZero() {
			fresh.Held = append(fresh.Held, h)
		}
	}
	for _, among := range []escrow{fresh, rec} {
		if h := among.newest(SecretPending, SecretUnconfirmed, SecretCurrent, SecretPrevious); h != nil {
			password, err := f.open(rec, *h)
			return Values{Keys: map[string]Param{"Password": {Text: password}}}, err
		}
	}
	return Values{}, &command.Refusal{
		Code: CodeSecretUnknown, Reason: fmt.Sprintf("This server knows no %s of this device: give it as Password.", what),
	}
}

// recoveryKey unlocks FileVault with the key that is held, and has the new one encrypted for
// this server.
func (f *filler) recoveryKey(tx storage.Tx, id DeviceID) (Values, error) {
	rec, err := getEscrow(tx, id, FileVaultKey)
	if err != nil {
		return Values{}, err
	}
	if rec.awaits() {
		return Values{}, onItsWay("FileVault recovery key", "another")
	}
	keys := make(map[string]Param, 2)
	if _, there := f.given("FileVaultUnlock"); !there {
		h := rec.newest(SecretCurrent)
		if h == nil {
			return Values{}, &command.Refusal{
				Code:   CodeSecretUnknown,
				Reason: "This server holds no FileVault recovery key of this device: give that, or the password of a user who may unlock the disk, as FileVaultUnlock.Password.",
			}
		}
		key, err := f.open(rec, *h)
		if err != nil {
			return Values{}, err
		}
		keys["FileVaultUnlock"] = Param{Keys: map[string]Param{"Password": {Text: key}}}
	}
	if keyType, _ := f.given("KeyType"); keyType != "personal" {
		return Values{Keys: keys}, nil
	}
	if _, there := f.given("ReplyEncryptionCertificate"); !there {
		certificate, err := f.escrowCertificate(tx)
		if err != nil {
			return Values{}, err
		}
		keys["ReplyEncryptionCertificate"] = Param{Data: certificate}
	}
	if !rec.add(held{HeldSecret: f.pending("")}) { // what the device is to make
		return Values{}, tooMany
	}
	return Values{Keys: keys}, putEscrow(tx, rec)
}

// adminPassword has a password hashed for an account. It is not one that a person has to
// remember: it is changed from here again.
func (f *filler) adminPassword(tx storage.Tx, id DeviceID) (Values, error) {
	values := Values{Without: []string{command.PasswordKey}}
	if _, there := f.given("passwordHash"); there {
		return values, nil // nobody here knows of what
	}
	password, _ := f.given(command.PasswordKey)
	if password == "" {
		password = newPassword()
	}
	values.Keys = map[string]Param{"passwordHash": {Text: password, Hash: true}}
	account, _ := f.given("GUID")
	return values, f.hold(tx, id, AdminPassword, account, password)
}

func (f *filler) pending(account string) HeldSecret {
	return HeldSecret{State: SecretPending, CommandUUID: f.command.UUID, Account: account, CreatedAt: f.now().UTC()}
}

var tooMany = &command.Refusal{
	Code: CodeTooManySecrets, Reason: "More commands of this kind are on their way to this device than this server keeps secrets of: wait for their answers, or cancel them.",
}

// hold keeps a secret that is on its way; an empty one takes the device's away.
func (f *filler) hold(tx storage.Tx, id DeviceID, kind SecretKind, account, secret string) error {
	rec, err := getEscrow(tx, id, kind)
	if err != nil {
		return err
	}
	if !rec.add(held{HeldSecret: f.pending(account), Sealed: f.sealed(rec, secret), Clears: secret == ""}) {
		return tooMany
	}
	return putEscrow(tx, rec)
}

// newPIN returns six digits.
func newPIN() string {
	n, _ := rand.Int(rand.Reader, big.NewInt(1_000_000)) // never fails
	return fmt.Sprintf("%06d", n)
}

// passwordLetters are those that look like no other and are where they are expected on
// keyboards whose layout is not the one that a Mac assumes when it starts.
const passwordLetters = "bcdefghijkprstuvx23456789"

// newPassword returns a password that can be read aloud and typed at the start of a Mac, of
// some 110 bits.
func newPassword() string {
	var b strings.Builder
	for range 24 {
		n, _ := rand.Int(rand.Reader, big.NewInt(int64(len(passwordLetters)))) // never fails
		b.WriteByte(passwordLetters[n.Int64()])
	}
	return b.String()
}

// valuesOf returns what e's device gets in its command of its own.
func (s *Service) valuesOf(tx storage.Tx, e Entry) (values Values, err error) {
	sealed, err := tx.Get(valuesBucket, valuesKey(e.UUID, e.DeviceID))
	if err != nil {
		return values, fmt.Errorf("values of command %s for %s: %w", e.UUID, e.DeviceID, err)
	}
	b, err := s.box.Open(valuesPurpose(e.UUID, e.DeviceID), sealed)
	if err != nil {
		return values, fmt.Errorf("values of command %s for %s: %w", e.UUID, e.DeviceID, err)
	}
	if err := json.Unmarshal(b, &values); err != nil {
		return values, fmt.Errorf("values of command %s for %s: %w", e.UUID, e.DeviceID, err)
	}
	return values, nil
}

// paramsOf returns the Command dictionary as it was queued for all devices.
func (s *Service) paramsOf(tx storage.Tx, uuid string) (map[string]any, error) {
	sealed, err := tx.Get(payloadBucket, []byte(uuid))
	if err != nil {
		return nil, fmt.Errorf("payload of command %s: %w", uuid, err)
	}
	plist, err := s.box.Open(payloadPurpose(uuid), sealed)
	if err != nil {
		return nil, fmt.Errorf("payload of command %s: %w", uuid, err)
	}
	return command.Params(plist)
}
