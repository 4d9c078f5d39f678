// Package apiv1 is the REST API under /api/v1: it decodes requests strictly, calls
// one method of a domain service, and encodes the answer in JSON types of its own,
// so that a renamed field inside changes no client.
//
// openapi.yaml describes every route and is kept by hand; the tests hold each
// exchange against it. What a request does is decided below; how it is logged,
// limited and routed, by webui.
package apiv1

import (
	"cmp"
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"time"

	"github.com/gatehouse-mdm/gatehouse/apns"
	"github.com/gatehouse-mdm/gatehouse/depot"
	"github.com/gatehouse-mdm/gatehouse/depot/template"
	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/enroll/business"
	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/enroll/invite"
	"github.com/gatehouse-mdm/gatehouse/enroll/issuance"
	"github.com/gatehouse-mdm/gatehouse/enroll/mail"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/mdm/command"
	"github.com/gatehouse-mdm/gatehouse/mdm/inventory"
	"github.com/gatehouse-mdm/gatehouse/mdm/library"
	"github.com/gatehouse-mdm/gatehouse/mdm/profile"
	"github.com/gatehouse-mdm/gatehouse/mdm/wake"
	"github.com/gatehouse-mdm/gatehouse/mdm/webhook"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/storage/seal"
	"github.com/gatehouse-mdm/gatehouse/webui"
	"github.com/gatehouse-mdm/gatehouse/webui/text"
)

// Limits of requests.
const (
	maxBody        = 1 << 20          // bytes
	maxCommandBody = command.MaxRaw   // bytes
	maxWait        = 2 * time.Minute  // of ?wait=
	maxTime        = 30 * time.Second // of a request beside its wait
)

// Config says what an API needs: all of it.
type Config struct {
	DB        storage.DB
	MDM       *mdm.Service
	Inventory *inventory.Service
	Enroll    *enroll.Service
	Depot     *depot.Depot
	Templates *template.Service
	Issuance  *issuance.Service
	Identity  *identity.Service
	Texts     *text.Catalogue
	ServerURL *url.URL // that links lead to

	Mail        *mail.Service
	Letters     Letters
	Invitations *invite.Service

	Business *business.Service

	Library *library.Service
	Box     *seal.Box
	Wake    *wake.Service

	Webhooks *webhook.Service

	PushCertificates *apns.Keeper

	Log *slog.Logger
	Now func() time.Time

	StreamAlive time.Duration // between lines that show that a stream of events is alive; 0: 15 s
}

// API answers the routes under /api/v1.
type API struct {
	db        storage.DB
	mdm       *mdm.Service
	inventory *inventory.Service
	enroll    *enroll.Service
	depot     *depot.Depot
	templates *template.Service
	issuance  *issuance.Service
	identity  *identity.Service
	texts     *text.Catalogue
	serverURL *url.URL
	log       *slog.Logger
	now       func() time.Time

	mail        *mail.Service
	letters     Letters
	invitations *invite.Service

	business *business.Service
	library  *library.Service
	box      *seal.Box
	wake     *wake.Service
	webhooks *webhook.Service
	push     *apns.Keeper

	streams     streams
	streamAlive time.Duration

	unknown webui.FailFunc // answers for errors that are nobody's fault but ours

	within *webui.Mux                  // for As
	scopes map[string][]identity.Scope // by pattern, for May
}

