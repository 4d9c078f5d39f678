package apiv1

import (
	"fmt"
	"net/http"

	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/mdm/command"
	"github.com/gatehouse-mdm/gatehouse/webui"
)

// beyondHelpdesk says of each command why it takes an administrator; of those that a helpdesk
// may send, nothing. A helpdesk may find out about a device, and help a person who has it, or
// has lost it, now: lock it, restart it, clear its passcode. What installs or removes
// something, changes what a device trusts or who gets into it, or loses data is beyond it. A
// command that is missing here takes an administrator.
var beyondHelpdesk = map[string]string{
	"ActiveNSExtensions":              "",
	"AvailableOSUpdates":              "",
	"CancelEnhancedLogCollection":     "",
	"CertificateList":                 "",
	"ClearPasscode":                   "",
	"ClearRestrictionsPassword":       "",
	"ContentCachingInformation":       "",
	"DeviceConfigured":                "", // whoever waits in Setup Assistant goes on
	"DeviceInformation":               "",
	"DeviceLocation":                  "", // in Lost Mode only
	"DeviceLock":                      "",
	"DisableLostMode":                 "",
	"EnableLostMode":                  "",
	"InstalledApplicationList":        "",
	"LOMSetupRequest":                 "",
	"LogOutUser":                      "",
	"ManagedApplicationAttributes":    "",
	"ManagedApplicationConfiguration": "",
	"ManagedApplicationFeedback":      "", // but see beyondHelpdeskWith
	"ManagedApplicationList":          "",
	"ManagedMediaList":                "",
	"NSExtensionMappings":             "",
	"OSUpdateStatus":                  "",
	"PlayLostModeSound":               "",
	"ProfileList":                     "",
	"ProvisioningProfileList":         "",
	"RequestMirroring":                "", // the person is asked
	"RequestUnlockToken":              "", // nobody gets to see it
	"RestartDevice":                   "", // but see beyondHelpdeskWith
	"Restrictions":                    "",
	"ScheduleOSUpdateScan":            "",
	"SecurityInfo":                    "",
	"ShutDownDevice":                  "",
	"StopMirroring":                   "",
	"UnlockUserAccount":               "",
	"UserConfigured":                  "",
	"UserList":                        "",
	"ValidateApplications":            "",

	"AccountConfiguration":          "it makes an administrator’s account",
	"ActivationLockBypassCode":      "it gets the code that opens Activation Lock",
	"ApplyRedemptionCode":           "it installs an app",
	"ClearActivationLockBypassCode": "it can’t be undone",
	"DeclarativeManagement":         "it changes how the device is managed",
	"DeleteUser":                    "it loses data",
	"DisableRemoteDesktop":          "it changes who gets into the device",
	"EnableRemoteDesktop":           "it changes who gets into the device",
	"EraseDevice":                   "it loses data",
	"InstallApplication":            "it installs an app",
	"InstallEnterpriseApplication":  "it installs an app",
	"InstallMedia":                  "it installs a book",
	"InstallProfile":                "it changes what the device trusts and allows",
	"InstallProvisioningProfile":    "it changes which apps may run",
	"InviteToProgram":               "it invites a person to a program",
	"LOMDeviceRequest":              "it turns other Macs on and off than the one that it is sent to",
	"RefreshCellularPlans":          "it changes the device’s cellular plans",
	"RemoveApplication":             "it removes an app with its data",
	"RemoveMedia":                   "it removes a book",
	"RemoveProfile":                 "it changes what the device trusts and allows",
	"RemoveProvisioningProfile":     "it changes which apps may run",
	"RotateFileVaultKey":            "it changes who gets into the device",
	"ScheduleOSUpdate":              "it installs software",
	"SetAutoAdminPassword":          "it changes who gets into the device",
	"SetFirmwarePassword":           "it changes who gets into the device",
	"SetRecoveryLock":               "it changes who gets into the device",
	"Settings":                      "it changes what the device does and allows",
	"TriggerEnhancedLogCollection":  "it sends a person’s logs to Apple",
	"VerifyFirmwarePassword":        "passwords could be guessed by it",
	"VerifyRecoveryLock":            "passwords could be guessed by it",
}

// NeedsAdmin says why a command with params, as JSON or a property list has them, takes an
// administrator; ok is false where it does not. It holds for every API that takes commands.
func NeedsAdmin(requestType string, params map[string]any) (why string, ok bool) {
	why, known := beyondHelpdesk[requestType]
	switch {
	case !known:
		return "nobody here knows what it does", true
	case why != "":
		return why, true
	}
	return beyondHelpdeskWith(requestType, params)
}

// beyondHelpdeskWith is for commands of which only some take an administrator.
func beyondHelpdeskWith(requestType string, params map[string]any) (why string, ok bool) {
	switch requestType {
	case "ManagedApplicationFeedback":
		return "it deletes what apps have to report", params["DeleteFeedback"] == true
	case "RestartDevice":
		_, paths := params["KextPaths"]
		return "it changes which kernel extensions are loaded", paths || params["RebuildKernelCache"] == true
	}
	return "", false
}

// mayQueue refuses a command that takes a higher scope than by has.
func (a *API) mayQueue(by identity.Principal, requestType string, params map[string]any) error {
	why, beyond := NeedsAdmin(requestType, params)
	if !beyond || by.Allows(identity.ScopeAdmin) {
		return nil
	}
	no := errScope(identity.ScopeAdmin)
	no.Detail = fmt.Sprintf("%s needs a token with the scope %s: %s.", clip(requestType), identity.ScopeAdmin, why)
	return no
}

// irrevocable says that a command can't be undone, so that whoever sends it has to say so.
func (a *API) irrevocable(requestType string, params map[string]any) bool {
	t, _ := command.Lookup(requestType)
	return t.Destructive || requestType == "RemoveProfile" && params["Identifier"] == any(a.enroll.ProfileIdentifier())
}

// unconfirmed is the problem of a command that can't be undone, sent without a word about
// that in field.
func unconfirmed(field string) *problem {
	return &problem{
		Problem: webui.Problem{
			Status: http.StatusBadRequest, Code: "confirmation_required", Title: "The command can't be undone",
			Detail: `Send it again with "confirm": true.`,
		},
		Errors: []fieldError{{field, "must be true"}},
	}
}
