package apiv1

import (
	"net/http"

	"github.com/gatehouse-mdm/gatehouse/depot/template"
	"github.com/gatehouse-mdm/gatehouse/mdm/profile"
	"github.com/gatehouse-mdm/gatehouse/storage"
	"github.com/gatehouse-mdm/gatehouse/webui"
)

// payloadUse is one use of a type of payload: most have one, com.apple.MCX has several.
type payloadUse struct {
	PayloadType string              `json:"payload_type"`
	Title       string              `json:"title"`
	Summary     string              `json:"summary"`
	Multiple    bool                `json:"multiple"` // a device may have more than one
	Platforms   []platformFactsJSON `json:"platforms"`
}

type platformFactsJSON struct {
	Platform       string `json:"platform"`
	Introduced     string `json:"introduced"`
	Deprecated     string `json:"deprecated"`
	Removed        string `json:"removed"`
	Supervised     bool   `json:"supervised"`
	UserApproved   bool   `json:"user_approved"`
	RequiresADE    bool   `json:"requires_ade"`
	ByMDMOnly      bool   `json:"by_mdm_only"`
	UserEnrollment string `json:"user_enrollment"`
	DeviceChannel  bool   `json:"device_channel"`
	UserChannel    bool   `json:"user_channel"`
	SharedIPad     string `json:"shared_ipad"`
}

func platformFacts(facts []profile.PlatformFacts) []platformFactsJSON {
	out := make([]platformFactsJSON, len(facts))
	for i, f := range facts {
		out[i] = platformFactsJSON{
			string(f.Platform), f.Introduced, f.Deprecated, f.Removed, f.Supervised, f.UserApproved, f.RequiresADE, f.ByMDMOnly,
			f.UserEnrollment, f.DeviceChannel, f.UserChannel, f.SharedIPad,
		}
	}
	return out
}

func payloadUseOf(d profile.PayloadDescription) payloadUse {
	return payloadUse{d.Type, d.Title, d.Summary, d.Multiple, platformFacts(d.Platforms)}
}

// payloadKey is a setting of a payload, or the form of an array's elements.
type payloadKey struct {
	Name      string              `json:"name"`
	Title     string              `json:"title"`
	Type      string              `json:"type"`
	AnyName   bool                `json:"any_name"`
	Required  bool                `json:"required"`
	Default   any                 `json:"default"`
	Values    []any               `json:"values"` // empty: any of its type
	Min       *float64            `json:"min"`
	Max       *float64            `json:"max"`
	Format    string              `json:"format"`
	Secret    bool                `json:"secret"`
	Keys      []payloadKey        `json:"keys"`
	Items     []payloadKey        `json:"items"`
	Recursive bool                `json:"recursive"`
	Platforms []platformFactsJSON `json:"platforms"` // empty: as what it stands in
}

func payloadKeys(keys []profile.KeyDescription) []payloadKey {
	out := make([]payloadKey, len(keys))
	for i, k := range keys {
		out[i] = payloadKey{
			k.Name, k.Title, string(k.Kind), k.AnyName, k.Required, k.Default, append([]any{}, k.Allowed...), k.Min, k.Max, k.Format, k.Secret,
			payloadKeys(k.Keys), payloadKeys(k.Items), k.Recursive, platformFacts(k.Platforms),
		}
	}
	return out
}

// listPayloadTypes leaves the keys out: all of them together are large.
func (a *API) listPayloadTypes(w http.ResponseWriter, _ *http.Request) error {
	return webui.WriteJSON(w, http.StatusOK, newPage(profile.DescribePayloads(), "", payloadUseOf))
}

func (a *API) getPayloadType(w http.ResponseWriter, r *http.Request) error {
	name := r.PathValue("type")
	type use struct {
		payloadUse
		Keys []payloadKey `json:"keys"`
	}
	uses := []use{}
	for _, d := range profile.DescribePayload(name) {
		uses = append(uses, use{payloadUseOf(d), payloadKeys(d.Keys)})
	}
	if len(uses) == 0 {
		return storage.ErrNotFound
	}
	return webui.WriteJSON(w, http.StatusOK, struct {
		PayloadType string `json:"payload_type"`
		Uses        []use  `json:"uses"`
	}{name, uses})
}

type profileVariableJSON struct {
	Name    string   `json:"name"` // without the dollar sign
	Aliases []string `json:"aliases"`
	Meaning string   `json:"meaning"`
}

func (a *API) listProfileVariables(w http.ResponseWriter, _ *http.Request) error {
	return webui.WriteJSON(w, http.StatusOK, newPage(template.Variables(), "", func(v template.Variable) profileVariableJSON {
		return profileVariableJSON{v.Name, orEmpty(v.Aliases), v.Means}
	}))
}
