package compat_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/apns"
	"github.com/gatehouse-mdm/gatehouse/apns/apnstest"
	"github.com/gatehouse-mdm/gatehouse/depot"
	"github.com/gatehouse-mdm/gatehouse/depot/depottest"
	"github.com/gatehouse-mdm/gatehouse/depot/template"
	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/enroll/issuance"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/event"
	"github.com/gatehouse-mdm/gatehouse/mdm/inventory"
	"github.com/gatehouse-mdm/gatehouse/mdm/library"
	"github.com/gatehouse-mdm/gatehouse/mdm/profile"
	"github.com/gatehouse-mdm/gatehouse/mdm/wake"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/seal"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
	"github.com/gatehouse-mdm/gatehouse/webui"
	"github.com/gatehouse-mdm/gatehouse/webui/compat"
)

// topic is that of the push certificate.
const topic = "com.apple.mgmt.External.e3b8ceac-1f18-2c8e-8a63-dd17d99435d9"

// house is a whole server as far as these APIs see it, on a real store, over HTTP.
type house struct {
	url      string
	db       storage.DB
	mdm      *mdm.Service
	library  *library.Service
	identity *identity.Service
	certs    *apns.Certificates
	apple    *apnstest.Server
	owner    string // a token
}

// elsewhere stands for the SCEP servers of others.
type elsewhere struct{}

func (elsewhere) Request(context.Context, template.Upstream, *x509.CertificateRequest) (*x509.Certificate, error) {
	return nil, depot.ErrUpstreamUnavailable
}
func (elsewhere) Challenge(context.Context, template.Upstream) (string, error) { return "", nil }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newHouse(t testing.TB, change ...func(*compat.Config)) *house {
	t.Helper()
	ctx := context.Background()
	log := slog.New(slog.DiscardHandler)
	box, err := seal.New(bytes.Repeat([]byte{7}, 32))
	must(t, err)
	h := &house{db: storagetest.Open(t)}
	authorities, err := depot.Open(ctx, depot.Config{DB: h.db, Box: box, Log: log, Now: time.Now, KeyBits: 2048, Name: "test", NewKey: depottest.NewKey})
	must(t, err)
	sign := func(p []byte) ([]byte, error) {
		return profile.Sign(p, authorities.Root().Certificate(), authorities.Root().Signer())
	}
	h.mdm, err = mdm.New(mdm.Config{DB: h.db, Box: box, Sign: sign, Log: log, Now: time.Now})
	must(t, err)
	stock, err := inventory.New(inventory.Config{DB: h.db, MDM: h.mdm, Log: log, Now: time.Now})
	must(t, err)
	h.certs, err = apns.NewCertificates(box, time.Now)
	must(t, err)
	events, err := event.New(event.Config{DB: h.db, Log: log, Now: time.Now})
	must(t, err)
	templates, err := template.NewService(template.Config{DB: h.db, Box: box, Log: log, Now: time.Now})
	must(t, err)
	serverURL := &url.URL{Scheme: "https", Host: "mdm.example.com"}
	payloads, err := issuance.New(issuance.Config{
		DB: h.db, Depot: authorities, Templates: templates, MDM: h.mdm, Audit: events, Sign: sign, Upstream: elsewhere{},
		ServerURL: serverURL, Organisation: "Example", Log: log, Now: time.Now,
	})
	must(t, err)
	h.library, err = library.New(library.Config{
		DB: h.db, Box: box, MDM: h.mdm, Sign: sign, People: payloads, Log: log, Now: time.Now,
		Reserved: func(identifier string) bool { return profile.Reserved(serverURL.Hostname(), identifier) },
	})
	must(t, err)
	payloads.SendBy(h.library)
	enrollment, err := enroll.New(enroll.Config{
		DB: h.db, Box: box, Depot: authorities, MDM: h.mdm, Topics: h.certs, Payloads: payloads, Inventory: stock, Sign: sign,
		ServerURL: serverURL, Organisation: "Example", Log: log, Now: time.Now,
	})
	must(t, err)
	h.identity, err = identity.New(identity.Config{DB: h.db, Box: box, Log: log, Now: time.Now, HashMemory: 64})
	must(t, err)

	h.apple, err = apnstest.New(apnstest.Options{})
	must(t, err)
	t.Cleanup(func() { h.apple.Close() })
	client, err := apns.NewClient(apns.ClientConfig{DB: h.db, Certificates: h.certs, URL: h.apple.URL(), Roots: h.apple.Roots(), Log: log, Now: time.Now})
	must(t, err)
	t.Cleanup(func() { client.Close() })
	waker, err := wake.New(wake.Config{DB: h.db, MDM: h.mdm, Pusher: client, Certificates: h.certs, Log: log, Now: time.Now})
	must(t, err)
	h.mdm.WakeBy(waker)

	keeper, err := apns.NewKeeper(apns.KeeperConfig{DB: h.db, Certificates: h.certs, Log: log, Now: time.Now})
	must(t, err)

	config := compat.Config{
		DB: h.db, MDM: h.mdm, Enroll: enrollment, Library: h.library, Identity: h.identity, Push: waker, Certificates: h.certs, Keeper: keeper, Log: log, Now: time.Now,
	}
	for _, f := range change {
		f(&config)
	}
	api, err := compat.New(config)
	must(t, err)
	mux := webui.NewMux(func(w http.ResponseWriter, r *http.Request, err error) { http.Error(w, err.Error(), http.StatusTeapot) })
	api.Mount(mux)
	srv := httptest.NewServer(webui.Chain(mux, webui.RealPeer(nil), webui.AssignRequestID))
	t.Cleanup(srv.Close)
	h.url = srv.URL
	h.owner = h.token(t, identity.ScopeOwner)
	return h
}

