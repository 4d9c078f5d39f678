package apiv1

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/gatehouse-mdm/gatehouse/enroll/identity"
	"github.com/gatehouse-mdm/gatehouse/webui"
)

// providerRequest is what may be said of a provider, made or changed: what is nil, or not
// there, stays.
type providerRequest struct {
	Kind                *string         `json:"kind"`
	Name                *string         `json:"name"`
	Enabled             *bool           `json:"enabled"`
	Uses                *[]identity.Use `json:"uses"`
	Groups              *[]string       `json:"groups"`
	Mapping             json.RawMessage `json:"mapping"`  // a mappingChange
	Settings            json.RawMessage `json:"settings"` // an object
	Position            *int            `json:"position"`
	DisableMissing      *bool           `json:"disable_missing"`
	RequireSecondFactor *bool           `json:"require_second_factor"`
}

type mappingChange struct {
	Username             *string            `json:"username"`
	Email                *string            `json:"email"`
	FullName             *string            `json:"full_name"`
	ManagedAppleAccount  *string            `json:"managed_apple_account"`
	ManagedAppleAccounts *map[string]string `json:"managed_apple_accounts"`
}

type mappingJSON struct {
	Username             string            `json:"username"`
	Email                string            `json:"email"`
	FullName             string            `json:"full_name"`
	ManagedAppleAccount  string            `json:"managed_apple_account"`
	ManagedAppleAccounts map[string]string `json:"managed_apple_accounts"`
}

type providerJSON struct {
	ID                  string                     `json:"id"`
	Name                string                     `json:"name"`
	Kind                string                     `json:"kind"`
	Enabled             bool                       `json:"enabled"`
	Uses                []identity.Use             `json:"uses"`
	Groups              []string                   `json:"groups"`
	Mapping             *mappingJSON               `json:"mapping"`  // null for the local provider
	Settings            map[string]json.RawMessage `json:"settings"` // has_NAME for a secret
	Position            int                        `json:"position"`
	DisableMissing      bool                       `json:"disable_missing"`
	RequireSecondFactor bool                       `json:"require_second_factor"`
	SignIn              *identity.How              `json:"sign_in"`      // null: the settings can't be used
	CallbackURL         *string                    `json:"callback_url"` // to be registered with the provider
	LastCheck           *directoryCheckJSON        `json:"last_check"`
	CreatedAt           *time.Time                 `json:"created_at"`
	UpdatedAt           *time.Time                 `json:"updated_at"`
}

type directoryCheckJSON struct {
	At       time.Time `json:"at"`
	People   int       `json:"people"`
	Missing  int       `json:"missing"`
	Disabled int       `json:"disabled"`
	Stopped  bool      `json:"stopped"`
	Error    string    `json:"error"`
}

// hasSecret is what a secret setting is called in answers.
func hasSecret(name string) string { return "has_" + name }

func (a *API) provider(p identity.Provider, checks map[string]identity.Check) (providerJSON, error) {
	out := providerJSON{
		ID: p.ID, Name: p.Name, Kind: p.Kind, Enabled: p.Enabled, Uses: orEmpty(p.Uses), Groups: orEmpty(p.Groups),
		Settings: map[string]json.RawMessage{}, Position: p.Position,
		DisableMissing: p.DisableMissing, RequireSecondFactor: p.RequireSecondFactor,
		CreatedAt: timestamp(p.CreatedAt), UpdatedAt: timestamp(p.UpdatedAt),
	}
	if how := a.identity.How(p); how != "" {
		out.SignIn = &how
		if how == identity.HowRedirect {
			back := a.callbackURL(p.ID)
			out.CallbackURL = &back
		}
	}
	if p.ID != identity.LocalProvider {
		m := p.Mapping
		out.Mapping = &mappingJSON{m.Username, m.Email, m.FullName, m.ManagedAppleAccount, m.ManagedAppleAccounts}
		if m.ManagedAppleAccounts == nil {
			out.Mapping.ManagedAppleAccounts = map[string]string{}
		}
		if err := json.Unmarshal(p.Settings, &out.Settings); err != nil {
			return providerJSON{}, fmt.Errorf("settings of identity provider %s: %w", p.ID, err)
		}
	}
	for _, name := range a.identity.SecretSettings(p.Kind) {
		out.Settings[hasSecret(name)] = fmt.Append(nil, p.HasSecret(name))
	}
	if c, ok := checks[p.ID]; ok {
		out.LastCheck = &directoryCheckJSON{c.At.UTC(), c.People, c.Missing, c.Disabled, c.Stopped, c.Error}
	}
	return out, nil
}

