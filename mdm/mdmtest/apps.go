package mdmtest

import (
	"fmt"
	"path"
	"slices"
	"strings"
)

// removeWithMDM is the bit of ManagementFlags that lets an app go with the enrollment.
const removeWithMDM = 1

// app is an app on the device. What the user brought is not managed, and its state is empty.
type app struct {
	id, name, version, short string
	store                    int64 // of the App Store; 0: none
	size                     int

	managed            bool
	state              string // Status of ManagedApplicationList
	flags              int64
	config, attributes Dict
}

func (a *app) installed() bool { return !a.managed || a.state == "Managed" }

// appSteps are the states that an app leaves by itself, one each session, and what comes
// next when the user consents.
var appSteps = map[string]string{
	"Queued": "Installing", "Installing": "Managed", "Prompting": "Installing",
	"PromptingForManagement": "Managed", "Updating": "Managed",
}

// refusedSteps are what comes next when the user declines.
var refusedSteps = map[string]string{"Prompting": "UserRejected", "PromptingForManagement": "ManagementRejected"}

// goOnWithApps lets each installation come one step further.
func (d *Device) goOnWithApps() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, a := range d.condition.apps {
		next := appSteps[a.state]
		if no := refusedSteps[a.state]; d.opts.Declines && no != "" {
			next = no
		}
		if next != "" {
			a.state = next
		}
	}
}

// app finds an app. The caller holds mu.
func (c *condition) app(id string) *app {
	for _, a := range c.apps {
		if a.id == id {
			return a
		}
	}
	return nil
}

// managedApps are the managed apps with one of the identifiers, or all when there are none.
// The caller holds mu.
func (c *condition) managedApps(identifiers []string) []*app {
	var list []*app
	for _, a := range c.apps {
		if a.managed && (len(identifiers) == 0 || slices.Contains(identifiers, a.id)) {
			list = append(list, a)
		}
	}
	return list
}

func notManaged(id string) Result {
	return failed(12038, "MCMDMErrorDomain", fmt.Sprintf("The app “%s” is not managed.", id))
}

// installApplication begins an installation. An app of the App Store has an identifier of
// our own making, one of a manifest is called as its file: nothing is downloaded.
func (d *Device) installApplication(f *fields) Result {
	store, id, manifest := f.int("iTunesStoreID", 0), f.string("Identifier"), f.string("ManifestURL")
	sources := 0
	for _, key := range []string{"iTunesStoreID", "Identifier", "ManifestURL"} {
		if f.dict[key] != nil {
			sources++
		}
	}
	config, attributes := f.dictionary("Configuration"), f.dictionary("Attributes")
	flags, take := f.int("ManagementFlags", 0), f.string("ChangeManagementState") == "Managed"
	managed := f.boolean("InstallAsManaged", d.opts.Model != Mac)
	switch {
	case f.err != nil:
		return Result{}
	case sources != 1:
		f.err = fmt.Errorf("%d of iTunesStoreID, Identifier and ManifestURL, want one", sources)
		return Result{}
	case f.dict["iTunesStoreID"] != nil && store <= 0:
		return refusedApp(12023, "CouldNotVerifyAppID", "The App Store ID %d does not exist.", store)
	case manifest != "" && !strings.HasPrefix(manifest, "https://"):
		return refusedApp(12034, "Other", "The URL “%s” does not begin with https.", manifest)
	case store > 0:
		id = fmt.Sprintf("com.example.app%d", store)
	case manifest != "":
		id = strings.TrimSuffix(path.Base(manifest), path.Ext(manifest))
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	c := &d.condition
	a := c.app(id)
	asks := d.opts.Model != Mac && !d.opts.Supervised
	state := "Installing"
	switch {
	case a != nil && !a.managed && managed && (!take || d.byod.Load()): // a personal app is not taken over
		return refusedApp(12025, "AppAlreadyInstalled", "The app “%s” is already installed.", id)
	case a != nil && !a.managed && take:
		state = "Managed"
		if asks {
			state = "PromptingForManagement"
		}
	case a != nil && a.installed():
		state = "Updating"
	case asks:
		state = "Prompting"
	}
	if a == nil {
		a = &app{id: id, store: store, name: id[strings.LastIndexByte(id, '.')+1:], version: "100", short: "1.0", size: 31000000}
		c.apps = append(c.apps, a)
	}
	if !managed && !a.managed { // a Mac's app that is nobody's business afterwards
		return done(Dict{"Identifier": id, "State": "Installing"})
	}
	a.managed, a.state, a.flags = true, state, flags
	if config != nil {
		a.config = config
	}
	if attributes != nil {
		a.attributes = attributes
	}
	return done(Dict{"Identifier": id, "State": state})
}

func refusedApp(code int, reason, format string, args ...any) Result {
	r := failed(code, "MCMDMErrorDomain", fmt.Sprintf(format, args...))
	r.Keys["RejectionReason"] = reason
	return r
}

// installEnterpriseApplication takes a Mac's package, by its manifest or where that is.
func (d *Device) installEnterpriseApplication(f *fields) Result {
	manifest, url := f.dictionary("Manifest"), f.string("ManifestURL")
	if f.err == nil && (manifest == nil) == (url == "") {
		f.err = fmt.Errorf("want one of Manifest and ManifestURL")
	}
	if f.err != nil {
		return Result{}
	}
	id := strings.TrimSuffix(path.Base(url), path.Ext(url))
	if manifest != nil {
		items := fields{dict: manifest}
		for _, item := range items.dicts("items") {
			of := fields{dict: item}
			metadata := fields{dict: of.dictionary("metadata")}
			id = metadata.string("bundle-identifier")
		}
		if items.err != nil || id == "." || id == "" {
			return failed(12033, "MCMDMErrorDomain", "The manifest names no package.")
		}
	} else if !strings.HasPrefix(url, "https://") {
		return failed(12034, "MCMDMErrorDomain", fmt.Sprintf("The URL “%s” does not begin with https.", url))
	}
	managed := f.bool("InstallAsManaged")
	d.mu.Lock()
	defer d.mu.Unlock()
	a := d.condition.app(id)
	if a == nil {
		a = &app{id: id, name: id, version: "1", short: "1.0", size: 12000000}
		d.condition.apps = append(d.condition.apps, a)
	}
	if managed || a.managed {
		a.managed, a.state = true, "Installing"
	}
	return done(nil)
}

func (d *Device) removeApplication(f *fields) Result {
	id := f.string("Identifier")
	d.mu.Lock()
	defer d.mu.Unlock()
	a := d.condition.app(id)
	switch {
	case a == nil || !a.managed:
		return notManaged(id)
	case a.state == "Installing" || a.state == "Updating":
		return failed(12036, "MCMDMErrorDomain", fmt.Sprintf("The app “%s” can't be removed while it is being installed.", id))
	}
	d.condition.apps = slices.DeleteFunc(d.condition.apps, func(b *app) bool { return a == b })
	return done(nil)
}

// applyRedemptionCode refuses: no app of this device waits for one.
func (d *Device) applyRedemptionCode(f *fields) Result {
	id := f.string("Identifier")
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.condition.managedApps([]string{id})) == 0 {
		return notManaged(id)
	}
	return failed(12028, "MCMDMErrorDomain", fmt.Sprintf("The app “%s” does not wait for a redemption code.", id))
}

