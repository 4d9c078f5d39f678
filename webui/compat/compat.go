// Package compat answers the HTTP APIs of NanoMDM v0.9 and MicroMDM v1, on the paths and in
// the words of those projects, so that what was written for them works with this server: it
// decodes what they take, calls the services that the REST API calls, and encodes what they
// answer.
//
// Both have their API under /v1. Only POST /v1/push/ID is in both: it is MicroMDM's for who
// calls itself micromdm, and NanoMDM's for everybody else.
package compat

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"iter"
	"log/slog"
	"net/http"
	"time"

	"github.com/gatehouse-mdm/gatehouse/apns"
	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/command"
	"github.com/gatehouse-mdm/gatehouse/mdm/library"
	"github.com/gatehouse-mdm/gatehouse/mdm/wake"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/webui"
)

// Limits of requests.
const (
	maxBody        = 1 << 20        // bytes
	maxCommandBody = command.MaxRaw // bytes
	maxTime        = 2 * time.Minute
)

// Pusher wakes devices while somebody waits for what comes of it. *wake.Service is one.
type Pusher interface {
	PushNow(ctx context.Context, ids []mdm.DeviceID) ([]wake.Pushed, error)
}

// PushCertificates keeps push certificates by topic. *apns.Certificates is one.
type PushCertificates interface {
	Get(tx storage.Tx, topic string) (apns.Certificate, error)
	All(tx storage.Tx) iter.Seq2[apns.Certificate, error]
	TLS(tx storage.Tx, topic string) (tls.Certificate, apns.Certificate, error)
}

// Keeper takes new push certificates. *apns.Keeper is one.
type Keeper interface {
	Upload(ctx context.Context, u apns.Upload) (apns.Standing, error)
}

// Enrollments ends what hangs on an enrollment, or on a command. *enroll.Service is one.
type Enrollments interface {
	CancelCommand(ctx context.Context, id mdm.DeviceID, uuid string) error
	Block(ctx context.Context, id mdm.DeviceID) (mdm.Device, error)
	Unblock(ctx context.Context, id mdm.DeviceID) (mdm.Device, error)
}

// Config says what a Compat needs; EscrowKeyUnlockURL and EscrowKeyUnlockRoots may be empty.
type Config struct {
	DB           storage.DB
	MDM          *mdm.Service
	Enroll       Enrollments
	Library      *library.Service
	Identity     *identity.Service
	Push         Pusher
	Certificates PushCertificates
	Keeper       Keeper

	EscrowKeyUnlockURL   string         // Apple's, if it is empty
	EscrowKeyUnlockRoots *x509.CertPool // who that service may be; nil: whom the system trusts

	Log *slog.Logger
	Now func() time.Time
}

// Compat answers the routes of both APIs.
type Compat struct {
	Config
}

// New returns a Compat, or says what c lacks.
func New(c Config) (*Compat, error) {
	switch {
	case c.DB == nil || c.MDM == nil || c.Enroll == nil || c.Library == nil || c.Identity == nil:
		return nil, errors.New("compat: DB, MDM, Enroll, Library and Identity are required")
	case c.Push == nil || c.Certificates == nil || c.Keeper == nil || c.Log == nil || c.Now == nil:
		return nil, errors.New("compat: Push, Certificates, Keeper, Log and Now are required")
	}
	if c.EscrowKeyUnlockURL == "" {
		c.EscrowKeyUnlockURL = appleEscrowKeyUnlock
	}
	return &Compat{c}, nil
}

// route is one operation.
type route struct {
	pattern string
	scope   identity.Scope
	handle  webui.HandlerFunc
}

// Who may what, as in the REST API. Commands that lose data ask for more.
const (
	reading  = identity.ScopeReadOnly
	helping  = identity.ScopeHelpdesk
	managing = identity.ScopeAdmin
)

// nanoPrefixes are where NanoMDM and NanoHUB have NanoMDM's API.
var nanoPrefixes = []string{"/v1", "/api/v1/nanomdm"}

