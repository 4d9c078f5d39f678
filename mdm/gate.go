package mdm

import (
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/gatehouse-mdm/gatehouse/mdm/command"
	"github.com/gatehouse-mdm/gatehouse/mdm/profile"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/guard"
)

// gate says which devices may get one command. What it finds out of one device holds for
// all that are alike: a command may go to a hundred thousand of them.
type gate struct {
	command NewCommand
	judged  map[string]verdict // by encoded eligibility
	// params are those of the command, and profile what it installs: nil if it does not.
	params  func() (map[string]any, error)
	profile func() (*profile.Profile, error)
}

// refusal is what a gate found in the command against devices; code is empty for nothing.
type refusal struct{ code, reason string }

// verdict is what a gate says of a device: code is empty for one that may pass.
type verdict struct {
	refusal
	userEnrolled bool
	target       command.Target
}

func newGate(c NewCommand) *gate {
	params := sync.OnceValues(func() (map[string]any, error) { return command.Params(c.Plist) })
	return &gate{command: c, judged: make(map[string]verdict), params: params, profile: sync.OnceValues(func() (*profile.Profile, error) {
		params, err := params()
		if err != nil || c.RequestType != "InstallProfile" {
			return nil, err
		}
		if _, ok := params["Payload"]; !ok {
			return nil, nil // nothing to install
		}
		payload, _ := params["Payload"].([]byte)
		return profile.Parse(payload)
	})}
}

// judge returns the verdict on a device, or an error that wraps storage.ErrNotFound.
func (g *gate) judge(tx storage.Tx, id DeviceID) (verdict, error) {
	b, err := tx.Get(eligibilityBucket, []byte(id))
	if err != nil {
		return verdict{}, fmt.Errorf("eligibility of %s: %w", id, err)
	}
	if v, ok := g.judged[string(b)]; ok {
		return v, nil
	}
	e, err := decodeEligibility(b)
	if err != nil {
		return verdict{}, fmt.Errorf("eligibility of %s: %w", id, err)
	}
	v := verdict{userEnrolled: e.target.UserEnrollment, target: e.target}
	if v.code, v.reason = e.refuse(g.command.RequestType); v.code == "" {
		if v.refusal, err = g.lookInside(e.target); err != nil {
			return verdict{}, err
		}
	}
	g.judged[string(b)] = v
	return v, nil
}

// lookInside looks into the command for what target may not get.
func (g *gate) lookInside(target command.Target) (refusal, error) {
	params, err := g.params()
	switch {
	case err != nil && target.UserEnrollment: // nobody knows what it would be asked
		return refusal{}, fmt.Errorf("command %s: %w", g.command.UUID, err)
	case err != nil:
		return refusal{}, nil
	}
	t, _ := command.Lookup(g.command.RequestType)
	if no, ok := errors.AsType[*command.Refusal](t.CheckParams(target, params)); ok {
		return refusal{no.Code, no.Reason}, nil
	}
	return g.profileFor(target), nil
}

// profileFor looks into the profile that the command installs, if it does.
func (g *gate) profileFor(target command.Target) refusal {
	p, err := g.profile()
	switch {
	case err != nil && target.UserEnrollment: // the device may read it all the same: of two equal keys, say, it takes one
		return refusal{command.CodeUserEnrollment, unreadable(err)}
	case err != nil || p == nil:
		return refusal{}
	case g.command.Personalize == nil && len(p.Certificates()) > 0: // no device knows what to make of the place for one
		return refusal{profile.CodeCertificate, "The profile has a place for a certificate of the template " + strings.Join(p.Certificates(), ", ") +
			", which is filled in only when it is sent as a profile of the library: add it there."}
	}
	findings, refused := p.Check(target)
	if !refused {
		return refusal{}
	}
	more := 0
	for _, f := range findings[1:] {
		if f.Severity == findings[0].Severity {
			more++
		}
	}
	reason := findings[0].Reason
	if more > 0 {
		reason += fmt.Sprintf(" There is more like it in the profile (%d).", more)
	}
	return refusal{findings[0].Code, reason}
}

// unreadable is the reason against a profile that package profile could not read for err.
func unreadable(err error) string {
	const reason = "The profile can't be read, so nobody knows whether it holds what is not allowed on a personal device (User Enrollment)"
	switch {
	case errors.Is(err, guard.ErrBinaryPlist):
		return reason + ": it is binary, and only XML is read (convert it with `plutil -convert xml1 FILE`)."
	case errors.Is(err, guard.ErrTooLarge):
		return reason + ": it is too large."
	}
	return reason + "."
}