// managedApplicationList is Status and more of each managed app.
func (d *Device) managedApplicationList(f *fields) Result {
	identifiers := f.strings("Identifiers")
	d.mu.Lock()
	defer d.mu.Unlock()
	list := Dict{}
	for _, a := range d.condition.managedApps(identifiers) {
		status := Dict{
			"Status": a.state, "ManagementFlags": a.flags, "HasConfiguration": a.config != nil, "HasFeedback": false,
			"ExternalVersionIdentifier": 800000000 + a.store,
		}
		if d.opts.Model != Mac {
			status["IsValidated"] = true
		}
		list[a.id] = status
	}
	return done(Dict{"ManagedApplicationList": list})
}

// ofManagedApps answers with one dictionary for each managed app that was asked for.
func (d *Device) ofManagedApps(f *fields, list, key string, value func(*app) Dict) Result {
	identifiers := f.strings("Identifiers")
	d.mu.Lock()
	defer d.mu.Unlock()
	answers := []any{}
	for _, a := range d.condition.managedApps(identifiers) {
		if !slices.Contains(identifiers, a.id) {
			continue // an empty list asks for nothing here
		}
		answer := Dict{"Identifier": a.id}
		if v := value(a); v != nil {
			answer[key] = v
		}
		answers = append(answers, answer)
	}
	return done(Dict{list: answers})
}

// installedApplicationList is what a phone fresh from the shop might hold, and what came
// since. A User Enrollment shows managed apps only.
func (d *Device) installedApplicationList(f *fields) Result {
	identifiers, items := f.strings("Identifiers"), f.strings("Items")
	managedOnly := f.bool("ManagedAppsOnly") || d.byod.Load()
	d.mu.Lock()
	defer d.mu.Unlock()
	list := []any{}
	for _, a := range d.condition.apps {
		installing := a.state == "Installing" || a.state == "Updating"
		if managedOnly && !a.managed || !a.installed() && !installing || len(identifiers) > 0 && !slices.Contains(identifiers, a.id) {
			continue
		}
		entry := Dict{
			"Identifier": a.id, "Name": a.name, "Version": a.version, "ShortVersion": a.short, "BundleSize": a.size,
			"Installing": installing, "HasUpdateAvailable": false,
		}
		switch d.opts.Model {
		case Mac:
			entry["Path"] = "/Applications/" + a.name + ".app"
		default:
			entry["DynamicSize"], entry["IsValidated"], entry["AdHocCodeSigned"], entry["BetaApp"] = 0, true, false, false
			entry["AppStoreVendable"], entry["DeviceBasedVPP"] = true, a.managed && a.store > 0
			for key := range entry {
				if len(items) > 0 && !slices.Contains(items, key) {
					delete(entry, key)
				}
			}
		}
		list = append(list, entry)
	}
	return done(Dict{"InstalledApplicationList": list})
}

