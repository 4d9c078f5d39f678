package enroll

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/event"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

// Settings are what the operator decides about enrollment. The zero value is not valid:
// DefaultSettings is what a new server has.
type Settings struct {
	Organisation Organisation `json:"organisation"`

	// Portal takes people without a link: whoever can sign in.
	Portal bool `json:"portal"`

	Institutional Way `json:"institutional"`
	Personal      Way `json:"personal"`

	// PersonalMethod is how personal devices are enrolled.
	PersonalMethod PersonalMethod `json:"personal_method"`

	// AccountDomains are the domains of Managed Apple Accounts that people may type;
	// none: any.
	AccountDomains []string `json:"account_domains"`

	// ProfileService asks a device at the portal what it is, before it is given the
	// enrollment profile ("Over-the-Air Profile Delivery", PROTOCOL 3.6).
	ProfileService bool `json:"profile_service"`

	// DeviceSignature is what is made of the signature by which a device proves to be
	// Apple's (PROTOCOL 2.2).
	DeviceSignature SignatureCheck `json:"device_signature"`

	// SelfRemoval says which devices people may take out of management on their own page.
	SelfRemoval SelfRemoval `json:"self_removal"`

	// RequirePushCertificate hands out profiles only while there is a push certificate in
	// force: without one, devices that enrol can't be woken.
	RequirePushCertificate bool `json:"require_push_certificate,omitempty"`
}

// Organisation is whom people enrol with, as the portal and profiles say it.
type Organisation struct {
	Name         string `json:"name"`
	SupportEmail string `json:"support_email"`
	SupportPhone string `json:"support_phone"`
	SupportURL   string `json:"support_url"`
	Logo         string `json:"logo"` // SHA-256 of the picture, in hex; empty: none
}

// Way is one ownership that a device can have.
type Way struct {
	Enabled bool   `json:"enabled"`
	Rights  Rights `json:"rights"`
}

// Rights are the AccessRights of enrollment profiles.
type Rights struct {
	Preset Preset `json:"preset"`
	Custom int    `json:"custom,omitempty"` // sum of Apple's bits, for PresetCustom
}

// Preset is a choice of rights with a name.
type Preset string

// The presets.
const (
	PresetFull    Preset = "full"    // every right
	PresetReduced Preset = "reduced" // what a personal device can bear
	PresetCustom  Preset = "custom"
)

// Bits of AccessRights (PROTOCOL 3.3).
const (
	RightInspectProfiles     = 1
	RightInstallProfiles     = 2
	RightLock                = 4 // lock, and remove the passcode
	RightErase               = 8
	RightDeviceInformation   = 16
	RightNetworkInformation  = 32
	RightInspectProvisioning = 64
	RightInstallProvisioning = 128
	RightInspectApps         = 256
	RightInspectRestrictions = 512
	RightSecurityInformation = 1024
	RightSettings            = 2048
	RightManageApps          = 4096
	rightsForRenewal         = RightInspectProfiles | RightInstallProfiles
	rightsReduced            = rightsForRenewal | RightDeviceInformation | RightInspectRestrictions | RightSecurityInformation | RightManageApps
)

// Bits is the value of AccessRights.
func (r Rights) Bits() int {
	switch r.Preset {
	case PresetReduced:
		return rightsReduced
	case PresetCustom:
		return r.Custom
	}
	return AllRights
}

// PersonalMethod says how personal devices are enrolled.
type PersonalMethod string

// The methods.
const (
	// PersonalAuto is User Enrollment for who has a Managed Apple Account, and Device
	// Enrollment with the rights of Personal for others.
	PersonalAuto PersonalMethod = "auto"
	// PersonalUser is User Enrollment only: who has no Managed Apple Account is asked
	// for it.
	PersonalUser PersonalMethod = "user_enrollment"
	// PersonalDevice is Device Enrollment with the rights of Personal.
	PersonalDevice PersonalMethod = "device_enrollment"
)

// SignatureCheck says what to make of a signature by a device.
type SignatureCheck string

