// Package library keeps an organisation's configuration profiles with their versions, sends
// them to devices and takes them away again, and knows what became of each on each device.
//
// What a profile says, and whether a device takes it, is package profile's matter.
package library

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/event"
	"github.com/gatehouse-mdm/gatehouse/mdm/profile"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/seal"
)

// Errors that callers act on.
var (
	ErrOtherIdentifier = errors.New("the file is another profile: its PayloadIdentifier differs")
	ErrReserved        = errors.New("this server uses that PayloadIdentifier itself")
	ErrInUse           = errors.New("the profile is on devices")
	ErrTooManyVersions = errors.New("the profile has too many versions")
)

const (
	maxVersions = 1000
	maxName     = 200 // bytes of a profile's name, which is for people
	maxNote     = 1000
)

// Profile is a configuration profile of the organisation: one PayloadIdentifier, and every
// content that it has had.
type Profile struct {
	ID         string    `json:"id"`
	Identifier string    `json:"identifier"` // PayloadIdentifier
	Name       string    `json:"name"`       // PayloadDisplayName of the latest version
	Latest     int       `json:"latest"`     // number of the latest version, from 1
	CreatedAt  time.Time `json:"created_at"`
	CreatedBy  string    `json:"created_by,omitempty"`
	UpdatedAt  time.Time `json:"updated_at"`
}

// Version is one content of a profile. It never changes.
type Version struct {
	ProfileID string    `json:"profile_id"`
	Number    int       `json:"number"`
	UUID      string    `json:"uuid"`   // its PayloadUUID, by which a device's ProfileList tells it from others
	SHA256    string    `json:"sha256"` // of the property list as it was given, in hexadecimal
	Size      int       `json:"size"`   // bytes of it
	CreatedAt time.Time `json:"created_at"`
	CreatedBy string    `json:"created_by,omitempty"`
	Note      string    `json:"note,omitempty"` // what a person says of it

	Description  string          `json:"description,omitempty"`
	Organization string          `json:"organization,omitempty"`
	Scope        string          `json:"scope,omitempty"`
	PayloadTypes []string        `json:"payload_types"`
	Signer       *profile.Signer `json:"signer,omitempty"`       // who had signed the file: that signature was taken off
	Variables    []string        `json:"variables,omitempty"`    // names, without the dollar sign
	Certificates []string        `json:"certificates,omitempty"` // of certificate templates
	// Literal says that dollar signs in it are no variables.
	Literal bool `json:"literal,omitempty"`
}

const (
	profilesByIdentifier = "identifier"
	profilesByName       = "name"
)

var (
	profiles = storage.NewCollection("profiles", 1, func(p Profile) string { return p.ID },
		storage.Index[Profile]{Name: profilesByIdentifier, Unique: true, Values: func(p Profile) []string { return []string{p.Identifier} }},
		storage.Index[Profile]{Name: profilesByName, Values: func(p Profile) []string { return []string{strings.ToLower(p.Name)} }},
	)
	versions = storage.NewCollection("profile_versions", 1, func(v Version) string { return versionKey(v.ProfileID, v.Number) })
)

const contentBucket = "profile_contents"

func versionKey(id string, number int) string {
	return string(storage.Key(id, fmt.Sprintf("%08d", number)))
}

func contentPurpose(id string, number int) string {
	return fmt.Sprintf("mdm/profile/%s/%d", id, number)
}

// Wanted is what a device needs of its own in a profile.
type Wanted struct {
	Profile      Profile
	Command      string   // UUID of the command that brings it; empty: it is only asked whether
	By           string   // who sends it
	Variables    []string // names, without the dollar sign
	Certificates []string // names of certificate templates
}

// People knows what devices, and who has them, get of their own.
type People interface {
	// Known says that there is a variable of a name.
	Known(variable string) bool
	// Values returns the values of variables, and what SCEP payloads ask for by the names of
	// certificate templates. A *command.Refusal says what the device lacks.
	Values(tx storage.Tx, d mdm.Device, w Wanted) (mdm.Values, error)
	// Carries is told that a profile brings a device, from now on, certificates of these
	// templates and no others.
	Carries(tx storage.Tx, id mdm.DeviceID, profile string, certificates []string) error
}

