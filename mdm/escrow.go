package mdm

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/gatehouse-mdm/gatehouse/storage"
)

// The secrets that come and go with commands, beside what check-ins bring. Each device has
// any number of versions of one kind: see [HeldSecret].
const (
	LockPIN            SecretKind = "device_lock_pin"             // that a Mac asks for after DeviceLock
	ErasePIN           SecretKind = "erase_pin"                   // that a Mac asks for after EraseDevice
	RecoveryLock       SecretKind = "recovery_lock"               // SetRecoveryLock, of Apple silicon
	FirmwarePassword   SecretKind = "firmware_password"           // SetFirmwarePassword, of other Macs
	FileVaultKey       SecretKind = "filevault_recovery_key"      // personal; RotateFileVaultKey and SecurityInfo
	AdminPassword      SecretKind = "admin_password"              // SetAutoAdminPassword; each account has its own
	ActivationLockCode SecretKind = "activation_lock_bypass_code" // ActivationLockBypassCode
)

// outlives says of the kinds that can be held whether the device keeps the secret when its
// enrollment ends, so that somebody may need it who has enrolled the device again: the PIN of
// a Mac that was locked before, the password in its firmware, the key of its disk, the code
// that activates it after somebody has erased it. macOS takes a recovery lock away by itself,
// and an administrator's account is of the setup that made it.
var outlives = map[SecretKind]bool{
	LockPIN: true, ErasePIN: true, FirmwarePassword: true, FileVaultKey: true, ActivationLockCode: true,
	RecoveryLock: false, AdminPassword: false,
}

// Known says whether there are secrets of the kind.
func (k SecretKind) Known() bool {
	_, held := outlives[k]
	return held || !k.Revealable()
}

// Revealable says whether a person may see secrets of the kind: see [Service.Reveal].
func (k SecretKind) Revealable() bool { return k != UnlockToken && k != BootstrapToken }

// formerLife is how long what outlives an enrollment is kept once the device has enrolled anew.
const formerLife = 365 * 24 * time.Hour

// maxHeld is how many versions of one kind are kept for a device.
const maxHeld = 16

// SecretState says whether the device has a secret.
type SecretState string

// The states.
const (
	SecretPending SecretState = "pending" // its command is on its way, or unanswered
	// SecretUnconfirmed: its command was sent and has ended without an answer. The device may
	// have this one, or the current one.
	SecretUnconfirmed SecretState = "unconfirmed"
	SecretCurrent     SecretState = "current"
	SecretPrevious    SecretState = "previous" // another has taken its place, or the device enrolled anew
)

// HeldSecret is what may be told of a secret that the server holds for a device.
type HeldSecret struct {
	Kind        SecretKind  `json:"-"`
	State       SecretState `json:"state"`
	CommandUUID string      `json:"command_uuid,omitempty"` // that brings it to the device, or brought it from there
	Account     string      `json:"account,omitempty"`      // of an AdminPassword: the GUID
	CreatedAt   time.Time   `json:"created_at,omitzero"`    // zero: not known
	KeptUntil   time.Time   `json:"kept_until,omitzero"`    // set once the device has enrolled anew
	RevealedAt  time.Time   `json:"revealed_at,omitzero"`   // last
	RevealedBy  string      `json:"revealed_by,omitempty"`
}

// held is a HeldSecret with what it is.
type held struct {
	HeldSecret
	Sealed []byte `json:"sealed,omitempty"` // nil: the device is yet to make it
	// Clears means that the device is to have no secret any more.
	Clears bool `json:"clears,omitempty"`
	// Envelope means that it is encrypted for a certificate that is not ours.
	Envelope bool `json:"envelope,omitempty"`
	// Source is a code of the answer that it was read from: the same one is not read again.
	Source string `json:"source,omitempty"`
	// RefusedAt is when the device said that it is another.
	RefusedAt time.Time `json:"refused_at,omitzero"`
}