// The checks.
const (
	SignatureOff     SignatureCheck = "off"     // it is not looked at
	SignatureLog     SignatureCheck = "log"     // a bad one is logged
	SignatureRequire SignatureCheck = "require" // a bad one is refused
)

// SelfRemoval says which devices people may take out of management themselves.
type SelfRemoval string

// The choices.
const (
	SelfRemovalPersonal SelfRemoval = "personal" // those that are theirs
	SelfRemovalAll      SelfRemoval = "all"
	SelfRemovalNone     SelfRemoval = "none"
)

// Allows says whether people may take devices of an ownership out of management.
func (r SelfRemoval) Allows(o mdm.Ownership) bool {
	return r == SelfRemovalAll || r == SelfRemovalPersonal && o == mdm.Personal
}

// DefaultSettings are the settings of a new server.
func DefaultSettings() Settings {
	return Settings{
		Portal:          true,
		Institutional:   Way{Enabled: true, Rights: Rights{Preset: PresetFull}},
		Personal:        Way{Enabled: true, Rights: Rights{Preset: PresetReduced}},
		PersonalMethod:  PersonalAuto,
		DeviceSignature: SignatureLog,
		SelfRemoval:     SelfRemovalPersonal,
	}
}

// Way returns what is decided for an ownership.
func (s Settings) Way(o mdm.Ownership) Way {
	if o == mdm.Personal {
		return s.Personal
	}
	return s.Institutional
}

// Ownerships are those that are enabled.
func (s Settings) Ownerships() (enabled []mdm.Ownership) {
	for _, o := range []mdm.Ownership{mdm.Institutional, mdm.Personal} {
		if s.Way(o).Enabled {
			enabled = append(enabled, o)
		}
	}
	return enabled
}

func (s *Settings) check() error {
	o := &s.Organisation
	o.Name = strings.TrimSpace(o.Name)
	for _, text := range []struct {
		field, value string
		most         int
	}{
		{"organisation.name", o.Name, 64}, // also in the subject of certificates, whose O has 64
		{"organisation.support_email", o.SupportEmail, 254},
		{"organisation.support_phone", o.SupportPhone, 40},
		{"organisation.support_url", o.SupportURL, 500},
	} {
		switch {
		case len(text.value) > text.most:
			return &FieldError{text.field, fmt.Sprintf("must be at most %d bytes", text.most)}
		case strings.ContainsFunc(text.value, func(r rune) bool { return r < 0x20 || r == 0x7f }):
			return &FieldError{text.field, "must have no control characters"}
		}
	}
	if o.SupportEmail != "" && !identity.IsAddress(o.SupportEmail) {
		return &FieldError{"organisation.support_email", "must be an address such as it@example.com"}
	}
	if o.SupportURL != "" && !strings.HasPrefix(o.SupportURL, "https://") && !strings.HasPrefix(o.SupportURL, "http://") {
		return &FieldError{"organisation.support_url", "must begin with https://"}
	}
	if !s.Institutional.Enabled && !s.Personal.Enabled {
		return &FieldError{"personal.enabled", "must be true where institutional.enabled is not: nobody could enroll"}
	}
	for _, way := range []struct {
		field string
		Rights
	}{{"institutional.rights", s.Institutional.Rights}, {"personal.rights", s.Personal.Rights}} {
		if err := way.check(way.field); err != nil {
			return err
		}
	}
	if !slices.Contains([]PersonalMethod{PersonalAuto, PersonalUser, PersonalDevice}, s.PersonalMethod) {
		return &FieldError{"personal_method", "must be auto, user_enrollment or device_enrollment"}
	}
	if !slices.Contains([]SignatureCheck{SignatureOff, SignatureLog, SignatureRequire}, s.DeviceSignature) {
		return &FieldError{"device_signature", "must be off, log or require"}
	}
	if !slices.Contains([]SelfRemoval{SelfRemovalPersonal, SelfRemovalAll, SelfRemovalNone}, s.SelfRemoval) {
		return &FieldError{"self_removal", "must be personal, all or none"}
	}
	if len(s.AccountDomains) > 100 {
		return &FieldError{"account_domains", "must be at most 100"}
	}
	for i, domain := range s.AccountDomains {
		domain = strings.ToLower(strings.TrimSpace(domain))
		if !identity.IsAddress("x@"+domain) || !strings.Contains(domain, ".") {
			return &FieldError{fmt.Sprintf("account_domains[%d]", i), "must be a domain such as example.com"}
		}
		s.AccountDomains[i] = domain
	}
	return nil
}

