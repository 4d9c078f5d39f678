package mdmtest

import (
	"fmt"
	"slices"
)

// runForSystem runs the commands of users, updates, screens and what else is left.
func (d *Device) runForSystem(f *fields, requestType string) Result {
	switch requestType {
	case "RestartDevice", "ShutDownDevice":
		d.mu.Lock()
		defer d.mu.Unlock()
		d.condition.restarts++
		return done(nil)
	case "DeviceConfigured", "UserConfigured":
		d.mu.Lock()
		defer d.mu.Unlock()
		d.condition.awaiting = false
		return done(nil)
	case "AccountConfiguration":
		if !d.isAwaiting() {
			return failed(12010, "MCMDMErrorDomain", "The Mac does not wait in Setup Assistant for its configuration.")
		}
		return done(nil)
	case "SetAutoAdminPassword", "UnlockUserAccount", "DeleteUser", "UserList", "LogOutUser":
		return d.runForUsers(f, requestType)
	case "EnableRemoteDesktop", "DisableRemoteDesktop":
		d.mu.Lock()
		defer d.mu.Unlock()
		d.condition.remoteDesktop = requestType == "EnableRemoteDesktop"
		return done(nil)
	case "RequestMirroring":
		if f.string("DestinationName")+f.string("DestinationDeviceID") == "" {
			f.err = fmt.Errorf("want DestinationName or DestinationDeviceID")
			return Result{}
		}
		return done(Dict{"MirroringResult": "Prompting"})
	case "StopMirroring", "TriggerEnhancedLogCollection", "CancelEnhancedLogCollection":
		return done(nil)
	case "RefreshCellularPlans":
		switch url := f.string("eSIMServerURL"); {
		case d.opts.Model != IPhone:
			return failed(12021, "MCMDMErrorDomain", "The device has no eSIM.")
		case checkURL(url, false) != nil:
			return failed(12030, "MCMDMErrorDomain", fmt.Sprintf("The URL “%s” is not valid.", url))
		}
		return done(nil)
	case "ContentCachingInformation":
		return done(Dict{"StatusResponse": Dict{"Activated": false, "Active": false, "CacheUsed": 0, "RegistrationStatus": 0, "TetheratorStatus": 0}})
	case "ActiveNSExtensions", "NSExtensionMappings":
		return d.extensions(f, requestType)
	case "LOMSetupRequest", "LOMDeviceRequest":
		return failed(12021, "MCMDMErrorDomain", "The Mac does not support lights-out management.")
	case "AvailableOSUpdates", "OSUpdateStatus", "ScheduleOSUpdate", "ScheduleOSUpdateScan":
		return d.updates(f, requestType)
	}
	return failed(12021, "MCMDMErrorDomain", fmt.Sprintf("“%s” is not a valid request type.", requestType))
}

// runForUsers runs the commands about accounts of a Mac, or of a Shared iPad.
func (d *Device) runForUsers(f *fields, requestType string) Result {
	d.mu.Lock()
	defer d.mu.Unlock()
	users := d.condition.users
	named := func(key, value string) int {
		return slices.IndexFunc(users, func(u Dict) bool { return u[key] == value })
	}
	none := failed(12071, "MCMDMErrorDomain", "There is no such user on the device.")
	switch requestType {
	case "UserList":
		return done(Dict{"Users": lists(users)})
	case "LogOutUser":
		if i := slices.IndexFunc(users, func(u Dict) bool { return u["IsLoggedIn"] == true }); i >= 0 {
			users[i]["IsLoggedIn"] = false
			return done(nil)
		}
		return failed(12071, "MCMDMErrorDomain", "No user is logged in.")
	case "UnlockUserAccount":
		if named("UserName", f.string("UserName")) < 0 {
			return none
		}
		return done(nil)
	case "SetAutoAdminPassword": // of an administrator whom AccountConfiguration made: there is none
		if named("UserGUID", f.string("GUID")) < 0 {
			return none
		}
		return done(nil)
	}
	if f.bool("DeleteAllUsers") {
		d.condition.users = slices.DeleteFunc(users, func(u Dict) bool { return u["IsLoggedIn"] != true })
		return done(nil)
	}
	switch i := named("UserName", f.required("UserName")); {
	case f.err != nil:
		return Result{}
	case i < 0:
		return none
	case users[i]["IsLoggedIn"] == true:
		return failed(12072, "MCMDMErrorDomain", "The user is logged in.")
	case users[i]["HasDataToSync"] == true && !f.bool("ForceDeletion"):
		return failed(12073, "MCMDMErrorDomain", "The user has data that is not synchronized yet.")
	default:
		d.condition.users = slices.Delete(users, i, i+1)
		return done(nil)
	}
}