// certificate has Apple know the server by topic.
func (h *house) certificate(t testing.TB) {
	t.Helper()
	pem, err := h.apple.Certificate(topic)
	must(t, err)
	must(t, h.db.Update(t.Context(), func(tx storage.Tx) error { _, err := h.certs.Put(tx, pem); return err }))
}

// token makes a token with scopes and returns its secret.
func (h *house) token(t testing.TB, scopes ...identity.Scope) string {
	t.Helper()
	_, secret, err := h.identity.CreateToken(t.Context(), identity.Local(), identity.NewToken{Name: "scripts", Scopes: scopes, User: "ana@example.com"})
	must(t, err)
	return secret.Reveal()
}

// device puts an enrolled, supervised Mac into the store, changed as the test likes. Its push
// token is its UDID.
func (h *house) device(t testing.TB, udid string, change ...func(*mdm.Device)) mdm.DeviceID {
	t.Helper()
	yes := true
	d := mdm.Device{
		ID: mdm.DeviceID("id-of-" + udid), Type: mdm.TypeDevice, State: mdm.Enrolled, AppleID: mdm.AppleID{UDID: udid},
		Ownership: mdm.Institutional, User: "ana@example.com", AccessRights: 8191,
		Facts:     mdm.Facts{SerialNumber: "C02" + udid, ProductName: "Mac14,2", OSVersion: "14.1", Supervised: &yes, UserApproved: &yes, EnrolledViaDEP: &yes},
		Push:      &mdm.Push{Topic: topic, Token: []byte(udid), Magic: "magic of " + udid, ToldAt: time.Now()},
		CreatedAt: time.Now(), EnrolledAt: time.Now(),
	}
	for _, f := range change {
		f(&d)
	}
	must(t, h.db.Update(t.Context(), func(tx storage.Tx) error { return mdm.PutDevice(tx, d) }))
	return d.ID
}

func phone(d *mdm.Device) { d.ProductName, d.OSVersion, d.EnrolledViaDEP = "iPhone15,2", "17.2", nil }

// next is the command that a device gets at its next poll, "" for none.
func (h *house) next(t testing.TB, id mdm.DeviceID) string {
	t.Helper()
	var d *mdm.Delivery
	err := h.db.Update(t.Context(), func(tx storage.Tx) error {
		d = nil
		e, err := h.mdm.Head(tx, id, false)
		if err == nil && e != nil {
			d, err = h.mdm.Deliver(tx, e)
		}
		return err
	})
	must(t, err)
	if d == nil {
		return ""
	}
	plist, err := h.mdm.Plist(d)
	must(t, err)
	return string(plist)
}

