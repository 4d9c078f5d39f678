package issuance

import (
	"context"
	"fmt"

	"github.com/gatehouse-mdm/gatehouse/depot/template"
)

// challengeFor makes the challenge that goes into a device's profile. row is what to
// store of it, nil if it is not ours to check.
func (s *Service) challengeFor(_ context.Context, t template.Template, c challenge) (row *challenge, secret string, err error) {
	if t.Issuer == template.Builtin {
		// Also where the template has a static challenge, which is for those who are not
		// enrolled here: one of its own ties the certificate to the device.
		made, secret := newChallenge(c)
		return &made, secret, nil
	}
	return nil, "", fmt.Errorf("%w", ErrExternal)
}