// callbackURL is where browsers come back from a provider.
func (a *API) callbackURL(id string) string {
	return a.serverURL.JoinPath(identity.CallbackPath(id)).String()
}

// change reads what a request says of a provider of some kind.
func (in providerRequest) change(secrets []string) (identity.ProviderChange, error) {
	c := identity.ProviderChange{
		Name: in.Name, Enabled: in.Enabled, Uses: in.Uses, Groups: in.Groups, Position: in.Position,
		DisableMissing: in.DisableMissing, RequireSecondFactor: in.RequireSecondFactor,
	}
	var bad fieldErrors
	if given(in.Mapping) {
		var m mappingChange
		bad.object("mapping", in.Mapping, &m)
		c.Mapping = identity.MappingChange(m)
	}
	if given(in.Settings) {
		var err error
		if c.Settings, err = withoutHas(in.Settings, secrets); err != nil {
			bad.add("settings", "must be an object")
		}
	}
	if len(bad) > 0 {
		return identity.ProviderChange{}, invalids(bad)
	}
	return c, nil
}

// withoutHas takes from settings what only answers say, so that an answer can be changed
// and sent back.
func withoutHas(settings json.RawMessage, secrets []string) (json.RawMessage, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(settings, &fields); err != nil {
		return nil, err
	}
	for _, name := range secrets {
		delete(fields, hasSecret(name))
	}
	return json.Marshal(fields)
}

func (a *API) createProvider(w http.ResponseWriter, r *http.Request) error {
	var in providerRequest
	if _, err := readJSON(r, &in); err != nil {
		return err
	}
	kind := ""
	set(&kind, in.Kind)
	c, err := in.change(a.identity.SecretSettings(kind))
	if err != nil {
		return err
	}
	p, err := a.identity.CreateProvider(r.Context(), principal(r), kind, c)
	if err != nil {
		return err
	}
	w.Header().Set("Location", "/api/v1/identity-providers/"+p.ID)
	return a.writeProvider(w, r, http.StatusCreated, p)
}

func (a *API) writeProvider(w http.ResponseWriter, r *http.Request, status int, p identity.Provider) error {
	checks, err := a.identity.LastChecks(r.Context())
	if err != nil {
		return err
	}
	out, err := a.provider(p, checks)
	if err != nil {
		return err
	}
	return webui.WriteJSON(w, status, out)
}

// listProviders answers with all of them: there are few.
func (a *API) listProviders(w http.ResponseWriter, r *http.Request) error {
	all, err := a.identity.Providers(r.Context())
	if err != nil {
		return err
	}
	checks, err := a.identity.LastChecks(r.Context())
	if err != nil {
		return err
	}
	out := page[providerJSON]{Items: make([]providerJSON, len(all))}
	for i, p := range all {
		if out.Items[i], err = a.provider(p, checks); err != nil {
			return err
		}
	}
	return webui.WriteJSON(w, http.StatusOK, out)
}

func (a *API) getProvider(w http.ResponseWriter, r *http.Request) error {
	p, err := a.providerOf(r)
	if err != nil {
		return err
	}
	return a.writeProvider(w, r, http.StatusOK, p)
}

// providerOf returns the provider that the path names.
func (a *API) providerOf(r *http.Request) (identity.Provider, error) {
	id, err := pathID(r, "id")
	if err != nil {
		return identity.Provider{}, err
	}
	return a.identity.Provider(r.Context(), id)
}

func (a *API) updateProvider(w http.ResponseWriter, r *http.Request) error {
	p, err := a.providerOf(r)
	if err != nil {
		return err
	}
	var in providerRequest
	if _, err := readJSON(r, &in); err != nil {
		return err
	}
	if in.Kind != nil && *in.Kind != p.Kind {
		return invalid("kind", "can't be changed: make another provider")
	}
	c, err := in.change(a.identity.SecretSettings(p.Kind))
	if err != nil {
		return err
	}
	if p, err = a.identity.UpdateProvider(r.Context(), principal(r), p.ID, c); err != nil {
		return err
	}
	return a.writeProvider(w, r, http.StatusOK, p)
}

