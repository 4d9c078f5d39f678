package command

import "strings"

// Category groups commands for a list that people read.
type Category string

// The categories, in the order in which to show them.
const (
	Inspection Category = "inspection"
	Security   Category = "security"
	LostMode   Category = "lost_mode"
	Power      Category = "power"
	Apps       Category = "apps"
	Books      Category = "books"
	Profiles   Category = "profiles"
	Adjusting  Category = "settings"
	Updates    Category = "updates"
	Users      Category = "users"
	Setup      Category = "setup"
	Screen     Category = "screen"
	Support    Category = "support"
)

// Categories returns all categories, in the order in which to show them.
func Categories() []Category {
	return []Category{Inspection, Security, LostMode, Power, Apps, Books, Profiles, Adjusting, Updates, Users, Setup, Screen, Support}
}

// Words returns the category as a heading.
func (c Category) Words() string {
	words := strings.ReplaceAll(string(c), "_", " ")
	return strings.ToUpper(words[:1]) + words[1:]
}

// purpose says what a command is for, in a sentence for somebody who has never read Apple's
// pages.
type purpose struct {
	category Category
	sentence string
}

// purposes has each command of the table.
var purposes = map[string]purpose{
	"AccountConfiguration":            {Setup, "During Setup Assistant, creates the administrator account of a Mac and says what the person's own account may be."},
	"ActivationLockBypassCode":        {Security, "Asks for the code that opens Activation Lock without the person's Apple Account; a device tells it for 15 days after it was supervised."},
	"ActiveNSExtensions":              {Inspection, "Lists the app extensions that are active for one user of a Mac."},
	"ApplyRedemptionCode":             {Apps, "Completes the installation of an app that waits for a redemption code."},
	"AvailableOSUpdates":              {Updates, "Lists the system updates that the device could install."},
	"CancelEnhancedLogCollection":     {Support, "Stops the collection of extended logs for Apple's support."},
	"CertificateList":                 {Inspection, "Lists the certificates on the device; on a personal device those that the server installed."},
	"ClearActivationLockBypassCode":   {Security, "Makes the device forget its Activation Lock bypass code, so that only the person's Apple Account opens that lock."},
	"ClearPasscode":                   {Security, "Removes the passcode, so that a person who forgot it can set a new one."},
	"ClearRestrictionsPassword":       {Security, "Removes the passcode of Screen Time restrictions."},
	"ContentCachingInformation":       {Inspection, "Asks a Mac how its content cache is set up and used."},
	"DeclarativeManagement":           {Profiles, "Turns on declarative management, or tells the device to fetch its declarations."},
	"DeleteUser":                      {Users, "Deletes a user's account from a Mac or a Shared iPad, with the data that is there only."},
	"DeviceConfigured":                {Setup, "Lets a device that waits in Setup Assistant for the server go on."},
	"DeviceInformation":               {Inspection, "Asks the device for facts about itself, such as its name, model, system version and storage."},
	"DeviceLocation":                  {LostMode, "Asks a device in Lost Mode where it is."},
	"DeviceLock":                      {Security, "Locks the device at once. A Mac restarts and asks for the six digits of the PIN before it starts again."},
	"DisableLostMode":                 {LostMode, "Ends Lost Mode."},
	"DisableRemoteDesktop":            {Adjusting, "Turns off Remote Desktop on a Mac."},
	"EnableLostMode":                  {LostMode, "Locks a lost device, with a message or phone number for whoever finds it, until Lost Mode is ended."},
	"EnableRemoteDesktop":             {Adjusting, "Turns on Remote Desktop on a Mac."},
	"EraseDevice":                     {Security, "Erases everything on the device; it can't be undone."},
	"InstallApplication":              {Apps, "Installs an app from the App Store or from the organization, or updates it; without supervision the person is asked."},
	"InstallEnterpriseApplication":    {Apps, "Installs an app or package of the organization's own on a Mac."},
	"InstallMedia":                    {Books, "Installs a book or PDF, or updates it."},
	"InstallProfile":                  {Profiles, "Installs a configuration profile, or replaces the one with the same identifier."},
	"InstallProvisioningProfile":      {Profiles, "Installs a provisioning profile, which lets the organization's own apps run."},
	"InstalledApplicationList":        {Inspection, "Lists the apps on the device; on a personal device those that the server manages."},
	"InviteToProgram":                 {Apps, "Invites a person to the Volume Purchase Program, so that apps can be assigned to that person's Apple Account."},
	"LOMDeviceRequest":                {Power, "Has a Mac turn on, turn off or reset other Macs on its network by lights-out management."},
	"LOMSetupRequest":                 {Power, "Asks a Mac for the addresses and the protocol version that lights-out management needs."},
	"LogOutUser":                      {Users, "Logs out the person who uses a Shared iPad."},
	"ManagedApplicationAttributes":    {Apps, "Asks for the attributes of managed apps, such as the VPN that each uses."},
	"ManagedApplicationConfiguration": {Apps, "Asks how managed apps are configured."},
	"ManagedApplicationFeedback":      {Apps, "Asks for what managed apps have to report."},
	"ManagedApplicationList":          {Apps, "Asks which managed apps there are and how far their installation is."},
	"ManagedMediaList":                {Books, "Lists the books that the server installed."},
	"NSExtensionMappings":             {Inspection, "Lists which app extensions of a Mac's user extend what."},
	"OSUpdateStatus":                  {Updates, "Asks how far scheduled system updates are."},
	"PlayLostModeSound":               {LostMode, "Plays a sound on a device in Lost Mode, so that it can be found."},
	"ProfileList":                     {Inspection, "Lists the configuration profiles on the device."},
	"ProvisioningProfileList":         {Inspection, "Lists the provisioning profiles on the device."},
	"RefreshCellularPlans":            {Adjusting, "Has the device ask its carrier's server for eSIM plans."},
	"RemoveApplication":               {Apps, "Removes a managed app with its data."},
	"RemoveMedia":                     {Books, "Removes a book that the server installed."},
	"RemoveProfile":                   {Profiles, "Removes a configuration profile that the server installed, with its settings."},
	"RemoveProvisioningProfile":       {Profiles, "Removes a provisioning profile; apps that depend on it stop running."},
	"RequestMirroring":                {Screen, "Asks the person to show the screen on an AirPlay display."},
	"RequestUnlockToken":              {Security, "Asks a device with iOS 6 or older for the token that ClearPasscode needs; newer ones send it by themselves."},
	"RestartDevice":                   {Power, "Restarts the device at once; on a Mac the person may be asked instead."},
	"Restrictions":                    {Inspection, "Lists the restrictions that are in force on the device."},
	"RotateFileVaultKey":              {Security, "Replaces the FileVault recovery key of a Mac."},
	"ScheduleOSUpdate":                {Updates, "Downloads or installs system updates, now or later."},
	"ScheduleOSUpdateScan":            {Updates, "Has a Mac look for system updates."},
	"SecurityInfo":                    {Inspection, "Asks how safe the device is: passcode, encryption, firewall and the like."},
	"SetAutoAdminPassword":            {Users, "Changes the password of the administrator account that was made during Setup Assistant."},
	"SetFirmwarePassword":             {Security, "Sets, changes or removes the firmware password of a Mac with an Intel processor."},
	"SetRecoveryLock":                 {Security, "Sets, changes or removes the recovery lock password of a Mac with Apple silicon."},
	"Settings":                        {Adjusting, "Changes settings once, such as name, wallpaper, Bluetooth, time zone and how apps are configured; the person may change many of them back."},
	"ShutDownDevice":                  {Power, "Shuts down the device at once."},
	"StopMirroring":                   {Screen, "Ends AirPlay mirroring."},
	"TriggerEnhancedLogCollection":    {Support, "Starts the collection of extended logs for a case with Apple's support."},
	"UnlockUserAccount":               {Users, "Unlocks an account on a Mac that was locked after too many wrong passwords."},
	"UserConfigured":                  {Setup, "Lets a person who logs in to a Shared iPad and waits for the server go on."},
	"UserList":                        {Users, "Lists the users with an account on a Mac or a Shared iPad."},
	"ValidateApplications":            {Apps, "Has the device check again that the organization's own apps may run."},
	"VerifyFirmwarePassword":          {Security, "Asks a Mac with an Intel processor whether a firmware password is the right one."},
	"VerifyRecoveryLock":              {Security, "Asks a Mac with Apple silicon whether a recovery lock password is the right one."},
}
