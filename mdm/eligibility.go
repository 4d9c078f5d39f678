package mdm

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/gatehouse-mdm/gatehouse/mdm/command"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

// eligibility is what decides which commands a device may get. It repeats what
// stands in the Device, in a record that takes a hundredth of a Device's time to
// read, because one command may go to a hundred thousand of them. PutDevice keeps it.
type eligibility struct {
	state  State
	target command.Target
}

const eligibilityBucket = "device_eligibility"

func (d Device) eligibility() eligibility {
	platform := command.PlatformOf(d.product())
	return eligibility{d.State, command.Target{
		Platform: platform, OSVersion: d.OSVersion, Supervised: d.Supervised, AccessRights: d.AccessRights,
		UserEnrollment: d.userEnrolled(), UserChannel: d.ParentID != "", ADE: d.byADE(),
		SharedIPad: d.sharedIPad(), Approved: d.UserApproved,
	}}
}

// product is what the device calls its model, as far as that tells its platform.
func (d Device) product() string {
	for _, name := range []string{d.ProductName, d.Model} {
		if command.PlatformOf(name) != "" {
			return name
		}
	}
	return ""
}

// userEnrolled holds for a User Enrollment and the user channels of one.
func (d Device) userEnrolled() bool { return d.Type == TypeUser || d.EnrollmentID != "" }

// byADE tells whether Automated Device Enrollment brought the device here: not if an
// attempt did, which begins with a page or an account. Otherwise the device says so, or that
// is not known.
func (d Device) byADE() *bool {
	if d.userEnrolled() || d.Type == TypeAccountDevice || d.Type == TypeDevice && d.AttemptID != "" {
		return new(bool)
	}
	return d.EnrolledViaDEP
}

// sharedIPad tells whether the device is an iPad of several users: a model that is none does
// not become one. What is not known of an iPad, it says when it is asked.
func (d Device) sharedIPad() *bool {
	if product := d.product(); product != "" && !strings.HasPrefix(product, "iPad") {
		return new(bool)
	}
	return d.SharedIPad
}

// encode writes e's fields one after another, with a zero byte in between.
func (e eligibility) encode() []byte {
	return []byte(strings.Join([]string{
		string(e.state), string(e.target.Platform), strings.ReplaceAll(e.target.OSVersion, "\x00", ""),
		strconv.FormatBool(e.target.UserEnrollment), strconv.FormatBool(e.target.UserChannel),
		formatMaybe(e.target.Supervised), strconv.Itoa(e.target.AccessRights), formatMaybe(e.target.ADE),
		formatMaybe(e.target.SharedIPad), formatMaybe(e.target.Approved),
	}, "\x00"))
}

// formatMaybe writes what may not be known; parseMaybe reads it.
func formatMaybe(b *bool) string {
	if b == nil {
		return ""
	}
	return strconv.FormatBool(*b)
}

func parseMaybe(s string) *bool {
	if s == "" {
		return nil
	}
	b := s == "true"
	return &b
}

func decodeEligibility(b []byte) (eligibility, error) {
	f := strings.Split(string(b), "\x00")
	switch len(f) {
	case 7: // from before anything was known of ADE
		f = append(f, "", "", "")
	case 8: // nor of Shared iPads and approval
		f = append(f, "", "")
	case 10:
	default:
		return eligibility{}, storage.ErrCorrupt
	}
	e := eligibility{State(f[0]), command.Target{
		Platform: command.Platform(f[1]), OSVersion: f[2], UserEnrollment: f[3] == "true", UserChannel: f[4] == "true",
		Supervised: parseMaybe(f[5]), ADE: parseMaybe(f[7]),
		SharedIPad: parseMaybe(f[8]), Approved: parseMaybe(f[9]),
	}}
	var err error
	if e.target.AccessRights, err = strconv.Atoi(f[6]); err != nil {
		return eligibility{}, storage.ErrCorrupt
	}
	return e, nil
}

// putEligibility writes d's eligibility if it differs from what is stored.
func putEligibility(tx storage.Tx, d Device) error {
	b := d.eligibility().encode()
	old, err := tx.Get(eligibilityBucket, []byte(d.ID))
	if err == nil && bytes.Equal(old, b) {
		return nil
	}
	if err != nil && !errors.Is(err, storage.ErrNotFound) {
		return err
	}
	return tx.Put(eligibilityBucket, []byte(d.ID), b)
}

func getEligibility(tx storage.Tx, id DeviceID) (eligibility, error) {
	b, err := tx.Get(eligibilityBucket, []byte(id))
	if err != nil {
		return eligibility{}, fmt.Errorf("eligibility of %s: %w", id, err)
	}
	e, err := decodeEligibility(b)
	if err != nil {
		return eligibility{}, fmt.Errorf("eligibility of %s: %w", id, err)
	}
	return e, nil
}

// refuse returns a stable code and a sentence if e's device may not get a command
// of a type.
func (e eligibility) refuse(requestType string) (code, reason string) {
	if no := e.state.Refusal(); no != nil {
		return no.Code, no.Reason
	}
	t, known := command.Lookup(requestType)
	if !known {
		return "", "" // a raw command newer than our tables: the device has the last word
	}
	var refusal *command.Refusal
	if errors.As(t.Check(e.target), &refusal) {
		return refusal.Code, refusal.Reason
	}
	return "", ""
}
