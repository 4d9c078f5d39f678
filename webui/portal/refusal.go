package portal

import (
	"errors"
	"net/http"

	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/enroll/machineinfo"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/webui/frame"
)

// Errors of the portal itself.
var (
	errUnknownVisit = errors.New("no enrollment has this ID")
	errClosed       = enroll.ErrPortalClosed
	errNotReady     = errors.New("the server is not set up yet")
	errCode         = errors.New("no link and no enrollment has this short code")
	errExpired      = errors.New("the attempt was not finished in time")
	errRevoked      = errors.New("the attempt's certificate was revoked")
	errMany         = errors.New("many enrollments were begun from this network")
	errOtherBrowser = errors.New("another browser began the enrollment, and nobody is asked to sign in")
	errDevice       = errors.New("the device was refused")
	errTooOld       = errors.New("the device's system is too old")
)

// refusals is the one place where what is wrong with an enrollment becomes an answer. The
// codes are in docs/errors.md.
var refusals = []struct {
	err     error
	refusal frame.Refusal
}{
	{enroll.ErrLinkUnknown, frame.Refusal{Code: "GH-E101", Status: http.StatusNotFound, Name: "link_unknown", Title: "No enrollment link has this code", Texts: "errors.link_unknown"}},
	{enroll.ErrLinkExpired, frame.Refusal{Code: "GH-E102", Status: http.StatusGone, Name: "link_expired", Title: "The enrollment link has expired", Texts: "errors.link_expired"}},
	{enroll.ErrLinkUsedUp, frame.Refusal{Code: "GH-E103", Status: http.StatusGone, Name: "link_used_up", Title: "The enrollment link has no uses left", Texts: "errors.link_used_up"}},
	{enroll.ErrLinkRevoked, frame.Refusal{Code: "GH-E104", Status: http.StatusGone, Name: "link_revoked", Title: "The enrollment link was revoked", Texts: "errors.link_revoked"}},
	{enroll.ErrLoginRequired, frame.Refusal{Code: "GH-E105", Status: http.StatusForbidden, Name: "login_required", Title: "The enrollment link asks for a login", Texts: "errors.login_required", Detail: "A profile of this link is for who has signed in: open the link in a browser."}},
	{enroll.ErrUserDisabled, frame.Refusal{Code: "GH-E106", Status: http.StatusForbidden, Name: "user_disabled", Title: "The user of the enrollment link may not enroll devices", Texts: "errors.user_disabled"}},
	{errCode, frame.Refusal{Code: "GH-E107", Status: http.StatusNotFound, Name: "code_unknown", Title: "Nothing has this short code", Texts: "errors.code_unknown", Action: "/enroll"}},
	{identity.ErrThrottled, frame.Refusal{Code: "GH-E108", Status: http.StatusTooManyRequests, Name: "too_many_guesses", Title: "There were too many wrong codes", Texts: "errors.too_many_guesses"}},
	{errClosed, frame.Refusal{Code: "GH-E109", Status: http.StatusForbidden, Name: "portal_closed", Title: "Enrollment is by link only", Texts: "errors.portal_closed", Action: "/enroll"}},
	{errNotReady, frame.Refusal{Code: "GH-E110", Status: http.StatusServiceUnavailable, Name: "not_ready", Title: "The server is not set up yet", Texts: "errors.not_ready"}},
	{errNoRight, frame.Refusal{Code: "GH-E111", Status: http.StatusForbidden, Name: "may_not_enroll", Title: "This user may not enroll devices", Texts: "errors.no_right"}},
	{errGroup, frame.Refusal{Code: "GH-E112", Status: http.StatusForbidden, Name: "may_not_enroll", Title: "This user is in no group that may enroll devices", Texts: "errors.group"}},
	{errProvider, frame.Refusal{Code: "GH-E113", Status: http.StatusForbidden, Name: "may_not_enroll", Title: "Accounts of this provider are not for enrolling devices", Texts: "errors.provider", Action: "/enroll"}},
	{enroll.ErrLinkForeign, frame.Refusal{Code: "GH-E114", Status: http.StatusForbidden, Name: "link_foreign", Title: "The enrollment link is for another user", Texts: "errors.link_foreign"}},
	{enroll.ErrOtherPerson, frame.Refusal{Code: "GH-E115", Status: http.StatusForbidden, Name: "other_person", Title: "Another person began this enrollment", Texts: "errors.other_person", Action: "/enroll"}},
	{errUnknownVisit, frame.Refusal{Code: "GH-E116", Status: http.StatusNotFound, Name: "attempt_unknown", Title: "No enrollment has this ID", Texts: "errors.attempt_unknown", Action: "/enroll"}},
	{enroll.ErrAttemptOver, frame.Refusal{Code: "GH-E117", Status: http.StatusConflict, Name: "attempt_over", Title: "The enrollment is past this step", Texts: "errors.attempt_over", Action: "/enroll"}},
	{enroll.ErrNotReady, frame.Refusal{Code: "GH-E118", Status: http.StatusConflict, Name: "attempt_not_ready", Title: "The enrollment is not at this step yet", Texts: "errors.attempt_not_ready", Action: "/enroll"}},
	{errExpired, frame.Refusal{Code: "GH-E119", Status: http.StatusGone, Name: "attempt_expired", Title: "The enrollment was not finished in time", Texts: "errors.attempt_expired", Action: "/enroll"}},
	{errField, frame.Refusal{Code: "GH-E120", Status: http.StatusUnprocessableEntity, Name: "invalid_field", Title: "The form holds a value that it does not offer", Texts: "errors.field", Action: "/enroll"}},
	{enroll.ErrServiceRequired, frame.Refusal{Code: "GH-E121", Status: http.StatusForbidden, Name: "profile_service_required", Title: "The device must say what it is first", Texts: "errors.service_required", Detail: "This server lets in devices that prove to be Apple's, at the portal alone: open the link in a browser, on the device."}},
	{enroll.ErrOwnershipOff, frame.Refusal{Code: "GH-E122", Status: http.StatusForbidden, Name: "ownership_off", Title: "Devices of this ownership are not enrolled here", Texts: "errors.ownership_off", Action: "/enroll"}},
	{errMany, frame.Refusal{Code: "GH-E123", Status: http.StatusTooManyRequests, Name: "too_many_enrollments", Title: "Many enrollments were begun from this network", Texts: "errors.many"}},
	{errOtherBrowser, frame.Refusal{Code: "GH-E124", Status: http.StatusForbidden, Name: "other_browser", Title: "Another browser began this enrollment", Texts: "errors.other_browser", Action: "/enroll"}},
	{enroll.ErrNoPushCertificate, frame.Refusal{Code: "GH-E125", Status: http.StatusServiceUnavailable, Name: "push_certificate_missing", Title: "There is no push certificate that devices could be woken by", Texts: "errors.no_push", Action: "/enroll"}},

	{enroll.ErrStatement, frame.Refusal{Code: "GH-E301", Status: http.StatusBadRequest, Name: "statement_invalid", Title: "What the device states of itself is not valid", Texts: "errors.statement", Action: "/enroll"}},
	{machineinfo.ErrNotApple, frame.Refusal{Code: "GH-E302", Status: http.StatusForbidden, Name: "device_not_genuine", Title: "The device does not prove that Apple made it", Texts: "errors.not_genuine"}},
	{enroll.ErrDelivery, frame.Refusal{Code: "GH-E303", Status: http.StatusGone, Name: "delivery_over", Title: "The profile that asked the device is not in force", Texts: "errors.delivery", Action: "/enroll"}},
	{enroll.ErrSerialNumber, frame.Refusal{Code: "GH-E304", Status: http.StatusForbidden, Name: "serial_number_not_listed", Title: "The enrollment link is for other devices", Texts: "errors.serial_number"}},
	{enroll.ErrDeviceOwned, frame.Refusal{Code: "GH-E305", Status: http.StatusForbidden, Name: "device_owned", Title: "The device is enrolled for somebody else", Texts: "errors.device_owned"}},
	{mdm.ErrBlocked, frame.Refusal{Code: "GH-E306", Status: http.StatusForbidden, Name: "device_blocked", Title: "The device is blocked", Texts: "errors.device_blocked"}},
	{enroll.ErrOtherDevice, frame.Refusal{Code: "GH-E307", Status: http.StatusForbidden, Name: "other_device", Title: "The profile was given to another device", Texts: "errors.other_device", Action: "/enroll"}},
	{errRevoked, frame.Refusal{Code: "GH-E308", Status: http.StatusForbidden, Name: "identity_revoked", Title: "The device's certificate was revoked", Texts: "errors.identity_revoked", Action: "/enroll"}},
	{enroll.ErrOtherKind, frame.Refusal{Code: "GH-E310", Status: http.StatusForbidden, Name: "other_kind", Title: "The device enrolled in another way than its profile says", Texts: "errors.other_kind", Action: "/enroll"}},

	// What stops people who sign in in their device's settings is told there, too, by package
	// webui/account.
	{enroll.ErrAccountMissing, frame.Refusal{Code: "GH-E502", Status: http.StatusForbidden, Name: "account_missing", Title: "The user has no Managed Apple Account", Texts: "portal.refused.missing"}},
	{enroll.ErrAccountForeign, frame.Refusal{Code: "GH-E503", Status: http.StatusForbidden, Name: "account_foreign", Title: "The user's Managed Apple Account may not enroll here", Texts: "portal.refused.foreign"}},
	{enroll.ErrModeOff, frame.Refusal{Code: "GH-E505", Status: http.StatusForbidden, Name: "mode_off", Title: "Such devices are not enrolled by account here", Texts: "portal.refused.off", Action: "/enroll"}},
	{errTooOld, frame.Refusal{Code: "GH-E506", Status: http.StatusForbidden, Name: "system_too_old", Title: "The device's system is too old", Texts: "portal.refused.old", Action: "/enroll"}},

	{errDevice, frame.Refusal{Code: "GH-E309", Status: http.StatusForbidden, Name: "device_refused", Title: "The device was refused", Texts: "errors.device_refused", Action: "/enroll"}},
}