// Config says what a Service needs: all of it.
type Config struct {
	DB  storage.DB
	Box *seal.Box
	MDM *mdm.Service

	Sign     func(profile []byte) ([]byte, error)
	People   People
	Reserved func(identifier string) bool // whether this server has profiles of its own under that name

	Log *slog.Logger
	Now func() time.Time
}

// Service is the library. New has it hear of what devices answer.
type Service struct {
	Config
}

// New returns a Service, or says what c lacks.
func New(c Config) (*Service, error) {
	if c.DB == nil || c.Box == nil || c.MDM == nil || c.Sign == nil || c.People == nil || c.Reserved == nil || c.Log == nil || c.Now == nil {
		return nil, errors.New("library: all of Config is required")
	}
	s := &Service{c}
	c.MDM.Observe(s.observe)
	c.MDM.OnDelete(s.forget)
	return s, nil
}

// Upload is a profile that somebody gives.
type Upload struct {
	Data    []byte // as of [profile.Parse]
	Note    string
	Literal bool   // dollar signs in it are no variables
	By      string // who gives it
}

// Added is what became of an Upload.
type Added struct {
	Profile  Profile
	Version  Version
	Findings []profile.Finding
	New      bool // false: the latest version is the same to the byte, so there is no other
}

// Add keeps a profile: as the next version where there is one of its identifier. Findings
// do not keep it out; what can't be read does. The error wraps profile.ErrNotProfile,
// ErrReserved, ErrTooManyVersions or is a *FieldError.
func (s *Service) Add(ctx context.Context, u Upload) (Added, error) { return s.add(ctx, "", u) }

// AddVersion keeps another version of a profile. Besides the errors of Add there is
// ErrOtherIdentifier, and one that wraps storage.ErrNotFound.
func (s *Service) AddVersion(ctx context.Context, id string, u Upload) (Added, error) {
	return s.add(ctx, id, u)
}

func (s *Service) add(ctx context.Context, id string, u Upload) (a Added, err error) {
	p, err := profile.Parse(u.Data)
	if err != nil {
		return Added{}, err
	}
	switch {
	case p.Identifier == "":
		return Added{}, &FieldError{"PayloadIdentifier", "is missing: devices know a profile by it"}
	case len(p.Identifier) > maxIdentifier:
		return Added{}, &FieldError{"PayloadIdentifier", fmt.Sprintf("has more than %d bytes", maxIdentifier)}
	case s.Reserved(p.Identifier):
		return Added{}, fmt.Errorf("%s: %w", p.Identifier, ErrReserved)
	case len(u.Note) > maxNote:
		return Added{}, &FieldError{"note", fmt.Sprintf("has more than %d bytes", maxNote)}
	}
	findings := s.Lint(p, u.Literal)
	sum := sha256.Sum256(p.XML)
	v := Version{
		SHA256: hex.EncodeToString(sum[:]), Size: len(p.XML), CreatedBy: u.By, Note: u.Note,
		Description: p.Description, Organization: p.Organization, Scope: p.Scope, Signer: p.Signer, Literal: u.Literal,
		Certificates: p.Certificates(),
	}
	if !u.Literal {
		v.Variables, _ = p.Variables(s.People.Known)
	}
	for _, payload := range p.Payloads {
		v.PayloadTypes = append(v.PayloadTypes, payload.Type)
	}
	fresh, uuid := strings.ToLower(rand.Text()), mdm.NewUUID()
	err = s.DB.Update(ctx, func(tx storage.Tx) error {
		now := s.Now().UTC()
		a = Added{Findings: findings, New: true}
		var before map[string]any
		rec, err := s.named(tx, id, p.Identifier)
		switch {
		case errors.Is(err, storage.ErrNotFound) && id == "":
			rec = Profile{ID: fresh, Identifier: p.Identifier, CreatedAt: now, CreatedBy: u.By}
		case err != nil:
			return err
		case rec.Identifier != p.Identifier:
			return fmt.Errorf("%s instead of %s: %w", p.Identifier, rec.Identifier, ErrOtherIdentifier)
		default:
			latest, err := versions.Get(tx, versionKey(rec.ID, rec.Latest))
			if err != nil {
				return err
			}
			if latest.SHA256 == v.SHA256 && latest.Literal == v.Literal {
				a.Profile, a.Version, a.New = rec, latest, false
				return nil
			}
			before = audited(rec, latest)
		}
		if rec.Latest == maxVersions {
			return ErrTooManyVersions
		}
		rec.Latest++
		rec.Name, rec.UpdatedAt = clip(cmp.Or(p.DisplayName, p.Identifier), maxName), now
		v.ProfileID, v.Number, v.UUID, v.CreatedAt = rec.ID, rec.Latest, uuid, now
		a.Profile, a.Version = rec, v
		return errors.Join(
			profiles.Put(tx, rec),
			versions.Put(tx, v),
			tx.Put(contentBucket, []byte(versionKey(v.ProfileID, v.Number)), s.Box.Seal(contentPurpose(v.ProfileID, v.Number), p.XML)),
			event.Record(tx, event.Event{
				At: now, Actor: u.By, Action: "profile.saved", Changes: event.Changes(before, audited(rec, v)),
				Details: map[string]string{"profile": rec.ID, "identifier": rec.Identifier, "version": fmt.Sprint(v.Number)},
			}),
		)
	})
	if err != nil {
		return Added{}, fmt.Errorf("add profile: %w", err)
	}
	if a.New {
		s.Log.InfoContext(ctx, "profile saved", "profile", a.Profile.ID, "identifier", a.Profile.Identifier, "version", a.Version.Number, "by", u.By)
	}
	return a, nil
}

