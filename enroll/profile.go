package enroll

import (
	"cmp"
	"context"
	"crypto/x509/pkix"
	"encoding/base64"
	"fmt"

	"github.com/gatehouse-mdm/gatehouse/depot"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/command"
	"github.com/gatehouse-mdm/gatehouse/mdm/profile"
)

// profileFor is what differs from one enrollment profile to the next.
type profileFor struct {
	subject        pkix.Name // that the certificate will have: the request of an honest device says the same
	challenge      string
	topic          string
	accessRights   int
	userEnrollment bool
	organisation   string
	managedAccount string       // Managed Apple Account of an enrollment by account, or of a User Enrollment by profile on systems that know it
	mode           profile.Mode // of an enrollment by account; empty: by profile
	requiredApp    int64        // RequiredAppIDForMDM; 0: none

	// former is what the profile of another server said whose place this one takes.
	former FormerProfile
}

// signedProfile makes an enrollment profile: the full one, as it is sent for a
// renewal too. All but the challenge and the identity payload's UUID stays the
// same for ever, or the device would refuse the renewal (PROTOCOL 7.6).
func (s *Service) signedProfile(ctx context.Context, p profileFor) ([]byte, error) {
	announces, err := s.announcesTokens(ctx)
	if err != nil {
		return nil, fmt.Errorf("enrollment profile: %w", err)
	}
	authority := s.depot.Identity()
	e := profile.Enrollment{
		Identifier:   cmp.Or(p.former.Identifier, s.ProfileIdentifier()),
		DisplayName:  "Device management",
		Organization: p.organisation,
		Description:  "Enrolls this device with " + s.serverURL.Hostname() + ".",
		ServerURL:    s.serverURL.JoinPath(PathConnect).String(),
		CheckInURL:   s.serverURL.JoinPath(PathCheckIn).String(),
		Topic:        p.topic,
		AccessRights: p.accessRights,
		DeviceOnly:   p.former.DeviceOnly,
		Token:        announces,
		SCEP: profile.SCEP{
			PayloadUUID: mdm.NewUUID(),
			URL:         s.serverURL.JoinPath(PathSCEP).String(),
			Name:        SCEPName(AuthorityName, authority),
			Subject:     rdns(p.subject),
			Challenge:   p.challenge,
			CA:          authority.Certificate(),
		},
	}
	switch {
	case p.mode != "":
		e.Mode, e.ManagedAppleAccount, e.RequiredAppID = p.mode, p.managedAccount, p.requiredApp
		if p.mode == profile.BYOD {
			e.AccessRights = profile.NoRights
		}
	case p.userEnrollment:
		e.AccessRights = profile.NoRights
		e.ManagedAppleID = p.managedAccount
	}
	if s.includeRoot {
		e.Roots = s.depot.Roots()
	}
	plain, err := e.Encode()
	if err != nil {
		return nil, err
	}
	signed, err := s.sign(plain)
	if err != nil {
		return nil, fmt.Errorf("enrollment profile: %w", err)
	}
	return signed, nil
}

// ProfileIdentifier is the PayloadIdentifier of every enrollment profile, but for those of
// devices that came from another server: removing the profile of this name ends an enrollment.
func (s *Service) ProfileIdentifier() string {
	return profile.EnrollmentIdentifier(s.serverURL.Hostname())
}

// SCEPName is what a profile calls an authority that it gives the fingerprint of, so that
// GetCACert finds it also when another one has taken its place since. The first of them
// has the name alone.
func SCEPName(name string, a *depot.Authority) string {
	if a.Generation() == 1 {
		return name
	}
	return name + " " + a.ID()
}

func rdns(name pkix.Name) []profile.RDN {
	var rdns []profile.RDN
	for _, o := range name.Organization {
		rdns = append(rdns, profile.RDN{{Type: "O", Value: o}})
	}
	for _, ou := range name.OrganizationalUnit {
		rdns = append(rdns, profile.RDN{{Type: "OU", Value: ou}})
	}
	return append(rdns, profile.RDN{{Type: "CN", Value: name.CommonName}})
}

func installProfile(uuid string, signed []byte) ([]byte, error) {
	return command.Build("InstallProfile", map[string]any{"Payload": base64.StdEncoding.EncodeToString(signed)}, uuid)
}
