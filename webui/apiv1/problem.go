package apiv1

import (
	"errors"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

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
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/webui"
)

// problem is an answer that says what was wrong (RFC 9457).
type problem struct {
	webui.Problem
	Errors   []fieldError `json:"errors,omitempty"`   // what is wrong in the request, field by field
	Rejected []rejection  `json:"rejected,omitempty"` // which devices may not get a command

	Blockers []blockerJSON `json:"blockers,omitempty"` // why an authority can't be retired

	challenge  string        // for WWW-Authenticate
	retryAfter time.Duration // 0: it does not help to wait
}

// fieldError says what is wrong with one field of a request.
type fieldError struct {
	Field  string `json:"field"`  // "params.Queries[2]"
	Detail string `json:"detail"` // "must be a string"
}

// problems is where errors become answers. Anything else is our own fault: a 500
// whose text stays in the log.
var problems = []struct {
	err         error
	status      int
	code, title string
	explain     bool // the error's text is for the client
}{
	{storage.ErrNotFound, http.StatusNotFound, "not_found", "Not found", false},
	{storage.ErrBadCursor, http.StatusBadRequest, "invalid_cursor", "The cursor is not one of this list", false},
	{identity.ErrInvalid, http.StatusBadRequest, "invalid_request", "The request is not valid", true},
	{identity.ErrForbidden, http.StatusForbidden, "forbidden", "Not allowed", true},
	{identity.ErrTaken, http.StatusConflict, "user_exists", "There is such a user", true},
	{identity.ErrProviderInUse, http.StatusConflict, "provider_in_use", "Users belong to the provider: ?force=true deletes it all the same, and they can’t sign in then", false},
	{identity.ErrLastOwner, http.StatusConflict, "last_owner", "The last owner who can log in must stay one", false},
	{template.ErrNameTaken, http.StatusConflict, "template_exists", "There is a template of this name, perhaps in other case", false},
	{issuance.ErrInUse, http.StatusConflict, "template_in_use", "The template is assigned to devices: ?force=true ends that", false},
	{issuance.ErrForbidden, http.StatusForbidden, "forbidden", "Not allowed", true},
	{issuance.ErrExternal, http.StatusConflict, "external_issuer", "Another authority issues certificates of this template", false},
	{issuance.ErrKeyReused, http.StatusConflict, "key_reused", "The key is in use by another certificate", false},
	{depot.ErrNextExists, http.StatusConflict, "ca_next_exists", "There is a next authority already: roll over to it, or retire it", false},
	{depot.ErrAuthorityHere, http.StatusConflict, "ca_exists", "An authority with this key identifier is here already", false},
	{depot.ErrNotRetirable, http.StatusConflict, "ca_not_retirable", "Only an authority that is next or retiring can be retired: roll over first", false},
	{depot.ErrNotSettled, http.StatusConflict, "ca_not_settled", "The authority issued certificates less than a minute ago: ask again then", false},
	{depot.ErrAuthorityExpired, http.StatusConflict, "ca_expired", "The authority has expired", false},
	{enroll.ErrRolloverUnderWay, http.StatusConflict, "rollover_under_way", "A rollover of this authority is under way", false},
	{profile.ErrNotProfile, http.StatusUnprocessableEntity, "not_a_profile", "The body is not a configuration profile", true},
	{profile.ErrNoStarter, http.StatusNotFound, "not_found", "Not found", false},
	{library.ErrReserved, http.StatusConflict, "profile_reserved", "This server uses that PayloadIdentifier for profiles of its own: give the profile another", false},
	{library.ErrOtherIdentifier, http.StatusConflict, "other_profile", "The PayloadIdentifier is another profile’s: POST it to /api/v1/profiles", false},
	{library.ErrInUse, http.StatusConflict, "profile_in_use", "The profile is on devices: remove it from them first", false},
	{library.ErrTooManyVersions, http.StatusConflict, "too_many_versions", "The profile has too many versions: delete it and begin anew", false},
	{issuance.ErrCarried, http.StatusConflict, "certificate_of_profile", "A profile brings the certificate: remove that from the device", false},
	{command.ErrRaw, http.StatusBadRequest, "invalid_command", "The body is not a command", true},
	{mdm.ErrCommandExists, http.StatusConflict, "command_exists", "Another command has this CommandUUID", false},
	{mdm.ErrCommandDelivered, http.StatusConflict, "command_delivered", "The device has the command already", false},
	{mdm.ErrCommandFinished, http.StatusConflict, "command_finished", "The command is finished", false},
	{mdm.ErrNotRevealable, http.StatusUnprocessableEntity, "secret_not_revealable", "This secret is for the server alone", false},
	{mdm.ErrNotEnrolled, http.StatusConflict, "not_enrolled", "The device is not enrolled", false},
	{enroll.ErrNotByAccount, http.StatusConflict, "not_by_account", "The device was not enrolled by account: nobody has signed in on it", false},
	{mdm.ErrBlocked, http.StatusConflict, "blocked", "The device is blocked", false},
	{mdm.ErrEnrolled, http.StatusConflict, "still_enrolled", "The device is enrolled, or about to be: unenroll it first", false},
	{enroll.ErrUserBlocked, http.StatusConflict, "user_blocked", "One of the device's users is blocked: unblock that one first", false},
	{enroll.ErrSameDevice, http.StatusConflict, "same_device", "A device can't be merged into itself", false},
	{enroll.ErrUserChannel, http.StatusConflict, "user_channel", "Only devices can be merged, not users of one", false},
	{mdm.ErrNotesTooLong, http.StatusConflict, "notes_too_long", "The notes on both devices are too long to be one: shorten one of them first", false},
	{enroll.ErrLinkRevoked, http.StatusConflict, "link_revoked", "The enrollment link was revoked", false},
	{enroll.ErrProfileUnknown, http.StatusConflict, "profile_unknown", "The device came from another server, and the name of its enrollment profile is not known: see PUT /api/v1/migration/profile", false},
	{enroll.ErrLogo, http.StatusBadRequest, "invalid_logo", "The picture can't be the organisation's logo", true},
	{invite.ErrRevoked, http.StatusConflict, "invitation_revoked", "The invitation was revoked", false},
	{mail.ErrNotConfigured, http.StatusConflict, "mail_not_configured", "No mail server is configured: name one under mail in /api/v1/settings", false},
	{business.ErrNoKey, http.StatusConflict, "apple_business_no_key", "A token needs a key to be for: make it by POST /api/v1/apple-business/key", false},
	{business.ErrNoLink, http.StatusConflict, "apple_business_not_linked", "There is no server token: upload one by PUT /api/v1/apple-business/token", false},
	{business.ErrRegistered, http.StatusConflict, "apple_business_registered", "Apple sends devices here: delete the discovery URL first, or ?force=true forgets the link all the same", false},
	{business.ErrNotHTTPS, http.StatusConflict, "apple_url_refused", "Apple takes only https URLs, and this server’s is none: see --server-url", false},
	{mdm.ErrGroupExists, http.StatusConflict, "group_exists", "There is a group of this name, perhaps in other case", true},
	{mdm.ErrGroupHasRule, http.StatusConflict, "group_has_rule", "A rule says which devices are in the group: change that", false},
	{mdm.ErrGroupHasNone, http.StatusConflict, "group_has_no_rule", "The group has no rule: devices are put into it", false},
	{mdm.ErrTooManyGroups, http.StatusConflict, "too_many_groups", "There are too many groups: delete some first", false},
	{errKeyReused, http.StatusUnprocessableEntity, "idempotency_key_reused", "The Idempotency-Key belongs to another request", false},
}