// escrow is all that is held of one kind for one device, the oldest first: one record, so
// that there is one current secret whoever writes.
type escrow struct {
	DeviceID DeviceID   `json:"device_id"`
	Kind     SecretKind `json:"kind"`
	Held     []held     `json:"held"`
}

const (
	escrowBucket = "device_escrow"
	escrowEnding = "ending"
)

var escrows = storage.NewCollection(escrowBucket, 1, func(e escrow) string { return escrowKey(e.DeviceID, e.Kind) },
	storage.Index[escrow]{Name: escrowEnding, Values: func(e escrow) []string {
		var first time.Time
		for _, h := range e.Held {
			if !h.KeptUntil.IsZero() && (first.IsZero() || h.KeptUntil.Before(first)) {
				first = h.KeptUntil
			}
		}
		if first.IsZero() {
			return nil
		}
		return []string{seqAt(first.UnixNano())}
	}},
)

func escrowKey(id DeviceID, kind SecretKind) string {
	return string(storage.Key(string(id), string(kind)))
}

func escrowPurpose(id DeviceID, kind SecretKind) string {
	return "mdm/escrow/" + string(id) + "/" + string(kind)
}

// getEscrow returns what is held, which may be nothing.
func getEscrow(tx storage.Tx, id DeviceID, kind SecretKind) (escrow, error) {
	e, err := escrows.Get(tx, escrowKey(id, kind))
	if errors.Is(err, storage.ErrNotFound) {
		return escrow{DeviceID: id, Kind: kind}, nil
	}
	if err != nil {
		return escrow{}, fmt.Errorf("%s held for %s: %w", kind, id, err)
	}
	return e, nil
}

func putEscrow(tx storage.Tx, e escrow) error {
	var err error
	if len(e.Held) == 0 {
		err = escrows.Delete(tx, escrowKey(e.DeviceID, e.Kind))
	} else {
		err = escrows.Put(tx, e)
	}
	if err != nil {
		return fmt.Errorf("hold %s for %s: %w", e.Kind, e.DeviceID, err)
	}
	return nil
}

// sealed is v as e holds it.
func (s *Service) sealed(e escrow, v string) []byte {
	return s.box.Seal(escrowPurpose(e.DeviceID, e.Kind), []byte(v))
}

// open returns what h is; h is one of e that has something.
func (s *Service) open(e escrow, h held) (string, error) {
	v, err := s.box.Open(escrowPurpose(e.DeviceID, e.Kind), h.Sealed)
	if err != nil {
		return "", fmt.Errorf("%s held for %s: %w", e.Kind, e.DeviceID, err)
	}
	return string(v), nil
}

// find returns the index of the newest one of an account that is v, -1 for none.
func (s *Service) find(e escrow, account, v string) (int, error) {
	for i, h := range slices.Backward(e.Held) {
		if h.Sealed == nil || h.Clears || h.Account != account {
			continue
		}
		has, err := s.open(e, h)
		if err != nil {
			return -1, err
		}
		if has == v {
			return i, nil
		}
	}
	return -1, nil
}

// add makes room for h, and reports whether there was any: what may be in use, or come into
// use, is not given up for what is newer.
func (e *escrow) add(h held) bool {
	for _, dispensable := range []SecretState{SecretPrevious, SecretUnconfirmed} {
		for len(e.Held) >= maxHeld {
			i := slices.IndexFunc(e.Held, func(h held) bool { return h.State == dispensable })
			if i < 0 {
				break
			}
			e.Held = slices.Delete(e.Held, i, i+1)
		}
	}
	if len(e.Held) >= maxHeld {
		return false
	}
	e.Held = append(e.Held, h)
	return true
}

// promote makes the i-th one current: that of its account before it becomes a previous one.
func (e *escrow) promote(i int) {
	h := e.Held[i]
	e.demote(h.Account)
	h.State, h.RefusedAt, h.KeptUntil = SecretCurrent, time.Time{}, time.Time{}
	e.Held = slices.Delete(e.Held, i, i+1)
	if !h.Clears {
		e.Held = append(e.Held, h)
	}
}