// AppState is the Status of a managed app, empty when no such app is managed.
func (d *Device) AppState(identifier string) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	if a := d.condition.app(identifier); a != nil {
		return a.state
	}
	return ""
}

// RemoveAppByHand deletes an app as the user does, and reports whether it was there. One
// that is managed stays known to the device as ManagedButUninstalled.
func (d *Device) RemoveAppByHand(identifier string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	a := d.condition.app(identifier)
	if a == nil || !a.installed() {
		return false
	}
	if a.managed {
		a.state = "ManagedButUninstalled"
	} else {
		d.condition.apps = slices.DeleteFunc(d.condition.apps, func(b *app) bool { return a == b })
	}
	return true
}

// InstallAppByHand installs an app as the user does.
func (d *Device) InstallAppByHand(identifier string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.condition.app(identifier) == nil {
		d.condition.apps = append(d.condition.apps, &app{id: identifier, name: identifier, version: "1", short: "1.0", size: 20000000})
	}
}

// installMedia takes a book, of the Book Store or by its URL.
func (d *Device) installMedia(f *fields) Result {
	store, url, id := f.int("iTunesStoreID", 0), f.string("MediaURL"), f.string("PersistentID")
	book := Dict{"State": "Installed"}
	for _, key := range []string{"Kind", "Version", "Author", "Title"} {
		if v := f.string(key); v != "" {
			book[key] = v
		}
	}
	if f.err == nil && (store == 0) == (url == "") {
		f.err = fmt.Errorf("want one of iTunesStoreID and MediaURL")
	} else if f.err == nil && url != "" && id == "" {
		f.err = fmt.Errorf("PersistentID is missing")
	}
	if f.err != nil {
		return Result{}
	}
	reply := Dict{"MediaType": "Book", "State": "Installing"}
	if url != "" {
		book["PersistentID"], reply["PersistentID"], reply["MediaURL"] = id, id, url
	} else {
		book["iTunesStoreID"], reply["iTunesStoreID"] = store, store
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.condition.books = slices.DeleteFunc(d.condition.books, sameBook(book))
	d.condition.books = append(d.condition.books, book)
	return done(reply)
}

func sameBook(book Dict) func(Dict) bool {
	return func(b Dict) bool {
		return b["PersistentID"] == book["PersistentID"] && fmt.Sprint(b["iTunesStoreID"]) == fmt.Sprint(book["iTunesStoreID"])
	}
}

func (d *Device) removeMedia(f *fields) Result {
	book := Dict{}
	if id := f.string("PersistentID"); id != "" {
		book["PersistentID"] = id
	}
	if store := f.string("iTunesStoreID"); store != "" { // a string here, an integer there
		book["iTunesStoreID"] = store
	}
	if f.err == nil && len(book) != 1 {
		f.err = fmt.Errorf("want one of iTunesStoreID and PersistentID")
	}
	if f.err != nil {
		return Result{}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	left := slices.DeleteFunc(slices.Clone(d.condition.books), sameBook(book))
	if len(left) == len(d.condition.books) {
		return failed(12046, "MCMDMErrorDomain", "There is no such book on the device.")
	}
	d.condition.books = left
	return done(nil)
}

// installProvisioningProfile takes one that is signed, as Apple's are.
func (d *Device) installProvisioningProfile(f *fields) Result {
	dict, _, err := openProfile(f.data("ProvisioningProfile"))
	inner := fields{dict: dict}
	uuid, name := inner.required("UUID"), inner.string("Name")
	if err != nil || inner.err != nil {
		return failed(4000, "MCInstallationErrorDomain", "The provisioning profile is not valid.")
	}
	entry := Dict{"UUID": uuid, "Name": name}
	if v, ok := dict["ExpirationDate"]; ok {
		entry["ExpiryDate"] = v
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.condition.provisioning = append(slices.DeleteFunc(d.condition.provisioning, func(p Dict) bool { return p["UUID"] == uuid }), entry)
	return done(nil)
}

func (d *Device) removeProvisioningProfile(f *fields) Result {
	uuid := f.string("UUID")
	d.mu.Lock()
	defer d.mu.Unlock()
	left := slices.DeleteFunc(slices.Clone(d.condition.provisioning), func(p Dict) bool { return p["UUID"] == uuid })
	if len(left) == len(d.condition.provisioning) {
		return failed(12014, "MCMDMErrorDomain", fmt.Sprintf("The provisioning profile “%s” is not managed.", uuid))
	}
	d.condition.provisioning = left
	return done(nil)
}

// lists turns dictionaries into what a property list holds.
func lists(dicts []Dict) []any {
	list := []any{}
	for _, d := range dicts {
		list = append(list, d)
	}
	return list
}
