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
	"github.com/gatehouse-mdm/gatehouse/webui/logtail"
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

	Sessions Sessions

	Server func() Server // what the process knows of itself, as of now
	Demo   Demo
	Tail   *logtail.Tail // of the log of this process

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
	sessions Sessions
	server   func() Server
	demo     Demo
	tail     *logtail.Tail

	recounts recounts

	streams     streams
	streamAlive time.Duration

	unknown webui.FailFunc // answers for errors that are nobody's fault but ours

	within  *webui.Mux       // for As
	mounted map[string]route // by pattern, for May
}

// New returns an API, or says what c lacks.
func New(c Config) (*API, error) {
	switch {
	case c.DB == nil || c.MDM == nil || c.Enroll == nil || c.Depot == nil || c.Templates == nil || c.Issuance == nil || c.Identity == nil:
		return nil, errors.New("apiv1: DB, MDM, Enroll, Depot, Templates, Issuance and Identity are required")
	case c.Mail == nil || c.Letters == nil || c.Invitations == nil || c.Business == nil || c.Library == nil || c.Box == nil:
		return nil, errors.New("apiv1: Mail, Letters, Invitations, Business, Library and Box are required")
	case c.Inventory == nil || c.Wake == nil || c.Webhooks == nil || c.PushCertificates == nil || c.Sessions == nil:
		return nil, errors.New("apiv1: Inventory, Wake, Webhooks, PushCertificates and Sessions are required")
	case c.Texts == nil || c.ServerURL == nil || c.Server == nil || c.Demo == nil || c.Tail == nil || c.Log == nil || c.Now == nil:
		return nil, errors.New("apiv1: Texts, ServerURL, Server, Demo, Tail, Log and Now are required")
	}
	a := &API{
		db: c.DB, mdm: c.MDM, inventory: c.Inventory, enroll: c.Enroll, depot: c.Depot, templates: c.Templates, issuance: c.Issuance, identity: c.Identity, texts: c.Texts,
		mail: c.Mail, letters: c.Letters, invitations: c.Invitations, business: c.Business, library: c.Library, box: c.Box, wake: c.Wake, webhooks: c.Webhooks, push: c.PushCertificates, sessions: c.Sessions, server: c.Server, demo: c.Demo, tail: c.Tail,
		serverURL: c.ServerURL, log: c.Log, now: c.Now, unknown: webui.FailWithProblem(c.Log),
		streamAlive: cmp.Or(c.StreamAlive, streamAlive),
	}
	a.mdm.ReadRules(a.ruleQuery)
	a.mountWithin()
	return a, nil
}

