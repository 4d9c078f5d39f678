package apiv1

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/gatehouse-mdm/gatehouse/depot/template"
	"github.com/gatehouse-mdm/gatehouse/enroll"
	"github.com/gatehouse-mdm/gatehouse/mdm"
	"github.com/gatehouse-mdm/gatehouse/webui"
)

// accountDrivenRequest is all that is decided about account-driven enrollment: what it
// leaves out has its default. Fields that are only in answers may be there, so that what was
// read can be changed and sent back.
type accountDrivenRequest struct {
	Domains       []json.RawMessage `json:"domains"` // each an accountDomainRequest
	Method        *string           `json:"method"`
	TokenIdle     *string           `json:"token_idle"` // as the next two a length of time
	TokenLife     *string           `json:"token_life"`
	AccessLife    *string           `json:"access_life"`
	TokenExpired  *string           `json:"token_expired"`
	TokenRevoked  *string           `json:"token_revoked"`
	UserDisabled  *string           `json:"user_disabled"`
	RequiredAppID *int64            `json:"required_app_id"`
	WatchPairing  *bool             `json:"watch_pairing"`
	MinimumOS     json.RawMessage   `json:"minimum_os"` // versions by family

	BaseURLs     json.RawMessage `json:"base_urls"`
	DiscoveryURL json.RawMessage `json:"discovery_url"`
}

type accountDomainRequest struct {
	Domain  string          `json:"domain"`
	Policy  json.RawMessage `json:"policy"` // modes by family
	Message string          `json:"message"`
}

type accountDrivenJSON struct {
	Domains       []accountDomainJSON           `json:"domains"`
	Method        string                        `json:"method"`
	TokenIdle     string                        `json:"token_idle"` // "2160h"; "0s" is never, as in the next
	TokenLife     string                        `json:"token_life"`
	AccessLife    string                        `json:"access_life"`
	TokenExpired  string                        `json:"token_expired"`
	TokenRevoked  string                        `json:"token_revoked"`
	UserDisabled  string                        `json:"user_disabled"`
	RequiredAppID int64                         `json:"required_app_id"` // 0: none
	WatchPairing  bool                          `json:"watch_pairing"`
	MinimumOS     map[enroll.ModelFamily]string `json:"minimum_os"`

	// What operators need elsewhere, such as at Apple.
	BaseURLs     map[enroll.AccountMode]string `json:"base_urls"`
	DiscoveryURL string                        `json:"discovery_url"`
}

type accountDomainJSON struct {
	Domain  string                                    `json:"domain"`
	Policy  map[enroll.ModelFamily]enroll.AccountMode `json:"policy"`
	Message string                                    `json:"message"`
}

func (a *API) accountDriven(c enroll.AccountDriven) accountDrivenJSON {
	out := accountDrivenJSON{
		Domains: make([]accountDomainJSON, len(c.Domains)), Method: string(c.Method),
		TokenIdle: span(c.TokenIdle), TokenLife: span(c.TokenLife), AccessLife: span(c.AccessLife),
		TokenExpired: string(c.TokenExpired), TokenRevoked: string(c.TokenRevoked), UserDisabled: string(c.UserDisabled),
		RequiredAppID: c.RequiredAppID, WatchPairing: c.WatchPairing, MinimumOS: c.MinimumOS,
		BaseURLs:     map[enroll.AccountMode]string{},
		DiscoveryURL: a.serverURL.JoinPath(enroll.PathDiscovery).String(),
	}
	for i, d := range c.Domains {
		if d.Policy == nil {
			d.Policy = map[enroll.ModelFamily]enroll.AccountMode{}
		}
		out.Domains[i] = accountDomainJSON{Domain: d.Domain, Policy: d.Policy, Message: d.Message}
	}
	if out.MinimumOS == nil {
		out.MinimumOS = map[enroll.ModelFamily]string{}
	}
	for _, mode := range []enroll.AccountMode{enroll.ModeBYOD, enroll.ModeADDE} {
		out.BaseURLs[mode] = a.serverURL.JoinPath(mode.Path()).String()
	}
	return out
}

