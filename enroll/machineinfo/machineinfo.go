// Package machineinfo reads what a device states of itself before it is enrolled, signed by
// the identity that Apple built into it: the MachineInfo of an enrollment POST (Apple,
// "MachineInfo") and the attributes of "Over-the-Air Profile Delivery and Configuration".
//
// It also tells whether Apple vouches for the signer. That proves a genuine device of
// Apple's to have signed, and not that what it states is true: whoever has seen the message
// can send it again. It knows nothing of users and keeps nothing.
package machineinfo

import (
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/gatehouse-mdm/gatehouse/storage/guard"
)

// MaxSize is how many bytes of a message are read. A device's has 5 KB: its certificate, two
// of Apple's, and ten short texts.
const MaxSize = 64 << 10

// ErrMessage means that a message is not one that a device signs: no CMS message with one
// right signature over an XML property list of the known types.
var ErrMessage = errors.New("not a signed statement of a device")

// Info is what a device states. Every field may be empty: what it states is up to what it
// was asked, to the system and to the kind of enrollment.
type Info struct {
	UDID         string // as SerialNumber, IMEI and MEID not stated for a User Enrollment
	SerialNumber string
	Product      string // "iPhone17,2"
	Build        string // of the system: "23A300"; Apple's key is VERSION
	OSVersion    string // "26.0"; since iOS 17 and macOS 14
	Language     string
	DeviceName   string
	IMEI         string
	MEID         string

	// Challenge is the one of the payload that asked, in an over-the-air delivery.
	Challenge string

	// CanRequestSoftwareUpdate says that the device will honour a demand for a newer
	// system, and SoftwareUpdateDeviceID how Apple's catalogue of systems names it.
	CanRequestSoftwareUpdate bool
	SoftwareUpdateDeviceID   string

	// PairingToken is what a Watch got through its iPhone.
	PairingToken string
}

// Message is a statement whose signature is right.
type Message struct {
	Info
	Signer   *x509.Certificate // whoever that is: [Authorities.Vouch] tells
	SignedAt time.Time         // the signer's own claim; zero if it makes none
}

// stated is a message as Apple spells it.
type stated struct {
	UDID                   string `plist:"UDID"`
	SerialNumber           string `plist:"SERIAL"`
	Product                string `plist:"PRODUCT"`
	Build                  string `plist:"VERSION"`
	OSVersion              string `plist:"OS_VERSION"`
	Language               string `plist:"LANGUAGE"`
	DeviceName             string `plist:"DEVICE_NAME"`
	IMEI                   string `plist:"IMEI"`
	MEID                   string `plist:"MEID"`
	Challenge              any    `plist:"CHALLENGE"`
	CanRequest             bool   `plist:"MDM_CAN_REQUEST_SOFTWARE_UPDATE"`
	SoftwareUpdateDeviceID string `plist:"SOFTWARE_UPDATE_DEVICE_ID"`
	PairingToken           []byte `plist:"PAIRING_TOKEN"`
}

// limits of the property list in a message.
var limits = guard.PlistLimits{Bytes: MaxSize, Depth: 4, Elements: 200}

// Parse reads a message as a device sends it, in BER, whatever its media type. The signature
// is right; who signed is not judged. Its errors wrap ErrMessage and the guard's.
func Parse(body []byte) (Message, error) {
	signature, err := guard.VerifyAttachedByDevice(body, MaxSize)
	if err != nil {
		return Message{}, fmt.Errorf("%w: %w", ErrMessage, err)
	}
	var s stated
	if err := guard.DecodePlist(signature.Content, &s, limits); err != nil {
		return Message{}, fmt.Errorf("%w: %w", ErrMessage, err)
	}
	m := Message{Signer: signature.Certificate, SignedAt: signature.SigningTime, Info: Info{
		UDID: s.UDID, SerialNumber: s.SerialNumber, Product: s.Product, Build: s.Build, OSVersion: s.OSVersion,
		Language: s.Language, DeviceName: s.DeviceName, IMEI: s.IMEI, MEID: s.MEID,
		CanRequestSoftwareUpdate: s.CanRequest, SoftwareUpdateDeviceID: s.SoftwareUpdateDeviceID, PairingToken: string(s.PairingToken),
	}}
	switch challenge := s.Challenge.(type) {
	case nil:
	case string:
		m.Challenge = challenge
	case []byte: // as some systems send it back
		m.Challenge = string(challenge)
	default:
		return Message{}, fmt.Errorf("%w: CHALLENGE is no text", ErrMessage)
	}
	for _, field := range []struct {
		key   string
		value *string
	}{
		{"UDID", &m.UDID},
		{"SERIAL", &m.SerialNumber},
		{"PRODUCT", &m.Product},
		{"VERSION", &m.Build},
		{"OS_VERSION", &m.OSVersion},
		{"LANGUAGE", &m.Language},
		{"DEVICE_NAME", &m.DeviceName},
		{"IMEI", &m.IMEI},
		{"MEID", &m.MEID},
		{"CHALLENGE", &m.Challenge},
		{"SOFTWARE_UPDATE_DEVICE_ID", &m.SoftwareUpdateDeviceID},
	} {
		*field.value = strings.TrimSpace(*field.value)
		if len(*field.value) > maxText {
			return Message{}, fmt.Errorf("%w: %s has more than %d bytes", ErrMessage, field.key, maxText)
		}
	}
	return m, nil
}

// maxText is more bytes than any value has that a device states.
const maxText = 255
