package apiv1_test

import (
	"bytes"
	"context"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/gorillamux"

	"github.com/gatehouse-mdm/gatehouse/apns"
	"github.com/gatehouse-mdm/gatehouse/depot"
	"github.com/gatehouse-mdm/gatehouse/depot/depottest"
	"github.com/gatehouse-mdm/gatehouse/depot/template"
	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/enroll/business"
	"github.com/gatehouse-mdm/gatehouse/enroll/business/businesstest"
	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/enroll/invite"
	"github.com/gatehouse-mdm/gatehouse/enroll/issuance"
	"github.com/gatehouse-mdm/gatehouse/enroll/mail"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/event"
	"github.com/gatehouse-mdm/gatehouse/mdm/inventory"
	"github.com/gatehouse-mdm/gatehouse/mdm/library"
	"github.com/gatehouse-mdm/gatehouse/mdm/profile"
	"github.com/gatehouse-mdm/gatehouse/mdm/wake"
	"github.com/gatehouse-mdm/gatehouse/mdm/webhook"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/seal"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
	"github.com/gatehouse-mdm/gatehouse/webui"
	"github.com/gatehouse-mdm/gatehouse/webui/apiv1"
	"github.com/gatehouse-mdm/gatehouse/webui/letter"
	"github.com/gatehouse-mdm/gatehouse/webui/logtail"
	"github.com/gatehouse-mdm/gatehouse/webui/text"
)

// house is a whole server as far as the API sees it, on a real store, over HTTP.
type house struct {
	tail     logtail.Tail
	demo     demo
	url      string
	handler  http.Handler
	db       storage.DB
	mdm      *mdm.Service
	enroll   *enroll.Service
	issuance *issuance.Service
	library  *library.Service
	depot    *depot.Depot
	identity *identity.Service
	events   *event.Recorder
	webhooks *webhook.Service
	push     *apns.Keeper
	sessions *webui.Sessions

	mail        *mail.Service
	invitations *invite.Service
	apple       *businesstest.Apple

	api    *apiv1.API
	spec   routers.Router
	owner  string // a token
	pushes *pushes

	mu   sync.Mutex
	time time.Time
}

func (h *house) now() time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.time
}

func (h *house) pass(d time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.time = h.time.Add(d)
}

// elsewhere stands for the SCEP servers of others.
type elsewhere struct{}

func (elsewhere) Request(context.Context, template.Upstream, *x509.CertificateRequest) (*x509.Certificate, error) {
	return nil, depot.ErrUpstreamUnavailable
}

func (elsewhere) Challenge(_ context.Context, u template.Upstream) (string, error) {
	return "fetched from " + u.ChallengeURL, nil
}

// pushes stands for the client of Apple's push service.
type pushes struct {
	mu     sync.Mutex
	answer apns.Result
	got    []apns.Push
}

func (p *pushes) Push(_ context.Context, _ string, pushes []apns.Push, done func(int, apns.Result)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.got = append(p.got, pushes...)
	for i := range pushes {
		done(i, p.answer)
	}
}

func (p *pushes) answers(r apns.Result) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.answer = r
}

