// Package migrate reads what other MDM servers leave behind, so that their devices can be taken
// over.
//
// It changes nothing, here or there, and knows nothing of HTTP or of our own state: what becomes
// of what it finds is package enroll's.
package migrate

import (
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/gatehouse-mdm/gatehouse/depot"
	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

// File is a file of buckets that another program wrote. *bolt.Foreign is one.
type File interface {
	Buckets() ([]string, error)
	Get(bucket string, key []byte) ([]byte, error) // nil if it is not there
	All(bucket string) iter.Seq2[storage.Item, error]
}

// Buckets of MicroMDM v1.13.1, and what they hold by which key.
const (
	microDevices     = "mdm.Devices"       // Device by a UUID of MicroMDM's own
	microDeviceIndex = "mdm.DeviceIdx"     // that UUID by UDID, and by serial number
	microPush        = "mdm.PushInfo"      // PushInfo by UDID, UserID or EnrollmentID
	microCertAuth    = "mdm.UDIDCertAuth"  // SHA-256 of the identity certificate by UDID
	microUsers       = "mdm.Users"         // User by a UUID of MicroMDM's own
	microUserIndex   = "mdm.UserIdx"       // that UUID by UserID, and by UDID: MicroMDM keeps one user a device
	microRemove      = "mdm.RemoveDevice"  // Device, of those that are to leave, by UDID
	microConfig      = "mdm.ServerConfig"  // ServerConfig by "config"
	microProfiles    = "mdm.Profile"       // Profile by PayloadIdentifier
	microBlueprints  = "mdm.Blueprint"     // Blueprint by a UUID
	microDEPTokens   = "mdm.DEPToken"      // tokens of Apple Business or School Manager
	microSCEP        = "scep_certificates" // "ca_certificate", "ca_key", "serial", and DER by CN and serial number
)

// MicroEnrollment is the PayloadIdentifier of MicroMDM's enrollment profile, whether the server
// makes it or the organisation has uploaded its own.
const MicroEnrollment = "com.github.micromdm.micromdm.enroll"

// microOTA begins the names of the profiles by which an Over-the-Air enrollment comes about.
const microOTA = "com.github.micromdm.micromdm.ota"

// ErrNotMicroMDM means that a file is no database of MicroMDM v1.
var ErrNotMicroMDM = errors.New("this is no database of MicroMDM v1")

// MicroMDM is the database of a MicroMDM v1 server.
type MicroMDM struct {
	file File
}

// OpenMicroMDM looks whether a file is what it should be.
func OpenMicroMDM(f File) (*MicroMDM, error) {
	names, err := f.Buckets()
	if err != nil {
		return nil, err
	}
	has := map[string]bool{}
	for _, name := range names {
		has[name] = true
	}
	if !has[microDevices] && !has[microConfig] && !has[microSCEP] {
		return nil, fmt.Errorf("%w: it has none of the buckets %s, %s and %s", ErrNotMicroMDM, microDevices, microConfig, microSCEP)
	}
	return &MicroMDM{file: f}, nil
}

// Device is what was found of one device. Err is why it can't be taken over.
type Device struct {
	enroll.Former
	Err *Skipped
}

// Skipped is a device that stays behind.
type Skipped struct {
	Serial string // number; may be empty
	Code   string // "not_enrolled"
	Reason string // a clause
}

func (s *Skipped) Error() string { return s.Reason }

// Devices yields every device and then every User Enrollment, one at a time: of a hundred
// thousand none is kept. An error, of the file, ends the sequence.
func (m *MicroMDM) Devices() iter.Seq2[Device, error] {
	return func(yield func(Device, error) bool) {
		for item, err := range m.file.All(microDevices) {
			var d Device
			if err == nil {
				d, err = m.device(item.Value)
			}
			if !yield(d, err) || err != nil {
				return
			}
		}
		for item, err := range m.file.All(microPush) {
			var d *Device
			if err == nil {
				d, err = m.userEnrollment(string(item.Key), item.Value)
			}
			if err != nil {
				yield(Device{}, err)
				return
			}
			if d != nil && !yield(*d, nil) {
				return
			}
		}
	}
}

// microDevice is platform/device/internal/deviceproto.
type microDevice struct {
	udid, token, magic, unlockToken string
	bootstrapToken                  []byte
	enrolled                        bool
	facts                           mdm.Facts
	lastSeen                        time.Time
}

func readMicroDevice(data []byte) (d microDevice, err error) {
	for f, err := range fields(data) {
		if err != nil {
			return d, err
		}
		text := string(f.bytes)
		switch f.number {
		case 2:
			d.udid = text
		case 3:
			d.facts.SerialNumber = text
		case 4:
			d.facts.OSVersion = text
		case 5:
			d.facts.BuildVersion = text
		case 6:
			d.facts.ProductName = text
		case 7:
			d.facts.IMEI = text
		case 8:
			d.facts.MEID = text
		case 9:
			d.token = text
		case 10:
			d.magic = text
		case 12:
			d.unlockToken = text
		case 13:
			d.enrolled = f.varint != 0
		case 15:
			d.facts.DeviceName = text
		case 16:
			d.facts.Model = text
		case 17:
			d.facts.ModelName = text
		case 28:
			d.lastSeen = nanoTime(f.varint)
		case 30:
			d.bootstrapToken = f.bytes
		}
	}
	return d, nil
}

// nanoTime is a time in nanoseconds since 1970; 0 is none.
func nanoTime(n uint64) time.Time {
	if n == 0 || n > 1<<62 {
		return time.Time{}
	}
	return time.Unix(0, int64(n)).UTC()
}

// device returns what is known of a device. Its error is the file's.
func (m *MicroMDM) device(data []byte) (out Device, err error) {
	d, damaged := readMicroDevice(data)
	out.ID.UDID, out.Facts, out.LastSeen, out.BootstrapToken = d.udid, d.facts, d.lastSeen, d.bootstrapToken
	stays := func(code, reason string) (Device, error) {
		out.Err = &Skipped{d.facts.SerialNumber, code, reason}
		return out, nil
	}
	switch {
	case damaged != nil:
		return stays("damaged", "its record is not whole")
	case d.udid == "":
		return stays("never_enrolled", "it never enrolled: MicroMDM knows it from Apple Business or School Manager only")
	case !d.enrolled:
		return stays("not_enrolled", "it was not enrolled at MicroMDM")
	}
	if out.UnlockToken, err = hex.DecodeString(d.unlockToken); err != nil {
		return stays("bad_token", "its UnlockToken is not hexadecimal")
	}
	blocked, err := m.file.Get(microRemove, []byte(d.udid))
	if err != nil {
		return out, err
	}
	out.Blocked = blocked != nil
	push, err := m.push(d.udid)
	switch {
	case errors.Is(err, errWire) || errors.Is(err, errToken):
		return stays("bad_push", "its push token is not whole")
	case err != nil:
		return out, err
	}
	out.Push = push
	hash, err := m.file.Get(microCertAuth, []byte(d.udid))
	if err != nil {
		return out, err
	}
	if len(hash) != 0 && len(hash) != 32 {
		return stays("bad_certificate_hash", "the hash of its certificate is not a SHA-256")
	}
	out.Certificate = depot.Fingerprint(hex.EncodeToString(hash))
	user, err := m.user(d.udid)
	if err != nil {
		return out, err
	}
	if user != nil {
		out.Users = append(out.Users, *user)
	}
	return out, nil
}

var errToken = errors.New("a push token is not hexadecimal")

// push returns where Apple's push service finds an enrollment; nothing if it is not known.
func (m *MicroMDM) push(id string) (mdm.Push, error) {
	data, err := m.file.Get(microPush, []byte(id))
	if err != nil {
		return mdm.Push{}, err
	}
	return readMicroPush(data)
}

// readMicroPush reads platform/apns/internal/pushproto.
func readMicroPush(data []byte) (p mdm.Push, err error) {
	for f, err := range fields(data) {
		if err != nil {
			return mdm.Push{}, err
		}
		switch f.number {
		case 2:
			if p.Token, err = hex.DecodeString(string(f.bytes)); err != nil {
				return mdm.Push{}, errToken
			}
		case 3:
			p.Magic = string(f.bytes)
		case 4:
			p.Topic = string(f.bytes)
		}
	}
	return p, nil
}

// sharedIPadUser is the UserID that every user of a Shared iPad has (Apple: TokenUpdate). By it
// MicroMDM mixes all of them up.
const sharedIPadUser = "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF"

// user returns the user of a Mac, nil if it has none that can be told. A user can be done
// without: the next TokenUpdate of theirs makes them known.
func (m *MicroMDM) user(udid string) (*enroll.FormerUser, error) {
	uuid, err := m.file.Get(microUserIndex, []byte(udid))
	if err != nil || uuid == nil {
		return nil, err
	}
	data, err := m.file.Get(microUsers, uuid)
	if err != nil {
		return nil, err
	}
	var u enroll.FormerUser
	var of string
	for f, err := range fields(data) { // platform/user/internal/userproto
		if err != nil {
			return nil, nil
		}
		switch f.number {
		case 2:
			of = string(f.bytes)
		case 3:
			u.UserID = string(f.bytes)
		case 4:
			u.ShortName = string(f.bytes)
		case 5:
			u.LongName = string(f.bytes)
		}
	}
	if of != udid || u.UserID == "" || u.UserID == sharedIPadUser {
		return nil, nil
	}
	u.Push, err = m.push(u.UserID)
	switch {
	case errors.Is(err, errWire) || errors.Is(err, errToken):
		return nil, nil
	case err != nil:
		return nil, err
	case u.Push.Topic == "" || u.Push.Magic == "" || len(u.Push.Token) == 0:
		return nil, nil
	}
	return &u, nil
}

// userEnrollment returns a User Enrollment, of which MicroMDM keeps nothing but how to wake it;
// nil if id is that of a device or of a user of one.
func (m *MicroMDM) userEnrollment(id string, data []byte) (*Device, error) {
	for _, index := range []string{microDeviceIndex, microUserIndex} {
		if of, err := m.file.Get(index, []byte(id)); err != nil || of != nil {
			return nil, err
		}
	}
	if id == sharedIPadUser {
		return nil, nil
	}
	if hash, err := m.file.Get(microCertAuth, []byte(id)); err != nil || hash != nil {
		return &Device{
			Former: enroll.Former{ID: mdm.AppleID{UDID: id}}, Err: &Skipped{Code: "deleted", Reason: "it was deleted from MicroMDM"},
		}, err
	}
	d := &Device{Former: enroll.Former{ID: mdm.AppleID{EnrollmentID: id}}}
	var err error
	if d.Push, err = readMicroPush(data); err != nil {
		d.Err = &Skipped{Code: "bad_push", Reason: "its push token is not whole"}
	}
	return d, nil
}

// PushCertificate returns the push certificate and its key in PEM, nil if there is none.
func (m *MicroMDM) PushCertificate() (certificate []byte, err error) {
	data, err := m.file.Get(microConfig, []byte("config"))
	if err != nil {
		return nil, err
	}
	var cert, key []byte
	for f, err := range fields(data) { // platform/config/internal/configproto
		if err != nil {
			return nil, fmt.Errorf("push certificate: %w", err)
		}
		switch f.number {
		case 1:
			cert = f.bytes
		case 2:
			key = f.bytes
		}
	}
	if len(cert) == 0 && len(key) == 0 {
		return nil, nil
	}
	return append(append(append([]byte{}, cert...), '\n'), key...), nil
}

// Authority returns the certificate in PEM of the authority that MicroMDM issued identities by,
// nil if it has none: then another SCEP server did.
func (m *MicroMDM) Authority() (certificate []byte, err error) {
	der, err := m.file.Get(microSCEP, []byte("ca_certificate"))
	if err != nil || der == nil {
		return nil, err
	}
	if _, err := x509.ParseCertificate(der); err != nil {
		return nil, fmt.Errorf("certificate of the SCEP authority: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), nil
}

// Profile is one of the organisation's configuration profiles.
type Profile struct {
	Identifier string
	Data       []byte // as somebody uploaded it
}

// Profiles yields the organisation's profiles. Its own enrollment profile is not among them.
func (m *MicroMDM) Profiles() iter.Seq2[Profile, error] {
	return func(yield func(Profile, error) bool) {
		for item, err := range m.file.All(microProfiles) {
			var p Profile
			if err == nil {
				p, err = readMicroProfile(item)
			}
			switch p.Identifier {
			case MicroEnrollment, microOTA, microOTA + ".phase2":
				continue
			}
			if !yield(p, err) || err != nil {
				return
			}
		}
	}
}

// readMicroProfile reads platform/profile/internal/profileproto. What is not whole has no Data.
func readMicroProfile(item storage.Item) (Profile, error) {
	p := Profile{Identifier: string(item.Key)}
	for f, err := range fields(item.Value) {
		if err != nil {
			return Profile{Identifier: p.Identifier}, nil
		}
		if f.number == 2 {
			p.Data = f.bytes
		}
	}
	return p, nil
}

// Enrollment returns what the enrollment profile says by which devices enrolled: the
// organisation's own if there is one, and else what MicroMDM makes (mdm/enroll/service.go),
// of which the URLs and the topic are not known here.
func (m *MicroMDM) Enrollment() (e Enrollment, own bool, err error) {
	data, err := m.file.Get(microProfiles, []byte(MicroEnrollment))
	if err != nil {
		return e, false, err
	}
	if data == nil {
		return Enrollment{Identifier: MicroEnrollment}, false, nil
	}
	p, err := readMicroProfile(storage.Item{Key: []byte(MicroEnrollment), Value: data})
	if err == nil {
		e, err = ReadEnrollment(p.Data)
	}
	if err != nil {
		return e, true, fmt.Errorf("the organisation's own enrollment profile: %w", err)
	}
	return e, true, nil
}

// LeftBehind counts what is in the file and is not taken over.
func (m *MicroMDM) LeftBehind() (blueprints, depTokens int, err error) {
	for _, err := range m.file.All(microBlueprints) {
		if err != nil {
			return 0, 0, err
		}
		blueprints++
	}
	for item, err := range m.file.All(microDEPTokens) {
		if err != nil {
			return 0, 0, err
		}
		if len(item.Key) > 3 && string(item.Key[:3]) == "CK_" {
			depTokens++
		}
	}
	return blueprints, depTokens, nil
}
