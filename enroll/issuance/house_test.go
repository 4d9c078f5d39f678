package issuance_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"log/slog"
	"math/big"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/gatehouse-mdm/gatehouse/depot"
	"github.com/gatehouse-mdm/gatehouse/depot/depottest"
	"github.com/gatehouse-mdm/gatehouse/depot/template"
	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/enroll/issuance"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/event"
	"github.com/gatehouse-mdm/gatehouse/mdm/profile"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/guard"
	"github.com/gatehouse-mdm/gatehouse/storage/seal"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// house is an issuance service with all that it stands on, and a clock of its own.
type house struct {
	*issuance.Service
	db        storage.DB
	depot     *depot.Depot
	mdm       *mdm.Service
	people    *identity.Service
	templates *template.Service

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

func newHouse(t testing.TB) *house {
	t.Helper()
	return houseOn(t, storagetest.Open(t))
}

func houseOn(t testing.TB, db storage.DB) *house {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	box, err := seal.New(make([]byte, seal.KeySize))
	must(t, err)
	h := &house{db: db, time: time.Now().UTC().Truncate(time.Second)}
	c := depottest.Config(t, db)
	c.Now, c.URL = h.now, &url.URL{Scheme: "https", Host: "mdm.example.com"}
	h.depot = depottest.Open(t, c)
	h.mdm, err = mdm.New(mdm.Config{DB: db, Box: box, Log: log, Now: h.now})
	must(t, err)
	h.people, err = identity.New(identity.Config{
		DB: db, Log: log, Now: h.now, HashMemory: 64, Replica: "test",
		OnDisable: func(tx storage.Tx, u identity.User) error { // a part of what package enroll does
			return h.depot.RevokeUser(tx, u.Login(), "privilegeWithdrawn", h.now())
		},
	})
	must(t, err)
	h.templates, err = template.NewService(template.Config{DB: db, Box: box, Log: log, Now: h.now})
	must(t, err)
	audit, err := event.New(event.Config{DB: db, Log: log, Now: h.now})
	must(t, err)
	h.Service, err = issuance.New(issuance.Config{
		DB: db, Depot: h.depot, Templates: h.templates, MDM: h.mdm, Audit: audit,
		Sign:      func(p []byte) ([]byte, error) { return p, nil },
		ServerURL: c.URL, Organisation: "Example & Söhne", Log: log, Now: h.now,
	})
	must(t, err)
	return h
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (h *house) update(t testing.TB, fn func(storage.Tx) error) {
	t.Helper()
	must(t, h.db.Update(context.Background(), fn))
}

func (h *house) view(t testing.TB, fn func(storage.Tx) error) {
	t.Helper()
	must(t, h.db.View(context.Background(), fn))
}

// template stores a template of a name, /O=Example/CN=$SERIALNUMBER unless changed.
func (h *house) template(t testing.TB, name string, change func(*template.Template)) template.Template {
	t.Helper()
	tmpl := template.New(name)
	var err error
	tmpl.Subject, err = template.ParseSubject("/O=Example/CN=$SERIALNUMBER")
	must(t, err)
	if change != nil {
		change(&tmpl)
	}
	tmpl, err = h.templates.Create(context.Background(), "test", tmpl, nil)
	must(t, err)
	return tmpl
}

func subject(t testing.TB, text string) template.Subject {
	t.Helper()
	s, err := template.ParseSubject(text)
	must(t, err)
	return s
}

// device is an enrolled device.
func (h *house) device(t testing.TB, id mdm.DeviceID, change func(*mdm.Device)) mdm.Device {
	t.Helper()
	d := mdm.Device{
		ID: id, Type: mdm.TypeDevice, State: mdm.Enrolled, AppleID: mdm.AppleID{UDID: "UDID-" + string(id)},
		AccessRights: 8191, CreatedAt: h.now(), EnrolledAt: h.now(),
	}
	d.SerialNumber, d.DeviceName, d.Model, d.ProductName, d.OSVersion = "SN"+string(id), "Ana's iPhone", "iPhone", "iPhone15,2", "18.1"
	if change != nil {
		change(&d)
	}
	h.update(t, func(tx storage.Tx) error { return mdm.PutDevice(tx, d) })
	return d
}

func (h *house) user(t testing.TB, email, fullName string) identity.User {
	t.Helper()
	u, err := h.people.CreateUser(context.Background(), identity.Local(), identity.NewUser{Email: email, FullName: fullName, Role: identity.RoleUser})
	must(t, err)
	return u
}

// command is an InstallProfile as a device reads it.
type command struct {
	uuid, requestType, identifier string
	payloads                      map[string]map[string]any // by their type
	profile                       map[string]any
}

// scep is the content of the profile's SCEP payload.
func (c *command) scep(key string) any {
	content, _ := c.payloads["com.apple.security.scep"]["PayloadContent"].(map[string]any)
	return content[key]
}

func (c *command) challenge(t testing.TB) string {
	t.Helper()
	secret, _ := c.scep("Challenge").(string)
	if secret == "" {
		t.Fatal("the profile has no challenge")
	}
	return secret
}

// fetch is a device's poll: its next command, nil if there is none.
func (h *house) fetch(t testing.TB, id mdm.DeviceID) *command {
	t.Helper()
	var next *mdm.Delivery
	h.update(t, func(tx storage.Tx) error {
		next = nil
		e, err := h.mdm.Head(tx, id, false)
		if err != nil || e == nil {
			return err
		}
		next, err = h.mdm.Deliver(tx, e)
		return err
	})
	if next == nil {
		return nil
	}
	uuid, requestType := next.Entry.UUID, next.Entry.RequestType
	plist, err := h.mdm.Plist(next)
	must(t, err)
	var cmd struct{ Command struct{ Payload []byte } }
	must(t, guard.DecodePlist(plist, &cmd, guard.PlistLimits{}))
	c := &command{uuid: uuid, requestType: requestType, payloads: map[string]map[string]any{}}
	if cmd.Command.Payload == nil {
		return c
	}
	plain, _, err := profile.Unwrap(cmd.Command.Payload)
	must(t, err)
	must(t, guard.DecodePlist(plain, &c.profile, guard.PlistLimits{}))
	c.identifier, _ = c.profile["PayloadIdentifier"].(string)
	for _, p := range c.profile["PayloadContent"].([]any) {
		payload := p.(map[string]any)
		c.payloads[payload["PayloadType"].(string)] = payload
	}
	return c
}

// answer is a device's report on a command.
func (h *house) answer(t testing.TB, id mdm.DeviceID, uuid string, state mdm.CommandState) {
	t.Helper()
	h.update(t, func(tx storage.Tx) error {
		e, err := h.mdm.Record(tx, id, mdm.Report{CommandUUID: uuid, State: state})
		if err != nil || e == nil {
			return err
		}
		return h.Answered(tx, *e)
	})
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	return key
}

// csr is a request as it comes out of a door.
func csr(t testing.TB, key crypto.Signer, asked x509.CertificateRequest) *x509.CertificateRequest {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &asked, key)
	must(t, err)
	req, err := guard.ParseCSR(der, 0)
	must(t, err)
	return req
}

// request is a SCEP request with a challenge, signed by its own new key.
func request(t testing.TB, challenge string, asked x509.CertificateRequest) depot.Request {
	t.Helper()
	key := newKey(t)
	self := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, self, self, key.Public(), key)
	must(t, err)
	signer, err := x509.ParseCertificate(der)
	must(t, err)
	return depot.Request{TransactionID: fmt.Sprintf("%x", signer.RawSubjectPublicKeyInfo[30:]), Challenge: challenge, CSR: csr(t, key, asked), Signer: signer, Peer: "192.0.2.1"}
}