// maxIdentifier is how many bytes a PayloadIdentifier has at most.
const maxIdentifier = 255

// FieldError says what is wrong with a part of an Upload, in words that follow its name.
type FieldError struct{ Field, Reason string }

// Error returns field and reason in one line.
func (e *FieldError) Error() string { return e.Field + " " + e.Reason }

// named returns the profile with an ID or, if that is empty, with an identifier.
func (s *Service) named(tx storage.Tx, id, identifier string) (Profile, error) {
	if id != "" {
		return profiles.Get(tx, id)
	}
	return profiles.One(tx, profilesByIdentifier, identifier)
}

// audited is what the audit log tells of a profile and its latest version: what it is about,
// and nothing that its payloads hold, which may be secret, nor a digest to guess that by.
func audited(p Profile, v Version) map[string]any {
	return map[string]any{
		"name": p.Name, "identifier": p.Identifier, "latest_version": v.Number, "note": v.Note, "description": v.Description,
		"organization": v.Organization, "scope": v.Scope, "payload_types": v.PayloadTypes, "variables": v.Variables,
		"certificate_templates": v.Certificates, "literal": v.Literal, "size": v.Size,
	}
}

func (s *Service) record(tx storage.Tx, by, action string, p Profile, device mdm.DeviceID, details map[string]string) error {
	if details == nil {
		details = make(map[string]string, 2)
	}
	details["profile"], details["identifier"] = p.ID, p.Identifier
	return event.Record(tx, event.Event{At: s.Now().UTC(), Actor: by, Action: action, DeviceID: string(device), Details: details})
}

// Lint returns what is wrong with a profile as it stands in the library: what
// [profile.Profile.Lint] finds and, unless it is literal, variables that nobody knows.
func (s *Service) Lint(p *profile.Profile, literal bool) []profile.Finding {
	findings := p.Lint(s.Now())
	if !literal {
		_, problems := p.Variables(s.People.Known)
		findings = append(findings, problems...)
	}
	return findings
}

// Profiles returns a page of profiles by their IDs, and the cursor of the next one, empty
// at the end.
func (s *Service) Profiles(ctx context.Context, cursor string, limit int) (page []Profile, next string, err error) {
	err = s.DB.View(ctx, func(tx storage.Tx) error {
		page, next, err = storage.Page(tx, profiles, cursor, limit)
		return err
	})
	return page, next, err
}

// Profile returns a profile and its latest version, or an error that wraps
// storage.ErrNotFound.
func (s *Service) Profile(ctx context.Context, id string) (p Profile, v Version, err error) {
	err = s.DB.View(ctx, func(tx storage.Tx) error {
		if p, err = profiles.Get(tx, id); err != nil {
			return err
		}
		v, err = versions.Get(tx, versionKey(id, p.Latest))
		return err
	})
	return p, v, err
}

