package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/gatehouse-mdm/gatehouse/mdm/profile"
)

// profileCommand is about configuration profiles, as the API has them.
type profileCommand struct {
	List     profileListCommand     `cmd:"" help:"List the profiles of the library."`
	Get      profileGetCommand      `cmd:"" help:"Print one profile, with its findings and how many devices have it."`
	Add      profileAddCommand      `cmd:"" help:"Keep a profile, or the next version of one."`
	Lint     profileLintCommand     `cmd:"" help:"Say what is wrong with a profile. It needs no server."`
	Download profileDownloadCommand `cmd:"" help:"Print a version of a profile."`
	Diff     profileDiffCommand     `cmd:"" help:"Say what is different between two versions."`
	Restore  profileRestoreCommand  `cmd:"" help:"Make an older version the latest again."`
	Check    profileCheckCommand    `cmd:"" help:"Say what devices would make of a profile. Nothing is sent."`
	Send     profileSendCommand     `cmd:"" help:"Send a profile to devices."`
	Remove   profileRemoveCommand   `cmd:"" help:"Take a profile away from devices."`
	Devices  profileDevicesCommand  `cmd:"" help:"List how a profile stands on devices."`
	Delete   profileDeleteCommand   `cmd:"" help:"Forget a profile that is on no device."`
	Starter  profileStarterCommand  `cmd:"" help:"Make profiles of the kinds that many want."`
}

const profilesPath = "/api/v1/profiles"

// profileArgument is the profile that a command is about.
type profileArgument struct {
	ID string `arg:"" placeholder:"PROFILE" help:"Id or PayloadIdentifier of the profile."`
}

// path returns where the API has the profile.
func (a profileArgument) path(ctx context.Context, p *process, s apiServer) (string, error) {
	if !strings.Contains(a.ID, ".") { // no id has a dot, and each good identifier has one
		return profilesPath + "/" + url.PathEscape(a.ID), nil
	}
	found := ""
	err := eachItem(ctx, p, s, profilesPath, nil, func(item listedProfile) error {
		if item.Identifier == a.ID {
			found = profilesPath + "/" + url.PathEscape(item.ID)
		}
		return nil
	})
	if err == nil && found == "" {
		err = &exitError{exitNotFound, fmt.Errorf("there is no profile %q (gatehouse profile list lists them)", a.ID)}
	}
	return found, err
}

// deviceArguments are the devices that a command is about.
type deviceArguments struct {
	Device []string `short:"d" placeholder:"ID" help:"Id of a device, as device list -o id prints it. Repeatable, or with commas in between; - reads ids from standard input, one a line."`
	Group  string   `short:"g" placeholder:"GROUP" help:"Instead of --device: the enrolled devices of this group, by its id or name."`
}

// given says whether it is clear which devices are meant.
func (a deviceArguments) given() error {
	switch {
	case len(a.Device) == 0 && a.Group == "":
		return usageError(errors.New("say which devices: --device ID or --group GROUP"))
	case len(a.Device) > 0 && a.Group != "":
		return usageError(errors.New("give one of --device and --group"))
	}
	return nil
}

// name writes into the body of a request which devices are meant.
func (a deviceArguments) name(ctx context.Context, p *process, s apiServer, body map[string]any) (err error) {
	if err := a.given(); err != nil {
		return err
	}
	if a.Group != "" {
		body["group_id"], err = findGroup(ctx, p, s, a.Group)
		return err
	}
	body["device_ids"], err = readIDs(p, a.Device)
	return err
}

// readIDs returns ids of devices, each as it was given, and for - those of standard input.
func readIDs(p *process, given []string) ([]string, error) {
	var all []string
	for _, id := range given {
		if id != "-" {
			all = append(all, id)
			continue
		}
		lines := bufio.NewScanner(p.stdin)
		for lines.Scan() {
			if id := strings.TrimSpace(lines.Text()); id != "" {
				all = append(all, id)
			}
		}
		if err := lines.Err(); err != nil {
			return nil, fmt.Errorf("read ids: %w", err)
		}
	}
	if len(all) == 0 {
		return nil, usageError(errors.New("- has read no id: try gatehouse device list -o id"))
	}
	return all, nil
}

