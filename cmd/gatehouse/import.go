package main

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/gatehouse-mdm/gatehouse/depot"
	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/enroll/migrate"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/profile"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/bolt"
	"github.com/gatehouse-mdm/gatehouse/storage/guard"
)

// importCommand takes over what another MDM server had.
type importCommand struct {
	MicroMDM          importMicroMDMCommand `cmd:"" name:"micromdm" help:"Take over the devices, the push certificate and the profiles of a MicroMDM v1 server."`
	CA                importCACommand       `cmd:"" name:"ca" help:"Believe the certificates of another server's devices: take its authority's certificate."`
	EnrollmentProfile importProfileCommand  `cmd:"" help:"Say by what profile the devices enrolled that are handed over at /migration."`
}

const (
	migrationPath         = "/api/v1/migration"
	pushCertificatesPath  = "/api/v1/push-certificates"
	certificateType       = "application/x-pem-file"
	importMicroMDMExample = "gatehouse import micromdm /var/db/micromdm/micromdm.db"

	// What one request takes over: the server's limit is 1 MiB.
	maxImportBatch = 512 << 10 // bytes
	maxImportCount = 200       // devices

	maxNamedSkips = 1000 // devices that a report names
)

type importMicroMDMCommand struct {
	apiServer
	File      string `arg:"" type:"path" help:"MicroMDM's database, micromdm.db. MicroMDM must not run on it: stop it, or give a copy that was made while it was stopped. The file is not changed."`
	DryRun    bool   `help:"Say what would become of everything, and change nothing."`
	ServerURL string `placeholder:"URL" env:"-" help:"MicroMDM's own -server-url, to be compared with this server's."`
	JSON      bool   `name:"json" help:"Print the report as JSON."`
}

// importReport is what became of everything in a file.
type importReport struct {
	DryRun      bool              `json:"dry_run"`
	File        string            `json:"file"`
	ServerURL   string            `json:"server_url"`
	FormerURL   string            `json:"former_server_url"` // as the enrollment profile or --server-url has it; empty: unknown
	Authority   importedThing     `json:"authority"`
	Push        importedThing     `json:"push_certificate"`
	Profiles    []importedThing   `json:"profiles"`
	Devices     map[string]int    `json:"devices"` // by outcome: taken, updated, unchanged, skipped
	SkippedBy   map[string]int    `json:"skipped_by"`
	Skipped     []importedDevice  `json:"skipped"` // the first thousand
	Topics      map[string]int    `json:"topics"`  // push topics of devices that are here
	Blueprints  int               `json:"blueprints_left"`
	DEPTokens   int               `json:"apple_business_tokens_left"`
	Warnings    []string          `json:"warnings"`
	reasonByWhy map[string]string // of SkippedBy
}

// importedThing is one thing and what became of it.
type importedThing struct {
	Name    string `json:"name"`
	Outcome string `json:"outcome"` // imported, unchanged, none, failed
	Reason  string `json:"reason"`
}

type importedDevice struct {
	UDID         string `json:"udid"`
	EnrollmentID string `json:"enrollment_id"`
	SerialNumber string `json:"serial_number"`
	Code         string `json:"code"`
	Reason       string `json:"reason"`
}

// Run imports, and prints the report.
func (c *importMicroMDMCommand) Run(ctx context.Context, p *process) error {
	return wrappedIf("import micromdm", c.run(ctx, p))
}

