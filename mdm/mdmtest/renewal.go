package mdmtest

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

// Step is a step of a renewal (PROTOCOL 7.6) or of an enrollment.
type Step string

// The steps, in their usual order.
const (
	StepSCEP        Step = "SCEP"
	StepAuth        Step = "Authenticate"
	StepTokenUpdate Step = "TokenUpdate"
	StepUserToken   Step = "user TokenUpdate" // on a Mac with a user channel
	StepResult      Step = "result"
)

// The steps of an account-driven enrollment, before StepSCEP and those that follow it,
// and of what comes later. Check-ins are named for their MessageType.
const (
	StepDiscover Step = "discovery"
	StepPost     Step = "enrollment POST" // both of them
	StepSignIn   Step = "sign-in"         // the web session
	StepToken    Step = "token"           // the code's exchange
	StepRefresh  Step = "refresh"
	StepIdle     Step = "Idle"
)

// Renewal says how the device behaves when the enrollment profile comes again.
type Renewal struct {
	// ResultFirst reports Acknowledged before TokenUpdate: both orders happen.
	ResultFirst bool
	// OldIdentityReports lets the old identity sign the result: no source says
	// which one does.
	OldIdentityReports bool
	// OnStep is called before each step. An error cuts the renewal there, as a
	// flat battery would: Poll returns the error and the device goes on with the
	// identity it has, the old one until TokenUpdate was accepted; then come
	// ResumeRenewal or the next InstallProfile.
	OnStep func(Step) error
}

// renewal is one that is under way.
type renewal struct {
	profile *Profile
	command string
	next    *identity
	left    []Step
	late    error // of the user channel's TokenUpdate, which fails for itself
}

// renew answers an InstallProfile of the enrollment profile. The steps up to the
// result happen at once, those behind it in after.
func (d *Device) renew(ctx context.Context, raw []byte, cmd *Command) (r Result, after func(context.Context) error, cut error) {
	p, err := ParseProfile(raw, d.rules())
	if err == nil {
		err = immutable(d.Profile(), p)
	}
	if err != nil {
		return installFailed(err), nil, nil
	}
	steps := []Step{StepSCEP, StepAuth, StepTokenUpdate, StepUserToken, StepResult}
	if d.opts.Renewal.ResultFirst {
		steps = []Step{StepSCEP, StepAuth, StepResult, StepTokenUpdate, StepUserToken}
	}
	d.mu.Lock()
	d.renewal = &renewal{profile: p, command: cmd.UUID, left: steps}
	d.mu.Unlock()
	return d.goOn(ctx)
}

// ResumeRenewal goes on with a renewal that OnStep has cut, as a device does that
// finds it half done after its start. It returns what the server sent after the
// result.
func (d *Device) ResumeRenewal(ctx context.Context) (*Command, error) {
	d.mu.Lock()
	r := d.renewal
	d.mu.Unlock()
	if r == nil {
		return nil, errors.New("device: no renewal is under way")
	}
	result, after, err := d.goOn(ctx)
	if err != nil {
		return nil, err
	}
	var next *Command
	if result.Status != "" {
		result.CommandUUID = r.command
		next, err = d.Report(ctx, result)
	}
	if after != nil {
		err = errors.Join(err, after(ctx))
	}
	return next, err
}

// errCut marks the error of a test's OnStep.
type errCut struct{ error }

func (e errCut) Unwrap() error { return e.error }

// goOn runs the steps up to the result. A failure before the result is an Error
// result and the end of the renewal: "on failure the old configuration is restored".
func (d *Device) goOn(ctx context.Context) (Result, func(context.Context) error, error) {
	d.mu.Lock()
	r, old := d.renewal, d.identity
	d.mu.Unlock()
	resultSent := !slices.Contains(r.left, StepResult)
	err := d.steps(ctx, r)
	var cut errCut
	switch {
	case errors.As(err, &cut):
		return Result{}, nil, cut
	case errors.Is(err, ErrRemoved), err != nil && resultSent:
		return Result{}, nil, err
	case err != nil:
		d.mu.Lock()
		d.renewal = nil
		d.mu.Unlock()
		return installFailed(err), nil, nil
	case resultSent:
		return Result{}, nil, nil
	}
	result := done(nil)
	result.as = r.next
	if d.opts.Renewal.OldIdentityReports {
		result.as = old
	}
	return result, func(ctx context.Context) error { return d.steps(ctx, r) }, nil
}

// steps runs what is left of r: up to the result and not including it, or, when
// the result is the next step, what comes behind it. The new identity becomes
// the device's once TokenUpdate was accepted.
func (d *Device) steps(ctx context.Context, r *renewal) error {
	for len(r.left) > 0 {
		step := r.left[0]
		if hook := d.opts.Renewal.OnStep; hook != nil {
			if err := hook(step); err != nil {
				return errCut{fmt.Errorf("renewal cut before %s: %w", step, err)}
			}
		}
		var err error
		switch step {
		case StepSCEP:
			r.next, err = d.scep(ctx, r.profile)
		case StepAuth:
			err = d.authenticate(ctx, r.next)
		case StepTokenUpdate:
			if err = d.channel.tokenUpdate(ctx, r.next); err == nil {
				d.adopt(r)
			}
		case StepUserToken:
			if user := d.User(); user != nil {
				r.late = user.tokenUpdate(ctx, r.next)
			}
		case StepResult:
			r.left = r.left[1:]
			return nil
		}
		if err != nil {
			return err
		}
		r.left = r.left[1:]
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.renewal == r {
		d.renewal = nil
	}
	return r.late
}

// adopt makes the new profile and identity the device's own.
func (d *Device) adopt(r *renewal) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.dropClients()
	d.profile, d.identity = r.profile, r.next
}

// immutable compares what a new enrollment profile must not change.
func immutable(old, p *Profile) error {
	a, b := old.MDM, p.MDM
	for key, differs := range map[string]bool{
		"PayloadIdentifier":      old.Identifier != p.Identifier,
		"ServerURL":              a.ServerURL != b.ServerURL,
		"CheckInURL":             a.CheckInURL != b.CheckInURL,
		"Topic":                  a.Topic != b.Topic,
		"AssignedManagedAppleID": a.AssignedManagedAppleID != b.AssignedManagedAppleID,
		"ManagedAppleID":         a.ManagedAppleID != b.ManagedAppleID,
		"EnrollmentMode":         a.EnrollmentMode != b.EnrollmentMode,
		"RequiredAppIDForMDM":    a.RequiredAppIDForMDM != b.RequiredAppIDForMDM,
		"ServerCapabilities (per-user-connections)": a.PerUser() != b.PerUser(),
		"AccessRights (added bits)":                 b.AccessRights&^a.AccessRights != 0,
	} {
		if differs {
			return fmt.Errorf("the new profile changes %s", key)
		}
	}
	return nil
}