func newHouse(t testing.TB) *house {
	t.Helper()
	storagetest.AnyEngine(t) // what is below is tested on each
	ctx := context.Background()
	log := slog.New(slog.DiscardHandler)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	box, err := seal.New(bytes.Repeat([]byte{7}, 32))
	must(err)
	h := &house{db: storagetest.Open(t), time: time.Now().UTC().Truncate(time.Second), pushes: &pushes{answer: apns.Result{Outcome: apns.Sent, Status: 200}}}
	h.depot, err = depot.Open(ctx, depot.Config{
		DB: h.db, Box: box, Log: log, Now: h.now, KeyBits: 2048, Name: "test",
		NewKey: depottest.NewKey,
	})
	must(err)
	sign := func(p []byte) ([]byte, error) {
		return profile.Sign(p, h.depot.Root().Certificate(), h.depot.Root().Signer())
	}
	h.mdm, err = mdm.New(mdm.Config{DB: h.db, Box: box, Sign: sign, Log: log, Now: h.now})
	must(err)
	stock, err := inventory.New(inventory.Config{DB: h.db, MDM: h.mdm, Log: log, Now: h.now})
	must(err)
	topics, err := apns.NewCertificates(box, h.now)
	must(err)
	h.push, err = apns.NewKeeper(apns.KeeperConfig{
		DB: h.db, Certificates: topics, Devices: h.mdm.Topics, Log: log, Now: h.now,
		NewKey: func() (*rsa.PrivateKey, error) { return depottest.NewKey("push", 2048) },
		Known: func(c *x509.Certificate) string {
			if c.Equal(h.depot.Identity().Certificate()) {
				return "this server’s identity CA"
			}
			return ""
		},
	})
	must(err)
	h.events, err = event.New(event.Config{DB: h.db, Log: log, Now: h.now})
	must(err)
	templates, err := template.NewService(template.Config{DB: h.db, Box: box, Log: log, Now: h.now})
	must(err)
	serverURL := &url.URL{Scheme: "https", Host: "mdm.example.com"}
	h.issuance, err = issuance.New(issuance.Config{
		DB: h.db, Depot: h.depot, Templates: templates, MDM: h.mdm, Audit: h.events, Sign: sign, Upstream: elsewhere{},
		ServerURL: serverURL, Organisation: "Example", Log: log, Now: h.now,
	})
	must(err)
	h.library, err = library.New(library.Config{
		DB: h.db, Box: box, MDM: h.mdm, Sign: sign, People: h.issuance, Log: log, Now: h.now,
		Reserved: func(identifier string) bool { return profile.Reserved(serverURL.Hostname(), identifier) },
	})
	must(err)
	h.issuance.SendBy(h.library)
	h.enroll, err = enroll.New(enroll.Config{
		DB: h.db, Box: box, Depot: h.depot, MDM: h.mdm, Topics: topics, Payloads: h.issuance, Inventory: stock, Sign: sign,
		ServerURL: serverURL, Organisation: "Example", Log: log, Now: h.now,
	})
	must(err)
	h.identity, err = identity.New(identity.Config{
		DB: h.db, Box: box, Log: log, Now: h.now, HashMemory: 64, Audit: auditLog{h.events},
		Kinds: []identity.SourceKind{sources{redirects: false}, sources{redirects: true}},
	})
	must(err)
	texts, err := text.New(text.Config{DB: h.db, Log: log, Now: h.now})
	must(err)
	h.mail, err = mail.New(mail.Config{DB: h.db, Box: box, Name: "mdm.example.com", Log: log, Now: h.now})
	must(err)
	letters, err := letter.New(letter.Config{Texts: texts, ServerURL: serverURL})
	must(err)
	h.invitations, err = invite.New(invite.Config{DB: h.db, Enroll: h.enroll, Mailer: h.mail, Writer: letters, Log: log, Now: h.now})
	must(err)
	h.apple = businesstest.New(t, h.now)
	link, err := business.New(business.Config{
		DB: h.db, Box: box, ServerURL: serverURL, Endpoint: h.apple.URL, AllowPrivate: true, Log: log, Now: h.now,
		NewKey: func() (*rsa.PrivateKey, error) { return depottest.NewKey("business", 2048) },
	})
	must(err)
	waker, err := wake.New(wake.Config{DB: h.db, MDM: h.mdm, Pusher: h.pushes, Certificates: topics, Log: log, Now: h.now})
	must(err)
	h.mdm.WakeBy(waker)
	h.webhooks, err = webhook.New(webhook.Config{DB: h.db, Box: box, ServerURL: serverURL, Log: log, Now: h.now})
	must(err)
	h.sessions, err = webui.NewSessions(webui.SessionsConfig{DB: h.db, Identity: h.identity, Log: log, Now: h.now, Fail: webui.FailWithProblem(log)})
	must(err)
	api, err := apiv1.New(apiv1.Config{
		Server: func() apiv1.Server {
			return apiv1.Server{
				Version: "1.2.3", Store: "bolt", TLSMode: "own-ca", Certificates: []*x509.Certificate{h.depot.Identity().Certificate(), h.depot.Root().Certificate()},
				Options: []apiv1.Option{{Flag: "--listen", Value: ":8443"}},
			}
		},
		Demo: &h.demo, Tail: &h.tail, Business: link,
		Mail: h.mail, Letters: letters, Invitations: h.invitations,
		DB: h.db, MDM: h.mdm, Inventory: stock, Enroll: h.enroll, Depot: h.depot, Templates: templates, Issuance: h.issuance, Identity: h.identity, Texts: texts,
		Library: h.library, Box: box, Wake: waker, Webhooks: h.webhooks, PushCertificates: h.push, Sessions: h.sessions, ServerURL: serverURL, Log: log, Now: h.now, StreamAlive: 50 * time.Millisecond,
	})
	must(err)
	h.api = api
	mux := webui.NewMux(api.Fail)
	api.Mount(mux)
	h.handler = webui.Chain(mux, webui.RealPeer(nil), webui.AssignRequestID)
	srv := httptest.NewServer(h.handler)
	t.Cleanup(srv.Close)
	h.url = srv.URL
	h.owner = h.token(t, identity.ScopeOwner)
	h.spec = h.readSpec(t)
	return h
}

