package mdmtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
)

// Handler answers a command in the device's place. own is the device's own
// answer; calling it has the device's effects. A result without Status is
// silence: the session ends without an answer.
type Handler func(ctx context.Context, c *Channel, cmd *Command, own func() Result) Result

// Answer runs cmd as the device does, reports the result and returns the next
// command.
func (c *Channel) Answer(ctx context.Context, cmd *Command) (*Command, error) {
	var after func(context.Context) error
	var cut error
	own := func() Result {
		var r Result
		r, after, cut = c.perform(ctx, cmd)
		return r
	}
	var result Result
	if h := c.dev.opts.Handler; h != nil {
		result = h(ctx, c, cmd, own)
	} else {
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
		next, err = c.Report(ctx, result)
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

// permission is what PROTOCOL 5.5 says of a command.
type permission struct {
	right      int64 // of AccessRights; 0 when it depends or none is needed
	ios, mac   bool  // allowed in a User Enrollment
	user       bool  // on a Mac's user channel too
	supervised bool  // on iOS
}

func permissionOf(requestType string) (permission, bool) {
	switch requestType {
	case "DeviceInformation":
		return permission{0, true, true, true, false}, true
	case "SecurityInfo":
		return permission{1024, true, true, true, false}, true
	case "ProfileList", "CertificateList":
		return permission{1, true, true, true, false}, true
	case "InstalledApplicationList":
		return permission{256, true, false, true, false}, true
	case "InstallProfile":
		return permission{2, true, true, true, false}, true
	case "RemoveProfile":
		return permission{0, true, true, true, false}, true // the server's own profile needs no right
	case "Settings":
		return permission{2048, true, true, true, false}, true
	case "DeviceLock":
		return permission{4, true, false, false, false}, true
	case "EraseDevice":
		return permission{8, false, false, false, false}, true
	case "RestartDevice":
		return permission{4, false, false, false, true}, true
	}
	return permission{}, false
}

// perform runs cmd. after, if not nil, is what the device does once the result is
// sent; cut is the error of a renewal that a test stopped.
func (c *Channel) perform(ctx context.Context, cmd *Command) (r Result, after func(context.Context) error, cut error) {
	d := c.dev
	p, known := permissionOf(cmd.RequestType)
	mac := d.opts.Model == Mac
	switch {
	case !known,
		c.user != nil && !p.user,
		d.byod.Load() && (mac && !p.mac || !mac && !p.ios):
		return failed(12021, "MCMDMErrorDomain", fmt.Sprintf("“%s” is not a valid request type.", cmd.RequestType)), nil, nil
	case !d.allows(p.right):
		return failed(12007, "MCMDMErrorDomain", fmt.Sprintf("The MDM server does not have the right to send “%s”.", cmd.RequestType)), nil, nil
	case p.supervised && !mac && !d.opts.Supervised:
		return failed(12064, "MCMDMErrorDomain", "The device is not supervised."), nil, nil
	}
	f := fields{dict: cmd.Params}
	switch cmd.RequestType {
	case "DeviceInformation":
		r = c.deviceInformation(&f)
	case "SecurityInfo":
		r = done(Dict{"SecurityInfo": d.securityInfo()})
	case "ProfileList":
		r = done(Dict{"ProfileList": c.profileList()})
	case "CertificateList":
		r = done(Dict{"CertificateList": c.certificateList()})
	case "InstalledApplicationList":
		r = done(Dict{"InstalledApplicationList": d.applications(f.strings("Identifiers"), f.bool("ManagedAppsOnly"))})
	case "Settings":
		r = d.settings(&f)
	case "DeviceLock":
		r = d.lock(&f)
	case "RestartDevice":
		r = done(nil)
	case "EraseDevice":
		r = d.pin(&f)
		if r.Status == StatusAcknowledged {
			after = func(context.Context) error { d.uninstall(Erased); return nil }
		}
	case "InstallProfile":
		r, after, cut = c.installProfile(ctx, &f, cmd)
	case "RemoveProfile":
		r, after = c.removeProfile(&f)
	}
	if f.err != nil {
		return Result{Status: StatusFormat, Keys: chain(12026, "MCMDMErrorDomain", f.err.Error())}, nil, nil
	}
	return r, after, cut
}

// pin checks the six digits that a Mac wants for DeviceLock and EraseDevice.
func (d *Device) pin(f *fields) Result {
	pin := f.string("PIN")
	if d.opts.Model == Mac && (len(pin) != 6 || bytes.ContainsFunc([]byte(pin), func(r rune) bool { return r < '0' || r > '9' })) {
		return failed(12026, "MCMDMErrorDomain", "The PIN must have six digits.")
	}
	return done(nil)
}

func (d *Device) lock(f *fields) Result {
	r := d.pin(f)
	if f.string("Message")+f.string("PhoneNumber") != "" && d.opts.Model != Mac && r.Status == StatusAcknowledged {
		r.Keys = Dict{"MessageResult": "Success"}
	}
	return r
}

// settings answers each item by itself, as Apple's reply does.
func (d *Device) settings(f *fields) Result {
	var results []any
	for _, item := range f.dicts("Settings") {
		name, _ := item["Item"].(string)
		answer := Dict{"Item": name, "Status": StatusAcknowledged}
		needsSupervision := slices.Contains([]string{"DeviceName", "Wallpaper", "Bluetooth", "TimeZone", "AccessibilitySettings"}, name)
		open := slices.Contains([]string{"ApplicationConfiguration", "ApplicationAttributes", "OrganizationInfo", "MDMOptions"}, name)
		if d.byod.Load() && !open || needsSupervision && d.opts.Model != Mac && !d.opts.Supervised {
			answer["Status"] = StatusError
			answer["ErrorChain"] = chain(12064, "MCMDMErrorDomain", "The device is not supervised.")["ErrorChain"]
		}
		results = append(results, answer)
	}
	if f.dict["Settings"] == nil {
		f.err = errors.New("no Settings")
	}
	return done(Dict{"Settings": results})
}