// Named returns the profile with a PayloadIdentifier, and whether there is one.
func (s *Service) Named(ctx context.Context, identifier string) (p Profile, ok bool, err error) {
	err = s.DB.View(ctx, func(tx storage.Tx) error {
		p, err = s.named(tx, "", identifier)
		if ok = err == nil; errors.Is(err, storage.ErrNotFound) {
			return nil
		}
		return err
	})
	return p, ok, err
}

// Versions returns all versions of a profile, the latest first.
func (s *Service) Versions(ctx context.Context, id string) (all []Version, err error) {
	err = s.DB.View(ctx, func(tx storage.Tx) error {
		all = nil
		if _, err := profiles.Get(tx, id); err != nil {
			return err
		}
		for v, err := range versions.All(tx, storage.Range{Prefix: storage.KeyPrefix(id), Reverse: true}) {
			if err != nil {
				return err
			}
			all = append(all, v)
		}
		return nil
	})
	return all, err
}

// Content returns a version with what it says; number 0 is the latest. The profile is as
// devices get it, but for variables and signature: with the UUID of the version. The error
// wraps storage.ErrNotFound where there is none.
func (s *Service) Content(ctx context.Context, id string, number int) (v Version, p *profile.Profile, err error) {
	err = s.DB.View(ctx, func(tx storage.Tx) error {
		v, p, err = s.content(tx, id, number)
		return err
	})
	return v, p, err
}

func (s *Service) content(tx storage.Tx, id string, number int) (v Version, p *profile.Profile, err error) {
	if number == 0 {
		rec, err := profiles.Get(tx, id)
		if err != nil {
			return v, nil, err
		}
		number = rec.Latest
	}
	if v, err = versions.Get(tx, versionKey(id, number)); err != nil {
		return v, nil, err
	}
	sealed, err := tx.Get(contentBucket, []byte(versionKey(id, number)))
	if err != nil {
		return v, nil, fmt.Errorf("profile %s, version %d: %w", id, number, err)
	}
	xml, err := s.Box.Open(contentPurpose(id, number), sealed)
	if err != nil {
		return v, nil, fmt.Errorf("profile %s, version %d: %w", id, number, err)
	}
	if p, err = profile.Parse(xml); err != nil {
		return v, nil, fmt.Errorf("profile %s, version %d: %w: %w", id, number, storage.ErrCorrupt, err)
	}
	return v, p.WithUUID(v.UUID), nil
}

// Delete forgets a profile and its versions. The error wraps ErrInUse while it is on devices
// or on its way there: RemoveProfile first, or nobody could tell what it was.
func (s *Service) Delete(ctx context.Context, by, id string) error {
	err := s.DB.Update(ctx, func(tx storage.Tx) error {
		p, err := profiles.Get(tx, id)
		if err != nil {
			return err
		}
		var over []Installation // what is history: it goes with the profile
		for i, err := range installations.Lookup(tx, installationsByProfile, id) {
			if err != nil {
				return err
			}
			if i.State.there() {
				return ErrInUse
			}
			over = append(over, i)
		}
		for _, i := range over {
			// What it was to bring is free for another profile.
			if err := errors.Join(installations.Delete(tx, installationKey(i.DeviceID, id)), s.People.Carries(tx, i.DeviceID, id, nil)); err != nil {
				return err
			}
		}
		latest, err := versions.Get(tx, versionKey(id, p.Latest))
		if err != nil {
			return err
		}
		for number := range p.Latest {
			key := versionKey(id, number+1)
			if err := errors.Join(versions.Delete(tx, key), tx.Delete(contentBucket, []byte(key))); err != nil {
				return err
			}
		}
		return errors.Join(profiles.Delete(tx, id), event.Record(tx, event.Event{
			At: s.Now().UTC(), Actor: by, Action: "profile.deleted", Changes: event.Changes(audited(p, latest), nil),
			Details: map[string]string{"profile": id, "identifier": p.Identifier},
		}))
	})
	if err != nil {
		return fmt.Errorf("delete profile %s: %w", id, err)
	}
	s.Log.InfoContext(ctx, "profile deleted", "profile", id, "by", by)
	return nil
}

func clip(s string, most int) string {
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most-len("…")], "") + "…"
}