// document is what the API says of itself. It is part of the program, so the first house
// reads it for all.
var document struct {
	once   sync.Once
	routes routers.Router
}

// readSpec gets the document from the server, as a client would.
func (h *house) readSpec(t testing.TB) routers.Router {
	t.Helper()
	document.once.Do(func() {
		openapi3filter.RegisterBodyDecoder("application/jsonl", openapi3filter.PlainBodyDecoder)
		resp, err := http.Get(h.url + "/api/openapi.json")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		raw, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		doc, err := openapi3.NewLoader().LoadFromData(raw)
		if err != nil {
			t.Fatalf("load openapi.json: %v", err)
		}
		if err := doc.Validate(context.Background(), openapi3.IsOpenAPI31OrLater()); err != nil {
			t.Fatalf("openapi.json: %v", err)
		}
		if document.routes, err = gorillamux.NewRouter(doc); err != nil {
			t.Fatal(err)
		}
	})
	if document.routes == nil {
		t.Fatal("another test could not read openapi.json")
	}
	return document.routes
}

// token makes a token with scopes and returns its secret.
func (h *house) token(t testing.TB, scopes ...identity.Scope) string {
	t.Helper()
	_, secret, err := h.identity.CreateToken(context.Background(), identity.Local(),
		identity.NewToken{Name: "test", Scopes: scopes, User: "ana@example.com"})
	if err != nil {
		t.Fatal(err)
	}
	return secret.Reveal()
}

// device puts an enrolled Mac into the store, changed as the test likes.
func (h *house) device(t testing.TB, id mdm.DeviceID, change func(*mdm.Device)) {
	t.Helper()
	d := mdm.Device{
		ID: id, Type: mdm.TypeDevice, State: mdm.Enrolled, AppleID: mdm.AppleID{UDID: "UDID-" + string(id)},
		Ownership: mdm.Institutional, User: "ana@example.com", AccessRights: 8191,
		Facts:     mdm.Facts{SerialNumber: "C02" + string(id), ProductName: "Mac14,2", OSVersion: "15.1"},
		CreatedAt: h.now(), EnrolledAt: h.now(),
	}
	if change != nil {
		change(&d)
	}
	if err := h.db.Update(context.Background(), func(tx storage.Tx) error { return mdm.PutDevice(tx, d) }); err != nil {
		t.Fatal(err)
	}
}

