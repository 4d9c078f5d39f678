package account

import (
	"errors"
	"net/http"

	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/webui/frame"
)

// Reasons why somebody may not enroll, which identity tells in a *identity.DeniedError, and
// a system that is too old.
var (
	errGroup    = errors.New("the user is in no group that may")
	errProvider = errors.New("accounts of the provider are not for this")
	errOld      = errors.New("the device’s system is too old")
)

// refusals is the one place where what is wrong with a sign-in becomes an answer: the first
// that fits. The codes are in docs/errors.md. Their status is one at which people can read
// the page, and close it. With Action they can be somebody else instead.
var refusals = []struct {
	err     error
	refusal frame.Refusal
}{
	{enroll.ErrTicket, frame.Refusal{Code: "GH-E501", Status: http.StatusGone, Name: "sign_in_over", Title: "The sign-in is unknown or has expired", Texts: "account.refused.ticket"}},
	{enroll.ErrAccountMissing, frame.Refusal{Code: "GH-E502", Status: http.StatusForbidden, Name: "account_missing", Title: "The user has no Managed Apple Account", Texts: "account.refused.missing", Action: other}},
	{enroll.ErrAccountForeign, frame.Refusal{Code: "GH-E503", Status: http.StatusForbidden, Name: "account_foreign", Title: "The user's Managed Apple Account may not enroll here", Texts: "account.refused.foreign", Action: other}},
	{enroll.ErrOtherPerson, frame.Refusal{Code: "GH-E504", Status: http.StatusForbidden, Name: "other_person", Title: "The device is another person's", Texts: "account.refused.other_person", Action: other}},
	{enroll.ErrModeOff, frame.Refusal{Code: "GH-E505", Status: http.StatusForbidden, Name: "mode_off", Title: "Such devices are not enrolled by account here", Texts: "account.refused.off"}},
	{errOld, frame.Refusal{Code: "GH-E506", Status: http.StatusForbidden, Name: "system_too_old", Title: "The device's system is too old", Texts: "account.refused.old"}},
	{enroll.ErrAuthorizationClient, frame.Refusal{Code: "GH-E507", Status: http.StatusBadRequest, Name: "authorization_invalid", Title: "The authorization request is by another client", Texts: "account.refused.client"}},
	{enroll.ErrAttemptOver, frame.Refusal{Code: "GH-E508", Status: http.StatusConflict, Name: "attempt_over", Title: "The enrollment is past this step", Texts: "account.refused.over"}},
	{enroll.ErrUserDisabled, frame.Refusal{Code: "GH-E106", Status: http.StatusForbidden, Name: "user_disabled", Title: "The user may not enroll devices", Texts: "account.refused.may_not", Action: other}},
	{errGroup, frame.Refusal{Code: "GH-E112", Status: http.StatusForbidden, Name: "may_not_enroll", Title: "This user is in no group that may enroll devices", Texts: "account.refused.may_not", Action: other}},
	{errProvider, frame.Refusal{Code: "GH-E113", Status: http.StatusForbidden, Name: "may_not_enroll", Title: "Accounts of this provider are not for enrolling devices", Texts: "account.refused.provider", Action: other}},
	{identity.ErrMayNotEnroll, frame.Refusal{Code: "GH-E111", Status: http.StatusForbidden, Name: "may_not_enroll", Title: "This user may not enroll devices", Texts: "account.refused.may_not", Action: other}},
}

// other stands for where somebody else signs in: the address is a visit's own.
const other = "/login"

// Refusals are all refusals of these pages, for tests and documents.
func Refusals() []frame.Refusal {
	all := make([]frame.Refusal, len(refusals))
	for i := range refusals {
		all[i] = refusals[i].refusal
	}
	return all
}

// explain turns an error into what the person of a visit is told of it.
func explain(v *visit, err error) error {
	var old *enroll.MinimumOSError
	var denied *identity.DeniedError
	reason := err
	switch {
	case errors.As(err, &old):
		reason = errOld
	case errors.As(err, &denied) && denied.Denial == identity.DeniedDisabled:
		reason = enroll.ErrUserDisabled
	case errors.As(err, &denied) && denied.Denial == identity.DeniedGroup:
		reason = errGroup
	case errors.As(err, &denied) && denied.Denial == identity.DeniedProvider:
		reason = errProvider
	case errors.Is(err, storage.ErrNotFound): // the device that was to sign in again, or its user
		reason = enroll.ErrTicket
	}
	for i := range refusals {
		if !errors.Is(reason, refusals[i].err) {
			continue
		}
		r := refusals[i].refusal
		r.Err, r.Keep, r.NoUser = err, hidden(v.query), true
		r.Values = []any{"user", v.user.Login()}
		if r.Action == other {
			r.Action = v.login("", true)
		}
		if old != nil {
			r.Values = []any{"needed", old.Needed, "has", old.Has}
			switch known := old.Has != ""; {
			case known && v.mac():
				r.Texts = "account.refused.old_mac"
			case !known && v.mac():
				r.Texts = "account.refused.old_unknown_mac"
			case !known:
				r.Texts = "account.refused.old_unknown"
			}
		}
		return &r
	}
	return err
}