func asking(cn string) x509.CertificateRequest {
	return x509.CertificateRequest{Subject: pkix.Name{CommonName: cn}}
}

// record is the record of a certificate.
func (h *house) record(t testing.TB, cert *x509.Certificate) (c depot.Certificate) {
	t.Helper()
	h.view(t, func(tx storage.Tx) (err error) {
		c, err = h.depot.Get(tx, depot.FingerprintOf(cert))
		return err
	})
	return c
}

// revoked is the reason for which a certificate is revoked, empty if it is not.
func (h *house) revoked(t testing.TB, cert *x509.Certificate) string {
	t.Helper()
	return h.record(t, cert).RevocationReason
}

// assignment is the assignment of a template to a device.
func (h *house) assignment(t testing.TB, template string, id mdm.DeviceID) (found issuance.Assignment) {
	t.Helper()
	h.view(t, func(tx storage.Tx) error {
		found = issuance.Assignment{}
		for a, err := range h.ForDevice(tx, id) {
			if err != nil {
				return err
			}
			if a.Template == template {
				found = a
			}
		}
		return nil
	})
	if found.Template == "" {
		t.Fatalf("%s is not assigned to %s", template, id)
	}
	return found
}

// count is how many certificates of a template there are.
func (h *house) count(t testing.TB, name string) (n int) {
	t.Helper()
	h.view(t, func(tx storage.Tx) error {
		n = 0
		page, _, err := h.depot.Page(tx, "", 1000)
		for _, c := range page {
			if c.Template == name {
				n++
			}
		}
		return err
	})
	return n
}

// events are the actions in the audit log with their reasons, the oldest first.
func (h *house) events(t testing.TB, action string) (list []event.Event) {
	t.Helper()
	h.view(t, func(tx storage.Tx) (err error) {
		list, _, err = event.Page(tx, event.Filter{Action: action}, "", 100)
		return err
	})
	return list
}

// send sends a template to a device and takes the command to it.
func (h *house) send(t testing.TB, name string, id mdm.DeviceID) *command {
	t.Helper()
	sent, rejected, err := h.Send(context.Background(), "user:admin", name, []mdm.DeviceID{id})
	must(t, err)
	if len(sent) != 1 || len(rejected) != 0 {
		t.Fatalf("sent %v, rejected %v", sent, rejected)
	}
	cmd := h.fetch(t, id)
	if cmd == nil || cmd.requestType != "InstallProfile" {
		t.Fatalf("the device is to run %+v, want an InstallProfile", cmd)
	}
	return cmd
}

// install is all that a device does with a profile that it is sent.
func (h *house) install(t testing.TB, name string, id mdm.DeviceID) *x509.Certificate {
	t.Helper()
	cmd := h.send(t, name, id)
	cert, err := h.IssueSCEP(context.Background(), name, request(t, cmd.challenge(t), asking("whatever I like")))
	must(t, err)
	h.answer(t, id, cmd.uuid, mdm.Acknowledged)
	return cert
}
