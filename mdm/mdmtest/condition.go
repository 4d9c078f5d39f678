package mdmtest

import (
	"fmt"
	"slices"
	"strings"
)

// condition is what commands and people change on a device, beside its profiles. An erased
// device is as it left the box, an unenrolled one loses what came over MDM. [Device].mu
// guards it.
type condition struct {
	name    string // DeviceName
	changed Dict   // answers of DeviceInformation that Settings has changed

	passcode bool
	awaiting bool   // in Setup Assistant, until DeviceConfigured
	lost     bool   // in Managed Lost Mode
	lock     Lock   // the last DeviceLock
	bypass   string // of the Activation Lock; empty: cleared

	recoveryLock, firmware string // passwords of a Mac; empty: none
	recoveryKey            string // of FileVault
	escrowed               escrowed
	remoteDesktop          bool
	users                  []Dict // as UserList has them

	apps         []*app
	books        []Dict // as ManagedMediaList has them
	provisioning []Dict // as ProvisioningProfileList has them
	restarts     int
}

// Lock is how DeviceLock was sent.
type Lock struct {
	PIN     string // that opens a Mac again
	Message string
	Phone   string
}

func newCondition(o Options) condition {
	c := condition{
		name: o.Name, passcode: true, awaiting: o.Awaiting, changed: Dict{},
		// Made-up secrets that depend on the device alone: stories compare them.
		bypass: strings.ToUpper(groups(easID("bypass "+o.UDID), 5)), recoveryKey: recoveryKey(o.UDID, 0),
	}
	for _, a := range []app{
		{id: "com.apple.Pages", name: "Pages", version: "8254.1.31", short: "14.4", size: 521000000},
		{id: "com.example.notes", name: "Example Notes", version: "312", short: "3.1.2", size: 48000000},
	} {
		c.apps = append(c.apps, &a)
	}
	switch {
	case o.Model == Mac:
		c.users = []Dict{{
			"UserName": o.User.ShortName, "FullName": o.User.LongName, "UID": 501, "UserGUID": o.User.ID,
			"IsLoggedIn": true, "MobileAccount": false, "HasSecureToken": true,
		}, {
			"UserName": "guest1", "FullName": "Guest One", "UID": 502, "UserGUID": "0C0DE000-0000-4000-8000-000000000502",
			"IsLoggedIn": false, "MobileAccount": false, "HasSecureToken": false,
		}}
	case o.Shared:
		c.users = []Dict{{
			"UserName": "pupil@example.com", "IsLoggedIn": false, "HasDataToSync": false, "DataQuota": 8 << 30, "DataUsed": 1 << 20,
		}}
	}
	return c
}

// groups puts a hyphen after each n letters.
func groups(s string, n int) string {
	var list []string
	for part := range slices.Chunk([]byte(s), n) {
		list = append(list, string(part))
	}
	return strings.Join(list, "-")
}

// recoveryKey is the n-th personal recovery key of a Mac's FileVault.
func recoveryKey(udid string, n int) string {
	return groups(easID(fmt.Sprintf("recovery key %d of %s", n, udid))[:24], 4)
}

// unmanage takes away what came over MDM. The caller holds mu.
func (c *condition) unmanage() {
	c.apps = slices.DeleteFunc(c.apps, func(a *app) bool { return a.managed && (a.flags&removeWithMDM != 0 || !a.installed()) })
	for _, a := range c.apps {
		*a = app{id: a.id, store: a.store, name: a.name, version: a.version, short: a.short, size: a.size}
	}
	c.books, c.provisioning, c.recoveryLock, c.lost, c.awaiting = nil, nil, "", false, false
	c.changed = Dict{}
}

// LastLock is the DeviceLock that the device obeyed last; it goes on all the same, as if
// somebody had opened it at once.
func (d *Device) LastLock() Lock {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.condition.lock
}

// Lost reports whether the device is in Managed Lost Mode.
func (d *Device) Lost() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.condition.lost
}

// HasPasscode reports whether the device has a passcode: until ClearPasscode.
func (d *Device) HasPasscode() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.condition.passcode
}

// SetPasscode sets the passcode again, or takes it away.
func (d *Device) SetPasscode(there bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.condition.passcode = there
}

// RecoveryLock is the password that SetRecoveryLock set, empty when there is none.
func (d *Device) RecoveryLock() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.condition.recoveryLock
}

// RecoveryKey is the personal recovery key of a Mac's FileVault: what RotateFileVaultKey
// takes as Password.
func (d *Device) RecoveryKey() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.condition.recoveryKey
}

// Restarts is how often RestartDevice or ShutDownDevice was obeyed. The device is up again
// at once.
func (d *Device) Restarts() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.condition.restarts
}

// Name is what the device is called: Options.Name until Settings changes it.
func (d *Device) Name() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.condition.name
}
