package event

import (
	"slices"
	"strings"
	"time"
)

// Type is what there is to know of an action that is recorded.
type Type struct {
	Action string // "certificate.issued"
	Text   string // what has happened, as one sentence

	// Fields are the members of the event, "device_id" for one, and Details the keys of its
	// details that leave the server. What is not listed stays.
	Fields  []string
	Details []string
}

// Field lists that many actions have in common. id, at, action and outcome are published
// of every action.
const (
	byWhom    = "actor"
	ofDevice  = "actor device_id user"
	ofCert    = "actor reason device_id user certificate template"
	ofUser    = "actor user"
	ofRefusal = "actor reason user peer"
)

// types is sorted by action.
var types = []Type{
	newType("account_driven.changed", "Somebody changed the settings of account-driven enrollment.", byWhom, ""),
	newType("activation_lock.unlock_requested", "Somebody asked Apple to take the Activation Lock off a device.", "actor reason", "topic serial_number status"),
	newType("apple_business.discovery_registered", "Somebody told Apple where devices find this server.", byWhom, "url"),
	newType("apple_business.discovery_unregistered", "Somebody took back what Apple tells devices of this server.", byWhom, "url"),
	newType("apple_business.key_created", "Somebody made a new key for the link with Apple Business or School Manager.", byWhom, "sha256"),
	newType("apple_business.removed", "Somebody removed the link with Apple Business or School Manager.", byWhom, ""),
	newType("apple_business.token_renewed", "Somebody stored a newer token of Apple Business or School Manager.", byWhom, "expires server organisation"),
	newType("apple_business.token_stored", "Somebody stored a token of Apple Business or School Manager.", byWhom, "expires server organisation"),
	newType("audit.anchored", "The audit log’s hash was noted, to be kept elsewhere.", "", "seq hash"),
	newType("ca.activated", "An authority came into force.", byWhom, "authority to per_hour forced"),
	newType("ca.expiring", "An authority expires before long.", byWhom, "authority id state subject not_after"),
	newType("ca.generated", "Somebody made a new authority.", byWhom, "authority id subject"),
	newType("ca.imported", "Somebody brought an authority from elsewhere.", byWhom, "authority id subject"),
	newType("ca.retired", "Somebody retired an authority.", byWhom, "authority id subject forced certificates"),
	newType("ca.rollover_finished", "All devices have a certificate of the new authority.", byWhom, "authority to per_hour forced"),
	newType("ca.rollover_started", "Devices begin to get certificates of the new authority.", byWhom, "authority to per_hour forced"),
	newType("certificate.expiring", "A certificate that a device uses expires before long, and was not renewed.", ofCert, "not_after"),
	newType("certificate.failed", "A certificate could not be had, though it was allowed.", ofCert, "door transaction upstream"),
	newType("certificate.issued", "A certificate was issued.", ofCert, "attempt door subject replaces upstream"),
	newType("certificate.refused", "Somebody or something asked for a certificate and was refused.", ofCert+" peer", "door transaction count"),
	newType("certificate.revoked", "A certificate was revoked.", ofCert, "note"),
	newType("certificate.sent", "A device was told to get a certificate.", ofCert, "profile"),
	newType("certificate.unassigned", "A certificate was taken off a device.", ofCert, ""),
	newType("command.cancelled", "Somebody cancelled a command.", byWhom, "command_uuid batch request_type devices"),
	newType("command.finished", "A command came to its end on a device: it was acknowledged, failed, expired or was cancelled.", "actor reason device_id user", "command_uuid request_type state error_code error_domain superseded_by"),
	newType("command.queued", "Somebody, or the server for a reason of its own, queued a command.", "actor device_id", "command_uuid batch request_type devices"),
	newType("demo.added", "Somebody had simulated devices enroll, to look around.", byWhom, "devices"),
	newType("demo.removed", "Somebody removed the simulated devices.", byWhom, "devices"),
	newType("device.blocked", "Somebody blocked a device.", ofDevice, ""),
	newType("device.checked_in", "A device began its enrollment.", ofDevice, "attempt enrollment_type serial_number model os_version again"),
	newType("device.deleted", "Somebody deleted the record of a device.", ofDevice+" reason", "enrollment_type device_name serial_number merged_into"),
	newType("device.enrolled", "A device is enrolled: commands reach it.", ofDevice, "attempt parent enrollment_type serial_number model os_version again"),
	newType("device.lost_reported", "A person reported their device as lost.", ofDevice, ""),
	newType("device.lost_withdrawn", "A device that was reported as lost was found.", ofDevice, ""),
	newType("device.merged", "Somebody merged the former record of a device into its present one.", ofDevice, "from"),
	newType("device.migrated", "A device came over from another server.", ofDevice+" reason certificate", "source fingerprint issuer"),
	newType("device.noted", "Somebody wrote a note about a device, or removed it.", ofDevice, "note note_before"),
	newType("device.push_token_dead", "Apple knows no device with this push token any more.", ofDevice+" reason", "topic reason"),
	newType("device.refused", "A device with an enrollment profile was turned away.", ofDevice+" reason peer", "attempt code udid serial_number count"),
	newType("device.removal_requested", "A person asked that management be removed from their device.", ofDevice, ""),
	newType("device.sign_in_required", "A device has to sign in again.", ofDevice, ""),
	newType("device.turned_away", "A device of another server came and was told to stay there.", ofDevice+" reason certificate", "source fingerprint issuer"),
	newType("device.unblocked", "Somebody lifted the block of a device.", ofDevice, ""),
	newType("device.unenrolled", "A device is not managed any more.", ofDevice+" reason", ""),
	newType("group.changed", "Somebody changed a group of devices, or which devices are in it.", byWhom, "group name name_before changed rule rule_before devices devices_before added removed"),
	newType("group.created", "Somebody made a group of devices.", byWhom, "group name rule"),
	newType("group.deleted", "Somebody deleted a group of devices.", byWhom, "group name devices"),
	newType("identity_provider.check_stopped", "Looking for people who left a directory was stopped: too many were missing.", byWhom, "provider name kind people missing"),
	newType("identity_provider.created", "Somebody added an identity provider.", byWhom, "provider name kind"),
	newType("identity_provider.deleted", "Somebody deleted an identity provider.", byWhom, "provider name kind"),
	newType("identity_provider.updated", "Somebody changed an identity provider.", byWhom, "provider name kind changed"),
	newType("invitation.created", "Somebody invited people to enroll.", byWhom, "invitation name addresses"),
	newType("invitation.failed", "An invitation could not be sent.", "actor reason user", "invitation link"),
	newType("invitation.retried", "Somebody had invitations sent again.", byWhom, "invitation addresses"),
	newType("invitation.revoked", "Somebody took an invitation back.", byWhom, "invitation name"),
	newType("invitation.sent", "An invitation was sent.", ofUser, "invitation link"),
	newType("link.changed", "Somebody changed an enrollment link.", ofUser, "link name"),
	newType("link.created", "Somebody made an enrollment link.", ofUser, "link name"),
	newType("link.revoked", "Somebody revoked an enrollment link.", ofUser, "link name"),
	newType("migration.authority_added", "Somebody allowed devices of another server to come with its certificates.", byWhom, "id subject claims_until"),
	newType("migration.authority_deleted", "Devices of another server may not come with its certificates any more.", byWhom, "id"),
	newType("migration.devices_taken", "Somebody took over devices of another server.", byWhom, "source taken updated unchanged skipped"),
	newType("migration.profile_set", "Somebody said which enrollment profile devices of another server have.", byWhom, "identifier"),
	newType("portal_texts.changed", "Somebody changed texts of the portal.", byWhom, "lang count texts"),
	newType("profile.deleted", "Somebody deleted a profile from the library.", byWhom, "profile identifier"),
	newType("profile.drifted", "A device has something else than the profile that it was sent.", ofDevice, "profile identifier"),
	newType("profile.failed", "A device refused a profile, or never fetched it.", ofDevice, "profile identifier"),
	newType("profile.installed", "A device has installed a profile.", ofDevice, "profile identifier"),
	newType("profile.removed", "A profile was removed from devices.", ofDevice, "profile identifier devices"),
	newType("profile.removing", "The removal of a profile is on its way.", ofDevice, "profile identifier"),
	newType("profile.saved", "Somebody saved a version of a profile.", byWhom, "profile identifier version"),
	newType("profile.sent", "A profile was sent to devices.", ofDevice, "profile identifier version devices batch"),
	newType("push.failing", "Devices of a push topic can't be woken.", "actor reason", "topic trouble reason"),
	newType("push.recovered", "Devices of a push topic can be woken again.", byWhom, "topic trouble reason"),
	newType("push_certificate.activated", "A push certificate is in use now.", byWhom, "topic apple_account sha256 not_after"),
	newType("push_certificate.added", "Somebody added a push certificate.", byWhom, "topic apple_account sha256 not_after"),
	newType("push_certificate.changed", "Somebody changed what is noted of a push certificate.", byWhom, "topic apple_account"),
	newType("push_certificate.deleted", "Somebody deleted a push certificate.", byWhom, "topic apple_account sha256"),
	newType("push_certificate.expiring", "A push certificate expires before long, or has expired.", "actor reason", "topic days apple_account not_after"),
	newType("push_certificate.renewed", "Somebody renewed a push certificate.", byWhom, "topic apple_account sha256 not_after"),
	newType("push_certificate.uploaded", "Somebody uploaded a push certificate, to be activated later.", byWhom, "topic apple_account sha256 not_after"),
	newType("push_request.deleted", "Somebody deleted a request for a push certificate.", byWhom, "request kind topic apple_account"),
	newType("push_request.made", "Somebody requested a push certificate.", byWhom, "request kind topic apple_account"),
	newType("push_request.signed", "Somebody brought a request for a push certificate back signed.", byWhom, "request kind topic apple_account"),
	newType("push_vendor.deleted", "Somebody deleted the vendor certificate that requests are signed by.", byWhom, ""),
	newType("push_vendor.stored", "Somebody stored a vendor certificate, to sign requests by.", byWhom, "sha256 not_after"),
	newType("secret.revealed", "Somebody looked at a secret of a device.", ofDevice+" reason", "kind count"),
	newType("session.ended", "Somebody ended a session of a user.", ofUser, "session browser"),
	newType("settings.changed", "Somebody changed the settings of enrollment.", byWhom, ""),
	newType("setup_link.used", "The setup link was used to sign in.", byWhom, ""),
	newType("template.changed", "Somebody changed a certificate template.", "actor template", ""),
	newType("template.created", "Somebody made a certificate template.", "actor template", ""),
	newType("template.deleted", "Somebody deleted a certificate template.", "actor template", ""),
	newType("token.created", "Somebody made an API token.", ofUser, "token name scopes groups"),
	newType("token.revoked", "Somebody revoked an API token.", ofUser, "token name scopes groups"),
	newType("user.created", "Somebody made a user.", ofUser, "role provider groups"),
	newType("user.disabled", "Somebody disabled a user.", ofUser+" reason", "provider name kind"),
	newType("user.enabled", "Somebody enabled a user.", ofUser, ""),
	newType("user.login", "Somebody signed in, or was refused.", ofRefusal, "provider second_factor name kind count"),
	newType("user.password_changed", "A user changed their password, or gave a wrong one when they tried.", ofRefusal, ""),
	newType("user.recovery_codes_made", "A user made new recovery codes.", ofUser, ""),
	newType("user.second_factor", "Somebody gave a wrong second factor.", ofRefusal, "count"),
	newType("user.second_factor_removed", "A user removed their second factor.", ofUser, ""),
	newType("user.second_factor_reset", "Somebody took a user's second factor away, for it to be set up anew.", ofUser, ""),
	newType("user.second_factor_set_up", "A user set up a second factor.", ofUser, ""),
	newType("user.sessions_ended", "Somebody ended all sessions of a user.", ofUser, ""),
	newType("user.updated", "Somebody changed a user.", ofUser, "changed role was groups groups_before"),
	newType("webhook.changed", "Somebody changed a webhook.", byWhom, "webhook name host changed"),
	newType("webhook.created", "Somebody made a webhook.", byWhom, "webhook name host"),
	newType("webhook.deleted", "Somebody deleted a webhook.", byWhom, "webhook name host"),
	newType("webhook.disabled", "A webhook was switched off: it said that it is gone.", "actor reason", "webhook name host"),
	newType("webhook.dropped", "Deliveries of a webhook were left out: too many wait.", "actor reason", "webhook name host count"),
	newType("webhook.failing", "A webhook does not answer as it should.", "actor reason", "webhook name host"),
	newType("webhook.gave_up", "A delivery of a webhook was tried as often as it may be, and failed.", "actor reason", "webhook name host"),
	newType("webhook.recovered", "A webhook answers again.", byWhom, "webhook name host"),
	newType("webhook.redelivered", "Somebody had deliveries of a webhook sent again.", byWhom, "webhook name host count"),
	newType("webhook.test", "Somebody tries a webhook: nothing has happened.", byWhom, "webhook name host"),
}