func (r Rights) check(field string) error {
	switch {
	case r.Preset != PresetFull && r.Preset != PresetReduced && r.Preset != PresetCustom:
		return &FieldError{field + ".preset", "must be full, reduced or custom"}
	case r.Preset != PresetCustom && r.Custom != 0:
		return &FieldError{field + ".custom", "is for the preset custom only"}
	case r.Preset != PresetCustom:
		return nil
	case r.Custom < 1 || r.Custom > AllRights:
		return &FieldError{field + ".custom", fmt.Sprintf("must be a sum of Apple's bits, 1 to %d", AllRights)}
	case r.Custom&rightsForRenewal != rightsForRenewal:
		return &FieldError{field + ".custom", "must include 1 and 2 (inspect and install profiles): without them no identity can be renewed"}
	case r.Custom&RightInstallProvisioning != 0 && r.Custom&RightInspectProvisioning == 0:
		return &FieldError{field + ".custom", "must include 64 where it includes 128"}
	}
	return nil
}

// settingsKey is the key of the one record.
const settingsKey = "settings"

var settingsRecords = storage.NewCollection("enroll.settings", 1, func(Settings) string { return settingsKey })

// GetSettings returns the settings in force.
func GetSettings(tx storage.Tx) (Settings, error) {
	s, err := settingsRecords.Get(tx, settingsKey)
	if errors.Is(err, storage.ErrNotFound) {
		return DefaultSettings(), nil
	}
	return s, err
}

// organisationName is what profiles and certificates call the organisation; it may be empty.
func (s *Service) organisationName(tx storage.Tx) (string, error) {
	settings, err := GetSettings(tx)
	return cmp.Or(settings.Organisation.Name, s.organisation), err
}

// Settings returns the settings in force.
func (s *Service) Settings(ctx context.Context) (in Settings, err error) {
	err = s.db.View(ctx, func(tx storage.Tx) error {
		in, err = GetSettings(tx)
		return err
	})
	if err != nil {
		return Settings{}, fmt.Errorf("enrollment settings: %w", err)
	}
	return in, nil
}

// UpdateSettings changes the settings: change gets those in force, and may run more than
// once. Its errors are *FieldError or the store's. Rights are for enrollments from now
// on: a device keeps those that it enrolled with.
func (s *Service) UpdateSettings(ctx context.Context, change func(*Settings) error) (Settings, error) {
	return s.ChangeSettings(ctx, func(_ storage.Tx, in *Settings) ([]event.Change, error) { return nil, change(in) })
}

// ChangeSettings is UpdateSettings for what changes something else with them: change may
// write in the same transaction, and returns what it has changed beside them.
func (s *Service) ChangeSettings(ctx context.Context, change func(tx storage.Tx, in *Settings) ([]event.Change, error)) (in Settings, err error) {
	err = s.db.Update(ctx, func(tx storage.Tx) error {
		if in, err = GetSettings(tx); err != nil {
			return err
		}
		before := in
		in.AccountDomains = slices.Clone(in.AccountDomains)
		also, err := change(tx, &in)
		if err != nil {
			return err
		}
		if err := in.check(); err != nil {
			return err
		}
		if err := settingsRecords.Put(tx, in); err != nil {
			return err
		}
		return event.Record(tx, event.Event{At: s.now().UTC(), Actor: actor(ctx), Action: "settings.changed", Changes: append(event.Changes(before, in), also...)})
	})
	if err != nil {
		return Settings{}, fmt.Errorf("change enrollment settings: %w", err)
	}
	s.log.InfoContext(ctx, "enrollment settings changed", "by", actor(ctx))
	return in, nil
}
