package mdmtest

import (
	"fmt"
	"net/http"
	"slices"
)

// Codes of refusals (PROTOCOL 2.7).
const (
	codeWellKnown     = "com.apple.well-known.failed"
	codeUpdate        = "com.apple.softwareupdate.required"
	codePairing       = "com.apple.watch.pairing.token.missing"
	codePSSO          = "com.apple.psso.required"
	codeUnrecognized  = "com.apple.unrecognized.device"
	keyRequestsUpdate = "MDM_CAN_REQUEST_SOFTWARE_UPDATE"
)

// Refusal is a 403 in Apple's form: the device shows Message, logs Description and
// acts on Code and Details. It wraps the [*HTTPError].
type Refusal struct {
	Code        string
	Description string
	Message     string
	Details     Dict

	HTTP *HTTPError
}

func (r *Refusal) Error() string {
	return fmt.Sprintf("server answers %d %s: %q (%s)", r.HTTP.Status, r.Code, r.Message, r.Description)
}

func (r *Refusal) Unwrap() error { return r.HTTP }

// refusal is the error of an answer that is no success: a Refusal with one of the
// codes, or an HTTPError. A body that breaks the form is an HTTPError, as for a
// device that finds nothing in it.
func (r *Reply) refusal(codes ...string) error {
	plain := &HTTPError{*r}
	if r.Status != http.StatusForbidden {
		return plain
	}
	dict := r.errorDict()
	f := fields{dict: dict}
	refusal := &Refusal{
		Code: f.required("code"), Description: f.string("description"), Message: f.string("message"),
		Details: f.dictionary("details"), HTTP: plain,
	}
	if f.err != nil || !slices.Contains(codes, refusal.Code) {
		return plain
	}
	details := fields{dict: refusal.Details}
	for _, key := range map[string][]string{
		codeUpdate: {"OSVersion"}, codePairing: {"security-token"}, codePSSO: {"ProfileURL", "AuthURL"},
	}[refusal.Code] {
		details.required(key)
	}
	if details.err != nil {
		return fmt.Errorf("%w: details: %w", plain, details.err)
	}
	return refusal
}

// errorDict is the dictionary of an error answer: JSON by its Content-Type, else a
// property list. It is nil when there is none.
func (r *Reply) errorDict() Dict {
	if mediaType(r.Header) == "application/json" {
		d, err := decodeJSON(r.Body)
		if err != nil {
			return nil
		}
		return d
	}
	v, err := UnmarshalPlist(r.Body)
	if err != nil {
		return nil
	}
	d, _ := v.(Dict)
	return d
}