// eachItem calls fn for each item of a list, page by page.
func eachItem[T any](ctx context.Context, p *process, s apiServer, path string, query url.Values, fn func(T) error) error {
	if query == nil {
		query = url.Values{}
	}
	query.Set("limit", "1000")
	for {
		var page struct {
			Items []T    `json:"items"`
			Next  string `json:"next_cursor"`
		}
		if err := s.call(ctx, p, apiRequest{path: path, query: query}, &page); err != nil {
			return err
		}
		for _, item := range page.Items {
			if err := fn(item); err != nil {
				return err
			}
		}
		if page.Next == "" {
			return nil
		}
		query.Set("cursor", page.Next)
	}
}

// printItems prints a whole list as JSON.
func printItems(ctx context.Context, p *process, s apiServer, path string, query url.Values) error {
	all := []json.RawMessage{}
	err := eachItem(ctx, p, s, path, query, func(item json.RawMessage) error {
		all = append(all, item)
		return nil
	})
	if err != nil {
		return err
	}
	return printJSON(p.stdout, all)
}

type listedProfile struct {
	ID         string    `json:"id"`
	Identifier string    `json:"identifier"`
	Name       string    `json:"name"`
	Version    int       `json:"version"`
	UpdatedAt  time.Time `json:"updated_at"`
}

type profileListCommand struct {
	apiServer
	Output string `short:"o" enum:"table,json,id" default:"table" placeholder:"FORMAT" help:"table, json or id (default ${default})."`
}

// Run prints the list.
func (c *profileListCommand) Run(ctx context.Context, p *process) error {
	return wrappedIf("profile list", c.print(ctx, p))
}

func (c *profileListCommand) print(ctx context.Context, p *process) error {
	if c.Output == "json" {
		return printItems(ctx, p, c.apiServer, profilesPath, nil)
	}
	table := tabwriter.NewWriter(p.stdout, 0, 0, 2, ' ', 0)
	if c.Output == "table" {
		fmt.Fprintln(table, "NAME\tIDENTIFIER\tVERSION\tCHANGED\tID")
	}
	err := eachItem(ctx, p, c.apiServer, profilesPath, nil, func(item listedProfile) error {
		if c.Output == "id" {
			_, err := fmt.Fprintln(table, item.ID)
			return err
		}
		_, err := fmt.Fprintf(table, "%s\t%s\t%d\t%s\t%s\n", shown(item.Name), shown(item.Identifier), item.Version, item.UpdatedAt.Local().Format("2006-01-02 15:04"), item.ID)
		return err
	})
	return errors.Join(err, table.Flush())
}

// wrappedIf wraps an error, if there is one.
func wrappedIf(command string, err error) error {
	if err == nil {
		return nil
	}
	return wrapped(command, err)
}

type profileGetCommand struct {
	apiServer
	profileArgument
}

// Run prints the profile as JSON.
func (c *profileGetCommand) Run(ctx context.Context, p *process) error {
	path, err := c.path(ctx, p, c.apiServer)
	if err == nil {
		var out json.RawMessage
		if err = c.call(ctx, p, apiRequest{path: path}, &out); err == nil {
			err = printJSON(p.stdout, out)
		}
	}
	return wrappedIf("profile get", err)
}

// finding is one thing about a profile, as the API tells it.
type finding struct {
	Code        string `json:"code"`
	Severity    string `json:"severity"`
	PayloadType string `json:"payload_type"`
	Path        string `json:"path"`
	Reason      string `json:"reason"`
}

func (f finding) String() string {
	return fmt.Sprintf("%s: %s (%s)", f.Severity, f.Reason, strings.Join(slices.DeleteFunc([]string{f.PayloadType, f.Path, f.Code}, func(s string) bool { return s == "" }), ", "))
}

// readProfile reads a file, or standard input for "-".
func readProfile(p *process, file string) (data []byte, err error) {
	in := p.stdin
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return nil, usageError(err)
		}
		defer f.Close()
		in = f
	}
	data, err = io.ReadAll(io.LimitReader(in, profile.MaxSize+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("read %s: %w", file, err)
	case len(data) > profile.MaxSize:
		return nil, usageError(fmt.Errorf("%s has more than %d MiB, which is too large for a profile", file, profile.MaxSize>>20))
	}
	return data, nil
}

// keptProfile is what the server says of a profile that it was given.
type keptProfile struct {
	ID         string    `json:"id"`
	Identifier string    `json:"identifier"`
	Version    int       `json:"version"`
	New        bool      `json:"new"`
	Findings   []finding `json:"findings"`
}

