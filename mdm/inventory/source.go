package inventory

import (
	"slices"

	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/command"
)

// Source is the RequestType of a command by which a device says something of itself.
type Source string

// The sources.
const (
	DeviceInformation        Source = "DeviceInformation"
	SecurityInfo             Source = "SecurityInfo"
	ManagedApplicationList   Source = "ManagedApplicationList"
	InstalledApplicationList Source = "InstalledApplicationList"
	ProfileList              Source = "ProfileList"
	CertificateList          Source = "CertificateList"
)

// Sources returns all sources in the order in which devices are asked: which apps are managed
// comes before which are installed, since of a personal device only managed ones are kept.
func Sources() []Source {
	return []Source{DeviceInformation, SecurityInfo, ManagedApplicationList, InstalledApplicationList, ProfileList, CertificateList}
}

// sourcesOf returns what d is asked unless somebody says otherwise. A user channel would say of
// the device what that says itself.
func sourcesOf(d mdm.Device) []Source {
	if d.ParentID == "" {
		return Sources()
	}
	return []Source{ManagedApplicationList, InstalledApplicationList, ProfileList, CertificateList}
}

// IsSource says whether a RequestType is one of the sources.
func IsSource(requestType string) bool { return slices.Contains(Sources(), Source(requestType)) }

// managedKey is the parameter that limits a list to what this server has installed; empty: the
// source has none.
func (s Source) managedKey() string {
	switch s {
	case InstalledApplicationList:
		return "ManagedAppsOnly"
	case ProfileList, CertificateList:
		return "ManagedOnly"
	}
	return ""
}

// IsList holds for sources whose answer is all that there is, so that what it lacks is gone.
func (s Source) IsList() bool { return s != DeviceInformation && s != SecurityInfo }

// question is one of the commands by which a source is asked.
type question struct {
	source      Source
	managedOnly bool
}

// questionFor returns how d is asked.
func questionFor(d mdm.Device, s Source) question {
	return question{s, minimal(d) && s.managedKey() != ""}
}

// build returns the property list of q.
func (q question) build(uuid string) ([]byte, error) {
	var params map[string]any
	if q.managedOnly {
		params = map[string]any{q.source.managedKey(): true}
	}
	return command.Build(string(q.source), params, uuid)
}

// whole says whether a list that answers a command with params, which somebody sent to d, is all that
// inventory itself would ask for, so that it may take the place of what is known.
func whole(d mdm.Device, s Source, params map[string]any) bool {
	for _, narrowed := range []string{"Identifiers", "Items"} {
		if _, ok := params[narrowed]; ok {
			return false
		}
	}
	if s.managedKey() == "" {
		return true
	}
	only := params[s.managedKey()] == true
	switch {
	case d.UserEnrolled():
		return true // it tells of managed ones only, asked or not
	case d.Ownership == mdm.Personal:
		return only || s == InstalledApplicationList // which is screened
	}
	return !only
}
