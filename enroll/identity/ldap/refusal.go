package ldap

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/go-ldap/ldap/v3"

	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
)

// The steps of a sign-in, by the names of [identity.Step].
const (
	stepConnect = "connect"
	stepTLS     = "tls"
	stepBind    = "bind"
	stepSearch  = "search"
	stepSignIn  = "sign in"
	stepGroups  = "groups"
)

// failure is why a directory can't be asked. It is an [identity.ErrSource].
type failure struct {
	server server
	step   string
	err    error

	// elsewhere says that another server of the directory may do better.
	elsewhere bool
}

func (f *failure) Error() string {
	return fmt.Sprintf("%s: %s: %v", f.server.url, f.step, f.err)
}

// Unwrap makes it an [identity.ErrSource].
func (f *failure) Unwrap() []error { return []error{identity.ErrSource, f.err} }

// refusal is why somebody is not let in: for the log, not for them. It is an
// [identity.ErrBadLogin].
type refusal struct {
	step   string
	reason string
	known  bool  // there is such a person
	kind   error // that a person may be told; nil: no more than ErrBadLogin
}

func (r *refusal) Error() string { return r.reason }

// Unwrap makes it an [identity.ErrBadLogin].
func (r *refusal) Unwrap() error {
	if r.kind != nil {
		return r.kind
	}
	return identity.ErrBadLogin
}

// verdict is what a server says of a password or an account.
type verdict struct {
	reason string
	kind   error
}

// failed returns the failure of a request, of which another server need not be asked if
// this one could be talked to, and said no.
func failed(c *conn, step string, err error) error {
	var answer *ldap.Error
	answered := errors.As(err, &answer) && answer.ResultCode < ldap.ErrorNetwork
	elsewhere := !answered || answer.ResultCode == ldap.LDAPResultBusy || answer.ResultCode == ldap.LDAPResultUnavailable
	if answered && answer.ResultCode == ldap.LDAPResultReferral {
		return &failure{c.server, step, errors.New("the server refers to another one, which is not followed"), true}
	}
	return &failure{c.server, step, explain(err), elsewhere}
}

// refusedBind says what the answer to a person's own bind means. Whatever isn't clearly
// about the person or the password is a failure.
func refusedBind(c *conn, err error, controls []ldap.Control) error {
	var answer *ldap.Error
	if !errors.As(err, &answer) {
		return failed(c, stepSignIn, err)
	}
	r := &refusal{step: stepSignIn, known: true}
	switch answer.ResultCode {
	case ldap.LDAPResultInvalidCredentials:
		r.reason = "wrong password"
		if v, ok := verdictOf(answer, controls); ok {
			r.reason, r.kind = v.reason, v.kind
		}
	case ldap.LDAPResultNoSuchObject:
		r.reason = "the entry is gone"
	case ldap.LDAPResultInappropriateAuthentication:
		r.reason = "the entry has no password"
	case ldap.LDAPResultUnwillingToPerform, ldap.LDAPResultConstraintViolation, ldap.LDAPResultInsufficientAccessRights:
		// 389 Directory Server says so of accounts that are inactive or locked.
		r.reason = explain(err).Error()
	default:
		return failed(c, stepSignIn, err)
	}
	return r
}

// subCode finds what Active Directory adds to "invalid credentials": a Windows error code,
// in hex.
var subCode = regexp.MustCompile(`(?i)\bdata ([0-9a-f]{3,8})\b`)

// activeDirectory are the codes (System Error Codes, 1300 to 1999). Only 525, 52e and 775
// come to whoever has a wrong password, too.
var activeDirectory = map[string]verdict{
	"525": {"there is no such user", nil},
	"52e": {"wrong password", nil},
	"530": {"the account may not sign in at this time", nil},
	"531": {"the account may not sign in from here", nil},
	"532": {"the password has expired", identity.ErrPasswordExpired},
	"533": {"the account is disabled", identity.ErrDisabled},
	"701": {"the account has expired", identity.ErrDisabled},
	"773": {"the password must be changed first", identity.ErrPasswordExpired},
	"775": {"the account is locked", identity.ErrLocked},
}

// verdictOf returns what a server says of a password or an account beside yes and no.
func verdictOf(answer *ldap.Error, controls []ldap.Control) (v verdict, ok bool) {
	if answer != nil && answer.Err != nil {
		if m := subCode.FindStringSubmatch(answer.Err.Error()); m != nil {
			if v, ok = activeDirectory[strings.ToLower(m[1])]; ok {
				return v, true
			}
		}
	}
	for _, control := range controls {
		switch control := control.(type) {
		case *ldap.ControlBeheraPasswordPolicy:
			// draft-behera-ldap-password-policy-10, 6.2. Codes above 2 are about changing passwords.
			switch control.Error {
			case 0:
				return verdict{"the password has expired", identity.ErrPasswordExpired}, true
			case 1:
				return verdict{"the account is locked", identity.ErrLocked}, true
			case 2:
				return verdict{"the password must be changed first", identity.ErrPasswordExpired}, true
			}
		case *ldap.ControlVChuPasswordMustChange: // draft-vchu-ldap-pwd-policy-00
			return verdict{"the password has expired or must be changed first", identity.ErrPasswordExpired}, true
		}
	}
	return verdict{}, false
}

// trace collects the steps of a sign-in for who tests it. Nil collects nothing.
type trace struct {
	steps []identity.Step
	noted []error // that steps are about

	// passwordless says that no password was given: all but signing in is tried.
	passwordless bool
}

func (t *trace) mayLackPassword() bool { return t != nil && t.passwordless }

func (t *trace) ok(step, format string, args ...any) {
	if t != nil {
		t.steps = append(t.steps, identity.Step{Name: step, OK: true, Detail: fmt.Sprintf(format, args...)})
	}
}

// failed notes, once, where and why it came to an end.
func (t *trace) failed(err error) {
	if t == nil || err == nil || slices.ContainsFunc(t.noted, func(other error) bool { return errors.Is(err, other) }) {
		return
	}
	t.noted = append(t.noted, err)
	var f *failure
	var r *refusal
	step := identity.Step{Name: stepConnect, Detail: err.Error()}
	switch {
	case errors.As(err, &f):
		step.Name, step.Detail = f.step, f.server.url+": "+f.err.Error()
	case errors.As(err, &r):
		step.Name, step.Detail = r.step, r.reason
	}
	t.steps = append(t.steps, step)
}

// goOn says that the last failure is not the end: another server is asked.
func (t *trace) goOn() {
	if t != nil {
		last := &t.steps[len(t.steps)-1]
		last.OK, last.Detail = true, "failed, so the next server is asked: "+last.Detail
	}
}