// route is one operation of the API.
type route struct {
	pattern string
	scopes  []identity.Scope // one of them is needed; none: open to everybody
	reach   reach            // for who is limited to groups of devices
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
		{pattern: "GET /api/v1/summary", scopes: reading, reach: filtered, handle: a.summarize},
		{pattern: "GET /api/openapi.json", scopes: public, handle: a.openAPI},

		{pattern: "POST /api/v1/enrollment-links", scopes: helping, reach: whole, handle: a.createLink},
		{pattern: "GET /api/v1/enrollment-links", scopes: reading, reach: whole, handle: a.listLinks},
		{pattern: "GET /api/v1/enrollment-links/{id}", scopes: reading, reach: whole, handle: a.getLink},
		{pattern: "PATCH /api/v1/enrollment-links/{id}", scopes: helping, reach: whole, handle: a.updateLink},
		{pattern: "DELETE /api/v1/enrollment-links/{id}", scopes: helping, reach: whole, handle: a.revokeLink},
		{pattern: "GET /api/v1/enrollment-links/{id}/qr.svg", scopes: helping, reach: whole, handle: a.drawLink},

		{pattern: "POST /api/v1/enrollment-invitations", scopes: helping, reach: whole, handle: a.createInvitation},
		{pattern: "GET /api/v1/enrollment-invitations", scopes: reading, reach: whole, handle: a.listInvitations},
		{pattern: "GET /api/v1/enrollment-invitations/{id}", scopes: reading, reach: whole, handle: a.getInvitation},
		{pattern: "DELETE /api/v1/enrollment-invitations/{id}", scopes: helping, reach: whole, handle: a.revokeInvitation},
		{pattern: "POST /api/v1/enrollment-invitations/{id}/retry", scopes: helping, reach: whole, handle: a.retryInvitation},

		{pattern: "GET /api/v1/enrollment-attempts", scopes: reading, reach: filtered, handle: a.listAttempts},
		{pattern: "GET /api/v1/enrollment-funnel", scopes: reading, reach: filtered, handle: a.countAttempts},
		{pattern: "GET /api/v1/enrollment-attempts/{id}", scopes: reading, reach: ofAttempt, handle: a.getAttempt},

		{pattern: "GET /api/v1/devices", scopes: reading, reach: filtered, handle: a.listDevices},
		{pattern: "GET /api/v1/devices.csv", scopes: reading, reach: filtered, handle: a.exportDevices, command: true}, // long lists take their time
		{pattern: "GET /api/v1/devices/{id}", scopes: reading, reach: ofDevice, handle: a.getDevice},
		{pattern: "PATCH /api/v1/devices/{id}", scopes: helping, reach: ofDevice, handle: a.updateDevice},
		{pattern: "GET /api/v1/devices/{id}/inventory", scopes: reading, reach: ofDevice, handle: a.getInventory},
		{pattern: "GET /api/v1/devices/{id}/apps", scopes: reading, reach: ofDevice, handle: a.listApps},
		{pattern: "GET /api/v1/devices/{id}/installed-profiles", scopes: reading, reach: ofDevice, handle: a.listInstalledProfiles},
		{pattern: "GET /api/v1/devices/{id}/installed-certificates", scopes: reading, reach: ofDevice, handle: a.listInstalledCertificates},
		{pattern: "GET /api/v1/devices/{id}/history", scopes: reading, reach: ofDevice, handle: a.listChanges},
		{pattern: "POST /api/v1/devices/{id}/refresh", scopes: helping, reach: ofDevice, handle: a.refreshDevice},
		{pattern: "POST /api/v1/inventory/refresh", scopes: helping, reach: filtered, handle: a.refreshDevices, command: true},
		{pattern: "POST /api/v1/devices/{id}/push", scopes: helping, reach: ofDevice, handle: a.pushDevice},
		{pattern: "DELETE /api/v1/devices/{id}", scopes: managing, reach: ofDevice, handle: a.deleteDevice},
		{pattern: "POST /api/v1/devices/{id}/merge", scopes: managing, reach: whole, handle: a.mergeDevice}, // it changes who is in groups
		{pattern: "POST /api/v1/devices/{id}/unenroll", scopes: managing, reach: ofDevice, handle: a.unenrollDevice},
		{pattern: "POST /api/v1/devices/{id}/block", scopes: managing, reach: ofDevice, handle: a.blockDevice},
		{pattern: "DELETE /api/v1/devices/{id}/block", scopes: managing, reach: ofDevice, handle: a.unblockDevice},
		{pattern: "DELETE /api/v1/devices/{id}/lost", scopes: helping, reach: ofDevice, handle: a.foundDevice},
		{pattern: "POST /api/v1/devices/{id}/renew-identity", scopes: helping, reach: ofDevice, handle: a.renewIdentity},
		{pattern: "POST /api/v1/devices/{id}/require-sign-in", scopes: managing, reach: ofDevice, handle: a.requireSignIn},
		{pattern: "GET /api/v1/devices/{id}/secrets", scopes: reading, reach: ofDevice, handle: a.listSecrets},
		{pattern: "POST /api/v1/devices/{id}/secrets/{kind}/reveal", scopes: managing, reach: ofDevice, handle: a.revealSecret},
		{pattern: "GET /api/v1/escrow-certificate", scopes: reading, reach: shared, handle: a.getEscrowCertificate},
		{pattern: "GET /api/v1/devices/{id}/commands", scopes: reading, reach: ofDevice, handle: a.listDeviceCommands},
		{pattern: "GET /api/v1/devices/{id}/commands/{uuid}", scopes: reading, reach: ofDevice, handle: a.getDeviceCommand},
		{pattern: "DELETE /api/v1/devices/{id}/commands/{uuid}", scopes: helping, reach: ofDevice, handle: a.cancelCommand},

		{pattern: "GET /api/v1/devices/{id}/groups", scopes: reading, reach: ofDevice, handle: a.listDeviceGroups},

		{pattern: "POST /api/v1/groups", scopes: managing, reach: whole, handle: a.createGroup},
		{pattern: "GET /api/v1/groups", scopes: reading, reach: filtered, handle: a.listGroups},
		{pattern: "GET /api/v1/groups/{id}", scopes: reading, reach: filtered, handle: a.getGroup},
		{pattern: "PATCH /api/v1/groups/{id}", scopes: managing, reach: whole, handle: a.updateGroup},
		{pattern: "DELETE /api/v1/groups/{id}", scopes: managing, reach: whole, handle: a.deleteGroup},
		{pattern: "GET /api/v1/groups/{id}/devices", scopes: reading, reach: filtered, handle: a.listGroupDevices},
		{pattern: "PUT /api/v1/groups/{id}/devices", scopes: managing, reach: whole, handle: a.addToGroup, command: true}, // of a long list of ids
		{pattern: "DELETE /api/v1/groups/{id}/devices", scopes: managing, reach: whole, handle: a.removeFromGroup, command: true},

		{pattern: "POST /api/v1/commands", scopes: helping, reach: filtered, handle: a.queueCommand, command: true},
		{pattern: "POST /api/v1/commands/check", scopes: helping, reach: filtered, handle: a.checkCommand, command: true},
		{pattern: "POST /api/v1/commands/raw", scopes: managing, reach: filtered, handle: a.queueRawCommand, command: true},
		{pattern: "GET /api/v1/commands", scopes: reading, reach: filtered, handle: a.listCommands},
		{pattern: "GET /api/v1/commands/{uuid}", scopes: reading, reach: filtered, handle: a.getCommand},
		{pattern: "POST /api/v1/commands/{uuid}/cancel", scopes: helping, reach: filtered, handle: a.cancelEverywhere},
		{pattern: "POST /api/v1/commands/{uuid}/retry", scopes: helping, reach: filtered, handle: a.retryCommand, command: true},
		{pattern: "POST /api/v1/batches", scopes: helping, reach: filtered, handle: a.queueBatch, command: true},
		{pattern: "GET /api/v1/batches", scopes: reading, reach: filtered, handle: a.listBatches},
		{pattern: "GET /api/v1/batches/{id}", scopes: reading, reach: filtered, handle: a.getBatch},
		{pattern: "GET /api/v1/command-types", scopes: reading, reach: filtered, handle: a.listCommandTypes},
		{pattern: "POST /api/v1/command-types/check", scopes: reading, reach: filtered, handle: a.checkCommandTypes, command: true},
		{pattern: "GET /api/v1/command-types/{name}", scopes: reading, reach: filtered, handle: a.getCommandType},

		{pattern: "POST /api/v1/profiles", scopes: managing, reach: whole, handle: a.addProfile, profile: true},
		{pattern: "GET /api/v1/profiles", scopes: reading, reach: filtered, handle: a.listProfiles},
		{pattern: "POST /api/v1/profiles/lint", scopes: reading, reach: shared, handle: a.lintProfile, profile: true},
		{pattern: "GET /api/v1/profiles/{id}", scopes: reading, reach: filtered, handle: a.getProfile},
		{pattern: "PUT /api/v1/profiles/{id}", scopes: managing, reach: whole, handle: a.replaceProfile, profile: true},
		{pattern: "DELETE /api/v1/profiles/{id}", scopes: managing, reach: whole, handle: a.deleteProfile},
		{pattern: "GET /api/v1/profiles/{id}/versions", scopes: reading, reach: shared, handle: a.listProfileVersions},
		{pattern: "GET /api/v1/profiles/{id}/versions/{version}", scopes: reading, reach: shared, handle: a.getProfileVersion},
		{pattern: "GET /api/v1/profiles/{id}/versions/{version}/settings", scopes: managing, reach: whole, handle: a.getProfileSettings},
		{pattern: "GET /api/v1/profiles/{id}/versions/{version}/download", scopes: managing, reach: whole, handle: a.downloadProfile}, // it may hold passwords
		{pattern: "POST /api/v1/profiles/{id}/versions/{version}/restore", scopes: managing, reach: whole, handle: a.restoreProfile},
		{pattern: "GET /api/v1/profiles/{id}/diff", scopes: managing, reach: whole, handle: a.diffProfile},
		{pattern: "POST /api/v1/profiles/{id}/check", scopes: reading, reach: filtered, handle: a.checkProfile, command: true},
		{pattern: "POST /api/v1/profiles/{id}/send", scopes: managing, reach: filtered, handle: a.sendProfile, command: true},
		{pattern: "POST /api/v1/profiles/{id}/remove", scopes: managing, reach: filtered, handle: a.removeProfile, command: true},
		{pattern: "GET /api/v1/profiles/{id}/devices", scopes: reading, reach: filtered, handle: a.listProfileDevices},
		{pattern: "GET /api/v1/devices/{id}/profiles", scopes: reading, reach: ofDevice, handle: a.listDeviceProfiles},
		{pattern: "GET /api/v1/payload-types", scopes: reading, reach: shared, handle: a.listPayloadTypes},
		{pattern: "GET /api/v1/payload-types/{type}", scopes: reading, reach: shared, handle: a.getPayloadType},
		{pattern: "GET /api/v1/profile-variables", scopes: reading, reach: shared, handle: a.listProfileVariables},
		{pattern: "GET /api/v1/starter-templates", scopes: reading, reach: shared, handle: a.listStarters},
		{pattern: "POST /api/v1/starter-templates/{name}", scopes: managing, reach: whole, handle: a.useStarter},

		{pattern: "GET /api/v1/certificates", scopes: auditing, reach: filtered, handle: a.listCertificates},
		{pattern: "POST /api/v1/certificates", scopes: issuing, reach: whole, handle: a.createCertificate},
		{pattern: "GET /api/v1/certificates/summary", scopes: auditing, reach: whole, handle: a.summarizeCertificates},
		{pattern: "GET /api/v1/certificates/{serial}", scopes: auditing, reach: ofCertificate, handle: a.getCertificate},
		{pattern: "GET /api/v1/certificates/{serial}/download", scopes: auditing, reach: ofCertificate, handle: a.downloadCertificate},
		{pattern: "POST /api/v1/certificates/{serial}/revoke", scopes: revoking, reach: ofCertificate, handle: a.revokeCertificate},

		// The same for programs that know SCEPman's interface.
		{pattern: "GET /api/manage/search", scopes: auditing, reach: filtered, handle: a.listCertificates},
		{pattern: "PATCH /api/manage/revoke/{serial}", scopes: revoking, reach: ofCertificate, handle: a.revokeCertificate},

		{pattern: "GET /api/v1/certificate-templates", scopes: reading, reach: shared, handle: a.listTemplates},
		{pattern: "POST /api/v1/certificate-templates", scopes: managing, reach: whole, handle: a.createTemplate},
		{pattern: "GET /api/v1/certificate-templates/{name}", scopes: reading, reach: shared, handle: a.getTemplate},
		{pattern: "PUT /api/v1/certificate-templates/{name}", scopes: managing, reach: whole, handle: a.replaceTemplate},
		{pattern: "DELETE /api/v1/certificate-templates/{name}", scopes: managing, reach: whole, handle: a.deleteTemplate},
		{pattern: "GET /api/v1/certificate-templates/{name}/preview", scopes: reading, reach: filtered, handle: a.previewTemplate},
		{pattern: "POST /api/v1/certificate-templates/{name}/send", scopes: managing, reach: filtered, handle: a.sendTemplate, command: true},

		{pattern: "GET /api/v1/certificate-assignments", scopes: reading, reach: filtered, handle: a.listAssignments},
		{pattern: "DELETE /api/v1/certificate-assignments/{name}/{device_id}", scopes: managing, reach: ofDeviceID, handle: a.deleteAssignment},

		{pattern: "GET /api/v1/ca", scopes: reading, reach: filtered, handle: a.getCA},
		{pattern: "POST /api/v1/ca/{role}/import", scopes: owning, reach: whole, handle: a.importCA},
		{pattern: "POST /api/v1/ca/{role}/rollover", scopes: owning, reach: whole, handle: a.startRollover},
		{pattern: "GET /api/v1/ca/{role}/rollover", scopes: reading, reach: whole, handle: a.listProgress},
		{pattern: "POST /api/v1/ca/{role}/retire", scopes: owning, reach: whole, handle: a.retireCA},

		{pattern: "GET /api/v1/migration", scopes: reading, reach: whole, handle: a.getMigration},
		{pattern: "PUT /api/v1/migration/profile", scopes: owning, reach: whole, handle: a.putFormerProfile},
		{pattern: "POST /api/v1/migration/authorities", scopes: owning, reach: whole, handle: a.addPredecessor},
		{pattern: "DELETE /api/v1/migration/authorities/{id}", scopes: owning, reach: whole, handle: a.deletePredecessor},
		{pattern: "POST /api/v1/migration/devices", scopes: owning, reach: whole, handle: a.takeOver},

		{pattern: "POST /api/v1/tokens", scopes: managing, reach: whole, handle: a.createToken},
		{pattern: "GET /api/v1/tokens", scopes: managing, reach: whole, handle: a.listTokens},
		{pattern: "GET /api/v1/tokens/{id}", scopes: managing, reach: whole, handle: a.getToken},
		{pattern: "DELETE /api/v1/tokens/{id}", scopes: owning, reach: whole, handle: a.revokeToken},

		{pattern: "POST /api/v1/users", scopes: managing, reach: whole, handle: a.createUser},
		{pattern: "GET /api/v1/users", scopes: managing, reach: whole, handle: a.listUsers},
		{pattern: "GET /api/v1/users/{id}", scopes: managing, reach: whole, handle: a.getUser},
		{pattern: "PATCH /api/v1/users/{id}", scopes: managing, reach: whole, handle: a.updateUser},
		{pattern: "POST /api/v1/users/{id}/end-sessions", scopes: managing, reach: whole, handle: a.endSessions},
		{pattern: "GET /api/v1/users/{id}/sessions", scopes: managing, reach: whole, handle: a.listSessions},
		{pattern: "DELETE /api/v1/users/{id}/sessions/{session}", scopes: managing, reach: whole, handle: a.endSessionOf},
		{pattern: "GET /api/v1/sessions", scopes: reading, reach: shared, handle: a.listOwnSessions},
		{pattern: "DELETE /api/v1/sessions/{session}", scopes: reading, reach: shared, handle: a.endOwnSession},
		{pattern: "POST /api/v1/users/{id}/reset-second-factor", scopes: owning, reach: whole, handle: a.resetSecondFactor},

		{pattern: "POST /api/v1/identity-providers", scopes: managing, reach: whole, handle: a.createProvider},
		{pattern: "GET /api/v1/identity-providers", scopes: managing, reach: whole, handle: a.listProviders},
		{pattern: "GET /api/v1/identity-providers/{id}", scopes: managing, reach: whole, handle: a.getProvider},
		{pattern: "PATCH /api/v1/identity-providers/{id}", scopes: managing, reach: whole, handle: a.updateProvider},
		{pattern: "DELETE /api/v1/identity-providers/{id}", scopes: managing, reach: whole, handle: a.deleteProvider},
		{pattern: "POST /api/v1/identity-providers/{id}/test", scopes: managing, reach: whole, handle: a.testProvider},

		{pattern: "POST /api/v1/webhooks", scopes: managing, reach: whole, handle: a.createWebhook},
		{pattern: "GET /api/v1/webhooks", scopes: managing, reach: whole, handle: a.listWebhooks},
		{pattern: "GET /api/v1/webhooks/{id}", scopes: managing, reach: whole, handle: a.getWebhook},
		{pattern: "PATCH /api/v1/webhooks/{id}", scopes: managing, reach: whole, handle: a.updateWebhook},
		{pattern: "DELETE /api/v1/webhooks/{id}", scopes: managing, reach: whole, handle: a.deleteWebhook},
		{pattern: "POST /api/v1/webhooks/{id}/test", scopes: managing, reach: whole, handle: a.testWebhook},
		{pattern: "POST /api/v1/webhooks/{id}/enable", scopes: managing, reach: whole, handle: a.enableWebhook},
		{pattern: "POST /api/v1/webhooks/{id}/redeliver", scopes: managing, reach: whole, handle: a.redeliverAll},
		{pattern: "GET /api/v1/webhooks/{id}/deliveries", scopes: managing, reach: whole, handle: a.listDeliveries},
		{pattern: "GET /api/v1/webhooks/{id}/deliveries/{delivery}", scopes: managing, reach: whole, handle: a.getDelivery},
		{pattern: "POST /api/v1/webhooks/{id}/deliveries/{delivery}/redeliver", scopes: managing, reach: whole, handle: a.redeliver},

		{pattern: "GET /api/v1/push-certificates", scopes: reading, reach: whole, handle: a.listPushCertificates},
		{pattern: "PUT /api/v1/push-certificates", scopes: managing, reach: whole, handle: a.putPushCertificate},
		{pattern: "POST /api/v1/push-certificates/import", scopes: managing, reach: whole, handle: a.importPushCertificate},
		{pattern: "PUT /api/v1/push-certificates/{topic}", scopes: managing, reach: whole, handle: a.changePushCertificate},
		{pattern: "DELETE /api/v1/push-certificates/{topic}", scopes: owning, reach: whole, handle: a.deletePushCertificate},
		{pattern: "POST /api/v1/push-certificates/{topic}/activate", scopes: managing, reach: whole, handle: a.activatePushCertificate},
		{pattern: "GET /api/v1/push-certificate-requests", scopes: managing, reach: whole, handle: a.listPushRequests},
		{pattern: "POST /api/v1/push-certificate-requests", scopes: managing, reach: whole, handle: a.createPushRequest},
		{pattern: "GET /api/v1/push-certificate-requests/{id}", scopes: managing, reach: whole, handle: a.getPushRequest},
		{pattern: "DELETE /api/v1/push-certificate-requests/{id}", scopes: managing, reach: whole, handle: a.deletePushRequest},
		{pattern: "GET /api/v1/push-certificate-requests/{id}/csr", scopes: managing, reach: whole, handle: a.downloadPushRequest},
		{pattern: "GET /api/v1/push-certificate-requests/{id}/file", scopes: managing, reach: whole, handle: a.downloadPushRequestFile},
		{pattern: "POST /api/v1/push-certificate-requests/{id}/mdmcert", scopes: managing, reach: whole, handle: a.openPushMail},
		{pattern: "GET /api/v1/push-vendor-certificate", scopes: managing, reach: whole, handle: a.getPushVendor},
		{pattern: "PUT /api/v1/push-vendor-certificate", scopes: owning, reach: whole, handle: a.putPushVendor},
		{pattern: "DELETE /api/v1/push-vendor-certificate", scopes: owning, reach: whole, handle: a.deletePushVendor},

		{pattern: "GET /api/v1/account-driven/snippets", scopes: reading, reach: shared, handle: a.getDiscoverySnippets},
		{pattern: "POST /api/v1/account-driven/check", scopes: managing, reach: whole, handle: a.checkDiscovery},

		{pattern: "GET /api/v1/portal-texts", scopes: reading, reach: shared, handle: a.listPortalTexts},
		{pattern: "GET /api/v1/portal-texts/{lang}", scopes: reading, reach: shared, handle: a.getPortalTexts},
		{pattern: "PUT /api/v1/portal-texts/{lang}", scopes: managing, reach: whole, handle: a.replacePortalTexts},
		{pattern: "PATCH /api/v1/portal-texts/{lang}", scopes: managing, reach: whole, handle: a.changePortalTexts},
		{pattern: "POST /api/v1/portal-texts/{lang}/preview", scopes: managing, reach: whole, handle: a.previewPortalText},

		{pattern: "GET /api/v1/settings", scopes: reading, reach: shared, handle: a.getSettings},
		{pattern: "PATCH /api/v1/settings", scopes: managing, reach: whole, handle: a.updateSettings},
		{pattern: "PUT /api/v1/settings/logo", scopes: managing, reach: whole, handle: a.putLogo},
		{pattern: "DELETE /api/v1/settings/logo", scopes: managing, reach: whole, handle: a.deleteLogo},
		{pattern: "POST /api/v1/settings/mail/test", scopes: managing, reach: whole, handle: a.testMail, command: true}, // a mail server may take its time

		{pattern: "GET /api/v1/server", scopes: reading, reach: whole, handle: a.getServer},
		{pattern: "POST /api/v1/server/check", scopes: managing, reach: whole, handle: a.checkServer},

		{pattern: "GET /api/v1/log", scopes: managing, reach: whole, handle: a.listLog},

		{pattern: "GET /api/v1/demo-devices", scopes: reading, reach: whole, handle: a.getDemo},
		{pattern: "POST /api/v1/demo-devices", scopes: managing, reach: whole, handle: a.addDemo},
		{pattern: "DELETE /api/v1/demo-devices", scopes: managing, reach: whole, handle: a.removeDemo},

		// Those that ask Apple may take as long as Apple does.
		{pattern: "GET /api/v1/apple-business", scopes: managing, reach: whole, handle: a.getBusiness},
		{pattern: "DELETE /api/v1/apple-business", scopes: owning, reach: whole, handle: a.deleteBusiness},
		{pattern: "POST /api/v1/apple-business/check", scopes: managing, reach: whole, handle: a.checkBusiness, command: true},
		{pattern: "POST /api/v1/apple-business/key", scopes: owning, reach: whole, handle: a.makeBusinessKey},
		{pattern: "GET /api/v1/apple-business/certificate", scopes: managing, reach: whole, handle: a.downloadBusinessCertificate},
		{pattern: "PUT /api/v1/apple-business/token", scopes: owning, reach: whole, handle: a.putBusinessToken, command: true},
		{pattern: "GET /api/v1/apple-business/discovery-url", scopes: managing, reach: whole, handle: a.getDiscoveryURL, command: true},
		{pattern: "PUT /api/v1/apple-business/discovery-url", scopes: managing, reach: whole, handle: a.putDiscoveryURL, command: true},
		{pattern: "DELETE /api/v1/apple-business/discovery-url", scopes: managing, reach: whole, handle: a.deleteDiscoveryURL, command: true},

		{pattern: "GET /api/v1/account-driven", scopes: reading, reach: shared, handle: a.getAccountDriven},
		{pattern: "PUT /api/v1/account-driven", scopes: managing, reach: whole, handle: a.replaceAccountDriven},

		{pattern: "GET /api/v1/audit", scopes: auditing, reach: filtered, handle: a.listAudit},
		{pattern: "GET /api/v1/audit/export", scopes: reading, reach: whole, handle: a.exportAudit, stream: true},
		{pattern: "GET /api/v1/audit/verify", scopes: reading, reach: whole, handle: a.verifyAudit, stream: true},
		{pattern: "GET /api/v1/events", scopes: auditing, reach: filtered, handle: a.followEvents, stream: true},
		{pattern: "GET /api/v1/event-types", scopes: auditing, reach: shared, handle: a.listEventTypes},
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
			if err := a.reaches(r, principal, rt.reach); err != nil {
				return err
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