func newType(action, text, fields, details string) Type {
	return Type{Action: action, Text: text, Fields: append([]string{"id", "at", "action", "outcome"}, strings.Fields(fields)...), Details: strings.Fields(details)}
}

// Types returns every action that there is, in the order of their names.
func Types() []Type {
	all := slices.Clone(types)
	for i := range all {
		all[i].Fields, all[i].Details = slices.Clone(all[i].Fields), slices.Clone(all[i].Details)
	}
	return all
}

// Publish returns what of e may leave the server, as the members of a JSON object, and
// whether its action is a known one. Of an action that is not, nothing leaves but when it
// happened. Members that are empty are not there.
func Publish(e Event) (map[string]any, bool) {
	i, ok := slices.BinarySearchFunc(types, e.Action, func(t Type, action string) int { return strings.Compare(t.Action, action) })
	if !ok {
		return map[string]any{"id": e.ID, "at": e.At.UTC().Format(time.RFC3339Nano), "action": e.Action}, false
	}
	all := e.fields()
	out := make(map[string]any, len(types[i].Fields)+1)
	for _, name := range types[i].Fields {
		if value, ok := all[name]; ok {
			out[name] = value
		}
	}
	details := make(map[string]any)
	for _, key := range types[i].Details {
		if value, ok := e.Details[key]; ok {
			details[key] = value
		}
	}
	if len(details) > 0 {
		out["details"] = details
	}
	return out, true
}