// Fail answers r with the problem that err stands for. It also serves for what no
// route takes.
func (a *API) Fail(w http.ResponseWriter, r *http.Request, err error) {
	p := problemOf(err)
	if p == nil {
		a.unknown(w, r, err)
		return
	}
	if p.challenge != "" {
		w.Header().Set("WWW-Authenticate", p.challenge)
	}
	if p.retryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(p.retryAfter.Seconds()))))
	}
	p.Type = "about:blank"
	p.RequestID = webui.RequestID(r.Context())
	webui.WriteProblemJSON(w, p.Status, p)
}

// problemOf returns a problem of its own for err, or nil if err is none of the
// API's.
func problemOf(err error) *problem {
	var (
		ready     *problem
		parameter *command.ParamError
		field     *enroll.FieldError
		ofNames   *template.FieldError
		fields    template.FieldErrors
		ofRequest *depot.FieldError
		ofUser    *identity.FieldError
		invited   invite.FieldErrors
		asking    *inventory.FieldError
		ofProfile *library.FieldError
		variables *library.VariablesError
	)
	switch {
	case errors.As(err, &ready):
		own := *ready
		return &own
	case errors.As(err, &parameter):
		return invalid(parameter.Path, parameter.Reason)
	case errors.As(err, &field):
		return invalid(field.Field, field.Reason)
	case errors.As(err, &asking):
		return invalid("inventory."+asking.Field, asking.Reason)
	case errors.As(err, &invited):
		p := invalid(invited[0].Field, invited[0].Reason)
		for _, e := range invited[1:] {
			p.Errors = append(p.Errors, fieldError{e.Field, e.Reason})
		}
		if n := len(invited) - 1; n > 0 { // there may be a thousand
			p.Detail += fmt.Sprintf(" So it is with %d more.", n)
		}
		return p
	case errors.As(err, &ofProfile):
		return invalid(ofProfile.Field, ofProfile.Reason)
	case errors.As(err, &variables):
		p := &problem{Problem: webui.Problem{
			Status: http.StatusUnprocessableEntity, Code: "unknown_variables", Title: "The profile has variables that nobody knows", Detail: variables.Error() + " Nothing was sent.",
		}}
		for _, f := range variables.Findings {
			p.Errors = append(p.Errors, fieldError{f.Path(), f.Reason})
		}
		return p
	case errors.As(err, &ofNames):
		return invalid(ofNames.Field, ofNames.Reason)
	case errors.As(err, &fields):
		bad := make([]fieldError, len(fields))
		for i, e := range fields {
			bad[i] = fieldError{e.Field, e.Reason}
		}
		return invalids(bad)
	case errors.As(err, &ofRequest):
		return invalid(ofRequest.Field, ofRequest.Reason)
	case errors.Is(err, depot.ErrQuota):
		return &problem{
			Problem: webui.Problem{
				Status: http.StatusTooManyRequests, Code: "too_many_requests", Title: "Too many certificate requests", Detail: "Retry-After says when to ask again.",
			},
			retryAfter: depot.RetryAfter(err),
		}
	case errors.Is(err, identity.ErrThrottled):
		return &problem{
			Problem: webui.Problem{
				Status: http.StatusTooManyRequests, Code: "too_many_requests", Title: "Too many failed tries", Detail: "Retry-After says when to ask again.",
			},
			retryAfter: identity.RetryAfter(err),
		}
	case errors.As(err, &ofUser):
		return invalid(ofUser.Field, ofUser.Reason)
	case errors.Is(err, command.ErrUnknownType):
		return invalid("request_type", "must be one that /api/v1/command-types lists; others go to /api/v1/commands/raw")
	case errors.Is(err, identity.ErrTokenExpired):
		return &problem{
			Problem: webui.Problem{
				Status: http.StatusUnauthorized, Code: "token_expired", Title: "The token has expired", Detail: "Make another one: under Users, API tokens, or with gatehouse token create.",
			},
			challenge: realm + `, error="invalid_token"`,
		}
	case errors.Is(err, identity.ErrUnauthenticated):
		return &problem{
			Problem:   webui.Problem{Status: http.StatusUnauthorized, Code: "unauthenticated", Title: "Not authenticated", Detail: "The token is not valid."},
			challenge: realm + `, error="invalid_token"`,
		}
	}
	for _, known := range problems {
		if !errors.Is(err, known.err) {
			continue
		}
		p := &problem{Problem: webui.Problem{Status: known.status, Code: known.code, Title: known.title}}
		if known.explain {
			p.Detail = after(err.Error(), known.err.Error()+": ")
		}
		return p
	}
	return nil
}

// invalid is the problem of a request with a wrong field.
func invalid(field, detail string) *problem {
	return &problem{
		Problem: webui.Problem{
			Status: http.StatusBadRequest, Code: "invalid_request", Title: "The request is not valid", Detail: field + " " + detail + ".",
		},
		Errors: []fieldError{{field, detail}},
	}
}

// after returns what text says after the first mark, which is what was added to
// an error by whoever wrapped it in the domain.
func after(text, mark string) string {
	if _, rest, ok := strings.Cut(text, mark); ok {
		return rest
	}
	return text
}