// print says what became of it: where it is on standard output, what is wrong beside.
func (k keptProfile) print(p *process) error {
	became := "is kept as"
	if !k.New {
		became = "is already"
	}
	for _, f := range k.Findings {
		fmt.Fprintln(p.stderr, shown(f.String()))
	}
	_, err := fmt.Fprintf(p.stdout, "%s %s version %d of %s\n", k.Identifier, became, k.Version, k.ID)
	return err
}

type profileAddCommand struct {
	apiServer
	File    string `arg:"" help:"A .mobileconfig, signed or not, or - for standard input."`
	Note    string `help:"What to say of this version."`
	Literal bool   `help:"Dollar signs in it are no variables."`
	JSON    bool   `name:"json" help:"Print the server's answer."`
}

// Run uploads the file.
func (c *profileAddCommand) Run(ctx context.Context, p *process) error {
	return wrappedIf("profile add", c.add(ctx, p))
}

func (c *profileAddCommand) add(ctx context.Context, p *process) error {
	data, err := readProfile(p, c.File)
	if err != nil {
		return err
	}
	query := url.Values{}
	if c.Note != "" {
		query.Set("note", c.Note)
	}
	if c.Literal {
		query.Set("literal", "true")
	}
	return printKept(ctx, p, c.apiServer, c.JSON, apiRequest{method: http.MethodPost, path: profilesPath, query: query, body: data, contentType: profile.ContentType})
}

// printKept sends a request that keeps a profile, and says what became of it.
func printKept(ctx context.Context, p *process, s apiServer, asJSON bool, r apiRequest) error {
	var answer json.RawMessage
	if err := s.call(ctx, p, r, &answer); err != nil {
		return err
	}
	if asJSON {
		return printJSON(p.stdout, answer)
	}
	var kept keptProfile
	if err := json.Unmarshal(answer, &kept); err != nil {
		return fmt.Errorf("the answer of the server: %w", err)
	}
	return kept.print(p)
}

type profileDownloadCommand struct {
	apiServer
	profileArgument
	Version int  `placeholder:"N" help:"Default: the latest."`
	Signed  bool `help:"With the server's signature."`
}

// Run prints the file.
func (c *profileDownloadCommand) Run(ctx context.Context, p *process) error {
	return wrappedIf("profile download", c.download(ctx, p))
}

func (c *profileDownloadCommand) download(ctx context.Context, p *process) error {
	path, err := c.path(ctx, p, c.apiServer)
	if err != nil {
		return err
	}
	number := c.Version
	if number == 0 {
		var latest listedProfile
		if err := c.call(ctx, p, apiRequest{path: path}, &latest); err != nil {
			return err
		}
		number = latest.Version
	}
	query := url.Values{}
	if c.Signed {
		query.Set("signed", "true")
	}
	body, err := c.ask(ctx, p, path+"/versions/"+strconv.Itoa(number)+"/download", query)
	if err != nil {
		return err
	}
	_, err = io.Copy(p.stdout, body)
	return errors.Join(err, body.Close())
}

type profileDiffCommand struct {
	apiServer
	profileArgument
	From int  `placeholder:"N" help:"Default: the version before the other."`
	To   int  `placeholder:"N" help:"Default: the latest version."`
	JSON bool `name:"json" help:"Print the server's answer."`
}

// Run prints a line for each change.
func (c *profileDiffCommand) Run(ctx context.Context, p *process) error {
	return wrappedIf("profile diff", c.print(ctx, p))
}