// New returns an API, or says what c lacks.
func New(c Config) (*API, error) {
	switch {
	case c.DB == nil || c.MDM == nil || c.Enroll == nil || c.Depot == nil || c.Templates == nil || c.Issuance == nil || c.Identity == nil:
		return nil, errors.New("apiv1: DB, MDM, Enroll, Depot, Templates, Issuance and Identity are required")
	case c.Mail == nil || c.Letters == nil || c.Invitations == nil || c.Business == nil || c.Library == nil || c.Box == nil:
		return nil, errors.New("apiv1: Mail, Letters, Invitations, Business, Library and Box are required")
	case c.Inventory == nil || c.Wake == nil || c.Webhooks == nil || c.PushCertificates == nil:
		return nil, errors.New("apiv1: Inventory, Wake, Webhooks and PushCertificates are required")
	case c.Texts == nil || c.ServerURL == nil || c.Log == nil || c.Now == nil:
		return nil, errors.New("apiv1: Texts, ServerURL, Log and Now are required")
	}
	a := &API{
		db: c.DB, mdm: c.MDM, inventory: c.Inventory, enroll: c.Enroll, depot: c.Depot, templates: c.Templates, issuance: c.Issuance, identity: c.Identity, texts: c.Texts,
		mail: c.Mail, letters: c.Letters, invitations: c.Invitations, business: c.Business, library: c.Library, box: c.Box, wake: c.Wake, webhooks: c.Webhooks, push: c.PushCertificates,
		serverURL: c.ServerURL, log: c.Log, now: c.Now, unknown: webui.FailWithProblem(c.Log),
		streamAlive: cmp.Or(c.StreamAlive, streamAlive),
	}
	a.mountWithin()
	return a, nil
}

// route is one operation of the API.
type route struct {
	pattern string
	scopes  []identity.Scope // one of them is needed; none: open to everybody
	handle  webui.HandlerFunc
	stream  bool // has no end to wait for: the handler bounds each write
	command bool // may carry a profile, and may wait for devices
	profile bool // carries one
}

// Who may what. A scope includes those below it: owner, admin, helpdesk, read_only.
var (
	public   = []identity.Scope(nil)
	reading  = []identity.Scope{identity.ScopeReadOnly}
	helping  = []identity.Scope{identity.ScopeHelpdesk} // commands that lose data ask for more: see NeedsAdmin
	managing = []identity.Scope{identity.ScopeAdmin}
	owning   = []identity.Scope{identity.ScopeOwner}
	auditing = []identity.Scope{identity.ScopeReadOnly, identity.ScopeCertManage}
	revoking = []identity.Scope{identity.ScopeAdmin, identity.ScopeCertManage}
	issuing  = []identity.Scope{identity.ScopeAdmin, identity.ScopeCertAny}
)

