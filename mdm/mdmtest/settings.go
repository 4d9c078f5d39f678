package mdmtest

import (
	"fmt"
	"maps"
)

// settings answers each item by itself, as Apple's reply does.
func (c *Channel) settings(f *fields) Result {
	results := []any{}
	for _, entry := range f.dicts("Settings") {
		name, _ := entry["Item"].(string)
		answer := Dict{"Item": name, "Status": StatusAcknowledged}
		if id, ok := entry["Identifier"].(string); ok {
			answer["Identifier"] = id
		}
		if why := c.set(name, entry); why != nil {
			answer["Status"] = StatusError
			maps.Copy(answer, chain(why.code, why.domain, why.text))
		}
		results = append(results, answer)
	}
	return done(Dict{"Settings": results})
}

// set makes one setting, or says why not.
func (c *Channel) set(name string, entry Dict) *problem {
	d := c.dev
	item := documented().settings[name]
	here, known := d.here(item)
	if !known {
		return &problem{28000, "MCSettingsErrorDomain", fmt.Sprintf("The setting “%s” is not known.", name)}
	}
	switch c.obstacle(here) {
	case unobstructed:
	case noRight:
		return &problem{12007, "MCMDMErrorDomain", fmt.Sprintf("The MDM server does not have the right to set “%s”.", name)}
	case unsupervised:
		return &problem{29000, "MCChaperoneErrorDomain", "The device is not supervised."}
	default:
		return &problem{28000, "MCSettingsErrorDomain", fmt.Sprintf("The setting “%s” is not available.", name)}
	}
	if err := item.malformed(entry); err != nil {
		return &problem{12008, "MCMDMErrorDomain", err.Error()}
	}
	if (name == "MaximumResidentUsers" || name == "SharedDeviceConfiguration") && !d.opts.Shared {
		return &problem{28000, "MCSettingsErrorDomain", "The device is no Shared iPad."}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	state := &d.condition
	switch name {
	case "DeviceName":
		state.name = entry["DeviceName"].(string)
	case "SoftwareUpdateSettings":
		state.changed[name] = Dict{"RecommendationsCadence": entry["RecommendationCadence"]}
	case "HostName", "TimeZone", "MaximumResidentUsers":
		state.changed[name] = entry[name]
	case "OrganizationInfo", "MDMOptions":
		value, _ := entry[name].(Dict)
		if value == nil {
			value = Dict{} // without it, the setting goes
		}
		state.changed[name] = value
	case "DataRoaming", "VoiceRoaming", "PersonalHotspot", "DiagnosticSubmission", "AppAnalytics":
		state.changed[name+"Enabled"] = entry["Enabled"]
	case "AccessibilitySettings":
		value := maps.Clone(entry)
		delete(value, "Item")
		state.changed[name] = value
	case "SharedDeviceConfiguration":
		for key, v := range entry {
			state.changed[key] = v
		}
	case "ApplicationConfiguration", "ApplicationAttributes":
		id := entry["Identifier"].(string)
		a := state.app(id)
		if a == nil || !a.managed {
			return &problem{12038, "MCMDMErrorDomain", fmt.Sprintf("The app “%s” is not managed.", id)}
		}
		if name == "ApplicationConfiguration" {
			a.config, _ = entry["Configuration"].(Dict)
		} else {
			a.attributes, _ = entry["Attributes"].(Dict)
		}
	}
	return nil
}
