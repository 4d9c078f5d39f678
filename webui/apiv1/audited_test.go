package apiv1

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/gatehouse-mdm/gatehouse/mdm/event"
	"github.com/gatehouse-mdm/gatehouse/storage/storagetest"
)

// audited says of each route that changes something which event it leaves, or, in
// parentheses, why it needs none.
var audited = map[string]string{
	"POST /api/v1/enrollment-links":                              "link.created",
	"PATCH /api/v1/enrollment-links/{id}":                        "link.changed",
	"DELETE /api/v1/enrollment-links/{id}":                       "link.revoked",
	"POST /api/v1/enrollment-invitations":                        "invitation.created",
	"DELETE /api/v1/enrollment-invitations/{id}":                 "invitation.revoked",
	"POST /api/v1/enrollment-invitations/{id}/retry":             "invitation.retried",
	"PATCH /api/v1/devices/{id}":                                 "device.noted",
	"POST /api/v1/devices/{id}/refresh":                          "(background: asks what the server asks by itself, too)",
	"POST /api/v1/inventory/refresh":                             "(background: asks what the server asks by itself, too)",
	"POST /api/v1/devices/{id}/push":                             "(a push changes nothing: the device polls)",
	"DELETE /api/v1/devices/{id}":                                "device.deleted",
	"POST /api/v1/devices/{id}/merge":                            "device.merged",
	"POST /api/v1/devices/{id}/unenroll":                         "device.unenrolled",
	"POST /api/v1/devices/{id}/block":                            "device.blocked",
	"DELETE /api/v1/devices/{id}/block":                          "device.unblocked",
	"DELETE /api/v1/devices/{id}/lost":                           "device.lost_withdrawn",
	"POST /api/v1/devices/{id}/renew-identity":                   "command.queued",
	"POST /api/v1/devices/{id}/require-sign-in":                  "device.sign_in_required",
	"POST /api/v1/devices/{id}/secrets/{kind}/reveal":            "secret.revealed",
	"DELETE /api/v1/devices/{id}/commands/{uuid}":                "command.cancelled",
	"POST /api/v1/groups":                                        "group.created",
	"PATCH /api/v1/groups/{id}":                                  "group.changed",
	"DELETE /api/v1/groups/{id}":                                 "group.deleted",
	"PUT /api/v1/groups/{id}/devices":                            "group.changed",
	"DELETE /api/v1/groups/{id}/devices":                         "group.changed",
	"POST /api/v1/commands":                                      "command.queued",
	"POST /api/v1/commands/check":                                "(a question)",
	"POST /api/v1/command-types/check":                           "(a question)",
	"POST /api/v1/commands/raw":                                  "command.queued",
	"POST /api/v1/commands/{uuid}/cancel":                        "command.cancelled",
	"POST /api/v1/commands/{uuid}/retry":                         "command.queued",
	"POST /api/v1/batches":                                       "command.queued",
	"POST /api/v1/profiles":                                      "profile.saved",
	"POST /api/v1/server/check":                                  "(a question)",
	"POST /api/v1/demo-devices":                                  "demo.added",
	"DELETE /api/v1/demo-devices":                                "demo.removed",
	"POST /api/v1/profiles/lint":                                 "(a question)",
	"PUT /api/v1/profiles/{id}":                                  "profile.saved",
	"DELETE /api/v1/profiles/{id}":                               "profile.deleted",
	"POST /api/v1/profiles/{id}/versions/{version}/restore":      "profile.saved",
	"POST /api/v1/profiles/{id}/check":                           "(a question)",
	"POST /api/v1/profiles/{id}/send":                            "profile.sent",
	"POST /api/v1/profiles/{id}/remove":                          "profile.removed",
	"POST /api/v1/starter-templates/{name}":                      "profile.saved",
	"POST /api/v1/certificates":                                  "certificate.issued",
	"POST /api/v1/certificates/{serial}/revoke":                  "certificate.revoked",
	"PATCH /api/manage/revoke/{serial}":                          "certificate.revoked",
	"POST /api/v1/certificate-templates":                         "template.created",
	"PUT /api/v1/certificate-templates/{name}":                   "template.changed",
	"DELETE /api/v1/certificate-templates/{name}":                "template.deleted",
	"POST /api/v1/certificate-templates/{name}/send":             "certificate.sent",
	"DELETE /api/v1/certificate-assignments/{name}/{device_id}":  "certificate.unassigned",
	"POST /api/v1/ca/{role}/import":                              "ca.imported",
	"POST /api/v1/ca/{role}/rollover":                            "ca.rollover_started",
	"POST /api/v1/ca/{role}/retire":                              "ca.retired",
	"PUT /api/v1/migration/profile":                              "migration.profile_set",
	"POST /api/v1/migration/authorities":                         "migration.authority_added",
	"DELETE /api/v1/migration/authorities/{id}":                  "migration.authority_deleted",
	"POST /api/v1/migration/devices":                             "migration.devices_taken",
	"POST /api/v1/tokens":                                        "token.created",
	"DELETE /api/v1/tokens/{id}":                                 "token.revoked",
	"POST /api/v1/users":                                         "user.created",
	"PATCH /api/v1/users/{id}":                                   "user.updated",
	"POST /api/v1/users/{id}/end-sessions":                       "user.sessions_ended",
	"DELETE /api/v1/users/{id}/sessions/{session}":               "session.ended",
	"DELETE /api/v1/sessions/{session}":                          "session.ended",
	"POST /api/v1/users/{id}/reset-second-factor":                "user.second_factor_reset",
	"POST /api/v1/identity-providers":                            "identity_provider.created",
	"PATCH /api/v1/identity-providers/{id}":                      "identity_provider.updated",
	"DELETE /api/v1/identity-providers/{id}":                     "identity_provider.deleted",
	"POST /api/v1/identity-providers/{id}/test":                  "(a question)",
	"POST /api/v1/webhooks":                                      "webhook.created",
	"PATCH /api/v1/webhooks/{id}":                                "webhook.changed",
	"DELETE /api/v1/webhooks/{id}":                               "webhook.deleted",
	"POST /api/v1/webhooks/{id}/test":                            "(a question)",
	"POST /api/v1/webhooks/{id}/enable":                          "webhook.changed",
	"POST /api/v1/webhooks/{id}/redeliver":                       "webhook.redelivered",
	"POST /api/v1/webhooks/{id}/deliveries/{delivery}/redeliver": "webhook.redelivered",
	"PUT /api/v1/push-certificates":                              "push_certificate.added",
	"POST /api/v1/push-certificates/import":                      "push_certificate.added",
	"PUT /api/v1/push-certificates/{topic}":                      "push_certificate.changed",
	"DELETE /api/v1/push-certificates/{topic}":                   "push_certificate.deleted",
	"POST /api/v1/push-certificates/{topic}/activate":            "push_certificate.activated",
	"POST /api/v1/push-certificate-requests":                     "(a key that nobody uses before the certificate is uploaded)",
	"DELETE /api/v1/push-certificate-requests/{id}":              "(a key that nobody uses)",
	"POST /api/v1/push-certificate-requests/{id}/mdmcert":        "(a file for Apple, which changes nothing here)",
	"PUT /api/v1/push-vendor-certificate":                        "push_vendor.stored",
	"DELETE /api/v1/push-vendor-certificate":                     "push_vendor.deleted",
	"POST /api/v1/account-driven/check":                          "(a question)",
	"PUT /api/v1/portal-texts/{lang}":                            "portal_texts.changed",
	"PATCH /api/v1/portal-texts/{lang}":                          "portal_texts.changed",
	"POST /api/v1/portal-texts/{lang}/preview":                   "(a question)",
	"PATCH /api/v1/settings":                                     "settings.changed",
	"PUT /api/v1/settings/logo":                                  "settings.changed",
	"DELETE /api/v1/settings/logo":                               "settings.changed",
	"POST /api/v1/settings/mail/test":                            "(a question to the mail server)",
	"DELETE /api/v1/apple-business":                              "apple_business.removed",
	"POST /api/v1/apple-business/check":                          "(a question)",
	"POST /api/v1/apple-business/key":                            "apple_business.key_created",
	"PUT /api/v1/apple-business/token":                           "apple_business.token_stored",
	"PUT /api/v1/apple-business/discovery-url":                   "apple_business.discovery_registered",
	"DELETE /api/v1/apple-business/discovery-url":                "apple_business.discovery_unregistered",
	"PUT /api/v1/account-driven":                                 "account_driven.changed",
}

// TestWhatChangesSomethingIsAudited holds who adds a route to a decision. That the events are
// recorded, the tests of each package hold, and the catalogue's test that there are such.
func TestWhatChangesSomethingIsAudited(t *testing.T) {
	storagetest.AnyEngine(t)
	mounted := map[string]bool{}
	for _, rt := range (&API{}).routes() {
		method, _, _ := strings.Cut(rt.pattern, " ")
		if mounted[rt.pattern] = true; method == http.MethodGet {
			continue
		}
		action, ok := audited[rt.pattern]
		known := slices.ContainsFunc(event.Types(), func(typ event.Type) bool { return typ.Action == action })
		if !ok || !known && !strings.HasPrefix(action, "(") {
			t.Errorf("%s changes something: say which event it leaves, or why it needs none; there is %q", rt.pattern, action)
		}
	}
	for pattern := range audited {
		if !mounted[pattern] {
			t.Errorf("%s is audited, and there is no such route", pattern)
		}
	}
}
