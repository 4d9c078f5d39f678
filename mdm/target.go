package mdm

import (
	"github.com/gatehouse-mdm/gatehouse/mdm/command"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

// ReadTarget is what [storage.Tx.Prefetch] takes for TargetOf.
func ReadTarget(id DeviceID) storage.Read {
	return storage.Read{Bucket: eligibilityBucket, Key: []byte(id)}
}

// TargetOf returns what decides on what an enrollment may get, and where it stands, or an
// error that wraps storage.ErrNotFound.
func TargetOf(tx storage.Tx, id DeviceID) (command.Target, State, error) {
	e, err := getEligibility(tx, id)
	return e.target, e.state, err
}

// TargetKey returns a text that is the same for targets that may get the same.
func TargetKey(t command.Target) string { return string(eligibility{Enrolled, t}.encode()) }

// Refusal is why an enrollment in state s gets no command at all; nil if it may get some.
func (s State) Refusal() *command.Refusal {
	switch s {
	case Enrolled:
		return nil
	case Blocked:
		return &command.Refusal{Code: "blocked", Reason: "The device is blocked."}
	case Pending:
		return &command.Refusal{Code: "pending", Reason: "The device has not finished enrolling."}
	}
	return &command.Refusal{Code: "not_enrolled", Reason: "The device is not enrolled."}
}
