package mdmtest

import (
	"bytes"
	"crypto/subtle"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"time"
)

// unlockable reports whether the server gets an UnlockToken (PROTOCOL 4.2).
func (d *Device) unlockable() bool {
	mobile := d.opts.Model == IPhone || d.opts.Model == IPad || d.opts.Model == Vision || d.opts.Model == Watch
	return mobile && !d.opts.Shared && !d.byod.Load() && d.allows(4)
}

func (d *Device) isAwaiting() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.condition.awaiting
}

// runForSecurity runs the commands of locks, passwords and keys.
func (d *Device) runForSecurity(f *fields, requestType string) (Result, bool) {
	switch requestType {
	case "DeviceLock":
		return d.lock(f), true
	case "ClearPasscode":
		return d.clearPasscode(f), true
	case "RequestUnlockToken":
		return done(Dict{"UnlockToken": d.UnlockToken()}), true
	case "ClearRestrictionsPassword":
		return done(nil), true
	case "ActivationLockBypassCode", "ClearActivationLockBypassCode":
		return d.activationLock(requestType), true
	case "RotateFileVaultKey":
		return d.rotateFileVaultKey(f), true
	case "SetRecoveryLock", "VerifyRecoveryLock", "SetFirmwarePassword", "VerifyFirmwarePassword":
		return d.startupPassword(f, requestType), true
	case "EnableLostMode", "DisableLostMode", "PlayLostModeSound", "DeviceLocation":
		return d.lostMode(f, requestType), true
	}
	return Result{}, false
}

// pin checks the six digits that a Mac wants for DeviceLock and EraseDevice.
func (d *Device) pin(f *fields) Result {
	pin := f.string("PIN")
	if d.opts.Model == Mac && (len(pin) != 6 || bytes.ContainsFunc([]byte(pin), func(r rune) bool { return r < '0' || r > '9' })) {
		return failed(12008, "MCMDMErrorDomain", "The PIN must have six digits.")
	}
	return done(nil)
}