// nanoRoutes are NanoMDM's. It asks for no method; what changes something asks for one here
// that no link on a page can have, but for the push that is known to be a GET.
func (c *Compat) nanoRoutes(prefix string) []route {
	return []route{
		{"GET " + prefix + "/pushcert", reading, c.getPushCert},
		{"PUT " + prefix + "/pushcert", managing, c.putPushCert},
		{"POST " + prefix + "/pushcert", managing, c.putPushCert},

		{"GET " + prefix + "/push/{ids...}", helping, c.pushNano},
		{"PUT " + prefix + "/push/{ids...}", helping, c.pushNano},
		{"PUT " + prefix + "/enqueue/{ids...}", helping, c.enqueue},
		{"POST " + prefix + "/enqueue/{ids...}", helping, c.enqueue},
		{"POST " + prefix + "/escrowkeyunlock", managing, c.unlockEscrowKey},
	}
}

// microRoutes are MicroMDM's.
func (c *Compat) microRoutes() []route {
	return []route{
		{"POST /v1/devices", reading, c.listDevices},
		{"POST /v1/devices/{udid}/block", managing, c.blockDevice},
		{"POST /v1/devices/{udid}/unblock", managing, c.unblockDevice},

		{"POST /v1/commands", helping, c.queueCommand},
		{"GET /v1/commands/{udid}", managing, c.viewQueue}, // with what commands carry
		{"POST /v1/commands/{udid}", helping, c.queueRawCommand},
		{"PUT /v1/commands/{udid}", helping, c.queueRawCommand},
		{"DELETE /v1/commands/{udid}", helping, c.clearQueue},

		{"GET /push/{udid}", helping, c.pushMicro},

		{"POST /v1/profiles", managing, c.getProfiles}, // they may hold passwords
		{"PUT /v1/profiles", managing, c.applyProfile},
		{"DELETE /v1/profiles", managing, c.removeProfiles},

		{"GET /v1/config/certificate", reading, c.getMicroPushCertificate},
		{"PUT /v1/config/certificate", managing, c.putMicroPushCertificate},
	}
}

// Mount registers the routes.
func (c *Compat) Mount(m *webui.Mux) {
	nano := m.Group(webui.Group{BodyLimit: maxCommandBody, Timeout: maxTime, Fail: c.failNano})
	for _, prefix := range nanoPrefixes {
		for _, rt := range c.nanoRoutes(prefix) {
			nano.Handle(rt.pattern, c.guarded(rt))
		}
	}
	nano.Handle("POST /api/v1/nanomdm/push/{ids...}", c.guarded(route{scope: helping, handle: c.pushNano}))

	micro := m.Group(webui.Group{BodyLimit: maxCommandBody, Timeout: maxTime, Fail: c.failMicro})
	for _, rt := range c.microRoutes() {
		micro.Handle(rt.pattern, c.guarded(rt))
	}
	micro.Handle("/v1/", c.guarded(route{scope: reading, handle: unknownPath}))

	either := m.Group(webui.Group{BodyLimit: maxBody, Timeout: maxTime, Fail: c.failNano})
	either.Handle("POST /v1/push/{ids...}", c.guarded(route{scope: helping, handle: func(w http.ResponseWriter, r *http.Request) error {
		if user, _, _ := r.BasicAuth(); user != userMicro {
			return c.pushNano(w, r)
		}
		r.SetPathValue("udid", r.PathValue("ids"))
		if err := c.pushMicro(w, r); err != nil {
			c.failMicro(w, r, err)
		}
		return nil
	}}))
}

// unknownPath answers for what is in neither API, or is not done here.
func unknownPath(_ http.ResponseWriter, r *http.Request) error {
	return &refusal{http.StatusNotFound, "neither NanoMDM nor MicroMDM has " + r.Method + " " + clip(r.URL.Path) + ", or this server leaves it out: see docs/compatibility.md"}
}