// span writes a length of time as people do who think in hours.
func span(d time.Duration) string {
	if d > 0 && d%time.Hour == 0 {
		return fmt.Sprintf("%dh", d/time.Hour)
	}
	return d.String()
}

func (a *API) getAccountDriven(w http.ResponseWriter, r *http.Request) error {
	c, err := a.enroll.AccountDriven(r.Context())
	if err != nil {
		return err
	}
	return webui.WriteJSON(w, http.StatusOK, a.accountDriven(c))
}

func (a *API) replaceAccountDriven(w http.ResponseWriter, r *http.Request) error {
	var in accountDrivenRequest
	if _, err := readJSON(r, &in); err != nil {
		return err
	}
	whole, err := in.read()
	if err != nil {
		return err
	}
	now, err := a.enroll.UpdateAccountDriven(r.Context(), func(c *enroll.AccountDriven) error {
		*c = whole
		return nil
	})
	if err != nil {
		return err
	}
	return webui.WriteJSON(w, http.StatusOK, a.accountDriven(now))
}

// read reads the objects in the request, or returns a problem that names all that is wrong
// with their form.
func (in accountDrivenRequest) read() (enroll.AccountDriven, error) {
	var bad fieldErrors
	c := enroll.DefaultAccountDriven()
	for i, raw := range in.Domains {
		field := fmt.Sprintf("domains[%d]", i)
		var d accountDomainRequest
		if bad.object(field, raw, &d) {
			policy := mapOf[enroll.ModelFamily, enroll.AccountMode](&bad, field+".policy", d.Policy)
			c.Domains = append(c.Domains, enroll.AccountDomain{Domain: d.Domain, Policy: policy, Message: d.Message})
		}
	}
	set(&c.Method, (*enroll.SignInMethod)(in.Method))
	for _, life := range []struct {
		field string
		given *string
		to    *time.Duration
	}{
		{"token_idle", in.TokenIdle, &c.TokenIdle},
		{"token_life", in.TokenLife, &c.TokenLife},
		{"access_life", in.AccessLife, &c.AccessLife},
	} {
		if life.given == nil {
			continue
		}
		var err error
		if *life.to, err = template.Span(*life.given).Duration(); err != nil {
			bad.add(life.field, `must be a length of time such as "2160h" or "90d"`)
		}
	}
	set(&c.TokenExpired, (*enroll.AfterToken)(in.TokenExpired))
	set(&c.TokenRevoked, (*enroll.AfterToken)(in.TokenRevoked))
	set(&c.UserDisabled, (*enroll.AfterToken)(in.UserDisabled))
	set(&c.RequiredAppID, in.RequiredAppID)
	set(&c.WatchPairing, in.WatchPairing)
	c.MinimumOS = mapOf[enroll.ModelFamily, string](&bad, "minimum_os", in.MinimumOS)
	if len(bad) > 0 {
		return c, invalids(bad)
	}
	return c, nil
}

// mapOf reads an object whose values are all strings; nil if there is none.
func mapOf[K, V ~string](e *fieldErrors, field string, raw json.RawMessage) map[K]V {
	if !given(raw) {
		return nil
	}
	var values map[string]json.RawMessage
	if json.Unmarshal(raw, &values) != nil {
		e.add(field, "must be an object")
		return nil
	}
	m := make(map[K]V, len(values))
	for key, value := range values {
		var text *string
		if json.Unmarshal(value, &text) != nil || text == nil {
			e.add(clip(field+"."+cmp.Or(key, `""`)), "must be a string")
			continue
		}
		m[K(key)] = V(*text)
	}
	return m
}

// requireSignIn answers 202: the device learns of it when it next calls.
func (a *API) requireSignIn(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r, "id")
	if err != nil {
		return err
	}
	if _, err := a.enroll.RequireSignIn(r.Context(), mdm.DeviceID(id)); err != nil {
		return err
	}
	return a.writeDevice(w, r, http.StatusAccepted, mdm.DeviceID(id))
}
