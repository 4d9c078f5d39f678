package inventory

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"

	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/storage"
)

// minimal holds for devices of which only what this server has installed is asked and kept:
// those that belong to a person. The portal promises as much for a User Enrollment. In a Device
// Enrollment the rights may let more be asked for, which somebody then does by a command of
// theirs: the answer is in that command's history, and not here.
func minimal(d mdm.Device) bool { return d.UserEnrolled() || d.Ownership == mdm.Personal }

// screen takes what is the person's own out of an answer of a User Enrollment, before it is
// recorded. It is an [mdm.Screen].
func (s *Service) screen(tx storage.Tx, e mdm.Entry) (json.RawMessage, error) {
	return screened(tx, e)
}

// screened returns the answer in e without apps and profiles that this server has not
// installed, and is not about to. An answer that can't be understood is none.
func screened(tx storage.Tx, e mdm.Entry) (json.RawMessage, error) {
	var own func(item map[string]any) bool
	switch source := Source(e.RequestType); source {
	case ManagedApplicationList:
		return screenedManaged(e)
	case InstalledApplicationList:
		managed, err := managedApps(tx, e.DeviceID)
		if err != nil {
			return nil, err
		}
		own = func(app map[string]any) bool { return !managed[text(app, "Identifier")] }
	case ProfileList:
		own = func(profile map[string]any) bool { return profile["IsManaged"] == false }
	default:
		return e.Result, nil
	}
	answer, ok := decode(e.Result)
	if !ok {
		return nil, nil
	}
	list, _ := answer[e.RequestType].([]any)
	kept := slices.DeleteFunc(slices.Clone(list), func(v any) bool {
		item, ok := v.(map[string]any)
		return !ok || own(item)
	})
	if kept == nil {
		kept = []any{}
	}
	// Nothing else: there is nothing else in such an answer that Apple documents.
	return json.Marshal(map[string]any{e.RequestType: kept})
}

// screenedManaged is screened for the list of managed apps, in which stand also those of the
// person's own of which the server asked to be let manage them, and those that they did not want.
func screenedManaged(e mdm.Entry) (json.RawMessage, error) {
	answer, ok := decode(e.Result)
	if !ok {
		return nil, nil
	}
	kept := make(map[string]any)
	apps, _ := answer[e.RequestType].(map[string]any)
	for identifier, v := range apps {
		app, _ := v.(map[string]any)
		status := text(app, "Status")
		if slices.Contains(installedManaged, status) || slices.Contains(onItsWay, status) {
			kept[identifier] = app
		}
	}
	return json.Marshal(map[string]any{e.RequestType: kept})
}

// onItsWay are the states of an app that this server has asked for, and that is not there, or
// not any more.
var onItsWay = []string{
	"NeedsRedemption", "Redeeming", "Prompting", "PromptingForLogin", "ValidatingPurchase", "Queued", "Installing",
	"Failed", "ManagedButUninstalled",
}

// identifiers are facts that name a device or its person: of a device that is the person's
// own, what they were is not kept.
var identifiers = []string{
	"BluetoothMAC", "EASDeviceIdentifier", "EthernetMAC", "ICCID", "IMEI", "MEID", "PhoneNumber", "ProvisioningUDID", "SerialNumber",
	"SubscriberMCC", "SubscriberMNC", "UDID", "WiFiMAC", "iTunesStoreAccountHash",
}

// withoutIdentifiers returns changes without those of facts that name a device or its person,
// wherever they stand in an answer.
func withoutIdentifiers(changes []Change) []Change {
	return slices.DeleteFunc(changes, func(c Change) bool {
		for name := range strings.SplitSeq(c.Path, ".") {
			if slices.Contains(identifiers, name) {
				return true
			}
		}
		return false
	})
}

// installedManaged are the states of an app that this server has installed (Apple:
// ManagedApplicationListResponse). Among the others is UserInstalledApp: the person's own, of
// which the server only asked to be let manage it.
var installedManaged = []string{
	"Managed", "Updating", "ValidatingUpdate", "PromptingForUpdate", "PromptingForUpdateLogin", "UpdateRejected",
}

// managedApps returns the identifiers of the apps that a device has from this server, as far as
// it has said.
func managedApps(tx storage.Tx, id mdm.DeviceID) (map[string]bool, error) {
	r, err := getRecord(tx, id, ManagedApplicationList)
	if err != nil {
		return nil, err
	}
	managed := make(map[string]bool)
	for _, app := range listOf[ManagedApp](r) {
		if slices.Contains(installedManaged, app.Status) {
			managed[app.Identifier] = true
		}
	}
	return managed, nil
}

// decode reads a JSON object; integers stay exact.
func decode(raw json.RawMessage) (map[string]any, bool) {
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	var v map[string]any
	err := dec.Decode(&v)
	return v, err == nil && v != nil
}