// extensions is what a Mac has of them when it comes from the shop.
func (d *Device) extensions(f *fields, requestType string) Result {
	points := f.strings("FilterExtensionPoints")
	list := []any{}
	for _, e := range []Dict{
		{"Identifier": "com.apple.share.AirDrop.send", "ExtensionPoint": "com.apple.share-services", "DisplayName": "AirDrop",
			"Path": "/System/Library/PrivateFrameworks/Sharing.framework/PlugIns/AirDrop.appex", "Version": "1.0", "UserElection": "Default"},
		{"Identifier": "com.apple.Safari.ContentBlocker", "ExtensionPoint": "com.apple.Safari.content-blocker", "DisplayName": "Example Blocker",
			"Path": "/Applications/Example Blocker.app", "Version": "2.1", "UserElection": "Use"},
	} {
		if requestType == "NSExtensionMappings" {
			e = Dict{"Identifier": e["Identifier"], "ExtensionPoint": e["ExtensionPoint"], "DisplayName": e["DisplayName"]}
		} else if len(points) > 0 && !slices.Contains(points, e["ExtensionPoint"].(string)) {
			continue
		}
		list = append(list, e)
	}
	return done(Dict{"Extensions": list})
}

// updates are those that systems before 27 knew: one waits.
func (d *Device) updates(f *fields, requestType string) Result {
	const product = "iOSUpdate23C55"
	version := d.opts.OSVersion + ".1"
	switch requestType {
	case "ScheduleOSUpdateScan":
		return done(Dict{"ScanInitiated": true})
	case "OSUpdateStatus":
		return done(Dict{"OSUpdateStatus": []any{}})
	case "AvailableOSUpdates":
		update := Dict{
			"ProductKey": product, "HumanReadableName": "Update " + version, "Version": version, "Build": "23C55", "DownloadSize": 411000000,
			"IsCritical": false, "RestartRequired": true, "AllowsInstallLater": true, "IsSecurityResponse": false,
		}
		if d.opts.Model == Mac {
			update["HumanReadableNameLocale"], update["MetadataURL"] = "en", "https://swcdn.apple.com/example.smd"
			update["AppIdentifiersToClose"], update["IsMajorOSUpdate"] = []any{}, false
		} else {
			update["ProductName"], update["InstallSize"] = "OS", 900000000
		}
		return done(Dict{"AvailableOSUpdates": []any{update}})
	}
	results := []any{}
	for _, u := range f.dicts("Updates") {
		of := fields{dict: u}
		action, key := of.required("InstallAction"), of.string("ProductKey")
		if of.err != nil {
			f.err = of.err
			return Result{}
		}
		if action == "Default" {
			action = "DownloadOnly"
		}
		if key != product && of.string("ProductVersion") != version {
			r := chain(12048, "MCMDMErrorDomain", "There is no such update for this device.")
			r["ProductKey"], r["InstallAction"], r["Status"] = key, "Error", "Idle"
			results = append(results, r)
			continue
		}
		results = append(results, Dict{"ProductKey": product, "InstallAction": action, "Status": "Downloading"})
	}
	return done(Dict{"UpdateResults": results})
}