// demote makes what is current for an account a previous one.
func (e *escrow) demote(account string) {
	for i := range e.Held {
		if h := &e.Held[i]; h.Account == account && h.State == SecretCurrent {
			h.State = SecretPrevious
		}
	}
}

// newest returns the newest one in a state, with something in it, that the server may use:
// nil if there is none. What is left of a former enrollment is never sent to a device, which
// says itself that it is the same one.
func (e *escrow) newest(states ...SecretState) *held {
	for _, state := range states {
		for i := range slices.Backward(e.Held) {
			if h := &e.Held[i]; h.State == state && h.Sealed != nil && !h.Clears && !h.Envelope && h.KeptUntil.IsZero() {
				return h
			}
		}
	}
	return nil
}

// awaits reports whether a command with a secret of this kind has yet to be answered.
func (e *escrow) awaits() bool {
	return slices.ContainsFunc(e.Held, func(h held) bool { return h.State == SecretPending })
}

// forgetEscrow ends what is held for an enrollment that begins anew.
func (s *Service) forgetEscrow(tx storage.Tx, id DeviceID) error {
	var all []escrow
	for e, err := range escrows.All(tx, storage.Range{Prefix: storage.KeyPrefix(string(id))}) {
		if err != nil {
			return fmt.Errorf("secrets held for %s: %w", id, err)
		}
		all = append(all, e)
	}
	until := s.now().UTC().Add(formerLife)
	for _, e := range all {
		if !outlives[e.Kind] {
			e.Held = nil
		}
		e.Held = slices.DeleteFunc(e.Held, func(h held) bool { return h.Sealed == nil || h.Clears })
		for i := range e.Held {
			h := &e.Held[i]
			if h.State == SecretCurrent {
				h.State = SecretPrevious
			}
			if h.KeptUntil.IsZero() {
				h.KeptUntil = until
			}
		}
		if err := putEscrow(tx, e); err != nil {
			return err
		}
	}
	return nil
}

// sweepEscrow deletes what is left of former enrollments and has had its time.
func (s *Service) sweepEscrow(ctx context.Context) error {
	now := s.now()
	return storage.Sweep(ctx, s.db, escrows, escrowEnding, seqAt(now.UnixNano()), func(tx storage.Tx, e escrow) error {
		e.Held = slices.DeleteFunc(e.Held, func(h held) bool { return !h.KeptUntil.IsZero() && h.KeptUntil.Before(now) })
		return putEscrow(tx, e)
	})
}

// Secrets returns what secrets the server holds for a device, by kind, the newest first, and
// nothing of what they are. The error wraps storage.ErrNotFound if there is no such device.
func (s *Service) Secrets(ctx context.Context, id DeviceID) (list []HeldSecret, err error) {
	err = s.db.View(ctx, func(tx storage.Tx) error {
		list = nil
		if _, err := GetDevice(tx, id); err != nil {
			return err
		}
		for _, kind := range []SecretKind{BootstrapToken, UnlockToken} {
			switch _, err := tx.Get(secretBucket, secretKey(id, kind)); {
			case err == nil:
				list = append(list, HeldSecret{Kind: kind, State: SecretCurrent})
			case !errors.Is(err, storage.ErrNotFound):
				return err
			}
		}
		for e, err := range escrows.All(tx, storage.Range{Prefix: storage.KeyPrefix(string(id))}) {
			if err != nil {
				return err
			}
			for _, h := range slices.Backward(e.Held) {
				h.Kind = e.Kind
				list = append(list, h.HeldSecret)
			}
		}
		slices.SortStableFunc(list, func(a, b HeldSecret) int { return cmp.Compare(a.Kind, b.Kind) })
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("secrets of %s: %w", id, err)
	}
	return list, nil
}