func (a *API) routes() []route {
	return []route{
		{pattern: "GET /api/openapi.json", scopes: public, handle: a.openAPI},

		{pattern: "POST /api/v1/enrollment-links", scopes: helping, handle: a.createLink},
		{pattern: "GET /api/v1/enrollment-links", scopes: reading, handle: a.listLinks},
		{pattern: "GET /api/v1/enrollment-links/{id}", scopes: reading, handle: a.getLink},
		{pattern: "PATCH /api/v1/enrollment-links/{id}", scopes: helping, handle: a.updateLink},
		{pattern: "DELETE /api/v1/enrollment-links/{id}", scopes: helping, handle: a.revokeLink},
		{pattern: "GET /api/v1/enrollment-links/{id}/qr.svg", scopes: helping, handle: a.drawLink},

		{pattern: "POST /api/v1/enrollment-invitations", scopes: helping, handle: a.createInvitation},
		{pattern: "GET /api/v1/enrollment-invitations", scopes: reading, handle: a.listInvitations},
		{pattern: "GET /api/v1/enrollment-invitations/{id}", scopes: reading, handle: a.getInvitation},
		{pattern: "DELETE /api/v1/enrollment-invitations/{id}", scopes: helping, handle: a.revokeInvitation},
		{pattern: "POST /api/v1/enrollment-invitations/{id}/retry", scopes: helping, handle: a.retryInvitation},

		{pattern: "GET /api/v1/enrollment-attempts", scopes: reading, handle: a.listAttempts},
		{pattern: "GET /api/v1/enrollment-attempts/{id}", scopes: reading, handle: a.getAttempt},

		{pattern: "GET /api/v1/devices", scopes: reading, handle: a.listDevices},
		{pattern: "GET /api/v1/devices.csv", scopes: reading, handle: a.exportDevices, command: true}, // long lists take their time
		{pattern: "GET /api/v1/devices/{id}", scopes: reading, handle: a.getDevice},
		{pattern: "GET /api/v1/devices/{id}/inventory", scopes: reading, handle: a.getInventory},
		{pattern: "GET /api/v1/devices/{id}/apps", scopes: reading, handle: a.listApps},
		{pattern: "GET /api/v1/devices/{id}/installed-profiles", scopes: reading, handle: a.listInstalledProfiles},
		{pattern: "GET /api/v1/devices/{id}/installed-certificates", scopes: reading, handle: a.listInstalledCertificates},
		{pattern: "GET /api/v1/devices/{id}/history", scopes: reading, handle: a.listChanges},
		{pattern: "POST /api/v1/devices/{id}/refresh", scopes: helping, handle: a.refreshDevice},
		{pattern: "POST /api/v1/inventory/refresh", scopes: helping, handle: a.refreshDevices, command: true},
		{pattern: "POST /api/v1/devices/{id}/push", scopes: helping, handle: a.pushDevice},
		{pattern: "POST /api/v1/devices/{id}/unenroll", scopes: managing, handle: a.unenrollDevice},
		{pattern: "POST /api/v1/devices/{id}/block", scopes: managing, handle: a.blockDevice},
		{pattern: "DELETE /api/v1/devices/{id}/block", scopes: managing, handle: a.unblockDevice},
		{pattern: "DELETE /api/v1/devices/{id}/lost", scopes: helping, handle: a.foundDevice},
		{pattern: "POST /api/v1/devices/{id}/renew-identity", scopes: helping, handle: a.renewIdentity},
		{pattern: "POST /api/v1/devices/{id}/require-sign-in", scopes: managing, handle: a.requireSignIn},
		{pattern: "GET /api/v1/devices/{id}/secrets", scopes: reading, handle: a.listSecrets},
		{pattern: "POST /api/v1/devices/{id}/secrets/{kind}/reveal", scopes: managing, handle: a.revealSecret},
		{pattern: "GET /api/v1/escrow-certificate", scopes: reading, handle: a.getEscrowCertificate},
		{pattern: "GET /api/v1/devices/{id}/commands", scopes: reading, handle: a.listDeviceCommands},
		{pattern: "GET /api/v1/devices/{id}/commands/{uuid}", scopes: reading, handle: a.getDeviceCommand},
		{pattern: "DELETE /api/v1/devices/{id}/commands/{uuid}", scopes: helping, handle: a.cancelCommand},

		{pattern: "POST /api/v1/commands", scopes: helping, handle: a.queueCommand, command: true},
		{pattern: "POST /api/v1/commands/check", scopes: helping, handle: a.checkCommand, command: true},
		{pattern: "POST /api/v1/commands/raw", scopes: managing, handle: a.queueRawCommand, command: true},
		{pattern: "GET /api/v1/commands", scopes: reading, handle: a.listCommands},
		{pattern: "GET /api/v1/commands/{uuid}", scopes: reading, handle: a.getCommand},
		{pattern: "POST /api/v1/commands/{uuid}/cancel", scopes: helping, handle: a.cancelEverywhere},
		{pattern: "POST /api/v1/commands/{uuid}/retry", scopes: helping, handle: a.retryCommand, command: true},
		{pattern: "POST /api/v1/batches", scopes: helping, handle: a.queueBatch, command: true},
		{pattern: "GET /api/v1/batches", scopes: reading, handle: a.listBatches},
		{pattern: "GET /api/v1/batches/{id}", scopes: reading, handle: a.getBatch},
		{pattern: "GET /api/v1/command-types", scopes: reading, handle: a.listCommandTypes},
		{pattern: "POST /api/v1/command-types/check", scopes: reading, handle: a.checkCommandTypes, command: true},
		{pattern: "GET /api/v1/command-types/{name}", scopes: reading, handle: a.getCommandType},

		{pattern: "POST /api/v1/profiles", scopes: managing, handle: a.addProfile, profile: true},
		{pattern: "GET /api/v1/profiles", scopes: reading, handle: a.listProfiles},
		{pattern: "POST /api/v1/profiles/lint", scopes: reading, handle: a.lintProfile, profile: true},
		{pattern: "GET /api/v1/profiles/{id}", scopes: reading, handle: a.getProfile},
		{pattern: "PUT /api/v1/profiles/{id}", scopes: managing, handle: a.replaceProfile, profile: true},
		{pattern: "DELETE /api/v1/profiles/{id}", scopes: managing, handle: a.deleteProfile},
		{pattern: "GET /api/v1/profiles/{id}/versions", scopes: reading, handle: a.listProfileVersions},
		{pattern: "GET /api/v1/profiles/{id}/versions/{version}", scopes: reading, handle: a.getProfileVersion},
		{pattern: "GET /api/v1/profiles/{id}/versions/{version}/download", scopes: managing, handle: a.downloadProfile}, // it may hold passwords
		{pattern: "POST /api/v1/profiles/{id}/versions/{version}/restore", scopes: managing, handle: a.restoreProfile},
		{pattern: "GET /api/v1/profiles/{id}/diff", scopes: managing, handle: a.diffProfile},
		{pattern: "POST /api/v1/profiles/{id}/check", scopes: reading, handle: a.checkProfile, command: true},
		{pattern: "POST /api/v1/profiles/{id}/send", scopes: managing, handle: a.sendProfile, command: true},
		{pattern: "POST /api/v1/profiles/{id}/remove", scopes: managing, handle: a.removeProfile, command: true},
		{pattern: "GET /api/v1/profiles/{id}/devices", scopes: reading, handle: a.listProfileDevices},
		{pattern: "GET /api/v1/devices/{id}/profiles", scopes: reading, handle: a.listDeviceProfiles},
		{pattern: "GET /api/v1/payload-types", scopes: reading, handle: a.listPayloadTypes},
		{pattern: "GET /api/v1/payload-types/{type}", scopes: reading, handle: a.getPayloadType},
		{pattern: "GET /api/v1/profile-variables", scopes: reading, handle: a.listProfileVariables},
		{pattern: "GET /api/v1/starter-templates", scopes: reading, handle: a.listStarters},
		{pattern: "POST /api/v1/starter-templates/{name}", scopes: managing, handle: a.useStarter},

		{pattern: "GET /api/v1/certificates", scopes: auditing, handle: a.listCertificates},
		{pattern: "POST /api/v1/certificates", scopes: issuing, handle: a.createCertificate},
		{pattern: "GET /api/v1/certificates/summary", scopes: auditing, handle: a.summarizeCertificates},
		{pattern: "GET /api/v1/certificates/{serial}", scopes: auditing, handle: a.getCertificate},
		{pattern: "GET /api/v1/certificates/{serial}/download", scopes: auditing, handle: a.downloadCertificate},
		{pattern: "POST /api/v1/certificates/{serial}/revoke", scopes: revoking, handle: a.revokeCertificate},

		// The same for programs that know SCEPman's interface.
		{pattern: "GET /api/manage/search", scopes: auditing, handle: a.listCertificates},
		{pattern: "PATCH /api/manage/revoke/{serial}", scopes: revoking, handle: a.revokeCertificate},

		{pattern: "GET /api/v1/certificate-templates", scopes: reading, handle: a.listTemplates},
		{pattern: "POST /api/v1/certificate-templates", scopes: managing, handle: a.createTemplate},
		{pattern: "GET /api/v1/certificate-templates/{name}", scopes: reading, handle: a.getTemplate},
		{pattern: "PUT /api/v1/certificate-templates/{name}", scopes: managing, handle: a.replaceTemplate},
		{pattern: "DELETE /api/v1/certificate-templates/{name}", scopes: managing, handle: a.deleteTemplate},
		{pattern: "GET /api/v1/certificate-templates/{name}/preview", scopes: reading, handle: a.previewTemplate},
		{pattern: "POST /api/v1/certificate-templates/{name}/send", scopes: managing, handle: a.sendTemplate, command: true},

		{pattern: "GET /api/v1/certificate-assignments", scopes: reading, handle: a.listAssignments},
		{pattern: "DELETE /api/v1/certificate-assignments/{name}/{device_id}", scopes: managing, handle: a.deleteAssignment},

		{pattern: "GET /api/v1/ca", scopes: reading, handle: a.getCA},
		{pattern: "POST /api/v1/ca/{role}/import", scopes: owning, handle: a.importCA},
		{pattern: "POST /api/v1/ca/{role}/rollover", scopes: owning, handle: a.startRollover},
		{pattern: "GET /api/v1/ca/{role}/rollover", scopes: reading, handle: a.listProgress},
		{pattern: "POST /api/v1/ca/{role}/retire", scopes: owning, handle: a.retireCA},

		{pattern: "GET /api/v1/migration", scopes: reading, handle: a.getMigration},
		{pattern: "PUT /api/v1/migration/profile", scopes: owning, handle: a.putFormerProfile},
		{pattern: "POST /api/v1/migration/authorities", scopes: owning, handle: a.addPredecessor},
		{pattern: "DELETE /api/v1/migration/authorities/{id}", scopes: owning, handle: a.deletePredecessor},
		{pattern: "POST /api/v1/migration/devices", scopes: owning, handle: a.takeOver},

		{pattern: "POST /api/v1/tokens", scopes: managing, handle: a.createToken},
		{pattern: "GET /api/v1/tokens", scopes: managing, handle: a.listTokens},
		{pattern: "DELETE /api/v1/tokens/{id}", scopes: owning, handle: a.revokeToken},

		{pattern: "POST /api/v1/users", scopes: managing, handle: a.createUser},
		{pattern: "GET /api/v1/users", scopes: managing, handle: a.listUsers},
		{pattern: "GET /api/v1/users/{id}", scopes: managing, handle: a.getUser},
		{pattern: "PATCH /api/v1/users/{id}", scopes: managing, handle: a.updateUser},
		{pattern: "POST /api/v1/users/{id}/end-sessions", scopes: managing, handle: a.endSessions},
		{pattern: "POST /api/v1/users/{id}/reset-second-factor", scopes: owning, handle: a.resetSecondFactor},

		{pattern: "POST /api/v1/identity-providers", scopes: managing, handle: a.createProvider},
		{pattern: "GET /api/v1/identity-providers", scopes: managing, handle: a.listProviders},
		{pattern: "GET /api/v1/identity-providers/{id}", scopes: managing, handle: a.getProvider},
		{pattern: "PATCH /api/v1/identity-providers/{id}", scopes: managing, handle: a.updateProvider},
		{pattern: "DELETE /api/v1/identity-providers/{id}", scopes: managing, handle: a.deleteProvider},
		{pattern: "POST /api/v1/identity-providers/{id}/test", scopes: managing, handle: a.testProvider},

		{pattern: "POST /api/v1/webhooks", scopes: managing, handle: a.createWebhook},
		{pattern: "GET /api/v1/webhooks", scopes: managing, handle: a.listWebhooks},
		{pattern: "GET /api/v1/webhooks/{id}", scopes: managing, handle: a.getWebhook},
		{pattern: "PATCH /api/v1/webhooks/{id}", scopes: managing, handle: a.updateWebhook},
		{pattern: "DELETE /api/v1/webhooks/{id}", scopes: managing, handle: a.deleteWebhook},
		{pattern: "POST /api/v1/webhooks/{id}/test", scopes: managing, handle: a.testWebhook},
		{pattern: "POST /api/v1/webhooks/{id}/enable", scopes: managing, handle: a.enableWebhook},
		{pattern: "POST /api/v1/webhooks/{id}/redeliver", scopes: managing, handle: a.redeliverAll},
		{pattern: "GET /api/v1/webhooks/{id}/deliveries", scopes: managing, handle: a.listDeliveries},
		{pattern: "GET /api/v1/webhooks/{id}/deliveries/{delivery}", scopes: managing, handle: a.getDelivery},
		{pattern: "POST /api/v1/webhooks/{id}/deliveries/{delivery}/redeliver", scopes: managing, handle: a.redeliver},

		{pattern: "GET /api/v1/push-certificates", scopes: reading, handle: a.listPushCertificates},
		{pattern: "PUT /api/v1/push-certificates", scopes: managing, handle: a.putPushCertificate},
		{pattern: "POST /api/v1/push-certificates/import", scopes: managing, handle: a.importPushCertificate},
		{pattern: "PUT /api/v1/push-certificates/{topic}", scopes: managing, handle: a.changePushCertificate},
		{pattern: "DELETE /api/v1/push-certificates/{topic}", scopes: owning, handle: a.deletePushCertificate},
		{pattern: "POST /api/v1/push-certificates/{topic}/activate", scopes: managing, handle: a.activatePushCertificate},
		{pattern: "GET /api/v1/push-certificate-requests", scopes: managing, handle: a.listPushRequests},
		{pattern: "POST /api/v1/push-certificate-requests", scopes: managing, handle: a.createPushRequest},
		{pattern: "GET /api/v1/push-certificate-requests/{id}", scopes: managing, handle: a.getPushRequest},
		{pattern: "DELETE /api/v1/push-certificate-requests/{id}", scopes: managing, handle: a.deletePushRequest},
		{pattern: "GET /api/v1/push-certificate-requests/{id}/csr", scopes: managing, handle: a.downloadPushRequest},
		{pattern: "GET /api/v1/push-certificate-requests/{id}/file", scopes: managing, handle: a.downloadPushRequestFile},
		{pattern: "POST /api/v1/push-certificate-requests/{id}/mdmcert", scopes: managing, handle: a.openPushMail},
		{pattern: "GET /api/v1/push-vendor-certificate", scopes: managing, handle: a.getPushVendor},
		{pattern: "PUT /api/v1/push-vendor-certificate", scopes: owning, handle: a.putPushVendor},
		{pattern: "DELETE /api/v1/push-vendor-certificate", scopes: owning, handle: a.deletePushVendor},

		{pattern: "GET /api/v1/account-driven/snippets", scopes: reading, handle: a.getDiscoverySnippets},
		{pattern: "POST /api/v1/account-driven/check", scopes: managing, handle: a.checkDiscovery},

		{pattern: "GET /api/v1/portal-texts", scopes: reading, handle: a.listPortalTexts},
		{pattern: "GET /api/v1/portal-texts/{lang}", scopes: reading, handle: a.getPortalTexts},
		{pattern: "PUT /api/v1/portal-texts/{lang}", scopes: managing, handle: a.replacePortalTexts},
		{pattern: "PATCH /api/v1/portal-texts/{lang}", scopes: managing, handle: a.changePortalTexts},
		{pattern: "POST /api/v1/portal-texts/{lang}/preview", scopes: managing, handle: a.previewPortalText},

		{pattern: "GET /api/v1/settings", scopes: reading, handle: a.getSettings},
		{pattern: "PATCH /api/v1/settings", scopes: managing, handle: a.updateSettings},
		{pattern: "PUT /api/v1/settings/logo", scopes: managing, handle: a.putLogo},
		{pattern: "DELETE /api/v1/settings/logo", scopes: managing, handle: a.deleteLogo},
		{pattern: "POST /api/v1/settings/mail/test", scopes: managing, handle: a.testMail, command: true}, // a mail server may take its time

		// Those that ask Apple may take as long as Apple does.
		{pattern: "GET /api/v1/apple-business", scopes: managing, handle: a.getBusiness},
		{pattern: "DELETE /api/v1/apple-business", scopes: owning, handle: a.deleteBusiness},
		{pattern: "POST /api/v1/apple-business/check", scopes: managing, handle: a.checkBusiness, command: true},
		{pattern: "POST /api/v1/apple-business/key", scopes: owning, handle: a.makeBusinessKey},
		{pattern: "GET /api/v1/apple-business/certificate", scopes: managing, handle: a.downloadBusinessCertificate},
		{pattern: "PUT /api/v1/apple-business/token", scopes: owning, handle: a.putBusinessToken, command: true},
		{pattern: "GET /api/v1/apple-business/discovery-url", scopes: managing, handle: a.getDiscoveryURL, command: true},
		{pattern: "PUT /api/v1/apple-business/discovery-url", scopes: managing, handle: a.putDiscoveryURL, command: true},
		{pattern: "DELETE /api/v1/apple-business/discovery-url", scopes: managing, handle: a.deleteDiscoveryURL, command: true},

		{pattern: "GET /api/v1/account-driven", scopes: reading, handle: a.getAccountDriven},
		{pattern: "PUT /api/v1/account-driven", scopes: managing, handle: a.replaceAccountDriven},

		{pattern: "GET /api/v1/audit", scopes: auditing, handle: a.listAudit},
		{pattern: "GET /api/v1/audit/export", scopes: reading, handle: a.exportAudit, stream: true},
		{pattern: "GET /api/v1/audit/verify", scopes: reading, handle: a.verifyAudit, stream: true},
		{pattern: "GET /api/v1/events", scopes: auditing, handle: a.followEvents, stream: true},
		{pattern: "GET /api/v1/event-types", scopes: auditing, handle: a.listEventTypes},
	}
}