func (c *profileDiffCommand) print(ctx context.Context, p *process) error {
	path, err := c.path(ctx, p, c.apiServer)
	if err != nil {
		return err
	}
	query := url.Values{}
	if c.From != 0 {
		query.Set("from", strconv.Itoa(c.From))
	}
	if c.To != 0 {
		query.Set("to", strconv.Itoa(c.To))
	}
	var answer json.RawMessage
	if err := c.call(ctx, p, apiRequest{path: path + "/diff", query: query}, &answer); err != nil {
		return err
	}
	if c.JSON {
		return printJSON(p.stdout, answer)
	}
	var diff struct {
		From, To int
		Changes  []struct {
			Kind, Payload, Key, Old, New string
			PayloadType                  string `json:"payload_type"`
			Secret                       bool
		}
	}
	if err := json.Unmarshal(answer, &diff); err != nil {
		return fmt.Errorf("the answer of the server: %w", err)
	}
	fmt.Fprintf(p.stdout, "Version %d to version %d: %s.\n", diff.From, diff.To, count(len(diff.Changes), "change"))
	for _, change := range diff.Changes {
		what := shown(change.Payload)
		if change.PayloadType != "Configuration" {
			what += " (" + shown(change.PayloadType) + ")"
		}
		if change.Key != "" {
			what += " " + shown(change.Key)
		}
		fmt.Fprintf(p.stdout, "  %s %s", change.Kind, what)
		switch {
		case change.Secret:
			fmt.Fprint(p.stdout, ": a secret")
		case change.Old != "" && change.New != "":
			fmt.Fprintf(p.stdout, ": %s → %s", shown(change.Old), shown(change.New))
		case change.Old+change.New != "":
			fmt.Fprintf(p.stdout, ": %s", shown(change.Old+change.New))
		}
		fmt.Fprintln(p.stdout)
	}
	return nil
}

type profileRestoreCommand struct {
	apiServer
	profileArgument
	Version int  `arg:"" help:"Number of the version."`
	JSON    bool `name:"json" help:"Print the server's answer."`
}

// Run makes the version the latest again.
func (c *profileRestoreCommand) Run(ctx context.Context, p *process) error {
	path, err := c.path(ctx, p, c.apiServer)
	if err == nil {
		err = printKept(ctx, p, c.apiServer, c.JSON, apiRequest{method: http.MethodPost, path: fmt.Sprintf("%s/versions/%d/restore", path, c.Version)})
	}
	return wrappedIf("profile restore", err)
}

type profileDeleteCommand struct {
	apiServer
	profileArgument
}

// Run forgets the profile.
func (c *profileDeleteCommand) Run(ctx context.Context, p *process) error {
	path, err := c.path(ctx, p, c.apiServer)
	if err == nil {
		err = c.call(ctx, p, apiRequest{method: http.MethodDelete, path: path}, nil)
	}
	return wrappedIf("profile delete", err)
}

type profileDevicesCommand struct {
	apiServer
	profileArgument
	State  []string `enum:"sent,installed,failed,removing,removed,drifted" placeholder:"STATE" help:"sent, installed, failed, removing, removed or drifted. Repeatable. Default: all."`
	Output string   `short:"o" enum:"table,json,id" default:"table" placeholder:"FORMAT" help:"table, json or id (default ${default})."`
}

// Run prints the list.
func (c *profileDevicesCommand) Run(ctx context.Context, p *process) error {
	return wrappedIf("profile devices", c.print(ctx, p))
}

func (c *profileDevicesCommand) print(ctx context.Context, p *process) error {
	path, err := c.path(ctx, p, c.apiServer)
	if err != nil {
		return err
	}
	path += "/devices"
	query := url.Values{"state": c.State}
	if c.Output == "json" {
		return printItems(ctx, p, c.apiServer, path, query)
	}
	table := tabwriter.NewWriter(p.stdout, 0, 0, 2, ' ', 0)
	if c.Output == "table" {
		fmt.Fprintln(table, "DEVICE\tSTATE\tSENT\tINSTALLED\tSINCE\tREASON")
	}
	err = eachItem(ctx, p, c.apiServer, path, query, func(i struct {
		DeviceID  string    `json:"device_id"`
		State     string    `json:"state"`
		StateAt   time.Time `json:"state_at"`
		Version   int       `json:"version"`
		Installed *int      `json:"installed_version"`
		Reduced   bool      `json:"reduced"`
		Reason    string    `json:"reason"`
	}) error {
		if c.Output == "id" {
			_, err := fmt.Fprintln(table, i.DeviceID)
			return err
		}
		sent, installed := fmt.Sprint(i.Version), "-"
		if i.Reduced {
			sent += " (part)"
		}
		if i.Installed != nil {
			installed = fmt.Sprint(*i.Installed)
		}
		_, err := fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\n", i.DeviceID, i.State, sent, installed, i.StateAt.Local().Format("2006-01-02 15:04"), shown(i.Reason))
		return err
	})
	return errors.Join(err, table.Flush())
}
