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