// Mount registers the routes. Each request passes through use, then through the
// check of its token.
func (a *API) Mount(m *webui.Mux, use ...webui.Middleware) {
	plain := m.Group(webui.Group{BodyLimit: maxBody, Timeout: maxTime, Fail: a.Fail, Use: use})
	commands := m.Group(webui.Group{BodyLimit: maxCommandBody, Timeout: maxWait + maxTime, Fail: a.Fail, Use: use})
	profiles := m.Group(webui.Group{BodyLimit: profile.MaxSize, Timeout: maxWait + maxTime, Fail: a.Fail, Use: use})
	streams := m.Group(webui.Group{BodyLimit: maxBody, Fail: a.Fail, Use: use})
	for _, rt := range a.routes() {
		group := plain
		switch {
		case rt.stream:
			group = streams
		case rt.command:
			group = commands
		case rt.profile:
			group = profiles
		}
		group.Handle(rt.pattern, a.guarded(rt))
	}
}

// guarded checks what all routes ask for before rt sees a request.
func (a *API) guarded(rt route) webui.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) error {
		w.Header().Set("Cache-Control", "no-store")
		if len(rt.scopes) > 0 {
			principal, err := a.authenticate(r)
			if err != nil {
				return err
			}
			if !allowed(principal, rt.scopes) {
				return errScope(rt.scopes[0])
			}
			if peer := webui.Peer(r.Context()); peer.IsValid() {
				principal.Peer = peer.String()
			}
			r = r.WithContext(identity.WithPrincipal(r.Context(), principal))
		}
		if err := checkQuery(r); err != nil {
			return err
		}
		return rt.handle(w, r)
	}
}

// page is a part of a list. NextCursor is empty at its end.
type page[T any] struct {
	Items      []T    `json:"items"`
	NextCursor string `json:"next_cursor"`
}

// newPage converts what a service returned; no items are an empty array in JSON.
func newPage[In, Out any](in []In, next string, convert func(In) Out) page[Out] {
	items := make([]Out, len(in))
	for i, v := range in {
		items[i] = convert(v)
	}
	return page[Out]{Items: items, NextCursor: next}
}

// timestamp is a time in JSON, null when it is zero.
func timestamp(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}