// deliver hands a device its next command, as its poll would.
func (h *house) deliver(t testing.TB, id mdm.DeviceID) (uuid string) {
	t.Helper()
	err := h.db.Update(context.Background(), func(tx storage.Tx) error {
		e, err := h.mdm.Head(tx, id, false)
		if err != nil {
			return err
		}
		if e == nil {
			t.Fatalf("device %s has no command", id)
		}
		uuid = e.UUID
		_, err = h.mdm.Deliver(tx, e)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return uuid
}

// answer stores what a device says of a command.
func (h *house) answer(t testing.TB, id mdm.DeviceID, r mdm.Report) {
	t.Helper()
	err := h.db.Update(context.Background(), func(tx storage.Tx) error {
		_, err := h.mdm.Record(tx, id, r)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// exchange is one request, and what the server said to it.
type exchange struct {
	method, path string
	body         any // string and []byte as they are, nil: none, else JSON
	token        string
	header       map[string]string
	wild         bool // the request breaks the document on purpose: hold only the answer against it

	status   int
	answer   []byte
	response http.Header
}

// do sends the request with the owner's token, unless told otherwise, and holds
// both directions against the document.
func (h *house) do(t testing.TB, x exchange) exchange {
	t.Helper()
	var body []byte
	contentType := "application/json"
	switch b := x.body.(type) {
	case nil:
		contentType = ""
	case string:
		body = []byte(b)
	case []byte:
		body, contentType = b, "application/octet-stream"
	default:
		var err error
		if body, err = json.Marshal(b); err != nil {
			t.Fatal(err)
		}
	}
	req, err := http.NewRequest(x.method, h.url+x.path, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	switch x.token {
	case "":
		req.Header.Set("Authorization", "Bearer "+h.owner)
	case "none":
	default:
		req.Header.Set("Authorization", "Bearer "+x.token)
	}
	for name, value := range x.header {
		req.Header.Set(name, value)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	x.status, x.response = resp.StatusCode, resp.Header
	if x.answer, err = io.ReadAll(resp.Body); err != nil {
		t.Fatal(err)
	}
	h.hold(t, x, req, body)
	return x
}

func (h *house) hold(t testing.TB, x exchange, req *http.Request, body []byte) {
	t.Helper()
	check := req.Clone(context.Background())
	check.URL.Scheme, check.URL.Host, check.Host = "", "", ""
	check.Body = io.NopCloser(bytes.NewReader(body))
	route, params, err := h.spec.FindRoute(check)
	if err != nil {
		t.Fatalf("%s %s is not in the document: %v", x.method, x.path, err)
	}
	input := &openapi3filter.RequestValidationInput{
		Request: check, PathParams: params, Route: route,
		Options: &openapi3filter.Options{
			AuthenticationFunc: openapi3filter.NoopAuthenticationFunc, IncludeResponseStatus: true, MultiError: true,
		},
	}
	if !x.wild {
		if err := openapi3filter.ValidateRequest(context.Background(), input); err != nil {
			t.Errorf("%s %s: request against the document: %v", x.method, x.path, err)
		}
	}
	output := &openapi3filter.ResponseValidationInput{
		RequestValidationInput: input, Status: x.status, Header: x.response, Options: input.Options,
	}
	output.SetBodyBytes(x.answer)
	if err := openapi3filter.ValidateResponse(context.Background(), output); err != nil {
		t.Errorf("%s %s: answer against the document: %v\n%d %s", x.method, x.path, err, x.status, x.answer)
	}
	if x.status == http.StatusInternalServerError {
		t.Errorf("%s %s = 500 %s", x.method, x.path, x.answer)
	}
}

// want fails unless the answer has this status, and decodes it into v.
func (x exchange) want(t testing.TB, status int, v any) {
	t.Helper()
	if x.status != status {
		t.Fatalf("%s %s = %d %s, want %d", x.method, x.path, x.status, x.answer, status)
	}
	if v == nil {
		return
	}
	if err := json.Unmarshal(x.answer, v); err != nil {
		t.Fatalf("%s %s: %v in %s", x.method, x.path, err, x.answer)
	}
}

type problem struct {
	Status    int
	Code      string
	Detail    string
	RequestID string `json:"request_id"`
	Errors    []struct{ Field, Detail string }
	Rejected  []struct {
		DeviceID string `json:"device_id"`
		Code     string
		Reason   string
	}
}

// wantProblem fails unless the answer is a problem with this status and code.
func (x exchange) wantProblem(t testing.TB, status int, code string) problem {
	t.Helper()
	var p problem
	x.want(t, status, &p)
	if ct := x.response.Get("Content-Type"); p.Code != code || p.Status != status || ct != "application/problem+json" || p.RequestID == "" {
		t.Fatalf("%s %s = %s %s, want code %s and a request_id", x.method, x.path, ct, x.answer, code)
	}
	return p
}

// wantField fails unless the answer is a 400 about one field.
func (x exchange) wantField(t testing.TB, field string) {
	t.Helper()
	p := x.wantProblem(t, http.StatusBadRequest, "invalid_request")
	if len(p.Errors) != 1 || p.Errors[0].Field != field || !strings.Contains(p.Detail, p.Errors[0].Detail) {
		t.Errorf("%s %s = %s, want an error about %s", x.method, x.path, x.answer, field)
	}
}

// direct calls the API in this process, with a context of the test's, and returns
// the status.
func (h *house) direct(t testing.TB, ctx context.Context, path string) int {
	t.Helper()
	w := httptest.NewRecorder()
	h.handler.ServeHTTP(w, httptest.NewRequestWithContext(ctx, http.MethodGet, path, nil))
	return w.Code
}
