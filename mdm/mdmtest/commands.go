package mdmtest

import (
	"context"
	"errors"
	"fmt"
)

// Handler answers a command in the device's place. own is the device's own
// answer; calling it has the device's effects. A result without Status is
// silence: the session ends without an answer.
type Handler func(ctx context.Context, c *Channel, cmd *Command, own func() Result) Result

// Answer runs cmd as the device does, reports the result and returns the next
// command. Where [Conduct] breaks the session off, it returns [ErrBroken].
func (c *Channel) Answer(ctx context.Context, cmd *Command) (*Command, error) {
	var after func(context.Context) error
	var cut error
	own := func() Result {
		var r Result
		r, after, cut = c.perform(ctx, cmd)
		return r
	}
	result, broken := c.disturbed(cmd)
	switch h := c.dev.opts.Handler; {
	case broken:
		return nil, c.breakOff(c.dev.opts.Conduct.Away)
	case result.Status != "":
	case h != nil:
		result = h(ctx, c, cmd, own)
	default:
		result = own()
	}
	if cut != nil {
		return nil, cut
	}
	if err := ctx.Err(); err != nil {
		return nil, err // a handler that waited gave up; the command comes again
	}
	var next *Command
	var err error
	if result.Status != "" {
		if result.CommandUUID == "" {
			result.CommandUUID = cmd.UUID
		}
		if after != nil {
			next, err = c.Report(ctx, result)
		} else {
			next, err = c.report(ctx, result)
		}
	}
	if after != nil && !errors.Is(err, ErrRemoved) {
		err = errors.Join(err, after(ctx))
	}
	if s := c.dev.State(); s == Removed || s == Erased {
		next = nil
	}
	return next, err
}

// problem is an entry of an ErrorChain.
type problem struct {
	code         int
	domain, text string
}

// chain is an ErrorChain: what went wrong, then its causes.
func chain(code int, domain, text string, causes ...problem) Dict {
	var list []any
	for _, p := range append([]problem{{code, domain, text}}, causes...) {
		list = append(list, Dict{
			"ErrorCode": p.code, "ErrorDomain": p.domain, "LocalizedDescription": p.text, "USEnglishDescription": p.text,
		})
	}
	return Dict{"ErrorChain": list}
}

func failed(code int, domain, text string, causes ...problem) Result {
	return Result{Status: StatusError, Keys: chain(code, domain, text, causes...)}
}

func done(keys Dict) Result { return Result{Status: StatusAcknowledged, Keys: keys} }

// perform runs cmd. after, if not nil, is what the device does once the result is
// sent; cut is the error of a renewal that a test stopped.
func (c *Channel) perform(ctx context.Context, cmd *Command) (r Result, after func(context.Context) error, cut error) {
	item := documented().commands[cmd.RequestType]
	here, known := c.dev.here(item)
	if !known {
		return unknownCommand(cmd), nil, nil
	}
	switch c.obstacle(here) {
	case unobstructed:
	case noRight:
		if !c.takesItsOwnProfile(cmd) {
			return failed(12007, "MCMDMErrorDomain", fmt.Sprintf("The MDM server does not have the right to send “%s”.", cmd.RequestType)), nil, nil
		}
	default:
		return unknownCommand(cmd), nil, nil
	}
	f := fields{dict: cmd.Params, err: item.malformed(cmd.Params)}
	if f.err == nil {
		r, after, cut = c.run(ctx, &f, cmd)
	}
	if f.err != nil {
		return Result{Status: StatusFormat, Keys: chain(12008, "MCMDMErrorDomain", f.err.Error())}, nil, nil
	}
	return r, after, cut
}

// unknownCommand is what a device answers to all that its system, its supervision or its
// enrollment does not give to the server.
func unknownCommand(cmd *Command) Result {
	return failed(12021, "MCMDMErrorDomain", fmt.Sprintf("“%s” is not a valid request type.", cmd.RequestType))
}

