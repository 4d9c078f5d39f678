package mdmtest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// installedProfile is a profile that came by InstallProfile.
type installedProfile struct {
	*Profile
	user        *User // whose channel brought it; nil: the device's
	byHand      bool  // the user installed it: no server manages it
	credentials []*Credential
}

// credential is the one that a payload with this identifier and UUID brought.
func (p installedProfile) credential(identifier, uuid string) *Credential {
	for _, c := range p.credentials {
		if c.Payload == identifier && c.PayloadUUID == uuid {
			return c
		}
	}
	return nil
}

// Configuration reads a profile as this device would before it installs it.
func (d *Device) Configuration(raw []byte) (*Profile, error) {
	return ParseConfiguration(raw, d.rules())
}

// installFailed is the result for a profile of which nothing stays: what the user
// reads, then why (PROTOCOL 7.5).
func installFailed(err error) Result {
	reason := "The profile is invalid."
	cause := problem{1009, "MCProfileErrorDomain", err.Error()}
	var scep *scepProblem
	var payload *refusedPayload
	switch {
	case errors.As(err, &scep):
		reason = scep.shown
	case errors.As(err, &payload):
		cause.code, cause.domain = payload.code, "MCInstallationErrorDomain"
	}
	return failed(4001, "MCInstallationErrorDomain", "Profile Installation Failed: "+reason, cause)
}

// installProfile installs an ordinary profile, or nothing of it: certificates
// first, then identities. The enrollment profile again renews the device's
// identity (PROTOCOL 7.6).
func (c *Channel) installProfile(ctx context.Context, f *fields, cmd *Command) (Result, func(context.Context) error, error) {
	d := c.dev
	raw := f.data("Payload")
	if len(raw) == 0 {
		f.err = errors.Join(f.err, errors.New("no Payload"))
		return Result{}, nil, nil
	}
	rules := d.rules()
	rules.User = c.user != nil
	p, err := ParseConfiguration(raw, rules)
	if err != nil {
		return installFailed(err), nil, nil
	}
	enrolled := d.Profile()
	again := enrolled != nil && p.Identifier == enrolled.Identifier
	isMDM := len(p.ofType("com.apple.mdm")) > 0
	switch {
	case again && isMDM && c.user == nil:
		return d.renew(ctx, raw, cmd)
	case again:
		err = errors.New("the enrollment profile can't be replaced by this one")
	case isMDM:
		err = errors.New("the device is managed already")
	case c.user != nil && p.Scope == "System":
		err = errors.New("a profile for the system came on a user's channel")
	default:
		err = c.install(ctx, p, false)
	}
	switch {
	case errors.Is(err, ErrRemoved):
		return Result{}, nil, err
	case err != nil:
		return installFailed(err), nil, nil
	}
	return done(nil), nil, nil
}

// install replaces the profile of the same identifier. A payload that has kept its
// identifier and UUID keeps its credential; all others are made anew, and only when
// the last of them is there does the old profile go.
func (c *Channel) install(ctx context.Context, p *Profile, byHand bool) error {
	d := c.dev
	client, done, err := d.clientTrusting(p.Roots)
	if err != nil {
		return err
	}
	defer done()
	next := installedProfile{Profile: p, user: c.user, byHand: byHand}
	old := c.installed(p.Identifier)
	for _, payload := range p.SCEPs {
		credential := old.credential(payload.Identifier, payload.UUID)
		if credential == nil {
			cert, key, err := d.certificate(ctx, client, payload)
			if err != nil {
				return fmt.Errorf("payload %s: %w", payload.Identifier, err)
			}
			credential = &Credential{
				Profile: p.Identifier, Payload: payload.Identifier, PayloadUUID: payload.UUID, User: c.user,
				Certificate: cert, Key: key, Extractable: payload.Extractable, AllAppsAccess: payload.AllAppsAccess,
				scep: &payload,
			}
		}
		next.credentials = append(next.credentials, credential)
	}
	for _, payload := range p.PKCS12s {
		next.credentials = append(next.credentials, &Credential{
			Profile: p.Identifier, Payload: payload.Identifier, PayloadUUID: payload.UUID, User: c.user,
			Certificate: payload.Certificate, Key: payload.Key, Extractable: payload.Extractable, AllAppsAccess: payload.AllAppsAccess,
		})
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if !byHand && (d.state == Removed || d.state == Erased) {
		return ErrRemoved // while the certificates were on their way
	}
	d.installed = slices.DeleteFunc(d.installed, func(q installedProfile) bool { return q.Identifier == p.Identifier && q.user == c.user })
	d.installed = append(d.installed, next)
	d.count.installs.Add(1)
	d.dropClients() // trust may have come, or gone with the old profile
	return nil
}

// installed is the profile of that identifier on the channel, empty when there is none.
func (c *Channel) installed(identifier string) installedProfile {
	c.dev.mu.Lock()
	defer c.dev.mu.Unlock()
	for _, p := range c.dev.installed {
		if p.Identifier == identifier && p.user == c.user {
			return p
		}
	}
	return installedProfile{}
}

// removeProfile takes a profile away with all that it brought.
func (c *Channel) removeProfile(f *fields) (Result, func(context.Context) error) {
	d := c.dev
	identifier := f.required("Identifier")
	if enrolled := d.Profile(); f.err == nil && enrolled != nil && identifier == enrolled.Identifier && c.user == nil {
		// The identity goes with the profile: CheckOut is all the server hears.
		return Result{}, d.Remove
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	i := slices.IndexFunc(d.installed, func(p installedProfile) bool { return p.Identifier == identifier && p.user == c.user })
	if i < 0 {
		return failed(12075, "MCMDMErrorDomain", fmt.Sprintf("The profile “%s” is not installed.", identifier)), nil
	}
	if d.installed[i].byHand {
		return failed(12013, "MCMDMErrorDomain", fmt.Sprintf("The profile “%s” is not managed by this server.", identifier)), nil
	}
	d.installed = slices.Delete(d.installed, i, i+1)
	d.dropClients()
	return done(nil), nil
}

// subject is what a payload asks for, as each system changes it: a Mac expands
// variables, takes the payload identifier for a missing CN and cuts the CN to 64
// bytes (PROTOCOL 3.4).
func (d *Device) subject(payload SCEPPayload) Subject {
	if d.opts.Model != Mac {
		return payload.Subject
	}
	variables := []string{"%ComputerName%", d.opts.Name}
	if !d.byod.Load() { // else nothing names the hardware
		variables = append(variables, "%HardwareUUID%", d.opts.UDID, "%SerialNumber%", d.opts.Serial)
	}
	expand := strings.NewReplacer(variables...)
	var out Subject
	named := false
	for _, rdn := range payload.Subject {
		var pairs [][2]string
		for _, pair := range rdn {
			value := expand.Replace(pair[1])
			if attributeType(pair[0]) == attributeType("CN") {
				named = true
				value = value[:min(len(value), 64)]
			}
			pairs = append(pairs, [2]string{pair[0], value})
		}
		out = append(out, pairs)
	}
	if !named {
		out = append(out, [][2]string{{"CN", payload.Identifier[:min(len(payload.Identifier), 64)]}})
	}
	return out
}
