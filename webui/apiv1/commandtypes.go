package apiv1

import (
	"net/http"
	"strings"

	"github.com/gatehouse-mdm/gatehouse/mdm/command"
	"github.com/gatehouse-mdm/gatehouse/webui"
)

type commandTypeJSON struct {
	RequestType    string                    `json:"request_type"`
	Title          string                    `json:"title"`
	Destructive    bool                      `json:"destructive"` // needs "confirm": true
	AccessRight    string                    `json:"access_right"`
	AccessRightBit int                       `json:"access_right_bit"`
	Params         []paramJSON               `json:"params"`
	Platforms      map[string]*availableJSON `json:"platforms"` // null: not there
}

type paramJSON struct {
	Name      string                    `json:"name"`
	Type      string                    `json:"type"`
	Required  bool                      `json:"required"`
	Default   any                       `json:"default"`
	Values    []string                  `json:"values"` // empty: any of its type
	Min       *float64                  `json:"min"`
	Max       *float64                  `json:"max"`
	Params    []paramJSON               `json:"params"`    // of a dictionary
	Items     []paramJSON               `json:"items"`     // shapes of an array's elements
	Platforms map[string]*availableJSON `json:"platforms"` // those missing are as the command's
}

type availableJSON struct {
	Introduced     string `json:"introduced"`
	Deprecated     string `json:"deprecated"`
	Removed        string `json:"removed"`
	Supervised     bool   `json:"supervised"`
	UserEnrollment string `json:"user_enrollment"`
	UserChannel    bool   `json:"user_channel"`
}

func (a *API) listCommandTypes(w http.ResponseWriter, _ *http.Request) error {
	return webui.WriteJSON(w, http.StatusOK, newPage(command.Types(), "", commandType))
}

func commandType(t command.Type) commandTypeJSON {
	return commandTypeJSON{
		RequestType: t.RequestType, Title: strings.TrimSuffix(t.Title, " Command"), Destructive: t.Destructive,
		AccessRight: t.Right, AccessRightBit: t.RightBit, Params: params(t.Keys), Platforms: platforms(t.Platforms),
	}
}

func params(keys []command.Key) []paramJSON {
	out := make([]paramJSON, len(keys))
	for i, k := range keys {
		out[i] = paramJSON{
			Name: k.Name, Type: string(k.Kind), Required: k.Required, Default: k.Default, Min: k.Min, Max: k.Max,
			Values: append([]string{}, k.Values()...), Params: []paramJSON{}, Items: params(k.Items), Platforms: platforms(k.Platforms),
		}
		if k.Kind == command.Dictionary {
			out[i].Params = params(k.Keys)
		}
	}
	return out
}

func platforms(where map[command.Platform]*command.Availability) map[string]*availableJSON {
	out := make(map[string]*availableJSON, len(where))
	for p, a := range where {
		if a == nil {
			out[string(p)] = nil
			continue
		}
		out[string(p)] = &availableJSON{
			Introduced: a.Introduced, Deprecated: a.Deprecated, Removed: a.Removed, Supervised: a.Supervised,
			UserEnrollment: a.UserEnrollment, UserChannel: a.UserChannel != nil && *a.UserChannel || a.SharedIPad.UserChannel != nil && *a.SharedIPad.UserChannel,
		}
	}
	return out
}