// takesItsOwnProfile reports whether cmd removes the server's own profile, for which no
// right is needed.
func (c *Channel) takesItsOwnProfile(cmd *Command) bool {
	enrolled := c.dev.Profile()
	return cmd.RequestType == "RemoveProfile" && enrolled != nil && cmd.Params["Identifier"] == enrolled.Identifier
}

// run does what a command that the device takes asks for. A key that is not as it should be
// is left in f.err.
func (c *Channel) run(ctx context.Context, f *fields, cmd *Command) (r Result, after func(context.Context) error, cut error) {
	d := c.dev
	switch cmd.RequestType {
	case "InstallProfile":
		return c.installProfile(ctx, f, cmd)
	case "RemoveProfile":
		r, after = c.removeProfile(f)
		return r, after, nil
	case "EraseDevice":
		if r = d.pin(f); r.Status == StatusAcknowledged {
			after = func(context.Context) error { d.uninstall(Erased); return nil }
		}
		return r, after, nil
	case "DeviceInformation":
		return c.deviceInformation(f), nil, nil
	case "SecurityInfo":
		return done(Dict{"SecurityInfo": c.securityInfo()}), nil, nil
	case "ProfileList":
		return done(Dict{"ProfileList": c.profileList(f.bool("ManagedOnly"))}), nil, nil
	case "CertificateList":
		return done(Dict{"CertificateList": c.certificateList(f.bool("ManagedOnly"))}), nil, nil
	case "Restrictions":
		return d.restrictions(f), nil, nil
	case "Settings":
		return c.settings(f), nil, nil
	case "DeclarativeManagement":
		r, after = c.declare(f)
		return r, after, nil
	}
	if r, ok := d.runForApps(f, cmd.RequestType); ok {
		return r, nil, nil
	}
	if r, ok := d.runForSecurity(f, cmd.RequestType); ok {
		return r, nil, nil
	}
	return d.runForSystem(f, cmd.RequestType), nil, nil
}

func (d *Device) runForApps(f *fields, requestType string) (Result, bool) {
	switch requestType {
	case "InstallApplication":
		return d.installApplication(f), true
	case "InstallEnterpriseApplication":
		return d.installEnterpriseApplication(f), true
	case "RemoveApplication":
		return d.removeApplication(f), true
	case "ApplyRedemptionCode":
		return d.applyRedemptionCode(f), true
	case "ValidateApplications":
		return done(nil), true
	case "InstalledApplicationList":
		return d.installedApplicationList(f), true
	case "ManagedApplicationList":
		return d.managedApplicationList(f), true
	case "ManagedApplicationAttributes":
		return d.ofManagedApps(f, "ApplicationAttributes", "Attributes", func(a *app) Dict { return a.attributes }), true
	case "ManagedApplicationConfiguration":
		return d.ofManagedApps(f, "ApplicationConfigurations", "Configuration", func(a *app) Dict { return a.config }), true
	case "ManagedApplicationFeedback":
		return d.ofManagedApps(f, "ManagedApplicationFeedback", "Feedback", func(*app) Dict { return nil }), true
	case "InstallMedia":
		return d.installMedia(f), true
	case "RemoveMedia":
		return d.removeMedia(f), true
	case "ManagedMediaList":
		d.mu.Lock()
		defer d.mu.Unlock()
		return done(Dict{"Books": lists(d.condition.books)}), true
	case "InviteToProgram":
		if url := f.string("InvitationURL"); checkURL(url, false) != nil {
			return done(Dict{"InvitationResult": "InvalidInvitationURL"}), true
		}
		return done(Dict{"InvitationResult": "Acknowledged"}), true
	case "InstallProvisioningProfile":
		return d.installProvisioningProfile(f), true
	case "RemoveProvisioningProfile":
		return d.removeProvisioningProfile(f), true
	case "ProvisioningProfileList":
		d.mu.Lock()
		defer d.mu.Unlock()
		return done(Dict{"ProvisioningProfileList": lists(d.condition.provisioning)}), true
	}
	return Result{}, false
}
