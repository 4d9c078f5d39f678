package mdm

import (
	"errors"
	"fmt"

	"github.com/gatehouse-mdm/gatehouse/mdm/command"
	"github.com/gatehouse-mdm/gatehouse/mdm/profile"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

// gate says which devices may get one command. What it finds out of one device holds for
// all that are alike: a command may go to a hundred thousand of them.
type gate struct {
	command NewCommand
	passed  map[string]verdict // by encoded eligibility
	params  map[string]any     // of the command, once they were looked at
}

// verdict is what a gate says of a device: code is empty for one that may pass.
type verdict struct {
	code, reason string
	userEnrolled bool
}

func newGate(c NewCommand) *gate { return &gate{command: c, passed: make(map[string]verdict)} }

// judge returns the verdict on a device, or an error that wraps storage.ErrNotFound.
func (g *gate) judge(tx storage.Tx, id DeviceID) (verdict, error) {
	b, err := tx.Get(eligibilityBucket, []byte(id))
	if err != nil {
		return verdict{}, fmt.Errorf("eligibility of %s: %w", id, err)
	}
	if v, ok := g.passed[string(b)]; ok {
		return v, nil
	}
	e, err := decodeEligibility(b)
	if err != nil {
		return verdict{}, fmt.Errorf("eligibility of %s: %w", id, err)
	}
	v := verdict{userEnrolled: e.target.UserEnrollment}
	if v.code, v.reason = e.refuse(g.command.RequestType); v.code == "" && v.userEnrolled {
		if v.code, v.reason, err = g.refuseUserEnrolled(e.target); err != nil {
			return verdict{}, err
		}
	}
	g.passed[string(b)] = v
	return v, nil
}

// refuseUserEnrolled looks into the command for what Apple forbids in a User Enrollment.
func (g *gate) refuseUserEnrolled(target command.Target) (code, reason string, err error) {
	if g.params == nil {
		if g.params, err = command.Params(g.command.Plist); err != nil {
			return "", "", fmt.Errorf("command %s: %w", g.command.UUID, err)
		}
	}
	t, _ := command.Lookup(g.command.RequestType)
	var refusal *command.Refusal
	if errors.As(t.CheckParams(target, g.params), &refusal) {
		return refusal.Code, refusal.Reason, nil
	}
	if g.command.RequestType != "InstallProfile" {
		return "", "", nil
	}
	payload, _ := g.params["Payload"].([]byte)
	findings, refused, err := profile.CheckUserEnrollment(payload, target.Platform)
	if err != nil || !refused {
		return "", "", nil // what only the device can read, such as a binary property list, it refuses itself
	}
	reason = findings[0].Reason
	if n := len(findings) - 1; n > 0 {
		reason += fmt.Sprintf(" There is more like it in the profile (%d).", n)
	}
	return findings[0].Code, reason, nil
}