func (c *importMicroMDMCommand) run(ctx context.Context, p *process) (err error) {
	file, err := bolt.OpenForeign(ctx, c.File)
	if err != nil {
		return explainForeign(c.File, err)
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	source, err := migrate.OpenMicroMDM(file)
	if err != nil {
		return usageError(fmt.Errorf("%s: %w", c.File, err))
	}
	var server struct {
		ServerURL string `json:"server_url"`
	}
	if err := c.call(ctx, p, apiRequest{path: migrationPath}, &server); err != nil {
		return err
	}
	r := &importReport{
		DryRun: c.DryRun, File: c.File, ServerURL: server.ServerURL, Devices: map[string]int{}, SkippedBy: map[string]int{},
		Profiles: []importedThing{}, Skipped: []importedDevice{}, Topics: map[string]int{}, Warnings: []string{}, reasonByWhy: map[string]string{},
	}
	enrollment, err := c.compareURLs(source, r)
	if err != nil {
		return err
	}
	for _, step := range []func(context.Context, *process, *migrate.MicroMDM, *importReport) error{c.importAuthority, c.importPushCertificate, c.importProfiles} {
		if err := step(ctx, p, source, r); err != nil {
			return err
		}
	}
	if err := c.importDevices(ctx, p, source, enrollment, r); err != nil {
		return err
	}
	if r.Blueprints, r.DEPTokens, err = source.LeftBehind(); err != nil {
		return err
	}
	if c.JSON {
		err = printJSON(p.stdout, r)
	} else {
		err = r.print(p.stdout)
	}
	if err == nil && len(r.Warnings) > 0 {
		err = &exitError{exitUsage, fmt.Errorf("%s: see the report", count(len(r.Warnings), "warning"))}
	}
	return err
}

func explainForeign(path string, err error) error {
	switch {
	case errors.Is(err, storage.ErrInUse):
		return fmt.Errorf("stop MicroMDM first, or import a copy that was made while it was stopped: %w", err)
	case errors.Is(err, storage.ErrCorrupt):
		return usageError(fmt.Errorf("%s is no whole database. A copy must be made while MicroMDM is stopped: %w", path, err))
	case errors.Is(err, os.ErrNotExist):
		return &exitError{exitNotFound, fmt.Errorf("%w; as in: %s", err, importMicroMDMExample)}
	}
	return err
}

// compareURLs finds what the devices' profiles say, and warns where they lead elsewhere.
func (c *importMicroMDMCommand) compareURLs(source *migrate.MicroMDM, r *importReport) (migrate.Enrollment, error) {
	ours, err := url.Parse(r.ServerURL)
	if err != nil {
		return migrate.Enrollment{}, err
	}
	e, own, err := source.Enrollment()
	switch {
	case errors.Is(err, profile.ErrNotProfile) || err != nil && own:
		r.warn("MicroMDM's database has an enrollment profile of your own that can't be read (%v): devices are taken over, but not renewed until a newer import can tell what it says.", err)
		return migrate.Enrollment{}, nil
	case err != nil:
		return migrate.Enrollment{}, err
	}
	switch {
	case own:
		r.FormerURL = strings.TrimSuffix(e.ServerURL, enroll.PathConnect)
		if why := e.Differs(ours, enroll.PathConnect, enroll.PathCheckIn); why != "" {
			r.warn("%s: devices will not find this server. Run it with the old URL: --server-url %s.", why, r.FormerURL)
		}
	case c.ServerURL != "":
		r.FormerURL = strings.TrimRight(c.ServerURL, "/")
		if r.FormerURL != strings.TrimRight(r.ServerURL, "/") {
			r.warn("MicroMDM's URL was %s and this server's is %s: devices will not find it. Run it with --server-url %s.", r.FormerURL, r.ServerURL, r.FormerURL)
		}
	}
	return e, nil
}

func (r *importReport) warn(format string, args ...any) {
	r.Warnings = append(r.Warnings, fmt.Sprintf(format, args...))
}

func (c *importMicroMDMCommand) importAuthority(ctx context.Context, p *process, source *migrate.MicroMDM, r *importReport) error {
	data, err := source.Authority()
	switch {
	case err != nil:
		r.Authority = importedThing{"", "failed", err.Error()}
		r.warn("The certificate of MicroMDM's SCEP authority can't be read: give that which issued the devices' identities with: gatehouse import ca FILE.")
		return nil
	case data == nil:
		r.Authority = importedThing{"", "none", "MicroMDM has issued no certificates itself"}
		r.warn("There is no SCEP authority in the file, so another server issued the devices' identities: give its certificate with: gatehouse import ca FILE. No device is known before that.")
		return nil
	}
	block, _ := pem.Decode(data)
	cert, err := guard.ParseCertificate(block.Bytes)
	if err != nil {
		return err
	}
	var all struct {
		Authorities []struct{ ID string } `json:"authorities"`
	}
	if err := c.call(ctx, p, apiRequest{path: migrationPath}, &all); err != nil {
		return err
	}
	r.Authority = importedThing{depot.SubjectOf(cert), "imported", ""}
	for _, a := range all.Authorities {
		if a.ID == string(depot.FingerprintOf(cert)) {
			r.Authority.Outcome = "unchanged"
			return nil
		}
	}
	if c.DryRun {
		return nil
	}
	return c.call(ctx, p, apiRequest{method: http.MethodPost, path: migrationPath + "/authorities", body: data, contentType: certificateType}, nil)
}

// importPushCertificate keeps the push certificate, unless this server has a newer one of its
// topic.
func (c *importMicroMDMCommand) importPushCertificate(ctx context.Context, p *process, source *migrate.MicroMDM, r *importReport) error {
	data, err := source.PushCertificate()
	if err != nil || data == nil {
		r.Push = importedThing{"", "none", "there is none in the file"}
		if err != nil {
			r.Push.Reason = err.Error()
		}
		r.warn("There is no push certificate in the file: upload that by which the devices enrolled, or they can't be woken.")
		return nil
	}
	var cert struct {
		Topic    string    `json:"topic"`
		SHA256   string    `json:"sha256"`
		NotAfter time.Time `json:"not_after"`
	}
	block, _ := pem.Decode(data)
	if block == nil {
		r.Push = importedThing{"", "failed", "it is not PEM"}
		r.warn("The push certificate in the file can't be read: upload it again from where it was made.")
		return nil
	}
	if parsed, err := guard.ParseCertificate(block.Bytes); err == nil {
		cert.SHA256, cert.NotAfter, r.Push.Name = string(depot.FingerprintOf(parsed)), parsed.NotAfter, depot.SubjectOf(parsed)
	}
	type known struct {
		Topic    string    `json:"topic"`
		SHA256   string    `json:"sha256"`
		NotAfter time.Time `json:"not_after"`
	}
	same, newer := false, ""
	err = eachItem(ctx, p, c.apiServer, pushCertificatesPath, nil, func(k known) error {
		same = same || k.SHA256 == cert.SHA256
		if k.Topic != "" && strings.Contains(r.Push.Name, k.Topic) && k.NotAfter.After(cert.NotAfter) {
			newer = k.Topic
		}
		return nil
	})
	switch {
	case err != nil:
		return err
	case same:
		r.Push.Outcome = "unchanged"
		return nil
	case newer != "":
		r.Push.Name, r.Push.Outcome, r.Push.Reason = newer, "unchanged", "this server has a newer certificate of the topic"
		return nil
	case c.DryRun:
		r.Push.Outcome = "imported"
		return nil
	}
	err = c.call(ctx, p, apiRequest{method: http.MethodPut, path: pushCertificatesPath, body: data, contentType: certificateType}, &cert)
	if refused := refusedOnly(err); refused != nil {
		r.Push.Outcome, r.Push.Reason = "failed", refused.Error()
		r.warn("The push certificate was not taken: %v. Until its topic has a valid one, devices can't be woken.", refused)
		return nil
	}
	if err == nil {
		r.Push = importedThing{cert.Topic, "imported", ""}
	}
	return err
}

// refusedOnly returns err if the server has answered and said no to what it was given, else nil.
func refusedOnly(err error) error {
	if exit, ok := errors.AsType[*exitError](err); ok && exit.code == exitUsage {
		return exit.err
	}
	return nil
}

// importProfiles keeps the organisation's profiles as they are: MicroMDM knows no variables.
func (c *importMicroMDMCommand) importProfiles(ctx context.Context, p *process, source *migrate.MicroMDM, r *importReport) error {
	have := map[string]bool{}
	if c.DryRun {
		err := eachItem(ctx, p, c.apiServer, profilesPath, nil, func(item listedProfile) error {
			have[item.Identifier] = true
			return nil
		})
		if err != nil {
			return err
		}
	}
	for one, err := range source.Profiles() {
		if err != nil {
			return err
		}
		thing := importedThing{one.Identifier, "imported", ""}
		switch {
		case len(one.Data) == 0:
			thing.Outcome, thing.Reason = "failed", "its record is not whole"
		case c.DryRun:
			if _, err := profile.Parse(one.Data); err != nil {
				thing.Outcome, thing.Reason = "failed", err.Error()
			} else if have[one.Identifier] {
				thing.Reason = "a newer version, unless it is the same"
			}
		default:
			var kept struct {
				New bool `json:"new"`
			}
			query := url.Values{"literal": {"true"}, "note": {"imported from MicroMDM"}}
			err := c.call(ctx, p, apiRequest{method: http.MethodPost, path: profilesPath, query: query, body: one.Data, contentType: profile.ContentType}, &kept)
			if refused := refusedOnly(err); refused != nil {
				thing.Outcome, thing.Reason = "failed", refused.Error()
			} else if err != nil {
				return err
			} else if !kept.New {
				thing.Outcome = "unchanged"
			}
		}
		if thing.Outcome == "failed" {
			r.warn("Profile %s: %s.", thing.Name, thing.Reason)
		}
		r.Profiles = append(r.Profiles, thing)
	}
	return nil
}

// takeOverBatch is devices that wait to be sent in one request.
type takeOverBatch struct {
	devices []json.RawMessage
	serials map[string]string // by UDID
	size    int
}

// importDevices takes the devices over, some at a time: however many there are, only those are
// in memory.
func (c *importMicroMDMCommand) importDevices(ctx context.Context, p *process, source *migrate.MicroMDM, e migrate.Enrollment, r *importReport) error {
	var batch takeOverBatch
	progress := newImportProgress(p, r)
	flush := func() error {
		if len(batch.devices) == 0 {
			return nil
		}
		err := c.sendBatch(ctx, p, e, batch, r)
		batch = takeOverBatch{}
		progress.report()
		return err
	}
	for d, err := range source.Devices() {
		if err != nil {
			progress.end()
			return err
		}
		if d.Err != nil {
			r.skip(importedDevice{d.ID.UDID, d.ID.EnrollmentID, d.Err.Serial, d.Err.Code, d.Err.Reason})
			continue
		}
		encoded, err := json.Marshal(formerDevice(d.Former))
		if err != nil {
			return err
		}
		if batch.size+len(encoded) > maxImportBatch || len(batch.devices) == maxImportCount {
			if err := flush(); err != nil {
				progress.end()
				return err
			}
		}
		if batch.serials == nil {
			batch.serials = map[string]string{}
		}
		batch.devices, batch.size = append(batch.devices, encoded), batch.size+len(encoded)
		batch.serials[d.ID.UDID] = d.Facts.SerialNumber
		if !d.Blocked {
			r.Topics[d.Push.Topic]++
		}
	}
	err := flush()
	progress.end()
	return err
}

func (c *importMicroMDMCommand) sendBatch(ctx context.Context, p *process, e migrate.Enrollment, b takeOverBatch, r *importReport) error {
	var out struct {
		Items []struct {
			importedDevice
			Outcome string `json:"outcome"`
		} `json:"items"`
	}
	err := c.call(ctx, p, apiRequest{method: http.MethodPost, path: migrationPath + "/devices", body: map[string]any{
		"source": "micromdm", "dry_run": c.DryRun, "devices": b.devices,
		"profile": map[string]any{"identifier": e.Identifier, "access_rights": e.AccessRights, "per_user_connections": !e.DeviceOnly},
	}}, &out)
	if err != nil {
		return err
	}
	for _, one := range out.Items {
		if one.Outcome == string(enroll.TakeOverSkips) {
			one.SerialNumber = b.serials[one.UDID]
			r.skip(one.importedDevice)
			continue
		}
		r.Devices[one.Outcome]++
	}
	return nil
}

// silentSkips are devices that nobody expects here.
var silentSkips = []string{"never_enrolled", "not_enrolled", "deleted"}

func (r *importReport) skip(d importedDevice) {
	r.Devices[string(enroll.TakeOverSkips)]++
	if r.SkippedBy[d.Code]++; r.SkippedBy[d.Code] == 1 {
		r.reasonByWhy[d.Code] = d.Reason
		if !slices.Contains(silentSkips, d.Code) && d.Code != "enrolled" && d.Code != "unenrolled" {
			r.warn("Devices are left out: %s.", d.Reason)
		}
	}
	if len(r.Skipped) < maxNamedSkips && !slices.Contains(silentSkips, d.Code) {
		r.Skipped = append(r.Skipped, d)
	}
}

// formerDevice is a device as the API takes it.
func formerDevice(f enroll.Former) map[string]any {
	push := func(p mdm.Push) map[string]any {
		return map[string]any{"topic": p.Topic, "token": p.Token, "magic": p.Magic}
	}
	out := map[string]any{
		"udid": f.ID.UDID, "enrollment_id": f.ID.EnrollmentID, "serial_number": f.Facts.SerialNumber, "device_name": f.Facts.DeviceName,
		"model": f.Facts.Model, "model_name": f.Facts.ModelName, "product_name": f.Facts.ProductName, "os_version": f.Facts.OSVersion,
		"build_version": f.Facts.BuildVersion, "imei": f.Facts.IMEI, "meid": f.Facts.MEID, "push": push(f.Push),
		"unlock_token": f.UnlockToken, "bootstrap_token": f.BootstrapToken, "certificate_sha256": string(f.Certificate), "blocked": f.Blocked,
	}
	if !f.LastSeen.IsZero() {
		out["last_seen_at"] = f.LastSeen
	}
	users := []map[string]any{}
	for _, u := range f.Users {
		users = append(users, map[string]any{"user_id": u.UserID, "short_name": u.ShortName, "long_name": u.LongName, "push": push(u.Push)})
	}
	out["users"] = users
	return out
}

// importProgress shows on a terminal how many devices there were.
type importProgress struct {
	out    io.Writer // nil: nobody looks
	report func()
}

func newImportProgress(p *process, r *importReport) importProgress {
	if !isTerminal(p.stderr) {
		return importProgress{report: func() {}}
	}
	return importProgress{p.stderr, func() {
		n := 0
		for _, of := range r.Devices {
			n += of
		}
		fmt.Fprintf(p.stderr, "\r%d devices", n)
	}}
}

func (i importProgress) end() {
	if i.out != nil {
		fmt.Fprintln(i.out)
	}
}

func (r *importReport) print(w io.Writer) error {
	verb := ""
	if r.DryRun {
		verb = " (nothing was changed: this is what would happen)"
	}
	fmt.Fprintf(w, "%s%s\n\n", r.File, verb)
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	thing := func(what string, t importedThing) {
		text := t.Outcome
		if t.Name != "" {
			text += ": " + shown(t.Name)
		}
		if t.Reason != "" {
			text += " (" + shown(t.Reason) + ")"
		}
		fmt.Fprintf(table, "%s\t%s\n", what, text)
	}
	fmt.Fprintf(table, "This server\t%s\n", r.ServerURL)
	former := "not known: it must have been the same"
	if r.FormerURL != "" {
		former = shown(r.FormerURL)
	}
	fmt.Fprintf(table, "MicroMDM was\t%s\n", former)
	thing("Authority", r.Authority)
	thing("Push certificate", r.Push)
	for _, topic := range slices.Sorted(maps.Keys(r.Topics)) {
		fmt.Fprintf(table, "Push topic\t%s, of %s\n", shown(topic), count(r.Topics[topic], "device"))
	}
	for _, p := range r.Profiles {
		thing("Profile", p)
	}
	for _, o := range []struct{ outcome, says string }{
		{"taken", "taken over"}, {"updated", "taken over before, and updated"}, {"unchanged", "have come already, and were left as they are"},
	} {
		if n := r.Devices[o.outcome]; n > 0 {
			fmt.Fprintf(table, "Devices\t%d %s\n", n, o.says)
		}
	}
	for _, code := range slices.Sorted(maps.Keys(r.SkippedBy)) {
		fmt.Fprintf(table, "Not taken\t%d: %s (%s)\n", r.SkippedBy[code], r.reasonByWhy[code], code)
	}
	if r.Blueprints > 0 {
		fmt.Fprintf(table, "Left behind\t%s\n", count(r.Blueprints, "blueprint"))
	}
	if r.DEPTokens > 0 {
		fmt.Fprintf(table, "Left behind\t%s of Apple Business or School Manager\n", count(r.DEPTokens, "token"))
	}
	if err := table.Flush(); err != nil {
		return err
	}
	for i, d := range r.Skipped {
		if i == 0 {
			fmt.Fprintln(w, "\nDevices that were not taken, and may be missed:")
		}
		if i == 100 {
			fmt.Fprintln(w, "  and more: --json names a thousand")
			break
		}
		fmt.Fprintf(w, "  %s: %s\n", shown(strings.TrimSpace(d.UDID+d.EnrollmentID+" "+d.SerialNumber)), d.Reason)
	}
	for _, text := range r.Warnings {
		fmt.Fprintf(w, "\nWarning: %s\n", shown(text))
	}
	if !r.DryRun && r.Devices["taken"]+r.Devices["updated"] > 0 {
		_, err := fmt.Fprintln(w, "\nDevices come by themselves once the old server's name leads here, and are then given identities of this server. gatehouse device list shows when each was last heard of.")
		return err
	}
	return nil
}

type importCACommand struct {
	apiServer
	File string        `arg:"" help:"The certificate in PEM or DER, or - for standard input. Its key is not needed."`
	For  time.Duration `default:"2160h" help:"For how long its certificates may claim devices of which the other server told no certificate."`
	JSON bool          `name:"json" help:"Print the server's answer."`
}

// Run uploads the certificate.
func (c *importCACommand) Run(ctx context.Context, p *process) error {
	return wrappedIf("import ca", c.run(ctx, p))
}

func (c *importCACommand) run(ctx context.Context, p *process) error {
	data, err := readProfile(p, c.File)
	if err != nil {
		return err
	}
	var answer json.RawMessage
	r := apiRequest{method: http.MethodPost, path: migrationPath + "/authorities", query: url.Values{"claims_for": {c.For.String()}}, body: data, contentType: certificateType}
	if err := c.call(ctx, p, r, &answer); err != nil {
		return err
	}
	if c.JSON {
		return printJSON(p.stdout, answer)
	}
	var a struct {
		Subject     string
		ClaimsUntil time.Time `json:"claims_until"`
	}
	if err := json.Unmarshal(answer, &a); err != nil {
		return fmt.Errorf("the answer of the server: %w", err)
	}
	_, err = fmt.Fprintf(p.stdout, "Devices with a certificate of %s are believed. One of which the other server told no certificate can be claimed until %s.\n",
		shown(a.Subject), a.ClaimsUntil.Local().Format("2006-01-02 15:04"))
	return err
}

type importProfileCommand struct {
	apiServer
	File string `arg:"" help:"The other server's enrollment profile, signed or not, or - for standard input."`
}

// Run tells the server what the profile says.
func (c *importProfileCommand) Run(ctx context.Context, p *process) error {
	return wrappedIf("import enrollment-profile", c.run(ctx, p))
}

func (c *importProfileCommand) run(ctx context.Context, p *process) error {
	data, err := readProfile(p, c.File)
	if err != nil {
		return err
	}
	e, err := migrate.ReadEnrollment(data)
	if err != nil {
		return usageError(err)
	}
	var server struct {
		ServerURL string `json:"server_url"`
	}
	body := map[string]any{"identifier": e.Identifier, "access_rights": e.AccessRights, "per_user_connections": !e.DeviceOnly}
	if err := c.call(ctx, p, apiRequest{method: http.MethodPut, path: migrationPath + "/profile", body: body}, &server); err != nil {
		return err
	}
	ours, err := url.Parse(server.ServerURL)
	if err != nil {
		return err
	}
	fmt.Fprintf(p.stdout, "Devices that are handed over from now on keep the enrollment profile %s.\n", shown(e.Identifier))
	if why := e.Differs(ours, enroll.PathConnect, enroll.PathCheckIn); why != "" {
		return &exitError{exitUsage, fmt.Errorf("%s: devices will not find this server, and can't be renewed", why)}
	}
	return nil
}