// Reasons why somebody may not enroll, which identity tells in a *identity.DeniedError.
var (
	errNoRight  = errors.New("the user has no right to")
	errGroup    = errors.New("the user is in no group that may")
	errProvider = errors.New("accounts of the provider are not for this")
	errField    = errors.New("a form's value is not one that it offers")
)

// Refusals are all refusals of the portal, for tests and documents.
func Refusals() []frame.Refusal {
	all := make([]frame.Refusal, len(refusals))
	for i := range refusals {
		all[i] = refusals[i].refusal
	}
	return all
}

// refusal returns the answer to an error that has one, which is err itself if it has none.
func refusal(err error) error {
	for i := range refusals {
		if errors.Is(err, refusals[i].err) {
			r := refusals[i].refusal
			if err != refusals[i].err {
				r.Err = err
			}
			return &r
		}
	}
	return err
}

// explain turns an error into what a person is told of it.
func explain(err error) error {
	var already *frame.Refusal
	var field *enroll.FieldError
	switch {
	case err == nil || errors.As(err, &already):
		return err
	case errors.As(err, &field):
		r := refusal(errField).(*frame.Refusal)
		r.Err, r.Detail = err, field.Error()
		return r
	case errors.Is(err, identity.ErrMayNotEnroll):
		r := refusal(denialOf(err)).(*frame.Refusal)
		r.Err = err
		return r
	}
	return refusal(err)
}

// unknownVisit is explain for an error that may be storage.ErrNotFound.
func unknownVisit(err error) error {
	if errors.Is(err, storage.ErrNotFound) {
		return refusal(errUnknownVisit)
	}
	return explain(err)
}

// denialOf is the reason of an error that wraps identity.ErrMayNotEnroll.
func denialOf(err error) error {
	var denied *identity.DeniedError
	if errors.As(err, &denied) {
		switch denied.Denial {
		case identity.DeniedDisabled:
			return enroll.ErrUserDisabled
		case identity.DeniedGroup:
			return errGroup
		case identity.DeniedProvider:
			return errProvider
		}
	}
	return errNoRight
}

// failure is what ended an attempt, by its code. Of several that share one, it is the
// first.
func failure(code string) *frame.Refusal {
	for i := range refusals {
		if refusals[i].refusal.Name == code {
			r := refusals[i].refusal
			return &r
		}
	}
	r := refusal(errDevice).(*frame.Refusal)
	r.Detail = code
	return r
}
