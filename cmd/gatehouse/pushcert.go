package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"text/tabwriter"
	"time"
)

// pushcertCommand is about push certificates, as the API has them.
type pushcertCommand struct {
	List     pushcertListCommand     `cmd:"" help:"List push certificates, when they end, and how many devices each wakes."`
	CSR      pushcertCSRCommand      `cmd:"" name:"csr" help:"Make a request that an MDM vendor signs for you."`
	Vendor   pushcertVendorCommand   `cmd:"" help:"Make a request that this server signs; first keep your vendor certificate by --certificate."`
	Mdmcert  pushcertMdmcertCommand  `cmd:"" help:"Make a request that mdmcert.download signs, or open what it mailed."`
	Upload   pushcertUploadCommand   `cmd:"" help:"Upload the certificate that Apple made: a new one, or a renewal."`
	Activate pushcertActivateCommand `cmd:"" help:"Push by the certificate that was uploaded with --later."`
	Delete   pushcertDeleteCommand   `cmd:"" help:"Forget a topic's certificate and its key."`
}

const (
	pushRequestsPath = "/api/v1/push-certificate-requests"
	pushVendorPath   = "/api/v1/push-vendor-certificate"
)

// pushTopicState is a topic as the API tells of it.
type pushTopicState struct {
	Topic        string    `json:"topic"`
	NotAfter     time.Time `json:"not_after"`
	DaysLeft     int       `json:"days_left"`
	State        string    `json:"state"`
	AppleAccount string    `json:"apple_account"`
	IsDefault    bool      `json:"is_default"`
	Devices      int       `json:"devices"`
	Warnings     []string  `json:"warnings"`
	Ready        *struct {
		NotAfter time.Time `json:"not_after"`
	} `json:"ready"`
}

// print says how it stands with one topic, in sentences.
func (t pushTopicState) print(w io.Writer) {
	switch t.State {
	case "ready":
		fmt.Fprintf(w, "%s is ready until %s. Push by it: gatehouse pushcert activate %s\n", t.Topic, t.NotAfter.Format(time.DateOnly), t.Topic)
	default:
		fmt.Fprintf(w, "%s is %s until %s (%d days).\n", t.Topic, t.State, t.NotAfter.Format(time.DateOnly), t.DaysLeft)
		if t.Ready != nil {
			fmt.Fprintf(w, "Another is ready until %s. Push by it: gatehouse pushcert activate %s\n", t.Ready.NotAfter.Format(time.DateOnly), t.Topic)
		}
	}
	if t.AppleAccount == "" {
		fmt.Fprintln(w, "Note the Apple Account that it was made with (--apple-account): only that one can renew it.")
	}
	for _, warning := range t.Warnings {
		fmt.Fprintln(w, "Warning:", warning)
	}
}

// pushTopicAnswer sends a request that is answered with a topic, and prints it.
func pushTopicAnswer(ctx context.Context, p *process, s apiServer, asJSON bool, r apiRequest) error {
	var answer json.RawMessage
	if err := s.call(ctx, p, r, &answer); err != nil {
		return err
	}
	if asJSON {
		return printJSON(p.stdout, answer)
	}
	var t pushTopicState
	if err := json.Unmarshal(answer, &t); err != nil {
		return fmt.Errorf("the answer of the server: %w", err)
	}
	t.print(p.stdout)
	return nil
}

type pushcertListCommand struct {
	apiServer
	JSON bool `name:"json" help:"Print the server's answer."`
}

// Run prints a table.
func (c *pushcertListCommand) Run(ctx context.Context, p *process) error {
	return wrappedIf("pushcert list", c.list(ctx, p))
}