func (a *API) deleteProvider(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r, "id")
	if err != nil {
		return err
	}
	force, err := textOf(r.URL.Query(), "force")
	if err != nil {
		return err
	}
	if force != "" && force != "true" && force != "false" {
		return invalid("force", "must be true or false")
	}
	if err := a.identity.DeleteProvider(r.Context(), principal(r), id, force == "true"); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

type trialRequest struct {
	Login    string `json:"login"`
	Password string `json:"password"`
}

// trialJSON is what came of a sign-in that was tried, or the address where to try it.
type trialJSON struct {
	OK    bool       `json:"ok"`
	URL   *string    `json:"url"` // to be opened in a browser; then nothing else is there yet
	Steps []stepJSON `json:"steps"`

	Person    *personJSON                      `json:"person"` // null: nobody was found
	Mapped    *mappedJSON                      `json:"mapped"`
	UserID    string                           `json:"user_id"` // empty: they would be a new user
	MayEnroll []identity.Use                   `json:"may_enroll"`
	Denied    map[identity.Use]identity.Denial `json:"denied"`
}

type stepJSON struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail"`
}

type personJSON struct {
	Subject       string              `json:"subject"`
	Attributes    map[string][]string `json:"attributes"`
	Groups        []string            `json:"groups"`
	Email         string              `json:"email"`
	EmailVerified bool                `json:"email_verified"`
}

type mappedJSON struct {
	Username            string   `json:"username"`
	Email               string   `json:"email"`
	FullName            string   `json:"full_name"`
	ManagedAppleAccount string   `json:"managed_apple_account"`
	Warnings            []string `json:"warnings"`
}

func trial(t identity.Trial) trialJSON {
	out := trialJSON{OK: t.OK, Steps: []stepJSON{}, UserID: t.User.ID, MayEnroll: orEmpty(t.MayEnroll), Denied: t.Denied}
	if out.Denied == nil {
		out.Denied = map[identity.Use]identity.Denial{}
	}
	for _, step := range t.Steps {
		out.Steps = append(out.Steps, stepJSON(step))
	}
	if p := t.Person; p.Subject != "" {
		attributes := map[string][]string{}
		for name, values := range p.Attributes {
			attributes[name] = orEmpty(values)
		}
		out.Person = &personJSON{p.Subject, attributes, orEmpty(p.Groups), p.Email, p.Email != "" && !p.Unverified}
		m := t.Mapped
		out.Mapped = &mappedJSON{m.Username, m.Email, m.FullName, m.ManagedAppleAccount, orEmpty(m.Warnings)}
	}
	return out
}

func (a *API) testProvider(w http.ResponseWriter, r *http.Request) error {
	p, err := a.providerOf(r)
	if err != nil {
		return err
	}
	var in trialRequest
	if _, err := readJSON(r, &in); err != nil {
		return err
	}
	if a.identity.How(p) == identity.HowRedirect {
		for field, value := range map[string]string{"login": in.Login, "password": in.Password} {
			if value != "" {
				return invalid(field, "is not for a provider that people are sent to: open the url of the answer")
			}
		}
		to, err := a.identity.BeginTrial(r.Context(), principal(r), p.ID, a.callbackURL(p.ID))
		if err == nil {
			out := trial(identity.Trial{})
			out.URL = &to
			return webui.WriteJSON(w, http.StatusOK, out)
		}
		return a.failedTrial(w, err)
	}
	t, err := a.identity.TrySignIn(r.Context(), principal(r), p.ID, in.Login, in.Password)
	if err != nil {
		return a.failedTrial(w, err)
	}
	return webui.WriteJSON(w, http.StatusOK, trial(t))
}

// failedTrial answers a trial whose provider could not even be asked: that is what it was
// to find out.
func (a *API) failedTrial(w http.ResponseWriter, err error) error {
	if !errors.Is(err, identity.ErrSource) {
		return err
	}
	step := identity.Step{Name: "connect", Detail: after(err.Error(), identity.ErrSource.Error()+": ")}
	return webui.WriteJSON(w, http.StatusOK, trial(identity.Trial{Steps: []identity.Step{step}}))
}