func (d *Device) lock(f *fields) Result {
	r := d.pin(f)
	if r.Status != StatusAcknowledged {
		return r
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.condition.lock = Lock{PIN: f.string("PIN"), Message: f.string("Message"), Phone: f.string("PhoneNumber")}
	if d.condition.lock.Message+d.condition.lock.Phone != "" && d.opts.Model != Mac && d.condition.passcode {
		r.Keys = Dict{"MessageResult": "Success"}
	}
	return r
}

// clearPasscode wants the token that TokenUpdate gave to the server.
func (d *Device) clearPasscode(f *fields) Result {
	token := f.data("UnlockToken")
	d.mu.Lock()
	defer d.mu.Unlock()
	if subtle.ConstantTimeCompare(token, d.unlockToken) != 1 {
		return failed(5013, "MCPasscodeErrorDomain", "The passcode could not be cleared.", problem{12018, "MCMDMErrorDomain", "The unlock token is not of this device."})
	}
	d.condition.passcode = false
	return done(nil)
}

func (d *Device) activationLock(requestType string) Result {
	d.mu.Lock()
	defer d.mu.Unlock()
	if requestType == "ClearActivationLockBypassCode" {
		d.condition.bypass = ""
		return done(nil)
	}
	if d.condition.bypass == "" {
		return failed(12010, "MCMDMErrorDomain", "There is no bypass code: it was cleared, or the time to ask for it is over.")
	}
	return done(Dict{"ActivationLockBypassCode": d.condition.bypass})
}

// rotateFileVaultKey takes the recovery key that the Mac has as Password. It gives the new
// one away only encrypted for the certificate that came along.
func (d *Device) rotateFileVaultKey(f *fields) Result {
	unlock := fields{dict: f.dictionary("FileVaultUnlock")}
	password, raw := unlock.string("Password"), f.data("ReplyEncryptionCertificate")
	if f.err == nil {
		f.err = unlock.err
	}
	if f.err != nil {
		return Result{}
	}
	if f.string("KeyType") == "institutional" {
		return failed(12010, "MCMDMErrorDomain", "The Mac has no institutional recovery key.")
	}
	var recipient *x509.Certificate
	if len(raw) > 0 {
		var err error
		if recipient, err = x509.ParseCertificate(raw); err != nil {
			return failed(12005, "MCMDMErrorDomain", "ReplyEncryptionCertificate is no certificate.")
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if subtle.ConstantTimeCompare([]byte(password), []byte(d.condition.recoveryKey)) != 1 {
		return failed(12010, "MCMDMErrorDomain", "The FileVault key could not be rotated: the password is wrong.")
	}
	next := recoveryKey(d.opts.UDID, 1)
	for n := 1; next == d.condition.recoveryKey; n++ {
		next = recoveryKey(d.opts.UDID, n+1)
	}
	if recipient == nil {
		d.condition.recoveryKey = next
		return done(nil)
	}
	sealed, err := envelope([]byte(next), recipient, oidAES128, d.opts.Encoding, d.opts.Rand)
	if err != nil {
		return failed(12010, "MCMDMErrorDomain", "The new recovery key could not be encrypted: "+err.Error())
	}
	d.condition.recoveryKey = next
	return done(Dict{"RotateResult": Dict{"EncryptedNewRecoveryKey": sealed}})
}

// startupPassword is the recovery lock of Apple silicon, and of other Macs the firmware
// password.
func (d *Device) startupPassword(f *fields, requestType string) Result {
	recovery := requestType == "SetRecoveryLock" || requestType == "VerifyRecoveryLock"
	if recovery == d.opts.Intel {
		return failed(12021, "MCMDMErrorDomain", fmt.Sprintf("“%s” is not supported on this Mac.", requestType))
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	password := &d.condition.firmware
	if recovery {
		password = &d.condition.recoveryLock
	}
	is := func(key string) bool {
		return subtle.ConstantTimeCompare([]byte(f.string(key)), []byte(*password)) == 1
	}
	switch requestType {
	case "VerifyRecoveryLock":
		return done(Dict{"PasswordVerified": is("Password")})
	case "VerifyFirmwarePassword":
		return done(Dict{"VerifyFirmwarePassword": Dict{"PasswordVerified": is("Password")}})
	}
	if *password != "" && !is("CurrentPassword") {
		return failed(12010, "MCMDMErrorDomain", "CurrentPassword is not the password.")
	}
	*password = f.string("NewPassword")
	if recovery {
		return done(nil)
	}
	return done(Dict{"SetFirmwarePassword": Dict{"PasswordChanged": true}})
}

func (d *Device) lostMode(f *fields, requestType string) Result {
	if requestType == "EnableLostMode" && f.string("Message")+f.string("PhoneNumber") == "" {
		f.err = fmt.Errorf("want Message or PhoneNumber")
		return Result{}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if requestType == "EnableLostMode" {
		d.condition.lost = true
		return done(nil)
	}
	if !d.condition.lost {
		return failed(12067, "MCMDMErrorDomain", "The device is not in Managed Lost Mode.")
	}
	switch requestType {
	case "DisableLostMode":
		d.condition.lost = false
	case "DeviceLocation":
		return done(Dict{
			"Latitude": 48.2082, "Longitude": 16.3738, "HorizontalAccuracy": 12.5, "VerticalAccuracy": 4.0, "Altitude": 171.0,
			"Speed": -1.0, "Course": -1.0, "Timestamp": d.opts.Now().UTC().Format(time.RFC3339),
		})
	}
	return done(nil)
}

// escrowed is a recovery key as SecurityInfo gives it away: encrypted once, not for each
// question.
type escrowed struct {
	key, certificate string
	cms              []byte
}

// escrow is what SecurityInfo adds when a profile wants the recovery key to be escrowed. The
// caller holds mu.
func (d *Device) escrow() Dict {
	for _, p := range d.installed {
		for _, payload := range p.ofType("com.apple.security.FDERecoveryKeyEscrow") {
			recipient := p.certificate(payload["EncryptCertPayloadUUID"])
			if recipient == nil {
				continue
			}
			state := &d.condition
			if e := state.escrowed; e.key != state.recoveryKey || e.certificate != string(recipient.Raw) {
				cms, err := envelope([]byte(state.recoveryKey), recipient, oidAES128, d.opts.Encoding, d.opts.Rand)
				if err != nil {
					continue
				}
				state.escrowed = escrowed{state.recoveryKey, string(recipient.Raw), cms}
			}
			key, _ := payload["DeviceKey"].(string)
			if key == "" {
				key = d.opts.Serial
			}
			return Dict{"FDE_PersonalRecoveryKeyCMS": state.escrowed.cms, "FDE_PersonalRecoveryKeyDeviceKey": key}
		}
	}
	return nil
}

// certificate is that of the certificate payload with a UUID, nil when there is none.
func (p *Profile) certificate(uuid any) *x509.Certificate {
	for _, payload := range p.Payloads {
		raw, ok := payload["PayloadContent"].([]byte)
		if !ok || uuid == nil || payload["PayloadUUID"] != uuid {
			continue
		}
		if block, _ := pem.Decode(raw); block != nil {
			raw = block.Bytes
		}
		if cert, err := x509.ParseCertificate(raw); err == nil {
			return cert
		}
	}
	return nil
}
