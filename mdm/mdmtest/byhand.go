package mdmtest

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

var (
	// ErrFixed means that a profile can't be removed in Settings.
	ErrFixed = errors.New("device: the profile can't be removed by hand")

	// ErrNoProfile means that no profile on the device has that identifier.
	ErrNoProfile = errors.New("device: no such profile")
)

// InstallProfileByHand installs a profile as somebody does in Settings: no server manages
// it. On a Mac, one whose PayloadScope is User comes to the managed user.
func (d *Device) InstallProfileByHand(ctx context.Context, raw []byte) error {
	rules := d.rules()
	rules.ByHand, rules.UserEnrollment = true, false // the enrollment's limits are the server's
	dict, _, err := openProfile(raw)
	if err != nil {
		return err
	}
	user := d.User()
	rules.User = user != nil && dict["PayloadScope"] == "User"
	p, err := ParseConfiguration(raw, rules)
	if err != nil {
		return err
	}
	if len(p.ofType("com.apple.mdm")) > 0 {
		return errors.New("install: an enrollment profile is for Enroll")
	}
	c := d.channel
	if rules.User {
		c = user
	}
	if old := c.installed(p.Identifier); old.Profile != nil && !old.byHand {
		return fmt.Errorf("install: %s was installed by MDM", p.Identifier)
	}
	return c.install(ctx, p, true)
}

// RemoveProfileByHand removes a profile as somebody does in Settings, unless it can't be
// removed there ([ErrFixed]): what came by MDM drifts. That of the enrollment ends it, see
// [Device.Remove].
//
// Many systems lock all profiles of MDM; this one is more lenient, so that stories about
// drift can be told of every model.
func (d *Device) RemoveProfileByHand(ctx context.Context, identifier string) error {
	if p := d.Profile(); p != nil && p.Identifier == identifier && !d.unmanaged() {
		if p.Fixed {
			return fmt.Errorf("%w: %s", ErrFixed, identifier)
		}
		return d.Remove(ctx)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	i := slices.IndexFunc(d.installed, func(p installedProfile) bool { return p.Identifier == identifier })
	switch {
	case i < 0:
		return fmt.Errorf("%w: %s", ErrNoProfile, identifier)
	case d.installed[i].Fixed:
		return fmt.Errorf("%w: %s", ErrFixed, identifier)
	}
	d.installed = slices.Delete(d.installed, i, i+1)
	d.dropClients()
	return nil
}

// Profiles are the profiles on the device beside that of its enrollment, users' included,
// in the order of their installation.
func (d *Device) Profiles() []*Profile {
	d.mu.Lock()
	defer d.mu.Unlock()
	list := make([]*Profile, len(d.installed))
	for i, p := range d.installed {
		list[i] = p.Profile
	}
	return list
}

// Installed is the profile with that identifier, nil when the device has none.
func (d *Device) Installed(identifier string) *Profile {
	for _, p := range d.Profiles() {
		if p.Identifier == identifier {
			return p
		}
	}
	return nil
}
