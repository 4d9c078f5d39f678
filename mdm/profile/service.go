package profile

import (
	"errors"
	"fmt"

	"github.com/gatehouse-mdm/gatehouse/mdm/internal/plistxml"
)

// Service describes a "Profile Service" payload: it asks a device what it is before it is
// given a profile (Apple, "Over-the-Air Profile Delivery and Configuration"). The device
// states it to URL, signed by the identity that Apple built into it. What it is answered
// is a [Credential], by whose certificate it signs the same once more.
//
// The device sends no cookies: URL and Challenge are all that tells who was asked.
type Service struct {
	Identifier   string // PayloadIdentifier: ServiceIdentifier makes one
	PayloadUUID  string // fresh for each
	DisplayName  string // heads the profile in the device's settings
	Organization string // optional, as Description
	Description  string

	URL        string // for both statements
	Challenge  string // one-time; never log a profile
	Attributes []string
}

// Attributes that a device can be asked for.
const (
	AttributeUDID         = "UDID"
	AttributeSerialNumber = "SERIAL"
	AttributeProduct      = "PRODUCT" // "iPhone17,2"
	AttributeVersion      = "VERSION" // the build of the system: "23A300"
)

// ServiceIdentifier returns the PayloadIdentifier for the Profile Service payload of a
// server, from the host of its URL: "com.example.mdm.gatehouse.profile-service".
func ServiceIdentifier(host string) string { return reversed(host) + ".gatehouse.profile-service" }

// Encode returns the payload as an XML property list, unsigned: bare, in no Configuration.
// The same Service gives the same bytes.
func (s Service) Encode() ([]byte, error) {
	raw, err := s.encode()
	if err != nil {
		return nil, fmt.Errorf("profile service: %w", err)
	}
	return raw, nil
}

func (s Service) encode() ([]byte, error) {
	switch {
	case s.Identifier == "" || s.PayloadUUID == "" || s.DisplayName == "":
		return nil, errors.New("Identifier, PayloadUUID and DisplayName are required")
	case s.Challenge == "" || len(s.Attributes) == 0:
		return nil, errors.New("a Challenge and Attributes are required")
	}
	if err := checkURL(s.URL); err != nil {
		return nil, fmt.Errorf("URL: %w", err)
	}
	attributes := make([]any, len(s.Attributes))
	for i, a := range s.Attributes {
		attributes[i] = a
	}
	head := heading{s.Identifier, s.Organization}
	top := head.payload("Profile Service", s.Identifier, s.DisplayName)
	top["PayloadUUID"] = s.PayloadUUID
	if s.Description != "" {
		top["PayloadDescription"] = s.Description
	}
	top["PayloadContent"] = map[string]any{
		"URL":              s.URL,
		"Challenge":        s.Challenge,
		"DeviceAttributes": attributes,
	}
	return plistxml.Marshal(top)
}