func (c *pushcertListCommand) list(ctx context.Context, p *process) error {
	var answer json.RawMessage
	if err := c.call(ctx, p, apiRequest{path: pushCertificatesPath}, &answer); err != nil {
		return err
	}
	if c.JSON {
		return printJSON(p.stdout, answer)
	}
	var all struct {
		Items []pushTopicState `json:"items"`
		Lost  []struct {
			Detail string `json:"detail"`
		} `json:"lost"`
	}
	if err := json.Unmarshal(answer, &all); err != nil {
		return fmt.Errorf("the answer of the server: %w", err)
	}
	if len(all.Items) == 0 {
		fmt.Fprintln(p.stdout, "There is no push certificate: devices can't be woken. Request one: gatehouse pushcert csr, vendor or mdmcert")
	} else {
		w := tabwriter.NewWriter(p.stdout, 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "TOPIC\tSTATE\tENDS\tDAYS\tDEVICES\tAPPLE ACCOUNT\t")
		for _, t := range all.Items {
			state := t.State
			if t.IsDefault {
				state += ", default"
			}
			if t.Ready != nil && t.State != "ready" {
				state += ", next one ready"
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%d\t%s\t\n", t.Topic, state, t.NotAfter.Format(time.DateOnly), t.DaysLeft, t.Devices, cmp.Or(t.AppleAccount, "-"))
		}
		if err := w.Flush(); err != nil {
			return err
		}
	}
	for _, t := range all.Items {
		for _, warning := range t.Warnings {
			fmt.Fprintf(p.stdout, "%s: %s\n", t.Topic, warning)
		}
	}
	for _, lost := range all.Lost {
		fmt.Fprintln(p.stdout, lost.Detail)
	}
	return nil
}

// pushRequestFlags say what a certificate is requested for.
type pushRequestFlags struct {
	apiServer
	AppleAccount string `placeholder:"ACCOUNT" help:"The Apple Account that the certificate will be made with."`
	Renews       string `placeholder:"TOPIC" help:"The topic that it renews. Default: a new one."`
	CommonName   string `name:"cn" placeholder:"NAME" help:"Common name in the request."`
	Organization string `placeholder:"NAME" help:"Organisation in the request."`
	Country      string `placeholder:"XX" help:"Country in the request: two letters."`
	Output       string `short:"o" type:"path" placeholder:"FILE" help:"Where to write the file. Default: standard output."`
	JSON         bool   `name:"json" help:"Print the server's answer."`
}

// madeRequest is a request as the API tells of it.
type madeRequest struct {
	ID      string `json:"id"`
	Next    string `json:"next"`
	HasFile bool   `json:"has_file"`
}

// make makes a request of a kind; more is what only this kind has.
func (c *pushRequestFlags) make(ctx context.Context, p *process, kind string, more map[string]string) error {
	body := map[string]string{"kind": kind}
	for key, value := range map[string]string{
		"apple_account": c.AppleAccount, "renews": c.Renews, "common_name": c.CommonName, "organization": c.Organization, "country": c.Country,
	} {
		if value != "" {
			body[key] = value
		}
	}
	for key, value := range more {
		body[key] = value
	}
	return c.finish(ctx, p, apiRequest{method: http.MethodPost, path: pushRequestsPath, body: body})
}

// finish sends what is answered with a request, writes the file that comes of it, and says
// what to do with that.
func (c *pushRequestFlags) finish(ctx context.Context, p *process, r apiRequest) error {
	var answer json.RawMessage
	if err := c.call(ctx, p, r, &answer); err != nil {
		return err
	}
	if c.JSON {
		return printJSON(p.stdout, answer)
	}
	var made madeRequest
	if err := json.Unmarshal(answer, &made); err != nil {
		return fmt.Errorf("the answer of the server: %w", err)
	}
	part := "/csr"
	if made.HasFile {
		part = "/file"
	}
	file, err := c.ask(ctx, p, pushRequestsPath+"/"+url.PathEscape(made.ID)+part, nil)
	if err != nil {
		return err
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, 1<<20))
	if err != nil {
		return fmt.Errorf("the answer of the server: %w", err)
	}
	if c.Output == "" {
		_, err = p.stdout.Write(append(bytes.TrimRight(data, "\n"), '\n'))
	} else {
		err = os.WriteFile(c.Output, data, 0o644) // it is public: the key stays on the server
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(p.stderr, "Request %s. %s\n", made.ID, made.Next)
	return nil
}

type pushcertCSRCommand struct{ pushRequestFlags }

// Run makes a request for somebody else to sign.
func (c *pushcertCSRCommand) Run(ctx context.Context, p *process) error {
	return wrappedIf("pushcert csr", c.make(ctx, p, "csr", nil))
}

type pushcertVendorCommand struct {
	pushRequestFlags
	Certificate  string `type:"path" placeholder:"FILE" help:"Keep this vendor certificate, with those above it, and make no request. PEM, DER or PKCS #12."`
	Key          string `type:"path" placeholder:"FILE" help:"Its private key, where it is not in the same file."`
	PasswordFile string `type:"path" placeholder:"FILE" help:"File with the password of the key or the PKCS #12 file; - reads standard input."`
	Forget       bool   `help:"Forget the vendor certificate and its key, and make no request."`
}

// Run makes a request that is signed here, or changes by what.
func (c *pushcertVendorCommand) Run(ctx context.Context, p *process) error {
	return wrappedIf("pushcert vendor", c.run(ctx, p))
}

func (c *pushcertVendorCommand) run(ctx context.Context, p *process) error {
	switch {
	case c.Forget && c.Certificate != "":
		return usageError(errors.New("--forget and --certificate don't go together"))
	case c.Forget:
		return c.call(ctx, p, apiRequest{method: http.MethodDelete, path: pushVendorPath}, nil)
	case c.Certificate == "" && (c.Key != "" || c.PasswordFile != ""):
		return usageError(errors.New("--key and --password-file are for --certificate: gatehouse pushcert vendor --certificate vendor.pem --key vendor.key"))
	case c.Certificate == "":
		return c.make(ctx, p, "vendor", nil)
	}
	body, err := certificateBody(p, c.Certificate, c.Key, c.PasswordFile)
	if err != nil {
		return err
	}
	var kept struct {
		Subject  string    `json:"subject"`
		NotAfter time.Time `json:"not_after"`
		Warnings []string  `json:"warnings"`
	}
	if err := c.call(ctx, p, apiRequest{method: http.MethodPut, path: pushVendorPath, body: body}, &kept); err != nil {
		return err
	}
	fmt.Fprintf(p.stdout, "%s signs requests until %s. Make one: gatehouse pushcert vendor -o push.plist.b64\n", kept.Subject, kept.NotAfter.Format(time.DateOnly))
	for _, warning := range kept.Warnings {
		fmt.Fprintln(p.stdout, "Warning:", warning)
	}
	return nil
}

type pushcertMdmcertCommand struct {
	pushRequestFlags
	Request    string `arg:"" optional:"" placeholder:"REQUEST" help:"Id of the request that a mail answers."`
	Mail       string `arg:"" optional:"" placeholder:"FILE" type:"path" help:"The attachment of the mail."`
	Email      string `placeholder:"ADDRESS" help:"For a new request: your address as it is registered at mdmcert.download."`
	APIKeyFile string `name:"api-key-file" type:"path" placeholder:"FILE" help:"For a new request: file with the key that mdmcert.download gives to programs; - reads standard input."`
}

// Run makes a request, or opens the answer to one.
func (c *pushcertMdmcertCommand) Run(ctx context.Context, p *process) error {
	return wrappedIf("pushcert mdmcert", c.run(ctx, p))
}

func (c *pushcertMdmcertCommand) run(ctx context.Context, p *process) error {
	switch {
	case c.Request != "" && c.Mail == "":
		return usageError(errors.New("the mailed file is missing: gatehouse pushcert mdmcert REQUEST FILE -o push.plist.b64"))
	case c.Request != "":
		mailed, err := os.ReadFile(c.Mail)
		if err != nil {
			return err
		}
		return c.finish(ctx, p, apiRequest{
			method: http.MethodPost, path: pushRequestsPath + "/" + url.PathEscape(c.Request) + "/mdmcert", body: mailed, contentType: "application/octet-stream",
		})
	case c.Email == "" || c.APIKeyFile == "":
		return usageError(errors.New("a new request needs --email and --api-key-file; to open a mail: gatehouse pushcert mdmcert REQUEST FILE"))
	}
	key, err := readLine(p, c.APIKeyFile)
	if err != nil {
		return fmt.Errorf("--api-key-file: %w", err)
	}
	return c.make(ctx, p, "mdmcert", map[string]string{"email": c.Email, "api_key": key})
}

// certificateBody is the JSON of a file with a certificate, of its key's and its password's.
func certificateBody(p *process, certificate, key, passwordFile string) (map[string]any, error) {
	if certificate == "-" && (passwordFile == "-" || key == "-") || key == "-" && passwordFile == "-" {
		return nil, usageError(errors.New("standard input can be only one of the files"))
	}
	data, err := readInput(p, certificate)
	if err != nil {
		return nil, err
	}
	body := map[string]any{"file": data}
	if key != "" {
		if body["key"], err = readInput(p, key); err != nil {
			return nil, fmt.Errorf("--key: %w", err)
		}
	}
	if passwordFile != "" {
		if body["password"], err = readLine(p, passwordFile); err != nil {
			return nil, fmt.Errorf("--password-file: %w", err)
		}
	}
	return body, nil
}

type pushcertUploadCommand struct {
	apiServer
	File         string `arg:"" placeholder:"FILE" help:"PEM, DER or PKCS #12; - reads standard input."`
	Key          string `type:"path" placeholder:"FILE" help:"The private key, where it is neither in the same file nor was made by the server."`
	PasswordFile string `type:"path" placeholder:"FILE" help:"File with the password of the key or the PKCS #12 file; - reads standard input."`
	AppleAccount string `placeholder:"ACCOUNT" help:"The Apple Account that it was made with."`
	Later        bool   `help:"Keep it ready, and go on with the old one until gatehouse pushcert activate."`
	JSON         bool   `name:"json" help:"Print the server's answer."`
}

// Run uploads the certificate.
func (c *pushcertUploadCommand) Run(ctx context.Context, p *process) error {
	return wrappedIf("pushcert upload", c.upload(ctx, p))
}

func (c *pushcertUploadCommand) upload(ctx context.Context, p *process) error {
	body, err := certificateBody(p, c.File, c.Key, c.PasswordFile)
	if err != nil {
		return err
	}
	body["activate"] = !c.Later
	if c.AppleAccount != "" {
		body["apple_account"] = c.AppleAccount
	}
	return pushTopicAnswer(ctx, p, c.apiServer, c.JSON, apiRequest{method: http.MethodPost, path: pushCertificatesPath + "/import", body: body})
}

// topicArgument is the topic that a command is about.
type topicArgument struct {
	Topic string `arg:"" placeholder:"TOPIC" help:"Topic of the certificate, com.apple.mgmt.…"`
}

func (a topicArgument) path() (string, error) {
	if !strings.HasPrefix(a.Topic, "com.apple.mgmt.") {
		return "", usageError(fmt.Errorf("%q is no topic such as com.apple.mgmt.External.… (gatehouse pushcert list lists them)", a.Topic))
	}
	return pushCertificatesPath + "/" + url.PathEscape(a.Topic), nil
}

type pushcertActivateCommand struct {
	apiServer
	topicArgument
	JSON bool `name:"json" help:"Print the server's answer."`
}

// Run activates what is ready.
func (c *pushcertActivateCommand) Run(ctx context.Context, p *process) error {
	path, err := c.path()
	if err == nil {
		err = pushTopicAnswer(ctx, p, c.apiServer, c.JSON, apiRequest{method: http.MethodPost, path: path + "/activate"})
	}
	return wrappedIf("pushcert activate", err)
}

type pushcertDeleteCommand struct {
	apiServer
	topicArgument
	Force bool `help:"Also while devices are woken by it: nobody can wake them then."`
}

// Run deletes a topic's certificates.
func (c *pushcertDeleteCommand) Run(ctx context.Context, p *process) error {
	path, err := c.path()
	if err == nil {
		query := url.Values{}
		if c.Force {
			query.Set("force", "true")
		}
		err = c.call(ctx, p, apiRequest{method: http.MethodDelete, path: path, query: query}, nil)
	}
	return wrappedIf("pushcert delete", err)
}