// acknowledge has a device finish a command that it was delivered.
func (h *house) acknowledge(t testing.TB, id mdm.DeviceID, uuid string) {
	t.Helper()
	must(t, h.db.Update(t.Context(), func(tx storage.Tx) error {
		_, err := h.mdm.Record(tx, id, mdm.Report{CommandUUID: uuid, State: mdm.Acknowledged})
		return err
	}))
}

// waiting counts the commands that a device has not finished.
func (h *house) waiting(t testing.TB, id mdm.DeviceID) (n int) {
	t.Helper()
	must(t, h.db.View(t.Context(), func(tx storage.Tx) (err error) {
		n, err = mdm.CountPending(tx, id)
		return err
	}))
	return n
}

// reply is an answer.
type reply struct {
	status int
	header http.Header
	body   string
}

// json reads the answer into v.
func (r reply) json(t testing.TB, v any) {
	t.Helper()
	if err := json.Unmarshal([]byte(r.body), v); err != nil {
		t.Fatalf("the answer %q: %v", r.body, err)
	}
}

// call sends a request as user, with the owner's token.
func (h *house) call(t testing.TB, user, method, path, body string) reply {
	t.Helper()
	return h.callWith(t, user, h.owner, method, path, body)
}

func (h *house) callWith(t testing.TB, user, password, method, path, body string) reply {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, h.url+path, strings.NewReader(body))
	must(t, err)
	if user != "" {
		req.SetBasicAuth(user, password)
	}
	return send(t, req)
}

func send(t testing.TB, req *http.Request) reply {
	t.Helper()
	resp, err := http.DefaultClient.Do(req)
	must(t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	must(t, err)
	return reply{resp.StatusCode, resp.Header, string(b)}
}

// plist is a command as scripts write it.
func plist(uuid, requestType string, more ...string) string {
	return `<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">
<plist version="1.0">
<dict>
	<key>Command</key>
	<dict>
		<key>RequestType</key>
		<string>` + requestType + `</string>` + strings.Join(more, "") + `
	</dict>
	<key>CommandUUID</key>
	<string>` + uuid + `</string>
</dict>
</plist>
`
}

// tool finds a program that shares no line with this project. Without it the test is skipped,
// but not in CI.
func tool(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		missing(t, name+" is not installed")
	}
	return path
}

func missing(t *testing.T, what string) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatal(what + ", and CI skips nothing")
	}
	t.Skip(what)
}

// released returns the source of a released module, at the version that the go.mod in dir
// pins.
func released(t *testing.T, dir, module string) string {
	t.Helper()
	key := dir + " " + module
	got, _ := modules.LoadOrStore(key, sync.OnceValues(func() (string, error) {
		cmd := exec.Command("go", "mod", "download", "-json", module)
		cmd.Dir = dir
		out, err := cmd.Output()
		if err != nil {
			return "", err
		}
		var m struct{ Dir string }
		err = json.Unmarshal(out, &m)
		return m.Dir, err
	}))
	path, err := got.(func() (string, error))()
	if err != nil {
		if exit, ok := err.(*exec.ExitError); ok {
			t.Log(string(exit.Stderr))
		}
		missing(t, module+" can't be had: "+err.Error())
	}
	return path
}

var modules sync.Map

// unlockAt has the server ask a service that stands for Apple's.
func unlockAt(service *httptest.Server) func(*compat.Config) {
	return func(c *compat.Config) {
		roots := x509.NewCertPool()
		roots.AddCert(service.Certificate())
		c.EscrowKeyUnlockURL, c.EscrowKeyUnlockRoots = service.URL+"/escrowKeyUnlock", roots
	}
}

func writeFile(name, content string) error { return os.WriteFile(name, []byte(content), 0o600) }

// profileXML is a configuration profile.
func profileXML(identifier string) string {
	return `<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">
<plist version="1.0"><dict>
<key>PayloadType</key><string>Configuration</string><key>PayloadVersion</key><integer>1</integer>
<key>PayloadIdentifier</key><string>` + identifier + `</string><key>PayloadUUID</key><string>6BF4A0F1-0000-4000-8000-000000000001</string>
<key>PayloadDisplayName</key><string>costs $5</string><key>PayloadContent</key><array/>
</dict></plist>
`
}
